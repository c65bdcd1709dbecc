/*
 * plan_survey.c - what the machine offers: PUs by place with the load that claims and
 * pins put on them, memory by node and page size, distances of one scale.
 */
#include "placement/plan_int.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

/* --- who may be used ---------------------------------------------------------------- */

/* Claims that share with nobody close their PUs; the others are a load. */
static void load_claims(struct planner *p, bool *open)
{
	for (unsigned i = 0; i < p->m->nr_pus; i++) {
		const struct machine_pu *pu = &p->m->pu[i];

		open[i] = pu->usable && pu->os_index < PU_SET_MAX;
		for (unsigned c = 0; c < p->r->nr_claims; c++) {
			const struct plan_claim *claim = &p->r->claim[c];

			if (!pu_set_has(&claim->pus, pu->os_index))
				continue;
			p->pu_load[i]++;
			p->core_load[pu->core]++;
			if (claim->exclusive)
				open[i] = false;
		}
	}
}

/* Only cores without any load, and of each only the first PU. */
static void open_whole_cores(struct planner *p, bool *open)
{
	unsigned last = MACHINE_NONE;

	for (unsigned i = 0; i < p->m->nr_pus; i++) {
		const struct machine_pu *pu = &p->m->pu[i];

		if (!open[i])
			continue;
		open[i] = pu->core != last && !p->core_load[pu->core];
		last = pu->core;
	}
}

static const struct plan_pin *pin_of(const struct planner *p, unsigned vcpu)
{
	const struct plan_pin *found = NULL;

	for (unsigned i = 0; i < p->r->nr_pins; i++)
		if (vcpu >= p->r->pin[i].first && vcpu <= p->r->pin[i].last)
			found = &p->r->pin[i]; /* the last one counts */
	return found;
}

static int complain_of_pin(struct planner *p, unsigned vcpu, const struct plan_pin *pin)
{
	pu_set_for_each(os, &pin->pus) if (
		machine_find_pu(p->m, os) ==
		MACHINE_NONE) return plan_refuse(p, -EINVAL,
						 "vCPU %u: pinned to PU %u, which this "
						 "machine does not have: see `alcazar topology`",
						 vcpu, os);
	return plan_refuse(
		p, -EINVAL,
		"vCPU %u: none of the PUs it is pinned to may be used: they are offline, "
		"not allowed or exclusively claimed",
		vcpu);
}

/*
 * Each pinned vCPU takes the least loaded PU of its set. Those with little choice
 * come first, so that they find what others can do without.
 */
static int place_pins(struct planner *p, const bool *open, unsigned max_choice, unsigned min_choice)
{
	for (unsigned v = 0; v < p->r->vcpus; v++) {
		const struct plan_pin *pin = pin_of(p, v);
		unsigned best = MACHINE_NONE, choice = pin ? pu_set_count(&pin->pus) : 0;

		if (!pin || choice > max_choice || choice < min_choice)
			continue;
		for (unsigned i = 0; i < p->m->nr_pus; i++) {
			if (!open[i] || !pu_set_has(&pin->pus, p->m->pu[i].os_index))
				continue;
			if (best == MACHINE_NONE || p->pu_load[i] < p->pu_load[best] ||
			    (p->pu_load[i] == p->pu_load[best] &&
			     p->core_load[p->m->pu[i].core] < p->core_load[p->m->pu[best].core]))
				best = i;
		}
		if (best == MACHINE_NONE)
			return complain_of_pin(p, v, pin);
		p->pinned[v] = best;
		p->pu_load[best]++;
		p->core_load[p->m->pu[best].core]++;
		p->nr_pinned++;
	}
	return 0;
}

static int take_pins(struct planner *p, const bool *open)
{
	static const unsigned choice[] = { 0, 1, 2, 4, 8, 16, 64, PU_SET_MAX };
	int err = 0;

	for (unsigned v = 0; v < PLAN_VCPUS_MAX; v++)
		p->pinned[v] = MACHINE_NONE;
	for (size_t i = 0; i < ARRAY_SIZE(choice) && !err; i++)
		err = place_pins(p, open, choice[i], i ? choice[i - 1] + 1 : 0);
	return err;
}

/* --- places ------------------------------------------------------------------------- */

static unsigned place_of(const struct planner *p, unsigned pu)
{
	unsigned node = p->m->pu[pu].node;

	return node == MACHINE_NONE ? p->m->nr_nodes : node;
}

static void gather_pus(struct planner *p, const bool *open)
{
	for (unsigned n = 0; n < p->nr_places; n++) {
		struct plan_place *place = &p->place[n];
		unsigned last_core = MACHINE_NONE;

		place->first_pu = p->nr_pus;
		for (unsigned i = 0; i < p->m->nr_pus; i++) {
			const struct machine_pu *pu = &p->m->pu[i];

			if (place_of(p, i) != n)
				continue;
			place->taken += p->pu_load[i];
			if (!open[i])
				continue;
			place->cores += pu->core != last_core;
			place->idle += pu->core != last_core && !p->core_load[pu->core];
			place->free += !p->pu_load[i];
			last_core = pu->core;
			p->pu[p->nr_pus++] = (struct plan_pu){
				.index = i, .core = pu->core, .llc = pu->llc, .load = p->pu_load[i]
			};
		}
		place->nr_pus = p->nr_pus - place->first_pu;
	}
}

