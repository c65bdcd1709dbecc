/* test_topology.c - the guest's topology and the layout of its RAM. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "boot/layout.h"
#include "boot/topology.h"

#include <errno.h>

static struct topology t;
static char why[256];

static int build(struct topo_request r)
{
	why[0] = '\0';
	return topo_build(&t, &r, why, sizeof(why));
}

static void assert_built(struct topo_request r)
{
	if (build(r))
		fail_msg("%u vCPUs, %u nodes: %s", r.vcpus, r.nodes, why);
}

static void assert_refused(struct topo_request r, const char *reason)
{
	assert_int_equal(build(r), -EINVAL);
	if (!strstr(why, reason))
		fail_msg("\"%s\" does not say \"%s\"", why, reason);
}

static const struct topo_cache *cache(unsigned level, unsigned type)
{
	for (unsigned i = 0; i < t.nr_caches; i++)
		if (t.cache[i].level == level && t.cache[i].type == type)
			return &t.cache[i];
	fail_msg("no level %u cache of type %u", level, type);
	return NULL;
}

/* What holds for every topology, whatever was asked. */
static void check_invariants(const struct topo_request *r)
{
	unsigned next = 0;

	assert_int_equal(t.nr_vcpus, r->vcpus);
	assert_int_equal(t.nr_nodes, r->nodes);
	for (unsigned n = 0; n < t.nr_nodes; n++) {
		assert_int_equal(t.node[n].first_vcpu, next);
		assert_in_range(t.node[n].nr_vcpus, r->vcpus / r->nodes,
				(r->vcpus + r->nodes - 1) / r->nodes);
		for (unsigned i = 0; i < t.node[n].nr_vcpus; i++)
			assert_int_equal(t.vcpu[next++].node, n);
	}
	assert_int_equal(next, r->vcpus);

	for (unsigned i = 0; i < t.nr_vcpus; i++) {
		const struct topo_vcpu *v = &t.vcpu[i];

		assert_true(v->package < t.nr_packages && v->die < t.dies && v->core < t.cores &&
			    v->thread < t.threads);
		assert_true(v->apic_id < 0x8000);
		assert_int_equal(v->apic_id & ((1u << t.thread_bits) - 1), v->thread);
		assert_int_equal(v->apic_id >> (t.thread_bits + t.core_bits + t.die_bits),
				 v->package);
		if (i)
			assert_true(v->apic_id > t.vcpu[i - 1].apic_id);
	}
	for (unsigned i = 0; i < t.nr_caches; i++) {
		const struct topo_cache *c = &t.cache[i];
		unsigned sharers = 1;

		assert_int_equal(c->bytes % (c->line_bytes * c->ways), 0);
		for (unsigned v = 1; v < t.nr_vcpus; v++) {
			bool shared = t.vcpu[v].apic_id >> c->apic_bits ==
				      t.vcpu[v - 1].apic_id >> c->apic_bits;

			sharers = shared ? sharers + 1 : 1;
			assert_true(sharers <= c->shared_by);
			if (shared)
				assert_int_equal(t.vcpu[v].node, t.vcpu[v - 1].node);
		}
	}
}

static void test_smallest(void **state)
{
	struct topo_request r = { .vcpus = 1, .nodes = 1 };

	assert_built(r);
	check_invariants(&r);
	assert_int_equal(t.vcpu[0].apic_id, 0);
	assert_int_equal(t.distance[0][0], 10);
}

static void test_defaults(void **state)
{
	struct topo_request r = { .vcpus = 8, .nodes = 2 };

	assert_built(r);
	check_invariants(&r);
	assert_int_equal(t.nr_packages, 2);
	assert_int_equal(t.dies, 1);
	assert_int_equal(t.cores, 4);
	assert_int_equal(t.threads, 1);
	assert_int_equal(t.vcpu[4].apic_id, 4);
	assert_int_equal(t.vcpu[4].package, 1);
	assert_int_equal(t.distance[0][1], 20);
	assert_int_equal(cache(2, 3)->shared_by, 1);
	assert_int_equal(cache(3, 3)->shared_by, 4);
}

