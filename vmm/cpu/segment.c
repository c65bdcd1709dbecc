/*
 * segment.c - descriptors, segment registers, LDTR, TR, and the instructions that
 * load, store and examine them. Far transfers are in far.c.
 *
 * SDM vol. 3, ch. 3 and 5. Nothing is loaded until everything has been checked.
 */
#include "cpu/segment.h"

#include "cpu/mmu.h"
#include "cpu/sys.h"

/* --- descriptors ------------------------------------------------------------------ */

static struct segment desc_decode(uint16_t sel, uint64_t raw)
{
	struct segment s = {
		.selector = sel,
		.attr = raw >> 40 & 0xf0ff,
		.limit = (uint32_t)((raw & 0xffff) | (raw >> 32 & 0xf0000)),
		.base = (raw >> 16 & 0xffffff) | (raw >> 56 << 24),
	};

	if (s.attr & SEG_G)
		s.limit = s.limit << 12 | 0xfff;
	return s;
}

/* The linear address of a descriptor's first or second half; false: outside its table. */
static bool desc_address(const struct cpu *c, uint16_t sel, unsigned half, uint64_t *gva)
{
	bool local = sel & 4;
	uint64_t base = local ? c->s.ldtr.base : c->s.gdtr.base;
	uint64_t limit = local ? c->s.ldtr.limit : c->s.gdtr.limit;

	if (local && (sel_is_null(c->s.ldtr.selector) || (c->s.ldtr.attr & SEG_UNUSABLE)))
		return false;
	*gva = base + (sel & ~7u) + half * 8u;
	return (sel | 7u) + half * 8u <= limit;
}

bool desc_peek(struct cpu *c, uint16_t sel, struct segment *seg, uint64_t *raw, bool *found)
{
	uint64_t gva, v;

	*found = desc_address(c, sel, 0, &gva);
	if (!*found)
		return true;
	if (!mmu_sys_read(c, gva, &v, sizeof(v)))
		return false;
	*seg = desc_decode(sel, v);
	if (raw)
		*raw = v;
	return true;
}

bool desc_read(struct cpu *c, uint16_t sel, uint8_t vector, struct segment *seg, uint64_t *raw)
{
	bool found;

	if (!desc_peek(c, sel, seg, raw, &found))
		return false;
	return found || seg_fault(c, vector, sel);
}

bool desc_read_high(struct cpu *c, uint16_t sel, uint8_t vector, uint32_t *high)
{
	uint64_t gva, v;

	if (!desc_address(c, sel, 1, &gva))
		return seg_fault(c, vector, sel);
	if (!mmu_sys_read(c, gva, &v, sizeof(v)))
		return false;
	if (v >> 40 & 0x1f) /* the second half has a type of its own, which must be 0 */
		return seg_fault(c, vector, sel);
	*high = (uint32_t)v;
	return true;
}

static bool desc_set_type_bits(struct cpu *c, uint16_t sel, uint8_t bits)
{
	uint64_t gva;
	uint8_t type;

	if (!desc_address(c, sel, 0, &gva) || !mmu_sys_read(c, gva + 5, &type, 1))
		return false;
	type |= bits;
	return mmu_sys_write(c, gva + 5, &type, 1);
}

bool desc_mark_accessed(struct cpu *c, const struct segment *seg)
{
	if (seg->attr & TYPE_ACCESSED)
		return true;
	return desc_set_type_bits(c, seg->selector, TYPE_ACCESSED);
}

/* --- segment registers --------------------------------------------------------------- */

void seg_load_real(struct segment *s, uint16_t sel)
{
	s->selector = sel;
	s->base = (uint64_t)sel << 4;
}

struct segment seg_null_stack(unsigned cpl)
{
	return (struct segment){ .selector = (uint16_t)cpl,
				 .attr = SEG_UNUSABLE | cpl << SEG_DPL_SHIFT };
}

struct segment seg_flat(uint16_t sel, unsigned dpl, bool code, bool long_mode)
{
	uint32_t attr = SEG_P | SEG_S | SEG_G | TYPE_RW | TYPE_ACCESSED | dpl << SEG_DPL_SHIFT;

	if (code)
		attr |= TYPE_CODE;
	attr |= code && long_mode ? SEG_L : SEG_DB;
	return (struct segment){ .selector = sel, .attr = attr, .limit = UINT32_MAX };
}

