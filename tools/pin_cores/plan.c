/* plan.c - `pin_cores plan` and `pin_cores explain`: what would be done, and why. */
#include "host/linux/cmd/cmd.h"
#include "host/linux/cmd/report.h"
#include "pin_cores.h"
#include "placing.h"
#include "record.h"

#include <stdlib.h>

/* clang-format off */
static const struct option table[] = {
	PIN_OPTION_PID,
	{ "cpus", "N", OPT_NUMBER, PIN_OFFSET(run.cpus), .min = 1, .max = PLAN_VCPUS_MAX,
	  .help = "vCPUs, or threads (1)" },
	{ "memory", "SIZE", OPT_SIZE, PIN_OFFSET(run.memory), .min = MIB(1), .max = GIB(65536),
	  .help = "memory: 512M, 4G (1G)" },
	{ "node", "cpus=..,memory=..", OPT_LIST, PIN_OFFSET(run.node),
	  .help = "one guest node, repeated: cpus=0-3,memory=2G,host-node=1,pages=2M" },
	{ "pages", "SIZE", OPT_SIZE, PIN_OFFSET(run.pages), .min = KIB(4), .max = GIB(1),
	  .help = "size of the host pages behind memory (the host's base pages)" },
	PIN_OPTIONS_PLACING,
	PIN_OPTION_TOPOLOGY,
	PIN_OPTION_SVG,
	PIN_OPTION_JSON,
	PIN_OPTION_HELP,
};
/* clang-format on */

/* --- what it would change ---------------------------------------------------------------- */

static unsigned count_to_bind(const struct placing *p)
{
	unsigned nr = 0;

	for (unsigned i = 0; i < p->plan.nr_vcpus; i++) {
		const struct proc_task *t = proc_tasks_find(&p->subject.tasks, p->subject.tid[i]);
		struct pu_set want = { 0 };

		pu_set_add(&want, p->plan.vcpu[i].pu);
		nr += !t || memcmp(&t->affinity, &want, sizeof(want)) != 0;
	}
	return nr;
}

/* What lies on nodes that are nobody's home. */
static uint64_t bytes_away(const struct placing *p)
{
	uint64_t away = p->subject.memory.bytes;
	struct pu_set homes = { 0 };

	for (unsigned i = 0; i < p->plan.nr_memory; i++)
		pu_set_add(&homes, (unsigned)p->plan.memory[i].host_node);
	for (unsigned node = 0; node < PROC_NODES_MAX; node++)
		if (pu_set_has(&homes, node))
			away -= p->subject.memory.node_bytes[node];
	return p->plan.memory[0].host_node < 0 ? 0 : away;
}

static void print_changes(const struct placing *p)
{
	char away[SIZE_TEXT], all[SIZE_TEXT];
	unsigned nr = count_to_bind(p);

	printf("\nto bind: %u of %u threads; to move: %s of %s\n", nr, p->plan.nr_vcpus,
	       size_text(bytes_away(p), away), size_text(p->subject.memory.bytes, all));
}

/* --- the command ------------------------------------------------------------------------- */

static int print(struct placing *p, const struct pin_options *o)
{
	char title[128];

	placing_title(p, title, sizeof(title));
	if (o->svg) {
		if (scene_add_plan(&p->scene, title, &p->plan) || scene_seat(&p->scene))
			return internal_error("out of memory");
		return pin_paint(o, &p->scene);
	}
	if (o->run.json)
		return report_json(record_json(p, false), JSON_INDENT(2), 0);
	report_plan(stdout, title, &p->scene.m, &p->plan);
	if (p->has_subject)
		print_changes(p);
	if (o->run.explain)
		report_explanation(stdout, &p->plan);
	return finish_output(0);
}

static int check(const struct option_set *set, const struct pin_options *o)
{
	static const char *const own[] = { "cpus", "memory", "node", "pages" };

	for (size_t i = 0; o->pid && i < ARRAY_SIZE(own); i++)
		if (set->given[options_find(set, own[i])].text)
			return user_error("--pid %u: the process says how much it needs: leave "
					  "--%s out",
					  o->pid, own[i]);
	return 0;
}

static int make(struct option_set *set, struct pin_options *o)
{
	struct placing *p = calloc(1, sizeof(*p));
	int status = p ? check(set, o) : internal_error("out of memory");

	if (!status)
		status = placing_begin(p, o, PLACING_LOOK);
	if (!status && o->svg && !o->run.topology && scene_add_running(&p->scene))
		status = internal_error("cannot tell what runs here");
	if (!status)
		status = placing_plan(p, set, o);
	if (!status)
		status = print(p, o);
	if (p)
		placing_end(p);
	free(p);
	return status;
}

static int plan(int argc, char **argv, bool explain)
{
	struct option_set set = {
		.command = explain ? "explain" : "plan",
		.summary = explain ? "Tell where something would run, what that costs, and what "
				     "was rejected."
				   : "Tell where something would run; nothing is changed.",
		.table = table,
		.nr = ARRAY_SIZE(table),
	};
	struct pin_options o = { .run = { .cpus = 1, .memory = GIB(1), .explain = explain } };
	int status = pin_options_get(&set, argc, argv, &o);

	if (!status && !o.run.help)
		status = make(&set, &o);
	options_free(&set);
	return status;
}

int cmd_plan(int argc, char **argv)
{
	return plan(argc, argv, false);
}

int cmd_explain(int argc, char **argv)
{
	return plan(argc, argv, true);
}
