/*
 * control_parse.c - from a line of bytes to a request, and from results to answers.
 *
 * The line is hostile: each key must be known to its command, each value of its type
 * and range, and nothing may be left over. No side effects.
 */
#include "control.h"

#include "placement/plan.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>

#define RATE_MAX (1u << 30) /* MiB/s */
#define ID_BYTES 128

enum key_kind { KEY_NUMBER, KEY_FLAG };

#define ON(command) BIT(CONTROL_##command)

static const struct key {
	const char *name;
	enum key_kind kind;
	size_t offset;
	unsigned max;
	unsigned needed, allowed; /* by commands: bits of enum control_command */
} keys[] = {
	{ "vcpu", KEY_NUMBER, offsetof(struct control_request, vcpu), PLAN_VCPUS_MAX - 1,
	  ON(MOVE_VCPU), 0 },
	{ "node", KEY_NUMBER, offsetof(struct control_request, node), PLAN_NODES_MAX - 1,
	  ON(MOVE_MEMORY), 0 },
	{ "to", KEY_NUMBER, offsetof(struct control_request, to), PU_SET_MAX - 1,
	  ON(MOVE_VCPU) | ON(MOVE_MEMORY), 0 },
	{ "rate", KEY_NUMBER, offsetof(struct control_request, rate_mibs), RATE_MAX, 0,
	  ON(MOVE_MEMORY) | ON(REBALANCE) },
	{ "progress", KEY_FLAG, offsetof(struct control_request, progress), 0, 0,
	  ON(MOVE_MEMORY) | ON(REBALANCE) },
	{ "dry-run", KEY_FLAG, offsetof(struct control_request, dry_run), 0, 0, ON(REBALANCE) },
};

static const char *const command_name[CONTROL_COMMANDS] = {
	[CONTROL_STATUS] = "status",       [CONTROL_STOP] = "stop",
	[CONTROL_PAUSE] = "pause",         [CONTROL_RESUME] = "resume",
	[CONTROL_MOVE_VCPU] = "move-vcpu", [CONTROL_MOVE_MEMORY] = "move-memory",
	[CONTROL_REBALANCE] = "rebalance", [CONTROL_AUDIT] = "audit",
	[CONTROL_STATS] = "stats",
};

static int refuse(char *why, size_t why_bytes, const char *fmt, ...) __printf(3, 4);
static int refuse(char *why, size_t why_bytes, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, why_bytes, fmt, ap);
	va_end(ap);
	return -EINVAL;
}

static int take_id(json_t *doc, struct control_request *out, char *why, size_t why_bytes)
{
	json_t *id = json_object_get(doc, "id");

	if (!id)
		return 0;
	if (!json_is_integer(id) && !(json_is_string(id) && json_string_length(id) <= ID_BYTES))
		return refuse(why, why_bytes,
			      "id: an integer or a string of up to %d bytes is "
			      "needed",
			      ID_BYTES);
	out->id = json_incref(id);
	return 0;
}

static int take_version(json_t *doc, char *why, size_t why_bytes)
{
	json_t *version = json_object_get(doc, "version");

	if (!json_is_integer(version))
		return refuse(why, why_bytes, "version: it is needed, and %d is spoken here",
			      CONTROL_VERSION);
	if (json_integer_value(version) != CONTROL_VERSION)
		return refuse(why, why_bytes, "version %lld: only %d is spoken here",
			      (long long)json_integer_value(version), CONTROL_VERSION);
	return 0;
}

static int take_command(json_t *doc, struct control_request *out, char *why, size_t why_bytes)
{
	const char *name = json_string_value(json_object_get(doc, "command"));

	if (!name)
		return refuse(why, why_bytes, "command: a string is needed");
	for (unsigned i = 0; i < CONTROL_COMMANDS; i++) {
		if (!strcmp(name, command_name[i])) {
			out->command = (enum control_command)i;
			return 0;
		}
	}
	return refuse(why, why_bytes, "command: no such command: docs/control.md lists them");
}

