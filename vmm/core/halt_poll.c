/*
 * halt_poll.c - see halt_poll.h. Called by vcpu_wait() on the vCPU's thread.
 */
#include "core/halt_poll.h"

#include "core/vm.h"

#define FIRST_WINDOW_NS 10000u
#define LOOKS           32   /* between two looks at the clock: a microsecond or two */
#define YIELD_NS        5000 /* a yield that nobody took is shorter */

/* Where vCPUs share a PU, who polls takes the time of the one that is waited for. */
void halt_poll_set_limits(struct vm *vm)
{
	uint32_t ns = vm->cfg.halt_poll_set ? vm->cfg.halt_poll_ns : HALT_POLL_DEFAULT_NS;

	for (unsigned i = 0; i < vm->nr_vcpus; i++) {
		bool yes = vm->cfg.halt_poll_set || !vm->plan.vcpu[i].shared;

		atomic_store_explicit(&vm->vcpu[i]->halt_poll.limit_ns, yes ? ns : 0,
				      memory_order_relaxed);
	}
}

/* Whatever ends an idle vCPU's wait, but its own timer, is posted as an event. */
static bool look(struct vcpu *c)
{
	for (unsigned i = 0; i < LOOKS; i++) {
		if (atomic_load_explicit(&c->events, memory_order_relaxed))
			return true;
		__builtin_ia32_pause();
	}
	return false;
}

/* Other threads on this PU come first. @now_ns goes on. True: there was one. */
static bool give_way(const struct host *h, uint64_t *now_ns)
{
	uint64_t before = *now_ns;

	h->ops->thread_yield(h->ctx);
	*now_ns = h->ops->now_ns(h->ctx);
	return *now_ns - before >= YIELD_NS;
}

bool halt_poll(struct vcpu *c, uint64_t start_ns, uint64_t deadline_ns)
{
	const struct host *h = &c->vm->host;
	struct halt_poll *p = &c->halt_poll;
	uint64_t now = start_ns;
	bool found;

	p->window_ns = MIN(p->window_ns, atomic_load_explicit(&p->limit_ns, memory_order_relaxed));
	if (!p->window_ns || p->refused || c->vm->clock.source != CLOCK_HOST)
		return false;

	do {
		found = look(c) || now >= deadline_ns;
		if (!found && give_way(h, &now))
			p->window_ns = 0;
	} while (!found && now - start_ns < p->window_ns);

	if (found)
		now = h->ops->now_ns(h->ctx);
	stat_add(&c->stats, found ? STAT_POLLS : STAT_POLLS_MISSED, 1);
	stat_add(&c->stats, STAT_POLL_NS, now - start_ns);
	return found;
}

void halt_poll_learn(struct halt_poll *p, uint64_t idle_ns)
{
	uint32_t limit_ns = atomic_load_explicit(&p->limit_ns, memory_order_relaxed);

	if (idle_ns > limit_ns)
		p->window_ns = 0;
	else if (idle_ns > p->window_ns)
		p->window_ns = MIN(MAX(2 * p->window_ns, FIRST_WINDOW_NS), (uint64_t)limit_ns);
}
