/*
 * topology.c - builds the guest's topology from what was asked.
 *
 * The tree is machine, package, die, core, thread; a die is the domain of one
 * last-level cache. Nodes are made of whole dies, so that no cache crosses a
 * node: a node holds one or more packages, or a package holds several nodes of
 * one or more dies each. vCPUs are dealt evenly, in order, to nodes and then to
 * the node's dies; the first ones of uneven counts get one more.
 */
#include "boot/topology.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#define LINE_BYTES 64
#define WAYS_MAX   1024 /* CPUID leaf 4 has ten bits */

#define APIC_ID_BITS 15 /* what interrupt messages can address */

/* What local memory is taken for where nobody has measured: only ratios matter to guests. */
#define LOCAL_NS  100
#define LOCAL_MBS 20000

struct builder {
	struct topology *t;
	const struct topo_request *r;
	char *why;
	size_t why_bytes;
};

static int __printf(2, 3) refuse(struct builder *b, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(b->why, b->why_bytes, fmt, ap);
	va_end(ap);
	return -EINVAL;
}

/* How many of @total the @i-th of @parts gets. */
static unsigned share(unsigned total, unsigned parts, unsigned i)
{
	return total / parts + (i < total % parts);
}

static unsigned bits_for(unsigned count)
{
	unsigned bits = 0;

	while ((1u << bits) < count)
		bits++;
	return bits;
}

static int check_counts(struct builder *b)
{
	const struct topo_request *r = b->r;

	if (r->vcpus < 1 || r->vcpus > TOPO_VCPUS_MAX)
		return refuse(b, "%u vCPUs: a machine has 1 to %u", r->vcpus, TOPO_VCPUS_MAX);
	if (r->nodes < 1 || r->nodes > TOPO_NODES_MAX)
		return refuse(b, "%u nodes: a machine has 1 to %u", r->nodes, TOPO_NODES_MAX);
	if (r->nodes > r->vcpus && !r->position)
		return refuse(b, "%u nodes for %u vCPUs: each node needs one", r->nodes, r->vcpus);
	if (MAX(MAX(r->packages, r->dies), MAX(r->cores, r->threads)) > TOPO_VCPUS_MAX)
		return refuse(b, "%u packages, %u dies, %u cores, %u threads: at most %u each",
			      r->packages, r->dies, r->cores, r->threads, TOPO_VCPUS_MAX);
	return 0;
}

/* Packages, dies, cores and threads: those asked for, or the plainest that fit. */
static int choose_shape(struct builder *b)
{
	const struct topo_request *r = b->r;
	struct topology *t = b->t;
	unsigned dies_per_node, nodes_per_package, smallest, largest, cores;

	t->nr_packages = r->packages ? r->packages : r->nodes;
	if (t->nr_packages % r->nodes && r->nodes % t->nr_packages)
		return refuse(b, "%u packages and %u nodes: one must be a multiple of the other",
			      t->nr_packages, r->nodes);
	nodes_per_package = MAX(r->nodes / t->nr_packages, 1);
	t->dies = r->dies ? r->dies : nodes_per_package;
	if (t->dies % nodes_per_package)
		return refuse(b, "%u dies per package: its %u nodes must have equally many",
			      t->dies, nodes_per_package);

	dies_per_node = t->nr_packages * t->dies / r->nodes;
	largest = share(share(r->vcpus, r->nodes, 0), dies_per_node, 0);
	smallest = r->vcpus / r->nodes / dies_per_node;
	if (!smallest)
		return refuse(b, "%u vCPUs on %u packages of %u dies: some would be empty",
			      r->vcpus, t->nr_packages, t->dies);
	t->threads = r->threads ? r->threads : 1;
	if (t->threads > largest)
		return refuse(b, "%u threads per core: a die has %u vCPUs", t->threads, largest);
	cores = (largest + t->threads - 1) / t->threads;
	if (r->cores && r->cores != cores)
		return refuse(
			b,
			"%u cores per die: %u vCPUs on %u packages of %u dies with %u threads "
			"per core make %u",
			r->cores, r->vcpus, t->nr_packages, t->dies, t->threads, cores);
	t->cores = cores;
	return 0;
}

/*
 * Five things cost IDs, each less than twofold: three fields rounded to powers of
 * two, cores rounded up to whole ones, and uneven shares. So 1,024 vCPUs have IDs
 * below 2^15, which is what messages can address.
 */
