/*
 * vm.c - the life of a machine: parking, requests, and their service.
 *
 * Whoever wants something of the whole machine raises `parked` and posts
 * VCPU_PARK; each vCPU's thread then enters vm_park(), and the last one to come
 * serves the pending request while the others sleep. So no extra thread is
 * needed, and a request can be made from anywhere, locks held or not.
 */
#include "core/vm.h"

#include "core/device_core.h"
#include "core/sample.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

/* vm->lock is held or nobody else is there. */
static void announce(struct vm *vm)
{
	atomic_fetch_add(&vm->change, 1);
	vm->host.ops->wake(vm->host.ctx, &vm->change, UINT32_MAX);
}

static void post_all(struct vm *vm, uint32_t events)
{
	for (unsigned i = 0; i < vm->nr_vcpus; i++)
		vcpu_post(vm->vcpu[i], events);
}

/*
 * Parked threads read park_gen, look at everything, then sleep on park_gen: who
 * changes anything they look at bumps it afterwards.
 */
static void wake_parked(struct vm *vm)
{
	atomic_fetch_add(&vm->park_gen, 1);
	vm->host.ops->wake(vm->host.ctx, &vm->park_gen, UINT32_MAX);
}

static void park_all(struct vm *vm)
{
	atomic_fetch_add(&vm->parked, 1);
	wake_parked(vm);
	post_all(vm, VCPU_PARK);
}

static void unpark_all(struct vm *vm)
{
	atomic_fetch_sub(&vm->parked, 1);
	wake_parked(vm);
}

static bool is_reboot(const struct vm *vm, uint64_t req)
{
	enum vm_request r = (enum vm_request)(uint32_t)req;

	return vm->cfg.reboot && (r == VM_REQ_RESET || r == VM_REQ_TRIPLE_FAULT);
}

/* A guest that reboots again and again must not shut out what would end it. */
void vm_request(struct vm *vm, enum vm_request r, int code)
{
	uint64_t want = (uint64_t)(uint32_t)code << 32 | (uint32_t)r, pending = 0;

	while (!atomic_compare_exchange_strong(&vm->request, &pending, want))
		if (!is_reboot(vm, pending) || is_reboot(vm, want))
			return;
	if (!pending)
		park_all(vm);
}

static void reset_machine(struct vm *vm)
{
	const struct boot_request *b = &vm->boot;
	char why[sizeof(vm->result.detail)] = "";
	int err;

	for (unsigned i = 0; i < vm->nr_devs; i++)
		dev_reset(vm->dev[i]);
	for (unsigned i = 0; i < vm->nr_vcpus; i++)
		vm->engine->reset(vm->vcpu[i]);
	cpu_state_reset(&vm->boot_state, true);
	err = boot_load(b, &vm->boot_state, why, sizeof(why));
	for (unsigned i = 0; i < b->gmem->nr_slots; i++)
		vm->engine->code_changed(vm, b->gmem->slot[i].gpa, b->gmem->slot[i].bytes);
	if (!err)
		err = vm->engine->set_state(vm->vcpu[0], &vm->boot_state);
	if (err) {
		vm->result.end = VMM_ERROR;
		memcpy(vm->result.detail, why, sizeof(why));
	}
	vm->result.code = err;
	vm->result.resets++;
}

/* Every vCPU is parked; vm->lock is not held, vm->carrying_out keeps others away. */
static void serve_request(struct vm *vm)
{
	static const enum vmm_end end_of[] = {
		[VM_REQ_STOP] = VMM_STOPPED, [VM_REQ_POWEROFF] = VMM_POWEROFF,
		[VM_REQ_RESET] = VMM_RESET,  [VM_REQ_TRIPLE_FAULT] = VMM_TRIPLE_FAULT,
		[VM_REQ_EXIT] = VMM_EXIT,    [VM_REQ_ERROR] = VMM_ERROR,
	};
	uint64_t req = atomic_load(&vm->request);
	enum vm_request r = (enum vm_request)(uint32_t)req;

	if (is_reboot(vm, req)) {
		reset_machine(vm);
	} else {
		vm->result.end = end_of[r];
		vm->result.code = (int)(req >> 32);
	}
	if (vm->result.end != VMM_RUNNING)
		post_all(vm, VCPU_STOP);
	/* Where an end took its place meanwhile, that is served next, all parked as they are. */
	if (atomic_compare_exchange_strong(&vm->request, &req, 0))
		unpark_all(vm);
}

