/*
 * verify.c - `pin_cores verify`: are threads and memory where they were planned? The
 * plan is that of the last `apply`, a file's, or for our machines the ledger's.
 */
#include "host/linux/cmd/cmd.h"
#include "host/linux/cmd/report.h"
#include "host/linux/pu_list.h"
#include "ours.h"
#include "pin_cores.h"
#include "record.h"
#include "subject.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

/* clang-format off */
static const struct option table[] = {
	PIN_OPTION_PID,
	{ "plan", "FILE", OPT_TEXT, PIN_OFFSET(plan_file),
	  .help = "a plan that `pin_cores plan --json` printed (the last one applied)" },
	{ "memory", NULL, OPT_SWITCH, PIN_OFFSET(move_memory),
	  .help = "memory counts, too, even if it was not moved" },
	{ "local", "PERCENT", OPT_NUMBER, PIN_OFFSET(local), .min = 0, .max = 100,
	  .help = "how much of the memory must be at home, if it counts (95)" },
	PIN_OPTION_JSON,
	PIN_OPTION_HELP,
};
/* clang-format on */

struct truth {
	const struct record *r;
	struct proc_tasks tasks;
	struct proc_memory memory;
	bool memory_known, memory_counts;
	uint64_t home_bytes;
	unsigned astray;
	bool local;
};

/* --- the truth --------------------------------------------------------------------------- */

static const struct proc_task *task_of(const struct truth *t, unsigned i)
{
	return proc_tasks_find(&t->tasks, t->r->tid[i]);
}

static bool in_place(const struct truth *t, unsigned i)
{
	const struct proc_task *task = task_of(t, i);
	struct pu_set want = { 0 };

	pu_set_add(&want, t->r->plan.vcpu[i].pu);
	return task && !memcmp(&task->affinity, &want, sizeof(want));
}

static uint64_t bytes_at_home(const struct truth *t)
{
	struct pu_set homes = { 0 };
	uint64_t bytes = 0;

	for (unsigned i = 0; i < t->r->plan.nr_memory; i++) {
		if (t->r->plan.memory[i].host_node < 0)
			return t->memory.bytes; /* a host without nodes */
		pu_set_add(&homes, (unsigned)t->r->plan.memory[i].host_node);
	}
	for (unsigned node = 0; node < PROC_NODES_MAX; node++)
		if (pu_set_has(&homes, node))
			bytes += t->memory.node_bytes[node];
	return bytes;
}

static int find_truth(struct truth *t, const struct pin_options *o)
{
	pid_t pid = t->r->pid;
	uint64_t start;
	int err = proc_start_time(pid, &start);

	if (!err && start != t->r->start)
		return user_error("process %d is not the one the plan was made for: that one has "
				  "ended",
				  (int)pid);
	if (!err)
		err = proc_tasks_read(pid, &t->tasks);
	if (err)
		return user_error("process %d: %s", (int)pid,
				  err == -ESRCH ? "has ended" : strerror(-err));
	err = proc_memory_read(pid, &t->memory);
	t->memory_known = !err;
	t->memory_counts = o->move_memory || t->r->memory;
	if (err && t->memory_counts)
		return user_error("process %d: where its memory lies may not be seen: be its user, "
				  "or root",
				  (int)pid);
	for (unsigned i = 0; i < t->r->nr; i++)
		t->astray += !in_place(t, i);
	t->home_bytes = bytes_at_home(t);
	t->local = (double)t->home_bytes * 100 >= (double)t->memory.bytes * o->local;
	return 0;
}

static int verdict(const struct truth *t)
{
	return t->astray || (t->memory_counts && !t->local) ? STATUS_DRIFT : 0;
}

static double home_percent(const struct truth *t)
{
	return t->memory.bytes ? (double)t->home_bytes * 100 / (double)t->memory.bytes : 100;
}

/* --- as text, as JSON -------------------------------------------------------------------- */

static void print_thread(const struct truth *t, unsigned i)
{
	const struct proc_task *task = task_of(t, i);
	char list[64];

	if (task)
		printf("%4u  thread %-8d planned PU %-4u bound to %-10s last ran on PU %-4u %s\n",
		       i, (int)task->tid, t->r->plan.vcpu[i].pu,
		       pu_list_text(&task->affinity, list, sizeof(list)), task->pu,
		       in_place(t, i) ? "ok" : "ASTRAY");
	else
		printf("%4u  thread %-8d planned PU %-4u has ended\n", i, (int)t->r->tid[i],
		       t->r->plan.vcpu[i].pu);
}

static int print_text(const struct truth *t)
{
	char home[SIZE_TEXT], all[SIZE_TEXT], name[PROC_NAME_BYTES];

	proc_name(t->r->pid, name);
	printf("%s, pid %d: %u of %u threads as planned\n", name, (int)t->r->pid,
	       t->r->nr - t->astray, t->r->nr);
	for (unsigned i = 0; i < t->r->nr; i++)
		print_thread(t, i);
	if (t->memory_known)
		printf("memory: %s of %s at home, %.1f %%%s\n", size_text(t->home_bytes, home),
		       size_text(t->memory.bytes, all), home_percent(t),
		       !t->memory_counts ? ""
		       : t->local        ? ", ok"
					 : ", ASTRAY");
	return finish_output(verdict(t));
}

