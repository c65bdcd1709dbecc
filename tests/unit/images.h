/*
 * images.h - machines and kernel images for tests of the loaders.
 *
 * Images are what linkers and kernel builds make, byte by byte, so that a test can
 * bend each of them. image_free() and machine_free() give everything back.
 */
#ifndef TESTS_UNIT_IMAGES_H
#define TESTS_UNIT_IMAGES_H

#include "boot/boot.h"
#include "boot/layout.h"

#include <lz4.h>
#include <lzma.h>
#include <stdlib.h>
#include <zlib.h>
#include <zstd.h>

/* --- machines -------------------------------------------------------------------- */

struct machine {
	struct topology topo;
	struct gmem gmem;
};

/* RAM below 4 GiB only: 0, or -1. */
static inline int machine_make(struct machine *m, unsigned vcpus, unsigned nodes, uint64_t bytes)
{
	struct topo_request r = { .vcpus = vcpus, .nodes = nodes };
	struct layout l;
	char why[160];

	memset(&m->gmem, 0, sizeof(m->gmem));
	for (unsigned n = 0; n < nodes; n++)
		r.node_memory_bytes[n] = bytes / nodes & PAGE_MASK;
	if (topo_build(&m->topo, &r, why, sizeof(why)))
		return -1;
	layout_ram(&l, &m->topo);
	for (unsigned i = 0; i < l.nr_ranges; i++) {
		const struct layout_range *range = &l.range[i];
		uint8_t *ram = calloc(1, range->bytes);

		if (!ram || gmem_add(&m->gmem, range->gpa, range->bytes, ram, range->node))
			return -1;
	}
	return 0;
}

static inline void machine_free(struct machine *m)
{
	for (unsigned i = 0; i < m->gmem.nr_slots; i++)
		free(m->gmem.slot[i].hva);
	m->gmem.nr_slots = 0;
}

/* --- bytes ------------------------------------------------------------------------- */

struct image {
	uint8_t *data;
	size_t bytes;
};

static inline struct image image_make(size_t bytes)
{
	return (struct image){ .data = calloc(1, bytes ? bytes : 1), .bytes = bytes };
}

static inline void image_free(struct image *i)
{
	free(i->data);
	*i = (struct image){ 0 };
}

/* What a test finds again at its place: different at every offset, compressible. */
static inline uint8_t pattern(uint64_t offset)
{
	return (uint8_t)(offset >> 12 ^ (offset & 0x3f) ^ 0x5a);
}

/* --- ELF ----------------------------------------------------------------------------- */

struct segment_spec {
	uint64_t offset, vaddr, gpa, file_bytes, mem_bytes;
};

static inline struct image image_elf64(const struct segment_spec *s, unsigned n, uint64_t entry)
{
	size_t end = 64 + 56 * n;
	struct image i;

	for (unsigned k = 0; k < n; k++)
		end = MAX(end, s[k].offset + s[k].file_bytes);
	i = image_make(end);
	for (size_t at = 64 + 56 * n; at < end; at++)
		i.data[at] = pattern(at);
	memcpy(i.data, "\177ELF\2\1\1", 7);
	store_u16(i.data + 16, 2);
	store_u16(i.data + 18, 62);
	store_u64(i.data + 24, entry);
	store_u64(i.data + 32, 64);
	store_u16(i.data + 54, 56);
	store_u16(i.data + 56, (uint16_t)n);
	for (unsigned k = 0; k < n; k++) {
		uint8_t *p = i.data + 64 + 56 * k;

		store_u32(p, 1);
		store_u64(p + 8, s[k].offset);
		store_u64(p + 16, s[k].vaddr);
		store_u64(p + 24, s[k].gpa);
		store_u64(p + 32, s[k].file_bytes);
		store_u64(p + 40, s[k].mem_bytes);
	}
	return i;
}

static inline struct image image_elf32(const struct segment_spec *s, unsigned n, uint32_t entry)
{
	size_t end = 52 + 32 * n;
	struct image i;

	for (unsigned k = 0; k < n; k++)
		end = MAX(end, s[k].offset + s[k].file_bytes);
	i = image_make(end);
	for (size_t at = 52 + 32 * n; at < end; at++)
		i.data[at] = pattern(at);
	memcpy(i.data, "\177ELF\1\1\1", 7);
	store_u16(i.data + 16, 2);
	store_u16(i.data + 18, 3);
	store_u32(i.data + 24, entry);
	store_u32(i.data + 28, 52);
	store_u16(i.data + 42, 32);
	store_u16(i.data + 44, (uint16_t)n);
	for (unsigned k = 0; k < n; k++) {
		uint8_t *p = i.data + 52 + 32 * k;

		store_u32(p, 1);
		store_u32(p + 4, (uint32_t)s[k].offset);
		store_u32(p + 8, (uint32_t)s[k].vaddr);
		store_u32(p + 12, (uint32_t)s[k].gpa);
		store_u32(p + 16, (uint32_t)s[k].file_bytes);
		store_u32(p + 20, (uint32_t)s[k].mem_bytes);
	}
	return i;
}

/* A multiboot header, with as many words as given; the checksum is made here. */
static inline void put_multiboot_header(struct image *i, size_t offset, uint32_t flags,
					const uint32_t *addresses)
{
	store_u32(i->data + offset, 0x1badb002);
	store_u32(i->data + offset + 4, flags);
	store_u32(i->data + offset + 8, -(0x1badb002 + flags));
	for (unsigned k = 0; addresses && k < 5; k++)
		store_u32(i->data + offset + 12 + 4 * k, addresses[k]);
}

