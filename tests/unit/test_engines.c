/*
 * test_engines.c - the same program on every engine ends with the same registers and the
 * same memory: interpreter, translator, and KVM where /dev/kvm opens.
 *
 * Programs are flat, for one vCPU, and end the same way whatever executes them. They log
 * what they see (flags, frames of exceptions) at R15, set a word when they are done, and
 * stay at one instruction. What an architecture leaves undefined is masked by them.
 */
#include "run_until.h"

#include "compare.h"
#include "host/linux/host_linux.h"
#include "host/linux/kvm/engine_kvm.h"
#include "host/linux/kvm/kvm.h"
#include "host/linux/kvm/probe.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define LOG     FLAT_DATA /* R15 at the start */
#define DONE    0x300000u
#define TRAPS   0x110000u /* a stub for each exception, then what they have in common */
#define TRAP    0x111000u
#define COUNTER 0x112000u /* the handler of interrupts */
#define TSS     0x6000u
#define STACK_0 0x18000u /* where ring 3's interrupts go */
#define LEFT    0x30000u /* bytes from LOG on that programs write */
#define GDT     0x5000u
#define CODE_32 0x18
#define USER_SS 0x2b
#define USER_CS 0x33
#define TSS_SEL 0x38
#define SYSCALL 0x80
#define VECTOR  0x40 /* and the two that follow */
#define PML4    0x1000u
#define PDPT    0x2000u
#define PD      0x3000u

/* --- programs ---------------------------------------------------------------------------- */

/*
 * What they are written with:
 *	flags MASK		logs those that are defined after the instruction before
 *	try ... 1:		goes on at 1 when a fault between has been logged
 *	msr_write, msr_read	the number; what is read is logged
 *	done			the end
 */
asm(".macro flags mask\n pushfq\n pop %rax\n and $\\mask, %eax\n mov %rax, (%r15)\n"
    "	add $8, %r15\n .endm\n"
    ".macro try\n lea 1f(%rip), %r13\n cmp %eax, %eax\n .endm\n"
    ".macro msr_write msr, high, low\n mov $\\msr, %ecx\n mov $\\low, %eax\n"
    "	mov $\\high, %edx\n wrmsr\n .endm\n"
    ".macro msr_read msr\n mov $\\msr, %ecx\n rdmsr\n mov %eax, (%r15)\n mov %edx, 4(%r15)\n"
    "	add $8, %r15\n .endm\n"
    ".macro done\n cmp %rax, %rax\n movl $1, 0x300000\n 99: jmp 99b\n .endm\n");

GUEST(arithmetic, "	mov $0x123456789abcdef0, %rbx\n"
		  "	mov $0x0fedcba987654321, %rcx\n"
		  "	mov $50, %r14d\n"
		  "0:	add %rcx, %rbx\n flags 0x8d5\n"
		  "	adc %ebx, %ecx\n flags 0x8d5\n"
		  "	sbb %bx, %cx\n flags 0x8d5\n"
		  "	sub $0x7f, %bl\n flags 0x8d5\n"
		  "	neg %rcx\n flags 0x8d5\n"
		  "	inc %bh\n flags 0x8d5\n"
		  "	dec %ecx\n flags 0x8d5\n"
		  "	cmp %rbx, %rcx\n flags 0x8d5\n"
		  "	cmovbe %rbx, %rdx\n setg %dl\n"
		  "	lea 1(%rbx, %rcx, 4), %rsi\n"
		  "	imul %rsi, %rbx\n flags 0x801\n"
		  "	mov %rbx, %rax\n mul %rcx\n xor %rdx, %rbx\n flags 0x8c5\n"
		  "	rol $1, %rbx\n flags 0x801\n"
		  "	rcr $1, %rcx\n flags 0x801\n"
		  "	shl $1, %rbx\n flags 0x8c5\n"
		  "	sar $7, %rcx\n flags 0xc5\n"
		  "	shrd $5, %rbx, %rcx\n flags 0xc5\n"
		  "	bt %rcx, %rbx\n flags 1\n"
		  "	bts $33, %rbx\n btr $12, %ecx\n btc $3, %bx\n"
		  "	or $1, %rcx\n bsf %rcx, %rdi\n flags 0x40\n"
		  "	bsr %rcx, %rdi\n bswap %rdi\n"
		  "	xadd %rbx, %rdi\n flags 0x8d5\n"
		  "	mov %rbx, %rax\n xor %edx, %edx\n div %rcx\n mov %rax, (%r15)\n"
		  "	mov %rdx, 8(%r15)\n add $16, %r15\n"
		  "	movsbl %bl, %eax\n cdqe\n cqo\n movzwl %cx, %edi\n"
		  "	lock xadd %rax, 0x210000\n lock orq $1, 0x210008\n"
		  "	mov 0x210000, %rax\n lock cmpxchg %rcx, 0x210000\n flags 0x8d5\n"
		  "	dec %r14d\n jnz 0b\n"
		  "	done\n");

