/* test_clock.c - the guest clock over the simulated host. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/clock.h"
#include "host/sim/sim.h"

struct shot {
	struct guest_clock *clock;
	unsigned count;
	uint64_t at_ns;
};

static void shoot(void *arg)
{
	struct shot *s = arg;

	s->count++;
	s->at_ns = clock_now_ns(s->clock);
}

static void ticks_follow_host(void **state)
{
	static const uint64_t khz[] = { 1000, 1000000, 2299998, 3579545, 5000001 };

	for (unsigned i = 0; i < ARRAY_SIZE(khz); i++) {
		struct sim_config cfg = { .ticks_khz = khz[i] };
		struct host h = sim_create(&cfg);
		struct guest_clock k;

		assert_int_equal(clock_init(&k, &h, CLOCK_HOST), 0);
		assert_int_equal(clock_now_ns(&k), 0);
		sim_advance(&h, NSEC_PER_SEC);
		assert_int_equal(clock_now_ns(&k), 0); /* not started */
		clock_start(&k);
		sim_advance(&h, 100 * NSEC_PER_SEC);
		/* Rate errors stay below one in 10^8. */
		assert_in_range(clock_now_ns(&k), 100 * NSEC_PER_SEC - 1100,
				100 * NSEC_PER_SEC + 1100);
		assert_in_range(clock_ticks(&k), khz[i] * 100000 - 1, khz[i] * 100000 + 1);
		assert_int_equal(sim_destroy(&h), 0);
	}
}

static void conversions_round_up(void **state)
{
	struct sim_config cfg = { .ticks_khz = 2299998 };
	struct host h = sim_create(&cfg);
	struct guest_clock k;

	clock_init(&k, &h, CLOCK_HOST);
	for (uint64_t ns = 1; ns < UINT64_MAX / 3; ns = ns * 3 + 1) {
		uint64_t t = clock_ns_to_ticks(&k, ns);

		if (t == UINT64_MAX)
			break;
		assert_true(clock_ticks_to_ns(&k, t) >= ns);
		assert_true(t == 0 || clock_ticks_to_ns(&k, t - 1) < ns);
	}
	assert_int_equal(clock_ns_to_ticks(&k, UINT64_MAX), UINT64_MAX);
	assert_int_equal(sim_destroy(&h), 0);
}

static void stands_still_while_stopped(void **state)
{
	struct host h = sim_create(NULL);
	struct guest_clock k;
	struct clock_timer t;
	struct shot s = { &k, 0, 0 };

	clock_init(&k, &h, CLOCK_HOST);
	assert_int_equal(clock_timer_init(&t, &k, 0, shoot, &s), 0);
	clock_start(&k);
	clock_timer_arm(&t, 5000);
	sim_advance(&h, 2000);
	clock_stop(&k);
	assert_int_equal(clock_now_ns(&k), 2000);
	sim_advance(&h, 100000);
	assert_int_equal(clock_now_ns(&k), 2000);
	assert_int_equal(s.count, 0);
	clock_start(&k);
	sim_advance(&h, 2999);
	assert_int_equal(s.count, 0);
	sim_advance(&h, 2);
	assert_int_equal(s.count, 1);
	assert_int_equal(s.at_ns, 5000);
	clock_timer_destroy(&t);
	assert_int_equal(sim_destroy(&h), 0);
}

static void rearming_replaces(void **state)
{
	struct host h = sim_create(NULL);
	struct guest_clock k;
	struct clock_timer t;
	struct shot s = { &k, 0, 0 };

	clock_init(&k, &h, CLOCK_HOST);
	clock_timer_init(&t, &k, 0, shoot, &s);
	clock_start(&k);
	clock_timer_arm(&t, 1000);
	clock_timer_arm(&t, 3000);
	sim_advance(&h, 2000);
	assert_int_equal(s.count, 0);
	clock_timer_arm(&t, HOST_FOREVER);
	sim_advance(&h, 2000);
	assert_int_equal(s.count, 0);
	clock_timer_arm(&t, 1); /* long past: at once */
	sim_advance(&h, 1);
	assert_int_equal(s.count, 1);
	clock_timer_destroy(&t);
	assert_int_equal(sim_destroy(&h), 0);
}

static void icount_runs_timers_in_order(void **state)
{
	struct host h = sim_create(NULL);
	struct guest_clock k;
	struct clock_timer a, b;
	_Atomic uint32_t attention = 0;
	struct shot sa = { &k, 0, 0 }, sb = { &k, 0, 0 };

	clock_init(&k, &h, CLOCK_ICOUNT);
	k.attention = &attention;
	clock_timer_init(&a, &k, 0, shoot, &sa);
	clock_timer_init(&b, &k, 0, shoot, &sb);
	clock_start(&k);
	assert_int_equal(clock_next_deadline(&k), HOST_FOREVER);
	clock_timer_arm(&a, 700);
	clock_timer_arm(&b, 500);
	assert_int_equal(attention, 1);
	assert_int_equal(clock_next_deadline(&k), 500);
	sim_advance(&h, NSEC_PER_SEC); /* host time is nothing to it */
	clock_run_timers(&k);
	assert_int_equal(sa.count + sb.count, 0);
	clock_advance(&k, 500);
	clock_run_timers(&k);
	assert_int_equal(sb.count, 1);
	assert_int_equal(sa.count, 0);
	clock_advance(&k, 500);
	clock_run_timers(&k);
	assert_int_equal(sa.count, 1);
	assert_int_equal(clock_next_deadline(&k), HOST_FOREVER);
	clock_timer_destroy(&a);
	clock_timer_destroy(&b);
	assert_int_equal(sim_destroy(&h), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ticks_follow_host),
		cmocka_unit_test(conversions_round_up),
		cmocka_unit_test(stands_still_while_stopped),
		cmocka_unit_test(rearming_replaces),
		cmocka_unit_test(icount_runs_timers_in_order),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
