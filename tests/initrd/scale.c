/*
 * scale.c - how work scales with threads: each row runs for a fixed time, one
 * thread a CPU, and counts what got done. Nodes take turns, as the kernel's own
 * scheduler would have it. The best of three tries counts, since the host may have
 * other things to do.
 *
 *	scale [MILLISECONDS]	a try; 150 by default
 *
 * compute: integers in registers, nothing shared.
 * memory:  each thread sums an array of its own that misses the first caches.
 * atomic:  all threads increment one counter: what contention leaves.
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define THREADS_MAX 1024
#define NODES_MAX   64
#define ARRAY_WORDS (1u << 17)
#define TRIES       3

static atomic_bool go, stop;
static _Atomic uint64_t shared_counter;

/* One call is one unit of work; the result keeps the compiler honest. */
static uint64_t do_compute(uint64_t *array, uint64_t x)
{
	for (int i = 0; i < 10000; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
	}
	return x;
}

static uint64_t do_memory(uint64_t *array, uint64_t x)
{
	for (unsigned i = 0; i < ARRAY_WORDS; i += 8)
		x += array[i];
	return x;
}

static uint64_t do_atomic(uint64_t *array, uint64_t x)
{
	for (int i = 0; i < 1000; i++)
		x += atomic_fetch_add(&shared_counter, 1);
	return x;
}

static const struct work {
	const char *name;
	uint64_t (*unit)(uint64_t *array, uint64_t x);
} works[] = {
	{ "compute", do_compute },
	{ "memory", do_memory },
	{ "atomic", do_atomic },
};

#define WORKS (sizeof(works) / sizeof(works[0]))

struct worker {
	pthread_t thread;
	const struct work *work;
	unsigned cpu;
	uint64_t units, result;
} __attribute__((aligned(128)));

static struct worker workers[THREADS_MAX];
static unsigned cpu_of[THREADS_MAX]; /* by thread */

static void *run(void *arg)
{
	struct worker *w = arg;
	uint64_t *array, units = 0, x = w->cpu + 1;
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(w->cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
	/* After the binding: first touched on this CPU's node. */
	array = malloc(ARRAY_WORDS * sizeof(*array));
	if (!array)
		abort();
	for (unsigned i = 0; i < ARRAY_WORDS; i++)
		array[i] = i;
	while (!atomic_load(&go))
		sched_yield();
	while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
		x = w->work->unit(array, x);
		units++;
	}
	w->units = units;
	w->result = x;
	free(array);
	return NULL;
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Units a second of all threads together. */
static double measure(const struct work *work, unsigned threads, unsigned ms)
{
	uint64_t units = 0;
	double start, seconds;

	atomic_store(&go, false);
	atomic_store(&stop, false);
	for (unsigned i = 0; i < threads; i++) {
		workers[i].work = work;
		workers[i].cpu = cpu_of[i];
		if (pthread_create(&workers[i].thread, NULL, run, &workers[i])) {
			perror("pthread_create");
			exit(1);
		}
	}
	start = now();
	atomic_store(&go, true);
	usleep(ms * 1000);
	atomic_store(&stop, true);
	for (unsigned i = 0; i < threads; i++)
		pthread_join(workers[i].thread, NULL);
	seconds = now() - start;
	for (unsigned i = 0; i < threads; i++)
		units += workers[i].units;
	return (double)units / seconds;
}

static double best(const struct work *work, unsigned threads, unsigned ms)
{
	double rate = 0;

	for (unsigned i = 0; i < TRIES; i++) {
		double r = measure(work, threads, ms);

		if (r > rate)
			rate = r;
	}
	return rate;
}

static bool is_in_node(unsigned cpu, unsigned node)
{
	char path[64];

	snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%u/node%u", cpu, node);
	return !access(path, F_OK);
}

/* CPUs in the order in which threads take them: the first of each node, the second... */
static void order_cpus(unsigned cpus)
{
	static unsigned next[NODES_MAX]; /* CPU from which to look on, by node */
	unsigned n = 0, before;

	do {
		before = n;
		for (unsigned node = 0; node < NODES_MAX && n < cpus; node++) {
			unsigned *cpu = &next[node];

			while (*cpu < cpus && !is_in_node(*cpu, node))
				++*cpu;
			if (*cpu < cpus)
				cpu_of[n++] = (*cpu)++;
		}
	} while (n > before);
	for (unsigned cpu = 0; !n && cpu < cpus; cpu++) /* a kernel without nodes */
		cpu_of[cpu] = cpu;
}

int main(int argc, char **argv)
{
	unsigned ms = argc > 1 ? (unsigned)atoi(argv[1]) : 150;
	unsigned cpus = (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
	double one[WORKS] = { 0 };

	if (cpus > THREADS_MAX)
		cpus = THREADS_MAX;
	order_cpus(cpus);
	printf("threads");
	for (unsigned w = 0; w < WORKS; w++)
		printf(" %12s/s speed-up", works[w].name);
	printf("\n");
	for (unsigned n = 1; n <= cpus; n *= 2) {
		printf("%7u", n);
		for (unsigned w = 0; w < WORKS; w++) {
			double rate = best(&works[w], n, ms);

			if (n == 1)
				one[w] = rate;
			printf(" %14.0f %8.2f", rate, one[w] > 0 ? rate / one[w] : 0);
			fflush(stdout);
		}
		printf("\n");
	}
	return 0;
}
