/*
 * vector.c - do vector registers survive? Two processes share a CPU, each with all
 * its vector registers in use, among system calls, preemption and signals whose
 * handlers use the same registers.
 *
 *	vector SECONDS		status 0 when every register kept its value
 *	vector --level		says how wide they are
 */
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { REGS = 32, BYTES = 64, MASKS = 8 };

struct file {
	uint8_t reg[REGS][BYTES];
	uint64_t mask[MASKS];
} __attribute__((aligned(64)));

static unsigned regs, bytes; /* what this processor has */
static volatile sig_atomic_t signals;

static void find_level(void)
{
	regs = 16;
	bytes = 16;
	if (__builtin_cpu_supports("avx"))
		bytes = 32;
	if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")) {
		regs = 32;
		bytes = 64;
	}
}

#define EACH_8(X, a) X(a##0) X(a##1) X(a##2) X(a##3) X(a##4) X(a##5) X(a##6) X(a##7)
#define EACH_16(X)   EACH_8(X, ) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#define EACH_32(X)                                                                                 \
	EACH_16(X)                                                                                 \
	X(16)                                                                                      \
	X(17) X(18) X(19) X(20) X(21) X(22) X(23) X(24) X(25) X(26) X(27) X(28) X(29) X(30) X(31)

#define LOAD_X(n) "movups " #n "*64(%0), %%xmm" #n "\n"
#define SAVE_X(n) "movups %%xmm" #n ", " #n "*64(%1)\n"
#define LOAD_Y(n) "vmovups " #n "*64(%0), %%ymm" #n "\n"
#define SAVE_Y(n) "vmovups %%ymm" #n ", " #n "*64(%1)\n"
#define LOAD_Z(n) "vmovups " #n "*64(%0), %%zmm" #n "\n"
#define SAVE_Z(n) "vmovups %%zmm" #n ", " #n "*64(%1)\n"
#define LOAD_K(n) "kmovq 2048+" #n "*8(%0), %%k" #n "\n"
#define SAVE_K(n) "kmovq %%k" #n ", 2048+" #n "*8(%1)\n"

/* Time passes in between: a system call, or a loop. */
#define PASS(load, save)                                                                           \
	__asm__ volatile(load "test %%eax, %%eax; js 1f; syscall; jmp 2f\n"                        \
			      "1: dec %%rdi; jnz 1b; 2:\n" save                                    \
			 : "+r"(from), "+r"(to), "+a"(nr), "+D"(loops)                             \
			 :                                                                         \
			 : "rcx", "r11", "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4",   \
			   "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12",      \
			   "xmm13", "xmm14", "xmm15")

static void pass(const struct file *from, struct file *to, bool yield)
{
	long nr = yield ? SYS_sched_yield : -1, loops = 20000;

	if (bytes == 64)
		PASS(EACH_32(LOAD_Z) EACH_8(LOAD_K, ), EACH_32(SAVE_Z) EACH_8(SAVE_K, ));
	else if (bytes == 32)
		PASS(EACH_16(LOAD_Y), EACH_16(SAVE_Y));
	else
		PASS(EACH_16(LOAD_X), EACH_16(SAVE_X));
}

static void fill(struct file *f, uint64_t seed)
{
	uint64_t *p = (uint64_t *)f;

	for (unsigned i = 0; i < sizeof(*f) / 8; i++) {
		seed = seed * 6364136223846793005u + 1442695040888963407u;
		p[i] = seed ^ seed >> 29;
	}
}

static bool same(const struct file *a, const struct file *b)
{
	for (unsigned i = 0; i < regs; i++) {
		if (memcmp(a->reg[i], b->reg[i], bytes)) {
			printf("process %d: register %u has changed\n", getpid(), i);
			return false;
		}
	}
	if (bytes == 64 && memcmp(a->mask, b->mask, sizeof(a->mask))) {
		printf("process %d: opmasks have changed\n", getpid());
		return false;
	}
	return true;
}

static void on_timer(int sig)
{
	static struct file mine, after;

	fill(&mine, 77 + (uint64_t)signals++);
	pass(&mine, &after, false);
	if (!same(&mine, &after))
		_exit(1);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Also through what the kernel thinks is the initial state: all zeros. */
static int child(unsigned id, double seconds)
{
	struct itimerval every = { { 0, 3000 }, { 0, 3000 } };
	double end = now() + seconds;
	static struct file mine, after;
	unsigned long rounds = 0;

	signal(SIGALRM, on_timer);
	setitimer(ITIMER_REAL, &every, NULL);
	for (; now() < end; rounds++) {
		if (rounds % 5 == 4)
			memset(&mine, 0, sizeof(mine));
		else
			fill(&mine, id * 1000003u + rounds);
		pass(&mine, &after, rounds % 2);
		if (!same(&mine, &after))
			return 1;
	}
	printf("process %u: %lu rounds, %d signals\n", id, rounds, (int)signals);
	return rounds < 10 || !signals;
}

int main(int argc, char **argv)
{
	cpu_set_t one;
	int status, bad = 0;

	find_level();
	if (argc == 2 && !strcmp(argv[1], "--level")) {
		printf("%u registers of %u bytes\n", regs, bytes);
		return 0;
	}
	CPU_ZERO(&one);
	CPU_SET(0, &one);
	if (argc != 2 || sched_setaffinity(0, sizeof(one), &one)) {
		fprintf(stderr, "usage: vector SECONDS | --level\n");
		return 2;
	}
	for (unsigned id = 1; id <= 2; id++)
		if (!fork())
			exit(child(id, atof(argv[1])));
	while (wait(&status) > 0)
		bad |= status;
	return !!bad;
}
