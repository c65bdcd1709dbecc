/* clock.c - the guest clock and its timers. */
#include "core/clock.h"

#include <errno.h>

#define NS_PER_MS_SCALE 1000000ull                     /* ticks at khz: one tick is 10^6 / khz ns */
#define ICOUNT_WALL_NS  (1767225600ull * NSEC_PER_SEC) /* 2026-01-01, so that runs repeat */

int clock_init(struct guest_clock *k, const struct host *h, enum clock_source source)
{
	*k = (struct guest_clock){ .host = h, .source = source };
	if (source == CLOCK_ICOUNT) {
		k->khz = ICOUNT_KHZ;
		k->wall_base_ns = ICOUNT_WALL_NS;
	} else {
		k->khz = h->ops->ticks_khz(h->ctx);
		k->wall_base_ns = h->ops->wall_ns(h->ctx);
	}
	if (!k->khz)
		return -EINVAL;
	k->ns_per_tick = (NS_PER_MS_SCALE << 32) / k->khz;
	return 0;
}

/* A seqlock: base and running are read as a pair; pairs with clock_set(). */
uint64_t clock_ticks(const struct guest_clock *k)
{
	uint32_t seq;
	uint64_t ticks;

	if (k->source == CLOCK_ICOUNT)
		return atomic_load_explicit(&k->icount, memory_order_relaxed);
	do {
		seq = atomic_load_explicit(&k->seq, memory_order_acquire);
		ticks = (uint64_t)atomic_load_explicit(&k->base, memory_order_acquire);
		if (atomic_load_explicit(&k->running, memory_order_acquire))
			ticks += k->host->ops->ticks(k->host->ctx);
	} while (unlikely((seq & 1) || seq != atomic_load(&k->seq)));
	return ticks;
}

/* The one writer at a time is who starts or stops the machine. */
static void clock_set(struct guest_clock *k, bool running, int64_t base)
{
	atomic_fetch_add(&k->seq, 1);
	atomic_store(&k->base, base);
	atomic_store(&k->running, running);
	atomic_fetch_add(&k->seq, 1);
}

uint64_t clock_ticks_to_ns(const struct guest_clock *k, uint64_t ticks)
{
	return (uint64_t)((unsigned __int128)ticks * k->ns_per_tick >> 32);
}

/* Rounds up, so that what is due at @ns is due when the ticks are reached. */
uint64_t clock_ns_to_ticks(const struct guest_clock *k, uint64_t ns)
{
	unsigned __int128 t = (((unsigned __int128)ns << 32) + k->ns_per_tick - 1) / k->ns_per_tick;

	return t > UINT64_MAX ? UINT64_MAX : (uint64_t)t;
}

uint64_t clock_now_ns(const struct guest_clock *k)
{
	return clock_ticks_to_ns(k, clock_ticks(k));
}

uint64_t clock_wall_ns(const struct guest_clock *k)
{
	return k->wall_base_ns + clock_now_ns(k);
}

uint64_t clock_host_deadline(const struct guest_clock *k, uint64_t ns)
{
	uint64_t host_now, now;

	if (ns == HOST_FOREVER || !atomic_load(&k->running))
		return HOST_FOREVER;
	/* In this order: should the thread not run in between, it comes early, not late. */
	host_now = k->host->ops->now_ns(k->host->ctx);
	now = clock_now_ns(k);
	return ns > now ? ns - now + host_now : 0;
}

/* k->lock is held. */
static void timer_program(struct clock_timer *t)
{
	const struct host *h = t->clock->host;

	if (t->host_timer)
		h->ops->timer_arm(h->ctx, t->host_timer,
				  clock_host_deadline(t->clock, t->deadline_ns));
}

static void timers_program(struct guest_clock *k)
{
	lock_take(k->host, &k->lock);
	for (struct clock_timer *t = k->timers; t; t = t->next)
		timer_program(t);
	lock_release(k->host, &k->lock);
}

void clock_start(struct guest_clock *k)
{
	uint64_t ticks = clock_ticks(k);

	if (k->source == CLOCK_HOST)
		ticks -= k->host->ops->ticks(k->host->ctx);
	clock_set(k, true, (int64_t)ticks);
	timers_program(k);
}

void clock_stop(struct guest_clock *k)
{
	clock_set(k, false, (int64_t)clock_ticks(k));
	timers_program(k);
}

/* Host and guest time may differ by a rounding: what came early is armed again. */
static void timer_fire(void *arg)
{
	struct clock_timer *t = arg;
	struct guest_clock *k = t->clock;
	bool due;

	lock_take(k->host, &k->lock);
	due = t->deadline_ns != HOST_FOREVER && atomic_load(&k->running) &&
	      t->deadline_ns <= clock_now_ns(k);
	if (due)
		t->deadline_ns = HOST_FOREVER;
	else if (t->deadline_ns != HOST_FOREVER)
		timer_program(t);
	lock_release(k->host, &k->lock);
	if (due)
		t->fn(t->arg);
}

int clock_timer_init(struct clock_timer *t, struct guest_clock *k, int node, void (*fn)(void *arg),
		     void *arg)
{
	const struct host *h = k->host;
	int err;

	*t = (struct clock_timer){ .clock = k, .fn = fn, .arg = arg, .deadline_ns = HOST_FOREVER };
	if (k->source == CLOCK_HOST) {
		err = h->ops->timer_create(h->ctx, node, timer_fire, t, &t->host_timer);
		if (err)
			return err;
	}
	lock_take(h, &k->lock);
	t->next = k->timers;
	k->timers = t;
	lock_release(h, &k->lock);
	return 0;
}

void clock_timer_arm(struct clock_timer *t, uint64_t deadline_ns)
{
	struct guest_clock *k = t->clock;

	lock_take(k->host, &k->lock);
	t->deadline_ns = deadline_ns;
	timer_program(t);
	lock_release(k->host, &k->lock);
	if (k->attention)
		atomic_store(k->attention, 1);
}

void clock_timer_destroy(struct clock_timer *t)
{
	struct guest_clock *k = t->clock;

	if (!k)
		return;
	if (t->host_timer)
		k->host->ops->timer_destroy(k->host->ctx, t->host_timer);
	lock_take(k->host, &k->lock);
	for (struct clock_timer **p = &k->timers; *p; p = &(*p)->next) {
		if (*p == t) {
			*p = t->next;
			break;
		}
	}
	lock_release(k->host, &k->lock);
	t->clock = NULL;
}

/* k->lock is held. */
static struct clock_timer *timer_first(struct guest_clock *k)
{
	struct clock_timer *first = NULL;

	for (struct clock_timer *t = k->timers; t; t = t->next)
		if (!first || t->deadline_ns < first->deadline_ns)
			first = t;
	return first;
}

uint64_t clock_next_deadline(struct guest_clock *k)
{
	struct clock_timer *t;
	uint64_t deadline;

	lock_take(k->host, &k->lock);
	t = timer_first(k);
	deadline = t ? t->deadline_ns : HOST_FOREVER;
	lock_release(k->host, &k->lock);
	return deadline;
}

void clock_run_timers(struct guest_clock *k)
{
	for (;;) {
		struct clock_timer *t;

		lock_take(k->host, &k->lock);
		t = timer_first(k);
		if (t && t->deadline_ns <= clock_now_ns(k))
			t->deadline_ns = HOST_FOREVER;
		else
			t = NULL;
		lock_release(k->host, &k->lock);
		if (!t)
			return;
		t->fn(t->arg);
	}
}
