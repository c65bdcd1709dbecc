/* ofd_lock.c - see ofd_lock.h. */
#include "ofd_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int ofd_lock(int fd, short type)
{
	struct flock f = { .l_type = type, .l_whence = SEEK_SET };

	if (!fcntl(fd, F_OFD_SETLK, &f))
		return 0;
	return errno == EACCES ? -EAGAIN : -errno; /* POSIX allows either */
}

bool ofd_is_locked(int fd)
{
	struct flock f = { .l_type = F_RDLCK, .l_whence = SEEK_SET };

	return fcntl(fd, F_OFD_GETLK, &f) || f.l_type != F_UNLCK;
}

/*
 * Waiting in the kernel is in order of arrival, which polling is not: of two hundred
 * that poll, some starve. But who waits there cannot tire, and a stopped holder would
 * stop all of us; so a thread waits on our behalf, and is left behind if that takes too
 * long. The lock is the descriptor's, whichever thread gets it.
 */
struct lock_wait {
	int fd;
	short type;
	pthread_mutex_t mutex; /* guards the rest */
	pthread_cond_t cond;
	bool done, abandoned; /* abandoned: the waiting thread frees this */
	int err;
};

static struct lock_wait *new_wait(int fd, short type)
{
	struct lock_wait *w = calloc(1, sizeof(*w));

	if (!w)
		return NULL;
	w->fd = fd;
	w->type = type;
	pthread_mutex_init(&w->mutex, NULL);
	pthread_cond_init(&w->cond, NULL);
	return w;
}

static void free_wait(struct lock_wait *w)
{
	pthread_cond_destroy(&w->cond);
	pthread_mutex_destroy(&w->mutex);
	free(w);
}

static void *wait_in_kernel(void *arg)
{
	struct lock_wait *w = arg;
	struct flock f = { .l_type = w->type, .l_whence = SEEK_SET };
	bool abandoned;
	int err;

	do
		err = fcntl(w->fd, F_OFD_SETLKW, &f) ? -errno : 0;
	while (err == -EINTR);
	pthread_mutex_lock(&w->mutex);
	w->done = true;
	w->err = err;
	abandoned = w->abandoned;
	pthread_cond_signal(&w->cond);
	pthread_mutex_unlock(&w->mutex);
	if (abandoned) {
		close(w->fd);
		free_wait(w);
	}
	return NULL;
}

/* True if it was done in time; otherwise @w is not ours any more. */
static bool wait_until_done(struct lock_wait *w, uint64_t patience_ns)
{
	struct timespec t;
	bool done;
	int err = 0;

	clock_gettime(CLOCK_MONOTONIC, &t);
	patience_ns += (uint64_t)t.tv_nsec;
	t.tv_sec += (time_t)(patience_ns / NSEC_PER_SEC);
	t.tv_nsec = (long)(patience_ns % NSEC_PER_SEC);
	pthread_mutex_lock(&w->mutex);
	while (!w->done && !err)
		err = pthread_cond_clockwait(&w->cond, &w->mutex, CLOCK_MONOTONIC, &t);
	done = w->done;
	w->abandoned = !done;
	pthread_mutex_unlock(&w->mutex);
	return done;
}

static int wait_elsewhere(int fd, short type, uint64_t patience_ns)
{
	struct lock_wait *w = new_wait(fd, type);
	pthread_t thread;
	int err = w ? pthread_create(&thread, NULL, wait_in_kernel, w) : ENOMEM;

	if (err) {
		if (w)
			free_wait(w);
		return -err;
	}
	if (!wait_until_done(w, patience_ns)) {
		pthread_detach(thread);
		return -ETIMEDOUT;
	}
	pthread_join(thread, NULL);
	err = w->err;
	free_wait(w);
	return err;
}

int ofd_lock_wait(int fd, short type, uint64_t patience_ns)
{
	int err = ofd_lock(fd, type);

	return err == -EAGAIN ? wait_elsewhere(fd, type, patience_ns) : err;
}
