/*
 * machine.c - the VM in the kernel: its making, memory slots, messages, time.
 *
 * Ends of level-triggered interrupts: the kernel reports them only for vectors that
 * it finds in the routes of the interrupt pins reserved at creation. So a level
 * message enters a route before it is first sent, and the least recently sent one
 * makes room. A pin has one message in service at most, and there are twice as many
 * routes as pins.
 */
#include "kvm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

/* Three pages for Intel processors without unrestricted guests, and their page table. */
#define IDENTITY_MAP 0xfffbc000ull
#define TSS_PAGES    0xfffbd000ul

#define MSI_ADDR           0xfee00000ull
#define MSI_EXT_DEST_SHIFT 5
#define MSI_EXT_DEST_MASK  (0x7full << MSI_EXT_DEST_SHIFT)
#define MSI_LEVEL          BIT(15)

#define MSR_TSC               0x10
#define MSR_ARCH_CAPABILITIES 0x10a
#define MSR_TSC_DEADLINE      0x6e0

#define FILES_SPARE 64 /* besides one for each vCPU */

/* --- making ----------------------------------------------------------------------- */

static int enable(const struct kvm_machine *m, uint32_t cap, uint64_t arg)
{
	struct kvm_enable_cap e = { .cap = cap, .args = { arg } };

	return kvm_ioctl(m->vm_fd, KVM_ENABLE_CAP, &e);
}

static int has_cap(const struct kvm_machine *m, unsigned cap)
{
	return kvm_ioctl_n(m->vm_fd, KVM_CHECK_EXTENSION, cap);
}

static const char *create_vm_remedy(int err)
{
	switch (err) {
	case -EBUSY:
		return "another hypervisor holds the processor's virtualisation: end it";
	case -ENOMEM:
		return "the kernel has no memory left for it";
	default:
		return "is virtualisation enabled in the firmware?";
	}
}

/* Each vCPU is a file; what the process may have is raised as far as it may be. */
static int allow_files(struct vm *vm)
{
	struct rlimit lim;
	rlim_t need = vm->nr_vcpus + FILES_SPARE;

	if (getrlimit(RLIMIT_NOFILE, &lim) || lim.rlim_cur >= need)
		return 0;
	if (need > lim.rlim_max)
		return vm_refuse(vm, -EMFILE,
				 "KVM needs %llu files for %u vCPUs and this process may have "
				 "%llu: raise RLIMIT_NOFILE (ulimit -Hn)",
				 (unsigned long long)need, vm->nr_vcpus,
				 (unsigned long long)lim.rlim_max);
	lim.rlim_cur = need;
	return setrlimit(RLIMIT_NOFILE, &lim) ? -errno : 0;
}

static int check_limits(struct vm *vm)
{
	const struct kvm_machine *m = machine_of(vm);
	int vcpus = has_cap(m, KVM_CAP_MAX_VCPUS), ids = has_cap(m, KVM_CAP_MAX_VCPU_ID);
	int slots = has_cap(m, KVM_CAP_NR_MEMSLOTS);
	uint32_t last = vm->vcpu[vm->nr_vcpus - 1]->apic_id; /* they ascend */

	if (vcpus > 0 && vm->nr_vcpus > (unsigned)vcpus)
		return vm_refuse(vm, -E2BIG,
				 "%u vCPUs were asked for, KVM_CAP_MAX_VCPUS is %d: ask for fewer",
				 vm->nr_vcpus, vcpus);
	if (ids > 0 && last >= (unsigned)ids)
		return vm_refuse(vm, -E2BIG,
				 "APIC ID %u is needed, KVM_CAP_MAX_VCPU_ID is %d: ask for fewer "
				 "CPUs or rounder numbers of cores and threads",
				 last, ids);
	if (slots > 0 && vm->gmem.nr_slots > (unsigned)slots)
		return vm_refuse(vm, -E2BIG,
				 "%u memory slots are needed, KVM_CAP_NR_MEMSLOTS is %d: ask for "
				 "fewer --nodes",
				 vm->gmem.nr_slots, slots);
	return allow_files(vm);
}

static int set_addresses(const struct kvm_machine *m)
{
	uint64_t identity = IDENTITY_MAP;
	int err = kvm_ioctl(m->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity);

	return err ? err : kvm_ioctl_n(m->vm_fd, KVM_SET_TSS_ADDR, TSS_PAGES);
}

