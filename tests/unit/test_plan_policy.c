/*
 * test_plan_policy.c - what policies, claims, pins and given nodes do to a plan, and
 * what must not change it: names and scales. Big machines are planned in time.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "placement/plan.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static struct plan p;
static char why[512];

/* @nodes nodes of @caches caches of @cores cores of @smt PUs; siblings are neighbours. */
static struct machine_model make(unsigned nodes, unsigned caches, unsigned cores, unsigned smt)
{
	unsigned per_node = caches * cores;
	struct machine_model m;

	assert_int_equal(machine_alloc(&m, nodes * per_node * smt, nodes), 0);
	m.nr_cores = nodes * per_node;
	for (unsigned i = 0; i < m.nr_pus; i++)
		m.pu[i] = (struct machine_pu){ .os_index = i,
					       .core = i / smt,
					       .smt = i % smt,
					       .llc = i / smt / cores,
					       .package = i / smt / per_node,
					       .node = i / smt / per_node,
					       .usable = true };
	for (unsigned n = 0; n < nodes; n++)
		m.node[n] = (struct machine_node){ .os_index = n,
						   .package = n,
						   .usable = true,
						   .memory_bytes = GIB(16),
						   .free_bytes = GIB(16) };
	return m;
}

static int plan(const struct machine_model *m, const struct plan_request *r)
{
	return plan_make(m, r, &p, why, sizeof(why));
}

static struct pu_set range(unsigned first, unsigned last)
{
	struct pu_set s = { 0 };

	for (unsigned i = first; i <= last; i++)
		pu_set_add(&s, i);
	return s;
}

static unsigned cores_used(const struct machine_model *m)
{
	struct pu_set s = { 0 };

	for (unsigned i = 0; i < p.nr_vcpus; i++)
		pu_set_add(&s, m->pu[machine_find_pu(m, p.vcpu[i].pu)].core);
	return pu_set_count(&s);
}

static unsigned caches_used(const struct machine_model *m)
{
	struct pu_set s = { 0 };

	for (unsigned i = 0; i < p.nr_vcpus; i++)
		pu_set_add(&s, m->pu[machine_find_pu(m, p.vcpu[i].pu)].llc);
	return pu_set_count(&s);
}

/* --- policies --------------------------------------------------------------------------- */

static void compact_takes_siblings_before_nodes(void **state)
{
	struct machine_model m = make(4, 2, 4, 2);
	struct plan_request r = { .vcpus = 16, .memory_bytes = GIB(4), .policy = PLAN_COMPACT };

	assert_int_equal(plan(&m, &r), 0);
	assert_int_equal(p.nr_memory, 1);
	assert_int_equal(cores_used(&m), 8);
	for (unsigned i = 0; i < 16; i++) { /* and the guest sees them as siblings */
		assert_int_equal(p.vcpu[i].thread, i % 2);
		assert_int_equal(p.vcpu[i].die, i / 8);
	}
	r.vcpus = 17;
	assert_int_equal(plan(&m, &r), 0);
	assert_int_equal(p.nr_memory, 2);
	machine_free(&m);
}

static void balanced_takes_cores(void **state)
{
	struct machine_model m = make(4, 2, 4, 2);
	struct plan_request r = { .vcpus = 16, .memory_bytes = GIB(4) };

	assert_int_equal(plan(&m, &r), 0);
	assert_int_equal(p.nr_memory, 2);
	assert_int_equal(cores_used(&m), 16);
	assert_true(p.cost.access == 10 && p.cost.smt == 0);
	r.vcpus = 4; /* one cache holds them */
	assert_int_equal(plan(&m, &r), 0);
	assert_int_equal(p.nr_memory, 1);
	assert_int_equal(caches_used(&m), 1);
	r.vcpus = 12; /* cut where a cache ends: 8 and 4, not 6 and 6 */
	assert_int_equal(plan(&m, &r), 0);
	assert_int_equal(p.nr_memory, 2);
	assert_int_equal(caches_used(&m), 3);
	machine_free(&m);
}

static void spread_takes_every_node_and_cache(void **state)
{
	struct machine_model m = make(4, 2, 4, 2);
	struct plan_request r = { .vcpus = 8, .memory_bytes = GIB(4), .policy = PLAN_SPREAD };

	assert_int_equal(plan(&m, &r), 0);
	assert_int_equal(p.nr_memory, 4);
	assert_int_equal(caches_used(&m), 8);
	for (unsigned g = 0; g < 4; g++)
		assert_true(p.memory[g].bytes == GIB(1));
	machine_free(&m);
}

