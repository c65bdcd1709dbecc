/*
 * console.c - see console.h. Two threads: one writes, one reads.
 *
 * Lock order: nothing is called with c->lock held.
 */
#include "console.h"

#include "cmd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define BUFFER_BYTES KIB(64)
#define URGENT_BYTES KIB(4)               /* so much is written at once */
#define LINGER_NS    (5 * NSEC_PER_MSEC)  /* so long an unfinished line may wait */
#define GRACE_NS     (1 * NSEC_PER_SEC)   /* so long a stalled reader is waited for, in a hurry */
#define PROD_NS      (50 * NSEC_PER_MSEC) /* between attempts to free the writer */
#define INPUT_BYTES  4096
#define CTRL_A       1

struct console {
	int in, out; /* -1: none */
	bool owns_out;
	char *created; /* the path of a file that did not exist before */
	bool started;

	/* Output: guarded by lock. */
	pthread_mutex_t lock;
	pthread_cond_t more, room, done;
	uint8_t *fill, *drain; /* swapped by the writer, which alone touches drain */
	size_t filled;
	bool urgent, finished;
	_Atomic bool closing, hurry; /* also read by the writer while it writes */
	int error;
	uint64_t lost;
	pthread_t writer;
	bool has_writer;

	/* Input: the reader's own, but for wake_fd and stop_input. */
	struct console_peer peer;
	int wake_fd;
	_Atomic bool stop_input;
	pthread_t reader;
	bool has_reader;
	bool raw; /* the terminal is ours; also console_restore_terminal()'s */
	bool escape;
	struct termios saved;
	uint8_t pending[INPUT_BYTES]; /* what the guest has not taken yet */
	size_t pending_from, pending_to;
};

/* --- opening ---------------------------------------------------------------------- */

static int open_file(struct console *c, const char *path, const char *label)
{
	/* NONBLOCK: a FIFO that nobody reads is an error and not a reason to hang. */
	int flags = O_WRONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;

	if (!*path)
		return user_error("%s: no file named: say file:PATH", label);
	c->out = open(path, flags | O_CREAT | O_EXCL, 0666);
	if (c->out >= 0) {
		c->created = strdup(path);
	} else if (errno == EEXIST) {
		c->out = open(path, flags);
	}
	if (c->out < 0)
		return user_error("%s: cannot be written: %s: name a file that can", label,
				  errno == ENXIO ? "nobody reads it" : strerror(errno));
	fcntl(c->out, F_SETFL, 0);
	c->owns_out = true;
	return 0;
}

/* See main(). */
static bool is_closed(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	return flags < 0 || flags & O_PATH;
}

static int open_spec(struct console *c, const char *spec, const char *label)
{
	if (!strcmp(spec, "none"))
		return 0;
	if (!strncmp(spec, "file:", 5))
		return open_file(c, spec + 5, label);
	if (strcmp(spec, "stdio") != 0)
		return user_error("%s: say stdio, file:PATH or none", label);
	if (is_closed(STDOUT_FILENO))
		return user_error("%s: standard output is closed: say file:PATH or none", label);
	c->out = STDOUT_FILENO;
	c->in = STDIN_FILENO;
	return 0;
}

static void init_locks(struct console *c)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->more, &attr);
	pthread_cond_init(&c->room, &attr);
	pthread_cond_init(&c->done, &attr);
	pthread_condattr_destroy(&attr);
}

int console_open(struct console **out, const char *spec, const char *label)
{
	struct console *c = calloc(1, sizeof(*c));
	int status = 0;

	if (!c)
		return internal_error("out of memory");
	c->in = c->out = c->wake_fd = -1;
	init_locks(c);
	c->fill = malloc(BUFFER_BYTES);
	c->drain = malloc(BUFFER_BYTES);
	if (!c->fill || !c->drain)
		status = internal_error("out of memory");
	if (!status)
		status = open_spec(c, spec, label);
	if (status) {
		console_close(c);
		return status;
	}
	*out = c;
	return 0;
}

/* --- output ----------------------------------------------------------------------- */

static void wait_for(pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t ns)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	ns += (uint64_t)ts.tv_nsec;
	ts.tv_sec += (time_t)(ns / NSEC_PER_SEC);
	ts.tv_nsec = (long)(ns % NSEC_PER_SEC);
	pthread_cond_timedwait(cond, lock, &ts);
}

