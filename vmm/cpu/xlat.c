/*
 * xlat.c - the translator's loop: finds blocks or has them made, enters them, links
 * them; see xlat.h.
 *
 * Blocks belong to the cache of the guest node (xcache.h); what is only one vCPU's is its
 * thread's: the jump cache, the generator. A block is found by where its bytes lie in
 * host memory and is alive while its page's version is the one it was made under; dead
 * ones are not found again. They can still be jumped to by links, which lead to blocks of
 * the same version of the same page and so from dead to dead, and by the jump cache, which
 * xlat_sync() empties after every invalidation.
 */
#include "cpu/xlat.h"

#include "cpu/mmu.h"
#include "cpu/soft.h"
#include "cpu/sys.h"
#include "cpu/xlat_int.h"
#include "cpu/xlat_tally.h"
#include "cpu/xstate.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

/* Unless the machine says otherwise: its nodes share the one, and each has the other at least. */
#define CODE_BYTES      MIB(32)
#define CODE_BYTES_MIN  MIB(16)
#define CODE_SPACES     4u
/* The least for each vCPU, or several would do nothing but translate what others have evicted. */
#define CODE_BYTES_VCPU KIB(512)
#define YIELDS          8u

/* What the vCPUs of a guest node share. */
struct xnode {
	struct xcache *cache; /* NULL: the node has no vCPUs */
	struct xtramp tramp;
};

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

/* --- life -------------------------------------------------------------------------- */

/* How many vCPUs with lower numbers than @id the node has. */
static unsigned vcpus_before(const struct vm *vm, unsigned node, unsigned id)
{
	unsigned n = 0;

	for (unsigned i = 0; i < id; i++)
		n += vm->vcpu[i]->guest_node == node;
	return n;
}

/* What code of all vCPUs is made for. */
static void init_common(struct xlat *x, struct vm *vm)
{
	if (cpu_has(&vm->cpuid, CPU_AVX))
		x->xsave_mask = (uint32_t)cpuid_xcr0(&vm->cpuid);
	x->counts = vm->clock.source == CLOCK_ICOUNT || vm->cfg.count_insns;
}

static struct emit emitter(const struct xcache *k)
{
	const struct host_code *code = xcache_code(k);

	return (struct emit){ code->rw, code->rx - code->rw };
}

static int make_trampolines(struct xnode *n, struct vm *vm)
{
	const struct host_code *code = xcache_code(n->cache);
	struct xlat x = { .e = emitter(n->cache) };

	init_common(&x, vm);
	xtramp_make(&x);
	n->tramp = x.tramp;
	if (x.e.p > code->rw + XLAT_FIXED_BYTES)
		return -ENOSPC;
	if (vm->cfg.code_made)
		vm->cfg.code_made(vm->cfg.arg, (uint64_t)(uintptr_t)code->rx,
				  (size_t)(x.e.p - code->rw), "trampolines");
	return 0;
}

static size_t code_bytes(const struct vm *vm, unsigned vcpus)
{
	uint64_t bytes = MAX(CODE_BYTES / soft_of(vm)->nr_xnodes, CODE_BYTES_MIN);

	if (vm->cfg.code_cache_bytes)
		bytes = MAX(vm->cfg.code_cache_bytes, VMM_CODE_CACHE_MIN);
	return MAX(bytes, vcpus * CODE_BYTES_VCPU) & PAGE_MASK;
}

static int xnode_create(struct xnode *n, struct vm *vm, const struct vcpu *first, unsigned vcpus)
{
	const struct xcache_config cfg = {
		.bytes = code_bytes(vm, vcpus),
		.fixed_bytes = XLAT_FIXED_BYTES,
		.block_bytes = XBLOCK_CODE(XBLOCK_INSNS) * (vm->cfg.tally_code ? 2 : 1),
		.spaces = vm->cfg.tally_code ? 1 : CODE_SPACES,
		.seats = vcpus,
		.host_node = first->host_node,
	};
	int err = xcache_create(&vm->host, &cfg, &n->cache);

	return err ? err : make_trampolines(n, vm);
}

