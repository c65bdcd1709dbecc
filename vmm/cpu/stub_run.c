/*
 * stub_run.c - op handlers that run native stubs.
 *
 * A memory operand is handed to the stub in place when it is RAM within a page
 * and in the TLB, else by way of a buffer, so that devices, page crossings and
 * decoded code are the MMU's business. A fault leaves everything as it was.
 */
#include "cpu/stub_run.h"

#include "cpu/interp.h"
#include "cpu/stub_mask.h"
#include "cpu/xstate.h"

#define BOUNCE_BYTES 128 /* the widest operand: 108, of FNSAVE */

/* --- gates ------------------------------------------------------------------------------ */

/* Out of line: only called when something forbids it. SDM vol. 3, table 2-2 and 13.1. */
static COLD bool refuse(struct cpu *c, const struct op *o, uint8_t vector)
{
	op_raise(c, o, vector);
	return false;
}

static inline bool gate_vex(struct cpu *c, const struct op *o)
{
	return likely(c->s.cr0 & CR0_PE) || refuse(c, o, EXC_UD);
}

static inline bool gate_sse(struct cpu *c, const struct op *o)
{
	if (likely(!(c->s.cr0 & (CR0_EM | CR0_TS)) && (c->s.cr4 & CR4_OSFXSR)))
		return true;
	if ((c->s.cr0 & CR0_EM) || !(c->s.cr4 & CR4_OSFXSR))
		return refuse(c, o, EXC_UD);
	return refuse(c, o, EXC_NM);
}

static inline bool gate_wide(struct cpu *c, const struct op *o, uint64_t xcr0)
{
	if (!gate_vex(c, o))
		return false;
	if (unlikely(!(c->s.cr4 & CR4_OSXSAVE) || (c->s.xcr0 & xcr0) != xcr0))
		return refuse(c, o, EXC_UD);
	if (unlikely(c->s.cr0 & CR0_TS))
		return refuse(c, o, EXC_NM);
	*xstate_bv(&c->s) |= (uint8_t)xcr0;
	return true;
}

static inline bool gate_fx(struct cpu *c, const struct op *o)
{
	if ((o->imm & STUB_USES_SSE) && !(c->s.cr4 & CR4_OSFXSR))
		return refuse(c, o, EXC_UD);
	if (unlikely(c->s.cr0 & (CR0_EM | CR0_TS)))
		return refuse(c, o, (o->imm & STUB_MMX) && (c->s.cr0 & CR0_EM) ? EXC_UD : EXC_NM);
	/* With CR0.NE clear a PC would raise IRQ 13, which no guest of ours waits for. */
	if ((o->imm & STUB_WAITS) && x87_pending(xstate_fx(&c->s)))
		return refuse(c, o, EXC_MF);
	return true;
}

static inline bool gate(struct cpu *c, const struct op *o, enum stub_gate kind)
{
	switch (kind) {
	case STUB_VEX:
		return gate_vex(c, o);
	case STUB_SSE:
		return gate_sse(c, o);
	case STUB_AVX:
		return gate_wide(c, o, XCR0_SSE | XCR0_AVX);
	case STUB_AVX512:
		return gate_wide(c, o, XCR0_SSE | XCR0_AVX | XCR0_AVX512);
	case STUB_FX:
		return gate_fx(c, o);
	default:
		return true;
	}
}

bool stub_gate_sse(struct cpu *c, const struct op *o)
{
	return gate_sse(c, o);
}

bool stub_gate_avx(struct cpu *c, const struct op *o)
{
	return gate_wide(c, o, XCR0_SSE | XCR0_AVX);
}

bool stub_gate_avx512(struct cpu *c, const struct op *o)
{
	return gate_wide(c, o, XCR0_SSE | XCR0_AVX | XCR0_AVX512);
}

/* --- running ------------------------------------------------------------------------------ */

/*
 * The x87 notes where it was executed and what it accessed: host addresses, where
 * the guest's belong, and in FOP the ModRM byte of the re-encoded form. Whether it
 * did depends on the processor and on exceptions; so the fields are cleared
 * before, and what is still clear after was left alone. (No memory operand is at
 * 0, and no register form has opcode 0.)
 */
static bool run_x87(struct cpu *c, const struct op *o, void *mem)
{
	struct fx_image *fx = xstate_fx(&c->s);
	uint64_t ip = fx->ip, dp = fx->dp;
	uint16_t opcode = fx->opcode;
	bool ok;

	fx->ip = 0;
	fx->dp = 0;
	fx->opcode = 0;
	ok = !((stub_fn *)(uintptr_t)o->stub)(c, mem);
	fx->ip = fx->ip ? op_rip(c, o) : ip;
	if (mem && fx->dp == (uintptr_t)mem)
		fx->dp = op_ea(c, o);
	else if (!fx->dp)
		fx->dp = dp;
	fx->opcode = fx->opcode ? (o->imm >> STUB_FOP_SHIFT) & 0x7ff : opcode;
	return ok;
}

