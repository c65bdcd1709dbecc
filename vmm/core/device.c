/*
 * device.c - devices as the machine holds them: allocation, locks, timers, and
 * the services of devices/device.h.
 *
 * Lock order: device, then interrupt line, then interrupt controller (itself a
 * device), then vcpu_post(). A device lock is never taken with another one held,
 * but for a controller's.
 */
#include "core/device_core.h"

#include "boot/layout.h"
#include "core/vm.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#define LOG_LINE_BYTES 256

#define PCI_SLOTS           32
#define PCI_ECAM_SLOT_SHIFT 15 /* eight functions of 4 KiB */

static void dev_lock(struct dev *d)
{
	if (!d->type->concurrent)
		lock_take(&d->vm->host, &d->lock);
}

/* Whoever has input may hand it over from inside console_ready(): not under the lock. */
static void dev_unlock(struct dev *d)
{
	const struct vmm_config *cfg = &d->vm->cfg;
	bool ready = d->input_ready;

	if (d->type->concurrent)
		return;
	d->input_ready = false;
	lock_release(&d->vm->host, &d->lock);
	if (ready && cfg->console_ready)
		cfg->console_ready(cfg->arg);
}

/*
 * The clock may call for a deadline that the device has replaced since: then the
 * new one is still ahead, and will call by itself.
 */
static void dev_timer_fired(void *arg)
{
	struct dev *d = arg;

	dev_lock(d);
	if (d->deadline_ns <= dev_now(d)) {
		d->deadline_ns = HOST_FOREVER;
		d->type->timer(d);
	}
	dev_unlock(d);
}

static int dev_add_regions(struct dev *d)
{
	for (unsigned i = 0; i < DEV_REGIONS_MAX; i++) {
		const struct dev_region *r = &d->type->region[i];
		struct bus *b = r->bus == BUS_PIO ? &d->vm->pio : &d->vm->mmio;
		int err = r->bytes ? bus_add(b, r->base, r->bytes, d, REGION(i)) : 0;

		if (err)
			return err;
	}
	return 0;
}

static int dev_init(struct dev *d)
{
	const struct device_type *t = d->type;
	struct vm *vm = d->vm;
	int err = 0;

	if (t->irq_in && vm->nr_intcs == ARRAY_SIZE(vm->intc))
		return -ENOSPC;
	if (t->timer)
		err = clock_timer_init(&d->timer, &vm->clock, d->host_node, dev_timer_fired, d);
	if (err)
		return err;
	if (t->init)
		err = t->init(d);
	if (err)
		goto out_timer;
	err = dev_add_regions(d);
	if (err)
		goto out_init;
	if (t->irq_in)
		vm->intc[vm->nr_intcs++] = d;
	return 0;

out_init:
	if (t->destroy)
		t->destroy(d);
out_timer:
	if (t->timer)
		clock_timer_destroy(&d->timer);
	return err;
}

int dev_create(struct vm *vm, const struct device_type *t, int host_node, struct dev **out)
{
	size_t bytes = sizeof(struct dev) + t->state_size;
	struct dev *d = vm->host.ops->alloc(vm->host.ctx, bytes, host_node);
	int err;

	if (!d)
		return -ENOMEM;
	d->type = t;
	d->vm = vm;
	d->source = vm->nr_devs;
	d->bytes = bytes;
	d->host_node = host_node;
	d->deadline_ns = HOST_FOREVER;
	err = dev_init(d);
	if (err) {
		vm->host.ops->free(vm->host.ctx, d, bytes);
		return err;
	}
	*out = d;
	return 0;
}

/* The event thread may be in a doorbell's handler: that ends before anything is freed. */
static void free_doorbells(struct dev *d)
{
	const struct engine_ops *e = d->vm->engine;

	for (unsigned i = 0; i < DEV_DOORBELLS_MAX; i++)
		if (d->doorbell[i].engine_data)
			e->doorbell_free(d->vm, &d->doorbell[i]);
}

void dev_destroy(struct dev *d)
{
	const struct host *h;

	if (!d)
		return;
	h = &d->vm->host;
	free_doorbells(d);
	if (d->type->timer)
		clock_timer_destroy(&d->timer);
	if (d->type->destroy)
		d->type->destroy(d);
	h->ops->free(h->ctx, d, d->bytes);
}

