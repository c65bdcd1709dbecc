/*
 * elf.c - loads ELF executables, 32- and 64-bit, into guest RAM.
 *
 * Every number in the file is hostile: it is used only after a check against the
 * file's size or the guest's RAM.
 */
#include "boot/load.h"

#include <errno.h>

enum { CLASS_32 = 1, CLASS_64 = 2, DATA_LSB = 1, TYPE_EXEC = 2, TYPE_DYN = 3 };
enum { MACHINE_386 = 3, MACHINE_X86_64 = 62, PT_LOAD = 1 };

/* File offsets of header fields; System V ABI, chapters 4 and 5. */
#define EI_CLASS  4
#define EI_DATA   5
#define E_TYPE    16
#define E_MACHINE 18

struct program_headers {
	uint64_t offset;
	unsigned count, size;
};

bool elf_recognise(const uint8_t *data, size_t bytes)
{
	return bytes >= 52 && !memcmp(data, "\177ELF", 4);
}

static int read_header(struct loader *l, const uint8_t *data, size_t bytes, struct elf *e,
		       struct program_headers *ph)
{
	uint16_t type = load_u16(data + E_TYPE), machine = load_u16(data + E_MACHINE);

	e->is_64 = data[EI_CLASS] == CLASS_64;
	if ((!e->is_64 && data[EI_CLASS] != CLASS_32) || data[EI_DATA] != DATA_LSB ||
	    (type != TYPE_EXEC && type != TYPE_DYN) ||
	    machine != (e->is_64 ? MACHINE_X86_64 : MACHINE_386) || (e->is_64 && bytes < 64))
		return load_refuse(l, -ENOEXEC, "an ELF file, but no x86 executable");

	if (e->is_64) {
		e->entry = load_u64(data + 24);
		ph->offset = load_u64(data + 32);
		ph->size = load_u16(data + 54);
		ph->count = load_u16(data + 56);
	} else {
		e->entry = load_u32(data + 24);
		ph->offset = load_u32(data + 28);
		ph->size = load_u16(data + 42);
		ph->count = load_u16(data + 44);
	}
	if (ph->size < (e->is_64 ? 56u : 32u) ||
	    !load_within(ph->offset, (uint64_t)ph->size * ph->count, bytes))
		return load_refuse(l, -ENOEXEC,
				   "damaged or truncated: no room for ELF headers: fetch it again");
	return 0;
}

static struct elf_segment read_segment(const uint8_t *p, bool is_64)
{
	if (is_64)
		return (struct elf_segment){ .offset = load_u64(p + 8),
					     .vaddr = load_u64(p + 16),
					     .gpa = load_u64(p + 24),
					     .file_bytes = load_u64(p + 32),
					     .mem_bytes = load_u64(p + 40) };
	return (struct elf_segment){ .offset = load_u32(p + 4),
				     .vaddr = load_u32(p + 8),
				     .gpa = load_u32(p + 12),
				     .file_bytes = load_u32(p + 16),
				     .mem_bytes = load_u32(p + 20) };
}

static int check_segment(struct loader *l, const struct elf *e, const struct elf_segment *s,
			 size_t bytes)
{
	if (!load_within(s->offset, s->file_bytes, bytes) || s->file_bytes > s->mem_bytes)
		return load_refuse(l, -ENOEXEC,
				   "damaged or truncated: a segment is incomplete: fetch it again");
	if (s->gpa < LOAD_BASE)
		return load_refuse(l, -ENOEXEC, "wants to be loaded at %#llx, below 1 MiB",
				   (unsigned long long)s->gpa);
	if (!load_within(s->gpa, s->mem_bytes, l->low_end))
		return load_refuse(l, -ENOSPC,
				   "does not fit: needs %llu MiB at %#llx, RAM ends at %llu MiB",
				   (unsigned long long)(s->mem_bytes >> 20),
				   (unsigned long long)s->gpa,
				   (unsigned long long)(l->low_end >> 20));
	for (unsigned i = 0; i < e->nr_segments; i++) {
		const struct elf_segment *o = &e->segment[i];

		if (s->gpa < o->gpa + o->mem_bytes && o->gpa < s->gpa + s->mem_bytes)
			return load_refuse(l, -ENOEXEC, "damaged: segments overlap");
	}
	return 0;
}

