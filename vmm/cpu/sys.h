/*
 * sys.h - system instructions: what system.c, control.c, segment.c, far.c, msr.c and
 * io.c share, and how the decoder finds their handlers (sys_decode.c).
 */
#ifndef VMM_CPU_SYS_H
#define VMM_CPU_SYS_H

#include "cpu/cpu.h"
#include "cpu/op.h"

#include <Zydis/Zydis.h>

/*
 * The handler of a system instruction, or NULL when @insn is none: the same
 * mnemonic may be both (MOV, PUSH, POP, JMP, CALL, RET). The decoder has filled
 * flags, len, addressing (base, index, shift, disp, seg); this fills what the
 * handlers take besides: size, reg, rm and imm. A direct far target has its
 * offset in imm and its selector in disp.
 */
sys_fn *sys_decode(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands,
		   struct op *o);

/* Where the next instruction begins. */
static inline uint64_t sys_next_rip(const struct cpu *c, const struct op *o)
{
	uint64_t rip = c->s.rip + o->len;

	return c->mode == MODE_64 ? rip : c->mode == MODE_32 ? (uint32_t)rip : rip & 0xffff;
}

static inline bool sys_protected(const struct cpu *c)
{
	return c->s.cr0 & CR0_PE;
}

static inline bool sys_long_mode(const struct cpu *c)
{
	return c->s.efer & EFER_LMA;
}

/* Canonical for 48 bits of linear address. */
static inline bool sys_canonical(uint64_t gva)
{
	return (uint64_t)((int64_t)(gva << 16) >> 16) == gva;
}

/* Raise and be done: `return sys_fault(c, EXC_UD);` */
enum sys_result sys_fault(struct cpu *c, uint8_t vector);
enum sys_result sys_gp(struct cpu *c, uint32_t error);

/* #GP(0) unless CPL is 0. */
bool sys_require_cpl0(struct cpu *c);

/* A general register by operand size; 32-bit writes clear the upper half. */
uint64_t sys_get_reg(const struct cpu *c, unsigned reg, unsigned size);
void sys_set_reg(struct cpu *c, unsigned reg, unsigned size, uint64_t v);

/* The memory operand: its linear address, or its bytes. */
bool sys_linear(struct cpu *c, const struct op *o, unsigned bytes, bool write, uint64_t *gva);
bool sys_load(struct cpu *c, const struct op *o, uint64_t off, void *buf, unsigned bytes);
bool sys_store(struct cpu *c, const struct op *o, uint64_t off, const void *buf, unsigned bytes);
/* The r/m operand, register or memory, zero-extended. */
bool sys_get_rm(struct cpu *c, const struct op *o, unsigned size, uint64_t *v);
bool sys_set_rm(struct cpu *c, const struct op *o, unsigned size, uint64_t v);

/*
 * The stack at CPL: peek @off bytes above RSP, move RSP when nothing can fail
 * any more. @off is negative for pushes.
 */
bool sys_stack_read(struct cpu *c, int64_t off, unsigned bytes, uint64_t *v);
bool sys_stack_write(struct cpu *c, int64_t off, unsigned bytes, uint64_t v);
void sys_stack_move(struct cpu *c, int64_t off);

/* Interrupts may be deliverable now: RFLAGS.IF, TPR or a shadow has changed. */
void sys_window_opened(struct cpu *c);

/* All of RFLAGS, with what follows from a change: stepping, alignment, SMAP, interrupts. */
void sys_write_flags(struct cpu *c, uint64_t rflags);
/* The flags POPF and IRET may change at this CPL, operand size 2, 4 or 8. */
uint64_t sys_flags_mask(const struct cpu *c, unsigned size);

/* control.c */
sys_fn sys_mov_from_cr, sys_mov_to_cr, sys_mov_from_dr, sys_mov_to_dr, sys_lmsw, sys_smsw;
sys_fn sys_clts, sys_lgdt, sys_lidt, sys_sgdt, sys_sidt, sys_invlpg, sys_invpcid;
sys_fn sys_wbinvd, sys_clflush, sys_xgetbv, sys_xsetbv;

/* system.c */
sys_fn sys_cli, sys_sti, sys_clac, sys_stac, sys_pushf, sys_popf, sys_hlt, sys_pause;
sys_fn sys_int, sys_int1, sys_int3, sys_into, sys_undefined;
sys_fn sys_cpuid, sys_rdtsc, sys_rdpmc, sys_rdpid, sys_rdrand;

/* far.c */
sys_fn sys_jmp_far, sys_call_far, sys_ret_far, sys_iret;
sys_fn sys_syscall, sys_sysret, sys_sysenter, sys_sysexit;

/* segment.c */
sys_fn sys_mov_from_sreg, sys_mov_to_sreg, sys_push_sreg, sys_pop_sreg, sys_load_far_pointer;
sys_fn sys_lldt, sys_ltr, sys_sldt, sys_str, sys_lar, sys_lsl, sys_verr, sys_verw, sys_arpl;
sys_fn sys_swapgs, sys_rdfsbase, sys_rdgsbase, sys_wrfsbase, sys_wrgsbase;

/* msr.c */
sys_fn sys_rdmsr, sys_wrmsr;

/* io.c */
sys_fn sys_in, sys_out, sys_ins, sys_outs;

/* xsave.c */
sys_fn sys_xsave, sys_xsaveopt, sys_xrstor;

/* pv.c */
sys_fn sys_vmcall;

#endif
