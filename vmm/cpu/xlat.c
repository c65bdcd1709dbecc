/*
 * xlat.c - the translator's cache and loop; see xlat.h.
 *
 * Cache, blocks and jump cache belong to the vCPU's thread. A block is found by
 * where its bytes lie in host memory and is alive while its page's version is
 * the one it was made under; dead ones are not found again. They can still be
 * jumped to by links, which stay within a page and so lead from dead to dead, and
 * by the jump cache, which xlat_sync() empties after every invalidation.
 */
#include "cpu/xlat.h"

#include "cpu/mmu.h"
#include "cpu/sys.h"
#include "cpu/xlat_int.h"
#include "cpu/xlat_tally.h"
#include "cpu/xstate.h"

#include <errno.h>
#include <stdio.h>

/* Unless the machine says otherwise: its vCPUs share the one, and each has the other at least. */
#define CODE_BYTES     MIB(32)
#define CODE_BYTES_MIN MIB(8)
#define BLOCKS_MAX     65536u
#define HASH_SIZE      32768u

static uint64_t code_bytes(const struct vm *vm)
{
	if (vm->cfg.code_cache_bytes)
		return MAX(vm->cfg.code_cache_bytes, VMM_CODE_CACHE_MIN);
	return MAX(ALIGN_DOWN(CODE_BYTES / vm->nr_vcpus, PAGE_SIZE), CODE_BYTES_MIN);
}

/* Profilers of the host want names for what they find in the code cache. */
static void tell_profiler(struct cpu *c, uint64_t code, const char *kind, uint64_t gva)
{
	const struct vmm_config *cfg = &c->vm->cfg;
	char name[48];

	if (likely(!cfg->code_made))
		return;
	snprintf(name, sizeof(name), "%s:%llx", kind, (unsigned long long)gva);
	cfg->code_made(cfg->arg, code, emit_here(&c->xlat->e) - code, name);
}

/* Are the host's ticks those of RDTSC? Then one of them lies between two others. */
static bool ticks_are_tsc(struct cpu *c)
{
	const struct host *h = &c->vm->host;

	if (c->vm->clock.source != CLOCK_HOST)
		return false;
	for (unsigned i = 0; i < 16; i++) {
		uint64_t before = __builtin_ia32_rdtsc();
		uint64_t t = h->ops->ticks(h->ctx);

		if (t < before || t > __builtin_ia32_rdtsc())
			return false;
	}
	return true;
}

int xlat_create(struct cpu *c, int host_node)
{
	const struct host *h = &c->vm->host;
	struct xlat *x = h->ops->alloc(h->ctx, sizeof(*x), host_node);
	int err;

	if (!x)
		return -ENOMEM;
	c->xlat = x;
	x->block = h->ops->alloc(h->ctx, BLOCKS_MAX * sizeof(*x->block), host_node);
	x->hash = h->ops->alloc(h->ctx, HASH_SIZE * sizeof(*x->hash), host_node);
	err = x->block && x->hash ? xgen_create(x, h, host_node) : -ENOMEM;
	if (!err && c->vm->cfg.tally_code)
		err = xtally_create(c, host_node);
	if (!err)
		err = h->ops->code_map(h->ctx, code_bytes(c->vm), host_node, &x->code);
	if (!err)
		err = xret_create(c, host_node);
	if (err) {
		xlat_destroy(c);
		return err;
	}
	x->e = (struct emit){ x->code.rw, x->code.rx - x->code.rw };
	x->limit = x->code.rw + x->code.bytes - (x->tally ? 2 : 1) * XBLOCK_CODE_MAX;
	if (cpu_has(&c->vm->cpuid, CPU_AVX))
		x->xsave_mask = (uint32_t)cpuid_xcr0(&c->vm->cpuid);
	xtramp_make(x);
	tell_profiler(c, (uint64_t)(uintptr_t)x->code.rx, "trampolines", c->vcpu->id);
	x->blocks_begin = x->e.p;
	decoder_init(&x->decoder, DECODE_64, &c->vm->cpuid);
	x->counts = c->icount || c->vm->cfg.count_insns;
	x->tsc_inline = ticks_are_tsc(c);
	c->x.self = c;
	c->x.vec_gate = x->tramp.vec_load;
	xlat_asid_changed(c);
	h->ops->thread_set_gs(h->ctx, c);
	return 0;
}

