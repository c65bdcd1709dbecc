/*
 * ram.h - guest RAM from a plan: a region for each guest node that has memory, mapped,
 * populated by threads near it, and looked at.
 *
 * Before any vCPU runs; by the thread that makes the machine.
 */
#ifndef VMM_MEM_RAM_H
#define VMM_MEM_RAM_H

#include "core/host.h"
#include "placement/plan.h"

struct ram {
	const struct host *host;
	const struct plan *plan;
	bool huge_pays;          /* see struct host_mem_attr */
	struct host_mem *region; /* by guest node, zeroed before; base NULL: has no memory */
};

/* Of all regions or none. -errno, and why[] holds a line for the user. */
int ram_map(const struct ram *r, char *why, size_t why_bytes);
void ram_unmap(const struct ram *r);

struct ram_populate {
	bool all; /* otherwise only what comes from a pool, and therefore must be */
	/* Now and then, by the caller's thread. False: stop. May be NULL. */
	bool (*progress)(void *arg, uint64_t done_bytes, uint64_t all_bytes);
	void *arg;
};

/*
 * Every PU of the plan works on the regions of its own node, all nodes at once; on
 * regions that are spread, or on a node without a PU of ours, all PUs work. Then they
 * look where the pages are: one elsewhere than the policy allows is an error (-EXDEV).
 * -ECANCELED: progress() said stop.
 */
int ram_populate(const struct ram *r, const struct ram_populate *how, struct mem_report *out,
		 char *why, size_t why_bytes);

#endif
