/*
 * xlat_decode.c - what a block is made of: its instructions, and which flags matter where.
 */
#include "cpu/mmu.h"
#include "cpu/sys.h"
#include "cpu/xlat_gen.h"

bool xlat_is_high_byte(ZydisRegister r)
{
	return r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH;
}

/* The number of a general register of any width, or OP_NO_REG. */
uint8_t xlat_gpr(ZydisRegister r)
{
	if (!decode_is_gpr8(r))
		return decode_gpr(r);
	if (xlat_is_high_byte(r))
		return (uint8_t)(r - ZYDIS_REGISTER_AH);
	return (uint8_t)(r < ZYDIS_REGISTER_AH ? r - ZYDIS_REGISTER_AL
					       : r - ZYDIS_REGISTER_SPL + 4);
}

static bool between(ZydisRegister r, ZydisRegister first, ZydisRegister last)
{
	return r >= first && r <= last;
}

_Static_assert(ZYDIS_REGISTER_ZMM31 - ZYDIS_REGISTER_XMM0 >= 3 * 32 - 1,
	       "XMM, YMM and ZMM follow each other");

static bool is_vec(ZydisRegister r)
{
	return between(r, ZYDIS_REGISTER_XMM0, ZYDIS_REGISTER_ZMM31) ||
	       between(r, ZYDIS_REGISTER_ST0, ZYDIS_REGISTER_ST7) ||
	       between(r, ZYDIS_REGISTER_MM0, ZYDIS_REGISTER_MM7) ||
	       between(r, ZYDIS_REGISTER_K0, ZYDIS_REGISTER_K7);
}

/* All that computes on vectors and opmasks; whole states and gathers have other operands. */
static bool is_wide_vec(const ZydisDecodedInstruction *z)
{
	switch (z->meta.isa_ext) {
	case ZYDIS_ISA_EXT_AVX:
	case ZYDIS_ISA_EXT_AVX2:
	case ZYDIS_ISA_EXT_AVX512EVEX:
	case ZYDIS_ISA_EXT_AVX512VEX:
	case ZYDIS_ISA_EXT_AVXAES:
	case ZYDIS_ISA_EXT_F16C:
	case ZYDIS_ISA_EXT_FMA:
	case ZYDIS_ISA_EXT_VAES:
	case ZYDIS_ISA_EXT_VPCLMULQDQ:
		return true;
	case ZYDIS_ISA_EXT_GFNI:
		return z->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY;
	default:
		return false;
	}
}

static bool category_is_plain(const ZydisDecodedInstruction *z)
{
	if (is_wide_vec(z))
		return true;
	switch (z->meta.category) {
	case ZYDIS_CATEGORY_BINARY:
	case ZYDIS_CATEGORY_LOGICAL:
	case ZYDIS_CATEGORY_SHIFT:
	case ZYDIS_CATEGORY_ROTATE:
	case ZYDIS_CATEGORY_BITBYTE:
	case ZYDIS_CATEGORY_CMOV:
	case ZYDIS_CATEGORY_CONVERT:
	case ZYDIS_CATEGORY_DATAXFER:
	case ZYDIS_CATEGORY_SETCC:
	case ZYDIS_CATEGORY_FLAGOP:
	case ZYDIS_CATEGORY_SEMAPHORE:
	case ZYDIS_CATEGORY_SSE:
	case ZYDIS_CATEGORY_MMX:
	case ZYDIS_CATEGORY_LOGICAL_FP:
	case ZYDIS_CATEGORY_X87_ALU:
	case ZYDIS_CATEGORY_FCMOV:
	case ZYDIS_CATEGORY_BMI1:
	case ZYDIS_CATEGORY_BMI2:
	case ZYDIS_CATEGORY_LZCNT:
	case ZYDIS_CATEGORY_AES:
	case ZYDIS_CATEGORY_PCLMULQDQ:
	case ZYDIS_CATEGORY_SHA:
	case ZYDIS_CATEGORY_ADOX_ADCX:
	case ZYDIS_CATEGORY_GFNI:
		return true;
	default:
		return z->mnemonic == ZYDIS_MNEMONIC_POPCNT ||
		       z->mnemonic == ZYDIS_MNEMONIC_LFENCE ||
		       z->mnemonic == ZYDIS_MNEMONIC_SFENCE || z->mnemonic == ZYDIS_MNEMONIC_MFENCE;
	}
}

