/*
 * test_host_linux.c - every operation of the Linux host, on this host: what it promises
 * is read back from the kernel where it can be.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "host/linux/linux.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MS         NSEC_PER_MSEC
#define PATIENT_NS (5 * NSEC_PER_SEC) /* nothing here takes so long unless it hangs */

static struct host host;

static uint64_t now(void)
{
	return host.ops->now_ns(host.ctx);
}

static void sleep_ns(uint64_t ns)
{
	struct timespec ts = { .tv_sec = (time_t)(ns / NSEC_PER_SEC),
			       .tv_nsec = (long)(ns % NSEC_PER_SEC) };

	nanosleep(&ts, NULL);
}

/* Polls, so that a broken wake-up is a failure and not a hang. */
static bool becomes(_Atomic uint32_t *word, uint32_t value)
{
	uint64_t deadline = now() + PATIENT_NS;

	while (atomic_load(word) != value && now() < deadline)
		sleep_ns(MS / 10);
	return atomic_load(word) == value;
}

static int set_up(void **state)
{
	return host_linux_create(&host);
}

static int tear_down(void **state)
{
	host_linux_destroy(&host);
	host_linux_destroy(&host); /* a zeroed host is legal */
	return 0;
}

static struct host_thread *start(void (*fn)(void *arg), void *arg, _Atomic uint32_t *attention)
{
	struct host_thread_attr attr = {
		.name = "test thread", .fn = fn, .arg = arg, .attention = attention
	};
	struct host_thread *t = NULL;

	assert_int_equal(host.ops->thread_create(host.ctx, &attr, &t), 0);
	assert_non_null(t);
	return t;
}

static void join(struct host_thread *t)
{
	host.ops->thread_join(host.ctx, t);
}

/* --- threads -------------------------------------------------------------------- */

struct where {
	char allowed[256], comm[32];
	bool signals_blocked;
};

static void read_line(const char *path, const char *key, char *out, size_t bytes)
{
	FILE *f = fopen(path, "re");
	char line[512];

	*out = '\0';
	while (f && fgets(line, sizeof(line), f)) {
		if (strncmp(line, key, strlen(key)))
			continue;
		snprintf(out, bytes, "%.250s", line + strlen(key));
		out[strcspn(out, "\n")] = '\0';
		break;
	}
	if (f)
		fclose(f);
}

static void tell_where(void *arg)
{
	struct where *w = arg;
	sigset_t mask;

	read_line("/proc/thread-self/status", "Cpus_allowed_list:\t", w->allowed,
		  sizeof(w->allowed));
	read_line("/proc/thread-self/comm", "", w->comm, sizeof(w->comm));
	pthread_sigmask(SIG_SETMASK, NULL, &mask);
	w->signals_blocked = sigismember(&mask, SIGINT) && sigismember(&mask, SIGTERM) &&
			     !sigismember(&mask, SIGSEGV);
}

static unsigned last_allowed_pu(void)
{
	const struct linux_host *h = host.ctx;
	unsigned last = PU_SET_MAX;

	pu_set_for_each(pu, &h->allowed) last = pu;
	assert_true(last < PU_SET_MAX);
	return last;
}

static void threads_are_bound_before_they_run(void **state)
{
	struct pu_set pus = { 0 };
	struct where w = { 0 };
	struct host_thread_attr attr = {
		.name = "a name much longer than fifteen", .pus = &pus, .fn = tell_where, .arg = &w
	};
	struct host_thread *t;
	char want[16];

	pu_set_add(&pus, last_allowed_pu());
	assert_int_equal(host.ops->thread_create(host.ctx, &attr, &t), 0);
	join(t);
	snprintf(want, sizeof(want), "%u", last_allowed_pu());
	assert_string_equal(w.allowed, want);
	assert_string_equal(w.comm, "a name much lon");
	assert_true(w.signals_blocked);
}

static void bind_to_last(void *arg)
{
	struct pu_set pus = { 0 };

	pu_set_add(&pus, last_allowed_pu());
	assert_int_equal(host.ops->thread_bind(host.ctx, NULL, &pus), 0);
	tell_where(arg);
	pu_set_clear(&pus);
	pu_set_add(&pus, PU_SET_MAX - 1);
	assert_int_equal(host.ops->thread_bind(host.ctx, NULL, &pus), -EINVAL);
}

static void threads_bind_themselves(void **state)
{
	struct where w = { 0 };
	char want[16];

	join(start(bind_to_last, &w, NULL));
	snprintf(want, sizeof(want), "%u", last_allowed_pu());
	assert_string_equal(w.allowed, want);
}

