/*
 * test_lapic.c - the local APIC and the fabric between APICs: priorities, timers
 * under virtual time, destinations of every kind, both register interfaces.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/device_core.h"
#include "core/ipi.h"
#include "cpu/lapic.h"
#include "flat.h"
#include "host/sim/sim.h"

#include <stdlib.h>

#define VCPUS 20

enum { ID = 0x20, TPR = 0x80, PPR = 0xa0, EOI = 0xb0, LDR = 0xd0, DFR = 0xe0, SVR = 0xf0 };
enum { ISR = 0x100, TMR = 0x180, IRR = 0x200, ESR = 0x280, ICR = 0x300, ICR_HIGH = 0x310 };
enum { LVT_TIMER = 0x320, LVT_LINT0 = 0x350, LVT_ERROR = 0x370 };
enum { INITIAL = 0x380, CURRENT = 0x390, DIVIDE = 0x3e0 };

#define PERIODIC (1u << 17)
#define DEADLINE (2u << 17)
#define MASKED   (1u << 16)

static struct host h;
static struct flat *f;
static struct cpu *c;

/* --- an interrupt controller that counts ends of interrupts ------------------------- */

struct recorder {
	unsigned eois;
	uint8_t vector;
	int ext_vector;
};

static void record_eoi(struct dev *d, uint8_t vector)
{
	struct recorder *r = dev_state(d);

	r->eois++;
	r->vector = vector;
}

static void record_irq(struct dev *d, unsigned gsi, bool level)
{
}

static int record_ack(struct dev *d)
{
	struct recorder *r = dev_state(d);

	return r->ext_vector ? r->ext_vector : -1;
}

static const struct device_type recorder_type = {
	.name = "recorder",
	.state_size = sizeof(struct recorder),
	.irq_in = record_irq,
	.eoi = record_eoi,
	.ack = record_ack,
};

static struct dev *controller;

static struct recorder *recorder(void)
{
	return dev_state(controller);
}

static int setup(void **state)
{
	h = sim_create(NULL);
	f = flat_create(&h, VCPUS, CLOCK_HOST);
	c = f->cpu;
	return dev_create(f->vm, &recorder_type, HOST_NODE_ANY, &controller);
}

static int teardown(void **state)
{
	dev_destroy(controller);
	flat_destroy(f);
	return (int)sim_destroy(&h);
}

/* --- shorthand -------------------------------------------------------------------------- */

static struct cpu *cpu(unsigned i)
{
	return cpu_of(f->vm->vcpu[i]);
}

static uint32_t rd(unsigned off)
{
	return lapic_read(c, off);
}

static void wr(unsigned off, uint32_t v)
{
	lapic_write(c, off, v);
}

static bool rdmsr(unsigned off, uint64_t *v)
{
	return lapic_msr_read(c, 0x800 + (off >> 4), v);
}

static bool wrmsr(unsigned off, uint64_t v)
{
	return lapic_msr_write(c, 0x800 + (off >> 4), v);
}

static void enable(struct cpu *t)
{
	lapic_write(t, SVR, 0x1ff);
}

static void enable_all(void)
{
	for (unsigned i = 0; i < VCPUS; i++)
		enable(cpu(i));
}

static void to_x2apic(struct cpu *t)
{
	assert_true(lapic_set_base(t, t->s.apic_base | APIC_BASE_X2APIC | APIC_BASE_ENABLE));
}

static bool has(struct cpu *t, unsigned set, unsigned vector)
{
	uint64_t word;

	if (t->s.apic_base & APIC_BASE_X2APIC) {
		assert_true(lapic_msr_read(t, 0x800 + (set >> 4) + vector / 32, &word));
		return word >> vector % 32 & 1;
	}
	return lapic_read(t, set + vector / 32 * 16) >> vector % 32 & 1;
}

/* The vCPUs that have @vector requested, as a bit mask; the requests are taken away. */
static uint32_t got(unsigned vector)
{
	uint32_t mask = 0;

	for (unsigned i = 0; i < VCPUS; i++) {
		struct cpu *t = cpu(i);

		lapic_sync(t);
		if (lapic_pending(t) && lapic_ack(t) == (int)vector) {
			mask |= BIT(i);
			lapic_eoi(t);
		}
	}
	return mask;
}

