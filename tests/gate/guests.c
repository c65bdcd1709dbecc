/*
 * guests.c - the fixed guests of the performance gate; see guests.h.
 *
 * Each is a loop over one kind of work, some ten thousand instructions long, that
 * ends with a system call that halts. What it computes does not matter, what it executes is
 * the same each time. Most are programs, in ring 3: a kernel's accesses to memory are
 * translated in another way.
 */
#include "guests.h"

#define GDT      0x5000u
#define TSS      0x6000u
#define SYSCALL  0x7000u
#define FAULT    0x7400u
#define PERCPU   0x6800u /* not on a page with code */
#define STACK0   0x30000u
#define PD       0x3000u
#define PT       0x40000u /* of FAULTING's 2 MiB */
#define FAULTING 0xa00000u

#define KERNEL_CS 0x08
#define USER_CS   0x23
#define USER_SS   0x1b

#define END "mov $-1, %eax\nsyscall\n"

/* A repetition of @body, %r14 times. */
#define LOOP(count, body) "mov $" #count ", %r14d\n1:\n" body "dec %r14d\njnz 1b\n" END

GUEST(integer, "mov $0x9e3779b97f4a7c15, %rdx\n" LOOP(1500, "add %rdx, %rax\n"
							    "imul %rdx, %rbx\n"
							    "xor %rax, %rcx\n"
							    "rol $13, %rcx\n"
							    "lea 1(%rcx,%rbx,4), %rsi\n"
							    "sub %rsi, %rdi\n"
							    "adc $0, %r8\n"
							    "shr $3, %rsi\n"
							    "movzbl %sil, %r9d\n"
							    "cmp %r9, %r8\n"
							    "setb %bpl\n"
							    "cmovb %rsi, %r12\n"));

/* The registers that have no host register of their own. */
GUEST(spilled, LOOP(2000, "add %r11, %r10\n"
			  "lea 3(%r10,%r15), %r11\n"
			  "xor %r10, %r15\n"
			  "mov %r15, %rax\n"
			  "imul %r11, %rax\n"
			  "mov %rax, %r10\n"
			  "shr $7, %r11\n"));

GUEST(branches, "mov $0x12345, %eax\n" LOOP(2000, "imul $1103515245, %eax\n"
						  "add $12345, %eax\n"
						  "test $0x10000, %eax\n"
						  "jz 2f\n"
						  "inc %ebx\n"
						  "2: bt $20, %eax\n"
						  "jnc 3f\n"
						  "dec %ebx\n"
						  "3: cmp $0x40000000, %eax\n"
						  "jb 4f\n"
						  "xor %eax, %ecx\n"
						  "4:\n"));

/* Recursion with frames as compilers make them. */
GUEST(calls, "mov $10, %edi\n"
	     "call 1f\n" END "1: push %rbp\n"
	     "mov %rsp, %rbp\n"
	     "push %rbx\n"
	     "sub $8, %rsp\n"
	     "mov %edi, %ebx\n"
	     "mov $1, %eax\n"
	     "cmp $2, %edi\n"
	     "jb 2f\n"
	     "lea -1(%rbx), %edi\n"
	     "call 1b\n"
	     "mov %eax, -16(%rbp)\n"
	     "lea -2(%rbx), %edi\n"
	     "call 1b\n"
	     "add -16(%rbp), %eax\n"
	     "2: add $8, %rsp\n"
	     "pop %rbx\n"
	     "pop %rbp\n"
	     "ret\n");

/* An interpreter's dispatch, a table of functions, a function on another page. */
GUEST(jumps, "lea 10f(%rip), %rdx\n"
	     "mov $1800, %r14d\n"
	     "1: mov %r14d, %eax\n"
	     "imul $0x9e3779b1, %eax\n"
	     "shr $30, %eax\n"
	     "movslq (%rdx,%rax,4), %rcx\n"
	     "add %rdx, %rcx\n"
	     "jmp *%rcx\n"
	     "2: inc %ebx\n"
	     "jmp 6f\n"
	     "3: lea 7f(%rip), %rcx\n"
	     "call *%rcx\n"
	     "jmp 6f\n"
	     "4: call 8f\n"
	     "jmp 6f\n"
	     "5: dec %ebx\n"
	     "6: dec %r14d\n"
	     "jnz 1b\n" END "7: add $3, %ebx\n"
	     "ret\n"
	     "10: .long 2b - 10b, 3b - 10b, 4b - 10b, 5b - 10b\n"
	     ".skip 4096\n"
	     "8: sub $3, %ebx\n"
	     "ret\n");