GUEST(strings, "	cld\n mov $0x210000, %edi\n mov $0x1122334455667788, %rax\n"
	       "	mov $100, %ecx\n rep stosq\n"
	       "	mov $0x210003, %esi\n mov $0x211ffd, %edi\n mov $300, %ecx\n rep movsb\n"
	       "	mov $0x210000, %esi\n mov $0x210008, %edi\n mov $100, %ecx\n"
	       "	repe cmpsq\n flags 0x8d5\n"
	       "	mov $0x211ffd, %edi\n mov $0x55, %al\n mov $300, %ecx\n repne scasb\n"
	       "	std\n mov $0x212100, %esi\n mov $0x212108, %edi\n mov $40, %ecx\n"
	       "	rep movsw\n lodsl\n cld\n lodsb\n"
	       /* few and many elements, at all distances from one onto itself to far apart */
	       "	mov $-9, %r9\n"
	       "0:	mov $33, %r8d\n"
	       "1:	mov $0x213000, %esi\n lea (%rsi, %r9), %rdi\n"
	       "	movl %r8d, (%rsi)\n movl %r9d, 7(%rsi)\n"
	       "	mov %r8d, %ecx\n rep movsq\n"
	       "	mov %r8d, %ecx\n rep movsl\n mov %r8d, %ecx\n rep stosw\n"
	       "	sub $1, %r8d\n jnz 1b\n"
	       "	inc %r9\n cmp $20, %r9\n jnz 0b\n"
	       "	enter $32, $0\n push %rsi\n push $-5\n pushw $7\n popw %dx\n pop %rbx\n"
	       "	leave\n call 1f\n jmp 2f\n"
	       "1:	mov (%rsp), %r8\n ret $0\n"
	       "2:	done\n");

GUEST(exceptions, "	xor %ecx, %ecx\n mov $1, %eax\n xor %edx, %edx\n"
		  "	try\n div %ecx\n1:\n"
		  "	try\n ud2\n1:\n"
		  "	try\n int3\n1:\n"
		  "	try\n mov 0x50000000, %eax\n1:\n" /* no page */
		  "	try\n movl $1, 0x50000123\n1:\n"  /* nor for a store */
		  "	try\n movl $1, 0x600000\n1:\n"    /* read-only */
		  "	mov $0x5000000000000000, %rbx\n"  /* not canonical */
		  "	try\n mov (%rbx), %eax\n1:\n"
		  "	try\n mov $0x12345678, %ecx\n rdmsr\n1:\n" /* no such MSR */
		  "	mov %cr2, %rsi\n"
		  "	done\n");

/* An alias in base pages: made, written through, made read-only, taken away, data only. */
GUEST(paging, "	mov $0x400000, %ebx\n xor %ecx, %ecx\n"
	      "0:	mov %ecx, %eax\n shl $12, %eax\n add $0x210067, %eax\n"
	      "	mov %rax, (%rbx, %rcx, 8)\n inc %ecx\n cmp $16, %ecx\n jne 0b\n"
	      "	movq $0x400027, 0x3800\n" /* it is the table of 0x20000000 */
	      "	mov $0x20000000, %esi\n"
	      "	movq $0x1234, 0x10(%rsi)\n movq $0x5678, 0xffc(%rsi)\n mov 0x210010, %rdx\n"
	      "	andq $~2, 0x400008\n invlpg 0x1000(%rsi)\n"
	      "	try\n movl $1, 0x20001004\n1:\n"
	      "	movq $0, 0x400010\n invlpg 0x2000(%rsi)\n"
	      "	try\n mov 0x20002008, %eax\n1:\n"
	      "	movq $0x22f067, 0x400018\n mov %cr3, %rax\n mov %rax, %cr3\n"
	      "	movq $0x9abc, 0x3ff0(%rsi)\n"
	      "	btsq $63, 0x400020\n invlpg 0x4000(%rsi)\n mov $0x20004000, %ebx\n"
	      "	try\n call *%rbx\n1:\n"
	      "	mov $0x20000, %esp\n mov %cr2, %r8\n"
	      "	done\n");

