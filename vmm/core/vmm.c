/*
 * vmm.c - building a machine and taking it apart; the small public calls.
 *
 * vmm_create() builds in one order, vmm_destroy() takes apart in the reverse
 * one and copes with whatever is missing, so that every error path is the same.
 */
#include "vmm.h"

#include "boot/layout.h"
#include "core/device_core.h"
#include "core/vm.h"
#include "mem/ram.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

static int check_config(const struct vmm_config *cfg, char *why, size_t why_bytes)
{
	const struct plan *p = cfg->plan;

	if (!cfg->name || !cfg->engine || !p || !p->nr_vcpus || p->nr_vcpus > VMM_VCPUS_MAX ||
	    !p->nr_memory || p->nr_memory > PLAN_NODES_MAX || p->nr_vcpus != cfg->topo.vcpus ||
	    p->nr_memory != cfg->topo.nodes) {
		snprintf(why, why_bytes, "plan and topology disagree: %u and %u CPUs",
			 p ? p->nr_vcpus : 0, cfg->topo.vcpus);
		return -EINVAL;
	}
	if (cfg->clock == CLOCK_ICOUNT && p->nr_vcpus != 1) {
		snprintf(why, why_bytes,
			 "clock icount was asked for with %u CPUs: instructions are one clock only "
			 "on one CPU; use --cpus 1 or --clock host",
			 p->nr_vcpus);
		return -EINVAL;
	}
	return 0;
}

/* --- memory ----------------------------------------------------------------- */

static struct ram ram_of(struct vm *vm)
{
	return (struct ram){ .host = &vm->host,
			     .plan = &vm->plan,
			     .huge_pays = vm->engine->second_level,
			     .region = vm->region };
}

static int map_memory(struct vm *vm, char *why, size_t why_bytes)
{
	uint64_t used[PLAN_NODES_MAX] = { 0 };
	struct ram ram = ram_of(vm);
	struct layout layout;
	int err = ram_map(&ram, why, why_bytes);

	if (err)
		return err;
	vm->nr_regions = vm->plan.nr_memory;
	layout_ram(&layout, &vm->topo);
	for (unsigned i = 0; i < layout.nr_ranges; i++) {
		const struct layout_range *r = &layout.range[i];

		if (used[r->node] + r->bytes > vm->region[r->node].bytes)
			return -EINVAL; /* the plan gave this node less than the topology */
		err = gmem_add(&vm->gmem, r->gpa, r->bytes,
			       (uint8_t *)vm->region[r->node].base + used[r->node], r->node);
		if (err)
			return err;
		used[r->node] += r->bytes;
	}
	return 0;
}

static int populate_memory(struct vm *vm, char *why, size_t why_bytes)
{
	const struct ram_populate how = {
		.all = vm->cfg.prefault,
		.progress = vm->cfg.progress,
		.arg = vm->cfg.arg,
	};
	struct ram ram = ram_of(vm);

	return ram_populate(&ram, &how, &vm->populated, why, why_bytes);
}

/* --- parts ------------------------------------------------------------------- */

static int create_vcpus(struct vm *vm)
{
	const struct host *h = &vm->host;

	vm->vcpu = calloc(vm->plan.nr_vcpus, sizeof(struct vcpu *));
	if (!vm->vcpu)
		return -ENOMEM;
	for (unsigned i = 0; i < vm->plan.nr_vcpus; i++) {
		const struct plan_vcpu *pv = &vm->plan.vcpu[i];
		struct vcpu *c = h->ops->alloc(h->ctx, vcpu_bytes(vm->engine), pv->host_node);

		if (!c)
			return -ENOMEM;
		c->vm = vm;
		c->id = i;
		c->apic_id = vm->topo.vcpu[i].apic_id;
		c->guest_node = pv->guest_node;
		c->host_node = pv->host_node;
		pu_set_add(&c->pus, pv->pu);
		c->sched.id = i;
		c->sched.pu = pv->pu;
		sched_dedicated.admit(&c->sched);
		vm->vcpu[i] = c;
		vm->nr_vcpus++;
	}
	halt_poll_set_limits(vm);
	return 0;
}

static int create_device(struct vm *vm, const struct device_type *t, char *why, size_t why_bytes)
{
	int err = -ENOSPC;

	if (vm->nr_devs < VM_DEVICES_MAX)
		err = dev_create(vm, t, vm->plan.memory[0].host_node, &vm->dev[vm->nr_devs]);
	if (err) {
		snprintf(why, why_bytes, "cannot create device %s: %s", t->name, strerror(-err));
		return err;
	}
	vm->nr_devs++;
	return 0;
}

