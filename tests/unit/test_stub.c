/*
 * test_stub.c - native stubs beyond single instructions: what forbids them, the
 * exceptions they raise, other modes, devices, and the cache they live in.
 * (test_diff.c has the instructions themselves.)
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cpu/stub.h"
#include "cpu/xstate.h"
#include "flat.h"
#include "host/sim/sim.h"

static struct host host;
static struct flat *f;

static int setup(void **state)
{
	host = sim_create(NULL);
	return 0;
}

static int teardown(void **state)
{
	return (int)sim_destroy(&host);
}

/* In the test itself: cmocka's own signal handlers are in force until it runs. */
#define MACHINE_TEST(name)                                                                         \
	static void name##_body(void);                                                             \
	static void name(void **state)                                                             \
	{                                                                                          \
		f = flat_create(&host, 1, CLOCK_HOST);                                             \
		name##_body();                                                                     \
		flat_destroy(f);                                                                   \
	}                                                                                          \
	static void name##_body(void)

static struct fx_image *fx(void)
{
	return xstate_fx(&f->cpu->s);
}

static void assert_halted(void)
{
	assert_int_equal(f->exit.reason, EXIT_HALT);
	assert_int_equal(f->vector, -1);
}

/* --- what forbids them ------------------------------------------------------------------ */

GUEST(code_sse, "addps %xmm1, %xmm0; hlt");
GUEST(code_mmx, "paddb %mm1, %mm0; hlt");
GUEST(code_x87, "fld1; hlt");
GUEST(code_wait, "fwait; hlt");
GUEST(code_mixed, "movq2dq %mm0, %xmm0; hlt");
GUEST(code_fxsave, "fxsave 0x200000; hlt");
GUEST(code_stmxcsr, "stmxcsr 0x200000; hlt");
GUEST(code_gpr, "popcnt %rax, %rax; hlt");
GUEST(code_control, "fnstcw 0x200000; hlt");

static void run_with(const uint8_t *code, const uint8_t *end, uint64_t cr0, uint64_t cr4_without)
{
	flat_reset(f, MODE_64);
	f->cpu->s.cr0 |= cr0;
	f->cpu->s.cr4 &= ~cr4_without;
	cpu_update_mode(f->cpu);
	flat_load(f, code, end);
	flat_run(f);
}

