/*
 * debug.h - single-stepping and break points: the guest's (RFLAGS.TF, DR0-3) and
 * the debugger's.
 *
 * While any is active c->slow_step makes the run loop execute one instruction at
 * a time, with a call before and after it. Pages with data points on them have no
 * TLB tags, so that every access to them comes by debug_access().
 */
#ifndef VMM_CPU_DEBUG_H
#define VMM_CPU_DEBUG_H

#include "cpu/mmu.h"

enum debug_action {
	DEBUG_GO,
	DEBUG_FAULT, /* c->fault holds #DB */
	DEBUG_STOP   /* c->exit is an EXIT_DEBUG */
};

/* s.rip is the instruction about to run. */
enum debug_action debug_before_insn(struct cpu *c);
/*
 * It has run, s.rip is the next, or itself when one piece of a REP has run and it is
 * not @complete. Not called when it faulted.
 */
enum debug_action debug_after_insn(struct cpu *c, bool complete);

/* TF, RF, DR7, points, stepping or tracing changed: is it one by one from here? */
void debug_update(struct cpu *c);

/* A data access by the instruction at work. */
void debug_access(struct cpu *c, uint64_t gva, unsigned bytes, enum mmu_access access);
/* Does any data point lie on this page? */
bool debug_watches(const struct cpu *c, uint64_t page);
/* An access to ports [port, port + bytes). */
void debug_port(struct cpu *c, uint16_t port, unsigned bytes);

/* engine_ops: every vCPU is parked. -ENOSPC, -ENOENT, -EINVAL. */
int debug_point(struct vm *vm, bool add, enum debug_point_kind kind, uint64_t gva, unsigned bytes);
void debug_single_step(struct vcpu *v, bool on);

#endif
