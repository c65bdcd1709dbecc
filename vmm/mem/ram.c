/* ram.c - maps guest RAM as the plan says; ram_populate.c fills it. See ram.h. */
#include "mem/ram.h"

#include <errno.h>
#include <stdio.h>

static const char *remedy(int err)
{
	switch (err) {
	case -ENOTSUP:
		return "this kernel has no pages of that size: leave --pages out";
	case -EPERM:
		return "binding memory is not permitted here: allow mbind(2), which containers "
		       "get with CAP_SYS_NICE";
	case -EINVAL:
		return "may this process use that node? see `alcazar topology`";
	default:
		return "ask for less --memory, other --pages or another node";
	}
}

static int map_region(const struct ram *r, unsigned node)
{
	const struct plan_memory *pm = &r->plan->memory[node];
	struct host_mem_attr attr = {
		.bytes = pm->bytes,
		.page_bytes = pm->page_bytes,
		.huge_pays = r->huge_pays,
		.policy = r->plan->memory_policy,
		.node = pm->host_node,
		.share = &r->plan->share[pm->first_share],
		.nr_shares = pm->nr_shares,
	};

	return r->host->ops->mem_map(r->host->ctx, &attr, &r->region[node]);
}

int ram_map(const struct ram *r, char *why, size_t why_bytes)
{
	for (unsigned i = 0; i < r->plan->nr_memory; i++) {
		const struct plan_memory *pm = &r->plan->memory[i];
		int err = pm->bytes ? map_region(r, i) : 0;

		if (!err)
			continue;
		snprintf(why, why_bytes,
			 "cannot map %llu MiB of guest memory on host node %d: %s; %s",
			 (unsigned long long)(pm->bytes >> 20), pm->host_node, strerror(-err),
			 remedy(err));
		ram_unmap(r);
		return err;
	}
	return 0;
}

void ram_unmap(const struct ram *r)
{
	for (unsigned i = 0; i < PLAN_NODES_MAX; i++)
		if (r->region[i].base)
			r->host->ops->mem_unmap(r->host->ctx, &r->region[i]);
}
