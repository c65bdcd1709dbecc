/* test_preflight.c - what is short, and what the line says about it: over made-up facts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "mem/preflight.h"

#include <errno.h>
#include <string.h>

static struct machine_model machine;
static struct mem_facts facts;
static struct plan plan;
static struct plan_node_request node[2];
static struct plan_request request;
static char why[400];

/* Three nodes 0, 1, 4 of 8 GiB, each with 100 of 300 pages of 2M free, node 4 without any. */
static int begin(void **state)
{
	static const unsigned os_index[] = { 0, 1, 4 };

	assert_int_equal(machine_alloc(&machine, 3, 3), 0);
	for (unsigned i = 0; i < 3; i++) {
		machine.node[i].os_index = os_index[i];
		machine.node[i].memory_bytes = machine.node[i].free_bytes = GIB(8);
		machine.node[i].usable = true;
		if (i < 2)
			machine.node[i].huge[0] = (struct machine_pages){ .bytes = MIB(2),
									  .total = 300,
									  .free = 100 };
	}
	facts = (struct mem_facts){
		.machine = &machine,
		.page_bytes = { MIB(2), GIB(1) },
		.thp = true,
		.commit_free = UINT64_MAX,
		.group.free_bytes = UINT64_MAX,
	};
	for (unsigned i = 0; i < MACHINE_PAGE_SIZES; i++)
		facts.huge_group[i].free_bytes = UINT64_MAX;
	memset(&plan, 0, sizeof(plan));
	plan.nr_memory = 2;
	plan.memory[0] = (struct plan_memory){ .guest_node = 0, .host_node = 0, .bytes = MIB(128) };
	plan.memory[1] = (struct plan_memory){ .guest_node = 1, .host_node = 1, .bytes = MIB(128) };
	memset(node, 0, sizeof(node));
	node[0] = (struct plan_node_request){ 1, MIB(128), .host_node = -1 };
	node[1] = (struct plan_node_request){ 1, MIB(128), .host_node = 1 };
	request = (struct plan_request){
		.vcpus = 2, .nodes = 2, .memory_bytes = MIB(256), .node = node
	};
	why[0] = '\0';
	return 0;
}

static int end(void **state)
{
	machine_free(&machine);
	return 0;
}

/* One line, which has all these words. */
static void assert_says(int err, int want, const char *const *words)
{
	assert_int_equal(err, want);
	assert_null(strchr(why, '\n'));
	for (; *words; words++)
		if (!strstr(why, *words))
			fail_msg("\"%s\" does not say \"%s\"", why, *words);
}

#define WORDS(...) ((const char *const[]){ __VA_ARGS__, NULL })

static int check(void)
{
	return mem_preflight(&facts, &plan, why, sizeof(why));
}

static int check_request(void)
{
	return mem_preflight_request(&facts, &request, why, sizeof(why));
}

static void what_is_there_passes(void **state)
{
	assert_int_equal(check(), 0);
	assert_int_equal(check_request(), 0);
	plan.memory[0].page_bytes = plan.memory[1].page_bytes = MIB(2);
	node[1].page_bytes = MIB(2);
	assert_int_equal(check(), 0);
	assert_int_equal(check_request(), 0);
	plan.memory[0].page_bytes = MEM_PAGES_THP;
	assert_int_equal(check(), 0);
	plan.memory[0].bytes = 0;
	plan.memory[0].host_node = -1;
	assert_int_equal(check(), 0);
}

/* 128 MiB are 64 pages; 200 MiB 100, the very last; two more are short by one. */
static void huge_pages_short_on_one_node(void **state)
{
	plan.memory[1].page_bytes = MIB(2);
	plan.memory[1].bytes = MIB(200);
	assert_int_equal(check(), 0);
	plan.memory[1].bytes = MIB(202);
	assert_says(check(), -ENOSPC,
		    WORDS("guest node 1", "101 pages of 2M needed on host node 1", "100 free",
			  "echo 301 >/sys/devices/system/node/node1/hugepages/hugepages-2048kB/"
			  "nr_hugepages"));
}

static void a_node_without_a_pool(void **state)
{
	plan.memory[1].page_bytes = GIB(1);
	plan.memory[1].bytes = GIB(2);
	plan.memory[1].host_node = 4;
	assert_says(check(), -ENOSPC,
		    WORDS("2 pages of 1G needed on host node 4", "0 free",
			  "echo 2 >/sys/devices/system/node/node4/hugepages/hugepages-1048576kB/"));
}

static void guest_nodes_with_one_home_add_up(void **state)
{
	plan.memory[0].page_bytes = plan.memory[1].page_bytes = MIB(2);
	plan.memory[1].host_node = 0;
	assert_says(check(), -ENOSPC,
		    WORDS("guest node 1", "128 pages of 2M needed on host node 0", "100 free"));
}

