/*
 * xlat_loop.c - blocks that jump to their own begin.
 *
 * Where a loop's addresses stay or move by the same amount each time, they are looked
 * up before its body, which then accesses memory without a check. How far they may move
 * before one of them leaves its page is known as well: so far the body may run, and then
 * its addresses are looked up again. Instead of counting turns, the way back looks whether
 * a register has moved that far.
 *
 *	head:	look up; x.loop_limit = how far it may move
 *	body:	...
 *		jcc	out
 *		register < x.loop_limit: body
 *		attention? head
 *
 * A loop is one only if flags are dead at its begin. Attention waits for as many turns as
 * addresses stay in their pages: 4,096 at the most.
 */
#include "cpu/xlat_gen.h"
#include "cpu/xlat_tally.h"

/* --- which -------------------------------------------------------------------------- */

struct finder {
	struct gen *g;
	const int32_t *delta;
	uint16_t unknown;
};

static int32_t moves(const struct finder *f, unsigned gpr)
{
	return gpr == OP_NO_REG ? 0 : f->delta[gpr];
}

static bool is_known(const struct finder *f, unsigned gpr)
{
	return gpr == OP_NO_REG || !(f->unknown & BIT(gpr));
}

/* Where a register that may be none is, which is none in memory. */
static unsigned xhome_of(uint8_t gpr)
{
	return gpr == OP_NO_REG ? RAX : xhome(gpr);
}

/* How the operand moves; HOIST_NOT: unpredictably, or by two registers at once. */
static enum hoist operand_hoist(const struct finder *f, const struct insn *n, int32_t *stride)
{
	const ZydisDecodedOperand *p = &n->operand[n->mem];
	uint8_t base = xlat_gpr(p->mem.base), index = xlat_gpr(p->mem.index);
	int32_t by_base, by_index;

	if (!is_known(f, base) || !is_known(f, index) || !xgen_address_is_simple(n) ||
	    n->at.page < 0 || p->mem.disp.value != (int32_t)p->mem.disp.value)
		return HOIST_NOT;
	if ((xhome_of(index) == H_NONE && p->mem.scale > 1) || n->z.address_width != 64)
		return HOIST_NOT;
	by_base = moves(f, base);
	by_index = moves(f, index) * p->mem.scale;
	*stride = by_base + by_index;
	/* What does not move has been added to the slot before the body. */
	if ((!by_base && n->at.base_moved) || (!by_index && n->at.index_moved))
		return HOIST_NOT;
	if (!by_base && !by_index)
		return HOIST_FIXED;
	if ((by_base && by_index) || p->mem.segment == ZYDIS_REGISTER_FS ||
	    p->mem.segment == ZYDIS_REGISTER_GS)
		return HOIST_NOT;
	if (by_base)
		return xhome(base) == H_NONE ? HOIST_NOT : HOIST_BASE;
	return xhome(index) == H_NONE ? HOIST_NOT : HOIST_INDEX;
}

static unsigned magnitude(int32_t v)
{
	return (unsigned)(v < 0 ? -v : v);
}

/* Is one of them the other times a power of two? Then rooms compare by shifts. */
static bool same_but_for_shift(unsigned a, unsigned b)
{
	return a >> __builtin_ctz(a) == b >> __builtin_ctz(b);
}

/* Rooms for steps of other kinds are smaller than they could be: they should be some. */
static bool stride_fits(const struct loop *l, int32_t stride)
{
	unsigned a = magnitude(stride);

	if (!stride)
		return true;
	if (l->counter == OP_NO_REG || same_but_for_shift(a, magnitude(l->stride)))
		return a <= PAGE_SIZE;
	return a <= PAGE_SIZE / 8;
}

static void hoist(struct finder *f, struct insn *n, struct access *a, enum hoist how,
		  int32_t stride, unsigned counter)
{
	struct loop *l = &f->g->loop;

	if (l->nr == XSLOTS || !stride_fits(l, stride))
		return;
	a->hoist = how;
	a->slot = (int8_t)l->nr;
	l->hoisted[l->nr++] = (struct hoisted){ n, a, stride };
	if (stride && l->counter == OP_NO_REG) {
		l->counter = (uint8_t)counter;
		l->step = f->delta[counter];
		l->stride = stride;
		l->by_base = a->simple;
	}
}