static void impossible_bindings_are_refused(void **state)
{
	struct pu_set pus = { 0 };
	struct host_thread_attr attr = { .pus = &pus, .fn = tell_where };
	struct host_thread *t;

	pu_set_add(&pus, PU_SET_MAX - 1);
	assert_int_equal(host.ops->thread_create(host.ctx, &attr, &t), -EINVAL);
}

struct reader {
	int fd[2];
	_Atomic uint32_t attention, ready;
	ssize_t got;
	int error;
};

static void read_forever(void *arg)
{
	struct reader *r = arg;
	char c;

	atomic_store(&r->ready, 1);
	r->got = read(r->fd[0], &c, 1);
	r->error = errno;
}

static void kicks_end_system_calls(void **state)
{
	struct reader r = { .attention = 0 };
	struct host_thread *t;

	assert_int_equal(pipe2(r.fd, O_CLOEXEC), 0);
	t = start(read_forever, &r, &r.attention);
	assert_true(becomes(&r.ready, 1));
	sleep_ns(20 * MS); /* into read() */
	host.ops->thread_kick(host.ctx, t);
	join(t);
	assert_int_equal(r.got, -1);
	assert_int_equal(r.error, EINTR);
	assert_int_equal(atomic_load(&r.attention), 1);
	close(r.fd[0]);
	close(r.fd[1]);
}

static void spin_until_attention(void *arg)
{
	struct reader *r = arg;
	uint64_t deadline = now() + PATIENT_NS;

	while (!atomic_load(&r->attention) && now() < deadline)
		;
	r->got = atomic_load(&r->attention);
}

static void kicks_are_sticky(void **state)
{
	for (unsigned i = 0; i < 200; i++) {
		struct reader r = { .attention = 0 };
		struct host_thread *t = start(spin_until_attention, &r, &r.attention);

		host.ops->thread_kick(host.ctx, t); /* most often before it runs */
		join(t);
		assert_int_equal(r.got, 1);
	}
}

struct alarm {
	_Atomic uint32_t attention, word;
	uint64_t early, late;
	bool cancelled_stays_quiet, replaced;
};

static void try_alarms(void *arg)
{
	struct alarm *a = arg;
	uint64_t deadline = now() + 20 * MS;

	host.ops->thread_alarm(host.ctx, deadline);
	while (!atomic_load(&a->attention) && now() < deadline + PATIENT_NS)
		;
	a->late = now() - deadline;
	a->early = now() < deadline;

	atomic_store(&a->attention, 0);
	host.ops->thread_alarm(host.ctx, now() + 10 * MS);
	host.ops->thread_alarm(host.ctx, HOST_FOREVER);
	sleep_ns(30 * MS);
	a->cancelled_stays_quiet = !atomic_load(&a->attention);

	host.ops->thread_alarm(host.ctx, now() + PATIENT_NS);
	deadline = now() + 10 * MS;
	host.ops->thread_alarm(host.ctx, deadline);
	/* It ends a sleep as well as a computation. */
	host.ops->wait(host.ctx, &a->word, 0, now() + PATIENT_NS);
	a->replaced = atomic_load(&a->attention) && now() >= deadline &&
		      now() < deadline + PATIENT_NS / 2;

	atomic_store(&a->attention, 0);
	host.ops->thread_alarm(host.ctx, 0); /* long past */
	assert_true(becomes(&a->attention, 1));
}

static void alarms_come_at_their_time(void **state)
{
	struct alarm a = { .attention = 0 };

	join(start(try_alarms, &a, &a.attention));
	assert_int_equal(a.early, 0);
	assert_true(a.late < PATIENT_NS);
	assert_true(a.cancelled_stays_quiet);
	assert_true(a.replaced);
	host.ops->thread_alarm(host.ctx, now() + MS); /* not a thread of ours: nothing happens */
}

static void read_gs(void *arg)
{
	static const uint64_t block[2] = { 0x1122334455667788, 0x99aabbccddeeff00 };
	uint64_t *out = arg;

	host.ops->thread_set_gs(host.ctx, (void *)(uintptr_t)block);
	__asm__ volatile("movq %%gs:8, %0" : "=r"(*out));
}

static void gs_base_is_the_threads(void **state)
{
	uint64_t read = 0;

	join(start(read_gs, &read, NULL));
	assert_int_equal(read, 0x99aabbccddeeff00);
	host.ops->thread_yield(host.ctx);
}

/* --- waiting -------------------------------------------------------------------- */

