/*
 * decompress.h - unpacks what Linux kernels are packed with. Leaf header.
 */
#ifndef VMM_BOOT_DECOMPRESS_H
#define VMM_BOOT_DECOMPRESS_H

#include "core/util.h"

/* "gzip", "xz", "lz4", "zstd", by the magic number at @in; NULL: something else. */
const char *decompress_format(const uint8_t *in, size_t in_bytes);

/*
 * Unpacks @in, which holds nothing but the packed stream, to exactly @out_bytes.
 * -EINVAL: damaged, or another size; -ENOTSUP: no known format; -ENOMEM. On error
 * @out holds garbage.
 */
int decompress(const uint8_t *in, size_t in_bytes, uint8_t *out, size_t out_bytes);

#endif
