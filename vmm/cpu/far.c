/*
 * far.c - transfers between code segments: far JMP, CALL and RET, IRET, SYSCALL and
 * SYSENTER with their returns.
 *
 * SDM vol. 3, 5.8, and the instructions' pages in vol. 2. Everything is read and
 * checked first; the state changes at the end, where nothing can fail any more.
 *
 * Hardware task switching is not built: a far transfer to a TSS or a task gate, and
 * IRET with NT, raise #GP.
 */
#include "cpu/codemap.h"
#include "cpu/mmu.h"
#include "cpu/segment.h"
#include "cpu/sys.h"

#define CALL_PARAMS_MAX 31

struct far_target {
	struct segment cs;
	uint64_t rip;
	unsigned cpl; /* once there */
};

struct call_gate {
	uint16_t sel;
	uint64_t off;
	uint8_t slot_bytes; /* of what it pushes */
	uint8_t params;
};

/* --- code segments ------------------------------------------------------------------ */

static bool check_rip(struct cpu *c, const struct far_target *t)
{
	bool ok = sys_long_mode(c) && (t->cs.attr & SEG_L) ? sys_canonical(t->rip)
							   : t->rip <= t->cs.limit;

	return ok || seg_fault(c, EXC_GP, 0);
}

static bool check_code(struct cpu *c, const struct segment *cs)
{
	if (!seg_is_code(cs))
		return seg_fault(c, EXC_GP, cs->selector);
	if (sys_long_mode(c) && (cs->attr & SEG_L) && (cs->attr & SEG_DB))
		return seg_fault(c, EXC_GP, cs->selector);
	return true;
}

static bool check_present(struct cpu *c, const struct segment *cs)
{
	return (cs->attr & SEG_P) || seg_fault(c, EXC_NP, cs->selector);
}

/* The target of JMP or CALL that is no gate: CPL stays. @rpl counts for nonconforming code. */
static bool check_direct(struct cpu *c, struct far_target *t, unsigned rpl)
{
	unsigned dpl = seg_dpl(&t->cs);
	bool ok = seg_is_conforming_code(&t->cs) ? dpl <= c->cpl : dpl == c->cpl && rpl <= c->cpl;

	if (!check_code(c, &t->cs))
		return false;
	if (!ok)
		return seg_fault(c, EXC_GP, t->cs.selector);
	t->cpl = c->cpl;
	return check_present(c, &t->cs) && check_rip(c, t);
}

static void set_cs(struct cpu *c, const struct far_target *t)
{
	c->s.seg[SEG_CS] = t->cs;
	c->s.seg[SEG_CS].selector = (uint16_t)((t->cs.selector & ~3u) | t->cpl);
	c->s.rip = t->rip;
	cpu_update_mode(c);
}

/* --- JMP and CALL ------------------------------------------------------------------------ */

static bool read_target(struct cpu *c, const struct op *o, uint16_t *sel, uint64_t *off)
{
	*off = 0;
	if (o->flags & OP_MEM)
		return sys_load(c, o, 0, off, o->size) && sys_load(c, o, o->size, sel, 2);
	*off = o->size == 2 ? o->imm & 0xffff : (uint32_t)o->imm;
	*sel = (uint16_t)o->disp;
	return true;
}

static bool read_gate(struct cpu *c, const struct segment *desc, uint64_t raw, struct call_gate *g)
{
	unsigned type = desc->attr & SEG_TYPE;
	uint32_t high = 0;

	if (type != DESC_CALL && (type != DESC_CALL16 || sys_long_mode(c)))
		return seg_fault(c, EXC_GP, desc->selector);
	if (seg_dpl(desc) < MAX((unsigned)c->cpl, sel_rpl(desc->selector)))
		return seg_fault(c, EXC_GP, desc->selector);
	if (!(desc->attr & SEG_P))
		return seg_fault(c, EXC_NP, desc->selector);
	if (sys_long_mode(c) && !desc_read_high(c, desc->selector, EXC_GP, &high))
		return false;
	g->sel = (uint16_t)(raw >> 16);
	g->off = (raw & 0xffff) | (uint64_t)high << 32;
	if (type == DESC_CALL)
		g->off |= raw >> 48 << 16;
	g->slot_bytes = sys_long_mode(c) ? 8 : type == DESC_CALL ? 4 : 2;
	g->params = sys_long_mode(c) ? 0 : raw >> 32 & CALL_PARAMS_MAX;
	return true;
}

