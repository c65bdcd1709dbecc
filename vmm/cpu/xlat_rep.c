/*
 * xlat_rep.c - REP MOVS and REP STOS called from translated code, with the guest's
 * vector registers live: nothing here touches one.
 */
#include "cpu/mmu.h"
#include "cpu/xlat_int.h"

static uint64_t room(uint64_t gva, unsigned shift)
{
	return (PAGE_SIZE - (gva & ~PAGE_MASK)) >> shift;
}

/* The host's own instructions: one element after another, as the guest's would be. */
static void move(void *to, const void *from, uint64_t n, unsigned shift)
{
	switch (shift) {
	case 0:
		asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n)::"memory");
		break;
	case 1:
		asm volatile("rep movsw" : "+D"(to), "+S"(from), "+c"(n)::"memory");
		break;
	case 2:
		asm volatile("rep movsl" : "+D"(to), "+S"(from), "+c"(n)::"memory");
		break;
	default:
		asm volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(n)::"memory");
	}
}

static void store(void *to, uint64_t value, uint64_t n, unsigned shift)
{
	switch (shift) {
	case 0:
		asm volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(value) : "memory");
		break;
	case 1:
		asm volatile("rep stosw" : "+D"(to), "+c"(n) : "a"(value) : "memory");
		break;
	case 2:
		asm volatile("rep stosl" : "+D"(to), "+c"(n) : "a"(value) : "memory");
		break;
	default:
		asm volatile("rep stosq" : "+D"(to), "+c"(n) : "a"(value) : "memory");
	}
}

enum xcall xlat_rep_movs(struct cpu *c, unsigned shift)
{
	uint64_t *rcx = &c->s.gpr[RCX], *rsi = &c->s.gpr[RSI], *rdi = &c->s.gpr[RDI];

	if (c->s.rflags & RFLAGS_DF)
		return xcall_missed(c, 0, 1);
	while (*rcx) {
		uint64_t n = MIN(*rcx, MIN(room(*rsi, shift), room(*rdi, shift)));
		const void *from = mmu_page_ptr(c, *rsi, MMU_READ);
		void *to = n && from ? mmu_page_ptr(c, *rdi, MMU_WRITE) : NULL;

		if (!to || !n || mmu_page_ptr(c, *rsi, MMU_READ) != from)
			return xcall_missed(c, *rdi, 1);
		move(to, from, n, shift);
		*rcx -= n;
		*rsi += n << shift;
		*rdi += n << shift;
		if (unlikely(atomic_load_explicit(&c->vcpu->attention, memory_order_relaxed)))
			break;
	}
	return *rcx ? xcall_missed(c, 0, 1) : XCALL_BACK;
}

enum xcall xlat_rep_stos(struct cpu *c, unsigned shift)
{
	uint64_t *rcx = &c->s.gpr[RCX], *rdi = &c->s.gpr[RDI];

	if (c->s.rflags & RFLAGS_DF)
		return xcall_missed(c, 0, 1);
	while (*rcx) {
		uint64_t n = MIN(*rcx, room(*rdi, shift));
		void *to = mmu_page_ptr(c, *rdi, MMU_WRITE);

		if (!to || !n)
			return xcall_missed(c, *rdi, 1);
		store(to, c->s.gpr[RAX], n, shift);
		*rcx -= n;
		*rdi += n << shift;
		if (unlikely(atomic_load_explicit(&c->vcpu->attention, memory_order_relaxed)))
			break;
	}
	return *rcx ? xcall_missed(c, 0, 1) : XCALL_BACK;
}
