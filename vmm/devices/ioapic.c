/*
 * ioapic.c - I/O APIC: 24 pins to interrupt messages.
 *
 * Intel 82093AA data sheet (290566), with the EOI register of version 0x20.
 * Line 0, the PIT's, is wired to pin 2; the PIC's output is not wired. Polarity
 * is ignored: lines are asserted or not.
 */
#include "devices/device.h"

#define NR_PINS 24

enum ioapic_reg { IOREGSEL = 0x00, IOWIN = 0x10, IOEOI = 0x40 };

enum ioapic_index { REG_ID = 0x00, REG_VERSION = 0x01, REG_ARB = 0x02, REG_TABLE = 0x10 };

#define VERSION (0x20 | (NR_PINS - 1) << 16)
#define ID_MASK 0x0f000000u

#define RTE_VECTOR         0xffull
#define RTE_MODE_SHIFT     8
#define RTE_LOGICAL        BIT64(11)
#define RTE_PENDING        BIT64(12) /* delivery status: read-only, and never seen set */
#define RTE_REMOTE_IRR     BIT64(14) /* level: sent, and not yet ended; read-only */
#define RTE_LEVEL          BIT64(15)
#define RTE_MASKED         BIT64(16)
/* Bits 14:8 of an extended destination lie below the 8 bits of the plain one. */
#define RTE_EXT_DEST_SHIFT 49
#define RTE_DEST_SHIFT     56
#define RTE_WRITABLE       (0xfffe00000001afffull & ~RTE_PENDING)

#define MSI_ADDR           0xfee00000ull
#define MSI_DEST_SHIFT     12
#define MSI_EXT_DEST_SHIFT 5
#define MSI_LOGICAL        BIT(2)
#define MSI_ASSERT         BIT(14)
#define MSI_LEVEL          BIT(15)

struct ioapic {
	uint32_t id;
	uint32_t lines; /* pins as they are now */
	uint8_t index;
	uint64_t rte[NR_PINS];
};

static void send(struct dev *d, uint64_t rte)
{
	uint64_t addr = MSI_ADDR | (rte >> RTE_DEST_SHIFT) << MSI_DEST_SHIFT |
			((rte >> RTE_EXT_DEST_SHIFT) & 0x7f) << MSI_EXT_DEST_SHIFT;
	uint32_t data = (uint32_t)(rte & 0x7ff) | MSI_ASSERT;

	if (rte & RTE_LOGICAL)
		addr |= MSI_LOGICAL;
	if (rte & RTE_LEVEL)
		data |= MSI_LEVEL;
	dev_msi(d, addr, data);
}

/* A level-triggered pin sends while it is asserted, once for every end of interrupt. */
static void serve_level(struct dev *d, unsigned pin)
{
	struct ioapic *a = dev_state(d);
	uint64_t *rte = &a->rte[pin];

	if (!(*rte & RTE_LEVEL) || (*rte & (RTE_MASKED | RTE_REMOTE_IRR)) || !(a->lines & BIT(pin)))
		return;
	*rte |= RTE_REMOTE_IRR;
	send(d, *rte);
}

static void ioapic_irq_in(struct dev *d, unsigned gsi, bool level)
{
	struct ioapic *a = dev_state(d);
	unsigned pin = gsi ? gsi : 2;
	bool was;

	if (gsi == 2 || pin >= NR_PINS)
		return;
	was = a->lines & BIT(pin);
	a->lines = level ? a->lines | BIT(pin) : a->lines & ~BIT(pin);
	if (a->rte[pin] & RTE_LEVEL)
		serve_level(d, pin);
	else if (level && !was && !(a->rte[pin] & RTE_MASKED))
		send(d, a->rte[pin]); /* an edge on a masked pin is lost */
}

static void ioapic_eoi(struct dev *d, uint8_t vector)
{
	struct ioapic *a = dev_state(d);

	for (unsigned pin = 0; pin < NR_PINS; pin++) {
		if ((a->rte[pin] & RTE_VECTOR) != vector || !(a->rte[pin] & RTE_REMOTE_IRR))
			continue;
		a->rte[pin] &= ~RTE_REMOTE_IRR;
		serve_level(d, pin);
	}
}

