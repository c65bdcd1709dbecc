/*
 * xstate.c - instructions on the x87 and SSE state as a whole, and those whose
 * memory accesses no stub can make: FXSAVE, LDMXCSR, FWAIT, MASKMOVDQU, ...
 */
#include "cpu/xstate.h"

#include "cpu/interp.h"
#include "cpu/stub_run.h"

#define FXSAVE_BYTES  512
#define FXSAVE_LEGACY 160 /* where the XMM registers begin */

/* A mask of 0 stands for this one: SDM vol. 1, 11.6.6. */
#define MXCSR_MASK_DEFAULT 0xffbfu

/* --- the image -------------------------------------------------------------------- */

/* The processor's own idea of the image: derived status bits, mask, empty fields. */
void xstate_reload(struct fx_image *fx)
{
	const uint32_t host_mxcsr = MXCSR_RESET;

	__asm__ volatile("fxrstor64 %0; fxsave64 %0; fninit; ldmxcsr %1"
			 : "+m"(*fx)
			 : "m"(host_mxcsr)
			 : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
			   "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
}

uint32_t xstate_mxcsr_mask(void)
{
	struct fx_image fx
		__attribute__((aligned(64))) = { .cw = X87_CW_RESET, .mxcsr = MXCSR_RESET };

	xstate_reload(&fx);
	return fx.mxcsr_mask ? fx.mxcsr_mask : MXCSR_MASK_DEFAULT;
}

void xstate_sanitize(struct cpu_state *s)
{
	struct fx_image *fx = xstate_fx(s);

	fx->mxcsr &= xstate_mxcsr_mask();
	xstate_reload(fx);
	memset(xstate_bv(s), 0, 64);
	*xstate_bv(s) = XSTATE_WIDE;
}

void xstate_get_vector(const struct cpu_state *s, unsigned n, uint8_t v[64])
{
	if (n >= 16) {
		memcpy(v, s->xsave + XSAVE_HI16_ZMM + (n - 16) * 64, 64);
		return;
	}
	memcpy(v, s->xsave + offsetof(struct fx_image, xmm) + n * 16, 16);
	memcpy(v + 16, s->xsave + XSAVE_YMM + n * 16, 16);
	memcpy(v + 32, s->xsave + XSAVE_ZMM_HI256 + n * 32, 32);
}

void xstate_set_vector(struct cpu_state *s, unsigned n, const uint8_t v[64])
{
	if (n >= 16) {
		memcpy(s->xsave + XSAVE_HI16_ZMM + (n - 16) * 64, v, 64);
		return;
	}
	memcpy(s->xsave + offsetof(struct fx_image, xmm) + n * 16, v, 16);
	memcpy(s->xsave + XSAVE_YMM + n * 16, v + 16, 16);
	memcpy(s->xsave + XSAVE_ZMM_HI256 + n * 32, v + 32, 32);
}

/* --- FXSAVE, FXRSTOR ---------------------------------------------------------------- */

/* SDM vol. 2, FXSAVE: not gated by CR4.OSFXSR, #NM whatever forbids it. */
static bool gate_fxsave(struct cpu *c, const struct op *o)
{
	if (likely(!(c->s.cr0 & (CR0_EM | CR0_TS))))
		return true;
	op_raise(c, o, EXC_NM);
	return false;
}

static bool fxsave_operand(struct cpu *c, const struct op *o, unsigned bytes, unsigned align,
			   enum mmu_access access, uint64_t *gva)
{
	if (!op_linear(c, o, bytes, access, gva))
		return false;
	if (IS_ALIGNED(*gva, (uint64_t)align))
		return true;
	cpu_raise_error(c, EXC_GP, 0);
	return false;
}

/* How much of the image the mode shows: eight XMM registers or sixteen. */
static unsigned fxsave_bytes(const struct cpu *c)
{
	return FXSAVE_LEGACY + (c->mode == MODE_64 ? 16 : 8) * 16;
}

static void op_fxsave(struct cpu *c, const struct op *o)
{
	struct fx_image fx;
	uint64_t gva;

	if (!gate_fxsave(c, o))
		return;
	if (!fxsave_operand(c, o, FXSAVE_BYTES, 16, MMU_WRITE, &gva) ||
	    !stub_writable(c, gva, FXSAVE_BYTES))
		return op_fault(c, o);
	fx = *xstate_fx(&c->s);
	fx.mxcsr_mask = xstate_guest_mxcsr_mask(c);
	if (!(o->flags & OP_REXW))
		xstate_narrow_pointers(&fx);
	if (!stub_write(c, gva, &fx, fxsave_bytes(c)))
		return op_fault(c, o);
	return op_stored(c, o);
}

static void op_fxrstor(struct cpu *c, const struct op *o)
{
	struct fx_image fx;
	uint32_t mask;
	uint64_t gva;

	if (!gate_fxsave(c, o))
		return;
	mask = xstate_guest_mxcsr_mask(c);
	if (!fxsave_operand(c, o, FXSAVE_BYTES, 16, MMU_READ, &gva) ||
	    !stub_read(c, gva, &fx, FXSAVE_BYTES))
		return op_fault(c, o);
	if (fx.mxcsr & ~mask)
		return op_raise(c, o, EXC_GP);
	if (!(o->flags & OP_REXW))
		xstate_narrow_pointers(&fx);
	memcpy(xstate_fx(&c->s), &fx, fxsave_bytes(c));
	xstate_reload(xstate_fx(&c->s));
	OP_NEXT(c, o);
}

/* --- MXCSR ---------------------------------------------------------------------------- */

static bool load_mxcsr(struct cpu *c, const struct op *o)
{
	uint32_t v;

	if (!op_read32(c, o, &v))
		return false;
	if (v & ~xstate_guest_mxcsr_mask(c)) {
		cpu_raise_error(c, EXC_GP, 0);
		return false;
	}
	xstate_fx(&c->s)->mxcsr = v;
	return true;
}

static void op_ldmxcsr(struct cpu *c, const struct op *o)
{
	if (!stub_gate_sse(c, o))
		return;
	if (!load_mxcsr(c, o))
		return op_fault(c, o);
	OP_NEXT(c, o);
}

static void op_vldmxcsr(struct cpu *c, const struct op *o)
{
	if (!stub_gate_avx(c, o))
		return;
	if (!load_mxcsr(c, o))
		return op_fault(c, o);
	OP_NEXT(c, o);
}

static void op_stmxcsr(struct cpu *c, const struct op *o)
{
	if (!stub_gate_sse(c, o))
		return;
	if (!op_write32(c, o, xstate_fx(&c->s)->mxcsr))
		return op_fault(c, o);
	return op_stored(c, o);
}

static void op_vstmxcsr(struct cpu *c, const struct op *o)
{
	if (!stub_gate_avx(c, o))
		return;
	if (!op_write32(c, o, xstate_fx(&c->s)->mxcsr))
		return op_fault(c, o);
	return op_stored(c, o);
}

/* --- x87 and MMX ------------------------------------------------------------------------ */

static void op_fwait(struct cpu *c, const struct op *o)
{
	if (unlikely((c->s.cr0 & CR0_MP) && (c->s.cr0 & CR0_TS)))
		return op_raise(c, o, EXC_NM);
	if (unlikely(x87_pending(xstate_fx(&c->s))))
		return op_raise(c, o, EXC_MF);
	OP_NEXT(c, o);
}

/* --- masked byte stores --------------------------------------------------------------------- */

/*
 * The bytes of @data whose byte of @mask has its top bit set, at DS:rDI. Whether
 * bytes not selected can fault is up to the processor; as on Intel's they can.
 */
static bool masked_store(struct cpu *c, const struct op *o, const uint8_t *data,
			 const uint8_t *mask, unsigned bytes)
{
	uint64_t gva;

	if (!op_linear(c, o, bytes, MMU_WRITE, &gva) || !stub_writable(c, gva, bytes))
		return false;
	for (unsigned i = 0; i < bytes; i++)
		if ((mask[i] & 0x80) && !mmu_write_u8(c, gva + i, data[i]))
			return false;
	return true;
}

static void maskmovdqu(struct cpu *c, const struct op *o)
{
	const struct fx_image *fx = xstate_fx(&c->s);

	if (!masked_store(c, o, fx->xmm[o->reg], fx->xmm[o->rm], 16))
		return op_fault(c, o);
	return op_stored(c, o);
}

static void op_maskmovdqu(struct cpu *c, const struct op *o)
{
	if (stub_gate_sse(c, o))
		maskmovdqu(c, o);
}

static void op_vmaskmovdqu(struct cpu *c, const struct op *o)
{
	if (stub_gate_avx(c, o))
		maskmovdqu(c, o);
}

static void op_maskmovq(struct cpu *c, const struct op *o)
{
	struct fx_image *fx = xstate_fx(&c->s);
	unsigned top = fx->sw >> 11 & 7;
	uint8_t data[8], mask[8];

	if (unlikely(c->s.cr0 & (CR0_EM | CR0_TS)))
		return op_raise(c, o, c->s.cr0 & CR0_EM ? EXC_UD : EXC_NM);
	if (x87_pending(fx))
		return op_raise(c, o, EXC_MF);
	/* st[] is in stack order, MMX registers are physical ones. */
	memcpy(data, fx->st[(o->reg - top) & 7], 8);
	memcpy(mask, fx->st[(o->rm - top) & 7], 8);
	if (!masked_store(c, o, data, mask, 8))
		return op_fault(c, o);
	xstate_enter_mmx(fx);
	return op_stored(c, o);
}

/* --- AVX ------------------------------------------------------------------------------------- */

/* Outside 64-bit mode there are eight registers. */
static unsigned nr_registers(const struct cpu *c)
{
	return c->mode == MODE_64 ? 16 : 8;
}

static void op_vzeroupper(struct cpu *c, const struct op *o)
{
	if (!stub_gate_avx(c, o))
		return;
	memset(c->s.xsave + XSAVE_YMM, 0, nr_registers(c) * 16);
	memset(c->s.xsave + XSAVE_ZMM_HI256, 0, nr_registers(c) * 32);
	if (c->mode == MODE_64)
		*xstate_bv(&c->s) &= (uint8_t) ~(XCR0_AVX | XCR0_ZMM_HI256);
	OP_NEXT(c, o);
}

static void op_vzeroall(struct cpu *c, const struct op *o)
{
	if (!stub_gate_avx(c, o))
		return;
	memset(xstate_fx(&c->s)->xmm, 0, nr_registers(c) * 16);
	return op_vzeroupper(c, o);
}

/* --- which is whose ----------------------------------------------------------------------------
 */

static op_fn *handler(ZydisMnemonic mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_FWAIT:
		return op_fwait;
	case ZYDIS_MNEMONIC_FXRSTOR:
	case ZYDIS_MNEMONIC_FXRSTOR64:
		return op_fxrstor;
	case ZYDIS_MNEMONIC_FXSAVE:
	case ZYDIS_MNEMONIC_FXSAVE64:
		return op_fxsave;
	case ZYDIS_MNEMONIC_LDMXCSR:
		return op_ldmxcsr;
	case ZYDIS_MNEMONIC_MASKMOVDQU:
		return op_maskmovdqu;
	case ZYDIS_MNEMONIC_MASKMOVQ:
		return op_maskmovq;
	case ZYDIS_MNEMONIC_STMXCSR:
		return op_stmxcsr;
	case ZYDIS_MNEMONIC_VLDMXCSR:
		return op_vldmxcsr;
	case ZYDIS_MNEMONIC_VMASKMOVDQU:
		return op_vmaskmovdqu;
	case ZYDIS_MNEMONIC_VSTMXCSR:
		return op_vstmxcsr;
	case ZYDIS_MNEMONIC_VZEROALL:
		return op_vzeroall;
	case ZYDIS_MNEMONIC_VZEROUPPER:
		return op_vzeroupper;
	default:
		return NULL;
	}
}

