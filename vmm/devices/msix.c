/*
 * msix.c - MSI-X: vectors that a guest points at its processors, masks, pending bits.
 *
 * PCI Local Bus 3.0, 6.8.2. The table fills the first half of its BAR, the pending bits
 * begin the second, so that a system can map each for itself. A message goes when
 * MSI-X is on, nothing masks it and the function is a bus master; held back it leaves
 * its pending bit set. Messages are dev_message()s: where the engine can, each has a
 * route of its own.
 */
#include "devices/pci.h"

#include <errno.h>
#include <stdlib.h>

#define CAP_MSIX     0x11
#define CAP_BYTES    12
#define CAP_CONTROL  2
#define CAP_TABLE    4
#define CAP_PENDING  8
#define CONTROL_MASK BIT(14)
#define CONTROL_ON   BIT(15)
#define ENTRY_BYTES  16
#define ENTRY_MASKED BIT(0)
#define HALF_BYTES   4096u

enum entry_word { ENTRY_ADDR, ENTRY_ADDR_HIGH, ENTRY_DATA, ENTRY_CONTROL };

static uint64_t half_bytes(unsigned vectors)
{
	uint64_t half = HALF_BYTES;

	while (half < (uint64_t)vectors * ENTRY_BYTES)
		half *= 2;
	return half;
}

uint64_t msix_bar_bytes(unsigned vectors)
{
	return 2 * half_bytes(vectors);
}

int msix_init(struct dev *d, unsigned vectors, unsigned bar)
{
	struct pci *p = dev_state(d);
	int at, err;

	if (vectors > PCI_VECTORS_MAX)
		return -ENOSPC;
	err = dev_add_messages(d, vectors);
	if (err)
		return err;
	at = pci_add_capability(d, CAP_MSIX, CAP_BYTES);
	if (at < 0)
		return at;
	p->vector = calloc(vectors, sizeof(*p->vector));
	if (!p->vector)
		return -ENOMEM;
	p->nr_vectors = vectors;
	p->msix = (uint8_t)at;
	store_u16(p->config + at + CAP_CONTROL, (uint16_t)(vectors - 1));
	store_u16(p->writable + at + CAP_CONTROL, CONTROL_MASK | CONTROL_ON);
	store_u32(p->config + at + CAP_TABLE, bar);
	store_u32(p->config + at + CAP_PENDING, (uint32_t)half_bytes(vectors) | bar);
	return 0;
}

void pci_destroy(struct dev *d)
{
	struct pci *p = dev_state(d);

	free(p->vector);
	p->vector = NULL;
	p->nr_vectors = 0;
}

void msix_reset(struct pci *p)
{
	for (unsigned i = 0; i < p->nr_vectors; i++)
		p->vector[i] = (struct pci_vector){ .masked = true };
}

/* --- sending --------------------------------------------------------------------------- */

static uint16_t control(const struct pci *p)
{
	return p->msix ? load_u16(p->config + p->msix + CAP_CONTROL) : 0;
}

static bool is_held(const struct pci *p, const struct pci_vector *v)
{
	return (control(p) & CONTROL_MASK) || v->masked || !pci_is_master(p);
}

void pci_raise(struct dev *d, unsigned vector)
{
	struct pci *p = dev_state(d);
	struct pci_vector *v;

	if (vector >= p->nr_vectors || !(control(p) & CONTROL_ON))
		return;
	v = &p->vector[vector];
	v->pending = is_held(p, v);
	if (!v->pending)
		dev_message(d, vector, v->addr, v->data);
}

void msix_deliver(struct dev *d)
{
	struct pci *p = dev_state(d);

	for (unsigned i = 0; i < p->nr_vectors; i++)
		if (p->vector[i].pending)
			pci_raise(d, i);
}

/* --- table and pending bits --------------------------------------------------------------- */

static uint32_t read_entry(const struct pci_vector *v, enum entry_word word)
{
	switch (word) {
	case ENTRY_ADDR:
		return (uint32_t)v->addr;
	case ENTRY_ADDR_HIGH:
		return (uint32_t)(v->addr >> 32);
	case ENTRY_DATA:
		return v->data;
	default:
		return v->masked ? ENTRY_MASKED : 0;
	}
}

static uint32_t read_pending(const struct pci *p, uint64_t word)
{
	uint32_t bits = 0;

	for (unsigned i = 0; i < 32 && word * 32 + i < p->nr_vectors; i++)
		if (p->vector[word * 32 + i].pending)
			bits |= BIT(i);
	return bits;
}

uint64_t msix_read(struct dev *d, uint64_t off, unsigned size)
{
	const struct pci *p = dev_state(d);
	uint64_t half = half_bytes(p->nr_vectors);
	uint32_t word = 0;

	if (off >= half)
		word = read_pending(p, (off - half) / 4);
	else if (off / ENTRY_BYTES < p->nr_vectors)
		word = read_entry(&p->vector[off / ENTRY_BYTES],
				  (enum entry_word)(off % ENTRY_BYTES / 4));
	return (word >> (off % 4 * 8)) & (BIT64(size * 8) - 1);
}

/* Whole words only; the pending bits are not a guest's to write. */
void msix_write(struct dev *d, uint64_t off, unsigned size, uint64_t val)
{
	struct pci *p = dev_state(d);
	uint64_t n = off / ENTRY_BYTES;
	uint32_t word = (uint32_t)val;
	struct pci_vector *v;

	if (size != 4 || n >= p->nr_vectors)
		return;
	v = &p->vector[n];
	switch ((enum entry_word)(off % ENTRY_BYTES / 4)) {
	case ENTRY_ADDR:
		v->addr = (v->addr & ~(uint64_t)UINT32_MAX) | (word & ~3u);
		break;
	case ENTRY_ADDR_HIGH:
		v->addr = (uint32_t)v->addr | (uint64_t)word << 32;
		break;
	case ENTRY_DATA:
		v->data = word;
		break;
	default:
		v->masked = word & ENTRY_MASKED;
		if (v->pending)
			pci_raise(d, (unsigned)n);
		break;
	}
}

/* Of pending ones those go at once, at loading, that nothing holds back. */
void msix_snapshot(struct dev *d, struct snap *s)
{
	struct pci *p = dev_state(d);

	for (unsigned i = 0; i < p->nr_vectors; i++) {
		struct pci_vector *v = &p->vector[i];

		snap_u64(s, &v->addr);
		snap_u32(s, &v->data);
		snap_bool(s, &v->masked);
		snap_bool(s, &v->pending);
		v->addr &= ~3ull;
	}
}
