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

/*
 * System instructions in the midst of computing: some ask the host or look at the vector
 * registers' image, others do not. All registers and modes are there again behind them.
 */
static void test_system(void)
{
	static const uint64_t in[4] = { 0x3ff8000000000000, 0x3ff0000000000000, 0x4000000000000000,
					0xc008000000000000 };
	const uint32_t mxcsr = 0x7f80, usual = 0x1f80; /* rounds to zero */
	uint64_t out[4], st;
	uint32_t got;
	bool all = true;

	for (unsigned round = 0; round < 50; round++) {
		asm volatile("ldmxcsr %3; vmovupd (%5), %%ymm1; vmovupd (%5), %%ymm9; fldl (%5)\n"
			     "mov $0x10, %%ecx; rdmsr\n" /* the time */
			     "mov %%cr0, %%rax; mov %%rax, %%cr0; clts; pushfq; popfq\n"
			     "vaddpd %%ymm9, %%ymm1, %%ymm1\n"
			     "xor %%eax, %%eax; xor %%ecx, %%ecx; cpuid; xor %%ecx, %%ecx; xgetbv\n"
			     "vsubpd %%ymm9, %%ymm1, %%ymm1\n"
			     "mov $0x174, %%ecx; rdmsr; wrmsr; pause\n"
			     "vmovupd %%ymm1, (%4); fstpl %0; stmxcsr %1; ldmxcsr %2"
			     : "=m"(st), "=m"(got)
			     : "m"(usual), "m"(mxcsr), "S"(out), "D"(in)
			     : "rax", "rbx", "rcx", "rdx", "memory", "cc");
		all &= out[0] == in[0] && out[3] == in[3] && st == in[0] && got == mxcsr;
	}
	ok(all, "vector and x87 registers survive system instructions");
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
	test_system();
}
