/*
 * test_segment.c - descriptors and what loads them, against oracles written from the
 * instructions' pages in SDM vol. 2; far transfers, system calls and their returns.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cpu/mmu.h"
#include "cpu/segment.h"
#include "cpu/sys.h"
#include "flat.h"
#include "host/sim/sim.h"

#define GDT    0x300000u
#define LDT    0x300800u
#define TSS    0x301000u
#define STACK  0x310000u
#define RING0  0x320000u
#define TARGET 0x5678u

/* Selectors; TEST is for what a test makes of it, and may have 16 bytes. */
enum { CODE0 = 8, DATA0 = 16, CODE3 = 24, DATA3 = 32, CODE3_64 = 40, TSS_SEL = 48, TEST = 64 };

static struct host h;
static struct flat *f;
static struct cpu *c;

static int setup(void **state)
{
	h = sim_create(NULL);
	f = flat_create(&h, 1, CLOCK_HOST);
	c = f->cpu;
	return 0;
}

static int teardown(void **state)
{
	flat_destroy(f);
	return (int)sim_destroy(&h);
}

/* --- the machine --------------------------------------------------------------------- */

static void put64(uint64_t gpa, uint64_t v)
{
	store_u64(f->ram + gpa, v);
}

/* @access is byte 5, @flags the upper nibble of byte 6. */
static uint64_t desc(uint32_t access, uint32_t flags)
{
	return 0xf00000000ffffull | (uint64_t)access << 40 | (uint64_t)flags << 52;
}

static void set_cpl(unsigned cpl)
{
	struct segment *cs = &c->s.seg[SEG_CS], *ss = &c->s.seg[SEG_SS];

	cs->selector = (uint16_t)((cs->selector & ~3) | cpl);
	cs->attr = (cs->attr & ~(uint32_t)SEG_DPL) | cpl << SEG_DPL_SHIFT;
	ss->attr = (ss->attr & ~(uint32_t)SEG_DPL) | cpl << SEG_DPL_SHIFT;
	cpu_update_mode(c);
}

static void start(enum cpu_mode mode, unsigned cpl)
{
	bool is_long = mode == MODE_64;

	flat_reset(f, mode);
	memset(f->ram + GDT, 0, 0x2000);
	put64(GDT + CODE0, desc(0x9b, is_long ? 0xa : 0xc));
	put64(GDT + DATA0, desc(0x93, 0xc));
	put64(GDT + CODE3, desc(0xfb, 0xc));
	put64(GDT + DATA3, desc(0xf3, 0xc));
	put64(GDT + CODE3_64, desc(0xfb, 0xa));
	c->s.gdtr = (struct desc_table){ .base = GDT, .limit = 127 };
	if (is_long) {
		put64(TSS + 4, RING0);
	} else {
		store_u32(f->ram + TSS + 4, RING0);
		store_u32(f->ram + TSS + 8, DATA0);
	}
	c->s.tr = (struct segment){
		.selector = TSS_SEL, .attr = SEG_P | 0xb, .base = TSS, .limit = 0x67
	};
	c->s.gpr[RSP] = STACK;
	c->s.rip = 0x4000;
	c->fault.pending = false;
	set_cpl(cpl);
}

/* -1 when all went well, else vector << 16 | error. */
static int outcome(bool ok)
{
	int v = ok ? -1 : c->fault.vector << 16 | (int)c->fault.error;

	assert_int_equal(c->fault.pending, !ok);
	c->fault.pending = false;
	return v;
}

static int fault_of(unsigned vector, unsigned error)
{
	return (int)(vector << 16 | error);
}

static int run(sys_fn *fn, const struct op *o)
{
	return outcome(fn(c, o) != SYS_FAULT);
}

/* --- loading data segments --------------------------------------------------------------- */

struct shape {
	unsigned type; /* with S in bit 4 */
	unsigned dpl, rpl, cpl;
	bool present;
};

static bool is_code(const struct shape *s)
{
	return (s->type & 0x18) == 0x18;
}

static int oracle_data(const struct shape *s, uint16_t sel)
{
	bool conforming = is_code(s) && (s->type & 4);

	if (!(s->type & 0x10) || (is_code(s) && !(s->type & 2)))
		return fault_of(EXC_GP, sel & ~3u);
	if (!conforming && (s->rpl > s->dpl || s->cpl > s->dpl))
		return fault_of(EXC_GP, sel & ~3u);
	return s->present ? -1 : fault_of(EXC_NP, sel & ~3u);
}

