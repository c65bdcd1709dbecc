/*
 * test_pci.c - configuration space, BARs, MSI-X, doorbells and DMA, by the two test
 * functions of the platform; and the moving half of the memory bus.
 */
#include "on_platform.h"

#include <pthread.h>

#define ECAM   0xe0000000ull
#define FN(n)  (ECAM + ((uint64_t)(n) << 15))
#define BRIDGE FN(0)
#define A      FN(1)
#define B      FN(2)

#define MAGIC     0x54434c41u
#define REGS      0xc0000000ull
#define SPARE     0xc0400000ull
#define MSIX      0xc0100000ull
#define MEMORY    2
#define MASTER    4
#define MSIX_ON   0x80000000u
#define MSIX_MASK 0x40000000u

enum { STATUS = 0x04, SOURCE = 0x08, TARGET = 0x10, LENGTH = 0x18, VECTOR = 0x1c };
enum { DOORBELL = 0x20, DONE = 0x24, RAISE = 0x28 };

/* --- accesses -------------------------------------------------------------------- */

static uint32_t get(uint64_t gpa)
{
	return platform_load(p, gpa);
}

static void put(uint64_t gpa, uint32_t val)
{
	platform_store(p, gpa, val);
}

static void put_sized(uint64_t gpa, unsigned size, uint64_t val)
{
	struct io_access io = { gpa, val, (uint8_t)size, true };

	bus_access(&p->vm->mmio, &io);
}

static uint64_t get_sized(uint64_t gpa, unsigned size)
{
	struct io_access io = { .addr = gpa, .size = (uint8_t)size };

	bus_access(&p->vm->mmio, &io);
	return io.data;
}

static void place(uint64_t fn, unsigned bar, uint64_t gpa)
{
	put(fn + 0x10 + 4 * bar, (uint32_t)gpa);
	put(fn + 0x14 + 4 * bar, (uint32_t)(gpa >> 32));
}

static unsigned msix_of(uint64_t fn)
{
	return get(fn + 0x34) & 0xff;
}

/* Function A with its registers at REGS, its vectors at MSIX, all on. */
static void switch_on(void)
{
	place(A, 0, REGS);
	place(A, 2, MSIX);
	put(A + 4, MEMORY | MASTER);
	put(A + msix_of(A), MSIX_ON);
}

static void set_vector(unsigned n, uint32_t addr, uint32_t data)
{
	put(MSIX + 16 * n, addr);
	put(MSIX + 16 * n + 4, 0);
	put(MSIX + 16 * n + 8, data);
	put(MSIX + 16 * n + 12, 0);
}

static struct dev *dev_of_a(void)
{
	return platform_dev(p, "pci-test");
}

/* --- configuration space ------------------------------------------------------------ */

static void test_functions(void **state)
{
	assert_int_equal(get(BRIDGE), 0x00081b36);
	assert_int_equal(get(BRIDGE + 8) >> 8, 0x060000);
	assert_int_equal(get(A), 0x10f01af4);
	assert_int_equal(get(B), 0x10f01af4);
	assert_int_equal(get(FN(3)), UINT32_MAX);
	assert_int_equal(get(A + 0x1000), UINT32_MAX); /* function 1 of the slot */
	assert_int_equal(get_sized(A + 3, 1), 0x10);
	assert_int_equal(get_sized(A, 8), 0x0010000010f01af4); /* with the status */
	assert_int_equal(get_sized(A + 1, 4), (uint32_t)(0x0010000010f01af4 >> 8));
	assert_int_equal(get(A + 0x100), 0);
	assert_int_equal(get(A + 0xffc), 0);
}

static void test_what_can_be_written(void **state)
{
	uint8_t was[256];

	for (unsigned i = 0; i < 256; i++)
		was[i] = (uint8_t)get_sized(A + i, 1);
	for (unsigned i = 0; i < 4096; i += 4)
		put(A + i, UINT32_MAX);
	assert_int_equal(get(A), 0x10f01af4);
	assert_int_equal(get(A + 4), 0x00100406);
	assert_int_equal(get(A + 0x10), 0xfffff004);
	assert_int_equal(get(A + 0x14), UINT32_MAX);
	assert_int_equal(get(A + 0x18), 0xffffe004);
	assert_int_equal(get(A + 0x20), 0);
	assert_int_equal(get(A + 0x30), 0);
	assert_int_equal(get_sized(A + 0x3d, 1), 0); /* no INTx */
	assert_int_equal(get(A + 0x100), 0);
	for (unsigned i = 0; i < 4096; i += 4)
		put(A + i, 0);
	for (unsigned i = 0; i < 256; i++)
		assert_int_equal(get_sized(A + i, 1), was[i]);
}

