/*
 * pit.c - 8254 interval timer, and the bits of port 0x61 around its channel 2.
 *
 * Intel 8254 data sheet (231164). Nothing counts: a channel remembers when its
 * count was loaded, and everything else follows from the time. Channel 0 drives
 * IRQ 0; the gates of channels 0 and 1 are always high.
 *
 * Only rising edges of channel 0 are events for the machine. A guest may ask for
 * more of them than is good for the host: they come at least MIN_PERIOD_NS apart.
 */
#include "devices/device.h"

#define PIT_HZ        1193182ull
#define CLK_NS        839 /* one clock, rounded up: a count is loaded by the next one */
#define MIN_PERIOD_NS (50 * NSEC_PER_USEC)
#define REFRESH_NS    15085 /* port 0x61: half a period of the refresh toggle */

#define PORT_CONTROL 3
#define PORT_SYSTEM  REGION(1)

#define SYS_GATE2    BIT(0)
#define SYS_WRITABLE 0x0fu
#define SYS_REFRESH  BIT(4)
#define SYS_OUT2     BIT(5)

#define CTRL_READBACK      3 /* in the channel's place */
#define READBACK_NO_COUNT  BIT(5)
#define READBACK_NO_STATUS BIT(4)
#define STATUS_OUT         BIT(7)
#define STATUS_NULL        BIT(6)
#define CTRL_BITS          0x3fu

enum access { ACCESS_LATCH, ACCESS_LSB, ACCESS_MSB, ACCESS_BOTH };

enum pit_mode {
	ONE_SHOT,    /* 0: interrupt on terminal count */
	TRIGGERED,   /* 1: hardware retriggerable one-shot */
	RATE,        /* 2: rate generator */
	SQUARE,      /* 3: square wave */
	STROBE,      /* 4: software triggered strobe */
	STROBE_TRIG, /* 5: hardware triggered strobe */
};

struct channel {
	uint8_t mode;    /* enum pit_mode */
	uint8_t access;  /* enum access */
	uint8_t control; /* as written, for the status byte */
	bool bcd;
	bool gate;
	bool loaded;     /* a count was written since the control word */
	bool running;    /* start_ns is in force; else elapsed stands */
	bool write_high; /* ACCESS_BOTH: the high byte comes next */
	bool read_high;
	uint8_t write_low;
	uint32_t count; /* 1 .. 65536, in clocks */
	uint32_t next;  /* periodic: in force from next_start_ns on; 0: none */
	uint64_t start_ns;
	uint64_t next_start_ns;
	uint64_t elapsed; /* clocks counted when it was stopped */

	bool status_latched, count_latched;
	uint8_t status;
	uint16_t latch;
};

struct pit {
	struct channel ch[3];
	uint8_t system; /* port 0x61, writable bits */
};

static bool is_periodic(const struct channel *c)
{
	return c->mode == RATE || c->mode == SQUARE;
}

static bool is_triggered(const struct channel *c)
{
	return c->mode == TRIGGERED || c->mode == STROBE_TRIG;
}

/* What a count of 0 means. */
static uint32_t most_clocks(const struct channel *c)
{
	return c->bcd ? 10000 : 0x10000;
}

/* The first nanosecond at which @clocks have passed since @start_ns. */
static uint64_t clocks_after(uint64_t start_ns, uint64_t clocks)
{
	return start_ns + mul_div_u64(clocks, NSEC_PER_SEC, PIT_HZ) + 1;
}

/* Clocks since the count was loaded. */
static uint64_t elapsed(const struct channel *c, uint64_t now)
{
	if (!c->running)
		return c->elapsed;
	return now > c->start_ns ? mul_div_u64(now - c->start_ns, PIT_HZ, NSEC_PER_SEC) : 0;
}

/* A new count of a periodic channel comes into force at the end of a period. */
static void settle(struct channel *c, uint64_t now)
{
	if (!c->next || now < c->next_start_ns)
		return;
	c->start_ns = c->next_start_ns;
	c->count = c->next;
	c->next = 0;
}

static bool output(const struct channel *c, uint64_t now)
{
	uint64_t t = elapsed(c, now);

	if (!c->loaded)
		return c->mode != ONE_SHOT;
	switch (c->mode) {
	case ONE_SHOT:
		return t >= c->count;
	case TRIGGERED:
		return !c->running || t >= c->count;
	case RATE:
		return !c->running || t % c->count != c->count - 1;
	case SQUARE:
		return !c->running || t % c->count < (c->count + 1) / 2;
	default: /* low for the one clock at the end */
		return !c->running || t != c->count;
	}
}

