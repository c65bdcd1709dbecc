/*
 * gather.c - gathers and scatters: one memory access an element, at addresses
 * out of a vector register.
 *
 * Elements are taken from the lowest up. Each is complete, and its mask cleared,
 * before the next one, so that after a fault the instruction simply starts again
 * (SDM vol. 2, VGATHERDPS).
 */
#include "cpu/interp.h"
#include "cpu/stub_run.h"
#include "cpu/xstate.h"

/* op.imm */
#define INDEX_REG   0  /* 5 bits; the index vector */
#define INDEX_SHIFT 5  /* 2 bits: log2 of the scale */
#define INDEX_64    7  /* 1 bit: 64-bit indices */
#define DATA_64     8  /* 1 bit: 64-bit elements */
#define DATA_REG    9  /* 5 bits; the vector gathered into or scattered from */
#define MASK_REG    14 /* 4 bits: an opmask or, for VEX, a vector */
#define ELEMENTS    18 /* 5 bits */
#define WIDTH       24 /* 7 bits: bytes of the data that count, the rest is cleared */
#define VECTOR      32 /* 7 bits: bytes of the whole vector */

static unsigned field(const struct op *o, unsigned shift, unsigned bits)
{
	return (unsigned)(o->imm >> shift) & (BIT(bits) - 1);
}

/* --- masks -------------------------------------------------------------------------- */

static uint64_t opmask_get(const struct cpu *c, unsigned k)
{
	return load_u64(c->s.xsave + XSAVE_OPMASK + k * 8);
}

static void opmask_set(struct cpu *c, unsigned k, uint64_t v)
{
	store_u64(c->s.xsave + XSAVE_OPMASK + k * 8, v);
}

/* One bit an element, whichever kind of mask it is. */
static uint64_t selected(const struct cpu *c, const struct op *o, bool vex)
{
	unsigned n = field(o, ELEMENTS, 5), bytes = field(o, DATA_64, 1) ? 8 : 4;
	uint8_t v[64];
	uint64_t m = 0;

	if (!vex)
		return opmask_get(c, field(o, MASK_REG, 4)) & (BIT64(n) - 1);
	xstate_get_vector(&c->s, field(o, MASK_REG, 4), v);
	for (unsigned i = 0; i < n; i++)
		m |= (uint64_t)(v[(i + 1) * bytes - 1] >> 7) << i;
	return m;
}

static void deselect(struct cpu *c, const struct op *o, bool vex, unsigned element)
{
	unsigned reg = field(o, MASK_REG, 4), bytes = field(o, DATA_64, 1) ? 8 : 4;
	uint8_t v[64];

	if (!vex) {
		opmask_set(c, reg, opmask_get(c, reg) & ~BIT64(element));
		return;
	}
	xstate_get_vector(&c->s, reg, v);
	memset(v + element * bytes, 0, bytes);
	xstate_set_vector(&c->s, reg, v);
}

/* At the end a mask is clear, beyond the elements too. */
static void clear_mask(struct cpu *c, const struct op *o, bool vex)
{
	static const uint8_t zero[64];

	if (vex)
		xstate_set_vector(&c->s, field(o, MASK_REG, 4), zero);
	else
		opmask_set(c, field(o, MASK_REG, 4), 0);
}

/* --- elements ------------------------------------------------------------------------ */

static uint64_t element_offset(const struct cpu *c, const struct op *o, unsigned element)
{
	uint64_t index, ea;
	uint8_t v[64];

	xstate_get_vector(&c->s, field(o, INDEX_REG, 5), v);
	if (field(o, INDEX_64, 1))
		index = load_u64(v + element * 8);
	else
		index = (uint64_t)(int64_t)(int32_t)load_u32(v + element * 4);
	ea = op_ea(c, o) + (index << field(o, INDEX_SHIFT, 2));
	return o->flags & OP_ADDR32 ? (uint32_t)ea : ea;
}

static bool gather_element(struct cpu *c, const struct op *o, unsigned element)
{
	unsigned bytes = field(o, DATA_64, 1) ? 8 : 4, reg = field(o, DATA_REG, 5);
	uint8_t v[64], data[8];
	uint64_t gva;

	if (!mmu_linear(c, o->seg, element_offset(c, o, element), bytes, MMU_READ, &gva) ||
	    !mmu_read_slow(c, gva, data, bytes))
		return false;
	xstate_get_vector(&c->s, reg, v);
	memcpy(v + element * bytes, data, bytes);
	xstate_set_vector(&c->s, reg, v);
	return true;
}

static bool scatter_element(struct cpu *c, const struct op *o, unsigned element)
{
	unsigned bytes = field(o, DATA_64, 1) ? 8 : 4;
	uint8_t v[64];
	uint64_t gva;

	xstate_get_vector(&c->s, field(o, DATA_REG, 5), v);
	return mmu_linear(c, o->seg, element_offset(c, o, element), bytes, MMU_WRITE, &gva) &&
	       mmu_write_slow(c, gva, v + element * bytes, bytes);
}

typedef bool element_fn(struct cpu *c, const struct op *o, unsigned element);

/* How many elements were done before a fault, or -1 for all of them. */
static int each_element(struct cpu *c, const struct op *o, bool vex, element_fn *fn)
{
	int done = 0;

	op_note(c, o);
	for (uint64_t m = selected(c, o, vex); m; m &= m - 1, done++) {
		unsigned element = (unsigned)__builtin_ctzll(m);

		if (!fn(c, o, element))
			return done;
		deselect(c, o, vex, element);
	}
	clear_mask(c, o, vex);
	return -1;
}

/* --- handlers -------------------------------------------------------------------------- */

