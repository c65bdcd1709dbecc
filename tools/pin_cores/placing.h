/*
 * placing.h - from options to a plan: the machine, what others have, what is asked for.
 *
 * Whoever will act upon the plan holds the ledger's lock from before the look at the
 * others until it has acted: then nobody plans for the same PUs meanwhile.
 */
#ifndef TOOLS_PIN_CORES_PLACING_H
#define TOOLS_PIN_CORES_PLACING_H

#include "host/linux/claims.h"
#include "host/linux/cmd/placement.h"
#include "pin_cores.h"
#include "subject.h"

enum placing_use {
	PLACING_LOOK, /* the plan is shown */
	PLACING_ACT   /* it will be acted upon: the ledger is locked until placing_done() */
};

struct placing {
	struct scene scene;
	struct subject subject; /* of --pid */
	bool has_subject;
	struct ledger *ledger; /* NULL: another machine, or nobody has claimed anything */
	bool locked;
	struct claims claims;
	struct placement placement;
	struct plan plan;
};

/* The machine, the subject of --pid, and others' claims. 0 or an exit status. */
int placing_begin(struct placing *p, const struct pin_options *o, enum placing_use use);
/* Makes the plan, with a warning if PUs are shared. 0 or an exit status. */
int placing_plan(struct placing *p, struct option_set *set, struct pin_options *o);
/* What the plan is called in print: "qemu-system-x86 (QEMU, pid 4711)". Returns @buf. */
const char *placing_title(const struct placing *p, char *buf, size_t bytes);
void placing_unlock(struct placing *p);
void placing_end(struct placing *p); /* zeroed again */

#endif