static int oracle_stack(const struct shape *s, uint16_t sel)
{
	if (s->rpl != s->cpl || s->dpl != s->cpl || (s->type & 0x1a) != 0x12)
		return fault_of(EXC_GP, sel & ~3u);
	return s->present ? -1 : fault_of(EXC_SS, sel & ~3u);
}

static void put_shape(const struct shape *s)
{
	put64(GDT + TEST, desc(s->type | s->dpl << 5 | (s->present ? 0x80 : 0), 0xc));
	put64(GDT + TEST + 8, 0);
}

static void for_each_shape(void (*fn)(const struct shape *s, uint16_t sel))
{
	for (unsigned n = 0; n < 32 * 4 * 4 * 4 * 2; n++) {
		struct shape s = {
			.type = n & 31,
			.dpl = n >> 5 & 3,
			.rpl = n >> 7 & 3,
			.cpl = n >> 9 & 3,
			.present = n >> 11,
		};

		start(MODE_32, s.cpl);
		put_shape(&s);
		fn(&s, (uint16_t)(TEST | s.rpl));
	}
}

static void check_load(const struct shape *s, uint16_t sel)
{
	bool accessed;

	assert_int_equal(outcome(seg_load(c, SEG_FS, sel)), oracle_data(s, sel));
	if (oracle_data(s, sel) < 0) {
		accessed = f->ram[GDT + TEST + 5] & 1;
		assert_true(accessed);
		assert_int_equal(c->s.seg[SEG_FS].selector, sel);
		assert_int_equal(c->s.seg[SEG_FS].limit, UINT32_MAX);
	} else {
		assert_int_equal(c->s.seg[SEG_FS].selector, DATA0); /* as it was */
	}
	put_shape(s);
	assert_int_equal(outcome(seg_load(c, SEG_SS, sel)), oracle_stack(s, sel));
}

static void test_loads(void **state)
{
	for_each_shape(check_load);
}

static void test_null_and_limit(void **state)
{
	uint64_t gva;

	start(MODE_32, 0);
	assert_true(seg_load(c, SEG_DS, 3));
	assert_false(mmu_linear(c, SEG_DS, 0, 1, MMU_READ, &gva));
	c->fault.pending = false;
	assert_int_equal(outcome(seg_load(c, SEG_SS, 0)), fault_of(EXC_GP, 0));
	assert_int_equal(outcome(seg_load(c, SEG_DS, 128)), fault_of(EXC_GP, 128));
	assert_int_equal(outcome(seg_load(c, SEG_DS, 12)), fault_of(EXC_GP, 12)); /* no LDT */
	c->s.gdtr.limit = DATA0 + 6;
	assert_int_equal(outcome(seg_load(c, SEG_DS, DATA0)), fault_of(EXC_GP, DATA0));

	start(MODE_64, 0);
	assert_true(seg_load(c, SEG_SS, 0)); /* CPL below 3 may, if RPL is CPL */
	assert_int_equal(c->cpl, 0);
	assert_int_equal(outcome(seg_load(c, SEG_SS, 1)), fault_of(EXC_GP, 0));
	start(MODE_64, 3);
	assert_int_equal(outcome(seg_load(c, SEG_SS, 3)), fault_of(EXC_GP, 0));
}

static void test_ldt(void **state)
{
	struct op o = { .rm = RAX, .size = 2 };

	start(MODE_32, 0);
	put64(GDT + TEST, 0x0000820000000000ull | LDT << 16 | 15);
	f->ram[GDT + TEST + 4] = LDT >> 16;
	put64(LDT + 8, desc(0x92, 0xc));
	c->s.gpr[RAX] = TEST;
	assert_int_equal(run(sys_lldt, &o), -1);
	assert_int_equal(c->s.ldtr.base, LDT);
	assert_int_equal(outcome(seg_load(c, SEG_DS, 12)), -1);
	assert_int_equal(outcome(seg_load(c, SEG_DS, 20)), fault_of(EXC_GP, 20));
	c->s.gpr[RAX] = DATA0;
	assert_int_equal(run(sys_lldt, &o), fault_of(EXC_GP, DATA0));
	c->s.gpr[RAX] = 0;
	assert_int_equal(run(sys_lldt, &o), -1);
	assert_int_equal(outcome(seg_load(c, SEG_DS, 12)), fault_of(EXC_GP, 12));
}

