/*
 * exception.c - raising and delivering exceptions and interrupts.
 *
 * Instruction handlers raise; the run loop delivers, and takes events between
 * instructions. SDM vol. 3, ch. 6. Delivery is all or nothing: a fault on the way
 * leaves the state as it was and is combined with the event it interrupted.
 *
 * Task gates are not built: they raise #GP as an invalid gate does.
 */
#include "cpu/codemap.h"
#include "cpu/debug.h"
#include "cpu/lapic.h"
#include "cpu/mmu.h"
#include "cpu/pv.h"
#include "cpu/segment.h"
#include "cpu/sys.h"
#include "cpu/xlat.h"

#include "core/irq.h"

#define ERROR_EXT BIT(0)
#define ERROR_IDT BIT(1)

/* What is delivered. */
struct event {
	uint8_t vector;
	bool has_error;
	bool software; /* INT n and its kin: the gate's DPL counts, EXT is clear */
	bool resume;   /* a fault: RF is set in the frame */
	uint32_t error;
};

/* Where it goes: one gate of the IDT and the code segment it names. */
struct gate {
	struct segment cs;
	uint64_t rip;
	unsigned cpl; /* after delivery */
	uint8_t ist;
	bool is16;  /* 16-bit frame */
	bool masks; /* interrupt gate: IF is cleared */
};

/* --- raising ------------------------------------------------------------------- */

static void raise_fault(struct cpu *c, struct cpu_fault f)
{
	if (c->fault.pending)
		return;
	f.pending = true;
	c->fault = f;
}

void cpu_raise(struct cpu *c, uint8_t vector)
{
	raise_fault(c, (struct cpu_fault){ .vector = vector });
}

void cpu_raise_error(struct cpu *c, uint8_t vector, uint32_t error)
{
	raise_fault(c, (struct cpu_fault){ .vector = vector, .has_error = true, .error = error });
}

void cpu_raise_pf(struct cpu *c, uint64_t gva, uint32_t error)
{
	raise_fault(c,
		    (struct cpu_fault){
			    .vector = EXC_PF, .has_error = true, .error = error, .payload = gva });
}

void cpu_raise_db(struct cpu *c, uint64_t dr6_bits)
{
	raise_fault(c, (struct cpu_fault){ .vector = EXC_DB, .payload = dr6_bits });
}

/* --- entering a handler ----------------------------------------------------------- */

static uint64_t frame_rflags(const struct cpu *c, const struct event *e)
{
	uint64_t f = cpu_rflags(c);

	if (e->software)
		f &= ~(uint64_t)RFLAGS_RF;
	return e->resume ? f | RFLAGS_RF : f;
}

static void enter(struct cpu *c, const struct gate *g)
{
	uint64_t clear = RFLAGS_TF | RFLAGS_NT | RFLAGS_RF | RFLAGS_VM;

	if (g->masks)
		clear |= RFLAGS_IF;
	c->debug.trap = false; /* handlers are not single-stepped into */
	sys_write_flags(c, cpu_rflags(c) & ~clear);
	c->s.seg[SEG_CS] = g->cs;
	c->s.rip = g->rip;
	c->s.sti_shadow = false;
	c->s.movss_shadow = false;
	cpu_update_mode(c);
}

/* Lowest address first: what the handler finds on its stack. */
static unsigned frame_build(const struct cpu *c, const struct event *e, bool stack_too,
			    uint64_t *slot)
{
	unsigned n = 0;

	if (e->has_error)
		slot[n++] = e->error;
	slot[n++] = c->s.rip;
	slot[n++] = c->s.seg[SEG_CS].selector;
	slot[n++] = frame_rflags(c, e);
	if (stack_too) {
		slot[n++] = c->s.gpr[RSP];
		slot[n++] = c->s.seg[SEG_SS].selector;
	}
	return n;
}

static bool idt_fault(struct cpu *c, uint8_t fault, const struct event *e)
{
	cpu_raise_error(c, fault, e->vector * 8u | ERROR_IDT);
	return false;
}