static void isolate_leaves_siblings_idle(void **state)
{
	struct machine_model m = make(2, 1, 4, 2);
	struct plan_claim claim = { .owner = "other", .pus = range(1, 1) };
	struct plan_request r = { .vcpus = 7,
				  .memory_bytes = GIB(1),
				  .policy = PLAN_ISOLATE,
				  .claim = &claim,
				  .nr_claims = 1 };

	assert_int_equal(plan(&m, &r), 0);
	assert_int_equal(cores_used(&m), 7);
	assert_int_equal(pu_set_count(&p.claim), 14);
	assert_false(pu_set_has(&p.claim, 0)); /* its sibling is somebody's */
	r.vcpus = 8;
	assert_int_equal(plan(&m, &r), -ENOSPC);
	assert_non_null(strstr(why, "have 7"));
	machine_free(&m);
}

/* --- claims ------------------------------------------------------------------------------- */

static void claimed_pus_are_left_alone_while_others_suffice(void **state)
{
	struct machine_model m = make(2, 1, 4, 1);
	struct plan_claim claim[] = { { .owner = "one", .pus = range(0, 2) },
				      { .owner = "two", .pus = range(4, 4) } };
	struct plan_request r = { .vcpus = 4,
				  .memory_bytes = GIB(1),
				  .claim = claim,
				  .nr_claims = 2,
				  .exclusive = true };

	assert_int_equal(plan(&m, &r), 0);
	for (unsigned i = 0; i < 4; i++) {
		assert_false(p.vcpu[i].shared);
		assert_true(p.vcpu[i].pu == 3 || p.vcpu[i].pu > 4);
	}
	r.vcpus = 5;
	assert_int_equal(plan(&m, &r), -EBUSY);
	assert_true(strstr(why, "one") || strstr(why, "two"));
	r.exclusive = false;
	assert_int_equal(plan(&m, &r), 0);
	claim[0].exclusive = claim[1].exclusive = true;
	r.vcpus = 8; /* twice each of the four that are left */
	assert_int_equal(plan(&m, &r), 0);
	for (unsigned i = 0; i < 8; i++)
		assert_true(p.vcpu[i].pu == 3 || p.vcpu[i].pu > 4);
	machine_free(&m);
}

static void claimed_memory_is_not_free(void **state)
{
	struct machine_model m = make(2, 1, 4, 1);
	struct plan_claim_memory memory[] = { { .bytes = GIB(10) } };
	struct plan_claim claim = { .owner = "one", .memory = memory, .nr_memory = 1 };
	struct plan_request r = {
		.vcpus = 1, .nodes = 1, .memory_bytes = GIB(8), .claim = &claim, .nr_claims = 1
	};

	assert_int_equal(plan(&m, &r), 0);
	assert_int_equal(p.memory[0].host_node, 1);
	machine_free(&m);
}

static void broken_nodes_are_filled_first(void **state)
{
	struct machine_model m = make(3, 1, 8, 1);
	struct plan_claim claim = { .owner = "one", .pus = range(8, 11) };
	struct plan_request r = {
		.vcpus = 4, .memory_bytes = GIB(1), .claim = &claim, .nr_claims = 1
	};

	assert_int_equal(plan(&m, &r), 0);
	assert_int_equal(p.memory[0].host_node, 1);
	machine_free(&m);
}

static void io_draws(void **state)
{
	struct machine_model m = make(4, 1, 8, 1);
	struct plan_request r = { .vcpus = 4, .memory_bytes = GIB(1) };

	m.io[0] = (struct machine_io){ .name = "eth0", .node = 2 };
	m.nr_ios = 1;
	assert_int_equal(plan(&m, &r), 0);
	assert_int_equal(p.memory[0].host_node, 2);
	machine_free(&m);
}

/* --- pins and nodes -------------------------------------------------------------------------- */