static int create_devices(struct vm *vm, char *why, size_t why_bytes)
{
	int err = 0;

	for (const struct device_type *const *t = device_types; *t && !err; t++)
		err = create_device(vm, *t, why, why_bytes);
	if (!err && vm->cfg.test_device)
		err = create_device(vm, &pci_test_type, why, why_bytes);
	if (err)
		return err;
	for (unsigned i = 0; i < vm->nr_devs; i++)
		dev_reset(vm->dev[i]);
	return 0;
}

/* Pages by thousands are had cheaper at once than by a fault each; who has none faults later. */
static void will_fill(void *arg, const void *hva, uint64_t bytes)
{
	const struct vm *vm = arg;
	const struct host *h = &vm->host;
	uint64_t at = (uint64_t)(uintptr_t)hva & PAGE_MASK;
	uint64_t end = ALIGN_UP((uint64_t)(uintptr_t)hva + bytes, PAGE_SIZE);

	for (unsigned i = 0; i < vm->nr_regions; i++) {
		const struct host_mem *m = &vm->region[i];
		uint64_t offset = at - (uint64_t)(uintptr_t)m->base;

		if (m->base && offset < m->bytes)
			(void)h->ops->mem_prefault(h->ctx, m, offset,
						   MIN(end - at, m->bytes - offset));
	}
}

static int load_images(struct vm *vm, char *why, size_t why_bytes)
{
	const struct vmm_config *cfg = &vm->cfg;
	struct boot_request *b = &vm->boot;

	*b = (struct boot_request){
		.gmem = &vm->gmem,
		.topo = &vm->topo,
		.kernel = cfg->kernel,
		.initrd = cfg->initrd,
		.nr_modules = cfg->nr_modules,
		.cmdline = cfg->cmdline ? cfg->cmdline : "",
		.will_fill = will_fill,
		.arg = vm,
	};
	memcpy(b->module, cfg->module, sizeof(b->module));
	cpu_state_reset(&vm->boot_state, true);
	return boot_load(b, &vm->boot_state, why, why_bytes);
}

static int build(struct vm *vm, char *why, size_t why_bytes)
{
	struct cpuid_request creq = { .topo = &vm->topo };
	int err;

	err = check_config(&vm->cfg, why, why_bytes);
	if (err)
		return err;
	vm->plan = *vm->cfg.plan;
	vm->cfg.plan = &vm->plan;

	err = clock_init(&vm->clock, &vm->host, vm->cfg.clock);
	if (err)
		return err;
	err = topo_build(&vm->topo, &vm->cfg.topo, why, why_bytes);
	if (err)
		return err;
	err = map_memory(vm, why, why_bytes);
	if (err)
		return err;

	creq.tsc_khz = vm->clock.khz;
	creq.gpa_end = layout_window64(vm->gmem.end) + LAYOUT_WINDOW64_BYTES;
	creq.overrides = vm->cfg.cpu_overrides;
	err = cpuid_build(&vm->cpuid, &creq, why, why_bytes);
	if (err)
		return err;

	err = create_vcpus(vm);
	if (err)
		return err;
	if (vm->cfg.clock == CLOCK_ICOUNT)
		vm->clock.attention = &vm->vcpu[0]->attention;
	err = populate_memory(vm, why, why_bytes);
	if (err)
		return err;
	err = vm->engine->create(vm);
	if (err)
		return err;
	vm->engine_made = true;
	err = create_devices(vm, why, why_bytes);
	if (err)
		return err;
	return load_images(vm, why, why_bytes);
}

int vmm_create(const struct host *host, const struct vmm_config *cfg, struct vm **out, char *why,
	       size_t why_bytes)
{
	/* Zeroed, and aligned as the processor state in it must be. */
	struct vm *vm = host->ops->alloc(host->ctx, sizeof(*vm), HOST_NODE_ANY);
	int err;

	if (why_bytes)
		why[0] = '\0';
	if (!vm) {
		snprintf(why, why_bytes, "no memory for the machine");
		return -ENOMEM;
	}
	vm->host = *host;
	vm->cfg = *cfg;
	vm->engine = cfg->engine;
	vm->created_ns = host->ops->now_ns(host->ctx);
	err = build(vm, why, why_bytes);
	if (err) {
		if (why_bytes && !why[0] && vm->refusal[0])
			snprintf(why, why_bytes, "%s", vm->refusal);
		else if (why_bytes && !why[0])
			snprintf(why, why_bytes, "cannot build the machine: %s", strerror(-err));
		vmm_destroy(vm);
		return err;
	}
	*out = vm;
	return 0;
}

