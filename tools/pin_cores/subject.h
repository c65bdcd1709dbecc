/*
 * subject.h - a process that is to be placed, as the planner sees it: each of its vCPU
 * threads is a vCPU; of a process that has none, each of its threads is.
 */
#ifndef TOOLS_PIN_CORES_SUBJECT_H
#define TOOLS_PIN_CORES_SUBJECT_H

#include "placement/plan.h"
#include "proc.h"

struct subject {
	pid_t pid;
	uint64_t start; /* with the pid it names the process for good */
	char name[PROC_NAME_BYTES];
	const char *kind; /* "QEMU"; "program" */
	const char *unit; /* "vCPU" or "thread" */
	bool is_vmm;
	unsigned nr;
	pid_t tid[PLAN_VCPUS_MAX]; /* what the planner's vCPU i is */
	struct proc_tasks tasks;   /* all threads */
	struct proc_memory memory;
};

/* 0 or an exit status, after telling why. Afterwards subject_free() is due. */
int subject_read(pid_t pid, struct subject *out);
void subject_free(struct subject *s); /* zeroed again */

/* Is it the same process still, and not another one that got its pid? */
bool subject_lives(const struct subject *s);
/* Which vCPU a thread is, or -1. */
int subject_find(const struct subject *s, pid_t tid);

/* What the machine would have free without it. */
void subject_give_back(const struct subject *s, struct machine_model *m);

#endif