/* How many vCPUs fit if no PU carries more than @level; of all places or of one. */
static uint64_t fits_below(const struct plan_pu *pu, unsigned nr, unsigned level)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < nr; i++)
		sum += level > pu[i].load ? level - pu[i].load : 0;
	return sum;
}

/* What the dearest vCPU costs when all take what is cheapest, wherever it is. */
static int64_t dearest_taken(const struct planner *p, unsigned nr_segs, unsigned vcpus)
{
	int64_t cost = -1;

	for (unsigned taken = 0; taken < vcpus;) {
		int64_t next = COST_NONE;

		for (unsigned i = 0; i < nr_segs; i++)
			if (p->seg[i].cost > cost)
				next = MIN(next, p->seg[i].cost);
		if (next == COST_NONE)
			break;
		cost = next;
		for (unsigned i = 0; i < nr_segs; i++)
			taken += p->seg[i].cost == cost ? p->seg[i].cap : 0;
	}
	return cost;
}

static void find_cheapest(struct planner *p, unsigned nr_segs, unsigned vcpus)
{
	int64_t dearest = dearest_taken(p, nr_segs, vcpus);

	for (unsigned n = 0; n < p->nr_places; n++) {
		struct plan_place *place = &p->place[n];

		for (unsigned i = 0; i < place->nr_segs; i++) {
			const struct plan_seg *s = &p->seg[place->first_seg + i];

			place->low += s->cost < dearest ? s->cap : 0;
			place->within += s->cost <= dearest ? s->cap : 0;
		}
	}
}

static int make_segs(struct planner *p)
{
	unsigned loose = p->r->vcpus - p->nr_pinned, nr = 0;
	size_t most = 0;

	for (unsigned i = 0; i < p->nr_pus; i++)
		p->free_pus += !p->pu[i].load;
	for (p->level = 1; fits_below(p->pu, p->nr_pus, p->level) < loose;)
		p->level++;
	for (unsigned n = 0; n < p->nr_places; n++) {
		struct plan_place *place = &p->place[n];

		place->cap =
			(unsigned)MIN(fits_below(p->pu + place->first_pu, place->nr_pus, p->level),
				      loose);
		most += place->cap;
	}
	p->seg = calloc(most + 1, sizeof(*p->seg));
	if (!p->seg)
		return -ENOMEM;
	for (unsigned n = 0; n < p->nr_places; n++) {
		struct plan_place *place = &p->place[n];

		place->first_seg = nr;
		place->nr_segs = plan_deal_segs(p, place, place->cap, p->seg + nr);
		nr += place->nr_segs;
	}
	find_cheapest(p, nr, loose);
	return 0;
}

/* --- memory and distances ------------------------------------------------------------- */

/* What is free, less what claims have of it, in pages of one size. */
static uint64_t room_left(const struct planner *p, unsigned os_index, uint64_t page_bytes,
			  uint64_t free_bytes)
{
	for (unsigned c = 0; c < p->r->nr_claims; c++)
		for (unsigned i = 0; i < p->r->claim[c].nr_memory; i++) {
			const struct plan_claim_memory *m = &p->r->claim[c].memory[i];

			if (m->host_node == os_index && m->page_bytes == page_bytes)
				free_bytes -= MIN(free_bytes, m->bytes);
		}
	return free_bytes;
}

/* Page sizes are told apart by what the first node that has any says. */
static void find_page_kinds(struct planner *p)
{
	unsigned nr = 1;

	for (unsigned n = 0; n < p->m->nr_nodes; n++)
		for (unsigned i = 0; i < MACHINE_PAGE_SIZES; i++) {
			uint64_t bytes = p->m->node[n].huge[i].bytes;

			if (bytes && plan_page_kind(p, bytes) == PAGE_KINDS && nr < PAGE_KINDS)
				p->page_bytes[nr++] = bytes;
		}
}

unsigned plan_page_kind(const struct planner *p, uint64_t page_bytes)
{
	if (!mem_pages_reserved(page_bytes))
		return 0;
	for (unsigned k = 1; k < PAGE_KINDS; k++)
		if (p->page_bytes[k] == page_bytes)
			return k;
	return PAGE_KINDS;
}

