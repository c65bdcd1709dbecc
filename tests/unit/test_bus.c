/* test_bus.c - buses, interrupt lines and the device core, with a device made for it. */
#include "on_platform.h"

/* --- a device that writes down what it is asked -------------------------------------- */

struct probe {
	unsigned reads, writes;
	struct {
		uint64_t off, val;
		unsigned size;
	} last[8];
	uint64_t due, fired_at;
	unsigned nr_fired;
	bool chatty;
};

static void note(struct probe *s, unsigned n, uint64_t off, unsigned size, uint64_t val)
{
	s->last[n % 8].off = off;
	s->last[n % 8].size = size;
	s->last[n % 8].val = val;
}

/* Byte n of the device reads as n, with more bits than were asked for. */
static uint64_t probe_read(struct dev *d, uint64_t off, unsigned size)
{
	struct probe *s = dev_state(d);

	note(s, s->reads++, off, size, 0);
	return 0x0706050403020100ull >> (off % 8 * 8);
}

static void probe_write(struct dev *d, uint64_t off, unsigned size, uint64_t val)
{
	struct probe *s = dev_state(d);

	note(s, s->writes++, off, size, val);
}

static void probe_timer(struct dev *d)
{
	struct probe *s = dev_state(d);

	s->fired_at = dev_now(d);
	s->nr_fired++;
	if (s->chatty)
		dev_timer_set(d, dev_now(d) + 100);
}

static struct device_type probe_type = {
	.name = "probe",
	.state_size = sizeof(struct probe),
	.read = probe_read,
	.write = probe_write,
	.timer = probe_timer,
	.gsi = { 10, 11, -1, -1 },
};

static struct dev *add_probe(uint64_t base, uint64_t bytes, uint8_t min, uint8_t max)
{
	struct vm *vm = p->vm;

	probe_type.region[0] = (struct dev_region){ BUS_MMIO, base, bytes };
	probe_type.min_access = min;
	probe_type.max_access = max;
	assert_int_equal(dev_create(vm, &probe_type, HOST_NODE_ANY, &vm->dev[vm->nr_devs]), 0);
	return vm->dev[vm->nr_devs++];
}

static uint64_t load(uint64_t addr, unsigned size)
{
	struct io_access io = { .addr = addr, .size = (uint8_t)size };

	bus_access(&p->vm->mmio, &io);
	return io.data;
}

static void store(uint64_t addr, unsigned size, uint64_t val)
{
	struct io_access io = { addr, val, (uint8_t)size, true };

	bus_access(&p->vm->mmio, &io);
}

/* --- buses -------------------------------------------------------------------------- */

static void test_regions_are_disjoint(void **state)
{
	struct bus b = { .nr_regions = 0 };

	assert_int_equal(bus_add(&b, 0x100, 0x10, NULL, 0), 0);
	assert_int_equal(bus_add(&b, 0x10f, 0x10, NULL, 0), -EEXIST);
	assert_int_equal(bus_add(&b, 0xf1, 0x10, NULL, 0), -EEXIST);
	assert_int_equal(bus_add(&b, 0x104, 1, NULL, 0), -EEXIST);
	assert_int_equal(bus_add(&b, 0x80, 0x200, NULL, 0), -EEXIST);
	assert_int_equal(bus_add(&b, 0xf0, 0x10, NULL, 0), 0);
	assert_int_equal(bus_add(&b, 0x110, 0x10, NULL, 0), 0);
	assert_int_equal(bus_add(&b, 0, 0, NULL, 0), -EINVAL);
	assert_int_equal(bus_add(&b, UINT64_MAX, 2, NULL, 0), -EINVAL);
	for (unsigned i = 0; i + 1 < b.nr_regions; i++)
		assert_true(b.region[i].base < b.region[i + 1].base);
	for (unsigned i = 3; i < BUS_REGIONS_MAX; i++)
		assert_int_equal(bus_add(&b, 0x1000 * i, 1, NULL, 0), 0);
	assert_int_equal(bus_add(&b, 0x10, 1, NULL, 0), -ENOSPC);
}

static void test_nobody_answers(void **state)
{
	struct io_access io = { .addr = 0xd0000000, .size = 4 };

	assert_false(bus_access(&p->vm->mmio, &io));
	assert_int_equal(io.data, UINT32_MAX);
	io = (struct io_access){ 0xd0000000, 1, 4, true };
	assert_false(bus_access(&p->vm->mmio, &io));
	assert_int_equal(io.data, 1);
}

