/*
 * xlat_gen.c - a block's code: decode, find out which flags matter where, emit.
 *
 * A block ends at a branch, at an instruction for the interpreter, at the end of
 * its page or when it is long enough. It begins with three entries:
 *
 *	enter_jump	from the jump cache: s.rip is known, block_rip follows
 *	enter_mem	flags are in c->fl
 *	enter_host	flags are in the host's
 *
 * Hot code comes first, then what is rarely executed: TLB misses, unlinked edges,
 * polls.
 */
#include "cpu/mmu.h"
#include "cpu/sys.h"
#include "cpu/x86enc.h"
#include "cpu/xlat_int.h"

#include <errno.h>

#define FLAGS_ALL RFLAGS_ARITH
#define S1        H_R10
#define S2        H_R11
#define COLD_MAX  (4 * XBLOCK_INSNS)

enum kind {
	K_INTERP, /* for the interpreter; ends the block */
	K_PLAIN,  /* the instruction itself, with other registers and operands */
	K_OPREG,  /* the same, its register is in the opcode byte */
	K_NOP,
	K_LEA,
	K_PUSH,
	K_POP,
	K_LEAVE,
	K_CALL,
	K_RET,
	K_JMP,
	K_JCC
};

struct insn {
	ZydisDecodedInstruction z;
	ZydisDecodedOperand operand[ZYDIS_MAX_OPERAND_COUNT];
	uint8_t bytes[INSN_BYTES_MAX];
	enum kind kind;
	bool vec;
	int8_t mem; /* which operand is in memory, -1: none */
	uint16_t off;
	uint16_t reads, writes, kills; /* arithmetic flags */
	uint16_t live_in, live_out;
};

/* Something to emit after the hot code. */
struct cold {
	enum { COLD_FILL, COLD_EDGE, COLD_FAR, COLD_STOP } kind;
	uint8_t *from; /* the rel32 that leads here */
	uint64_t back; /* COLD_FILL: where to try again */
	struct insn *insn;
	enum flags_at flags;
	uint8_t index; /* the instruction's, in the block */
	uint8_t bytes_log2;
	bool write, stack;
	int32_t disp; /* COLD_FILL with stack: the operand is [rsp + disp] */
	uint8_t stack_base;
	uint8_t edge;
	int32_t target;
};

struct gen {
	struct cpu *c;
	struct xlat *x;
	struct emit *e;
	struct xblock *b;
	unsigned number;
	unsigned nr_insns, nr_cold;
	unsigned index; /* of the instruction being emitted */
	enum flags_at flags;
	uint8_t *begin;
	struct insn insn[XBLOCK_INSNS + 1];
	struct xmark mark[XBLOCK_INSNS + 1];
	struct cold cold[COLD_MAX];
};

int xgen_create(struct xlat *x, const struct host *h, int node)
{
	x->gen = h->ops->alloc(h->ctx, sizeof(*x->gen), node);
	return x->gen ? 0 : -ENOMEM;
}

void xgen_destroy(struct xlat *x, const struct host *h)
{
	if (x->gen)
		h->ops->free(h->ctx, x->gen, sizeof(*x->gen));
}

/* --- decoding ----------------------------------------------------------------------- */

static bool is_high_byte(ZydisRegister r)
{
	return r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH;
}

/* The number of a general register of any width, or OP_NO_REG. */
static uint8_t gpr_of(ZydisRegister r)
{
	if (ZydisRegisterGetClass(r) != ZYDIS_REGCLASS_GPR8)
		return decode_gpr(r);
	if (is_high_byte(r))
		return (uint8_t)(r - ZYDIS_REGISTER_AH);
	return (uint8_t)(r < ZYDIS_REGISTER_AH ? r - ZYDIS_REGISTER_AL
					       : r - ZYDIS_REGISTER_SPL + 4);
}

static bool is_vec(ZydisRegister r)
{
	switch (ZydisRegisterGetClass(r)) {
	case ZYDIS_REGCLASS_MMX:
	case ZYDIS_REGCLASS_XMM:
	case ZYDIS_REGCLASS_YMM:
	case ZYDIS_REGCLASS_ZMM:
	case ZYDIS_REGCLASS_X87:
	case ZYDIS_REGCLASS_MASK:
		return true;
	default:
		return false;
	}
}

