/*
 * mmu.c - page walks, the software TLB and guest memory by linear address.
 *
 * Called by instruction handlers, through the inline fast paths of mmu.h, and by
 * system code; always on the vCPU's own thread.
 *
 * Flushing. A context is one guest address space as of its last flush, and has an
 * ASID for its user's rights. Flushing an address space gives its PCID a new context,
 * flushing everything declares all contexts so far dead (`floor`); tags of dead
 * contexts match nothing. Only when contexts run out is the TLB cleared.
 *
 * Supervisors of all address spaces share a context: what they see is nearly all
 * global, and so survives a change of address space. Slots filled from pages that are
 * not global are logged, and dropped when CR3 changes or is loaded again.
 *
 * The TLB is direct-mapped by address alone, so INVLPG clears one slot whatever the
 * ASID. What another ASID takes the slot of is kept in a small set for that address, since
 * it will be wanted again: a kernel and its programs, or two processes of one program,
 * take turns on the same pages. Entries of 4 KiB stand in for large pages; two small filters say
 * whether an INVLPG may hit one, and then its whole range of slots is looked through.
 *
 * Last-level page tables that walks have come by are remembered, as processors do (SDM vol. 3,
 * 4.10.3): a walk there reads one entry, not four. Every flush forgets all of them.
 */
#include "cpu/mmu.h"

#include "cpu/debug.h"
#include "cpu/lapic.h"
#include "cpu/soft.h"
#include "cpu/sys.h"
#include "cpu/xlat.h"

#include <errno.h>

#define PTE_P  BIT64(0)
#define PTE_W  BIT64(1)
#define PTE_U  BIT64(2)
#define PTE_A  BIT64(5)
#define PTE_D  BIT64(6)
#define PTE_PS BIT64(7)
#define PTE_G  BIT64(8)
#define PTE_NX BIT64(63)

#define PTE_ADDR 0x000ffffffffff000ull

/* Kinds of privilege; each has its own ASID in a context. */
enum priv {
	PRIV_USER,
	PRIV_SUPER,    /* under SMAP: not to user pages */
	PRIV_SUPER_AC, /* under SMAP with RFLAGS.AC: to user pages, too */
	PRIVS
};

#define CONTEXTS  (ASID_NONE / PRIVS)
#define PCIDS     4096
#define CAN_READ  BIT(0)
#define CAN_WRITE BIT(1)
#define CAN_EXEC  BIT(2)

#define LOG_MAX 512

#define VICTIM_SETS 128
#define VICTIM_WAYS 4

#define TABLES      16
#define TABLE_SHIFT 21 /* what a last-level table of 8-byte entries maps */

#define WRITTEN_BITS 65536
#define VAIN_SCANS   32

#define LARGE_SHIFT 22 /* the filter's grain: one 4 MiB or two 2 MiB pages */
#define HUGE_SHIFT  30
#define LARGE_BITS  1024

/* The form of page tables that CR0, CR4, EFER and MAXPHYADDR make; by level, 1 is the last. */
struct paging {
	uint8_t levels; /* 0: no paging */
	uint8_t entry_bytes;
	uint8_t index_bits;
	bool pdptes; /* level 3 is mmu->pdpte */
	bool large[5];
	uint64_t reserved_table[5], reserved_page[5];
};

/* An entry that had to leave its slot. Only one whose read tag is valid. */
struct victim {
	struct tlb_entry e;
	uint64_t page;  /* as in mmu->page */
	uint64_t epoch; /* of what has been logged: it is good for no other. 0: for all */
};

/* A last-level table of four-level paging, all entries on the way to it marked accessed. */
struct table {
	uint64_t key; /* gva >> TABLE_SHIFT; UINT64_MAX: none */
	uint64_t cr3;
	uint64_t gpa;
	bool user, write, noexec; /* what those entries say together */
};

struct mmu {
	struct paging paging;
	struct table table[TABLES];
	uint64_t pdpte[4];
	unsigned next, floor; /* contexts: the next to give out, the first not dead */
	unsigned super;       /* the supervisors' */
	uint64_t cr3;         /* whose pages the log is about */
	unsigned nr_logged;   /* LOG_MAX + 1: too many */
	bool jumps_logged;    /* the jump cache has some off global pages */
	uint16_t log[LOG_MAX];
	uint64_t in_log[TLB_ENTRIES / 64]; /* slots, so that none is there twice */
	uint64_t epoch;                    /* of what has been logged */
	struct victim victim[VICTIM_SETS * VICTIM_WAYS];
	uint8_t next_way;
	uint64_t written[WRITTEN_BITS / 64]; /* filter: pages that may have write tags */
	unsigned vain_scans;                 /* for one of them, since it was made anew */
	uint64_t huge_seen;
	uint64_t large_seen[LARGE_BITS / 64];
	uint16_t context[PCIDS];    /* below floor: none yet */
	uint64_t page[TLB_ENTRIES]; /* GPA of the page in each slot */
};

/* What the entries on the way to a page say together. */
struct walk {
	uint64_t gpa;
	uint32_t error; /* of a failed one: PF_P, PF_RSV */
	uint8_t shift;  /* page size */
	bool user, write, noexec, global;
	uint8_t nr_entries;
	struct {
		void *hva;
		uint64_t gpa, value;
	} entry[4];
};

/* Where the bytes of an access within one page lie. */
struct target {
	uint64_t gpa;
	uint8_t *hva; /* NULL: not RAM */
};

int mmu_create(struct cpu *c, int host_node)
{
	const struct host *h = &c->vm->host;

	c->tlb = c->tlb_entries;
	c->mmu = h->ops->alloc(h->ctx, sizeof(*c->mmu), host_node);
	if (!c->mmu)
		return -ENOMEM;
	c->mmu->next = CONTEXTS;
	mmu_switch(c, true);
	return 0;
}