/* --- priorities ----------------------------------------------------------------------------- */

static void test_highest_first(void **state)
{
	ipi_post(f->vcpu, 0x31, false);
	ipi_post(f->vcpu, 0x52, false);
	ipi_post(f->vcpu, 0x51, false);
	lapic_sync(c);
	assert_true(has(c, IRR, 0x31));
	assert_int_equal(lapic_ack(c), 0x52);
	assert_true(has(c, ISR, 0x52));
	assert_false(has(c, IRR, 0x52));
	assert_int_equal(rd(PPR), 0x50);
	assert_false(lapic_pending(c)); /* 0x51 is of the same class */
	ipi_post(f->vcpu, 0x60, false);
	lapic_sync(c);
	assert_int_equal(lapic_ack(c), 0x60); /* nests */
	wr(EOI, 0);
	assert_false(has(c, ISR, 0x60));
	wr(EOI, 0);
	assert_int_equal(lapic_ack(c), 0x51);
	wr(EOI, 0);
	assert_int_equal(lapic_ack(c), 0x31);
	wr(EOI, 0);
	assert_true(lapic_ack(c) < 0);
	wr(EOI, 0); /* nothing in service: nothing happens */
}

static void test_task_priority(void **state)
{
	ipi_post(f->vcpu, 0x4f, false);
	wr(TPR, 0x40);
	lapic_sync(c);
	assert_false(lapic_pending(c));
	assert_int_equal(lapic_cr8(c), 4);
	assert_int_equal(rd(PPR), 0x40);
	atomic_store(&f->vcpu->attention, 0);
	lapic_set_cr8(c, 3);
	assert_int_equal(rd(TPR), 0x30);
	assert_true(lapic_pending(c));
	assert_int_equal(atomic_load(&f->vcpu->attention), 1);
}

static void test_eoi_broadcast(void **state)
{
	ipi_post(f->vcpu, 0x40, true);
	lapic_sync(c);
	assert_true(has(c, TMR, 0x40));
	lapic_ack(c);
	wr(EOI, 0);
	assert_int_equal(recorder()->eois, 1);
	assert_int_equal(recorder()->vector, 0x40);

	ipi_post(f->vcpu, 0x40, false); /* an edge: nobody has to know */
	lapic_sync(c);
	assert_false(has(c, TMR, 0x40));
	lapic_ack(c);
	wr(EOI, 0);
	assert_int_equal(recorder()->eois, 1);

	wr(SVR, 0x11ff); /* suppressed: the guest tells the IOAPIC itself */
	ipi_post(f->vcpu, 0x40, true);
	lapic_sync(c);
	lapic_ack(c);
	wr(EOI, 0);
	assert_int_equal(recorder()->eois, 1);
}

static void test_software_disable(void **state)
{
	wr(LVT_TIMER, 0x33);
	assert_false(rd(LVT_TIMER) & MASKED);
	wr(SVR, 0xff);
	assert_true(rd(LVT_TIMER) & MASKED);
	wr(LVT_TIMER, 0x33);
	assert_true(rd(LVT_TIMER) & MASKED);
	ipi_post(f->vcpu, 0x40, false);
	lapic_sync(c);
	assert_false(lapic_pending(c));
}

static void test_reset_values(void **state)
{
	assert_int_equal(rd(SVR), 0x1ff);
	assert_int_equal(rd(LVT_LINT0), 0x700); /* the PIC's */
	assert_int_equal(rd(0x360), 0x400);
	assert_int_equal(lapic_read(cpu(1), SVR), 0xff);
	assert_int_equal(lapic_read(cpu(1), LVT_LINT0), MASKED);
	assert_int_equal(lapic_read(cpu(3), ID), f->vm->vcpu[3]->apic_id << 24);
	assert_int_equal(rd(DFR), UINT32_MAX);
}

/* --- the PIC
 * -------------------------------------------------------------------------------------- */

