/* test_sim.c - the simulated host keeps the promises of host.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/lock.h"
#include "host/sim/sim.h"
#include "placement/machine.h"

#include <errno.h>

static struct host h;

static int setup(void **state)
{
	h = sim_create(NULL);
	return 0;
}

static int teardown(void **state)
{
	return (int)sim_destroy(&h);
}

#define ON_SIM(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

static uint64_t now(void)
{
	return h.ops->now_ns(h.ctx);
}

static struct host_thread *spawn(void (*fn)(void *arg), void *arg, _Atomic uint32_t *attention)
{
	struct host_thread_attr a = {
		.name = "worker", .fn = fn, .arg = arg, .attention = attention
	};
	struct host_thread *t;

	assert_int_equal(h.ops->thread_create(h.ctx, &a, &t), 0);
	return t;
}

/* --- time and waiting --------------------------------------------------------- */

static void test_time_stands_until_all_wait(void **state)
{
	_Atomic uint32_t word = 0;

	assert_int_equal(now(), 0);
	assert_int_equal(h.ops->wait(h.ctx, &word, 1, HOST_FOREVER), 0);
	assert_int_equal(now(), 0);
	assert_int_equal(h.ops->wait(h.ctx, &word, 0, 500), -ETIMEDOUT);
	assert_int_equal(now(), 500);
	assert_int_equal(h.ops->wait(h.ctx, &word, 0, 400), -ETIMEDOUT);
	assert_int_equal(now(), 500);
	sim_advance(&h, 100);
	assert_int_equal(now(), 600);
}

static _Atomic uint32_t ball;

static void play(void *arg)
{
	unsigned me = *(unsigned *)arg;

	for (unsigned i = 0; i < 1000; i++) {
		while (ball % 2 != me)
			h.ops->wait(h.ctx, &ball, !me, HOST_FOREVER);
		ball ^= 1;
		h.ops->wake(h.ctx, &ball, 1);
	}
}

static void test_wait_and_wake(void **state)
{
	unsigned id[2] = { 0, 1 };
	struct host_thread *t[2];

	ball = 0;
	for (unsigned i = 0; i < 2; i++)
		t[i] = spawn(play, &id[i], NULL);
	for (unsigned i = 0; i < 2; i++)
		h.ops->thread_join(h.ctx, t[i]);
	assert_int_equal(ball, 0);
	assert_int_equal(now(), 0);
}

static void sleep_on(void *arg)
{
	h.ops->wait(h.ctx, arg, 0, HOST_FOREVER);
	atomic_fetch_add((_Atomic uint32_t *)arg, 0x100);
}

static void test_wake_counts(void **state)
{
	_Atomic uint32_t word = 0;
	struct host_thread *t[3];

	for (unsigned i = 0; i < 3; i++)
		t[i] = spawn(sleep_on, &word, NULL);
	sim_settle(&h);
	h.ops->wake(h.ctx, &word, 1);
	sim_settle(&h);
	assert_int_equal(word, 0x100);
	h.ops->wake(h.ctx, &word, 2);
	sim_settle(&h);
	assert_int_equal(word, 0x300);
	for (unsigned i = 0; i < 3; i++)
		h.ops->thread_join(h.ctx, t[i]);
}

/* --- kicks and alarms --------------------------------------------------------- */

static _Atomic uint32_t attention;
static uint64_t woke_at;

static void wait_for_attention(void *arg)
{
	_Atomic uint32_t never = 0;

	if (arg)
		h.ops->thread_alarm(h.ctx, *(uint64_t *)arg);
	while (!atomic_load(&attention))
		h.ops->wait(h.ctx, &never, 0, HOST_FOREVER);
	woke_at = now();
}

static void test_kick_ends_a_wait(void **state)
{
	struct host_thread *t;

	attention = 0;
	t = spawn(wait_for_attention, NULL, &attention);
	sim_advance(&h, 70);
	h.ops->thread_kick(h.ctx, t);
	h.ops->thread_join(h.ctx, t);
	assert_int_equal(woke_at, 70);
}

static void test_alarm(void **state)
{
	uint64_t at = 1234;

	attention = 0;
	h.ops->thread_join(h.ctx, spawn(wait_for_attention, &at, &attention));
	assert_int_equal(woke_at, 1234);
}

static void set_and_cancel(void *arg)
{
	_Atomic uint32_t never = 0;

	h.ops->thread_alarm(h.ctx, 100);
	h.ops->thread_alarm(h.ctx, HOST_FOREVER);
	h.ops->wait(h.ctx, &never, 0, 500);
	assert_int_equal(attention, 0);
	h.ops->thread_alarm(h.ctx, 300); /* past: at once */
	assert_int_equal(attention, 1);
}

static void test_alarm_replaced(void **state)
{
	attention = 0;
	h.ops->thread_join(h.ctx, spawn(set_and_cancel, NULL, &attention));
}