GUEST(memory, "mov $0x200000, %esi\n"
	      "mov $0x210000, %edi\n"
	      "mov $0x220000, %ebx\n" LOOP(1000, "mov %r14d, %eax\n"
						 "and $0xff8, %eax\n"
						 "mov (%rsi,%rax), %rcx\n"
						 "add 8(%rsi,%rax,2), %rcx\n"
						 "mov %rcx, (%rdi,%rax)\n"
						 "incl 4(%rbx)\n"
						 "mov 8(%rbx), %rdx\n"
						 "add %rdx, 16(%rbx)\n"
						 "movzwl 24(%rbx), %edx\n"
						 "mov %dl, 30(%rbx)\n"
						 "mov 0x230000, %edx\n"
						 "lea (%rbx,%rdx), %r8\n"
						 "movb $1, 0x1000(%r8)\n"));

/* Loops as compilers make them: by pointers, by index, backwards. */
GUEST(arrays, "mov $30, %r14d\n"
	      "1: mov $0x200000, %esi\n"
	      "mov $0x210ff0, %edi\n"
	      "mov $300, %ecx\n"
	      "2: mov (%rsi), %eax\n"
	      "add %eax, (%rdi)\n"
	      "add $4, %rsi\n"
	      "add $4, %rdi\n"
	      "dec %ecx\n"
	      "jnz 2b\n"
	      "mov $0x220000, %ebx\n"
	      "xor %ecx, %ecx\n"
	      "3: mov 8(%rbx,%rcx,8), %rax\n"
	      "mov %rax, 0x10000(%rbx,%rcx,8)\n"
	      "inc %rcx\n"
	      "cmp $300, %rcx\n"
	      "jb 3b\n"
	      "4: movb $1, (%rbx,%rcx)\n"
	      "sub $1, %rcx\n"
	      "jnz 4b\n"
	      "dec %r14d\n"
	      "jnz 1b\n" END);

/* Tables that are looked up with what was computed a moment ago, and branches between. */
GUEST(tables, "mov $0x200000, %esi\n"
	      "mov $0x208000, %ebx\n" LOOP(1500, "movzbl (%rsi), %ecx\n"
						 "xor %eax, %ecx\n"
						 "and $0xff, %ecx\n"
						 "shr $8, %eax\n"
						 "xor (%rbx,%rcx,4), %eax\n"
						 "inc %rsi\n"
						 "test $1, %ecx\n"
						 "jz 2f\n"
						 "mov %eax, 0x400(%rbx,%rcx,4)\n"
						 "2: inc %eax\n"));

/* A list over 64 pages, %rbx is in it. */
#define LIST_OF_PAGES                                                                              \
	"mov $0x240000, %ebx\n"                                                                    \
	"xor %ecx, %ecx\n"                                                                         \
	"2: mov %ecx, %eax\n"                                                                      \
	"imul $37, %eax\n"                                                                         \
	"add $37, %eax\n"                                                                          \
	"and $63, %eax\n"                                                                          \
	"imul $4104, %rax, %rax\n"                                                                 \
	"lea (%rbx,%rax), %rdx\n"                                                                  \
	"imul $37, %ecx, %eax\n"                                                                   \
	"and $63, %eax\n"                                                                          \
	"imul $4104, %rax, %rax\n"                                                                 \
	"mov %rdx, (%rbx,%rax)\n"                                                                  \
	"inc %ecx\n"                                                                               \
	"cmp $64, %ecx\n"                                                                          \
	"jb 2b\n"

GUEST(chase, LIST_OF_PAGES LOOP(4000, "mov (%rbx), %rbx\n"));

/* As kernels do it: from object to object, on the stack, by GS. */
GUEST(objects, LIST_OF_PAGES LOOP(1000, "push %rbx\n"
					"mov (%rbx), %rbx\n"
					"jmp 3f\n" /* no loop of one block */
					"3: mov 8(%rbx), %rax\n"
					"add 16(%rbx), %rax\n"
					"mov %rax, 24(%rbx)\n"
					"incl %gs:0x6810\n"
					"mov 0x230000, %edx\n"
					"pop %rcx\n"
					"test %edx, 32(%rcx)\n"));

