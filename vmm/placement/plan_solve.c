/*
 * plan_solve.c - homes for given guest nodes.
 *
 * For given homes the best spread of vCPUs over places is a flow of least cost:
 * from guest nodes (so many vCPUs) to places (so far from the home) to PUs (each
 * next one dearer, plan_deal.c). Shortest augmenting paths find it exactly, in a
 * number of steps that depends on nodes, not on vCPUs.
 *
 * Homes are searched for: greedily from every start, then by moving one or
 * two homes and swapping while that helps, with a few kicks out of local optima; few combinations
 * are all tried. A lower bound ends the search early, a budget of steps ends it always. Nothing
 * here is exponential: fitting unequal memory into nodes is tried for a bounded number of steps
 * when the greedy ways fail.
 */
#include "placement/plan_int.h"

#include <errno.h>

#define NO_PLACE     UINT32_MAX
#define SOLVE_BUDGET 3000000
#define FIT_STEPS    200000
#define BEST_STARTS  4
#define TRY_ALL_MAX  1024
#define KICKS        24

/* --- the flow ------------------------------------------------------------------------- */

static const struct plan_seg *next_seg(const struct planner *p, unsigned place, unsigned *left)
{
	const struct plan_place *pl = &p->place[place];
	unsigned load = p->flow.load[place];

	for (unsigned i = 0; i < pl->nr_segs; i++) {
		const struct plan_seg *s = &p->seg[pl->first_seg + i];

		if (load < s->cap) {
			*left = s->cap - load;
			return s;
		}
		load -= s->cap;
	}
	return NULL;
}

/* The place where @guest's next vCPU is cheapest, by the way in path[]. */
static unsigned best_end(const struct planner *p, int64_t *cost, unsigned *room)
{
	unsigned best = NO_PLACE;

	for (unsigned n = 0; n < p->nr_places; n++) {
		unsigned left = 0;
		const struct plan_seg *s = p->place[n].nr_pus ? next_seg(p, n, &left) : NULL;

		if (!s || (best != NO_PLACE && p->path[n] + s->cost >= *cost))
			continue;
		best = n;
		*cost = p->path[n] + s->cost;
		*room = left;
	}
	return best;
}

/* Straight ways; returns the shortest. */
static int64_t begin_paths(struct planner *p, unsigned guest, unsigned home)
{
	int64_t least = COST_NONE;

	for (unsigned n = 0; n < p->nr_places; n++) {
		p->from_place[n] = NO_PLACE;
		p->from_guest[n] = guest;
		p->path[n] = plan_distance(p, n, home);
		if (p->place[n].nr_pus)
			least = MIN(least, p->path[n]);
	}
	p->budget -= p->nr_places;
	return least;
}

/* Ways from @n on: another guest's vCPU there makes room by moving elsewhere. */
static bool relax_from(struct planner *p, const struct plan_candidate *c, unsigned n)
{
	bool changed = false;

	for (uint64_t set = p->flow.guests[n]; set; set &= set - 1) {
		unsigned g = (unsigned)__builtin_ctzll(set), home = c->home[g];
		int64_t base = p->path[n] - plan_distance(p, n, home);

		for (unsigned to = 0; to < p->nr_places; to++) {
			int64_t d = base + plan_distance(p, to, home);

			if (to == n || !p->place[to].nr_pus || d >= p->path[to])
				continue;
			p->path[to] = d;
			p->from_place[to] = n;
			p->from_guest[to] = g;
			changed = true;
		}
		p->budget -= p->nr_places;
	}
	return changed;
}

static void find_paths(struct planner *p, const struct plan_candidate *c)
{
	bool changed = true;

	for (unsigned round = 0; changed && round < p->nr_places; round++) {
		changed = false;
		for (unsigned n = 0; n < p->nr_places; n++)
			if (p->flow.guests[n] && p->place[n].nr_pus)
				changed |= relax_from(p, c, n);
	}
}

