/*
 * pic.c - two cascaded 8259A interrupt controllers, as a PC wires them.
 *
 * Intel 8259A data sheet (231468); the edge/level registers are those of the
 * PIIX. The slave's output is the master's input 2. LTIM is ignored, as every
 * chip set with an edge/level register does.
 *
 * Inputs are honest: a request that goes away before it is acknowledged is gone,
 * and an acknowledge that finds nothing yields the spurious vector, input 7.
 */
#include "devices/device.h"

#include <errno.h>

#define NONE (-1)

#define ICW1_INIT   BIT(4)
#define ICW1_SINGLE BIT(1)
#define ICW1_IC4    BIT(0)
#define ICW4_SFNM   BIT(4)
#define ICW4_AEOI   BIT(1)
#define OCW3        BIT(3)
#define OCW3_POLL   BIT(2)
#define OCW3_ESMM   BIT(6)
#define OCW3_SMM    BIT(5)
#define POLL_IRQ    BIT(7)

#define CASCADE_IRQ 2
#define SPURIOUS    7

/* Inputs 0, 1, 2, 8 and 13 are edge-triggered by wiring. */
static const uint8_t elcr_mask[2] = { 0xf8, 0xde };

enum init_step { READY, WANT_ICW2, WANT_ICW3, WANT_ICW4, UNINITIALISED };

struct chip {
	uint8_t lines; /* inputs as they are now */
	uint8_t irr, isr, imr, elcr;
	uint8_t base;   /* vector of input 0 */
	uint8_t lowest; /* the input with the lowest priority */
	uint8_t step;   /* enum init_step */
	uint8_t icw1;   /* decides which words follow */
	bool auto_eoi;  /* end of interrupt by the acknowledge itself */
	bool rotate;    /* and its priority becomes the lowest */
	bool nested;    /* special fully nested: the slave may interrupt itself */
	bool smm;       /* special mask mode */
	bool poll;      /* the next read is a poll */
	bool read_isr;  /* port 0 reads ISR, not IRR */
};

struct pic {
	struct chip chip[2]; /* master, slave */
	bool output;         /* last told to dev_extint() */
};

/* --- one chip ---------------------------------------------------------------- */

static void chip_set_line(struct chip *c, unsigned irq, bool level)
{
	uint8_t bit = (uint8_t)BIT(irq);

	if (!level) {
		c->lines &= (uint8_t)~bit;
		c->irr &= (uint8_t)~bit;
		return;
	}
	if ((c->elcr & bit) || !(c->lines & bit))
		c->irr |= bit;
	c->lines |= bit;
}

/* 0 is the highest priority, 8 stands for none. */
static unsigned priority(const struct chip *c, uint8_t mask)
{
	unsigned p = 0;

	while (p < 8 && !(mask & BIT((c->lowest + 1 + p) % 8)))
		p++;
	return p;
}

static int irq_at(const struct chip *c, unsigned prio)
{
	return prio == 8 ? NONE : (int)((c->lowest + 1 + prio) % 8);
}

/* The input that asks to be served now, or NONE. */
static int chip_pending(const struct chip *c, bool is_master)
{
	uint8_t in_service = c->isr;
	unsigned prio;

	if (c->step != READY)
		return NONE;
	if (c->smm)
		in_service &= (uint8_t)~c->imr;
	if (c->nested && is_master)
		in_service &= (uint8_t)~BIT(CASCADE_IRQ);
	prio = priority(c, c->irr & (uint8_t)~c->imr);
	return prio < priority(c, in_service) ? irq_at(c, prio) : NONE;
}

static void chip_acknowledge(struct chip *c, int irq)
{
	uint8_t bit = (uint8_t)BIT(irq);

	if (!(c->elcr & bit))
		c->irr &= (uint8_t)~bit;
	if (!c->auto_eoi)
		c->isr |= bit;
	else if (c->rotate)
		c->lowest = (uint8_t)irq;
}

