/*
 * control.c - control and debug registers, descriptor-table registers, TLB and
 * cache instructions, XCR0. SDM vol. 3, 2.5; vol. 2, the instructions' pages.
 */
#include "cpu/codemap.h"
#include "cpu/debug.h"
#include "cpu/lapic.h"
#include "cpu/mmu.h"
#include "cpu/sys.h"
#include "cpu/xlat.h"
#include "cpu/xstate.h"

#define CR0_DEFINED                                                                                \
	(CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | \
	 CR0_PG)
#define CR3_NO_FLUSH BIT64(63)

#define DR6_WRITABLE 0xe00full
#define DR7_WRITABLE 0xffff23ffull

static unsigned wide_size(const struct cpu *c)
{
	return c->mode == MODE_64 ? 8 : 4;
}

/* --- CR0 -------------------------------------------------------------------------------- */

static bool gp0(struct cpu *c)
{
	cpu_raise_error(c, EXC_GP, 0);
	return false;
}

static bool cr0_valid(struct cpu *c, uint64_t v)
{
	bool enables = (v & CR0_PG) && !(c->s.cr0 & CR0_PG);

	if (v >> 32 || ((v & CR0_PG) && !(v & CR0_PE)) || ((v & CR0_NW) && !(v & CR0_CD)))
		return gp0(c);
	if (!(v & CR0_PG) && ((c->s.cr4 & CR4_PCIDE) || c->mode == MODE_64))
		return gp0(c);
	if (!enables)
		return true;
	if (c->s.efer & EFER_LME) {
		if (!(c->s.cr4 & CR4_PAE) || (c->s.seg[SEG_CS].attr & SEG_L))
			return gp0(c);
	} else if ((c->s.cr4 & CR4_PAE) && !mmu_pdptes_valid(c, c->s.cr3)) {
		return gp0(c);
	}
	return true;
}

static bool set_cr0(struct cpu *c, uint64_t v)
{
	uint64_t changed;

	if (!cr0_valid(c, v))
		return false;
	v = (v & CR0_DEFINED) | CR0_ET;
	changed = v ^ c->s.cr0;
	c->s.cr0 = v;
	if (changed & CR0_PG) {
		if ((v & CR0_PG) && (c->s.efer & EFER_LME))
			c->s.efer |= EFER_LMA;
		else
			c->s.efer &= ~(uint64_t)EFER_LMA;
	}
	if (changed & (CR0_PG | CR0_WP | CR0_PE))
		mmu_switch(c, true);
	cpu_update_mode(c);
	return true;
}

/* --- CR3 and CR4 ---------------------------------------------------------------------------- */

static bool set_cr3(struct cpu *c, uint64_t v)
{
	bool keep = (c->s.cr4 & CR4_PCIDE) && (v & CR3_NO_FLUSH);
	bool pae = (c->s.cr0 & CR0_PG) && (c->s.cr4 & CR4_PAE) && !sys_long_mode(c);

	if (c->s.cr4 & CR4_PCIDE)
		v &= ~CR3_NO_FLUSH;
	if (sys_long_mode(c) && v >> c->vm->cpuid.phys_bits)
		return gp0(c);
	if (pae && !mmu_pdptes_valid(c, v))
		return gp0(c);
	c->s.cr3 = v;
	if (keep)
		mmu_switch(c, false);
	else
		mmu_flush_context(c);
	return true;
}

static uint64_t cr4_defined(const struct cpu *c)
{
	static const struct {
		enum cpu_feature feature;
		uint32_t bits;
	} by_feature[] = {
		{ CPU_TSC, CR4_TSD },     { CPU_DE, CR4_DE },
		{ CPU_PSE, CR4_PSE },     { CPU_PAE, CR4_PAE },
		{ CPU_MCE, CR4_MCE },     { CPU_PGE, CR4_PGE },
		{ CPU_FXSR, CR4_OSFXSR }, { CPU_SSE, CR4_OSXMMEXCPT },
		{ CPU_UMIP, CR4_UMIP },   { CPU_FSGSBASE, CR4_FSGSBASE },
		{ CPU_PCID, CR4_PCIDE },  { CPU_XSAVE, CR4_OSXSAVE },
		{ CPU_SMEP, CR4_SMEP },   { CPU_SMAP, CR4_SMAP },
	};
	uint64_t bits = CR4_PCE;

	for (unsigned i = 0; i < ARRAY_SIZE(by_feature); i++) {
		if (cpu_has(&c->vm->cpuid, by_feature[i].feature))
			bits |= by_feature[i].bits;
	}
	return bits;
}