static void hoist_insn(struct finder *f, struct insn *n)
{
	const ZydisDecodedOperand *p;
	enum hoist how;
	int32_t stride;

	if (n->stack.simple || n->mem < 0 || n->kind == K_LEA || n->kind == K_BITS || n->at.leader)
		return;
	p = &n->operand[n->mem];
	if (n->at.simple) {
		if (is_known(f, n->at.base) && n->at.page >= 0)
			hoist(f, n, &n->at, HOIST_BASE, f->delta[n->at.base], n->at.base);
		return;
	}
	how = operand_hoist(f, n, &stride);
	if (how)
		hoist(f, n, &n->at, how, stride,
		      how == HOIST_INDEX ? xlat_gpr(p->mem.index) : xlat_gpr(p->mem.base));
}

/* x.slot[] is either the loop's or its groups', and nobody else's. */
static bool slots_are_used(const struct gen *g)
{
	for (unsigned i = 0; i < g->nr_insns; i++) {
		const struct insn *n = &g->insn[i];

		if (n->kind == K_CALL)
			return true;
		if ((n->at.leads && n->at.page < 0) || (n->stack.leads && n->stack.page < 0))
			return true;
	}
	return false;
}

void xloop_find(struct gen *g, const int32_t delta[GPR_COUNT], uint16_t unknown)
{
	struct finder f = { g, delta, unknown };
	const struct insn *last = &g->insn[MAX(g->nr_insns, 1u) - 1];

	if (!g->nr_insns || g->b->plain || g->b->flags_live || g->c->vm->cfg.exact_flags ||
	    last->kind != K_JCC ||
	    last->off + last->z.length + last->operand[0].imm.value.s != g->insn[0].off ||
	    slots_are_used(g))
		return;
	g->loop.counter = OP_NO_REG;
	for (unsigned i = 0; i < g->nr_insns; i++)
		hoist_insn(&f, &g->insn[i]);
	g->loop.on = true;
}

/* --- the head ------------------------------------------------------------------------- */

/* r11 += gpr << shift */
static void emit_add_gpr(struct emit *e, ZydisRegister r, unsigned shift)
{
	unsigned h;

	if (r == ZYDIS_REGISTER_NONE)
		return;
	if (r == ZYDIS_REGISTER_RIP) {
		emit_gs(e, true, 0x03, S2, CPU_OFF(block_rip));
		return;
	}
	h = xhome(xlat_gpr(r));
	if (h == H_NONE)
		emit_gs(e, true, 0x03, S2, GPR_OFF(xlat_gpr(r)));
	else
		emit_lea(e, true, S2, S2, h, shift, 0);
}

/* What the body is to add, into its slot, once what the page adds is in r11. */
static void emit_slot(struct gen *g, const struct hoisted *h)
{
	const ZydisDecodedOperand *p = &h->n->operand[h->n->mem];
	struct emit *e = g->e;
	unsigned shift;

	if (!h->a->simple) {
		shift = p->mem.scale ? (unsigned)__builtin_ctz(p->mem.scale) : 0;
		if (h->a->hoist != HOIST_BASE)
			emit_add_gpr(e, p->mem.base, 0);
		if (h->a->hoist != HOIST_INDEX)
			emit_add_gpr(e, p->mem.index, shift);
		if (h->a->hoist == HOIST_FIXED)
			emit_lea(e, true, S2, S2, H_NONE, 0, (int32_t)p->mem.disp.value);
		if (p->mem.base == ZYDIS_REGISTER_RIP)
			emit_lea(e, true, S2, S2, H_NONE, 0, h->n->off + h->n->z.length);
		if (p->mem.segment == ZYDIS_REGISTER_FS)
			emit_gs(e, true, 0x03, S2, CPU_OFF(s.seg[SEG_FS].base));
		if (p->mem.segment == ZYDIS_REGISTER_GS)
			emit_gs(e, true, 0x03, S2, CPU_OFF(s.seg[SEG_GS].base));
	}
	emit_gs_store(e, S2, xslot_off(h->a));
}

/* Into r11; keeps r10. */
static void emit_hoisted_address(struct gen *g, const struct hoisted *h)
{
	if (h->a->simple) {
		emit_lea(g->e, true, S2, xhome(h->a->base), H_NONE, 0, h->a->from_head);
		return;
	}
	xgen_address(g, h->n, S2, H_NONE);
	if (h->a->from_head)
		emit_lea(g->e, true, S2, S2, H_NONE, 0, h->a->from_head);
}

/* So far apart that each look-up is likely to be for another page than the last one. */
static bool strides_far(const struct hoisted *h)
{
	return magnitude(h->stride) >= PAGE_SIZE / 32;
}

/* Where the body finds what to add. Of plain accesses it is what their page adds. */
static int32_t addend_of(const struct hoisted *h)
{
	return h->a->simple && !strides_far(h) ? xaddend_off(h->a->page) : xslot_off(h->a);
}