static void test_results_are_cut(void **state)
{
	add_probe(0xd0000000, 8, 1, 8);
	assert_int_equal(load(0xd0000001, 1), 0x01);
	assert_int_equal(load(0xd0000002, 2), 0x0302);
	assert_int_equal(load(0xd0000004, 4), 0x07060504);
}

static void test_large_is_split(void **state)
{
	struct probe *s = dev_state(add_probe(0xd0000000, 8, 1, 2));

	assert_int_equal(load(0xd0000000, 4) & 0x0fffffff, 0x03020100);
	assert_int_equal(s->reads, 2);
	store(0xd0000000, 8, 0x1122334455667788);
	assert_int_equal(s->writes, 4);
	assert_int_equal(s->last[0].val, 0x7788);
	assert_int_equal(s->last[3].off, 6);
	assert_int_equal(s->last[3].val, 0x1122);
}

static void test_unaligned_is_split(void **state)
{
	struct probe *s = dev_state(add_probe(0xd0000000, 8, 1, 4));

	assert_int_equal(load(0xd0000001, 4), 0x04030201);
	assert_int_equal(s->reads, 3);
	assert_int_equal(s->last[0].size, 1);
	assert_int_equal(s->last[1].size, 2);
	assert_int_equal(s->last[2].size, 1);
}

static void test_small_is_widened(void **state)
{
	struct probe *s = dev_state(add_probe(0xd0000000, 8, 4, 4));

	assert_int_equal(load(0xd0000006, 1), 0x06);
	assert_int_equal(s->last[0].off, 4);
	assert_int_equal(s->last[0].size, 4);
	store(0xd0000002, 2, 0xffff1234);
	assert_int_equal(s->last[0].off, 0);
	assert_int_equal(s->last[0].val, 0x12340000);
}

static void test_beyond_the_end(void **state)
{
	struct probe *s = dev_state(add_probe(0xd0000000, 6, 1, 4));

	assert_int_equal(load(0xd0000004, 4), 0xffff0504);
	assert_int_equal(load(0xcffffffe, 4), 0x0100ffff);
	store(0xd0000004, 8, 0x1122334455667788);
	assert_int_equal(s->writes, 1);
	assert_int_equal(s->last[0].val, 0x7788);
}

static void test_neighbours(void **state)
{
	struct probe *a = dev_state(add_probe(0xd0000000, 2, 1, 4));
	struct probe *b = dev_state(add_probe(0xd0000002, 2, 1, 4));

	store(0xd0000000, 4, 0x44332211);
	assert_int_equal(a->last[0].val, 0x2211);
	assert_int_equal(b->last[0].val, 0x4433);
}

static void test_top_of_the_address_space(void **state)
{
	add_probe(0xd0000000, 8, 1, 8);
	assert_int_equal(load(UINT64_MAX - 1, 8), UINT64_MAX);
	assert_int_equal(platform_in(p, 0xffff, 4), UINT32_MAX);
}

/* --- the device core ------------------------------------------------------------------ */

static void test_timer(void **state)
{
	struct dev *d = add_probe(0xd0000000, 8, 1, 8);
	struct probe *s = dev_state(d);

	dev_timer_set(d, 500);
	dev_timer_set(d, 900);
	wait_ns(800);
	assert_int_equal(s->nr_fired, 0);
	wait_ns(800);
	assert_int_equal(s->nr_fired, 1);
	assert_in_range(s->fired_at, 900, 901);
	dev_timer_set(d, 2000);
	dev_timer_cancel(d);
	wait_ns(2000);
	assert_int_equal(s->nr_fired, 1);
	s->chatty = true; /* arms itself from inside */
	dev_timer_set(d, 0);
	wait_ns(1050);
	assert_in_range(s->nr_fired, 10, 12);
	dev_timer_cancel(d);
}

static void test_lines_are_wired_or(void **state)
{
	struct dev *a = add_probe(0xd0000000, 8, 1, 8);
	struct dev *b = add_probe(0xd0000008, 8, 1, 8);

	dev_irq(a, true);
	dev_irq(b, true);
	dev_irq(a, false);
	assert_true(is_asserted(10));
	assert_false(is_asserted(11));
	dev_irq(b, false);
	assert_false(is_asserted(10));
	dev_irq_line(a, 1, true);
	assert_true(is_asserted(11));
	dev_irq_line(a, 2, true);           /* not wired */
	irq_set(p->vm, GSI_COUNT, 0, true); /* no such line, no such source */
	irq_set(p->vm, 3, 32, true);
	assert_false(is_asserted(3));
}

static unsigned count(const char *text, const char *what)
{
	unsigned n = 0;

	while ((text = strstr(text, what))) {
		text += strlen(what);
		n++;
	}
	return n;
}

