/*
 * stub.c - makes native stubs: host code that executes one guest instruction.
 *
 * A stub is a C function, stub_fn: RDI is the vCPU, RSI the memory operand. It
 *
 *	loads the guest's flags, registers and MXCSR, as far as the instruction
 *	touches them,
 *	executes the instruction, re-encoded for the registers they were loaded
 *	into and with (RSI) as its memory operand,
 *	stores what the instruction writes, and puts the host's state back.
 *
 * Vector registers keep their numbers. General registers that ModRM or VEX name
 * come in R8, R9 and R10; those an opcode implies (RAX, RCX, RDX) stay where
 * they are. For x87 and MMX the whole FXSAVE image is loaded and stored.
 *
 * An unmasked SIMD exception interrupts the instruction: the host's handler finds
 * the way out in the NOP before it, and the stub returns 1 with only MXCSR changed.
 *
 * Stubs are position independent and equal ones are shared. The cache belongs to
 * the vCPU's thread; stubs are written once, before they first run.
 */
#include "cpu/stub.h"
#include "cpu/xlat.h"

#include "cpu/stub_mask.h"
#include "cpu/stub_run.h"
#include "cpu/x86enc.h"
#include "cpu/xstate.h"

#include <errno.h>

#define STUB_MAX     512 /* bytes of one stub; the longest there is has under 400 */
#define CODE_BYTES   MIB(1)
#define TABLE_SLOTS  16384u /* a power of two */
/* Room for a block: it has at most 64 instructions, nearly all stubs are below 128 bytes. */
#define CODE_RESERVE (64 * STUB_MAX)

struct stub_slot {
	uint32_t hash;
	uint32_t at;    /* offset of the code */
	uint32_t bytes; /* 0: empty */
};

struct stub_cache {
	struct host_code code;
	size_t used;
	unsigned nr_stubs;
	struct stub_slot slot[TABLE_SLOTS];
};

/* --- what an instruction needs ---------------------------------------------------- */

enum { HOST_MEM = RSI, HOST_REG = R8, HOST_RM = R9, HOST_VVVV = R10 };

/* A register operand: where the guest's is, where the instruction finds it. */
struct stub_reg {
	uint8_t guest, host;
	bool write;
	bool high_byte; /* guest AH, CH, DH or BH */
	uint8_t vector_bytes;
};

struct recipe {
	const ZydisDecodedInstruction *insn;
	const ZydisDecodedOperand *operands;
	const uint8_t *bytes;
	bool in_long_mode;

	struct stub_reg gpr[4], vec[6], mask[3];
	unsigned nr_gprs, nr_vecs, nr_masks;
	const ZydisDecodedOperand *mem;
	bool has_x87, has_mmx; /* registers of these files */
	bool flags;            /* reads or writes arithmetic flags */
	bool fx;               /* runs on the whole FXSAVE image */
	bool mxcsr;            /* rounds or reports by MXCSR */
	bool wide;             /* VEX or EVEX: writes clear the rest of the register */
	bool narrow_gprs;      /* W means nothing: not in 64-bit mode */
	uint8_t vector_max;    /* bytes of the guest's widest vector register */
};

static bool is_write(const ZydisDecodedOperand *op)
{
	return op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
}

