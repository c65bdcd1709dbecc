/* topology.c - `alcazar topology`: the host as placement sees it. */
#include "cmd.h"
#include "host/linux/host_linux.h"
#include "measure.h"
#include "options.h"
#include "report.h"
#include "tree.h"

#include <errno.h>
#include <stdlib.h>

struct topology_options {
	const char *topology;
	bool measure, json, help;
};

/* clang-format off */
static const struct option table[] = {
	{ "topology", "WHICH", OPT_TEXT, offsetof(struct topology_options, topology),
	  .help = "another machine: an hwloc XML file or \"node:2 core:4 pu:2\"" },
	{ "measure", NULL, OPT_SWITCH, offsetof(struct topology_options, measure),
	  .help = "measure latency and bandwidth between nodes, and keep that" },
	{ "json", NULL, OPT_SWITCH, offsetof(struct topology_options, json),
	  .help = "as a JSON document" },
	{ "help", NULL, OPT_SWITCH, offsetof(struct topology_options, help),
	  .help = "this list" },
};
/* clang-format on */

/* --- text ------------------------------------------------------------------------- */

struct span {
	unsigned first, end; /* PUs, in logical order */
};

static struct span node_span(const struct machine_model *m, unsigned node)
{
	struct span s = { .first = m->nr_pus, .end = 0 };

	for (unsigned i = 0; i < m->nr_pus; i++) {
		if (m->pu[i].node != node)
			continue;
		s.first = MIN(s.first, i);
		s.end = i + 1;
	}
	return s;
}

/* The PUs of one core, from PU @i on: "PU 0 4", unusable ones in brackets. */
static unsigned print_core(struct tree *t, const struct machine_model *m, unsigned i, unsigned end,
			   unsigned node)
{
	char pus[256] = "";
	unsigned core = m->pu[i].core, next = i;

	for (; next < end && m->pu[next].core == core; next++) {
		size_t used = strlen(pus);

		snprintf(pus + used, sizeof(pus) - used, m->pu[next].usable ? " %u" : " (%u)",
			 m->pu[next].os_index);
	}
	tree_line(t, 2, next == end, "core %u, package %u, last-level cache %u: PU%s", core,
		  m->pu[i].package, m->pu[i].llc, pus);
	return next;
}

static void print_node(struct tree *t, const struct machine_model *m, unsigned node)
{
	const struct machine_node *n = &m->node[node];
	struct span s = node_span(m, node);
	char total[SIZE_TEXT], left[SIZE_TEXT];

	tree_line(t, 1, node + 1 == m->nr_nodes, "node %u: %s, %s free%s", n->os_index,
		  size_text(n->memory_bytes, total), size_text(n->free_bytes, left),
		  n->usable ? "" : ", not allowed");
	for (unsigned i = 0; i < MACHINE_PAGE_SIZES; i++)
		if (n->huge[i].total)
			tree_line(t, 2, false, "%llu pages of %s, %llu free",
				  (unsigned long long)n->huge[i].total,
				  size_text(n->huge[i].bytes, total),
				  (unsigned long long)n->huge[i].free);
	for (unsigned i = 0; i < m->nr_ios; i++)
		if (m->io[i].node == node)
			tree_line(t, 2, false, "%s %s",
				  m->io[i].kind == MACHINE_IO_DISK ? "disk" : "network",
				  m->io[i].name);
	for (unsigned i = s.first; i < s.end;)
		i = print_core(t, m, i, s.end, node);
}

static void print_caches(struct tree *t, const struct machine_model *m)
{
	char l1d[SIZE_TEXT], l1i[SIZE_TEXT], l2[SIZE_TEXT], llc[SIZE_TEXT];

	if (!m->l1d_bytes && !m->llc_bytes)
		return; /* synthetic machines need not have any */
	tree_line(t, 1, !m->nr_nodes, "caches: L1d %s, L1i %s, L2 %s, last level %s",
		  size_text(m->l1d_bytes, l1d), size_text(m->l1i_bytes, l1i),
		  size_text(m->l2_bytes, l2), size_text(m->llc_bytes, llc));
}

static void print_matrix(const struct machine_model *m, const char *what, const unsigned *value)
{
	if (!value)
		return;
	printf("%s:\n      ", what);
	for (unsigned j = 0; j < m->nr_nodes; j++)
		printf(" %6u", m->node[j].os_index);
	for (unsigned i = 0; i < m->nr_nodes; i++) {
		printf("\n  %4u", m->node[i].os_index);
		for (unsigned j = 0; j < m->nr_nodes; j++)
			printf(" %6u", value[i * m->nr_nodes + j]);
	}
	putchar('\n');
}

static void print_matrices(const struct machine_model *m)
{
	if (m->nr_nodes > 1)
		print_matrix(m, m->has_distances ? "distances" : "distances (assumed)",
			     m->distance);
	print_matrix(m, "latency from CPUs (rows) to memory, ns", m->latency_ns);
	print_matrix(m, "bandwidth of copying, MiB/s", m->bandwidth_mibs);
}

