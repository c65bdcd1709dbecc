/*
 * interp_flow.c - near JMP, CALL, RET (far ones change CS: far.c); LOOP, JCXZ; BOUND.
 *
 * Every handler that moves RIP ends its block. The 64-bit ones hold their
 * target as a distance from block_rip in imm; the general ones a displacement.
 * A target that RIP cannot hold faults in the branch itself (SDM vol. 2, JMP).
 */
#include "cpu/decode.h"
#include "cpu/interp.h"
#include "cpu/stack.h"

static inline bool canonical(u64 v)
{
	return (u64)((s64)(v << 16) >> 16) == v;
}

/* Cuts @rip to the operand size and jumps. */
static void jump_general(struct cpu *c, const struct op *o, u64 rip)
{
	if (o->size == 2)
		rip = (u16)rip;
	else if (o->size == 4)
		rip = (u32)rip;
	if (c->mode == MODE_64 ? !canonical(rip) : rip > c->s.seg[SEG_CS].limit)
		return op_raise(c, o, EXC_GP);
	c->s.rip = rip;
}

/* Is @rip one that jump_general() would take? Raises #GP where not. */
static bool target_ok(struct cpu *c, u64 rip)
{
	if (c->mode == MODE_64 ? canonical(rip) : rip <= c->s.seg[SEG_CS].limit)
		return true;
	cpu_raise_error(c, EXC_GP, 0);
	return false;
}

static u64 cut_target(const struct op *o, u64 rip)
{
	return o->size == 2 ? (u16)rip : o->size == 4 ? (u32)rip : rip;
}

/* --- JMP ------------------------------------------------------------------------- */

static void op_jmp_rel64(struct cpu *c, const struct op *o)
{
	c->edge = EDGE_TAKEN;
	c->s.rip = c->block_rip + o->imm;
}

static void op_jmp_rel(struct cpu *c, const struct op *o)
{
	c->edge = EDGE_TAKEN;
	return jump_general(c, o, op_next_rip(c, o) + o->imm);
}

static void op_jmp_reg(struct cpu *c, const struct op *o)
{
	c->edge = EDGE_INDIRECT;
	return jump_general(c, o, c->s.gpr[o->rm]);
}

static bool target_read(struct cpu *c, const struct op *o, u64 *rip)
{
	u64 gva;

	return op_linear(c, o, o->size, MMU_READ, &gva) && mem_read(c, gva, o->size, rip);
}

static void op_jmp_mem(struct cpu *c, const struct op *o)
{
	u64 rip;

	c->edge = EDGE_INDIRECT;
	if (!target_read(c, o, &rip))
		return op_fault(c, o);
	return jump_general(c, o, rip);
}

/* A relative target in 64-bit mode becomes a distance from block_rip. */
static bool fold_target(struct decoding *d)
{
	if (d->cpu->mode != MODE_64)
		return false;
	d->op->imm += (u64)d->op->off + d->op->len;
	return true;
}

op_fn *pick_jmp(struct decoding *d)
{
	d->ends_block = true;
	switch (d->operand[0].type) {
	case ZYDIS_OPERAND_TYPE_IMMEDIATE:
		return fold_target(d) ? op_jmp_rel64 : op_jmp_rel;
	case ZYDIS_OPERAND_TYPE_MEMORY:
		return op_jmp_mem;
	default:
		return op_jmp_reg;
	}
}

/* --- CALL ------------------------------------------------------------------------- */

/*
 * As on processors the return address is stored before the target is looked at;
 * where that faults RSP has not moved.
 */
static void call_general(struct cpu *c, const struct op *o, u64 rip)
{
	u64 rsp = c->s.gpr[RSP];

	rip = cut_target(o, rip);
	op_note(c, o);
	if (!stack_push(c, o->size, op_next_rip(c, o)))
		return op_fault(c, o);
	if (!target_ok(c, rip)) {
		c->s.gpr[RSP] = rsp;
		return op_fault(c, o);
	}
	c->s.rip = rip;
	if (unlikely(c->code_stale))
		return op_leave(c, o, LEAVE_DONE, rip);
}

GENERAL void call_rel_general(struct cpu *c, const struct op *o)
{
	return call_general(c, o, c->block_rip + o->imm);
}

static void op_call_rel64(struct cpu *c, const struct op *o)
{
	u64 gva = c->s.gpr[RSP] - 8;
	void *p = PLAIN_PTR(c, gva, 64, write);

	c->edge = EDGE_TAKEN;
	if (unlikely(!p))
		return call_rel_general(c, o);
	GUEST_STORE(64, p, c->block_rip + o->off + o->len);
	c->s.gpr[RSP] = gva;
	c->s.rip = c->block_rip + o->imm;
}

static void op_call_rel(struct cpu *c, const struct op *o)
{
	c->edge = EDGE_TAKEN;
	return call_general(c, o, op_next_rip(c, o) + o->imm);
}

