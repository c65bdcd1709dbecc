/*
 * lapic_regs.c - the local APIC's registers: those that both modes have, then the page
 * of xAPIC, the MSRs of x2APIC, and IA32_APIC_BASE, which chooses.
 */
#include "cpu/lapic_int.h"

#include "cpu/pv.h"

/* --- both modes ---------------------------------------------------------------------------- */

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
		*v = lapic_ppr(l);
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
		*v = lapic_current_count(c);
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

const uint32_t lapic_lvt_writable[LVTS] = {
	[LVT_TIMER] = 0x700ff, [LVT_THERMAL] = 0x107ff, [LVT_PERF] = 0x107ff,
	[LVT_LINT0] = 0x1a7ff, [LVT_LINT1] = 0x1a7ff,   [LVT_ERROR] = 0x100ff,
};

static void set_lvt(struct cpu *c, unsigned n, uint32_t v)
{
	v &= lapic_lvt_writable[n];
	if (!(c->lapic->svr & SVR_ENABLE))
		v |= LVT_MASKED;
	if (n == LVT_TIMER)
		lapic_set_lvt_timer(c, v);
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
		lapic_set_tpr(c, v);
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
		lapic_set_initial(c, v);
		break;
	case APIC_DIVIDE:
		lapic_set_divide(c, v);
		break;
	default:
		return false;
	}
	return true;
}

/* --- xAPIC --------------------------------------------------------------------------------- */

uint64_t lapic_page(const struct cpu *c)
{
	if (!hw_enabled(c) || is_x2apic(c))
		return UINT64_MAX;
	return c->s.apic_base & PAGE_MASK;
}

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
			lapic_error(c, ESR_ILLEGAL_REG);
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
		lapic_update_logical(c);
		break;
	case APIC_DFR:
		l->dfr = v | 0x0fffffff;
		lapic_update_logical(c);
		break;
	case APIC_ICR:
		l->icr = (l->icr & ~0xffffffffull) | (v & ~BIT(12)); /* sent at once */
		lapic_send_ipi(c, l->icr);
		break;
	case APIC_ICR_HIGH:
		l->icr = (uint32_t)l->icr | (uint64_t)(v & 0xff000000) << 32;
		break;
	default:
		if (!write_common(c, off, v))
			lapic_error(c, ESR_ILLEGAL_REG);
	}
}

/* --- x2APIC -------------------------------------------------------------------------------- */

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
		return !(v & ~(uint64_t)(lapic_lvt_writable[(off - APIC_LVT_TIMER) >> 4] | 0x5000));
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
	if (off == APIC_ICR) { /* what has come does not matter to what is sent */
		c->lapic->icr = v;
		lapic_send_ipi(c, v);
		return true;
	}
	pv_sync_eoi(c);
	lapic_sync(c);
	switch (off) {
	case APIC_SELF_IPI:
		stat_add(&c->vcpu->stats, STAT_IPIS, 1);
		if (v < FIRST_VECTOR)
			lapic_error(c, ESR_SEND_ILLEGAL);
		else
			lapic_accept(c, (unsigned)v);
		return true;
	default:
		return write_common(c, off, (uint32_t)v);
	}
}

/* --- IA32_APIC_BASE ------------------------------------------------------------------------ */

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
		lapic_reset_registers(c);
	if (from != to)
		lapic_update_logical(c);
	return true;
}
