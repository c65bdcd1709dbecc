/*
 * test_vm.c - a machine's life and the vCPU loop, over the simulated host and an
 * engine that does what its test says.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/vm.h"
#include "host/sim/sim.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

/* --- the engine --------------------------------------------------------------- */

/* What a vCPU does when it runs; set by the test before it starts. */
enum act { SPIN, HALT, POWEROFF, TRIPLE_FAULT, TRIPLE_ONCE, FAIL, HALT_UNTIL, BREAK_ONCE };

static struct {
	enum act act[8];
	unsigned runs[8], resets[8], kicks;
	bool stepping[8];
	bool stop_in_reset;
	uint64_t wake_at_ns; /* HALT_UNTIL */
	uint64_t woke_at_ns;
	int create_err, vcpu_err;
	unsigned live; /* engine parts not yet destroyed */
} fake;

static int fake_probe(const struct host *h, char *why, size_t why_bytes)
{
	return 0;
}

static int fake_create(struct vm *vm)
{
	fake.live += !fake.create_err;
	return fake.create_err;
}

static void fake_destroy(struct vm *vm)
{
	fake.live--;
}

static int fake_vcpu_create(struct vcpu *c)
{
	if (fake.vcpu_err && c->id == 1)
		return fake.vcpu_err;
	c->engine_data = c;
	__atomic_fetch_add(&fake.live, 1, __ATOMIC_RELAXED);
	return 0;
}

static void fake_vcpu_destroy(struct vcpu *c)
{
	fake.live--;
}

static int fake_run(struct vcpu *c, struct vcpu_exit *x)
{
	struct host *h = &c->vm->host;

	fake.runs[c->id]++;
	atomic_fetch_and(&c->events, ~(uint32_t)VCPU_ENGINE_EVENTS);
	x->reason = EXIT_KICK;
	if (fake.stepping[c->id]) {
		x->reason = EXIT_DEBUG;
		x->detail = 0x57e9;
		return 0;
	}
	switch (fake.act[c->id]) {
	case SPIN:
		while (!atomic_exchange(&c->attention, 0)) /* work takes time */
			h->ops->wait(h->ctx, &c->attention, 0, h->ops->now_ns(h->ctx) + 1000);
		return 0;
	case HALT_UNTIL:
		if (clock_now_ns(&c->vm->clock) >= fake.wake_at_ns) {
			fake.woke_at_ns = clock_now_ns(&c->vm->clock);
			fake.act[c->id] = HALT;
		}
		/* fall through */
	case HALT:
		x->reason = EXIT_HALT;
		return 0;
	case POWEROFF:
		vm_request(c->vm, VM_REQ_POWEROFF, 0);
		return 0;
	case TRIPLE_ONCE:
		fake.act[c->id] = POWEROFF;
		/* fall through */
	case TRIPLE_FAULT:
		x->reason = EXIT_RESET;
		return 0;
	case BREAK_ONCE:
		fake.act[c->id] = SPIN;
		x->reason = EXIT_DEBUG;
		x->detail = 0xb9;
		return 0;
	case FAIL:
		return -EFAULT;
	}
	return 0;
}

static void fake_kick(struct vcpu *c)
{
	fake.kicks++;
	atomic_store(&c->attention, 1);
}

static bool fake_has_work(struct vcpu *c, uint64_t *deadline_ns)
{
	if (fake.act[c->id] == HALT_UNTIL)
		*deadline_ns = fake.wake_at_ns;
	return fake.act[c->id] != HALT && fake.act[c->id] != HALT_UNTIL;
}

static int fake_set_state(struct vcpu *c, const struct cpu_state *s)
{
	return 0;
}

static void fake_reset(struct vcpu *c)
{
	if (++fake.resets[c->id] > 1 && fake.stop_in_reset)
		vmm_stop(c->vm);
}

static void fake_single_step(struct vcpu *c, bool on)
{
	fake.stepping[c->id] = on;
}

