/*
 * diff_gen.c - finds instruction forms and makes random cases of them.
 */
#include "diff_gen.h"

#include "boot/cpuid.h"
#include "cpu/xstate.h"

#include <cpuid.h>
#include <stdlib.h>

#define FORMS_MAX 16384
#define KEYS      65536u /* a power of two */

/* --- chance ------------------------------------------------------------------------- */

static uint64_t random_state[2];

void random_seed(uint64_t seed)
{
	random_state[0] = seed * 0x9e3779b97f4a7c15ull + 1;
	random_state[1] = seed ^ 0xd1b54a32d192ed03ull;
}

/* xorshift128+ */
uint64_t random_u64(void)
{
	uint64_t a = random_state[0], b = random_state[1];

	a ^= a << 23;
	random_state[0] = b;
	random_state[1] = a ^ b ^ a >> 17 ^ b >> 26;
	return random_state[1] + b;
}

unsigned random_below(unsigned n)
{
	return (unsigned)(random_u64() % n);
}

static bool one_in(unsigned n)
{
	return !random_below(n);
}

/* --- which forms ---------------------------------------------------------------------- */

/*
 * Left out: what depends on the system (the child's kernel, clock, TLS, LDT),
 * what no two runs do alike, and hints.
 */
static bool is_system(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_ARPL:
	case ZYDIS_MNEMONIC_CLI:
	case ZYDIS_MNEMONIC_CLTS:
	case ZYDIS_MNEMONIC_CPUID:
	case ZYDIS_MNEMONIC_HLT:
	case ZYDIS_MNEMONIC_IN:
	case ZYDIS_MNEMONIC_INSB:
	case ZYDIS_MNEMONIC_INSD:
	case ZYDIS_MNEMONIC_INSW:
	case ZYDIS_MNEMONIC_INT:
	case ZYDIS_MNEMONIC_INT1:
	case ZYDIS_MNEMONIC_INT3:
	case ZYDIS_MNEMONIC_INVD:
	case ZYDIS_MNEMONIC_INVLPG:
	case ZYDIS_MNEMONIC_IRET:
	case ZYDIS_MNEMONIC_IRETD:
	case ZYDIS_MNEMONIC_IRETQ:
	case ZYDIS_MNEMONIC_LAR:
	case ZYDIS_MNEMONIC_LFS:
	case ZYDIS_MNEMONIC_LGDT:
	case ZYDIS_MNEMONIC_LGS:
	case ZYDIS_MNEMONIC_LIDT:
	case ZYDIS_MNEMONIC_LLDT:
	case ZYDIS_MNEMONIC_LMSW:
	case ZYDIS_MNEMONIC_LSL:
	case ZYDIS_MNEMONIC_LSS:
	case ZYDIS_MNEMONIC_LTR:
	case ZYDIS_MNEMONIC_OUT:
	case ZYDIS_MNEMONIC_OUTSB:
	case ZYDIS_MNEMONIC_OUTSD:
	case ZYDIS_MNEMONIC_OUTSW:
	case ZYDIS_MNEMONIC_RDMSR:
	case ZYDIS_MNEMONIC_RDPMC:
	case ZYDIS_MNEMONIC_RDTSC:
	case ZYDIS_MNEMONIC_RSM:
	case ZYDIS_MNEMONIC_SGDT:
	case ZYDIS_MNEMONIC_SIDT:
	case ZYDIS_MNEMONIC_SLDT:
	case ZYDIS_MNEMONIC_SMSW:
	case ZYDIS_MNEMONIC_STI:
	case ZYDIS_MNEMONIC_STR:
	case ZYDIS_MNEMONIC_SWAPGS:
	case ZYDIS_MNEMONIC_SYSCALL:
	case ZYDIS_MNEMONIC_SYSENTER:
	case ZYDIS_MNEMONIC_SYSEXIT:
	case ZYDIS_MNEMONIC_SYSRET:
	case ZYDIS_MNEMONIC_UD0:
	case ZYDIS_MNEMONIC_UD1:
	case ZYDIS_MNEMONIC_VERR:
	case ZYDIS_MNEMONIC_VERW:
	case ZYDIS_MNEMONIC_WBINVD:
	case ZYDIS_MNEMONIC_WRMSR:
	case ZYDIS_MNEMONIC_XGETBV:
	case ZYDIS_MNEMONIC_XSETBV:
		return true;
	default:
		return false;
	}
}

