/*
 * test_carry.c - a running guest goes from one engine to another and back: what
 * cpu_state says is all that there is of a vCPU.
 *
 * The guest computes a sequence whose every member can be checked, keeps constants in
 * registers of each kind, and counts interrupts of its local APIC's periodic timer. It
 * is stopped where a kick happens to find it. Without /dev/kvm it goes from the
 * translator to the interpreter.
 */
#include "run_until.h"

#include "cpu/xstate.h"
#include "host/linux/host_linux.h"
#include "host/linux/kvm/engine_kvm.h"
#include "host/linux/kvm/kvm.h"
#include "host/linux/kvm/probe.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

#define COUNT   0x300000u /* where the guest keeps its counts: of steps, of ticks */
#define TICKS   0x300008u
#define MUL     6364136223846793005ull
#define ADD     1442695040888963407ull
#define STEPS   200u /* a leg, at least */
#define LEGS    6
#define VECTOR  0x40
#define HANDLER 0x110000u

/*
 * R8 the sequence, R9 its index, R12 where to count. XMM0 the index again if R14 says so:
 * a KVM that interprets guest code knows no arithmetic of that kind.
 */
GUEST(work, "	mov $0x80f, %ecx\n mov $0x1ff, %eax\n xor %edx, %edx\n wrmsr\n" /* on */
	    "	mov $0x83e, %ecx\n mov $0xb, %eax\n wrmsr\n"                    /* undivided */
	    "	mov $0x832, %ecx\n mov $0x20040, %eax\n wrmsr\n"                /* periodic */
	    "	mov $0x838, %ecx\n mov $1000000, %eax\n wrmsr\n"                /* 1 ms */
	    "	sti\n"
	    "1:	imul %r10, %r8\n"
	    "	add %r11, %r8\n"
	    "	inc %r9\n"
	    "	test %r14, %r14\n jz 2f\n"
	    "	paddq %xmm1, %xmm0\n"
	    "2:"
	    "	mov %r9, (%r12)\n"
	    "	jmp 1b\n");

GUEST(handler, "push %rax\n push %rcx\n push %rdx\n"
	       "incq 8(%r12)\n"
	       "mov $0x80b, %ecx\n xor %eax, %eax\n xor %edx, %edx\n wrmsr\n"
	       "pop %rdx\n pop %rcx\n pop %rax\n iretq\n");

static struct host host;
static bool have_kvm, kvm_is_slow;

/* --- a leg --------------------------------------------------------------------------- */

struct leg {
	uint64_t steps, ticks;
};

static bool far_enough(const struct flat *f, void *arg)
{
	const struct leg *l = arg;

	return gmem_load_u64(f->ram + COUNT) >= l->steps + STEPS &&
	       gmem_load_u64(f->ram + TICKS) >= l->ticks + 2;
}

static void run_leg(struct flat *f)
{
	struct leg l = { load_u64(f->ram + COUNT), load_u64(f->ram + TICKS) };

	assert_int_equal(run_until(f, far_enough, &l), EXIT_KICK);
	assert_true(far_enough(f, &l));
}

static const uint8_t pi[10] = { 0x35, 0xc2, 0x68, 0x21, 0xa2, 0xda, 0x0f, 0xc9, 0, 0x40 };

/* --- the state ------------------------------------------------------------------------- */

/* From 0 on, n times v * MUL + ADD: by squaring that function. */
static uint64_t member(uint64_t n)
{
	uint64_t mul = MUL, add = ADD, v = 0;

	for (; n; n >>= 1) {
		if (n & 1)
			v = v * mul + add;
		add = add * mul + add;
		mul *= mul;
	}
	return v;
}