static void fake_code_changed(struct vm *vm, uint64_t gpa, uint64_t bytes)
{
}

static const struct engine_ops fake_engine = {
	.name = "fake",
	.probe = fake_probe,
	.create = fake_create,
	.destroy = fake_destroy,
	.vcpu_create = fake_vcpu_create,
	.vcpu_destroy = fake_vcpu_destroy,
	.run = fake_run,
	.kick = fake_kick,
	.has_work = fake_has_work,
	.set_state = fake_set_state,
	.reset = fake_reset,
	.single_step = fake_single_step,
	.code_changed = fake_code_changed,
};

/* --- a machine ------------------------------------------------------------------ */

/* Multiboot 1, loaded by the address fields in its header: the smallest image. */
static const uint32_t image[] = {
	0x1badb002, 0x00010000, -(0x1badb002u + 0x00010000u),
	0x100000,   0x100000,   0x100030,
	0x100030,   0x100020,   0xf4f4f4f4,
	0,          0,          0,
};

static struct {
	unsigned stops, vcpu;
	uint64_t detail;
} debugger;

static void on_debug_stop(void *arg, unsigned vcpu, uint64_t detail)
{
	debugger.stops++;
	debugger.vcpu = vcpu;
	debugger.detail = detail;
}

struct fixture {
	struct host host;
	struct plan plan;
	struct vmm_config cfg;
	struct vm *vm;
	char why[200];
};

static void prepare(struct fixture *f, unsigned vcpus, unsigned nodes)
{
	memset(f, 0, sizeof(*f));
	memset(&fake, 0, sizeof(fake));
	memset(&debugger, 0, sizeof(debugger));
	f->host = sim_create(&(struct sim_config){ .nodes = 2 });
	f->plan.nr_vcpus = vcpus;
	f->plan.nr_memory = nodes;
	f->cfg = (struct vmm_config){
		.name = "test",
		.engine = &fake_engine,
		.plan = &f->plan,
		.topo = { .vcpus = vcpus, .nodes = nodes },
		.kernel = { (const uint8_t *)image, sizeof(image), "image" },
		.cmdline = "",
		.debug_stop = on_debug_stop,
	};
	for (unsigned i = 0; i < vcpus; i++)
		f->plan.vcpu[i] = (struct plan_vcpu){ .pu = i,
						      .guest_node = i * nodes / vcpus,
						      .host_node = 0 };
	for (unsigned i = 0; i < nodes; i++) {
		f->plan.memory[i] = (struct plan_memory){ .guest_node = i,
							  .host_node = (int)i,
							  .bytes = MIB(8) };
		f->cfg.topo.node_memory_bytes[i] = MIB(8);
	}
}

static void create(struct fixture *f)
{
	if (vmm_create(&f->host, &f->cfg, &f->vm, f->why, sizeof(f->why)))
		fail_msg("%s", f->why);
}

static void start(struct fixture *f)
{
	create(f);
	assert_int_equal(vmm_start(f->vm, f->why, sizeof(f->why)), 0);
}

static uint64_t after(struct fixture *f, uint64_t ns)
{
	return f->host.ops->now_ns(f->host.ctx) + ns;
}

/* Ends the machine and finds nothing left behind. */
static void finish(struct fixture *f)
{
	vmm_destroy(f->vm);
	assert_int_equal(fake.live, 0);
	assert_int_equal(sim_destroy(&f->host), 0);
}

static struct vmm_result wait_end(struct fixture *f)
{
	struct vmm_result r;

	assert_int_equal(vmm_wait(f->vm, after(f, NSEC_PER_SEC), &r), 0);
	return r;
}

/* --- tests ---------------------------------------------------------------------- */

