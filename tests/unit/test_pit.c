/* test_pit.c - the 8254 by its data sheet. */
#include "on_platform.h"

#define HZ   1193182ull
#define LINE 0

static uint64_t clocks(uint64_t n)
{
	return mul_div_u64(n, NSEC_PER_SEC, HZ) + 1;
}

static void program(unsigned ch, unsigned mode, uint16_t count)
{
	outb(0x43, (uint8_t)(ch << 6 | 0x30 | mode << 1));
	outb(0x40 + ch, (uint8_t)count);
	outb(0x40 + ch, (uint8_t)(count >> 8));
}

static uint16_t count_of(unsigned ch)
{
	uint8_t low;

	outb(0x43, (uint8_t)(ch << 6)); /* latch */
	low = inb(0x40 + ch);
	return (uint16_t)(low | inb(0x40 + ch) << 8);
}

static uint8_t status_of(unsigned ch)
{
	outb(0x43, (uint8_t)(0xe0 | 2 << ch));
	return inb(0x40 + ch);
}

static bool out_of(unsigned ch)
{
	return status_of(ch) & 0x80;
}

static bool out2(void)
{
	return inb(0x61) & 0x20;
}

/* Edges of IRQ 0 in the next @ns, counted by the I/O APIC's pin 2. */
static unsigned edges(uint64_t ns)
{
	unsigned before;

	platform_store(p, 0xfec00000, 0x14);
	platform_store(p, 0xfec00010, 0x30);
	before = p->nr_msis;
	wait_ns(ns);
	return p->nr_msis - before;
}

static void test_one_shot(void **state)
{
	program(0, 0, 1000);
	assert_false(is_asserted(LINE));
	assert_false(out_of(0));
	wait_ns(clocks(1000) - 100);
	assert_false(is_asserted(LINE));
	wait_ns(clocks(1) + 200); /* one more clock for loading */
	assert_true(is_asserted(LINE));
	assert_true(out_of(0));
	assert_int_equal(edges(NSEC_PER_SEC), 0); /* once only */
	program(0, 0, 1000);
	assert_false(is_asserted(LINE)); /* a new count lowers it */
}

static void test_one_shot_counts_through(void **state)
{
	program(0, 0, 10);
	wait_ns(clocks(1 + 12) + 400);
	assert_int_equal(count_of(0), 0xfffe);
}

static void test_rate(void **state)
{
	program(0, 2, 11932); /* 100 Hz */
	assert_in_range(edges(NSEC_PER_SEC), 99, 100);
	assert_true(is_asserted(LINE));
}

/* Deadlines come from the start, so that no error adds up. */
static void test_rate_does_not_drift(void **state)
{
	program(0, 2, 1193);
	edges(0);
	p->nr_msis = 0;
	wait_ns(1000 * NSEC_PER_SEC / 10);
	assert_in_range(p->nr_msis, HZ * 100 / 1193 - 1, HZ * 100 / 1193 + 1);
}

static void test_rate_new_count_at_end_of_period(void **state)
{
	program(0, 2, 11932);
	wait_ns(clocks(6000));
	outb(0x40, 4000 & 0xff);
	outb(0x40, 4000 >> 8);
	assert_true(status_of(0) & 0x40); /* null count: not in force yet */
	assert_in_range(count_of(0), 11932 - 6001, 11932 - 5998);
	wait_ns(clocks(5932 + 10));
	assert_false(status_of(0) & 0x40);
	assert_in_range(count_of(0), 3980, 4000);
}

static void test_rate_output(void **state)
{
	program(2, 2, 100);
	outb(0x61, 1);
	assert_true(out2());
	wait_ns(clocks(1) + clocks(99) + 200);
	assert_false(out2()); /* low for the last clock */
	wait_ns(clocks(1));
	assert_true(out2());
}

static void test_square(void **state)
{
	outb(0x61, 1);
	program(2, 3, 1000);
	wait_ns(clocks(1) + clocks(499));
	assert_true(out2());
	wait_ns(clocks(2));
	assert_false(out2());
	wait_ns(clocks(499));
	assert_true(out2());
	wait_ns(clocks(249));
	assert_in_range(count_of(2), 496, 504); /* by two: half way at a quarter */
}

static void test_square_odd(void **state)
{
	unsigned high = 0;

	outb(0x61, 1);
	program(2, 3, 5);
	wait_ns(clocks(1) + 400);
	for (unsigned i = 0; i < 50; i++) {
		uint16_t n = count_of(2);

		high += out2();
		assert_int_equal(n & 1, 0);
		assert_true(n <= 4);
		wait_ns(838);
	}
	assert_in_range(high, 29, 31); /* three clocks of five */
}

static void test_square_interrupts(void **state)
{
	program(0, 3, 0); /* 65536: 18.2 Hz */
	assert_in_range(edges(10 * NSEC_PER_SEC), 181, 183);
}

static void test_strobe(void **state)
{
	program(0, 4, 1000);
	assert_true(out_of(0));
	assert_int_equal(edges(clocks(990)), 0);
	assert_int_equal(edges(clocks(20)), 1);
	assert_int_equal(edges(NSEC_PER_SEC), 0);
}

static void test_gate_stops(void **state)
{
	outb(0x61, 0);
	program(2, 0, 1000);
	wait_ns(clocks(5000));
	assert_int_equal(count_of(2), 1000);
	outb(0x61, 1);
	wait_ns(clocks(400));
	outb(0x61, 0);
	assert_in_range(count_of(2), 598, 602);
	wait_ns(clocks(5000));
	assert_in_range(count_of(2), 598, 602);
	assert_false(out2());
	outb(0x61, 1);
	wait_ns(clocks(590));
	assert_false(out2());
	wait_ns(clocks(20));
	assert_true(out2());
}