void mmu_destroy(struct cpu *c)
{
	const struct host *h = &c->vm->host;

	if (c->mmu)
		h->ops->free(h->ctx, c->mmu, sizeof(*c->mmu));
	c->mmu = NULL;
}

/* --- page tables --------------------------------------------------------------- */

static struct table *table_slot(struct mmu *m, uint64_t gva)
{
	return &m->table[(gva >> TABLE_SHIFT) % TABLES];
}

static void forget_tables(struct mmu *m)
{
	for (unsigned i = 0; i < TABLES; i++)
		m->table[i].key = UINT64_MAX;
}

/* --- contexts ---------------------------------------------------------------- */

static unsigned pcid_of(const struct cpu *c)
{
	return c->s.cr4 & CR4_PCIDE ? c->s.cr3 & (PCIDS - 1) : 0;
}

static void clear_log(struct mmu *m)
{
	for (unsigned i = 0; i < MIN(m->nr_logged, (unsigned)LOG_MAX); i++)
		m->in_log[m->log[i] / 64] = 0;
	m->nr_logged = 0;
	m->epoch++;
}

static void tlb_clear(struct cpu *c)
{
	struct mmu *m = c->mmu;

	xlat_outside(c);
	memset(c->tlb, 0xff, TLB_ENTRIES * sizeof(*c->tlb)); /* TLB_INVALID */
	memset(m->victim, 0xff, sizeof(m->victim));
	memset(m->context, 0, sizeof(m->context));
	memset(m->large_seen, 0, sizeof(m->large_seen));
	m->huge_seen = 0;
	m->next = m->floor = 1;
	m->super = 0;
	clear_log(m);
	xlat_asids_reused(c);
}

static unsigned context_take(struct cpu *c)
{
	struct mmu *m = c->mmu;

	if (m->next >= CONTEXTS)
		tlb_clear(c);
	return m->next++;
}

static unsigned context_new(struct cpu *c, unsigned pcid)
{
	unsigned ctx = context_take(c);

	c->mmu->context[pcid] = (uint16_t)ctx;
	return ctx;
}

static enum priv priv_of(const struct cpu *c)
{
	if (c->cpl == 3)
		return PRIV_USER;
	if ((c->s.cr4 & CR4_SMAP) && (c->s.rflags & RFLAGS_AC))
		return PRIV_SUPER_AC;
	return PRIV_SUPER;
}

static bool checks_alignment(const struct cpu *c)
{
	return c->cpl == 3 && (c->s.rflags & RFLAGS_AC) && (c->s.cr0 & CR0_AM);
}

static void entry_drop(struct tlb_entry *e)
{
	e->read = e->write = e->exec = TLB_INVALID;
}

static bool is_users(uint64_t tag)
{
	return tag != TLB_INVALID && (tag & ~PAGE_MASK) % PRIVS == PRIV_USER;
}

/* The address space is another one: what supervisors saw of the last one goes. */
static void drop_logged(struct cpu *c)
{
	struct mmu *m = c->mmu;

	xlat_forget_pages(c);
	if (m->nr_logged > LOG_MAX)
		m->super = 0;
	for (unsigned i = 0; i < MIN(m->nr_logged, (unsigned)LOG_MAX); i++)
		if (!is_users(c->tlb[m->log[i]].read)) /* it has taken the slot since */
			entry_drop(&c->tlb[m->log[i]]);
	clear_log(m);
	m->cr3 = c->s.cr3;
	if (m->jumps_logged)
		xlat_asids_reused(c);
	m->jumps_logged = false;
}

static void log_slot(struct mmu *m, unsigned slot)
{
	if (m->in_log[slot / 64] & BIT64(slot % 64))
		return;
	if (m->nr_logged < LOG_MAX) {
		m->log[m->nr_logged] = (uint16_t)slot;
		m->in_log[slot / 64] |= BIT64(slot % 64);
	}
	if (m->nr_logged <= LOG_MAX)
		m->nr_logged++;
}

static void choose_asids(struct cpu *c)
{
	struct mmu *m = c->mmu;
	unsigned pcid = pcid_of(c), ctx;
	enum priv p = priv_of(c);

	if (c->s.cr3 != m->cr3)
		drop_logged(c);
	/* Making one context may clear all others. */
	do {
		if (m->super < m->floor)
			m->super = context_take(c);
		ctx = m->context[pcid];
		if (ctx < m->floor)
			ctx = context_new(c, pcid);
	} while (m->super < m->floor);
	c->asid_user = ctx * PRIVS + PRIV_USER;
	c->asid_super = m->super * PRIVS + PRIV_SUPER;
	c->asid = checks_alignment(c) ? ASID_NONE
		  : p == PRIV_USER    ? c->asid_user
				      : m->super * PRIVS + p;
}

static uint64_t asid_of(const struct cpu *c, enum priv p)
{
	return p == PRIV_USER ? c->asid_user : c->asid_super - PRIV_SUPER + p;
}

/* --- the form of the page tables --------------------------------------------- */

static uint64_t bits_between(unsigned low, unsigned high)
{
	return low > high ? 0 : (~0ull >> (63 - high)) & (~0ull << low);
}

/* SDM vol. 3, 4.3: two levels of 4-byte entries. */
static struct paging paging_32(const struct cpu *c)
{
	struct paging p = { .levels = 2, .entry_bytes = 4, .index_bits = 10 };
	unsigned phys = MIN(c->vm->cpuid.phys_bits, 40u);

