/*
 * record.h - plans as files: what `plan --json` prints, and what `apply` leaves behind
 * in the runtime directory as PID.plan, so that `verify` can compare.
 *
 * A record names its process by pid and start time; that of a process which is gone is
 * removed when the next one is written. Files are hostile.
 */
#ifndef TOOLS_PIN_CORES_RECORD_H
#define TOOLS_PIN_CORES_RECORD_H

#include "placing.h"

#include <jansson.h>

#define RECORD_PATH_BYTES 4096

struct record {
	pid_t pid; /* 0: a plan that was not applied to any process */
	uint64_t start;
	bool memory; /* pages were moved, too */
	unsigned nr; /* threads, as far as the plan was applied to any */
	pid_t tid[PLAN_VCPUS_MAX];
	/* Of the plan only PUs, nodes and memory. */
	struct plan plan;
};

/* The plan of --json: the planner's, and the threads it is for. */
json_t *record_json(const struct placing *p, bool memory);

/* Reads and checks; 0 or an exit status. */
int record_read(const char *path, struct record *out);
/* Where the record of a process is. */
const char *record_path(pid_t pid, char buf[RECORD_PATH_BYTES]);
/* An exit status. */
int record_write(const struct placing *p, bool memory);

#endif
