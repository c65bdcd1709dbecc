/* test_reset.c - the ways in which a guest resets its machine. */
#include "on_platform.h"

static bool was_reset(void)
{
	return platform_request(p, NULL) == VM_REQ_RESET;
}

static void test_control_register(void **state)
{
	outb(0xcf9, 0x02); /* hard or soft: only the other bit resets */
	assert_false(was_reset());
	outb(0xcf9, 0x06);
	assert_true(was_reset());
	assert_int_equal(inb(0xcf9), 0x06);
	outb(0xcf9, 0x0e); /* no edge */
	assert_false(was_reset());
	dev_reset(platform_dev(p, "pci-ports"));
	assert_int_equal(inb(0xcf9), 0);
	outb(0xcf9, 0x06); /* as FADT says */
	assert_true(was_reset());
}

/* Systems that look for PCI write whole addresses over the register. */
static void test_pci_address_is_no_reset(void **state)
{
	platform_out(p, 0xcf8, 4, 0x8000ff00);
	platform_out(p, 0xcf8, 2, 0xff00);
	platform_out(p, 0xcfa, 2, 0xffff);
	outb(0xcf8, 0xff);
	outb(0xcfb, 0x01);
	assert_false(was_reset());
	assert_int_equal(platform_in(p, 0xcf8, 4), 0x8000ff00);
	assert_int_equal(inb(0xcf9), 0);
}

static void test_fast_reset(void **state)
{
	assert_int_equal(inb(0x92), 0x02); /* A20 is on */
	outb(0x92, 0x00);
	assert_int_equal(inb(0x92), 0x02);
	assert_false(was_reset());
	outb(0x92, 0x03);
	assert_true(was_reset());
	outb(0x92, 0x03);
	assert_false(was_reset());
}

static void test_i8042_pulse(void **state)
{
	outb(0x64, 0xff); /* pulses nothing */
	assert_false(was_reset());
	outb(0x64, 0xfe);
	assert_true(was_reset());
	outb(0x64, 0xd1);
	outb(0x60, 0xfe); /* output port, bit 0 low */
	assert_true(was_reset());
	outb(0x64, 0xd1);
	outb(0x60, 0x03);
	assert_false(was_reset());
}

static uint8_t ask(uint8_t command)
{
	assert_int_equal(inb(0x64) & 0x03, 0); /* nothing waits, input is free */
	outb(0x64, command);
	assert_int_equal(inb(0x64) & 0x01, 0x01);
	return inb(0x60);
}

static void test_i8042_answers(void **state)
{
	assert_int_equal(ask(0xaa), 0x55);
	assert_int_equal(inb(0x64) & 0x0f, 0x0c);
	assert_int_equal(ask(0xab), 0x00);
	assert_int_equal(ask(0xa9), 0x01); /* no auxiliary port */
	assert_int_equal(ask(0xd0), 0x03);
	outb(0x64, 0x60);
	outb(0x60, 0x47);
	assert_int_equal(inb(0x64) & 0x08, 0); /* that was data */
	assert_int_equal(ask(0x20), 0x67);
	outb(0x64, 0xad);
	assert_int_equal(ask(0x20), 0x77);
	outb(0x64, 0xae);
	outb(0x64, 0xa8);
	assert_int_equal(ask(0x20), 0x67);
	outb(0x64, 0xd3);
	outb(0x60, 0x5a);
	assert_int_equal(inb(0x64) & 0x21, 0x01); /* comes back, but not as the mouse's */
	assert_int_equal(inb(0x60), 0x5a);
}

static void test_i8042_has_no_keyboard(void **state)
{
	outb(0x60, 0xff); /* reset the keyboard */
	assert_int_equal(inb(0x64) & 0x41, 0x41);
	assert_int_equal(inb(0x60), 0xfe);
	assert_int_equal(inb(0x64) & 0x41, 0);
	outb(0x64, 0xd4);
	outb(0x60, 0xff); /* and the mouse */
	assert_int_equal(inb(0x60), 0xfe);
	assert_false(is_asserted(1));
}

static void test_snapshot(void **state)
{
	outb(0xcf9, 0x06);
	outb(0x64, 0x60);
	migrate();
	outb(0xcf9, 0x06);
	assert_false(was_reset()); /* still no edge */
	outb(0x60, 0x47);
	assert_int_equal(ask(0x20), 0x67);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_PLATFORM(test_control_register), ON_PLATFORM(test_pci_address_is_no_reset),
		ON_PLATFORM(test_fast_reset),       ON_PLATFORM(test_i8042_pulse),
		ON_PLATFORM(test_i8042_answers),    ON_PLATFORM(test_i8042_has_no_keyboard),
		ON_PLATFORM(test_snapshot),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
