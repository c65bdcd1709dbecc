/*
 * segment.h - descriptors and what loads them.
 *
 * Functions that return bool raise a fault when they return false. Selectors in
 * error codes have their RPL cleared; EXT is added where events are delivered.
 */
#ifndef VMM_CPU_SEGMENT_H
#define VMM_CPU_SEGMENT_H

#include "cpu/cpu.h"

/* Types of system descriptors; SDM vol. 3, table 3-2. */
enum {
	DESC_TSS16 = 1,
	DESC_LDT = 2,
	DESC_TSS16_BUSY = 3,
	DESC_CALL16 = 4,
	DESC_TASK_GATE = 5,
	DESC_INT16 = 6,
	DESC_TRAP16 = 7,
	DESC_TSS = 9,
	DESC_TSS_BUSY = 11,
	DESC_CALL = 12,
	DESC_INT = 14,
	DESC_TRAP = 15
};

/* Bits of the type of a code or data segment. */
#define TYPE_ACCESSED   BIT(0)
#define TYPE_RW         BIT(1) /* writable data, readable code */
#define TYPE_CONFORMING BIT(2)
#define TYPE_CODE       BIT(3)

static inline unsigned sel_rpl(uint16_t sel)
{
	return sel & 3;
}

static inline bool sel_is_null(uint16_t sel)
{
	return !(sel & ~3);
}

static inline unsigned seg_dpl(const struct segment *s)
{
	return (s->attr & SEG_DPL) >> SEG_DPL_SHIFT;
}

static inline bool seg_is_code(const struct segment *s)
{
	return (s->attr & (SEG_S | TYPE_CODE)) == (SEG_S | TYPE_CODE);
}

static inline bool seg_is_conforming_code(const struct segment *s)
{
	return seg_is_code(s) && (s->attr & TYPE_CONFORMING);
}

static inline bool seg_is_writable_data(const struct segment *s)
{
	return (s->attr & (SEG_S | TYPE_CODE | TYPE_RW)) == (SEG_S | TYPE_RW);
}

/* Raise @vector with @sel as the error code; false, for `return`. */
static inline bool seg_fault(struct cpu *c, uint8_t vector, uint16_t sel)
{
	cpu_raise_error(c, vector, sel & ~3u);
	return false;
}

/* The descriptor of a selector that is not null; outside its table: @vector. */
bool desc_read(struct cpu *c, uint16_t sel, uint8_t vector, struct segment *seg, uint64_t *raw);
/* The same; *@found says whether there is one. False only for page faults. */
bool desc_peek(struct cpu *c, uint16_t sel, struct segment *seg, uint64_t *raw, bool *found);
/* Bits 63:32 of the base or offset of a 16-byte descriptor. */
bool desc_read_high(struct cpu *c, uint16_t sel, uint8_t vector, uint32_t *high);
/* Set the accessed flag, unless it is set. */
bool desc_mark_accessed(struct cpu *c, const struct segment *seg);

/* MOV to, POP of and LxS to ES, SS, DS, FS, GS. */
bool seg_load(struct cpu *c, enum seg_reg r, uint16_t sel);
/* What SS may hold at @cpl; @vector (#GP, #TS) when it may not. */
bool seg_check_stack(struct cpu *c, uint16_t sel, unsigned cpl, uint8_t vector, struct segment *ss);
/* SS as long mode leaves it after entering @cpl through a gate. */
struct segment seg_null_stack(unsigned cpl);
/* A flat segment as SYSCALL and its kin make them. */
struct segment seg_flat(uint16_t sel, unsigned dpl, bool code, bool long_mode);
/*
 * Is the one for 64-bit code of @ring, which has been used before, what the GDT has at @sel,
 * and does the TLB know where? Otherwise desc_read() tells more.
 */
bool seg_flat_at_hand(struct cpu *c, uint16_t sel, unsigned ring, bool code, struct segment *seg);
void seg_load_real(struct segment *s, uint16_t sel);

/* The stack for @cpl in a 16- or 32-bit TSS: SS checked, not loaded. */
bool tss_stack(struct cpu *c, unsigned cpl, struct segment *ss, uint64_t *sp);
/* An RSP out of a 64-bit TSS: n of RSPn, or 3 + n of ISTn. */
bool tss_stack64(struct cpu *c, unsigned index, uint64_t *sp);

/*
 * Push @n slots of @bytes, slot[0] at the lowest address, on a stack that belongs to
 * @cpl and lies in @ss (NULL: 64 bits wide); moves *@sp. Slots are overwritten.
 */
bool stack_push(struct cpu *c, const struct segment *ss, unsigned cpl, uint64_t *sp, uint64_t *slot,
		unsigned n, unsigned bytes);

#endif
