/*
 * system.c - workloads that the kernel does for its programs: system calls, processes,
 * page tables. What a machine makes of mode changes, page faults and flushed TLBs.
 */
#include "work.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096u

static uint64_t run_getppid(uint64_t ops)
{
	for (uint64_t i = 0; i < ops; i++)
		syscall(SYS_getppid);
	return ops;
}

#define READ_BYTES 16384

static int file;

static void setup_read(void)
{
	uint8_t bytes[READ_BYTES];

	work_text(bytes, sizeof(bytes));
	file = memfd_create("read", 0);
	if (file < 0 || write(file, bytes, sizeof(bytes)) != sizeof(bytes))
		work_die("memfd");
}

static uint64_t run_read(uint64_t ops)
{
	uint8_t bytes[READ_BYTES];
	uint64_t sum = 0;

	while (ops--) {
		if (pread(file, bytes, sizeof(bytes), 0) != sizeof(bytes))
			work_die("pread");
		sum += bytes[ops % READ_BYTES];
	}
	return sum;
}

static volatile sig_atomic_t signals;

static void on_signal(int number)
{
	signals = signals + 1;
}

static void setup_signal(void)
{
	struct sigaction action = { .sa_handler = on_signal };

	sigaction(SIGUSR1, &action, NULL);
}

static uint64_t run_signal(uint64_t ops)
{
	signals = 0;
	for (uint64_t i = 0; i < ops; i++)
		raise(SIGUSR1);
	return (uint64_t)signals;
}

/* Some memory of one's own, as a program has that forks. */
static void setup_fork(void)
{
	memset(work_alloc(1u << 20), 1, 1u << 20);
}

static void reap(pid_t child, uint64_t *good)
{
	int status;

	if (child < 0)
		work_die("fork");
	if (waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0)
		++*good;
}

static uint64_t run_fork(uint64_t ops)
{
	uint64_t good = 0;

	while (ops--) {
		pid_t child = fork();

		if (child == 0)
			_exit(0);
		reap(child, &good);
	}
	return good;
}

static uint64_t run_exec(uint64_t ops)
{
	uint64_t good = 0;

	while (ops--) {
		pid_t child = fork();

		if (child == 0) {
			execl("/proc/self/exe", "work", "nop", (char *)NULL);
			_exit(1);
		}
		reap(child, &good);
	}
	return good;
}

#define FAULT_PAGES 256

/* One operation is one page, but they are mapped and unmapped many at a time. */
static uint64_t run_fault(uint64_t ops)
{
	uint64_t sum = 0;

	while (ops) {
		unsigned pages = ops < FAULT_PAGES ? (unsigned)ops : FAULT_PAGES;
		uint8_t *p = mmap(NULL, FAULT_PAGES * PAGE, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (p == MAP_FAILED)
			work_die("mmap");
		madvise(p, FAULT_PAGES * PAGE, MADV_NOHUGEPAGE);
		for (unsigned i = 0; i < pages; i++)
			sum += ++p[i * PAGE + i % PAGE];
		munmap(p, FAULT_PAGES * PAGE);
		ops -= pages;
	}
	return sum;
}

/* Bytes go to and fro between this process and a child that never leaves. */
static int to_child[2], from_child[2];

static void start_echo(int own_cpu, int child_cpu)
{
	cpu_set_t set;
	pid_t child;
	char c;

	if (pipe(to_child) || pipe(from_child))
		work_die("pipe");
	child = fork();
	if (child < 0)
		work_die("fork");
	CPU_ZERO(&set);
	CPU_SET(child ? own_cpu : child_cpu, &set);
	/* A machine of one CPU has them all on that one. */
	sched_setaffinity(0, sizeof(set), &set);
	if (child == 0) {
		close(to_child[1]);
		while (read(to_child[0], &c, 1) == 1 && write(from_child[1], &c, 1) == 1)
			;
		_exit(0);
	}
}

static void setup_pipe(void)
{
	start_echo(0, 1);
}

static void setup_switch(void)
{
	start_echo(0, 0);
}

static uint64_t run_echo(uint64_t ops)
{
	uint64_t sum = 0;
	char c;

	while (ops--) {
		c = (char)(ops & 15);
		if (write(to_child[1], &c, 1) != 1 || read(from_child[0], &c, 1) != 1)
			work_die("pipe");
		sum += (uint64_t)c;
	}
	return sum;
}

const struct work works_system[] = {
	{ "getppid", "system call", 900000, NULL, run_getppid, NULL },
	{ "read", "pread() of 16 KiB from memory", 130000, setup_read, run_read, NULL },
	{ "signal", "signal to oneself", 60000, setup_signal, run_signal, NULL },
	{ "fault", "page touched for the first time", 30000, NULL, run_fault, NULL },
	{ "fork", "fork, exit, wait", 1100, setup_fork, run_fork, NULL },
	{ "exec", "fork, exec, exit, wait", 150, NULL, run_exec, NULL },
	{ "switch", "there and back between processes on one CPU", 36000, setup_switch, run_echo,
	  NULL },
	{ "pipe", "there and back between processes on two CPUs", 2000, setup_pipe, run_echo,
	  NULL },
	{ 0 },
};
