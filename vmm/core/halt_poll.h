/*
 * halt_poll.h - how long an idle vCPU looks for work before it sleeps.
 *
 * A host takes tens of microseconds to put a thread to sleep and wake it again, and
 * guests whose vCPUs wake each other pay that at every turn. So a vCPU that was woken
 * soon after it went idle looks for a while the next time: its window grows from 0
 * to the limit while halts are short, and is closed by one that was long, or when
 * somebody else wants the PU. A guest that is idle for long never polls.
 *
 * Leaf header.
 */
#ifndef VMM_CORE_HALT_POLL_H
#define VMM_CORE_HALT_POLL_H

#include "core/util.h"

#include <stdatomic.h>

#define HALT_POLL_DEFAULT_NS 200000u /* the limit, unless the user says otherwise */

struct vcpu;
struct vm;

struct halt_poll {
	_Atomic uint32_t limit_ns; /* 0: never poll. vm->lock to write */
	bool refused;              /* the guest polls by itself; the owner's, as is all below */
	uint64_t window_ns;
};

/* Every vCPU's limit, by the configuration and the plan as it is. With vm->lock held. */
void halt_poll_set_limits(struct vm *vm);

/* Halts have been short lately: an engine may look a while before it leaves run() for one. */
static inline bool halt_poll_is_open(const struct halt_poll *p)
{
	return p->window_ns && !p->refused &&
	       atomic_load_explicit(&p->limit_ns, memory_order_relaxed);
}

/*
 * The vCPU's thread, idle since @start_ns: look for events until the window closes.
 * True: there is one, or @deadline_ns (host time) is reached. False: sleep.
 */
bool halt_poll(struct vcpu *c, uint64_t start_ns, uint64_t deadline_ns);

/* It has been idle for so long, polling and asleep. */
void halt_poll_learn(struct halt_poll *p, uint64_t idle_ns);

#endif
