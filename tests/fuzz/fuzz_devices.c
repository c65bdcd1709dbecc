/*
 * fuzz_devices.c - hostile guests and hostile snapshots against every device.
 *
 * The input is a program: an opcode and its operands, byte by byte, until it
 * ends. Ports and addresses are mostly those of a device's regions. Beside what
 * sanitizers find, devices must keep these promises:
 *   - a read gives no more bits than were asked for;
 *   - a snapshot loads, and saves again as the same bytes;
 *   - nothing is left behind on the host.
 */
#include "program.h"

/* Enough for the events of a storm, and no more than a test has time for. */
#define WAIT_MAX_NS (20 * NSEC_PER_MSEC)

enum op {
	OP_READ,
	OP_WRITE,
	OP_WRITE_AGAIN, /* twice as likely */
	OP_WAIT,
	OP_LINE,
	OP_ACK,
	OP_EOI,
	OP_INPUT,
	OP_RESET,
	OP_SNAPSHOT,
	OP_HOSTILE_SNAPSHOT,
	OP_LONG_WAIT,
	OP_COUNT
};

static uint64_t take_u64(struct input *in)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < 8; i++)
		v = v << 8 | take(in);
	return v;
}

/* Somewhere in a region, or around it, or anywhere. */
static uint64_t take_addr(struct input *in, const struct bus *b)
{
	const struct bus_region *r = &b->region[take(in) % b->nr_regions];
	uint8_t where = take(in);

	if (where == 0xff)
		return take_u64(in);
	if (where >= 0xf0)
		return r->base - 4 + where % 16;
	return r->base + where % r->bytes;
}

static void access(struct platform *p, struct input *in, bool is_write)
{
	uint8_t how = take(in);
	struct bus *b = how & 4 && p->vm->mmio.nr_regions ? &p->vm->mmio : &p->vm->pio;
	struct io_access io = { .size = (uint8_t)BIT(how & 3), .is_write = is_write };

	io.addr = take_addr(in, b);
	if (is_write)
		io.data = how & 8 ? take_u64(in) : take(in);
	bus_access(b, &io);
	if (!is_write && io.size < 8)
		check(io.data < BIT64(io.size * 8), "a read gave too many bits");
}

static void give_input(struct platform *p, struct input *in)
{
	uint8_t buf[32];
	size_t n = take(in) % (sizeof(buf) + 1);

	for (size_t i = 0; i < n; i++)
		buf[i] = take(in);
	check(dev_input(platform_dev(p, "serial"), buf, n) <= n, "more input taken than given");
}

/* A good snapshot with some bytes changed, and perhaps an early end. */
static void load_hostile(struct platform *p, struct input *in)
{
	static uint8_t buf[SNAP_BYTES];
	struct snap s = { .buf = buf, .capacity = sizeof(buf) };
	unsigned changes = take(in) % 32;

	platform_snapshot(p, &s);
	for (unsigned i = 0; i < changes; i++) {
		size_t at = (size_t)(take(in) << 8 | take(in)) % s.pos;

		buf[at] = take(in);
	}
	s = (struct snap){ .buf = buf, .capacity = s.pos, .loading = true };
	if (take(in) & 1)
		s.capacity = s.capacity * take(in) / 256;
	platform_snapshot(p, &s);
}

/* By nobody's number: a device's own belongs to it. */
static void toggle_line(struct platform *p, struct input *in)
{
	unsigned gsi = take(in) % (GSI_COUNT + 4);
	unsigned source = p->vm->nr_devs + take(in) % 24;

	irq_set(p->vm, gsi, source, take(in) & 1);
}

static void step(struct platform *p, struct input *in)
{
	struct vm *vm = p->vm;

	switch ((enum op)(take(in) % OP_COUNT)) {
	case OP_READ:
		access(p, in, false);
		break;
	case OP_WRITE:
	case OP_WRITE_AGAIN:
		access(p, in, true);
		break;
	case OP_WAIT:
		sim_advance(&p->host, take(in) * 1000ull);
		break;
	case OP_LONG_WAIT:
		sim_advance(&p->host, take_u64(in) % WAIT_MAX_NS);
		break;
	case OP_LINE:
		toggle_line(p, in);
		break;
	case OP_ACK:
		check(irq_ack_extint(vm) < 256, "a vector out of range");
		break;
	case OP_EOI:
		irq_eoi(vm, take(in));
		break;
	case OP_INPUT:
		give_input(p, in);
		break;
	case OP_RESET:
		dev_reset(vm->dev[take(in) % vm->nr_devs]);
		break;
	case OP_SNAPSHOT:
		save_and_load(p);
		break;
	case OP_HOSTILE_SNAPSHOT:
		load_hostile(p, in);
		break;
	default:
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	struct input in = { data, bytes };
	struct platform *p = platform_create(NULL);

	while (in.left)
		step(p, &in);
	check(!platform_destroy(p), "something was left behind");
	return 0;
}
