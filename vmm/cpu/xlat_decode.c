/*
 * xlat_decode.c - what a block is made of: its instructions, which flags matter
 * where, which accesses share a look-up of their page.
 */
#include "cpu/mmu.h"
#include "cpu/sys.h"
#include "cpu/xlat_gen.h"

/* --- decoding ----------------------------------------------------------------------- */

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

/* --- accesses that share a look-up ------------------------------------------------ */

/*
 * Accesses off one register whose value stays, give or take known amounts, usually
 * lie in one page. The first looks that page up, for the range of all of them, and
 * keeps what is to be added to their addresses; the others just add. Nothing can
 * change the mapping in between: a TLB shootdown is answered where attention is,
 * which is not inside a block.
 *
 * If one of them stores, the look-up is one for stores. Ranges are kept short, because one
 * that crosses a page goes to the interpreter.
 */
#define RANGE_MAX 256

struct groups {
	struct gen *g;
	uint64_t open; /* which of g->group[] are: a few bits for each register */
	int32_t delta[GPR_COUNT];
	int8_t nr_slots;
	uint16_t unknown; /* registers that have got another value */
	uint16_t ended;   /* registers that had a group already */
	uint16_t roaming; /* registers that may be anywhere next time: see find_roaming() */
	bool apart;       /* the block may have been left by now */
};

/*
 * The page cache. Most code goes on in the page where it was: a look-up first compares
 * with the page that the last one by the same register found, or, for operands of
 * other forms, the last one at the same place of the code; where that says which page it is,
 * the last one there. Loads and stores keep apart.
 */
enum {
	PAGES_BY_REG = 0,
	PAGES_BY_PLACE = 2 * GPR_COUNT,
	NR_PLACES = (XPAGES - PAGES_BY_PLACE) / 2
};

static int16_t bank(const struct gen *g)
{
	return g->b->user ? XPAGES : 0;
}

static int16_t page_of_reg(const struct gen *g, unsigned gpr, bool write)
{
	return (int16_t)(bank(g) + PAGES_BY_REG + (write ? GPR_COUNT : 0) + (int)gpr);
}

static bool in_segment(const struct insn *n)
{
	ZydisRegister segment = n->operand[n->mem].mem.segment;

	return segment == ZYDIS_REGISTER_FS || segment == ZYDIS_REGISTER_GS;
}

/* Is the address of the operand, but for a segment's base, the same each time? */
static bool is_static(const struct insn *n)
{
	const ZydisDecodedOperandMem *m = &n->operand[n->mem].mem;

	return (m->base == ZYDIS_REGISTER_NONE || m->base == ZYDIS_REGISTER_RIP) &&
	       m->index == ZYDIS_REGISTER_NONE;
}

/* The page that it is in; FS and GS have others. */
static uint64_t static_page(const struct gen *g, const struct insn *n)
{
	const ZydisDecodedOperandMem *m = &n->operand[n->mem].mem;
	uint64_t at = (uint64_t)m->disp.value;

	if (m->base == ZYDIS_REGISTER_RIP)
		at += (g->c->s.rip & PAGE_MASK) + n->off + n->z.length;
	if (in_segment(n))
		at += BIT64(62);
	return at >> PAGE_SHIFT;
}

static int16_t page_of_place(const struct gen *g, const struct insn *n, bool write)
{
	uint64_t at =
		n->mem >= 0 && is_static(n) ? static_page(g, n) : (g->b->hva & PAGE_MASK) + n->off;

	at = at * 0x9e3779b97f4a7c15ull >> 32;
	return (int16_t)(bank(g) + PAGES_BY_PLACE + (write ? NR_PLACES : 0) +
			 (int)(at % NR_PLACES));
}

static bool jumps_to_itself(const struct gen *g)
{
	const struct insn *last = &g->insn[g->nr_insns - 1];

	return last->kind == K_JCC &&
	       last->off + last->z.length + last->operand[0].imm.value.s == g->insn[0].off;
}

/*
 * What was not to be seen when the code was first made: see note_roaming(). A loop looks its
 * pages up at its head.
 */
static bool site_roams(const struct gen *g, const struct insn *n)
{
	return !jumps_to_itself(g) && xlat_roams(g->c, g->page_gpa + n->off);
}

