/* show.c - `pin_cores show`: the machine, and who is on it. */
#include "host/linux/cmd/cmd.h"
#include "host/linux/cmd/report.h"
#include "host/linux/cmd/tree.h"
#include "pin_cores.h"

#include <errno.h>

#define LOAD_MS 200

/* clang-format off */
static const struct option table[] = {
	PIN_OPTION_TOPOLOGY,
	PIN_OPTION_SVG,
	{ "load", NULL, OPT_SWITCH, PIN_OFFSET(load),
	  .help = "no: do not look how busy the PUs are, which takes 0.2 s" },
	PIN_OPTION_JSON,
	PIN_OPTION_HELP,
};
/* clang-format on */

/* --- text -------------------------------------------------------------------------------- */

/* Who is on a PU: " web.3 db.0", cut where it does not fit. */
static void list_seats(const struct scene *s, unsigned pu, char *buf, size_t bytes)
{
	unsigned nr;
	const struct seat *seat = scene_seats_on(s, pu, &nr);
	size_t at = 0;

	buf[0] = '\0';
	for (unsigned i = 0; i < nr && at < bytes; i++) {
		const struct actor *a = &s->actor[seat[i].actor];

		at += (size_t)snprintf(buf + at, bytes - at, " %s.%d", a->name,
				       a->thread[seat[i].thread].number);
	}
	if (at >= bytes)
		memcpy(buf + bytes - 4, "...", 4);
}

static void print_pu(struct tree *t, const struct scene *s, unsigned depth, bool last, unsigned i)
{
	const struct machine_pu *pu = &s->m.pu[i];
	char who[160], load[24] = "";

	list_seats(s, pu->os_index, who, sizeof(who));
	if (s->load && s->load[i] >= 0)
		snprintf(load, sizeof(load), ", %.0f %% busy", s->load[i] * 100);
	tree_line(t, depth, last, pu->usable ? "PU %u%s%s%s" : "(PU %u)%s%s%s", pu->os_index, load,
		  who[0] ? ":" : "", who);
}

/* Core by core from PU @i on; returns where the node's piece of the machine ends. */
static unsigned print_core(struct tree *t, const struct scene *s, unsigned i, unsigned end)
{
	unsigned core = s->m.pu[i].core, next = i;

	while (next < end && s->m.pu[next].core == core)
		next++;
	tree_line(t, 2, next == end, "core %u, last-level cache %u", core, s->m.pu[i].llc);
	for (unsigned pu = i; pu < next; pu++)
		print_pu(t, s, 3, pu + 1 == next, pu);
	return next;
}

static void print_node_line(struct tree *t, const struct scene *s, unsigned node, unsigned package,
			    bool last)
{
	const struct machine_node *n = &s->m.node[node];
	char total[SIZE_TEXT], left[SIZE_TEXT], where[32] = "";

	if (package != MACHINE_NONE)
		snprintf(where, sizeof(where), ", package %u", package);
	if (n->memory_bytes)
		tree_line(t, 1, last, "node %u%s: %s, %s free%s", n->os_index, where,
			  size_text(n->memory_bytes, total), size_text(n->free_bytes, left),
			  n->usable ? "" : ", not allowed");
	else
		tree_line(t, 1, last, "node %u%s: no memory", n->os_index, where);
}

static void print_node_memory(struct tree *t, const struct scene *s, unsigned node, bool childless)
{
	char bytes[SIZE_TEXT];
	unsigned left = 0;

	for (unsigned a = 0; a < s->nr_actors; a++)
		left += s->actor[a].node_bytes[node] != 0;
	for (unsigned a = 0; a < s->nr_actors; a++)
		if (s->actor[a].node_bytes[node])
			tree_line(t, 2, childless && !--left, "memory of %s: %s", s->actor[a].name,
				  size_text(s->actor[a].node_bytes[node], bytes));
}