static bool recipe_gpr(struct recipe *p, const ZydisDecodedOperand *op)
{
	struct stub_reg *r = &p->gpr[p->nr_gprs];
	/* Ids count AH to BH, so only those of whole registers are register numbers. */
	int id = ZydisRegisterGetId(
		ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, op->reg.value));

	if (p->nr_gprs == ARRAY_SIZE(p->gpr) || id < 0)
		return false;
	p->nr_gprs++;
	*r = (struct stub_reg){ .guest = (uint8_t)id, .write = is_write(op) };
	if (ZydisRegisterGetClass(op->reg.value) == ZYDIS_REGCLASS_GPR8 &&
	    op->reg.value >= ZYDIS_REGISTER_AH && op->reg.value <= ZYDIS_REGISTER_BH) {
		r->guest = (uint8_t)(op->reg.value - ZYDIS_REGISTER_AH);
		r->high_byte = true;
		if (r->write)
			return false;
	}

	switch (op->encoding) {
	case ZYDIS_OPERAND_ENCODING_MODRM_REG:
		r->host = HOST_REG;
		break;
	case ZYDIS_OPERAND_ENCODING_MODRM_RM:
		r->host = HOST_RM;
		break;
	case ZYDIS_OPERAND_ENCODING_NDSNDD:
		r->host = HOST_VVVV;
		break;
	case ZYDIS_OPERAND_ENCODING_NONE:
		r->host = r->guest;
		return id == RAX || id == RCX || id == RDX;
	default:
		return false;
	}
	p->narrow_gprs |= !p->in_long_mode;
	return true;
}

/* Each register once, as wide as its widest operand. */
static bool recipe_vector(struct recipe *p, const ZydisDecodedOperand *op, unsigned bytes)
{
	uint8_t id = (uint8_t)ZydisRegisterGetId(op->reg.value);
	struct stub_reg *r = p->vec;

	while (r < p->vec + p->nr_vecs && r->guest != id)
		r++;
	if (r == p->vec + ARRAY_SIZE(p->vec))
		return false;
	if (r == p->vec + p->nr_vecs) {
		*r = (struct stub_reg){ .guest = id, .host = id };
		p->nr_vecs++;
	}
	r->write |= is_write(op);
	r->vector_bytes = (uint8_t)MAX(r->vector_bytes, bytes);
	return true;
}

static bool recipe_mask(struct recipe *p, const ZydisDecodedOperand *op)
{
	uint8_t id = (uint8_t)ZydisRegisterGetId(op->reg.value);

	if (p->nr_masks == ARRAY_SIZE(p->mask))
		return false;
	if (id || op->encoding != ZYDIS_OPERAND_ENCODING_MASK) /* there, k0 is no mask */
		p->mask[p->nr_masks++] = (struct stub_reg){ id, id, .write = is_write(op) };
	return true;
}

static bool recipe_register(struct recipe *p, const ZydisDecodedOperand *op)
{
	switch (ZydisRegisterGetClass(op->reg.value)) {
	case ZYDIS_REGCLASS_GPR8:
	case ZYDIS_REGCLASS_GPR16:
	case ZYDIS_REGCLASS_GPR32:
	case ZYDIS_REGCLASS_GPR64:
		return recipe_gpr(p, op);
	case ZYDIS_REGCLASS_XMM:
		return recipe_vector(p, op, 16);
	case ZYDIS_REGCLASS_YMM:
		return recipe_vector(p, op, 32);
	case ZYDIS_REGCLASS_ZMM:
		return recipe_vector(p, op, 64);
	case ZYDIS_REGCLASS_MASK:
		return recipe_mask(p, op);
	case ZYDIS_REGCLASS_X87:
		p->has_x87 = true;
		return true;
	case ZYDIS_REGCLASS_MMX:
		p->has_mmx = true;
		return true;
	case ZYDIS_REGCLASS_FLAGS:
		return true;
	default:
		return op->reg.value == ZYDIS_REGISTER_X87STATUS ||
		       op->reg.value == ZYDIS_REGISTER_X87CONTROL ||
		       op->reg.value == ZYDIS_REGISTER_X87TAG ||
		       op->reg.value == ZYDIS_REGISTER_MXCSR;
	}
}

static bool recipe_memory(struct recipe *p, const ZydisDecodedOperand *op)
{
	if (p->mem || op->mem.type != ZYDIS_MEMOP_TYPE_MEM ||
	    op->encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM)
		return false;
	p->mem = op;
	return true;
}

static bool touches_flags(const ZydisDecodedInstruction *insn)
{
	const ZydisAccessedFlags *f = insn->cpu_flags;

	return (insn->attributes & ZYDIS_ATTRIB_CPUFLAG_ACCESS) && f &&
	       ((f->tested | f->modified | f->set_0 | f->set_1 | f->undefined) & RFLAGS_ARITH);
}