/* Spinning in the kernel before a vCPU sleeps is for those who have a PU to themselves. */
static bool pus_are_shared(const struct vm *vm)
{
	for (unsigned i = 0; i < vm->plan.nr_vcpus; i++)
		if (vm->plan.vcpu[i].shared)
			return true;
	return false;
}

static int set_halt_polling(struct vm *vm)
{
	struct kvm_machine *m = machine_of(vm);
	uint32_t ns = vm->cfg.halt_poll_set ? vm->cfg.halt_poll_ns : 0;
	int err;

	if (!vm->cfg.halt_poll_set && !pus_are_shared(vm))
		return 0; /* it stays as the administrator set it */
	err = has_cap(m, KVM_CAP_HALT_POLL) > 0 ? enable(m, KVM_CAP_HALT_POLL, ns) : -ENOTSUP;
	if (!err)
		m->halt_poll_ns = ns;
	return vm->cfg.halt_poll_set ? err : 0;
}

struct setup {
	const char *what;
	int err;
};

static struct setup set_up(struct vm *vm)
{
	struct kvm_machine *m = machine_of(vm);
	const uint64_t x2apic =
		KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK;
	int err = set_addresses(m);

	if (err)
		return (struct setup){ "KVM_CAP_SET_TSS_ADDR", err };
	err = enable(m, KVM_CAP_SPLIT_IRQCHIP, KVM_ROUTES);
	if (err)
		return (struct setup){ "KVM_CAP_SPLIT_IRQCHIP", err };
	err = enable(m, KVM_CAP_X2APIC_API, x2apic);
	if (err)
		return (struct setup){ "KVM_CAP_X2APIC_API", err };
	err = set_halt_polling(vm);
	if (err)
		return (struct setup){ "--halt-poll (KVM_CAP_HALT_POLL)", err };
	err = kvm_msr_filter(m);
	return (struct setup){ "KVM_CAP_X86_MSR_FILTER", err };
}

/* --- memory ------------------------------------------------------------------------ */

static int set_memory(struct vm *vm, uint32_t flags)
{
	const struct kvm_machine *m = machine_of(vm);

	for (unsigned i = 0; i < vm->gmem.nr_slots; i++) {
		const struct gmem_slot *s = &vm->gmem.slot[i];
		struct kvm_userspace_memory_region r = {
			.slot = i,
			.flags = flags,
			.guest_phys_addr = s->gpa,
			.memory_size = s->bytes,
			.userspace_addr = (uintptr_t)s->hva,
		};
		int err = kvm_ioctl(m->vm_fd, KVM_SET_USER_MEMORY_REGION, &r);

		if (err)
			return vm_refuse(vm, err,
					 "KVM refuses %llu MiB of guest memory at %#llx "
					 "(KVM_CAP_USER_MEMORY): %s",
					 (unsigned long long)(s->bytes >> 20),
					 (unsigned long long)s->gpa, strerror(-err));
	}
	return 0;
}

int kvm_dirty_log(struct vm *vm, bool on)
{
	return set_memory(vm, on ? KVM_MEM_LOG_DIRTY_PAGES : 0);
}

/* What is taken is protected anew: the next write to it shows in the next log. */
int kvm_dirty_take(struct vm *vm, unsigned slot, uint64_t *bitmap)
{
	struct kvm_dirty_log log = { .slot = slot, .dirty_bitmap = bitmap };

	return kvm_ioctl(machine_of(vm)->vm_fd, KVM_GET_DIRTY_LOG, &log);
}

/* --- life --------------------------------------------------------------------------- */

static void read_arch_capabilities(struct kvm_machine *m)
{
	union {
		struct kvm_msrs head;
		uint8_t bytes[sizeof(struct kvm_msrs) + sizeof(struct kvm_msr_entry)];
	} q = { .head = { .nmsrs = 1 } };
	struct kvm_msr_entry *e = q.head.entries;

	e->index = MSR_ARCH_CAPABILITIES;
	if (kvm_ioctl(m->kvm_fd, KVM_GET_MSRS, &q) == 1)
		m->arch_capabilities = e->data;
}