/* The code a gate leads to; JMP may not change CPL. */
static bool gate_target(struct cpu *c, const struct call_gate *g, bool is_jmp, struct far_target *t)
{
	if (sel_is_null(g->sel))
		return seg_fault(c, EXC_GP, 0);
	if (!desc_read(c, g->sel, EXC_GP, &t->cs, NULL) || !check_code(c, &t->cs))
		return false;
	t->rip = g->off;
	t->cpl = seg_is_conforming_code(&t->cs) ? c->cpl : seg_dpl(&t->cs);
	if (seg_dpl(&t->cs) > c->cpl || (is_jmp && t->cpl != c->cpl))
		return seg_fault(c, EXC_GP, g->sel);
	if (sys_long_mode(c) && !(t->cs.attr & SEG_L))
		return seg_fault(c, EXC_GP, g->sel);
	return check_present(c, &t->cs) && check_rip(c, t);
}

/* The return address, on the same stack. */
static bool push_return(struct cpu *c, const struct op *o, unsigned bytes)
{
	uint64_t slot[2] = { sys_next_rip(c, o), c->s.seg[SEG_CS].selector };
	const struct segment *ss = c->mode == MODE_64 ? NULL : &c->s.seg[SEG_SS];

	return stack_push(c, ss, c->cpl, &c->s.gpr[RSP], slot, 2, bytes);
}

static enum sys_result far_direct(struct cpu *c, const struct op *o, struct far_target *t,
				  bool is_jmp)
{
	if (!check_direct(c, t, sel_rpl(t->cs.selector)) || !desc_mark_accessed(c, &t->cs))
		return SYS_FAULT;
	if (!is_jmp && !push_return(c, o, o->size))
		return SYS_FAULT;
	set_cs(c, t);
	return SYS_JUMP;
}

/* Through a gate to a more privileged level: a new stack, parameters copied over. */
static enum sys_result call_inner(struct cpu *c, const struct op *o, const struct call_gate *g,
				  const struct far_target *t)
{
	uint64_t slot[4 + CALL_PARAMS_MAX], sp;
	struct segment ss = seg_null_stack(t->cpl);
	unsigned n = 0;
	bool ok = sys_long_mode(c) ? tss_stack64(c, t->cpl, &sp) : tss_stack(c, t->cpl, &ss, &sp);

	if (!ok)
		return SYS_FAULT;
	slot[n++] = sys_next_rip(c, o);
	slot[n++] = c->s.seg[SEG_CS].selector;
	for (unsigned i = 0; i < g->params; i++) {
		if (!sys_stack_read(c, i * g->slot_bytes, g->slot_bytes, &slot[n++]))
			return SYS_FAULT;
	}
	slot[n++] = c->s.gpr[RSP];
	slot[n++] = c->s.seg[SEG_SS].selector;
	if (!stack_push(c, sys_long_mode(c) ? NULL : &ss, t->cpl, &sp, slot, n, g->slot_bytes))
		return SYS_FAULT;
	c->s.gpr[RSP] = sp;
	c->s.seg[SEG_SS] = ss;
	set_cs(c, t);
	return SYS_JUMP;
}

static enum sys_result far_gate(struct cpu *c, const struct op *o, const struct segment *desc,
				uint64_t raw, bool is_jmp)
{
	struct far_target t = { .rip = 0 };
	struct call_gate g;

	if (!read_gate(c, desc, raw, &g) || !gate_target(c, &g, is_jmp, &t) ||
	    !desc_mark_accessed(c, &t.cs))
		return SYS_FAULT;
	if (!is_jmp && t.cpl < c->cpl)
		return call_inner(c, o, &g, &t);
	if (!is_jmp && !push_return(c, o, g.slot_bytes))
		return SYS_FAULT;
	set_cs(c, &t);
	return SYS_JUMP;
}

static enum sys_result far_real(struct cpu *c, const struct op *o, uint16_t sel, uint64_t off,
				bool is_jmp)
{
	if (off > c->s.seg[SEG_CS].limit)
		return sys_gp(c, 0);
	if (!is_jmp && !push_return(c, o, o->size))
		return SYS_FAULT;
	seg_load_real(&c->s.seg[SEG_CS], sel);
	c->s.rip = off;
	cpu_update_mode(c);
	return SYS_JUMP;
}

static enum sys_result far_transfer(struct cpu *c, const struct op *o, bool is_jmp)
{
	struct far_target t = { .rip = 0 };
	uint16_t sel;
	uint64_t raw;

