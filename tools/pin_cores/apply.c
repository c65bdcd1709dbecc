/*
 * apply.c - `pin_cores apply`: threads of a running machine or program go where a plan
 * wants them, and its memory too, if asked.
 *
 * The ledger is locked from the look at the others until the threads are bound; moving
 * memory takes longer, and does not need it.
 */
#include "apply.h"

#include "bind.h"
#include "host/linux/cmd/cmd.h"
#include "host/linux/cmd/report.h"
#include "ours.h"
#include "pin_cores.h"
#include "placing.h"
#include "record.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

/* clang-format off */
static const struct option table[] = {
	PIN_OPTION_PID,
	{ "memory", NULL, OPT_SWITCH, PIN_OFFSET(move_memory),
	  .help = "move its memory, too" },
	{ "plan", "FILE", OPT_TEXT, PIN_OFFSET(plan_file),
	  .help = "a plan that `pin_cores plan --json` printed, instead of a new one" },
	PIN_OPTIONS_PLACING,
	PIN_OPTION_JSON,
	PIN_OPTION_HELP,
};
/* clang-format on */

/* --- the plan ---------------------------------------------------------------------------- */

/* A file's plan has PUs of any machine: they must be this one's. */
static int check_plan(const struct placing *p, const char *path)
{
	const struct machine_model *m = &p->scene.m;

	if (p->plan.nr_vcpus != p->subject.nr)
		return user_error("--plan %s: is for %u threads, but process %d has %u to place",
				  path, p->plan.nr_vcpus, (int)p->subject.pid, p->subject.nr);
	for (unsigned i = 0; i < p->plan.nr_vcpus; i++) {
		unsigned pu = machine_find_pu(m, p->plan.vcpu[i].pu);

		if (pu == MACHINE_NONE || !m->pu[pu].usable)
			return user_error("--plan %s: PU %u is not there, or may not be used", path,
					  p->plan.vcpu[i].pu);
	}
	for (unsigned i = 0; i < p->plan.nr_memory; i++) {
		int node = p->plan.memory[i].host_node;

		if (node >= 0 && machine_find_node(m, (unsigned)node) == MACHINE_NONE)
			return user_error("--plan %s: there is no node %d here", path, node);
	}
	return 0;
}

/* Before anything is locked: what is read may be a pipe, from one who has to plan first. */
static int read_plan(struct placing *p, const char *path)
{
	struct record *r = calloc(1, sizeof(*r));
	int status = r ? record_read(path, r) : internal_error("out of memory");

	if (!status)
		p->plan = r->plan;
	free(r);
	return status;
}

/* --- threads ----------------------------------------------------------------------------- */

static bool is_home(const struct plan *p, const struct machine_model *m,
		    const struct machine_pu *pu)
{
	for (unsigned i = 0; i < p->nr_memory && pu->node != MACHINE_NONE; i++)
		if ((int)m->node[pu->node].os_index == p->memory[i].host_node)
			return true;
	return pu->node == MACHINE_NONE;
}

static bool is_taken(const struct placing *p, unsigned pu)
{
	for (unsigned i = 0; i < p->claims.nr; i++)
		if (pu_set_has(&p->claims.claim[i].pus, pu))
			return true;
	return pu_set_has(&p->plan.claim, pu);
}

/*
 * Where the other threads go: the PUs that are planned for I/O, and those of the homes that
 * carry no vCPU; where there are none, all of the homes'.
 */
static void find_beside(const struct placing *p, struct pu_set *out)
{
	const struct machine_model *m = &p->scene.m;
	struct pu_set near = { 0 };

	pu_set_clear(out);
	for (unsigned i = 0; i < p->plan.nr_io; i++)
		pu_set_add(out, p->plan.io[i].pu);
	for (unsigned i = 0; i < m->nr_pus; i++) {
		const struct machine_pu *pu = &m->pu[i];

		if (!pu->usable || !is_home(&p->plan, m, pu))
			continue;
		pu_set_add(&near, pu->os_index);
		if (!is_taken(p, pu->os_index))
			pu_set_add(out, pu->os_index);
	}
	if (!pu_set_count(out))
		*out = near;
}