/* Those that Zydis has no class for, and those that heed DAZ alone. */
static bool uses_mxcsr_besides(ZydisMnemonic mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_CVTPI2PD:
	case ZYDIS_MNEMONIC_CVTPI2PS:
	case ZYDIS_MNEMONIC_VCVTPS2PH:
	case ZYDIS_MNEMONIC_VFPCLASSPD:
	case ZYDIS_MNEMONIC_VFPCLASSPS:
	case ZYDIS_MNEMONIC_VFPCLASSSD:
	case ZYDIS_MNEMONIC_VFPCLASSSS:
	case ZYDIS_MNEMONIC_VRCP14PD:
	case ZYDIS_MNEMONIC_VRCP14PS:
	case ZYDIS_MNEMONIC_VRCP14SD:
	case ZYDIS_MNEMONIC_VRCP14SS:
	case ZYDIS_MNEMONIC_VRSQRT14PD:
	case ZYDIS_MNEMONIC_VRSQRT14PS:
	case ZYDIS_MNEMONIC_VRSQRT14SD:
	case ZYDIS_MNEMONIC_VRSQRT14SS:
		return true;
	default:
		return false;
	}
}

/* The classes of SDM vol. 2, 2.4 and 2.8, that can raise SIMD exceptions. */
static bool uses_mxcsr(const ZydisDecodedInstruction *insn)
{
	switch (insn->meta.exception_class) {
	case ZYDIS_EXCEPTION_CLASS_SSE2:
	case ZYDIS_EXCEPTION_CLASS_SSE3:
	case ZYDIS_EXCEPTION_CLASS_AVX2:
	case ZYDIS_EXCEPTION_CLASS_AVX3:
	case ZYDIS_EXCEPTION_CLASS_AVX11:
	case ZYDIS_EXCEPTION_CLASS_E2:
	case ZYDIS_EXCEPTION_CLASS_E2NF:
	case ZYDIS_EXCEPTION_CLASS_E3:
	case ZYDIS_EXCEPTION_CLASS_E3NF:
	case ZYDIS_EXCEPTION_CLASS_E11:
	case ZYDIS_EXCEPTION_CLASS_E11NF:
		return true;
	default:
		return uses_mxcsr_besides(insn->mnemonic);
	}
}

/*
 * What is safe to execute wherever the guest has the feature: computes, and
 * touches nothing but its operands.
 */
static bool is_computational(ZydisISAExt ext)
{
	switch (ext) {
	case ZYDIS_ISA_EXT_ADOX_ADCX:
	case ZYDIS_ISA_EXT_AES:
	case ZYDIS_ISA_EXT_AVX:
	case ZYDIS_ISA_EXT_AVX2:
	case ZYDIS_ISA_EXT_AVX512EVEX:
	case ZYDIS_ISA_EXT_AVX512VEX:
	case ZYDIS_ISA_EXT_AVXAES:
	case ZYDIS_ISA_EXT_BMI1:
	case ZYDIS_ISA_EXT_BMI2:
	case ZYDIS_ISA_EXT_F16C:
	case ZYDIS_ISA_EXT_FMA:
	case ZYDIS_ISA_EXT_GFNI:
	case ZYDIS_ISA_EXT_LZCNT:
	case ZYDIS_ISA_EXT_MMX:
	case ZYDIS_ISA_EXT_MOVBE:
	case ZYDIS_ISA_EXT_PCLMULQDQ:
	case ZYDIS_ISA_EXT_SHA:
	case ZYDIS_ISA_EXT_SSE:
	case ZYDIS_ISA_EXT_SSE2:
	case ZYDIS_ISA_EXT_SSE3:
	case ZYDIS_ISA_EXT_SSE4:
	case ZYDIS_ISA_EXT_SSSE3:
	case ZYDIS_ISA_EXT_VAES:
	case ZYDIS_ISA_EXT_VPCLMULQDQ:
	case ZYDIS_ISA_EXT_X87:
		return true;
	default:
		return false;
	}
}

