/* time.c - waiting by the ACPI PM timer, whose rate needs no calibration. */
#include "rt.h"

/* 24 bits are what every such timer has. */
uint32_t pm_timer(void)
{
	return inl(PM_TIMER_PORT) & 0xffffff;
}

void delay_us(uint32_t us)
{
	/* ticks = us * 3.579545, without a 64-bit division: 117295 / 2^15 */
	uint32_t ticks = (uint32_t)(((uint64_t)us * 117295) >> 15) + 1;
	uint32_t start = pm_timer();

	while (((pm_timer() - start) & 0xffffff) < ticks)
		pause();
}
