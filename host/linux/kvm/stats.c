/*
 * stats.c - the kernel's own counters of a vCPU, into the machine's.
 *
 * They come as a file that describes itself (Documentation/virt/kvm/api.rst,
 * KVM_GET_STATS_FD). It is opened when a vCPU leaves its guest for a while, read
 * and closed again: that is seldom, and files are scarce with many vCPUs.
 */
#include "kvm.h"

#include <stdlib.h>
#include <unistd.h>

#define NAME_MAX_BYTES 256
#define DESCS_MAX      512

static const struct {
	const char *name;
	enum vcpu_stat stat;
} known[] = {
	{ "exits", STAT_EXITS },
	{ "halt_exits", STAT_HALTS },
	{ "irq_injections", STAT_INTERRUPTS },
	{ "hypercalls", STAT_HYPERCALLS },
};

static bool read_at(int fd, void *buf, size_t bytes, uint64_t offset)
{
	return pread(fd, buf, bytes, (off_t)offset) == (ssize_t)bytes;
}

static void take_one(struct kvm_cpu *c, const char *name, uint64_t value)
{
	struct vcpu_stats *s = &c->vcpu->stats;

	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (!strcmp(known[i].name, name))
			stat_add(s, known[i].stat, value - stat_get(s, known[i].stat));
}

static void take_all(struct kvm_cpu *c, int fd, const struct kvm_stats_header *h)
{
	size_t bytes = sizeof(struct kvm_stats_desc) + h->name_size;
	uint8_t *descs = malloc(bytes * h->num_desc);

	if (descs && read_at(fd, descs, bytes * h->num_desc, h->desc_offset)) {
		for (uint32_t i = 0; i < h->num_desc; i++) {
			struct kvm_stats_desc *d = (struct kvm_stats_desc *)(descs + i * bytes);
			uint64_t value;

			d->name[h->name_size - 1] = '\0';
			if (d->size == 1 &&
			    read_at(fd, &value, sizeof(value), h->data_offset + d->offset))
				take_one(c, d->name, value);
		}
	}
	free(descs);
}

void kvm_take_stats(struct kvm_cpu *c)
{
	struct kvm_stats_header h;
	int fd = kvm_ioctl_n(c->fd, KVM_GET_STATS_FD, 0);

	if (fd < 0)
		return; /* before Linux 5.14: the counters stay at zero */
	if (read_at(fd, &h, sizeof(h), 0) && h.name_size && h.name_size <= NAME_MAX_BYTES &&
	    h.num_desc <= DESCS_MAX)
		take_all(c, fd, &h);
	close(fd);
}
