/*
 * test_plan_memory.c - which host nodes carry a guest's memory, by policy; guest nodes of
 * CPUs or memory only.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "placement/plan.h"

#include <errno.h>
#include <string.h>

static struct machine_model m;
static struct plan p;
static struct plan_node_request node[3];
static char why[512];

/* Four nodes of four cores and 16 GiB, in a row: the next is 12 away, then 14, 16. */
static int begin(void **state)
{
	assert_int_equal(machine_alloc(&m, 16, 4), 0);
	m.nr_cores = 16;
	for (unsigned i = 0; i < 16; i++)
		m.pu[i] = (struct machine_pu){ .os_index = i,
					       .core = i,
					       .llc = i / 4,
					       .package = i / 4,
					       .node = i / 4,
					       .usable = true };
	for (unsigned n = 0; n < 4; n++) {
		m.node[n] = (struct machine_node){ .os_index = n,
						   .package = n,
						   .usable = true,
						   .memory_bytes = GIB(16),
						   .free_bytes = GIB(16) };
		for (unsigned to = 0; to < 4; to++)
			m.distance[n * 4 + to] = 10 + 2 * (n > to ? n - to : to - n);
	}
	memset(node, 0, sizeof(node));
	for (unsigned i = 0; i < 3; i++)
		node[i].host_node = -1;
	return 0;
}

static int end(void **state)
{
	machine_free(&m);
	return 0;
}

static int plan(const struct plan_request *r)
{
	return plan_make(&m, r, &p, why, sizeof(why));
}

static uint64_t share_on(unsigned guest_node, int host_node)
{
	const struct plan_memory *mem = &p.memory[guest_node];

	for (unsigned i = 0; i < mem->nr_shares; i++)
		if (p.share[mem->first_share + i].node == host_node)
			return p.share[mem->first_share + i].bytes;
	return 0;
}

static void assert_whole(void)
{
	for (unsigned g = 0; g < p.nr_memory; g++) {
		uint64_t sum = 0;

		for (int n = 0; n < 4; n++)
			sum += share_on(g, n);
		assert_int_equal(sum, p.memory[g].bytes);
	}
}

static void bound_memory_is_one_share(void **state)
{
	struct plan_request r = { .vcpus = 8, .nodes = 2, .memory_bytes = GIB(8) };

	assert_int_equal(plan(&r), 0);
	for (unsigned g = 0; g < 2; g++) {
		assert_int_equal(p.memory[g].nr_shares, 1);
		assert_int_equal(share_on(g, p.memory[g].host_node), GIB(4));
	}
	r.memory_bytes = GIB(34);
	assert_int_equal(plan(&r), -ENOSPC);
}

static void preferred_memory_stays_at_home_while_it_can(void **state)
{
	struct plan_request r = {
		.vcpus = 2, .nodes = 1, .memory_bytes = GIB(16), .memory_policy = MEM_PREFERRED
	};

	assert_int_equal(plan(&r), 0);
	assert_int_equal(p.memory[0].nr_shares, 1);
	assert_int_equal(p.memory_policy, MEM_PREFERRED);
}

/* 20 GiB at node 1: 16 there, 4 on a neighbour, 12 away. */
static void and_goes_to_the_nearest_then(void **state)
{
	struct plan_pin pin = { .first = 0, .last = 1 };
	struct plan_request r = { .vcpus = 2,
				  .nodes = 1,
				  .memory_bytes = GIB(20),
				  .memory_policy = MEM_PREFERRED,
				  .pin = &pin,
				  .nr_pins = 1 };

	for (unsigned i = 4; i < 8; i++)
		pu_set_add(&pin.pus, i);
	assert_int_equal(plan(&r), 0);
	assert_int_equal(p.memory[0].host_node, 1);
	assert_int_equal(share_on(0, 1), GIB(16));
	assert_int_equal(share_on(0, 0) + share_on(0, 2), GIB(4));
	assert_int_equal(p.memory[0].nr_shares, 2);
	assert_float_equal(p.cost.access, (16.0 * 10 + 4.0 * 12) / 20, 1e-6);
	r.memory_bytes = GIB(64);
	assert_int_equal(plan(&r), 0);
	assert_whole();
	r.memory_bytes = GIB(65);
	assert_int_equal(plan(&r), -ENOSPC);
	assert_true(strlen(why) > 0);
}

static void interleaved_memory_lies_where_the_vcpus_run(void **state)
{
	struct plan_request r = {
		.vcpus = 12, .nodes = 1, .memory_bytes = GIB(30), .memory_policy = MEM_INTERLEAVE
	};

	assert_int_equal(plan(&r), 0);
	assert_int_equal(p.memory[0].nr_shares, 3);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(p.share[i].bytes, GIB(10));
		assert_int_equal(p.share[i].weight, 1);
	}
	for (unsigned i = 0; i < 12; i++)
		assert_true(share_on(0, p.vcpu[i].host_node));
	r.memory_bytes = GIB(48); /* more than any home could hold */
	assert_int_equal(plan(&r), 0);
	r.memory_bytes = GIB(51);
	assert_int_equal(plan(&r), -ENOSPC);
	assert_non_null(strstr(why, "would lie on host node"));
}

