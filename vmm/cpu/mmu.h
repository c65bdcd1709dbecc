/*
 * mmu.h - guest memory by linear address: software TLB, page walks, segmentation.
 *
 * Every access function returns false with a fault recorded in c->fault, and
 * then nothing has been read or written that the guest could tell.
 */
#ifndef VMM_CPU_MMU_H
#define VMM_CPU_MMU_H

#include "cpu/cpu.h"

enum mmu_access { MMU_READ, MMU_WRITE, MMU_EXEC };

int mmu_create(struct cpu *c, int host_node); /* c->mmu, c->tlb; -ENOMEM */
void mmu_destroy(struct cpu *c);

/*
 * Segment and canonical check: linear address of @bytes at @off in @seg, for
 * @access. Raises #GP or #SS. In 64-bit mode only FS and GS have a base.
 */
bool mmu_linear(struct cpu *c, unsigned seg, uint64_t off, unsigned bytes, enum mmu_access access,
		uint64_t *gva);

/*
 * The slow paths: walk, fill the TLB, split at pages, talk to devices. Any size to 64.
 * A non-canonical address raises #GP(0); where the operand was on the stack segment
 * the caller makes that #SS(0).
 */
bool mmu_read_slow(struct cpu *c, uint64_t gva, void *buf, unsigned bytes);
bool mmu_write_slow(struct cpu *c, uint64_t gva, const void *buf, unsigned bytes);

/*
 * A host pointer for a read-modify-write of @bytes at @gva, all rights checked
 * for writing; after the write call mmu_rmw_done(). NULL with no fault pending:
 * crosses a page or is not RAM; the caller reads, computes and writes, which is
 * atomic only as far as a device or a page crossing can be (mmu_rmw_lock()).
 */
void *mmu_rmw(struct cpu *c, uint64_t gva, unsigned bytes);
/* The store may have hit decoded code. */
void mmu_rmw_done(struct cpu *c, uint64_t gva, unsigned bytes);
/* One machine-wide lock for lock-prefixed accesses that cross a page or hit a device. */
void mmu_rmw_lock(struct cpu *c);
void mmu_rmw_unlock(struct cpu *c);

/* Descriptor tables, TSS, interrupt frames: supervisor rights whatever the CPL. */
bool mmu_sys_read(struct cpu *c, uint64_t gva, void *buf, unsigned bytes);
bool mmu_sys_write(struct cpu *c, uint64_t gva, const void *buf, unsigned bytes);

/* The frame of an event that is entered at @cpl, with its rights; alignment does not matter. */
bool mmu_push_frame(struct cpu *c, unsigned cpl, uint64_t gva, const void *buf, unsigned bytes);

/*
 * Make the TLB hold what an access needs. False: a fault is pending, or it never will (a
 * device, decoded code, a page crossing) and the access has to be made by other means.
 */
bool mmu_fill(struct cpu *c, uint64_t gva, unsigned bytes, enum mmu_access access);

/* Does [off, off + bytes) lie within the segment? */
bool mmu_within_limit(const struct segment *s, uint64_t off, unsigned bytes);

/* Instruction fetch: the GPA and host address of the page that holds @gva. NULL: fault. */
const uint8_t *mmu_fetch(struct cpu *c, uint64_t gva, uint64_t *gpa);

/* For debuggers: walk without side effects or faults. -EFAULT. */
int mmu_translate(struct cpu *c, uint64_t gva, uint64_t *gpa);

void mmu_flush_all(struct cpu *c);                /* global pages too */
void mmu_flush_context(struct cpu *c);            /* MOV CR3: not global pages */
void mmu_flush_page(struct cpu *c, uint64_t gva); /* INVLPG */
void mmu_invpcid(struct cpu *c, unsigned type, uint64_t pcid, uint64_t gva);
/*
 * CR0, CR4, EFER, MAXPHYADDR or the whole state changed (@flush), or just CPL or
 * RFLAGS.AC: choose ASIDs.
 */
void mmu_switch(struct cpu *c, bool flush);
/*
 * In PAE paging, may CR3 be @cr3? The page-directory pointers are read when it is
 * loaded, and must not have reserved bits; SDM vol. 3, 4.4.1.
 */
bool mmu_pdptes_valid(const struct cpu *c, uint64_t cr3);
/* VCPU_CODE: drop write tags of pages that have become code (codemap.h). */
void mmu_downgrade_code(struct cpu *c);
/* The same, of one page. */
void mmu_downgrade_page(struct cpu *c, uint64_t gpa);

