/*
 * linux.c - the Linux/x86 boot protocol, 64-bit entry.
 *
 * A bzImage carries the kernel proper as a packed ELF executable behind a stub
 * that unpacks it. The host unpacks it much faster than the guest would, so the
 * ELF's own entry is taken, in the state that the stub would leave. Where the
 * payload is nothing we know, the stub itself is entered.
 *
 * Reference: Linux Documentation/arch/x86/boot.rst and zero-page.rst ("Boot
 * protocol" below).
 */
#include "boot/decompress.h"
#include "boot/load.h"

#include <errno.h>
#include <stdlib.h>

/* Where things lie below EBDA_GPA. */
#define ZERO_PAGE_GPA  (LOADER_GPA + 0x0000)
#define GDT_GPA        (LOADER_GPA + 0x1000)
#define PAGE_TABLE_GPA (LOADER_GPA + 0x2000) /* PML4, PDPT, 4 page directories */
#define CMDLINE_GPA    (LOADER_GPA + 0x8000)
#define CMDLINE_BYTES  0x10000

#define MAPPED_BYTES GIB(4)

/* Fields of the zero page. The setup header keeps its offsets from the image. */
enum zero_page {
	ZP_ACPI_RSDP = 0x070,
	ZP_E820_COUNT = 0x1e8,
	ZP_E820_MAP = 0x2d0,
	ZP_E820_MAX = 128,
};

enum setup_header {
	HDR_START = 0x1f1,
	HDR_SETUP_SECTS = 0x1f1,
	HDR_VID_MODE = 0x1fa,
	HDR_BOOT_FLAG = 0x1fe,
	HDR_JUMP = 0x200, /* the second byte says where the header ends */
	HDR_MAGIC = 0x202,
	HDR_VERSION = 0x206,
	HDR_LOADER_TYPE = 0x210,
	HDR_LOADFLAGS = 0x211,
	HDR_INITRD_GPA = 0x218,
	HDR_INITRD_BYTES = 0x21c,
	HDR_CMDLINE_GPA = 0x228,
	HDR_INITRD_MAX = 0x22c,
	HDR_ALIGNMENT = 0x230,
	HDR_XLOADFLAGS = 0x236,
	HDR_CMDLINE_SIZE = 0x238,
	HDR_PAYLOAD_OFFSET = 0x248,
	HDR_PAYLOAD_BYTES = 0x24c,
	HDR_PREF_ADDRESS = 0x258,
	HDR_INIT_SIZE = 0x260,
	HDR_END = 0x264, /* of what protocol 2.12 has */
	HDR_END_MAX = 0x290,
};

#define MAGIC_HDRS       0x53726448u /* "HdrS" */
#define VERSION_MIN      0x020c      /* 2.12: xloadflags */
#define XLF_KERNEL_64    BIT(0)
#define LOADED_HIGH      BIT(0)
#define LOADER_UNDEFINED 0xff
#define VID_MODE_NORMAL  0xffff
#define STUB_ENTRY_64    0x200

#define SECTOR_BYTES  512
#define ELF_ALIGNMENT MIB(2) /* x86-64 executables keep offset and address congruent */

/* A kernel in RAM, and what it said about itself. */
struct linux_kernel {
	uint8_t zero_page[PAGE_SIZE];
	uint64_t low, high; /* the RAM that it takes before it reads the memory map */
	uint64_t entry;
};

bool linux_recognise(const uint8_t *data, size_t bytes)
{
	return bytes >= HDR_END && load_u16(data + HDR_BOOT_FLAG) == 0xaa55 &&
	       load_u32(data + HDR_MAGIC) == MAGIC_HDRS;
}

/* --- the kernel --------------------------------------------------------------- */

/*
 * The file is unpacked to where its first segment will be used, and the others
 * then move down by little or nothing: there is no second copy of the kernel. What
 * precedes the first segment in the file is one alignment unit.
 */
static uint8_t *guess_place(struct loader *l, uint64_t pref_address, uint64_t bytes, uint64_t *base)
{
	if (pref_address < LOAD_BASE + ELF_ALIGNMENT)
		return NULL;
	*base = pref_address - ELF_ALIGNMENT;
	return load_within(*base, bytes, l->low_end) ? gmem_ptr(l->r->gmem, *base, bytes) : NULL;
}

