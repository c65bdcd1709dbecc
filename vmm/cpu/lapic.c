/*
 * lapic.c - the local APIC: registers, priorities, timer. SDM vol. 3, ch. 11.
 *
 * Everything here is the owner's. Messages from outside wait in the posted-
 * interrupt descriptor until lapic_sync() takes them over into IRR.
 *
 * The timer counts guest nanoseconds (a bus of 1 GHz). While the vCPU runs it is
 * woken by the thread's alarm, which is armed lazily: an alarm that comes before
 * the deadline costs one look at the clock and is set again. Under CLOCK_ICOUNT the
 * run loop asks lapic_deadline() how far it may go.
 */
#include "cpu/lapic.h"

#include "core/ipi.h"
#include "core/irq.h"
#include "cpu/pv.h"
#include "cpu/soft.h"
#include "cpu/xlat.h"

#include <errno.h>

/* Offsets in the register page. */
enum {
	APIC_ID = 0x20,
	APIC_VERSION = 0x30,
	APIC_TPR = 0x80,
	APIC_APR = 0x90,
	APIC_PPR = 0xa0,
	APIC_EOI = 0xb0,
	APIC_RRD = 0xc0,
	APIC_LDR = 0xd0,
	APIC_DFR = 0xe0,
	APIC_SVR = 0xf0,
	APIC_ISR = 0x100,
	APIC_TMR = 0x180,
	APIC_IRR = 0x200,
	APIC_ESR = 0x280,
	APIC_ICR = 0x300,
	APIC_ICR_HIGH = 0x310,
	APIC_LVT_TIMER = 0x320,
	APIC_LVT_ERROR = 0x370,
	APIC_INITIAL = 0x380,
	APIC_CURRENT = 0x390,
	APIC_DIVIDE = 0x3e0,
	APIC_SELF_IPI = 0x3f0
};

enum { LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR, LVTS };

/* Integrated, directed EOI, six local vectors. */
#define VERSION             (0x14u | (LVTS - 1) << 16 | BIT(24))
#define SVR_ENABLE          BIT(8)
#define SVR_NO_EOI_CAST     BIT(12)
#define SVR_WRITABLE        (0x1ffu | SVR_NO_EOI_CAST)
#define LVT_MASKED          BIT(16)
#define LVT_MODE(v)         ((enum ipi_mode)((v) >> 8 & 7))
#define LVT_FIXED           0x000u
#define LVT_NMI             0x400u
#define LVT_EXTINT          0x700u
#define TIMER_MODE(v)       ((v) >> 17 & 3)
#define ESR_SEND_ILLEGAL    BIT(5)
#define ESR_RECEIVE_ILLEGAL BIT(6)
#define ESR_ILLEGAL_REG     BIT(7)
#define DFR_FLAT            0xffffffffu
#define FIRST_VECTOR        16 /* below them lie exceptions: illegal in messages */

enum { TIMER_ONE_SHOT, TIMER_PERIODIC, TIMER_DEADLINE };

struct vectors {
	uint64_t word[4];
};

struct lapic {
	struct vectors irr, isr, tmr;
	uint32_t ldr, dfr, svr, tpr;
	uint32_t esr, esr_seen; /* collected since, and latched by, the last write */
	uint64_t icr;
	uint32_t lvt[LVTS];
	uint32_t initial, divide;
	bool lint0; /* the PIC's output when last seen */

	uint64_t deadline_ns; /* guest time; HOST_FOREVER: not running */
	uint64_t alarm_ns;    /* host time of the thread's alarm; HOST_FOREVER: none */
};

/* --- sets of vectors --------------------------------------------------------------- */

static void vector_set(struct vectors *v, unsigned n)
{
	v->word[n / 64] |= BIT64(n % 64);
}

static void vector_clear(struct vectors *v, unsigned n)
{
	v->word[n / 64] &= ~BIT64(n % 64);
}

static bool vector_has(const struct vectors *v, unsigned n)
{
	return v->word[n / 64] & BIT64(n % 64);
}

