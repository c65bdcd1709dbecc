/* test_serial.c - the 16550A by its data sheet. */
#include "on_platform.h"

#define COM1 0x3f8
#define IRQ  4

enum { RBR = COM1, THR = COM1, IER, IIR, LCR, MCR, LSR, MSR, SCR, FCR = IIR };

#define DTR 0x01
#define RTS 0x02

static size_t input(const char *text)
{
	return dev_input(platform_dev(p, "serial"), (const uint8_t *)text, strlen(text));
}

static void fifo_on(uint8_t trigger)
{
	outb(FCR, (uint8_t)(0x01 | trigger << 6));
}

static void test_output(void **state)
{
	for (const char *s = "Hello\n"; *s; s++) {
		assert_int_equal(inb(LSR), 0x60); /* empty, always */
		outb(THR, (uint8_t)*s);
	}
	assert_string_equal(p->output, "Hello\n");
}

static void test_16550a_is_found(void **state)
{
	outb(SCR, 0x5a);
	assert_int_equal(inb(SCR), 0x5a);
	assert_int_equal(inb(IIR), 0x01);
	outb(FCR, 0x01);
	assert_int_equal(inb(IIR), 0xc1);
	outb(FCR, 0x00);
	assert_int_equal(inb(IIR), 0x01);
	outb(IER, 0xff);
	assert_int_equal(inb(IER), 0x0f);
	outb(MCR, 0xff);
	assert_int_equal(inb(MCR), 0x1f);
}

static void test_divisor(void **state)
{
	outb(LCR, 0x83);
	outb(COM1, 0x34);
	outb(COM1 + 1, 0x12);
	assert_int_equal(inb(COM1), 0x34);
	assert_int_equal(inb(COM1 + 1), 0x12);
	outb(LCR, 0x03);
	assert_int_equal(inb(IER), 0);
	assert_int_equal(p->output_bytes, 0);
}

static void test_input(void **state)
{
	outb(MCR, RTS);
	assert_int_equal(inb(RBR), 0);
	assert_int_equal(input("ab"), 1); /* without FIFO there is room for one */
	assert_int_equal(inb(LSR), 0x61);
	assert_int_equal(inb(RBR), 'a');
	assert_int_equal(p->nr_ready, 1);
	assert_int_equal(inb(LSR), 0x60);
	fifo_on(0);
	assert_int_equal(input("0123456789abcdefgh"), 16);
	for (const char *s = "0123456789abcdef"; *s; s++)
		assert_int_equal(inb(RBR), *s);
	assert_int_equal(p->nr_ready, 2);
	assert_int_equal(inb(LSR) & 1, 0);
}

static void test_changing_fifo_clears(void **state)
{
	outb(MCR, RTS);
	fifo_on(0);
	input("abc");
	outb(FCR, 0x00);
	assert_int_equal(inb(LSR) & 1, 0);
	fifo_on(0);
	input("abc");
	outb(FCR, 0x02); /* only with the enable bit */
	fifo_on(0);
	input("abc");
	outb(FCR, 0x03);
	assert_int_equal(inb(LSR) & 1, 0);
}

/* What comes before the guest is ready waits, and is not lost when the port is opened. */
static void test_input_waits_for_rts(void **state)
{
	assert_int_equal(input("a"), 0);
	outb(MCR, DTR);
	outb(IER, 0x01); /* the order in which Linux opens it */
	assert_int_equal(input("a"), 0);
	fifo_on(2);
	assert_int_equal(p->nr_ready, 0);
	outb(MCR, DTR | RTS);
	assert_int_equal(p->nr_ready, 1);
	assert_int_equal(input("a"), 1);
	outb(MCR, DTR);
	assert_int_equal(input("b"), 0);
}

static void test_input_by_interrupt_without_modem_lines(void **state)
{
	assert_int_equal(input("a"), 0);
	outb(IER, 0x01);
	assert_int_equal(p->nr_ready, 1);
	assert_int_equal(input("a"), 1);
	assert_true(is_asserted(IRQ));
}

