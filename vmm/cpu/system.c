/*
 * system.c - what handlers of system instructions share, and those that concern
 * flags, interrupts, time and identity. Control registers are in control.c.
 */
#include "cpu/codemap.h"
#include "cpu/debug.h"
#include "cpu/lapic.h"
#include "cpu/mmu.h"
#include "cpu/pv.h"
#include "cpu/segment.h"
#include "cpu/soft.h"
#include "cpu/sys.h"
#include "cpu/xlat.h"

#define SPIN_PAUSES 64 /* this many in a row: the holder may want our PU */

/* --- shared --------------------------------------------------------------------------- */

enum sys_result sys_fault(struct cpu *c, uint8_t vector)
{
	cpu_raise(c, vector);
	return SYS_FAULT;
}

enum sys_result sys_gp(struct cpu *c, uint32_t error)
{
	cpu_raise_error(c, EXC_GP, error);
	return SYS_FAULT;
}

bool sys_require_cpl0(struct cpu *c)
{
	if (!c->cpl)
		return true;
	cpu_raise_error(c, EXC_GP, 0);
	return false;
}

static uint64_t size_mask(unsigned size)
{
	return size == 8 ? UINT64_MAX : BIT64(size * 8) - 1;
}

uint64_t sys_get_reg(const struct cpu *c, unsigned reg, unsigned size)
{
	return c->s.gpr[reg] & size_mask(size);
}

void sys_set_reg(struct cpu *c, unsigned reg, unsigned size, uint64_t v)
{
	uint64_t mask = size_mask(size);

	if (size == 4)
		c->s.gpr[reg] = (uint32_t)v;
	else
		c->s.gpr[reg] = (c->s.gpr[reg] & ~mask) | (v & mask);
}

static bool linear(struct cpu *c, const struct op *o, uint64_t off, unsigned bytes, bool write,
		   uint64_t *gva)
{
	return mmu_linear(c, o->seg, op_ea(c, o) + off, bytes, write ? MMU_WRITE : MMU_READ, gva);
}

bool sys_linear(struct cpu *c, const struct op *o, unsigned bytes, bool write, uint64_t *gva)
{
	return linear(c, o, 0, bytes, write, gva);
}

bool sys_load(struct cpu *c, const struct op *o, uint64_t off, void *buf, unsigned bytes)
{
	uint64_t gva;

	return linear(c, o, off, bytes, false, &gva) && mmu_read_slow(c, gva, buf, bytes);
}

bool sys_store(struct cpu *c, const struct op *o, uint64_t off, const void *buf, unsigned bytes)
{
	uint64_t gva;

	return linear(c, o, off, bytes, true, &gva) && mmu_write_slow(c, gva, buf, bytes);
}

bool sys_get_rm(struct cpu *c, const struct op *o, unsigned size, uint64_t *v)
{
	*v = 0;
	if (o->flags & OP_MEM)
		return sys_load(c, o, 0, v, size);
	*v = sys_get_reg(c, o->rm, size);
	return true;
}

bool sys_set_rm(struct cpu *c, const struct op *o, unsigned size, uint64_t v)
{
	if (o->flags & OP_MEM)
		return sys_store(c, o, 0, &v, size);
	sys_set_reg(c, o->rm, size, v);
	return true;
}

static uint64_t stack_mask(const struct cpu *c)
{
	return c->mode == MODE_64 ? UINT64_MAX : c->stack32 ? UINT32_MAX : 0xffff;
}

bool sys_stack_read(struct cpu *c, int64_t off, unsigned bytes, uint64_t *v)
{
	uint64_t sp = (c->s.gpr[RSP] + (uint64_t)off) & stack_mask(c), gva;

	*v = 0;
	if (!mmu_linear(c, SEG_SS, sp, bytes, MMU_READ, &gva))
		return false;
	return bytes == 8 ? mmu_read_u64(c, gva, v) : mmu_read_slow(c, gva, v, bytes);
}

bool sys_stack_write(struct cpu *c, int64_t off, unsigned bytes, uint64_t v)
{
	uint64_t sp = (c->s.gpr[RSP] + (uint64_t)off) & stack_mask(c), gva;

	return mmu_linear(c, SEG_SS, sp, bytes, MMU_WRITE, &gva) &&
	       mmu_write_slow(c, gva, &v, bytes);
}

void sys_stack_move(struct cpu *c, int64_t off)
{
	uint64_t mask = stack_mask(c), rsp = c->s.gpr[RSP];
	uint64_t kept = mask == 0xffff ? rsp & ~mask : 0;

	c->s.gpr[RSP] = kept | ((rsp + (uint64_t)off) & mask);
}

