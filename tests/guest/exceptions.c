/*
 * exceptions.c - every fault with its number, error code and address, and an
 * interrupted instruction that leaves nothing behind and can be restarted.
 */
#include "rt.h"

#define WINDOW       0x40000000ul /* two pages for tests, beyond RAM */
#define NONCANONICAL 0x800000000000ul

static uint8_t *const page0 = (uint8_t *)WINDOW;
static uint8_t *const page1 = (uint8_t *)WINDOW + PAGE_BYTES;
static uint64_t backing0, backing1;

static void map_both(uint64_t flags0, uint64_t flags1)
{
	page_map(WINDOW, backing0 | flags0);
	page_map(WINDOW + PAGE_BYTES, backing1 | flags1);
}

static void test_divide(void)
{
	uint64_t ax = 5, dx = 0;

	TRY("div %2", : "+a"(ax), "+d"(dx) : "r"(0ul));
	faulted(TRAP_DE, 0, "#DE: division by zero");
	ok(ax == 5 && dx == 0, "#DE leaves the registers alone");
	ax = 0, dx = 7;
	TRY("div %2", : "+a"(ax), "+d"(dx) : "r"(7ul));
	faulted(TRAP_DE, 0, "#DE: quotient too large");
	ax = 1ul << 63, dx = ~0ul;
	TRY("idiv %2", : "+a"(ax), "+d"(dx) : "r"(-1ul));
	faulted(TRAP_DE, 0, "#DE: most negative by -1");
	TRY("div %b0", : : "c"(1), "a"(0x1ff));
	faulted(TRAP_DE, 0, "#DE: byte quotient too large");
}

static void test_traps(void)
{
	TRY("int3", :);
	trapped(TRAP_BP, 1, "#BP: INT3 reports the next instruction");
	TRY(".byte 0xcd, 3", :);
	trapped(TRAP_BP, 2, "#BP: INT 3 too");
	TRY("pushf; orl $0x100, (%%rsp); popf; nop; nop", : : : "cc", "memory");
	same(fault()->vector, TRAP_DB, "#DB: single-step");
	same(fault()->ip - fault()->start, 10, "#DB: after the instruction that follows POPF");
	ok(read_dr6() & 0x4000, "DR6.BS");
	write_dr6(0);
}

static void test_undefined(void)
{
	TRY("ud2", :);
	faulted(TRAP_UD, 0, "#UD: UD2");
	TRY(".byte 0x0f, 0xb9, 0xc0", :);
	faulted(TRAP_UD, 0, "#UD: UD1");
	TRY(".byte 0x06", :);
	faulted(TRAP_UD, 0, "#UD: PUSH ES in 64-bit mode");
	TRY(".byte 0xd4, 0x0a", :);
	faulted(TRAP_UD, 0, "#UD: AAM in 64-bit mode");
	TRY(".byte 0xea, 0, 0, 0, 0, 0, 0", :);
	faulted(TRAP_UD, 0, "#UD: direct far jump in 64-bit mode");
	TRY(".byte 0xf0, 0x01, 0xd8", :);
	faulted(TRAP_UD, 0, "#UD: LOCK with a register");
	TRY(".byte 0x0f, 0x20, 0xc8", :);
	faulted(TRAP_UD, 0, "#UD: no CR1");
	TRY(".byte 0x8d, 0xc0", :);
	faulted(TRAP_UD, 0, "#UD: LEA of a register");
	TRY(".byte 0x8e, 0xc8", : : "a"(0x18));
	faulted(TRAP_UD, 0, "#UD: MOV to CS");
	TRY(".byte 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, "
	    "0x66, 0x90",
	    :);
	faulted(TRAP_NONE, 0, "15 bytes are an instruction");
	TRY(".byte 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, "
	    "0x66, 0x66, 0x90",
	    :);
	faulted(TRAP_GP, 0, "#GP: 16 bytes are none");
}

static void test_fpu(void)
{
	unsigned long cr0 = read_cr0();
	uint16_t control = 0x037f & ~4u;

	write_cr0(cr0 | 8);
	TRY("fldz", :);
	faulted(TRAP_NM, 0, "#NM: x87 with CR0.TS");
	TRY("xorps %%xmm0, %%xmm0", :);
	faulted(TRAP_NM, 0, "#NM: SSE with CR0.TS");
	TRY("fwait", :);
	faulted(TRAP_NM, 0, "#NM: FWAIT with CR0.TS and CR0.MP");
	asm volatile("clts");
	same(read_cr0(), cr0, "CLTS");
	write_cr0(cr0 | 4);
	TRY("fldz", :);
	faulted(TRAP_NM, 0, "#NM: x87 with CR0.EM");
	TRY("xorps %%xmm0, %%xmm0", :);
	faulted(TRAP_UD, 0, "#UD: SSE with CR0.EM");
	write_cr0(cr0);
	write_cr4(read_cr4() & ~0x200ul);
	TRY("xorps %%xmm0, %%xmm0", :);
	faulted(TRAP_UD, 0, "#UD: SSE without CR4.OSFXSR");
	write_cr4(read_cr4() | 0x200);

	TRY("fninit; fldcw %0; fld1; fldz; fdivrp; fwait", : : "m"(control));
	same(fault()->vector, TRAP_MF, "#MF: unmasked division by zero, at the next instruction");
	asm volatile("fninit");
	TRY("movaps %0, %%xmm0", : : "m"(*(uint8_t *)0x200001));
	faulted(TRAP_GP, 0, "#GP: misaligned MOVAPS");
}