/* --- calls into a device ----------------------------------------------------- */

void dev_reset(struct dev *d)
{
	if (!d->type->reset)
		return;
	dev_lock(d);
	d->type->reset(d);
	dev_unlock(d);
}

size_t dev_input(struct dev *d, const uint8_t *buf, size_t bytes)
{
	size_t taken;

	if (!d->type->input)
		return 0;
	dev_lock(d);
	taken = d->type->input(d, buf, bytes);
	dev_unlock(d);
	return taken;
}

int dev_snapshot(struct dev *d, struct snap *s)
{
	int err;

	if (!d->type->snapshot)
		return 0;
	dev_lock(d);
	err = d->type->snapshot(d, s);
	dev_unlock(d);
	return err;
}

uint64_t dev_read(struct dev *d, uint64_t off, unsigned size)
{
	uint64_t val;

	if (!d->type->read)
		return UINT64_MAX;
	dev_lock(d);
	val = d->type->read(d, off, size);
	dev_unlock(d);
	return val;
}

void dev_write(struct dev *d, uint64_t off, unsigned size, uint64_t val)
{
	if (!d->type->write)
		return;
	dev_lock(d);
	d->type->write(d, off, size, val);
	dev_unlock(d);
}

void dev_irq_in(struct dev *d, unsigned gsi, bool level)
{
	dev_lock(d);
	d->type->irq_in(d, gsi, level);
	dev_unlock(d);
}

void dev_eoi(struct dev *d, uint8_t vector)
{
	if (!d->type->eoi)
		return;
	dev_lock(d);
	d->type->eoi(d, vector);
	dev_unlock(d);
}

int dev_ack(struct dev *d)
{
	int vector;

	if (!d->type->ack)
		return -ENOENT;
	dev_lock(d);
	vector = d->type->ack(d);
	dev_unlock(d);
	return vector;
}

/* --- what a device asks for -------------------------------------------------- */

void *dev_state(struct dev *d)
{
	return d->state;
}

uint64_t dev_now(struct dev *d)
{
	return clock_now_ns(&d->vm->clock);
}

void dev_timer_set(struct dev *d, uint64_t deadline_ns)
{
	if (d->deadline_ns == deadline_ns)
		return;
	d->deadline_ns = deadline_ns;
	clock_timer_arm(&d->timer, deadline_ns);
}

void dev_timer_cancel(struct dev *d)
{
	dev_timer_set(d, HOST_FOREVER);
}

void dev_irq(struct dev *d, bool level)
{
	dev_irq_line(d, 0, level);
}

void dev_irq_line(struct dev *d, unsigned line, bool level)
{
	int gsi = d->type->gsi[line];

	if (gsi >= 0)
		irq_set(d->vm, (unsigned)gsi, d->source, level);
}

void dev_msi(struct dev *d, uint64_t addr, uint32_t data)
{
	d->vm->engine->msi(d->vm, addr, data);
}

void dev_extint(struct dev *d, bool level)
{
	d->vm->engine->extint(d->vm, level);
}

/* --- regions that move, messages, memory ---------------------------------------- */

int dev_add_region(struct dev *d, unsigned n, enum bus_kind bus, uint64_t base, uint64_t bytes)
{
	struct vm *vm = d->vm;

	return bus_add(bus == BUS_PIO ? &vm->pio : &vm->mmio, base, bytes, d, REGION(n));
}

int dev_pci_slot(struct dev *d, unsigned *slot, uint64_t *config_gpa)
{
	struct vm *vm = d->vm;

	if (vm->nr_pci == PCI_SLOTS)
		return -ENOSPC;
	*slot = vm->nr_pci++;
	*config_gpa = LAYOUT_ECAM_GPA + ((uint64_t)*slot << PCI_ECAM_SLOT_SHIFT);
	return 0;
}

uint64_t dev_pci_config_gpa(void)
{
	return LAYOUT_ECAM_GPA;
}

uint64_t dev_forward_read(struct dev *d, uint64_t gpa, unsigned size)
{
	struct io_access io = { .addr = gpa, .size = (uint8_t)size };

	bus_access(&d->vm->mmio, &io);
	return io.data;
}

