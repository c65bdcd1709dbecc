/*
 * plan.h - the planner: from a machine model and a request to a placement.
 *
 * Pure: no I/O, no globals, the same input gives the same plan. Installed.
 */
#ifndef VMM_PLACEMENT_PLAN_H
#define VMM_PLACEMENT_PLAN_H

#include "placement/machine.h"

#define PLAN_VCPUS_MAX 1024
#define PLAN_NODES_MAX 64 /* guest nodes */

struct plan_request {
	unsigned vcpus;
	unsigned nodes;        /* guest nodes; vCPUs and memory are cut evenly, in order */
	uint64_t memory_bytes; /* multiple of 1 MiB */
};

struct plan_vcpu {
	unsigned pu; /* OS index */
	unsigned guest_node;
	int host_node; /* OS index, or -1: the host has no nodes */
	bool shared;   /* its PU carries another vCPU of this plan too */
};

struct plan_memory {
	unsigned guest_node;
	int host_node;
	uint64_t bytes;
};

struct plan {
	unsigned nr_vcpus, nr_memory;
	struct plan_vcpu vcpu[PLAN_VCPUS_MAX];
	struct plan_memory memory[PLAN_NODES_MAX];
};

/*
 * -EINVAL: the request is not one; -ENOSPC: it does not fit. why[] then holds a
 * line for the user.
 */
int plan_make(const struct machine_model *m, const struct plan_request *r, struct plan *out,
	      char *why, size_t why_bytes);

#endif