static inline struct tlb_entry *tlb_slot(struct cpu *c, uint64_t gva)
{
	return &c->tlb[(gva >> PAGE_SHIFT) & (TLB_ENTRIES - 1)];
}

/*
 * One compare covers tag, rights and page crossing: the index comes from the
 * first byte, the tag from the last.
 */
static inline uint64_t tlb_key(const struct cpu *c, uint64_t gva, unsigned bytes)
{
	return ((gva + bytes - 1) & PAGE_MASK) | c->asid;
}

/* Where the TLB has [gva, gva + bytes) for reading; NULL: it has not, or they cross a page. */
static inline const uint8_t *mmu_readable(struct cpu *c, uint64_t gva, unsigned bytes)
{
	const struct tlb_entry *e = tlb_slot(c, gva);

	return e->read == tlb_key(c, gva, bytes) ? (uint8_t *)(uintptr_t)(gva + e->addend) : NULL;
}

/* The same with supervisor rights, whatever the CPL. */
static inline const uint8_t *mmu_sys_readable(struct cpu *c, uint64_t gva, unsigned bytes)
{
	const struct tlb_entry *e = tlb_slot(c, gva);
	bool has = e->read == (((gva + bytes - 1) & PAGE_MASK) | c->asid_super);

	return has ? (uint8_t *)(uintptr_t)(gva + e->addend) : NULL;
}

/*
 * Guest memory by host address, any alignment. Guests race on it, and the compiler
 * shall know nothing of it: one instruction each, untorn where aligned, in order.
 */
#define GUEST_ACCESSORS(bits)                                                                      \
	typedef uint##bits##_t __attribute__((may_alias, aligned(1))) guest_u##bits;               \
	static inline uint##bits##_t guest_load_u##bits(const void *p)                             \
	{                                                                                          \
		uint##bits##_t v;                                                                  \
                                                                                                   \
		__asm__ volatile("mov %1, %0" : "=r"(v) : "m"(*(const guest_u##bits *)p));         \
		return v;                                                                          \
	}                                                                                          \
	static inline void guest_store_u##bits(void *p, uint##bits##_t v)                          \
	{                                                                                          \
		__asm__ volatile("mov %1, %0" : "=m"(*(guest_u##bits *)p) : "r"(v));               \
	}

#define MMU_ACCESSORS(bits)                                                                        \
	GUEST_ACCESSORS(bits)                                                                      \
	static inline bool mmu_read_u##bits(struct cpu *c, uint64_t gva, uint##bits##_t *v)        \
	{                                                                                          \
		const struct tlb_entry *e = tlb_slot(c, gva);                                      \
                                                                                                   \
		if (likely(e->read == tlb_key(c, gva, bits / 8))) {                                \
			*v = guest_load_u##bits((void *)(uintptr_t)(gva + e->addend));             \
			return true;                                                               \
		}                                                                                  \
		return mmu_read_slow(c, gva, v, bits / 8);                                         \
	}                                                                                          \
	static inline bool mmu_write_u##bits(struct cpu *c, uint64_t gva, uint##bits##_t v)        \
	{                                                                                          \
		const struct tlb_entry *e = tlb_slot(c, gva);                                      \
                                                                                                   \
		if (likely(e->write == tlb_key(c, gva, bits / 8))) {                               \
			guest_store_u##bits((void *)(uintptr_t)(gva + e->addend), v);              \
			return true;                                                               \
		}                                                                                  \
		return mmu_write_slow(c, gva, &v, bits / 8);                                       \
	}

MMU_ACCESSORS(8)
MMU_ACCESSORS(16)
MMU_ACCESSORS(32)
MMU_ACCESSORS(64)

/*
 * Where the page that holds @gva can be accessed to its end. NULL: as mmu_fill() says.
 */
static inline void *mmu_page_ptr(struct cpu *c, uint64_t gva, enum mmu_access access)
{
	const struct tlb_entry *e = tlb_slot(c, gva);
	uint64_t key = tlb_key(c, gva, 1);

	if (unlikely((access == MMU_READ ? e->read : e->write) != key) &&
	    !mmu_fill(c, gva, 1, access))
		return NULL;
	return (void *)(uintptr_t)(gva + e->addend);
}

#endif