static int print_text(const struct machine_model *m)
{
	struct tree t = tree_on(stdout);

	tree_line(&t, 0, true, "%s: %u package%s, %u node%s, %u core%s, %u PU%s", m->name,
		  m->nr_packages, m->nr_packages == 1 ? "" : "s", m->nr_nodes,
		  m->nr_nodes == 1 ? "" : "s", m->nr_cores, m->nr_cores == 1 ? "" : "s", m->nr_pus,
		  m->nr_pus == 1 ? "" : "s");
	print_caches(&t, m);
	for (unsigned i = 0; i < m->nr_nodes; i++)
		print_node(&t, m, i);
	print_matrices(m);
	return finish_output(0);
}

/* --- JSON ------------------------------------------------------------------------- */

static json_t *json_index(unsigned n)
{
	return n == MACHINE_NONE ? json_null() : json_integer(n);
}

static json_t *pus_json(const struct machine_model *m)
{
	json_t *pus = json_array();

	for (unsigned i = 0; i < m->nr_pus; i++) {
		const struct machine_pu *p = &m->pu[i];
		json_t *node = p->node == MACHINE_NONE ? json_null()
						       : json_integer(m->node[p->node].os_index);

		json_array_append_new(
			pus, json_pack("{s:i s:i s:i s:i s:i s:i s:o s:b}", "pu", p->os_index,
				       "core", p->core, "smt", p->smt, "llc", p->llc, "die", p->die,
				       "package", p->package, "node", node, "usable", p->usable));
	}
	return pus;
}

static json_t *row_json(const struct machine_model *m, unsigned node, const unsigned *value)
{
	json_t *row = value ? json_array() : json_null();

	for (unsigned j = 0; value && j < m->nr_nodes; j++)
		json_array_append_new(row, json_integer(value[node * m->nr_nodes + j]));
	return row;
}

static json_t *huge_pages_json(const struct machine_node *n)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < MACHINE_PAGE_SIZES; i++)
		if (n->huge[i].bytes)
			json_array_append_new(list, json_pack("{s:I s:I s:I}", "bytes",
							      (json_int_t)n->huge[i].bytes, "total",
							      (json_int_t)n->huge[i].total, "free",
							      (json_int_t)n->huge[i].free));
	return list;
}

static json_t *nodes_json(const struct machine_model *m)
{
	json_t *nodes = json_array();

	for (unsigned i = 0; i < m->nr_nodes; i++) {
		const struct machine_node *n = &m->node[i];
		json_t *distances = row_json(m, i, m->distance);

		json_array_append_new(
			nodes, json_pack("{s:i s:o s:I s:I s:b s:o s:o s:o s:o}", "node",
					 n->os_index, "package", json_index(n->package),
					 "memory_bytes", (json_int_t)n->memory_bytes, "free_bytes",
					 (json_int_t)n->free_bytes, "usable", n->usable,
					 "distances", distances, "huge_pages", huge_pages_json(n),
					 "latency_ns", row_json(m, i, m->latency_ns),
					 "bandwidth_mibs", row_json(m, i, m->bandwidth_mibs)));
	}
	return nodes;
}

static int print_json(const struct machine_model *m)
{
	json_t *caches = json_pack("{s:I s:I s:I s:I}", "l1d_bytes", (json_int_t)m->l1d_bytes,
				   "l1i_bytes", (json_int_t)m->l1i_bytes, "l2_bytes",
				   (json_int_t)m->l2_bytes, "llc_bytes", (json_int_t)m->llc_bytes);

	return report_json(json_pack("{s:s s:i s:i s:o s:o s:o}", "name", m->name, "packages",
				     m->nr_packages, "cores", m->nr_cores, "caches", caches,
				     "nodes", nodes_json(m), "pus", pus_json(m)),
			   JSON_INDENT(2), 0);
}

/* --- the command ------------------------------------------------------------------ */

static int discover(struct machine_model *m, bool measure)
{
	struct host host = { 0 };
	int err = host_linux_create(&host), status;

	if (!err)
		err = host.ops->topology(host.ctx, m);
	status =
		err ? internal_error("cannot discover the host's topology: %s", strerror(-err)) : 0;
	if (!status && measure)
		status = measure_now(&host, m);
	else if (!status)
		measure_load(m);
	host_linux_destroy(&host);
	return status;
}

static int show(const struct topology_options *o)
{
	struct machine_model m = { 0 };
	char why[512];
	int status = 0;

	if (o->topology && o->measure)
		status = user_error("--measure: only the machine at hand: leave --topology out");
	else if (!o->topology)
		status = discover(&m, o->measure);
	else if (host_linux_topology_from(o->topology, &m, why, sizeof(why)))
		status = user_error("%s", why);
	if (!status)
		status = o->json ? print_json(&m) : print_text(&m);
	machine_free(&m);
	return status;
}

int cmd_topology(int argc, char **argv)
{
	struct option_set set = {
		.command = "topology",
		.summary = "Show the host: nodes, cores, PUs (those not usable in brackets).",
		.table = table,
		.nr = ARRAY_SIZE(table),
	};
	struct topology_options o = { 0 };
	int status;

	if (options_take(&set, argc, argv, &o, &o.help, &status))
		status = show(&o);
	options_free(&set);
	return status;
}
