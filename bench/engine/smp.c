/*
 * smp.c - workloads of two threads on two CPUs, and of what such programs are made:
 * atomics, futexes, address spaces that change while others use them.
 */
#include "work.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 4096u

static void pin(pthread_t thread, unsigned cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	/* A machine of one CPU has all threads on that one. */
	pthread_setaffinity_np(thread, sizeof(set), &set);
}

struct job {
	void (*work)(uint64_t ops, unsigned cpu);
	uint64_t ops;
	/* 0 until the other thread runs, then 1; 2 when both may begin. */
	_Atomic unsigned stage;
};

static void *other_thread(void *arg)
{
	struct job *job = arg;

	atomic_store(&job->stage, 1);
	while (atomic_load(&job->stage) != 2)
		;
	job->work(job->ops, 1);
	return NULL;
}

/*
 * Do @work on both CPUs at a time; return the nanoseconds that it took.
 *
 * Both threads are on their CPUs before either begins. A thread that starts on the other's CPU
 * and moves away by itself would have to be scheduled there first: that measures how soon a
 * kernel preempts for a new thread, which is neither the work nor the engine.
 */
static uint64_t on_both(void (*work)(uint64_t ops, unsigned cpu), uint64_t ops)
{
	struct job job = { work, ops, 0 };
	pthread_t thread;
	uint64_t start;

	pin(pthread_self(), 0);
	if (pthread_create(&thread, NULL, other_thread, &job))
		work_die("pthread_create");
	pin(thread, 1);
	while (atomic_load(&job.stage) != 1)
		sched_yield();
	start = work_now_ns();
	atomic_store(&job.stage, 2);
	work(ops, 0);
	pthread_join(thread, NULL);
	return work_now_ns() - start;
}

static _Atomic uint64_t counter;

static uint64_t run_atomic(uint64_t ops)
{
	uint64_t start = atomic_load(&counter), expected;

	while (ops--) {
		atomic_fetch_add(&counter, 3);
		expected = atomic_load(&counter);
		atomic_compare_exchange_strong(&counter, &expected, expected ^ 1);
	}
	return atomic_load(&counter) - start;
}

static void add_shared(uint64_t ops, unsigned cpu)
{
	while (ops--)
		atomic_fetch_add(&counter, 1);
}

static uint64_t run_contended(uint64_t ops)
{
	uint64_t start = atomic_load(&counter);

	on_both(add_shared, ops);
	return atomic_load(&counter) - start;
}

static _Atomic uint32_t turn;

static void futex(int op, uint32_t value)
{
	syscall(SYS_futex, &turn, op | FUTEX_PRIVATE_FLAG, value, NULL, NULL, 0);
}

/* Each waits for its turn asleep, and then wakes the other. */
static void take_turns(uint64_t ops, unsigned cpu)
{
	while (ops--) {
		while (atomic_load(&turn) != cpu)
			futex(FUTEX_WAIT, 1 - cpu);
		atomic_store(&turn, 1 - cpu);
		futex(FUTEX_WAKE, 1);
	}
}

static uint64_t run_futex(uint64_t ops)
{
	atomic_store(&turn, 0);
	on_both(take_turns, ops);
	return ops + atomic_load(&turn);
}

static void map_and_unmap(uint64_t ops, unsigned cpu)
{
	while (ops--) {
		uint8_t *p = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (p == MAP_FAILED)
			work_die("mmap");
		p[PAGE + cpu] = 1;
		munmap(p, 4 * PAGE);
	}
}

static uint64_t run_mmap_1(uint64_t ops)
{
	map_and_unmap(ops, 0);
	return ops;
}

static uint64_t run_mmap_2(uint64_t ops)
{
	on_both(map_and_unmap, ops);
	return ops;
}

static uint8_t *shared;
static atomic_bool stop;

static void setup_shootdown(void)
{
	shared = work_alloc(16 * PAGE);
}

/* One changes what it may do with a page, while the other keeps reading it. */
static void protect_or_read(uint64_t ops, unsigned cpu)
{
	if (cpu == 1) {
		while (!atomic_load(&stop))
			(void)*(volatile uint8_t *)&shared[PAGE];
		return;
	}
	while (ops--) {
		if (mprotect(shared + PAGE, PAGE, PROT_READ) ||
		    mprotect(shared + PAGE, PAGE, PROT_READ | PROT_WRITE))
			work_die("mprotect");
		shared[PAGE + 8]++;
	}
	atomic_store(&stop, true);
}

static uint64_t run_shootdown(uint64_t ops)
{
	atomic_store(&stop, false);
	on_both(protect_or_read, ops);
	return shared[PAGE + 8];
}

static double best_alone, best_both;

static void compute(uint64_t ops, unsigned cpu)
{
	uint32_t table[256];
	uint64_t r = cpu + 1, x = 0;

	memset(table, 0, sizeof(table));
	while (ops--) {
		table[work_random(&r) & 255] += (uint32_t)r;
		x += table[r & 255];
	}
	__asm__ volatile("" ::"r"(x));
}

static void keep_best(double *best, uint64_t ns, uint64_t ops)
{
	double t = (double)ns / (double)ops;

	if (*best == 0 || t < *best)
		*best = t;
}

static uint64_t run_parallel(uint64_t ops)
{
	uint64_t start = work_now_ns();

	pin(pthread_self(), 0);
	compute(ops, 0);
	keep_best(&best_alone, work_now_ns() - start, ops);
	keep_best(&best_both, on_both(compute, ops), ops);
	return ops;
}

/* How much more two threads do than one, in the same time. */
static const char *speed_up(void)
{
	static char text[16];

	snprintf(text, sizeof(text), "%.2fx", 2 * best_alone / best_both);
	return text;
}

const struct work works_smp[] = {
	{ "atomic", "locked add and compare-exchange", 5000000, NULL, run_atomic, NULL },
	{ "contended", "locked add by each of two threads", 5000000, NULL, run_contended, NULL },
	{ "futex", "there and back between threads on two CPUs", 1500, NULL, run_futex, NULL },
	{ "mmap-1", "4 pages mapped, one touched, unmapped", 18000, NULL, run_mmap_1, NULL },
	{ "mmap-2", "the same by each of two threads", 8000, NULL, run_mmap_2, NULL },
	{ "shootdown", "page made read-only and back while another reads it", 8000, setup_shootdown,
	  run_shootdown, NULL },
	{ "parallel", "round alone, then by each of two threads", 8000000, NULL, run_parallel,
	  speed_up },
	{ 0 },
};
