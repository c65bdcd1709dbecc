/* acpi.c - the tables that the firmware left. */
#include "rt.h"

static uint8_t sum(const void *p, size_t n)
{
	const uint8_t *b = p;
	uint8_t s = 0;

	for (size_t i = 0; i < n; i++)
		s = (uint8_t)(s + b[i]);
	return s;
}

const struct acpi_rsdp *acpi_rsdp(void)
{
	for (uintptr_t a = 0xe0000; a < 0x100000; a += 16)
		if (!memcmp((void *)a, "RSD PTR ", 8) && !sum((void *)a, 20))
			return (void *)a;
	return NULL;
}

bool acpi_adds_up(const struct acpi_table *t)
{
	return !sum(t, t->bytes);
}

const struct acpi_table *acpi_find(const char *signature)
{
	const struct acpi_rsdp *r = acpi_rsdp();
	bool wide = r && r->revision >= 2 && r->xsdt;
	const struct acpi_table *root = r ? (void *)(uintptr_t)(wide ? r->xsdt : r->rsdt) : NULL;
	unsigned entry = wide ? 8 : 4;

	for (uint32_t at = sizeof(*root); root && at + entry <= root->bytes; at += entry) {
		uint64_t address = 0;

		memcpy(&address, (const uint8_t *)root + at, entry);
		const struct acpi_table *t = (void *)(uintptr_t)address;
		if (!memcmp(t->signature, signature, 4))
			return t;
	}
	return NULL;
}