static int open_machine(struct vm *vm)
{
	struct kvm_machine *m = machine_of(vm);
	char why[200] = "";
	int n;

	m->kvm_fd = kvm_open(why, sizeof(why));
	if (m->kvm_fd < 0)
		return vm_refuse(vm, m->kvm_fd, "%s", why);
	n = kvm_ioctl_n(m->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (n < (int)sizeof(struct kvm_run))
		return vm_refuse(vm, -ENOTSUP, "KVM_GET_VCPU_MMAP_SIZE: %d bytes are too few", n);
	m->run_bytes = (size_t)n;
	m->vm_fd = kvm_ioctl_n(m->kvm_fd, KVM_CREATE_VM, 0);
	if (m->vm_fd < 0)
		return vm_refuse(vm, m->vm_fd, "KVM_CREATE_VM: %s: %s", strerror(-m->vm_fd),
				 create_vm_remedy(m->vm_fd));
	n = kvm_supported_cpuid(m->kvm_fd, &m->supported);
	if (n)
		return vm_refuse(vm, n, "KVM_GET_SUPPORTED_CPUID (KVM_CAP_EXT_CPUID): %s",
				 strerror(-n));
	read_arch_capabilities(m);
	m->has_xcrs = has_cap(m, KVM_CAP_XCRS) > 0;
	return 0;
}

int kvm_machine_create(struct vm *vm)
{
	struct kvm_machine *m;
	struct setup done;
	int err;

	if (vm->clock.source != CLOCK_HOST)
		return vm_refuse(vm, -EINVAL,
				 "--clock icount counts instructions, which KVM does not: say "
				 "--engine soft or --clock host");
	m = calloc(1, sizeof(*m));
	if (!m)
		return -ENOMEM;
	m->vm = vm;
	m->kvm_fd = m->vm_fd = -1;
	m->halt_poll_ns = -1;
	for (unsigned i = 0; i < VM_MESSAGES_MAX; i++)
		m->message[i].fd = -1;
	pthread_mutex_init(&m->lock, NULL);
	vm->engine_data = m;

	err = open_machine(vm);
	if (!err)
		err = check_limits(vm);
	if (!err) {
		done = set_up(vm);
		err = done.err;
		if (err)
			vm_refuse(vm, err, "%s: %s: take Linux 5.14 or later, or --engine soft",
				  done.what, strerror(-err));
	}
	if (!err)
		err = set_memory(vm, 0);
	if (err)
		kvm_machine_destroy(vm);
	return err;
}

void kvm_machine_destroy(struct vm *vm)
{
	struct kvm_machine *m = machine_of(vm);

	if (!m)
		return;
	kvm_messages_free(m);
	if (m->vm_fd >= 0)
		close(m->vm_fd);
	if (m->kvm_fd >= 0)
		close(m->kvm_fd);
	free(m->supported);
	pthread_mutex_destroy(&m->lock);
	free(m);
	vm->engine_data = NULL;
}

/* --- messages ------------------------------------------------------------------------- */

/*
 * Bits 14:8 of an extended destination stand in bits 11:5 of the address that the
 * guest writes, and in the upper half of the one that KVM takes (X2APIC_API).
 */
static uint64_t kvm_msi_addr(uint64_t addr)
{
	uint64_t high = (addr & MSI_EXT_DEST_MASK) >> MSI_EXT_DEST_SHIFT << 8;

	return (uint32_t)(addr & ~MSI_EXT_DEST_MASK) | high << 32;
}

static void add_route(struct kvm_irq_routing *t, uint32_t gsi, uint64_t msi_addr, uint32_t data)
{
	uint64_t addr = kvm_msi_addr(msi_addr);

	t->entries[t->nr++] = (struct kvm_irq_routing_entry){
		.gsi = gsi,
		.type = KVM_IRQ_ROUTING_MSI,
		.u.msi = { .address_lo = (uint32_t)addr,
			   .address_hi = (uint32_t)(addr >> 32),
			   .data = data },
	};
}

/* The pins' first: the kernel looks among as many as are reserved for them. */
void kvm_set_routes(struct kvm_machine *m)
{
	size_t entries = KVM_ROUTES + m->nr_messages;
	struct kvm_irq_routing *t = calloc(1, sizeof(*t) + entries * sizeof(t->entries[0]));
	int err = t ? 0 : -ENOMEM;

	for (unsigned i = 0; t && i < KVM_ROUTES; i++)
		if (m->route[i].used)
			add_route(t, i, m->route[i].addr, m->route[i].data);
	for (unsigned i = 0; t && i < m->nr_messages; i++)
		if (m->message[i].addr)
			add_route(t, KVM_ROUTES + i, m->message[i].addr, m->message[i].data);
	if (t)
		err = kvm_ioctl(m->vm_fd, KVM_SET_GSI_ROUTING, t);
	if (err)
		host_log(&m->vm->host, LOG_ERR, "KVM_SET_GSI_ROUTING: %s", strerror(-err));
	free(t);
}

static void learn_route(struct kvm_machine *m, uint64_t addr, uint32_t data)
{
	struct kvm_route *oldest = &m->route[0], *r;

	pthread_mutex_lock(&m->lock);
	for (r = m->route; r < m->route + KVM_ROUTES; r++) {
		if (r->used && r->addr == addr && r->data == data)
			break;
		if (r->used < oldest->used)
			oldest = r;
	}
	if (r == m->route + KVM_ROUTES) {
		r = oldest;
		*r = (struct kvm_route){ .addr = addr, .data = data, .used = 1 };
		kvm_set_routes(m);
	}
	r->used = ++m->route_clock;
	pthread_mutex_unlock(&m->lock);
}

/* A message that no local APIC takes is the guest's affair. */
void kvm_msi(struct vm *vm, uint64_t addr, uint32_t data)
{
	struct kvm_machine *m = machine_of(vm);
	uint64_t to = kvm_msi_addr(addr);
	struct kvm_msi msi = {
		.address_lo = (uint32_t)to,
		.address_hi = (uint32_t)(to >> 32),
		.data = data,
	};

	if ((addr & ~0xfffffull) != MSI_ADDR)
		return;
	if (data & MSI_LEVEL)
		learn_route(m, addr, data);
	kvm_ioctl(m->vm_fd, KVM_SIGNAL_MSI, &msi);
}

/* --- time --------------------------------------------------------------------------------- */

static int tsc_offset_attr(struct kvm_cpu *c, unsigned long request, uint64_t *offset)
{
	struct kvm_device_attr attr = {
		.group = KVM_VCPU_TSC_CTRL,
		.attr = KVM_VCPU_TSC_OFFSET,
		.addr = (uintptr_t)offset,
	};

	return kvm_ioctl(c->fd, request, &attr);
}

/*
 * Where the host's ticks are not its TSC, the guest's TSC is KVM's own affair.
 * Kernels before 5.16 take a value, which a few microseconds make stale.
 */
static void set_tsc(struct kvm_cpu *c, int64_t base)
{
	uint64_t offset = (uint64_t)base + c->tsc_offset;

	if (!c->ticks_are_tsc)
		return;
	if (tsc_offset_attr(c, KVM_SET_DEVICE_ATTR, &offset))
		kvm_set_msr(c, MSR_TSC, clock_ticks(&c->vcpu->vm->clock) + c->tsc_offset);
}

/* The guest may have moved its TSC since it was set. */
void kvm_read_tsc(struct kvm_cpu *c)
{
	uint64_t offset, tsc;

	if (!c->clock_set)
		return;
	kvm_get_msr(c, MSR_TSC_DEADLINE, &c->tsc_deadline);
	if (!c->ticks_are_tsc)
		return;
	if (!tsc_offset_attr(c, KVM_GET_DEVICE_ATTR, &offset))
		c->tsc_offset = offset - (uint64_t)c->clock_base;
	else if (!kvm_get_msr(c, MSR_TSC, &tsc) && atomic_load(&c->vcpu->vm->clock.running))
		c->tsc_offset = tsc - clock_ticks(&c->vcpu->vm->clock);
}

static void set_kvmclock(struct kvm_machine *m, int64_t base)
{
	struct kvm_clock_data now = { .clock = clock_now_ns(&m->vm->clock) };

	pthread_mutex_lock(&m->lock);
	if (!m->clock_set || m->clock_base != base)
		kvm_ioctl(m->vm_fd, KVM_SET_CLOCK, &now);
	m->clock_set = true;
	m->clock_base = base;
	pthread_mutex_unlock(&m->lock);
}

/*
 * Ticks are the host's plus a base, which a pause changes: never while a vCPU runs. The
 * deadline is set anew with it, since the kernel's timer knows host time only.
 */
void kvm_sync_clock(struct kvm_cpu *c)
{
	const struct guest_clock *k = &c->vcpu->vm->clock;
	int64_t base = atomic_load_explicit(&k->base, memory_order_relaxed);

	if (likely(c->clock_set && c->clock_base == base))
		return;
	if (!atomic_load(&k->running))
		return;
	kvm_read_tsc(c);
	set_kvmclock(c->machine, base);
	set_tsc(c, base);
	if (c->tsc_deadline)
		kvm_set_msr(c, MSR_TSC_DEADLINE, c->tsc_deadline);
	c->clock_base = base;
	c->clock_set = true;
}