static unsigned list_threads(const struct placing *p, struct bind_one *out)
{
	const struct subject *s = &p->subject;
	struct pu_set beside;
	unsigned nr = 0;

	for (unsigned i = 0; i < s->nr; i++) {
		out[nr].tid = s->tid[i];
		pu_set_add(&out[nr++].pus, p->plan.vcpu[i].pu);
	}
	find_beside(p, &beside);
	for (unsigned i = 0; i < s->tasks.nr && pu_set_count(&beside); i++) {
		if (subject_find(s, s->tasks.task[i].tid) >= 0)
			continue;
		out[nr].tid = s->tasks.task[i].tid;
		out[nr].optional = true;
		out[nr++].pus = beside;
	}
	return nr;
}

int apply_binding_failed(pid_t pid, pid_t tid, int err)
{
	switch (err) {
	case -ESRCH:
		return user_error("process %d: thread %d has ended meanwhile: nothing was changed",
				  (int)pid, (int)tid);
	case -EPERM:
	case -EACCES:
		return user_error("process %d: its threads may not be bound: be its user, or root",
				  (int)pid);
	case -EINVAL:
		return user_error("process %d: its control group's cpuset forbids the PUs of the "
				  "plan: widen it, or name others with --pin",
				  (int)pid);
	default:
		return internal_error("process %d: thread %d: %s", (int)pid, (int)tid,
				      strerror(-err));
	}
}

static int bind_subject(struct placing *p, unsigned *others)
{
	struct bind_one *one = calloc(p->subject.nr + p->subject.tasks.nr, sizeof(*one));
	unsigned nr, failed = 0;
	int err, status = 0;

	if (!one)
		return internal_error("out of memory");
	nr = list_threads(p, one);
	err = bind_all(one, nr, &failed);
	if (err)
		status = apply_binding_failed(p->subject.pid, one[failed].tid, err);
	*others = nr - p->subject.nr;
	free(one);
	return status;
}

/* --- memory ------------------------------------------------------------------------------ */

static void show_progress(void *arg, uint64_t done, uint64_t all)
{
	unsigned *shown = arg, percent = all ? (unsigned)(done * 100 / all) : 100;

	if (percent == *shown)
		return;
	*shown = percent;
	fprintf(stderr, "\rmoving memory: %3u %%", MIN(percent, 100));
}

static int moving_failed(pid_t pid, int err)
{
	if (err == -ESRCH)
		return user_error("process %d: ended while its memory was moved", (int)pid);
	if (err == -EPERM || err == -EACCES)
		return user_error("process %d: its memory may not be moved: be its user, or root",
				  (int)pid);
	return internal_error("process %d: its memory cannot be moved: %s", (int)pid,
			      strerror(-err));
}

int apply_memory(pid_t pid, const struct plan *plan, struct mover_result *out)
{
	struct mover_home home[PLAN_NODES_MAX];
	struct proc_memory memory;
	bool terminal = isatty(STDERR_FILENO);
	unsigned shown = UINT32_MAX;
	int err = proc_memory_read(pid, &memory);

	*out = (struct mover_result){ 0 };
	if (err)
		return moving_failed(pid, err);
	for (unsigned i = 0; i < plan->nr_memory; i++)
		home[i] = (struct mover_home){ .node = (unsigned)plan->memory[i].host_node,
					       .bytes = plan->memory[i].bytes };
	if (plan->memory[0].host_node >= 0)
		err = mover_run(pid, &memory, home, plan->nr_memory,
				terminal ? show_progress : NULL, &shown, out);
	if (terminal)
		fputs("\r                     \r", stderr);
	proc_memory_free(&memory);
	return err ? moving_failed(pid, err) : 0;
}

void apply_print_memory(const struct mover_result *r)
{
	char moved[SIZE_TEXT], seen[SIZE_TEXT], left[SIZE_TEXT];

	printf("moved %s of %s in %.2f s", size_text(r->moved_bytes, moved),
	       size_text(r->seen_bytes, seen), (double)r->ns / NSEC_PER_SEC);
	if (r->stuck_bytes)
		printf("; %s could not be moved: %s", size_text(r->stuck_bytes, left),
		       strerror(-r->stuck_err));
	putchar('\n');
}

