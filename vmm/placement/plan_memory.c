/*
 * plan_memory.c - what each host node carries of a guest node's memory.
 *
 * Bound memory is all at home, and the search has seen to it that it fits. Memory that
 * is spread lies on the host nodes that run the guest node's vCPUs, or on those that
 * were asked for; memory that only prefers its home goes on from there to the nearest nodes.
 */
#include "placement/plan_int.h"

#include <errno.h>

struct sharing {
	struct planner *p;
	struct plan *out;
	uint64_t left[PAGE_KINDS][MACHINE_NODES_MAX];
};

static unsigned long long mib(uint64_t bytes)
{
	return bytes / MIB(1);
}

static uint64_t unit_of(const struct plan_guest *g)
{
	return MAX(g->page_bytes, MIB(1));
}

static int add_share(struct sharing *s, struct plan_memory *mem, unsigned node, unsigned weight,
		     uint64_t bytes)
{
	if (s->out->nr_shares == PLAN_SHARES_MAX)
		return plan_refuse(s->p, -ENOSPC, "memory would lie in more than %d shares",
				   PLAN_SHARES_MAX);
	s->out->share[s->out->nr_shares++] = (struct mem_share){
		.node = (int)s->p->m->node[node].os_index,
		.weight = weight,
		.bytes = bytes,
	};
	mem->nr_shares++;
	return 0;
}

/* --- spread ------------------------------------------------------------------------------ */

static unsigned weight_of(const struct planner *p, unsigned node)
{
	unsigned w = p->m->node[node].weight;

	return p->r->memory_policy == MEM_WEIGHTED && w ? w : 1;
}

static struct pu_set nodes_of(const struct sharing *s, unsigned g)
{
	const struct planner *p = s->p;
	struct pu_set set = { 0 };

	if (p->r->node && pu_set_count(&p->r->node[g].over))
		return p->r->node[g].over;
	for (unsigned i = 0; i < s->out->nr_vcpus; i++) {
		const struct plan_vcpu *v = &s->out->vcpu[i];
		unsigned node = v->host_node < 0 ? MACHINE_NONE
						 : machine_find_node(p->m, (unsigned)v->host_node);

		if (v->guest_node == g && node != MACHINE_NONE && p->m->node[node].memory_bytes)
			pu_set_add(&set, (unsigned)v->host_node);
	}
	if (!pu_set_count(&set))
		pu_set_add(&set, (unsigned)s->out->memory[g].host_node);
	return set;
}

static int spread(struct sharing *s, const struct plan_guest *guest, struct plan_memory *mem)
{
	struct pu_set nodes = nodes_of(s, mem->guest_node);
	uint64_t weights = 0, seen = 0, units = guest->bytes / unit_of(guest), given = 0;

	pu_set_for_each(i, &nodes) weights += weight_of(s->p, machine_find_node(s->p->m, i));
	if (!weights)
		return -EINVAL; /* nodes_of() has one at least */
	pu_set_for_each(i, &nodes)
	{
		unsigned node = machine_find_node(s->p->m, i), weight = weight_of(s->p, node);
		uint64_t *left = &s->left[guest->kind][node], bytes;
		int err;

		seen += weight;
		bytes = (units * seen / weights - given) * unit_of(guest);
		given = units * seen / weights;
		if (bytes > *left)
			return plan_refuse(s->p, -ENOSPC,
					   "guest node %u: %llu of its %llu MiB would lie on host "
					   "node %u, have %llu MiB there: ask for less, or for "
					   "other host nodes",
					   mem->guest_node, mib(bytes), mib(guest->bytes), i,
					   mib(*left));
		*left -= bytes;
		err = add_share(s, mem, node, weight, bytes);
		if (err)
			return err;
	}
	return 0;
}

/* --- at home first -------------------------------------------------------------------- */

static unsigned nearest_with_room(const struct sharing *s, const uint64_t *left, unsigned home,
				  uint64_t unit)
{
	unsigned best = MACHINE_NONE;

	for (unsigned n = 0; n < s->p->m->nr_nodes; n++)
		if (left[n] >= unit &&
		    (best == MACHINE_NONE ||
		     plan_distance(s->p, home, n) < plan_distance(s->p, home, best)))
			best = n;
	return best;
}

static int fill_from_home(struct sharing *s, const struct plan_guest *guest, unsigned home,
			  struct plan_memory *mem)
{
	uint64_t *left = s->left[guest->kind], unit = unit_of(guest), rest = guest->bytes;

	for (unsigned n = home; rest; n = nearest_with_room(s, left, home, unit)) {
		uint64_t bytes;
		int err;

		if (n == MACHINE_NONE)
			return plan_refuse(s->p, -ENOSPC,
					   "guest node %u: %llu MiB needed, and no host node has "
					   "room for the last %llu MiB: ask for less",
					   mem->guest_node, mib(guest->bytes), mib(rest));
		bytes = MIN(rest, ALIGN_DOWN(left[n], unit));
		left[n] -= bytes;
		rest -= bytes;
		err = bytes ? add_share(s, mem, n, 1, bytes) : 0;
		if (err)
			return err;
	}
	return 0;
}

int plan_share_memory(struct planner *p, const struct plan_candidate *c, struct plan *out)
{
	struct sharing s = { .p = p, .out = out };
	int err = 0;

	out->nr_shares = 0;
	for (unsigned k = 0; k < PAGE_KINDS; k++)
		memcpy(s.left[k], p->have[k], p->m->nr_nodes * sizeof(s.left[k][0]));
	for (unsigned g = 0; g < c->nr && p->m->nr_nodes && !err; g++) {
		struct plan_memory *mem = &out->memory[g];

		mem->first_share = out->nr_shares;
		mem->nr_shares = 0;
		if (!mem->bytes)
			continue;
		err = mem_policy_spreads(out->memory_policy)
			      ? spread(&s, &c->guest[g], mem)
			      : fill_from_home(&s, &c->guest[g], c->home[g], mem);
	}
	return err;
}