/* SDM vol. 3, 20.1.4: the interrupt table of real mode. */
static bool deliver_real(struct cpu *c, const struct event *e)
{
	struct gate g = { .cs = c->s.seg[SEG_CS], .masks = true };
	struct event no_error = *e;
	uint16_t entry[2];
	uint64_t slot[6];

	if (e->vector * 4u + 3 > c->s.idtr.limit) {
		cpu_raise(c, EXC_GP);
		return false;
	}
	if (!mmu_sys_read(c, c->s.idtr.base + e->vector * 4u, entry, sizeof(entry)))
		return false;
	no_error.has_error = false;
	frame_build(c, &no_error, false, slot);
	if (!stack_push(c, &c->s.seg[SEG_SS], 0, &c->s.gpr[RSP], slot, 3, 2))
		return false;
	seg_load_real(&g.cs, entry[1]);
	g.rip = entry[0];
	c->s.rflags &= ~(uint64_t)RFLAGS_AC;
	enter(c, &g);
	return true;
}

/* Checks common to 16-, 32- and 64-bit gates; @raw is the first half. */
static bool gate_check(struct cpu *c, const struct event *e, uint64_t raw, struct gate *g)
{
	uint16_t sel = (uint16_t)(raw >> 16);

	if (e->software && (raw >> 45 & 3) < c->cpl)
		return idt_fault(c, EXC_GP, e);
	if (!(raw >> 47 & 1))
		return idt_fault(c, EXC_NP, e);
	if (sel_is_null(sel))
		return seg_fault(c, EXC_GP, 0);
	if (!desc_read(c, sel, EXC_GP, &g->cs, NULL))
		return false;
	if (!seg_is_code(&g->cs) || seg_dpl(&g->cs) > c->cpl)
		return seg_fault(c, EXC_GP, sel);
	if (!(g->cs.attr & SEG_P))
		return seg_fault(c, EXC_NP, sel);
	g->cpl = seg_is_conforming_code(&g->cs) ? c->cpl : seg_dpl(&g->cs);
	g->cs.selector = (uint16_t)((sel & ~3u) | g->cpl);
	return true;
}

static bool gate_read(struct cpu *c, const struct event *e, struct gate *g)
{
	uint64_t raw;
	unsigned type;

	if (e->vector * 8u + 7 > c->s.idtr.limit)
		return idt_fault(c, EXC_GP, e);
	if (!mmu_sys_read(c, c->s.idtr.base + e->vector * 8u, &raw, sizeof(raw)))
		return false;
	type = raw >> 40 & 0x1f;
	if (type != DESC_INT && type != DESC_TRAP && type != DESC_INT16 && type != DESC_TRAP16)
		return idt_fault(c, EXC_GP, e);
	if (!gate_check(c, e, raw, g))
		return false;
	g->is16 = type == DESC_INT16 || type == DESC_TRAP16;
	g->masks = type == DESC_INT || type == DESC_INT16;
	g->rip = (raw & 0xffff) | (g->is16 ? 0 : raw >> 48 << 16);
	if (g->rip > g->cs.limit)
		return seg_fault(c, EXC_GP, 0);
	return true;
}

static bool deliver_protected(struct cpu *c, const struct event *e)
{
	struct segment ss = c->s.seg[SEG_SS];
	uint64_t slot[6], sp = c->s.gpr[RSP];
	struct gate g = { .rip = 0 };
	unsigned n;

	if (!gate_read(c, e, &g))
		return false;
	if (g.cpl < c->cpl && !tss_stack(c, g.cpl, &ss, &sp))
		return false;
	n = frame_build(c, e, g.cpl < c->cpl, slot);
	if (!desc_mark_accessed(c, &g.cs) ||
	    !stack_push(c, &ss, g.cpl, &sp, slot, n, g.is16 ? 2 : 4))
		return false;
	c->s.gpr[RSP] = (uint32_t)sp;
	c->s.seg[SEG_SS] = ss;
	enter(c, &g);
	return true;
}

static bool gate_read64(struct cpu *c, const struct event *e, struct gate *g)
{
	uint64_t raw[2];
	unsigned type;

	if (e->vector * 16u + 15 > c->s.idtr.limit)
		return idt_fault(c, EXC_GP, e);
	if (!mmu_sys_read(c, c->s.idtr.base + e->vector * 16u, raw, sizeof(raw)))
		return false;
	type = raw[0] >> 40 & 0x1f;
	if (type != DESC_INT && type != DESC_TRAP)
		return idt_fault(c, EXC_GP, e);
	if (!gate_check(c, e, raw[0], g))
		return false;
	if ((g->cs.attr & (SEG_L | SEG_DB)) != SEG_L)
		return seg_fault(c, EXC_GP, g->cs.selector);
	g->masks = type == DESC_INT;
	g->ist = raw[0] >> 32 & 7;
	g->rip = (raw[0] & 0xffff) | (raw[0] >> 48 << 16) | raw[1] << 32;
	if (!sys_canonical(g->rip))
		return seg_fault(c, EXC_GP, 0);
	return true;
}

