/*
 * xlat_tramp.c - the fixed pieces of translated code: into it, out of it, and to
 * the page walk and back. Made once for each code cache, at its begin; what is a vCPU's
 * is reached by GS.
 */
#include "cpu/xlat_int.h"

#include "cpu/mmu.h"
#include "cpu/xstate.h"

/* Set where C functions that are called are compiled without vector registers: see the Makefile. */
#ifndef XLAT_QUIET
#define XLAT_QUIET 0
#endif

/* Host registers that hold guest registers; r10, r11 and the stack pointer do not. */
static const uint8_t home_of[][2] = {
	{ RAX, H_RAX }, { RCX, H_RCX }, { RDX, H_RDX }, { RBX, H_RBX }, { RSP, H_R15 },
	{ RBP, H_RBP }, { RSI, H_RSI }, { RDI, H_RDI }, { R8, H_R8 },   { R9, H_R9 },
	{ R12, H_R12 }, { R13, H_R13 }, { R14, H_R14 },
};

/* What C expects to find again. */
static const uint8_t callee_saved[] = { H_RBX, H_RBP, H_R12, H_R13, H_R14, H_R15 };

static void load_guest(struct emit *e)
{
	for (unsigned i = 0; i < ARRAY_SIZE(home_of); i++)
		emit_gs_load(e, home_of[i][1], GPR_OFF(home_of[i][0]));
}

static void save_guest(struct emit *e)
{
	for (unsigned i = 0; i < ARRAY_SIZE(home_of); i++)
		emit_gs_store(e, home_of[i][1], GPR_OFF(home_of[i][0]));
}

/* 0F AE with the guest's image: which instruction it is, is in the reg field of ModRM. */
enum { FXSAVE64 = 0, FXRSTOR64 = 1, XSAVE64 = 4, XRSTOR64 = 5 };

static void state_insn(struct emit *e, unsigned reg)
{
	emit_u8(e, 0x65);
	emit_u8(e, 0x48);
	emit_u8(e, 0x0f);
	emit_u8(e, 0xae);
	emit_u8(e, (uint8_t)(0x04 | reg << 3));
	emit_u8(e, 0x25);
	emit_u32(e, (uint32_t)CPU_OFF(s.xsave));
}

static void vzeroupper(struct emit *e)
{
	emit_u8(e, 0xc5);
	emit_u8(e, 0xf8);
	emit_u8(e, 0x77);
}

/*
 * The guest's vector registers to its image, which is complete then: XSAVE, unlike
 * XSAVEOPT, writes what is in its initial state, too. Clobbers RAX and RDX.
 */
static void copy_vec(struct emit *e, const struct xlat *x)
{
	if (!x->xsave_mask) {
		state_insn(e, FXSAVE64);
		return;
	}
	emit_mov_imm(e, H_RAX, x->xsave_mask);
	emit_mov_imm(e, H_RDX, 0);
	state_insn(e, XSAVE64);
}

/* And back: what XSTATE_BV does not name is cleared. Clobbers RAX and RDX, no flags. */
static void load_vec(struct emit *e, const struct xlat *x)
{
	if (!x->xsave_mask) {
		if (__builtin_cpu_supports("avx")) /* C may have left upper halves */
			vzeroupper(e);
		state_insn(e, FXRSTOR64);
		return;
	}
	emit_mov_imm(e, H_RAX, x->xsave_mask);
	emit_mov_imm(e, H_RDX, 0);
	state_insn(e, XRSTOR64);
}

/* cmp dword gs:[vec_live], 0; je over what comes next. Returns what to patch. */
static uint8_t *if_vec_live(struct emit *e)
{
	emit_gs(e, false, 0x83, 7, CPU_OFF(x.vec_live));
	emit_u8(e, 0);
	return emit_jcc(e, CC_Z, 0);
}

static void make_enter(struct emit *e, struct xtramp *t)
{
	t->enter = emit_here(e);
	for (unsigned i = 0; i < ARRAY_SIZE(callee_saved); i++)
		emit_push(e, callee_saved[i]);
	emit_lea(e, true, H_RSP, H_RSP, H_NONE, 0, -8);
	emit_gs_store(e, H_RSP, CPU_OFF(x.host_rsp));
	load_guest(e);
	emit_gs_load(e, H_RSP, CPU_OFF(x.return_sp));
	emit_gs(e, false, 0xff, 4, CPU_OFF(x.code)); /* jmp */
}

