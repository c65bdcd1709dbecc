/*
 * stats.c - what a vCPU's exits were: the kernel's own counters, and ours of the exits
 * that came to us.
 *
 * The kernel's come as a file that describes itself (Documentation/virt/kvm/api.rst,
 * KVM_GET_STATS_FD). The description is read once a machine. The file is opened when a
 * vCPU leaves its guest for a while, read and closed again: files are scarce with many
 * vCPUs, and only the vCPU's own thread is sure not to wait for it.
 */
#include "kvm.h"

#include "counters.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#define NAME_MAX_BYTES 256
#define DESCS_MAX      512
#define DATA_MAX       4096

static const struct {
	const char *name;
	enum vcpu_stat stat;
} known[] = {
	{ "exits", STAT_EXITS },
	{ "halt_exits", STAT_HALTS },
	{ "irq_injections", STAT_INTERRUPTS },
	{ "hypercalls", STAT_HYPERCALLS },
};

/* Exits that end in this process, by KVM_EXIT_*. */
static const char *const user_exits[KVM_EXIT_KINDS] = {
	[KVM_EXIT_UNKNOWN] = "user_unknown",
	[KVM_EXIT_IO] = "user_io",
	[KVM_EXIT_DEBUG] = "user_debug",
	[KVM_EXIT_MMIO] = "user_mmio",
	[KVM_EXIT_IRQ_WINDOW_OPEN] = "user_irq_window",
	[KVM_EXIT_SHUTDOWN] = "user_shutdown",
	[KVM_EXIT_FAIL_ENTRY] = "user_fail_entry",
	[KVM_EXIT_INTR] = "user_signal",
	[KVM_EXIT_INTERNAL_ERROR] = "user_internal_error",
	[KVM_EXIT_IOAPIC_EOI] = "user_ioapic_eoi",
	[KVM_EXIT_X86_RDMSR] = "user_rdmsr",
	[KVM_EXIT_X86_WRMSR] = "user_wrmsr",
};

static bool read_at(int fd, void *buf, size_t bytes, uint64_t offset)
{
	return pread(fd, buf, bytes, (off_t)offset) == (ssize_t)bytes;
}

/* --- the description ---------------------------------------------------------------- */

/* Single numbers that only grow, and lie where one read reaches them. */
static bool is_counter(const struct kvm_stats_desc *d)
{
	return d->size == 1 && (d->flags & KVM_STATS_TYPE_MASK) == KVM_STATS_TYPE_CUMULATIVE &&
	       (d->flags & KVM_STATS_UNIT_MASK) == KVM_STATS_UNIT_NONE &&
	       d->offset % sizeof(uint64_t) == 0 && d->offset <= DATA_MAX - sizeof(uint64_t);
}

static int known_stat(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (!strcmp(known[i].name, name))
			return (int)known[i].stat;
	return -1;
}

static void add_counter(struct kvm_counters *k, struct kvm_stats_desc *d, uint32_t name_bytes)
{
	unsigned nr = atomic_load(&k->nr);
	struct kvm_counter *c = &k->counter[nr];

	if (nr == KVM_COUNTERS_MAX || !is_counter(d))
		return;
	d->name[name_bytes - 1] = '\0';
	strncpy(c->name, d->name, sizeof(c->name) - 1);
	c->offset = d->offset;
	c->stat = known_stat(c->name);
	k->data_bytes = MAX(k->data_bytes, d->offset + (uint32_t)sizeof(uint64_t));
	atomic_store(&k->nr, nr + 1); /* who reads it finds the entry */
}

static void describe(struct kvm_counters *k, int fd)
{
	struct kvm_stats_header h;
	uint8_t *descs = NULL;
	size_t bytes;

	if (!read_at(fd, &h, sizeof(h), 0) || !h.name_size || h.name_size > NAME_MAX_BYTES ||
	    h.num_desc > DESCS_MAX)
		return;
	bytes = sizeof(struct kvm_stats_desc) + h.name_size;
	descs = malloc(bytes * h.num_desc);
	if (descs && read_at(fd, descs, bytes * h.num_desc, h.desc_offset))
		for (uint32_t i = 0; i < h.num_desc; i++)
			add_counter(k, (struct kvm_stats_desc *)(descs + i * bytes), h.name_size);
	k->data_offset = h.data_offset;
	free(descs);
}

/* --- taking -------------------------------------------------------------------------- */

static void take(struct kvm_cpu *c, const uint64_t *data)
{
	const struct kvm_counters *k = &c->machine->counters;
	struct vcpu_stats *s = &c->vcpu->stats;

	for (unsigned i = 0, nr = atomic_load(&k->nr); i < nr; i++) {
		uint64_t v = data[k->counter[i].offset / sizeof(*data)];
		enum vcpu_stat stat = (enum vcpu_stat)k->counter[i].stat;

		atomic_store_explicit(&c->kernel[i], v, memory_order_relaxed);
		if (k->counter[i].stat >= 0)
			stat_add(s, stat, v - stat_get(s, stat));
	}
}

void kvm_take_stats(struct kvm_cpu *c)
{
	struct kvm_counters *k = &c->machine->counters;
	uint64_t data[DATA_MAX / sizeof(uint64_t)];
	int fd = kvm_ioctl_n(c->fd, KVM_GET_STATS_FD, 0);

	if (fd < 0)
		return; /* before Linux 5.14: the counters stay at zero */
	pthread_mutex_lock(&c->machine->lock);
	if (!k->described)
		describe(k, fd);
	k->described = true;
	pthread_mutex_unlock(&c->machine->lock);
	if (k->nr && read_at(fd, data, k->data_bytes, k->data_offset))
		take(c, data);
	close(fd);
}

/* --- for those who tell of it ------------------------------------------------------------ */

unsigned kvm_nr_counters(struct vm *vm)
{
	return vm->engine == &engine_kvm
		       ? KVM_EXIT_KINDS + atomic_load(&machine_of(vm)->counters.nr)
		       : 0;
}

const char *kvm_counter_name(struct vm *vm, unsigned id)
{
	return id < KVM_EXIT_KINDS ? user_exits[id]
				   : machine_of(vm)->counters.counter[id - KVM_EXIT_KINDS].name;
}

uint64_t kvm_counter(struct vm *vm, unsigned vcpu, unsigned id)
{
	struct kvm_cpu *c = kvm_cpu_of(vm->vcpu[vcpu]);
	_Atomic uint64_t *n = id < KVM_EXIT_KINDS ? &c->exits[id] : &c->kernel[id - KVM_EXIT_KINDS];

	return atomic_load_explicit(n, memory_order_relaxed);
}