/* Whole FPU states, and what knows where it is. */
static bool mnemonic_is_special(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_FXSAVE:
	case ZYDIS_MNEMONIC_FXSAVE64:
	case ZYDIS_MNEMONIC_FXRSTOR:
	case ZYDIS_MNEMONIC_FXRSTOR64:
	case ZYDIS_MNEMONIC_FNSTENV:
	case ZYDIS_MNEMONIC_FLDENV:
	case ZYDIS_MNEMONIC_FNSAVE:
	case ZYDIS_MNEMONIC_FRSTOR:
	case ZYDIS_MNEMONIC_FWAIT:
	case ZYDIS_MNEMONIC_BOUND:
		return true;
	default:
		return false;
	}
}

/* What an instruction does to flags when its count is zero it does not do. */
static bool writes_flags_always(const struct insn *n)
{
	const ZydisDecodedInstruction *z = &n->z;
	const ZydisDecodedOperand *count = &n->operand[1];

	if (z->mnemonic == ZYDIS_MNEMONIC_SHLD || z->mnemonic == ZYDIS_MNEMONIC_SHRD)
		count = &n->operand[2];
	else if (z->meta.category != ZYDIS_CATEGORY_SHIFT &&
		 z->meta.category != ZYDIS_CATEGORY_ROTATE)
		return true;
	if (count->type != ZYDIS_OPERAND_TYPE_IMMEDIATE)
		return false;
	return count->imm.value.u & (z->operand_width == 64 ? 0x3f : 0x1f);
}

static void note_flags(struct insn *n)
{
	const ZydisAccessedFlags *f = n->z.cpu_flags;

	n->reads = n->writes = n->kills = 0;
	if (n->kind == K_SYSTEM) { /* they have to be where C looks for them */
		n->reads = FLAGS_ALL;
		return;
	}
	if (!f)
		return;
	n->reads = (uint16_t)(f->tested & FLAGS_ALL);
	n->writes = (uint16_t)((f->modified | f->set_0 | f->set_1 | f->undefined) & FLAGS_ALL);
	if (writes_flags_always(n))
		n->kills = n->writes;
	/* The manual leaves others undefined; processors leave them as they are. */
	if (n->z.meta.category == ZYDIS_CATEGORY_BITBYTE)
		n->kills &= ZYDIS_CPUFLAG_CF;
}

/* A plain instruction that can keep its form; operands decide. */
static bool operands_are_plain(struct insn *n)
{
	bool high = false, extended = false;
	unsigned i;

	for (i = 0; i < n->z.operand_count; i++) {
		const ZydisDecodedOperand *p = &n->operand[i];
		bool hidden = p->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN;

		switch (p->type) {
		case ZYDIS_OPERAND_TYPE_MEMORY:
			if (hidden || n->mem >= 0 || p->encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM)
				return false;
			if (p->size > 512 || p->mem.index >= ZYDIS_REGISTER_XMM0 ||
			    p->mem.base == ZYDIS_REGISTER_EIP)
				return false;
			n->mem = (int8_t)i;
			break;
		case ZYDIS_OPERAND_TYPE_REGISTER:
			if (is_vec(p->reg.value)) {
				n->vec = true;
			} else if (xlat_is_high_byte(p->reg.value)) {
				high = true;
			} else if (!hidden && xlat_gpr(p->reg.value) != OP_NO_REG) {
				uint8_t r = xlat_gpr(p->reg.value);

				extended |= r == RSP || r >= R8;
			}
			break;
		case ZYDIS_OPERAND_TYPE_IMMEDIATE:
			break;
		default:
			return false;
		}
	}
	/* AH and its like need an encoding without REX. */
	return !high || (n->mem < 0 && !extended);
}

