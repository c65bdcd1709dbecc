/* test_gmem.c - the guest-physical map: look-up, bounds, copies across slots. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "mem/gmem.h"

#include <errno.h>

static uint8_t ram[4][2 * PAGE_SIZE] __attribute__((aligned(4096)));

/* Two neighbours that lie apart on the host, a hole, and one more. */
static void setup(struct gmem *m)
{
	memset(m, 0, sizeof(*m));
	memset(ram, 0, sizeof(ram));
	assert_int_equal(gmem_add(m, 0x10000, 2 * PAGE_SIZE, ram[3], 2), 0);
	assert_int_equal(gmem_add(m, 0x2000, 2 * PAGE_SIZE, ram[2], 1), 0);
	assert_int_equal(gmem_add(m, 0, 2 * PAGE_SIZE, ram[0], 0), 0);
}

static void add_refuses(void **state)
{
	struct gmem m;

	setup(&m);
	assert_int_equal(gmem_add(&m, 0x3000, PAGE_SIZE, ram[1], 0), -EEXIST);
	assert_int_equal(gmem_add(&m, 0xf000, 2 * PAGE_SIZE, ram[1], 0), -EEXIST);
	assert_int_equal(gmem_add(&m, 0x20001, PAGE_SIZE, ram[1], 0), -EINVAL);
	assert_int_equal(gmem_add(&m, 0x20000, 0, ram[1], 0), -EINVAL);
	assert_int_equal(gmem_add(&m, ~PAGE_MASK << 12, PAGE_SIZE, NULL, 0), -EINVAL);
	assert_int_equal(gmem_add(&m, PAGE_MASK, 2 * PAGE_SIZE, ram[1], 0), -EINVAL);
	for (unsigned i = 3; i < GMEM_SLOTS_MAX; i++)
		assert_int_equal(gmem_add(&m, GIB(1) + i * PAGE_SIZE, PAGE_SIZE, ram[1], 0), 0);
	assert_int_equal(gmem_add(&m, GIB(2), PAGE_SIZE, ram[1], 0), -ENOSPC);
}

static void find_agrees_with_a_scan(void **state)
{
	struct gmem m;

	setup(&m);
	assert_int_equal(m.ram_bytes, 6 * PAGE_SIZE);
	assert_int_equal(m.end, 0x12000);
	for (uint64_t gpa = 0; gpa < 0x20000; gpa += 0x7ff) {
		const struct gmem_slot *want = NULL;

		for (unsigned i = 0; i < m.nr_slots; i++)
			if (gpa >= m.slot[i].gpa && gpa < m.slot[i].gpa + m.slot[i].bytes)
				want = &m.slot[i];
		assert_ptr_equal(gmem_find(&m, gpa), want);
		assert_true(!want == !gmem_ptr(&m, gpa, 1));
	}
	assert_null(gmem_find(&m, UINT64_MAX));
	assert_null(gmem_ptr(&m, 0x1fff, 2));           /* slots touch, but not on the host */
	assert_null(gmem_ptr(&m, 0x11fff, UINT64_MAX)); /* no overflow */
	assert_ptr_equal(gmem_ptr(&m, 0x11fff, 1), &ram[3][0x1fff]);
}

static void copies_span_slots_and_respect_holes(void **state)
{
	struct gmem m;
	uint8_t in[3 * PAGE_SIZE], out[3 * PAGE_SIZE];

	setup(&m);
	for (unsigned i = 0; i < sizeof(in); i++)
		in[i] = (uint8_t)(i * 7 + i / 256);
	for (unsigned shift = 0; shift < 9; shift++) {
		memset(out, 0, sizeof(out));
		assert_int_equal(gmem_write(&m, 0x800 + shift, in, sizeof(in)), 0);
		assert_int_equal(gmem_read(&m, 0x800 + shift, out, sizeof(out)), 0);
		assert_memory_equal(in, out, sizeof(in));
		assert_memory_equal(&ram[0][0x800 + shift], in, 0x2000 - 0x800 - shift);
	}
	memset(ram[2], 0xaa, sizeof(ram[2]));
	assert_int_equal(gmem_write(&m, 0x3ffe, in, 3), -EFAULT);
	assert_int_equal(ram[2][0x1ffe], 0xaa); /* nothing was copied */
	assert_int_equal(gmem_read(&m, UINT64_MAX - 1, out, 4), -EFAULT);
	assert_int_equal(gmem_fill(&m, 0x1ff3, 0x5c, 0x1b), 0);
	assert_int_equal(ram[0][0x1ff2] == 0x5c, 0);
	assert_int_equal(ram[0][0x1ff3], 0x5c);
	assert_int_equal(ram[2][0xd], 0x5c);
	assert_int_equal(ram[2][0xe], 0xaa);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(add_refuses),
		cmocka_unit_test(find_agrees_with_a_scan),
		cmocka_unit_test(copies_span_slots_and_respect_holes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