/* Sent to itself with interrupts off: they come by priority, later one after the other. */
GUEST(interrupts, "	cli\n msr_write 0x80f, 0, 0x1ff\n"
		  "	msr_write 0x83f, 0, 0x41\n"
		  "	msr_write 0x83f, 0, 0x40\n"
		  "	msr_write 0x83f, 0, 0x52\n"
		  "	msr_read 0x822\n"
		  "	mov $0x210000, %r12d\n sti\n"
		  "0:	cmpl $3, (%r12)\n jne 0b\n cli\n"
		  "	msr_read 0x822\n msr_read 0x80a\n"
		  "	mov $5, %eax\n mov %rax, %cr8\n"
		  "	msr_write 0x83f, 0, 0x45\n"
		  "	sti\n nop\n nop\n cli\n msr_read 0x822\n" /* below its priority */
		  "	xor %eax, %eax\n mov %rax, %cr8\n sti\n"
		  "0:	cmpl $4, (%r12)\n jne 0b\n cli\n"
		  "	mov $0x1ff00, %edi\n xor %eax, %eax\n mov $32, %ecx\n"
		  "	rep stosq\n" /* where they came is not the same each time */
		  "	xor %edx, %edx\n"
		  "	done\n");

GUEST(msrs, "	msr_write 0xc0000081, 0x00230008, 0\n"
	    "	msr_write 0xc0000082, 0xffffffff, 0x81000000\n"
	    "	msr_write 0xc0000084, 0, 0x47700\n"
	    "	msr_write 0xc0000102, 0xffff8880, 0x12345678\n"
	    "	msr_write 0xc0000100, 0, 0x210000\n"
	    "	msr_write 0xc0000101, 0, 0x211000\n"
	    "	msr_write 0x174, 0, 8\n"
	    "	msr_write 0x175, 0, 0x20000\n"
	    "	msr_write 0x176, 0, 0x81000000\n"
	    "	msr_write 0x277, 0x00070406, 0x00070406\n"
	    "	msr_read 0xc0000081\n msr_read 0xc0000082\n msr_read 0xc0000084\n"
	    "	msr_read 0xc0000102\n msr_read 0xc0000100\n msr_read 0xc0000101\n"
	    "	msr_read 0x174\n msr_read 0x175\n msr_read 0x277\n"
	    "	movq $77, %fs:8\n movq $78, %gs:16\n"
	    "	swapgs\n msr_read 0xc0000101\n swapgs\n"
	    "	done\n");

/* Compatibility mode by a far return, and back. */
GUEST(modes, "	mov $0x18, %eax\n push %rax\n lea 1f(%rip), %rax\n push %rax\n"
	     "	lea 2f(%rip), %rbx\n lretq\n"
	     ".code32\n"
	     "1:	mov %cs, %ecx\n mov $0x19, %al\n aaa\n mov %eax, 0x210000\n"
	     "	pusha\n inc %edi\n inc %edi\n popa\n bound %edx, 0x210100\n"
	     "	push $8\n push %ebx\n lret\n"
	     ".code64\n"
	     "2:	mov %cs, %edi\n"
	     "	done\n");

/* What it executes changes in front of it, and on another page. */
GUEST(changes, "	mov $40, %r14d\n xor %ebx, %ebx\n lea 1f(%rip), %rsi\n"
	       "	movl $0xc301c383, 0x220000\n" /* add $1, %ebx; ret */
	       "0:	mov %r14b, 2(%rsi)\n"
	       "1:	add $1, %ebx\n"
	       "	mov $0x220000, %eax\n call *%rax\n"
	       "	add %r14b, 0x220002\n"
	       "	dec %r14d\n jnz 0b\n"
	       "	done\n");

