/*
 * test_cmd_live.c - moves and rebalancing of a machine on the simulated host, and what
 * the ledger is told of them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/vm.h"
#include "host/linux/cmd/live.h"
#include "host/sim/sim.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* 32-bit code: cli; 1: hlt; jmp 1b. */
static const uint8_t image[64] = {
	0x02, 0xb0, 0xad, 0x1b, 0x00, 0x00, 0x01, 0x00, 0xfe, 0x4f, 0x51, 0xe4,
	0x00, 0x00, 0x10, 0x00, 0x00, 0x00, 0x10, 0x00, 0x40, 0x00, 0x10, 0x00,
	0x40, 0x00, 0x10, 0x00, 0x20, 0x00, 0x10, 0x00, 0xfa, 0xf4, 0xeb, 0xfd,
};

#define VCPUS  2
#define MEMORY MIB(16)

/* Two nodes of four PUs: 0 to 3 and 4 to 7. */
static struct {
	struct host host;
	struct plan plan;
	struct plan_request request;
	struct vm *vm;
	struct live *live;
	struct plan io; /* the last one that place_io() was told */
	char dir[64];
	struct ledger *ours, *theirs;
} f;

static void end(void *arg)
{
	vmm_stop(f.vm);
}

static void place_io(void *arg, const struct plan *p)
{
	f.io = *p;
}

static struct ledger *open_ledger(void)
{
	char why[LEDGER_WHY_BYTES];
	struct ledger *l;

	assert_int_equal(ledger_open(f.dir, true, &l, why, sizeof(why)), 0);
	return l;
}

static void claim(struct ledger *l, const struct plan *p, const char *name, bool exclusive)
{
	char why[LEDGER_WHY_BYTES];
	struct ledger_claim c;

	ledger_claim_of(p, name, exclusive, &c);
	assert_int_equal(ledger_lock(l, LEDGER_EXCLUSIVE, why, sizeof(why)), 0);
	if (ledger_claim(l, &c, why, sizeof(why)))
		fail_msg("%s", why);
	ledger_unlock(l);
}

/* vCPUs on @pu[], memory on @home. */
static void start(const unsigned pu[VCPUS], int home)
{
	struct vmm_config cfg = {
		.name = "ours",
		.engine = &engine_interp,
		.plan = &f.plan,
		.topo = { .vcpus = VCPUS, .nodes = 1, .node_memory_bytes = { MEMORY } },
		.kernel = { image, sizeof(image), "idle" },
		.cmdline = "",
	};
	struct live_config live = {
		.host = &f.host,
		.name = "ours",
		.engine = "interp",
		.request = &f.request,
		.ledger = f.ours,
		.end = end,
		.place_io = place_io,
	};
	char why[200];

	f.request = (struct plan_request){ .vcpus = VCPUS, .memory_bytes = MEMORY };
	f.plan = (struct plan){ .nr_vcpus = VCPUS, .nr_memory = 1 };
	f.plan.memory[0] = (struct plan_memory){ .host_node = home, .bytes = MEMORY };
	for (unsigned i = 0; i < VCPUS; i++) {
		f.plan.vcpu[i] = (struct plan_vcpu){ .pu = pu[i], .host_node = (int)pu[i] / 4 };
		pu_set_add(&f.plan.claim, pu[i]);
	}
	claim(f.ours, &f.plan, "ours", false);
	if (vmm_create(&f.host, &cfg, &f.vm, why, sizeof(why)) || vmm_start(f.vm, why, sizeof(why)))
		fail_msg("%s", why);
	live.vm = f.vm;
	f.live = live_create(&live);
}

static int setup(void **state)
{
	memset(&f, 0, sizeof(f));
	strcpy(f.dir, "/tmp/live-XXXXXX");
	if (!mkdtemp(f.dir))
		return -1;
	f.host = sim_create(&(struct sim_config){ .nodes = 2, .node_memory_bytes = MIB(512) });
	f.ours = open_ledger();
	f.theirs = open_ledger();
	return 0;
}

static int teardown(void **state)
{
	char path[80];

	live_destroy(f.live);
	vmm_destroy(f.vm);
	assert_int_equal(sim_destroy(&f.host), 0);
	ledger_close(f.ours);
	ledger_close(f.theirs);
	snprintf(path, sizeof(path), "%s/lock", f.dir);
	unlink(path);
	return rmdir(f.dir);
}

/* --- requests --------------------------------------------------------------------- */

/* To its end, memory and all. NULL: refused, and why[] holds the reason. */
static json_t *carry_out(const struct control_request *r, char why[CONTROL_WHY_BYTES])
{
	struct live_answer a = { 0 };

	live_do(f.live, r, &a);
	while (a.moving) {
		uint64_t now = f.host.ops->now_ns(f.host.ctx), next = live_next_move_ns(f.live);

		if (next > now)
			sim_advance(&f.host, next - now);
		a = (struct live_answer){ 0 };
		live_move(f.live, &a);
	}
	strcpy(why, a.why);
	assert_true((a.result != NULL) != (a.why[0] != '\0'));
	return a.result;
}

