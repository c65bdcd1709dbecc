/*
 * codemap.c - which guest pages hold decoded code; see codemap.h for how decoders
 * and writers meet. Called from every vCPU's thread and from devices.
 */
#include "cpu/codemap.h"

#include "cpu/mmu.h"
#include "cpu/xlat.h"

#include <errno.h>

#define GRANULE_SHIFT   6
#define PROVISIONAL_MAX 64
#define ASKED_MAX       16
#define WRITER_NOBODY   0
#define WRITER_MANY     UINT16_MAX
#define WAITS_FOR_ALL   UINT32_MAX

/* So many stores beside the code of a page, and it counts as data again. */
#define QUIET_STORES_MAX 256

struct code_page {
	_Atomic uint64_t granules; /* decoded pieces; from and to 0 only under the map's lock */
	_Atomic uint32_t version;  /* changes under the map's lock */
	_Atomic uint16_t writer;   /* id + 1 of the only vCPU with a write tag, or WRITER_ */
	_Atomic uint16_t quiet;    /* stores that hit no granule; losing one does not matter */
};

struct provisional {
	uint64_t gpa; /* of the page */
	bool used;
	uint32_t generation; /* answers that count are not older */
	uint32_t waits_for;  /* vCPU id, or WAITS_FOR_ALL */
	uint64_t copy[PAGE_SIZE / 8];
};

struct codemap {
	struct vm *vm;
	struct code_page *page; /* by page number; pages untouched cost nothing */
	uint64_t nr_pages;
	size_t page_bytes, bytes;

	_Atomic uint32_t generation;       /* of requests to answer; under lock */
	_Atomic uint64_t asked[ASKED_MAX]; /* the pages of the last, by generation; set before it */
	_Atomic uint32_t nr_provisional;
	_Atomic uint32_t invalidations; /* pages whose code has gone, so far */
	struct lock lock;               /* a leaf */
	struct provisional slot[PROVISIONAL_MAX];
	_Atomic uint32_t answered[]; /* by vCPU: the generation it has answered */
};

int codemap_create(struct vm *vm, struct codemap **out)
{
	const struct host *h = &vm->host;
	uint64_t nr_pages = ALIGN_UP(vm->gmem.end, PAGE_SIZE) >> PAGE_SHIFT;
	size_t bytes = sizeof(struct codemap) + vm->nr_vcpus * sizeof(_Atomic uint32_t);
	struct codemap *m = h->ops->alloc(h->ctx, bytes, HOST_NODE_ANY);

	if (!m)
		return -ENOMEM;
	m->vm = vm;
	m->bytes = bytes;
	m->nr_pages = nr_pages;
	m->page_bytes = nr_pages * sizeof(*m->page);
	m->page = h->ops->alloc(h->ctx, m->page_bytes, HOST_NODE_ANY);
	if (!m->page) {
		h->ops->free(h->ctx, m, bytes);
		return -ENOMEM;
	}
	*out = m;
	return 0;
}

void codemap_destroy(struct vm *vm, struct codemap *m)
{
	const struct host *h = &vm->host;

	if (!m)
		return;
	h->ops->free(h->ctx, m->page, m->page_bytes);
	h->ops->free(h->ctx, m, m->bytes);
}

static struct code_page *page_of(const struct codemap *m, uint64_t gpa)
{
	uint64_t i = gpa >> PAGE_SHIFT;

	return i < m->nr_pages ? &m->page[i] : NULL;
}

/* @gpa .. @gpa + @bytes within one page. */
static uint64_t granules_of(uint64_t gpa, uint64_t bytes)
{
	uint64_t in_page = gpa & ~PAGE_MASK;
	unsigned first = (unsigned)(in_page >> GRANULE_SHIFT);
	unsigned last = (unsigned)((in_page + bytes - 1) >> GRANULE_SHIFT);

	return (UINT64_MAX >> (63 - last)) & (UINT64_MAX << first);
}

const _Atomic uint32_t *codemap_version(const struct codemap *m, uint64_t gpa)
{
	return &page_of(m, gpa)->version;
}

bool codemap_is_code(const struct codemap *m, uint64_t gpa)
{
	const struct code_page *p = page_of(m, gpa);

	return p && atomic_load(&p->granules);
}

/* Whoever makes a block marks what it is made of first. */
bool codemap_may_begin(const struct codemap *m, uint64_t gpa)
{
	return atomic_load(&page_of(m, gpa)->granules) & granules_of(gpa, 1);
}

/* --- provisional pages; the lock is held --------------------------------------- */

