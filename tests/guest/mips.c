/*
 * mips.c - a fixed amount of integer work: loads, stores, arithmetic, branches and
 * calls in the proportions of ordinary code. rounds=N on the command line; 20 rounds
 * by default. Tells its own speed by the PM timer.
 */
#include "rt.h"

#define WORDS   1024
#define COUNTED 14 /* instructions a word in the loop below, as gcc 12 makes it */

static uint64_t table[WORDS];

static __attribute__((noinline)) uint64_t mix(uint64_t a, uint64_t b)
{
	return (a ^ b >> 7) * 0x9e3779b97f4a7c15ul;
}

static uint64_t work(uint64_t x)
{
	for (unsigned i = 0; i < WORDS; i++) {
		uint64_t v = table[i];

		if (v & 1)
			x = mix(x, v);
		else
			x += v;
		table[(i * 5 + 1) % WORDS] = x;
	}
	return x;
}

void guest_main(void)
{
	unsigned long rounds = arg("rounds", 20);
	uint64_t x = 1, tsc = rdtsc();
	uint32_t us = 0, last;

	for (unsigned i = 0; i < WORDS; i++)
		table[i] = i * 0x9e3779b97f4a7c15ul;
	last = pm_timer();
	for (unsigned long r = 0; r < rounds; r++) {
		for (unsigned i = 0; i < 50; i++)
			x = work(x);
		uint32_t now = pm_timer();
		us += (uint32_t)((uint64_t)((now - last) & 0xffffff) * 1000000 / PM_TIMER_HZ);
		last = now;
	}
	note("%lu words in %u us, %lu TSC ticks, about %lu MIPS", rounds * 50 * WORDS, us,
	     (unsigned long)(rdtsc() - tsc), rounds * 50 * WORDS * COUNTED / (us + 1));
	if (rounds == 20)
		same(x, 0x15dac629ef2dca8, "the result is right");
	else
		ok(x != 0, "there is a result");
}