static bool cr4_valid(struct cpu *c, uint64_t v, uint64_t changed)
{
	bool paging = c->s.cr0 & CR0_PG;

	if (v & ~cr4_defined(c))
		return gp0(c);
	if (sys_long_mode(c) && !(v & CR4_PAE))
		return gp0(c);
	if ((changed & v & CR4_PCIDE) && (!sys_long_mode(c) || (c->s.cr3 & 0xfff)))
		return gp0(c);
	if (paging && (v & CR4_PAE) && !sys_long_mode(c) && (changed & CR4_PAE) &&
	    !mmu_pdptes_valid(c, c->s.cr3))
		return gp0(c);
	return true;
}

static bool set_cr4(struct cpu *c, uint64_t v)
{
	uint64_t changed = v ^ c->s.cr4;

	if (!cr4_valid(c, v, changed))
		return false;
	c->s.cr4 = v;
	mmu_switch(c, changed & (CR4_PGE | CR4_PAE | CR4_PSE | CR4_PCIDE | CR4_SMEP | CR4_SMAP));
	return true;
}

/* --- MOV CR -------------------------------------------------------------------------------------
 */

enum sys_result sys_mov_from_cr(struct cpu *c, const struct op *o)
{
	uint64_t v;

	if (!sys_require_cpl0(c))
		return SYS_FAULT;
	switch (o->reg) {
	case 0:
		v = c->s.cr0;
		break;
	case 2:
		v = c->s.cr2;
		break;
	case 3:
		v = c->s.cr3;
		break;
	case 4:
		v = c->s.cr4;
		break;
	case 8:
		v = lapic_cr8(c);
		break;
	default:
		return sys_fault(c, EXC_UD);
	}
	sys_set_reg(c, o->rm, wide_size(c), v);
	return SYS_NEXT;
}

static bool set_cr8(struct cpu *c, uint64_t v)
{
	if (v >> 4)
		return gp0(c);
	lapic_set_cr8(c, v);
	return true;
}

enum sys_result sys_mov_to_cr(struct cpu *c, const struct op *o)
{
	uint64_t v = sys_get_reg(c, o->rm, wide_size(c));
	bool ok = true;

	if (!sys_require_cpl0(c))
		return SYS_FAULT;
	switch (o->reg) {
	case 0:
		ok = set_cr0(c, v);
		break;
	case 2:
		c->s.cr2 = v;
		break;
	case 3:
		ok = set_cr3(c, v);
		break;
	case 4:
		ok = set_cr4(c, v);
		break;
	case 8:
		ok = set_cr8(c, v);
		break;
	default:
		return sys_fault(c, EXC_UD);
	}
	codemap_verify(c);
	return ok ? SYS_NEXT : SYS_FAULT;
}

enum sys_result sys_clts(struct cpu *c, const struct op *o)
{
	if (!sys_require_cpl0(c))
		return SYS_FAULT;
	c->s.cr0 &= ~(uint64_t)CR0_TS;
	return SYS_NEXT;
}

static bool umip_allows(struct cpu *c)
{
	return !(c->s.cr4 & CR4_UMIP) || !c->cpl || gp0(c);
}

enum sys_result sys_smsw(struct cpu *c, const struct op *o)
{
	unsigned size = o->flags & OP_MEM ? 2 : o->size;

	return umip_allows(c) && sys_set_rm(c, o, size, c->s.cr0) ? SYS_NEXT : SYS_FAULT;
}

