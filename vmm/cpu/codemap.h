/*
 * codemap.h - which guest pages hold decoded code, machine-wide, and what
 * happens when somebody stores into them.
 *
 * Each page has a version. A block remembers the version its bytes were read
 * under and is dead once the page's differs. Stores reach pages with code only
 * by the slow path (no write tag in any TLB), which invalidates the page when the
 * bytes written overlap decoded ones (64-byte granules): the version changes, and
 * the page holds no code until somebody decodes from it again.
 *
 * Why nothing is missed. Hosts are x86: loads and stores of a thread become
 * visible in program order, but for a store that waits in the store buffer while
 * later loads go ahead. Atomic read-modify-writes and fences stop that.
 *
 *  1. A store that takes the slow path, against a decoder. The writer stores, has
 *     a full fence, and reads the granules; the decoder sets the granules by an
 *     atomic operation and then reads the bytes. If the writer sees no granules
 *     its load came before they were set, so its store did too, and the decoder
 *     reads what was stored. Otherwise the writer invalidates.
 *
 *  2. Invalidation, against a decoder. The decoder reads the version, sets the
 *     granules, reads the bytes. The writer bumps the version, clears the
 *     granules, bumps it again. A decoder whose granules the clearing may have
 *     swept away read the version before the second bump: its block is dead.
 *     The first bump is there so that no block of the page is alive when the page
 *     becomes writable.
 *
 *  3. A write tag being installed, against a decoder. The vCPU notes itself as
 *     the page's writer by an atomic operation and then reads the granules; the
 *     decoder sets the granules and then reads the writer. One of the two sees
 *     the other: there is no tag, or the decoder knows who may have one.
 *
 *  4. A write tag that exists already. The decoder drops its own at once. If
 *     another vCPU may have one, that vCPU gets VCPU_CODE, and until it answers
 *     the page is provisional: a copy of it is kept. The decoder does not wait.
 *     A store through the stale tag may go unseen until then, which is what
 *     processors do, too: they promise to see another's modification of code only
 *     after they serialise (SDM vol. 3, 8.1.3). Therefore codemap_verify(), called
 *     at serialising instructions and interrupts, compares provisional pages with
 *     their copies and invalidates those that differ; while there are none it is
 *     one relaxed load. Who learnt of a modification through memory sees the
 *     modified bytes, since the writer's stores are in order. A vCPU that answers
 *     drops its tags before it says so, and what it had stored is visible by
 *     then: a page equal to its copy after all have answered is settled. A vCPU
 *     answers before it decodes, so its own stores are never among the unseen.
 *
 *  5. A block that another vCPU has made. What it was made from may be older than what
 *     this vCPU has stored through a tag that it still has, and its own stores it must see
 *     at once. If it has such a tag it was asked to drop it before the block was made, and
 *     who finds the block sees the request: so whoever finds one and is asked answers, calls
 *     codemap_verify(), which compares the page, and looks again. From then on it has no
 *     tag, and to the stores of others applies what is said above.
 *
 * `writer` is who last may have had a write tag; it never goes back to nobody, and
 * once two vCPUs have written the page it means everybody. Most pages become code
 * on the vCPU that wrote them, or a long time after, and nobody has to be told.
 */
#ifndef VMM_CPU_CODEMAP_H
#define VMM_CPU_CODEMAP_H

#include "cpu/cpu.h"

#include <stdatomic.h>

struct codemap;

/* vm->gmem and the vCPUs must stand. -ENOMEM. */
int codemap_create(struct vm *vm, struct codemap **out);
void codemap_destroy(struct vm *vm, struct codemap *m);

/* The machine's, from any of its vCPUs. */
static inline struct codemap *codemap_of(const struct cpu *c)
{
	return c->codemap;
}

/*
 * RAM bytes [gpa, gpa + bytes), within one page, are about to be read by the decoder.
 * Returns the version to remember; one that is dead already when too many pages
 * are provisional: the block may run once.
 */
uint32_t codemap_mark(struct cpu *c, uint64_t gpa, unsigned bytes);
/* Where the page's version stands, as long as the machine. */
const _Atomic uint32_t *codemap_version(const struct codemap *m, uint64_t gpa);

/* May a TLB entry of this vCPU allow direct stores to this page? Notes that it does. */
bool codemap_may_write(struct cpu *c, uint64_t gpa);
/* Is there code on it? */
bool codemap_is_code(const struct codemap *m, uint64_t gpa);
/* May a block of the present version of the page begin at @gpa, in RAM? */
bool codemap_may_begin(const struct codemap *m, uint64_t gpa);

/*
 * After any store that did not go through a write tag: by this vCPU (sets
 * c->code_stale if it hit code), by a device or a loader (c NULL). Has the fence.
 */
void codemap_written(struct codemap *m, struct cpu *c, uint64_t gpa, uint64_t bytes);

/* Changes whenever a page's version has; every vCPU is posted VCPU_CODE then. */
uint32_t codemap_invalidations(const struct codemap *m);

/* At serialising instructions and interrupts. */
void codemap_verify(struct cpu *c);
/* VCPU_CODE: drop write tags of code pages, and say so. Between instructions. */
void codemap_answer(struct cpu *c);
/* Is there a request that this vCPU has not answered? */
bool codemap_is_asked(const struct cpu *c);

#endif