static void waits_end_in_time(void **state)
{
	_Atomic uint32_t word = 7;
	uint64_t deadline;

	assert_int_equal(host.ops->wait(host.ctx, &word, 8, HOST_FOREVER), 0);
	deadline = now() + 10 * MS;
	while (host.ops->wait(host.ctx, &word, 7, deadline) != -ETIMEDOUT)
		assert_true(now() < deadline + PATIENT_NS);
	assert_true(now() >= deadline);
	assert_int_equal(host.ops->wait(host.ctx, &word, 7, 1), -ETIMEDOUT);
}

struct sleeper {
	_Atomic uint32_t word, awake;
};

static void sleep_on_word(void *arg)
{
	struct sleeper *s = arg;

	while (!atomic_load(&s->word))
		host.ops->wait(host.ctx, &s->word, 0, HOST_FOREVER);
	atomic_fetch_add(&s->awake, 1);
}

static void wakes_wake(void **state)
{
	struct sleeper s = { .word = 0 };
	struct host_thread *t[3];

	for (unsigned i = 0; i < ARRAY_SIZE(t); i++)
		t[i] = start(sleep_on_word, &s, NULL);
	sleep_ns(20 * MS);
	atomic_store(&s.word, 1);
	host.ops->wake(host.ctx, &s.word, 1);
	assert_true(becomes(&s.awake, 1));
	host.ops->wake(host.ctx, &s.word, UINT32_MAX);
	assert_true(becomes(&s.awake, 3));
	for (unsigned i = 0; i < ARRAY_SIZE(t); i++)
		join(t[i]);
}

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

/* --- memory --------------------------------------------------------------------- */

/* How many mappings of /proc/self/maps have @name and @perms in their lines. */
static unsigned count_maps(const char *name, const char *perms)
{
	FILE *f = fopen("/proc/self/maps", "re");
	unsigned n = 0;
	char line[512];

	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		n += strstr(line, name) && strstr(line, perms);
	fclose(f);
	return n;
}

static unsigned resident_pages(void *base, size_t bytes)
{
	unsigned char vec[64];
	unsigned n = 0;

	assert_true(bytes / PAGE_SIZE <= sizeof(vec));
	assert_int_equal(mincore(base, bytes, vec), 0);
	for (size_t i = 0; i < bytes / PAGE_SIZE; i++)
		n += vec[i] & 1;
	return n;
}

/* Base pages: a memfd, whatever the kernel does with huge ones. */
static int map_base_pages(uint64_t bytes, int node, struct host_mem *m)
{
	struct host_mem_attr attr = { .bytes = bytes, .node = node, .page_bytes = PAGE_SIZE };

	return host.ops->mem_map(host.ctx, &attr, m);
}

static void guest_memory_is_mapped_once(void **state)
{
	struct host_mem m = { 0 };
	uint64_t *p;

	assert_int_equal(map_base_pages(MIB(6) + 5, HOST_NODE_ANY, &m), 0);
	assert_int_equal(m.bytes, MIB(6) + PAGE_SIZE);
	assert_int_equal(m.page_bytes, PAGE_SIZE);
	assert_true(IS_ALIGNED((uintptr_t)m.base, MIB(2)));
	assert_int_equal(count_maps("memfd:guest node", "rw-s"), 1);
	p = m.base;
	for (size_t i = 0; i < m.bytes / sizeof(*p); i += 512)
		assert_int_equal(p[i], 0);
	host.ops->mem_unmap(host.ctx, &m);
	assert_null(m.base);
	assert_int_equal(count_maps("memfd:guest node", ""), 0);
	host.ops->mem_unmap(host.ctx, &m);
}

/* Whatever is behind it, file or not. */
static void any_pages_will_do(void **state)
{
	struct host_mem m = { 0 };

	assert_int_equal(host.ops->mem_map(host.ctx, HOST_RAM(MIB(4), HOST_NODE_ANY), &m), 0);
	assert_true(IS_ALIGNED((uintptr_t)m.base, MIB(2)));
	assert_int_equal(*(uint64_t *)m.base, 0);
	*(uint64_t *)m.base = 1;
	assert_int_equal(host.ops->mem_prefault(host.ctx, &m, 0, m.bytes), 0);
	assert_int_equal(*(uint64_t *)m.base, 1);
	host.ops->mem_unmap(host.ctx, &m);
	host.ops->mem_unmap(host.ctx, &m);
}

static void prefaulting_populates(void **state)
{
	struct host_mem m;

	assert_int_equal(map_base_pages(PAGE_SIZE * 32, 0, &m), 0);
	assert_int_equal(resident_pages(m.base, m.bytes), 0);
	assert_int_equal(host.ops->mem_prefault(host.ctx, &m, PAGE_SIZE * 8, PAGE_SIZE * 8), 0);
	assert_int_equal(resident_pages((uint8_t *)m.base + PAGE_SIZE * 8, PAGE_SIZE * 8), 8);
	assert_int_equal(host.ops->mem_prefault(host.ctx, &m, 0, m.bytes), 0);
	assert_int_equal(resident_pages(m.base, m.bytes), 32);
	assert_int_equal(host.ops->mem_prefault(host.ctx, &m, PAGE_SIZE, m.bytes), -EINVAL);
	assert_int_equal(host.ops->mem_prefault(host.ctx, &m, m.bytes, 0), 0);
	host.ops->mem_unmap(host.ctx, &m);
}

