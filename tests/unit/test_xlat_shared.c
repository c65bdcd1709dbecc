/*
 * test_xlat_shared.c - several vCPUs, one code cache: what one has translated serves all,
 * and none of them can tell. This one thread plays them all in turn, and where it matters
 * who comes when, one in the middle of another: at the callback for new code.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cpu/codemap.h"
#include "flat.h"
#include "host/sim/sim.h"

#define VCPUS 4

static struct host host;
static struct flat *f;
static void (*interlude)(void); /* done once, when code has been made */

static void code_made(void *arg, uint64_t code, size_t bytes, const char *name)
{
	void (*fn)(void) = interlude;

	interlude = NULL;
	if (fn)
		fn();
}

static int setup(void **state)
{
	const struct vmm_config cfg = { .code_made = code_made,
					.code_cache_bytes = VMM_CODE_CACHE_MIN };

	interlude = NULL;
	host = sim_create(NULL);
	f = flat_create_as(&engine_soft, &host, VCPUS, CLOCK_HOST, &cfg);
	return 0;
}

static int teardown(void **state)
{
	flat_destroy(f);
	return (int)sim_destroy(&host);
}

static struct cpu *cpu(unsigned vcpu)
{
	return cpu_of(f->vm->vcpu[vcpu]);
}

static uint64_t counted(unsigned vcpu, enum vcpu_stat what)
{
	return stat_get(&f->vm->vcpu[vcpu]->stats, what);
}

static uint64_t counted_by_all(enum vcpu_stat what)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < VCPUS; i++)
		n += counted(i, what);
	return n;
}

static void put(uint64_t gpa, const uint8_t *code, size_t bytes)
{
	gmem_write(&f->vm->gmem, gpa, code, bytes);
	f->vm->engine->code_changed(f->vm, gpa, bytes);
}

/* From @rip in the address space @cr3 (0: the common one) to HLT; what RAX is then. */
static uint64_t run_in(unsigned vcpu, uint64_t rip, uint64_t cr3)
{
	struct vcpu *v = f->vm->vcpu[vcpu];
	struct vcpu_exit x;

	f->before.rip = rip;
	f->before.gpr[RAX] = 0;
	if (cr3)
		f->before.cr3 = cr3;
	host.ops->thread_set_gs(host.ctx, cpu(vcpu));
	f->vm->engine->set_state(v, &f->before);
	do {
		x = (struct vcpu_exit){ .reason = EXIT_KICK };
		assert_int_equal(f->vm->engine->run(v, &x), 0);
	} while (x.reason == EXIT_KICK);
	assert_int_equal(x.reason, EXIT_HALT);
	return cpu(vcpu)->s.gpr[RAX];
}

static uint64_t run(unsigned vcpu, uint64_t rip)
{
	return run_in(vcpu, rip, 0);
}

/* --- one for all ------------------------------------------------------------------------ */

GUEST(code_work, "mov $10, %ecx\n"
		 "1: call 2f; test $1, %ecx; jz 3f; add $100, %rax\n"
		 "3: dec %ecx; jnz 1b; jmp 4f\n"
		 "2: add $1, %rax; ret\n"
		 "4: hlt");

static void test_translated_and_linked_once(void **state)
{
	put(FLAT_CODE, code_work, (size_t)(code_work_end - code_work));
	assert_int_equal(run(0, FLAT_CODE), 510);
	assert_true(counted(0, STAT_TRANSLATIONS) >= 4);
	assert_true(counted(0, STAT_LINKS) >= 3);
	for (unsigned i = 1; i < VCPUS; i++) {
		assert_int_equal(run(i, FLAT_CODE), 510);
		assert_int_equal(counted(i, STAT_TRANSLATIONS), 0);
		assert_int_equal(counted(i, STAT_LINKS), 0);
		assert_true(counted(i, STAT_INTERPRETED) <= 1); /* HLT */
	}
}

static void test_modified_for_all(void **state)
{
	static const uint8_t old[] = { 0xb8, 1, 0, 0, 0, 0xf4 }; /* mov eax, 1; hlt */

	put(FLAT_CODE, old, sizeof(old));
	for (unsigned i = 0; i < VCPUS; i++)
		assert_int_equal(run(i, FLAT_CODE), 1);
	put(FLAT_CODE + 1, &(uint8_t){ 2 }, 1);
	for (unsigned i = VCPUS; i-- > 0;)
		assert_int_equal(run(i, FLAT_CODE), 2);
	assert_int_equal(counted_by_all(STAT_TRANSLATIONS), 2);
}

/* --- codemap.h, 5 ------------------------------------------------------------------------ */

#define PATCHED FLAT_DATA

GUEST(code_touch, "mov $0x200100, %ebx; movb $0, (%rbx); mov $0x101000, %edx; jmp *%rdx");
GUEST(code_patch, "mov $0x200001, %ebx; movb $0x22, (%rbx); mov $0x200000, %edx; jmp *%rdx");