static void expect(const struct control_request *r)
{
	char why[CONTROL_WHY_BYTES];
	json_t *result = carry_out(r, why);

	if (!result)
		fail_msg("%s", why);
	json_decref(result);
}

static void expect_refusal(const struct control_request *r, const char *word)
{
	char why[CONTROL_WHY_BYTES];
	json_t *result = carry_out(r, why);

	assert_null(result);
	if (!strstr(why, word))
		fail_msg("%s", why);
}

static struct control_request move_vcpu(unsigned vcpu, unsigned to)
{
	return (struct control_request){ .command = CONTROL_MOVE_VCPU, .vcpu = vcpu, .to = to };
}

static struct control_request move_memory(unsigned to)
{
	return (struct control_request){ .command = CONTROL_MOVE_MEMORY, .to = to };
}

/* Where the plan and the ledger say that we are; both must agree. */
static void expect_place(unsigned pu0, unsigned pu1, int home)
{
	static struct plan p;
	struct ledger_claim c;
	unsigned pu[VCPUS] = { pu0, pu1 };

	vmm_get_plan(f.vm, &p);
	assert_int_equal(ledger_get(f.ours, &c), 0);
	assert_int_equal(p.memory[0].host_node, home);
	assert_int_equal(c.memory[0].host_node, home);
	assert_int_equal(pu_set_count(&c.pus), pu0 == pu1 ? 1 : 2);
	for (unsigned i = 0; i < VCPUS; i++) {
		struct pu_set bound;
		char name[16];

		snprintf(name, sizeof(name), "vcpu%u", i);
		assert_int_equal(p.vcpu[i].pu, pu[i]);
		assert_int_equal(p.vcpu[i].host_node, pu[i] / 4);
		assert_int_equal(c.vcpu[i], pu[i]);
		assert_true(pu_set_has(&c.pus, pu[i]));
		assert_true(sim_thread_pus(&f.host, name, &bound));
		assert_true(pu_set_has(&bound, pu[i]) && pu_set_count(&bound) == 1);
	}
}

/* --- moves ------------------------------------------------------------------------ */

static void vcpus_move_and_the_ledger_knows(void **state)
{
	struct control_request r = move_vcpu(1, 6);

	start((unsigned[]){ 0, 1 }, 0);
	expect(&r);
	expect_place(0, 6, 0);
	r = move_vcpu(0, 6); /* its own sibling does not mind */
	expect(&r);
	expect_place(6, 6, 0);
	r = move_vcpu(0, 8);
	expect_refusal(&r, "PU 8: there is none");
	expect_place(6, 6, 0);
}

static void what_others_have_alone_is_not_taken(void **state)
{
	static struct plan other;
	struct control_request r = move_vcpu(1, 6);

	start((unsigned[]){ 0, 1 }, 0);
	other = f.plan;
	other.vcpu[0].pu = 6;
	other.vcpu[1].pu = 7;
	pu_set_clear(&other.claim);
	pu_set_add(&other.claim, 6);
	pu_set_add(&other.claim, 7);
	claim(f.theirs, &other, "theirs", true);
	expect_refusal(&r, "theirs");
	expect_place(0, 1, 0);
	ledger_release(f.theirs);
	claim(f.theirs, &other, "theirs", false);
	f.request.exclusive = true; /* now it is us who do not share */
	expect_refusal(&r, "ours shares no PU");
	f.request.exclusive = false;
	expect(&r); /* both may share */
	expect_place(0, 6, 0);
}

static void memory_moves_in_stretches(void **state)
{
	struct control_request r = move_memory(1);
	uint64_t before, used;

	start((unsigned[]){ 0, 1 }, 0);
	used = sim_node_used(&f.host, 1);
	r.rate_mibs = 16;
	before = f.host.ops->now_ns(f.host.ctx);
	expect(&r);
	expect_place(0, 1, 1);
	assert_int_equal(sim_node_used(&f.host, 1), used + MEMORY);
	/* Four stretches, the last of them after three quarters of a second. */
	assert_in_range(f.host.ops->now_ns(f.host.ctx) - before, 740 * NSEC_PER_MSEC,
			800 * NSEC_PER_MSEC);
	r = move_memory(2);
	expect_refusal(&r, "host node 2: there is none");
	r = move_memory(0);
	r.node = 1;
	expect_refusal(&r, "guest node 1: there is none");
}

