/* bus.c - finding who answers an address, and cutting accesses to its measure. */
#include "core/bus.h"

#include "core/device_core.h"

#include <errno.h>

int bus_add(struct bus *b, uint64_t base, uint64_t bytes, struct dev *dev, uint64_t offset)
{
	unsigned i = b->nr_regions;

	if (!bytes || base + bytes < base)
		return -EINVAL;
	if (i == BUS_REGIONS_MAX)
		return -ENOSPC;
	while (i && b->region[i - 1].base > base)
		i--;
	if (i && base - b->region[i - 1].base < b->region[i - 1].bytes)
		return -EEXIST;
	if (i < b->nr_regions && b->region[i].base - base < bytes)
		return -EEXIST;
	memmove(&b->region[i + 1], &b->region[i], (b->nr_regions - i) * sizeof(b->region[0]));
	b->region[i] = (struct bus_region){ base, bytes, dev, offset };
	b->nr_regions++;
	return 0;
}

static const struct bus_region *bus_find(const struct bus *b, uint64_t addr)
{
	unsigned lo = 0, hi = b->nr_regions;

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;
		const struct bus_region *r = &b->region[mid];

		if (addr < r->base)
			hi = mid;
		else if (addr - r->base < r->bytes)
			return r;
		else
			lo = mid + 1;
	}
	return NULL;
}

/* The largest naturally aligned access at @off that the device takes in one piece. */
static unsigned piece_size(const struct bus_region *r, uint64_t off, unsigned left)
{
	unsigned n = r->dev->type->max_access;

	while (n > 1 && (n > left || off % n || n > r->bytes - off))
		n /= 2;
	return n;
}

static uint64_t low_mask(unsigned bytes)
{
	return bytes >= 8 ? UINT64_MAX : BIT64(bytes * 8) - 1;
}

/*
 * A piece smaller than the device's least access becomes one of the unit around
 * it: a read takes its bytes out of it, a write carries zeroes beside them.
 */
static uint64_t access_piece(const struct bus_region *r, uint64_t off, unsigned n, bool is_write,
			     uint64_t val)
{
	unsigned min = r->dev->type->min_access;
	unsigned shift = 0;

	if (n < min) {
		shift = (unsigned)(off % min) * 8;
		off -= off % min;
	}
	if (is_write) {
		dev_write(r->dev, r->offset + off, MAX(n, min), (val & low_mask(n)) << shift);
		return 0;
	}
	return (dev_read(r->dev, r->offset + off, MAX(n, min)) >> shift) & low_mask(n);
}

bool bus_access(struct bus *b, struct io_access *io)
{
	bool answered = false;
	uint64_t data = 0;
	unsigned n;

	for (unsigned done = 0; done < io->size; done += n) {
		const struct bus_region *r = bus_find(b, io->addr + done);
		uint64_t piece;

		n = 1;
		piece = 0xff;
		if (r) {
			uint64_t off = io->addr + done - r->base;

			n = piece_size(r, off, io->size - done);
			piece = access_piece(r, off, n, io->is_write, io->data >> (done * 8));
			answered = true;
		}
		data |= piece << (done * 8);
	}
	if (!io->is_write)
		io->data = data;
	return answered;
}