/* @file is the unpacked ELF; @in_place says that it is guest RAM at @base. */
static int place_elf(struct loader *l, struct linux_kernel *k, uint8_t *file, size_t bytes,
		     bool in_place, uint64_t base)
{
	struct elf e;
	uint8_t *copy;
	int err;

	if (!elf_recognise(file, bytes))
		return -ENOTSUP;
	err = elf_parse(l, file, bytes, &e);
	if (err)
		return err;
	if (!e.is_64)
		return load_refuse(l, -ENOEXEC, "a 32-bit kernel: a 64-bit one is needed");
	k->entry = e.entry;
	k->low = e.low;
	k->high = MAX(k->high, e.high);
	if (!in_place)
		return elf_load(l, &e, file);
	if (elf_can_settle(&e, base))
		return elf_settle(l, &e, file, base, bytes);
	copy = malloc(bytes);
	if (!copy)
		return load_refuse(l, -ENOMEM, "no memory to unpack it");
	memcpy(copy, file, bytes);
	err = elf_load(l, &e, copy);
	free(copy);
	return err;
}

static int unpack_payload(struct loader *l, struct linux_kernel *k, const uint8_t *in,
			  size_t in_bytes, uint64_t pref_address)
{
	const char *format = decompress_format(in, in_bytes);
	uint64_t base = 0, out_bytes;
	uint8_t *out, *temp = NULL;
	int err;

	if (!format || in_bytes < 8)
		return -ENOTSUP;
	/* The unpacked size follows the stream; gzip's own trailer is the same. */
	out_bytes = load_u32(in + in_bytes - 4);
	if (out_bytes > l->low_end)
		return load_refuse(l, -ENOSPC,
				   "does not fit: unpacks to %llu MiB, RAM ends at %llu MiB",
				   (unsigned long long)(out_bytes >> 20),
				   (unsigned long long)(l->low_end >> 20));
	out = guess_place(l, pref_address, out_bytes, &base);
	if (!out) {
		out = temp = malloc(out_bytes + !out_bytes);
		if (!temp)
			return load_refuse(l, -ENOMEM, "no memory to unpack it");
	} else if (l->r->will_fill) {
		l->r->will_fill(l->r->arg, out, out_bytes);
	}
	err = decompress(in, in_bytes - (strcmp(format, "gzip") ? 4 : 0), out, out_bytes);
	if (err == -ENOMEM)
		err = load_refuse(l, err, "no memory to unpack it");
	else if (err)
		err = load_refuse(l, -ENOEXEC,
				  "damaged or truncated: its %s payload does not "
				  "unpack",
				  format);
	else
		err = place_elf(l, k, out, out_bytes, !temp, base);
	free(temp);
	return err;
}

/* The stub unpacks the kernel inside the guest. */
static int place_stub(struct loader *l, struct linux_kernel *k, const uint8_t *image, size_t bytes)
{
	if (bytes < STUB_ENTRY_64)
		return load_refuse(l, -ENOEXEC,
				   "damaged or truncated: %zu bytes of kernel: fetch it again",
				   bytes);
	if (k->low < LOAD_BASE || !load_within(k->low, bytes, l->low_end))
		return load_refuse(l, -ENOSPC, "does not fit: RAM ends at %llu MiB",
				   (unsigned long long)(l->low_end >> 20));
	k->entry = k->low + STUB_ENTRY_64;
	return gmem_write(l->r->gmem, k->low, image, bytes);
}

static int place_bzimage(struct loader *l, struct linux_kernel *k)
{
	const struct boot_image *image = &l->r->kernel;
	const uint8_t *h = image->data;
	unsigned sects = h[HDR_SETUP_SECTS] ? h[HDR_SETUP_SECTS] : 4;
	size_t stub = (sects + 1) * (size_t)SECTOR_BYTES;
	size_t payload = stub + load_u32(h + HDR_PAYLOAD_OFFSET);
	size_t payload_bytes = load_u32(h + HDR_PAYLOAD_BYTES);
	uint64_t pref = load_u64(h + HDR_PREF_ADDRESS);
	uint32_t init_size = load_u32(h + HDR_INIT_SIZE);
	int err;

	if (payload + payload_bytes > image->bytes)
		return load_refuse(l, -ENOEXEC,
				   "truncated: %zu bytes, its header promises %zu: fetch it again",
				   image->bytes, payload + payload_bytes);
	if (!load_within(pref, init_size, l->low_end))
		return load_refuse(l, -ENOSPC,
				   "does not fit: needs %u MiB at %#llx, RAM ends at %llu MiB",
				   init_size >> 20, (unsigned long long)pref,
				   (unsigned long long)(l->low_end >> 20));
	k->low = pref;
	k->high = pref + init_size;
	err = unpack_payload(l, k, h + payload, payload_bytes, pref);
	return err == -ENOTSUP ? place_stub(l, k, h + stub, image->bytes - stub) : err;
}

