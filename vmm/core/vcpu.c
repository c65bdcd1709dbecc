/*
 * vcpu.c - the life of one virtual CPU on one host thread.
 *
 * Other threads reach a vCPU only through vcpu_post(); see vcpu.h for who owns
 * which field.
 */
#include "core/vcpu.h"

#include "core/bus.h"
#include "core/vm.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

/*
 * The bits are set first; the mode word, read after them, says whether anybody
 * has to be told: a running vCPU is kicked, a sleeping one woken, one between
 * the two will look by itself. Pairs with the mode stores in run_guest() and
 * vcpu_wait(), each followed by a load of events.
 */
void vcpu_post(struct vcpu *c, uint32_t events)
{
	const struct host *h = &c->vm->host;

	atomic_fetch_or(&c->events, events);

	switch (atomic_load(&c->mode)) {
	case VCPU_GUEST:
		c->vm->engine->kick(c);
		break;
	case VCPU_SLEEPING:
		atomic_fetch_add(&c->doorbell, 1);
		h->ops->wake(h->ctx, &c->doorbell, 1);
		break;
	default:
		break;
	}
}

void vcpu_log(struct vcpu *c, enum log_level level, const char *fmt, ...)
{
	char text[320];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	host_log(&c->vm->host, level, "%s: vcpu %u: %s", c->vm->cfg.name, c->id, text);
}

void vcpu_trace_exit(struct vcpu *c, const struct vcpu_exit *x)
{
	static const char *const name[EXIT_REASONS] = {
		[EXIT_KICK] = "kick",   [EXIT_PIO] = "pio",     [EXIT_MMIO] = "mmio",
		[EXIT_HALT] = "halt",   [EXIT_RESET] = "reset", [EXIT_DEBUG] = "debug",
		[EXIT_ERROR] = "error",
	};
	char line[128];

	if (x->reason == EXIT_PIO || x->reason == EXIT_MMIO)
		snprintf(line, sizeof(line), "vcpu %u %s %s%u %#llx = %#llx", c->id,
			 name[x->reason], x->io.is_write ? "write" : "read", x->io.size * 8u,
			 (unsigned long long)x->io.addr, (unsigned long long)x->io.data);
	else
		snprintf(line, sizeof(line), "vcpu %u %s %#llx", c->id, name[x->reason],
			 (unsigned long long)x->detail);
	c->vm->cfg.trace(c->vm->cfg.arg, line);
}

/* Under CLOCK_ICOUNT sleeping costs nothing: time jumps to what comes next. */
static bool wait_skips(struct vcpu *c, uint64_t deadline_ns)
{
	struct guest_clock *k = &c->vm->clock;
	uint64_t next, now;

	if (k->source != CLOCK_ICOUNT)
		return false;
	next = MIN(deadline_ns, clock_next_deadline(k));
	if (next == HOST_FOREVER)
		return false;
	now = clock_ticks(k);
	next = clock_ns_to_ticks(k, next);
	if (next > now)
		clock_advance(k, next - now);
	return true;
}

/* Is there anything to do? If not, *host_ns is when the local timer makes some. */
static bool has_work(struct vcpu *c, uint64_t *host_ns)
{
	struct vm *vm = c->vm;
	uint64_t deadline_ns = HOST_FOREVER;

	if (atomic_load(&c->events) || vm->engine->has_work(c, &deadline_ns) ||
	    wait_skips(c, deadline_ns) || deadline_ns <= clock_now_ns(&vm->clock))
		return true;
	*host_ns = clock_host_deadline(&vm->clock, deadline_ns);
	return false;
}

/*
 * The mode is published before the last look at events and posted interrupts, so
 * that a sender either is seen here or sees a sleeper and rings; pairs with
 * vcpu_post().
 */
static void sleep_until_work(struct vcpu *c)
{
	const struct host *h = &c->vm->host;
	uint64_t host_ns;
	uint32_t bell;

	atomic_store(&c->mode, VCPU_SLEEPING);
	do {
		bell = atomic_load(&c->doorbell);
		if (has_work(c, &host_ns))
			break;
	} while (h->ops->wait(h->ctx, &c->doorbell, bell, host_ns) != -ETIMEDOUT);
}

/* Idle until an interrupt, an event or the local timer. */
static void vcpu_wait(struct vcpu *c)
{
	const struct host *h = &c->vm->host;
	uint64_t start_ns = h->ops->now_ns(h->ctx), end_ns, host_ns;

	stat_add(&c->stats, STAT_HALTS, 1);
	sched_dedicated.dequeue(&c->sched, start_ns);
	atomic_store(&c->mode, VCPU_POLLING);
	if (!has_work(c, &host_ns) && !halt_poll(c, start_ns, host_ns))
		sleep_until_work(c);
	atomic_store(&c->mode, VCPU_OUTSIDE);
	end_ns = h->ops->now_ns(h->ctx);
	halt_poll_learn(&c->halt_poll, end_ns - start_ns);
	sched_dedicated.enqueue(&c->sched, end_ns);
}

