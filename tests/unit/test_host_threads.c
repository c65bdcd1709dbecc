/*
 * test_host_threads.c - threads of the Linux host: binding, kicks, alarms; waiting and waking.
 */
#include "host_machine.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>

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
		TEST(hosts_coexist),
	};

	alarm(120); /* a hang is a failure */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
