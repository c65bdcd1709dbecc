/*
 * pv.h - the KVM paravirtual interface: what the rest of the engine calls.
 * pv_sleep() and pv_resume() are in cpu.h.
 */
#ifndef VMM_CPU_PV_H
#define VMM_CPU_PV_H

#include "cpu/cpu.h"

#define MSR_KVM_WALL_CLOCK_OLD  0x11
#define MSR_KVM_SYSTEM_TIME_OLD 0x12
#define MSR_KVM_WALL_CLOCK      0x4b564d00
#define MSR_KVM_SYSTEM_TIME     0x4b564d01
#define MSR_KVM_ASYNC_PF_EN     0x4b564d02
#define MSR_KVM_STEAL_TIME      0x4b564d03
#define MSR_KVM_EOI_EN          0x4b564d04
#define MSR_KVM_POLL_CONTROL    0x4b564d05

int pv_create(struct cpu *c, int host_node); /* -ENOMEM */
void pv_destroy(struct cpu *c);

/* Is @msr one of ours? Then *@ok is false when #GP is due. */
bool pv_rdmsr(struct cpu *c, uint32_t msr, uint64_t *v, bool *ok);
bool pv_wrmsr(struct cpu *c, uint32_t msr, uint64_t v, bool *ok);

/* The MSRs in c->s were set from outside: INIT, a loader, a snapshot. */
void pv_restore(struct cpu *c);

/* Let another thread have the PU; what it takes counts as steal time. */
void pv_yield(struct cpu *c);

/* The guest's TSC or the rate of time changed: rewrite the clock page. */
void pv_clock_update(struct cpu *c);

/* An interrupt has gone into service: offer its EOI in memory if that will do. */
void pv_interrupt(struct cpu *c);
/* Has the guest ended it so, and nobody has seen that yet? */
bool pv_eoi_taken(const struct cpu *c);
/* If it has, it is out of service now; otherwise the offer stands. */
void pv_take_eoi(struct cpu *c);
/* Once it is known what waits: an offer that would leave it waiting is withdrawn. */
void pv_review_eoi(struct cpu *c);
/* Before the guest uses its local APIC: take it, or withdraw the offer. */
void pv_sync_eoi(struct cpu *c);

#endif