void console_output(struct console *c, const uint8_t *buf, size_t bytes)
{
	if (c->out < 0)
		return;
	pthread_mutex_lock(&c->lock);
	while (bytes) {
		size_t n = MIN(bytes, BUFFER_BYTES - c->filled);
		bool was_urgent = c->urgent;

		if (!n && atomic_load(&c->hurry)) {
			c->lost += bytes;
			break;
		}
		if (!n) {
			pthread_cond_wait(&c->room, &c->lock);
			continue;
		}
		memcpy(c->fill + c->filled, buf, n);
		c->urgent |= c->filled + n >= URGENT_BYTES || memchr(buf, '\n', n);
		if (!c->filled || c->urgent != was_urgent)
			pthread_cond_signal(&c->more);
		c->filled += n;
		buf += n;
		bytes -= n;
	}
	pthread_mutex_unlock(&c->lock);
}

/* Standard output may have been handed to us non-blocking. */
static void wait_writable(struct console *c)
{
	struct pollfd p = { .fd = c->out, .events = POLLOUT };

	poll(&p, 1, PROD_NS / NSEC_PER_MSEC);
}

/* Returns how much was written; less than @bytes is lost, *@error says why. */
static size_t write_all(struct console *c, const uint8_t *buf, size_t bytes, int *error)
{
	size_t at = 0;

	while (at < bytes) {
		ssize_t n = write(c->out, buf + at, bytes - at);

		if (n >= 0) {
			at += (size_t)n;
			continue;
		}
		*error = errno;
		if (errno == EAGAIN && !atomic_load(&c->hurry))
			wait_writable(c);
		else if (errno != EINTR || (atomic_load(&c->hurry) && atomic_load(&c->closing)))
			break;
	}
	return at;
}

/* Called without the lock: the first failure is told at once, the sum at the end. */
static void note_loss(struct console *c, size_t lost, int error)
{
	bool first;

	pthread_mutex_lock(&c->lock);
	first = !c->error;
	c->error = error;
	c->lost += lost;
	pthread_mutex_unlock(&c->lock);
	if (first)
		user_error("console: %s: output is being lost",
			   error == EINTR ? "nobody reads it" : strerror(error));
}

static void *writer_main(void *arg)
{
	struct console *c = arg;

	pthread_mutex_lock(&c->lock);
	for (;;) {
		size_t bytes, written;
		uint8_t *full;
		int error = 0;

		while (!c->filled && !c->closing)
			pthread_cond_wait(&c->more, &c->lock);
		if (!c->filled)
			break;
		if (!c->urgent && !c->closing)
			wait_for(&c->more, &c->lock, LINGER_NS);

		full = c->fill;
		bytes = c->filled;
		c->fill = c->drain;
		c->drain = full;
		c->filled = 0;
		c->urgent = false;
		pthread_cond_broadcast(&c->room);
		pthread_mutex_unlock(&c->lock);
		written = write_all(c, full, bytes, &error);
		if (written < bytes)
			note_loss(c, bytes - written, error);
		pthread_mutex_lock(&c->lock);
	}
	c->finished = true;
	pthread_cond_broadcast(&c->done);
	pthread_mutex_unlock(&c->lock);
	return NULL;
}

void console_hurry(struct console *c)
{
	pthread_mutex_lock(&c->lock);
	atomic_store(&c->hurry, true);
	pthread_cond_broadcast(&c->room);
	pthread_cond_broadcast(&c->done);
	pthread_mutex_unlock(&c->lock);
}

/* In a hurry a writer that is stuck in write() is prodded until it gives up. */
void console_flush(struct console *c)
{
	uint64_t waited_ns = 0;

	if (!c->has_writer)
		return;
	pthread_mutex_lock(&c->lock);
	c->closing = true;
	pthread_cond_broadcast(&c->more);
	while (!c->finished) {
		if (!atomic_load(&c->hurry)) {
			pthread_cond_wait(&c->done, &c->lock);
			continue;
		}
		wait_for(&c->done, &c->lock, PROD_NS);
		waited_ns += PROD_NS;
		if (!c->finished && waited_ns >= GRACE_NS)
			pthread_kill(c->writer, SIGRTMIN);
	}
	atomic_store(&c->hurry, true); /* nobody makes room any more */
	pthread_mutex_unlock(&c->lock);
	pthread_join(c->writer, NULL);
	c->has_writer = false;
	if (c->lost)
		user_error("console: %llu bytes were lost", (unsigned long long)c->lost);
}

/* --- input ------------------------------------------------------------------------ */

static void show_escapes(void)
{
	fputs("\r\nCtrl-A x  end the machine\r\n"
	      "Ctrl-A c  show counters\r\n"
	      "Ctrl-A h  this help\r\n"
	      "Ctrl-A Ctrl-A  send Ctrl-A to the guest\r\n",
	      stderr);
}