	if (!read_target(c, o, &sel, &t.rip))
		return SYS_FAULT;
	if (!sys_protected(c))
		return far_real(c, o, sel, t.rip, is_jmp);
	if (sel_is_null(sel))
		return sys_gp(c, 0);
	if (!desc_read(c, sel, EXC_GP, &t.cs, &raw))
		return SYS_FAULT;
	if (t.cs.attr & SEG_S)
		return far_direct(c, o, &t, is_jmp);
	return far_gate(c, o, &t.cs, raw, is_jmp);
}

enum sys_result sys_jmp_far(struct cpu *c, const struct op *o)
{
	return far_transfer(c, o, true);
}

enum sys_result sys_call_far(struct cpu *c, const struct op *o)
{
	return far_transfer(c, o, false);
}

/* --- RET and IRET ------------------------------------------------------------------------------
 */

/* The code segment a return leads to, at the privilege its selector asks for. */
static bool return_target(struct cpu *c, uint16_t sel, struct far_target *t)
{
	unsigned rpl = sel_rpl(sel);
	bool ok;

	if (sel_is_null(sel))
		return seg_fault(c, EXC_GP, 0);
	if (!desc_read(c, sel, EXC_GP, &t->cs, NULL))
		return false;
	ok = seg_is_conforming_code(&t->cs) ? seg_dpl(&t->cs) <= rpl : seg_dpl(&t->cs) == rpl;
	if (rpl < c->cpl || !ok)
		return seg_fault(c, EXC_GP, sel);
	if (!check_code(c, &t->cs) || !check_present(c, &t->cs))
		return false;
	t->cpl = rpl;
	return check_rip(c, t) && desc_mark_accessed(c, &t->cs);
}

static bool return_stack(struct cpu *c, uint16_t sel, const struct far_target *t,
			 struct segment *ss)
{
	bool to_64 = sys_long_mode(c) && (t->cs.attr & SEG_L);

	if (!sel_is_null(sel))
		return seg_check_stack(c, sel, t->cpl, EXC_GP, ss);
	if (!to_64 || t->cpl == 3)
		return seg_fault(c, EXC_GP, 0);
	*ss = seg_null_stack(t->cpl);
	ss->selector = sel;
	return true;
}

/* Data segments that the less privileged code may not have are taken away. */
static void drop_segments(struct cpu *c, unsigned cpl)
{
	static const enum seg_reg data[] = { SEG_ES, SEG_DS, SEG_FS, SEG_GS };

	for (unsigned i = 0; i < ARRAY_SIZE(data); i++) {
		struct segment *s = &c->s.seg[data[i]];

		if ((s->attr & SEG_UNUSABLE) || seg_is_conforming_code(s) || seg_dpl(s) >= cpl)
			continue;
		*s = (struct segment){ .attr = SEG_UNUSABLE };
	}
}

/* RSP is as wide as the code that will use it makes it. */
static void set_stack(struct cpu *c, const struct far_target *t, const struct segment *ss,
		      uint64_t sp)
{
	uint64_t *rsp = &c->s.gpr[RSP];

	c->s.seg[SEG_SS] = *ss;
	if (sys_long_mode(c) && (t->cs.attr & SEG_L))
		*rsp = sp;
	else if (ss->attr & SEG_DB)
		*rsp = (uint32_t)sp;
	else
		*rsp = (*rsp & ~0xffffull) | (sp & 0xffff);
}

/* Go there; a change of privilege takes the data segments along. */
static void return_to(struct cpu *c, const struct far_target *t)
{
	if (t->cpl > c->cpl)
		drop_segments(c, t->cpl);
	set_cs(c, t);
}

static enum sys_result ret_real(struct cpu *c, const struct op *o, uint64_t rip, uint64_t cs)
{
	if (rip > c->s.seg[SEG_CS].limit)
		return sys_gp(c, 0);
	seg_load_real(&c->s.seg[SEG_CS], (uint16_t)cs);
	c->s.rip = rip;
	sys_stack_move(c, (int64_t)(2u * o->size + (o->imm & 0xffff)));
	cpu_update_mode(c);
	return SYS_JUMP;
}

enum sys_result sys_ret_far(struct cpu *c, const struct op *o)
{
	unsigned size = o->size, params = o->imm & 0xffff;
	struct far_target t = { .rip = 0 };
	uint64_t sel, sp, ss_sel;
	struct segment ss;

