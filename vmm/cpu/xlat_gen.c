/*
 * xlat_gen.c - a block's code: decode, find out which flags matter where, emit.
 *
 * A block ends at a branch, at an instruction for the interpreter, at the end of
 * its page or when it is long enough. It begins with three entries:
 *
 *	enter_jump	from the jump cache, whose tag is in r10: block_rip follows
 *	enter_mem	flags are in c->fl
 *	enter_host	flags are in the host's
 *
 * Hot code comes first, then what is rarely executed: TLB misses, unlinked edges,
 * polls.
 */
#include "cpu/mmu.h"
#include "cpu/x86enc.h"
#include "cpu/xlat_gen.h"
#include "cpu/xlat_tally.h"

#include <errno.h>

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

/* --- flags --------------------------------------------------------------------------- */

void xgen_save_flags(struct emit *e)
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
void xgen_spill_flags(struct gen *g, unsigned live)
{
	if (g->flags != FLAGS_HOST)
		return;
	if (live) {
		xgen_save_flags(g->e);
		g->flags = FLAGS_MEM;
	} else {
		g->flags = FLAGS_DEAD;
	}
}

/* Where something is about to read them. */
void xgen_host_flags(struct gen *g)
{
	if (g->flags == FLAGS_MEM) {
		load_flags(g->e);
		g->flags = FLAGS_HOST;
	}
}

/* Before an instruction runs natively: what it reads or leaves alone must be there. */
static void want_flags(struct gen *g, const struct insn *n)
{
	bool merges = n->writes && (n->live_out & ~n->kills);

	if (n->reads || merges)
		xgen_host_flags(g);
}

static void wrote_flags(struct gen *g, const struct insn *n)
{
	if (n->writes)
		g->flags = n->live_out ? FLAGS_HOST : FLAGS_DEAD;
}

/* --- registers ------------------------------------------------------------------------ */

/* The value of @gpr in some register: its home, or @scratch. */
unsigned xgen_get_reg(struct gen *g, unsigned gpr, unsigned scratch)
{
	unsigned h = xhome(gpr);

	if (h != H_NONE)
		return h;
	emit_gs_load(g->e, scratch, GPR_OFF(gpr));
	return scratch;
}

