/* test_decompress.c - every format unpacks, and damage is never worse than an error. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "boot/decompress.h"
#include "images.h"

#include <errno.h>

static struct image sample(size_t bytes)
{
	struct image i = image_make(bytes);

	for (size_t at = 0; at < bytes; at++)
		i.data[at] = at % 3 ? pattern(at) : (uint8_t)(at * 2654435761u >> 13);
	return i;
}

/* In buffers of their exact size, so that a sanitizer sees a step too far. */
static int unpack(const uint8_t *in, size_t in_bytes, size_t out_bytes, struct image *out)
{
	struct image copy = image_make(in_bytes);
	int err;

	if (in_bytes)
		memcpy(copy.data, in, in_bytes);
	*out = image_make(out_bytes);
	err = decompress(copy.data, in_bytes, out->data, out_bytes);
	image_free(&copy);
	return err;
}

static void round_trip(const struct packer *p, size_t bytes)
{
	struct image in = sample(bytes), packed = p->pack(in), out;

	assert_string_equal(decompress_format(packed.data, packed.bytes), p->name);
	assert_int_equal(unpack(packed.data, packed.bytes, bytes, &out), 0);
	if (bytes)
		assert_memory_equal(out.data, in.data, bytes);
	image_free(&out);
	image_free(&packed);
	image_free(&in);
}

static void test_round_trips(void **state)
{
	static const size_t sizes[] = { 1, 63, 4096, 1000003 };

	for (unsigned i = 0; i < ARRAY_SIZE(packers); i++)
		for (unsigned k = 0; k < ARRAY_SIZE(sizes); k++)
			round_trip(&packers[i], sizes[k]);
}

/* More than one block of lz4. */
static void test_large(void **state)
{
	round_trip(&packers[2], MIB(17) + 5);
}

static void test_wrong_sizes(void **state)
{
	for (unsigned i = 0; i < ARRAY_SIZE(packers); i++) {
		struct image in = sample(50000), packed = packers[i].pack(in), out;
		static const size_t wrong[] = { 0, 1, 49999, 50001, 100000 };

		for (unsigned k = 0; k < ARRAY_SIZE(wrong); k++) {
			assert_int_equal(unpack(packed.data, packed.bytes, wrong[k], &out),
					 -EINVAL);
			image_free(&out);
		}
		image_free(&packed);
		image_free(&in);
	}
}

static void test_truncations(void **state)
{
	for (unsigned i = 0; i < ARRAY_SIZE(packers); i++) {
		struct image in = sample(3000), packed = packers[i].pack(in), out;

		for (size_t bytes = 0; bytes < packed.bytes; bytes++) {
			assert_true(unpack(packed.data, bytes, in.bytes, &out) < 0);
			image_free(&out);
		}
		image_free(&packed);
		image_free(&in);
	}
}

/* All but lz4 notice every damage that matters; none may do more than fail. */
static void test_bit_flips(void **state)
{
	for (unsigned i = 0; i < ARRAY_SIZE(packers); i++) {
		struct image in = sample(3000), packed = packers[i].pack(in), out;

		for (size_t bit = 0; bit < packed.bytes * 8; bit += 3) {
			packed.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
			unpack(packed.data, packed.bytes, in.bytes, &out);
			image_free(&out);
			packed.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
		}
		image_free(&packed);
		image_free(&in);
	}
}

static void test_unknown(void **state)
{
	uint8_t out[16];

	assert_null(decompress_format((const uint8_t *)"\x5d\0\0\0", 4));
	assert_null(decompress_format((const uint8_t *)"\x1f\x8b", 2));
	assert_null(decompress_format(NULL, 0));
	assert_int_equal(decompress((const uint8_t *)"BZh9", 4, out, sizeof(out)), -ENOTSUP);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trips), cmocka_unit_test(test_large),
		cmocka_unit_test(test_wrong_sizes), cmocka_unit_test(test_truncations),
		cmocka_unit_test(test_bit_flips),   cmocka_unit_test(test_unknown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
