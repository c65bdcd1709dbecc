/*
 * emit.h - host instructions as bytes: the few that translated code needs around
 * the guest's own. Leaf but for util.h; nothing here knows what it is used for.
 *
 * Emission never fails: the buffer's owner makes room first.
 */
#ifndef VMM_CPU_EMIT_H
#define VMM_CPU_EMIT_H

#include "core/util.h"

/* Host registers by encoding. */
enum hreg {
	H_RAX,
	H_RCX,
	H_RDX,
	H_RBX,
	H_RSP,
	H_RBP,
	H_RSI,
	H_RDI,
	H_R8,
	H_R9,
	H_R10,
	H_R11,
	H_R12,
	H_R13,
	H_R14,
	H_R15,
	H_NONE
};

/* Condition codes as in 0F 8x. */
enum hcond {
	CC_NO = 1,
	CC_B = 2,
	CC_AE = 3,
	CC_Z = 4,
	CC_NZ = 5,
	CC_BE = 6,
	CC_A = 7,
	CC_L = 12,
	CC_G = 15
};

struct emit {
	uint8_t *p; /* where to write next */
	int64_t rx; /* what to add to get the address it will run at */
};

static inline void emit_u8(struct emit *e, unsigned v)
{
	*e->p++ = (uint8_t)v;
}

static inline void emit_u32(struct emit *e, uint32_t v)
{
	store_u32(e->p, v);
	e->p += 4;
}

static inline void emit_u64(struct emit *e, uint64_t v)
{
	store_u64(e->p, v);
	e->p += 8;
}

static inline void emit_bytes(struct emit *e, const uint8_t *b, unsigned n)
{
	memcpy(e->p, b, n);
	e->p += n;
}

/* --- operands ------------------------------------------------------------------- */

static inline void emit_rex(struct emit *e, bool w, unsigned reg, unsigned index, unsigned base)
{
	unsigned rex = (w ? 8u : 0) | (reg & 8) >> 1 | (index & 8) >> 2 | (base & 8) >> 3;

	if (rex)
		emit_u8(e, 0x40 | rex);
}

/* op reg, rm */
static inline void emit_rr(struct emit *e, bool w, unsigned op, unsigned reg, unsigned rm)
{
	emit_rex(e, w, reg, 0, rm);
	emit_u8(e, op);
	emit_u8(e, 0xc0 | (reg & 7) << 3 | (rm & 7));
}

/* imul dst, src, imm */
static inline void emit_mul_imm(struct emit *e, bool w, unsigned dst, unsigned src, uint32_t imm)
{
	emit_rr(e, w, 0x69, dst, src);
	emit_u32(e, imm);
}

/* op reg, %gs:[disp] */
static inline void emit_gs(struct emit *e, bool w, unsigned op, unsigned reg, int32_t disp)
{
	emit_u8(e, 0x65);
	emit_rex(e, w, reg, 0, 0);
	emit_u8(e, op);
	emit_u8(e, 0x04 | (reg & 7) << 3);
	emit_u8(e, 0x25);
	emit_u32(e, (uint32_t)disp);
}

/* op reg, %gs:[base + disp32] */
static inline void emit_gs_base(struct emit *e, bool w, unsigned op, unsigned reg, unsigned base,
				int32_t disp)
{
	emit_u8(e, 0x65);
	emit_rex(e, w, reg, 0, base);
	emit_u8(e, op);
	emit_u8(e, 0x80 | (reg & 7) << 3 | (base & 7)); /* base is neither rsp nor r12 */
	emit_u32(e, (uint32_t)disp);
}

/* op reg, %gs:[index * 8 + disp32] */
static inline void emit_gs_scaled(struct emit *e, bool w, unsigned op, unsigned reg, unsigned index,
				  int32_t disp)
{
	emit_u8(e, 0x65);
	emit_rex(e, w, reg, index, 0);
	emit_u8(e, op);
	emit_u8(e, 0x04 | (reg & 7) << 3);
	emit_u8(e, 0xc5 | (index & 7) << 3); /* index is not rsp */
	emit_u32(e, (uint32_t)disp);
}

/* The ModRM, SIB and displacement of [base + index * scale + disp]; H_NONE for none. */
static inline void emit_mem(struct emit *e, unsigned reg, unsigned base, unsigned index,
			    unsigned shift, int32_t disp)
{
	bool small = disp == (int8_t)disp;
	unsigned field = (reg & 7) << 3;

	if (base == H_NONE) {
		emit_u8(e, 0x04 | field);
		emit_u8(e, shift << 6 | (index == H_NONE ? 4u : index & 7) << 3 | 5);
		emit_u32(e, (uint32_t)disp);
		return;
	}
	if (index == H_NONE && (base & 7) != H_RSP) {
		emit_u8(e, (small ? 0x40u : 0x80u) | field | (base & 7));
	} else {
		emit_u8(e, (small ? 0x44u : 0x84u) | field);
		emit_u8(e, shift << 6 | (index == H_NONE ? 4u : index & 7) << 3 | (base & 7));
	}
	if (small)
		emit_u8(e, (uint8_t)disp);
	else
		emit_u32(e, (uint32_t)disp);
}

