/*
 * vm.h - a machine from the inside. The public face is vmm.h.
 */
#ifndef VMM_CORE_VM_H
#define VMM_CORE_VM_H

#include "boot/cpuid.h"
#include "boot/topology.h"
#include "core/bus.h"
#include "core/clock.h"
#include "core/irq.h"
#include "core/lock.h"
#include "core/vcpu.h"
#include "mem/gmem.h"
#include "vmm.h"

struct dev;

#define VM_DEVICES_MAX  32
#define VM_MESSAGES_MAX 1024

/* What somebody wants of the whole machine; carried out with every vCPU parked. */
enum vm_request {
	VM_REQ_NONE,
	VM_REQ_STOP,
	VM_REQ_POWEROFF,
	VM_REQ_RESET,
	VM_REQ_EXIT,
	VM_REQ_TRIPLE_FAULT,
	VM_REQ_ERROR
};

/* What a device said last by dev_message(); by the device's lock. */
struct vm_message {
	uint64_t addr;
	uint32_t data;
};

struct vm {
	/* Constant once created. */
	struct host host;
	struct vmm_config cfg;
	struct plan plan; /* moves change it; guarded by lock once running */
	const struct engine_ops *engine;
	void *engine_data;
	bool engine_made;
	struct topology topo;
	struct cpuid_model cpuid;
	struct gmem gmem;
	struct boot_request boot;
	struct host_mem region[PLAN_NODES_MAX]; /* by guest node; base NULL: has no memory */
	unsigned nr_regions;
	struct mem_report populated;
	struct bus pio, mmio;
	struct dev *dev[VM_DEVICES_MAX];
	unsigned nr_devs;
	struct dev *intc[4]; /* devices with irq_in */
	unsigned nr_intcs;
	unsigned nr_pci;      /* slots taken on the bus */
	unsigned nr_messages; /* dealt out to devices */
	struct vcpu **vcpu;
	unsigned nr_vcpus;
	uint64_t created_ns;

	struct guest_clock clock;
	struct sampler *sampler; /* NULL: nobody wants to know */

	/* Interrupt lines: each guarded by its own lock. */
	struct {
		struct lock lock;
		uint32_t sources;
	} line[GSI_COUNT];

	/* What devices have written, like the bitmap of vmm_dirty_take(); NULL: nobody asks. */
	_Atomic uint64_t *_Atomic dirty;
	bool dirty_on; /* by whoever asks */
	struct vm_message message[VM_MESSAGES_MAX];
	struct lock map_lock;     /* what moves on the memory bus; taken below a device's lock */
	struct lock console_lock; /* around cfg.console(): several devices write; taken last */

	/*
	 * Life. request and parked are written by any thread without a lock; the
	 * rest is guarded by lock. change counts what waiters wait for.
	 */
	_Atomic uint64_t request;  /* enum vm_request, code in the upper half */
	_Atomic uint32_t parked;   /* how many reasons keep the vCPUs out of guest code */
	_Atomic uint32_t park_gen; /* futex word of parked vCPUs */
	_Atomic uint32_t change;   /* futex word of everybody else: counts what may matter */
	struct lock lock;
	struct vmm_result result;
	char refusal[256]; /* vm_refuse() */
	struct cpu_state boot_state;
	unsigned nr_threads; /* vCPU threads in their loop */
	unsigned nr_parked;  /* of them, in vm_park() */
	unsigned nr_ready;   /* have set themselves up, or failed to */
	int start_err;
	bool carrying_out; /* some vCPU's thread serves the request, and result is its own */
	unsigned pauses;   /* vmm_pause() calls not yet resumed */
	bool started;
	_Atomic uint64_t first_insn_ns; /* host time; the engine sets it once */
};

/* Any thread. The first request wins until it is carried out, but an end replaces a reboot. */
void vm_request(struct vm *vm, enum vm_request r, int code);

/* The vCPU's thread: sleeps until the machine goes on; the last one serves the request. */
void vm_park(struct vcpu *c);
/* Stops and joins every vCPU thread. */
void vm_end_threads(struct vm *vm);
/* The vCPU's thread, before and after its loop. */
void vm_vcpu_ready(struct vcpu *c, int err);
void vm_vcpu_done(struct vcpu *c);
/*
 * The line for the user about what could not be made or started, where an errno says
 * too little; the first one stays. Any thread. Returns @err.
 */
int vm_refuse(struct vm *vm, int err, const char *fmt, ...) __printf(3, 4);
/* A device has written to RAM. Any thread. */
void vm_dirtied(struct vm *vm, uint64_t gpa, uint64_t bytes);
/* A debugger's point was met: pause, and tell. */
void vm_debug_stop(struct vcpu *c, uint64_t detail);

static inline enum vm_request vm_pending_request(struct vm *vm)
{
	return (enum vm_request)(uint32_t)atomic_load(&vm->request);
}

#endif
