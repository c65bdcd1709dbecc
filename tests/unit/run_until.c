/* run_until.c - see run_until.h. The calling thread is the vCPU's, another one watches. */
#include "run_until.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define WATCH_S 60
#define NAPS_S  2000

struct watch {
	struct flat *f;
	bool (*enough)(const struct flat *f, void *arg);
	void *arg;
	pthread_t runner;
	_Atomic bool over;
};

static void nap(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = 1000000000 / NAPS_S }, NULL);
}

/* Kicks until it has come out: one that comes before run() has begun may be taken early. */
static void *watcher(void *arg)
{
	struct watch *w = arg;

	for (unsigned i = 0; i < WATCH_S * NAPS_S && !atomic_load(&w->over); i++) {
		if (w->enough(w->f, w->arg))
			break;
		vcpu_post(w->f->vcpu, VCPU_INTR); /* this thread has no alarm */
		nap();
	}
	while (!atomic_load(&w->over)) {
		vcpu_post(w->f->vcpu, VCPU_PARK);
		pthread_kill(w->runner, SIGRTMIN);
		nap();
	}
	return NULL;
}

enum exit_reason run_until(struct flat *f, bool (*enough)(const struct flat *f, void *arg),
			   void *arg)
{
	struct watch w = { .f = f, .enough = enough, .arg = arg, .runner = pthread_self() };
	struct vcpu_exit x = { .reason = EXIT_KICK };
	pthread_t t;
	int err;

	atomic_store(&f->vcpu->events, 0);
	atomic_store(&f->vcpu->mode, VCPU_GUEST);
	if (pthread_create(&t, NULL, watcher, &w)) {
		fprintf(stderr, "run_until: no thread\n");
		abort();
	}
	do
		err = f->vm->engine->run(f->vcpu, &x);
	while (!err && x.reason == EXIT_KICK && !(atomic_load(&f->vcpu->events) & VCPU_PARK));
	atomic_store(&w.over, true);
	pthread_join(t, NULL);
	atomic_store(&f->vcpu->mode, VCPU_OUTSIDE);
	return err ? EXIT_ERROR : x.reason;
}
