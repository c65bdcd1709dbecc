/*
 * fwcfg.c - what firmware and test guests ask a hypervisor: processors, memory.
 *
 * The port interface of QEMU's fw_cfg (docs/specs/fw_cfg.rst): a 16-bit selector
 * at 0x510, bytes of the chosen item at 0x511, zeroes behind its end and for items
 * that do not exist. No DMA, no files.
 */
#include "devices/device.h"

enum fwcfg_key {
	KEY_SIGNATURE = 0x00,
	KEY_ID = 0x01,
	KEY_RAM_SIZE = 0x03,
	KEY_NR_CPUS = 0x05,
	KEY_MAX_CPUS = 0x0f,
	KEY_FILE_DIR = 0x19 /* 32-bit count, then that many entries: none */
};

#define ID_PORTS BIT(0) /* this interface, without DMA */

struct fwcfg {
	uint16_t key;
	uint8_t pos; /* stops behind the longest item */
};

static uint64_t item(struct dev *d, uint16_t key)
{
	switch (key) {
	case KEY_SIGNATURE:
		return load_u32("QEMU");
	case KEY_ID:
		return ID_PORTS;
	case KEY_RAM_SIZE:
		return dev_ram_bytes(d);
	case KEY_NR_CPUS:
	case KEY_MAX_CPUS:
		return dev_vcpus(d);
	case KEY_FILE_DIR:
	default:
		return 0;
	}
}

static uint64_t fwcfg_read(struct dev *d, uint64_t off, unsigned size)
{
	struct fwcfg *f = dev_state(d);

	if (off != 1)
		return UINT64_MAX;
	if (f->pos >= sizeof(uint64_t))
		return 0;
	return (item(d, f->key) >> (f->pos++ * 8)) & 0xff;
}

static void fwcfg_write(struct dev *d, uint64_t off, unsigned size, uint64_t val)
{
	struct fwcfg *f = dev_state(d);

	if (off == 0 && size == 2)
		*f = (struct fwcfg){ .key = (uint16_t)val };
}

static void fwcfg_reset(struct dev *d)
{
	struct fwcfg *f = dev_state(d);

	*f = (struct fwcfg){ 0 };
}

static int fwcfg_snapshot(struct dev *d, struct snap *s)
{
	struct fwcfg *f = dev_state(d);

	snap_u16(s, &f->key);
	snap_u8(s, &f->pos);
	return snap_error(s);
}

const struct device_type fwcfg_type = {
	.name = "fwcfg",
	.state_size = sizeof(struct fwcfg),
	.region = { { BUS_PIO, 0x510, 2 } },
	.min_access = 1,
	.max_access = 2,
	.gsi = { -1, -1, -1, -1 },
	.reset = fwcfg_reset,
	.read = fwcfg_read,
	.write = fwcfg_write,
	.snapshot = fwcfg_snapshot,
};
