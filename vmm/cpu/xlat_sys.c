/*
 * xlat_sys.c - system instructions that are a few moves, once it is known that nothing
 * forbids them.
 */
#include "cpu/xlat_gen.h"
#include "cpu/xlat_tally.h"

/* Host flags are free: the interpreter takes over unless the word at @off is zero. */
static void emit_unless(struct gen *g, int32_t off)
{
	emit_gs(g->e, false, 0x83, 7, off); /* cmp dword, 0 */
	emit_u8(g->e, 0);
	xgen_cold_if(g, COLD_INTERP, CC_NZ);
}

bool xsys_pushf(struct gen *g, struct insn *n)
{
	struct emit *e = g->e;
	struct place at;

	xgen_spill_flags(g, FLAGS_ALL);
	xlat_emit_rflags(e, S1, S2);
	emit_gs_store(e, S1, CPU_OFF(s.rip));
	at = xgen_stack(g, n);
	emit_gs_load(e, S1, CPU_OFF(s.rip));
	xgen_at(e, true, 0x89, S1, &at);
	xgen_move_stack(g, -8);
	return true;
}

bool xsys_interrupt_flag(struct gen *g, struct insn *n, bool on)
{
	struct emit *e = g->e;

	xgen_spill_flags(g, n->live_in);
	emit_unless(g, CPU_OFF(x.user));
	if (on)
		emit_unless(g, CPU_OFF(x.waiting));
	emit_gs(e, false, 0x81, on ? ALU_OR : ALU_AND, CPU_OFF(s.rflags));
	emit_u32(e, on ? RFLAGS_IF : (uint32_t)~RFLAGS_IF);
	return true;
}

bool xsys_swapgs(struct gen *g, struct insn *n)
{
	struct emit *e = g->e;

	xgen_spill_flags(g, n->live_in);
	emit_unless(g, CPU_OFF(x.user));
	emit_gs_load(e, S1, CPU_OFF(s.seg[SEG_GS].base));
	emit_gs_load(e, S2, CPU_OFF(s.kernel_gs_base));
	emit_gs_store(e, S1, CPU_OFF(s.kernel_gs_base));
	emit_gs_store(e, S2, CPU_OFF(s.seg[SEG_GS].base));
	return true;
}

bool xsys_sreg(struct gen *g, struct insn *n)
{
	unsigned gpr = xlat_gpr(n->operand[0].reg.value);
	struct emit *e = g->e;

	emit_u8(e, 0x65); /* movzx r10d, word gs:[selector] */
	emit_u8(e, 0x44);
	emit_u8(e, 0x0f);
	emit_u8(e, 0xb7);
	emit_u8(e, 0x14);
	emit_u8(e, 0x25);
	emit_u32(e,
		 (uint32_t)(CPU_OFF(s.seg) +
			    (int32_t)sizeof(struct segment) * decode_seg(n->operand[1].reg.value) +
			    (int32_t)offsetof(struct segment, selector)));
	if (n->z.operand_width == 16) { /* the rest of the register stays */
		unsigned to = xgen_get_reg(g, gpr, S2);

		emit_u8(e, 0x66);
		emit_rr(e, false, 0x89, S1, to);
		if (xhome(gpr) == H_NONE)
			xgen_set_reg(g, gpr, to);
		return true;
	}
	xgen_set_reg(g, gpr, S1);
	return true;
}

bool xsys_direction_flag(struct gen *g, struct insn *n)
{
	bool on = n->z.mnemonic == ZYDIS_MNEMONIC_STD;

	xgen_spill_flags(g, n->live_in);
	emit_gs(g->e, false, 0x81, on ? ALU_OR : ALU_AND, CPU_OFF(s.rflags));
	emit_u32(g->e, on ? RFLAGS_DF : (uint32_t)~RFLAGS_DF);
	return true;
}

/* MOV register, CR2 or CR3 */
bool xsys_read_cr(struct gen *g, struct insn *n)
{
	bool cr2 = n->operand[1].reg.value == ZYDIS_REGISTER_CR2;

	xgen_spill_flags(g, n->live_in);
	emit_unless(g, CPU_OFF(x.user));
	emit_gs_load(g->e, S1, cr2 ? CPU_OFF(s.cr2) : CPU_OFF(s.cr3));
	xgen_set_reg(g, xlat_gpr(n->operand[0].reg.value), S1);
	return true;
}

/* The interpreter takes over unless CR4 has @bit. */
static void emit_needs_cr4(struct gen *g, uint32_t bit)
{
	emit_gs(g->e, false, 0xf7, 0, CPU_OFF(s.cr4)); /* test */
	emit_u32(g->e, bit);
	xgen_cold_if(g, COLD_INTERP, CC_Z);
}