static void test_addresses(void)
{
	TRY("mov (%0), %%al", : : "c"(NONCANONICAL) : "rax");
	faulted(TRAP_GP, 0, "#GP: non-canonical load");
	TRY("mov %%al, (%0)", : : "c"(NONCANONICAL) : "rax");
	faulted(TRAP_GP, 0, "#GP: non-canonical store");
	TRY("jmp *%0", : : "c"(NONCANONICAL));
	same(fault()->vector, TRAP_GP, "#GP: non-canonical jump");
}

static void test_selectors(void)
{
	struct cpu *c = this_cpu();

	c->gdt[SEL_FREE / 8] = descriptor(0, 0xfffff, 0x13, 0xc);     /* data, not present */
	c->gdt[SEL_FREE / 8 + 1] = descriptor(0, 0xfffff, 0x99, 0xa); /* code, not readable */
	c->gdt[SEL_FREE / 8 + 2] = descriptor(0, 0xfffff, 0x91, 0xc); /* data, not writable */
	TRY("mov %0, %%es", : : "r"(SEL_FREE));
	faulted(TRAP_NP, SEL_FREE, "#NP: data segment not present");
	TRY("mov %0, %%ss", : : "r"(SEL_FREE));
	faulted(TRAP_SS, SEL_FREE, "#SS: stack segment not present");
	TRY("mov %0, %%ds", : : "r"(SEL_FREE + 8));
	faulted(TRAP_GP, SEL_FREE + 8, "#GP: code that cannot be read as data");
	TRY("mov %0, %%ss", : : "r"(SEL_FREE + 16));
	faulted(TRAP_GP, SEL_FREE + 16, "#GP: stack that cannot be written");
	TRY("mov %0, %%es", : : "r"(0x7ff8));
	faulted(TRAP_GP, 0x7ff8, "#GP: beyond the GDT");
	TRY("mov %0, %%es", : : "r"(0xc));
	faulted(TRAP_GP, 0xc, "#GP: no LDT");
	TRY("ltr %w0", : : "r"(SEL_TSS));
	faulted(TRAP_GP, SEL_TSS, "#GP: TSS is busy");
	TRY("lldt %w0", : : "r"(SEL_DATA));
	faulted(TRAP_GP, SEL_DATA, "#GP: LDT that is none");
	TRY("mov %0, %%es", : : "r"(0));
	faulted(TRAP_NONE, 0, "null data segment");
}

static void test_gates(void)
{
	struct gate saved = idt[0x80];

	idt[0x80].selector = SEL_DATA;
	TRY("int $0x80", :);
	faulted(TRAP_GP, SEL_DATA, "#GP: gate to a data segment");
	idt[0x80].selector = 0;
	TRY("int $0x80", :);
	faulted(TRAP_GP, 0, "#GP: gate to a null segment");
	idt[0x80] = saved;
}

/* Error codes with the IDT bit. */
static void test_bad_gates(void)
{
	struct gate saved = idt[0x80];
	struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) desc = { 0x7f * 16 + 15, (uint64_t)idt };

	idt[0x80].type &= 0x7f;
	TRY("int $0x80", :);
	faulted(TRAP_NP, 0x80 * 8 + 2, "#NP: gate not present");
	idt[0x80].type = 0x85;
	TRY("int $0x80", :);
	faulted(TRAP_GP, 0x80 * 8 + 2, "#GP: a gate of another kind");
	idt[0x80] = saved;
	asm volatile("lidt %0" : : "m"(desc));
	TRY("int $0x80", :);
	faulted(TRAP_GP, 0x80 * 8 + 2, "#GP: beyond the IDT");
	idt_load();
}

