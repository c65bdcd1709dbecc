/* mem_where.c - see mem_where.h. */
#include "mem_where.h"

#include "linux.h"

#include <errno.h>
#include <numaif.h>
#include <unistd.h>

#define BATCH 512 /* pages a call: the kernel takes its lock for a few at a time anyway */

static void count(struct host_where *out, int status, uint64_t bytes)
{
	if (status >= 0 && status < HOST_NODES_MAX)
		out->bytes[status] += bytes;
	else if (status == -ENOENT)
		out->absent += bytes;
	else
		out->unknown += bytes; /* the zero page, a device's, or being moved just now */
}

int linux_where(pid_t pid, uint64_t addr, uint64_t bytes, uint64_t step, struct host_where *out)
{
	uint64_t end = addr + bytes;

	while (addr < end) {
		void *page[BATCH];
		int status[BATCH];
		unsigned nr = 0;

		for (uint64_t at = addr; nr < BATCH && at < end; at += step)
			page[nr++] = (void *)(uintptr_t)at;
		if (move_pages(pid, nr, page, NULL, status, 0) < 0)
			return -errno;
		for (unsigned i = 0; i < nr; i++, addr += step)
			count(out, status[i], MIN(step, end - addr));
	}
	return 0;
}

int linux_mem_where(void *ctx, const struct host_mem *m, uint64_t offset, uint64_t bytes,
		    struct host_where *out)
{
	if (offset > m->bytes || bytes > m->bytes - offset)
		return -EINVAL;
	return linux_where(0, (uintptr_t)m->base + offset, bytes, m->page_bytes, out);
}
