/*
 * stub.c - makes native stubs: host code that executes one guest instruction.
 *
 * A stub is a C function, stub_fn: RDI is the vCPU, RSI the memory operand. It
 *
 *	loads the guest's flags, registers and MXCSR, as far as the instruction
 *	touches them,
 *	executes the instruction, re-encoded for the registers they were loaded
 *	into and with (RSI) as its memory operand,
 *	stores what the instruction writes, and puts the host's state back.
 *
 * Vector registers keep their numbers. General registers that ModRM or VEX name
 * come in R8, R9 and R10; those an opcode implies (RAX, RCX, RDX) stay where
 * they are. For x87 and MMX the whole FXSAVE image is loaded and stored.
 *
 * An unmasked SIMD exception interrupts the instruction: the host's handler finds
 * the way out in the NOP before it, and the stub returns 1 with only MXCSR changed.
 *
 * Stubs are position independent and equal ones are shared. The cache belongs to
 * the vCPU's thread; stubs are written once, before they first run.
 */
#include "cpu/stub.h"

#include "cpu/stub_mask.h"
#include "cpu/stub_recipe.h"
#include "cpu/stub_run.h"
#include "cpu/xlat.h"
#include "cpu/xstate.h"

#include <errno.h>

#define CODE_BYTES   MIB(1)
#define TABLE_SLOTS  16384u /* a power of two */
/* Room for a block: it has at most 64 instructions, nearly all stubs are below 128 bytes. */
#define CODE_RESERVE (64 * STUB_MAX)

struct stub_slot {
	uint32_t hash;
	uint32_t at;    /* offset of the code */
	uint32_t bytes; /* 0: empty */
};

struct stub_cache {
	struct host_code code;
	size_t used;
	unsigned nr_stubs;
	struct stub_slot slot[TABLE_SLOTS];
};

/* --- the cache ------------------------------------------------------------------------ */

static uint32_t hash_of(const struct stub_code *k)
{
	uint64_t h = k->n;

	for (unsigned i = 0; i < k->n; i += 8) {
		uint64_t v = 0;

		memcpy(&v, k->buf + i, MIN(8u, k->n - i));
		h = (h ^ v) * 0x9e3779b97f4a7c15ull;
		h ^= h >> 29;
	}
	return (uint32_t)(h >> 16);
}

bool stub_low(const struct cpu *c)
{
	const struct stub_cache *s = c->stubs;

	return s->used + CODE_RESERVE > s->code.bytes || s->nr_stubs > TABLE_SLOTS * 3 / 4;
}

static void serialise(void)
{
	uint32_t eax = 0, ebx, ecx = 0, edx;

	__asm__ volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx) : : "memory");
}

void stub_flush(struct cpu *c)
{
	struct stub_cache *s = c->stubs;

	memset(s->slot, 0, sizeof(s->slot));
	s->used = 0;
	s->nr_stubs = 0;
	/* New code comes where old code ran: SDM vol. 3, 8.1.3 wants this thread serialised. */
	serialise();
}

static const void *cache_find_or_add(struct stub_cache *s, const struct stub_code *k)
{
	uint32_t hash = hash_of(k);
	struct stub_slot *slot;

	for (unsigned i = hash;; i++) {
		slot = &s->slot[i & (TABLE_SLOTS - 1)];
		if (!slot->bytes)
			break;
		if (slot->hash == hash && slot->bytes == k->n &&
		    !memcmp(s->code.rx + slot->at, k->buf, k->n))
			return s->code.rx + slot->at;
	}
	if (s->used + STUB_MAX > s->code.bytes || s->nr_stubs == TABLE_SLOTS - 1)
		return NULL;
	*slot = (struct stub_slot){ hash, (uint32_t)s->used, k->n };
	memcpy(s->code.rw + s->used, k->buf, k->n);
	s->used = ALIGN_UP(s->used + k->n, 16u);
	s->nr_stubs++;
	return s->code.rx + slot->at;
}

/*
 * A floating-point fault of this thread. Ours when it struck behind a way-out
 * NOP in our cache; execution then goes on where that points.
 */
static bool stub_fault(struct host_fault *f, void *arg)
{
	struct cpu *c = arg;
	struct stub_cache *s = c->stubs;
	size_t at = f->pc - (uintptr_t)s->code.rx;
	uint32_t further;

	if (xlat_host_fault(c, f))
		return true;
	if (f->kind != HOST_FAULT_FPE || at >= s->used)
		return false;
	further = stub_way_out(s->code.rx, at);
	f->pc += further;
	return further;
}

int stub_create(struct cpu *c, int host_node)
{
	const struct host *h = &c->vm->host;
	struct stub_cache *s = h->ops->alloc(h->ctx, sizeof(*s), host_node);
	int err;

	if (!s)
		return -ENOMEM;
	err = h->ops->code_map(h->ctx, CODE_BYTES, host_node, &s->code);
	if (err)
		goto free_cache;
	c->stubs = s;
	err = h->ops->fault_handler(h->ctx, stub_fault, c);
	if (err)
		goto unmap;
	return 0;
unmap:
	c->stubs = NULL;
	h->ops->code_unmap(h->ctx, &s->code);
free_cache:
	h->ops->free(h->ctx, s, sizeof(*s));
	return err;
}