/*
 * Kernels go from object to object and do little with each: but for the stack, the page is
 * another one too often for a look whether it is the same to pay.
 */
static bool kernel_roams(const struct gen *g, unsigned base)
{
	return !g->b->user && base != RSP && !jumps_to_itself(g);
}

_Static_assert(64 / GROUPS_OPEN >= GPR_COUNT, "one bit for each group");

/* The first of the groups @set, which becomes less by it. */
static unsigned next_group(uint64_t *set)
{
	unsigned i = (unsigned)__builtin_ctzll(*set);

	*set &= *set - 1;
	return i;
}

static uint64_t groups_of(const struct groups *s, unsigned gpr)
{
	return s->open & (BIT64(GROUPS_OPEN) - 1) << (gpr * GROUPS_OPEN);
}

static void group_end(struct groups *s, unsigned i)
{
	const struct group *p = &s->g->group[i];
	struct access *a = p->leader;

	if (a->leads) {
		a->from = p->lo - p->leader_delta;
		a->bytes = (uint16_t)(p->hi - p->lo);
	}
	a->from_head = p->lo;
	if (!(s->roaming & BIT(a->base)) && !kernel_roams(s->g, a->base) &&
	    !site_roams(s->g, p->at))
		a->page = s->ended & BIT(a->base) ? page_of_place(s->g, p->at, a->write)
						  : page_of_reg(s->g, a->base, a->write);
	s->ended |= (uint16_t)BIT(a->base);
	s->open &= ~BIT64(i);
}

static void end_all(struct groups *s, uint64_t set)
{
	while (set)
		group_end(s, next_group(&set));
}

/* @gpr becomes something else. */
static void groups_end(struct groups *s, unsigned gpr)
{
	end_all(s, groups_of(s, gpr));
	s->unknown |= (uint16_t)BIT(gpr);
	s->delta[gpr] = 0;
}

static bool group_takes(const struct groups *s, const struct group *p, int32_t lo, int32_t hi,
			bool write)
{
	const struct access *a = p->leader;

	if (MAX(hi, p->hi) - MIN(lo, p->lo) > RANGE_MAX || site_roams(s->g, p->at))
		return false;
	/* What may not be executed shall not make the look-up fail: the stack is known. */
	if (p->apart && ((write && !a->write) ||
			 ((lo < p->lo || hi > p->hi) && a->base != RSP && a->base != RBP)))
		return false;
	if (write && !a->write && s->g->c->vm->cfg.exact_flags)
		return false; /* the page would be dirty too early */
	return !s->g->b->plain && (a->leads || s->nr_slots < XSLOTS);
}

static void group_begin(struct groups *s, const struct insn *n, struct access *a, int32_t lo,
			int32_t hi, bool write)
{
	unsigned i = a->base * GROUPS_OPEN, last = i + GROUPS_OPEN - 1;

	while (i < last && (s->open & BIT64(i)))
		i++;
	if (s->open & BIT64(i))
		group_end(s, i);
	s->open |= BIT64(i);
	s->g->group[i] = (struct group){ a, n, s->delta[a->base], lo, hi, false };
	a->write = write;
	a->at_head = !(s->unknown & BIT(a->base)) && !s->apart;
	a->from = a->disp;
	a->bytes = (uint16_t)(hi - lo);
}

static void note_access(struct groups *s, const struct insn *n, struct access *a, unsigned bytes,
			bool write)
{
	int32_t lo = s->delta[a->base] + a->disp, hi = lo + (int32_t)bytes;
	uint64_t left = groups_of(s, a->base);
	struct group *p = NULL;

	a->simple = true;
	while (left && !p) {
		p = &s->g->group[next_group(&left)];
		if (!group_takes(s, p, lo, hi, write))
			p = NULL;
	}
	if (!p) {
		group_begin(s, n, a, lo, hi, write);
		return;
	}
	if (!p->leader->leads) {
		p->leader->leads = true;
		p->leader->slot = s->nr_slots++;
	}
	p->leader->write |= write;
	p->lo = MIN(lo, p->lo);
	p->hi = MAX(hi, p->hi);
	a->leader = p->leader;
}