bool seg_flat_at_hand(struct cpu *c, uint16_t sel, unsigned ring, bool code, struct segment *seg)
{
	uint64_t raw = code ? 0x00af9b000000ffff : 0x00cf93000000ffff, gva;
	const uint8_t *at;

	if (sel_is_null(sel) || (sel & 4) || !desc_address(c, sel, 0, &gva))
		return false;
	at = mmu_sys_readable(c, gva, sizeof(raw));
	if (!at || guest_load_u64(at) != (raw | (uint64_t)ring << 45))
		return false;
	*seg = seg_flat(sel, ring, code, true);
	return true;
}

bool seg_check_stack(struct cpu *c, uint16_t sel, unsigned cpl, uint8_t vector, struct segment *ss)
{
	if (sel_is_null(sel)) {
		if (c->mode != MODE_64 || cpl == 3 || sel_rpl(sel) != cpl)
			return seg_fault(c, vector, 0);
		*ss = seg_null_stack(cpl);
		return true;
	}
	if (!desc_read(c, sel, vector, ss, NULL))
		return false;
	if (sel_rpl(sel) != cpl || !seg_is_writable_data(ss) || seg_dpl(ss) != cpl)
		return seg_fault(c, vector, sel);
	if (!(ss->attr & SEG_P))
		return seg_fault(c, EXC_SS, sel);
	return desc_mark_accessed(c, ss);
}

static bool check_data(struct cpu *c, uint16_t sel, struct segment *seg)
{
	if (sel_is_null(sel)) {
		*seg = (struct segment){ .selector = sel, .attr = SEG_UNUSABLE };
		return true;
	}
	if (!desc_read(c, sel, EXC_GP, seg, NULL))
		return false;
	if (!(seg->attr & SEG_S) || (seg_is_code(seg) && !(seg->attr & TYPE_RW)))
		return seg_fault(c, EXC_GP, sel);
	if (!seg_is_conforming_code(seg) && MAX(sel_rpl(sel), (unsigned)c->cpl) > seg_dpl(seg))
		return seg_fault(c, EXC_GP, sel);
	if (!(seg->attr & SEG_P))
		return seg_fault(c, EXC_NP, sel);
	return desc_mark_accessed(c, seg);
}

bool seg_load(struct cpu *c, enum seg_reg r, uint16_t sel)
{
	struct segment seg;

	if (!sys_protected(c)) {
		seg_load_real(&c->s.seg[r], sel);
		return true;
	}
	if (r == SEG_SS ? !seg_check_stack(c, sel, c->cpl, EXC_GP, &seg)
			: !check_data(c, sel, &seg))
		return false;
	c->s.seg[r] = seg;
	if (c->mode != MODE_64)
		cpu_update_mode(c);
	return true;
}

/* --- stacks out of a TSS ----------------------------------------------------------------- */

static bool tss_read(struct cpu *c, unsigned off, void *buf, unsigned bytes)
{
	if (off + bytes - 1 > c->s.tr.limit)
		return seg_fault(c, EXC_TS, c->s.tr.selector);
	return mmu_sys_read(c, c->s.tr.base + off, buf, bytes);
}

bool tss_stack(struct cpu *c, unsigned cpl, struct segment *ss, uint64_t *sp)
{
	bool is16 = (c->s.tr.attr & SEG_TYPE) <= DESC_TSS16_BUSY;
	uint8_t buf[6];

	if (is16) {
		if (!tss_read(c, 2 + cpl * 4, buf, 4))
			return false;
		*sp = load_u16(buf);
	} else {
		if (!tss_read(c, 4 + cpl * 8, buf, 6))
			return false;
		*sp = load_u32(buf);
	}
	return seg_check_stack(c, load_u16(buf + (is16 ? 2 : 4)), cpl, EXC_TS, ss);
}

bool tss_stack64(struct cpu *c, unsigned index, uint64_t *sp)
{
	return tss_read(c, 4 + index * 8, sp, 8);
}

/* In place: from slots of 8 bytes to slots of @bytes. */
static void narrow(uint64_t *slot, unsigned n, unsigned bytes)
{
	uint8_t *p = (uint8_t *)slot;

	for (unsigned i = 0; i < n && bytes < 8; i++, p += bytes) {
		if (bytes == 4)
			store_u32(p, (uint32_t)slot[i]);
		else
			store_u16(p, (uint16_t)slot[i]);
	}
}

