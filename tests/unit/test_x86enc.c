/*
 * test_x86enc.c - re-encoded instructions, read back by the decoder.
 *
 * Every opcode of every map that decodes is re-encoded with other registers and
 * another memory operand; the result must decode to the same instruction on them.
 */
#include "cpu/x86enc.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

struct decoded {
	uint8_t bytes[32];
	ZydisDecodedInstruction insn;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
};

static ZydisDecoder long_mode, protected_mode;

static bool decode(struct decoded *d, const ZydisDecoder *decoder)
{
	return ZYAN_SUCCESS(ZydisDecoderDecodeFull(decoder, d->bytes, 16, &d->insn, d->op));
}

static int number(const ZydisDecodedOperand *op)
{
	return ZydisRegisterGetId(
		ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, op->reg.value));
}

/* How many registers there are to choose from; 0: these are left alone. */
static unsigned choices(const struct decoded *d, const ZydisDecodedOperand *op)
{
	switch (ZydisRegisterGetClass(op->reg.value)) {
	case ZYDIS_REGCLASS_GPR16:
	case ZYDIS_REGCLASS_GPR32:
	case ZYDIS_REGCLASS_GPR64:
		return 16;
	case ZYDIS_REGCLASS_XMM:
	case ZYDIS_REGCLASS_YMM:
	case ZYDIS_REGCLASS_ZMM:
		return d->insn.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX ? 32 : 16;
	default:
		return 0;
	}
}

static const ZydisDecodedOperand *operand(const struct decoded *d, ZydisOperandEncoding encoding)
{
	for (unsigned i = 0; i < d->insn.operand_count; i++)
		if (d->op[i].encoding == encoding && d->op[i].type == ZYDIS_OPERAND_TYPE_REGISTER)
			return &d->op[i];
	return NULL;
}