static json_t *thread_json(const struct truth *t, unsigned i)
{
	const struct proc_task *task = task_of(t, i);
	json_t *pus = json_array();

	if (task)
		pu_set_for_each(pu, &task->affinity) json_array_append_new(pus, json_integer(pu));
	return json_pack("{s:i s:i s:i s:o s:o s:b}", "id", i, "tid", t->r->tid[i], "planned_pu",
			 t->r->plan.vcpu[i].pu, "bound_to", pus, "pu",
			 task ? json_integer(task->pu) : json_null(), "ok", in_place(t, i));
}

static int print_json(const struct truth *t)
{
	json_t *threads = json_array(), *nodes = json_array();

	for (unsigned i = 0; i < t->r->nr; i++)
		json_array_append_new(threads, thread_json(t, i));
	for (unsigned i = 0; i < PROC_NODES_MAX; i++)
		if (t->memory.node_bytes[i])
			json_array_append_new(nodes,
					      json_pack("{s:i s:I}", "node", i, "bytes",
							(json_int_t)t->memory.node_bytes[i]));
	return report_json(json_pack("{s:i s:b s:i s:o s:b s:f s:o}", "pid", t->r->pid, "ok",
				     verdict(t) == 0, "astray", t->astray, "threads", threads,
				     "memory_counts", t->memory_counts, "home_percent",
				     home_percent(t), "memory", nodes),
			   JSON_INDENT(2), verdict(t));
}

/* --- the command ------------------------------------------------------------------------- */

/* A plan that was never applied to anything is for the process as it is now. */
static int adopt(struct record *r, pid_t pid)
{
	struct subject *s = calloc(1, sizeof(*s));
	int status = s ? subject_read(pid, s) : internal_error("out of memory");

	if (!status && s->nr != r->plan.nr_vcpus)
		status = user_error("the plan is for %u threads, but process %d has %u to place",
				    r->plan.nr_vcpus, (int)pid, s->nr);
	if (!status) {
		r->pid = pid;
		r->start = s->start;
		r->nr = s->nr;
		memcpy(r->tid, s->tid, sizeof(r->tid));
	}
	if (s)
		subject_free(s);
	free(s);
	return status;
}

/* Records are believed where only we can write; no directory: no record. */
static int check_directory(void)
{
	struct ledger *l = NULL;
	char why[LEDGER_WHY_BYTES];
	int err = ledger_open(NULL, false, &l, why, sizeof(why));

	ledger_close(l);
	return err && err != -ENOENT ? user_error("%s", why) : 0;
}

static int read_plan(const struct pin_options *o, struct record *r)
{
	char path[RECORD_PATH_BYTES];
	uint64_t start;
	int status;

	if (proc_start_time((pid_t)o->pid, &start))
		return user_error("process %u: there is none, or it has just ended", o->pid);
	if (!o->plan_file && access(record_path((pid_t)o->pid, path), F_OK))
		return user_error("process %u: no plan was applied to it: say `pin_cores apply "
				  "--pid %u`, or name one with --plan",
				  o->pid, o->pid);
	status = o->plan_file ? 0 : check_directory();
	if (!status)
		status = record_read(o->plan_file ? o->plan_file : path, r);
	if (status)
		return status;
	if (r->pid && r->pid != (pid_t)o->pid)
		return user_error("--plan %s: is for process %d", o->plan_file, (int)r->pid);
	return r->pid ? 0 : adopt(r, (pid_t)o->pid);
}

static int compare(const struct record *r, const struct pin_options *o)
{
	struct truth *t = calloc(1, sizeof(*t));
	int status = t ? 0 : internal_error("out of memory");

	if (!status) {
		t->r = r;
		status = find_truth(t, o);
	}
	if (!status)
		status = o->run.json ? print_json(t) : print_text(t);
	if (t) {
		proc_tasks_free(&t->tasks);
		proc_memory_free(&t->memory);
	}
	free(t);
	return status;
}

static int verify(const char *name, const struct pin_options *o)
{
	struct record *r = calloc(1, sizeof(*r));
	int status = r ? 0 : internal_error("out of memory");

	if (!status)
		status = name ? ours_record(name, r) : read_plan(o, r);
	if (!status)
		status = compare(r, o);
	free(r);
	return status;
}

int cmd_verify(int argc, char **argv)
{
	struct option_set set = {
		.command = "verify",
		.summary = "Compare threads and memory of a process, or of our machine NAME, with "
			   "the plan.\nStatus 0: as planned; 1: astray.",
		.table = table,
		.nr = ARRAY_SIZE(table),
	};
	struct pin_options o = { .local = 95 };
	const char *name = pin_take_name(&argc, &argv);
	int status = pin_options_get(&set, argc, argv, &o);

	if (!status && !o.run.help && !name == !o.pid)
		status = user_error("say the name of a machine or --pid PID, one of them");
	else if (!status && !o.run.help)
		status = verify(name, &o);
	options_free(&set);
	return status;
}
