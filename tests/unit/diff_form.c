/*
 * diff_form.c - finds instruction forms, and encodes cases of them.
 */
#include "diff_gen.h"

#include "boot/cpuid.h"
#include "cpu/xstate.h"

#include <cpuid.h>
#include <stdlib.h>

#define FORMS_MAX 16384
#define KEYS      65536u /* a power of two */

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
		return CPU_XSAVE;
	case ZYDIS_ISA_SET_XSAVEOPT:
		return CPU_XSAVEOPT;
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
	case ZYDIS_ISA_SET_GFNI:
	case ZYDIS_ISA_SET_AVX_GFNI:
	case ZYDIS_ISA_SET_AVX512_GFNI_128:
	case ZYDIS_ISA_SET_AVX512_GFNI_256:
	case ZYDIS_ISA_SET_AVX512_GFNI_512:
		return CPU_GFNI;
	case ZYDIS_ISA_SET_VAES:
	case ZYDIS_ISA_SET_AVX512_VAES_128:
	case ZYDIS_ISA_SET_AVX512_VAES_256:
	case ZYDIS_ISA_SET_AVX512_VAES_512:
		return CPU_VAES;
	case ZYDIS_ISA_SET_VPCLMULQDQ:
	case ZYDIS_ISA_SET_AVX512_VPCLMULQDQ_128:
	case ZYDIS_ISA_SET_AVX512_VPCLMULQDQ_256:
	case ZYDIS_ISA_SET_AVX512_VPCLMULQDQ_512:
		return CPU_VPCLMULQDQ;
	default:
		return CPU_FEATURE_COUNT;
	}
}

static bool host_has(ZydisISASet set)
{
	static struct cpu_features has;
	enum cpu_feature f = feature_of(set);

	if (!has.word[0])
		cpuid_host_features(&has);
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

bool form_decode(const struct writer *w, bool compat, struct decoded *d)
{
	static ZydisDecoder long_mode, compat_mode;

	if (!long_mode.stack_width) {
		ZydisDecoderInit(&long_mode, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
		ZydisDecoderInit(&compat_mode, ZYDIS_MACHINE_MODE_LONG_COMPAT_32,
				 ZYDIS_STACK_WIDTH_32);
	}
	return ZYAN_SUCCESS(ZydisDecoderDecodeFull(compat ? &compat_mode : &long_mode, w->buf, w->n,
						   &d->insn, d->op)) &&
	       wanted(&d->insn, d->op);
}

bool form_encode(struct writer *w, const struct form *f, const struct choice *k, struct decoded *d)
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
	return form_decode(w, f->compat, d);
}

/* Mnemonic, operand kinds and sizes, and prefixes that matter, in a number. */
uint64_t form_key(const struct decoded *d)
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
	if (form_encode(w, f, k, d))
		return true;
	if (f->encoding == FORM_LEGACY)
		return false;
	if (f->memory) {
		k->mode = ADDR_INDEX;
		if (form_encode(w, f, k, d))
			return true;
		k->mode = ADDR_BASE;
	}
	k->mask = 0;
	return f->encoding == FORM_EVEX && form_encode(w, f, k, d);
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
	f->key = form_key(&d);
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
	case 0x62: /* BOUND in 32-bit code */
		return !f->compat;
	case 0x0f:
	case 0x26:
	case 0x2e:
	case 0x36:
	case 0x3e:
	case 0xc4:
	case 0xc5:
	case 0xf0:
	case 0xf2:
	case 0xf3:
		return true;
	default:
		return (!f->compat && f->opcode >= 0x40 && f->opcode < 0x50) ||
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

void forms_find(struct form_list *l, bool compat, const char *only)
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
			struct form f = { .encoding = space[s].encoding, .compat = compat };
			unsigned v = i;

			f.opcode = (uint8_t)v;
			v /= 256;
			f.w = v % 2;
			v /= 2;
			f.l = (uint8_t)(v % space[s].ls);
			v /= space[s].ls;
			f.prefix = (uint8_t)(v % space[s].prefixes);
			f.map = (uint8_t)(space[s].first_map + v / space[s].prefixes);
			if (f.encoding == FORM_LEGACY && (is_prefix(&f) || (compat && f.w)))
				continue;
			find_opcode(l, f, only);
		}
	}
}

void forms_free(struct form_list *l)
{
	free(l->form);
	free(l->keys);
}
