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

void bus_set_moving(struct bus *b, const struct bus_region *r, unsigned nr)
{
	struct bus_moving *m = &b->moving;
	uint32_t turn = atomic_load_explicit(&m->turn, memory_order_relaxed);
	struct bus_moving_copy *c = &m->copy[(turn + 1) & 1];

	/* Who still reads this copy has read the turn before; it will see that it moved on. */
	atomic_thread_fence(memory_order_release);
	atomic_store_explicit(&c->nr, nr, memory_order_relaxed);
	for (unsigned i = 0; i < nr; i++) {
		atomic_store_explicit(&c->region[i].base, r[i].base, memory_order_relaxed);
		atomic_store_explicit(&c->region[i].bytes, r[i].bytes, memory_order_relaxed);
		atomic_store_explicit(&c->region[i].offset, r[i].offset, memory_order_relaxed);
		atomic_store_explicit(&c->region[i].dev, r[i].dev, memory_order_relaxed);
	}
	atomic_store_explicit(&m->turn, turn + 1, memory_order_release);
}

/* What it finds counts only if the copy was not being filled: moving_find() looks. */
static bool copy_find(const struct bus_moving_copy *c, uint64_t addr, struct bus_region *out,
		      uint64_t *gap)
{
	unsigned lo = 0, hi = atomic_load_explicit(&c->nr, memory_order_relaxed);

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;

		out->base = atomic_load_explicit(&c->region[mid].base, memory_order_relaxed);
		out->bytes = atomic_load_explicit(&c->region[mid].bytes, memory_order_relaxed);
		out->offset = atomic_load_explicit(&c->region[mid].offset, memory_order_relaxed);
		out->dev = atomic_load_explicit(&c->region[mid].dev, memory_order_relaxed);
		if (addr < out->base) {
			*gap = out->base - addr;
			hi = mid;
		} else if (addr - out->base < out->bytes) {
			return true;
		} else {
			lo = mid + 1;
		}
	}
	return false;
}

static bool moving_find(const struct bus_moving *m, uint64_t addr, struct bus_region *out,
			uint64_t *gap)
{
	uint32_t turn;
	bool found;

	do {
		turn = atomic_load_explicit(&m->turn, memory_order_acquire);
		*gap = UINT64_MAX;
		found = copy_find(&m->copy[turn & 1], addr, out, gap);
		atomic_thread_fence(memory_order_acquire);
	} while (atomic_load_explicit(&m->turn, memory_order_relaxed) != turn);
	return found;
}

/*
 * False: nobody answers, for @gap bytes at least. They are one piece, so that an access
 * meets a region that moves altogether or not at all.
 */
static bool bus_find(const struct bus *b, uint64_t addr, struct bus_region *out, uint64_t *gap)
{
	unsigned lo = 0, hi = b->nr_regions;
	uint64_t constant = UINT64_MAX;

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;
		const struct bus_region *r = &b->region[mid];

		if (addr < r->base) {
			constant = r->base - addr;
			hi = mid;
		} else if (addr - r->base < r->bytes) {
			*out = *r;
			return true;
		} else {
			lo = mid + 1;
		}
	}
	if (moving_find(&b->moving, addr, out, gap))
		return true;
	*gap = MIN(*gap, constant);
	return false;
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
		unsigned left = io->size - done;
		struct bus_region r;
		uint64_t piece, gap;

		if (bus_find(b, io->addr + done, &r, &gap)) {
			uint64_t off = io->addr + done - r.base;

			n = piece_size(&r, off, left);
			piece = access_piece(&r, off, n, io->is_write, io->data >> (done * 8));
			answered = true;
		} else {
			n = (unsigned)MIN(gap, left);
			piece = low_mask(n);
		}
		data |= piece << (done * 8);
	}
	if (!io->is_write)
		io->data = data;
	return answered;
}