/* The feature that an ISA set belongs to; CPU_FEATURE_COUNT: not offered. */
static enum cpu_feature feature_of(ZydisISASet set)
{
	switch (set) {
	case ZYDIS_ISA_SET_I86:
	case ZYDIS_ISA_SET_I186:
	case ZYDIS_ISA_SET_I286PROTECTED:
	case ZYDIS_ISA_SET_I286REAL:
	case ZYDIS_ISA_SET_I386:
	case ZYDIS_ISA_SET_I486:
	case ZYDIS_ISA_SET_I486REAL:
	case ZYDIS_ISA_SET_PENTIUMREAL:
	case ZYDIS_ISA_SET_PPRO:
	case ZYDIS_ISA_SET_FAT_NOP:
	case ZYDIS_ISA_SET_LONGMODE:
	case ZYDIS_ISA_SET_PAUSE:
	case ZYDIS_ISA_SET_X87:
	case ZYDIS_ISA_SET_FCMOV:
		return CPU_FPU;
	case ZYDIS_ISA_SET_CMOV:
		return CPU_CMOV;
	case ZYDIS_ISA_SET_PENTIUMMMX:
		return CPU_MMX;
	case ZYDIS_ISA_SET_FXSAVE:
	case ZYDIS_ISA_SET_FXSAVE64:
		return CPU_FXSR;
	case ZYDIS_ISA_SET_SSE:
	case ZYDIS_ISA_SET_SSEMXCSR:
	case ZYDIS_ISA_SET_SSE_PREFETCH:
		return CPU_SSE;
	case ZYDIS_ISA_SET_SSE2:
	case ZYDIS_ISA_SET_SSE2MMX:
		return CPU_SSE2;
	case ZYDIS_ISA_SET_SSE3:
	case ZYDIS_ISA_SET_SSE3X87:
		return CPU_SSE3;
	case ZYDIS_ISA_SET_SSSE3:
	case ZYDIS_ISA_SET_SSSE3MMX:
		return CPU_SSSE3;
	case ZYDIS_ISA_SET_SSE4:
		return CPU_SSE4_1;
	case ZYDIS_ISA_SET_SSE42:
		return CPU_SSE4_2;
	case ZYDIS_ISA_SET_POPCNT:
		return CPU_POPCNT;
	case ZYDIS_ISA_SET_LAHF:
		return CPU_LAHF_LM;
	case ZYDIS_ISA_SET_CMPXCHG16B:
		return CPU_CX16;
	case ZYDIS_ISA_SET_AES:
		return CPU_AES;
	case ZYDIS_ISA_SET_PCLMULQDQ:
		return CPU_PCLMULQDQ;
	case ZYDIS_ISA_SET_SHA:
		return CPU_SHA_NI;
	case ZYDIS_ISA_SET_ADOX_ADCX:
		return CPU_ADX;
	case ZYDIS_ISA_SET_BMI1:
		return CPU_BMI1;
	case ZYDIS_ISA_SET_BMI2:
		return CPU_BMI2;
	case ZYDIS_ISA_SET_LZCNT:
		return CPU_ABM;
	case ZYDIS_ISA_SET_MOVBE:
		return CPU_MOVBE;
	case ZYDIS_ISA_SET_CLFSH:
		return CPU_CLFLUSH;
	case ZYDIS_ISA_SET_XSAVE:
	case ZYDIS_ISA_SET_XSAVEC:
	case ZYDIS_ISA_SET_XSAVEOPT:
		return CPU_XSAVE;
	case ZYDIS_ISA_SET_AVX:
	case ZYDIS_ISA_SET_AVXAES:
		return CPU_AVX;
	case ZYDIS_ISA_SET_AVX2:
	case ZYDIS_ISA_SET_AVX2GATHER:
		return CPU_AVX2;
	case ZYDIS_ISA_SET_F16C:
		return CPU_F16C;
	case ZYDIS_ISA_SET_FMA:
		return CPU_FMA;
	case ZYDIS_ISA_SET_AVX512F_128:
	case ZYDIS_ISA_SET_AVX512F_128N:
	case ZYDIS_ISA_SET_AVX512F_256:
	case ZYDIS_ISA_SET_AVX512F_512:
	case ZYDIS_ISA_SET_AVX512F_KOP:
	case ZYDIS_ISA_SET_AVX512F_SCALAR:
		return CPU_AVX512F;
	case ZYDIS_ISA_SET_AVX512BW_128:
	case ZYDIS_ISA_SET_AVX512BW_128N:
	case ZYDIS_ISA_SET_AVX512BW_256:
	case ZYDIS_ISA_SET_AVX512BW_512:
	case ZYDIS_ISA_SET_AVX512BW_KOP:
		return CPU_AVX512BW;
	case ZYDIS_ISA_SET_AVX512DQ_128:
	case ZYDIS_ISA_SET_AVX512DQ_128N:
	case ZYDIS_ISA_SET_AVX512DQ_256:
	case ZYDIS_ISA_SET_AVX512DQ_512:
	case ZYDIS_ISA_SET_AVX512DQ_KOP:
	case ZYDIS_ISA_SET_AVX512DQ_SCALAR:
		return CPU_AVX512DQ;
	case ZYDIS_ISA_SET_AVX512CD_128:
	case ZYDIS_ISA_SET_AVX512CD_256:
	case ZYDIS_ISA_SET_AVX512CD_512:
		return CPU_AVX512CD;
	default:
		return CPU_FEATURE_COUNT;
	}
}

/* CPUID leaf 0xD, subleaf 1; we offer them wherever we offer XSAVE. */
static bool host_has_xsave_variant(ZydisISASet set)
{
	uint32_t eax, ebx, ecx, edx;

	if (!__get_cpuid_count(0xd, 1, &eax, &ebx, &ecx, &edx))
		return false;
	return eax & (set == ZYDIS_ISA_SET_XSAVEOPT ? BIT(0) : BIT(1));
}

static bool host_has(ZydisISASet set)
{
	static struct cpu_features has;
	enum cpu_feature f = feature_of(set);

	if (!has.word[0])
		cpuid_host_features(&has);
	if ((set == ZYDIS_ISA_SET_XSAVEC || set == ZYDIS_ISA_SET_XSAVEOPT) &&
	    !host_has_xsave_variant(set))
		return false;
	return f < CPU_FEATURE_COUNT && (has.word[f / 64] & BIT64(f % 64));
}

/* State the child cannot be given: the feature's bits of XCR0. */
static bool state_known(const ZydisDecodedInstruction *insn)
{
	uint64_t xcr0 = diff_xcr0();

	if (insn->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX ||
	    insn->meta.isa_ext == ZYDIS_ISA_EXT_AVX512VEX)
		return xcr0 & XCR0_OPMASK;
	return insn->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX || (xcr0 & XCR0_AVX);
}

