/*
 * interp_stack.c - PUSH, POP, PUSHA, POPA, ENTER, LEAVE.
 *
 * The 64-bit forms are plain handlers: SS has no base there. The general ones
 * know 16- and 32-bit stacks (SS.B), 16-bit operands and segment limits.
 */
#include "cpu/decode.h"
#include "cpu/interp.h"
#include "cpu/stack.h"

/* --- 64-bit ----------------------------------------------------------------------- */

#define DEFINE_PUSH64(name, value)                                                                 \
	static void op_push_##name(struct cpu *c, const struct op *o)                              \
	{                                                                                          \
		u64 v = value, gva = c->s.gpr[RSP] - 8;                                            \
		void *p = PLAIN_PTR(c, gva, 64, write);                                            \
                                                                                                   \
		if (unlikely(!p))                                                                  \
			return push_general(c, o, v);                                              \
		GUEST_STORE(64, p, v);                                                             \
		c->s.gpr[RSP] = gva;                                                               \
		OP_NEXT(c, o);                                                                     \
	}

GENERAL void push_general(struct cpu *c, const struct op *o, u64 v)
{
	op_note(c, o);
	if (!stack_push(c, o->size, v))
		return op_fault(c, o);
	return op_stored(c, o);
}

DEFINE_PUSH64(r64, c->s.gpr[o->rm])
DEFINE_PUSH64(i64, o->imm)

GENERAL void pop_general(struct cpu *c, const struct op *o)
{
	u64 v;

	op_note(c, o);
	if (!stack_pop(c, o->size, &v))
		return op_fault(c, o);
	reg_set(c, o->rm, o->size, v);
	OP_NEXT(c, o);
}

/* POP RSP leaves what was popped. */
static void op_pop_r64(struct cpu *c, const struct op *o)
{
	u64 gva = c->s.gpr[RSP];
	void *p = PLAIN_PTR(c, gva, 64, read);

	if (unlikely(!p))
		return pop_general(c, o);
	c->s.gpr[RSP] = gva + 8;
	c->s.gpr[o->rm] = GUEST_LOAD(64, p);
	OP_NEXT(c, o);
}

/* --- general ------------------------------------------------------------------------ */

static void op_push_reg(struct cpu *c, const struct op *o)
{
	return push_general(c, o, c->s.gpr[o->rm]);
}

static void op_push_imm(struct cpu *c, const struct op *o)
{
	return push_general(c, o, o->imm);
}

static bool operand_read(struct cpu *c, const struct op *o, u64 *v)
{
	u64 gva;

	return op_linear(c, o, o->size, MMU_READ, &gva) && mem_read(c, gva, o->size, v);
}

static void op_push_mem(struct cpu *c, const struct op *o)
{
	u64 v;

	if (!operand_read(c, o, &v))
		return op_fault(c, o);
	return push_general(c, o, v);
}

/*
 * An address that uses rSP sees it after the increment, and a fault of the
 * store takes the increment back (SDM vol. 2, POP).
 */
static void op_pop_mem(struct cpu *c, const struct op *o)
{
	u64 rsp = c->s.gpr[RSP], v, gva;

	op_note(c, o);
	if (!stack_pop(c, o->size, &v))
		return op_fault(c, o);
	if (!op_linear(c, o, o->size, MMU_WRITE, &gva) || !mem_write(c, gva, o->size, v)) {
		c->s.gpr[RSP] = rsp;
		return op_fault(c, o);
	}
	return op_stored(c, o);
}

op_fn *pick_push(struct decoding *d)
{
	struct op *o = d->op;
	bool is64 = d->cpu->mode == MODE_64 && o->size == 8;

	switch (d->operand[0].type) {
	case ZYDIS_OPERAND_TYPE_MEMORY:
		return op_push_mem;
	case ZYDIS_OPERAND_TYPE_IMMEDIATE:
		return is64 ? op_push_i64 : op_push_imm;
	default:
		o->rm = decode_reg(d, 0);
		return is64 ? op_push_r64 : op_push_reg;
	}
}

