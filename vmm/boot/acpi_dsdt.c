/*
 * acpi_dsdt.c - the DSDT: the legacy devices and soft-off, in AML.
 *
 * Reference: ACPI 6.5, chapter 20 (AML) and 6.4 (resource descriptors).
 */
#include "boot/acpi_buf.h"

enum aml_op {
	AML_ZERO = 0x00,
	AML_ONE = 0x01,
	AML_NAME = 0x08,
	AML_BYTE = 0x0a,
	AML_WORD = 0x0b,
	AML_DWORD = 0x0c,
	AML_SCOPE = 0x10,
	AML_BUFFER = 0x11,
	AML_PACKAGE = 0x12,
	AML_EXT = 0x5b, /* the next byte is the opcode */
	AML_EXT_DEVICE = 0x82,
};

enum resource {
	RES_IRQ = 0x22, /* edge, active high, exclusive: two bytes of mask */
	RES_IO = 0x47,
	RES_END = 0x79,
};

#define IO_DECODE_16 1

/* --- the writer --------------------------------------------------------------- */

/* A package's length precedes its body and counts itself, in one to four bytes. */
static size_t package_begin(struct acpi_buf *b)
{
	return b->used;
}

static void package_end(struct acpi_buf *b, size_t start)
{
	size_t body = b->used - start, bytes = 1, total;
	uint8_t length[3];

	if (body + 1 > 0x3f)
		bytes = body + 2 > 0xfff ? 3 : 2;
	total = body + bytes;
	if (bytes == 1) {
		length[0] = (uint8_t)total;
	} else {
		length[0] = (uint8_t)((bytes - 1) << 6 | (total & 0xf));
		length[1] = (uint8_t)(total >> 4);
		length[2] = (uint8_t)(total >> 12);
	}
	if (bytes > b->size - b->used) {
		b->full = true;
		return;
	}
	memmove(b->data + start + bytes, b->data + start, body);
	memcpy(b->data + start, length, bytes);
	b->used += bytes;
}

static void aml_integer(struct acpi_buf *b, uint32_t v)
{
	if (v <= 1) {
		buf_u8(b, v ? AML_ONE : AML_ZERO);
	} else if (v <= UINT8_MAX) {
		buf_u8(b, AML_BYTE);
		buf_u8(b, (uint8_t)v);
	} else if (v <= UINT16_MAX) {
		buf_u8(b, AML_WORD);
		buf_u16(b, (uint16_t)v);
	} else {
		buf_u8(b, AML_DWORD);
		buf_u32(b, v);
	}
}

/* @name: four characters */
static void aml_name(struct acpi_buf *b, const char *name)
{
	buf_u8(b, AML_NAME);
	buf_bytes(b, name, 4);
}

/* "PNP0501" as three letters of five bits and four hexadecimal digits, big-endian. */
static uint32_t eisa_id(const char *s)
{
	uint32_t id = 0;

	for (unsigned i = 0; i < 3; i++)
		id = id << 5 | (uint32_t)(s[i] - '@');
	for (unsigned i = 3; i < 7; i++)
		id = id << 4 | (uint32_t)(s[i] <= '9' ? s[i] - '0' : s[i] - 'A' + 10);
	return __builtin_bswap32(id);
}

/* --- devices --------------------------------------------------------------------- */

struct io_range {
	uint16_t port;
	uint8_t bytes;
};

#define RANGES_MAX 3

struct legacy_device {
	const char *name;
	const char *hid;
	struct io_range io[RANGES_MAX]; /* unused ones have no bytes */
	int irq;
};

static const struct legacy_device devices[] = {
	{ "PIC_", "PNP0000", { { 0x20, 2 }, { 0xa0, 2 }, { 0x4d0, 2 } }, 2 },
	{ "TIMR", "PNP0100", { { 0x40, 4 } }, 0 },
	{ "RTC_", "PNP0B00", { { 0x70, 2 } }, 8 },
	{ "COM1", "PNP0501", { { 0x3f8, 8 } }, 4 },
};

static void write_resources(struct acpi_buf *b, const struct legacy_device *d)
{
	unsigned ranges = 0, bytes;
	size_t start;

	while (ranges < RANGES_MAX && d->io[ranges].bytes)
		ranges++;
	bytes = ranges * 8 + 3 + 2;

	aml_name(b, "_CRS");
	buf_u8(b, AML_BUFFER);
	start = package_begin(b);
	aml_integer(b, bytes);
	for (unsigned i = 0; i < ranges; i++) {
		buf_u8(b, RES_IO);
		buf_u8(b, IO_DECODE_16);
		buf_u16(b, d->io[i].port); /* from here */
		buf_u16(b, d->io[i].port); /* to here */
		buf_u8(b, 1);              /* alignment */
		buf_u8(b, d->io[i].bytes);
	}
	buf_u8(b, RES_IRQ);
	buf_u16(b, (uint16_t)BIT(d->irq));
	buf_u8(b, RES_END);
	buf_u8(b, 0); /* no checksum */
	package_end(b, start);
}

static void write_device(struct acpi_buf *b, const struct legacy_device *d)
{
	size_t start;

	buf_u8(b, AML_EXT);
	buf_u8(b, AML_EXT_DEVICE);
	start = package_begin(b);
	buf_bytes(b, d->name, 4);
	aml_name(b, "_HID");
	aml_integer(b, eisa_id(d->hid));
	write_resources(b, d);
	package_end(b, start);
}

static void write_devices(struct acpi_buf *b)
{
	size_t start;

	buf_u8(b, AML_SCOPE);
	start = package_begin(b);
	buf_bytes(b, "_SB_", 4);
	for (unsigned i = 0; i < ARRAY_SIZE(devices); i++)
		write_device(b, &devices[i]);
	package_end(b, start);
}

/* What the guest writes to SLP_TYP of PM1a and PM1b control to power off. */
static void write_soft_off(struct acpi_buf *b)
{
	static const uint8_t slp_typ[] = { 5, 0, 0, 0 };
	size_t start;

	aml_name(b, "_S5_");
	buf_u8(b, AML_PACKAGE);
	start = package_begin(b);
	buf_u8(b, ARRAY_SIZE(slp_typ));
	for (unsigned i = 0; i < ARRAY_SIZE(slp_typ); i++)
		aml_integer(b, slp_typ[i]);
	package_end(b, start);
}

void acpi_write_dsdt(struct acpi_buf *b)
{
	write_devices(b);
	write_soft_off(b);
}
