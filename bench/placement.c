/*
 * placement.c - the planner's cost beside that of other ways to place a guest, on
 * synthetic machines. `make bench-placement` prints the table.
 *
 * Costs are recounted here from who was put where: the mean distance from a vCPU to
 * its memory plus the pairs of vCPUs (others' included) on one physical core. "bound"
 * is what no placement can beat: all memory local, and the fewest pairs that so many
 * vCPUs leave on this machine.
 *
 *   distrib	hwloc_distrib(), memory where most of a guest node's vCPUs are
 *   libxl	Xen's automatic placement: the fewest nodes with room, of these those with
 *		the fewest vCPUs, then with most free memory; vCPUs go round their PUs
 *   random	the mean of 50 placements by chance
 */
#include "host/linux/host_linux.h"
#include "placement/plan.h"

#include <hwloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define PUS_MAX 4096

static uint64_t seed = 1;

static unsigned draw(unsigned below)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return (unsigned)((seed >> 33) % below);
}

/* --- machines ---------------------------------------------------------------------------- */

enum shape { FLAT, LEVELS, CUBE, OPTERON };

static const struct spec {
	const char *name, *synthetic;
	enum shape shape;
	unsigned claimed_percent, holes_percent;
} specs[] = {
	{ "2 sockets, 16 cores, SMT", "package:2 numa:1(memory=64GB) l3:1 core:16 pu:2", FLAT, 0,
	  0 },
	{ "8 nodes, 16 cores, SMT", "numa:8(memory=16GB) core:16 pu:2", FLAT, 0, 0 },
	{ "4 sockets x 2 nodes x 2 L3", "package:4 numa:2(memory=32GB) l3:2 core:4 pu:2", LEVELS, 0,
	  0 },
	{ "8-node Opteron", "numa:8(memory=16GB) core:4 pu:1", OPTERON, 0, 0 },
	{ "24 nodes, 384 PUs", "package:12 numa:2(memory=32GB) core:8 pu:2", LEVELS, 0, 0 },
	{ "64 nodes, 1,024 PUs", "numa:64(memory=16GB) core:8 pu:2", CUBE, 0, 0 },
	{ "8 nodes, 40 % claimed", "numa:8(memory=16GB) core:16 pu:2", LEVELS, 40, 0 },
	{ "16 nodes, holes, 25 % claimed", "numa:16(memory=16GB) core:8 pu:2", CUBE, 25, 20 },
};

struct bed {
	struct machine_model m;
	hwloc_topology_t t;
	struct plan_claim claim;
	unsigned free; /* PUs neither closed nor claimed */
};

static unsigned distance_of(enum shape shape, unsigned i, unsigned j)
{
	static const unsigned char twisted[] = { 16, 16, 22, 16, 22, 16, 22 };

	if (i == j)
		return 10;
	switch (shape) {
	case LEVELS:
		return i / 2 == j / 2 ? 12 : i / 8 == j / 8 ? 21 : 32;
	case CUBE:
		return 14 + 4 * (unsigned)__builtin_popcount(i ^ j);
	case OPTERON:
		return twisted[(i ^ j) - 1];
	default:
		return 20;
	}
}

static int make_bed(struct bed *b, const struct spec *s)
{
	char why[256];

	*b = (struct bed){ .claim = { .owner = "others" } };
	if (host_linux_topology_from(s->synthetic, &b->m, why, sizeof(why))) {
		fprintf(stderr, "%s\n", why);
		return -1;
	}
	hwloc_topology_init(&b->t);
	hwloc_topology_set_synthetic(b->t, s->synthetic);
	hwloc_topology_load(b->t);
	for (unsigned i = 0; i < b->m.nr_nodes; i++)
		for (unsigned j = 0; j < b->m.nr_nodes; j++)
			b->m.distance[i * b->m.nr_nodes + j] = distance_of(s->shape, i, j);
	for (unsigned i = 0; i < b->m.nr_pus; i++) {
		b->m.pu[i].usable = draw(100) >= s->holes_percent;
		if (!b->m.pu[i].usable)
			continue;
		if (draw(100) < s->claimed_percent)
			pu_set_add(&b->claim.pus, b->m.pu[i].os_index);
		else
			b->free++;
	}
	return 0;
}

/* --- a placement, and what it costs ---------------------------------------------------------- */

struct placed {
	unsigned vcpus, nodes;
	unsigned pu[PLAN_VCPUS_MAX]; /* logical */
	unsigned guest[PLAN_VCPUS_MAX];
	unsigned home[PLAN_NODES_MAX];
};