int xlat_vm_create(struct vm *vm)
{
	struct soft_vm *sv = soft_of(vm);
	int err = 0;

	if (vm->cfg.tally_code && vm->nr_vcpus != 1)
		return -EINVAL; /* code of several would count for one */
	for (unsigned i = 0; i < vm->nr_vcpus; i++)
		sv->nr_xnodes = MAX(sv->nr_xnodes, vm->vcpu[i]->guest_node + 1);
	sv->xnode = calloc(sv->nr_xnodes, sizeof(*sv->xnode));
	if (!sv->xnode)
		return -ENOMEM;
	for (unsigned i = 0; i < vm->nr_vcpus && !err; i++) {
		const struct vcpu *v = vm->vcpu[i];
		struct xnode *n = &sv->xnode[v->guest_node];

		if (!n->cache)
			err = xnode_create(n, vm, v, vcpus_before(vm, v->guest_node, vm->nr_vcpus));
	}
	return err;
}

void xlat_vm_destroy(struct vm *vm)
{
	struct soft_vm *sv = soft_of(vm);

	for (unsigned i = 0; sv->xnode && i < sv->nr_xnodes; i++)
		xcache_destroy(sv->xnode[i].cache);
	free(sv->xnode);
	sv->xnode = NULL;
}

int xlat_create(struct cpu *c, int host_node)
{
	const struct host *h = &c->vm->host;
	struct vcpu *v = c->vcpu;
	struct xnode *n = &soft_of(c->vm)->xnode[v->guest_node];
	struct xlat *x = h->ops->alloc(h->ctx, sizeof(*x), host_node);
	int err;

	if (!x)
		return -ENOMEM;
	c->xlat = x;
	err = xgen_create(x, h, host_node);
	if (!err && c->vm->cfg.tally_code)
		err = xtally_create(c, host_node);
	if (!err)
		err = xret_create(c, host_node);
	if (err) {
		xlat_destroy(c);
		return err;
	}
	xcache_sit(n->cache, vcpus_before(c->vm, v->guest_node, v->id), v, &x->seat);
	x->e = emitter(n->cache);
	x->tramp = n->tramp;
	init_common(x, c->vm);
	decoder_init(&x->decoder, DECODE_64, &c->vm->cpuid);
	x->tsc_inline = ticks_are_tsc(c);
	c->x.self = c;
	c->x.vec_gate = x->tramp.vec_load;
	h->ops->thread_set_gs(h->ctx, c);
	return 0;
}

void xlat_destroy(struct cpu *c)
{
	const struct host *h = &c->vm->host;
	struct xlat *x = c->xlat;

	if (!x)
		return;
	xgen_destroy(x, h);
	xtally_destroy(c);
	xret_destroy(c);
	h->ops->free(h->ctx, x, sizeof(*x));
	c->xlat = NULL;
}

/* --- the jump cache -------------------------------------------------------------- */

/* Two bits a page, in one word: a false hit looks through all of the jump cache. */
static uint64_t *filter_word(struct xlat *x, uint64_t gva, uint64_t *bits)
{
	uint64_t hash = (gva >> PAGE_SHIFT) * 0x9e3779b97f4a7c15ull;
	uint64_t page = hash >> (64 - XLAT_FILTER_BITS);

	*bits = BIT64(page % 64) | BIT64(hash >> 32 & 63);
	return &x->jumps_into[page / 64];
}

static void forget_jumps(struct cpu *c)
{
	for (unsigned i = 0; i < XLAT_JUMPS; i++)
		c->jump_tag[i] = UINT64_MAX;
	for (unsigned i = 0; i < XLAT_VICTIMS; i++)
		c->victim_tag[i] = UINT64_MAX;
	for (unsigned i = 0; i < ARRAY_SIZE(c->xlat->jumps_into); i++)
		c->xlat->jumps_into[i] = 0;
	xret_forget(c);
}

/* In all address spaces: what a tag has above an address's 48 bits does not matter. */
static void forget_tags_of(uint64_t *tag, unsigned n, uint64_t gva)
{
	for (unsigned i = 0; i < n; i++)
		if (!((tag[i] ^ gva) << 16 >> (16 + PAGE_SHIFT)))
			tag[i] = UINT64_MAX;
}

static void forget_jumps_to(struct cpu *c, uint64_t gva)
{
	forget_tags_of(c->jump_tag, XLAT_JUMPS, gva);
	forget_tags_of(c->victim_tag, XLAT_VICTIMS, gva);
}