static void test_extint(void **state)
{
	recorder()->ext_vector = 0x21;
	assert_false(lapic_pending(c));
	ipi_extint(f->vm, true);
	assert_true(lapic_pending(c));
	assert_int_equal(lapic_ack(c), 0x21);
	assert_false(has(c, ISR, 0x21)); /* the PIC keeps its own books */
	ipi_extint(f->vm, false);
	assert_false(lapic_pending(c));

	ipi_extint(f->vm, true);
	wr(LVT_LINT0, 0x700 | MASKED);
	assert_false(lapic_pending(c));
	assert_true(lapic_set_base(c, c->s.apic_base & ~(uint64_t)APIC_BASE_ENABLE));
	assert_true(lapic_pending(c)); /* no APIC: the pin is INTR */
}

static void test_lint0_fixed(void **state)
{
	wr(LVT_LINT0, 0x44);
	ipi_extint(f->vm, true);
	lapic_sync(c);
	assert_int_equal(lapic_ack(c), 0x44);
	lapic_sync(c);
	assert_false(has(c, IRR, 0x44)); /* one edge, one interrupt */
}

/* --- timers
 * ------------------------------------------------------------------------------------------ */

static bool timer_hit(void)
{
	lapic_sync(c);
	if (lapic_ack(c) != 0x99)
		return false;
	wr(EOI, 0);
	return true;
}

static void test_one_shot(void **state)
{
	wr(LVT_TIMER, 0x99);
	wr(DIVIDE, 0xb); /* by 1 */
	wr(INITIAL, 1000);
	assert_int_equal(rd(CURRENT), 1000);
	sim_advance(&h, 400);
	assert_int_equal(rd(CURRENT), 600);
	sim_advance(&h, 599);
	assert_false(timer_hit());
	sim_advance(&h, 1);
	assert_true(timer_hit());
	assert_int_equal(rd(CURRENT), 0);
	sim_advance(&h, 5000);
	assert_false(timer_hit());
	assert_true(lapic_deadline(c) == HOST_FOREVER);
	wr(INITIAL, 1000);
	wr(INITIAL, 0); /* stops it */
	sim_advance(&h, 5000);
	assert_false(timer_hit());
}

static void test_periodic(void **state)
{
	wr(LVT_TIMER, 0x99 | PERIODIC);
	wr(DIVIDE, 0x1); /* by 4 */
	wr(INITIAL, 250);
	for (unsigned i = 0; i < 5; i++) {
		sim_advance(&h, 999);
		assert_false(timer_hit());
		sim_advance(&h, 1);
		assert_true(timer_hit());
	}
	sim_advance(&h, 3500); /* missed ones are one; the phase stays */
	assert_true(timer_hit());
	assert_false(timer_hit());
	sim_advance(&h, 499);
	assert_false(timer_hit());
	sim_advance(&h, 1);
	assert_true(timer_hit());
}

static void test_divide(void **state)
{
	static const struct {
		uint32_t code, by;
	} rate[] = { { 0, 2 },  { 1, 4 },  { 2, 8 },    { 3, 16 },
		     { 8, 32 }, { 9, 64 }, { 10, 128 }, { 11, 1 } };

	wr(LVT_TIMER, 0x99);
	for (unsigned i = 0; i < ARRAY_SIZE(rate); i++) {
		wr(DIVIDE, rate[i].code);
		wr(INITIAL, 100);
		sim_advance(&h, 100 * rate[i].by - 1);
		assert_false(timer_hit());
		sim_advance(&h, 1);
		assert_true(timer_hit());
	}
}

