/*
 * mem_bind.c - memory policies of mappings.
 *
 * An explicit policy also keeps the kernel's NUMA balancing away: it scans and moves only
 * memory without one (Linux' mm/mempolicy.c, vma_policy_mof()), or with one that asks
 * for it (MPOL_F_NUMA_BALANCING), which ours never do.
 */
#include "linux.h"
#include "mem_compat.h"

#include <errno.h>

#define RANGES_MAX    4096 /* each is a mapping of the kernel's, of which it allows 65,530 */
#define RANGE_ALIGN   MIB(2)
#define NODE_MASK_MAX HOST_NODES_MAX

struct node_mask {
	unsigned long word[NODE_MASK_MAX / 64];
};

static int add_node(struct node_mask *mask, int node)
{
	if (node < 0 || node >= NODE_MASK_MAX)
		return -EINVAL;
	mask->word[node / 64] |= BIT64(node % 64);
	return 0;
}

static int bind_mask(void *p, uint64_t bytes, int mode, const struct node_mask *mask)
{
	/* The kernel reads one bit less than it is told. */
	return mbind(p, bytes, mode, mask->word, NODE_MASK_MAX + 1, 0) ? -errno : 0;
}

int linux_bind_node(const struct linux_host *h, void *p, uint64_t bytes, int node,
		    enum mem_policy policy)
{
	struct node_mask mask = { 0 };
	int err;

	if (node == HOST_NODE_ANY || !h->many_nodes)
		return 0;
	err = add_node(&mask, node);
	if (err)
		return err;
	return bind_mask(p, bytes, policy == MEM_BIND ? MPOL_BIND : MPOL_PREFERRED, &mask);
}

/*
 * What MPOL_WEIGHTED_INTERLEAVE does, for kernels without it, in coarser steps: in each
 * round every node gets as many units as its weight says.
 */
int linux_bind_ranges(void *p, uint64_t bytes, uint64_t page_bytes, const struct mem_share *share,
		      unsigned nr)
{
	uint64_t weights = 0, unit, at = 0;
	int err = 0;

	for (unsigned i = 0; i < nr; i++)
		weights += share[i].weight;
	if (!weights)
		return -EINVAL;
	unit = bytes / RANGES_MAX * nr / weights + 1;
	unit = ALIGN_UP(unit, MAX(page_bytes, RANGE_ALIGN));
	for (unsigned i = 0; at < bytes && !err; i = (i + 1) % nr) {
		uint64_t n = MIN(unit * share[i].weight, bytes - at);
		struct node_mask mask = { 0 };

		if (!n)
			continue;
		err = add_node(&mask, share[i].node);
		if (!err)
			err = bind_mask((uint8_t *)p + at, n, MPOL_BIND, &mask);
		at += n;
	}
	return err;
}

static int bind_spread(void *p, const struct host_mem *m, const struct host_mem_attr *a)
{
	struct node_mask mask = { 0 };
	int err = -EINVAL;

	for (unsigned i = 0; i < a->nr_shares; i++) {
		err = add_node(&mask, a->share[i].node);
		if (err)
			return err;
	}
	if (err)
		return err; /* over no node at all */
	if (a->policy == MEM_INTERLEAVE)
		return bind_mask(p, m->bytes, MPOL_INTERLEAVE, &mask);
	err = bind_mask(p, m->bytes, MPOL_WEIGHTED_INTERLEAVE, &mask);
	if (err != -EINVAL)
		return err;
	return linux_bind_ranges(p, m->bytes, m->page_bytes, a->share, a->nr_shares);
}

int linux_bind(const struct linux_host *h, const struct host_mem *m, const struct host_mem_attr *a)
{
	if (!mem_policy_spreads(a->policy))
		return linux_bind_node(h, m->base, m->bytes, a->node, a->policy);
	return h->many_nodes ? bind_spread(m->base, m, a) : 0;
}
