/*
 * xsave.c - XSAVE, XSAVEOPT and XRSTOR, in the standard form; SDM vol. 1, 13.7 to
 * 13.9. The compacted form (XSAVEC, XSAVES) is not offered.
 *
 * XSAVEOPT leaves out what is in its initial state. It has no memory of what was
 * last restored from where: that would save little here.
 *
 * Translated code calls for these, too. What it has in the host's registers XSAVE takes
 * from there and leaves there; XRSTOR puts all into the image, and whoever needs registers
 * next loads them from it.
 */
#include "cpu/mmu.h"
#include "cpu/stub_run.h"
#include "cpu/sys.h"
#include "cpu/xlat.h"
#include "cpu/xstate.h"

#define AREA_MIN   576 /* the FXSAVE image and the header */
#define X87_BYTES  24  /* of the image, before MXCSR */
#define MXCSR_AT   24
#define ST_AT      32
#define ST_BYTES   128
#define XCOMP_BV   8  /* in the header: it and the word behind must be zero */
#define CHECKED_TO 24 /* SDM vol. 2, XRSTOR */

/* What is copied as one piece; outside 64-bit mode there are fewer registers. */
static const struct component {
	uint8_t bit; /* in XCR0 */
	uint16_t at, bytes, bytes_32;
} components[] = {
	{ XCR0_SSE, offsetof(struct fx_image, xmm), 256, 128 },
	{ XCR0_AVX, XSAVE_YMM, 256, 128 },
	{ XCR0_OPMASK, XSAVE_OPMASK, 64, 64 },
	{ XCR0_ZMM_HI256, XSAVE_ZMM_HI256, 512, 256 },
	{ XCR0_HI16_ZMM, XSAVE_HI16_ZMM, 1024, 0 },
};

#define AREA_MAX (XSAVE_HI16_ZMM + 1024)

static unsigned visible(const struct cpu *c, const struct component *k)
{
	return c->mode == MODE_64 ? k->bytes : k->bytes_32;
}

/* How far an area that holds @which is accessed. */
static unsigned area_bytes(uint64_t which)
{
	unsigned bytes = AREA_MIN;

	for (unsigned i = 1; i < ARRAY_SIZE(components); i++)
		if (which & components[i].bit)
			bytes = components[i].at + components[i].bytes;
	return bytes;
}

/* --- what is in use ------------------------------------------------------------------ */

static bool any_set(const uint8_t *p, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i += 8)
		if (load_u64(p + i))
			return true;
	return false;
}

static bool x87_in_use(const struct fx_image *fx)
{
	return fx->cw != X87_CW_RESET || fx->sw || fx->tags || fx->opcode || fx->ip || fx->dp ||
	       any_set(fx->st[0], ST_BYTES);
}

uint64_t xstate_in_use(struct cpu *c)
{
	uint64_t maybe = *xstate_bv(&c->s) | XCR0_SSE;
	uint64_t in_use = x87_in_use(xstate_fx(&c->s)) ? XCR0_X87 : 0;

	for (unsigned i = 0; i < ARRAY_SIZE(components); i++) {
		const struct component *k = &components[i];

		if ((maybe & k->bit) && any_set(c->s.xsave + k->at, visible(c, k)))
			in_use |= k->bit;
	}
	return in_use;
}

/* --- operands -------------------------------------------------------------------------- */

static bool gate(struct cpu *c)
{
	if (likely((c->s.cr4 & CR4_OSXSAVE) && !(c->s.cr0 & CR0_TS)))
		return true;
	cpu_raise(c, c->s.cr4 & CR4_OSXSAVE ? EXC_NM : EXC_UD);
	return false;
}

static bool gp0(struct cpu *c)
{
	cpu_raise_error(c, EXC_GP, 0);
	return false;
}

/* Where the area is, of which @bytes are accessed. */
static bool operand(struct cpu *c, const struct op *o, unsigned bytes, bool write, uint64_t *gva)
{
	return sys_linear(c, o, bytes, write, gva) && (IS_ALIGNED(*gva, 64ull) || gp0(c));
}

