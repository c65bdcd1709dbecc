/* serial.c - the 16550: registers, loop-back, FIFOs and interrupt causes. */
#include "rt.h"

#define COM1 0x3f8

enum { DATA, IER, IIR, LCR, MCR, LSR, MSR, SCRATCH };

static uint8_t get(unsigned reg)
{
	return inb((uint16_t)(COM1 + reg));
}

static void put(unsigned reg, unsigned v)
{
	outb((uint16_t)(COM1 + reg), (uint8_t)v);
}

static bool wait_lsr(uint8_t bits)
{
	for (unsigned i = 0; i < 1000; i++) {
		if ((get(LSR) & bits) == bits)
			return true;
		delay_us(100);
	}
	return false;
}

static void test_registers(void)
{
	put(SCRATCH, 0x5a);
	same(get(SCRATCH), 0x5a, "scratch register");
	put(LCR, 0x83);
	put(DATA, 1);
	put(IER, 0);
	same(get(DATA), 1, "divisor, low");
	same(get(IER), 0, "divisor, high");
	put(LCR, 3);
	same(get(LCR), 3, "line control");
	put(IER, 0xff);
	same(get(IER), 0xf, "interrupt enable has four bits");
	put(IER, 0);
	put(IIR, 1);
	same(get(IIR) & 0xc0, 0xc0, "FIFOs are on");
	put(IIR, 0);
	same(get(IIR), 1, "FIFOs are off, nothing pending");
	ok(get(LSR) & 0x60, "transmitter is empty");
}

static void test_loopback(void)
{
	static const uint8_t text[] = "loop";
	bool good = true;

	put(IIR, 7);
	put(MCR, 0x10);
	same(get(MSR) & 0xf0, 0, "loop-back: no modem lines");
	put(MCR, 0x1f);
	same(get(MSR) & 0xf0, 0xf0, "loop-back: all modem lines");
	put(MCR, 0x10);
	for (unsigned i = 0; i < 4; i++) {
		put(DATA, text[i]);
		wait_lsr(0x60);
	}
	for (unsigned i = 0; i < 4; i++)
		good = good && wait_lsr(1) && get(DATA) == text[i];
	ok(good, "loop-back: bytes come back in order");
	ok(!(get(LSR) & 1), "loop-back: and no more");
}

static void test_causes(void)
{
	put(IIR, 7);
	put(MCR, 0x10);
	put(IER, 2);
	same(get(IIR) & 0xf, 2, "transmitter empty");
	same(get(IIR) & 0xf, 1, "reading IIR takes it away");
	put(IER, 1);
	put(DATA, 'x');
	wait_lsr(1);
	same(get(IIR) & 0xf, 4, "data available");
	get(DATA);
	same(get(IIR) & 0xf, 1, "reading the byte takes it away");
	put(IER, 0);
	put(MCR, 8);
}

static void test_output(void)
{
	static const char text[] = "a line by the serial port\n";

	put(MCR, 0x0b);
	for (const char *s = text; *s; s++) {
		wait_lsr(0x20);
		put(DATA, (uint8_t)*s);
	}
	ok(wait_lsr(0x60), "output is taken");
}

void guest_main(void)
{
	test_registers();
	test_loopback();
	test_causes();
	test_output();
}
