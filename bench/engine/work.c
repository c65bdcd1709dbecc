/*
 * work.c - measure one workload.
 *
 *	work NAME [DIVISOR]	-> "NAME NS BEST VARIANT SUM"
 *	work --list		-> "NAME WHAT" of each
 *	work nop		does nothing: what "exec" executes
 *
 * The work is cut into slices. NS is the median of their times per operation, BEST
 * the least, which an otherwise busy machine disturbs less. DIVISOR makes slices
 * smaller, for machines that are slow. SUM is over the results of a warm-up which
 * no divisor changes: it is the same on every machine, or one is wrong.
 */
#include "work.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define SLICES       9
#define WARMUP_SHARE 64

static const struct work *const groups[] = { works_integer, works_code,   works_memory,
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

static void measure(const struct work *w, uint64_t divisor)
{
	uint64_t n = w->ops / SLICES / divisor, sum, sink = 0;
	double ns[SLICES];

	if (n == 0)
		n = 1;
	if (w->setup)
		w->setup();
	sum = w->run(w->ops / WARMUP_SHARE + 1);
	for (int i = 0; i < SLICES; i++) {
		uint64_t start = work_now_ns();

		sink += w->run(n);
		ns[i] = (double)(work_now_ns() - start) / (double)n;
	}
	__asm__ volatile("" ::"r"(sink));
	qsort(ns, SLICES, sizeof(ns[0]), by_value);
	printf("%s %.6g %.6g %s %016llx\n", w->name, ns[SLICES / 2], ns[0],
	       w->variant ? w->variant() : "-", (unsigned long long)sum);
}

int main(int argc, char **argv)
{
	const struct work *w;
	long divisor = argc > 2 ? atol(argv[2]) : 1;

	if (argc == 2 && strcmp(argv[1], "nop") == 0)
		return 0;
	if (argc == 2 && strcmp(argv[1], "--list") == 0)
		return list();
	w = argc > 1 ? find(argv[1]) : NULL;
	if (!w || divisor < 1) {
		fprintf(stderr, "usage: work NAME [DIVISOR] | --list\n");
		return 2;
	}
	measure(w, (uint64_t)divisor);
	return 0;
}
