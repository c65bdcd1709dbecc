/* placement.c - see placement.h. */
#include "placement.h"

#include "cmd.h"
#include "host/linux/host_linux.h"
#include "measure.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define DISTANCE_MIN 11 /* between nodes; ACPI 6.5, 5.2.17 */
#define DISTANCE_MAX 254
#define LABEL_BYTES  512

static unsigned common_divisor(unsigned a, unsigned b)
{
	while (b) {
		unsigned rest = a % b;

		a = b;
		b = rest;
	}
	return a;
}

/*
 * Weights of interleaving are the kernel's, where it has them; else they follow the
 * bandwidths, as measured, in quarters of the least.
 */
static void weigh_nodes(struct machine_model *m)
{
	unsigned least = UINT32_MAX, divisor = 0;

	for (unsigned i = 0; i < m->nr_nodes; i++) {
		if (m->node[i].weight || !m->bandwidth_mibs)
			return;
		least = MIN(least, MAX(m->bandwidth_mibs[i * (m->nr_nodes + 1)], 1));
	}
	for (unsigned i = 0; i < m->nr_nodes; i++) {
		uint64_t mibs = m->bandwidth_mibs[i * (m->nr_nodes + 1)];

		m->node[i].weight = (unsigned)MIN(MAX((4 * mibs + least / 2) / least, 1), 255);
		divisor = common_divisor(m->node[i].weight, divisor);
	}
	for (unsigned i = 0; i < m->nr_nodes; i++)
		m->node[i].weight /= divisor;
}

int placement_machine(const struct run_options *o, const struct host *host,
		      struct machine_model *out)
{
	char why[512];
	int err;

	if (o->topology) {
		if (!o->dry_run)
			return user_error("--topology %s: another machine can only be planned for: "
					  "say --dry-run",
					  o->topology);
		if (host_linux_topology_from(o->topology, out, why, sizeof(why)))
			return user_error("%s", why);
		return 0;
	}
	err = host->ops->topology(host->ctx, out);
	if (err)
		return internal_error("cannot discover the host's topology: %s", strerror(-err));
	measure_load(out);
	weigh_nodes(out);
	return 0;
}

/* --- words ------------------------------------------------------------------------------ */

/* "3" or "3-7" at @text, which must end there. */
static bool parse_range(const char *text, unsigned *first, unsigned *last)
{
	char *end;
	unsigned long a, b;

	if (!isdigit((unsigned char)*text))
		return false;
	a = b = strtoul(text, &end, 10);
	if (*end == '-' && isdigit((unsigned char)end[1]))
		b = strtoul(end + 1, &end, 10);
	*first = (unsigned)a;
	*last = (unsigned)b;
	return !*end && a <= b && b < PU_SET_MAX;
}

/* "node3" with @word "node". */
static bool parse_name(const char *text, const char *word, unsigned *index)
{
	size_t n = strlen(word);
	unsigned last;

	return !strncmp(text, word, n) && parse_range(text + n, index, &last) && last == *index;
}

/* --- --pin ------------------------------------------------------------------------------ */

enum pin_part { PIN_NODE, PIN_PACKAGE, PIN_CACHE, PIN_CORE };

static unsigned part_of(const struct machine_model *m, const struct machine_pu *pu,
			enum pin_part part)
{
	switch (part) {
	case PIN_NODE:
		return pu->node == MACHINE_NONE ? MACHINE_NONE : m->node[pu->node].os_index;
	case PIN_PACKAGE:
		return pu->package;
	case PIN_CACHE:
		return pu->llc;
	default:
		return pu->core;
	}
}

/* An hwloc set is words of 32 bits, most significant first: 0x1,0x0000000f. */
static bool add_mask_word(struct pu_set *s, const char *text, bool continued)
{
	char *end;
	unsigned long word = strtoul(text, &end, 16);

	if (*end || word > UINT32_MAX)
		return false;
	if (continued)
		for (unsigned i = PU_SET_MAX - 1; i < PU_SET_MAX; i--) {
			bool lower = i >= 32 && pu_set_has(s, i - 32);

			pu_set_del(s, i);
			if (lower)
				pu_set_add(s, i);
		}
	for (unsigned i = 0; i < 32; i++)
		if (word >> i & 1)
			pu_set_add(s, i);
	return true;
}