static void op_call_reg(struct cpu *c, const struct op *o)
{
	c->edge = EDGE_INDIRECT;
	return call_general(c, o, c->s.gpr[o->rm]);
}

static void op_call_mem(struct cpu *c, const struct op *o)
{
	u64 rip;

	c->edge = EDGE_INDIRECT;
	if (!target_read(c, o, &rip))
		return op_fault(c, o);
	return call_general(c, o, rip);
}

op_fn *pick_call(struct decoding *d)
{
	d->ends_block = true;
	switch (d->operand[0].type) {
	case ZYDIS_OPERAND_TYPE_IMMEDIATE:
		return fold_target(d) ? op_call_rel64 : op_call_rel;
	case ZYDIS_OPERAND_TYPE_MEMORY:
		return op_call_mem;
	default:
		return op_call_reg;
	}
}

/* --- RET -------------------------------------------------------------------------- */

/* imm: bytes of arguments to drop. */
GENERAL void op_ret(struct cpu *c, const struct op *o)
{
	u64 rsp = c->s.gpr[RSP], rip;

	c->edge = EDGE_INDIRECT;
	op_note(c, o);
	if (!stack_pop(c, o->size, &rip))
		return op_fault(c, o);
	if (!target_ok(c, rip)) {
		c->s.gpr[RSP] = rsp;
		return op_fault(c, o);
	}
	stack_set(c, c->s.gpr[RSP] + o->imm);
	c->s.rip = rip;
}

static void op_ret64(struct cpu *c, const struct op *o)
{
	u64 gva = c->s.gpr[RSP], rip;
	void *p = PLAIN_PTR(c, gva, 64, read);

	if (unlikely(!p))
		return op_ret(c, o);
	rip = GUEST_LOAD(64, p);
	if (unlikely(!canonical(rip)))
		return op_ret(c, o);
	c->edge = EDGE_INDIRECT;
	c->s.gpr[RSP] = gva + 8 + o->imm;
	c->s.rip = rip;
}

op_fn *pick_ret(struct decoding *d)
{
	struct op *o = d->op;

	d->ends_block = true;
	o->imm = (u16)o->imm;
	return d->cpu->mode == MODE_64 && o->size == 8 ? op_ret64 : op_ret;
}

/* --- LOOP, LOOPE, LOOPNE, JCXZ ------------------------------------------------------- */

/* The counter's width is the address size. */
static unsigned count_bytes(const struct op *o)
{
	return o->flags & OP_ADDR16 ? 2 : o->flags & OP_ADDR32 ? 4 : 8;
}

static void branch_if(struct cpu *c, const struct op *o, bool taken)
{
	c->edge = taken ? EDGE_TAKEN : EDGE_NEXT;
	if (taken)
		return jump_general(c, o, op_next_rip(c, o) + o->imm);
	c->s.rip = op_next_rip(c, o);
}

static void op_jcxz(struct cpu *c, const struct op *o)
{
	return branch_if(c, o, !reg_get(c, RCX, count_bytes(o)));
}

/* aux: ZF that LOOPE and LOOPNE want, or 2 where it does not matter. */
static void op_loop(struct cpu *c, const struct op *o)
{
	unsigned bytes = count_bytes(o);
	u64 count = reg_get(c, RCX, bytes) - 1, rcx = c->s.gpr[RCX];
	bool zf = c->fl & FL_ZF;

	reg_set(c, RCX, bytes, count);
	branch_if(c, o, reg_get(c, RCX, bytes) && (o->aux == 2 || o->aux == zf));
	if (unlikely(c->leave == LEAVE_FAULT))
		c->s.gpr[RCX] = rcx;
}

op_fn *pick_loop(struct decoding *d)
{
	d->ends_block = true;
	switch (d->insn.mnemonic) {
	case ZYDIS_MNEMONIC_LOOP:
		d->op->aux = 2;
		return op_loop;
	case ZYDIS_MNEMONIC_LOOPE:
		d->op->aux = 1;
		return op_loop;
	case ZYDIS_MNEMONIC_LOOPNE:
		d->op->aux = 0;
		return op_loop;
	default:
		return op_jcxz;
	}
}

/* --- BOUND ---------------------------------------------------------------------------- */

/* The second bound is read only where the first one holds. */
static void op_bound(struct cpu *c, const struct op *o)
{
	s64 index = o->size == 2 ? (s16)c->s.gpr[o->reg] : (s32)c->s.gpr[o->reg];
	u64 gva, v;

	if (!op_linear(c, o, 2u * o->size, MMU_READ, &gva) || !mem_read(c, gva, o->size, &v))
		return op_fault(c, o);
	if (index < (o->size == 2 ? (s16)v : (s32)v))
		return op_raise(c, o, EXC_BR);
	if (!mem_read(c, gva + o->size, o->size, &v))
		return op_fault(c, o);
	if (index > (o->size == 2 ? (s16)v : (s32)v))
		return op_raise(c, o, EXC_BR);
	OP_NEXT(c, o);
}

op_fn *pick_bound(struct decoding *d)
{
	return op_bound;
}
