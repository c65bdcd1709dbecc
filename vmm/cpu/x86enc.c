/*
 * x86enc.c - re-encoding of decoded instructions with other registers.
 *
 * Encodings: SDM vol. 2, 2.1 (legacy and REX), 2.3 (VEX), 2.7 (EVEX).
 */
#include "cpu/x86enc.h"

#define MODRM_SIB 4 /* rm: a SIB byte follows */
#define SIB_PLAIN 0x24
#define NO_BASE   5 /* rm with mod 0: no base */

struct encoder {
	uint8_t *out;
	unsigned n;
	const ZydisDecodedInstruction *insn;
	const uint8_t *bytes;
	const struct x86enc *e;
	bool long_mode;
	/* 5-bit register numbers. */
	uint8_t reg, rm, vvvv;
};

static void put(struct encoder *x, unsigned byte)
{
	x->out[x->n++] = (uint8_t)byte;
}

static bool has_modrm(const struct encoder *x)
{
	return x->insn->attributes & ZYDIS_ATTRIB_HAS_MODRM;
}

static bool has_memory(const struct encoder *x)
{
	return has_modrm(x) && x->insn->raw.modrm.mod != 3;
}

/*
 * Chooses the numbers: the caller's, or the original's as prefixes extended
 * them. @ext_* are the extension bits, in place: 0x08 and, for EVEX, 0x10.
 */
static void choose(struct encoder *x, unsigned ext_reg, unsigned ext_rm, unsigned vvvv)
{
	const struct x86enc *e = x->e;
	unsigned high = x->long_mode ? 0x1f : 7;
	unsigned reg = (x->insn->raw.modrm.reg | ext_reg) & high;
	unsigned rm = (x->insn->raw.modrm.rm | ext_rm) & high;

	x->reg = e->reg == X86ENC_KEEP ? (uint8_t)reg : e->reg;
	x->vvvv = e->vvvv == X86ENC_KEEP ? (uint8_t)(vvvv & high) : e->vvvv;
	if (has_memory(x))
		x->rm = e->base;
	else
		x->rm = e->rm == X86ENC_KEEP ? (uint8_t)rm : e->rm;
}

/* Displacements of one byte are scaled in EVEX encodings: those take four. */
static void put_disp32(struct encoder *x, unsigned field)
{
	int32_t disp = x->e->disp32;
	bool evex = x->insn->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX;
	bool small = disp == (int8_t)disp && !evex;
	unsigned mod = small ? 0x40u : 0x80u;

	if (x->e->has_index) {
		put(x, mod | field | MODRM_SIB);
		put(x, (unsigned)x->e->shift << 6 | (x->e->index & 7u) << 3 | (x->rm & 7u));
	} else {
		put(x, mod | field | (x->rm & 7u));
		if ((x->rm & 7u) == MODRM_SIB)
			put(x, SIB_PLAIN);
	}
	put(x, (uint8_t)disp);
	for (unsigned shift = 8; !small && shift < 32; shift += 8)
		put(x, (uint8_t)((uint32_t)disp >> shift));
}

static unsigned index_high(const struct encoder *x)
{
	return has_memory(x) && x->e->has_index ? x->e->index & 8u : 0;
}

static void put_modrm(struct encoder *x)
{
	unsigned field = (x->reg & 7u) << 3;
	unsigned rm = x->rm & 7;
	bool disp8;

	if (!has_memory(x)) {
		put(x, 0xc0 | field | rm);
		return;
	}
	if (x->e->has_index || x->e->disp32) {
		put_disp32(x, field);
		return;
	}
	disp8 = x->e->has_disp || rm == NO_BASE;
	put(x, (disp8 ? 0x40u : 0) | field | rm);
	if (rm == MODRM_SIB)
		put(x, SIB_PLAIN);
	if (disp8)
		put(x, x->e->has_disp ? (uint8_t)x->e->disp : 0);
}

/* Whatever follows the memory operand: immediates. */
static void put_tail(struct encoder *x)
{
	const ZydisDecodedInstructionRaw *raw = &x->insn->raw;
	unsigned at = raw->modrm.offset + 1u;

	if (x->insn->attributes & ZYDIS_ATTRIB_HAS_SIB)
		at = raw->sib.offset + 1u;
	if (raw->disp.size)
		at = raw->disp.offset + raw->disp.size / 8u;
	while (at < x->insn->length)
		put(x, x->bytes[at++]);
}

static void put_legacy_prefixes(struct encoder *x)
{
	const ZydisDecodedInstructionRaw *raw = &x->insn->raw;
	bool kept_66 = false;

	for (unsigned i = 0; i < raw->prefix_count; i++) {
		unsigned p = raw->prefixes[i].value;
		bool mandatory = raw->prefixes[i].type == ZYDIS_PREFIX_TYPE_MANDATORY;

		if (p == 0x66 && !mandatory && x->e->opsize != X86ENC_OPSIZE_KEEP)
			continue;
		if (p == 0x66 && kept_66)
			continue;
		if (p == 0x66 || p == 0xf2 || p == 0xf3 || p == 0xf0)
			put(x, p);
		kept_66 |= p == 0x66;
	}
	if (x->e->opsize == X86ENC_OPSIZE_16 && !kept_66)
		put(x, 0x66);
}

