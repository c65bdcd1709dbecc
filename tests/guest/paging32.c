/*
 * paging32.c - the two older kinds of paging: 32-bit with 4 MiB pages, and PAE.
 */
#include "rt.h"

#define WINDOW 0x40000000u

#define P     1u
#define W     2u
#define A     0x20u
#define D     0x40u
#define LARGE 0x80u

#define CR4_PSE (1ul << 4)
#define CR4_PAE (1ul << 5)
#define CR0_PG  (1ul << 31)
#define CR0_WP  (1ul << 16)
#define EFER    0xc0000080

static uint32_t directory[1024] __attribute__((aligned(4096)));
static volatile uint32_t table[1024] __attribute__((aligned(4096)));
static uint64_t pointers[4] __attribute__((aligned(32)));
static uint64_t directories[4][512] __attribute__((aligned(4096)));
static volatile uint64_t wide_table[512] __attribute__((aligned(4096)));
static uint32_t page_a[1024] __attribute__((aligned(4096)));
static uint32_t page_b[1024] __attribute__((aligned(4096)));

static volatile uint32_t *const window = (uint32_t *)WINDOW;

static uint32_t read_window(void)
{
	uint32_t v = 0;

	TRY("mov (%1), %0", : "+r"(v) : "c"(window) : "memory");
	return v;
}

static void write_window(uint32_t v)
{
	TRY("mov %1, (%0)", : : "c"(window), "r"(v) : "memory");
}

static void paging_off(void)
{
	write_cr0(read_cr0() & ~CR0_PG);
}

static void test_32bit(void)
{
	for (uint32_t i = 0; i < 1024; i++)
		directory[i] = i << 22 | P | W | LARGE;
	directory[WINDOW >> 22] = (uint32_t)(uintptr_t)table | P | W;
	write_cr4(read_cr4() | CR4_PSE);
	write_cr3((uint32_t)(uintptr_t)directory);
	write_cr0(read_cr0() | CR0_PG | CR0_WP);
	ok(read_cr0() & CR0_PG, "32-bit paging is on");

	read_window();
	faulted(TRAP_PF, 0, "not present");
	page_a[0] = 0xa;
	table[0] = (uint32_t)(uintptr_t)page_a | P;
	same(read_window(), 0xa, "a page that was not present needs no flush");
	same(table[0] & (A | D), A, "A is set");
	write_window(1);
	faulted(TRAP_PF, 3, "read-only");
	table[0] |= W;
	invlpg(window);
	write_window(0xaa);
	same(page_a[0], 0xaa, "writable");
	same(table[0] & (A | D), A | D, "D is set");
	same(directory[(uint32_t)(uintptr_t)page_a >> 22] & (A | D), A | D,
	     "A and D of a 4 MiB page");
	table[0] = (uint32_t)(uintptr_t)page_b | P;
	page_b[0] = 0xb;
	write_cr3(read_cr3());
	same(read_window(), 0xb, "CR3 flushes");
	directory[WINDOW >> 22] = (uint32_t)(uintptr_t)page_a >> 22 << 22 | P | W | LARGE | 1 << 21;
	invlpg(window);
	read_window();
	ok(fault()->vector == TRAP_PF && fault()->error & 8, "reserved bit of a 4 MiB page");
	paging_off();
}

static void test_pae(void)
{
	for (uint32_t i = 0; i < 4; i++) {
		pointers[i] = (uint32_t)(uintptr_t)directories[i] | P;
		for (uint32_t j = 0; j < 512; j++)
			directories[i][j] = (uint64_t)(i << 30 | j << 21) | P | W | LARGE;
	}
	directories[1][0] = (uint32_t)(uintptr_t)wide_table | P | W;
	write_cr4(read_cr4() | CR4_PAE);
	write_cr3((uint32_t)(uintptr_t)pointers);
	wrmsr(EFER, rdmsr(EFER) | 1 << 11);
	write_cr0(read_cr0() | CR0_PG);
	ok(read_cr0() & CR0_PG, "PAE paging is on");

	read_window();
	faulted(TRAP_PF, 0, "PAE: not present");
	wide_table[0] = (uint32_t)(uintptr_t)page_a | P | W;
	write_window(0xcc);
	same(page_a[0], 0xcc, "PAE: writable");
	same((uint32_t)wide_table[0] & (A | D), A | D, "PAE: A and D");
	page_a[0] = 0xc3c3c3c3; /* ret */
	TRY("call *%0", : : "c"(window) : "memory");
	faulted(TRAP_NONE, 0, "PAE: executable");
	wide_table[0] |= 1ull << 63;
	invlpg(window);
	TRY("push %%eax; jmp *%0", : : "c"(window) : "memory");
	asm volatile("add $4, %%esp" : : : "memory");
	same(fault()->vector, TRAP_PF, "PAE: NX");
	same(fault()->error, 0x11, "PAE: with this error code");

	/* The four pointers are in the processor, until CR3 is loaded. */
	uint32_t spare = (uint32_t)pointers[1];
	pointers[1] = 0;
	invlpg(window);
	read_window();
	if (!lax_machine())
		faulted(TRAP_NONE, 0, "PAE: directory pointers are cached by CR3");
	write_cr3(read_cr3());
	read_window();
	faulted(TRAP_PF, 0, "PAE: directory pointer not present");
	pointers[1] = spare | 0x1e0;
	if (!lax_machine()) {
		TRY("mov %0, %%cr3", : : "r"(read_cr3()));
		faulted(TRAP_GP, 0, "PAE: reserved bits of a directory pointer");
	}
	pointers[1] = spare;
	write_cr3(read_cr3());
	paging_off();
}

void guest_main(void)
{
	test_32bit();
	if (cpuid(1, 0).d & 1 << 6)
		test_pae();
}