void dev_forward_write(struct dev *d, uint64_t gpa, unsigned size, uint64_t val)
{
	struct io_access io = { .addr = gpa, .data = val, .size = (uint8_t)size, .is_write = true };

	bus_access(&d->vm->mmio, &io);
}

static bool in_window(const struct vm *vm, uint64_t base, uint64_t bytes)
{
	uint64_t high = layout_window64(vm->gmem.end);
	uint64_t end = base + bytes;

	if (end < base)
		return false;
	return (base >= LAYOUT_WINDOW32_GPA &&
		end <= LAYOUT_WINDOW32_GPA + LAYOUT_WINDOW32_BYTES) ||
	       (base >= high && end <= high + LAYOUT_WINDOW64_BYTES);
}

/* In ascending order; false where one lies already. */
static bool insert_region(struct bus_region *table, unsigned *nr, struct bus_region r)
{
	unsigned i = *nr;

	if (*nr == BUS_MOVING_MAX)
		return false;
	while (i && table[i - 1].base > r.base)
		i--;
	if ((i && r.base - table[i - 1].base < table[i - 1].bytes) ||
	    (i < *nr && table[i].base - r.base < r.bytes))
		return false;
	memmove(&table[i + 1], &table[i], (*nr - i) * sizeof(*table));
	table[i] = r;
	++*nr;
	return true;
}

static uint64_t doorbell_gpa(const struct dev_doorbell *b)
{
	const struct dev *d = b->dev;

	if (!b->bytes || !d->moving[b->region].answers)
		return 0;
	return d->moving[b->region].base + b->off;
}

/* First those that leave a place, then those that come to one, perhaps the same. */
static void move_doorbells(struct vm *vm, bool arm)
{
	for (unsigned i = 0; i < vm->nr_devs; i++) {
		for (unsigned n = 0; n < DEV_DOORBELLS_MAX; n++) {
			struct dev_doorbell *b = &vm->dev[i]->doorbell[n];
			uint64_t gpa = b->bytes ? doorbell_gpa(b) : 0;

			if (gpa == b->gpa || (!arm && !b->gpa))
				continue;
			if (!vm->engine->doorbell(vm, b, arm ? gpa : 0))
				b->gpa = arm ? gpa : 0;
		}
	}
}

/*
 * From what all devices want: the same wishes give the same map, in whatever order
 * they came. Seldom enough to do it from scratch. vm->map_lock is held.
 */
static void remap(struct vm *vm)
{
	struct bus_region table[BUS_MOVING_MAX + 1];
	unsigned nr = 0;

	for (unsigned i = 0; i < vm->nr_devs; i++) {
		struct dev *d = vm->dev[i];

		for (unsigned n = 0; n < DEV_MOVING_MAX; n++) {
			struct bus_region r = { d->moving[n].base, d->moving[n].bytes, d,
						REGION(n) };

			d->moving[n].answers = r.bytes && in_window(vm, r.base, r.bytes) &&
					       insert_region(table, &nr, r);
		}
	}
	if (vm->engine->doorbell)
		move_doorbells(vm, false);
	bus_set_moving(&vm->mmio, table, nr);
	if (vm->engine->doorbell)
		move_doorbells(vm, true);
}

void dev_map(struct dev *d, unsigned n, uint64_t base, uint64_t bytes)
{
	struct vm *vm = d->vm;

	lock_take(&vm->host, &vm->map_lock);
	if (d->moving[n].base != base || d->moving[n].bytes != bytes) {
		d->moving[n].base = base;
		d->moving[n].bytes = bytes;
		remap(vm);
	}
	lock_release(&vm->host, &vm->map_lock);
}

void dev_doorbell(struct dev *d, unsigned bell, unsigned n, uint64_t off, unsigned bytes)
{
	d->doorbell[bell] = (struct dev_doorbell){
		.dev = d, .bell = bell, .region = n, .off = off, .bytes = bytes
	};
}

void dev_ring(struct dev_doorbell *b)
{
	struct dev *d = b->dev;

	dev_lock(d);
	if (atomic_load(&b->gpa)) /* else it is from before a reset */
		d->type->doorbell(d, b->bell);
	dev_unlock(d);
}

