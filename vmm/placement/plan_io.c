/*
 * plan_io.c - where I/O threads run: one beside each home, on housekeeping PUs.
 *
 * An I/O thread wants to be near its node's memory and in nobody's way. It takes the
 * PU that is cheapest: distance to the home, in units of a local access; half a unit for
 * each vCPU on a sibling; and much more for each vCPU on the PU itself. Among equals
 * the last one, as vCPUs are dealt from the first on.
 */
#include "placement/plan_int.h"

#define COST_LOCAL   (10 * COST_UNIT)
#define COST_SIBLING (COST_LOCAL / 2)
#define COST_ON_PU   (8 * COST_LOCAL)

struct io_search {
	const struct planner *p;
	struct pu_set vcpus, taken; /* by vCPUs of this plan, and by I/O threads so far */
};

/* Pinned ones count twice, which does no harm: any is too many. */
static unsigned vcpus_on(const struct io_search *s, unsigned pu)
{
	return s->p->pu_load[pu] + pu_set_has(&s->vcpus, s->p->m->pu[pu].os_index);
}

/* A core's PUs are neighbours. Under `isolate` a sibling is as good as the PU itself. */
static int64_t sibling_cost(const struct io_search *s, unsigned pu)
{
	const struct machine_model *m = s->p->m;
	bool isolated = s->p->r->policy == PLAN_ISOLATE;
	unsigned i = pu, nr = 0;

	while (i && m->pu[i - 1].core == m->pu[pu].core)
		i--;
	for (; i < m->nr_pus && m->pu[i].core == m->pu[pu].core; i++)
		nr += i == pu ? 0 : vcpus_on(s, i);
	return nr * (isolated ? COST_ON_PU : COST_SIBLING);
}

static int64_t io_cost(const struct io_search *s, unsigned pu, unsigned home)
{
	const struct machine_model *m = s->p->m;
	unsigned place = m->pu[pu].node == MACHINE_NONE ? m->nr_nodes : m->pu[pu].node;

	return plan_distance(s->p, place, home) + sibling_cost(s, pu) +
	       COST_ON_PU * (vcpus_on(s, pu) + pu_set_has(&s->taken, m->pu[pu].os_index));
}

static void place_io(struct io_search *s, int host_node, struct plan_io *out)
{
	const struct machine_model *m = s->p->m;
	unsigned home = host_node < 0 ? MACHINE_NONE : machine_find_node(m, (unsigned)host_node);
	int64_t least = COST_NONE;
	unsigned best = 0;

	for (unsigned pu = 0; pu < m->nr_pus; pu++) {
		int64_t cost = m->pu[pu].usable ? io_cost(s, pu, home) : COST_NONE;

		if (cost != COST_NONE && cost <= least) {
			least = cost;
			best = pu;
		}
	}
	*out = (struct plan_io){
		.host_node = host_node,
		.pu = m->pu[best].os_index,
		.shared = vcpus_on(s, best) != 0,
	};
	pu_set_add(&s->taken, out->pu);
}

void plan_io(const struct planner *p, struct plan *out)
{
	struct io_search s = { .p = p };

	for (unsigned i = 0; i < out->nr_vcpus; i++)
		pu_set_add(&s.vcpus, out->vcpu[i].pu);
	out->nr_io = 0;
	for (unsigned g = 0; g < out->nr_memory; g++) {
		int home = out->memory[g].host_node;
		bool known = false;

		for (unsigned i = 0; i < out->nr_io; i++)
			known |= out->io[i].host_node == home;
		if (!known)
			place_io(&s, home, &out->io[out->nr_io++]);
	}
}