static void runs_and_stops(void **state)
{
	struct fixture f;
	struct vmm_result r;

	prepare(&f, 4, 2);
	start(&f);
	assert_int_equal(vmm_wait(f.vm, after(&f, NSEC_PER_MSEC), &r), -ETIMEDOUT);
	assert_int_equal(r.end, VMM_RUNNING);
	for (unsigned i = 0; i < 4; i++)
		assert_true(fake.runs[i] > 0);
	vmm_stop(f.vm);
	assert_int_equal(wait_end(&f).end, VMM_STOPPED);
	finish(&f);
}

/* A guest that does nothing but reset must not shut a stop out. */
static void stops_in_the_middle_of_a_reset(void **state)
{
	struct fixture f;

	prepare(&f, 2, 1);
	f.cfg.reboot = true;
	fake.act[0] = TRIPLE_FAULT;
	fake.act[1] = HALT;
	fake.stop_in_reset = true;
	start(&f);
	assert_int_equal(wait_end(&f).end, VMM_STOPPED);
	finish(&f);
}

static void destroys_what_never_started(void **state)
{
	struct fixture f;

	prepare(&f, 2, 1);
	create(&f);
	finish(&f);
}

static void destroys_what_still_runs(void **state)
{
	struct fixture f;

	prepare(&f, 4, 1);
	fake.act[1] = fake.act[2] = HALT;
	start(&f);
	sim_advance(&f.host, NSEC_PER_MSEC);
	finish(&f);
}

static void each_vcpu_is_bound_to_its_pu(void **state)
{
	struct fixture f;

	prepare(&f, 4, 2);
	f.plan.vcpu[2].pu = 5;
	start(&f);
	for (unsigned i = 0; i < 4; i++) {
		char name[16];
		struct pu_set pus;

		snprintf(name, sizeof(name), "vcpu%u", i);
		assert_true(sim_thread_pus(&f.host, name, &pus));
		assert_int_equal(pu_set_count(&pus), 1);
		assert_true(pu_set_has(&pus, i == 2 ? 5 : i));
	}
	finish(&f);
}

static void ends_as_the_guest_asks(void **state)
{
	static const struct {
		enum act act;
		enum vmm_end end;
		int code;
	} want[] = {
		{ POWEROFF, VMM_POWEROFF, 0 },
		{ TRIPLE_FAULT, VMM_TRIPLE_FAULT, 2 },
		{ FAIL, VMM_ERROR, -EFAULT },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(want); i++) {
		struct fixture f;
		struct vmm_result r;

		prepare(&f, 3, 1);
		fake.act[1] = HALT;
		fake.act[2] = want[i].act;
		start(&f);
		r = wait_end(&f);
		assert_int_equal(r.end, want[i].end);
		assert_int_equal(r.code, want[i].code);
		finish(&f);
	}
}

static void reboots(void **state)
{
	struct fixture f;
	struct vmm_result r;

	prepare(&f, 3, 1);
	f.cfg.reboot = true;
	fake.act[0] = TRIPLE_ONCE;
	fake.act[1] = HALT;
	start(&f);
	r = wait_end(&f);
	assert_int_equal(r.end, VMM_POWEROFF);
	assert_int_equal(r.resets, 1);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(fake.resets[i], 2); /* power-up and reboot */
	finish(&f);
}

static void first_request_wins(void **state)
{
	struct fixture f;

	prepare(&f, 2, 1);
	start(&f);
	vm_request(f.vm, VM_REQ_EXIT, 7);
	vm_request(f.vm, VM_REQ_STOP, 0);
	assert_int_equal(wait_end(&f).end, VMM_EXIT);
	assert_int_equal(wait_end(&f).code, 7);
	finish(&f);
}