/* False: an unmasked SIMD exception. */
static inline bool run(struct cpu *c, const struct op *o, enum stub_gate kind, void *mem)
{
	if (kind == STUB_FX && (o->imm & STUB_POINTERS))
		return run_x87(c, o, mem);
	return likely(!((stub_fn *)(uintptr_t)o->stub)(c, mem));
}

/* SDM vol. 1, 11.5.2. */
static COLD void simd_exception(struct cpu *c, const struct op *o)
{
	return op_raise(c, o, c->s.cr4 & CR4_OSXMMEXCPT ? EXC_XM : EXC_UD);
}

static inline void run_reg(struct cpu *c, const struct op *o, enum stub_gate kind)
{
	if (!gate(c, o, kind))
		return;
	if (!run(c, o, kind, NULL))
		return simd_exception(c, o);
	OP_NEXT(c, o);
}

/* By its linear address, whether that may be accessed or not. */
static bool misaligned(const struct cpu *c, const struct op *o)
{
	bool has_base = c->mode != MODE_64 || o->seg == SEG_FS || o->seg == SEG_GS;

	return (op_ea(c, o) + (has_base ? c->s.seg[o->seg].base : 0)) & o->imm & STUB_ALIGN;
}

/* The linear address of a wide operand, aligned as it must be. */
static bool operand_linear(struct cpu *c, const struct op *o, enum mmu_access access, uint64_t *gva)
{
	if (!op_linear(c, o, o->size, access, gva)) {
		/* Being misaligned is #GP before not being canonical is #SS. */
		if (misaligned(c, o))
			c->fault.vector = EXC_GP;
		return false;
	}
	if (*gva & (o->imm & STUB_ALIGN)) {
		cpu_raise_error(c, EXC_GP, 0);
		return false;
	}
	return true;
}

/*
 * The host address of an aligned operand under @tag of the TLB entry, or NULL.
 * No local's address leaves here, so that handlers still end in tail calls.
 */
#define OPERAND_PTR(c, o, gva, tag)                                                                \
	({                                                                                         \
		const struct tlb_entry *e_ = tlb_slot(c, gva);                                     \
		e_->tag == tlb_key(c, gva, (o)->size) && !((gva) & ((o)->imm & STUB_ALIGN))        \
			? (void *)(uintptr_t)((gva) + e_->addend)                                  \
			: (void *)0;                                                               \
	})

/* Into @bounce what cannot be accessed in place. */
static bool load_bounced(struct cpu *c, const struct op *o, uint64_t gva, uint8_t *bounce)
{
	if (!stub_is_masked(o))
		return stub_read(c, gva, bounce, o->size);
	memset(bounce, 0, o->size);
	return stub_mask_load(c, o, bounce);
}

/* The operand in place, or NULL: by way of a buffer. False: a fault. */
static bool operand_in_place(struct cpu *c, const struct op *o, enum mmu_access access,
			     uint64_t *gva, void **mem)
{
	const struct cpu_fault none = { 0 };

	*mem = NULL;
	if (operand_linear(c, o, access, gva)) {
		*mem = access == MMU_WRITE ? OPERAND_PTR(c, o, *gva, write)
					   : OPERAND_PTR(c, o, *gva, read);
		return true;
	}
	/* The address of a masked operand matters only where an element is selected. */
	if (!stub_is_masked(o) ||
	    (c->fault.vector == EXC_GP && misaligned(c, o) && stub_mask_any(c, o)))
		return false;
	c->fault = none;
	return true;
}

/*
 * Any segment, any memory: false when something was raised and reported. These
 * need a stack frame, the handlers none.
 */
static COLD bool load_slow(struct cpu *c, const struct op *o, enum stub_gate kind)
{
	uint8_t bounce[BOUNCE_BYTES] __attribute__((aligned(64)));
	uint64_t gva = 0;
	void *mem;

	if (!operand_in_place(c, o, MMU_READ, &gva, &mem) ||
	    (!mem && !load_bounced(c, o, gva, bounce))) {
		op_fault(c, o);
		return false;
	}
	if (run(c, o, kind, mem ? mem : bounce))
		return true;
	simd_exception(c, o);
	return false;
}

/*
 * An x87 store that meets an unmasked exception stores nothing, except for
 * precision. None waited before (gate_fx()), so what waits now is its own.
 */
