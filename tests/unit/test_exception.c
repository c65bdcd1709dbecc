/*
 * test_exception.c - delivery of exceptions and interrupts in every mode: frames,
 * stacks, error codes, nesting to double and triple faults, shadows and blocking.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/ipi.h"
#include "cpu/lapic.h"
#include "cpu/mmu.h"
#include "flat.h"
#include "host/sim/sim.h"

#define GDT       0x300000u
#define TSS       0x301000u
#define IDT       0x302000u
#define HANDLER   0x123456u
#define STACK     0x310000u /* where the tests' code has its stack */
#define RING0     0x320000u
#define IST_STACK 0x330008u /* not aligned: entry aligns it */

/* Selectors of the tests' GDT. */
enum { CODE0 = 8, DATA0 = 16, CODE3 = 24, DATA3 = 32, CODE_CONF = 40, CODE_32 = 48, NO_CODE = 56 };

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

/* --- the machine ------------------------------------------------------------------- */

static uint64_t slot64(uint64_t gpa)
{
	return load_u64(f->ram + gpa);
}

static uint32_t slot32(uint64_t gpa)
{
	return load_u32(f->ram + gpa);
}

static void put64(uint64_t gpa, uint64_t v)
{
	store_u64(f->ram + gpa, v);
}

static uint64_t desc(uint32_t access, uint32_t flags)
{
	return 0xf00000000ffffull | (uint64_t)access << 40 | (uint64_t)flags << 52;
}

static void build_gdt(bool is_long)
{
	uint32_t code = is_long ? 0xa : 0xc;

	put64(GDT, 0);
	put64(GDT + CODE0, desc(0x9a, code));
	put64(GDT + DATA0, desc(0x92, 0xc));
	put64(GDT + CODE3, desc(0xfa, code));
	put64(GDT + DATA3, desc(0xf2, 0xc));
	put64(GDT + CODE_CONF, desc(0x9e, code));
	put64(GDT + CODE_32, desc(0x9a, is_long ? 0xc : 0x4));
	put64(GDT + NO_CODE, desc(0x1a, code));
	c->s.gdtr = (struct desc_table){ .base = GDT, .limit = 63 };
}

/* @type: 0xe interrupt, 0xf trap; 6 and 7 the 16-bit ones. */
static void gate(unsigned vector, uint16_t sel, unsigned type, unsigned dpl, unsigned ist)
{
	uint64_t low = (HANDLER & 0xffff) | (uint64_t)sel << 16 | (uint64_t)ist << 32 |
		       (uint64_t)(type | dpl << 5 | 0x80) << 40 | (uint64_t)(HANDLER >> 16) << 48;

	if (c->s.efer & EFER_LMA) {
		put64(IDT + vector * 16, low);
		put64(IDT + vector * 16 + 8, 0);
	} else {
		put64(IDT + vector * 8, low);
	}
}

static void set_cpl(unsigned cpl)
{
	struct segment *cs = &c->s.seg[SEG_CS], *ss = &c->s.seg[SEG_SS];

	cs->selector = (uint16_t)(cpl ? CODE3 | 3 : CODE0);
	ss->selector = (uint16_t)(cpl ? DATA3 | 3 : DATA0);
	cs->attr = (cs->attr & ~(uint32_t)SEG_DPL) | cpl << SEG_DPL_SHIFT;
	ss->attr = (ss->attr & ~(uint32_t)SEG_DPL) | cpl << SEG_DPL_SHIFT;
	cpu_update_mode(c);
}

static void start(enum cpu_mode mode, unsigned cpl)
{
	bool is_long = mode == MODE_64;

	flat_reset(f, mode);
	memset(f->ram + IDT, 0, 4096);
	build_gdt(is_long);
	memset(f->ram + TSS, 0, 0x80);
	if (is_long) {
		put64(TSS + 4, RING0);
		put64(TSS + 0x24, IST_STACK);
	} else {
		store_u32(f->ram + TSS + 4, RING0);
		store_u32(f->ram + TSS + 8, DATA0);
	}
	c->s.tr = (struct segment){
		.selector = 0x50, .attr = SEG_P | 0xb, .base = TSS, .limit = 0x67
	};
	c->s.idtr = (struct desc_table){ .base = IDT, .limit = is_long ? 4095 : 2047 };
	c->s.gpr[RSP] = STACK;
	c->s.rip = 0x4000;
	cpu_set_rflags(c, RFLAGS_ONE | RFLAGS_IF | RFLAGS_TF | RFLAGS_NT | RFLAGS_CF);
	c->fault.pending = false;
	set_cpl(cpl);
}