/* RFBM: what is asked for and enabled. */
static uint64_t requested(const struct cpu *c)
{
	return c->s.xcr0 & (c->s.gpr[RDX] << 32 | (uint32_t)c->s.gpr[RAX]);
}

uint32_t xstate_guest_mxcsr_mask(struct cpu *c)
{
	struct fx_image *fx = xstate_fx(&c->s);

	if (unlikely(!fx->mxcsr_mask)) {
		xlat_outside(c);
		fx->mxcsr_mask = xstate_mxcsr_mask();
	}
	return fx->mxcsr_mask;
}

/* --- XSAVE -------------------------------------------------------------------------------- */

static bool put(struct cpu *c, uint64_t gva, const uint8_t *image, unsigned at, unsigned bytes)
{
	return stub_write(c, gva + at, image + at, bytes);
}

static bool put_x87(struct cpu *c, const struct op *o, uint64_t gva)
{
	const struct fx_image *fx = xstate_fx(&c->s);
	bool wide = o->flags & OP_REXW;
	uint64_t head[X87_BYTES / 8] = { load_u64(fx), wide ? fx->ip : (uint32_t)fx->ip,
					 wide ? fx->dp : (uint32_t)fx->dp };

	return put(c, gva, (const uint8_t *)head, 0, X87_BYTES) &&
	       put(c, gva, c->s.xsave, ST_AT, ST_BYTES);
}

static bool put_all(struct cpu *c, const struct op *o, uint64_t gva, uint64_t which)
{
	if ((which & XCR0_X87) && !put_x87(c, o, gva))
		return false;
	for (unsigned i = 0; i < ARRAY_SIZE(components); i++) {
		const struct component *k = &components[i];

		if ((which & k->bit) && !put(c, gva, c->s.xsave, k->at, visible(c, k)))
			return false;
	}
	return true;
}

/* Bits that were not asked for stay as memory has them. */
static bool put_header(struct cpu *c, uint64_t gva, uint64_t rfbm, uint64_t in_use)
{
	uint64_t bv;

	return mmu_read_u64(c, gva + XSAVE_HEADER, &bv) &&
	       mmu_write_u64(c, gva + XSAVE_HEADER, (bv & ~rfbm) | in_use);
}

/* MXCSR is part of SSE and of AVX, and of neither's initial state. */
static bool put_mxcsr(struct cpu *c, uint64_t gva, uint64_t rfbm)
{
	xstate_fx(&c->s)->mxcsr_mask = xstate_guest_mxcsr_mask(c);
	return !(rfbm & (XCR0_SSE | XCR0_AVX)) ||
	       mmu_write_u64(c, gva + MXCSR_AT, load_u64(c->s.xsave + MXCSR_AT));
}

static enum sys_result save(struct cpu *c, const struct op *o, bool optimise)
{
	uint64_t rfbm, in_use, which, gva;
	unsigned bytes;

	if (!gate(c))
		return SYS_FAULT;
	xlat_show_vectors(c);
	rfbm = requested(c);
	in_use = xstate_in_use(c) & rfbm;
	which = optimise ? in_use : rfbm;
	bytes = area_bytes(rfbm); /* checked, if not written */
	if (!operand(c, o, bytes, true, &gva) || !stub_writable(c, gva, bytes) ||
	    !put_all(c, o, gva, which) || !put_mxcsr(c, gva, rfbm) ||
	    !put_header(c, gva, rfbm, in_use))
		return SYS_FAULT;
	return SYS_NEXT;
}

enum sys_result sys_xsave(struct cpu *c, const struct op *o)
{
	return save(c, o, false);
}

enum sys_result sys_xsaveopt(struct cpu *c, const struct op *o)
{
	return save(c, o, true);
}

/* --- XRSTOR --------------------------------------------------------------------------------- */

/*
 * The area into @image, as far as it is wanted: *load is what comes from there, the
 * rest of @rfbm has been in its initial state when it was saved.
 */
