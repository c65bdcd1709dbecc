/*
 * modes.c - code of every width under long mode, call gates, far transfers, IRET,
 * SYSCALL and SYSENTER, between rings and within.
 */
#include "rt.h"

#define USER_CODE      0xc0000000ul
#define USER_STACK     0xc0002000ul /* end of a page */
#define GDT_CODE16     SEL_FREE
#define GDT_GATE       (SEL_FREE + 8) /* 16 bytes */
#define GDT_DATA16     (SEL_FREE + 24)
#define GDT_CONFORMING (SEL_FREE + 32)

extern const uint8_t user_begin[], user_end[];
extern const uint8_t user_syscall[], user_sysenter[], user_call_gate[], user_cli[], user_hlt[],
	user_in[], user_rdmsr[], user_compat[], user_syscall32[], user_flags[], user_int80[],
	user_cr[], user_lgdt[];
extern const uint8_t syscall_entry[], sysenter_entry[], gate_entry[];
extern volatile uint64_t entry_cs, entry_ss, entry_sp, entry_rcx, entry_r11, entry_flags,
	entry_count;

uint64_t run_code32(uint64_t a, uint64_t b);
uint64_t run_code16(uint64_t a, uint64_t b);
uint64_t far_jump(uint64_t selector);
uint64_t far_call_gate(uint64_t selector);
uint64_t far_return(void);

static const void *in_user(const uint8_t *code)
{
	return (const void *)(USER_CODE + (uint64_t)(code - user_begin));
}

static void visit(const uint8_t *code, uint16_t cs, unsigned long flags)
{
	struct user_visit v = {
		.ip = (unsigned long)in_user(code),
		.cs = cs,
		.flags = flags | 2,
		.sp = USER_STACK,
		.ss = SEL_USER_DATA | 3,
	};

	fault()->vector = TRAP_NONE;
	this_cpu()->start = v.ip;
	user_enter(&v);
}

static void setup(void)
{
	struct cpu *c = this_cpu();
	void *code = page_alloc();
	uint64_t gate = (uint64_t)gate_entry;

	memcpy(code, user_begin, (size_t)(user_end - user_begin));
	page_map(USER_CODE, (uint64_t)code | PTE_P | PTE_U);
	page_map(USER_STACK - PAGE_BYTES, (uint64_t)page_alloc() | PTE_P | PTE_U | PTE_W);
	c->gdt[GDT_CODE16 / 8] = descriptor(0, 0xfffff, 0x9b, 0x8);
	c->gdt[GDT_DATA16 / 8] = descriptor(0, 0xffff, 0x93, 0);
	c->gdt[GDT_CONFORMING / 8] = descriptor(0, 0xfffff, 0x9f, 0xa);
	c->gdt[GDT_GATE / 8] =
		(gate & 0xffff) | SEL_CODE64 << 16 | 0xecull << 40 | (gate >> 16 & 0xffff) << 48;
	c->gdt[GDT_GATE / 8 + 1] = gate >> 32;
	wrmsr(0xc0000081, (uint64_t)SEL_USER_CODE32 << 48 | (uint64_t)SEL_CODE64 << 32);
	wrmsr(0xc0000082, (uint64_t)syscall_entry);
	wrmsr(0xc0000083, (uint64_t)syscall_entry);
	wrmsr(0xc0000084, 0x600); /* IF and DF */
	wrmsr(0x174, SEL_CODE64);
	wrmsr(0x175, (uint64_t)page_alloc() + PAGE_BYTES);
	wrmsr(0x176, (uint64_t)sysenter_entry);
}

static void test_widths(void)
{
	same(run_code32(5, 0xfffffffffffffffe), 3, "32-bit code: addition wraps at 32 bits");
	same(run_code16(0x1fff0, 0x20), 0x10010, "16-bit code: only 16 bits change");
}

static void test_far(void)
{
	same(far_jump(SEL_CODE64), 1, "far jump");
	same(far_jump(GDT_CONFORMING), 1, "far jump to conforming code");
	same(far_return(), 2, "far return");
	same(far_call_gate(GDT_GATE), 3, "call gate within a ring");
	same(entry_cs, SEL_CODE64, "call gate: CS");
	TRY("push %0; push $1f; lretq; 1:", : : "r"((uint64_t)SEL_DATA) : "memory");
	asm volatile("add $16, %%rsp" : : : "memory");
	same(fault()->vector, TRAP_GP, "far return to data");
	same(fault()->error, SEL_DATA, "names its selector");
	TRY("push %0; push %%rsp; pushf; push %1; push $1f; iretq; 1:",
	    :
	    : "r"((uint64_t)SEL_DATA), "r"(0ul)
	    : "memory");
	asm volatile("add $40, %%rsp" : : : "memory");
	same(fault()->vector, TRAP_GP, "IRET to a null CS");
}

