/* e820.c - the memory map that boot protocols hand to guests. */
#include "boot/layout.h"
#include "boot/load.h"

static unsigned add_entry(struct e820_entry *map, unsigned n, uint64_t gpa, uint64_t end,
			  uint32_t type)
{
	if (n && map[n - 1].type == type && map[n - 1].gpa + map[n - 1].bytes == gpa) {
		map[n - 1].bytes += end - gpa;
		return n;
	}
	map[n] = (struct e820_entry){ .gpa = gpa, .bytes = end - gpa, .type = type };
	return n + 1;
}

/* What the first MiB is good for; nothing between EBDA_END and FIRMWARE_GPA. */
static const struct e820_entry first_mib[] = {
	{ 0, EBDA_GPA, E820_RAM },
	{ EBDA_GPA, EBDA_END - EBDA_GPA, E820_RESERVED },
	{ FIRMWARE_GPA, FIRMWARE_SIZE, E820_RESERVED },
};

/* Systems take PCI's configuration space where MCFG says it is only if it is reserved. */
static unsigned add_ecam(struct e820_entry *map, unsigned n, bool *done)
{
	*done = true;
	return add_entry(map, n, LAYOUT_ECAM_GPA, LAYOUT_ECAM_GPA + LAYOUT_ECAM_BYTES,
			 E820_RESERVED);
}

unsigned e820_build(const struct gmem *m, struct e820_entry map[E820_MAX])
{
	unsigned n = 0;
	bool ecam = false;

	for (unsigned i = 0; i < ARRAY_SIZE(first_mib); i++)
		map[n++] = first_mib[i];
	for (unsigned i = 0; i < m->nr_slots; i++) {
		const struct gmem_slot *s = &m->slot[i];
		uint64_t gpa = MAX(s->gpa, LOAD_BASE), end = s->gpa + s->bytes;

		if (s->gpa >= LAYOUT_HIGH_START && !ecam)
			n = add_ecam(map, n, &ecam);
		if (gpa < end)
			n = add_entry(map, n, gpa, end, E820_RAM);
	}
	return ecam ? n : add_ecam(map, n, &ecam);
}
