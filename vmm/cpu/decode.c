/*
 * decode.c - Zydis instruction -> struct op.
 *
 * Common fields are filled here, from prefixes and operands; the handler comes
 * from a picker of the interpreter's families, from sys_decode() or from
 * stub_decode(), in this order. What the guest's CPUID does not offer is #UD,
 * whatever the host can do.
 */
#include "cpu/decode.h"

#include "cpu/stub.h"
#include "cpu/sys.h"

/* --- registers ------------------------------------------------------------------ */

/* Zydis names registers in order: 16 of 16 bits, 16 of 32, 16 of 64. */
_Static_assert(ZYDIS_REGISTER_R15 - ZYDIS_REGISTER_AX == 47 &&
		       ZYDIS_REGISTER_EAX - ZYDIS_REGISTER_AX == 16 &&
		       ZYDIS_REGISTER_RAX - ZYDIS_REGISTER_AX == 32,
	       "general registers lie together");

uint8_t decode_gpr(ZydisRegister r)
{
	unsigned n = (unsigned)r - ZYDIS_REGISTER_AX;

	return n < 3 * GPR_COUNT ? (uint8_t)(n % GPR_COUNT) : OP_NO_REG;
}

uint8_t decode_seg(ZydisRegister r)
{
	switch (r) {
	case ZYDIS_REGISTER_ES:
		return SEG_ES;
	case ZYDIS_REGISTER_CS:
		return SEG_CS;
	case ZYDIS_REGISTER_SS:
		return SEG_SS;
	case ZYDIS_REGISTER_FS:
		return SEG_FS;
	case ZYDIS_REGISTER_GS:
		return SEG_GS;
	default:
		return SEG_DS;
	}
}

/* AL..BL, AH..BH, SPL..DIL, R8B..R15B, as Zydis orders them. */
static uint8_t byte_reg(ZydisRegister r)
{
	unsigned i = (unsigned)(r - ZYDIS_REGISTER_AL);

	if (i < 4)
		return (uint8_t)(i * 8);
	if (i < 8)
		return (uint8_t)((i - 4) * 8 + 1);
	return (uint8_t)((i - 4) * 8);
}

uint8_t decode_reg(const struct decoding *d, unsigned operand)
{
	ZydisRegister r = d->operand[operand].reg.value;

	return decode_is_gpr8(r) ? byte_reg(r) : decode_gpr(r);
}

enum shape decode_shape(struct decoding *d)
{
	const ZydisDecodedOperand *dst = &d->operand[0], *src = &d->operand[1];
	struct op *o = d->op;

