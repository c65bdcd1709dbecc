/*
 * returns.c - calls and returns that are not each other's: deep ones, unwound ones, other
 * stacks, return addresses that were written, and code that is not what was left.
 */
#include "rt.h"

#define WINDOW    0x40000000ul
#define USER_CODE 0xc0000000ul
#define STACK     (1u << 20)

static uint8_t stacks[2][STACK] __attribute__((aligned(16)));

typedef uint64_t function(uint64_t n);

/* fn(n) on another stack. */
static uint64_t on_stack(uint8_t *stack, function *fn, uint64_t n)
{
	uint64_t got, kept;

	asm volatile("mov %%rsp, %[kept]\n\tmov %[top], %%rsp\n\tcall *%[fn]\n\tmov %[kept], %%rsp"
		     : "=&a"(got), [kept] "=&b"(kept), "+D"(n)
		     : [top] "r"(stack + STACK), [fn] "r"(fn)
		     : "rcx", "rdx", "rsi", "r8", "r9", "r10", "r11", "memory", "cc");
	return got;
}

static __attribute__((noinline)) uint64_t deep(uint64_t n)
{
	return n ? 1 + deep(n - 1) : 0;
}

static __attribute__((noinline)) uint64_t odd(uint64_t n);

static __attribute__((noinline)) uint64_t even(uint64_t n)
{
	return n ? 2 + odd(n - 1) : 0;
}

static __attribute__((noinline)) uint64_t odd(uint64_t n)
{
	return n ? 3 + even(n - 1) : 0;
}

/* Not a tail call, and two of them: the way back meets all depths again and again. */
static __attribute__((noinline)) uint64_t tree(uint64_t n)
{
	return n < 2 ? n : tree(n - 1) + tree(n - 2);
}

static void test_deep(void)
{
	same(on_stack(stacks[0], deep, 10000), 10000, "recursion, 10,000 deep");
	same(on_stack(stacks[0], even, 9000), 22500, "two that call each other, 9,000 deep");
	same(tree(20), 6765, "a tree of calls");
}

/* From @depth calls deep back to the first of them, as longjmp() does. */
extern uint64_t unwind(uint64_t depth);
asm("unwind: push %rbx\n\tmov %rsp, %rbx\n\tcall 1f\n2:\tpop %rbx\n\tret\n"
    "1:\tdec %rdi\n\tjz 3f\n\tcall 1b\n\tmov $-1, %rax\n\tret\n"
    "3:\tmov $42, %eax\n\tlea -8(%rbx), %rsp\n\tret");

static void test_unwound(void)
{
	unsigned wrong = 0;

	for (unsigned i = 1; i <= 3000; i++)
		wrong += unwind(i % 50 + 1) != 42;
	same(wrong, 0, "many frames left at once");
}

/* Two stacks take turns, each some calls deep: RSP changes, and a return goes elsewhere. */
uint64_t other_sp; /* named by take_turns() */
static uint64_t sum[2];

extern void take_turns(void);
asm("take_turns: push %rbx\n\tpush %rbp\n\tmov %rsp, %rax\n\tmov other_sp(%rip), %rsp\n\t"
    "mov %rax, other_sp(%rip)\n\tpop %rbp\n\tpop %rbx\n\tret");

static __attribute__((noinline)) void turn_at(unsigned who, unsigned depth)
{
	if (depth)
		turn_at(who, depth - 1);
	sum[who]++;
	take_turns();
	asm volatile("" ::: "memory");
}

static void other_thread(void)
{
	for (unsigned i = 0;; i++)
		turn_at(1, i % 5);
}

static void test_stacks(void)
{
	uint64_t *sp = (uint64_t *)(void *)(stacks[1] + STACK) - 2;

	*--sp = (uint64_t)(uintptr_t)other_thread;
	*--sp = 0;
	*--sp = 0;
	other_sp = (uint64_t)(uintptr_t)sp;
	for (unsigned i = 0; i < 3000; i++)
		turn_at(0, i % 7);
	same(sum[0], 11994, "calls on this stack");
	same(sum[1], 11994, "calls on the other stack");
}

/* What compilers make of indirect calls where branch prediction is not trusted. */
static __attribute__((noinline)) uint64_t times_three(uint64_t n)
{
	return 3 * n;
}

static void test_retpoline(void)
{
	uint64_t total = 0;

	for (uint64_t i = 0; i < 3000; i++) {
		uint64_t got, n = i;

		asm volatile("call 1f\n\tjmp 4f\n1:\tcall 2f\n3:\tpause\n\tjmp 3b\n"
			     "2:\tmov %[fn], (%%rsp)\n\tret\n4:"
			     : "=&a"(got), "+D"(n)
			     : [fn] "r"(times_three)
			     : "rcx", "rdx", "rsi", "r8", "r9", "r10", "r11", "memory", "cc");
		total += got;
	}
	same(total, 3ull * 2999 * 3000 / 2, "calls by way of a return");
}