/* Ring 3 and back: by an interrupt, by faults, by SYSCALL. */
GUEST(rings, "	mov $0x38, %eax\n ltr %ax\n"
	     "	msr_write 0xc0000081, 0x00230008, 0\n"
	     "	lea 3f(%rip), %rax\n mov %rax, %rdx\n shr $32, %rdx\n"
	     "	mov $0xc0000082, %ecx\n wrmsr\n"
	     "	msr_write 0xc0000084, 0, 0x700\n"
	     "	push $0x2b\n push $0x1f000\n push $2\n push $0x33\n"
	     "	lea 2f(%rip), %rax\n push %rax\n iretq\n"
	     "2:	mov %cs, %ebp\n"
	     "	try\n int $0x80\n1:\n"
	     "	try\n hlt\n1:\n"
	     "	try\n mov %cr0, %rax\n1:\n"
	     "	mov $0x5000000000000000, %rbx\n"
	     "	try\n push (%rbx)\n1:\n"
	     "	cmp %eax, %eax\n syscall\n"
	     "3:	mov %rcx, (%r15)\n mov %r11, 8(%r15)\n add $16, %r15\n"
	     "	mov %cs, %eax\n mov %ss, %edx\n"
	     "	done\n");

GUEST(floats, "	fninit\n fldpi\n fld1\n faddp\n fsqrt\n fldl2e\n fmul %st(1), %st\n"
	      "	fstpt (%r15)\n fstcw 16(%r15)\n add $24, %r15\n"
	      "	fcomi %st(0), %st\n flags 0x45\n"
	      "	movl $0x1f80, 0x210000\n ldmxcsr 0x210000\n"
	      "	mov $12345, %eax\n cvtsi2sd %eax, %xmm0\n movsd %xmm0, %xmm1\n"
	      "	mulsd %xmm1, %xmm0\n sqrtsd %xmm0, %xmm2\n unpcklpd %xmm1, %xmm0\n"
	      "	divpd %xmm2, %xmm0\n paddq %xmm0, %xmm1\n pshufd $0x1b, %xmm1, %xmm3\n"
	      "	movdqu %xmm3, (%r15)\n stmxcsr 16(%r15)\n"
	      "	xor %edx, %edx\n xor %eax, %eax\n cmpxchg16b 0x210010\n"
	      "	pxor %xmm4, %xmm4\n pcmpeqd %xmm5, %xmm5\n pmovmskb %xmm5, %ecx\n"
	      "	done\n");

/* A step at a time through a loop, each one logged. */
GUEST(steps, "	mov $3, %ecx\n xor %edx, %edx\n"
	     "	pushfq\n orl $0x100, (%rsp)\n popfq\n"
	     "0:	add $3, %edx\n dec %ecx\n jnz 0b\n"
	     "	pushfq\n andl $~0x100, (%rsp)\n popfq\n"
	     "	done\n");

/*
 * Vector, error, CR2 and the frame without RF, which not everybody stores. On at R13, or
 * where it was, if that was a step.
 */
GUEST(log_trap, "	push %rax\n push %rcx\n"
		"	mov 16(%rsp), %rax\n mov %rax, (%r15)\n"
		"	mov 24(%rsp), %rax\n mov %rax, 8(%r15)\n"
		"	mov 32(%rsp), %rax\n mov %rax, 16(%r15)\n"
		"	mov 40(%rsp), %rax\n mov %rax, 24(%r15)\n"
		"	andl $~0x10000, 48(%rsp)\n mov 48(%rsp), %rax\n mov %rax, 32(%r15)\n"
		"	mov 56(%rsp), %rax\n mov %rax, 40(%r15)\n"
		"	mov 64(%rsp), %rax\n mov %rax, 48(%r15)\n"
		"	mov %cr2, %rax\n mov %rax, 56(%r15)\n add $64, %r15\n"
		"	cmpl $1, 16(%rsp)\n je 1f\n mov %r13, 32(%rsp)\n"
		"1:	pop %rcx\n pop %rax\n add $16, %rsp\n iretq\n");

GUEST(count_interrupt, "	push %rax\n push %rcx\n push %rdx\n"
		       "	mov 24(%rsp), %rax\n mov %rax, (%r15)\n add $8, %r15\n"
		       "	incl (%r12)\n"
		       "	msr_write 0x80b, 0, 0\n"
		       "	pop %rdx\n pop %rcx\n pop %rax\n add $16, %rsp\n iretq\n");

struct program {
	const char *name;
	const uint8_t *code, *end;
	bool processor; /* a KVM that interprets guest code does not know all of it */
};

