/*
 * engine.c - the interpreter as an engine: engine_ops and the run loop.
 *
 * run() executes block after block. Between blocks it looks at two things only,
 * the attention word and, under CLOCK_ICOUNT, the instruction count; whatever
 * else wants to be seen sets attention or leaves the block (c->leave). A system
 * instruction always leaves, since it may change modes, mappings and interrupts.
 */
#include "cpu/block.h"
#include "cpu/codemap.h"
#include "cpu/debug.h"
#include "cpu/interp.h"
#include "cpu/lapic.h"
#include "cpu/pv.h"
#include "cpu/soft.h"
#include "cpu/stub.h"
#include "cpu/trace.h"
#include "cpu/xlat.h"
#include "cpu/xstate.h"

#include <errno.h>

/* --- the run loop ------------------------------------------------------------- */

static bool attention(const struct cpu *c)
{
	return atomic_load_explicit(&c->vcpu->attention, memory_order_relaxed);
}

/* Nothing is being executed: insns is exact. */
static void between_blocks(struct cpu *c)
{
	c->block_ops = c->stop_op = NULL;
}

static bool exit_with(struct cpu *c, enum exit_reason reason, uint64_t detail)
{
	*c->exit = (struct vcpu_exit){ .reason = reason, .detail = detail };
	return false;
}

/* Deliver what is pending in c->fault. False: leave run(). */
static bool deliver(struct cpu *c)
{
	uint64_t rip = c->s.rip;

	return cpu_deliver_fault(c) || exit_with(c, EXIT_RESET, rip);
}

static void count(struct cpu *c)
{
	struct vcpu_stats *s = &c->vcpu->stats;

	stat_add(s, STAT_INSNS, c->insns - c->insns_counted);
	c->insns_counted = c->insns;
}

/*
 * CLOCK_ICOUNT: where to stop next. Devices' timers are run by the loop outside,
 * so reaching one of their deadlines ends run(); the local APIC's is ours.
 */
static bool plan_icount(struct cpu *c)
{
	struct guest_clock *k = &c->vm->clock;
	uint64_t now = clock_ticks(k), devices = clock_next_deadline(k);
	uint64_t next = MIN(devices, lapic_deadline(c));

	c->insns_stop = c->insns_pause;
	if (next == HOST_FOREVER)
		return true;
	if (devices != HOST_FOREVER && clock_ns_to_ticks(k, devices) <= now)
		return exit_with(c, EXIT_KICK, 0);
	next = clock_ns_to_ticks(k, next);
	c->insns_stop = MIN(c->insns_pause, c->insns + (next > now ? next - now : 1));
	return true;
}

/*
 * Attention, or the planned stop: events, interrupts, timers. The word is cleared
 * before what it announces is looked at, so that nothing is lost. False: leave
 * run(), the exit is filled.
 */
static bool attend(struct cpu *c)
{
	struct vcpu *v = c->vcpu;
	uint32_t events;

	if (unlikely(c->insns >= c->insns_pause))
		return exit_with(c, EXIT_KICK, 0);
	atomic_exchange(&v->attention, 0);
	events = atomic_fetch_and(&v->events, ~(uint32_t)VCPU_ENGINE_EVENTS);
	count(c);
	if (c->icount)
		cpu_sync_clock(c);
	if (events & VCPU_CODE)
		codemap_answer(c);
	if (events & VCPU_FLUSH)
		mmu_flush_all(c);
	codemap_verify(c);
	if (c->xlat)
		xlat_attend(c);
	if (!cpu_take_events(c))
		return exit_with(c, EXIT_RESET, c->s.rip);
	if (events & VCPU_LOOP_EVENTS)
		return exit_with(c, EXIT_KICK, 0);
	if (c->s.mp_state != MP_RUNNING)
		return exit_with(c, EXIT_HALT, 0);
	return !c->icount || plan_icount(c);
}

/*
 * After a block was left by its op stop_op: account for what was executed and see
 * to the reason. False: leave run().
 */