static void chip_init(struct chip *c, uint8_t icw1)
{
	c->icw1 = icw1;
	c->step = WANT_ICW2;
	c->imr = 0;
	c->isr = 0;
	c->irr = c->lines & c->elcr; /* edges seen before are forgotten */
	c->lowest = 7;
	c->auto_eoi = false;
	c->rotate = false;
	c->nested = false;
	c->smm = false;
	c->poll = false;
	c->read_isr = false;
}

static void chip_command(struct chip *c, uint8_t val)
{
	uint8_t served = c->smm ? c->isr & (uint8_t)~c->imr : c->isr;
	int irq = irq_at(c, priority(c, served));

	switch (val >> 5) {
	case 0: /* stop rotating on automatic end */
	case 4:
		c->rotate = val >> 7;
		break;
	case 1: /* end of interrupt: the one served */
	case 5: /* and rotate */
		if (irq == NONE)
			break;
		c->isr &= (uint8_t)~BIT(irq);
		if (val >> 7)
			c->lowest = (uint8_t)irq;
		break;
	case 3: /* end of the interrupt named */
	case 7:
		c->isr &= (uint8_t)~BIT(val & 7);
		if (val >> 7)
			c->lowest = val & 7;
		break;
	case 6: /* set priority */
		c->lowest = val & 7;
		break;
	default:
		break;
	}
}

static void chip_mode(struct chip *c, uint8_t val)
{
	c->poll = val & OCW3_POLL;
	if (val & 2)
		c->read_isr = val & 1;
	if (val & OCW3_ESMM)
		c->smm = val & OCW3_SMM;
}

/* Port 1: initialisation words 2 to 4 in their order, else the mask. */
static void chip_write_data(struct chip *c, uint8_t val)
{
	switch (c->step) {
	case WANT_ICW2:
		c->base = val & 0xf8;
		c->step = c->icw1 & ICW1_SINGLE ? WANT_ICW4 : WANT_ICW3;
		break;
	case WANT_ICW3: /* the cascade is wired */
		c->step = WANT_ICW4;
		break;
	case WANT_ICW4:
		c->auto_eoi = val & ICW4_AEOI;
		c->nested = val & ICW4_SFNM;
		c->step = READY;
		return;
	default:
		c->imr = val;
		return;
	}
	if (c->step == WANT_ICW4 && !(c->icw1 & ICW1_IC4))
		c->step = READY;
}

static uint8_t chip_read(struct chip *c, bool is_data, bool is_master)
{
	if (c->poll) {
		int irq = chip_pending(c, is_master);

		c->poll = false;
		if (irq == NONE)
			return SPURIOUS;
		chip_acknowledge(c, irq);
		return (uint8_t)(POLL_IRQ | irq);
	}
	if (is_data)
		return c->imr;
	return c->read_isr ? c->isr : c->irr;
}

/* --- the pair ---------------------------------------------------------------- */

/* After any change: the slave's output to the master, the master's to the processor. */
static void pic_update(struct dev *d)
{
	struct pic *p = dev_state(d);
	bool output;

	chip_set_line(&p->chip[0], CASCADE_IRQ, chip_pending(&p->chip[1], false) != NONE);
	output = chip_pending(&p->chip[0], true) != NONE;
	if (output == p->output)
		return;
	p->output = output;
	dev_extint(d, output);
}

static void pic_irq_in(struct dev *d, unsigned gsi, bool level)
{
	struct pic *p = dev_state(d);

	if (gsi >= 16 || gsi == CASCADE_IRQ)
		return;
	chip_set_line(&p->chip[gsi / 8], gsi % 8, level);
	pic_update(d);
}

/*
 * A chip's output falls with the acknowledge, and rises again for what is still
 * pending: the master needs that edge.
 */