/* SDM vol. 3, 6.14. */
static bool deliver_long(struct cpu *c, const struct event *e)
{
	struct gate g = { .rip = 0 };
	uint64_t slot[6], rsp = c->s.gpr[RSP];
	unsigned n;

	if (!gate_read64(c, e, &g))
		return false;
	if (g.ist) {
		if (!tss_stack64(c, 3u + g.ist, &rsp))
			return false;
	} else if (g.cpl < c->cpl && !tss_stack64(c, g.cpl, &rsp)) {
		return false;
	}
	rsp &= ~15ull;
	n = frame_build(c, e, true, slot);
	if (!desc_mark_accessed(c, &g.cs) || !stack_push(c, NULL, g.cpl, &rsp, slot, n, 8))
		return false;
	c->s.gpr[RSP] = rsp;
	if (g.cpl < c->cpl)
		c->s.seg[SEG_SS] = seg_null_stack(g.cpl);
	enter(c, &g);
	return true;
}

static bool has_external_bit(uint8_t vector)
{
	return vector == EXC_TS || vector == EXC_NP || vector == EXC_SS || vector == EXC_GP;
}

/* False: c->fault says what came in between. */
static bool deliver(struct cpu *c, const struct event *e)
{
	bool done = !sys_protected(c)  ? deliver_real(c, e)
		    : sys_long_mode(c) ? deliver_long(c, e)
				       : deliver_protected(c, e);

	if (!done && !e->software && has_external_bit(c->fault.vector))
		c->fault.error |= ERROR_EXT;
	return done;
}

/* --- exceptions ---------------------------------------------------------------------- */

enum fault_class { BENIGN, CONTRIBUTORY, PAGE_FAULT };

static enum fault_class class_of(uint8_t vector)
{
	switch (vector) {
	case EXC_DE:
	case EXC_TS:
	case EXC_NP:
	case EXC_SS:
	case EXC_GP:
		return CONTRIBUTORY;
	case EXC_PF:
		return PAGE_FAULT;
	default:
		return BENIGN;
	}
}

/* SDM vol. 3, table 6-5. */
static bool makes_double_fault(uint8_t first, uint8_t second)
{
	enum fault_class a = class_of(first), b = class_of(second);

	return (a == CONTRIBUTORY && b == CONTRIBUTORY) || (a == PAGE_FAULT && b != BENIGN);
}

static bool is_trap(uint8_t vector)
{
	return vector == EXC_DB || vector == EXC_BP || vector == EXC_OF || vector == EXC_DF;
}

static struct cpu_fault take_fault(struct cpu *c)
{
	struct cpu_fault f = c->fault;

	c->fault.pending = false;
	return f;
}

/* What the exception leaves in CR2, DR6 and DR7. */
static void apply_payload(struct cpu *c, const struct cpu_fault *f)
{
	if (f->vector == EXC_PF) {
		c->s.cr2 = f->payload;
	} else if (f->vector == EXC_DB) {
		c->s.dr6 |= f->payload;
		c->s.dr7 &= ~(uint64_t)DR7_GD;
	}
}

bool cpu_deliver_fault(struct cpu *c)
{
	struct cpu_fault f = take_fault(c);

	for (;;) {
		struct event e = {
			.vector = f.vector,
			.has_error = f.has_error,
			.error = f.error,
			.resume = !is_trap(f.vector),
		};
		struct cpu_fault next;

		stat_add(&c->vcpu->stats, f.vector == EXC_PF ? STAT_PAGE_FAULTS : STAT_EXCEPTIONS,
			 1);
		apply_payload(c, &f);
		if (deliver(c, &e))
			return true;
		next = take_fault(c);
		if (f.vector == EXC_DF && class_of(next.vector) != BENIGN)
			return false;
		if (makes_double_fault(f.vector, next.vector))
			next = (struct cpu_fault){ .vector = EXC_DF, .has_error = true };
		f = next;
	}
}

bool cpu_software_interrupt(struct cpu *c, uint8_t vector, bool privileged)
{
	struct event e = { .vector = vector, .software = !privileged };

	return deliver(c, &e);
}

/* --- events between instructions -------------------------------------------------------- */