	if (dst->type == ZYDIS_OPERAND_TYPE_MEMORY) {
		if (src->type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
			return SHAPE_MI;
		o->reg = decode_reg(d, 1);
		return SHAPE_MR;
	}
	if (src->type == ZYDIS_OPERAND_TYPE_MEMORY) {
		o->reg = decode_reg(d, 0);
		return SHAPE_RM;
	}
	o->rm = decode_reg(d, 0);
	if (src->type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
		return SHAPE_RI;
	o->reg = decode_reg(d, 1);
	return SHAPE_RR;
}

/* --- pickers by mnemonic ---------------------------------------------------------- */

#define M(name) ZYDIS_MNEMONIC_##name

static pick_fn *const pickers[ZYDIS_MNEMONIC_MAX_VALUE + 1] = {
	[M(ADD)] = pick_alu,
	[M(OR)] = pick_alu,
	[M(ADC)] = pick_alu,
	[M(SBB)] = pick_alu,
	[M(AND)] = pick_alu,
	[M(SUB)] = pick_alu,
	[M(XOR)] = pick_alu,
	[M(CMP)] = pick_alu,
	[M(TEST)] = pick_test,
	[M(INC)] = pick_unary,
	[M(DEC)] = pick_unary,
	[M(NOT)] = pick_unary,
	[M(NEG)] = pick_unary,

	[M(SHL)] = pick_shift,
	[M(SHR)] = pick_shift,
	[M(SAR)] = pick_shift,
	[M(ROL)] = pick_shift,
	[M(ROR)] = pick_shift,
	[M(RCL)] = pick_shift,
	[M(RCR)] = pick_shift,
	[M(SHLD)] = pick_double_shift,
	[M(SHRD)] = pick_double_shift,

	[M(MUL)] = pick_mul,
	[M(IMUL)] = pick_imul,
	[M(DIV)] = pick_div,
	[M(IDIV)] = pick_div,

	[M(BT)] = pick_bit_test,
	[M(BTS)] = pick_bit_test,
	[M(BTR)] = pick_bit_test,
	[M(BTC)] = pick_bit_test,
	[M(BSF)] = pick_bit_scan,
	[M(BSR)] = pick_bit_scan,

	[M(MOV)] = pick_mov,
	[M(MOVNTI)] = pick_mov,
	[M(MOVZX)] = pick_extend,
	[M(MOVSX)] = pick_extend,
	[M(MOVSXD)] = pick_extend,
	[M(LEA)] = pick_lea,
	[M(BSWAP)] = pick_bswap,
	[M(CBW)] = pick_convert,
	[M(CWDE)] = pick_convert,
	[M(CDQE)] = pick_convert,
	[M(CWD)] = pick_convert,
	[M(CDQ)] = pick_convert,
	[M(CQO)] = pick_convert,
	[M(XLAT)] = pick_xlat,
	[M(LAHF)] = pick_flag,
	[M(SAHF)] = pick_flag,
	[M(CLC)] = pick_flag,
	[M(STC)] = pick_flag,
	[M(CMC)] = pick_flag,
	[M(CLD)] = pick_flag,
	[M(STD)] = pick_flag,
	[M(SALC)] = pick_flag,

	[M(NOP)] = pick_nop,
	[M(MFENCE)] = pick_nop,
	[M(LFENCE)] = pick_nop,
	[M(SFENCE)] = pick_nop,
	[M(PREFETCH)] = pick_nop,
	[M(PREFETCHNTA)] = pick_nop,
	[M(PREFETCHT0)] = pick_nop,
	[M(PREFETCHT1)] = pick_nop,
	[M(PREFETCHT2)] = pick_nop,
	[M(PREFETCHW)] = pick_nop,
	[M(PREFETCHWT1)] = pick_nop,
	[M(ENDBR32)] = pick_nop,
	[M(ENDBR64)] = pick_nop,
	[M(CLDEMOTE)] = pick_nop,

	[M(XCHG)] = pick_xchg,
	[M(XADD)] = pick_xadd,
	[M(CMPXCHG)] = pick_cmpxchg,
	[M(CMPXCHG8B)] = pick_cmpxchg_wide,
	[M(CMPXCHG16B)] = pick_cmpxchg_wide,

	[M(JO)] = pick_cc,
	[M(JNO)] = pick_cc,
	[M(JB)] = pick_cc,
	[M(JNB)] = pick_cc,
	[M(JZ)] = pick_cc,
	[M(JNZ)] = pick_cc,
	[M(JBE)] = pick_cc,
	[M(JNBE)] = pick_cc,
	[M(JS)] = pick_cc,
	[M(JNS)] = pick_cc,
	[M(JP)] = pick_cc,
	[M(JNP)] = pick_cc,
	[M(JL)] = pick_cc,
	[M(JNL)] = pick_cc,
	[M(JLE)] = pick_cc,
	[M(JNLE)] = pick_cc,
	[M(SETO)] = pick_cc,
	[M(SETNO)] = pick_cc,
	[M(SETB)] = pick_cc,
	[M(SETNB)] = pick_cc,
	[M(SETZ)] = pick_cc,
	[M(SETNZ)] = pick_cc,
	[M(SETBE)] = pick_cc,
	[M(SETNBE)] = pick_cc,
	[M(SETS)] = pick_cc,
	[M(SETNS)] = pick_cc,
	[M(SETP)] = pick_cc,
	[M(SETNP)] = pick_cc,
	[M(SETL)] = pick_cc,
	[M(SETNL)] = pick_cc,
	[M(SETLE)] = pick_cc,
	[M(SETNLE)] = pick_cc,
	[M(CMOVO)] = pick_cc,
	[M(CMOVNO)] = pick_cc,
	[M(CMOVB)] = pick_cc,
	[M(CMOVNB)] = pick_cc,
	[M(CMOVZ)] = pick_cc,
	[M(CMOVNZ)] = pick_cc,
	[M(CMOVBE)] = pick_cc,
	[M(CMOVNBE)] = pick_cc,
	[M(CMOVS)] = pick_cc,
	[M(CMOVNS)] = pick_cc,
	[M(CMOVP)] = pick_cc,
	[M(CMOVNP)] = pick_cc,
	[M(CMOVL)] = pick_cc,
	[M(CMOVNL)] = pick_cc,
	[M(CMOVLE)] = pick_cc,
	[M(CMOVNLE)] = pick_cc,

	[M(PUSH)] = pick_push,
	[M(POP)] = pick_pop,
	[M(PUSHA)] = pick_stack,
	[M(PUSHAD)] = pick_stack,
	[M(POPA)] = pick_stack,
	[M(POPAD)] = pick_stack,
	[M(ENTER)] = pick_stack,
	[M(LEAVE)] = pick_stack,

	[M(JMP)] = pick_jmp,
	[M(CALL)] = pick_call,
	[M(RET)] = pick_ret,
	[M(LOOP)] = pick_loop,
	[M(LOOPE)] = pick_loop,
	[M(LOOPNE)] = pick_loop,
	[M(JCXZ)] = pick_loop,
	[M(JECXZ)] = pick_loop,
	[M(JRCXZ)] = pick_loop,
	[M(BOUND)] = pick_bound,

	[M(MOVSB)] = pick_string,
	[M(MOVSW)] = pick_string,
	[M(MOVSD)] = pick_string,
	[M(MOVSQ)] = pick_string,
	[M(STOSB)] = pick_string,
	[M(STOSW)] = pick_string,
	[M(STOSD)] = pick_string,
	[M(STOSQ)] = pick_string,
	[M(LODSB)] = pick_string,
	[M(LODSW)] = pick_string,
	[M(LODSD)] = pick_string,
	[M(LODSQ)] = pick_string,
	[M(CMPSB)] = pick_string,
	[M(CMPSW)] = pick_string,
	[M(CMPSD)] = pick_string,
	[M(CMPSQ)] = pick_string,
	[M(SCASB)] = pick_string,
	[M(SCASW)] = pick_string,
	[M(SCASD)] = pick_string,
	[M(SCASQ)] = pick_string,

	[M(AAA)] = pick_bcd,
	[M(AAS)] = pick_bcd,
	[M(AAM)] = pick_bcd,
	[M(AAD)] = pick_bcd,
	[M(DAA)] = pick_bcd,
	[M(DAS)] = pick_bcd,
};

/* --- features ------------------------------------------------------------------------ */

#define NEVER     0 /* what is not in the table */
#define ALWAYS    UINT8_MAX
#define HAS(f)    (CPU_##f + 1)
#define ISA(name) ZYDIS_ISA_SET_##name

_Static_assert(CPU_FEATURE_COUNT + 1 < ALWAYS, "features are named in 8 bits");

/* What each instruction set asks of the guest's CPUID. */
static const uint8_t isa_feature[ZYDIS_ISA_SET_MAX_VALUE + 1] = {
	[ISA(I86)] = ALWAYS,
	[ISA(I186)] = ALWAYS,
	[ISA(I286PROTECTED)] = ALWAYS,
	[ISA(I286REAL)] = ALWAYS,
	[ISA(I386)] = ALWAYS,
	[ISA(I486)] = ALWAYS,
	[ISA(I486REAL)] = ALWAYS,
	[ISA(PENTIUMREAL)] = ALWAYS,
	[ISA(PPRO)] = ALWAYS,
	[ISA(LONGMODE)] = ALWAYS,
	[ISA(LAHF)] = ALWAYS,
	[ISA(X87)] = HAS(FPU),
	[ISA(FAT_NOP)] = ALWAYS,
	[ISA(PAUSE)] = ALWAYS,
	[ISA(PREFETCH_NOP)] = ALWAYS,
	[ISA(PREFETCHWT1)] = ALWAYS,
	[ISA(SSE_PREFETCH)] = ALWAYS,
	[ISA(RDPMC)] = ALWAYS,
	[ISA(VTX)] = ALWAYS, /* VMCALL; the others have no handler */
	[ISA(SVM)] = ALWAYS, /* VMMCALL, likewise */
	[ISA(AMD)] = HAS(SYSCALL),

	[ISA(CMOV)] = HAS(CMOV),
	[ISA(FCMOV)] = HAS(CMOV),
	[ISA(CMPXCHG16B)] = HAS(CX16),
	[ISA(FXSAVE)] = HAS(FXSR),
	[ISA(FXSAVE64)] = HAS(FXSR),
	[ISA(PENTIUMMMX)] = HAS(MMX),
	[ISA(SSE)] = HAS(SSE),
	[ISA(SSEMXCSR)] = HAS(SSE),
	[ISA(SSE2)] = HAS(SSE2),
	[ISA(SSE2MMX)] = HAS(SSE2),
	[ISA(SSE3)] = HAS(SSE3),
	[ISA(SSE3X87)] = HAS(SSE3),
	[ISA(SSSE3)] = HAS(SSSE3),
	[ISA(SSSE3MMX)] = HAS(SSSE3),
	[ISA(SSE4)] = HAS(SSE4_1),
	[ISA(SSE42)] = HAS(SSE4_2),
	[ISA(POPCNT)] = HAS(POPCNT),
	[ISA(LZCNT)] = HAS(ABM),
	[ISA(MOVBE)] = HAS(MOVBE),
	[ISA(BMI1)] = HAS(BMI1),
	[ISA(BMI2)] = HAS(BMI2),
	[ISA(ADOX_ADCX)] = HAS(ADX),
	[ISA(AES)] = HAS(AES),
	[ISA(PCLMULQDQ)] = HAS(PCLMULQDQ),
	[ISA(SHA)] = HAS(SHA_NI),
	[ISA(GFNI)] = HAS(GFNI),

	[ISA(CLFSH)] = HAS(CLFLUSH),
	[ISA(CLFLUSHOPT)] = HAS(CLFLUSHOPT),
	[ISA(CLWB)] = HAS(CLWB),
	[ISA(INVPCID)] = HAS(INVPCID),
	[ISA(RDPID)] = HAS(RDPID),
	[ISA(RDRAND)] = HAS(RDRAND),
	[ISA(RDSEED)] = HAS(RDSEED),
	[ISA(RDTSCP)] = HAS(RDTSCP),
	[ISA(RDWRFSGS)] = HAS(FSGSBASE),
	[ISA(SMAP)] = HAS(SMAP),

	[ISA(XSAVE)] = HAS(XSAVE),
	[ISA(XSAVEOPT)] = HAS(XSAVEOPT),
	[ISA(AVX)] = HAS(AVX),
	[ISA(AVXAES)] = HAS(AVX),
	[ISA(AVX2)] = HAS(AVX2),
	[ISA(AVX2GATHER)] = HAS(AVX2),
	[ISA(AVX_GFNI)] = HAS(GFNI),
	[ISA(F16C)] = HAS(F16C),
	[ISA(FMA)] = HAS(FMA),
	[ISA(VAES)] = HAS(VAES),
	[ISA(VPCLMULQDQ)] = HAS(VPCLMULQDQ),

	[ISA(AVX512F_128)] = HAS(AVX512F),
	[ISA(AVX512F_128N)] = HAS(AVX512F),
	[ISA(AVX512F_256)] = HAS(AVX512F),
	[ISA(AVX512F_512)] = HAS(AVX512F),
	[ISA(AVX512F_KOP)] = HAS(AVX512F),
	[ISA(AVX512F_SCALAR)] = HAS(AVX512F),
	[ISA(AVX512BW_128)] = HAS(AVX512BW),
	[ISA(AVX512BW_128N)] = HAS(AVX512BW),
	[ISA(AVX512BW_256)] = HAS(AVX512BW),
	[ISA(AVX512BW_512)] = HAS(AVX512BW),
	[ISA(AVX512BW_KOP)] = HAS(AVX512BW),
	[ISA(AVX512CD_128)] = HAS(AVX512CD),
	[ISA(AVX512CD_256)] = HAS(AVX512CD),
	[ISA(AVX512CD_512)] = HAS(AVX512CD),
	[ISA(AVX512DQ_128)] = HAS(AVX512DQ),
	[ISA(AVX512DQ_128N)] = HAS(AVX512DQ),
	[ISA(AVX512DQ_256)] = HAS(AVX512DQ),
	[ISA(AVX512DQ_512)] = HAS(AVX512DQ),
	[ISA(AVX512DQ_KOP)] = HAS(AVX512DQ),
	[ISA(AVX512DQ_SCALAR)] = HAS(AVX512DQ),
	[ISA(AVX512_GFNI_128)] = HAS(GFNI),
	[ISA(AVX512_GFNI_256)] = HAS(GFNI),
	[ISA(AVX512_GFNI_512)] = HAS(GFNI),
	[ISA(AVX512_VAES_128)] = HAS(VAES),
	[ISA(AVX512_VAES_256)] = HAS(VAES),
	[ISA(AVX512_VAES_512)] = HAS(VAES),
	[ISA(AVX512_VPCLMULQDQ_128)] = HAS(VPCLMULQDQ),
	[ISA(AVX512_VPCLMULQDQ_256)] = HAS(VPCLMULQDQ),
	[ISA(AVX512_VPCLMULQDQ_512)] = HAS(VPCLMULQDQ),
};

bool decode_has_isa(const struct cpu *c, ZydisISASet isa)
{
	uint8_t f = isa_feature[isa];

	return f == ALWAYS || (f != NEVER && cpu_has(&c->vm->cpuid, (enum cpu_feature)(f - 1)));
}

/* --- decoders -------------------------------------------------------------------------- */

/*
 * Encodings that mean an older instruction, or a NOP, on processors without the
 * extension: REP BSF is TZCNT only where BMI1 is.
 */
static void set_extensions(struct decoder *dec, const struct cpuid_model *m)
{
	ZydisDecoder *z = &dec->zydis;

	ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
	ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
	ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_FALSE);
	ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_WBNOINVD, ZYAN_FALSE);
	ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_LZCNT, cpu_has(m, CPU_ABM));
	ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_TZCNT, cpu_has(m, CPU_BMI1));
}