static bool segment_operand(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *op)
{
	for (unsigned i = 0; i < insn->operand_count; i++) {
		if (op[i].type == ZYDIS_OPERAND_TYPE_POINTER)
			return true;
		if (op[i].type != ZYDIS_OPERAND_TYPE_REGISTER)
			continue;
		switch (ZydisRegisterGetClass(op[i].reg.value)) {
		case ZYDIS_REGCLASS_SEGMENT:
		case ZYDIS_REGCLASS_CONTROL:
		case ZYDIS_REGCLASS_DEBUG:
		case ZYDIS_REGCLASS_TEST:
		case ZYDIS_REGCLASS_BOUND:
		case ZYDIS_REGCLASS_TMM:
			return true;
		default:
			break;
		}
	}
	return insn->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR;
}

static bool wanted(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *op)
{
	return !is_system(insn->mnemonic) && host_has(insn->meta.isa_set) && state_known(insn) &&
	       !segment_operand(insn, op);
}

/* --- encoding ---------------------------------------------------------------------------- */

/* What a case chooses within a form. */
struct choice {
	uint8_t reg, rm, vvvv, base, index, scale; /* 4 bits, EVEX registers 5 */
	uint8_t mode;                              /* enum addressing */
	int32_t disp;
	uint8_t mask;
	bool zeroing;
	uint8_t segment; /* prefix byte, or 0 */
	bool addr32;
	uint64_t imm;
};

enum addressing {
	ADDR_BASE,
	ADDR_BASE8,
	ADDR_BASE32,
	ADDR_INDEX,
	ADDR_RIP,
	ADDR_ABS,
	ADDR_INDEX_ONLY,
	ADDR_MODES
};

/* The displacement alone is the address, as far as we choose it. */
static bool is_absolute(const struct choice *k)
{
	return k->mode == ADDR_ABS || k->mode == ADDR_INDEX_ONLY;
}

struct writer {
	uint8_t buf[32];
	unsigned n;
};

static void put(struct writer *w, unsigned byte)
{
	w->buf[w->n++] = (uint8_t)byte;
}

static void put_i32(struct writer *w, int32_t v)
{
	memcpy(w->buf + w->n, &v, 4);
	w->n += 4;
}

static void put_memory(struct writer *w, unsigned field, const struct choice *k)
{
	unsigned base = k->base & 7;
	bool sib = base == 4 || k->mode == ADDR_INDEX || is_absolute(k);
	unsigned mod = 0;

	if (k->mode == ADDR_BASE32)
		mod = 2;
	else if (k->mode == ADDR_BASE8 || k->mode == ADDR_INDEX ||
		 (k->mode == ADDR_BASE && base == 5))
		mod = 1;
	if (k->mode == ADDR_RIP) {
		put(w, field | 5);
		put_i32(w, k->disp);
		return;
	}
	put(w, mod << 6 | field | (sib ? 4 : base));
	if (k->mode == ADDR_ABS)
		put(w, 0x25);
	else if (k->mode == ADDR_INDEX_ONLY)
		put(w, (unsigned)k->scale << 6 | (k->index & 7u) << 3 | 5);
	else if (k->mode == ADDR_INDEX)
		put(w, (unsigned)k->scale << 6 | (k->index & 7u) << 3 | base);
	else if (sib)
		put(w, 0x20 | base);
	if (mod == 1)
		put(w, (uint8_t)k->disp);
	else if (mod == 2 || is_absolute(k))
		put_i32(w, k->disp);
}

static void put_modrm(struct writer *w, const struct form *f, const struct choice *k)
{
	unsigned field = (k->reg & 7u) << 3;

	put(w, f->opcode);
	if (f->memory)
		put_memory(w, field, k);
	else
		put(w, 0xc0 | field | (k->rm & 7u));
	/* Bytes for whatever immediate there may be. */
	memcpy(w->buf + w->n, &k->imm, 8);
	w->n += 8;
}

/* Extension bits: 1 for numbers 8 and up. */
static unsigned ext_b(const struct form *f, const struct choice *k)
{
	if (!f->memory)
		return k->rm >> 3 & 1;
	return k->mode == ADDR_RIP || k->mode == ADDR_ABS ? 0 : k->base >> 3 & 1;
}

static unsigned ext_x(const struct form *f, const struct choice *k)
{
	if (!f->memory)
		return k->rm >> 4 & 1;
	return k->mode == ADDR_INDEX || k->mode == ADDR_INDEX_ONLY ? k->index >> 3 & 1 : 0;
}

static void put_legacy(struct writer *w, const struct form *f, const struct choice *k)
{
	static const uint8_t prefix[7][2] = {
		{ 0 }, { 0x66 }, { 0xf3 }, { 0xf2 }, { 0xf0 }, { 0x66, 0xf3 }, { 0x66, 0xf2 },
	};
	unsigned rex = (f->w ? 8 : 0) | (k->reg >> 3 & 1) << 2 | ext_x(f, k) << 1 | ext_b(f, k);

	for (unsigned i = 0; i < 2; i++)
		if (prefix[f->prefix][i])
			put(w, prefix[f->prefix][i]);
	if (rex || (k->reg & 0x10))
		put(w, 0x40 | rex);
	if (f->map)
		put(w, 0x0f);
	if (f->map >= 2)
		put(w, f->map == 2 ? 0x38 : 0x3a);
	put_modrm(w, f, k);
}

