/*
 * smc.c - code that changes: on one CPU with nothing more than a jump (SDM vol. 3,
 * 8.1.3), through another address, across pages, from another CPU, by INT3.
 */
#include "rt.h"

static uint8_t code[3 * PAGE_BYTES] __attribute__((aligned(4096)));

typedef unsigned function(void);

/* mov $value, %eax; ret */
static void emit(volatile uint8_t *at, uint32_t value)
{
	at[0] = 0xb8;
	at[1] = (uint8_t)value;
	at[2] = (uint8_t)(value >> 8);
	at[3] = (uint8_t)(value >> 16);
	at[4] = (uint8_t)(value >> 24);
	at[5] = 0xc3;
}

static unsigned call(const volatile uint8_t *at)
{
	return ((function *)(uintptr_t)at)();
}

static void test_rewrite(volatile uint8_t *at, const char *what)
{
	unsigned wrong = 0;

	for (unsigned i = 0; i < 1000; i++) {
		emit(at, i);
		wrong += call(at) != i;
	}
	same(wrong, 0, what);
}

/* Only one byte in the middle of an instruction changes. */
static void test_one_byte(void)
{
	unsigned wrong = 0;

	emit(code, 0);
	for (unsigned i = 0; i < 256; i++) {
		((volatile uint8_t *)code)[3] = (uint8_t)i;
		wrong += call(code) != i << 16;
	}
	same(wrong, 0, "one byte of an instruction");
}

/* The store lies in the block that it changes: what follows must be the new. */
static void test_ahead(void)
{
	unsigned wrong = 0;

	for (unsigned i = 0; i < 100; i++) {
		uint32_t got;

		asm volatile("mov %1, 1f + 1(%%rip)\n\tjmp 1f\n1:\tmov $0, %%eax"
			     : "=&a"(got)
			     : "r"(i)
			     : "memory");
		wrong += got != i;
	}
	same(wrong, 0, "a store to the next instruction, then a jump");
}

/* Without even a jump: today's processors see their own stores at once. */
static void test_next(void)
{
	unsigned wrong = 0;

	for (unsigned i = 0; i < 100; i++) {
		uint32_t got;

		asm volatile("mov %1, 1f + 1(%%rip)\n1:\tmov $0, %%eax"
			     : "=&a"(got)
			     : "r"(i)
			     : "memory");
		wrong += got != i;
	}
	same(wrong, 0, "a store to the next instruction");
}

static void test_alias(void)
{
	const uint64_t window = 0x40000000;
	unsigned wrong = 0;

	page_map(window, (uint64_t)code | PTE_P | PTE_W);
	for (unsigned i = 0; i < 1000; i++) {
		emit((uint8_t *)window, i);
		wrong += call(code) != i;
		emit(code, ~i);
		wrong += call((uint8_t *)window) != ~i;
	}
	same(wrong, 0, "written at another address of the same page");
}

/* Remapped rather than rewritten. */
static void test_remap(void)
{
	const uint64_t window = 0x40000000;
	unsigned wrong = 0;

	emit(code, 1);
	emit(code + PAGE_BYTES, 2);
	for (unsigned i = 0; i < 100; i++) {
		page_map(window, (uint64_t)code | PTE_P);
		wrong += call((uint8_t *)window) != 1;
		page_map(window, (uint64_t)(code + PAGE_BYTES) | PTE_P);
		wrong += call((uint8_t *)window) != 2;
	}
	same(wrong, 0, "another page at the same address");
}

static void test_string(void)
{
	uint8_t image[6];
	unsigned wrong = 0;

	for (unsigned i = 0; i < 100; i++) {
		emit(image, i);
		memcpy(code + 64, image, sizeof(image));
		wrong += call(code + 64) != i;
	}
	same(wrong, 0, "written by REP MOVSB");
	for (unsigned i = 0; i < 100; i++) {
		uint64_t word = 0xc3000000b8 | (uint64_t)i << 8;

		word = 0xb8 | (uint64_t)i << 8 | 0xc3ull << 40;
		__atomic_exchange_n((uint64_t *)(code + 64), word, __ATOMIC_SEQ_CST);
		wrong += call(code + 64) != i;
	}
	same(wrong, 0, "written by XCHG");
}