void decoder_init(struct decoder *dec, enum decode_key key, const struct cpuid_model *m)
{
	static const struct {
		ZydisMachineMode mode;
		ZydisStackWidth stack;
	} form[DECODE_KEYS] = {
		[DECODE_REAL_16] = { ZYDIS_MACHINE_MODE_REAL_16, ZYDIS_STACK_WIDTH_16 },
		[DECODE_16] = { ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16 },
		[DECODE_32] = { ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32 },
		[DECODE_64] = { ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64 },
	};

	ZydisDecoderInit(&dec->zydis, form[key].mode, form[key].stack);
	set_extensions(dec, m);
}

/* --- common fields ---------------------------------------------------------------------- */

static bool fits_int32(int64_t v)
{
	return v == (int32_t)v;
}

/* A base or index as a word of struct cpu. */
static uint8_t addr_word(uint8_t gpr)
{
	return (uint8_t)(gpr == OP_NO_REG ? CPU_WORD(zero) : CPU_WORD(s.gpr[0]) + gpr);
}

/* Only in 64-bit mode, with 64-bit addresses, without FS or GS. */
static void make_plain(struct decoding *d)
{
	struct op *o = d->op;
	int64_t disp = o->disp;

	if (d->cpu->mode != MODE_64 || o->flags & (OP_ADDR32 | OP_DISP64))
		return;
	if ((o->seg == SEG_FS || o->seg == SEG_GS) && d->insn.mnemonic != ZYDIS_MNEMONIC_LEA)
		return;
	o->addr_base = addr_word(o->base);
	o->addr_index = addr_word(o->index);
	if (o->flags & OP_RIPREL) {
		disp += o->off + o->len;
		if (!fits_int32(disp))
			return;
		o->addr_base = CPU_WORD(block_rip);
		o->disp = (int32_t)disp;
	}
	o->flags |= OP_PLAIN;
}