static bool is_bit_test(ZydisMnemonic m)
{
	return m == ZYDIS_MNEMONIC_BT || m == ZYDIS_MNEMONIC_BTS || m == ZYDIS_MNEMONIC_BTR ||
	       m == ZYDIS_MNEMONIC_BTC;
}

static enum kind branch_kind(struct insn *n)
{
	const ZydisDecodedInstruction *z = &n->z;

	if (z->operand_width != 64 || z->address_width != 64)
		return K_INTERP;
	if (n->operand[0].type == ZYDIS_OPERAND_TYPE_MEMORY &&
	    z->meta.category != ZYDIS_CATEGORY_RET)
		n->mem = 0;
	switch (z->meta.category) {
	case ZYDIS_CATEGORY_COND_BR:
		return z->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && (z->opcode & 0xf0) != 0x70
			       ? K_INTERP /* LOOP, JRCXZ */
			       : K_JCC;
	case ZYDIS_CATEGORY_CALL:
		return K_CALL;
	case ZYDIS_CATEGORY_RET:
		return K_RET;
	default:
		return K_JMP;
	}
}

static enum kind stack_kind(struct insn *n)
{
	const ZydisDecodedOperand *p = &n->operand[0];

	if (n->z.operand_width != 64)
		return K_INTERP;
	if (n->z.mnemonic == ZYDIS_MNEMONIC_POP)
		return p->type == ZYDIS_OPERAND_TYPE_REGISTER && xlat_gpr(p->reg.value) != OP_NO_REG
			       ? K_POP
			       : K_INTERP;
	if (p->type == ZYDIS_OPERAND_TYPE_REGISTER && xlat_gpr(p->reg.value) == OP_NO_REG)
		return K_INTERP;
	if (p->type == ZYDIS_OPERAND_TYPE_MEMORY)
		n->mem = 0;
	return K_PUSH;
}

/*
 * Undefined flags that processors define otherwise than the interpreter does: OF of
 * rotations by a constant, which it makes rotations by CL; those of divisions.
 */