static bool after_leave(struct cpu *c)
{
	enum cpu_leave why = c->leave;

	c->insns += (uint64_t)(c->stop_op - c->block_ops);
	if (why != LEAVE_FAULT && why != LEAVE_AGAIN)
		c->insns++;
	between_blocks(c);
	c->leave = LEAVE_NONE;
	c->code_stale = false;
	if (why == LEAVE_FAULT)
		return deliver(c);
	return why != LEAVE_EXIT;
}

static void execute(struct cpu *c, const struct op *ops)
{
	c->block_rip = c->s.rip - ops->off;
	c->block_ops = c->stop_op = ops;
	ops->fn(c, ops);
}

/* The first @n instructions of @b. False: leave run(). */
static bool run_prefix(struct cpu *c, const struct block *b, unsigned n)
{
	execute(c, block_prefix(c, b, n));
	if (c->leave)
		return after_leave(c);
	c->insns += n;
	between_blocks(c);
	return true;
}

/*
 * Where @b led to this time, if that is known and nothing has changed: one TLB
 * probe, the link made last time, the page's version. Only 64-bit mode links,
 * where there is no code segment limit.
 */
static inline struct block *follow(struct cpu *c, struct block *b)
{
	uint64_t gva = c->s.rip;
	const struct tlb_entry *e = tlb_slot(c, gva);
	struct block *n = b->next[c->edge];

	if (likely(e->exec == tlb_key(c, gva, 1) && n->hva == gva + e->addend && block_alive(n)))
		return n;
	return NULL;
}

/* Finds the block at s.rip the long way, and links @from to it. */
static struct block *find_and_link(struct cpu *c, struct block *from)
{
	unsigned epoch = block_cache_epoch(c);
	struct block *b = block_get(c);

	if (b && !b->second_hva && epoch == block_cache_epoch(c))
		from->next[c->edge] = b;
	return b;
}

/* Blocks of 64-bit code until something wants to be seen. False: leave run(). */
static bool run_blocks64(struct cpu *c, struct block *b)
{
	uint64_t entered = 0;
	bool go_on = true;

	do {
		struct block *n;

		if (unlikely(c->insns + b->nr_ops > c->insns_stop)) {
			go_on = run_prefix(c, b, (unsigned)(c->insns_stop - c->insns));
			break;
		}
		entered++;
		execute(c, b->ops);
		if (unlikely(c->leave)) {
			go_on = after_leave(c);
			break;
		}
		c->insns += b->nr_ops;
		n = follow(c, b);
		if (unlikely(!n)) {
			between_blocks(c);
			if (unlikely(c->insns == c->insns_stop))
				break; /* before a fault of the next fetch */
			n = find_and_link(c, b);
			if (unlikely(!n)) {
				go_on = deliver(c);
				break;
			}
		}
		b = n;
	} while (!attention(c));

	between_blocks(c);
	stat_add(&c->vcpu->stats, STAT_BLOCKS, entered);
	return go_on;
}

/* One block of 16- or 32-bit code, as far as its segment reaches. */
static bool run_block(struct cpu *c, struct block *b)
{
	uint64_t room = c->insns_stop - c->insns;
	unsigned n = block_runnable(c, b);

	stat_add(&c->vcpu->stats, STAT_BLOCKS, 1);
	if (n)
		return run_prefix(c, b, (unsigned)MIN((uint64_t)n, room));
	cpu_raise_error(c, EXC_GP, 0);
	return deliver(c);
}

/* The shadow of STI or MOV SS is one instruction long; unless that casts another. */
static void end_shadows(struct cpu *c)
{
	c->s.sti_shadow = c->s.movss_shadow = false;
}

static bool debug_says(struct cpu *c, enum debug_action action)
{
	switch (action) {
	case DEBUG_FAULT:
		return deliver(c);
	case DEBUG_STOP:
		return false;
	default:
		return true;
	}
}

