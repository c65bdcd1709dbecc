/*
 * live_cmd.c - `alcazar stop`, `pause`, `resume`, `move` and `rebalance`: what a running
 * machine is told to do.
 */
#include "client.h"
#include "cmd.h"
#include "live_cmd.h"

#include "placement/plan.h"

#include <stdio.h>
#include <unistd.h>

#define GONE_SECONDS 60

/* --- the name, and the options -------------------------------------------------------- */

int live_options(struct option_set *s, int argc, char **argv, void *o, const char **name)
{
	const bool *help = o;
	int status;

	*name = argc > 1 && argv[1][0] != '-' ? argv[1] : NULL;
	if (*name) {
		argc--;
		argv++;
	}
	if (!options_take(s, argc, argv, o, help, &status))
		return status;
	if (!*name)
		return user_error("which machine? Say `alcazar %s`; `alcazar ps` lists them",
				  s->command);
	return -1;
}

int live_ask(const char *name, json_t *request, void (*progress)(uint64_t done, uint64_t all),
	     json_t **result)
{
	struct client *c = NULL;
	int status = client_open(name, &c);

	if (status)
		json_decref(request);
	else
		status = client_call(c, request, progress, result);
	client_close(c);
	return status;
}

int live_int(const json_t *doc, const char *key)
{
	return (int)json_integer_value(json_object_get(doc, key));
}

double live_real(const json_t *doc, const char *key)
{
	return json_number_value(json_object_get(doc, key));
}

uint64_t live_bytes(const json_t *doc, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(doc, key));
}

const char *live_text(const json_t *doc, const char *key)
{
	const char *text = json_string_value(json_object_get(doc, key));

	return text ? text : "";
}

int live_print_json(const json_t *doc)
{
	json_dumpf(doc, stdout, JSON_INDENT(2));
	putchar('\n');
	return finish_output(0);
}

/* --- stop, pause, resume ---------------------------------------------------------------- */

struct plain_options {
	bool help;
};

static const struct option plain_table[] = {
	{ "help", NULL, OPT_SWITCH, offsetof(struct plain_options, help), .help = "this list" },
};

static int plain(int argc, char **argv, const char *command, const char *summary, const char **name)
{
	struct option_set s = { .command = command,
				.summary = summary,
				.table = plain_table,
				.nr = ARRAY_SIZE(plain_table) };
	struct plain_options o = { 0 };
	int status = live_options(&s, argc, argv, &o, name);

	options_free(&s);
	return status;
}

/* Done when the machine is gone, with all that it held. */
int cmd_stop(int argc, char **argv)
{
	struct client *c = NULL;
	json_t *result = NULL;
	const char *name;
	int status = plain(argc, argv, "stop NAME",
			   "End a machine as SIGTERM does, and wait until it is gone.", &name);

	if (status >= 0)
		return status;
	status = client_open(name, &c);
	if (!status)
		status = client_call(c, client_request("stop"), NULL, &result);
	if (!status && client_wait_gone(c, GONE_SECONDS))
		status = user_error("%s: it has not ended within %d s", name, GONE_SECONDS);
	json_decref(result);
	client_close(c);
	return status;
}

static int tell(const char *name, const char *command)
{
	json_t *result = NULL;
	int status = live_ask(name, client_request(command), NULL, &result);

	json_decref(result);
	return status;
}

int cmd_pause(int argc, char **argv)
{
	const char *name;
	int status = plain(argc, argv, "pause NAME",
			   "Stop a machine's vCPUs and its clock, until it is resumed.", &name);

	return status >= 0 ? status : tell(name, "pause");
}

int cmd_resume(int argc, char **argv)
{
	const char *name;
	int status = plain(argc, argv, "resume NAME", "Let a paused machine run on.", &name);

	return status >= 0 ? status : tell(name, "resume");
}

/* --- moves ------------------------------------------------------------------------------ */

#define NOT_GIVEN UINT32_MAX