static void move_some(struct planner *p, unsigned guest, unsigned from, unsigned to, unsigned count)
{
	struct plan_flow *f = &p->flow;

	if (from != NO_PLACE) {
		f->at[guest][from] = (uint16_t)(f->at[guest][from] - count);
		if (!f->at[guest][from])
			f->guests[from] &= ~BIT64(guest);
	}
	f->at[guest][to] = (uint16_t)(f->at[guest][to] + count);
	f->guests[to] |= BIT64(guest);
}

/* Along the way that ends at @end, as many as all of it can carry. */
static unsigned augment(struct planner *p, unsigned guest, unsigned end, unsigned most)
{
	for (unsigned n = end; p->from_place[n] != NO_PLACE; n = p->from_place[n])
		most = MIN(most, p->flow.at[p->from_guest[n]][p->from_place[n]]);
	for (unsigned n = end;;) {
		unsigned from = p->from_place[n];

		move_some(p, p->from_guest[n], from, n, most);
		if (from == NO_PLACE)
			break;
		n = from;
	}
	p->flow.load[end] += most;
	return most;
}

static void clear_flow(struct planner *p, const struct plan_candidate *c)
{
	for (unsigned g = 0; g < c->nr; g++)
		memset(p->flow.at[g], 0, p->nr_places * sizeof(p->flow.at[g][0]));
	memset(p->flow.guests, 0, p->nr_places * sizeof(*p->flow.guests));
	memset(p->flow.load, 0, p->nr_places * sizeof(*p->flow.load));
}

static int64_t cheapest_pu(const struct planner *p)
{
	int64_t least = COST_NONE;

	for (unsigned n = 0; n < p->nr_places; n++) {
		unsigned left;
		const struct plan_seg *s = p->place[n].nr_pus ? next_seg(p, n, &left) : NULL;

		if (s)
			least = MIN(least, s->cost);
	}
	return least;
}

static int64_t pin_cost(const struct planner *p, const struct plan_candidate *c)
{
	int64_t sum = 0;
	unsigned v = 0;

	if (!p->nr_pinned)
		return 0;
	for (unsigned g = 0; g < c->nr; g++) {
		for (unsigned i = 0; i < c->guest[g].vcpus; i++, v++) {
			unsigned pu = p->pinned[v], node;

			if (pu == MACHINE_NONE)
				continue;
			node = p->m->pu[pu].node;
			sum += plan_distance(p, node == MACHINE_NONE ? p->m->nr_nodes : node,
					     c->home[g]);
		}
	}
	return sum;
}

/*
 * While every vCPU so far is as near as its guest node can be, making room costs
 * something: a straight way that is nearest and cheapest of all needs no search.
 */
int64_t plan_flow(struct planner *p, const struct plan_candidate *c)
{
	int64_t sum = pin_cost(p, c);
	bool all_near = true;

	clear_flow(p, c);
	for (unsigned g = 0; g < c->nr; g++) {
		for (unsigned left = c->guest[g].loose; left;) {
			int64_t nearest = begin_paths(p, g, c->home[g]), cost = 0;
			unsigned room = 0, end = best_end(p, &cost, &room), count;

			if (!all_near || cost > nearest + cheapest_pu(p)) {
				find_paths(p, c);
				end = best_end(p, &cost, &room);
				all_near = false;
			}
			count = augment(p, g, end, MIN(left, room));
			left -= count;
			sum += cost * count;
		}
	}
	return sum;
}

/* --- does it fit? ----------------------------------------------------------------------- */

struct room {
	uint64_t left[PAGE_KINDS][MACHINE_NODES_MAX];
};

static void room_begin(const struct planner *p, struct room *r)
{
	for (unsigned k = 0; k < PAGE_KINDS; k++)
		memcpy(r->left[k], p->room[k], p->m->nr_nodes * sizeof(r->left[k][0]));
}

static bool may_live(const struct room *r, const struct plan_guest *g, unsigned node)
{
	return (g->must_home == MACHINE_NONE || g->must_home == node) &&
	       r->left[g->kind][node] >= g->bytes;
}

