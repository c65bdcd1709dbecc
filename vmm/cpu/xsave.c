/*
 * xsave.c - XSAVE, XSAVEOPT, XSAVEC and XRSTOR. SDM vol. 1, chapter 13.
 *
 * Our image always holds every component; which of them are in use is found by
 * looking whether they differ from their initial configuration.
 */
#include "cpu/interp.h"
#include "cpu/stub_run.h"
#include "cpu/xstate.h"

#define LEGACY_BYTES 512
#define HEADER_BYTES 64
#define XCOMP_BV     8 /* in the header */
#define COMPACTED    BIT64(63)
#define SSE_BYTES    256
#define MXCSR_AT     24
#define AREA_BYTES   (LEGACY_BYTES + HEADER_BYTES)

enum save_form { SAVE_ALL, SAVE_USED, SAVE_COMPACTED };

/* Components beyond the legacy region, in the order of their bits. */
static const struct component {
	uint64_t bit;
	uint32_t at, bytes; /* in our image and in the standard form */
} components[] = {
	{ XCR0_AVX, XSAVE_YMM, 256 },
	{ XCR0_OPMASK, XSAVE_OPMASK, 64 },
	{ XCR0_ZMM_HI256, XSAVE_ZMM_HI256, 512 },
	{ XCR0_HI16_ZMM, XSAVE_HI16_ZMM, 1024 },
};

/* --- what is in use ----------------------------------------------------------------- */

static bool all_zero(const uint8_t *p, size_t bytes)
{
	for (size_t i = 0; i < bytes; i += 8)
		if (load_u64(p + i))
			return false;
	return true;
}

static bool x87_initial(const struct fx_image *fx)
{
	return fx->cw == X87_CW_RESET && !fx->sw && !fx->tags && !fx->opcode && !fx->ip &&
	       !fx->dp && all_zero(fx->st[0], sizeof(fx->st));
}

static uint64_t in_use(const struct cpu_state *s)
{
	const struct fx_image *fx = (const void *)s->xsave;
	uint64_t bv = 0;

	if (!x87_initial(fx))
		bv |= XCR0_X87;
	if (!all_zero(fx->xmm[0], sizeof(fx->xmm)))
		bv |= XCR0_SSE;
	for (unsigned i = 0; i < ARRAY_SIZE(components); i++)
		if (!all_zero(s->xsave + components[i].at, components[i].bytes))
			bv |= components[i].bit;
	return bv;
}

/* --- the area in memory ------------------------------------------------------------------ */

/* Which components the instruction is about: EDX:EAX, as far as XCR0 goes. */
static uint64_t requested(const struct cpu *c)
{
	return (c->s.gpr[RDX] << 32 | (uint32_t)c->s.gpr[RAX]) & c->s.xcr0;
}

/* Where a component lies in the compacted form @xcomp_bv describes: one behind the other. */
static uint32_t compacted_at(uint64_t xcomp_bv, const struct component *k)
{
	uint32_t at = AREA_BYTES;

	for (const struct component *i = components; i < k; i++)
		if (xcomp_bv & i->bit)
			at += i->bytes;
	/* That of ZMM16-31 is aligned; what lies before it is a multiple of 64 anyway. */
	return at;
}

static bool gate(struct cpu *c, const struct op *o)
{
	if (!(c->s.cr4 & CR4_OSXSAVE)) {
		op_raise(c, o, EXC_UD);
		return false;
	}
	if (c->s.cr0 & CR0_TS) {
		op_raise(c, o, EXC_NM);
		return false;
	}
	return true;
}

static bool area_linear(struct cpu *c, const struct op *o, enum mmu_access access, uint64_t *gva)
{
	if (!op_linear(c, o, AREA_BYTES, access, gva))
		return false;
	if (IS_ALIGNED(*gva, 64ull))
		return true;
	cpu_raise_error(c, EXC_GP, 0);
	return false;
}

/* XMM8-15, and all that goes with them, exist in 64-bit mode only. */
static unsigned sse_bytes(const struct cpu *c)
{
	return c->mode == MODE_64 ? SSE_BYTES : SSE_BYTES / 2;
}

/* The same of the other components. */
static uint32_t component_bytes(const struct cpu *c, const struct component *k)
{
	if (c->mode == MODE_64 || k->bit == XCR0_OPMASK)
		return k->bytes;
	return k->bit == XCR0_HI16_ZMM ? 0 : k->bytes / 2;
}

/* --- saving ------------------------------------------------------------------------------- */

static bool save_x87(struct cpu *c, const struct op *o, uint64_t area)
{
	struct fx_image fx = *xstate_fx(&c->s);

	if (!(o->flags & OP_REXW))
		xstate_narrow_pointers(&fx);
	return stub_write(c, area, &fx, MXCSR_AT) &&
	       stub_write(c, area + offsetof(struct fx_image, st), fx.st, sizeof(fx.st));
}