/*
 * The guest's vector registers to their image, where park is called; the host's C code
 * finds its own MXCSR and an empty x87 stack. C calls all three: they leave alone what
 * functions leave alone.
 */
static void make_park(struct emit *e, const struct xlat *x, struct xtramp *t)
{
	uint64_t mxcsr = emit_here(e);

	emit_u32(e, MXCSR_RESET);
	t->copy = emit_here(e);
	copy_vec(e, x);
	emit_u8(e, 0xc3);
	t->park = emit_here(e);
	copy_vec(e, x);
	t->drop = emit_here(e);
	if (x->xsave_mask)
		vzeroupper(e);
	emit_gs_imm32(e, CPU_OFF(x.vec_live), 0);
	emit_mov_imm(e, H_R10, t->vec_load);
	emit_gs_store(e, H_R10, CPU_OFF(x.vec_gate));
	emit_u8(e, 0x0f); /* ldmxcsr [rip + mxcsr] */
	emit_u8(e, 0xae);
	emit_u8(e, 0x15);
	emit_u32(e, (uint32_t)(mxcsr - (emit_here(e) + 4)));
	emit_u8(e, 0xdb); /* fninit */
	emit_u8(e, 0xe3);
	emit_u8(e, 0xc3);
}

static void park_if_live(struct emit *e, const struct xtramp *t)
{
	uint8_t *skip = if_vec_live(e);

	emit_call(e, t->park);
	emit_patch(e, skip, emit_here(e));
}

static void make_leave(struct emit *e, struct xtramp *t)
{
	t->leave = emit_here(e);
	emit_gs_store(e, H_RSP, CPU_OFF(x.return_sp));
	save_guest(e);
	t->leave_saved = emit_here(e);
	park_if_live(e, t);
	emit_gs_load(e, H_RSP, CPU_OFF(x.host_rsp));
	emit_lea(e, true, H_RSP, H_RSP, H_NONE, 0, 8);
	for (unsigned i = ARRAY_SIZE(callee_saved); i-- > 0;)
		emit_pop(e, callee_saved[i]);
	emit_u8(e, 0xc3);
}

/* Called before the first vector instruction since C code ran. */
static void make_vec_load(struct emit *e, const struct xlat *x, struct xtramp *t)
{
	t->ret = emit_here(e);
	emit_u8(e, 0xc3);
	t->vec_load = emit_here(e);
	emit_mov(e, H_R10, H_RAX);
	emit_mov(e, H_R11, H_RDX);
	load_vec(e, x);
	emit_mov(e, H_RAX, H_R10);
	emit_mov(e, H_RDX, H_R11);
	emit_gs_imm32(e, CPU_OFF(x.vec_live), 1);
	emit_mov_imm(e, H_R10, t->ret);
	emit_gs_store(e, H_R10, CPU_OFF(x.vec_gate));
	emit_u8(e, 0xc3);
}

/* --- C functions, and where to go from them ------------------------------------------ */

/*
 * enum xcall @fn(c, second, third, fourth): the first two of them are in r10 and r11. The
 * guest's registers go to c->s. It runs on the host's stack; the return stack is complete
 * meanwhile but for what called, on top of it.
 */
static void call_c(struct emit *e, const struct xtramp *t, uint64_t fn, unsigned fourth)
{
	save_guest(e);
	emit_gs(e, false, 0x8b, H_RBX, CPU_OFF(x.vec_live));
	emit_mov(e, H_RBP, H_R10);
	emit_gs_store(e, H_RSP, CPU_OFF(x.return_sp));
	emit_gs_load(e, H_RSP, CPU_OFF(x.host_rsp));
	if (!XLAT_QUIET)
		park_if_live(e, t);
	emit_gs_load(e, H_RDI, CPU_OFF(x.self));
	emit_mov(e, H_RSI, H_RBP);
	emit_mov(e, H_RDX, H_R11);
	emit_mov_imm(e, H_RCX, fourth);
	emit_mov_imm(e, H_RAX, fn);
	emit_u8(e, 0xff); /* call rax */
	emit_u8(e, 0xd0);
}

