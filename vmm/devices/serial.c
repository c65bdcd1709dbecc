/*
 * serial.c - 16550A serial port, COM1.
 *
 * National PC16550D data sheet. What is sent leaves at once, whatever the baud
 * rate, so the transmitter is always empty; only the receiver's timeout takes
 * its time. The interrupt pin is wired to the line whatever OUT2 says: there is
 * no other port to share it with, and small systems forget OUT2.
 *
 * Nothing is lost on the way in: input is taken while the receiver has room and
 * the guest wants some, and asked for again when that changes. Systems clear the
 * receiver when they open the port, and what had come before would be gone.
 */
#include "devices/device.h"

enum serial_reg { RBR_THR, IER, IIR_FCR, LCR, MCR, LSR, MSR, SCR };

#define IER_RDA  BIT(0)
#define IER_THRE BIT(1)
#define IER_RLS  BIT(2)
#define IER_MS   BIT(3)

#define IIR_NONE    0x01u
#define IIR_MS      0x00u
#define IIR_THRE    0x02u
#define IIR_RDA     0x04u
#define IIR_RLS     0x06u
#define IIR_TIMEOUT 0x0cu
#define IIR_FIFO    0xc0u

#define FCR_ENABLE   BIT(0)
#define FCR_CLEAR_RX BIT(1)
#define FCR_KEPT     0xc9u /* enable, DMA mode, trigger */

#define LCR_BREAK BIT(6)
#define LCR_DLAB  BIT(7)

#define MCR_DTR  BIT(0)
#define MCR_RTS  BIT(1)
#define MCR_OUT1 BIT(2)
#define MCR_OUT2 BIT(3)
#define MCR_LOOP BIT(4)
#define MCR_BITS 0x1fu

#define LSR_DR   BIT(0)
#define LSR_OE   BIT(1)
#define LSR_BI   BIT(4)
#define LSR_THRE BIT(5)
#define LSR_TEMT BIT(6)
#define LSR_LINE (LSR_OE | LSR_BI) /* what we can see of the error bits */

#define MSR_DELTAS 0x0fu
#define MSR_TERI   BIT(2)
#define MSR_CTS    BIT(4)
#define MSR_DSR    BIT(5)
#define MSR_RI     BIT(6)
#define MSR_DCD    BIT(7)
#define MSR_PEER   (MSR_CTS | MSR_DSR | MSR_DCD) /* somebody listens */

#define FIFO_BYTES    16
#define CLOCK_HZ      1843200ull
#define TIMEOUT_CHARS 4
#define POLLS_MIN     8 /* output polls LSR once or twice, it is always ready */

struct serial {
	uint8_t ier, fcr, lcr, mcr, scr;
	uint8_t line;  /* LSR_LINE bits, until LSR is read */
	uint8_t modem; /* MSR */
	uint16_t divisor;
	uint8_t rx[FIFO_BYTES];
	uint8_t rx_head, rx_count;
	bool thre;     /* transmitter-empty interrupt pending */
	bool timeout;  /* receiver timeout pending */
	bool starved;  /* input was refused */
	uint8_t polls; /* LSR reads in a row, up to POLLS_MIN */
};

static uint8_t rx_depth(const struct serial *s)
{
	return s->fcr & FCR_ENABLE ? FIFO_BYTES : 1;
}

static unsigned rx_room(const struct serial *s)
{
	return rx_depth(s) - (unsigned)s->rx_count;
}

static unsigned rx_trigger(const struct serial *s)
{
	static const uint8_t trigger[] = { 1, 4, 8, 14 };

	return s->fcr & FCR_ENABLE ? trigger[s->fcr >> 6] : 1;
}

/* The source that the guest is told about: data sheet, table IV. */
static uint8_t interrupt(const struct serial *s)
{
	if ((s->ier & IER_RLS) && s->line)
		return IIR_RLS;
	if ((s->ier & IER_RDA) && s->rx_count >= rx_trigger(s))
		return IIR_RDA;
	if ((s->ier & IER_RDA) && s->timeout)
		return IIR_TIMEOUT;
	if ((s->ier & IER_THRE) && s->thre)
		return IIR_THRE;
	if ((s->ier & IER_MS) && (s->modem & MSR_DELTAS))
		return IIR_MS;
	return IIR_NONE;
}

static void update(struct dev *d)
{
	struct serial *s = dev_state(d);

	dev_irq(d, interrupt(s) != IIR_NONE);
}

/* Start, data, parity and stop bits, 16 clocks a bit and divisor. */
static uint64_t char_ns(const struct serial *s)
{
	unsigned bits = 7u + (s->lcr & 3) + (s->lcr >> 2 & 1) + (s->lcr >> 3 & 1);
	unsigned divisor = MAX(s->divisor, 1);

	return bits * 16ull * divisor * NSEC_PER_SEC / CLOCK_HZ;
}

