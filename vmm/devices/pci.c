/*
 * pci.c - configuration space and BARs of a PCI function; see pci.h.
 *
 * Configuration space is bytes and a mask that says which bits a guest may write; what
 * follows from its contents (where BARs answer, which messages may go) is worked out
 * anew after every write. So sizing a BAR needs no code: its low bits are not writable.
 */
#include "devices/pci.h"

#include <errno.h>

#define STATUS_CAPABILITIES BIT(4)
#define BAR_FLAGS           0xfull
#define CAPABILITY_ALIGN    4
#define REGION_SHIFT        32

/* --- making ------------------------------------------------------------------------ */

static void init_header(struct pci *p, const struct pci_type *t)
{
	store_u16(p->config + PCI_VENDOR, t->vendor);
	store_u16(p->config + PCI_DEVICE, t->device);
	store_u16(p->config + PCI_SUBVENDOR, t->subvendor);
	store_u16(p->config + PCI_SUBDEVICE, t->subdevice);
	store_u32(p->config + PCI_REVISION, t->class_code << 8 | t->revision);
	store_u16(p->writable + PCI_COMMAND,
		  PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_NOINTX);
	p->writable[PCI_CACHE_LINE] = 0xff;
	p->writable[PCI_IRQ_LINE] = 0xff; /* for systems to keep a note in */
	p->caps_end = PCI_HEADER_BYTES;
}

static uint64_t bar_bytes(const struct pci_type *t, unsigned bar)
{
	return t->vectors && bar == t->msix_bar ? msix_bar_bytes(t->vectors) : t->bar[bar].bytes;
}

static void init_bar(struct pci *p, unsigned bar)
{
	uint64_t bytes = bar_bytes(p->type, bar);
	unsigned at = PCI_BAR0 + 4 * bar;

	if (!bytes)
		return;
	store_u32(p->config + at, p->type->bar[bar].flags);
	store_u32(p->writable + at, (uint32_t) ~(bytes - 1));
	if (p->type->bar[bar].flags & PCI_BAR_64)
		store_u32(p->writable + at + 4, UINT32_MAX);
}

int pci_init(struct dev *d, const struct pci_type *t)
{
	struct pci *p = dev_state(d);
	uint64_t gpa;
	int err = dev_pci_slot(d, &p->slot, &gpa);

	if (err)
		return err;
	p->type = t;
	init_header(p, t);
	for (unsigned i = 0; i < PCI_BARS; i++)
		init_bar(p, i);
	err = dev_add_region(d, PCI_CONFIG_REGION, BUS_MMIO, gpa, PCI_ECAM_BYTES);
	if (!err && t->vectors)
		err = msix_init(d, t->vectors, t->msix_bar);
	if (err)
		pci_destroy(d);
	return err;
}

int pci_add_capability(struct dev *d, uint8_t id, unsigned bytes)
{
	struct pci *p = dev_state(d);
	uint8_t at = p->caps_end;

	if (bytes > (unsigned)(PCI_CONFIG_BYTES - CAPABILITY_ALIGN - at))
		return -ENOSPC;
	p->config[p->last_cap ? p->last_cap + 1 : PCI_CAPABILITIES] = at;
	p->config[PCI_STATUS] |= STATUS_CAPABILITIES;
	p->config[at] = id;
	p->last_cap = at;
	p->caps_end = (uint8_t)(at + ALIGN_UP(bytes, CAPABILITY_ALIGN));
	return at;
}

/* --- what follows from the configuration ------------------------------------------------ */

static uint64_t bar_base(const struct pci *p, unsigned bar)
{
	const uint8_t *at = p->config + PCI_BAR0 + 4 * bar;
	uint64_t base = load_u32(at) & ~BAR_FLAGS;

	if (p->type->bar[bar].flags & PCI_BAR_64)
		base |= (uint64_t)load_u32(at + 4) << 32;
	return base;
}

/* Address 0 is what a BAR holds that nobody has set: it answers nowhere. */
static void update(struct dev *d)
{
	struct pci *p = dev_state(d);
	bool decodes = p->config[PCI_COMMAND] & PCI_COMMAND_MEMORY;

	for (unsigned i = 0; i < PCI_BARS; i++) {
		uint64_t bytes = bar_bytes(p->type, i), base = bytes ? bar_base(p, i) : 0;

		if (!bytes)
			continue;
		if (decodes && base)
			dev_map(d, i, base, bytes);
		else
			dev_map(d, i, 0, 0);
	}
	msix_deliver(d);
}

/* --- accesses ------------------------------------------------------------------------------ */

/* Without extended capabilities the space behind the first 256 bytes reads as zeroes. */
static uint64_t config_read(const struct pci *p, uint64_t off, unsigned size)
{
	uint64_t val = 0;

	if (off < PCI_CONFIG_BYTES)
		memcpy(&val, p->config + off, size);
	return val;
}

static void config_write(struct dev *d, uint64_t off, unsigned size, uint64_t val)
{
	struct pci *p = dev_state(d);

	if (off >= PCI_CONFIG_BYTES)
		return;
	for (unsigned i = 0; i < size; i++, off++, val >>= 8) {
		uint8_t w = p->writable[off];

		p->config[off] = (uint8_t)((p->config[off] & ~w) | (val & w));
	}
	update(d);
}

static bool is_msix(const struct pci *p, uint64_t region)
{
	return p->nr_vectors && region == p->type->msix_bar;
}

uint64_t pci_read(struct dev *d, uint64_t off, unsigned size)
{
	struct pci *p = dev_state(d);
	uint64_t region = off >> REGION_SHIFT;

	off = (uint32_t)off;
	if (region == PCI_CONFIG_REGION)
		return config_read(p, off, size);
	if (is_msix(p, region))
		return msix_read(d, off, size);
	return p->type->read(d, (unsigned)region, off, size);
}

void pci_write(struct dev *d, uint64_t off, unsigned size, uint64_t val)
{
	struct pci *p = dev_state(d);
	uint64_t region = off >> REGION_SHIFT;

	off = (uint32_t)off;
	if (region == PCI_CONFIG_REGION)
		config_write(d, off, size, val);
	else if (is_msix(p, region))
		msix_write(d, off, size, val);
	else
		p->type->write(d, (unsigned)region, off, size, val);
}

/* --- the rest -------------------------------------------------------------------------------- */

void pci_reset(struct dev *d)
{
	struct pci *p = dev_state(d);

	for (unsigned i = 0; i < PCI_CONFIG_BYTES; i++)
		p->config[i] &= (uint8_t)~p->writable[i];
	msix_reset(p);
	update(d);
}

/* Bits that no guest can write are the function's own, whatever a snapshot says. */
int pci_snapshot(struct dev *d, struct snap *s)
{
	struct pci *p = dev_state(d);
	uint8_t config[PCI_CONFIG_BYTES];

	memcpy(config, p->config, sizeof(config));
	snap_bytes(s, config, sizeof(config));
	msix_snapshot(d, s);
	if (!snap_loading(s) || snap_error(s))
		return snap_error(s);
	for (unsigned i = 0; i < PCI_CONFIG_BYTES; i++) {
		uint8_t w = p->writable[i];

		p->config[i] = (uint8_t)((p->config[i] & ~w) | (config[i] & w));
	}
	update(d);
	return 0;
}
