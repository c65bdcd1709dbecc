/*
 * vector.c - vector instructions under all that forbids them, at the same place again
 * and again, so that nobody may remember what was allowed there; masked operands
 * that reach into a page that is not there; XSAVE in the middle of it.
 */
#include "rt.h"

#define WINDOW 0x40000000ul /* one page, none behind it */

#define CR0_MP    (1ul << 1)
#define CR0_TS    (1ul << 3)
#define CR0_NE    (1ul << 5)
#define CR4_XSAVE (1ul << 18)
#define XCR0_SSE  0x3u
#define XCR0_AVX  0x7u
#define XCR0_ZMM  0xe7u
#define NO_FAULT  TRAP_NONE

static uint8_t area[4096] __attribute__((aligned(64)));
static uint8_t *const end_of_page = (uint8_t *)WINDOW + PAGE_BYTES;

static void xsetbv(uint32_t v)
{
	asm volatile("xsetbv" : : "a"(v), "d"(0), "c"(0) : "memory");
}

/* Each is one place, and says how it went there. */
static __attribute__((noinline)) unsigned try_sse(void)
{
	TRY("addps %%xmm1, %%xmm1", :);
	return fault()->vector;
}

static __attribute__((noinline)) unsigned try_avx(void)
{
	TRY("vaddps %%ymm1, %%ymm1, %%ymm1", :);
	return fault()->vector;
}

static __attribute__((noinline)) unsigned try_avx512(void)
{
	TRY("vpaddd %%zmm17, %%zmm17, %%zmm17", :);
	return fault()->vector;
}

static bool went(unsigned sse, unsigned avx, unsigned avx512)
{
	return try_sse() == sse && try_avx() == avx && try_avx512() == avx512;
}

static void test_levels(bool has_512)
{
	unsigned wide = has_512 ? NO_FAULT : TRAP_UD;
	bool all = true;

	for (unsigned round = 0; round < 3; round++) {
		xsetbv(XCR0_SSE);
		all &= went(NO_FAULT, TRAP_UD, TRAP_UD);
		xsetbv(XCR0_AVX);
		all &= went(NO_FAULT, NO_FAULT, TRAP_UD);
		write_cr0(read_cr0() | CR0_TS);
		all &= went(TRAP_NM, TRAP_NM, TRAP_UD);
		asm volatile("clts");
		if (has_512)
			xsetbv(XCR0_ZMM);
		all &= went(NO_FAULT, NO_FAULT, wide);
		write_cr4(read_cr4() & ~CR4_XSAVE);
		all &= went(NO_FAULT, TRAP_UD, TRAP_UD);
		write_cr4(read_cr4() | CR4_XSAVE);
		all &= went(NO_FAULT, NO_FAULT, wide);
	}
	ok(all, "CR0.TS, CR4.OSXSAVE and XCR0 are heeded each time");
}

/* What is not selected is not accessed. */
static void test_masks(bool has_512)
{
	static const uint32_t first_two[8] = { ~0u, ~0u };
	uint32_t *at = (uint32_t *)end_of_page - 2;

	at[0] = 1, at[1] = 2;
	TRY("vmovups (%1), %%ymm2; vpcmpeqd %%ymm3, %%ymm3, %%ymm3\n"
	    "vmaskmovps %%ymm3, %%ymm2, (%0)",
	    :
	    : "r"(at), "r"(first_two)
	    : "memory");
	same(fault()->vector, NO_FAULT, "VMASKMOVPS: what is masked out is not stored");
	same(at[1], ~0u, "and the rest is");
	TRY("vmaskmovps (%0), %%ymm3, %%ymm2", : : "r"(at) : "memory");
	same(fault()->vector, TRAP_PF, "VMASKMOVPS: a page that is not there");
	if (!has_512)
		return;
	at[0] = 5, at[1] = 6;
	TRY("mov $3, %%eax; kmovw %%eax, %%k1; vmovdqu32 (%0), %%zmm20%{%%k1%}%{z%}\n"
	    "vmovdqu32 %%zmm20, (%1)",
	    :
	    : "r"(at), "r"(area)
	    : "eax", "memory");
	same(fault()->vector, NO_FAULT, "VMOVDQU32: what is masked out is not loaded");
	ok(((uint32_t *)area)[1] == 6 && !((uint32_t *)area)[2], "and is zero");
}

/* The second element faults: the first is there, and its mask bit is gone. */
static void test_gather(void)
{
	static const uint32_t index[4] = { 0, 1, 0, 0 };
	uint32_t *at = (uint32_t *)end_of_page - 1;
	uint32_t out[4] = { 0 }, mask[4] = { 0 };

	*at = 77;
	TRY("vmovups (%1), %%xmm4; vpcmpeqd %%xmm5, %%xmm5, %%xmm5; vpxor %%xmm6, %%xmm6, %%xmm6\n"
	    "vpgatherdd %%xmm5, (%0,%%xmm4,4), %%xmm6",
	    :
	    : "r"(at), "r"(index)
	    : "memory");
	same(fault()->vector, TRAP_PF, "VPGATHERDD: a page that is not there");
	asm volatile("vmovups %%xmm6, (%0); vmovups %%xmm5, (%1)"
		     :
		     : "r"(out), "r"(mask)
		     : "memory");
	ok(out[0] == 77 && !mask[0] && mask[1] == ~0u, "what was done before stays done");
}

static void test_xsave(uint32_t xcr0)
{
	uint64_t *ymm1_high = (uint64_t *)(area + 576 + 16), kept;

	memset(area, 0, sizeof(area));
	asm volatile("vpcmpeqd %%ymm1, %%ymm1, %%ymm1; xsave (%0); vzeroall"
		     :
		     : "r"(area), "a"(xcr0), "d"(0)
		     : "memory");
	same(*ymm1_high, ~0ul, "XSAVE stores upper halves");
	asm volatile("xrstor (%1); vextractf128 $1, %%ymm1, %%xmm2; movq %%xmm2, %0; vzeroall"
		     : "=r"(kept)
		     : "r"(area), "a"(xcr0), "d"(0)
		     : "memory");
	same(kept, ~0ul, "XRSTOR brings them back");
	*(uint64_t *)(area + 512) = 3;
	asm volatile("vpcmpeqd %%ymm1, %%ymm1, %%ymm1; xrstor (%1)\n"
		     "vextractf128 $1, %%ymm1, %%xmm2; movq %%xmm2, %0"
		     : "=r"(kept)
		     : "r"(area), "a"(xcr0), "d"(0)
		     : "memory");
	same(kept, 0, "XRSTOR clears what was not in use");
}

void guest_main(void)
{
	bool has_avx = cpuid(1, 0).c >> 28 & 1, has_512 = cpuid(7, 0).b >> 16 & 1;

	if (!has_avx || !(cpuid(1, 0).c >> 26 & 1)) {
		skip("vector instructions", "this processor has no AVX");
		return;
	}
	write_cr0(read_cr0() | CR0_MP | CR0_NE);
	write_cr4(read_cr4() | CR4_XSAVE);
	page_map(WINDOW, (uint64_t)page_alloc() | PTE_P | PTE_W);
	page_map(WINDOW + PAGE_BYTES, 0);
	test_levels(has_512);
	test_masks(has_512);
	if ((cpuid(7, 0).b >> 5 & 1) && !lax_machine())
		test_gather();
	test_xsave(has_512 ? XCR0_ZMM : XCR0_AVX);
}
