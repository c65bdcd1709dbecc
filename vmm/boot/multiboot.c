/*
 * multiboot.c - the Multiboot protocol, version 1: kernels entered in flat 32-bit
 * protected mode.
 *
 * Reference: Multiboot Specification 0.6.96 (sections are named where used). As
 * GRUB does, 64-bit ELF files are taken, too; they are entered in 32-bit mode.
 */
#include "boot/load.h"

#include <errno.h>

#define HEADER_MAGIC  0x1badb002u
#define LOADER_MAGIC  0x2badb002u
#define SEARCH_BYTES  8192
#define MODULES_TOTAL (1 + BOOT_MODULES_MAX)

/* 3.1.2: bits 0 to 15 are demands. */
enum header_flags {
	WANT_ALIGNED_MODULES = BIT(0), /* they always are */
	WANT_MEMORY = BIT(1),          /* it is always told */
	WANT_UNKNOWN = 0xfffc,
	HAS_ADDRESSES = BIT(16),
};

/* 3.3 */
enum info_flags {
	INFO_MEMORY = BIT(0),
	INFO_CMDLINE = BIT(2),
	INFO_MODULES = BIT(3),
	INFO_MAP = BIT(6),
	INFO_LOADER_NAME = BIT(9),
};

struct mb_info {
	uint32_t flags;
	uint32_t mem_lower, mem_upper; /* KiB */
	uint32_t boot_device;
	uint32_t cmdline;
	uint32_t mods_count, mods_addr;
	uint32_t syms[4];
	uint32_t mmap_length, mmap_addr;
	uint32_t drives_length, drives_addr;
	uint32_t config_table;
	uint32_t boot_loader_name;
	uint32_t apm_table;
};

struct mb_map_entry {
	uint32_t size; /* of the rest */
	uint64_t base, bytes;
	uint32_t type; /* as E820's */
} __attribute__((packed));

struct mb_module {
	uint32_t start, end;
	uint32_t string;
	uint32_t reserved;
};

struct multiboot {
	struct loader *l;
	struct mb_info info;
	uint64_t next; /* free memory below EBDA_GPA */
	uint64_t high; /* free memory above the kernel and its modules */
	uint64_t entry;
};

static size_t find_header(const uint8_t *data, size_t bytes)
{
	size_t end = MIN(bytes, SEARCH_BYTES);

	for (size_t at = 0; at + 12 <= end; at += 4)
		if (load_u32(data + at) == HEADER_MAGIC &&
		    load_u32(data + at) + load_u32(data + at + 4) + load_u32(data + at + 8) == 0)
			return at;
	return SIZE_MAX;
}

bool multiboot_recognise(const uint8_t *data, size_t bytes)
{
	return find_header(data, bytes) != SIZE_MAX;
}

/* --- the kernel ----------------------------------------------------------------- */

static int load_elf(struct multiboot *mb)
{
	const struct boot_image *image = &mb->l->r->kernel;
	struct elf e;
	int err;

	if (!elf_recognise(image->data, image->bytes))
		return load_refuse(mb->l, -ENOEXEC,
				   "a multiboot image without addresses that is no ELF file");
	err = elf_parse(mb->l, image->data, image->bytes, &e);
	if (err)
		return err;
	mb->entry = e.entry;
	mb->high = e.high;
	return elf_load(mb->l, &e, image->data);
}

/* 3.1.3: where which part of the file belongs, said in the header itself. */
struct placement {
	size_t offset, bytes;
	uint64_t gpa, end; /* end: of what is not in the file, too */
};

