/*
 * event.c - event threads, one a node in use: timers and watched files.
 *
 * A thread sleeps in epoll on one timerfd, programmed to the earliest deadline of
 * a heap, and on the watched files. Callbacks run without the lock; `running`
 * names the timer or watch whose callback runs, so that whoever destroys it can
 * wait. Threads are created when a node's first timer or watch is.
 */
#include "linux.h"

#include <errno.h>
#include <numa.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

struct host_timer {
	struct event_thread *e;
	void (*fn)(void *arg);
	void *arg;
	uint64_t deadline_ns;
	unsigned slot; /* in e->heap, when armed */
	bool armed;
	bool dying; /* being destroyed: its last callback may not arm it again */
};

struct host_linux_watch {
	struct event_thread *e;
	void (*fn)(void *arg);
	void *arg;
	int fd;
	struct host_linux_watch *next;
};

struct event_thread {
	struct linux_host *host;
	struct host_thread *thread;
	int epoll_fd, timer_fd;

	pthread_mutex_t lock; /* everything below */
	pthread_cond_t done;  /* a callback returned */
	struct host_timer **heap;
	unsigned nr_armed, nr_timers, capacity; /* room for all: arming cannot fail */
	uint64_t programmed_ns;                 /* what timer_fd is set to */
	struct host_linux_watch *watches;
	const void *running;
	pthread_t self;
	bool stop;
};

/* --- the heap, earliest deadline first -------------------------------------------- */

static void heap_put(struct event_thread *e, unsigned slot, struct host_timer *t)
{
	e->heap[slot] = t;
	t->slot = slot;
}

static void heap_up(struct event_thread *e, unsigned slot, struct host_timer *t)
{
	while (slot) {
		unsigned parent = (slot - 1) / 2;

		if (e->heap[parent]->deadline_ns <= t->deadline_ns)
			break;
		heap_put(e, slot, e->heap[parent]);
		slot = parent;
	}
	heap_put(e, slot, t);
}

static void heap_down(struct event_thread *e, unsigned slot, struct host_timer *t)
{
	for (;;) {
		unsigned child = 2 * slot + 1;

		if (child >= e->nr_armed)
			break;
		if (child + 1 < e->nr_armed &&
		    e->heap[child + 1]->deadline_ns < e->heap[child]->deadline_ns)
			child++;
		if (t->deadline_ns <= e->heap[child]->deadline_ns)
			break;
		heap_put(e, slot, e->heap[child]);
		slot = child;
	}
	heap_put(e, slot, t);
}

static void heap_add(struct event_thread *e, struct host_timer *t)
{
	t->armed = true;
	heap_up(e, e->nr_armed++, t);
}

static void heap_remove(struct event_thread *e, struct host_timer *t)
{
	struct host_timer *last;

	if (!t->armed)
		return;
	t->armed = false;
	last = e->heap[--e->nr_armed];
	if (last == t)
		return;
	if (last->deadline_ns < t->deadline_ns)
		heap_up(e, t->slot, last);
	else
		heap_down(e, t->slot, last);
}

/* --- the thread ------------------------------------------------------------------- */

static void program(struct event_thread *e, uint64_t deadline_ns)
{
	struct itimerspec its = { 0 };

	e->programmed_ns = deadline_ns;
	if (deadline_ns != HOST_FOREVER)
		its.it_value = ns_to_timespec(MAX(deadline_ns, 1));
	timerfd_settime(e->timer_fd, TFD_TIMER_ABSTIME, &its, NULL);
}

static void run_callback(struct event_thread *e, const void *owner, void (*fn)(void *arg),
			 void *arg)
{
	e->running = owner;
	pthread_mutex_unlock(&e->lock);
	fn(arg);
	pthread_mutex_lock(&e->lock);
	e->running = NULL;
	pthread_cond_broadcast(&e->done);
}

static void wait_callback(struct event_thread *e, const void *owner)
{
	if (pthread_equal(pthread_self(), e->self))
		return; /* the callback destroys itself */
	while (e->running == owner)
		pthread_cond_wait(&e->done, &e->lock);
}

static void run_timers(struct event_thread *e)
{
	while (e->nr_armed && !e->stop) {
		struct host_timer *t = e->heap[0];

		if (t->deadline_ns > linux_clock_mono_ns(NULL))
			break;
		heap_remove(e, t);
		run_callback(e, t, t->fn, t->arg);
	}
	program(e, e->nr_armed ? e->heap[0]->deadline_ns : HOST_FOREVER);
}