static void pause_holds_time_and_guests(void **state)
{
	struct fixture f;
	unsigned runs;
	uint64_t now;

	prepare(&f, 4, 1);
	fake.act[3] = HALT;
	start(&f);
	sim_advance(&f.host, NSEC_PER_MSEC);
	assert_int_equal(vmm_pause(f.vm), 0);
	assert_int_equal(vmm_pause(f.vm), 0); /* nests */
	now = clock_now_ns(&f.vm->clock);
	runs = fake.runs[0];
	sim_advance(&f.host, NSEC_PER_SEC);
	assert_int_equal(clock_now_ns(&f.vm->clock), now);
	vmm_resume(f.vm);
	sim_advance(&f.host, NSEC_PER_SEC);
	assert_int_equal(clock_now_ns(&f.vm->clock), now);
	assert_int_equal(fake.runs[0], runs);
	vmm_resume(f.vm);
	sim_advance(&f.host, NSEC_PER_MSEC);
	assert_in_range(clock_now_ns(&f.vm->clock), now + 1, now + 2 * NSEC_PER_MSEC);
	assert_true(fake.runs[0] > runs);
	finish(&f);
}

static unsigned pu_of(struct fixture *f, const char *thread)
{
	struct pu_set pus;

	assert_true(sim_thread_pus(&f->host, thread, &pus));
	assert_int_equal(pu_set_count(&pus), 1);
	for (unsigned i = 0; i < PU_SET_MAX; i++)
		if (pu_set_has(&pus, i))
			return i;
	return PU_SET_MAX;
}

/* Running, asleep or parked: the thread moves at once, and the plan and the account follow. */
static void vcpus_move_while_they_run(void **state)
{
	struct plan *plan = calloc(1, sizeof(*plan));
	struct fixture f;

	prepare(&f, 3, 2);
	fake.act[1] = HALT;
	create(&f);
	assert_int_equal(vmm_move_vcpu(f.vm, 0, 4, 1), -EINVAL); /* there is no thread yet */
	assert_int_equal(vmm_start(f.vm, f.why, sizeof(f.why)), 0);
	sim_advance(&f.host, NSEC_PER_MSEC);
	assert_int_equal(vmm_move_vcpu(f.vm, 0, 7, 1), 0);
	assert_int_equal(vmm_move_vcpu(f.vm, 1, 6, 1), 0);
	assert_int_equal(pu_of(&f, "vcpu0"), 7);
	assert_int_equal(pu_of(&f, "vcpu1"), 6);
	sim_advance(&f.host, NSEC_PER_MSEC);
	assert_int_equal(f.vm->vcpu[0]->sched.pu, 7);
	assert_int_equal(f.vm->vcpu[1]->sched.pu, 6);

	assert_int_equal(vmm_pause(f.vm), 0);
	assert_int_equal(vmm_move_vcpu(f.vm, 2, 7, 1), 0);
	assert_int_equal(pu_of(&f, "vcpu2"), 7);
	vmm_get_plan(f.vm, plan);
	assert_int_equal(plan->vcpu[0].pu, 7);
	assert_int_equal(plan->vcpu[0].host_node, 1);
	assert_true(plan->vcpu[0].shared && plan->vcpu[2].shared && !plan->vcpu[1].shared);
	vmm_resume(f.vm);

	assert_int_equal(vmm_move_vcpu(f.vm, 3, 1, 0), -EINVAL);
	assert_int_equal(vmm_move_vcpu(f.vm, 0, PU_SET_MAX, 0), -EINVAL);
	assert_int_equal(vmm_move_vcpu(f.vm, 0, 8, 0), -EINVAL); /* the host has 0 to 7 */
	assert_int_equal(pu_of(&f, "vcpu0"), 7);
	vmm_get_plan(f.vm, plan);
	assert_int_equal(plan->vcpu[0].pu, 7);
	free(plan);
	finish(&f);
}