/* External events are benign: a fault on the way is delivered in their place. */
static bool deliver_event(struct cpu *c, uint8_t vector)
{
	struct event e = { .vector = vector };

	c->s.mp_state = MP_RUNNING;
	codemap_verify(c);
	return deliver(c, &e) || cpu_deliver_fault(c);
}

/* SDM vol. 3, table 10-1, column INIT: what survives it. */
static void take_init(struct cpu *c)
{
	struct cpu_state old, *s = &c->s;
	bool is_bsp = s->apic_base & APIC_BASE_BSP;

	xlat_outside(c);
	old = *s;
	cpu_state_reset(s, is_bsp);
	s->apic_base = old.apic_base;
	s->cr0 |= old.cr0 & (CR0_CD | CR0_NW);
	s->tsc_offset = old.tsc_offset;
	s->tsc_adjust = old.tsc_adjust;
	s->tsc_aux = old.tsc_aux;
	s->pat = old.pat;
	s->misc_enable = old.misc_enable;
	s->spec_ctrl = old.spec_ctrl;
	s->mtrr_def_type = old.mtrr_def_type;
	memcpy(s->mtrr_fixed, old.mtrr_fixed, sizeof(s->mtrr_fixed));
	memcpy(s->mtrr_phys, old.mtrr_phys, sizeof(s->mtrr_phys));
	s->kvm_system_time = old.kvm_system_time;
	s->kvm_wall_clock = old.kvm_wall_clock;
	s->kvm_poll = old.kvm_poll;
	s->xcr0 = old.xcr0;
	memcpy(s->xsave, old.xsave, sizeof(s->xsave));
	s->mp_state = is_bsp ? MP_RUNNING : MP_WAIT_SIPI;

	c->fault.pending = false;
	cpu_set_rflags(c, s->rflags);
	lapic_reset(c);
	pv_restore(c);
	cpu_update_mode(c);
	mmu_switch(c, true);
	debug_update(c);
}

static void take_sipi(struct cpu *c)
{
	struct segment *cs = &c->s.seg[SEG_CS];
	uint8_t page = (uint8_t)atomic_load(&c->vcpu->posted.sipi);

	if (c->s.mp_state != MP_WAIT_SIPI)
		return;
	cs->selector = (uint16_t)(page << 8);
	cs->base = (uint64_t)page << 12;
	c->s.rip = 0;
	c->s.mp_state = MP_RUNNING;
	cpu_update_mode(c);
}

/* EXTINT is a level and stays; UNHALT waits for the HLT it is meant for. */
static void take_signals(struct cpu *c)
{
	_Atomic uint32_t *signals = &c->vcpu->posted.signals;
	uint32_t kept = POSTED_EXTINT, s = 0;

	if (c->s.mp_state != MP_HALTED)
		kept |= POSTED_UNHALT;
	if (atomic_load(signals) & ~kept)
		s = atomic_fetch_and(signals, kept);
	if (s & POSTED_INIT)
		take_init(c);
	if (s & POSTED_SIPI)
		take_sipi(c);
	if (s & POSTED_FLUSH)
		mmu_flush_all(c);
	if (s & POSTED_NMI)
		c->s.nmi_pending = true;
	if (s & POSTED_UNHALT & ~kept)
		c->s.mp_state = MP_RUNNING;
}

static bool take_interrupt(struct cpu *c)
{
	int vector = lapic_ack(c);

	if (vector < 0)
		return true;
	stat_add(&c->vcpu->stats, STAT_INTERRUPTS, 1);
	pv_interrupt(c);
	return deliver_event(c, (uint8_t)vector);
}

static bool take_events(struct cpu *c)
{
	struct cpu_state *s = &c->s;

	take_signals(c);
	pv_take_eoi(c);
	lapic_sync(c);
	pv_review_eoi(c);
	if (s->mp_state == MP_WAIT_SIPI)
		return true;
	if (s->nmi_pending && !s->nmi_blocked && !s->movss_shadow) {
		s->nmi_pending = false;
		s->nmi_blocked = true;
		return deliver_event(c, EXC_NMI);
	}
	if (!lapic_pending(c) || !(s->rflags & RFLAGS_IF))
		return true;
	if (s->sti_shadow || s->movss_shadow) {
		sys_window_opened(c); /* the next time, then */
		return true;
	}
	return take_interrupt(c);
}

bool cpu_take_events(struct cpu *c)
{
	bool alive = take_events(c);

	c->x.waiting = c->s.nmi_pending || lapic_pending(c);
	return alive;
}
