/* progress.h - a bar on standard error while something long is done with memory. */
#ifndef HOST_LINUX_CMD_PROGRESS_H
#define HOST_LINUX_CMD_PROGRESS_H

#include "core/util.h"

struct progress {
	const char *what;
	uint64_t started_ns;
	bool visible; /* standard error is a terminal */
	bool drawn;
};

/* @wanted false: nothing is ever drawn. */
struct progress progress_begin(const char *what, bool wanted);
void progress_draw(struct progress *p, uint64_t done_bytes, uint64_t all_bytes);
void progress_end(struct progress *p); /* the line is as if nothing had been there */

#endif