void xlat_destroy(struct cpu *c)
{
	const struct host *h = &c->vm->host;
	struct xlat *x = c->xlat;

	if (!x)
		return;
	if (x->code.rw)
		h->ops->code_unmap(h->ctx, &x->code);
	xgen_destroy(x, h);
	xtally_destroy(c);
	xret_destroy(c);
	if (x->hash)
		h->ops->free(h->ctx, x->hash, HASH_SIZE * sizeof(*x->hash));
	if (x->block)
		h->ops->free(h->ctx, x->block, BLOCKS_MAX * sizeof(*x->block));
	h->ops->free(h->ctx, x, sizeof(*x));
	c->xlat = NULL;
}

/* Jump-cache entries are of an address space, and good under one enum xvec. */
void xlat_asid_changed(struct cpu *c)
{
	c->x.jump_key = c->asid << 48 | (uint64_t)xlat_vec(c) << 60;
	c->x.user = c->cpl != 0;
}

/* --- the jump cache -------------------------------------------------------------- */

static uint64_t *filter_word(struct xlat *x, uint64_t gva, uint64_t *bit)
{
	uint64_t page = (gva >> PAGE_SHIFT) * 0x9e3779b97f4a7c15ull >> 52;

	*bit = BIT64(page % 64);
	return &x->jumps_into[page / 64];
}

static void forget_jumps(struct cpu *c)
{
	for (unsigned i = 0; i < XLAT_JUMPS; i++)
		c->jump_tag[i] = UINT64_MAX;
	memset(c->xlat->jumps_into, 0, sizeof(c->xlat->jumps_into));
	xret_forget(c);
}

static void remember_jump(struct cpu *c, const struct xblock *b)
{
	unsigned slot = jump_slot(c->s.rip);
	uint64_t bit, *word = filter_word(c->xlat, c->s.rip, &bit);

	c->jump_tag[slot] = c->s.rip + c->x.jump_key;
	c->jump_code[slot] = b->enter_jump;
	*word |= bit;
}

void xlat_forget_pages(struct cpu *c)
{
	c->x.page_asid[0] = c->x.page_asid[1] = UINT64_MAX;
}

void xlat_page_flushed(struct cpu *c, uint64_t gva)
{
	uint64_t bit;

	xlat_forget_pages(c);
	if (!c->xlat)
		return;
	xret_forget_page(c, gva);
	if (*filter_word(c->xlat, gva, &bit) & bit)
		forget_jumps(c);
}

void xlat_asids_reused(struct cpu *c)
{
	xlat_forget_pages(c);
	if (c->xlat)
		forget_jumps(c);
}

void xlat_sync(struct cpu *c)
{
	uint32_t now = codemap_invalidations(c->codemap);

	if (likely(c->xlat->seen == now))
		return;
	c->xlat->seen = now;
	forget_jumps(c);
}

/* --- blocks ------------------------------------------------------------------------ */

static bool xblock_alive(const struct xblock *b)
{
	return atomic_load_explicit(b->page_version, memory_order_acquire) == b->version;
}

static uint32_t *bucket(struct xlat *x, uint64_t hva)
{
	return &x->hash[(hva ^ hva >> 15) % HASH_SIZE];
}

enum xvec xlat_vec(const struct cpu *c)
{
	const uint64_t avx = XCR0_SSE | XCR0_AVX, avx512 = avx | XCR0_AVX512;

