/*
 * ledger_file.c - see ledger_file.h.
 *
 * A claim's text comes from outside: every number has its range, every set lies within
 * another, and what is missing is an error. Members that are not known are left alone,
 * so that they can be added.
 */
#include "ledger_file.h"

#include "pu_list.h"

#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define VERSION       1
#define BYTES_MAX     (INT64_C(1) << 60)
#define PU_LIST_BYTES 20480 /* 4096 PUs, none beside another */

static const char *const states[LEDGER_STATES] = {
	[LEDGER_STARTING] = "starting",
	[LEDGER_RUNNING] = "running",
	[LEDGER_PAUSED] = "paused",
};

const char *ledger_state_name(enum ledger_state state)
{
	return state < LEDGER_STATES ? states[state] : "unknown";
}

bool ledger_name_ok(const char *name)
{
	size_t n = strlen(name);

	if (!n || n > LEDGER_NAME_MAX || !isalnum((unsigned char)name[0]))
		return false;
	for (; *name; name++)
		if (!isalnum((unsigned char)*name) && !strchr("._-", *name))
			return false;
	return true;
}

/* --- writing ---------------------------------------------------------------------------- */

static json_t *set_json(const struct pu_set *s)
{
	char text[PU_LIST_BYTES];

	return json_string(pu_set_count(s) ? pu_list_text(s, text, sizeof(text)) : "");
}

static json_t *vcpus_json(const struct ledger_claim *c)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < c->nr_vcpus; i++)
		json_array_append_new(list, json_integer(c->vcpu[i]));
	return list;
}

static json_t *io_json(const struct ledger_claim *c)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < c->nr_io; i++)
		json_array_append_new(list, json_pack("{s:i s:i}", "node", c->io[i].node, "pu",
						      (int)c->io[i].pu));
	return list;
}

static json_t *memory_json(const struct ledger_claim *c)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < c->nr_memory; i++) {
		const struct ledger_memory *m = &c->memory[i];

		json_array_append_new(list, json_pack("{s:i s:i s:i s:I s:I}", "guest_node",
						      (int)m->guest_node, "host_node", m->host_node,
						      "born_node", m->born_node, "bytes",
						      (json_int_t)m->bytes, "page_bytes",
						      (json_int_t)m->page_bytes));
	}
	return list;
}

char *ledger_file_text(const struct ledger_claim *c)
{
	json_t *doc = json_pack("{s:i s:s s:i s:I s:s s:s s:b s:o s:o s:o s:o s:o}", "claim",
				VERSION, "name", c->name, "pid", (int)c->pid, "started_ns",
				(json_int_t)c->started_ns, "engine", c->engine, "state",
				ledger_state_name(c->state), "exclusive", (int)c->exclusive, "pus",
				set_json(&c->pus), "shared", set_json(&c->shared), "vcpus",
				vcpus_json(c), "io", io_json(c), "memory", memory_json(c));
	char *text = doc ? json_dumps(doc, JSON_COMPACT) : NULL;

	json_decref(doc);
	return text;
}

/* --- reading ---------------------------------------------------------------------------- */

struct reader {
	char *why; /* the first complaint stays */
	size_t why_bytes;
	bool failed;
};

static void fail(struct reader *r, const char *fmt, ...) __printf(2, 3);
static void fail(struct reader *r, const char *fmt, ...)
{
	va_list ap;

	if (r->failed)
		return;
	va_start(ap, fmt);
	vsnprintf(r->why, r->why_bytes, fmt, ap);
	va_end(ap);
	r->failed = true;
}

static int64_t get_integer(struct reader *r, const json_t *o, const char *key, int64_t min,
			   int64_t max)
{
	const json_t *v = json_object_get(o, key);
	int64_t n = json_integer_value(v);

	if (json_is_integer(v) && n >= min && n <= max)
		return n;
	fail(r, "\"%s\" is not a number from %lld to %lld", key, (long long)min, (long long)max);
	return min;
}

static bool get_bool(struct reader *r, const json_t *o, const char *key)
{
	const json_t *v = json_object_get(o, key);

	if (!json_is_boolean(v))
		fail(r, "\"%s\" is neither true nor false", key);
	return json_is_true(v);
}

/* json_loadb() refuses embedded zeros. */
static void get_text(struct reader *r, const json_t *o, const char *key, char *out, size_t bytes)
{
	const char *s = json_string_value(json_object_get(o, key));

	*out = '\0';
	if (!s || strlen(s) >= bytes)
		fail(r, "\"%s\" is not a text below %zu bytes", key, bytes);
	else
		snprintf(out, bytes, "%s", s);
}

static void get_set(struct reader *r, const json_t *o, const char *key, struct pu_set *out)
{
	const char *s = json_string_value(json_object_get(o, key));

	if (!s || !pu_list_parse(s, out))
		fail(r, "\"%s\" is not a list of PUs", key);
}

static size_t get_list(struct reader *r, const json_t *o, const char *key, size_t max,
		       const json_t **list)
{
	*list = json_object_get(o, key);
	if (json_is_array(*list) && json_array_size(*list) <= max)
		return json_array_size(*list);
	fail(r, "\"%s\" is not a list of up to %zu", key, max);
	return 0;
}

