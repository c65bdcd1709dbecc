/*
 * plan.c - the planner: where each vCPU runs and where each guest node's memory lies.
 *
 * First every guest node gets a home, a host node with room for its memory; homes
 * lie close together. Then vCPUs are dealt to PUs layer by layer: the first PU of
 * every core, then the second ones, and so on, and from the start again when
 * vCPUs outnumber PUs, which shares them evenly. Within a layer a vCPU prefers its
 * home, then whatever is nearest to it.
 */
#include "placement/plan.h"

#include <errno.h>
#include <stdio.h>

#define DISTANCE_UNKNOWN 255 /* SLIT's "unreachable" */

struct planner {
	const struct machine_model *m;
	const struct plan_request *r;
	struct plan *out;
	char *why;
	size_t why_bytes;

	unsigned home[PLAN_NODES_MAX];      /* logical host node, or MACHINE_NONE */
	unsigned next_vcpu[PLAN_NODES_MAX]; /* of each guest node: the first not placed, */
	unsigned need[PLAN_NODES_MAX];      /* and how many are left */
	unsigned cores[MACHINE_NODES_MAX];  /* of each host node, with a usable PU */
	unsigned room[MACHINE_NODES_MAX];   /* how many guest nodes' memory fits */
	uint16_t rank[PU_SET_MAX];          /* by OS index: n-th usable PU of its core */
	uint16_t load[PU_SET_MAX];          /* by OS index: vCPUs placed */
	unsigned nr_ranks;
};

/* @total cut into @parts as evenly as can be; the first ones get the remainder. */
static uint64_t share(uint64_t total, unsigned parts, unsigned i)
{
	return total / parts + (i < total % parts);
}

static int check_request(struct planner *p)
{
	const struct plan_request *r = p->r;
	const char *complaint = NULL;

	if (r->vcpus < 1 || r->vcpus > PLAN_VCPUS_MAX)
		complaint = "1 to 1024 vCPUs can be placed";
	else if (r->nodes < 1 || r->nodes > PLAN_NODES_MAX)
		complaint = "1 to 64 guest nodes can be placed";
	else if (r->nodes > r->vcpus)
		complaint = "each guest node needs a vCPU: ask for fewer nodes";
	else if (r->memory_bytes % MIB(1) || r->memory_bytes / MIB(1) < r->nodes)
		complaint = "each guest node needs memory, in whole MiB";
	if (!complaint)
		return 0;
	snprintf(p->why, p->why_bytes, "%u vCPUs, %u nodes, %llu MiB: %s", r->vcpus, r->nodes,
		 (unsigned long long)(r->memory_bytes / MIB(1)), complaint);
	return -EINVAL;
}

/* --- what the machine offers ------------------------------------------------------ */

static int survey_pus(struct planner *p)
{
	unsigned usable = 0, core = MACHINE_NONE;
	uint16_t rank = 0;

	for (unsigned i = 0; i < p->m->nr_pus; i++) {
		const struct machine_pu *pu = &p->m->pu[i];

		if (!pu->usable || pu->os_index >= PU_SET_MAX)
			continue;
		usable++;
		if (pu->core != core) {
			core = pu->core;
			rank = 0;
			if (pu->node != MACHINE_NONE)
				p->cores[pu->node]++;
		}
		p->rank[pu->os_index] = rank++;
		p->nr_ranks = MAX(p->nr_ranks, (unsigned)rank);
	}
	if (usable)
		return 0;
	snprintf(p->why, p->why_bytes, "none of the host's %u PUs may be used", p->m->nr_pus);
	return -ENOSPC;
}

static int complain_of_memory(struct planner *p, uint64_t need, unsigned room)
{
	const struct machine_node *most = NULL;

	for (unsigned i = 0; i < p->m->nr_nodes; i++) {
		const struct machine_node *n = &p->m->node[i];

		if (n->usable && (!most || n->free_bytes > most->free_bytes))
			most = n;
	}
	if (!most)
		snprintf(p->why, p->why_bytes, "no host node may be used for memory");
	else if (!room)
		snprintf(p->why, p->why_bytes,
			 "memory: %llu MiB needed on one host node, have %llu MiB free on node %u: "
			 "ask for less%s",
			 (unsigned long long)(need / MIB(1)),
			 (unsigned long long)(most->free_bytes / MIB(1)), most->os_index,
			 p->m->nr_nodes > 1 ? ", or for more guest nodes" : "");
	else
		snprintf(p->why, p->why_bytes,
			 "memory: %llu MiB needed by each of %u guest nodes, have room for %u of "
			 "them: ask for less",
			 (unsigned long long)(need / MIB(1)), p->r->nodes, room);
	return -ENOSPC;
}