static void or_where_it_was_asked_for(void **state)
{
	struct plan_request r = { .vcpus = 2,
				  .nodes = 1,
				  .memory_bytes = GIB(3),
				  .memory_policy = MEM_INTERLEAVE,
				  .node = node };

	node[0].vcpus = 2;
	node[0].memory_bytes = GIB(3);
	pu_set_add(&node[0].over, 2);
	pu_set_add(&node[0].over, 3);
	assert_int_equal(plan(&r), 0);
	assert_int_equal(share_on(0, 2), GIB(3) / 2);
	assert_int_equal(share_on(0, 3), GIB(3) / 2);
	r.memory_policy = MEM_BIND;
	assert_int_equal(plan(&r), -EINVAL);
	assert_non_null(strstr(why, "interleave"));
	r.memory_policy = MEM_INTERLEAVE;
	pu_set_add(&node[0].over, 9);
	assert_int_equal(plan(&r), -EINVAL);
	assert_non_null(strstr(why, "no node 9"));
}

static void weights_weigh(void **state)
{
	struct plan_request r = {
		.vcpus = 8, .nodes = 1, .memory_bytes = MIB(1000), .memory_policy = MEM_WEIGHTED
	};
	struct plan_pin pin = { .first = 0, .last = 7 };

	for (unsigned i = 0; i < 8; i++)
		pu_set_add(&pin.pus, i);
	r.pin = &pin;
	r.nr_pins = 1;
	m.node[0].weight = 3;
	m.node[1].weight = 1;
	assert_int_equal(plan(&r), 0);
	assert_int_equal(share_on(0, 0), MIB(750));
	assert_int_equal(share_on(0, 1), MIB(250));
	m.node[0].weight = m.node[1].weight = 0; /* nobody has said */
	assert_int_equal(plan(&r), 0);
	assert_int_equal(share_on(0, 0), MIB(500));
}

/* Huge pages are not cut, and come from their own pools. */
static void shares_are_whole_pages(void **state)
{
	struct plan_request r = { .vcpus = 12,
				  .nodes = 1,
				  .memory_bytes = GIB(4),
				  .memory_policy = MEM_INTERLEAVE,
				  .page_bytes = GIB(1) };

	for (unsigned n = 0; n < 4; n++)
		m.node[n].huge[0] =
			(struct machine_pages){ .bytes = GIB(1), .total = 2, .free = 2 };
	assert_int_equal(plan(&r), 0);
	assert_whole();
	for (unsigned i = 0; i < p.nr_shares; i++)
		assert_int_equal(p.share[i].bytes % GIB(1), 0);
	m.node[0].huge[0].free = m.node[1].huge[0].free = 0;
	assert_int_equal(plan(&r), -ENOSPC);
}

static void words_for_pages_are_base_pages(void **state)
{
	static const uint64_t plain[] = { MEM_PAGES_ANY, MEM_PAGES_THP, KIB(4) };

	for (unsigned i = 0; i < ARRAY_SIZE(plain); i++) {
		struct plan_request r = { .vcpus = 1,
					  .memory_bytes = MIB(3),
					  .page_bytes = plain[i] };

		assert_int_equal(plan(&r), 0);
		assert_int_equal(p.memory[0].page_bytes, plain[i]);
	}
}

/* --- CPUs or memory only ----------------------------------------------------------------- */

static void nodes_of_memory_and_nodes_of_cpus(void **state)
{
	struct plan_request r = { .vcpus = 3, .nodes = 3, .memory_bytes = GIB(3), .node = node };

	node[0].memory_bytes = GIB(1);
	node[0].host_node = 3;
	node[1].vcpus = 2;
	node[1].memory_bytes = GIB(2);
	node[2].vcpus = 1;
	assert_int_equal(plan(&r), 0);
	assert_int_equal(p.nr_memory, 3);
	assert_int_equal(p.memory[0].host_node, 3);
	assert_int_equal(p.memory[0].bytes, GIB(1));
	assert_int_equal(p.memory[2].bytes, 0);
	assert_int_equal(p.memory[2].nr_shares, 0);
	assert_int_equal(p.vcpu[0].guest_node, 1);
	assert_int_equal(p.vcpu[1].guest_node, 1);
	assert_int_equal(p.vcpu[2].guest_node, 2);
	assert_float_equal(p.cost.access, 10, 1e-6);
	node[2].vcpus = 0;
	r.vcpus = 2;
	assert_int_equal(plan(&r), -EINVAL);
	assert_non_null(strstr(why, "guest node 2"));
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, begin, end)
	const struct CMUnitTest tests[] = {
		TEST(bound_memory_is_one_share),
		TEST(preferred_memory_stays_at_home_while_it_can),
		TEST(and_goes_to_the_nearest_then),
		TEST(interleaved_memory_lies_where_the_vcpus_run),
		TEST(or_where_it_was_asked_for),
		TEST(weights_weigh),
		TEST(shares_are_whole_pages),
		TEST(words_for_pages_are_base_pages),
		TEST(nodes_of_memory_and_nodes_of_cpus),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
