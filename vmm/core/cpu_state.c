/* cpu_state.c - the state of a processor after power-up; SDM vol. 3, table 10-1. */
#include "core/cpu_state.h"

#define RESET_SIGNATURE   0x600 /* EDX: a processor of family 6 */
#define PAT_RESET         0x0007040600070406ull
#define APIC_BASE_RESET   0xfee00800u /* enabled, at its usual place */
#define APIC_BASE_BSP     BIT(8)
#define FCW_RESET         0x40
#define MXCSR_RESET       0x1f80
#define MISC_FAST_STRINGS (BIT(0) | BIT(11) | BIT(12)) /* neither BTS nor PEBS */

/*
 * There is no firmware to set up memory types, and a kernel that finds MTRRs
 * disabled does without PAT: everything is write-back, as emulated memory is.
 */
#define MTRR_DEF_TYPE_RESET 0xc06u

static struct segment data_segment(void)
{
	return (struct segment){ .attr = SEG_P | SEG_S | 0x3, .limit = 0xffff };
}

static struct segment system_segment(uint32_t type)
{
	return (struct segment){ .attr = SEG_P | type, .limit = 0xffff };
}

static void reset_segments(struct cpu_state *s)
{
	for (unsigned i = 0; i < SEG_COUNT; i++)
		s->seg[i] = data_segment();
	s->seg[SEG_CS].selector = 0xf000;
	s->seg[SEG_CS].base = 0xffff0000;
	s->seg[SEG_CS].attr |= 0x8; /* code */
	s->ldtr = system_segment(0x2);
	s->tr = system_segment(0xb);
	s->gdtr.limit = 0xffff;
	s->idtr.limit = 0xffff;
}

void cpu_state_reset(struct cpu_state *s, bool is_bsp)
{
	memset(s, 0, sizeof(*s));
	s->rip = 0xfff0;
	s->rflags = RFLAGS_ONE;
	s->gpr[RDX] = RESET_SIGNATURE;
	reset_segments(s);
	s->cr0 = CR0_CD | CR0_NW | CR0_ET;
	s->dr6 = DR6_INIT;
	s->dr7 = DR7_INIT;
	s->xcr0 = 1;
	s->pat = PAT_RESET;
	s->apic_base = APIC_BASE_RESET | (is_bsp ? APIC_BASE_BSP : 0);
	s->misc_enable = MISC_FAST_STRINGS;
	s->mtrr_def_type = MTRR_DEF_TYPE_RESET;
	for (unsigned i = 0; i < ARRAY_SIZE(s->mtrr_fixed); i++)
		s->mtrr_fixed[i] = 0x0606060606060606ull;
	s->mp_state = is_bsp ? MP_RUNNING : MP_WAIT_SIPI;
	s->kvm_poll = 1; /* the host polls until the guest says otherwise */
	store_u16(s->xsave, FCW_RESET);
	store_u32(s->xsave + 24, MXCSR_RESET);
}
