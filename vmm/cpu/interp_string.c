/*
 * interp_string.c - MOVS, STOS, LODS, CMPS, SCAS, with their REP forms.
 *
 * Registers are brought up to date after every piece, so that a fault or an
 * interrupt in the middle finds them as the manual says and the instruction
 * simply starts again. A piece is one element or, where source and destination
 * are ordinary RAM in the TLB and DF is clear, all elements to the next page
 * boundary by one host instruction: the same one, on host addresses, so that
 * overlapping operands come out alike.
 */
#include "cpu/decode.h"
#include "cpu/interp.h"
#include "cpu/stack.h"

static unsigned addr_bytes(const struct op *o)
{
	return o->flags & OP_ADDR16 ? 2 : o->flags & OP_ADDR32 ? 4 : 8;
}

static bool repeats(const struct op *o)
{
	return o->flags & (OP_REP | OP_REPNE);
}

static bool source(struct cpu *c, const struct op *o, u64 *gva)
{
	op_note(c, o);
	return mmu_linear(c, o->seg, reg_get(c, RSI, addr_bytes(o)), o->size, MMU_READ, gva);
}

static bool destination(struct cpu *c, const struct op *o, enum mmu_access access, u64 *gva)
{
	op_note(c, o);
	return mmu_linear(c, SEG_ES, reg_get(c, RDI, addr_bytes(o)), o->size, access, gva);
}

/* After @n elements: index registers move by DF, the counter counts if there is REP. */
static void advance(struct cpu *c, const struct op *o, bool rsi, bool rdi, u64 n)
{
	unsigned width = addr_bytes(o);
	u64 step = c->s.rflags & RFLAGS_DF ? -(n * o->size) : n * o->size;

	if (rsi)
		reg_set(c, RSI, width, c->s.gpr[RSI] + step);
	if (rdi)
		reg_set(c, RDI, width, c->s.gpr[RDI] + step);
	if (repeats(o))
		reg_set(c, RCX, width, c->s.gpr[RCX] - n);
}

/* An interrupt may wait, or each iteration is to be seen: the run loop must have a look. */
static bool interrupted(const struct cpu *c)
{
	return atomic_load_explicit(&c->vcpu->attention, memory_order_relaxed) || c->slow_step;
}

/* --- pieces ---------------------------------------------------------------------- */

/*
 * How many elements may be taken at once at @gva, given by index register @r: to
 * the end of the page, and not beyond where the register or a segment wraps.
 */
static u64 room(const struct cpu *c, const struct op *o, unsigned r, u64 gva)
{
	u64 bytes = PAGE_SIZE - (gva & ~PAGE_MASK);

	if (addr_bytes(o) == 2 || (c->mode != MODE_64 && !c->flat))
		return 0;
	if (addr_bytes(o) == 4)
		bytes = MIN(bytes, BIT64(32) - reg_get(c, r, 4));
	return bytes / o->size;
}

static const void *readable(struct cpu *c, u64 gva)
{
	const struct tlb_entry *e = tlb_slot(c, gva);

	return e->read == tlb_key(c, gva, 1) ? (const void *)(gva + e->addend) : NULL;
}

static void *writable(struct cpu *c, u64 gva)
{
	const struct tlb_entry *e = tlb_slot(c, gva);

	return e->write == tlb_key(c, gva, 1) ? (void *)(gva + e->addend) : NULL;
}

static bool bulk_allowed(const struct cpu *c, const struct op *o)
{
	return repeats(o) && !(c->s.rflags & RFLAGS_DF) && !c->slow_step;
}

#define REP_BY_SIZE(size, insn, ...)                                                               \
	do {                                                                                       \
		switch (size) {                                                                    \
		case 1:                                                                            \
			asm volatile(insn "b" __VA_ARGS__);                                        \
			break;                                                                     \
		case 2:                                                                            \
			asm volatile(insn "w" __VA_ARGS__);                                        \
			break;                                                                     \
		case 4:                                                                            \
			asm volatile(insn "l" __VA_ARGS__);                                        \
			break;                                                                     \
		default:                                                                           \
			asm volatile(insn "q" __VA_ARGS__);                                        \
			break;                                                                     \
		}                                                                                  \
	} while (0)

/*
 * A piece of MOVS or STOS in bulk; how many elements, 0: not this way. The host
 * instruction is one store after another in order, as the guest's would be.
 */
static u64 bulk_movs(struct cpu *c, const struct op *o, u64 from, u64 to)
{
	u64 n = reg_get(c, RCX, addr_bytes(o)), count;
	const void *src = readable(c, from);
	void *dst = writable(c, to);

	if (!src || !dst || !bulk_allowed(c, o))
		return 0;
	n = MIN(n, room(c, o, RSI, from));
	n = MIN(n, room(c, o, RDI, to));
	count = n;
	REP_BY_SIZE(o->size, "rep; movs", : "+S"(src), "+D"(dst), "+c"(count) : : "memory");
	return n;
}