	if ((c->s.cr0 & (CR0_EM | CR0_TS)) || !(c->s.cr4 & CR4_OSFXSR) ||
	    !(c->s.cr4 & CR4_OSXMMEXCPT) || !(c->s.cr0 & CR0_NE))
		return XVEC_NONE;
	if (!(c->s.cr4 & CR4_OSXSAVE) || (c->s.xcr0 & avx) != avx)
		return XVEC_SSE;
	return (c->s.xcr0 & avx512) == avx512 ? XVEC_AVX512 : XVEC_AVX;
}

static struct xblock *xblock_find(struct cpu *c, uint64_t hva, bool plain)
{
	struct xlat *x = c->xlat;
	uint32_t *p = bucket(x, hva);
	enum xvec vec = xlat_vec(c);

	while (*p) {
		struct xblock *b = &x->block[*p - 1];

		if (!xblock_alive(b))
			*p = b->hash_next;
		else if (b->hva == hva && b->vec == vec && b->plain == plain &&
			 b->user == c->x.user)
			return b;
		else
			p = &b->hash_next;
	}
	return NULL;
}

static void flush(struct cpu *c)
{
	struct xlat *x = c->xlat;

	xtally_fold(x);
	memset(x->hash, 0, HASH_SIZE * sizeof(*x->hash));
	x->nr_blocks = 0;
	x->flushes++;
	stat_add(&c->vcpu->stats, STAT_CACHE_FLUSHES, 1);
	x->e.p = x->blocks_begin;
	forget_jumps(c);
}

static struct xblock *xblock_make(struct cpu *c, uint64_t hva, uint64_t gpa, bool plain)
{
	struct xlat *x = c->xlat;
	enum vcpu_doing before = vcpu_doing(c->vcpu, DOING_TRANSLATE);
	struct xblock *b;
	uint32_t *head;

	if (x->nr_blocks == BLOCKS_MAX || x->e.p > x->limit || xtally_full(x))
		flush(c);
	b = &x->block[x->nr_blocks];
	*b = (struct xblock){
		.hva = hva,
		.page_version = codemap_version(c->codemap, gpa),
		.vec = (uint8_t)xlat_vec(c),
		.plain = plain,
		.user = c->x.user,
	};
	xgen_block(c, b, x->nr_blocks, gpa & PAGE_MASK);
	head = bucket(x, hva);
	b->hash_next = *head;
	*head = ++x->nr_blocks;
	stat_add(&c->vcpu->stats, STAT_TRANSLATIONS, 1);
	tell_profiler(c, b->enter_jump, c->cpl ? "user" : "kernel", c->s.rip);
	vcpu_doing(c->vcpu, before);
	return b;
}

bool xlat_knows(struct cpu *c, uint64_t hva)
{
	return xblock_find(c, hva, false);
}

/* The block at s.rip. NULL: a fault is pending. */
static struct xblock *xblock_get(struct cpu *c, bool plain)
{
	uint64_t gva = c->s.rip, gpa;
	const struct tlb_entry *e = tlb_slot(c, gva);
	const uint8_t *page;
	struct xblock *b;

	if (likely(e->exec == tlb_key(c, gva, 1))) {
		b = xblock_find(c, gva + e->addend, plain);
		if (likely(b))
			return b;
	}
	page = mmu_fetch(c, gva, &gpa);
	if (!page)
		return NULL;
	gpa |= gva & ~PAGE_MASK;
	b = xblock_find(c, (uint64_t)(uintptr_t)page + (gva & ~PAGE_MASK), plain);
	return b ? b : xblock_make(c, (uint64_t)(uintptr_t)page + (gva & ~PAGE_MASK), gpa, plain);
}

static void link_edge(struct xlat *x, struct xedge *g, const struct xblock *to)
{
	uint64_t target = g->flags_host ? to->enter_host : to->enter_mem;

	if (g->poll && to->enter_poll) {
		target = to->enter_poll;
	} else if (g->poll) {
		__atomic_store_n(g->poll_table, target, __ATOMIC_RELAXED);
		target = g->poll;
	}
	emit_patch(&x->e, g->at, target);
}

