/*
 * sync.c - making every core that runs this process serialise.
 *
 * membarrier(2) does exactly that. Where it is missing or forbidden, taking away a
 * page's write permission makes the kernel interrupt every core on which this
 * process runs, and returning from an interrupt serialises (SDM vol. 3, 8.3).
 */
#include "linux.h"

#include <errno.h>
#include <linux/membarrier.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static long membarrier(int cmd)
{
	return syscall(SYS_membarrier, cmd, 0, 0);
}

int linux_sync_init(struct linux_host *h)
{
	h->membarrier = !membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE);
	if (h->membarrier)
		return 0;
	h->sync_page =
		mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (h->sync_page != MAP_FAILED)
		return 0;
	h->sync_page = NULL;
	return -ENOMEM;
}

void linux_sync_exit(struct linux_host *h)
{
	if (h->sync_page)
		munmap(h->sync_page, PAGE_SIZE);
}

static void sync_by_shootdown(struct linux_host *h)
{
	pthread_mutex_lock(&h->lock);
	mprotect(h->sync_page, PAGE_SIZE, PROT_READ | PROT_WRITE);
	*(volatile uint8_t *)h->sync_page = 1; /* else there is nothing to take away */
	mprotect(h->sync_page, PAGE_SIZE, PROT_READ);
	pthread_mutex_unlock(&h->lock);
}

void linux_sync_cores(void *ctx)
{
	struct linux_host *h = ctx;

	if (h->membarrier)
		membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE);
	else
		sync_by_shootdown(h);
}
