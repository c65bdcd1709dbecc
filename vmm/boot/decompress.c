/*
 * decompress.c - gzip, xz, lz4 (the legacy frame, which Linux uses) and zstd.
 *
 * The streams are hostile: the libraries are used only through entry points that
 * check both buffers' bounds.
 */
#include "boot/decompress.h"

#include <errno.h>
#include <lz4.h>
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

#define LZ4_LEGACY_MAGIC 0x184c2102u
#define LZ4_BLOCK_BYTES  MIB(8) /* a legacy block unpacks to at most this */

#define XZ_MEMORY_MAX MIB(128) /* kernels are packed with dictionaries up to 32 MiB */

static int unpack_gzip(const uint8_t *in, size_t in_bytes, uint8_t *out, size_t out_bytes)
{
	z_stream z = { .next_in = (uint8_t *)in,
		       .avail_in = (uInt)in_bytes,
		       .next_out = out,
		       .avail_out = (uInt)out_bytes };
	int status;

	if (in_bytes > UINT32_MAX || out_bytes > UINT32_MAX)
		return -EINVAL;
	if (inflateInit2(&z, 16 + MAX_WBITS) != Z_OK) /* 16: a gzip header */
		return -ENOMEM;
	status = inflate(&z, Z_FINISH);
	inflateEnd(&z);
	return status == Z_STREAM_END && z.avail_out == 0 ? 0 : -EINVAL;
}

static int unpack_xz(const uint8_t *in, size_t in_bytes, uint8_t *out, size_t out_bytes)
{
	uint64_t memory = XZ_MEMORY_MAX;
	size_t in_pos = 0, out_pos = 0;
	lzma_ret status = lzma_stream_buffer_decode(&memory, 0, NULL, in, &in_pos, in_bytes, out,
						    &out_pos, out_bytes);

	if (status == LZMA_MEM_ERROR || status == LZMA_MEMLIMIT_ERROR)
		return -ENOMEM;
	return status == LZMA_OK && out_pos == out_bytes ? 0 : -EINVAL;
}

static int unpack_lz4(const uint8_t *in, size_t in_bytes, uint8_t *out, size_t out_bytes)
{
	size_t in_pos = 4, out_pos = 0;

	while (in_bytes - in_pos >= 4) {
		uint32_t block = load_u32(in + in_pos);
		int got;

		in_pos += 4;
		if (block == LZ4_LEGACY_MAGIC) /* streams may follow each other */
			continue;
		if (block > in_bytes - in_pos || block > LZ4_COMPRESSBOUND(LZ4_BLOCK_BYTES))
			return -EINVAL;
		got = LZ4_decompress_safe((const char *)in + in_pos, (char *)out + out_pos,
					  (int)block,
					  (int)MIN(out_bytes - out_pos, LZ4_BLOCK_BYTES));
		if (got < 0)
			return -EINVAL;
		in_pos += block;
		out_pos += (size_t)got;
	}
	return in_pos == in_bytes && out_pos == out_bytes ? 0 : -EINVAL;
}

static int unpack_zstd(const uint8_t *in, size_t in_bytes, uint8_t *out, size_t out_bytes)
{
	return ZSTD_decompress(out, out_bytes, in, in_bytes) == out_bytes ? 0 : -EINVAL;
}

static const struct {
	const char *name;
	uint8_t magic[6];
	uint8_t magic_bytes;
	int (*unpack)(const uint8_t *in, size_t in_bytes, uint8_t *out, size_t out_bytes);
} formats[] = {
	{ "gzip", { 0x1f, 0x8b, 0x08 }, 3, unpack_gzip },
	{ "xz", { 0xfd, '7', 'z', 'X', 'Z', 0 }, 6, unpack_xz },
	{ "lz4", { 0x02, 0x21, 0x4c, 0x18 }, 4, unpack_lz4 },
	{ "zstd", { 0x28, 0xb5, 0x2f, 0xfd }, 4, unpack_zstd },
};

static int find_format(const uint8_t *in, size_t in_bytes)
{
	for (unsigned i = 0; i < ARRAY_SIZE(formats); i++)
		if (in_bytes >= formats[i].magic_bytes &&
		    !memcmp(in, formats[i].magic, formats[i].magic_bytes))
			return (int)i;
	return -1;
}

const char *decompress_format(const uint8_t *in, size_t in_bytes)
{
	int f = find_format(in, in_bytes);

	return f < 0 ? NULL : formats[f].name;
}

int decompress(const uint8_t *in, size_t in_bytes, uint8_t *out, size_t out_bytes)
{
	int f = find_format(in, in_bytes);

	return f < 0 ? -ENOTSUP : formats[f].unpack(in, in_bytes, out, out_bytes);
}
