/*
 * stub.h - instructions that the host's own processor executes: x87, MMX, SSE,
 * AES, BMI, AVX and their like.
 *
 * A stub is a few bytes of host code around one instruction: load what it reads
 * from the vCPU's state, execute it, store what it writes. Instructions whose
 * stubs are equal share one. A vCPU has its own cache of them.
 *
 * The vector state stands in cpu_state.xsave in the standard XSAVE form, each
 * component where xstate.h says, always valid whatever XSTATE_BV says.
 */
#ifndef VMM_CPU_STUB_H
#define VMM_CPU_STUB_H

#include "cpu/cpu.h"
#include "cpu/op.h"

#include <Zydis/Zydis.h>

/* On the vCPU's thread: it takes the thread's floating-point faults. -ENOMEM. */
int stub_create(struct cpu *c, int host_node);
void stub_destroy(struct cpu *c);

/*
 * Makes the handler of a computational instruction that is not one of the
 * interpreter's: fills o->fn, o->stub, o->imm and o->size; the decoder has
 * filled the rest as for any instruction with a memory operand. @operands holds
 * all insn->operand_count operands, the hidden ones too, @bytes the instruction.
 * The decoder has seen to it that the guest has the feature.
 * False: not ours, which is #UD.
 */
bool stub_decode(struct cpu *c, const ZydisDecodedInstruction *insn,
		 const ZydisDecodedOperand *operands, const uint8_t *bytes, struct op *o);

/*
 * Whether the cache may not hold the stubs of one more block. Whoever owns the
 * decoded ops then drops them all and calls stub_flush(); no stub is running.
 */
bool stub_low(const struct cpu *c);
void stub_flush(struct cpu *c);

#endif
