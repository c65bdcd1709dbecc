/*
 * stub_mask.h - memory operands of which a mask selects elements: AVX's masked
 * moves, AVX-512's masked operands, compression and expansion.
 *
 * An element that is not selected is not accessed and does not fault (SDM vol. 1,
 * 15.6.4). Where the whole operand can be accessed the processor sees to that by
 * itself; this is for all other places.
 */
#ifndef VMM_CPU_STUB_MASK_H
#define VMM_CPU_STUB_MASK_H

#include "cpu/op.h"

#include <Zydis/Zydis.h>

/* For the upper half of op.imm: how @mem is masked; 0: not at all. */
uint32_t stub_mask_traits(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands,
			  const ZydisDecodedOperand *mem);

static inline bool stub_is_masked(const struct op *o)
{
	return o->imm >> 32;
}

/* Whether any element is selected; if not the operand's address does not matter. */
bool stub_mask_any(const struct cpu *c, const struct op *o);

/* The selected elements, in their places in @buf. False: a fault, nothing is stored. */
bool stub_mask_load(struct cpu *c, const struct op *o, void *buf);
bool stub_mask_store(struct cpu *c, const struct op *o, const void *buf);

#endif
