/*
 * work.c - measure one workload.
 *
 *	work NAME	-> "NAME NS BEST VARIANT SUM SHARE"
 *	work --list		-> "NAME WHAT" of each
 *	work nop		does nothing: what "exec" executes
 *
 * The work is cut into slices. NS is the median of their times per operation, BEST
 * the least, which an otherwise busy machine disturbs less. SHARE tells what part
 * of the work was done: all, but on machines many times slower than real ones. SUM
 * is over the results of a warm-up that all machines do alike: it is the same on
 * all, or one is wrong.
 */
#include "work.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define SLICES       9
#define WARMUP_SHARE 64
#define SLICE_MAX_NS 100000000u

static const struct work *const groups[] = { works_integer, works_data,   works_code, works_memory,
					     works_float,   works_system, works_smp };
#define GROUPS (sizeof(groups) / sizeof(groups[0]))

void work_die(const char *what)
{
	perror(what);
	exit(1);
}

void *work_alloc(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		work_die("mmap");
	memset(p, 0, bytes);
	return p;
}

uint64_t work_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void work_text(uint8_t *text, size_t bytes)
{
	static const char *const words[] = { "the ",     "guest ",   "of ",    "an ",   "engine ",
					     "runs, ",   "and ",     "its ",   "page ", "table ",
					     "holds ",   "4096 ",    "bytes.", "\n",    "memory ",
					     "register", "= 0x7f; ", "if ",    "it ",   "faults " };
	uint64_t r = 1;

	for (size_t i = 0; i < bytes;) {
		const char *w = words[work_random(&r) % (sizeof(words) / sizeof(words[0]))];

		while (*w && i < bytes)
			text[i++] = (uint8_t)*w++;
	}
}

static const struct work *find(const char *name)
{
	for (size_t g = 0; g < GROUPS; g++)
		for (const struct work *w = groups[g]; w->name; w++)
			if (strcmp(w->name, name) == 0)
				return w;
	return NULL;
}

static int list(void)
{
	for (size_t g = 0; g < GROUPS; g++)
		for (const struct work *w = groups[g]; w->name; w++)
			printf("%s %s\n", w->name, w->what);
	return 0;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* The share of a slice that a machine gets which needed @ns for the warm-up. */
static uint64_t share(uint64_t ns)
{
	uint64_t divisor = 1;

	while (ns * WARMUP_SHARE / SLICES / divisor > SLICE_MAX_NS)
		divisor *= 2;
	return divisor;
}

static void measure(const struct work *w)
{
	uint64_t start, sum, divisor, n, sink = 0;
	double ns[SLICES];

	if (w->setup)
		w->setup();
	start = work_now_ns();
	sum = w->run(w->ops / WARMUP_SHARE + 1);
	divisor = share(work_now_ns() - start);
	n = w->ops / SLICES / divisor + 1;
	for (int i = 0; i < SLICES; i++) {
		start = work_now_ns();
		sink += w->run(n);
		ns[i] = (double)(work_now_ns() - start) / (double)n;
	}
	__asm__ volatile("" ::"r"(sink));
	qsort(ns, SLICES, sizeof(ns[0]), by_value);
	printf("%s %.6g %.6g %s %016llx 1/%llu\n", w->name, ns[SLICES / 2], ns[0],
	       w->variant ? w->variant() : "-", (unsigned long long)sum,
	       (unsigned long long)divisor);
}

int main(int argc, char **argv)
{
	const struct work *w;

	if (argc == 2 && strcmp(argv[1], "nop") == 0)
		return 0;
	if (argc == 2 && strcmp(argv[1], "--list") == 0)
		return list();
	w = argc > 1 ? find(argv[1]) : NULL;
	if (!w || argc > 2) {
		fprintf(stderr, "usage: work NAME | --list\n");
		return 2;
	}
	measure(w);
	return 0;
}
