/*
 * interp.c - what the families of handlers share: system instructions' wrapper,
 * the end of a block, read-modify-write of any memory.
 */
#include "cpu/interp.h"

#include "cpu/decode.h"

/* Not an instruction, or not this processor's. */
void op_undefined(struct cpu *c, const struct op *o)
{
	stat_add(&c->vcpu->stats, STAT_UNKNOWN_OPS, 1);
	return op_raise(c, o, EXC_UD);
}

/* More than 15 bytes. */
void op_too_long(struct cpu *c, const struct op *o)
{
	return op_raise(c, o, EXC_GP);
}

/* Behind the last instruction of a block that has no branch: no instruction itself. */
void op_end(struct cpu *c, const struct op *o)
{
	c->edge = EDGE_NEXT;
	c->s.rip = op_rip(c, o);
}

/* Handlers outside see s.rip, and the clock where the instruction has it. */
void op_system(struct cpu *c, const struct op *o)
{
	op_note(c, o);
	c->s.rip = op_rip(c, o);

	switch (o->sys(c, o)) {
	case SYS_NEXT:
		return op_leave(c, o, LEAVE_SYS, op_next_rip(c, o));
	case SYS_JUMP:
		return op_leave(c, o, LEAVE_SYS, c->s.rip);
	case SYS_EXIT:
		return op_leave(c, o, LEAVE_EXIT, c->s.rip);
	default:
		return op_leave(c, o, LEAVE_FAULT, c->s.rip);
	}
}

/* --- read-modify-write ------------------------------------------------------------ */

void *rmw_begin_at(struct cpu *c, const struct op *o, uint64_t gva, unsigned bytes, struct rmw *m)
{
	void *p = mmu_rmw(c, gva, bytes);

	m->gva = gva;
	m->fl = c->fl;
	m->bytes = bytes;
	m->direct = p;
	if (p)
		return p;
	if (c->fault.pending)
		return NULL;
	if (o->flags & OP_LOCK)
		mmu_rmw_lock(c);
	if (mmu_read_slow(c, gva, m->copy, bytes))
		return m->copy;
	if (o->flags & OP_LOCK)
		mmu_rmw_unlock(c);
	return NULL;
}

void *rmw_begin(struct cpu *c, const struct op *o, unsigned bytes, struct rmw *m)
{
	uint64_t gva;

	if (!op_linear(c, o, bytes, MMU_WRITE, &gva))
		return NULL;
	return rmw_begin_at(c, o, gva, bytes, m);
}

bool rmw_end(struct cpu *c, const struct op *o, struct rmw *m)
{
	bool ok;

	if (m->direct) {
		mmu_rmw_done(c, m->gva, m->bytes);
		return true;
	}
	ok = mmu_write_slow(c, m->gva, m->copy, m->bytes);
	if (o->flags & OP_LOCK)
		mmu_rmw_unlock(c);
	if (!ok)
		c->fl = m->fl;
	return ok;
}