static bool progress_shown;

/* On a terminal, over itself. */
static void show_progress(uint64_t done, uint64_t all)
{
	char is[SIZE_TEXT], whole[SIZE_TEXT];

	if (!isatty(STDERR_FILENO))
		return;
	fprintf(stderr, "\r%s of %s moved, %3.0f %% ", size_text(done, is), size_text(all, whole),
		all ? 100.0 * (double)done / (double)all : 100.0);
	progress_shown = true;
}

static void end_progress(void)
{
	if (progress_shown)
		fputs("\r\033[K", stderr);
	progress_shown = false;
}

static int ask_with_progress(const char *name, json_t *request, json_t **result)
{
	int status;

	if (request && isatty(STDERR_FILENO))
		json_object_set_new(request, "progress", json_true());
	status = live_ask(name, request, show_progress, result);
	end_progress();
	return status;
}

struct move_options {
	bool help, json;
	unsigned vcpu, node, to, rate;
};

/* clang-format off */
static const struct option move_table[] = {
	{ "vcpu", "N", OPT_NUMBER, offsetof(struct move_options, vcpu), .max = PLAN_VCPUS_MAX - 1,
	  .help = "move this vCPU's thread, to PU --to" },
	{ "memory", "NODE", OPT_NUMBER, offsetof(struct move_options, node),
	  .max = PLAN_NODES_MAX - 1,
	  .help = "move the memory of this guest node, to host node --to" },
	{ "to", "WHERE", OPT_NUMBER, offsetof(struct move_options, to), .max = PU_SET_MAX - 1,
	  .help = "a PU, or a host node: numbers as `alcazar topology` has them" },
	{ "rate", "MIB/S", OPT_NUMBER, offsetof(struct move_options, rate), .min = 1,
	  .max = 1u << 30, .help = "move no more memory a second (as fast as it goes)" },
	{ "json", NULL, OPT_SWITCH, offsetof(struct move_options, json),
	  .help = "tell what was done as JSON" },
	{ "help", NULL, OPT_SWITCH, offsetof(struct move_options, help), .help = "this list" },
};
/* clang-format on */

static int move_vcpu(const char *name, const struct move_options *o, json_t **result)
{
	json_t *request = client_request("move-vcpu");

	json_object_set_new(request, "vcpu", json_integer(o->vcpu));
	json_object_set_new(request, "to", json_integer(o->to));
	return live_ask(name, request, NULL, result);
}

static int move_memory(const char *name, const struct move_options *o, json_t **result)
{
	json_t *request = client_request("move-memory");

	json_object_set_new(request, "node", json_integer(o->node));
	json_object_set_new(request, "to", json_integer(o->to));
	if (o->rate)
		json_object_set_new(request, "rate", json_integer(o->rate));
	return ask_with_progress(name, request, result);
}

static void print_rate(const json_t *result)
{
	double seconds = live_real(result, "seconds");
	uint64_t bytes = live_bytes(result, "bytes");
	char text[SIZE_TEXT];

	printf("%s in %.2f s", size_text(bytes, text), seconds);
	if (seconds > 0)
		printf(", %.2f GiB/s", (double)bytes / (double)GIB(1) / seconds);
}

static void print_move(const struct move_options *o, const json_t *result)
{
	if (o->vcpu != NOT_GIVEN) {
		printf("vCPU %u: from PU %d to PU %u\n", o->vcpu, live_int(result, "from"), o->to);
		return;
	}
	printf("guest node %u: from host node %d to host node %u, ", o->node,
	       live_int(result, "from"), o->to);
	print_rate(result);
	putchar('\n');
}

static int check_move(const struct move_options *o)
{
	if ((o->vcpu == NOT_GIVEN) == (o->node == NOT_GIVEN) || o->to == NOT_GIVEN)
		return user_error("move: say --vcpu N --to PU, or --memory NODE --to HOSTNODE");
	if (o->rate && o->vcpu != NOT_GIVEN)
		return user_error("--rate %u: it is for --memory", o->rate);
	return 0;
}

