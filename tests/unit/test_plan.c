/*
 * test_plan.c - the planner: a few machines by hand, and properties that must hold on
 * thousands of random ones.
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

/* --- machines ------------------------------------------------------------------- */

/* @nodes nodes of @cores cores of @smt PUs each; OS indexes as Linux numbers them. */
static struct machine_model make_machine(unsigned nodes, unsigned cores, unsigned smt,
					 uint64_t free_bytes)
{
	unsigned nr_cores = nodes * cores;
	struct machine_model m;

	assert_int_equal(machine_alloc(&m, nr_cores * smt, nodes), 0);
	for (unsigned i = 0; i < m.nr_pus; i++) {
		unsigned core = i / smt;

		m.pu[i] = (struct machine_pu){
			.os_index = core + i % smt * nr_cores,
			.core = core,
			.smt = i % smt,
			.llc = core / cores,
			.die = core / cores,
			.package = core / cores,
			.node = core / cores,
			.usable = true,
		};
	}
	for (unsigned n = 0; n < nodes; n++)
		m.node[n] = (struct machine_node){
			.os_index = n,
			.package = n,
			.memory_bytes = free_bytes,
			.free_bytes = free_bytes,
			.usable = true,
		};
	m.nr_cores = nr_cores;
	m.nr_llcs = m.nr_dies = m.nr_packages = nodes;
	return m;
}

static int plan(const struct machine_model *m, unsigned vcpus, unsigned nodes, uint64_t bytes,
		struct plan *p, char why[256])
{
	struct plan_request r = { .vcpus = vcpus, .nodes = nodes, .memory_bytes = bytes };

	why[0] = '\0';
	return plan_make(m, &r, p, why, 256);
}

static void plan_well(const struct machine_model *m, unsigned vcpus, unsigned nodes, uint64_t bytes,
		      struct plan *p)
{
	char why[256];

	assert_int_equal(plan(m, vcpus, nodes, bytes, p, why), 0);
}

/* --- by hand -------------------------------------------------------------------- */

static void cores_come_before_siblings(void **state)
{
	struct machine_model m = make_machine(2, 4, 2, GIB(8));
	struct plan p;

	plan_well(&m, 8, 0, GIB(1), &p);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(p.vcpu[i].pu, i); /* the siblings are 8 to 15 */
	assert_int_equal(p.nr_memory, 2);          /* node 0 has no core left: two guest nodes */
	assert_int_equal(p.memory[0].host_node, 0);
	assert_int_equal(p.memory[1].host_node, 1);
	assert_true(p.cost.access == 10 && p.cost.smt == 0);

	plan_well(&m, 9, 0, GIB(1), &p);
	assert_true(p.cost.access == 10 && p.cost.smt == 1);
	for (unsigned i = 0; i < 9; i++)
		assert_false(p.vcpu[i].shared); /* a PU of its own all the same */
	machine_free(&m);
}

/* One node's memory for all: siblings at home are worth more than cores abroad, at first. */
static void distance_is_weighed_against_siblings(void **state)
{
	struct machine_model m = make_machine(2, 4, 2, GIB(8));
	struct plan p;

	plan_well(&m, 8, 1, GIB(1), &p);
	assert_true(p.cost.access == 10 && p.cost.smt == 4); /* abroad: 15 and 0 */
	plan_well(&m, 12, 1, GIB(1), &p);
	assert_true(p.cost.smt == 4); /* a pair counts as much as 12 away is dear */
	machine_free(&m);
}

static void guest_nodes_stay_home(void **state)
{
	struct machine_model m = make_machine(2, 4, 2, GIB(8));
	struct plan p;

	plan_well(&m, 6, 2, GIB(2), &p);
	for (unsigned i = 0; i < 6; i++) {
		assert_int_equal(p.vcpu[i].guest_node, i / 3);
		assert_int_equal(p.vcpu[i].host_node, i / 3);
	}
	for (unsigned g = 0; g < 2; g++) {
		assert_int_equal(p.memory[g].host_node, g);
		assert_int_equal(p.memory[g].bytes, GIB(1));
	}
	/* More than the cores: siblings at home, as siblings of the guest. */
	plan_well(&m, 12, 2, GIB(2), &p);
	for (unsigned i = 0; i < 12; i++)
		assert_int_equal(p.vcpu[i].host_node, i / 6);
	assert_int_equal(p.vcpu[1].core, p.vcpu[0].core);
	assert_int_equal(p.vcpu[1].thread, 1);
	machine_free(&m);
}