static void memory_moves_while_it_is_used(void **state)
{
	struct plan *plan = calloc(1, sizeof(*plan));
	uint64_t before[2];
	struct fixture f;

	prepare(&f, 2, 2);
	start(&f);
	for (unsigned n = 0; n < 2; n++)
		before[n] = sim_node_used(&f.host, n);
	gmem_fill(&f.vm->gmem, MIB(2), 0x5a, MIB(1));
	assert_int_equal(vmm_move_memory(f.vm, 0, 0, MIB(6), 1), 0);
	assert_int_equal(sim_node_used(&f.host, 0), before[0] - MIB(6));
	assert_int_equal(sim_node_used(&f.host, 1), before[1] + MIB(6));
	vmm_get_plan(f.vm, plan);
	assert_int_equal(plan->memory[0].host_node, 0); /* not until all of it is there */
	assert_int_equal(vmm_move_memory(f.vm, 0, MIB(6), MIB(2), 1), 0);
	vmm_get_plan(f.vm, plan);
	assert_int_equal(plan->memory[0].host_node, 1);
	assert_int_equal(vmm_memory(f.vm, 0)->node, 1);
	assert_int_equal(sim_node_used(&f.host, 1), before[1] + MIB(8));
	assert_int_equal(*((uint8_t *)gmem_ptr(&f.vm->gmem, MIB(2) + 77, 1)), 0x5a);

	assert_int_equal(vmm_move_memory(f.vm, 0, 0, MIB(8), 2), -EINVAL);
	assert_int_equal(vmm_move_memory(f.vm, 0, MIB(4), MIB(5), 0), -EINVAL);
	assert_int_equal(vmm_move_memory(f.vm, 2, 0, MIB(8), 0), -EINVAL);
	sim_fail(&f.host, SIM_FAIL_MOVE, 1);
	assert_int_equal(vmm_move_memory(f.vm, 0, 0, MIB(8), 0), -EBUSY);
	vmm_get_plan(f.vm, plan);
	assert_int_equal(plan->memory[0].host_node, 1);
	assert_null(vmm_memory(f.vm, 2));
	free(plan);
	finish(&f);
}

static void stop_reaches_a_paused_machine(void **state)
{
	struct fixture f;

	prepare(&f, 4, 1);
	start(&f);
	vmm_pause(f.vm);
	vmm_stop(f.vm);
	assert_int_equal(wait_end(&f).end, VMM_STOPPED);
	vmm_resume(f.vm);
	finish(&f);
}

static void sleeps_until_its_deadline(void **state)
{
	struct fixture f;

	prepare(&f, 1, 1);
	fake.act[0] = HALT_UNTIL;
	fake.wake_at_ns = 5 * NSEC_PER_MSEC;
	start(&f);
	sim_advance(&f.host, NSEC_PER_SEC);
	assert_in_range(fake.woke_at_ns, 5 * NSEC_PER_MSEC, 5 * NSEC_PER_MSEC + 10);
	assert_true(fake.runs[0] < 5); /* it slept, it did not poll */
	finish(&f);
}

static void icount_skips_sleep(void **state)
{
	struct fixture f;
	uint64_t before;

	prepare(&f, 1, 1);
	f.cfg.clock = CLOCK_ICOUNT;
	fake.act[0] = HALT_UNTIL;
	fake.wake_at_ns = 1000 * NSEC_PER_SEC;
	create(&f);
	before = f.host.ops->now_ns(f.host.ctx);
	assert_int_equal(vmm_start(f.vm, f.why, sizeof(f.why)), 0);
	sim_settle(&f.host);
	assert_int_equal(fake.woke_at_ns, 1000 * NSEC_PER_SEC);
	assert_int_equal(f.host.ops->now_ns(f.host.ctx), before);
	finish(&f);
}

static void post_wakes_a_sleeper(void **state)
{
	struct fixture f;
	unsigned runs;

	prepare(&f, 2, 1);
	fake.act[0] = fake.act[1] = HALT;
	start(&f);
	sim_advance(&f.host, NSEC_PER_MSEC);
	runs = fake.runs[1];
	vcpu_post(f.vm->vcpu[1], VCPU_INTR);
	sim_settle(&f.host);
	assert_true(fake.runs[1] > runs);
	finish(&f);
}

