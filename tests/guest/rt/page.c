/* page.c - page tables of a running program. */
#include "rt.h"

#ifdef __x86_64__
#define POOL_PAGES 256

static uint8_t pool[POOL_PAGES][PAGE_BYTES] __attribute__((aligned(4096)));
static unsigned pool_used;

void *page_alloc(void)
{
	if (pool_used == POOL_PAGES) {
		ok(false, "out of pages");
		finish();
	}
	return pool[pool_used++];
}

/* A table that maps what the large entry mapped. */
static void split(volatile uint64_t *entry, unsigned level)
{
	uint64_t *table = page_alloc(), old = *entry;
	uint64_t step = PAGE_BYTES << 9 * (level - 2);
	uint64_t flags = old & ~PTE_ADDR;

	if (old & PTE_P) {
		if (level == 2)
			flags &= ~PTE_LARGE;
		for (unsigned i = 0; i < 512; i++)
			table[i] = ((old & PTE_ADDR) + i * step) | flags;
	}
	*entry = (uint64_t)table | PTE_P | PTE_W | PTE_U;
}

volatile uint64_t *page_entry(uint64_t va, unsigned level)
{
	volatile uint64_t *table = (volatile uint64_t *)(read_cr3() & PTE_ADDR);

	for (unsigned l = 4;; l--) {
		volatile uint64_t *entry = &table[va >> (12 + 9 * (l - 1)) & 511];

		if (l == level)
			return entry;
		if (!(*entry & PTE_P) || (*entry & PTE_LARGE))
			split(entry, l);
		else
			*entry |= PTE_U;
		table = (volatile uint64_t *)(*entry & PTE_ADDR);
	}
}

void page_map(uint64_t va, uint64_t pte)
{
	*page_entry(va, 1) = pte;
	invlpg((void *)va);
}
#endif