	if (!cpu_has(&c->vm->cpuid, CPU_PSE36))
		phys = 32;
	p.large[2] = c->s.cr4 & CR4_PSE;
	p.reserved_page[2] = bits_between(phys - 19, 21);
	return p;
}

/* SDM vol. 3, 4.4 and 4.5: levels of 8-byte entries. */
static struct paging paging_64(const struct cpu *c, bool long_mode)
{
	struct paging p = { .levels = long_mode ? 4 : 3, .entry_bytes = 8, .index_bits = 9 };
	uint64_t reserved = bits_between(c->vm->cpuid.phys_bits, long_mode ? 51 : 62);

	if (!(c->s.efer & EFER_NXE))
		reserved |= PTE_NX;
	p.pdptes = !long_mode;
	p.large[2] = true;
	p.large[3] = long_mode && cpu_has(&c->vm->cpuid, CPU_PDPE1GB);
	for (unsigned level = 1; level <= 4; level++)
		p.reserved_table[level] = p.reserved_page[level] = reserved;
	p.reserved_table[4] |= PTE_PS;
	if (!p.large[3])
		p.reserved_table[3] |= PTE_PS;
	p.reserved_page[2] |= bits_between(13, 20);
	p.reserved_page[3] |= bits_between(13, 29);
	return p;
}

static bool is_pae(const struct cpu *c)
{
	return (c->s.cr0 & CR0_PG) && (c->s.cr4 & CR4_PAE) && !sys_long_mode(c);
}

static bool pdpte_read(const struct cpu *c, uint64_t cr3, unsigned i, uint64_t *v)
{
	return !gmem_read(&c->vm->gmem, (cr3 & 0xffffffe0) + i * 8, v, sizeof(*v));
}

bool mmu_pdptes_valid(const struct cpu *c, uint64_t cr3)
{
	uint64_t reserved = bits_between(c->vm->cpuid.phys_bits, 63) | 0x1e6, v;

	for (unsigned i = 0; i < 4; i++) {
		if (!pdpte_read(c, cr3, i, &v) || ((v & PTE_P) && (v & reserved)))
			return false;
	}
	return true;
}

static void load_pdptes(struct cpu *c)
{
	for (unsigned i = 0; i < 4; i++) {
		if (!pdpte_read(c, c->s.cr3, i, &c->mmu->pdpte[i]))
			c->mmu->pdpte[i] = 0;
	}
}

/* --- victims ------------------------------------------------------------------ */

static struct victim *victim_set(struct mmu *m, uint64_t gva)
{
	return &m->victim[(gva >> PAGE_SHIFT) % VICTIM_SETS * VICTIM_WAYS];
}

/* What is in @slot. */
static struct victim victim_of(const struct cpu *c, unsigned slot)
{
	const struct tlb_entry *e = &c->tlb[slot];
	const struct mmu *m = c->mmu;
	bool logged = !is_users(e->read) && (m->in_log[slot / 64] & BIT64(slot % 64));

	return (struct victim){ *e, m->page[slot], logged ? m->epoch : 0 };
}

/* The entry in @slot makes room for another. */
static void victim_keep(struct cpu *c, unsigned slot)
{
	uint64_t tag = c->tlb[slot].read;

	if (tag != TLB_INVALID)
		victim_set(c->mmu, tag)[c->mmu->next_way++ % VICTIM_WAYS] = victim_of(c, slot);
}

/* If the slot of @gva had an entry for @tag, that changes places with what is there now. */
static bool victim_back(struct cpu *c, uint64_t gva, uint64_t tag)
{
	unsigned slot = (unsigned)(tlb_slot(c, gva) - c->tlb);
	struct victim *v = victim_set(c->mmu, gva), *end = v + VICTIM_WAYS, found;
	struct mmu *m = c->mmu;

	while (v < end && (v->e.read != tag || (v->epoch && v->epoch != m->epoch)))
		v++;
	if (v == end)
		return false;
	found = *v;
	*v = victim_of(c, slot);
	c->tlb[slot] = found.e;
	m->page[slot] = found.page;
	if (found.epoch) {
		log_slot(m, slot);
		m->jumps_logged |= found.e.exec != TLB_INVALID;
	}
	return true;
}

/* Whoever's they are. */
static void victims_drop(struct cpu *c, uint64_t gva)
{
	struct victim *set = victim_set(c->mmu, gva);

	for (unsigned i = 0; i < VICTIM_WAYS; i++)
		if (!((set[i].e.read ^ gva) >> PAGE_SHIFT))
			entry_drop(&set[i].e);
}

static void victims_drop_range(struct mmu *m, uint64_t gva, unsigned shift)
{
	for (unsigned i = 0; i < ARRAY_SIZE(m->victim); i++)
		if (!((m->victim[i].e.read ^ gva) >> shift))
			entry_drop(&m->victim[i].e);
}

/* --- flushes ------------------------------------------------------------------ */

void mmu_switch(struct cpu *c, bool flush)
{
	if (flush) {
		if (!(c->s.cr0 & CR0_PG))
			c->mmu->paging = (struct paging){ .levels = 0 };
		else if (c->s.cr4 & CR4_PAE)
			c->mmu->paging = paging_64(c, sys_long_mode(c));
		else
			c->mmu->paging = paging_32(c);
		if (is_pae(c))
			load_pdptes(c);
		mmu_flush_all(c);
	} else {
		choose_asids(c);
	}
}

void mmu_flush_all(struct cpu *c)
{
	struct mmu *m = c->mmu;

	forget_tables(m);
	m->floor = m->next;
	memset(m->large_seen, 0, sizeof(m->large_seen));
	m->huge_seen = 0;
	choose_asids(c);
	stat_add(&c->vcpu->stats, STAT_TLB_FLUSHES, 1);
}

