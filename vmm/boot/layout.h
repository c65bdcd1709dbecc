/*
 * layout.h - where a guest's RAM lies: low RAM ends at 3 GiB, the rest starts at
 * 4 GiB, nodes follow each other, so that at most one of them is cut in two. And
 * where PCI lies.
 *
 * The machine's memory map is built from this; ACPI and the boot protocols'
 * memory maps are made from that map (gmem.h). Leaf header but for topology.h.
 */
#ifndef VMM_BOOT_LAYOUT_H
#define VMM_BOOT_LAYOUT_H

#include "boot/topology.h"

#define LAYOUT_LOW_END    GIB(3)
#define LAYOUT_HIGH_START GIB(4)

/* Between the two: PCI's configuration space (one bus), and room for its BARs. */
#define LAYOUT_WINDOW32_GPA   LAYOUT_LOW_END
#define LAYOUT_WINDOW32_BYTES MIB(512)
#define LAYOUT_ECAM_GPA       0xe0000000ull
#define LAYOUT_ECAM_BYTES     MIB(1)
#define LAYOUT_LAST_BUS       0

/* Above all RAM: more room for BARs. */
#define LAYOUT_WINDOW64_BYTES GIB(32)
#define LAYOUT_WINDOW64_ALIGN GIB(4)

struct layout_range {
	uint64_t gpa;
	uint64_t bytes;
	unsigned node;
};

struct layout {
	struct layout_range range[TOPO_NODES_MAX + 1]; /* ascending by gpa, none empty */
	unsigned nr_ranges;
};

void layout_ram(struct layout *l, const struct topology *t);

/* Where the room for BARs above RAM, which ends at @ram_end, starts. */
static inline uint64_t layout_window64(uint64_t ram_end)
{
	return ALIGN_UP(MAX(ram_end, LAYOUT_HIGH_START), LAYOUT_WINDOW64_ALIGN);
}

#endif
