/*
 * diff_native.c - runs single instructions on the host's own processor.
 *
 * A child process maps code and data at fixed addresses and lives in its signal
 * handler: each case ends with a signal (INT3 if nothing else happens), whose
 * handler notes the outcome and returns into the next case, with every register
 * as the case wants it. So a case costs one signal, and nothing of the child
 * but its handler's own stack is ever in a register.
 */
#include "diff.h"

#include "cpu/xstate.h"

#include <cpuid.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

/* The kernel's note in the FXSAVE image that XSAVE state follows. */
#define FRAME_NOTE  464
#define FRAME_MAGIC 0x46505853u
#define XSTATE_BV   512

static struct {
	struct diff_batch *batch;
	pid_t child;
	int go, done; /* pipes: one byte starts a batch, one tells its end */
} native;

/* In the child. */
static unsigned current;
static bool started;
static greg_t home[NGREG];
static struct diff_state home_fp;
static uint8_t stack[65536];

/* Encoding order. */
static const int greg_of[GPR_COUNT] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
					REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
					REG_R12, REG_R13, REG_R14, REG_R15 };

/* Where a component lies in the host's area and in ours. */
struct component {
	unsigned bit, bytes, ours, host;
};

static struct component components[] = {
	{ 2, 256, XSAVE_YMM, 0 },
	{ 5, 64, XSAVE_OPMASK, 0 },
	{ 6, 512, XSAVE_ZMM_HI256, 0 },
	{ 7, 1024, XSAVE_HI16_ZMM, 0 },
};

static uint64_t host_xcr0(void)
{
	uint32_t eax, ebx, ecx, edx;

	if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & bit_OSXSAVE))
		return XCR0_X87 | XCR0_SSE;
	__asm__("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
	return eax;
}

/* Kept: hypervisors make CPUID slow. */
uint64_t diff_xcr0(void)
{
	static uint64_t xcr0;

	if (!xcr0) {
		xcr0 = host_xcr0() & (XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_AVX512);
		if ((xcr0 & XCR0_AVX512) != XCR0_AVX512)
			xcr0 &= ~(uint64_t)XCR0_AVX512;
	}
	return xcr0;
}

static void find_components(void)
{
	uint32_t eax, ebx, ecx, edx;

	for (unsigned i = 0; i < ARRAY_SIZE(components); i++) {
		struct component *k = &components[i];

		if ((diff_xcr0() & BIT64(k->bit)) &&
		    __get_cpuid_count(0xd, k->bit, &eax, &ebx, &ecx, &edx))
			k->host = ebx;
	}
}

static bool has_xsave(const uint8_t *frame)
{
	return load_u32(frame + FRAME_NOTE) == FRAME_MAGIC;
}

static void fp_save(struct diff_state *s, const uint8_t *frame)
{
	memcpy(s->xsave, frame, 416);
	for (unsigned i = 0; i < ARRAY_SIZE(components); i++) {
		const struct component *k = &components[i];

		if (!k->host)
			continue;
		if (load_u64(frame + XSTATE_BV) & BIT64(k->bit))
			memcpy(s->xsave + k->ours, frame + k->host, k->bytes);
		else
			memset(s->xsave + k->ours, 0, k->bytes);
	}
}

static void fp_load(uint8_t *frame, const struct diff_state *s)
{
	memcpy(frame, s->xsave, 416);
	if (!has_xsave(frame))
		return;
	store_u64(frame + XSTATE_BV, load_u64(frame + XSTATE_BV) | diff_xcr0());
	for (unsigned i = 0; i < ARRAY_SIZE(components); i++)
		if (components[i].host)
			memcpy(frame + components[i].host, s->xsave + components[i].ours,
			       components[i].bytes);
}

static void note_outcome(struct diff_outcome *o, const mcontext_t *m)
{
	for (unsigned i = 0; i < GPR_COUNT; i++)
		o->out.gpr[i] = (uint64_t)m->gregs[greg_of[i]];
	o->out.rip = (uint64_t)m->gregs[REG_RIP];
	o->out.rflags = (uint64_t)m->gregs[REG_EFL];
	o->vector = (unsigned)m->gregs[REG_TRAPNO];
	o->error = (uint32_t)m->gregs[REG_ERR];
	o->cr2 = (uint64_t)m->gregs[REG_CR2];
	fp_save(&o->out, (const uint8_t *)m->fpregs);
	memcpy(o->data, (const void *)DIFF_DATA, DIFF_WRITE_SIZE);
}

