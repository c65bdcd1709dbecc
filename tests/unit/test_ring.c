/*
 * test_ring.c - SYSCALL and SYSRET between rings 3 and 0, which translated code does
 * without C where nothing is unusual: both executors come to the same state, whatever MSRs,
 * flags and targets are.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "compare.h"
#include "flat.h"
#include "host/sim/sim.h"

#define USER   0x300000u
#define ENTRY  0x310000u
#define TSS    0x6000u
#define STACK0 0x30000u
#define ROUNDS 3000

/* What Linux has SYSCALL clear, and where it has its segments. */
#define LINUX_SFMASK 0x257fd5ull
#define LINUX_STAR   (0x23ull << 48 | 0x10ull << 32)

/* Some times there and back: what is remembered of one turn serves the next. */
GUEST(kernel, "mov %r14, %r11\n"
	      "mov %r15, %rcx\n"
	      "sysretq\n");
GUEST(kernel32, "mov %r14, %r11\n"
		"mov %r15, %rcx\n"
		"sysretl\n");
GUEST(user, "rdtsc\n" /* not with CR4.TSD */
	    "mov $0, %eax\n"
	    "pushfq\n"
	    "pop %rbx\n"
	    "mov %cs, %edx\n"
	    "mov %ss, %esi\n"
	    "mov 0x200001, %edi\n" /* not with AC */
	    "syscall\n");
GUEST(entry, "pushfq\n"
	     "pop %r8\n"
	     "mov %cs, %r9d\n"
	     "mov %ss, %r10d\n"
	     "mov %r11, %r12\n"
	     "mov %edi, 0x200008\n"
	     "dec %r13\n"
	     "jz 1f\n"
	     "cmp $1, %r13d\n" /* the last time with others */
	     "cmove %rbp, %r15\n"
	     "cmove 0x200010, %r14\n"
	     "mov $0x100000, %eax\n"
	     "jmp *%rax\n"
	     "1: hlt\n");

enum { INTERP, SOFT, SIDES };

static struct host host;
static struct flat *side[SIDES];

static int setup(void **state)
{
	host = sim_create(NULL);
	side[INTERP] = flat_create_on(&engine_interp, &host, 1, CLOCK_HOST);
	side[SOFT] = flat_create_on(&engine_soft, &host, 1, CLOCK_HOST);
	return 0;
}

static int teardown(void **state)
{
	for (unsigned i = 0; i < SIDES; i++)
		flat_destroy(side[i]);
	return (int)sim_destroy(&host);
}

static uint64_t seed = 1;

static uint64_t random_u64(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	return seed ^= seed << 17;
}

static bool one_in(unsigned n)
{
	return (random_u64() >> 20) % n == 0;
}

static uint64_t random_flags(void)
{
	uint64_t usual = one_in(4) ? 0 : RFLAGS_TF | RFLAGS_AC | RFLAGS_NT;

	return one_in(8) ? random_u64() : random_u64() & 0x3f7fd7 & ~usual;
}

/* Mostly what kernels do. */
static void random_state(struct cpu_state *s)
{
	s->tr = (struct segment){ 0x40, 0x8b, 0x67, TSS };
	s->lstar = ENTRY;
	s->star = one_in(2) ? random_u64() : LINUX_STAR;
	s->sfmask = one_in(3) ? (uint32_t)random_u64() : LINUX_SFMASK;
	s->efer &= ~(uint64_t)(one_in(16) ? EFER_SCE : 0);
	s->cr4 |= one_in(8) ? CR4_TSD : 0;
	s->cr0 |= one_in(8) ? CR0_AM : 0;
	s->gpr[R13] = 1 + random_u64() % 4;
	s->gpr[R14] = random_flags();
	s->gpr[R15] = one_in(16) ? random_u64() : USER;
	s->gpr[RBP] = one_in(16) ? random_u64() : USER;
}

static void put(struct flat *f, uint32_t at, const uint8_t *code, const uint8_t *end)
{
	memcpy(f->ram + at, code, (size_t)(end - code));
	f->vm->engine->code_changed(f->vm, at, (uint64_t)(end - code));
}

static void run(struct flat *f, const struct cpu_state *s, bool narrow, uint64_t last_flags,
		struct cpu_state *after)
{
	memset(f->ram + TSS, 0, 0x68);
	store_u64(f->ram + TSS + 4, STACK0);
	store_u64(f->ram + FLAT_DATA, 0x1234567);
	store_u64(f->ram + FLAT_DATA + 16, last_flags);
	put(f, USER, user, user_end);
	put(f, ENTRY, entry, entry_end);
	if (narrow)
		flat_load(f, kernel32, kernel32_end);
	else
		flat_load(f, kernel, kernel_end);
	f->vm->engine->set_state(f->vcpu, s);
	flat_run(f);
	f->vm->engine->get_state(f->vcpu, after);
}

static void test_alike(void **state)
{
	struct cpu_state s, after[SIDES];

	for (unsigned round = 0; round < ROUNDS; round++) {
		uint64_t last_flags = random_flags();
		bool narrow = one_in(16);

		for (unsigned i = 0; i < SIDES; i++)
			flat_reset(side[i], MODE_64);
		s = side[INTERP]->before;
		random_state(&s);
		for (unsigned i = 0; i < SIDES; i++)
			run(side[i], &s, narrow, last_flags, &after[i]);
		assert_int_equal(side[INTERP]->vector, side[SOFT]->vector);
		if (state_hash(&after[INTERP], COMPARE_ALL) !=
		    state_hash(&after[SOFT], COMPARE_ALL))
			fail_msg("round %u: %u differences", round,
				 state_show(&after[INTERP], &after[SOFT], "interp", "soft"));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_alike),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
