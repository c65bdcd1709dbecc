/*
 * acpi.h - the ACPI tables: the machine described to its guest.
 */
#ifndef VMM_BOOT_ACPI_H
#define VMM_BOOT_ACPI_H

#include "boot/topology.h"
#include "mem/gmem.h"

/*
 * Writes RSDP (first, at @gpa), XSDT, FADT, FACS, DSDT, MADT, MCFG, SRAT, SLIT and HMAT into
 * [@gpa, @gpa + @bytes). @gpa: a multiple of 64 where guests look for an RSDP.
 * -ENOSPC, -ENOMEM, -EFAULT.
 */
int acpi_write(const struct gmem *m, const struct topology *t, uint64_t gpa, uint64_t bytes);

#endif