/* What hardware checks and a lax machine does not. */
static void test_strict(void)
{
	TRY(".byte 0xf1", :);
	trapped(TRAP_DB, 1, "#DB: INT1");
	TRY(".byte 0xf0, 0x8b, 0x00", : : "a"(&backing0));
	faulted(TRAP_UD, 0, "#UD: LOCK with a load");
	TRY("mov (%%rsp, %0, 1), %%al", : : "c"(NONCANONICAL) : "rax");
	faulted(TRAP_SS, 0, "#SS: non-canonical stack access");
	TRY("mov %0, %%ss", : : "r"(3));
	faulted(TRAP_GP, 0, "#GP: null stack segment of another ring");
	TRY("rdmsr", : : "c"(0x12345678) : "rax", "rdx");
	faulted(TRAP_GP, 0, "#GP: RDMSR of what is not there");
	TRY("wrmsr", : : "c"(0x12345678), "a"(0), "d"(0));
	faulted(TRAP_GP, 0, "#GP: WRMSR of what is not there");
	TRY("wrmsr", : : "c"(0xc0000082), "a"(0), "d"(0x8000));
	faulted(TRAP_GP, 0, "#GP: non-canonical LSTAR");
	TRY("mov %0, %%cr0", : : "r"(read_cr0() & ~1ul));
	faulted(TRAP_GP, 0, "#GP: paging without protection");
	TRY("mov %0, %%cr0", : : "r"(read_cr0() | 1ul << 32));
	faulted(TRAP_GP, 0, "#GP: upper half of CR0");
	TRY("mov %0, %%cr4", : : "r"(read_cr4() & ~0x20ul));
	faulted(TRAP_GP, 0, "#GP: long mode without PAE");
	TRY("mov %0, %%cr4", : : "r"(read_cr4() | 1ul << 31));
	faulted(TRAP_GP, 0, "#GP: reserved bit of CR4");
	TRY("mov %0, %%cr8", : : "r"(16ul));
	faulted(TRAP_GP, 0, "#GP: reserved bit of CR8");
	TRY("mov %0, %%dr7", : : "r"(1ul << 32));
	faulted(TRAP_GP, 0, "#GP: upper half of DR7");
}

static void test_vector_errors(void)
{
	uint32_t mxcsr = 0x1f80 & ~0x200u, normal = 0x1f80;

	TRY("ldmxcsr %0; xorps %%xmm0, %%xmm0; mov $1, %%eax; cvtsi2ss %%eax, %%xmm1;"
	    "divss %%xmm0, %%xmm1",
	    :
	    : "m"(mxcsr)
	    : "rax");
	same(fault()->vector, TRAP_XM, "#XM: unmasked division by zero");
	asm volatile("ldmxcsr %0" : : "m"(normal));
	mxcsr = 0xffff0000;
	TRY("ldmxcsr %0", : : "m"(mxcsr));
	faulted(TRAP_GP, 0, "#GP: reserved bits of MXCSR");
}

static void test_page_faults(void)
{
	unsigned long cr0 = read_cr0();

	map_both(0, 0);
	TRY("mov (%0), %%al", : : "c"(page0 + 5) : "rax");
	faulted(TRAP_PF, 0, "#PF: read, not present");
	same(fault()->cr2, WINDOW + 5, "CR2");
	TRY("movb $1, (%0)", : : "c"(page0 + 6));
	faulted(TRAP_PF, 2, "#PF: write, not present");
	same(fault()->cr2, WINDOW + 6, "CR2");
	TRY("jmp *%0", : : "c"(page0 + 7));
	same(fault()->vector, TRAP_PF, "#PF: fetch");
	same(fault()->error, 0x10, "#PF: fetch, not present");
	ok(fault()->ip == WINDOW + 7 && fault()->cr2 == WINDOW + 7, "fetched where the jump led");
	map_both(PTE_P, 0);
	TRY("movb $1, (%0)", : : "c"(page0));
	faulted(TRAP_PF, 3, "#PF: write to a read-only page");
	write_cr0(cr0 & ~0x10000ul);
	TRY("movb $1, (%0)", : : "c"(page0));
	faulted(TRAP_NONE, 0, "the same without CR0.WP");
	write_cr0(cr0);
	map_both(PTE_P | PTE_W, 0);
	TRY("mov (%0), %%rax", : : "c"(page1 - 3) : "rax");
	faulted(TRAP_PF, 0, "#PF: load across pages");
	same(fault()->cr2, WINDOW + PAGE_BYTES, "CR2 is in the second page");
}