GUEST(strings, "mov $60, %r14d\n"
	       "1: mov $0x200000, %esi\n"
	       "mov $0x210010, %edi\n"
	       "mov $300, %ecx\n"
	       "rep movsb\n"
	       "mov $64, %ecx\n"
	       "xor %eax, %eax\n"
	       "rep stosq\n"
	       "mov $0x200000, %esi\n"
	       "mov $0x210010, %edi\n"
	       "mov $100, %ecx\n"
	       "repe cmpsb\n"
	       "lodsl\n"
	       "stosb\n"
	       "mov $0x210000, %edi\n"
	       "mov $200, %ecx\n"
	       "mov $1, %al\n"
	       "repne scasb\n"
	       "dec %r14d\n"
	       "jnz 1b\n" END);

GUEST(sse, "mov $0x200000, %esi\n"
	   "mov $0x210000, %edi\n"
	   "pxor %xmm0, %xmm0\n"
	   "cvtsi2sd %rsi, %xmm7\n" LOOP(1000, "movups (%rsi), %xmm1\n"
					       "movaps 16(%rsi), %xmm2\n"
					       "addps %xmm1, %xmm0\n"
					       "mulps %xmm2, %xmm0\n"
					       "movups %xmm0, (%rdi)\n"
					       "mulsd %xmm7, %xmm7\n"
					       "addsd 32(%rsi), %xmm7\n"
					       "pshufb %xmm1, %xmm2\n"
					       "paddd 48(%rsi), %xmm2\n"
					       "movd %xmm2, %eax\n"
					       "ucomisd %xmm7, %xmm0\n"
					       "setb %cl\n"));

GUEST(x87, "mov $0x200000, %esi\n"
	   "fninit\n"
	   "fld1\n" LOOP(1000, "fldl (%rsi)\n"
			       "fmul %st(1), %st\n"
			       "fld1\n"
			       "faddp\n"
			       "fstpl 8(%rsi)\n"));

GUEST(atomics, "mov $0x200000, %esi\n" LOOP(1000, "lock incl (%rsi)\n"
						  "mov $1, %eax\n"
						  "lock xadd %eax, 4(%rsi)\n"
						  "xor %eax, %eax\n"
						  "lock cmpxchg %ecx, 8(%rsi)\n"
						  "xchg %edx, 16(%rsi)\n"
						  "mfence\n"));

/* Ring 3 asks ring 0 for nothing, as getppid() does. */
GUEST(syscalls, "mov $500, %r14d\n"
		"1: mov $39, %eax\n"
		"syscall\n"
		"dec %r14d\n"
		"jnz 1b\n" END);

GUEST(syscall_entry, "swapgs\n"
		     "mov %rsp, %gs:8\n"
		     "mov %gs:0, %rsp\n"
		     "push %rcx\n"
		     "push %r11\n"
		     "push %rdi\n"
		     "push %rsi\n"
		     "sti\n"
		     "cmp $-1, %eax\n"
		     "je 9f\n"
		     "cmp $1, %eax\n"
		     "je 7f\n"
		     "mov $1, %eax\n"
		     "8: cli\n"
		     "pop %rsi\n"
		     "pop %rdi\n"
		     "pop %r11\n"
		     "pop %rcx\n"
		     "mov %gs:8, %rsp\n"
		     "swapgs\n"
		     "sysretq\n"
		     /* System call 1 takes the pages away again. */
		     "7: mov $0x40000, %edi\n"
		     "mov $64, %ecx\n"
		     "xor %esi, %esi\n"
		     "6: mov %rsi, -8(%rdi,%rcx,8)\n"
		     "dec %ecx\n"
		     "jnz 6b\n"
		     "mov %cr3, %rdi\n"
		     "mov %rdi, %cr3\n"
		     "jmp 8b\n"
		     "9: hlt\n");

/* Ring 3 touches pages that are not there; ring 0 maps them. */
GUEST(faults, "mov $5, %r14d\n"
	      "1: mov $0xa00000, %ebx\n"
	      "mov $64, %ecx\n"
	      "2: mov %ecx, (%rbx)\n"
	      "add $4096, %rbx\n"
	      "dec %ecx\n"
	      "jnz 2b\n"
	      "mov $1, %eax\n"
	      "syscall\n"
	      "dec %r14d\n"
	      "jnz 1b\n" END);

GUEST(fault_entry, "swapgs\n"
		   "push %rax\n"
		   "push %rcx\n"
		   "push %rdx\n"
		   "mov %cr2, %rax\n"
		   "mov %rax, %rcx\n"
		   "shr $12, %rcx\n"
		   "and $511, %ecx\n"
		   "and $-4096, %rax\n"
		   "or $0x67, %rax\n"
		   "mov $0x40000, %edx\n"
		   "mov %rax, (%rdx,%rcx,8)\n"
		   "pop %rdx\n"
		   "pop %rcx\n"
		   "pop %rax\n"
		   "add $8, %rsp\n"
		   "swapgs\n"
		   "iretq\n");