static void put_vex(struct writer *w, const struct form *f, const struct choice *k)
{
	unsigned last = (~k->vvvv & 15u) << 3 | (f->l & 1u) << 2 | f->prefix;
	bool r = k->reg & 8, x = ext_x(f, k), b = ext_b(f, k);

	if (f->map == 1 && !f->w && !x && !b) {
		put(w, 0xc5);
		put(w, (r ? 0 : 0x80u) | last);
	} else {
		put(w, 0xc4);
		put(w, (r ? 0 : 0x80u) | (x ? 0 : 0x40u) | (b ? 0 : 0x20u) | f->map);
		put(w, (f->w ? 0x80u : 0) | last);
	}
	put_modrm(w, f, k);
}

static void put_evex(struct writer *w, const struct form *f, const struct choice *k)
{
	unsigned p0 = f->map, p2 = k->mask;

	p0 |= (k->reg & 8 ? 0 : 0x80u) | (k->reg & 16 ? 0 : 0x10u);
	p0 |= (ext_x(f, k) ? 0 : 0x40u) | (ext_b(f, k) ? 0 : 0x20u);
	p2 |= (k->zeroing ? 0x80u : 0) | (f->l & 3u) << 5 | (f->l & 4 ? 0x10u : 0) |
	      (k->vvvv & 16 ? 0 : 8u);
	put(w, 0x62);
	put(w, p0);
	put(w, (f->w ? 0x80u : 0) | (~k->vvvv & 15u) << 3 | 4 | f->prefix);
	put(w, p2);
	put_modrm(w, f, k);
}

struct decoded {
	ZydisDecodedInstruction insn;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
};

static bool decode(const struct writer *w, struct decoded *d)
{
	static ZydisDecoder decoder;

	if (!decoder.stack_width)
		ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, w->buf, w->n, &d->insn, d->op)) &&
	       wanted(&d->insn, d->op);
}

static bool encode(struct writer *w, const struct form *f, const struct choice *k,
		   struct decoded *d)
{
	w->n = 0;
	if (k->segment)
		put(w, k->segment);
	if (k->addr32)
		put(w, 0x67);
	if (f->encoding == FORM_LEGACY)
		put_legacy(w, f, k);
	else if (f->encoding == FORM_VEX)
		put_vex(w, f, k);
	else
		put_evex(w, f, k);
	return decode(w, d);
}

/* Mnemonic, operand kinds and sizes, and prefixes that matter, in a number. */
static uint64_t key_of(const struct decoded *d)
{
	const uint64_t attributes = ZYDIS_ATTRIB_HAS_LOCK | ZYDIS_ATTRIB_HAS_REP |
				    ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE;
	uint64_t h = d->insn.mnemonic;

	h = h * 31 + (d->insn.attributes & attributes) % 0xfffffffbu;
	h = h * 31 + d->insn.encoding;
	h = h * 31 + d->insn.avx.broadcast.mode;
	h = h * 31 + d->insn.avx.rounding.mode;
	h = h * 31 + d->insn.avx.has_sae;
	for (unsigned i = 0; i < d->insn.operand_count; i++) {
		const ZydisDecodedOperand *op = &d->op[i];

		h = h * 0x9e3779b97f4a7c15ull + op->type * 4096u + op->size;
		h = h * 31 + op->encoding;
		if (op->type == ZYDIS_OPERAND_TYPE_REGISTER)
			h = h * 31 + ZydisRegisterGetClass(op->reg.value);
		h ^= h >> 29;
	}
	return h;
}

/* --- finding forms --------------------------------------------------------------------------- */

/* Whether the key is new; then it no longer is. */
static bool add_key(struct form_list *l, uint64_t key)
{
	unsigned i = (unsigned)(key ^ key >> 32);

	for (; l->keys[i & (KEYS - 1)]; i++)
		if (l->keys[i & (KEYS - 1)] == key)
			return false;
	l->keys[i & (KEYS - 1)] = key;
	return true;
}

static bool names_register_in_opcode(const struct decoded *d)
{
	for (unsigned i = 0; i < d->insn.operand_count; i++)
		if (d->op[i].encoding == ZYDIS_OPERAND_ENCODING_OPCODE)
			return true;
	return false;
}

static bool uses_reg(const struct decoded *d)
{
	for (unsigned i = 0; i < d->insn.operand_count; i++)
		if (d->op[i].encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG)
			return true;
	return !(d->insn.attributes & ZYDIS_ATTRIB_HAS_MODRM);
}

/* Some want a mask, some want none, and some a vector for an index. */
static bool encode_canonically(struct writer *w, const struct form *f, struct choice *k,
			       struct decoded *d)
{
	k->mask = f->encoding == FORM_EVEX;
	if (encode(w, f, k, d))
		return true;
	if (f->encoding == FORM_LEGACY)
		return false;
	if (f->memory) {
		k->mode = ADDR_INDEX;
		if (encode(w, f, k, d))
			return true;
		k->mode = ADDR_BASE;
	}
	k->mask = 0;
	return f->encoding == FORM_EVEX && encode(w, f, k, d);
}

/* True when ModRM.reg is just an operand, or absent: other numbers are the same form. */
static bool consider(struct form_list *l, struct form *f, uint8_t vvvv, const char *only)
{
	struct choice k = {
		.reg = f->reg, .rm = f->rm, .vvvv = vvvv, .base = RBX, .index = RSI, .imm = 0x11
	};
	struct writer w;
	struct decoded d;

	if (!encode_canonically(&w, f, &k, &d))
		return false;
	if (only && strcmp(only, ZydisMnemonicGetString(d.insn.mnemonic)))
		return false;
	f->mnemonic = d.insn.mnemonic;
	f->key = key_of(&d);
	f->vvvv = vvvv;
	f->mask = k.mask;
	f->vsib = k.mode == ADDR_INDEX;
	f->opcode_reg = names_register_in_opcode(&d);
	if (l->nr_forms < FORMS_MAX && add_key(l, f->key))
		l->form[l->nr_forms++] = *f;
	return uses_reg(&d);
}