	if (!sys_stack_read(c, 0, size, &t.rip) || !sys_stack_read(c, size, size, &sel))
		return SYS_FAULT;
	if (!sys_protected(c))
		return ret_real(c, o, t.rip, sel);
	if (!return_target(c, (uint16_t)sel, &t))
		return SYS_FAULT;
	if (t.cpl == c->cpl) {
		sys_stack_move(c, (int64_t)(2u * size + params));
		return_to(c, &t);
		return SYS_JUMP;
	}
	if (!sys_stack_read(c, 2u * size + params, size, &sp) ||
	    !sys_stack_read(c, 3u * size + params, size, &ss_sel) ||
	    !return_stack(c, (uint16_t)ss_sel, &t, &ss))
		return SYS_FAULT;
	set_stack(c, &t, &ss, sp + params);
	return_to(c, &t);
	return SYS_JUMP;
}

static void iret_flags(struct cpu *c, uint64_t flags, uint64_t mask, unsigned size)
{
	if (size > 2 && c->debug.points)
		mask |= RFLAGS_RF; /* matters to break points alone, and costs a slow step */
	sys_write_flags(c, (cpu_rflags(c) & ~mask) | (flags & mask));
	c->s.nmi_blocked = false;
}

static enum sys_result iret_real(struct cpu *c, const struct op *o, const uint64_t *slot)
{
	unsigned size = o->size;

	if (slot[0] > c->s.seg[SEG_CS].limit)
		return sys_gp(c, 0);
	seg_load_real(&c->s.seg[SEG_CS], (uint16_t)slot[1]);
	c->s.rip = slot[0];
	sys_stack_move(c, 3 * size);
	iret_flags(c, slot[2], sys_flags_mask(c, size), size);
	cpu_update_mode(c);
	return SYS_JUMP;
}

static bool read_slots(struct cpu *c, unsigned size, unsigned from, unsigned to, uint64_t *slot)
{
	for (unsigned i = from; i < to; i++) {
		if (!sys_stack_read(c, i * size, size, &slot[i]))
			return false;
	}
	return true;
}

/* To flat 64-bit code, as nearly always. False: nothing has changed, and who looks closer knows. */
static bool iret_flat(struct cpu *c)
{
	const uint8_t *frame = mmu_readable(c, c->s.gpr[RSP], 5 * 8);
	struct far_target t = { .rip = 0 };
	struct segment ss;
	uint64_t mask;
	uint16_t ss_sel;

	if (!frame)
		return false;
	t.rip = guest_load_u64(frame);
	t.cs.selector = guest_load_u16(frame + 8);
	t.cpl = sel_rpl(t.cs.selector);
	ss_sel = guest_load_u16(frame + 32);
	if (t.cpl < c->cpl || !sys_canonical(t.rip) ||
	    !seg_flat_at_hand(c, t.cs.selector, t.cpl, true, &t.cs))
		return false;
	if (sel_rpl(ss_sel) != t.cpl || !seg_flat_at_hand(c, ss_sel, t.cpl, false, &ss))
		return false;
	mask = sys_flags_mask(c, 8);
	c->s.seg[SEG_SS] = ss;
	c->s.gpr[RSP] = guest_load_u64(frame + 24);
	return_to(c, &t);
	iret_flags(c, guest_load_u64(frame + 16), mask, 8);
	codemap_verify(c);
	return true;
}

enum sys_result sys_iret(struct cpu *c, const struct op *o)
{
	struct far_target t = { .rip = 0 };
	uint64_t slot[5], mask;
	struct segment ss;
	bool stack_too;

	if (sys_protected(c) && (c->s.rflags & RFLAGS_NT))
		return sys_gp(c, 0);
	if (c->mode == MODE_64 && o->size == 8 && iret_flat(c))
		return SYS_JUMP;
	if (!read_slots(c, o->size, 0, 3, slot))
		return SYS_FAULT;
	if (!sys_protected(c))
		return iret_real(c, o, slot);
	if (o->size == 4 && !sys_long_mode(c) && !c->cpl && (slot[2] & RFLAGS_VM))
		return sys_gp(c, 0); /* there is no virtual-8086 mode */
	t.rip = slot[0];
	if (!return_target(c, (uint16_t)slot[1], &t))
		return SYS_FAULT;
	stack_too = c->mode == MODE_64 || t.cpl > c->cpl;
	if (stack_too &&
	    (!read_slots(c, o->size, 3, 5, slot) || !return_stack(c, (uint16_t)slot[4], &t, &ss)))
		return SYS_FAULT;
	mask = sys_flags_mask(c, o->size);
	if (stack_too)
		set_stack(c, &t, &ss, slot[3]);
	else
		sys_stack_move(c, 3 * o->size);
	return_to(c, &t);
	iret_flags(c, slot[2], mask, o->size);
	codemap_verify(c);
	return SYS_JUMP;
}