/* A run of PUs that share package and node. */
static unsigned print_run(struct tree *t, const struct scene *s, unsigned i, bool *node_seen,
			  bool more_nodes)
{
	const struct machine_pu *pu = s->m.pu;
	unsigned end = i;

	while (end < s->m.nr_pus && pu[end].node == pu[i].node && pu[end].package == pu[i].package)
		end++;
	if (pu[i].node == MACHINE_NONE) {
		tree_line(t, 1, end == s->m.nr_pus && !more_nodes, "no node, package %u",
			  pu[i].package);
	} else {
		print_node_line(t, s, pu[i].node, pu[i].package, end == s->m.nr_pus && !more_nodes);
		if (!node_seen[pu[i].node])
			print_node_memory(t, s, pu[i].node, false);
		node_seen[pu[i].node] = true;
	}
	while (i < end)
		i = print_core(t, s, i, end);
	return end;
}

static void print_machine(struct tree *t, const struct scene *s)
{
	bool has_pus[MACHINE_NODES_MAX] = { false }, seen[MACHINE_NODES_MAX] = { false };
	unsigned bare = s->m.nr_nodes;

	for (unsigned i = 0; i < s->m.nr_pus; i++) {
		unsigned node = s->m.pu[i].node;

		if (node != MACHINE_NONE && !has_pus[node]) {
			has_pus[node] = true;
			bare--;
		}
	}
	for (unsigned i = 0; i < s->m.nr_pus;)
		i = print_run(t, s, i, seen, bare > 0);
	for (unsigned i = 0; i < s->m.nr_nodes; i++) {
		if (has_pus[i])
			continue;
		print_node_line(t, s, i, s->m.node[i].package, !--bare);
		print_node_memory(t, s, i, true);
	}
}

static void print_actor(const struct scene *s, const struct actor *a)
{
	unsigned bound = actor_bound(s, a);
	char bytes[SIZE_TEXT], pid[32] = "";

	if (a->pid)
		snprintf(pid, sizeof(pid), ", pid %d", (int)a->pid);
	printf("%s (%s%s): %u %s%s, %u bound, %s\n", a->name, a->kind, pid, a->nr_threads, a->unit,
	       a->nr_threads == 1 ? "" : "s", bound, size_text(actor_bytes(s, a), bytes));
}

static int print_text(const struct scene *s)
{
	const struct machine_model *m = &s->m;
	struct tree t = tree_on(stdout);

	tree_line(&t, 0, true, "%s: %u package%s, %u node%s, %u core%s, %u PU%s", m->name,
		  m->nr_packages, m->nr_packages == 1 ? "" : "s", m->nr_nodes,
		  m->nr_nodes == 1 ? "" : "s", m->nr_cores, m->nr_cores == 1 ? "" : "s", m->nr_pus,
		  m->nr_pus == 1 ? "" : "s");
	print_machine(&t, s);
	for (unsigned i = 0; i < s->nr_actors; i++)
		print_actor(s, &s->actor[i]);
	return finish_output(0);
}

/* --- JSON -------------------------------------------------------------------------------- */

static json_t *pus_json(const struct scene *s)
{
	json_t *pus = json_array();

	for (unsigned i = 0; i < s->m.nr_pus; i++) {
		const struct machine_pu *pu = &s->m.pu[i];
		bool known = s->load && s->load[i] >= 0;
		unsigned nr;
		const struct seat *seat = scene_seats_on(s, pu->os_index, &nr);
		json_t *who = json_array();

		for (unsigned k = 0; k < nr; k++) {
			const struct actor *a = &s->actor[seat[k].actor];
			const struct actor_thread *t = &a->thread[seat[k].thread];

			json_array_append_new(who, json_pack("{s:s s:i s:i}", "machine", a->name,
							     "number", t->number, "tid", t->tid));
		}
		json_array_append_new(
			pus,
			json_pack("{s:i s:i s:i s:i s:o s:b s:o s:o}", "pu", pu->os_index, "core",
				  pu->core, "llc", pu->llc, "package", pu->package, "node",
				  pu->node == MACHINE_NONE
					  ? json_null()
					  : json_integer(s->m.node[pu->node].os_index),
				  "usable", pu->usable, "load",
				  known ? json_real(s->load[i]) : json_null(), "threads", who));
	}
	return pus;
}

