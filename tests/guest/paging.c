/*
 * paging.c - four-level paging: permissions, accessed and dirty bits, large
 * pages, reserved bits, and every way to forget a translation.
 */
#include "rt.h"

#define WINDOW    0x40000000ul   /* 4 KiB pages; beyond RAM, so that nothing is lost */
#define BIG       0x80000000ul   /* 2 MiB page */
#define HUGE      0x8000000000ul /* 1 GiB page */
#define USER_CODE 0xc0000000ul

#define CR4_PGE   (1ul << 7)
#define CR4_PCIDE (1ul << 17)
#define CR4_SMEP  (1ul << 20)
#define CR4_SMAP  (1ul << 21)
#define CR0_WP    (1ul << 16)
#define EFER      0xc0000080
#define EFER_NXE  (1ul << 11)

#define PF_P 1
#define PF_W 2
#define PF_U 4
#define PF_R 8
#define PF_I 16

static volatile uint64_t *const window = (uint64_t *)WINDOW;
static uint64_t page_a, page_b;

/* Position-independent code for ring 3, copied to a page of its own. */
extern const uint8_t user_load[], user_store[], user_fetch[], user_end[];
asm("user_load: mov (%rax), %rcx; int $0x81\n"
    "user_store: mov %rcx, (%rax); int $0x81\n"
    "user_fetch: jmp *%rax\n"
    "user_end:");

static void user_setup(void)
{
	void *page = page_alloc();

	memcpy(page, user_load, (size_t)(user_end - user_load));
	page_map(USER_CODE, (uint64_t)page | PTE_P | PTE_U);
}

/* One of the three above at @va. */
static void user_touch(const uint8_t *how, uint64_t va, uint64_t value)
{
	user_try((void *)(USER_CODE + (uint64_t)(how - user_load)), va, value);
}

static uint64_t kernel_read(const volatile void *p)
{
	uint64_t v = 0;

	TRY("mov (%1), %0", : "+r"(v) : "c"(p) : "memory");
	return v;
}

static void kernel_write(volatile void *p, uint64_t v)
{
	TRY("mov %1, (%0)", : : "c"(p), "r"(v) : "memory");
}

static void map(uint64_t pte)
{
	page_map(WINDOW, pte);
}

/* A reserved bit was met in a present entry; a lax machine forgets to say present. */
static void faulted_reserved(unsigned long also, const char *what)
{
	faulted(TRAP_PF, PF_R | also | (lax_machine() ? 0 : PF_P), what);
}

static void test_permissions(void)
{
	map(page_a | PTE_P | PTE_W);
	user_touch(user_load, WINDOW, 0);
	faulted(TRAP_PF, PF_P | PF_U, "user reads a supervisor page");
	user_touch(user_store, WINDOW, 0);
	faulted(TRAP_PF, PF_P | PF_U | PF_W, "user writes a supervisor page");
	map(page_a | PTE_P | PTE_U);
	user_touch(user_load, WINDOW, 0);
	same(fault()->vector, VECTOR_USER, "user reads a user page");
	user_touch(user_store, WINDOW, 0);
	faulted(TRAP_PF, PF_P | PF_U | PF_W, "user writes a read-only page");
	map(page_a | PTE_P | PTE_U | PTE_W);
	user_touch(user_store, WINDOW, 0x1234);
	same(fault()->vector, VECTOR_USER, "user writes a writable page");
	same(*(uint64_t *)page_a, 0x1234, "and it arrives");
	map(0);
	user_touch(user_load, WINDOW, 0);
	faulted(TRAP_PF, PF_U, "user reads no page");
	map(page_a | PTE_P | PTE_U | PTE_NX);
	user_touch(user_fetch, WINDOW, 0);
	same(fault()->vector, TRAP_PF, "user fetches from an NX page");
	same(fault()->error, PF_P | PF_U | PF_I, "with this error code");
	same(fault()->ip, WINDOW, "where the jump led");
}

