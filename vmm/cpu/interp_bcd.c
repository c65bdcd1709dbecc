/*
 * interp_bcd.c - AAA, AAS, AAD, AAM, DAA, DAS: decimal arithmetic of the 16- and
 * 32-bit modes. The host has none in 64-bit mode, so these follow the manual's
 * pseudo-code (SDM vol. 2), with the flags it leaves undefined as processors
 * have them: SF, ZF and PF of the result, OF clear.
 */
#include "cpu/decode.h"
#include "cpu/interp.h"

static void set_flags(struct cpu *c, u8 result, bool cf, bool af)
{
	u16 fl;

	asm("test %1, %1" FLAGS_SAVE : "=&a"(fl) : "q"(result) : "cc");
	fl &= (u16) ~(FL_CF | FL_AF);
	c->fl = fl | (cf ? FL_CF : 0u) | (af ? FL_AF : 0u);
}

static void op_aaa(struct cpu *c, const struct op *o)
{
	u16 ax = reg_get16(c, RAX);
	bool adjust = (ax & 0xf) > 9 || c->fl & FL_AF;

	if (adjust)
		ax = (u16)(ax + 0x106);
	ax &= 0xff0f;
	reg_set16(c, RAX, ax);
	set_flags(c, (u8)ax, adjust, adjust);
	OP_NEXT(c, o);
}

static void op_aas(struct cpu *c, const struct op *o)
{
	u16 ax = reg_get16(c, RAX);
	bool adjust = (ax & 0xf) > 9 || c->fl & FL_AF;

	if (adjust)
		ax = (u16)(ax - 0x106);
	ax &= 0xff0f;
	reg_set16(c, RAX, ax);
	set_flags(c, (u8)ax, adjust, adjust);
	OP_NEXT(c, o);
}

static void op_aam(struct cpu *c, const struct op *o)
{
	u8 al = reg_get8(c, RAX * 8), base = (u8)o->imm;

	if (!base)
		return op_raise(c, o, EXC_DE);
	reg_set16(c, RAX, (u16)((al / base) << 8 | al % base));
	set_flags(c, al % base, false, false);
	OP_NEXT(c, o);
}

static void op_aad(struct cpu *c, const struct op *o)
{
	u16 ax = reg_get16(c, RAX);
	u8 al = (u8)(ax + (ax >> 8) * (u8)o->imm);

	reg_set16(c, RAX, al);
	set_flags(c, al, false, false);
	OP_NEXT(c, o);
}

static void op_daa(struct cpu *c, const struct op *o)
{
	u8 old = reg_get8(c, RAX * 8), al = old;
	bool cf = false, af = (old & 0xf) > 9 || c->fl & FL_AF;

	if (af)
		al = (u8)(al + 6);
	if (old > 0x99 || c->fl & FL_CF) {
		al = (u8)(al + 0x60);
		cf = true;
	}
	reg_set8(c, RAX * 8, al);
	set_flags(c, al, cf, af);
	OP_NEXT(c, o);
}

static void op_das(struct cpu *c, const struct op *o)
{
	u8 old = reg_get8(c, RAX * 8), al = old;
	bool cf = false, af = (old & 0xf) > 9 || c->fl & FL_AF;

	if (af) {
		cf = c->fl & FL_CF || old < 6;
		al = (u8)(al - 6);
	}
	if (old > 0x99 || c->fl & FL_CF) {
		al = (u8)(al - 0x60);
		cf = true;
	}
	reg_set8(c, RAX * 8, al);
	set_flags(c, al, cf, af);
	OP_NEXT(c, o);
}

op_fn *pick_bcd(struct decoding *d)
{
	switch (d->insn.mnemonic) {
	case ZYDIS_MNEMONIC_AAA:
		return op_aaa;
	case ZYDIS_MNEMONIC_AAS:
		return op_aas;
	case ZYDIS_MNEMONIC_AAM:
		return op_aam;
	case ZYDIS_MNEMONIC_AAD:
		return op_aad;
	case ZYDIS_MNEMONIC_DAA:
		return op_daa;
	default:
		return op_das;
	}
}
