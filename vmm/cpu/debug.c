/*
 * debug.c - single-stepping, hardware breakpoints and a debugger's points.
 * SDM vol. 3, ch. 18.
 *
 * The vCPU's own thread, but for debug_point() and debug_single_step(), which need
 * every vCPU parked.
 */
#include "cpu/debug.h"

#include "cpu/soft.h"
#include "cpu/sys.h"

#include <errno.h>

#define DR_COUNT    4
#define DR7_ENABLED 0xffu

/* R/W fields of DR7. */
enum { DR_EXEC, DR_WRITE, DR_PORT, DR_ACCESS };

static unsigned dr_kind(const struct cpu *c, unsigned i)
{
	return c->s.dr7 >> (16 + i * 4) & 3;
}

static unsigned dr_bytes(const struct cpu *c, unsigned i)
{
	static const uint8_t bytes[] = { 1, 2, 8, 4 };

	return bytes[c->s.dr7 >> (18 + i * 4) & 3];
}

static bool dr_enabled(const struct cpu *c, unsigned i)
{
	return c->s.dr7 >> (i * 2) & 3;
}

static bool dr_is_data(const struct cpu *c, unsigned i)
{
	return dr_enabled(c, i) && (dr_kind(c, i) == DR_WRITE || dr_kind(c, i) == DR_ACCESS);
}

static bool overlap(uint64_t a, uint64_t a_bytes, uint64_t b, uint64_t b_bytes)
{
	return a < b + b_bytes && b < a + a_bytes;
}

/* Registers count from a multiple of their length. */
static bool dr_covers(const struct cpu *c, unsigned i, uint64_t at, unsigned bytes)
{
	uint64_t n = dr_bytes(c, i);

	return overlap(c->s.dr[i] & ~(n - 1), n, at, bytes);
}

/* --- what is active ------------------------------------------------------------------- */

void debug_update(struct cpu *c)
{
	const struct vm *vm = c->vm;
	bool points = (c->s.dr7 & DR7_ENABLED) || soft_of(vm)->nr_points;
	bool slow = points || c->debug.stepping || vm->cfg.trace_insns ||
		    (c->s.rflags & (RFLAGS_TF | RFLAGS_RF));

	c->slow_step = slow;
	if (points || c->debug.points)
		mmu_flush_all(c); /* tags of pages that are watched, or are no longer */
	c->debug.points = points;
}

bool debug_watches(const struct cpu *c, uint64_t page)
{
	const struct soft_vm *sv = soft_of(c->vm);

	if (likely(!c->debug.points))
		return false;
	for (unsigned i = 0; i < DR_COUNT; i++) {
		if (dr_is_data(c, i) && dr_covers(c, i, page, PAGE_SIZE))
			return true;
	}
	for (unsigned i = 0; i < sv->nr_points; i++) {
		const struct debug_point *p = &sv->point[i];

		if (p->kind != DEBUG_EXEC && overlap(p->gva, p->bytes, page, PAGE_SIZE))
			return true;
	}
	return false;
}

/* --- hits --------------------------------------------------------------------------------- */

static bool point_wants(const struct debug_point *p, enum mmu_access access)
{
	return p->kind == DEBUG_ACCESS || (p->kind == DEBUG_WRITE && access == MMU_WRITE) ||
	       (p->kind == DEBUG_READ && access == MMU_READ);
}

void debug_access(struct cpu *c, uint64_t gva, unsigned bytes, enum mmu_access access)
{
	const struct soft_vm *sv = soft_of(c->vm);

	if (likely(!c->debug.points))
		return;
	for (unsigned i = 0; i < DR_COUNT; i++) {
		if (dr_is_data(c, i) && dr_covers(c, i, gva, bytes) &&
		    (access == MMU_WRITE || dr_kind(c, i) == DR_ACCESS))
			c->debug.hits |= (uint8_t)BIT(i);
	}
	for (unsigned i = 0; i < sv->nr_points; i++) {
		const struct debug_point *p = &sv->point[i];

		if (point_wants(p, access) && overlap(p->gva, p->bytes, gva, bytes)) {
			c->debug.watch_hit = true;
			c->debug.watch_gva = p->gva;
		}
	}
}

void debug_port(struct cpu *c, uint16_t port, unsigned bytes)
{
	if (likely(!c->debug.points) || !(c->s.cr4 & CR4_DE))
		return;
	for (unsigned i = 0; i < DR_COUNT; i++) {
		if (dr_enabled(c, i) && dr_kind(c, i) == DR_PORT && dr_covers(c, i, port, bytes))
			c->debug.hits |= (uint8_t)BIT(i);
	}
}