static void test_write_protect(void)
{
	map(page_a | PTE_P);
	kernel_write(window, 1);
	faulted(TRAP_PF, PF_P | PF_W, "CR0.WP stops the kernel");
	write_cr0(read_cr0() & ~CR0_WP);
	kernel_write(window, 2);
	faulted(TRAP_NONE, 0, "without CR0.WP it may write");
	same(*(uint64_t *)page_a, 2, "and it arrives");
	user_touch(user_store, WINDOW, 0);
	same(fault()->error, PF_P | PF_W | PF_U, "but users may not");
	write_cr0(read_cr0() | CR0_WP);
	kernel_write(window, 3);
	faulted(TRAP_PF, PF_P | PF_W, "CR0.WP is back at once");
}

static void test_no_execute(void)
{
	*(uint8_t *)page_a = 0xc3; /* ret */
	map(page_a | PTE_P);
	TRY("call *%0", : : "c"(window) : "memory");
	faulted(TRAP_NONE, 0, "code may run without NX");
	map(page_a | PTE_P | PTE_NX);
	TRY("mov %%rsp, %%rbx; push %%rax; jmp *%0", : : "c"(window) : "rbx", "memory");
	asm volatile("add $8, %%rsp" : : : "memory");
	same(fault()->vector, TRAP_PF, "NX stops it");
	same(fault()->error, PF_P | PF_I, "with this error code");
	kernel_read(window);
	faulted(TRAP_NONE, 0, "but not reading");
	wrmsr(EFER, rdmsr(EFER) & ~EFER_NXE);
	invlpg(window);
	kernel_read(window);
	faulted_reserved(0, "without EFER.NXE the bit is reserved");
	wrmsr(EFER, rdmsr(EFER) | EFER_NXE);
}

/* Supervisor mode may be kept from users' pages. */
static void test_smep_smap(void)
{
	uint32_t features = cpuid(7, 0).b;
	unsigned long cr4 = read_cr4();

	*(uint8_t *)page_a = 0xc3;
	map(page_a | PTE_P | PTE_U | PTE_W);
	if (features & 1u << 7) {
		write_cr4(cr4 | CR4_SMEP);
		TRY("push %%rax; jmp *%0", : : "c"(window) : "memory");
		asm volatile("add $8, %%rsp" : : : "memory");
		same(fault()->vector, TRAP_PF, "SMEP: no fetch from a user page");
		same(fault()->error, PF_P | PF_I, "with this error code");
		kernel_read(window);
		faulted(TRAP_NONE, 0, "SMEP: but reading");
		write_cr4(cr4);
	} else {
		skip("SMEP", "not offered");
	}
	if (features & 1u << 20) {
		write_cr4(cr4 | CR4_SMAP);
		kernel_read(window);
		faulted(TRAP_PF, PF_P, "SMAP: no read of a user page");
		kernel_write(window, 0);
		faulted(TRAP_PF, PF_P | PF_W, "SMAP: no write");
		asm volatile("stac");
		kernel_read(window);
		faulted(TRAP_NONE, 0, "SMAP: RFLAGS.AC lets through");
		asm volatile("clac");
		kernel_read(window);
		faulted(TRAP_PF, PF_P, "SMAP: back with CLAC");
		write_cr4(cr4);
	} else {
		skip("SMAP", "not offered");
	}
}

static uint64_t bits(unsigned level)
{
	return *page_entry(WINDOW, level) & (PTE_A | PTE_D);
}

