/*
 * irq.h - interrupt lines (GSIs) between devices and interrupt controllers.
 *
 * A line may be shared: it is asserted while any of its sources asserts it.
 * Lock order: device, then irq, then controller, then vcpu_post().
 */
#ifndef VMM_CORE_IRQ_H
#define VMM_CORE_IRQ_H

#include "core/util.h"

#define GSI_COUNT 24

struct vm;

/* Any thread. @source: 0..31, one a device on this line. */
void irq_set(struct vm *vm, unsigned gsi, unsigned source, bool level);

/* The local APIC of some vCPU ended a level-triggered interrupt. */
void irq_eoi(struct vm *vm, uint8_t vector);

/* The BSP takes an ExtINT: acknowledges the PIC and returns its vector, or -ENOENT. */
int irq_ack_extint(struct vm *vm);

#endif
