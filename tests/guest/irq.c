/*
 * irq.c - lines through the PICs and through the IOAPIC: edge and level, masked,
 * remote IRR, priorities, destinations. Sources: PIT (edge), and the serial port's
 * transmitter as a level that stays until it is served.
 */
#include "rt.h"

#define IOAPIC    0xfec00000ul
#define COM1      0x3f8
#define COM1_LINE 4
#define PIT_PIN   2

#define ENTRY_LEVEL  0x8000
#define ENTRY_MASKED 0x10000
#define ENTRY_IRR    0x4000

#define VECTOR_EDGE  0x52
#define VECTOR_LEVEL 0x62
#define VECTOR_PIC   0x20

static volatile unsigned edges, levels, pic_interrupts;
static volatile bool serve;
static volatile unsigned took_on;

static uint32_t ioapic_read(unsigned reg)
{
	*(volatile uint32_t *)IOAPIC = reg;
	return *(volatile uint32_t *)(IOAPIC + 0x10);
}

static void ioapic_write(unsigned reg, uint32_t v)
{
	*(volatile uint32_t *)IOAPIC = reg;
	*(volatile uint32_t *)(IOAPIC + 0x10) = v;
}

static void route(unsigned pin, uint32_t low, uint32_t apic)
{
	ioapic_write(0x10 + 2 * pin, ENTRY_MASKED);
	ioapic_write(0x11 + 2 * pin, apic << 24);
	ioapic_write(0x10 + 2 * pin, low);
}

/* The transmitter is empty, so its interrupt is asserted while it is enabled. */
static void raise(void)
{
	outb(COM1 + 1, 2);
}

static void lower(void)
{
	outb(COM1 + 1, 0);
	inb(COM1 + 2);
}

static void on_edge(struct frame *f)
{
	edges++;
	took_on = cpu_index();
	apic_eoi();
}

static void on_level(struct frame *f)
{
	levels++;
	if (serve || levels > 3)
		lower();
	apic_eoi();
}

static void open_for(uint32_t us)
{
	sti();
	delay_us(us);
	cli();
}

/* How late the PIT's edge is depends on what else the host does. */
static void await_edge(void)
{
	for (unsigned ms = 0; ms < 2000 && !edges; ms++)
		open_for(1000);
}

static void pit_once(uint16_t count)
{
	outb(0x43, 0x30);
	outb(0x40, (uint8_t)count);
	outb(0x40, (uint8_t)(count >> 8));
}

static void test_registers(void)
{
	ok((ioapic_read(1) & 0xff) >= 0x11, "IOAPIC version 0x%x", ioapic_read(1) & 0xff);
	same(ioapic_read(1) >> 16 & 0xff, 23, "24 pins");
	ioapic_write(0x10 + 2 * 7, 0xffffffff);
	same(ioapic_read(0x10 + 2 * 7) & 0x1f000, ENTRY_MASKED | ENTRY_LEVEL | 0x2000,
	     "status bits cannot be written");
	ioapic_write(0x10 + 2 * 7, ENTRY_MASKED);
}

static void test_edge(unsigned count)
{
	uint32_t me = cpus[0].apic_id;

	route(PIT_PIN, VECTOR_EDGE, me);
	pit_once(1193);
	await_edge();
	open_for(1000);
	same(edges, 1, "edge: the PIT through the IOAPIC");
	edges = 0;
	route(PIT_PIN, ENTRY_MASKED | VECTOR_EDGE, me);
	pit_once(1193);
	open_for(20000);
	same(edges, 0, "edge: masked");
	if (count > 1) {
		route(PIT_PIN, VECTOR_EDGE, cpus[1].apic_id);
		pit_once(1193);
		await_edge();
		ok(edges == 1 && took_on == 1, "edge: to another CPU");
	}
	route(PIT_PIN, ENTRY_MASKED, me);
}

