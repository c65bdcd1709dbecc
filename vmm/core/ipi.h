/*
 * ipi.h - the interrupt fabric between vCPUs and from devices to vCPUs.
 *
 * A message sets bits in the target's posted-interrupt descriptor (vcpu.h) and
 * tells it by vcpu_post(); no lock is taken and no list of vCPUs is scanned: a
 * destination is looked up in tables by APIC ID and by logical ID.
 *
 * One a machine; all functions but create and destroy from any thread.
 */
#ifndef VMM_CORE_IPI_H
#define VMM_CORE_IPI_H

#include "core/vcpu.h"

struct ipi;
struct vm;

/* ICR and MSI delivery modes; SDM vol. 3, 11.6.1. */
enum ipi_mode {
	IPI_FIXED,
	IPI_LOWEST,
	IPI_SMI,
	IPI_RESERVED,
	IPI_NMI,
	IPI_INIT,
	IPI_SIPI,
	IPI_EXTINT
};

enum ipi_shorthand { IPI_DEST, IPI_SELF, IPI_ALL, IPI_OTHERS };

#define IPI_BROADCAST UINT32_MAX

struct ipi_message {
	enum ipi_mode mode;
	enum ipi_shorthand shorthand;
	uint8_t vector;
	bool level;      /* level-triggered */
	bool logical;    /* dest is a set */
	bool wide;       /* dest is an x2APIC one, of 32 bits; else of 8 */
	uint32_t dest;   /* IPI_BROADCAST with wide, 0xff without: everybody */
	struct vcpu *by; /* the sender of an IPI; NULL for devices */
};

/* Tables for vm->topo and vm->vcpu, which must stand. -ENOMEM. */
int ipi_create(struct vm *vm, struct ipi **out);
void ipi_destroy(struct vm *vm, struct ipi *f);

/* The machine's fabric; soft.c knows where the engine keeps it. */
struct ipi *vm_ipi(struct vm *vm);

/* Returns how many vCPUs took it. */
unsigned ipi_send(struct ipi *f, const struct ipi_message *m);
/* The vCPU with this APIC ID, or NULL. */
struct vcpu *ipi_find(const struct ipi *f, uint32_t apic_id);
/* One fixed, edge-triggered interrupt to one vCPU. */
void ipi_post(struct vcpu *target, uint8_t vector, bool level);
void ipi_signal(struct vcpu *target, uint32_t signals);

/*
 * How a vCPU wants to be addressed in xAPIC logical mode: its 8-bit logical ID,
 * in the cluster model or the flat one; @x2apic: its IDs are x2APIC ones.
 * By the vCPU's own thread.
 */
void ipi_set_logical(struct ipi *f, struct vcpu *c, uint8_t ldr, bool cluster, bool x2apic);

/* engine_ops: msi, extint, nmi. */
void ipi_msi(struct vm *vm, uint64_t addr, uint32_t data);
void ipi_extint(struct vm *vm, bool level);
void ipi_nmi(struct vcpu *c);

#endif
