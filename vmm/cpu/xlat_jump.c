/*
 * xlat_jump.c - how translated code leads from block to block.
 *
 * Jumps within a page are linked. All others find their target in the jump cache, by
 * RIP, address space and privilege.
 *
 * Returns are told by calls where to go. A call of the guest is a call of the host's,
 * on a stack of its own, the return stack; below the host's return address it has two words:
 *
 *	[rsp + 16]	block_rip of the caller
 *	[rsp + 8]	the jump-cache tag of where it will return
 *	[rsp]		what follows the call: it restores block_rip, and jumps on
 *
 * A return of the guest is a return of the host's if the tag is that of where the guest
 * returns. That predicts as well as the processor does for its own code. If it is another
 * tag, xtramp's way of it looks further up the stack, and then into the jump cache.
 * Entries are hints: any of them may be missing, or be forgotten
 * (xlat_forget_returns()), but one that is there leads to code that is valid.
 */
#include "cpu/xlat_gen.h"
#include "cpu/xlat_tally.h"

/* Host flags are free. Attention? */
static struct cold *emit_attention(struct gen *g, enum cold_kind otherwise)
{
	emit_gs(g->e, false, 0x83, 7, CPU_ATTENTION_OFF); /* cmp dword, 0 */
	emit_u8(g->e, 0);
	return xgen_cold_if(g, otherwise, CC_NZ);
}

void xgen_poll(struct gen *g)
{
	emit_attention(g, COLD_ATTEND);
}

void xgen_count(struct gen *g, unsigned n)
{
	if (!g->x->counts)
		return;
	emit_gs_load(g->e, S2, CPU_OFF(insns));
	emit_lea(g->e, true, S2, S2, H_NONE, 0, (int32_t)(n - g->counted));
	emit_gs_store(g->e, S2, CPU_OFF(insns));
	g->counted = n;
}

void xgen_rip(struct gen *g, unsigned dst, int32_t off)
{
	emit_gs_load(g->e, dst, CPU_OFF(block_rip));
	emit_lea(g->e, true, dst, dst, H_NONE, 0, off);
}

static bool in_page(int32_t target)
{
	return target >= 0 && target < (int32_t)PAGE_SIZE;
}

static int32_t branch_target(const struct insn *n)
{
	return (int32_t)n->off + n->z.length + (int32_t)n->operand[0].imm.value.s;
}

/* --- by the jump cache ------------------------------------------------------------- */

/*
 * To the RIP in r10, whatever is there; flags are in c->fl. @n is what jumps, or calls.
 * Attention is looked at where it leads.
 */
static struct cold *emit_dispatch(struct gen *g, struct insn *n, bool call)
{
	struct emit *e = g->e;
	struct cold *k;

	emit_jump_slot(e, S2, S1);
	emit_gs(e, true, 0x03, S1, CPU_OFF(x.jump_key)); /* add */
	emit_gs_scaled(e, true, 0x3b, S1, S2, CPU_OFF(jump_tag));
	k = xgen_cold_if(g, COLD_LOOKUP, CC_NZ);
	k->insn = n;
	k->call = call;
	emit_gs_scaled(e, false, 0xff, call ? 2 : 4, S2, CPU_OFF(jump_code));
	return k;
}

void xjump_edge(struct gen *g, unsigned cc, int32_t target)
{
	struct insn *n = &g->insn[MIN(g->index, g->nr_insns - 1)];
	struct cold *k;

	if (cc == 16 && !in_page(target)) {
		xgen_spill_flags(g, FLAGS_ALL);
		xgen_rip(g, S1, target);
		emit_dispatch(g, n, false);
		return;
	}
	if (in_page(target))
		emit_align_rel32(g->e, cc == 16 ? 1 : 2);
	k = xgen_cold(g, in_page(target) ? COLD_EDGE : COLD_FAR);
	if (k->kind == COLD_EDGE)
		k->edge = (uint8_t)g->nr_edges++;
	k->target = target;
	k->from = cc == 16 ? emit_jmp(g->e, 0) : emit_jcc(g->e, cc, 0);
	k->insn = n;
	if (cc != 16)
		xtally_begin(g->x, XTALLY_HOT);
}

/* The target of an indirect branch into s.rip. */
static bool emit_indirect_target(struct gen *g, struct insn *n)
{
	struct place at;

	if (n->operand[0].type == ZYDIS_OPERAND_TYPE_REGISTER) {
		emit_gs_store(g->e, xgen_get_reg(g, xlat_gpr(n->operand[0].reg.value), S1),
			      CPU_OFF(s.rip));
		return true;
	}
	if (!xgen_address_is_simple(n))
		return false;
	at = xgen_operand(g, n, false);
	xgen_at(g->e, true, 0x8b, S1, &at);
	emit_gs_store(g->e, S1, CPU_OFF(s.rip));
	return true;
}

