/*
 * lapic.h - the local APIC of a vCPU: xAPIC and x2APIC, SDM vol. 3, ch. 11.
 *
 * The vCPU's own thread alone touches it. Others reach it by ipi.h.
 */
#ifndef VMM_CPU_LAPIC_H
#define VMM_CPU_LAPIC_H

#include "cpu/cpu.h"

#define APIC_BASE_ADDR   0xfee00000u
#define APIC_BASE_BSP    BIT(8)
#define APIC_BASE_X2APIC BIT(10)
#define APIC_BASE_ENABLE BIT(11)

int lapic_create(struct cpu *c, int host_node); /* -ENOMEM */
void lapic_destroy(struct cpu *c);

/*
 * Power-up or INIT, for s.apic_base as it stands. The BSP is as firmware leaves it:
 * enabled, LINT0 takes the PIC's interrupts, LINT1 NMIs.
 */
void lapic_reset(struct cpu *c);

/*
 * s->apic and s->event, with the vCPU parked; any thread. What was posted counts as
 * received. lapic_set_state() comes after the rest of c->s is in place, and after
 * lapic_check_state(), which may say -ENOTSUP.
 */
void lapic_get_state(const struct cpu *c, struct cpu_state *s);
int lapic_check_state(const struct cpu_state *s);
void lapic_set_state(struct cpu *c, const struct cpu_state *s);

/* The page the registers answer at, or UINT64_MAX: disabled, or x2APIC. */
uint64_t lapic_page(const struct cpu *c);
/* Aligned 32-bit accesses at @off in the page. */
uint32_t lapic_read(struct cpu *c, unsigned off);
void lapic_write(struct cpu *c, unsigned off, uint32_t v);
/* x2APIC: MSRs 0x800 to 0x8ff. False: #GP is due. */
bool lapic_msr_read(struct cpu *c, uint32_t msr, uint64_t *v);
bool lapic_msr_write(struct cpu *c, uint32_t msr, uint64_t v);
/* IA32_APIC_BASE and IA32_TSC_DEADLINE. False: #GP is due. */
bool lapic_set_base(struct cpu *c, uint64_t v);
uint64_t lapic_tsc_deadline(const struct cpu *c);
void lapic_set_tsc_deadline(struct cpu *c, uint64_t v);
/* The guest's TSC was moved: the deadline, too. */
void lapic_tsc_changed(struct cpu *c);

uint64_t lapic_cr8(const struct cpu *c);
void lapic_set_cr8(struct cpu *c, uint64_t v);

/* Take in what was posted, and the timer if it is due. */
void lapic_sync(struct cpu *c);
/* A vector waits that is above the processor priority. */
bool lapic_pending(const struct cpu *c);
/* Acknowledge it: into service. -ENOENT: none. The PIC's come first. */
int lapic_ack(struct cpu *c);
/* The BSP's line to the PIC is asserted and LINT0 lets it through. */
bool lapic_extint(const struct cpu *c);
void lapic_eoi(struct cpu *c);

/* Vectors in service and requested; for PV EOI. */
bool lapic_only_edge_in_service(const struct cpu *c);

/* When the timer is due in guest time; HOST_FOREVER: not running. */
uint64_t lapic_deadline(const struct cpu *c);

/* engine_ops.has_work */
bool lapic_has_work(struct cpu *c, uint64_t *deadline_ns);

#endif