static u64 bulk_stos(struct cpu *c, const struct op *o, u64 to)
{
	u64 n = reg_get(c, RCX, addr_bytes(o)), count;
	void *dst = writable(c, to);

	if (!dst || !bulk_allowed(c, o))
		return 0;
	n = MIN(n, room(c, o, RDI, to));
	count = n;
	REP_BY_SIZE(o->size, "rep; stos", : "+D"(dst), "+c"(count) : "a"(c->s.gpr[RAX]) : "memory");
	return n;
}

/* One piece; how many elements, 0: fault. */
static u64 piece_movs(struct cpu *c, const struct op *o)
{
	u64 from, to, n, v;

	if (!source(c, o, &from) || !destination(c, o, MMU_WRITE, &to))
		return 0;
	n = bulk_movs(c, o, from, to);
	if (n)
		return n;
	return mem_read(c, from, o->size, &v) && mem_write(c, to, o->size, v);
}

static u64 piece_stos(struct cpu *c, const struct op *o)
{
	u64 to, n;

	if (!destination(c, o, MMU_WRITE, &to))
		return 0;
	n = bulk_stos(c, o, to);
	if (n)
		return n;
	return mem_write(c, to, o->size, c->s.gpr[RAX]);
}

static u64 piece_lods(struct cpu *c, const struct op *o)
{
	u64 from, v;

	if (!source(c, o, &from) || !mem_read(c, from, o->size, &v))
		return 0;
	reg_set(c, RAX, o->size, v);
	return 1;
}

/* --- MOVS, STOS, LODS ------------------------------------------------------------- */

typedef u64 piece_fn(struct cpu *c, const struct op *o);

/*
 * Between pieces an interrupt may come in, and code that was stored into is left:
 * then the instruction starts again with what remains.
 */
static inline void run(struct cpu *c, const struct op *o, piece_fn *piece, bool rsi, bool rdi)
{
	unsigned width = addr_bytes(o);
	u64 n;

	if (repeats(o) && !reg_get(c, RCX, width))
		OP_NEXT(c, o);
	for (;;) {
		n = piece(c, o);
		if (!n)
			return op_fault(c, o);
		advance(c, o, rsi, rdi, n);
		if (!repeats(o) || !reg_get(c, RCX, width))
			return op_stored(c, o);
		if (c->code_stale || interrupted(c))
			return op_again(c, o);
	}
}

static void op_movs(struct cpu *c, const struct op *o)
{
	return run(c, o, piece_movs, true, true);
}

static void op_stos(struct cpu *c, const struct op *o)
{
	return run(c, o, piece_stos, false, true);
}

static void op_lods(struct cpu *c, const struct op *o)
{
	return run(c, o, piece_lods, true, false);
}

/* --- CMPS, SCAS ----------------------------------------------------------------------- */

#define COMPARE(bits)                                                                              \
	static u16 compare##bits(u##bits a, u##bits b)                                             \
	{                                                                                          \
		u16 fl;                                                                            \
                                                                                                   \
		asm("cmp" SFX_##bits " %[b], %[a]" FLAGS_SAVE                                      \
		    : "=&a"(fl)                                                                    \
		    : [a] "r"(a), [b] "r"(b)                                                       \
		    : "cc");                                                                       \
		return fl;                                                                         \
	}
COMPARE(8)
COMPARE(16)
COMPARE(32)
COMPARE(64)

static u16 compare(unsigned bytes, u64 a, u64 b)
{
	switch (bytes) {
	case 1:
		return compare8((u8)a, (u8)b);
	case 2:
		return compare16((u16)a, (u16)b);
	case 4:
		return compare32((u32)a, (u32)b);
	default:
		return compare64(a, b);
	}
}

/* Elements compared before the REP condition ended it, or 0 as above; sets *fl. */
static u64 bulk_cmps(struct cpu *c, const struct op *o, u64 a, u64 b, u16 *fl)
{
	u64 n = reg_get(c, RCX, addr_bytes(o)), count;
	const void *p = readable(c, a), *q = readable(c, b);

	if (!p || !q || !bulk_allowed(c, o))
		return 0;
	n = MIN(n, room(c, o, RSI, a));
	n = MIN(n, room(c, o, RDI, b));
	if (!n)
		return 0;
	count = n;
	if (o->flags & OP_REPNE)
		REP_BY_SIZE(o->size, "repne; cmps", FLAGS_SAVE
			    : "=a"(*fl), "+S"(p), "+D"(q), "+c"(count)
			    :
			    : "cc", "memory");
	else
		REP_BY_SIZE(o->size, "repe; cmps", FLAGS_SAVE
			    : "=a"(*fl), "+S"(p), "+D"(q), "+c"(count)
			    :
			    : "cc", "memory");
	return n - count;
}