bool plan_homes_fit(const struct planner *p, const struct plan_candidate *c)
{
	struct room r;

	if (!p->m->nr_nodes)
		return true;
	room_begin(p, &r);
	for (unsigned g = 0; g < c->nr; g++) {
		const struct plan_guest *guest = &c->guest[g];

		if (c->home[g] == MACHINE_NONE || !may_live(&r, guest, c->home[g]))
			return false;
		r.left[guest->kind][c->home[g]] -= guest->bytes;
	}
	return true;
}

/* Big ones first. */
static void order_guests(const struct plan_candidate *c, unsigned *order)
{
	for (unsigned g = 0; g < c->nr; g++) {
		unsigned at = g;

		while (at && c->guest[order[at - 1]].bytes < c->guest[g].bytes) {
			order[at] = order[at - 1];
			at--;
		}
		order[at] = g;
	}
}

struct fit {
	const struct planner *p;
	struct plan_candidate *c;
	unsigned order[PLAN_NODES_MAX];
	struct room room;
	unsigned steps;
};

static bool fit_from(struct fit *f, unsigned depth)
{
	unsigned g;

	if (depth == f->c->nr)
		return true;
	g = f->order[depth];
	for (unsigned n = 0; n < f->p->m->nr_nodes && f->steps; n++) {
		const struct plan_guest *guest = &f->c->guest[g];
		uint64_t *left = f->room.left[guest->kind];

		if (!may_live(&f->room, guest, n))
			continue;
		f->steps--;
		left[n] -= guest->bytes;
		f->c->home[g] = n;
		if (fit_from(f, depth + 1))
			return true;
		left[n] += guest->bytes;
	}
	return false;
}

static bool find_any_fit(const struct planner *p, struct plan_candidate *c)
{
	struct fit f = { .p = p, .c = c, .steps = FIT_STEPS };

	room_begin(p, &f.room);
	order_guests(c, f.order);
	return fit_from(&f, 0);
}

/* --- the search --------------------------------------------------------------------------- */

/* How badly node @n suits guest @g, beside the homes chosen so far. */
static int64_t misfit(const struct planner *p, const struct plan_candidate *c, unsigned g,
		      unsigned n, const unsigned *idle)
{
	unsigned lack = c->guest[g].loose > idle[n] ? c->guest[g].loose - idle[n] : 0, others = 0;
	int64_t sum = 0;
	bool stacked = false;

	for (unsigned o = 0; o < c->nr; o++) {
		if (c->home[o] == MACHINE_NONE)
			continue;
		others++;
		stacked |= c->home[o] == n;
		sum += plan_distance(p, c->home[o], n);
	}
	return lack * (int64_t)1000000 + (stacked ? 500000 : 0) + (others ? sum / others : 0);
}

/* The first guest at @start, each next one where it fits best. */
static bool greedy_homes(const struct planner *p, struct plan_candidate *c, unsigned start)
{
	unsigned order[PLAN_NODES_MAX], idle[MACHINE_NODES_MAX];
	struct room r;

	room_begin(p, &r);
	order_guests(c, order);
	for (unsigned n = 0; n < p->m->nr_nodes; n++)
		idle[n] = p->place[n].idle;
	for (unsigned g = 0; g < c->nr; g++)
		c->home[g] = MACHINE_NONE;
	for (unsigned i = 0; i < c->nr; i++) {
		unsigned g = order[i], best = MACHINE_NONE;
		int64_t least = 0;

		for (unsigned n = i ? 0 : start; n < (i ? p->m->nr_nodes : start + 1); n++) {
			int64_t bad;

			if (!may_live(&r, &c->guest[g], n))
				continue;
			bad = misfit(p, c, g, n, idle);
			if (best == MACHINE_NONE || bad < least) {
				best = n;
				least = bad;
			}
		}
		if (best == MACHINE_NONE)
			return false;
		c->home[g] = best;
		idle[best] -= MIN(idle[best], c->guest[g].loose);
		r.left[c->guest[g].kind][best] -= c->guest[g].bytes;
	}
	return true;
}