static void assign_apic_ids(struct topology *t)
{
	t->thread_bits = bits_for(t->threads);
	t->core_bits = bits_for(t->cores);
	t->die_bits = bits_for(t->dies);

	for (unsigned i = 0; i < t->nr_vcpus; i++) {
		struct topo_vcpu *v = &t->vcpu[i];
		uint32_t id = v->package;

		id = id << t->die_bits | v->die;
		id = id << t->core_bits | v->core;
		id = id << t->thread_bits | v->thread;
		v->apic_id = id;
	}
}

/* --- positions that placement gives -------------------------------------------------- */

static uint64_t rank_of(const struct topo_position *p)
{
	return (uint64_t)p->package << 48 | (uint64_t)p->die << 32 | (uint64_t)p->core << 16 |
	       p->thread;
}

/*
 * APIC IDs and nodes ascend with vCPUs, and no die lies in two nodes. Nodes that are left
 * out have memory only.
 */
static int check_position(struct builder *b, unsigned i)
{
	const struct topo_position *p = &b->r->position[i], *last = i ? p - 1 : p;
	unsigned node = i ? last->node : 0;

	if (i && rank_of(p) <= rank_of(last))
		return refuse(b, "vCPU %u: its place in the guest is not above vCPU %u's", i,
			      i - 1);
	if (p->node < node || p->node >= b->r->nodes)
		return refuse(b, "vCPU %u: in node %u of %u, after node %u", i, p->node,
			      b->r->nodes, node);
	if (i && p->node != node && p->package == last->package && p->die == last->die)
		return refuse(b, "vCPU %u: its last-level cache would cross nodes %u and %u", i,
			      node, p->node);
	return 0;
}

static int choose_shape_by_positions(struct builder *b)
{
	const struct topo_request *r = b->r;
	struct topology *t = b->t;
	unsigned bits;

	for (unsigned i = 0; i < r->vcpus; i++) {
		const struct topo_position *p = &r->position[i];
		int err = check_position(b, i);

		if (err)
			return err;
		t->nr_packages = MAX(t->nr_packages, p->package + 1u);
		t->dies = MAX(t->dies, p->die + 1u);
		t->cores = MAX(t->cores, p->core + 1u);
		t->threads = MAX(t->threads, p->thread + 1u);
	}
	bits = bits_for(t->nr_packages) + bits_for(t->dies) + bits_for(t->cores) +
	       bits_for(t->threads);
	if (bits > APIC_ID_BITS)
		return refuse(
			b,
			"%u packages of up to %u dies, %u cores and %u threads: APIC IDs have "
			"no room for such uneven parts; ask for another --guest-topology",
			t->nr_packages, t->dies, t->cores, t->threads);
	return 0;
}

static void place_by_positions(struct topology *t, const struct topo_position *p)
{
	for (unsigned i = 0; i < t->nr_vcpus; i++, p++) {
		struct topo_node *node = &t->node[p->node];

		if (!node->nr_vcpus++)
			node->first_vcpu = i;
		t->vcpu[i] = (struct topo_vcpu){
			.package = p->package,
			.die = p->die,
			.core = p->core,
			.thread = p->thread,
			.node = p->node,
		};
	}
	assign_apic_ids(t);
}

/* --- dealt evenly ---------------------------------------------------------------------- */

static void place_vcpus(struct topology *t)
{
	unsigned dies_per_node = t->nr_packages * t->dies / t->nr_nodes;
	unsigned vcpu = 0;

	for (unsigned n = 0; n < t->nr_nodes; n++) {
		struct topo_node *node = &t->node[n];

		node->first_vcpu = vcpu;
		node->nr_vcpus = share(t->nr_vcpus, t->nr_nodes, n);
		for (unsigned d = 0; d < dies_per_node; d++) {
			unsigned die = n * dies_per_node + d;
			unsigned count = share(node->nr_vcpus, dies_per_node, d);

			for (unsigned i = 0; i < count; i++)
				t->vcpu[vcpu++] = (struct topo_vcpu){
					.package = (uint16_t)(die / t->dies),
					.die = (uint16_t)(die % t->dies),
					.core = (uint16_t)(i / t->threads),
					.thread = (uint16_t)(i % t->threads),
					.node = (uint16_t)n,
				};
		}
	}
	assign_apic_ids(t);
}

