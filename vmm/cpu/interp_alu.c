/*
 * interp_alu.c - ADD OR ADC SBB AND SUB XOR CMP, TEST, INC DEC NOT NEG.
 *
 * Each is the host's own instruction between two flag transfers, so flags are
 * exact, undefined ones included. Every operation has a form that takes values
 * and a locked one that works in guest memory; every size and operand shape
 * has its handler, made by the macros below.
 */
#include "cpu/decode.h"
#include "cpu/interp.h"

/* --- operations ----------------------------------------------------------------- */

#define BINARY(name, bits, insn, carry_in)                                                         \
	static inline u##bits name##bits(struct cpu *c, u##bits a, u##bits b)                      \
	{                                                                                          \
		u16 fl;                                                                            \
                                                                                                   \
		asm(carry_in #insn SFX_##bits " %[b], %[a]" FLAGS_SAVE                             \
		    : "=&a"(fl), [a] "+r"(a)                                                       \
		    : [b] "r"(b), [fl] "r"((u32)c->fl)                                             \
		    : "cc");                                                                       \
		c->fl = fl;                                                                        \
		return a;                                                                          \
	}

#define BINARY_LOCKED(name, bits, insn, carry_in)                                                  \
	static inline void name##bits##_locked(struct cpu *c, u##bits *p, u##bits b)               \
	{                                                                                          \
		u16 fl;                                                                            \
                                                                                                   \
		asm volatile(carry_in "lock; " #insn SFX_##bits " %[b], %[p]" FLAGS_SAVE           \
			     : "=&a"(fl), [p] "+m"(*p)                                             \
			     : [b] "r"(b), [fl] "r"((u32)c->fl)                                    \
			     : "cc", "memory");                                                    \
		c->fl = fl;                                                                        \
	}

#define UNARY(name, bits, insn, carry_in)                                                          \
	static inline u##bits name##bits(struct cpu *c, u##bits a)                                 \
	{                                                                                          \
		u16 fl;                                                                            \
                                                                                                   \
		asm(carry_in #insn SFX_##bits " %[a]" FLAGS_SAVE                                   \
		    : "=&a"(fl), [a] "+r"(a)                                                       \
		    : [fl] "r"((u32)c->fl)                                                         \
		    : "cc");                                                                       \
		c->fl = fl;                                                                        \
		return a;                                                                          \
	}                                                                                          \
	static inline void name##bits##_locked(struct cpu *c, u##bits *p)                          \
	{                                                                                          \
		u16 fl;                                                                            \
                                                                                                   \
		asm volatile(carry_in "lock; " #insn SFX_##bits " %[p]" FLAGS_SAVE                 \
			     : "=&a"(fl), [p] "+m"(*p)                                             \
			     : [fl] "r"((u32)c->fl)                                                \
			     : "cc", "memory");                                                    \
		c->fl = fl;                                                                        \
	}

#define CARRY_IN "btl $8, %[fl]; "

#define FOR_SIZES(M, ...) M(8, __VA_ARGS__) M(16, __VA_ARGS__) M(32, __VA_ARGS__) M(64, __VA_ARGS__)

#define DEFINE_BINARY(bits, name, insn, carry)                                                     \
	BINARY(name, bits, insn, carry)                                                            \
	BINARY_LOCKED(name, bits, insn, carry)
#define DEFINE_COMPARE(bits, name, insn) BINARY(name, bits, insn, "")
#define DEFINE_UNARY(bits, name, carry)  UNARY(name, bits, name, carry)

FOR_SIZES(DEFINE_BINARY, add, add, "")
FOR_SIZES(DEFINE_BINARY, or, or, "")
FOR_SIZES(DEFINE_BINARY, adc, adc, CARRY_IN)
FOR_SIZES(DEFINE_BINARY, sbb, sbb, CARRY_IN)
FOR_SIZES(DEFINE_BINARY, and, and, "")
FOR_SIZES(DEFINE_BINARY, sub, sub, "")
FOR_SIZES(DEFINE_BINARY, xor, xor, "")
FOR_SIZES(DEFINE_COMPARE, cmp, cmp)
FOR_SIZES(DEFINE_COMPARE, test, test)
FOR_SIZES(DEFINE_UNARY, inc, CARRY_IN)
FOR_SIZES(DEFINE_UNARY, dec, CARRY_IN)
FOR_SIZES(DEFINE_UNARY, neg, "")