/* The watch may have gone since epoll reported it. */
static void run_watch(struct event_thread *e, const struct host_linux_watch *reported)
{
	for (struct host_linux_watch *w = e->watches; w; w = w->next) {
		if (w == reported) {
			run_callback(e, w, w->fn, w->arg);
			return;
		}
	}
}

static void event_loop(void *arg)
{
	struct event_thread *e = arg;
	struct epoll_event ev; /* one at a time: the next may be unwatched meanwhile */

	pthread_mutex_lock(&e->lock);
	e->self = pthread_self();
	while (!e->stop) {
		int n;

		pthread_mutex_unlock(&e->lock);
		n = epoll_wait(e->epoll_fd, &ev, 1, -1);
		pthread_mutex_lock(&e->lock);
		if (n != 1 || e->stop)
			continue;
		if (ev.data.ptr)
			run_watch(e, ev.data.ptr);
		else
			run_timers(e);
	}
	pthread_mutex_unlock(&e->lock);
}

/* --- life ------------------------------------------------------------------------- */

static unsigned event_slot(const struct linux_host *h, int node)
{
	return node > 0 && node < EVENT_NODES_MAX && h->many_nodes ? (unsigned)node : 0;
}

static bool node_pus(int node, struct pu_set *out)
{
	struct bitmask *cpus = node < 0 ? NULL : numa_allocate_cpumask();
	bool any = false;

	pu_set_clear(out);
	if (!cpus)
		return false;
	if (!numa_node_to_cpus(node, cpus)) {
		for (unsigned i = 0; i < MIN(cpus->size, PU_SET_MAX); i++) {
			if (numa_bitmask_isbitset(cpus, i)) {
				pu_set_add(out, i);
				any = true;
			}
		}
	}
	numa_free_cpumask(cpus);
	return any;
}

/* Where the embedder said; else on its node. */
static int event_thread_start(struct event_thread *e, int node)
{
	struct pu_set pus = e->host->event_pus[event_slot(e->host, node)];
	char name[24];
	struct host_thread_attr attr = { .name = name, .fn = event_loop, .arg = e };
	int err;

	snprintf(name, sizeof(name), "event %d", MAX(node, 0));
	if (pu_set_count(&pus) || (e->host->many_nodes && node_pus(node, &pus)))
		attr.pus = &pus;
	err = linux_thread_create(e->host, &attr, &e->thread);
	if (err == -EINVAL && attr.pus) {
		attr.pus = NULL; /* none of the node's PUs is ours to use */
		err = linux_thread_create(e->host, &attr, &e->thread);
	}
	return err;
}

static void event_thread_free(struct event_thread *e)
{
	if (e->epoll_fd >= 0)
		close(e->epoll_fd);
	if (e->timer_fd >= 0)
		close(e->timer_fd);
	pthread_cond_destroy(&e->done);
	pthread_mutex_destroy(&e->lock);
	free(e->heap);
	free(e);
}

static int event_thread_create(struct linux_host *h, int node, struct event_thread **out)
{
	struct epoll_event ev = { .events = EPOLLIN | EPOLLET };
	struct event_thread *e = calloc(1, sizeof(*e));
	int err;

	if (!e)
		return -ENOMEM;
	e->host = h;
	e->programmed_ns = HOST_FOREVER;
	pthread_mutex_init(&e->lock, NULL);
	pthread_cond_init(&e->done, NULL);
	e->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	e->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (e->timer_fd < 0 || e->epoll_fd < 0 ||
	    epoll_ctl(e->epoll_fd, EPOLL_CTL_ADD, e->timer_fd, &ev)) {
		err = -errno;
		goto out_free;
	}
	err = event_thread_start(e, node);
	if (err)
		goto out_free;
	*out = e;
	return 0;

out_free:
	event_thread_free(e);
	return err;
}

static int event_thread_get(struct linux_host *h, int node, struct event_thread **out)
{
	unsigned slot = event_slot(h, node);
	int err = 0;

	pthread_mutex_lock(&h->lock);
	if (!h->event[slot])
		err = event_thread_create(h, slot ? node : HOST_NODE_ANY, &h->event[slot]);
	*out = h->event[slot];
	pthread_mutex_unlock(&h->lock);
	return err;
}

int host_linux_place_events(const struct host *host, int node, const struct pu_set *pus)
{
	struct linux_host *h = host->ctx;
	struct event_thread *e;
	bool is_new;
	int err = 0;

	pthread_mutex_lock(&h->lock);
	h->event_pus[event_slot(h, node)] = *pus;
	is_new = !h->event[event_slot(h, node)];
	pthread_mutex_unlock(&h->lock);
	err = event_thread_get(h, node, &e);
	if (!err && !is_new)
		err = linux_thread_bind(h, e->thread, pus);
	return err;
}