static void test_nothing_changed(void)
{
	uint64_t *last = (uint64_t *)(page1 - 8);
	uint64_t a, sp;

	map_both(PTE_P | PTE_W, PTE_P);
	*last = 0x1122334455667788;
	TRY("movq $0, (%0)", : : "c"(page1 - 4));
	faulted(TRAP_PF, 3, "#PF: store across pages");
	same(*last, 0x1122334455667788, "no byte of it was stored");
	if (!lax_machine()) {
		TRY("movups %%xmm0, (%0)", : : "c"(page1 - 8));
		faulted(TRAP_PF, 3, "#PF: vector store across pages");
		same(*last, 0x1122334455667788, "no byte of that was stored");
	}
	a = 1;
	TRY("stc; adc %0, (%1)", : "+r"(a) : "c"(page1));
	same(fault()->vector, TRAP_PF, "#PF: read-modify-write");
	same(fault()->error, 3, "#PF: as a write");
	ok(fault()->flags & 1, "flags are as before");
	TRY("xadd %0, (%1)", : "+r"(a) : "c"(page1));
	faulted(TRAP_PF, 3, "#PF: XADD");
	same(a, 1, "XADD left its register alone");
	TRY("cmpxchg %0, (%1)", : : "r"(7ul), "c"(page1), "a"(~0ul));
	faulted(TRAP_PF, 3, "#PF: CMPXCHG writes whatever it compares");
	asm volatile("mov %%rsp, %0" : "=r"(sp));
	TRY("pop (%0)", : : "c"(page1));
	faulted(TRAP_PF, 3, "#PF: POP to memory");
	same(fault()->sp, sp, "POP left the stack pointer alone");
	TRY("push (%0)", : : "c"(NONCANONICAL));
	faulted(TRAP_GP, 0, "#GP: PUSH from memory");
	same(fault()->sp, sp, "PUSH left the stack pointer alone");
	TRY("enter $16, $0", : : : "memory");
	asm volatile("leave");
}

static void on_page_fault(struct frame *f)
{
	page_map(WINDOW + PAGE_BYTES, backing1 | PTE_P | PTE_W);
	fault()->vector = TRAP_PF;
	fault()->sp = f->cx; /* how much REP had still to do */
	fault()->cr2 = read_cr2();
}

/* REP that meets a hole says how far it came, and goes on from there. */
static void test_restart(void)
{
	static uint8_t from[256];
	uint8_t *to = page1 - 100;
	const uint8_t *source = from;
	uint64_t n = 200;

	for (unsigned i = 0; i < sizeof(from); i++)
		from[i] = (uint8_t)(i * 7 + 1);
	map_both(PTE_P | PTE_W, 0);
	trap_set(TRAP_PF, on_page_fault);
	asm volatile("rep movsb" : "+D"(to), "+S"(source), "+c"(n) : : "memory");
	trap_set(TRAP_PF, NULL);
	same(fault()->vector, TRAP_PF, "REP MOVSB meets a hole");
	same(fault()->sp, 100, "RCX says how much is left");
	ok(n == 0 && to == page1 + 100 && source == from + 200, "REP MOVSB comes to its end");
	ok(!memcmp(page1 - 100, from, 200), "and has copied everything");
}

static volatile unsigned double_faults;
static unsigned long double_error;
static unsigned long good_sp;
extern const uint8_t after_double[];

static void on_double_fault(struct frame *f)
{
	double_faults++;
	double_error = f->error;
	f->ip = (unsigned long)after_double;
	f->sp = good_sp;
}

/* A stack that cannot take a frame: only an IST helps. */
static void test_double_fault(void)
{
	struct cpu *c = this_cpu();
	uint64_t stack = (uint64_t)page_alloc() + PAGE_BYTES;

	memcpy(&c->tss[9], &stack, sizeof(stack)); /* IST1 */
	idt[TRAP_DF].ist = 1;
	trap_set(TRAP_DF, on_double_fault);
	map_both(0, 0);
	asm volatile("mov %%rsp, %0; mov %1, %%rsp; ud2; .globl after_double; after_double:"
		     : "=m"(good_sp)
		     : "r"(page1)
		     : "memory");
	same(double_faults, 1, "#DF: page fault on the way to a page fault");
	same(double_error, 0, "#DF: error code");

	trap_set(TRAP_DF, NULL);
	idt[TRAP_GP].type &= 0x7f;
	TRY("mov (%0), %%al", : : "c"(NONCANONICAL) : "rax");
	same(fault()->vector, TRAP_DF, "#DF: #NP on the way to #GP");
	idt[TRAP_GP].type |= 0x80;
	TRY("mov (%0), %%al", : : "c"(NONCANONICAL) : "rax");
	faulted(TRAP_GP, 0, "#GP again");
	idt[TRAP_DF].ist = 0;
}

void guest_main(void)
{
	backing0 = (uint64_t)page_alloc();
	backing1 = (uint64_t)page_alloc();
	test_divide();
	test_traps();
	test_undefined();
	test_fpu();
	test_addresses();
	test_selectors();
	test_gates();
	test_page_faults();
	test_nothing_changed();
	test_restart();
	test_double_fault();
	if (lax_machine())
		return;
	test_strict();
	test_vector_errors();
	test_bad_gates();
}
