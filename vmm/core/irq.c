/* irq.c - interrupt lines: the wired-or of their sources, handed to every controller. */
#include "core/irq.h"

#include "core/device_core.h"
#include "core/vm.h"

#include <errno.h>

/*
 * The line's lock is held across the controllers, so that they see the changes
 * of a line in the order in which they happened.
 */
void irq_set(struct vm *vm, unsigned gsi, unsigned source, bool level)
{
	uint32_t before, after;

	if (gsi >= GSI_COUNT || source >= 32)
		return;
	lock_take(&vm->host, &vm->line[gsi].lock);
	before = vm->line[gsi].sources;
	after = level ? before | BIT(source) : before & ~BIT(source);
	vm->line[gsi].sources = after;
	if (!before != !after)
		for (unsigned i = 0; i < vm->nr_intcs; i++)
			dev_irq_in(vm->intc[i], gsi, after != 0);
	lock_release(&vm->host, &vm->line[gsi].lock);
}

void irq_eoi(struct vm *vm, uint8_t vector)
{
	for (unsigned i = 0; i < vm->nr_intcs; i++)
		dev_eoi(vm->intc[i], vector);
}

int irq_ack_extint(struct vm *vm)
{
	for (unsigned i = 0; i < vm->nr_intcs; i++) {
		int vector = dev_ack(vm->intc[i]);

		if (vector >= 0)
			return vector;
	}
	return -ENOENT;
}
