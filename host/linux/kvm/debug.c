/*
 * debug.c - a debugger's points in the processor's debug registers, and steps.
 *
 * Points and steps are changed with every vCPU parked; each vCPU brings its
 * registers up to date before it enters guest code again.
 */
#include "kvm.h"

#include <errno.h>

#define DR7_FIXED 0x400u

static bool same_point(const struct kvm_point *a, const struct kvm_point *b)
{
	return a->kind == b->kind && a->gva == b->gva && a->bytes == b->bytes;
}

/* A register covers 1, 2, 4 or 8 bytes, aligned; SDM vol. 3, 18.2.5. */
static bool fits_register(const struct kvm_point *p)
{
	bool size_ok = p->bytes == 1 || p->bytes == 2 || p->bytes == 4 || p->bytes == 8;

	return p->kind == DEBUG_EXEC || (size_ok && !(p->gva & (p->bytes - 1)));
}

static int add_point(struct kvm_machine *m, const struct kvm_point *p)
{
	if (!fits_register(p))
		return -EINVAL;
	if (m->nr_points == KVM_DEBUG_POINTS)
		return -ENOSPC;
	m->point[m->nr_points++] = *p;
	return 0;
}

static int remove_point(struct kvm_machine *m, const struct kvm_point *p)
{
	for (unsigned i = 0; i < m->nr_points; i++) {
		if (same_point(&m->point[i], p)) {
			m->point[i] = m->point[--m->nr_points];
			return 0;
		}
	}
	return -ENOENT;
}

int kvm_debug_point(struct vm *vm, bool add, enum debug_point_kind kind, uint64_t gva,
		    unsigned bytes)
{
	struct kvm_point p = { .kind = kind, .gva = gva, .bytes = bytes };
	struct kvm_machine *m = machine_of(vm);
	int err = add ? add_point(m, &p) : remove_point(m, &p);

	if (!err)
		atomic_fetch_add(&m->debug_epoch, 1);
	return err;
}

void kvm_single_step(struct vcpu *v, bool on)
{
	struct kvm_cpu *c = kvm_cpu_of(v);

	c->stepping = on;
	atomic_fetch_add(&c->machine->debug_epoch, 1);
}

/* There is no register for reads alone: one for both comes near. */
static uint64_t dr7_bits(const struct kvm_point *p, unsigned i)
{
	static const uint8_t length[] = { [1] = 0, [2] = 1, [4] = 3, [8] = 2 };
	uint64_t type = p->kind == DEBUG_EXEC ? 0 : p->kind == DEBUG_WRITE ? 1 : 3;
	uint64_t bytes = p->kind == DEBUG_EXEC ? 0 : length[p->bytes];

	return BIT(i * 2 + 1) | (type | bytes << 2) << (16 + i * 4);
}

/* A step goes over the points where it starts. */
void kvm_debug_apply(struct kvm_cpu *c)
{
	const struct kvm_machine *m = c->machine;
	uint32_t epoch = atomic_load(&c->machine->debug_epoch);
	struct kvm_guest_debug d = { 0 };
	int err;

	if (likely(epoch == c->debug_epoch))
		return;
	c->debug_epoch = epoch;
	if (c->stepping)
		d.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
	else if (m->nr_points)
		d.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
	d.arch.debugreg[7] = DR7_FIXED;
	for (unsigned i = 0; i < m->nr_points; i++) {
		d.arch.debugreg[i] = m->point[i].gva;
		d.arch.debugreg[7] |= dr7_bits(&m->point[i], i);
	}
	err = kvm_ioctl(c->fd, KVM_SET_GUEST_DEBUG, &d);
	if (err)
		vcpu_log(c->vcpu, LOG_WARN, "KVM_SET_GUEST_DEBUG: %s", strerror(-err));
}

uint64_t kvm_debug_detail(const struct kvm_cpu *c)
{
	const struct kvm_debug_exit_arch *d = &c->run->debug.arch;

	for (unsigned i = 0; i < c->machine->nr_points; i++)
		if ((d->dr6 & BIT(i)) && c->machine->point[i].kind != DEBUG_EXEC)
			return c->machine->point[i].gva;
	return d->pc;
}
