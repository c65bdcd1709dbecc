/* live_show.c - `alcazar audit` and `stats`: what a running machine tells of itself. */
#include "client.h"
#include "cmd.h"
#include "live_cmd.h"
#include "report.h"

#include <stdio.h>

struct show_options {
	bool help, json;
};

static const struct option show_table[] = {
	{ "json", NULL, OPT_SWITCH, offsetof(struct show_options, json),
	  .help = "as a JSON document" },
	{ "help", NULL, OPT_SWITCH, offsetof(struct show_options, help), .help = "this list" },
};

/* Asks @request of the machine that is named. 0 and a result, or an exit status, or both none. */
static int show(struct option_set *s, int argc, char **argv, const char *request,
		struct show_options *o, json_t **result)
{
	const char *name;
	int status;

	s->table = show_table;
	s->nr = ARRAY_SIZE(show_table);
	status = live_options(s, argc, argv, o, &name);
	options_free(s);
	return status >= 0 ? status : live_ask(name, client_request(request), NULL, result);
}

/* --- audit ---------------------------------------------------------------------------- */

static bool is_true(const json_t *doc, const char *key)
{
	return json_is_true(json_object_get(doc, key));
}

static const char *drift_word(const json_t *entry)
{
	return is_true(entry, "ok") ? "" : "  DRIFT";
}

static void print_thread(const char *what, int number, const json_t *e)
{
	char allowed[24], runs_on[16] = "-";

	if (live_int(e, "runs_on") >= 0)
		snprintf(runs_on, sizeof(runs_on), "%d", live_int(e, "runs_on"));
	snprintf(allowed, sizeof(allowed), "%s", live_text(e, "allowed"));
	printf("%-4s %5d %10d %-16s %8s%s\n", what, number, live_int(e, "pu"), allowed, runs_on,
	       drift_word(e));
}

static void print_memory(const json_t *e)
{
	const json_t *on = json_object_get(e, "on"), *part;
	char resident[SIZE_TEXT], all[SIZE_TEXT], text[SIZE_TEXT];
	size_t i;

	printf("guest node %d: %s of %s resident, %.1f %% local%s; on host node%s",
	       live_int(e, "guest_node"), size_text(live_bytes(e, "resident_bytes"), resident),
	       size_text(live_bytes(e, "bytes"), all), live_real(e, "local_percent"), drift_word(e),
	       json_array_size(on) == 1 ? "" : "s");
	json_array_foreach(on, i, part)
		printf("%s %d: %s", i ? "," : "", live_int(part, "host_node"),
		       size_text(live_bytes(part, "bytes"), text));
	printf(" (planned: %d)\n", live_int(e, "host_node"));
}

static void print_audit(const json_t *doc)
{
	const json_t *e;
	size_t i;

	printf("%s: %s, %.1f %% of its memory local\n", live_text(doc, "name"),
	       is_true(doc, "drift") ? "something drifted" : "all is where it was planned",
	       live_real(doc, "local_percent"));
	printf("%-10s %10s %-16s %8s\n", "thread", "planned PU", "allowed", "runs on");
	json_array_foreach(json_object_get(doc, "vcpus"), i, e)
		print_thread("vCPU", live_int(e, "id"), e);
	json_array_foreach(json_object_get(doc, "io"), i, e)
		print_thread("I/O", live_int(e, "host_node"), e);
	json_array_foreach(json_object_get(doc, "memory"), i, e) print_memory(e);
}

int cmd_audit(int argc, char **argv)
{
	struct option_set s = { .command = "audit NAME",
				.summary = "Compare where a machine's threads and pages are "
					   "with where they were planned." };
	struct show_options o = { 0 };
	json_t *doc = NULL;
	int status = show(&s, argc, argv, "audit", &o, &doc);

	if (!doc)
		return status;
	if (o.json)
		status = live_print_json(doc);
	else {
		print_audit(doc);
		status = finish_output(0);
	}
	if (!status && is_true(doc, "drift"))
		status = STATUS_DRIFT;
	json_decref(doc);
	return status;
}

/* --- stats ---------------------------------------------------------------------------- */

int cmd_stats(int argc, char **argv)
{
	struct option_set s = { .command = "stats NAME",
				.summary = "Show a running machine's counters." };
	struct show_options o = { 0 };
	json_t *doc = NULL;
	int status = show(&s, argc, argv, "stats", &o, &doc);

	if (!doc)
		return status;
	if (o.json)
		status = live_print_json(doc);
	else {
		printf("%s: %s engine, %.1f s\n", live_text(doc, "name"), live_text(doc, "engine"),
		       live_real(doc, "seconds"));
		report_counters(stdout, json_object_get(doc, "vcpus"));
		report_accelerations(stdout, json_object_get(doc, "kvm"));
		status = finish_output(0);
	}
	json_decref(doc);
	return status;
}