int dev_add_messages(struct dev *d, unsigned nr)
{
	struct vm *vm = d->vm;

	if (nr > ARRAY_SIZE(vm->message) - vm->nr_messages)
		return -ENOSPC;
	d->first_message = vm->nr_messages;
	d->nr_messages = nr;
	vm->nr_messages += nr;
	return 0;
}

void dev_message(struct dev *d, unsigned n, uint64_t addr, uint32_t data)
{
	struct vm *vm = d->vm;
	unsigned id = d->first_message + n;
	struct vm_message *m = &vm->message[id];

	if (!vm->engine->message) {
		vm->engine->msi(vm, addr, data);
		return;
	}
	if (m->addr != addr || m->data != data) {
		*m = (struct vm_message){ addr, data };
		vm->engine->message(vm, id, addr, data);
	}
	vm->engine->message_send(vm, id);
}

int dev_dma_read(struct dev *d, uint64_t gpa, void *buf, uint64_t bytes)
{
	return gmem_read(&d->vm->gmem, gpa, buf, bytes);
}

int dev_dma_write(struct dev *d, uint64_t gpa, const void *buf, uint64_t bytes)
{
	struct vm *vm = d->vm;
	int err = gmem_write(&vm->gmem, gpa, buf, bytes);

	if (err)
		return err;
	vm_dirtied(vm, gpa, bytes);
	vm->engine->code_changed(vm, gpa, bytes);
	return 0;
}

/* --- the rest --------------------------------------------------------------------- */

void dev_output(struct dev *d, const uint8_t *buf, size_t bytes)
{
	struct vm *vm = d->vm;

	if (!vm->cfg.console)
		return;
	lock_take(&vm->host, &vm->console_lock);
	vm->cfg.console(vm->cfg.arg, buf, bytes);
	lock_release(&vm->host, &vm->console_lock);
}

void dev_input_ready(struct dev *d)
{
	d->input_ready = true;
}

void dev_request_reset(struct dev *d)
{
	vm_request(d->vm, VM_REQ_RESET, 0);
}

void dev_request_poweroff(struct dev *d)
{
	vm_request(d->vm, VM_REQ_POWEROFF, 0);
}

void dev_request_exit(struct dev *d, uint8_t value)
{
	vm_request(d->vm, VM_REQ_EXIT, value);
}

unsigned dev_vcpus(struct dev *d)
{
	return d->vm->topo.nr_vcpus;
}

uint64_t dev_ram_bytes(struct dev *d)
{
	return d->vm->gmem.ram_bytes;
}

uint64_t dev_low_ram_bytes(struct dev *d)
{
	const struct gmem *m = &d->vm->gmem;
	uint64_t bytes = 0;

	for (unsigned i = 0; i < m->nr_slots && m->slot[i].gpa < GIB(4); i++)
		bytes += m->slot[i].bytes;
	return bytes;
}

uint64_t dev_wall_ns(struct dev *d)
{
	return clock_wall_ns(&d->vm->clock);
}

/*
 * Lock-free, because concurrent devices log too: two threads that open a window
 * at once may let a few lines more through.
 */
static bool dev_log_allowed(struct dev *d)
{
	const struct host *h = &d->vm->host;
	uint64_t now = h->ops->now_ns(h->ctx);
	uint32_t dropped;

	if (now - d->log_window_ns >= DEV_LOG_WINDOW_NS || !d->log_lines) {
		dropped = atomic_exchange(&d->log_lines, 0);
		d->log_window_ns = now;
		if (dropped > DEV_LOG_BURST)
			host_log(h, LOG_WARN, "%s: %u lines not shown", d->type->name,
				 dropped - DEV_LOG_BURST);
	}
	return atomic_fetch_add(&d->log_lines, 1) < DEV_LOG_BURST;
}

void dev_log(struct dev *d, enum log_level level, const char *fmt, ...)
{
	char line[LOG_LINE_BYTES];
	va_list ap;

	if (!dev_log_allowed(d))
		return;
	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	host_log(&d->vm->host, level, "%s: %s", d->type->name, line);
}