/* To the RIP in r10. Returns the jump to take with its tag there, where it is not in its slot. */
static uint8_t *emit_jump_cache(struct emit *e)
{
	uint8_t *miss;

	emit_jump_slot(e, H_R11, H_R10);
	emit_gs(e, true, 0x03, H_R10, CPU_OFF(x.jump_key)); /* add */
	emit_gs_scaled(e, true, 0x3b, H_R10, H_R11, CPU_OFF(jump_tag));
	miss = emit_jcc(e, CC_NZ, 0);
	emit_gs_scaled(e, false, 0xff, 4, H_R11, CPU_OFF(jump_code)); /* jmp */
	return miss;
}

/*
 * What comes after a function that says anything but XCALL_BACK; the guest's registers
 * are in c->s. Where it leads attention is looked at. If the jump cache does not know that
 * but did lately, on to there; else C is asked.
 */
static void make_called(struct emit *e, struct xtramp *t)
{
	uint8_t *jump, *miss, *none;

	t->called = emit_here(e);
	emit_alu_imm(e, false, ALU_CMP, H_RAX, XCALL_JUMP);
	emit_jcc(e, CC_B, t->leave_saved);
	emit_gs_load(e, H_RSP, CPU_OFF(x.return_sp));
	load_guest(e);
	jump = emit_jcc(e, CC_Z, 0);
	emit_gs(e, false, 0xff, 4, CPU_OFF(x.code)); /* jmp */
	emit_patch(e, jump, emit_here(e));
	emit_gs_load(e, H_R10, CPU_OFF(s.rip));
	t->jump = emit_here(e);
	miss = emit_jump_cache(e);
	t->lookup = emit_here(e);
	emit_patch(e, miss, t->lookup);
	emit_alu_imm(e, false, ALU_AND, H_R11, XLAT_VICTIMS - 1);
	emit_gs_scaled(e, true, 0x3b, H_R10, H_R11, CPU_OFF(victim_tag)); /* cmp */
	none = emit_jcc(e, CC_NZ, 0);
	emit_gs_scaled(e, false, 0xff, 4, H_R11, CPU_OFF(victim_code)); /* jmp */
	emit_patch(e, none, emit_here(e));
	call_c(e, t, (uint64_t)(uintptr_t)xcall_lookup, 0);
	emit_jmp(e, t->called);
}

/* Returns from the @n-th entry if that is it. */
static void try_entry(struct emit *e, unsigned n)
{
	uint8_t *no;

	emit_load(e, true, 0x3b, H_R10, H_RSP, (int32_t)(8 + n * RETURN_ENTRY)); /* cmp */
	no = emit_jcc(e, CC_NZ, 0);
	emit_lea(e, true, H_RSP, H_RSP, H_NONE, 0, (int32_t)(n * RETURN_ENTRY));
	emit_u8(e, 0xc3);
	emit_patch(e, no, emit_here(e));
}

/*
 * A return to elsewhere than the stack's top says, the tag in r10: functions have been left by
 * other ways, this is another thread of the guest, or a call was none. Some entries are
 * looked at, then the top is dropped and the jump cache asked.
 */
static void make_ret_miss(struct emit *e, struct xtramp *t)
{
	uint8_t *empty;

	t->ret_miss = emit_here(e);
	for (unsigned i = 1; i <= RETURN_SEARCH; i++)
		try_entry(e, i);
	emit_gs(e, true, 0x3b, H_RSP, CPU_OFF(x.return_base)); /* cmp */
	empty = emit_jcc(e, CC_AE, 0);
	emit_lea(e, true, H_RSP, H_RSP, H_NONE, 0, RETURN_ENTRY);
	emit_patch(e, empty, emit_here(e));
	emit_gs(e, true, 0x2b, H_R10, CPU_OFF(x.jump_key)); /* sub */
	emit_patch(e, emit_jump_cache(e), t->lookup);
}