static void remember_jump(struct cpu *c, const struct xblock *b)
{
	unsigned slot = jump_slot(c->s.rip);
	uint64_t bits, *word = filter_word(c->xlat, c->s.rip, &bits);

	/* Processes of one program jump to the same addresses, and so want the same slots. */
	if (c->jump_tag[slot] != c->s.rip + c->x.jump_key) {
		c->victim_tag[slot % XLAT_VICTIMS] = c->jump_tag[slot];
		c->victim_code[slot % XLAT_VICTIMS] = c->jump_code[slot];
	}
	c->jump_tag[slot] = c->s.rip + c->x.jump_key;
	c->jump_code[slot] = b->enter_jump;
	*word |= bits;
}

void xlat_forget_pages(struct cpu *c)
{
	c->x.page_asid[0] = c->x.page_asid[1] = UINT64_MAX;
}

void xlat_page_flushed(struct cpu *c, uint64_t gva)
{
	uint64_t bits;

	xlat_forget_pages(c);
	if (!c->xlat)
		return;
	xret_forget_page(c, gva);
	if ((*filter_word(c->xlat, gva, &bits) & bits) == bits)
		forget_jumps_to(c, gva);
}

void xlat_asids_reused(struct cpu *c)
{
	xlat_forget_pages(c);
	if (c->xlat)
		forget_jumps(c);
}

void xlat_forget_stale(struct cpu *c)
{
	uint32_t now = codemap_invalidations(c->codemap);

	if (likely(c->xlat->seen == now))
		return;
	c->xlat->seen = now;
	forget_jumps(c);
}

/*
 * Between two looks at attention, some milliseconds mostly, a slot may miss this often.
 * Less would be made good by the hits; counts that are not used up are dropped.
 */
#define MISSES_ALLOWED 0x4000
#define PLAIN_OFTEN    256u

void xlat_count_misses(struct cpu *c)
{
	for (unsigned i = 0; i < ARRAY_SIZE(c->x.page_misses); i++)
		c->x.page_misses[i] = (uint16_t)-MISSES_ALLOWED;
}

void xlat_attend(struct cpu *c)
{
	xlat_count_misses(c);
	xlat_sync(c);
}

void xlat_sync(struct cpu *c)
{
	xcache_check(&c->xlat->seat);
	xlat_forget_stale(c);
}

void xlat_leave(struct cpu *c)
{
	if (c->xlat->seat.epoch)
		xcache_leave(&c->xlat->seat);
}

/* --- blocks ------------------------------------------------------------------------ */

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

static uint64_t key_of(const struct cpu *c, uint64_t hva, bool plain)
{
	return xcache_key(hva, xlat_vec(c) | (plain ? 4u : 0) | (c->x.user ? 8u : 0));
}

static struct xknown *known_slot(struct xlat *x, uint64_t key)
{
	return &x->known[key * 0x9e3779b97f4a7c15ull >> 32 & (XLAT_KNOWN - 1)];
}

/* A block that is alive and was added in epoch @since or later. */
static struct xblock *look_up(struct xlat *x, uint64_t key, uint64_t since)
{
	struct xknown *n = known_slot(x, key);
	struct xblock *b;

	if (n->block && n->key == key && n->block->epoch >= since && xblock_alive(n->block))
		return n->block;
	b = xcache_find(&x->seat, key, since);
	if (b)
		*n = (struct xknown){ key, b };
	return b;
}

/* See codemap.h, 5. */
static struct xblock *xblock_find(struct cpu *c, uint64_t hva, bool plain, uint64_t since)
{
	uint64_t key = key_of(c, hva, plain);
	struct xblock *b = look_up(c->xlat, key, since);

	while (b && unlikely(codemap_is_asked(c))) {
		codemap_answer(c);
		codemap_verify(c);
		b = look_up(c->xlat, key, since);
	}
	return b;
}

/* Whatever was known of blocks may be void after this. */
static void join(struct cpu *c)
{
	if (likely(!xcache_join(&c->xlat->seat)))
		return;
	memset(c->xlat->known, 0, sizeof(c->xlat->known));
	forget_jumps(c);
}

/*
 * No room for another block: can there be? Others have been told to come by, and do so at
 * once unless something else has their PU. It is let have ours a few times; then the
 * interpreter goes on, and somebody tries again.
 */
