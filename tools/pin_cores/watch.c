/*
 * watch.c - `pin_cores watch`: threads of machines and programs, live: the PU each ran on
 * last, how often it moved, how busy it was, how much of the memory is near.
 */
#include "host/linux/cmd/cmd.h"
#include "host/linux/cmd/report.h"
#include "host/linux/pu_list.h"
#include "pin_cores.h"
#include "screen.h"
#include "watched.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define FIRST_MS 200 /* between the two looks that the first figures are made of */

/* clang-format off */
static const struct option table[] = {
	PIN_OPTION_PID,
	{ "interval", "MS", OPT_NUMBER, PIN_OFFSET(interval_ms), .min = 100, .max = 3600000,
	  .help = "time between two looks, in milliseconds (1000)" },
	{ "once", NULL, OPT_SWITCH, PIN_OFFSET(once),
	  .help = "look once, 0.2 s long, and end" },
	{ "json", NULL, OPT_SWITCH, PIN_OFFSET(run.json),
	  .help = "as JSON: one document a look, one a line without --once" },
	PIN_OPTION_HELP,
};
/* clang-format on */

/* --- text -------------------------------------------------------------------------------- */

static const char *count_text(uint64_t n, char buf[24])
{
	if (n == PROC_UNKNOWN)
		return "-";
	snprintf(buf, 24, "%llu", (unsigned long long)n);
	return buf;
}

static const char *node_text(const struct machine_model *m, unsigned pu, char buf[24])
{
	unsigned node = watched_node_of(m, pu);

	if (node == MACHINE_NONE)
		return "-";
	snprintf(buf, 24, "%u", m->node[node].os_index);
	return buf;
}

static void print_thread(struct screen *out, const struct machine_model *m, const struct watched *w,
			 const struct watched_thread *t)
{
	char bound[64], node[24], moves[24], vcpu[24] = "";

	if (t->vcpu >= 0)
		snprintf(vcpu, sizeof(vcpu), "%d", t->vcpu);
	screen_line(out,
		    t->task.migrations != PROC_UNKNOWN && t->moves ? SCREEN_WARM : SCREEN_PLAIN,
		    "  %7d %-15s %4s %c %4u %4s %-10s %4.0f%% %6s %4.0f%%", (int)t->task.tid,
		    t->task.name, vcpu, t->task.state, t->task.pu, node_text(m, t->task.pu, node),
		    pu_list_text(&t->task.affinity, bound, 11), t->busy * 100,
		    count_text(t->moves, moves), watched_local(m, w, t->task.pu) * 100);
}

static void print_memory(struct screen *out, const struct machine_model *m, const struct watched *w)
{
	char line[160] = "", size[SIZE_TEXT];
	size_t at = 0;

	for (unsigned i = 0; i < m->nr_nodes && at < sizeof(line); i++) {
		unsigned node = m->node[i].os_index;

		if (node < PROC_NODES_MAX && w->memory.node_bytes[node])
			at += (size_t)snprintf(line + at, sizeof(line) - at, "%snode %u: %s",
					       at ? ", " : "", node,
					       size_text(w->memory.node_bytes[node], size));
	}
	screen_line(out, SCREEN_PLAIN, "  memory: %s", at ? line : "not known");
}

static void print_one(struct screen *out, const struct machine_model *m, const struct watched *w)
{
	screen_line(out, SCREEN_HEAD, "%s (%s, pid %d): %u threads", w->name, w->kind, (int)w->pid,
		    w->nr);
	print_memory(out, m, w);
	screen_line(out, SCREEN_DIM, "  %7s %-15s %4s %c %4s %4s %-10s %5s %6s %5s", "TID", "NAME",
		    "VCPU", 'S', "PU", "NODE", "BOUND TO", "BUSY", "MOVES", "NEAR");
	for (unsigned i = 0; i < w->nr; i++)
		print_thread(out, m, w, &w->thread[i]);
}

static void print_text(struct screen *out, const struct machine_model *m,
		       const struct watched_list *l)
{
	screen_begin(out);
	if (!l->nr)
		screen_line(out, SCREEN_PLAIN, "no machine runs here");
	for (unsigned i = 0; i < l->nr; i++)
		print_one(out, m, &l->one[i]);
	screen_end(out);
}

/* --- JSON -------------------------------------------------------------------------------- */

