/*
 * kvm.h - the KVM engine from the inside.
 *
 * Who is who:
 *   engine.c   engine_ops and the run loop
 *   machine.c  the VM: capabilities, memory slots, messages and their routes, time
 *   vcpu.c     making a vCPU, its reset and its end
 *   state.c    struct cpu_state to and from KVM; msr.c the MSRs and the filter
 *   cpuid.c    the model's CPUID cut down to what KVM can do
 *   debug.c    a debugger's points and steps
 *   probe.c    is KVM here, and is it fast? caps.c the capabilities by name
 *   event.c    doorbells and messages by event descriptors
 *   stats.c    the kernel's own counters
 *
 * Local APICs live in the kernel, IOAPIC, PIC and PIT are ours (split irqchip). The
 * reference is Linux' Documentation/virt/kvm/api.rst.
 */
#ifndef HOST_LINUX_KVM_KVM_H
#define HOST_LINUX_KVM_KVM_H

#include "compat.h"
#include "core/vm.h"
#include "engine_kvm.h"

#include <pthread.h>

#define KVM_DEVICE       "/dev/kvm"
#define KVM_ROUTES       48 /* the most interrupt pins a split irqchip reserves */
#define KVM_DEBUG_POINTS 4  /* the processor's debug registers */
#define KVM_EXIT_KINDS   48
#define KVM_UNKNOWN_MSRS 32
#define KVM_COUNTERS_MAX 96

/* A level-triggered message whose end the kernel tells us; see machine.c. */
struct kvm_route {
	uint64_t addr;
	uint32_t data;
	uint64_t used; /* 0: free */
};

/* A device's message; see event.c. */
struct kvm_message {
	uint64_t addr; /* 0: none yet */
	uint32_t data;
	int fd; /* an irqfd, or -1 */
};

/* One of the kernel's counters; see stats.c. */
struct kvm_counter {
	char name[48];
	uint32_t offset;
	int stat; /* enum vcpu_stat that it is, or -1 */
};

struct kvm_counters {
	bool described; /* by kvm_machine.lock; then all is constant */
	_Atomic unsigned nr;
	uint32_t data_offset, data_bytes;
	struct kvm_counter counter[KVM_COUNTERS_MAX];
};

struct kvm_point {
	enum debug_point_kind kind;
	uint64_t gva;
	unsigned bytes;
};

/* vm->engine_data. Constant once created, but for what names its lock. */
struct kvm_machine {
	struct vm *vm;
	int kvm_fd, vm_fd;
	size_t run_bytes; /* of a vCPU's shared page */
	struct kvm_cpuid2 *supported;
	uint64_t arch_capabilities; /* of the host, for guests that ask */
	bool has_xcrs;              /* the processor has XSAVE, and so XCR0 */

	_Atomic uint64_t msr_missing; /* entries of the table in msr.c that are not to be had */
	_Atomic bool extint;          /* the PIC's output */
	/* MSRs already named in the log, 0 for a free slot; claimed by compare-and-swap. */
	_Atomic uint64_t unknown_msr[KVM_UNKNOWN_MSRS];

	pthread_mutex_t
		lock; /* the rest, but for what follows it; messages also by their device's */
	struct kvm_route route[KVM_ROUTES];
	uint64_t route_clock;
	struct kvm_message message[VM_MESSAGES_MAX];
	unsigned nr_messages; /* that have been used, and those before them */
	int64_t clock_base;   /* the guest clock's, for which kvmclock was set */
	bool clock_set;

	struct kvm_counters counters;
	int64_t halt_poll_ns; /* set for this machine; -1: not */

	/* Changed with every vCPU parked. */
	struct kvm_point point[KVM_DEBUG_POINTS];
	unsigned nr_points;
	_Atomic uint32_t debug_epoch; /* of points and steps */
};

/* vcpu->engine_data, behind the vCPU itself; the vCPU's thread, or anybody while it is parked. */
struct kvm_cpu {
	struct vcpu *vcpu;
	struct kvm_machine *machine;
	int fd;
	struct kvm_run *run; /* immediate_exit: any thread, by atomics */
	struct kvm_lapic_state lapic_reset;
	int64_t clock_base; /* for which the TSC offset was set */
	bool clock_set;
	uint64_t tsc_khz;
	bool ticks_are_tsc;    /* the guest clock counts what the guest's TSC does */
	uint64_t tsc_offset;   /* guest TSC = guest clock ticks + this, at the last set */
	uint64_t tsc_deadline; /* to be set when the TSC is, while !clock_set */
	uint32_t debug_epoch;
	bool stepping;
	/* The owner writes: exits that came to us, by KVM_EXIT_*; the kernel's counters. */
	_Atomic uint64_t exits[KVM_EXIT_KINDS];
	_Atomic uint64_t kernel[KVM_COUNTERS_MAX];
};

