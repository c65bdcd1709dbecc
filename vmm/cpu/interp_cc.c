/*
 * interp_cc.c - what looks at flags: Jcc, SETcc, CMOVcc.
 *
 * Sixteen conditions, in the order of their opcodes (SDM vol. 1, appendix B).
 */
#include "cpu/decode.h"
#include "cpu/interp.h"

static inline bool less(u64 fl)
{
	return !(fl & FL_SF) != !(fl & FL_OF);
}

#define COND_o(fl)  ((fl)&FL_OF)
#define COND_no(fl) (!COND_o(fl))
#define COND_b(fl)  ((fl)&FL_CF)
#define COND_nb(fl) (!COND_b(fl))
#define COND_z(fl)  ((fl)&FL_ZF)
#define COND_nz(fl) (!COND_z(fl))
#define COND_be(fl) ((fl) & (FL_CF | FL_ZF))
#define COND_a(fl)  (!COND_be(fl))
#define COND_s(fl)  ((fl)&FL_SF)
#define COND_ns(fl) (!COND_s(fl))
#define COND_p(fl)  ((fl)&FL_PF)
#define COND_np(fl) (!COND_p(fl))
#define COND_l(fl)  less(fl)
#define COND_ge(fl) (!less(fl))
#define COND_le(fl) (((fl)&FL_ZF) || less(fl))
#define COND_g(fl)  (!COND_le(fl))

#define FOR_CONDITIONS(M)                                                                          \
	M(o) M(no) M(b) M(nb) M(z) M(nz) M(be) M(a) M(s) M(ns) M(p) M(np) M(l) M(ge) M(le) M(g)

/*
 * Jcc. Plain: 64-bit mode, imm and aux are target and next instruction as
 * distances from block_rip. General: imm is the displacement.
 */
#define DEFINE_JCC(cc)                                                                             \
	static void op_j##cc(struct cpu *c, const struct op *o)                                    \
	{                                                                                          \
		bool taken = COND_##cc(c->fl);                                                     \
                                                                                                   \
		c->edge = taken;                                                                   \
		c->s.rip = c->block_rip + (taken ? o->imm : o->aux);                               \
	}                                                                                          \
	static void op_j##cc##_general(struct cpu *c, const struct op *o)                          \
	{                                                                                          \
		u64 rip = op_next_rip(c, o);                                                       \
                                                                                                   \
		c->edge = COND_##cc(c->fl) ? EDGE_TAKEN : EDGE_NEXT;                               \
		if (c->edge) {                                                                     \
			rip += o->imm;                                                             \
			rip = o->size == 2 ? (u16)rip : (u32)rip;                                  \
			if (rip > c->s.seg[SEG_CS].limit)                                          \
				return op_raise(c, o, EXC_GP);                                     \
		}                                                                                  \
		c->s.rip = rip;                                                                    \
	}

#define DEFINE_SETCC(cc)                                                                           \
	static void op_set##cc##_r(struct cpu *c, const struct op *o)                              \
	{                                                                                          \
		reg_set8(c, o->rm, !!COND_##cc(c->fl));                                            \
		OP_NEXT(c, o);                                                                     \
	}                                                                                          \
	static void op_set##cc##_m(struct cpu *c, const struct op *o)                              \
	{                                                                                          \
		if (!op_write8(c, o, !!COND_##cc(c->fl)))                                          \
			return op_fault(c, o);                                                     \
		return op_stored(c, o);                                                            \
	}

/* CMOVcc reads its memory operand, and clears the upper half of a 32-bit register, regardless. */
#define DEFINE_CMOV(cc, bits)                                                                      \
	static void op_cmov##cc##bits##_rr(struct cpu *c, const struct op *o)                      \
	{                                                                                          \
		u##bits old = reg_get##bits(c, o->reg), src = reg_get##bits(c, o->rm);             \
                                                                                                   \
		reg_set##bits(c, o->reg, COND_##cc(c->fl) ? src : old);                            \
		OP_NEXT(c, o);                                                                     \
	}                                                                                          \
	static void op_cmov##cc##bits##_rm(struct cpu *c, const struct op *o)                      \
	{                                                                                          \
		u##bits old = reg_get##bits(c, o->reg), src;                                       \
                                                                                                   \
		if (!op_read##bits(c, o, &src))                                                    \
			return op_fault(c, o);                                                     \
		reg_set##bits(c, o->reg, COND_##cc(c->fl) ? src : old);                            \
		OP_NEXT(c, o);                                                                     \
	}
#define DEFINE_CMOV_SIZES(cc) DEFINE_CMOV(cc, 16) DEFINE_CMOV(cc, 32) DEFINE_CMOV(cc, 64)

FOR_CONDITIONS(DEFINE_JCC)
FOR_CONDITIONS(DEFINE_SETCC)
FOR_CONDITIONS(DEFINE_CMOV_SIZES)

#define ROW_JCC(cc)   { op_j##cc, op_j##cc##_general },
#define ROW_SETCC(cc) { op_set##cc##_r, op_set##cc##_m },
#define ROW_CMOV(cc)                                                                               \
	{ { NULL, NULL },                                                                          \
	  { op_cmov##cc##16_rr, op_cmov##cc##16_rm },                                              \
	  { op_cmov##cc##32_rr, op_cmov##cc##32_rm },                                              \
	  { op_cmov##cc##64_rr, op_cmov##cc##64_rm } },

static op_fn *const jcc_handlers[16][2] = { FOR_CONDITIONS(ROW_JCC) };
static op_fn *const setcc_handlers[16][2] = { FOR_CONDITIONS(ROW_SETCC) };
static op_fn *const cmov_handlers[16][4][2] = { FOR_CONDITIONS(ROW_CMOV) };

static op_fn *pick_jcc(struct decoding *d, unsigned cc)
{
	struct op *o = d->op;

	d->ends_block = true;
	if (d->cpu->mode != MODE_64)
		return jcc_handlers[cc][1];
	o->aux = (u64)o->off + o->len;
	o->imm += o->aux;
	return jcc_handlers[cc][0];
}

/* The condition is the low nibble of the opcode in all three. */
op_fn *pick_cc(struct decoding *d)
{
	unsigned cc = d->insn.opcode & 15;
	struct op *o = d->op;

	if (d->insn.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT || (d->insn.opcode & 0xf0) == 0x80)
		return pick_jcc(d, cc);
	if ((d->insn.opcode & 0xf0) == 0x90) {
		if (decode_is_mem(d, 0))
			return setcc_handlers[cc][1];
		o->rm = decode_reg(d, 0);
		return setcc_handlers[cc][0];
	}
	return cmov_handlers[cc][decode_size_index(o)][decode_is_mem(d, 1)];
}
