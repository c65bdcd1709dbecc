/*
 * interp_atomic.c - XCHG, XADD, CMPXCHG, CMPXCHG8B, CMPXCHG16B.
 *
 * On memory these run as the host's locked instructions, with LOCK or without:
 * XCHG is always locked, and what the others save by not being is lost in an
 * interpreter.
 */
#include "cpu/decode.h"
#include "cpu/interp.h"

#define FOR_SIZES(M) M(8) M(16) M(32) M(64)

#define ROW(name, bits)                                                                            \
	{                                                                                          \
		op_##name##bits##_r, op_##name##bits##_m                                           \
	}
#define ROWS(name)                                                                                 \
	{                                                                                          \
		ROW(name, 8), ROW(name, 16), ROW(name, 32), ROW(name, 64)                          \
	}

/* Either operand may be the memory one; decode_shape() puts the register in reg. */
static bool shape_of_pair(struct decoding *d)
{
	enum shape shape = decode_shape(d);

	return shape == SHAPE_MR || shape == SHAPE_RM;
}

/* --- XCHG ----------------------------------------------------------------------------- */

#define HANDLERS_XCHG(bits)                                                                        \
	static void op_xchg##bits##_r(struct cpu *c, const struct op *o)                           \
	{                                                                                          \
		u##bits a = reg_get##bits(c, o->rm), b = reg_get##bits(c, o->reg);                 \
                                                                                                   \
		reg_set##bits(c, o->rm, b);                                                        \
		reg_set##bits(c, o->reg, a);                                                       \
		OP_NEXT(c, o);                                                                     \
	}                                                                                          \
	static void op_xchg##bits##_m(struct cpu *c, const struct op *o)                           \
	{                                                                                          \
		u##bits v = reg_get##bits(c, o->reg);                                              \
		struct rmw m;                                                                      \
		u##bits *p = rmw_begin(c, o, bits / 8, &m);                                        \
                                                                                                   \
		if (!p)                                                                            \
			return op_fault(c, o);                                                     \
		asm volatile("xchg %0, %1" : "+r"(v), "+m"(*p) : : "memory");                      \
		if (!rmw_end(c, o, &m))                                                            \
			return op_fault(c, o);                                                     \
		reg_set##bits(c, o->reg, v);                                                       \
		return op_stored(c, o);                                                            \
	}
FOR_SIZES(HANDLERS_XCHG)

op_fn *pick_xchg(struct decoding *d)
{
	static op_fn *const handlers[4][2] = ROWS(xchg);

	d->op->flags |= OP_LOCK;
	return handlers[decode_size_index(d->op)][shape_of_pair(d)];
}

/* --- XADD ----------------------------------------------------------------------------- */

#define HANDLERS_XADD(bits)                                                                        \
	static void op_xadd##bits##_r(struct cpu *c, const struct op *o)                           \
	{                                                                                          \
		u##bits a = reg_get##bits(c, o->rm), b = reg_get##bits(c, o->reg);                 \
		u16 fl;                                                                            \
                                                                                                   \
		asm("xadd %[b], %[a]" FLAGS_SAVE : "=&a"(fl), [a] "+r"(a), [b] "+r"(b) : : "cc");  \
		c->fl = fl;                                                                        \
		reg_set##bits(c, o->reg, b);                                                       \
		reg_set##bits(c, o->rm, a); /* last: XADD r, r leaves the sum */                   \
		OP_NEXT(c, o);                                                                     \
	}                                                                                          \
	static void op_xadd##bits##_m(struct cpu *c, const struct op *o)                           \
	{                                                                                          \
		u##bits v = reg_get##bits(c, o->reg);                                              \
		struct rmw m;                                                                      \
		u##bits *p = rmw_begin(c, o, bits / 8, &m);                                        \
		u16 fl;                                                                            \
                                                                                                   \
		if (!p)                                                                            \
			return op_fault(c, o);                                                     \
		asm volatile("lock; xadd %[v], %[p]" FLAGS_SAVE                                    \
			     : "=&a"(fl), [v] "+r"(v), [p] "+m"(*p)                                \
			     :                                                                     \
			     : "cc", "memory");                                                    \
		c->fl = fl;                                                                        \
		if (!rmw_end(c, o, &m))                                                            \
			return op_fault(c, o);                                                     \
		reg_set##bits(c, o->reg, v);                                                       \
		return op_stored(c, o);                                                            \
	}
FOR_SIZES(HANDLERS_XADD)

op_fn *pick_xadd(struct decoding *d)
{
	static op_fn *const handlers[4][2] = ROWS(xadd);

	return handlers[decode_size_index(d->op)][shape_of_pair(d)];
}

/* --- CMPXCHG -------------------------------------------------------------------------- */

/*
 * Whole registers go in and come out, so that the host decides which upper
 * halves are cleared: RAX only where the comparison failed. The accumulator and
 * the destination may be the same register.
 */
