/*
 * interp_shift.c - shifts, rotates and double shifts.
 *
 * A count of zero (after masking) touches neither operand nor flags, which is
 * what the host does, too: all run as they are, with the guest's flags loaded.
 */
#include "cpu/decode.h"
#include "cpu/interp.h"

#define FOR_SIZES(M, ...) M(8, __VA_ARGS__) M(16, __VA_ARGS__) M(32, __VA_ARGS__) M(64, __VA_ARGS__)

#define DEFINE_SHIFT(bits, name)                                                                   \
	static inline u##bits name##bits(struct cpu *c, u##bits v, u8 count)                       \
	{                                                                                          \
		u32 fl = (u32)c->fl;                                                               \
                                                                                                   \
		asm(FLAGS_LOAD #name SFX_##bits " %%cl, %[v]" FLAGS_SAVE                           \
		    : "+&a"(fl), [v] "+r"(v)                                                       \
		    : "c"(count)                                                                   \
		    : "cc");                                                                       \
		c->fl = fl;                                                                        \
		return v;                                                                          \
	}

#define COUNT_imm(c, o) ((u8)(o)->imm)
#define COUNT_cl(c, o)  ((u8)(c)->s.gpr[RCX])

#define SHIFT_HANDLERS(bits, name, count)                                                          \
	static void op_##name##bits##_##count##_r(struct cpu *c, const struct op *o)               \
	{                                                                                          \
		reg_set##bits(c, o->rm,                                                            \
			      name##bits(c, reg_get##bits(c, o->rm), COUNT_##count(c, o)));        \
		OP_NEXT(c, o);                                                                     \
	}                                                                                          \
	static void op_##name##bits##_##count##_m(struct cpu *c, const struct op *o)               \
	{                                                                                          \
		struct rmw m;                                                                      \
		void *p = rmw_begin(c, o, bits / 8, &m);                                           \
                                                                                                   \
		if (!p)                                                                            \
			return op_fault(c, o);                                                     \
		GUEST_STORE(bits, p, name##bits(c, GUEST_LOAD(bits, p), COUNT_##count(c, o)));     \
		return op_rmw_end(c, o, &m);                                                       \
	}

#define SHIFT_ROW(bits, name)                                                                      \
	{ { op_##name##bits##_imm_r, op_##name##bits##_imm_m },                                    \
	  { op_##name##bits##_cl_r, op_##name##bits##_cl_m } },

#define SHIFT(name)                                                                                \
	FOR_SIZES(DEFINE_SHIFT, name)                                                              \
	FOR_SIZES(SHIFT_HANDLERS, name, imm)                                                       \
	FOR_SIZES(SHIFT_HANDLERS, name, cl)                                                        \
	static op_fn *const name##_handlers[4][2][2] = { FOR_SIZES(SHIFT_ROW, name) };

SHIFT(shl)
SHIFT(shr)
SHIFT(sar)
SHIFT(rol)
SHIFT(ror)
SHIFT(rcl)
SHIFT(rcr)

op_fn *pick_shift(struct decoding *d)
{
	struct op *o = d->op;
	bool by_cl = d->operand[1].type == ZYDIS_OPERAND_TYPE_REGISTER;
	bool mem = decode_is_mem(d, 0);
	unsigned size = decode_size_index(o);

	if (!mem)
		o->rm = decode_reg(d, 0);
	switch (d->insn.mnemonic) {
	case ZYDIS_MNEMONIC_SHL:
		return shl_handlers[size][by_cl][mem];
	case ZYDIS_MNEMONIC_SHR:
		return shr_handlers[size][by_cl][mem];
	case ZYDIS_MNEMONIC_SAR:
		return sar_handlers[size][by_cl][mem];
	case ZYDIS_MNEMONIC_ROL:
		return rol_handlers[size][by_cl][mem];
	case ZYDIS_MNEMONIC_ROR:
		return ror_handlers[size][by_cl][mem];
	case ZYDIS_MNEMONIC_RCL:
		return rcl_handlers[size][by_cl][mem];
	case ZYDIS_MNEMONIC_RCR:
		return rcr_handlers[size][by_cl][mem];
	default:
		return NULL;
	}
}

/* --- SHLD, SHRD ------------------------------------------------------------------- */

#define DEFINE_DOUBLE(bits, name)                                                                  \
	static inline u##bits name##bits(struct cpu *c, u##bits v, u##bits from, u8 count)         \
	{                                                                                          \
		u32 fl = (u32)c->fl;                                                               \
                                                                                                   \
		asm(FLAGS_LOAD #name SFX_##bits " %%cl, %[from], %[v]" FLAGS_SAVE                  \
		    : "+&a"(fl), [v] "+r"(v)                                                       \
		    : [from] "r"(from), "c"(count)                                                 \
		    : "cc");                                                                       \
		c->fl = fl;                                                                        \
		return v;                                                                          \
	}                                                                                          \
	static void op_##name##bits##_r(struct cpu *c, const struct op *o)                         \
	{                                                                                          \
		reg_set##bits(c, o->rm,                                                            \
			      name##bits(c, reg_get##bits(c, o->rm), reg_get##bits(c, o->reg),     \
					 o->aux ? COUNT_cl(c, o) : COUNT_imm(c, o)));              \
		OP_NEXT(c, o);                                                                     \
	}                                                                                          \
	static void op_##name##bits##_m(struct cpu *c, const struct op *o)                         \
	{                                                                                          \
		struct rmw m;                                                                      \
		void *p = rmw_begin(c, o, bits / 8, &m);                                           \
                                                                                                   \
		if (!p)                                                                            \
			return op_fault(c, o);                                                     \
		GUEST_STORE(bits, p,                                                               \
			    name##bits(c, GUEST_LOAD(bits, p), reg_get##bits(c, o->reg),           \
				       o->aux ? COUNT_cl(c, o) : COUNT_imm(c, o)));                \
		return op_rmw_end(c, o, &m);                                                       \
	}

#define DOUBLE(name)                                                                               \
	DEFINE_DOUBLE(16, name)                                                                    \
	DEFINE_DOUBLE(32, name)                                                                    \
	DEFINE_DOUBLE(64, name)                                                                    \
	static op_fn *const name##_handlers[4][2] = {                                              \
		{ NULL, NULL },                                                                    \
		{ op_##name##16_r, op_##name##16_m },                                              \
		{ op_##name##32_r, op_##name##32_m },                                              \
		{ op_##name##64_r, op_##name##64_m },                                              \
	};

DOUBLE(shld)
DOUBLE(shrd)

op_fn *pick_double_shift(struct decoding *d)
{
	struct op *o = d->op;
	bool mem = decode_shape(d) == SHAPE_MR;
	unsigned size = decode_size_index(o);

	o->aux = d->operand[2].type == ZYDIS_OPERAND_TYPE_REGISTER;
	return d->insn.mnemonic == ZYDIS_MNEMONIC_SHLD ? shld_handlers[size][mem]
						       : shrd_handlers[size][mem];
}
