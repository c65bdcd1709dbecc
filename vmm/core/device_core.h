/*
 * device_core.h - what the machine, the buses and the interrupt lines call in
 * a device. The other side of devices/device.h.
 *
 * The machine creates its devices before its vCPUs run, keeps them in vm->dev[],
 * and destroys them after the last thread has ended; nothing else adds or drops
 * a device. Every function here takes the device's lock around the handler.
 */
#ifndef VMM_CORE_DEVICE_CORE_H
#define VMM_CORE_DEVICE_CORE_H

#include "devices/device.h"

struct vm;

/* Lines a device may log in one window; the rest is counted. */
#define DEV_LOG_BURST     16
#define DEV_LOG_WINDOW_NS (10 * NSEC_PER_SEC)

/* What the engine may answer in the device's place; see dev_doorbell(). */
struct dev_doorbell {
	struct dev *dev;
	unsigned bell;
	unsigned region;
	uint64_t off;
	unsigned bytes; /* 0: none */
	/* Armed there; 0: not. Written with vm->map_lock held. */
	_Atomic uint64_t gpa;
	void *engine_data; /* from the first arming to doorbell_free() */
};

struct dev {
	const struct device_type *type;
	struct vm *vm;
	unsigned source; /* on interrupt lines: its index in vm->dev[] */
	size_t bytes;    /* of this block, state included */
	int host_node;
	unsigned first_message, nr_messages; /* in vm->message[] */
	struct dev_doorbell doorbell[DEV_DOORBELLS_MAX];

	struct {
		uint64_t base, bytes;
		bool answers;
	} moving[DEV_MOVING_MAX]; /* by vm->map_lock */

	struct lock lock;         /* guards all below, and the state unless concurrent */
	struct clock_timer timer; /* only if the type has a timer handler */
	uint64_t deadline_ns;     /* HOST_FOREVER: not armed */
	bool input_ready;         /* tell the embedder when the lock is free */

	_Atomic uint64_t log_window_ns; /* host time at which the window opened */
	_Atomic uint32_t log_lines;     /* in this window */

	uint8_t state[] __cacheline;
};

/*
 * Allocates the device on @host_node, registers its regions on vm->pio and
 * vm->mmio, and enters it in vm->intc[] if it is an interrupt controller. Needs
 * vm->host, cfg, gmem, topo and a started or stopped vm->clock; takes
 * vm->nr_devs as its number, so the caller stores *out in vm->dev[vm->nr_devs++].
 * The device still wants dev_reset(). -ENOMEM, -EEXIST, -ENOSPC, or init()'s error;
 * after an error the buses must not be used any more: the machine is given up.
 */
int dev_create(struct vm *vm, const struct device_type *t, int host_node, struct dev **out);
void dev_destroy(struct dev *d); /* NULL is legal */

void dev_reset(struct dev *d);
/* Bytes from outside; returns how many the device took. */
size_t dev_input(struct dev *d, const uint8_t *buf, size_t bytes);
/*
 * Save or load, with every vCPU parked. The guest clock has been restored before
 * devices load: times in a snapshot are guest times. 0 or -errno.
 */
int dev_snapshot(struct dev *d, struct snap *s);

/* For the buses: @size is one the type declares, @off as its handlers see it. */
uint64_t dev_read(struct dev *d, uint64_t off, unsigned size);
void dev_write(struct dev *d, uint64_t off, unsigned size, uint64_t val);

/* For engines, on an event thread: the doorbell was rung. */
void dev_ring(struct dev_doorbell *b);

/* For interrupt lines. */
void dev_irq_in(struct dev *d, unsigned gsi, bool level);
void dev_eoi(struct dev *d, uint8_t vector);
int dev_ack(struct dev *d);

#endif
