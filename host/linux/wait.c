/* wait.c - sleeping on a word: private futexes with absolute deadlines. */
#include "linux.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int linux_futex_wait(void *ctx, _Atomic uint32_t *word, uint32_t expected, uint64_t deadline_ns)
{
	struct timespec ts, *timeout = NULL;

	if (deadline_ns != HOST_FOREVER) {
		ts = ns_to_timespec(deadline_ns);
		timeout = &ts;
	}
	/* Unlike FUTEX_WAIT, the bitset form takes an absolute CLOCK_MONOTONIC time. */
	if (syscall(SYS_futex, word, FUTEX_WAIT_BITSET_PRIVATE, expected, timeout, NULL,
		    FUTEX_BITSET_MATCH_ANY) &&
	    errno == ETIMEDOUT)
		return -ETIMEDOUT;
	return 0; /* woken, word differs, or interrupted by a kick */
}

void linux_futex_wake(void *ctx, _Atomic uint32_t *word, unsigned count)
{
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, MIN(count, (unsigned)INT_MAX), NULL, NULL, 0);
}
