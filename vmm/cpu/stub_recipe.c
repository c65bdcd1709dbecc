/*
 * stub_recipe.c - what an instruction needs of a stub: which registers are to be
 * loaded and stored, whether flags, MXCSR or the whole x87 state are involved.
 *
 * All of it comes from the decoder's operands, the hidden ones included.
 */
#include "cpu/stub_recipe.h"

static bool recipe_gpr(struct recipe *p, const ZydisDecodedOperand *op)
{
	struct stub_reg *r = &p->gpr[p->nr_gprs];
	/* Of whole registers: those of byte registers count AH to BH. */
	ZydisRegister whole =
		ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, op->reg.value);
	unsigned id = (unsigned)(whole - ZYDIS_REGISTER_RAX);

	if (p->nr_gprs == ARRAY_SIZE(p->gpr) || id >= GPR_COUNT)
		return false;
	p->nr_gprs++;
	p->narrow_gprs |= !p->in_long_mode;
	*r = (struct stub_reg){ .guest = (uint8_t)id, .write = recipe_writes(op) };
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
	r->write |= recipe_writes(op);
	r->vector_bytes = (uint8_t)MAX(r->vector_bytes, bytes);
	return true;
}

static bool recipe_mask(struct recipe *p, const ZydisDecodedOperand *op)
{
	uint8_t id = (uint8_t)ZydisRegisterGetId(op->reg.value);

	if (p->nr_masks == ARRAY_SIZE(p->mask))
		return false;
	if (id || op->encoding != ZYDIS_OPERAND_ENCODING_MASK) /* there, k0 is no mask */
		p->mask[p->nr_masks++] = (struct stub_reg){ id, id, .write = recipe_writes(op) };
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

bool recipe_make(struct recipe *p, const struct cpu *c)
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