static void test_input_by_polling(void **state)
{
	input("a");
	for (unsigned i = 0; i < 20; i++) { /* output: each poll is followed by a byte */
		inb(LSR);
		inb(LSR);
		outb(THR, 'x');
	}
	assert_int_equal(p->nr_ready, 0);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(inb(LSR) & 1, 0);
	assert_int_equal(p->nr_ready, 1);
	assert_int_equal(input("ab"), 1);
	assert_int_equal(inb(LSR) & 1, 1);
	assert_int_equal(inb(RBR), 'a');
}

static void test_thre(void **state)
{
	outb(IER, 0x02);
	assert_true(is_asserted(IRQ));
	assert_int_equal(inb(IIR), 0x02);
	assert_false(is_asserted(IRQ)); /* told */
	assert_int_equal(inb(IIR), 0x01);
	outb(THR, 'x');
	assert_true(is_asserted(IRQ)); /* and empty again */
	outb(IER, 0);
	assert_false(is_asserted(IRQ));
	outb(IER, 0x02); /* enabling asks anew */
	assert_int_equal(inb(IIR), 0x02);
}

static void test_receive_interrupt(void **state)
{
	outb(MCR, RTS);
	outb(IER, 0x01);
	input("a");
	assert_true(is_asserted(IRQ));
	assert_int_equal(inb(IIR), 0x04);
	assert_true(is_asserted(IRQ)); /* only reading the byte ends it */
	inb(RBR);
	assert_false(is_asserted(IRQ));
}

static void test_trigger_levels(void **state)
{
	static const uint8_t level[] = { 1, 4, 8, 14 };

	outb(MCR, RTS);
	outb(IER, 0x01);
	for (uint8_t t = 0; t < 4; t++) {
		outb(FCR, (uint8_t)(0x03 | t << 6));
		for (unsigned i = 1; i <= level[t]; i++) {
			assert_false(is_asserted(IRQ));
			input("x");
		}
		assert_int_equal(inb(IIR), 0xc4);
		inb(RBR);
		assert_false(is_asserted(IRQ));
	}
}

static void test_timeout(void **state)
{
	uint64_t chars = 4 * 10 * 16 * NSEC_PER_SEC / 1843200; /* 8N1, divisor 1 */

	outb(LCR, 0x03);
	outb(MCR, RTS);
	outb(IER, 0x01);
	fifo_on(3);
	input("ab");
	wait_ns(chars - 1000);
	assert_false(is_asserted(IRQ));
	input("c"); /* starts it anew */
	wait_ns(chars - 1000);
	assert_false(is_asserted(IRQ));
	wait_ns(2000);
	assert_int_equal(inb(IIR), 0xcc);
	assert_true(is_asserted(IRQ));
	inb(RBR);
	assert_false(is_asserted(IRQ)); /* a read ends it; two bytes are left */
	wait_ns(chars + 1000);
	assert_int_equal(inb(IIR), 0xcc);
	inb(RBR);
	inb(RBR);
	wait_ns(NSEC_PER_SEC);
	assert_int_equal(inb(IIR), 0xc1); /* nothing left: no timeout */
}

static void test_timeout_follows_baud_rate(void **state)
{
	outb(LCR, 0x83);
	outb(COM1, 12); /* 9600 baud */
	outb(LCR, 0x03);
	outb(IER, 0x01);
	fifo_on(3);
	input("a");
	wait_ns(4 * NSEC_PER_MSEC);
	assert_int_equal(inb(IIR), 0xc1);
	wait_ns(NSEC_PER_MSEC / 2);
	assert_int_equal(inb(IIR), 0xcc);
}

static void test_modem(void **state)
{
	assert_int_equal(inb(MSR), 0xb0); /* somebody listens */
	outb(MCR, 0x10);                  /* loop: all off */
	assert_int_equal(inb(MSR), 0x0b); /* three have changed */
	assert_int_equal(inb(MSR), 0x00);
	outb(MCR, 0x11);
	assert_int_equal(inb(MSR), 0x22); /* DTR is DSR */
	outb(MCR, 0x13);
	assert_int_equal(inb(MSR), 0x31); /* RTS is CTS */
	outb(MCR, 0x17);
	assert_int_equal(inb(MSR), 0x70); /* OUT1 is RI: rising does not count */
	outb(MCR, 0x13);
	assert_int_equal(inb(MSR), 0x34); /* falling does */
	outb(MCR, 0x1b);
	assert_int_equal(inb(MSR), 0xb8); /* OUT2 is DCD */
}

