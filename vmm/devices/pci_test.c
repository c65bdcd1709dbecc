/*
 * pci_test.c - a function for tests: a doorbell, a DMA engine, MSI-X.
 *
 * A guest writes addresses, a length and a vector, and rings: an event thread copies
 * that much memory and raises the vector. It exists to try what functions stand on, on
 * every engine; machines have it when vmm_config.test_device says so.
 *
 * Rings that come while one waits are one, as they are where the engine takes them.
 */
#include "devices/pci.h"

#include <errno.h>

#define MAGIC     0x54434c41u /* "ALCT" */
#define BAR_REGS  0
#define BAR_MSIX  2
#define REG_BYTES 4096
#define VECTORS   8

#define COPY_MAX   0x10000u /* a ring: event threads have others to serve */
#define COPY_CHUNK 1024u

enum test_reg {
	TEST_MAGIC = 0x00,
	TEST_STATUS = 0x04,
	TEST_SOURCE = 0x08, /* 64 bits */
	TEST_TARGET = 0x10, /* 64 bits */
	TEST_LENGTH = 0x18,
	TEST_VECTOR = 0x1c,   /* to raise when it is done */
	TEST_DOORBELL = 0x20, /* any write */
	TEST_DONE = 0x24,     /* rings served, modulo 2^32 */
	TEST_RAISE = 0x28     /* raises this vector, at once */
};

enum test_status { STATUS_OK, STATUS_BAD_ADDRESS, STATUS_TOO_LONG, STATUS_NOT_MASTER };

struct pci_test {
	struct pci pci; /* first */
	uint64_t source, target;
	uint32_t length, vector, status, done;
	bool rung;
};

static enum test_status copy(struct dev *d)
{
	const struct pci_test *t = dev_state(d);
	uint8_t buf[COPY_CHUNK];

	if (!pci_is_master(&t->pci))
		return STATUS_NOT_MASTER;
	if (t->length > COPY_MAX)
		return STATUS_TOO_LONG;
	for (uint32_t at = 0; at < t->length; at += COPY_CHUNK) {
		uint32_t n = MIN(t->length - at, COPY_CHUNK);

		if (dev_dma_read(d, t->source + at, buf, n) ||
		    dev_dma_write(d, t->target + at, buf, n))
			return STATUS_BAD_ADDRESS;
	}
	return STATUS_OK;
}

/* On an event thread; while the machine is paused it waits with the clock. */
static void test_work(struct dev *d)
{
	struct pci_test *t = dev_state(d);

	if (!t->rung)
		return;
	t->rung = false;
	t->status = copy(d);
	t->done++;
	pci_raise(d, t->vector);
}

static void test_doorbell(struct dev *d, unsigned bell)
{
	struct pci_test *t = dev_state(d);

	t->rung = true;
	dev_timer_set(d, dev_now(d));
}

static uint64_t test_read(struct dev *d, unsigned bar, uint64_t off, unsigned size)
{
	const struct pci_test *t = dev_state(d);

	switch (off) {
	case TEST_MAGIC:
		return MAGIC;
	case TEST_STATUS:
		return t->status;
	case TEST_SOURCE:
	case TEST_SOURCE + 4:
		return (uint32_t)(t->source >> (off % 8 * 8));
	case TEST_TARGET:
	case TEST_TARGET + 4:
		return (uint32_t)(t->target >> (off % 8 * 8));
	case TEST_LENGTH:
		return t->length;
	case TEST_VECTOR:
		return t->vector;
	case TEST_DONE:
		return t->done;
	default:
		return 0;
	}
}

static void write_half(uint64_t *reg, uint64_t off, uint64_t val)
{
	unsigned shift = off % 8 * 8;

	*reg = (*reg & ~((uint64_t)UINT32_MAX << shift)) | (uint64_t)(uint32_t)val << shift;
}

static void test_write(struct dev *d, unsigned bar, uint64_t off, unsigned size, uint64_t val)
{
	struct pci_test *t = dev_state(d);

	switch (off) {
	case TEST_SOURCE:
	case TEST_SOURCE + 4:
		write_half(&t->source, off, val);
		break;
	case TEST_TARGET:
	case TEST_TARGET + 4:
		write_half(&t->target, off, val);
		break;
	case TEST_LENGTH:
		t->length = (uint32_t)val;
		break;
	case TEST_VECTOR:
		t->vector = (uint32_t)val;
		break;
	case TEST_DOORBELL:
		test_doorbell(d, 0);
		break;
	case TEST_RAISE:
		pci_raise(d, (unsigned)val);
		break;
	default:
		break;
	}
}

static const struct pci_type function = {
	.vendor = 0x1af4, /* 10f0 to 10ff are there for experiments */
	.device = 0x10f0,
	.subvendor = 0x1af4,
	.subdevice = 1,
	.class_code = 0xff0000, /* of no class */
	.bar = { [BAR_REGS] = { REG_BYTES, PCI_BAR_64 }, [BAR_MSIX] = { 0, PCI_BAR_64 } },
	.vectors = VECTORS,
	.msix_bar = BAR_MSIX,
	.read = test_read,
	.write = test_write,
};

static int test_init(struct dev *d)
{
	dev_doorbell(d, 0, BAR_REGS, TEST_DOORBELL, 4);
	return pci_init(d, &function);
}

static void test_reset(struct dev *d)
{
	struct pci_test *t = dev_state(d);

	t->source = t->target = 0;
	t->length = t->vector = t->status = t->done = 0;
	t->rung = false;
	dev_timer_cancel(d);
	pci_reset(d);
}

static int test_snapshot(struct dev *d, struct snap *s)
{
	struct pci_test *t = dev_state(d);

	snap_u64(s, &t->source);
	snap_u64(s, &t->target);
	snap_u32(s, &t->length);
	snap_u32(s, &t->vector);
	snap_u32(s, &t->status);
	snap_u32(s, &t->done);
	snap_bool(s, &t->rung);
	if (snap_loading(s) && t->rung)
		dev_timer_set(d, dev_now(d));
	return pci_snapshot(d, s);
}

const struct device_type pci_test_type = {
	.name = "pci-test",
	.state_size = sizeof(struct pci_test),
	PCI_ACCESS,
	.init = test_init,
	.destroy = pci_destroy,
	.reset = test_reset,
	.timer = test_work,
	.snapshot = test_snapshot,
	.doorbell = test_doorbell,
};
