/*
 * patterns.c - memory under somebody's hands: every page holds a pattern of its own
 * that changes all the time, and is looked at before each change.
 *
 * While the host moves pages, a store that was lost or a page that was mixed up
 * shows. Each CPU has its pages; all of them add to one counter. Words on the command
 * line: megabytes=N in all (8), seconds=N (1). A byte on the serial port ends it as well.
 */
#include "rt.h"

#define MIB_BYTES     (1ul << 20)
#define BASE          (16 * MIB_BYTES) /* above the program */
#define PAGE_WORDS    (PAGE_BYTES / sizeof(uint64_t))
#define WORDS_A_VISIT 8
#define PAGES_A_LOOK  64 /* between additions, and looks at the clock */

#define COM1     0x3f8
#define COM1_LSR (COM1 + 5)
#define LSR_DR   0x01 /* a byte is there */

static unsigned long pages_each, shared_counter;
static uint32_t last_tick;
static uint64_t ticks_left;
static volatile bool over;
static struct {
	unsigned long wrong, added, rounds;
} __attribute__((aligned(64))) cpu_result[CPUS_MAX];

/* Another one for each page, word and round. */
static uint64_t pattern(uint64_t page, uint64_t word, uint64_t round)
{
	return (page << 32 | word << 20) ^ (round * 0x9e3779b97f4a7c15ull);
}

/*
 * Some words each round, others the next time, so that a round is quick and all words have
 * their turn: what was written the last time must be there. Returns how many were not.
 */
static unsigned visit(unsigned long page, uint64_t round)
{
	volatile uint64_t *p = (volatile uint64_t *)(BASE + page * PAGE_BYTES);
	unsigned wrong = 0;

	for (uint64_t i = 0; i < WORDS_A_VISIT; i++) {
		uint64_t now = (round * WORDS_A_VISIT + i) % PAGE_WORDS;
		uint64_t last = (round * WORDS_A_VISIT + i - WORDS_A_VISIT) % PAGE_WORDS;

		wrong += round && p[last] != pattern(page, last, round - 1);
		p[now] = pattern(page, now, round);
	}
	return wrong;
}

static void look_at_the_clock(void)
{
	uint32_t now = pm_timer(), passed = (now - last_tick) & 0xffffff;

	last_tick = now;
	ticks_left -= passed < ticks_left ? passed : ticks_left;
	if (!ticks_left || inb(COM1_LSR) & LSR_DR)
		over = true;
}

static void work(void)
{
	unsigned cpu = cpu_index();

	for (uint64_t round = 0; !over || round < 2; round++) {
		for (unsigned long i = 0; i < pages_each; i++) {
			cpu_result[cpu].wrong += visit(cpu * pages_each + i, round);
			if (i % PAGES_A_LOOK)
				continue;
			__atomic_fetch_add(&shared_counter, 1, __ATOMIC_SEQ_CST);
			cpu_result[cpu].added++;
			if (!cpu)
				look_at_the_clock();
		}
		cpu_result[cpu].rounds++;
	}
}

void guest_main(void)
{
	unsigned nr_cpus = smp_start();
	unsigned long wrong = 0, added = 0, rounds = 0;

	pages_each = arg("megabytes", 8) * MIB_BYTES / PAGE_BYTES / nr_cpus;
	ticks_left = arg("seconds", 1) * PM_TIMER_HZ;
	note("%u CPUs, %lu pages each", nr_cpus, pages_each);
	last_tick = pm_timer();
	smp_run(work);
	for (unsigned c = 0; c < nr_cpus; c++) {
		wrong += cpu_result[c].wrong;
		added += cpu_result[c].added;
		rounds += cpu_result[c].rounds;
	}
	same(wrong, 0, "every word was as it had been left");
	same(shared_counter, added, "no addition was lost");
	note("%lu rounds", rounds);
}