/*
 * Of those the TLB is asked, before r10 is in use, and each tries again on its own: had others
 * to be asked again as well, two that share a slot of the TLB would wait for each other for ever.
 */
static void look_up_far(struct gen *g, const struct hoisted *h)
{
	uint8_t *retry = g->e->p;

	xtally_begin(g->x, XTALLY_HOT);
	emit_hoisted_address(g, h);
	xgen_probe(g, h->n, h->a, h->a->bytes, h->a->write, retry);
	g->cold[g->nr_cold - 1].head = true;
	emit_slot(g, h);
}

/* Leaves the offset in its page in r11, keeps r10 unless it misses: then all begins at @retry. */
static void look_up(struct gen *g, const struct hoisted *h, uint8_t *retry)
{
	emit_hoisted_address(g, h);
	if (strides_far(h)) {
		emit_alu_imm(g->e, false, ALU_AND, S2, PAGE_SIZE - 1);
		return;
	}
	xgen_page_check(g, h->n, h->a, h->a->page, h->a->bytes, h->a->write, S2, S2, retry);
	g->cold[g->nr_cold - 1].head = true;
}

/*
 * The room in r11 for steps of @stride becomes that for the counter's, of @unit: as many steps,
 * or fewer. The reciprocal is rounded up by less than a step's part of any room.
 */
static void emit_convert(struct emit *e, unsigned stride, unsigned unit)
{
	int by = __builtin_ctz(stride) - __builtin_ctz(unit);

	if (same_but_for_shift(stride, unit)) {
		if (by)
			emit_shift(e, true, by > 0 ? SHIFT_R : SHIFT_L, S2, magnitude(by));
	} else if (stride > unit) {
		emit_mul_imm(e, true, S2, S2, (uint32_t)(((uint64_t)unit << 28) / stride + 1));
		emit_shift(e, true, SHIFT_R, S2, 28);
	} else {
		by = 31 - __builtin_clz(unit / stride);
		if (by)
			emit_shift(e, true, SHIFT_L, S2, (unsigned)by);
	}
}

/* The offset in r11 becomes the room that is left, in units of the counter's stride. */
static void emit_room(struct gen *g, const struct hoisted *h)
{
	struct emit *e = g->e;

	if (h->stride > 0) {
		emit_neg(e, S2);
		emit_lea(e, true, S2, S2, H_NONE, 0, (int32_t)PAGE_SIZE - h->a->bytes);
	}
	emit_convert(e, magnitude(h->stride), magnitude(g->loop.stride));
}

/* r10 = min(r10, r11) */
static void emit_min(struct emit *e)
{
	emit_rr(e, true, 0x39, S1, S2); /* cmp r11, r10 */
	emit_rex(e, true, S1, 0, S2);   /* cmovb r10, r11 */
	emit_u8(e, 0x0f);
	emit_u8(e, 0x42);
	emit_u8(e, 0xc0 | (S1 & 7) << 3 | (S2 & 7));
}

/*
 * The room in r10 becomes the limit that the counter must not reach, nor jump over: as a
 * signed number, which addresses do not overflow. Should it, the body runs just once.
 */
static void emit_limit(struct gen *g)
{
	const struct loop *l = &g->loop;
	unsigned by = (unsigned)__builtin_ctz(magnitude(l->stride) / magnitude(l->step));
	struct emit *e = g->e;
	uint8_t *fits;

	if (l->by_base) { /* canonical, as it has been looked up */
		if (l->step < 0)
			emit_neg(e, S1);
		emit_lea(e, true, S1, S1, xhome(l->counter), 0, l->step > 0 ? 1 : -1);
		emit_gs_store(e, S1, CPU_OFF(x.loop_limit));
		return;
	}
	if (by)
		emit_shift(e, true, SHIFT_R, S1, by);
	emit_lea(e, true, S1, S1, H_NONE, 0, (int32_t)magnitude(l->step) + 1);
	if (l->step < 0)
		emit_neg(e, S1);
	emit_rr(e, true, 0x01, xhome(l->counter), S1); /* add */
	fits = emit_jcc(e, CC_NO, 0);
	emit_mov_imm(e, S1, (uint64_t)(l->step > 0 ? INT64_MIN : INT64_MAX) + (uint64_t)l->step);
	emit_patch(e, fits, emit_here(e));
	emit_lea(e, true, S1, S1, H_NONE, 0, -l->step);
	emit_gs_store(e, S1, CPU_OFF(x.loop_limit));
}