static inline struct kvm_machine *machine_of(const struct vm *vm)
{
	return vm->engine_data;
}

static inline struct kvm_cpu *kvm_cpu_of(const struct vcpu *v)
{
	return v->engine_data;
}

/* How the engine reaches the kernel, but for KVM_RUN; tests put themselves in between. */
struct kvm_sys {
	int (*open)(void); /* as the system calls: -1 and errno */
	int (*ioctl)(int fd, unsigned long request, void *arg);
};
extern const struct kvm_sys kvm_sys_linux;
extern const struct kvm_sys *kvm_sys;

/* ioctl() as 0 or more, or -errno; an interrupted one is begun again. */
int kvm_ioctl(int fd, unsigned long request, void *arg);
static inline int kvm_ioctl_n(int fd, unsigned long request, unsigned long arg)
{
	return kvm_ioctl(fd, request, (void *)arg);
}

/* caps.c */
struct kvm_cap {
	int id;
	const char *name; /* as in KVM_CAP_name */
	bool needed;
	const char *why; /* what it is for, or what is lost without it */
};
extern const struct kvm_cap kvm_caps[];
extern const unsigned nr_kvm_caps;
/* /dev/kvm, with every capability that the engine needs; -errno and a line. */
int kvm_open(char *why, size_t why_bytes);

/* machine.c */
int kvm_machine_create(struct vm *vm);
void kvm_machine_destroy(struct vm *vm);
void kvm_msi(struct vm *vm, uint64_t addr, uint32_t data);
int kvm_dirty_log(struct vm *vm, bool on);
int kvm_dirty_take(struct vm *vm, unsigned slot, uint64_t *bitmap);
/* Before the vCPU enters guest code: its clocks are those of the machine. */
void kvm_sync_clock(struct kvm_cpu *c);
/* What the guest has made of its TSC since, into c->tsc_offset and c->tsc_deadline. */
void kvm_read_tsc(struct kvm_cpu *c);

/* All that there are, to the kernel; m->lock is held. */
void kvm_set_routes(struct kvm_machine *m);

/* event.c */
void kvm_message(struct vm *vm, unsigned id, uint64_t addr, uint32_t data);
void kvm_message_send(struct vm *vm, unsigned id);
void kvm_messages_free(struct kvm_machine *m);
int kvm_doorbell(struct vm *vm, struct dev_doorbell *b, uint64_t gpa);
void kvm_doorbell_free(struct vm *vm, struct dev_doorbell *b);

/* vcpu.c */
int kvm_vcpu_create(struct vcpu *v);
void kvm_vcpu_destroy(struct vcpu *v);
void kvm_vcpu_reset(struct vcpu *v);

/* state.c */
void kvm_get_state(struct vcpu *v, struct cpu_state *s);
int kvm_set_state(struct vcpu *v, const struct cpu_state *s);
/* The registers of a vCPU after power-up, pending events dropped. */
int kvm_reset_state(struct vcpu *v, const struct cpu_state *s);

/* msr.c */
int kvm_msr_filter(struct kvm_machine *m);
void kvm_get_msrs(struct kvm_cpu *c, struct cpu_state *s);
int kvm_set_msrs(struct kvm_cpu *c, const struct cpu_state *s);
int kvm_set_msr(struct kvm_cpu *c, uint32_t msr, uint64_t v);
int kvm_get_msr(struct kvm_cpu *c, uint32_t msr, uint64_t *v);

/* cpuid.c */
int kvm_supported_cpuid(int kvm_fd, struct kvm_cpuid2 **out);
int kvm_set_cpuid(struct kvm_cpu *c);

/* debug.c */
int kvm_debug_point(struct vm *vm, bool add, enum debug_point_kind kind, uint64_t gva,
		    unsigned bytes);
void kvm_single_step(struct vcpu *v, bool on);
void kvm_debug_apply(struct kvm_cpu *c);
/* What a debugger is told of a KVM_EXIT_DEBUG. */
uint64_t kvm_debug_detail(const struct kvm_cpu *c);

/* stats.c: by the vCPU's own thread, outside KVM_RUN */
void kvm_take_stats(struct kvm_cpu *c);

/* probe.c */
int kvm_probe(const struct host *h, char *why, size_t why_bytes);

#endif