static int vector_highest(const struct vectors *v)
{
	for (int i = 3; i >= 0; i--) {
		if (v->word[i])
			return i * 64 + 63 - __builtin_clzll(v->word[i]);
	}
	return -1;
}

/* --- modes ---------------------------------------------------------------------------- */

static bool is_x2apic(const struct cpu *c)
{
	return c->s.apic_base & APIC_BASE_X2APIC;
}

static bool hw_enabled(const struct cpu *c)
{
	return c->s.apic_base & APIC_BASE_ENABLE;
}

static bool sw_enabled(const struct cpu *c)
{
	return hw_enabled(c) && (c->lapic->svr & SVR_ENABLE);
}

uint64_t lapic_page(const struct cpu *c)
{
	if (!hw_enabled(c) || is_x2apic(c))
		return UINT64_MAX;
	return c->s.apic_base & PAGE_MASK;
}

static uint32_t x2apic_ldr(const struct cpu *c)
{
	uint32_t id = c->vcpu->apic_id;

	return id >> 4 << 16 | BIT(id & 15);
}

static void update_logical(struct cpu *c)
{
	struct lapic *l = c->lapic;
	struct ipi *f;

	xlat_outside(c);
	f = vm_ipi(c->vm);
	ipi_set_logical(f, c->vcpu, hw_enabled(c) ? (uint8_t)(l->ldr >> 24) : 0, l->dfr >> 28 == 0,
			is_x2apic(c));
}

/* --- life ------------------------------------------------------------------------------- */

static void reset_registers(struct cpu *c)
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
	reset_registers(c);
	return 0;
}

void lapic_destroy(struct cpu *c)
{
	const struct host *h = &c->vm->host;

	if (c->lapic)
		h->ops->free(h->ctx, c->lapic, sizeof(*c->lapic));
	c->lapic = NULL;
}

static void drop_posted(struct vcpu *v)
{
	for (unsigned i = 0; i < 4; i++)
		atomic_store(&v->posted.pending[i], 0);
}

void lapic_reset(struct cpu *c)
{
	struct lapic *l = c->lapic;

	drop_posted(c->vcpu);
	reset_registers(c);
	if (c->s.apic_base & APIC_BASE_BSP) {
		l->svr |= SVR_ENABLE;
		l->lvt[LVT_LINT0] = LVT_EXTINT;
		l->lvt[LVT_LINT1] = LVT_NMI;
	}
	update_logical(c);
}

/* --- priorities ------------------------------------------------------------------------------ */

static uint32_t ppr(const struct lapic *l)
{
	int isr = vector_highest(&l->isr);
	uint32_t in_service = isr < 0 ? 0 : (uint32_t)isr & 0xf0;

	return l->tpr >> 4 >= in_service >> 4 ? l->tpr : in_service;
}

/* The vector to deliver, or -1. */
static int deliverable(const struct lapic *l)
{
	int irr = vector_highest(&l->irr);

	return irr >= 0 && (uint32_t)irr >> 4 > ppr(l) >> 4 ? irr : -1;
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
	unsigned in_service = 0;

	for (unsigned i = 0; i < 4; i++)
		in_service += (unsigned)__builtin_popcountll(l->isr.word[i]);
	return in_service == 1 && vector_highest(&l->irr) < 0 &&
	       !vector_has(&l->tmr, (unsigned)vector);
}

static void set_tpr(struct cpu *c, uint32_t v)
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
	set_tpr(c, (uint32_t)v << 4);
}

/* --- accepting interrupts ----------------------------------------------------------------------
 */

static void accept(struct cpu *c, unsigned vector)
{
	struct lapic *l = c->lapic;

	vector_set(&l->irr, vector);
	vector_clear(&l->tmr, vector);
	look_again(c);
}

