/*
 * lapic_timer.c - the local APIC's timer; SDM vol. 3, 11.5.4.
 *
 * It counts guest nanoseconds (a bus of 1 GHz). While the vCPU runs it is woken by the
 * thread's alarm, which is armed lazily: an alarm that comes before the deadline costs
 * one look at the clock and is set again. Under CLOCK_ICOUNT the run loop asks
 * lapic_deadline() how far it may go.
 */
#include "cpu/lapic_int.h"
#include "cpu/xlat.h"

static uint64_t period_ns(const struct lapic *l)
{
	return (uint64_t)l->initial << divide_shift(l);
}

static void alarm_arm(struct cpu *c)
{
	struct lapic *l = c->lapic;
	const struct host *h = &c->vm->host;
	bool icount = c->vm->clock.source == CLOCK_ICOUNT;
	uint64_t host_ns;

	if (l->deadline_ns == HOST_FOREVER)
		return;
	xlat_outside(c);
	host_ns = icount ? 0 : clock_host_deadline(&c->vm->clock, l->deadline_ns);
	if (!host_ns) { /* due, or for the run loop to plan */
		atomic_store_explicit(&c->vcpu->attention, 1, memory_order_relaxed);
	} else if (host_ns < l->alarm_ns) {
		l->alarm_ns = host_ns;
		h->ops->thread_alarm(h->ctx, host_ns);
	}
}

/*
 * Looking costs two readings of clocks and, in translated code, the vector registers: too
 * much for every interrupt. Where the guest's TSC is the host's, that says for how long it is
 * needless: until the alarm, which is not later than the deadline, less what clocks that are
 * being adjusted may go faster than the TSC. If the guest's clock stops, the look is early.
 * @tsc is from before @now_ns: if the thread does not run in between, it is early as well.
 */
static void stay_calm(struct cpu *c, uint64_t tsc, uint64_t now_ns)
{
	struct lapic *l = c->lapic;
	uint64_t left_ns;

	l->calm_until = 0;
	if (!xlat_tsc_is_ours(c) || l->alarm_ns == HOST_FOREVER || l->alarm_ns <= now_ns)
		return;
	left_ns = MIN(l->alarm_ns - now_ns, NSEC_PER_SEC);
	left_ns -= left_ns / 128;
	l->calm_until = tsc + left_ns * c->vm->clock.khz / 1000000;
}

static void timer_start(struct cpu *c, uint64_t deadline_ns)
{
	c->lapic->deadline_ns = deadline_ns;
	c->lapic->calm_until = 0;
	alarm_arm(c);
}

static void timer_expire(struct cpu *c, uint64_t now)
{
	struct lapic *l = c->lapic;
	uint64_t period = period_ns(l);

	lapic_raise_local(c, LVT_TIMER);
	c->s.tsc_deadline = 0;
	if (TIMER_MODE(l->lvt[LVT_TIMER]) == TIMER_PERIODIC && period)
		l->deadline_ns += ((now - l->deadline_ns) / period + 1) * period;
	else
		l->deadline_ns = HOST_FOREVER;
}

/*
 * An alarm is spent once the host's clock has passed it, whatever the guest's says, and whether
 * a deadline is left or not: the next one would be taken for covered by it.
 */
void lapic_timer_look(struct cpu *c)
{
	struct lapic *l = c->lapic;
	const struct host *h = &c->vm->host;
	uint64_t now, host_now, tsc;
	bool expired;

	if (l->deadline_ns == HOST_FOREVER && l->alarm_ns == HOST_FOREVER)
		return;
	tsc = __builtin_ia32_rdtsc();
	if (tsc < l->calm_until)
		return;
	xlat_outside(c);
	now = clock_now_ns(&c->vm->clock);
	expired = l->deadline_ns <= now;
	if (expired)
		timer_expire(c, now);
	if (c->vm->clock.source == CLOCK_ICOUNT)
		return; /* the run loop looks at the deadline anyway */
	host_now = h->ops->now_ns(h->ctx);
	if (l->alarm_ns <= host_now)
		l->alarm_ns = HOST_FOREVER;
	alarm_arm(c);
	stay_calm(c, tsc, host_now);
}

uint64_t lapic_deadline(const struct cpu *c)
{
	return c->lapic->deadline_ns;
}

static uint64_t guest_now_ns(const struct cpu *c)
{
	xlat_outside(c);
	return clock_now_ns(&c->vm->clock);
}

uint32_t lapic_current_count(const struct cpu *c)
{
	const struct lapic *l = c->lapic;
	uint64_t now = guest_now_ns(c);

	if (l->deadline_ns == HOST_FOREVER || l->deadline_ns <= now ||
	    TIMER_MODE(l->lvt[LVT_TIMER]) == TIMER_DEADLINE)
		return 0;
	return (uint32_t)((l->deadline_ns - now) >> divide_shift(l));
}

void lapic_set_initial(struct cpu *c, uint32_t v)
{
	struct lapic *l = c->lapic;

	if (TIMER_MODE(l->lvt[LVT_TIMER]) == TIMER_DEADLINE)
		return;
	l->initial = v;
	timer_start(c, v ? guest_now_ns(c) + period_ns(l) : HOST_FOREVER);
}

/* The count goes on from where it is, at the new pace. */
void lapic_set_divide(struct cpu *c, uint32_t v)
{
	struct lapic *l = c->lapic;
	uint64_t count = lapic_current_count(c);

	l->divide = v & 0xb;
	if (count)
		timer_start(c, guest_now_ns(c) + (count << divide_shift(l)));
}

/* Between deadline mode and the others the timer is disarmed; SDM vol. 3, 11.5.4.1. */
void lapic_set_lvt_timer(struct cpu *c, uint32_t v)
{
	struct lapic *l = c->lapic;
	bool was = TIMER_MODE(l->lvt[LVT_TIMER]) == TIMER_DEADLINE;
	bool is = TIMER_MODE(v) == TIMER_DEADLINE;

	l->lvt[LVT_TIMER] = v;
	if (was == is)
		return;
	l->deadline_ns = HOST_FOREVER;
	l->initial = 0;
	c->s.tsc_deadline = 0;
}

uint64_t lapic_tsc_deadline(const struct cpu *c)
{
	return c->s.tsc_deadline;
}

/* When the guest's TSC reaches @v, in guest time. */
uint64_t lapic_tsc_deadline_ns(struct cpu *c, uint64_t v)
{
	uint64_t ticks = v - c->s.tsc_offset;

	if (!v)
		return HOST_FOREVER;
	xlat_outside(c);
	if ((int64_t)(v - cpu_tsc(c)) <= 0)
		return 0;
	if ((int64_t)ticks < 0) /* centuries ahead */
		return HOST_FOREVER;
	return clock_ticks_to_ns(&c->vm->clock, ticks) + 1;
}

void lapic_set_tsc_deadline(struct cpu *c, uint64_t v)
{
	if (TIMER_MODE(c->lapic->lvt[LVT_TIMER]) != TIMER_DEADLINE)
		return;
	c->s.tsc_deadline = v;
	timer_start(c, lapic_tsc_deadline_ns(c, v));
}

void lapic_tsc_changed(struct cpu *c)
{
	if (c->s.tsc_deadline)
		lapic_set_tsc_deadline(c, c->s.tsc_deadline);
}