static void near_nodes_are_taken(void **state)
{
	struct machine_model m = make_machine(4, 2, 1, GIB(8));
	struct plan p;

	/* Nodes 1 and 3 are neighbours, all others are far apart. */
	for (unsigned i = 0; i < 4; i++)
		for (unsigned j = 0; j < 4; j++)
			m.distance[i * 4 + j] = i == j ? 10 : i + j == 4 && i != 2 ? 12 : 30;
	plan_well(&m, 4, 2, GIB(2), &p);
	assert_int_equal(p.memory[0].host_node, 1);
	assert_int_equal(p.memory[1].host_node, 3);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(p.vcpu[i].host_node, i < 2 ? 1 : 3);
	machine_free(&m);
}

static void memory_chooses_the_home(void **state)
{
	struct machine_model m = make_machine(3, 2, 1, GIB(1));
	struct plan p;

	m.node[2].free_bytes = GIB(4);
	plan_well(&m, 2, 1, GIB(2), &p);
	assert_int_equal(p.memory[0].host_node, 2);
	assert_int_equal(p.vcpu[0].host_node, 2);
	assert_int_equal(p.vcpu[1].host_node, 2);

	/* Two guest nodes of 1 GiB and a bit: both only fit on node 2. */
	plan_well(&m, 2, 2, GIB(2) + MIB(2), &p);
	assert_int_equal(p.memory[0].host_node, 2);
	assert_int_equal(p.memory[1].host_node, 2);
	machine_free(&m);
}

static void odd_amounts_are_cut_evenly(void **state)
{
	struct machine_model m = make_machine(1, 4, 1, GIB(8));
	struct plan p;

	plan_well(&m, 5, 3, MIB(100), &p);
	assert_int_equal(p.memory[0].bytes, MIB(34));
	assert_int_equal(p.memory[1].bytes, MIB(33));
	assert_int_equal(p.memory[2].bytes, MIB(33));
	assert_int_equal(p.vcpu[1].guest_node, 0);
	assert_int_equal(p.vcpu[3].guest_node, 1);
	assert_int_equal(p.vcpu[4].guest_node, 2);
	machine_free(&m);
}

static void host_without_nodes_will_do(void **state)
{
	struct machine_model m = make_machine(1, 2, 1, 0);
	struct plan p;

	m.nr_nodes = 0;
	m.pu[0].node = m.pu[1].node = MACHINE_NONE;
	plan_well(&m, 3, 2, GIB(1), &p);
	assert_int_equal(p.memory[0].host_node, -1);
	assert_int_equal(p.vcpu[0].host_node, -1);
	assert_int_equal(p.vcpu[0].shared + p.vcpu[1].shared + p.vcpu[2].shared, 2);
	machine_free(&m);
}

static void refusals_name_need_and_have(void **state)
{
	struct machine_model m = make_machine(2, 2, 1, GIB(1));
	char why[256];
	struct plan p;

	m.node[1].free_bytes = MIB(1500);
	assert_int_equal(plan(&m, 2, 1, GIB(2), &p, why), -ENOSPC);
	assert_non_null(strstr(why, "2048 MiB"));
	assert_non_null(strstr(why, "1500 MiB"));
	assert_non_null(strstr(why, "node 1"));
	assert_int_equal(plan(&m, 4, 4, GIB(4), &p, why), -ENOSPC);
	assert_non_null(strstr(why, "room for 2"));

	for (unsigned i = 0; i < m.nr_pus; i++)
		m.pu[i].usable = false;
	assert_int_equal(plan(&m, 1, 1, MIB(1), &p, why), -ENOSPC);
	assert_non_null(strstr(why, "4 PUs"));
	machine_free(&m);
}

