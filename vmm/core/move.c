/*
 * move.c - a running machine's threads and memory to other PUs and nodes.
 *
 * Moves are made from outside: the host binds a vCPU's thread wherever that is,
 * in guest code, asleep or parked, and copies pages under the guest's feet. So no
 * vCPU has to stop for them. vm->lock guards the plan, never a copy of memory.
 */
#include "core/vm.h"

#include <errno.h>

void vmm_get_plan(struct vm *vm, struct plan *out)
{
	lock_take(&vm->host, &vm->lock);
	*out = vm->plan;
	lock_release(&vm->host, &vm->lock);
}

/* With vCPUs of this machine; of others the embedder knows. vm->lock is held. */
static void note_move(struct plan *p, unsigned vcpu, unsigned pu, int host_node)
{
	struct plan_vcpu *moved = &p->vcpu[vcpu];

	moved->pu = pu;
	moved->host_node = host_node;
	moved->shared = false;
	for (unsigned i = 0; i < p->nr_vcpus; i++)
		if (i != vcpu && p->vcpu[i].pu == pu)
			moved->shared = p->vcpu[i].shared = true;
}

int vmm_move_vcpu(struct vm *vm, unsigned vcpu, unsigned pu, int host_node)
{
	const struct host *h = &vm->host;
	struct pu_set pus = { 0 };
	struct vcpu *c;
	int err = -EINVAL;

	if (vcpu >= vm->nr_vcpus || pu >= PU_SET_MAX)
		return -EINVAL;
	c = vm->vcpu[vcpu];
	pu_set_add(&pus, pu);
	lock_take(h, &vm->lock);
	if (c->thread)
		err = h->ops->thread_bind(h->ctx, c->thread, &pus);
	if (!err) {
		note_move(&vm->plan, vcpu, pu, host_node);
		halt_poll_set_limits(vm);
	}
	lock_release(h, &vm->lock);
	if (!err)
		vcpu_post(c, VCPU_MOVE);
	return err;
}

int vmm_move_memory(struct vm *vm, unsigned node, uint64_t offset, uint64_t bytes, int to)
{
	const struct host *h = &vm->host;
	struct host_mem *m;
	int err;

	if (node >= vm->nr_regions)
		return -EINVAL;
	m = &vm->region[node];
	if (!m->base)
		return -EINVAL; /* it has no memory */
	err = h->ops->mem_move(h->ctx, m, offset, bytes, to);
	if (err || offset + bytes < m->bytes)
		return err;
	lock_take(h, &vm->lock);
	m->node = to;
	vm->plan.memory[node].host_node = to;
	vm->plan.memory[node].nr_shares = 0; /* all of it is there now */
	lock_release(h, &vm->lock);
	return 0;
}

void vmm_note_io(struct vm *vm, const struct plan_io *io, unsigned nr)
{
	lock_take(&vm->host, &vm->lock);
	memcpy(vm->plan.io, io, nr * sizeof(*io));
	vm->plan.nr_io = nr;
	lock_release(&vm->host, &vm->lock);
}

const struct host_mem *vmm_memory(const struct vm *vm, unsigned node)
{
	return node < vm->nr_regions ? &vm->region[node] : NULL;
}