/* One instruction under the eyes of debuggers and traces. */
static bool run_watched(struct cpu *c)
{
	enum debug_action action = debug_before_insn(c);
	struct block *b;
	enum cpu_leave how;

	if (action != DEBUG_GO)
		return debug_says(c, action);
	b = block_get(c);
	if (!b)
		return deliver(c);
	if (!block_runnable(c, b))
		return run_block(c, b);
	if (c->vm->cfg.trace_insns)
		trace_insn(c);

	end_shadows(c);
	execute(c, block_prefix(c, b, 1));
	if (!c->leave)
		op_leave(c, c->block_ops, LEAVE_DONE, c->s.rip);
	how = c->leave;
	if (!after_leave(c))
		return false;
	return how == LEAVE_FAULT || debug_says(c, debug_after_insn(c, how != LEAVE_AGAIN));
}

/* Translated code as far as it goes, then what it leaves to the interpreter. */
static bool run_translated(struct cpu *c)
{
	struct block *b;
	bool go_on;

	switch (xlat_run(c)) {
	case XLAT_ATTEND:
		return true;
	case XLAT_OUT:
		return false;
	case XLAT_FAULT:
		return deliver(c);
	case XLAT_RESET:
		return exit_with(c, EXIT_RESET, c->s.rip);
	default:
		if (unlikely(c->insns >= c->insns_stop))
			return true;
		b = block_get(c);
		if (unlikely(!b))
			return deliver(c);
		stat_add(&c->vcpu->stats, STAT_INTERPRETED, 1);
		go_on = run_prefix(c, b, 1);
		xlat_sync(c);
		return go_on;
	}
}

static bool run_some(struct cpu *c)
{
	struct block *b;

	if (unlikely(c->slow_step))
		return run_watched(c);
	if (c->xlat && c->mode == MODE_64 && !c->s.sti_shadow && !c->s.movss_shadow)
		return run_translated(c);
	b = block_get(c);
	if (unlikely(!b))
		return deliver(c);
	if (unlikely(c->s.sti_shadow || c->s.movss_shadow)) {
		end_shadows(c);
		return block_runnable(c, b) ? run_prefix(c, b, 1) : run_block(c, b);
	}
	return c->mode == MODE_64 ? run_blocks64(c, b) : run_block(c, b);
}

static void note_first_insn(struct vm *vm)
{
	uint64_t none = 0;

	if (likely(atomic_load_explicit(&vm->first_insn_ns, memory_order_relaxed)))
		return;
	atomic_compare_exchange_strong(&vm->first_insn_ns, &none,
				       vm->host.ops->now_ns(vm->host.ctx));
}

static int interp_run(struct vcpu *v, struct vcpu_exit *x)
{
	struct cpu *c = cpu_of(v);
	bool go_on;

	c->exit = x;
	vcpu_doing(v, DOING_INTERP);
	pv_resume(c);
	go_on = attend(c);
	if (go_on)
		note_first_insn(c->vm);
	while (go_on) {
		go_on = run_some(c);
		if (go_on && (attention(c) || c->insns >= c->insns_stop))
			go_on = attend(c);
	}
	count(c);
	if (c->xlat)
		xlat_leave(c);
	if (c->icount)
		cpu_sync_clock(c);
	if (x->reason == EXIT_HALT)
		pv_sleep(c);
	return 0;
}

/* --- life ------------------------------------------------------------------------ */

static int interp_probe(const struct host *h, char *why, size_t why_bytes)
{
	return 0; /* an x86-64 host is all it takes */
}

static void interp_vcpu_destroy(struct vcpu *v)
{
	struct cpu *c = cpu_of(v);

	if (!c)
		return;
	xlat_destroy(c);
	block_cache_destroy(c);
	stub_destroy(c);
	pv_destroy(c);
	lapic_destroy(c);
	mmu_destroy(c);
	v->engine_data = NULL;
}

