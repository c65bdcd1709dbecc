/*
 * fuzz_ledger.c - hostile claims against the ledger's reader.
 *
 * If the first byte is '{' the input is the text. Otherwise it is a list of changes to
 * a sound claim, three bytes each: which member, what to put there, how much of it; so
 * that the reader is also reached behind the JSON. Beside what sanitizers find,
 * ledger_file_parse() must keep these promises:
 *   - an error comes with one printable line that says why;
 *   - what it takes is a claim: names, states, sets and counts within their bounds;
 *   - written and read again it is the same.
 */
#include "host/linux/ledger_file.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static const char sound[] =
	"{\"claim\":1,\"name\":\"web\",\"pid\":77,\"started_ns\":5,\"engine\":\"soft\","
	"\"state\":\"running\",\"exclusive\":false,\"pus\":\"4-7\",\"shared\":\"5\","
	"\"vcpus\":[4,5,5],\"io\":[{\"node\":1,\"pu\":7}],\"memory\":[{\"guest_node\":0,"
	"\"host_node\":1,\"born_node\":1,\"bytes\":4096,\"page_bytes\":0}]}";

static void check(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "fuzz_ledger: %s\n", what);
	abort();
}

static void check_why(const char *why)
{
	check(*why, "an error without a word");
	for (; *why; why++)
		check((unsigned char)*why >= ' ' && (unsigned char)*why <= '~',
		      "an error that is not one printable line");
}

static void check_claim(const struct ledger_claim *c)
{
	check(ledger_name_ok(c->name), "a bad name");
	check(c->pid > 0 && c->state < LEDGER_STATES, "a bad process or state");
	check(c->nr_vcpus && c->nr_vcpus <= PLAN_VCPUS_MAX && c->nr_io <= PLAN_NODES_MAX &&
		      c->nr_memory <= PLAN_NODES_MAX,
	      "a bad count");
	for (unsigned i = 0; i < c->nr_vcpus; i++)
		check(pu_set_has(&c->pus, c->vcpu[i]), "a vCPU elsewhere");
	for (unsigned i = 0; i < c->nr_io; i++)
		check(c->io[i].pu < PU_SET_MAX, "an I/O thread elsewhere");
	for (unsigned i = 0; i < c->nr_memory; i++)
		check(c->memory[i].guest_node < PLAN_NODES_MAX && c->memory[i].host_node >= -1 &&
			      c->memory[i].host_node < PU_SET_MAX,
		      "memory elsewhere");
}

static void parse(const char *text, size_t bytes)
{
	struct ledger_claim c, again;
	char why[LEDGER_WHY_BYTES] = "", *written, *rewritten;

	if (ledger_file_parse(text, bytes, &c, why, sizeof(why))) {
		check_why(why);
		return;
	}
	check_claim(&c);
	written = ledger_file_text(&c);
	check(written, "what was read cannot be written");
	check(!ledger_file_parse(written, strlen(written), &again, why, sizeof(why)),
	      "what was written cannot be read");
	rewritten = ledger_file_text(&again);
	check(rewritten && !strcmp(written, rewritten), "what was read is not what was written");
	free(rewritten);
	free(written);
}

static json_t *strange_value(uint8_t kind, uint8_t amount)
{
	static const int64_t numbers[] = { -1,   0,    1,         63,        64,
					   1023, 4095, INT32_MAX, INT64_MAX, INT64_MIN };
	static const char *const texts[] = {
		"", "0-4095", "4-4", "7-4", ",", "..", "paused", "\n"
	};
	json_t *list = json_array();

	switch (kind % 5) {
	case 0:
		json_decref(list);
		return json_integer(numbers[amount % ARRAY_SIZE(numbers)]);
	case 1:
		json_decref(list);
		return json_string(texts[amount % ARRAY_SIZE(texts)]);
	case 2:
		for (unsigned i = 0; i < 5u * amount; i++)
			json_array_append_new(list, json_integer(4));
		return list;
	case 3:
		for (unsigned i = 0; i < amount; i++)
			json_array_append_new(list, json_object());
		return list;
	default:
		json_decref(list);
		return amount & 1 ? json_true() : json_null();
	}
}

/* One member of the claim, or of the first item of its last list. */
static void change(json_t *doc, const uint8_t op[3])
{
	json_t *item = json_array_get(json_object_get(doc, "memory"), 0), *where = doc;
	unsigned at = op[0], n = 0;
	const char *key;
	json_t *v;

	if (at & 0x80 && json_is_object(item))
		where = item;
	at = (at & 0x7f) % MAX((unsigned)json_object_size(where), 1);
	json_object_foreach(where, key, v)
	{
		if (n++ != at)
			continue;
		if (op[1] % 16 == 15)
			json_object_del(where, key);
		else
			json_object_set_new(where, key, strange_value(op[1], op[2]));
		return;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	json_t *doc;
	char *text;

	if (bytes && data[0] == '{') {
		parse((const char *)data, bytes);
		return 0;
	}
	doc = json_loads(sound, 0, NULL);
	check(doc, "the sound claim is none");
	for (size_t i = 0; i + 3 <= bytes && i < 24; i += 3)
		change(doc, data + i);
	text = json_dumps(doc, JSON_COMPACT);
	check(text, "no memory");
	parse(text, strlen(text));
	free(text);
	json_decref(doc);
	return 0;
}
