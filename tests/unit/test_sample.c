/* test_sample.c - what the sampler says of vCPUs that say what they do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/sample.h"
#include "flat.h"
#include "host/sim/sim.h"

static uint64_t us(const struct vcpu *v, enum vcpu_stat id)
{
	return atomic_load(&v->stats.count[id]);
}

static struct flat *create(struct host *host, bool sample)
{
	struct vmm_config cfg = { .sample_time = sample };

	*host = sim_create(NULL);
	return flat_create_as(&engine_interp, host, 2, CLOCK_HOST, &cfg);
}

static void destroy(struct host *host, struct flat *f)
{
	flat_destroy(f);
	assert_int_equal(sim_destroy(host), 0);
}

static void assert_about(uint64_t is, uint64_t expected)
{
	assert_in_range(is, expected - 4000, expected + 4000); /* a look is off by one period */
}

/* Each vCPU's time goes where the vCPU is, all of it. */
static void test_where_time_goes(void **state)
{
	struct host host;
	struct flat *f = create(&host, true);
	struct vcpu *a = f->vm->vcpu[0], *b = f->vm->vcpu[1];
	uint64_t sum = 0;

	atomic_store(&a->mode, VCPU_GUEST);
	atomic_store(&b->mode, VCPU_SLEEPING);
	assert_int_equal(vcpu_doing(a, DOING_CODE), DOING_CODE);
	assert_int_equal(sampler_start(f->vm), 0);
	sim_advance(&host, 100 * NSEC_PER_MSEC);
	assert_int_equal(vcpu_doing(a, DOING_MMU), DOING_CODE);
	sim_advance(&host, 50 * NSEC_PER_MSEC);
	assert_int_equal(vcpu_doing(a, DOING_TRANSLATE), DOING_MMU);
	atomic_store(&b->mode, VCPU_OUTSIDE);
	sim_advance(&host, 30 * NSEC_PER_MSEC);
	sampler_stop(f->vm);

	assert_about(us(a, STAT_CODE_US), 100000);
	assert_about(us(a, STAT_MMU_US), 50000);
	assert_about(us(a, STAT_TRANSLATE_US), 30000);
	assert_int_equal(us(a, STAT_INTERP_US) + us(a, STAT_IDLE_US), 0);
	assert_about(us(b, STAT_IDLE_US), 150000);
	assert_about(us(b, STAT_OUTSIDE_US), 30000);
	for (unsigned id = STAT_CODE_US; id <= STAT_IDLE_US; id++)
		sum += us(a, id);
	assert_about(sum, 180000);

	sim_advance(&host, 100 * NSEC_PER_MSEC);
	assert_about(us(b, STAT_OUTSIDE_US), 30000); /* it has stopped */
	destroy(&host, f);
}

static void test_nobody_wants_to_know(void **state)
{
	struct host host;
	struct flat *f = create(&host, false);

	assert_int_equal(sampler_start(f->vm), 0);
	sim_advance(&host, 20 * NSEC_PER_MSEC);
	assert_int_equal(us(f->vcpu, STAT_OUTSIDE_US), 0);
	sampler_stop(f->vm);
	destroy(&host, f);
}

static void test_no_timer(void **state)
{
	struct host host;
	struct flat *f = create(&host, true);

	sim_fail(&host, SIM_FAIL_TIMER, 1);
	assert_int_not_equal(sampler_start(f->vm), 0);
	sampler_stop(f->vm);
	destroy(&host, f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_where_time_goes),
		cmocka_unit_test(test_nobody_wants_to_know),
		cmocka_unit_test(test_no_timer),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
