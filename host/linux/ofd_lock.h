/*
 * ofd_lock.h - open-file-description locks on whole files: those of fcntl(2) that belong
 * to a descriptor and its copies, not to a process, and go with the last copy.
 *
 * @type is F_RDLCK or F_WRLCK; for the latter the descriptor must be writable. Any thread.
 */
#ifndef HOST_LINUX_OFD_LOCK_H
#define HOST_LINUX_OFD_LOCK_H

#include "core/util.h"

/* 0, -EAGAIN: others have it, or -errno. */
int ofd_lock(int fd, short type);
/*
 * In order of arrival. After -ETIMEDOUT, and only then, @fd is not the caller's any
 * more: it is closed as soon as that lets go of the lock it may still get.
 */
int ofd_lock_wait(int fd, short type, uint64_t patience_ns);
/* Has another descriptor a write lock? True also in doubt. */
bool ofd_is_locked(int fd);

#endif