static void test_loopback(void **state)
{
	fifo_on(0);
	outb(MCR, 0x10);
	outb(IER, 0x01);
	for (unsigned i = 0; i < 17; i++)
		outb(THR, (uint8_t)('a' + i));
	assert_int_equal(p->output_bytes, 0);
	assert_int_equal(inb(LSR), 0x63); /* overrun by the 17th */
	assert_int_equal(inb(LSR), 0x61); /* once told, gone */
	assert_int_equal(inb(IIR), 0xc4);
	assert_true(is_asserted(IRQ));
	for (unsigned i = 0; i < 16; i++)
		assert_int_equal(inb(RBR), 'a' + i);
	assert_int_equal(input("z"), 0); /* the wire is cut */
	outb(MCR, 0x00);
	assert_int_equal(p->nr_ready, 1);
}

static void test_line_status_interrupt(void **state)
{
	outb(MCR, 0x10);
	outb(IER, 0x07);
	outb(LCR, 0x43);                  /* break */
	assert_int_equal(inb(IIR), 0x06); /* the highest of three */
	assert_int_equal(inb(LSR), 0x71);
	assert_int_equal(inb(IIR), 0x04);
	assert_int_equal(inb(RBR), 0);
	assert_int_equal(inb(IIR), 0x02);
	assert_int_equal(inb(IIR), 0x01);
}

static void test_modem_interrupt(void **state)
{
	outb(IER, 0x08);
	assert_false(is_asserted(IRQ));
	outb(MCR, 0x10); /* into loopback and back: lines have changed */
	outb(MCR, 0x00);
	assert_true(is_asserted(IRQ));
	assert_int_equal(inb(IIR), 0x00);
	inb(MSR);
	assert_false(is_asserted(IRQ));
}

static void test_reset(void **state)
{
	outb(MCR, RTS);
	outb(IER, 0x0f);
	input("a");
	input("b");
	dev_reset(platform_dev(p, "serial"));
	assert_false(is_asserted(IRQ));
	assert_int_equal(inb(LSR), 0x60);
	outb(MCR, RTS);
	assert_int_equal(p->nr_ready, 1); /* what was refused before is still wanted */
}

static void test_snapshot(void **state)
{
	fifo_on(2);
	outb(LCR, 0x03);
	outb(MCR, RTS);
	outb(IER, 0x01);
	input("abc");
	migrate();
	assert_false(is_asserted(IRQ));
	wait_ns(NSEC_PER_MSEC); /* the timeout goes on */
	assert_true(is_asserted(IRQ));
	assert_int_equal(inb(IIR), 0xcc);
	assert_int_equal(inb(RBR), 'a');
	assert_int_equal(inb(RBR), 'b');
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_PLATFORM(test_output),
		ON_PLATFORM(test_16550a_is_found),
		ON_PLATFORM(test_divisor),
		ON_PLATFORM(test_input),
		ON_PLATFORM(test_changing_fifo_clears),
		ON_PLATFORM(test_input_waits_for_rts),
		ON_PLATFORM(test_input_by_interrupt_without_modem_lines),
		ON_PLATFORM(test_input_by_polling),
		ON_PLATFORM(test_thre),
		ON_PLATFORM(test_receive_interrupt),
		ON_PLATFORM(test_trigger_levels),
		ON_PLATFORM(test_timeout),
		ON_PLATFORM(test_timeout_follows_baud_rate),
		ON_PLATFORM(test_modem),
		ON_PLATFORM(test_loopback),
		ON_PLATFORM(test_line_status_interrupt),
		ON_PLATFORM(test_modem_interrupt),
		ON_PLATFORM(test_reset),
		ON_PLATFORM(test_snapshot),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
