/*
 * xlat_gen.h - a block on its way to code: what xlat_decode.c and xlat_access.c find out and
 * xlat_gen.c emits.
 */
#ifndef VMM_CPU_XLAT_GEN_H
#define VMM_CPU_XLAT_GEN_H

#include "cpu/xlat_int.h"

#define FLAGS_ALL RFLAGS_ARITH
#define S1        H_R10
#define S2        H_R11
#define COLD_MAX  (6 * XBLOCK_INSNS)

enum kind {
	K_INTERP, /* for the interpreter; ends the block */
	K_PLAIN,  /* the instruction itself, with other registers and operands */
	K_OPREG,  /* the same, its register is in the opcode byte */
	K_NOP,
	K_LEA,
	K_PUSH,
	K_POP,
	K_LEAVE,
	K_PUSHF,
	K_CLI,
	K_STI,
	K_SWAPGS,
	K_CLD,  /* and STD */
	K_CR,   /* MOV register, CR2 or CR3 */
	K_BASE, /* RDFSBASE and its like */
	K_TSC,  /* RDTSC, RDTSCP */
	K_SREG, /* MOV register, segment register */
	K_REP,  /* REP MOVS, REP STOS */
	K_BITS, /* BT and its like, whose register reaches beyond the operand */
	K_CALL,
	K_RET,
	K_JMP,
	K_JCC,
	K_SYSTEM /* C does it: xlat_call.c */
};

/* Looked up before the loop that the block is, not within; see xlat_loop.c. */
enum hoist {
	HOIST_NOT,
	HOIST_BASE,  /* the base moves: x.slot[] has what to add to it */
	HOIST_INDEX, /* the index moves: x.slot[] has the rest */
	HOIST_FIXED  /* x.slot[] has the address */
};

/*
 * An access to [register + displacement] whose page another one before it in the
 * block may have looked up already: see xlat_find_groups().
 */
struct access {
	bool simple;                 /* it is of this form */
	const struct access *leader; /* whose look-up serves; NULL: its own */
	bool leads;                  /* others follow */
	bool write;                  /* what the leader looks up is good for stores */
	uint8_t base;                /* guest register */
	int16_t page;                /* slot of the page cache, or -1: the TLB is asked */
	int8_t slot;                 /* then: where in x.slot[] followers find what to add */
	int32_t disp;
	int32_t from;      /* what a leader looks up: [register + from], for so many bytes */
	int32_t from_head; /* the same, with registers as the block found them */
	uint16_t bytes;
	enum hoist hoist;
	bool at_head;                 /* looked up at the block's begin */
	bool base_moved, index_moved; /* since then, by a known amount */
};

#define XSLOTS 8

/* Accesses off one register whose look-up may serve more to come; see xlat_find_groups(). */
#define GROUPS_OPEN 3

struct group {
	struct access *leader;
	const struct insn *at; /* whose it is */
	int32_t leader_delta;  /* of the register, since the groups of it began */
	int32_t lo, hi;
	bool apart; /* a jump out of the block has come since */
};

/* Where an operand can be reached: at [base + (index << shift) + disp]. */
struct place {
	uint8_t base, index, shift; /* host registers; index may be H_NONE */
	int32_t disp;
};

struct insn {
	ZydisDecodedInstruction z;
	ZydisDecodedOperand operand[ZYDIS_MAX_OPERAND_COUNT];
	uint8_t bytes[INSN_BYTES_MAX];
	enum kind kind;
	bool vec;
	int8_t mem; /* which operand is in memory, -1: none */
	uint16_t off;
	uint16_t reads, writes, kills; /* arithmetic flags */
	uint16_t live_in, live_out;
	struct access at, stack; /* of the memory operand, and of what it does to the stack */
};

enum cold_kind {
	COLD_FILL,
	COLD_PAGE,
	COLD_EDGE,
	COLD_FAR,
	COLD_STOP,
	COLD_LOOKUP,
	COLD_INTERP,
	COLD_ATTEND,
	COLD_STALE,
	COLD_CALL,
	COLD_RETURN,
	COLD_BLOCK_RIP,
	COLD_VEC
};