static void test_rings(void)
{
	visit(user_int80, SEL_USER_CODE64 | 3, 0);
	same(fault()->vector, TRAP_GP, "INT to a gate of the kernel's");
	if (!lax_machine())
		same(fault()->error, 0x80 * 8 + 2, "names its vector");
	visit(user_cli, SEL_USER_CODE64 | 3, 0);
	faulted(TRAP_GP, 0, "CLI in ring 3");
	visit(user_hlt, SEL_USER_CODE64 | 3, 0);
	faulted(TRAP_GP, 0, "HLT in ring 3");
	visit(user_in, SEL_USER_CODE64 | 3, 0);
	faulted(TRAP_GP, 0, "IN in ring 3");
	visit(user_rdmsr, SEL_USER_CODE64 | 3, 0);
	faulted(TRAP_GP, 0, "RDMSR in ring 3");
	visit(user_cr, SEL_USER_CODE64 | 3, 0);
	faulted(TRAP_GP, 0, "MOV from CR0 in ring 3");
	visit(user_lgdt, SEL_USER_CODE64 | 3, 0);
	faulted(TRAP_GP, 0, "LGDT in ring 3");
	visit(user_in, SEL_USER_CODE64 | 3, 0x3000);
	same(fault()->vector, VECTOR_USER, "IN with IOPL 3");
	visit(user_cli, SEL_USER_CODE64 | 3, 0x3000);
	same(fault()->vector, VECTOR_USER, "CLI with IOPL 3");
	visit(user_flags, SEL_USER_CODE64 | 3, 0x200);
	same(fault()->vector, VECTOR_USER, "POPF in ring 3");
	same(fault()->flags & 0x3200, 0x200, "leaves IF and IOPL as they were");
}

static void test_compat(void)
{
	visit(user_compat, SEL_USER_CODE32 | 3, 0);
	same(fault()->vector, VECTOR_USER, "32-bit code in ring 3");
	same(fault()->cs, SEL_USER_CODE32 | 3, "came from there");
	ok(fault()->flags & 1, "and computed as 32 bits do");
}

/* The entries return to ring 3, which then says INT 0x81. */
static void test_syscall(void)
{
	entry_count = 0;
	visit(user_syscall, SEL_USER_CODE64 | 3, 0x401);
	same(fault()->vector, VECTOR_USER, "SYSCALL and SYSRET");
	same(entry_count, 1, "came by");
	same(entry_cs, SEL_CODE64, "SYSCALL: CS");
	same(entry_ss, SEL_DATA, "SYSCALL: SS");
	same(entry_rcx, (uint64_t)in_user(user_syscall) + 2, "SYSCALL: RCX");
	same(entry_r11 & 0x401, 0x401, "SYSCALL: R11");
	same(entry_flags & 0x600, 0, "SYSCALL: flags are masked");
	same(fault()->cs, SEL_USER_CODE64 | 3, "SYSRET: CS");
	same(fault()->flags & 0x401, 0x401, "SYSRET: flags");
	wrmsr(0xc0000080, rdmsr(0xc0000080) & ~1ull);
	visit(user_syscall, SEL_USER_CODE64 | 3, 0);
	faulted(TRAP_UD, 0, "SYSCALL without EFER.SCE");
	wrmsr(0xc0000080, rdmsr(0xc0000080) | 1);
}

static void test_sysenter(void)
{
	/* AMD's processors know it in legacy mode only. */
	if (!(cpuid(1, 0).d & 1u << 11) || cpuid(0, 0).b != 0x756e6547) {
		skip("SYSENTER", "not offered in long mode");
		return;
	}
	entry_count = 0;
	visit(user_sysenter, SEL_USER_CODE64 | 3, 0x200);
	same(fault()->vector, VECTOR_USER, "SYSENTER and SYSEXIT");
	same(entry_count, 1, "came by");
	same(entry_cs, SEL_CODE64, "SYSENTER: CS");
	same(entry_ss, SEL_DATA, "SYSENTER: SS");
	same(entry_sp, rdmsr(0x175), "SYSENTER: RSP");
	same(entry_flags & 0x200, 0, "SYSENTER: IF is cleared");
	same(fault()->cs, SEL_USER_CODE64 | 3, "SYSEXIT: CS");
	wrmsr(0x174, 0);
	visit(user_sysenter, SEL_USER_CODE64 | 3, 0);
	faulted(TRAP_GP, 0, "SYSENTER without a CS");
	wrmsr(0x174, SEL_CODE64);
}

static void test_call_gate(void)
{
	entry_count = 0;
	visit(user_call_gate, SEL_USER_CODE64 | 3, 0);
	same(fault()->vector, VECTOR_USER, "call gate from ring 3 and back");
	same(entry_cs, SEL_CODE64, "call gate: CS");
	same(entry_ss, 0, "call gate: null SS");
	this_cpu()->gdt[GDT_GATE / 8] &= ~(0x60ull << 40);
	visit(user_call_gate, SEL_USER_CODE64 | 3, 0);
	faulted(TRAP_GP, GDT_GATE, "call gate of the kernel's");
}

void guest_main(void)
{
	setup();
	test_widths();
	test_far();
	test_rings();
	test_compat();
	test_syscall();
	test_sysenter();
	test_call_gate();
}
