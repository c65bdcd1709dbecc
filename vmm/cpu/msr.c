/*
 * msr.c - RDMSR and WRMSR. SDM vol. 4, and the KVM paravirtual numbers (pv.c).
 *
 * An MSR that is not here does not exist: #GP, counted, and named once a machine in
 * the log, since what a guest misses is worth knowing.
 */
#include "cpu/codemap.h"
#include "cpu/lapic.h"
#include "cpu/mmu.h"
#include "cpu/pv.h"
#include "cpu/soft.h"
#include "cpu/sys.h"
#include "cpu/xlat.h"

enum {
	MSR_P5_MC_ADDR = 0x0,
	MSR_P5_MC_TYPE = 0x1,
	MSR_TSC = 0x10,
	MSR_PLATFORM_ID = 0x17,
	MSR_APIC_BASE = 0x1b,
	MSR_SMI_COUNT = 0x34,
	MSR_FEATURE_CONTROL = 0x3a,
	MSR_TSC_ADJUST = 0x3b,
	MSR_SPEC_CTRL = 0x48,
	MSR_PRED_CMD = 0x49,
	MSR_UCODE_WRITE = 0x79,
	MSR_UCODE_REV = 0x8b,
	MSR_PLATFORM_INFO = 0xce,
	MSR_MTRR_CAP = 0xfe,
	MSR_ARCH_CAPABILITIES = 0x10a,
	MSR_MISC_FEATURES = 0x140,
	MSR_SYSENTER_CS = 0x174,
	MSR_SYSENTER_ESP = 0x175,
	MSR_SYSENTER_EIP = 0x176,
	MSR_MCG_CAP = 0x179,
	MSR_MCG_STATUS = 0x17a,
	MSR_MISC_ENABLE = 0x1a0,
	MSR_DEBUG_CTL = 0x1d9,
	MSR_MTRR_PHYS = 0x200,
	MSR_MTRR_PHYS_END = 0x20f,
	MSR_PAT = 0x277,
	MSR_MTRR_DEF_TYPE = 0x2ff,
	MSR_TSC_DEADLINE = 0x6e0,
	MSR_X2APIC = 0x800,
	MSR_X2APIC_END = 0x8ff,
	MSR_EFER = (int)0xc0000080,
	MSR_STAR,
	MSR_LSTAR,
	MSR_CSTAR,
	MSR_SFMASK,
	MSR_FS_BASE = (int)0xc0000100,
	MSR_GS_BASE,
	MSR_KERNEL_GS_BASE,
	MSR_TSC_AUX
};

#define MTRR_VARIABLE            8
#define MTRR_CAP                 (MTRR_VARIABLE | BIT(8) | BIT(10)) /* fixed ranges, write-combining */
#define MISC_ENABLE_FAST_STRINGS BIT(0)
#define MISC_ENABLE_NO_BTS       BIT(11)
#define MISC_ENABLE_NO_PEBS      BIT(12)
#define SPEC_CTRL_IBRS           BIT(0)
#define SPEC_CTRL_STIBP          BIT(1)
#define SPEC_CTRL_SSBD           BIT(2)
#define SPEC_CTRL_BHI_DIS_S      BIT(10)
#define FEATURE_CONTROL_LOCKED   BIT(0)
#define UCODE_REVISION           (1ull << 32) /* revision in the upper half */

/* --- memory types ---------------------------------------------------------------------- */

static bool memory_type_ok(unsigned type)
{
	return type == 0 || type == 1 || type == 4 || type == 5 || type == 6;
}

/* Eight types, one a byte; PAT knows one more, UC-. */
static bool memory_types_ok(uint64_t v, bool pat)
{
	for (unsigned i = 0; i < 8; i++) {
		unsigned type = v >> (i * 8) & 0xff;

		if (!memory_type_ok(type) && !(pat && type == 7))
			return false;
	}
	return true;
}