static void test_capabilities(void **state)
{
	unsigned at = msix_of(A);

	assert_int_equal(get(A + 4) >> 16 & 0x10, 0x10);
	assert_int_equal(get(A + at) & 0xffff, 0x0011); /* MSI-X, and the last one */
	assert_int_equal(get(A + at) >> 16, 7);
	assert_int_equal(get(A + at + 4), 2);
	assert_int_equal(get(A + at + 8), 0x1002);
	assert_int_equal(get(BRIDGE + 0x34) & 0xff, 0);
	assert_int_equal(get(BRIDGE + 4) >> 16, 0);
}

static void test_ports(void **state)
{
	platform_out(p, 0xcf8, 4, 0x80000800);
	assert_int_equal(platform_in(p, 0xcfc, 4), 0x10f01af4);
	assert_int_equal(platform_in(p, 0xcfe, 2), 0x10f0);
	assert_int_equal(platform_in(p, 0xcff, 1), 0x10);
	platform_out(p, 0xcf8, 4, 0x80000804);
	platform_out(p, 0xcfc, 2, MEMORY);
	assert_int_equal(get(A + 4) & 0xffff, MEMORY);
	assert_int_equal(platform_in(p, 0xcf8, 4), 0x80000804);
	platform_out(p, 0xcf8, 4, 0x80010800); /* bus 1 */
	assert_int_equal(platform_in(p, 0xcfc, 4), UINT32_MAX);
	platform_out(p, 0xcf8, 4, 0x00000800); /* off */
	assert_int_equal(platform_in(p, 0xcfc, 4), UINT32_MAX);
	platform_out(p, 0xcf8, 4, 0xffffffff);
	assert_int_equal(platform_in(p, 0xcfc, 4), UINT32_MAX);
}

/* --- BARs ----------------------------------------------------------------------------- */

static void test_decoding(void **state)
{
	place(A, 0, REGS);
	assert_int_equal(get(REGS), UINT32_MAX);
	put(A + 4, MEMORY);
	assert_int_equal(get(REGS), MAGIC);
	assert_int_equal(get(REGS + 0x1000), UINT32_MAX);
	assert_int_equal(get(REGS - 4), UINT32_MAX);
	place(A, 0, SPARE);
	assert_int_equal(get(REGS), UINT32_MAX);
	assert_int_equal(get(SPARE), MAGIC);
	put(A + 4, 0);
	assert_int_equal(get(SPARE), UINT32_MAX);
	put(A + 4, MEMORY);
	dev_reset(dev_of_a());
	assert_int_equal(get(SPARE), UINT32_MAX);
	assert_int_equal(get(A + 0x10), 4);
}

/* A BAR being sized with decoding on is where it is, or nowhere. */
static void test_sizing_while_on(void **state)
{
	put(A + 4, MEMORY);
	place(A, 0, REGS);
	put(A + 0x10, UINT32_MAX);
	assert_int_equal(get(A + 0x10), 0xfffff004);
	assert_int_equal(get(0xfffff000), UINT32_MAX);
	put(A + 0x14, UINT32_MAX);
	place(A, 0, REGS);
	assert_int_equal(get(REGS), MAGIC);
}

static void test_windows(void **state)
{
	const uint64_t good[] = { 0xc0000000, 0xdffff000, GIB(4), GIB(36) - 0x1000 };
	const uint64_t bad[] = { 0x1000,     0xbffff000, 0xe0000000, 0xe0008000, 0xfec00000,
				 0xfee00000, 0xfffff000, GIB(36),    1ull << 63, ~0xfffull };
	uint32_t bridge = get(BRIDGE), ioapic = get(0xfec00010);

	put(A + 4, MEMORY);
	for (unsigned i = 0; i < ARRAY_SIZE(good); i++) {
		place(A, 0, good[i]);
		assert_int_equal(get(good[i]), MAGIC);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		place(A, 0, bad[i]);
		assert_int_not_equal(get(bad[i]), MAGIC);
	}
	assert_int_equal(get(BRIDGE), bridge);
	assert_int_equal(get(0xfec00010), ioapic);
}