static unsigned room_of(const struct planner *p, unsigned node, uint64_t need)
{
	const struct machine_node *n = &p->m->node[node];

	return n->usable ? (unsigned)MIN(n->free_bytes / need, p->r->nodes) : 0;
}

/* Nodes without a usable core are homes only where there is no other. */
static int survey_nodes(struct planner *p)
{
	uint64_t need = MIB(share(p->r->memory_bytes / MIB(1), p->r->nodes, 0));
	bool any_cores = false;
	unsigned total = 0;

	for (unsigned i = 0; i < p->m->nr_nodes; i++)
		any_cores |= p->cores[i] && p->m->node[i].usable;
	for (unsigned i = 0; i < p->m->nr_nodes; i++) {
		p->room[i] = p->cores[i] || !any_cores ? room_of(p, i, need) : 0;
		total += p->room[i];
	}
	if (p->m->nr_nodes && total < p->r->nodes)
		return complain_of_memory(p, need, total);
	return 0;
}

/* --- homes ------------------------------------------------------------------------ */

struct cluster {
	unsigned node[PLAN_NODES_MAX]; /* in the order taken */
	unsigned nr;
	uint64_t distance;
	unsigned cores;
};

/* From @start, again and again the node that is nearest to those taken. */
static void grow_cluster(const struct planner *p, unsigned start, struct cluster *c)
{
	uint64_t sum[MACHINE_NODES_MAX] = { 0 };
	bool taken[MACHINE_NODES_MAX] = { false };
	unsigned next = start;

	*c = (struct cluster){ 0 };
	while (next != MACHINE_NONE) {
		unsigned last = next;

		c->node[c->nr++] = last;
		c->distance += sum[last];
		c->cores += p->cores[last];
		taken[last] = true;
		next = MACHINE_NONE;
		if (c->nr == p->r->nodes)
			break;
		for (unsigned i = 0; i < p->m->nr_nodes; i++) {
			if (taken[i] || !p->room[i])
				continue;
			sum[i] += machine_distance(p->m, last, i);
			if (next == MACHINE_NONE || sum[i] < sum[next])
				next = i;
		}
	}
}

static unsigned cores_missing(const struct planner *p, const struct cluster *c)
{
	return c->cores < p->r->vcpus ? p->r->vcpus - c->cores : 0;
}

static bool is_better(const struct planner *p, const struct cluster *a, const struct cluster *b)
{
	unsigned a_missing = cores_missing(p, a), b_missing = cores_missing(p, b);

	if (a_missing != b_missing)
		return a_missing < b_missing;
	return a->distance < b->distance;
}

/* Neighbouring guest nodes share a home where there are too few. */
static void settle(struct planner *p, const struct cluster *c)
{
	unsigned guests[PLAN_NODES_MAX] = { 0 };
	unsigned left = p->r->nodes, g = 0;

	while (left) {
		for (unsigned i = 0; i < c->nr && left; i++) {
			if (guests[i] < p->room[c->node[i]]) {
				guests[i]++;
				left--;
			}
		}
	}
	for (unsigned i = 0; i < c->nr; i++)
		while (guests[i]--)
			p->home[g++] = c->node[i];
}

static void find_homes(struct planner *p)
{
	struct cluster best = { 0 }, c;

	for (unsigned g = 0; g < p->r->nodes; g++)
		p->home[g] = MACHINE_NONE;
	for (unsigned start = 0; start < p->m->nr_nodes; start++) {
		if (!p->room[start])
			continue;
		grow_cluster(p, start, &c);
		if (!best.nr || is_better(p, &c, &best))
			best = c;
	}
	if (best.nr)
		settle(p, &best);
}

/* --- vCPUs ------------------------------------------------------------------------ */

static int node_os_index(const struct planner *p, unsigned node)
{
	return node == MACHINE_NONE ? -1 : (int)p->m->node[node].os_index;
}

