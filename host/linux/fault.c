/*
 * fault.c - synchronous faults of generated code, handed over in a neutral frame.
 *
 * The signals are the process's, the handler is the thread's: each thread that
 * registers one also gets an alternate stack, because code may fault with any
 * stack pointer. What no handler wants goes to whoever had the signal before us.
 */
#include "linux.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#define HANDLER_STACK_BYTES KIB(64) /* beside the frame, which AVX-512 makes big */

static const int fault_signals[] = { SIGFPE, SIGBUS, SIGSEGV };
static struct sigaction old_actions[ARRAY_SIZE(fault_signals)];

static __thread struct {
	bool (*fn)(struct host_fault *f, void *arg);
	void *arg;
	uint8_t *stack;
	size_t stack_bytes;
	stack_t old_stack;
} mine __attribute__((tls_model("initial-exec"))); /* read in signal handlers */

/* The kernel's order of registers in encoding order. */
static const uint8_t greg_of[16] = {
	REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
	REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15,
};

static enum host_fault_kind fault_kind(int sig)
{
	switch (sig) {
	case SIGFPE:
		return HOST_FAULT_FPE;
	case SIGBUS:
		return HOST_FAULT_BUS;
	default:
		return HOST_FAULT_SEGV;
	}
}

static bool offer(int sig, const siginfo_t *info, ucontext_t *uc)
{
	greg_t *greg = uc->uc_mcontext.gregs;
	struct host_fault f = {
		.kind = fault_kind(sig),
		.addr = sig == SIGFPE ? 0 : (uint64_t)(uintptr_t)info->si_addr,
		.pc = (uint64_t)greg[REG_RIP],
		.rflags = (uint64_t)greg[REG_EFL],
		.fpstate = uc->uc_mcontext.fpregs,
	};

	for (size_t i = 0; i < ARRAY_SIZE(greg_of); i++)
		f.gpr[i] = (uint64_t)greg[greg_of[i]];
	if (!mine.fn(&f, mine.arg))
		return false;
	for (size_t i = 0; i < ARRAY_SIZE(greg_of); i++)
		greg[greg_of[i]] = (greg_t)f.gpr[i];
	greg[REG_RIP] = (greg_t)f.pc;
	greg[REG_EFL] = (greg_t)f.rflags;
	return true;
}

/*
 * To the handler that was here before. With the default action restored the
 * instruction runs again, faults again and ends the process with a true core.
 */
static void pass_on(int sig, siginfo_t *info, void *context)
{
	const struct sigaction *old = &old_actions[0];

	for (size_t i = 1; i < ARRAY_SIZE(fault_signals); i++)
		if (fault_signals[i] == sig)
			old = &old_actions[i];
	if (old->sa_flags & SA_SIGINFO) {
		old->sa_sigaction(sig, info, context);
	} else if (old->sa_handler == SIG_DFL || old->sa_handler == SIG_IGN) {
		signal(sig, SIG_DFL);
		if (info->si_code <= 0) /* sent by a process: nothing will fault again */
			raise(sig);
	} else {
		old->sa_handler(sig);
	}
}

static void on_fault(int sig, siginfo_t *info, void *context)
{
	int saved_errno = errno;
	bool is_sync = info->si_code > 0;

	if (!is_sync || !mine.fn || !offer(sig, info, context))
		pass_on(sig, info, context);
	errno = saved_errno;
}

int linux_fault_signals_take(void)
{
	/* Kicks stay open: a handler that runs long must not delay them. */
	struct sigaction sa = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK };

	sigemptyset(&sa.sa_mask);
	for (size_t i = 0; i < ARRAY_SIZE(fault_signals); i++) {
		if (sigaction(fault_signals[i], &sa, &old_actions[i])) {
			int err = -errno;

			while (i--)
				sigaction(fault_signals[i], &old_actions[i], NULL);
			return err;
		}
	}
	return 0;
}

void linux_fault_signals_release(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(fault_signals); i++)
		sigaction(fault_signals[i], &old_actions[i], NULL);
}

static int stack_take(void)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	size_t frame = MAX((size_t)getauxval(AT_MINSIGSTKSZ), (size_t)KIB(4));
	size_t bytes = ALIGN_UP(frame + HANDLER_STACK_BYTES, page);
	stack_t ss = { .ss_size = bytes };
	uint8_t *p;
	int err;

	p = mmap(NULL, bytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return -ENOMEM;
	mprotect(p, page, PROT_NONE); /* an overflow faults instead of spreading */
	ss.ss_sp = p + page;
	if (sigaltstack(&ss, &mine.old_stack)) {
		err = -errno;
		munmap(p, bytes + page);
		return err;
	}
	mine.stack = p;
	mine.stack_bytes = bytes + page;
	return 0;
}

static void stack_release(void)
{
	if (!mine.stack)
		return;
	sigaltstack(&mine.old_stack, NULL);
	munmap(mine.stack, mine.stack_bytes);
	mine.stack = NULL;
}

int linux_fault_handler(void *ctx, bool (*fn)(struct host_fault *f, void *arg), void *arg)
{
	int err = 0;

	if (fn && !mine.stack)
		err = stack_take();
	if (err)
		return err;
	mine.fn = NULL; /* no fault between the two stores meets a mixed pair */
	mine.arg = arg;
	mine.fn = fn;
	if (!fn)
		stack_release();
	return 0;
}

void linux_fault_thread_exit(void)
{
	mine.fn = NULL;
	stack_release();
}
