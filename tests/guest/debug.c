/*
 * debug.c - the debug registers: breakpoints on code and data, their priorities,
 * resume flag, general detect and single-step.
 */
#include "rt.h"

#define DR6_BS (1ul << 14)
#define DR6_BD (1ul << 13)
#define DR7_GD (1ul << 13)
#define RF     (1ul << 16)
#define TF     (1ul << 8)

/* Enable breakpoint n: type 0 execute, 1 write, 3 access; length 1, 2, 4 or 8. */
static unsigned long dr7(unsigned n, unsigned type, unsigned bytes)
{
	unsigned length = bytes == 8 ? 2 : bytes - 1;

	return 2ul << 2 * n | (unsigned long)(type | length << 2) << (16 + 4 * n);
}

static volatile uint64_t watched[2] __attribute__((aligned(16)));
static volatile unsigned hits;
static volatile unsigned long hit_ip, hit_dr6;

static void on_debug(struct frame *f)
{
	hits++;
	hit_ip = f->ip;
	hit_dr6 = read_dr6();
	write_dr6(0xffff0ff0);
	if (f->flags & TF)
		f->flags &= ~TF;
	else
		f->flags |= RF; /* over the instruction that is broken at */
}

static void expect(unsigned count, unsigned long dr6, const char *what)
{
	if (hits == count && (!count || (hit_dr6 & 0xe00f) == dr6))
		ok(true, "%s", what);
	else
		ok(false, "%s: %u hits, DR6 0x%lx, wanted %u, 0x%lx", what, hits, hit_dr6, count,
		   dr6);
	hits = 0;
	hit_dr6 = 0;
}

static void test_execute(void)
{
	unsigned long at;

	asm volatile("lea 1f(%%rip), %0\n\tmov %0, %%dr0\n\tmov %1, %%dr7\n\tnop\n1:\tnop\n\tnop"
		     : "=&r"(at)
		     : "r"(dr7(0, 0, 1))
		     : "memory");
	ok(hit_ip == at, "execution breakpoint reports the instruction itself");
	expect(1, 1, "execution breakpoint, once thanks to RF");
	write_dr7(0x400);
	asm volatile("lea 1f(%%rip), %0\n\tmov %0, %%dr0\n\tnop\n1:\tnop" : "=&r"(at) : : "memory");
	expect(0, 0, "disabled breakpoint");
}

static void test_data(void)
{
	uint64_t v;

	write_dr1((unsigned long)&watched[0]);
	write_dr7(dr7(1, 1, 8));
	watched[0] = 1;
	expect(1, 2, "write watchpoint");
	v = watched[0];
	expect(0, 0, "write watchpoint ignores reads");
	watched[1] = 1;
	expect(0, 0, "and its neighbour");
	((volatile uint8_t *)watched)[7] = 1;
	expect(1, 2, "a write to its last byte");
	*(volatile uint16_t *)((uintptr_t)watched + 7) = 1;
	expect(1, 2, "a write that reaches across its end");
	asm volatile("lock incq %0" : "+m"(watched[0]));
	expect(1, 2, "a locked instruction");
	asm volatile("movups %%xmm0, %0" : "=m"(*(struct { uint64_t w[2]; } *)watched));
	expect(1, 2, "a vector store");
	write_dr7(dr7(1, 3, 4));
	v = watched[0];
	expect(1, 2, "access watchpoint sees reads");
	v = *(volatile uint8_t *)((uintptr_t)watched + 4);
	expect(0, 0, "but not beyond its four bytes");
	(void)v;
	write_dr7(0x400);
	watched[0] = 1;
	expect(0, 0, "disabled watchpoint");
}

static void test_rep(void)
{
	static uint8_t from[64], to[64] __attribute__((aligned(64)));
	void *d = to;
	const void *s = from;
	unsigned long n = 64;

	write_dr1((unsigned long)&to[32]);
	write_dr7(dr7(1, 1, 1));
	asm volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(n) : : "memory");
	expect(1, 2, "a watchpoint in the middle of REP MOVSB");
	same(n, 0, "which comes to its end");
	write_dr7(0x400);
}

static void test_step(void)
{
	unsigned long at;

	asm volatile("pushf\n\torl %1, (%%rsp)\n\tpopf\n\tnop\n1:\tnop\n\tlea 1b(%%rip), %0"
		     : "=&r"(at)
		     : "i"((int)TF)
		     : "memory", "cc");
	ok(hit_ip == at, "single-step stops behind one instruction");
	expect(1, DR6_BS, "single-step");
}

static void test_detect(void)
{
	write_dr7(0x400 | DR7_GD);
	trap_set(TRAP_DB, NULL);
	TRY("mov %%dr0, %%rax", : : : "rax");
	faulted(TRAP_DB, 0, "general detect");
	ok(read_dr6() & DR6_BD, "DR6.BD");
	same(read_dr7() & DR7_GD, 0, "DR7.GD is cleared by its exception");
	trap_set(TRAP_DB, on_debug);
	write_dr6(0xffff0ff0);
	write_dr7(0x400);
}

static void test_registers(void)
{
	same(read_dr6() & 0xffff0ff0, 0xffff0ff0, "DR6: bits that read as one");
	same(read_dr7(), 0x400, "DR7: bit that reads as one");
	write_cr4(read_cr4() | 8);
	TRY("mov %%dr4, %%rax", : : : "rax");
	faulted(TRAP_UD, 0, "#UD: DR4 with CR4.DE");
	write_cr4(read_cr4() & ~8ul);
	TRY("mov %%dr4, %%rax", : : : "rax");
	faulted(TRAP_NONE, 0, "DR4 is DR6 without CR4.DE");
}

/* POP SS and MOV SS hold back debug traps by one instruction. */
static void test_shadow(void)
{
	unsigned long ss, at;

	asm volatile("mov %%ss, %0" : "=r"(ss));
	write_dr1((unsigned long)&watched[0]);
	watched[0] = ss;
	hits = 0;
	write_dr7(dr7(1, 3, 2));
	asm volatile("mov %1, %%ss\n\tnop\n1:\tlea 1b(%%rip), %0"
		     : "=&r"(at)
		     : "m"(*(volatile uint16_t *)watched)
		     : "memory");
	write_dr7(0x400);
	if (!lax_machine())
		ok(hits == 1 && hit_ip == at,
		   "a data breakpoint on MOV SS comes one instruction later");
	hits = 0;
}

void guest_main(void)
{
	trap_set(TRAP_DB, on_debug);
	write_dr6(0xffff0ff0);
	write_dr7(0x400);
	test_registers();
	test_execute();
	test_data();
	test_rep();
	test_step();
	if (!lax_machine())
		test_detect();
	test_shadow();
}