static double cost_of(const struct bed *b, const struct placed *p)
{
	static unsigned ours[PUS_MAX], others[PUS_MAX];
	const struct machine_model *m = &b->m;
	double distance = 0, pairs = 0;

	memset(ours, 0, sizeof(ours));
	memset(others, 0, sizeof(others));
	for (unsigned i = 0; i < m->nr_pus; i++)
		others[m->pu[i].core] += pu_set_has(&b->claim.pus, m->pu[i].os_index);
	for (unsigned v = 0; v < p->vcpus; v++) {
		const struct machine_pu *pu = &m->pu[p->pu[v]];

		distance += machine_distance(m, pu->node, p->home[p->guest[v]]);
		pairs += others[pu->core] + ours[pu->core]++;
	}
	return distance / p->vcpus + pairs;
}

/* Memory goes where most of the guest node's vCPUs are. */
static void settle(const struct bed *b, struct placed *p)
{
	for (unsigned g = 0; g < p->nodes; g++) {
		unsigned count[MACHINE_NODES_MAX] = { 0 };

		p->home[g] = 0;
		for (unsigned v = 0; v < p->vcpus; v++)
			if (p->guest[v] == g)
				count[b->m.pu[p->pu[v]].node]++;
		for (unsigned n = 0; n < b->m.nr_nodes; n++)
			if (count[n] > count[p->home[g]])
				p->home[g] = n;
	}
}

static void begin(struct placed *p, unsigned vcpus, unsigned nodes)
{
	p->vcpus = vcpus;
	p->nodes = nodes;
	for (unsigned v = 0, g = 0, n = 0; v < vcpus; v++) {
		p->guest[v] = g;
		if (++n == vcpus / nodes + (g < vcpus % nodes)) {
			g++;
			n = 0;
		}
	}
}

/* --- the others ------------------------------------------------------------------------------- */

static void by_distrib(const struct bed *b, struct placed *p)
{
	hwloc_obj_t root = hwloc_get_root_obj(b->t);
	hwloc_cpuset_t *set = calloc(p->vcpus, sizeof(*set));

	hwloc_distrib(b->t, &root, 1, set, p->vcpus, INT32_MAX, 0);
	for (unsigned v = 0; v < p->vcpus; v++) {
		unsigned pu = machine_find_pu(&b->m, (unsigned)hwloc_bitmap_first(set[v]));

		while (!b->m.pu[pu].usable) /* it knows the whole machine only */
			pu = (pu + 1) % b->m.nr_pus;
		p->pu[v] = pu;
		hwloc_bitmap_free(set[v]);
	}
	free(set);
	settle(b, p);
}

struct rank {
	unsigned node, cpus, load;
};

static int by_load(const void *a, const void *b)
{
	const struct rank *x = a, *y = b;

	return x->load != y->load ? (x->load < y->load ? -1 : 1) : x->node < y->node ? -1 : 1;
}

/* Its candidates are sets of nodes; the best of one size is the least loaded ones. */
static void by_libxl(const struct bed *b, struct placed *p)
{
	static struct rank rank[MACHINE_NODES_MAX];
	unsigned nodes = 0, cpus = 0, pu = 0;
	struct pu_set chosen = { 0 };

	for (unsigned n = 0; n < b->m.nr_nodes; n++) {
		rank[n] = (struct rank){ .node = n };
		for (unsigned i = 0; i < b->m.nr_pus; i++) {
			if (b->m.pu[i].node != n || !b->m.pu[i].usable)
				continue;
			rank[n].cpus++;
			rank[n].load += pu_set_has(&b->claim.pus, b->m.pu[i].os_index);
		}
	}
	qsort(rank, b->m.nr_nodes, sizeof(*rank), by_load);
	for (; nodes < b->m.nr_nodes && (cpus < p->vcpus || nodes < p->nodes); nodes++) {
		cpus += rank[nodes].cpus;
		pu_set_add(&chosen, rank[nodes].node);
	}
	for (unsigned v = 0; v < p->vcpus; v++) {
		while (!b->m.pu[pu].usable || !pu_set_has(&chosen, b->m.pu[pu].node))
			pu = (pu + 1) % b->m.nr_pus;
		p->pu[v] = pu;
		pu = (pu + 1) % b->m.nr_pus;
	}
	settle(b, p);
}

static void by_chance(const struct bed *b, struct placed *p)
{
	for (unsigned v = 0; v < p->vcpus; v++) {
		do {
			p->pu[v] = draw(b->m.nr_pus);
		} while (!b->m.pu[p->pu[v]].usable);
	}
	for (unsigned g = 0; g < p->nodes; g++)
		p->home[g] = draw(b->m.nr_nodes);
}

