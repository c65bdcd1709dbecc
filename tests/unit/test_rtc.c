/* test_rtc.c - the MC146818 by its data sheet, and a PC's CMOS. */
#include "on_platform.h"

#define IRQ 8

static uint8_t get(uint8_t reg)
{
	outb(0x70, reg);
	return inb(0x71);
}

static void set(uint8_t reg, uint8_t val)
{
	outb(0x70, reg);
	outb(0x71, val);
}

/* The simulated host's wall clock starts on 2020-01-01 00:00:00, a Wednesday. */
static void expect(unsigned year, unsigned month, unsigned day, unsigned hour, unsigned min,
		   unsigned sec)
{
	assert_int_equal(get(0x32), year >> 8);
	assert_int_equal(get(9), year & 0xff);
	assert_int_equal(get(8), month);
	assert_int_equal(get(7), day);
	assert_int_equal(get(4), hour);
	assert_int_equal(get(2), min);
	assert_int_equal(get(0), sec);
}

static void set_time(uint8_t century, uint8_t year, uint8_t month, uint8_t day, uint8_t hour,
		     uint8_t min, uint8_t sec)
{
	set(0x0b, get(0x0b) | 0x80);
	set(0x32, century);
	set(9, year);
	set(8, month);
	set(7, day);
	set(4, hour);
	set(2, min);
	set(0, sec);
	set(0x0b, get(0x0b) & 0x7f);
}

static void test_time_runs(void **state)
{
	expect(0x2020, 1, 1, 0, 0, 0);
	assert_int_equal(get(6), 4);
	wait_ns(61 * NSEC_PER_SEC);
	expect(0x2020, 1, 1, 0, 1, 1);
	wait_ns(86400ull * 59 * NSEC_PER_SEC); /* January and 28 days of February, leap year */
	expect(0x2020, 2, 0x29, 0, 1, 1);
	wait_ns(86400ull * NSEC_PER_SEC);
	expect(0x2020, 3, 1, 0, 1, 1);
	assert_int_equal(get(6), 1); /* a Sunday */
}

static void test_set_time(void **state)
{
	set_time(0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x58);
	expect(0x1999, 0x12, 0x31, 0x23, 0x59, 0x58);
	assert_int_equal(get(6), 6); /* a Friday */
	wait_ns(2 * NSEC_PER_SEC);
	expect(0x2000, 1, 1, 0, 0, 0);
	set_time(0x99, 0x99, 0x12, 0x31, 0x23, 0x59, 0x59);
	expect(0x9999, 0x12, 0x31, 0x23, 0x59, 0x59);
	set_time(0x00, 0x01, 0x01, 0x01, 0, 0, 0);
	expect(0x0001, 1, 1, 0, 0, 0);
}

static void test_set_stops_the_clock(void **state)
{
	set(0x0b, 0x82);
	set(2, 0x30);
	wait_ns(100 * NSEC_PER_SEC);
	expect(0x2020, 1, 1, 0, 0x30, 0);
	assert_int_equal(get(0x0a) & 0x80, 0); /* no update either */
	set(0x0b, 0x02);
	wait_ns(NSEC_PER_SEC);
	expect(0x2020, 1, 1, 0, 0x30, 1);
}

static void test_divider_reset(void **state)
{
	set(0x0a, 0x70);
	wait_ns(10 * NSEC_PER_SEC);
	expect(0x2020, 1, 1, 0, 0, 0);
	set(0x0a, 0x26);
	wait_ns(499 * NSEC_PER_MSEC);
	expect(0x2020, 1, 1, 0, 0, 0);
	wait_ns(2 * NSEC_PER_MSEC); /* the first update comes after half a second */
	expect(0x2020, 1, 1, 0, 0, 1);
}

static void test_binary_and_12_hours(void **state)
{
	set_time(0x20, 0x21, 0x11, 0x13, 0x15, 0x45, 0x50);
	set(0x0b, 0x06);
	expect(20 << 8 | 21, 11, 13, 15, 45, 50);
	set(0x0b, 0x04);
	assert_int_equal(get(4), 0x83);
	set(0x0b, 0x00);
	assert_int_equal(get(4), 0x83);
	set(4, 0x12); /* 12 AM is midnight */
	set(0x0b, 0x02);
	assert_int_equal(get(4), 0x00);
	set(0x0b, 0x00);
	set(4, 0x92); /* 12 PM is noon */
	set(0x0b, 0x02);
	assert_int_equal(get(4), 0x12);
}

