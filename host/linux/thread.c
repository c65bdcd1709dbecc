/*
 * thread.c - vCPU and event threads: bound before they run, kicked by a signal.
 *
 * A kick is the thread's attention word plus a signal whose only purpose is to end
 * the system call the thread may be in. Alarms are one POSIX timer a thread; their
 * signal sets the attention word. Threads take no other asynchronous signal:
 * those are the embedder's.
 */
#include "linux.h"

#include <asm/prctl.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define KICK_SIGNAL     SIGRTMIN
#define STACK_BYTES     (2u << 20)
#define HWCAP2_FSGSBASE BIT(1) /* arch/x86/include/uapi/asm/hwcap2.h */

struct host_thread {
	pthread_t pthread;
	void (*fn)(void *arg);
	void *arg;
	_Atomic uint32_t *attention;
	/*
	 * 0 until the thread runs. A kicker stores attention, then reads tid; the
	 * thread stores tid, then reads attention: one of them sees the other.
	 */
	_Atomic pid_t tid;
	timer_t alarm; /* the thread's own, as is has_alarm */
	bool has_alarm;
	char name[16];
};

/* initial-exec: read in signal handlers, where nothing may allocate. */
static __thread struct host_thread *self __attribute__((tls_model("initial-exec")));
static struct sigaction old_kick_action;

/* The sender of a kick has set the attention word already; an alarm has no sender. */
static void on_kick(int sig, siginfo_t *info, void *context)
{
	if (info->si_code == SI_TIMER && self && self->attention)
		atomic_store(self->attention, 1);
}

int linux_kick_signal_take(void)
{
	struct sigaction sa = { .sa_sigaction = on_kick, .sa_flags = SA_SIGINFO | SA_ONSTACK };

	sigfillset(&sa.sa_mask);
	return sigaction(KICK_SIGNAL, &sa, &old_kick_action) ? -errno : 0;
}

void linux_kick_signal_release(void)
{
	sigaction(KICK_SIGNAL, &old_kick_action, NULL);
}

static void *thread_main(void *arg)
{
	struct host_thread *t = arg;

	self = t;
	prctl(PR_SET_NAME, t->name);
	prctl(PR_SET_TIMERSLACK, 1); /* a guest's timers deserve better than 50 us */
	atomic_store(&t->tid, gettid());
	t->fn(t->arg);

	if (t->has_alarm)
		timer_delete(t->alarm);
	linux_fault_thread_exit();
	return NULL;
}

static void pus_to_cpu_set(const struct pu_set *pus, cpu_set_t *set, size_t bytes)
{
	CPU_ZERO_S(bytes, set);
	pu_set_for_each(pu, pus) CPU_SET_S(pu, bytes, set);
}

/* Synchronous faults and kicks get through, everything else is the embedder's. */
static void thread_signal_mask(sigset_t *mask)
{
	static const int open[] = { SIGFPE, SIGBUS, SIGSEGV, SIGILL, SIGTRAP, SIGABRT };

	sigfillset(mask);
	for (size_t i = 0; i < ARRAY_SIZE(open); i++)
		sigdelset(mask, open[i]);
	sigdelset(mask, KICK_SIGNAL);
}

static int thread_attr_fill(pthread_attr_t *pa, const struct host_thread_attr *attr)
{
	cpu_set_t set[PU_SET_MAX / CPU_SETSIZE];
	sigset_t mask;
	int err;

	thread_signal_mask(&mask);
	err = pthread_attr_setsigmask_np(pa, &mask);
	if (!err)
		err = pthread_attr_setstacksize(pa, STACK_BYTES);
	if (!err && attr->pus) {
		pus_to_cpu_set(attr->pus, set, sizeof(set));
		err = pthread_attr_setaffinity_np(pa, sizeof(set), set);
	}
	return -err;
}

int linux_thread_create(void *ctx, const struct host_thread_attr *attr, struct host_thread **out)
{
	struct host_thread *t;
	pthread_attr_t pa;
	int err;

	t = aligned_alloc(CACHELINE, ALIGN_UP(sizeof(*t), CACHELINE));
	if (!t)
		return -ENOMEM;
	*t = (struct host_thread){
		.fn = attr->fn,
		.arg = attr->arg,
		.attention = attr->attention,
	};
	snprintf(t->name, sizeof(t->name), "%s", attr->name ? attr->name : "alcazar");

	err = -pthread_attr_init(&pa);
	if (err)
		goto out_free;
	err = thread_attr_fill(&pa, attr);
	if (!err) {
		*out = t; /* before fn can look at it */
		err = -pthread_create(&t->pthread, &pa, thread_main, t);
	}
	pthread_attr_destroy(&pa);
	if (!err)
		return 0;
	*out = NULL;
out_free:
	free(t);
	return err;
}

void linux_thread_join(void *ctx, struct host_thread *t)
{
	if (!t)
		return;
	pthread_join(t->pthread, NULL);
	free(t);
}

/* The kernel takes a running thread along before the call returns. */
int linux_thread_bind(void *ctx, struct host_thread *t, const struct pu_set *pus)
{
	cpu_set_t set[PU_SET_MAX / CPU_SETSIZE];

	pus_to_cpu_set(pus, set, sizeof(set));
	return -pthread_setaffinity_np(t ? t->pthread : pthread_self(), sizeof(set), set);
}

int linux_thread_affinity(struct pu_set *out)
{
	cpu_set_t set[PU_SET_MAX / CPU_SETSIZE];

	CPU_ZERO_S(sizeof(set), set);
	if (sched_getaffinity(0, sizeof(set), set))
		return -errno;
	pu_set_clear(out);
	for (unsigned i = 0; i < PU_SET_MAX; i++)
		if (CPU_ISSET_S(i, sizeof(set), set))
			pu_set_add(out, i);
	return 0;
}

/*
 * By thread id and not by pthread_kill(), which takes a lock: should the thread
 * have ended and its id live on in another of ours, that one is interrupted for nothing.
 */
void linux_thread_kick(void *ctx, struct host_thread *t)
{
	pid_t tid;

	if (t->attention)
		atomic_store(t->attention, 1);
	tid = atomic_load(&t->tid);
	if (tid && t != self)
		syscall(SYS_tgkill, getpid(), tid, KICK_SIGNAL);
}

static bool alarm_ready(struct host_thread *t)
{
	struct sigevent ev = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = KICK_SIGNAL };

	if (!t->has_alarm) {
		ev._sigev_un._tid = gettid();
		t->has_alarm = !timer_create(CLOCK_MONOTONIC, &ev, &t->alarm);
	}
	return t->has_alarm;
}

/* Without a timer the thread would sleep past its deadline: it looks at once instead. */
void linux_thread_alarm(void *ctx, uint64_t deadline_ns)
{
	struct itimerspec its = { 0 };

	if (!self)
		return; /* only threads that linux_thread_create() made can be kicked */
	if (deadline_ns == HOST_FOREVER && !self->has_alarm)
		return;
	if (!alarm_ready(self)) {
		if (self->attention)
			atomic_store(self->attention, 1);
		return;
	}
	if (deadline_ns != HOST_FOREVER)
		its.it_value = ns_to_timespec(MAX(deadline_ns, 1));
	timer_settime(self->alarm, TIMER_ABSTIME, &its, NULL);
}

void linux_thread_yield(void *ctx)
{
	sched_yield();
}

void linux_thread_set_gs(void *ctx, void *base)
{
	if (getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE)
		__asm__ volatile("wrgsbase %0" : : "r"(base) : "memory");
	else
		syscall(SYS_arch_prctl, ARCH_SET_GS, base);
}
