/*
 * host.c - the Linux host's life and the operations that need no file of their own.
 *
 * Signal dispositions belong to the process: the first host takes them over,
 * the last one gives them back.
 */
#include "linux.h"

#include <errno.h>
#include <numa.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <unistd.h>

static pthread_mutex_t signals_lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned signals_users; /* guarded by signals_lock */

static int signals_take(void)
{
	int err = 0;

	pthread_mutex_lock(&signals_lock);
	if (!signals_users) {
		err = linux_kick_signal_take();
		if (!err) {
			err = linux_fault_signals_take();
			if (err)
				linux_kick_signal_release();
		}
	}
	if (!err)
		signals_users++;
	pthread_mutex_unlock(&signals_lock);
	return err;
}

static void signals_release(void)
{
	pthread_mutex_lock(&signals_lock);
	if (!--signals_users) {
		linux_fault_signals_release();
		linux_kick_signal_release();
	}
	pthread_mutex_unlock(&signals_lock);
}

static int entropy(void *ctx, void *buf, size_t bytes)
{
	uint8_t *p = buf;

	while (bytes) {
		ssize_t n = getrandom(p, bytes, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		p += n;
		bytes -= (size_t)n;
	}
	return 0;
}

/* One write a line, so that lines of several threads never mix. */
static void log_line(void *ctx, enum log_level level, const char *line)
{
	struct linux_host *h = ctx;
	char buf[640];
	int n;

	if ((int)level > atomic_load_explicit(&h->log_max, memory_order_relaxed))
		return;
	n = snprintf(buf, sizeof(buf), "alcazar: %s%s\n", level == LOG_WARN ? "warning: " : "",
		     line);
	if (n >= (int)sizeof(buf)) {
		n = sizeof(buf);
		buf[sizeof(buf) - 1] = '\n';
	}
	if (write(STDERR_FILENO, buf, (size_t)n) < 0)
		return; /* nowhere left to complain */
}

static const struct host_ops linux_ops = {
	.name = "linux",
	.thread_create = linux_thread_create,
	.thread_join = linux_thread_join,
	.thread_bind = linux_thread_bind,
	.thread_kick = linux_thread_kick,
	.thread_alarm = linux_thread_alarm,
	.thread_yield = linux_thread_yield,
	.thread_set_gs = linux_thread_set_gs,
	.wait = linux_futex_wait,
	.wake = linux_futex_wake,
	.now_ns = linux_clock_mono_ns,
	.wall_ns = linux_clock_wall_ns,
	.ticks = linux_tick_count,
	.ticks_khz = linux_tick_khz,
	.timer_create = linux_event_timer_create,
	.timer_arm = linux_event_timer_arm,
	.timer_destroy = linux_event_timer_destroy,
	.mem_map = linux_mem_map,
	.mem_unmap = linux_mem_unmap,
	.mem_prefault = linux_mem_prefault,
	.mem_where = linux_mem_where,
	.mem_move = linux_mem_move,
	.alloc = linux_mem_alloc,
	.free = linux_mem_free,
	.code_map = linux_code_map,
	.code_unmap = linux_code_unmap,
	.code_prefault = linux_code_prefault,
	.fault_handler = linux_fault_handler,
	.sync_cores = linux_sync_cores,
	.entropy = entropy,
	.topology = linux_topology_discover,
	.log = log_line,
};

int host_linux_create(struct host *out)
{
	struct linux_host *h = calloc(1, sizeof(*h));
	int err;

	if (!h)
		return -ENOMEM;
	pthread_mutex_init(&h->lock, NULL);
	atomic_init(&h->log_max, LOG_INFO);
	linux_tick_init(h);
	h->many_nodes = numa_available() >= 0 && numa_num_configured_nodes() > 1;

	err = linux_thread_affinity(&h->allowed);
	if (err)
		goto out_free;
	err = linux_sync_init(h);
	if (err)
		goto out_free;
	err = signals_take();
	if (err)
		goto out_sync;

	out->ops = &linux_ops;
	out->ctx = h;
	return 0;

out_sync:
	linux_sync_exit(h);
out_free:
	pthread_mutex_destroy(&h->lock);
	free(h);
	return err;
}

void host_linux_destroy(struct host *host)
{
	struct linux_host *h = host->ctx;

	if (!h)
		return;
	linux_event_threads_stop(h);
	signals_release();
	linux_sync_exit(h);
	pthread_mutex_destroy(&h->lock);
	free(h);
	*host = (struct host){ 0 };
}

void host_linux_log_level(const struct host *host, enum log_level max)
{
	struct linux_host *h = host->ctx;

	atomic_store_explicit(&h->log_max, (int)max, memory_order_relaxed);
}