static bool save_mxcsr(struct cpu *c, uint64_t area)
{
	uint32_t v[2] = { xstate_fx(&c->s)->mxcsr, xstate_mxcsr_bits(c) };

	return stub_write(c, area + MXCSR_AT, v, sizeof(v));
}

static bool save_components(struct cpu *c, uint64_t area, uint64_t bv, uint64_t xcomp_bv)
{
	for (unsigned i = 0; i < ARRAY_SIZE(components); i++) {
		const struct component *k = &components[i];
		uint32_t at = xcomp_bv ? compacted_at(xcomp_bv, k) : k->at;

		if ((bv & k->bit) &&
		    !stub_write(c, area + at, c->s.xsave + k->at, component_bytes(c, k)))
			return false;
	}
	return true;
}

/* How far the area reaches that may be written: faults must come before stores. */
static uint32_t area_end(uint64_t rfbm, uint64_t xcomp_bv)
{
	uint32_t end = AREA_BYTES;

	for (unsigned i = 0; i < ARRAY_SIZE(components); i++) {
		const struct component *k = &components[i];

		if (rfbm & k->bit)
			end = (xcomp_bv ? compacted_at(xcomp_bv, k) : k->at) + k->bytes;
	}
	return end;
}

static bool save_header(struct cpu *c, uint64_t area, uint64_t bv, uint64_t rfbm, uint64_t xcomp_bv)
{
	uint64_t header[2] = { bv, xcomp_bv };

	if (xcomp_bv)
		return stub_write(c, area + XSAVE_HEADER, header, sizeof(header));
	if (!mmu_read_u64(c, area + XSAVE_HEADER, &header[0]))
		return false;
	return mmu_write_u64(c, area + XSAVE_HEADER, (header[0] & ~rfbm) | bv);
}

static bool save(struct cpu *c, const struct op *o, enum save_form form)
{
	uint64_t rfbm = requested(c), used = in_use(&c->s), area, saved, xcomp_bv = 0;

	if (form == SAVE_COMPACTED) {
		xcomp_bv = rfbm | COMPACTED;
		if (xstate_fx(&c->s)->mxcsr != MXCSR_RESET)
			used |= XCR0_SSE;
	}
	if (!area_linear(c, o, MMU_WRITE, &area) ||
	    !stub_writable(c, area, area_end(rfbm, xcomp_bv)))
		return false;
	saved = form == SAVE_ALL ? rfbm : rfbm & used;
	if ((saved & XCR0_X87) && !save_x87(c, o, area))
		return false;
	if ((saved & XCR0_SSE) && !stub_write(c, area + offsetof(struct fx_image, xmm),
					      xstate_fx(&c->s)->xmm, sse_bytes(c)))
		return false;
	if (((form == SAVE_COMPACTED ? saved : rfbm) &
	     (form == SAVE_COMPACTED ? XCR0_SSE : XCR0_SSE | XCR0_AVX)) &&
	    !save_mxcsr(c, area))
		return false;
	return save_components(c, area, saved, xcomp_bv) &&
	       save_header(c, area, rfbm & used, rfbm, xcomp_bv);
}

static void op_save(struct cpu *c, const struct op *o, enum save_form form)
{
	if (!gate(c, o))
		return;
	if (!save(c, o, form))
		return op_fault(c, o);
	return op_stored(c, o);
}

static void op_xsave(struct cpu *c, const struct op *o)
{
	return op_save(c, o, SAVE_ALL);
}

static void op_xsaveopt(struct cpu *c, const struct op *o)
{
	return op_save(c, o, SAVE_USED);
}

static void op_xsavec(struct cpu *c, const struct op *o)
{
	return op_save(c, o, SAVE_COMPACTED);
}

/* --- restoring ------------------------------------------------------------------------------ */

/* SDM vol. 1, 13.8.1: what makes XRSTOR fault. */
static bool header_valid(const struct cpu *c, const uint8_t *header)
{
	uint64_t bv = load_u64(header), xcomp_bv = load_u64(header + XCOMP_BV);
	unsigned reserved = 16;

	if (bv & ~c->s.xcr0)
		return false;
	if (!(xcomp_bv & COMPACTED)) {
		if (xcomp_bv || load_u64(header + 16))
			return false;
		return true;
	}
	if ((xcomp_bv & ~COMPACTED & ~c->s.xcr0) || (bv & ~xcomp_bv))
		return false;
	return all_zero(header + reserved, HEADER_BYTES - reserved);
}

