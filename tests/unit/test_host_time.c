/*
 * test_host_time.c - clocks and timers of the Linux host, and files that it watches.
 */
#include "host_machine.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

/* --- time ----------------------------------------------------------------------- */

static void ticks_run_at_their_rate(void **state)
{
	uint64_t khz = host.ops->ticks_khz(host.ctx);
	uint64_t t0, n0, ticks, ns, expected;

	assert_true(khz >= 100000); /* no counter in use is slower */
	t0 = host.ops->ticks(host.ctx);
	n0 = now();
	sleep_ns(100 * MS);
	ticks = host.ops->ticks(host.ctx) - t0;
	ns = now() - n0;
	expected = mul_div_u64(ns, khz, 1000000);
	assert_true(ticks > expected - expected / 2000 && ticks < expected + expected / 2000);
	assert_int_equal(host.ops->ticks_khz(host.ctx), khz);
}

static void rate_is_known_soon(void **state)
{
	struct host fresh;
	uint64_t began = now(), khz;

	assert_int_equal(host_linux_create(&fresh), 0);
	khz = fresh.ops->ticks_khz(fresh.ctx);
	assert_true(now() - began < 100 * MS);
	assert_true(khz > host.ops->ticks_khz(host.ctx) / 1000 * 999 &&
		    khz < host.ops->ticks_khz(host.ctx) / 1000 * 1001);
	host_linux_destroy(&fresh);
}

static void wall_clock_is_utc(void **state)
{
	int64_t off = (int64_t)(host.ops->wall_ns(host.ctx) / NSEC_PER_SEC) - (int64_t)time(NULL);

	assert_true(off >= -1 && off <= 1);
}

/* --- timers --------------------------------------------------------------------- */

struct shot {
	struct host_timer *timer;
	uint64_t deadline, fired_at;
	_Atomic uint32_t count;
	unsigned again;
};

static void on_shot(void *arg)
{
	struct shot *s = arg;

	s->fired_at = now();
	if (s->again) {
		s->again--;
		host.ops->timer_arm(host.ctx, s->timer, now() + MS);
	}
	atomic_fetch_add(&s->count, 1);
}

static void make_timer(struct shot *s)
{
	assert_int_equal(host.ops->timer_create(host.ctx, HOST_NODE_ANY, on_shot, s, &s->timer), 0);
}

static void timers_fire_once_and_never_early(void **state)
{
	struct shot shot[64] = { 0 };
	uint64_t base = now();

	for (unsigned i = 0; i < ARRAY_SIZE(shot); i++) {
		make_timer(&shot[i]);
		shot[i].deadline = base + (i * 37 % 64) * MS / 2 + 5 * MS;
		host.ops->timer_arm(host.ctx, shot[i].timer, base + PATIENT_NS);
		host.ops->timer_arm(host.ctx, shot[i].timer, shot[i].deadline);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(shot); i += 8) {
		host.ops->timer_arm(host.ctx, shot[i].timer, HOST_FOREVER);
		shot[i].deadline = HOST_FOREVER;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(shot); i++)
		if (shot[i].deadline != HOST_FOREVER)
			assert_true(becomes(&shot[i].count, 1));
	sleep_ns(50 * MS);
	for (unsigned i = 0; i < ARRAY_SIZE(shot); i++) {
		bool disarmed = shot[i].deadline == HOST_FOREVER;

		assert_int_equal(atomic_load(&shot[i].count), disarmed ? 0 : 1);
		if (!disarmed)
			assert_true(shot[i].fired_at >= shot[i].deadline);
		host.ops->timer_destroy(host.ctx, shot[i].timer);
	}
}

static void timers_may_arm_themselves(void **state)
{
	struct shot s = { .again = 5 };

	make_timer(&s);
	host.ops->timer_arm(host.ctx, s.timer, 0);
	assert_true(becomes(&s.count, 6));
	host.ops->timer_destroy(host.ctx, s.timer);
	host.ops->timer_destroy(host.ctx, NULL);
}

static void on_slow_shot(void *arg)
{
	struct shot *s = arg;

	atomic_store(&s->count, 1);
	sleep_ns(50 * MS);
	host.ops->timer_arm(host.ctx, s->timer, now()); /* and does not run again */
	atomic_store(&s->count, 2);
}

static void destroying_waits_for_the_callback(void **state)
{
	struct shot s = { 0 };

	assert_int_equal(host.ops->timer_create(host.ctx, 0, on_slow_shot, &s, &s.timer), 0);
	host.ops->timer_arm(host.ctx, s.timer, now());
	assert_true(becomes(&s.count, 1));
	host.ops->timer_destroy(host.ctx, s.timer);
	assert_int_equal(atomic_load(&s.count), 2);
	sleep_ns(20 * MS);
	assert_int_equal(atomic_load(&s.count), 2);
}

static void on_readable(void *arg)
{
	struct reader *r = arg;
	char c;

	if (read(r->fd[0], &c, 1) == 1)
		atomic_fetch_add(&r->ready, 1);
}

static void files_are_watched(void **state)
{
	struct reader r = { .attention = 0 };
	struct host_linux_watch *w;
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);

	assert_int_equal(pipe2(r.fd, O_CLOEXEC | O_NONBLOCK), 0);
	assert_int_equal(host_linux_watch_fd(&host, r.fd[0], on_readable, &r, &w), 0);
	assert_int_equal(write(r.fd[1], "abc", 3), 3);
	assert_true(becomes(&r.ready, 3));
	host_linux_unwatch(w);
	assert_int_equal(write(r.fd[1], "d", 1), 1);
	sleep_ns(20 * MS);
	assert_int_equal(atomic_load(&r.ready), 3);
	assert_int_equal(host_linux_watch_fd(&host, null, on_readable, &r, &w), -EPERM);
	host_linux_unwatch(NULL);
	close(null);
	close(r.fd[0]);
	close(r.fd[1]);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(ticks_run_at_their_rate),   TEST(rate_is_known_soon),
		TEST(wall_clock_is_utc),         TEST(timers_fire_once_and_never_early),
		TEST(timers_may_arm_themselves), TEST(destroying_waits_for_the_callback),
		TEST(files_are_watched),
	};

	alarm(120); /* a hang is a failure */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
