/*
 * placement.h - what the user says about placement, in words, turned into a request
 * to the planner; and what the guest is shown of the plan.
 */
#ifndef HOST_LINUX_CMD_PLACEMENT_H
#define HOST_LINUX_CMD_PLACEMENT_H

#include "run.h"
#include "vmm.h"

#define PLACEMENT_PINS_MAX 1024

struct placement {
	struct plan_request request;
	struct plan_pin *pin;
	struct plan_node_request node[PLAN_NODES_MAX];

	/* What the guest sees. */
	unsigned packages, dies, cores, threads; /* --guest-topology; all 0: as placed */
	struct topo_position position[PLAN_VCPUS_MAX];
	uint8_t distance[PLAN_NODES_MAX * PLAN_NODES_MAX];
	uint32_t latency_ns[PLAN_NODES_MAX * PLAN_NODES_MAX];
	uint32_t bandwidth_mbs[PLAN_NODES_MAX * PLAN_NODES_MAX];
};

/* The live host's model, or that of --topology. 0 or an exit status. */
int placement_machine(const struct run_options *o, const struct host *host,
		      struct machine_model *out);

/* Reads the words of @o; @m gives names like node0 their meaning. 0 or an exit status. */
int placement_request(struct option_set *s, const struct run_options *o,
		      const struct machine_model *m, struct placement *out);
/* "4K", "thp", "2M", "1G" to bytes or MEM_PAGES_THP; NULL or what is wrong. */
const char *placement_pages(const char *text, uint64_t *out);
void placement_free(struct placement *p);

/* The guest's topology from the plan; @out refers to @p. 0 or an exit status. */
int placement_topology(struct placement *p, const struct machine_model *m, const struct plan *plan,
		       struct topo_request *out);

#endif
