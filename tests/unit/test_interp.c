/* test_interp.c - the interpreter on small guest programs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "flat.h"
#include "host/sim/sim.h"

#include <errno.h>

static struct host host;
static struct flat *f;

static int setup(void **state)
{
	host = sim_create(NULL);
	f = flat_create(&host, 1, CLOCK_HOST);
	return 0;
}

static int setup_icount(void **state)
{
	host = sim_create(NULL);
	f = flat_create(&host, 1, CLOCK_ICOUNT);
	return 0;
}

static int teardown(void **state)
{
	flat_destroy(f);
	return (int)sim_destroy(&host);
}

/* Runs @name in 32- or 16-bit mode. */
#define RUN_IN(mode, name)                                                                         \
	do {                                                                                       \
		flat_reset(f, mode);                                                               \
		flat_load(f, name, name##_end);                                                    \
		flat_run(f);                                                                       \
	} while (0)

/* It ended by HLT, not by an exception. */
static void assert_halted(void)
{
	assert_int_equal(f->exit.reason, EXIT_HALT);
	assert_int_equal(f->vector, -1);
}

/* It ended by @vector at @rip, with nothing pushed below the frame. */
static void assert_faulted(int vector, uint64_t rip)
{
	static const uint32_t with_error = BIT(8) | 0x7c00 | BIT(17);
	unsigned at = with_error >> vector & 1 ? 8 : 0;

	assert_int_equal(f->exit.reason, EXIT_HALT);
	assert_int_equal(f->vector, vector);
	assert_int_equal(load_u64(f->ram + flat_reg(f, RSP) + at), rip);
}

static uint64_t error_code(void)
{
	return load_u64(f->ram + flat_reg(f, RSP));
}

/* --- integer code ------------------------------------------------------------------ */

GUEST(code_sum, "xor %eax, %eax; mov $100, %ecx; 1: add %rcx, %rax; dec %ecx; jnz 1b; hlt");

static void test_loop(void **state)
{
	FLAT_RUN(f, code_sum);
	assert_halted();
	assert_int_equal(flat_reg(f, RAX), 5050);
	assert_int_equal(f->cpu->insns, 2 + 300 + 1);
}

GUEST(code_widths, "mov $-1, %rax; mov $-1, %rbx; mov $-1, %rcx; mov $-1, %rsi\n"
		   "mov $1, %eax; mov $2, %bx; mov $3, %cl; mov $4, %ch; mov $5, %sil; hlt");

static void test_widths(void **state)
{
	FLAT_RUN(f, code_widths);
	assert_int_equal(flat_reg(f, RAX), 1);
	assert_int_equal(flat_reg(f, RBX), 0xffffffffffff0002);
	assert_int_equal(flat_reg(f, RCX), 0xffffffffffff0403);
	assert_int_equal(flat_reg(f, RSI), 0xffffffffffffff05);
}

/* A 256-bit sum: the carry goes through ADC, and INC and LEA leave it alone. */
GUEST(code_carry, "mov $0x200000, %edi; mov $4, %ecx; clc\n"
		  "1: mov (%rdi), %rax; adc 32(%rdi), %rax; mov %rax, 64(%rdi)\n"
		  "lea 8(%rdi), %rdi; dec %ecx; jnz 1b; setc %al; movzx %al, %eax; hlt");

static void test_carry(void **state)
{
	static const uint64_t a[4] = { ~0ull, ~0ull, 1, ~0ull }, b[4] = { 1, 0, ~0ull - 1, 5 };
	static const uint64_t sum[4] = { 0, 0, 0, 5 };

	memcpy(f->ram + FLAT_DATA, a, sizeof(a));
	memcpy(f->ram + FLAT_DATA + 32, b, sizeof(b));
	FLAT_RUN(f, code_carry);
	assert_memory_equal(f->ram + FLAT_DATA + 64, sum, sizeof(sum));
	assert_int_equal(flat_reg(f, RAX), 1);
}

GUEST(code_divide_zero, "xor %ecx, %ecx; mov $7, %eax; cdq; idiv %ecx; hlt");
GUEST(code_divide_min, "mov $0x80000000, %eax; cdq; mov $-1, %ecx; idiv %ecx; hlt");
GUEST(code_divide_big, "mov $1, %edx; xor %eax, %eax; mov $1, %ecx; div %rcx; hlt");
GUEST(code_divide_edge, "mov $-128, %ax; mov $1, %cl; idiv %cl; hlt");
GUEST(code_divide_over, "mov $128, %ax; mov $1, %cl; idiv %cl; hlt");

static void test_divide(void **state)
{
	FLAT_RUN(f, code_divide_zero);
	assert_faulted(EXC_DE, FLAT_CODE + 2 + 5 + 1);
	assert_int_equal(flat_reg(f, RAX), 7);
	FLAT_RUN(f, code_divide_min);
	assert_int_equal(f->vector, EXC_DE);
	FLAT_RUN(f, code_divide_big);
	assert_int_equal(f->vector, EXC_DE);
	FLAT_RUN(f, code_divide_edge);
	assert_halted();
	assert_int_equal(flat_reg(f, RAX) & 0xffff, 0x80);
	FLAT_RUN(f, code_divide_over);
	assert_int_equal(f->vector, EXC_DE);
}

/* Without BMI1 in CPUID, REP BSF is BSF: the destination survives a source of zero. */
GUEST(code_rep_bsf, "mov $77, %eax; xor %ecx, %ecx; .byte 0xf3, 0x0f, 0xbc, 0xc1; hlt");

static void test_rep_bsf(void **state)
{
	f->vm->cpuid.has.word[CPU_BMI1 / 64] &= ~BIT64(CPU_BMI1 % 64);
	f->vm->engine->vcpu_destroy(f->vcpu);
	assert_int_equal(f->vm->engine->vcpu_create(f->vcpu), 0);
	f->cpu = cpu_of(f->vcpu);
	f->vm->engine->reset(f->vcpu);
	FLAT_RUN(f, code_rep_bsf);
	assert_halted();
	assert_int_equal(flat_reg(f, RAX), 77);
}

/* --- the stack --------------------------------------------------------------------- */

GUEST(code_stack, "push %rsp; pop %rax; push $-2; pop %rbx; pushw $0x1234; popw %cx\n"
		  "push $0x200000; pop (%rsp); mov (%rsp), %rdx; mov $0x20000, %esp\n"
		  "push $5; pop %rsp; mov %rsp, %rsi; mov $0x20000, %esp\n"
		  "enter $16, $0; mov %rsp, %rdi; leave; hlt");

static void test_stack(void **state)
{
	store_u64(f->ram + FLAT_STACK, 0);
	FLAT_RUN(f, code_stack);
	assert_halted();
	assert_int_equal(flat_reg(f, RAX), FLAT_STACK);
	assert_int_equal(flat_reg(f, RBX), -2);
	assert_int_equal(flat_reg(f, RCX), 0x1234);
	assert_int_equal(flat_reg(f, RDX), FLAT_DATA); /* POP (RSP): the address after it */
	assert_int_equal(flat_reg(f, RSI), 5);
	assert_int_equal(flat_reg(f, RDI), FLAT_STACK - 24);
	assert_int_equal(flat_reg(f, RSP), FLAT_STACK);
}

GUEST32(code_pusha, "mov $1, %eax; mov $2, %ecx; mov $3, %edx; mov $4, %ebx; mov $5, %ebp\n"
		    "mov $6, %esi; mov $7, %edi; pusha; xor %eax, %eax; mov %eax, %edi; popa; hlt");

static void test_pusha(void **state)
{
	static const uint32_t pushed[8] = { 7, 6, 5, FLAT_STACK, 4, 3, 2, 1 };

	RUN_IN(MODE_32, code_pusha);
	assert_halted();
	assert_int_equal(flat_reg(f, RAX), 1);
	assert_int_equal(flat_reg(f, RDI), 7);
	assert_int_equal(flat_reg(f, RSP), FLAT_STACK);
	assert_memory_equal(f->ram + FLAT_STACK - 32, pushed, 32);
}

/* A 16-bit stack pointer wraps within 64 KiB and leaves the upper half alone. */
GUEST16(code_stack16, "movl $0xabcd0000, %esp; pushw $0x1111; movl %esp, %eax; popw %bx; hlt");

static void test_stack16(void **state)
{
	flat_reset(f, MODE_16);
	f->cpu->s.seg[SEG_SS].attr &= ~SEG_DB;
	cpu_update_mode(f->cpu);
	flat_load(f, code_stack16, code_stack16_end);
	flat_run(f);
	assert_halted();
	assert_int_equal(flat_reg(f, RAX), 0xabcdfffe);
	assert_int_equal(load_u16(f->ram + 0xfffe), 0x1111);
	assert_int_equal(flat_reg(f, RBX) & 0xffff, 0x1111);
}

/* --- strings ----------------------------------------------------------------------- */

GUEST(code_movs, "mov $0x200ff0, %esi; mov $0x202ff8, %edi; mov $5000, %ecx; rep movsb; hlt");
GUEST(code_movs_overlap, "mov $0x200000, %esi; mov $0x200003, %edi; mov $5000, %ecx\n"
			 "rep movsb; hlt");
GUEST(code_movs_down, "std; mov $0x201387, %esi; mov $0x20138a, %edi; mov $5000, %ecx\n"
		      "rep movsb; cld; hlt");

static void fill_data(void)
{
	unsigned i;

	for (i = 0; i < 0x4000; i++)
		f->ram[FLAT_DATA + i] = (uint8_t)(i * 7 + (i >> 8));
}

static void test_movs(void **state)
{
	static uint8_t want[0x8000];
	unsigned i;

	fill_data();
	memcpy(want, f->ram + FLAT_DATA, sizeof(want));
	memcpy(want + 0x2ff8, f->ram + FLAT_DATA + 0xff0, 5000);
	FLAT_RUN(f, code_movs);
	assert_memory_equal(f->ram + FLAT_DATA, want, sizeof(want));
	assert_int_equal(flat_reg(f, RSI), FLAT_DATA + 0xff0 + 5000);
	assert_int_equal(flat_reg(f, RDI), FLAT_DATA + 0x2ff8 + 5000);
	assert_int_equal(flat_reg(f, RCX), 0);
	assert_int_equal(f->cpu->insns, 5);

	fill_data();
	memcpy(want, f->ram + FLAT_DATA, sizeof(want));
	for (i = 0; i < 5000; i++)
		want[i + 3] = want[i];
	FLAT_RUN(f, code_movs_overlap);
	assert_memory_equal(f->ram + FLAT_DATA, want, sizeof(want));

	fill_data();
	memcpy(want, f->ram + FLAT_DATA, sizeof(want));
	memmove(want + 3, want, 5000);
	FLAT_RUN(f, code_movs_down);
	assert_memory_equal(f->ram + FLAT_DATA, want, sizeof(want));
	assert_int_equal(flat_reg(f, RSI), FLAT_DATA - 1);
}

GUEST(code_scas, "mov $0x200000, %edi; mov $-1, %rcx; xor %eax, %eax; repne scasb; hlt");
GUEST(code_cmps, "mov $0x200000, %esi; mov $0x203000, %edi; mov $600, %ecx\n"
		 "repe cmpsq; seta %al; hlt");
GUEST(code_rep_zero, "stc; xor %ecx, %ecx; stc; repe cmpsb; setc %al; hlt");

static void test_compare_strings(void **state)
{
	memset(f->ram + FLAT_DATA, 'x', 0x6000);
	f->ram[FLAT_DATA + 5000] = 0;
	FLAT_RUN(f, code_scas);
	assert_int_equal(flat_reg(f, RDI), FLAT_DATA + 5001);
	assert_int_equal(flat_reg(f, RCX), -5002);

	f->ram[FLAT_DATA + 0x3000 + 8 * 555] = 'w';
	f->ram[FLAT_DATA + 5000] = 'x';
	FLAT_RUN(f, code_cmps);
	assert_int_equal(flat_reg(f, RCX), 600 - 556);
	assert_int_equal(flat_reg(f, RSI), FLAT_DATA + 8 * 556);
	assert_int_equal(flat_reg(f, RAX) & 0xff, 1);

	FLAT_RUN(f, code_rep_zero);
	assert_int_equal(flat_reg(f, RAX) & 0xff, 1);
}

/* Unmaps the 2 MiB page at @gva. */
static void unmap(uint64_t gva)
{
	store_u64(f->ram + 0x3000 + (gva >> 21) * 8, 0);
}

GUEST(code_stos_fault, "mov $0x3ff000, %edi; mov $0x1000, %ecx; mov $0x55, %al; rep stosw; hlt");

/* The first half is done, and the registers say so. */
static void test_rep_fault(void **state)
{
	flat_reset(f, MODE_64);
	unmap(0x400000);
	flat_load(f, code_stos_fault, code_stos_fault_end);
	flat_run(f);
	assert_faulted(EXC_PF, FLAT_CODE + 12);
	assert_int_equal(error_code(), PF_W);
	assert_int_equal(f->cpu->s.cr2, 0x400000);
	assert_int_equal(flat_reg(f, RCX), 0x1000 - 0x800);
	assert_int_equal(flat_reg(f, RDI), 0x400000);
	assert_int_equal(f->cpu->insns, 3 + 1); /* and the handler's HLT */
}

/* --- memory operands --------------------------------------------------------------- */

/* Nothing has happened: flags and memory are as before. */
GUEST(code_rmw_fault, "stc; mov $0x3ffffe, %ebx; lock addl $-1, (%rbx); hlt");

static void test_rmw_fault(void **state)
{
	flat_reset(f, MODE_64);
	unmap(0x400000);
	store_u32(f->ram + 0x3ffffc, 0x11223344);
	flat_load(f, code_rmw_fault, code_rmw_fault_end);
	flat_run(f);
	assert_faulted(EXC_PF, FLAT_CODE + 6);
	assert_int_equal(f->cpu->s.cr2, 0x400000);
	assert_int_equal(load_u32(f->ram + 0x3ffffc), 0x11223344);
	assert_int_equal(load_u64(f->ram + flat_reg(f, RSP) + 24) & RFLAGS_CF, 1);
}

GUEST(code_rmw_cross, "mov $0x200ffe, %ebx; lock addl $1, (%rbx); incq (%rbx); mov $9, %ecx\n"
		      "xchg %rcx, (%rbx); lock xadd %rcx, (%rbx); hlt");

static void test_rmw_cross(void **state)
{
	store_u64(f->ram + FLAT_DATA + 0xffe, 0xffffffff);
	FLAT_RUN(f, code_rmw_cross);
	assert_halted();
	assert_int_equal(load_u64(f->ram + FLAT_DATA + 0xffe), 10);
	assert_int_equal(flat_reg(f, RCX), 9);
}

GUEST(code_cx16,
      "mov $0x200010, %edi; mov $1, %eax; mov $2, %edx; mov $3, %ebx; mov $4, %ecx\n"
      "lock cmpxchg16b (%rdi); setz %sil; lock cmpxchg16b (%rdi); lock cmpxchg16b 8(%rdi)");

static void test_cx16(void **state)
{
	store_u64(f->ram + FLAT_DATA + 0x10, 1);
	store_u64(f->ram + FLAT_DATA + 0x18, 2);
	FLAT_RUN(f, code_cx16);
	assert_int_equal(f->vector, EXC_GP); /* the misaligned one */
	assert_int_equal(flat_reg(f, RSI) & 0xff, 1);
	assert_int_equal(load_u64(f->ram + FLAT_DATA + 0x18), 4);
	assert_int_equal(flat_reg(f, RAX), 3);
	assert_int_equal(flat_reg(f, RDX), 4);
}

GUEST(code_bit_string, "mov $0x200100, %ebx; mov $-9, %rax; bts %rax, (%rbx); setc %cl\n"
		       "mov $1000, %eax; btc %ax, (%rbx); hlt");

static void test_bit_string(void **state)
{
	memset(f->ram + FLAT_DATA, 0, 0x400);
	FLAT_RUN(f, code_bit_string);
	assert_int_equal(f->ram[FLAT_DATA + 0x100 - 2], 0x80);
	assert_int_equal(f->ram[FLAT_DATA + 0x100 + 125], 1);
	assert_int_equal(flat_reg(f, RCX) & 0xff, 0);
}

GUEST(code_canonical, "mov $0x800000000000, %rax; mov (%rax), %rbx; hlt");
GUEST(code_canonical_stack, "mov $0x800000000000, %rbp; mov (%rbp), %rbx; hlt");
GUEST(code_canonical_jump, "mov $0x800000000000, %rax; jmp *%rax");

static void test_canonical(void **state)
{
	FLAT_RUN(f, code_canonical);
	assert_faulted(EXC_GP, FLAT_CODE + 10);
	FLAT_RUN(f, code_canonical_stack);
	assert_faulted(EXC_SS, FLAT_CODE + 10);
	FLAT_RUN(f, code_canonical_jump);
	assert_faulted(EXC_GP, FLAT_CODE + 10); /* in the jump, not at its target */
}

/* --- what is no instruction ----------------------------------------------------------- */

GUEST(code_lock_reg, "nop; .byte 0xf0, 0x01, 0xc0; hlt");
GUEST(code_lock_mov, "nop; .byte 0xf0, 0x89, 0x03; hlt");
GUEST(code_hole, "nop; .byte 0x0f, 0x04; hlt");
GUEST(code_push_es, "nop; .byte 0x06; hlt");
GUEST(code_avx, "nop; .byte 0xc5, 0xf8, 0x58, 0xc0; hlt"); /* VADDPS without AVX */
GUEST(code_long,
      "nop; .byte 0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66\n"
      "nop; nop; hlt");
GUEST(code_too_long, "nop; .byte 0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66\n"
		     ".byte 0x66, 0x66; nop; hlt");

static void test_undefined(void **state)
{
	uint64_t unknown;

	FLAT_RUN(f, code_lock_reg);
	assert_faulted(EXC_UD, FLAT_CODE + 1);
	FLAT_RUN(f, code_lock_mov);
	assert_faulted(EXC_UD, FLAT_CODE + 1);
	FLAT_RUN(f, code_push_es);
	assert_faulted(EXC_UD, FLAT_CODE + 1);
	if (!cpu_has(&f->vm->cpuid, CPU_AVX)) {
		FLAT_RUN(f, code_avx);
		assert_faulted(EXC_UD, FLAT_CODE + 1);
	}
	unknown = stat_get(&f->vcpu->stats, STAT_UNKNOWN_OPS);
	FLAT_RUN(f, code_hole);
	assert_faulted(EXC_UD, FLAT_CODE + 1);
	assert_int_equal(stat_get(&f->vcpu->stats, STAT_UNKNOWN_OPS), unknown + 1);

	FLAT_RUN(f, code_long);
	assert_halted();
	FLAT_RUN(f, code_too_long);
	assert_faulted(EXC_GP, FLAT_CODE + 1);
}

/* --- the edges of pages and segments ------------------------------------------------------ */

/* MOV EAX, imm32 with its last bytes on the next page. */
static void load_at_edge(uint64_t edge, unsigned before, uint32_t imm)
{
	uint8_t code[6] = { 0xb8, 0, 0, 0, 0, 0xf4 };

	store_u32(code + 1, imm);
	gmem_write(&f->vm->gmem, edge - before, code, sizeof(code));
	f->vm->engine->code_changed(f->vm, edge - before, sizeof(code));
	f->cpu->s.rip = edge - before;
	f->cpu->s.gpr[RSP] = FLAT_STACK;
	f->cpu->s.mp_state = MP_RUNNING;
}

static void test_crossing(void **state)
{
	unsigned before;

	flat_reset(f, MODE_64);
	for (before = 1; before < 5; before++) {
		load_at_edge(0x301000, before, 0x1000 + before);
		flat_run(f);
		assert_halted();
		assert_int_equal(flat_reg(f, RAX), 0x1000 + before);
		/* Its second page is as much its own as the first. */
		f->ram[0x301000] = 0x77;
		f->vm->engine->code_changed(f->vm, 0x301000, 1);
		f->cpu->s.rip = 0x301000 - before;
		f->cpu->s.mp_state = MP_RUNNING;
		f->ram[0x301000 + 5 - before] = 0xf4;
		flat_run(f);
		assert_int_equal(flat_reg(f, RAX) >> 8 * (before - 1) & 0xff, 0x77);
	}
}

static void test_crossing_fault(void **state)
{
	flat_reset(f, MODE_64);
	unmap(0x400000);
	load_at_edge(0x400000, 3, 1);
	flat_run(f);
	assert_faulted(EXC_PF, 0x3ffffd);
	assert_int_equal(f->cpu->s.cr2, 0x400000);
	assert_int_equal(error_code(), PF_I);

	/* What ends with the page needs nothing of the next. */
	flat_reset(f, MODE_64);
	unmap(0x400000);
	load_at_edge(0x3ffffa + 6, 6, 1);
	flat_run(f);
	assert_halted();
	assert_int_equal(flat_reg(f, RAX), 1);
}

GUEST32(code_nops, "nop; nop; nop; hlt");

static void test_segment_limit(void **state)
{
	flat_reset(f, MODE_32);
	flat_load(f, code_nops, code_nops_end);
	f->cpu->s.seg[SEG_CS].limit = FLAT_CODE + 1;
	cpu_update_mode(f->cpu);
	flat_run(f);
	assert_int_equal(f->vector, EXC_GP);
	assert_int_equal(load_u32(f->ram + flat_reg(f, RSP) + 4), FLAT_CODE + 2);
	assert_int_equal(f->cpu->insns, 2 + 1);
}

/* IP counts in 16 bits: a jump at the end of the segment comes back at its beginning. */
static void test_ip_wrap(void **state)
{
	static const uint8_t jump[] = { 0xeb, 0x10 }, halt[] = { 0xb8, 0x34, 0x12, 0xf4 };

	flat_reset(f, MODE_16);
	f->cpu->s.seg[SEG_CS].base = FLAT_CODE;
	f->cpu->s.seg[SEG_CS].limit = 0xffff;
	cpu_update_mode(f->cpu);
	gmem_write(&f->vm->gmem, FLAT_CODE + 0xfffe, jump, sizeof(jump));
	gmem_write(&f->vm->gmem, FLAT_CODE + 0x10, halt, sizeof(halt));
	f->cpu->s.rip = 0xfffe;
	flat_run(f);
	assert_int_equal(f->exit.reason, EXIT_HALT);
	assert_int_equal(flat_reg(f, RAX) & 0xffff, 0x1234);
	assert_int_equal(f->cpu->s.rip, 0x14);
}

/* --- 16- and 32-bit instructions ------------------------------------------------------------ */

GUEST32(code_bcd, "mov $0x79, %al; mov $0x35, %bl; add %bl, %al; daa; mov %eax, %ecx\n"
		  "mov $0x35, %al; mov $0x47, %bl; sub %bl, %al; das; mov %eax, %edx\n"
		  "mov $79, %al; aam; mov %eax, %esi; aad; mov %eax, %edi\n"
		  "mov $0x0f, %ax; add $0, %al; aaa; mov %eax, %ebp; hlt");

static void test_bcd(void **state)
{
	RUN_IN(MODE_32, code_bcd);
	assert_halted();
	assert_int_equal(flat_reg(f, RCX) & 0xff, 0x14);
	assert_int_equal(flat_reg(f, RDX) & 0xff, 0x88);
	assert_int_equal(flat_reg(f, RSI) & 0xffff, 0x0709);
	assert_int_equal(flat_reg(f, RDI) & 0xffff, 79);
	assert_int_equal(flat_reg(f, RBP) & 0xffff, 0x0105);
}

GUEST32(code_bound, "mov $0x200000, %ebx; mov $5, %eax; bound %eax, (%ebx); mov $6, %eax\n"
		    "bound %eax, (%ebx); hlt");

static void test_bound(void **state)
{
	store_u32(f->ram + FLAT_DATA, (uint32_t)-3);
	store_u32(f->ram + FLAT_DATA + 4, 5);
	RUN_IN(MODE_32, code_bound);
	assert_int_equal(f->vector, EXC_BR);
	assert_int_equal(flat_reg(f, RAX), 6);
}

GUEST32(code_loop16, "mov $0x10003, %ecx; xor %eax, %eax; 1: inc %eax; addr16 loop 1b\n"
		     "jcxz 2f; hlt; 2: mov $1, %ebx; hlt");

static void test_loop16(void **state)
{
	RUN_IN(MODE_32, code_loop16);
	assert_int_equal(flat_reg(f, RAX), 3);
	assert_int_equal(flat_reg(f, RCX), 0x10000);
	assert_int_equal(flat_reg(f, RBX), 1);
}

/* --- code that changes --------------------------------------------------------------------------
 */

/* The immediate of the very next instruction. */
GUEST(code_modify_next, "movl $0x12345678, 1f+1(%rip); 1: mov $0, %eax; hlt");
/* Every time around a loop, in the same block and in another one. */
GUEST(code_modify_loop, "xor %ecx, %ecx; xor %edx, %edx\n"
			"1: inc %ecx; movb %cl, 2f+1(%rip); jmp 2f; 2: mov $0, %al\n"
			"movzx %al, %eax; add %eax, %edx; cmp $100, %ecx; jne 1b; hlt");
/* By REP: the bytes behind it become NOPs. */
GUEST(code_modify_rep, "lea 1f(%rip), %rdi; mov $0x90, %al; mov $2, %ecx; rep stosb; 1: ud2; hlt");

static void test_self_modifying(void **state)
{
	FLAT_RUN(f, code_modify_next);
	assert_halted();
	assert_int_equal(flat_reg(f, RAX), 0x12345678);
	FLAT_RUN(f, code_modify_loop);
	assert_halted();
	assert_int_equal(flat_reg(f, RDX), 5050);
	FLAT_RUN(f, code_modify_rep);
	assert_halted();
}

/* --- many blocks
 * ------------------------------------------------------------------------------------ */

/* More blocks than the cache holds, each a jump to the next; then all once more. */
static void test_cache_full(void **state)
{
	unsigned n = 100000, i;

	flat_reset(f, MODE_64);
	for (i = 0; i < n; i++)
		store_u16(f->ram + 0x300000 + 2 * i, 0x00eb);
	f->ram[0x300000 + 2 * n] = 0xf4;
	for (i = 0; i < 2; i++) {
		f->cpu->s.rip = 0x300000;
		f->cpu->s.mp_state = MP_RUNNING;
		f->cpu->insns = 0;
		flat_run(f);
		assert_halted();
		assert_int_equal(f->cpu->insns, n + 1);
	}
}

/* --- counting
 * ------------------------------------------------------------------------------------- */

static void count_stop(void *arg)
{
	*(uint64_t *)arg = clock_now_ns(&f->vm->clock);
}

GUEST(code_forever, "1: inc %rax; inc %rbx; inc %rcx; inc %rdx; jmp 1b");

/* A run ends exactly where the next timer is due, wherever in a block that is. */
static void test_icount(void **state)
{
	struct guest_clock *k = &f->vm->clock;
	struct clock_timer t;
	uint64_t fired, due;

	flat_reset(f, MODE_64);
	flat_load(f, code_forever, code_forever_end);
	clock_timer_init(&t, k, HOST_NODE_ANY, count_stop, &fired);
	for (due = 1000; due < 1020; due++) {
		clock_timer_arm(&t, due);
		fired = 0;
		while (!fired) {
			assert_int_equal(f->vm->engine->run(f->vcpu, &f->exit), 0);
			assert_int_equal(f->exit.reason, EXIT_KICK);
			clock_run_timers(k);
		}
		assert_int_equal(fired, due);
		assert_int_equal(f->cpu->insns, due);
		assert_int_equal(flat_reg(f, RAX), (due + 4) / 5);
	}
	clock_timer_destroy(&t);
}

GUEST(code_tsc, "nop; nop; rdtsc; mov %eax, %ebx; nop; rdtsc; sub %ebx, %eax; hlt");

static void test_icount_tsc(void **state)
{
	FLAT_RUN(f, code_tsc);
	assert_int_equal(flat_reg(f, RBX), 2);
	assert_int_equal(flat_reg(f, RAX), 3);
}

/* --- no memory
 * ------------------------------------------------------------------------------------ */

/* Whatever cannot be had, the error says so and nothing stays behind. */
static void test_no_memory(void **state)
{
	uint64_t used;
	unsigned n;

	f->vm->engine->vcpu_destroy(f->vcpu);
	used = sim_node_used(&host, 0);
	for (n = 1;; n++) {
		int err;

		sim_fail(&host, SIM_FAIL_ALLOC, n);
		err = f->vm->engine->vcpu_create(f->vcpu);
		sim_fail(&host, SIM_FAIL_ALLOC, 0);
		if (!err)
			break;
		assert_int_equal(err, -ENOMEM);
		assert_null(f->vcpu->engine_data);
		assert_int_equal(sim_node_used(&host, 0), used);
	}
	assert_in_range(n, 6, 20);
}

#define TEST(fn)        cmocka_unit_test_setup_teardown(fn, setup, teardown)
#define TEST_ICOUNT(fn) cmocka_unit_test_setup_teardown(fn, setup_icount, teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(test_loop),
		TEST(test_widths),
		TEST(test_carry),
		TEST(test_divide),
		TEST(test_rep_bsf),
		TEST(test_stack),
		TEST(test_pusha),
		TEST(test_stack16),
		TEST(test_movs),
		TEST(test_compare_strings),
		TEST(test_rep_fault),
		TEST(test_rmw_fault),
		TEST(test_rmw_cross),
		TEST(test_cx16),
		TEST(test_bit_string),
		TEST(test_canonical),
		TEST(test_undefined),
		TEST(test_crossing),
		TEST(test_crossing_fault),
		TEST(test_segment_limit),
		TEST(test_ip_wrap),
		TEST(test_bcd),
		TEST(test_bound),
		TEST(test_loop16),
		TEST(test_self_modifying),
		TEST(test_cache_full),
		TEST(test_no_memory),
		TEST_ICOUNT(test_icount),
		TEST_ICOUNT(test_icount_tsc),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
