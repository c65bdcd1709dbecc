/*
 * on_platform.h - cmocka tests of one device on a platform without processors.
 *
 * Each test gets a fresh platform in `p`, and fails if it leaves anything behind.
 */
#ifndef TESTS_UNIT_ON_PLATFORM_H
#define TESTS_UNIT_ON_PLATFORM_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "host/sim/platform.h"

#include <errno.h>

static struct platform *p;

static inline int platform_setup(void **state)
{
	p = platform_create(NULL);
	return 0;
}

static inline int platform_teardown(void **state)
{
	return (int)platform_destroy(p);
}

#define ON_PLATFORM(test) cmocka_unit_test_setup_teardown(test, platform_setup, platform_teardown)

static inline uint8_t inb(uint64_t port)
{
	return platform_inb(p, port);
}

static inline void outb(uint64_t port, uint8_t val)
{
	platform_outb(p, port, val);
}

static inline void wait_ns(uint64_t ns)
{
	sim_advance(&p->host, ns);
}

static inline void line(unsigned gsi, bool level)
{
	irq_set(p->vm, gsi, 31, level);
}

/* Do devices drive this line now? */
static inline bool is_asserted(unsigned gsi)
{
	return p->vm->line[gsi].sources != 0;
}

/*
 * Save everything, go on in a fresh platform at the same guest time. The old one
 * is gone. Saving the new one again must give the same bytes.
 */
static inline void migrate(void)
{
	static uint8_t before[8192], after[8192];
	struct snap save = { .buf = before, .capacity = sizeof(before) };
	uint64_t now = p->host.ops->now_ns(p->host.ctx);
	struct snap load, again = { .buf = after, .capacity = sizeof(after) };

	assert_int_equal(platform_snapshot(p, &save), 0);
	assert_int_equal(platform_destroy(p), 0);
	p = platform_create(NULL);
	wait_ns(now);
	load = (struct snap){ .buf = before, .capacity = save.pos, .loading = true };
	assert_int_equal(platform_snapshot(p, &load), 0);
	assert_int_equal(load.pos, save.pos);
	assert_int_equal(platform_snapshot(p, &again), 0);
	assert_int_equal(again.pos, save.pos);
	assert_memory_equal(before, after, save.pos);
}

#endif