bool stack_push(struct cpu *c, const struct segment *ss, unsigned cpl, uint64_t *sp, uint64_t *slot,
		unsigned n, unsigned bytes)
{
	unsigned total = n * bytes;
	uint64_t mask = !ss ? UINT64_MAX : ss->attr & SEG_DB ? UINT32_MAX : 0xffff;
	uint64_t off = (*sp - total) & mask;

	if (ss ? !mmu_within_limit(ss, off, total)
	       : !sys_canonical(off) || !sys_canonical(off + total - 1))
		return seg_fault(c, EXC_SS, ss && cpl < c->cpl ? ss->selector : 0);
	narrow(slot, n, bytes);
	if (!mmu_push_frame(c, cpl, (ss ? ss->base : 0) + off, slot, total))
		return false;
	*sp = (*sp & ~mask) | off;
	return true;
}

/* --- MOV, PUSH, POP and LxS of segment registers -------------------------------------------- */

enum sys_result sys_mov_from_sreg(struct cpu *c, const struct op *o)
{
	uint16_t sel = c->s.seg[o->reg].selector;

	/* Memory takes 16 bits whatever the operand size. */
	return sys_set_rm(c, o, o->flags & OP_MEM ? 2 : o->size, sel) ? SYS_NEXT : SYS_FAULT;
}

static enum sys_result loaded(struct cpu *c, unsigned reg)
{
	if (reg == SEG_SS)
		c->s.movss_shadow = true;
	return SYS_NEXT;
}

enum sys_result sys_mov_to_sreg(struct cpu *c, const struct op *o)
{
	uint64_t sel;

	if (!sys_get_rm(c, o, 2, &sel) || !seg_load(c, (enum seg_reg)o->reg, (uint16_t)sel))
		return SYS_FAULT;
	return loaded(c, o->reg);
}

enum sys_result sys_push_sreg(struct cpu *c, const struct op *o)
{
	int64_t n = o->size;

	/* SDM vol. 2, PUSH: zero-extending is as good as writing 16 bits alone. */
	if (!sys_stack_write(c, -n, o->size, c->s.seg[o->reg].selector))
		return SYS_FAULT;
	sys_stack_move(c, -n);
	return SYS_NEXT;
}

enum sys_result sys_pop_sreg(struct cpu *c, const struct op *o)
{
	uint64_t sel, rsp = c->s.gpr[RSP];

	if (!sys_stack_read(c, 0, o->size, &sel))
		return SYS_FAULT;
	sys_stack_move(c, o->size); /* as wide as the stack is before POP SS */
	if (!seg_load(c, (enum seg_reg)o->reg, (uint16_t)sel)) {
		c->s.gpr[RSP] = rsp;
		return SYS_FAULT;
	}
	return loaded(c, o->reg);
}

enum sys_result sys_load_far_pointer(struct cpu *c, const struct op *o)
{
	static const uint16_t target[][2] = {
		{ ZYDIS_MNEMONIC_LDS, SEG_DS }, { ZYDIS_MNEMONIC_LES, SEG_ES },
		{ ZYDIS_MNEMONIC_LSS, SEG_SS }, { ZYDIS_MNEMONIC_LFS, SEG_FS },
		{ ZYDIS_MNEMONIC_LGS, SEG_GS },
	};
	uint64_t off = 0;
	uint16_t sel;
	unsigned i = 0;

	if (!(o->flags & OP_MEM))
		return sys_fault(c, EXC_UD);
	while (target[i][0] != o->mnemonic)
		i++;
	if (!sys_load(c, o, 0, &off, o->size) || !sys_load(c, o, o->size, &sel, 2) ||
	    !seg_load(c, (enum seg_reg)target[i][1], sel))
		return SYS_FAULT;
	sys_set_reg(c, o->reg, o->size, off);
	return SYS_NEXT;
}

/* --- LDTR and TR --------------------------------------------------------------------------------
 */

static bool only_protected(struct cpu *c)
{
	if (sys_protected(c))
		return true;
	cpu_raise(c, EXC_UD);
	return false;
}

/* SLDT, STR and SMSW are for CPL 0 under UMIP. */
static bool umip_allows(struct cpu *c)
{
	if (!(c->s.cr4 & CR4_UMIP) || !c->cpl)
		return true;
	cpu_raise_error(c, EXC_GP, 0);
	return false;
}

static enum sys_result store_selector(struct cpu *c, const struct op *o, uint16_t sel)
{
	if (!only_protected(c) || !umip_allows(c))
		return SYS_FAULT;
	return sys_set_rm(c, o, o->flags & OP_MEM ? 2 : o->size, sel) ? SYS_NEXT : SYS_FAULT;
}