/* A page that is held for a moment delays the move, and no more. */
static void pages_that_are_held_get_more_chances(void **state)
{
	struct control_request r = move_memory(1);
	uint64_t before;

	start((unsigned[]){ 0, 1 }, 0);
	sim_fail(&f.host, SIM_FAIL_MOVE, 2);
	before = f.host.ops->now_ns(f.host.ctx);
	expect(&r);
	expect_place(0, 1, 1);
	assert_true(f.host.ops->now_ns(f.host.ctx) > before);
}

/* What has moved stays moved; the plan stays the old one, and the claim is what it was. */
static void a_move_that_is_given_up(void **state)
{
	struct control_request r = move_memory(1);
	struct live_answer a = { 0 };
	struct ledger_claim c;

	start((unsigned[]){ 0, 1 }, 0);
	r.rate_mibs = 1;
	live_do(f.live, &r, &a);
	assert_true(a.moving);
	live_move(f.live, &a);
	assert_true(a.moving && a.done_bytes && a.done_bytes < a.all_bytes);
	assert_int_equal(ledger_get(f.ours, &c), 0);
	assert_int_equal(c.memory[0].host_node, 1); /* where it goes */
	live_cancel(f.live);
	live_move(f.live, &a);
	assert_true(!a.moving && !a.result && strstr(a.why, "ended"));
	expect_place(0, 1, 0);
}

static void a_full_node_is_refused(void **state)
{
	struct control_request r = move_memory(1);
	struct host_mem_attr attr = { .bytes = MIB(504), .node = 1 };
	struct host_mem m;

	start((unsigned[]){ 0, 1 }, 0);
	assert_int_equal(f.host.ops->mem_map(f.host.ctx, &attr, &m), 0);
	expect_refusal(&r, "16 MiB needed");
	expect_place(0, 1, 0);
	f.host.ops->mem_unmap(f.host.ctx, &m);
	expect(&r);
}

/* --- rebalancing ------------------------------------------------------------------- */

static const struct control_request rebalance = { .command = CONTROL_REBALANCE };

/* The vCPUs come to their memory: nothing need be copied. */
static void vcpus_come_to_their_memory(void **state)
{
	static struct plan p;
	uint64_t used;
	struct control_request dry = rebalance;

	start((unsigned[]){ 0, 1 }, 1);
	used = sim_node_used(&f.host, 1);
	dry.dry_run = true;
	expect(&dry);
	expect_place(0, 1, 1);
	expect(&rebalance);
	assert_int_equal(sim_node_used(&f.host, 1), used);
	vmm_get_plan(f.vm, &p);
	assert_int_equal(p.vcpu[0].host_node, 1);
	expect_place(p.vcpu[0].pu, p.vcpu[1].pu, 1);
	assert_int_not_equal(p.vcpu[0].pu, p.vcpu[1].pu);
	assert_int_equal(f.io.nr_io, 1); /* I/O is told, and noted */
	assert_int_equal(f.io.io[0].host_node, 1);
	assert_int_equal(p.nr_io, 1);
	expect(&rebalance); /* and is content */
	expect_place(p.vcpu[0].pu, p.vcpu[1].pu, 1);
}

/* They cannot, as somebody has the PUs there alone: memory comes to them. */
static void memory_comes_to_its_vcpus(void **state)
{
	static struct plan other, p;

	start((unsigned[]){ 0, 1 }, 1);
	other = (struct plan){ .nr_vcpus = 4, .nr_memory = 1 };
	other.memory[0] = (struct plan_memory){ .host_node = 1, .bytes = MIB(1) };
	for (unsigned i = 0; i < 4; i++) {
		other.vcpu[i] = (struct plan_vcpu){ .pu = 4 + i, .host_node = 1 };
		pu_set_add(&other.claim, 4 + i);
	}
	claim(f.theirs, &other, "theirs", true);
	expect(&rebalance);
	vmm_get_plan(f.vm, &p);
	expect_place(p.vcpu[0].pu, p.vcpu[1].pu, 0);
	assert_true(p.vcpu[0].pu < 4 && p.vcpu[1].pu < 4);
}

/* Two on a PU, and idle ones beside it. */
static void who_shares_moves_apart(void **state)
{
	static struct plan p;

	start((unsigned[]){ 2, 2 }, 0);
	expect(&rebalance);
	vmm_get_plan(f.vm, &p);
	assert_int_not_equal(p.vcpu[0].pu, p.vcpu[1].pu);
	expect_place(p.vcpu[0].pu, p.vcpu[1].pu, 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(vcpus_move_and_the_ledger_knows), TEST(what_others_have_alone_is_not_taken),
		TEST(memory_moves_in_stretches),       TEST(pages_that_are_held_get_more_chances),
		TEST(a_move_that_is_given_up),         TEST(a_full_node_is_refused),
		TEST(vcpus_come_to_their_memory),      TEST(memory_comes_to_its_vcpus),
		TEST(who_shares_moves_apart),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