static void test_tsc_deadline(void **state)
{
	wr(LVT_TIMER, 0x99 | DEADLINE);
	wr(INITIAL, 5); /* ignored */
	c->s.tsc_offset = 1000000;
	lapic_set_tsc_deadline(c, cpu_tsc(c) + 700);
	sim_advance(&h, 690);
	assert_false(timer_hit());
	assert_int_not_equal(lapic_tsc_deadline(c), 0);
	sim_advance(&h, 12); /* rounding is away from early */
	assert_true(timer_hit());
	assert_int_equal(lapic_tsc_deadline(c), 0);

	lapic_set_tsc_deadline(c, cpu_tsc(c) - 1); /* past: at once */
	assert_true(timer_hit());
	lapic_set_tsc_deadline(c, cpu_tsc(c) + 100);
	lapic_set_tsc_deadline(c, 0);
	sim_advance(&h, 1000);
	assert_false(timer_hit());
	lapic_set_tsc_deadline(c, UINT64_MAX / 2); /* never, in practice */
	assert_false(timer_hit());

	lapic_set_tsc_deadline(c, cpu_tsc(c) + 5000);
	c->s.tsc_offset += 4900; /* the guest moves its TSC */
	lapic_tsc_changed(c);
	sim_advance(&h, 102);
	assert_true(timer_hit());
	lapic_set_tsc_deadline(c, cpu_tsc(c) + 100);
	wr(LVT_TIMER, 0x99); /* another mode disarms */
	sim_advance(&h, 1000);
	assert_false(timer_hit());
}

static void test_masked_timer_runs(void **state)
{
	wr(LVT_TIMER, 0x99 | MASKED);
	wr(DIVIDE, 0xb);
	wr(INITIAL, 100);
	sim_advance(&h, 200);
	assert_false(timer_hit());
	wr(LVT_TIMER, 0x99);
	assert_false(timer_hit());
}

/* --- destinations: xAPIC
 * ------------------------------------------------------------------------------- */

static void send(uint32_t high, uint32_t low)
{
	wr(ICR_HIGH, high);
	wr(ICR, low);
}

static uint32_t id(unsigned i)
{
	return f->vm->vcpu[i]->apic_id;
}

static void test_physical(void **state)
{
	enable_all();
	send(id(7) << 24, 0x40);
	assert_int_equal(got(0x40), BIT(7));
	send(0xfeu << 24, 0x40); /* nobody */
	assert_int_equal(got(0x40), 0);
	send(0xffu << 24, 0x40);
	assert_int_equal(got(0x40), BIT(VCPUS) - 1);
}

static void test_shorthands(void **state)
{
	enable_all();
	send(0, 0x41 | 1 << 18);
	assert_int_equal(got(0x41), BIT(0));
	send(0, 0x41 | 2 << 18);
	assert_int_equal(got(0x41), BIT(VCPUS) - 1);
	send(0, 0x41 | 3 << 18);
	assert_int_equal(got(0x41), (BIT(VCPUS) - 1) & ~BIT(0));
}

static void test_logical_flat(void **state)
{
	enable_all();
	for (unsigned i = 0; i < 8; i++)
		lapic_write(cpu(i), LDR, 1u << (24 + i));
	send(0x85u << 24, 0x42 | 1 << 11);
	assert_int_equal(got(0x42), 0x85);
	lapic_write(cpu(2), LDR, 0x80u << 24); /* two may share a bit */
	send(0x84u << 24, 0x42 | 1 << 11);
	assert_int_equal(got(0x42), 0x84);
	send(0xffu << 24, 0x42 | 1 << 11);
	assert_int_equal(got(0x42), BIT(VCPUS) - 1);
}

static void test_logical_cluster(void **state)
{
	enable_all();
	for (unsigned i = 0; i < VCPUS; i++) {
		lapic_write(cpu(i), DFR, 0x0fffffff);
		lapic_write(cpu(i), LDR, (i / 4 << 4 | 1u << i % 4) << 24);
	}
	send(0x25u << 24, 0x43 | 1 << 11);
	assert_int_equal(got(0x43), BIT(8) | BIT(10));
	send(0x4fu << 24, 0x43 | 1 << 11);
	assert_int_equal(got(0x43), 0xf0000);
	send(0xe1u << 24, 0x43 | 1 << 11);
	assert_int_equal(got(0x43), 0);
}