enum sys_result sys_sldt(struct cpu *c, const struct op *o)
{
	return store_selector(c, o, c->s.ldtr.selector);
}

enum sys_result sys_str(struct cpu *c, const struct op *o)
{
	return store_selector(c, o, c->s.tr.selector);
}

/* A system descriptor of the GDT, whole; @type_mask: the types it may have. */
static bool system_desc(struct cpu *c, uint16_t sel, uint32_t type_mask, struct segment *seg)
{
	uint32_t high = 0;

	if (sel & 4)
		return seg_fault(c, EXC_GP, sel);
	if (!desc_read(c, sel, EXC_GP, seg, NULL))
		return false;
	if ((seg->attr & SEG_S) || !(type_mask & BIT(seg->attr & SEG_TYPE)))
		return seg_fault(c, EXC_GP, sel);
	if (!(seg->attr & SEG_P))
		return seg_fault(c, EXC_NP, sel);
	if (sys_long_mode(c)) {
		if (!desc_read_high(c, sel, EXC_GP, &high))
			return false;
		seg->base |= (uint64_t)high << 32;
		if (!sys_canonical(seg->base))
			return seg_fault(c, EXC_GP, sel);
	}
	return true;
}

enum sys_result sys_lldt(struct cpu *c, const struct op *o)
{
	struct segment seg;
	uint64_t sel;

	if (!only_protected(c) || !sys_require_cpl0(c) || !sys_get_rm(c, o, 2, &sel))
		return SYS_FAULT;
	if (sel_is_null((uint16_t)sel))
		seg = (struct segment){ .selector = (uint16_t)sel, .attr = SEG_UNUSABLE };
	else if (!system_desc(c, (uint16_t)sel, BIT(DESC_LDT), &seg))
		return SYS_FAULT;
	c->s.ldtr = seg;
	return SYS_NEXT;
}

enum sys_result sys_ltr(struct cpu *c, const struct op *o)
{
	uint32_t types = BIT(DESC_TSS) | (sys_long_mode(c) ? 0 : BIT(DESC_TSS16));
	struct segment seg;
	uint64_t sel;

	if (!only_protected(c) || !sys_require_cpl0(c) || !sys_get_rm(c, o, 2, &sel))
		return SYS_FAULT;
	if (sel_is_null((uint16_t)sel))
		return sys_gp(c, 0);
	if (!system_desc(c, (uint16_t)sel, types, &seg) ||
	    !desc_set_type_bits(c, (uint16_t)sel, DESC_TSS16_BUSY & ~DESC_TSS16))
		return SYS_FAULT;
	seg.attr |= DESC_TSS16_BUSY & ~DESC_TSS16;
	c->s.tr = seg;
	return SYS_NEXT;
}

/* --- LAR, LSL, VERR, VERW, ARPL
 * ----------------------------------------------------------------------- */

static void set_zf(struct cpu *c, bool on)
{
	c->fl = on ? c->fl | FL_ZF : c->fl & ~(uint64_t)FL_ZF;
}

/*
 * The descriptor, if @sel names one that CPL and RPL may see. False: a fault;
 * *@visible says the rest.
 */
static bool visible_desc(struct cpu *c, uint64_t sel, uint32_t system_types, struct segment *seg,
			 uint64_t *raw, bool *visible)
{
	unsigned need = MAX(sel_rpl((uint16_t)sel), (unsigned)c->cpl);

	*visible = false;
	if (sel_is_null((uint16_t)sel))
		return true;
	if (!desc_peek(c, (uint16_t)sel, seg, raw, visible))
		return false;
	if (!*visible)
		return true;
	if (!(seg->attr & SEG_S) && !(system_types & BIT(seg->attr & SEG_TYPE)))
		*visible = false;
	else if (!seg_is_conforming_code(seg) && need > seg_dpl(seg))
		*visible = false;
	return true;
}

enum sys_result sys_lar(struct cpu *c, const struct op *o)
{
	uint32_t types = BIT(DESC_LDT) | BIT(DESC_TSS) | BIT(DESC_TSS_BUSY) | BIT(DESC_CALL);
	struct segment seg;
	uint64_t sel, raw = 0;
	bool visible;

