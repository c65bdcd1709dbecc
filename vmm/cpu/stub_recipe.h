/*
 * stub_recipe.h - what a stub has to do for an instruction, and the host code
 * that does it. Between stub.c, stub_recipe.c and stub_emit.c.
 */
#ifndef VMM_CPU_STUB_RECIPE_H
#define VMM_CPU_STUB_RECIPE_H

#include "cpu/cpu.h"

#include <Zydis/Zydis.h>

#define STUB_MAX 512 /* bytes of one stub; the longest there is has under 400 */

/* Where the stub has the operands that ModRM and VEX name. */
#define HOST_MEM  RSI
#define HOST_REG  R8
#define HOST_RM   R9
#define HOST_VVVV R10

/* A register operand: where the guest's is, where the instruction finds it. */
struct stub_reg {
	uint8_t guest, host;
	bool write;
	bool high_byte; /* guest AH, CH, DH or BH */
	uint8_t vector_bytes;
};

struct recipe {
	const ZydisDecodedInstruction *insn;
	const ZydisDecodedOperand *operands;
	const uint8_t *bytes;
	bool in_long_mode;

	struct stub_reg gpr[4], vec[6], mask[3];
	unsigned nr_gprs, nr_vecs, nr_masks;
	const ZydisDecodedOperand *mem;
	bool has_x87, has_mmx; /* registers of these files */
	bool flags;            /* reads or writes arithmetic flags */
	bool fx;               /* runs on the whole FXSAVE image */
	bool mxcsr;            /* rounds or reports by MXCSR */
	bool wide;             /* VEX or EVEX: writes clear the rest of the register */
	bool narrow_gprs;      /* W means nothing: not in 64-bit mode */
	uint8_t vector_max;    /* bytes of the guest's widest vector register */
};

/* stub_recipe.c: fills the rest from insn, operands and bytes. False: not for a stub. */
bool recipe_make(struct recipe *p, const struct cpu *c);

static inline bool recipe_writes(const ZydisDecodedOperand *op)
{
	return op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
}

struct stub_code {
	uint8_t buf[STUB_MAX];
	unsigned n;
};

/* stub_emit.c */
void stub_emit(struct stub_code *k, const struct recipe *p, const struct cpu *c);

/*
 * Where execution goes on after an unmasked SIMD exception of the instruction at
 * @at in @code: how many bytes further on, or 0: that is no instruction of a stub.
 */
uint32_t stub_way_out(const uint8_t *code, size_t at);

#endif