/* --- calls and returns --------------------------------------------------------------- */

/*
 * The entry but for the host's return address, which the call to come adds; where the
 * guest returns is in r10. First of all a look whether there is room: calls within
 * the page and forwards may do without, there are only so many of them in a row.
 */
static void emit_return_entry(struct gen *g, struct insn *n, bool linked, bool look_for_room)
{
	struct emit *e = g->e;

	if (linked)
		emit_attention(g, COLD_CALL)->insn = n;
	if (look_for_room) {
		emit_gs(e, true, 0x3b, H_RSP, CPU_OFF(x.return_limit)); /* cmp */
		xgen_cold_if(g, COLD_CALL, CC_B)->insn = n;
	}
	emit_gs(e, false, 0xff, 6, CPU_OFF(block_rip));  /* push */
	emit_gs(e, true, 0x03, S1, CPU_OFF(x.jump_key)); /* add */
	emit_push(e, S1);
}

/*
 * Where the host returns: everything of the entry but its address is still there. Often
 * block_rip has the right value, and then it is not stored: calls and returns in a row
 * would wait for each other, from store to load to store.
 */
static void emit_return_point(struct gen *g, struct insn *n)
{
	struct emit *e = g->e;
	struct cold *k;

	xtally_begin(g->x, XTALLY_HOT);
	emit_lea(e, true, H_RSP, H_RSP, H_NONE, 0, 8);
	emit_pop(e, S1);
	emit_gs(e, true, 0x3b, S1, CPU_OFF(block_rip)); /* cmp */
	k = xgen_cold(g, COLD_BLOCK_RIP);
	k->from = emit_jcc(e, CC_NZ, 0);
	k->back = emit_here(e);
	xtally_begin(g->x, XTALLY_HOT);
	if (g->index + 1 == g->nr_insns) {
		xjump_edge(g, 16, n->off + n->z.length);
		return;
	}
	g->vec_live = false;
	g->held = 0;
	g->nr_rip_pages = 0;
	if (g->c->icount)
		xgen_stop(g, n->off + n->z.length);
}

static void emit_call_edge(struct gen *g, struct insn *n, int32_t target)
{
	struct cold *k = xgen_cold(g, COLD_EDGE);

	k->edge = (uint8_t)g->nr_edges++;
	k->target = target;
	k->insn = n;
	k->call = true;
	emit_align_rel32(g->e, 1);
	emit_call(g->e, 0);
	k->from = g->e->p - 4;
}

