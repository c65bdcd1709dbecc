/*
 * xlat.h - the translator: guest code of 64-bit mode as host code.
 *
 * engine.c calls xlat_run() where it would interpret; whatever the translator
 * leaves alone is executed by the interpreter, one instruction at a time. Both
 * work on the same struct cpu, so that either may go on where the other stopped.
 *
 * docs/translator.md tells how a block is born, lives and dies.
 */
#ifndef VMM_CPU_XLAT_H
#define VMM_CPU_XLAT_H

#include "cpu/cpu.h"

/* How xlat_run() ended; s.rip and all state are those of an instruction's begin. */
enum xlat_result {
	XLAT_ATTEND, /* attention is set */
	XLAT_INTERP, /* the interpreter shall execute the instruction at s.rip */
	XLAT_OUT,    /* c->exit is filled */
	XLAT_FAULT,  /* c->fault is pending, by the fetch at s.rip */
	XLAT_RESET   /* triple fault */
};

/* A code cache for each guest node with vCPUs, which must stand. -errno */
int xlat_vm_create(struct vm *vm);
void xlat_vm_destroy(struct vm *vm);

int xlat_create(struct cpu *c, int host_node); /* c->xlat; on the vCPU's thread. -errno */
void xlat_destroy(struct cpu *c);

/* Executes translated code from s.rip on. 64-bit mode, nothing watched, no shadows. */
enum xlat_result xlat_run(struct cpu *c);

/*
 * C code called by translated code runs while the guest's vector registers are live, and
 * so is compiled without any: see QUIET in the Makefile. Where it calls other code, a
 * host's, a device's, it has to say so before; from then on the registers are the host's.
 */
void xlat_park_vectors(struct cpu *c);

static inline void xlat_outside(const struct cpu *c)
{
	if (unlikely(c->x.vec_live))
		xlat_park_vectors(c->x.self);
}

/* The image shall say what is in the registers; they stay where they are. */
void xlat_copy_vectors(struct cpu *c);

static inline void xlat_show_vectors(struct cpu *c)
{
	if (c->x.vec_live)
		xlat_copy_vectors(c);
}

/* From now on the image counts. @given: what of it will be written, as bits of XCR0. */
void xlat_take_vectors(struct cpu *c, uint64_t given);

/* Are the clock's ticks those of RDTSC? */
bool xlat_tsc_is_ours(const struct cpu *c);

/* Attention is being looked at; does what xlat_sync() does. */
void xlat_attend(struct cpu *c);

/* At serialising points: forget what others have modified. */
void xlat_sync(struct cpu *c);

/* The vCPU stops running: others shall not wait for it. */
void xlat_leave(struct cpu *c);

/* ASIDs begin anew. */
void xlat_asids_reused(struct cpu *c);

/* In signal context: was it translated code? Then *f leads out of it. */
bool xlat_host_fault(struct cpu *c, struct host_fault *f);

/* Mappings or rights of the current address space have changed. */
void xlat_forget_pages(struct cpu *c);

/* The mapping of @gva has gone: whatever jumps there has to look again. */
void xlat_page_flushed(struct cpu *c, uint64_t gva);

#endif
