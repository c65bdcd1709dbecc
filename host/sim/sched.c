/*
 * sched.c - the simulated host's threads, time and timers.
 *
 * The baton is `running`. Only its holder reads or writes the host's state;
 * hand_over() makes another thread the holder and sleeps until the baton is back.
 */
#include "host/sim/internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

/*
 * What a yield costs when nobody else wants to run: a loop of yields sees time pass.
 * Who has yielded so many turns in a row, and all others too, does not want to run.
 */
#define YIELD_NS    1000
#define YIELD_TURNS 4

static _Thread_local struct host_thread *this_thread;

struct host_thread *sim_self(struct sim *s)
{
	struct host_thread *t = this_thread;

	if (!t || t->sim != s)
		t = pthread_equal(pthread_self(), s->main.pthread) ? &s->main : NULL;
	if (!t || s->running != t)
		sim_die(s, "called by a thread that does not have its turn");
	return t;
}

/* --- passing the baton ------------------------------------------------------- */

/* MOV to the instruction stream done by others is seen after this: see sync_cores. */
static void serialize(void)
{
	unsigned a = 0, b, c = 0, d;

	__asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d)::"memory");
}

static void take_turn(struct sim *s, struct host_thread *self)
{
	while (s->running != self)
		pthread_cond_wait(&self->turn, &s->mutex);
	pthread_mutex_unlock(&s->mutex);
	serialize();
}

static void give_turn(struct sim *s, struct host_thread *t)
{
	pthread_mutex_lock(&s->mutex);
	s->running = t;
	pthread_cond_signal(&t->turn);
}

static void hand_over(struct sim *s, struct host_thread *self, struct host_thread *t)
{
	if (t == self)
		return;
	give_turn(s, t);
	take_turn(s, self);
}

static void make_ready(struct host_thread *t, bool timed_out)
{
	t->state = THREAD_READY;
	t->timed_out = timed_out;
	t->word = NULL;
	t->deadline_ns = HOST_FOREVER;
}

static void kick(struct host_thread *t)
{
	if (t->attention)
		*t->attention = 1;
	if (t->state == THREAD_WAITING)
		make_ready(t, false);
}

/* Time never runs backwards; whatever is due becomes ready, in order of creation. */
static void advance_to(struct sim *s, uint64_t now_ns)
{
	s->now_ns = MAX(s->now_ns, now_ns);
	for (struct host_thread *t = s->threads; t; t = t->next) {
		if (t->alarm_ns <= s->now_ns) {
			t->alarm_ns = HOST_FOREVER;
			kick(t);
		}
		if (t->state == THREAD_WAITING && t->deadline_ns <= s->now_ns)
			make_ready(t, true);
	}
}

static uint64_t next_deadline(const struct sim *s)
{
	uint64_t next = HOST_FOREVER;

	for (const struct host_thread *t = s->threads; t; t = t->next) {
		next = MIN(next, t->alarm_ns);
		if (t->state == THREAD_WAITING)
			next = MIN(next, t->deadline_ns);
	}
	return next;
}

/* The next ready thread after @self, or a random one; NULL: none. @self comes last. */
static struct host_thread *find_ready(struct sim *s, struct host_thread *self)
{
	struct host_thread *t = self;
	unsigned nr_ready = 0;

	do {
		t = t->next ? t->next : s->threads;
		if (t->state == THREAD_READY && !s->cfg.seed)
			return t;
		nr_ready += t->state == THREAD_READY;
	} while (t != self);
	if (!nr_ready)
		return NULL;
	for (nr_ready = (unsigned)(sim_random(s) % nr_ready);; t = t->next ? t->next : s->threads)
		if (t->state == THREAD_READY && !nr_ready--)
			return t;
}

/* Who runs after @self, which waits or has ended. */
static struct host_thread *find_next(struct sim *s, struct host_thread *self)
{
	struct host_thread *t;

	while (!(t = find_ready(s, self))) {
		uint64_t next = next_deadline(s);

		if (next == HOST_FOREVER)
			sim_die(s, "deadlock: everybody waits, for ever");
		advance_to(s, next);
	}
	return t;
}

/* With a seed, calls of the host are where other threads may cut in. */
static void maybe_preempt(struct sim *s)
{
	struct host_thread *self = sim_self(s);

	if (s->cfg.seed && sim_random(s) % 4 == 0)
		hand_over(s, self, find_next(s, self));
}

/* --- threads ----------------------------------------------------------------- */

static void *thread_main(void *arg)
{
	struct host_thread *t = arg;
	struct sim *s = t->sim;

	this_thread = t;
	pthread_mutex_lock(&s->mutex);
	take_turn(s, t);
	t->fn(t->arg);

	fault_forget(t);
	t->state = THREAD_DONE;
	t->alarm_ns = HOST_FOREVER;
	t->ended = 1;
	sim_wake(s, &t->ended, UINT32_MAX);
	give_turn(s, find_next(s, t));
	pthread_mutex_unlock(&s->mutex);
	return NULL;
}

