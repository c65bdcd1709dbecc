/*
 * test_ram.c - guest RAM from a plan, over the simulated host: mapped, populated by
 * those who are near, looked at, and given back whatever fails.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "host/sim/sim.h"
#include "mem/ram.h"

#include <errno.h>
#include <string.h>

#define NODES    3
#define PER_NODE 2
#define BYTES    MIB(16)

static struct host sim, host;
static struct host_ops ops; /* the simulated host's, with an eye on who populates what */
static struct plan plan;
static struct host_mem region[PLAN_NODES_MAX];
static struct mem_report report;
static char why[300];

static struct {
	uint64_t bytes[NODES][NODES]; /* [the thread's node][the memory's node] */
	uint64_t calls;
	unsigned mapped, huge_pay; /* regions; those for which huge pages were said to pay */
} seen;

/* --- who does what ----------------------------------------------------------------------- */

static struct {
	void (*fn)(void *arg);
	void *arg;
	unsigned pu;
} started[64];
static unsigned nr_started;
static __thread unsigned my_node;

static void run_thread(void *arg)
{
	unsigned i = (unsigned)(uintptr_t)arg;

	my_node = started[i].pu / 4;
	started[i].fn(started[i].arg);
}

static int watched_thread(void *ctx, const struct host_thread_attr *attr, struct host_thread **out)
{
	struct host_thread_attr mine = *attr;

	assert_int_equal(pu_set_count(attr->pus), 1);
	started[nr_started].fn = attr->fn;
	started[nr_started].arg = attr->arg;
	started[nr_started].pu = pu_set_next(attr->pus, 0);
	mine.fn = run_thread;
	mine.arg = (void *)(uintptr_t)nr_started;
	nr_started = (nr_started + 1) % ARRAY_SIZE(started);
	return sim.ops->thread_create(ctx, &mine, out);
}

static int watched_map(void *ctx, const struct host_mem_attr *a, struct host_mem *out)
{
	seen.mapped++;
	seen.huge_pay += a->huge_pays;
	return sim.ops->mem_map(ctx, a, out);
}

static int watched_prefault(void *ctx, const struct host_mem *m, uint64_t offset, uint64_t bytes)
{
	seen.calls++;
	if (m->node >= 0)
		seen.bytes[my_node][m->node] += bytes;
	return sim.ops->mem_prefault(ctx, m, offset, bytes);
}

static uint64_t populated_on(unsigned node)
{
	uint64_t sum = 0;

	for (unsigned n = 0; n < NODES; n++)
		sum += seen.bytes[n][node];
	return sum;
}

static struct ram ram(void)
{
	return (struct ram){ .host = &host, .plan = &plan, .region = region };
}

/* Two vCPUs and memory on each of three nodes. */
static void begin(enum mem_policy policy)
{
	sim = sim_create(&(struct sim_config){
		.nodes = NODES, .cores_per_node = 4, .node_memory_bytes = MIB(64) });
	ops = *sim.ops;
	ops.mem_map = watched_map;
	ops.mem_prefault = watched_prefault;
	ops.thread_create = watched_thread;
	host = (struct host){ &ops, sim.ctx };
	memset(&seen, 0, sizeof(seen));
	memset(&plan, 0, sizeof(plan));
	memset(region, 0, sizeof(region));
	plan.memory_policy = policy;
	plan.nr_memory = NODES;
	plan.nr_vcpus = NODES * PER_NODE;
	for (unsigned i = 0; i < plan.nr_vcpus; i++)
		plan.vcpu[i] = (struct plan_vcpu){ .pu = i / PER_NODE * 4 + i % PER_NODE,
						   .guest_node = i / PER_NODE,
						   .host_node = (int)(i / PER_NODE) };
	for (unsigned n = 0; n < NODES; n++)
		plan.memory[n] = (struct plan_memory){ .guest_node = n,
						       .host_node = (int)n,
						       .bytes = BYTES };
}

static void end(void)
{
	struct ram r = ram();

	ram_unmap(&r);
	ram_unmap(&r); /* twice is once */
	assert_int_equal(sim_destroy(&sim), 0);
}

static int map(void)
{
	struct ram r = ram();

	why[0] = '\0';
	return ram_map(&r, why, sizeof(why));
}

static int populate_with(bool (*progress)(void *arg, uint64_t done, uint64_t all), void *arg,
			 bool all)
{
	struct ram_populate how = { .all = all, .progress = progress, .arg = arg };
	struct ram r = ram();

	why[0] = '\0';
	return ram_populate(&r, &how, &report, why, sizeof(why));
}

static int populate(void)
{
	return populate_with(NULL, NULL, true);
}