/* The hidden operand of masked stores, which the decoder knows nothing of. */
static void address_by_rdi(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *mem,
			   struct op *o)
{
	o->flags &= (uint16_t) ~(OP_PLAIN | OP_RIPREL | OP_DISP64 | OP_ADDR32 | OP_ADDR16);
	if (insn->address_width == 32)
		o->flags |= OP_ADDR32;
	else if (insn->address_width == 16)
		o->flags |= OP_ADDR16;
	o->base = RDI;
	o->index = OP_NO_REG;
	o->disp = 0;
	o->seg = (uint8_t)(mem->mem.segment - ZYDIS_REGISTER_ES);
}

bool stub_find(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands,
	       struct op *o)
{
	op_fn *fn = handler(insn->mnemonic);

	if (!fn)
		return false;
	o->fn = fn;
	for (unsigned i = 0; i < insn->operand_count; i++) {
		const ZydisDecodedOperand *op = &operands[i];

		if (op->type == ZYDIS_OPERAND_TYPE_MEMORY &&
		    op->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN)
			address_by_rdi(insn, op, o);
		else if (op->type == ZYDIS_OPERAND_TYPE_REGISTER &&
			 op->encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG)
			o->reg = (uint8_t)ZydisRegisterGetId(op->reg.value);
		else if (op->type == ZYDIS_OPERAND_TYPE_REGISTER &&
			 op->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM)
			o->rm = (uint8_t)ZydisRegisterGetId(op->reg.value);
	}
	return true;
}
