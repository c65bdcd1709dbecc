/*
 * stub_emit.c - writes the host code of a stub; see stub.c for what it does.
 */
#include "cpu/stub_recipe.h"

#include "cpu/x86enc.h"
#include "cpu/xstate.h"

static void emit(struct stub_code *k, const void *bytes, unsigned n)
{
	memcpy(k->buf + k->n, bytes, n);
	k->n += n;
}

#define EMIT(k, ...) emit(k, (const uint8_t[]){ __VA_ARGS__ }, sizeof((uint8_t[]){ __VA_ARGS__ }))

static void emit_u32(struct stub_code *k, uint32_t v)
{
	emit(k, &v, sizeof(v));
}

/* The tail of an instruction that accesses the vCPU: ModRM for [rdi + disp32]. */
static void emit_cpu(struct stub_code *k, unsigned reg, size_t offset)
{
	EMIT(k, (uint8_t)(0x80 | (reg & 7) << 3 | RDI));
	emit_u32(k, (uint32_t)offset);
}

static size_t gpr_at(unsigned guest)
{
	return offsetof(struct cpu, s.gpr) + guest * sizeof(uint64_t);
}

static size_t xsave_at(size_t offset)
{
	return offsetof(struct cpu, s.xsave) + offset;
}

static uint8_t rex_w(unsigned reg)
{
	return (uint8_t)(0x48 | (reg & 8) >> 1);
}

static void load_gpr(struct stub_code *k, const struct stub_reg *r)
{
	if (r->high_byte) {
		EMIT(k, rex_w(r->host), 0x0f, 0xb6); /* movzx r64, byte [] */
		emit_cpu(k, r->host, gpr_at(r->guest) + 1);
	} else {
		EMIT(k, rex_w(r->host), 0x8b);
		emit_cpu(k, r->host, gpr_at(r->guest));
	}
}

static void store_gpr(struct stub_code *k, const struct stub_reg *r)
{
	EMIT(k, rex_w(r->host), 0x89);
	emit_cpu(k, r->host, gpr_at(r->guest));
}

/* fl holds AH and AL as lahf and seto leave them. Nothing but AX changes. */
static void load_flags(struct stub_code *k)
{
	EMIT(k, 0x8b);
	emit_cpu(k, RAX, offsetof(struct cpu, fl));
	EMIT(k, 0x04, 0x7f, 0x9e); /* add al, 0x7f; sahf */
}

static void store_flags(struct stub_code *k)
{
	EMIT(k, 0xb8, 0, 0, 0, 0);       /* mov eax, 0 */
	EMIT(k, 0x9f, 0x0f, 0x90, 0xc0); /* lahf; seto al */
	EMIT(k, 0x48, 0x89);
	emit_cpu(k, RAX, offsetof(struct cpu, fl));
}

/* movups, by the legacy encoding: the upper part of the host's register stays. */
static void move_xmm(struct stub_code *k, unsigned n, bool store)
{
	if (n & 8)
		EMIT(k, 0x44);
	EMIT(k, 0x0f, store ? 0x11 : 0x10);
	emit_cpu(k, n, xsave_at(offsetof(struct fx_image, xmm)) + n * 16);
}

/* vmovups xmm; its load clears the rest of the register. */
static void vmove_xmm(struct stub_code *k, unsigned n, bool store)
{
	EMIT(k, 0xc5, (uint8_t)((n & 8 ? 0 : 0x80) | 0x78), store ? 0x11 : 0x10);
	emit_cpu(k, n, xsave_at(offsetof(struct fx_image, xmm)) + n * 16);
}

/* vinsertf128 y, y, [], 1 and vextractf128 [], y, 1 */
static void vmove_ymm_high(struct stub_code *k, unsigned n, bool store)
{
	unsigned vvvv = store ? 15 : ~n & 15;

	EMIT(k, 0xc4, (uint8_t)((n & 8 ? 0 : 0x80) | 0x63), (uint8_t)(vvvv << 3 | 5),
	     store ? 0x19 : 0x18);
	emit_cpu(k, n, xsave_at(XSAVE_YMM) + n * 16);
	EMIT(k, 1);
}

/* vinsertf64x4 z, z, [], 1 and vextractf64x4 [], z, 1 */
static void vmove_zmm_high(struct stub_code *k, unsigned n, bool store)
{
	unsigned vvvv = store ? 15 : ~n & 15;

	EMIT(k, 0x62, (uint8_t)((n & 8 ? 0 : 0x80) | 0x73), (uint8_t)(0x85 | vvvv << 3), 0x48,
	     store ? 0x1b : 0x1a);
	emit_cpu(k, n, xsave_at(XSAVE_ZMM_HI256) + n * 32);
	EMIT(k, 1);
}