static void nonsense_is_refused(void **state)
{
	static const struct plan_request bad[] = {
		{ .vcpus = 0, .nodes = 1, .memory_bytes = MIB(1) },
		{ .vcpus = PLAN_VCPUS_MAX + 1, .nodes = 1, .memory_bytes = MIB(1) },
		{ .vcpus = 100, .nodes = PLAN_NODES_MAX + 1, .memory_bytes = GIB(1) },
		{ .vcpus = 2, .nodes = 3, .memory_bytes = MIB(3) },
		{ .vcpus = 1, .nodes = 1, .memory_bytes = 0 },
		{ .vcpus = 2, .nodes = 2, .memory_bytes = MIB(1) },
		{ .vcpus = 1, .nodes = 1, .memory_bytes = MIB(1) + 1 },
		{ .vcpus = UINT32_MAX, .nodes = UINT32_MAX, .memory_bytes = UINT64_MAX },
	};
	struct machine_model m = make_machine(1, 2, 1, GIB(1));
	struct plan p;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		char why[256] = "";

		assert_int_equal(plan_make(&m, &bad[i], &p, why, sizeof(why)), -EINVAL);
		assert_true(strlen(why) > 10);
	}
	machine_free(&m);
}

/* --- properties ------------------------------------------------------------------- */

static uint64_t seed;

static unsigned draw(unsigned below)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return (unsigned)((seed >> 33) % below);
}

static struct machine_model draw_machine(void)
{
	struct machine_model m = make_machine(1 + draw(8), 1 + draw(6), 1 + draw(4), GIB(4));

	for (unsigned i = 0; i < m.nr_nodes; i++) {
		m.node[i].os_index = i * 3 + 1;
		m.node[i].free_bytes = MIB(draw(4096));
		m.node[i].usable = draw(8) != 0;
		for (unsigned j = 0; j < i; j++)
			m.distance[i * m.nr_nodes + j] = m.distance[j * m.nr_nodes + i] =
				11 + draw(30);
	}
	for (unsigned i = 0; i < m.nr_pus; i++)
		m.pu[i].usable = draw(5) != 0;
	return m;
}

static unsigned count_usable(const struct machine_model *m, unsigned *cores)
{
	unsigned usable = 0, last = MACHINE_NONE;

	*cores = 0;
	for (unsigned i = 0; i < m->nr_pus; i++) {
		if (!m->pu[i].usable)
			continue;
		usable++;
		*cores += m->pu[i].core != last;
		last = m->pu[i].core;
	}
	return usable;
}

static void check_vcpus(const struct machine_model *m, const struct plan_request *r,
			const struct plan *p)
{
	unsigned load[256] = { 0 }, cores;
	unsigned usable = count_usable(m, &cores), v = 0;

	for (unsigned g = 0; g < r->nodes; g++)
		for (unsigned i = 0; i < r->vcpus / r->nodes + (g < r->vcpus % r->nodes); i++)
			assert_int_equal(p->vcpu[v++].guest_node, g);
	for (unsigned i = 0; i < r->vcpus; i++) {
		unsigned at = machine_find_pu(m, p->vcpu[i].pu);

		assert_int_not_equal(at, MACHINE_NONE);
		assert_true(m->pu[at].usable);
		assert_int_equal(p->vcpu[i].host_node, m->node[m->pu[at].node].os_index);
		load[at]++;
	}
	for (unsigned i = 0; i < m->nr_pus; i++) {
		if (!m->pu[i].usable)
			continue;
		assert_true(load[i] >= r->vcpus / usable);
		assert_true(load[i] <= (r->vcpus + usable - 1) / usable);
	}
	for (unsigned i = 0; i < r->vcpus; i++)
		assert_int_equal(p->vcpu[i].shared, load[machine_find_pu(m, p->vcpu[i].pu)] > 1);
}

static void check_memory(const struct machine_model *m, const struct plan_request *r,
			 const struct plan *p)
{
	uint64_t used[16] = { 0 }, sum = 0;

	for (unsigned g = 0; g < r->nodes; g++) {
		unsigned at = machine_find_node(m, (unsigned)p->memory[g].host_node);

		assert_int_not_equal(at, MACHINE_NONE);
		assert_true(m->node[at].usable);
		assert_int_equal(p->memory[g].guest_node, g);
		used[at] += p->memory[g].bytes;
		sum += p->memory[g].bytes;
	}
	assert_int_equal(sum, r->memory_bytes);
	for (unsigned i = 0; i < m->nr_nodes; i++)
		assert_true(used[i] <= m->node[i].free_bytes);
}