#define PROGRAM(name, ...)                                                                         \
	{                                                                                          \
#name, name, name##_end, __VA_ARGS__                                               \
	}
static const struct program programs[] = {
	PROGRAM(arithmetic, false), PROGRAM(strings, false),    PROGRAM(exceptions, true),
	PROGRAM(paging, true),      PROGRAM(interrupts, false), PROGRAM(msrs, true),
	PROGRAM(modes, true),       PROGRAM(changes, false),    PROGRAM(rings, true),
	PROGRAM(floats, true),      PROGRAM(steps, true),
};

/* --- a machine for them ---------------------------------------------------------------------- */

static struct host host;
static bool have_kvm, kvm_is_slow;

static bool has_error(unsigned vector)
{
	return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17;
}

/* PUSH of a zero where the processor pushes no error; PUSH vector; JMP. */
static void put_stub(uint8_t *ram, unsigned vector, uint32_t to)
{
	uint8_t *p = ram + TRAPS + 16 * vector, *gate = ram + FLAT_IDT + 16 * vector;
	uint32_t at = TRAPS + 16 * vector;
	uint64_t dpl = vector == SYSCALL || vector == 3 ? 0x6000ull << 32 : 0;

	store_u64(gate,
		  (uint64_t)(at >> 16) << 48 | 0x8e00ull << 32 | dpl | 8u << 16 | (at & 0xffff));
	store_u64(gate + 8, 0);
	if (!has_error(vector)) {
		*p++ = 0x6a;
		*p++ = 0;
	}
	*p++ = 0x68;
	store_u32(p, vector);
	p += 4;
	*p++ = 0xe9;
	store_u32(p, to - (uint32_t)(p + 4 - ram));
}

static void put_tables(uint8_t *ram)
{
	store_u64(ram + GDT + CODE_32, 0x00cf9b000000ffffull);
	store_u64(ram + GDT + USER_SS - 3, 0x00cff3000000ffffull);
	store_u64(ram + GDT + USER_CS - 3, 0x00affb000000ffffull);
	store_u64(ram + GDT + TSS_SEL, 0x0000890000000067ull | (uint64_t)TSS << 16);
	store_u64(ram + GDT + TSS_SEL + 8, 0);
	memset(ram + TSS, 0, 0x68);
	store_u64(ram + TSS + 4, STACK_0);
	/* Accessed and dirty beforehand: when processors say so is their own affair. */
	for (unsigned i = 0; i < 256; i++)
		store_u64(ram + PD + i * 8, (uint64_t)i << 21 | 0xe7);
	for (unsigned i = 256; i < 512; i++)
		store_u64(ram + PD + i * 8, 0);
	store_u64(ram + PD + 3 * 8, 3ull << 21 | 0xe5); /* 6 MiB: read-only */
	store_u64(ram + PDPT, PD | 0x27);
	store_u64(ram + PML4, PDPT | 0x27);
}

static void begin(struct flat *f, const struct program *p)
{
	struct cpu_state *s = &f->before;

	memset(f->ram, 0, FLAT_RAM);
	flat_reset(f, MODE_64);
	put_tables(f->ram);
	for (unsigned v = 0; v < 256; v++)
		put_stub(f->ram, v, v >= VECTOR && v < SYSCALL ? COUNTER : TRAP);
	memcpy(f->ram + TRAP, log_trap, (size_t)(log_trap_end - log_trap));
	memcpy(f->ram + COUNTER, count_interrupt, (size_t)(count_interrupt_end - count_interrupt));
	flat_load(f, p->code, p->end);
	f->vm->engine->code_changed(f->vm, 0, FLAT_RAM);
	s->gdtr.limit = 0x47;
	s->gpr[R15] = LOG;
	s->apic_base |= BIT(10); /* x2APIC */
	assert_int_equal(f->vm->engine->set_state(f->vcpu, s), 0);
}

static bool is_done(const struct flat *f, void *arg)
{
	return gmem_load_u64(f->ram + DONE) & 1;
}

/*
 * Left out: where the last x87 instruction was, which the translator does not tell; the
 * header and what follows it; what the clock says; XCR0, which KVM has only with XSAVE;
 * what stands behind a null selector.
 */
