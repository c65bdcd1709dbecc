/*
 * pci.h - what a PCI function is made of: configuration space, BARs, MSI-X.
 *
 * A function is a device whose state begins with a struct pci and whose handlers are
 * pci_read() and pci_write(), or call them:
 *
 *	struct disk { struct pci pci; ... };
 *	const struct device_type disk_type = {
 *		.state_size = sizeof(struct disk), PCI_ACCESS,
 *		.init = disk_init, .destroy = pci_destroy,	// init calls pci_init()
 *		.reset = disk_reset, .snapshot = disk_snapshot, // these pci_reset(), pci_snapshot()
 *	};
 *
 * What it is a constant struct pci_type says. Its registers lie in memory BARs; there
 * are neither I/O BARs nor INTx. Its page of configuration space is a region of its
 * own, so that nothing stands between the bus and the function; a place without a
 * function reads as ones.
 *
 * All with the device's lock held. References: PCI Local Bus 3.0 (chapter 6: headers,
 * BARs, capabilities; 6.8.2: MSI-X); PCI Express Base 5.0 (7.2.2: ECAM).
 */
#ifndef VMM_DEVICES_PCI_H
#define VMM_DEVICES_PCI_H

#include "devices/device.h"

#define PCI_BARS          DEV_MOVING_MAX
#define PCI_CONFIG_REGION PCI_BARS /* REGION() of the configuration space */
#define PCI_CONFIG_BYTES  256      /* of those that have something in them */
#define PCI_ECAM_BYTES    4096
#define PCI_VECTORS_MAX   2048

enum pci_reg {
	PCI_VENDOR = 0x00,
	PCI_DEVICE = 0x02,
	PCI_COMMAND = 0x04,
	PCI_STATUS = 0x06,
	PCI_REVISION = 0x08,
	PCI_CLASS = 0x09,
	PCI_CACHE_LINE = 0x0c,
	PCI_BAR0 = 0x10,
	PCI_SUBVENDOR = 0x2c,
	PCI_SUBDEVICE = 0x2e,
	PCI_CAPABILITIES = 0x34,
	PCI_IRQ_LINE = 0x3c,
	PCI_HEADER_BYTES = 0x40
};

#define PCI_COMMAND_MEMORY BIT(1)
#define PCI_COMMAND_MASTER BIT(2)
#define PCI_COMMAND_NOINTX BIT(10)

#define PCI_BAR_64       BIT(2) /* its upper half takes the next BAR's place */
#define PCI_BAR_PREFETCH BIT(3)

struct pci_type {
	uint16_t vendor, device, subvendor, subdevice;
	uint32_t class_code; /* class, subclass, interface */
	uint8_t revision;
	struct {
		uint64_t bytes; /* a power of two, 16 or more, below 4 GiB; 0: none */
		uint32_t flags;
	} bar[PCI_BARS];
	/*
	 * MSI-X vectors; 0: none. BAR msix_bar is the function's to name and has no bytes
	 * above: it is as big as table and pending bits need.
	 */
	unsigned vectors;
	unsigned msix_bar;

	/* BARs other than msix_bar; naturally aligned, 1, 2 or 4 bytes. */
	uint64_t (*read)(struct dev *d, unsigned bar, uint64_t off, unsigned size);
	void (*write)(struct dev *d, unsigned bar, uint64_t off, unsigned size, uint64_t val);
};

struct pci_vector {
	uint64_t addr;
	uint32_t data;
	bool masked;
	bool pending;
};

struct pci {
	const struct pci_type *type;
	unsigned slot;
	uint8_t config[PCI_CONFIG_BYTES];
	uint8_t writable[PCI_CONFIG_BYTES]; /* constant once made */
	uint8_t caps_end, last_cap;         /* where the next one goes; the one before it */
	uint8_t msix;                       /* the MSI-X capability; 0: none */
	unsigned nr_vectors;
	struct pci_vector *vector;
};

#define PCI_ACCESS                                                                                 \
	.min_access = 1, .max_access = 4, .gsi = { -1, -1, -1, -1 }, .read = pci_read,             \
	.write = pci_write

/* From the device's init(): takes the next slot. -ENOSPC, -ENOMEM, -EEXIST. */
int pci_init(struct dev *d, const struct pci_type *t);
void pci_destroy(struct dev *d);
void pci_reset(struct dev *d);
int pci_snapshot(struct dev *d, struct snap *s);
uint64_t pci_read(struct dev *d, uint64_t off, unsigned size);
void pci_write(struct dev *d, uint64_t off, unsigned size, uint64_t val);

/*
 * From init(), after pci_init(): a capability of @bytes, its first two included, which
 * are filled in. Returns its offset; the rest is zero and read-only until the function
 * changes config[] and writable[]. -ENOSPC.
 */
int pci_add_capability(struct dev *d, uint8_t id, unsigned bytes);

/* May it reach memory, by DMA or messages? */
static inline bool pci_is_master(const struct pci *p)
{
	return p->config[PCI_COMMAND] & PCI_COMMAND_MASTER;
}

/* An interrupt; kept pending while masked, lost while MSI-X is off. */
void pci_raise(struct dev *d, unsigned vector);

/* msix.c, for pci.c. */
int msix_init(struct dev *d, unsigned vectors, unsigned bar);
uint64_t msix_bar_bytes(unsigned vectors);
void msix_reset(struct pci *p);
void msix_snapshot(struct dev *d, struct snap *s);
uint64_t msix_read(struct dev *d, uint64_t off, unsigned size);
void msix_write(struct dev *d, uint64_t off, unsigned size, uint64_t val);
/* Something that held messages back may have gone. */
void msix_deliver(struct dev *d);

#endif