static json_t *nodes_json(const struct scene *s)
{
	json_t *nodes = json_array();

	for (unsigned i = 0; i < s->m.nr_nodes; i++) {
		const struct machine_node *n = &s->m.node[i];

		json_array_append_new(nodes, json_pack("{s:i s:I s:I s:b}", "node", n->os_index,
						       "memory_bytes", (json_int_t)n->memory_bytes,
						       "free_bytes", (json_int_t)n->free_bytes,
						       "usable", n->usable));
	}
	return nodes;
}

static json_t *memory_json(const struct scene *s, const struct actor *a)
{
	json_t *memory = json_array();

	for (unsigned i = 0; i < s->m.nr_nodes; i++)
		if (a->node_bytes[i])
			json_array_append_new(memory,
					      json_pack("{s:i s:I}", "node", s->m.node[i].os_index,
							"bytes", (json_int_t)a->node_bytes[i]));
	return memory;
}

static json_t *set_json(const struct pu_set *set)
{
	json_t *list = json_array();

	pu_set_for_each(pu, set) json_array_append_new(list, json_integer(pu));
	return list;
}

static json_t *actors_json(const struct scene *s)
{
	json_t *actors = json_array();

	for (unsigned i = 0; i < s->nr_actors; i++) {
		const struct actor *a = &s->actor[i];
		json_t *threads = json_array();

		for (unsigned k = 0; k < a->nr_threads; k++)
			json_array_append_new(
				threads, json_pack("{s:i s:i s:b s:o}", "number",
						   a->thread[k].number, "tid", a->thread[k].tid,
						   "bound", !actor_thread_floats(s, &a->thread[k]),
						   "pus", set_json(&a->thread[k].pus)));
		json_array_append_new(actors,
				      json_pack("{s:s s:s s:i s:s s:o s:o}", "name", a->name,
						"kind", a->kind, "pid", a->pid, "unit", a->unit,
						"threads", threads, "memory", memory_json(s, a)));
	}
	return actors;
}

static int print_json(const struct scene *s)
{
	return report_json(json_pack("{s:s s:i s:i s:o s:o s:o}", "name", s->m.name, "packages",
				     s->m.nr_packages, "cores", s->m.nr_cores, "nodes",
				     nodes_json(s), "pus", pus_json(s), "machines", actors_json(s)),
			   JSON_INDENT(2), 0);
}

/* --- the command ------------------------------------------------------------------------- */

static int look(const struct pin_options *o, struct scene *s)
{
	int status = pin_scene(o, s), err = 0;

	if (status || o->run.topology)
		return status;
	if (o->load)
		err = scene_measure_load(s, LOAD_MS);
	if (!err)
		err = scene_add_running(s);
	return err ? internal_error("cannot tell what runs here: %s", strerror(-err)) : 0;
}

static int show(const struct pin_options *o)
{
	struct scene s = { 0 };
	int status = look(o, &s);

	if (!status && scene_seat(&s))
		status = internal_error("out of memory");
	if (!status && o->svg)
		status = pin_paint(o, &s);
	else if (!status)
		status = o->run.json ? print_json(&s) : print_text(&s);
	scene_free(&s);
	return status;
}

int cmd_show(int argc, char **argv)
{
	struct option_set set = {
		.command = "show",
		.summary = "Show this host, the machines on it and how busy it is.",
		.table = table,
		.nr = ARRAY_SIZE(table),
	};
	struct pin_options o = { .load = true };
	int status = pin_options_get(&set, argc, argv, &o);

	if (!status && !o.run.help)
		status = show(&o);
	options_free(&set);
	return status;
}
