/*
 * sys_decode.c - from a decoded instruction to the handler of a system instruction.
 */
#include "cpu/sys.h"

typedef const ZydisDecodedOperand operand;

static unsigned reg_id(ZydisRegister r)
{
	return (unsigned)ZydisRegisterGetId(r);
}

static bool is_class(operand *p, ZydisRegisterClass class)
{
	return p->type == ZYDIS_OPERAND_TYPE_REGISTER &&
	       ZydisRegisterGetClass(p->reg.value) == class;
}

static void take_reg(operand *p, uint8_t *field)
{
	if (p->type == ZYDIS_OPERAND_TYPE_REGISTER)
		*field = (uint8_t)reg_id(p->reg.value);
}

/* reg is the first operand, r/m the second, or the other way round. */
static void reg_then_rm(operand *p, struct op *o)
{
	take_reg(&p[0], &o->reg);
	take_reg(&p[1], &o->rm);
}

static void rm_then_reg(operand *p, struct op *o)
{
	take_reg(&p[0], &o->rm);
	take_reg(&p[1], &o->reg);
}

/* Most are of the other kinds; these are 8C, 8E and 0F 20 to 0F 23. */
static sys_fn *decode_mov(const ZydisDecodedInstruction *insn, operand *p, struct op *o)
{
	static const struct {
		ZydisRegisterClass class;
		sys_fn *to, *from;
	} special[] = {
		{ ZYDIS_REGCLASS_CONTROL, sys_mov_to_cr, sys_mov_from_cr },
		{ ZYDIS_REGCLASS_DEBUG, sys_mov_to_dr, sys_mov_from_dr },
		{ ZYDIS_REGCLASS_SEGMENT, sys_mov_to_sreg, sys_mov_from_sreg },
	};

	if (insn->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && (insn->opcode & 0xfd) != 0x8c)
		return NULL;
	for (unsigned i = 0; i < ARRAY_SIZE(special); i++) {
		if (is_class(&p[0], special[i].class)) {
			reg_then_rm(p, o);
			return special[i].to;
		}
		if (is_class(&p[1], special[i].class)) {
			rm_then_reg(p, o);
			return special[i].from;
		}
	}
	return NULL;
}

static sys_fn *decode_stack(operand *p, struct op *o, sys_fn *fn)
{
	if (!is_class(&p[0], ZYDIS_REGCLASS_SEGMENT))
		return NULL;
	take_reg(&p[0], &o->reg);
	return fn;
}

