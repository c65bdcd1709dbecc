/* slots.c - see slots.h. */
#include "slots.h"

void slots_init(struct slots *s, const struct plan *p)
{
	*s = (struct slots){ .nr = p->nr_vcpus };
	for (unsigned i = 0; i < s->nr; i++) {
		s->pu[i] = p->vcpu[i].pu;
		pu_set_add(&s->all, s->pu[i]);
	}
}

static unsigned emptiest(const struct slots *s)
{
	unsigned best = 0;

	for (unsigned i = 1; i < s->nr; i++)
		if (s->threads[i] < s->threads[best])
			best = i;
	return best;
}

/* The empty slot of a PU, or SLOT_NONE. */
static unsigned empty_slot_of(const struct slots *s, unsigned pu)
{
	for (unsigned i = 0; i < s->nr; i++)
		if (s->pu[i] == pu && !s->threads[i])
			return i;
	return SLOT_NONE;
}

/*
 * A new thread has the affinity of the one that made it, which is all of the plan or one
 * slot's PU. A PU that nobody has, and any other set, it can only have chosen itself.
 */
unsigned slots_take(struct slots *s, const struct pu_set *affinity, bool *bind)
{
	unsigned slot, pu = pu_set_next(affinity, 0);
	bool single = pu_set_count(affinity) == 1;

	*bind = false;
	if (!single && memcmp(affinity, &s->all, sizeof(s->all)) != 0)
		return SLOT_NONE;
	if (single && !pu_set_has(&s->all, pu))
		return SLOT_NONE;
	slot = single ? empty_slot_of(s, pu) : SLOT_NONE;
	if (slot == SLOT_NONE) {
		slot = emptiest(s);
		*bind = true;
	}
	s->threads[slot]++;
	return slot;
}

void slots_give_back(struct slots *s, unsigned slot)
{
	if (slot != SLOT_NONE)
		s->threads[slot]--;
}
