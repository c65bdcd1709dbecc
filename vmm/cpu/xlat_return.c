/*
 * xlat_return.c - the return stack; see xlat_jump.c for what it is good for.
 *
 * Translated code has it in the host's stack pointer, C code finds it in x.return_sp.
 * It belongs to the vCPU's thread. The guest cannot reach it; signals are handled on
 * another stack.
 */
#include "cpu/xlat_int.h"

#include <errno.h>

enum { RETURN_CODE, RETURN_TAG, RETURN_BLOCK_RIP };

int xret_create(struct cpu *c, int host_node)
{
	const struct host *h = &c->vm->host;
	struct xlat *x = c->xlat;
	uint64_t *p, *end;

	x->returns = h->ops->alloc(h->ctx, RETURN_BYTES, host_node);
	if (!x->returns)
		return -ENOMEM;
	end = (uint64_t *)(void *)(x->returns + RETURN_BYTES);
	p = end - (RETURN_SEARCH + 1) * RETURN_ENTRY / sizeof(*p);
	c->x.return_sp = c->x.return_base = (uint64_t)(uintptr_t)p;
	c->x.return_limit = c->x.return_base - RETURN_ENTRIES * RETURN_ENTRY;
	while (p < end)
		*p++ = UINT64_MAX;
	return 0;
}

void xret_destroy(struct cpu *c)
{
	const struct host *h = &c->vm->host;

	if (c->xlat->returns)
		h->ops->free(h->ctx, c->xlat->returns, RETURN_BYTES);
}

/* The entry that ends at @at; NULL: there is none. */
static uint64_t *entry_below(const struct cpu *c, uint64_t at)
{
	at -= RETURN_ENTRY;
	return at >= c->x.return_sp ? (uint64_t *)(uintptr_t)at : NULL;
}

/*
 * Entries stay where they are, with tags that no code has: above the top there may be the
 * address to which the caller returns.
 */
void xret_forget(struct cpu *c)
{
	uint64_t at = c->x.return_base, *p;

	for (; (p = entry_below(c, at)); at -= RETURN_ENTRY)
		p[RETURN_TAG] = UINT64_MAX;
}

/* In all address spaces: what a tag has above an address's 48 bits does not matter. */
void xret_forget_page(struct cpu *c, uint64_t gva)
{
	uint64_t at = c->x.return_base, *p;

	for (; (p = entry_below(c, at)); at -= RETURN_ENTRY)
		if (!((p[RETURN_TAG] ^ gva) << 16 >> (16 + PAGE_SHIFT)))
			p[RETURN_TAG] = UINT64_MAX;
}

void xret_make_room(struct cpu *c)
{
	uint64_t bytes = RETURN_ENTRIES / 2 * RETURN_ENTRY, sp = c->x.return_base - bytes;

	memmove((void *)(uintptr_t)sp, (const void *)(uintptr_t)c->x.return_sp, bytes);
	c->x.return_sp = sp;
}
