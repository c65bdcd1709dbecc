/*
 * gmem.h - guest-physical memory: which RAM lies where, and how C code reads
 * and writes it.
 *
 * Guests race with us on every byte. The accessors therefore make untorn
 * relaxed atomic accesses (naturally aligned pieces), and no caller keeps a
 * pointer it validates and re-reads. Whatever is read is hostile.
 *
 * The map is built before any vCPU runs and constant afterwards.
 */
#ifndef VMM_MEM_GMEM_H
#define VMM_MEM_GMEM_H

#include "core/util.h"

#define GMEM_SLOTS_MAX 160 /* 64 nodes, most in one range, plus the cut at 3 GiB */

struct gmem_slot {
	uint64_t gpa; /* page aligned, as is bytes */
	uint64_t bytes;
	uint8_t *hva;
	unsigned node; /* guest node */
};

struct gmem {
	struct gmem_slot slot[GMEM_SLOTS_MAX]; /* ascending by gpa, disjoint */
	unsigned nr_slots;
	uint64_t ram_bytes;
	uint64_t end; /* first GPA above all RAM */
};

/* -EEXIST on overlap, -ENOSPC, -EINVAL. Slots may come in any order. */
int gmem_add(struct gmem *m, uint64_t gpa, uint64_t bytes, void *hva, unsigned node);

/* The slot that holds @gpa, or NULL: not RAM. */
const struct gmem_slot *gmem_find(const struct gmem *m, uint64_t gpa);

/*
 * The host address of [gpa, gpa + bytes) when all of it lies in one slot, else
 * NULL. For loaders before the guest runs, and for page walks; others copy.
 */
void *gmem_ptr(const struct gmem *m, uint64_t gpa, uint64_t bytes);

/* Copy; may span slots. -EFAULT, with nothing copied, when any byte is not RAM. */
int gmem_read(const struct gmem *m, uint64_t gpa, void *buf, uint64_t bytes);
int gmem_write(const struct gmem *m, uint64_t gpa, const void *buf, uint64_t bytes);
int gmem_fill(const struct gmem *m, uint64_t gpa, int byte, uint64_t bytes);

/* Untorn accesses to RAM at a host address inside a slot, naturally aligned. */
static inline uint8_t gmem_load_u8(const void *p)
{
	return __atomic_load_n((const uint8_t *)p, __ATOMIC_RELAXED);
}

static inline uint32_t gmem_load_u32(const void *p)
{
	return __atomic_load_n((const uint32_t *)p, __ATOMIC_RELAXED);
}

static inline uint64_t gmem_load_u64(const void *p)
{
	return __atomic_load_n((const uint64_t *)p, __ATOMIC_RELAXED);
}

static inline void gmem_store_u8(void *p, uint8_t v)
{
	__atomic_store_n((uint8_t *)p, v, __ATOMIC_RELAXED);
}

static inline void gmem_store_u32(void *p, uint32_t v)
{
	__atomic_store_n((uint32_t *)p, v, __ATOMIC_RELAXED);
}

static inline void gmem_store_u64(void *p, uint64_t v)
{
	__atomic_store_n((uint64_t *)p, v, __ATOMIC_RELAXED);
}

static inline bool gmem_cas_u32(void *p, uint32_t expected, uint32_t v)
{
	return __atomic_compare_exchange_n((uint32_t *)p, &expected, v, false, __ATOMIC_SEQ_CST,
					   __ATOMIC_RELAXED);
}

static inline bool gmem_cas_u64(void *p, uint64_t expected, uint64_t v)
{
	return __atomic_compare_exchange_n((uint64_t *)p, &expected, v, false, __ATOMIC_SEQ_CST,
					   __ATOMIC_RELAXED);
}

#endif