static void thread_init(struct host_thread *t, struct sim *s, const char *name)
{
	struct host_thread **last = &s->threads;

	t->sim = s;
	snprintf(t->name, sizeof(t->name), "%s", name ? name : "?");
	t->alarm_ns = HOST_FOREVER;
	t->deadline_ns = HOST_FOREVER;
	pthread_cond_init(&t->turn, NULL);
	while (*last)
		last = &(*last)->next;
	*last = t;
}

static void thread_unlist(struct host_thread *t)
{
	struct host_thread **p = &t->sim->threads;

	while (*p != t)
		p = &(*p)->next;
	*p = t->next;
	pthread_cond_destroy(&t->turn);
}

static void thread_free(struct host_thread *t)
{
	thread_unlist(t);
	free(t);
}

static bool pus_usable(const struct sim *s, const struct pu_set *pus)
{
	return pu_set_next(pus, 0) < s->nr_pus;
}

static int thread_spawn(struct sim *s, const struct host_thread_attr *a, struct host_thread **out)
{
	struct host_thread *t;
	int err;

	if (a->pus && !pus_usable(s, a->pus))
		return -EINVAL;
	t = calloc(1, sizeof(*t));
	if (!t)
		return -ENOMEM;
	t->fn = a->fn;
	t->arg = a->arg;
	t->attention = a->attention;
	if (a->pus) {
		t->pus = *a->pus;
		t->bound = true;
	}
	thread_init(t, s, a->name);
	*out = t;
	err = -pthread_create(&t->pthread, NULL, thread_main, t);
	if (err)
		thread_free(t);
	return err;
}

int sim_thread_create(void *ctx, const struct host_thread_attr *a, struct host_thread **out)
{
	struct sim *s = ctx;
	int err = sim_fails(s, SIM_FAIL_THREAD) ? -EAGAIN : thread_spawn(s, a, out);

	if (!err)
		maybe_preempt(s);
	return err;
}

void sim_thread_join(void *ctx, struct host_thread *t)
{
	while (!t->ended)
		sim_wait(ctx, &t->ended, 0, HOST_FOREVER);
	pthread_join(t->pthread, NULL);
	thread_free(t);
}

int sim_thread_bind(void *ctx, struct host_thread *t, const struct pu_set *pus)
{
	struct sim *s = ctx;
	struct host_thread *self = sim_self(s);

	if (!t)
		t = self;
	if (!pus_usable(s, pus))
		return -EINVAL;
	t->pus = *pus;
	t->bound = true;
	return 0;
}

void sim_thread_kick(void *ctx, struct host_thread *t)
{
	kick(t);
	maybe_preempt(ctx);
}

void sim_thread_alarm(void *ctx, uint64_t deadline_ns)
{
	struct sim *s = ctx;

	sim_self(s)->alarm_ns = deadline_ns;
	advance_to(s, s->now_ns); /* an alarm in the past rings at once */
}

static bool all_yield(const struct sim *s)
{
	unsigned nr_ready = 0;

	for (const struct host_thread *t = s->threads; t; t = t->next)
		nr_ready += t->state == THREAD_READY;
	return s->yields > YIELD_TURNS * nr_ready;
}

void sim_thread_yield(void *ctx)
{
	struct sim *s = ctx;
	struct host_thread *self = sim_self(s);
	struct host_thread *t = find_ready(s, self);

	s->yields++;
	if (!s->settling && (t == self || all_yield(s))) {
		s->yields = 0;
		advance_to(s, s->now_ns + YIELD_NS);
	} else {
		hand_over(s, self, t);
	}
}

int sim_wait(void *ctx, _Atomic uint32_t *word, uint32_t expected, uint64_t deadline_ns)
{
	struct sim *s = ctx;
	struct host_thread *self = sim_self(s);

	maybe_preempt(s);
	if (*word != expected)
		return 0;
	if (deadline_ns <= s->now_ns)
		return -ETIMEDOUT;
	self->state = THREAD_WAITING;
	self->word = word;
	self->deadline_ns = deadline_ns;
	s->yields = 0;
	hand_over(s, self, find_next(s, self));
	return self->timed_out ? -ETIMEDOUT : 0;
}

void sim_wake(void *ctx, _Atomic uint32_t *word, unsigned count)
{
	struct sim *s = ctx;

	for (struct host_thread *t = s->threads; t && count; t = t->next) {
		if (t->state == THREAD_WAITING && t->word == word) {
			make_ready(t, false);
			count--;
		}
	}
	if (sim_self(s)->state == THREAD_READY)
		maybe_preempt(s);
}

/* --- time -------------------------------------------------------------------- */

uint64_t sim_now_ns(void *ctx)
{
	struct sim *s = ctx;

	if (s->cfg.look_ns)
		advance_to(s, s->now_ns + s->cfg.look_ns);
	maybe_preempt(s);
	return s->now_ns;
}