/* Counts down by two, twice a period; an odd count starts one lower (data sheet, mode 3). */
static uint64_t square_value(const struct channel *c, uint64_t t)
{
	uint64_t high = (c->count + 1) / 2;

	t %= c->count;
	if (t >= high)
		t -= high;
	return (c->count & ~1u) - 2 * t;
}

static uint16_t counter(const struct channel *c, uint64_t now)
{
	uint64_t t = elapsed(c, now);
	uint64_t wrap = most_clocks(c);
	unsigned v;

	if (c->mode == SQUARE)
		v = (unsigned)(square_value(c, t) % wrap);
	else if (c->mode == RATE)
		v = (unsigned)((c->count - t % c->count) % wrap);
	else
		v = (unsigned)((c->count + wrap - t % wrap) % wrap);
	if (c->bcd)
		v = v / 1000 << 12 | v / 100 % 10 << 8 | v / 10 % 10 << 4 | v % 10;
	return (uint16_t)v;
}

static uint32_t decode_count(const struct channel *c, uint16_t raw)
{
	uint32_t v = raw;

	if (c->bcd)
		v = (raw >> 12) * 1000u + (raw >> 8 & 15) * 100u + (raw >> 4 & 15) * 10u +
		    (raw & 15);
	if (!v || v > most_clocks(c)) /* BCD has no digits above 9 */
		return most_clocks(c);
	return is_periodic(c) ? MAX(v, 2) : v; /* 1 is illegal there */
}

/* --- channel 0 and the machine ----------------------------------------------- */

/* The next rising edge of the output after @now, or HOST_FOREVER. */
static uint64_t next_edge(const struct channel *c, uint64_t now)
{
	uint64_t t = elapsed(c, now);

	if (!c->loaded || !c->running)
		return HOST_FOREVER;
	if (is_periodic(c)) {
		if (c->next)
			return c->next_start_ns;
		return clocks_after(c->start_ns, (t / c->count + 1) * c->count);
	}
	if (c->mode == ONE_SHOT && t < c->count)
		return clocks_after(c->start_ns, c->count);
	if (c->mode == STROBE && t <= c->count)
		return clocks_after(c->start_ns, c->count + 1ull);
	return HOST_FOREVER;
}

static void arm(struct dev *d, uint64_t earliest)
{
	struct pit *p = dev_state(d);
	uint64_t edge = next_edge(&p->ch[0], dev_now(d));

	dev_timer_set(d, edge == HOST_FOREVER ? edge : MAX(edge, earliest));
}

/* The output is high between edges, whatever the wave: see the head. */
static void pit_edge(struct dev *d)
{
	struct pit *p = dev_state(d);
	uint64_t now = dev_now(d);

	settle(&p->ch[0], now);
	dev_irq(d, false);
	dev_irq(d, true);
	arm(d, now + MIN_PERIOD_NS);
}

/* After the guest has changed channel 0. */
static void output_changed(struct dev *d)
{
	struct pit *p = dev_state(d);
	struct channel *c = &p->ch[0];
	uint64_t now = dev_now(d);

	settle(c, now);
	dev_irq(d, c->mode != ONE_SHOT || output(c, now));
	arm(d, 0);
}

/* --- programming ------------------------------------------------------------- */

static void start(struct channel *c, uint64_t now)
{
	c->running = true;
	c->start_ns = now + CLK_NS;
	c->elapsed = 0;
}

static void set_count(struct channel *c, uint16_t raw, uint64_t now)
{
	uint32_t count = decode_count(c, raw);
	bool first = !c->loaded;

	settle(c, now);
	c->loaded = true;
	if (is_periodic(c) && c->running && !first) {
		c->next = count;
		c->next_start_ns =
			clocks_after(c->start_ns, (elapsed(c, now) / c->count + 1) * c->count);
		return;
	}
	c->count = count;
	if (is_triggered(c))
		return;
	start(c, now);
	if (!c->gate) {
		c->running = false;
		c->elapsed = 0;
	}
}

