/* reset.c - the fast reset of port 0x92. The reset control register: pci_ports.c. */
#include "devices/device.h"

#define FAST_RESET BIT(0) /* 0 to 1 resets */
#define A20_ON     BIT(1) /* it always is */

struct reset {
	uint8_t fast;
};

static uint64_t reset_read(struct dev *d, uint64_t off, unsigned size)
{
	struct reset *r = dev_state(d);

	return r->fast | A20_ON;
}

static void reset_write(struct dev *d, uint64_t off, unsigned size, uint64_t val)
{
	struct reset *r = dev_state(d);
	bool rises = val & FAST_RESET && !r->fast;

	r->fast = val & FAST_RESET;
	if (rises)
		dev_request_reset(d);
}

static void reset_reset(struct dev *d)
{
	struct reset *r = dev_state(d);

	*r = (struct reset){ 0 };
}

static int reset_snapshot(struct dev *d, struct snap *s)
{
	struct reset *r = dev_state(d);

	snap_u8(s, &r->fast);
	r->fast &= FAST_RESET;
	return snap_error(s);
}

const struct device_type reset_type = {
	.name = "reset",
	.state_size = sizeof(struct reset),
	.region = { { BUS_PIO, 0x92, 1 } },
	.min_access = 1,
	.max_access = 1,
	.gsi = { -1, -1, -1, -1 },
	.reset = reset_reset,
	.read = reset_read,
	.write = reset_write,
	.snapshot = reset_snapshot,
};
