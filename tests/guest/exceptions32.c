/*
 * exceptions32.c - faults of 32-bit protected mode: those of segments above all,
 * which long mode no longer has.
 */
#include "rt.h"

#define SMALL    (SEL_FREE)     /* data, 16 bytes */
#define DOWN     (SEL_FREE + 8) /* expands down: valid above 0xfff */
#define READONLY (SEL_FREE + 16)
#define EXECONLY (SEL_FREE + 24)
#define LDT      (SEL_FREE + 32)

static uint64_t ldt[2];

static void test_limits(void)
{
	uint32_t v = 0;

	TRY("mov %1, %%fs; mov %%fs:12, %0", : "+r"(v) : "r"(SMALL));
	faulted(TRAP_NONE, 0, "the last four bytes of a segment");
	TRY("mov %%fs:13, %0", : "+r"(v));
	faulted(TRAP_GP, 0, "#GP: one byte beyond");
	TRY("movb %%fs:15, %%al", : : : "eax");
	faulted(TRAP_NONE, 0, "its last byte");
	TRY("movb %%fs:16, %%al", : : : "eax");
	faulted(TRAP_GP, 0, "#GP: behind its last byte");
	TRY("mov %1, %%fs; mov %%fs:0x1000, %0", : "+r"(v) : "r"(DOWN));
	faulted(TRAP_NONE, 0, "expand-down: above its limit");
	TRY("mov %%fs:0xfff, %0", : "+r"(v));
	faulted(TRAP_GP, 0, "#GP: expand-down: at its limit");
	TRY("mov %0, %%fs", : : "r"(READONLY));
	TRY("movb $0, %%fs:0", :);
	faulted(TRAP_GP, 0, "#GP: write to a read-only segment");
	TRY("mov %0, %%fs", : : "r"(0));
	TRY("movb %%fs:0, %%al", : : : "eax");
	faulted(TRAP_GP, 0, "#GP: null segment");
	TRY("mov %0, %%fs", : : "r"(EXECONLY));
	faulted(TRAP_GP, EXECONLY, "#GP: execute-only code as data");
}

static void test_ldt(void)
{
	uint32_t v = 0;

	asm volatile("lldt %w0" : : "r"(LDT));
	TRY("mov %1, %%fs; mov %%fs:0, %0", : "+r"(v) : "r"(4));
	faulted(TRAP_NONE, 0, "a segment of the LDT");
	TRY("mov %0, %%fs", : : "r"(12));
	faulted(TRAP_NP, 12, "#NP: LDT segment not present");
	TRY("mov %0, %%fs", : : "r"(20));
	faulted(TRAP_GP, 20, "#GP: beyond the LDT");
	asm volatile("mov %0, %%fs; lldt %w0" : : "r"(0));
}

static void test_others(void)
{
	static const int32_t bounds[2] = { 1, 5 };

	TRY("bound %0, %1", : : "r"(3), "m"(bounds));
	faulted(TRAP_NONE, 0, "BOUND");
	TRY("bound %0, %1", : : "r"(6), "m"(bounds));
	faulted(TRAP_BR, 0, "#BR");
	TRY("mov $0x7fffffff, %%eax; inc %%eax; into", : : : "eax", "cc");
	same(fault()->vector, TRAP_OF, "#OF");
	TRY("aam $0", : : : "eax");
	faulted(TRAP_DE, 0, "#DE: AAM by zero");
	TRY("ud2", :);
	faulted(TRAP_UD, 0, "#UD");
	TRY("int3", :);
	trapped(TRAP_BP, 1, "#BP");
	TRY("lcall *%0", : : "m"(ldt));
	same(fault()->vector, TRAP_GP, "#GP: far call to a null selector");
}

static void test_segment_facts(void)
{
	uint32_t rights = 0, limit = 0;
	bool found;

	asm volatile("lar %2, %0" : "+r"(rights), "=@ccz"(found) : "r"(SMALL));
	ok(found && (rights & 0xff00) == 0x9300, "LAR");
	asm volatile("lsl %2, %0" : "+r"(limit), "=@ccz"(found) : "r"(SMALL));
	ok(found && limit == 15, "LSL");
	asm volatile("lsl %2, %0" : "+r"(limit), "=@ccz"(found) : "r"(SEL_DATA));
	ok(found && limit == 0xffffffff, "LSL with granularity");
	asm volatile("verr %w1" : "=@ccz"(found) : "r"(EXECONLY));
	ok(!found, "VERR of execute-only code");
	asm volatile("verw %w1" : "=@ccz"(found) : "r"(READONLY));
	ok(!found, "VERW of read-only data");
	asm volatile("verw %w1" : "=@ccz"(found) : "r"(SMALL));
	ok(found, "VERW of data");
	asm volatile("lar %2, %0" : "+r"(rights), "=@ccz"(found) : "r"(0x7ff8));
	ok(!found, "LAR beyond the GDT");
}

static void test_strings(void)
{
	static uint8_t from[8] = "abcdefg", to[8];
	const void *s = from;
	void *d = to;
	uint32_t n = 8;

	asm volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(n) : : "memory");
	ok(!memcmp(from, to, 8), "REP MOVSB");
	n = 8, d = to;
	asm volatile("repne scasb" : "+D"(d), "+c"(n) : "a"('c') : "cc");
	ok(n == 5 && d == to + 3, "REPNE SCASB");
	n = 4, d = to + 7;
	asm volatile("std; rep stosb; cld" : "+D"(d), "+c"(n) : "a"('x') : "memory");
	ok(!memcmp(to, "abcdxxxx", 8), "REP STOSB downwards");
	/* 16-bit addresses wrap inside a segment. */
	uint16_t count;
	asm volatile("mov $0x10000, %%ecx; jcxz 1f; mov $1, %%ax; jmp 2f; 1: mov $2, %%ax; 2:"
		     : "=a"(count)
		     :
		     : "ecx");
	same(count, 2, "JCXZ looks at CX only");
}

static void test_bcd(void)
{
	uint16_t ax = 0x000f;

	asm volatile("aaa" : "+a"(ax) : : "cc");
	same(ax, 0x0105, "AAA");
	ax = 0x003c;
	asm volatile("daa" : "+a"(ax) : : "cc");
	same(ax & 0xff, 0x42, "DAA");
	ax = 0x0502;
	asm volatile("aad" : "+a"(ax) : : "cc");
	same(ax, 52, "AAD");
	asm volatile("aam" : "+a"(ax) : : "cc");
	same(ax, 0x0502, "AAM");
}

void guest_main(void)
{
	struct cpu *c = this_cpu();

	c->gdt[SMALL / 8] = descriptor(0x100000, 15, 0x93, 4);
	c->gdt[DOWN / 8] = descriptor(0, 0xfff, 0x97, 4);
	c->gdt[READONLY / 8] = descriptor(0x100000, 0xfff, 0x91, 4);
	c->gdt[EXECONLY / 8] = descriptor(0x100000, 0xfff, 0x99, 4);
	c->gdt[LDT / 8] = descriptor((uint32_t)(uintptr_t)ldt, sizeof(ldt) - 1, 0x82, 0);
	ldt[0] = descriptor(0x100000, 0xfff, 0x93, 4);
	ldt[1] = descriptor(0x100000, 0xfff, 0x13, 4);
	if (!lax_machine())
		test_limits();
	test_ldt();
	test_others();
	test_segment_facts();
	test_strings();
	test_bcd();
}