static void place(struct planner *p, unsigned guest_node, const struct machine_pu *pu)
{
	p->out->vcpu[p->next_vcpu[guest_node]++] = (struct plan_vcpu){
		.pu = pu->os_index,
		.guest_node = guest_node,
		.host_node = node_os_index(p, pu->node),
	};
	p->need[guest_node]--;
	p->load[pu->os_index]++;
}

/* Is this PU in the layer being dealt: of this rank, and not dealt in this round? */
static bool is_on_offer(const struct planner *p, const struct machine_pu *pu, unsigned round,
			unsigned rank)
{
	return pu->usable && pu->os_index < PU_SET_MAX && p->rank[pu->os_index] == rank &&
	       p->load[pu->os_index] == round;
}

static void deal_at_home(struct planner *p, unsigned round, unsigned rank)
{
	for (unsigned i = 0; i < p->m->nr_pus; i++) {
		const struct machine_pu *pu = &p->m->pu[i];

		if (!is_on_offer(p, pu, round, rank))
			continue;
		for (unsigned g = 0; g < p->r->nodes; g++) {
			if (p->need[g] && p->home[g] == pu->node) {
				place(p, g, pu);
				break;
			}
		}
	}
}

static unsigned distance_from_home(const struct planner *p, unsigned guest_node,
				   const struct machine_pu *pu)
{
	unsigned home = p->home[guest_node];

	if (home == MACHINE_NONE || pu->node == MACHINE_NONE)
		return DISTANCE_UNKNOWN;
	return machine_distance(p->m, home, pu->node);
}

static const struct machine_pu *nearest_on_offer(const struct planner *p, unsigned guest_node,
						 unsigned round, unsigned rank)
{
	const struct machine_pu *best = NULL;
	unsigned best_distance = 0;

	for (unsigned i = 0; i < p->m->nr_pus; i++) {
		const struct machine_pu *pu = &p->m->pu[i];
		unsigned distance;

		if (!is_on_offer(p, pu, round, rank))
			continue;
		distance = distance_from_home(p, guest_node, pu);
		if (!best || distance < best_distance) {
			best = pu;
			best_distance = distance;
		}
	}
	return best;
}

/* Returns how many vCPUs are still without a place. */
static unsigned deal_abroad(struct planner *p, unsigned round, unsigned rank)
{
	unsigned left = 0;

	for (unsigned g = 0; g < p->r->nodes; g++) {
		while (p->need[g]) {
			const struct machine_pu *pu = nearest_on_offer(p, g, round, rank);

			if (!pu)
				break;
			place(p, g, pu);
		}
		left += p->need[g];
	}
	return left;
}

static void deal_vcpus(struct planner *p)
{
	unsigned left = p->r->vcpus, vcpu = 0;

	for (unsigned g = 0; g < p->r->nodes; g++) {
		p->next_vcpu[g] = vcpu;
		p->need[g] = (unsigned)share(p->r->vcpus, p->r->nodes, g);
		vcpu += p->need[g];
	}
	for (unsigned round = 0; left; round++) {
		for (unsigned rank = 0; left && rank < p->nr_ranks; rank++) {
			deal_at_home(p, round, rank);
			left = deal_abroad(p, round, rank);
		}
	}
	for (unsigned i = 0; i < p->r->vcpus; i++)
		p->out->vcpu[i].shared = p->load[p->out->vcpu[i].pu] > 1;
}

static void deal_memory(struct planner *p)
{
	for (unsigned g = 0; g < p->r->nodes; g++)
		p->out->memory[g] = (struct plan_memory){
			.guest_node = g,
			.host_node = node_os_index(p, p->home[g]),
			.bytes = MIB(share(p->r->memory_bytes / MIB(1), p->r->nodes, g)),
		};
}

int plan_make(const struct machine_model *m, const struct plan_request *r, struct plan *out,
	      char *why, size_t why_bytes)
{
	struct planner p = { .m = m, .r = r, .out = out, .why = why, .why_bytes = why_bytes };
	int err = check_request(&p);

	if (!err)
		err = survey_pus(&p);
	if (!err)
		err = survey_nodes(&p);
	if (err)
		return err;
	*out = (struct plan){ .nr_vcpus = r->vcpus, .nr_memory = r->nodes };
	find_homes(&p);
	deal_vcpus(&p);
	deal_memory(&p);
	return 0;
}