void xgen_set_reg(struct gen *g, unsigned gpr, unsigned from)
{
	unsigned h = xhome(gpr);

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
bool xgen_address(struct gen *g, const struct insn *n, unsigned dst, unsigned other)
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
		base = xhome(decode_gpr(p->mem.base));
		if (base == H_NONE) {
			emit_gs_load(e, dst, GPR_OFF(decode_gpr(p->mem.base)));
			base = dst;
		}
	}
	if (p->mem.index != ZYDIS_REGISTER_NONE) {
		index = xhome(decode_gpr(p->mem.index));
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
bool xgen_address_is_simple(const struct insn *n)
{
	const ZydisDecodedOperand *p = &n->operand[n->mem];
	bool base_in_reg =
		p->mem.base == ZYDIS_REGISTER_NONE ||
		(p->mem.base != ZYDIS_REGISTER_RIP && xhome(decode_gpr(p->mem.base)) != H_NONE);
	bool index_in_reg =
		p->mem.index == ZYDIS_REGISTER_NONE || xhome(decode_gpr(p->mem.index)) != H_NONE;

	return base_in_reg || index_in_reg;
}

struct cold *xgen_cold(struct gen *g, enum cold_kind kind)
{
	struct cold *k = &g->cold[g->nr_cold++];

	*k = (struct cold){ .kind = kind,
			    .flags = g->flags,
			    .index = (uint8_t)g->index,
			    .retired = (uint8_t)xgen_retired(g) };
	return k;
}

/* What comes next is executed unless @cc, and so begins a segment of its own. */
struct cold *xgen_cold_if(struct gen *g, enum cold_kind kind, unsigned cc)
{
	struct cold *k = xgen_cold(g, kind);

	k->from = emit_jcc(g->e, cc, 0);
	xtally_begin(g->x, XTALLY_HOT);
	return k;
}

/* op reg, the operand */
void xgen_at(struct emit *e, bool w, unsigned op, unsigned reg, const struct place *p)
{
	emit_rex(e, w, reg, p->index == H_NONE ? 0 : p->index, p->base);
	emit_u8(e, op);
	emit_mem(e, reg, p->base, p->index, p->shift, p->disp);
}

/*
 * The fast path, with the address in r11: index from the first byte, tag from the
 * last, one compare. Leaves what to add to the address in r11.
 */
void xgen_probe(struct gen *g, struct insn *n, const struct access *a, unsigned bytes, bool write,
		uint8_t *retry)
{
	struct emit *e = g->e;
	struct cold *k = xgen_cold(g, COLD_FILL);
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
	k->from = emit_jcc(e, CC_NZ, 0);
	xtally_begin(g->x, XTALLY_HOT);
	k->back = (uint64_t)((int64_t)(uintptr_t)retry + e->rx);
	k->insn = n;
	k->access = a;
	k->write = write;
	k->bytes = (uint16_t)bytes;
	emit_gs_base(e, true, 0x8b, S2, S2,
		     CPU_OFF(tlb_entries) + (int32_t)offsetof(struct tlb_entry, addend));
}

/* A slot is about to have another page. */
static void forget_rip_page(struct gen *g, int16_t page)
{
	for (unsigned i = 0; i < g->nr_rip_pages; i++)
		if (g->rip_page[i].page == page)
			g->rip_page[i] = g->rip_page[--g->nr_rip_pages];
}

/*
 * The faster path, with the address in @addr: is it in the page that was last seen here?
 * @scratch may be @addr, which is then lost.
 */
void xgen_page_check(struct gen *g, struct insn *n, const struct access *a, int16_t page,
		     unsigned bytes, bool write, unsigned addr, unsigned scratch, uint8_t *retry)
{
	struct emit *e = g->e;
	struct cold *k = xgen_cold(g, COLD_PAGE);

	forget_rip_page(g, page);
	emit_mov(e, scratch, addr);
	emit_gs(e, true, 0x2b, scratch, CPU_OFF(x.page) + 8 * page); /* sub */
	emit_alu_imm(e, true, ALU_CMP, scratch, (uint32_t)(PAGE_SIZE - bytes));
	k->from = emit_jcc(e, CC_A, 0);
	xtally_begin(g->x, XTALLY_HOT);
	k->back = (uint64_t)((int64_t)(uintptr_t)retry + e->rx);
	k->insn = n;
	k->access = a;
	k->write = write;
	k->bytes = (uint16_t)bytes;
	k->page = page;
}

/* Where a leader has left what to add. */
static int32_t slot_off(const struct gen *g, const struct access *a)
{
	if (a->hoist)
		return xloop_addend(g, a);
	return a->page >= 0 ? xaddend_off(a->page) : xslot_off(a);
}

/* The word at @off into r11, unless it is there. */
void xgen_hold(struct gen *g, int32_t off)
{
	if (g->held != off) {
		emit_gs_load(g->e, S2, off);
		g->loop.fresh = false;
	}
	g->loop.holds |= g->loop.fresh;
	g->held = off;
}

/* Somebody has looked it up already. */
static bool is_ready(const struct access *a)
{
	return a->leader || a->at_head;
}

/* An access of the form [register + displacement], alone or in a group. */
static struct place emit_simple(struct gen *g, struct insn *n, const struct access *a)
{
	struct emit *e = g->e;
	unsigned base = xhome(a->base);
	int32_t disp = a->disp + (a->base == RSP ? g->sp_lag : 0);
	uint8_t *retry;

	if (a->hoist)
		return xloop_place(g, n, a);
	if (is_ready(a)) {
		xgen_hold(g, a->leader ? slot_off(g, a->leader) : xaddend_off(a->page));
		return (struct place){ (uint8_t)base, S2, 0, disp };
	}
	g->held = 0;
	xgen_spill_flags(g, n->live_in);
	retry = e->p;
	xtally_begin(g->x, XTALLY_HOT);
	emit_lea(e, true, S2, base, H_NONE, 0, a->from);
	if (a->page >= 0) {
		xgen_page_check(g, n, a, a->page, a->bytes, a->write, S2, S2, retry);
		xgen_hold(g, xaddend_off(a->page));
	} else {
		xgen_probe(g, n, a, a->bytes, a->write, retry);
		if (a->leads) {
			emit_gs_store(e, S2, slot_off(g, a));
			g->held = slot_off(g, a);
		}
	}
	return (struct place){ (uint8_t)base, S2, 0, disp };
}

/* Is the operand relative to RIP, and all of it in one page? Then where is it in which? */
bool xgen_rip_relative(const struct insn *n, int32_t *off)
{
	const ZydisDecodedOperand *p = &n->operand[n->mem];
	int64_t at = p->mem.disp.value + n->off + n->z.length;

	*off = (int32_t)at;
	return p->mem.base == ZYDIS_REGISTER_RIP && n->z.address_width == 64 &&
	       p->mem.index == ZYDIS_REGISTER_NONE && p->mem.segment != ZYDIS_REGISTER_FS &&
	       p->mem.segment != ZYDIS_REGISTER_GS && at == (int32_t)at &&
	       ((unsigned)at & (PAGE_SIZE - 1)) + p->size / 8u <= PAGE_SIZE;
}

static bool has_rip_page(const struct gen *g, int16_t page, int32_t delta)
{
	for (unsigned i = 0; i < g->nr_rip_pages; i++)
		if (g->rip_page[i].page == page && g->rip_page[i].delta == delta)
			return true;
	return false;
}

/* Is it the page that was last seen there? Its address says all, and is the same each time. */
static void ask_rip_page(struct gen *g, struct insn *n, int32_t delta, unsigned bytes, bool write)
{
	struct emit *e = g->e;
	uint8_t *retry;
	struct cold *k;

	xgen_spill_flags(g, n->live_in);
	g->held = 0;
	retry = e->p;
	xtally_begin(g->x, XTALLY_HOT);
	k = xgen_cold(g, COLD_PAGE);
	xgen_rip(g, S2, delta);
	emit_gs(e, true, 0x3b, S2, CPU_OFF(x.page) + 8 * n->at.page); /* cmp */
	k->from = emit_jcc(e, CC_NZ, 0);
	xtally_begin(g->x, XTALLY_HOT);
	k->back = (uint64_t)((int64_t)(uintptr_t)retry + e->rx);
	k->insn = n;
	k->access = &n->at;
	k->write = write;
	k->bytes = (uint16_t)bytes;
	k->page = n->at.page;
	forget_rip_page(g, n->at.page);
	if (g->nr_rip_pages < ARRAY_SIZE(g->rip_page))
		g->rip_page[g->nr_rip_pages++] = (struct rip_page){ n->at.page, delta };
}

/*
 * The code's own page begins where pages begin, so that which operands share one is known
 * beforehand. What r11 has for them: what the page adds, and block_rip.
 */
static struct place emit_rip_relative(struct gen *g, struct insn *n, int32_t off, bool write)
{
	int32_t delta = off & (int32_t)PAGE_MASK, sum = -xaddend_off(n->at.page);
	struct place at = { S2, H_NONE, 0, off };
	struct emit *e = g->e;

	if (!has_rip_page(g, n->at.page, delta))
		ask_rip_page(g, n, delta, n->operand[n->mem].size / 8u, write);
	else if (g->held == sum)
		return at;
	xgen_spill_flags(g, n->live_in);
	emit_gs_load(e, S2, xaddend_off(n->at.page));
	emit_gs(e, true, 0x03, S2, CPU_OFF(block_rip)); /* add */
	g->loop.fresh = false;
	g->held = sum;
	return at;
}

/*
 * r11 has what to add to the address. With the base added to it, it becomes one; the
 * index stays where it is, so that the operand does not wait for what has been looked up.
 */
static struct place add_base(struct gen *g, const struct insn *n)
{
	const ZydisDecodedOperand *p = &n->operand[n->mem];
	struct place at = { S2, H_NONE, 0, (int32_t)p->mem.disp.value };
	struct emit *e = g->e;

	if (p->mem.base == ZYDIS_REGISTER_RIP) {
		emit_gs(e, true, 0x03, S2, CPU_OFF(block_rip)); /* add */
		emit_lea(e, true, S2, S2, H_NONE, 0, n->off + n->z.length);
	} else if (p->mem.base != ZYDIS_REGISTER_NONE) {
		unsigned base = xhome(decode_gpr(p->mem.base));

		if (base == H_NONE)
			emit_gs(e, true, 0x03, S2, GPR_OFF(decode_gpr(p->mem.base)));
		else
			emit_rr(e, true, 0x01, base, S2);
	}
	if (p->mem.segment == ZYDIS_REGISTER_FS)
		emit_gs(e, true, 0x03, S2, CPU_OFF(s.seg[SEG_FS].base));
	if (p->mem.segment == ZYDIS_REGISTER_GS)
		emit_gs(e, true, 0x03, S2, CPU_OFF(s.seg[SEG_GS].base));
	if (p->mem.index != ZYDIS_REGISTER_NONE) {
		at.index = (uint8_t)xhome(decode_gpr(p->mem.index));
		at.shift = (uint8_t)__builtin_ctz(p->mem.scale);
	}
	return at;
}

/* Can the parts of the address be added one by one? */
static bool parts_add_up(const struct insn *n)
{
	const ZydisDecodedOperand *p = &n->operand[n->mem];

	return n->z.address_width == 64 && p->mem.disp.value == (int32_t)p->mem.disp.value &&
	       (p->mem.index == ZYDIS_REGISTER_NONE || xhome(decode_gpr(p->mem.index)) != H_NONE);
}

/* The memory operand. Its place is good until r11 is used again. */
struct place xgen_operand(struct gen *g, struct insn *n, bool write)
{
	unsigned bytes = n->operand[n->mem].size / 8u;
	bool parts = parts_add_up(n);
	uint8_t *retry;
	int32_t off;

	if (n->at.simple)
		return emit_simple(g, n, &n->at);
	if (n->at.hoist)
		return xloop_place(g, n, &n->at);
	if (n->at.page >= 0 && xgen_rip_relative(n, &off))
		return emit_rip_relative(g, n, off, write);
	g->held = 0;
	xgen_spill_flags(g, n->live_in);
	retry = g->e->p;
	xtally_begin(g->x, XTALLY_HOT);
	xgen_address(g, n, S2, S1);
	if (n->at.page >= 0) {
		xgen_page_check(g, n, &n->at, n->at.page, bytes, write, S2, parts ? S2 : S1, retry);
		if (parts) {
			emit_gs_load(g->e, S2, xaddend_off(n->at.page));
			return add_base(g, n);
		}
		emit_gs(g->e, true, 0x03, S2, xaddend_off(n->at.page)); /* add */
		return (struct place){ S2, H_NONE, 0, 0 };
	}
	xgen_probe(g, n, NULL, bytes, write, retry);
	if (parts)
		return add_base(g, n);
	xgen_address(g, n, S1, H_NONE);
	emit_lea(g->e, true, S2, S2, S1, 0, 0);
	return (struct place){ S2, H_NONE, 0, 0 };
}

struct place xgen_stack(struct gen *g, struct insn *n)
{
	return emit_simple(g, n, &n->stack);
}

/* --- instructions that keep their form ----------------------------------------------------- */

/* Once a block: nothing in it takes the vector registers away again. */
void xgen_vec_gate(struct gen *g, unsigned live)
{
	struct cold *k;

	if (g->vec_live)
		return;
	if (g->flags == FLAGS_HOST && live) {
		emit_gs(g->e, false, 0xff, 2, CPU_OFF(x.vec_gate)); /* call: touches none */
	} else {
		emit_gs(g->e, false, 0x83, 7, CPU_OFF(x.vec_live)); /* cmp dword, 0 */
		emit_u8(g->e, 0);
		k = xgen_cold_if(g, COLD_VEC, CC_Z);
		k->back = emit_here(g->e);
	}
	g->vec_live = true;
	g->held = 0;
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
	struct x86enc enc = { .reg = X86ENC_KEEP, .rm = X86ENC_KEEP, .vvvv = X86ENC_KEEP };
	struct spilled spilled[2];
	unsigned nr_spilled = 0, room = n->mem >= 0 ? 1 : 2, i, s;
	uint8_t code[X86ENC_MAX];
	struct xmark *m = &g->mark[g->b->nr_marks - 1];

	for (i = 0; i < n->z.operand_count; i++) {
		const ZydisDecodedOperand *p = &n->operand[i];
		uint8_t *field = field_of(&enc, p), gpr;

		if (p->type != ZYDIS_OPERAND_TYPE_REGISTER)
			continue;
		gpr = xlat_gpr(p->reg.value);
		if (gpr == OP_NO_REG || !field || xlat_is_high_byte(p->reg.value))
			continue;
		if (xhome(gpr) != H_NONE) {
			*field = (uint8_t)xhome(gpr);
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
	if (n->mem >= 0 && !xgen_address_is_simple(n))
		return false;

	if (n->vec)
		xgen_vec_gate(g, n->live_in);
	if (n->mem >= 0) {
		struct place at =
			xgen_operand(g, n,
				     n->operand[n->mem].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE);

		enc.base = at.base;
		enc.has_index = at.index != H_NONE;
		enc.index = at.index;
		enc.shift = at.shift;
		enc.disp32 = at.disp;
	}
	want_flags(g, n);
	for (s = 0; s < nr_spilled; s++)
		emit_gs_load(g->e, spilled[s].scratch, GPR_OFF(spilled[s].gpr));
	if (nr_spilled == 2)
		g->held = 0;
	m->flags = (uint8_t)g->flags;
	emit_bytes(g->e, code, x86enc(code, &n->z, n->bytes, &enc));
	for (s = 0; s < nr_spilled; s++)
		if (spilled[s].written)
			emit_gs_store(g->e, spilled[s].scratch, GPR_OFF(spilled[s].gpr));
	wrote_flags(g, n);
	return true;
}

/* --- bit strings -------------------------------------------------------------------------- */

/* The address of the word with the bit; @other is lost. */
static bool emit_bits_address(struct gen *g, const struct insn *n, unsigned dst, unsigned other)
{
	unsigned gpr = xlat_gpr(n->operand[1].reg.value), width = n->z.operand_width, from;
	struct emit *e = g->e;

	if (!xgen_address(g, n, dst, other))
		return false;
	from = xgen_get_reg(g, gpr, other);
	if (width == 64) {
		emit_mov(e, other, from);
	} else if (width == 32) {
		emit_rr(e, true, 0x63, other, from); /* movsxd */
	} else {
		emit_rex(e, true, other, 0, from); /* movsx from 16 bits */
		emit_u8(e, 0x0f);
		emit_u8(e, 0xbf);
		emit_u8(e, 0xc0 | (other & 7) << 3 | (from & 7));
	}
	emit_shift(e, true, SHIFT_SAR, other, (unsigned)__builtin_ctz(width));
	emit_lea(e, true, dst, dst, other, (unsigned)__builtin_ctz(width / 8), 0);
	return true;
}

/* BT, BTS, BTR, BTC memory, register. */
static bool emit_bits(struct gen *g, struct insn *n)
{
	unsigned gpr = xlat_gpr(n->operand[1].reg.value), width = n->z.operand_width;
	bool write = n->z.mnemonic != ZYDIS_MNEMONIC_BT;
	struct emit *e = g->e;
	uint8_t *retry;

	if (n->at.page < 0)
		return false;
	xgen_spill_flags(g, n->live_in);
	retry = e->p;
	if (!emit_bits_address(g, n, S2, S1))
		return false;
	xgen_page_check(g, n, &n->at, n->at.page, width / 8, write, S2, S1, retry);
	emit_gs(e, true, 0x03, S2, xaddend_off(n->at.page)); /* add */
	emit_rr(e, false, 0x89, xgen_get_reg(g, gpr, S1), S1);
	emit_alu_imm(e, false, ALU_AND, S1, width - 1);
	emit_gs_store(e, S1, CPU_OFF(x.saved));
	want_flags(g, n);
	emit_gs_load(e, S1, CPU_OFF(x.saved));
	g->mark[g->b->nr_marks - 1].flags = (uint8_t)g->flags;
	if (n->z.attributes & ZYDIS_ATTRIB_HAS_LOCK)
		emit_u8(e, 0xf0);
	if (width == 16)
		emit_u8(e, 0x66);
	emit_rex(e, width == 64, S1, 0, S2);
	emit_u8(e, 0x0f);
	emit_u8(e, n->z.opcode);
	emit_mem(e, S1, S2, H_NONE, 0, 0);
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
		gpr = xlat_gpr(p->reg.value);
	if (n->mem >= 0)
		return false;
	if (n->vec)
		xgen_vec_gate(g, n->live_in);
	want_flags(g, n);
	g->mark[g->b->nr_marks - 1].flags = (uint8_t)g->flags;
	if (!p || xlat_is_high_byte(p->reg.value) || gpr == OP_NO_REG) {
		emit_bytes(g->e, n->bytes, n->z.length);
	} else {
		reg = xgen_get_reg(g, gpr, S1);
		emit_opreg(g->e, n, reg);
		if (xhome(gpr) == H_NONE)
			xgen_set_reg(g, gpr, reg);
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
	flat.mem = 1;
	flat.operand[1].mem.segment = ZYDIS_REGISTER_DS;
	dst = xhome(gpr) == H_NONE ? S2 : xhome(gpr);
	if (dst == S2)
		g->held = 0;
	if (p->mem.disp.value != (int32_t)p->mem.disp.value)
		return false;
	if (dst != S2 && p->mem.base == ZYDIS_REGISTER_RIP && n->z.operand_width == 64)
		return xgen_address(g, &flat, dst, H_NONE);
	/* The destination may be the index: not to be written early. */
	if (dst != S2 &&
	    (p->mem.base == ZYDIS_REGISTER_RIP ||
	     (p->mem.base != ZYDIS_REGISTER_NONE && xhome(decode_gpr(p->mem.base)) == H_NONE) ||
	     (p->mem.index != ZYDIS_REGISTER_NONE && xhome(decode_gpr(p->mem.index)) == H_NONE))) {
		g->held = 0;
		xgen_address(g, &flat, S2, S1);
		emit_rr(g->e, n->z.operand_width == 64, 0x89, S2, dst);
		return true;
	}
	if (n->z.operand_width == 32)
		flat.z.address_width = 32; /* LEA with a 32-bit result */
	xgen_address(g, &flat, dst, S1);
	if (xhome(gpr) == H_NONE)
		emit_gs_store(g->e, S2, GPR_OFF(gpr));
	return true;
}

/* --- the stack -------------------------------------------------------------------------- */

/*
 * Pushes and pops in a row, of a range that is looked up, move RSP together: nothing
 * between them can leave the block.
 */
static bool stack_may_lag(const struct insn *n)
{
	const ZydisDecodedOperand *p = n->operand;

	switch (n->kind) {
	case K_PUSH:
		return is_ready(&n->stack) && n->mem < 0 && p->reg.value != ZYDIS_REGISTER_RSP;
	case K_POP:
		return is_ready(&n->stack) && p->reg.value != ZYDIS_REGISTER_RSP;
	case K_CALL:
	case K_RET:
		return is_ready(&n->stack) && n->mem < 0 &&
		       (p->type != ZYDIS_OPERAND_TYPE_REGISTER ||
			p->reg.value != ZYDIS_REGISTER_RSP);
	case K_NOP:
		return true;
	default:
		return false;
	}
}

void xgen_move_stack(struct gen *g, int32_t by)
{
	by += g->sp_lag;
	g->sp_lag = 0;
	if (by)
		emit_lea(g->e, true, H_R15, H_R15, H_NONE, 0, by);
}

static bool emit_push_insn(struct gen *g, struct insn *n)
{
	const ZydisDecodedOperand *p = &n->operand[0];
	struct emit *e = g->e;
	struct place at;

	if (p->type == ZYDIS_OPERAND_TYPE_MEMORY) {
		if (!xgen_address_is_simple(n))
			return false;
		at = xgen_operand(g, n, false);
		xgen_at(e, true, 0x8b, S1, &at);
		emit_gs_store(e, S1, CPU_OFF(s.rip));
		at = xgen_stack(g, n);
		emit_gs_load(e, S1, CPU_OFF(s.rip));
		xgen_at(e, true, 0x89, S1, &at);
	} else if (p->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
		at = xgen_stack(g, n);
		xgen_at(e, true, 0xc7, 0, &at);
		emit_u32(e, (uint32_t)p->imm.value.s);
	} else {
		at = xgen_stack(g, n);
		xgen_at(e, true, 0x89, xgen_get_reg(g, xlat_gpr(p->reg.value), S1), &at);
	}
	g->sp_lag -= 8;
	return true;
}

static bool emit_pop_insn(struct gen *g, struct insn *n)
{
	unsigned gpr = xlat_gpr(n->operand[0].reg.value);
	struct place at = xgen_stack(g, n);
	unsigned to = xhome(gpr) == H_NONE || gpr == RSP ? S1 : xhome(gpr);

	xgen_at(g->e, true, 0x8b, to, &at);
	g->sp_lag += 8;
	if (gpr == RSP)
		g->sp_lag = 0;
	if (to == S1)
		xgen_set_reg(g, gpr, S1);
	return true;
}

static bool emit_leave(struct gen *g, struct insn *n)
{
	struct place at = xgen_stack(g, n);

	xgen_at(g->e, true, 0x8b, S1, &at);
	emit_lea(g->e, true, H_R15, H_RBP, H_NONE, 0, 8);
	emit_mov(g->e, H_RBP, S1);
	return true;
}

/* --- strings ----------------------------------------------------------------------------- */

static bool emit_rep(struct gen *g, struct insn *n)
{
	bool stores = (n->z.opcode & 0xfe) == 0xaa;
	unsigned shift = n->z.opcode & 1 ? (unsigned)__builtin_ctz(n->z.operand_width / 8u) : 0;

	xgen_spill_flags(g, n->live_in);
	emit_gs_imm32(g->e, CPU_OFF(x.what), xwhat(n->off, xgen_retired(g)));
	emit_call(g->e, g->x->tramp.rep[stores][shift]);
	return true;
}

/* --- cold code ----------------------------------------------------------------------------- */

void xgen_exit(struct gen *g, enum xlat_exit why, uint32_t what)
{
	emit_gs_imm32(g->e, CPU_OFF(x.what), what);
	emit_gs_imm32(g->e, CPU_OFF(x.why), why);
	emit_jmp(g->e, why == XEXIT_ATTEND_AT || why == XEXIT_ATTEND_EDGE ? g->x->tramp.attention
									  : g->x->tramp.leave);
}

/* Where it begins, into r10. */
static void cold_address(struct gen *g, const struct cold *k)
{
	const struct access *a = k->access;

	if (a && a->simple) {
		emit_lea(g->e, true, S1, xhome(a->base), H_NONE, 0,
			 k->head ? a->from_head : a->from);
		return;
	}
	if (k->insn->kind == K_BITS)
		emit_bits_address(g, k->insn, S1, S2);
	else
		xgen_address(g, k->insn, S1, S2);
	if (a && k->head && a->from_head)
		emit_lea(g->e, true, S1, S1, H_NONE, 0, a->from_head);
}

/*
 * Is there more to a fault of its memory operand than that its page is not there? Elements
 * that a mask leaves out do not fault, an x87 exception that is pending comes first, and so
 * does one of a conversion before its store.
 */
static bool faults_its_own_way(const struct insn *n)
{
	switch (n->z.mnemonic) {
	case ZYDIS_MNEMONIC_VCVTPS2PH:
	case ZYDIS_MNEMONIC_VMASKMOVPD:
	case ZYDIS_MNEMONIC_VMASKMOVPS:
	case ZYDIS_MNEMONIC_VPMASKMOVD:
	case ZYDIS_MNEMONIC_VPMASKMOVQ:
		return true;
	default:
		break;
	}
	for (unsigned i = 0; i < n->z.operand_count; i++)
		if (n->operand[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    ZydisRegisterGetClass(n->operand[i].reg.value) == ZYDIS_REGCLASS_MMX)
			return true;
	return n->z.meta.category == ZYDIS_CATEGORY_X87_ALU ||
	       (n->z.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX &&
		n->z.avx.mask.reg != ZYDIS_REGISTER_NONE && n->z.avx.mask.reg != ZYDIS_REGISTER_K0);
}

static void cold_fill(struct gen *g, const struct cold *k)
{
	uint32_t what = xwhat(k->insn->off, k->retired);
	struct emit *e = g->e;

	cold_address(g, k);
	if (k->head)
		what = xwhat(g->insn[0].off, 0) | XWHAT_PLAIN | XWHAT_HEAD;
	else if (k->access && k->access->leads)
		what |= XWHAT_PLAIN;
	else if (faults_its_own_way(k->insn))
		what |= XWHAT_ASK;
	emit_gs_imm32(e, CPU_OFF(x.what), what);
	if (k->kind == COLD_PAGE) {
		emit_mov_imm(e, S2, k->bytes | (uint32_t)k->page << 16);
		emit_call(e, g->x->tramp.page[k->write]);
	} else {
		emit_mov_imm(e, S2, k->bytes);
		emit_call(e, g->x->tramp.fill[k->write]);
	}
	xtally_begin(g->x, k->kind == COLD_PAGE ? XTALLY_PAGE : XTALLY_FILL);
	emit_jmp(e, k->back);
}

static void cold_stale(struct gen *g)
{
	xgen_rip(g, S1, g->insn[0].off);
	emit_gs_store(g->e, S1, CPU_OFF(s.rip));
	xgen_exit(g, XEXIT_STALE, g->number);
}

static void cold_vec(struct gen *g, const struct cold *k)
{
	emit_gs(g->e, false, 0xff, 2, CPU_OFF(x.vec_gate));
	emit_jmp(g->e, k->back);
}

static void emit_cold(struct gen *g)
{
	static const uint8_t tally[] = {
		[COLD_FILL] = XTALLY_FILL,     [COLD_PAGE] = XTALLY_PAGE,
		[COLD_EDGE] = XTALLY_LINK,     [COLD_FAR] = XTALLY_HOT,
		[COLD_STOP] = XTALLY_LEAVE,    [COLD_LOOKUP] = XTALLY_LOOKUP,
		[COLD_CALL] = XTALLY_LEAVE,    [COLD_RETURN] = XTALLY_LOOKUP,
		[COLD_BLOCK_RIP] = XTALLY_HOT, [COLD_INTERP] = XTALLY_LEAVE,
		[COLD_ATTEND] = XTALLY_LEAVE,  [COLD_STALE] = XTALLY_LEAVE,
		[COLD_VEC] = XTALLY_HOT,
	};
	unsigned i;

	for (i = 0; i < g->nr_cold; i++) {
		const struct cold *k = &g->cold[i];

		emit_patch(g->e, k->from, emit_here(g->e));
		xtally_begin(g->x, tally[k->kind]);
		if (k->kind == COLD_FILL || k->kind == COLD_PAGE)
			cold_fill(g, k);
		else if (k->kind == COLD_INTERP)
			xgen_exit(g, XEXIT_INTERP, xwhat(g->insn[k->index].off, k->retired));
		else if (k->kind == COLD_STOP)
			xgen_exit(g, XEXIT_INTERP, xwhat((unsigned)k->target, 0));
		else if (k->kind == COLD_STALE)
			cold_stale(g);
		else if (k->kind == COLD_VEC)
			cold_vec(g, k);
		else if (k->kind == COLD_ATTEND)
			xgen_exit(g, XEXIT_ATTEND_AT, xwhat(g->insn[0].off, 0));
		else
			xjump_cold(g, k);
	}
}

/* --- the block ------------------------------------------------------------------------------ */

static bool emit_one(struct gen *g, struct insn *n)
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
		return emit_push_insn(g, n);
	case K_POP:
		return emit_pop_insn(g, n);
	case K_LEAVE:
		return emit_leave(g, n);
	case K_PUSHF:
		return xsys_pushf(g, n);
	case K_CLI:
		return xsys_interrupt_flag(g, n, false);
	case K_STI:
		return xsys_interrupt_flag(g, n, true);
	case K_SWAPGS:
		return xsys_swapgs(g, n);
	case K_CLD:
		return xsys_direction_flag(g, n);
	case K_CR:
		return xsys_read_cr(g, n);
	case K_BASE:
		return xsys_segment_base(g, n);
	case K_TSC:
		return xsys_rdtsc(g, n);
	case K_SREG:
		return xsys_sreg(g, n);
	case K_REP:
		return emit_rep(g, n);
	case K_BITS:
		return emit_bits(g, n);
	case K_CALL:
		return xjump_call(g, n);
	case K_RET:
		return xjump_ret(g, n);
	case K_JMP:
		return xjump_jmp(g, n);
	case K_JCC:
		return xjump_jcc(g, n);
	case K_SYSTEM:
		return xsys_call(g, n);
	default:
		return false;
	}
}

/* Those that say what becomes of r11. */
static bool minds_held(const struct insn *n)
{
	return n->kind <= K_LEAVE;
}

static bool emit_insn(struct gen *g, struct insn *n)
{
	bool minds = minds_held(n) || n->kind == K_CALL || n->kind == K_RET;

	if (!stack_may_lag(n))
		xgen_move_stack(g, 0);
	if (!minds)
		g->held = 0;
	if (!emit_one(g, n))
		return false;
	if (!minds)
		g->held = 0;
	return true;
}

/* Where the block would run past it, the interpreter goes on at @off. Flags are in c->fl. */
void xgen_stop(struct gen *g, unsigned off)
{
	struct emit *e = g->e;

	emit_gs_load(e, S1, CPU_OFF(insns));
	emit_lea(e, true, S1, S1, H_NONE, 0, (int32_t)(g->nr_insns - g->counted));
	emit_gs(e, true, 0x3b, S1, CPU_OFF(insns_stop));
	xgen_cold_if(g, COLD_STOP, CC_A)->target = (int32_t)off;
}

/* Who comes through the jump cache has not looked at attention: it is done here. */
static void emit_entries(struct gen *g)
{
	struct emit *e = g->e;
	struct xblock *b = g->b;

	b->enter_jump = emit_here(e);
	xtally_begin(g->x, XTALLY_HOT);
	emit_gs(e, true, 0x2b, S1, CPU_OFF(x.jump_key)); /* sub */
	emit_alu_imm(e, true, ALU_AND, S1, (uint32_t)PAGE_MASK);
	emit_gs_store(e, S1, CPU_OFF(block_rip));
	if (!b->flags_live && !g->c->icount && !g->c->vm->cfg.exact_flags)
		b->enter_poll = emit_here(e);
	xtally_begin(g->x, XTALLY_HOT);
	xgen_poll(g);
	b->enter_host = b->enter_mem = emit_here(e);
	xtally_begin(g->x, XTALLY_HOT);
	if (!b->enter_poll)
		g->flags = FLAGS_MEM;
	if (g->c->icount)
		xgen_stop(g, (unsigned)(b->hva & ~PAGE_MASK));
}

/* For blocks that want their flags. */
static void emit_enter_host(struct gen *g)
{
	if (g->b->enter_poll)
		return;
	g->b->enter_host = emit_here(g->e);
	xtally_begin(g->x, XTALLY_HOT);
	xgen_save_flags(g->e);
	emit_jmp(g->e, g->b->enter_mem);
}

/*
 * The block's one instruction reaches into the next page. Is that mapped, and as it
 * was, and what it was? Flags are in c->fl or dead.
 */
static void emit_crossing(struct gen *g)
{
	struct emit *e = g->e;

	xgen_rip(g, S1, (int32_t)PAGE_SIZE);
	emit_rr(e, false, 0x89, S1, S2); /* mov r11d, r10d */
	emit_shift(e, false, SHIFT_R, S2, PAGE_SHIFT - 5);
	emit_alu_imm(e, false, ALU_AND, S2, (TLB_ENTRIES - 1) * sizeof(struct tlb_entry));
	emit_gs(e, true, 0x0b, S1, CPU_OFF(asid));
	emit_gs_base(e, true, 0x3b, S1, S2,
		     CPU_OFF(tlb_entries) + (int32_t)offsetof(struct tlb_entry, exec));
	xgen_cold_if(g, COLD_INTERP, CC_NZ);
	emit_gs_base(e, true, 0x8b, S2, S2,
		     CPU_OFF(tlb_entries) + (int32_t)offsetof(struct tlb_entry, addend));
	emit_gs(e, true, 0x03, S2, CPU_OFF(block_rip)); /* add */
	emit_mov_imm(e, S1, g->second.hva - PAGE_SIZE);
	emit_rr(e, true, 0x39, S1, S2); /* cmp r11, r10 */
	xgen_cold_if(g, COLD_STALE, CC_NZ);
	emit_mov_imm(e, S1, (uint64_t)(uintptr_t)g->second.now);
	emit_u8(e, 0x41); /* cmp dword [r10], imm */
	emit_u8(e, 0x81);
	emit_u8(e, 0x3a);
	emit_u32(e, g->second.version);
	xgen_cold_if(g, COLD_STALE, CC_NZ);
}

/* What find_head() chose. */
static void emit_head(struct gen *g)
{
	for (unsigned i = 0; i < g->nr_insns; i++) {
		struct insn *n = &g->insn[i];
		struct access *each[] = { &n->at, &n->stack };

		for (unsigned j = 0; j < ARRAY_SIZE(each); j++) {
			struct access *a = each[j];
			uint8_t *retry = g->e->p;

			if (!a->at_head)
				continue;
			xtally_begin(g->x, XTALLY_HOT);
			emit_lea(g->e, true, S2, xhome(a->base), H_NONE, 0, a->from_head);
			xgen_page_check(g, n, a, a->page, a->bytes, a->write, S2, S2, retry);
			g->cold[g->nr_cold - 1].head = true;
		}
	}
}

static void add_mark(struct gen *g, unsigned off)
{
	g->mark[g->b->nr_marks++] = (struct xmark){
		.code = (uint32_t)(emit_here(g->e) - g->b->enter_jump),
		.off = (uint16_t)off,
		.flags = FLAGS_MEM,
		.retired = (uint8_t)xgen_retired(g),
	};
}

/* The interpreter takes over at @off: flags have to be where it looks for them. */
static void emit_interp(struct gen *g, unsigned off)
{
	xgen_spill_flags(g, FLAGS_ALL);
	xtally_begin(g->x, XTALLY_LEAVE);
	xgen_exit(g, XEXIT_INTERP, xwhat(off, xgen_retired(g)));
}

bool xgen_block(struct cpu *c, struct xblock *b, uint64_t page_gpa)
{
	struct gen *g = c->xlat->gen;
	unsigned end, i;
	bool open = true;

	g->c = c;
	g->x = c->xlat;
	g->e = &c->xlat->e;
	g->b = b;
	g->nr_cold = 0;
	g->vec_live = false;
	g->held = g->sp_lag = 0;
	g->loop = (struct loop){ .on = false };
	g->index = g->counted = g->nr_edges = g->nr_rip_pages = 0;
	end = xlat_decode(g, page_gpa);
	if (!xlat_room(g->x, g->nr_insns, &g->number))
		return false;
	g->flags = b->flags_live ? FLAGS_MEM : FLAGS_DEAD;
	emit_entries(g);
	b->crosses = g->crosses && end > PAGE_SIZE;
	if (b->crosses)
		emit_crossing(g);
	if (g->loop.on)
		xloop_head(g);
	else
		emit_head(g);

	for (i = 0; i < g->nr_insns; i++) {
		struct insn *n = &g->insn[i];
		uint8_t *begin = g->e->p;
		enum flags_at flags = g->flags;
		unsigned nr_cold = g->nr_cold, segments = xtally_mark(g->x);
		int32_t sp_lag = g->sp_lag;

		g->index = i;
		add_mark(g, n->off);
		if (!emit_insn(g, n)) {
			g->e->p = begin;
			g->flags = flags == FLAGS_DEAD ? FLAGS_MEM : flags;
			g->nr_cold = nr_cold;
			xtally_rewind(g->x, segments);
			g->sp_lag = sp_lag;
			xgen_move_stack(g, 0);
			emit_interp(g, n->off);
			open = false;
			break;
		}
	}
	open &= !i || !xlat_ends_block(g->insn[i - 1].kind);
	b->nr_insns = (uint8_t)i;
	g->index = i;
	xgen_move_stack(g, 0);
	if (open && (end >= PAGE_SIZE || i == XBLOCK_INSNS || (i && g->crosses))) {
		xgen_count(g, i);
		xjump_edge(g, 16, (int32_t)end);
	} else if (open) {
		emit_interp(g, end);
	}
	emit_cold(g);
	emit_enter_host(g);
	xtally_end(g->x);

	while ((uintptr_t)g->e->p & 7)
		emit_u8(g->e, 0xcc);
	b->marks = (const struct xmark *)(const void *)g->e->p;
	memcpy(g->e->p, g->mark, b->nr_marks * sizeof(g->mark[0]));
	g->e->p += ALIGN_UP(b->nr_marks * sizeof(g->mark[0]), 8);
	b->edge = (struct xedge *)(void *)g->e->p;
	memcpy(b->edge, g->edge, g->nr_edges * sizeof(g->edge[0]));
	g->e->p += ALIGN_UP(g->nr_edges * sizeof(g->edge[0]), 16);
	return true;
}
