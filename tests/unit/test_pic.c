/* test_pic.c - the 8259A pair by its data sheet. */
#include "on_platform.h"

#define MASTER 0x20
#define SLAVE  0xa0

static void init_chip(uint64_t port, uint8_t base, uint8_t icw3, uint8_t icw4)
{
	outb(port, 0x11);
	outb(port + 1, base);
	outb(port + 1, icw3);
	outb(port + 1, icw4);
}

static void init_pair(uint8_t icw4)
{
	init_chip(MASTER, 0x20, 4, icw4);
	init_chip(SLAVE, 0x28, 2, icw4);
}

static int ack(void)
{
	return irq_ack_extint(p->vm);
}

static uint8_t isr(uint64_t port)
{
	outb(port, 0x0b);
	return inb(port);
}

static uint8_t irr(uint64_t port)
{
	outb(port, 0x0a);
	return inb(port);
}

static void test_silent_before_init(void **state)
{
	line(3, true);
	assert_false(p->extint);
	assert_int_equal(ack(), -ENOENT);
	outb(MASTER + 1, 0xa5); /* the mask is how systems look for a PIC */
	assert_int_equal(inb(MASTER + 1), 0xa5);
}

static void test_init_sequences(void **state)
{
	outb(MASTER, 0x11);
	outb(MASTER + 1, 0x47);
	outb(MASTER + 1, 0x04);
	line(1, true);
	assert_false(p->extint); /* ICW4 is still due */
	outb(MASTER + 1, 0x01);
	assert_true(p->extint);
	assert_int_equal(ack(), 0x41); /* the low three bits of ICW2 are the input's */

	outb(MASTER, 0x12); /* single, no ICW4: one word does */
	outb(MASTER + 1, 0x60);
	outb(MASTER + 1, 0x00); /* already the mask */
	line(1, false);
	line(1, true);
	assert_int_equal(ack(), 0x61);
	assert_int_equal(isr(MASTER), 0x02); /* no AEOI left over */
}

static void test_init_forgets_edges(void **state)
{
	init_pair(1);
	line(3, true);
	assert_true(p->extint);
	init_pair(1);
	assert_false(p->extint); /* the input must rise again */
	line(3, false);
	line(3, true);
	assert_true(p->extint);
}

static void test_priority_and_eoi(void **state)
{
	init_pair(1);
	line(5, true);
	line(3, true);
	assert_int_equal(irr(MASTER), 0x28);
	assert_int_equal(ack(), 0x23);
	assert_int_equal(isr(MASTER), 0x08);
	assert_false(p->extint); /* 5 waits for 3 */
	line(1, true);
	assert_true(p->extint); /* 1 does not */
	assert_int_equal(ack(), 0x21);
	outb(MASTER, 0x20); /* ends 1 */
	assert_int_equal(isr(MASTER), 0x08);
	assert_false(p->extint);
	outb(MASTER, 0x63); /* specific: 3 */
	assert_int_equal(ack(), 0x25);
}

static void test_mask(void **state)
{
	init_pair(1);
	outb(MASTER + 1, 0x08);
	line(3, true);
	assert_false(p->extint);
	assert_int_equal(irr(MASTER), 0x08); /* a masked request is still seen */
	outb(MASTER + 1, 0x00);
	assert_true(p->extint);
}

static void test_edge_needs_rise(void **state)
{
	init_pair(3); /* AEOI */
	line(3, true);
	assert_int_equal(ack(), 0x23);
	assert_false(p->extint);
	line(3, true);
	assert_false(p->extint);
	line(3, false);
	line(3, true);
	assert_true(p->extint);
}

static void test_level_repeats(void **state)
{
	init_pair(1);
	outb(0x4d0, 0xff);
	assert_int_equal(inb(0x4d0), 0xf8); /* wired ones stay edges */
	outb(0x4d1, 0xff);
	assert_int_equal(inb(0x4d1), 0xde);
	line(5, true);
	assert_int_equal(ack(), 0x25);
	assert_false(p->extint);
	outb(MASTER, 0x20);
	assert_true(p->extint);
	assert_int_equal(ack(), 0x25);
	line(5, false);
	outb(MASTER, 0x20);
	assert_false(p->extint);
}

static void test_auto_eoi_rotate(void **state)
{
	init_pair(3);
	outb(MASTER, 0x80); /* rotate in AEOI mode */
	line(3, true);
	assert_int_equal(ack(), 0x23);
	assert_int_equal(isr(MASTER), 0);
	line(3, false);
	line(3, true);
	line(4, true);
	assert_int_equal(ack(), 0x24); /* 3 has become the lowest */
	outb(MASTER, 0x00);
	line(4, false);
	line(4, true);
	assert_int_equal(ack(), 0x23); /* 4 lowest, and stays it */
	line(3, false);
	line(3, true);
	assert_int_equal(ack(), 0x23);
}

