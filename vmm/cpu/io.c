/*
 * io.c - port instructions. SDM vol. 1, ch. 19.
 *
 * A repeated one does a bounded number of items and comes back to the same RIP with
 * its registers up to date, so that interrupts get in between.
 */
#include "cpu/debug.h"
#include "cpu/mmu.h"
#include "cpu/segment.h"
#include "cpu/sys.h"

#define ITEMS_PER_GO  256 /* then the run loop has a look */
#define TSS_IO_BASE   0x66
#define TSS_BYTES_MIN 0x67

/* --- permission ------------------------------------------------------------------------- */

static bool refused(struct cpu *c)
{
	cpu_raise_error(c, EXC_GP, 0);
	return false;
}

/* One bit a port; the two bytes that may hold the bits are always read. */
static bool bitmap_allows(struct cpu *c, uint16_t port, unsigned bytes)
{
	const struct segment *tr = &c->s.tr;
	unsigned type = tr->attr & SEG_TYPE;
	uint16_t base, bits;
	uint32_t at;

	if ((type != DESC_TSS && type != DESC_TSS_BUSY) || tr->limit < TSS_BYTES_MIN)
		return refused(c);
	if (!mmu_sys_read(c, tr->base + TSS_IO_BASE, &base, 2))
		return false;
	at = base + port / 8u;
	if (at + 1 > tr->limit)
		return refused(c);
	if (!mmu_sys_read(c, tr->base + at, &bits, 2))
		return false;
	return !(bits >> (port & 7) & (BIT(bytes) - 1)) || refused(c);
}

static bool port_allowed(struct cpu *c, uint16_t port, unsigned bytes)
{
	if (!sys_protected(c) || c->cpl <= (c->s.rflags & RFLAGS_IOPL) >> 12)
		return true;
	return bitmap_allows(c, port, bytes);
}

/* --- one access ----------------------------------------------------------------------------- */

static uint64_t port_access(struct cpu *c, uint16_t port, unsigned bytes, bool write, uint64_t v)
{
	struct io_access io = {
		.addr = port, .size = (uint8_t)bytes, .is_write = write, .data = v
	};

	stat_add(&c->vcpu->stats, STAT_PIO, 1);
	if (!bus_access(&c->vm->pio, &io))
		stat_add(&c->vcpu->stats, STAT_BAD_ACCESSES, 1);
	debug_port(c, port, bytes);
	return io.data;
}

static uint16_t port_of(const struct cpu *c, const struct op *o)
{
	return (uint16_t)(o->rm == OP_NO_REG ? o->imm : c->s.gpr[RDX]);
}

enum sys_result sys_in(struct cpu *c, const struct op *o)
{
	uint16_t port = port_of(c, o);

	if (!port_allowed(c, port, o->size))
		return SYS_FAULT;
	sys_set_reg(c, RAX, o->size, port_access(c, port, o->size, false, 0));
	return SYS_NEXT;
}

enum sys_result sys_out(struct cpu *c, const struct op *o)
{
	uint16_t port = port_of(c, o);

	if (!port_allowed(c, port, o->size))
		return SYS_FAULT;
	port_access(c, port, o->size, true, sys_get_reg(c, RAX, o->size));
	return SYS_NEXT;
}

/* --- strings ------------------------------------------------------------------------------------
 */

static unsigned address_size(const struct cpu *c, const struct op *o)
{
	return o->flags & OP_ADDR16 ? 2 : o->flags & OP_ADDR32 ? 4 : 8;
}

static void advance(struct cpu *c, unsigned reg, unsigned address, unsigned bytes)
{
	uint64_t by = c->s.rflags & RFLAGS_DF ? -(uint64_t)bytes : bytes;

	sys_set_reg(c, reg, address, sys_get_reg(c, reg, address) + by);
}

/* The right to write is checked before the device is asked: reading it may have effects. */
static bool ins_item(struct cpu *c, const struct op *o, unsigned address)
{
	uint64_t off = sys_get_reg(c, RDI, address), gva, v;

	if (!mmu_linear(c, SEG_ES, off, o->size, MMU_WRITE, &gva))
		return false;
	if (!mmu_rmw(c, gva, o->size) && c->fault.pending)
		return false;
	v = port_access(c, (uint16_t)c->s.gpr[RDX], o->size, false, 0);
	if (!mmu_write_slow(c, gva, &v, o->size))
		return false;
	advance(c, RDI, address, o->size);
	return true;
}

static bool outs_item(struct cpu *c, const struct op *o, unsigned address)
{
	uint64_t off = sys_get_reg(c, RSI, address), gva, v = 0;

	if (!mmu_linear(c, o->seg, off, o->size, MMU_READ, &gva) ||
	    !mmu_read_slow(c, gva, &v, o->size))
		return false;
	port_access(c, (uint16_t)c->s.gpr[RDX], o->size, true, v);
	advance(c, RSI, address, o->size);
	return true;
}

static bool attention(struct cpu *c)
{
	return atomic_load_explicit(&c->vcpu->attention, memory_order_relaxed);
}

static enum sys_result repeat(struct cpu *c, const struct op *o,
			      bool (*item)(struct cpu *c, const struct op *o, unsigned address))
{
	unsigned address = address_size(c, o);

	if (!port_allowed(c, (uint16_t)c->s.gpr[RDX], o->size))
		return SYS_FAULT;
	if (!(o->flags & OP_REP))
		return item(c, o, address) ? SYS_NEXT : SYS_FAULT;
	for (unsigned i = 0; i < ITEMS_PER_GO; i++) {
		uint64_t count = sys_get_reg(c, RCX, address);

		if (!count)
			return SYS_NEXT;
		if (!item(c, o, address))
			return SYS_FAULT;
		sys_set_reg(c, RCX, address, count - 1);
		if (count == 1)
			return SYS_NEXT;
		if (attention(c) || c->slow_step)
			break;
	}
	return SYS_JUMP;
}

enum sys_result sys_ins(struct cpu *c, const struct op *o)
{
	return repeat(c, o, ins_item);
}

enum sys_result sys_outs(struct cpu *c, const struct op *o)
{
	return repeat(c, o, outs_item);
}