static void test_log_is_limited(void **state)
{
	struct dev *d = add_probe(0xd0000000, 8, 1, 8);

	for (unsigned i = 0; i < 1000; i++)
		dev_log(d, LOG_WARN, "again %u", i);
	assert_int_equal(count(sim_log(&p->host), "probe: again"), DEV_LOG_BURST);
	wait_ns(DEV_LOG_WINDOW_NS);
	dev_log(d, LOG_WARN, "once");
	assert_non_null(strstr(sim_log(&p->host), "984 lines not shown"));
	assert_non_null(strstr(sim_log(&p->host), "probe: once"));
}

static int refuse(struct dev *d)
{
	return -EBADF;
}

static void test_create_fails_cleanly(void **state)
{
	struct device_type t = probe_type;
	struct dev *d;

	t.region[0] = (struct dev_region){ BUS_PIO, 0x60, 1 };
	assert_int_equal(dev_create(p->vm, &t, HOST_NODE_ANY, &d), -EEXIST);
	t.region[0].base = 0xa00;
	t.init = refuse;
	assert_int_equal(dev_create(p->vm, &t, HOST_NODE_ANY, &d), -EBADF);
	t.init = NULL;
	sim_fail(&p->host, SIM_FAIL_ALLOC, 1);
	assert_int_equal(dev_create(p->vm, &t, HOST_NODE_ANY, &d), -ENOMEM);
	sim_fail(&p->host, SIM_FAIL_TIMER, 1);
	assert_int_equal(dev_create(p->vm, &t, HOST_NODE_ANY, &d), -ENOMEM);
	dev_destroy(NULL);
}

static void test_empty_handlers(void **state)
{
	static const struct device_type t = { .name = "empty", .gsi = { -1, -1, -1, -1 } };
	struct vm *vm = p->vm;
	struct snap s = { .capacity = 0 };
	struct dev *d;

	assert_int_equal(dev_create(vm, &t, HOST_NODE_ANY, &d), 0);
	vm->dev[vm->nr_devs++] = d;
	dev_reset(d);
	assert_int_equal(dev_read(d, 0, 4), UINT64_MAX);
	dev_write(d, 0, 4, 0);
	assert_int_equal(dev_input(d, NULL, 4), 0);
	assert_int_equal(dev_snapshot(d, &s), 0);
	dev_irq(d, true);
}

/* --- snapshots ------------------------------------------------------------------------- */

static void test_snapshot_bounds(void **state)
{
	uint8_t buf[3];
	struct snap s = { .buf = buf, .capacity = sizeof(buf) };
	uint16_t v = 0x1234;

	snap_u16(&s, &v);
	snap_u16(&s, &v);
	assert_int_equal(snap_error(&s), -ENOSPC);
	assert_int_equal(s.pos, 2);
	s = (struct snap){ .buf = buf, .capacity = 3, .loading = true };
	v = 0;
	snap_u16(&s, &v);
	assert_int_equal(v, 0x1234);
	v = 7;
	snap_u16(&s, &v);
	assert_int_equal(v, 7);
	assert_int_equal(snap_error(&s), -EINVAL);
	snap_u8(&s, buf); /* after an error nothing works any more */
	assert_int_equal(s.pos, 2);
}

/* Cut anywhere, a snapshot is refused, and nothing worse happens. */
static void test_truncated_snapshots(void **state)
{
	static uint8_t buf[8192];
	struct snap s = { .buf = buf, .capacity = sizeof(buf) };
	size_t all;

	assert_int_equal(platform_snapshot(p, &s), 0);
	all = s.pos;
	for (size_t n = 0; n < all; n++) {
		s = (struct snap){ .buf = buf, .capacity = n, .loading = true };
		assert_int_equal(platform_snapshot(p, &s), -EINVAL);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_PLATFORM(test_regions_are_disjoint),     ON_PLATFORM(test_nobody_answers),
		ON_PLATFORM(test_results_are_cut),          ON_PLATFORM(test_large_is_split),
		ON_PLATFORM(test_unaligned_is_split),       ON_PLATFORM(test_small_is_widened),
		ON_PLATFORM(test_beyond_the_end),           ON_PLATFORM(test_neighbours),
		ON_PLATFORM(test_top_of_the_address_space), ON_PLATFORM(test_timer),
		ON_PLATFORM(test_lines_are_wired_or),       ON_PLATFORM(test_log_is_limited),
		ON_PLATFORM(test_create_fails_cleanly),     ON_PLATFORM(test_empty_handlers),
		ON_PLATFORM(test_snapshot_bounds),          ON_PLATFORM(test_truncated_snapshots),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
