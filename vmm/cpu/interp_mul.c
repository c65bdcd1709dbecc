/*
 * interp_mul.c - MUL, IMUL, DIV, IDIV.
 *
 * The host's own instructions. What would trap in the host is found first: a
 * quotient that does not fit is #DE before anything is divided.
 */
#include "cpu/decode.h"
#include "cpu/interp.h"

/* The r/m operand: a register (byte ones by offset) or memory. */
static bool source(struct cpu *c, const struct op *o, u64 *v)
{
	union {
		u8 b;
		u16 w;
		u32 l;
		u64 q;
	} t = { 0 };
	bool ok;

	if (!(o->flags & OP_MEM)) {
		*v = o->size == 1 ? reg_get8(c, o->rm) : reg_get(c, o->rm, o->size);
		return true;
	}
	switch (o->size) {
	case 1:
		ok = op_read8(c, o, &t.b);
		break;
	case 2:
		ok = op_read16(c, o, &t.w);
		break;
	case 4:
		ok = op_read32(c, o, &t.l);
		break;
	default:
		ok = op_read64(c, o, &t.q);
		break;
	}
	*v = t.q;
	return ok;
}

/* --- one operand: rDX:rAX = rAX * r/m ------------------------------------------------ */

#define DEFINE_WIDE(bits, name)                                                                    \
	static void op_##name##bits(struct cpu *c, const struct op *o)                             \
	{                                                                                          \
		u64 src;                                                                           \
		u##bits lo, hi;                                                                    \
		u32 fl = (u32)c->fl;                                                               \
                                                                                                   \
		if (!source(c, o, &src))                                                           \
			return op_fault(c, o);                                                     \
		asm(FLAGS_LOAD "mov %[a], %%rax; " #name SFX_##bits                                \
		    " %[b]; mov %%rax, %%rcx" FLAGS_SAVE                                           \
		    : "+&a"(fl), "=&c"(lo), "=&d"(hi)                                              \
		    : [a] "r"(c->s.gpr[RAX]), [b] "r"((u##bits)src)                                \
		    : "cc");                                                                       \
		c->fl = (u16)fl;                                                                   \
		reg_set##bits(c, RAX, lo);                                                         \
		reg_set##bits(c, RDX, hi);                                                         \
		OP_NEXT(c, o);                                                                     \
	}

#define DEFINE_WIDE8(name)                                                                         \
	static void op_##name##8(struct cpu * c, const struct op *o)                               \
	{                                                                                          \
		u64 src;                                                                           \
		u16 product;                                                                       \
		u32 fl = (u32)c->fl;                                                               \
                                                                                                   \
		if (!source(c, o, &src))                                                           \
			return op_fault(c, o);                                                     \
		asm(FLAGS_LOAD "mov %[a], %%rax; " #name "b %[b]; mov %%rax, %%rcx" FLAGS_SAVE     \
		    : "+&a"(fl), "=&c"(product)                                                    \
		    : [a] "r"(c->s.gpr[RAX]), [b] "r"((u8)src)                                     \
		    : "cc");                                                                       \
		c->fl = (u16)fl;                                                                   \
		reg_set16(c, RAX, product);                                                        \
		OP_NEXT(c, o);                                                                     \
	}

DEFINE_WIDE8(mul)
DEFINE_WIDE(16, mul)
DEFINE_WIDE(32, mul)
DEFINE_WIDE(64, mul)
DEFINE_WIDE8(imul)
DEFINE_WIDE(16, imul)
DEFINE_WIDE(32, imul)
DEFINE_WIDE(64, imul)

static void op_source_reg(struct decoding *d)
{
	if (!decode_is_mem(d, 0))
		d->op->rm = decode_reg(d, 0);
}

op_fn *pick_mul(struct decoding *d)
{
	static op_fn *const handlers[4] = { op_mul8, op_mul16, op_mul32, op_mul64 };

	op_source_reg(d);
	return handlers[decode_size_index(d->op)];
}

/* --- IMUL with two or three operands --------------------------------------------------- */

#define DEFINE_IMUL(bits)                                                                          \
	static inline u##bits imul##bits(struct cpu *c, u##bits a, u##bits b)                      \
	{                                                                                          \
		u32 fl = (u32)c->fl;                                                               \
                                                                                                   \
		asm(FLAGS_LOAD "imul" SFX_##bits " %[b], %[a]" FLAGS_SAVE                          \
		    : "+&a"(fl), [a] "+r"(a)                                                       \
		    : [b] "r"(b)                                                                   \
		    : "cc");                                                                       \
		c->fl = fl;                                                                        \
		return a;                                                                          \
	}                                                                                          \
	static void op_imul##bits##_rr(struct cpu *c, const struct op *o)                          \
	{                                                                                          \
		reg_set##bits(c, o->reg,                                                           \
			      imul##bits(c, reg_get##bits(c, o->reg), reg_get##bits(c, o->rm)));   \
		OP_NEXT(c, o);                                                                     \
	}                                                                                          \
	static void op_imul##bits##_rri(struct cpu *c, const struct op *o)                         \
	{                                                                                          \
		reg_set##bits(c, o->reg, imul##bits(c, reg_get##bits(c, o->rm), (u##bits)o->imm)); \
		OP_NEXT(c, o);                                                                     \
	}                                                                                          \
	static void op_imul##bits##_rm(struct cpu *c, const struct op *o)                          \
	{                                                                                          \
		u##bits v;                                                                         \
                                                                                                   \
		if (!op_read##bits(c, o, &v))                                                      \
			return op_fault(c, o);                                                     \
		reg_set##bits(c, o->reg, imul##bits(c, reg_get##bits(c, o->reg), v));              \
		OP_NEXT(c, o);                                                                     \
	}                                                                                          \
	static void op_imul##bits##_rmi(struct cpu *c, const struct op *o)                         \
	{                                                                                          \
		u##bits v;                                                                         \
                                                                                                   \
		if (!op_read##bits(c, o, &v))                                                      \
			return op_fault(c, o);                                                     \
		reg_set##bits(c, o->reg, imul##bits(c, v, (u##bits)o->imm));                       \
		OP_NEXT(c, o);                                                                     \
	}

DEFINE_IMUL(16)
DEFINE_IMUL(32)
DEFINE_IMUL(64)

#define IMUL_ROW(bits)                                                                             \
	{                                                                                          \
		{ op_imul##bits##_rr, op_imul##bits##_rm },                                        \
		{                                                                                  \
			op_imul##bits##_rri, op_imul##bits##_rmi                                   \
		}                                                                                  \
	}

op_fn *pick_imul(struct decoding *d)
{
	static op_fn *const wide[4] = { op_imul8, op_imul16, op_imul32, op_imul64 };
	static op_fn *const narrow[4][2][2] = {
		{ { NULL } }, IMUL_ROW(16), IMUL_ROW(32), IMUL_ROW(64)
	};
	struct op *o = d->op;
	bool has_imm;

	/* The one-operand form has RAX and RDX as hidden or implied ones. */
	if (d->insn.raw.modrm.offset && d->insn.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT &&
	    (d->insn.opcode & 0xfe) == 0xf6) {
		op_source_reg(d);
		return wide[decode_size_index(o)];
	}
	has_imm = d->insn.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT;
	return narrow[decode_size_index(o)][has_imm][!!(o->flags & OP_MEM)];
}

/* --- DIV, IDIV --------------------------------------------------------------------------- */

/* Is |n| / d, signed or not, out of range for a quotient of @bits? n = hi:lo. */
static bool overflows(u64 hi, u64 lo, u64 d, unsigned bits, bool is_signed)
{
	unsigned __int128 n = (unsigned __int128)hi << bits | lo;
	unsigned __int128 quotient;
	bool negative;

	if (!d)
		return true;
	if (!is_signed)
		return hi >= d;

	/* Nearly always: a sign-extended dividend, which only -1 can overflow. */
	if (bits == 64 && hi == (u64)((s64)lo >> 63) && d != UINT64_MAX)
		return false;

	negative = ((hi ^ d) >> (bits - 1)) & 1;
	if (hi >> (bits - 1) & 1) {
		n = -n;
		if (bits < 64)
			n &= ((unsigned __int128)1 << (2 * bits)) - 1;
	}
	if (d >> (bits - 1) & 1)
		d = bits == 64 ? -d : -d & (((u64)1 << bits) - 1);
	quotient = n / d;
	return quotient > ((u64)1 << (bits - 1)) - !negative;
}

#define DEFINE_DIVIDE(bits, name, is_signed)                                                       \
	static void op_##name##bits(struct cpu *c, const struct op *o)                             \
	{                                                                                          \
		u##bits lo = reg_get##bits(c, RAX), hi = reg_get##bits(c, RDX);                    \
		u32 fl = (u32)c->fl;                                                               \
		u64 d;                                                                             \
                                                                                                   \
		if (!source(c, o, &d))                                                             \
			return op_fault(c, o);                                                     \
		if (overflows(hi, lo, d, bits, is_signed))                                         \
			return op_raise(c, o, EXC_DE);                                             \
		asm(FLAGS_LOAD "mov %%rcx, %%rax; " #name SFX_##bits                               \
		    " %[d]; mov %%rax, %%rcx" FLAGS_SAVE                                           \
		    : "+&a"(fl), "+&c"(lo), "+&d"(hi)                                              \
		    : [d] "r"((u##bits)d)                                                          \
		    : "cc");                                                                       \
		c->fl = (u16)fl;                                                                   \
		reg_set##bits(c, RAX, lo);                                                         \
		reg_set##bits(c, RDX, hi);                                                         \
		OP_NEXT(c, o);                                                                     \
	}

#define DEFINE_DIVIDE8(name, is_signed)                                                            \
	static void op_##name##8(struct cpu * c, const struct op *o)                               \
	{                                                                                          \
		u16 n = reg_get16(c, RAX);                                                         \
		u32 fl = (u32)c->fl;                                                               \
		u64 d;                                                                             \
                                                                                                   \
		if (!source(c, o, &d))                                                             \
			return op_fault(c, o);                                                     \
		if (overflows(n >> 8, n & 0xff, d, 8, is_signed))                                  \
			return op_raise(c, o, EXC_DE);                                             \
		asm(FLAGS_LOAD "mov %%rcx, %%rax; " #name "b %[d]; mov %%rax, %%rcx" FLAGS_SAVE    \
		    : "+&a"(fl), "+&c"(n)                                                          \
		    : [d] "r"((u8)d)                                                               \
		    : "cc");                                                                       \
		c->fl = (u16)fl;                                                                   \
		reg_set16(c, RAX, n);                                                              \
		OP_NEXT(c, o);                                                                     \
	}

DEFINE_DIVIDE8(div, false)
DEFINE_DIVIDE(16, div, false)
DEFINE_DIVIDE(32, div, false)
DEFINE_DIVIDE(64, div, false)
DEFINE_DIVIDE8(idiv, true)
DEFINE_DIVIDE(16, idiv, true)
DEFINE_DIVIDE(32, idiv, true)
DEFINE_DIVIDE(64, idiv, true)

op_fn *pick_div(struct decoding *d)
{
	static op_fn *const handlers[2][4] = {
		{ op_div8, op_div16, op_div32, op_div64 },
		{ op_idiv8, op_idiv16, op_idiv32, op_idiv64 },
	};

	op_source_reg(d);
	return handlers[d->insn.mnemonic == ZYDIS_MNEMONIC_IDIV][decode_size_index(d->op)];
}
