/*
 * lapic.c - the local APIC: its life, priorities, interrupts that come and go. SDM
 * vol. 3, ch. 11.
 *
 * Messages from outside wait in the posted-interrupt descriptor until lapic_sync()
 * takes them over into IRR.
 */
#include "cpu/lapic_int.h"

#include "core/irq.h"
#include "cpu/pv.h"
#include "cpu/soft.h"
#include "cpu/xlat.h"

#include <errno.h>

/* --- life ---------------------------------------------------------------------------------- */

void lapic_update_logical(struct cpu *c)
{
	struct lapic *l = c->lapic;
	struct ipi *f;

	xlat_outside(c);
	f = vm_ipi(c->vm);
	ipi_set_logical(f, c->vcpu, hw_enabled(c) ? (uint8_t)(l->ldr >> 24) : 0, l->dfr >> 28 == 0,
			is_x2apic(c));
}

void lapic_reset_registers(struct cpu *c)
{
	struct lapic *l = c->lapic;
	uint64_t alarm_ns = l->alarm_ns;

	memset(l, 0, sizeof(*l));
	l->dfr = DFR_FLAT;
	l->svr = 0xff;
	for (unsigned i = 0; i < LVTS; i++)
		l->lvt[i] = LVT_MASKED;
	l->deadline_ns = HOST_FOREVER;
	l->alarm_ns = alarm_ns;
}

int lapic_create(struct cpu *c, int host_node)
{
	const struct host *h = &c->vm->host;

	c->lapic = h->ops->alloc(h->ctx, sizeof(*c->lapic), host_node);
	if (!c->lapic)
		return -ENOMEM;
	c->lapic->alarm_ns = HOST_FOREVER;
	lapic_reset_registers(c);
	return 0;
}

void lapic_destroy(struct cpu *c)
{
	const struct host *h = &c->vm->host;

	if (c->lapic)
		h->ops->free(h->ctx, c->lapic, sizeof(*c->lapic));
	c->lapic = NULL;
}

void lapic_drop_posted(struct vcpu *v)
{
	for (unsigned i = 0; i < 4; i++)
		atomic_store(&v->posted.pending[i], 0);
}

void lapic_reset(struct cpu *c)
{
	struct lapic *l = c->lapic;

	lapic_drop_posted(c->vcpu);
	lapic_reset_registers(c);
	if (c->s.apic_base & APIC_BASE_BSP) {
		l->svr |= SVR_ENABLE;
		l->lvt[LVT_LINT0] = LVT_EXTINT;
		l->lvt[LVT_LINT1] = LVT_NMI;
	}
	lapic_update_logical(c);
}

/* --- priorities ---------------------------------------------------------------------------- */

uint32_t lapic_ppr(const struct lapic *l)
{
	int isr = vector_highest(&l->isr);
	uint32_t in_service = isr < 0 ? 0 : (uint32_t)isr & 0xf0;

	return l->tpr >> 4 >= in_service >> 4 ? l->tpr : in_service;
}

/* The vector to deliver, or -1. */
static int deliverable(const struct lapic *l)
{
	int irr = vector_highest(&l->irr);

	return irr >= 0 && (uint32_t)irr >> 4 > lapic_ppr(l) >> 4 ? irr : -1;
}

bool lapic_extint(const struct cpu *c)
{
	const struct lapic *l = c->lapic;

	if (c->vcpu->id || !(atomic_load(&c->vcpu->posted.signals) & POSTED_EXTINT))
		return false;
	if (!hw_enabled(c))
		return true; /* LINT0 is the processor's INTR pin */
	return !(l->lvt[LVT_LINT0] & LVT_MASKED) && LVT_MODE(l->lvt[LVT_LINT0]) == IPI_EXTINT;
}

bool lapic_pending(const struct cpu *c)
{
	return deliverable(c->lapic) >= 0 || lapic_extint(c);
}

int lapic_ack(struct cpu *c)
{
	struct lapic *l = c->lapic;
	int vector;

	if (lapic_extint(c)) {
		xlat_outside(c);
		vector = irq_ack_extint(c->vm);
		if (vector >= 0)
			return vector;
	}
	vector = deliverable(l);
	if (vector < 0)
		return -ENOENT;
	vector_clear(&l->irr, (unsigned)vector);
	vector_set(&l->isr, (unsigned)vector);
	return vector;
}

/* Something made a vector deliverable: look before the next block. */
static void look_again(struct cpu *c)
{
	if (deliverable(c->lapic) >= 0)
		atomic_store_explicit(&c->vcpu->attention, 1, memory_order_relaxed);
}

void lapic_eoi(struct cpu *c)
{
	struct lapic *l = c->lapic;
	int vector = vector_highest(&l->isr);

	if (vector < 0)
		return;
	vector_clear(&l->isr, (unsigned)vector);
	if (vector_has(&l->tmr, (unsigned)vector) && !(l->svr & SVR_NO_EOI_CAST)) {
		xlat_outside(c);
		irq_eoi(c->vm, (uint8_t)vector);
	}
	look_again(c);
}

bool lapic_only_edge_in_service(const struct cpu *c)
{
	const struct lapic *l = c->lapic;
	int vector = vector_highest(&l->isr);
	unsigned in_service = 0; /* two stand for more */

	for (unsigned i = 0; i < 4; i++) {
		uint64_t w = l->isr.word[i];

		in_service += w ? 1 + !!(w & (w - 1)) : 0;
	}
	return in_service == 1 && vector_highest(&l->irr) < 0 &&
	       !vector_has(&l->tmr, (unsigned)vector);
}

