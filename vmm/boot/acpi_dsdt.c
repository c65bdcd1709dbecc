/*
 * acpi_dsdt.c - the DSDT: the legacy devices, the PCI host bridge and soft-off, in AML.
 *
 * Reference: ACPI 6.5, chapter 20 (AML) and 6.4 (resource descriptors).
 */
#include "boot/acpi_buf.h"
#include "boot/layout.h"

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
	AML_METHOD = 0x14,
	AML_ARG3 = 0x6b,
	AML_RETURN = 0xa4,
	AML_EXT = 0x5b, /* the next byte is the opcode */
	AML_EXT_DEVICE = 0x82,
};

enum resource {
	RES_IRQ = 0x22, /* edge, active high, exclusive: two bytes of mask */
	RES_IO = 0x47,
	RES_END = 0x79,
	RES_MEMORY32 = 0x86,
	RES_DWORD = 0x87,
	RES_WORD = 0x88,
	RES_QWORD = 0x8a,
};

/* Of address spaces: minimum and maximum are fixed; 6.4.3.5. */
#define SPACE_FIXED  0x0c
#define SPACE_MEMORY 0
#define SPACE_BUS    2
#define READ_WRITE   1

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

static size_t device_begin(struct acpi_buf *b, const char *name, const char *hid)
{
	size_t start;

	buf_u8(b, AML_EXT);
	buf_u8(b, AML_EXT_DEVICE);
	start = package_begin(b);
	buf_bytes(b, name, 4);
	aml_name(b, "_HID");
	aml_integer(b, eisa_id(hid));
	return start;
}

static size_t resources_begin(struct acpi_buf *b, unsigned bytes)
{
	size_t start;

	aml_name(b, "_CRS");
	buf_u8(b, AML_BUFFER);
	start = package_begin(b);
	aml_integer(b, bytes + 2);
	return start;
}

static void resources_end(struct acpi_buf *b, size_t start)
{
	buf_u8(b, RES_END);
	buf_u8(b, 0); /* no checksum */
	package_end(b, start);
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
	unsigned ranges = 0;
	size_t start;

	while (ranges < RANGES_MAX && d->io[ranges].bytes)
		ranges++;
	start = resources_begin(b, ranges * 8 + 3);
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
	resources_end(b, start);
}

static void write_device(struct acpi_buf *b, const struct legacy_device *d)
{
	size_t start = device_begin(b, d->name, d->hid);

	write_resources(b, d);
	package_end(b, start);
}

/* --- PCI: PCI Firmware Specification 3.3, 4.1 and 4.5 ----------------------------------- */

#define BUSES_BYTES    16
#define WINDOW32_BYTES 26
#define WINDOW64_BYTES 46
#define MEMORY32_BYTES 12

static void space_header(struct acpi_buf *b, enum resource tag, unsigned bytes, uint8_t type,
			 uint8_t flags)
{
	buf_u8(b, (uint8_t)tag);
	buf_u16(b, (uint16_t)(bytes - 3));
	buf_u8(b, type);
	buf_u8(b, SPACE_FIXED);
	buf_u8(b, flags);
}

static void buses(struct acpi_buf *b)
{
	space_header(b, RES_WORD, BUSES_BYTES, SPACE_BUS, 0);
	buf_u16(b, 0);
	buf_u16(b, 0);
	buf_u16(b, LAYOUT_LAST_BUS);
	buf_u16(b, 0);
	buf_u16(b, LAYOUT_LAST_BUS + 1);
}

static void window32(struct acpi_buf *b)
{
	space_header(b, RES_DWORD, WINDOW32_BYTES, SPACE_MEMORY, READ_WRITE);
	buf_u32(b, 0);
	buf_u32(b, (uint32_t)LAYOUT_WINDOW32_GPA);
	buf_u32(b, (uint32_t)(LAYOUT_WINDOW32_GPA + LAYOUT_WINDOW32_BYTES - 1));
	buf_u32(b, 0);
	buf_u32(b, (uint32_t)LAYOUT_WINDOW32_BYTES);
}

static void window64(struct acpi_buf *b, uint64_t gpa)
{
	space_header(b, RES_QWORD, WINDOW64_BYTES, SPACE_MEMORY, READ_WRITE);
	buf_u64(b, 0);
	buf_u64(b, gpa);
	buf_u64(b, gpa + LAYOUT_WINDOW64_BYTES - 1);
	buf_u64(b, 0);
	buf_u64(b, LAYOUT_WINDOW64_BYTES);
}

/* Whatever the system asks to control it may: there is nobody else. */
static void write_osc(struct acpi_buf *b)
{
	size_t start;

	buf_u8(b, AML_METHOD);
	start = package_begin(b);
	buf_bytes(b, "_OSC", 4);
	buf_u8(b, 4); /* arguments */
	buf_u8(b, AML_RETURN);
	buf_u8(b, AML_ARG3);
	package_end(b, start);
}

/* No _PRT: functions interrupt by messages only. */
static void write_pci(struct acpi_buf *b, uint64_t ram_end)
{
	size_t device = device_begin(b, "PCI0", "PNP0A08"), resources;

	aml_name(b, "_CID");
	aml_integer(b, eisa_id("PNP0A03"));
	aml_name(b, "_SEG");
	aml_integer(b, 0);
	aml_name(b, "_BBN");
	aml_integer(b, 0);
	aml_name(b, "_UID");
	aml_integer(b, 0);
	resources = resources_begin(b, BUSES_BYTES + WINDOW32_BYTES + WINDOW64_BYTES);
	buses(b);
	window32(b);
	window64(b, layout_window64(ram_end));
	resources_end(b, resources);
	write_osc(b);
	package_end(b, device);
}

/* Beside the bridge, not in it: what MCFG describes is not the bus's to give away. */
static void write_config_space(struct acpi_buf *b)
{
	size_t device = device_begin(b, "ECAM", "PNP0C02"), resources;

	resources = resources_begin(b, MEMORY32_BYTES);
	buf_u8(b, RES_MEMORY32);
	buf_u16(b, MEMORY32_BYTES - 3);
	buf_u8(b, READ_WRITE);
	buf_u32(b, (uint32_t)LAYOUT_ECAM_GPA);
	buf_u32(b, (uint32_t)LAYOUT_ECAM_BYTES);
	resources_end(b, resources);
	package_end(b, device);
}

/* --- the whole --------------------------------------------------------------------------- */

static void write_devices(struct acpi_buf *b, uint64_t ram_end)
{
	size_t start;

	buf_u8(b, AML_SCOPE);
	start = package_begin(b);
	buf_bytes(b, "_SB_", 4);
	for (unsigned i = 0; i < ARRAY_SIZE(devices); i++)
		write_device(b, &devices[i]);
	write_pci(b, ram_end);
	write_config_space(b);
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

void acpi_write_dsdt(struct acpi_buf *b, uint64_t ram_end)
{
	write_devices(b, ram_end);
	write_soft_off(b);
}
