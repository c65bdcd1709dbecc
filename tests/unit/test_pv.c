/*
 * test_pv.c - the KVM paravirtual interface: clocks, interrupts ended in memory, steal
 * time, hypercalls.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/ipi.h"
#include "cpu/lapic.h"
#include "cpu/mmu.h"
#include "cpu/pv.h"
#include "cpu/sys.h"
#include "flat.h"
#include "host/sim/sim.h"

#define PAGE    0x600000u
#define VCPUS   4
#define TSC_KHZ 2345678u

static struct host h;
static struct flat *f;
static struct cpu *c;

static int setup(void **state)
{
	struct sim_config cfg = { .ticks_khz = TSC_KHZ };

	h = sim_create(&cfg);
	f = flat_create(&h, VCPUS, CLOCK_HOST);
	c = f->cpu;
	return 0;
}

static int teardown(void **state)
{
	flat_destroy(f);
	return (int)sim_destroy(&h);
}

static bool wrmsr(uint32_t msr, uint64_t v)
{
	bool ok = cpu_wrmsr(c, msr, v);

	c->fault.pending = false;
	return ok;
}

static int64_t vmcall(uint64_t nr, uint64_t a0, uint64_t a1, uint64_t a2, uint64_t a3)
{
	struct op o = { .len = 3 };

	c->s.gpr[RAX] = nr;
	c->s.gpr[RBX] = a0;
	c->s.gpr[RCX] = a1;
	c->s.gpr[RDX] = a2;
	c->s.gpr[RSI] = a3;
	assert_int_equal(sys_vmcall(c, &o), SYS_NEXT);
	return (int64_t)c->s.gpr[RAX];
}

/* --- clocks ------------------------------------------------------------------------- */

/* As a guest reads it. */
static uint64_t guest_ns(void)
{
	const uint8_t *p = f->ram + PAGE;
	uint64_t delta = cpu_tsc(c) - load_u64(p + 8);
	int8_t shift = (int8_t)p[28];

	assert_int_equal(load_u32(p) & 1, 0);
	delta = shift < 0 ? delta >> -shift : delta << shift;
	return load_u64(p + 16) + (uint64_t)((unsigned __int128)delta * load_u32(p + 24) >> 32);
}

static void test_system_time(void **state)
{
	uint64_t now;

	sim_advance(&h, 12345);
	assert_true(wrmsr(MSR_KVM_SYSTEM_TIME, PAGE | 1));
	assert_int_equal(f->ram[PAGE + 29] & 1, 1); /* TSC_STABLE */
	for (unsigned i = 0; i < 10; i++) {
		sim_advance(&h, i * 123456789ull);
		now = clock_now_ns(&f->vm->clock);
		assert_in_range(guest_ns(), now - now / 1000000000 - 1, now + now / 1000000000 + 1);
	}
	assert_true(wrmsr(0x10, 0)); /* the guest sets its TSC: time goes on */
	now = clock_now_ns(&f->vm->clock);
	assert_in_range(guest_ns(), now - now / 1000000000 - 1, now + now / 1000000000 + 1);
	assert_false(wrmsr(MSR_KVM_SYSTEM_TIME, FLAT_RAM | 1)); /* no RAM there */
	assert_false(wrmsr(MSR_KVM_SYSTEM_TIME, (FLAT_RAM - 16) | 1));
	assert_true(wrmsr(MSR_KVM_SYSTEM_TIME, 0));
	assert_false(wrmsr(MSR_KVM_ASYNC_PF_EN, 1)); /* not offered */
}

static void test_wall_clock(void **state)
{
	uint64_t wall, expected = h.ops->wall_ns(h.ctx);

	assert_true(wrmsr(MSR_KVM_WALL_CLOCK, PAGE));
	wall = load_u32(f->ram + PAGE + 4) * NSEC_PER_SEC + load_u32(f->ram + PAGE + 8);
	assert_in_range(wall, expected - 10, expected + 10);
	assert_false(wrmsr(MSR_KVM_WALL_CLOCK, FLAT_RAM));
}

/* --- ends of interrupts in memory -------------------------------------------------------- */