static bool make_room(struct cpu *c)
{
	const struct host *h = &c->vm->host;
	enum xcache_turned how = xcache_turn(&c->xlat->seat);

	for (unsigned i = 0; i < YIELDS && how == XCACHE_REFUSED; i++) {
		h->ops->thread_yield(h->ctx);
		how = xcache_turn(&c->xlat->seat);
	}
	if (how == XCACHE_REFUSED)
		return false;
	if (how == XCACHE_TURNED)
		stat_add(&c->vcpu->stats, STAT_CACHE_FLUSHES, 1);
	xtally_fold(c->xlat);
	join(c);
	return true;
}

bool xlat_room(struct xlat *x, unsigned insns, unsigned *number)
{
	size_t bytes = XBLOCK_CODE(insns) * (x->tally ? 2 : 1);

	if (xtally_full(x) || !xcache_room(&x->seat, bytes))
		return false;
	x->e.p = x->seat.next;
	*number = x->seat.number;
	return true;
}

/* NULL: the cache is full, and others are not yet where it can be emptied. */
static struct xblock *xblock_make(struct cpu *c, uint64_t hva, uint64_t gpa, bool plain)
{
	struct xlat *x = c->xlat;
	enum vcpu_doing before = vcpu_doing(c->vcpu, DOING_TRANSLATE);
	struct xblock draft, *b = NULL;
	/* Asked before the work of decoding, and when it is known how much there must be. */
	bool room = xcache_room(&x->seat, XBLOCK_CODE(0)) || make_room(c);

	while (room && !b) {
		draft = (struct xblock){
			.key = key_of(c, hva, plain),
			.hva = hva,
			.page_version = codemap_version(c->codemap, gpa),
			.vec = (uint8_t)xlat_vec(c),
			.plain = plain,
			.user = c->x.user,
		};
		if (xgen_block(c, &draft, gpa & PAGE_MASK))
			b = xcache_add(&x->seat, &draft, x->e.p);
		else
			room = make_room(c);
	}
	if (b) {
		*known_slot(x, b->key) = (struct xknown){ b->key, b };
		stat_add(&c->vcpu->stats, STAT_TRANSLATIONS, 1);
		tell_profiler(c, draft.enter_jump, c->cpl ? "user" : "kernel", c->s.rip);
	}
	vcpu_doing(c->vcpu, before);
	return b;
}

bool xlat_knows(struct cpu *c, uint64_t hva)
{
	uint64_t key = key_of(c, hva, false);
	const struct xknown *n = known_slot(c->xlat, key);

	return n->block && n->key == key && xblock_alive(n->block);
}

/* Where the code at s.rip lies. False: a fault is pending. */
static bool locate(struct cpu *c, uint64_t *hva, uint64_t *gpa)
{
	const uint8_t *page = mmu_fetch(c, c->s.rip, gpa);
	uint64_t off = c->s.rip & ~PAGE_MASK;

	*hva = (uint64_t)(uintptr_t)page + off;
	*gpa |= off;
	return page;
}

/* The block there. New code mostly has none, and that is known without a look into the cache. */
static struct xblock *xblock_at(struct cpu *c, uint64_t hva, uint64_t gpa, bool plain,
				uint64_t since)
{
	return codemap_may_begin(c->codemap, gpa) ? xblock_find(c, hva, plain, since) : NULL;
}

/* The block at s.rip, if there is one. Nothing is made, and no fault pending. */
static struct xblock *xblock_at_hand(struct cpu *c, bool plain)
{
	struct xblock *b = NULL;
	uint64_t hva, gpa = 0;

	if (locate(c, &hva, &gpa))
		b = xblock_at(c, hva, gpa, plain, 0);
	c->fault.pending = false;
	return b;
}

/*
 * The block at s.rip, not older than epoch @since. NULL: a fault is pending, or there is
 * none and the interpreter goes on.
 */
static struct xblock *xblock_get(struct cpu *c, bool plain, uint64_t since)
{
	uint64_t hva, gpa = 0;
	struct xblock *b;

	join(c);
	if (!locate(c, &hva, &gpa))
		return NULL;
	b = xblock_at(c, hva, gpa, plain, since);
	return b ? b : xblock_make(c, hva, gpa, plain);
}

