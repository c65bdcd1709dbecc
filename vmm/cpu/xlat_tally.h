/*
 * xlat_tally.h - translated code that counts itself, for the performance gate.
 *
 * With vmm_config.tally_code a block is emitted in segments: pieces of straight-line
 * code that are entered at their begin alone and executed to their end. Each begins
 * with a few instructions that count its runs and leave registers and flags as they
 * were; they are not part of what is counted. What the code executes is then the sum,
 * over all segments, of runs times instructions: exact, and the same on every host.
 *
 * Called by the generator wherever a jump leaves or enters hot code.
 */
#ifndef VMM_CPU_XLAT_TALLY_H
#define VMM_CPU_XLAT_TALLY_H

#include "cpu/xlat_int.h"

enum xtally_kind {
	XTALLY_HOT,
	XTALLY_PAGE,   /* another page than the one remembered: to the TLB and back */
	XTALLY_FILL,   /* to the TLB's slow path and back */
	XTALLY_LINK,   /* an edge not linked yet */
	XTALLY_LOOKUP, /* a target that the jump cache does not know */
	XTALLY_LEAVE,  /* to the interpreter, or out because of attention */
	XTALLY_KINDS
};

/* Both by kind: segments entered, and the instructions executed in them. */
struct xtally_sum {
	uint64_t runs[XTALLY_KINDS], insns[XTALLY_KINDS];
};

struct xtally;

int xtally_create(struct cpu *c, int node); /* c->xlat->tally; -ENOMEM */
void xtally_destroy(struct cpu *c);

/* A segment begins here, and ends the one before it. */
void xtally_begin(struct xlat *x, enum xtally_kind kind);
void xtally_end(struct xlat *x);
/* No room for what a block may need. */
bool xtally_full(const struct xlat *x);
/* What is emitted after xtally_mark() is taken back. */
unsigned xtally_mark(const struct xlat *x);
void xtally_rewind(struct xlat *x, unsigned mark);
/* Blocks are about to go: keep what they have counted. */
void xtally_fold(struct xlat *x);

/* All so far. On the vCPU's thread. */
struct xtally_sum xtally_sum(struct xlat *x);
/* Prints what was executed at least @runs times, a line an instruction. */
void xtally_show(const struct xlat *x, uint64_t runs,
		 void (*print)(uint64_t runs, enum xtally_kind kind, const char *text));

#endif
