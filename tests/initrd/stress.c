/*
 * stress.c - what an SMP kernel does hardest, on every CPU at once, with a check
 * at the end of each: futexes, page faults, TLB shootdowns, forks, pipes, signals.
 *
 *	stress SECONDS		status 0 when everything added up
 */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CPUS_MAX  256
#define MAP_PAGES 16
#define PAGE      4096

static atomic_bool stop;
static atomic_uint failures;
static unsigned cpus;

static void bad(const char *what)
{
	printf("%s\n", what);
	atomic_fetch_add(&failures, 1);
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static uint64_t guarded, guarded_twin;

static void do_futex(unsigned id)
{
	pthread_mutex_lock(&mutex);
	if (guarded != guarded_twin)
		bad("futex: two threads held one mutex");
	guarded++;
	sched_yield();
	guarded_twin++;
	pthread_mutex_unlock(&mutex);
}

/* Unmapping on one CPU while others run in the same address space: shootdowns. */
static void do_map(unsigned id)
{
	volatile uint64_t *p = mmap(NULL, MAP_PAGES * PAGE, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED) {
		bad("map: no memory");
		return;
	}
	for (unsigned i = 0; i < MAP_PAGES; i++) {
		if (p[i * PAGE / 8])
			bad("map: a fresh page is not zero");
		p[i * PAGE / 8] = id + 1;
	}
	mprotect((void *)p, MAP_PAGES * PAGE, PROT_READ);
	for (unsigned i = 0; i < MAP_PAGES; i++)
		if (p[i * PAGE / 8] != id + 1)
			bad("map: another thread's page");
	munmap((void *)p, MAP_PAGES * PAGE);
}

/* A child must see its own copy, and the parent its own. */
static void do_fork(unsigned id)
{
	static __thread volatile uint64_t cell;
	int status = -1;
	pid_t pid;

	cell = 1;
	pid = fork();
	if (!pid) {
		cell++;
		_exit(cell == 2 ? 42 : 1);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status) ||
	    WEXITSTATUS(status) != 42 || cell != 1)
		bad("fork: the child's story differs");
}

static void do_pipe(unsigned id)
{
	static __thread int fd[2];
	static __thread uint64_t next;
	uint64_t got = 0;

	if (!fd[1] && pipe(fd)) {
		bad("pipe: none");
		return;
	}
	next++;
	if (write(fd[1], &next, sizeof(next)) != sizeof(next) ||
	    read(fd[0], &got, sizeof(got)) != sizeof(got) || got != next)
		bad("pipe: other bytes came out");
}

static __thread volatile sig_atomic_t signals;

static void on_signal(int sig)
{
	signals++;
}

static void do_signal(unsigned id)
{
	sig_atomic_t before = signals;

	pthread_kill(pthread_self(), SIGUSR1);
	if (signals == before)
		bad("signal: lost");
}

/* Floating-point state must survive all of the above on the same CPU. */
static void do_float(unsigned id)
{
	double x = 1 + id;

	for (int i = 0; i < 50; i++) {
		x = x * 1.5 - 0.25;
		if (i % 10 == 0)
			sched_yield();
		x = (x + 0.25) / 1.5;
	}
	if (x < id + 0.999 || x > id + 1.001)
		bad("float: registers changed");
}

static void (*const works[])(unsigned id) = {
	do_futex, do_map, do_pipe, do_signal, do_float, do_fork,
};

#define WORKS (sizeof(works) / sizeof(works[0]))

static void *run(void *arg)
{
	unsigned id = (unsigned)(uintptr_t)arg, n = id;

	while (!atomic_load(&stop))
		works[n++ % WORKS](id);
	return NULL;
}

/* Threads never pinned: they also migrate. */
int main(int argc, char **argv)
{
	pthread_t thread[2 * CPUS_MAX];
	unsigned seconds = argc > 1 ? (unsigned)atoi(argv[1]) : 1;

	cpus = (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
	if (cpus > CPUS_MAX)
		cpus = CPUS_MAX;
	signal(SIGUSR1, on_signal);
	for (unsigned i = 0; i < 2 * cpus; i++)
		if (pthread_create(&thread[i], NULL, run, (void *)(uintptr_t)i)) {
			perror("pthread_create");
			return 1;
		}
	sleep(seconds);
	atomic_store(&stop, true);
	for (unsigned i = 0; i < 2 * cpus; i++)
		pthread_join(thread[i], NULL);
	return atomic_load(&failures) != 0;
}
