/* test_ioapic.c - the I/O APIC by its data sheet. */
#include "on_platform.h"

#define BASE   0xfec00000ull
#define MASKED 0x10000u
#define LEVEL  0x8000u
#define REMOTE 0x4000u

static uint32_t reg(uint32_t index)
{
	platform_store(p, BASE, index);
	return platform_load(p, BASE + 0x10);
}

static void set_reg(uint32_t index, uint32_t val)
{
	platform_store(p, BASE, index);
	platform_store(p, BASE + 0x10, val);
}

static void set_pin(unsigned pin, uint32_t high, uint32_t low)
{
	set_reg(0x11 + 2 * pin, high);
	set_reg(0x10 + 2 * pin, low);
}

static void test_registers(void **state)
{
	assert_int_equal(reg(1), 0x170020);
	set_reg(0, 0xffffffff);
	assert_int_equal(reg(0), 0x0f000000);
	assert_int_equal(reg(2), 0x0f000000); /* arbitration follows */
	set_reg(1, 0);
	assert_int_equal(reg(1), 0x170020);
	for (unsigned pin = 0; pin < 24; pin++)
		assert_int_equal(reg(0x10 + 2 * pin), MASKED);
	set_pin(7, 0xffffffff, 0xffffffff);
	assert_int_equal(reg(0x1e), 0x1afff); /* status and remote IRR are read-only */
	assert_int_equal(reg(0x1f), 0xfffe0000);
	assert_int_equal(reg(0x40), UINT32_MAX); /* no pin 24 */
}

static void test_message(void **state)
{
	set_pin(5, 0x12000000, 0x0141);
	line(5, true);
	assert_int_equal(p->nr_msis, 1);
	assert_int_equal(p->msi[0].addr, 0xfee12000);
	assert_int_equal(p->msi[0].data & 0xff, 0x41);
	assert_int_equal(p->msi[0].data >> 8 & 7, 1); /* lowest priority */
	assert_int_equal(p->msi[0].data & 0x8000, 0); /* edge */
	set_pin(6, 0xff000000, 0x0842);
	line(6, true);
	assert_int_equal(p->msi[1].addr, 0xfeeff004); /* logical */
}

/* Destinations above 255: bits 14:8 travel in the address's bits 11:5. */
static void test_extended_destination(void **state)
{
	set_pin(5, 0x34000000 | 0x12u << 17, 0x41);
	line(5, true);
	assert_int_equal(p->msi[0].addr, 0xfee34000 | 0x12 << 5);
}

static void test_edge(void **state)
{
	set_pin(5, 0, 0x41);
	line(5, true);
	line(5, true);
	assert_int_equal(p->nr_msis, 1);
	line(5, false);
	assert_int_equal(p->nr_msis, 1);
	line(5, true);
	assert_int_equal(p->nr_msis, 2);
	assert_int_equal(reg(0x1a) & REMOTE, 0);
}

static void test_masked_edge_is_lost(void **state)
{
	set_pin(5, 0, MASKED | 0x41);
	line(5, true);
	set_pin(5, 0, 0x41);
	assert_int_equal(p->nr_msis, 0);
}

static void test_level_and_remote_irr(void **state)
{
	set_pin(5, 0, LEVEL | 0x41);
	line(5, true);
	assert_int_equal(p->nr_msis, 1);
	assert_int_equal(p->msi[0].data & 0xc000, 0xc000);
	assert_int_equal(reg(0x1a), LEVEL | REMOTE | 0x41);
	line(5, false);
	line(5, true); /* not while it is in service */
	assert_int_equal(p->nr_msis, 1);
	irq_eoi(p->vm, 0x42); /* somebody else's */
	assert_int_equal(p->nr_msis, 1);
	irq_eoi(p->vm, 0x41); /* still asserted: again */
	assert_int_equal(p->nr_msis, 2);
	line(5, false);
	irq_eoi(p->vm, 0x41);
	assert_int_equal(p->nr_msis, 2);
	assert_int_equal(reg(0x1a), LEVEL | 0x41);
}

static void test_level_waits_for_unmask(void **state)
{
	set_pin(5, 0, MASKED | LEVEL | 0x41);
	line(5, true);
	assert_int_equal(p->nr_msis, 0);
	set_pin(5, 0, LEVEL | 0x41);
	assert_int_equal(p->nr_msis, 1);
	set_pin(5, 0, MASKED | LEVEL | 0x41); /* masking keeps remote IRR */
	assert_int_equal(reg(0x1a) & REMOTE, REMOTE);
	irq_eoi(p->vm, 0x41);
	assert_int_equal(p->nr_msis, 1);
}

static void test_eoi_register(void **state)
{
	set_pin(5, 0, LEVEL | 0x41);
	line(5, true);
	line(5, false);
	platform_store(p, BASE + 0x40, 0x41);
	assert_int_equal(reg(0x1a) & REMOTE, 0);
}

static void test_edge_clears_remote_irr(void **state)
{
	set_pin(5, 0, LEVEL | 0x41);
	line(5, true);
	line(5, false);
	set_pin(5, 0, MASKED | 0x41);
	set_pin(5, 0, LEVEL | 0x41);
	assert_int_equal(reg(0x1a) & REMOTE, 0);
}

static void test_timer_is_on_pin_2(void **state)
{
	set_pin(0, 0, 0x40);
	set_pin(2, 0, 0x42);
	line(0, true);
	assert_int_equal(p->nr_msis, 1);
	assert_int_equal(p->msi[0].data & 0xff, 0x42);
	line(2, true);
	assert_int_equal(p->nr_msis, 1);
}

static void test_shared_line(void **state)
{
	set_pin(9, 0, LEVEL | 0x41);
	irq_set(p->vm, 9, 30, true);
	irq_set(p->vm, 9, 31, true);
	irq_set(p->vm, 9, 30, false);
	irq_eoi(p->vm, 0x41);
	assert_int_equal(p->nr_msis, 2); /* the other source still asks */
	irq_set(p->vm, 9, 31, false);
	irq_eoi(p->vm, 0x41);
	assert_int_equal(p->nr_msis, 2);
}

static void test_narrow_access(void **state)
{
	struct io_access io = { BASE, 0x01, 1, true };

	bus_access(&p->vm->mmio, &io); /* IOREGSEL is a byte to some */
	io = (struct io_access){ BASE + 0x12, 0, 1, false };
	bus_access(&p->vm->mmio, &io);
	assert_int_equal(io.data, 0x17);
}

static void test_snapshot(void **state)
{
	set_pin(5, 0x01000000, LEVEL | 0x41);
	line(5, true);
	migrate();
	assert_int_equal(reg(0x1a), LEVEL | REMOTE | 0x41);
	assert_int_equal(p->nr_msis, 0); /* in service: not sent twice */
	irq_eoi(p->vm, 0x41);
	assert_int_equal(p->nr_msis, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_PLATFORM(test_registers),
		ON_PLATFORM(test_message),
		ON_PLATFORM(test_extended_destination),
		ON_PLATFORM(test_edge),
		ON_PLATFORM(test_masked_edge_is_lost),
		ON_PLATFORM(test_level_and_remote_irr),
		ON_PLATFORM(test_level_waits_for_unmask),
		ON_PLATFORM(test_eoi_register),
		ON_PLATFORM(test_edge_clears_remote_irr),
		ON_PLATFORM(test_timer_is_on_pin_2),
		ON_PLATFORM(test_shared_line),
		ON_PLATFORM(test_narrow_access),
		ON_PLATFORM(test_snapshot),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