/* --- the command ------------------------------------------------------------------------- */

static int print_text(const struct placing *p, unsigned others, const struct mover_result *moved,
		      bool memory)
{
	char title[128];

	report_plan(stdout, placing_title(p, title, sizeof(title)), &p->scene.m, &p->plan);
	printf("\nbound %u %s%s", p->subject.nr, p->subject.unit, p->subject.nr == 1 ? "" : "s");
	if (others)
		printf(", and %u other thread%s beside them", others, others == 1 ? "" : "s");
	putchar('\n');
	if (memory)
		apply_print_memory(moved);
	return finish_output(0);
}

static int print_json(const struct placing *p, unsigned others, const struct mover_result *moved,
		      bool memory)
{
	json_t *doc = record_json(p, memory);

	if (doc)
		json_object_set_new(doc, "moved",
				    json_pack("{s:I s:I s:I}", "seen_bytes",
					      (json_int_t)moved->seen_bytes, "moved_bytes",
					      (json_int_t)moved->moved_bytes, "stuck_bytes",
					      (json_int_t)moved->stuck_bytes));
	if (doc)
		json_object_set_new(doc, "other_threads", json_integer(others));
	return report_json(doc, JSON_INDENT(2), 0);
}

/* A plan that is made is not made again. */
static int check_words(const struct option_set *set, const struct pin_options *o)
{
	static const char *const placing[] = { "policy", "nodes", "pin", "exclusive" };

	for (size_t i = 0; o->plan_file && i < ARRAY_SIZE(placing); i++)
		if (set->given[options_find(set, placing[i])].text)
			return user_error("--plan %s: says already where everything goes: leave "
					  "--%s out",
					  o->plan_file, placing[i]);
	return 0;
}

static int act(struct placing *p, struct option_set *set, struct pin_options *o)
{
	struct mover_result moved = { 0 };
	unsigned others = 0;
	int status = check_words(set, o);

	if (!status && o->plan_file)
		status = read_plan(p, o->plan_file);
	if (!status)
		status = placing_begin(p, o, PLACING_ACT);
	if (!status)
		status = o->plan_file ? check_plan(p, o->plan_file) : placing_plan(p, set, o);
	if (!status && !subject_lives(&p->subject))
		status = user_error("process %d: has ended meanwhile", (int)o->pid);
	if (!status)
		status = bind_subject(p, &others);
	placing_unlock(p);
	if (!status && o->move_memory)
		status = apply_memory(p->subject.pid, &p->plan, &moved);
	if (!status)
		status = record_write(p, o->move_memory);
	if (status)
		return status;
	return o->run.json ? print_json(p, others, &moved, o->move_memory)
			   : print_text(p, others, &moved, o->move_memory);
}

static int apply(struct option_set *set, struct pin_options *o)
{
	struct placing *p = calloc(1, sizeof(*p));
	int status = p ? act(p, set, o) : internal_error("out of memory");

	if (p)
		placing_end(p);
	free(p);
	return status;
}

int cmd_apply(int argc, char **argv)
{
	struct option_set set = {
		.command = "apply",
		.summary = "Bind the threads of a machine or program as planned. A machine's NAME, "
			   "in place of\n--pid, binds ours as the ledger has it.",
		.table = table,
		.nr = ARRAY_SIZE(table),
	};
	struct pin_options o = { 0 };
	const char *name = pin_take_name(&argc, &argv);
	int status = pin_options_get(&set, argc, argv, &o);

	if (!status && !o.run.help && name && o.pid)
		status = user_error("say a machine's name or --pid, not both");
	else if (!status && !o.run.help && name)
		status = ours_apply(name, &o);
	else if (!status && !o.run.help && !o.pid)
		status = user_error("nothing named: say --pid PID, or the name of a machine: "
				    "`alcazar ps` lists them");
	else if (!status && !o.run.help)
		status = apply(&set, &o);
	options_free(&set);
	return status;
}