/* vmovups zmm16-31 */
static void vmove_zmm_upper(struct stub_code *k, unsigned n, bool store)
{
	EMIT(k, 0x62, (uint8_t)((n & 8 ? 0 : 0x80) | 0x61), 0x7c, 0x48, store ? 0x11 : 0x10);
	emit_cpu(k, n, xsave_at(XSAVE_HI16_ZMM) + (n - 16) * 64);
}

static void move_vector(struct stub_code *k, const struct recipe *p, const struct stub_reg *r,
			bool store)
{
	unsigned bytes = store ? p->vector_max : r->vector_bytes;

	if (!p->wide)
		return move_xmm(k, r->guest, store);
	if (r->guest >= 16)
		return vmove_zmm_upper(k, r->guest, store);
	vmove_xmm(k, r->guest, store);
	if (bytes >= 32)
		vmove_ymm_high(k, r->guest, store);
	if (bytes >= 64)
		vmove_zmm_high(k, r->guest, store);
}

/* kmovw; kmovq where 64 mask bits exist */
static void move_mask(struct stub_code *k, const struct stub_reg *r, bool store, bool is_64)
{
	if (is_64)
		EMIT(k, 0xc4, 0xe1, 0xf8, store ? 0x91 : 0x90);
	else
		EMIT(k, 0xc5, 0xf8, store ? 0x91 : 0x90);
	emit_cpu(k, r->guest, xsave_at(XSAVE_OPMASK) + r->guest * 8u);
}

static void guest_mxcsr(struct stub_code *k, bool store)
{
	EMIT(k, 0x0f, 0xae);
	emit_cpu(k, store ? 3 : 2, xsave_at(offsetof(struct fx_image, mxcsr)));
}

static void fx(struct stub_code *k, bool store)
{
	EMIT(k, 0x48, 0x0f, 0xae); /* fxsave64, fxrstor64 */
	emit_cpu(k, store ? 0 : 1, xsave_at(0));
}

static void emit_loads(struct stub_code *k, const struct recipe *p, bool mask_64)
{
	if (p->flags)
		load_flags(k);
	for (unsigned i = 0; i < p->nr_vecs && !p->fx; i++)
		move_vector(k, p, &p->vec[i], false);
	for (unsigned i = 0; i < p->nr_masks; i++)
		move_mask(k, &p->mask[i], false, mask_64);
	for (unsigned i = 0; i < p->nr_gprs; i++)
		load_gpr(k, &p->gpr[i]);
	if (p->fx)
		fx(k, false);
	else if (p->mxcsr)
		guest_mxcsr(k, false);
}

/* Last operand first: where two are one register the first one has the say (MULX). */
static void emit_stores(struct stub_code *k, const struct recipe *p, bool mask_64)
{
	if (p->fx)
		fx(k, true);
	for (unsigned i = p->nr_gprs; i--;)
		if (p->gpr[i].write)
			store_gpr(k, &p->gpr[i]);
	for (unsigned i = p->nr_masks; i--;)
		if (p->mask[i].write)
			move_mask(k, &p->mask[i], true, mask_64);
	for (unsigned i = p->nr_vecs; i-- && !p->fx;)
		if (p->vec[i].write)
			move_vector(k, p, &p->vec[i], true);
	if (p->mxcsr && !p->fx)
		guest_mxcsr(k, true);
	if (p->flags)
		store_flags(k);
}

/* What C expects (psABI, 3.2.1): x87 empty and in its default mode, MXCSR's default. */
static void emit_host_state(struct stub_code *k, const struct recipe *p)
{
	if (p->fx)
		EMIT(k, 0xdb, 0xe3); /* fninit */
	if (p->fx || p->mxcsr) {
		EMIT(k, 0x68); /* push MXCSR_RESET; ldmxcsr [rsp]; pop rcx */
		emit_u32(k, MXCSR_RESET);
		EMIT(k, 0x0f, 0xae, 0x14, 0x24, 0x59);
	}
	if (p->wide && p->nr_vecs)
		EMIT(k, 0xc5, 0xf8, 0x77); /* vzeroupper: legacy SSE code stays fast */
}

