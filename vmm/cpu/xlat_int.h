/*
 * xlat_int.h - what the translator's files share: xlat.c (cache and loop),
 * xlat_gen.c (a block's code), xlat_insn.c (an instruction's), xlat_mem.c
 * (guest memory from translated code).
 *
 * Registers. Guest registers live in host registers of the same number, but
 *	rsp		in r15: the host's stack pointer stays the host's
 *	r10, r11, r15	in memory (c->s.gpr): host r10 and r11 are scratch
 * GS points to struct cpu. Between two instructions of a block everything is in
 * its place, so that a block can be left at any of them.
 *
 * Flags are in the host's flags (FLAGS_HOST), in c->fl (FLAGS_MEM), or nowhere,
 * because whatever comes next in the block overwrites them all (FLAGS_DEAD). An
 * instruction that faults while they are dead faults with those last saved.
 */
#ifndef VMM_CPU_XLAT_INT_H
#define VMM_CPU_XLAT_INT_H

#include "cpu/block.h"
#include "cpu/emit.h"
#include "cpu/mmu.h"
#include "cpu/soft.h"
#include "cpu/xcache.h"
#include "cpu/xlat.h"

#include <Zydis/Zydis.h>

#define XLAT_FIXED_BYTES KIB(16) /* of a code cache, for trampolines at its begin */

#define XBLOCK_INSNS   64
/* Bytes of host code that a block of @n instructions can make at the most. */
#define XBLOCK_CODE(n) (((n) + 4) * 512u)

enum xlat_exit {
	XEXIT_EDGE,        /* what: xwhat_edge() */
	XEXIT_LOOKUP,      /* s.rip is set: the jump cache does not know it */
	XEXIT_ATTEND,      /* s.rip is set */
	XEXIT_ATTEND_EDGE, /* as XEXIT_EDGE; asks xcall_attend() */
	XEXIT_ATTEND_AT,   /* what: xwhat(); the same */
	XEXIT_STALE,       /* what: the number of a block that is not what it was; s.rip is set */
	XEXIT_ROAMS,       /* what: xwhat() of an access that keeps missing its page */
	XEXIT_INTERP,      /* what: xwhat() of an instruction for the interpreter */
	XEXIT_OUT,         /* s.rip is set, and c->exit is filled */
	XEXIT_RESET        /* triple fault */
};

/* An instruction's offset in its page, and how many before it in the block have retired. */
static inline uint32_t xwhat(unsigned off, unsigned retired)
{
	return off | retired << 16;
}

static inline unsigned xwhat_off(uint32_t what)
{
	return what & (PAGE_SIZE - 1);
}

static inline unsigned xwhat_retired(uint32_t what)
{
	return what >> 16;
}

#define XBLOCK_EDGES 8

/* Edge @edge of the block of that number. */
static inline uint32_t xwhat_edge(unsigned number, unsigned edge)
{
	return number * XBLOCK_EDGES + edge;
}

/* Added to it: the range of several accesses may cross a page, try them one by one. */
#define XWHAT_PLAIN BIT(15)
/* A look-up at the head of the block that begins there. */
#define XWHAT_HEAD  BIT(13)
/* Whether the access faults is more than a question of its page: the interpreter asks. */
#define XWHAT_ASK   BIT(14)

enum flags_at { FLAGS_DEAD, FLAGS_HOST, FLAGS_MEM };

/* A direct jump out of a block to somewhere in the same page. */
struct xedge {
	uint8_t *at;          /* the rel32 to link */
	uint64_t poll;        /* backward edges go through here; 0: a forward one */
	uint64_t *poll_table; /* where the poll leads: on, or out */
	uint16_t target;      /* offset in the page */
	bool flags_host;
};

/* Constant once it is added to the cache, but for what is atomic; see xcache.h. */
struct xblock {
	uint64_t key; /* xcache_key() */
	const _Atomic uint32_t *page_version;
	uint32_t version;
	_Atomic uint32_t hash_next; /* number + 1; the cache's */
	uint64_t epoch;             /* it was added in */
	uint64_t hva;
	uint64_t enter_host, enter_mem,
		enter_jump;  /* flags in the host's, in c->fl; and the jump cache's tag in r10 */
	uint64_t enter_poll; /* looks at attention first; 0: flags are alive here */
	struct xedge *edge;  /* at most XBLOCK_EDGES */
	uint8_t vec;         /* enum xvec it was made under */
	bool flags_live;     /* reads flags before it writes them all */
	bool plain;          /* accesses are looked up one by one */
	bool user;           /* CPL is not 0 */
	bool crosses;        /* its last instruction reaches into the next page */
	_Atomic bool gone;   /* is not what it was; never taken back */
	uint8_t nr_insns;
	uint16_t nr_marks;
	const struct xmark *marks;
};

