/*
 * flat.h - a small machine around the interpreter, for tests: flat RAM with an
 * identity mapping, one vCPU run by the test's own thread, no devices.
 *
 * Guest code is written as GUEST() blocks in the test itself, ends with HLT and
 * runs at FLAT_CODE with its stack at FLAT_STACK. An exception stops the machine
 * as HLT does, and leaves its number in flat->vector.
 */
#ifndef TESTS_UNIT_FLAT_H
#define TESTS_UNIT_FLAT_H

#include "cpu/cpu.h"
#include "cpu/soft.h"

#define FLAT_RAM   MIB(16)
#define FLAT_IDT   0x8000u /* one gate a vector, to FLAT_TRAP + 16 * vector */
#define FLAT_TRAP  0x9000u
#define FLAT_STACK 0x20000u /* grows down */
#define FLAT_CODE  0x100000u
#define FLAT_DATA  0x200000u

/* Bytes assembled into the test program's read-only data: name[] to name_end[]. */
#define GUEST_CODE(name, width, text)                                                              \
	extern const uint8_t name[], name##_end[];                                                 \
	asm(".pushsection .rodata\n.balign 16\n.code" #width "\n" #name ":\n" text "\n" #name      \
	    "_end:\n.code64\n.popsection")
#define GUEST(name, text)   GUEST_CODE(name, 64, text)
#define GUEST32(name, text) GUEST_CODE(name, 32, text)
#define GUEST16(name, text) GUEST_CODE(name, 16, text)

struct flat {
	struct vm *vm;
	struct vcpu *vcpu; /* the first one */
	struct cpu *cpu;
	uint8_t *ram;
	struct vcpu_exit exit; /* of the last run */
	int vector;            /* the exception that ended it, or -1 */
	struct cpu_state before;
};

/* Machines of one or more vCPUs, those but the first never run by themselves. */
struct flat *flat_create(const struct host *h, unsigned vcpus, enum clock_source clock);
struct flat *flat_create_on(const struct engine_ops *engine, const struct host *h, unsigned vcpus,
			    enum clock_source clock);
/* What an engine looks at in *@cfg counts; the machine is as above. */
struct flat *flat_create_as(const struct engine_ops *engine, const struct host *h, unsigned vcpus,
			    enum clock_source clock, const struct vmm_config *cfg);
void flat_destroy(struct flat *f);

/* 64-, 32- or 16-bit flat state at FLAT_CODE, in cpu->s. */
void flat_reset(struct flat *f, enum cpu_mode mode);
/* Copies code to FLAT_CODE, with everything that must be told. */
void flat_load(struct flat *f, const uint8_t *code, const uint8_t *end);
/* Until it halts, faults or resets. */
void flat_run(struct flat *f);
/* All of it, in 64-bit mode. */
void flat_run_code(struct flat *f, const uint8_t *code, const uint8_t *end);
#define FLAT_RUN(f, name) flat_run_code(f, name, name##_end)

static inline uint64_t flat_reg(const struct flat *f, enum gpr r)
{
	return f->cpu->s.gpr[r];
}

#endif
