/*
 * modes.c - code of every width under long mode, call gates, far transfers, IRET,
 * SYSCALL and SYSENTER, between rings and within.
 *
 * SYSCALL twice, with few flags masked and with those that kernels mask: what is usual may
 * be done otherwise.
 */
#include "rt.h"

#define USER_CODE      0xc0000000ul
#define USER_STACK     0xc0002000ul /* end of a page */
#define USER_DATA      0xc0003000ul
#define POINTS_HERE    0xc0100000ul /* nothing is */
#define POINTS_THERE   0xc0200000ul
#define SFMASK_FEW     0x600      /* IF and DF */
#define SFMASK_USUAL   0x257fd5ul /* Linux's */
#define EFLAGS_AC      0x40000ul
#define CR0_AM         0x40000ul
#define CR4_TSD        0x4ul
#define GDT_CODE16     SEL_FREE
#define GDT_GATE       (SEL_FREE + 8) /* 16 bytes */
#define GDT_DATA16     (SEL_FREE + 24)
#define GDT_CONFORMING (SEL_FREE + 32)

extern const uint8_t user_begin[], user_end[];
extern const uint8_t user_syscall[], user_sysenter[], user_call_gate[], user_cli[], user_hlt[],
	user_in[], user_rdmsr[], user_compat[], user_syscall32[], user_flags[], user_int80[],
	user_cr[], user_lgdt[], user_syscall_unaligned[], user_unaligned[], user_syscall_rdtsc[],
	user_rdtsc[], user_spaces[];
extern const uint8_t syscall_entry[], sysenter_entry[], gate_entry[];
extern volatile uint64_t entry_cs, entry_ss, entry_sp, entry_rcx, entry_r11, entry_flags,
	entry_count, entry_cr3, entry_adds;

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
static void test_syscall(uint64_t sfmask)
{
	note("SYSCALL masks %lx", (unsigned long)sfmask);
	wrmsr(0xc0000084, sfmask);
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

/* The fault is not that of the first instruction. */
static void faulted_at(const uint8_t *code, unsigned vector, const char *what)
{
	if (same(fault()->vector, vector, what))
		same(fault()->ip, (uint64_t)in_user(code), "where it should");
}

static void test_alignment(void)
{
	if (lax_machine()) {
		skip("alignment behind SYSRET", "not checked");
		return;
	}
	write_cr0(read_cr0() | CR0_AM);
	visit(user_unaligned, SEL_USER_CODE64 | 3, EFLAGS_AC);
	faulted_at(user_unaligned, TRAP_AC, "AC: an unaligned access");
	visit(user_syscall_unaligned, SEL_USER_CODE64 | 3, EFLAGS_AC);
	faulted_at(user_unaligned, TRAP_AC, "the same behind SYSRET");
	visit(user_syscall_unaligned, SEL_USER_CODE64 | 3, 0);
	same(fault()->vector, VECTOR_USER, "may be without AC");
	entry_adds = EFLAGS_AC;
	visit(user_syscall_unaligned, SEL_USER_CODE64 | 3, 0);
	faulted_at(user_unaligned, TRAP_AC, "AC out of R11");
	entry_adds = 0;
	write_cr0(read_cr0() & ~CR0_AM);
}

static void test_time_stamp(void)
{
	write_cr4(read_cr4() | CR4_TSD);
	visit(user_rdtsc, SEL_USER_CODE64 | 3, 0);
	faulted(TRAP_GP, 0, "RDTSC in ring 3 with CR4.TSD");
	visit(user_syscall_rdtsc, SEL_USER_CODE64 | 3, 0);
	faulted_at(user_rdtsc, TRAP_GP, "RDTSC behind SYSRET with CR4.TSD");
	write_cr4(read_cr4() & ~CR4_TSD);
	visit(user_syscall_rdtsc, SEL_USER_CODE64 | 3, 0);
	same(fault()->vector, VECTOR_USER, "and without");
}

/* The present address space, but for one page: CR3. */
static uint64_t other_space(uint64_t va, uint64_t pte)
{
	uint64_t below = pte;

	for (unsigned level = 1; level <= 4; level++) {
		uint64_t old = (uint64_t)page_entry(va, level), *table = page_alloc();

		memcpy(table, (void *)(old & ~(PAGE_BYTES - 1ul)), PAGE_BYTES);
		table[old % PAGE_BYTES / 8] = below;
		below = (uint64_t)table | PTE_P | PTE_W | PTE_U;
	}
	return below & PTE_ADDR;
}

static void test_spaces(void)
{
	uint64_t *here = page_alloc(), *there = page_alloc(), cr3 = read_cr3();

	*here = POINTS_HERE;
	*there = POINTS_THERE;
	page_map(USER_DATA, (uint64_t)here | PTE_P | PTE_U);
	visit(user_spaces, SEL_USER_CODE64 | 3, 0);
	same(fault()->cr2, POINTS_HERE, "a page, before and after SYSCALL");
	entry_cr3 = other_space(USER_DATA, (uint64_t)there | PTE_P | PTE_U);
	visit(user_spaces, SEL_USER_CODE64 | 3, 0);
	same(fault()->cr2, POINTS_THERE, "another one, if the address space is");
	entry_cr3 = 0;
	write_cr3(cr3);
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
	test_syscall(SFMASK_FEW);
	test_syscall(SFMASK_USUAL);
	test_alignment();
	test_time_stamp();
	test_spaces();
	test_sysenter();
	test_call_gate();
}