static void get_vcpus(struct reader *r, const json_t *doc, struct ledger_claim *c)
{
	const json_t *list;
	size_t nr = get_list(r, doc, "vcpus", PLAN_VCPUS_MAX, &list);

	for (size_t i = 0; i < nr; i++) {
		const json_t *v = json_array_get(list, i);
		json_int_t pu = json_integer_value(v);

		if (!json_is_integer(v) || pu < 0 || pu >= PU_SET_MAX ||
		    !pu_set_has(&c->pus, (unsigned)pu)) {
			fail(r, "vCPU %zu is not on a PU of \"pus\"", i);
			return;
		}
		c->vcpu[i] = (uint16_t)pu;
	}
	if (!nr)
		fail(r, "it has no vCPUs");
	c->nr_vcpus = (unsigned)nr;
}

static void get_io(struct reader *r, const json_t *doc, struct ledger_claim *c)
{
	const json_t *list;
	size_t nr = get_list(r, doc, "io", ARRAY_SIZE(c->io), &list);

	for (size_t i = 0; i < nr; i++) {
		const json_t *o = json_array_get(list, i);

		c->io[i] = (struct ledger_io){
			.node = (int)get_integer(r, o, "node", -1, PU_SET_MAX - 1),
			.pu = (unsigned)get_integer(r, o, "pu", 0, PU_SET_MAX - 1),
		};
	}
	c->nr_io = (unsigned)nr;
}

static void get_memory(struct reader *r, const json_t *doc, struct ledger_claim *c)
{
	const json_t *list;
	size_t nr = get_list(r, doc, "memory", ARRAY_SIZE(c->memory), &list);

	for (size_t i = 0; i < nr; i++) {
		const json_t *o = json_array_get(list, i);

		c->memory[i] = (struct ledger_memory){
			.guest_node =
				(unsigned)get_integer(r, o, "guest_node", 0, PLAN_NODES_MAX - 1),
			.host_node = (int)get_integer(r, o, "host_node", -1, PU_SET_MAX - 1),
			.born_node = (int)get_integer(r, o, "born_node", -1, PU_SET_MAX - 1),
			.bytes = (uint64_t)get_integer(r, o, "bytes", 0, BYTES_MAX),
			.page_bytes = (uint64_t)get_integer(r, o, "page_bytes", 0, BYTES_MAX),
		};
	}
	c->nr_memory = (unsigned)nr;
}

static void get_state(struct reader *r, const json_t *doc, struct ledger_claim *c)
{
	char text[16];

	get_text(r, doc, "state", text, sizeof(text));
	for (unsigned s = 0; s < LEDGER_STATES; s++) {
		if (strcmp(text, states[s]) != 0)
			continue;
		c->state = (enum ledger_state)s;
		return;
	}
	fail(r, "\"state\" is none that is known");
}

static void get_claim(struct reader *r, const json_t *doc, struct ledger_claim *c)
{
	get_text(r, doc, "name", c->name, sizeof(c->name));
	if (!ledger_name_ok(c->name))
		fail(r, "\"name\" is not a machine's name");
	c->pid = (pid_t)get_integer(r, doc, "pid", 1, INT32_MAX);
	c->started_ns = (uint64_t)get_integer(r, doc, "started_ns", 0, INT64_MAX);
	get_text(r, doc, "engine", c->engine, sizeof(c->engine));
	for (const char *p = c->engine; *p; p++)
		if (!isalnum((unsigned char)*p))
			fail(r, "\"engine\" is not an engine's name");
	get_state(r, doc, c);
	c->exclusive = get_bool(r, doc, "exclusive");
	get_set(r, doc, "pus", &c->pus);
	get_set(r, doc, "shared", &c->shared);
	get_vcpus(r, doc, c);
	get_io(r, doc, c);
	get_memory(r, doc, c);
	for (size_t i = 0; i < ARRAY_SIZE(c->shared.word); i++)
		if (c->shared.word[i] & ~c->pus.word[i])
			fail(r, "\"shared\" goes beyond \"pus\"");
}

int ledger_file_parse(const char *text, size_t bytes, struct ledger_claim *out, char *why,
		      size_t why_bytes)
{
	struct reader r = { .why = why, .why_bytes = why_bytes };
	json_error_t e;
	json_t *doc;
	int64_t version;

	*out = (struct ledger_claim){ 0 };
	if (bytes > LEDGER_FILE_MAX) {
		fail(&r, "it is longer than %d bytes", LEDGER_FILE_MAX);
		return -EINVAL;
	}
	doc = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &e);
	if (!json_is_object(doc)) {
		fail(&r, "it is not a JSON object");
		json_decref(doc);
		return -EINVAL;
	}
	version = get_integer(&r, doc, "claim", 1, INT32_MAX);
	if (!r.failed && version != VERSION)
		fail(&r, "it is of version %lld, %d is known", (long long)version, VERSION);
	if (!r.failed)
		get_claim(&r, doc, out);
	json_decref(doc);
	return r.failed ? -EINVAL : 0;
}