static void check(const struct cpu_state *s)
{
	uint64_t n = s->gpr[R9], half = n + 1;
	uint64_t in_xmm = load_u64(s->xsave + 160);

	/* Between multiplication and addition; before the index is counted; after. */
	if (s->gpr[R8] != member(n) && s->gpr[R8] != member(half))
		assert_int_equal(s->gpr[R8], member(n) * MUL);
	assert_true(s->gpr[R14] ? in_xmm == n || in_xmm + 1 == n : in_xmm == 0);
	assert_memory_equal(s->xsave + 32, pi, sizeof(pi));
	assert_int_equal(s->gpr[R10], MUL);
	assert_int_equal(s->gpr[R13], 0x1313131313131313);
	assert_int_equal(s->dr[1], 0x123456);
	assert_int_equal(s->lstar, 0xffffffff81000000);
	assert_int_equal(s->kernel_gs_base, 0xffff888000000000);
	assert_int_equal(s->tsc_aux, 7);
	assert_true(s->apic_valid);
	assert_int_equal(s->apic[0x0f], 0x1ff);
	assert_int_equal(s->apic[0x32], 0x20000 | VECTOR);
	assert_int_equal(s->apic[0x38], 1000000);
	assert_true(s->apic[0x39] <= 1000000);
	if (s->xcr0 & XCR0_AVX)
		for (unsigned i = 0; i < 16; i++)
			assert_int_equal(s->xsave[XSAVE_YMM + 7 * 16 + i], i + 1);
}

static bool have_avx(const struct flat *f)
{
	struct cpuid_regs r = cpuid_query(&f->vm->cpuid, 0, 1, 0, 0, 1, BIT64(11));

	return r.ecx & BIT(28);
}

static void begin(struct flat *f, bool avx)
{
	struct cpu_state *s = &f->before;
	uint8_t *gate = f->ram + FLAT_IDT + VECTOR * 16;

	flat_reset(f, MODE_64);
	memcpy(f->ram + HANDLER, handler, (size_t)(handler_end - handler));
	store_u64(gate, (uint64_t)(HANDLER >> 16) << 48 | 0x8e00ull << 32 | 8u << 16);
	store_u64(gate + 8, 0);
	flat_load(f, work, work_end);
	s->gpr[R8] = s->gpr[R9] = 0;
	s->gpr[R10] = MUL;
	s->gpr[R11] = ADD;
	s->gpr[R12] = COUNT;
	s->gpr[R13] = 0x1313131313131313;
	s->gpr[R14] = !kvm_is_slow;
	memcpy(s->xsave + 32, pi, sizeof(pi)); /* ST0, the only one in use */
	store_u16(s->xsave, 0x37f);
	store_u16(s->xsave + 2, 7 << 11);
	s->xsave[4] = BIT(7);
	s->dr[1] = 0x123456;
	s->lstar = 0xffffffff81000000;
	s->kernel_gs_base = 0xffff888000000000;
	s->tsc_aux = 7;
	s->apic_base |= BIT(10); /* x2APIC */
	store_u64(s->xsave + 176, 1);
	if (avx) {
		s->cr4 |= CR4_OSXSAVE;
		s->xcr0 = XCR0_X87 | XCR0_SSE | XCR0_AVX;
		for (unsigned i = 0; i < 16; i++)
			s->xsave[XSAVE_YMM + 7 * 16 + i] = (uint8_t)(i + 1);
	}
	assert_int_equal(f->vm->engine->set_state(f->vcpu, s), 0);
}

static void go_over(struct flat *from, struct flat *to)
{
	struct cpu_state s, seen;

	from->vm->engine->get_state(from->vcpu, &s);
	check(&s);
	memcpy(to->ram, from->ram, FLAT_RAM);
	to->vm->engine->code_changed(to->vm, 0, FLAT_RAM);
	assert_int_equal(to->vm->engine->set_state(to->vcpu, &s), 0);
	to->vm->engine->get_state(to->vcpu, &seen);
	check(&seen);
	assert_memory_equal(s.gpr, seen.gpr, sizeof(s.gpr));
	assert_int_equal(s.rip, seen.rip);
	assert_int_equal(s.rflags, seen.rflags);
	assert_memory_equal(s.xsave, seen.xsave, 416);
}

static void there_and_back(const struct engine_ops *one, const struct engine_ops *two)
{
	struct flat *f[2] = { flat_create_on(one, &host, 1, CLOCK_HOST),
			      flat_create_on(two, &host, 1, CLOCK_HOST) };

	begin(f[0], have_avx(f[0]) && have_avx(f[1]));
	for (unsigned leg = 0; leg < LEGS; leg++) {
		run_leg(f[leg % 2]);
		go_over(f[leg % 2], f[(leg + 1) % 2]);
	}
	flat_destroy(f[0]);
	flat_destroy(f[1]);
}