/* --- mapping -------------------------------------------------------------------------- */

static void each_node_has_its_region(void **state)
{
	begin(MEM_BIND);
	plan.memory[1].bytes = 0;
	plan.memory[2].page_bytes = MIB(2);
	assert_int_equal(map(), 0);
	assert_int_equal(sim_node_used(&sim, 0), BYTES);
	assert_int_equal(sim_node_used(&sim, 1), 0);
	assert_int_equal(sim_node_used(&sim, 2), BYTES);
	assert_null(region[1].base);
	assert_int_equal(region[0].page_bytes, PAGE_SIZE);
	assert_int_equal(region[2].page_bytes, MIB(2));
	end();
}

static void a_region_that_fails_takes_the_others_along(void **state)
{
	begin(MEM_BIND);
	plan.memory[2].bytes = MIB(65);
	assert_int_equal(map(), -ENOMEM);
	assert_non_null(strstr(why, "65 MiB"));
	assert_non_null(strstr(why, "host node 2"));
	for (unsigned n = 0; n < NODES; n++)
		assert_int_equal(sim_node_used(&sim, n), 0);
	end();
}

/* --- populating -------------------------------------------------------------------------- */

static void everything_is_populated_once(void **state)
{
	begin(MEM_BIND);
	assert_int_equal(map(), 0);
	assert_int_equal(populate(), 0);
	assert_int_equal(report.bytes, NODES * BYTES);
	assert_int_equal(report.threads, NODES * PER_NODE);
	assert_int_equal(report.looked, NODES * BYTES);
	assert_int_equal(report.placed, NODES * BYTES);
	for (unsigned n = 0; n < NODES; n++) {
		assert_int_equal(populated_on(n), BYTES);
		assert_int_equal(seen.bytes[n][n], BYTES); /* by those who are near */
	}
	end();
}

static void vcpus_that_share_a_pu_make_one_thread(void **state)
{
	begin(MEM_BIND);
	for (unsigned i = 0; i < plan.nr_vcpus; i++)
		plan.vcpu[i].pu = i / PER_NODE * 4;
	assert_int_equal(map(), 0);
	assert_int_equal(populate(), 0);
	assert_int_equal(report.threads, NODES);
	end();
}

/* Its memory is populated all the same, by those who are elsewhere. */
static void a_node_without_vcpus_is_not_forgotten(void **state)
{
	begin(MEM_BIND);
	plan.nr_vcpus = PER_NODE; /* on node 0 */
	assert_int_equal(map(), 0);
	assert_int_equal(populate(), 0);
	assert_int_equal(report.threads, PER_NODE);
	assert_int_equal(report.placed, NODES * BYTES);
	end();
}

static void only_reserved_pages_must_be_populated(void **state)
{
	begin(MEM_BIND);
	plan.memory[1].page_bytes = MIB(2);
	assert_int_equal(map(), 0);
	assert_int_equal(populate_with(NULL, NULL, false), 0);
	assert_int_equal(report.bytes, BYTES);
	assert_int_equal(populated_on(0), 0);
	assert_int_equal(populated_on(1), BYTES);
	plan.memory[1].page_bytes = 0;
	end();
	begin(MEM_BIND);
	assert_int_equal(map(), 0);
	assert_int_equal(populate_with(NULL, NULL, false), 0);
	assert_int_equal(report.bytes, 0);
	assert_int_equal(seen.calls, 0);
	end();
}

static void odd_sizes_have_odd_last_chunks(void **state)
{
	begin(MEM_BIND);
	plan.memory[0].bytes = MIB(3) + PAGE_SIZE;
	assert_int_equal(map(), 0);
	assert_int_equal(populate(), 0);
	assert_int_equal(populated_on(0), MIB(3) + PAGE_SIZE);
	end();
}

static void shortage_is_an_error_that_names_the_node(void **state)
{
	begin(MEM_BIND);
	plan.memory[2].page_bytes = MIB(2);
	assert_int_equal(map(), 0);
	sim_fail(&sim, SIM_FAIL_PREFAULT, 3);
	assert_int_equal(populate(), -ENOMEM);
	assert_non_null(strstr(why, "cannot populate guest node"));
	assert_non_null(strstr(why, "host node"));
	end();
}

static void threads_that_do_not_start_end_it(void **state)
{
	begin(MEM_BIND);
	for (unsigned nth = 1; nth <= NODES * PER_NODE; nth++) {
		if (!region[0].base)
			assert_int_equal(map(), 0);
		sim_fail(&sim, SIM_FAIL_THREAD, nth);
		assert_true(populate() < 0);
		assert_true(strlen(why) > 0);
	}
	end();
}