static void raise_local(struct cpu *c, unsigned lvt)
{
	struct lapic *l = c->lapic;
	uint32_t v = l->lvt[lvt];

	if ((v & LVT_MASKED) || !sw_enabled(c))
		return;
	if (lvt == LVT_ERROR || lvt == LVT_TIMER || LVT_MODE(v) == IPI_FIXED) {
		if ((v & 0xff) >= FIRST_VECTOR)
			accept(c, v & 0xff);
		else if (lvt != LVT_ERROR)
			l->esr |= ESR_RECEIVE_ILLEGAL;
	} else if (LVT_MODE(v) == IPI_NMI) {
		c->s.nmi_pending = true;
	}
}

static void error(struct cpu *c, uint32_t bit)
{
	c->lapic->esr |= bit;
	raise_local(c, LVT_ERROR);
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
		raise_local(c, LVT_LINT0);
	l->lint0 = level;
}

/* --- the timer
 * ------------------------------------------------------------------------------------ */

static unsigned divide_shift(const struct lapic *l)
{
	unsigned v = (l->divide & 3) | (l->divide >> 1 & 4);

	return (v + 1) & 7;
}

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

static void timer_start(struct cpu *c, uint64_t deadline_ns)
{
	c->lapic->deadline_ns = deadline_ns;
	alarm_arm(c);
}

static void timer_expire(struct cpu *c, uint64_t now)
{
	struct lapic *l = c->lapic;
	uint64_t period = period_ns(l);

	raise_local(c, LVT_TIMER);
	c->s.tsc_deadline = 0;
	if (TIMER_MODE(l->lvt[LVT_TIMER]) == TIMER_PERIODIC && period)
		l->deadline_ns += ((now - l->deadline_ns) / period + 1) * period;
	else
		l->deadline_ns = HOST_FOREVER;
}

/* An alarm is spent once the host's clock has passed it, whatever the guest's says. */
static void timer_look(struct cpu *c)
{
	struct lapic *l = c->lapic;
	const struct host *h = &c->vm->host;
	uint64_t now;
	bool expired;

	if (l->deadline_ns == HOST_FOREVER)
		return;
	xlat_outside(c);
	now = clock_now_ns(&c->vm->clock);
	expired = l->deadline_ns <= now;
	if (expired)
		timer_expire(c, now);
	if (c->vm->clock.source == CLOCK_ICOUNT)
		return; /* the run loop looks at the deadline anyway */
	if (l->alarm_ns != HOST_FOREVER && l->alarm_ns <= h->ops->now_ns(h->ctx))
		l->alarm_ns = HOST_FOREVER;
	alarm_arm(c);
}

void lapic_sync(struct cpu *c)
{
	take_posted(c);
	look_at_lint0(c);
	timer_look(c);
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

static uint32_t current_count(const struct cpu *c)
{
	const struct lapic *l = c->lapic;
	uint64_t now = guest_now_ns(c);

	if (l->deadline_ns == HOST_FOREVER || l->deadline_ns <= now ||
	    TIMER_MODE(l->lvt[LVT_TIMER]) == TIMER_DEADLINE)
		return 0;
	return (uint32_t)((l->deadline_ns - now) >> divide_shift(l));
}

static void set_initial(struct cpu *c, uint32_t v)
{
	struct lapic *l = c->lapic;

	if (TIMER_MODE(l->lvt[LVT_TIMER]) == TIMER_DEADLINE)
		return;
	l->initial = v;
	timer_start(c, v ? guest_now_ns(c) + period_ns(l) : HOST_FOREVER);
}

/* The count goes on from where it is, at the new pace. */
static void set_divide(struct cpu *c, uint32_t v)
{
	struct lapic *l = c->lapic;
	uint64_t count = current_count(c);

	l->divide = v & 0xb;
	if (count)
		timer_start(c, guest_now_ns(c) + (count << divide_shift(l)));
}

/* Between deadline mode and the others the timer is disarmed; SDM vol. 3, 11.5.4.1. */
static void set_lvt_timer(struct cpu *c, uint32_t v)
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
static uint64_t tsc_deadline_ns(struct cpu *c, uint64_t v)
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
	timer_start(c, tsc_deadline_ns(c, v));
}