static int take_value(const struct key *k, const json_t *value, struct control_request *out,
		      char *why, size_t why_bytes)
{
	void *field = (char *)out + k->offset;
	json_int_t n = json_integer_value(value);

	if (k->kind == KEY_FLAG) {
		if (!json_is_boolean(value))
			return refuse(why, why_bytes, "%s: true or false is needed", k->name);
		*(bool *)field = json_is_true(value);
		return 0;
	}
	if (!json_is_integer(value) || n < 0 || n > k->max)
		return refuse(why, why_bytes, "%s: an integer from 0 to %u is needed", k->name,
			      k->max);
	*(unsigned *)field = (unsigned)n;
	return 0;
}

static int take_keys(json_t *doc, struct control_request *out, char *why, size_t why_bytes)
{
	unsigned me = BIT(out->command);
	size_t known = 2 + (json_object_get(doc, "id") != NULL);

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		const json_t *value = json_object_get(doc, keys[i].name);
		int err;

		if (!value && keys[i].needed & me)
			return refuse(why, why_bytes, "%s: %s needs it", keys[i].name,
				      command_name[out->command]);
		if (!value || !((keys[i].needed | keys[i].allowed) & me))
			continue;
		err = take_value(&keys[i], value, out, why, why_bytes);
		if (err)
			return err;
		known++;
	}
	if (json_object_size(doc) != known)
		return refuse(why, why_bytes,
			      "%s does not know one of the keys: docs/control.md "
			      "lists them",
			      command_name[out->command]);
	return 0;
}

int control_parse(const char *line, size_t bytes, struct control_request *out, char *why,
		  size_t why_bytes)
{
	json_error_t error;
	json_t *doc = json_loadb(line, bytes, JSON_REJECT_DUPLICATES, &error);
	int err = 0;

	*out = (struct control_request){ 0 };
	if (!doc)
		return refuse(why, why_bytes, "not a JSON object in one line, at byte %d",
			      error.position);
	if (!json_is_object(doc))
		err = refuse(why, why_bytes, "a JSON object is needed");
	if (!err)
		err = take_id(doc, out, why, why_bytes);
	if (!err)
		err = take_version(doc, why, why_bytes);
	if (!err)
		err = take_command(doc, out, why, why_bytes);
	if (!err)
		err = take_keys(doc, out, why, why_bytes);
	json_decref(doc);
	return err;
}

void control_request_free(struct control_request *r)
{
	json_decref(r->id);
	r->id = NULL;
}

/* --- answers ------------------------------------------------------------------------ */

static json_t *answer_with(json_t *id, const char *key, json_t *value)
{
	json_t *doc =
		json_pack("{s:i s:b}", "version", CONTROL_VERSION, "ok", strcmp(key, "error") != 0);

	if (doc && id)
		json_object_set(doc, "id", id);
	if (!value || json_object_set_new(doc, key, value)) {
		json_decref(doc);
		return NULL;
	}
	return doc;
}

json_t *control_answer(json_t *id, json_t *result)
{
	return answer_with(id, "result", result);
}

json_t *control_complaint(json_t *id, enum control_fault fault, const char *why)
{
	static const char *const code[] = {
		[FAULT_REQUEST] = "request",
		[FAULT_REFUSED] = "refused",
		[FAULT_BUSY] = "busy",
		[FAULT_INTERNAL] = "internal",
	};

	return answer_with(id, "error",
			   json_pack("{s:s s:s}", "code", code[fault], "message", why));
}

json_t *control_progress(json_t *id, uint64_t done_bytes, uint64_t all_bytes)
{
	return answer_with(id, "progress",
			   json_pack("{s:I s:I}", "done_bytes", (json_int_t)done_bytes, "all_bytes",
				     (json_int_t)all_bytes));
}
