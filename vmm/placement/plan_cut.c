/*
 * plan_cut.c - how the guest is cut into nodes: as the user says, or along the
 * borders of the host nodes that take it.
 */
#include "placement/plan_int.h"

#include <errno.h>

static uint64_t unit_bytes(const struct planner *p)
{
	return MAX(p->r->page_bytes, MIB(1));
}

static unsigned kind_of(const struct planner *p)
{
	return plan_page_kind(p, p->r->page_bytes);
}

static unsigned count_loose(const struct planner *p, unsigned first, unsigned nr)
{
	unsigned loose = 0;

	for (unsigned v = first; v < first + nr; v++)
		loose += p->pinned[v] == MACHINE_NONE;
	return loose;
}

static void set_guest(const struct planner *p, struct plan_candidate *c, unsigned first,
		      unsigned vcpus, uint64_t bytes)
{
	c->home[c->nr] = MACHINE_NONE;
	c->guest[c->nr++] = (struct plan_guest){
		.vcpus = vcpus,
		.loose = count_loose(p, first, vcpus),
		.bytes = bytes,
		.page_bytes = p->r->page_bytes,
		.kind = kind_of(p),
		.must_home = MACHINE_NONE,
	};
}

int plan_cut_even(struct planner *p, unsigned nodes, struct plan_candidate *c)
{
	uint64_t unit = unit_bytes(p);
	unsigned first = 0;

	c->nr = 0;
	c->hinted = false;
	for (unsigned g = 0; g < nodes; g++) {
		unsigned vcpus = (unsigned)plan_share(p->r->vcpus, nodes, g);

		set_guest(p, c, first, vcpus,
			  plan_share(p->r->memory_bytes / unit, nodes, g) * unit);
		first += vcpus;
	}
	return 0;
}

int plan_cut_given(struct planner *p, struct plan_candidate *c)
{
	unsigned first = 0;

	c->nr = 0;
	c->hinted = false;
	for (unsigned g = 0; g < p->r->nodes; g++) {
		const struct plan_node_request *n = &p->r->node[g];
		struct plan_guest *guest = &c->guest[g];

		set_guest(p, c, first, n->vcpus, n->memory_bytes);
		first += n->vcpus;
		if (n->page_bytes) {
			guest->page_bytes = n->page_bytes;
			guest->kind = plan_page_kind(p, n->page_bytes);
		}
		if (n->host_node >= 0)
			guest->must_home = machine_find_node(p->m, (unsigned)n->host_node);
	}
	return 0;
}

/* Whoever pins every vCPU has cut the guest: a node for each run on one host node. */
int plan_cut_pinned(struct planner *p, struct plan_candidate *c)
{
	unsigned node[PLAN_NODES_MAX], first[PLAN_NODES_MAX + 1], runs = 0;
	uint64_t units = p->r->memory_bytes / unit_bytes(p), given = 0;

	if (p->nr_pinned != p->r->vcpus)
		return -ENOSPC;
	for (unsigned v = 0; v < p->r->vcpus; v++) {
		unsigned n = p->m->pu[p->pinned[v]].node;

		if (runs && node[runs - 1] == n)
			continue;
		if (runs == PLAN_NODES_MAX)
			return -ENOSPC;
		for (unsigned i = 0; i < runs; i++)
			if (node[i] == n)
				return -ENOSPC; /* not runs, but a mixture */
		node[runs] = n;
		first[runs++] = v;
	}
	first[runs] = p->r->vcpus;
	if (units < runs)
		return -ENOSPC;
	c->nr = 0;
	for (unsigned g = 0; g < runs; g++) {
		uint64_t upto = units * first[g + 1] / p->r->vcpus;

		if (upto <= given || node[g] == MACHINE_NONE)
			return -ENOSPC;
		set_guest(p, c, first[g], first[g + 1] - first[g], (upto - given) * unit_bytes(p));
		c->home[g] = node[g];
		given = upto;
	}
	c->hinted = true;
	return 0;
}

/* --- along the host's borders ------------------------------------------------------------ */

struct cluster {
	unsigned node[PLAN_NODES_MAX]; /* in the order taken */
	unsigned nr;
	uint64_t vcpus; /* that it takes */
	uint64_t units; /* of memory */
	int64_t distance;
};