void lapic_tsc_changed(struct cpu *c)
{
	if (c->s.tsc_deadline)
		lapic_set_tsc_deadline(c, c->s.tsc_deadline);
}

/* --- the interrupt command register
 * --------------------------------------------------------------------- */

static void send_outside(struct cpu *c, const struct ipi_message *m)
{
	xlat_outside(c);
	ipi_send(vm_ipi(c->vm), m);
}

static void send_ipi(struct cpu *c, uint64_t icr)
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
		error(c, ESR_SEND_ILLEGAL);
		return;
	}
	if (m.shorthand == IPI_SELF && m.mode == IPI_FIXED)
		accept(c, m.vector);
	else
		send_outside(c, &m);
}

/* --- registers
 * ------------------------------------------------------------------------------------------------
 */

static uint32_t vector_word(const struct vectors *v, unsigned off)
{
	unsigned i = (off & 0x70) >> 4;

	return (uint32_t)(v->word[i / 2] >> (i % 2 * 32));
}

/* Registers that both modes have; false: there is none. */
static bool read_common(struct cpu *c, unsigned off, uint32_t *v)
{
	struct lapic *l = c->lapic;

	if (off >= APIC_LVT_TIMER && off <= APIC_LVT_ERROR) {
		*v = l->lvt[(off - APIC_LVT_TIMER) >> 4];
		return true;
	}
	if (off >= APIC_ISR && off < APIC_ESR) {
		const struct vectors *set = off < APIC_TMR   ? &l->isr
					    : off < APIC_IRR ? &l->tmr
							     : &l->irr;
		*v = vector_word(set, off);
		return true;
	}
	switch (off) {
	case APIC_VERSION:
		*v = VERSION;
		break;
	case APIC_TPR:
		*v = l->tpr;
		break;
	case APIC_PPR:
		*v = ppr(l);
		break;
	case APIC_SVR:
		*v = l->svr;
		break;
	case APIC_ESR:
		*v = l->esr_seen;
		break;
	case APIC_INITIAL:
		*v = l->initial;
		break;
	case APIC_CURRENT:
		*v = current_count(c);
		break;
	case APIC_DIVIDE:
		*v = l->divide;
		break;
	default:
		return false;
	}
	return true;
}

static void set_svr(struct cpu *c, uint32_t v)
{
	struct lapic *l = c->lapic;

	l->svr = v & SVR_WRITABLE;
	for (unsigned i = 0; !(v & SVR_ENABLE) && i < LVTS; i++)
		l->lvt[i] |= LVT_MASKED;
}

static const uint32_t lvt_writable[LVTS] = {
	[LVT_TIMER] = 0x700ff, [LVT_THERMAL] = 0x107ff, [LVT_PERF] = 0x107ff,
	[LVT_LINT0] = 0x1a7ff, [LVT_LINT1] = 0x1a7ff,   [LVT_ERROR] = 0x100ff,
};

static void set_lvt(struct cpu *c, unsigned n, uint32_t v)
{
	v &= lvt_writable[n];
	if (!(c->lapic->svr & SVR_ENABLE))
		v |= LVT_MASKED;
	if (n == LVT_TIMER)
		set_lvt_timer(c, v);
	else
		c->lapic->lvt[n] = v;
}

static bool write_common(struct cpu *c, unsigned off, uint32_t v)
{
	struct lapic *l = c->lapic;

	if (off >= APIC_LVT_TIMER && off <= APIC_LVT_ERROR) {
		set_lvt(c, (off - APIC_LVT_TIMER) >> 4, v);
		return true;
	}
	switch (off) {
	case APIC_TPR:
		set_tpr(c, v);
		break;
	case APIC_EOI:
		lapic_eoi(c);
		break;
	case APIC_SVR:
		set_svr(c, v);
		break;
	case APIC_ESR:
		l->esr_seen = l->esr;
		l->esr = 0;
		break;
	case APIC_INITIAL:
		set_initial(c, v);
		break;
	case APIC_DIVIDE:
		set_divide(c, v);
		break;
	default:
		return false;
	}
	return true;
}

