/*
 * xlat_gen.h - a block on its way to code: what xlat_decode.c finds out and
 * xlat_gen.c emits.
 */
#ifndef VMM_CPU_XLAT_GEN_H
#define VMM_CPU_XLAT_GEN_H

#include "cpu/xlat_int.h"

#define FLAGS_ALL RFLAGS_ARITH
#define S1        H_R10
#define S2        H_R11
#define COLD_MAX  (6 * XBLOCK_INSNS)

enum kind {
	K_INTERP, /* for the interpreter; ends the block */
	K_PLAIN,  /* the instruction itself, with other registers and operands */
	K_OPREG,  /* the same, its register is in the opcode byte */
	K_NOP,
	K_LEA,
	K_PUSH,
	K_POP,
	K_LEAVE,
	K_PUSHF,
	K_CLI,
	K_STI,
	K_SWAPGS,
	K_SREG, /* MOV register, segment register */
	K_CALL,
	K_RET,
	K_JMP,
	K_JCC
};

/*
 * An access to [register + displacement] whose page another one before it in the
 * block may have looked up already: see find_groups().
 */
struct access {
	bool simple;                 /* it is of this form */
	const struct access *leader; /* whose look-up serves; NULL: its own */
	bool leads;                  /* others follow */
	bool write;                  /* what the leader looks up is good for stores */
	uint8_t base;                /* guest register */
	int8_t page;                 /* slot of the page cache, or -1: the TLB is asked */
	int8_t slot;                 /* then: where in x.slot[] followers find what to add */
	int32_t disp;
	int32_t from; /* what a leader looks up: [register + from], for so many bytes */
	uint16_t bytes;
};

#define XSLOTS 8

struct insn {
	ZydisDecodedInstruction z;
	ZydisDecodedOperand operand[ZYDIS_MAX_OPERAND_COUNT];
	uint8_t bytes[INSN_BYTES_MAX];
	enum kind kind;
	bool vec;
	int8_t mem; /* which operand is in memory, -1: none */
	uint16_t off;
	uint16_t reads, writes, kills; /* arithmetic flags */
	uint16_t live_in, live_out;
	struct access at, stack; /* of the memory operand, and of what it does to the stack */
};

enum cold_kind { COLD_FILL, COLD_PAGE, COLD_EDGE, COLD_FAR, COLD_STOP, COLD_LOOKUP, COLD_INTERP };

/* Something to emit after the hot code. */
struct cold {
	enum cold_kind kind;
	uint8_t *from; /* the rel32 that leads here */
	uint8_t index; /* the instruction's, in the block */
	enum flags_at flags;

	/* COLD_FILL */
	uint64_t back; /* where to try again */
	struct insn *insn;
	const struct access *access; /* NULL: the memory operand's address */
	uint16_t bytes;
	bool write;
	int8_t page; /* COLD_PAGE, besides: the slot */

	/* COLD_EDGE, COLD_FAR */
	uint8_t edge;
	int32_t target;
};

struct gen {
	struct cpu *c;
	struct xlat *x;
	struct emit *e;
	struct xblock *b;
	unsigned number;
	unsigned nr_insns, nr_cold;
	unsigned index; /* of the instruction being emitted */
	enum flags_at flags;
	bool vec_live;
	uint8_t *begin;
	struct insn insn[XBLOCK_INSNS + 1];
	struct xmark mark[XBLOCK_INSNS + 1];
	struct cold cold[COLD_MAX];
};

/* The host register that a guest register lives in, or H_NONE: in memory. */
static inline unsigned xhome(unsigned gpr)
{
	switch (gpr) {
	case RSP:
		return H_R15;
	case R10:
	case R11:
	case R15:
		return H_NONE;
	default:
		return gpr;
	}
}

/* The number of a general register of any width, or OP_NO_REG. */
uint8_t xlat_gpr(ZydisRegister r);
bool xlat_is_high_byte(ZydisRegister r); /* AH, CH, DH, BH */

/*
 * Fills g->insn[]: kinds, flags, accesses. Returns the offset in the page behind the
 * last instruction.
 */
unsigned xlat_decode(struct gen *g, uint64_t page_gpa);

static inline bool xlat_ends_block(enum kind k)
{
	return k == K_INTERP || k >= K_CALL;
}

#endif