/* --- fast system calls ---------------------------------------------------------------------------
 */

enum sys_result sys_syscall(struct cpu *c, const struct op *o)
{
	uint16_t cs = (uint16_t)(c->s.star >> 32 & 0xfffc);
	uint64_t flags = cpu_rflags(c) & ~(uint64_t)RFLAGS_RF;

	if (c->mode != MODE_64 || !(c->s.efer & EFER_SCE))
		return sys_fault(c, EXC_UD);
	c->s.gpr[RCX] = sys_next_rip(c, o);
	c->s.gpr[R11] = flags;
	c->s.rip = c->s.lstar;
	c->s.seg[SEG_CS] = seg_flat(cs, 0, true, true);
	c->s.seg[SEG_SS] = seg_flat((uint16_t)(cs + 8), 0, false, true);
	c->debug.trap &= !(c->s.sfmask & RFLAGS_TF);
	sys_write_flags(c, flags & ~(c->s.sfmask | RFLAGS_RF));
	cpu_update_mode(c);
	return SYS_JUMP;
}

enum sys_result sys_sysret(struct cpu *c, const struct op *o)
{
	const uint64_t mask = RFLAGS_ARITH | RFLAGS_TF | RFLAGS_IF | RFLAGS_DF | RFLAGS_IOPL |
			      RFLAGS_NT | RFLAGS_AC | RFLAGS_VIF | RFLAGS_VIP | RFLAGS_ID;
	uint16_t base = (uint16_t)(c->s.star >> 48);
	bool wide = o->size == 8;

	if (c->mode != MODE_64 || !(c->s.efer & EFER_SCE))
		return sys_fault(c, EXC_UD);
	if (!sys_require_cpl0(c))
		return SYS_FAULT;
	if (wide && !sys_canonical(c->s.gpr[RCX]))
		return sys_gp(c, 0);
	c->s.rip = wide ? c->s.gpr[RCX] : (uint32_t)c->s.gpr[RCX];
	c->s.seg[SEG_CS] = seg_flat((uint16_t)((base + (wide ? 16 : 0)) | 3), 3, true, wide);
	c->s.seg[SEG_SS] = seg_flat((uint16_t)((base + 8) | 3), 3, false, wide);
	cpu_update_mode(c);
	sys_write_flags(c, c->s.gpr[R11] & mask);
	return SYS_JUMP;
}

enum sys_result sys_sysenter(struct cpu *c, const struct op *o)
{
	uint16_t cs = (uint16_t)(c->s.sysenter_cs & 0xfffc);
	bool wide = sys_long_mode(c);

	if (!sys_protected(c) || !cs)
		return sys_gp(c, 0);
	c->s.gpr[RSP] = wide ? c->s.sysenter_esp : (uint32_t)c->s.sysenter_esp;
	c->s.rip = wide ? c->s.sysenter_eip : (uint32_t)c->s.sysenter_eip;
	c->s.seg[SEG_CS] = seg_flat(cs, 0, true, wide);
	c->s.seg[SEG_SS] = seg_flat((uint16_t)(cs + 8), 0, false, wide);
	sys_write_flags(c, cpu_rflags(c) & ~(uint64_t)(RFLAGS_VM | RFLAGS_IF | RFLAGS_RF));
	cpu_update_mode(c);
	return SYS_JUMP;
}

enum sys_result sys_sysexit(struct cpu *c, const struct op *o)
{
	uint16_t base = (uint16_t)(c->s.sysenter_cs & 0xfffc);
	uint64_t rip = c->s.gpr[RDX], rsp = c->s.gpr[RCX];
	bool wide = o->size == 8;

	if (!sys_protected(c) || !base || c->cpl)
		return sys_gp(c, 0);
	if (wide && (!sys_canonical(rip) || !sys_canonical(rsp)))
		return sys_gp(c, 0);
	c->s.rip = wide ? rip : (uint32_t)rip;
	c->s.gpr[RSP] = wide ? rsp : (uint32_t)rsp;
	c->s.seg[SEG_CS] = seg_flat((uint16_t)((base + (wide ? 32 : 16)) | 3), 3, true, wide);
	c->s.seg[SEG_SS] = seg_flat((uint16_t)((base + (wide ? 40 : 24)) | 3), 3, false, wide);
	cpu_update_mode(c);
	return SYS_JUMP;
}
