/*
 * xlat_call.c - what translated code calls C for, and then goes on: system instructions,
 * the page walk, and the guest's page faults.
 *
 * The handlers are those of the interpreter. Here they run while the guest's vector
 * registers are live, which nothing they execute touches; see xlat_outside(). What they
 * change is looked at once they are through: translated code goes on at s.rip by way of
 * the jump cache, unless something has to be seen to first.
 */
#include "cpu/interp.h"
#include "cpu/sys.h"
#include "cpu/xlat_int.h"

/*
 * Those that translated code does not leave for. Few of them end run(), none needs to know
 * what the block before them has done, nor reaches a device by itself.
 */
static sys_fn *const handled[] = {
	sys_syscall, sys_sysret,      sys_iret,   sys_mov_to_cr, sys_mov_from_cr, sys_clts,
	sys_invlpg,  sys_invpcid,     sys_rdmsr,  sys_wrmsr,     sys_clac,        sys_stac,
	sys_popf,    sys_pushf,       sys_cli,    sys_sti,       sys_swapgs,      sys_pause,
	sys_verw,    sys_mov_to_sreg, sys_int3,   sys_undefined, sys_rdtsc,       sys_xgetbv,
	sys_lgdt,    sys_lidt,        sys_wbinvd, sys_clflush,   sys_rdpid,       sys_vmcall,
	sys_cpuid,   sys_mov_from_dr, sys_xsave,  sys_xsaveopt,  sys_xrstor,      sys_hlt,
};

bool xcall_handles(sys_fn *fn)
{
	for (unsigned i = 0; i < ARRAY_SIZE(handled); i++)
		if (handled[i] == fn)
			return true;
	return false;
}

static enum xcall leave(struct cpu *c, enum xlat_exit why)
{
	c->x.why = why;
	return XCALL_LEAVE;
}

/* The instruction in x.what is reached: everything is as it was before it. */
static void arrive(struct cpu *c)
{
	vcpu_doing(c->vcpu, DOING_INTERP);
	c->s.rip = c->block_rip + xwhat_off(c->x.what);
	if (c->xlat->counts)
		c->insns += xwhat_retired(c->x.what);
	if (unlikely(c->icount))
		cpu_sync_clock(c);
}

/* Is whatever comes next for translated code? Otherwise xlat_run()'s caller knows. */
static bool can_go_on(const struct cpu *c)
{
	return c->mode == MODE_64 && !c->slow_step && !c->s.sti_shadow && !c->s.movss_shadow;
}

/* @ring: nothing but CPL, flags and RIP has changed. */
static enum xcall go_on_after(struct cpu *c, bool ring)
{
	c->code_stale = false;
	if (unlikely(!can_go_on(c)))
		return leave(c, XEXIT_ATTEND);
	xlat_forget_stale(c);
	if (ring)
		xlat_prepare_ring(c);
	else
		xlat_prepare(c);
	vcpu_doing(c->vcpu, DOING_CODE);
	return XCALL_JUMP;
}

static enum xcall go_on(struct cpu *c)
{
	return go_on_after(c, false);
}

/* The guest's handler is what comes next. */
static enum xcall deliver(struct cpu *c)
{
	if (likely(cpu_deliver_fault(c)))
		return go_on_after(c, true);
	return leave(c, XEXIT_RESET);
}

/* --- jumps -------------------------------------------------------------------------------- */

enum xcall xcall_lookup(struct cpu *c, uint64_t tag)
{
	c->s.rip = tag - c->x.jump_key;
	if (c->icount || !sys_canonical(c->s.rip) || !xlat_find_jump(c))
		return leave(c, XEXIT_LOOKUP);
	stat_add(&c->vcpu->stats, STAT_LOOKUPS, 1);
	return XCALL_JUMP;
}

/* --- attention --------------------------------------------------------------------------- */

/* Is there nothing but interrupts to look at? The rest is the run loop's. */
static bool only_interrupts(const struct vcpu *v)
{
	return !(atomic_load(&v->events) & ~(uint32_t)VCPU_INTR) &&
	       !(atomic_load(&v->posted.signals) & ~POSTED_UNHALT);
}

/*
 * What attend() in engine.c does, for interrupts, and in the same order: the word is cleared
 * before what it announces is looked at. Where that is not all it is set again, and the run
 * loop looks: @otherwise.
 */
static enum xcall take_interrupts(struct cpu *c, enum xlat_exit otherwise)
{
	struct vcpu *v = c->vcpu;