bool decode_no_base(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *m)
{
	return m->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM &&
	       (insn->attributes & ZYDIS_ATTRIB_HAS_SIB) && insn->raw.modrm.mod == 0 &&
	       insn->raw.sib.base == 5;
}

static void fill_memory(struct decoding *d, const ZydisDecodedOperand *m)
{
	struct op *o = d->op;

	o->seg = decode_seg(m->mem.segment);
	o->base = decode_gpr(m->mem.base);
	o->index = decode_gpr(m->mem.index);
	if (o->index != OP_NO_REG)
		o->shift = (uint8_t)__builtin_ctz(m->mem.scale);
	if (m->mem.base == ZYDIS_REGISTER_RIP || m->mem.base == ZYDIS_REGISTER_EIP)
		o->flags |= OP_RIPREL;
	o->disp = (int32_t)m->mem.disp.value;
	if (!fits_int32(m->mem.disp.value)) {
		o->flags |= OP_DISP64;
		o->imm = (uint64_t)m->mem.disp.value;
	}
	if (decode_no_base(&d->insn, m)) {
		o->base = OP_NO_REG;
		o->disp = (int32_t)d->insn.raw.disp.value;
	}
	make_plain(d);
}

/* Explicit operands come first, so the first memory operand is the one addressing is about. */
static void fill_operands(struct decoding *d)
{
	const ZydisDecodedInstruction *insn = &d->insn;
	bool has_imm = false, has_mem = false;
	struct op *o = d->op;
	unsigned i;

	for (i = 0; i < insn->operand_count; i++) {
		const ZydisDecodedOperand *p = &d->operand[i];

		if (p->type == ZYDIS_OPERAND_TYPE_IMMEDIATE && !has_imm) {
			has_imm = true;
			o->imm = p->imm.value.u;
		} else if (p->type == ZYDIS_OPERAND_TYPE_MEMORY && !has_mem) {
			has_mem = true;
			if (i < insn->operand_count_visible)
				o->flags |= OP_MEM;
			fill_memory(d, p);
		}
	}
}