static void test_ltr(void **state)
{
	struct op o = { .rm = RAX, .size = 2 };

	start(MODE_64, 0);
	put64(GDT + TEST, 0x0000890000000067ull | (uint64_t)TSS << 16);
	f->ram[GDT + TEST + 4] = TSS >> 16;
	put64(GDT + TEST + 8, 0xffff8000);
	c->s.gpr[RAX] = TEST;
	assert_int_equal(run(sys_ltr, &o), -1);
	assert_int_equal(c->s.tr.base, 0xffff800000000000ull | TSS);
	assert_int_equal(f->ram[GDT + TEST + 5], 0x8b); /* busy */
	assert_int_equal(run(sys_ltr, &o), fault_of(EXC_GP, TEST));
	f->ram[GDT + TEST + 5] = 0x09;
	assert_int_equal(run(sys_ltr, &o), fault_of(EXC_NP, TEST));
	put64(GDT + TEST + 8, 0x00ff8000);
	f->ram[GDT + TEST + 5] = 0x89;
	assert_int_equal(run(sys_ltr, &o), fault_of(EXC_GP, TEST)); /* base not canonical */
	c->s.gpr[RAX] = 0;
	assert_int_equal(run(sys_ltr, &o), fault_of(EXC_GP, 0));
	set_cpl(3);
	assert_int_equal(run(sys_ltr, &o), fault_of(EXC_GP, 0));
}

/* --- looking at descriptors ------------------------------------------------------------------- */

static bool seen(const struct shape *s, uint32_t system_types)
{
	if (!(s->type & 0x10))
		return (system_types >> s->type & 1) && s->dpl >= s->cpl && s->dpl >= s->rpl;
	if (is_code(s) && (s->type & 4))
		return true;
	return s->dpl >= s->cpl && s->dpl >= s->rpl;
}

static void check_look(const struct shape *s, uint16_t sel)
{
	struct op o = { .reg = RBX, .rm = RAX, .size = 4 };
	bool code = is_code(s), rw = s->type & 2, zf;

	c->s.gpr[RAX] = sel;
	c->s.gpr[RBX] = 1;
	assert_int_equal(run(sys_lar, &o), -1);
	zf = seen(s, 0x1a3e); /* 16-bit TSSs and call gate, LDT, task gate, TSSs, call gate */
	assert_int_equal(!!(c->fl & FL_ZF), zf);
	assert_int_equal(c->s.gpr[RBX],
			 zf ? desc(s->type | s->dpl << 5 | s->present << 7, 0xc) >> 32 & 0xffff00
			    : 1);
	c->s.gpr[RBX] = 1;
	assert_int_equal(run(sys_lsl, &o), -1);
	zf = seen(s, 0x0a0e);
	assert_int_equal(!!(c->fl & FL_ZF), zf);
	assert_int_equal(c->s.gpr[RBX], zf ? UINT32_MAX : 1);
	assert_int_equal(run(sys_verr, &o), -1);
	assert_int_equal(!!(c->fl & FL_ZF), seen(s, 0) && (!code || rw));
	assert_int_equal(run(sys_verw, &o), -1);
	assert_int_equal(!!(c->fl & FL_ZF), seen(s, 0) && !code && rw);
}

static void test_looks(void **state)
{
	for_each_shape(check_look);
}

/* --- far JMP and CALL
 * ----------------------------------------------------------------------------- */

static int oracle_jump(const struct shape *s, uint16_t sel)
{
	bool conforming = s->type & 4;

	if (!is_code(s))
		return fault_of(EXC_GP, sel & ~3u);
	if (conforming ? s->dpl > s->cpl : s->rpl > s->cpl || s->dpl != s->cpl)
		return fault_of(EXC_GP, sel & ~3u);
	return s->present ? -1 : fault_of(EXC_NP, sel & ~3u);
}

