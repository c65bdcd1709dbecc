/* trace.h - --trace insn: one line an instruction, before it executes. */
#ifndef VMM_CPU_TRACE_H
#define VMM_CPU_TRACE_H

#include "cpu/cpu.h"

/* The instruction at s.rip, to the embedder's vmm_config.trace. */
void trace_insn(struct cpu *c);

#endif