static bool raise_gp(uint32_t error)
{
	cpu_raise_error(c, EXC_GP, error);
	return cpu_deliver_fault(c);
}

/* --- long mode ------------------------------------------------------------------------ */

static void test_long_same_level(void **state)
{
	uint64_t sp = STACK - 48;

	start(MODE_64, 0);
	gate(EXC_GP, CODE0, 0xe, 0, 0);
	c->s.gpr[RSP] = STACK + 7; /* gets aligned */
	assert_true(raise_gp(0x1234));
	assert_int_equal(c->s.gpr[RSP], sp);
	assert_int_equal(slot64(sp), 0x1234);
	assert_int_equal(slot64(sp + 8), 0x4000);
	assert_int_equal(slot64(sp + 16), CODE0);
	assert_int_equal(slot64(sp + 24),
			 RFLAGS_ONE | RFLAGS_IF | RFLAGS_TF | RFLAGS_NT | RFLAGS_CF | RFLAGS_RF);
	assert_int_equal(slot64(sp + 32), STACK + 7);
	assert_int_equal(slot64(sp + 40), DATA0);
	assert_int_equal(c->s.rip, HANDLER);
	assert_int_equal(cpu_rflags(c), RFLAGS_ONE | RFLAGS_CF);
	assert_true(slot64(GDT + CODE0) & 1ull << 40); /* accessed */
}

static void test_long_from_user(void **state)
{
	uint64_t sp = RING0 - 40;

	start(MODE_64, 3);
	gate(EXC_UD, CODE0, 0xf, 0, 0);
	cpu_raise(c, EXC_UD);
	assert_true(cpu_deliver_fault(c));
	assert_int_equal(c->cpl, 0);
	assert_int_equal(c->s.gpr[RSP], sp);
	assert_int_equal(slot64(sp), 0x4000);
	assert_int_equal(slot64(sp + 8), CODE3 | 3);
	assert_int_equal(slot64(sp + 24), STACK);
	assert_int_equal(slot64(sp + 32), DATA3 | 3);
	assert_int_equal(c->s.seg[SEG_SS].selector, 0);
	assert_true(c->s.seg[SEG_SS].attr & SEG_UNUSABLE);
	assert_int_equal(c->s.seg[SEG_CS].selector, CODE0);
	assert_true(c->s.rflags & RFLAGS_IF); /* a trap gate */
}

static void test_long_ist(void **state)
{
	start(MODE_64, 0);
	gate(EXC_UD, CODE0, 0xe, 0, 1);
	cpu_raise(c, EXC_UD);
	assert_true(cpu_deliver_fault(c));
	assert_int_equal(c->s.gpr[RSP], (IST_STACK & ~15u) - 40);
	assert_int_equal(c->s.seg[SEG_SS].selector, DATA0); /* no change of level */
}

static void test_conforming_handler_keeps_level(void **state)
{
	start(MODE_64, 3);
	gate(EXC_UD, CODE_CONF, 0xe, 0, 0);
	cpu_raise(c, EXC_UD);
	assert_true(cpu_deliver_fault(c));
	assert_int_equal(c->cpl, 3);
	assert_int_equal(c->s.seg[SEG_CS].selector, CODE_CONF | 3);
	assert_int_equal(c->s.gpr[RSP], STACK - 40);
}

/* --- protected mode ---------------------------------------------------------------------- */

static void test_protected_same_level(void **state)
{
	uint64_t sp = STACK - 16;

	start(MODE_32, 0);
	gate(EXC_GP, CODE0, 0xe, 0, 0);
	assert_true(raise_gp(0x50));
	assert_int_equal(c->s.gpr[RSP], sp);
	assert_int_equal(slot32(sp), 0x50);
	assert_int_equal(slot32(sp + 4), 0x4000);
	assert_int_equal(slot32(sp + 8), CODE0);
	assert_true(slot32(sp + 12) & RFLAGS_RF);
}

static void test_protected_from_user(void **state)
{
	uint64_t sp = RING0 - 20;

	start(MODE_32, 3);
	gate(EXC_UD, CODE0, 0xe, 0, 0);
	cpu_raise(c, EXC_UD);
	assert_true(cpu_deliver_fault(c));
	assert_int_equal(c->cpl, 0);
	assert_int_equal(c->s.gpr[RSP], sp);
	assert_int_equal(slot32(sp + 12), STACK);
	assert_int_equal(slot32(sp + 16), DATA3 | 3);
	assert_int_equal(c->s.seg[SEG_SS].selector, DATA0);
	assert_false(c->s.rflags & RFLAGS_IF);
}