/* Sets PE, MP, EM and TS, and cannot clear PE. */
enum sys_result sys_lmsw(struct cpu *c, const struct op *o)
{
	uint64_t v;

	if (!sys_require_cpl0(c) || !sys_get_rm(c, o, 2, &v))
		return SYS_FAULT;
	v = (c->s.cr0 & ~0xeull) | (v & 0xf);
	return set_cr0(c, v) ? SYS_NEXT : SYS_FAULT;
}

/* --- MOV DR
 * ----------------------------------------------------------------------------------------- */

/* DR4 and DR5 are names of DR6 and DR7, unless CR4.DE does away with them. */
static bool debug_register(struct cpu *c, const struct op *o, unsigned *n)
{
	*n = o->reg;
	if (*n > 7 || ((*n == 4 || *n == 5) && (c->s.cr4 & CR4_DE))) {
		cpu_raise(c, EXC_UD);
		return false;
	}
	if (*n == 4 || *n == 5)
		*n += 2;
	if (!sys_require_cpl0(c))
		return false;
	if (c->s.dr7 & DR7_GD) {
		cpu_raise_db(c, DR6_BD);
		return false;
	}
	return true;
}

enum sys_result sys_mov_from_dr(struct cpu *c, const struct op *o)
{
	unsigned n;

	if (!debug_register(c, o, &n))
		return SYS_FAULT;
	sys_set_reg(c, o->rm, wide_size(c), n == 6 ? c->s.dr6 : n == 7 ? c->s.dr7 : c->s.dr[n]);
	return SYS_NEXT;
}

enum sys_result sys_mov_to_dr(struct cpu *c, const struct op *o)
{
	uint64_t v = sys_get_reg(c, o->rm, wide_size(c));
	unsigned n;

	if (!debug_register(c, o, &n))
		return SYS_FAULT;
	if (n >= 6 && v >> 32)
		return sys_gp(c, 0);
	if (n == 6)
		c->s.dr6 = (v & DR6_WRITABLE) | DR6_INIT;
	else if (n == 7)
		c->s.dr7 = (v & DR7_WRITABLE) | DR7_INIT;
	else
		c->s.dr[n] = v;
	debug_update(c);
	return SYS_NEXT;
}

/* --- GDTR and IDTR
 * -------------------------------------------------------------------------------------- */

static enum sys_result load_table(struct cpu *c, const struct op *o, struct desc_table *t)
{
	uint64_t base = 0;
	uint16_t limit;

	if (!(o->flags & OP_MEM))
		return sys_fault(c, EXC_UD);
	if (!sys_require_cpl0(c) || !sys_load(c, o, 0, &limit, 2) ||
	    !sys_load(c, o, 2, &base, o->size == 8 ? 8 : 4))
		return SYS_FAULT;
	if (o->size == 2)
		base &= 0xffffff;
	if (o->size == 8 && !sys_canonical(base))
		return sys_gp(c, 0);
	*t = (struct desc_table){ .base = base, .limit = limit };
	return SYS_NEXT;
}

static enum sys_result store_table(struct cpu *c, const struct op *o, const struct desc_table *t)
{
	uint8_t buf[10];
	unsigned bytes = o->size == 8 ? 10 : 6;

	if (!(o->flags & OP_MEM))
		return sys_fault(c, EXC_UD);
	store_u16(buf, t->limit);
	store_u64(buf + 2, t->base);
	return umip_allows(c) && sys_store(c, o, 0, buf, bytes) ? SYS_NEXT : SYS_FAULT;
}

enum sys_result sys_lgdt(struct cpu *c, const struct op *o)
{
	return load_table(c, o, &c->s.gdtr);
}

enum sys_result sys_lidt(struct cpu *c, const struct op *o)
{
	return load_table(c, o, &c->s.idtr);
}

enum sys_result sys_sgdt(struct cpu *c, const struct op *o)
{
	return store_table(c, o, &c->s.gdtr);
}

enum sys_result sys_sidt(struct cpu *c, const struct op *o)
{
	return store_table(c, o, &c->s.idtr);
}

/* --- TLB and caches
 * ------------------------------------------------------------------------------------------ */

