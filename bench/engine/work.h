/*
 * work.h - what a workload of the engine benchmark is.
 *
 * A workload does a number of equal operations of which the suite takes the time.
 * It must do the same in every machine: no input but the operation count, no libc
 * that picks other code by itself unless that is its point, and a sum over its
 * results, by which wrong execution shows.
 */
#ifndef BENCH_ENGINE_WORK_H
#define BENCH_ENGINE_WORK_H

#include <stddef.h>
#include <stdint.h>

struct work {
	const char *name;
	const char *what; /* one operation, for the table's legend */
	/* Operations of a full run: 100 ms or so on a server core of 2023. */
	uint64_t ops;
	/* May be NULL. Untimed, and called once in a process. */
	void (*setup)(void);
	/* Do @ops operations; the sum depends on @ops and on earlier calls alone. */
	uint64_t (*run)(uint64_t ops);
	/* Which code CPUID chose; NULL: there is but one. */
	const char *(*variant)(void);
};

/* Groups, each ended by an entry without a name. */
extern const struct work works_integer[], works_data[], works_code[], works_memory[], works_float[],
	works_system[], works_smp[];

/* Never fails to return what was asked for: the process ends instead. */
void *work_alloc(size_t bytes);
void work_die(const char *what) __attribute__((noreturn));

/* The compiler does not see through this; so a branch around it stays a branch. */
#define work_opaque(x) __asm__("" : "+r"(x))

uint64_t work_now_ns(void);

/* A small generator, the same everywhere. */
static inline uint64_t work_random(uint64_t *state)
{
	uint64_t x = *state;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	*state = x;
	return x * 0x2545f4914f6cdd1dull;
}

/* Text with words that recur, for the byte-pushing workloads. */
void work_text(uint8_t *text, size_t bytes);

#endif