static bool all_flat(const struct cpu *c)
{
	static const enum seg_reg data[] = { SEG_ES, SEG_SS, SEG_DS };
	const struct segment *cs = &c->s.seg[SEG_CS];

	if (cs->base || cs->limit != UINT32_MAX)
		return false;
	for (unsigned i = 0; i < ARRAY_SIZE(data); i++) {
		const struct segment *s = &c->s.seg[data[i]];

		if (s->base || s->limit != UINT32_MAX || (s->attr & SEG_UNUSABLE) ||
		    (s->attr & 0xe) != TYPE_RW) /* writable data that grows up */
			return false;
	}
	return true;
}

/* CPL is SS.DPL: right also in the instant after CR0.PE is set, and with a null SS. */
void cpu_update_mode(struct cpu *c)
{
	const struct segment *cs = &c->s.seg[SEG_CS], *ss = &c->s.seg[SEG_SS];

	c->cpl = (uint8_t)(sys_protected(c) ? seg_dpl(ss) : 0);
	if (sys_long_mode(c) && (cs->attr & SEG_L))
		c->mode = MODE_64;
	else
		c->mode = cs->attr & SEG_DB ? MODE_32 : MODE_16;
	c->stack32 = ss->attr & SEG_DB;
	c->flat = c->mode == MODE_64 || all_flat(c);
	mmu_switch(c, false);
}

/* --- flags -------------------------------------------------------------------------------- */

void sys_window_opened(struct cpu *c)
{
	if (lapic_pending(c) || c->s.nmi_pending)
		atomic_store_explicit(&c->vcpu->attention, 1, memory_order_relaxed);
}

void sys_write_flags(struct cpu *c, uint64_t rflags)
{
	uint64_t changed = c->s.rflags ^ rflags;

	cpu_set_rflags(c, rflags);
	if (changed & (RFLAGS_TF | RFLAGS_RF))
		debug_update(c);
	if (changed & RFLAGS_AC)
		mmu_switch(c, false);
	if (changed & rflags & RFLAGS_IF)
		sys_window_opened(c);
}

uint64_t sys_flags_mask(const struct cpu *c, unsigned size)
{
	uint64_t mask = RFLAGS_ARITH | RFLAGS_TF | RFLAGS_DF | RFLAGS_NT;
	unsigned iopl = (c->s.rflags & RFLAGS_IOPL) >> 12;

	if (size > 2)
		mask |= RFLAGS_AC | RFLAGS_ID;
	if (c->cpl <= iopl)
		mask |= RFLAGS_IF;
	if (!c->cpl)
		mask |= RFLAGS_IOPL;
	return mask;
}

static bool iopl_allows(struct cpu *c)
{
	if (c->cpl <= (c->s.rflags & RFLAGS_IOPL) >> 12)
		return true;
	cpu_raise_error(c, EXC_GP, 0);
	return false;
}

enum sys_result sys_cli(struct cpu *c, const struct op *o)
{
	if (!iopl_allows(c))
		return SYS_FAULT;
	c->s.rflags &= ~(uint64_t)RFLAGS_IF;
	return SYS_NEXT;
}

enum sys_result sys_sti(struct cpu *c, const struct op *o)
{
	if (!iopl_allows(c))
		return SYS_FAULT;
	if (!(c->s.rflags & RFLAGS_IF)) {
		c->s.rflags |= RFLAGS_IF;
		c->s.sti_shadow = true;
		sys_window_opened(c);
	}
	return SYS_NEXT;
}

static enum sys_result set_ac(struct cpu *c, bool on)
{
	if (!cpu_has(&c->vm->cpuid, CPU_SMAP) || c->cpl)
		return sys_fault(c, EXC_UD);
	sys_write_flags(c, on ? cpu_rflags(c) | RFLAGS_AC : cpu_rflags(c) & ~(uint64_t)RFLAGS_AC);
	return SYS_NEXT;
}

enum sys_result sys_clac(struct cpu *c, const struct op *o)
{
	return set_ac(c, false);
}

enum sys_result sys_stac(struct cpu *c, const struct op *o)
{
	return set_ac(c, true);
}

enum sys_result sys_pushf(struct cpu *c, const struct op *o)
{
	uint64_t flags = cpu_rflags(c) & ~(uint64_t)(RFLAGS_RF | RFLAGS_VM);
	int64_t n = o->size;

	if (!sys_stack_write(c, -n, o->size, flags))
		return SYS_FAULT;
	sys_stack_move(c, -n);
	return SYS_NEXT;
}

enum sys_result sys_popf(struct cpu *c, const struct op *o)
{
	uint64_t mask = sys_flags_mask(c, o->size), flags;

	if (!sys_stack_read(c, 0, o->size, &flags))
		return SYS_FAULT;
	sys_stack_move(c, o->size);
	sys_write_flags(c, (cpu_rflags(c) & ~(mask | RFLAGS_RF)) | (flags & mask));
	return SYS_NEXT;
}

/* --- interrupts ----------------------------------------------------------------------------------
 */

static enum sys_result software_interrupt(struct cpu *c, const struct op *o, uint8_t vector,
					  bool privileged)
{
	uint64_t rip = c->s.rip;

	c->s.rip = sys_next_rip(c, o);
	if (cpu_software_interrupt(c, vector, privileged))
		return SYS_JUMP;
	c->s.rip = rip;
	return SYS_FAULT;
}

