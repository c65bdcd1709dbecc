/*
 * accel.h - which of the processor's and the kernel's accelerations a machine runs with.
 *
 * Linux does not tell whether a machine uses them, but for what module parameters and
 * statistics show. The rest follows from rules that are known; so each answer says
 * whether it was read or inferred, and from what.
 */
#ifndef HOST_LINUX_KVM_ACCEL_H
#define HOST_LINUX_KVM_ACCEL_H

#include "vmm.h"

#define ACCELS_MAX 24

enum accel_state { ACCEL_OFF, ACCEL_ON, ACCEL_INHIBITED, ACCEL_UNKNOWN };

struct accel {
	const char *name;
	enum accel_state state;
	bool read;     /* else inferred */
	char why[128]; /* where from, or what stands in the way */
};

/* What the answers are made of. Parameters: -1 where there is no such file. */
struct accel_facts {
	bool amd;
	int ept, npt, apicv, avic, ipiv, vpid, preemption_timer, tdp_mmu;
	int64_t halt_poll_ns; /* the host's */
	bool x2avic;          /* the processor has it */
	bool posted_cpu;      /* the processor has posted interrupts, as far as it says */

	uint32_t max_apic_id;
	uint32_t pv_features;  /* EAX of leaf 0x40000001, as this guest sees it */
	bool guest_has_x2apic; /* x2APIC is offered to it */
	bool extint_waits;     /* the PIC's output is up: an interrupt window was asked for */
	bool debugged;
	int64_t machine_halt_poll_ns; /* set for this machine; -1: the host's holds */
	uint64_t exits, halt_poll_hits, irq_window_exits; /* of all vCPUs so far */
};

/* Of this process's host and @vm, which runs on the KVM engine; any thread. */
void accel_gather(struct vm *vm, struct accel_facts *f);
/* Pure. Returns how many. */
unsigned accel_judge(const struct accel_facts *f, struct accel out[ACCELS_MAX]);
/* Both; 0 with another engine. */
unsigned kvm_accelerations(struct vm *vm, struct accel out[ACCELS_MAX]);

const char *accel_state_name(enum accel_state s);

#endif