void mmu_flush_context(struct cpu *c)
{
	if (is_pae(c))
		load_pdptes(c);
	forget_tables(c->mmu);
	drop_logged(c);
	context_new(c, pcid_of(c));
	choose_asids(c);
	stat_add(&c->vcpu->stats, STAT_TLB_FLUSHES, 1);
}

/* Drop what lies in the same 1 << @shift bytes as @gva. */
static void drop_range(struct cpu *c, uint64_t gva, unsigned shift)
{
	uint64_t first = gva >> shift << shift;
	uint64_t pages = MIN(1ull << (shift - PAGE_SHIFT), (uint64_t)TLB_ENTRIES);

	xlat_asids_reused(c);
	victims_drop_range(c->mmu, gva, shift);
	for (uint64_t i = 0; i < pages; i++) {
		struct tlb_entry *e = tlb_slot(c, first + (i << PAGE_SHIFT));

		if ((e->read ^ gva) >> shift == 0 || (e->write ^ gva) >> shift == 0 ||
		    (e->exec ^ gva) >> shift == 0)
			entry_drop(e);
	}
}

/* Which of a filter's @bits: kernels' addresses have one half, so that they hide no user's. */
static unsigned filter_bit(uint64_t gva, unsigned shift, unsigned bits)
{
	return (unsigned)((gva >> shift) % (bits / 2) + (gva >> 63) * (bits / 2));
}

static uint64_t *large_word(struct mmu *m, uint64_t gva, uint64_t *bit)
{
	unsigned i = filter_bit(gva, LARGE_SHIFT, LARGE_BITS);

	*bit = BIT64(i % 64);
	return &m->large_seen[i / 64];
}

static void note_large(struct mmu *m, uint64_t gva, unsigned shift)
{
	uint64_t bit;

	if (shift == HUGE_SHIFT)
		m->huge_seen |= BIT64(filter_bit(gva, HUGE_SHIFT, 64));
	else if (shift > PAGE_SHIFT)
		*large_word(m, gva, &bit) |= bit;
}

void mmu_flush_page(struct cpu *c, uint64_t gva)
{
	struct mmu *m = c->mmu;
	uint64_t bit, *large = large_word(m, gva, &bit);

	forget_tables(m);
	entry_drop(tlb_slot(c, gva));
	victims_drop(c, gva);
	xlat_page_flushed(c, gva);
	if (m->huge_seen & BIT64(filter_bit(gva, HUGE_SHIFT, 64)))
		drop_range(c, gva, HUGE_SHIFT);
	else if (*large & bit)
		drop_range(c, gva, LARGE_SHIFT);
}

/* SDM vol. 2, INVPCID; operands have been checked. */
void mmu_invpcid(struct cpu *c, unsigned type, uint64_t pcid, uint64_t gva)
{
	switch (type) {
	case 0:
		mmu_flush_page(c, gva);
		break;
	case 1:
		forget_tables(c->mmu);
		c->mmu->context[pcid % PCIDS] = 0;
		drop_logged(c);
		choose_asids(c);
		break;
	default: /* all, with global pages or without */
		mmu_flush_all(c);
	}
}

void mmu_downgrade_code(struct cpu *c)
{
	const struct codemap *map = codemap_of(c);

	xlat_forget_pages(c);
	for (unsigned i = 0; i < TLB_ENTRIES; i++) {
		if (c->tlb[i].write != TLB_INVALID && codemap_is_code(map, c->mmu->page[i]))
			c->tlb[i].write = TLB_INVALID;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(c->mmu->victim); i++)
		c->mmu->victim[i].e.write = TLB_INVALID;
}

static uint64_t *written_word(struct mmu *m, uint64_t gpa, uint64_t *bit)
{
	unsigned i = (gpa >> PAGE_SHIFT) % WRITTEN_BITS;

	*bit = BIT64(i % 64);
	return &m->written[i / 64];
}

static void note_written(struct mmu *m, uint64_t gpa)
{
	uint64_t bit, *word = written_word(m, gpa, &bit);

	*word |= bit;
}

/* Most of the pages it knows have lost their tags since. */
static void renew_written(struct cpu *c)
{
	struct mmu *m = c->mmu;

	memset(m->written, 0, sizeof(m->written));
	for (unsigned i = 0; i < TLB_ENTRIES; i++)
		if (c->tlb[i].write != TLB_INVALID)
			note_written(m, m->page[i]);
	for (unsigned i = 0; i < ARRAY_SIZE(m->victim); i++)
		if (m->victim[i].e.write != TLB_INVALID)
			note_written(m, m->victim[i].page);
	m->vain_scans = 0;
}

/* Only pages are looked at, four at a turn: entries of others are not touched. */
static bool drop_writes(struct cpu *c, uint64_t gpa)
{
	const uint64_t *page = c->mmu->page;
	bool found = false;

	for (unsigned i = 0; i < TLB_ENTRIES; i += 4) {
		const uint64_t *p = &page[i];

		if (likely(p[0] != gpa && p[1] != gpa && p[2] != gpa && p[3] != gpa))
			continue;
		for (unsigned j = 0; j < 4; j++)
			if (p[j] == gpa) {
				found |= c->tlb[i + j].write != TLB_INVALID;
				c->tlb[i + j].write = TLB_INVALID;
			}
	}
	for (unsigned i = 0; i < ARRAY_SIZE(c->mmu->victim); i++) {
		struct victim *v = &c->mmu->victim[i];

		if (v->page == gpa) {
			found |= v->e.write != TLB_INVALID;
			v->e.write = TLB_INVALID;
		}
	}
	return found;
}