static void check_jump(const struct shape *s, uint16_t sel)
{
	struct op o = { .imm = TARGET, .disp = sel, .size = 4, .len = 7 };
	int expected = oracle_jump(s, sel);

	if (!(s->type & 0x10) && (s->type == DESC_CALL || s->type == DESC_CALL16))
		return; /* gates have a test of their own */
	assert_int_equal(run(sys_jmp_far, &o), expected);
	assert_int_equal(c->s.rip, expected < 0 ? TARGET : 0x4000);
	if (expected < 0)
		assert_int_equal(c->s.seg[SEG_CS].selector, TEST | s->cpl);
}

static void test_jumps(void **state)
{
	for_each_shape(check_jump);
}

static void test_call_and_return(void **state)
{
	struct op call = { .imm = TARGET, .disp = CODE0, .size = 4, .len = 7 };
	struct op ret = { .size = 4, .imm = 8 };

	start(MODE_32, 0);
	assert_int_equal(run(sys_call_far, &call), -1);
	assert_int_equal(c->s.rip, TARGET);
	assert_int_equal(c->s.gpr[RSP], STACK - 8);
	assert_int_equal(load_u32(f->ram + STACK - 8), 0x4007);
	assert_int_equal(load_u32(f->ram + STACK - 4), CODE0);
	assert_int_equal(run(sys_ret_far, &ret), -1);
	assert_int_equal(c->s.rip, 0x4007);
	assert_int_equal(c->s.gpr[RSP], STACK + 8);
}

static void put_call_gate(uint16_t sel, uint64_t off, unsigned dpl, unsigned params, unsigned type)
{
	put64(GDT + TEST, (off & 0xffff) | (uint64_t)sel << 16 | (uint64_t)params << 32 |
				  (uint64_t)(0x80 | dpl << 5 | type) << 40 |
				  (off >> 16 & 0xffff) << 48);
	put64(GDT + TEST + 8, off >> 32);
}

/* From ring 3 to ring 0 and back, with two parameters. */
static void test_call_gate(void **state)
{
	struct op call = { .disp = TEST | 3, .size = 4, .len = 7 };
	struct op ret = { .size = 4, .imm = 8 };
	uint64_t sp = RING0 - 24;

	start(MODE_32, 3);
	seg_load(c, SEG_SS, DATA3 | 3);
	seg_load(c, SEG_DS, DATA3 | 3);
	c->s.seg[SEG_CS].selector = CODE3 | 3;
	c->s.seg[SEG_ES].attr &= ~(uint32_t)SEG_DPL; /* the kernel's, to be taken away */
	store_u32(f->ram + STACK, 0x11);
	store_u32(f->ram + STACK + 4, 0x22);
	put_call_gate(CODE0, TARGET, 3, 2, DESC_CALL);
	assert_int_equal(run(sys_call_far, &call), -1);
	assert_int_equal(c->cpl, 0);
	assert_int_equal(c->s.rip, TARGET);
	assert_int_equal(c->s.gpr[RSP], sp);
	assert_int_equal(load_u32(f->ram + sp), 0x4007);
	assert_int_equal(load_u32(f->ram + sp + 4), CODE3 | 3);
	assert_int_equal(load_u32(f->ram + sp + 8), 0x11);
	assert_int_equal(load_u32(f->ram + sp + 12), 0x22);
	assert_int_equal(load_u32(f->ram + sp + 16), STACK);
	assert_int_equal(load_u32(f->ram + sp + 20), DATA3 | 3);

	assert_int_equal(run(sys_ret_far, &ret), -1);
	assert_int_equal(c->cpl, 3);
	assert_int_equal(c->s.rip, 0x4007);
	assert_int_equal(c->s.gpr[RSP], STACK + 8);
	assert_int_equal(c->s.seg[SEG_DS].selector, DATA3 | 3);
	assert_true(c->s.seg[SEG_ES].attr & SEG_UNUSABLE);
}

