/*
 * test_alarm.c - the local APIC's timer and the thread's alarm, under the host's clocks: no
 * deadline may be taken for covered by an alarm that has rung, and whoever looks when an
 * alarm rings has to find it due, however long the thread stood still before.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cpu/lapic.h"
#include "flat.h"
#include "host/linux/host_linux.h"

#include <time.h>

#define VECTOR       0x99
#define LVT_TIMER    0x320
#define TSC_DEADLINE (2u << 17)

static struct host host;
static struct flat *f;
static struct cpu *c;

static struct {
	const struct host_ops *real;
	struct host_ops ops;
	uint64_t alarm_ns;       /* HOST_FOREVER: none that has not rung */
	uint64_t stand_still_ns; /* the thread does, after reading the clock */
} wrapped;

static void stand_still(uint64_t ns)
{
	struct timespec t = { .tv_sec = (time_t)(ns / NSEC_PER_SEC),
			      .tv_nsec = (long)(ns % NSEC_PER_SEC) };

	assert_int_equal(nanosleep(&t, NULL), 0);
}

static uint64_t now_ns(void *ctx)
{
	uint64_t now = wrapped.real->now_ns(ctx);

	if (wrapped.stand_still_ns)
		stand_still(wrapped.stand_still_ns);
	return now;
}

static void thread_alarm(void *ctx, uint64_t deadline_ns)
{
	wrapped.alarm_ns = deadline_ns;
}

static int setup(void **state)
{
	if (host_linux_create(&host))
		return -1;
	wrapped.real = host.ops;
	wrapped.ops = *host.ops;
	wrapped.ops.now_ns = now_ns;
	wrapped.ops.thread_alarm = thread_alarm;
	wrapped.alarm_ns = HOST_FOREVER;
	wrapped.stand_still_ns = 0;
	host.ops = &wrapped.ops;
	f = flat_create_on(&engine_soft, &host, 1, CLOCK_HOST);
	c = f->cpu;
	lapic_write(c, LVT_TIMER, VECTOR | TSC_DEADLINE);
	return 0;
}

static int teardown(void **state)
{
	flat_destroy(f);
	host_linux_destroy(&host);
	return 0;
}

static void set_deadline(uint64_t from_now_ns)
{
	lapic_set_tsc_deadline(c, cpu_tsc(c) + from_now_ns * c->vm->clock.khz / 1000000);
}

/* Waits until something calls the thread's attention. False: nothing ever will. */
static bool is_called(void)
{
	if (atomic_exchange(&c->vcpu->attention, 0))
		return true;
	if (wrapped.alarm_ns == HOST_FOREVER)
		return false;
	while (wrapped.real->now_ns(host.ctx) < wrapped.alarm_ns)
		;
	wrapped.alarm_ns = HOST_FOREVER;
	return true;
}

static bool timer_hit(void)
{
	lapic_sync(c);
	return lapic_ack(c) == VECTOR;
}

static bool hits_when_called(void)
{
	while (is_called())
		if (timer_hit())
			return true;
	return false;
}

static void test_rings(void **state)
{
	for (unsigned i = 0; i < 100; i++) {
		set_deadline(100000);
		assert_true(hits_when_called());
		lapic_eoi(c);
	}
}

static void test_no_deadline_when_it_rings(void **state)
{
	set_deadline(1000000);
	lapic_set_tsc_deadline(c, 0);
	assert_false(hits_when_called());
	set_deadline(1000000);
	assert_true(hits_when_called());
}

static void test_stands_still_while_it_looks(void **state)
{
	set_deadline(40000000);
	wrapped.stand_still_ns = 10000000;
	assert_false(timer_hit());
	wrapped.stand_still_ns = 0;
	assert_true(hits_when_called());
}

#define T(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_rings),
		T(test_no_deadline_when_it_rings),
		T(test_stands_still_while_it_looks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