static uint32_t offer(void)
{
	return load_u32(f->ram + PAGE) & 1;
}

static void take(unsigned vector)
{
	ipi_post(f->vcpu, (uint8_t)vector, false);
	lapic_sync(c);
	assert_int_equal(lapic_ack(c), vector);
	pv_interrupt(c);
}

static void test_pv_eoi(void **state)
{
	assert_true(wrmsr(MSR_KVM_EOI_EN, PAGE | 1));
	take(0x40);
	assert_true(offer());
	store_u32(f->ram + PAGE, 0); /* the guest ends it so */
	ipi_post(f->vcpu, 0x41, false);
	pv_sync_eoi(c);
	lapic_sync(c);
	assert_true(lapic_pending(c)); /* the same class: 0x40 is out of service */
	lapic_ack(c);
	lapic_eoi(c);

	take(0x40); /* withdrawn, as something else has come: the guest must write EOI */
	ipi_post(f->vcpu, 0x41, false);
	pv_sync_eoi(c);
	lapic_sync(c);
	assert_false(offer());
	assert_false(lapic_pending(c));
	lapic_eoi(c);
	assert_int_equal(lapic_ack(c), 0x41);
	lapic_eoi(c);
}

/* Looked at from outside, at any moment, an offer stands: what the guest does is the same. */
static void test_pv_eoi_stands(void **state)
{
	assert_true(wrmsr(MSR_KVM_EOI_EN, PAGE | 1));
	take(0x40);
	cpu_take_events(c);
	assert_true(offer());
	ipi_post(f->vcpu, 0x41, false); /* waits for the end: the guest has to write EOI */
	cpu_take_events(c);
	assert_false(offer());
	lapic_eoi(c);
	assert_int_equal(lapic_ack(c), 0x41);
	lapic_eoi(c);
}

static bool in_service(const struct cpu_state *s, unsigned vector)
{
	return s->apic[0x10 + vector / 32] & 1u << vector % 32;
}

static void test_pv_eoi_saved(void **state)
{
	const struct engine_ops *e = f->vm->engine;
	struct cpu_state s;

	assert_true(wrmsr(MSR_KVM_EOI_EN, PAGE | 1));
	take(0x40); /* saved between the offer and the end */
	e->get_state(f->vcpu, &s);
	assert_true(in_service(&s, 0x40));
	assert_int_equal(e->set_state(f->vcpu, &s), 0);
	store_u32(f->ram + PAGE, 0);
	e->get_state(f->vcpu, &s);
	assert_false(in_service(&s, 0x40));
	pv_take_eoi(c);
	ipi_post(f->vcpu, 0x41, false);
	lapic_sync(c);
	assert_int_equal(lapic_ack(c), 0x41); /* the same class */
	lapic_eoi(c);
}

static void test_pv_eoi_not_offered(void **state)
{
	assert_true(wrmsr(MSR_KVM_EOI_EN, PAGE | 1));
	ipi_post(f->vcpu, 0x40, true); /* a level: the IOAPIC has to know */
	lapic_sync(c);
	lapic_ack(c);
	pv_interrupt(c);
	assert_false(offer());
	lapic_eoi(c);
	ipi_post(f->vcpu, 0x41, false); /* another one waits */
	ipi_post(f->vcpu, 0x42, false);
	lapic_sync(c);
	lapic_ack(c);
	pv_interrupt(c);
	assert_false(offer());
	assert_true(wrmsr(MSR_KVM_EOI_EN, 0));
}

/* --- steal time and remote flushes ----------------------------------------------------------- */

