/*
 * cpu.h - the software CPU engine from the inside: one `struct cpu` a vCPU.
 *
 * Who is who:
 *   engine.c     the engine_ops; the run loop: events, look-up, execute, deliver
 *   decode.c     Zydis instruction -> struct op; block.c keeps decoded blocks
 *   interp*.c    op handlers: integer, string, control flow, vector (stubs)
 *   stub.c       native stubs: x87, MMX, SSE, ... executed by the host's own CPU
 *   mmu.c        page walks, software TLB, guest memory by linear address
 *   codemap.c    which pages hold decoded code; self- and cross-modifying code
 *   exception.c  raising and delivering exceptions and interrupts
 *   segment.c    descriptors, segment and task registers; far.c far transfers
 *   system.c     privileged and system instructions; msr.c the MSRs; io.c ports
 *   lapic*.c     local APIC;  pv.c the KVM paravirtual interface
 *
 * Everything here belongs to the vCPU's thread unless a comment says otherwise.
 *
 * No C code on the way may be abandoned: a handler that faults records the
 * fault in c->fault and returns, having changed nothing a guest could see.
 */
#ifndef VMM_CPU_CPU_H
#define VMM_CPU_CPU_H

#include "core/cpu_state.h"
#include "core/vm.h"

struct block;
struct block_cache;
struct codemap;
struct lapic;
struct stub_cache;
struct op;

/* Exception vectors; SDM vol. 3, table 6-1. */
enum {
	EXC_DE = 0,
	EXC_DB = 1,
	EXC_NMI = 2,
	EXC_BP = 3,
	EXC_OF = 4,
	EXC_BR = 5,
	EXC_UD = 6,
	EXC_NM = 7,
	EXC_DF = 8,
	EXC_TS = 10,
	EXC_NP = 11,
	EXC_SS = 12,
	EXC_GP = 13,
	EXC_PF = 14,
	EXC_MF = 16,
	EXC_AC = 17,
	EXC_MC = 18,
	EXC_XM = 19
};

#define PF_P   BIT(0) /* page-fault error code; SDM vol. 3, 4.7 */
#define PF_W   BIT(1)
#define PF_U   BIT(2)
#define PF_RSV BIT(3)
#define PF_I   BIT(4)

/* --- software TLB ---------------------------------------------------------- */

#define TLB_BITS    14
#define TLB_ENTRIES (1u << TLB_BITS)
#define TLB_INVALID UINT64_MAX

/*
 * A tag is a page-aligned GVA with an ASID in its low 12 bits. An ASID stands
 * for one (address space, privilege) pair, so that a flush or a switch is the
 * choice of another ASID. ASID 0xfff is never used: TLB_INVALID matches nothing.
 *
 * A write tag is set only when the page is dirty, writable and holds no decoded
 * code (codemap.h); otherwise stores take the slow path.
 */
struct tlb_entry {
	uint64_t read, write, exec;
	uint64_t addend; /* HVA = GVA + addend */
};

#define ASID_MAX  0xffeu
/* Alignment is checked, CPL 3: every access takes the slow path. Never in a tag. */
#define ASID_NONE 0xffeu

/* The translator's page cache. No sum of this with an addend is a canonical address. */
#define XPAGES     96u
#define XPAGE_NONE 0x8000800000000000ull

/* The translator's jump cache: by the upper bits of a product, see jump_slot(). */
#define XLAT_JUMPS_BITS 12
#define XLAT_JUMPS      BIT(XLAT_JUMPS_BITS)
#define XLAT_JUMPS_HASH 0x9e3779b1u
/* What newer entries have taken the places of: by the lower bits of the slot. */
#define XLAT_VICTIMS    1024u

static inline unsigned jump_slot(uint64_t rip)
{
	return (uint32_t)rip * XLAT_JUMPS_HASH >> (32 - XLAT_JUMPS_BITS);
}

/* --- a pending fault -------------------------------------------------------- */

struct cpu_fault {
	bool pending;
	uint8_t vector;
	bool has_error;
	uint32_t error;
	uint64_t payload; /* #PF: CR2; #DB: DR6 bits */
};

enum cpu_mode { MODE_16, MODE_32, MODE_64 }; /* default operand size of CS */

/*
 * Arithmetic flags live outside s.rflags while code runs, in the form LAHF and
 * SETO leave them in AX: AH = SF ZF - AF - PF - CF, AL = OF. cpu_rflags() puts
 * both together; s.rflags's arithmetic bits are meaningless in between.
 */
#define FL_OF BIT(0)
#define FL_CF BIT(8)
#define FL_PF BIT(10)
#define FL_AF BIT(12)
#define FL_ZF BIT(14)
#define FL_SF BIT(15)

