/*
 * mem_where.h - on which nodes the pages of a process lie, asked of the kernel page
 * by page (move_pages(2) without nodes, which moves nothing).
 */
#ifndef HOST_LINUX_MEM_WHERE_H
#define HOST_LINUX_MEM_WHERE_H

#include "core/host.h"

#include <sys/types.h>

/*
 * Adds to @out the pages in [@addr, @addr + @bytes) of process @pid (0: the caller's own),
 * looking once every @step bytes: the size of the pages there, or PAGE_SIZE. -ESRCH, -EPERM;
 * -ENOSYS: a kernel without nodes.
 */
int linux_where(pid_t pid, uint64_t addr, uint64_t bytes, uint64_t step, struct host_where *out);

#endif