static uint64_t sum_where(const struct host_where *w)
{
	uint64_t sum = 0;

	for (unsigned n = 0; n < HOST_NODES_MAX; n++)
		sum += w->bytes[n];
	return sum;
}

static void the_kernel_tells_where_pages_are(void **state)
{
	struct host_where w = { 0 };
	struct host_mem m;
	int err;

	assert_int_equal(map_base_pages(MIB(8), HOST_NODE_ANY, &m), 0);
	assert_int_equal(host.ops->mem_prefault(host.ctx, &m, MIB(2), MIB(3)), 0);
	err = host.ops->mem_where(host.ctx, &m, 0, m.bytes, &w);
	if (err != -ENOSYS) {
		assert_int_equal(err, 0);
		assert_int_equal(sum_where(&w), MIB(3));
		assert_int_equal(w.absent + w.unknown, MIB(5));
		/* It adds. */
		assert_int_equal(host.ops->mem_where(host.ctx, &m, MIB(2), PAGE_SIZE, &w), 0);
		assert_int_equal(sum_where(&w), MIB(3) + PAGE_SIZE);
		assert_int_equal(host.ops->mem_where(host.ctx, &m, MIB(8), 1, &w), -EINVAL);
	}
	host.ops->mem_unmap(host.ctx, &m);
}

/* Where nobody has reserved any it is an error by the time of populating, never a SIGBUS. */
static void reserved_pages_are_had_or_refused(void **state)
{
	static const uint64_t sizes[] = { MIB(2), GIB(1), MIB(512) };

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct host_mem_attr attr = { .bytes = sizes[i] + 1,
					      .page_bytes = sizes[i],
					      .node = HOST_NODE_ANY };
		struct host_mem m = { 0 };
		int err = host.ops->mem_map(host.ctx, &attr, &m);

		assert_true(!err || err == -ENOMEM || err == -ENOTSUP);
		assert_int_equal(err == -ENOTSUP, err && sizes[i] == MIB(512));
		if (err)
			continue;
		assert_int_equal(m.bytes, 2 * sizes[i]);
		assert_true(IS_ALIGNED((uintptr_t)m.base, sizes[i]));
		err = host.ops->mem_prefault(host.ctx, &m, 0, m.bytes);
		assert_true(!err || err == -ENOMEM);
		host.ops->mem_unmap(host.ctx, &m);
	}
}

static void impossible_memory_is_refused(void **state)
{
	struct host_mem m;

	assert_true(host.ops->mem_map(host.ctx, HOST_RAM(0, HOST_NODE_ANY), &m) < 0);
	assert_true(host.ops->mem_map(host.ctx, HOST_RAM(UINT64_MAX, HOST_NODE_ANY), &m) < 0);
	assert_true(host.ops->mem_map(host.ctx, HOST_RAM(BIT64(62), HOST_NODE_ANY), &m) < 0);
	assert_true(map_base_pages(BIT64(62), HOST_NODE_ANY, &m) < 0);
	assert_int_equal(count_maps("memfd:guest node", ""), 0);
	assert_null(host.ops->alloc(host.ctx, BIT64(62), HOST_NODE_ANY));
}

/* Kernels that cannot weigh: ranges in turn, each bound. All to the one node there surely is. */
static void weights_without_the_kernels_help(void **state)
{
	static const struct mem_share shares[] = { { 0, 3, 0 }, { 0, 1, 0 } },
				      none[] = { { 0, 0, 0 } }, bad[] = { { -1, 1, 0 } };
	struct host_where w = { 0 };
	struct host_mem m;
	int err;

	assert_int_equal(map_base_pages(MIB(9), HOST_NODE_ANY, &m), 0);
	err = linux_bind_ranges(m.base, m.bytes, PAGE_SIZE, shares, 2);
	assert_true(!err || err == -ENOSYS || err == -EPERM);
	assert_int_equal(linux_bind_ranges(m.base, m.bytes, PAGE_SIZE, none, 1), -EINVAL);
	assert_int_equal(linux_bind_ranges(m.base, m.bytes, PAGE_SIZE, bad, 1), -EINVAL);
	assert_int_equal(host.ops->mem_prefault(host.ctx, &m, 0, m.bytes), 0);
	if (!host.ops->mem_where(host.ctx, &m, 0, m.bytes, &w))
		assert_int_equal(sum_where(&w), m.bytes);
	host.ops->mem_unmap(host.ctx, &m);
}