static void test_16_bit_gate(void **state)
{
	start(MODE_32, 0);
	gate(EXC_UD, CODE0, 6, 0, 0);
	cpu_raise(c, EXC_UD);
	assert_true(cpu_deliver_fault(c));
	assert_int_equal(c->s.gpr[RSP], STACK - 6);
	assert_int_equal(c->s.rip, HANDLER & 0xffff);
}

static void test_real_mode(void **state)
{
	flat_reset(f, MODE_16);
	c->s.cr0 &= ~(uint64_t)CR0_PE;
	for (unsigned i = 0; i < SEG_COUNT; i++)
		c->s.seg[i] = (struct segment){ .attr = 0x93, .limit = 0xffff };
	c->s.idtr = (struct desc_table){ .base = 0, .limit = 0x3ff };
	c->s.seg[SEG_SS].selector = 0x3000;
	c->s.seg[SEG_SS].base = 0x30000;
	c->s.rip = 0x77;
	c->s.gpr[RSP] = 0;
	cpu_set_rflags(c, RFLAGS_ONE | RFLAGS_IF | RFLAGS_TF);
	cpu_update_mode(c);
	mmu_switch(c, true);
	store_u32(f->ram + EXC_GP * 4, 0xbeef1234);
	assert_true(raise_gp(99)); /* no error code here */
	assert_int_equal(c->s.rip, 0x1234);
	assert_int_equal(c->s.seg[SEG_CS].selector, 0xbeef);
	assert_int_equal(c->s.seg[SEG_CS].base, 0xbeef0);
	assert_int_equal(c->s.gpr[RSP], 0xfffa);
	assert_int_equal(load_u16(f->ram + 0x3fffa), 0x77);
	assert_false(c->s.rflags & (RFLAGS_IF | RFLAGS_TF));
}

/* --- what goes wrong on the way ----------------------------------------------------------------
 */

/* Deliver #UD; the fault it meets is delivered through a good #GP, #NP, #SS, #TS or #DF gate. */
static void expect_nested(uint8_t vector, uint32_t error)
{
	uint64_t rip = c->s.rip, error_at;

	gate(vector, CODE0, 0xe, 0, 0);
	cpu_raise(c, EXC_UD);
	assert_true(cpu_deliver_fault(c));
	assert_int_equal(c->s.rip, HANDLER);
	error_at = c->s.gpr[RSP];
	assert_int_equal(slot64(error_at), error);
	assert_int_equal(slot64(error_at + 8), rip);
	gate(vector, 0, 0, 0, 0);
}

static void test_nested_errors(void **state)
{
	start(MODE_64, 0);
	expect_nested(EXC_GP, EXC_UD * 8 | 3); /* an empty gate: IDT and EXT */
	start(MODE_64, 0);
	gate(EXC_UD, CODE0, 0xe, 0, 0);
	f->ram[IDT + EXC_UD * 16 + 5] &= 0x7f;
	expect_nested(EXC_NP, EXC_UD * 8 | 3);
	start(MODE_64, 0);
	gate(EXC_UD, 0, 0xe, 0, 0);
	expect_nested(EXC_GP, 1);
	start(MODE_64, 0);
	gate(EXC_UD, DATA0, 0xe, 0, 0);
	expect_nested(EXC_GP, DATA0 | 1);
	start(MODE_64, 0);
	gate(EXC_UD, CODE_32, 0xe, 0, 0);
	expect_nested(EXC_GP, CODE_32 | 1);
	start(MODE_64, 0);
	gate(EXC_UD, NO_CODE, 0xe, 0, 0);
	expect_nested(EXC_NP, NO_CODE | 1);
	start(MODE_64, 0);
	gate(EXC_UD, 0x1000, 0xe, 0, 0);
	expect_nested(EXC_GP, 0x1001);
	start(MODE_64, 0);
	gate(EXC_UD, CODE0, 0xe, 0, 7);
	c->s.tr.limit = 0x30;
	expect_nested(EXC_TS, 0x51);
}

