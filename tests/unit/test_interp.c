/* test_interp.c - the interpreter on small guest programs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "flat.h"
#include "host/sim/sim.h"

static struct host host;
static struct flat *f;

static int setup(void **state)
{
	host = sim_create(NULL);
	f = flat_create(&host, 1, CLOCK_HOST);
	return 0;
}

static int teardown(void **state)
{
	flat_destroy(f);
	return (int)sim_destroy(&host);
}

GUEST(code_sum, "xor %eax, %eax; mov $100, %ecx; 1: add %rcx, %rax; dec %ecx; jnz 1b; hlt");

static void test_loop(void **state)
{
	FLAT_RUN(f, code_sum);
	assert_int_equal(f->exit.reason, EXIT_HALT);
	assert_int_equal(f->vector, -1);
	assert_int_equal(flat_reg(f, RAX), 5050);
	assert_int_equal(f->cpu->insns, 2 + 300 + 1);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_loop, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
