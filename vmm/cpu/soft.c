/* soft.c - the software engine's machine-wide state: made, found, destroyed. */
#include "cpu/soft.h"

#include "cpu/xlat.h"

#include <errno.h>
#include <stdlib.h>

#define RNG_SEED 0x616c63617a6172ull /* any will do, so long as it stays */

int soft_vm_create(struct vm *vm)
{
	struct soft_vm *sv = calloc(1, sizeof(*sv));
	int err;

	if (!sv)
		return -ENOMEM;
	sv->rng = RNG_SEED;
	vm->engine_data = sv;
	err = codemap_create(vm, &sv->codemap);
	if (!err)
		err = ipi_create(vm, &sv->ipi);
	if (err)
		soft_vm_destroy(vm);
	return err;
}

void soft_vm_destroy(struct vm *vm)
{
	struct soft_vm *sv = soft_of(vm);

	if (!sv)
		return;
	xlat_vm_destroy(vm);
	ipi_destroy(vm, sv->ipi);
	if (sv->codemap)
		codemap_destroy(vm, sv->codemap);
	free(sv);
	vm->engine_data = NULL;
}

struct ipi *vm_ipi(struct vm *vm)
{
	return soft_of(vm)->ipi;
}