static bool x87_withheld(struct cpu *c, const struct op *o)
{
	const struct fx_image *fx = xstate_fx(&c->s);
	const unsigned invalid = 1, overflow = 8, underflow = 16;

	return (o->imm & STUB_WAITS) && !(o->imm & STUB_MMX) &&
	       (fx->sw & ~fx->cw & (invalid | overflow | underflow));
}

static bool store_out(struct cpu *c, const struct op *o, const uint8_t *bounce)
{
	uint64_t gva = 0;
	void *mem;

	if (!operand_in_place(c, o, MMU_WRITE, &gva, &mem))
		return false;
	if (stub_is_masked(o))
		return stub_mask_store(c, o, bounce);
	return stub_write(c, gva, bounce, o->size);
}

/*
 * By way of a buffer, and only then looks at the address: a store that is withheld
 * has none. What the instruction did besides is undone when the store faults.
 */
static bool store_bounced(struct cpu *c, const struct op *o, enum stub_gate kind)
{
	uint8_t bounce[BOUNCE_BYTES] __attribute__((aligned(64))) = { 0 };
	struct fx_image *fx = xstate_fx(&c->s);
	struct fx_image before = *fx;

	if (!run(c, o, kind, bounce)) {
		simd_exception(c, o);
		return false;
	}
	if (kind == STUB_FX && x87_withheld(c, o))
		return true;
	if (store_out(c, o, bounce))
		return true;
	*fx = before;
	op_fault(c, o);
	return false;
}

/*
 * Whatever has no write tag, or a segment base. An operand in the TLB is stored to
 * directly, so that it is not torn.
 */
static COLD bool store_slow(struct cpu *c, const struct op *o, enum stub_gate kind)
{
	const struct cpu_fault none = { 0 };
	uint64_t gva;
	void *mem;

	if (!operand_in_place(c, o, MMU_WRITE, &gva, &mem))
		c->fault = none;
	if (!mem)
		return store_bounced(c, o, kind);
	if (run(c, o, kind, mem))
		return true;
	simd_exception(c, o);
	return false;
}

static inline void run_load(struct cpu *c, const struct op *o, enum stub_gate kind)
{
	void *mem = NULL;

	if (!gate(c, o, kind))
		return;
	if (likely(o->flags & OP_PLAIN))
		mem = OPERAND_PTR(c, o, op_plain_addr(c, o), read);
	if (unlikely(!mem)) {
		if (!load_slow(c, o, kind))
			return;
	} else if (!run(c, o, kind, mem)) {
		return simd_exception(c, o);
	}
	OP_NEXT(c, o);
}

static inline void run_store(struct cpu *c, const struct op *o, enum stub_gate kind)
{
	void *mem = NULL;

	if (!gate(c, o, kind))
		return;
	if (likely(o->flags & OP_PLAIN))
		mem = OPERAND_PTR(c, o, op_plain_addr(c, o), write);
	if (unlikely(!mem))
		return store_slow(c, o, kind) ? op_stored(c, o) : (void)0;
	if (!run(c, o, kind, mem))
		return simd_exception(c, o);
	OP_NEXT(c, o);
}

/* --- the handlers ----------------------------------------------------------------------------- */

#define HANDLERS(name, kind)                                                                       \
	static void name##_reg(struct cpu *c, const struct op *o)                                  \
	{                                                                                          \
		return run_reg(c, o, kind);                                                        \
	}                                                                                          \
	static void name##_load(struct cpu *c, const struct op *o)                                 \
	{                                                                                          \
		return run_load(c, o, kind);                                                       \
	}                                                                                          \
	static void name##_store(struct cpu *c, const struct op *o)                                \
	{                                                                                          \
		return run_store(c, o, kind);                                                      \
	}
HANDLERS(free, STUB_FREE)
HANDLERS(vex, STUB_VEX)
HANDLERS(sse, STUB_SSE)
HANDLERS(avx, STUB_AVX)
HANDLERS(avx512, STUB_AVX512)
HANDLERS(fx, STUB_FX)

op_fn *stub_handler(enum stub_gate gate, enum stub_shape shape)
{
#define ROW(name)                                                                                  \
	{                                                                                          \
		name##_reg, name##_load, name##_store                                              \
	}
	static op_fn *const handler[STUB_GATES][STUB_SHAPES] = {
		[STUB_FREE] = ROW(free), [STUB_VEX] = ROW(vex),       [STUB_SSE] = ROW(sse),
		[STUB_AVX] = ROW(avx),   [STUB_AVX512] = ROW(avx512), [STUB_FX] = ROW(fx),
	};
#undef ROW

	return handler[gate][shape];
}