static void test_gate_triggers(void **state)
{
	outb(0x61, 0);
	program(2, 1, 1000);
	assert_true(out2());
	wait_ns(clocks(2000));
	assert_true(out2()); /* waits for its trigger */
	outb(0x61, 1);
	wait_ns(clocks(500));
	assert_false(out2());
	outb(0x61, 0);
	outb(0x61, 1); /* starts again */
	wait_ns(clocks(990));
	assert_false(out2());
	wait_ns(clocks(20));
	assert_true(out2());
}

static void test_gate_reloads_rate(void **state)
{
	outb(0x61, 1);
	program(2, 2, 1000);
	wait_ns(clocks(700));
	outb(0x61, 0);
	assert_true(out2());
	outb(0x61, 1);
	wait_ns(clocks(1));
	assert_in_range(count_of(2), 998, 1000);
}

static void test_latch_holds(void **state)
{
	uint8_t low;

	program(0, 2, 10000);
	wait_ns(clocks(101));
	outb(0x43, 0x00);
	wait_ns(clocks(500));
	outb(0x43, 0x00); /* a second latch changes nothing */
	low = inb(0x40);
	assert_in_range(low | inb(0x40) << 8, 9898, 9902);
	low = inb(0x40); /* now live again */
	assert_in_range(low | inb(0x40) << 8, 9395, 9402);
}

static void test_read_back(void **state)
{
	program(0, 2, 0x1234);
	program(2, 3, 0x2000);
	wait_ns(clocks(2));
	outb(0x43, 0xca);                  /* count and status of channels 0 and 2 */
	assert_int_equal(inb(0x40), 0xb4); /* out, both bytes, mode 2 */
	assert_in_range(inb(0x40), 0x30, 0x34);
	assert_int_equal(inb(0x40), 0x12);
	assert_int_equal(inb(0x42) & 0x3f, 0x36);
	inb(0x42);
	assert_in_range(inb(0x42), 0x1f, 0x20);
}

static void test_byte_access(void **state)
{
	outb(0x43, 0x14); /* channel 0, low byte only, mode 2 */
	outb(0x40, 200);
	wait_ns(clocks(11));
	assert_in_range(inb(0x40), 188, 191);
	assert_in_range(inb(0x40), 188, 191);
	outb(0x43, 0x24); /* high byte only */
	outb(0x40, 0x10);
	wait_ns(clocks(2) + 400);
	assert_int_equal(inb(0x40), 0x0f);
}

static void test_bcd(void **state)
{
	outb(0x43, 0x31); /* mode 0, BCD */
	outb(0x40, 0x00);
	outb(0x40, 0x10); /* 1000 */
	wait_ns(clocks(1 + 1) + 400);
	assert_int_equal(count_of(0), 0x999);
	wait_ns(clocks(1000));
	assert_int_equal(count_of(0), 0x9999);
}

static void test_control_port_is_write_only(void **state)
{
	assert_int_equal(inb(0x43), 0xff);
}

static void test_system_port(void **state)
{
	uint8_t before;

	outb(0x61, 0xff);
	assert_int_equal(inb(0x61) & 0xcf, 0x0f);
	before = inb(0x61) & 0x10;
	wait_ns(15085);
	assert_int_not_equal(inb(0x61) & 0x10, before);
}

/* What a guest asks for must not cost the host more than so many events. */
static void test_storm_is_bounded(void **state)
{
	program(0, 2, 2);
	assert_in_range(edges(NSEC_PER_SEC), 1, 20001);
}

static void test_reset_stops(void **state)
{
	program(0, 2, 11932);
	wait_ns(NSEC_PER_SEC);
	dev_reset(platform_dev(p, "pit"));
	assert_false(is_asserted(LINE));
	assert_int_equal(edges(NSEC_PER_SEC), 0);
}

static void test_snapshot(void **state)
{
	program(0, 2, 11932);
	program(2, 0, 5000);
	outb(0x61, 1);
	wait_ns(clocks(1001));
	migrate();
	assert_in_range(count_of(2), 3995, 4001);
	assert_in_range(count_of(0), 11932 - 1003, 11932 - 998);
	assert_in_range(edges(NSEC_PER_SEC), 99, 100);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_PLATFORM(test_one_shot),
		ON_PLATFORM(test_one_shot_counts_through),
		ON_PLATFORM(test_rate),
		ON_PLATFORM(test_rate_does_not_drift),
		ON_PLATFORM(test_rate_new_count_at_end_of_period),
		ON_PLATFORM(test_rate_output),
		ON_PLATFORM(test_square),
		ON_PLATFORM(test_square_odd),
		ON_PLATFORM(test_square_interrupts),
		ON_PLATFORM(test_strobe),
		ON_PLATFORM(test_gate_stops),
		ON_PLATFORM(test_gate_triggers),
		ON_PLATFORM(test_gate_reloads_rate),
		ON_PLATFORM(test_latch_holds),
		ON_PLATFORM(test_read_back),
		ON_PLATFORM(test_byte_access),
		ON_PLATFORM(test_bcd),
		ON_PLATFORM(test_control_port_is_write_only),
		ON_PLATFORM(test_system_port),
		ON_PLATFORM(test_storm_is_bounded),
		ON_PLATFORM(test_reset_stops),
		ON_PLATFORM(test_snapshot),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
