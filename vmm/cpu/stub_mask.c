/*
 * stub_mask.c - the selected elements of a memory operand, one by one.
 */
#include "cpu/stub_mask.h"

#include "cpu/interp.h"
#include "cpu/stub_run.h"
#include "cpu/xstate.h"

/*
 * In the upper half of op.imm. Element i of n in memory is selected by bits i,
 * i + n, i + 2 n and so on of the mask: more than one if it is broadcast.
 */
#define MASK_KIND     BIT(0) /* set: sign bits of a vector register; clear: an opmask */
#define MASK_VALID    BIT(1)
#define MASK_PACK     BIT(2) /* as many elements as bits are set, without gaps */
#define MASK_WHOLE    BIT(3) /* stores what is selected, but faults if any of it would */
#define MASK_REG      4      /* 4 bits */
#define MASK_LOG      8      /* 3 bits: log2 of an element's bytes */
#define MASK_ELEMENTS 12     /* 3 bits: log2 of n */
#define MASK_BITS     16     /* 7 bits: how many bits of the mask count */

/* --- decoding ------------------------------------------------------------------------ */

/* The classes of SDM vol. 2, 2.8, in which elements that are not selected fault, too. */
static bool never_suppresses(const ZydisDecodedInstruction *insn)
{
	switch (insn->meta.exception_class) {
	case ZYDIS_EXCEPTION_CLASS_E1NF:
	case ZYDIS_EXCEPTION_CLASS_E2NF:
	case ZYDIS_EXCEPTION_CLASS_E3NF:
	case ZYDIS_EXCEPTION_CLASS_E4NF:
	case ZYDIS_EXCEPTION_CLASS_E5NF:
	case ZYDIS_EXCEPTION_CLASS_E6NF:
	case ZYDIS_EXCEPTION_CLASS_E9NF:
	case ZYDIS_EXCEPTION_CLASS_E10NF:
	case ZYDIS_EXCEPTION_CLASS_E11NF:
		return true;
	default:
		/* The mask is of other elements than those in memory. */
		return insn->mnemonic == ZYDIS_MNEMONIC_VDBPSADBW ||
		       insn->mnemonic == ZYDIS_MNEMONIC_VGF2P8AFFINEQB ||
		       insn->mnemonic == ZYDIS_MNEMONIC_VGF2P8AFFINEINVQB;
	}
}

static bool packs(ZydisMnemonic mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_VCOMPRESSPD:
	case ZYDIS_MNEMONIC_VCOMPRESSPS:
	case ZYDIS_MNEMONIC_VEXPANDPD:
	case ZYDIS_MNEMONIC_VEXPANDPS:
	case ZYDIS_MNEMONIC_VPCOMPRESSD:
	case ZYDIS_MNEMONIC_VPCOMPRESSQ:
	case ZYDIS_MNEMONIC_VPEXPANDD:
	case ZYDIS_MNEMONIC_VPEXPANDQ:
		return true;
	default:
		return false;
	}
}

static unsigned log2_of(unsigned v)
{
	return (unsigned)__builtin_ctz(v);
}

static uint32_t by_vector(const ZydisDecodedOperand *mask, const ZydisDecodedOperand *mem,
			  unsigned element)
{
	unsigned elements = mem->size / 8 / element;

	return MASK_VALID | MASK_KIND | (uint32_t)ZydisRegisterGetId(mask->reg.value) << MASK_REG |
	       log2_of(element) << MASK_LOG | log2_of(elements) << MASK_ELEMENTS |
	       elements << MASK_BITS;
}

/* Into how many elements of the destination the operand is copied, one or several times. */
static unsigned copies_to(ZydisBroadcastMode mode)
{
	switch (mode) {
	case ZYDIS_BROADCAST_MODE_1_TO_2:
		return 2;
	case ZYDIS_BROADCAST_MODE_1_TO_4:
	case ZYDIS_BROADCAST_MODE_2_TO_4:
		return 4;
	case ZYDIS_BROADCAST_MODE_1_TO_8:
	case ZYDIS_BROADCAST_MODE_2_TO_8:
	case ZYDIS_BROADCAST_MODE_4_TO_8:
		return 8;
	case ZYDIS_BROADCAST_MODE_1_TO_16:
	case ZYDIS_BROADCAST_MODE_2_TO_16:
	case ZYDIS_BROADCAST_MODE_4_TO_16:
	case ZYDIS_BROADCAST_MODE_8_TO_16:
		return 16;
	case ZYDIS_BROADCAST_MODE_1_TO_32:
		return 32;
	case ZYDIS_BROADCAST_MODE_1_TO_64:
		return 64;
	default:
		return 0;
	}
}

static uint32_t by_opmask(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *mem)
{
	unsigned k = (unsigned)ZydisRegisterGetId(insn->avx.mask.reg);
	unsigned element = mem->element_size / 8u, elements = mem->size / mem->element_size;
	unsigned copies = copies_to(insn->avx.broadcast.mode);

	return MASK_VALID | (never_suppresses(insn) ? MASK_WHOLE : 0) | k << MASK_REG |
	       log2_of(element) << MASK_LOG | (packs(insn->mnemonic) ? MASK_PACK : 0) |
	       log2_of(elements) << MASK_ELEMENTS | MAX(copies, elements) << MASK_BITS;
}