static bool has_own_flags(const struct insn *n)
{
	if (n->z.mnemonic == ZYDIS_MNEMONIC_DIV || n->z.mnemonic == ZYDIS_MNEMONIC_IDIV)
		return true;
	return n->z.meta.category == ZYDIS_CATEGORY_ROTATE &&
	       n->operand[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE && n->operand[1].imm.value.u != 1;
}

static enum xvec vec_needed(const ZydisDecodedInstruction *z)
{
	if (!is_wide_vec(z))
		return XVEC_SSE;
	return z->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX ||
			       z->meta.isa_ext == ZYDIS_ISA_EXT_AVX512VEX
		       ? XVEC_AVX512
		       : XVEC_AVX;
}

/* System instructions that are a few moves, once the privilege is checked. */
static enum kind system_kind(const struct insn *n)
{
	const ZydisDecodedOperand *p = n->operand;

	switch (n->z.mnemonic) {
	case ZYDIS_MNEMONIC_PUSHFQ:
		return K_PUSHF;
	case ZYDIS_MNEMONIC_CLI:
		return K_CLI;
	case ZYDIS_MNEMONIC_STI:
		return K_STI;
	case ZYDIS_MNEMONIC_SWAPGS:
		return K_SWAPGS;
	case ZYDIS_MNEMONIC_RDTSC:
	case ZYDIS_MNEMONIC_RDTSCP:
		return K_TSC;
	case ZYDIS_MNEMONIC_RDFSBASE:
	case ZYDIS_MNEMONIC_RDGSBASE:
	case ZYDIS_MNEMONIC_WRFSBASE:
	case ZYDIS_MNEMONIC_WRGSBASE:
		return n->z.operand_width == 64 ? K_BASE : K_INTERP;
	case ZYDIS_MNEMONIC_MOV:
		if (p[0].type != ZYDIS_OPERAND_TYPE_REGISTER ||
		    xlat_gpr(p[0].reg.value) == OP_NO_REG)
			return K_INTERP;
		if (p[1].reg.value == ZYDIS_REGISTER_CR2 || p[1].reg.value == ZYDIS_REGISTER_CR3)
			return K_CR;
		return ZydisRegisterGetClass(p[1].reg.value) == ZYDIS_REGCLASS_SEGMENT ? K_SREG
										       : K_INTERP;
	default:
		return K_INTERP;
	}
}

static enum kind rep_kind(const struct insn *n)
{
	const ZydisDecodedInstruction *z = &n->z;

	if (!(z->attributes & ZYDIS_ATTRIB_HAS_REP) || z->address_width != 64 ||
	    (z->attributes & (ZYDIS_ATTRIB_HAS_SEGMENT_FS | ZYDIS_ATTRIB_HAS_SEGMENT_GS)))
		return K_INTERP;
	/* A4, A5: MOVS; AA, AB: STOS */
	return (z->opcode & 0xfe) == 0xa4 || (z->opcode & 0xfe) == 0xaa ? K_REP : K_INTERP;
}

static enum kind classify(struct cpu *c, struct insn *n)
{
	const ZydisDecodedInstruction *z = &n->z;
	struct op o = { 0 };
	enum kind kind;
	sys_fn *fn;

	n->mem = -1;
	n->vec = false;
	if (!decode_has_isa(c, z->meta.isa_set) || (c->vm->cfg.exact_flags && has_own_flags(n)))
		return K_INTERP;
	fn = sys_decode(z, n->operand, &o);
	if (fn) {
		kind = system_kind(n);
		return kind == K_INTERP && xcall_handles(fn) ? K_SYSTEM : kind;
	}
	switch (z->mnemonic) {
	case ZYDIS_MNEMONIC_PUSH:
	case ZYDIS_MNEMONIC_POP:
		return stack_kind(n);
	case ZYDIS_MNEMONIC_LEAVE:
		return z->operand_width == 64 ? K_LEAVE : K_INTERP;
	case ZYDIS_MNEMONIC_LEA:
		return z->address_width == 64 && z->operand_width >= 32 ? K_LEA : K_INTERP;
	case ZYDIS_MNEMONIC_CLD:
	case ZYDIS_MNEMONIC_STD:
		return K_CLD;
	case ZYDIS_MNEMONIC_ENDBR64:
	case ZYDIS_MNEMONIC_ENDBR32:
		return K_NOP;
	default:
		break;
	}
	switch (z->meta.category) {
	case ZYDIS_CATEGORY_COND_BR:
	case ZYDIS_CATEGORY_UNCOND_BR:
	case ZYDIS_CATEGORY_CALL:
	case ZYDIS_CATEGORY_RET:
		return branch_kind(n);
	case ZYDIS_CATEGORY_NOP:
	case ZYDIS_CATEGORY_WIDENOP:
	case ZYDIS_CATEGORY_PREFETCH:
		return K_NOP;
	default:
		break;
	}
	if (z->meta.category == ZYDIS_CATEGORY_STRINGOP)
		return rep_kind(n);
	if (!category_is_plain(z) || mnemonic_is_special(z->mnemonic) || !operands_are_plain(n))
		return K_INTERP;
	/* BT and its like: the bit offset moves the address. */
	if (z->meta.category == ZYDIS_CATEGORY_BITBYTE && n->mem >= 0 && is_bit_test(z->mnemonic) &&
	    n->operand[1].type == ZYDIS_OPERAND_TYPE_REGISTER)
		return z->address_width == 64 ? K_BITS : K_INTERP;
	if (z->meta.category == ZYDIS_CATEGORY_X87_ALU || z->meta.isa_ext == ZYDIS_ISA_EXT_MMX ||
	    z->meta.isa_ext == ZYDIS_ISA_EXT_X87 || z->mnemonic == ZYDIS_MNEMONIC_LDMXCSR ||
	    z->mnemonic == ZYDIS_MNEMONIC_STMXCSR || is_wide_vec(z) ||
	    (z->meta.category == ZYDIS_CATEGORY_CONVERT &&
	     z->attributes & ZYDIS_ATTRIB_HAS_MODRM)) /* MXCSR, even from memory to RAX */
		n->vec = true;
	if (n->vec && xlat_vec(c) < vec_needed(z))
		return K_INTERP;
	return z->attributes & ZYDIS_ATTRIB_HAS_MODRM ? K_PLAIN : K_OPREG;
}

static void mend_base(struct insn *n)
{
	for (unsigned i = 0; i < n->z.operand_count; i++) {
		ZydisDecodedOperand *p = &n->operand[i];

		if (p->type != ZYDIS_OPERAND_TYPE_MEMORY || !decode_no_base(&n->z, p))
			continue;
		p->mem.base = ZYDIS_REGISTER_NONE;
		p->mem.disp.value = n->z.raw.disp.value;
	}
}

static void copy_code(uint8_t *to, const uint8_t *from, unsigned bytes)
{
	if (likely(bytes == INSN_BYTES_MAX)) {
		store_u64(to, guest_load_u64(from));
		store_u64(to + bytes - 8, guest_load_u64(from + bytes - 8));
		return;
	}
	for (unsigned i = 0; i < bytes; i++)
		to[i] = gmem_load_u8(from + i);
}

/*
 * Bytes of the next page behind @have of an instruction that crosses. It is a block of
 * its own, which looks whether that page is still what it was: see emit_crossing().
 * 0: there are none to be had.
 */
static unsigned fetch_second(struct gen *g, uint8_t *bytes, unsigned have)
{
	unsigned rest = INSN_BYTES_MAX - have;
	const uint8_t *page;
	uint64_t gpa;

	page = mmu_fetch(g->c, (g->c->s.rip & PAGE_MASK) + PAGE_SIZE, &gpa);
	if (!page) {
		g->c->fault.pending = false; /* found again by whoever executes it */
		return 0;
	}
	g->second.hva = (uint64_t)(uintptr_t)page;
	g->second.now = codemap_version(g->c->codemap, gpa);
	g->second.version = codemap_mark(g->c, gpa, rest);
	copy_code(bytes + have, page, rest);
	return rest;
}

#define OPERANDS_READ 4u /* looked at, whether there are so many or not */

/* ZydisDecoderDecodeFull() without clearing ten operands when there are two. */
static bool decode_bytes(struct gen *g, struct insn *n, unsigned bytes)
{
	const ZydisDecoder *z = &g->x->decoder.zydis;
	ZydisDecoderContext context;

	if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(z, &context, n->bytes, bytes, &n->z)))
		return false;
	for (unsigned i = n->z.operand_count; i < OPERANDS_READ; i++)
		memset(&n->operand[i], 0, sizeof(n->operand[i]));
	return ZYAN_SUCCESS(
		ZydisDecoderDecodeOperands(z, &context, &n->z, n->operand, n->z.operand_count));
}