/* The function created first wins; whatever the order of the moves. */
static void test_overlaps(void **state)
{
	put(A + 4, MEMORY);
	put(B + 4, MEMORY);
	place(B, 0, REGS);
	put(REGS + LENGTH, 0xb);
	place(A, 0, REGS);
	put(REGS + LENGTH, 0xa);
	assert_int_equal(get(REGS + LENGTH), 0xa);
	place(A, 0, SPARE);
	assert_int_equal(get(REGS + LENGTH), 0xb);
	assert_int_equal(get(SPARE + LENGTH), 0xa);
	place(B, 0, SPARE);
	assert_int_equal(get(SPARE + LENGTH), 0xa);
	assert_int_equal(get(REGS), UINT32_MAX);
	put(A + 4, 0);
	assert_int_equal(get(SPARE + LENGTH), 0xb);

	/* The 8 KiB of B's other BAR reach over A's registers. */
	put(A + 4, MEMORY);
	place(B, 2, SPARE - 0x2000);
	assert_int_equal(get(SPARE - 0x2000 + 12), 1);
	place(B, 2, SPARE);
	assert_int_equal(get(SPARE), MAGIC);
	assert_int_equal(get(SPARE + 0x1000), UINT32_MAX);
}

/* --- MSI-X ------------------------------------------------------------------------------- */

static void test_messages(void **state)
{
	switch_on();
	set_vector(3, 0xfee01000, 0x4051);
	put(REGS + RAISE, 3);
	assert_int_equal(p->nr_msis, 1);
	assert_int_equal(p->msi[0].addr, 0xfee01000);
	assert_int_equal(p->msi[0].data, 0x4051);
	put(REGS + RAISE, 2); /* masked */
	put(REGS + RAISE, 8);
	put(REGS + RAISE, UINT32_MAX);
	assert_int_equal(p->nr_msis, 1);
	assert_int_equal(get(MSIX + 0x1000), BIT(2));
	assert_int_equal(get(MSIX + 0x1004), 0);
}

static void test_pending(void **state)
{
	switch_on();
	set_vector(0, 0xfee00000, 0x50);
	set_vector(1, 0xfee00000, 0x51);
	put(MSIX + 12, 1);
	put(REGS + RAISE, 0);
	put(REGS + RAISE, 0);
	put(MSIX + 0x1000, 0);
	assert_int_equal(get(MSIX + 0x1000), 1);
	put(MSIX + 12, 0);
	assert_int_equal(p->nr_msis, 1);
	assert_int_equal(get(MSIX + 0x1000), 0);

	put(A + msix_of(A), MSIX_ON | MSIX_MASK);
	put(REGS + RAISE, 1);
	put(A + 4, MEMORY); /* no bus master, too */
	put(A + msix_of(A), MSIX_ON);
	assert_int_equal(p->nr_msis, 1);
	put(A + 4, MEMORY | MASTER);
	assert_int_equal(p->nr_msis, 2);
	assert_int_equal(p->msi[1].data, 0x51);

	put(A + msix_of(A), 0);
	put(REGS + RAISE, 1);
	put(A + msix_of(A), MSIX_ON);
	assert_int_equal(p->nr_msis, 2);
}

static void test_table(void **state)
{
	switch_on();
	put_sized(MSIX + 16, 8, 0x12345678fee00003ull);
	assert_int_equal(get(MSIX + 16), 0xfee00000); /* dwords only */
	assert_int_equal(get(MSIX + 20), 0x12345678);
	assert_int_equal(get_sized(MSIX + 16, 8), 0x12345678fee00000ull);
	put(MSIX + 24, 0xabcd1234);
	assert_int_equal(get_sized(MSIX + 26, 2), 0xabcd);
	put_sized(MSIX + 24, 2, 0);
	assert_int_equal(get(MSIX + 24), 0xabcd1234); /* a word of it is no access */
	put(MSIX + 28, UINT32_MAX);
	assert_int_equal(get(MSIX + 28), 1);
	put(MSIX + 16 * 8, UINT32_MAX);
	assert_int_equal(get(MSIX + 16 * 8), 0);
	assert_int_equal(get(MSIX + 0x1ffc), 0);
}

/* --- doorbell, DMA -------------------------------------------------------------------------- */

static void ring(uint64_t from, uint64_t to, uint32_t bytes)
{
	put_sized(REGS + SOURCE, 8, from);
	put_sized(REGS + TARGET, 8, to);
	put(REGS + LENGTH, bytes);
	put(REGS + DOORBELL, 1);
	wait_ns(1000);
}

