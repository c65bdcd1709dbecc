/*
 * live.h - what can be asked of a running machine: its state, an end, a pause, moves,
 * the truth about where it is. control.h's server calls it.
 */
#ifndef HOST_LINUX_CMD_LIVE_H
#define HOST_LINUX_CMD_LIVE_H

#include "control.h"
#include "host/linux/claims.h"
#include "vmm.h"

struct live;

struct live_config {
	const struct host *host;
	struct vm *vm;
	const char *name, *engine;
	const struct plan_request *request; /* what the machine was planned by */
	struct ledger *ledger;              /* with our claim; NULL: there is none */
	bool foreign;                       /* other VMMs' vCPUs count */
	void (*end)(void *arg);             /* ends the machine; any thread */
	/* Puts I/O threads where @p has them; the worker. */
	void (*place_io)(void *arg, const struct plan *p);
	void *arg;
};

struct live_answer {
	json_t *result; /* or NULL: it cannot be done, and */
	enum control_fault fault;
	char why[CONTROL_WHY_BYTES];
	/* Neither yet: live_move() is to be called, until it brings the answer. */
	bool moving;
	uint64_t done_bytes, all_bytes;
};

/* All in @cfg stays the caller's. NULL: no memory. */
struct live *live_create(const struct live_config *cfg);
void live_destroy(struct live *l);

/* Any thread, at once. */
json_t *live_status(const struct live *l);
void live_end(struct live *l);
void live_cancel(struct live *l); /* no stretch of memory is moved any more */

/* One thread, which may have to wait. */
void live_do(struct live *l, const struct control_request *r, struct live_answer *a);
/* The next stretch, not before live_next_move_ns(). */
void live_move(struct live *l, struct live_answer *a);
uint64_t live_next_move_ns(const struct live *l);

#endif