static json_t *thread_json(const struct machine_model *m, const struct watched *w,
			   const struct watched_thread *t)
{
	unsigned node = watched_node_of(m, t->task.pu);
	json_t *pus = json_array();

	pu_set_for_each(pu, &t->task.affinity) json_array_append_new(pus, json_integer(pu));
	return json_pack("{s:i s:s s:o s:i s:o s:o s:f s:o s:f}", "tid", t->task.tid, "name",
			 t->task.name, "vcpu", t->vcpu < 0 ? json_null() : json_integer(t->vcpu),
			 "pu", t->task.pu, "node",
			 node == MACHINE_NONE ? json_null() : json_integer(m->node[node].os_index),
			 "bound_to", pus, "busy", t->busy, "migrations",
			 t->moves == PROC_UNKNOWN ? json_null()
						  : json_integer((json_int_t)t->task.migrations),
			 "local", watched_local(m, w, t->task.pu));
}

static json_t *one_json(const struct machine_model *m, const struct watched *w)
{
	json_t *threads = json_array(), *memory = json_array();

	for (unsigned i = 0; i < w->nr; i++)
		json_array_append_new(threads, thread_json(m, w, &w->thread[i]));
	for (unsigned i = 0; i < PROC_NODES_MAX; i++)
		if (w->memory.node_bytes[i])
			json_array_append_new(memory,
					      json_pack("{s:i s:I}", "node", i, "bytes",
							(json_int_t)w->memory.node_bytes[i]));
	return json_pack("{s:s s:s s:i s:o s:o}", "name", w->name, "kind", w->kind, "pid", w->pid,
			 "threads", threads, "memory", memory);
}

static int print_json(const struct machine_model *m, const struct watched_list *l, bool once)
{
	json_t *all = json_array();

	for (unsigned i = 0; i < l->nr; i++)
		json_array_append_new(all, one_json(m, &l->one[i]));
	return report_json(json_pack("{s:o}", "processes", all),
			   once ? JSON_INDENT(2) : JSON_COMPACT, 0);
}

/* --- the command ------------------------------------------------------------------------- */

static int look(struct watched_list *l, const struct pin_options *o, const char *name)
{
	int err = watched_look(l, (pid_t)o->pid, name);

	if (err == -ESRCH && o->pid)
		return user_error("process %u: there is none, or it has ended", o->pid);
	if (err == -ESRCH)
		return user_error("%s: no machine of this name runs, or it has ended: `alcazar ps` "
				  "lists them",
				  name);
	if (err == -EACCES)
		return user_error("process %u: may not be looked at: be its user, or root", o->pid);
	return err ? internal_error("cannot look at what runs here: %s", strerror(-err)) : 0;
}

static int print(struct screen *out, const struct scene *s, const struct watched_list *l,
		 const struct pin_options *o)
{
	if (o->run.json)
		return print_json(&s->m, l, o->once);
	print_text(out, &s->m, l);
	return finish_output(0);
}

static int watch(const struct pin_options *o, const char *name)
{
	struct watched_list l = { 0 };
	struct scene s = { 0 };
	struct screen out = { 0 };
	int status = pin_scene(o, &s);
	bool more = true;

	if (!status)
		status = look(&l, o, name);
	if (!status)
		screen_open(&out, !o->once && !o->run.json);
	if (!status)
		more = screen_wait(&out, FIRST_MS);
	while (!status && more) {
		status = look(&l, o, name);
		if (!status)
			status = print(&out, &s, &l, o);
		more = !status && !o->once && screen_wait(&out, o->interval_ms);
	}
	screen_close(&out);
	watched_free(&l);
	scene_free(&s);
	return status;
}

int cmd_watch(int argc, char **argv)
{
	struct option_set set = {
		.command = "watch",
		.summary =
			"Watch the threads of our machine NAME, of a process, or of all machines "
			"here,\nuntil q or Ctrl-C.",
		.table = table,
		.nr = ARRAY_SIZE(table),
	};
	struct pin_options o = { .interval_ms = 1000 };
	const char *name = pin_take_name(&argc, &argv);
	int status = pin_options_get(&set, argc, argv, &o);

	if (!status && !o.run.help && name && o.pid)
		status = user_error("say the name of a machine or --pid PID, not both");
	else if (!status && !o.run.help)
		status = watch(&o, name);
	options_free(&set);
	return status;
}