/* Thousands of pages become code while a kernel boots, which has written them long ago. */
void mmu_downgrade_page(struct cpu *c, uint64_t gpa)
{
	struct mmu *m = c->mmu;
	uint64_t bit;

	xlat_forget_pages(c);
	gpa &= PAGE_MASK;
	if (!(*written_word(m, gpa, &bit) & bit))
		return;
	if (!drop_writes(c, gpa) && ++m->vain_scans == VAIN_SCANS)
		renew_written(c);
}

/* --- page walks ---------------------------------------------------------------- */

static bool walk_failed(struct walk *w, uint32_t error)
{
	w->error = error;
	return false;
}

/* One entry of a page table; false: not present, reserved bits, or not in RAM. */
static bool walk_entry(const struct cpu *c, struct walk *w, uint64_t gpa, uint64_t *v)
{
	unsigned bytes = c->mmu->paging.entry_bytes;
	void *hva = gmem_ptr(&c->vm->gmem, gpa, bytes);

	if (!hva) /* a bus without RAM reads as ones: reserved bits are set */
		return walk_failed(w, PF_P | PF_RSV);
	*v = bytes == 8 ? gmem_load_u64(hva) : gmem_load_u32(hva);
	if (!(*v & PTE_P))
		return walk_failed(w, 0);
	w->user &= !!(*v & PTE_U);
	w->write &= !!(*v & PTE_W);
	w->noexec |= !!(*v & PTE_NX);
	w->entry[w->nr_entries].hva = hva;
	w->entry[w->nr_entries].gpa = gpa;
	w->entry[w->nr_entries++].value = *v;
	return true;
}

static void walk_page(const struct cpu *c, const struct paging *p, struct walk *w, uint64_t gva,
		      unsigned level, uint64_t v)
{
	unsigned shift = PAGE_SHIFT + (level - 1) * p->index_bits;
	uint64_t offset = BIT64(shift) - 1;

	w->shift = (uint8_t)shift;
	w->global = (v & PTE_G) && (c->s.cr4 & CR4_PGE);
	w->gpa = (v & PTE_ADDR & ~offset) | (gva & offset);
	if (p->entry_bytes == 4 && level == 2) /* PSE-36 */
		w->gpa |= (v >> 13 & 0xff) << 32;
}

/* @w has come by all four levels, and marked them. */
static void note_table(struct cpu *c, uint64_t gva, const struct walk *w)
{
	struct table t = {
		.key = gva >> TABLE_SHIFT, .cr3 = c->s.cr3, .user = true, .write = true
	};

	if (w->nr_entries != 4)
		return;
	for (unsigned i = 0; i < 3; i++) {
		t.user &= !!(w->entry[i].value & PTE_U);
		t.write &= !!(w->entry[i].value & PTE_W);
		t.noexec |= !!(w->entry[i].value & PTE_NX);
	}
	t.gpa = w->entry[3].gpa & PAGE_MASK;
	*table_slot(c->mmu, gva) = t;
}

/* Follows the tables without a side effect. */
static bool walk(const struct cpu *c, uint64_t gva, struct walk *w)
{
	const struct paging *p = &c->mmu->paging;
	uint64_t table = c->s.cr3 & PTE_ADDR;
	const struct table *t = table_slot(c->mmu, gva);
	unsigned level = p->levels;

	*w = (struct walk){ .gpa = gva, .shift = PAGE_SHIFT, .user = true, .write = true };
	if (t->key == gva >> TABLE_SHIFT && t->cr3 == c->s.cr3) {
		w->user = t->user;
		w->write = t->write;
		w->noexec = t->noexec;
		table = t->gpa;
		level = 1;
	}
	if (p->pdptes) {
		table = c->mmu->pdpte[gva >> 30 & 3];
		if (!(table & PTE_P))
			return walk_failed(w, 0);
		table &= PTE_ADDR;
		level = 2;
	}
	for (; level; level--) {
		unsigned shift = PAGE_SHIFT + (level - 1) * p->index_bits;
		uint64_t index = gva >> shift & (BIT64(p->index_bits) - 1), v;

		if (!walk_entry(c, w, table + index * p->entry_bytes, &v))
			return false;
		if (level == 1 || ((v & PTE_PS) && p->large[level])) {
			if (v & p->reserved_page[level])
				return walk_failed(w, PF_P | PF_RSV);
			walk_page(c, p, w, gva, level, v);
			return true;
		}
		if (v & p->reserved_table[level])
			return walk_failed(w, PF_P | PF_RSV);
		table = v & PTE_ADDR;
	}
	return true; /* no paging */
}

/* SDM vol. 3, 4.6. */
static unsigned walk_rights(const struct cpu *c, const struct walk *w, enum priv p)
{
	unsigned can = CAN_READ;

	if (!c->mmu->paging.levels)
		return CAN_READ | CAN_WRITE | CAN_EXEC;
	if (p == PRIV_USER && !w->user)
		return 0;
	if (w->write || (p != PRIV_USER && !(c->s.cr0 & CR0_WP)))
		can |= CAN_WRITE;
	if (!w->noexec && !(p != PRIV_USER && w->user && (c->s.cr4 & CR4_SMEP)))
		can |= CAN_EXEC;
	if (p == PRIV_SUPER && w->user && (c->s.cr4 & CR4_SMAP))
		can &= CAN_EXEC;
	return can;
}

static bool entry_cas(const struct cpu *c, void *hva, uint64_t old, uint64_t v)
{
	return c->mmu->paging.entry_bytes == 8 ? gmem_cas_u64(hva, old, v)
					       : gmem_cas_u32(hva, (uint32_t)old, (uint32_t)v);
}