	if (!sys_long_mode(c))
		types |= BIT(DESC_TSS16) | BIT(DESC_TSS16_BUSY) | BIT(DESC_CALL16) |
			 BIT(DESC_TASK_GATE);
	if (!only_protected(c) || !sys_get_rm(c, o, 2, &sel) ||
	    !visible_desc(c, sel, types, &seg, &raw, &visible))
		return SYS_FAULT;
	if (visible)
		sys_set_reg(c, o->reg, o->size, raw >> 32 & 0x00ffff00);
	set_zf(c, visible);
	return SYS_NEXT;
}

enum sys_result sys_lsl(struct cpu *c, const struct op *o)
{
	uint32_t types = BIT(DESC_LDT) | BIT(DESC_TSS) | BIT(DESC_TSS_BUSY);
	struct segment seg;
	uint64_t sel;
	bool visible;

	if (!sys_long_mode(c))
		types |= BIT(DESC_TSS16) | BIT(DESC_TSS16_BUSY);
	if (!only_protected(c) || !sys_get_rm(c, o, 2, &sel) ||
	    !visible_desc(c, sel, types, &seg, NULL, &visible))
		return SYS_FAULT;
	if (visible)
		sys_set_reg(c, o->reg, o->size, seg.limit);
	set_zf(c, visible);
	return SYS_NEXT;
}

static enum sys_result verify(struct cpu *c, const struct op *o, bool write)
{
	struct segment seg;
	uint64_t sel;
	bool visible;

	if (!only_protected(c) || !sys_get_rm(c, o, 2, &sel) ||
	    !visible_desc(c, sel, 0, &seg, NULL, &visible))
		return SYS_FAULT;
	if (visible && write)
		visible = seg_is_writable_data(&seg);
	else if (visible)
		visible = !seg_is_code(&seg) || (seg.attr & TYPE_RW);
	set_zf(c, visible);
	return SYS_NEXT;
}

enum sys_result sys_verr(struct cpu *c, const struct op *o)
{
	return verify(c, o, false);
}

enum sys_result sys_verw(struct cpu *c, const struct op *o)
{
	return verify(c, o, true);
}

enum sys_result sys_arpl(struct cpu *c, const struct op *o)
{
	unsigned rpl = (unsigned)c->s.gpr[o->reg] & 3;
	uint64_t sel;

	if (!only_protected(c) || !sys_get_rm(c, o, 2, &sel))
		return SYS_FAULT;
	if ((sel & 3) < rpl) {
		if (!sys_set_rm(c, o, 2, (sel & ~3ull) | rpl))
			return SYS_FAULT;
		set_zf(c, true);
	} else {
		set_zf(c, false);
	}
	return SYS_NEXT;
}

/* --- bases of FS and GS
 * ------------------------------------------------------------------------------------ */

enum sys_result sys_swapgs(struct cpu *c, const struct op *o)
{
	uint64_t base = c->s.seg[SEG_GS].base;

	if (c->mode != MODE_64)
		return sys_fault(c, EXC_UD);
	if (!sys_require_cpl0(c))
		return SYS_FAULT;
	c->s.seg[SEG_GS].base = c->s.kernel_gs_base;
	c->s.kernel_gs_base = base;
	return SYS_NEXT;
}

static bool fsgsbase_allowed(struct cpu *c)
{
	if (c->mode == MODE_64 && (c->s.cr4 & CR4_FSGSBASE))
		return true;
	cpu_raise(c, EXC_UD);
	return false;
}

static enum sys_result read_base(struct cpu *c, const struct op *o, enum seg_reg r)
{
	if (!fsgsbase_allowed(c))
		return SYS_FAULT;
	sys_set_reg(c, o->rm, o->size, c->s.seg[r].base);
	return SYS_NEXT;
}

static enum sys_result write_base(struct cpu *c, const struct op *o, enum seg_reg r)
{
	uint64_t base = sys_get_reg(c, o->rm, o->size);

	if (!fsgsbase_allowed(c))
		return SYS_FAULT;
	if (!sys_canonical(base))
		return sys_gp(c, 0);
	c->s.seg[r].base = base;
	return SYS_NEXT;
}

enum sys_result sys_rdfsbase(struct cpu *c, const struct op *o)
{
	return read_base(c, o, SEG_FS);
}

enum sys_result sys_rdgsbase(struct cpu *c, const struct op *o)
{
	return read_base(c, o, SEG_GS);
}

enum sys_result sys_wrfsbase(struct cpu *c, const struct op *o)
{
	return write_base(c, o, SEG_FS);
}

enum sys_result sys_wrgsbase(struct cpu *c, const struct op *o)
{
	return write_base(c, o, SEG_GS);
}