static bool roams(const struct groups *s, ZydisRegister r)
{
	uint8_t gpr = xlat_gpr(r);

	return gpr != OP_NO_REG && (s->roaming & BIT(gpr));
}

static int32_t delta_of(const struct groups *s, ZydisRegister r)
{
	uint8_t gpr = xlat_gpr(r);

	return gpr == OP_NO_REG ? 0 : s->delta[gpr];
}

static void note_operand(struct groups *s, struct insn *n)
{
	const ZydisDecodedOperand *p = &n->operand[n->mem];
	bool write = p->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;

	if (!(roams(s, p->mem.base) || roams(s, p->mem.index) || site_roams(s->g, n) ||
	      (kernel_roams(s->g, xlat_gpr(p->mem.base)) && !is_static(n))))
		n->at.page = page_of_place(s->g, n, write);
	n->at.write = write;
	n->at.bytes = p->size / 8u;
	n->at.base_moved = delta_of(s, p->mem.base);
	n->at.index_moved = delta_of(s, p->mem.index);
	n->at.from_head = (int32_t)(delta_of(s, p->mem.base) +
				    (uint32_t)delta_of(s, p->mem.index) * p->mem.scale);
	if (n->z.address_width != 64 || p->mem.index != ZYDIS_REGISTER_NONE ||
	    p->mem.base == ZYDIS_REGISTER_RIP || p->mem.base == ZYDIS_REGISTER_NONE ||
	    p->mem.segment == ZYDIS_REGISTER_FS || p->mem.segment == ZYDIS_REGISTER_GS ||
	    p->mem.disp.value != (int32_t)p->mem.disp.value || p->mem.disp.value > (1 << 30) ||
	    p->mem.disp.value < -(1 << 30))
		return;
	n->at.base = decode_gpr(p->mem.base);
	n->at.disp = (int32_t)p->mem.disp.value;
	if (xhome(n->at.base) == H_NONE)
		return;
	n->at.page = -1;
	note_access(s, n, &n->at, p->size / 8u, write);
}

static void note_bits(struct groups *s, struct insn *n)
{
	n->at.write = n->z.mnemonic != ZYDIS_MNEMONIC_BT;
	n->at.page = page_of_place(s->g, n, n->at.write);
}

static void note_stack(struct groups *s, struct insn *n, unsigned base, int32_t disp, bool write)
{
	n->stack.base = (uint8_t)base;
	n->stack.disp = disp;
	note_access(s, n, &n->stack, 8, write);
}

/* The register that @n moves by a known amount, if that is all it does; OP_NO_REG: none. */
static uint8_t moved_register(const struct insn *n, int32_t *by)
{
	const ZydisDecodedOperand *p = n->operand;
	int64_t imm;

	if (n->z.operand_width != 64 || p[0].type != ZYDIS_OPERAND_TYPE_REGISTER)
		return OP_NO_REG;
	switch (n->z.mnemonic) {
	case ZYDIS_MNEMONIC_INC:
		imm = 1;
		break;
	case ZYDIS_MNEMONIC_DEC:
		imm = -1;
		break;
	case ZYDIS_MNEMONIC_ADD:
	case ZYDIS_MNEMONIC_SUB:
		if (p[1].type != ZYDIS_OPERAND_TYPE_IMMEDIATE)
			return OP_NO_REG;
		imm = n->z.mnemonic == ZYDIS_MNEMONIC_ADD ? p[1].imm.value.s : -p[1].imm.value.s;
		break;
	case ZYDIS_MNEMONIC_LEA:
		if (n->z.address_width != 64 || p[1].mem.base != p[0].reg.value ||
		    p[1].mem.index != ZYDIS_REGISTER_NONE)
			return OP_NO_REG;
		imm = p[1].mem.disp.value;
		break;
	default:
		return OP_NO_REG;
	}
	*by = (int32_t)imm;
	return imm == (int16_t)imm ? xlat_gpr(p[0].reg.value) : OP_NO_REG;
}

/*
 * Does @n give its destination a value that is about the same each time? A small number, as
 * indexes of small tables are, is.
 */