static u64 bulk_scas(struct cpu *c, const struct op *o, u64 b, u16 *fl)
{
	u64 n = reg_get(c, RCX, addr_bytes(o)), rax = c->s.gpr[RAX], count;
	const void *q = readable(c, b);

	if (!q || !bulk_allowed(c, o))
		return 0;
	n = MIN(n, room(c, o, RDI, b));
	if (!n)
		return 0;
	count = n;
	if (o->flags & OP_REPNE)
		REP_BY_SIZE(o->size, "repne; scas", FLAGS_SAVE
			    : "+a"(rax), "+D"(q), "+c"(count)
			    :
			    : "cc", "memory");
	else
		REP_BY_SIZE(o->size, "repe; scas", FLAGS_SAVE
			    : "+a"(rax), "+D"(q), "+c"(count)
			    :
			    : "cc", "memory");
	*fl = (u16)rax;
	return n - count;
}

static u64 piece_cmps(struct cpu *c, const struct op *o, u16 *fl)
{
	u64 a, b, n, v, w;

	if (!source(c, o, &a) || !destination(c, o, MMU_READ, &b))
		return 0;
	n = bulk_cmps(c, o, a, b, fl);
	if (n)
		return n;
	/* Where both fault processors report the destination. */
	if (!mem_read(c, b, o->size, &w) || !mem_read(c, a, o->size, &v))
		return 0;
	*fl = compare(o->size, v, w);
	return 1;
}

static u64 piece_scas(struct cpu *c, const struct op *o, u16 *fl)
{
	u64 b, n, w;

	if (!destination(c, o, MMU_READ, &b))
		return 0;
	n = bulk_scas(c, o, b, fl);
	if (n)
		return n;
	if (!mem_read(c, b, o->size, &w))
		return 0;
	*fl = compare(o->size, c->s.gpr[RAX], w);
	return 1;
}

typedef u64 compare_fn(struct cpu *c, const struct op *o, u16 *fl);

/*
 * Flags stay as they were before the instruction when an element faults, and
 * are those of the last comparison otherwise (SDM vol. 2, REP).
 */
static inline void run_compare(struct cpu *c, const struct op *o, compare_fn *piece, bool rsi)
{
	unsigned width = addr_bytes(o);
	u64 before = c->fl, n;
	u16 fl;

	if (repeats(o) && !reg_get(c, RCX, width))
		OP_NEXT(c, o);
	for (;;) {
		n = piece(c, o, &fl);
		if (!n) {
			c->fl = before;
			return op_fault(c, o);
		}
		advance(c, o, rsi, true, n);
		c->fl = fl;
		if (!repeats(o) || !reg_get(c, RCX, width) ||
		    !(fl & FL_ZF) != !!(o->flags & OP_REPNE))
			OP_NEXT(c, o);
		if (interrupted(c))
			return op_again(c, o);
	}
}

static void op_cmps(struct cpu *c, const struct op *o)
{
	return run_compare(c, o, piece_cmps, true);
}

static void op_scas(struct cpu *c, const struct op *o)
{
	return run_compare(c, o, piece_scas, false);
}

/* --- picker ------------------------------------------------------------------------------ */

/* The source's segment can be overridden, the destination's is always ES. */
static void source_segment(struct decoding *d)
{
	unsigned i;

	for (i = 0; i < d->insn.operand_count; i++) {
		const ZydisDecodedOperand *opnd = &d->operand[i];

		if (opnd->type == ZYDIS_OPERAND_TYPE_MEMORY && decode_gpr(opnd->mem.base) == RSI)
			d->op->seg = decode_seg(opnd->mem.segment);
	}
}

/* MOVS, STOS and LODS repeat alike under either prefix; the last one counts. */
static void repeat_prefix(struct decoding *d)
{
	unsigned i;

	d->op->flags &= (u16) ~(OP_REP | OP_REPNE);
	for (i = 0; i < d->insn.raw.prefix_count; i++) {
		u8 prefix = d->insn.raw.prefixes[i].value;

		if (prefix == 0xf3 || prefix == 0xf2) {
			d->op->flags &= (u16) ~(OP_REP | OP_REPNE);
			d->op->flags |= prefix == 0xf3 ? OP_REP : OP_REPNE;
		}
	}
}

op_fn *pick_string(struct decoding *d)
{
	source_segment(d);
	repeat_prefix(d);
	switch (d->insn.mnemonic) {
	case ZYDIS_MNEMONIC_MOVSB:
	case ZYDIS_MNEMONIC_MOVSW:
	case ZYDIS_MNEMONIC_MOVSD:
	case ZYDIS_MNEMONIC_MOVSQ:
		return op_movs;
	case ZYDIS_MNEMONIC_STOSB:
	case ZYDIS_MNEMONIC_STOSW:
	case ZYDIS_MNEMONIC_STOSD:
	case ZYDIS_MNEMONIC_STOSQ:
		return op_stos;
	case ZYDIS_MNEMONIC_LODSB:
	case ZYDIS_MNEMONIC_LODSW:
	case ZYDIS_MNEMONIC_LODSD:
	case ZYDIS_MNEMONIC_LODSQ:
		return op_lods;
	case ZYDIS_MNEMONIC_CMPSB:
	case ZYDIS_MNEMONIC_CMPSW:
	case ZYDIS_MNEMONIC_CMPSD:
	case ZYDIS_MNEMONIC_CMPSQ:
		return op_cmps;
	default:
		return op_scas;
	}
}