/* nop [rax + disp32]: how far from the instruction behind it to its way out. */
#define WAY_OUT_BYTES 7
static const uint8_t way_out_nop[3] = { 0x0f, 0x1f, 0x80 };

/* Whether an operand's size, and so a 66 prefix, depends on the mode. */
static enum x86enc_opsize recipe_opsize(const struct recipe *p)
{
	bool is_16 = p->insn->operand_width == 16;

	if (p->insn->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY)
		return X86ENC_OPSIZE_KEEP;
	switch (p->insn->mnemonic) {
	case ZYDIS_MNEMONIC_CRC32:
	case ZYDIS_MNEMONIC_FLDENV:
	case ZYDIS_MNEMONIC_FNSAVE:
	case ZYDIS_MNEMONIC_FNSTENV:
	case ZYDIS_MNEMONIC_FRSTOR:
	case ZYDIS_MNEMONIC_LZCNT:
	case ZYDIS_MNEMONIC_MOVBE:
	case ZYDIS_MNEMONIC_POPCNT:
	case ZYDIS_MNEMONIC_TZCNT:
		return is_16 ? X86ENC_OPSIZE_16 : X86ENC_OPSIZE_32;
	default:
		return X86ENC_OPSIZE_KEEP;
	}
}

/* Instructions whose W bit chooses the width of a memory operand in 64-bit mode only. */
static bool w_is_width(const ZydisDecodedInstruction *insn)
{
	switch (insn->mnemonic) {
	case ZYDIS_MNEMONIC_VMOVD:
	case ZYDIS_MNEMONIC_VPINSRD:
	case ZYDIS_MNEMONIC_VPEXTRD:
	case ZYDIS_MNEMONIC_VCVTSI2SD:
	case ZYDIS_MNEMONIC_VCVTSI2SS:
	case ZYDIS_MNEMONIC_VCVTUSI2SD:
	case ZYDIS_MNEMONIC_VCVTUSI2SS:
		return true;
	default:
		return false;
	}
}

static uint8_t host_number(const struct recipe *p, unsigned host)
{
	for (unsigned i = 0; i < p->nr_gprs; i++)
		if (p->gpr[i].host == host)
			return (uint8_t)host;
	return X86ENC_KEEP;
}

static void emit_insn(struct stub_code *k, const struct recipe *p)
{
	struct x86enc e = {
		.reg = host_number(p, HOST_REG),
		.rm = host_number(p, HOST_RM),
		.vvvv = host_number(p, HOST_VVVV),
		.base = HOST_MEM,
		.clear_w = p->narrow_gprs || (!p->in_long_mode && w_is_width(p->insn)),
		.opsize = recipe_opsize(p),
	};

	k->n += x86enc(k->buf + k->n, p->insn, p->bytes, &e);
	if (p->in_long_mode)
		return;
	/* A register in the immediate: outside 64-bit mode its top bit is ignored. */
	for (unsigned i = 0; i < p->insn->operand_count; i++)
		if (p->operands[i].encoding == ZYDIS_OPERAND_ENCODING_IS4)
			k->buf[k->n - 1] &= 0x7f;
}

void stub_emit(struct stub_code *k, const struct recipe *p, const struct cpu *c)
{
	bool mask_64 = cpu_has(&c->vm->cpuid, CPU_AVX512BW);
	bool can_fault = p->fx || p->mxcsr;
	unsigned insn_at, patch_at;

	emit_loads(k, p, mask_64);
	if (can_fault) {
		emit(k, way_out_nop, sizeof(way_out_nop));
		emit_u32(k, 0);
	}
	patch_at = k->n - 4;
	insn_at = k->n;
	emit_insn(k, p);
	emit_stores(k, p, mask_64);
	emit_host_state(k, p);
	EMIT(k, 0x31, 0xc0, 0xc3); /* xor eax, eax; ret */
	if (!can_fault)
		return;

	store_u32(k->buf + patch_at, k->n - insn_at);
	if (p->fx)
		fx(k, true);
	else
		guest_mxcsr(k, true);
	emit_host_state(k, p);
	EMIT(k, 0xb8, 1, 0, 0, 0, 0xc3); /* mov eax, 1; ret */
}

uint32_t stub_way_out(const uint8_t *code, size_t at)
{
	if (at < WAY_OUT_BYTES ||
	    memcmp(code + at - WAY_OUT_BYTES, way_out_nop, sizeof(way_out_nop)) != 0)
		return 0;
	return load_u32(code + at - sizeof(uint32_t));
}
