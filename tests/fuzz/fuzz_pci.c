/*
 * fuzz_pci.c - hostile guests against configuration space, BARs, MSI-X and DMA.
 *
 * The input is a program: an opcode and its operands until it ends. Functions are those
 * of the platform: a bridge and two test functions. BARs are put where they get in the
 * way: on each other, on other devices, on RAM, at the ends of the windows. Beside what
 * sanitizers find these promises are kept:
 *   - what is read-only in configuration space stays as it is;
 *   - the bridge, the IOAPIC and RAM never answer as another device;
 *   - a snapshot loads, and saves again as the same bytes.
 */
#include "program.h"

#define ECAM      0xe0000000ull
#define FUNCTIONS 3
#define BRIDGE_ID 0x00081b36u
#define TEST_ID   0x10f01af4u
#define WAIT_NS   5000

static const uint64_t places[] = {
	0,          0x1000,          0xbffff000, 0xc0000000, 0xc0001000, 0xc0002000,
	0xdffff000, 0xe0000000,      0xe0008000, 0xfec00000, 0xfee00000, 0xfffff000,
	GIB(4),     GIB(4) + 0x1000, GIB(36),    1ull << 63,
};

enum op {
	OP_CONFIG_WRITE,
	OP_CONFIG_READ,
	OP_PLACE,
	OP_PLACE_AGAIN,
	OP_COMMAND,
	OP_ACCESS,
	OP_ACCESS_AGAIN,
	OP_RING,
	OP_WAIT,
	OP_PORTS,
	OP_RESET,
	OP_SNAPSHOT,
	OP_HOSTILE_SNAPSHOT,
	OP_COUNT
};

static struct platform *p;

static uint64_t take_value(struct input *in)
{
	uint64_t v = 0;
	unsigned n = take(in) % 9;

	for (unsigned i = 0; i < n; i++)
		v = v << 8 | take(in);
	return n == 1 && v == 0xff ? UINT64_MAX : v;
}

static uint64_t config_of(struct input *in)
{
	return ECAM + ((uint64_t)(take(in) % (FUNCTIONS + 1)) << 15);
}

static uint64_t access(struct bus *b, uint64_t addr, unsigned size, bool is_write, uint64_t val)
{
	struct io_access io = { addr, val, (uint8_t)size, is_write };

	bus_access(b, &io);
	check(is_write || size == 8 || io.data < BIT64(size * 8), "a read gave too many bits");
	return io.data;
}

static uint64_t mem(uint64_t addr, unsigned size, bool is_write, uint64_t val)
{
	return access(&p->vm->mmio, addr, size, is_write, val);
}

static void config(struct input *in, bool is_write)
{
	uint64_t at = config_of(in);
	unsigned size = 1u << take(in) % 4;

	at += take(in) + (take(in) & 1 ? 0xf00 : 0);
	mem(at, size, is_write, take_value(in));
}

static void place(struct input *in)
{
	uint64_t at = config_of(in) + 0x10 + take(in) % 6 * 4;
	uint64_t gpa = places[take(in) % ARRAY_SIZE(places)];

	mem(at, 4, true, gpa);
	mem(at + 4, 4, true, gpa >> 32);
}

/* Somewhere in what a BAR may cover. */
static uint64_t bar_addr(struct input *in)
{
	uint64_t off = take(in);

	if (take(in) & 1)
		off += 0x1000;
	return places[take(in) % ARRAY_SIZE(places)] + off;
}

static void access_bar(struct input *in)
{
	uint64_t at = bar_addr(in);
	uint8_t how = take(in);

	mem(at, 1u << (how & 3), how & 4, how & 4 ? take_value(in) : 0);
}

/* By both functions, wherever they are. */
static void ring(struct input *in)
{
	uint64_t regs = places[take(in) % ARRAY_SIZE(places)];

	mem(regs + 0x08, 8, true, take_value(in));
	mem(regs + 0x10, 8, true, take_value(in));
	mem(regs + 0x18, 4, true, take_value(in) % 0x12000);
	mem(regs + 0x1c, 4, true, take(in) % 16);
	mem(regs + 0x20, 4, true, 1);
}

static void ports(struct input *in)
{
	uint64_t port = 0xcf8 + take(in) % 8;
	uint8_t how = take(in);

	access(&p->vm->pio, port, 1u << how % 3, how & 4, take_value(in));
}

static void load_hostile(struct input *in)
{
	static uint8_t buf[SNAP_BYTES];
	struct dev *d = p->vm->dev[p->vm->nr_devs - 1];
	struct snap s = { .buf = buf, .capacity = sizeof(buf) };

	dev_snapshot(d, &s);
	for (unsigned i = take(in) % 32; i; i--)
		buf[(size_t)(take(in) << 8 | take(in)) % s.pos] = take(in);
	s = (struct snap){ .buf = buf, .capacity = s.pos, .loading = true };
	dev_snapshot(d, &s);
}

static void step(struct input *in)
{
	switch ((enum op)(take(in) % OP_COUNT)) {
	case OP_CONFIG_WRITE:
		config(in, true);
		break;
	case OP_CONFIG_READ:
		config(in, false);
		break;
	case OP_PLACE:
	case OP_PLACE_AGAIN:
		place(in);
		break;
	case OP_COMMAND:
		mem(config_of(in) + 4, 2, true, take(in));
		break;
	case OP_ACCESS:
	case OP_ACCESS_AGAIN:
		access_bar(in);
		break;
	case OP_RING:
		ring(in);
		break;
	case OP_WAIT:
		sim_advance(&p->host, WAIT_NS);
		break;
	case OP_PORTS:
		ports(in);
		break;
	case OP_RESET:
		dev_reset(p->vm->dev[p->vm->nr_devs - 1 - take(in) % FUNCTIONS]);
		break;
	case OP_SNAPSHOT:
		save_and_load(p);
		break;
	case OP_HOSTILE_SNAPSHOT:
		load_hostile(in);
		break;
	default:
		break;
	}
}

static void check_constants(void)
{
	check(mem(ECAM, 4, false, 0) == BRIDGE_ID, "the bridge has another name");
	check(mem(ECAM + 0x8000, 4, false, 0) == TEST_ID, "the first function has another name");
	check(mem(ECAM + 0x10000, 4, false, 0) == TEST_ID, "the second function has another name");
	check(mem(ECAM + 0x18000, 4, false, 0) == UINT32_MAX, "a function out of nowhere");
	check((mem(ECAM + 0x8010, 4, false, 0) & 0xfff) == 4, "BAR 0 is not what it was");
	check((mem(ECAM + 0x8018, 4, false, 0) & 0x1fff) == 4, "BAR 2 is not what it was");
	check(mem(0xbffff000, 4, false, 0) == UINT32_MAX, "something answers in place of RAM");
	check(mem(0xfee00000, 4, false, 0) == UINT32_MAX, "something answers for a local APIC");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	struct input in = { data, bytes };

	p = platform_create(NULL);
	while (in.left)
		step(&in);
	check_constants();
	check(!platform_destroy(p), "something was left behind");
	return 0;
}
