/*
 * mover.h - moves the memory of a running process between nodes, page by page, by
 * move_pages(2).
 */
#ifndef TOOLS_PIN_CORES_MOVER_H
#define TOOLS_PIN_CORES_MOVER_H

#include "proc.h"

struct mover_home {
	unsigned node;  /* OS index */
	uint64_t bytes; /* its share, beside the others' */
};

struct mover_result {
	uint64_t seen_bytes, moved_bytes;
	uint64_t stuck_bytes; /* could not be moved */
	int stuck_err;        /* why the first of these could not; -errno */
	uint64_t ns;
};

/*
 * All of @m that is not there yet goes to the homes, dealt in pieces of 2 MiB in the
 * proportion of their shares. The process keeps running; what it maps meanwhile is not
 * seen. progress() may be NULL. -ESRCH: it has ended; -EPERM: ptrace(2)'s rules.
 */
int mover_run(pid_t pid, const struct proc_memory *m, const struct mover_home *home,
	      unsigned nr_homes, void (*progress)(void *arg, uint64_t done, uint64_t all),
	      void *arg, struct mover_result *out);

#endif