/* Where every home has a core for each of its vCPUs, nobody lives abroad. */
static void check_homes(const struct machine_model *m, const struct plan_request *r,
			const struct plan *p)
{
	unsigned wanted[16] = { 0 };
	bool all_fit = true;

	for (unsigned i = 0; i < r->vcpus; i++)
		wanted[machine_find_node(m,
					 (unsigned)p->memory[p->vcpu[i].guest_node].host_node)]++;
	for (unsigned n = 0; n < m->nr_nodes; n++) {
		unsigned cores = 0, last = MACHINE_NONE;

		for (unsigned i = 0; i < m->nr_pus; i++) {
			if (m->pu[i].node != n || !m->pu[i].usable || m->pu[i].core == last)
				continue;
			last = m->pu[i].core;
			cores++;
		}
		all_fit &= wanted[n] <= cores;
	}
	for (unsigned i = 0; all_fit && i < r->vcpus; i++)
		assert_int_equal(p->vcpu[i].host_node, p->memory[p->vcpu[i].guest_node].host_node);
}

/* A refusal must be true: so many guest nodes really do not fit. */
static void check_refusal(const struct machine_model *m, const struct plan_request *r)
{
	uint64_t mib = r->memory_bytes / MIB(1);
	uint64_t need = MIB(mib / r->nodes + (mib % r->nodes != 0)), room = 0;
	unsigned cores;

	if (!count_usable(m, &cores))
		return;
	for (unsigned i = 0; i < m->nr_nodes; i++)
		if (m->node[i].usable)
			room += m->node[i].free_bytes / need;
	assert_true(room < r->nodes);
}

static void random_machines_keep_the_rules(void **state)
{
	unsigned planned = 0, refused = 0;

	for (unsigned round = 0; round < 1500; round++) {
		struct plan p = { 0 }, again = { 0 };
		struct machine_model m;
		struct plan_request r = { 0 };
		char why[256];

		seed = round;
		m = draw_machine();
		r.vcpus = 1 + draw(draw(4) ? 24 : 300);
		r.nodes = 1 + draw(MIN(r.vcpus, 8u));
		r.memory_bytes = MIB(r.nodes + draw(4000));
		if (plan_make(&m, &r, &p, why, sizeof(why))) {
			check_refusal(&m, &r);
			refused++;
		} else {
			check_vcpus(&m, &r, &p);
			check_memory(&m, &r, &p);
			check_homes(&m, &r, &p);
			assert_int_equal(plan_make(&m, &r, &again, why, sizeof(why)), 0);
			assert_memory_equal(&p, &again, sizeof(p));
			planned++;
		}
		machine_free(&m);
	}
	assert_true(planned > 300 && refused > 30); /* both roads were walked */
}

static void models_guard_their_bounds(void **state)
{
	struct machine_model m;

	assert_int_equal(machine_alloc(&m, 0, 1), -EINVAL);
	assert_int_equal(machine_alloc(&m, 1, MACHINE_NODES_MAX + 1), -EINVAL);
	machine_free(&m);
	assert_int_equal(machine_alloc(&m, 2, 2), 0);
	assert_int_equal(machine_distance(&m, 0, 0), 10);
	assert_int_equal(machine_distance(&m, 0, 1), 20);
	m.pu[1].os_index = 77;
	assert_int_equal(machine_find_pu(&m, 77), 1);
	assert_int_equal(machine_find_pu(&m, 78), MACHINE_NONE);
	machine_free(&m);
	assert_null(m.pu);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(cores_come_before_siblings),
		cmocka_unit_test(distance_is_weighed_against_siblings),
		cmocka_unit_test(guest_nodes_stay_home),
		cmocka_unit_test(near_nodes_are_taken),
		cmocka_unit_test(memory_chooses_the_home),
		cmocka_unit_test(odd_amounts_are_cut_evenly),
		cmocka_unit_test(host_without_nodes_will_do),
		cmocka_unit_test(refusals_name_need_and_have),
		cmocka_unit_test(nonsense_is_refused),
		cmocka_unit_test(random_machines_keep_the_rules),
		cmocka_unit_test(models_guard_their_bounds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
