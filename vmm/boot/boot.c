/*
 * boot.c - recognises an image, puts the firmware's data into RAM and hands over
 * to the image's protocol.
 */
#include "boot/acpi.h"
#include "boot/layout.h"
#include "boot/load.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

/* BIOS data area: where conventional memory ends. */
#define BDA_EBDA_SEGMENT (BDA_GPA + 0x0e)
#define BDA_MEMORY_KIB   (BDA_GPA + 0x13)

#define XAPIC_IDS        255
#define APIC_BASE_X2APIC BIT(10)

int load_refuse(struct loader *l, int err, const char *fmt, ...)
{
	int n = snprintf(l->why, l->why_bytes,
			 "%s: ", l->r->kernel.name ? l->r->kernel.name : "kernel");
	va_list ap;

	if (n < 0 || (size_t)n >= l->why_bytes)
		return err;
	va_start(ap, fmt);
	vsnprintf(l->why + n, l->why_bytes - (size_t)n, fmt, ap);
	va_end(ap);
	return err;
}

uint64_t load_place_high(const struct loader *l, uint64_t bytes, uint64_t floor, uint64_t limit)
{
	uint64_t end = MIN(limit, l->low_end), gpa;

	if (bytes > end)
		return 0;
	gpa = (end - bytes) & PAGE_MASK;
	return gpa >= floor ? gpa : 0;
}

static uint64_t find_low_end(const struct gmem *m)
{
	uint64_t end = 0;

	for (unsigned i = 0; i < m->nr_slots && m->slot[i].gpa == end; i++)
		end += m->slot[i].bytes;
	return MIN(end, LAYOUT_LOW_END);
}

static int write_firmware(struct loader *l)
{
	uint16_t ebda = EBDA_GPA >> 4, kib = EBDA_GPA >> 10;
	int err;

	if (l->low_end < LOAD_BASE)
		return load_refuse(l, -ENOSPC, "a machine needs 1 MiB of memory at least");
	err = gmem_write(l->r->gmem, BDA_EBDA_SEGMENT, &ebda, sizeof(ebda));
	if (!err)
		err = gmem_write(l->r->gmem, BDA_MEMORY_KIB, &kib, sizeof(kib));
	if (!err)
		err = acpi_write(l->r->gmem, l->r->topo, FIRMWARE_GPA, FIRMWARE_SIZE);
	return err;
}

static int load_image(struct loader *l)
{
	const struct boot_image *k = &l->r->kernel;

	if (!k->data || !k->bytes)
		return load_refuse(l, -ENOEXEC, "empty");
	if (linux_recognise(k->data, k->bytes))
		return linux_load_bzimage(l);
	if (multiboot_recognise(k->data, k->bytes))
		return multiboot_load(l);
	if (elf_recognise(k->data, k->bytes))
		return linux_load_elf(l);
	return load_refuse(
		l, -ENOEXEC,
		"neither a Linux kernel (bzImage or vmlinux) nor a multiboot image: name one");
}

/*
 * Where IDs do not fit 8 bits, firmware leaves processors in x2APIC mode (SDM vol.
 * 3, 11.12.8): a kernel that starts in xAPIC mode would not count the others.
 */
static void enable_x2apic(struct loader *l)
{
	const struct topology *t = l->r->topo;

	if (t->vcpu[t->nr_vcpus - 1].apic_id >= XAPIC_IDS)
		l->bsp->apic_base |= APIC_BASE_X2APIC;
}

int boot_load(const struct boot_request *r, struct cpu_state *bsp, char *why, size_t why_bytes)
{
	struct loader l = { .r = r,
			    .bsp = bsp,
			    .low_end = find_low_end(r->gmem),
			    .why = why,
			    .why_bytes = why_bytes };
	int err;

	if (why_bytes)
		why[0] = '\0';
	err = write_firmware(&l);
	if (!err)
		err = load_image(&l);
	if (!err)
		enable_x2apic(&l);
	if (err && why_bytes && !why[0])
		load_refuse(&l, err, "cannot be loaded (error %d)", -err);
	return err;
}