static int vcpu_handle_exit(struct vcpu *c, struct vcpu_exit *x)
{
	struct vm *vm = c->vm;

	if (unlikely(vm->cfg.trace_exits))
		vcpu_trace_exit(c, x);

	switch (x->reason) {
	case EXIT_KICK:
		stat_add(&c->stats, STAT_KICKS, 1);
		return 0; /* the loop looks at events */
	case EXIT_PIO:
		stat_add(&c->stats, STAT_PIO, 1);
		if (!bus_access(&vm->pio, &x->io))
			stat_add(&c->stats, STAT_BAD_ACCESSES, 1);
		return 0;
	case EXIT_MMIO:
		stat_add(&c->stats, STAT_MMIO, 1);
		if (!bus_access(&vm->mmio, &x->io))
			stat_add(&c->stats, STAT_BAD_ACCESSES, 1);
		return 0;
	case EXIT_HALT:
		if (atomic_load(&c->stepping))
			vm_debug_stop(c, x->detail); /* an idle vCPU has no next instruction */
		else
			vcpu_wait(c);
		return 0;
	case EXIT_RESET:
		vcpu_log(c, LOG_INFO, "triple fault at %#llx", (unsigned long long)x->detail);
		vm_request(vm, VM_REQ_TRIPLE_FAULT, (int)c->id);
		return 0;
	case EXIT_DEBUG:
		vm_debug_stop(c, x->detail);
		return 0;
	default:
		vcpu_log(c, LOG_ERR, "%s: exit %d, detail %#llx", vm->engine->name, (int)x->reason,
			 (unsigned long long)x->detail);
		return -EIO;
	}
}

/*
 * One stay in guest code. Events posted before the mode store are seen here;
 * later ones find VCPU_GUEST and kick.
 */
static int run_guest(struct vcpu *c)
{
	struct vcpu_exit x = { .reason = EXIT_KICK };
	int err;

	atomic_store(&c->mode, VCPU_GUEST);
	if (atomic_load(&c->events) & VCPU_LOOP_EVENTS) {
		atomic_store(&c->mode, VCPU_OUTSIDE);
		return 0;
	}
	err = c->vm->engine->run(c, &x);
	atomic_store(&c->mode, VCPU_OUTSIDE);
	return err ? err : vcpu_handle_exit(c, &x);
}

/* Where the thread runs has changed already, by vmm_move_vcpu(); so must the account. */
static void change_core(struct vcpu *c)
{
	struct vm *vm = c->vm;
	const struct host *h = &vm->host;

	sched_dedicated.dequeue(&c->sched, h->ops->now_ns(h->ctx));
	lock_take(h, &vm->lock);
	c->sched.pu = vm->plan.vcpu[c->id].pu;
	lock_release(h, &vm->lock);
	sched_dedicated.enqueue(&c->sched, h->ops->now_ns(h->ctx));
}

static void vcpu_loop(struct vcpu *c)
{
	struct vm *vm = c->vm;
	const struct host *h = &vm->host;
	int err = 0;

	sched_dedicated.enqueue(&c->sched, h->ops->now_ns(h->ctx));
	for (;;) {
		uint32_t ev = atomic_fetch_and(&c->events, ~(uint32_t)VCPU_LOOP_EVENTS);

		if (ev & VCPU_STOP)
			break;
		if (ev & VCPU_MOVE)
			change_core(c);
		if (atomic_load(&vm->parked) &&
		    (!atomic_load(&c->stepping) || vm_pending_request(vm))) {
			vm_park(c); /* until resumed */
			continue;
		}
		if (vm->clock.source == CLOCK_ICOUNT)
			clock_run_timers(&vm->clock);
		err = run_guest(c);
		if (err) {
			c->err = err;
			vm_request(vm, VM_REQ_ERROR, err);
		}
	}
	sched_dedicated.dequeue(&c->sched, h->ops->now_ns(h->ctx));
}

/* The engine's part of a vCPU outlives this thread: siblings may still post to it. */
void vcpu_thread(void *vcpu)
{
	struct vcpu *c = vcpu;
	struct vm *vm = c->vm;
	int err = vm->engine->vcpu_create(c); /* here, so that it lands on this node */

	if (!err)
		vm->engine->reset(c);
	if (!err && c->id == 0)
		err = vm->engine->set_state(c, &vm->boot_state);
	vm_vcpu_ready(c, err);
	if (!err)
		vcpu_loop(c);
	vm_vcpu_done(c);
}