/* XCALL_BACK: to the code that called, with the vector registers as it had them. */
static void return_from_c(struct emit *e, const struct xtramp *t)
{
	uint8_t *back, *same;

	emit_alu_imm(e, false, ALU_CMP, H_RAX, XCALL_BACK);
	back = emit_jcc(e, CC_Z, 0);
	emit_gs(e, true, 0x81, 0, CPU_OFF(x.return_sp)); /* add: nothing shall stay there */
	emit_u32(e, 8);
	emit_jmp(e, t->called);
	emit_patch(e, back, emit_here(e));
	emit_gs_load(e, H_RSP, CPU_OFF(x.return_sp));
	emit_gs(e, false, 0x3b, H_RBX, CPU_OFF(x.vec_live));
	same = emit_jcc(e, CC_Z, 0);
	emit_call(e, t->vec_load);
	emit_patch(e, same, emit_here(e));
	load_guest(e);
	emit_u8(e, 0xc3);
}

/*
 * Called with the address in r10, the number of bytes in r11 and, in x.what, the place of the
 * instruction. Returns when the TLB has the page.
 */
static uint64_t make_fill(struct emit *e, const struct xtramp *t, enum mmu_access access)
{
	uint64_t here = emit_here(e);

	call_c(e, t, (uint64_t)(uintptr_t)xcall_fill, access);
	return_from_c(e, t);
	return here;
}

/* --- REP MOVS and STOS ------------------------------------------------------------------- */

/*
 * The page of all RCX elements from @gpr on: where it is, less where the guest has it, to
 * r11. Returns the jump to take if the TLB does not have it, or not all of them.
 */
static uint8_t *look_up_run(struct emit *e, unsigned gpr, unsigned shift, size_t tag)
{
	emit_lea(e, true, H_R10, gpr, H_RCX, shift, -1);
	emit_rr(e, false, 0x89, gpr, H_R11);
	emit_alu_imm(e, true, ALU_AND, H_R10, (uint32_t)PAGE_MASK);
	emit_shift(e, false, SHIFT_R, H_R11, PAGE_SHIFT - 5);
	emit_gs(e, true, 0x0b, H_R10, CPU_OFF(asid));
	emit_alu_imm(e, false, ALU_AND, H_R11, (TLB_ENTRIES - 1) * sizeof(struct tlb_entry));
	emit_gs_base(e, true, 0x3b, H_R10, H_R11, CPU_OFF(tlb_entries) + (int32_t)tag);
	return emit_jcc(e, CC_NZ, 0);
}

static void load_addend(struct emit *e, unsigned r)
{
	emit_gs_base(e, true, 0x8b, r, H_R11,
		     CPU_OFF(tlb_entries) + (int32_t)offsetof(struct tlb_entry, addend));
}

/* rep movs or stos, with elements of 1 << @shift bytes */
static void emit_rep(struct emit *e, bool stores, unsigned shift)
{
	emit_u8(e, 0xf3);
	if (shift == 1)
		emit_u8(e, 0x66);
	if (shift == 3)
		emit_u8(e, 0x48);
	emit_u8(e, (stores ? 0xaa : 0xa4) | !!shift);
}

/*
 * A few quadwords, from rsi to rdi: as bytes, where the processor starts sooner with those.
 * The same comes of it unless an element overlaps the one that it is made of. Clobbers r10.
 */
static void emit_few(struct emit *e)
{
	uint8_t *many, *overlap, *done;

	emit_alu_imm(e, true, ALU_CMP, H_RCX, 16);
	many = emit_jcc(e, CC_A, 0);
	emit_mov(e, H_R10, H_RDI);
	emit_rr(e, true, 0x29, H_RSI, H_R10);
	emit_lea(e, true, H_R10, H_R10, H_NONE, 0, -1);
	emit_alu_imm(e, true, ALU_CMP, H_R10, 7);
	overlap = emit_jcc(e, CC_B, 0);
	emit_shift(e, false, SHIFT_L, H_RCX, 3);
	emit_rep(e, false, 0);
	done = emit_jmp(e, 0);
	emit_patch(e, many, emit_here(e));
	emit_patch(e, overlap, emit_here(e));
	emit_rep(e, false, 3);
	emit_patch(e, done, emit_here(e));
}

