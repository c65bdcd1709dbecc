/*
 * acpi.c - the tables that say what machine this is: they can be found, add up, and
 * agree with fw_cfg, CPUID and the APICs.
 */
#include "rt.h"

struct table {
	char signature[4];
	uint32_t bytes;
	uint8_t revision, checksum;
	char oem[6], oem_table[8];
	uint32_t oem_revision, creator, creator_revision;
} __attribute__((packed));

struct rsdp {
	char signature[8];
	uint8_t checksum;
	char oem[6];
	uint8_t revision;
	uint32_t rsdt;
	uint32_t bytes;
	uint64_t xsdt;
	uint8_t checksum2, reserved[3];
} __attribute__((packed));

static uint8_t sum(const void *p, size_t n)
{
	const uint8_t *b = p;
	uint8_t s = 0;

	for (size_t i = 0; i < n; i++)
		s = (uint8_t)(s + b[i]);
	return s;
}

static const struct rsdp *find_rsdp(void)
{
	for (uintptr_t a = 0xe0000; a < 0x100000; a += 16)
		if (!memcmp((void *)a, "RSD PTR ", 8) && !sum((void *)a, 20))
			return (void *)a;
	return NULL;
}

static const struct table *find(const struct rsdp *r, const char *signature)
{
	const struct table *root =
		(void *)(uintptr_t)(r->revision >= 2 && r->xsdt ? r->xsdt : r->rsdt);
	unsigned entry = r->revision >= 2 && r->xsdt ? 8 : 4;

	for (uint32_t at = sizeof(*root); at + entry <= root->bytes; at += entry) {
		uint64_t address = 0;

		memcpy(&address, (const uint8_t *)root + at, entry);
		const struct table *t = (void *)(uintptr_t)address;
		if (!memcmp(t->signature, signature, 4))
			return t;
	}
	return NULL;
}

static const struct table *need(const struct rsdp *r, const char *signature)
{
	const struct table *t = find(r, signature);

	if (!ok(t, "%s is there", signature))
		return NULL;
	ok(!sum(t, t->bytes), "%s adds up", signature);
	return t;
}

static void check_madt(const struct table *t)
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

static void check_fadt(const struct table *t)
{
	uint32_t pm_timer_port;

	memcpy(&pm_timer_port, (const uint8_t *)t + 76, 4);
	same(pm_timer_port, PM_TIMER_PORT, "PM timer port");
}

void guest_main(void)
{
	const struct rsdp *r = find_rsdp();
	const struct table *t;

	apic_enable();
	if (!ok(r, "RSDP"))
		return;
	t = need(r, "APIC");
	if (t)
		check_madt(t);
	t = need(r, "FACP");
	if (t)
		check_fadt(t);
}