/* Accessed and dirty flags. False: another processor changed an entry, walk again. */
static bool walk_mark(struct cpu *c, const struct walk *w, bool write)
{
	for (unsigned i = 0; i < w->nr_entries; i++) {
		uint64_t old = w->entry[i].value, v = old | PTE_A;

		if (write && i == w->nr_entries - 1u)
			v |= PTE_D;
		if (v == old)
			continue;
		if (!entry_cas(c, w->entry[i].hva, old, v))
			return false;
		codemap_written(codemap_of(c), c, w->entry[i].gpa, c->mmu->paging.entry_bytes);
	}
	return true;
}

/* --- filling the TLB ------------------------------------------------------------ */

static void page_fault(struct cpu *c, uint64_t gva, uint32_t error, enum mmu_access access,
		       enum priv p)
{
	bool tells_fetch =
		(c->s.cr4 & CR4_SMEP) || ((c->s.cr4 & CR4_PAE) && (c->s.efer & EFER_NXE));

	if (access == MMU_WRITE)
		error |= PF_W;
	if (access == MMU_EXEC && tells_fetch)
		error |= PF_I;
	if (p == PRIV_USER)
		error |= PF_U;
	cpu_raise_pf(c, gva, error);
}

static void fill(struct cpu *c, uint64_t gva, const struct walk *w, unsigned can,
		 enum mmu_access access, enum priv p, uint8_t *hva)
{
	uint64_t page = gva & PAGE_MASK, tag = page | asid_of(c, p);
	struct tlb_entry *e = tlb_slot(c, gva);

	if (debug_watches(c, page))
		return;
	if (e->read != tag)
		victim_keep(c, (unsigned)(e - c->tlb));
	c->mmu->page[e - c->tlb] = w->gpa & PAGE_MASK;
	if (!w->global && p != PRIV_USER) {
		log_slot(c->mmu, (unsigned)(e - c->tlb));
		c->mmu->jumps_logged |= !!(can & CAN_EXEC);
	}
	e->addend = (uint64_t)(uintptr_t)hva - page;
	e->read = can & CAN_READ ? tag : TLB_INVALID;
	e->exec = can & CAN_EXEC ? tag : TLB_INVALID;
	/* Only a write has made the page dirty. */
	e->write =
		access == MMU_WRITE && codemap_may_write(c, w->gpa & PAGE_MASK) ? tag : TLB_INVALID;
	if (e->write == tag)
		note_written(c->mmu, w->gpa);
	note_large(c->mmu, gva, w->shift);
	stat_add(&c->vcpu->stats, STAT_TLB_MISSES, 1);
}

static bool tlb_hit(struct cpu *c, uint64_t gva, enum mmu_access access, enum priv p,
		    struct target *t)
{
	const struct tlb_entry *e = tlb_slot(c, gva);
	uint64_t tag = access == MMU_READ ? e->read : access == MMU_WRITE ? e->write : e->exec;

	if (tag != ((gva & PAGE_MASK) | asid_of(c, p)))
		return false;
	t->gpa = c->mmu->page[e - c->tlb] | (gva & ~PAGE_MASK);
	t->hva = (uint8_t *)(uintptr_t)(gva + e->addend);
	return true;
}

/* The TLB learns of a page that is RAM: its host address, or NULL. */
static uint8_t *enter_page(struct cpu *c, uint64_t gva, const struct walk *w, unsigned can,
			   enum mmu_access access, enum priv p)
{
	uint64_t gpa = w->gpa & PAGE_MASK;
	uint8_t *page = gmem_ptr(&c->vm->gmem, gpa, PAGE_SIZE);

	if (!page || gpa == lapic_page(c))
		return NULL;
	fill(c, gva, w, can, access, p, page);
	return page;
}

/* Translate for one page's access, with all checks and side effects. */
static bool resolve_walking(struct cpu *c, uint64_t gva, enum mmu_access access, enum priv p,
			    struct target *t)
{
	struct walk w;
	unsigned can;
	uint8_t *page;

	if (sys_long_mode(c) && !sys_canonical(gva)) {
		cpu_raise_error(c, EXC_GP, 0);
		return false;
	}
	do {
		if (!walk(c, gva, &w)) {
			page_fault(c, gva, w.error, access, p);
			return false;
		}
		can = walk_rights(c, &w, p);
		if (!(can & BIT(access))) {
			page_fault(c, gva, PF_P, access, p);
			return false;
		}
	} while (!walk_mark(c, &w, access == MMU_WRITE));

	note_table(c, gva, &w);
	page = enter_page(c, gva, &w, can, access, p);
	t->gpa = w.gpa;
	t->hva = page ? page + (w.gpa & ~PAGE_MASK) : NULL;
	return true;
}

static bool resolve(struct cpu *c, uint64_t gva, enum mmu_access access, enum priv p,
		    struct target *t)
{
	enum vcpu_doing before;
	bool found;

	if (tlb_hit(c, gva, access, p, t))
		return true;
	if (victim_back(c, gva, (gva & PAGE_MASK) | asid_of(c, p)) && tlb_hit(c, gva, access, p, t))
		return true;
	before = vcpu_doing(c->vcpu, DOING_MMU);
	found = resolve_walking(c, gva, access, p, t);
	vcpu_doing(c->vcpu, before);
	return found;
}

bool mmu_fill(struct cpu *c, uint64_t gva, unsigned bytes, enum mmu_access access)
{
	const struct tlb_entry *e = tlb_slot(c, gva);
	uint64_t key = tlb_key(c, gva, bytes);
	struct target t;

	if (c->asid == ASID_NONE || !resolve(c, gva, access, priv_of(c), &t))
		return false;
	return access == MMU_READ ? e->read == key : e->write == key;
}

