/*
 * sample.c - see sample.h. The timer's function runs on an event thread and is the
 * only writer of the STAT_*_US counters; it takes no lock.
 */
#include "core/sample.h"

#include <errno.h>

#define PERIOD_NS (2 * NSEC_PER_MSEC)

struct sampler {
	struct vm *vm;
	struct host_timer *timer;
	uint64_t last_ns, noise;
};

static enum vcpu_stat seen(struct vcpu *c)
{
	switch (atomic_load(&c->mode)) {
	case VCPU_POLLING:
	case VCPU_SLEEPING:
		return STAT_IDLE_US;
	case VCPU_GUEST:
		return (enum vcpu_stat)(STAT_CODE_US +
					atomic_load_explicit(&c->doing, memory_order_relaxed));
	default:
		return STAT_OUTSIDE_US;
	}
}

/* Guests have periods of their own: ours is none. */
static uint64_t next_ns(struct sampler *s)
{
	s->noise = s->noise * 6364136223846793005ull + 1442695040888963407ull;
	return s->last_ns + PERIOD_NS / 2 + (s->noise >> 33) % PERIOD_NS;
}

static void look(void *arg)
{
	struct sampler *s = arg;
	const struct host *h = &s->vm->host;
	uint64_t now = h->ops->now_ns(h->ctx), us = (now - s->last_ns) / 1000;

	for (unsigned i = 0; i < s->vm->nr_vcpus; i++)
		stat_add(&s->vm->vcpu[i]->stats, seen(s->vm->vcpu[i]), us);
	s->last_ns += us * 1000;
	h->ops->timer_arm(h->ctx, s->timer, next_ns(s));
}

int sampler_start(struct vm *vm)
{
	const struct host *h = &vm->host;
	struct sampler *s;
	int err;

	if (!vm->cfg.sample_time)
		return 0;
	s = h->ops->alloc(h->ctx, sizeof(*s), HOST_NODE_ANY);
	if (!s)
		return -ENOMEM;
	s->vm = vm;
	s->last_ns = h->ops->now_ns(h->ctx);
	err = h->ops->timer_create(h->ctx, HOST_NODE_ANY, look, s, &s->timer);
	if (err) {
		h->ops->free(h->ctx, s, sizeof(*s));
		return err;
	}
	vm->sampler = s;
	h->ops->timer_arm(h->ctx, s->timer, next_ns(s));
	return 0;
}

void sampler_stop(struct vm *vm)
{
	const struct host *h = &vm->host;

	if (!vm->sampler)
		return;
	h->ops->timer_destroy(h->ctx, vm->sampler->timer);
	h->ops->free(h->ctx, vm->sampler, sizeof(*vm->sampler));
	vm->sampler = NULL;
}
