/*
 * soft.h - what the software engine keeps once a machine: vm->engine_data.
 *
 * Made by engine_ops.create before any vCPU, constant afterwards but for what
 * has a lock or is atomic.
 */
#ifndef VMM_CPU_SOFT_H
#define VMM_CPU_SOFT_H

#include "core/ipi.h"
#include "core/vm.h"
#include "cpu/codemap.h"
#include "cpu/cpu.h"

#define DEBUG_POINTS_MAX 32
#define UNKNOWN_MSRS_MAX 64

/* A debugger's point. */
struct debug_point {
	enum debug_point_kind kind;
	uint64_t gva;
	unsigned bytes;
};

struct soft_vm {
	struct codemap *codemap;
	struct xnode *xnode; /* the translator's, by guest node; NULL: everything is interpreted */
	unsigned nr_xnodes;
	struct ipi *ipi;

	struct lock rmw_lock; /* mmu_rmw_lock() */

	/* A hash of the instructions whose accesses ask the TLB at once; bits are only set. */
	_Atomic uint64_t roams[64];

	/* Changed with every vCPU parked, so that vCPUs read it without a lock. */
	struct debug_point point[DEBUG_POINTS_MAX];
	unsigned nr_points;

	/* MSRs already named in the log, 0 for a free slot; claimed by compare-and-swap. */
	_Atomic uint64_t unknown_msr[UNKNOWN_MSRS_MAX];

	uint64_t rng; /* CLOCK_ICOUNT has one vCPU: its RDRAND */
};

/* vm->gmem, clock, topo and vcpus must stand. Sets vm->engine_data. -ENOMEM. */
int soft_vm_create(struct vm *vm);
void soft_vm_destroy(struct vm *vm);

static inline struct soft_vm *soft_of(const struct vm *vm)
{
	return vm->engine_data;
}

/* Where emitted code finds the vCPU's attention, relative to GS: see struct cpu. */
#define CPU_ATTENTION_OFF ((int32_t)offsetof(struct vcpu, attention) - (int32_t)sizeof(struct vcpu))

/* It lies behind struct vcpu, so that one base register reaches both. */
static inline struct cpu *cpu_behind(struct vcpu *v)
{
	return (struct cpu *)(void *)(v + 1);
}

/* The software engine's side of a vCPU: struct vcpu's engine_data. */
static inline struct cpu *cpu_of(const struct vcpu *v)
{
	return v->engine_data;
}

#endif
