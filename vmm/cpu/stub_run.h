/*
 * stub_run.h - the handlers that run stubs: what has to be right before, where
 * the memory operand is, and what is reported after. Between stub.c and
 * stub_run.c.
 */
#ifndef VMM_CPU_STUB_RUN_H
#define VMM_CPU_STUB_RUN_H

#include "cpu/op.h"

#include <Zydis/Zydis.h>

/* 1: an unmasked SIMD exception stopped it, MXCSR says which. @mem may be NULL if it has none. */
typedef unsigned stub_fn(struct cpu *c, void *mem);

/* Which control bits decide whether the instruction exists and may run now. */
enum stub_gate {
	STUB_FREE, /* none: general registers only */
	STUB_VEX,  /* the same, but not in real mode */
	STUB_SSE,
	STUB_AVX,
	STUB_AVX512,
	STUB_FX, /* x87 or MMX, see the traits */
	STUB_GATES
};

enum stub_shape { STUB_REG, STUB_LOAD, STUB_STORE, STUB_SHAPES };

/* op.imm of a stub: alignment of its memory operand less one in the low byte, and these. */
#define STUB_ALIGN     0xffu
#define STUB_WAITS     BIT(8) /* takes a waiting x87 exception first */
#define STUB_MMX       BIT(9) /* MMX registers, not x87 ones */
#define STUB_USES_SSE  BIT(10)
#define STUB_POINTERS  BIT(11) /* leaves a trace in the x87's pointers */
#define STUB_FOP_SHIFT 16      /* 11 bits: what FOP is then */

op_fn *stub_handler(enum stub_gate gate, enum stub_shape shape);

/*
 * Instructions that C does better: fills what stub_decode() does and returns
 * true if it is one of them.
 */
bool stub_find(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands,
	       struct op *o);

/* The same for those whose memory operand has a vector of indices (gather.c). */
bool gather_find(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands,
		 struct op *o);

/* For handlers of its kind: may it run? False: a fault is raised and reported. */
bool stub_gate_sse(struct cpu *c, const struct op *o);
bool stub_gate_avx(struct cpu *c, const struct op *o);
bool stub_gate_avx512(struct cpu *c, const struct op *o);

/*
 * All of a wide operand or nothing: @bytes at @gva, in pieces that mmu.h takes.
 * stub_writable() faults where a store would, and stores nothing.
 */
bool stub_read(struct cpu *c, uint64_t gva, void *buf, unsigned bytes);
bool stub_writable(struct cpu *c, uint64_t gva, unsigned bytes);
bool stub_write(struct cpu *c, uint64_t gva, const void *buf, unsigned bytes);

#endif