static void test_double_and_triple_fault(void **state)
{
	start(MODE_64, 0);
	gate(EXC_DF, CODE0, 0xe, 0, 0);
	assert_true(raise_gp(5)); /* no #GP gate: contributory twice */
	assert_int_equal(slot64(c->s.gpr[RSP]), 0);
	assert_int_equal(c->s.rip, HANDLER);

	start(MODE_64, 0);
	assert_false(raise_gp(5));

	start(MODE_64, 0);
	cpu_raise_pf(c, 0x1000, 0);
	gate(EXC_DF, CODE0, 0xe, 0, 1);
	assert_true(cpu_deliver_fault(c)); /* #PF, then #GP for want of a gate */
	assert_int_equal(c->s.cr2, 0x1000);
	assert_int_equal(c->s.gpr[RSP], (IST_STACK & ~15u) - 48);
}

/* A stack that is not there: page fault on the way to #UD is just a page fault. */
static void test_page_fault_on_the_way(void **state)
{
	start(MODE_64, 0);
	gate(EXC_UD, CODE0, 0xe, 0, 0);
	gate(EXC_PF, CODE0, 0xe, 0, 1);
	c->s.gpr[RSP] = GIB(1) + 0x1000;
	put64(0x2008, 0); /* the second GiB is not mapped */
	cpu_raise(c, EXC_UD);
	assert_true(cpu_deliver_fault(c));
	assert_int_equal(c->s.cr2, GIB(1) + 0x1000 - 40);
	assert_int_equal(slot64((IST_STACK & ~15u) - 48), PF_W);
	assert_int_equal(slot64((IST_STACK & ~15u) - 16), GIB(1) + 0x1000);
}

static void test_non_canonical_stack(void **state)
{
	start(MODE_64, 0);
	gate(EXC_UD, CODE0, 0xe, 0, 0);
	gate(EXC_SS, CODE0, 0xe, 0, 1);
	c->s.gpr[RSP] = 1ull << 60;
	cpu_raise(c, EXC_UD);
	assert_true(cpu_deliver_fault(c));
	assert_int_equal(slot64((IST_STACK & ~15u) - 48), 1); /* EXT */
}

/* --- INT n
 * ------------------------------------------------------------------------------------------- */

static void test_software_interrupts(void **state)
{
	start(MODE_64, 3);
	gate(0x80, CODE0, 0xe, 0, 0);
	assert_false(cpu_software_interrupt(c, 0x80, false));
	assert_int_equal(c->fault.vector, EXC_GP);
	assert_int_equal(c->fault.error, 0x80 * 8 | 2); /* IDT, not EXT */
	c->fault.pending = false;
	gate(0x80, CODE0, 0xe, 3, 0);
	assert_true(cpu_software_interrupt(c, 0x80, false));
	assert_int_equal(c->cpl, 0);
	start(MODE_64, 3);
	gate(EXC_DB, CODE0, 0xe, 0, 0);
	assert_true(cpu_software_interrupt(c, EXC_DB, true)); /* INT1 asks nobody */
}

GUEST(int_code, "int $0x80\n hlt");
GUEST(int3_code, "int3\n hlt");
GUEST(ud_code, "ud2\n hlt");
GUEST(db_code, "pushf\n orl $0x100, (%rsp)\n popf\n nop\n hlt");

static void test_return_addresses(void **state)
{
	FLAT_RUN(f, int_code);
	assert_int_equal(f->vector, 0x80);
	assert_int_equal(slot64(c->s.gpr[RSP]), FLAT_CODE + 2);
	FLAT_RUN(f, int3_code);
	assert_int_equal(f->vector, EXC_BP);
	assert_int_equal(slot64(c->s.gpr[RSP]), FLAT_CODE + 1);
	FLAT_RUN(f, ud_code);
	assert_int_equal(f->vector, EXC_UD);
	assert_int_equal(slot64(c->s.gpr[RSP]), FLAT_CODE);
}

static void test_single_step(void **state)
{
	FLAT_RUN(f, db_code);
	assert_int_equal(f->vector, EXC_DB);
	assert_int_equal(slot64(c->s.gpr[RSP]), FLAT_CODE + 10); /* after the NOP */
	assert_true(c->s.dr6 & DR6_BS);
	assert_false(c->s.rflags & RFLAGS_TF);
}

/* --- interrupts
 * ------------------------------------------------------------------------------------------ */

GUEST(sti_code, "xor %eax, %eax\n sti\n inc %eax\n inc %eax\n hlt");
GUEST(sti_cli_code, "mov $100, %ecx\n 1: sti\n nop\n cli\n loop 1b\n hlt");

