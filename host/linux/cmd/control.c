/*
 * control.c - the server of a control socket.
 *
 * Clients are read, answered and thrown out on the host's event thread, where nothing may
 * take long. What may (waiting for vCPUs to park, looking at every page, moving memory)
 * is done by one worker thread, a request at a time in the order they came; memory
 * moves stretch by stretch in between, so that other requests need not wait for it.
 *
 * A client has one request under way at most, and its next one is not looked at before
 * the answer is gone: what a slow or hostile one can pile up here is a line and an
 * answer. vCPU threads never come here.
 *
 * `lock` guards everything but what live.h says is the worker's. Taken before the
 * event thread's own. A client and its watch are closed by the event thread alone.
 */
#include "control.h"

#include "host/linux/host_linux.h"
#include "live.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CLIENTS_MAX     32
#define ACCEPTS_MAX     8 /* in one go */
#define PROGRESS_MIN_NS (100 * NSEC_PER_MSEC)

struct connection {
	struct control *control;
	struct host_linux_watch *watch;
	int fd;
	uint64_t active; /* when it was last heard, in requests and connections */

	char in[CONTROL_LINE_MAX];
	size_t in_bytes;
	char *out;
	size_t out_bytes, out_sent;

	bool busy, queued; /* a request is under way; it waits for the worker */
	bool gone;         /* closed, but the worker still has its request */
	bool ending;       /* nothing more is read: to be closed once its answer is out */
	uint64_t order;
	struct control_request request;
};

struct control {
	const struct host *host;
	struct control_socket socket;
	struct host_linux_watch *watch;
	struct live *live;
	pthread_t worker;

	pthread_mutex_t lock;
	pthread_cond_t work; /* the worker sleeps here */
	struct connection *client[CLIENTS_MAX];
	uint64_t clock; /* counts for `active` and `order` */
	bool quit;
	struct connection *mover; /* whose request moves memory now */
	uint64_t progress_ns;     /* when it was told last */
};

/* --- output ------------------------------------------------------------------------- */