static void test_every_day_of_centuries(void **state)
{
	static const uint8_t days[] = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };
	unsigned year = 1899, month = 12, day = 31, weekday = 1;

	set(0x0b, 0x06);
	set_time(18, 99, 12, 31, 12, 0, 0);
	for (unsigned i = 0; i < 366 * 40; i++) {
		bool leap = year % 4 == 0 && (year % 100 || year % 400 == 0);

		expect(year / 100 << 8 | year % 100, month, day, 12, 0, 0);
		assert_int_equal(get(6), weekday);
		weekday = weekday % 7 + 1;
		if (day++ == days[month - 1] + (leap && month == 2 ? 1u : 0u)) {
			day = 1;
			month = month % 12 + 1;
			year += month == 1;
		}
		wait_ns(86400ull * NSEC_PER_SEC);
	}
}

static void test_uip(void **state)
{
	wait_ns(NSEC_PER_SEC - 2300 * NSEC_PER_USEC);
	assert_int_equal(get(0x0a), 0x26);
	wait_ns(100 * NSEC_PER_USEC);
	assert_int_equal(get(0x0a), 0xa6);
	assert_int_equal(get(0), 0);
	wait_ns(2200 * NSEC_PER_USEC);
	assert_int_equal(get(0x0a), 0x26);
	assert_int_equal(get(0), 1);
	set(0x0a, 0xa6); /* read-only */
	assert_int_equal(get(0x0a), 0x26);
}

static void test_update_interrupt(void **state)
{
	set(0x0b, 0x12);
	wait_ns(999 * NSEC_PER_MSEC);
	assert_false(is_asserted(IRQ));
	wait_ns(2 * NSEC_PER_MSEC);
	assert_true(is_asserted(IRQ));
	assert_int_equal(get(0x0c) & 0xb0, 0x90);
	assert_false(is_asserted(IRQ)); /* reading takes it back */
	assert_int_equal(get(0x0c) & 0x90, 0);
	wait_ns(NSEC_PER_SEC);
	assert_true(is_asserted(IRQ));
	set(0x0b, get(0x0b) | 0x80); /* SET clears UIE */
	assert_int_equal(get(0x0b) & 0x10, 0);
}

static void test_flags_without_interrupts(void **state)
{
	get(0x0c);
	wait_ns(NSEC_PER_SEC + NSEC_PER_MSEC);
	assert_false(is_asserted(IRQ));
	assert_int_equal(get(0x0c), 0x50); /* PF, UF, no IRQF */
	set(0x0b, 0x02);
	wait_ns(NSEC_PER_SEC);
	set(0x0b, 0x12); /* a flag already set interrupts as soon as it is enabled */
	assert_true(is_asserted(IRQ));
}

static unsigned periods_in_a_second(uint8_t rate)
{
	unsigned n = 0;
	uint64_t end;

	set(0x0a, (uint8_t)(0x20 | rate));
	get(0x0c);
	end = clock_now_ns(&p->vm->clock) + NSEC_PER_SEC;
	while (clock_now_ns(&p->vm->clock) < end) {
		wait_ns(50 * NSEC_PER_USEC);
		if (is_asserted(IRQ)) {
			n++;
			assert_int_equal(get(0x0c) & 0xc0, 0xc0);
		}
	}
	return n;
}

static void test_periodic_interrupt(void **state)
{
	set(0x0b, 0x42);
	assert_in_range(periods_in_a_second(6), 1023, 1025);
	assert_in_range(periods_in_a_second(15), 1, 3);
	assert_in_range(periods_in_a_second(1), 255, 257);
	assert_in_range(periods_in_a_second(2), 127, 129);
	assert_in_range(periods_in_a_second(3), 8100, 8200);
	assert_int_equal(periods_in_a_second(0), 0);
}

static uint64_t alarm_after(uint64_t limit_s)
{
	uint64_t s = 0;

	get(0x0c);
	while (s < limit_s && !is_asserted(IRQ)) {
		wait_ns(NSEC_PER_SEC);
		s++;
	}
	return s;
}

static void test_alarm(void **state)
{
	wait_ns(NSEC_PER_MSEC);
	set(0x0b, 0x22);
	set(1, 0x05);
	set(3, 0x02);
	set(5, 0x00);
	assert_int_equal(alarm_after(1000), 125);
	assert_int_equal(get(0x0c) & 0xa0, 0xa0);
	assert_int_equal(alarm_after(100000), 86400);
	set(5, 0xff); /* every hour */
	assert_int_equal(alarm_after(10000), 3600);
	set(3, 0xc0); /* every minute */
	assert_int_equal(alarm_after(1000), 60);
	set(1, 0xc0); /* every second */
	assert_int_equal(alarm_after(1000), 1);
	set(1, 0x77); /* never */
	assert_int_equal(alarm_after(200), 200);
}