/* AH, CH, DH or BH: a REX prefix would make it another register. */
static bool has_high_byte(const struct decoded *d)
{
	for (unsigned i = 0; i < d->insn.operand_count; i++)
		if (d->op[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    d->op[i].reg.value >= ZYDIS_REGISTER_AH &&
		    d->op[i].reg.value <= ZYDIS_REGISTER_BH)
			return true;
	return false;
}

static uint8_t pick(const struct decoded *d, ZydisOperandEncoding encoding)
{
	const ZydisDecodedOperand *op = operand(d, encoding);
	unsigned n = op ? choices(d, op) : 0;

	if (has_high_byte(d))
		n = MIN(n, 8u);
	if (!n)
		return X86ENC_KEEP;
	return (uint8_t)((unsigned)rand() % n);
}

static const ZydisDecodedOperand *memory(const struct decoded *d)
{
	for (unsigned i = 0; i < d->insn.operand_count; i++)
		if (d->op[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
		    d->op[i].encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM)
			return &d->op[i];
	return NULL;
}

static void check_register(const struct decoded *was, const struct decoded *is,
			   ZydisOperandEncoding encoding, uint8_t wanted)
{
	const ZydisDecodedOperand *a = operand(was, encoding), *b = operand(is, encoding);

	assert_int_equal(!a, !b);
	if (!a)
		return;
	assert_int_equal(ZydisRegisterGetClass(a->reg.value), ZydisRegisterGetClass(b->reg.value));
	assert_int_equal(number(b), wanted == X86ENC_KEEP ? number(a) : wanted);
}

static void check_memory(const struct decoded *was, const struct decoded *is,
			 const struct x86enc *e)
{
	const ZydisDecodedOperand *a = memory(was), *b = memory(is);

	assert_int_equal(!a, !b);
	if (!a)
		return;
	assert_int_equal(a->size, b->size);
	assert_int_equal(ZydisRegisterGetClass(b->mem.base), ZYDIS_REGCLASS_GPR64);
	assert_int_equal(ZydisRegisterGetId(b->mem.base), e->base);
	assert_int_equal(b->mem.index, ZYDIS_REGISTER_NONE);
	if (!e->has_disp)
		assert_int_equal(b->mem.disp.value, 0);
	else if (is->insn.encoding != ZYDIS_INSTRUCTION_ENCODING_EVEX)
		assert_int_equal(b->mem.disp.value, e->disp);
}

static void check_immediates(const struct decoded *was, const struct decoded *is)
{
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(was->insn.raw.imm[i].size, is->insn.raw.imm[i].size);
		assert_int_equal(was->insn.raw.imm[i].value.u, is->insn.raw.imm[i].value.u);
	}
}

static const struct x86enc keep = { .reg = X86ENC_KEEP, .rm = X86ENC_KEEP, .vvvv = X86ENC_KEEP };

static void reencode(const struct decoded *was, const struct x86enc *e, struct decoded *is)
{
	memset(is->bytes, 0xcc, sizeof(is->bytes));
	assert_in_range(x86enc(is->bytes, &was->insn, was->bytes, e), 1, X86ENC_MAX);
	assert_true(decode(is, &long_mode));
	assert_int_equal(was->insn.mnemonic, is->insn.mnemonic);
	assert_int_equal(was->insn.operand_count, is->insn.operand_count);
}

static void check_one(const struct decoded *was)
{
	struct x86enc e = keep;
	struct decoded is;

	e.reg = pick(was, ZYDIS_OPERAND_ENCODING_MODRM_REG);
	e.rm = pick(was, ZYDIS_OPERAND_ENCODING_MODRM_RM);
	e.vvvv = pick(was, ZYDIS_OPERAND_ENCODING_NDSNDD);
	e.base = (uint8_t)(rand() % (has_high_byte(was) ? 8 : 16));
	e.has_disp = rand() % 2;
	e.disp = (int8_t)rand();

	reencode(was, &e, &is);
	check_register(was, &is, ZYDIS_OPERAND_ENCODING_MODRM_REG, e.reg);
	check_register(was, &is, ZYDIS_OPERAND_ENCODING_MODRM_RM, e.rm);
	check_register(was, &is, ZYDIS_OPERAND_ENCODING_NDSNDD, e.vvvv);
	check_memory(was, &is, &e);
	check_immediates(was, &is);
	if (was->insn.machine_mode == ZYDIS_MACHINE_MODE_LONG_64)
		assert_int_equal(was->insn.operand_width, is.insn.operand_width);
	assert_int_equal(was->insn.avx.mask.reg, is.insn.avx.mask.reg);
	assert_int_equal(was->insn.avx.vector_length, is.insn.avx.vector_length);
	assert_int_equal(is.insn.attributes & ZYDIS_ATTRIB_HAS_SEGMENT, 0);
	assert_int_equal(is.insn.attributes & ZYDIS_ATTRIB_HAS_ADDRESSSIZE, 0);
}

static bool names_class(const struct decoded *d, ZydisRegisterClass k)
{
	for (unsigned i = 0; i < d->insn.operand_count; i++)
		if (d->op[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    ZydisRegisterGetClass(d->op[i].reg.value) == k)
			return true;
	return false;
}

/* A register as wide as addresses are, a SIB byte that must be, no operands at all. */
static bool is_peculiar(const struct decoded *d)
{
	switch (d->insn.mnemonic) {
	case ZYDIS_MNEMONIC_ENQCMD:
	case ZYDIS_MNEMONIC_ENQCMDS:
	case ZYDIS_MNEMONIC_MOVDIR64B:
	case ZYDIS_MNEMONIC_NOP:
		return true;
	default:
		return d->insn.meta.isa_set == ZYDIS_ISA_SET_AMX_TILE;
	}
}

/*
 * What cannot be told to use another memory operand, ignores part of ModRM, means
 * something else in 64-bit mode, or is none of our encodings.
 */
static bool reencodable(const struct decoded *d)
{
	if (d->insn.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
	    d->insn.encoding != ZYDIS_INSTRUCTION_ENCODING_VEX &&
	    d->insn.encoding != ZYDIS_INSTRUCTION_ENCODING_EVEX)
		return false;
	if (!(d->insn.attributes & ZYDIS_ATTRIB_HAS_MODRM) ||
	    names_class(d, ZYDIS_REGCLASS_CONTROL) || names_class(d, ZYDIS_REGCLASS_DEBUG))
		return false;
	if (is_peculiar(d))
		return false;
	/* W is a width in 64-bit mode only. */
	if (d->insn.machine_mode != ZYDIS_MACHINE_MODE_LONG_64 &&
	    (names_class(d, ZYDIS_REGCLASS_GPR32) || d->insn.mnemonic == ZYDIS_MNEMONIC_VMOVD ||
	     d->insn.mnemonic == ZYDIS_MNEMONIC_VPINSRD ||
	     d->insn.mnemonic == ZYDIS_MNEMONIC_VPEXTRD ||
	     d->insn.meta.category == ZYDIS_CATEGORY_CONVERT))
		return false;
	for (unsigned i = 0; i < d->insn.operand_count; i++)
		if (d->op[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
		    d->op[i].mem.type != ZYDIS_MEMOP_TYPE_MEM)
			return false;
	return true;
}

/* ModRM with its operand: register, or memory of several shapes. */
static unsigned put_operand(uint8_t *p, unsigned reg)
{
	unsigned n = 0, shape = (unsigned)rand() % 4, rm = (unsigned)rand() % 8;

	if (shape == 0) {
		p[n++] = (uint8_t)(0xc0 | reg << 3 | rm);
	} else if (shape == 1) {
		p[n++] = (uint8_t)(0x04 | reg << 3);
		p[n++] = (uint8_t)rand();
	} else {
		p[n++] = (uint8_t)((shape - 1) << 6 | reg << 3 | rm);
		if (rm == 4)
			p[n++] = (uint8_t)rand();
	}
	for (unsigned i = 0; i < 8; i++)
		p[n++] = (uint8_t)rand();
	return n;
}

static unsigned put_legacy(uint8_t *p, unsigned map, unsigned opcode, bool rex)
{
	static const uint8_t prefixes[] = { 0, 0, 0x66, 0xf3, 0xf2, 0x64, 0x67 };
	unsigned n = 0;

	for (unsigned i = 0; i < 2; i++) {
		uint8_t prefix = prefixes[(unsigned)rand() % sizeof(prefixes)];

		if (prefix)
			p[n++] = prefix;
	}
	if (rex)
		p[n++] = (uint8_t)(0x40 | rand() % 16);
	if (map)
		p[n++] = 0x0f;
	if (map > 1)
		p[n++] = map == 2 ? 0x38 : 0x3a;
	p[n++] = (uint8_t)opcode;
	return n;
}

static unsigned put_vex(uint8_t *p, unsigned map, unsigned opcode)
{
	unsigned n = 0;

	if (map == 1 && rand() % 2) {
		p[n++] = 0xc5;
	} else {
		p[n++] = 0xc4;
		p[n++] = (uint8_t)((rand() & 0xe0) | (int)map);
	}
	p[n++] = (uint8_t)(rand() | (rand() % 2 ? 0x78 : 0));
	p[n++] = (uint8_t)opcode;
	return n;
}

static unsigned put_evex(uint8_t *p, unsigned map, unsigned opcode)
{
	p[0] = 0x62;
	p[1] = (uint8_t)((rand() & 0xf0) | (int)map);
	p[2] = (uint8_t)(rand() | 4 | (rand() % 2 ? 0x78 : 0));
	p[3] = (uint8_t)(rand() & (rand() % 2 ? 0xff : 0x6f));
	p[4] = (uint8_t)opcode;
	return 5;
}

enum { TRIES = 24 };

static unsigned check_encoding(unsigned encoding, const ZydisDecoder *decoder)
{
	unsigned seen = 0;

	for (unsigned i = 0; i < 4 * 256 * TRIES; i++) {
		unsigned opcode = i & 255, map = i >> 8 & 3, n;
		struct decoded d;

		if (encoding && !map)
			continue;
		if (encoding == 0)
			n = put_legacy(d.bytes, map, opcode, decoder == &long_mode && rand() % 2);
		else if (encoding == 1)
			n = put_vex(d.bytes, map, opcode);
		else
			n = put_evex(d.bytes, map, opcode);
		put_operand(d.bytes + n, (unsigned)rand() % 8);
		if (decode(&d, decoder) && reencodable(&d)) {
			check_one(&d);
			seen++;
		}
	}
	return seen;
}

static void test_legacy(void **state)
{
	assert_true(check_encoding(0, &long_mode) > 4000);
}

static void test_vex(void **state)
{
	assert_true(check_encoding(1, &long_mode) > 1000);
}

static void test_evex(void **state)
{
	assert_true(check_encoding(2, &long_mode) > 500);
}

/* Vector instructions of 32-bit code mean the same when re-encoded for 64-bit mode. */
static void test_from_protected_mode(void **state)
{
	assert_true(check_encoding(1, &protected_mode) > 300);
	assert_true(check_encoding(2, &protected_mode) > 100);
}

static void load(struct decoded *d, const char *bytes, unsigned n, const ZydisDecoder *decoder)
{
	memset(d->bytes, 0, sizeof(d->bytes));
	memcpy(d->bytes, bytes, n);
	assert_true(decode(d, decoder));
}

static void test_operand_size(void **state)
{
	struct x86enc e = keep;
	struct decoded d, is;
	ZydisDecoder real_mode;

	/* popcnt of 16 bits needs 66 in 64-bit mode, and of 32 bits needs none. */
	ZydisDecoderInit(&real_mode, ZYDIS_MACHINE_MODE_REAL_16, ZYDIS_STACK_WIDTH_16);
	load(&d, "\xf3\x0f\xb8\xc1", 4, &real_mode);
	e.opsize = X86ENC_OPSIZE_16;
	reencode(&d, &e, &is);
	assert_int_equal(is.insn.operand_width, 16);
	load(&d, "\x66\xf3\x0f\xb8\xc1", 5, &real_mode);
	e.opsize = X86ENC_OPSIZE_32;
	reencode(&d, &e, &is);
	assert_int_equal(is.insn.operand_width, 32);

	/* Where 66 is part of the opcode it stays: addpd. */
	load(&d, "\x66\x0f\x58\xc1", 4, &real_mode);
	reencode(&d, &e, &is);
}

static void test_clear_w(void **state)
{
	struct x86enc e = keep;
	struct decoded d, is;

	e.clear_w = true;
	load(&d, "\xc4\xe2\xf0\xf2\xc2", 5, &long_mode); /* andn rax, rcx, rdx */
	reencode(&d, &e, &is);
	assert_int_equal(is.insn.operand_width, 32);
	load(&d, "\xf3\x48\x0f\xb8\xc1", 5, &long_mode); /* popcnt rax, rcx */
	reencode(&d, &e, &is);
	assert_int_equal(is.insn.operand_width, 32);
}

/* Prefixes that do nothing may make it longer than 15 bytes, but not than we promise. */
static void test_idle_prefixes(void **state)
{
	struct x86enc e = keep;
	struct decoded d, is;

	e.base = 12;
	e.has_disp = true;
	e.reg = 9;
	load(&d, "\xf3\xf3\xf3\xf3\xf3\xf3\xf3\xf3\xf3\x0f\x10\x00", 12, &long_mode);
	assert_in_range(x86enc(is.bytes, &d.insn, d.bytes, &e), 1, X86ENC_MAX);
}

static int setup(void **state)
{
	srand(1);
	ZydisDecoderInit(&long_mode, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	ZydisDecoderInit(&protected_mode, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_legacy),        cmocka_unit_test(test_vex),
		cmocka_unit_test(test_evex),          cmocka_unit_test(test_from_protected_mode),
		cmocka_unit_test(test_operand_size),  cmocka_unit_test(test_clear_w),
		cmocka_unit_test(test_idle_prefixes),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