static void test_between_executors(void **state)
{
	there_and_back(&engine_soft, &engine_interp);
}

static void test_soft_and_kvm(void **state)
{
	if (!have_kvm)
		skip();
	there_and_back(&engine_soft, &engine_kvm);
}

static void test_kvm_and_kvm(void **state)
{
	if (!have_kvm)
		skip();
	there_and_back(&engine_kvm, &engine_kvm);
}

/* --- an interrupt on its way -------------------------------------------------------------- */

/* Acknowledged, not delivered: the software engine asks its APIC for it again. */
static void test_event_on_its_way(void **state)
{
	struct flat *f = flat_create_on(&engine_interp, &host, 1, CLOCK_HOST);
	struct cpu_state s;

	begin(f, false);
	engine_interp.get_state(f->vcpu, &s);
	s.event.kind = EVENT_INTERRUPT;
	s.event.vector = VECTOR;
	assert_int_not_equal(engine_interp.set_state(f->vcpu, &s), 0); /* the PIC's, perhaps */
	s.apic[0x0f] = 0x1ff;
	s.apic[0x10 + VECTOR / 32] = BIT(VECTOR % 32);
	assert_int_equal(engine_interp.set_state(f->vcpu, &s), 0);
	engine_interp.get_state(f->vcpu, &s);
	assert_int_equal(s.event.kind, EVENT_NONE);
	assert_int_equal(s.apic[0x10 + VECTOR / 32], 0);
	assert_int_equal(s.apic[0x20 + VECTOR / 32], BIT(VECTOR % 32));
	flat_destroy(f);
}

static void test_event_round_trip(void **state)
{
	struct cpu_state s, seen;
	struct flat *f;

	if (!have_kvm)
		skip();
	f = flat_create_on(&engine_kvm, &host, 1, CLOCK_HOST);
	begin(f, false);
	engine_kvm.get_state(f->vcpu, &s);
	s.event.kind = EVENT_INTERRUPT;
	s.event.vector = VECTOR;
	s.apic[0x0f] = 0x1ff;
	s.apic[0x10 + VECTOR / 32] = BIT(VECTOR % 32);
	s.apic[0x08] = 0x30; /* TPR */
	s.apic[0x35] = 0x700;
	assert_int_equal(engine_kvm.set_state(f->vcpu, &s), 0);
	engine_kvm.get_state(f->vcpu, &seen);
	assert_int_equal(seen.event.kind, EVENT_INTERRUPT);
	assert_int_equal(seen.event.vector, VECTOR);
	assert_int_equal(seen.apic[0x08], 0x30);
	assert_int_equal(seen.apic[0x10 + VECTOR / 32], BIT(VECTOR % 32));
	assert_int_equal(seen.apic[0x35], 0x700);
	s.event.kind = EVENT_EXCEPTION;
	s.event.vector = 13;
	s.event.has_error = true;
	s.event.error = 0x18;
	assert_int_equal(engine_kvm.set_state(f->vcpu, &s), 0);
	engine_kvm.get_state(f->vcpu, &seen);
	assert_int_equal(seen.event.kind, EVENT_EXCEPTION);
	assert_int_equal(seen.event.error, 0x18);
	flat_destroy(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_between_executors), cmocka_unit_test(test_soft_and_kvm),
		cmocka_unit_test(test_kvm_and_kvm),       cmocka_unit_test(test_event_on_its_way),
		cmocka_unit_test(test_event_round_trip),
	};
	struct kvm_speed speed = { 0 };
	char why[256] = "";
	int fd, failed;

	if (host_linux_create(&host))
		return 1;
	fd = kvm_open(why, sizeof(why));
	have_kvm = fd >= 0;
	if (have_kvm) {
		kvm_is_slow = kvm_measure(&host, fd, &speed) || speed.slow;
		close(fd);
	} else {
		fprintf(stderr, "# KVM IS NOT TESTED HERE: %s\n", why);
	}
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	host_linux_destroy(&host);
	return failed;
}