static void drop_what_differs(struct cpu_state *s)
{
	for (unsigned i = 0; i < SEG_COUNT; i++)
		if (s->seg[i].attr & SEG_UNUSABLE)
			s->seg[i] = (struct segment){ .selector = s->seg[i].selector,
						      .attr = SEG_UNUSABLE };
	memset(s->xsave + 6, 0, 18);
	memset(s->xsave + 28, 0, 4);
	memset(s->xsave + 416, 0, sizeof(s->xsave) - 416);
	s->tsc_offset = 0;
	s->xcr0 = 1;
}

static void run_on(const struct engine_ops *engine, const struct program *p, struct cpu_state *out,
		   uint8_t *memory)
{
	struct flat *f = flat_create_on(engine, &host, 1, CLOCK_HOST);

	begin(f, p);
	if (run_until(f, is_done, NULL) != EXIT_KICK || !is_done(f, NULL))
		fail_msg("%s does not end on %s", p->name, engine->name);
	f->vm->engine->get_state(f->vcpu, out);
	drop_what_differs(out);
	memcpy(memory, f->ram, FLAT_RAM);
	flat_destroy(f);
}

/* --- comparisons ---------------------------------------------------------------------------- */

struct outcome {
	struct cpu_state state;
	uint8_t memory[FLAT_RAM];
};

static struct outcome wanted, found;

static unsigned compare_memory(const char *name)
{
	unsigned differences = 0;

	if (bytes_hash(wanted.memory, FLAT_RAM, 0) == bytes_hash(found.memory, FLAT_RAM, 0))
		return 0;
	for (uint32_t at = 0; at < FLAT_RAM; at += 8) {
		uint64_t a = load_u64(wanted.memory + at), b = load_u64(found.memory + at);

		if (a != b && differences++ < 16)
			printf("  %#x: interp %#llx, %s %#llx\n", at, (unsigned long long)a, name,
			       (unsigned long long)b);
	}
	return differences;
}

static bool compare_on(const struct engine_ops *engine, const struct program *p)
{
	unsigned differences;

	run_on(engine, p, &found.state, found.memory);
	differences = state_show(&wanted.state, &found.state, "interp", engine->name);
	differences += compare_memory(engine->name);
	if (differences)
		printf("# %s: %u differences between interp and %s\n", p->name, differences,
		       engine->name);
	return !differences;
}

static void compare_all(const struct engine_ops *engine, bool only_simple)
{
	bool good = true;

	for (unsigned i = 0; i < ARRAY_SIZE(programs); i++) {
		if (only_simple && programs[i].processor)
			continue;
		run_on(&engine_interp, &programs[i], &wanted.state, wanted.memory);
		good = compare_on(engine, &programs[i]) && good;
	}
	assert_true(good);
}

static void test_translator(void **state)
{
	compare_all(&engine_soft, false);
}

static void test_kvm(void **state)
{
	if (!have_kvm)
		skip();
	compare_all(&engine_kvm, kvm_is_slow);
}

/* Each leaves something behind. A bit in memory and one in a register would be seen. */
static void test_they_would_tell(void **state)
{
	static const uint8_t nothing[LEFT];

	for (unsigned i = 0; i < ARRAY_SIZE(programs); i++) {
		run_on(&engine_interp, &programs[i], &wanted.state, wanted.memory);
		assert_memory_not_equal(wanted.memory + LOG, nothing, LEFT);
	}
	found = wanted;
	assert_int_equal(compare_memory("itself"), 0);
	found.memory[FLAT_RAM - 1] ^= 1;
	assert_int_equal(compare_memory("another"), 1);
	found.state.gpr[RBX]++;
	assert_int_equal(state_show(&wanted.state, &found.state, "one", "other"), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_they_would_tell),
		cmocka_unit_test(test_translator),
		cmocka_unit_test(test_kvm),
	};
	struct kvm_speed speed = { 0 };
	char why[256] = "";
	int fd, failed;

	if (host_linux_create(&host))
		return 1;
	fd = kvm_open(why, sizeof(why));
	have_kvm = fd >= 0;
	if (have_kvm) {
		kvm_is_slow = kvm_measure(&host, fd, &speed) || speed.slow;
		close(fd);
	} else {
		fprintf(stderr, "# KVM IS NOT TESTED HERE: %s\n", why);
	}
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	host_linux_destroy(&host);
	return failed;
}
