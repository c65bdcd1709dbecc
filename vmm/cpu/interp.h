/*
 * interp.h - how op handlers run, fault and reach their operands.
 *
 * A block is an array of ops. Each handler does its work and ends by calling
 * the next op's in tail position, OP_NEXT(); the last op of a block is always
 * one that sets s.rip and returns to the run loop. Where the compiler makes no
 * tail calls the recursion is as deep as a block is long.
 *
 * While a block runs s.rip is stale: op_rip() is the instruction's own. Flags
 * are in c->fl. A handler that cannot just go on returns by one of
 *
 *   op_fault()   c->fault was raised, nothing has changed
 *   op_again()   stopped half-way (REP) with registers saying where
 *   op_stored()  after a slow-path store: goes on unless decoded code was hit
 *   op_leave()   anything else
 *
 * Operands: memory handlers come in pairs. The plain one (OP_PLAIN: 64-bit
 * address, no segment base) finds the address with one sum, probes the TLB and,
 * where that fails, calls the general one in tail position; so it needs no
 * stack frame. The general one handles every mode, segment, device and fault.
 */
#ifndef VMM_CPU_INTERP_H
#define VMM_CPU_INTERP_H

#include "cpu/mmu.h"
#include "cpu/op.h"

#define OP_NEXT(c, o) return (o)[1].fn((c), (o) + 1)

/* Ways out of a block, for c->edge. */
enum { EDGE_NEXT, EDGE_TAKEN, EDGE_INDIRECT, EDGES };

static inline void op_leave(struct cpu *c, const struct op *o, enum cpu_leave why, uint64_t rip)
{
	c->stop_op = o;
	c->leave = (uint8_t)why;
	c->s.rip = rip;
}

static inline void op_fault(struct cpu *c, const struct op *o)
{
	op_leave(c, o, LEAVE_FAULT, op_rip(c, o));
}

static inline void op_again(struct cpu *c, const struct op *o)
{
	op_leave(c, o, LEAVE_AGAIN, op_rip(c, o));
}

static inline void op_stored(struct cpu *c, const struct op *o)
{
	if (unlikely(c->code_stale))
		return op_leave(c, o, LEAVE_DONE, op_next_rip(c, o));
	OP_NEXT(c, o);
}

/* Raise @vector and leave: for instructions that fault by themselves. */
static inline void op_raise(struct cpu *c, const struct op *o, uint8_t vector)
{
	if (vector == EXC_GP || vector == EXC_SS)
		cpu_raise_error(c, vector, 0);
	else
		cpu_raise(c, vector);
	return op_fault(c, o);
}

/*
 * Instructions retired so far, to the one being executed (exclusive). Exact in
 * system ops, after op_note() and between blocks.
 */
static inline uint64_t cpu_insns(const struct cpu *c)
{
	return c->insns + (uint64_t)(c->stop_op - c->block_ops);
}

/* CLOCK_ICOUNT: let the guest clock count as far as cpu_insns(). */
static inline void cpu_sync_clock(struct cpu *c)
{
	uint64_t now = cpu_insns(c);

	clock_advance(&c->vm->clock, now - c->clock_insns);
	c->clock_insns = now;
}

/* Before a slow access, which may reach a device: note where the block has got to. */
static inline void op_note(struct cpu *c, const struct op *o)
{
	c->stop_op = o;
	if (unlikely(c->icount))
		cpu_sync_clock(c);
}

/*
 * The linear address of the memory operand, all checks done that need no page
 * walk.
 */
static inline bool op_linear(struct cpu *c, const struct op *o, unsigned bytes,
			     enum mmu_access access, uint64_t *gva)
{
	op_note(c, o);
	return mmu_linear(c, o->seg, op_ea(c, o), bytes, access, gva);
}

/* --- registers ---------------------------------------------------------------- */

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int8_t s8;
typedef int16_t s16;
typedef int32_t s32;
typedef int64_t s64;

/*
 * By number; byte registers by their offset in gpr[], which names AH, CH, DH and
 * BH, too. Operand numbers of integer ops are in this form (op_byte_reg()).
 */
static inline u8 op_byte_reg(unsigned number, bool rex)
{
	return (u8)(!rex && number >= 4 && number < 8 ? (number - 4) * 8 + 1 : number * 8);
}

static inline u8 reg_get8(const struct cpu *c, unsigned r)
{
	return ((const u8 *)c->s.gpr)[r];
}

static inline u16 reg_get16(const struct cpu *c, unsigned r)
{
	return (u16)c->s.gpr[r];
}

static inline u32 reg_get32(const struct cpu *c, unsigned r)
{
	return (u32)c->s.gpr[r];
}

static inline u64 reg_get64(const struct cpu *c, unsigned r)
{
	return c->s.gpr[r];
}