static void pins_hold(void **state)
{
	struct machine_model m = make(2, 1, 4, 2);
	struct plan_pin pin[] = { { 0, 3, range(8, 15) }, { 4, 4, range(3, 3) } };
	struct plan_request r = { .vcpus = 6, .memory_bytes = GIB(1), .pin = pin, .nr_pins = 2 };

	assert_int_equal(plan(&m, &r), 0);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(p.vcpu[i].host_node, 1);
	assert_int_equal(p.vcpu[4].pu, 3);
	assert_int_equal(p.memory[0].host_node, 1); /* where most of them are */
	assert_int_equal(p.vcpu[5].host_node, 1);   /* a sibling there is nearer than a core here */

	r.vcpus = 5; /* all pinned: the pins are the cut */
	assert_int_equal(plan(&m, &r), 0);
	assert_int_equal(p.nr_memory, 2);
	assert_int_equal(p.memory[1].host_node, 0);
	assert_true(p.cost.access == 10);

	pin[1].pus = range(99, 99);
	assert_int_equal(plan(&m, &r), -EINVAL);
	assert_non_null(strstr(why, "99"));
	pin[1].last = 5;
	assert_int_equal(plan(&m, &r), -EINVAL);
	machine_free(&m);
}

static void given_nodes_are_taken_as_given(void **state)
{
	struct machine_model m = make(3, 1, 4, 1);
	struct plan_node_request node[] = {
		{ .vcpus = 1, .memory_bytes = GIB(1), .host_node = 2 },
		{ .vcpus = 4, .memory_bytes = GIB(12), .host_node = -1 },
	};
	struct plan_request r = { .vcpus = 5, .nodes = 2, .memory_bytes = GIB(13), .node = node };

	assert_int_equal(plan(&m, &r), 0);
	assert_int_equal(p.memory[0].host_node, 2);
	assert_true(p.memory[1].bytes == GIB(12));
	assert_int_equal(p.vcpu[0].guest_node, 0);
	assert_int_equal(p.vcpu[1].guest_node, 1);
	node[0].host_node = 7;
	assert_int_equal(plan(&m, &r), -EINVAL);
	node[0].host_node = 0;
	m.node[0].usable = false;
	assert_int_equal(plan(&m, &r), -ENOSPC);
	assert_non_null(strstr(why, "node 0"));
	r.memory_bytes = GIB(14);
	assert_int_equal(plan(&m, &r), -EINVAL);
	machine_free(&m);
}

static void huge_pages_are_counted(void **state)
{
	struct machine_model m = make(2, 1, 4, 1);
	struct plan_request r = {
		.vcpus = 2, .nodes = 1, .memory_bytes = GIB(1), .page_bytes = MIB(2)
	};

	assert_int_equal(plan(&m, &r), -ENOSPC);
	assert_non_null(strstr(why, "nr_hugepages"));
	m.node[0].huge[0] = (struct machine_pages){ .bytes = MIB(2), .total = 600, .free = 511 };
	m.node[1].huge[1] = (struct machine_pages){ .bytes = MIB(2), .total = 600, .free = 512 };
	assert_int_equal(plan(&m, &r), 0);
	assert_int_equal(p.memory[0].host_node, 1);
	m.node[1].huge[1].free--;
	assert_int_equal(plan(&m, &r), -ENOSPC);
	assert_non_null(strstr(why, "512 pages of 2048 KiB"));
	r.page_bytes = MIB(3);
	assert_int_equal(plan(&m, &r), -EINVAL);
	machine_free(&m);
}

/* Memory that only nodes without CPUs have is memory all the same. */
static void memory_without_cpus_is_found(void **state)
{
	struct machine_model m = make(3, 1, 4, 1);
	struct plan_request r = { .vcpus = 4, .memory_bytes = GIB(20) };

	for (unsigned i = 4; i < 12; i++)
		m.pu[i].usable = false;
	assert_int_equal(plan(&m, &r), 0);
	assert_int_equal(p.nr_memory, 2);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(p.vcpu[i].host_node, 0);
	machine_free(&m);
}

/* --- metamorphic ------------------------------------------------------------------------------ */

static uint64_t seed;

static unsigned draw(unsigned below)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return (unsigned)((seed >> 33) % below);
}

static struct machine_model draw_machine(void)
{
	struct machine_model m = make(2 + draw(5), 1 + draw(2), 1 + draw(4), 1 + draw(2));

	for (unsigned i = 0; i < m.nr_nodes; i++)
		for (unsigned j = 0; j < i; j++)
			m.distance[i * m.nr_nodes + j] = m.distance[j * m.nr_nodes + i] =
				11 + draw(30);
	for (unsigned i = 0; i < m.nr_pus; i++)
		m.pu[i].usable = draw(7) != 0;
	m.pu[0].usable = true;
	return m;
}