static int add_target(const struct machine_model *m, struct plan_pin *pin, const char *text,
		      bool continued)
{
	static const char *const names[] = { "node", "package", "llc", "core" };
	unsigned first, last;
	bool found = false;

	if (!strncmp(text, "0x", 2))
		return add_mask_word(&pin->pus, text, continued)
			       ? 0
			       : user_error("--pin %s: not an hwloc set", text);
	if (parse_range(text, &first, &last)) {
		for (unsigned pu = first; pu <= last; pu++)
			pu_set_add(&pin->pus, pu);
		return 0;
	}
	for (unsigned part = 0; part < ARRAY_SIZE(names); part++) {
		if (!parse_name(text, names[part], &first))
			continue;
		for (unsigned i = 0; i < m->nr_pus; i++) {
			if (part_of(m, &m->pu[i], (enum pin_part)part) != first)
				continue;
			if (m->pu[i].usable)
				pu_set_add(&pin->pus, m->pu[i].os_index);
			found = true;
		}
		if (found)
			return 0;
		return user_error(
			"--pin %s: this machine has none with a PU: see `alcazar topology`", text);
	}
	return user_error("--pin %s: say VCPUS:WHERE, where WHERE is nodeN, packageN, llcN, coreN, "
			  "PUs (4-7) or an hwloc set (0xf0)",
			  text);
}

static int add_pin(struct placement *p, const struct machine_model *m, char *item)
{
	char *colon = strchr(item, ':');
	struct plan_pin *pin;

	if (!colon) {
		if (!p->request.nr_pins)
			return add_target(m, NULL, "?", false);
		return add_target(m, &p->pin[p->request.nr_pins - 1], item, true);
	}
	if (p->request.nr_pins == PLACEMENT_PINS_MAX)
		return user_error("--pin: more than %d parts", PLACEMENT_PINS_MAX);
	*colon = '\0';
	pin = &p->pin[p->request.nr_pins];
	if (!parse_range(item, &pin->first, &pin->last))
		return user_error("--pin %s:%s: vCPUs are numbers: 0-7:node0", item, colon + 1);
	p->request.nr_pins++;
	return add_target(m, pin, colon + 1, false);
}

/* Calls fn for each item between separators, until one returns a status. */
static int for_each_item(const char *list, const char *separator, struct placement *p,
			 const struct machine_model *m,
			 int (*fn)(struct placement *p, const struct machine_model *m, char *item))
{
	char *copy = strdup(list), *save = NULL;
	int status = copy ? 0 : internal_error("out of memory");

	for (char *i = copy ? strtok_r(copy, separator, &save) : NULL; i && !status;
	     i = strtok_r(NULL, separator, &save))
		status = fn(p, m, i);
	free(copy);
	return status;
}

static int read_pins(struct placement *p, const struct machine_model *m, const char *list)
{
	p->pin = calloc(PLACEMENT_PINS_MAX, sizeof(*p->pin));
	if (!p->pin)
		return internal_error("out of memory");
	p->request.pin = p->pin;
	return for_each_item(list, ",", p, m, add_pin);
}

/* --- --node ----------------------------------------------------------------------------- */

/* vCPUs are dealt to nodes in order, so the ranges follow each other. */
static int take_cpus(const struct placement *p, const char *value, struct plan_node_request *n)
{
	unsigned first, last, done = 0;

	if (!strcmp(value, "none"))
		return 0;
	for (unsigned g = 0; g + 1 < p->request.nodes; g++)
		done += p->node[g].vcpus;
	if (!parse_range(value, &first, &last) || first != done)
		return user_error("--node cpus=%s: this node's vCPUs begin with %u: cpus=%u-%u",
				  value, done, done, done + 3);
	n->vcpus = last - first + 1;
	return 0;
}

/* "3", "0-3", "0+2": several are for memory that is spread. */
static const char *parse_host_nodes(char *value, struct plan_node_request *n)
{
	char *save = NULL;

	for (char *part = strtok_r(value, "+", &save); part; part = strtok_r(NULL, "+", &save)) {
		unsigned first, last;

		if (!parse_range(part, &first, &last))
			return "the number of a host node is needed";
		if (n->host_node < 0)
			n->host_node = (int)first;
		for (unsigned i = first; i <= last; i++)
			pu_set_add(&n->over, i);
	}
	return n->host_node < 0 ? "the number of a host node is needed" : NULL;
}

