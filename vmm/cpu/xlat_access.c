/*
 * xlat_access.c - which accesses of a block share a look-up of their page, and where each look-up
 * remembers it.
 */
#include "cpu/sys.h"
#include "cpu/xlat_gen.h"

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
 * head, which looks all of them up anew after a miss, two would wait for each other for ever: there
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

void xlat_find_groups(struct gen *g)
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