/* --- what the kernel is handed ------------------------------------------------- */

static int check_header(struct loader *l)
{
	const uint8_t *h = l->r->kernel.data;
	unsigned version = load_u16(h + HDR_VERSION);

	if (version < VERSION_MIN)
		return load_refuse(l, -ENOEXEC,
				   "a kernel of boot protocol %u.%02u: 2.12 (Linux 3.8) is needed",
				   version >> 8, version & 0xff);
	if (!(load_u16(h + HDR_XLOADFLAGS) & XLF_KERNEL_64))
		return load_refuse(l, -ENOEXEC, "a 32-bit kernel: a 64-bit one is needed");
	return 0;
}

static void copy_header(struct linux_kernel *k, const struct boot_image *image)
{
	size_t end = HDR_JUMP + 2 + image->data[HDR_JUMP + 1];

	end = MIN(MIN(MAX(end, HDR_END), HDR_END_MAX), image->bytes);
	memcpy(k->zero_page + HDR_START, image->data + HDR_START, end - HDR_START);
}

/* An executable without a setup header gets the header that a bzImage would have. */
static void make_header(struct linux_kernel *k)
{
	uint8_t *h = k->zero_page;

	store_u16(h + HDR_BOOT_FLAG, 0xaa55);
	store_u32(h + HDR_MAGIC, MAGIC_HDRS);
	store_u16(h + HDR_VERSION, 0x020f);
	store_u32(h + HDR_INITRD_MAX, 0x7fffffff);
	store_u32(h + HDR_ALIGNMENT, (uint32_t)ELF_ALIGNMENT);
	store_u16(h + HDR_XLOADFLAGS, XLF_KERNEL_64);
	store_u32(h + HDR_CMDLINE_SIZE, 2047);
}

static int write_cmdline(struct loader *l, struct linux_kernel *k)
{
	const char *cmdline = l->r->cmdline ? l->r->cmdline : "";
	size_t bytes = strlen(cmdline), max = load_u32(k->zero_page + HDR_CMDLINE_SIZE);

	max = MIN(max, CMDLINE_BYTES - 1);
	if (bytes > max)
		return load_refuse(l, -EINVAL,
				   "a command line of %zu bytes: this kernel takes up to %zu",
				   bytes, max);
	store_u32(k->zero_page + HDR_CMDLINE_GPA, CMDLINE_GPA);
	return gmem_write(l->r->gmem, CMDLINE_GPA, cmdline, bytes + 1);
}

static int write_initrd(struct loader *l, struct linux_kernel *k)
{
	const struct boot_image *initrd = &l->r->initrd;
	uint64_t limit = (uint64_t)load_u32(k->zero_page + HDR_INITRD_MAX) + 1, gpa;

	if (!initrd->data || !initrd->bytes)
		return 0;
	gpa = load_place_high(l, initrd->bytes, k->high, limit);
	if (!gpa)
		return load_refuse(l, -ENOSPC,
				   "the initrd of %zu MiB does not fit above the kernel: RAM below "
				   "4 GiB ends at %llu MiB; give the machine more memory",
				   (initrd->bytes >> 20) + 1,
				   (unsigned long long)(l->low_end >> 20));
	store_u32(k->zero_page + HDR_INITRD_GPA, (uint32_t)gpa);
	store_u32(k->zero_page + HDR_INITRD_BYTES, (uint32_t)initrd->bytes);
	return gmem_write(l->r->gmem, gpa, initrd->data, initrd->bytes);
}

static int write_zero_page(struct loader *l, struct linux_kernel *k)
{
	uint8_t *zp = k->zero_page;
	struct e820_entry map[E820_MAX];
	unsigned n = MIN(e820_build(l->r->gmem, map), ZP_E820_MAX);

	store_u64(zp + ZP_ACPI_RSDP, FIRMWARE_GPA); /* the RSDP comes first */
	zp[ZP_E820_COUNT] = (uint8_t)n;
	for (unsigned i = 0; i < n; i++) {
		uint8_t *p = zp + ZP_E820_MAP + 20 * i;

		store_u64(p, map[i].gpa);
		store_u64(p + 8, map[i].bytes);
		store_u32(p + 16, map[i].type);
	}
	zp[HDR_LOADER_TYPE] = LOADER_UNDEFINED;
	zp[HDR_LOADFLAGS] |= LOADED_HIGH;
	store_u16(zp + HDR_VID_MODE, VID_MODE_NORMAL);
	return gmem_write(l->r->gmem, ZERO_PAGE_GPA, zp, PAGE_SIZE);
}