static void test_lowest_priority(void **state)
{
	uint32_t seen = 0;

	enable_all();
	for (unsigned i = 0; i < 8; i++)
		lapic_write(cpu(i), LDR, 1u << (24 + i));
	for (unsigned vector = 0x40; vector < 0x60; vector++) {
		uint32_t one;

		send(0x0fu << 24, vector | 1 << 8 | 1 << 11);
		one = got(vector);
		assert_int_equal(__builtin_popcount(one), 1);
		seen |= one;
	}
	assert_int_equal(seen, 0xf); /* all of them carry some */
}

/* --- signals
 * -------------------------------------------------------------------------------------------------
 */

static void test_init_and_startup(void **state)
{
	struct cpu *ap = cpu(5);
	uint64_t deadline;

	assert_int_equal(ap->s.mp_state, MP_WAIT_SIPI);
	assert_false(lapic_has_work(ap, &deadline));
	send(id(5) << 24, 0x4500);
	send(id(5) << 24, 0x4600 | 0x9a);
	assert_true(lapic_has_work(ap, &deadline));
	assert_true(cpu_take_events(ap));
	assert_int_equal(ap->s.mp_state, MP_RUNNING);
	assert_int_equal(ap->s.seg[SEG_CS].selector, 0x9a00);
	assert_int_equal(ap->s.seg[SEG_CS].base, 0x9a000);
	assert_int_equal(ap->s.rip, 0);
	send(id(5) << 24, 0x4600 | 0x12); /* the second one is for nobody */
	assert_true(cpu_take_events(ap));
	assert_int_equal(ap->s.seg[SEG_CS].selector, 0x9a00);
	send(id(5) << 24, 0x8500); /* INIT level de-assert */
	assert_true(cpu_take_events(ap));
	assert_int_equal(ap->s.mp_state, MP_RUNNING);
}

static void test_init_keeps(void **state)
{
	struct cpu *ap = cpu(1);

	to_x2apic(ap);
	ap->s.pat = 0x0606060606060606ull;
	ap->s.tsc_offset = 77;
	ap->s.gpr[RBX] = 1;
	ap->s.cr4 = CR4_PAE;
	ipi_signal(f->vm->vcpu[1], POSTED_INIT);
	assert_true(cpu_take_events(ap));
	assert_true(ap->s.apic_base & APIC_BASE_X2APIC);
	assert_true(ap->s.pat == 0x0606060606060606ull);
	assert_int_equal(ap->s.tsc_offset, 77);
	assert_int_equal(ap->s.gpr[RBX], 0);
	assert_int_equal(ap->s.cr4, 0);
}

static void test_errors(void **state)
{
	wr(LVT_ERROR, 0xfe);
	send(0, 0x0f); /* vectors below 16 are exceptions' */
	wr(ESR, 0);
	assert_int_equal(rd(ESR), 0x20);
	assert_int_equal(lapic_ack(c), 0xfe);
	wr(EOI, 0);
	wr(ESR, 0);
	assert_int_equal(rd(ESR), 0);
	rd(0x3f0);
	wr(ESR, 0);
	assert_int_equal(rd(ESR), 0x80);
}

/* --- x2APIC
 * ---------------------------------------------------------------------------------------------------
 */

static void all_x2apic(void)
{
	enable_all();
	for (unsigned i = 0; i < VCPUS; i++)
		to_x2apic(cpu(i));
}

static void send2(uint32_t dest, uint32_t low)
{
	assert_true(wrmsr(ICR, (uint64_t)dest << 32 | low));
}

static void test_x2apic_destinations(void **state)
{
	all_x2apic();
	send2(id(9), 0x40);
	assert_int_equal(got(0x40), BIT(9));
	send2(UINT32_MAX, 0x40);
	assert_int_equal(got(0x40), BIT(VCPUS) - 1);
	send2(0xff, 0x40); /* an ID like any other */
	assert_int_equal(got(0x40), 0);
	send2(0x00010005, 0x40 | 1 << 11); /* cluster 1: IDs 16 to 31 */
	assert_int_equal(got(0x40), BIT(16) | BIT(18));
	send2(0x0000ffff, 0x40 | 1 << 11 | 1 << 8);
	assert_int_equal(__builtin_popcount(got(0x40)), 1);
	assert_true(wrmsr(0x3f0, 0x77));
	assert_int_equal(got(0x77), BIT(0));
}