/* The only access that moves, and the counter is its base: its page says it all. */
static const struct hoisted *only_one(const struct loop *l)
{
	const struct hoisted *only = NULL;

	for (unsigned i = 0; i < l->nr; i++) {
		if (!l->hoisted[i].stride)
			continue;
		if (only)
			return NULL;
		only = &l->hoisted[i];
	}
	return only && l->by_base && !strides_far(only) ? only : NULL;
}

static void emit_limit_of(struct gen *g, const struct hoisted *h)
{
	int32_t room = h->stride > 0 ? (int32_t)PAGE_SIZE - h->a->bytes + 1 : -1;

	emit_gs_load(g->e, S1, CPU_OFF(x.page) + 8 * h->a->page);
	emit_lea(g->e, true, S1, S1, H_NONE, 0, room - h->a->from_head);
	emit_gs_store(g->e, S1, CPU_OFF(x.loop_limit));
}

/*
 * Looks up all that is near, from the first one on after each miss, which clobbers r10: what
 * has been found is remembered, whatever the TLB forgets. Returns whether r10 has the least
 * room of all.
 */
static bool look_up_near(struct gen *g, const struct hoisted *only)
{
	const struct loop *l = &g->loop;
	uint8_t *retry = g->e->p;
	bool first = true;

	xtally_begin(g->x, XTALLY_HOT);
	for (unsigned i = 0; i < l->nr; i++) {
		const struct hoisted *h = &l->hoisted[i];

		look_up(g, h, retry);
		if (h->stride && !only) {
			emit_room(g, h);
			if (first)
				emit_mov(g->e, S1, S2);
			else
				emit_min(g->e);
			first = false;
		}
		if (!strides_far(h) && !h->a->simple) {
			emit_gs_load(g->e, S2, xaddend_off(h->a->page));
			emit_slot(g, h);
		}
	}
	return !first;
}

void xloop_head(struct gen *g)
{
	const struct loop *l = &g->loop;
	const struct hoisted *only = only_one(l);
	unsigned i;

	for (i = 0; i < l->nr; i++)
		if (strides_far(&l->hoisted[i]))
			look_up_far(g, &l->hoisted[i]);
	if (look_up_near(g, only))
		emit_limit(g);
	if (only)
		emit_limit_of(g, only);
	for (i = 0; i < g->nr_insns; i++)
		if (g->insn[i].vec)
			break;
	if (i < g->nr_insns)
		xgen_vec_gate(g, 0);
	g->held = 0;
	if (l->nr)
		xgen_hold(g, addend_of(&l->hoisted[0]));
	g->loop.fresh = true;
	g->loop.holds = false;
	g->loop.body = emit_here(g->e);
	xtally_begin(g->x, XTALLY_HOT);
}

/* --- the way back ------------------------------------------------------------------------ */

void xloop_back(struct gen *g)
{
	const struct loop *l = &g->loop;
	struct emit *e = g->e;

	if (l->holds)
		xgen_hold(g, addend_of(&l->hoisted[0]));
	if (l->counter == OP_NO_REG) {
		emit_gs(e, false, 0x83, 7, CPU_ATTENTION_OFF); /* cmp dword, 0 */
		emit_u8(e, 0);
		emit_jcc(e, CC_Z, l->body);
		xtally_begin(g->x, XTALLY_LEAVE);
		xgen_exit(g, XEXIT_ATTEND_AT, xwhat(g->insn[0].off, 0));
		return;
	}
	emit_gs(e, true, 0x3b, xhome(l->counter), CPU_OFF(x.loop_limit)); /* cmp */
	emit_jcc(e, l->step > 0 ? CC_L : CC_G, l->body);
	xtally_begin(g->x, XTALLY_HOT);
	emit_jmp(e, g->b->enter_poll);
}

int32_t xloop_addend(const struct gen *g, const struct access *a)
{
	return addend_of(&g->loop.hoisted[a->slot]);
}

struct place xloop_place(struct gen *g, const struct insn *n, const struct access *a)
{
	const ZydisDecodedOperand *p = &n->operand[n->mem];
	uint8_t base, index;

	xgen_hold(g, xloop_addend(g, a));
	if (a->simple)
		return (struct place){ (uint8_t)xhome(a->base), S2, 0, a->disp };
	base = xlat_gpr(p->mem.base);
	index = xlat_gpr(p->mem.index);
	switch (a->hoist) {
	case HOIST_BASE:
		return (struct place){ (uint8_t)xhome(base), S2, 0, (int32_t)p->mem.disp.value };
	case HOIST_INDEX:
		return (struct place){ S2, (uint8_t)xhome(index),
				       (uint8_t)__builtin_ctz(p->mem.scale),
				       (int32_t)p->mem.disp.value };
	default:
		return (struct place){ S2, H_NONE, 0, 0 };
	}
}