static const uint64_t *page_bytes(const struct codemap *m, uint64_t gpa)
{
	return gmem_ptr(&m->vm->gmem, gpa, PAGE_SIZE);
}

static void slot_free(struct codemap *m, struct provisional *s)
{
	s->used = false;
	atomic_fetch_sub(&m->nr_provisional, 1);
}

static bool slot_differs(const struct codemap *m, const struct provisional *s)
{
	const uint64_t *now = page_bytes(m, s->gpa);
	unsigned i;

	for (i = 0; i < ARRAY_SIZE(s->copy); i++)
		if (gmem_load_u64(&now[i]) != s->copy[i])
			return true;
	return false;
}

static bool has_answered(const struct codemap *m, unsigned vcpu, uint32_t generation)
{
	return (int32_t)(atomic_load(&m->answered[vcpu]) - generation) >= 0;
}

static bool slot_answered(const struct codemap *m, const struct provisional *s)
{
	unsigned i;

	if (s->waits_for != WAITS_FOR_ALL)
		return has_answered(m, s->waits_for, s->generation);
	for (i = 0; i < m->vm->nr_vcpus; i++)
		if (!has_answered(m, i, s->generation))
			return false;
	return true;
}

static void invalidate(struct codemap *m, struct code_page *p)
{
	uint64_t gpa = (uint64_t)(p - m->page) << PAGE_SHIFT;
	unsigned i;

	atomic_fetch_add(&p->version, 1);
	atomic_store(&p->granules, 0);
	atomic_fetch_add(&p->version, 1);
	atomic_store_explicit(&p->quiet, 0, memory_order_relaxed);
	atomic_fetch_add(&m->invalidations, 1);
	for (i = 0; i < m->vm->nr_vcpus; i++)
		if (m->vm->vcpu[i]->engine_data)
			vcpu_post(m->vm->vcpu[i], VCPU_CODE);
	for (i = 0; i < PROVISIONAL_MAX; i++)
		if (m->slot[i].used && m->slot[i].gpa == gpa)
			slot_free(m, &m->slot[i]);
}

/* The answers are looked at before the bytes, which they make final. */
static void verify(struct codemap *m)
{
	unsigned i;

	for (i = 0; i < PROVISIONAL_MAX; i++) {
		struct provisional *s = &m->slot[i];
		bool settled;

		if (!s->used)
			continue;
		settled = slot_answered(m, s);
		if (slot_differs(m, s))
			invalidate(m, page_of(m, s->gpa));
		else if (settled)
			slot_free(m, s);
	}
}

static struct provisional *slot_find(struct codemap *m)
{
	unsigned i;

	for (i = 0; i < PROVISIONAL_MAX; i++)
		if (!m->slot[i].used)
			return &m->slot[i];
	return NULL;
}

static void slot_take(struct codemap *m, struct provisional *s, uint64_t gpa, uint16_t writer)
{
	const uint64_t *now = page_bytes(m, gpa);
	unsigned i;

	s->gpa = gpa;
	s->used = true;
	s->waits_for = writer == WRITER_MANY ? WAITS_FOR_ALL : writer - 1u;
	s->generation = atomic_load(&m->generation) + 1;
	atomic_store(&m->asked[s->generation % ASKED_MAX], gpa);
	atomic_store(&m->generation, s->generation);
	for (i = 0; i < ARRAY_SIZE(s->copy); i++)
		s->copy[i] = gmem_load_u64(&now[i]);
	atomic_fetch_add(&m->nr_provisional, 1);
}

void codemap_verify(struct cpu *c)
{
	struct codemap *m = c->codemap;

	if (likely(!atomic_load_explicit(&m->nr_provisional, memory_order_relaxed)))
		return;
	xlat_outside(c);
	lock_take(&m->vm->host, &m->lock);
	verify(m);
	lock_release(&m->vm->host, &m->lock);
}

uint32_t codemap_invalidations(const struct codemap *m)
{
	return atomic_load_explicit(&m->invalidations, memory_order_acquire);
}

void codemap_answer(struct cpu *c)
{
	struct codemap *m = c->codemap;
	uint32_t generation = atomic_load(&m->generation);
	uint32_t before = atomic_load_explicit(&m->answered[c->vcpu->id], memory_order_relaxed);

	if (before == generation)
		return;
	for (uint32_t g = before + 1; g != generation + 1 && g - before < ASKED_MAX; g++)
		mmu_downgrade_page(c, atomic_load(&m->asked[g % ASKED_MAX]));
	/* Too many, or the first of them may just have been replaced: all code, then. */
	if (atomic_load(&m->generation) - before >= ASKED_MAX)
		mmu_downgrade_code(c);
	atomic_store(&m->answered[c->vcpu->id], generation);
}