/* 13 on 3: five, four, four; three bits of core, so that IDs have holes. */
static void test_uneven(void **state)
{
	struct topo_request r = { .vcpus = 13, .nodes = 3 };

	assert_built(r);
	check_invariants(&r);
	assert_int_equal(t.cores, 5);
	assert_int_equal(t.node[0].nr_vcpus, 5);
	assert_int_equal(t.node[2].nr_vcpus, 4);
	assert_int_equal(t.vcpu[5].apic_id, 8);
	assert_int_equal(t.vcpu[12].apic_id, 19);
}

static void test_threads(void **state)
{
	struct topo_request r = { .vcpus = 12, .nodes = 2, .threads = 2 };

	assert_built(r);
	check_invariants(&r);
	assert_int_equal(t.cores, 3);
	assert_int_equal(t.vcpu[1].apic_id, 1);
	assert_int_equal(t.vcpu[1].core, 0);
	assert_int_equal(t.vcpu[2].apic_id, 2);
	assert_int_equal(t.vcpu[6].apic_id, 8);
	assert_int_equal(cache(1, 1)->shared_by, 2);
	assert_int_equal(cache(3, 3)->shared_by, 6);
}

/* Nodes inside a package become dies, each with a last-level cache of its own. */
static void test_nodes_in_package(void **state)
{
	struct topo_request r = { .vcpus = 16, .nodes = 4, .packages = 2 };

	assert_built(r);
	check_invariants(&r);
	assert_int_equal(t.dies, 2);
	assert_int_equal(t.cores, 4);
	assert_int_equal(t.vcpu[4].package, 0);
	assert_int_equal(t.vcpu[4].die, 1);
	assert_int_equal(t.vcpu[4].node, 1);
	assert_int_equal(t.vcpu[8].package, 1);
	assert_int_equal(cache(3, 3)->shared_by, 4);
}

static void test_packages_in_node(void **state)
{
	struct topo_request r = { .vcpus = 8, .nodes = 1, .packages = 4 };

	assert_built(r);
	check_invariants(&r);
	assert_int_equal(t.vcpu[7].package, 3);
	assert_int_equal(t.cores, 2);
}

static void test_caches(void **state)
{
	struct topo_request r = { .vcpus = 2,
				  .nodes = 1,
				  .l1d_bytes = KIB(48),
				  .l2_bytes = KIB(1280),
				  .l3_bytes = KIB(36608) };

	assert_built(r);
	check_invariants(&r);
	assert_int_equal(cache(1, 1)->bytes, KIB(48));
	assert_int_equal(cache(1, 1)->ways, 12);
	assert_int_equal(cache(1, 2)->bytes, KIB(32));
	assert_int_equal(cache(1, 2)->ways, 8);
	assert_int_equal(cache(2, 3)->ways, 20);
	assert_int_equal(cache(3, 3)->bytes, KIB(36608));
}

static void test_distances(void **state)
{
	static const uint8_t distance[] = { 10, 15, 20, 16, 10, 30, 21, 31, 10 };
	struct topo_request r = { .vcpus = 3, .nodes = 3, .distance = distance };

	assert_built(r);
	assert_int_equal(t.distance[0][1], 15);
	assert_int_equal(t.distance[1][0], 16);
	assert_int_equal(t.distance[2][1], 31);
}

