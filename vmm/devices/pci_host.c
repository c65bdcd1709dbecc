/*
 * pci_host.c - the host bridge: function 0 of the bus, and nothing but its name.
 *
 * Configuration space is the functions' own (pci.h), the windows through which BARs
 * are reached belong to the memory bus, and ACPI describes both. But systems expect a
 * bridge at 00:00.0, and name it.
 */
#include "devices/pci.h"

static const struct pci_type bridge = {
	.vendor = 0x1b36, /* as QEMU's generic PCIe host bridge */
	.device = 0x0008,
	.class_code = 0x060000,
};

static int host_init(struct dev *d)
{
	return pci_init(d, &bridge);
}

const struct device_type pci_host_type = {
	.name = "pci-host",
	.state_size = sizeof(struct pci),
	PCI_ACCESS,
	.init = host_init,
	.destroy = pci_destroy,
	.reset = pci_reset,
	.snapshot = pci_snapshot,
};