static bool sets_steadily(const struct insn *n)
{
	const ZydisDecodedOperand *p = n->operand;

	switch (n->z.mnemonic) {
	case ZYDIS_MNEMONIC_MOVZX:
		return p[1].size == 8;
	case ZYDIS_MNEMONIC_AND:
		return p[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE && p[1].imm.value.u < 512;
	case ZYDIS_MNEMONIC_POP:
	case ZYDIS_MNEMONIC_LEAVE:
		return true;
	case ZYDIS_MNEMONIC_XOR:
		return p[1].type == ZYDIS_OPERAND_TYPE_REGISTER && p[0].reg.value == p[1].reg.value;
	case ZYDIS_MNEMONIC_LEA:
		return p[1].mem.index == ZYDIS_REGISTER_NONE;
	case ZYDIS_MNEMONIC_MOV:
		if (p[1].type != ZYDIS_OPERAND_TYPE_MEMORY)
			return true;
		return p[1].mem.index == ZYDIS_REGISTER_NONE &&
		       (p[1].mem.base == ZYDIS_REGISTER_RSP || p[1].mem.base == ZYDIS_REGISTER_RIP);
	default:
		return false;
	}
}

/* Which of them @n writes, but for those that it moves, or sets to about the same. */
static uint16_t writes_anything(const struct insn *n)
{
	uint16_t regs = 0;
	int32_t by;

	if (n->mem < 0 || moved_register(n, &by) != OP_NO_REG || sets_steadily(n))
		return 0;
	for (unsigned i = 0; i < n->z.operand_count; i++) {
		const ZydisDecodedOperand *p = &n->operand[i];

		if (p->type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    (p->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) &&
		    xlat_gpr(p->reg.value) != OP_NO_REG && xlat_gpr(p->reg.value) != RSP)
			regs |= (uint16_t)BIT(xlat_gpr(p->reg.value));
	}
	return regs;
}

/*
 * Registers that the block loads from memory are not likely to point to the same page
 * next time, as a list's next node does not. The TLB knows more pages. Where others turn out
 * to roam, too, site_roams() says so when the code is made again.
 */
static void find_roaming(struct groups *s)
{
	for (unsigned i = 0; i < s->g->nr_insns; i++)
		s->roaming |= writes_anything(&s->g->insn[i]);
}

static void note_writes(struct groups *s, const struct insn *n)
{
	unsigned i;

	for (i = 0; i < n->z.operand_count; i++) {
		const ZydisDecodedOperand *p = &n->operand[i];
		uint8_t gpr;

		if (p->type != ZYDIS_OPERAND_TYPE_REGISTER ||
		    !(p->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
			continue;
		gpr = xlat_gpr(p->reg.value);
		if (gpr == OP_NO_REG)
			continue;
		groups_end(s, gpr);
		s->roaming &= (uint16_t)~BIT(gpr);
	}
	s->roaming |= writes_anything(n);
}

/* Whoever was called may have done anything. */
static void note_called(struct groups *s)
{
	end_all(s, s->open);
	memset(s->delta, 0, sizeof(s->delta));
	s->unknown = (uint16_t)~0u;
	s->ended = 0;
	s->nr_slots = 0;
}

/* What comes next is not always executed. */
static void note_way_out(struct groups *s)
{
	uint64_t left = s->open;

	s->apart = true;
	while (left)
		s->g->group[next_group(&left)].apart = true;
}

static void note_insn(struct groups *s, struct insn *n)
{
	uint8_t gpr;
	int32_t by;

	n->at = n->stack = (struct access){ .slot = -1, .page = -1 };
	if (n->kind == K_BITS)
		note_bits(s, n);
	else if (n->mem >= 0 && n->kind != K_LEA)
		note_operand(s, n);
	switch (n->kind) {
	case K_CALL:
		note_stack(s, n, RSP, -8, true);
		note_called(s);
		return;
	case K_JCC:
		note_way_out(s);
		return;
	case K_PUSH:
	case K_PUSHF:
		note_stack(s, n, RSP, -8, true);
		s->delta[RSP] -= 8;
		return;
	case K_POP:
		note_stack(s, n, RSP, 0, false);
		if (n->operand[0].reg.value != ZYDIS_REGISTER_RSP) {
			s->delta[RSP] += 8;
			groups_end(s, xlat_gpr(n->operand[0].reg.value));
			return;
		}
		break;
	case K_RET:
		note_stack(s, n, RSP, 0, false);
		break;
	case K_LEAVE:
		note_stack(s, n, RBP, 0, false);
		break;
	default:
		gpr = moved_register(n, &by);
		if (gpr != OP_NO_REG) {
			s->delta[gpr] += by;
			return;
		}
	}
	note_writes(s, n);
}

/* Whose a slot is: static data's by their page, another's for itself. */
#define FOR_ITSELF UINT64_MAX

static bool take_page(struct gen *g, const struct access *a, uint64_t who)
{
	if (g->taken[a->page].turn == g->turn)
		return g->taken[a->page].who == who && who != FOR_ITSELF;
	g->taken[a->page].turn = g->turn;
	g->taken[a->page].who = who;
	return true;
}

/*
 * Look-ups of a block share slots only where that is for the same page: others would miss
 * each time; and between a leader and its followers a slot has to stay what it is. In a loop's
 * head, which begins anew after each miss, two pages would wait for each other for ever: there
 * a segment's base, which may lie anywhere, counts as well. No group survives a call.
 */
static void part_pages(struct gen *g)
{
	g->turn++;
	for (unsigned i = 0; i < g->nr_insns; i++) {
		struct insn *n = &g->insn[i];
		struct access *each[] = { &n->at, &n->stack };

		for (unsigned j = 0; j < ARRAY_SIZE(each); j++) {
			struct access *a = each[j];
			int16_t first =
				(int16_t)(bank(g) + PAGES_BY_PLACE + (a->write ? NR_PLACES : 0));
			uint64_t who = FOR_ITSELF;
			unsigned tries = 0;

			if (a->leader || a->page < 0)
				continue;
			if (a == &n->at && !a->simple && n->mem >= 0 && is_static(n) &&
			    !(in_segment(n) && jumps_to_itself(g)))
				who = static_page(g, n) + 1;
			if (take_page(g, a, who))
				continue;
			a->page = page_of_place(g, n, a->write);
			while (!take_page(g, a, who) && ++tries < NR_PLACES)
				a->page = (int16_t)(first + (a->page - first + 1) % NR_PLACES);
			if (tries == NR_PLACES)
				a->page = -1;
		}
		if (n->kind == K_CALL)
			g->turn++;
	}
}

/* What a loop does not look up at its head may roam as others do. */
static void find_roaming_in_loop(struct gen *g)
{
	for (unsigned i = 0; i < g->nr_insns && jumps_to_itself(g); i++) {
		struct insn *n = &g->insn[i];

		if (!n->at.simple && !n->at.hoist && xlat_roams(g->c, g->page_gpa + n->off))
			n->at.page = -1;
	}
}

/*
 * Where flags are dead at the block's begin, look-ups for registers that the block has not
 * loaded by then are made there, and no flags have to be put away for them.
 */
static void find_head(struct gen *g)
{
	bool may = !g->b->flags_live && !g->b->plain && !g->c->vm->cfg.exact_flags && !g->loop.on &&
		   !site_roams(g, &g->insn[0]);

	for (unsigned i = 0; i < g->nr_insns; i++) {
		struct access *each[] = { &g->insn[i].at, &g->insn[i].stack };

		for (unsigned j = 0; j < ARRAY_SIZE(each); j++) {
			struct access *a = each[j];

			a->at_head &= may && a->simple && !a->leader && a->page >= 0;
		}
	}
}

static void find_groups(struct gen *g)
{
	struct groups s = { .g = g };
	unsigned i;

	find_roaming(&s);
	for (i = 0; i < g->nr_insns; i++)
		note_insn(&s, &g->insn[i]);
	end_all(&s, s.open);
	part_pages(g);
	xloop_find(g, s.delta, s.unknown);
	find_roaming_in_loop(g);
	find_head(g);
}

unsigned xlat_decode(struct gen *g, uint64_t page_gpa)
{
	unsigned end;

	g->page_gpa = page_gpa;
	end = decode_insns(g, page_gpa);

	find_live_flags(g);
	find_groups(g);
	return end;
}