void lapic_set_tpr(struct cpu *c, uint32_t v)
{
	c->lapic->tpr = v & 0xff;
	look_again(c);
}

uint64_t lapic_cr8(const struct cpu *c)
{
	return c->lapic->tpr >> 4;
}

void lapic_set_cr8(struct cpu *c, uint64_t v)
{
	lapic_set_tpr(c, (uint32_t)v << 4);
}

/* --- accepting interrupts ------------------------------------------------------------------ */

void lapic_accept(struct cpu *c, unsigned vector)
{
	struct lapic *l = c->lapic;

	vector_set(&l->irr, vector);
	vector_clear(&l->tmr, vector);
	look_again(c);
}

void lapic_raise_local(struct cpu *c, unsigned lvt)
{
	struct lapic *l = c->lapic;
	uint32_t v = l->lvt[lvt];

	if ((v & LVT_MASKED) || !sw_enabled(c))
		return;
	if (lvt == LVT_ERROR || lvt == LVT_TIMER || LVT_MODE(v) == IPI_FIXED) {
		if ((v & 0xff) >= FIRST_VECTOR)
			lapic_accept(c, v & 0xff);
		else if (lvt != LVT_ERROR)
			l->esr |= ESR_RECEIVE_ILLEGAL;
	} else if (LVT_MODE(v) == IPI_NMI) {
		c->s.nmi_pending = true;
	}
}

void lapic_error(struct cpu *c, uint32_t bit)
{
	c->lapic->esr |= bit;
	lapic_raise_local(c, LVT_ERROR);
}

static void take_posted(struct cpu *c)
{
	struct posted_intr *p = &c->vcpu->posted;
	struct lapic *l = c->lapic;

	for (unsigned i = 0; i < 4; i++) {
		uint64_t pending, level;

		if (!atomic_load_explicit(&p->pending[i], memory_order_relaxed))
			continue;
		pending = atomic_exchange(&p->pending[i], 0);
		level = atomic_load(&p->level[i]);
		if (!sw_enabled(c))
			continue; /* not accepted */
		l->irr.word[i] |= pending;
		l->tmr.word[i] = (l->tmr.word[i] & ~pending) | (level & pending);
	}
}

/* In fixed mode LINT0 is an ordinary interrupt at the PIC's rising edge. */
static void look_at_lint0(struct cpu *c)
{
	struct lapic *l = c->lapic;
	bool level = !c->vcpu->id && (atomic_load(&c->vcpu->posted.signals) & POSTED_EXTINT);

	if (level && !l->lint0 && LVT_MODE(l->lvt[LVT_LINT0]) == IPI_FIXED)
		lapic_raise_local(c, LVT_LINT0);
	l->lint0 = level;
}

void lapic_sync(struct cpu *c)
{
	take_posted(c);
	look_at_lint0(c);
	lapic_timer_look(c);
}

/* --- sending them -------------------------------------------------------------------------- */

static void send_outside(struct cpu *c, const struct ipi_message *m)
{
	xlat_outside(c);
	ipi_send(vm_ipi(c->vm), m);
}

void lapic_send_ipi(struct cpu *c, uint64_t icr)
{
	struct ipi_message m = {
		.mode = (enum ipi_mode)(icr >> 8 & 7),
		.shorthand = (enum ipi_shorthand)(icr >> 18 & 3),
		.vector = (uint8_t)icr,
		.logical = icr >> 11 & 1,
		.wide = is_x2apic(c),
		.dest = (uint32_t)(is_x2apic(c) ? icr >> 32 : icr >> 56),
		.by = c->vcpu,
	};
	bool assert = icr >> 14 & 1, level = icr >> 15 & 1;

	stat_add(&c->vcpu->stats, STAT_IPIS, 1);
	if (m.mode == IPI_INIT && level && !assert)
		return; /* INIT level de-assert: nothing any more */
	if (m.mode == IPI_RESERVED || m.mode == IPI_EXTINT)
		return;
	if ((m.mode == IPI_FIXED || m.mode == IPI_LOWEST) && m.vector < FIRST_VECTOR) {
		lapic_error(c, ESR_SEND_ILLEGAL);
		return;
	}
	if (m.shorthand == IPI_SELF && m.mode == IPI_FIXED)
		lapic_accept(c, m.vector);
	else
		send_outside(c, &m);
}

/* --- idle ---------------------------------------------------------------------------------- */

bool lapic_has_work(struct cpu *c, uint64_t *deadline_ns)
{
	uint32_t signals = atomic_load(&c->vcpu->posted.signals);

	*deadline_ns = HOST_FOREVER;
	if (c->s.mp_state == MP_WAIT_SIPI)
		return signals & (POSTED_INIT | POSTED_SIPI);
	if (c->s.mp_state == MP_RUNNING || (signals & (POSTED_NMI | POSTED_INIT | POSTED_UNHALT)))
		return true;
	pv_take_eoi(c);
	lapic_sync(c);
	pv_review_eoi(c);
	if (c->s.nmi_pending && !c->s.nmi_blocked)
		return true;
	if (!(c->s.rflags & RFLAGS_IF))
		return false;
	if (lapic_pending(c))
		return true;
	if (!(c->lapic->lvt[LVT_TIMER] & LVT_MASKED))
		*deadline_ns = c->lapic->deadline_ns;
	return false;
}