/* No homes can make it cheaper than this. */
static int64_t lower_bound(struct planner *p, const struct plan_candidate *c)
{
	int64_t near = COST_NONE, sum = 0;
	unsigned loose = 0;

	for (unsigned n = 0; n < p->nr_places; n++)
		for (unsigned h = 0; h < p->m->nr_nodes && p->place[n].nr_pus; h++)
			near = MIN(near, plan_distance(p, n, h));
	for (unsigned g = 0; g < c->nr; g++)
		loose += c->guest[g].loose;
	memset(p->flow.load, 0, p->nr_places * sizeof(*p->flow.load));
	while (loose) {
		unsigned best = NO_PLACE, room = 0;
		int64_t cost = 0;

		for (unsigned n = 0; n < p->nr_places; n++)
			p->path[n] = 0;
		best = best_end(p, &cost, &room);
		room = MIN(room, loose);
		p->flow.load[best] += room;
		loose -= room;
		sum += (cost + near) * room;
	}
	return sum;
}

static struct plan_score score_of(struct planner *p, const struct plan_candidate *c)
{
	struct plan_score s = { .primary = plan_flow(p, c) };

	s.minor = plan_minor(p, c);
	return s;
}

/* Takes c->home[] if it is better than @best, puts @old back otherwise. */
static bool try_homes(struct planner *p, struct plan_candidate *c, struct plan_score *best)
{
	struct plan_score s;

	if (!plan_homes_fit(p, c))
		return false;
	s = score_of(p, c);
	if (!plan_better(&s, best))
		return false;
	*best = s;
	return true;
}

static bool try_move(struct planner *p, struct plan_candidate *c, unsigned g, unsigned to,
		     struct plan_score *best)
{
	unsigned old = c->home[g];

	if (old == to)
		return false;
	c->home[g] = to;
	if (try_homes(p, c, best))
		return true;
	c->home[g] = old;
	return false;
}

static bool try_swap(struct planner *p, struct plan_candidate *c, unsigned a, unsigned b,
		     struct plan_score *best)
{
	unsigned home_a = c->home[a], home_b = c->home[b];

	if (home_a == home_b)
		return false;
	c->home[a] = home_b;
	c->home[b] = home_a;
	if (try_homes(p, c, best))
		return true;
	c->home[a] = home_a;
	c->home[b] = home_b;
	return false;
}

/* Both move, wherever. */
static bool try_pair(struct planner *p, struct plan_candidate *c, unsigned a, unsigned b,
		     struct plan_score *best)
{
	unsigned home_a = c->home[a], home_b = c->home[b], nodes = p->m->nr_nodes;

	for (unsigned i = 0; i < nodes * nodes && p->budget > 0; i++) {
		c->home[a] = i / nodes;
		c->home[b] = i % nodes;
		if (c->home[a] != home_a && c->home[b] != home_b && try_homes(p, c, best))
			return true;
	}
	c->home[a] = home_a;
	c->home[b] = home_b;
	return false;
}

/* Few combinations are simply tried, all of them. */
static bool try_all(struct planner *p, struct plan_candidate *c, struct plan_score *best)
{
	unsigned nodes = p->m->nr_nodes, homes[PLAN_NODES_MAX];
	uint64_t all = 1;

	for (unsigned g = 0; g < c->nr; g++) {
		all *= nodes;
		if (all > TRY_ALL_MAX)
			return false;
	}
	memcpy(homes, c->home, sizeof(homes));
	for (unsigned i = 0; i < all; i++) {
		for (unsigned g = 0, rest = i; g < c->nr; g++, rest /= nodes)
			c->home[g] = rest % nodes;
		if (try_homes(p, c, best))
			memcpy(homes, c->home, sizeof(homes));
	}
	memcpy(c->home, homes, sizeof(homes));
	return true;
}

static void improve(struct planner *p, struct plan_candidate *c, struct plan_score *best,
		    int64_t bound)
{
	bool better = true;

	while (better && best->primary > bound && p->budget > 0) {
		better = false;
		for (unsigned g = 0; g < c->nr; g++) {
			for (unsigned n = 0; n < p->m->nr_nodes && p->budget > 0; n++)
				better |= try_move(p, c, g, n, best);
			for (unsigned o = 0; o < g && p->budget > 0; o++)
				better |= try_swap(p, c, g, o, best);
		}
		for (unsigned g = 0; g < c->nr && !better; g++)
			for (unsigned o = 0; o < g && p->budget > 0; o++)
				better |= try_pair(p, c, g, o, best);
	}
}