const char *placement_pages(const char *text, uint64_t *out)
{
	static const struct {
		const char *name;
		uint64_t bytes;
	} sizes[] = {
		{ "4K", KIB(4) }, { "thp", MEM_PAGES_THP }, { "2M", MIB(2) }, { "1G", GIB(1) }
	};

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		if (!strcmp(text, sizes[i].name)) {
			*out = sizes[i].bytes;
			return NULL;
		}
	}
	return "choose one of 4K, thp, 2M, 1G";
}

static int add_node_word(struct placement *p, char *word)
{
	struct plan_node_request *n = &p->node[p->request.nodes - 1];
	char *value = strchr(word, '='), given[128];
	const char *complaint = NULL;

	if (!value)
		return user_error("--node %s: say cpus=0-3,memory=2G[,host-node=N][,pages=2M]",
				  word);
	*value++ = '\0';
	snprintf(given, sizeof(given), "%s", value);
	if (!strcmp(word, "cpus"))
		return take_cpus(p, value, n);
	if (!strcmp(word, "memory"))
		complaint = size_parse(value, &n->memory_bytes);
	else if (!strcmp(word, "pages"))
		complaint = placement_pages(value, &n->page_bytes);
	else if (!strcmp(word, "host-node"))
		complaint = parse_host_nodes(value, n);
	else
		complaint = "no such word: cpus, memory, host-node and pages there are";
	return complaint ? user_error("--node %s=%s: %s", word, given, complaint) : 0;
}

static int add_node(struct placement *p, const struct machine_model *m, char *record)
{
	char *save = NULL;
	int status = 0;

	if (p->request.nodes == PLAN_NODES_MAX)
		return user_error("--node: a guest has up to %d nodes", PLAN_NODES_MAX);
	p->node[p->request.nodes++] = (struct plan_node_request){ .host_node = -1 };
	for (char *w = strtok_r(record, ",", &save); w && !status; w = strtok_r(NULL, ",", &save))
		status = add_node_word(p, w);
	return status;
}

/* Totals follow from the nodes, unless they are given and must agree. */
static int read_nodes(struct option_set *s, struct placement *p, const struct machine_model *m,
		      const char *list)
{
	struct plan_request *r = &p->request;
	unsigned asked = r->nodes;
	uint64_t bytes = 0;
	unsigned vcpus = 0;
	int status;

	r->nodes = 0;
	status = for_each_item(list, ";", p, m, add_node);
	if (status)
		return status;
	if (asked && asked != r->nodes)
		return user_error("--nodes %u: but --node describes %u of them", asked, r->nodes);
	for (unsigned g = 0; g < r->nodes; g++) {
		vcpus += p->node[g].vcpus;
		bytes += p->node[g].memory_bytes;
	}
	if (!s->given[options_find(s, "cpus")].text)
		r->vcpus = vcpus;
	if (!s->given[options_find(s, "memory")].text)
		r->memory_bytes = bytes;
	r->node = p->node;
	return 0;
}

/* --- --guest-topology --------------------------------------------------------------------- */

static int add_shape_word(struct placement *p, const struct machine_model *m, char *item)
{
	static const char *const names[] = { "sockets", "dies", "cores", "threads" };
	unsigned *const fields[] = { &p->packages, &p->dies, &p->cores, &p->threads };
	char *value = strchr(item, '=');
	unsigned n, last;

	if (value)
		*value++ = '\0';
	for (size_t i = 0; value && i < ARRAY_SIZE(names); i++) {
		if (strcmp(item, names[i]) != 0)
			continue;
		if (!parse_range(value, &n, &last) || n != last || !n)
			break;
		*fields[i] = n;
		return 0;
	}
	return user_error(
		"--guest-topology %s: say sockets=N,dies=N,cores=N,threads=N, some or all", item);
}

int placement_request(struct option_set *s, const struct run_options *o,
		      const struct machine_model *m, struct placement *out)
{
	struct plan_request *r = &out->request;
	const char *complaint;
	char label[LABEL_BYTES];
	int status = 0;

	*r = (struct plan_request){
		.vcpus = o->cpus,
		.nodes = o->nodes,
		.memory_bytes = o->memory,
		.policy = (enum plan_policy)o->policy,
		.memory_policy = (enum mem_policy)o->memory_policy,
		.exclusive = o->exclusive,
		.io_threads = true,
	};
	complaint = o->pages ? placement_pages(o->pages, &r->page_bytes) : NULL;
	if (complaint)
		return user_error("%s: %s", options_label(s, "pages", label, sizeof(label)),
				  complaint);
	if (mem_policy_spreads(r->memory_policy) && !r->nodes && !o->node)
		r->nodes = 1; /* cut along host nodes, nothing would be left to spread over */
	if (o->guest_topology) {
		status = for_each_item(o->guest_topology, ",", out, m, add_shape_word);
		if (!r->nodes)
			r->nodes = 1; /* equal parts: what was asked for has no room for others */
	}
	if (!status && o->node)
		status = read_nodes(s, out, m, o->node);
	if (!status && o->pin)
		status = read_pins(out, m, o->pin);
	return status;
}