/* --- the state ------------------------------------------------------------------- */

#define PTE_P  BIT64(0)
#define PTE_RW BIT64(1)
#define PTE_PS BIT64(7)

/* The first 4 GiB at their own addresses, in pages of 2 MiB. */
static int write_page_tables(struct loader *l)
{
	static const unsigned directories = MAPPED_BYTES / GIB(1);
	uint64_t table[512], pdpt = PAGE_TABLE_GPA + PAGE_SIZE, pd = pdpt + PAGE_SIZE;
	int err;

	memset(table, 0, sizeof(table));
	table[0] = pdpt | PTE_P | PTE_RW;
	err = gmem_write(l->r->gmem, PAGE_TABLE_GPA, table, sizeof(table));
	for (unsigned i = 0; i < directories; i++)
		table[i] = (pd + i * PAGE_SIZE) | PTE_P | PTE_RW;
	if (!err)
		err = gmem_write(l->r->gmem, pdpt, table, sizeof(table));
	for (unsigned i = 0; i < directories && !err; i++) {
		for (unsigned j = 0; j < 512; j++)
			table[j] = (i * GIB(1) + j * MIB(2)) | PTE_P | PTE_RW | PTE_PS;
		err = gmem_write(l->r->gmem, pd + i * PAGE_SIZE, table, sizeof(table));
	}
	return err;
}

/* Boot protocol, "64-bit boot protocol": __BOOT_CS is 0x10, __BOOT_DS is 0x18. */
static const uint64_t gdt[] = {
	0,
	0,
	0x00af9b000000ffff, /* code, 64-bit */
	0x00cf93000000ffff, /* data, flat */
	0x00008b0000000067, /* a TSS in use, 64-bit, at 0 */
	0,
};

#define BOOT_CS 0x10
#define BOOT_DS 0x18
#define BOOT_TR 0x20

static int enter_64(struct loader *l, uint64_t entry)
{
	static const struct segment code = { BOOT_CS, 0xa09b, UINT32_MAX, 0 };
	static const struct segment data = { BOOT_DS, 0xc093, UINT32_MAX, 0 };
	struct cpu_state *s = l->bsp;
	int err = write_page_tables(l);

	if (!err)
		err = gmem_write(l->r->gmem, GDT_GPA, gdt, sizeof(gdt));
	if (err)
		return err;

	memset(s->gpr, 0, sizeof(s->gpr));
	s->gpr[RSI] = ZERO_PAGE_GPA;
	s->rip = entry;
	s->rflags = RFLAGS_ONE;
	for (unsigned i = 0; i < SEG_COUNT; i++)
		s->seg[i] = data;
	s->seg[SEG_CS] = code;
	s->tr = (struct segment){ BOOT_TR, 0x008b, 0x67, 0 };
	s->ldtr = (struct segment){ .attr = SEG_UNUSABLE };
	s->gdtr = (struct desc_table){ .base = GDT_GPA, .limit = sizeof(gdt) - 1 };
	s->idtr = (struct desc_table){ 0 };
	s->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_PG;
	s->cr3 = PAGE_TABLE_GPA;
	s->cr4 = CR4_PAE;
	s->efer = EFER_LME | EFER_LMA;
	return 0;
}

static int hand_over(struct loader *l, struct linux_kernel *k)
{
	int err = write_cmdline(l, k);

	if (!err)
		err = write_initrd(l, k);
	if (!err)
		err = write_zero_page(l, k);
	return err ? err : enter_64(l, k->entry);
}

int linux_load_bzimage(struct loader *l)
{
	struct linux_kernel k = { 0 };
	int err = check_header(l);

	if (!err)
		err = place_bzimage(l, &k);
	if (err)
		return err;
	copy_header(&k, &l->r->kernel);
	return hand_over(l, &k);
}

int linux_load_elf(struct loader *l)
{
	const struct boot_image *image = &l->r->kernel;
	struct linux_kernel k = { 0 };
	int err = place_elf(l, &k, (uint8_t *)image->data, image->bytes, false, 0);

	if (err)
		return err;
	make_header(&k);
	return hand_over(l, &k);
}