static sys_fn *decode_far(const ZydisDecodedInstruction *insn, operand *p, struct op *o, sys_fn *fn)
{
	if (insn->meta.branch_type != ZYDIS_BRANCH_TYPE_FAR)
		return NULL;
	o->imm = 0;
	if (p[0].type == ZYDIS_OPERAND_TYPE_POINTER) {
		o->imm = p[0].ptr.offset;
		o->disp = p[0].ptr.segment;
	} else if (p[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
		o->imm = p[0].imm.value.u;
	}
	return fn;
}

/* The port is in DX (rm is RDX) or an immediate. */
static sys_fn *decode_port(operand *port, operand *data, struct op *o, sys_fn *fn)
{
	bool immediate = port->type == ZYDIS_OPERAND_TYPE_IMMEDIATE;

	o->size = (uint8_t)(data->size / 8);
	o->rm = immediate ? OP_NO_REG : RDX;
	o->imm = immediate ? port->imm.value.u & 0xff : 0;
	return fn;
}

static sys_fn *decode_port_string(const ZydisDecodedInstruction *insn, operand *p, struct op *o,
				  unsigned size, sys_fn *fn)
{
	o->flags &= (uint16_t) ~(OP_ADDR16 | OP_ADDR32 | OP_MEM);
	if (insn->address_width == 16)
		o->flags |= OP_ADDR16;
	else if (insn->address_width == 32)
		o->flags |= OP_ADDR32;
	if (insn->attributes &
	    (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE))
		o->flags |= OP_REP;
	o->size = (uint8_t)size;
	o->seg = SEG_DS;
	for (unsigned i = 0; i < insn->operand_count; i++) {
		if (p[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
			o->seg = (uint8_t)reg_id(p[i].mem.segment);
	}
	return fn;
}

static sys_fn *sized(struct op *o, unsigned size, sys_fn *fn)
{
	o->size = (uint8_t)size;
	return fn;
}

static sys_fn *with_rex_w(const ZydisDecodedInstruction *insn, struct op *o, sys_fn *fn)
{
	bool wide = (insn->attributes & ZYDIS_ATTRIB_HAS_REX) && insn->raw.rex.W;

	return sized(o, wide ? 8 : 4, fn);
}

/* LGDT and its kin: bases are as wide as the mode, not as the operand. */
static sys_fn *table_sized(const ZydisDecodedInstruction *insn, struct op *o, sys_fn *fn)
{
	if (insn->machine_mode == ZYDIS_MACHINE_MODE_LONG_64)
		o->size = 8;
	return fn;
}

static sys_fn *with_imm(operand *p, struct op *o, sys_fn *fn)
{
	o->imm = p[0].imm.value.u & 0xff;
	return fn;
}

static sys_fn *with_reg_rm(operand *p, struct op *o, sys_fn *fn)
{
	reg_then_rm(p, o);
	return fn;
}

static sys_fn *with_rm(operand *p, struct op *o, sys_fn *fn)
{
	take_reg(&p[0], &o->rm);
	return fn;
}

static sys_fn *with_rm_reg(operand *p, struct op *o, sys_fn *fn)
{
	rm_then_reg(p, o);
	return fn;
}

/* Instructions that some forms of have nothing to do with us, or that need operands. */
static sys_fn *decode_operands(const ZydisDecodedInstruction *insn, operand *p, struct op *o)
{
	/* clang-format off */
	switch (insn->mnemonic) {
	case ZYDIS_MNEMONIC_MOV:	return decode_mov(insn, p, o);
	case ZYDIS_MNEMONIC_PUSH:	return decode_stack(p, o, sys_push_sreg);
	case ZYDIS_MNEMONIC_POP:	return decode_stack(p, o, sys_pop_sreg);
	case ZYDIS_MNEMONIC_JMP:	return decode_far(insn, p, o, sys_jmp_far);
	case ZYDIS_MNEMONIC_CALL:	return decode_far(insn, p, o, sys_call_far);
	case ZYDIS_MNEMONIC_RET:	return decode_far(insn, p, o, sys_ret_far);
	case ZYDIS_MNEMONIC_IN:		return decode_port(&p[1], &p[0], o, sys_in);
	case ZYDIS_MNEMONIC_OUT:	return decode_port(&p[0], &p[1], o, sys_out);
	case ZYDIS_MNEMONIC_INSB:	return decode_port_string(insn, p, o, 1, sys_ins);
	case ZYDIS_MNEMONIC_INSW:	return decode_port_string(insn, p, o, 2, sys_ins);
	case ZYDIS_MNEMONIC_INSD:	return decode_port_string(insn, p, o, 4, sys_ins);
	case ZYDIS_MNEMONIC_OUTSB:	return decode_port_string(insn, p, o, 1, sys_outs);
	case ZYDIS_MNEMONIC_OUTSW:	return decode_port_string(insn, p, o, 2, sys_outs);
	case ZYDIS_MNEMONIC_OUTSD:	return decode_port_string(insn, p, o, 4, sys_outs);
	case ZYDIS_MNEMONIC_IRET:	return sized(o, 2, sys_iret);
	case ZYDIS_MNEMONIC_IRETD:	return sized(o, 4, sys_iret);
	case ZYDIS_MNEMONIC_IRETQ:	return sized(o, 8, sys_iret);
	case ZYDIS_MNEMONIC_PUSHF:	return sized(o, 2, sys_pushf);
	case ZYDIS_MNEMONIC_PUSHFD:	return sized(o, 4, sys_pushf);
	case ZYDIS_MNEMONIC_PUSHFQ:	return sized(o, 8, sys_pushf);
	case ZYDIS_MNEMONIC_POPF:	return sized(o, 2, sys_popf);
	case ZYDIS_MNEMONIC_POPFD:	return sized(o, 4, sys_popf);
	case ZYDIS_MNEMONIC_POPFQ:	return sized(o, 8, sys_popf);
	case ZYDIS_MNEMONIC_SYSRET:	return with_rex_w(insn, o, sys_sysret);
	case ZYDIS_MNEMONIC_SYSEXIT:	return with_rex_w(insn, o, sys_sysexit);
	case ZYDIS_MNEMONIC_INT:	return with_imm(p, o, sys_int);
	case ZYDIS_MNEMONIC_LDS:
	case ZYDIS_MNEMONIC_LES:
	case ZYDIS_MNEMONIC_LSS:
	case ZYDIS_MNEMONIC_LFS:
	case ZYDIS_MNEMONIC_LGS:	return with_reg_rm(p, o, sys_load_far_pointer);
	case ZYDIS_MNEMONIC_LAR:	return with_reg_rm(p, o, sys_lar);
	case ZYDIS_MNEMONIC_LSL:	return with_reg_rm(p, o, sys_lsl);
	case ZYDIS_MNEMONIC_ARPL:	return with_rm_reg(p, o, sys_arpl);
	case ZYDIS_MNEMONIC_VERR:	return with_rm(p, o, sys_verr);
	case ZYDIS_MNEMONIC_VERW:	return with_rm(p, o, sys_verw);
	case ZYDIS_MNEMONIC_LLDT:	return with_rm(p, o, sys_lldt);
	case ZYDIS_MNEMONIC_LTR:	return with_rm(p, o, sys_ltr);
	case ZYDIS_MNEMONIC_SLDT:	return with_rm(p, o, sys_sldt);
	case ZYDIS_MNEMONIC_STR:	return with_rm(p, o, sys_str);
	case ZYDIS_MNEMONIC_LMSW:	return with_rm(p, o, sys_lmsw);
	case ZYDIS_MNEMONIC_SMSW:	return with_rm(p, o, sys_smsw);
	case ZYDIS_MNEMONIC_RDFSBASE:	return with_rm(p, o, sys_rdfsbase);
	case ZYDIS_MNEMONIC_RDGSBASE:	return with_rm(p, o, sys_rdgsbase);
	case ZYDIS_MNEMONIC_WRFSBASE:	return with_rm(p, o, sys_wrfsbase);
	case ZYDIS_MNEMONIC_WRGSBASE:	return with_rm(p, o, sys_wrgsbase);
	case ZYDIS_MNEMONIC_RDPID:	return with_rm(p, o, sys_rdpid);
	case ZYDIS_MNEMONIC_RDRAND:
	case ZYDIS_MNEMONIC_RDSEED:	return with_rm(p, o, sys_rdrand);
	case ZYDIS_MNEMONIC_INVPCID:	return with_reg_rm(p, o, sys_invpcid);
	case ZYDIS_MNEMONIC_LGDT:	return table_sized(insn, o, sys_lgdt);
	case ZYDIS_MNEMONIC_LIDT:	return table_sized(insn, o, sys_lidt);
	case ZYDIS_MNEMONIC_SGDT:	return table_sized(insn, o, sys_sgdt);
	case ZYDIS_MNEMONIC_SIDT:	return table_sized(insn, o, sys_sidt);
	default:			return NULL;
	}
	/* clang-format on */
}

static sys_fn *decode_plain(ZydisMnemonic mnemonic)
{
	/* clang-format off */
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_INT3:	return sys_int3;
	case ZYDIS_MNEMONIC_INTO:	return sys_into;
	case ZYDIS_MNEMONIC_INT1:	return sys_int1;
	case ZYDIS_MNEMONIC_SYSCALL:	return sys_syscall;
	case ZYDIS_MNEMONIC_SYSENTER:	return sys_sysenter;
	case ZYDIS_MNEMONIC_SWAPGS:	return sys_swapgs;
	case ZYDIS_MNEMONIC_CLI:	return sys_cli;
	case ZYDIS_MNEMONIC_STI:	return sys_sti;
	case ZYDIS_MNEMONIC_CLAC:	return sys_clac;
	case ZYDIS_MNEMONIC_STAC:	return sys_stac;
	case ZYDIS_MNEMONIC_CLTS:	return sys_clts;
	case ZYDIS_MNEMONIC_HLT:	return sys_hlt;
	case ZYDIS_MNEMONIC_PAUSE:	return sys_pause;
	case ZYDIS_MNEMONIC_CPUID:	return sys_cpuid;
	case ZYDIS_MNEMONIC_RDTSC:
	case ZYDIS_MNEMONIC_RDTSCP:	return sys_rdtsc;
	case ZYDIS_MNEMONIC_RDPMC:	return sys_rdpmc;
	case ZYDIS_MNEMONIC_RDMSR:	return sys_rdmsr;
	case ZYDIS_MNEMONIC_WRMSR:	return sys_wrmsr;
	case ZYDIS_MNEMONIC_INVLPG:	return sys_invlpg;
	case ZYDIS_MNEMONIC_INVD:
	case ZYDIS_MNEMONIC_WBINVD:	return sys_wbinvd;
	case ZYDIS_MNEMONIC_CLFLUSH:
	case ZYDIS_MNEMONIC_CLFLUSHOPT:
	case ZYDIS_MNEMONIC_CLWB:	return sys_clflush;
	case ZYDIS_MNEMONIC_XGETBV:	return sys_xgetbv;
	case ZYDIS_MNEMONIC_XSETBV:	return sys_xsetbv;
	case ZYDIS_MNEMONIC_XSAVE:
	case ZYDIS_MNEMONIC_XSAVE64:	return sys_xsave;
	case ZYDIS_MNEMONIC_XSAVEOPT:
	case ZYDIS_MNEMONIC_XSAVEOPT64:	return sys_xsaveopt;
	case ZYDIS_MNEMONIC_XRSTOR:
	case ZYDIS_MNEMONIC_XRSTOR64:	return sys_xrstor;
	case ZYDIS_MNEMONIC_VMCALL:
	case ZYDIS_MNEMONIC_VMMCALL:	return sys_vmcall;
	case ZYDIS_MNEMONIC_MONITOR:
	case ZYDIS_MNEMONIC_MWAIT:
	case ZYDIS_MNEMONIC_RSM:
	case ZYDIS_MNEMONIC_UD0:
	case ZYDIS_MNEMONIC_UD1:
	case ZYDIS_MNEMONIC_UD2:	return sys_undefined;
	default:			return NULL;
	}
	/* clang-format on */
}

sys_fn *sys_decode(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands,
		   struct op *o)
{
	sys_fn *fn = decode_plain(insn->mnemonic);
	uint8_t size = o->size;

	if (fn)
		return fn;
	o->size = (uint8_t)(insn->operand_width / 8);
	fn = decode_operands(insn, operands, o);
	if (!fn)
		o->size = size;
	return fn;
}