/* False: the other end is gone. */
static bool flush(struct connection *k)
{
	while (k->out_sent < k->out_bytes) {
		ssize_t n = send(k->fd, k->out + k->out_sent, k->out_bytes - k->out_sent,
				 MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN;
		k->out_sent += (size_t)n;
	}
	free(k->out);
	k->out = NULL;
	k->out_bytes = k->out_sent = 0;
	return true;
}

/*
 * Takes @doc. Any thread, with the lock; the event thread sends it. Behind a line of
 * progress that is not out yet there is room for the answer.
 */
static void put(struct connection *k, json_t *doc)
{
	static const char poor[] = "{\"version\": 1, \"ok\": false, \"error\": {\"code\": "
				   "\"internal\", \"message\": \"out of memory\"}}";
	char *made = doc ? json_dumps(doc, JSON_COMPACT) : NULL, *more;
	const char *text = made ? made : poor;
	size_t bytes = strlen(text);

	json_decref(doc);
	more = k->gone ? NULL : realloc(k->out, k->out_bytes + bytes + 1);
	if (more) {
		*(char *)mempcpy(more + k->out_bytes, text, bytes) = '\n';
		k->out = more;
		k->out_bytes += bytes + 1;
	}
	free(made);
}

static void complain(struct connection *k, enum control_fault fault, const char *why)
{
	put(k, control_complaint(k->request.id, fault, why));
}

/* --- a request ---------------------------------------------------------------------- */

static void finish(struct connection *k, json_t *answer)
{
	put(k, answer);
	control_request_free(&k->request);
	k->busy = k->queued = false;
}

static void serve_line(struct connection *k, const char *line, size_t bytes)
{
	struct control *c = k->control;
	char why[CONTROL_WHY_BYTES];

	k->active = ++c->clock;
	if (control_parse(line, bytes, &k->request, why, sizeof(why))) {
		complain(k, FAULT_REQUEST, why);
		control_request_free(&k->request);
		return;
	}
	k->busy = true;
	if (k->request.command == CONTROL_STATUS) {
		finish(k, control_answer(k->request.id, live_status(c->live)));
	} else if (k->request.command == CONTROL_STOP) {
		finish(k, control_answer(k->request.id, json_object()));
		live_end(c->live);
	} else {
		k->queued = true;
		k->order = c->clock;
		pthread_cond_signal(&c->work);
	}
}

/* Lines that are there already, until one has to be waited for. */
static void serve_input(struct connection *k)
{
	while (!k->busy && !k->out) {
		char *end = memchr(k->in, '\n', k->in_bytes);
		size_t used;

		if (!end && k->in_bytes < sizeof(k->in))
			return;
		if (!end) {
			complain(k, FAULT_REQUEST, "a line is too long");
			k->in_bytes = 0;
			k->ending = true;
			return;
		}
		used = (size_t)(end - k->in) + 1;
		serve_line(k, k->in, used - 1);
		k->in_bytes -= used;
		memmove(k->in, end + 1, k->in_bytes);
		if (!flush(k))
			return; /* hung up */
	}
}

/* --- clients, on the event thread ------------------------------------------------------ */

static void connection_free(struct connection *k)
{
	control_request_free(&k->request);
	free(k->out);
	free(k);
}

/* The worker frees what it is still busy with. */
static void hang_up(struct connection *k)
{
	struct control *c = k->control;

	host_linux_unwatch(k->watch);
	close(k->fd);
	k->watch = NULL;
	k->fd = -1;
	k->gone = true;
	for (unsigned i = 0; i < CLIENTS_MAX; i++)
		if (c->client[i] == k)
			c->client[i] = NULL;
	if (!k->busy || k->queued)
		connection_free(k);
}

/* Who sends no more may still wait for answers. */
static void receive(struct connection *k)
{
	while (!k->ending && k->in_bytes < sizeof(k->in)) {
		ssize_t n =
			recv(k->fd, k->in + k->in_bytes, sizeof(k->in) - k->in_bytes, MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			k->ending = !n || errno != EAGAIN;
			return;
		}
		k->in_bytes += (size_t)n;
	}
}

static bool is_hung_up(const struct connection *k)
{
	struct pollfd p = { .fd = k->fd };

	return poll(&p, 1, 0) > 0 && p.revents & (POLLHUP | POLLERR);
}

static void on_client(void *arg)
{
	struct connection *k = arg;
	struct control *c = k->control;

	pthread_mutex_lock(&c->lock);
	if (!c->quit) {
		receive(k);
		if (flush(k))
			serve_input(k);
		if (!flush(k) || is_hung_up(k) || (k->ending && !k->busy && !k->out))
			hang_up(k);
		else
			host_linux_watch_for(k->watch, !k->ending && k->in_bytes < sizeof(k->in),
					     k->out != NULL);
	}
	pthread_mutex_unlock(&c->lock);
}

/* The one that was not heard for the longest time makes room, unless it waits for us. */
static int make_room(struct control *c)
{
	int oldest = -1;

	for (int i = 0; i < CLIENTS_MAX; i++) {
		struct connection *k = c->client[i];

		if (!k)
			return i;
		if (!k->busy && (oldest < 0 || k->active < c->client[oldest]->active))
			oldest = i;
	}
	if (oldest >= 0)
		hang_up(c->client[oldest]);
	return oldest;
}

static void welcome(struct control *c, int fd)
{
	struct connection *k = NULL;
	int slot = control_peer_allowed(fd) ? make_room(c) : -1;

	if (slot >= 0)
		k = calloc(1, sizeof(*k));
	if (!k) {
		close(fd);
		return;
	}
	k->control = c;
	k->fd = fd;
	k->active = ++c->clock;
	if (host_linux_watch_fd(c->host, fd, on_client, k, &k->watch)) {
		close(fd);
		free(k);
		return;
	}
	c->client[slot] = k;
}

static void on_knock(void *arg)
{
	struct control *c = arg;

	pthread_mutex_lock(&c->lock);
	for (unsigned i = 0; i < ACCEPTS_MAX && !c->quit; i++) {
		int fd = accept4(c->socket.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd < 0)
			break;
		welcome(c, fd);
	}
	pthread_mutex_unlock(&c->lock);
}

/* --- the worker ------------------------------------------------------------------------- */

/* The lock is held. Writable, so that the event thread looks at what waits in the buffer, too. */
static void deliver(struct connection *k, json_t *answer)
{
	finish(k, answer);
	if (k->gone)
		connection_free(k);
	else
		host_linux_watch_for(k->watch, true, true);
}

static struct connection *next_request(struct control *c)
{
	struct connection *first = NULL;

	for (unsigned i = 0; i < CLIENTS_MAX; i++) {
		struct connection *k = c->client[i];

		if (k && k->queued && (!first || k->order < first->order))
			first = k;
	}
	return first;
}

/* The lock is given up meanwhile; the connection stays, as it is busy. */
static void carry_out(struct control *c, struct connection *k)
{
	struct live_answer a = { 0 };

	k->queued = false;
	pthread_mutex_unlock(&c->lock);
	live_do(c->live, &k->request, &a);
	pthread_mutex_lock(&c->lock);
	if (a.moving)
		c->mover = k;
	else
		deliver(k, a.result ? control_answer(k->request.id, a.result)
				    : control_complaint(k->request.id, a.fault, a.why));
}

static void tell_progress(struct control *c, const struct live_answer *a)
{
	uint64_t now = c->host->ops->now_ns(c->host->ctx);
	struct connection *k = c->mover;

	if (k->gone || !k->request.progress || k->out || now - c->progress_ns < PROGRESS_MIN_NS)
		return;
	c->progress_ns = now;
	put(k, control_progress(k->request.id, a->done_bytes, a->all_bytes));
	host_linux_watch_for(k->watch, true, true);
}

static void move_on(struct control *c)
{
	struct live_answer a = { 0 };
	struct connection *k = c->mover;

	pthread_mutex_unlock(&c->lock);
	live_move(c->live, &a);
	pthread_mutex_lock(&c->lock);
	if (a.moving) {
		tell_progress(c, &a);
		return;
	}
	c->mover = NULL;
	deliver(k, a.result ? control_answer(k->request.id, a.result)
			    : control_complaint(k->request.id, a.fault, a.why));
}

/* Until there is something to do. The lock is held. */
static void rest(struct control *c)
{
	uint64_t until_ns = c->mover ? live_next_move_ns(c->live) : HOST_FOREVER;
	struct timespec ts = { .tv_sec = (time_t)(until_ns / NSEC_PER_SEC),
			       .tv_nsec = (long)(until_ns % NSEC_PER_SEC) };

	if (until_ns == HOST_FOREVER)
		pthread_cond_wait(&c->work, &c->lock);
	else if (until_ns > c->host->ops->now_ns(c->host->ctx))
		pthread_cond_timedwait(&c->work, &c->lock, &ts);
	else
		move_on(c);
}

static void *work(void *arg)
{
	struct control *c = arg;

	live_keep_house(c->live);
	pthread_mutex_lock(&c->lock);
	while (!c->quit) {
		struct connection *k = next_request(c);

		if (k)
			carry_out(c, k);
		else
			rest(c);
	}
	pthread_mutex_unlock(&c->lock);
	return NULL;
}

/* --- life ------------------------------------------------------------------------------- */

static int start_worker(struct control *c)
{
	pthread_condattr_t attr;
	int err;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC); /* which now_ns() is */
	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->work, &attr);
	pthread_condattr_destroy(&attr);
	err = -pthread_create(&c->worker, NULL, work, c);
	if (!err)
		pthread_setname_np(c->worker, "control");
	return err;
}

