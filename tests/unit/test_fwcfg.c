/* test_fwcfg.c - fw_cfg, debug console and exit port. */
#include "on_platform.h"

static uint64_t item(uint16_t key, unsigned bytes)
{
	uint64_t v = 0;

	platform_out(p, 0x510, 2, key);
	for (unsigned i = 0; i < bytes; i++)
		v |= (uint64_t)inb(0x511) << (i * 8);
	return v;
}

static void test_items(void **state)
{
	struct platform_config cfg = { .vcpus = 300, .ram_bytes = GIB(6) };

	platform_destroy(p);
	p = platform_create(&cfg);
	assert_int_equal(item(0x00, 4), 0x554d4551); /* "QEMU" */
	assert_int_equal(item(0x01, 4), 1);
	assert_int_equal(item(0x03, 8), GIB(6));
	assert_int_equal(item(0x05, 2), 300);
	assert_int_equal(item(0x0f, 2), 300);
	assert_int_equal(item(0x19, 4), 0); /* no files */
	assert_int_equal(item(0x7777, 8), 0);
}

static void test_selecting_starts_over(void **state)
{
	platform_out(p, 0x510, 2, 0);
	assert_int_equal(inb(0x511), 'Q');
	assert_int_equal(inb(0x511), 'E');
	platform_out(p, 0x510, 2, 0);
	assert_int_equal(inb(0x511), 'Q');
	for (unsigned i = 0; i < 1000; i++)
		inb(0x511);
	assert_int_equal(inb(0x511), 0); /* behind the end */
}

static void test_data_is_read_only(void **state)
{
	platform_out(p, 0x510, 2, 0);
	outb(0x511, 5);
	outb(0x510, 5);
	assert_int_equal(inb(0x511), 'Q');
	assert_int_equal(inb(0x510), 0xff);
}

static void test_snapshot(void **state)
{
	platform_out(p, 0x510, 2, 0);
	inb(0x511);
	migrate();
	assert_int_equal(inb(0x511), 'E');
}

static void test_debugcon(void **state)
{
	assert_int_equal(inb(0xe9), 0xe9);
	outb(0xe9, 'h');
	outb(0xe9, 'i');
	assert_string_equal(p->output, "hi");
}

static void test_exit_port(void **state)
{
	int code;

	outb(0xf4, 0x2a);
	assert_int_equal(platform_request(p, &code), VM_REQ_EXIT);
	assert_int_equal(code, 0x2a);
	platform_out(p, 0xf4, 4, 7); /* as wide as it comes */
	assert_int_equal(platform_request(p, &code), VM_REQ_EXIT);
	assert_int_equal(code, 7);
	assert_int_equal(inb(0xf4), 0xff);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_PLATFORM(test_items),
		ON_PLATFORM(test_selecting_starts_over),
		ON_PLATFORM(test_data_is_read_only),
		ON_PLATFORM(test_snapshot),
		ON_PLATFORM(test_debugcon),
		ON_PLATFORM(test_exit_port),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