static bool starts_soon(void)
{
	struct cpu_features host;

	cpuid_host_features(&host);
	return host.word[CPU_FSRM / 64] & BIT64(CPU_FSRM % 64);
}

/* To C, if it is not one run upwards within a page or two that the TLB has. */
static unsigned emit_short_rep(struct emit *e, bool stores, unsigned shift, uint8_t *no[4])
{
	unsigned n = 0;

	emit_gs(e, false, 0xf6, 0, CPU_OFF(s.rflags) + 1); /* test byte */
	emit_u8(e, RFLAGS_DF >> 8);
	no[n++] = emit_jcc(e, CC_NZ, 0);
	emit_lea(e, true, H_R11, H_RCX, H_NONE, 0, -1);
	emit_alu_imm(e, true, ALU_CMP, H_R11, (uint32_t)(PAGE_SIZE >> shift) - 1);
	no[n++] = emit_jcc(e, CC_A, 0);
	if (!stores) {
		no[n++] = look_up_run(e, H_RSI, shift, offsetof(struct tlb_entry, read));
		load_addend(e, H_R10);
		emit_gs_store(e, H_R10, CPU_OFF(x.saved));
	}
	no[n++] = look_up_run(e, H_RDI, shift, offsetof(struct tlb_entry, write));
	load_addend(e, H_R11);
	if (!stores) {
		emit_gs_load(e, H_R10, CPU_OFF(x.saved));
		emit_rr(e, true, 0x01, H_R10, H_RSI);
	}
	emit_rr(e, true, 0x01, H_R11, H_RDI);
	if (!stores && shift == 3 && starts_soon()) {
		emit_few(e);
		emit_gs_load(e, H_R10, CPU_OFF(x.saved));
	} else {
		emit_rep(e, stores, shift);
	}
	if (!stores)
		emit_rr(e, true, 0x29, H_R10, H_RSI);
	emit_rr(e, true, 0x29, H_R11, H_RDI);
	emit_u8(e, 0xc3);
	return n;
}

typedef enum xcall rep_fn(struct cpu *c, unsigned shift);

/* Called with the place of the instruction in x.what. */
static uint64_t make_rep(struct emit *e, const struct xtramp *t, bool stores, unsigned shift)
{
	rep_fn *fn = stores ? xlat_rep_stos : xlat_rep_movs;
	uint64_t here = emit_here(e);
	uint8_t *no[4];
	unsigned n = emit_short_rep(e, stores, shift, no);

	while (n--)
		emit_patch(e, no[n], emit_here(e));
	emit_mov_imm(e, H_R10, shift);
	call_c(e, t, (uint64_t)(uintptr_t)fn, 0);
	return_from_c(e, t);
	return here;
}

/* --- system instructions, pages ------------------------------------------------------------ */

/* Jumped to, with the instruction in r10. */
static void make_system(struct emit *e, struct xtramp *t)
{
	t->system = emit_here(e);
	call_c(e, t, (uint64_t)(uintptr_t)xcall_system, 0);
	emit_jmp(e, t->called);
}

static void make_attend(struct emit *e, struct xtramp *t)
{
	t->attend = emit_here(e);
	emit_gs_imm32(e, CPU_OFF(x.why), XEXIT_ATTEND);
	t->attention = emit_here(e);
	call_c(e, t, (uint64_t)(uintptr_t)xcall_attend, 0);
	emit_jmp(e, t->called);
}

/* Slot r11 >> 16 has missed: clobbers rcx. Returns the jump to take if that was too often. */
static uint8_t *count_miss(struct emit *e)
{
	emit_rr(e, false, 0x89, H_R11, H_RCX);
	emit_shift(e, false, SHIFT_R, H_RCX, 16);
	emit_u8(e, 0x65); /* add word gs:[rcx * 2 + page_misses], 1 */
	emit_u8(e, 0x66);
	emit_u8(e, 0x83);
	emit_u8(e, 0x04);
	emit_u8(e, 0x4d);
	emit_u32(e, (uint32_t)CPU_OFF(x.page_misses));
	emit_u8(e, 1);
	return emit_jcc(e, CC_B, 0);
}