static void spin(void *arg)
{
	while (!atomic_load(&attention))
		h.ops->thread_yield(h.ctx);
}

/* A loop of yields lets others run, and time pass when there are none, or all do the same. */
static void test_yield(void **state)
{
	struct host_thread *t;
	uint64_t before;

	attention = 0;
	t = spawn(spin, NULL, &attention);
	for (unsigned i = 0; i < 3; i++)
		h.ops->thread_yield(h.ctx);
	assert_int_equal(now(), 0);
	sim_settle(&h); /* it does not wait for who only yields, nor does time */
	assert_int_equal(now(), 0);
	for (unsigned i = 0; i < 100; i++)
		h.ops->thread_yield(h.ctx);
	assert_in_range(now(), 1, 100000);
	h.ops->thread_kick(h.ctx, t);
	h.ops->thread_join(h.ctx, t);
	before = now();
	h.ops->thread_yield(h.ctx);
	assert_true(now() > before);
}

/* --- timers --------------------------------------------------------------------- */

static uint64_t fired_at[4];
static unsigned nr_fired;

static void fire(void *arg)
{
	fired_at[nr_fired++ % 4] = now();
}

static void test_timers_in_order(void **state)
{
	struct host_timer *a, *b;

	nr_fired = 0;
	assert_int_equal(h.ops->timer_create(h.ctx, 0, fire, NULL, &a), 0);
	assert_int_equal(h.ops->timer_create(h.ctx, HOST_NODE_ANY, fire, NULL, &b), 0);
	h.ops->timer_arm(h.ctx, a, 300);
	h.ops->timer_arm(h.ctx, b, 200);
	sim_advance(&h, 1000);
	assert_int_equal(nr_fired, 2);
	assert_int_equal(fired_at[0], 200);
	assert_int_equal(fired_at[1], 300);

	h.ops->timer_arm(h.ctx, a, 1500);
	h.ops->timer_arm(h.ctx, a, 2500); /* replaces */
	h.ops->timer_arm(h.ctx, b, 1600);
	h.ops->timer_arm(h.ctx, b, HOST_FOREVER); /* disarms */
	sim_advance(&h, 1000);
	assert_int_equal(nr_fired, 2);
	sim_advance(&h, 1000);
	assert_int_equal(nr_fired, 3);
	h.ops->timer_destroy(h.ctx, a);
	h.ops->timer_destroy(h.ctx, b);
}

static bool is_inside, was_inside;

static void slow(void *arg)
{
	_Atomic uint32_t never = 0;

	is_inside = was_inside = true;
	h.ops->wait(h.ctx, &never, 0, now() + 500);
	is_inside = false;
}

static void test_timer_destroy_waits(void **state)
{
	struct host_timer *t;

	assert_int_equal(h.ops->timer_create(h.ctx, 0, slow, NULL, &t), 0);
	h.ops->timer_arm(h.ctx, t, 100);
	sim_advance(&h, 200);
	assert_true(is_inside);
	h.ops->timer_destroy(h.ctx, t);
	assert_true(was_inside && !is_inside);
	assert_int_equal(now(), 600);
}

/* --- order -------------------------------------------------------------------------- */

#define TURNS 200

static char course[2][TURNS + 1];
static unsigned run, turns;
static struct lock mutex;

static void take_turns(void *arg)
{
	for (unsigned i = 0; i < TURNS / 4; i++) {
		lock_take(&h, &mutex);
		course[run][turns++] = *(const char *)arg;
		now(); /* a place to be preempted with the lock held */
		lock_release(&h, &mutex);
	}
}

static void run_course(unsigned which, uint64_t seed)
{
	struct sim_config cfg = { .seed = seed };
	struct host_thread *t[4];

	h = sim_create(&cfg);
	run = which;
	turns = 0;
	for (unsigned i = 0; i < 4; i++)
		t[i] = spawn(take_turns, &"abcd"[i], NULL);
	for (unsigned i = 0; i < 4; i++)
		h.ops->thread_join(h.ctx, t[i]);
	assert_int_equal(turns, TURNS);
	assert_int_equal(sim_destroy(&h), 0);
}

static void test_seeds_repeat(void **state)
{
	run_course(0, 42);
	run_course(1, 42);
	assert_string_equal(course[0], course[1]);
	run_course(1, 43);
	assert_string_not_equal(course[0], course[1]);
}

static void test_look_ns(void **state)
{
	struct sim_config cfg = { .look_ns = 10, .ticks_khz = 2000000, .wall_ns = 5 };

	h = sim_create(&cfg);
	assert_int_equal(now(), 10);
	assert_int_equal(h.ops->ticks(h.ctx), 40);
	assert_int_equal(h.ops->wall_ns(h.ctx), 35);
	assert_int_equal(h.ops->ticks_khz(h.ctx), 2000000);
	assert_int_equal(sim_destroy(&h), 0);
}

