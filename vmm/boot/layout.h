/*
 * layout.h - where a guest's RAM lies: low RAM ends at 3 GiB, the rest starts at
 * 4 GiB, nodes follow each other, so that at most one of them is cut in two.
 *
 * The machine's memory map is built from this; ACPI and the boot protocols'
 * memory maps are made from that map (gmem.h). Leaf header but for topology.h.
 */
#ifndef VMM_BOOT_LAYOUT_H
#define VMM_BOOT_LAYOUT_H

#include "boot/topology.h"

#define LAYOUT_LOW_END    GIB(3)
#define LAYOUT_HIGH_START GIB(4)

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

#endif
