/*
 * fuzz_control.c - hostile lines at a control socket, each byte of the input up to a
 * newline being one.
 *
 * Beside what sanitizers find, control_parse() must keep these promises: what it takes
 * is within the ranges that the rest relies on; a refusal says why; either way an answer
 * can be made, which is one line.
 */
#include "host/linux/cmd/control.h"
#include "placement/plan.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void check_answer(json_t *doc)
{
	char *text = doc ? json_dumps(doc, JSON_COMPACT) : NULL;

	if (!text || strchr(text, '\n'))
		abort();
	free(text);
	json_decref(doc);
}

static void check_request(const struct control_request *r)
{
	if (r->command >= CONTROL_COMMANDS || r->vcpu >= PLAN_VCPUS_MAX ||
	    r->node >= PLAN_NODES_MAX || r->to >= PU_SET_MAX)
		abort();
	check_answer(control_answer(r->id, json_object()));
	check_answer(control_progress(r->id, 1, 2));
}

static void take_line(const char *line, size_t bytes)
{
	struct control_request r;
	char why[CONTROL_WHY_BYTES] = "";

	if (!control_parse(line, bytes, &r, why, sizeof(why)))
		check_request(&r);
	else if (!*why)
		abort();
	else
		check_answer(control_complaint(r.id, FAULT_REQUEST, why));
	control_request_free(&r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	while (bytes) {
		const uint8_t *end = memchr(data, '\n', bytes);
		size_t n = end ? (size_t)(end - data) : bytes;

		take_line((const char *)data, MIN(n, CONTROL_LINE_MAX));
		n += end != NULL;
		data += n;
		bytes -= n;
	}
	return 0;
}