void stub_destroy(struct cpu *c)
{
	const struct host *h = &c->vm->host;
	struct stub_cache *s = c->stubs;

	if (!s)
		return;
	h->ops->fault_handler(h->ctx, NULL, NULL);
	h->ops->code_unmap(h->ctx, &s->code);
	h->ops->free(h->ctx, s, sizeof(*s));
	c->stubs = NULL;
}

/* --- from instruction to op ---------------------------------------------------------------- */

/* Legacy SSE wants 16-byte operands aligned, but for these. */
static bool sse_unaligned(ZydisMnemonic mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_LDDQU:
	case ZYDIS_MNEMONIC_MOVDQU:
	case ZYDIS_MNEMONIC_MOVUPD:
	case ZYDIS_MNEMONIC_MOVUPS:
	case ZYDIS_MNEMONIC_PCMPESTRI:
	case ZYDIS_MNEMONIC_PCMPESTRM:
	case ZYDIS_MNEMONIC_PCMPISTRI:
	case ZYDIS_MNEMONIC_PCMPISTRM:
		return true;
	default:
		return false;
	}
}

static unsigned recipe_align(const struct recipe *p)
{
	unsigned bytes = p->mem->size / 8;

	switch (p->insn->meta.exception_class) {
	case ZYDIS_EXCEPTION_CLASS_AVX1:
	case ZYDIS_EXCEPTION_CLASS_E1:
	case ZYDIS_EXCEPTION_CLASS_E1NF:
		return bytes;
	default:
		if (p->wide || bytes != 16 || sse_unaligned(p->insn->mnemonic))
			return 1;
		return 16;
	}
}

/* Control instructions: take no waiting exception, or leave no trace in the pointers. */
static uint64_t x87_traits(ZydisMnemonic mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_FLDCW:
	case ZYDIS_MNEMONIC_FLDENV:
	case ZYDIS_MNEMONIC_FRSTOR:
		return STUB_WAITS;
	case ZYDIS_MNEMONIC_FDISI8087_NOP:
	case ZYDIS_MNEMONIC_FENI8087_NOP:
	case ZYDIS_MNEMONIC_FNCLEX:
	case ZYDIS_MNEMONIC_FNINIT:
	case ZYDIS_MNEMONIC_FNSAVE:
	case ZYDIS_MNEMONIC_FNSTCW:
	case ZYDIS_MNEMONIC_FNSTENV:
	case ZYDIS_MNEMONIC_FNSTSW:
	case ZYDIS_MNEMONIC_FSETPM287_NOP:
		return 0;
	default:
		return STUB_WAITS | STUB_POINTERS;
	}
}

static enum stub_gate recipe_gate(const struct recipe *p)
{
	if (p->fx)
		return STUB_FX;
	if (p->insn->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX || p->nr_masks ||
	    p->insn->meta.isa_ext == ZYDIS_ISA_EXT_AVX512VEX)
		return STUB_AVX512;
	if (p->wide)
		return p->nr_vecs ? STUB_AVX : STUB_VEX;
	return p->nr_vecs ? STUB_SSE : STUB_FREE;
}

static uint64_t recipe_traits(const struct recipe *p)
{
	uint64_t t = 0;

	if (p->mem) {
		t |= recipe_align(p) - 1;
		t |= (uint64_t)stub_mask_traits(p->insn, p->operands, p->mem) << 32;
	}
	if (!p->fx)
		return t;
	t |= x87_traits(p->insn->mnemonic);
	if (p->insn->meta.isa_ext != ZYDIS_ISA_EXT_X87 && !p->has_x87)
		t |= STUB_MMX;
	if (p->nr_vecs)
		t |= STUB_USES_SSE;
	if (!(t & STUB_MMX)) {
		unsigned modrm = p->insn->raw.modrm.mod << 6 | p->insn->raw.modrm.reg << 3 |
				 p->insn->raw.modrm.rm;

		t |= (uint64_t)((p->insn->opcode & 7u) << 8 | modrm) << STUB_FOP_SHIFT;
	}
	return t;
}

bool stub_decode(struct cpu *c, const ZydisDecodedInstruction *insn,
		 const ZydisDecodedOperand *operands, const uint8_t *bytes, struct op *o)
{
	struct recipe p = { .insn = insn, .operands = operands, .bytes = bytes };
	struct stub_code k = { .n = 0 };
	enum stub_shape shape = STUB_REG;

	if (stub_find(insn, operands, o) || gather_find(insn, operands, o))
		return true;
	if (!recipe_make(&p, c))
		return false;
	stub_emit(&k, &p, c);
	o->stub = cache_find_or_add(c->stubs, &k);
	if (!o->stub)
		return false;
	if (p.mem) {
		shape = recipe_writes(p.mem) ? STUB_STORE : STUB_LOAD;
		o->size = (uint8_t)(p.mem->size / 8);
	}
	o->imm = recipe_traits(&p);
	o->fn = stub_handler(recipe_gate(&p), shape);
	return true;
}