/* --- idle vCPUs that poll ---------------------------------------------------------- */

#define US 1000ull

static uint64_t polled(struct fixture *f, unsigned vcpu, enum vcpu_stat id)
{
	return stat_get(&f->vm->vcpu[vcpu]->stats, id);
}

/* One machine of idle vCPUs, the first of which has gone to sleep. */
static void start_idle(struct fixture *f)
{
	fake.act[0] = fake.act[1] = HALT;
	start(f);
	sim_advance(&f->host, NSEC_PER_MSEC);
}

/* vCPU 0 is posted @n events, each @ns after it has taken the one before. */
static void post_every(struct fixture *f, unsigned n, uint64_t ns)
{
	while (n--) {
		sim_advance(&f->host, ns);
		vcpu_post(f->vm->vcpu[0], VCPU_INTR);
		sim_settle(&f->host);
	}
}

/*
 * Work comes every 50 us: the window grows from 0 by 10, 20, 40, 80, and from then on
 * no halt needs a sleep. What was polled in vain is all that it cost.
 */
static void short_halts_are_polled(void **state)
{
	struct fixture f;
	uint32_t bell;

	prepare(&f, 2, 1);
	start_idle(&f);
	assert_int_equal(polled(&f, 0, STAT_POLLS) + polled(&f, 0, STAT_POLLS_MISSED), 0);
	post_every(&f, 6, 50 * US);
	assert_int_equal(polled(&f, 0, STAT_POLLS), 1);
	assert_int_equal(polled(&f, 0, STAT_POLLS_MISSED), 3);
	assert_in_range(polled(&f, 0, STAT_POLL_NS), 120 * US, 125 * US);
	assert_int_equal(f.vm->vcpu[0]->halt_poll.window_ns, 80 * US);

	bell = atomic_load(&f.vm->vcpu[0]->doorbell);
	sim_advance(&f.host, 20 * US);
	assert_int_equal(atomic_load(&f.vm->vcpu[0]->mode), VCPU_POLLING);
	post_every(&f, 10, 20 * US);
	assert_int_equal(polled(&f, 0, STAT_POLLS), 11);
	assert_int_equal(polled(&f, 0, STAT_POLLS_MISSED), 3);
	assert_int_equal(atomic_load(&f.vm->vcpu[0]->doorbell), bell); /* nobody was woken */
	assert_int_equal(polled(&f, 1, STAT_POLLS) + polled(&f, 1, STAT_POLLS_MISSED), 0);
	finish(&f);
}

/* A long halt closes the window: who is idle for good polls once, and never again. */
static void long_halts_are_slept(void **state)
{
	struct fixture f;
	uint64_t ns;

	prepare(&f, 2, 1);
	start_idle(&f);
	post_every(&f, 6, 50 * US);
	post_every(&f, 1, NSEC_PER_SEC);
	ns = polled(&f, 0, STAT_POLL_NS);
	assert_in_range(ns, 200 * US, 210 * US);
	assert_int_equal(f.vm->vcpu[0]->halt_poll.window_ns, 0);
	post_every(&f, 1000, 4 * NSEC_PER_MSEC); /* a guest's tick */
	assert_int_equal(polled(&f, 0, STAT_POLL_NS), ns);
	post_every(&f, 1000, HALT_POLL_DEFAULT_NS + 5 * US);
	assert_int_equal(polled(&f, 0, STAT_POLL_NS), ns);
	finish(&f);
}