/* --- the loop ------------------------------------------------------------------------ */

/* FIP and FDP would tell addresses of ours. */
static void hide_host_addresses(struct cpu *c)
{
	struct fx_image *fx = xstate_fx(&c->s);
	uint64_t rx = (uint64_t)(uintptr_t)c->xlat->code.rx;

	if (fx->ip - rx < c->xlat->code.bytes) {
		fx->ip = fx->dp = 0;
		fx->opcode = 0;
	}
}

static void clear_pages(struct cpu *c)
{
	uint64_t *page = &c->x.page[c->x.user * XPAGES];

	for (unsigned i = 0; i < XPAGES; i++)
		page[i] = XPAGE_NONE;
	c->x.page_asid[c->x.user] = c->asid;
}

static void enter(struct cpu *c, const struct xblock *b)
{
	uint8_t *bv = xstate_bv(&c->s);

	*bv = (uint8_t)((*bv | XCR0_X87 | XCR0_SSE) & c->xlat->xsave_mask);
	c->block_rip = c->s.rip & PAGE_MASK;
	c->x.code = b->enter_mem;
	if (unlikely(c->x.page_asid[c->x.user] != c->asid))
		clear_pages(c);
	vcpu_doing(c->vcpu, DOING_CODE);
	((void (*)(void))(uintptr_t)c->xlat->tramp.enter)();
	vcpu_doing(c->vcpu, DOING_INTERP);
	hide_host_addresses(c);
}

/* The block, and its edge, to which xwhat_edge() has led. */
static struct xblock *left_block(const struct cpu *c)
{
	return &c->xlat->block[c->x.what / XBLOCK_EDGES];
}

static struct xedge *left_edge(const struct cpu *c)
{
	return &left_block(c)->edge[c->x.what % XBLOCK_EDGES];
}

/* A jump within its page that is not linked yet. */
static struct xblock *follow_edge(struct cpu *c, struct xblock *from, struct xedge *g)
{
	struct xlat *x = c->xlat;
	uint64_t hva = (from->hva & PAGE_MASK) + g->target;
	unsigned flushes = x->flushes;
	struct xblock *to;

	c->s.rip = c->block_rip + g->target;
	to = xblock_get(c, false);
	if (to && to->hva == hva && x->flushes == flushes && xblock_alive(from)) {
		link_edge(x, g, to);
		stat_add(&c->vcpu->stats, STAT_LINKS, 1);
	}
	return to;
}

/*
 * The target in s.rip is not canonical: the branch itself has to fault, and has not
 * happened. Where it stands is in x.what.
 */
static void undo_branch(struct cpu *c)
{
	uint64_t at = c->block_rip + xwhat_off(c->x.what), gpa;
	const uint8_t *page = mmu_fetch(c, at, &gpa);
	ZydisDecodedInstruction z;
	ZydisDecodedOperand operand[ZYDIS_MAX_OPERAND_COUNT];
	uint8_t bytes[INSN_BYTES_MAX];
	unsigned off = at & ~PAGE_MASK, n = (unsigned)MIN(PAGE_SIZE - off, sizeof(bytes));

	if (!page)
		return;
	for (unsigned i = 0; i < n; i++)
		bytes[i] = gmem_load_u8(page + off + i);
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&c->xlat->decoder.zydis, bytes, n, &z, operand)))
		return;
	if (z.meta.category == ZYDIS_CATEGORY_CALL)
		c->s.gpr[RSP] += 8;
	else if (z.meta.category == ZYDIS_CATEGORY_RET)
		c->s.gpr[RSP] -= 8 + (z.raw.imm[0].size ? operand[0].imm.value.u : 0);
	else if (z.meta.branch_type == ZYDIS_BRANCH_TYPE_NONE)
		return; /* ran into the hole: the next fetch faults */
	c->s.rip = at;
	if (c->xlat->counts)
		c->insns--;
}