static uint64_t phys_reserved(const struct cpu *c)
{
	return ~(BIT64(c->vm->cpuid.phys_bits) - 1);
}

static bool mtrr_phys_ok(const struct cpu *c, uint32_t msr, uint64_t v)
{
	if (v & phys_reserved(c))
		return false;
	if (msr & 1) /* a mask */
		return !(v & 0x7ff);
	return !(v & 0xf00) && memory_type_ok(v & 0xff);
}

static uint64_t *mtrr_fixed(struct cpu *c, uint32_t msr)
{
	if (msr == 0x250)
		return &c->s.mtrr_fixed[0];
	if (msr == 0x258 || msr == 0x259)
		return &c->s.mtrr_fixed[1 + (msr - 0x258)];
	if (msr >= 0x268 && msr <= 0x26f)
		return &c->s.mtrr_fixed[3 + (msr - 0x268)];
	return NULL;
}

/* --- EFER and the time-stamp counter -------------------------------------------------------- */

static bool set_efer(struct cpu *c, uint64_t v)
{
	const struct cpuid_model *m = &c->vm->cpuid;
	uint64_t defined = EFER_LMA, changed = v ^ c->s.efer;

	defined |= cpu_has(m, CPU_SYSCALL) ? EFER_SCE : 0;
	defined |= cpu_has(m, CPU_LM) ? EFER_LME : 0;
	defined |= cpu_has(m, CPU_NX) ? EFER_NXE : 0;
	if (v & ~defined)
		return false;
	if ((changed & EFER_LME) && (c->s.cr0 & CR0_PG))
		return false;
	c->s.efer = (v & ~(uint64_t)EFER_LMA) | (c->s.efer & EFER_LMA);
	if (changed & EFER_NXE)
		mmu_switch(c, true);
	return true;
}

static void move_tsc(struct cpu *c, uint64_t by)
{
	c->s.tsc_offset += by;
	c->s.tsc_adjust += by;
	lapic_tsc_changed(c);
	pv_clock_update(c);
}

/* --- reading ------------------------------------------------------------------------------------
 */

static bool read_plain(struct cpu *c, uint32_t msr, uint64_t *v)
{
	const struct cpu_state *s = &c->s;

	switch (msr) {
	case MSR_P5_MC_ADDR:
	case MSR_P5_MC_TYPE:
	case MSR_PLATFORM_ID:
	case MSR_SMI_COUNT:
	case MSR_PLATFORM_INFO:
	case MSR_MISC_FEATURES:
	case MSR_MCG_CAP: /* no banks */
	case MSR_MCG_STATUS:
	case MSR_DEBUG_CTL:
		*v = 0;
		return true;
	case MSR_FEATURE_CONTROL:
		*v = FEATURE_CONTROL_LOCKED;
		return true;
	case MSR_UCODE_REV:
		*v = UCODE_REVISION;
		return true;
	case MSR_MTRR_CAP:
		*v = MTRR_CAP;
		return true;
	case MSR_TSC:
		*v = cpu_tsc(c);
		return true;
	case MSR_APIC_BASE:
		*v = s->apic_base;
		return true;
	case MSR_SYSENTER_CS:
		*v = s->sysenter_cs;
		return true;
	case MSR_SYSENTER_ESP:
		*v = s->sysenter_esp;
		return true;
	case MSR_SYSENTER_EIP:
		*v = s->sysenter_eip;
		return true;
	case MSR_MISC_ENABLE:
		*v = s->misc_enable;
		return true;
	case MSR_PAT:
		*v = s->pat;
		return true;
	case MSR_MTRR_DEF_TYPE:
		*v = s->mtrr_def_type;
		return true;
	default:
		return false;
	}
}