static void test_refusals(void **state)
{
	static const uint8_t far_self[] = { 10, 20, 20, 11 }, near[] = { 10, 10, 20, 10 },
			     never[] = { 10, 255, 20, 10 };
	static const struct {
		struct topo_request r;
		const char *why;
	} bad[] = {
		{ { .vcpus = 0, .nodes = 1 }, "0 vCPUs" },
		{ { .vcpus = 5000, .nodes = 1 }, "1 to 1024" },
		{ { .vcpus = 1, .nodes = 0 }, "0 nodes" },
		{ { .vcpus = 100, .nodes = 65 }, "1 to 64" },
		{ { .vcpus = 2, .nodes = 3 }, "each node needs one" },
		{ { .vcpus = 6, .nodes = 3, .packages = 2 }, "multiple" },
		{ { .vcpus = 8, .nodes = 4, .packages = 2, .dies = 1 }, "equally many" },
		{ { .vcpus = 4, .nodes = 1, .packages = 8 }, "empty" },
		{ { .vcpus = 4, .nodes = 1, .dies = 5 }, "empty" },
		{ { .vcpus = 4, .nodes = 2, .threads = 4 }, "threads per core" },
		{ { .vcpus = 4, .nodes = 1, .cores = 8 }, "make 4" },
		{ { .vcpus = 8, .nodes = 1, .cores = 2, .threads = 2 }, "make 4" },
		{ { .vcpus = 4, .nodes = 1, .packages = UINT32_MAX }, "at most" },
		{ { .vcpus = 2, .nodes = 2, .distance = far_self }, "away from itself" },
		{ { .vcpus = 2, .nodes = 2, .distance = near }, "11 to 254" },
		{ { .vcpus = 2, .nodes = 2, .distance = never }, "11 to 254" },
		{ { .vcpus = 1, .nodes = 1, .l2_bytes = 1000 }, "level 2" },
		{ { .vcpus = 1, .nodes = 1, .node_memory_bytes = { 4097 } }, "whole pages" },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		assert_refused(bad[i].r, bad[i].why);
}

/* Every request is built soundly or refused with a reason. */
static void test_sweep(void **state)
{
	unsigned built = 0;

	for (unsigned vcpus = 1; vcpus <= TOPO_VCPUS_MAX; vcpus += vcpus < 40 ? 1 : 41)
		for (unsigned nodes = 1; nodes <= TOPO_NODES_MAX; nodes += nodes < 9 ? 1 : 11)
			for (unsigned shape = 0; shape < 3 * 3 * 4; shape++) {
				struct topo_request r = { .vcpus = vcpus, .nodes = nodes };

				r.packages = shape % 3 ? (shape % 3) * nodes : 0;
				r.dies = shape / 3 % 3;
				r.threads = shape / 9;
				if (build(r)) {
					assert_true(why[0]);
					continue;
				}
				check_invariants(&r);
				built++;
			}
	assert_true(built > 1000);
}

/* --- layout ------------------------------------------------------------------- */

static void assert_layout(struct topo_request r, const struct layout_range *want, unsigned n)
{
	struct layout l;

	assert_built(r);
	layout_ram(&l, &t);
	assert_int_equal(l.nr_ranges, n);
	for (unsigned i = 0; i < n; i++) {
		assert_int_equal(l.range[i].gpa, want[i].gpa);
		assert_int_equal(l.range[i].bytes, want[i].bytes);
		assert_int_equal(l.range[i].node, want[i].node);
	}
}

static void test_layout(void **state)
{
	assert_layout((struct topo_request){ .vcpus = 2,
					     .nodes = 2,
					     .node_memory_bytes = { MIB(512), MIB(256) } },
		      (struct layout_range[]){ { 0, MIB(512), 0 }, { MIB(512), MIB(256), 1 } }, 2);
	assert_layout((struct topo_request){ .vcpus = 2,
					     .nodes = 2,
					     .node_memory_bytes = { GIB(3), GIB(2) } },
		      (struct layout_range[]){ { 0, GIB(3), 0 }, { GIB(4), GIB(2), 1 } }, 2);
	assert_layout((struct topo_request){ .vcpus = 3,
					     .nodes = 3,
					     .node_memory_bytes = { GIB(2), GIB(2), GIB(2) } },
		      (struct layout_range[]){ { 0, GIB(2), 0 },
					       { GIB(2), GIB(1), 1 },
					       { GIB(4), GIB(1), 1 },
					       { GIB(5), GIB(2), 2 } },
		      4);
	assert_layout((struct topo_request){ .vcpus = 3,
					     .nodes = 3,
					     .node_memory_bytes = { GIB(1), 0, GIB(1) } },
		      (struct layout_range[]){ { 0, GIB(1), 0 }, { GIB(1), GIB(1), 2 } }, 2);
}

/* --- positions from placement --------------------------------------------------- */

/* Node 0: a cache with a core of two threads and one of one. Node 1: a cache with a core. */
static const struct topo_position uneven[] = {
	{ 0, 0, 0, 0, 0 }, { 0, 0, 0, 1, 0 }, { 0, 0, 1, 0, 0 },
	{ 0, 1, 0, 0, 1 }, { 1, 0, 0, 0, 1 },
};

static struct topo_request uneven_request(const struct topo_position *position)
{
	struct topo_request r = { .vcpus = 5, .nodes = 2, .position = position };

	r.node_memory_bytes[0] = r.node_memory_bytes[1] = MIB(1);
	return r;
}

static void test_positions(void **state)
{
	static const uint32_t ids[] = { 0, 1, 2, 4, 8 };
	struct topo_request r = uneven_request(uneven);
	static struct topology topo;
	char text[256];

	assert_int_equal(topo_build(&topo, &r, text, sizeof(text)), 0);
	assert_int_equal(topo.nr_packages, 2);
	assert_int_equal(topo.dies, 2);
	assert_int_equal(topo.cores, 2);
	assert_int_equal(topo.threads, 2);
	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(topo.vcpu[i].apic_id, ids[i]);
	assert_int_equal(topo.node[0].nr_vcpus, 3);
	assert_int_equal(topo.node[1].first_vcpu, 3);
	assert_int_equal(topo.latency_ns[0][1], 2 * topo.latency_ns[0][0]);
}

static void test_positions_that_contradict(void **state)
{
	static const struct {
		unsigned vcpu;
		struct topo_position position;
		const char *reason;
	} bad[] = {
		{ 1, { 0, 0, 0, 0, 0 }, "not above" },
		{ 4, { 0, 0, 2, 0, 1 }, "not above" },
		{ 3, { 0, 0, 2, 0, 1 }, "cross nodes" },
		{ 0, { 0, 0, 0, 0, 1 }, "after node 1" },
		{ 4, { 1, 0, 0, 0, 0 }, "after node 1" },
		{ 4, { 1, 0, 0, 0, 2 }, "in node 2 of 2" },
		{ 4, { 9999, 99, 0, 0, 1 }, "no room" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct topo_position position[ARRAY_SIZE(uneven)];
		struct topo_request r = uneven_request(position);
		static struct topology topo;
		char text[256] = "";

		memcpy(position, uneven, sizeof(uneven));
		position[bad[i].vcpu] = bad[i].position;
		assert_int_equal(topo_build(&topo, &r, text, sizeof(text)), -EINVAL);
		if (!strstr(text, bad[i].reason))
			fail_msg("%s: not \"%s\"", text, bad[i].reason);
	}
}

/* CPUs in nodes 1 and 3 of five: the others have memory, and must. */
static void test_nodes_of_memory_only(void **state)
{
	static const struct topo_position position[] = { { 0, 0, 0, 0, 1 }, { 1, 0, 0, 0, 3 } };
	struct topo_request r = { .vcpus = 2, .nodes = 5, .position = position };
	static struct topology topo;
	struct layout l;
	char text[256] = "";

	r.node_memory_bytes[0] = r.node_memory_bytes[2] = r.node_memory_bytes[4] = MIB(1);
	assert_int_equal(topo_build(&topo, &r, text, sizeof(text)), 0);
	for (unsigned n = 0; n < 5; n++)
		assert_int_equal(topo.node[n].nr_vcpus, n % 2);
	assert_int_equal(topo.node[3].first_vcpu, 1);
	layout_ram(&l, &topo);
	assert_int_equal(l.nr_ranges, 3);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(l.range[i].node, 2 * i);
	r.node_memory_bytes[2] = 0;
	assert_int_equal(topo_build(&topo, &r, text, sizeof(text)), -EINVAL);
	assert_non_null(strstr(text, "node 2 has neither"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_smallest),
		cmocka_unit_test(test_defaults),
		cmocka_unit_test(test_uneven),
		cmocka_unit_test(test_threads),
		cmocka_unit_test(test_nodes_in_package),
		cmocka_unit_test(test_packages_in_node),
		cmocka_unit_test(test_caches),
		cmocka_unit_test(test_distances),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_sweep),
		cmocka_unit_test(test_positions),
		cmocka_unit_test(test_positions_that_contradict),
		cmocka_unit_test(test_nodes_of_memory_only),
		cmocka_unit_test(test_layout),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
