/*
 * fault.c - synchronous faults: real signals, handed to the thread's handler in
 * the neutral form. One process-wide signal handler serves every host.
 */
#include "host/sim/internal.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <ucontext.h>

#define STACK_BYTES (64 * 1024)

static const int signals[] = { SIGFPE, SIGBUS, SIGSEGV };

/* Encoding order. */
static const int greg_of[16] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
				 REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
				 REG_R12, REG_R13, REG_R14, REG_R15 };

static _Thread_local struct host_thread *handling; /* the thread whose handler is installed */

static enum host_fault_kind kind_of(int sig)
{
	return sig == SIGFPE ? HOST_FAULT_FPE : sig == SIGBUS ? HOST_FAULT_BUS : HOST_FAULT_SEGV;
}

static void on_signal(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	greg_t *g = uc->uc_mcontext.gregs;
	struct host_thread *t = handling;
	struct host_fault f = { .kind = kind_of(sig), .addr = (uintptr_t)info->si_addr };

	f.pc = (uint64_t)g[REG_RIP];
	f.rflags = (uint64_t)g[REG_EFL];
	f.fpstate = uc->uc_mcontext.fpregs;
	for (unsigned i = 0; i < ARRAY_SIZE(greg_of); i++)
		f.gpr[i] = (uint64_t)g[greg_of[i]];
	if (!t || !t->fault(&f, t->fault_arg)) {
		signal(sig, SIG_DFL); /* strikes again on return, fatally */
		return;
	}
	g[REG_RIP] = (greg_t)f.pc;
	g[REG_EFL] = (greg_t)f.rflags;
	for (unsigned i = 0; i < ARRAY_SIZE(greg_of); i++)
		g[greg_of[i]] = (greg_t)f.gpr[i];
}

static void install(void)
{
	struct sigaction sa = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK };

	sigemptyset(&sa.sa_mask);
	for (unsigned i = 0; i < ARRAY_SIZE(signals); i++)
		sigaction(signals[i], &sa, NULL);
}

/* The handler's own stack: a faulting thread's stack pointer may be anything. */
static int use_stack(struct host_thread *t)
{
	stack_t st = { .ss_size = STACK_BYTES };

	t->fault_stack = malloc(STACK_BYTES);
	if (!t->fault_stack)
		return -ENOMEM;
	st.ss_sp = t->fault_stack;
	sigaltstack(&st, NULL);
	return 0;
}

/* On the thread itself. */
void fault_forget(struct host_thread *t)
{
	stack_t st = { .ss_flags = SS_DISABLE };

	if (handling == t)
		handling = NULL;
	if (!t->fault_stack)
		return;
	sigaltstack(&st, NULL);
	free(t->fault_stack);
	t->fault_stack = NULL;
}

int sim_fault_handler(void *ctx, bool (*fn)(struct host_fault *f, void *arg), void *arg)
{
	struct host_thread *self = sim_self(ctx);

	if (!fn) {
		fault_forget(self);
		return 0;
	}
	if (!self->fault_stack && use_stack(self))
		return -ENOMEM;
	self->fault = fn;
	self->fault_arg = arg;
	handling = self;
	install();
	return 0;
}