/* Any number of lines can be cut into an odd number of ways times 2^n sets. */
static int add_cache(struct builder *b, unsigned level, unsigned type, uint32_t bytes,
		     unsigned max_ways)
{
	struct topology *t = b->t;
	unsigned ways = bytes / LINE_BYTES;

	while (ways > max_ways && ways % 2 == 0)
		ways /= 2;
	if (bytes % LINE_BYTES || ways > WAYS_MAX)
		return refuse(b, "a level %u cache of %u bytes cannot be cut into sets of lines",
			      level, bytes);
	t->cache[t->nr_caches++] = (struct topo_cache){
		.level = (uint8_t)level,
		.type = (uint8_t)type,
		.bytes = bytes,
		.line_bytes = LINE_BYTES,
		.ways = (uint16_t)ways,
		.shared_by = (uint16_t)(level < 3 ? t->threads : t->threads * t->cores),
		.apic_bits = (uint8_t)(t->thread_bits + (level < 3 ? 0 : t->core_bits)),
	};
	return 0;
}

static int add_caches(struct builder *b)
{
	const struct topo_request *r = b->r;
	int err;

	err = add_cache(b, 1, 1, r->l1d_bytes ? r->l1d_bytes : (uint32_t)KIB(32), 12);
	if (!err)
		err = add_cache(b, 1, 2, r->l1i_bytes ? r->l1i_bytes : (uint32_t)KIB(32), 12);
	if (!err)
		err = add_cache(b, 2, 3, r->l2_bytes ? r->l2_bytes : (uint32_t)MIB(1), 20);
	if (!err)
		err = add_cache(b, 3, 3, r->l3_bytes ? r->l3_bytes : (uint32_t)MIB(16), 20);
	return err;
}

/* ACPI 6.5, 5.2.17: 10 is local, below is reserved, 255 unreachable. */
static int set_distance(struct builder *b, unsigned from, unsigned to)
{
	const uint8_t *given = b->r->distance;
	unsigned d = given ? given[from * b->r->nodes + to] : (from == to ? 10 : 20);

	if (from == to && d != 10)
		return refuse(b, "node %u is %u away from itself, not 10", from, d);
	if (from != to && (d <= 10 || d == 255))
		return refuse(b, "distance %u from node %u to %u: not within 11 to 254", d, from,
			      to);
	b->t->distance[from][to] = (uint8_t)d;
	return 0;
}

static void set_performance(struct builder *b, unsigned from, unsigned to)
{
	const struct topo_request *r = b->r;
	unsigned at = from * r->nodes + to, d = b->t->distance[from][to];
	uint32_t ns = r->latency_ns ? r->latency_ns[at] : LOCAL_NS * d / 10;
	uint32_t mbs = r->bandwidth_mbs ? r->bandwidth_mbs[at] : LOCAL_MBS * 10 / d;

	b->t->latency_ns[from][to] = (uint16_t)MIN(MAX(ns, 1), UINT16_MAX - 1);
	b->t->bandwidth_mbs[from][to] = MAX(mbs, 1);
}

static int set_nodes(struct builder *b)
{
	int err = 0;

	for (unsigned n = 0; n < b->r->nodes; n++) {
		uint64_t bytes = b->r->node_memory_bytes[n];

		if (!IS_ALIGNED(bytes, PAGE_SIZE))
			return refuse(b, "%llu bytes of memory on node %u: not whole pages",
				      (unsigned long long)bytes, n);
		if (!bytes && !b->t->node[n].nr_vcpus)
			return refuse(b, "node %u has neither CPUs nor memory", n);
		b->t->node[n].memory_bytes = bytes;
		for (unsigned to = 0; to < b->r->nodes && !err; to++) {
			err = set_distance(b, n, to);
			if (!err)
				set_performance(b, n, to);
		}
	}
	return err;
}

int topo_build(struct topology *t, const struct topo_request *r, char *why, size_t why_bytes)
{
	struct builder b = { .t = t, .r = r, .why = why, .why_bytes = why_bytes };
	int err;

	*t = (struct topology){ .nr_vcpus = r->vcpus, .nr_nodes = r->nodes };
	err = check_counts(&b);
	if (!err)
		err = r->position ? choose_shape_by_positions(&b) : choose_shape(&b);
	if (err)
		return err;
	if (r->position)
		place_by_positions(t, r->position);
	else
		place_vcpus(t);
	err = add_caches(&b);
	return err ? err : set_nodes(&b);
}