static unsigned vector_max(const struct cpu *c)
{
	if (cpu_has(&c->vm->cpuid, CPU_AVX512F))
		return 64;
	return cpu_has(&c->vm->cpuid, CPU_AVX) ? 32 : 16;
}

static bool recipe_make(struct recipe *p, const struct cpu *c)
{
	const ZydisDecodedInstruction *insn = p->insn;

	if (!is_computational(insn->meta.isa_ext) ||
	    insn->meta.isa_set == ZYDIS_ISA_SET_SSE_PREFETCH)
		return false;
	p->in_long_mode = insn->machine_mode == ZYDIS_MACHINE_MODE_LONG_64;
	p->vector_max = (uint8_t)vector_max(c);
	for (unsigned i = 0; i < insn->operand_count; i++) {
		const ZydisDecodedOperand *op = &p->operands[i];
		bool ok = op->type == ZYDIS_OPERAND_TYPE_IMMEDIATE;

		if (op->type == ZYDIS_OPERAND_TYPE_REGISTER)
			ok = recipe_register(p, op);
		else if (op->type == ZYDIS_OPERAND_TYPE_MEMORY)
			ok = recipe_memory(p, op);
		if (!ok)
			return false;
	}
	p->wide = insn->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY;
	p->flags = touches_flags(insn);
	p->fx = p->has_x87 || p->has_mmx || insn->meta.isa_ext == ZYDIS_ISA_EXT_X87 ||
		insn->mnemonic == ZYDIS_MNEMONIC_EMMS;
	p->mxcsr = uses_mxcsr(insn);
	return true;
}

/* --- host code ---------------------------------------------------------------------- */

struct code {
	uint8_t buf[STUB_MAX];
	unsigned n;
};

static void emit(struct code *k, const void *bytes, unsigned n)
{
	memcpy(k->buf + k->n, bytes, n);
	k->n += n;
}

#define EMIT(k, ...) emit(k, (const uint8_t[]){ __VA_ARGS__ }, sizeof((uint8_t[]){ __VA_ARGS__ }))

static void emit_u32(struct code *k, uint32_t v)
{
	emit(k, &v, sizeof(v));
}

/* The tail of an instruction that accesses the vCPU: ModRM for [rdi + disp32]. */
static void emit_cpu(struct code *k, unsigned reg, size_t offset)
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

static void load_gpr(struct code *k, const struct stub_reg *r)
{
	if (r->high_byte) {
		EMIT(k, rex_w(r->host), 0x0f, 0xb6); /* movzx r64, byte [] */
		emit_cpu(k, r->host, gpr_at(r->guest) + 1);
	} else {
		EMIT(k, rex_w(r->host), 0x8b);
		emit_cpu(k, r->host, gpr_at(r->guest));
	}
}

static void store_gpr(struct code *k, const struct stub_reg *r)
{
	EMIT(k, rex_w(r->host), 0x89);
	emit_cpu(k, r->host, gpr_at(r->guest));
}

/* fl holds AH and AL as lahf and seto leave them. Nothing but AX changes. */
static void load_flags(struct code *k)
{
	EMIT(k, 0x8b);
	emit_cpu(k, RAX, offsetof(struct cpu, fl));
	EMIT(k, 0x04, 0x7f, 0x9e); /* add al, 0x7f; sahf */
}

static void store_flags(struct code *k)
{
	EMIT(k, 0xb8, 0, 0, 0, 0);       /* mov eax, 0 */
	EMIT(k, 0x9f, 0x0f, 0x90, 0xc0); /* lahf; seto al */
	EMIT(k, 0x48, 0x89);
	emit_cpu(k, RAX, offsetof(struct cpu, fl));
}

/* movups, by the legacy encoding: the upper part of the host's register stays. */
static void move_xmm(struct code *k, unsigned n, bool store)
{
	if (n & 8)
		EMIT(k, 0x44);
	EMIT(k, 0x0f, store ? 0x11 : 0x10);
	emit_cpu(k, n, xsave_at(offsetof(struct fx_image, xmm)) + n * 16);
}