static void test_sti_shadow(void **state)
{
	flat_reset(f, MODE_64);
	flat_load(f, sti_code, sti_code_end);
	ipi_post(f->vcpu, 0x40, false);
	flat_run(f);
	assert_int_equal(f->vector, 0x40);
	assert_int_equal(flat_reg(f, RAX), 1); /* one instruction after STI */
}

/* A window of one instruction is enough. */
static void test_sti_nop_cli(void **state)
{
	flat_reset(f, MODE_64);
	flat_load(f, sti_cli_code, sti_cli_code_end);
	ipi_post(f->vcpu, 0x40, false);
	flat_run(f);
	assert_int_equal(f->vector, 0x40);
	assert_int_equal(flat_reg(f, RCX), 100);
}

static void test_interrupts_wait_for_if(void **state)
{
	start(MODE_64, 0);
	cpu_set_rflags(c, RFLAGS_ONE);
	gate(0x40, CODE0, 0xe, 0, 0);
	ipi_post(f->vcpu, 0x40, false);
	assert_true(cpu_take_events(c));
	assert_int_equal(c->s.rip, 0x4000);
	cpu_set_rflags(c, RFLAGS_ONE | RFLAGS_IF);
	assert_true(cpu_take_events(c));
	assert_int_equal(c->s.rip, HANDLER);
	assert_int_equal(slot64(c->s.gpr[RSP] + 16), RFLAGS_ONE | RFLAGS_IF); /* no RF */
}

GUEST(iret_code, "mov %ss, %eax\n push %rax\n lea 8(%rsp), %rdx\n push %rdx\n"
		 "pushf\n mov %cs, %eax\n push %rax\n lea 1f(%rip), %rax\n push %rax\n iretq\n"
		 "1: hlt");

static void test_nmi_blocking(void **state)
{
	start(MODE_64, 0);
	gate(EXC_NMI, CODE0, 0xe, 0, 0);
	ipi_nmi(f->vcpu);
	c->s.movss_shadow = true;
	assert_true(cpu_take_events(c));
	assert_int_equal(c->s.rip, 0x4000);
	c->s.movss_shadow = false;
	assert_true(cpu_take_events(c));
	assert_int_equal(c->s.rip, HANDLER);
	assert_true(c->s.nmi_blocked);
	c->s.rip = 0x5000;
	ipi_nmi(f->vcpu);
	assert_true(cpu_take_events(c));
	assert_int_equal(c->s.rip, 0x5000);
	assert_true(c->s.nmi_pending);

	flat_reset(f, MODE_64);
	c->s.nmi_blocked = true;
	flat_load(f, iret_code, iret_code_end);
	flat_run(f);
	assert_int_equal(f->vector, -1);
	assert_false(c->s.nmi_blocked);
}

/* No gate for an interrupt: #GP with IDT and EXT in its place. */
static void test_interrupt_without_gate(void **state)
{
	start(MODE_64, 0);
	gate(EXC_GP, CODE0, 0xe, 0, 0);
	ipi_post(f->vcpu, 0x40, false);
	assert_true(cpu_take_events(c));
	assert_int_equal(slot64(c->s.gpr[RSP]), 0x40 * 8 | 3);
}

static void test_halt_ends(void **state)
{
	start(MODE_64, 0);
	gate(0x40, CODE0, 0xe, 0, 0);
	c->s.mp_state = MP_HALTED;
	assert_true(cpu_take_events(c));
	assert_int_equal(c->s.mp_state, MP_HALTED);
	ipi_post(f->vcpu, 0x40, false);
	assert_true(cpu_take_events(c));
	assert_int_equal(c->s.mp_state, MP_RUNNING);
}

#define T(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_long_same_level),
		T(test_long_from_user),
		T(test_long_ist),
		T(test_conforming_handler_keeps_level),
		T(test_protected_same_level),
		T(test_protected_from_user),
		T(test_16_bit_gate),
		T(test_real_mode),
		T(test_nested_errors),
		T(test_double_and_triple_fault),
		T(test_page_fault_on_the_way),
		T(test_non_canonical_stack),
		T(test_software_interrupts),
		T(test_return_addresses),
		T(test_single_step),
		T(test_sti_shadow),
		T(test_sti_nop_cli),
		T(test_interrupts_wait_for_if),
		T(test_nmi_blocking),
		T(test_interrupt_without_gate),
		T(test_halt_ends),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