static void shares_count_where_they_are(void **state)
{
	plan.memory[0].bytes = GIB(12);
	plan.memory[0].nr_shares = 2;
	plan.share[0] = (struct mem_share){ 0, 1, GIB(3) };
	plan.share[1] = (struct mem_share){ 4, 1, GIB(9) };
	assert_says(check(), -ENOSPC, WORDS("guest node 0", "9216 MiB needed on host node 4"));
	plan.share[0].bytes = GIB(6);
	plan.share[1].bytes = GIB(6);
	assert_int_equal(check(), 0);
}

static void memory_short_on_one_node(void **state)
{
	machine.node[1].free_bytes = MIB(100);
	assert_says(check(), -ENOSPC,
		    WORDS("guest node 1", "128 MiB needed on host node 1", "100 MiB free",
			  "--memory-policy preferred"));
	plan.memory[1].page_bytes = MIB(2); /* from the pool */
	assert_int_equal(check(), 0);
}

static void nodes_that_may_not_be_used(void **state)
{
	machine.node[1].usable = false;
	assert_says(check(), -EPERM, WORDS("guest node 1", "host node 1 may not be used"));
	strcpy(facts.mems_file, "/sys/fs/cgroup/a/cpuset.mems");
	assert_says(check(), -EPERM, WORDS("add it to /sys/fs/cgroup/a/cpuset.mems"));
	assert_says(check_request(), -EPERM, WORDS("host node 1"));
}

static void binding_that_is_forbidden(void **state)
{
	facts.bind_err = -EPERM;
	assert_says(check(), -EPERM, WORDS("mbind", "CAP_SYS_NICE"));
	machine.nr_nodes = 1; /* nothing to bind */
	plan.nr_memory = 1;
	assert_int_equal(check(), 0);
	machine.nr_nodes = 3;
}

static void limits_of_groups(void **state)
{
	facts.group = (struct mem_limit){ MIB(255), "/sys/fs/cgroup/a/memory.max" };
	assert_says(check(), -ENOSPC,
		    WORDS("256 MiB needed", "255 MiB left",
			  "/sys/fs/cgroup/a/memory.max by 1 MiB"));
	plan.memory[0].page_bytes = MIB(2); /* counts elsewhere */
	assert_int_equal(check(), 0);
	facts.huge_group[0] = (struct mem_limit){ MIB(100), "/sys/fs/cgroup/a/hugetlb.2MB.max" };
	assert_says(check(), -ENOSPC, WORDS("pages of 2M", "hugetlb.2MB.max by 28 MiB"));
	facts.huge_group[0].free_bytes = MIB(128);
	assert_int_equal(check(), 0);
}

static void promises(void **state)
{
	facts.commit_free = MIB(200);
	assert_says(check(), -ENOSPC, WORDS("200 MiB more", "vm.overcommit_memory"));
}

static void pages_that_the_kernel_has_not(void **state)
{
	facts.thp = false;
	assert_int_equal(check(), 0); /* any pages will do */
	plan.memory[1].page_bytes = MEM_PAGES_THP;
	assert_says(check(), -ENOTSUP, WORDS("thp", "transparent_hugepage/enabled"));
	plan.memory[1].page_bytes = MIB(512);
	assert_says(check(), -ENOTSUP, WORDS("512M", "none of that size"));
}

/* --- without a plan ------------------------------------------------------------------------ */

static void a_request_for_a_node(void **state)
{
	node[1].page_bytes = MIB(2);
	node[1].memory_bytes = MIB(500);
	assert_says(check_request(), -ENOSPC,
		    WORDS("guest node 1", "250 pages of 2M needed on host node 1", "100 free",
			  "echo 450 >"));
	node[1] = (struct plan_node_request){ 1, GIB(20), .host_node = 1 };
	assert_says(check_request(), -ENOSPC, WORDS("20480 MiB needed on host node 1"));
}

static void a_request_for_any_node(void **state)
{
	machine.node[1].huge[0].free = 120;
	request.node = NULL;
	request.nodes = 0;
	request.page_bytes = MIB(2);
	request.memory_bytes = MIB(500);
	assert_says(check_request(), -ENOSPC,
		    WORDS("250 pages of 2M needed on host node 1, which has most", "120 free",
			  "echo 430 >/sys/devices/system/node/node1/"));
	request.page_bytes = 0;
	request.memory_bytes = GIB(100); /* the planner's to say */
	assert_int_equal(check_request(), 0);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, begin, end)
	const struct CMUnitTest tests[] = {
		TEST(what_is_there_passes),
		TEST(huge_pages_short_on_one_node),
		TEST(a_node_without_a_pool),
		TEST(guest_nodes_with_one_home_add_up),
		TEST(shares_count_where_they_are),
		TEST(memory_short_on_one_node),
		TEST(nodes_that_may_not_be_used),
		TEST(binding_that_is_forbidden),
		TEST(limits_of_groups),
		TEST(promises),
		TEST(pages_that_the_kernel_has_not),
		TEST(a_request_for_a_node),
		TEST(a_request_for_any_node),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