static void write_count(struct channel *c, uint8_t val, uint64_t now)
{
	switch (c->access) {
	case ACCESS_LSB:
		set_count(c, val, now);
		break;
	case ACCESS_MSB:
		set_count(c, (uint16_t)(val << 8), now);
		break;
	default:
		if (c->write_high) {
			set_count(c, (uint16_t)(val << 8 | c->write_low), now);
		} else {
			c->write_low = val;
			if (c->mode == ONE_SHOT)
				c->loaded = false; /* the first byte stops it */
		}
		c->write_high = !c->write_high;
		break;
	}
}

static void latch_count(struct channel *c, uint64_t now)
{
	if (c->count_latched)
		return;
	settle(c, now);
	c->count_latched = true;
	c->latch = counter(c, now);
}

static void latch_status(struct channel *c, uint64_t now)
{
	bool is_null = !c->loaded || c->next || (c->running && now < c->start_ns);

	if (c->status_latched)
		return;
	settle(c, now);
	c->status_latched = true;
	c->status = (uint8_t)(c->control | (output(c, now) ? STATUS_OUT : 0) |
			      (is_null ? STATUS_NULL : 0));
}

static void read_back(struct pit *p, uint8_t val, uint64_t now)
{
	for (unsigned i = 0; i < 3; i++) {
		if (!(val & BIT(i + 1)))
			continue;
		if (!(val & READBACK_NO_COUNT))
			latch_count(&p->ch[i], now);
		if (!(val & READBACK_NO_STATUS))
			latch_status(&p->ch[i], now);
	}
}

static void set_mode(struct channel *c, uint8_t val)
{
	bool gate = c->gate;

	*c = (struct channel){ .gate = gate, .bcd = val & 1 };
	c->count = most_clocks(c);
	c->control = val & CTRL_BITS;
	c->access = val >> 4 & 3;
	c->mode = val >> 1 & 7;
	if (c->mode > STROBE_TRIG)
		c->mode -= 4; /* 6 and 7 are 2 and 3 */
}

static void write_control(struct dev *d, uint8_t val)
{
	struct pit *p = dev_state(d);
	unsigned i = val >> 6;

	if (i == CTRL_READBACK) {
		read_back(p, val, dev_now(d));
	} else if ((val >> 4 & 3) == ACCESS_LATCH) {
		latch_count(&p->ch[i], dev_now(d));
	} else {
		set_mode(&p->ch[i], val);
		if (i == 0)
			output_changed(d);
	}
}

/* Channel 2's gate: a level for modes 0 and 4, a trigger for the others. */
static void set_gate(struct channel *c, bool gate, uint64_t now)
{
	bool rises = gate && !c->gate;
	bool falls = !gate && c->gate;

	settle(c, now);
	c->gate = gate;
	if (!c->loaded)
		return;
	if (falls && !is_triggered(c)) {
		c->elapsed = is_periodic(c) ? 0 : elapsed(c, now);
		c->running = false;
		if (c->next)
			c->count = c->next;
		c->next = 0;
	} else if (rises && (is_triggered(c) || is_periodic(c))) {
		start(c, now);
	} else if (rises) { /* goes on where it stood */
		c->start_ns = now - MIN(now, clocks_after(0, c->elapsed));
		c->running = true;
	}
}

static void write_system(struct dev *d, uint8_t val)
{
	struct pit *p = dev_state(d);

	p->system = val & SYS_WRITABLE;
	set_gate(&p->ch[2], val & SYS_GATE2, dev_now(d));
}

static void pit_write(struct dev *d, uint64_t off, unsigned size, uint64_t val)
{
	struct pit *p = dev_state(d);

	if (off == PORT_SYSTEM) {
		write_system(d, (uint8_t)val);
	} else if (off == PORT_CONTROL) {
		write_control(d, (uint8_t)val);
	} else {
		write_count(&p->ch[off], (uint8_t)val, dev_now(d));
		if (off == 0)
			output_changed(d);
	}
}

/* --- reading ----------------------------------------------------------------- */

static uint8_t read_channel(struct channel *c, uint64_t now)
{
	bool high = c->access == ACCESS_MSB || (c->access == ACCESS_BOTH && c->read_high);
	uint16_t v;

	if (c->status_latched) {
		c->status_latched = false;
		return c->status;
	}
	settle(c, now);
	v = c->count_latched ? c->latch : counter(c, now);
	if (c->access != ACCESS_BOTH || c->read_high)
		c->count_latched = false;
	if (c->access == ACCESS_BOTH)
		c->read_high = !c->read_high;
	return (uint8_t)(high ? v >> 8 : v);
}