#define HANDLER_CMPXCHG_R(bits, arg)                                                               \
	static void op_cmpxchg##bits##_r(struct cpu *c, const struct op *o)                        \
	{                                                                                          \
		u64 rax = c->s.gpr[RAX], dst = c->s.gpr[o->rm], acc;                               \
                                                                                                   \
		asm("cmpxchg %" arg "[src], %" arg "[dst]; mov %%rax, %[acc]" FLAGS_SAVE           \
		    : "+&a"(rax), [dst] "+&r"(dst), [acc] "=&r"(acc)                               \
		    : [src] "r"(c->s.gpr[o->reg])                                                  \
		    : "cc");                                                                       \
		c->fl = (u16)rax;                                                                  \
		if (rax & FL_ZF || o->rm != RAX)                                                   \
			c->s.gpr[o->rm] = dst;                                                     \
		if (!(rax & FL_ZF))                                                                \
			c->s.gpr[RAX] = acc;                                                       \
		OP_NEXT(c, o);                                                                     \
	}

HANDLER_CMPXCHG_R(16, "w")
HANDLER_CMPXCHG_R(32, "k")
HANDLER_CMPXCHG_R(64, "q")

static void op_cmpxchg8_r(struct cpu *c, const struct op *o)
{
	u64 rax = c->s.gpr[RAX], acc;
	u8 dst = reg_get8(c, o->rm);

	asm("cmpxchg %[src], %[dst]; mov %%rax, %[acc]" FLAGS_SAVE
	    : "+&a"(rax), [dst] "+&r"(dst), [acc] "=&r"(acc)
	    : [src] "r"(reg_get8(c, o->reg))
	    : "cc");
	c->fl = (u16)rax;
	if (rax & FL_ZF)
		reg_set8(c, o->rm, dst);
	else
		reg_set8(c, RAX * 8, (u8)acc);
	OP_NEXT(c, o);
}

#define HANDLER_CMPXCHG_M(bits)                                                                    \
	static void op_cmpxchg##bits##_m(struct cpu *c, const struct op *o)                        \
	{                                                                                          \
		u64 rax = c->s.gpr[RAX], acc;                                                      \
		struct rmw m;                                                                      \
		u##bits *p = rmw_begin(c, o, bits / 8, &m);                                        \
                                                                                                   \
		if (!p)                                                                            \
			return op_fault(c, o);                                                     \
		asm volatile("lock; cmpxchg %[src], %[p]; mov %%rax, %[acc]" FLAGS_SAVE            \
			     : "+&a"(rax), [p] "+m"(*p), [acc] "=&r"(acc)                          \
			     : [src] "r"(reg_get##bits(c, o->reg))                                 \
			     : "cc", "memory");                                                    \
		c->fl = (u16)rax;                                                                  \
		if (!rmw_end(c, o, &m))                                                            \
			return op_fault(c, o);                                                     \
		if (!(rax & FL_ZF))                                                                \
			reg_set##bits(c, bits == 8 ? RAX * 8 : RAX, (u##bits)acc);                 \
		return op_stored(c, o);                                                            \
	}
FOR_SIZES(HANDLER_CMPXCHG_M)

op_fn *pick_cmpxchg(struct decoding *d)
{
	static op_fn *const handlers[4][2] = ROWS(cmpxchg);

	return handlers[decode_size_index(d->op)][shape_of_pair(d)];
}

/* --- CMPXCHG8B, CMPXCHG16B ---------------------------------------------------------------- */

/* Only ZF changes. */
static void set_zf(struct cpu *c, bool zf)
{
	c->fl = zf ? c->fl | FL_ZF : c->fl & ~(u64)FL_ZF;
}

static void op_cmpxchg8b(struct cpu *c, const struct op *o)
{
	u64 expected = (u64)reg_get32(c, RDX) << 32 | reg_get32(c, RAX);
	u64 desired = (u64)reg_get32(c, RCX) << 32 | reg_get32(c, RBX);
	struct rmw m;
	u64 *p = rmw_begin(c, o, 8, &m);
	u64 old = expected;
	bool same;

	if (!p)
		return op_fault(c, o);
	asm volatile("lock; cmpxchg %[desired], %[p]"
		     : "+a"(old), [p] "+m"(*p), "=@ccz"(same)
		     : [desired] "r"(desired)
		     : "memory");
	set_zf(c, same);
	if (!rmw_end(c, o, &m))
		return op_fault(c, o);
	if (!same) {
		reg_set32(c, RAX, (u32)old);
		reg_set32(c, RDX, (u32)(old >> 32));
	}
	return op_stored(c, o);
}

static void op_cmpxchg16b(struct cpu *c, const struct op *o)
{
	u64 lo = c->s.gpr[RAX], hi = c->s.gpr[RDX], gva;
	unsigned __int128 *p;
	struct rmw m;
	bool same;

	if (!op_linear(c, o, 16, MMU_WRITE, &gva))
		return op_fault(c, o);
	if (gva & 15)
		return op_raise(c, o, EXC_GP);
	p = rmw_begin_at(c, o, gva, 16, &m);
	if (!p)
		return op_fault(c, o);
	asm volatile("lock; cmpxchg16b %[p]"
		     : "+a"(lo), "+d"(hi), [p] "+m"(*p), "=@ccz"(same)
		     : "b"(c->s.gpr[RBX]), "c"(c->s.gpr[RCX])
		     : "memory");
	set_zf(c, same);
	if (!rmw_end(c, o, &m))
		return op_fault(c, o);
	if (!same) {
		c->s.gpr[RAX] = lo;
		c->s.gpr[RDX] = hi;
	}
	return op_stored(c, o);
}

op_fn *pick_cmpxchg_wide(struct decoding *d)
{
	return d->insn.mnemonic == ZYDIS_MNEMONIC_CMPXCHG16B ? op_cmpxchg16b : op_cmpxchg8b;
}
