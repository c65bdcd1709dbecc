/*
 * gmem.c - the guest-physical map. Guests race with these copies; see gmem.h.
 */
#include "mem/gmem.h"

#include <errno.h>

int gmem_add(struct gmem *m, uint64_t gpa, uint64_t bytes, void *hva, unsigned node)
{
	unsigned i = m->nr_slots;

	if (!bytes || !hva || ((gpa | bytes) & ~PAGE_MASK) || gpa + bytes < gpa)
		return -EINVAL;
	if (m->nr_slots == GMEM_SLOTS_MAX)
		return -ENOSPC;
	for (unsigned j = 0; j < m->nr_slots; j++)
		if (gpa < m->slot[j].gpa + m->slot[j].bytes && m->slot[j].gpa < gpa + bytes)
			return -EEXIST;

	for (; i > 0 && m->slot[i - 1].gpa > gpa; i--)
		m->slot[i] = m->slot[i - 1];
	m->slot[i] = (struct gmem_slot){ gpa, bytes, hva, node };
	m->nr_slots++;
	m->ram_bytes += bytes;
	m->end = MAX(m->end, gpa + bytes);
	return 0;
}

const struct gmem_slot *gmem_find(const struct gmem *m, uint64_t gpa)
{
	unsigned lo = 0, hi = m->nr_slots;

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;
		const struct gmem_slot *s = &m->slot[mid];

		if (gpa < s->gpa)
			hi = mid;
		else if (gpa - s->gpa >= s->bytes)
			lo = mid + 1;
		else
			return s;
	}
	return NULL;
}

void *gmem_ptr(const struct gmem *m, uint64_t gpa, uint64_t bytes)
{
	const struct gmem_slot *s = gmem_find(m, gpa);

	if (!s || bytes > s->bytes - (gpa - s->gpa))
		return NULL;
	return s->hva + (gpa - s->gpa);
}

enum copy { FROM_GUEST, TO_GUEST, FILL };

/* Aligned words where both sides allow it: never torn, never read twice. */
static void copy_piece(enum copy how, uint8_t *guest, uint8_t *buf, int byte, uint64_t n)
{
	while (n) {
		bool wide = n >= 8 && IS_ALIGNED((uintptr_t)guest, 8);
		unsigned step = wide ? 8 : 1;

		if (how == FROM_GUEST && wide)
			store_u64(buf, gmem_load_u64(guest));
		else if (how == FROM_GUEST)
			*buf = gmem_load_u8(guest);
		else if (how == TO_GUEST && wide)
			gmem_store_u64(guest, load_u64(buf));
		else if (how == TO_GUEST)
			gmem_store_u8(guest, *buf);
		else if (wide)
			gmem_store_u64(guest, 0x0101010101010101ull * (uint8_t)byte);
		else
			gmem_store_u8(guest, (uint8_t)byte);
		guest += step;
		if (how != FILL)
			buf += step;
		n -= step;
	}
}

static int copy(const struct gmem *m, enum copy how, uint64_t gpa, uint8_t *buf, int byte,
		uint64_t bytes)
{
	uint64_t at = gpa, left = bytes;

	if (gpa + bytes < gpa)
		return -EFAULT;
	while (left) {
		const struct gmem_slot *s = gmem_find(m, at);
		uint64_t n;

		if (!s)
			return -EFAULT;
		n = MIN(left, s->bytes - (at - s->gpa));
		at += n;
		left -= n;
	}
	while (bytes) {
		const struct gmem_slot *s = gmem_find(m, gpa);
		uint64_t n = MIN(bytes, s->bytes - (gpa - s->gpa));

		copy_piece(how, s->hva + (gpa - s->gpa), buf, byte, n);
		gpa += n;
		bytes -= n;
		if (how != FILL)
			buf += n;
	}
	return 0;
}

int gmem_read(const struct gmem *m, uint64_t gpa, void *buf, uint64_t bytes)
{
	return copy(m, FROM_GUEST, gpa, buf, 0, bytes);
}

/* @buf is not written to: the shared walk takes both directions. */
int gmem_write(const struct gmem *m, uint64_t gpa, const void *buf, uint64_t bytes)
{
	return copy(m, TO_GUEST, gpa, (uint8_t *)(uintptr_t)buf, 0, bytes);
}

int gmem_fill(const struct gmem *m, uint64_t gpa, int byte, uint64_t bytes)
{
	return copy(m, FILL, gpa, NULL, byte, bytes);
}
