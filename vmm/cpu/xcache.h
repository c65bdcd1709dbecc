/*
 * xcache.h - the translated code of a guest node, shared by its vCPUs: where it lies, how
 * blocks are found, and when memory is used again. Knows nothing of how code is made.
 *
 * A cache is one mapping of code, twice (W^X), and the records of its blocks, all on the
 * node. It is cut into spaces, and these into chunks. A vCPU takes a run of chunks by
 * a compare-and-swap and is alone to emit there, so its blocks and their records stand in
 * order. Blocks are found by a hash table a space; look-up takes no lock and never waits.
 *
 * Chains. A bucket leads to the block added last, that to the one before. Blocks are added
 * at the head alone, by compare-and-swap, when they are complete; whoever finds one finds
 * all of it. A dead block that a look-up meets is unlinked by a compare-and-swap of what
 * leads to it. Since nothing is added in the middle of a chain, a link only ever skips
 * dead ones; two look-ups that do so side by side may at worst bring back a block that
 * is dead, and stays so. Records are not used again while anybody may look at them.
 *
 * Epochs. Each epoch fills one space, and uses the blocks of this one and of those filled
 * before it, but for the oldest space, which nobody in the epoch uses any more. When the
 * space is full, whoever wants more turns: empties the oldest one and counts the epoch up.
 * A vCPU joins the current epoch before it looks anything up: it announces the epoch at its
 * seat and then reads it again, so that either it sees the turn, or who turns sees it there.
 * It leaves when it stops running, and joins anew when it comes by; with that it has given
 * up all addresses and numbers of blocks. Only when all are in the current epoch, or in
 * none, may somebody turn. Until then xcache_turn() refuses, and the vCPU does without:
 * nobody waits for anybody.
 *
 * What leads to a block without asking, a link, must not outlive it: it leads to blocks of
 * the same epoch or a later one.
 */
#ifndef VMM_CPU_XCACHE_H
#define VMM_CPU_XCACHE_H

#include "core/vcpu.h"

#include <stdatomic.h>

struct xblock; /* xlat_int.h */
struct xcache;

struct xcache_config {
	size_t bytes;       /* of code; whole pages */
	size_t fixed_bytes; /* of them, for what is never emptied */
	size_t block_bytes; /* the largest block */
	unsigned spaces;    /* 1: for one seat, and all is emptied at once */
	unsigned seats;
	int host_node;
};

/* -ENOMEM; -EINVAL: too small for a chunk a space. @h must live as long. */
int xcache_create(const struct host *h, const struct xcache_config *cfg, struct xcache **out);
void xcache_destroy(struct xcache *k);
const struct host_code *xcache_code(const struct xcache *k);

/* A vCPU's place at a cache; its thread's own. */
struct xseat {
	struct xcache *cache;
	_Atomic uint64_t *announced; /* = epoch, for others */
	uint64_t epoch;              /* 0: in none */
	uint64_t last;               /* the last one it was in */
	uint8_t *next, *end;         /* free in its run of chunks, as it is written */
	unsigned number;             /* of the next block there */
	unsigned numbers_end, run;
};

/* Seat @i, which no other has; @v is posted VCPU_CODE when others turn. NULL: it is not. */
void xcache_sit(struct xcache *k, unsigned i, struct vcpu *v, struct xseat *s);

/*
 * Joins the current epoch. True: it is not the one that this seat was last in, and all
 * numbers, pointers and addresses of blocks are void.
 */
bool xcache_join(struct xseat *s);
void xcache_leave(struct xseat *s);
/* Is it in the current epoch? Then joining changes nothing. */
bool xcache_is_current(const struct xseat *s);
/* Leaves if others have turned. */
void xcache_check(struct xseat *s);

/* What blocks are found by: where their bytes are, and @mode, 4 bits of whatever else. */
static inline uint64_t xcache_key(uint64_t hva, unsigned mode)
{
	return hva << 4 | mode;
}

/* --- joined only ------------------------------------------------------------------ */

/* A live block added in epoch @since or later, or NULL. */
struct xblock *xcache_find(struct xseat *s, uint64_t key, uint64_t since);

/* By its number, which translated code has told. */
struct xblock *xcache_block(const struct xcache *k, unsigned number);

/* The block that the code at @pc may belong to, or NULL. Async-signal-safe. */
const struct xblock *xcache_at(const struct xcache *k, uint64_t pc);

/* Makes sure that s->next has room for @bytes of code, and s->number stands. False: full. */
bool xcache_room(struct xseat *s, size_t bytes);

/*
 * Adds a copy of @draft as block s->number, whose code is [s->next, @end). Returns it, or
 * the same of this epoch by another vCPU that was faster: then nothing has been added.
 */
struct xblock *xcache_add(struct xseat *s, const struct xblock *draft, const uint8_t *end);

/* The current space is full: turn to the next. Unless this is refused, join again. */
enum xcache_turned {
	XCACHE_REFUSED,    /* others have not come by, or are about to turn */
	XCACHE_HAS_TURNED, /* somebody else was faster */
	XCACHE_TURNED
};

enum xcache_turned xcache_turn(struct xseat *s);

#endif