static void fill_registers(struct decoding *d)
{
	const ZydisDecodedInstruction *insn = &d->insn;
	bool rex = insn->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
		   (insn->attributes & ZYDIS_ATTRIB_HAS_REX);
	struct op *o = d->op;

	o->reg = insn->raw.modrm.reg;
	o->rm = insn->raw.modrm.rm;
	if (!(insn->attributes & ZYDIS_ATTRIB_HAS_MODRM))
		o->rm = insn->opcode & 7;
	if (!rex)
		return;
	o->reg |= (uint8_t)(insn->raw.rex.R << 3);
	o->rm |= (uint8_t)(insn->raw.rex.B << 3);
	o->flags |= OP_REX;
	if (insn->raw.rex.W)
		o->flags |= OP_REXW;
}

static void fill_common(struct decoding *d, unsigned off)
{
	const ZydisDecodedInstruction *insn = &d->insn;
	struct op *o = d->op;

	o->off = (uint16_t)off;
	o->len = insn->length;
	o->mnemonic = (uint16_t)insn->mnemonic;
	o->size = (uint8_t)(insn->operand_width / 8);
	if (insn->address_width == 32)
		o->flags |= OP_ADDR32;
	else if (insn->address_width == 16)
		o->flags |= OP_ADDR16;
	if (insn->attributes & ZYDIS_ATTRIB_HAS_LOCK)
		o->flags |= OP_LOCK;
	if (insn->attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE))
		o->flags |= OP_REP;
	if (insn->attributes & ZYDIS_ATTRIB_HAS_REPNE)
		o->flags |= OP_REPNE;
	fill_registers(d);
	fill_operands(d);
}