static int read_addresses(struct multiboot *mb, size_t header, struct placement *p)
{
	const struct boot_image *image = &mb->l->r->kernel;
	const uint8_t *h = image->data + header;
	uint32_t header_gpa, load_end, bss_end;

	if (image->bytes - header < 32)
		return load_refuse(mb->l, -ENOEXEC,
				   "truncated: its multiboot header is cut off: fetch it again");
	header_gpa = load_u32(h + 12);
	p->gpa = load_u32(h + 16);
	load_end = load_u32(h + 20);
	bss_end = load_u32(h + 24);
	mb->entry = load_u32(h + 28);

	if (p->gpa > header_gpa || header_gpa - p->gpa > header || (load_end && load_end < p->gpa))
		return load_refuse(
			mb->l, -ENOEXEC,
			"damaged: its multiboot header contradicts itself: fetch it again");
	p->offset = header - (header_gpa - p->gpa);
	p->bytes = load_end ? load_end - p->gpa : image->bytes - p->offset;
	p->end = MAX(p->gpa + p->bytes, bss_end);
	if (!load_within(p->offset, p->bytes, image->bytes))
		return load_refuse(mb->l, -ENOEXEC,
				   "truncated: %zu bytes, its header promises %zu: fetch it again",
				   image->bytes, p->offset + p->bytes);
	return 0;
}

static int load_by_addresses(struct multiboot *mb, size_t header)
{
	struct loader *l = mb->l;
	struct placement p = { 0 };
	int err = read_addresses(mb, header, &p);

	if (err)
		return err;
	if (p.gpa < LOAD_BASE)
		return load_refuse(l, -ENOEXEC, "wants to be loaded at %#llx, below 1 MiB",
				   (unsigned long long)p.gpa);
	if (p.end > l->low_end)
		return load_refuse(l, -ENOSPC, "does not fit: it ends at %llu MiB, RAM at %llu",
				   (unsigned long long)(p.end >> 20),
				   (unsigned long long)(l->low_end >> 20));
	if (mb->entry < p.gpa || mb->entry >= p.end)
		return load_refuse(l, -ENOEXEC, "damaged: its entry %#llx lies outside",
				   (unsigned long long)mb->entry);
	mb->high = p.end;
	err = gmem_write(l->r->gmem, p.gpa, l->r->kernel.data + p.offset, p.bytes);
	if (!err)
		err = gmem_fill(l->r->gmem, p.gpa + p.bytes, 0, p.end - p.gpa - p.bytes);
	return err;
}

static int load_kernel(struct multiboot *mb)
{
	const struct boot_image *image = &mb->l->r->kernel;
	size_t header = find_header(image->data, image->bytes);
	uint32_t flags = load_u32(image->data + header + 4);

	if (flags & WANT_UNKNOWN)
		return load_refuse(mb->l, -ENOEXEC,
				   "wants more than multiboot has here (header flags %#x)", flags);
	return flags & HAS_ADDRESSES ? load_by_addresses(mb, header) : load_elf(mb);
}

/* --- what it is handed ------------------------------------------------------------ */

/* Copies into the area below EBDA_GPA and returns the address; 0: no room. */
static uint32_t put(struct multiboot *mb, const void *p, size_t bytes)
{
	uint64_t gpa = mb->next;

	if (!load_within(gpa, bytes, EBDA_GPA) || gmem_write(mb->l->r->gmem, gpa, p, bytes))
		return 0;
	mb->next = ALIGN_UP(gpa + bytes, (uint64_t)8);
	return (uint32_t)gpa;
}

static uint32_t put_string(struct multiboot *mb, const char *s)
{
	return put(mb, s ? s : "", s ? strlen(s) + 1 : 1);
}

static int load_module(struct multiboot *mb, const struct boot_image *image, struct mb_module *mod)
{
	uint64_t gpa = ALIGN_UP(mb->high, PAGE_SIZE);

	if (!load_within(gpa, image->bytes, mb->l->low_end))
		return load_refuse(mb->l, -ENOSPC,
				   "module %s of %zu MiB does not fit: RAM below 4 GiB ends at "
				   "%llu MiB; give the machine more memory",
				   image->name ? image->name : "", (image->bytes >> 20) + 1,
				   (unsigned long long)(mb->l->low_end >> 20));
	mb->high = gpa + image->bytes;
	*mod = (struct mb_module){ .start = (uint32_t)gpa,
				   .end = (uint32_t)mb->high,
				   .string = put_string(mb, image->name) };
	return gmem_write(mb->l->r->gmem, gpa, image->data, image->bytes);
}

