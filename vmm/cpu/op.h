/*
 * op.h - a decoded instruction, as handlers see it.
 */
#ifndef VMM_CPU_OP_H
#define VMM_CPU_OP_H

#include "cpu/cpu.h"

typedef void op_fn(struct cpu *c, const struct op *o);

#define OP_NO_REG 0xff

enum op_flags {
	OP_MEM = BIT(0), /* the r/m operand is memory */
	OP_RIPREL = BIT(1),
	OP_ADDR32 = BIT(2), /* effective address is 32 bits wide */
	OP_ADDR16 = BIT(3),
	OP_LOCK = BIT(4),
	OP_REP = BIT(5),
	OP_REPNE = BIT(6),
	OP_REX = BIT(7), /* byte registers 4-7 are spl, bpl, sil, dil */
	OP_REXW = BIT(8),
	OP_PLAIN = BIT(9),  /* 64-bit address, no segment base: addr_base and addr_index tell it */
	OP_DISP64 = BIT(10) /* the address is imm */
};

/*
 * 48 bytes. RIP of the instruction is c->block_rip + off: blocks are keyed by
 * physical address and may run at several linear ones.
 */
struct op {
	op_fn *fn;
	uint64_t imm; /* sign-extended immediate; direct far targets: offset */
	union {
		sys_fn *sys;
		const void *stub;
		uint64_t aux; /* handlers' own */
	};
	int32_t disp;      /* direct far targets: selector */
	uint16_t off;      /* of its first byte, within its page */
	uint16_t mnemonic; /* ZydisMnemonic */
	uint16_t flags;    /* enum op_flags */
	uint8_t len;
	uint8_t size;               /* operand size in bytes */
	uint8_t base, index, shift; /* effective address; OP_NO_REG */
	uint8_t seg;                /* enum seg_reg of the memory operand */
	uint8_t reg;                /* ModRM.reg operand, extended; number of CR, DR, Sreg too */
	uint8_t rm;                 /* ModRM.rm operand when a register, or opcode register */
	/*
	 * OP_PLAIN: words of struct cpu (CPU_WORD) whose sum, with disp, is the linear
	 * address. With OP_RIPREL the base is block_rip, and disp counts from there.
	 */
	uint8_t addr_base, addr_index;
};

_Static_assert(sizeof(struct op) == 48, "ops are most of what the block cache holds");

/* RIP, cut to what the mode counts in. */
static inline uint64_t op_cut_rip(const struct cpu *c, uint64_t rip)
{
	return c->mode == MODE_64 ? rip : c->mode == MODE_32 ? (uint32_t)rip : (uint16_t)rip;
}

static inline uint64_t op_rip(const struct cpu *c, const struct op *o)
{
	return op_cut_rip(c, c->block_rip + o->off);
}

static inline uint64_t op_next_rip(const struct cpu *c, const struct op *o)
{
	return op_cut_rip(c, c->block_rip + o->off + o->len);
}

/* The linear address of an OP_PLAIN operand, not yet known to be canonical. */
static inline uint64_t op_plain_addr(const struct cpu *c, const struct op *o)
{
	const uint64_t *word = (const uint64_t *)c;

	return word[o->addr_base] + (word[o->addr_index] << o->shift) + (uint64_t)(int64_t)o->disp;
}

/* The effective address: an offset into segment o->seg, cut to the address size. */
static inline uint64_t op_ea(const struct cpu *c, const struct op *o)
{
	uint64_t ea = o->flags & OP_DISP64 ? o->imm : (uint64_t)(int64_t)o->disp;

	if (o->flags & OP_PLAIN)
		return op_plain_addr(c, o);
	if (o->flags & OP_RIPREL)
		ea += op_next_rip(c, o);
	if (o->base != OP_NO_REG)
		ea += c->s.gpr[o->base];
	if (o->index != OP_NO_REG)
		ea += c->s.gpr[o->index] << o->shift;
	if (o->flags & OP_ADDR32)
		return (uint32_t)ea;
	if (o->flags & OP_ADDR16)
		return (uint16_t)ea;
	return ea;
}

#endif
