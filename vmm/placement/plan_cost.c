/*
 * plan_cost.c - the cost model. docs/placement.md tells it in words.
 *
 * Two terms count: the mean distance from a vCPU to its memory, and the pairs of
 * vCPUs on one physical core. The others decide among plans that are equal in these:
 * each is at most 1, and weighted together they stay below the least difference
 * that the first two can make.
 */
#include "placement/plan_int.h"

#define WEIGHT_STACKED   16.0
#define WEIGHT_TRAFFIC   8.0
#define WEIGHT_BANDWIDTH 1.0
#define WEIGHT_CACHE     0.5
#define WEIGHT_IO        0.5
#define WEIGHT_FRAGMENTS 1.0
#define WEIGHTS                                                                                    \
	(WEIGHT_STACKED + WEIGHT_TRAFFIC + WEIGHT_BANDWIDTH + WEIGHT_CACHE + WEIGHT_IO +           \
	 WEIGHT_FRAGMENTS)
#define MINOR (0.999 / PLAN_VCPUS_MAX / WEIGHTS)

/* Anything from 0 up, to below 1. */
static double squash(double x)
{
	return x / (1 + x);
}

/* How much farther than local, 0 for local. */
static double extra_distance(const struct planner *p, unsigned from, unsigned to)
{
	double d = (double)plan_distance(p, from, to) / (10.0 * (double)COST_UNIT);

	return d > 1 ? d - 1 : 0;
}

static double stacked(const struct plan_candidate *c)
{
	unsigned homes = 0;

	for (unsigned g = 0; g < c->nr; g++) {
		bool first = true;

		for (unsigned o = 0; o < g; o++)
			first &= c->home[o] != c->home[g];
		homes += first;
	}
	return 1 - (double)homes / c->nr;
}

static double traffic(const struct planner *p, const struct plan_candidate *c)
{
	double sum = 0, vcpus = p->r->vcpus;

	for (unsigned g = 0; g < c->nr; g++)
		for (unsigned o = 0; o < g; o++)
			if (c->home[o] != c->home[g])
				sum += (double)c->guest[g].vcpus * c->guest[o].vcpus *
				       (extra_distance(p, c->home[g], c->home[o]) +
					extra_distance(p, c->home[o], c->home[g]));
	return squash(sum / (vcpus * vcpus));
}

static double bandwidth(const struct planner *p, const struct plan_candidate *c)
{
	double worst = 0;

	for (unsigned g = 0; g < c->nr; g++) {
		const struct plan_place *home = &p->place[c->home[g]];
		double users = home->taken;

		for (unsigned o = 0; o < c->nr; o++)
			if (c->home[o] == c->home[g])
				users += c->guest[o].vcpus;
		worst = MAX(worst, users / MAX(home->cores, 1));
	}
	return squash(worst);
}

static double io(const struct planner *p, const struct plan_candidate *c)
{
	double sum = 0;

	for (unsigned i = 0; i < p->m->nr_ios; i++)
		for (unsigned g = 0; g < c->nr && p->m->io[i].node != MACHINE_NONE; g++)
			sum += c->guest[g].vcpus * extra_distance(p, c->home[g], p->m->io[i].node);
	return p->m->nr_ios ? squash(sum / p->m->nr_ios / p->r->vcpus) : 0;
}

/* Nodes that were whole, and are neither whole nor full afterwards. */
static double fragments(const struct planner *p)
{
	double broken = 0;

	for (unsigned n = 0; n < p->nr_places; n++)
		broken +=
			p->flow.load[n] && !p->place[n].taken && p->flow.load[n] < p->place[n].idle;
	return squash(broken);
}

/* After plan_flow(). */
double plan_minor(const struct planner *p, const struct plan_candidate *c)
{
	double sum = WEIGHT_FRAGMENTS * fragments(p);

	if (p->m->nr_nodes)
		sum += WEIGHT_STACKED * stacked(c) + WEIGHT_TRAFFIC * traffic(p, c) +
		       WEIGHT_BANDWIDTH * bandwidth(p, c) + WEIGHT_IO * io(p, c);
	return sum / WEIGHTS;
}

/* --- the whole price, of a finished plan ------------------------------------------------ */