static void facts_for_the_preflight(void **state)
{
	struct machine_model machine = { 0 };
	struct mem_facts facts;

	assert_int_equal(host.ops->topology(host.ctx, &machine), 0);
	host_linux_mem_facts(&host, &machine, &facts);
	assert_ptr_equal(facts.machine, &machine);
	assert_true(facts.group.free_bytes == UINT64_MAX || facts.group.file[0] == '/');
	for (unsigned i = 0; i < MACHINE_PAGE_SIZES; i++)
		assert_true(!facts.page_bytes[i] ||
			    (facts.page_bytes[i] > PAGE_SIZE &&
			     !(facts.page_bytes[i] & (facts.page_bytes[i] - 1))));
	assert_true(facts.bind_err <= 0);
	machine_free(&machine);
}

static void own_memory_is_zeroed(void **state)
{
	uint8_t *p = host.ops->alloc(host.ctx, 3 * PAGE_SIZE, 0);

	assert_non_null(p);
	assert_true(IS_ALIGNED((uintptr_t)p, PAGE_SIZE));
	for (size_t i = 0; i < 3 * PAGE_SIZE; i++)
		assert_int_equal(p[i], 0);
	memset(p, 1, 3 * PAGE_SIZE);
	host.ops->free(host.ctx, p, 3 * PAGE_SIZE);
	host.ops->free(host.ctx, NULL, 1);
}

typedef uint64_t (*code_fn)(void *a, uint64_t b);

static code_fn as_function(const uint8_t *rx)
{
	code_fn fn;

	memcpy(&fn, &rx, sizeof(fn));
	return fn;
}

static void code_is_written_and_executed(void **state)
{
	static const uint8_t answer[] = { 0xb8, 42, 0, 0, 0, 0xc3 }; /* mov eax, 42; ret */
	struct host_code code;

	assert_int_equal(host.ops->code_map(host.ctx, KIB(64), 0, &code), 0);
	memcpy(code.rw + 100, answer, sizeof(answer));
	assert_int_equal(as_function(code.rx + 100)(NULL, 0), 42);
	code.rw[101] = 43;
	host.ops->sync_cores(host.ctx);
	assert_int_equal(as_function(code.rx + 100)(NULL, 0), 43);
	assert_int_equal(count_maps("/dev/zero", "rw-s"), 1);
	assert_int_equal(count_maps("/dev/zero", "r-xs"), 1);
	assert_int_equal(count_maps("/dev/zero", "wx"), 0);
	host.ops->code_unmap(host.ctx, &code);
	assert_int_equal(count_maps("/dev/zero", ""), 0);
	assert_true(host.ops->code_map(host.ctx, 0, 0, &code) < 0);
}

static long faults_so_far(void)
{
	struct rusage u;

	assert_int_equal(getrusage(RUSAGE_THREAD, &u), 0);
	return u.ru_minflt;
}

/* How many faults it takes to write to each page, and to read it where it is executed. */
static long touch_code(struct host_code *code, size_t offset, size_t bytes)
{
	long before = faults_so_far();

	for (size_t at = offset; at < offset + bytes; at += PAGE_SIZE) {
		*(volatile uint8_t *)(code->rw + at) = 0xc3;
		assert_int_equal(*(volatile uint8_t *)(code->rx + at), 0xc3);
	}
	return faults_so_far() - before;
}

static void code_is_prefaulted(void **state)
{
	struct host_code code;

	assert_int_equal(host.ops->code_map(host.ctx, KIB(256), 0, &code), 0);
	host.ops->code_prefault(host.ctx, &code, KIB(64), KIB(64));
	/* A sanitizer has some of its own. */
	assert_in_range(touch_code(&code, KIB(64), KIB(64)), 0, 8);
	assert_true(touch_code(&code, KIB(128), KIB(128)) >= 32); /* without */
	host.ops->code_unmap(host.ctx, &code);
}

/* --- faults --------------------------------------------------------------------- */

/* mov r9d, 0x99; mov r11d, 0xbb; mov rax, [rdi]; movq rax, xmm1; add rax, r11; ret */
static const uint8_t load_code[] = { 0x41, 0xb9, 0x99, 0,    0,    0,    0x41, 0xbb,
				     0xbb, 0,    0,    0,    0x48, 0x8b, 0x07, 0x66,
				     0x48, 0x0f, 0x7e, 0xc8, 0x4c, 0x01, 0xd8, 0xc3 };