static void test_accessed_dirty(void)
{
	map(page_a | PTE_P | PTE_W);
	same(bits(1), 0, "a fresh entry is clean");
	kernel_read(window);
	same(bits(1), PTE_A, "reading sets A");
	kernel_write(window, 5);
	same(bits(1), PTE_A | PTE_D, "writing through a cached translation sets D");
	map(page_a | PTE_P | PTE_W);
	kernel_write(window, 5);
	same(bits(1), PTE_A | PTE_D, "writing sets A and D");
	*page_entry(WINDOW, 1) &= ~PTE_D;
	invlpg(window);
	kernel_read(window);
	same(bits(1), PTE_A, "reading leaves D alone");
	kernel_write(window, 5);
	same(bits(1), PTE_A | PTE_D, "D comes again");
	for (unsigned level = 2; level <= 4; level++) {
		*page_entry(WINDOW, level) &= ~PTE_A;
		invlpg(window);
		kernel_read(window);
		same(bits(level), PTE_A, "A in an upper table");
	}
	map(page_a | PTE_P);
	kernel_write(window, 5);
	same(bits(1) & PTE_D, 0, "a refused write sets no D");
	map(page_a | PTE_P | PTE_W);
	asm volatile("lock addq $0, %0" : "+m"(*window));
	same(bits(1), PTE_A | PTE_D, "a locked instruction sets D");
	map(page_a | PTE_P | PTE_W);
	TRY("lock cmpxchg %1, (%0)", : : "c"(window), "r"(9ul), "a"(~0ul) : "memory");
	same(bits(1), PTE_A | PTE_D, "CMPXCHG sets D though it differs");
}

static void test_reserved(void)
{
	unsigned phys = cpuid(0x80000008, 0).a & 0xff;

	map(page_a | PTE_P | 1ull << (phys < 52 ? phys : 51));
	if (phys < 52) {
		kernel_read(window);
		faulted_reserved(0, "address beyond MAXPHYADDR");
		user_touch(user_load, WINDOW, 0);
		faulted_reserved(PF_U, "the same for users");
	}
	*page_entry(BIG, 2) = page_a | PTE_P | PTE_LARGE | 1 << 13;
	invlpg((void *)BIG);
	kernel_read((void *)BIG);
	faulted_reserved(0, "low address bits of a 2 MiB page");
	*page_entry(BIG, 2) = 0;
	invlpg((void *)BIG);
	kernel_read((void *)BIG);
	faulted(TRAP_PF, 0, "no page table");
}

static void test_large(void)
{
	volatile uint64_t *in_big = (uint64_t *)(BIG + page_a % 0x200000);

	*(uint64_t *)page_a = 0xabc;
	*page_entry(BIG, 2) = (page_a & ~0x1ffffful) | PTE_P | PTE_W | PTE_LARGE;
	invlpg((void *)BIG);
	same(kernel_read(in_big), 0xabc, "2 MiB page");
	kernel_write(in_big, 0xabd);
	same(*(uint64_t *)page_a, 0xabd, "written through it");
	same(*page_entry(BIG, 2) & (PTE_A | PTE_D), PTE_A | PTE_D, "its A and D");
	/* INVLPG anywhere inside takes the whole of it away. */
	kernel_read((void *)BIG);
	*page_entry(BIG, 2) = 0;
	invlpg((void *)(BIG + 0x1ff000));
	kernel_read(in_big);
	faulted(TRAP_PF, 0, "INVLPG of one address in it forgets all (1)");
	kernel_read((void *)BIG);
	faulted(TRAP_PF, 0, "INVLPG of one address in it forgets all (2)");
	if (!(cpuid(0x80000001, 0).d & 1u << 26)) {
		skip("1 GiB pages", "not offered");
		return;
	}
	*page_entry(HUGE, 3) = PTE_P | PTE_W | PTE_LARGE;
	invlpg((void *)HUGE);
	same(kernel_read((void *)(HUGE + page_a)), 0xabd, "1 GiB page");
}