int control_start(const struct host *h, struct control_socket *s, struct live *l,
		  struct control **out)
{
	struct control *c = calloc(1, sizeof(*c));
	int err = c ? 0 : -ENOMEM;

	if (err)
		return err;
	c->host = h;
	c->live = l;
	c->socket = *s;
	err = start_worker(c);
	if (err) {
		free(c);
		return err;
	}
	*s = (struct control_socket){ .fd = -1, .dir_fd = -1 };
	*out = c;
	err = host_linux_watch_fd(h, c->socket.fd, on_knock, c, &c->watch);
	if (err) {
		control_stop(c);
		control_free(c);
		*out = NULL;
	}
	return err;
}

/* After `quit` no callback does anything, and so the list of clients stands. */
void control_stop(struct control *c)
{
	if (!c || c->quit)
		return;
	control_unlink(&c->socket);
	live_cancel(c->live);
	pthread_mutex_lock(&c->lock);
	c->quit = true;
	pthread_cond_signal(&c->work);
	pthread_mutex_unlock(&c->lock);
	pthread_join(c->worker, NULL);
	host_linux_unwatch(c->watch);
	for (unsigned i = 0; i < CLIENTS_MAX; i++)
		if (c->client[i])
			host_linux_unwatch(c->client[i]->watch);
	if (c->mover && c->mover->gone)
		connection_free(c->mover);
}

void control_free(struct control *c)
{
	if (!c)
		return;
	control_close(&c->socket);
	for (unsigned i = 0; i < CLIENTS_MAX; i++) {
		if (!c->client[i])
			continue;
		close(c->client[i]->fd);
		connection_free(c->client[i]);
	}
	pthread_cond_destroy(&c->work);
	pthread_mutex_destroy(&c->lock);
	free(c);
}