static void test_steal_time(void **state)
{
	uint64_t v = 0;

	store_u64(0x5000 + f->ram, 0x600000 | 7); /* something to translate */
	assert_true(wrmsr(MSR_KVM_STEAL_TIME, PAGE | 1));
	assert_int_equal(load_u32(f->ram + PAGE + 8) & 1, 0);
	pv_sleep(c);
	assert_int_equal(f->ram[PAGE + 16], 1);

	assert_true(mmu_read_u64(c, MIB(2), &v));
	store_u64(f->ram + 0x3000 + 8, 0);        /* the page directory: 2 MiB is gone */
	assert_true(mmu_read_u64(c, MIB(2), &v)); /* from the TLB */
	f->ram[PAGE + 16] |= 2;                   /* another vCPU asks for a flush */
	pv_resume(c);
	assert_int_equal(f->ram[PAGE + 16], 0);
	assert_false(mmu_read_u64(c, MIB(2), &v));
	c->fault.pending = false;
	assert_false(wrmsr(MSR_KVM_STEAL_TIME, PAGE | 3));
}

static void test_reset_forgets(void **state)
{
	assert_true(wrmsr(MSR_KVM_STEAL_TIME, PAGE | 1));
	assert_true(wrmsr(MSR_KVM_EOI_EN, (PAGE + 128) | 1));
	f->vm->engine->reset(f->vcpu);
	pv_sleep(c);
	take(0x40);
	assert_int_equal(f->ram[PAGE + 16], 0);
	assert_int_equal(f->ram[PAGE + 128], 0);
}

/* The guest may say that it polls by itself; a start anew, not INIT, takes that back. */
static void test_poll_control(void **state)
{
	uint64_t v = 0;

	assert_true(cpu_rdmsr(c, MSR_KVM_POLL_CONTROL, &v));
	assert_int_equal(v, 1);
	assert_false(c->vcpu->halt_poll.refused);
	assert_true(wrmsr(MSR_KVM_POLL_CONTROL, 0));
	assert_true(c->vcpu->halt_poll.refused);
	assert_false(wrmsr(MSR_KVM_POLL_CONTROL, 2));
	assert_true(c->vcpu->halt_poll.refused);
	assert_true(wrmsr(MSR_KVM_POLL_CONTROL, 1));
	assert_false(c->vcpu->halt_poll.refused);
	assert_true(wrmsr(MSR_KVM_POLL_CONTROL, 0));
	c->vm->engine->reset(c->vcpu);
	assert_false(c->vcpu->halt_poll.refused);
}

/* --- hypercalls --------------------------------------------------------------------------------
 */

static void test_hypercalls(void **state)
{
	struct vcpu **v = f->vm->vcpu;
	uint64_t bits = 1ull << v[1]->apic_id | 1ull << v[3]->apic_id | 1ull << 40;

	assert_int_equal(vmcall(1, 0, 0, 0, 0), 0);
	assert_int_equal(vmcall(99, 0, 0, 0, 0), -1000);
	assert_int_equal(vmcall(5, 0, v[2]->apic_id, 0, 0), 0);
	assert_true(atomic_load(&v[2]->posted.signals) & POSTED_UNHALT);
	assert_int_equal(vmcall(5, 0, 1000, 0, 0), 0);
	assert_int_equal(vmcall(10, bits, 0, 0, 0x55), 2);
	assert_true(atomic_load(&v[1]->posted.pending[1]) == 1ull << (0x55 - 64));
	assert_true(atomic_load(&v[3]->posted.pending[1]) == 1ull << (0x55 - 64));
	assert_true(atomic_load(&v[2]->posted.pending[1]) == 0);
	assert_int_equal(vmcall(10, 0, 1, v[2]->apic_id - 64u, 0x400), 1); /* an NMI */
	assert_true(atomic_load(&v[2]->posted.signals) & POSTED_NMI);
	assert_int_equal(vmcall(10, 1, 0, 0, 0x500), -1000); /* INIT is not for this */
	assert_int_equal(vmcall(11, v[1]->apic_id, 0, 0, 0), 0);
	c->s.seg[SEG_SS].attr |= SEG_DPL;
	cpu_update_mode(c);
	assert_int_equal(vmcall(11, 0, 0, 0, 0), -1);
}

#define T(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_system_time),   T(test_wall_clock),    T(test_pv_eoi),
		T(test_pv_eoi_stands), T(test_pv_eoi_saved),  T(test_pv_eoi_not_offered),
		T(test_steal_time),    T(test_reset_forgets), T(test_poll_control),
		T(test_hypercalls),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