/* The same machine, told from its last node to its first, under other names. */
static struct machine_model relabel(const struct machine_model *m)
{
	unsigned n = m->nr_nodes, per_node = m->nr_pus / n, cores = m->nr_cores / n;
	unsigned llcs = m->pu[per_node - 1].llc + 1;
	struct machine_model r;

	assert_int_equal(machine_alloc(&r, m->nr_pus, n), 0);
	r.nr_cores = m->nr_cores;
	for (unsigned i = 0; i < n; i++) {
		unsigned o = n - 1 - i;

		r.node[i] = m->node[o];
		r.node[i].os_index = i * 5 + 3;
		for (unsigned j = 0; j < n; j++)
			r.distance[i * n + j] = m->distance[o * n + n - 1 - j];
		for (unsigned k = 0; k < per_node; k++) {
			struct machine_pu *pu = &r.pu[i * per_node + k];

			*pu = m->pu[o * per_node + k];
			pu->os_index = 1000 + (i * per_node + k) * 3;
			pu->node = i;
			pu->core = pu->core - o * cores + i * cores;
			pu->llc = pu->llc - o * llcs + i * llcs;
			pu->package = i;
		}
	}
	return r;
}

static bool alike(double a, double b)
{
	return a - b < 1e-9 && b - a < 1e-9;
}

/* --- I/O threads ------------------------------------------------------------------------- */

static unsigned node_of_pu(const struct machine_model *m, unsigned pu)
{
	return m->pu[machine_find_pu(m, pu)].node;
}

/* One a home, near it, on PUs that no vCPU has; the next machine may have them. */
static void io_threads_keep_house(void **state)
{
	struct machine_model m = make(4, 2, 4, 2);
	struct plan_request r = { .vcpus = 24, .memory_bytes = GIB(8), .nodes = 4 };
	struct pu_set vcpus = { 0 };

	assert_int_equal(plan(&m, &r), 0);
	assert_int_equal(p.nr_io, 0); /* not asked for */
	r.io_threads = true;
	assert_int_equal(plan(&m, &r), 0);
	assert_int_equal(p.nr_io, 4);
	for (unsigned i = 0; i < p.nr_vcpus; i++)
		pu_set_add(&vcpus, p.vcpu[i].pu);
	for (unsigned i = 0; i < p.nr_io; i++) {
		unsigned core = m.pu[p.io[i].pu].core;

		assert_int_equal(p.io[i].host_node, p.memory[i].host_node);
		assert_int_equal(node_of_pu(&m, p.io[i].pu), p.io[i].host_node);
		assert_false(p.io[i].shared);
		assert_false(pu_set_has(&p.claim, p.io[i].pu));
		assert_false(pu_set_has(&vcpus, core * 2) || pu_set_has(&vcpus, core * 2 + 1));
		for (unsigned j = 0; j < i; j++)
			assert_int_not_equal(p.io[i].pu, p.io[j].pu);
	}
	machine_free(&m);
}

/* Rather a sibling at home than a core far away, rather that than a vCPU's own PU. */
static void io_threads_take_what_is_left(void **state)
{
	struct machine_model m = make(2, 1, 4, 2);
	struct plan_claim others = { .owner = "others", .pus = range(8, 15) };
	struct plan_request r = {
		.vcpus = 4, .memory_bytes = GIB(2), .nodes = 1, .io_threads = true
	};

	assert_int_equal(plan(&m, &r), 0);
	assert_int_equal(node_of_pu(&m, p.io[0].pu), p.memory[0].host_node);
	assert_false(p.io[0].shared);
	r.vcpus = 8;
	r.policy = PLAN_COMPACT;
	assert_int_equal(plan(&m, &r), 0);
	assert_int_not_equal(node_of_pu(&m, p.io[0].pu), p.memory[0].host_node);
	assert_false(p.io[0].shared);
	r.claim = &others;
	r.nr_claims = 1;
	assert_int_equal(plan(&m, &r), 0);
	assert_int_equal(node_of_pu(&m, p.io[0].pu), p.memory[0].host_node);
	assert_true(p.io[0].shared);
	r.nr_claims = 0;
	r.vcpus = 4;
	r.policy = PLAN_ISOLATE; /* siblings are to be left idle */
	assert_int_equal(plan(&m, &r), 0);
	assert_false(pu_set_has(&p.claim, p.io[0].pu));
	for (unsigned i = 0; i < m.nr_pus; i++)
		m.pu[i].usable = i == 3; /* one PU for everything */
	assert_int_equal(plan(&m, &(struct plan_request){ .vcpus = 1,
							  .memory_bytes = GIB(1),
							  .io_threads = true }),
			 0);
	assert_int_equal(p.io[0].pu, 3);
	assert_true(p.io[0].shared);
	machine_free(&m);
}