/* --- memory ------------------------------------------------------------------------- */

static void test_memory_is_counted(void **state)
{
	struct sim_config cfg = { .nodes = 2, .node_memory_bytes = MIB(1) };
	struct host_mem m[2], over;
	void *p;

	h = sim_create(&cfg);
	assert_int_equal(h.ops->mem_map(h.ctx, HOST_RAM(MIB(1), 1), &m[1]), 0);
	assert_int_equal(sim_node_used(&h, 0), 0);
	assert_int_equal(sim_node_used(&h, 1), MIB(1));
	assert_int_equal(h.ops->mem_map(h.ctx, HOST_RAM(PAGE_SIZE, 1), &over),
			 -ENOMEM);       /* strict */
	p = h.ops->alloc(h.ctx, 100, 1); /* only a preference */
	assert_non_null(p);
	assert_int_equal(sim_node_used(&h, 0), 100);
	assert_true(IS_ALIGNED((uintptr_t)p, PAGE_SIZE));
	h.ops->free(h.ctx, p, 100);
	assert_int_equal(h.ops->mem_map(h.ctx, HOST_RAM(100, 0), &over), -EINVAL);
	assert_int_equal(h.ops->mem_map(h.ctx, HOST_RAM(PAGE_SIZE, 2), &over), -EINVAL);
	assert_int_equal(h.ops->mem_prefault(h.ctx, &m[1], MIB(1) - PAGE_SIZE, PAGE_SIZE), 0);
	assert_int_equal(h.ops->mem_prefault(h.ctx, &m[1], MIB(1), PAGE_SIZE), -EINVAL);
	assert_int_equal(*(uint64_t *)m[1].base, 0);
	h.ops->mem_unmap(h.ctx, &m[1]);
	assert_int_equal(sim_node_used(&h, 1), 0);
	assert_int_equal(sim_destroy(&h), 0);
}

static void nothing(void *arg)
{
}

static void test_failures_on_demand(void **state)
{
	struct host_thread_attr a = { .fn = nothing };
	struct host_thread *t;
	struct host_timer *timer;
	struct host_mem m;
	void *p;

	sim_fail(&h, SIM_FAIL_ALLOC, 2);
	p = h.ops->alloc(h.ctx, 64, 0);
	assert_non_null(p);
	assert_null(h.ops->alloc(h.ctx, 64, 0));
	h.ops->free(h.ctx, p, 64);
	sim_fail(&h, SIM_FAIL_MAP, 1);
	assert_int_equal(h.ops->mem_map(h.ctx, HOST_RAM(PAGE_SIZE, 0), &m), -ENOMEM);
	sim_fail(&h, SIM_FAIL_THREAD, 1);
	assert_int_equal(h.ops->thread_create(h.ctx, &a, &t), -EAGAIN);
	sim_fail(&h, SIM_FAIL_TIMER, 1);
	assert_int_equal(h.ops->timer_create(h.ctx, 0, nothing, NULL, &timer), -ENOMEM);
}

static void test_leaks_are_found(void **state)
{
	struct host_timer *t;
	struct host_mem m;
	struct host_code c;

	h = sim_create(NULL);
	assert_non_null(h.ops->alloc(h.ctx, 1, 0));
	assert_int_equal(h.ops->mem_map(h.ctx, HOST_RAM(PAGE_SIZE, 0), &m), 0);
	assert_int_equal(h.ops->code_map(h.ctx, PAGE_SIZE, 0, &c), 0);
	assert_int_equal(h.ops->timer_create(h.ctx, 0, nothing, NULL, &t), 0);
	spawn(nothing, NULL, NULL);
	sim_settle(&h);
	assert_int_equal(sim_destroy(&h), 5);
}

static void test_code_executes(void **state)
{
	static const uint8_t return_42[] = { 0xb8, 42, 0, 0, 0, 0xc3 };
	struct host_code c;
	int (*fn)(void);

	assert_int_equal(h.ops->code_map(h.ctx, PAGE_SIZE, HOST_NODE_ANY, &c), 0);
	memcpy(c.rw, return_42, sizeof(return_42));
	h.ops->sync_cores(h.ctx);
	fn = (int (*)(void))(uintptr_t)c.rx;
	assert_int_equal(fn(), 42);
	h.ops->code_unmap(h.ctx, &c);
}

/* --- the rest ------------------------------------------------------------------------- */

static bool skip_division(struct host_fault *f, void *arg)
{
	*(struct host_fault *)arg = *f;
	if (f->kind != HOST_FAULT_FPE)
		return false;
	f->pc += 3;
	f->gpr[0] = 7; /* RAX */
	return true;
}