static void test_x2apic_registers(void **state)
{
	uint64_t v;

	assert_false(rdmsr(TPR, &v)); /* not in this mode */
	to_x2apic(c);
	assert_true(lapic_page(c) == UINT64_MAX);
	assert_true(rdmsr(ID, &v));
	assert_int_equal(v, id(0));
	assert_true(lapic_msr_read(cpu(0), 0x80d, &v));
	assert_int_equal(v, 1);
	assert_false(wrmsr(ID, 0));
	assert_false(wrmsr(LDR, 0));
	assert_false(wrmsr(DFR, 0));
	assert_false(rdmsr(DFR, &v));
	assert_false(rdmsr(ICR_HIGH, &v));
	assert_false(wrmsr(EOI, 1));
	assert_false(wrmsr(TPR, 0x100));
	assert_true(wrmsr(TPR, 0x20));
	assert_false(wrmsr(SVR, 0x10000));
	assert_false(wrmsr(ICR, 1 << 20));
	assert_false(wrmsr(CURRENT, 0));
	assert_false(wrmsr(DIVIDE, 4));
	assert_false(rdmsr(0x3f0, &v));
	to_x2apic(cpu(17));
	assert_true(lapic_msr_read(cpu(17), 0x80d, &v));
	assert_int_equal(v, 1 << 16 | 2);
}

static void test_apic_base(void **state)
{
	uint64_t on = c->s.apic_base, x2 = on | APIC_BASE_X2APIC;
	uint64_t off = on & ~(uint64_t)APIC_BASE_ENABLE;

	assert_false(lapic_set_base(c, off | APIC_BASE_X2APIC));
	assert_true(lapic_set_base(c, x2));
	assert_false(lapic_set_base(c, on)); /* only by way of off */
	assert_true(lapic_set_base(c, off));
	assert_false(lapic_set_base(c, x2));
	assert_true(lapic_set_base(c, on));
	assert_true(lapic_set_base(c, (on & 0xfff) | 0xfed00000));
	assert_int_equal(lapic_page(c), 0xfed00000);
	assert_false(lapic_set_base(c, on | 1));
	assert_false(lapic_set_base(c, on | 1ull << f->vm->cpuid.phys_bits));
}

/* --- messages from devices
 * --------------------------------------------------------------------------------------- */

static void test_msi(void **state)
{
	enable_all();
	ipi_msi(f->vm, 0xfee00000 | id(6) << 12, 0x55);
	assert_int_equal(got(0x55), BIT(6));
	ipi_msi(f->vm, 0xfee00000 | 0xff << 12, 0x55);
	assert_int_equal(got(0x55), BIT(VCPUS) - 1);
	lapic_write(cpu(3), LDR, 8u << 24);
	ipi_msi(f->vm, 0xfee00000 | 8 << 12 | 4, 0x55);
	assert_int_equal(got(0x55), BIT(3));
	ipi_msi(f->vm, 0xfee00000 | id(6) << 12, 0x8055); /* level */
	lapic_sync(cpu(6));
	assert_true(has(cpu(6), TMR, 0x55));
	got(0x55);
	ipi_msi(f->vm, 0x1000, 0x55);     /* not ours */
	ipi_msi(f->vm, 0xfee00000, 0x05); /* no vector */
	assert_int_equal(got(0x55), 0);
	assert_int_equal(got(0x05), 0);
	ipi_msi(f->vm, 0xfee00000 | id(2) << 12, 0x400); /* NMI */
	assert_true(atomic_load(&f->vm->vcpu[2]->posted.signals) & POSTED_NMI);
}

/* Bits 14:8 of the destination are in address bits 11:5. */
static void test_msi_extended_destination(void **state)
{
	all_x2apic();
	assert_null(ipi_find(soft_of(f->vm)->ipi, 0x102));
	ipi_msi(f->vm, 0xfee00000 | id(2) << 12, 0x56);
	assert_int_equal(got(0x56), BIT(2));
	ipi_msi(f->vm, 0xfee00000 | id(2) << 12 | 1 << 5, 0x56);
	assert_int_equal(got(0x56), 0); /* that is 0x102 */
}

