/*
 * device.h - the device seam.
 *
 * A device is a constant `struct device_type` and a block of state that the core
 * allocates, zeroed, on the device's node, and frees with the machine. The core
 * holds the device's lock around every handler (read, write, timer, reset, input,
 * snapshot), unless the type is concurrent.
 *
 * A device never calls another device; it raises lines, sends messages and asks
 * the machine for things, all through the functions below. A guest's mistake is
 * never an error: reads give ones or zeroes, writes vanish.
 */
#ifndef VMM_DEVICES_DEVICE_H
#define VMM_DEVICES_DEVICE_H

#include "core/bus.h"
#include "core/clock.h"
#include "core/host.h"
#include "core/irq.h"
#include "core/lock.h"
#include "core/snap.h"
#include "core/util.h"

struct dev;

#define DEV_REGIONS_MAX 4
#define DEV_LINES_MAX   4

/*
 * Handlers see REGION(n) + the offset inside region n; a device with a single
 * region sees plain offsets.
 */
#define REGION(n) ((uint64_t)(n) << 32)

#define DEV_MOVING_MAX    6 /* regions that move: as many as a PCI function has BARs */
#define DEV_DOORBELLS_MAX 4

struct dev_region {
	enum bus_kind bus;
	uint64_t base;
	uint64_t bytes;
};

struct device_type {
	const char *name;
	size_t state_size;
	struct dev_region region[DEV_REGIONS_MAX]; /* unused ones have bytes == 0 */
	uint8_t min_access;     /* bytes; smaller accesses are widened, see bus_access() */
	uint8_t max_access;     /* bytes; larger ones are split, low address first */
	int gsi[DEV_LINES_MAX]; /* interrupt line n's default GSI; -1: none */
	bool concurrent;        /* the device locks itself */

	/* Once, after allocation; config is vm->config's or the embedder's. May be NULL. */
	int (*init)(struct dev *d);
	void (*destroy)(struct dev *d);
	void (*reset)(struct dev *d);
	uint64_t (*read)(struct dev *d, uint64_t off, unsigned size);
	void (*write)(struct dev *d, uint64_t off, unsigned size, uint64_t val);
	void (*timer)(struct dev *d);
	/* Bytes from outside (console input); returns how many were taken. */
	size_t (*input)(struct dev *d, const uint8_t *buf, size_t bytes);
	int (*snapshot)(struct dev *d, struct snap *s);
	/* See dev_doorbell(). */
	void (*doorbell)(struct dev *d, unsigned bell);

	/* Interrupt controllers only; called with their own lock held. */
	void (*irq_in)(struct dev *d, unsigned gsi, bool level);
	void (*eoi)(struct dev *d, uint8_t vector);
	int (*ack)(struct dev *d); /* ExtINT vector, or -ENOENT */
};

/* Ends with NULL; in order of creation. */
extern const struct device_type *const device_types[];
/* For machines that ask for it: vmm_config.test_device. */
extern const struct device_type pci_test_type;

void *dev_state(struct dev *d);

/* Guest time; the timer handler runs with the lock held, once per arming. */
uint64_t dev_now(struct dev *d);
void dev_timer_set(struct dev *d, uint64_t deadline_ns);
void dev_timer_cancel(struct dev *d);

/* Interrupt line 0, or line n. */
void dev_irq(struct dev *d, bool level);
void dev_irq_line(struct dev *d, unsigned line, bool level);
/* Interrupt controllers: a message to local APICs; the PIC's output to the BSP. */
void dev_msi(struct dev *d, uint64_t addr, uint32_t data);
void dev_extint(struct dev *d, bool level);

/*
 * For devices whose place is not the type's: PCI functions (devices/pci.h).
 *
 * From init() only: one more region, REGION(@n), for good.
 */
int dev_add_region(struct dev *d, unsigned n, enum bus_kind bus, uint64_t base, uint64_t bytes);
/*
 * Moving region @n, below DEV_MOVING_MAX, lies at @base in memory space; bytes 0: nowhere.
 * It answers, as REGION(@n), while it lies in one of the machine's windows for such
 * regions, and none of a device created earlier, or of its own with a smaller number,
 * lies there. With the device's lock held.
 */
void dev_map(struct dev *d, unsigned n, uint64_t base, uint64_t bytes);
/*
 * From init() only: writes of @bytes at @off of moving region @n mean no more than that
 * somebody wrote. Where the engine can do without an exit, the doorbell handler is
 * called for them, by an event thread and perhaps once for several; else write() is.
 */
void dev_doorbell(struct dev *d, unsigned bell, unsigned n, uint64_t off, unsigned bytes);
/* From init() only: this many messages, for dev_message(). -ENOSPC. */
int dev_add_messages(struct dev *d, unsigned nr);
/* Sends message @n, which says the same most times: the engine keeps a way for it. */
void dev_message(struct dev *d, unsigned n, uint64_t addr, uint32_t data);
/* From init() only: the next place on the PCI bus, 0 to 31, and its configuration space. */
int dev_pci_slot(struct dev *d, unsigned *slot, uint64_t *config_gpa);
/* Where the configuration space of the whole bus begins. */
uint64_t dev_pci_config_gpa(void);
/* Concurrent types only: an access to memory space, passed on as a bridge does. */
uint64_t dev_forward_read(struct dev *d, uint64_t gpa, unsigned size);
void dev_forward_write(struct dev *d, uint64_t gpa, unsigned size, uint64_t val);
/* RAM; a range that is not RAM altogether: -EFAULT, and nothing is copied. */
int dev_dma_read(struct dev *d, uint64_t gpa, void *buf, uint64_t bytes);
int dev_dma_write(struct dev *d, uint64_t gpa, const void *buf, uint64_t bytes);

/* Console bytes out of the machine; buffered by the embedder. */
void dev_output(struct dev *d, const uint8_t *buf, size_t bytes);
/* The input handler refused bytes before and would take some now. */
void dev_input_ready(struct dev *d);

/* Asynchronous: the vCPUs stop first. */
void dev_request_reset(struct dev *d);
void dev_request_poweroff(struct dev *d);
/* End the machine; exit status is (value << 1) | 1. */
void dev_request_exit(struct dev *d, uint8_t value);

/* What fw_cfg and CMOS tell the guest. */
unsigned dev_vcpus(struct dev *d);
uint64_t dev_ram_bytes(struct dev *d);     /* all of it */
uint64_t dev_low_ram_bytes(struct dev *d); /* below 4 GiB */
uint64_t dev_wall_ns(struct dev *d);       /* UTC at this guest time */

/* Rate-limited: a guest may trigger it at will. */
void dev_log(struct dev *d, enum log_level level, const char *fmt, ...) __printf(3, 4);

#endif