/* vmovups xmm; its load clears the rest of the register. */
static void vmove_xmm(struct code *k, unsigned n, bool store)
{
	EMIT(k, 0xc5, (uint8_t)((n & 8 ? 0 : 0x80) | 0x78), store ? 0x11 : 0x10);
	emit_cpu(k, n, xsave_at(offsetof(struct fx_image, xmm)) + n * 16);
}

/* vinsertf128 y, y, [], 1 and vextractf128 [], y, 1 */
static void vmove_ymm_high(struct code *k, unsigned n, bool store)
{
	unsigned vvvv = store ? 15 : ~n & 15;

	EMIT(k, 0xc4, (uint8_t)((n & 8 ? 0 : 0x80) | 0x63), (uint8_t)(vvvv << 3 | 5),
	     store ? 0x19 : 0x18);
	emit_cpu(k, n, xsave_at(XSAVE_YMM) + n * 16);
	EMIT(k, 1);
}

/* vinsertf64x4 z, z, [], 1 and vextractf64x4 [], z, 1 */
static void vmove_zmm_high(struct code *k, unsigned n, bool store)
{
	unsigned vvvv = store ? 15 : ~n & 15;

	EMIT(k, 0x62, (uint8_t)((n & 8 ? 0 : 0x80) | 0x73), (uint8_t)(0x85 | vvvv << 3), 0x48,
	     store ? 0x1b : 0x1a);
	emit_cpu(k, n, xsave_at(XSAVE_ZMM_HI256) + n * 32);
	EMIT(k, 1);
}

/* vmovups zmm16-31 */
static void vmove_zmm_upper(struct code *k, unsigned n, bool store)
{
	EMIT(k, 0x62, (uint8_t)((n & 8 ? 0 : 0x80) | 0x61), 0x7c, 0x48, store ? 0x11 : 0x10);
	emit_cpu(k, n, xsave_at(XSAVE_HI16_ZMM) + (n - 16) * 64);
}

static void move_vector(struct code *k, const struct recipe *p, const struct stub_reg *r,
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
static void move_mask(struct code *k, const struct stub_reg *r, bool store, bool is_64)
{
	if (is_64)
		EMIT(k, 0xc4, 0xe1, 0xf8, store ? 0x91 : 0x90);
	else
		EMIT(k, 0xc5, 0xf8, store ? 0x91 : 0x90);
	emit_cpu(k, r->guest, xsave_at(XSAVE_OPMASK) + r->guest * 8u);
}

static void guest_mxcsr(struct code *k, bool store)
{
	EMIT(k, 0x0f, 0xae);
	emit_cpu(k, store ? 3 : 2, xsave_at(offsetof(struct fx_image, mxcsr)));
}

static void fx(struct code *k, bool store)
{
	EMIT(k, 0x48, 0x0f, 0xae); /* fxsave64, fxrstor64 */
	emit_cpu(k, store ? 0 : 1, xsave_at(0));
}

static void emit_loads(struct code *k, const struct recipe *p, bool mask_64)
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
static void emit_stores(struct code *k, const struct recipe *p, bool mask_64)
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
static void emit_host_state(struct code *k, const struct recipe *p)
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

static void emit_insn(struct code *k, const struct recipe *p)
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

static void emit_stub(struct code *k, const struct recipe *p, bool mask_64)
{
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

/*
 * A floating-point fault of this thread. Ours when it struck behind a way-out
 * NOP in our cache; execution then goes on where that points.
 */
static bool stub_fault(struct host_fault *f, void *arg)
{
	struct cpu *c = arg;
	struct stub_cache *s = c->stubs;
	size_t at = f->pc - (uintptr_t)s->code.rx;

	if (xlat_host_fault(c, f))
		return true;
	if (f->kind != HOST_FAULT_FPE || at >= s->used || at < WAY_OUT_BYTES ||
	    memcmp(s->code.rx + at - WAY_OUT_BYTES, way_out_nop, sizeof(way_out_nop)))
		return false;
	f->pc += load_u32(s->code.rx + at - 4);
	return true;
}

/* --- the cache ------------------------------------------------------------------------ */

static uint32_t hash_of(const struct code *k)
{
	uint64_t h = k->n;

	for (unsigned i = 0; i < k->n; i += 8) {
		uint64_t v = 0;

		memcpy(&v, k->buf + i, MIN(8u, k->n - i));
		h = (h ^ v) * 0x9e3779b97f4a7c15ull;
		h ^= h >> 29;
	}
	return (uint32_t)(h >> 16);
}

bool stub_low(const struct cpu *c)
{
	const struct stub_cache *s = c->stubs;

	return s->used + CODE_RESERVE > s->code.bytes || s->nr_stubs > TABLE_SLOTS * 3 / 4;
}

static void serialise(void)
{
	uint32_t eax = 0, ebx, ecx = 0, edx;

	__asm__ volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx) : : "memory");
}

