/*
 * acpi.c - the tables that say what machine this is: they can be found, add up, and
 * agree with fw_cfg, CPUID and the APICs.
 */
#include "rt.h"

static const struct acpi_table *need(const char *signature)
{
	const struct acpi_table *t = acpi_find(signature);

	if (!ok(t, "%s is there", signature))
		return NULL;
	ok(acpi_adds_up(t), "%s adds up", signature);
	return t;
}

static void check_madt(const struct acpi_table *t)
{
	const uint8_t *p = (const uint8_t *)t + 44, *end = (const uint8_t *)t + t->bytes;
	unsigned enabled = 0, ioapics = 0;
	bool me = false;
	uint32_t id = apic_id();

	for (; p < end && p[1]; p += p[1]) {
		uint32_t wide;

		switch (p[0]) {
		case 0:
			enabled += p[4] & 1;
			me = me || p[3] == id;
			break;
		case 1:
			ioapics++;
			memcpy(&wide, p + 4, 4);
			same(wide, 0xfec00000, "IOAPIC where it always is");
			break;
		case 9:
			memcpy(&wide, p + 8, 4);
			enabled += wide & 1;
			memcpy(&wide, p + 4, 4);
			me = me || wide == id;
			break;
		default:
			break;
		}
	}
	same(enabled, cpu_count(), "MADT and fw_cfg agree about CPUs");
	same(ioapics, 1, "one IOAPIC");
	ok(me, "this CPU is in the MADT");
}

static void check_fadt(const struct acpi_table *t)
{
	uint32_t pm_timer_port;

	memcpy(&pm_timer_port, (const uint8_t *)t + 76, 4);
	same(pm_timer_port, PM_TIMER_PORT, "PM timer port");
}

void guest_main(void)
{
	const struct acpi_table *t;

	apic_enable();
	if (!ok(acpi_rsdp(), "RSDP"))
		return;
	t = need("APIC");
	if (t)
		check_madt(t);
	t = need("FACP");
	if (t)
		check_fadt(t);
}
