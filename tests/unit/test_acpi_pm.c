/* test_acpi_pm.c - PM1a event and control blocks and the PM timer. */
#include "on_platform.h"

#define STATUS  0x600
#define ENABLE  0x602
#define CONTROL 0x604
#define TIMER   0x608
#define SCI     9
#define HZ      3579545ull

static uint16_t inw(uint64_t port)
{
	return (uint16_t)platform_in(p, port, 2);
}

static void outw(uint64_t port, uint16_t val)
{
	platform_out(p, port, 2, val);
}

static void test_timer(void **state)
{
	uint32_t start = (uint32_t)platform_in(p, TIMER, 4);

	wait_ns(NSEC_PER_SEC);
	assert_in_range((uint32_t)platform_in(p, TIMER, 4) - start, HZ - 1, HZ + 1);
	wait_ns(3000 * NSEC_PER_SEC); /* more than 32 bits of it */
	assert_in_range((uint32_t)platform_in(p, TIMER, 4), (uint32_t)(HZ * 3001) - 2,
			(uint32_t)(HZ * 3001) + 2);
	platform_out(p, TIMER, 4, 0); /* read-only */
	assert_in_range((uint32_t)platform_in(p, TIMER, 4), (uint32_t)(HZ * 3001) - 2,
			(uint32_t)(HZ * 3001) + 2);
}

static void test_timer_parts(void **state)
{
	uint32_t all;

	wait_ns(12345678901);
	all = (uint32_t)platform_in(p, TIMER, 4);
	assert_int_equal(inw(TIMER), (uint16_t)all);
	assert_int_equal(inw(TIMER + 2), all >> 16);
	assert_int_equal(inb(TIMER + 1), (uint8_t)(all >> 8));
}

static void test_timer_carry(void **state)
{
	uint64_t half = (1ull << 31) * NSEC_PER_SEC / HZ;

	outw(ENABLE, 1);
	wait_ns(half - NSEC_PER_MSEC);
	assert_false(is_asserted(SCI));
	assert_int_equal(inw(STATUS), 0);
	wait_ns(2 * NSEC_PER_MSEC);
	assert_true(is_asserted(SCI));
	assert_int_equal(inw(STATUS), 1);
	outw(STATUS, 1);
	assert_false(is_asserted(SCI));
	assert_int_equal(inw(STATUS), 0);
	wait_ns(half); /* the bit falls: that counts, too */
	assert_true(is_asserted(SCI));
	outw(ENABLE, 0);
	assert_false(is_asserted(SCI));
	assert_int_equal(inw(STATUS), 1);
}

static void test_enable(void **state)
{
	outw(ENABLE, 0xffff);
	assert_int_equal(inw(ENABLE), 0x0721);
	assert_int_equal(platform_in(p, STATUS, 4), 0x07210000);
	outb(ENABLE + 1, 0);
	assert_int_equal(inw(ENABLE), 0x0021); /* the other byte stays */
}

static void test_poweroff(void **state)
{
	assert_int_equal(inw(CONTROL), 1); /* SCI_EN */
	outw(CONTROL, 5 << 10);
	assert_int_equal(platform_request(p, NULL), VM_REQ_NONE);
	outw(CONTROL, 0x2000 | 5 << 10);
	assert_int_equal(platform_request(p, NULL), VM_REQ_POWEROFF);
	assert_int_equal(inw(CONTROL), 5 << 10 | 1); /* SLP_EN reads 0 */
	outw(CONTROL, 0);
	outb(CONTROL + 1, 0x20 | 5 << 2); /* by bytes */
	assert_int_equal(platform_request(p, NULL), VM_REQ_POWEROFF);
}

static void test_other_sleep_types(void **state)
{
	for (uint16_t t = 0; t < 8; t++)
		if (t != 5)
			outw(CONTROL, (uint16_t)(0x2000 | t << 10));
	assert_int_equal(platform_request(p, NULL), VM_REQ_NONE);
	assert_non_null(strstr(sim_log(&p->host), "sleep type 3 is not offered"));
}

static void test_snapshot(void **state)
{
	uint64_t half = (1ull << 31) * NSEC_PER_SEC / HZ;

	outw(ENABLE, 1);
	wait_ns(half / 2);
	migrate();
	assert_int_equal(inw(ENABLE), 1);
	assert_false(is_asserted(SCI));
	wait_ns(half / 2 + NSEC_PER_MSEC);
	assert_true(is_asserted(SCI));
	migrate();
	assert_true(is_asserted(SCI));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_PLATFORM(test_timer),       ON_PLATFORM(test_timer_parts),
		ON_PLATFORM(test_timer_carry), ON_PLATFORM(test_enable),
		ON_PLATFORM(test_poweroff),    ON_PLATFORM(test_other_sleep_types),
		ON_PLATFORM(test_snapshot),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