void stub_flush(struct cpu *c)
{
	struct stub_cache *s = c->stubs;

	memset(s->slot, 0, sizeof(s->slot));
	s->used = 0;
	s->nr_stubs = 0;
	/* New code comes where old code ran: SDM vol. 3, 8.1.3 wants this thread serialised. */
	serialise();
}

static const void *cache_find_or_add(struct stub_cache *s, const struct code *k)
{
	uint32_t hash = hash_of(k);
	struct stub_slot *slot;

	for (unsigned i = hash;; i++) {
		slot = &s->slot[i & (TABLE_SLOTS - 1)];
		if (!slot->bytes)
			break;
		if (slot->hash == hash && slot->bytes == k->n &&
		    !memcmp(s->code.rx + slot->at, k->buf, k->n))
			return s->code.rx + slot->at;
	}
	if (s->used + STUB_MAX > s->code.bytes || s->nr_stubs == TABLE_SLOTS - 1)
		return NULL;
	*slot = (struct stub_slot){ hash, (uint32_t)s->used, k->n };
	memcpy(s->code.rw + s->used, k->buf, k->n);
	s->used = ALIGN_UP(s->used + k->n, 16u);
	s->nr_stubs++;
	return s->code.rx + slot->at;
}

int stub_create(struct cpu *c, int host_node)
{
	const struct host *h = &c->vm->host;
	struct stub_cache *s = h->ops->alloc(h->ctx, sizeof(*s), host_node);
	int err;

	if (!s)
		return -ENOMEM;
	err = h->ops->code_map(h->ctx, CODE_BYTES, host_node, &s->code);
	if (err)
		goto free_cache;
	c->stubs = s;
	err = h->ops->fault_handler(h->ctx, stub_fault, c);
	if (err)
		goto unmap;
	return 0;
unmap:
	c->stubs = NULL;
	h->ops->code_unmap(h->ctx, &s->code);
free_cache:
	h->ops->free(h->ctx, s, sizeof(*s));
	return err;
}

void stub_destroy(struct cpu *c)
{
	const struct host *h = &c->vm->host;
	struct stub_cache *s = c->stubs;

	if (!s)
		return;
	h->ops->fault_handler(h->ctx, NULL, NULL);
	h->ops->code_unmap(h->ctx, &s->code);
	h->ops->free(h->ctx, s, sizeof(*s));
	c->stubs = NULL;
}

/* --- from instruction to op ---------------------------------------------------------------- */

/* Legacy SSE wants 16-byte operands aligned, but for these. */
static bool sse_unaligned(ZydisMnemonic mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_LDDQU:
	case ZYDIS_MNEMONIC_MOVDQU:
	case ZYDIS_MNEMONIC_MOVUPD:
	case ZYDIS_MNEMONIC_MOVUPS:
	case ZYDIS_MNEMONIC_PCMPESTRI:
	case ZYDIS_MNEMONIC_PCMPESTRM:
	case ZYDIS_MNEMONIC_PCMPISTRI:
	case ZYDIS_MNEMONIC_PCMPISTRM:
		return true;
	default:
		return false;
	}
}