/* A thousand vCPUs do not make a look-up longer; one beyond 255 is reached. */
static void test_many_vcpus(void **state)
{
	struct vcpu *v = aligned_alloc(CACHELINE, 1024 * sizeof(*v)), *p[1024];
	struct vm *vm = aligned_alloc(CACHELINE, sizeof(*vm));
	struct soft_vm sv = { .codemap = NULL };

	memset(v, 0, 1024 * sizeof(*v));
	memset(vm, 0, sizeof(*vm));
	for (unsigned i = 0; i < 1024; i++) {
		v[i].apic_id = i * 2;
		v[i].vm = vm;
		p[i] = &v[i];
	}
	vm->host = h;
	vm->vcpu = p;
	vm->nr_vcpus = 1024;
	vm->engine_data = &sv;
	assert_int_equal(ipi_create(vm, &sv.ipi), 0);
	ipi_msi(vm, 0xfee00000 | (2000 & 0xff) << 12 | 2000 >> 8 << 5, 0x57);
	assert_true(atomic_load(&v[1000].posted.pending[1]) == 1ull << (0x57 - 64));
	assert_ptr_equal(ipi_find(sv.ipi, 2046), &v[1023]);
	assert_null(ipi_find(sv.ipi, 2045));
	assert_null(ipi_find(sv.ipi, 2048));
	ipi_destroy(vm, sv.ipi);
	free(v);
	free(vm);
}

/* --- idle
 * -----------------------------------------------------------------------------------------------------------
 */

static void test_has_work(void **state)
{
	uint64_t deadline;

	c->s.mp_state = MP_HALTED;
	c->s.rflags |= RFLAGS_IF;
	assert_false(lapic_has_work(c, &deadline));
	assert_true(deadline == HOST_FOREVER);
	wr(LVT_TIMER, 0x99);
	wr(DIVIDE, 0xb);
	wr(INITIAL, 1000);
	assert_false(lapic_has_work(c, &deadline));
	assert_int_equal(deadline, 1000);
	ipi_post(f->vcpu, 0x30, false);
	assert_true(lapic_has_work(c, &deadline));
	c->s.rflags &= ~(uint64_t)RFLAGS_IF; /* only an NMI ends this one */
	assert_false(lapic_has_work(c, &deadline));
	assert_true(deadline == HOST_FOREVER);
	ipi_nmi(f->vcpu);
	assert_true(lapic_has_work(c, &deadline));
}

/* A kick before the HLT it is meant for is not lost. */
static void test_unhalt(void **state)
{
	uint64_t deadline;

	ipi_signal(f->vcpu, POSTED_UNHALT);
	assert_true(cpu_take_events(c));
	c->s.mp_state = MP_HALTED;
	assert_true(lapic_has_work(c, &deadline));
	assert_true(cpu_take_events(c));
	assert_int_equal(c->s.mp_state, MP_RUNNING);
	c->s.mp_state = MP_HALTED;
	assert_false(lapic_has_work(c, &deadline));
}

#define T(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_highest_first),
		T(test_task_priority),
		T(test_eoi_broadcast),
		T(test_software_disable),
		T(test_reset_values),
		T(test_extint),
		T(test_lint0_fixed),
		T(test_one_shot),
		T(test_periodic),
		T(test_divide),
		T(test_tsc_deadline),
		T(test_masked_timer_runs),
		T(test_physical),
		T(test_shorthands),
		T(test_logical_flat),
		T(test_logical_cluster),
		T(test_lowest_priority),
		T(test_init_and_startup),
		T(test_init_keeps),
		T(test_errors),
		T(test_x2apic_destinations),
		T(test_x2apic_registers),
		T(test_apic_base),
		T(test_msi),
		T(test_msi_extended_destination),
		T(test_many_vcpus),
		T(test_has_work),
		T(test_unhalt),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