static bool must_park(struct vm *vm, struct vcpu *c)
{
	return atomic_load(&vm->parked) && !(atomic_load(&c->events) & VCPU_STOP) &&
	       (!atomic_load(&c->stepping) || vm_pending_request(vm));
}

void vm_park(struct vcpu *c)
{
	struct vm *vm = c->vm;
	const struct host *h = &vm->host;

	lock_take(h, &vm->lock);
	vm->nr_parked++;
	if (vm->nr_parked == vm->nr_threads)
		announce(vm);
	for (;;) {
		uint32_t gen = atomic_load(&vm->park_gen);
		bool last = vm->nr_parked == vm->nr_threads && !vm->carrying_out;

		if (!must_park(vm, c))
			break;
		if (last && vm_pending_request(vm)) {
			vm->carrying_out = true;
			lock_release(h, &vm->lock);
			serve_request(vm);
			lock_take(h, &vm->lock);
			vm->carrying_out = false;
			announce(vm);
			continue;
		}
		if (last && vm->pauses && atomic_load(&vm->clock.running))
			clock_stop(&vm->clock);
		lock_release(h, &vm->lock);
		h->ops->wait(h->ctx, &vm->park_gen, gen, HOST_FOREVER);
		lock_take(h, &vm->lock);
	}
	vm->nr_parked--;
	lock_release(h, &vm->lock);
}

/* A pause: the last one to park stops the clock, the last resume starts it. */
static void pause_begin(struct vm *vm)
{
	lock_take(&vm->host, &vm->lock);
	vm->pauses++;
	lock_release(&vm->host, &vm->lock);
	park_all(vm);
}

int vm_refuse(struct vm *vm, int err, const char *fmt, ...)
{
	va_list ap;

	lock_take(&vm->host, &vm->lock);
	if (!vm->refusal[0]) {
		va_start(ap, fmt);
		vsnprintf(vm->refusal, sizeof(vm->refusal), fmt, ap);
		va_end(ap);
	}
	lock_release(&vm->host, &vm->lock);
	return err;
}

void vm_vcpu_ready(struct vcpu *c, int err)
{
	struct vm *vm = c->vm;

	lock_take(&vm->host, &vm->lock);
	c->err = err;
	vm->nr_ready++;
	if (err && !vm->start_err)
		vm->start_err = err;
	if (vm->nr_ready == vm->nr_vcpus)
		announce(vm); /* the last one: the others would wake the starter for nothing */
	lock_release(&vm->host, &vm->lock);
}

void vm_vcpu_done(struct vcpu *c)
{
	struct vm *vm = c->vm;

	lock_take(&vm->host, &vm->lock);
	vm->nr_threads--;
	announce(vm);
	lock_release(&vm->host, &vm->lock);
}

/* The pause that this makes is the debugger's to end, unless a step made it. */
void vm_debug_stop(struct vcpu *c, uint64_t detail)
{
	struct vm *vm = c->vm;

	if (atomic_exchange(&c->stepping, false))
		vm->engine->single_step(c, false);
	else
		pause_begin(vm);
	if (vm->cfg.debug_stop)
		vm->cfg.debug_stop(vm->cfg.arg, c->id, detail);
	else
		vmm_resume(vm);
}

/* Sleeps until @done, looking after every change. */
static int wait_change(struct vm *vm, bool (*done)(struct vm *vm), uint64_t deadline_ns)
{
	const struct host *h = &vm->host;
	int err = 0;

	for (;;) {
		uint32_t change = atomic_load(&vm->change);
		bool yes;

		lock_take(h, &vm->lock);
		yes = done(vm);
		lock_release(h, &vm->lock);
		if (yes)
			return 0;
		if (err)
			return err;
		err = h->ops->wait(h->ctx, &vm->change, change, deadline_ns);
		if (err != -ETIMEDOUT)
			err = 0;
	}
}

static bool is_ended(struct vm *vm)
{
	return !vm->carrying_out && vm->result.end != VMM_RUNNING;
}