/* --- ours ----------------------------------------------------------------------------------------
 */

static int by_planner(const struct bed *b, struct placed *p, unsigned guest_nodes, double *ms)
{
	static struct plan plan;
	struct plan_request r = { .vcpus = p->vcpus,
				  .nodes = guest_nodes,
				  .memory_bytes = p->vcpus * MIB(64),
				  .claim = &b->claim,
				  .nr_claims = 1 };
	struct timespec x, y;
	char why[256];

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &x);
	if (plan_make(&b->m, &r, &plan, why, sizeof(why))) {
		fprintf(stderr, "%s\n", why);
		return -1;
	}
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &y);
	*ms = (double)(y.tv_sec - x.tv_sec) * 1e3 + (double)(y.tv_nsec - x.tv_nsec) / 1e6;
	p->nodes = plan.nr_memory;
	for (unsigned v = 0; v < p->vcpus; v++) {
		p->pu[v] = machine_find_pu(&b->m, plan.vcpu[v].pu);
		p->guest[v] = plan.vcpu[v].guest_node;
	}
	for (unsigned g = 0; g < p->nodes; g++)
		p->home[g] = machine_find_node(&b->m, (unsigned)plan.memory[g].host_node);
	return 0;
}

/* Local memory for all, and each vCPU on the core that has fewest so far. */
static double bound(const struct bed *b, unsigned vcpus)
{
	static unsigned load[PUS_MAX], room[PUS_MAX];
	double pairs = 0;

	memset(load, 0, sizeof(load));
	memset(room, 0, sizeof(room));
	for (unsigned i = 0; i < b->m.nr_pus; i++) {
		bool claimed = pu_set_has(&b->claim.pus, b->m.pu[i].os_index);

		load[b->m.pu[i].core] += claimed;
		room[b->m.pu[i].core] += b->m.pu[i].usable && !claimed;
	}
	for (unsigned v = 0; v < vcpus; v++) {
		unsigned best = PUS_MAX;

		for (unsigned c = 0; c < b->m.nr_cores; c++)
			if (room[c] && (best == PUS_MAX || load[c] < load[best]))
				best = c;
		if (best == PUS_MAX)
			break;
		pairs += load[best]++;
		room[best]--;
	}
	return 10 + pairs;
}

/* --- the table
 * -------------------------------------------------------------------------------------- */

static int row(const struct bed *b, const char *what, unsigned vcpus, unsigned guest_nodes)
{
	static struct placed p;
	double ours, distrib, libxl, random = 0, ms = 0;
	unsigned nodes;

	begin(&p, vcpus, MAX(guest_nodes, 1));
	if (by_planner(b, &p, guest_nodes, &ms))
		return 1;
	ours = cost_of(b, &p);
	nodes = p.nodes; /* the others get the same number of guest nodes */
	begin(&p, vcpus, nodes);
	by_distrib(b, &p);
	distrib = cost_of(b, &p);
	by_libxl(b, &p);
	libxl = cost_of(b, &p);
	for (unsigned i = 0; i < 50; i++) {
		by_chance(b, &p);
		random += cost_of(b, &p) / 50;
	}
	printf("  %-24s %5u %5u %9.2f %9.2f %9.2f %9.2f %9.2f %8.2f\n", what, vcpus, nodes,
	       bound(b, vcpus), ours, distrib, libxl, random, ms);
	return 0;
}

int main(void)
{
	int bad = 0;

	printf("%-26s %5s %5s %9s %9s %9s %9s %9s %8s\n", "machine, guest", "vCPUs", "nodes",
	       "bound", "alcazar", "distrib", "libxl", "random", "ms");
	for (size_t i = 0; i < ARRAY_SIZE(specs) && !bad; i++) {
		unsigned cores_per_node;
		struct bed b;

		if (make_bed(&b, &specs[i]))
			return 1;
		printf("%s\n", specs[i].name);
		cores_per_node = b.m.nr_cores / b.m.nr_nodes;
		bad |= row(&b, "one node's cores, 3/4", MAX(cores_per_node * 3 / 4, 1), 1);
		bad |= row(&b, "one guest node, wide", cores_per_node * 3 / 2, 1);
		bad |= row(&b, "a third of free PUs", b.free / 3, 0);
		bad |= row(&b, "most free PUs", b.free * 9 / 10, 0);
		hwloc_topology_destroy(b.t);
		machine_free(&b.m);
	}
	return bad;
}
