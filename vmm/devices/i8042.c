/*
 * i8042.c - a keyboard controller with nothing plugged in.
 *
 * It answers its own commands, so that whoever probes it is done at once, and
 * pulses the processor's reset line. What is sent to the keyboard or the mouse
 * is answered like a missing one: 0xFE with a timeout. It raises no interrupt.
 */
#include "devices/device.h"

enum i8042_port { PORT_DATA = 0, PORT_COMMAND = REGION(1) };

#define STATUS_OUTPUT_FULL BIT(0)
#define STATUS_SYSTEM      BIT(2) /* self test passed */
#define STATUS_COMMAND     BIT(3) /* the last byte written was a command */
#define STATUS_UNLOCKED    BIT(4)
#define STATUS_TIMEOUT     BIT(6)

#define CONFIG_SYSTEM       BIT(2)
#define CONFIG_KBD_OFF      BIT(4)
#define CONFIG_AUX_OFF      BIT(5)
#define OUTPUT_PORT_RUNNING BIT(0) /* low resets the processor */
#define OUTPUT_PORT_A20     BIT(1)

enum i8042_command {
	CMD_READ_CONFIG = 0x20,
	CMD_WRITE_CONFIG = 0x60,
	CMD_AUX_OFF = 0xa7,
	CMD_AUX_ON = 0xa8,
	CMD_AUX_TEST = 0xa9,
	CMD_SELF_TEST = 0xaa,
	CMD_KBD_TEST = 0xab,
	CMD_KBD_OFF = 0xad,
	CMD_KBD_ON = 0xae,
	CMD_READ_INPUT = 0xc0,
	CMD_READ_OUTPUT = 0xd0,
	CMD_WRITE_OUTPUT = 0xd1,
	CMD_KBD_LOOP = 0xd2,
	CMD_AUX_LOOP = 0xd3,
	CMD_AUX_WRITE = 0xd4,
	CMD_PULSE = 0xf0 /* to 0xff: low bits clear are lines pulsed */
};

#define SELF_TEST_OK    0x55
#define CLOCK_STUCK_LOW 0x01
#define RESEND          0xfe

struct i8042 {
	uint8_t config;
	uint8_t pending; /* command that waits for its data byte, or 0 */
	uint8_t output;
	bool full;       /* output not yet read */
	bool timeout;    /* output is a timeout's */
	bool is_command; /* last byte written */
};

static void answer(struct i8042 *k, uint8_t byte, bool timeout)
{
	k->output = byte;
	k->full = true;
	k->timeout = timeout;
}

static void command(struct dev *d, uint8_t cmd)
{
	struct i8042 *k = dev_state(d);

	k->pending = 0;
	switch (cmd) {
	case CMD_READ_CONFIG:
		answer(k, k->config, false);
		break;
	case CMD_WRITE_CONFIG:
	case CMD_WRITE_OUTPUT:
	case CMD_KBD_LOOP:
	case CMD_AUX_LOOP:
	case CMD_AUX_WRITE:
		k->pending = cmd;
		break;
	case CMD_AUX_OFF:
		k->config |= CONFIG_AUX_OFF;
		break;
	case CMD_AUX_ON: /* there is no such port: the bit stays */
		break;
	case CMD_AUX_TEST:
		answer(k, CLOCK_STUCK_LOW, false);
		break;
	case CMD_SELF_TEST:
		k->config |= CONFIG_SYSTEM;
		answer(k, SELF_TEST_OK, false);
		break;
	case CMD_KBD_TEST:
	case CMD_READ_INPUT:
		answer(k, 0, false);
		break;
	case CMD_KBD_OFF:
		k->config |= CONFIG_KBD_OFF;
		break;
	case CMD_KBD_ON:
		k->config &= (uint8_t)~CONFIG_KBD_OFF;
		break;
	case CMD_READ_OUTPUT:
		answer(k, OUTPUT_PORT_RUNNING | OUTPUT_PORT_A20, false);
		break;
	default:
		if (cmd >= CMD_PULSE && !(cmd & OUTPUT_PORT_RUNNING))
			dev_request_reset(d);
		break;
	}
}

static void data(struct dev *d, uint8_t byte)
{
	struct i8042 *k = dev_state(d);

	switch (k->pending) {
	case CMD_WRITE_CONFIG:
		k->config = byte | CONFIG_AUX_OFF;
		break;
	case CMD_WRITE_OUTPUT:
		if (!(byte & OUTPUT_PORT_RUNNING))
			dev_request_reset(d);
		break;
	case CMD_KBD_LOOP:
	case CMD_AUX_LOOP: /* no auxiliary port: comes back as the keyboard's */
		answer(k, byte, false);
		break;
	default:
		answer(k, RESEND, true);
		break;
	}
	k->pending = 0;
}

static uint64_t i8042_read(struct dev *d, uint64_t off, unsigned size)
{
	struct i8042 *k = dev_state(d);

	if (off == PORT_DATA) {
		k->full = false;
		k->timeout = false;
		return k->output;
	}
	return STATUS_UNLOCKED | (k->full ? STATUS_OUTPUT_FULL : 0) |
	       (k->config & CONFIG_SYSTEM ? STATUS_SYSTEM : 0) |
	       (k->is_command ? STATUS_COMMAND : 0) | (k->timeout ? STATUS_TIMEOUT : 0);
}

static void i8042_write(struct dev *d, uint64_t off, unsigned size, uint64_t val)
{
	struct i8042 *k = dev_state(d);

	k->is_command = off == PORT_COMMAND;
	if (k->is_command)
		command(d, (uint8_t)val);
	else
		data(d, (uint8_t)val);
}

static void i8042_reset(struct dev *d)
{
	struct i8042 *k = dev_state(d);

	*k = (struct i8042){ .config = CONFIG_SYSTEM | CONFIG_KBD_OFF | CONFIG_AUX_OFF };
}

static int i8042_snapshot(struct dev *d, struct snap *s)
{
	struct i8042 *k = dev_state(d);

	snap_u8(s, &k->config);
	snap_u8(s, &k->pending);
	snap_u8(s, &k->output);
	snap_bool(s, &k->full);
	snap_bool(s, &k->timeout);
	snap_bool(s, &k->is_command);
	return snap_error(s);
}

const struct device_type i8042_type = {
	.name = "i8042",
	.state_size = sizeof(struct i8042),
	.region = { { BUS_PIO, 0x60, 1 }, { BUS_PIO, 0x64, 1 } },
	.min_access = 1,
	.max_access = 1,
	.gsi = { -1, -1, -1, -1 },
	.reset = i8042_reset,
	.read = i8042_read,
	.write = i8042_write,
	.snapshot = i8042_snapshot,
};