/* The next instruction; false: it is not to be part of this block. */
static bool decode_one(struct gen *g, unsigned off, uint64_t page_gpa)
{
	struct insn *n = &g->insn[g->nr_insns];
	unsigned bytes = (unsigned)MIN(PAGE_SIZE - off, (uint64_t)INSN_BYTES_MAX);
	const uint8_t *code = (const uint8_t *)(uintptr_t)(g->b->hva & PAGE_MASK) + off;
	uint32_t version = codemap_mark(g->c, page_gpa + off, bytes);

	if (!g->nr_insns)
		g->b->version = version;
	copy_code(n->bytes, code, bytes);
	n->off = (uint16_t)off;
	if (!decode_bytes(g, n, bytes)) {
		if (bytes == INSN_BYTES_MAX)
			return false;
		g->crosses = true;
		if (g->nr_insns || g->c->icount)
			return false;
		bytes += fetch_second(g, n->bytes, bytes);
		if (!decode_bytes(g, n, bytes)) {
			g->crosses = false;
			return false;
		}
	}
	mend_base(n);
	n->kind = classify(g->c, n);
	if (n->mem >= 0 && n->operand[n->mem].mem.base == ZYDIS_REGISTER_EIP)
		n->kind = K_INTERP;
	if (n->kind == K_INTERP)
		return false;
	note_flags(n);
	g->nr_insns++;
	return true;
}