static bool consider_vvvv(struct form_list *l, struct form *f, const char *only)
{
	bool all = consider(l, f, 0, only);

	if (f->encoding != FORM_LEGACY)
		all |= consider(l, f, 2, only);
	return all;
}

/* Prefixes and escapes: what follows is not ModRM. */
static bool is_prefix(const struct form *f)
{
	if (f->map)
		return f->map == 1 && (f->opcode == 0x38 || f->opcode == 0x3a);
	switch (f->opcode) {
	case 0x0f:
	case 0x26:
	case 0x2e:
	case 0x36:
	case 0x3e:
	case 0x62:
	case 0xc4:
	case 0xc5:
	case 0xf0:
	case 0xf2:
	case 0xf3:
		return true;
	default:
		return (f->opcode >= 0x40 && f->opcode < 0x50) ||
		       (f->opcode >= 0x64 && f->opcode < 0x68);
	}
}

static void find_opcode(struct form_list *l, struct form f, const char *only)
{
	/* Groups and the x87 make something of ModRM. */
	unsigned nr_rm = f.encoding == FORM_LEGACY && f.map < 2 ? 8 : 1;

	f.memory = true;
	for (f.reg = 0; f.reg < 8; f.reg++)
		if (consider_vvvv(l, &f, only))
			break;
	f.memory = false;
	for (f.reg = 0; f.reg < 8; f.reg++)
		for (f.rm = 0; f.rm < nr_rm; f.rm++)
			if (consider_vvvv(l, &f, only))
				return;
}

void forms_find(struct form_list *l, const char *only)
{
	static const struct {
		uint8_t encoding, first_map, maps, prefixes, ls;
	} space[] = {
		{ FORM_LEGACY, 0, 4, 7, 1 },
		{ FORM_VEX, 1, 3, 4, 2 },
		{ FORM_EVEX, 1, 3, 4, 7 },
	};

	l->form = calloc(FORMS_MAX, sizeof(*l->form));
	l->keys = calloc(KEYS, sizeof(*l->keys));
	l->nr_forms = 0;
	for (unsigned s = 0; l->form && l->keys && s < ARRAY_SIZE(space); s++) {
		unsigned n = space[s].maps * space[s].prefixes * space[s].ls * 2u * 256u;

		for (unsigned i = 0; i < n; i++) {
			struct form f = { .encoding = space[s].encoding };
			unsigned v = i;

			f.opcode = (uint8_t)v;
			v /= 256;
			f.w = v % 2;
			v /= 2;
			f.l = (uint8_t)(v % space[s].ls);
			v /= space[s].ls;
			f.prefix = (uint8_t)(v % space[s].prefixes);
			f.map = (uint8_t)(space[s].first_map + v / space[s].prefixes);
			if (f.encoding != FORM_LEGACY || !is_prefix(&f))
				find_opcode(l, f, only);
		}
	}
}

void forms_free(struct form_list *l)
{
	free(l->form);
	free(l->keys);
}

/* --- values -------------------------------------------------------------------------------------
 */

static uint64_t corner(void)
{
	static const uint64_t value[] = {
		0,
		1,
		2,
		0x7f,
		0x80,
		0xff,
		0x7fff,
		0x8000,
		0xffff,
		0x7fffffff,
		0x80000000,
		0xffffffff,
		0xffffffff80000000,
		0x7fffffffffffffff,
		0x8000000000000000,
		0xffffffffffffffff,
	};

	return value[random_below(ARRAY_SIZE(value))];
}

static uint32_t random_float(void)
{
	static const uint32_t value[] = {
		0,          0x80000000, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000,
		0x7fc00000, 0x7f800001, 0x00000001, 0x007fffff, 0x00800000, 0x7f7fffff,
		0x4f000000, 0xcf000000, 0x3f000000, 0x40490fdb,
	};

	if (one_in(2))
		return value[random_below(ARRAY_SIZE(value))];
	return (uint32_t)(random_u64() & 0x807fffff) | (100 + random_below(56)) << 23;
}

static uint64_t random_double(void)
{
	static const uint64_t value[] = {
		0,
		0x8000000000000000,
		0x3ff0000000000000,
		0xbff0000000000000,
		0x7ff0000000000000,
		0xfff0000000000000,
		0x7ff8000000000000,
		0x7ff0000000000001,
		0x0000000000000001,
		0x000fffffffffffff,
		0x0010000000000000,
		0x7fefffffffffffff,
		0x41e0000000000000,
		0xc3e0000000000000,
		0x3fe0000000000000,
		0x400921fb54442d18,
	};

	if (one_in(2))
		return value[random_below(ARRAY_SIZE(value))];
	return (random_u64() & 0x800fffffffffffff) | (uint64_t)(1000 + random_below(48)) << 52;
}

/* Eight bytes that some kind of instruction finds interesting. */
static uint64_t random_value(void)
{
	switch (random_below(6)) {
	case 0:
		return corner();
	case 1:
		return random_below(256);
	case 2:
		return random_float() | (uint64_t)random_float() << 32;
	case 3:
		return random_double();
	default:
		return random_u64();
	}
}

static void random_bytes(uint8_t *p, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i += 8) {
		uint64_t v = random_value();

		memcpy(p + i, &v, MIN(8u, bytes - i));
	}
}

void data_make(uint8_t *data, unsigned bytes)
{
	random_bytes(data, bytes);
}

