/*
 * plan_deal.c - which PUs of one place carry vCPUs, and what each next one costs.
 *
 * A vCPU goes to the PU that is cheapest then: least loaded, on the least loaded
 * core. Among equals a whole last-level cache is taken: the fullest that holds all
 * that is left, or else the one that holds most; under `spread`, one PU of the least
 * used cache. Costs only rise, which is what makes the flow of plan_solve.c exact.
 */
#include "placement/plan_int.h"

struct deal {
	struct planner *p;
	const struct plan_place *place;
	const struct plan_pu *pu;
	unsigned *load; /* beside pu[] */
	unsigned *core; /* load of the core, the same in each of its PUs */
};

/* PUs of one cache that cost the same. */
struct group {
	unsigned first, end; /* the cache's PUs */
	unsigned count;      /* cores among them that offer one */
	unsigned used;       /* vCPUs there */
};

static struct deal deal_begin(struct planner *p, const struct plan_place *place)
{
	struct deal d = {
		.p = p,
		.place = place,
		.pu = p->pu + place->first_pu,
		.load = p->deal_load + place->first_pu,
		.core = p->deal_core + place->first_pu,
	};

	for (unsigned i = 0; i < place->nr_pus; i++) {
		d.load[i] = d.pu[i].load;
		d.core[i] = p->core_load[d.pu[i].core];
	}
	return d;
}

static int64_t cost_of(const struct deal *d, unsigned i)
{
	return COST_SHARE * d->load[i] + d->p->sibling_cost * d->core[i];
}

static int64_t cheapest(const struct deal *d)
{
	int64_t least = COST_NONE;

	for (unsigned i = 0; i < d->place->nr_pus; i++)
		least = MIN(least, cost_of(d, i));
	return least;
}

/* The cache that begins at PU @first, seen at @cost; siblings offer one PU together. */
static struct group look_at(const struct deal *d, unsigned first, int64_t cost)
{
	struct group g = { .first = first, .end = first };
	unsigned last_core = MACHINE_NONE;

	for (; g.end < d->place->nr_pus && d->pu[g.end].llc == d->pu[first].llc; g.end++) {
		g.used += d->load[g.end];
		if (cost_of(d, g.end) != cost || d->pu[g.end].core == last_core)
			continue;
		last_core = d->pu[g.end].core;
		g.count++;
	}
	return g;
}

static bool suits_better(const struct deal *d, const struct group *a, const struct group *b,
			 unsigned left)
{
	if (!a->count || !b->count)
		return a->count > b->count;
	if (d->p->r->policy == PLAN_SPREAD)
		return a->used < b->used;
	if (a->count >= left && b->count >= left)
		return a->count < b->count;
	return a->count > b->count;
}

static struct group best_group(const struct deal *d, int64_t cost, unsigned left)
{
	struct group best = { 0 };

	for (unsigned i = 0; i < d->place->nr_pus;) {
		struct group g = look_at(d, i, cost);

		if (suits_better(d, &g, &best, left))
			best = g;
		i = g.end;
	}
	return best;
}

static void take(struct deal *d, unsigned i)
{
	unsigned core = d->pu[i].core, first = i;

	d->load[i]++;
	while (first && d->pu[first - 1].core == core)
		first--;
	for (; first < d->place->nr_pus && d->pu[first].core == core; first++)
		d->core[first]++;
}

/* Returns how many PUs were taken; out[] may be NULL. */
static unsigned take_from(struct deal *d, const struct group *g, int64_t cost, unsigned most,
			  unsigned *out)
{
	unsigned nr = 0;

	/* Taking one makes its siblings dearer: each core gives one. */
	for (unsigned i = g->first; i < g->end && nr < most; i++) {
		if (cost_of(d, i) != cost)
			continue;
		take(d, i);
		if (out)
			out[nr] = d->pu[i].index;
		nr++;
	}
	return nr;
}

static unsigned deal_some(struct deal *d, unsigned left, int64_t *cost, unsigned *out)
{
	unsigned most = d->p->r->policy == PLAN_SPREAD ? 1 : left;
	struct group g;

	*cost = cheapest(d);
	g = best_group(d, *cost, left);
	return take_from(d, &g, *cost, most, out);
}

void plan_deal(struct planner *p, const struct plan_place *place, unsigned count, unsigned *out)
{
	struct deal d = deal_begin(p, place);
	int64_t cost;

	for (unsigned done = 0; done < count;)
		done += deal_some(&d, count - done, &cost, out + done);
}

unsigned plan_deal_segs(struct planner *p, const struct plan_place *place, unsigned count,
			struct plan_seg *seg)
{
	struct deal d = deal_begin(p, place);
	unsigned nr = 0;

	for (unsigned done = 0; done < count;) {
		int64_t cost;
		unsigned n = deal_some(&d, count - done, &cost, NULL);

		if (nr && seg[nr - 1].cost == cost)
			seg[nr - 1].cap += n;
		else
			seg[nr++] = (struct plan_seg){ .cap = n, .cost = cost };
		done += n;
	}
	return nr;
}