static void test_level(void)
{
	uint32_t me = cpus[0].apic_id, low = ENTRY_LEVEL | VECTOR_LEVEL;

	lower();
	route(COM1_LINE, low, me);
	serve = true;
	raise();
	open_for(2000);
	same(levels, 1, "level: once, when it is served");
	levels = 0;
	serve = false;
	raise();
	open_for(2000);
	same(levels, 4, "level: again and again until it is served");

	/* In service, not ended: remote IRR is set and nothing more comes. */
	levels = 0;
	serve = true;
	raise();
	delay_us(100);
	ok(ioapic_read(0x10 + 2 * COM1_LINE) & ENTRY_IRR, "level: remote IRR is set");
	ok(apic_read(APIC_IRR + 0x10 * (VECTOR_LEVEL / 32)) & 1u << VECTOR_LEVEL % 32,
	   "level: pending in the local APIC");
	open_for(2000);
	ok(apic_read(APIC_TMR + 0x10 * (VECTOR_LEVEL / 32)) & 1u << VECTOR_LEVEL % 32,
	   "level: the local APIC knows the trigger mode");
	ok(!(ioapic_read(0x10 + 2 * COM1_LINE) & ENTRY_IRR), "level: EOI clears remote IRR");
	same(levels, 1, "level: once");

	levels = 0;
	route(COM1_LINE, low | ENTRY_MASKED, me);
	raise();
	open_for(2000);
	same(levels, 0, "level: masked");
	ioapic_write(0x10 + 2 * COM1_LINE, low);
	open_for(2000);
	same(levels, 1, "level: a line that is up comes with the unmasking");
	route(COM1_LINE, ENTRY_MASKED, me);
	lower();
}

static unsigned pic_order[4], nr_pic;

static void on_pic(struct frame *f)
{
	unsigned line = (unsigned)f->vector - VECTOR_PIC;

	pic_interrupts++;
	if (nr_pic < 4)
		pic_order[nr_pic++] = line;
	if (line == COM1_LINE)
		lower();
	outb(0x20, 0x20);
}

static void pic_setup(uint8_t mask)
{
	outb(0x20, 0x11);
	outb(0x21, VECTOR_PIC);
	outb(0x21, 4);
	outb(0x21, 1);
	outb(0xa0, 0x11);
	outb(0xa1, VECTOR_PIC + 8);
	outb(0xa1, 2);
	outb(0xa1, 1);
	outb(0x21, mask);
	outb(0xa1, 0xff);
}

static uint8_t pic_irr(void)
{
	outb(0x20, 0x0a);
	return inb(0x20);
}

static void test_pic(void)
{
	apic_write(APIC_LVT_LINT0, 0x700);
	for (unsigned v = 0; v < 16; v++)
		trap_set(VECTOR_PIC + v, on_pic);
	lower();
	pic_setup(0xff);
	raise();
	open_for(1000);
	same(pic_interrupts, 0, "PIC: masked");
	ok(pic_irr() & 1 << COM1_LINE, "PIC: pending in IRR");
	outb(0x21, (uint8_t) ~(1 << COM1_LINE));
	open_for(1000);
	ok(pic_interrupts == 1 && pic_order[0] == COM1_LINE, "PIC: unmasked");
	same(pic_irr() & 1 << COM1_LINE, 0, "PIC: no longer pending");

	nr_pic = 0;
	outb(0x21, 0xff);
	pit_once(100);
	raise();
	for (unsigned i = 0; i < 10000 && !(pic_irr() & 1); i++)
		delay_us(100); /* the host may be busy */
	outb(0x21, (uint8_t) ~(1 << COM1_LINE | 1));
	open_for(1000);
	ok(nr_pic == 2 && pic_order[0] == 0 && pic_order[1] == COM1_LINE,
	   "PIC: IRQ 0 comes before IRQ 4");
	same(inb(0x21), (uint8_t) ~(1 << COM1_LINE | 1), "PIC: mask reads back");

	/* With LINT0 masked nothing gets through. */
	nr_pic = 0;
	apic_write(APIC_LVT_LINT0, APIC_MASKED | 0x700);
	raise();
	open_for(1000);
	same(nr_pic, 0, "PIC: LINT0 masked");
	lower();
	outb(0x21, 0xff);
}

void guest_main(void)
{
	unsigned count = smp_start();

	trap_set(VECTOR_EDGE, on_edge);
	trap_set(VECTOR_LEVEL, on_level);
	/* FIFOs off, OUT2: the port's interrupts reach the line. */
	outb(COM1 + 2, 0);
	outb(COM1 + 4, 8);
	test_registers();
	test_edge(count);
	test_level();
	test_pic();
}