void placement_free(struct placement *p)
{
	free(p->pin);
	p->pin = NULL;
}

/* --- the guest's view ----------------------------------------------------------------------- */

static unsigned home_of(const struct machine_model *m, const struct plan *plan, unsigned node)
{
	int host = plan->memory[node].host_node;

	return host < 0 ? MACHINE_NONE : machine_find_node(m, (unsigned)host);
}

/*
 * Distances of the guest's nodes are those of their homes, 10 being local. Two guest
 * nodes at one home are still two nodes: as near as two can be.
 */
static unsigned distance_between(const struct machine_model *m, unsigned from, unsigned to)
{
	unsigned local;

	if (from == MACHINE_NONE || to == MACHINE_NONE)
		return 20;
	if (from == to)
		return DISTANCE_MIN;
	local = MAX(machine_distance(m, from, from), 1);
	return MIN(MAX(machine_distance(m, from, to) * 10 / local, DISTANCE_MIN), DISTANCE_MAX);
}

static void fill_node_pair(struct placement *p, const struct machine_model *m,
			   const struct plan *plan, unsigned i, unsigned j)
{
	unsigned at = i * plan->nr_memory + j, from = home_of(m, plan, i), to = home_of(m, plan, j);

	p->distance[at] = (uint8_t)(i == j ? 10 : distance_between(m, from, to));
	if (from == MACHINE_NONE || to == MACHINE_NONE)
		return;
	if (m->latency_ns)
		p->latency_ns[at] = m->latency_ns[from * m->nr_nodes + to];
	if (m->bandwidth_mibs)
		p->bandwidth_mbs[at] = m->bandwidth_mibs[from * m->nr_nodes + to];
}

/* With --guest-topology vCPUs are dealt evenly, and so they must be placed. */
static int check_even(const struct plan *plan)
{
	unsigned count[PLAN_NODES_MAX] = { 0 }, nodes = plan->nr_memory;

	for (unsigned i = 0; i < plan->nr_vcpus; i++)
		count[plan->vcpu[i].guest_node]++;
	for (unsigned n = 0; n < nodes; n++)
		if (count[n] != plan->nr_vcpus / nodes + (n < plan->nr_vcpus % nodes))
			return user_error(
				"--guest-topology: guest node %u has %u of %u vCPUs; an even "
				"cut is needed: leave --node out",
				n, count[n], plan->nr_vcpus);
	return 0;
}

int placement_topology(struct placement *p, const struct machine_model *m, const struct plan *plan,
		       struct topo_request *out)
{
	bool as_placed = !(p->packages | p->dies | p->cores | p->threads);

	*out = (struct topo_request){
		.vcpus = plan->nr_vcpus,
		.nodes = plan->nr_memory,
		.packages = p->packages,
		.dies = p->dies,
		.cores = p->cores,
		.threads = p->threads,
		.distance = p->distance,
		.latency_ns = m->latency_ns && m->nr_nodes ? p->latency_ns : NULL,
		.bandwidth_mbs = m->bandwidth_mibs && m->nr_nodes ? p->bandwidth_mbs : NULL,
		.position = as_placed ? p->position : NULL,
	};
	for (unsigned i = 0; i < plan->nr_memory; i++) {
		out->node_memory_bytes[i] = plan->memory[i].bytes;
		for (unsigned j = 0; j < plan->nr_memory; j++)
			fill_node_pair(p, m, plan, i, j);
	}
	for (unsigned i = 0; i < plan->nr_vcpus; i++) {
		const struct plan_vcpu *v = &plan->vcpu[i];

		p->position[i] = (struct topo_position){ .package = v->package,
							 .die = v->die,
							 .core = v->core,
							 .thread = v->thread,
							 .node = (uint16_t)v->guest_node };
	}
	return as_placed ? 0 : check_even(plan);
}
