/*
 * atomics.c - locked instructions from all CPUs at once: nothing may get lost,
 * not across cache lines, not across pages, not in sixteen bytes. rounds=N.
 */
#include "rt.h"

static unsigned long rounds;
static unsigned count;

/* Lies across two pages: 3 bytes in the first. */
static uint8_t pages[2 * 4096] __attribute__((aligned(4096)));
#define CROSSING ((volatile uint64_t *)(pages + 4096 - 3))

static volatile uint64_t counter, line[16] __attribute__((aligned(64)));
static volatile uint8_t byte_counter;
static volatile uint32_t bits[8];

static void do_inc(void)
{
	for (unsigned long i = 0; i < rounds; i++)
		asm volatile("lock incq %0" : "+m"(counter) : : "cc", "memory");
}

static void do_xadd(void)
{
	for (unsigned long i = 0; i < rounds; i++)
		__atomic_fetch_add(&counter, 3, __ATOMIC_SEQ_CST);
}

static void do_cmpxchg(void)
{
	for (unsigned long i = 0; i < rounds; i++) {
		uint64_t old = counter;

		while (!__atomic_compare_exchange_n(&counter, &old, old + 1, false,
						    __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
			;
	}
}

static void do_byte(void)
{
	for (unsigned long i = 0; i < rounds; i++)
		asm volatile("lock addb $1, %0" : "+m"(byte_counter) : : "cc", "memory");
}

/* Across cache lines; unaligned on purpose. */
static void do_split(void)
{
	volatile uint64_t *p = (volatile uint64_t *)((uintptr_t)line + 60);

	for (unsigned long i = 0; i < rounds; i++)
		asm volatile("lock addq $1, %0" : "+m"(*p) : : "cc", "memory");
}

static void do_page_split(void)
{
	for (unsigned long i = 0; i < rounds; i++)
		asm volatile("lock addq $1, %0" : "+m"(*CROSSING) : : "cc", "memory");
}

/* Aligned and crossing at once: the plain ones must not tear the crossing one's halves. */
static void do_mixed(void)
{
	volatile uint8_t *second = pages + 4096 + 6;

	for (unsigned long i = 0; i < rounds; i++) {
		asm volatile("lock addq $1, %0" : "+m"(*CROSSING) : : "cc", "memory");
		asm volatile("lock addb $1, %0" : "+m"(*second) : : "cc", "memory");
	}
}

/* Each CPU owns a bit and flips it with BTS and BTR. */
static void do_bits(void)
{
	unsigned long mine = cpu_index();
	bool was;

	for (unsigned long i = 0; i < rounds; i++) {
		asm volatile("lock btsq %2, %0" : "+m"(bits), "=@ccc"(was) : "r"(mine) : "memory");
		if (was)
			ok(false, "bit %lu was set already", mine);
		asm volatile("lock btrq %2, %0" : "+m"(bits), "=@ccc"(was) : "r"(mine) : "memory");
		if (!was)
			ok(false, "bit %lu was not set", mine);
	}
}

/* A spin lock by XCHG, which locks without the prefix. */
static volatile uint32_t spin;
static uint64_t guarded;

static void do_xchg(void)
{
	for (unsigned long i = 0; i < rounds / 4; i++) {
		uint32_t one;

		do {
			one = 1;
			asm volatile("xchg %0, %1" : "+r"(one), "+m"(spin) : : "memory");
			if (one)
				pause();
		} while (one);
		guarded++;
		__atomic_store_n(&spin, 0, __ATOMIC_RELEASE);
	}
}

/*
 * A stack of nodes whose head carries a count against ABA: CMPXCHG16B. Each node
 * must be with one CPU, or on the stack, and nowhere else.
 */
#define NODES 64

struct node {
	struct node *next;
	volatile uint32_t owned;
};

static struct node nodes[NODES];
static struct head {
	struct node *top;
	uint64_t version;
} head __attribute__((aligned(16)));

static bool swap_head(struct head *old, struct node *top)
{
	bool done;

	asm volatile("lock cmpxchg16b %0"
		     : "+m"(head), "=@ccz"(done), "+a"(old->top), "+d"(old->version)
		     : "b"(top), "c"(old->version + 1)
		     : "memory");
	return done;
}

static void push(struct node *n)
{
	struct head old = head;

	do
		n->next = old.top;
	while (!swap_head(&old, n));
}

static struct node *pop(void)
{
	struct head old = head;

	do
		if (!old.top)
			return NULL;
	while (!swap_head(&old, ((volatile struct node *)old.top)->next));
	return old.top;
}

static void do_stack(void)
{
	for (unsigned long i = 0; i < rounds / 4; i++) {
		struct node *n = pop();

		if (!n)
			continue;
		if (__atomic_exchange_n(&n->owned, 1, __ATOMIC_SEQ_CST))
			ok(false, "two CPUs popped one node");
		__atomic_store_n(&n->owned, 0, __ATOMIC_SEQ_CST);
		push(n);
	}
}

static void test_stack(void)
{
	unsigned left = 0;

	for (unsigned i = 0; i < NODES; i++)
		push(&nodes[i]);
	smp_run(do_stack);
	while (pop())
		left++;
	same(left, NODES, "CMPXCHG16B stack: no node lost");
}

static void test_counter(void (*fn)(void), unsigned long step, const char *what)
{
	counter = 0;
	smp_run(fn);
	same(counter, count * rounds * step, what);
}

void guest_main(void)
{
	rounds = arg("rounds", 20000);
	count = smp_start();
	test_counter(do_inc, 1, "INC");
	test_counter(do_xadd, 3, "XADD");
	test_counter(do_cmpxchg, 1, "CMPXCHG");
	smp_run(do_byte);
	same(byte_counter, (count * rounds) & 0xff, "ADD of a byte");
	/* Some hosts punish split locks with a pause of their own. */
	rounds /= 20;
	smp_run(do_split);
	same(*(uint64_t *)((uintptr_t)line + 60), count * rounds, "ADD across cache lines");
	rounds *= 5;
	smp_run(do_page_split);
	same(*CROSSING, count * rounds, "ADD across pages");
	smp_run(do_mixed);
	same(*CROSSING & 0xffffffff, 2 * count * rounds, "ADD across pages beside others: itself");
	same(pages[4096 + 6], (count * rounds) & 0xff, "ADD across pages beside others: they");
	rounds *= 4;
	smp_run(do_bits);
	same(bits[0], 0, "BTS and BTR");
	smp_run(do_xchg);
	same(guarded, count * (rounds / 4), "XCHG spin lock");
	test_stack();
}
