/* lock.c - the contended path of lock.h. */
#include "core/lock.h"

#define SPINS 64 /* a holder usually leaves within a few hundred cycles */

void lock_wait(const struct host *h, struct lock *l)
{
	for (unsigned i = 0; i < SPINS; i++) {
		__builtin_ia32_pause();
		if (lock_try(l))
			return;
	}
	while (atomic_exchange_explicit(&l->state, 2, memory_order_acquire))
		h->ops->wait(h->ctx, &l->state, 2, HOST_FOREVER);
}