static void test_alarm_12_hours(void **state)
{
	set(0x0b, 0x20);
	set(1, 0);
	set(3, 0);
	set(5, 0x81); /* 1 PM */
	assert_int_equal(alarm_after(100000), 13 * 3600);
}

static void test_memory_sizes(void **state)
{
	struct platform_config cfg = { .vcpus = 3, .ram_bytes = GIB(5) };

	assert_int_equal(get(0x15) | get(0x16) << 8, 640);
	assert_int_equal(get(0x17) | get(0x18) << 8, 63 * 1024);
	assert_int_equal(get(0x34) | get(0x35) << 8, 240 * 16);
	assert_int_equal(get(0x5f), 0);
	assert_int_equal(platform_destroy(p), 0);
	p = platform_create(&cfg);
	assert_int_equal(get(0x34) | get(0x35) << 8, (3072 - 16) * 16);
	assert_int_equal(get(0x5b) | get(0x5c) << 8 | get(0x5d) << 16, 2048 * 16);
	assert_int_equal(get(0x5f), 2);
}

static void test_checksum(void **state)
{
	unsigned sum = 0;

	for (uint8_t i = 0x10; i <= 0x2d; i++)
		sum += get(i);
	assert_int_equal(get(0x2e) << 8 | get(0x2f), sum);
}

static void test_registers(void **state)
{
	assert_int_equal(get(0x0d), 0x80);
	set(0x0d, 0);
	assert_int_equal(get(0x0d), 0x80);
	set(0x0c, 0xff);
	assert_int_equal(get(0x0c), 0);
	set(0x8f, 0x77); /* bit 7 is the NMI mask */
	assert_int_equal(get(0x0f), 0x77);
	assert_int_equal(inb(0x70), 0xff);
}

static void test_battery(void **state)
{
	set_time(0x20, 0x30, 1, 1, 0, 0, 0);
	set(0x40, 0x99);
	set(0x0b, 0x72);
	wait_ns(NSEC_PER_SEC);
	dev_reset(platform_dev(p, "rtc"));
	assert_int_equal(get(0x0b), 0x02);
	assert_false(is_asserted(IRQ));
	assert_int_equal(get(0x40), 0x99);
	expect(0x2030, 1, 1, 0, 0, 1);
}

static void test_nonsense_is_survived(void **state)
{
	for (unsigned v = 0; v < 256; v += 5) {
		set_time((uint8_t)v, 0xff, (uint8_t)v, (uint8_t)(v + 1), 0xff, 0xfe, 0xff);
		wait_ns(NSEC_PER_SEC);
		get(0);
		assert_in_range(get(8), 1, 0x12);
		assert_in_range(get(7), 1, 0x31);
	}
}

static void test_snapshot(void **state)
{
	set_time(0x20, 0x30, 1, 1, 0, 0, 0);
	set(0x0b, 0x12);
	wait_ns(NSEC_PER_SEC / 4);
	migrate();
	expect(0x2030, 1, 1, 0, 0, 0);
	assert_false(is_asserted(IRQ));
	wait_ns(NSEC_PER_SEC);
	expect(0x2030, 1, 1, 0, 0, 1);
	assert_true(is_asserted(IRQ));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_PLATFORM(test_time_runs),
		ON_PLATFORM(test_set_time),
		ON_PLATFORM(test_set_stops_the_clock),
		ON_PLATFORM(test_divider_reset),
		ON_PLATFORM(test_binary_and_12_hours),
		ON_PLATFORM(test_every_day_of_centuries),
		ON_PLATFORM(test_uip),
		ON_PLATFORM(test_update_interrupt),
		ON_PLATFORM(test_flags_without_interrupts),
		ON_PLATFORM(test_periodic_interrupt),
		ON_PLATFORM(test_alarm),
		ON_PLATFORM(test_alarm_12_hours),
		ON_PLATFORM(test_memory_sizes),
		ON_PLATFORM(test_checksum),
		ON_PLATFORM(test_registers),
		ON_PLATFORM(test_battery),
		ON_PLATFORM(test_nonsense_is_survived),
		ON_PLATFORM(test_snapshot),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