/* 80 bits: normal, special, or one of those that no instruction makes. */
static void random_extended(uint8_t *st)
{
	static const uint16_t exponent[] = { 0,      1,      0x3fff, 0xbfff, 0x7ffe, 0x7fff,
					     0x8000, 0xffff, 0x400d, 0x401e, 0x403e, 0x3ffe };
	uint64_t mantissa = one_in(3) ? corner() : random_u64();
	uint16_t e = exponent[random_below(ARRAY_SIZE(exponent))];

	if (one_in(2))
		e = (uint16_t)((0x3fff - 20 + random_below(40)) | random_below(2) << 15);
	if (!one_in(6) && e & 0x7fff)
		mantissa |= BIT64(63);
	memcpy(st, &mantissa, 8);
	memcpy(st + 8, &e, 2);
	memset(st + 10, 0, 6);
}

static void random_x87(struct fx_image *fx)
{
	fx->cw = X87_CW_RESET;
	if (one_in(2))
		fx->cw = (uint16_t)(0x40 | X87_FLAGS | random_below(16) << 8);
	if (one_in(8))
		fx->cw &= (uint16_t)~random_below(64);
	fx->sw = (uint16_t)(random_below(8) << 11 | random_below(8) << 8 | random_below(2) << 14);
	if (one_in(4))
		fx->sw |= (uint16_t)random_below(128);
	if (fx->sw & ~fx->cw & X87_FLAGS) {
		if (one_in(4))
			fx->sw |= X87_ES | 0x8000;
		else
			fx->sw &= (uint16_t)(~X87_FLAGS | fx->cw);
	}
	fx->tags = (uint8_t)(one_in(2) ? 0xff : one_in(2) ? 0 : random_u64());
	fx->opcode = (uint16_t)random_below(2048);
	fx->ip = random_u64() >> 18;
	fx->dp = random_u64() >> 18;
	for (unsigned i = 0; i < 8; i++)
		random_extended(fx->st[i]);
}

static void random_vectors(struct diff_state *s)
{
	struct fx_image *fx = (struct fx_image *)(void *)s->xsave;

	fx->mxcsr = MXCSR_RESET;
	if (one_in(2))
		fx->mxcsr = MXCSR_MASKS | random_below(8) << 13 | random_below(2) << 6 |
			    random_below(64);
	if (one_in(8))
		fx->mxcsr &= ~(random_below(64) << 7);
	random_bytes(fx->xmm[0], sizeof(fx->xmm));
	if (diff_xcr0() & XCR0_AVX)
		random_bytes(s->xsave + XSAVE_YMM, 256);
	if (diff_xcr0() & XCR0_OPMASK) {
		random_bytes(s->xsave + XSAVE_OPMASK, 64);
		random_bytes(s->xsave + XSAVE_ZMM_HI256, 512);
		random_bytes(s->xsave + XSAVE_HI16_ZMM, 1024);
	}
}

/* --- a case
 * ------------------------------------------------------------------------------------------ */

/* Where an operand of @bytes shall lie: mostly well inside, sometimes where it hurts. */
static uint64_t random_target(unsigned bytes)
{
	unsigned size = MAX(bytes, 1u);

	switch (random_below(16)) {
	case 0: /* across two writable pages */
		return DIFF_DATA + PAGE_SIZE - random_below(size) - 1;
	case 1: /* into the page that is not */
		return DIFF_DATA + DIFF_WRITE_SIZE - random_below(size) - 1;
	case 2: /* out of the window */
		return DIFF_DATA + DIFF_DATA_SIZE - random_below(size + 8);
	case 3:
		return DIFF_DATA - random_below(size + 4);
	case 4:
	case 5: /* misaligned */
		return DIFF_DATA + 512 + random_below(DIFF_WRITE_SIZE - 1536);
	default:
		return DIFF_DATA + 512 + (random_below(DIFF_WRITE_SIZE - 1536) & ~63u);
	}
}

static void random_choice(struct choice *k, const struct form *f)
{
	unsigned regs = f->encoding == FORM_EVEX ? 32 : 16;

	*k = (struct choice){
		.reg = (uint8_t)random_below(regs),
		.rm = (uint8_t)random_below(regs),
		.vvvv = (uint8_t)random_below(regs),
		.base = (uint8_t)random_below(16),
		.index = (uint8_t)random_below(16),
		.scale = (uint8_t)random_below(4),
		.mode = (uint8_t)random_below(ADDR_MODES),
		.disp = (int8_t)random_below(256),
		.imm = one_in(2) ? corner() : random_u64(),
	};
	if (f->encoding == FORM_LEGACY && one_in(4))
		k->reg |= 0x10; /* a REX prefix, whether there is need or not */
	if (f->encoding == FORM_EVEX) {
		k->mask = (uint8_t)random_below(8);
		k->zeroing = k->mask && one_in(2);
	}
	if (f->memory && one_in(8))
		k->addr32 = true;
	if (one_in(8)) {
		static const uint8_t segment[] = { 0x26, 0x2e, 0x36, 0x3e, 0x65 };

		k->segment = segment[random_below(ARRAY_SIZE(segment))];
	}
	/* Of one register as base and index only multiples could be aimed at. */
	if (k->index == RSP || k->index == k->base)
		k->index = k->base == RCX ? RDX : RCX;
}

static bool same_form(const struct form *f, const struct decoded *d)
{
	return d->insn.mnemonic == f->mnemonic && key_of(d) == f->key;
}

/* Takes back, one after the other, what may have made another instruction of it. */
static bool choose(const struct form *f, struct choice *k, struct writer *w, struct decoded *d)
{
	for (unsigned step = 0;; step++) {
		if (encode(w, f, k, d) && same_form(f, d))
			return true;
		switch (step) {
		case 0:
			k->reg = f->reg;
			break;
		case 1:
			k->vvvv = f->vvvv;
			break;
		case 2:
			k->zeroing = false;
			break;
		case 3:
			k->mask = f->mask;
			break;
		case 4:
			k->rm = f->rm;
			break;
		default:
			return false;
		}
	}
}