static void test_flags(void)
{
	unsigned wrong = 0;

	for (unsigned i = 0; i < 100; i++) {
		uint8_t c, o;

		asm volatile("call 1f\n\tsetc %0\n\tcall 2f\n\tseto %1\n\tjmp 3f\n"
			     "1:\tstc\n\tret\n2:\tmovb $127, %%cl\n\taddb $1, %%cl\n\tret\n3:"
			     : "=&d"(c), "=&b"(o)
			     :
			     : "rcx", "memory", "cc");
		wrong += c != 1 || o != 1;
	}
	same(wrong, 0, "flags that a function returns");
}

static void test_ret_imm(void)
{
	uint64_t moved;

	asm volatile("mov %%rsp, %0\n\tpush $1\n\tpush $2\n\tcall 1f\n\tsub %%rsp, %0\n\tjmp 2f\n"
		     "1:\tret $16\n2:"
		     : "=&r"(moved)
		     :
		     : "memory", "cc");
	same(moved, 0, "a return that drops arguments");
}

/* --- code that changes while it is away --------------------------------------------- */

/* call *%rcx; mov $value, %eax; ret: whom it calls changes what comes after the call. */
static void emit_caller(volatile uint8_t *at, uint8_t value)
{
	const uint8_t code[] = { 0xff, 0xd1, 0xb8, value, 0, 0, 0, 0xc3 };

	for (unsigned i = 0; i < sizeof(code); i++)
		at[i] = code[i];
}

static uint64_t run_caller(uint64_t at, void (*callee)(void))
{
	uint64_t got;

	asm volatile("call *%1"
		     : "=&a"(got), "+D"(at), "+c"(callee)
		     :
		     : "rdx", "rsi", "r8", "r9", "r10", "r11", "memory", "cc");
	return got;
}

static volatile uint8_t *caller;
static uint64_t pages[2];
static unsigned round;

static void rewrite_caller(void)
{
	caller[3] = (uint8_t)++round;
}

static void remap_by_invlpg(void)
{
	page_map(WINDOW, pages[++round % 2] | PTE_P | PTE_W);
	asm volatile("invlpg (%0)" ::"r"(WINDOW) : "memory");
}

static void remap_by_cr3(void)
{
	uint64_t cr3;

	*page_entry(WINDOW, 1) = pages[++round % 2] | PTE_P | PTE_W;
	asm volatile("mov %%cr3, %0\n\tmov %0, %%cr3" : "=r"(cr3)::"memory");
}

static void test_changes(void)
{
	unsigned wrong = 0;

	caller = page_alloc();
	emit_caller(caller, 0);
	for (unsigned i = 1; i <= 100; i++)
		wrong += run_caller((uint64_t)(uintptr_t)caller, rewrite_caller) != i;
	same(wrong, 0, "a function that changes where it returns to");

	for (unsigned i = 0; i < 2; i++) {
		void *page = page_alloc();

		emit_caller(page, (uint8_t)i);
		pages[i] = (uint64_t)(uintptr_t)page;
	}
	page_map(WINDOW, pages[0] | PTE_P | PTE_W);
	wrong = round = 0;
	for (unsigned i = 1; i <= 100; i++)
		wrong += run_caller(WINDOW, remap_by_invlpg) != i % 2;
	same(wrong, 0, "a function that maps another page where it returns to, by INVLPG");
	wrong = 0;
	for (unsigned i = 1; i <= 100; i++)
		wrong += run_caller(WINDOW, remap_by_cr3) != i % 2;
	same(wrong, 0, "the same by CR3");
}

/* --- privilege -------------------------------------------------------------------------- */

/* Returns to RAX. */
extern const uint8_t user_return[], user_return_end[];
asm("user_return: lea 2048(%rip), %rsp\n\tpush %rax\n\tret\nuser_return_end:");

static __attribute__((noinline)) void user_returns_where_we_do(void)
{
	const void *to = __builtin_return_address(0);

	user_try((void *)USER_CODE, (uint64_t)(uintptr_t)to, 0);
	same(fault()->vector, TRAP_PF, "a user returns to where the kernel was about to");
	same(fault()->ip, (uint64_t)(uintptr_t)to, "and gets no further");
}

static void test_privilege(void)
{
	void *page = page_alloc();

	memcpy(page, user_return, (size_t)(user_return_end - user_return));
	page_map(USER_CODE, (uint64_t)page | PTE_P | PTE_U | PTE_W);
	user_returns_where_we_do();
	asm volatile("" ::: "memory");
}

void guest_main(void)
{
	test_deep();
	test_unwound();
	test_stacks();
	test_retpoline();
	test_flags();
	test_ret_imm();
	test_changes();
	test_privilege();
}