const uint8_t *mmu_fetch(struct cpu *c, uint64_t gva, uint64_t *gpa)
{
	struct target t;

	if (!resolve(c, gva, MMU_EXEC, priv_of(c), &t))
		return NULL;
	if (!t.hva) { /* the bus reads as ones, and FF FF is no instruction */
		cpu_raise(c, EXC_UD);
		return NULL;
	}
	*gpa = t.gpa & PAGE_MASK;
	return t.hva - (gva & ~PAGE_MASK);
}

int mmu_translate(struct cpu *c, uint64_t gva, uint64_t *gpa)
{
	struct walk w;

	if ((sys_long_mode(c) && !sys_canonical(gva)) || !walk(c, gva, &w))
		return -EFAULT;
	*gpa = w.gpa;
	return 0;
}

/* --- the bytes ------------------------------------------------------------------- */

static void ram_read(void *buf, const uint8_t *p, unsigned bytes)
{
	uint8_t *b = buf;

	if (bytes == 4) {
		store_u32(b, guest_load_u32(p));
		return;
	}
	if (bytes == 2) {
		store_u16(b, guest_load_u16(p));
		return;
	}
	for (; bytes >= 8; bytes -= 8, b += 8, p += 8)
		store_u64(b, guest_load_u64(p));
	for (; bytes; bytes--)
		*b++ = guest_load_u8(p++);
}

static void ram_write(uint8_t *p, const void *buf, unsigned bytes)
{
	const uint8_t *b = buf;

	if (bytes == 4) {
		guest_store_u32(p, load_u32(b));
		return;
	}
	if (bytes == 2) {
		guest_store_u16(p, load_u16(b));
		return;
	}
	for (; bytes >= 8; bytes -= 8, b += 8, p += 8)
		guest_store_u64(p, load_u64(b));
	for (; bytes; bytes--)
		guest_store_u8(p++, *b++);
}

/* Registers are 32 bits wide; narrower writes mean nothing. */
static void lapic_access(struct cpu *c, uint64_t gpa, uint8_t *buf, unsigned bytes, bool write)
{
	unsigned off = (unsigned)(gpa & ~PAGE_MASK), in = off & 3;
	uint32_t v;

	stat_add(&c->vcpu->stats, STAT_APIC, 1);
	if (write) {
		if (bytes == 4)
			lapic_write(c, off, load_u32(buf));
		return;
	}
	v = lapic_read(c, off & ~3u) >> (in * 8);
	memcpy(buf, &v, bytes);
}

static void bus_piece(struct cpu *c, uint64_t gpa, uint8_t *buf, unsigned bytes, bool write)
{
	struct io_access io = { .addr = gpa, .size = (uint8_t)bytes, .is_write = write };

	xlat_outside(c);
	stat_add(&c->vcpu->stats, STAT_MMIO, 1);
	if (write)
		memcpy(&io.data, buf, bytes);
	if (!bus_access(&c->vm->mmio, &io))
		stat_add(&c->vcpu->stats, STAT_BAD_ACCESSES, 1);
	if (!write)
		memcpy(buf, &io.data, bytes);
}

/* Devices see naturally aligned pieces, low addresses first. */
static void device_access(struct cpu *c, uint64_t gpa, uint8_t *buf, unsigned bytes, bool write)
{
	bool apic = (gpa & PAGE_MASK) == lapic_page(c);

	while (bytes) {
		unsigned n = apic ? 4 : 8;

		while (n > bytes || (gpa & (n - 1)))
			n /= 2;
		if (apic)
			lapic_access(c, gpa, buf, n, write);
		else
			bus_piece(c, gpa, buf, n, write);
		gpa += n;
		buf += n;
		bytes -= n;
	}
}

static void target_read(struct cpu *c, const struct target *t, void *buf, unsigned bytes)
{
	if (t->hva)
		ram_read(buf, t->hva, bytes);
	else
		device_access(c, t->gpa, buf, bytes, false);
}

/* The store comes before the notice: who decodes in between decodes twice. */
static void target_write(struct cpu *c, const struct target *t, const void *buf, unsigned bytes)
{
	if (!t->hva) {
		device_access(c, t->gpa, (uint8_t *)(uintptr_t)buf, bytes, true);
		return;
	}
	ram_write(t->hva, buf, bytes);
	codemap_written(codemap_of(c), c, t->gpa, bytes);
}

static uint64_t next_page(const struct cpu *c, uint64_t gva, unsigned first, enum priv p, bool sys)
{
	bool narrow = sys ? !sys_long_mode(c) : c->mode != MODE_64;

	return narrow ? (uint32_t)(gva + first) : gva + first;
}

static unsigned bytes_in_page(uint64_t gva, unsigned bytes)
{
	return (unsigned)MIN((uint64_t)bytes, PAGE_SIZE - (gva & ~PAGE_MASK));
}

/* Both pages of a crossing are checked before either is touched. */
static bool copy(struct cpu *c, uint64_t gva, void *buf, unsigned bytes, enum mmu_access access,
		 enum priv p, bool sys)
{
	unsigned first = bytes_in_page(gva, bytes), rest = bytes - first;
	struct target t[2];

	if (!resolve(c, gva, access, p, &t[0]))
		return false;
	if (rest && !resolve(c, next_page(c, gva, first, p, sys), access, p, &t[1]))
		return false;
	if (access == MMU_WRITE) {
		target_write(c, &t[0], buf, first);
		if (rest)
			target_write(c, &t[1], (uint8_t *)buf + first, rest);
	} else {
		target_read(c, &t[0], buf, first);
		if (rest)
			target_read(c, &t[1], (uint8_t *)buf + first, rest);
	}
	return true;
}