static unsigned recipe_align(const struct recipe *p)
{
	unsigned bytes = p->mem->size / 8;

	switch (p->insn->meta.exception_class) {
	case ZYDIS_EXCEPTION_CLASS_AVX1:
	case ZYDIS_EXCEPTION_CLASS_E1:
	case ZYDIS_EXCEPTION_CLASS_E1NF:
		return bytes;
	default:
		if (p->wide || bytes != 16 || sse_unaligned(p->insn->mnemonic))
			return 1;
		return 16;
	}
}

/* Control instructions: take no waiting exception, or leave no trace in the pointers. */
static uint64_t x87_traits(ZydisMnemonic mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_FLDCW:
	case ZYDIS_MNEMONIC_FLDENV:
	case ZYDIS_MNEMONIC_FRSTOR:
		return STUB_WAITS;
	case ZYDIS_MNEMONIC_FDISI8087_NOP:
	case ZYDIS_MNEMONIC_FENI8087_NOP:
	case ZYDIS_MNEMONIC_FNCLEX:
	case ZYDIS_MNEMONIC_FNINIT:
	case ZYDIS_MNEMONIC_FNSAVE:
	case ZYDIS_MNEMONIC_FNSTCW:
	case ZYDIS_MNEMONIC_FNSTENV:
	case ZYDIS_MNEMONIC_FNSTSW:
	case ZYDIS_MNEMONIC_FSETPM287_NOP:
		return 0;
	default:
		return STUB_WAITS | STUB_POINTERS;
	}
}

static enum stub_gate recipe_gate(const struct recipe *p)
{
	if (p->fx)
		return STUB_FX;
	if (p->insn->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX || p->nr_masks ||
	    p->insn->meta.isa_ext == ZYDIS_ISA_EXT_AVX512VEX)
		return STUB_AVX512;
	if (p->wide)
		return p->nr_vecs ? STUB_AVX : STUB_VEX;
	return p->nr_vecs ? STUB_SSE : STUB_FREE;
}

static uint64_t recipe_traits(const struct recipe *p)
{
	uint64_t t = 0;

	if (p->mem) {
		t |= recipe_align(p) - 1;
		t |= (uint64_t)stub_mask_traits(p->insn, p->operands, p->mem) << 32;
	}
	if (!p->fx)
		return t;
	t |= x87_traits(p->insn->mnemonic);
	if (p->insn->meta.isa_ext != ZYDIS_ISA_EXT_X87 && !p->has_x87)
		t |= STUB_MMX;
	if (p->nr_vecs)
		t |= STUB_USES_SSE;
	if (!(t & STUB_MMX)) {
		unsigned modrm = p->insn->raw.modrm.mod << 6 | p->insn->raw.modrm.reg << 3 |
				 p->insn->raw.modrm.rm;

		t |= (uint64_t)((p->insn->opcode & 7u) << 8 | modrm) << STUB_FOP_SHIFT;
	}
	return t;
}

bool stub_decode(struct cpu *c, const ZydisDecodedInstruction *insn,
		 const ZydisDecodedOperand *operands, const uint8_t *bytes, struct op *o)
{
	struct recipe p = { .insn = insn, .operands = operands, .bytes = bytes };
	struct code k = { .n = 0 };
	enum stub_shape shape = STUB_REG;

	if (stub_find(insn, operands, o) || gather_find(insn, operands, o))
		return true;
	if (!recipe_make(&p, c))
		return false;
	emit_stub(&k, &p, cpu_has(&c->vm->cpuid, CPU_AVX512BW));
	o->stub = cache_find_or_add(c->stubs, &k);
	if (!o->stub)
		return false;
	if (p.mem) {
		shape = is_write(p.mem) ? STUB_STORE : STUB_LOAD;
		o->size = (uint8_t)(p.mem->size / 8);
	}
	o->imm = recipe_traits(&p);
	o->fn = stub_handler(recipe_gate(&p), shape);
	return true;
}
