/*
 * diff.h - one instruction, executed by the host's processor and by the
 * software engine: what both start from and what each ends with.
 *
 * test_diff.c makes batches of cases and compares outcomes; diff_native.c runs a
 * batch in a child process, diff_guest.c in a machine of one vCPU. Both see the
 * same code and data at the same addresses, at CPL 3, in 64-bit mode or in
 * compatibility mode.
 */
#ifndef TESTS_UNIT_DIFF_H
#define TESTS_UNIT_DIFF_H

#include "core/cpu_state.h"
#include "core/engine.h"
#include "core/host.h"

#define DIFF_BATCH     256
#define DIFF_SLOT      32 /* bytes of code a case; filled up with INT3 */
#define DIFF_CODE      0x20000000ull
#define DIFF_CODE_SIZE (DIFF_BATCH * DIFF_SLOT)

/* Two writable pages, one that is not; nothing before and behind them. */
#define DIFF_DATA       0x10000000ull
#define DIFF_WRITE_SIZE 0x2000u
#define DIFF_DATA_SIZE  0x3000u

#define DIFF_PATCH_MAX 576 /* an XSAVE area with its header */

/* Selectors as the child has them; flat, with these descriptors. */
#define DIFF_CS64 0x33
#define DIFF_CS32 0x23
#define DIFF_SS   0x2b

#define DIFF_BREAK 3 /* vector that ends a case in which nothing happened */

struct diff_state {
	uint64_t gpr[GPR_COUNT];
	uint64_t rip;
	uint64_t rflags;
	uint8_t xsave[XSAVE_BYTES] __attribute__((aligned(64))); /* as in struct cpu_state */
};

struct diff_case {
	struct diff_state in;
	uint8_t code[16];
	unsigned len;
	bool compat; /* 32-bit code, in compatibility mode */
	/* Bytes that the data has in this case alone. */
	uint32_t patch_at, patch_bytes;
	uint8_t patch[DIFF_PATCH_MAX];
};

struct diff_outcome {
	struct diff_state out;
	unsigned vector;
	uint32_t error;
	uint64_t cr2; /* of page faults */
	uint8_t data[DIFF_WRITE_SIZE];
};

struct diff_batch {
	unsigned nr_cases;
	uint8_t code[DIFF_CODE_SIZE];
	uint8_t data[DIFF_DATA_SIZE]; /* what each case finds, before its patch */
	struct diff_case cases[DIFF_BATCH];
	struct diff_outcome outcome[DIFF_BATCH]; /* the child's */
};

/* XCR0 bits whose state is compared: what this host has, as far as we know it. */
uint64_t diff_xcr0(void);

/* The child with the batch it shares. NULL: there is none, the reason is on stderr. */
struct diff_batch *native_start(void);
/* Runs the batch; false: the child is gone. */
bool native_run(void);
void native_stop(void);

struct engine_ops;
bool guest_start(const struct host *host, const struct engine_ops *engine);
/* Code and data of the batch are in place from here on. */
void guest_load(const struct diff_batch *b);
void guest_run(const struct diff_case *t, struct diff_outcome *out);
void guest_stop(void);
/* FIP, FDP and FOP may be zero whatever was executed. */
bool guest_hides_pointers(void);

#endif