#define LOAD_AT    12
#define LOAD_BYTES 3

/* mov eax, esi; cdq; idiv edi; ret */
static const uint8_t divide_code[] = { 0x89, 0xf0, 0x99, 0xf7, 0xff, 0xc3 };
#define DIVIDE_AT    3
#define DIVIDE_BYTES 2

static struct host_code fault_code;

/* What the calling thread's handler saw. */
static __thread struct {
	struct host_fault last;
	unsigned count;
} seen;

static bool on_fault(struct host_fault *f, void *arg)
{
	uint64_t low = 0x1000;

	seen.last = *f;
	seen.count++;
	if (f->kind == HOST_FAULT_FPE) {
		f->gpr[0] = 7;
		f->pc += DIVIDE_BYTES;
		return true;
	}
	if (arg) /* "not mine" */
		return false;
	memcpy((uint8_t *)f->fpstate + 160 + 16, &low, sizeof(low)); /* xmm1 */
	f->gpr[11]++;
	f->pc += LOAD_BYTES;
	return true;
}

/* cmocka puts its own handlers over those of the set-up's host: take them again. */
static void map_fault_code(void)
{
	host_linux_destroy(&host);
	signal(SIGSEGV, SIG_DFL);
	assert_int_equal(host_linux_create(&host), 0);
	assert_int_equal(host.ops->code_map(host.ctx, PAGE_SIZE, 0, &fault_code), 0);
	memcpy(fault_code.rw, load_code, sizeof(load_code));
	memcpy(fault_code.rw + 256, divide_code, sizeof(divide_code));
	seen.count = 0;
}

static void faults_are_handed_over(void **state)
{
	code_fn load, divide;
	struct host_mem m;

	map_fault_code();
	load = as_function(fault_code.rx);
	divide = as_function(fault_code.rx + 256);
	assert_int_equal(host.ops->fault_handler(host.ctx, on_fault, NULL), 0);

	assert_int_equal(load((void *)0x10, 0), 0x1000 + 0xbc);
	assert_int_equal(seen.last.kind, HOST_FAULT_SEGV);
	assert_int_equal(seen.last.addr, 0x10);
	assert_int_equal(seen.last.pc, (uintptr_t)fault_code.rx + LOAD_AT);
	assert_int_equal(seen.last.gpr[7], 0x10); /* rdi */
	assert_int_equal(seen.last.gpr[9], 0x99);
	assert_int_equal(seen.last.gpr[11], 0xbb);

	assert_int_equal(divide((void *)0, 5), 7);
	assert_int_equal(seen.last.kind, HOST_FAULT_FPE);
	assert_int_equal(seen.last.pc, (uintptr_t)fault_code.rx + 256 + DIVIDE_AT);

	/* A page behind the end of its file. */
	assert_int_equal(map_base_pages(PAGE_SIZE, HOST_NODE_ANY, &m), 0);
	assert_int_equal(ftruncate(m.handle, 0), 0);
	assert_int_equal(load(m.base, 0), 0x1000 + 0xbc);
	assert_int_equal(seen.last.kind, HOST_FAULT_BUS);
	assert_int_equal(seen.last.addr, (uintptr_t)m.base);
	host.ops->mem_unmap(host.ctx, &m);

	assert_int_equal(seen.count, 3);
	assert_int_equal(host.ops->fault_handler(host.ctx, NULL, NULL), 0);
	host.ops->code_unmap(host.ctx, &fault_code);
}

static void fault_in_thread(void *arg)
{
	uint64_t *out = arg;

	assert_int_equal(host.ops->fault_handler(host.ctx, on_fault, NULL), 0);
	for (unsigned i = 0; i < 1000; i++)
		*out += as_function(fault_code.rx)((void *)0x10, 0);
}

static void each_thread_has_its_handler(void **state)
{
	struct host_thread *t[4];
	uint64_t sum[4] = { 0 };

	map_fault_code();
	for (unsigned i = 0; i < ARRAY_SIZE(t); i++)
		t[i] = start(fault_in_thread, &sum[i], NULL);
	for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
		join(t[i]);
		assert_int_equal(sum[i], 1000 * (0x1000 + 0xbc));
	}
	host.ops->code_unmap(host.ctx, &fault_code);
}

