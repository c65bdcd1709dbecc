/*
 * stub_wide.c - operands wider than a register, up to a page: all of one or nothing.
 *
 * RAM is copied page by page; what is none, or holds decoded code, in pieces that mmu.h
 * takes. Translated code calls for it, too: general registers alone.
 */
#include "cpu/mmu.h"
#include "cpu/stub_run.h"

#define PIECE_BYTES 64u

static void copy_bytes(void *to, const void *from, unsigned bytes)
{
	uint64_t n = bytes;

	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

static unsigned bytes_in_page(uint64_t gva, unsigned bytes)
{
	return (unsigned)MIN((uint64_t)bytes, PAGE_SIZE - (gva & ~PAGE_MASK));
}

static bool read_pieces(struct cpu *c, uint64_t gva, uint8_t *buf, unsigned bytes)
{
	for (unsigned done = 0; done < bytes; done += PIECE_BYTES)
		if (!mmu_read_slow(c, gva + done, buf + done, MIN(PIECE_BYTES, bytes - done)))
			return false;
	return true;
}

static bool write_pieces(struct cpu *c, uint64_t gva, const uint8_t *buf, unsigned bytes)
{
	for (unsigned done = 0; done < bytes; done += PIECE_BYTES)
		if (!mmu_write_slow(c, gva + done, buf + done, MIN(PIECE_BYTES, bytes - done)))
			return false;
	return true;
}

bool stub_read(struct cpu *c, uint64_t gva, void *buf, unsigned bytes)
{
	uint8_t *to = buf;
	unsigned n;

	if (bytes <= PIECE_BYTES)
		return mmu_read_slow(c, gva, buf, bytes);
	for (; bytes; bytes -= n, gva += n, to += n) {
		const void *from = mmu_page_ptr(c, gva, MMU_READ);

		n = bytes_in_page(gva, bytes);
		if (from)
			copy_bytes(to, from, n);
		else if (c->fault.pending || !read_pieces(c, gva, to, n))
			return false;
	}
	return true;
}

bool stub_writable(struct cpu *c, uint64_t gva, unsigned bytes)
{
	/* NULL without a fault is a device, which takes anything. */
	if (!mmu_rmw(c, gva, 1) && c->fault.pending)
		return false;
	return mmu_rmw(c, gva + bytes - 1, 1) || !c->fault.pending;
}

bool stub_write(struct cpu *c, uint64_t gva, const void *buf, unsigned bytes)
{
	const uint8_t *from = buf;
	unsigned n;

	if (bytes <= PIECE_BYTES)
		return mmu_write_slow(c, gva, buf, bytes);
	if (!stub_writable(c, gva, bytes))
		return false;
	for (; bytes; bytes -= n, gva += n, from += n) {
		void *to = mmu_page_ptr(c, gva, MMU_WRITE);

		n = bytes_in_page(gva, bytes);
		if (to)
			copy_bytes(to, from, n);
		else if (c->fault.pending || !write_pieces(c, gva, from, n))
			return false;
	}
	return true;
}
