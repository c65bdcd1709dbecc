/*
 * lapic_state.c - the local APIC's registers in struct cpu_state, as they lie in its page.
 */
#include "cpu/lapic_int.h"

#include "cpu/pv.h"

#include <errno.h>

static void export_vectors(uint32_t *reg, const struct vectors *v)
{
	for (unsigned i = 0; i < 8; i++)
		reg[i] = (uint32_t)(v->word[i / 2] >> (i % 2 * 32));
}

static void import_vectors(struct vectors *v, const uint32_t *reg)
{
	for (unsigned i = 0; i < 4; i++)
		v->word[i] = reg[2 * i] | (uint64_t)reg[2 * i + 1] << 32;
}

/* What take_posted() would receive, without taking it. */
static void with_posted(const struct cpu *c, struct vectors *irr, struct vectors *tmr)
{
	struct posted_intr *p = &c->vcpu->posted;

	for (unsigned i = 0; i < 4 && sw_enabled(c); i++) {
		uint64_t pending = atomic_load(&p->pending[i]), level = atomic_load(&p->level[i]);

		irr->word[i] |= pending;
		tmr->word[i] = (tmr->word[i] & ~pending) | (level & pending);
	}
}

/* Not zero while it runs: what is due, and not yet noticed, is due at once. */
static uint32_t count_left(const struct cpu *c)
{
	const struct lapic *l = c->lapic;
	bool runs =
		l->deadline_ns != HOST_FOREVER && TIMER_MODE(l->lvt[LVT_TIMER]) != TIMER_DEADLINE;

	return runs ? MAX(lapic_current_count(c), 1u) : 0;
}

void lapic_get_state(const struct cpu *c, struct cpu_state *s)
{
	struct lapic now = *c->lapic, *l = &now;
	int served = vector_highest(&l->isr);
	uint32_t *r = s->apic;

	with_posted(c, &l->irr, &l->tmr);
	if (served >= 0 && pv_eoi_taken(c))
		vector_clear(&l->isr, (unsigned)served);
	memset(r, 0, sizeof(s->apic));
	r[APIC_ID / 16] = is_x2apic(c) ? c->vcpu->apic_id : c->vcpu->apic_id << 24;
	r[APIC_VERSION / 16] = VERSION;
	r[APIC_TPR / 16] = l->tpr;
	r[APIC_PPR / 16] = lapic_ppr(l);
	r[APIC_LDR / 16] = is_x2apic(c) ? x2apic_ldr(c) : l->ldr;
	r[APIC_DFR / 16] = l->dfr;
	r[APIC_SVR / 16] = l->svr;
	export_vectors(r + APIC_ISR / 16, &l->isr);
	export_vectors(r + APIC_TMR / 16, &l->tmr);
	export_vectors(r + APIC_IRR / 16, &l->irr);
	r[APIC_ESR / 16] = l->esr_seen;
	r[APIC_ICR / 16] = (uint32_t)l->icr;
	r[APIC_ICR_HIGH / 16] = (uint32_t)(l->icr >> 32);
	for (unsigned i = 0; i < LVTS; i++)
		r[APIC_LVT_TIMER / 16 + i] = l->lvt[i];
	r[APIC_INITIAL / 16] = l->initial;
	r[APIC_CURRENT / 16] = count_left(c);
	r[APIC_DIVIDE / 16] = l->divide;
	s->apic_valid = true;
	s->event.kind = EVENT_NONE;
}

static void import_timer(struct cpu *c, const uint32_t *r)
{
	struct lapic *l = c->lapic;
	bool periodic = TIMER_MODE(l->lvt[LVT_TIMER]) == TIMER_PERIODIC;
	uint64_t left = r[APIC_CURRENT / 16];

	if (!left && periodic)
		left = r[APIC_INITIAL / 16]; /* KVM's stands at zero when a period ends */
	l->initial = r[APIC_INITIAL / 16];
	l->divide = r[APIC_DIVIDE / 16] & 0xb;
	l->deadline_ns = HOST_FOREVER;
	l->calm_until = 0;
	if (TIMER_MODE(l->lvt[LVT_TIMER]) == TIMER_DEADLINE)
		l->deadline_ns = lapic_tsc_deadline_ns(c, c->s.tsc_deadline);
	else if (left)
		l->deadline_ns = clock_now_ns(&c->vm->clock) + (left << divide_shift(l));
}

/*
 * An interrupt that was on its way has been acknowledged: here it is requested again.
 * The PIC has no way to take an acknowledgement back. All else that may be on its way
 * comes again by itself, since its instruction has not been executed.
 */
int lapic_check_state(const struct cpu_state *s)
{
	struct vectors isr;

	if (s->event.kind != EVENT_INTERRUPT)
		return 0;
	import_vectors(&isr, s->apic + APIC_ISR / 16);
	return s->apic_valid && vector_has(&isr, s->event.vector) ? 0 : -ENOTSUP;
}

void lapic_set_state(struct cpu *c, const struct cpu_state *s)
{
	const uint32_t *r = s->apic;
	struct lapic *l = c->lapic;

	if (!s->apic_valid)
		return;
	lapic_drop_posted(c->vcpu);
	l->tpr = r[APIC_TPR / 16] & 0xff;
	l->ldr = r[APIC_LDR / 16] & 0xff000000;
	l->dfr = r[APIC_DFR / 16] | 0x0fffffff;
	l->svr = r[APIC_SVR / 16] & SVR_WRITABLE;
	import_vectors(&l->isr, r + APIC_ISR / 16);
	import_vectors(&l->tmr, r + APIC_TMR / 16);
	import_vectors(&l->irr, r + APIC_IRR / 16);
	if (s->event.kind == EVENT_INTERRUPT) {
		vector_clear(&l->isr, s->event.vector);
		vector_set(&l->irr, s->event.vector);
	}
	l->esr = 0;
	l->esr_seen = r[APIC_ESR / 16];
	l->icr = r[APIC_ICR / 16] | (uint64_t)r[APIC_ICR_HIGH / 16] << 32;
	for (unsigned i = 0; i < LVTS; i++)
		l->lvt[i] = r[APIC_LVT_TIMER / 16 + i] & lapic_lvt_writable[i];
	import_timer(c, r);
	lapic_update_logical(c);
	atomic_store(&c->vcpu->attention, 1); /* its thread arms the alarm */
}