void linux_event_threads_stop(struct linux_host *h)
{
	for (unsigned i = 0; i < EVENT_NODES_MAX; i++) {
		struct event_thread *e = h->event[i];

		if (!e)
			continue;
		pthread_mutex_lock(&e->lock);
		e->stop = true;
		program(e, 1);
		pthread_mutex_unlock(&e->lock);
		linux_thread_join(h, e->thread);
		event_thread_free(e);
	}
}

/* --- timers ----------------------------------------------------------------------- */

static int heap_reserve(struct event_thread *e)
{
	unsigned capacity = MAX(e->capacity * 2, 16u);
	struct host_timer **heap;

	if (e->nr_timers < e->capacity)
		return 0;
	heap = realloc(e->heap, capacity * sizeof(*heap));
	if (!heap)
		return -ENOMEM;
	e->heap = heap;
	e->capacity = capacity;
	return 0;
}

int linux_event_timer_create(void *ctx, int node, void (*fn)(void *arg), void *arg,
			     struct host_timer **out)
{
	struct event_thread *e;
	struct host_timer *t;
	int err = event_thread_get(ctx, node, &e);

	if (err)
		return err;
	t = calloc(1, sizeof(*t));
	if (!t)
		return -ENOMEM;
	*t = (struct host_timer){ .e = e, .fn = fn, .arg = arg };

	pthread_mutex_lock(&e->lock);
	err = heap_reserve(e);
	if (!err)
		e->nr_timers++;
	pthread_mutex_unlock(&e->lock);
	if (err) {
		free(t);
		return err;
	}
	*out = t;
	return 0;
}

void linux_event_timer_arm(void *ctx, struct host_timer *t, uint64_t deadline_ns)
{
	struct event_thread *e = t->e;

	pthread_mutex_lock(&e->lock);
	heap_remove(e, t);
	if (deadline_ns != HOST_FOREVER && !t->dying) {
		t->deadline_ns = deadline_ns;
		heap_add(e, t);
		/* A later deadline needs nothing: the thread wakes early and looks. */
		if (deadline_ns < e->programmed_ns)
			program(e, deadline_ns);
	}
	pthread_mutex_unlock(&e->lock);
}

void linux_event_timer_destroy(void *ctx, struct host_timer *t)
{
	struct event_thread *e;

	if (!t)
		return;
	e = t->e;
	pthread_mutex_lock(&e->lock);
	t->dying = true;
	heap_remove(e, t);
	wait_callback(e, t);
	e->nr_timers--;
	pthread_mutex_unlock(&e->lock);
	free(t);
}

/* --- watched files ---------------------------------------------------------------- */

int host_linux_watch_fd(const struct host *host, int fd, void (*fn)(void *arg), void *arg,
			struct host_linux_watch **out)
{
	struct epoll_event ev = { .events = EPOLLIN };
	struct host_linux_watch *w;
	struct event_thread *e;
	int err = event_thread_get(host->ctx, HOST_NODE_ANY, &e);

	if (err)
		return err;
	w = calloc(1, sizeof(*w));
	if (!w)
		return -ENOMEM;
	*w = (struct host_linux_watch){ .e = e, .fn = fn, .arg = arg, .fd = fd };
	ev.data.ptr = w;

	pthread_mutex_lock(&e->lock);
	if (epoll_ctl(e->epoll_fd, EPOLL_CTL_ADD, fd, &ev)) {
		err = -errno;
	} else {
		w->next = e->watches;
		e->watches = w;
	}
	pthread_mutex_unlock(&e->lock);
	if (err) {
		free(w);
		return err;
	}
	*out = w;
	return 0;
}

/* A change is in force at once, also while the thread waits: epoll_ctl(2). */
void host_linux_watch_for(struct host_linux_watch *w, bool readable, bool writable)
{
	struct epoll_event ev = {
		.events = (readable ? EPOLLIN : 0u) | (writable ? EPOLLOUT : 0u),
		.data.ptr = w,
	};

	epoll_ctl(w->e->epoll_fd, EPOLL_CTL_MOD, w->fd, &ev);
}

void host_linux_unwatch(struct host_linux_watch *w)
{
	struct event_thread *e;

	if (!w)
		return;
	e = w->e;
	pthread_mutex_lock(&e->lock);
	epoll_ctl(e->epoll_fd, EPOLL_CTL_DEL, w->fd, NULL);
	for (struct host_linux_watch **p = &e->watches; *p; p = &(*p)->next) {
		if (*p == w) {
			*p = w->next;
			break;
		}
	}
	wait_callback(e, w);
	pthread_mutex_unlock(&e->lock);
	free(w);
}