static bool is_branch(const ZydisDecodedInstruction *insn)
{
	return insn->meta.branch_type != ZYDIS_BRANCH_TYPE_NONE ||
	       insn->mnemonic == ZYDIS_MNEMONIC_RET;
}

/* Relative branches stay among the breakpoints behind the instruction. */
static void tame_branch(struct writer *w, const struct decoded *d)
{
	for (unsigned i = 0; i < 2; i++) {
		if (!d->insn.raw.imm[i].is_relative)
			continue;
		memset(w->buf + d->insn.raw.imm[i].offset, 0, d->insn.raw.imm[i].size / 8);
		w->buf[d->insn.raw.imm[i].offset] = (uint8_t)random_below(12);
	}
}

static int gpr_id(ZydisRegister r)
{
	ZydisRegisterClass k = ZydisRegisterGetClass(r);

	if (k == ZYDIS_REGCLASS_GPR64 || k == ZYDIS_REGCLASS_GPR32)
		return ZydisRegisterGetId(r);
	return -1;
}

/* Makes the operand's address @target, by its base register. */
static void aim_base(struct diff_case *t, const ZydisDecodedOperandMem *m, uint64_t target)
{
	int base = gpr_id(m->base), index = gpr_id(m->index);

	if (base < 0 || base == index)
		return;
	if (index >= 0 && m->type == ZYDIS_MEMOP_TYPE_MEM) {
		t->in.gpr[index] = random_below(4) ? random_below(16) : -(uint64_t)random_below(16);
		target -= t->in.gpr[index] * m->scale;
	}
	if (m->index == ZYDIS_REGISTER_AL) /* XLAT */
		target -= (uint8_t)t->in.gpr[RAX];
	t->in.gpr[base] = target - (uint64_t)m->disp.value;
}

/* An operand without a base has @target as its displacement. */
static void aim(struct diff_case *t, const struct decoded *d, const ZydisDecodedOperand *op,
		uint64_t target)
{
	bool no_base = op->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM &&
		       (d->insn.attributes & ZYDIS_ATTRIB_HAS_SIB) && d->insn.raw.modrm.mod == 0 &&
		       d->insn.raw.sib.base == 5;

	if (!no_base)
		aim_base(t, &op->mem, target);
	else if (gpr_id(op->mem.index) >= 0)
		t->in.gpr[gpr_id(op->mem.index)] = 0;
}

static void patch(struct diff_case *t, uint64_t at, const void *bytes, unsigned n)
{
	uint64_t from = at - DIFF_DATA;

	if (from >= DIFF_WRITE_SIZE)
		return;
	t->patch_at = (uint32_t)from;
	t->patch_bytes = MIN(n, DIFF_WRITE_SIZE - t->patch_at);
	memcpy(t->patch, bytes, t->patch_bytes);
}

static bool pops_flags(const ZydisDecodedInstruction *insn)
{
	return insn->mnemonic == ZYDIS_MNEMONIC_POPF || insn->mnemonic == ZYDIS_MNEMONIC_POPFQ;
}

/* What an operand in memory holds. */
static void random_operand(struct diff_case *t, const struct decoded *d, uint64_t at,
			   unsigned bytes)
{
	uint8_t v[DIFF_PATCH_MAX];
	uint64_t goal = t->in.rip + 16 + random_below(12);

	random_bytes(v, sizeof(v));
	if (bytes == 10) {
		random_extended(v);
	} else if (is_branch(&d->insn) && !one_in(8)) {
		memcpy(v, &goal, 8);
	} else if (pops_flags(&d->insn)) {
		/* Flags that the child's kernel minds, or never takes back. */
		goal = random_u64() & ~(uint64_t)(RFLAGS_TF | RFLAGS_AC | RFLAGS_NT | RFLAGS_ID);
		memcpy(v, &goal, 8);
	} else if (d->insn.mnemonic == ZYDIS_MNEMONIC_LDMXCSR && one_in(2)) {
		goal = random_below(65536);
		memcpy(v, &goal, 4);
	}
	patch(t, at, v, MIN(bytes, (unsigned)sizeof(v)));
}

/* Indices of a gather that keep it in the window. */
static void random_indices(struct diff_case *t, const struct decoded *d, ZydisRegister index)
{
	const char *name = ZydisMnemonicGetString(d->insn.mnemonic);
	unsigned step = strstr(name, "gatherq") || strstr(name, "scatterq") ? 8 : 4;
	unsigned reg = (unsigned)ZydisRegisterGetId(index);
	struct cpu_state s;
	uint8_t v[64];

	memcpy(s.xsave, t->in.xsave, sizeof(s.xsave));
	for (unsigned i = 0; i < sizeof(v); i += step) {
		uint64_t value = one_in(32) ? random_u64() : random_below(64);

		memcpy(v + i, &value, step);
	}
	xstate_set_vector(&s, reg, v);
	memcpy(t->in.xsave, s.xsave, sizeof(s.xsave));
}

static bool is_xsave(const ZydisDecodedInstruction *insn)
{
	return insn->meta.isa_set == ZYDIS_ISA_SET_XSAVE ||
	       insn->meta.isa_set == ZYDIS_ISA_SET_XSAVEC ||
	       insn->meta.isa_set == ZYDIS_ISA_SET_XSAVEOPT ||
	       insn->meta.isa_set == ZYDIS_ISA_SET_FXSAVE ||
	       insn->meta.isa_set == ZYDIS_ISA_SET_FXSAVE64;
}