uint32_t stub_mask_traits(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands,
			  const ZydisDecodedOperand *mem)
{
	switch (insn->mnemonic) {
	case ZYDIS_MNEMONIC_VMASKMOVPS:
	case ZYDIS_MNEMONIC_VPMASKMOVD:
		return by_vector(&operands[1], mem, 4);
	case ZYDIS_MNEMONIC_VMASKMOVPD:
	case ZYDIS_MNEMONIC_VPMASKMOVQ:
		return by_vector(&operands[1], mem, 8);
	default:
		break;
	}
	if (insn->encoding != ZYDIS_INSTRUCTION_ENCODING_EVEX ||
	    insn->avx.mask.reg == ZYDIS_REGISTER_NONE || insn->avx.mask.reg == ZYDIS_REGISTER_K0)
		return 0;
	if (never_suppresses(insn) && !(mem->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
		return 0;
	return by_opmask(insn, mem);
}

/* --- which elements --------------------------------------------------------------------- */

static uint64_t low_bits(unsigned n)
{
	return n < 64 ? BIT64(n) - 1 : UINT64_MAX;
}

static unsigned element_bytes(uint32_t t)
{
	return 1u << (t >> MASK_LOG & 7);
}

static uint64_t sign_bits(const struct cpu *c, uint32_t t)
{
	unsigned reg = t >> MASK_REG & 15, bytes = element_bytes(t);
	uint8_t v[64];
	uint64_t m = 0;

	xstate_get_vector(&c->s, reg, v);
	for (unsigned i = 0; i < sizeof(v) / bytes; i++)
		m |= (uint64_t)(v[(i + 1) * bytes - 1] >> 7) << i;
	return m;
}

/* A bit for each element of the operand that is accessed. */
static uint64_t selected(const struct cpu *c, uint32_t t)
{
	unsigned reg = t >> MASK_REG & 15, elements = 1u << (t >> MASK_ELEMENTS & 7);
	uint64_t m = load_u64(c->s.xsave + XSAVE_OPMASK + (reg & 7) * 8u);

	if (t & MASK_KIND)
		m = sign_bits(c, t);
	m &= low_bits(t >> MASK_BITS);
	if (t & MASK_PACK)
		return low_bits((unsigned)__builtin_popcountll(m));
	for (unsigned bits = t >> MASK_BITS; bits > elements; bits /= 2)
		m |= m >> bits / 2;
	return m & low_bits(elements);
}

bool stub_mask_any(const struct cpu *c, const struct op *o)
{
	return selected(c, (uint32_t)(o->imm >> 32));
}

/* --- accessing them ------------------------------------------------------------------------- */

/* Calls for each run of bytes that is accessed at once. */
typedef bool element_fn(struct cpu *c, uint64_t gva, void *buf, unsigned bytes);

static bool load_element(struct cpu *c, uint64_t gva, void *buf, unsigned bytes)
{
	return mmu_read_slow(c, gva, buf, bytes);
}

static bool probe_element(struct cpu *c, uint64_t gva, void *buf, unsigned bytes)
{
	return stub_writable(c, gva, bytes);
}

static bool store_element(struct cpu *c, uint64_t gva, void *buf, unsigned bytes)
{
	return mmu_write_slow(c, gva, buf, bytes);
}

static bool each_element(struct cpu *c, const struct op *o, enum mmu_access access, uint8_t *buf,
			 element_fn *fn)
{
	uint32_t t = (uint32_t)(o->imm >> 32);
	uint64_t ea = op_ea(c, o), gva;
	unsigned bytes = element_bytes(t);

	op_note(c, o);
	for (uint64_t m = selected(c, t); m; m &= m - 1) {
		unsigned at = (unsigned)__builtin_ctzll(m) * bytes;

		if (!mmu_linear(c, o->seg, ea + at, bytes, access, &gva) ||
		    !fn(c, gva, buf + at, bytes))
			return false;
	}
	return true;
}

bool stub_mask_load(struct cpu *c, const struct op *o, void *buf)
{
	return each_element(c, o, MMU_READ, buf, load_element);
}

static bool whole_writable(struct cpu *c, const struct op *o)
{
	uint64_t gva;

	return op_linear(c, o, o->size, MMU_WRITE, &gva) && stub_writable(c, gva, o->size);
}

bool stub_mask_store(struct cpu *c, const struct op *o, const void *buf)
{
	uint8_t copy[64];

	if ((o->imm >> 32 & MASK_WHOLE) && !whole_writable(c, o))
		return false;
	memcpy(copy, buf, o->size);
	return each_element(c, o, MMU_WRITE, copy, probe_element) &&
	       each_element(c, o, MMU_WRITE, copy, store_element);
}
