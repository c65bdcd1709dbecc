/*
 * fuzz_loader.c - hostile kernel images against the loaders.
 *
 * The first byte chooses a sound image of some kind, or none: then the rest is the
 * image. Otherwise the rest is a list of changes to it: two bytes of offset, one of
 * width and sort, and the bytes to put there; and the last change may cut it off.
 * Beside what sanitizers find, boot_load() must keep these promises:
 *   - an error comes with one line that says why;
 *   - the firmware's data survive the image;
 *   - the BSP starts inside RAM.
 */
#include "boot/boot.h"
#include "tests/unit/images.h"

#include <stdio.h>

#define RAM_BYTES    MIB(8)
#define FIRMWARE_GPA 0xe0000

static const struct segment_spec segments[] = {
	{ 0x1000, 0xffffffff80400000, 0x400000, 0x1800, 0x1800 },
	{ 0x3000, 0xffffffff80402000, 0x401f00, 0x900, 0x2000 },
	{ 0x4000, 0, 0x404000, 0x400, 0x400 },
};

#define ENTRY 0x400010

/* The stub's address, such that the payload unpacks right where it belongs. */
#define PREF (0x400000 - 0x1000 + MIB(2))

static struct image vmlinux(void)
{
	return image_elf64(segments, ARRAY_SIZE(segments), ENTRY);
}

static struct image bzimage(const struct packer *p)
{
	struct image elf = vmlinux(), i = image_packed_bzimage(p, elf, MIB(1));

	store_u64(i.data + 0x258, PREF);
	image_free(&elf);
	return i;
}

static struct image multiboot_elf(bool is_64)
{
	struct image i = is_64 ? vmlinux() : image_elf32(segments, ARRAY_SIZE(segments), ENTRY);

	put_multiboot_header(&i, 0x1000, 3, NULL);
	return i;
}

static struct image multiboot_flat(void)
{
	static const uint32_t addresses[] = { 0x400100, 0x400000, 0x401000, 0x403000, ENTRY };
	struct image i = image_make(0x2000);

	put_multiboot_header(&i, 0x200, 0x10003, addresses);
	return i;
}

static struct image base_image(uint8_t kind)
{
	switch (kind % 9) {
	case 0:
	case 1:
	case 2:
	case 3:
		return bzimage(&packers[kind % 9]);
	case 4:
		return vmlinux();
	case 5:
	case 6:
		return multiboot_elf(kind % 9 == 5);
	case 7:
		return multiboot_flat();
	default:
		return image_make(0);
	}
}

/* A change: offset (16 bits), sort, value. Large values come from few bytes. */
static void change(struct image *i, const uint8_t *c)
{
	size_t offset = load_u16(c) % (i->bytes ? i->bytes : 1);
	uint64_t value = c[3];
	unsigned width = 1u << (c[2] & 3);

	if (c[2] & 0x04)
		value = (uint64_t)(int64_t)(int8_t)c[3];
	if (c[2] & 0x08)
		value <<= c[2] >> 4 << 2;
	if (c[2] == 0xff)
		i->bytes = offset;
	else if (offset + width <= i->bytes)
		memcpy(i->data + offset, &value, width);
}

static struct image make_image(const uint8_t *data, size_t bytes)
{
	struct image i = base_image(bytes ? data[0] : 8), raw;

	if (i.bytes == 0 && bytes) {
		image_free(&i);
		raw = image_make(bytes - 1);
		memcpy(raw.data, data + 1, bytes - 1);
		return raw;
	}
	/* Headers lie in the first 0x300 bytes: half of the changes go there. */
	for (size_t at = 1; at + 4 <= bytes && i.bytes; at += 4) {
		uint8_t c[4];

		memcpy(c, data + at, 4);
		if (c[2] & 0x40)
			store_u16(c, load_u16(c) % 0x300);
		change(&i, c);
	}
	return i;
}

static void check(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "fuzz_loader: %s\n", what);
	abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	static struct machine m;
	static struct cpu_state bsp;
	struct image made = make_image(data, bytes), kernel = image_make(made.bytes);
	struct boot_request r = { .kernel = { kernel.data, kernel.bytes, "fuzz" },
				  .initrd = { data, bytes, "fuzz" },
				  .cmdline = "fuzz" };
	char why[200];
	int err;

	if (!m.gmem.nr_slots)
		check(!machine_make(&m, 4, 2, RAM_BYTES), "no machine");
	memcpy(kernel.data, made.data, made.bytes); /* in its exact size */
	r.gmem = &m.gmem;
	r.topo = &m.topo;
	err = boot_load(&r, &bsp, why, sizeof(why));
	check(err <= 0 && !err == !why[0] && !strchr(why, '\n'), "an error, and no line");
	check(!memcmp(gmem_ptr(&m.gmem, FIRMWARE_GPA, 8), "RSD PTR ", 8), "the RSDP is gone");
	check(!err || bytes != 1 || data[0] % 9 == 8, "a sound image is refused");
	check(err || gmem_find(&m.gmem, bsp.rip), "starts outside RAM");
	image_free(&made);
	image_free(&kernel);
	return 0;
}
