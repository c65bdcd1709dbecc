/*
 * event.c - event descriptors between guest and VMM: doorbells that ring without an
 * exit (ioeventfd), messages that go out without a call (irqfd).
 *
 * Each is made when it is first used and lasts as long as its device or the machine.
 * Where KVM refuses one (KVM_CAP_IOEVENTFD, KVM_CAP_IRQFD, files) the slow way is taken,
 * which works as well: the write exits, the message goes by KVM_SIGNAL_MSI.
 */
#include "kvm.h"

#include "core/device_core.h"
#include "host/linux/host_linux.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* --- doorbells --------------------------------------------------------------------- */

struct doorbell {
	struct dev_doorbell *bell;
	int fd;
	struct host_linux_watch *watch;
};

static void rung(void *arg)
{
	struct doorbell *k = arg;
	uint64_t times;

	if (read(k->fd, &times, sizeof(times)) == sizeof(times))
		dev_ring(k->bell);
}

static int make_doorbell(struct vm *vm, struct dev_doorbell *b)
{
	struct doorbell *k = calloc(1, sizeof(*k));
	int err;

	if (!k)
		return -ENOMEM;
	k->bell = b;
	k->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	err = k->fd < 0 ? -errno : host_linux_watch_fd(&vm->host, k->fd, rung, k, &k->watch);
	if (err) {
		if (k->fd >= 0)
			close(k->fd);
		free(k);
		return err;
	}
	b->engine_data = k;
	return 0;
}

static int assign(struct kvm_machine *m, const struct dev_doorbell *b, uint64_t gpa, uint32_t flags)
{
	const struct doorbell *k = b->engine_data;
	struct kvm_ioeventfd e = { .addr = gpa, .len = b->bytes, .fd = k->fd, .flags = flags };

	return kvm_ioctl(m->vm_fd, KVM_IOEVENTFD, &e);
}

int kvm_doorbell(struct vm *vm, struct dev_doorbell *b, uint64_t gpa)
{
	struct kvm_machine *m = machine_of(vm);
	int err = b->engine_data ? 0 : make_doorbell(vm, b);

	if (err)
		return err;
	if (b->gpa)
		assign(m, b, b->gpa, KVM_IOEVENTFD_FLAG_DEASSIGN);
	return gpa ? assign(m, b, gpa, 0) : 0;
}

/* The watch first: when it has gone nobody is in rung(). */
void kvm_doorbell_free(struct vm *vm, struct dev_doorbell *b)
{
	struct doorbell *k = b->engine_data;

	host_linux_unwatch(k->watch);
	if (b->gpa)
		assign(machine_of(vm), b, b->gpa, KVM_IOEVENTFD_FLAG_DEASSIGN);
	close(k->fd);
	free(k);
	b->engine_data = NULL;
	b->gpa = 0;
}

/* --- messages ----------------------------------------------------------------------- */

/* The interrupt pins of machine.c come first among the routes. */
static uint32_t gsi_of(unsigned id)
{
	return KVM_ROUTES + id;
}

static int make_irqfd(struct kvm_machine *m, unsigned id)
{
	struct kvm_irqfd irqfd = { .gsi = gsi_of(id) };
	int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), err;

	if (fd < 0)
		return -errno;
	irqfd.fd = (uint32_t)fd;
	err = kvm_ioctl(m->vm_fd, KVM_IRQFD, &irqfd);
	if (err) {
		close(fd);
		return err;
	}
	m->message[id].fd = fd;
	return 0;
}

void kvm_message(struct vm *vm, unsigned id, uint64_t addr, uint32_t data)
{
	struct kvm_machine *m = machine_of(vm);
	struct kvm_message *msg = &m->message[id];

	pthread_mutex_lock(&m->lock);
	msg->addr = addr;
	msg->data = data;
	m->nr_messages = MAX(m->nr_messages, id + 1);
	kvm_set_routes(m);
	pthread_mutex_unlock(&m->lock);
	if (msg->fd < 0)
		make_irqfd(m, id);
}

void kvm_message_send(struct vm *vm, unsigned id)
{
	struct kvm_message *msg = &machine_of(vm)->message[id];
	uint64_t one = 1;

	if (msg->fd < 0 || write(msg->fd, &one, sizeof(one)) != sizeof(one))
		kvm_msi(vm, msg->addr, msg->data);
}

void kvm_messages_free(struct kvm_machine *m)
{
	for (unsigned i = 0; i < m->nr_messages; i++)
		if (m->message[i].fd >= 0)
			close(m->message[i].fd);
}
