/*
 * bus.h - port and memory buses: who answers an address.
 *
 * Regions are registered before the machine runs, in a sorted constant table; those
 * that move while it runs (PCI BARs) are in a second one, which is replaced whole.
 * Look-up is lock-free in both. The device's lock is held around its handlers unless
 * its type is concurrent.
 */
#ifndef VMM_CORE_BUS_H
#define VMM_CORE_BUS_H

#include "core/engine.h"

#include <stdatomic.h>

struct dev;

#define BUS_REGIONS_MAX 64
#define BUS_MOVING_MAX  192 /* six a device */

enum bus_kind { BUS_PIO, BUS_MMIO };

struct bus_region {
	uint64_t base;
	uint64_t bytes;
	struct dev *dev;
	uint64_t offset; /* what the device sees: offset + (addr - base) */
};

/*
 * Two copies, ascending and disjoint. Readers use the one that the last bit of `turn`
 * names, and look again if it has moved on meanwhile; the writer fills the other one.
 */
struct bus_moving {
	_Atomic uint32_t turn;
	struct bus_moving_copy {
		_Atomic uint32_t nr;
		struct {
			_Atomic uint64_t base, bytes, offset;
			struct dev *_Atomic dev;
		} region[BUS_MOVING_MAX];
	} copy[2];
};

struct bus {
	struct bus_region region[BUS_REGIONS_MAX]; /* ascending, disjoint */
	unsigned nr_regions;
	struct bus_moving moving; /* looked at where no constant region answers */
};

/* Before the machine runs. -EEXIST on overlap, -ENOSPC. */
int bus_add(struct bus *b, uint64_t base, uint64_t bytes, struct dev *dev, uint64_t offset);

/*
 * From now on these are the moving regions, ascending and disjoint. One caller at a
 * time; accesses on their way may still reach what was there before.
 */
void bus_set_moving(struct bus *b, const struct bus_region *r, unsigned nr);

/*
 * Any vCPU's thread, no lock held. Accesses that the device cannot take in one
 * piece are split or widened as its type says. Where nothing answers reads give
 * ones and writes vanish: false.
 */
bool bus_access(struct bus *b, struct io_access *io);

#endif