/* The signal that ends a child which does @fn. */
static int death_of(void (*fn)(void))
{
	static const struct rlimit no_core;
	pid_t pid = fork();
	int status;

	if (!pid) {
		setrlimit(RLIMIT_CORE, &no_core);
		fn();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static void die_refused(void)
{
	host.ops->fault_handler(host.ctx, on_fault, &fault_code);
	as_function(fault_code.rx)((void *)0x10, 0);
}

static void die_unhandled(void)
{
	host.ops->fault_handler(host.ctx, on_fault, NULL);
	host.ops->fault_handler(host.ctx, NULL, NULL);
	as_function(fault_code.rx)((void *)0x10, 0);
}

static void die_sent(void)
{
	host.ops->fault_handler(host.ctx, on_fault, NULL);
	raise(SIGSEGV); /* no fault, only a signal: not for the handler */
	for (;;)
		pause();
}

static void other_faults_are_fatal(void **state)
{
	map_fault_code();
	assert_int_equal(death_of(die_refused), SIGSEGV);
	assert_int_equal(death_of(die_unhandled), SIGSEGV);
	assert_int_equal(death_of(die_sent), SIGSEGV);
	host.ops->code_unmap(host.ctx, &fault_code);
}

/* --- synchronising cores ---------------------------------------------------------- */

/*
 * Asymmetric Dekker: the fast side has no barrier at all, the slow side calls
 * sync_cores(). Were that not a barrier on the other core, both would miss.
 */
struct dekker {
	_Atomic uint32_t fast, slow, round, fast_saw, go_on;
};

static void fast_side(void *arg)
{
	struct dekker *d = arg;
	uint32_t round = 0;

	while (atomic_load(&d->go_on)) {
		if (atomic_load(&d->round) == round)
			continue;
		round++;
		atomic_store_explicit(&d->fast, round, memory_order_relaxed);
		__asm__ volatile("" ::: "memory");
		atomic_store(&d->fast_saw,
			     atomic_load_explicit(&d->slow, memory_order_relaxed) == round ? 1 : 2);
		while (atomic_load(&d->fast_saw) && atomic_load(&d->go_on))
			;
	}
}

static void barrier_reaches_other_cores(struct host *h, unsigned rounds)
{
	struct dekker d = { .go_on = 1 };
	struct host_thread *t = start(fast_side, &d, NULL);

	for (uint32_t round = 1; round <= rounds; round++) {
		bool slow_saw;

		atomic_store(&d.round, round);
		atomic_store_explicit(&d.slow, round, memory_order_relaxed);
		h->ops->sync_cores(h->ctx);
		slow_saw = atomic_load_explicit(&d.fast, memory_order_relaxed) == round;
		while (!atomic_load(&d.fast_saw))
			;
		assert_true(slow_saw || atomic_load(&d.fast_saw) == 1);
		atomic_store(&d.fast_saw, 0);
	}
	atomic_store(&d.go_on, 0);
	join(t);
}

static void cores_are_synchronised(void **state)
{
	barrier_reaches_other_cores(&host, 2000);
}

static void cores_are_synchronised_without_membarrier(void **state)
{
	struct linux_host *h = host.ctx;

	h->membarrier = false;
	h->sync_page =
		mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(h->sync_page != MAP_FAILED);
	barrier_reaches_other_cores(&host, 2000);
	h->membarrier = true; /* the page goes with the host */
}

/* --- the rest --------------------------------------------------------------------- */

static void entropy_differs(void **state)
{
	uint8_t a[300] = { 0 }, b[300] = { 0 };

	assert_int_equal(host.ops->entropy(host.ctx, a, sizeof(a)), 0);
	assert_int_equal(host.ops->entropy(host.ctx, b, sizeof(b)), 0);
	assert_memory_not_equal(a, b, sizeof(a));
	assert_memory_not_equal(a + 284, b + 284, 16);
}

static void this_host_has_a_topology(void **state)
{
	const struct linux_host *h = host.ctx;
	struct machine_model m;
	unsigned usable = 0;

	assert_int_equal(host.ops->topology(host.ctx, &m), 0);
	assert_true(m.nr_pus >= 1 && m.nr_nodes >= 1);
	for (unsigned i = 0; i < m.nr_pus; i++) {
		usable += m.pu[i].usable;
		assert_true(m.pu[i].core < m.nr_cores);
		assert_true(m.pu[i].llc < m.nr_llcs);
		assert_true(m.pu[i].package < m.nr_packages);
		if (m.pu[i].usable)
			assert_true(pu_set_has(&h->allowed, m.pu[i].os_index));
	}
	assert_int_equal(usable, pu_set_count(&h->allowed));
	assert_true(m.node[0].free_bytes && m.node[0].free_bytes <= m.node[0].memory_bytes);
	machine_free(&m);
}

static void described_machines_are_read(void **state)
{
	struct machine_model m;
	char why[256];

	assert_int_equal(host_linux_topology_from("pack:2 [numa(memory=8GB)] l3:1 core:3 pu:2", &m,
						  why, sizeof(why)),
			 0);
	assert_int_equal(m.nr_pus, 12);
	assert_int_equal(m.nr_cores, 6);
	assert_int_equal(m.nr_nodes, 2);
	assert_int_equal(m.nr_packages, 2);
	assert_int_equal(m.pu[1].core, 0);
	assert_int_equal(m.pu[1].smt, 1);
	assert_int_equal(m.pu[6].core, 3);
	assert_int_equal(m.pu[6].smt, 0);
	assert_int_equal(m.pu[6].node, 1);
	assert_int_equal(m.pu[6].package, 1);
	assert_int_equal(m.node[1].free_bytes, m.node[1].memory_bytes);
	assert_true(m.node[0].memory_bytes > GIB(7));
	machine_free(&m);

	assert_int_equal(host_linux_topology_from("nonsense", &m, why, sizeof(why)), -EINVAL);
	assert_non_null(strstr(why, "nonsense"));
	assert_int_equal(host_linux_topology_from("/no/such.xml", &m, why, sizeof(why)), -EINVAL);
	assert_non_null(strstr(why, "/no/such.xml"));
}

/* Standard error into a buffer while @fn logs. */
static void log_reaches_standard_error(void **state)
{
	int fd[2], saved = dup(STDERR_FILENO);
	char buf[2048] = "", *long_line;
	ssize_t n;

	assert_int_equal(pipe2(fd, O_CLOEXEC), 0);
	dup2(fd[1], STDERR_FILENO);
	host_log(&host, LOG_INFO, "answer %d", 42);
	host_log(&host, LOG_DEBUG, "not asked for");
	host_linux_log_level(&host, LOG_ERR);
	host_log(&host, LOG_WARN, "not asked for");
	host_log(&host, LOG_ERR, "%0600d", 1);
	dup2(saved, STDERR_FILENO);
	close(saved);
	close(fd[1]);
	n = read(fd[0], buf, sizeof(buf) - 1);
	close(fd[0]);
	assert_true(n > 0);
	assert_int_equal(strncmp(buf, "alcazar: answer 42\n", 19), 0);
	assert_null(strstr(buf, "not asked for"));
	long_line = buf + 19;
	assert_int_equal(long_line[strlen(long_line) - 1], '\n');
	assert_ptr_equal(strchr(long_line, '\n'), long_line + strlen(long_line) - 1);
}

static void hosts_coexist(void **state)
{
	struct host second;
	struct reader r = { .attention = 0 };
	struct host_thread *t;

	assert_int_equal(host_linux_create(&second), 0);
	host_linux_destroy(&second); /* the first one's signals still work */
	assert_int_equal(pipe2(r.fd, O_CLOEXEC), 0);
	t = start(read_forever, &r, &r.attention);
	assert_true(becomes(&r.ready, 1));
	sleep_ns(10 * MS);
	host.ops->thread_kick(host.ctx, t);
	join(t);
	assert_int_equal(r.error, EINTR);
	close(r.fd[0]);
	close(r.fd[1]);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(threads_are_bound_before_they_run),
		TEST(threads_bind_themselves),
		TEST(impossible_bindings_are_refused),
		TEST(kicks_end_system_calls),
		TEST(kicks_are_sticky),
		TEST(alarms_come_at_their_time),
		TEST(gs_base_is_the_threads),
		TEST(waits_end_in_time),
		TEST(wakes_wake),
		TEST(ticks_run_at_their_rate),
		TEST(rate_is_known_soon),
		TEST(wall_clock_is_utc),
		TEST(timers_fire_once_and_never_early),
		TEST(timers_may_arm_themselves),
		TEST(destroying_waits_for_the_callback),
		TEST(files_are_watched),
		TEST(guest_memory_is_mapped_once),
		TEST(prefaulting_populates),
		TEST(any_pages_will_do),
		TEST(the_kernel_tells_where_pages_are),
		TEST(reserved_pages_are_had_or_refused),
		TEST(weights_without_the_kernels_help),
		TEST(facts_for_the_preflight),
		TEST(impossible_memory_is_refused),
		TEST(own_memory_is_zeroed),
		TEST(code_is_written_and_executed),
		TEST(code_is_prefaulted),
		TEST(faults_are_handed_over),
		TEST(each_thread_has_its_handler),
		TEST(other_faults_are_fatal),
		TEST(cores_are_synchronised),
		TEST(cores_are_synchronised_without_membarrier),
		TEST(entropy_differs),
		TEST(this_host_has_a_topology),
		TEST(described_machines_are_read),
		TEST(log_reaches_standard_error),
		TEST(hosts_coexist),
	};

	alarm(120); /* a hang is a failure */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