static bool category_is_plain(const ZydisDecodedInstruction *z)
{
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

/* Direction flag, whole FPU states, and what knows where it is. */
static bool mnemonic_is_special(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_CLD:
	case ZYDIS_MNEMONIC_STD:
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
	if (!f)
		return;
	n->reads = (uint16_t)(f->tested & FLAGS_ALL);
	n->writes = (uint16_t)((f->modified | f->set_0 | f->set_1 | f->undefined) & FLAGS_ALL);
	if (writes_flags_always(n))
		n->kills = n->writes;
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
			} else if (is_high_byte(p->reg.value)) {
				high = true;
			} else if (!hidden && gpr_of(p->reg.value) != OP_NO_REG) {
				uint8_t r = gpr_of(p->reg.value);

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

static enum kind branch_kind(const struct insn *n)
{
	const ZydisDecodedInstruction *z = &n->z;

	if (z->operand_width != 64 || z->address_width != 64)
		return K_INTERP;
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

static enum kind stack_kind(const struct insn *n)
{
	const ZydisDecodedOperand *p = &n->operand[0];

	if (n->z.operand_width != 64)
		return K_INTERP;
	if (n->z.mnemonic == ZYDIS_MNEMONIC_POP)
		return p->type == ZYDIS_OPERAND_TYPE_REGISTER && gpr_of(p->reg.value) != OP_NO_REG
			       ? K_POP
			       : K_INTERP;
	if (p->type == ZYDIS_OPERAND_TYPE_REGISTER && gpr_of(p->reg.value) == OP_NO_REG)
		return K_INTERP;
	return K_PUSH;
}

/*
 * Rotating by a constant leaves an OF that is undefined, and processors define it
 * otherwise than for the form with CL, which the interpreter uses.
 */
static bool has_own_flags(const struct insn *n)
{
	return n->z.meta.category == ZYDIS_CATEGORY_ROTATE &&
	       n->operand[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE && n->operand[1].imm.value.u != 1;
}

static enum kind classify(struct cpu *c, struct insn *n)
{
	const ZydisDecodedInstruction *z = &n->z;
	struct op o = { 0 };

	n->mem = -1;
	n->vec = false;
	if (c->vm->cfg.exact_flags && has_own_flags(n))
		return K_INTERP;
	if (!decode_has_isa(c, z->meta.isa_set) || sys_decode(z, n->operand, &o))
		return K_INTERP;
	switch (z->mnemonic) {
	case ZYDIS_MNEMONIC_PUSH:
	case ZYDIS_MNEMONIC_POP:
		return stack_kind(n);
	case ZYDIS_MNEMONIC_LEAVE:
		return z->operand_width == 64 ? K_LEAVE : K_INTERP;
	case ZYDIS_MNEMONIC_LEA:
		return z->address_width == 64 && z->operand_width >= 32 ? K_LEA : K_INTERP;
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
	if (!category_is_plain(z) || mnemonic_is_special(z->mnemonic) || !operands_are_plain(n))
		return K_INTERP;
	/* BT and its like: the bit offset moves the address. */
	if (z->meta.category == ZYDIS_CATEGORY_BITBYTE && n->mem >= 0 && is_bit_test(z->mnemonic) &&
	    n->operand[1].type == ZYDIS_OPERAND_TYPE_REGISTER)
		return K_INTERP;
	if (z->meta.category == ZYDIS_CATEGORY_X87_ALU || z->meta.isa_ext == ZYDIS_ISA_EXT_MMX ||
	    z->meta.isa_ext == ZYDIS_ISA_EXT_X87 || z->mnemonic == ZYDIS_MNEMONIC_LDMXCSR ||
	    z->mnemonic == ZYDIS_MNEMONIC_STMXCSR)
		n->vec = true;
	if (n->vec && !xlat_vec_ok(c))
		return K_INTERP;
	return z->attributes & ZYDIS_ATTRIB_HAS_MODRM ? K_PLAIN : K_OPREG;
}

static bool ends_block(enum kind k)
{
	return k == K_INTERP || k >= K_CALL;
}

/* The next instruction; false: it is not to be part of this block. */
static bool decode_one(struct gen *g, unsigned off, uint64_t page_gpa)
{
	struct insn *n = &g->insn[g->nr_insns];
	unsigned bytes = (unsigned)MIN(PAGE_SIZE - off, (uint64_t)INSN_BYTES_MAX);
	const uint8_t *code = (const uint8_t *)(uintptr_t)(g->b->hva & PAGE_MASK) + off;
	uint32_t version = codemap_mark(g->c, page_gpa + off, bytes);
	unsigned i;

	if (!g->nr_insns)
		g->b->version = version;
	for (i = 0; i < bytes; i++)
		n->bytes[i] = gmem_load_u8(code + i);
	n->off = (uint16_t)off;
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&g->x->decoder.zydis, n->bytes, bytes, &n->z,
						 n->operand)))
		return false;
	n->kind = classify(g->c, n);
	if (n->kind == K_INTERP)
		return false;
	note_flags(n);
	g->nr_insns++;
	return true;
}

/* Returns the offset behind the last instruction. */
static unsigned decode_block(struct gen *g, uint64_t page_gpa)
{
	unsigned off = (unsigned)(g->b->hva & ~PAGE_MASK);

	g->nr_insns = 0;
	while (g->nr_insns < XBLOCK_INSNS && off < PAGE_SIZE && decode_one(g, off, page_gpa)) {
		const struct insn *n = &g->insn[g->nr_insns - 1];

		off += n->z.length;
		if (ends_block(n->kind))
			break;
	}
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

		n->live_out = live;
		live = (uint16_t)((live & ~n->kills) | n->reads);
		if (exact && may_fault(n))
			live = FLAGS_ALL;
		n->live_in = live;
	}
	g->b->flags_live = live;
}

/* --- flags --------------------------------------------------------------------------- */

static void save_flags(struct emit *e)
{
	emit_mov(e, S1, H_RAX);
	emit_u8(e, 0x9f); /* lahf */
	emit_u8(e, 0x0f); /* seto al */
	emit_u8(e, 0x90);
	emit_u8(e, 0xc0);
	emit_gs_store(e, H_RAX, CPU_OFF(fl));
	emit_mov(e, H_RAX, S1);
}

static void load_flags(struct emit *e)
{
	emit_mov(e, S1, H_RAX);
	emit_gs_load(e, H_RAX, CPU_OFF(fl));
	emit_u8(e, 0x04); /* add al, 0x7f */
	emit_u8(e, 0x7f);
	emit_u8(e, 0x9e); /* sahf */
	emit_mov(e, H_RAX, S1);
}

/* Host flags are about to be clobbered; @live are still wanted. */
static void spill_flags(struct gen *g, unsigned live)
{
	if (g->flags != FLAGS_HOST)
		return;
	if (live) {
		save_flags(g->e);
		g->flags = FLAGS_MEM;
	} else {
		g->flags = FLAGS_DEAD;
	}
}

/* Before an instruction runs natively: what it reads or leaves alone must be there. */
static void want_flags(struct gen *g, const struct insn *n)
{
	bool merges = n->writes && (n->live_out & ~n->kills);

	if (g->flags == FLAGS_MEM && (n->reads || merges)) {
		load_flags(g->e);
		g->flags = FLAGS_HOST;
	}
}

static void wrote_flags(struct gen *g, const struct insn *n)
{
	if (n->writes)
		g->flags = n->live_out ? FLAGS_HOST : FLAGS_DEAD;
}

/* --- registers ------------------------------------------------------------------------ */

/* The host register that a guest register lives in, or H_NONE: in memory. */
static unsigned home(unsigned gpr)
{
	switch (gpr) {
	case RSP:
		return H_R15;
	case R10:
	case R11:
	case R15:
		return H_NONE;
	default:
		return gpr;
	}
}

/* The value of @gpr in some register: its home, or @scratch. */
static unsigned get_reg(struct gen *g, unsigned gpr, unsigned scratch)
{
	unsigned h = home(gpr);

	if (h != H_NONE)
		return h;
	emit_gs_load(g->e, scratch, GPR_OFF(gpr));
	return scratch;
}

static void set_reg(struct gen *g, unsigned gpr, unsigned from)
{
	unsigned h = home(gpr);

	if (h != H_NONE)
		emit_mov(g->e, h, from);
	else
		emit_gs_store(g->e, from, GPR_OFF(gpr));
}

/* --- guest memory ----------------------------------------------------------------------- */

/*
 * The linear address of an operand into @dst, by moves and LEA alone; but for FS and
 * GS, whose base is added (flags are free then). @other is a second scratch, or H_NONE.
 * False: it takes more registers than there are.
 */
static bool emit_address(struct gen *g, const struct insn *n, unsigned dst, unsigned other)
{
	const ZydisDecodedOperand *p = &n->operand[n->mem];
	struct emit *e = g->e;
	bool wide = n->z.address_width == 64;
	unsigned base = H_NONE, index = H_NONE, shift = 0;
	int64_t disp = p->mem.disp.value;

	if (p->mem.base == ZYDIS_REGISTER_RIP) {
		emit_gs_load(e, dst, CPU_OFF(block_rip));
		base = dst;
		disp += n->off + n->z.length;
	} else if (p->mem.base != ZYDIS_REGISTER_NONE) {
		base = home(decode_gpr(p->mem.base));
		if (base == H_NONE) {
			emit_gs_load(e, dst, GPR_OFF(decode_gpr(p->mem.base)));
			base = dst;
		}
	}
	if (p->mem.index != ZYDIS_REGISTER_NONE) {
		index = home(decode_gpr(p->mem.index));
		shift = (unsigned)__builtin_ctz(p->mem.scale);
		if (index == H_NONE) {
			index = base == dst ? other : dst;
			if (index == H_NONE)
				return false;
			emit_gs_load(e, index, GPR_OFF(decode_gpr(p->mem.index)));
		}
	}
	if (disp != (int32_t)disp)
		return false;
	emit_lea(e, wide, dst, base, index, shift, (int32_t)disp);
	if (p->mem.segment == ZYDIS_REGISTER_FS || p->mem.segment == ZYDIS_REGISTER_GS)
		emit_gs(e, true, 0x03, dst,
			p->mem.segment == ZYDIS_REGISTER_FS ? CPU_OFF(s.seg[SEG_FS].base)
							    : CPU_OFF(s.seg[SEG_GS].base));
	return true;
}

/* Can it be computed again with a single scratch register? */
static bool address_is_simple(const struct insn *n)
{
	const ZydisDecodedOperand *p = &n->operand[n->mem];
	bool base_in_reg =
		p->mem.base == ZYDIS_REGISTER_NONE ||
		(p->mem.base != ZYDIS_REGISTER_RIP && home(decode_gpr(p->mem.base)) != H_NONE);
	bool index_in_reg =
		p->mem.index == ZYDIS_REGISTER_NONE || home(decode_gpr(p->mem.index)) != H_NONE;

	return base_in_reg || index_in_reg;
}

static unsigned log2_of(unsigned bytes)
{
	unsigned l = 0;

	while (1u << l < bytes)
		l++;
	return l;
}

/*
 * The fast path, with the address in r11: index from the first byte, tag from the
 * last, one compare. Leaves what to add to the address in r11.
 */
static void emit_probe(struct gen *g, struct insn *n, unsigned bytes, bool write, uint8_t *retry,
		       const struct cold *how)
{
	struct emit *e = g->e;
	struct cold *k = &g->cold[g->nr_cold++];
	int32_t tag = CPU_OFF(tlb_entries) + (int32_t)(write ? offsetof(struct tlb_entry, write)
							     : offsetof(struct tlb_entry, read));

	emit_lea(e, true, S1, S2, H_NONE, 0, (int32_t)bytes - 1);
	emit_u8(e, 0x41); /* shr r11d, 7 */
	emit_u8(e, 0xc1);
	emit_u8(e, 0xeb);
	emit_u8(e, PAGE_SHIFT - 5);
	emit_u8(e, 0x49); /* and r10, -4096 */
	emit_u8(e, 0x81);
	emit_u8(e, 0xe2);
	emit_u32(e, (uint32_t)PAGE_MASK);
	emit_u8(e, 0x41); /* and r11d, (entries - 1) * 32 */
	emit_u8(e, 0x81);
	emit_u8(e, 0xe3);
	emit_u32(e, (TLB_ENTRIES - 1) * sizeof(struct tlb_entry));
	emit_gs(e, true, 0x0b, S1, CPU_OFF(asid));
	emit_gs_base(e, true, 0x3b, S1, S2, tag);
	*k = *how;
	k->kind = COLD_FILL;
	k->from = emit_jcc(e, CC_NZ, 0);
	k->index = (uint8_t)g->index;
	k->back = (uint64_t)((int64_t)(uintptr_t)retry + e->rx);
	k->insn = n;
	k->write = write;
	k->bytes_log2 = (uint8_t)log2_of(bytes);
	emit_gs_base(e, true, 0x8b, S2, S2,
		     CPU_OFF(tlb_entries) + (int32_t)offsetof(struct tlb_entry, addend));
}

/* The memory operand's host address into r11. */
static void emit_operand(struct gen *g, struct insn *n, bool write)
{
	const ZydisDecodedOperand *p = &n->operand[n->mem];
	struct cold how = { .stack = false };
	uint8_t *retry;

	spill_flags(g, n->live_in);
	retry = g->e->p;
	emit_address(g, n, S2, S1);
	emit_probe(g, n, p->size / 8u, write, retry, &how);
	emit_address(g, n, S1, H_NONE);
	emit_lea(g->e, true, S2, S2, S1, 0, 0);
}

/* The host address of the 8 bytes at [@base + @disp], a host register, into r11. */
static void emit_stack(struct gen *g, struct insn *n, unsigned base, int32_t disp, bool write)
{
	struct cold how = { .stack = true, .stack_base = (uint8_t)base, .disp = disp };
	uint8_t *retry;

	spill_flags(g, n->live_in);
	retry = g->e->p;
	emit_lea(g->e, true, S2, base, H_NONE, 0, disp);
	emit_probe(g, n, 8, write, retry, &how);
	emit_lea(g->e, true, S2, S2, base, 0, disp);
}

/* --- instructions that keep their form ----------------------------------------------------- */

static void call_vec_gate(struct emit *e)
{
	emit_gs(e, false, 0xff, 2, CPU_OFF(x.vec_gate));
}

/* Where in the encoding a register operand stands. */
static uint8_t *field_of(struct x86enc *x, const ZydisDecodedOperand *p)
{
	switch (p->encoding) {
	case ZYDIS_OPERAND_ENCODING_MODRM_REG:
		return &x->reg;
	case ZYDIS_OPERAND_ENCODING_MODRM_RM:
		return &x->rm;
	case ZYDIS_OPERAND_ENCODING_NDSNDD:
		return &x->vvvv;
	default:
		return NULL;
	}
}

/* Copies @n with its opcode's register replaced. */
static void emit_opreg(struct emit *e, const struct insn *n, unsigned reg)
{
	const ZydisDecodedInstructionRaw *raw = &n->z.raw;
	bool had_rex = n->z.attributes & ZYDIS_ATTRIB_HAS_REX;
	unsigned at = raw->prefix_count, rex = 0x40, i;

	for (i = 0; i < raw->prefix_count; i++) {
		unsigned p = raw->prefixes[i].value;

		if (p == 0x66 || p == 0xf2 || p == 0xf3)
			emit_u8(e, p);
	}
	if (had_rex) {
		rex |= raw->rex.W * 8u;
		at = raw->rex.offset + 1u;
	}
	rex |= (reg & 8) >> 3;
	if (had_rex || rex != 0x40)
		emit_u8(e, rex);
	if (n->z.opcode_map == ZYDIS_OPCODE_MAP_0F)
		emit_u8(e, 0x0f), at++;
	emit_u8(e, (n->z.opcode & ~7u) | (reg & 7));
	for (at++; at < n->z.length; at++)
		emit_u8(e, n->bytes[at]);
}

struct spilled {
	uint8_t gpr, scratch;
	bool written;
};

static bool emit_plain(struct gen *g, struct insn *n)
{
	static const uint8_t scratch[] = { S1, S2 };
	struct x86enc enc = { X86ENC_KEEP, X86ENC_KEEP, X86ENC_KEEP, S2,
			      false,       0,           false,       X86ENC_OPSIZE_KEEP };
	struct spilled spilled[2];
	unsigned nr_spilled = 0, room = n->mem >= 0 ? 1 : 2, i, s;
	uint8_t code[X86ENC_MAX];
	struct xmark *m = &g->mark[g->b->nr_marks - 1];

	for (i = 0; i < n->z.operand_count; i++) {
		const ZydisDecodedOperand *p = &n->operand[i];
		uint8_t *field = field_of(&enc, p), gpr;

		if (p->type != ZYDIS_OPERAND_TYPE_REGISTER)
			continue;
		gpr = gpr_of(p->reg.value);
		if (gpr == OP_NO_REG || !field || is_high_byte(p->reg.value))
			continue;
		if (home(gpr) != H_NONE) {
			*field = (uint8_t)home(gpr);
			continue;
		}
		for (s = 0; s < nr_spilled && spilled[s].gpr != gpr; s++)
			;
		if (s == room)
			return false;
		if (s == nr_spilled)
			spilled[nr_spilled++] = (struct spilled){ gpr, scratch[s], false };
		spilled[s].written |= !!(p->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE);
		*field = spilled[s].scratch;
	}
	if (n->mem >= 0 && !address_is_simple(n))
		return false;

	if (n->vec)
		call_vec_gate(g->e);
	if (n->mem >= 0)
		emit_operand(g, n, n->operand[n->mem].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE);
	want_flags(g, n);
	for (s = 0; s < nr_spilled; s++)
		emit_gs_load(g->e, spilled[s].scratch, GPR_OFF(spilled[s].gpr));
	m->flags = n->mem >= 0 ? FLAGS_MEM : (uint8_t)g->flags;
	emit_bytes(g->e, code, x86enc(code, &n->z, n->bytes, &enc));
	for (s = 0; s < nr_spilled; s++)
		if (spilled[s].written)
			emit_gs_store(g->e, spilled[s].scratch, GPR_OFF(spilled[s].gpr));
	wrote_flags(g, n);
	return true;
}

/* MOV r, imm; XCHG rAX, r; BSWAP; and what has no explicit register at all. */
static bool emit_opreg_insn(struct gen *g, struct insn *n)
{
	const ZydisDecodedOperand *p = NULL;
	unsigned gpr = OP_NO_REG, reg, i;

	for (i = 0; i < n->z.operand_count; i++)
		if (n->operand[i].encoding == ZYDIS_OPERAND_ENCODING_OPCODE &&
		    n->operand[i].type == ZYDIS_OPERAND_TYPE_REGISTER)
			p = &n->operand[i];
	if (p)
		gpr = gpr_of(p->reg.value);
	if (n->mem >= 0)
		return false;
	if (n->vec)
		call_vec_gate(g->e);
	want_flags(g, n);
	g->mark[g->b->nr_marks - 1].flags = (uint8_t)g->flags;
	if (!p || is_high_byte(p->reg.value) || gpr == OP_NO_REG) {
		emit_bytes(g->e, n->bytes, n->z.length);
	} else {
		reg = get_reg(g, gpr, S1);
		emit_opreg(g->e, n, reg);
		if (home(gpr) == H_NONE)
			set_reg(g, gpr, reg);
	}
	wrote_flags(g, n);
	return true;
}

static bool emit_lea_insn(struct gen *g, struct insn *n)
{
	unsigned gpr = decode_gpr(n->operand[0].reg.value), dst;
	const ZydisDecodedOperand *p = &n->operand[1];
	struct insn flat = *n;

	/* Segments do not matter to LEA. */
	n->mem = 1;
	flat.mem = 1;
	flat.operand[1].mem.segment = ZYDIS_REGISTER_DS;
	dst = home(gpr) == H_NONE ? S2 : home(gpr);
	if (p->mem.disp.value != (int32_t)p->mem.disp.value)
		return false;
	/* The destination may be the index: not to be written early. */
	if (dst != S2 &&
	    (p->mem.base == ZYDIS_REGISTER_RIP ||
	     (p->mem.base != ZYDIS_REGISTER_NONE && home(decode_gpr(p->mem.base)) == H_NONE) ||
	     (p->mem.index != ZYDIS_REGISTER_NONE && home(decode_gpr(p->mem.index)) == H_NONE))) {
		emit_address(g, &flat, S2, S1);
		emit_rr(g->e, n->z.operand_width == 64, 0x89, S2, dst);
		return true;
	}
	if (n->z.operand_width == 32)
		flat.z.address_width = 32; /* LEA with a 32-bit result */
	emit_address(g, &flat, dst, S1);
	if (home(gpr) == H_NONE)
		emit_gs_store(g->e, S2, GPR_OFF(gpr));
	return true;
}

/* --- the stack -------------------------------------------------------------------------- */

static void move_stack(struct gen *g, int32_t by)
{
	emit_lea(g->e, true, H_R15, H_R15, H_NONE, 0, by);
}

static bool emit_push(struct gen *g, struct insn *n)
{
	const ZydisDecodedOperand *p = &n->operand[0];
	struct emit *e = g->e;

	if (p->type == ZYDIS_OPERAND_TYPE_MEMORY) {
		n->mem = 0;
		if (!address_is_simple(n))
			return false;
		emit_operand(g, n, false);
		emit_load(e, true, 0x8b, S1, S2, 0);
		emit_gs_store(e, S1, CPU_OFF(s.rip));
		emit_stack(g, n, H_R15, -8, true);
		emit_gs_load(e, S1, CPU_OFF(s.rip));
		emit_load(e, true, 0x89, S1, S2, 0);
	} else if (p->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
		emit_stack(g, n, H_R15, -8, true);
		emit_load(e, true, 0xc7, 0, S2, 0);
		emit_u32(e, (uint32_t)p->imm.value.s);
	} else {
		emit_stack(g, n, H_R15, -8, true);
		emit_load(e, true, 0x89, get_reg(g, gpr_of(p->reg.value), S1), S2, 0);
	}
	move_stack(g, -8);
	return true;
}

static bool emit_pop(struct gen *g, struct insn *n)
{
	unsigned gpr = gpr_of(n->operand[0].reg.value);

	emit_stack(g, n, H_R15, 0, false);
	move_stack(g, 8);
	if (home(gpr) != H_NONE) {
		emit_load(g->e, true, 0x8b, home(gpr), S2, 0);
	} else {
		emit_load(g->e, true, 0x8b, S1, S2, 0);
		set_reg(g, gpr, S1);
	}
	return true;
}

static bool emit_leave(struct gen *g, struct insn *n)
{
	emit_stack(g, n, H_RBP, 0, false);
	emit_lea(g->e, true, H_R15, H_RBP, H_NONE, 0, 8);
	emit_load(g->e, true, 0x8b, H_RBP, S2, 0);
	return true;
}

/* --- jumps ------------------------------------------------------------------------------- */

/* To the RIP in r10, whatever is there; flags are in c->fl. */
static void emit_jump_rip(struct gen *g)
{
	struct emit *e = g->e;
	int32_t table = CPU_OFF(jump);

	emit_gs_store(e, S1, CPU_OFF(s.rip));
	emit_gs_load(e, S2, CPU_OFF(x.attention));
	emit_u8(e, 0x41); /* cmp dword [r11], 0 */
	emit_u8(e, 0x83);
	emit_u8(e, 0x3b);
	emit_u8(e, 0);
	emit_jcc(e, CC_NZ, g->x->tramp.attend);
	emit_rr(e, false, 0x89, S1, S2); /* mov r11d, r10d */
	emit_u8(e, 0x41);                /* and r11d, entries - 1 */
	emit_u8(e, 0x81);
	emit_u8(e, 0xe3);
	emit_u32(e, XLAT_JUMPS - 1);
	emit_u8(e, 0x41); /* shl r11d, 4 */
	emit_u8(e, 0xc1);
	emit_u8(e, 0xe3);
	emit_u8(e, 4);
	emit_gs(e, true, 0x03, S1, CPU_OFF(x.jump_key));
	emit_gs_base(e, true, 0x3b, S1, S2, table + (int32_t)offsetof(struct xlat_jump, tag));
	emit_jcc(e, CC_NZ, g->x->tramp.lookup);
	emit_gs_base(e, false, 0xff, 4, S2, table + (int32_t)offsetof(struct xlat_jump, code));
}

/* @n instructions of the block have retired. Touches no flags, keeps r10. */
static void emit_count(struct gen *g, unsigned n)
{
	if (!g->x->counts)
		return;
	emit_gs_load(g->e, S2, CPU_OFF(insns));
	emit_lea(g->e, true, S2, S2, H_NONE, 0, (int32_t)n);
	emit_gs_store(g->e, S2, CPU_OFF(insns));
}

static void emit_rip(struct gen *g, unsigned dst, int32_t off)
{
	emit_gs_load(g->e, dst, CPU_OFF(block_rip));
	emit_lea(g->e, true, dst, dst, H_NONE, 0, off);
}

static bool in_page(int32_t target)
{
	return target >= 0 && target < (int32_t)PAGE_SIZE;
}

/* The end of the cold list is the only place that needs room checked: see COLD_MAX. */
static struct cold *new_cold(struct gen *g)
{
	struct cold *k = &g->cold[g->nr_cold++];

	*k = (struct cold){ .flags = g->flags };
	return k;
}

/* Edge @edge of the block, to @target in this page or off it; @cc 16: always. */
static void emit_edge(struct gen *g, unsigned edge, unsigned cc, int32_t target)
{
	struct cold *k;

	if (cc == 16 && !in_page(target)) {
		spill_flags(g, FLAGS_ALL);
		emit_rip(g, S1, target);
		emit_jump_rip(g);
		return;
	}
	k = new_cold(g);
	k->edge = (uint8_t)edge;
	k->target = target;
	k->kind = in_page(target) ? COLD_EDGE : COLD_FAR;
	k->from = cc == 16 ? emit_jmp(g->e, 0) : emit_jcc(g->e, cc, 0);
	k->insn = &g->insn[g->nr_insns - 1];
}

static int32_t branch_target(const struct insn *n)
{
	return (int32_t)n->off + n->z.length + (int32_t)n->operand[0].imm.value.s;
}

/* The target of an indirect branch into s.rip. */
static bool emit_indirect_target(struct gen *g, struct insn *n)
{
	if (n->operand[0].type == ZYDIS_OPERAND_TYPE_REGISTER) {
		emit_gs_store(g->e, get_reg(g, gpr_of(n->operand[0].reg.value), S1),
			      CPU_OFF(s.rip));
		return true;
	}
	n->mem = 0;
	if (!address_is_simple(n))
		return false;
	emit_operand(g, n, false);
	emit_load(g->e, true, 0x8b, S1, S2, 0);
	emit_gs_store(g->e, S1, CPU_OFF(s.rip));
	return true;
}

static bool emit_call_insn(struct gen *g, struct insn *n)
{
	bool direct = n->operand[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;

	spill_flags(g, FLAGS_ALL);
	if (!direct && !emit_indirect_target(g, n))
		return false;
	emit_stack(g, n, H_R15, -8, true);
	emit_rip(g, S1, n->off + n->z.length);
	emit_load(g->e, true, 0x89, S1, S2, 0);
	move_stack(g, -8);
	emit_count(g, g->index + 1);
	if (direct) {
		emit_edge(g, 0, 16, branch_target(n));
	} else {
		emit_gs_load(g->e, S1, CPU_OFF(s.rip));
		emit_jump_rip(g);
	}
	return true;
}

static bool emit_ret_insn(struct gen *g, struct insn *n)
{
	int32_t pop = 8;

	if (n->operand[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
		pop += (int32_t)n->operand[0].imm.value.u;
	emit_stack(g, n, H_R15, 0, false);
	emit_load(g->e, true, 0x8b, S1, S2, 0);
	move_stack(g, pop);
	emit_count(g, g->index + 1);
	emit_jump_rip(g);
	return true;
}

static bool emit_jmp_insn(struct gen *g, struct insn *n)
{
	if (n->operand[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
		emit_count(g, g->index + 1);
		emit_edge(g, 0, 16, branch_target(n));
		return true;
	}
	spill_flags(g, FLAGS_ALL);
	if (!emit_indirect_target(g, n))
		return false;
	emit_count(g, g->index + 1);
	emit_gs_load(g->e, S1, CPU_OFF(s.rip));
	emit_jump_rip(g);
	return true;
}

static bool emit_jcc_insn(struct gen *g, struct insn *n)
{
	if (g->flags == FLAGS_MEM) {
		load_flags(g->e);
		g->flags = FLAGS_HOST;
	}
	emit_count(g, g->index + 1);
	emit_edge(g, 0, n->z.opcode & 0xf, branch_target(n));
	emit_edge(g, 1, 16, n->off + n->z.length);
	return true;
}

/* --- cold code ----------------------------------------------------------------------------- */

static void emit_exit(struct gen *g, enum xlat_exit why, uint32_t what)
{
	emit_gs_imm32(g->e, CPU_OFF(x.what), what);
	emit_gs_imm32(g->e, CPU_OFF(x.why), why);
	emit_jmp(g->e, g->x->tramp.leave);
}

static void cold_fill(struct gen *g, const struct cold *k)
{
	struct emit *e = g->e;

	if (k->stack)
		emit_lea(e, true, S1, k->stack_base, H_NONE, 0, k->disp);
	else
		emit_address(g, k->insn, S1, S2);
	emit_gs_imm32(e, CPU_OFF(x.what), xwhat(k->insn->off, k->index));
	emit_call(e, g->x->tramp.fill[k->write][k->bytes_log2]);
	emit_jmp(e, k->back);
}

/*
 * A poll touches no flags: the attention word chooses one of two ways from a table.
 * The first is where the edge leads, the second leads out.
 */
static void cold_poll(struct gen *g, struct xedge *edge, uint64_t on, uint64_t out)
{
	struct emit *e = g->e;
	uint8_t *lea;

	edge->poll = emit_here(e);
	emit_gs_load(e, S2, CPU_OFF(x.attention));
	emit_load(e, false, 0x8b, S2, S2, 0);
	emit_u8(e, 0x4c); /* lea r10, [rip + table] */
	emit_u8(e, 0x8d);
	emit_u8(e, 0x15);
	lea = e->p;
	emit_u32(e, 0);
	emit_u8(e, 0x43); /* jmp [r10 + r11 * 8] */
	emit_u8(e, 0xff);
	emit_u8(e, 0x24);
	emit_u8(e, 0xda);
	while ((uintptr_t)e->p & 7)
		emit_u8(e, 0xcc);
	emit_patch(e, lea, emit_here(e));
	edge->poll_table = (uint64_t *)(void *)e->p;
	emit_u64(e, on);
	emit_u64(e, out);
}

static void cold_edge(struct gen *g, const struct cold *k)
{
	struct xedge *edge = &g->b->edge[k->edge];
	uint32_t what = g->number * 2 + k->edge;
	uint64_t unlinked = emit_here(g->e), attend;

	if (k->flags == FLAGS_HOST)
		save_flags(g->e);
	emit_exit(g, XEXIT_EDGE, what);
	*edge = (struct xedge){
		.at = k->from,
		.target = (uint16_t)k->target,
		.flags_host = k->flags == FLAGS_HOST,
	};
	if (k->target > k->insn->off)
		return;
	attend = emit_here(g->e);
	if (k->flags == FLAGS_HOST)
		save_flags(g->e);
	emit_exit(g, XEXIT_ATTEND_EDGE, what);
	cold_poll(g, edge, unlinked, attend);
}

static void cold_far(struct gen *g, const struct cold *k)
{
	if (k->flags == FLAGS_HOST)
		save_flags(g->e);
	emit_rip(g, S1, k->target);
	emit_jump_rip(g);
}

static void emit_cold(struct gen *g)
{
	unsigned i;

	for (i = 0; i < g->nr_cold; i++) {
		const struct cold *k = &g->cold[i];

		emit_patch(g->e, k->from, emit_here(g->e));
		if (k->kind == COLD_FILL)
			cold_fill(g, k);
		else if (k->kind == COLD_EDGE)
			cold_edge(g, k);
		else if (k->kind == COLD_STOP)
			emit_exit(g, XEXIT_INTERP, xwhat((unsigned)(g->b->hva & ~PAGE_MASK), 0));
		else
			cold_far(g, k);
	}
}

/* --- the block ------------------------------------------------------------------------------ */

static bool emit_insn(struct gen *g, struct insn *n)
{
	switch (n->kind) {
	case K_PLAIN:
		return emit_plain(g, n);
	case K_OPREG:
		return emit_opreg_insn(g, n);
	case K_NOP:
		return true;
	case K_LEA:
		return emit_lea_insn(g, n);
	case K_PUSH:
		return emit_push(g, n);
	case K_POP:
		return emit_pop(g, n);
	case K_LEAVE:
		return emit_leave(g, n);
	case K_CALL:
		return emit_call_insn(g, n);
	case K_RET:
		return emit_ret_insn(g, n);
	case K_JMP:
		return emit_jmp_insn(g, n);
	case K_JCC:
		return emit_jcc_insn(g, n);
	default:
		return false;
	}
}

/*
 * CLOCK_ICOUNT stops at exact instructions: where the block would run past it, the
 * interpreter goes on. Flags are in c->fl.
 */
static void emit_stop(struct gen *g)
{
	struct emit *e = g->e;
	struct cold *k;

	emit_gs_load(e, S1, CPU_OFF(insns));
	emit_lea(e, true, S1, S1, H_NONE, 0, (int32_t)g->nr_insns);
	emit_gs(e, true, 0x3b, S1, CPU_OFF(insns_stop));
	k = new_cold(g);
	k->kind = COLD_STOP;
	k->from = emit_jcc(e, CC_A, 0);
}

static void emit_entries(struct gen *g)
{
	struct emit *e = g->e;
	struct xblock *b = g->b;
	uint8_t *over;

	b->enter_jump = emit_here(e);
	emit_gs_load(e, S1, CPU_OFF(s.rip));
	emit_u8(e, 0x49); /* and r10, -4096 */
	emit_u8(e, 0x81);
	emit_u8(e, 0xe2);
	emit_u32(e, (uint32_t)PAGE_MASK);
	emit_gs_store(e, S1, CPU_OFF(block_rip));
	if (!b->flags_live && !g->c->icount) {
		b->enter_host = b->enter_mem = emit_here(e);
		return;
	}
	over = emit_jmp(e, 0);
	b->enter_host = emit_here(e);
	save_flags(e);
	b->enter_mem = emit_here(e);
	emit_patch(e, over, b->enter_mem);
	g->flags = FLAGS_MEM;
	if (g->c->icount)
		emit_stop(g);
}

static void add_mark(struct gen *g, unsigned off)
{
	g->mark[g->b->nr_marks++] = (struct xmark){
		.code = (uint32_t)(emit_here(g->e) - g->b->enter_jump),
		.off = (uint16_t)off,
		.flags = FLAGS_MEM,
		.index = (uint8_t)g->index,
	};
}

/* The interpreter takes over at @off: flags have to be where it looks for them. */
static void emit_interp(struct gen *g, unsigned off)
{
	spill_flags(g, FLAGS_ALL);
	emit_exit(g, XEXIT_INTERP, xwhat(off, g->index));
}

bool xgen_block(struct cpu *c, struct xblock *b, unsigned number, uint64_t page_gpa)
{
	struct gen *g = c->xlat->gen;
	unsigned end, i;
	bool open = true;

	g->c = c;
	g->x = c->xlat;
	g->e = &c->xlat->e;
	g->b = b;
	g->number = number;
	g->nr_cold = 0;
	end = decode_block(g, page_gpa);
	find_live_flags(g);
	g->flags = b->flags_live ? FLAGS_MEM : FLAGS_DEAD;
	emit_entries(g);

	for (i = 0; i < g->nr_insns; i++) {
		struct insn *n = &g->insn[i];
		uint8_t *begin = g->e->p;
		enum flags_at flags = g->flags;
		unsigned nr_cold = g->nr_cold;

		g->index = i;
		add_mark(g, n->off);
		if (!emit_insn(g, n)) {
			g->e->p = begin;
			g->flags = flags == FLAGS_DEAD ? FLAGS_MEM : flags;
			g->nr_cold = nr_cold;
			emit_interp(g, n->off);
			open = false;
			break;
		}
		open = !ends_block(n->kind);
	}
	b->nr_insns = (uint8_t)i;
	g->index = i;
	if (open && (end == PAGE_SIZE || i == XBLOCK_INSNS)) {
		emit_count(g, i);
		emit_edge(g, 0, 16, (int32_t)end);
	} else if (open) {
		emit_interp(g, end);
	}
	emit_cold(g);

	while ((uintptr_t)g->e->p & 7)
		emit_u8(g->e, 0xcc);
	b->marks = (const struct xmark *)(const void *)g->e->p;
	memcpy(g->e->p, g->mark, b->nr_marks * sizeof(g->mark[0]));
	g->e->p += ALIGN_UP(b->nr_marks * sizeof(g->mark[0]), 16);
	return true;
}