static bool read_long(struct cpu *c, uint32_t msr, uint64_t *v)
{
	const struct cpu_state *s = &c->s;

	switch ((int)msr) {
	case MSR_EFER:
		*v = s->efer;
		return true;
	case MSR_STAR:
		*v = s->star;
		return true;
	case MSR_LSTAR:
		*v = s->lstar;
		return true;
	case MSR_CSTAR:
		*v = s->cstar;
		return true;
	case MSR_SFMASK:
		*v = s->sfmask;
		return true;
	case MSR_FS_BASE:
		*v = s->seg[SEG_FS].base;
		return true;
	case MSR_GS_BASE:
		*v = s->seg[SEG_GS].base;
		return true;
	case MSR_KERNEL_GS_BASE:
		*v = s->kernel_gs_base;
		return true;
	default:
		return false;
	}
}

/* MSRs that exist when CPUID says so. */
static bool read_featured(struct cpu *c, uint32_t msr, uint64_t *v)
{
	const struct cpuid_model *m = &c->vm->cpuid;

	switch ((int)msr) {
	case MSR_TSC_ADJUST:
		*v = c->s.tsc_adjust;
		return cpu_has(m, CPU_TSC_ADJUST);
	case MSR_SPEC_CTRL:
		*v = c->s.spec_ctrl;
		return cpu_has(m, CPU_SPEC_CTRL);
	case MSR_ARCH_CAPABILITIES:
		*v = m->arch_capabilities;
		return cpu_has(m, CPU_ARCH_CAPABILITIES);
	case MSR_TSC_DEADLINE:
		*v = lapic_tsc_deadline(c);
		return cpu_has(m, CPU_TSC_DEADLINE);
	case MSR_TSC_AUX:
		*v = c->s.tsc_aux;
		return cpu_has(m, CPU_RDTSCP) || cpu_has(m, CPU_RDPID);
	default:
		return false;
	}
}

static bool msr_read(struct cpu *c, uint32_t msr, uint64_t *v)
{
	uint64_t *fixed = mtrr_fixed(c, msr);

	if (fixed) {
		*v = *fixed;
		return true;
	}
	if (msr >= MSR_MTRR_PHYS && msr <= MSR_MTRR_PHYS_END) {
		*v = c->s.mtrr_phys[msr - MSR_MTRR_PHYS];
		return true;
	}
	return read_plain(c, msr, v) || read_long(c, msr, v) || read_featured(c, msr, v);
}

/* --- writing
 * ---------------------------------------------------------------------------------------- */

enum msr_result { MSR_OK, MSR_BAD, MSR_UNKNOWN };

static enum msr_result ok_if(bool ok)
{
	return ok ? MSR_OK : MSR_BAD;
}

static enum msr_result store_if(bool ok, uint64_t *field, uint64_t v)
{
	if (ok)
		*field = v;
	return ok_if(ok);
}

/* The bases of the segment registers and addresses that become RIP or RSP. */
static enum msr_result write_long(struct cpu *c, uint32_t msr, uint64_t v)
{
	struct cpu_state *s = &c->s;
	bool canonical = sys_canonical(v);

	switch ((int)msr) {
	case MSR_EFER:
		return ok_if(set_efer(c, v));
	case MSR_STAR:
		return store_if(true, &s->star, v);
	case MSR_LSTAR:
		return store_if(canonical, &s->lstar, v);
	case MSR_CSTAR:
		return store_if(canonical, &s->cstar, v);
	case MSR_SFMASK:
		return store_if(!(v >> 32), &s->sfmask, v);
	case MSR_FS_BASE:
		return store_if(canonical, &s->seg[SEG_FS].base, v);
	case MSR_GS_BASE:
		return store_if(canonical, &s->seg[SEG_GS].base, v);
	case MSR_KERNEL_GS_BASE:
		return store_if(canonical, &s->kernel_gs_base, v);
	case MSR_SYSENTER_CS:
		return store_if(true, &s->sysenter_cs, (uint32_t)v);
	case MSR_SYSENTER_ESP:
		return store_if(canonical, &s->sysenter_esp, v);
	case MSR_SYSENTER_EIP:
		return store_if(canonical, &s->sysenter_eip, v);
	default:
		return MSR_UNKNOWN;
	}
}