/* Dead ones stay dead: a page's version never comes back. */
static inline bool xblock_alive(const struct xblock *b)
{
	return atomic_load_explicit(b->page_version, memory_order_acquire) == b->version &&
	       !atomic_load_explicit(&b->gone, memory_order_relaxed);
}

/* Which instruction a host address belongs to, for host faults. */
struct xmark {
	uint32_t code;   /* offset from enter_jump */
	uint16_t off;    /* of the guest instruction in its page */
	uint8_t flags;   /* enum flags_at before it */
	uint8_t retired; /* instructions before it that are not counted yet */
};

/* Fixed pieces of code, at the begin of the code cache. */
struct xtramp {
	uint64_t enter;             /* void (void) for C */
	uint64_t leave;             /* registers -> c->s, back to C */
	uint64_t leave_saved;       /* they are there already */
	uint64_t lookup;            /* the jump cache's slot r11 does not have the tag in r10 */
	uint64_t attention, attend; /* is set, and x.why; and x.why is XEXIT_ATTEND */
	uint64_t ret_miss;  /* a return, its tag in r10, that is not what the stack's top says */
	uint64_t fill[2];   /* by write: fill the TLB for r11 bytes at the address in r10 */
	uint64_t page[2];   /* by write: the same, and page cache slot r11 >> 16, too */
	uint64_t rep[2][4]; /* MOVS, STOS with elements of 1, 2, 4, 8 bytes, as often as RCX says */
	uint64_t system;    /* the system instruction that r10 points to, and on where it leads */
	uint64_t syscall, sysret; /* those that r11 points to, where nothing is unusual */
	uint64_t jump;            /* to the RIP in r10, by the jump cache */
	uint64_t called;          /* after C said in eax anything but XCALL_BACK */
	/* void (void) for C: vector registers to their image, without looking; and forgotten */
	uint64_t park, copy, drop;
	uint64_t vec_load, ret;
};

/* Blocks found lately, by their keys: most look-ups are for code that others run, too. */
#define XLAT_KNOWN 4096u

struct xknown {
	uint64_t key;
	struct xblock *block; /* NULL: none */
};

/* Wide enough for the code of a kernel and its programs: a hit has all of it looked through. */
#define XLAT_FILTER_BITS 16

struct xlat {
	struct xseat seat; /* at the cache of its guest node */
	uint8_t *returns;  /* RETURN_BYTES */
	struct emit e;
	struct xtramp tramp;
	uint32_t xsave_mask; /* components the guest is offered; 0: FXSAVE will do */
	bool tsc_inline;     /* the host's TSC is the clock */
	bool counts;         /* c->insns is kept: costs three instructions a block */
	uint32_t seen;       /* codemap invalidations taken into account */
	/* Filter over pages: the jump cache may know addresses there. */
	uint64_t jumps_into[BIT(XLAT_FILTER_BITS) / 64];
	struct decoder decoder;
	struct gen *gen;
	struct xtally *tally;            /* NULL: code does not count itself */
	struct xknown known[XLAT_KNOWN]; /* in the epoch that the seat was last in */
};

/* Which vector instructions can be executed without a look at control registers. */
enum xvec { XVEC_NONE, XVEC_SSE, XVEC_AVX, XVEC_AVX512 };

/* Does the access of the instruction at @gpa ask the TLB, and no remembered page? */
bool xlat_roams(const struct cpu *c, uint64_t gpa);
enum xvec xlat_vec(const struct cpu *c); /* xlat.c */
/* Has this vCPU lately come to a block that begins at @hva, in the present mode? */
bool xlat_knows(struct cpu *c, uint64_t hva);
/* Before code is emitted: room at x->e for a block of @insns, which will be @number. */
bool xlat_room(struct xlat *x, unsigned insns, unsigned *number);

