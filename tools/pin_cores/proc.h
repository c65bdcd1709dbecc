/*
 * proc.h - what /proc tells of a process: its threads, where each ran last and may
 * run, and on which nodes its memory lies.
 *
 * Threads come and go while this looks: one that has ended is left out, and only the
 * end of the process itself is an error. No state.
 */
#ifndef TOOLS_PIN_CORES_PROC_H
#define TOOLS_PIN_CORES_PROC_H

#include "core/pu_set.h"

#include <sys/types.h>

#define PROC_NAME_BYTES 16 /* the kernel's limit */
#define PROC_NODES_MAX  1024
#define PROC_UNKNOWN    UINT64_MAX

struct proc_task {
	pid_t tid;
	char name[PROC_NAME_BYTES]; /* printable */
	char state;                 /* R, S, D, T...: proc(5) */
	unsigned pu;                /* where it ran last */
	uint64_t cpu_ns;
	uint64_t migrations; /* PROC_UNKNOWN where the kernel does not count */
	struct pu_set affinity;
};

struct proc_tasks {
	struct proc_task *task; /* ascending by tid: the first one is the process's main thread */
	unsigned nr, room;
};

/* Reuses the room that @out has; a zeroed one is legal. -ESRCH, -EACCES, -ENOMEM. */
int proc_tasks_read(pid_t pid, struct proc_tasks *out);
void proc_tasks_free(struct proc_tasks *t); /* zeroed again */
const struct proc_task *proc_tasks_find(const struct proc_tasks *t, pid_t tid);

/* Names the process, together with its pid, as long as the system runs. -ESRCH. */
int proc_start_time(pid_t pid, uint64_t *ticks);
int proc_parent(pid_t pid, pid_t *parent);
void proc_name(pid_t pid, char name[PROC_NAME_BYTES]); /* "?" if it is gone */

int proc_affinity_get(pid_t tid, struct pu_set *out);
int proc_affinity_set(pid_t tid, const struct pu_set *pus);

/* Calls fn for each process until it returns nonzero; returns that, or -errno. */
int proc_each(int (*fn)(void *arg, pid_t pid), void *arg);

/* A mapping that can be moved between nodes: private or shared memory, not a file's pages. */
struct proc_region {
	uint64_t start, end;
	uint64_t page_bytes;
};

struct proc_memory {
	uint64_t node_bytes[PROC_NODES_MAX]; /* resident, by the node's OS index */
	uint64_t bytes;                      /* the sum */
	struct proc_region *region;          /* ascending */
	unsigned nr_regions;
};

/*
 * -ESRCH, -EACCES (ptrace(2)'s rules), -ENOMEM. On a kernel without NUMA everything
 * lies on node 0 and there are no regions.
 */
int proc_memory_read(pid_t pid, struct proc_memory *out);
void proc_memory_free(struct proc_memory *m); /* zeroed again */

/* How busy each PU was between two calls, by OS index. */
struct proc_load {
	uint64_t busy[PU_SET_MAX], all[PU_SET_MAX];
};

int proc_load_read(struct proc_load *out);
/* From 0 to 1, or -1 if it cannot be known. */
double proc_load_between(const struct proc_load *before, const struct proc_load *after,
			 unsigned pu);

#endif
