/*
 * gather.c - gathers and scatters: an element of a vector register from or to
 * memory for each element of a vector of indices. SDM vol. 2, VPGATHERDD and others.
 *
 * Elements are accessed one by one, in ascending order. Each that is done clears its
 * bit of the mask, so that an instruction that faulted goes on where it stopped.
 */
#include "cpu/interp.h"
#include "cpu/stub_run.h"
#include "cpu/xstate.h"

/* op.imm */
struct gather {
	uint8_t element, index; /* bytes of one */
	uint8_t nr;
	uint8_t index_reg;
	uint8_t mask_reg; /* of vector registers or, if EVEX, of opmasks */
	bool evex, store;
};

_Static_assert(sizeof(struct gather) <= sizeof(uint64_t), "fits op.imm");

static struct gather gather_of(const struct op *o)
{
	struct gather g;

	memcpy(&g, &o->imm, sizeof(g));
	return g;
}

/* --- registers --------------------------------------------------------------------- */

/* Byte @at of a vector register; what is aligned there does not cross components. */
static uint8_t *vector(struct cpu *c, unsigned reg, unsigned at)
{
	if (reg >= 16)
		return c->s.xsave + XSAVE_HI16_ZMM + (reg - 16) * 64 + at;
	if (at < 16)
		return xstate_fx(&c->s)->xmm[reg] + at;
	if (at < 32)
		return c->s.xsave + XSAVE_YMM + reg * 16 + at - 16;
	return c->s.xsave + XSAVE_ZMM_HI256 + reg * 32 + at - 32;
}

static void clear_from(struct cpu *c, unsigned reg, unsigned at)
{
	for (; at < 64; at += 4)
		store_u32(vector(c, reg, at), 0);
}

/* --- masks --------------------------------------------------------------------------- */

static uint8_t *opmask(struct cpu *c, const struct gather *g)
{
	return c->s.xsave + XSAVE_OPMASK + g->mask_reg * 8u;
}

static void set_mask_element(struct cpu *c, const struct gather *g, unsigned i, bool on)
{
	memset(vector(c, g->mask_reg, i * g->element), on ? 0xff : 0, g->element);
}

/* A bit an element. Those of vector masks are the sign bits, and get copied all over. */
static uint64_t take_mask(struct cpu *c, const struct gather *g)
{
	uint64_t m = 0;

	if (g->evex)
		return load_u64(opmask(c, g)) & (BIT64(g->nr) - 1);
	for (unsigned i = 0; i < g->nr; i++) {
		bool on = *vector(c, g->mask_reg, (i + 1) * g->element - 1) & 0x80;

		set_mask_element(c, g, i, on);
		m |= (uint64_t)on << i;
	}
	clear_from(c, g->mask_reg, g->nr * g->element);
	return m;
}

static void element_done(struct cpu *c, const struct gather *g, unsigned i)
{
	if (g->evex)
		store_u64(opmask(c, g), load_u64(opmask(c, g)) & ~BIT64(i));
	else
		set_mask_element(c, g, i, false);
}

/* --- elements ------------------------------------------------------------------------ */

static uint64_t element_address(struct cpu *c, const struct op *o, const struct gather *g,
				unsigned i)
{
	const uint8_t *p = vector(c, g->index_reg, i * g->index);
	int64_t index = g->index == 4 ? (int32_t)load_u32(p) : (int64_t)load_u64(p);
	uint64_t ea = op_ea(c, o) + ((uint64_t)index << o->shift);

	if (o->flags & OP_ADDR32)
		return (uint32_t)ea;
	return o->flags & OP_ADDR16 ? (uint16_t)ea : ea;
}

static bool move_element(struct cpu *c, const struct op *o, const struct gather *g, unsigned i)
{
	enum mmu_access access = g->store ? MMU_WRITE : MMU_READ;
	uint8_t *reg = vector(c, o->reg, i * g->element);
	uint64_t gva;

	if (!mmu_linear(c, o->seg, element_address(c, o, g, i), g->element, access, &gva))
		return false;
	return g->store ? mmu_write_slow(c, gva, reg, g->element)
			: mmu_read_slow(c, gva, reg, g->element);
}

static void op_gather(struct cpu *c, const struct op *o)
{
	const struct gather g = gather_of(o);

	if (!(g.evex ? stub_gate_avx512(c, o) : stub_gate_avx(c, o)))
		return;
	op_note(c, o);
	for (uint64_t m = take_mask(c, &g); m; m &= m - 1) {
		unsigned i = (unsigned)__builtin_ctzll(m);

		if (!move_element(c, o, &g, i))
			return op_fault(c, o);
		element_done(c, &g, i);
	}
	if (g.evex)
		store_u64(opmask(c, &g), 0);
	if (!g.store)
		clear_from(c, o->reg, g.nr * g.element);
	return op_stored(c, o);
}

/* --- decoding ---------------------------------------------------------------------------- */

static bool shape(ZydisMnemonic mnemonic, struct gather *g)
{
#define ROW(name, index_, element_)                                                                \
	case ZYDIS_MNEMONIC_V##name:                                                               \
		g->index = index_;                                                                 \
		g->element = element_;                                                             \
		return true

	switch (mnemonic) {
		ROW(GATHERDPS, 4, 4);
		ROW(GATHERDPD, 4, 8);
		ROW(GATHERQPS, 8, 4);
		ROW(GATHERQPD, 8, 8);
		ROW(PGATHERDD, 4, 4);
		ROW(PGATHERDQ, 4, 8);
		ROW(PGATHERQD, 8, 4);
		ROW(PGATHERQQ, 8, 8);
		ROW(SCATTERDPS, 4, 4);
		ROW(SCATTERDPD, 4, 8);
		ROW(SCATTERQPS, 8, 4);
		ROW(SCATTERQPD, 8, 8);
		ROW(PSCATTERDD, 4, 4);
		ROW(PSCATTERDQ, 4, 8);
		ROW(PSCATTERQD, 8, 4);
		ROW(PSCATTERQQ, 8, 8);
	default:
		return false;
	}
#undef ROW
}

static uint8_t number(ZydisRegister r)
{
	return (uint8_t)ZydisRegisterGetId(r);
}

/* Registers that must differ do not: no such instruction. */
static bool overlap(const struct gather *g, unsigned data)
{
	if (g->evex)
		return !g->mask_reg || (!g->store && data == g->index_reg);
	return data == g->index_reg || data == g->mask_reg || g->index_reg == g->mask_reg;
}

bool gather_find(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands,
		 struct op *o)
{
	struct gather g = { .evex = insn->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX };

	if (!shape(insn->mnemonic, &g))
		return false;
	g.nr = (uint8_t)(insn->avx.vector_length / 8 / MAX(g.index, g.element));
	for (unsigned i = 0; i < insn->operand_count; i++) {
		const ZydisDecodedOperand *p = &operands[i];

		if (p->type == ZYDIS_OPERAND_TYPE_MEMORY) {
			g.index_reg = number(p->mem.index);
			g.store = p->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
			o->shift = (uint8_t)__builtin_ctz(p->mem.scale);
		} else if (p->encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG) {
			o->reg = number(p->reg.value);
		} else {
			g.mask_reg = number(p->reg.value);
		}
	}
	if (overlap(&g, o->reg))
		return false;
	o->imm = 0;
	memcpy(&o->imm, &g, sizeof(g));
	o->fn = op_gather;
	return true;
}