op_fn *pick_pop(struct decoding *d)
{
	struct op *o = d->op;

	if (decode_is_mem(d, 0))
		return op_pop_mem;
	o->rm = decode_reg(d, 0);
	return d->cpu->mode == MODE_64 && o->size == 8 ? op_pop_r64 : pop_general;
}

/* --- PUSHA, POPA, ENTER, LEAVE ---------------------------------------------------------- */

static void op_pusha(struct cpu *c, const struct op *o)
{
	u64 rsp = c->s.gpr[RSP];
	unsigned i;

	op_note(c, o);
	for (i = 0; i < 8; i++) {
		if (!stack_push(c, o->size, i == RSP ? rsp : c->s.gpr[i])) {
			c->s.gpr[RSP] = rsp;
			return op_fault(c, o);
		}
	}
	return op_stored(c, o);
}

static void op_popa(struct cpu *c, const struct op *o)
{
	u64 rsp = c->s.gpr[RSP], v[8];
	int i;

	op_note(c, o);
	for (i = 7; i >= 0; i--) {
		if (!stack_pop(c, o->size, &v[i])) {
			c->s.gpr[RSP] = rsp;
			return op_fault(c, o);
		}
	}
	for (i = 0; i < 8; i++)
		if (i != RSP)
			reg_set(c, (unsigned)i, o->size, v[i]);
	OP_NEXT(c, o);
}

static void op_leave_frame(struct cpu *c, const struct op *o)
{
	u64 rsp = c->s.gpr[RSP], v;

	op_note(c, o);
	stack_set(c, c->s.gpr[RBP]);
	if (!stack_pop(c, o->size, &v)) {
		c->s.gpr[RSP] = rsp;
		return op_fault(c, o);
	}
	reg_set(c, RBP, o->size, v);
	OP_NEXT(c, o);
}

static void op_leave64(struct cpu *c, const struct op *o)
{
	u64 gva = c->s.gpr[RBP];
	void *p = PLAIN_PTR(c, gva, 64, read);

	if (unlikely(!p))
		return op_leave_frame(c, o);
	c->s.gpr[RSP] = gva + 8;
	c->s.gpr[RBP] = GUEST_LOAD(64, p);
	OP_NEXT(c, o);
}

/* Copies the outer frames' pointers, and the new one's; false: fault. */
static bool enter_nested(struct cpu *c, const struct op *o, unsigned level, u64 frame)
{
	u64 bp = c->s.gpr[RBP], v;
	unsigned i;

	for (i = 1; i < level; i++) {
		bp -= o->size;
		if (!stack_read(c, bp, o->size, &v) || !stack_push(c, o->size, v))
			return false;
	}
	return stack_push(c, o->size, frame);
}

/* imm: bytes of locals; aux: nesting level. */
static void op_enter(struct cpu *c, const struct op *o)
{
	u64 rsp = c->s.gpr[RSP], frame;
	unsigned level = o->aux & 31;

	op_note(c, o);
	if (!stack_push(c, o->size, c->s.gpr[RBP]))
		goto fault;
	frame = c->s.gpr[RSP];
	if (level && !enter_nested(c, o, level, frame))
		goto fault;
	stack_set(c, c->s.gpr[RSP] - (u16)o->imm);
	/* The last check of ENTER: would a push onto the new stack top fault? */
	if (!stack_probe(c, o->size))
		goto fault;
	reg_set(c, RBP, o->size, frame);
	return op_stored(c, o);
fault:
	c->s.gpr[RSP] = rsp;
	return op_fault(c, o);
}

op_fn *pick_stack(struct decoding *d)
{
	struct op *o = d->op;

	switch (d->insn.mnemonic) {
	case ZYDIS_MNEMONIC_PUSHA:
	case ZYDIS_MNEMONIC_PUSHAD:
		return op_pusha;
	case ZYDIS_MNEMONIC_POPA:
	case ZYDIS_MNEMONIC_POPAD:
		return op_popa;
	case ZYDIS_MNEMONIC_LEAVE:
		return d->cpu->mode == MODE_64 && o->size == 8 ? op_leave64 : op_leave_frame;
	default:
		o->imm = d->insn.raw.imm[0].value.u;
		o->aux = d->insn.raw.imm[1].value.u;
		return op_enter;
	}
}
