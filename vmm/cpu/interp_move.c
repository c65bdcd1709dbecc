/*
 * interp_move.c - MOV, MOVZX, MOVSX, MOVSXD, LEA, BSWAP, the CBW and CWD families,
 * XLAT, LAHF, SAHF, CLC, STC, CMC, CLD, STD, NOPs and fences.
 */
#include "cpu/decode.h"
#include "cpu/interp.h"

#define PAIR(fn)                                                                                   \
	{                                                                                          \
		fn, fn##_general                                                                   \
	}

/* --- MOV ------------------------------------------------------------------------ */

#define HANDLERS_MOV(bits)                                                                         \
	static void op_mov##bits##_rr(struct cpu *c, const struct op *o)                           \
	{                                                                                          \
		reg_set##bits(c, o->rm, reg_get##bits(c, o->reg));                                 \
		OP_NEXT(c, o);                                                                     \
	}                                                                                          \
	static void op_mov##bits##_ri(struct cpu *c, const struct op *o)                           \
	{                                                                                          \
		reg_set##bits(c, o->rm, (u##bits)o->imm);                                          \
		OP_NEXT(c, o);                                                                     \
	}                                                                                          \
	GENERAL void op_mov##bits##_rm_general(struct cpu *c, const struct op *o)                  \
	{                                                                                          \
		u##bits v;                                                                         \
                                                                                                   \
		if (!op_read##bits(c, o, &v))                                                      \
			return op_fault(c, o);                                                     \
		reg_set##bits(c, o->reg, v);                                                       \
		OP_NEXT(c, o);                                                                     \
	}                                                                                          \
	static void op_mov##bits##_rm(struct cpu *c, const struct op *o)                           \
	{                                                                                          \
		u64 gva = op_plain_addr(c, o);                                                     \
		void *p = PLAIN_PTR(c, gva, bits, read);                                           \
                                                                                                   \
		if (unlikely(!p))                                                                  \
			return op_mov##bits##_rm_general(c, o);                                    \
		reg_set##bits(c, o->reg, GUEST_LOAD(bits, p));                                     \
		OP_NEXT(c, o);                                                                     \
	}                                                                                          \
	HANDLERS_STORE(bits, mr, reg_get##bits(c, o->reg))                                         \
	HANDLERS_STORE(bits, mi, (u##bits)o->imm)

#define HANDLERS_STORE(bits, shape, value)                                                         \
	GENERAL void op_mov##bits##_##shape##_general(struct cpu *c, const struct op *o)           \
	{                                                                                          \
		if (!op_write##bits(c, o, value))                                                  \
			return op_fault(c, o);                                                     \
		return op_stored(c, o);                                                            \
	}                                                                                          \
	static void op_mov##bits##_##shape(struct cpu *c, const struct op *o)                      \
	{                                                                                          \
		u64 gva = op_plain_addr(c, o);                                                     \
		void *p = PLAIN_PTR(c, gva, bits, write);                                          \
                                                                                                   \
		if (unlikely(!p))                                                                  \
			return op_mov##bits##_##shape##_general(c, o);                             \
		GUEST_STORE(bits, p, value);                                                       \
		OP_NEXT(c, o);                                                                     \
	}

HANDLERS_MOV(8)
HANDLERS_MOV(16)
HANDLERS_MOV(32)
HANDLERS_MOV(64)

#define ROW_MOV(bits)                                                                              \
	{                                                                                          \
		.rr = op_mov##bits##_rr, .ri = op_mov##bits##_ri, .rm = PAIR(op_mov##bits##_rm),   \
		.mr = PAIR(op_mov##bits##_mr), .mi = PAIR(op_mov##bits##_mi),                      \
	}

static const struct {
	op_fn *rr, *ri;
	op_fn *rm[2], *mr[2], *mi[2];
} mov_handlers[4] = { ROW_MOV(8), ROW_MOV(16), ROW_MOV(32), ROW_MOV(64) };

op_fn *pick_mov(struct decoding *d)
{
	struct op *o = d->op;

	switch (decode_shape(d)) {
	case SHAPE_RR:
		return mov_handlers[decode_size_index(o)].rr;
	case SHAPE_RI:
		return mov_handlers[decode_size_index(o)].ri;
	case SHAPE_RM:
		return decode_pair(o, mov_handlers[decode_size_index(o)].rm);
	case SHAPE_MR:
		return decode_pair(o, mov_handlers[decode_size_index(o)].mr);
	case SHAPE_MI:
		return decode_pair(o, mov_handlers[decode_size_index(o)].mi);
	default:
		return NULL;
	}
}

/* --- MOVZX, MOVSX, MOVSXD ----------------------------------------------------------- */

#define HANDLERS_EXTEND(name, from, to, cast)                                                      \
	static void op_##name##from##to##_r(struct cpu *c, const struct op *o)                     \
	{                                                                                          \
		reg_set##to(c, o->reg, (u##to)(cast)reg_get##from(c, o->rm));                      \
		OP_NEXT(c, o);                                                                     \
	}                                                                                          \
	GENERAL void op_##name##from##to##_m_general(struct cpu *c, const struct op *o)            \
	{                                                                                          \
		u##from v;                                                                         \
                                                                                                   \
		if (!op_read##from(c, o, &v))                                                      \
			return op_fault(c, o);                                                     \
		reg_set##to(c, o->reg, (u##to)(cast)v);                                            \
		OP_NEXT(c, o);                                                                     \
	}                                                                                          \
	static void op_##name##from##to##_m(struct cpu *c, const struct op *o)                     \
	{                                                                                          \
		u64 gva = op_plain_addr(c, o);                                                     \
		void *p = PLAIN_PTR(c, gva, from, read);                                           \
                                                                                                   \
		if (unlikely(!p))                                                                  \
			return op_##name##from##to##_m_general(c, o);                              \
		reg_set##to(c, o->reg, (u##to)(cast)GUEST_LOAD(from, p));                          \
		OP_NEXT(c, o);                                                                     \
	}

HANDLERS_EXTEND(movzx, 8, 16, u8)
HANDLERS_EXTEND(movzx, 8, 32, u8)
HANDLERS_EXTEND(movzx, 8, 64, u8)
HANDLERS_EXTEND(movzx, 16, 16, u16)
HANDLERS_EXTEND(movzx, 16, 32, u16)
HANDLERS_EXTEND(movzx, 16, 64, u16)
HANDLERS_EXTEND(movsx, 8, 16, s8)
HANDLERS_EXTEND(movsx, 8, 32, s8)
HANDLERS_EXTEND(movsx, 8, 64, s8)
HANDLERS_EXTEND(movsx, 16, 16, s16)
HANDLERS_EXTEND(movsx, 16, 32, s16)
HANDLERS_EXTEND(movsx, 16, 64, s16)
HANDLERS_EXTEND(movsx, 32, 32, s32)
HANDLERS_EXTEND(movsx, 32, 64, s32)

#define EXTEND(name, from, to)                                                                     \
	{                                                                                          \
		op_##name##from##to##_r, PAIR(op_##name##from##to##_m)                             \
	}

static const struct extend {
	op_fn *r, *m[2];
} extend_handlers[2][3][4] = {
	/* [signed][source size][destination size] */
	{
		{ { 0 }, EXTEND(movzx, 8, 16), EXTEND(movzx, 8, 32), EXTEND(movzx, 8, 64) },
		{ { 0 }, EXTEND(movzx, 16, 16), EXTEND(movzx, 16, 32), EXTEND(movzx, 16, 64) },
	},
	{
		{ { 0 }, EXTEND(movsx, 8, 16), EXTEND(movsx, 8, 32), EXTEND(movsx, 8, 64) },
		{ { 0 }, EXTEND(movsx, 16, 16), EXTEND(movsx, 16, 32), EXTEND(movsx, 16, 64) },
		{ { 0 }, { 0 }, EXTEND(movsx, 32, 32), EXTEND(movsx, 32, 64) },
	},
};

op_fn *pick_extend(struct decoding *d)
{
	struct op *o = d->op;
	bool is_signed = d->insn.mnemonic != ZYDIS_MNEMONIC_MOVZX;
	unsigned from = d->operand[1].size / 8;
	const struct extend *h;

	/* MOVSXD without REX.W is a plain move; to 16 bits it reads as many. */
	if (from == 4 && o->size == 2)
		from = 2;
	h = &extend_handlers[is_signed][__builtin_ctz(from)][decode_size_index(o)];
	if (o->flags & OP_MEM)
		return decode_pair(o, h->m);
	o->rm = decode_reg(d, 1);
	return h->r;
}

/* --- LEA, BSWAP ------------------------------------------------------------------------ */

#define HANDLER_LEA(bits)                                                                          \
	static void op_lea##bits(struct cpu *c, const struct op *o)                                \
	{                                                                                          \
		reg_set##bits(c, o->reg, (u##bits)op_plain_addr(c, o));                            \
		OP_NEXT(c, o);                                                                     \
	}                                                                                          \
	static void op_lea##bits##_general(struct cpu *c, const struct op *o)                      \
	{                                                                                          \
		reg_set##bits(c, o->reg, (u##bits)op_ea(c, o));                                    \
		OP_NEXT(c, o);                                                                     \
	}

HANDLER_LEA(16)
HANDLER_LEA(32)
HANDLER_LEA(64)

op_fn *pick_lea(struct decoding *d)
{
	static op_fn *const handlers[4][2] = {
		{ NULL }, PAIR(op_lea16), PAIR(op_lea32), PAIR(op_lea64)
	};

	return decode_pair(d->op, handlers[decode_size_index(d->op)]);
}

static void op_bswap32(struct cpu *c, const struct op *o)
{
	reg_set32(c, o->rm, __builtin_bswap32(reg_get32(c, o->rm)));
	OP_NEXT(c, o);
}

static void op_bswap64(struct cpu *c, const struct op *o)
{
	reg_set64(c, o->rm, __builtin_bswap64(reg_get64(c, o->rm)));
	OP_NEXT(c, o);
}

/* Undefined with 16 bits; processors give zero. */
static void op_bswap16(struct cpu *c, const struct op *o)
{
	reg_set16(c, o->rm, 0);
	OP_NEXT(c, o);
}

op_fn *pick_bswap(struct decoding *d)
{
	struct op *o = d->op;

	o->rm = decode_reg(d, 0);
	return o->size == 8 ? op_bswap64 : o->size == 4 ? op_bswap32 : op_bswap16;
}

/* --- CBW, CWDE, CDQE; CWD, CDQ, CQO ------------------------------------------------------ */

static void op_cbw(struct cpu *c, const struct op *o)
{
	reg_set16(c, RAX, (u16)(s8)c->s.gpr[RAX]);
	OP_NEXT(c, o);
}

static void op_cwde(struct cpu *c, const struct op *o)
{
	reg_set32(c, RAX, (u32)(s16)c->s.gpr[RAX]);
	OP_NEXT(c, o);
}

static void op_cdqe(struct cpu *c, const struct op *o)
{
	reg_set64(c, RAX, (u64)(s32)c->s.gpr[RAX]);
	OP_NEXT(c, o);
}

static void op_cwd(struct cpu *c, const struct op *o)
{
	reg_set16(c, RDX, (u16)((s16)c->s.gpr[RAX] >> 15));
	OP_NEXT(c, o);
}

static void op_cdq(struct cpu *c, const struct op *o)
{
	reg_set32(c, RDX, (u32)((s32)c->s.gpr[RAX] >> 31));
	OP_NEXT(c, o);
}

static void op_cqo(struct cpu *c, const struct op *o)
{
	reg_set64(c, RDX, (u64)((s64)c->s.gpr[RAX] >> 63));
	OP_NEXT(c, o);
}

op_fn *pick_convert(struct decoding *d)
{
	switch (d->insn.mnemonic) {
	case ZYDIS_MNEMONIC_CBW:
		return op_cbw;
	case ZYDIS_MNEMONIC_CWDE:
		return op_cwde;
	case ZYDIS_MNEMONIC_CDQE:
		return op_cdqe;
	case ZYDIS_MNEMONIC_CWD:
		return op_cwd;
	case ZYDIS_MNEMONIC_CDQ:
		return op_cdq;
	default:
		return op_cqo;
	}
}

/* --- XLAT ------------------------------------------------------------------------------- */

static void op_xlat(struct cpu *c, const struct op *o)
{
	u64 ea = c->s.gpr[RBX] + (u8)c->s.gpr[RAX], gva;
	u8 v;

	if (o->flags & OP_ADDR32)
		ea = (u32)ea;
	else if (o->flags & OP_ADDR16)
		ea = (u16)ea;
	op_note(c, o);
	if (!mmu_linear(c, o->seg, ea, 1, MMU_READ, &gva) || !mmu_read_u8(c, gva, &v))
		return op_fault(c, o);
	reg_set8(c, RAX * 8, v);
	OP_NEXT(c, o);
}

op_fn *pick_xlat(struct decoding *d)
{
	return op_xlat;
}

/* --- flags ---------------------------------------------------------------------------------- */

static void op_lahf(struct cpu *c, const struct op *o)
{
	reg_set8(c, RAX * 8 + 1, (u8)cpu_rflags(c));
	OP_NEXT(c, o);
}

static void op_sahf(struct cpu *c, const struct op *o)
{
	c->fl = (c->fl & FL_OF) | (c->s.gpr[RAX] & 0xd500);
	OP_NEXT(c, o);
}

static void op_clc(struct cpu *c, const struct op *o)
{
	c->fl &= ~(u64)FL_CF;
	OP_NEXT(c, o);
}

static void op_stc(struct cpu *c, const struct op *o)
{
	c->fl |= FL_CF;
	OP_NEXT(c, o);
}

static void op_cmc(struct cpu *c, const struct op *o)
{
	c->fl ^= FL_CF;
	OP_NEXT(c, o);
}

static void op_cld(struct cpu *c, const struct op *o)
{
	c->s.rflags &= ~(u64)RFLAGS_DF;
	OP_NEXT(c, o);
}

static void op_std(struct cpu *c, const struct op *o)
{
	c->s.rflags |= RFLAGS_DF;
	OP_NEXT(c, o);
}

static void op_salc(struct cpu *c, const struct op *o)
{
	reg_set8(c, RAX * 8, c->fl & FL_CF ? 0xff : 0);
	OP_NEXT(c, o);
}

op_fn *pick_flag(struct decoding *d)
{
	switch (d->insn.mnemonic) {
	case ZYDIS_MNEMONIC_LAHF:
		return op_lahf;
	case ZYDIS_MNEMONIC_SAHF:
		return op_sahf;
	case ZYDIS_MNEMONIC_CLC:
		return op_clc;
	case ZYDIS_MNEMONIC_STC:
		return op_stc;
	case ZYDIS_MNEMONIC_CMC:
		return op_cmc;
	case ZYDIS_MNEMONIC_CLD:
		return op_cld;
	case ZYDIS_MNEMONIC_STD:
		return op_std;
	default:
		return op_salc;
	}
}

/* --- NOPs, hints, fences ------------------------------------------------------------------ */

static void op_nop(struct cpu *c, const struct op *o)
{
	OP_NEXT(c, o);
}

/* Guest memory is host memory: only the store buffer must be drained, as there. */
static void op_mfence(struct cpu *c, const struct op *o)
{
	asm volatile("mfence" : : : "memory");
	OP_NEXT(c, o);
}

/*
 * LFENCE and SFENCE order nothing that the interpreter reorders, prefetches
 * touch nothing that a guest sees, ENDBR is a NOP without CET.
 */
op_fn *pick_nop(struct decoding *d)
{
	return d->insn.mnemonic == ZYDIS_MNEMONIC_MFENCE ? op_mfence : op_nop;
}