/* Blocks are made, and fetches fault, in xlat_run() alone. */
bool xlat_find_jump(struct cpu *c)
{
	struct xblock *b;

	xlat_forget_stale(c);
	if (unlikely(!xcache_is_current(&c->xlat->seat)))
		return false;
	b = xblock_at_hand(c, false);
	if (b)
		remember_jump(c, b);
	return b;
}

/* Others may be at it, too; each leaves the edge leading to a block that will do. */
static void link_edge(struct xlat *x, const struct xedge *g, const struct xblock *to)
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
	const struct host_code *code = xcache_code(c->xlat->seat.cache);
	struct fx_image *fx = xstate_fx(&c->s);

	if (fx->ip - (uint64_t)(uintptr_t)code->rx < code->bytes) {
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

bool xlat_tsc_is_ours(const struct cpu *c)
{
	return c->xlat && c->xlat->tsc_inline;
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

/* Jump-cache entries are of an address space, and good under one enum xvec. */
void xlat_prepare(struct cpu *c)
{
	uint8_t *bv = xstate_bv(&c->s);

	c->x.jump_key = c->asid << 48 | (uint64_t)xlat_vec(c) << 60;
	c->x.user = c->cpl != 0;
	c->x.no_fast_ring = !xring_is_plain(c);
	note_clock(c);
	*bv = (uint8_t)((*bv | XCR0_X87 | XCR0_SSE) & c->xlat->xsave_mask);
	if (unlikely(c->x.page_asid[c->x.user] != c->asid))
		clear_pages(c);
}

void xlat_prepare_ring(struct cpu *c)
{
	if (unlikely(c->x.no_fast_ring)) { /* CR4.TSD, perhaps */
		xlat_prepare(c);
		return;
	}
	c->x.jump_key = c->asid << 48 | c->x.jump_key >> 60 << 60;
	c->x.user = c->cpl != 0;
	if (unlikely(c->x.page_asid[c->x.user] != c->asid))
		clear_pages(c);
}

void xlat_park_vectors(struct cpu *c)
{
	((void (*)(void))(uintptr_t)c->xlat->tramp.park)();
	hide_host_addresses(c);
}

void xlat_copy_vectors(struct cpu *c)
{
	((void (*)(void))(uintptr_t)c->xlat->tramp.copy)();
	hide_host_addresses(c);
}

void xlat_take_vectors(struct cpu *c, uint64_t given)
{
	uint32_t all = c->x.vec_live ? c->xlat->xsave_mask : 0;

	if (all && !(all & ~given))
		((void (*)(void))(uintptr_t)c->xlat->tramp.drop)();
	else
		xlat_outside(c);
}

static void enter(struct cpu *c, const struct xblock *b)
{
	c->block_rip = c->s.rip & PAGE_MASK;
	c->x.code = b->enter_mem;
	vcpu_doing(c->vcpu, DOING_CODE);
	((void (*)(void))(uintptr_t)c->xlat->tramp.enter)();
	vcpu_doing(c->vcpu, DOING_INTERP);
	hide_host_addresses(c);
}

/* The block, and its edge, to which xwhat_edge() has led. */
static const struct xblock *left_block(const struct cpu *c)
{
	return xcache_block(c->xlat->seat.cache, c->x.what / XBLOCK_EDGES);
}

static const struct xedge *left_edge(const struct cpu *c)
{
	return &left_block(c)->edge[c->x.what % XBLOCK_EDGES];
}

void xlat_set_rip(struct cpu *c)
{
	if (c->x.why == XEXIT_ATTEND_AT)
		c->s.rip = c->block_rip + xwhat_off(c->x.what);
	else if (c->x.why == XEXIT_ATTEND_EDGE)
		c->s.rip = c->block_rip + left_edge(c)->target;
}

/*
 * A jump within its page that is not linked yet. Blocks of one page and one version live
 * and die together, but for one that finds itself gone: its code says so to whoever comes.
 * The target shall not be older, or its memory would be used again while links lead there.
 */
static struct xblock *follow_edge(struct cpu *c, const struct xblock *from, const struct xedge *g)
{
	struct xlat *x = c->xlat;
	uint64_t hva = (from->hva & PAGE_MASK) + g->target, epoch = x->seat.epoch;
	struct xblock *to;

	c->s.rip = c->block_rip + g->target;
	to = xblock_get(c, false, from->epoch);
	if (to && x->seat.epoch == epoch && to->hva == hva && to->version == from->version) {
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

static _Atomic uint64_t *roams_word(const struct cpu *c, uint64_t gpa, uint64_t *bit)
{
	struct soft_vm *sv = soft_of(c->vm);
	uint64_t hash = gpa * 0x9e3779b97f4a7c15ull >> 52;

	*bit = BIT64(hash % 64);
	return &sv->roams[hash / 64];
}

bool xlat_roams(const struct cpu *c, uint64_t gpa)
{
	uint64_t bit, word = atomic_load_explicit(roams_word(c, gpa, &bit), memory_order_relaxed);

	return word & bit;
}

/*
 * The code of the access at s.rip is made anew, and will ask the TLB for it alone: that of
 * the whole page, since what leads to a block cannot be found.
 */
static void let_roam(struct cpu *c)
{
	uint64_t gpa, bit;
	_Atomic uint64_t *word;

	if (!mmu_fetch(c, c->s.rip, &gpa)) {
		c->fault.pending = false; /* found again by whoever executes it */
		return;
	}
	gpa |= c->s.rip & ~PAGE_MASK;
	word = roams_word(c, gpa, &bit);
	if (!(atomic_fetch_or(word, bit) & bit))
		codemap_written(c->codemap, NULL, gpa, 1);
}

/*
 * It wants another page most of the time. Look-ups at the head of blocks and loops stay: they
 * serve several accesses, or many turns.
 */
static void note_roaming(struct cpu *c)
{
	if (!(c->x.what & XWHAT_HEAD))
		let_roam(c);
}

/*
 * A look-up for several accesses, as for a frame of the stack, has failed. Where that is often
 * they lie across a page's end each time, and are better looked up one by one.
 */
static void note_plain(struct cpu *c)
{
	if (unlikely(++c->x.plain_exits >= PLAIN_OFTEN)) {
		c->x.plain_exits = 0;
		let_roam(c);
	}
}

bool xlat_find_plain(struct cpu *c)
{
	struct xblock *b;

	c->s.rip = c->block_rip + xwhat_off(c->x.what);
	note_plain(c);
	xlat_forget_stale(c);
	if (unlikely(!xcache_is_current(&c->xlat->seat)))
		return false;
	b = xblock_at_hand(c, true);
	if (unlikely(!b))
		return false;
	if (c->xlat->counts)
		c->insns += xwhat_retired(c->x.what);
	c->x.code = b->enter_mem;
	return true;
}

enum xlat_result xlat_run(struct cpu *c)
{
	struct xlat *x = c->xlat;
	struct xblock *b;

	xlat_prepare(c);
	b = xblock_get(c, false, 0);
	while (b) {
		if (likely(!b->plain))
			remember_jump(c, b);
		xlat_prepare(c);
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
			/* Here as where jumps lead that need not ask: a window may be short. */
			if (atomic_load_explicit(&c->vcpu->attention, memory_order_relaxed))
				return XLAT_ATTEND;
			stat_add(&c->vcpu->stats, STAT_LOOKUPS, 1);
			b = xblock_get(c, false, 0);
			break;
		case XEXIT_ATTEND:
			if (unlikely(c->x.return_sp < c->x.return_limit))
				xret_make_room(c);
			return XLAT_ATTEND;
		case XEXIT_OUT:
			return XLAT_OUT;
		case XEXIT_RESET:
			return XLAT_RESET;
		case XEXIT_STALE:
			xcache_block(x->seat.cache, c->x.what)->gone = true;
			b = xblock_get(c, false, 0);
			break;
		case XEXIT_ROAMS:
			c->s.rip = c->block_rip + xwhat_off(c->x.what);
			if (x->counts)
				c->insns += xwhat_retired(c->x.what);
			note_roaming(c);
			b = xblock_get(c, false, 0);
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
			note_plain(c);
			b = xblock_get(c, true, 0);
		}
	}
	return c->fault.pending ? XLAT_FAULT : XLAT_INTERP;
}

/* --- host faults ---------------------------------------------------------------------- */

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

	if (!x)
		return false;
	b = xcache_at(x->seat.cache, f->pc);
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