/* Neither the segment's limit nor a non-canonical address is an error. */
enum sys_result sys_invlpg(struct cpu *c, const struct op *o)
{
	uint64_t gva = op_ea(c, o);

	if (!sys_require_cpl0(c))
		return SYS_FAULT;
	if (c->mode != MODE_64)
		gva = (uint32_t)(gva + c->s.seg[o->seg].base);
	else if (o->seg == SEG_FS || o->seg == SEG_GS)
		gva += c->s.seg[o->seg].base;
	mmu_flush_page(c, gva);
	codemap_verify(c);
	return SYS_NEXT;
}

enum sys_result sys_invpcid(struct cpu *c, const struct op *o)
{
	uint64_t type = sys_get_reg(c, o->reg, wide_size(c)), desc[2];

	if (!cpu_has(&c->vm->cpuid, CPU_INVPCID) || !sys_protected(c))
		return sys_fault(c, EXC_UD);
	if (!sys_require_cpl0(c) || !sys_load(c, o, 0, desc, sizeof(desc)))
		return SYS_FAULT;
	if (type > 3 || desc[0] >> 12)
		return sys_gp(c, 0);
	if (type < 2 && desc[0] && !(c->s.cr4 & CR4_PCIDE))
		return sys_gp(c, 0);
	if (type == 0 && !sys_canonical(desc[1]))
		return sys_gp(c, 0);
	mmu_invpcid(c, (unsigned)type, desc[0], desc[1]);
	codemap_verify(c);
	return SYS_NEXT;
}

/* Guest memory is as coherent as the host's. */
enum sys_result sys_wbinvd(struct cpu *c, const struct op *o)
{
	codemap_verify(c);
	return sys_require_cpl0(c) ? SYS_NEXT : SYS_FAULT;
}

/* Only the access is checked. */
enum sys_result sys_clflush(struct cpu *c, const struct op *o)
{
	uint8_t byte;

	return sys_load(c, o, 0, &byte, 1) ? SYS_NEXT : SYS_FAULT;
}

/* --- XCR0
 * ------------------------------------------------------------------------------------------------------
 */

/* What is in the registers counts. */
static uint64_t in_use(struct cpu *c)
{
	xlat_outside(c);
	return xstate_in_use(c);
}

enum sys_result sys_xgetbv(struct cpu *c, const struct op *o)
{
	uint64_t v;

	if (!(c->s.cr4 & CR4_OSXSAVE))
		return sys_fault(c, EXC_UD);
	if ((uint32_t)c->s.gpr[RCX] == 0)
		v = c->s.xcr0;
	else if ((uint32_t)c->s.gpr[RCX] == 1 && cpu_has(&c->vm->cpuid, CPU_XGETBV1))
		v = c->s.xcr0 & in_use(c);
	else
		return sys_gp(c, 0);
	c->s.gpr[RAX] = (uint32_t)v;
	c->s.gpr[RDX] = v >> 32;
	return SYS_NEXT;
}

static bool xcr0_valid(const struct cpu *c, uint64_t v)
{
	if ((v & ~cpuid_xcr0(&c->vm->cpuid)) || !(v & XCR0_X87))
		return false;
	if ((v & XCR0_AVX) && !(v & XCR0_SSE))
		return false;
	return !(v & XCR0_AVX512) || ((v & XCR0_AVX512) == XCR0_AVX512 && (v & XCR0_AVX));
}

enum sys_result sys_xsetbv(struct cpu *c, const struct op *o)
{
	uint64_t v = (c->s.gpr[RDX] << 32) | (uint32_t)c->s.gpr[RAX];

	if (!(c->s.cr4 & CR4_OSXSAVE))
		return sys_fault(c, EXC_UD);
	if (!sys_require_cpl0(c))
		return SYS_FAULT;
	if ((uint32_t)c->s.gpr[RCX] || !xcr0_valid(c, v))
		return sys_gp(c, 0);
	c->s.xcr0 = v;
	codemap_verify(c);
	return SYS_NEXT;
}