/* --- xAPIC
 * ---------------------------------------------------------------------------------------------------------
 */

uint32_t lapic_read(struct cpu *c, unsigned off)
{
	struct lapic *l = c->lapic;
	uint32_t v = 0;

	pv_sync_eoi(c);
	lapic_sync(c);
	if (off & 15)
		return 0;
	switch (off) {
	case APIC_ID:
		return c->vcpu->apic_id << 24;
	case APIC_LDR:
		return l->ldr;
	case APIC_DFR:
		return l->dfr;
	case APIC_ICR:
		return (uint32_t)l->icr;
	case APIC_ICR_HIGH:
		return (uint32_t)(l->icr >> 32);
	case APIC_EOI:
	case APIC_APR:
	case APIC_RRD:
		return 0;
	default:
		if (!read_common(c, off, &v))
			error(c, ESR_ILLEGAL_REG);
		return v;
	}
}

void lapic_write(struct cpu *c, unsigned off, uint32_t v)
{
	struct lapic *l = c->lapic;

	pv_sync_eoi(c);
	lapic_sync(c);
	if (off & 15)
		return;
	switch (off) {
	case APIC_ID: /* read-only, as in newer processors */
	case APIC_RRD:
		break;
	case APIC_LDR:
		l->ldr = v & 0xff000000;
		update_logical(c);
		break;
	case APIC_DFR:
		l->dfr = v | 0x0fffffff;
		update_logical(c);
		break;
	case APIC_ICR:
		l->icr = (l->icr & ~0xffffffffull) | (v & ~BIT(12)); /* sent at once */
		send_ipi(c, l->icr);
		break;
	case APIC_ICR_HIGH:
		l->icr = (uint32_t)l->icr | (uint64_t)(v & 0xff000000) << 32;
		break;
	default:
		if (!write_common(c, off, v))
			error(c, ESR_ILLEGAL_REG);
	}
}

/* --- x2APIC
 * -----------------------------------------------------------------------------------------------------------
 */

bool lapic_msr_read(struct cpu *c, uint32_t msr, uint64_t *v)
{
	unsigned off = (msr - 0x800) << 4;
	uint32_t low = 0;

	if (!is_x2apic(c))
		return false;
	pv_sync_eoi(c);
	lapic_sync(c);
	switch (off) {
	case APIC_ID:
		*v = c->vcpu->apic_id;
		return true;
	case APIC_LDR:
		*v = x2apic_ldr(c);
		return true;
	case APIC_ICR:
		*v = c->lapic->icr;
		return true;
	default:
		if (!read_common(c, off, &low))
			return false;
		*v = low;
		return true;
	}
}

/* Reserved bits of what can be written; zero where the register is read-only or none. */
static bool x2apic_value_ok(unsigned off, uint64_t v)
{
	if (off >= APIC_LVT_TIMER && off <= APIC_LVT_ERROR)
		return !(v & ~(uint64_t)(lvt_writable[(off - APIC_LVT_TIMER) >> 4] | 0x5000));
	switch (off) {
	case APIC_EOI:
	case APIC_ESR:
		return v == 0;
	case APIC_TPR:
	case APIC_SELF_IPI:
		return !(v >> 8);
	case APIC_SVR:
		return !(v & ~(uint64_t)(SVR_WRITABLE | BIT(9)));
	case APIC_DIVIDE:
		return !(v & ~0xbull);
	case APIC_ICR:
		return !(v & 0xfff32000ull);
	default:
		return !(v >> 32);
	}
}