/* The local timer posts nothing: the poll itself ends when it is due. */
static void polls_until_its_deadline(void **state)
{
	struct fixture f;

	prepare(&f, 2, 1);
	start_idle(&f);
	post_every(&f, 6, 50 * US);
	fake.wake_at_ns = clock_now_ns(&f.vm->clock) + 30 * US;
	fake.act[0] = HALT_UNTIL;
	post_every(&f, 1, 1);
	sim_advance(&f.host, 40 * US);
	assert_in_range(fake.woke_at_ns, fake.wake_at_ns, fake.wake_at_ns + 2 * US);
	assert_int_equal(polled(&f, 0, STAT_POLLS_MISSED), 3);
	finish(&f);
}

/* A pause is seen in the middle of a poll, and time that stands still ends none. */
static void pause_ends_a_poll(void **state)
{
	struct fixture f;

	prepare(&f, 2, 1);
	start_idle(&f);
	post_every(&f, 6, 50 * US);
	sim_advance(&f.host, 10 * US);
	assert_int_equal(atomic_load(&f.vm->vcpu[0]->mode), VCPU_POLLING);
	assert_int_equal(vmm_pause(f.vm), 0);
	assert_int_equal(f.vm->nr_parked, 2);
	sim_advance(&f.host, NSEC_PER_SEC);
	assert_in_range(polled(&f, 0, STAT_POLL_NS), 120 * US, 140 * US);
	vmm_resume(f.vm);
	post_every(&f, 1, 10 * US);
	finish(&f);
}

/* Where another vCPU has the same PU, for a guest that polls by itself, and where 0 is asked for.
 */
static void who_must_not_poll(void **state)
{
	for (unsigned why = 0; why < 5; why++) {
		struct fixture f;
		bool may = why == 4;

		prepare(&f, 2, 1);
		if (why == 0 || why == 4)
			f.plan.vcpu[0].shared = true;
		f.cfg.halt_poll_set = why >= 3;
		f.cfg.halt_poll_ns = why == 4 ? 100000 : 0; /* who asks for it, gets it */
		start_idle(&f);
		if (why == 1)
			assert_int_equal(vmm_move_vcpu(f.vm, 1, 0, 0), 0);
		if (why == 2)
			f.vm->vcpu[0]->halt_poll.refused = true;
		post_every(&f, 20, 50 * US);
		assert_int_equal(polled(&f, 0, STAT_POLLS) > 0, may);
		assert_int_equal(polled(&f, 0, STAT_POLL_NS) > 0, may);
		finish(&f);
	}
}

/* A yield that takes long was somebody's turn: the thread sleeps, and does not poll on. */
static void others_on_the_pu_end_a_poll(void **state)
{
	struct fixture f;

	prepare(&f, 2, 1);
	sim_destroy(&f.host);
	f.host = sim_create(&(struct sim_config){ .nodes = 2, .look_ns = 6 * US });
	start_idle(&f);
	post_every(&f, 20, 50 * US);
	assert_int_equal(polled(&f, 0, STAT_POLLS), 0);
	assert_true(polled(&f, 0, STAT_POLLS_MISSED) > 5);
	/* One look at the clock, and the yield, each time. */
	assert_in_range(polled(&f, 0, STAT_POLL_NS) / polled(&f, 0, STAT_POLLS_MISSED), 6 * US,
			15 * US);
	finish(&f);
}

static void debugger_stops_steps_and_resumes(void **state)
{
	struct fixture f;
	unsigned runs;

	prepare(&f, 3, 1);
	fake.act[1] = BREAK_ONCE;
	fake.act[2] = HALT;
	start(&f);
	sim_advance(&f.host, NSEC_PER_MSEC);
	assert_int_equal(debugger.stops, 1);
	assert_int_equal(debugger.vcpu, 1);
	assert_int_equal(debugger.detail, 0xb9);

	runs = fake.runs[0];
	assert_int_equal(vmm_step(f.vm, 1), 0);
	sim_advance(&f.host, NSEC_PER_MSEC);
	assert_int_equal(debugger.stops, 2);
	assert_int_equal(debugger.detail, 0x57e9);
	assert_int_equal(fake.runs[0], runs); /* the others stayed parked */

	vmm_resume(f.vm);
	sim_advance(&f.host, NSEC_PER_MSEC);
	assert_true(fake.runs[0] > runs);
	vmm_stop(f.vm);
	assert_int_equal(wait_end(&f).end, VMM_STOPPED);
	finish(&f);
}