/* The clock's base stays while a vCPU runs: it starts and stops with all of them parked. */
static void note_clock(struct cpu *c)
{
	struct guest_clock *k = &c->vm->clock;

	c->x.tsc_add =
		(uint64_t)atomic_load_explicit(&k->base, memory_order_relaxed) + c->s.tsc_offset;
	c->x.tsc_trap = !c->xlat->tsc_inline ||
			!atomic_load_explicit(&k->running, memory_order_relaxed) ||
			((c->s.cr4 & CR4_TSD) && c->cpl);
}

enum xlat_result xlat_run(struct cpu *c)
{
	struct xlat *x = c->xlat;
	struct xblock *b;

	xlat_asid_changed(c);
	note_clock(c);
	b = xblock_get(c, false);
	while (b) {
		if (likely(!b->plain))
			remember_jump(c, b);
		enter(c, b);
		stat_add(&c->vcpu->stats, STAT_BLOCKS, 1);
		switch (c->x.why) {
		case XEXIT_LOOKUP:
			if (unlikely(!sys_canonical(c->s.rip))) {
				undo_branch(c);
				return XLAT_INTERP;
			}
			if (unlikely(x->counts && c->insns >= c->insns_stop))
				return XLAT_ATTEND; /* before a fault of the next fetch */
			stat_add(&c->vcpu->stats, STAT_LOOKUPS, 1);
			b = xblock_get(c, false);
			break;
		case XEXIT_ATTEND:
			if (unlikely(c->x.return_sp < c->x.return_limit))
				xret_make_room(c);
			return XLAT_ATTEND;
		case XEXIT_ATTEND_AT:
			c->s.rip = c->block_rip + xwhat_off(c->x.what);
			return XLAT_ATTEND;
		case XEXIT_ATTEND_EDGE:
			c->s.rip = c->block_rip + left_edge(c)->target;
			return XLAT_ATTEND;
		case XEXIT_STALE:
			x->block[c->x.what].version--; /* dead */
			b = xblock_get(c, false);
			break;
		case XEXIT_EDGE:
			b = follow_edge(c, left_block(c), left_edge(c));
			break;
		default:
			c->s.rip = c->block_rip + xwhat_off(c->x.what);
			if (x->counts)
				c->insns += xwhat_retired(c->x.what);
			if (!(c->x.what & XWHAT_PLAIN))
				return XLAT_INTERP;
			b = xblock_get(c, true);
		}
	}
	return XLAT_FAULT;
}

/* --- host faults ---------------------------------------------------------------------- */

static const struct xblock *block_at(const struct xlat *x, uint64_t pc)
{
	unsigned lo = 0, hi = x->nr_blocks;

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;

		if (x->block[mid].enter_jump <= pc)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo ? &x->block[lo - 1] : NULL;
}

/*
 * A guest instruction made the host's processor fault: division, an unmasked
 * floating-point exception, a misaligned operand. Nothing of it has happened; the
 * interpreter executes it again and raises what the guest shall see.
 */
bool xlat_host_fault(struct cpu *c, struct host_fault *f)
{
	const struct xlat *x = c->xlat;
	const struct xblock *b;
	const struct xmark *m;
	unsigned i;

	if (!x || f->pc - (uint64_t)(uintptr_t)x->code.rx >= x->code.bytes)
		return false;
	b = block_at(x, f->pc);
	if (!b || !b->nr_marks)
		return false;
	for (i = 1; i < b->nr_marks && b->enter_jump + b->marks[i].code <= f->pc; i++)
		;
	m = &b->marks[i - 1];
	if (m->flags == FLAGS_HOST)
		c->fl = (f->rflags & 0xd5) << 8 | ((f->rflags >> 11) & 1);
	c->x.why = XEXIT_INTERP;
	c->x.what = xwhat(m->off, m->retired);
	f->pc = x->tramp.leave;
	return true;
}