/* Something to emit after the hot code. */
struct cold {
	enum cold_kind kind;
	uint8_t *from;   /* the rel32 that leads here */
	uint8_t index;   /* the instruction's, in the block */
	uint8_t retired; /* instructions before it that are not counted yet */
	enum flags_at flags;

	/* COLD_FILL */
	uint64_t back; /* where to try again */
	struct insn *insn;
	const struct access *access; /* NULL: the memory operand's address */
	uint16_t bytes;
	bool write;
	int16_t page; /* COLD_PAGE, besides: the slot */
	bool head;    /* at the head of a loop: registers are as the block found them */

	/* COLD_EDGE, COLD_FAR */
	uint8_t edge;
	bool call; /* COLD_LOOKUP, too: the way here was a call, which returns to @back */
	int32_t target;
};

/* A block that jumps to its own begin; see xlat_loop.c. */
struct loop {
	bool on;
	uint8_t nr;
	uint8_t counter; /* a register that moves, or OP_NO_REG */
	int32_t step;    /* by so much each time, */
	int32_t stride;  /* and the access that it belongs to, by so much */
	bool by_base;    /* which is at [counter + constant]: an address, not just a number */
	uint64_t body;   /* where to go on while all pages are the same */
	bool fresh;      /* nobody has used r11 otherwise than the body found it, */
	bool holds;      /* and somebody has used that */
	struct hoisted {
		struct insn *n;
		struct access *a;
		int32_t stride; /* bytes each time */
	} hoisted[XSLOTS];
};

struct gen {
	struct cpu *c;
	struct xlat *x;
	struct emit *e;
	struct xblock *b;
	uint64_t page_gpa;
	unsigned number;
	unsigned nr_insns, nr_cold;
	unsigned index;   /* of the instruction being emitted */
	unsigned counted; /* so many have been added to c->insns, where they are counted */
	unsigned nr_edges;
	enum flags_at flags;
	bool vec_live;
	struct rip_page { /* asked for in this block by an address relative to RIP */
		int16_t page;
		int32_t delta; /* from the page that is being executed */
	} rip_page[4];
	uint8_t nr_rip_pages;
	int32_t held;   /* what r11 has: the word at that place of struct cpu; 0: something else */
	int32_t sp_lag; /* what the guest's RSP is beyond r15 */
	struct loop loop;
	bool crosses; /* an instruction that crosses the page's end comes next, or is the block */
	struct {
		uint64_t hva;
		const _Atomic uint32_t *now;
		uint32_t version;
	} second; /* the page it reaches into */
	struct insn insn[XBLOCK_INSNS + 1];
	struct group group[GPR_COUNT * GROUPS_OPEN]; /* of those that are open */
	struct {
		uint64_t who;
		uint64_t turn; /* it is free unless this is that of the block */
	} taken[2 * XPAGES];   /* see part_pages() */
	uint64_t turn;
	struct xmark mark[XBLOCK_INSNS + 1];
	struct cold cold[COLD_MAX];
	struct xedge edge[XBLOCK_EDGES];
};

/* The host register that a guest register lives in, or H_NONE: in memory. */
static inline unsigned xhome(unsigned gpr)
{
	switch (gpr) {
	case RSP:
		return H_R15;
	case R10:
	case R11:
	case R15:
		return H_NONE;
	default:
		return gpr;
	}
}

/* The number of a general register of any width, or OP_NO_REG. */
uint8_t xlat_gpr(ZydisRegister r);
bool xlat_is_high_byte(ZydisRegister r); /* AH, CH, DH, BH */

/*
 * Fills g->insn[]: kinds, flags, accesses. Returns the offset in the page behind the
 * last instruction.
 */
unsigned xlat_decode(struct gen *g, uint64_t page_gpa);

/* xlat_access.c: who looks up which page for whom; g->insn[] and flags are known. */
void xlat_find_groups(struct gen *g);

