/*
 * stack.h - the guest's stack as near instructions use it: 16-, 32- and 64-bit
 * wide stack pointers, operands of 2, 4 and 8 bytes.
 *
 * False: a fault is pending and RSP has not moved.
 */
#ifndef VMM_CPU_STACK_H
#define VMM_CPU_STACK_H

#include "cpu/mmu.h"

/* @v cut to what the stack pointer counts in. */
static inline uint64_t stack_cut(const struct cpu *c, uint64_t v)
{
	return c->mode == MODE_64 ? v : c->stack32 ? (uint32_t)v : (uint16_t)v;
}

/* A 16-bit stack pointer leaves the upper half of ESP alone. */
static inline void stack_set(struct cpu *c, uint64_t v)
{
	if (c->mode == MODE_64)
		c->s.gpr[RSP] = v;
	else if (c->stack32)
		c->s.gpr[RSP] = (uint32_t)v;
	else
		*(uint16_t *)&c->s.gpr[RSP] = (uint16_t)v;
}

/* Any of 1, 2, 4 and 8 bytes at a linear address, zero-extended. */
static inline bool mem_read(struct cpu *c, uint64_t gva, unsigned bytes, uint64_t *v)
{
	union {
		uint8_t b;
		uint16_t w;
		uint32_t l;
		uint64_t q;
	} t = { .q = 0 };
	bool ok;

	switch (bytes) {
	case 1:
		ok = mmu_read_u8(c, gva, &t.b);
		break;
	case 2:
		ok = mmu_read_u16(c, gva, &t.w);
		break;
	case 4:
		ok = mmu_read_u32(c, gva, &t.l);
		break;
	default:
		ok = mmu_read_u64(c, gva, &t.q);
		break;
	}
	*v = t.q;
	return ok;
}

static inline bool mem_write(struct cpu *c, uint64_t gva, unsigned bytes, uint64_t v)
{
	switch (bytes) {
	case 1:
		return mmu_write_u8(c, gva, (uint8_t)v);
	case 2:
		return mmu_write_u16(c, gva, (uint16_t)v);
	case 4:
		return mmu_write_u32(c, gva, (uint32_t)v);
	default:
		return mmu_write_u64(c, gva, v);
	}
}

/* At stack offset @sp, which may lie outside the width of the stack pointer. */
static inline bool stack_read(struct cpu *c, uint64_t sp, unsigned bytes, uint64_t *v)
{
	uint64_t gva;

	return mmu_linear(c, SEG_SS, stack_cut(c, sp), bytes, MMU_READ, &gva) &&
	       mem_read(c, gva, bytes, v);
}

static inline bool stack_push(struct cpu *c, unsigned bytes, uint64_t v)
{
	uint64_t sp = stack_cut(c, c->s.gpr[RSP] - bytes), gva;

	if (!mmu_linear(c, SEG_SS, sp, bytes, MMU_WRITE, &gva) || !mem_write(c, gva, bytes, v))
		return false;
	stack_set(c, sp);
	return true;
}

static inline bool stack_pop(struct cpu *c, unsigned bytes, uint64_t *v)
{
	uint64_t sp = c->s.gpr[RSP];

	if (!stack_read(c, sp, bytes, v))
		return false;
	stack_set(c, sp + bytes);
	return true;
}

/* Would a write of @bytes at the stack's top fault? Writes nothing. */
static inline bool stack_probe(struct cpu *c, unsigned bytes)
{
	uint64_t gva;

	return mmu_linear(c, SEG_SS, stack_cut(c, c->s.gpr[RSP]), bytes, MMU_WRITE, &gva) &&
	       (mmu_rmw(c, gva, bytes) || !c->fault.pending);
}

#endif
