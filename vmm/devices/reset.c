/*
 * reset.c - the reset control register at 0xCF9, and the fast reset of port 0x92.
 *
 * 0xCF9 lies inside the dword of the PCI configuration address (0xCF8), so that
 * only a byte access is meant for it. There is no PCI: the rest reads as ones.
 */
#include "devices/device.h"

#define RST_CPU  BIT(2) /* 0 to 1 resets */
#define RST_BITS 0x0eu

#define FAST_RESET BIT(0) /* of port 0x92; 0 to 1 resets */
#define A20_ON     BIT(1) /* it always is */

struct reset {
	uint8_t control; /* 0xCF9 */
	uint8_t fast;    /* 0x92 */
};

static bool is_control(uint64_t off, unsigned size)
{
	return off == 1 && size == 1;
}

static uint64_t reset_read(struct dev *d, uint64_t off, unsigned size)
{
	struct reset *r = dev_state(d);

	if (off == REGION(1))
		return r->fast | A20_ON;
	return is_control(off, size) ? r->control : UINT64_MAX;
}

static void write_edge(struct dev *d, uint8_t *reg, uint8_t val, uint8_t trigger)
{
	bool rises = val & (uint8_t) ~*reg & trigger;

	*reg = val;
	if (rises)
		dev_request_reset(d);
}

static void reset_write(struct dev *d, uint64_t off, unsigned size, uint64_t val)
{
	struct reset *r = dev_state(d);

	if (off == REGION(1))
		write_edge(d, &r->fast, val & FAST_RESET, FAST_RESET);
	else if (is_control(off, size))
		write_edge(d, &r->control, val & RST_BITS, RST_CPU);
}

static void reset_reset(struct dev *d)
{
	struct reset *r = dev_state(d);

	*r = (struct reset){ 0 };
}

static int reset_snapshot(struct dev *d, struct snap *s)
{
	struct reset *r = dev_state(d);

	snap_u8(s, &r->control);
	snap_u8(s, &r->fast);
	r->control &= RST_BITS;
	r->fast &= FAST_RESET;
	return snap_error(s);
}

const struct device_type reset_type = {
	.name = "reset",
	.state_size = sizeof(struct reset),
	.region = { { BUS_PIO, 0xcf8, 4 }, { BUS_PIO, 0x92, 1 } },
	.min_access = 1,
	.max_access = 4,
	.gsi = { -1, -1, -1, -1 },
	.reset = reset_reset,
	.read = reset_read,
	.write = reset_write,
	.snapshot = reset_snapshot,
};