	atomic_exchange(&v->attention, 0);
	if (likely(!c->icount && only_interrupts(v))) {
		atomic_fetch_and(&v->events, ~(uint32_t)VCPU_INTR);
		xlat_count_misses(c);
		if (unlikely(!cpu_take_events(c)))
			return leave(c, XEXIT_RESET);
		if (likely(c->s.mp_state == MP_RUNNING))
			return go_on(c);
	}
	atomic_store(&v->attention, 1);
	return leave(c, otherwise);
}

enum xcall xcall_attend(struct cpu *c)
{
	vcpu_doing(c->vcpu, DOING_INTERP);
	xlat_set_rip(c);
	if (unlikely(c->x.return_sp < c->x.return_limit))
		return leave(c, XEXIT_ATTEND);
	return take_interrupts(c, XEXIT_ATTEND);
}

/* --- idle -------------------------------------------------------------------------------- */

/* Longer than vCPUs take that wake each other in turn; the rest of a window is vcpu_wait()'s. */
#define GLANCE_NS 20000

static bool work_comes(struct cpu *c)
{
	const struct vcpu *v = c->vcpu;
	uint64_t ticks = GLANCE_NS * c->vm->clock.khz / 1000000, start = __builtin_ia32_rdtsc();

	if (atomic_load(&v->posted.signals) & POSTED_UNHALT)
		return true;
	while (!atomic_load_explicit(&v->attention, memory_order_relaxed)) {
		if (__builtin_ia32_rdtsc() - start >= ticks)
			return false;
		__builtin_ia32_pause();
	}
	return true;
}

/*
 * HLT has been executed. What ends it is often on its way, from a vCPU that will wait for
 * this one next, and is looked for right here: the way out and back takes longer. In the
 * eyes of others the vCPU runs, and c->exit says what is to be done otherwise.
 */
static enum xcall idle(struct cpu *c)
{
	struct vcpu *v = c->vcpu;
	uint64_t start;
	bool found;

	if (!xlat_tsc_is_ours(c) || !halt_poll_is_open(&v->halt_poll) || c->vm->cfg.trace_exits)
		return leave(c, XEXIT_OUT);
	vcpu_doing(v, DOING_NOTHING);
	start = __builtin_ia32_rdtsc();
	found = work_comes(c);
	stat_add(&v->stats, STAT_POLL_NS,
		 (__builtin_ia32_rdtsc() - start) * 1000000 / c->vm->clock.khz);
	vcpu_doing(v, DOING_INTERP);
	if (!found)
		return leave(c, XEXIT_OUT);
	stat_add(&v->stats, STAT_HALTS, 1);
	stat_add(&v->stats, STAT_POLLS, 1);
	return take_interrupts(c, XEXIT_OUT);
}

/* --- system instructions ----------------------------------------------------------------- */

enum xcall xcall_system(struct cpu *c, const struct op *o)
{
	enum sys_result r;

	arrive(c);
	r = o->sys(c, o);
	if (unlikely(r == SYS_FAULT))
		return deliver(c);
	if (r == SYS_NEXT)
		c->s.rip = op_next_rip(c, o);
	c->insns += c->xlat->counts;
	if (unlikely(r == SYS_EXIT))
		return idle(c);
	return go_on_after(c, o->sys == sys_iret);
}

/* Would the instruction, executed on its own, raise the same? */
static bool is_its_fault(const struct cpu *c, uint64_t gva, unsigned bytes)
{
	return c->fault.pending && c->fault.vector == EXC_PF && !c->debug.points &&
	       !(c->x.what & (XWHAT_PLAIN | XWHAT_ASK)) && (bytes <= 8 || !(gva & (bytes - 1)));
}

enum xcall xcall_missed(struct cpu *c, uint64_t gva, unsigned bytes)
{
	if (!is_its_fault(c, gva, bytes)) {
		c->fault.pending = false; /* found again by whoever executes it */
		if ((c->x.what & XWHAT_PLAIN) && xlat_find_plain(c))
			return XCALL_CODE;
		return leave(c, XEXIT_INTERP);
	}
	arrive(c);
	return deliver(c);
}

enum xcall xcall_fill(struct cpu *c, uint64_t gva, unsigned bytes, enum mmu_access access)
{
	return likely(mmu_fill(c, gva, bytes, access)) ? XCALL_BACK : xcall_missed(c, gva, bytes);
}