static void run_patched(void)
{
	assert_int_equal(run(0, PATCHED), 0x11);
	host.ops->thread_set_gs(host.ctx, cpu(1));
}

static void wait_for_patch(void)
{
	interlude = run_patched;
}

/*
 * vCPU 1 stores to the page, which is data, and may do so directly from then on. Before it
 * patches the code there, vCPU 0 executes that, which vCPU 1 has not heard of when it has
 * patched it and jumps there. It must not run what vCPU 0 has made of the old bytes.
 */
static void test_own_stores_are_seen(void **state)
{
	static const uint8_t code[] = { 0xb8, 0x11, 0, 0, 0, 0xf4 };

	gmem_write(&f->vm->gmem, PATCHED, code, sizeof(code));
	put(FLAT_CODE, code_touch, (size_t)(code_touch_end - code_touch));
	put(FLAT_CODE + 0x1000, code_patch, (size_t)(code_patch_end - code_patch));
	interlude = wait_for_patch;
	assert_int_equal(run(1, FLAT_CODE), 0x22);
	assert_null(interlude);
	assert_int_equal(counted(1, STAT_CODE_WRITES), 0);
	assert_int_equal(run(0, PATCHED), 0x22);
}

/* --- across pages --------------------------------------------------------------------------- */

#define OTHER_PML4 0x400000u

/* As the common tables, but that the page behind FLAT_CODE is another one. */
static void build_other_space(uint64_t page, uint64_t instead)
{
	uint8_t *t = f->ram + OTHER_PML4;

	store_u64(t, (OTHER_PML4 + 0x1000) | 7);
	store_u64(t + 0x1000, (OTHER_PML4 + 0x2000) | 7);
	store_u64(t + 0x2000, (OTHER_PML4 + 0x3000) | 7);
	for (unsigned i = 0; i < 512; i++)
		store_u64(t + 0x3000 + 8 * i, (uint64_t)i << PAGE_SHIFT | 7);
	store_u64(t + 0x3000 + 8 * (page >> PAGE_SHIFT), instead | 7);
}

/* The same first page, and an instruction that ends in different second ones. */
static void test_instruction_across_pages(void **state)
{
	static const uint8_t head[] = { 0xb8, 0x11, 0 }, tail[] = { 0, 0, 0xf4 },
			     other_tail[] = { 0x22, 0, 0xf4 };
	uint64_t second = FLAT_CODE + PAGE_SIZE, other = FLAT_CODE + 16 * PAGE_SIZE;
	uint64_t common = f->before.cr3;

	put(second - sizeof(head), head, sizeof(head));
	put(second, tail, sizeof(tail));
	put(other, other_tail, sizeof(other_tail));
	build_other_space(second, other);
	for (unsigned i = 0; i < 8; i++) {
		assert_int_equal(run_in(i % 2, second - sizeof(head), common), 0x11);
		assert_int_equal(run_in(2 + i % 2, second - sizeof(head), OTHER_PML4), 0x220011);
	}
}

/* --- more than there is room for ---------------------------------------------------------------
 */

#define STEPS 12000u

/* So many blocks: add rax, 1; jmp to the next. */
static void put_steps(void)
{
	static const uint8_t step[] = { 0x48, 0x83, 0xc0, 1, 0xeb, 0 }, hlt = 0xf4;

	for (unsigned i = 0; i < STEPS; i++)
		put(FLAT_CODE + i * sizeof(step), step, sizeof(step));
	put(FLAT_CODE + STEPS * sizeof(step), &hlt, 1);
}

static void test_emptied_in_turns(void **state)
{
	put_steps();
	for (unsigned i = 0; i < 2 * VCPUS; i++)
		assert_int_equal(run(i % VCPUS, FLAT_CODE), STEPS);
	assert_true(counted_by_all(STAT_CACHE_FLUSHES) > 2 * VCPUS);
	assert_true(counted_by_all(STAT_INTERPRETED) < 3 * VCPUS);
}

static void run_steps(void)
{
	assert_int_equal(run(0, FLAT_CODE), STEPS);
	assert_int_equal(run(0, FLAT_CODE), STEPS);
	host.ops->thread_set_gs(host.ctx, cpu(1));
}

/* vCPU 1 does not come by: there is one turn, and then vCPU 0 does without. */
static void test_nobody_waits(void **state)
{
	put_steps();
	put(FLAT_DATA, code_work, (size_t)(code_work_end - code_work));
	interlude = run_steps;
	assert_int_equal(run(1, FLAT_DATA), 510);
	assert_int_equal(counted(0, STAT_CACHE_FLUSHES), 1);
	assert_true(counted(0, STAT_INTERPRETED) > STEPS / 4);
	assert_int_equal(run(0, FLAT_CODE), STEPS);
	assert_true(counted(0, STAT_CACHE_FLUSHES) > 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
		TEST(test_translated_and_linked_once), TEST(test_modified_for_all),
		TEST(test_own_stores_are_seen),        TEST(test_instruction_across_pages),
		TEST(test_emptied_in_turns),           TEST(test_nobody_waits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