/* Devices go before vCPUs: until their timers are gone they may post to one. */
void vmm_destroy(struct vm *vm)
{
	struct host host;
	const struct host *h = &host;
	struct ram ram;

	if (!vm)
		return;
	host = vm->host;
	ram = ram_of(vm);
	vm_end_threads(vm);
	for (unsigned i = vm->nr_devs; i-- > 0;)
		dev_destroy(vm->dev[i]);
	for (unsigned i = 0; i < vm->nr_vcpus; i++) {
		if (vm->vcpu[i]->engine_data)
			vm->engine->vcpu_destroy(vm->vcpu[i]);
	}
	if (vm->engine_made)
		vm->engine->destroy(vm);
	for (unsigned i = 0; i < vm->nr_vcpus; i++)
		h->ops->free(h->ctx, vm->vcpu[i], vcpu_bytes(vm->engine));
	ram_unmap(&ram);
	free(vm->vcpu);
	free((void *)atomic_load(&vm->dirty));
	h->ops->free(h->ctx, vm, sizeof(*vm));
}

/* --- small calls -------------------------------------------------------------- */

void vmm_nmi(struct vm *vm, unsigned vcpu)
{
	vm->engine->nmi(vm->vcpu[vcpu]);
}

size_t vmm_console_input(struct vm *vm, const uint8_t *buf, size_t bytes)
{
	for (unsigned i = 0; i < vm->nr_devs; i++)
		if (vm->dev[i]->type->input)
			return dev_input(vm->dev[i], buf, bytes);
	return 0;
}

unsigned vmm_vcpus(const struct vm *vm)
{
	return vm->nr_vcpus;
}

uint64_t vmm_stat(struct vm *vm, unsigned vcpu, enum vcpu_stat id)
{
	return stat_get(&vm->vcpu[vcpu]->stats, id);
}

const struct mem_report *vmm_populated(const struct vm *vm)
{
	return &vm->populated;
}

int vmm_memory_where(struct vm *vm, unsigned guest_node, struct host_where *out)
{
	const struct host *h = &vm->host;
	const struct host_mem *m;

	if (guest_node >= vm->nr_regions)
		return -EINVAL;
	memset(out, 0, sizeof(*out));
	m = &vm->region[guest_node];
	return m->base ? h->ops->mem_where(h->ctx, m, 0, m->bytes, out) : 0;
}

uint64_t vmm_startup_ns(const struct vm *vm)
{
	uint64_t first = atomic_load(&vm->first_insn_ns);

	return first > vm->created_ns ? first - vm->created_ns : 0;
}

void vmm_get_state(struct vm *vm, unsigned vcpu, struct cpu_state *s)
{
	vm->engine->get_state(vm->vcpu[vcpu], s);
}

int vmm_set_state(struct vm *vm, unsigned vcpu, const struct cpu_state *s)
{
	return vm->engine->set_state(vm->vcpu[vcpu], s);
}

enum copy_dir { GVA_READ, GVA_WRITE };

static int copy_gva(struct vm *vm, unsigned vcpu, enum copy_dir dir, uint64_t gva, uint8_t *buf,
		    size_t bytes)
{
	while (bytes) {
		size_t n = MIN(bytes, PAGE_SIZE - (gva & ~PAGE_MASK));
		uint64_t gpa;
		int err = vm->engine->translate(vm->vcpu[vcpu], gva, &gpa);

		if (!err && dir == GVA_READ)
			err = gmem_read(&vm->gmem, gpa, buf, n);
		else if (!err)
			err = gmem_write(&vm->gmem, gpa, buf, n);
		if (err)
			return err;
		if (dir == GVA_WRITE)
			vm->engine->code_changed(vm, gpa, n);
		gva += n;
		buf += n;
		bytes -= n;
	}
	return 0;
}

int vmm_read_gva(struct vm *vm, unsigned vcpu, uint64_t gva, void *buf, size_t bytes)
{
	return copy_gva(vm, vcpu, GVA_READ, gva, buf, bytes);
}

/* @buf is only read from: the shared walk takes both directions. */
int vmm_write_gva(struct vm *vm, unsigned vcpu, uint64_t gva, const void *buf, size_t bytes)
{
	return copy_gva(vm, vcpu, GVA_WRITE, gva, (uint8_t *)(uintptr_t)buf, bytes);
}

int vmm_debug_point(struct vm *vm, bool add, enum debug_point_kind kind, uint64_t gva,
		    unsigned bytes)
{
	return vm->engine->debug_point(vm, add, kind, gva, bytes);
}