/* What must be seen without, and what with, a flush. */
static void test_flushes(void)
{
	unsigned long cr4 = read_cr4();

	*(uint64_t *)page_a = 0xa;
	*(uint64_t *)page_b = 0xb;
	map(0);
	kernel_read(window);
	*page_entry(WINDOW, 1) = page_a | PTE_P;
	same(kernel_read(window), 0xa, "a page that was not present needs no flush");
	*page_entry(WINDOW, 1) = page_b | PTE_P;
	invlpg(window);
	same(kernel_read(window), 0xb, "INVLPG");
	*page_entry(WINDOW, 1) = page_a | PTE_P;
	write_cr3(read_cr3());
	same(kernel_read(window), 0xa, "CR3");
	write_cr4(cr4 | CR4_PGE);
	map(page_b | PTE_P | PTE_G);
	same(kernel_read(window), 0xb, "a global page");
	*page_entry(WINDOW, 1) = page_a | PTE_P | PTE_G;
	invlpg(window);
	same(kernel_read(window), 0xa, "INVLPG of a global page");
	*page_entry(WINDOW, 1) = page_b | PTE_P | PTE_G;
	write_cr4(cr4);
	same(kernel_read(window), 0xb, "CR4.PGE cleared");
	map(page_a | PTE_P | PTE_W);
	kernel_write(window, 1);
	*page_entry(WINDOW, 1) = page_a | PTE_P;
	invlpg(window);
	kernel_write(window, 2);
	faulted(TRAP_PF, PF_P | PF_W, "a downgrade to read-only");
	map(page_a | PTE_P | PTE_U);
	user_touch(user_load, WINDOW, 0);
	*page_entry(WINDOW, 1) = page_a | PTE_P;
	invlpg(window);
	user_touch(user_load, WINDOW, 0);
	faulted(TRAP_PF, PF_P | PF_U, "a downgrade to supervisor");
}

/* A second set of tables in which the window shows another page. */
static uint64_t other_space(void)
{
	uint64_t space = (uint64_t)page_alloc(), mine = read_cr3();

	memcpy((void *)space, (void *)(mine & PTE_ADDR), PAGE_BYTES);
	/* A page directory pointer table of its own, from which the window's part differs. */
	uint64_t *pdpt = page_alloc();
	memcpy(pdpt, (void *)(*(uint64_t *)space & PTE_ADDR), PAGE_BYTES);
	pdpt[WINDOW >> 30] = 0;
	*(uint64_t *)space = (uint64_t)pdpt | PTE_P | PTE_W | PTE_U;
	write_cr3(space);
	page_map(WINDOW, page_b | PTE_P | PTE_W);
	write_cr3(mine);
	return space;
}