static void test_call_gate64(void **state)
{
	struct op call = { .flags = OP_MEM,
			   .base = OP_NO_REG,
			   .index = OP_NO_REG,
			   .disp = 0x6000,
			   .seg = SEG_DS,
			   .size = 4,
			   .len = 7 };
	uint64_t sp = RING0 - 32, to = 0xffff800000005678ull;

	start(MODE_64, 3);
	c->s.seg[SEG_CS].selector = CODE3_64 | 3;
	c->s.seg[SEG_SS].selector = DATA3 | 3;
	store_u32(f->ram + 0x6000, 0);
	store_u16(f->ram + 0x6004, TEST | 3);
	put_call_gate(CODE0, to, 3, 0, DESC_CALL);
	assert_int_equal(run(sys_call_far, &call), -1);
	assert_int_equal(c->s.rip, to);
	assert_int_equal(c->s.gpr[RSP], sp);
	assert_int_equal(load_u64(f->ram + sp), 0x4007);
	assert_int_equal(load_u64(f->ram + sp + 16), STACK);
	assert_true(c->s.seg[SEG_SS].attr & SEG_UNUSABLE);
	assert_int_equal(c->s.seg[SEG_SS].selector, 0);

	start(MODE_64, 3);
	put_call_gate(CODE0, to, 0, 0, DESC_CALL); /* a gate for others */
	assert_int_equal(run(sys_call_far, &call), fault_of(EXC_GP, TEST));
	put_call_gate(CODE3, to, 3, 0, DESC_CALL); /* no 64-bit code */
	assert_int_equal(run(sys_call_far, &call), fault_of(EXC_GP, CODE3));
}

/* --- IRET
 * -------------------------------------------------------------------------------------------- */

static void push_frame(uint64_t rip, uint64_t cs, uint64_t flags, uint64_t rsp, uint64_t ss)
{
	put64(STACK, rip);
	put64(STACK + 8, cs);
	put64(STACK + 16, flags);
	put64(STACK + 24, rsp);
	put64(STACK + 32, ss);
}

static bool at_hand; /* does the TLB have what IRET reads? */

static int iret64(void)
{
	struct op o = { .size = 8 };
	uint64_t v;

	if (at_hand) {
		assert_true(mmu_sys_read(c, GDT, &v, sizeof(v)));
		assert_true(mmu_read_slow(c, STACK, &v, sizeof(v)));
		assert_non_null(mmu_readable(c, STACK, 40));
	}
	return run(sys_iret, &o);
}

static void test_iret_to_user(void **state)
{
	start(MODE_64, 0);
	push_frame(0x7000, CODE3_64 | 3, RFLAGS_IF | RFLAGS_ZF | RFLAGS_ID | 2, 0x9000, DATA3 | 3);
	c->s.nmi_blocked = true;
	assert_int_equal(iret64(), -1);
	assert_int_equal(c->cpl, 3);
	assert_int_equal(c->s.rip, 0x7000);
	assert_int_equal(c->s.gpr[RSP], 0x9000);
	assert_int_equal(cpu_rflags(c), RFLAGS_IF | RFLAGS_ZF | RFLAGS_ID | 2);
	assert_true(c->s.seg[SEG_DS].attr & SEG_UNUSABLE); /* it was the kernel's */
	assert_false(c->s.nmi_blocked);

	start(MODE_64, 0); /* to compatibility mode */
	push_frame(0x7000, CODE3 | 3, 2, 0x1200009000ull, DATA3 | 3);
	assert_int_equal(iret64(), -1);
	assert_int_equal(c->mode, MODE_32);
	assert_int_equal(c->s.gpr[RSP], 0x9000);
}

static void test_iret_within_kernel(void **state)
{
	start(MODE_64, 0);
	push_frame(0x7000, CODE0, 2, 0x9000, 0); /* a null SS will do */
	assert_int_equal(iret64(), -1);
	assert_int_equal(c->cpl, 0);
	assert_int_equal(c->s.gpr[RSP], 0x9000);
}

static void expect_iret(int expected, uint64_t rip, uint64_t cs, uint64_t ss)
{
	start(MODE_64, 0);
	push_frame(rip, cs, 2, 0x9000, ss);
	assert_int_equal(iret64(), expected);
	assert_int_equal(c->s.rip, 0x4000);
	assert_int_equal(c->s.gpr[RSP], STACK);
}