/*
 * Does the block go on behind @n, which is the last so far? It may behind a call, where that
 * returns, and where a conditional jump is not taken; but not where a loop ends. So many
 * @edges have been used, and two have to remain.
 */
static bool goes_on(const struct gen *g, const struct insn *n, unsigned *edges)
{
	unsigned next = n->off + n->z.length;

	if (!xlat_ends_block(n->kind))
		return true;
	if ((n->kind != K_CALL && n->kind != K_JCC) || next >= PAGE_SIZE || g->crosses)
		return false;
	if (n->kind == K_JCC && n->operand[0].imm.value.s <= 0)
		return false;
	return ++*edges <= XBLOCK_EDGES - 2 && !xlat_knows(g->c, (g->b->hva & PAGE_MASK) + next);
}

/* Returns the offset behind the last instruction. */
static unsigned decode_insns(struct gen *g, uint64_t page_gpa)
{
	unsigned off = (unsigned)(g->b->hva & ~PAGE_MASK), edges = 0;

	g->nr_insns = 0;
	g->crosses = false;
	while (g->nr_insns < XBLOCK_INSNS && off < PAGE_SIZE && decode_one(g, off, page_gpa)) {
		const struct insn *n = &g->insn[g->nr_insns - 1];

		off += n->z.length;
		if (!goes_on(g, n, &edges))
			break;
	}
	/* Its shadow: nothing may come between STI and what follows, a HLT perhaps. */
	if (off == PAGE_SIZE || g->nr_insns == XBLOCK_INSNS)
		while (g->nr_insns && g->insn[g->nr_insns - 1].kind == K_STI)
			off = g->insn[--g->nr_insns].off;
	return off;
}

static bool may_fault(const struct insn *n)
{
	return n->vec || n->mem >= 0 || n->kind >= K_PUSH || n->z.mnemonic == ZYDIS_MNEMONIC_DIV ||
	       n->z.mnemonic == ZYDIS_MNEMONIC_IDIV;
}

static void find_live_flags(struct gen *g)
{
	bool exact = g->c->vm->cfg.exact_flags;
	uint16_t live = FLAGS_ALL;
	unsigned i;

	for (i = g->nr_insns; i-- > 0;) {
		struct insn *n = &g->insn[i];

		if (xlat_ends_block(n->kind))
			live = FLAGS_ALL; /* they are wanted where else it may lead */
		n->live_out = live;
		live = (uint16_t)((live & ~n->kills) | n->reads);
		if (exact && may_fault(n))
			live = FLAGS_ALL;
		n->live_in = live;
	}
	g->b->flags_live = live;
}

unsigned xlat_decode(struct gen *g, uint64_t page_gpa)
{
	unsigned end;

	g->page_gpa = page_gpa;
	end = decode_insns(g, page_gpa);

	find_live_flags(g);
	xlat_find_groups(g);
	return end;
}
