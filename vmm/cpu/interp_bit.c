/*
 * interp_bit.c - BT, BTS, BTR, BTC and BSF, BSR.
 *
 * A bit offset in a register reaches beyond a memory operand: the address moves
 * by whole operands, signed (SDM vol. 2, BT).
 */
#include "cpu/decode.h"
#include "cpu/interp.h"

/* --- bit tests -------------------------------------------------------------------- */

/* bt, bts, ... on a value; the host masks the offset itself. */
#define DEFINE_TEST(bits, name)                                                                    \
	static inline u##bits name##bits(struct cpu *c, u##bits v, u##bits bit)                    \
	{                                                                                          \
		u32 fl = (u32)c->fl;                                                               \
                                                                                                   \
		asm(FLAGS_LOAD #name SFX_##bits " %[bit], %[v]" FLAGS_SAVE                         \
		    : "+&a"(fl), [v] "+r"(v)                                                       \
		    : [bit] "r"(bit)                                                               \
		    : "cc");                                                                       \
		c->fl = fl;                                                                        \
		return v;                                                                          \
	}

#define DEFINE_LOCKED(bits, name)                                                                  \
	static inline void name##bits##_locked(struct cpu *c, u##bits *p, u##bits bit)             \
	{                                                                                          \
		u32 fl = (u32)c->fl;                                                               \
                                                                                                   \
		asm volatile(FLAGS_LOAD "lock; " #name SFX_##bits " %[bit], %[p]" FLAGS_SAVE       \
			     : "+&a"(fl), [p] "+m"(*p)                                             \
			     : [bit] "r"((u##bits)(bit & (bits - 1)))                              \
			     : "cc", "memory");                                                    \
		c->fl = fl;                                                                        \
	}

/* Which bit, and by how many bytes a register's offset moves the operand. */
#define BIT_OFFSET(bits, c, o) ((o)->aux ? (u##bits)(o)->imm : reg_get##bits(c, (o)->reg))
#define BIT_MOVE(bits, c, o)                                                                       \
	((o)->aux ? 0                                                                              \
		  : (((s64)(s##bits)reg_get##bits(c, (o)->reg)) >> __builtin_ctz(bits)) *          \
			    (bits / 8))

static bool moved_linear(struct cpu *c, const struct op *o, s64 move, unsigned bytes,
			 enum mmu_access access, u64 *gva)
{
	u64 ea = op_ea(c, o) + (u64)move;

	op_note(c, o);
	if (o->flags & OP_ADDR32)
		ea = (u32)ea;
	else if (o->flags & OP_ADDR16)
		ea = (u16)ea;
	return mmu_linear(c, o->seg, ea, bytes, access, gva);
}

#define HANDLER_R(bits, name, keep)                                                                \
	static void op_##name##bits##_r(struct cpu *c, const struct op *o)                         \
	{                                                                                          \
		u##bits v = name##bits(c, reg_get##bits(c, o->rm), BIT_OFFSET(bits, c, o));        \
                                                                                                   \
		keep(bits, c, o->rm, v);                                                           \
		OP_NEXT(c, o);                                                                     \
	}
#define KEEP(bits, c, r, v) reg_set##bits(c, r, v)
#define DROP(bits, c, r, v) (void)v

#define HANDLERS_BT(bits, name)                                                                    \
	HANDLER_R(bits, name, DROP)                                                                \
	static void op_##name##bits##_m(struct cpu *c, const struct op *o)                         \
	{                                                                                          \
		u##bits v;                                                                         \
		u64 gva;                                                                           \
                                                                                                   \
		if (!moved_linear(c, o, BIT_MOVE(bits, c, o), bits / 8, MMU_READ, &gva) ||         \
		    !mmu_read_u##bits(c, gva, &v))                                                 \
			return op_fault(c, o);                                                     \
		name##bits(c, v, BIT_OFFSET(bits, c, o));                                          \
		OP_NEXT(c, o);                                                                     \
	}

#define HANDLERS_BTX(bits, name)                                                                   \
	HANDLER_R(bits, name, KEEP)                                                                \
	static void op_##name##bits##_m(struct cpu *c, const struct op *o)                         \
	{                                                                                          \
		struct rmw m;                                                                      \
		u##bits *p;                                                                        \
		u64 gva;                                                                           \
                                                                                                   \
		if (!moved_linear(c, o, BIT_MOVE(bits, c, o), bits / 8, MMU_WRITE, &gva))          \
			return op_fault(c, o);                                                     \
		p = rmw_begin_at(c, o, gva, bits / 8, &m);                                         \
		if (!p)                                                                            \
			return op_fault(c, o);                                                     \
		if (o->flags & OP_LOCK)                                                            \
			name##bits##_locked(c, p, BIT_OFFSET(bits, c, o));                         \
		else                                                                               \
			GUEST_STORE(bits, p,                                                       \
				    name##bits(c, GUEST_LOAD(bits, p), BIT_OFFSET(bits, c, o)));   \
		return op_rmw_end(c, o, &m);                                                       \
	}

#define FOR_SIZES(M, ...) M(16, __VA_ARGS__) M(32, __VA_ARGS__) M(64, __VA_ARGS__)

#define DEFINE_BTX(name)                                                                           \
	FOR_SIZES(DEFINE_TEST, name)                                                               \
	FOR_SIZES(DEFINE_LOCKED, name)                                                             \
	FOR_SIZES(HANDLERS_BTX, name)

FOR_SIZES(DEFINE_TEST, bt)
FOR_SIZES(HANDLERS_BT, bt)
DEFINE_BTX(bts)
DEFINE_BTX(btr)
DEFINE_BTX(btc)

#define ROWS(name)                                                                                 \
	{                                                                                          \
		{ NULL, NULL }, { op_##name##16_r, op_##name##16_m },                              \
			{ op_##name##32_r, op_##name##32_m },                                      \
		{                                                                                  \
			op_##name##64_r, op_##name##64_m                                           \
		}                                                                                  \
	}

op_fn *pick_bit_test(struct decoding *d)
{
	static op_fn *const handlers[4][4][2] = { ROWS(bt), ROWS(bts), ROWS(btr), ROWS(btc) };
	struct op *o = d->op;
	enum shape shape = decode_shape(d);
	unsigned which = d->insn.mnemonic == ZYDIS_MNEMONIC_BT    ? 0
			 : d->insn.mnemonic == ZYDIS_MNEMONIC_BTS ? 1
			 : d->insn.mnemonic == ZYDIS_MNEMONIC_BTR ? 2
								  : 3;

	o->aux = shape == SHAPE_RI || shape == SHAPE_MI;
	return handlers[which][decode_size_index(o)][shape == SHAPE_MR || shape == SHAPE_MI];
}

/* --- bit scans -------------------------------------------------------------------- */

/* A source of zero leaves the destination alone, in hosts as in guests. */
#define DEFINE_SCAN(bits, name)                                                                    \
	static void op_##name##bits##_r(struct cpu *c, const struct op *o)                         \
	{                                                                                          \
		u64 dst = c->s.gpr[o->reg];                                                        \
		u32 fl = (u32)c->fl;                                                               \
                                                                                                   \
		asm(FLAGS_LOAD #name SFX_##bits " %[src], %" DST_##bits "[dst]" FLAGS_SAVE         \
		    : "+&a"(fl), [dst] "+r"(dst)                                                   \
		    : [src] "r"(reg_get##bits(c, o->rm))                                           \
		    : "cc");                                                                       \
		c->fl = fl;                                                                        \
		c->s.gpr[o->reg] = dst;                                                            \
		OP_NEXT(c, o);                                                                     \
	}                                                                                          \
	static void op_##name##bits##_m(struct cpu *c, const struct op *o)                         \
	{                                                                                          \
		u64 dst = c->s.gpr[o->reg];                                                        \
		u32 fl = (u32)c->fl;                                                               \
		u##bits src;                                                                       \
                                                                                                   \
		if (!op_read##bits(c, o, &src))                                                    \
			return op_fault(c, o);                                                     \
		asm(FLAGS_LOAD #name SFX_##bits " %[src], %" DST_##bits "[dst]" FLAGS_SAVE         \
		    : "+&a"(fl), [dst] "+r"(dst)                                                   \
		    : [src] "r"(src)                                                               \
		    : "cc");                                                                       \
		c->fl = fl;                                                                        \
		c->s.gpr[o->reg] = dst;                                                            \
		OP_NEXT(c, o);                                                                     \
	}

#define DST_16 "w"
#define DST_32 "k"
#define DST_64 "q"

FOR_SIZES(DEFINE_SCAN, bsf)
FOR_SIZES(DEFINE_SCAN, bsr)

op_fn *pick_bit_scan(struct decoding *d)
{
	static op_fn *const handlers[2][4][2] = { ROWS(bsf), ROWS(bsr) };

	return handlers[d->insn.mnemonic == ZYDIS_MNEMONIC_BSR][decode_size_index(d->op)]
		       [decode_is_mem(d, 1)];
}
