/*
 * host_machine.h - a Linux host for each test, and what tests of it share.
 */
#ifndef TESTS_UNIT_HOST_MACHINE_H
#define TESTS_UNIT_HOST_MACHINE_H

#include "host/linux/linux.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define MS         NSEC_PER_MSEC
#define PATIENT_NS (5 * NSEC_PER_SEC) /* nothing here takes so long unless it hangs */

static struct host host;

static inline uint64_t now(void)
{
	return host.ops->now_ns(host.ctx);
}

static inline void sleep_ns(uint64_t ns)
{
	struct timespec ts = { .tv_sec = (time_t)(ns / NSEC_PER_SEC),
			       .tv_nsec = (long)(ns % NSEC_PER_SEC) };

	nanosleep(&ts, NULL);
}

/* Polls, so that a broken wake-up is a failure and not a hang. */
static inline bool becomes(_Atomic uint32_t *word, uint32_t value)
{
	uint64_t deadline = now() + PATIENT_NS;

	while (atomic_load(word) != value && now() < deadline)
		sleep_ns(MS / 10);
	return atomic_load(word) == value;
}

static inline int set_up(void **state)
{
	return host_linux_create(&host);
}

static inline int tear_down(void **state)
{
	host_linux_destroy(&host);
	host_linux_destroy(&host); /* a zeroed host is legal */
	return 0;
}

static inline struct host_thread *start(void (*fn)(void *arg), void *arg,
					_Atomic uint32_t *attention)
{
	struct host_thread_attr attr = {
		.name = "test thread", .fn = fn, .arg = arg, .attention = attention
	};
	struct host_thread *t = NULL;

	assert_int_equal(host.ops->thread_create(host.ctx, &attr, &t), 0);
	assert_non_null(t);
	return t;
}

static inline void join(struct host_thread *t)
{
	host.ops->thread_join(host.ctx, t);
}

/* What a thread or a watch reads. */
struct reader {
	int fd[2];
	_Atomic uint32_t attention, ready;
	ssize_t got;
	int error;
};

/* Base pages: a memfd, whatever the kernel does with huge ones. */
static inline int map_base_pages(uint64_t bytes, int node, struct host_mem *m)
{
	struct host_mem_attr attr = { .bytes = bytes, .node = node, .page_bytes = PAGE_SIZE };

	return host.ops->mem_map(host.ctx, &attr, m);
}

typedef uint64_t (*code_fn)(void *a, uint64_t b);

static inline code_fn as_function(const uint8_t *rx)
{
	code_fn fn;

	memcpy(&fn, &rx, sizeof(fn));
	return fn;
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

#endif
