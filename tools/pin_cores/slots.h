/*
 * slots.h - which thread of a program goes to which planned PU. Pure.
 *
 * There is a slot for each thread that was planned. Threads take them in the order of
 * their appearance, each the slot with the fewest threads; one that has bound itself
 * is left where it is.
 */
#ifndef TOOLS_PIN_CORES_SLOTS_H
#define TOOLS_PIN_CORES_SLOTS_H

#include "placement/plan.h"

#define SLOT_NONE UINT32_MAX

struct slots {
	unsigned nr;
	unsigned pu[PLAN_VCPUS_MAX]; /* OS index */
	unsigned threads[PLAN_VCPUS_MAX];
	struct pu_set all;
};

void slots_init(struct slots *s, const struct plan *p);
/*
 * A thread that may run on @affinity was found. Its slot, to be given back when it has
 * ended, or SLOT_NONE; *bind says whether it has to be bound to the slot's PU.
 */
unsigned slots_take(struct slots *s, const struct pu_set *affinity, bool *bind);
void slots_give_back(struct slots *s, unsigned slot);

#endif