static void names_and_scales_do_not_matter(void **state)
{
	for (unsigned round = 0; round < 300; round++) {
		struct machine_model m, other;
		struct plan_request r = { .memory_bytes = GIB(1) };
		double access, smt;

		seed = round * 77777ull;
		m = draw_machine();
		r.vcpus = 1 + draw(6);
		r.nodes = draw(MIN(r.vcpus, 3u) + 1);
		r.policy = draw(2) ? PLAN_BALANCED : PLAN_SPREAD;
		assert_int_equal(plan(&m, &r), 0);
		access = p.cost.access;
		smt = p.cost.smt;

		other = relabel(&m);
		assert_int_equal(plan(&other, &r), 0);
		assert_true(alike(p.cost.access, access) && alike(p.cost.smt, smt));
		machine_free(&other);

		for (unsigned i = 0; i < m.nr_nodes * m.nr_nodes; i++)
			m.distance[i] *= 7;
		assert_int_equal(plan(&m, &r), 0);
		assert_true(alike(p.cost.access, access) && alike(p.cost.smt, smt));
		machine_free(&m);
	}
}

/* --- big machines --------------------------------------------------------------------------------
 */

static double ms_of(const struct machine_model *m, const struct plan_request *r)
{
	double best = 1e9;

	for (unsigned i = 0; i < 5; i++) {
		struct timespec a, b;

		clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
		assert_int_equal(plan(m, r), 0);
		clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
		best = MIN(best, (double)(b.tv_sec - a.tv_sec) * 1e3 +
					 (double)(b.tv_nsec - a.tv_nsec) / 1e6);
	}
	return best;
}

static void big_machines_are_planned_in_time(void **state)
{
	struct machine_model m = make(64, 2, 4, 2);
	struct plan_claim claim = { .owner = "one", .pus = range(0, 499) };
	struct plan_request r = { .vcpus = 1024, .memory_bytes = GIB(512) };
	double all, one;

	for (unsigned i = 0; i < 64; i++)
		for (unsigned j = 0; j < 64; j++)
			m.distance[i * 64 + j] =
				i == j ? 10 : 12 + 4 * (unsigned)__builtin_popcount(i ^ j);
	all = ms_of(&m, &r);
	assert_true(p.cost.access == 10 && p.cost.smt == 512);
	r = (struct plan_request){
		.vcpus = 8, .memory_bytes = GIB(4), .claim = &claim, .nr_claims = 1
	};
	one = ms_of(&m, &r);
	assert_true(p.cost.access == 10 && p.cost.smt == 0);
	printf("# 1024 vCPUs on 64 nodes: %.2f ms; 8 more on them: %.3f ms\n", all, one);
	machine_free(&m);
	if (!strcmp(ALCAZAR_MODE, "rel")) { /* sanitizers take their time */
		assert_true(all <= 50);
		assert_true(one <= 1);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(compact_takes_siblings_before_nodes),
		cmocka_unit_test(balanced_takes_cores),
		cmocka_unit_test(spread_takes_every_node_and_cache),
		cmocka_unit_test(isolate_leaves_siblings_idle),
		cmocka_unit_test(claimed_pus_are_left_alone_while_others_suffice),
		cmocka_unit_test(claimed_memory_is_not_free),
		cmocka_unit_test(broken_nodes_are_filled_first),
		cmocka_unit_test(io_draws),
		cmocka_unit_test(pins_hold),
		cmocka_unit_test(given_nodes_are_taken_as_given),
		cmocka_unit_test(huge_pages_are_counted),
		cmocka_unit_test(memory_without_cpus_is_found),
		cmocka_unit_test(io_threads_keep_house),
		cmocka_unit_test(io_threads_take_what_is_left),
		cmocka_unit_test(names_and_scales_do_not_matter),
		cmocka_unit_test(big_machines_are_planned_in_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
