/*
 * xlat_ring.c - SYSCALL and SYSRET between rings 3 and 0 without C: what sys_syscall() and
 * sys_sysret() do where nothing is out of the ordinary. Whatever is goes to them.
 *
 * Pieces of the trampolines, jumped to with the instruction in r11, which is its place in
 * memory as for tramp.system, and for SYSCALL with the next RIP in r10. r10 and r11 are all
 * that is free, until it is certain that it can be done; then so are those that it changes.
 *
 * What holds in translated code is not looked at: 64-bit mode, nothing watched or stepped,
 * so that TF and RF are clear. x.no_fast_ring says whether MSRs and control registers are
 * as every kernel has them.
 */
#include "cpu/segment.h"
#include "cpu/xlat_int.h"

#define S1 H_R10
#define S2 H_R11

#define SLOW_MAX 6

struct slow {
	uint8_t *from[SLOW_MAX];
	unsigned nr;
};

/* What SYSCALL has to mask, so that no flag of the program's concerns the kernel. */
#define MUST_MASK (RFLAGS_ARITH | RFLAGS_TF | RFLAGS_AC)

bool xring_is_plain(const struct cpu *c)
{
	return (c->s.efer & EFER_SCE) && (c->s.sfmask & MUST_MASK) == MUST_MASK &&
	       !(c->s.cr4 & CR4_TSD);
}

void xlat_emit_rflags(struct emit *e, unsigned dst, unsigned other)
{
	emit_gs(e, false, 0x8b, dst, CPU_OFF(fl));
	emit_mov(e, other, dst);
	emit_shift(e, false, SHIFT_R, dst, 8);
	emit_alu_imm(e, false, ALU_AND, dst, RFLAGS_ARITH & 0xff);
	emit_alu_imm(e, false, ALU_AND, other, FL_OF);
	emit_shift(e, false, SHIFT_L, other, 11);
	emit_rr(e, false, 0x09, other, dst); /* or */
	emit_gs(e, false, 0x8b, other, CPU_OFF(s.rflags));
	emit_alu_imm(e, false, ALU_AND, other, (uint32_t) ~(RFLAGS_ARITH | RFLAGS_RF | RFLAGS_VM));
	emit_rr(e, false, 0x09, other, dst);
	emit_alu_imm(e, false, ALU_OR, dst, RFLAGS_ONE);
}

/* --- the way to C -------------------------------------------------------------------- */

static void slow_if(struct emit *e, struct slow *s, unsigned cc)
{
	s->from[s->nr++] = emit_jcc(e, cc, 0);
}

/* Unless the word at @off is @v. */
static void slow_unless(struct emit *e, struct slow *s, int32_t off, uint8_t v)
{
	emit_gs(e, false, 0x83, 7, off); /* cmp dword, imm8 */
	emit_u8(e, v);
	slow_if(e, s, CC_NZ);
}

/* If the flags at @off have some of @bits. */
static void slow_if_flags(struct emit *e, struct slow *s, int32_t off, uint32_t bits)
{
	emit_gs(e, false, 0xf7, 0, off); /* test dword, imm32 */
	emit_u32(e, bits);
	slow_if(e, s, CC_NZ);
}

/* Pages that are remembered have to be of the address space it will be: @asid's. */
static void slow_if_pages(struct emit *e, struct slow *s, unsigned user, int32_t asid, unsigned tmp)
{
	emit_gs_load(e, tmp, asid);
	emit_gs(e, true, 0x3b, tmp, CPU_OFF(x.page_asid) + 8 * (int32_t)user); /* cmp */
	slow_if(e, s, CC_NZ);
}

static void emit_slow(struct emit *e, const struct xtramp *t, const struct slow *s)
{
	for (unsigned i = 0; i < s->nr; i++)
		emit_patch(e, s->from[i], emit_here(e));
	emit_mov(e, S1, S2);
	emit_jmp(e, t->system);
}

/* --- the state that both change ------------------------------------------------------- */

/* A flat segment of @ring, its selector in r10. */
static void set_segment(struct emit *e, enum seg_reg seg, unsigned ring)
{
	const struct segment flat = seg_flat(0, ring, seg == SEG_CS, true);
	int32_t at = CPU_OFF(s.seg) + (int32_t)(seg * sizeof(flat));

	emit_mov_imm(e, S2, (uint64_t)flat.attr << 32);
	emit_rr(e, true, 0x09, S1, S2); /* or */
	emit_gs_store(e, S2, at);       /* selector and attributes */
	emit_gs_imm32(e, at + (int32_t)offsetof(struct segment, limit), flat.limit);
	emit_gs(e, true, 0xc7, 0, at + (int32_t)offsetof(struct segment, base)); /* mov qword */
	emit_u32(e, 0);
}

_Static_assert(offsetof(struct segment, selector) == 0 && offsetof(struct segment, attr) == 4,
	       "a selector and its attributes are stored at once");

static void set_byte(struct emit *e, int32_t off, unsigned v)
{
	emit_gs(e, false, 0xc6, 0, off); /* mov byte, imm8 */
	emit_u8(e, v);
}

/* What follows from it, for @ring: cpu_update_mode() and xlat_prepare(). */
static void set_ring(struct emit *e, unsigned ring, int32_t asid)
{
	set_byte(e, CPU_OFF(cpl), ring);
	set_byte(e, CPU_OFF(stack32), true);
	emit_gs_imm32(e, CPU_OFF(x.user), ring != 0);
	emit_gs_load(e, S1, asid);
	emit_gs_store(e, S1, CPU_OFF(asid));
	emit_gs_load(e, S2, CPU_OFF(x.jump_key)); /* keep its vector level */
	emit_shift(e, true, SHIFT_R, S2, 60);
	emit_shift(e, true, SHIFT_L, S2, 60);
	emit_shift(e, true, SHIFT_L, S1, 48);
	emit_rr(e, true, 0x09, S2, S1); /* or */
	emit_gs_store(e, S1, CPU_OFF(x.jump_key));
}