/* RDFSBASE and its like, 64 bits wide. */
bool xsys_segment_base(struct gen *g, struct insn *n)
{
	unsigned gpr = xlat_gpr(n->operand[0].reg.value), from;
	bool gs = n->z.mnemonic == ZYDIS_MNEMONIC_RDGSBASE ||
		  n->z.mnemonic == ZYDIS_MNEMONIC_WRGSBASE;
	int32_t base = gs ? CPU_OFF(s.seg[SEG_GS].base) : CPU_OFF(s.seg[SEG_FS].base);
	struct emit *e = g->e;

	xgen_spill_flags(g, n->live_in);
	emit_needs_cr4(g, (uint32_t)CR4_FSGSBASE);
	if (n->z.mnemonic == ZYDIS_MNEMONIC_RDFSBASE || n->z.mnemonic == ZYDIS_MNEMONIC_RDGSBASE) {
		emit_gs_load(e, S1, base);
		xgen_set_reg(g, gpr, S1);
		return true;
	}
	from = xgen_get_reg(g, gpr, S1);
	emit_mov(e, S2, from); /* canonical: bits 63 to 47 are alike */
	emit_rex(e, true, 0, 0, S2);
	emit_u8(e, 0xc1); /* sar r11, 47 */
	emit_u8(e, 0xf8 | (S2 & 7));
	emit_u8(e, 47);
	emit_rex(e, true, 0, 0, S2);
	emit_u8(e, 0xff); /* inc r11 */
	emit_u8(e, 0xc0 | (S2 & 7));
	emit_alu_imm(e, true, ALU_CMP, S2, 1);
	xgen_cold_if(g, COLD_INTERP, CC_A);
	emit_gs_store(e, from, base);
	return true;
}

bool xsys_rdtsc(struct gen *g, struct insn *n)
{
	struct emit *e = g->e;

	xgen_spill_flags(g, n->live_in);
	emit_unless(g, CPU_OFF(x.tsc_trap));
	emit_u8(e, 0x0f); /* rdtsc */
	emit_u8(e, 0x31);
	emit_shift(e, true, SHIFT_L, H_RDX, 32);
	emit_rr(e, true, 0x09, H_RDX, H_RAX); /* or rax, rdx */
	emit_gs(e, true, 0x03, H_RAX, CPU_OFF(x.tsc_add));
	emit_mov(e, H_RDX, H_RAX);
	emit_shift(e, true, SHIFT_R, H_RDX, 32);
	emit_rr(e, false, 0x89, H_RAX, H_RAX); /* mov eax, eax */
	if (n->z.mnemonic == ZYDIS_MNEMONIC_RDTSCP)
		emit_gs(e, false, 0x8b, H_RCX, CPU_OFF(s.tsc_aux));
	return true;
}

/* Which piece of the trampolines it is for; that gets the instruction's place in r10, or r11. */
static uint64_t piece_for(const struct gen *g, const struct insn *n)
{
	const struct xtramp *t = &g->x->tramp;

	if (g->x->counts)
		return t->system;
	if (n->z.mnemonic == ZYDIS_MNEMONIC_SYSCALL)
		return t->syscall;
	if (n->z.mnemonic == ZYDIS_MNEMONIC_SYSRET && n->z.raw.rex.W)
		return t->sysret;
	return t->system;
}

/* The instruction decoded as the interpreter wants it, behind the code that leads to it. */
bool xsys_call(struct gen *g, struct insn *n)
{
	uint64_t piece = piece_for(g, n);
	struct emit *e = g->e;
	struct op o;
	struct decoding d = { .cpu = g->c, .op = &o };
	uint8_t *at;

	if (decode_insn(&d, &g->x->decoder, n->bytes, n->z.length, n->off) != DECODE_OK)
		return false;
	xgen_spill_flags(g, FLAGS_ALL);
	emit_gs_imm32(e, CPU_OFF(x.what), xwhat(n->off, xgen_retired(g)));
	emit_u8(e, 0x4c); /* lea r10 or r11, [rip + instruction] */
	emit_u8(e, 0x8d);
	emit_u8(e, piece == g->x->tramp.system ? 0x15 : 0x1d);
	at = e->p;
	emit_u32(e, 0);
	if (piece == g->x->tramp.syscall)
		xgen_rip(g, S1, n->off + n->z.length);
	emit_jmp(e, piece);
	xtally_end(g->x);
	while ((uintptr_t)e->p & 7)
		emit_u8(e, 0xcc);
	emit_patch(e, at, emit_here(e));
	emit_bytes(e, (const uint8_t *)&o, sizeof(o));
	return true;
}