static void insert_segment(struct elf *e, struct elf_segment s)
{
	unsigned i = e->nr_segments++;

	for (; i > 0 && e->segment[i - 1].gpa > s.gpa; i--)
		e->segment[i] = e->segment[i - 1];
	e->segment[i] = s;
}

/* Entries are virtual or, in Linux' own executable, already physical addresses. */
static int find_entry(struct loader *l, struct elf *e)
{
	for (unsigned i = 0; i < e->nr_segments; i++) {
		const struct elf_segment *s = &e->segment[i];

		if (e->entry - s->gpa < s->mem_bytes)
			return 0;
	}
	for (unsigned i = 0; i < e->nr_segments; i++) {
		const struct elf_segment *s = &e->segment[i];

		if (e->entry - s->vaddr < s->mem_bytes) {
			e->entry = e->entry - s->vaddr + s->gpa;
			return 0;
		}
	}
	return load_refuse(l, -ENOEXEC, "damaged: its entry %#llx is in none of its segments",
			   (unsigned long long)e->entry);
}

int elf_parse(struct loader *l, const uint8_t *data, size_t bytes, struct elf *e)
{
	struct program_headers ph = { 0 };
	int err;

	*e = (struct elf){ 0 };
	err = read_header(l, data, bytes, e, &ph);
	for (unsigned i = 0; i < ph.count && !err; i++) {
		const uint8_t *p = data + ph.offset + (size_t)i * ph.size;
		struct elf_segment s;

		if (load_u32(p) != PT_LOAD)
			continue;
		s = read_segment(p, e->is_64);
		if (!s.mem_bytes)
			continue;
		if (e->nr_segments == ELF_SEGMENTS_MAX)
			return load_refuse(l, -ENOEXEC, "more than %d segments", ELF_SEGMENTS_MAX);
		err = check_segment(l, e, &s, bytes);
		if (err)
			break;
		insert_segment(e, s);
	}
	if (!err)
		err = find_entry(l, e);
	if (err)
		return err;
	e->low = e->segment[0].gpa;
	e->high = e->segment[e->nr_segments - 1].gpa + e->segment[e->nr_segments - 1].mem_bytes;
	return 0;
}

int elf_load(struct loader *l, const struct elf *e, const uint8_t *data)
{
	const struct gmem *m = l->r->gmem;
	int err = 0;

	for (unsigned i = 0; i < e->nr_segments && !err; i++) {
		const struct elf_segment *s = &e->segment[i];

		err = gmem_write(m, s->gpa, data + s->offset, s->file_bytes);
		if (!err)
			err = gmem_fill(m, s->gpa + s->file_bytes, 0, s->mem_bytes - s->file_bytes);
	}
	return err;
}

/*
 * A segment that moves down must not overwrite one that has yet to move. With
 * addresses and offsets in the same order none does: each ends below the next
 * one's address, and that is not above where its bytes still lie.
 */
bool elf_can_settle(const struct elf *e, uint64_t base)
{
	uint64_t last_offset = 0;

	for (unsigned i = 0; i < e->nr_segments; i++) {
		const struct elf_segment *s = &e->segment[i];

		if (s->gpa < base || s->gpa - base > s->offset || s->offset < last_offset)
			return false;
		last_offset = s->offset;
	}
	return true;
}

int elf_settle(struct loader *l, const struct elf *e, uint8_t *file, uint64_t base, uint64_t bytes)
{
	uint64_t end = MAX(base + bytes, e->high), at = base;
	int err = 0;

	for (unsigned i = 0; i < e->nr_segments; i++) {
		const struct elf_segment *s = &e->segment[i];

		memmove(file + (s->gpa - base), file + s->offset, s->file_bytes);
	}
	for (unsigned i = 0; i < e->nr_segments && !err; i++) {
		const struct elf_segment *s = &e->segment[i];

		err = gmem_fill(l->r->gmem, at, 0, s->gpa - at);
		at = s->gpa + s->file_bytes;
	}
	return err ? err : gmem_fill(l->r->gmem, at, 0, end - at);
}