static void clear_above(struct cpu *c, const struct op *o, unsigned width)
{
	unsigned reg = field(o, DATA_REG, 5);
	uint8_t v[64];

	xstate_get_vector(&c->s, reg, v);
	memset(v + width, 0, sizeof(v) - width);
	xstate_set_vector(&c->s, reg, v);
}

/*
 * With VEX, before anything is read: the mask's elements are all ones or all zero.
 * They fill the vector, even where half of them select.
 */
static void spread_mask(struct cpu *c, const struct op *o)
{
	unsigned bytes = field(o, DATA_64, 1) ? 8 : 4, reg = field(o, MASK_REG, 4);
	unsigned width = field(o, VECTOR, 7);
	uint8_t v[64];

	xstate_get_vector(&c->s, reg, v);
	for (unsigned i = 0; i < width; i += bytes)
		memset(v + i, v[i + bytes - 1] & 0x80 ? 0xff : 0, bytes);
	memset(v + width, 0, sizeof(v) - width);
	xstate_set_vector(&c->s, reg, v);
}

static void gather(struct cpu *c, const struct op *o, bool vex)
{
	unsigned width = field(o, WIDTH, 7);
	int done;

	if (vex)
		spread_mask(c, o);
	done = each_element(c, o, vex, gather_element);
	if (done > 0)
		clear_above(c, o, field(o, VECTOR, 7));
	if (done >= 0)
		return op_fault(c, o);
	clear_above(c, o, width);
	OP_NEXT(c, o);
}

static void op_gather_vex(struct cpu *c, const struct op *o)
{
	if (stub_gate_avx(c, o))
		gather(c, o, true);
}

static void op_gather_evex(struct cpu *c, const struct op *o)
{
	if (stub_gate_avx512(c, o))
		gather(c, o, false);
}

static void op_scatter(struct cpu *c, const struct op *o)
{
	if (!stub_gate_avx512(c, o))
		return;
	if (each_element(c, o, false, scatter_element) >= 0)
		return op_fault(c, o);
	return op_stored(c, o);
}

/* --- decoding ------------------------------------------------------------------------------ */

static bool indices_are_64(ZydisMnemonic mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_VGATHERQPD:
	case ZYDIS_MNEMONIC_VGATHERQPS:
	case ZYDIS_MNEMONIC_VPGATHERQD:
	case ZYDIS_MNEMONIC_VPGATHERQQ:
	case ZYDIS_MNEMONIC_VPSCATTERQD:
	case ZYDIS_MNEMONIC_VPSCATTERQQ:
	case ZYDIS_MNEMONIC_VSCATTERQPD:
	case ZYDIS_MNEMONIC_VSCATTERQPS:
		return true;
	default:
		return false;
	}
}

static bool data_is_64(ZydisMnemonic mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_VGATHERDPD:
	case ZYDIS_MNEMONIC_VGATHERQPD:
	case ZYDIS_MNEMONIC_VPGATHERDQ:
	case ZYDIS_MNEMONIC_VPGATHERQQ:
	case ZYDIS_MNEMONIC_VPSCATTERDQ:
	case ZYDIS_MNEMONIC_VPSCATTERQQ:
	case ZYDIS_MNEMONIC_VSCATTERDPD:
	case ZYDIS_MNEMONIC_VSCATTERQPD:
		return true;
	default:
		return false;
	}
}

static const ZydisDecodedOperand *vsib_operand(const ZydisDecodedInstruction *insn,
					       const ZydisDecodedOperand *operands)
{
	for (unsigned i = 0; i < insn->operand_count_visible; i++)
		if (operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
		    operands[i].mem.type == ZYDIS_MEMOP_TYPE_VSIB)
			return &operands[i];
	return NULL;
}

/* The vector operand with that encoding, or NULL. */
static const ZydisDecodedOperand *vector_operand(const ZydisDecodedInstruction *insn,
						 const ZydisDecodedOperand *operands,
						 ZydisOperandEncoding encoding)
{
	for (unsigned i = 0; i < insn->operand_count_visible; i++)
		if (operands[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    operands[i].encoding == encoding)
			return &operands[i];
	return NULL;
}

bool gather_find(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands,
		 struct op *o)
{
	const ZydisDecodedOperand *mem = vsib_operand(insn, operands);
	const ZydisDecodedOperand *data =
		vector_operand(insn, operands, ZYDIS_OPERAND_ENCODING_MODRM_REG);
	const ZydisDecodedOperand *mask =
		vector_operand(insn, operands, ZYDIS_OPERAND_ENCODING_NDSNDD);
	bool vex = insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX, wide, wide_index;
	unsigned vector = insn->avx.vector_length / 8, elements, mask_reg;

	if (!mem || !data || (vex && !mask))
		return false; /* the prefetching ones, too */
	wide = data_is_64(insn->mnemonic);
	wide_index = indices_are_64(insn->mnemonic);
	elements = vector / (wide || wide_index ? 8 : 4);
	mask_reg = (unsigned)ZydisRegisterGetId(vex ? mask->reg.value : insn->avx.mask.reg);
	o->imm = (unsigned)ZydisRegisterGetId(mem->mem.index) << INDEX_REG |
		 (unsigned)__builtin_ctz(mem->mem.scale ? mem->mem.scale : 1u) << INDEX_SHIFT |
		 (unsigned)wide_index << INDEX_64 | (unsigned)wide << DATA_64 |
		 (unsigned)ZydisRegisterGetId(data->reg.value) << DATA_REG | mask_reg << MASK_REG |
		 elements << ELEMENTS | elements * (wide ? 8 : 4) << WIDTH |
		 (uint64_t)vector << VECTOR;
	if (mem->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
		o->fn = op_scatter;
	else
		o->fn = vex ? op_gather_vex : op_gather_evex;
	return true;
}
