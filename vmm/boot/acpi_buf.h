/*
 * acpi_buf.h - the buffer in which tables grow. Leaf header but for util.h.
 *
 * What does not fit is dropped and remembered: writers check once, at the end.
 */
#ifndef VMM_BOOT_ACPI_BUF_H
#define VMM_BOOT_ACPI_BUF_H

#include "core/util.h"

struct acpi_buf {
	uint8_t *data;
	size_t used, size;
	uint64_t gpa; /* of data[0] */
	bool full;
};

static inline void buf_bytes(struct acpi_buf *b, const void *p, size_t bytes)
{
	if (bytes > b->size - b->used) {
		b->full = true;
		return;
	}
	memcpy(b->data + b->used, p, bytes);
	b->used += bytes;
}

static inline void buf_u8(struct acpi_buf *b, uint8_t v)
{
	buf_bytes(b, &v, sizeof(v));
}

static inline void buf_u16(struct acpi_buf *b, uint16_t v)
{
	buf_bytes(b, &v, sizeof(v));
}

static inline void buf_u32(struct acpi_buf *b, uint32_t v)
{
	buf_bytes(b, &v, sizeof(v));
}

static inline void buf_u64(struct acpi_buf *b, uint64_t v)
{
	buf_bytes(b, &v, sizeof(v));
}

/* The body of the DSDT: definition blocks in AML, without the table's header. */
void acpi_write_dsdt(struct acpi_buf *b, uint64_t ram_end);

#endif
