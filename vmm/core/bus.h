/*
 * bus.h - port and memory buses: who answers an address.
 *
 * Regions are registered before the machine runs; look-up is lock-free in a
 * sorted constant table. The device's lock is held around its handlers unless
 * its type is concurrent.
 */
#ifndef VMM_CORE_BUS_H
#define VMM_CORE_BUS_H

#include "core/engine.h"

struct dev;

#define BUS_REGIONS_MAX 64

enum bus_kind { BUS_PIO, BUS_MMIO };

struct bus_region {
	uint64_t base;
	uint64_t bytes;
	struct dev *dev;
	uint64_t offset; /* what the device sees: offset + (addr - base) */
};

struct bus {
	struct bus_region region[BUS_REGIONS_MAX]; /* ascending, disjoint */
	unsigned nr_regions;
};

/* Before the machine runs. -EEXIST on overlap, -ENOSPC. */
int bus_add(struct bus *b, uint64_t base, uint64_t bytes, struct dev *dev, uint64_t offset);

/*
 * Any vCPU's thread, no lock held. Accesses that the device cannot take in one
 * piece are split or widened as its type says. Where nothing answers reads give
 * ones and writes vanish: false.
 */
bool bus_access(struct bus *b, struct io_access *io);

#endif
