/*
 * litmus.c - the memory model, pair by pair of CPUs: what x86 forbids must never
 * be seen, and what it allows is counted (SDM vol. 3, 8.2.3). rounds=N.
 *
 * CPUs 0 and 1 run the tests of two, 0 to 3 those of four.
 */
#include "rt.h"

#define SLOTS 256 /* tests between two barriers */

struct slot {
	_Alignas(64) volatile uint64_t x;
	_Alignas(64) volatile uint64_t y;
	_Alignas(64) uint64_t result[4];
};

static struct slot slots[SLOTS];
static unsigned long rounds, seen;

static inline uint64_t load(volatile uint64_t *p)
{
	return __atomic_load_n(p, __ATOMIC_RELAXED);
}

static inline void store(volatile uint64_t *p)
{
	__atomic_store_n(p, 1, __ATOMIC_RELAXED);
}

static inline void keep_order(void)
{
	asm volatile("" : : : "memory");
}

/* Store buffering: each stores to its own, then loads the other's. */
static void store_buffering(struct slot *s, unsigned cpu)
{
	volatile uint64_t *mine = cpu ? &s->y : &s->x, *other = cpu ? &s->x : &s->y;

	store(mine);
	keep_order();
	s->result[cpu] = load(other);
}

static void store_buffering_fenced(struct slot *s, unsigned cpu)
{
	volatile uint64_t *mine = cpu ? &s->y : &s->x, *other = cpu ? &s->x : &s->y;

	store(mine);
	asm volatile("mfence" : : : "memory");
	s->result[cpu] = load(other);
}

static void store_buffering_locked(struct slot *s, unsigned cpu)
{
	volatile uint64_t *mine = cpu ? &s->y : &s->x, *other = cpu ? &s->x : &s->y;
	uint64_t one = 1;

	asm volatile("xchg %0, %1" : "+r"(one), "+m"(*mine) : : "memory");
	s->result[cpu] = load(other);
}

/* Message passing: data, then flag; flag, then data. */
static void message_passing(struct slot *s, unsigned cpu)
{
	if (cpu == 0) {
		store(&s->x);
		keep_order();
		store(&s->y);
	} else if (cpu == 1) {
		s->result[0] = load(&s->y);
		keep_order();
		s->result[1] = load(&s->x);
	}
}

/* Load buffering: loads are not overtaken by later stores. */
static void load_buffering(struct slot *s, unsigned cpu)
{
	s->result[cpu] = load(cpu ? &s->y : &s->x);
	keep_order();
	store(cpu ? &s->x : &s->y);
}

/* Independent reads of independent writes: all agree about the order. */
static void independent_reads(struct slot *s, unsigned cpu)
{
	switch (cpu) {
	case 0:
		store(&s->x);
		break;
	case 1:
		store(&s->y);
		break;
	case 2:
		s->result[0] = load(&s->x);
		keep_order();
		s->result[1] = load(&s->y);
		break;
	case 3:
		s->result[2] = load(&s->y);
		keep_order();
		s->result[3] = load(&s->x);
		break;
	default:
		break;
	}
}

static const struct litmus {
	const char *name;
	void (*run)(struct slot *s, unsigned cpu);
	unsigned cpus;
	bool allowed;
	/* The outcome in question. */
	uint64_t result[4];
} tests[] = {
	{ "store buffering", store_buffering, 2, true, { 0, 0 } },
	{ "store buffering with MFENCE", store_buffering_fenced, 2, false, { 0, 0 } },
	{ "store buffering with XCHG", store_buffering_locked, 2, false, { 0, 0 } },
	{ "message passing", message_passing, 2, false, { 1, 0 } },
	{ "load buffering", load_buffering, 2, false, { 1, 1 } },
	{ "independent reads", independent_reads, 4, false, { 1, 0, 1, 0 } },
};

static const struct litmus *current;

static void clear(void)
{
	for (unsigned i = 0; i < SLOTS; i++)
		slots[i] = (struct slot){ 0 };
}

static void count(void)
{
	for (unsigned i = 0; i < SLOTS; i++)
		if (!memcmp(slots[i].result, current->result, sizeof(current->result)))
			seen++;
}

/* CPUs that have no part sleep on, so that the others really run side by side. */
static void run(void)
{
	unsigned cpu = cpu_index();

	if (cpu >= current->cpus)
		return;
	for (unsigned long r = 0; r < rounds; r++) {
		if (cpu == 0)
			clear();
		barrier(current->cpus);
		for (unsigned i = 0; i < SLOTS; i++)
			current->run(&slots[i], cpu);
		barrier(current->cpus);
		if (cpu == 0)
			count();
	}
}

void guest_main(void)
{
	unsigned cpus_used = smp_start();

	rounds = arg("rounds", 200);
	for (unsigned t = 0; t < ARRAY_SIZE(tests); t++) {
		current = &tests[t];
		if (current->cpus > cpus_used) {
			skip(current->name, "too few CPUs");
			continue;
		}
		seen = 0;
		smp_run(run);
		note("%s: outcome seen %lu times in %lu", current->name, seen, rounds * SLOTS);
		ok(current->allowed || !seen, "%s", current->name);
	}
}
