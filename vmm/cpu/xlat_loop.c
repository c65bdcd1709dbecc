/*
 * xlat_loop.c - blocks that jump to their own begin.
 *
 * Where a loop's addresses stay or move by the same amount each time, they are looked
 * up before its body, which then accesses memory without a check. How often the body
 * may run before one of them leaves its page is known as well: that many turns are left
 * to it, and then its addresses are looked up again. Instead of counting turns, the way
 * back looks how far a register has moved since.
 *
 *	head:	look up; x.loop_span = turns x step; x.loop_begin = register
 *	body:	...
 *		jcc	out
 *		register - x.loop_begin <= x.loop_span: body
 *		attention? head
 *
 * A loop is one only if flags are dead at its begin.
 */
#include "cpu/xlat_gen.h"
#include "cpu/xlat_tally.h"

#define TURNS_MAX 1023 /* attention waits no longer */

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

/* How the operand moves; HOIST_NOT: unpredictably, or by two registers at once. */
static enum hoist operand_hoist(const struct finder *f, const struct insn *n, int32_t *stride)
{
	const ZydisDecodedOperand *p = &n->operand[n->mem];
	uint8_t base = xlat_gpr(p->mem.base), index = xlat_gpr(p->mem.index);
	int32_t by_base, by_index;

	if (!is_known(f, base) || !is_known(f, index) || !xgen_address_is_simple(n) ||
	    n->at.page < 0 || p->mem.disp.value != (int32_t)p->mem.disp.value)
		return HOIST_NOT;
	by_base = moves(f, base);
	by_index = moves(f, index) * p->mem.scale;
	*stride = by_base + by_index;
	if (!by_base && !by_index)
		return HOIST_FIXED;
	if ((by_base && by_index) || n->z.address_width != 64 ||
	    p->mem.segment == ZYDIS_REGISTER_FS || p->mem.segment == ZYDIS_REGISTER_GS)
		return HOIST_NOT;
	if (by_base)
		return xhome(base) == H_NONE ? HOIST_NOT : HOIST_BASE;
	return xhome(index) == H_NONE ? HOIST_NOT : HOIST_INDEX;
}