/* Why a block was left before its end or needs a look after it; see interp.h. */
enum cpu_leave {
	LEAVE_NONE,
	LEAVE_FAULT, /* c->fault holds it, nothing of stop_op has happened */
	LEAVE_AGAIN, /* stop_op stopped half-way, its registers say where: run it again */
	LEAVE_DONE,  /* stop_op is complete, and decoded code may have changed */
	LEAVE_SYS,   /* stop_op is complete, and modes or mappings may have changed */
	LEAVE_EXIT   /* stop_op is complete, c->exit is filled */
};

struct cpu {
	/*
	 * Hot: two cache lines, and the general registers right behind them. Operands'
	 * addresses are summed from words of this struct by number (op.h, CPU_WORD()).
	 */
	uint64_t fl __cacheline;
	uint64_t asid; /* of the current address space and CPL */
	struct tlb_entry *tlb;
	uint64_t block_rip;  /* RIP of op o is block_rip + o->off; see interp.h */
	uint64_t zero;       /* always 0: the base or index an operand does not have */
	uint64_t insns;      /* retired, up to the block being executed; see cpu_insns() */
	uint64_t insns_stop; /* CLOCK_ICOUNT: leave the loop here, exactly */
	struct vcpu *vcpu;

	const struct op *block_ops; /* the ops being executed */
	const struct op *stop_op;   /* where leave was set; slow accesses note themselves, too */
	uint64_t asid_super;        /* the same address space, supervisor rights, */
	uint64_t asid_user;         /* and with a user's */
	struct vm *vm;
	struct codemap *codemap;
	uint8_t leave; /* enum cpu_leave */
	uint8_t edge;  /* by which way a block was left; see block.h */
	uint8_t cpl;
	uint8_t mode;    /* enum cpu_mode */
	bool stack32;    /* SS.B; MODE_64 uses 64-bit stacks regardless */
	bool flat;       /* MODE_64, or all of ES CS SS DS are flat 4 GiB */
	bool slow_step;  /* TF, debugger's step, trace, debug points: one by one */
	bool code_stale; /* this vCPU stored into decoded code: leave the block */
	bool icount;     /* CLOCK_ICOUNT: the clock must follow insns */
	uint8_t pauses;  /* PAUSE in a row */

	struct cpu_state s;

	struct cpu_fault fault;
	uint64_t insns_counted; /* what the statistics have seen of insns */
	uint64_t clock_insns;   /* icount: what the clock has seen of insns */
	uint64_t insns_pause;   /* icount: run() ends here, exactly, by EXIT_KICK; for tests */

	/* debug.c */
	struct {
		bool points;    /* DR7 or a debugger has some */
		bool stepping;  /* a debugger's single step */
		bool trap;      /* TF was set before the instruction */
		bool resumed;   /* and so was RF */
		uint8_t hits;   /* data and port points it met: bits of DR6 */
		bool watch_hit; /* the same for a debugger's */
		uint64_t watch_gva;
	} debug;

	struct vcpu_exit *exit; /* filled by whoever returns SYS_EXIT */
	struct lapic *lapic;
	struct block_cache *blocks;
	struct stub_cache *stubs;
	struct mmu *mmu; /* ASIDs, PCIDs, large-page filter */
	struct pv *pv;

	/* The translator's; see xlat.h. What emitted code touches lies below. */
	struct xlat *xlat; /* NULL: interpret everything */
	struct {
		struct cpu *self;
		/*
		 * Pages that translated code has looked up since the last change of mappings,
		 * and what to add to addresses in them; see xlat_access.c for which is whose.
		 */
		uint64_t page[2 * XPAGES], addend[2 * XPAGES]; /* supervisors', users' */
		uint64_t page_asid[2];                         /* whose they are */
		/* How often another page was wanted; carries when that is too often. */
		uint16_t page_misses[2 * XPAGES];
		uint64_t slot[8];      /* what a block adds to addresses; see xlat_access.c */
		uint64_t loop_limit;   /* see xlat_loop.c */
		uint64_t tsc_add;      /* host's TSC + tsc_add is the guest's, unless tsc_trap */
		uint64_t saved;        /* across an access, where r10 and r11 are taken */
		uint64_t host_rsp;     /* while translated code runs */
		uint64_t return_sp;    /* while it does not: the top of the return stack, */
		uint64_t return_limit; /* which is full when below, */
		uint64_t return_base;  /* and empty at its base; see xlat_jump.c */
		uint64_t code;         /* where to enter it */
		uint64_t jump_key;     /* added to a RIP makes a jump-cache tag; follows asid */
		uint64_t vec_gate; /* called before vector instructions: loads them, or returns */
		uint64_t *tally;   /* where code counts itself; see xlat_tally.h */
		uint32_t why;      /* enum xlat_exit */
		uint32_t what;     /* which edge, or which offset in the page */
		uint32_t user;     /* CPL is not 0 */
		uint32_t no_fast_ring; /* SYSCALL and SYSRET are for C: see xlat_ring.c */
		uint32_t waiting;      /* an interrupt or NMI is held back: STI has to look */
		uint32_t tsc_trap;     /* not 0: RDTSC is for the interpreter */
		uint32_t plain_exits;  /* look-ups for several accesses that failed */
		uint32_t vec_live;     /* guest's vector registers are in the host's */
	} x;
	uint64_t jump_tag[XLAT_JUMPS]; /* RIP + x.jump_key */
	uint64_t jump_code[XLAT_JUMPS];
	uint64_t victim_tag[XLAT_VICTIMS], victim_code[XLAT_VICTIMS];
	struct tlb_entry tlb_entries[TLB_ENTRIES];
};

