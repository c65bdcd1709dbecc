/*
 * x86enc.h - the same instruction with other registers: re-encodes a decoded
 * instruction, byte by byte, for execution in 64-bit mode.
 *
 * Works at translation speed: no table, no search, one pass over the bytes.
 */
#ifndef VMM_CPU_X86ENC_H
#define VMM_CPU_X86ENC_H

#include "core/util.h"

#include <Zydis/Zydis.h>

#define X86ENC_KEEP 0xff /* for register numbers: as in the original */
#define X86ENC_MAX  24   /* bytes; more than 15 only when the original has idle prefixes */

enum x86enc_opsize {
	X86ENC_OPSIZE_KEEP, /* the 66 prefix stays or is missing as it was */
	X86ENC_OPSIZE_16,   /* it is there */
	X86ENC_OPSIZE_32    /* it is not, unless it is part of the opcode */
};

/*
 * Which numbers to put where. The caller minds what numbers mean: byte registers
 * 4 to 7 change their meaning where a REX prefix comes or goes.
 */
struct x86enc {
	uint8_t reg;  /* ModRM.reg; not where it extends the opcode */
	uint8_t rm;   /* ModRM.rm, when it is a register */
	uint8_t vvvv; /* VEX and EVEX */
	uint8_t base; /* a memory operand becomes [base], [base + disp8] or the next */
	bool has_disp;
	int8_t disp; /* raw: the processor scales it in EVEX encodings */
	bool has_index;
	uint8_t index, shift; /* [base + (index << shift) + disp32], */
	int32_t disp32;       /* or [base + disp32], if that is not zero */
	bool clear_w;
	enum x86enc_opsize opsize;
};

/*
 * Writes to @out and returns the number of bytes; 0 for encodings other than
 * legacy, VEX and EVEX. Segment overrides and address-size prefixes are dropped.
 * @insn must have a ModRM byte if anything is to be changed but prefixes, and no
 * vector index; @bytes are those it was decoded from, in any mode.
 */
unsigned x86enc(uint8_t out[X86ENC_MAX], const ZydisDecodedInstruction *insn, const uint8_t *bytes,
		const struct x86enc *e);

#endif
