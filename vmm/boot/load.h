/*
 * load.h - what the loaders share: messages, the guest's memory map, ELF files.
 */
#ifndef VMM_BOOT_LOAD_H
#define VMM_BOOT_LOAD_H

#include "boot/boot.h"

/*
 * The first MiB is the firmware's, and whatever the loaders leave there for the
 * guest to pick up: images are loaded above it.
 */
#define LOAD_BASE     MIB(1)
#define BDA_GPA       0x400   /* BIOS data area */
#define LOADER_GPA    0x10000 /* boot protocol structures: up to EBDA_GPA */
#define EBDA_GPA      0x9fc00
#define EBDA_END      0xa0000
#define FIRMWARE_GPA  0xe0000 /* ACPI tables, RSDP first: up to LOAD_BASE */
#define FIRMWARE_SIZE (LOAD_BASE - FIRMWARE_GPA)

struct loader {
	const struct boot_request *r;
	struct cpu_state *bsp;
	uint64_t low_end; /* RAM is whole from 0 to here; at most 3 GiB */
	char *why;
	size_t why_bytes;
};

/* Writes the user's line and returns @err. */
int load_refuse(struct loader *l, int err, const char *fmt, ...) __printf(3, 4);

/* [@offset, @offset + @bytes) lies within @total. */
static inline bool load_within(uint64_t offset, uint64_t bytes, uint64_t total)
{
	return offset <= total && bytes <= total - offset;
}

/*
 * The highest page-aligned place for @bytes below @limit and low_end that ends
 * above @floor's end; 0: none.
 */
uint64_t load_place_high(const struct loader *l, uint64_t bytes, uint64_t floor, uint64_t limit);

/* --- e820.c ------------------------------------------------------------ */

enum e820_type { E820_RAM = 1, E820_RESERVED = 2, E820_ACPI = 3 };

struct e820_entry {
	uint64_t gpa;
	uint64_t bytes;
	uint32_t type;
};

#define E820_MAX (GMEM_SLOTS_MAX + 4)

/* Ascending, adjacent RAM joined; returns the number of entries. */
unsigned e820_build(const struct gmem *m, struct e820_entry map[E820_MAX]);

/* --- elf.c ---------------------------------------------------------------------- */

#define ELF_SEGMENTS_MAX 32

struct elf_segment {
	uint64_t offset, file_bytes; /* inside the file */
	uint64_t gpa, vaddr, mem_bytes;
};

struct elf {
	bool is_64;
	uint64_t entry; /* GPA */
	uint64_t low, high;
	struct elf_segment segment[ELF_SEGMENTS_MAX]; /* ascending by gpa, disjoint, none empty */
	unsigned nr_segments;
};

bool elf_recognise(const uint8_t *data, size_t bytes);

/*
 * Reads the headers of an x86 executable. Its segments lie in the file and in RAM
 * above LOAD_BASE, and the entry in one of them. -ENOEXEC, -ENOSPC.
 */
int elf_parse(struct loader *l, const uint8_t *data, size_t bytes, struct elf *e);

/* Copies the segments to their places and clears what the file does not fill. */
int elf_load(struct loader *l, const struct elf *e, const uint8_t *data);

/*
 * The whole file of @bytes lies in guest RAM at @base, seen by the host at @file.
 * Can its segments move to their places one after the other, without a copy?
 */
bool elf_can_settle(const struct elf *e, uint64_t base);
/* Then do, and clear everything around them. */
int elf_settle(struct loader *l, const struct elf *e, uint8_t *file, uint64_t base, uint64_t bytes);

/* --- the protocols ---------------------------------------------------------------- */

bool linux_recognise(const uint8_t *data, size_t bytes);
int linux_load_bzimage(struct loader *l);
int linux_load_elf(struct loader *l);

bool multiboot_recognise(const uint8_t *data, size_t bytes);
int multiboot_load(struct loader *l);

#endif
