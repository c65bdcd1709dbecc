/*
 * sched.h - the scheduler seam: who runs on a host core that carries vCPUs.
 *
 * A policy is pure over the time it is told: the same code runs live and in
 * virtual time. `dedicated` grants at once: each vCPU has its PU for itself, and
 * where PUs are shared the host's own scheduler decides.
 */
#ifndef VMM_SCHED_SCHED_H
#define VMM_SCHED_SCHED_H

#include "core/util.h"

struct sched_entity {
	unsigned id;
	unsigned pu; /* OS index of the core it is planned on */
	uint32_t weight;
	uint64_t run_ns;     /* guest time used so far */
	uint64_t started_ns; /* when it got the core; 0: does not hold it */
};

struct sched_policy {
	const char *name;
	/* -ENOSPC: the core cannot carry it. */
	int (*admit)(struct sched_entity *e);
	/* Ready to run at @now_ns; true when it may take the core at once. */
	bool (*enqueue)(struct sched_entity *e, uint64_t now_ns);
	/* Leaves the core, idle or preempted; charges what it used. */
	void (*dequeue)(struct sched_entity *e, uint64_t now_ns);
};

extern const struct sched_policy sched_dedicated;

#endif
