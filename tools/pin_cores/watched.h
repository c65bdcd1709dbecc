/*
 * watched.h - processes that are looked at again and again, and what changed since the
 * look before.
 */
#ifndef TOOLS_PIN_CORES_WATCHED_H
#define TOOLS_PIN_CORES_WATCHED_H

#include "placement/machine.h"
#include "proc.h"

#define WATCHED_NAME_BYTES 72

struct watched_thread {
	struct proc_task task;
	int vcpu;       /* -1: it is none */
	double busy;    /* since the look before, in PUs */
	uint64_t moves; /* migrations since it was first looked at; PROC_UNKNOWN */
	uint64_t migrations_first;
};

struct watched {
	pid_t pid;
	char name[WATCHED_NAME_BYTES];
	const char *kind;
	struct watched_thread *thread; /* vCPUs first, ascending, then by tid */
	unsigned nr;
	struct proc_memory memory; /* without regions; zeroed if it may not be seen */
	uint64_t memory_ns;        /* when it was read, */
	uint64_t memory_took_ns;   /* and how long that took */
	uint64_t ns;               /* when it was looked at */
};

struct watched_list {
	struct watched *one;
	unsigned nr;
};

/*
 * @pid, or our machine @name, or with neither all machines here. The first look may
 * be at a zeroed list. -ESRCH: what was named is not there; -EACCES, -ENOMEM.
 */
int watched_look(struct watched_list *l, pid_t pid, const char *name);
void watched_free(struct watched_list *l); /* zeroed again */

/* The logical node of a PU by OS index, or MACHINE_NONE. */
unsigned watched_node_of(const struct machine_model *m, unsigned pu);
/* Which part of the memory is on the node of that PU: 0 to 1. */
double watched_local(const struct machine_model *m, const struct watched *w, unsigned pu);

#endif