static unsigned capacity(const struct planner *p, unsigned node, enum plan_fill fill)
{
	const struct plan_place *place = &p->place[node];

	switch (fill) {
	case FILL_CORES:
		return place->idle;
	case FILL_PUS:
		return place->free;
	case FILL_CHEAPEST:
		return place->within;
	default:
		return place->cap;
	}
}

static uint64_t room_units(const struct planner *p, unsigned node)
{
	return p->room[kind_of(p)][node] / unit_bytes(p);
}

static bool is_enough(const struct planner *p, const struct cluster *cl)
{
	return cl->vcpus >= p->r->vcpus && cl->units >= p->r->memory_bytes / unit_bytes(p);
}

/* From @start, again and again the node nearest to those taken; among equals the biggest. */
static bool grow(const struct planner *p, unsigned start, enum plan_fill fill, bool widest,
		 struct cluster *cl)
{
	unsigned most = MIN(p->r->vcpus, PLAN_NODES_MAX), next = start;
	int64_t sum[MACHINE_NODES_MAX] = { 0 };
	bool taken[MACHINE_NODES_MAX] = { false };

	*cl = (struct cluster){ 0 };
	while (next != MACHINE_NONE) {
		unsigned last = next;

		cl->node[cl->nr++] = last;
		cl->vcpus += capacity(p, last, fill);
		cl->units += room_units(p, last);
		cl->distance += sum[last];
		taken[last] = true;
		next = MACHINE_NONE;
		if (cl->nr == most || (!widest && is_enough(p, cl)))
			break;
		for (unsigned n = 0; n < p->m->nr_nodes; n++) {
			if (taken[n] || !capacity(p, n, fill) || !room_units(p, n))
				continue;
			sum[n] += plan_distance(p, last, n) + plan_distance(p, n, last);
			if (next == MACHINE_NONE || sum[n] < sum[next] ||
			    (sum[n] == sum[next] && capacity(p, n, fill) > capacity(p, next, fill)))
				next = n;
		}
	}
	return is_enough(p, cl);
}

static bool is_tighter(const struct cluster *a, const struct cluster *b)
{
	if (a->nr != b->nr)
		return a->nr < b->nr;
	if (a->distance != b->distance)
		return a->distance < b->distance;
	return a->vcpus < b->vcpus; /* leaves the bigger nodes to others */
}

/* Ascending: neighbours on the host become neighbours in the guest. */
static void sort_nodes(struct cluster *cl)
{
	for (unsigned i = 1; i < cl->nr; i++)
		for (unsigned j = i; j && cl->node[j] < cl->node[j - 1]; j--) {
			unsigned n = cl->node[j];

			cl->node[j] = cl->node[j - 1];
			cl->node[j - 1] = n;
		}
}

/* Idle cores below one last-level cache of a place: the step in which vCPUs are cut. */
static unsigned cache_step(const struct planner *p, unsigned node)
{
	const struct plan_place *place = &p->place[node];
	unsigned caches = 0, last = MACHINE_NONE;

	for (unsigned i = 0; i < place->nr_pus; i++) {
		const struct plan_pu *pu = &p->pu[place->first_pu + i];

		caches += pu->llc != last;
		last = pu->llc;
	}
	return caches > 1 && place->idle % caches == 0 ? place->idle / caches : 1;
}

/* As even as capacities allow, in whole caches where they are equal; each node gets one. */
static void share_vcpus(const struct planner *p, const struct cluster *cl, enum plan_fill fill,
			bool widest, unsigned *out)
{
	unsigned left = p->r->vcpus, room = 0;

	for (unsigned i = 0; i < cl->nr; i++) {
		out[i] = 0;
		room += capacity(p, cl->node[i], fill);
	}
	for (unsigned i = 0; i < cl->nr; i++) {
		unsigned cap = capacity(p, cl->node[i], fill), after = cl->nr - i - 1;
		unsigned fair = (left + after) / (after + 1), step = cache_step(p, cl->node[i]);

		room -= cap;
		if (!widest && fill == FILL_CORES)
			fair = (fair + step - 1) / step * step;
		fair = MIN(fair, left - after); /* one for each that follows */
		out[i] = MIN(fair, cap);
		if (left - out[i] > room)
			out[i] = left - room; /* the others cannot take more */
		left -= out[i];
	}
}