struct start {
	struct plan_score score;
	unsigned home[PLAN_NODES_MAX];
};

static void keep_start(struct start *kept, unsigned *nr, const struct plan_candidate *c,
		       const struct plan_score *score)
{
	unsigned at = *nr;

	if (at == BEST_STARTS && !plan_better(score, &kept[at - 1].score))
		return;
	if (at < BEST_STARTS)
		(*nr)++;
	else
		at--;
	for (; at && plan_better(score, &kept[at - 1].score); at--)
		kept[at] = kept[at - 1];
	kept[at].score = *score;
	memcpy(kept[at].home, c->home, sizeof(c->home));
}

/* A proposal that reaches the bound is taken as it is: cuts propose good ones. */
static unsigned collect_starts(struct planner *p, struct plan_candidate *c, struct start *kept,
			       int64_t bound)
{
	struct plan_score s;
	unsigned nr = 0;

	if (c->hinted && plan_homes_fit(p, c)) {
		s = score_of(p, c);
		keep_start(kept, &nr, c, &s);
		if (s.primary <= bound)
			return nr;
	}
	for (unsigned n = 0; n < p->m->nr_nodes && (p->budget > 0 || !nr); n++) {
		if (!greedy_homes(p, c, n))
			continue;
		s = score_of(p, c);
		keep_start(kept, &nr, c, &s);
	}
	if (!nr && find_any_fit(p, c)) {
		s = score_of(p, c);
		keep_start(kept, &nr, c, &s);
	}
	return nr;
}

static unsigned draw(uint64_t *seed, unsigned below)
{
	*seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
	return (unsigned)((*seed >> 33) % below);
}

/* Leaves a local optimum: three homes by chance (the same each time), and on from there. */
static void kick(struct planner *p, struct plan_candidate *c, struct start *best, uint64_t *seed,
		 int64_t bound)
{
	struct plan_score s;

	memcpy(c->home, best->home, sizeof(c->home));
	for (unsigned i = 0; i < 3; i++)
		c->home[draw(seed, c->nr)] = draw(seed, p->m->nr_nodes);
	if (!plan_homes_fit(p, c))
		return;
	s = score_of(p, c);
	improve(p, c, &s, bound);
	if (!plan_better(&s, &best->score))
		return;
	best->score = s;
	memcpy(best->home, c->home, sizeof(c->home));
}

int plan_solve(struct planner *p, struct plan_candidate *c, struct plan_score *score)
{
	uint64_t seed = 1;
	struct start kept[BEST_STARTS];
	unsigned nr, best = 0;
	int64_t bound;

	if (!p->m->nr_nodes) {
		for (unsigned g = 0; g < c->nr; g++)
			c->home[g] = MACHINE_NONE;
		*score = score_of(p, c);
		return 0;
	}
	p->budget = SOLVE_BUDGET;
	bound = lower_bound(p, c);
	nr = collect_starts(p, c, kept, bound);
	if (!nr)
		return -ENOSPC;
	memcpy(c->home, kept[0].home, sizeof(c->home));
	if (kept[0].score.primary > bound && try_all(p, c, &kept[0].score)) {
		*score = kept[0].score;
		return 0;
	}
	for (unsigned i = 0; i < nr; i++) {
		memcpy(c->home, kept[i].home, sizeof(c->home));
		improve(p, c, &kept[i].score, bound);
		memcpy(kept[i].home, c->home, sizeof(c->home));
		if (plan_better(&kept[i].score, &kept[best].score))
			best = i;
	}
	for (unsigned i = 0; i < KICKS && kept[best].score.primary > bound && p->budget > 0; i++)
		kick(p, c, &kept[best], &seed, bound);
	*score = kept[best].score;
	memcpy(c->home, kept[best].home, sizeof(c->home));
	return 0;
}