/* What kernels do between two processes, and when they leave handlers. */
GUEST(control, LOOP(400, "mov %cr0, %rax\n"
			 "mov %cr4, %rdx\n"
			 "clts\n"
			 "mov %cr2, %rax\n"
			 "mov %rax, %cr2\n"
			 "pushfq\n"
			 "popfq\n"
			 "mov $0xc0000100, %ecx\n"
			 "xor %eax, %eax\n"
			 "xor %edx, %edx\n"
			 "wrmsr\n"
			 "rdmsr\n"
			 "pause\n"
			 "mov %rsp, %rbx\n"
			 "push $0\n"
			 "push %rbx\n"
			 "pushfq\n"
			 "push $8\n"
			 "lea 2f(%rip), %rax\n"
			 "push %rax\n"
			 "iretq\n"
			 "2:\n"));

#define RING0(name, what)                                                                          \
	{                                                                                          \
#name, what, name, name##_end, 0                                                   \
	}
#define RING3(name, what)                                                                          \
	{                                                                                          \
#name, what, name, name##_end, 3                                                   \
	}

const struct guest guests[] = {
	RING3(integer, "arithmetic and flags in registers"),
	RING3(spilled, "the same with r10, r11, r15"),
	RING3(branches, "conditional branches, taken half the time"),
	RING3(calls, "recursion"),
	RING3(jumps, "indirect jumps, calls, another page"),
	RING3(memory, "loads, stores, read-modify-writes"),
	RING3(arrays, "loops over arrays"),
	RING3(tables, "tables looked up by computed index"),
	RING3(chase, "a list over 64 pages"),
	RING3(strings, "REP MOVS, STOS, CMPS, SCAS"),
	RING3(sse, "scalar and packed SSE"),
	RING3(x87, "x87"),
	RING3(atomics, "locked instructions"),
	RING0(control, "control registers, MSRs, flags, IRET"),
	RING0(objects, "a kernel's loads, stores and stack"),
	RING3(syscalls, "SYSCALL and SYSRET"),
	RING3(faults, "page faults from ring 3"),
	{ 0 },
};

static void put(struct flat *f, uint32_t at, const uint8_t *code, const uint8_t *end)
{
	memcpy(f->ram + at, code, (size_t)(end - code));
	f->vm->engine->code_changed(f->vm, at, (uint64_t)(end - code));
}

static void put_jump(struct flat *f, uint32_t at, uint32_t to)
{
	uint8_t code[5] = { 0xe9 };

	store_u32(code + 1, to - (at + 5));
	put(f, at, code, code + sizeof(code));
}

static void put_tables(uint8_t *ram)
{
	store_u64(ram + GDT + 0x18, 0x00cff3000000ffffull);
	store_u64(ram + GDT + 0x20, 0x00affb000000ffffull);
	memset(ram + TSS, 0, 0x68);
	store_u64(ram + TSS + 4, STACK0);
	store_u64(ram + PERCPU, STACK0);
	memset(ram + PT, 0, PAGE_SIZE);
	store_u64(ram + PD + (FAULTING >> 21) * 8, PT | 7);
}

void guest_load(struct flat *f, const struct guest *g)
{
	flat_reset(f, MODE_64);
	put_tables(f->ram);
	flat_load(f, g->code, g->end);
	put(f, SYSCALL, syscall_entry, syscall_entry_end);
	put(f, FAULT, fault_entry, fault_entry_end);
	put_jump(f, FLAT_TRAP + 16 * EXC_PF, FAULT);
}

void guest_run(struct flat *f, const struct guest *g)
{
	struct cpu_state *s = &f->before;

	s->tr = (struct segment){ 0x40, 0x8b, 0x67, TSS };
	s->gdtr.limit = 0x27;
	s->star = (uint64_t)0x13 << 48 | (uint64_t)KERNEL_CS << 32;
	s->lstar = SYSCALL;
	s->sfmask = RFLAGS_IF | RFLAGS_TF | RFLAGS_DF;
	s->kernel_gs_base = PERCPU;
	if (g->ring) {
		s->seg[SEG_CS] = (struct segment){ USER_CS, 0xa0fb, UINT32_MAX, 0 };
		s->seg[SEG_SS] = (struct segment){ USER_SS, 0xc0f3, UINT32_MAX, 0 };
	}
	f->vm->engine->set_state(f->vcpu, s);
	flat_run(f);
}