/* SDM vol. 3, table 6-7; wider operands have rules of their own. */
static bool aligned(struct cpu *c, uint64_t gva, unsigned bytes)
{
	if (!checks_alignment(c) || bytes > 8 || !(gva & (bytes - 1)))
		return true;
	cpu_raise_error(c, EXC_AC, 0);
	return false;
}

bool mmu_read_slow(struct cpu *c, uint64_t gva, void *buf, unsigned bytes)
{
	if (!aligned(c, gva, bytes) || !copy(c, gva, buf, bytes, MMU_READ, priv_of(c), false))
		return false;
	debug_access(c, gva, bytes, MMU_READ);
	return true;
}

bool mmu_write_slow(struct cpu *c, uint64_t gva, const void *buf, unsigned bytes)
{
	if (!aligned(c, gva, bytes) ||
	    !copy(c, gva, (void *)(uintptr_t)buf, bytes, MMU_WRITE, priv_of(c), false))
		return false;
	debug_access(c, gva, bytes, MMU_WRITE);
	return true;
}

bool mmu_sys_read(struct cpu *c, uint64_t gva, void *buf, unsigned bytes)
{
	const uint8_t *at;

	if (!sys_long_mode(c))
		gva = (uint32_t)gva;
	at = mmu_sys_readable(c, gva, bytes);
	if (likely(at)) {
		ram_read(buf, at, bytes);
		return true;
	}
	return copy(c, gva, buf, bytes, MMU_READ, PRIV_SUPER, true);
}

bool mmu_sys_write(struct cpu *c, uint64_t gva, const void *buf, unsigned bytes)
{
	if (!sys_long_mode(c))
		gva = (uint32_t)gva;
	return copy(c, gva, (void *)(uintptr_t)buf, bytes, MMU_WRITE, PRIV_SUPER, true);
}

bool mmu_push_frame(struct cpu *c, unsigned cpl, uint64_t gva, const void *buf, unsigned bytes)
{
	enum priv p = cpl == 3 ? PRIV_USER : PRIV_SUPER;
	const struct tlb_entry *e;

	if (!sys_long_mode(c))
		gva = (uint32_t)gva;
	e = tlb_slot(c, gva);
	if (likely(e->write == (((gva + bytes - 1) & PAGE_MASK) | asid_of(c, p)))) {
		ram_write((uint8_t *)(uintptr_t)(gva + e->addend), buf, bytes);
		return true;
	}
	return copy(c, gva, (void *)(uintptr_t)buf, bytes, MMU_WRITE, p, true);
}

/* --- read-modify-write ------------------------------------------------------------ */

void *mmu_rmw(struct cpu *c, uint64_t gva, unsigned bytes)
{
	unsigned first = bytes_in_page(gva, bytes);
	enum priv p = priv_of(c);
	struct target t;

	if (!aligned(c, gva, bytes) || !resolve(c, gva, MMU_WRITE, p, &t))
		return NULL;
	if (first == bytes)
		return t.hva;
	/* For the rights alone. */
	(void)resolve(c, next_page(c, gva, first, p, false), MMU_WRITE, p, &t);
	return NULL;
}

void mmu_rmw_done(struct cpu *c, uint64_t gva, unsigned bytes)
{
	uint64_t gpa;

	if (likely(tlb_slot(c, gva)->write == tlb_key(c, gva, bytes)))
		return;
	if (!mmu_translate(c, gva, &gpa))
		codemap_written(codemap_of(c), c, gpa, bytes);
	debug_access(c, gva, bytes, MMU_WRITE);
}

void mmu_rmw_lock(struct cpu *c)
{
	lock_take(&c->vm->host, &soft_of(c->vm)->rmw_lock);
}

void mmu_rmw_unlock(struct cpu *c)
{
	lock_release(&c->vm->host, &soft_of(c->vm)->rmw_lock);
}

/* --- segmentation ------------------------------------------------------------------ */

static bool linear_fault(struct cpu *c, unsigned seg)
{
	cpu_raise_error(c, seg == SEG_SS ? EXC_SS : EXC_GP, 0);
	return false;
}

/* SDM vol. 3, 5.3. Processors let an access wrap around at the end of a 4 GiB segment. */
bool mmu_within_limit(const struct segment *s, uint64_t off, unsigned bytes)
{
	uint64_t last = off + bytes - 1;

	if ((s->attr & (SEG_S | 0xc)) == (SEG_S | 0x4)) /* data, expand-down */
		return off > s->limit && last <= (s->attr & SEG_DB ? UINT32_MAX : 0xffff);
	return last <= s->limit || s->limit == UINT32_MAX;
}

static bool type_allows(const struct segment *s, enum mmu_access access)
{
	bool code = s->attr & 8, rw = s->attr & 2;

	switch (access) {
	case MMU_READ:
		return !code || rw;
	case MMU_WRITE:
		return !code && rw;
	default:
		return true;
	}
}

bool mmu_linear(struct cpu *c, unsigned seg, uint64_t off, unsigned bytes, enum mmu_access access,
		uint64_t *gva)
{
	const struct segment *s = &c->s.seg[seg];

	if (c->mode == MODE_64) {
		uint64_t base = seg == SEG_FS || seg == SEG_GS ? s->base : 0;

		*gva = base + off;
		if (sys_canonical(*gva) && sys_canonical(*gva + bytes - 1))
			return true;
		return linear_fault(c, seg);
	}
	if (sys_protected(c) && ((s->attr & SEG_UNUSABLE) || !type_allows(s, access)))
		return linear_fault(c, seg);
	if (!mmu_within_limit(s, off, bytes))
		return linear_fault(c, seg);
	*gva = (uint32_t)(s->base + off);
	return true;
}
