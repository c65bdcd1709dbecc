/*
 * codemap.h - which guest pages hold decoded code, machine-wide, and what
 * happens when somebody stores into them.
 *
 * Each page has a version. A block remembers the version its bytes were read
 * under and is dead once the page's differs. Stores reach pages with code only
 * by the slow path (no write tag in any TLB), which bumps the version when the
 * bytes written overlap decoded ones (64-byte granules).
 *
 * Becoming code: the decoder marks the page, drops its own write tags, and posts
 * VCPU_CODE to every other vCPU that may hold one. It does not wait. Until they
 * have all answered, a store through a stale write tag may go unseen; the page
 * is `provisional` and a copy of it is kept. A processor must see another's
 * modification only after it serialises (SDM vol. 3, 8.1.3), so at every
 * serialising instruction and at every interrupt a vCPU calls codemap_verify(),
 * which compares provisional pages with their copies: nothing but one relaxed
 * load while there are none.
 */
#ifndef VMM_CPU_CODEMAP_H
#define VMM_CPU_CODEMAP_H

#include "cpu/cpu.h"

struct codemap;

int codemap_create(struct vm *vm, struct codemap **out);
void codemap_destroy(struct vm *vm, struct codemap *m);

/* The machine's, from any of its vCPUs. */
struct codemap *codemap_of(const struct cpu *c);

/* Bytes [gpa, gpa + bytes), within one page, are about to be decoded; the version to remember. */
uint32_t codemap_mark(struct cpu *c, uint64_t gpa, unsigned bytes);
uint32_t codemap_version(const struct codemap *m, uint64_t gpa);

/* May a TLB entry of this vCPU allow direct stores to this page? Notes that it does. */
bool codemap_may_write(struct cpu *c, uint64_t gpa);
/* Is there code on it? */
bool codemap_is_code(const struct codemap *m, uint64_t gpa);

/* After a slow-path store by this vCPU (sets c->code_stale), or by a device or loader (c NULL). */
void codemap_written(struct codemap *m, struct cpu *c, uint64_t gpa, uint64_t bytes);

/* At serialising instructions and interrupts. */
void codemap_verify(struct cpu *c);
/* VCPU_CODE: downgrade and answer. */
void codemap_answer(struct cpu *c);

#endif