static void initialise(struct cpu *c, uint64_t rfbm)
{
	struct fx_image *fx = xstate_fx(&c->s);

	if (rfbm & XCR0_X87) {
		memset(fx, 0, MXCSR_AT);
		memset(fx->st, 0, sizeof(fx->st));
		fx->cw = X87_CW_RESET;
	}
	if (rfbm & XCR0_SSE)
		memset(fx->xmm, 0, sse_bytes(c));
	for (unsigned i = 0; i < ARRAY_SIZE(components); i++)
		if (rfbm & components[i].bit)
			memset(c->s.xsave + components[i].at, 0,
			       component_bytes(c, &components[i]));
}

struct restoring {
	uint8_t area[AREA_BYTES];
	uint8_t rest[XSAVE_BYTES]; /* components, where they lie in our image */
};

/* Reads all there is to restore, so that a fault leaves everything as it was. */
static bool fetch(struct cpu *c, const struct op *o, uint64_t rfbm, struct restoring *r)
{
	uint64_t area, bv, xcomp_bv;

	if (!area_linear(c, o, MMU_READ, &area) || !stub_read(c, area, r->area, AREA_BYTES))
		return false;
	if (!header_valid(c, r->area + XSAVE_HEADER)) {
		cpu_raise_error(c, EXC_GP, 0);
		return false;
	}
	bv = load_u64(r->area + XSAVE_HEADER) & rfbm;
	xcomp_bv = load_u64(r->area + XSAVE_HEADER + XCOMP_BV);
	for (unsigned i = 0; i < ARRAY_SIZE(components); i++) {
		const struct component *k = &components[i];
		uint32_t at = xcomp_bv ? compacted_at(xcomp_bv, k) : k->at;

		if ((bv & k->bit) &&
		    !stub_read(c, area + at, r->rest + k->at, component_bytes(c, k)))
			return false;
	}
	return true;
}

/* What MXCSR becomes: it belongs to SSE and AVX in the standard form, to SSE in the other. */
static uint32_t next_mxcsr(const struct cpu *c, const struct fx_image *image, uint64_t bv,
			   uint64_t rfbm, bool compacted)
{
	const struct fx_image *fx = (const void *)c->s.xsave;

	if (!compacted)
		return rfbm & (XCR0_SSE | XCR0_AVX) ? image->mxcsr : fx->mxcsr;
	if (!(rfbm & XCR0_SSE))
		return fx->mxcsr;
	return bv & XCR0_SSE ? image->mxcsr : MXCSR_RESET;
}

static void restore(struct cpu *c, const struct op *o, const struct restoring *r, uint64_t bv)
{
	struct fx_image *fx = xstate_fx(&c->s), image;

	memcpy(&image, r->area, sizeof(image));
	if (!(o->flags & OP_REXW))
		xstate_narrow_pointers(&image);
	if (bv & XCR0_X87) {
		memcpy(fx, &image, MXCSR_AT);
		memcpy(fx->st, image.st, sizeof(fx->st));
	}
	if (bv & XCR0_SSE)
		memcpy(fx->xmm, image.xmm, sse_bytes(c));
	for (unsigned i = 0; i < ARRAY_SIZE(components); i++)
		if (bv & components[i].bit)
			memcpy(c->s.xsave + components[i].at, r->rest + components[i].at,
			       component_bytes(c, &components[i]));
}

static void op_xrstor(struct cpu *c, const struct op *o)
{
	uint64_t rfbm = requested(c), bv;
	struct restoring r;
	uint32_t mxcsr;
	bool compacted;

	if (!gate(c, o))
		return;
	if (!fetch(c, o, rfbm, &r))
		return op_fault(c, o);
	bv = load_u64(r.area + XSAVE_HEADER) & rfbm;
	compacted = load_u64(r.area + XSAVE_HEADER + XCOMP_BV) & COMPACTED;
	mxcsr = next_mxcsr(c, (const void *)r.area, bv, rfbm, compacted);
	if (mxcsr & ~xstate_mxcsr_bits(c))
		return op_raise(c, o, EXC_GP);
	initialise(c, rfbm & ~bv);
	restore(c, o, &r, bv);
	xstate_fx(&c->s)->mxcsr = mxcsr;
	xstate_reload(xstate_fx(&c->s));
	OP_NEXT(c, o);
}

op_fn *xsave_find(ZydisMnemonic mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_XRSTOR:
	case ZYDIS_MNEMONIC_XRSTOR64:
		return op_xrstor;
	case ZYDIS_MNEMONIC_XSAVE:
	case ZYDIS_MNEMONIC_XSAVE64:
		return op_xsave;
	case ZYDIS_MNEMONIC_XSAVEC:
	case ZYDIS_MNEMONIC_XSAVEC64:
		return op_xsavec;
	case ZYDIS_MNEMONIC_XSAVEOPT:
	case ZYDIS_MNEMONIC_XSAVEOPT64:
		return op_xsaveopt;
	default:
		return NULL;
	}
}
