/*
 * dirty.c - which pages of guest memory are written while the guest runs.
 *
 * Engines keep account of what vCPUs write, each in its way; this of what devices do,
 * and puts the two together. Slots follow each other in the bitmap, each from a new
 * word on. The device's bitmap stays until the machine goes: a device that has just
 * found it may be on its way there.
 */
#include "core/vm.h"

#include <errno.h>
#include <stdlib.h>

#define WORD_PAGES 64

static size_t slot_words(const struct gmem_slot *s)
{
	return (s->bytes / PAGE_SIZE + WORD_PAGES - 1) / WORD_PAGES;
}

size_t vmm_dirty_words(const struct vm *vm)
{
	size_t words = 0;

	for (unsigned i = 0; i < vm->gmem.nr_slots; i++)
		words += slot_words(&vm->gmem.slot[i]);
	return words;
}

int vmm_dirty_begin(struct vm *vm)
{
	size_t words = vmm_dirty_words(vm);
	_Atomic uint64_t *dirty = atomic_load(&vm->dirty);

	if (!vm->engine->dirty_log)
		return -ENOTSUP;
	if (!dirty)
		dirty = calloc(MAX(words, 1u), sizeof(*dirty));
	if (!dirty)
		return -ENOMEM;
	for (size_t i = 0; i < words; i++)
		atomic_store_explicit(&dirty[i], 0, memory_order_relaxed);
	atomic_store(&vm->dirty, dirty);
	vm->dirty_on = true;
	return vm->engine->dirty_log(vm, true);
}

void vmm_dirty_end(struct vm *vm)
{
	if (vm->dirty_on)
		vm->engine->dirty_log(vm, false);
	vm->dirty_on = false;
}

int vmm_dirty_take(struct vm *vm, uint64_t *bitmap)
{
	_Atomic uint64_t *dirty = atomic_load(&vm->dirty);

	if (!vm->dirty_on)
		return -EINVAL;
	for (unsigned i = 0; i < vm->gmem.nr_slots; i++) {
		size_t words = slot_words(&vm->gmem.slot[i]);
		int err = vm->engine->dirty_take(vm, i, bitmap);

		if (err)
			return err;
		for (size_t n = 0; n < words; n++)
			*bitmap++ |= atomic_exchange(dirty++, 0);
	}
	return 0;
}

static void mark(const struct gmem *m, _Atomic uint64_t *dirty, uint64_t gpa)
{
	for (unsigned i = 0; i < m->nr_slots; i++) {
		const struct gmem_slot *s = &m->slot[i];
		uint64_t page = (gpa - s->gpa) / PAGE_SIZE;

		if (gpa >= s->gpa && gpa - s->gpa < s->bytes) {
			atomic_fetch_or(&dirty[page / WORD_PAGES], BIT64(page % WORD_PAGES));
			return;
		}
		dirty += slot_words(s);
	}
}

/* After the bytes are there: who takes the bit finds them. */
void vm_dirtied(struct vm *vm, uint64_t gpa, uint64_t bytes)
{
	_Atomic uint64_t *dirty = atomic_load(&vm->dirty);

	if (likely(!dirty) || !bytes)
		return;
	for (uint64_t at = gpa & PAGE_MASK; at < gpa + bytes; at += PAGE_SIZE)
		mark(&vm->gmem, dirty, at);
}