/*
 * As above, but the page goes to the page cache. The slot's number is above the number of
 * bytes in r11. The caller looks again, so that there is one place where ranges are checked.
 */
static uint64_t make_page(struct emit *e, const struct xlat *x, enum mmu_access access)
{
	uint64_t here = emit_here(e);
	int32_t tag = CPU_OFF(tlb_entries) + (int32_t)(access == MMU_WRITE
							       ? offsetof(struct tlb_entry, write)
							       : offsetof(struct tlb_entry, read));
	uint8_t *miss, *roams;

	emit_push(e, H_RAX);
	emit_push(e, H_RCX);
	roams = count_miss(e);
	emit_rex(e, false, H_RAX, 0, H_R11); /* movzx eax, r11w */
	emit_u8(e, 0x0f);
	emit_u8(e, 0xb7);
	emit_u8(e, 0xc0 | H_RAX << 3 | (H_R11 & 7));
	emit_lea(e, true, H_RAX, H_RAX, H_R10, 0, -1);
	emit_alu_imm(e, true, ALU_AND, H_RAX, (uint32_t)PAGE_MASK);
	emit_gs(e, true, 0x0b, H_RAX, CPU_OFF(asid));
	emit_rr(e, false, 0x89, H_R10, H_RCX);
	emit_shift(e, false, SHIFT_R, H_RCX, PAGE_SHIFT - 5);
	emit_alu_imm(e, false, ALU_AND, H_RCX, (TLB_ENTRIES - 1) * sizeof(struct tlb_entry));
	emit_gs_base(e, true, 0x3b, H_RAX, H_RCX, tag);
	miss = emit_jcc(e, CC_NZ, 0);
	emit_gs_base(e, true, 0x8b, H_RAX, H_RCX,
		     CPU_OFF(tlb_entries) + (int32_t)offsetof(struct tlb_entry, addend));
	emit_shift(e, false, SHIFT_R, H_R11, 16 - 3);
	emit_alu_imm(e, true, ALU_AND, H_R10, (uint32_t)PAGE_MASK);
	emit_alu_imm(e, false, ALU_AND, H_R11, 0xffff & ~7u);
	emit_gs_base(e, true, 0x89, H_R10, H_R11, CPU_OFF(x.page));
	emit_gs_base(e, true, 0x89, H_RAX, H_R11, CPU_OFF(x.addend));
	emit_pop(e, H_RCX);
	emit_pop(e, H_RAX);
	emit_u8(e, 0xc3);

	emit_patch(e, miss, emit_here(e));
	emit_pop(e, H_RCX);
	emit_pop(e, H_RAX);
	emit_alu_imm(e, false, ALU_AND, H_R11, 0xffff);
	emit_jmp(e, x->tramp.fill[access == MMU_WRITE]);

	emit_patch(e, roams, emit_here(e));
	emit_pop(e, H_RCX);
	emit_pop(e, H_RAX);
	emit_lea(e, true, H_RSP, H_RSP, H_NONE, 0, 8); /* whoever called shall not go on */
	emit_gs_imm32(e, CPU_OFF(x.why), XEXIT_ROAMS);
	emit_jmp(e, x->tramp.leave);
	return here;
}

void xtramp_make(struct xlat *x)
{
	struct emit *e = &x->e;
	struct xtramp *t = &x->tramp;

	make_vec_load(e, x, t);
	make_park(e, x, t);
	make_enter(e, t);
	make_leave(e, t);
	make_called(e, t);
	make_ret_miss(e, t);
	make_system(e, t);
	make_attend(e, t);
	xring_make(x);
	t->fill[0] = make_fill(e, t, MMU_READ);
	t->fill[1] = make_fill(e, t, MMU_WRITE);
	for (unsigned i = 0; i < 8; i++)
		t->rep[i / 4][i % 4] = make_rep(e, t, i / 4, i % 4);
	t->page[0] = make_page(e, x, MMU_READ);
	t->page[1] = make_page(e, x, MMU_WRITE);
}