static int interp_vcpu_create(struct vcpu *v)
{
	struct cpu *c = cpu_behind(v);
	int err;

	v->engine_data = c;
	c->vcpu = v;
	c->vm = v->vm;
	c->codemap = soft_of(v->vm)->codemap;
	c->icount = v->vm->clock.source == CLOCK_ICOUNT;
	c->insns_stop = c->insns_pause = UINT64_MAX;
	cpu_state_reset(&c->s, v->id == 0);

	err = mmu_create(c, v->host_node);
	if (!err)
		err = lapic_create(c, v->host_node);
	if (!err)
		err = pv_create(c, v->host_node);
	if (!err)
		err = stub_create(c, v->host_node);
	if (!err)
		err = block_cache_create(c, v->host_node);
	if (err)
		interp_vcpu_destroy(v);
	return err;
}

/* The machine of an engine that translates. */
static int xlat_machine_create(struct vm *vm)
{
	int err = soft_vm_create(vm);

	if (err)
		return err;
	err = xlat_vm_create(vm);
	if (err)
		soft_vm_destroy(vm);
	return err;
}

static int soft_vcpu_create(struct vcpu *v)
{
	int err = interp_vcpu_create(v);

	if (err)
		return err;
	err = xlat_create(cpu_of(v), v->host_node);
	if (err)
		interp_vcpu_destroy(v);
	return err;
}

/* It looks at the word between blocks, and never sleeps in run(). */
static void interp_kick(struct vcpu *v)
{
	atomic_store(&v->attention, 1);
}

static bool interp_has_work(struct vcpu *v, uint64_t *deadline_ns)
{
	return lapic_has_work(cpu_of(v), deadline_ns);
}

/* --- state ------------------------------------------------------------------------- */

static void interp_get_state(struct vcpu *v, struct cpu_state *s)
{
	struct cpu *c = cpu_of(v);

	*s = c->s;
	s->rflags = cpu_rflags(c);
	xstate_complete(s);
	s->tsc_deadline = lapic_tsc_deadline(c);
	lapic_get_state(c, s);
}

/* Everything that is derived from the state. */
static void state_changed(struct cpu *c)
{
	cpu_set_rflags(c, c->s.rflags);
	cpu_update_mode(c);
	mmu_switch(c, true);
	debug_update(c);
	pv_restore(c);
}

static int interp_set_state(struct vcpu *v, const struct cpu_state *s)
{
	struct cpu *c = cpu_of(v);
	int err = lapic_check_state(s);

	if (err)
		return err;
	c->s = *s;
	lapic_set_state(c, s);
	xstate_sanitize(&c->s); /* stubs hand it to the processor */
	state_changed(c);
	return 0;
}

static void interp_reset(struct vcpu *v)
{
	struct cpu *c = cpu_of(v);

	cpu_state_reset(&c->s, v->id == 0);
	c->fault.pending = false;
	c->leave = LEAVE_NONE;
	c->code_stale = false;
	lapic_reset(c);
	state_changed(c);
}

static int interp_translate(struct vcpu *v, uint64_t gva, uint64_t *gpa)
{
	return mmu_translate(cpu_of(v), gva, gpa);
}

static void interp_code_changed(struct vm *vm, uint64_t gpa, uint64_t bytes)
{
	codemap_written(soft_of(vm)->codemap, NULL, gpa, bytes);
}

#define ENGINE(engine_name, create_vm, create_vcpu)                                                \
	{                                                                                          \
		.name = engine_name, .probe = interp_probe, .create = create_vm,                   \
		.destroy = soft_vm_destroy, .vcpu_bytes = sizeof(struct cpu),                      \
		.vcpu_create = create_vcpu, .vcpu_destroy = interp_vcpu_destroy,                   \
		.run = interp_run, .kick = interp_kick, .has_work = interp_has_work,               \
		.msi = ipi_msi, .extint = ipi_extint, .nmi = ipi_nmi,                              \
		.get_state = interp_get_state, .set_state = interp_set_state,                      \
		.reset = interp_reset, .translate = interp_translate, .debug_point = debug_point,  \
		.single_step = debug_single_step, .code_changed = interp_code_changed,             \
	}

const struct engine_ops engine_interp = ENGINE("interp", soft_vm_create, interp_vcpu_create);
const struct engine_ops engine_soft = ENGINE("soft", xlat_machine_create, soft_vcpu_create);