/* An area that mostly can be restored from, and only what both sides know. */
static void random_xsave_area(struct diff_case *t, uint64_t at)
{
	uint8_t area[DIFF_PATCH_MAX];
	struct fx_image *fx = (struct fx_image *)(void *)area;
	uint64_t known = diff_xcr0(), *header = (uint64_t *)(void *)(area + XSAVE_HEADER);

	random_bytes(area, sizeof(area));
	random_x87(fx);
	fx->mxcsr = one_in(16) ? (uint32_t)random_u64() : (uint32_t)random_u64() & 0xffff;
	memset(header, 0, 64);
	header[0] = random_u64() & known;
	if (one_in(2))
		header[1] = BIT64(63) | header[0] | (random_u64() & known);
	if (one_in(16))
		header[random_below(8)] |= BIT64(random_below(63));
	patch(t, at, area, sizeof(area));
	t->in.gpr[RAX] = random_u64() & known;
}

static void aim_operands(struct diff_case *t, const struct decoded *d, uint64_t fixed)
{
	for (unsigned i = 0; i < d->insn.operand_count; i++) {
		const ZydisDecodedOperand *op = &d->op[i];
		uint64_t target = fixed;

		if (op->type == ZYDIS_OPERAND_TYPE_REGISTER && is_branch(&d->insn) &&
		    op->visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT &&
		    gpr_id(op->reg.value) >= 0)
			t->in.gpr[gpr_id(op->reg.value)] = t->in.rip + 16 + random_below(12);
		if (op->type != ZYDIS_OPERAND_TYPE_MEMORY || op->mem.type == ZYDIS_MEMOP_TYPE_AGEN)
			continue;
		if (!target || op->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN)
			target = random_target(op->size / 8);
		if (pops_flags(&d->insn))
			target = DIFF_DATA + 512 + random_below(1024);
		if (is_xsave(&d->insn) && !fixed && !one_in(8))
			target = DIFF_DATA + (random_below(DIFF_WRITE_SIZE - 2752) & ~63u);
		aim(t, d, op, target);
		if (op->mem.type == ZYDIS_MEMOP_TYPE_VSIB)
			random_indices(t, d, op->mem.index);
		if (is_xsave(&d->insn)) {
			random_xsave_area(t, target);
			continue;
		}
		if (op->actions & ZYDIS_OPERAND_ACTION_MASK_READ)
			random_operand(t, d, target, op->size / 8u);
	}
}

/* Counts of repetition and bit offsets: small enough to stay in the window. */
static void tame_counts(struct diff_case *t, const struct decoded *d)
{
	const uint64_t repeats =
		ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE;

	if (d->insn.attributes & repeats)
		t->in.gpr[RCX] = random_below(40);
	switch (d->insn.mnemonic) {
	case ZYDIS_MNEMONIC_BT:
	case ZYDIS_MNEMONIC_BTC:
	case ZYDIS_MNEMONIC_BTR:
	case ZYDIS_MNEMONIC_BTS:
		if (d->op[1].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    (d->insn.address_width == 32 || !one_in(8)))
			t->in.gpr[ZydisRegisterGetId(d->op[1].reg.value)] &= 0x7ff;
		break;
	default:
		break;
	}
}

void case_make(struct diff_case *t, const struct form *f, uint64_t rip)
{
	uint64_t fixed = 0;
	struct form g = *f;
	struct choice k;
	struct writer w;
	struct decoded d;

	memset(t, 0, sizeof(*t));
	t->in.rip = rip;
	do {
		random_choice(&k, f);
		if (f->vsib)
			k.mode = ADDR_INDEX;
		if (f->opcode_reg)
			g.opcode = (uint8_t)((f->opcode & ~7u) | random_below(8));
		if (k.mode == ADDR_BASE32 || is_absolute(&k))
			k.disp = (int32_t)random_target(16);
		else if (k.mode == ADDR_RIP)
			k.disp = 0;
		if (k.mode == ADDR_BASE32)
			k.disp ^= one_in(2) ? INT32_MIN : 0;
	} while (!choose(&g, &k, &w, &d));
	if (d.insn.raw.disp.size == 32 && is_absolute(&k))
		fixed = (uint32_t)k.disp;
	if (d.insn.raw.disp.size == 32 && k.mode == ADDR_RIP) {
		fixed = random_target(16);
		store_u32(w.buf + d.insn.raw.disp.offset, (uint32_t)(fixed - rip - d.insn.length));
	}
	if (d.insn.raw.disp.size && !(d.insn.attributes & ZYDIS_ATTRIB_HAS_MODRM)) {
		fixed = random_target(16); /* MOV with an absolute address */
		memcpy(w.buf + d.insn.raw.disp.offset, &fixed, d.insn.raw.disp.size / 8);
	}
	tame_branch(&w, &d);
	decode(&w, &d);
	t->len = d.insn.length;
	memcpy(t->code, w.buf, t->len);

	t->in.rflags = RFLAGS_ONE | RFLAGS_IF |
		       (random_u64() & (RFLAGS_ARITH | (one_in(4) ? RFLAGS_DF : 0)));
	for (unsigned i = 0; i < GPR_COUNT; i++)
		t->in.gpr[i] = random_value();
	t->in.gpr[RSP] = random_target(64);
	if (one_in(2))
		t->in.gpr[RBP] = random_target(64);
	random_x87((struct fx_image *)(void *)t->in.xsave);
	random_vectors(&t->in);
	tame_counts(t, &d);
	aim_operands(t, &d, fixed);
}
