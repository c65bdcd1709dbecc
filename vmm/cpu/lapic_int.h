/*
 * lapic_int.h - the local APIC from the inside.
 *
 *	lapic.c		life, priorities, accepting and sending interrupts
 *	lapic_timer.c	the timer
 *	lapic_regs.c	registers, as a page, as MSRs, and IA32_APIC_BASE
 *	lapic_state.c	its state, for others
 *
 * All of it is the vCPU's own thread's, as lapic.h says.
 */
#ifndef VMM_CPU_LAPIC_INT_H
#define VMM_CPU_LAPIC_INT_H

#include "cpu/lapic.h"

#include "core/ipi.h"

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
	uint64_t calm_until;  /* before this host TSC neither is due; 0: look */
};

/* --- sets of vectors --------------------------------------------------------------- */

static inline void vector_set(struct vectors *v, unsigned n)
{
	v->word[n / 64] |= BIT64(n % 64);
}

static inline void vector_clear(struct vectors *v, unsigned n)
{
	v->word[n / 64] &= ~BIT64(n % 64);
}

static inline bool vector_has(const struct vectors *v, unsigned n)
{
	return v->word[n / 64] & BIT64(n % 64);
}

static inline int vector_highest(const struct vectors *v)
{
	for (int i = 3; i >= 0; i--) {
		if (v->word[i])
			return i * 64 + 63 - __builtin_clzll(v->word[i]);
	}
	return -1;
}

/* --- modes ---------------------------------------------------------------------------- */

static inline bool is_x2apic(const struct cpu *c)
{
	return c->s.apic_base & APIC_BASE_X2APIC;
}

static inline bool hw_enabled(const struct cpu *c)
{
	return c->s.apic_base & APIC_BASE_ENABLE;
}

static inline bool sw_enabled(const struct cpu *c)
{
	return hw_enabled(c) && (c->lapic->svr & SVR_ENABLE);
}

static inline uint32_t x2apic_ldr(const struct cpu *c)
{
	uint32_t id = c->vcpu->apic_id;

	return id >> 4 << 16 | BIT(id & 15);
}

static inline unsigned divide_shift(const struct lapic *l)
{
	unsigned v = (l->divide & 3) | (l->divide >> 1 & 4);

	return (v + 1) & 7;
}

/* lapic.c */
void lapic_reset_registers(struct cpu *c);
/* What others have said since is forgotten. */
void lapic_drop_posted(struct vcpu *v);
/* The IPI fabric learns what logical destinations mean this one. */
void lapic_update_logical(struct cpu *c);
uint32_t lapic_ppr(const struct lapic *l);
void lapic_set_tpr(struct cpu *c, uint32_t v);
void lapic_accept(struct cpu *c, unsigned vector);
/* What entry @lvt of the local vectors says. */
void lapic_raise_local(struct cpu *c, unsigned lvt);
void lapic_error(struct cpu *c, uint32_t bit);
void lapic_send_ipi(struct cpu *c, uint64_t icr);

/* lapic_timer.c */
void lapic_timer_look(struct cpu *c);
uint32_t lapic_current_count(const struct cpu *c);
void lapic_set_initial(struct cpu *c, uint32_t v);
void lapic_set_divide(struct cpu *c, uint32_t v);
void lapic_set_lvt_timer(struct cpu *c, uint32_t v);
uint64_t lapic_tsc_deadline_ns(struct cpu *c, uint64_t v);

/* lapic_regs.c: the bits of a local vector that can be written */
extern const uint32_t lapic_lvt_writable[LVTS];

#endif
