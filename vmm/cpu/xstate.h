/*
 * xstate.h - the x87, SSE, AVX and AVX-512 state as it lies in cpu_state.xsave,
 * and the instructions that move it as a whole (xstate.c).
 *
 * The layout is the standard form of the XSAVE area (SDM vol. 1, 13.4) with
 * Intel's offsets, which CPUID leaf 0xD tells the guest. Every component is
 * valid at all times, whatever XSTATE_BV in the header says. There, a clear bit
 * promises that a component of AVX or AVX-512 is in its initial state, all zeros;
 * a set one promises nothing. The bits of x87 and SSE mean nothing to us.
 */
#ifndef VMM_CPU_XSTATE_H
#define VMM_CPU_XSTATE_H

#include "cpu/cpu.h"
#include "cpu/mmu.h"
#include "cpu/op.h"

#define XCR0_X87       BIT(0)
#define XCR0_SSE       BIT(1)
#define XCR0_AVX       BIT(2)
#define XCR0_OPMASK    BIT(5)
#define XCR0_ZMM_HI256 BIT(6)
#define XCR0_HI16_ZMM  BIT(7)
#define XCR0_AVX512    (XCR0_OPMASK | XCR0_ZMM_HI256 | XCR0_HI16_ZMM)

#define XSAVE_HEADER    512
#define XSAVE_YMM       576  /* upper halves of YMM0-15 */
#define XSAVE_OPMASK    1088 /* K0-7 */
#define XSAVE_ZMM_HI256 1152 /* upper halves of ZMM0-15 */
#define XSAVE_HI16_ZMM  1664 /* ZMM16-31 */

#define XSTATE_WIDE (XCR0_AVX | XCR0_AVX512) /* what XSTATE_BV keeps account of */

#define MXCSR_RESET     0x1f80u
#define MXCSR_FLAGS     0x003fu
#define MXCSR_MASKS     0x1f80u
#define X87_CW_RESET    0x037fu /* by FNINIT */
#define X87_FLAGS       0x003fu /* exceptions in the status word, masks in the control word */
#define X87_ES          0x0080u /* of the status word: an exception waits; */
#define X87_BUSY        0x8000u /* the same */
#define X87_TOP         0x3800u
/* Of the control word: masks, precision and rounding; and what reads as one. */
#define X87_CW_WRITABLE 0x0f3fu
#define X87_CW_ONES     0x0040u

/* The FXSAVE64 image: SDM vol. 1, table 10-2 with REX.W. */
struct fx_image {
	uint16_t cw, sw;
	uint8_t tags; /* a bit a register: not empty */
	uint8_t reserved;
	uint16_t opcode;
	uint64_t ip, dp;
	uint32_t mxcsr, mxcsr_mask;
	uint8_t st[8][16]; /* from the top of the stack; MMn is st[n] when the top is 0 */
	uint8_t xmm[16][16];
	uint8_t unused[96];
};

static inline struct fx_image *xstate_fx(struct cpu_state *s)
{
	return (struct fx_image *)(void *)s->xsave;
}

/* All 64 bytes of a vector register, which lie in up to three places. */
void xstate_get_vector(const struct cpu_state *s, unsigned n, uint8_t v[64]);
void xstate_set_vector(struct cpu_state *s, unsigned n, const uint8_t v[64]);

/* An unmasked x87 exception waits for the next x87 instruction that looks. */
static inline bool x87_pending(const struct fx_image *fx)
{
	return fx->sw & ~fx->cw & X87_FLAGS;
}

/* What every MMX instruction but EMMS does besides. SDM vol. 1, 9.5.1. */
static inline void xstate_enter_mmx(struct fx_image *fx)
{
	unsigned top = fx->sw >> 11 & 7;
	uint8_t st[8][16];

	/* Registers stay where they are while the stack, in whose order they lie, turns. */
	for (unsigned i = 0; i < 8; i++)
		memcpy(st[(i + top) & 7], fx->st[i], 16);
	memcpy(fx->st, st, sizeof(st));
	fx->sw &= (uint16_t)~X87_TOP;
	fx->tags = 0xff;
}

/* XSTATE_BV: all that we know of is in its first byte. */
static inline uint8_t *xstate_bv(struct cpu_state *s)
{
	return &s->xsave[XSAVE_HEADER];
}

/* XINUSE of SDM vol. 1, 13.6: which components are not in their initial state. */
uint64_t xstate_in_use(struct cpu *c);

/* The bits of MXCSR that exist; others fault when loaded. */
uint32_t xstate_mxcsr_mask(void);

/* The header for others: every component is there. */
static inline void xstate_complete(struct cpu_state *s)
{
	memset(xstate_bv(s), 0, 64);
	*xstate_bv(s) = XCR0_X87 | XCR0_SSE | XSTATE_WIDE;
}

/* Makes a state that came from outside one that the host's processor takes. */
void xstate_sanitize(struct cpu_state *s);

/* Between xstate.c and xsave.c, which has XSAVE and XRSTOR. */
uint32_t xstate_guest_mxcsr_mask(struct cpu *c);
/* The processor's own idea of the image. Clobbers vector registers. */
void xstate_reload(struct fx_image *fx);

/*
 * Without REX.W pointers are 32 bits wide and selectors lie above them. Ours are
 * always 0, as of every processor that no longer keeps them.
 */
static inline void xstate_narrow_pointers(struct fx_image *fx)
{
	fx->ip = (uint32_t)fx->ip;
	fx->dp = (uint32_t)fx->dp;
}

#endif