/* Making a pin edge-triggered drops its remote IRR: how systems end a stuck interrupt. */
static void write_rte(struct dev *d, unsigned pin, bool high, uint32_t val)
{
	struct ioapic *a = dev_state(d);
	uint64_t keep = a->rte[pin] & RTE_REMOTE_IRR;
	uint64_t rte = high ? (uint64_t)val << 32 | (uint32_t)a->rte[pin]
			    : (a->rte[pin] & ~(uint64_t)UINT32_MAX) | val;

	a->rte[pin] = rte & RTE_WRITABLE;
	if (rte & RTE_LEVEL)
		a->rte[pin] |= keep;
	serve_level(d, pin);
}

static uint32_t read_index(const struct ioapic *a)
{
	unsigned n = a->index - REG_TABLE;

	switch (a->index) {
	case REG_ID:
	case REG_ARB:
		return a->id;
	case REG_VERSION:
		return VERSION;
	default:
		if (a->index < REG_TABLE || n / 2 >= NR_PINS)
			return UINT32_MAX;
		return (uint32_t)(a->rte[n / 2] >> (n % 2 * 32));
	}
}

static void write_index(struct dev *d, uint32_t val)
{
	struct ioapic *a = dev_state(d);
	unsigned n = a->index - REG_TABLE;

	if (a->index == REG_ID)
		a->id = val & ID_MASK;
	else if (a->index >= REG_TABLE && n / 2 < NR_PINS)
		write_rte(d, n / 2, n % 2, val);
}

static uint64_t ioapic_read(struct dev *d, uint64_t off, unsigned size)
{
	struct ioapic *a = dev_state(d);

	switch (off) {
	case IOREGSEL:
		return a->index;
	case IOWIN:
		return read_index(a);
	default:
		return 0;
	}
}

static void ioapic_write(struct dev *d, uint64_t off, unsigned size, uint64_t val)
{
	struct ioapic *a = dev_state(d);

	switch (off) {
	case IOREGSEL:
		a->index = (uint8_t)val;
		break;
	case IOWIN:
		write_index(d, (uint32_t)val);
		break;
	case IOEOI:
		ioapic_eoi(d, (uint8_t)val);
		break;
	default:
		break;
	}
}

/* Pins belong to the devices and survive. */
static void ioapic_reset(struct dev *d)
{
	struct ioapic *a = dev_state(d);

	a->id = 0;
	a->index = 0;
	for (unsigned pin = 0; pin < NR_PINS; pin++)
		a->rte[pin] = RTE_MASKED;
}

static int ioapic_snapshot(struct dev *d, struct snap *s)
{
	struct ioapic *a = dev_state(d);

	snap_u32(s, &a->id);
	snap_u32(s, &a->lines);
	snap_u8(s, &a->index);
	for (unsigned pin = 0; pin < NR_PINS; pin++)
		snap_u64(s, &a->rte[pin]);
	if (!snap_loading(s))
		return snap_error(s);

	a->id &= ID_MASK;
	a->lines &= BIT(NR_PINS) - 1;
	for (unsigned pin = 0; pin < NR_PINS; pin++) {
		a->rte[pin] &= RTE_WRITABLE | RTE_REMOTE_IRR;
		if (!(a->rte[pin] & RTE_LEVEL))
			a->rte[pin] &= ~RTE_REMOTE_IRR;
		serve_level(d, pin);
	}
	return snap_error(s);
}

const struct device_type ioapic_type = {
	.name = "ioapic",
	.state_size = sizeof(struct ioapic),
	.region = { { BUS_MMIO, 0xfec00000, 0x1000 } },
	.min_access = 4,
	.max_access = 4,
	.gsi = { -1, -1, -1, -1 },
	.reset = ioapic_reset,
	.read = ioapic_read,
	.write = ioapic_write,
	.snapshot = ioapic_snapshot,
	.irq_in = ioapic_irq_in,
	.eoi = ioapic_eoi,
};