static double distance_to_memory(const struct planner *p, const struct plan *out,
				 const struct plan_memory *mem, unsigned place)
{
	unsigned home = mem->host_node < 0 ? MACHINE_NONE
					   : machine_find_node(p->m, (unsigned)mem->host_node);
	double sum = 0;

	if (mem->nr_shares < 2)
		return (double)plan_distance(p, place, home);
	for (unsigned i = 0; i < mem->nr_shares; i++) {
		const struct mem_share *s = &out->share[mem->first_share + i];
		unsigned node = machine_find_node(p->m, (unsigned)s->node);

		sum += (double)plan_distance(p, place, node) * (double)s->bytes;
	}
	return sum / (double)mem->bytes;
}

static double access_cost(const struct planner *p, const struct plan *out)
{
	double sum = 0;

	for (unsigned v = 0; v < out->nr_vcpus; v++) {
		const struct plan_vcpu *vcpu = &out->vcpu[v];
		unsigned pu = machine_find_pu(p->m, vcpu->pu), place = p->m->pu[pu].node;

		sum += distance_to_memory(p, out, &out->memory[vcpu->guest_node],
					  place == MACHINE_NONE ? p->m->nr_nodes : place);
	}
	return sum / (double)COST_UNIT / out->nr_vcpus;
}

/* Both terms go over PUs in logical order, in which cores and caches are runs. */
struct run {
	unsigned id, ours, others;
};

static double pairs_of(const struct run *r)
{
	return (double)r->ours * (r->ours - 1.0) / 2 + (double)r->ours * r->others;
}

static unsigned claims_on(const struct planner *p, unsigned os_index)
{
	unsigned nr = 0;

	for (unsigned c = 0; c < p->r->nr_claims; c++)
		nr += pu_set_has(&p->r->claim[c].pus, os_index);
	return nr;
}

static double smt_cost(const struct planner *p, const unsigned *load)
{
	struct run r = { .id = MACHINE_NONE };
	double sum = 0;

	for (unsigned i = 0; i < p->m->nr_pus; i++) {
		const struct machine_pu *pu = &p->m->pu[i];

		if (pu->core != r.id) {
			sum += pairs_of(&r);
			r = (struct run){ .id = pu->core };
		}
		r.ours += load[i];
		r.others += claims_on(p, pu->os_index);
	}
	return sum + pairs_of(&r);
}

/* Caches in use beyond those that hold so many vCPUs where they are biggest. */
static double cache_cost(const struct planner *p, const unsigned *load)
{
	unsigned used = 0, biggest = 1, fewest;
	struct run r = { .id = MACHINE_NONE };

	for (unsigned i = 0; i <= p->m->nr_pus; i++) {
		if (i == p->m->nr_pus || p->m->pu[i].llc != r.id) {
			used += r.ours != 0;
			biggest = MAX(biggest, r.others);
			if (i < p->m->nr_pus)
				r = (struct run){ .id = p->m->pu[i].llc };
		}
		if (i < p->m->nr_pus) {
			r.ours += load[i];
			r.others += p->m->pu[i].usable;
		}
	}
	fewest = (p->r->vcpus + biggest - 1) / biggest;
	return used > fewest ? squash(used - fewest) : 0;
}

/* @out has vCPUs and memory; the flow is the one that made it. */
void plan_price(const struct planner *p, const struct plan_candidate *c, struct plan *out)
{
	struct plan_cost *cost = &out->cost;
	unsigned *load = p->deal_load; /* nothing is being dealt now */

	memset(load, 0, p->m->nr_pus * sizeof(*load));
	for (unsigned v = 0; v < out->nr_vcpus; v++)
		load[machine_find_pu(p->m, out->vcpu[v].pu)]++;
	*cost = (struct plan_cost){
		.access = access_cost(p, out),
		.smt = smt_cost(p, load),
		.cache = MINOR * WEIGHT_CACHE * cache_cost(p, load),
		.fragments = MINOR * WEIGHT_FRAGMENTS * fragments(p),
	};
	if (p->m->nr_nodes) {
		cost->stacked = MINOR * WEIGHT_STACKED * stacked(c);
		cost->traffic = MINOR * WEIGHT_TRAFFIC * traffic(p, c);
		cost->bandwidth = MINOR * WEIGHT_BANDWIDTH * bandwidth(p, c);
		cost->io = MINOR * WEIGHT_IO * io(p, c);
	}
	cost->total = cost->access + cost->smt + cost->stacked + cost->traffic + cost->bandwidth +
		      cost->cache + cost->io + cost->fragments;
}