/* --- packing --------------------------------------------------------------------------- */

static inline struct image pack_gzip(struct image in)
{
	struct image out = image_make(compressBound(in.bytes) + 64);
	z_stream z = { .next_in = in.data,
		       .avail_in = (uInt)in.bytes,
		       .next_out = out.data,
		       .avail_out = (uInt)out.bytes };

	deflateInit2(&z, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY);
	deflate(&z, Z_FINISH);
	out.bytes = z.total_out;
	deflateEnd(&z);
	return out;
}

/* As the kernel's build does: x86 filter, CRC32. */
static inline struct image pack_xz(struct image in)
{
	struct image out = image_make(lzma_stream_buffer_bound(in.bytes));
	lzma_options_lzma options;
	lzma_filter filters[] = { { LZMA_FILTER_X86, NULL },
				  { LZMA_FILTER_LZMA2, &options },
				  { LZMA_VLI_UNKNOWN, NULL } };
	size_t used = 0;

	lzma_lzma_preset(&options, 1);
	if (lzma_stream_buffer_encode(filters, LZMA_CHECK_CRC32, NULL, in.data, in.bytes, out.data,
				      &used, out.bytes) != LZMA_OK)
		used = 0;
	out.bytes = used;
	return out;
}

/* The legacy frame: blocks of 8 MiB. */
static inline struct image pack_lz4(struct image in)
{
	const size_t block = MIB(8);
	size_t blocks = (in.bytes + block - 1) / block;
	struct image out = image_make(4 + blocks * (4 + (size_t)LZ4_compressBound((int)block)));
	size_t used = 4;

	store_u32(out.data, 0x184c2102);
	for (size_t at = 0; at < in.bytes; at += block) {
		int bytes = (int)MIN(block, in.bytes - at);
		int got = LZ4_compress_default((char *)in.data + at, (char *)out.data + used + 4,
					       bytes, (int)(out.bytes - used - 4));

		store_u32(out.data + used, (uint32_t)got);
		used += 4 + (size_t)got;
	}
	out.bytes = used;
	return out;
}

static inline struct image pack_zstd(struct image in)
{
	struct image out = image_make(ZSTD_compressBound(in.bytes));

	out.bytes = ZSTD_compress(out.data, out.bytes, in.data, in.bytes, 3);
	return out;
}

static const struct packer {
	const char *name;
	struct image (*pack)(struct image in);
} packers[] = {
	{ "gzip", pack_gzip }, { "xz", pack_xz }, { "lz4", pack_lz4 }, { "zstd", pack_zstd }
};

/* --- bzImage ------------------------------------------------------------------------------ */

#define BZIMAGE_PREF   MIB(16)
#define BZIMAGE_SECTS  7
#define BZIMAGE_STUB   0x400 /* bytes of "protected-mode code" before the payload */
#define BZIMAGE_SETUP  ((BZIMAGE_SECTS + 1) * 512)
#define BZIMAGE_CMDMAX 255

/* @payload is packed already; all but gzip get the size behind it, as mkpiggy does. */
static inline struct image image_bzimage(struct image payload, size_t unpacked, bool is_gzip,
					 uint32_t init_size)
{
	size_t bytes = payload.bytes + (is_gzip ? 0 : 4);
	struct image i = image_make(BZIMAGE_SETUP + BZIMAGE_STUB + bytes + 16);
	uint8_t *h = i.data;

	memset(h + BZIMAGE_SETUP, 0xcc, BZIMAGE_STUB);
	h[0x1f1] = BZIMAGE_SECTS;
	store_u16(h + 0x1fe, 0xaa55);
	h[0x200] = 0xeb;
	h[0x201] = 0x6a;
	memcpy(h + 0x202, "HdrS", 4);
	store_u16(h + 0x206, 0x020f);
	h[0x211] = 1;
	store_u32(h + 0x22c, 0x7fffffff);
	store_u32(h + 0x230, 0x200000);
	store_u16(h + 0x236, 0x7f);
	store_u32(h + 0x238, BZIMAGE_CMDMAX);
	store_u32(h + 0x248, BZIMAGE_STUB);
	store_u32(h + 0x24c, (uint32_t)bytes);
	store_u64(h + 0x258, BZIMAGE_PREF);
	store_u32(h + 0x260, init_size);
	memcpy(h + BZIMAGE_SETUP + BZIMAGE_STUB, payload.data, payload.bytes);
	if (!is_gzip)
		store_u32(h + BZIMAGE_SETUP + BZIMAGE_STUB + payload.bytes, (uint32_t)unpacked);
	return i;
}

static inline struct image image_packed_bzimage(const struct packer *p, struct image elf,
						uint32_t init_size)
{
	struct image payload = p->pack(elf);
	struct image i = image_bzimage(payload, elf.bytes, p->pack == pack_gzip, init_size);

	image_free(&payload);
	return i;
}

/*
 * Segments as Debian's kernels have them: text and data as far from their file
 * offsets as from each other, per-CPU data and what follows moved down.
 */
static const struct segment_spec vmlinux_segments[] = {
	{ 0x200000, 0xffffffff81000000, 0x1000000, 0x180000, 0x180000 },
	{ 0x400000, 0xffffffff81200000, 0x1200000, 0x9a000, 0x9a000 },
	{ 0x600000, 0, 0x129a000, 0x34000, 0x34000 },
	{ 0x634000, 0xffffffff812ce000, 0x12ce000, 0x90000, 0x190000 },
};

static inline struct image image_vmlinux(void)
{
	return image_elf64(vmlinux_segments, ARRAY_SIZE(vmlinux_segments), 0x1000000);
}

#endif