static void test_dma(void **state)
{
	switch_on();
	set_vector(5, 0xfee00000, 0x55);
	put(REGS + VECTOR, 5);
	for (unsigned i = 0; i < 5000; i++)
		p->ram[0x1001 + i] = (uint8_t)(i * 13);
	ring(0x1001, 0x8003, 5000);
	assert_int_equal(get(REGS + STATUS), 0);
	assert_int_equal(get(REGS + DONE), 1);
	assert_memory_equal(p->ram + 0x1001, p->ram + 0x8003, 5000);
	assert_int_equal(p->ram[0x8002] | p->ram[0x8003 + 5000], 0);
	assert_int_equal(p->nr_msis, 1);
	assert_int_equal(p->msi[0].data, 0x55);

	ring(0x1000, REGS, 16);
	assert_int_equal(get(REGS + STATUS), 1);
	ring(MIB(256) - 8, 0x8000, 16); /* over the end of RAM */
	assert_int_equal(get(REGS + STATUS), 1);
	ring(UINT64_MAX - 7, 0x8000, 16);
	assert_int_equal(get(REGS + STATUS), 1);
	ring(0x1000, 0x8000, 0x10001);
	assert_int_equal(get(REGS + STATUS), 2);
	ring(0x1000, 0x20000, 0x10000);
	assert_int_equal(get(REGS + STATUS), 0);
	put(A + 4, MEMORY);
	ring(0x1000, 0x8000, 16);
	assert_int_equal(get(REGS + STATUS), 3);
	assert_int_equal(get(REGS + DONE), 7);
}

/* Who rings while the machine is paused is served after it. */
static void test_pause(void **state)
{
	switch_on();
	clock_stop(&p->vm->clock);
	put(REGS + DOORBELL, 1);
	put(REGS + DOORBELL, 1);
	wait_ns(NSEC_PER_MSEC);
	assert_int_equal(get(REGS + DONE), 0);
	clock_start(&p->vm->clock);
	wait_ns(NSEC_PER_MSEC);
	assert_int_equal(get(REGS + DONE), 1);
}

/* An engine that takes doorbells and keeps messages. */
static struct {
	uint64_t at;
	struct dev_doorbell *bell;
	unsigned moves, frees, changes, sent;
	bool refuses;
} engine;

static int take_doorbell(struct vm *vm, struct dev_doorbell *b, uint64_t gpa)
{
	engine.moves++;
	if (engine.refuses)
		return -EBUSY;
	engine.at = gpa;
	engine.bell = b;
	b->engine_data = &engine;
	return 0;
}

static void free_doorbell(struct vm *vm, struct dev_doorbell *b)
{
	b->engine_data = NULL;
	engine.frees++;
}

static void change_message(struct vm *vm, unsigned id, uint64_t addr, uint32_t data)
{
	assert_int_equal(vm->message[id].addr, addr);
	engine.changes++;
}

static void send_message(struct vm *vm, unsigned id)
{
	engine.sent++;
}

static struct engine_ops with_doorbells;

static void use_engine(void)
{
	memset(&engine, 0, sizeof(engine));
	with_doorbells = *p->vm->engine;
	with_doorbells.doorbell = take_doorbell;
	with_doorbells.doorbell_free = free_doorbell;
	with_doorbells.message = change_message;
	with_doorbells.message_send = send_message;
	p->vm->engine = &with_doorbells;
}

static void test_doorbells(void **state)
{
	struct dev_doorbell *bell;

	use_engine();
	put(A + 4, MEMORY);
	put(B + 4, MEMORY);
	assert_int_equal(engine.moves, 0);
	place(A, 0, REGS);
	assert_int_equal(engine.at, REGS + DOORBELL);
	dev_ring(engine.bell);
	wait_ns(1000);
	assert_int_equal(get(REGS + DONE), 1);
	place(A, 0, SPARE);
	assert_int_equal(engine.at, SPARE + DOORBELL);
	place(A, 0, 0x1000); /* RAM: it must not ring there */
	assert_int_equal(engine.at, 0);
	place(A, 0, SPARE);
	place(B, 0, SPARE); /* in A's shadow */
	assert_ptr_equal(engine.bell->dev, dev_of_a());
	bell = engine.bell;
	dev_reset(dev_of_a());
	assert_int_equal(engine.at, SPARE + DOORBELL);
	assert_ptr_not_equal(engine.bell->dev, dev_of_a());
	dev_ring(bell); /* late: from before the reset */
	wait_ns(1000);
	place(A, 0, REGS);
	put(A + 4, MEMORY);
	assert_int_equal(get(REGS + DONE), 0);
	engine.refuses = true;
	put(B + 4, 0);
	assert_int_equal(engine.frees, 0);
}

static void test_doorbells_are_freed(void **state)
{
	use_engine();
	put(A + 4, MEMORY);
	place(A, 0, REGS);
	assert_int_equal(platform_destroy(p), 0);
	assert_int_equal(engine.frees, 1);
	p = platform_create(NULL);
}