static bool get_area(struct cpu *c, const struct op *o, uint64_t rfbm, uint8_t *image,
		     uint64_t *load)
{
	uint64_t gva, bv;

	if (!operand(c, o, AREA_MIN, false, &gva) || !stub_read(c, gva, image, AREA_MIN))
		return false;
	bv = load_u64(image + XSAVE_HEADER);
	if ((bv & ~c->s.xcr0) || any_set(image + XSAVE_HEADER + XCOMP_BV, CHECKED_TO - XCOMP_BV))
		return gp0(c);
	if ((rfbm & (XCR0_SSE | XCR0_AVX)) &&
	    (load_u32(image + MXCSR_AT) & ~xstate_guest_mxcsr_mask(c)))
		return gp0(c);
	*load = rfbm & bv;
	if (!sys_linear(c, o, area_bytes(*load), false, &gva))
		return false;
	for (unsigned i = 1; i < ARRAY_SIZE(components); i++) {
		const struct component *k = &components[i];

		if ((*load & k->bit) && !stub_read(c, gva + k->at, image + k->at, visible(c, k)))
			return false;
	}
	return true;
}

static void copy_words(uint8_t *to, const uint8_t *from, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i += 8)
		store_u64(to + i, load_u64(from + i));
}

static void clear_words(uint8_t *to, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i += 8)
		store_u64(to + i, 0);
}

/* Would the processor load it and store it again as it is? Without looking too closely. */
static bool x87_is_plain(const struct fx_image *fx)
{
	bool pending = x87_pending(fx);
	uint16_t summary = pending ? X87_ES | X87_BUSY : 0;

	if ((fx->cw & ~X87_CW_WRITABLE) != X87_CW_ONES || (fx->sw & (X87_ES | X87_BUSY)) != summary)
		return false;
	if (fx->reserved || fx->opcode || fx->ip || fx->dp)
		return false;
	for (unsigned i = 0; i < 8; i++)
		if (load_u64(fx->st[i] + 8) >> 16)
			return false;
	return true;
}

static void take_x87(struct cpu *c, const struct op *o, const uint8_t *image, bool load)
{
	struct fx_image *fx = xstate_fx(&c->s);

	if (!load) {
		clear_words(c->s.xsave, X87_BYTES);
		clear_words(fx->st[0], ST_BYTES);
		fx->cw = X87_CW_RESET;
		return;
	}
	copy_words(c->s.xsave, image, X87_BYTES);
	copy_words(fx->st[0], image + ST_AT, ST_BYTES);
	if (!(o->flags & OP_REXW))
		xstate_narrow_pointers(fx);
	if (unlikely(!x87_is_plain(fx))) {
		xlat_outside(c);
		xstate_reload(fx);
	}
}

static void take(struct cpu *c, const struct component *k, const uint8_t *image, bool load)
{
	uint8_t *bv = xstate_bv(&c->s);

	if (load) {
		copy_words(c->s.xsave + k->at, image + k->at, visible(c, k));
		*bv |= k->bit;
		return;
	}
	if (k->bit != XCR0_SSE && !(*bv & k->bit)) /* it is in its initial state */
		return;
	clear_words(c->s.xsave + k->at, visible(c, k));
	if (visible(c, k) == k->bytes)
		*bv &= (uint8_t)~k->bit;
}

enum sys_result sys_xrstor(struct cpu *c, const struct op *o)
{
	uint8_t image[AREA_MAX] __attribute__((aligned(64)));
	uint64_t rfbm, load;

	if (!gate(c))
		return SYS_FAULT;
	rfbm = requested(c);
	if (!get_area(c, o, rfbm, image, &load))
		return SYS_FAULT;
	xlat_take_vectors(c, rfbm);
	if (rfbm & (XCR0_SSE | XCR0_AVX))
		xstate_fx(&c->s)->mxcsr = load_u32(image + MXCSR_AT);
	for (unsigned i = 0; i < ARRAY_SIZE(components); i++)
		if (rfbm & components[i].bit)
			take(c, &components[i], image, load & components[i].bit);
	if (rfbm & XCR0_X87)
		take_x87(c, o, image, load & XCR0_X87);
	return SYS_NEXT;
}