/* NOT is the one that leaves flags alone. */
#define DEFINE_NOT(bits, ...)                                                                      \
	static inline u##bits not ##bits(struct cpu * c, u##bits a)                                \
	{                                                                                          \
		return (u##bits) ~a;                                                               \
	}                                                                                          \
	static inline void not ##bits##_locked(struct cpu * c, u##bits * p)                        \
	{                                                                                          \
		asm volatile("lock; not" SFX_##bits " %0" : "+m"(*p) : : "memory");                \
	}
FOR_SIZES(DEFINE_NOT, )

/* --- handlers ------------------------------------------------------------------- */

struct alu_handlers {
	op_fn *rr, *ri;
	op_fn *rm[2];                   /* plain, general */
	op_fn *mr[2], *mi[2];           /* likewise */
	op_fn *mr_lock[2], *mi_lock[2]; /* likewise */
};

/* What CMP and TEST, which write nothing, share with the others. */
#define HANDLERS_READ(bits, name, rr_keep, rm_keep)                                                \
	static void op_##name##bits##_rr(struct cpu *c, const struct op *o)                        \
	{                                                                                          \
		u##bits v = name##bits(c, reg_get##bits(c, o->rm), reg_get##bits(c, o->reg));      \
                                                                                                   \
		rr_keep(bits, c, o->rm, v);                                                        \
		OP_NEXT(c, o);                                                                     \
	}                                                                                          \
	static void op_##name##bits##_ri(struct cpu *c, const struct op *o)                        \
	{                                                                                          \
		u##bits v = name##bits(c, reg_get##bits(c, o->rm), (u##bits)o->imm);               \
                                                                                                   \
		rr_keep(bits, c, o->rm, v);                                                        \
		OP_NEXT(c, o);                                                                     \
	}                                                                                          \
	GENERAL void op_##name##bits##_rm_general(struct cpu *c, const struct op *o)               \
	{                                                                                          \
		u##bits v;                                                                         \
                                                                                                   \
		if (!op_read##bits(c, o, &v))                                                      \
			return op_fault(c, o);                                                     \
		v = name##bits(c, reg_get##bits(c, o->reg), v);                                    \
		rm_keep(bits, c, o->reg, v);                                                       \
		OP_NEXT(c, o);                                                                     \
	}                                                                                          \
	static void op_##name##bits##_rm(struct cpu *c, const struct op *o)                        \
	{                                                                                          \
		u64 gva = op_plain_addr(c, o);                                                     \
		void *p = PLAIN_PTR(c, gva, bits, read);                                           \
		u##bits v;                                                                         \
                                                                                                   \
		if (unlikely(!p))                                                                  \
			return op_##name##bits##_rm_general(c, o);                                 \
		v = name##bits(c, reg_get##bits(c, o->reg), GUEST_LOAD(bits, p));                  \
		rm_keep(bits, c, o->reg, v);                                                       \
		OP_NEXT(c, o);                                                                     \
	}

#define KEEP(bits, c, r, v) reg_set##bits(c, r, v)
#define DROP(bits, c, r, v) (void)v

#define SOURCE_mr(bits, c, o) reg_get##bits(c, (o)->reg)
#define SOURCE_mi(bits, c, o) ((u##bits)(o)->imm)

#define HANDLERS_COMPARE_MEM(bits, name, shape)                                                    \
	GENERAL void op_##name##bits##_##shape##_general(struct cpu *c, const struct op *o)        \
	{                                                                                          \
		u##bits v;                                                                         \
                                                                                                   \
		if (!op_read##bits(c, o, &v))                                                      \
			return op_fault(c, o);                                                     \
		name##bits(c, v, SOURCE_##shape(bits, c, o));                                      \
		OP_NEXT(c, o);                                                                     \
	}                                                                                          \
	static void op_##name##bits##_##shape(struct cpu *c, const struct op *o)                   \
	{                                                                                          \
		u64 gva = op_plain_addr(c, o);                                                     \
		void *p = PLAIN_PTR(c, gva, bits, read);                                           \
                                                                                                   \
		if (unlikely(!p))                                                                  \
			return op_##name##bits##_##shape##_general(c, o);                          \
		name##bits(c, GUEST_LOAD(bits, p), SOURCE_##shape(bits, c, o));                    \
		OP_NEXT(c, o);                                                                     \
	}

#define HANDLERS_MODIFY_MEM(bits, name, shape)                                                     \
	GENERAL void op_##name##bits##_##shape##_general(struct cpu *c, const struct op *o)        \
	{                                                                                          \
		struct rmw m;                                                                      \
		void *p = rmw_begin(c, o, bits / 8, &m);                                           \
                                                                                                   \
		if (!p)                                                                            \
			return op_fault(c, o);                                                     \
		GUEST_STORE(bits, p,                                                               \
			    name##bits(c, GUEST_LOAD(bits, p), SOURCE_##shape(bits, c, o)));       \
		return op_rmw_end(c, o, &m);                                                       \
	}                                                                                          \
	static void op_##name##bits##_##shape(struct cpu *c, const struct op *o)                   \
	{                                                                                          \
		u64 gva = op_plain_addr(c, o);                                                     \
		void *p = PLAIN_PTR(c, gva, bits, write);                                          \
                                                                                                   \
		if (unlikely(!p))                                                                  \
			return op_##name##bits##_##shape##_general(c, o);                          \
		GUEST_STORE(bits, p,                                                               \
			    name##bits(c, GUEST_LOAD(bits, p), SOURCE_##shape(bits, c, o)));       \
		OP_NEXT(c, o);                                                                     \
	}                                                                                          \
	GENERAL void op_##name##bits##_##shape##_lock_general(struct cpu *c, const struct op *o)   \
	{                                                                                          \
		struct rmw m;                                                                      \
		void *p = rmw_begin(c, o, bits / 8, &m);                                           \
                                                                                                   \
		if (!p)                                                                            \
			return op_fault(c, o);                                                     \
		name##bits##_locked(c, p, SOURCE_##shape(bits, c, o));                             \
		return op_rmw_end(c, o, &m);                                                       \
	}                                                                                          \
	static void op_##name##bits##_##shape##_lock(struct cpu *c, const struct op *o)            \
	{                                                                                          \
		u64 gva = op_plain_addr(c, o);                                                     \
		void *p = PLAIN_PTR(c, gva, bits, write);                                          \
                                                                                                   \
		if (unlikely(!p))                                                                  \
			return op_##name##bits##_##shape##_lock_general(c, o);                     \
		name##bits##_locked(c, p, SOURCE_##shape(bits, c, o));                             \
		OP_NEXT(c, o);                                                                     \
	}

#define PAIR(fn)                                                                                   \
	{                                                                                          \
		fn, fn##_general                                                                   \
	}

#define HANDLERS_BINARY(bits, name)                                                                \
	HANDLERS_READ(bits, name, KEEP, KEEP)                                                      \
	HANDLERS_MODIFY_MEM(bits, name, mr)                                                        \
	HANDLERS_MODIFY_MEM(bits, name, mi)

#define HANDLERS_COMPARE(bits, name)                                                               \
	HANDLERS_READ(bits, name, DROP, DROP)                                                      \
	HANDLERS_COMPARE_MEM(bits, name, mr)                                                       \
	HANDLERS_COMPARE_MEM(bits, name, mi)

FOR_SIZES(HANDLERS_BINARY, add)
FOR_SIZES(HANDLERS_BINARY, or)
FOR_SIZES(HANDLERS_BINARY, adc)
FOR_SIZES(HANDLERS_BINARY, sbb)
FOR_SIZES(HANDLERS_BINARY, and)
FOR_SIZES(HANDLERS_BINARY, sub)
FOR_SIZES(HANDLERS_BINARY, xor)
FOR_SIZES(HANDLERS_COMPARE, cmp)
FOR_SIZES(HANDLERS_COMPARE, test)

#define ROW_COMPARE(bits, name)                                                                    \
	{ .rr = op_##name##bits##_rr,                                                              \
	  .ri = op_##name##bits##_ri,                                                              \
	  .rm = PAIR(op_##name##bits##_rm),                                                        \
	  .mr = PAIR(op_##name##bits##_mr),                                                        \
	  .mi = PAIR(op_##name##bits##_mi) },
#define ROW_BINARY(bits, name)                                                                     \
	{ .rr = op_##name##bits##_rr,                                                              \
	  .ri = op_##name##bits##_ri,                                                              \
	  .rm = PAIR(op_##name##bits##_rm),                                                        \
	  .mr = PAIR(op_##name##bits##_mr),                                                        \
	  .mi = PAIR(op_##name##bits##_mi),                                                        \
	  .mr_lock = PAIR(op_##name##bits##_mr_lock),                                              \
	  .mi_lock = PAIR(op_##name##bits##_mi_lock) },

enum { ALU_ADD, ALU_OR, ALU_ADC, ALU_SBB, ALU_AND, ALU_SUB, ALU_XOR, ALU_CMP, ALU_TEST };

static const struct alu_handlers alu_handlers[][4] = {
	[ALU_ADD] = { FOR_SIZES(ROW_BINARY, add) },    [ALU_OR] = { FOR_SIZES(ROW_BINARY, or) },
	[ALU_ADC] = { FOR_SIZES(ROW_BINARY, adc) },    [ALU_SBB] = { FOR_SIZES(ROW_BINARY, sbb) },
	[ALU_AND] = { FOR_SIZES(ROW_BINARY, and) },    [ALU_SUB] = { FOR_SIZES(ROW_BINARY, sub) },
	[ALU_XOR] = { FOR_SIZES(ROW_BINARY, xor) },    [ALU_CMP] = { FOR_SIZES(ROW_COMPARE, cmp) },
	[ALU_TEST] = { FOR_SIZES(ROW_COMPARE, test) },
};

/* --- frequent special cases ------------------------------------------------------- */

/* XOR r, r: the usual way to zero a register; its flags are constants. */
static void op_zero32(struct cpu *c, const struct op *o)
{
	c->s.gpr[o->rm] = 0;
	c->fl = FL_ZF | FL_PF;
	OP_NEXT(c, o);
}

/* TEST r, r: flags of the value itself, one register read. */
#define HANDLER_TEST_SELF(bits, ...)                                                               \
	static void op_test_self##bits(struct cpu *c, const struct op *o)                          \
	{                                                                                          \
		u##bits v = reg_get##bits(c, o->rm);                                               \
                                                                                                   \
		test##bits(c, v, v);                                                               \
		OP_NEXT(c, o);                                                                     \
	}
FOR_SIZES(HANDLER_TEST_SELF, )

static op_fn *const test_self[4] = { op_test_self8, op_test_self16, op_test_self32,
				     op_test_self64 };

/* --- unary ------------------------------------------------------------------------ */

struct unary_handlers {
	op_fn *r;
	op_fn *m[2], *m_lock[2];
};

#define HANDLERS_UNARY(bits, name)                                                                 \
	static void op_##name##bits##_r(struct cpu *c, const struct op *o)                         \
	{                                                                                          \
		reg_set##bits(c, o->rm, name##bits(c, reg_get##bits(c, o->rm)));                   \
		OP_NEXT(c, o);                                                                     \
	}                                                                                          \
	GENERAL void op_##name##bits##_m_general(struct cpu *c, const struct op *o)                \
	{                                                                                          \
		struct rmw m;                                                                      \
		void *p = rmw_begin(c, o, bits / 8, &m);                                           \
                                                                                                   \
		if (!p)                                                                            \
			return op_fault(c, o);                                                     \
		GUEST_STORE(bits, p, name##bits(c, GUEST_LOAD(bits, p)));                          \
		return op_rmw_end(c, o, &m);                                                       \
	}                                                                                          \
	static void op_##name##bits##_m(struct cpu *c, const struct op *o)                         \
	{                                                                                          \
		u64 gva = op_plain_addr(c, o);                                                     \
		void *p = PLAIN_PTR(c, gva, bits, write);                                          \
                                                                                                   \
		if (unlikely(!p))                                                                  \
			return op_##name##bits##_m_general(c, o);                                  \
		GUEST_STORE(bits, p, name##bits(c, GUEST_LOAD(bits, p)));                          \
		OP_NEXT(c, o);                                                                     \
	}                                                                                          \
	GENERAL void op_##name##bits##_m_lock_general(struct cpu *c, const struct op *o)           \
	{                                                                                          \
		struct rmw m;                                                                      \
		void *p = rmw_begin(c, o, bits / 8, &m);                                           \
                                                                                                   \
		if (!p)                                                                            \
			return op_fault(c, o);                                                     \
		name##bits##_locked(c, p);                                                         \
		return op_rmw_end(c, o, &m);                                                       \
	}                                                                                          \
	static void op_##name##bits##_m_lock(struct cpu *c, const struct op *o)                    \
	{                                                                                          \
		u64 gva = op_plain_addr(c, o);                                                     \
		void *p = PLAIN_PTR(c, gva, bits, write);                                          \
                                                                                                   \
		if (unlikely(!p))                                                                  \
			return op_##name##bits##_m_lock_general(c, o);                             \
		name##bits##_locked(c, p);                                                         \
		OP_NEXT(c, o);                                                                     \
	}

FOR_SIZES(HANDLERS_UNARY, inc)
FOR_SIZES(HANDLERS_UNARY, dec)
FOR_SIZES(HANDLERS_UNARY, not )
FOR_SIZES(HANDLERS_UNARY, neg)

#define ROW_UNARY(bits, name)                                                                      \
	{ .r = op_##name##bits##_r,                                                                \
	  .m = PAIR(op_##name##bits##_m),                                                          \
	  .m_lock = PAIR(op_##name##bits##_m_lock) },

enum { UNARY_INC, UNARY_DEC, UNARY_NOT, UNARY_NEG };

static const struct unary_handlers unary_handlers[][4] = {
	[UNARY_INC] = { FOR_SIZES(ROW_UNARY, inc) },
	[UNARY_DEC] = { FOR_SIZES(ROW_UNARY, dec) },
	[UNARY_NOT] = { FOR_SIZES(ROW_UNARY, not ) },
	[UNARY_NEG] = { FOR_SIZES(ROW_UNARY, neg) },
};

/* --- pickers ---------------------------------------------------------------------- */

static op_fn *pick_binary(struct decoding *d, unsigned which)
{
	struct op *o = d->op;
	enum shape shape = decode_shape(d);
	const struct alu_handlers *h = &alu_handlers[which][decode_size_index(o)];

	switch (shape) {
	case SHAPE_RR:
		if (which == ALU_XOR && o->rm == o->reg && o->size >= 4)
			return op_zero32;
		if (which == ALU_TEST && o->rm == o->reg)
			return test_self[decode_size_index(o)];
		return h->rr;
	case SHAPE_RI:
		return h->ri;
	case SHAPE_RM:
		return decode_pair(o, h->rm);
	case SHAPE_MR:
		return decode_pair(o, o->flags & OP_LOCK ? h->mr_lock : h->mr);
	case SHAPE_MI:
		return decode_pair(o, o->flags & OP_LOCK ? h->mi_lock : h->mi);
	default:
		return NULL;
	}
}

op_fn *pick_alu(struct decoding *d)
{
	switch (d->insn.mnemonic) {
	case ZYDIS_MNEMONIC_ADD:
		return pick_binary(d, ALU_ADD);
	case ZYDIS_MNEMONIC_OR:
		return pick_binary(d, ALU_OR);
	case ZYDIS_MNEMONIC_ADC:
		return pick_binary(d, ALU_ADC);
	case ZYDIS_MNEMONIC_SBB:
		return pick_binary(d, ALU_SBB);
	case ZYDIS_MNEMONIC_AND:
		return pick_binary(d, ALU_AND);
	case ZYDIS_MNEMONIC_SUB:
		return pick_binary(d, ALU_SUB);
	case ZYDIS_MNEMONIC_XOR:
		return pick_binary(d, ALU_XOR);
	default:
		return pick_binary(d, ALU_CMP);
	}
}

op_fn *pick_test(struct decoding *d)
{
	return pick_binary(d, ALU_TEST);
}

op_fn *pick_unary(struct decoding *d)
{
	const struct unary_handlers *h;
	struct op *o = d->op;
	unsigned kind = d->insn.mnemonic == ZYDIS_MNEMONIC_INC   ? UNARY_INC
			: d->insn.mnemonic == ZYDIS_MNEMONIC_DEC ? UNARY_DEC
			: d->insn.mnemonic == ZYDIS_MNEMONIC_NOT ? UNARY_NOT
								 : UNARY_NEG;

	h = &unary_handlers[kind][decode_size_index(o)];
	if (!decode_is_mem(d, 0)) {
		o->rm = decode_reg(d, 0);
		return h->r;
	}
	return decode_pair(o, o->flags & OP_LOCK ? h->m_lock : h->m);
}