static void test_spaces(void)
{
	uint64_t first = read_cr3(), second = other_space();

	*(uint64_t *)page_a = 0xa;
	*(uint64_t *)page_b = 0xb;
	map(page_a | PTE_P | PTE_W);
	for (unsigned i = 0; i < 3; i++) {
		write_cr3(second);
		same(kernel_read(window), 0xb, "second address space");
		write_cr3(first);
		same(kernel_read(window), 0xa, "first address space");
	}
	if (!(cpuid(1, 0).c & 1u << 17)) {
		skip("PCID", "not offered");
		return;
	}
	write_cr4(read_cr4() | CR4_PCIDE);
	write_cr3(first | 1);
	same(kernel_read(window), 0xa, "PCID 1");
	write_cr3(second | 2);
	same(kernel_read(window), 0xb, "PCID 2");
	for (unsigned i = 0; i < 3; i++) {
		write_cr3(first | 1 | 1ul << 63);
		same(kernel_read(window), 0xa, "PCID 1 unflushed");
		write_cr3(second | 2 | 1ul << 63);
		same(kernel_read(window), 0xb, "PCID 2 unflushed");
	}
	page_map(WINDOW, page_a | PTE_P);
	same(kernel_read(window), 0xa, "INVLPG in PCID 2");
	page_map(WINDOW, page_b | PTE_P);
	write_cr3(first | 1);
	*page_entry(WINDOW, 1) = page_b | PTE_P;
	write_cr3(second | 2 | 1ul << 63);
	write_cr3(first | 1);
	same(kernel_read(window), 0xb, "a flushing load of CR3 forgets PCID 1");
	*page_entry(WINDOW, 1) = page_a | PTE_P;
	if (cpuid(7, 0).b & 1u << 10) {
		struct {
			uint64_t pcid, address;
		} desc = { 1, WINDOW };

		asm volatile("invpcid %0, %1" : : "m"(desc), "r"(0ul) : "memory");
		same(kernel_read(window), 0xa, "INVPCID of one address");
		*page_entry(WINDOW, 1) = page_b | PTE_P;
		asm volatile("invpcid %0, %1" : : "m"(desc), "r"(1ul) : "memory");
		same(kernel_read(window), 0xb, "INVPCID of one PCID");
		*page_entry(WINDOW, 1) = page_a | PTE_P;
		asm volatile("invpcid %0, %1" : : "m"(desc), "r"(2ul) : "memory");
		same(kernel_read(window), 0xa, "INVPCID of all");
		TRY("invpcid %0, %1", : : "m"(desc), "r"(4ul) : "memory");
		faulted(TRAP_GP, 0, "INVPCID of an unknown type");
	} else {
		skip("INVPCID", "not offered");
	}
	TRY("mov %0, %%cr4", : : "r"(read_cr4() & ~CR4_PCIDE));
	faulted(TRAP_NONE, 0, "PCID off");
	write_cr3(first);
}

/* Neighbours in the window that are no neighbours in memory, and one page twice. */
static void test_crossing(void)
{
	uint64_t v = 0x1122334455667788;
	uint8_t *end = (uint8_t *)WINDOW + PAGE_BYTES;

	map(page_b | PTE_P | PTE_W);
	page_map(WINDOW + PAGE_BYTES, page_a | PTE_P | PTE_W);
	asm volatile("mov %1, (%0)" : : "r"(end - 3), "r"(v) : "memory");
	ok(!memcmp((void *)(page_b + PAGE_BYTES - 3), &v, 3), "first part of a crossing store");
	ok(!memcmp((void *)page_a, (uint8_t *)&v + 3, 5), "second part of it");
	same(kernel_read(end - 3), v, "and read again");
	asm volatile("lock addq $1, (%0)" : : "r"(end - 3) : "memory");
	same(kernel_read(end - 3), v + 1, "a locked instruction across pages");
	map(page_a | PTE_P | PTE_W);
	kernel_write(window, 77);
	same(kernel_read(end), 77, "two addresses of one page");
	/* An instruction across both: mov $42, %eax; ret */
	static const uint8_t code[] = { 0xb8, 42, 0, 0, 0, 0xc3 };
	uint64_t got;

	map(page_b | PTE_P);
	memcpy((void *)(page_b + PAGE_BYTES - 2), code, 2);
	memcpy((void *)page_a, code + 2, sizeof(code) - 2);
	asm volatile("call *%1" : "=a"(got) : "r"(end - 2) : "memory");
	same(got, 42, "an instruction across pages");
	page_map(WINDOW + PAGE_BYTES, 0);
	TRY("push %%rax; jmp *%0", : : "c"(end - 2) : "memory");
	asm volatile("add $8, %%rsp" : : : "memory");
	ok(fault()->vector == TRAP_PF && fault()->ip == (uint64_t)end - 2 &&
		   fault()->cr2 == (uint64_t)end,
	   "its second page is missing: RIP tells its start, CR2 its rest");
}

void guest_main(void)
{
	page_a = (uint64_t)page_alloc();
	page_b = (uint64_t)page_alloc();
	user_setup();
	test_permissions();
	test_write_protect();
	test_no_execute();
	test_smep_smap();
	test_accessed_dirty();
	test_reserved();
	test_large();
	test_flushes();
	test_spaces();
	test_crossing();
}