static void test_messages_are_kept(void **state)
{
	use_engine();
	switch_on();
	set_vector(0, 0xfee00000, 0x50);
	put(REGS + RAISE, 0);
	put(REGS + RAISE, 0);
	assert_int_equal(engine.changes, 1);
	assert_int_equal(engine.sent, 2);
	put(MSIX + 8, 0x51);
	put(REGS + RAISE, 0);
	assert_int_equal(engine.changes, 2);
	assert_int_equal(engine.sent, 3);
}

/* --- snapshots ---------------------------------------------------------------------------------
 */

static void test_migration(void **state)
{
	switch_on();
	set_vector(1, 0xfee00000, 0x51);
	put(MSIX + 28, 1);
	put(REGS + RAISE, 1);
	put(REGS + LENGTH, 77);
	clock_stop(&p->vm->clock);
	put(REGS + DOORBELL, 1); /* rung, and not yet served */
	migrate();
	assert_int_equal(get(REGS), MAGIC);
	assert_int_equal(get(MSIX + 0x1000), BIT(1));
	assert_int_equal(p->nr_msis, 0);
	put(MSIX + 28, 0);
	assert_int_equal(p->nr_msis, 1);
	put(REGS + LENGTH, 0);
	wait_ns(1000);
	assert_int_equal(get(REGS + DONE), 1);
}

static void test_hostile_snapshot(void **state)
{
	static uint8_t buf[16384];
	struct snap s = { .buf = buf, .capacity = sizeof(buf) };

	memset(buf, 0xff, sizeof(buf));
	s.loading = true;
	assert_int_equal(dev_snapshot(dev_of_a(), &s), 0);
	assert_int_equal(get(A), 0x10f01af4);
	assert_int_equal(get(A + 4), 0x00100406);
	assert_int_equal(get(A + 0x10), 0xfffff004);
	s = (struct snap){ .buf = buf, .capacity = 40, .loading = true };
	assert_int_equal(dev_snapshot(dev_of_a(), &s), -EINVAL);
}

/* --- the moving half of the bus
 * ------------------------------------------------------------------- */

static struct bus moving;
static _Atomic bool over;
static _Atomic unsigned wrong;

/* In both maps the device of a page reads as its address; between them it may be absent. */
static void *read_on(void *arg)
{
	while (!atomic_load(&over)) {
		for (uint64_t page = 0; page < 32; page++) {
			struct io_access io = { .addr = page << 12, .size = 4 };

			bus_access(&moving, &io);
			if (io.data != UINT32_MAX && io.data != page)
				atomic_fetch_add(&wrong, 1);
		}
	}
	return NULL;
}

static uint64_t read_page(struct dev *d, uint64_t off, unsigned size)
{
	return off >> 12;
}

static void test_moving_under_readers(void **state)
{
	static const struct device_type type = { .name = "pages",
						 .min_access = 4,
						 .max_access = 4,
						 .read = read_page,
						 .concurrent = true,
						 .gsi = { -1, -1, -1, -1 } };
	struct bus_region map[2][32];
	unsigned nr[2] = { 0, 0 };
	pthread_t reader;
	struct dev *d;

	assert_int_equal(dev_create(p->vm, &type, HOST_NODE_ANY, &d), 0);
	for (uint64_t page = 0; page < 32; page++)
		for (unsigned m = 0; m < 2; m++)
			if (page % 3 != m)
				map[m][nr[m]++] =
					(struct bus_region){ page << 12, 0x1000, d, page << 12 };
	assert_int_equal(pthread_create(&reader, NULL, read_on, NULL), 0);
	for (unsigned i = 0; i < 20000; i++)
		bus_set_moving(&moving, map[i % 2], nr[i % 2]);
	atomic_store(&over, true);
	pthread_join(reader, NULL);
	assert_int_equal(wrong, 0);
	dev_destroy(d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_PLATFORM(test_functions),
		ON_PLATFORM(test_what_can_be_written),
		ON_PLATFORM(test_capabilities),
		ON_PLATFORM(test_ports),
		ON_PLATFORM(test_decoding),
		ON_PLATFORM(test_sizing_while_on),
		ON_PLATFORM(test_windows),
		ON_PLATFORM(test_overlaps),
		ON_PLATFORM(test_messages),
		ON_PLATFORM(test_pending),
		ON_PLATFORM(test_table),
		ON_PLATFORM(test_dma),
		ON_PLATFORM(test_pause),
		ON_PLATFORM(test_doorbells),
		ON_PLATFORM(test_doorbells_are_freed),
		ON_PLATFORM(test_messages_are_kept),
		ON_PLATFORM(test_migration),
		ON_PLATFORM(test_hostile_snapshot),
		ON_PLATFORM(test_moving_under_readers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
