/*
 * diff_gen.c - random cases of instruction forms: registers, operands, states.
 */
#include "diff_gen.h"

#include "cpu/xstate.h"

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

/* What 32-bit code can name: no REX, nothing relative to RIP. */
static void narrow_choice(struct choice *k, const struct form *f)
{
	k->reg &= 7;
	k->rm &= 7;
	k->vvvv &= 7;
	k->base &= 7;
	k->index &= 7;
	if (k->mode == ADDR_RIP)
		k->mode = ADDR_ABS;
	if (k->addr32 && !one_in(4)) /* 16-bit addresses reach nothing */
		k->addr32 = false;
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
	if (f->compat)
		narrow_choice(k, f);
	/* Of one register as base and index only multiples could be aimed at. */
	if (k->index == RSP || k->index == k->base)
		k->index = k->base == RCX ? RDX : RCX;
}

static bool same_form(const struct form *f, const struct decoded *d)
{
	return d->insn.mnemonic == f->mnemonic && form_key(d) == f->key;
}

/* Takes back, one after the other, what may have made another instruction of it. */
static bool choose(const struct form *f, struct choice *k, struct writer *w, struct decoded *d)
{
	for (unsigned step = 0;; step++) {
		if (form_encode(w, f, k, d) && same_form(f, d))
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
	return insn->mnemonic == ZYDIS_MNEMONIC_POPF || insn->mnemonic == ZYDIS_MNEMONIC_POPFD ||
	       insn->mnemonic == ZYDIS_MNEMONIC_POPFQ;
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
		uint64_t value = random_below(one_in(32) ? 65536 : 64);

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

/* An area that mostly can be restored from, in the one form that both sides know. */
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
	t->compat = f->compat;
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
	form_decode(&w, f->compat, &d);
	t->len = d.insn.length;
	memcpy(t->code, w.buf, t->len);

	t->in.rflags = RFLAGS_ONE | RFLAGS_IF |
		       (random_u64() & (RFLAGS_ARITH | (one_in(4) ? RFLAGS_DF : 0)));
	for (unsigned i = 0; i < GPR_COUNT; i++)
		t->in.gpr[i] = f->compat ? (uint32_t)random_value() : random_value();
	t->in.gpr[RSP] = random_target(64);
	if (one_in(2))
		t->in.gpr[RBP] = random_target(64);
	random_x87((struct fx_image *)(void *)t->in.xsave);
	random_vectors(&t->in);
	tame_counts(t, &d);
	aim_operands(t, &d, fixed);
	for (unsigned i = 0; i < GPR_COUNT && f->compat; i++)
		t->in.gpr[i] = (uint32_t)t->in.gpr[i];
}