/* --- the whole instruction ------------------------------------------------------------ */

static bool fill_handler(struct decoding *d)
{
	struct op *o = d->op;
	sys_fn *sys = sys_decode(&d->insn, d->operand, o);
	pick_fn *pick = pickers[d->insn.mnemonic];

	if (sys) {
		o->sys = sys;
		o->fn = op_system;
		d->ends_block = true;
		return true;
	}
	/* MOVSD and CMPSD name a vector instruction, too. */
	if (pick == pick_string && d->insn.meta.category != ZYDIS_CATEGORY_STRINGOP)
		pick = NULL;
	if (pick) {
		o->fn = pick(d);
		return o->fn;
	}
	return stub_decode(d->cpu, &d->insn, d->operand, d->bytes, o);
}

static enum decode_result refuse(struct decoding *d, unsigned off, op_fn *fn)
{
	*d->op = (struct op){ .fn = fn, .off = (uint16_t)off, .len = 1 };
	d->ends_block = true;
	return fn == op_undefined ? DECODE_BAD : DECODE_LONG;
}

enum decode_result decode_insn(struct decoding *d, const struct decoder *dec, const uint8_t *buf,
			       unsigned bytes, unsigned off)
{
	ZyanStatus status;

	d->bytes = buf;
	d->ends_block = false;
	*d->op = (struct op){ .base = OP_NO_REG, .index = OP_NO_REG, .seg = SEG_DS };

	status = ZydisDecoderDecodeFull(&dec->zydis, buf, bytes, &d->insn, d->operand);
	if (status == ZYDIS_STATUS_NO_MORE_DATA && bytes < INSN_BYTES_MAX)
		return DECODE_SHORT;
	if (status == ZYDIS_STATUS_NO_MORE_DATA || status == ZYDIS_STATUS_INSTRUCTION_TOO_LONG)
		return refuse(d, off, op_too_long);
	if (!ZYAN_SUCCESS(status) || !decode_has_isa(d->cpu, d->insn.meta.isa_set))
		return refuse(d, off, op_undefined);
	fill_common(d, off);
	if (!fill_handler(d))
		return refuse(d, off, op_undefined);
	return DECODE_OK;
}
