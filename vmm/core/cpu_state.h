/*
 * cpu_state.h - the architectural state of one x86-64 processor.
 *
 * The one form in which engines, loaders, the debugger and snapshots exchange
 * a vCPU. The software engine also runs on it. Leaf header.
 */
#ifndef VMM_CORE_CPU_STATE_H
#define VMM_CORE_CPU_STATE_H

#include "core/util.h"

/* Encoding order. */
enum gpr {
	RAX,
	RCX,
	RDX,
	RBX,
	RSP,
	RBP,
	RSI,
	RDI,
	R8,
	R9,
	R10,
	R11,
	R12,
	R13,
	R14,
	R15,
	GPR_COUNT
};

enum seg_reg { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_COUNT };

/* Bits of segment.attr: bytes 5 and 6 of a descriptor, limit nibble cleared. */
#define SEG_TYPE     0x000f
#define SEG_S        0x0010 /* code or data, not system */
#define SEG_DPL      0x0060
#define SEG_P        0x0080
#define SEG_AVL      0x1000
#define SEG_L        0x2000
#define SEG_DB       0x4000
#define SEG_G        0x8000
#define SEG_UNUSABLE 0x10000 /* a null selector was loaded */

#define SEG_DPL_SHIFT 5

struct segment {
	uint16_t selector;
	uint32_t attr;
	uint32_t limit; /* in bytes, granularity already applied */
	uint64_t base;
};

struct desc_table {
	uint64_t base;
	uint16_t limit;
};

#define RFLAGS_CF    BIT(0)
#define RFLAGS_ONE   BIT(1) /* reads as one */
#define RFLAGS_PF    BIT(2)
#define RFLAGS_AF    BIT(4)
#define RFLAGS_ZF    BIT(6)
#define RFLAGS_SF    BIT(7)
#define RFLAGS_TF    BIT(8)
#define RFLAGS_IF    BIT(9)
#define RFLAGS_DF    BIT(10)
#define RFLAGS_OF    BIT(11)
#define RFLAGS_IOPL  (3u << 12)
#define RFLAGS_NT    BIT(14)
#define RFLAGS_RF    BIT(16)
#define RFLAGS_VM    BIT(17)
#define RFLAGS_AC    BIT(18)
#define RFLAGS_VIF   BIT(19)
#define RFLAGS_VIP   BIT(20)
#define RFLAGS_ID    BIT(21)
#define RFLAGS_ARITH (RFLAGS_CF | RFLAGS_PF | RFLAGS_AF | RFLAGS_ZF | RFLAGS_SF | RFLAGS_OF)

#define CR0_PE BIT(0)
#define CR0_MP BIT(1)
#define CR0_EM BIT(2)
#define CR0_TS BIT(3)
#define CR0_ET BIT(4)
#define CR0_NE BIT(5)
#define CR0_WP BIT(16)
#define CR0_AM BIT(18)
#define CR0_NW BIT(29)
#define CR0_CD BIT(30)
#define CR0_PG BIT(31)

#define CR4_VME        BIT(0)
#define CR4_PVI        BIT(1)
#define CR4_TSD        BIT(2)
#define CR4_DE         BIT(3)
#define CR4_PSE        BIT(4)
#define CR4_PAE        BIT(5)
#define CR4_MCE        BIT(6)
#define CR4_PGE        BIT(7)
#define CR4_PCE        BIT(8)
#define CR4_OSFXSR     BIT(9)
#define CR4_OSXMMEXCPT BIT(10)
#define CR4_UMIP       BIT(11)
#define CR4_LA57       BIT(12)
#define CR4_FSGSBASE   BIT(16)
#define CR4_PCIDE      BIT(17)
#define CR4_OSXSAVE    BIT(18)
#define CR4_SMEP       BIT(20)
#define CR4_SMAP       BIT(21)

#define EFER_SCE BIT(0)
#define EFER_LME BIT(8)
#define EFER_LMA BIT(10)
#define EFER_NXE BIT(11)

#define DR6_BD   BIT(13)
#define DR6_BS   BIT(14)
#define DR7_GD   BIT(13)
#define DR6_INIT 0xffff0ff0u
#define DR7_INIT 0x400u

/* What a vCPU waits for before it executes; INIT, SIPI and HLT move it. */
enum mp_state { MP_RUNNING, MP_HALTED, MP_WAIT_SIPI };

/* What was on its way into the guest when it was left: it still is. */
enum event_kind { EVENT_NONE, EVENT_INTERRUPT, EVENT_SOFT_INTERRUPT, EVENT_EXCEPTION };

/* The local APIC's registers: n is the one at offset 16 * n; SDM vol. 3, table 11-1. */
#define APIC_REGS 64

#define XSAVE_BYTES 4096 /* x87 to AVX-512 in the standard form, with room */

struct cpu_state {
	uint64_t gpr[GPR_COUNT];
	uint64_t rip;
	uint64_t rflags;

	struct segment seg[SEG_COUNT];
	struct segment ldtr, tr;
	struct desc_table gdtr, idtr;

	uint64_t cr0, cr2, cr3, cr4;
	uint64_t dr[4], dr6, dr7;
	uint64_t xcr0;

	uint64_t efer;
	uint64_t star, lstar, cstar, sfmask;
	uint64_t kernel_gs_base;
	uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
	uint64_t tsc_offset; /* guest TSC = guest clock ticks + offset */
	uint64_t tsc_adjust;
	uint64_t tsc_aux;
	uint64_t tsc_deadline;
	uint64_t pat;
	uint64_t apic_base;
	uint64_t misc_enable;
	uint64_t spec_ctrl;
	uint64_t mtrr_def_type;
	uint64_t mtrr_fixed[11];
	uint64_t mtrr_phys[16]; /* base and mask, in turn */
	uint64_t kvm_system_time, kvm_wall_clock, kvm_steal_time, kvm_eoi, kvm_poll;
	uint64_t debugctl, misc_features, mcg_status, hwcr;

	/*
	 * apic[] is what it says only if apic_valid: a state made by hand leaves the local
	 * APIC as it is. The current count (0x390) is what the timer has left.
	 */
	bool apic_valid;
	uint32_t apic[APIC_REGS];

	struct {
		enum event_kind kind;
		uint8_t vector;
		bool has_error;
		uint32_t error;
	} event;

	enum mp_state mp_state;
	bool sti_shadow;   /* no maskable interrupt before the next instruction */
	bool movss_shadow; /* nor NMI, nor debug trap */
	bool nmi_blocked;
	bool nmi_pending;

	uint8_t xsave[XSAVE_BYTES] __attribute__((aligned(64)));
};

/* The state after INIT (@apic_base as it was) or power-up; SDM vol. 3, table 10-1. */
void cpu_state_reset(struct cpu_state *s, bool is_bsp);

#endif