/* A machine that ends meanwhile counts: nobody runs in it either. */
static bool is_parked(struct vm *vm)
{
	return !vm->carrying_out &&
	       (vm->nr_parked == vm->nr_threads || vm->result.end != VMM_RUNNING);
}

static bool is_ready(struct vm *vm)
{
	return vm->nr_ready == vm->nr_vcpus;
}

int vmm_wait(struct vm *vm, uint64_t deadline_ns, struct vmm_result *r)
{
	int err = wait_change(vm, is_ended, deadline_ns);

	lock_take(&vm->host, &vm->lock);
	*r = vm->carrying_out ? (struct vmm_result){ .end = VMM_RUNNING } : vm->result;
	lock_release(&vm->host, &vm->lock);
	return err;
}

void vmm_stop(struct vm *vm)
{
	vm_request(vm, VM_REQ_STOP, 0);
}

int vmm_pause(struct vm *vm)
{
	pause_begin(vm);
	return wait_change(vm, is_parked, HOST_FOREVER);
}

void vmm_resume(struct vm *vm)
{
	lock_take(&vm->host, &vm->lock);
	if (vm->pauses && !--vm->pauses && !atomic_load(&vm->clock.running))
		clock_start(&vm->clock);
	lock_release(&vm->host, &vm->lock);
	unpark_all(vm);
}

int vmm_step(struct vm *vm, unsigned vcpu)
{
	struct vcpu *c = vm->vcpu[vcpu];

	vm->engine->single_step(c, true);
	atomic_store(&c->stepping, true);
	wake_parked(vm);
	return 0;
}

/* --- start ------------------------------------------------------------------ */

static int start_threads(struct vm *vm)
{
	const struct host *h = &vm->host;

	for (unsigned i = 0; i < vm->nr_vcpus; i++) {
		struct vcpu *c = vm->vcpu[i];
		char name[16];
		struct host_thread_attr attr = {
			.name = name,
			.pus = &c->pus,
			.fn = vcpu_thread,
			.arg = c,
			.attention = &c->attention,
		};
		int err;

		snprintf(name, sizeof(name), "vcpu%u", i);
		lock_take(h, &vm->lock);
		vm->nr_threads++;
		lock_release(h, &vm->lock);
		err = h->ops->thread_create(h->ctx, &attr, &c->thread);
		if (err) {
			lock_take(h, &vm->lock);
			vm->nr_threads--;
			vm->nr_ready += vm->nr_vcpus - i;
			vm->start_err = err;
			lock_release(h, &vm->lock);
			return err;
		}
	}
	return 0;
}

int vmm_start(struct vm *vm, char *why, size_t why_bytes)
{
	int err;

	if (vm->started)
		return -EALREADY;
	vm->started = true;
	atomic_fetch_add(&vm->parked, 1); /* the barrier before which nobody runs */
	err = start_threads(vm);
	wait_change(vm, is_ready, HOST_FOREVER);
	if (!err)
		err = vm->start_err;
	if (err && vm->refusal[0]) {
		snprintf(why, why_bytes, "%s", vm->refusal);
		return err;
	}
	if (err) {
		snprintf(why, why_bytes,
			 "cannot start %u vCPU threads: %s; ask for fewer CPUs or raise the limits",
			 vm->nr_vcpus, strerror(-err));
		return err; /* vmm_destroy() ends those that run */
	}
	lock_take(&vm->host, &vm->lock);
	if (!vm->pauses)
		clock_start(&vm->clock);
	lock_release(&vm->host, &vm->lock);
	if (sampler_start(vm))
		host_log(&vm->host, LOG_WARN, "no timer is left to sample what vCPUs do");
	unpark_all(vm);
	return 0;
}

void vm_end_threads(struct vm *vm)
{
	const struct host *h = &vm->host;

	if (!vm->started)
		return;
	sampler_stop(vm);
	post_all(vm, VCPU_STOP);
	wake_parked(vm);
	for (unsigned i = 0; i < vm->nr_vcpus; i++) {
		if (vm->vcpu[i]->thread)
			h->ops->thread_join(h->ctx, vm->vcpu[i]->thread);
		vm->vcpu[i]->thread = NULL;
	}
}