static void test_iret_refuses(void **state)
{
	expect_iret(fault_of(EXC_GP, 0), 1ull << 60, CODE3_64 | 3, DATA3 | 3);
	expect_iret(fault_of(EXC_GP, 0), 0x7000, 0, DATA3 | 3);
	expect_iret(fault_of(EXC_GP, DATA3), 0x7000, DATA3 | 3, DATA3 | 3);
	expect_iret(fault_of(EXC_GP, CODE3_64), 0x7000, CODE3_64, DATA3 | 3); /* RPL is not DPL */
	expect_iret(fault_of(EXC_GP, 0), 0x7000, CODE3_64 | 3, 3); /* null SS for ring 3 */
	expect_iret(fault_of(EXC_GP, DATA0), 0x7000, CODE3_64 | 3, DATA0 | 3);
	expect_iret(fault_of(EXC_GP, 0x1000), 0x7000, 0x1003, DATA3 | 3);
	start(MODE_64, 3); /* inwards */
	push_frame(0x7000, CODE0, 2, 0x9000, DATA0);
	assert_int_equal(iret64(), fault_of(EXC_GP, CODE0));
	start(MODE_64, 0);
	cpu_set_rflags(c, RFLAGS_NT | 2);
	assert_int_equal(iret64(), fault_of(EXC_GP, 0));
}

/* What ring 3 may do to the flags. */
static void test_iret_flags(void **state)
{
	start(MODE_64, 3);
	c->s.seg[SEG_CS].selector = CODE3_64 | 3;
	push_frame(0x7000, CODE3_64 | 3, RFLAGS_IF | RFLAGS_IOPL | RFLAGS_AC | RFLAGS_DF | 2,
		   0x9000, DATA3 | 3);
	assert_int_equal(iret64(), -1);
	assert_int_equal(cpu_rflags(c), RFLAGS_AC | RFLAGS_DF | 2);
}

/* Most are done by a shorter way, which shall come to the same. */
static void test_iret_at_hand(void **state)
{
	at_hand = true;
	test_iret_to_user(state);
	test_iret_within_kernel(state);
	test_iret_refuses(state);
	test_iret_flags(state);
	for (unsigned i = 0; i < 4; i++) {
		bool same = i < 2;

		start(MODE_64, 0);
		put64(GDT + CODE0, desc(0x9b, 0xa) | (uint64_t)(i == 1) << 52); /* AVL: no matter */
		put64(GDT + DATA0, desc(i == 2 ? 0x13 : 0x93, 0xc));            /* not present */
		c->s.gdtr.limit = i == 3 ? DATA0 + 6 : 127;
		push_frame(0x7000, CODE0, RFLAGS_CF | 2, 0x9000, DATA0);
		assert_int_equal(iret64(), same ? -1 : fault_of(i == 2 ? EXC_SS : EXC_GP, DATA0));
		assert_int_equal(c->s.rip, same ? 0x7000 : 0x4000);
		assert_int_equal(c->s.gpr[RSP], same ? 0x9000 : STACK);
		assert_int_equal(c->s.seg[SEG_SS].base, 0);
	}
	at_hand = false;
}

static void test_iret_same_level_32(void **state)
{
	struct op o = { .size = 4 };

	start(MODE_32, 0);
	store_u32(f->ram + STACK, 0x7000);
	store_u32(f->ram + STACK + 4, CODE0);
	store_u32(f->ram + STACK + 8, RFLAGS_IF | 2);
	assert_int_equal(run(sys_iret, &o), -1);
	assert_int_equal(c->s.gpr[RSP], STACK + 12);
	assert_int_equal(cpu_rflags(c), RFLAGS_IF | 2);
}

/* --- system calls
 * ------------------------------------------------------------------------------------------ */

static void test_syscall(void **state)
{
	struct op o = { .len = 2 }, ret = { .size = 8 };

	start(MODE_64, 3);
	c->s.star = (uint64_t)(CODE3_64 - 16) << 48 | (uint64_t)CODE0 << 32;
	c->s.lstar = 0xffff800000001000ull;
	c->s.sfmask = RFLAGS_IF | RFLAGS_DF | RFLAGS_TF;
	cpu_set_rflags(c, RFLAGS_IF | RFLAGS_DF | RFLAGS_CF | 2);
	assert_int_equal(run(sys_syscall, &o), -1);
	assert_int_equal(c->cpl, 0);
	assert_int_equal(c->s.rip, c->s.lstar);
	assert_int_equal(c->s.gpr[RCX], 0x4002);
	assert_int_equal(c->s.gpr[R11], RFLAGS_IF | RFLAGS_DF | RFLAGS_CF | 2);
	assert_int_equal(cpu_rflags(c), RFLAGS_CF | 2);
	assert_int_equal(c->s.seg[SEG_CS].selector, CODE0);
	assert_int_equal(c->s.seg[SEG_SS].selector, CODE0 + 8);
	assert_int_equal(c->s.gpr[RSP], STACK);

	assert_int_equal(run(sys_sysret, &ret), -1);
	assert_int_equal(c->cpl, 3);
	assert_int_equal(c->mode, MODE_64);
	assert_int_equal(c->s.rip, 0x4002);
	assert_int_equal(c->s.seg[SEG_CS].selector, CODE3_64 | 3);
	assert_int_equal(cpu_rflags(c), RFLAGS_IF | RFLAGS_DF | RFLAGS_CF | 2);

	assert_int_equal(run(sys_sysret, &ret), fault_of(EXC_GP, 0)); /* not from ring 3 */
	set_cpl(0);
	c->s.gpr[RCX] = 1ull << 47;
	assert_int_equal(run(sys_sysret, &ret), fault_of(EXC_GP, 0));
	ret.size = 4;
	c->s.gpr[RCX] = 0x123400004444ull;
	assert_int_equal(run(sys_sysret, &ret), -1);
	assert_int_equal(c->mode, MODE_32);
	assert_int_equal(c->s.rip, 0x4444);
	assert_int_equal(run(sys_syscall, &o), fault_of(EXC_UD, 0)); /* 64-bit code only */
}