static void hoist(struct finder *f, struct insn *n, struct access *a, enum hoist how,
		  int32_t stride, unsigned counter)
{
	struct loop *l = &f->g->loop;

	if (l->nr == XSLOTS || stride > (int32_t)PAGE_SIZE || stride < -(int32_t)PAGE_SIZE)
		return;
	a->hoist = how;
	a->slot = (int8_t)l->nr;
	l->hoisted[l->nr++] = (struct hoisted){ n, a, stride };
	if (stride && l->counter == OP_NO_REG) {
		l->counter = (uint8_t)counter;
		l->step = f->delta[counter];
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

/* x.slot[] is either the loop's or its groups'. */
static bool groups_use_slots(const struct gen *g)
{
	for (unsigned i = 0; i < g->nr_insns; i++) {
		const struct insn *n = &g->insn[i];

		if ((n->at.leads && n->at.page < 0) || (n->stack.leads && n->stack.page < 0))
			return true;
	}
	return false;
}

void xloop_find(struct gen *g, const int32_t delta[GPR_COUNT], uint16_t unknown)
{
	struct finder f = { g, delta, unknown };
	const struct insn *last = &g->insn[g->nr_insns - 1];

	if (!g->nr_insns || g->b->plain || g->b->flags_live || g->c->vm->cfg.exact_flags ||
	    last->kind != K_JCC ||
	    last->off + last->z.length + last->operand[0].imm.value.s != g->insn[0].off ||
	    groups_use_slots(g))
		return;
	g->loop.counter = OP_NO_REG;
	for (unsigned i = 0; i < g->nr_insns; i++)
		hoist_insn(&f, &g->insn[i]);
	g->loop.on = true;
}

/* --- the head ------------------------------------------------------------------------- */

/* r10 = floor(r10 / @by), or less; r10 is at most 4096. */
static void emit_divide(struct emit *e, unsigned by)
{
	if (by & (by - 1)) {
		emit_rex(e, true, S1, 0, S1); /* imul r10, r10, imm */
		emit_u8(e, 0x69);
		emit_u8(e, 0xc0 | (S1 & 7) << 3 | (S1 & 7));
		emit_u32(e, BIT(20) / by);
		emit_shift(e, true, SHIFT_R, S1, 20);
	} else if (by > 1) {
		emit_shift(e, true, SHIFT_R, S1, (unsigned)__builtin_ctz(by));
	}
}

/* With the offset in its page in r11: x.loop_span is at most the turns that are left. */
static void emit_turns(struct gen *g, const struct hoisted *h, bool first)
{
	struct emit *e = g->e;

	if (h->stride > 0) {
		emit_mov_imm(e, S1, PAGE_SIZE - h->a->bytes);
		emit_rr(e, true, 0x29, S2, S1); /* sub r10, r11 */
	} else {
		emit_mov(e, S1, S2);
	}
	emit_divide(e, (unsigned)(h->stride > 0 ? h->stride : -h->stride));
	if (first)
		emit_mov_imm(e, S2, TURNS_MAX);
	else
		emit_gs_load(e, S2, CPU_OFF(x.loop_span));
	emit_rr(e, true, 0x39, S2, S1); /* cmp r10, r11 */
	emit_rex(e, true, S1, 0, S2);   /* cmova r10, r11 */
	emit_u8(e, 0x0f);
	emit_u8(e, 0x47);
	emit_u8(e, 0xc0 | (S1 & 7) << 3 | (S2 & 7));
	emit_gs_store(e, S1, CPU_OFF(x.loop_span));
}

/* r11 += gpr << shift */
static void emit_add_gpr(struct emit *e, unsigned gpr, unsigned shift)
{
	unsigned h = xhome(gpr);

	if (h == H_NONE) {
		emit_gs_load(e, S1, GPR_OFF(gpr));
		h = S1;
	}
	emit_lea(e, true, S2, S2, h, shift, 0);
}

/* What the body is to add, into its slot. */
static void emit_slot(struct gen *g, const struct hoisted *h)
{
	const ZydisDecodedOperand *p = &h->n->operand[h->n->mem];
	struct emit *e = g->e;

	emit_gs_load(e, S2, xaddend_off(h->a->page));
	if (!h->a->simple) {
		if (h->a->hoist == HOIST_FIXED) {
			xgen_address(g, h->n, S1, H_NONE);
			emit_lea(e, true, S2, S2, S1, 0, 0);
		} else if (h->a->hoist == HOIST_INDEX && p->mem.base != ZYDIS_REGISTER_NONE) {
			emit_add_gpr(e, xlat_gpr(p->mem.base), 0);
		} else if (h->a->hoist == HOIST_BASE && p->mem.index != ZYDIS_REGISTER_NONE) {
			emit_add_gpr(e, xlat_gpr(p->mem.index),
				     (unsigned)__builtin_ctz(p->mem.scale));
		}
	}
	emit_gs_store(e, S2, xslot_off(h->a));
}

static void emit_look_up(struct gen *g, const struct hoisted *h)
{
	struct emit *e = g->e;
	uint8_t *retry = e->p;

	xtally_begin(g->x, XTALLY_HOT);
	if (h->a->simple) {
		emit_lea(e, true, S2, xhome(h->a->base), H_NONE, 0, h->a->from_head);
	} else {
		xgen_address(g, h->n, S2, S1);
		if (h->a->from_head)
			emit_lea(e, true, S2, S2, H_NONE, 0, h->a->from_head);
	}
	xgen_page_check(g, h->n, h->a, h->a->page, h->a->bytes, h->a->write, S2, S2, retry);
	g->cold[g->nr_cold - 1].head = true;
}

void xloop_head(struct gen *g)
{
	const struct loop *l = &g->loop;
	struct emit *e = g->e;
	bool first = true;
	unsigned i;

	for (i = 0; i < l->nr; i++) {
		const struct hoisted *h = &l->hoisted[i];

		emit_look_up(g, h);
		if (h->stride) {
			emit_turns(g, h, first);
			first = false;
		}
		emit_slot(g, h);
	}
	if (l->counter != OP_NO_REG) {
		emit_gs_load(e, S1, CPU_OFF(x.loop_span));
		emit_rex(e, true, S1, 0, S1); /* imul r10, r10, imm */
		emit_u8(e, 0x69);
		emit_u8(e, 0xc0 | (S1 & 7) << 3 | (S1 & 7));
		emit_u32(e, (uint32_t)(l->step > 0 ? l->step : -l->step));
		emit_gs_store(e, S1, CPU_OFF(x.loop_span));
		emit_gs_store(e, xhome(l->counter), CPU_OFF(x.loop_begin));
	}
	for (i = 0; i < g->nr_insns; i++)
		if (g->insn[i].vec)
			break;
	if (i < g->nr_insns)
		xgen_vec_gate(g);
	g->held = 0;
	g->loop.body = emit_here(e);
	xtally_begin(g->x, XTALLY_HOT);
}

/* --- the way back ------------------------------------------------------------------------ */

void xloop_back(struct gen *g)
{
	const struct loop *l = &g->loop;
	struct emit *e = g->e;

	if (l->counter == OP_NO_REG) {
		xgen_poll(g);
		emit_jmp(e, l->body);
		return;
	}
	if (l->step > 0) {
		emit_mov(e, S1, xhome(l->counter));
		emit_gs(e, true, 0x2b, S1, CPU_OFF(x.loop_begin)); /* sub */
	} else {
		emit_gs_load(e, S1, CPU_OFF(x.loop_begin));
		emit_rr(e, true, 0x29, xhome(l->counter), S1); /* sub */
	}
	emit_gs(e, true, 0x3b, S1, CPU_OFF(x.loop_span)); /* cmp */
	emit_jcc(e, CC_BE, l->body);
	xtally_begin(g->x, XTALLY_HOT);
	emit_jmp(e, g->b->enter_poll);
}

struct place xloop_place(struct gen *g, const struct insn *n, const struct access *a)
{
	const ZydisDecodedOperand *p = &n->operand[n->mem];
	uint8_t base, index;

	xgen_hold(g, xslot_off(a));
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
