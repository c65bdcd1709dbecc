/*
 * lock.h - a mutex over the host's wait and wake.
 *
 * Uncontended: one compare-and-swap to take, one exchange to release.
 * docs/locking.md gives the order in which locks are taken.
 */
#ifndef VMM_CORE_LOCK_H
#define VMM_CORE_LOCK_H

#include "core/host.h"

/* Zero is unlocked. */
struct lock {
	_Atomic uint32_t state; /* 0 free, 1 held, 2 held and somebody waits */
};

void lock_wait(const struct host *h, struct lock *l);

static inline bool lock_try(struct lock *l)
{
	uint32_t free_state = 0;

	return atomic_compare_exchange_strong_explicit(&l->state, &free_state, 1,
						       memory_order_acquire, memory_order_relaxed);
}

static inline void lock_take(const struct host *h, struct lock *l)
{
	if (unlikely(!lock_try(l)))
		lock_wait(h, l);
}

static inline void lock_release(const struct host *h, struct lock *l)
{
	if (unlikely(atomic_exchange_explicit(&l->state, 0, memory_order_release) == 2))
		h->ops->wake(h->ctx, &l->state, 1);
}

#endif