static void test_sysenter(void **state)
{
	struct op o = { .len = 2 }, exit = { .size = 4 };

	start(MODE_32, 3);
	assert_int_equal(run(sys_sysenter, &o), fault_of(EXC_GP, 0));
	c->s.sysenter_cs = CODE0;
	c->s.sysenter_eip = 0x8000;
	c->s.sysenter_esp = 0x9000;
	cpu_set_rflags(c, RFLAGS_IF | 2);
	assert_int_equal(run(sys_sysenter, &o), -1);
	assert_int_equal(c->cpl, 0);
	assert_int_equal(c->s.rip, 0x8000);
	assert_int_equal(c->s.gpr[RSP], 0x9000);
	assert_int_equal(cpu_rflags(c), 2);
	c->s.gpr[RDX] = 0x4002;
	c->s.gpr[RCX] = STACK;
	assert_int_equal(run(sys_sysexit, &exit), -1);
	assert_int_equal(c->cpl, 3);
	assert_int_equal(c->s.rip, 0x4002);
	assert_int_equal(c->s.seg[SEG_CS].selector, (CODE0 + 16) | 3);
	assert_int_equal(c->s.seg[SEG_SS].selector, (CODE0 + 24) | 3);
	assert_int_equal(run(sys_sysexit, &exit), fault_of(EXC_GP, 0));
}

static void test_gs_bases(void **state)
{
	struct op o = { .rm = RAX, .size = 8 };

	start(MODE_64, 0);
	c->s.seg[SEG_GS].base = 1;
	c->s.kernel_gs_base = 2;
	assert_int_equal(run(sys_swapgs, &o), -1);
	assert_int_equal(c->s.seg[SEG_GS].base, 2);
	assert_int_equal(c->s.kernel_gs_base, 1);
	assert_int_equal(run(sys_rdgsbase, &o), fault_of(EXC_UD, 0)); /* CR4.FSGSBASE */
	c->s.cr4 |= CR4_FSGSBASE;
	assert_int_equal(run(sys_rdgsbase, &o), -1);
	assert_int_equal(c->s.gpr[RAX], 2);
	c->s.gpr[RAX] = 1ull << 47;
	assert_int_equal(run(sys_wrfsbase, &o), fault_of(EXC_GP, 0));
	o.size = 4;
	c->s.gpr[RAX] = 0xffffffff12345678ull;
	assert_int_equal(run(sys_wrfsbase, &o), -1);
	assert_int_equal(c->s.seg[SEG_FS].base, 0x12345678);
	set_cpl(3);
	assert_int_equal(run(sys_swapgs, &o), fault_of(EXC_GP, 0));
}

#define T(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_loads),
		T(test_null_and_limit),
		T(test_ldt),
		T(test_ltr),
		T(test_looks),
		T(test_jumps),
		T(test_call_and_return),
		T(test_call_gate),
		T(test_call_gate64),
		T(test_iret_to_user),
		T(test_iret_within_kernel),
		T(test_iret_refuses),
		T(test_iret_flags),
		T(test_iret_at_hand),
		T(test_iret_same_level_32),
		T(test_syscall),
		T(test_sysenter),
		T(test_gs_bases),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
