/*
 * resident.h - which pages of another process are resident. Mappings may be huge and all but
 * empty, so holes are skipped by the kernel where it can (PAGEMAP_SCAN, Linux 6.7), and read
 * over in /proc/PID/pagemap where not.
 */
#ifndef TOOLS_PIN_CORES_RESIDENT_H
#define TOOLS_PIN_CORES_RESIDENT_H

#include "core/util.h"

#include <sys/types.h>

#define RESIDENT_RUNS 512

struct resident_run {
	uint64_t start, end;
};

struct resident {
	int fd;
	bool scans; /* PAGEMAP_SCAN works */
	struct resident_run run[RESIDENT_RUNS];
	unsigned nr, at;   /* runs found, and not yet given out */
	uint64_t looked;   /* how far the look has come */
	uint64_t *entries; /* for reading */
};

int resident_open(struct resident *r, pid_t pid); /* -errno */
void resident_close(struct resident *r);          /* after resident_open(), failed or not */

/* Begins anew with what lies at @start. */
void resident_seek(struct resident *r, uint64_t start);
/* The next run below @end; an empty one: there is none. -errno */
int resident_next(struct resident *r, uint64_t end, struct resident_run *out);

#endif