/* --- progress ------------------------------------------------------------------------------ */

struct watcher {
	uint64_t last, all;
	unsigned calls, stop_after;
};

static bool on_progress(void *arg, uint64_t done, uint64_t all)
{
	struct watcher *w = arg;

	assert_true(done >= w->last);
	assert_true(done <= all);
	w->last = done;
	w->all = all;
	return ++w->calls != w->stop_after;
}

static void progress_goes_up_to_the_end(void **state)
{
	struct watcher w = { 0 };

	begin(MEM_BIND);
	assert_int_equal(map(), 0);
	assert_int_equal(populate_with(on_progress, &w, true), 0);
	assert_true(w.calls > 0);
	assert_int_equal(w.all, NODES * BYTES);
	assert_int_equal(w.last, NODES * BYTES);
	end();
}

static void it_can_be_called_off(void **state)
{
	struct watcher w = { .stop_after = 1 };

	begin(MEM_BIND);
	assert_int_equal(map(), 0);
	assert_int_equal(populate_with(on_progress, &w, true), -ECANCELED);
	end();
}

/* --- looking ----------------------------------------------------------------------------- */

static void pages_elsewhere_are_an_error_if_bound(void **state)
{
	begin(MEM_BIND);
	assert_int_equal(map(), 0);
	sim_fail(&sim, SIM_FAIL_PLACE, 2);
	assert_int_equal(populate(), -EXDEV);
	assert_non_null(strstr(why, "only"));
	assert_true(report.placed < report.looked);
	end();
}

static void and_none_if_only_preferred(void **state)
{
	begin(MEM_PREFERRED);
	assert_int_equal(map(), 0);
	sim_fail(&sim, SIM_FAIL_PLACE, 2);
	assert_int_equal(populate(), 0);
	assert_true(report.placed < report.looked);
	end();
}

static void spread_memory_may_be_on_any_of_its_nodes(void **state)
{
	static const struct mem_share both[] = { { 0, 1, BYTES / 2 }, { 1, 1, BYTES / 2 } };

	for (unsigned last = 1; last <= 2; last++) {
		begin(MEM_INTERLEAVE);
		plan.nr_memory = 1;
		plan.nr_shares = last;
		memcpy(plan.share, both, sizeof(both));
		plan.memory[0].nr_shares = last;
		assert_int_equal(map(), 0);
		sim_fail(&sim, SIM_FAIL_PLACE,
			 1); /* on node 1, which is asked for the second time */
		assert_int_equal(populate(), last == 1 ? -EXDEV : 0);
		end();
	}
}

static void hosts_without_nodes_are_not_asked(void **state)
{
	begin(MEM_BIND);
	for (unsigned n = 0; n < NODES; n++)
		plan.memory[n].host_node = HOST_NODE_ANY;
	assert_int_equal(map(), 0);
	assert_int_equal(populate(), 0);
	assert_int_equal(report.looked, 0);
	assert_int_equal(report.bytes, NODES * BYTES);
	end();
}

/* What the engine says of huge pages, the host is told for each region. */
static void the_host_hears_whether_huge_pages_pay(void **state)
{
	for (unsigned pays = 0; pays < 2; pays++) {
		struct ram r;

		begin(MEM_BIND);
		r = ram();
		r.huge_pays = pays;
		assert_int_equal(ram_map(&r, why, sizeof(why)), 0);
		assert_int_equal(seen.mapped, NODES);
		assert_int_equal(seen.huge_pay, pays * NODES);
		end();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_node_has_its_region),
		cmocka_unit_test(a_region_that_fails_takes_the_others_along),
		cmocka_unit_test(everything_is_populated_once),
		cmocka_unit_test(vcpus_that_share_a_pu_make_one_thread),
		cmocka_unit_test(a_node_without_vcpus_is_not_forgotten),
		cmocka_unit_test(only_reserved_pages_must_be_populated),
		cmocka_unit_test(odd_sizes_have_odd_last_chunks),
		cmocka_unit_test(shortage_is_an_error_that_names_the_node),
		cmocka_unit_test(threads_that_do_not_start_end_it),
		cmocka_unit_test(progress_goes_up_to_the_end),
		cmocka_unit_test(it_can_be_called_off),
		cmocka_unit_test(pages_elsewhere_are_an_error_if_bound),
		cmocka_unit_test(and_none_if_only_preferred),
		cmocka_unit_test(spread_memory_may_be_on_any_of_its_nodes),
		cmocka_unit_test(hosts_without_nodes_are_not_asked),
		cmocka_unit_test(the_host_hears_whether_huge_pages_pay),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