/* xlat.c: what emitted code relies on, whenever C code has run. */
void xlat_prepare(struct cpu *c);
/* The same, where only CPL, flags and RIP have changed since it was last said. */
void xlat_prepare_ring(struct cpu *c);
/* The jump cache is told where s.rip leads. False: that is not known. */
bool xlat_find_jump(struct cpu *c);
/*
 * The look-up for several accesses at x.what has failed: is there a block at hand that makes
 * them one by one? Then x.code is where it begins.
 */
bool xlat_find_plain(struct cpu *c);
/* After XEXIT_ATTEND and its kin: s.rip is where it goes on. */
void xlat_set_rip(struct cpu *c);
/* Misses of pages are counted from one look at attention to the next. */
void xlat_count_misses(struct cpu *c);
/* Jumps to code that has been modified; as xlat_sync(), where translated code is to go on. */
void xlat_forget_stale(struct cpu *c);

/* xlat_tramp.c */
void xtramp_make(struct xlat *x);

/* xlat_ring.c: tramp.syscall and tramp.sysret; may they be taken? */
void xring_make(struct xlat *x);
bool xring_is_plain(const struct cpu *c);
/* What cpu_rflags() says, without RF and VM, into @dst. */
void xlat_emit_rflags(struct emit *e, unsigned dst, unsigned other);

/* What C code called by emitted code makes of it. */
enum xcall {
	XCALL_LEAVE, /* x.why says why */
	XCALL_BACK,  /* go on behind the call */
	XCALL_JUMP,  /* go on at s.rip */
	XCALL_CODE   /* go on with the code at x.code */
};

/*
 * xlat_call.c: a system instruction; the TLB shall have @gva, or the guest its fault.
 * The instruction's place is in x.what.
 */
enum xcall xcall_system(struct cpu *c, const struct op *o);
/* The jump cache does not know where @tag leads. */
enum xcall xcall_lookup(struct cpu *c, uint64_t tag);
/* Attention is set, or the return stack full; x.why says where. */
enum xcall xcall_attend(struct cpu *c);
enum xcall xcall_fill(struct cpu *c, uint64_t gva, unsigned bytes, enum mmu_access access);
/* An access cannot be made here: the guest has its fault, or the interpreter makes it. */
enum xcall xcall_missed(struct cpu *c, uint64_t gva, unsigned bytes);
bool xcall_handles(sys_fn *fn);

/*
 * xlat_rep.c: elements of 1 << @shift bytes, upwards, by and with the registers in c->s,
 * which always say how far it has got.
 */
enum xcall xlat_rep_movs(struct cpu *c, unsigned shift);
enum xcall xlat_rep_stos(struct cpu *c, unsigned shift);

/*
 * xlat_return.c: the return stack. Entries of three words, newest first, and above its base
 * some that match nothing. Below its limit there is room for calls that do not look, and for
 * what pieces of the trampolines push.
 */
#define RETURN_ENTRY   24
#define RETURN_ENTRIES 1024
#define RETURN_SEARCH  8 /* entries are looked at when the first is not it */
#define RETURN_BYTES   KIB(64)

int xret_create(struct cpu *c, int host_node); /* c->xlat->returns; -ENOMEM */
void xret_destroy(struct cpu *c);
/* None of the entries shall match any more; also for C code that translated code has called. */
void xret_forget(struct cpu *c);
/* The same for those that lead to the page of @gva. */
void xret_forget_page(struct cpu *c, uint64_t gva);
/* It is full: keep the newer half. */
void xret_make_room(struct cpu *c);

/*
 * xlat_gen.c: translate the block at b->hva, in the page at @page_gpa, into *b.
 * False: there is no room for it.
 */
int xgen_create(struct xlat *x, const struct host *h, int node);
void xgen_destroy(struct xlat *x, const struct host *h);
bool xgen_block(struct cpu *c, struct xblock *b, uint64_t page_gpa);

/* jump_slot() of the RIP in @rip. Clobbers flags. */
static inline void emit_jump_slot(struct emit *e, unsigned dst, unsigned rip)
{
	emit_mul_imm(e, false, dst, rip, XLAT_JUMPS_HASH);
	emit_shift(e, false, SHIFT_R, dst, 32 - XLAT_JUMPS_BITS);
}

#define CPU_OFF(field) ((int32_t)offsetof(struct cpu, field))
#define GPR_OFF(n)     (CPU_OFF(s.gpr) + 8 * (int32_t)(n))

#endif