/*
 * Cross-modifying code as SDM vol. 3, 8.1.3 wants it: the writer says so after
 * the last byte, the reader executes a serialising instruction, then the code.
 */
static volatile uint32_t version, done_version;
static unsigned long rounds;
static volatile unsigned cross_wrong;

static void cross(void)
{
	if (cpu_index() > 1)
		return;
	for (uint32_t v = 1; v <= rounds; v++) {
		if (cpu_index() == 0) {
			emit(code + PAGE_BYTES - 3, v); /* across two pages */
			__atomic_store_n(&version, v, __ATOMIC_RELEASE);
			while (__atomic_load_n(&done_version, __ATOMIC_ACQUIRE) != v)
				pause();
		} else {
			while (__atomic_load_n(&version, __ATOMIC_ACQUIRE) != v)
				pause();
			cpuid(0, 0);
			if (call(code + PAGE_BYTES - 3) != v)
				cross_wrong++;
			__atomic_store_n(&done_version, v, __ATOMIC_RELEASE);
		}
	}
}

/*
 * As Linux patches a running kernel: INT3 over the first byte, everybody
 * serialises, the rest, everybody serialises, the first byte. Callers must see the
 * old, the new, or the breakpoint, and the new in the end.
 */
static volatile unsigned breakpoints, serialised, mixed, stop_calls;
static volatile uint32_t old_value, new_value;

static void on_breakpoint(struct frame *f)
{
	__atomic_fetch_add(&breakpoints, 1, __ATOMIC_SEQ_CST);
	linger(10000); /* see pause(): a storm of exceptions is not the subject */
	f->ax = old_value;
	f->ip = *(uint64_t *)f->sp; /* as if it had returned */
	f->sp += 8;
}

#define VECTOR_SYNC 0x90

static void on_sync(struct frame *f)
{
	cpuid(0, 0);
	__atomic_fetch_add(&serialised, 1, __ATOMIC_SEQ_CST);
	apic_eoi();
}

static void sync_others(unsigned others)
{
	serialised = 0;
	apic_icr(0, ICR_OTHERS | ICR_FIXED | VECTOR_SYNC);
	while (__atomic_load_n(&serialised, __ATOMIC_SEQ_CST) != others)
		pause();
}

static void poke(volatile uint8_t *at, uint32_t value, unsigned others)
{
	new_value = value;
	at[0] = 0xcc;
	sync_others(others);
	for (unsigned i = 0; i < 4; i++)
		at[1 + i] = (uint8_t)(value >> 8 * i);
	sync_others(others);
	at[0] = 0xb8;
	sync_others(others);
	/* From here on nobody may see the old one. */
	old_value = value;
}

static void poke_and_call(void)
{
	volatile uint8_t *at = code + 2 * PAGE_BYTES + 128;
	unsigned others = cpu_count() - 1;

	if (cpu_index() == 0) {
		for (uint32_t i = 1; i <= rounds / 10; i++)
			poke(at, i * 0x01010101, others);
		stop_calls = 1;
		return;
	}
	sti();
	while (!stop_calls) {
		uint32_t low = old_value, got = call(at), high = new_value;

		/* Values only grow, wherever they are read. */
		if (got < low || got > high || got % 0x01010101)
			if (!__atomic_fetch_add(&mixed, 1, __ATOMIC_SEQ_CST))
				note("CPU %u: 0x%x, not 0x%x to 0x%x", cpu_index(), got, low, high);
		pause();
	}
	cli();
}

void guest_main(void)
{
	unsigned count = smp_start();

	rounds = arg("rounds", 300); /* each is a handshake, slow where CPUs share one */
	test_rewrite(code, "a whole function");
	test_rewrite(code + PAGE_BYTES - 3, "a function across pages");
	test_one_byte();
	test_ahead();
	test_next();
	test_alias();
	test_remap();
	test_string();
	if (count == 1) {
		skip("cross-modifying code", "one CPU");
		return;
	}
	smp_run(cross);
	same(cross_wrong, 0, "cross-modifying code");
	emit(code + 2 * PAGE_BYTES + 128, 0);
	trap_set(TRAP_BP, on_breakpoint);
	trap_set(VECTOR_SYNC, on_sync);
	smp_run(poke_and_call);
	note("%u breakpoints met", breakpoints);
	same(mixed, 0, "code patched under running CPUs");
}