/* Returns true when @ch is for the guest. */
static bool take_key(struct console *c, uint8_t ch)
{
	if (!c->raw)
		return true;
	if (!c->escape) {
		c->escape = ch == CTRL_A;
		return !c->escape;
	}
	c->escape = false;
	switch (ch) {
	case 'x':
		c->peer.end(c->peer.arg);
		return false;
	case 'c':
		c->peer.counters(c->peer.arg);
		return false;
	case 'h':
	case '?':
		show_escapes();
		return false;
	default:
		return ch == CTRL_A;
	}
}

/* False: there will be no more. */
static bool read_input(struct console *c)
{
	uint8_t buf[INPUT_BYTES];
	ssize_t n = read(c->in, buf, sizeof(buf));

	if (n < 0)
		return errno == EINTR || errno == EAGAIN;
	c->pending_from = c->pending_to = 0;
	for (ssize_t i = 0; i < n; i++)
		if (take_key(c, buf[i]))
			c->pending[c->pending_to++] = buf[i];
	return n > 0;
}

static void offer_pending(struct console *c)
{
	size_t n = c->pending_to - c->pending_from;

	if (n)
		c->pending_from += c->peer.input(c->peer.arg, c->pending + c->pending_from, n);
}

/*
 * poll() and not epoll: standard input may be a regular file. While the guest refuses
 * bytes only console_ready() is waited for; it counts, so that none is missed.
 */
static void *reader_main(void *arg)
{
	struct console *c = arg;
	bool open = true;
	uint64_t count;

	while (!atomic_load(&c->stop_input)) {
		bool full = c->pending_from < c->pending_to;
		struct pollfd p[2] = {
			{ .fd = c->wake_fd, .events = POLLIN },
			{ .fd = open && !full ? c->in : -1, .events = POLLIN },
		};

		if (poll(p, 2, -1) < 0)
			continue;
		if (p[0].revents && read(c->wake_fd, &count, sizeof(count)) < 0)
			continue;
		if (p[1].revents)
			open = read_input(c);
		offer_pending(c);
	}
	return NULL;
}

static void wake_reader(struct console *c)
{
	uint64_t one = 1;

	if (write(c->wake_fd, &one, sizeof(one)) < 0)
		return; /* the counter is full: it will wake */
}

void console_ready(struct console *c)
{
	if (c->wake_fd >= 0)
		wake_reader(c);
}

/* --- the terminal ----------------------------------------------------------------- */

/* Raw but for output processing, so that lines of our own keep their form. */
static void make_raw(struct console *c)
{
	struct termios raw;

	if (tcgetattr(c->in, &c->saved))
		return;
	raw = c->saved;
	cfmakeraw(&raw);
	raw.c_oflag |= OPOST;
	c->raw = !tcsetattr(c->in, TCSANOW, &raw);
}

void console_restore_terminal(struct console *c)
{
	if (c && c->raw)
		tcsetattr(c->in, TCSANOW, &c->saved);
}

/* A background job that reads its terminal would be stopped. */
static bool may_read(const struct console *c)
{
	if (c->in < 0 || fcntl(c->in, F_GETFD) < 0)
		return false;
	return !isatty(c->in) || tcgetpgrp(c->in) == getpgrp();
}

/* --- life ------------------------------------------------------------------------- */

static int start_input(struct console *c)
{
	int err;

	if (!may_read(c))
		return 0;
	c->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (c->wake_fd < 0)
		return -errno;
	if (isatty(c->in))
		make_raw(c);
	err = -pthread_create(&c->reader, NULL, reader_main, c);
	c->has_reader = !err;
	return err;
}

int console_start(struct console *c, const struct console_peer *peer)
{
	struct stat st;
	int err;

	c->peer = *peer;
	c->started = true;
	if (c->out < 0)
		return 0;
	if (c->owns_out && !fstat(c->out, &st) && S_ISREG(st.st_mode) && ftruncate(c->out, 0))
		return -errno;
	err = -pthread_create(&c->writer, NULL, writer_main, c);
	c->has_writer = !err;
	return err ? err : start_input(c);
}

void console_stop_input(struct console *c)
{
	if (c->has_reader) {
		atomic_store(&c->stop_input, true);
		wake_reader(c);
		pthread_join(c->reader, NULL);
		c->has_reader = false;
	}
	console_restore_terminal(c);
	c->raw = false;
}

void console_close(struct console *c)
{
	if (!c)
		return;
	console_stop_input(c);
	console_flush(c);
	if (c->owns_out && close(c->out) && !c->error)
		user_error("console: %s: output may be lost", strerror(errno));
	if (c->wake_fd >= 0)
		close(c->wake_fd);
	if (c->created && !c->started)
		unlink(c->created);
	pthread_cond_destroy(&c->more);
	pthread_cond_destroy(&c->room);
	pthread_cond_destroy(&c->done);
	pthread_mutex_destroy(&c->lock);
	free(c->created);
	free(c->fill);
	free(c->drain);
	free(c);
}