void sim_advance(const struct host *h, uint64_t ns)
{
	struct sim *s = h->ctx;
	_Atomic uint32_t never = 0;
	uint64_t until = s->now_ns + ns;

	while (s->now_ns < until)
		sim_wait(s, &never, 0, until);
	sim_settle(h);
}

void sim_settle(const struct host *h)
{
	struct sim *s = h->ctx;
	struct host_thread *self = sim_self(s);
	bool others;

	s->yields = 0;
	s->settling = true;
	do {
		others = false;
		for (const struct host_thread *t = s->threads; t; t = t->next)
			others |= t != self && t->state == THREAD_READY;
		if (others)
			hand_over(s, self, find_ready(s, self));
	} while (others && !all_yield(s));
	s->settling = false;
}

static struct host_timer *first_timer(const struct sim_node *n)
{
	struct host_timer *first = NULL;

	for (struct host_timer *t = n->timers; t; t = t->next)
		if (!first || t->deadline_ns < first->deadline_ns)
			first = t;
	return first;
}

/* A node's event thread. It is the simulated host's own: nobody joins it. */
static void event_thread(void *arg)
{
	struct sim_node *n = arg;
	struct sim *s = n->sim;

	while (!s->stopping) {
		struct host_timer *t = first_timer(n);
		uint64_t deadline = t ? t->deadline_ns : HOST_FOREVER;

		if (deadline > s->now_ns) {
			sim_wait(s, &n->change, n->change, deadline);
			continue;
		}
		t->deadline_ns = HOST_FOREVER;
		n->firing = t;
		t->fn(t->arg);
		n->firing = NULL;
		n->fired++;
		sim_wake(s, &n->fired, UINT32_MAX);
	}
}

static int start_events(struct sim_node *n)
{
	struct host_thread_attr a = { .name = "events", .fn = event_thread, .arg = n };

	return n->events ? 0 : thread_spawn(n->sim, &a, &n->events);
}

static void timers_changed(struct sim_node *n)
{
	n->change++;
	sim_wake(n->sim, &n->change, 1);
}

int sim_timer_create(void *ctx, int node, void (*fn)(void *arg), void *arg, struct host_timer **out)
{
	struct sim *s = ctx;
	struct sim_node *n = &s->node[node < 0 ? 0 : node];
	struct host_timer *t;
	int err;

	if (node >= (int)s->cfg.nodes)
		return -EINVAL;
	if (sim_fails(s, SIM_FAIL_TIMER))
		return -ENOMEM;
	err = start_events(n);
	if (err)
		return err;
	t = calloc(1, sizeof(*t));
	if (!t)
		return -ENOMEM;
	*t = (struct host_timer){ n, n->timers, fn, arg, HOST_FOREVER };
	n->timers = t;
	*out = t;
	return 0;
}

void sim_timer_arm(void *ctx, struct host_timer *t, uint64_t deadline_ns)
{
	t->deadline_ns = deadline_ns;
	timers_changed(t->node);
}

static void timer_free(struct host_timer *t)
{
	struct host_timer **p = &t->node->timers;

	while (*p != t)
		p = &(*p)->next;
	*p = t->next;
	free(t);
}

void sim_timer_destroy(void *ctx, struct host_timer *t)
{
	struct sim *s = ctx;
	struct sim_node *n = t->node;

	t->deadline_ns = HOST_FOREVER;
	while (n->firing == t && sim_self(s) != n->events)
		sim_wait(s, &n->fired, n->fired, HOST_FOREVER);
	timer_free(t);
}

/* --- beginning and end ------------------------------------------------------- */

void sched_start(struct sim *s)
{
	pthread_mutex_init(&s->mutex, NULL);
	s->main.pthread = pthread_self();
	thread_init(&s->main, s, "main");
	s->running = &s->main;
}

static unsigned stop_node(struct sim_node *n)
{
	unsigned left = 0;

	while (n->timers) {
		fprintf(stderr, "sim: a timer was left behind\n");
		timer_free(n->timers);
		left++;
	}
	if (n->events) {
		timers_changed(n);
		sim_thread_join(n->sim, n->events);
	}
	return left;
}

/* A thread left behind that has not ended cannot be ended from outside: it leaks. */
static unsigned stop_threads(struct sim *s)
{
	unsigned left = 0;

	for (struct host_thread *t = s->main.next, *next; t; t = next) {
		next = t->next;
		fprintf(stderr, "sim: thread \"%s\" was left behind\n", t->name);
		left++;
		if (t->ended)
			sim_thread_join(s, t);
	}
	return left;
}

unsigned sched_stop(struct sim *s)
{
	unsigned left = 0;

	s->cfg.seed = 0;
	s->stopping = true;
	for (unsigned i = 0; i < s->cfg.nodes; i++)
		left += stop_node(&s->node[i]);
	left += stop_threads(s);
	fault_forget(&s->main);
	thread_unlist(&s->main);
	return left;
}
