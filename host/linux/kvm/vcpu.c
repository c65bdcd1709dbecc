/*
 * vcpu.c - a vCPU in the kernel: made by its own thread, so that what the kernel
 * allocates for it lies on its node; reset; and its end.
 */
#include "kvm.h"

#include <errno.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

/* Offsets in the local APIC's page; SDM vol. 3, table 11-1. */
enum { APIC_SVR = 0xf0, APIC_LINT0 = 0x350, APIC_LINT1 = 0x360 };

#define MSR_ARCH_CAPABILITIES 0x10a

#define SVR_ENABLED 0x1ff
#define LVT_EXTINT  0x700
#define LVT_NMI     0x400
#define LVT_MASKED  0x10000

/* What firmware leaves behind: the boot processor takes the PIC's interrupts. */
static int save_lapic(struct kvm_cpu *c)
{
	char *page = c->lapic_reset.regs;
	bool bsp = c->vcpu->id == 0;
	int err = kvm_ioctl(c->fd, KVM_GET_LAPIC, &c->lapic_reset);

	if (err)
		return err;
	if (bsp)
		store_u32(page + APIC_SVR, SVR_ENABLED);
	store_u32(page + APIC_LINT0, bsp ? LVT_EXTINT : LVT_MASKED);
	store_u32(page + APIC_LINT1, bsp ? LVT_NMI : LVT_MASKED);
	return 0;
}

static int map_run(struct kvm_cpu *c)
{
	void *p = mmap(NULL, c->machine->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, c->fd, 0);

	if (p == MAP_FAILED)
		return -errno;
	c->run = p;
	return 0;
}

/* A tick counter other than the TSC has another rate, or the guest's TSC is scaled. */
static int read_tsc_rate(struct kvm_cpu *c)
{
	uint64_t ticks = c->vcpu->vm->clock.khz;
	int khz = kvm_ioctl_n(c->fd, KVM_GET_TSC_KHZ, 0);

	if (khz <= 0)
		return khz ? khz : -ENOTSUP;
	c->tsc_khz = (uint64_t)khz;
	c->ticks_are_tsc =
		ticks < c->tsc_khz + c->tsc_khz / 100 && ticks > c->tsc_khz - c->tsc_khz / 100;
	return 0;
}

/* Part @part of @parts of a slot, by whole pages; the kernel may do it in pieces. */
static int prefault_part(struct kvm_cpu *c, const struct gmem_slot *s, uint64_t part,
			 uint64_t parts)
{
	uint64_t pages = s->bytes / PAGE_SIZE;
	uint64_t first = pages * part / parts, end = pages * (part + 1) / parts;
	struct kvm_pre_fault_memory r = {
		.gpa = s->gpa + first * PAGE_SIZE,
		.size = (end - first) * PAGE_SIZE,
	};
	int err = 0;

	while (r.size && !err) {
		err = kvm_ioctl(c->fd, KVM_PRE_FAULT_MEMORY, &r);
		if (err == -EAGAIN)
			err = 0;
	}
	return err;
}

/*
 * Second-level page tables for the memory of its own node, shared among the node's
 * vCPUs, which all do it at once. Without it faults do it later; so errors do not matter.
 */
static void prefault(struct kvm_cpu *c)
{
	const struct vm *vm = c->vcpu->vm;
	uint64_t part = 0, parts = 0;

	if (kvm_ioctl_n(c->machine->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_PRE_FAULT_MEMORY) <= 0)
		return;
	for (unsigned i = 0; i < vm->nr_vcpus; i++) {
		if (vm->vcpu[i]->guest_node != c->vcpu->guest_node)
			continue;
		part += i < c->vcpu->id;
		parts++;
	}
	for (unsigned i = 0; i < vm->gmem.nr_slots; i++)
		if (vm->gmem.slot[i].node == c->vcpu->guest_node &&
		    prefault_part(c, &vm->gmem.slot[i], part, MAX(parts, 1u)))
			return;
}

static int set_up(struct kvm_cpu *c, const char **what)
{
	int err = map_run(c);

	*what = "mapping of its page";
	if (err)
		return err;
	*what = "KVM_GET_TSC_KHZ (KVM_CAP_GET_TSC_KHZ)";
	err = read_tsc_rate(c);
	if (err)
		return err;
	*what = "KVM_SET_CPUID2 (KVM_CAP_EXT_CPUID)";
	err = kvm_set_cpuid(c);
	if (err)
		return err;
	if (c->machine->arch_capabilities)
		kvm_set_msr(c, MSR_ARCH_CAPABILITIES, c->machine->arch_capabilities);
	*what = "KVM_GET_LAPIC (KVM_CAP_SPLIT_IRQCHIP)";
	err = save_lapic(c);
	if (!err && c->vcpu->vm->cfg.prefault)
		prefault(c);
	return err;
}

int kvm_vcpu_create(struct vcpu *v)
{
	struct kvm_machine *m = machine_of(v->vm);
	struct kvm_cpu *c = (struct kvm_cpu *)(void *)(v + 1);
	const char *what = "";
	int err;

	c->vcpu = v;
	c->machine = m;
	v->engine_data = c;
	c->fd = kvm_ioctl_n(m->vm_fd, KVM_CREATE_VCPU, v->apic_id);
	if (c->fd < 0) {
		err = vm_refuse(v->vm, c->fd,
				"KVM_CREATE_VCPU of vCPU %u, APIC ID %u (KVM_CAP_MAX_VCPUS): %s: "
				"ask for fewer CPUs",
				v->id, v->apic_id, strerror(-c->fd));
		goto out;
	}
	err = set_up(c, &what);
	if (!err)
		return 0;
	vm_refuse(v->vm, err, "KVM vCPU %u: %s: %s", v->id, what, strerror(-err));
out:
	kvm_vcpu_destroy(v);
	return err;
}

void kvm_vcpu_destroy(struct vcpu *v)
{
	struct kvm_cpu *c = kvm_cpu_of(v);

	if (!c)
		return;
	if (c->run)
		munmap(c->run, c->machine->run_bytes);
	if (c->fd >= 0)
		close(c->fd);
	v->engine_data = NULL;
}

void kvm_vcpu_reset(struct vcpu *v)
{
	struct cpu_state s;
	int err;

	cpu_state_reset(&s, v->id == 0);
	err = kvm_reset_state(v, &s);
	if (err)
		vcpu_log(v, LOG_ERR, "KVM: reset: %s", strerror(-err));
}