static void put_opcode_map(struct encoder *x)
{
	if (x->insn->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT)
		return;
	put(x, 0x0f);
	if (x->insn->opcode_map == ZYDIS_OPCODE_MAP_0F38)
		put(x, 0x38);
	else if (x->insn->opcode_map == ZYDIS_OPCODE_MAP_0F3A)
		put(x, 0x3a);
}

static void encode_legacy(struct encoder *x)
{
	const ZydisDecodedInstructionRaw *raw = &x->insn->raw;
	bool had_rex = x->insn->attributes & ZYDIS_ATTRIB_HAS_REX;
	unsigned rex = 0;

	put_legacy_prefixes(x);
	if (!has_modrm(x)) {
		/* Nothing to choose: what is left is the original's. */
		unsigned at = raw->prefix_count;

		if (had_rex)
			at = raw->rex.offset;
		while (at < x->insn->length)
			put(x, x->bytes[at++]);
		return;
	}

	choose(x, had_rex ? raw->rex.R * 8u : 0, had_rex ? raw->rex.B * 8u : 0, 0);
	if (had_rex && raw->rex.W && !x->e->clear_w)
		rex |= 8;
	rex |= (x->reg & 8u) >> 1 | index_high(x) >> 2 | (x->rm & 8u) >> 3;
	if (rex || had_rex)
		put(x, 0x40 | rex);
	put_opcode_map(x);
	put(x, x->insn->opcode);
	put_modrm(x);
	put_tail(x);
}

static void encode_vex(struct encoder *x)
{
	const uint8_t *vex = x->bytes + x->insn->raw.vex.offset;
	bool three = vex[0] == 0xc4;
	unsigned last = vex[three ? 2 : 1]; /* W vvvv L pp; R in the place of W if short */
	unsigned map = three ? vex[1] & 0x1f : 1;
	bool r = !(vex[1] & 0x80);
	bool b = three && !(vex[1] & 0x20);
	bool w = three && (last & 0x80) && !x->e->clear_w;

	choose(x, r ? 8 : 0, b ? 8 : 0, ~last >> 3 & 15);
	last = (last & 7) | (~x->vvvv & 15u) << 3;
	if (map == 1 && !w && x->rm < 8 && !index_high(x)) {
		put(x, 0xc5);
		put(x, last | (x->reg < 8 ? 0x80 : 0));
	} else {
		put(x, 0xc4);
		put(x, map | (x->reg < 8 ? 0x80u : 0) | (index_high(x) ? 0 : 0x40u) |
			       (x->rm < 8 ? 0x20u : 0));
		put(x, last | (w ? 0x80 : 0));
	}
	put(x, x->insn->opcode);
	put_modrm(x);
	put_tail(x);
}

static void encode_evex(struct encoder *x)
{
	const uint8_t *evex = x->bytes + x->insn->raw.evex.offset;
	unsigned p0 = evex[1], p1 = evex[2], p2 = evex[3];

	/* R and B extend to 4 bits, R' and (for registers) X to 5; all are inverted. */
	choose(x, (p0 & 0x80 ? 0 : 8) | (p0 & 0x10 ? 0 : 16),
	       (p0 & 0x20 ? 0 : 8) | (p0 & 0x40 ? 0 : 16), (~p1 >> 3 & 15) | (p2 & 8 ? 0 : 16));
	p0 &= 0x0f;
	p0 |= (x->reg & 8 ? 0 : 0x80u) | (x->reg & 16 ? 0 : 0x10u);
	p0 |= (x->rm & 8 ? 0 : 0x20u) | (x->rm & 16 || index_high(x) ? 0 : 0x40u);
	p1 = (p1 & 0x87) | (~x->vvvv & 15u) << 3;
	if (x->e->clear_w)
		p1 &= 0x7f;
	p2 = (p2 & ~8u) | (x->vvvv & 16 ? 0 : 8);

	put(x, 0x62);
	put(x, p0);
	put(x, p1);
	put(x, p2);
	put(x, x->insn->opcode);
	put_modrm(x);
	put_tail(x);
}

unsigned x86enc(uint8_t out[X86ENC_MAX], const ZydisDecodedInstruction *insn, const uint8_t *bytes,
		const struct x86enc *e)
{
	struct encoder x = {
		.out = out,
		.insn = insn,
		.bytes = bytes,
		.e = e,
		.long_mode = insn->machine_mode == ZYDIS_MACHINE_MODE_LONG_64,
	};

	switch (insn->encoding) {
	case ZYDIS_INSTRUCTION_ENCODING_LEGACY:
		encode_legacy(&x);
		break;
	case ZYDIS_INSTRUCTION_ENCODING_VEX:
		encode_vex(&x);
		break;
	case ZYDIS_INSTRUCTION_ENCODING_EVEX:
		encode_evex(&x);
		break;
	default:
		break;
	}
	return x.n;
}