/* Whatever is refused, at whatever point, leaves nothing behind. */
static void every_failure_is_clean(void **state)
{
	static const enum sim_failure what[] = { SIM_FAIL_ALLOC, SIM_FAIL_MAP, SIM_FAIL_TIMER,
						 SIM_FAIL_THREAD };

	for (unsigned w = 0; w < ARRAY_SIZE(what); w++) {
		for (unsigned nth = 1; nth < 40; nth++) {
			struct fixture f;
			int err;

			prepare(&f, 3, 2);
			f.cfg.prefault = true;
			sim_fail(&f.host, what[w], nth);
			err = vmm_create(&f.host, &f.cfg, &f.vm, f.why, sizeof(f.why));
			if (!err)
				err = vmm_start(f.vm, f.why, sizeof(f.why));
			if (err)
				assert_true(f.why[0]);
			else
				nth = 40; /* there are no more calls to fail */
			finish(&f);
		}
	}
}

static void engine_failures_are_clean(void **state)
{
	struct fixture f;

	prepare(&f, 3, 1);
	fake.create_err = -ENOMEM;
	assert_int_equal(vmm_create(&f.host, &f.cfg, &f.vm, f.why, sizeof(f.why)), -ENOMEM);
	finish(&f);

	prepare(&f, 3, 1);
	fake.vcpu_err = -ENOMEM;
	create(&f);
	assert_int_equal(vmm_start(f.vm, f.why, sizeof(f.why)), -ENOMEM);
	finish(&f);
}

static void refuses_contradictions(void **state)
{
	struct fixture f;

	prepare(&f, 2, 1);
	f.cfg.clock = CLOCK_ICOUNT;
	assert_int_equal(vmm_create(&f.host, &f.cfg, &f.vm, f.why, sizeof(f.why)), -EINVAL);
	assert_non_null(strstr(f.why, "--cpus 1"));
	f.cfg.clock = CLOCK_HOST;
	f.cfg.topo.vcpus = 3;
	assert_int_equal(vmm_create(&f.host, &f.cfg, &f.vm, f.why, sizeof(f.why)), -EINVAL);
	finish(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(runs_and_stops),
		cmocka_unit_test(stops_in_the_middle_of_a_reset),
		cmocka_unit_test(destroys_what_never_started),
		cmocka_unit_test(destroys_what_still_runs),
		cmocka_unit_test(each_vcpu_is_bound_to_its_pu),
		cmocka_unit_test(ends_as_the_guest_asks),
		cmocka_unit_test(reboots),
		cmocka_unit_test(first_request_wins),
		cmocka_unit_test(pause_holds_time_and_guests),
		cmocka_unit_test(vcpus_move_while_they_run),
		cmocka_unit_test(memory_moves_while_it_is_used),
		cmocka_unit_test(stop_reaches_a_paused_machine),
		cmocka_unit_test(sleeps_until_its_deadline),
		cmocka_unit_test(icount_skips_sleep),
		cmocka_unit_test(post_wakes_a_sleeper),
		cmocka_unit_test(short_halts_are_polled),
		cmocka_unit_test(long_halts_are_slept),
		cmocka_unit_test(polls_until_its_deadline),
		cmocka_unit_test(pause_ends_a_poll),
		cmocka_unit_test(who_must_not_poll),
		cmocka_unit_test(others_on_the_pu_end_a_poll),
		cmocka_unit_test(debugger_stops_steps_and_resumes),
		cmocka_unit_test(every_failure_is_clean),
		cmocka_unit_test(engine_failures_are_clean),
		cmocka_unit_test(refuses_contradictions),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