static void test_rotation_commands(void **state)
{
	init_pair(1);
	outb(MASTER, 0xc4); /* 4 is the lowest, 5 the highest */
	line(0, true);
	line(6, true);
	assert_int_equal(ack(), 0x26);
	outb(MASTER, 0xa0); /* rotate on non-specific end: 6 the lowest */
	line(7, true);
	assert_int_equal(ack(), 0x27);
	outb(MASTER, 0xe7); /* rotate on specific end: 7 the lowest */
	assert_int_equal(ack(), 0x20);
}

static void test_special_mask(void **state)
{
	init_pair(1);
	line(3, true);
	assert_int_equal(ack(), 0x23);
	line(5, true);
	assert_false(p->extint);
	outb(MASTER + 1, 0x08);
	outb(MASTER, 0x68); /* special mask on: 3 no longer stands in the way */
	assert_true(p->extint);
	assert_int_equal(ack(), 0x25);
	outb(MASTER, 0x20); /* ends 5, the masked 3 is passed over */
	assert_int_equal(isr(MASTER), 0x08);
	outb(MASTER, 0x48); /* off */
	line(6, true);
	assert_false(p->extint);
}

static void test_spurious(void **state)
{
	init_pair(1);
	line(5, true);
	assert_true(p->extint);
	line(5, false);
	assert_false(p->extint);
	assert_int_equal(ack(), 0x27);
	assert_int_equal(isr(MASTER), 0); /* nothing to end */
}

/* The master has latched the slave's request when it goes away inside the acknowledge. */
static void test_spurious_slave(void **state)
{
	init_pair(1);
	outb(0x4d0, 0x00);
	line(12, true);
	outb(SLAVE, 0x0c); /* poll takes the slave's request ... */
	assert_int_equal(inb(SLAVE), 0x84);
	assert_false(p->extint); /* ... and the master's with it */
	assert_int_equal(isr(SLAVE), 0x10);
}

static void test_cascade(void **state)
{
	init_pair(1);
	line(8, true);
	line(12, true);
	assert_true(p->extint);
	assert_int_equal(ack(), 0x28);
	assert_int_equal(isr(MASTER), 0x04);
	assert_int_equal(isr(SLAVE), 0x01);
	outb(SLAVE, 0x20);
	outb(MASTER, 0x20);
	assert_true(p->extint); /* 12 was waiting: not lost */
	assert_int_equal(ack(), 0x2c);
	line(9, true); /* higher than 12, but the master serves its input 2 */
	assert_false(p->extint);
	outb(SLAVE, 0x20);
	outb(MASTER, 0x20);
	assert_int_equal(ack(), 0x29);
}

static void test_fully_nested(void **state)
{
	init_chip(MASTER, 0x20, 4, 0x11);
	init_chip(SLAVE, 0x28, 2, 0x01);
	line(12, true);
	assert_int_equal(ack(), 0x2c);
	line(9, true);
	assert_true(p->extint); /* the slave's higher one gets through */
	assert_int_equal(ack(), 0x29);
	line(13, true);
	assert_false(p->extint);
}

static void test_poll(void **state)
{
	init_pair(1);
	line(6, true);
	outb(MASTER, 0x0c);
	assert_int_equal(inb(MASTER), 0x86);
	assert_int_equal(isr(MASTER), 0x40);
	outb(MASTER, 0x0c);
	assert_int_equal(inb(MASTER) & 0x80, 0);
}

static void test_cascade_input_is_not_a_line(void **state)
{
	init_pair(1);
	line(2, true);
	assert_false(p->extint);
}

static void test_snapshot(void **state)
{
	init_pair(1);
	outb(0x4d0, 0x20);
	line(3, true);
	ack();
	line(9, true);
	migrate();
	assert_int_equal(isr(MASTER), 0x08);
	assert_int_equal(inb(0x4d0), 0x20);
	assert_true(p->extint); /* 9 is higher than 3: it comes in at 2 */
	assert_int_equal(ack(), 0x29);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_PLATFORM(test_silent_before_init),
		ON_PLATFORM(test_init_sequences),
		ON_PLATFORM(test_init_forgets_edges),
		ON_PLATFORM(test_priority_and_eoi),
		ON_PLATFORM(test_mask),
		ON_PLATFORM(test_edge_needs_rise),
		ON_PLATFORM(test_level_repeats),
		ON_PLATFORM(test_auto_eoi_rotate),
		ON_PLATFORM(test_rotation_commands),
		ON_PLATFORM(test_special_mask),
		ON_PLATFORM(test_spurious),
		ON_PLATFORM(test_spurious_slave),
		ON_PLATFORM(test_cascade),
		ON_PLATFORM(test_fully_nested),
		ON_PLATFORM(test_poll),
		ON_PLATFORM(test_cascade_input_is_not_a_line),
		ON_PLATFORM(test_snapshot),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
