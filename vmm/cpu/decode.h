/*
 * decode.h - from guest bytes to struct op.
 *
 * decode_insn() knows prefixes, lengths, operands and features; which handler
 * an instruction gets is told by the pickers, one a family (interp_*.c), found
 * by mnemonic. System instructions have theirs in sys_find(), what computes and
 * has no picker goes to native stubs.
 */
#ifndef VMM_CPU_DECODE_H
#define VMM_CPU_DECODE_H

#include "cpu/op.h"

#include <Zydis/Zydis.h>

#define INSN_BYTES_MAX 15

/* Shapes of two-operand integer instructions, destination first. */
enum shape { SHAPE_RR, SHAPE_RI, SHAPE_RM, SHAPE_MR, SHAPE_MI, SHAPES };

struct decoding {
	struct cpu *cpu;
	struct op *op;
	const uint8_t *bytes;
	ZydisDecodedInstruction insn;
	ZydisDecodedOperand operand[ZYDIS_MAX_OPERAND_COUNT];
	bool ends_block;
};

/* Which handler; NULL: #UD. May adjust d->op and set d->ends_block. */
typedef op_fn *pick_fn(struct decoding *d);

enum decode_result {
	DECODE_OK,
	DECODE_SHORT, /* needs more bytes than there are */
	DECODE_LONG,  /* more than 15 bytes: #GP */
	DECODE_BAD    /* #UD */
};

/* What decides how bytes are read, and with the bytes' place names a block. */
enum decode_key { DECODE_REAL_16, DECODE_16, DECODE_32, DECODE_64, DECODE_KEYS };

static inline enum decode_key decode_key_of(const struct cpu *c)
{
	switch (c->mode) {
	case MODE_64:
		return DECODE_64;
	case MODE_32:
		return DECODE_32;
	default:
		return c->s.cr0 & CR0_PE ? DECODE_16 : DECODE_REAL_16;
	}
}

struct decoder {
	ZydisDecoder zydis;
};

void decoder_init(struct decoder *dec, enum decode_key key, const struct cpuid_model *m);

/*
 * Decodes the instruction at @buf for d->cpu, of which @bytes bytes are there; @off
 * is its place in its page. *d->op is filled whole unless the result is DECODE_SHORT:
 * what is not an instruction gets a handler that raises the exception.
 */
enum decode_result decode_insn(struct decoding *d, const struct decoder *dec, const uint8_t *buf,
			       unsigned bytes, unsigned off);

/*
 * For pickers: brings the first two operands into o->rm (destination or only
 * register), o->reg (the other one) and o->imm, byte registers by offset.
 */
enum shape decode_shape(struct decoding *d);
/* Does the guest's CPUID offer what instructions of @isa ask for? */
bool decode_has_isa(const struct cpu *c, ZydisISASet isa);
/* Numbers of general (any width) and segment registers; OP_NO_REG and SEG_DS for none. */
uint8_t decode_gpr(ZydisRegister r);

static inline bool decode_is_gpr8(ZydisRegister r)
{
	return r >= ZYDIS_REGISTER_AL && r <= ZYDIS_REGISTER_R15B;
}
uint8_t decode_seg(ZydisRegister r);
/* A register operand as integer handlers want it. */
uint8_t decode_reg(const struct decoding *d, unsigned operand);

/* 0..3 for operand sizes 1, 2, 4, 8. */
static inline unsigned decode_size_index(const struct op *o)
{
	return (unsigned)__builtin_ctz(o->size);
}

static inline bool decode_is_mem(const struct decoding *d, unsigned operand)
{
	return d->operand[operand].type == ZYDIS_OPERAND_TYPE_MEMORY;
}

/* The handler of a pair: plain[0] when the operand is plain, else general[1]. */
static inline op_fn *decode_pair(const struct op *o, op_fn *const pair[2])
{
	return pair[!(o->flags & OP_PLAIN)];
}

/* --- the pickers, by file -------------------------------------------------------- */

pick_fn pick_alu, pick_test, pick_unary;              /* interp_alu.c */
pick_fn pick_shift, pick_double_shift;                /* interp_shift.c */
pick_fn pick_mul, pick_imul, pick_div;                /* interp_mul.c */
pick_fn pick_bit_test, pick_bit_scan;                 /* interp_bit.c */
pick_fn pick_mov, pick_extend, pick_lea, pick_bswap;  /* interp_move.c */
pick_fn pick_convert, pick_xlat, pick_flag, pick_nop; /* interp_move.c */
pick_fn pick_xchg, pick_xadd, pick_cmpxchg;           /* interp_atomic.c */
pick_fn pick_cmpxchg_wide;                            /* interp_atomic.c */
pick_fn pick_cc;                                      /* interp_cc.c: Jcc, SETcc, CMOVcc */
pick_fn pick_push, pick_pop, pick_stack;              /* interp_stack.c */
pick_fn pick_jmp, pick_call, pick_ret, pick_loop;     /* interp_flow.c */
pick_fn pick_bound;                                   /* interp_flow.c */
pick_fn pick_string;                                  /* interp_string.c */
pick_fn pick_bcd;                                     /* interp_bcd.c */

/* Handlers the decoder and the block builder use themselves. */
op_fn op_undefined, op_too_long, op_system, op_end; /* interp.c */

/*
 * A SIB byte with a displacement in place of the base; SDM vol. 2, table 2-3. Zydis 4.0
 * takes the missing base for R13D with 32-bit addresses and REX.B: look here first.
 */
bool decode_no_base(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *m);

#endif