static int load_modules(struct multiboot *mb)
{
	const struct boot_request *r = mb->l->r;
	struct mb_module mods[MODULES_TOTAL];
	unsigned n = 0;
	int err = 0;

	if (r->initrd.data)
		err = load_module(mb, &r->initrd, &mods[n++]);
	for (unsigned i = 0; i < MIN(r->nr_modules, BOOT_MODULES_MAX) && !err; i++)
		err = load_module(mb, &r->module[i], &mods[n++]);
	if (err || !n)
		return err;
	mb->info.flags |= INFO_MODULES;
	mb->info.mods_count = n;
	mb->info.mods_addr = put(mb, mods, n * sizeof(mods[0]));
	return mb->info.mods_addr ? 0 : -ENOSPC;
}

static int write_map(struct multiboot *mb)
{
	struct e820_entry map[E820_MAX];
	unsigned n = e820_build(mb->l->r->gmem, map);
	uint32_t first = 0;

	mb->next = ALIGN_UP(mb->next, (uint64_t)8);
	for (unsigned i = 0; i < n; i++) {
		struct mb_map_entry e = { .size = sizeof(e) - sizeof(e.size),
					  .base = map[i].gpa,
					  .bytes = map[i].bytes,
					  .type = map[i].type };
		uint64_t gpa = mb->next;

		if (!put(mb, &e, sizeof(e)))
			return -ENOSPC;
		mb->next = gpa + sizeof(e); /* entries touch each other */
		first = first ? first : (uint32_t)gpa;
	}
	mb->next = ALIGN_UP(mb->next, (uint64_t)8);
	mb->info.flags |= INFO_MAP | INFO_MEMORY;
	mb->info.mmap_addr = first;
	mb->info.mmap_length = n * (uint32_t)sizeof(struct mb_map_entry);
	mb->info.mem_lower = EBDA_GPA >> 10;
	mb->info.mem_upper = (uint32_t)((mb->l->low_end - LOAD_BASE) >> 10);
	return 0;
}

static int write_info(struct multiboot *mb)
{
	int err = write_map(mb);

	if (!err)
		err = load_modules(mb);
	if (err)
		return err;
	mb->info.flags |= INFO_CMDLINE | INFO_LOADER_NAME;
	mb->info.boot_loader_name = put_string(mb, "Alcazar");
	mb->info.cmdline = put_string(mb, mb->l->r->cmdline);
	if (!mb->info.cmdline)
		return load_refuse(mb->l, -EINVAL, "the command line is too long");
	return gmem_write(mb->l->r->gmem, LOADER_GPA, &mb->info, sizeof(mb->info));
}

/* 3.2 */
static void enter_32(struct loader *l, uint64_t entry)
{
	static const struct segment code = { 0x10, 0xc09b, UINT32_MAX, 0 };
	static const struct segment data = { 0x18, 0xc093, UINT32_MAX, 0 };
	struct cpu_state *s = l->bsp;

	memset(s->gpr, 0, sizeof(s->gpr));
	s->gpr[RAX] = LOADER_MAGIC;
	s->gpr[RBX] = LOADER_GPA;
	s->rip = entry;
	s->rflags = RFLAGS_ONE;
	for (unsigned i = 0; i < SEG_COUNT; i++)
		s->seg[i] = data;
	s->seg[SEG_CS] = code;
	s->cr0 = CR0_PE | CR0_ET;
	s->cr3 = 0;
	s->cr4 = 0;
	s->efer = 0;
}

int multiboot_load(struct loader *l)
{
	struct multiboot mb = { .l = l, .next = LOADER_GPA + sizeof(struct mb_info) };
	int err = load_kernel(&mb);

	if (!err)
		err = write_info(&mb);
	if (!err)
		enter_32(l, mb.entry);
	return err;
}