/* Every arrival and every read starts the timeout anew, while bytes wait. */
static void restart_timeout(struct dev *d)
{
	struct serial *s = dev_state(d);

	s->timeout = false;
	if ((s->fcr & FCR_ENABLE) && s->rx_count && s->rx_count < rx_trigger(s))
		dev_timer_set(d, dev_now(d) + TIMEOUT_CHARS * char_ns(s));
	else
		dev_timer_cancel(d);
}

static void serial_timeout(struct dev *d)
{
	struct serial *s = dev_state(d);

	s->timeout = s->rx_count != 0;
	update(d);
}

/* --- receiver ---------------------------------------------------------------- */

static void rx_clear(struct serial *s)
{
	s->rx_head = 0;
	s->rx_count = 0;
	s->timeout = false;
}

static void rx_push(struct serial *s, uint8_t byte)
{
	if (!rx_room(s)) {
		s->line |= LSR_OE;
		return;
	}
	s->rx[(s->rx_head + s->rx_count) % FIFO_BYTES] = byte;
	s->rx_count++;
}

/*
 * A driver with flow control raises RTS when it is ready. One without it leaves
 * DTR alone as well, and enables the interrupt; or it polls.
 */
static bool wants_input(const struct serial *s)
{
	if (s->mcr & MCR_LOOP)
		return false;
	return (s->mcr & MCR_RTS) || s->polls == POLLS_MIN ||
	       (!(s->mcr & MCR_DTR) && (s->ier & IER_RDA));
}

/* After anything that may have changed the answer. */
static void ask_for_input(struct dev *d)
{
	struct serial *s = dev_state(d);

	if (!s->starved || s->rx_count || !wants_input(s))
		return;
	s->starved = false;
	dev_input_ready(d);
}

static uint8_t rx_pop(struct dev *d)
{
	struct serial *s = dev_state(d);
	uint8_t byte = s->rx[s->rx_head];

	if (!s->rx_count)
		return 0;
	s->rx_head = (uint8_t)((s->rx_head + 1) % FIFO_BYTES);
	s->rx_count--;
	restart_timeout(d);
	return byte;
}

static size_t serial_input(struct dev *d, const uint8_t *buf, size_t bytes)
{
	struct serial *s = dev_state(d);
	size_t n = wants_input(s) ? MIN(bytes, rx_room(s)) : 0;

	for (size_t i = 0; i < n; i++)
		rx_push(s, buf[i]);
	if (n < bytes)
		s->starved = true;
	if (n)
		restart_timeout(d);
	update(d);
	return n;
}

/* --- transmitter and modem --------------------------------------------------- */

static void transmit(struct dev *d, uint8_t byte)
{
	struct serial *s = dev_state(d);

	if (s->mcr & MCR_LOOP) {
		rx_push(s, byte);
		restart_timeout(d);
	} else {
		dev_output(d, &byte, 1);
	}
	s->thre = true;
}

/* The modem's lines, or in loopback our own: DTR, RTS and the OUTs come back. */
static uint8_t modem_lines(const struct serial *s)
{
	if (!(s->mcr & MCR_LOOP))
		return MSR_PEER;
	return (uint8_t)((s->mcr & MCR_DTR ? MSR_DSR : 0) | (s->mcr & MCR_RTS ? MSR_CTS : 0) |
			 (s->mcr & MCR_OUT1 ? MSR_RI : 0) | (s->mcr & MCR_OUT2 ? MSR_DCD : 0));
}

/* Bits 7:4 are lines, 3:0 say which have changed; RI counts when it falls. */
static void modem_changed(struct serial *s)
{
	uint8_t lines = modem_lines(s);
	uint8_t changed = (lines ^ s->modem) & 0xf0;

	if (lines & MSR_RI)
		changed &= (uint8_t)~MSR_RI;
	s->modem = (uint8_t)(lines | (s->modem & MSR_DELTAS) | changed >> 4);
}

static void write_mcr(struct serial *s, uint8_t val)
{
	s->mcr = val & MCR_BITS;
	modem_changed(s);
}

static void write_fcr(struct dev *d, uint8_t val)
{
	struct serial *s = dev_state(d);

	if ((val ^ s->fcr) & FCR_ENABLE)
		rx_clear(s);
	s->fcr = val & FCR_ENABLE ? val & FCR_KEPT : 0;
	if ((val & FCR_ENABLE) && (val & FCR_CLEAR_RX))
		rx_clear(s);
	restart_timeout(d);
}

static void write_ier(struct serial *s, uint8_t val)
{
	uint8_t enabled = val & (uint8_t)~s->ier;

	s->ier = val & 0x0f;
	if (enabled & IER_THRE)
		s->thre = true; /* empty it is */
}

/* In loopback a break comes back as a zero byte. */
static void write_lcr(struct dev *d, uint8_t val)
{
	struct serial *s = dev_state(d);
	bool breaks = val & (uint8_t)~s->lcr & LCR_BREAK;

	s->lcr = val;
	if (!breaks || !(s->mcr & MCR_LOOP))
		return;
	rx_push(s, 0);
	s->line |= LSR_BI;
	restart_timeout(d);
}