static enum msr_result write_plain(struct cpu *c, uint32_t msr, uint64_t v)
{
	const uint64_t misc_fixed = MISC_ENABLE_NO_BTS | MISC_ENABLE_NO_PEBS;

	switch (msr) {
	case MSR_P5_MC_ADDR:
	case MSR_P5_MC_TYPE:
	case MSR_UCODE_WRITE:
	case MSR_UCODE_REV:
		return MSR_OK;
	case MSR_MCG_STATUS:
	case MSR_DEBUG_CTL:
	case MSR_MISC_FEATURES:
		return ok_if(!v);
	case MSR_PLATFORM_ID:
	case MSR_SMI_COUNT:
	case MSR_PLATFORM_INFO:
	case MSR_FEATURE_CONTROL:
	case MSR_MTRR_CAP:
	case MSR_MCG_CAP:
	case MSR_ARCH_CAPABILITIES:
		return MSR_BAD; /* read-only, or locked */
	case MSR_TSC:
		move_tsc(c, v - cpu_tsc(c));
		return MSR_OK;
	case MSR_APIC_BASE:
		if (!lapic_set_base(c, v))
			return MSR_BAD;
		mmu_flush_all(c); /* the page has moved */
		return MSR_OK;
	case MSR_MISC_ENABLE:
		return store_if(!(v & ~(uint64_t)(MISC_ENABLE_FAST_STRINGS | misc_fixed)),
				&c->s.misc_enable, v | misc_fixed);
	case MSR_PAT:
		return store_if(memory_types_ok(v, true), &c->s.pat, v);
	case MSR_MTRR_DEF_TYPE:
		return store_if(!(v & ~0xcffull) && memory_type_ok(v & 0xff), &c->s.mtrr_def_type,
				v);
	default:
		return MSR_UNKNOWN;
	}
}

static uint64_t spec_ctrl_bits(const struct cpuid_model *m)
{
	uint64_t bits = SPEC_CTRL_IBRS | SPEC_CTRL_STIBP;

	if (cpu_has(m, CPU_SSBD))
		bits |= SPEC_CTRL_SSBD;
	if (cpu_has(m, CPU_BHI_CTRL))
		bits |= SPEC_CTRL_BHI_DIS_S;
	return bits;
}

static enum msr_result write_featured(struct cpu *c, uint32_t msr, uint64_t v)
{
	const struct cpuid_model *m = &c->vm->cpuid;

	switch ((int)msr) {
	case MSR_TSC_ADJUST:
		if (!cpu_has(m, CPU_TSC_ADJUST))
			return MSR_UNKNOWN;
		move_tsc(c, v - c->s.tsc_adjust);
		return MSR_OK;
	case MSR_SPEC_CTRL:
		if (!cpu_has(m, CPU_SPEC_CTRL))
			return MSR_UNKNOWN;
		return store_if(!(v & ~spec_ctrl_bits(m)), &c->s.spec_ctrl, v);
	case MSR_PRED_CMD: /* there is nothing to flush */
		return cpu_has(m, CPU_SPEC_CTRL) ? ok_if(!(v & ~1ull)) : MSR_UNKNOWN;
	case MSR_TSC_DEADLINE:
		if (!cpu_has(m, CPU_TSC_DEADLINE))
			return MSR_UNKNOWN;
		lapic_set_tsc_deadline(c, v);
		return MSR_OK;
	case MSR_TSC_AUX:
		if (!cpu_has(m, CPU_RDTSCP) && !cpu_has(m, CPU_RDPID))
			return MSR_UNKNOWN;
		return store_if(!(v >> 32), &c->s.tsc_aux, v);
	default:
		return MSR_UNKNOWN;
	}
}

static enum msr_result msr_write(struct cpu *c, uint32_t msr, uint64_t v)
{
	uint64_t *fixed = mtrr_fixed(c, msr);
	enum msr_result r;