/* --- around an instruction ------------------------------------------------------------------- */

static enum debug_action stop(struct cpu *c, uint64_t detail)
{
	*c->exit = (struct vcpu_exit){ .reason = EXIT_DEBUG, .detail = detail };
	return DEBUG_STOP;
}

static uint64_t linear_rip(const struct cpu *c)
{
	if (c->mode == MODE_64)
		return c->s.rip;
	return (uint32_t)(c->s.seg[SEG_CS].base + c->s.rip);
}

/* Break points at @rip, as bits of DR6. */
static unsigned exec_hits(const struct cpu *c, uint64_t rip)
{
	unsigned hits = 0;

	for (unsigned i = 0; i < DR_COUNT; i++) {
		if (dr_enabled(c, i) && dr_kind(c, i) == DR_EXEC && c->s.dr[i] == rip)
			hits |= BIT(i);
	}
	return hits;
}

static bool debugger_breaks(const struct cpu *c, uint64_t rip)
{
	const struct soft_vm *sv = soft_of(c->vm);

	for (unsigned i = 0; i < sv->nr_points; i++) {
		if (sv->point[i].kind == DEBUG_EXEC && sv->point[i].gva == rip)
			return true;
	}
	return false;
}

enum debug_action debug_before_insn(struct cpu *c)
{
	uint64_t rip = linear_rip(c);
	unsigned hits;

	c->debug.trap = c->s.rflags & RFLAGS_TF;
	c->debug.resumed = c->s.rflags & RFLAGS_RF;
	if (!c->s.movss_shadow)
		c->debug.hits = 0;
	c->debug.watch_hit = false;
	if (!c->debug.points)
		return DEBUG_GO;
	if (debugger_breaks(c, rip) && !c->debug.stepping)
		return stop(c, rip);
	hits = c->s.rflags & RFLAGS_RF || c->s.movss_shadow ? 0 : exec_hits(c, rip);
	if (!hits)
		return DEBUG_GO;
	cpu_raise_db(c, hits);
	return DEBUG_FAULT;
}

/*
 * After MOV SS traps wait for one more instruction. RF lasts as long as the
 * instruction it was set for, all of a REP; IRET's is for the next one.
 */
enum debug_action debug_after_insn(struct cpu *c, bool complete)
{
	uint64_t dr6 = c->debug.hits | (c->debug.trap ? DR6_BS : 0);

	if (c->debug.resumed && complete) {
		c->s.rflags &= ~(uint64_t)RFLAGS_RF;
		debug_update(c);
	}
	if (dr6 && !c->s.movss_shadow) {
		cpu_raise_db(c, dr6);
		return DEBUG_FAULT;
	}
	if (c->debug.watch_hit)
		return stop(c, c->debug.watch_gva);
	if (c->debug.stepping)
		return stop(c, linear_rip(c));
	return DEBUG_GO;
}

/* --- for a debugger ------------------------------------------------------------------------------
 */

static void update_all(struct vm *vm)
{
	for (unsigned i = 0; i < vm->nr_vcpus; i++) {
		if (cpu_of(vm->vcpu[i]))
			debug_update(cpu_of(vm->vcpu[i]));
	}
}

static bool same_point(const struct debug_point *a, const struct debug_point *b)
{
	return a->kind == b->kind && a->gva == b->gva && a->bytes == b->bytes;
}

static int point_add(struct soft_vm *sv, const struct debug_point *p)
{
	if (sv->nr_points == DEBUG_POINTS_MAX)
		return -ENOSPC;
	sv->point[sv->nr_points++] = *p;
	return 0;
}

static int point_del(struct soft_vm *sv, const struct debug_point *p)
{
	for (unsigned i = 0; i < sv->nr_points; i++) {
		if (same_point(&sv->point[i], p)) {
			sv->point[i] = sv->point[--sv->nr_points];
			return 0;
		}
	}
	return -ENOENT;
}

int debug_point(struct vm *vm, bool add, enum debug_point_kind kind, uint64_t gva, unsigned bytes)
{
	struct debug_point p = { .kind = kind, .gva = gva, .bytes = bytes };
	int err;

	if (!bytes || bytes > PAGE_SIZE)
		return -EINVAL;
	err = add ? point_add(soft_of(vm), &p) : point_del(soft_of(vm), &p);
	if (!err)
		update_all(vm);
	return err;
}

void debug_single_step(struct vcpu *v, bool on)
{
	struct cpu *c = cpu_of(v);

	c->debug.stepping = on;
	debug_update(c);
}
