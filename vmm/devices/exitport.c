/* exitport.c - a byte written to port 0xF4 ends the machine: status (value << 1) | 1. */
#include "devices/device.h"

static void exitport_write(struct dev *d, uint64_t off, unsigned size, uint64_t val)
{
	dev_request_exit(d, (uint8_t)val);
}

const struct device_type exitport_type = {
	.name = "exitport",
	.region = { { BUS_PIO, 0xf4, 1 } },
	.min_access = 1,
	.max_access = 1,
	.gsi = { -1, -1, -1, -1 },
	.write = exitport_write,
};