static void enter_case(const struct diff_batch *b, const struct diff_case *t, mcontext_t *m)
{
	memcpy((void *)DIFF_DATA, b->data, DIFF_WRITE_SIZE);
	memcpy((void *)(DIFF_DATA + t->patch_at), t->patch, t->patch_bytes);
	for (unsigned i = 0; i < GPR_COUNT; i++)
		m->gregs[greg_of[i]] = (greg_t)t->in.gpr[i];
	m->gregs[REG_RIP] = (greg_t)t->in.rip;
	m->gregs[REG_EFL] = (greg_t)t->in.rflags;
	m->gregs[REG_CSGSFS] =
		(m->gregs[REG_CSGSFS] & ~(greg_t)0xffff) | (t->compat ? DIFF_CS32 : DIFF_CS64);
	fp_load((uint8_t *)m->fpregs, &t->in);
}

static void on_signal(int sig, siginfo_t *info, void *context)
{
	mcontext_t *m = &((ucontext_t *)context)->uc_mcontext;
	struct diff_batch *b = native.batch;

	if (!started) {
		started = true;
		current = 0;
		memcpy(home, m->gregs, sizeof(home));
		fp_save(&home_fp, (const uint8_t *)m->fpregs);
	} else {
		note_outcome(&b->outcome[current++], m);
	}
	if (current < b->nr_cases) {
		enter_case(b, &b->cases[current], m);
	} else {
		started = false;
		memcpy(m->gregs, home, sizeof(home));
		fp_load((uint8_t *)m->fpregs, &home_fp);
	}
}

static bool map_fixed(uint64_t at, size_t bytes)
{
	void *p = mmap((void *)(uintptr_t)at, bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

	return p == (void *)(uintptr_t)at;
}

/* 64-bit code does without them, 32-bit code does not. */
static void load_segments(void)
{
	__asm__ volatile("mov %0, %%ds; mov %0, %%es; mov %0, %%gs" : : "r"(DIFF_SS));
}

static void child_setup(void)
{
	static const int signals[] = { SIGTRAP, SIGSEGV, SIGBUS, SIGFPE, SIGILL };
	struct sigaction sa = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK };
	stack_t st = { .ss_sp = stack, .ss_size = sizeof(stack) };

	find_components();
	load_segments();
	sigaltstack(&st, NULL);
	sigfillset(&sa.sa_mask);
	for (unsigned i = 0; i < ARRAY_SIZE(signals); i++)
		sigaction(signals[i], &sa, NULL);
	if (!map_fixed(DIFF_CODE, DIFF_CODE_SIZE) || !map_fixed(DIFF_DATA, DIFF_DATA_SIZE))
		_exit(1);
}

static void child_main(int go, int done)
{
	struct diff_batch *b = native.batch;
	char byte;

	child_setup();
	while (read(go, &byte, 1) == 1) {
		mprotect((void *)DIFF_CODE, DIFF_CODE_SIZE, PROT_READ | PROT_WRITE);
		memcpy((void *)DIFF_CODE, b->code, DIFF_CODE_SIZE);
		mprotect((void *)DIFF_CODE, DIFF_CODE_SIZE, PROT_READ | PROT_EXEC);
		mprotect((void *)DIFF_DATA, DIFF_DATA_SIZE, PROT_READ | PROT_WRITE);
		memcpy((void *)DIFF_DATA, b->data, DIFF_DATA_SIZE);
		mprotect((void *)(DIFF_DATA + DIFF_WRITE_SIZE), DIFF_DATA_SIZE - DIFF_WRITE_SIZE,
			 PROT_READ);
		__asm__ volatile("int3" : : : "memory");
		if (write(done, &byte, 1) != 1)
			break;
	}
	_exit(0);
}

struct diff_batch *native_start(void)
{
	int go[2], done[2];
	void *p = mmap(NULL, sizeof(struct diff_batch), PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED || pipe(go) || pipe(done)) {
		perror("native child");
		return NULL;
	}
	native.batch = p;
	native.child = fork();
	if (native.child < 0) {
		perror("native child");
		return NULL;
	}
	if (!native.child) {
		close(go[1]);
		close(done[0]);
		child_main(go[0], done[1]);
	}
	close(go[0]);
	close(done[1]);
	native.go = go[1];
	native.done = done[0];
	return native.batch;
}

bool native_run(void)
{
	char byte = 0;

	return write(native.go, &byte, 1) == 1 && read(native.done, &byte, 1) == 1;
}

void native_stop(void)
{
	close(native.go);
	close(native.done);
	waitpid(native.child, NULL, 0);
	munmap(native.batch, sizeof(*native.batch));
}