static inline void emit_lea(struct emit *e, bool w, unsigned dst, unsigned base, unsigned index,
			    unsigned shift, int32_t disp)
{
	if (w && index == H_NONE && base != H_NONE && !disp) { /* renamed, not executed */
		if (dst != base)
			emit_rr(e, true, 0x89, base, dst);
		return;
	}
	emit_rex(e, w, dst, index == H_NONE ? 0 : index, base == H_NONE ? 0 : base);
	emit_u8(e, 0x8d);
	emit_mem(e, dst, base, index, shift, disp);
}

/* op reg, [base] for a plain base register */
static inline void emit_load(struct emit *e, bool w, unsigned op, unsigned reg, unsigned base,
			     int32_t disp)
{
	emit_rex(e, w, reg, 0, base);
	emit_u8(e, op);
	emit_mem(e, reg, base, H_NONE, 0, disp);
}

/* op reg, imm32; shift reg, by */
enum { ALU_ADD = 0, ALU_OR = 1, ALU_AND = 4, ALU_CMP = 7, SHIFT_L = 4, SHIFT_R = 5, SHIFT_SAR = 7 };

static inline void emit_alu_imm(struct emit *e, bool w, unsigned op, unsigned reg, uint32_t imm)
{
	emit_rex(e, w, 0, 0, reg);
	emit_u8(e, 0x81);
	emit_u8(e, 0xc0 | op << 3 | (reg & 7));
	emit_u32(e, imm);
}

static inline void emit_shift(struct emit *e, bool w, unsigned op, unsigned reg, unsigned by)
{
	emit_rex(e, w, 0, 0, reg);
	emit_u8(e, 0xc1);
	emit_u8(e, 0xc0 | op << 3 | (reg & 7));
	emit_u8(e, by);
}

static inline void emit_neg(struct emit *e, unsigned reg)
{
	emit_rex(e, true, 0, 0, reg);
	emit_u8(e, 0xf7);
	emit_u8(e, 0xd8 | (reg & 7));
}

static inline void emit_push(struct emit *e, unsigned reg)
{
	emit_rex(e, false, 0, 0, reg);
	emit_u8(e, 0x50 | (reg & 7));
}

static inline void emit_pop(struct emit *e, unsigned reg)
{
	emit_rex(e, false, 0, 0, reg);
	emit_u8(e, 0x58 | (reg & 7));
}

/* --- moves: no flags -------------------------------------------------------------- */

static inline void emit_mov(struct emit *e, unsigned dst, unsigned src)
{
	if (dst != src)
		emit_rr(e, true, 0x89, src, dst);
}

static inline void emit_mov_imm(struct emit *e, unsigned dst, uint64_t v)
{
	if (v == (uint32_t)v) {
		emit_rex(e, false, 0, 0, dst);
		emit_u8(e, 0xb8 | (dst & 7));
		emit_u32(e, (uint32_t)v);
	} else if ((int64_t)v == (int32_t)v) {
		emit_rex(e, true, 0, 0, dst);
		emit_u8(e, 0xc7);
		emit_u8(e, 0xc0 | (dst & 7));
		emit_u32(e, (uint32_t)v);
	} else {
		emit_rex(e, true, 0, 0, dst);
		emit_u8(e, 0xb8 | (dst & 7));
		emit_u64(e, v);
	}
}

static inline void emit_gs_load(struct emit *e, unsigned dst, int32_t disp)
{
	emit_gs(e, true, 0x8b, dst, disp);
}

static inline void emit_gs_store(struct emit *e, unsigned src, int32_t disp)
{
	emit_gs(e, true, 0x89, src, disp);
}

/* mov dword %gs:[disp], imm */
static inline void emit_gs_imm32(struct emit *e, int32_t disp, uint32_t v)
{
	emit_gs(e, false, 0xc7, 0, disp);
	emit_u32(e, v);
}

/* --- jumps -------------------------------------------------------------------------- */

/* Where @e will run now. */
static inline uint64_t emit_here(const struct emit *e)
{
	return (uint64_t)((int64_t)(uintptr_t)e->p + e->rx);
}

/* The rel32 at @at (writable address) shall lead to @target (running address). */
static inline void emit_patch(const struct emit *e, uint8_t *at, uint64_t target)
{
	int64_t from = (int64_t)(uintptr_t)at + e->rx + 4;

	__atomic_store_n((uint32_t *)(void *)at, (uint32_t)((int64_t)target - from),
			 __ATOMIC_RELAXED);
}

/*
 * The rel32 behind the next @n bytes shall lie within eight aligned ones, and so be patched
 * at once for those who execute it. What fills up are CS overrides, which jumps ignore.
 */
static inline void emit_align_rel32(struct emit *e, unsigned n)
{
	while ((((uintptr_t)e->p + n) & 7) > 4)
		emit_u8(e, 0x2e);
}

/* jmp rel32; returns the place of its rel32. */
static inline uint8_t *emit_jmp(struct emit *e, uint64_t target)
{
	emit_u8(e, 0xe9);
	e->p += 4;
	emit_patch(e, e->p - 4, target);
	return e->p - 4;
}

static inline uint8_t *emit_jcc(struct emit *e, unsigned cc, uint64_t target)
{
	emit_u8(e, 0x0f);
	emit_u8(e, 0x80 | cc);
	e->p += 4;
	emit_patch(e, e->p - 4, target);
	return e->p - 4;
}

static inline void emit_call(struct emit *e, uint64_t target)
{
	emit_u8(e, 0xe8);
	e->p += 4;
	emit_patch(e, e->p - 4, target);
}

#endif