bool codemap_is_asked(const struct cpu *c)
{
	const struct codemap *m = c->codemap;

	return atomic_load_explicit(&m->answered[c->vcpu->id], memory_order_relaxed) !=
	       atomic_load_explicit(&m->generation, memory_order_acquire);
}

/* --- decoders -------------------------------------------------------------------- */

static void tell(struct codemap *m, const struct cpu *c, uint16_t writer)
{
	unsigned i;

	if (writer != WRITER_MANY) {
		vcpu_post(m->vm->vcpu[writer - 1], VCPU_CODE);
		return;
	}
	for (i = 0; i < m->vm->nr_vcpus; i++)
		if (i != c->vcpu->id)
			vcpu_post(m->vm->vcpu[i], VCPU_CODE);
}

/*
 * The page holds no code so far. A slot is made sure of before the granules are
 * set: they cannot be taken back, since other decoders may rely on them at once.
 */
static bool become_code(struct cpu *c, struct code_page *p, uint64_t gpa, uint64_t granules)
{
	struct codemap *m = c->codemap;
	uint16_t me = (uint16_t)(c->vcpu->id + 1), writer = WRITER_NOBODY;
	struct provisional *s;
	bool others = false;

	lock_take(&m->vm->host, &m->lock);
	s = slot_find(m);
	if (!s) {
		verify(m);
		s = slot_find(m);
	}
	if (s) {
		if (!atomic_fetch_or(&p->granules, granules)) /* else somebody was faster */
			writer = atomic_load(&p->writer);
		others = writer != WRITER_NOBODY && writer != me;
		if (others)
			slot_take(m, s, gpa & PAGE_MASK, writer);
	}
	lock_release(&m->vm->host, &m->lock);

	if (writer != WRITER_NOBODY && !others)
		mmu_downgrade_page(c, gpa);
	if (others)
		tell(m, c, writer);
	return s;
}

uint32_t codemap_mark(struct cpu *c, uint64_t gpa, unsigned bytes)
{
	struct codemap *m = c->codemap;
	struct code_page *p = page_of(m, gpa);
	uint64_t want = granules_of(gpa, bytes), old;
	uint32_t version = atomic_load(&p->version);

	old = atomic_load(&p->granules);
	while (old && (old & want) != want)
		if (atomic_compare_exchange_weak(&p->granules, &old, old | want))
			break;
	if (!old && !become_code(c, p, gpa, want))
		version--;
	codemap_answer(c);
	return version;
}

/* --- writers ---------------------------------------------------------------------- */

bool codemap_may_write(struct cpu *c, uint64_t gpa)
{
	struct code_page *p = page_of(c->codemap, gpa);
	uint16_t me = (uint16_t)(c->vcpu->id + 1), writer = atomic_load(&p->writer);

	while (writer != me && writer != WRITER_MANY)
		if (atomic_compare_exchange_weak(&p->writer, &writer,
						 writer == WRITER_NOBODY ? me : WRITER_MANY))
			break;
	return !atomic_load(&p->granules);
}

static bool beside_code(struct code_page *p)
{
	uint16_t n = atomic_load_explicit(&p->quiet, memory_order_relaxed);

	atomic_store_explicit(&p->quiet, (uint16_t)(n + 1), memory_order_relaxed);
	return n < QUIET_STORES_MAX;
}

/* [gpa, gpa + bytes) within one page. */
static bool page_written(struct codemap *m, struct cpu *c, uint64_t gpa, uint64_t bytes)
{
	struct code_page *p = page_of(m, gpa);
	uint64_t granules;

	if (!p)
		return false;
	granules = atomic_load(&p->granules);
	if (likely(!granules) || (!(granules & granules_of(gpa, bytes)) && beside_code(p)))
		return false;
	if (c)
		xlat_outside(c);
	lock_take(&m->vm->host, &m->lock);
	invalidate(m, p);
	lock_release(&m->vm->host, &m->lock);
	return true;
}

void codemap_written(struct codemap *m, struct cpu *c, uint64_t gpa, uint64_t bytes)
{
	bool hit = false;

	asm volatile("mfence" : : : "memory"); /* as everywhere here, hosts are x86 */
	while (bytes) {
		uint64_t n = MIN(bytes, PAGE_SIZE - (gpa & ~PAGE_MASK));

		hit |= page_written(m, c, gpa, n);
		gpa += n;
		bytes -= n;
	}
	if (hit && c) {
		c->code_stale = true;
		stat_add(&c->vcpu->stats, STAT_CODE_WRITES, 1);
	}
}