int cmd_move(int argc, char **argv)
{
	struct option_set s = { .command = "move NAME",
				.summary = "Move a vCPU or memory while the guest runs.",
				.table = move_table,
				.nr = ARRAY_SIZE(move_table) };
	struct move_options o = { .vcpu = NOT_GIVEN, .node = NOT_GIVEN, .to = NOT_GIVEN };
	json_t *result = NULL;
	const char *name;
	int status = live_options(&s, argc, argv, &o, &name);

	options_free(&s);
	if (status >= 0)
		return status;
	status = check_move(&o);
	if (!status)
		status = o.vcpu != NOT_GIVEN ? move_vcpu(name, &o, &result)
					     : move_memory(name, &o, &result);
	if (!status && o.json)
		status = live_print_json(result);
	else if (!status) {
		print_move(&o, result);
		status = finish_output(0);
	}
	json_decref(result);
	return status;
}

/* --- rebalance -------------------------------------------------------------------------- */

struct rebalance_options {
	bool help, json, dry_run;
	unsigned rate;
};

/* clang-format off */
static const struct option rebalance_table[] = {
	{ "rate", "MIB/S", OPT_NUMBER, offsetof(struct rebalance_options, rate), .min = 1,
	  .max = 1u << 30, .help = "move no more memory a second (as fast as it goes)" },
	{ "dry-run", NULL, OPT_SWITCH, offsetof(struct rebalance_options, dry_run),
	  .help = "say what would be moved, and move nothing" },
	{ "json", NULL, OPT_SWITCH, offsetof(struct rebalance_options, json),
	  .help = "tell what was done as JSON" },
	{ "help", NULL, OPT_SWITCH, offsetof(struct rebalance_options, help), .help = "this list" },
};
/* clang-format on */

static void print_rebalance(const char *name, const json_t *result)
{
	const json_t *vcpus = json_object_get(result, "vcpus"), *e;
	const json_t *memory = json_object_get(result, "memory");
	char text[SIZE_TEXT];
	size_t i;

	if (!json_array_size(vcpus) && !json_array_size(memory)) {
		printf("%s: it could not be better placed: cost %.3f\n", name,
		       live_real(result, "cost_before"));
		return;
	}
	printf("%s: cost %.3f, was %.3f\n", name, live_real(result, "cost_after"),
	       live_real(result, "cost_before"));
	json_array_foreach(vcpus, i, e) printf("vCPU %d: from PU %d to PU %d\n", live_int(e, "id"),
					       live_int(e, "from"), live_int(e, "to"));
	json_array_foreach(memory, i, e)
		printf("guest node %d: %s from host node %d to host node %d\n",
		       live_int(e, "guest_node"), size_text(live_bytes(e, "bytes"), text),
		       live_int(e, "from"), live_int(e, "to"));
	if (json_object_get(result, "seconds")) {
		print_rate(result);
		putchar('\n');
	}
}

int cmd_rebalance(int argc, char **argv)
{
	struct option_set s = { .command = "rebalance NAME",
				.summary = "Plan a machine anew beside all others, and move it.",
				.table = rebalance_table,
				.nr = ARRAY_SIZE(rebalance_table) };
	struct rebalance_options o = { 0 };
	json_t *result = NULL, *request;
	const char *name;
	int status = live_options(&s, argc, argv, &o, &name);

	options_free(&s);
	if (status >= 0)
		return status;
	request = client_request("rebalance");
	if (o.rate)
		json_object_set_new(request, "rate", json_integer(o.rate));
	if (o.dry_run)
		json_object_set_new(request, "dry-run", json_true());
	status = ask_with_progress(name, request, &result);
	if (!status && o.json)
		status = live_print_json(result);
	else if (!status) {
		print_rebalance(name, result);
		status = finish_output(0);
	}
	json_decref(result);
	return status;
}