bool xjump_call(struct gen *g, struct insn *n)
{
	bool direct = n->operand[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
	int32_t target = direct ? branch_target(n) : -1;
	struct cold *k;
	struct place at;

	xgen_spill_flags(g, FLAGS_ALL);
	if (!direct && !emit_indirect_target(g, n))
		return false;
	at = xgen_stack(g, n);
	xgen_rip(g, S1, n->off + n->z.length);
	xgen_at(g->e, true, 0x89, S1, &at);
	xgen_move_stack(g, -8);
	xgen_count(g, g->index + 1);
	emit_return_entry(g, n, in_page(target), !in_page(target) || target <= n->off);
	if (in_page(target)) {
		emit_call_edge(g, n, target);
		emit_return_point(g, n);
		return true;
	}
	if (direct)
		xgen_rip(g, S1, target);
	else
		emit_gs_load(g->e, S1, CPU_OFF(s.rip));
	k = emit_dispatch(g, n, true);
	k->back = emit_here(g->e);
	emit_return_point(g, n);
	return true;
}

bool xjump_ret(struct gen *g, struct insn *n)
{
	struct emit *e = g->e;
	struct place at;
	int32_t pop = 8;

	if (n->operand[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
		pop += (int32_t)n->operand[0].imm.value.u;
	xgen_spill_flags(g, FLAGS_ALL);
	at = xgen_stack(g, n);
	xgen_at(e, true, 0x8b, S1, &at);
	xgen_move_stack(g, pop);
	xgen_count(g, g->index + 1);
	emit_gs(e, true, 0x03, S1, CPU_OFF(x.jump_key)); /* add */
	emit_load(e, true, 0x3b, S1, H_RSP, 8);          /* cmp */
	xgen_cold_if(g, COLD_RETURN, CC_NZ)->insn = n;
	emit_u8(e, 0xc3);
	return true;
}

/* --- jumps ----------------------------------------------------------------------------- */

bool xjump_jmp(struct gen *g, struct insn *n)
{
	if (n->operand[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
		xgen_count(g, g->index + 1);
		xjump_edge(g, 16, branch_target(n));
		return true;
	}
	xgen_spill_flags(g, FLAGS_ALL);
	if (!emit_indirect_target(g, n))
		return false;
	xgen_count(g, g->index + 1);
	emit_gs_load(g->e, S1, CPU_OFF(s.rip));
	emit_dispatch(g, n, false);
	return true;
}

bool xjump_jcc(struct gen *g, struct insn *n)
{
	bool last = g->index + 1 == g->nr_insns;

	xgen_host_flags(g);
	xgen_count(g, g->index + 1);
	if (last && g->loop.on && !g->c->icount) {
		xjump_edge(g, (n->z.opcode & 0xf) ^ 1, n->off + n->z.length);
		xloop_back(g);
		return true;
	}
	xjump_edge(g, n->z.opcode & 0xf, branch_target(n));
	if (last)
		xjump_edge(g, 16, n->off + n->z.length);
	return true;
}

/* --- rarely executed --------------------------------------------------------------------- */

/*
 * A poll touches no flags: the attention word chooses one of two ways from a table.
 * The first is where the edge leads, the second leads out.
 */
static void cold_poll(struct gen *g, struct xedge *edge, uint64_t on, uint64_t out)
{
	struct emit *e = g->e;
	uint8_t *lea;

	edge->poll = emit_here(e);
	xtally_begin(g->x, XTALLY_HOT);
	emit_gs(e, false, 0x8b, S2, CPU_ATTENTION_OFF);
	emit_u8(e, 0x4c); /* lea r10, [rip + table] */
	emit_u8(e, 0x8d);
	emit_u8(e, 0x15);
	lea = e->p;
	emit_u32(e, 0);
	emit_u8(e, 0x43); /* jmp [r10 + r11 * 8] */
	emit_u8(e, 0xff);
	emit_u8(e, 0x24);
	emit_u8(e, 0xda);
	xtally_end(g->x);
	while ((uintptr_t)e->p & 7)
		emit_u8(e, 0xcc);
	emit_patch(e, lea, emit_here(e));
	edge->poll_table = (uint64_t *)(void *)e->p;
	emit_u64(e, on);
	emit_u64(e, out);
}

static void cold_edge(struct gen *g, const struct cold *k)
{
	struct xedge *edge = &g->edge[k->edge];
	uint32_t what = xwhat_edge(g->number, k->edge);
	uint64_t unlinked = emit_here(g->e), attend;

	if (k->flags == FLAGS_HOST)
		xgen_save_flags(g->e);
	xgen_exit(g, XEXIT_EDGE, what);
	*edge = (struct xedge){
		.at = k->from,
		.target = (uint16_t)k->target,
		.flags_host = k->flags == FLAGS_HOST,
	};
	if (k->call || k->target > k->insn->off)
		return;
	attend = emit_here(g->e);
	xtally_begin(g->x, XTALLY_LEAVE);
	if (k->flags == FLAGS_HOST)
		xgen_save_flags(g->e);
	xgen_exit(g, XEXIT_ATTEND_EDGE, what);
	cold_poll(g, edge, unlinked, attend);
}

static void cold_far(struct gen *g, const struct cold *k)
{
	if (k->flags == FLAGS_HOST)
		xgen_save_flags(g->e);
	xgen_rip(g, S1, k->target);
	emit_dispatch(g, k->insn, false);
}

/*
 * The tag is in r10. Should the target turn out to be none, xlat_run() wants to know who
 * jumps there. A call completes its entry of the return stack all the same.
 */
static void cold_lookup(struct gen *g, const struct cold *k)
{
	struct emit *e = g->e;

	emit_gs_imm32(e, CPU_OFF(x.what), xwhat(k->insn->off, k->retired));
	if (!k->call) {
		emit_jmp(e, g->x->tramp.lookup);
		return;
	}
	emit_call(e, g->x->tramp.lookup);
	xtally_begin(g->x, XTALLY_HOT);
	emit_jmp(e, k->back);
}

/* Everything of the call has happened but its jump. */
static void cold_call(struct gen *g, const struct insn *n)
{
	bool direct = n->operand[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;

	if (direct) {
		xgen_rip(g, S1, branch_target(n));
		emit_gs_store(g->e, S1, CPU_OFF(s.rip));
	}
	emit_jmp(g->e, g->x->tramp.attend);
}

void xjump_cold(struct gen *g, const struct cold *k)
{
	struct emit *e = g->e;

	switch (k->kind) {
	case COLD_EDGE:
		cold_edge(g, k);
		break;
	case COLD_LOOKUP:
		cold_lookup(g, k);
		break;
	case COLD_CALL:
		cold_call(g, k->insn);
		break;
	case COLD_BLOCK_RIP:
		emit_gs_store(e, S1, CPU_OFF(block_rip));
		emit_jmp(e, k->back);
		break;
	case COLD_RETURN:
		emit_gs_imm32(e, CPU_OFF(x.what), xwhat(k->insn->off, k->retired));
		emit_jmp(e, g->x->tramp.ret_miss);
		break;
	default:
		cold_far(g, k);
	}
}