static inline void reg_set8(struct cpu *c, unsigned r, u8 v)
{
	((u8 *)c->s.gpr)[r] = v;
}

static inline void reg_set16(struct cpu *c, unsigned r, u16 v)
{
	*(u16 *)&c->s.gpr[r] = v;
}

static inline void reg_set32(struct cpu *c, unsigned r, u32 v)
{
	c->s.gpr[r] = v;
}

static inline void reg_set64(struct cpu *c, unsigned r, u64 v)
{
	c->s.gpr[r] = v;
}

/* @bytes wide, r by number; never AH and its like. */
static inline u64 reg_get(const struct cpu *c, unsigned r, unsigned bytes)
{
	u64 v = c->s.gpr[r];

	return bytes == 8 ? v : bytes == 4 ? (u32)v : bytes == 2 ? (u16)v : (u8)v;
}

static inline void reg_set(struct cpu *c, unsigned r, unsigned bytes, u64 v)
{
	switch (bytes) {
	case 1:
		return reg_set8(c, r * 8, (u8)v);
	case 2:
		return reg_set16(c, r, (u16)v);
	case 4:
		return reg_set32(c, r, (u32)v);
	default:
		return reg_set64(c, r, v);
	}
}

/* --- host flags ------------------------------------------------------------------ */

/*
 * For asm templates: load host flags from the form in AX, and back. ADD sets OF
 * from AL: 0x7f + 1 overflows a byte. Neither touches anything but AX.
 */
#define FLAGS_LOAD "add $0x7f, %%al; sahf; "
#define FLAGS_SAVE "; lahf; seto %%al"

/* Operand-size suffixes of asm templates. */
#define SFX_8  "b"
#define SFX_16 "w"
#define SFX_32 "l"
#define SFX_64 "q"

/* --- guest memory as operand ------------------------------------------------------- */

#define GUEST_LOAD(bits, p)     guest_load_u##bits(p)
#define GUEST_STORE(bits, p, v) guest_store_u##bits(p, v)

/*
 * The host address of a plain operand in the TLB under @tag (read or write), or
 * NULL. One compare covers mapping, rights and page crossing.
 */
#define PLAIN_PTR(c, gva, bits, tag)                                                               \
	({                                                                                         \
		const struct tlb_entry *e_ = tlb_slot(c, gva);                                     \
		likely(e_->tag == tlb_key(c, gva, bits / 8)) ? (void *)((gva) + e_->addend)        \
							     : (void *)0;                          \
	})

/* General reads and writes of the memory operand; false: fault. */
#define OP_ACCESSORS(bits)                                                                         \
	static inline bool op_read##bits(struct cpu *c, const struct op *o, u##bits *v)            \
	{                                                                                          \
		u64 gva;                                                                           \
                                                                                                   \
		return op_linear(c, o, bits / 8, MMU_READ, &gva) && mmu_read_u##bits(c, gva, v);   \
	}                                                                                          \
	static inline bool op_write##bits(struct cpu *c, const struct op *o, u##bits v)            \
	{                                                                                          \
		u64 gva;                                                                           \
                                                                                                   \
		return op_linear(c, o, bits / 8, MMU_WRITE, &gva) && mmu_write_u##bits(c, gva, v); \
	}

OP_ACCESSORS(8)
OP_ACCESSORS(16)
OP_ACCESSORS(32)
OP_ACCESSORS(64)

/*
 * A general read-modify-write of the memory operand, begun and ended. Between
 * the two the handler works on *rmw_begin(), which is guest memory itself or,
 * across pages and for devices, a copy; with OP_LOCK under the machine's lock.
 */
struct rmw {
	uint64_t gva;
	uint64_t fl; /* flags before, in force again when the write faults */
	uint64_t copy[2] __attribute__((aligned(16)));
	unsigned bytes;
	bool direct;
};

/* NULL: fault pending. */
void *rmw_begin(struct cpu *c, const struct op *o, unsigned bytes, struct rmw *m);
void *rmw_begin_at(struct cpu *c, const struct op *o, uint64_t gva, unsigned bytes, struct rmw *m);
/* False: fault pending, flags are as before; registers are the caller's business. */
bool rmw_end(struct cpu *c, const struct op *o, struct rmw *m);

/* The usual last line of a general read-modify-write handler. */
static inline void op_rmw_end(struct cpu *c, const struct op *o, struct rmw *m)
{
	if (!rmw_end(c, o, m))
		return op_fault(c, o);
	return op_stored(c, o);
}

/* What hardly ever runs stays out of the others' cache lines. */
#define COLD __attribute__((cold, noinline))

/* General halves are called, never inlined: the plain ones stay without a frame. */
#define GENERAL __attribute__((noinline)) static

#endif