static int acknowledge_slave(struct pic *p)
{
	struct chip *slave = &p->chip[1];
	int irq = chip_pending(slave, false);

	chip_set_line(&p->chip[0], CASCADE_IRQ, false);
	if (irq == NONE)
		return slave->base + SPURIOUS;
	chip_acknowledge(slave, irq);
	return slave->base + irq;
}

static int pic_ack(struct dev *d)
{
	struct pic *p = dev_state(d);
	struct chip *master = &p->chip[0];
	int irq = chip_pending(master, true);
	int vector;

	if (master->step != READY)
		return -ENOENT;
	if (irq == NONE)
		return master->base + SPURIOUS;
	chip_acknowledge(master, irq);
	vector = irq == CASCADE_IRQ ? acknowledge_slave(p) : master->base + irq;
	pic_update(d);
	return vector;
}

static uint64_t pic_read(struct dev *d, uint64_t off, unsigned size)
{
	struct pic *p = dev_state(d);
	unsigned chip = off >= REGION(1);
	uint8_t val;

	if (off >= REGION(2))
		return p->chip[off & 1].elcr;
	val = chip_read(&p->chip[chip], off & 1, chip == 0);
	pic_update(d); /* a poll acknowledges */
	return val;
}

static void pic_write(struct dev *d, uint64_t off, unsigned size, uint64_t val)
{
	struct pic *p = dev_state(d);
	struct chip *c = &p->chip[off >= REGION(1)];

	if (off >= REGION(2))
		p->chip[off & 1].elcr = (uint8_t)val & elcr_mask[off & 1];
	else if (off & 1)
		chip_write_data(c, (uint8_t)val);
	else if (val & ICW1_INIT)
		chip_init(c, (uint8_t)val);
	else if (val & OCW3)
		chip_mode(c, (uint8_t)val);
	else
		chip_command(c, (uint8_t)val);
	pic_update(d);
}

/* Inputs belong to the devices and survive. */
static void pic_reset(struct dev *d)
{
	struct pic *p = dev_state(d);

	for (unsigned i = 0; i < 2; i++) {
		p->chip[i].elcr = 0;
		chip_init(&p->chip[i], 0);
		p->chip[i].step = UNINITIALISED;
	}
	pic_update(d);
}

static void chip_snapshot(struct chip *c, struct snap *s)
{
	snap_u8(s, &c->lines);
	snap_u8(s, &c->irr);
	snap_u8(s, &c->isr);
	snap_u8(s, &c->imr);
	snap_u8(s, &c->elcr);
	snap_u8(s, &c->base);
	snap_u8(s, &c->lowest);
	snap_u8(s, &c->step);
	snap_u8(s, &c->icw1);
	snap_bool(s, &c->auto_eoi);
	snap_bool(s, &c->rotate);
	snap_bool(s, &c->nested);
	snap_bool(s, &c->smm);
	snap_bool(s, &c->poll);
	snap_bool(s, &c->read_isr);
}

static int pic_snapshot(struct dev *d, struct snap *s)
{
	struct pic *p = dev_state(d);

	for (unsigned i = 0; i < 2; i++) {
		struct chip *c = &p->chip[i];

		chip_snapshot(c, s);
		c->irr &= c->lines;
		c->elcr &= elcr_mask[i];
		c->base &= 0xf8;
		c->lowest &= 7;
		c->step = MIN(c->step, UNINITIALISED);
	}
	if (snap_loading(s))
		pic_update(d);
	return snap_error(s);
}

const struct device_type pic_type = {
	.name = "pic",
	.state_size = sizeof(struct pic),
	.region = { { BUS_PIO, 0x20, 2 }, { BUS_PIO, 0xa0, 2 }, { BUS_PIO, 0x4d0, 2 } },
	.min_access = 1,
	.max_access = 1,
	.gsi = { -1, -1, -1, -1 },
	.reset = pic_reset,
	.read = pic_read,
	.write = pic_write,
	.snapshot = pic_snapshot,
	.irq_in = pic_irq_in,
	.ack = pic_ack,
};
