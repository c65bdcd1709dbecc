/*
 * pci_ports.c - PCI configuration by ports 0xCF8 and 0xCFC, and the reset control
 * register at 0xCF9, which lies inside the former's dword: a byte access is meant for
 * it, a dword one for the address.
 *
 * Systems that have not read ACPI's tables yet look here, and some look nowhere else.
 * An access to the data port becomes one to the same place of the memory-mapped
 * configuration space (PCI Local Bus 3.0, 3.2.2.3.2). Concurrent, because functions
 * answer that access with their own lock: no other may be held.
 */
#include "devices/device.h"

#include <stdatomic.h>

#define PORT_ADDRESS 0
#define PORT_RESET   1
#define PORT_DATA    4

#define ADDRESS_ON   BIT(31)
#define ADDRESS_BITS 0x80fffffcu

#define RST_CPU  BIT(2) /* 0 to 1 resets */
#define RST_BITS 0x0eu

struct pci_ports {
	_Atomic uint32_t address;
	_Atomic uint8_t control;
};

/* Where the data port leads; false: nowhere. Bus, device, function; then the register. */
static bool data_gpa(struct pci_ports *p, uint64_t off, uint64_t *gpa)
{
	uint32_t a = atomic_load(&p->address);

	*gpa = dev_pci_config_gpa() + ((uint64_t)(a & 0xffff00) << 4) + (a & 0xfc) +
	       (off - PORT_DATA);
	return a & ADDRESS_ON;
}

static uint64_t ports_read(struct dev *d, uint64_t off, unsigned size)
{
	struct pci_ports *p = dev_state(d);
	uint64_t gpa;

	if (off >= PORT_DATA)
		return data_gpa(p, off, &gpa) ? dev_forward_read(d, gpa, size) : UINT64_MAX;
	if (off == PORT_ADDRESS && size == 4)
		return atomic_load(&p->address);
	return off == PORT_RESET && size == 1 ? atomic_load(&p->control) : UINT64_MAX;
}

static void ports_write(struct dev *d, uint64_t off, unsigned size, uint64_t val)
{
	struct pci_ports *p = dev_state(d);
	uint8_t control = val & RST_BITS;
	uint64_t gpa;

	if (off >= PORT_DATA) {
		if (data_gpa(p, off, &gpa))
			dev_forward_write(d, gpa, size, val);
	} else if (off == PORT_ADDRESS && size == 4) {
		atomic_store(&p->address, (uint32_t)val & ADDRESS_BITS);
	} else if (off == PORT_RESET && size == 1) {
		if (control & ~atomic_exchange(&p->control, control) & RST_CPU)
			dev_request_reset(d);
	}
}

static void ports_reset(struct dev *d)
{
	struct pci_ports *p = dev_state(d);

	atomic_store(&p->address, 0);
	atomic_store(&p->control, 0);
}

static int ports_snapshot(struct dev *d, struct snap *s)
{
	struct pci_ports *p = dev_state(d);
	uint32_t address = atomic_load(&p->address);
	uint8_t control = atomic_load(&p->control);

	snap_u32(s, &address);
	snap_u8(s, &control);
	atomic_store(&p->address, address & ADDRESS_BITS);
	atomic_store(&p->control, control & RST_BITS);
	return snap_error(s);
}

const struct device_type pci_ports_type = {
	.name = "pci-ports",
	.state_size = sizeof(struct pci_ports),
	.region = { { BUS_PIO, 0xcf8, 8 } },
	.min_access = 1,
	.max_access = 4,
	.gsi = { -1, -1, -1, -1 },
	.concurrent = true,
	.reset = ports_reset,
	.read = ports_read,
	.write = ports_write,
	.snapshot = ports_snapshot,
};