/* xlat_gen.c, for the others */
void xgen_spill_flags(struct gen *g, unsigned live);
unsigned xgen_get_reg(struct gen *g, unsigned gpr, unsigned scratch);
void xgen_set_reg(struct gen *g, unsigned gpr, unsigned from);
void xgen_hold(struct gen *g, int32_t off);
struct place xgen_stack(struct gen *g, struct insn *n);
void xgen_move_stack(struct gen *g, int32_t by); /* and by what it lags behind */
void xgen_at(struct emit *e, bool w, unsigned op, unsigned reg, const struct place *p);
struct cold *xgen_cold(struct gen *g, enum cold_kind kind);
struct cold *xgen_cold_if(struct gen *g, enum cold_kind kind, unsigned cc); /* entered if @cc */
bool xgen_address(struct gen *g, const struct insn *n, unsigned dst, unsigned other);
void xgen_probe(struct gen *g, struct insn *n, const struct access *a, unsigned bytes, bool write,
		uint8_t *retry);
void xgen_page_check(struct gen *g, struct insn *n, const struct access *a, int16_t page,
		     unsigned bytes, bool write, unsigned addr, unsigned scratch, uint8_t *retry);
void xgen_vec_gate(struct gen *g, unsigned live); /* flags that are wanted later */
void xgen_poll(struct gen *g);
bool xgen_rip_relative(const struct insn *n, int32_t *off);
bool xgen_address_is_simple(const struct insn *n);
struct place xgen_operand(struct gen *g, struct insn *n, bool write);
void xgen_save_flags(struct emit *e);
void xgen_host_flags(struct gen *g);
void xgen_exit(struct gen *g, enum xlat_exit why, uint32_t what);

/* xlat_jump.c */
bool xjump_call(struct gen *g, struct insn *n);
bool xjump_ret(struct gen *g, struct insn *n);
bool xjump_jmp(struct gen *g, struct insn *n);
bool xjump_jcc(struct gen *g, struct insn *n);
/* Another edge of the block, to @target in this page or off it; @cc 16: always. */
void xjump_edge(struct gen *g, unsigned cc, int32_t target);
/* What of it is rarely executed: cold_kind COLD_EDGE and those that are nobody else's. */
void xjump_cold(struct gen *g, const struct cold *k);
/* The first @n instructions of the block have retired. Touches no flags, keeps r10. */
void xgen_count(struct gen *g, unsigned n);
static inline unsigned xgen_retired(const struct gen *g)
{
	return g->index > g->counted ? g->index - g->counted : 0;
}
/* CLOCK_ICOUNT stops at exact instructions: not later than those that come next. */
void xgen_stop(struct gen *g, unsigned off);
/* The address of offset @off of this page into @dst. */
void xgen_rip(struct gen *g, unsigned dst, int32_t off);

/* xlat_sys.c */
bool xsys_pushf(struct gen *g, struct insn *n);
bool xsys_interrupt_flag(struct gen *g, struct insn *n, bool on);
bool xsys_direction_flag(struct gen *g, struct insn *n);
bool xsys_swapgs(struct gen *g, struct insn *n);
bool xsys_sreg(struct gen *g, struct insn *n);
bool xsys_read_cr(struct gen *g, struct insn *n);
bool xsys_segment_base(struct gen *g, struct insn *n);
bool xsys_rdtsc(struct gen *g, struct insn *n);
bool xsys_call(struct gen *g, struct insn *n);

/* xlat_loop.c */
/* Before the body: looks up all that can be. */
void xloop_head(struct gen *g);
/* The way back, where the branch has been decided. */
void xloop_back(struct gen *g);
/* The operand or access of which xloop_head() has taken care. */
struct place xloop_place(struct gen *g, const struct insn *n, const struct access *a);
int32_t xloop_addend(const struct gen *g, const struct access *a); /* where the body has it */
/*
 * Is the block a loop, and what of it can be looked up before? @moved: registers that
 * each turn moves by @delta, @unknown: those that get other values.
 */
void xloop_find(struct gen *g, const int32_t delta[GPR_COUNT], uint16_t unknown);

static inline int32_t xslot_off(const struct access *a)
{
	return CPU_OFF(x.slot) + 8 * a->slot;
}

static inline int32_t xaddend_off(int16_t page)
{
	return CPU_OFF(x.addend) + 8 * page;
}

static inline bool xlat_ends_block(enum kind k)
{
	return k == K_INTERP || k >= K_CALL;
}

#endif