/* A word of struct cpu by its number, for operands' addresses. */
#define CPU_WORD(field) (offsetof(struct cpu, field) / sizeof(uint64_t))

_Static_assert(CPU_WORD(s.gpr[R15]) < UINT8_MAX, "operands name words in 8 bits");

static inline uint64_t cpu_rflags(const struct cpu *c)
{
	uint64_t f = c->fl;

	return (c->s.rflags & ~(uint64_t)RFLAGS_ARITH) | ((f >> 8) & 0xd5) | (f & FL_OF) << 11 |
	       RFLAGS_ONE;
}

/* Stores all flags as given; the caller has applied privilege rules. */
static inline void cpu_set_rflags(struct cpu *c, uint64_t rflags)
{
	c->s.rflags = (rflags & ~(uint64_t)RFLAGS_ARITH) | RFLAGS_ONE;
	c->fl = (rflags & 0xd5) << 8 | ((rflags >> 11) & 1);
}

/* --- exception.c ------------------------------------------------------------ */

/* Record a fault of the current instruction. The first one recorded wins. */
void cpu_raise(struct cpu *c, uint8_t vector);
void cpu_raise_error(struct cpu *c, uint8_t vector, uint32_t error);
void cpu_raise_pf(struct cpu *c, uint64_t gva, uint32_t error);
void cpu_raise_db(struct cpu *c, uint64_t dr6_bits);

/*
 * Deliver c->fault at s.rip (its own RIP for faults, the next one for traps):
 * pushes the frame, follows nested faults to #DF. False: triple fault.
 */
bool cpu_deliver_fault(struct cpu *c);
/*
 * INT n, INT3, INTO (@privileged: INT1); s.rip is already the return address.
 * False: c->fault says why, and belongs to the instruction itself.
 */
bool cpu_software_interrupt(struct cpu *c, uint8_t vector, bool privileged);

/*
 * Between instructions, when attention is set or an event may be due: posted
 * interrupts, INIT, SIPI, NMI, timers, PV flushes; delivers at most one
 * interrupt. False: triple fault on the way.
 */
bool cpu_take_events(struct cpu *c);

/* --- system.c, segment.c ------------------------------------------------------ */

enum sys_result {
	SYS_NEXT,  /* go on behind the instruction */
	SYS_JUMP,  /* s.rip has been set */
	SYS_FAULT, /* c->fault holds it; s.rip still points at the instruction */
	SYS_EXIT   /* c->exit is filled; s.rip has been advanced if it should be */
};

/*
 * A handler outside the fast path. On entry s.rip is the instruction's own RIP.
 * These end a block: they may change modes, mappings and interrupt state.
 */
typedef enum sys_result sys_fn(struct cpu *c, const struct op *o);

/* sys_decode() in sys.h finds the handlers. */

/* Recompute cpl, mode, stack32, flat, ASIDs from s; after any change of them. */
void cpu_update_mode(struct cpu *c);

/* MSR access by number; false: #GP is raised (or counted and ignored as hardware does). */
bool cpu_rdmsr(struct cpu *c, uint32_t msr, uint64_t *v);
bool cpu_wrmsr(struct cpu *c, uint32_t msr, uint64_t v);

/* Guest TSC now. */
uint64_t cpu_tsc(struct cpu *c);

/* --- pv.c ---------------------------------------------------------------------- */

/* The vCPU is about to sleep, or runs again: steal time, preempted flag, PV flush. */
void pv_sleep(struct cpu *c);
void pv_resume(struct cpu *c);

#endif