/* CPUs report an integer division by zero as FPE, in the form of host.h. */
static void test_faults(void **state)
{
	struct host_fault seen = { 0 };
	uint64_t rax = 1, rdx = 0, rcx = 0;

	assert_int_equal(h.ops->fault_handler(h.ctx, skip_division, &seen), 0);
	__asm__ volatile("div %%rcx" : "+a"(rax), "+d"(rdx), "+c"(rcx)::"cc");
	assert_int_equal(seen.kind, HOST_FAULT_FPE);
	assert_int_equal(seen.gpr[0], 1);
	assert_int_equal(seen.gpr[1], 0);
	assert_int_equal(rax, 7);
	assert_int_equal(h.ops->fault_handler(h.ctx, NULL, NULL), 0);
}

static void test_gs(void **state)
{
	uint64_t base[2] = { 0x1122334455667788, 0x99 };
	uint64_t v;

	h.ops->thread_set_gs(h.ctx, base);
	__asm__ volatile("mov %%gs:8, %0" : "=r"(v));
	assert_int_equal(v, 0x99);
	h.ops->thread_set_gs(h.ctx, NULL);
}

static void test_binding(void **state)
{
	struct sim_config cfg = { .nodes = 2, .cores_per_node = 2, .threads_per_core = 2 };
	struct host_thread_attr a = { .name = "bound", .fn = nothing };
	struct host_thread *t;
	struct pu_set pus = { 0 }, found;

	h = sim_create(&cfg);
	a.pus = &pus;
	assert_int_equal(h.ops->thread_create(h.ctx, &a, &t), -EINVAL); /* an empty set */
	pu_set_add(&pus, 8);
	assert_int_equal(h.ops->thread_bind(h.ctx, NULL, &pus), -EINVAL); /* the host has 0 .. 7 */
	pu_set_add(&pus, 7);
	assert_int_equal(h.ops->thread_create(h.ctx, &a, &t), 0);
	assert_true(sim_thread_pus(&h, "bound", &found));
	assert_memory_equal(&found, &pus, sizeof(pus));
	h.ops->thread_join(h.ctx, t);
	assert_false(sim_thread_pus(&h, "bound", &found));
	assert_int_equal(sim_destroy(&h), 0);
}

static void test_topology(void **state)
{
	struct sim_config cfg = { .nodes = 2, .cores_per_node = 3, .threads_per_core = 2 };
	struct machine_model m;

	h = sim_create(&cfg);
	assert_int_equal(h.ops->topology(h.ctx, &m), 0);
	assert_int_equal(m.nr_pus, 12);
	assert_int_equal(m.nr_cores, 6);
	assert_int_equal(m.nr_nodes, 2);
	assert_int_equal(m.pu[0].core, m.pu[1].core);
	assert_int_equal(m.pu[1].smt, 1);
	assert_int_equal(m.pu[1].os_index, 6); /* a sibling lies one core count on */
	assert_int_equal(m.pu[6].node, 1);
	assert_int_equal(machine_distance(&m, 0, 1), 20);
	assert_int_equal(m.node[1].free_bytes, GIB(1));
	machine_free(&m);
	assert_int_equal(sim_destroy(&h), 0);
}

static void test_log(void **state)
{
	assert_string_equal(sim_log(&h), "");
	host_log(&h, LOG_INFO, "one %d", 1);
	host_log(&h, LOG_ERR, "two");
	assert_string_equal(sim_log(&h), "one 1\ntwo\n");
	sim_log_clear(&h);
	assert_string_equal(sim_log(&h), "");
}

static void test_entropy_repeats(void **state)
{
	uint64_t a, b;

	h.ops->entropy(h.ctx, &a, sizeof(a));
	assert_int_equal(sim_destroy(&h), 0);
	h = sim_create(NULL);
	h.ops->entropy(h.ctx, &b, sizeof(b));
	assert_int_equal(a, b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_SIM(test_time_stands_until_all_wait),
		ON_SIM(test_wait_and_wake),
		ON_SIM(test_wake_counts),
		ON_SIM(test_kick_ends_a_wait),
		ON_SIM(test_alarm),
		ON_SIM(test_alarm_replaced),
		ON_SIM(test_yield),
		ON_SIM(test_timers_in_order),
		ON_SIM(test_timer_destroy_waits),
		cmocka_unit_test(test_seeds_repeat),
		cmocka_unit_test(test_look_ns),
		cmocka_unit_test(test_memory_is_counted),
		ON_SIM(test_failures_on_demand),
		cmocka_unit_test(test_leaks_are_found),
		ON_SIM(test_code_executes),
		ON_SIM(test_faults),
		ON_SIM(test_gs),
		cmocka_unit_test(test_binding),
		cmocka_unit_test(test_topology),
		ON_SIM(test_log),
		ON_SIM(test_entropy_repeats),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