	if (fixed)
		return store_if(memory_types_ok(v, false), fixed, v);
	if (msr >= MSR_MTRR_PHYS && msr <= MSR_MTRR_PHYS_END)
		return store_if(mtrr_phys_ok(c, msr, v), &c->s.mtrr_phys[msr - MSR_MTRR_PHYS], v);
	r = write_plain(c, msr, v);
	if (r == MSR_UNKNOWN)
		r = write_long(c, msr, v);
	if (r == MSR_UNKNOWN)
		r = write_featured(c, msr, v);
	return r;
}

/* --- the unknown
 * -------------------------------------------------------------------------------------- */

/* True the first time this machine meets @key; when the set is full, never again. */
static bool first_meeting(struct soft_vm *sv, uint64_t key)
{
	for (unsigned i = 0; i < UNKNOWN_MSRS_MAX; i++) {
		uint64_t seen = 0;

		if (atomic_compare_exchange_strong(&sv->unknown_msr[i], &seen, key))
			return true;
		if (seen == key)
			return false;
	}
	return false;
}

static bool unknown(struct cpu *c, uint32_t msr, bool write)
{
	xlat_outside(c);
	stat_add(&c->vcpu->stats, STAT_UNKNOWN_MSRS, 1);
	if (first_meeting(soft_of(c->vm), BIT64(63) | (uint64_t)write << 32 | msr))
		vcpu_log(c->vcpu, LOG_INFO, "%s of unknown MSR %#x at %#llx: #GP",
			 write ? "write" : "read", msr, (unsigned long long)c->s.rip);
	cpu_raise_error(c, EXC_GP, 0);
	return false;
}

static bool gp_unless(struct cpu *c, bool ok)
{
	if (!ok)
		cpu_raise_error(c, EXC_GP, 0);
	return ok;
}

bool cpu_rdmsr(struct cpu *c, uint32_t msr, uint64_t *v)
{
	bool ok;

	if (msr >= MSR_X2APIC && msr <= MSR_X2APIC_END)
		return gp_unless(c, lapic_msr_read(c, msr, v));
	if (pv_rdmsr(c, msr, v, &ok))
		return gp_unless(c, ok);
	return msr_read(c, msr, v) || unknown(c, msr, false);
}

bool cpu_wrmsr(struct cpu *c, uint32_t msr, uint64_t v)
{
	enum msr_result r;
	bool ok;

	if (msr >= MSR_X2APIC && msr <= MSR_X2APIC_END)
		return gp_unless(c, lapic_msr_write(c, msr, v));
	if (pv_wrmsr(c, msr, v, &ok))
		return gp_unless(c, ok);
	r = msr_write(c, msr, v);
	if (r == MSR_UNKNOWN)
		return unknown(c, msr, true);
	return gp_unless(c, r == MSR_OK);
}

enum sys_result sys_rdmsr(struct cpu *c, const struct op *o)
{
	uint64_t v;

	if (!sys_require_cpl0(c))
		return SYS_FAULT;
	stat_add(&c->vcpu->stats, STAT_MSR, 1);
	if (!cpu_rdmsr(c, (uint32_t)c->s.gpr[RCX], &v))
		return SYS_FAULT;
	c->s.gpr[RAX] = (uint32_t)v;
	c->s.gpr[RDX] = v >> 32;
	return SYS_NEXT;
}

enum sys_result sys_wrmsr(struct cpu *c, const struct op *o)
{
	uint64_t v = (c->s.gpr[RDX] << 32) | (uint32_t)c->s.gpr[RAX];

	if (!sys_require_cpl0(c))
		return SYS_FAULT;
	stat_add(&c->vcpu->stats, STAT_MSR, 1);
	if (!cpu_wrmsr(c, (uint32_t)c->s.gpr[RCX], v))
		return SYS_FAULT;
	codemap_verify(c);
	return SYS_NEXT;
}
