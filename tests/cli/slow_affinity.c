/*
 * slow_affinity.c - preloaded: a process that binds itself takes its time about it, so that
 * whoever does not wait for it is found out.
 */
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SLOW_USEC 300000

int sched_setaffinity(pid_t pid, size_t bytes, const cpu_set_t *set)
{
	if (!pid)
		usleep(SLOW_USEC);
	return syscall(SYS_sched_setaffinity, pid, bytes, set) < 0 ? -1 : 0;
}
