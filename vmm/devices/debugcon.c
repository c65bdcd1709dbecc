/* debugcon.c - debug console: a byte written to port 0xE9 is a byte of output. */
#include "devices/device.h"

#define PORT 0xe9 /* also what it reads as: how guests find it */

static uint64_t debugcon_read(struct dev *d, uint64_t off, unsigned size)
{
	return PORT;
}

static void debugcon_write(struct dev *d, uint64_t off, unsigned size, uint64_t val)
{
	uint8_t byte = (uint8_t)val;

	dev_output(d, &byte, 1);
}

const struct device_type debugcon_type = {
	.name = "debugcon",
	.region = { { BUS_PIO, PORT, 1 } },
	.min_access = 1,
	.max_access = 1,
	.gsi = { -1, -1, -1, -1 },
	.read = debugcon_read,
	.write = debugcon_write,
};
