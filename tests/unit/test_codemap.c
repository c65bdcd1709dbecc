/*
 * test_codemap.c - decoders and writers of code, step by step: two or more vCPUs
 * whose parts this one thread plays in turn.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cpu/codemap.h"
#include "cpu/mmu.h"
#include "flat.h"
#include "host/sim/sim.h"

#define PAGE  0x300000u
#define VCPUS 3

static struct host host;
static struct flat *f;
static struct codemap *map;
static struct cpu *cpu[VCPUS];

static int setup(void **state)
{
	unsigned i;

	host = sim_create(NULL);
	f = flat_create(&host, VCPUS, CLOCK_HOST);
	map = soft_of(f->vm)->codemap;
	for (i = 0; i < VCPUS; i++) {
		cpu[i] = cpu_of(f->vm->vcpu[i]);
		f->vm->engine->set_state(f->vm->vcpu[i], &f->before);
	}
	return 0;
}

static int teardown(void **state)
{
	flat_destroy(f);
	return (int)sim_destroy(&host);
}

static uint32_t version(uint64_t gpa)
{
	return atomic_load(codemap_version(map, gpa));
}

/* A store as an instruction makes it. */
static void store(unsigned vcpu, uint64_t gva, uint8_t v)
{
	assert_true(mmu_write_u8(cpu[vcpu], gva, v));
}

static bool has_tag(unsigned vcpu, uint64_t gva)
{
	return tlb_slot(cpu[vcpu], gva)->write == tlb_key(cpu[vcpu], gva, 1);
}

static bool is_told(unsigned vcpu)
{
	return atomic_fetch_and(&f->vm->vcpu[vcpu]->events, ~(uint32_t)VCPU_CODE) & VCPU_CODE;
}

/* Is code decoded now under @v still good? */
static bool alive(uint32_t v)
{
	return version(PAGE) == v;
}

static void test_nobody_wrote(void **state)
{
	uint32_t v = codemap_mark(cpu[0], PAGE, 15);

	assert_true(alive(v));
	assert_true(codemap_is_code(map, PAGE));
	assert_false(codemap_is_code(map, PAGE + PAGE_SIZE));
	assert_false(is_told(1));
	assert_false(codemap_may_write(cpu[1], PAGE));
}

static void test_own_tag(void **state)
{
	uint32_t v;

	store(0, PAGE, 1);
	assert_true(has_tag(0, PAGE));
	v = codemap_mark(cpu[0], PAGE, 15);
	assert_false(has_tag(0, PAGE));
	assert_false(is_told(1));
	assert_false(is_told(2));

	/* Beside the code; then into it. */
	store(0, PAGE + 64, 1);
	assert_true(alive(v));
	assert_false(has_tag(0, PAGE));
	assert_false(cpu[0]->code_stale);
	store(0, PAGE + 14, 1);
	assert_false(alive(v));
	assert_true(cpu[0]->code_stale);
	assert_false(codemap_is_code(map, PAGE));
	/* It is data now. */
	store(0, PAGE + 14, 2);
	assert_true(has_tag(0, PAGE));
}

static void test_granules(void **state)
{
	uint32_t v = codemap_mark(cpu[0], PAGE + 60, 15); /* two of them */

	codemap_written(map, NULL, PAGE + 128, PAGE_SIZE - 128);
	assert_true(alive(v));
	codemap_written(map, NULL, PAGE - 64, 64);
	assert_true(alive(v));
	codemap_written(map, NULL, PAGE + 127, 1);
	assert_false(alive(v));
	v = codemap_mark(cpu[0], PAGE + 60, 15);
	codemap_written(map, NULL, PAGE - 100 * PAGE_SIZE, 200 * PAGE_SIZE);
	assert_false(alive(v));
	codemap_written(map, NULL, UINT64_MAX - PAGE_SIZE, PAGE_SIZE); /* no RAM there */
}

/* The page is mostly data: it does not stay slow for ever. */
static void test_quiet_stores(void **state)
{
	uint32_t v = codemap_mark(cpu[0], PAGE, 15);
	unsigned i;

	for (i = 0; i < 10000 && alive(v); i++)
		store(0, PAGE + 1024, (uint8_t)i);
	assert_in_range(i, 100, 9999);
	store(0, PAGE + 1024, 1);
	assert_true(has_tag(0, PAGE));
}

