/*
 * block.h - decoded blocks: made from guest bytes, found by where these lie in
 * host memory, linked to their successors.
 *
 * A block lies within one page and ends at a branch, a system instruction, the
 * end of the page or BLOCK_OPS; an instruction that crosses a page is a block of
 * its own. Guest pages are mapped once, so that a host address names a physical
 * one. A block is alive while its page's version is the one it was decoded under.
 *
 * The cache belongs to its vCPU's thread. It is an arena that is emptied as a
 * whole when full; then every block pointer is void, which `epoch` tells.
 */
#ifndef VMM_CPU_BLOCK_H
#define VMM_CPU_BLOCK_H

#include "cpu/codemap.h"
#include "cpu/decode.h"
#include "cpu/interp.h"

#define BLOCK_OPS 48

struct block {
	uint64_t hva; /* of its first byte */
	const _Atomic uint32_t *page_version;
	uint32_t version;
	uint8_t key;               /* enum decode_key */
	uint8_t nr_ops;            /* instructions; one op more where the last is no branch */
	uint16_t bytes;            /* of code */
	struct block *next[EDGES]; /* by c->edge: where it led last; never NULL */
	struct block *hash_next;

	/* An instruction across two pages: the second one's host address, else 0. */
	uint64_t second_hva;
	const _Atomic uint32_t *second_version_now;
	uint32_t second_version;

	struct op ops[];
};

struct block_cache;

int block_cache_create(struct cpu *c, int host_node); /* c->blocks; -ENOMEM */
void block_cache_destroy(struct cpu *c);
/* Forget everything. */
void block_cache_flush(struct cpu *c);
/* Changes when block pointers become void. */
unsigned block_cache_epoch(const struct cpu *c);

/* The block at s.rip, decoded if need be. NULL: a fault is pending. */
struct block *block_get(struct cpu *c);

/* How many instructions of @b lie within the code segment's limit. */
unsigned block_runnable(const struct cpu *c, const struct block *b);

/* The ops of the first @n instructions of @b, ended like a block; valid until the next call. */
const struct op *block_prefix(struct cpu *c, const struct block *b, unsigned n);

static inline bool block_alive(const struct block *b)
{
	return atomic_load_explicit(b->page_version, memory_order_acquire) == b->version;
}

#endif