static uint8_t read_system(struct dev *d)
{
	struct pit *p = dev_state(d);
	uint64_t now = dev_now(d);

	settle(&p->ch[2], now);
	return (uint8_t)(p->system | (output(&p->ch[2], now) ? SYS_OUT2 : 0) |
			 (now / REFRESH_NS & 1 ? SYS_REFRESH : 0));
}

static uint64_t pit_read(struct dev *d, uint64_t off, unsigned size)
{
	struct pit *p = dev_state(d);

	if (off == PORT_SYSTEM)
		return read_system(d);
	if (off == PORT_CONTROL)
		return UINT64_MAX; /* write-only */
	return read_channel(&p->ch[off], dev_now(d));
}

/* Until it is programmed no channel counts. */
static void pit_reset(struct dev *d)
{
	struct pit *p = dev_state(d);

	p->system = 0;
	for (unsigned i = 0; i < 3; i++) {
		set_mode(&p->ch[i], ACCESS_BOTH << 4);
		p->ch[i].gate = i != 2;
	}
	dev_irq(d, false);
	dev_timer_cancel(d);
}

/* --- snapshot ---------------------------------------------------------------- */

static void channel_snapshot(struct channel *c, struct snap *s)
{
	snap_u8(s, &c->mode);
	snap_u8(s, &c->access);
	snap_u8(s, &c->control);
	snap_bool(s, &c->bcd);
	snap_bool(s, &c->gate);
	snap_bool(s, &c->loaded);
	snap_bool(s, &c->running);
	snap_bool(s, &c->write_high);
	snap_bool(s, &c->read_high);
	snap_u8(s, &c->write_low);
	snap_u32(s, &c->count);
	snap_u32(s, &c->next);
	snap_u64(s, &c->start_ns);
	snap_u64(s, &c->next_start_ns);
	snap_u64(s, &c->elapsed);
	snap_bool(s, &c->status_latched);
	snap_bool(s, &c->count_latched);
	snap_u8(s, &c->status);
	snap_u16(s, &c->latch);
}

/* What no guest can bring about does not come out of a snapshot either. */
static void channel_check(struct channel *c, uint64_t now)
{
	uint32_t most = most_clocks(c);
	uint32_t least = is_periodic(c) ? 2 : 1;

	c->mode = MIN(c->mode, STROBE_TRIG);
	c->access = c->access & 3 ? c->access & 3 : ACCESS_BOTH;
	c->control &= CTRL_BITS;
	c->count = MIN(MAX(c->count, least), most);
	if (c->next)
		c->next = is_periodic(c) ? MIN(MAX(c->next, least), most) : 0;
	c->start_ns = MIN(c->start_ns, now + CLK_NS);
	c->next_start_ns = MIN(c->next_start_ns, clocks_after(now, 2 * most));
	c->elapsed = MIN(c->elapsed, (uint64_t)UINT32_MAX * PIT_HZ);
}

static int pit_snapshot(struct dev *d, struct snap *s)
{
	struct pit *p = dev_state(d);

	for (unsigned i = 0; i < 3; i++) {
		if (!snap_loading(s))
			settle(&p->ch[i], dev_now(d));
		channel_snapshot(&p->ch[i], s);
	}
	snap_u8(s, &p->system);
	if (!snap_loading(s))
		return snap_error(s);

	for (unsigned i = 0; i < 3; i++) {
		channel_check(&p->ch[i], dev_now(d));
		p->ch[i].gate |= i != 2;
	}
	p->system &= SYS_WRITABLE;
	output_changed(d);
	return snap_error(s);
}

const struct device_type pit_type = {
	.name = "pit",
	.state_size = sizeof(struct pit),
	.region = { { BUS_PIO, 0x40, 4 }, { BUS_PIO, 0x61, 1 } },
	.min_access = 1,
	.max_access = 1,
	.gsi = { 0, -1, -1, -1 },
	.reset = pit_reset,
	.read = pit_read,
	.write = pit_write,
	.timer = pit_edge,
	.snapshot = pit_snapshot,
};