bool lapic_msr_write(struct cpu *c, uint32_t msr, uint64_t v)
{
	unsigned off = (msr - 0x800) << 4;

	if (!is_x2apic(c) || !x2apic_value_ok(off, v))
		return false;
	pv_sync_eoi(c);
	lapic_sync(c);
	switch (off) {
	case APIC_ICR:
		c->lapic->icr = v;
		send_ipi(c, v);
		return true;
	case APIC_SELF_IPI:
		stat_add(&c->vcpu->stats, STAT_IPIS, 1);
		if (v < FIRST_VECTOR)
			error(c, ESR_SEND_ILLEGAL);
		else
			accept(c, (unsigned)v);
		return true;
	default:
		return write_common(c, off, (uint32_t)v);
	}
}

/* --- IA32_APIC_BASE
 * --------------------------------------------------------------------------------------------------------
 */

/* SDM vol. 3, figure 11-27: off, xAPIC, x2APIC; back only by way of off. */
bool lapic_set_base(struct cpu *c, uint64_t v)
{
	const uint64_t mode = APIC_BASE_ENABLE | APIC_BASE_X2APIC;
	uint64_t defined = mode | APIC_BASE_BSP | ((BIT64(c->vm->cpuid.phys_bits) - 1) & PAGE_MASK);
	uint64_t from = c->s.apic_base & mode, to = v & mode;

	if (!cpu_has(&c->vm->cpuid, CPU_X2APIC))
		defined &= ~(uint64_t)APIC_BASE_X2APIC;
	if ((v & ~defined) || to == APIC_BASE_X2APIC)
		return false;
	if ((from == mode && to == APIC_BASE_ENABLE) || (!from && to == mode))
		return false;
	c->s.apic_base = v;
	if (from != to && !(to & APIC_BASE_ENABLE))
		reset_registers(c);
	if (from != to)
		update_logical(c);
	return true;
}

/* --- idle
 * -----------------------------------------------------------------------------------------------------------------------
 */

bool lapic_has_work(struct cpu *c, uint64_t *deadline_ns)
{
	uint32_t signals = atomic_load(&c->vcpu->posted.signals);

	*deadline_ns = HOST_FOREVER;
	if (c->s.mp_state == MP_WAIT_SIPI)
		return signals & (POSTED_INIT | POSTED_SIPI);
	if (c->s.mp_state == MP_RUNNING || (signals & (POSTED_NMI | POSTED_INIT | POSTED_UNHALT)))
		return true;
	pv_sync_eoi(c);
	lapic_sync(c);
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

/* --- its state, for others --------------------------------------------------------------- */

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

	return runs ? MAX(current_count(c), 1u) : 0;
}

void lapic_get_state(const struct cpu *c, struct cpu_state *s)
{
	const struct lapic *l = c->lapic;
	struct vectors irr = l->irr, tmr = l->tmr;
	uint32_t *r = s->apic;

	with_posted(c, &irr, &tmr);
	memset(r, 0, sizeof(s->apic));
	r[APIC_ID / 16] = is_x2apic(c) ? c->vcpu->apic_id : c->vcpu->apic_id << 24;
	r[APIC_VERSION / 16] = VERSION;
	r[APIC_TPR / 16] = l->tpr;
	r[APIC_PPR / 16] = ppr(l);
	r[APIC_LDR / 16] = is_x2apic(c) ? x2apic_ldr(c) : l->ldr;
	r[APIC_DFR / 16] = l->dfr;
	r[APIC_SVR / 16] = l->svr;
	export_vectors(r + APIC_ISR / 16, &l->isr);
	export_vectors(r + APIC_TMR / 16, &tmr);
	export_vectors(r + APIC_IRR / 16, &irr);
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
	if (TIMER_MODE(l->lvt[LVT_TIMER]) == TIMER_DEADLINE)
		l->deadline_ns = tsc_deadline_ns(c, c->s.tsc_deadline);
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
	drop_posted(c->vcpu);
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
		l->lvt[i] = r[APIC_LVT_TIMER / 16 + i] & lvt_writable[i];
	import_timer(c, r);
	update_logical(c);
	atomic_store(&c->vcpu->attention, 1); /* its thread arms the alarm */
}