/* --- registers --------------------------------------------------------------- */

static uint8_t read_iir(struct serial *s)
{
	uint8_t id = interrupt(s);

	if (id == IIR_THRE)
		s->thre = false; /* told */
	return (uint8_t)(id | (s->fcr & FCR_ENABLE ? IIR_FIFO : 0));
}

static uint8_t read_lsr(struct serial *s)
{
	uint8_t val = (uint8_t)(s->line | LSR_THRE | LSR_TEMT | (s->rx_count ? LSR_DR : 0));

	s->line = 0;
	return val;
}

static uint8_t read_msr(struct serial *s)
{
	uint8_t val = s->modem;

	s->modem &= (uint8_t)~MSR_DELTAS;
	return val;
}

static uint8_t read_reg(struct dev *d, uint64_t off)
{
	struct serial *s = dev_state(d);
	bool dlab = s->lcr & LCR_DLAB;

	switch (off) {
	case RBR_THR:
		return dlab ? (uint8_t)s->divisor : rx_pop(d);
	case IER:
		return dlab ? (uint8_t)(s->divisor >> 8) : s->ier;
	case IIR_FCR:
		return read_iir(s);
	case LCR:
		return s->lcr;
	case MCR:
		return s->mcr;
	case LSR:
		return read_lsr(s);
	case MSR:
		return read_msr(s);
	default:
		return s->scr;
	}
}

static uint64_t serial_read(struct dev *d, uint64_t off, unsigned size)
{
	struct serial *s = dev_state(d);
	uint8_t val = read_reg(d, off);

	s->polls = off == LSR ? (uint8_t)MIN(s->polls + 1u, POLLS_MIN) : 0;
	ask_for_input(d);
	update(d);
	return val;
}

static void write_divisor(struct serial *s, uint64_t off, uint8_t val)
{
	unsigned shift = (unsigned)off * 8;

	s->divisor = (uint16_t)((s->divisor & ~(0xff << shift)) | val << shift);
}

static void serial_write(struct dev *d, uint64_t off, unsigned size, uint64_t val)
{
	struct serial *s = dev_state(d);
	uint8_t byte = (uint8_t)val;

	s->polls = 0;
	if ((s->lcr & LCR_DLAB) && off <= IER) {
		write_divisor(s, off, byte);
		return;
	}
	switch (off) {
	case RBR_THR:
		transmit(d, byte);
		break;
	case IER:
		write_ier(s, byte);
		break;
	case IIR_FCR:
		write_fcr(d, byte);
		break;
	case LCR:
		write_lcr(d, byte);
		break;
	case MCR:
		write_mcr(s, byte);
		break;
	case SCR:
		s->scr = byte;
		break;
	default: /* LSR and MSR are for reading */
		break;
	}
	ask_for_input(d);
	update(d);
}

/* Input that was refused is still wanted. */
static void serial_reset(struct dev *d)
{
	struct serial *s = dev_state(d);
	bool starved = s->starved;

	*s = (struct serial){ .divisor = 1, .modem = MSR_PEER, .starved = starved };
	restart_timeout(d);
	update(d);
}

static int serial_snapshot(struct dev *d, struct snap *snap)
{
	struct serial *s = dev_state(d);

	snap_u8(snap, &s->ier);
	snap_u8(snap, &s->fcr);
	snap_u8(snap, &s->lcr);
	snap_u8(snap, &s->mcr);
	snap_u8(snap, &s->scr);
	snap_u8(snap, &s->line);
	snap_u8(snap, &s->modem);
	snap_u16(snap, &s->divisor);
	snap_bytes(snap, s->rx, sizeof(s->rx));
	snap_u8(snap, &s->rx_head);
	snap_u8(snap, &s->rx_count);
	snap_bool(snap, &s->thre);
	snap_bool(snap, &s->timeout);
	snap_u8(snap, &s->polls);
	if (!snap_loading(snap))
		return snap_error(snap);

	s->ier &= 0x0f;
	s->fcr &= FCR_KEPT;
	s->mcr &= MCR_BITS;
	s->line &= LSR_LINE;
	s->polls = MIN(s->polls, POLLS_MIN);
	s->rx_head %= FIFO_BYTES;
	s->rx_count = MIN(s->rx_count, rx_depth(s));
	if (!s->timeout)
		restart_timeout(d);
	ask_for_input(d);
	update(d);
	return snap_error(snap);
}

const struct device_type serial_type = {
	.name = "serial",
	.state_size = sizeof(struct serial),
	.region = { { BUS_PIO, 0x3f8, 8 } },
	.min_access = 1,
	.max_access = 1,
	.gsi = { 4, -1, -1, -1 },
	.reset = serial_reset,
	.read = serial_read,
	.write = serial_write,
	.timer = serial_timeout,
	.input = serial_input,
	.snapshot = serial_snapshot,
};