enum sys_result sys_int(struct cpu *c, const struct op *o)
{
	return software_interrupt(c, o, (uint8_t)o->imm, false);
}

enum sys_result sys_int1(struct cpu *c, const struct op *o)
{
	return software_interrupt(c, o, EXC_DB, true);
}

enum sys_result sys_int3(struct cpu *c, const struct op *o)
{
	return software_interrupt(c, o, EXC_BP, false);
}

enum sys_result sys_into(struct cpu *c, const struct op *o)
{
	if (c->mode == MODE_64)
		return sys_fault(c, EXC_UD);
	return c->fl & FL_OF ? software_interrupt(c, o, EXC_OF, false) : SYS_NEXT;
}

enum sys_result sys_undefined(struct cpu *c, const struct op *o)
{
	return sys_fault(c, EXC_UD);
}

enum sys_result sys_hlt(struct cpu *c, const struct op *o)
{
	if (!sys_require_cpl0(c))
		return SYS_FAULT;
	c->s.rip = sys_next_rip(c, o);
	c->s.mp_state = MP_HALTED;
	c->s.sti_shadow = false;
	c->s.movss_shadow = false;
	c->exit->reason = EXIT_HALT;
	return SYS_EXIT;
}

/* A spinning vCPU may keep the one it waits for from its PU. */
enum sys_result sys_pause(struct cpu *c, const struct op *o)
{
	if (++c->pauses >= SPIN_PAUSES) {
		c->pauses = 0;
		pv_yield(c);
	}
	return SYS_NEXT;
}

/* --- time, identity, randomness
 * ----------------------------------------------------------------------- */

uint64_t cpu_tsc(struct cpu *c)
{
	xlat_outside(c);
	return clock_ticks(&c->vm->clock) + c->s.tsc_offset;
}

static void set_edx_eax(struct cpu *c, uint64_t v)
{
	c->s.gpr[RAX] = (uint32_t)v;
	c->s.gpr[RDX] = v >> 32;
}

enum sys_result sys_cpuid(struct cpu *c, const struct op *o)
{
	struct cpuid_regs r;

	xlat_outside(c);
	r = cpuid_query(&c->vm->cpuid, c->vcpu->id, (uint32_t)c->s.gpr[RAX],
			(uint32_t)c->s.gpr[RCX], c->s.cr4, c->s.xcr0, c->s.apic_base);
	c->s.gpr[RAX] = r.eax;
	c->s.gpr[RBX] = r.ebx;
	c->s.gpr[RCX] = r.ecx;
	c->s.gpr[RDX] = r.edx;
	stat_add(&c->vcpu->stats, STAT_CPUID, 1);
	codemap_verify(c);
	return SYS_NEXT;
}

enum sys_result sys_rdtsc(struct cpu *c, const struct op *o)
{
	bool with_id = o->mnemonic == ZYDIS_MNEMONIC_RDTSCP;

	if (with_id && !cpu_has(&c->vm->cpuid, CPU_RDTSCP))
		return sys_fault(c, EXC_UD);
	if ((c->s.cr4 & CR4_TSD) && c->cpl)
		return sys_gp(c, 0);
	set_edx_eax(c, cpu_tsc(c));
	if (with_id)
		c->s.gpr[RCX] = (uint32_t)c->s.tsc_aux;
	return SYS_NEXT;
}

/* No counters are offered. */
enum sys_result sys_rdpmc(struct cpu *c, const struct op *o)
{
	return sys_gp(c, 0);
}

enum sys_result sys_rdpid(struct cpu *c, const struct op *o)
{
	if (!cpu_has(&c->vm->cpuid, CPU_RDPID))
		return sys_fault(c, EXC_UD);
	sys_set_reg(c, o->rm, 8, (uint32_t)c->s.tsc_aux);
	return SYS_NEXT;
}

/* Under CLOCK_ICOUNT runs repeat exactly, random numbers included (splitmix64). */
static uint64_t icount_random(struct soft_vm *sv)
{
	uint64_t z = sv->rng += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

enum sys_result sys_rdrand(struct cpu *c, const struct op *o)
{
	enum cpu_feature f = o->mnemonic == ZYDIS_MNEMONIC_RDSEED ? CPU_RDSEED : CPU_RDRAND;
	const struct host *h = &c->vm->host;
	uint64_t v = 0;
	bool ok = true;

	if (!cpu_has(&c->vm->cpuid, f))
		return sys_fault(c, EXC_UD);
	if (c->vm->clock.source == CLOCK_ICOUNT)
		v = icount_random(soft_of(c->vm));
	else
		ok = !h->ops->entropy(h->ctx, &v, sizeof(v));
	sys_set_reg(c, o->rm, o->size, ok ? v : 0);
	c->fl = ok ? FL_CF : 0;
	return SYS_NEXT;
}