/* All that is cheapest, the rest from node to node; nodes that get none leave the cluster. */
static void share_cheapest(const struct planner *p, struct cluster *cl, unsigned *out)
{
	unsigned rest = p->r->vcpus, kept = 0;

	for (unsigned i = 0; i < cl->nr; i++)
		rest -= out[i] = MIN(p->place[cl->node[i]].low, rest);
	for (unsigned i = 0; i < cl->nr; i++) {
		const struct plan_place *place = &p->place[cl->node[i]];
		unsigned more = MIN(rest, place->within - place->low);

		rest -= more;
		if (!(out[i] + more))
			continue;
		cl->node[kept] = cl->node[i];
		out[kept++] = out[i] + more;
	}
	cl->nr = kept;
}

/* In proportion to vCPUs; what a node has no room for goes to those that have. Each has some. */
static bool share_memory(const struct planner *p, const struct cluster *cl, const unsigned *vcpus,
			 uint64_t *out)
{
	uint64_t units = p->r->memory_bytes / unit_bytes(p), left = units;
	unsigned seen = 0;

	for (unsigned i = 0; i < cl->nr; i++) {
		uint64_t before = units * seen / p->r->vcpus, upto;

		seen += vcpus[i];
		upto = units * seen / p->r->vcpus;
		out[i] = MIN(MAX(upto - before, 1), room_units(p, cl->node[i]));
		out[i] = MIN(out[i], left - (cl->nr - i - 1));
		left -= out[i];
	}
	for (unsigned i = 0; i < cl->nr && left; i++) {
		uint64_t more = MIN(left, room_units(p, cl->node[i]) - out[i]);

		out[i] += more;
		left -= more;
	}
	return !left;
}

static int cut_along(struct planner *p, const struct cluster *cl, const unsigned *vcpus,
		     struct plan_candidate *c)
{
	uint64_t units[PLAN_NODES_MAX];
	unsigned first = 0;

	if (!share_memory(p, cl, vcpus, units))
		return -ENOSPC;
	c->nr = 0;
	for (unsigned i = 0; i < cl->nr; i++) {
		set_guest(p, c, first, vcpus[i], units[i] * unit_bytes(p));
		c->home[i] = cl->node[i];
		first += vcpus[i];
	}
	c->hinted = true;
	return 0;
}

int plan_cut_nearest(struct planner *p, enum plan_fill fill, bool widest, struct plan_candidate *c)
{
	unsigned vcpus[PLAN_NODES_MAX];
	struct cluster best = { 0 }, cl;

	for (unsigned n = 0; n < p->m->nr_nodes; n++) {
		if (!capacity(p, n, fill) || !room_units(p, n))
			continue;
		if (grow(p, n, fill, widest, &cl) && (!best.nr || is_tighter(&cl, &best)))
			best = cl;
		if (widest && best.nr)
			break; /* all of them, wherever one starts */
	}
	if (!best.nr || best.nr > p->r->memory_bytes / unit_bytes(p))
		return -ENOSPC;
	sort_nodes(&best);
	if (fill == FILL_CHEAPEST)
		share_cheapest(p, &best, vcpus);
	else
		share_vcpus(p, &best, fill, widest, vcpus);
	return cut_along(p, &best, vcpus, c);
}

/* Memory alone decides: the nodes with most room, whether they have CPUs or not. */
int plan_cut_by_memory(struct planner *p, struct plan_candidate *c)
{
	unsigned vcpus[PLAN_NODES_MAX], most = MIN(p->r->vcpus, PLAN_NODES_MAX);
	uint64_t units = p->r->memory_bytes / unit_bytes(p);
	bool taken[MACHINE_NODES_MAX] = { false };
	struct cluster cl = { 0 };

	while (cl.units < units) {
		unsigned best = MACHINE_NONE;

		for (unsigned n = 0; n < p->m->nr_nodes; n++)
			if (!taken[n] &&
			    (best == MACHINE_NONE || room_units(p, n) > room_units(p, best)))
				best = n;
		if (best == MACHINE_NONE || cl.nr == most || !room_units(p, best))
			return -ENOSPC;
		taken[best] = true;
		cl.node[cl.nr++] = best;
		cl.units += room_units(p, best);
	}
	for (unsigned i = 0; i < cl.nr; i++)
		vcpus[i] = (unsigned)plan_share(p->r->vcpus, cl.nr, i);
	return cut_along(p, &cl, vcpus, c);
}