/* --- SYSCALL ----------------------------------------------------------------------------- */

static void make_syscall(struct emit *e, struct xtramp *t)
{
	struct slow slow = { .nr = 0 };
	int32_t asid = CPU_OFF(asid_super);

	t->syscall = emit_here(e);
	slow_unless(e, &slow, CPU_OFF(x.no_fast_ring), 0);
	slow_unless(e, &slow, CPU_OFF(x.user), 1);
	slow_if_flags(e, &slow, CPU_OFF(s.rflags), RFLAGS_AC);
	emit_mov(e, H_RCX, S1); /* C would do so, too */
	slow_if_pages(e, &slow, 0, asid, S1);

	xlat_emit_rflags(e, S1, S2);
	emit_gs_store(e, S1, GPR_OFF(R11));
	emit_gs_load(e, S2, CPU_OFF(s.sfmask));
	emit_rex(e, true, 0, 0, S2); /* not */
	emit_u8(e, 0xf7);
	emit_u8(e, 0xd0 | (S2 & 7));
	emit_rr(e, true, 0x21, S2, S1); /* and */
	emit_alu_imm(e, false, ALU_OR, S1, RFLAGS_ONE);
	emit_gs_store(e, S1, CPU_OFF(s.rflags));
	emit_gs(e, true, 0xc7, 0, CPU_OFF(fl)); /* mov qword, 0: all are masked */
	emit_u32(e, 0);

	emit_gs(e, false, 0x8b, S1, CPU_OFF(s.star) + 4);
	emit_alu_imm(e, false, ALU_AND, S1, 0xfffc);
	set_segment(e, SEG_CS, 0);
	emit_alu_imm(e, false, ALU_ADD, S1, 8);
	emit_alu_imm(e, false, ALU_AND, S1, 0xffff);
	set_segment(e, SEG_SS, 0);
	set_ring(e, 0, asid);
	emit_gs_load(e, S1, CPU_OFF(s.lstar));
	emit_jmp(e, t->jump);
	emit_slow(e, t, &slow);
}

/* --- SYSRET ------------------------------------------------------------------------------ */

/* The arithmetic flags of the RFLAGS in r10. */
static void set_arithmetic(struct emit *e)
{
	emit_mov(e, S2, S1);
	emit_alu_imm(e, false, ALU_AND, S2, RFLAGS_ARITH & 0xff);
	emit_shift(e, false, SHIFT_L, S2, 8);
	emit_gs_store(e, S2, CPU_OFF(fl));
	emit_mov(e, S2, S1);
	emit_shift(e, false, SHIFT_R, S2, 11);
	emit_alu_imm(e, false, ALU_AND, S2, FL_OF);
	emit_gs(e, true, 0x09, S2, CPU_OFF(fl)); /* or */
}

/* With an operand of 64 bits: to 64-bit code. */
static void make_sysret(struct emit *e, struct xtramp *t)
{
	const uint32_t mask = RFLAGS_IF | RFLAGS_DF | RFLAGS_IOPL | RFLAGS_NT | RFLAGS_VIF |
			      RFLAGS_VIP | RFLAGS_ID;
	struct slow slow = { .nr = 0 };
	int32_t asid = CPU_OFF(asid_user);

	t->sysret = emit_here(e);
	slow_unless(e, &slow, CPU_OFF(x.no_fast_ring), 0);
	slow_unless(e, &slow, CPU_OFF(x.user), 0);
	slow_unless(e, &slow, CPU_OFF(x.waiting), 0); /* IF may become set */
	slow_if_flags(e, &slow, GPR_OFF(R11), RFLAGS_TF | RFLAGS_AC);
	slow_if_pages(e, &slow, 1, asid, S1);
	emit_mov(e, S1, H_RCX); /* canonical: bits 63 to 47 are alike */
	emit_shift(e, true, SHIFT_SAR, S1, 47);
	emit_alu_imm(e, true, ALU_ADD, S1, 1);
	emit_alu_imm(e, true, ALU_CMP, S1, 1);
	slow_if(e, &slow, CC_A);

	emit_gs_load(e, S1, GPR_OFF(R11));
	set_arithmetic(e);
	emit_alu_imm(e, false, ALU_AND, S1, mask);
	emit_alu_imm(e, false, ALU_OR, S1, RFLAGS_ONE);
	emit_gs_store(e, S1, CPU_OFF(s.rflags));

	emit_gs(e, false, 0x8b, S1, CPU_OFF(s.star) + 4);
	emit_shift(e, false, SHIFT_R, S1, 16);
	emit_alu_imm(e, false, ALU_ADD, S1, 16);
	emit_alu_imm(e, false, ALU_OR, S1, 3);
	emit_alu_imm(e, false, ALU_AND, S1, 0xffff);
	set_segment(e, SEG_CS, 3);
	emit_alu_imm(e, false, ALU_ADD, S1, (uint32_t)-8);
	emit_alu_imm(e, false, ALU_AND, S1, 0xffff);
	set_segment(e, SEG_SS, 3);
	set_ring(e, 3, asid);
	emit_mov(e, S1, H_RCX);
	emit_jmp(e, t->jump);
	emit_slow(e, t, &slow);
}

void xring_make(struct xlat *x)
{
	make_syscall(&x->e, &x->tramp);
	make_sysret(&x->e, &x->tramp);
}
