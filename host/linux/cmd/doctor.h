/*
 * doctor.h - what `alcazar doctor` finds out, a finding at a time.
 */
#ifndef HOST_LINUX_CMD_DOCTOR_H
#define HOST_LINUX_CMD_DOCTOR_H

#include "core/host.h"

#include <jansson.h>

enum finding_kind {
	FINDING_FACT,    /* as it is */
	FINDING_GOOD,    /* as one would wish */
	FINDING_PROBLEM, /* something is lost or does not work; there is a remedy */
};

struct doctor {
	const struct host *host;
	json_t *findings; /* array of {area, kind, text, remedy} */
};

/* @remedy: what to do, for problems; else NULL. */
void doctor_find(struct doctor *d, const char *area, enum finding_kind kind, const char *remedy,
		 const char *fmt, ...) __printf(5, 6);

/* The first line of a file, without its newline; -errno. */
int doctor_read(const char *path, char *buf, size_t bytes);

/* doctor_kvm.c: the device, its capabilities and speed, what accelerates it. */
void doctor_kvm(struct doctor *d);
/* doctor_host.c: nodes, huge pages, limits, tools for measuring. */
void doctor_host(struct doctor *d);

#endif