/* vCPU 1 stores by a tag that vCPU 0's decoding made stale. */
static void test_stale_tag(void **state)
{
	uint32_t v;

	store(1, PAGE, 1);
	v = codemap_mark(cpu[0], PAGE, 15);
	assert_true(is_told(1));
	assert_false(is_told(2));
	codemap_verify(cpu[0]);
	assert_true(alive(v));

	assert_true(has_tag(1, PAGE));
	store(1, PAGE, 2);
	assert_true(alive(v)); /* unseen so far */
	codemap_verify(cpu[0]);
	assert_false(alive(v));
}

static void test_answer(void **state)
{
	uint32_t v;

	store(1, PAGE, 1);
	v = codemap_mark(cpu[0], PAGE, 15);
	codemap_answer(cpu[1]);
	assert_false(has_tag(1, PAGE));
	codemap_verify(cpu[0]);
	assert_true(alive(v));
	store(1, PAGE, 2); /* the slow way: seen at once */
	assert_false(alive(v));
}

/* An answer is about each page that was asked for since the last one, however many, and no other.
 */
static void test_answers_for_all(void **state)
{
	for (unsigned n = 1; n <= 40; n++) {
		uint64_t first = PAGE + (n - 1) * n / 2 * PAGE_SIZE;

		for (unsigned i = 0; i <= n; i++)
			store(1, first + i * PAGE_SIZE, 1);
		for (unsigned i = 0; i < n; i++)
			codemap_mark(cpu[0], first + i * PAGE_SIZE, 15);
		codemap_answer(cpu[1]);
		for (unsigned i = 0; i < n; i++)
			assert_false(has_tag(1, first + i * PAGE_SIZE));
		assert_true(has_tag(1, first + n * PAGE_SIZE));
		codemap_verify(cpu[0]);
	}
}

/* What came in before the answer counts, whenever somebody looks. */
static void test_store_before_answer(void **state)
{
	uint32_t v;

	store(1, PAGE, 1);
	v = codemap_mark(cpu[0], PAGE, 15);
	store(1, PAGE, 2);
	codemap_answer(cpu[1]);
	assert_true(alive(v));
	codemap_verify(cpu[2]);
	assert_false(alive(v));
}

/* Who decodes answers first: its own stores must not be among the unseen. */
static void test_writer_decodes(void **state)
{
	uint32_t v;

	store(1, PAGE, 1);
	codemap_mark(cpu[0], PAGE, 15);
	v = codemap_mark(cpu[1], PAGE, 15);
	assert_false(has_tag(1, PAGE));
	store(1, PAGE, 2);
	assert_false(alive(v));
}

static void test_many_writers(void **state)
{
	uint32_t v;

	store(1, PAGE, 1);
	store(2, PAGE, 1);
	v = codemap_mark(cpu[0], PAGE, 15);
	assert_true(is_told(1));
	assert_true(is_told(2));
	codemap_answer(cpu[1]);
	codemap_verify(cpu[0]);
	store(2, PAGE, 2); /* vCPU 2 has not answered: still provisional */
	codemap_verify(cpu[0]);
	assert_false(alive(v));
}

/* More provisional pages than there is room for: their blocks run once. */
static void test_too_many(void **state)
{
	unsigned dead = 0, i;

	for (i = 0; i < 100; i++)
		store(1, PAGE + i * PAGE_SIZE, 1);
	for (i = 0; i < 100; i++)
		dead += codemap_mark(cpu[0], PAGE + i * PAGE_SIZE, 15) !=
			version(PAGE + i * PAGE_SIZE);
	assert_in_range(dead, 1, 99);
	codemap_answer(cpu[1]);
	for (i = 0; i < 100; i++)
		assert_int_equal(codemap_mark(cpu[0], PAGE + i * PAGE_SIZE, 15),
				 version(PAGE + i * PAGE_SIZE));
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(test_nobody_wrote),    TEST(test_own_tag),
		TEST(test_granules),        TEST(test_quiet_stores),
		TEST(test_stale_tag),       TEST(test_answer),
		TEST(test_writer_decodes),  TEST(test_store_before_answer),
		TEST(test_many_writers),    TEST(test_too_many),
		TEST(test_answers_for_all),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
