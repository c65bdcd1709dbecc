/* registry.c - every device of the platform, controllers first: others raise lines at reset. */
#include "devices/device.h"

extern const struct device_type ioapic_type, pic_type, pit_type, rtc_type, serial_type,
	acpi_pm_type, reset_type, i8042_type, fwcfg_type, debugcon_type, exitport_type,
	pci_ports_type, pci_host_type;

const struct device_type *const device_types[] = {
	&ioapic_type,   &pic_type,       &pit_type,      &rtc_type,   &serial_type,
	&acpi_pm_type,  &reset_type,     &i8042_type,    &fwcfg_type, &debugcon_type,
	&exitport_type, &pci_ports_type, &pci_host_type, NULL,
};