static void survey_memory(struct planner *p)
{
	find_page_kinds(p);
	for (unsigned n = 0; n < p->m->nr_nodes; n++) {
		const struct machine_node *node = &p->m->node[n];

		if (!node->usable)
			continue;
		p->room[0][n] = room_left(p, node->os_index, 0, node->free_bytes);
		for (unsigned i = 0; i < MACHINE_PAGE_SIZES; i++) {
			uint64_t bytes = node->huge[i].bytes;

			if (bytes)
				p->room[plan_page_kind(p, bytes)][n] =
					room_left(p, node->os_index, bytes,
						  bytes * node->huge[i].free);
		}
	}
	for (unsigned k = 0; k < PAGE_KINDS; k++) {
		memcpy(p->have[k], p->room[k], p->m->nr_nodes * sizeof(*p->have[k]));
		for (unsigned n = 0; n < p->m->nr_nodes; n++)
			if (p->roomy && p->m->node[n].usable)
				p->room[k][n] = MAX(p->room[k][n], p->r->memory_bytes);
	}
}

/* One scale for all machines: the nearest memory is 10 away, whatever they call it. */
static void survey_distances(struct planner *p)
{
	unsigned nodes = p->m->nr_nodes, local = 0;

	for (unsigned n = 0; n < nodes; n++) {
		unsigned d = machine_distance(p->m, n, n);

		if (d && (!local || d < local))
			local = d;
	}
	for (unsigned place = 0; place < p->nr_places; place++) {
		for (unsigned n = 0; n < nodes; n++) {
			uint64_t d = DISTANCE_FAR * COST_UNIT;

			if (place < nodes && local)
				d = machine_distance(p->m, place, n) * 10ull * COST_UNIT / local;
			p->distance[(size_t)place * nodes + n] =
				(int64_t)MIN(d, DISTANCE_FAR * 16ull * COST_UNIT);
		}
	}
}

/* --- all of it ------------------------------------------------------------------------ */

static int allocate(struct planner *p)
{
	size_t places = p->nr_places = p->m->nr_nodes + 1;
	size_t pus = p->m->nr_pus, nodes = p->m->nr_nodes;
	bool ok;

	p->place = calloc(places, sizeof(*p->place));
	p->pu = calloc(pus, sizeof(*p->pu));
	p->core_load = calloc(MAX((size_t)p->m->nr_cores, pus), sizeof(*p->core_load));
	p->pu_load = calloc(pus, sizeof(*p->pu_load));
	p->distance = calloc(places * nodes + 1, sizeof(*p->distance));
	p->flow.at = calloc(PLAN_NODES_MAX, sizeof(*p->flow.at));
	p->flow.guests = calloc(places, sizeof(*p->flow.guests));
	p->flow.load = calloc(places, sizeof(*p->flow.load));
	p->path = calloc(places, sizeof(*p->path));
	p->from_place = calloc(places, sizeof(*p->from_place));
	p->from_guest = calloc(places, sizeof(*p->from_guest));
	p->deal_load = calloc(pus, sizeof(*p->deal_load));
	p->deal_core = calloc(pus, sizeof(*p->deal_core));
	ok = p->place && p->pu && p->core_load && p->pu_load && p->distance && p->flow.at &&
	     p->flow.guests && p->flow.load && p->path && p->from_place && p->from_guest &&
	     p->deal_load && p->deal_core;
	for (unsigned k = 0; k < PAGE_KINDS; k++) {
		p->room[k] = calloc(nodes + 1, sizeof(*p->room[k]));
		p->have[k] = calloc(nodes + 1, sizeof(*p->have[k]));
		ok = ok && p->room[k] && p->have[k];
	}
	return ok ? 0 : -ENOMEM;
}

void plan_survey_free(struct planner *p)
{
	free(p->place);
	free(p->pu);
	free(p->seg);
	free(p->core_load);
	free(p->pu_load);
	free(p->distance);
	free(p->flow.at);
	free(p->flow.guests);
	free(p->flow.load);
	free(p->path);
	free(p->from_place);
	free(p->from_guest);
	free(p->deal_load);
	free(p->deal_core);
	for (unsigned k = 0; k < PAGE_KINDS; k++) {
		free(p->room[k]);
		free(p->have[k]);
	}
}

static int check_room_for_vcpus(struct planner *p)
{
	unsigned loose = p->r->vcpus - p->nr_pinned;

	if (!loose)
		return 0;
	if (p->r->policy == PLAN_ISOLATE && p->nr_pus < loose)
		return plan_refuse(p, -ENOSPC,
				   "policy isolate: %u vCPUs need as many idle cores, have %u: ask "
				   "for fewer, or for --policy balanced",
				   loose, p->nr_pus);
	if (p->nr_pus)
		return 0;
	return plan_refuse(p, -ENOSPC, "none of the host's %u PUs may be used%s", p->m->nr_pus,
			   p->r->nr_claims ? ": others claim them exclusively" : "");
}

int plan_survey(struct planner *p)
{
	bool *open = calloc(p->m->nr_pus, sizeof(*open));
	int err = open ? allocate(p) : -ENOMEM;

	if (!err) {
		load_claims(p, open);
		err = take_pins(p, open);
	}
	if (!err) {
		if (p->r->policy == PLAN_ISOLATE)
			open_whole_cores(p, open);
		gather_pus(p, open);
		survey_memory(p);
		survey_distances(p);
		err = check_room_for_vcpus(p);
	}
	free(open);
	return err ? err : make_segs(p);
}