#define ASSERT_VECTOR(name, cr0, cr4_without, expected)                                            \
	do {                                                                                       \
		run_with(name, name##_end, cr0, cr4_without);                                      \
		assert_int_equal(f->vector, expected);                                             \
	} while (0)

MACHINE_TEST(test_gates)
{
	ASSERT_VECTOR(code_sse, 0, 0, -1);
	ASSERT_VECTOR(code_sse, CR0_TS, 0, EXC_NM);
	ASSERT_VECTOR(code_sse, CR0_EM, 0, EXC_UD);
	ASSERT_VECTOR(code_sse, CR0_TS, CR4_OSFXSR, EXC_UD);
	ASSERT_VECTOR(code_mmx, CR0_TS, 0, EXC_NM);
	ASSERT_VECTOR(code_mmx, CR0_EM, 0, EXC_UD);
	ASSERT_VECTOR(code_mmx, 0, CR4_OSFXSR, -1);
	ASSERT_VECTOR(code_mixed, 0, CR4_OSFXSR, EXC_UD);
	ASSERT_VECTOR(code_x87, CR0_TS, 0, EXC_NM);
	ASSERT_VECTOR(code_x87, CR0_EM, 0, EXC_NM);
	ASSERT_VECTOR(code_control, CR0_TS, 0, EXC_NM);
	ASSERT_VECTOR(code_wait, CR0_TS, 0, EXC_NM); /* MP is set */
	ASSERT_VECTOR(code_wait, CR0_EM, 0, -1);
	ASSERT_VECTOR(code_fxsave, CR0_EM, 0, EXC_NM);
	ASSERT_VECTOR(code_fxsave, 0, CR4_OSFXSR, -1);
	ASSERT_VECTOR(code_stmxcsr, 0, CR4_OSFXSR, EXC_UD);
	ASSERT_VECTOR(code_gpr, CR0_TS | CR0_EM, CR4_OSFXSR, -1);
}

/* --- exceptions of their own ----------------------------------------------------------------- */

GUEST(code_divide, "mov $0x200000, %ebx; movl $0x1d80, (%rbx); ldmxcsr (%rbx)\n" /* ZM clear */
		   "mov $0x3f800000, %eax; movd %eax, %xmm0; xorps %xmm1, %xmm1\n"
		   "divss %xmm1, %xmm0; hlt");

MACHINE_TEST(test_simd_exception)
{
	FLAT_RUN(f, code_divide);
	assert_int_equal(f->vector, EXC_XM);
	assert_int_equal(fx()->mxcsr, 0x1d84);
	assert_int_equal(load_u32(fx()->xmm[0]), 0x3f800000);
	ASSERT_VECTOR(code_divide, 0, CR4_OSXMMEXCPT, EXC_UD);
}

GUEST(code_pending, "fninit; push $0x37b; fldcw (%rsp)\n" /* ZM clear */
		    "fld1; fldz; fdivrp %st, %st(1); fnstsw %ax; fnop; hlt");
GUEST(code_unmask, "fninit; fld1; fldz; fdivrp %st, %st(1); fnstenv 0x200000\n"
		   "andb $0xfb, 0x200000; fldenv 0x200000; movd %eax, %mm0; hlt");

MACHINE_TEST(test_x87_exception)
{
	FLAT_RUN(f, code_pending);
	assert_int_equal(f->vector, EXC_MF);
	assert_int_equal(flat_reg(f, RAX) & 0x84, 0x84); /* ES and ZE, seen without waiting */
	FLAT_RUN(f, code_unmask);
	assert_int_equal(f->vector, EXC_MF);
}

GUEST(code_bad_mxcsr, "movl $0xffff0000, 0x200000; ldmxcsr 0x200000; hlt");
GUEST(code_bad_fxrstor, "fxsave 0x200000; movl $0xffff0000, 0x200018; fxrstor 0x200000; hlt");
GUEST(code_odd_fxsave, "fxsave 0x200008; hlt");

MACHINE_TEST(test_reserved)
{
	FLAT_RUN(f, code_bad_mxcsr);
	assert_int_equal(f->vector, EXC_GP);
	FLAT_RUN(f, code_bad_fxrstor);
	assert_int_equal(f->vector, EXC_GP);
	FLAT_RUN(f, code_odd_fxsave);
	assert_int_equal(f->vector, EXC_GP);
}

/* --- what the guest sees of the host, and C of the guest -----------------------------------------
 */

GUEST(code_pointers, "fninit; movl $0x3f800000, 0x200000; flds 0x200000; fsqrt\n"
		     "fxsave64 0x200040; hlt");

MACHINE_TEST(test_x87_pointers)
{
	const struct fx_image *image = (const void *)(f->ram + FLAT_DATA + 0x40);

	FLAT_RUN(f, code_pointers);
	assert_halted();
	assert_in_range(image->ip, FLAT_CODE, FLAT_CODE + 32);
	assert_true(image->dp == 0 || image->dp == FLAT_DATA);
}

GUEST(code_dirty, "fninit; push $0xc7f; fldcw (%rsp); fld1; fld1; fld1\n" /* round to zero */
		  "movl $0xffc0, (%rsp); ldmxcsr (%rsp); sqrtps %xmm0, %xmm1; fsqrt; hlt");

MACHINE_TEST(test_host_state)
{
	uint32_t mxcsr;
	uint16_t cw, env[14];

	FLAT_RUN(f, code_dirty);
	assert_halted();
	__asm__ volatile("stmxcsr %0; fnstcw %1; fnstenv %2; fldenv %2"
			 : "=m"(mxcsr), "=m"(cw), "=m"(env));
	assert_int_equal(mxcsr & ~MXCSR_FLAGS, MXCSR_RESET);
	assert_int_equal(cw, X87_CW_RESET);
	assert_int_equal(env[4], 0xffff); /* all empty */
	assert_int_equal(fx()->mxcsr & 0xffc0, 0xffc0);
	assert_int_equal(fx()->cw, 0xc7f);
}

/* --- FXSAVE
 * ---------------------------------------------------------------------------------------- */

GUEST(code_save, "fninit; fld1; fldpi; mov $-1, %rax; movq %rax, %xmm9; fxsave64 0x200000\n"
		 "fninit; xorps %xmm9, %xmm9; fxrstor64 0x200000; fstpl 0x200400; hlt");
GUEST32(code_save32, "mov $-1, %eax; movd %eax, %xmm7; fxsave 0x200000; xorps %xmm7, %xmm7\n"
		     "fxrstor 0x200000; movd %xmm7, %ebx; hlt");

MACHINE_TEST(test_fxsave)
{
	FLAT_RUN(f, code_save);
	assert_halted();
	assert_int_equal(load_u64(f->ram + FLAT_DATA + 0x400), 0x400921fb54442d18);
	assert_int_equal(load_u64(fx()->xmm[9]), UINT64_MAX);
	assert_int_equal(fx()->sw >> 11 & 7, 7);

	/* Outside 64-bit mode the image ends with XMM7. */
	memset(f->ram + FLAT_DATA, 0x55, 512);
	flat_reset(f, MODE_32);
	fx()->xmm[8][0] = 0x77;
	flat_load(f, code_save32, code_save32_end);
	flat_run(f);
	assert_halted();
	assert_int_equal(flat_reg(f, RBX), UINT32_MAX);
	assert_int_equal(fx()->xmm[8][0], 0x77);
	assert_int_equal(load_u64(f->ram + FLAT_DATA + 288), 0x5555555555555555);
}

/* --- other modes
 * --------------------------------------------------------------------------------------- */

GUEST32(code_32, "mov $0x12345678, %ecx; popcnt %ecx, %eax; popcnt %cx, %bx; movd %ecx, %xmm0\n"
		 "paddd %xmm0, %xmm0; movups %xmm0, 0x200004(,%ebx,4); mov $0x200000, %edi\n"
		 "movd %xmm0, %edx; fildl 4(%edi,%ebx,4); fistpl (%edi); hlt");
GUEST16(code_16, "mov $0x12345678, %ecx; popcnt %ecx, %eax; popcnt %cx, %bx; movd %ecx, %xmm0\n"
		 "paddd %xmm0, %xmm0; movd %xmm0, %edx; mov $0x6000, %di; fildl (%di)\n"
		 "fistps 4(%di); fnstenv 16(%di); .byte 0x66; fnstenv 32(%di); hlt");

MACHINE_TEST(test_modes)
{
	flat_reset(f, MODE_32);
	flat_load(f, code_32, code_32_end);
	flat_run(f);
	assert_halted();
	assert_int_equal(flat_reg(f, RAX), 13);
	assert_int_equal(flat_reg(f, RBX), 8);
	assert_int_equal(flat_reg(f, RDX), 0x2468acf0);
	assert_int_equal(load_u32(f->ram + FLAT_DATA + 36), 0x2468acf0);
	assert_int_equal(load_u32(f->ram + FLAT_DATA), 0x2468acf0);

	store_u32(f->ram + 0x6000, 77);
	memset(f->ram + 0x6010, 0x55, 64);
	flat_reset(f, MODE_16);
	flat_load(f, code_16, code_16_end);
	flat_run(f);
	assert_halted();
	assert_int_equal(flat_reg(f, RAX), 13);
	assert_int_equal(flat_reg(f, RBX) & 0xffff, 8);
	assert_int_equal(flat_reg(f, RDX), 0x2468acf0);
	assert_int_equal(load_u16(f->ram + 0x6004), 77);
	assert_int_equal(load_u16(f->ram + 0x6010 + 14), 0x5555);     /* 14 bytes here */
	assert_int_equal(load_u32(f->ram + 0x6020 + 28), 0x55555555); /* 28 there */
	assert_int_not_equal(load_u16(f->ram + 0x6020 + 14), 0x5555);
}

/* --- devices and code
 * ------------------------------------------------------------------------------------ */

/* Where no device answers reads give ones and writes vanish. */
GUEST(code_device, "mov $0x20000000, %ebx; movdqu (%rbx), %xmm0; movq %xmm0, (%rbx)\n"
		   "movnti %rax, 8(%rbx); movq 3(%rbx), %mm0; fistpq (%rbx); hlt");

MACHINE_TEST(test_device)
{
	FLAT_RUN(f, code_device);
	assert_halted();
	assert_int_equal(load_u64(fx()->xmm[0]), UINT64_MAX);
	assert_int_equal(load_u64(fx()->xmm[0] + 8), UINT64_MAX);
}

/* A vector store turns the instructions behind it into others. */
GUEST(code_patch, "movdqu 0x200000, %xmm0; xor %eax, %eax; movdqu %xmm0, 1f(%rip); jmp 1f\n"
		  ".balign 16; 1: .fill 16, 1, 0xcc");

MACHINE_TEST(test_stores_code)
{
	static const uint8_t code[16] = { 0xff, 0xc0, 0xff, 0xc0, 0xf4 }; /* inc eax, twice */

	memcpy(f->ram + FLAT_DATA, code, sizeof(code));
	for (unsigned i = 0; i < 2; i++) {
		FLAT_RUN(f, code_patch);
		assert_halted();
		assert_int_equal(flat_reg(f, RAX), 2);
	}
}

/* --- the cache
 * --------------------------------------------------------------------------------------------- */

/* More different instructions than it holds: PSHUFD of every register by every order. */
MACHINE_TEST(test_cache_overflow)
{
	const unsigned forms = 64 * 256, bytes = 5;
	uint8_t *code = f->ram + FLAT_CODE;

	for (unsigned i = 0; i < forms; i++) {
		const uint8_t pshufd[] = { 0x66, 0x0f, 0x70, (uint8_t)(0xc0 | i >> 8), (uint8_t)i };

		memcpy(code + i * bytes, pshufd, bytes);
	}
	code[forms * bytes] = 0xf4;
	for (unsigned pass = 0; pass < 2; pass++) {
		flat_reset(f, MODE_64);
		for (unsigned i = 0; i < 8; i++)
			memset(fx()->xmm[i], 0x10 + (int)i, 16);
		flat_run(f);
		assert_halted();
		assert_int_equal(f->cpu->s.rip, FLAT_CODE + forms * bytes + 1);
		/* Each was last a copy of xmm7, which got back what it held. */
		for (unsigned i = 0; i < 8; i++)
			assert_memory_equal(fx()->xmm[i], fx()->xmm[7], 16);
		assert_int_equal(fx()->xmm[0][0], 0x17);
	}
	assert_false(stub_low(f->cpu));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_gates),          cmocka_unit_test(test_simd_exception),
		cmocka_unit_test(test_x87_exception),  cmocka_unit_test(test_reserved),
		cmocka_unit_test(test_x87_pointers),   cmocka_unit_test(test_host_state),
		cmocka_unit_test(test_fxsave),         cmocka_unit_test(test_modes),
		cmocka_unit_test(test_device),         cmocka_unit_test(test_stores_code),
		cmocka_unit_test(test_cache_overflow),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
