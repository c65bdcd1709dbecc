/*
 * test_mmu.c - page walks of every kind against an oracle written from SDM vol. 3,
 * 4.6 and 4.7; the TLB and everything that flushes it; devices, page crossings,
 * alignment and segment limits.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cpu/codemap.h"
#include "cpu/mmu.h"
#include "flat.h"
#include "host/sim/sim.h"

#define VA     0x40605000ull /* maps to PA in every form below */
#define PA     0x605000u
#define OTHER  0x700000u /* another page */
#define TABLES 0xa00000u

#define PTE_P  1ull
#define PTE_W  2ull
#define PTE_U  4ull
#define PTE_A  0x20ull
#define PTE_D  0x40ull
#define PTE_PS 0x80ull
#define PTE_NX (1ull << 63)
#define ALL    (PTE_P | PTE_W | PTE_U)

static struct host h;
static struct flat *f;
static struct cpu *c;

static int setup(void **state)
{
	h = sim_create(NULL);
	f = flat_create(&h, 1, CLOCK_HOST);
	c = f->cpu;
	return 0;
}

static int teardown(void **state)
{
	flat_destroy(f);
	return (int)sim_destroy(&h);
}

/* --- forms of page tables --------------------------------------------------------- */

struct form {
	const char *name;
	bool is_long, pae;
	unsigned leaf;  /* level of the entry that maps VA */
	bool has_upper; /* the entry above has rights, too */
};

static const struct form forms[] = {
	{ "4-level, 4 KiB", true, true, 1, true },   { "4-level, 2 MiB", true, true, 2, true },
	{ "4-level, 1 GiB", true, true, 3, true },   { "PAE, 4 KiB", false, true, 1, true },
	{ "PAE, 2 MiB", false, true, 2, false },     { "32-bit, 4 KiB", false, false, 1, true },
	{ "32-bit, 4 MiB", false, false, 2, false },
};

struct env {
	bool wp, smep, smap, nxe, user, ac;
};

static uint32_t entry_at(const struct form *m, unsigned level)
{
	unsigned bits = m->pae ? 9 : 10, bytes = m->pae ? 8 : 4;
	uint64_t index = VA >> (12 + (level - 1) * bits) & ((1u << bits) - 1);

	if (level == 3 && !m->is_long)
		index = VA >> 30 & 3;
	return (uint32_t)(TABLES + level * 0x1000 + index * bytes);
}

static void put(const struct form *m, unsigned level, uint64_t v)
{
	if (m->pae)
		store_u64(f->ram + entry_at(m, level), v);
	else
		store_u32(f->ram + entry_at(m, level), (uint32_t)v);
}

static uint64_t get(const struct form *m, unsigned level)
{
	return m->pae ? load_u64(f->ram + entry_at(m, level))
		      : load_u32(f->ram + entry_at(m, level));
}

static unsigned top_level(const struct form *m)
{
	return m->is_long ? 4 : m->pae ? 3 : 2;
}

/* The whole path to PA; @upper and @leaf are rights. */
static void map(const struct form *m, uint64_t upper, uint64_t leaf)
{
	unsigned shift = 12 + (m->leaf - 1) * (m->pae ? 9 : 10);

	for (unsigned level = top_level(m); level > m->leaf; level--) {
		uint64_t rights = level == m->leaf + 1 && m->has_upper ? upper : ALL;

		if (level == 3 && !m->is_long)
			rights = PTE_P;
		put(m, level, (TABLES + (level - 1) * 0x1000) | rights);
	}
	put(m, m->leaf, ((uint64_t)PA >> shift << shift) | leaf | (m->leaf > 1 ? PTE_PS : 0));
}

static void enter(const struct form *m, const struct env *e)
{
	struct cpu_state *s = &c->s;
	uint32_t dpl = e->user ? SEG_DPL : 0;

	s->cr0 = CR0_PE | CR0_PG | CR0_ET | (e->wp ? CR0_WP : 0);
	s->cr4 = (m->pae ? CR4_PAE : CR4_PSE) | (e->smep ? CR4_SMEP : 0) | (e->smap ? CR4_SMAP : 0);
	s->efer = (m->is_long ? EFER_LME | EFER_LMA : 0) | (e->nxe ? EFER_NXE : 0);
	s->cr3 = TABLES + top_level(m) * 0x1000;
	s->seg[SEG_CS].attr = SEG_P | SEG_S | 0xb | SEG_G | dpl | (m->is_long ? SEG_L : SEG_DB);
	s->seg[SEG_SS].attr = SEG_P | SEG_S | 0x3 | SEG_G | dpl | SEG_DB;
	s->rflags = RFLAGS_ONE | (e->ac ? RFLAGS_AC : 0);
	cpu_update_mode(c);
	mmu_switch(c, true);
}

static bool access(enum mmu_access a, uint64_t gva)
{
	uint32_t v;
	uint64_t gpa;

	c->fault.pending = false;
	switch (a) {
	case MMU_READ:
		return mmu_read_u32(c, gva, &v) && v == load_u32(f->ram + PA + (gva & 0xfff));
	case MMU_WRITE:
		return mmu_write_u32(c, gva, 0xfeedf00d);
	default:
		return mmu_fetch(c, gva, &gpa) == f->ram + PA && gpa == PA;
	}
}

/* --- rights ------------------------------------------------------------------------- */

/* -1: allowed; else the error code. */
static int oracle(const struct form *m, const struct env *e, uint64_t upper, uint64_t leaf,
		  enum mmu_access a)
{
	uint64_t both = m->has_upper ? upper & leaf : leaf;
	uint64_t any = m->has_upper ? upper | leaf : leaf;
	bool write = a == MMU_WRITE, fetch = a == MMU_EXEC, user_page = both & PTE_U;
	int code = (write ? 2 : 0) | (e->user ? 4 : 0);
	bool allowed;

	if (fetch && (e->smep || (m->pae && e->nxe)))
		code |= 16;
	if (m->pae && !e->nxe && (any & PTE_NX))
		return code | 8 | 1;
	if (e->user)
		allowed = user_page && (!write || (both & PTE_W)) && (!fetch || !(any & PTE_NX));
	else if (fetch)
		allowed = !(any & PTE_NX) && !(user_page && e->smep);
	else
		allowed = (!write || !e->wp || (both & PTE_W)) && !(user_page && e->smap && !e->ac);
	return allowed ? -1 : code | 1;
}

static uint64_t rights(unsigned n)
{
	return PTE_P | (n & 1 ? PTE_W : 0) | (n & 2 ? PTE_U : 0) | (n & 4 ? PTE_NX : 0);
}

static bool known; /* a walk to the next page has come by the same tables */

static void check_marks(const struct form *m, bool allowed, enum mmu_access a)
{
	unsigned top = m->pae && !m->is_long ? 2 : top_level(m);

	if (known)
		top = m->leaf;

	for (unsigned level = top; level >= m->leaf; level--)
		assert_int_equal(!!(get(m, level) & PTE_A), allowed);
	assert_int_equal(!!(get(m, m->leaf) & PTE_D), allowed && a == MMU_WRITE);
}

static void check_one(const struct form *m, const struct env *e, unsigned upper, unsigned leaf,
		      enum mmu_access a)
{
	int expected = oracle(m, e, rights(upper), rights(leaf), a);
	bool allowed;

	map(m, rights(upper), rights(leaf));
	mmu_switch(c, true);
	store_u32(f->ram + PA, 0x12345678);
	if (known) {
		store_u64(f->ram + entry_at(m, 1) + 8, OTHER | PTE_P | (leaf & 2 ? PTE_U : 0));
		access(MMU_READ, VA + 0x1000);
	}
	allowed = access(a, VA);
	if (allowed != (expected < 0) || (!allowed && c->fault.error != (uint32_t)expected))
		fail_msg(
			"%s: wp %d smep %d smap %d nxe %d user %d ac %d upper %x leaf %x access %d: "
			"%d, error %#x, expected %#x",
			m->name, e->wp, e->smep, e->smap, e->nxe, e->user, e->ac, upper, leaf, a,
			allowed, c->fault.error, expected);
	check_marks(m, allowed, a);
	assert_int_equal(load_u32(f->ram + PA),
			 allowed && a == MMU_WRITE ? 0xfeedf00d : 0x12345678);
	if (!allowed) {
		assert_int_equal(c->fault.vector, EXC_PF);
		assert_int_equal(c->fault.payload, VA);
	}
}

static void check_form(const struct form *m)
{
	for (unsigned n = 0; n < 64; n++) {
		struct env e = { n & 1, n & 2, n & 4, n & 8, n & 16, n & 32 };

		enter(m, &e);
		for (unsigned k = 0; k < 64; k++) {
			if (!m->pae && (k & 0x24))
				continue; /* no NX there */
			if (!m->has_upper && k >> 3)
				continue;
			for (int a = MMU_READ; a <= MMU_EXEC; a++)
				check_one(m, &e, k >> 3, k & 7, (enum mmu_access)a);
		}
	}
}

static void test_rights(void **state)
{
	for (unsigned i = 0; i < ARRAY_SIZE(forms); i++)
		check_form(&forms[i]);
	known = true;
	check_form(&forms[0]);
	known = false;
}

static const struct env kernel = { .wp = true, .nxe = true };
static const struct env user = { .wp = true, .nxe = true, .user = true };

static void test_not_present(void **state)
{
	for (unsigned i = 0; i < ARRAY_SIZE(forms); i++) {
		const struct form *m = &forms[i];

		for (unsigned level = m->leaf; level <= top_level(m); level++) {
			enter(m, &kernel);
			map(m, ALL, ALL);
			put(m, level, get(m, level) & ~PTE_P);
			mmu_switch(c, true);
			assert_false(access(MMU_WRITE, VA));
			assert_int_equal(c->fault.error, PF_W);
			assert_int_equal(c->fault.payload, VA);
		}
	}
}

static void check_reserved(const struct form *m, unsigned level, unsigned bit, bool reserved)
{
	map(m, ALL, ALL);
	put(m, level, get(m, level) | 1ull << bit);
	mmu_switch(c, true);
	/* A bit that is an address one leads out of RAM, where reads give ones. */
	access(MMU_READ, VA);
	if (c->fault.pending != reserved || (reserved && c->fault.error != (PF_P | PF_RSV)))
		fail_msg("%s: level %u bit %u: error %#x", m->name, level, bit, c->fault.error);
}

static void test_reserved_bits(void **state)
{
	unsigned phys = f->vm->cpuid.phys_bits;

	for (unsigned i = 0; i < ARRAY_SIZE(forms); i++) {
		const struct form *m = &forms[i];

		if (!m->pae)
			continue;
		enter(m, &kernel);
		for (unsigned bit = phys; bit < (m->is_long ? 52 : 63); bit++)
			check_reserved(m, m->leaf, bit, true);
		if (m->is_long)
			check_reserved(m, m->leaf, 52, false);
		for (unsigned bit = 13; m->leaf > 1 && bit < (m->leaf == 2 ? 21 : 30); bit++)
			check_reserved(m, m->leaf, bit, true);
		if (m->leaf > 1)
			check_reserved(m, m->leaf, 12, false); /* PAT */
		if (m->is_long)
			check_reserved(m, 4, 7, true);
	}
	enter(&forms[6], &kernel);
	check_reserved(&forms[6], 2, 21, true);
}

/* PSE-36: bits 20:13 are bits 39:32 of the address, where there is no RAM here. */
static void test_pse36(void **state)
{
	const struct form *m = &forms[6];
	uint64_t gpa;

	enter(m, &kernel);
	map(m, ALL, ALL | 3u << 13);
	assert_int_equal(mmu_translate(c, VA, &gpa), 0);
	assert_int_equal(gpa, 3ull << 32 | PA);
}

static void test_pdptes(void **state)
{
	const struct form *m = &forms[3];

	enter(m, &kernel);
	map(m, ALL, ALL);
	mmu_switch(c, true);
	assert_true(mmu_pdptes_valid(c, c->s.cr3));
	put(m, 3, get(m, 3) | PTE_W); /* reserved there */
	assert_false(mmu_pdptes_valid(c, c->s.cr3));
	assert_false(mmu_pdptes_valid(c, FLAT_RAM));
	/* They are read when CR3 is loaded, and not again. */
	put(m, 3, 0);
	mmu_flush_page(c, VA);
	assert_true(access(MMU_READ, VA));
	mmu_flush_context(c);
	assert_false(access(MMU_READ, VA));
}

static void test_no_paging(void **state)
{
	flat_reset(f, MODE_32);
	assert_true(access(MMU_WRITE, PA));
	assert_true(access(MMU_EXEC, PA));
	assert_int_equal(load_u32(f->ram + PA), 0xfeedf00d);
}

/* A page table where there is no RAM reads as ones. */
static void test_tables_outside_ram(void **state)
{
	const struct form *m = &forms[0];

	enter(m, &kernel);
	map(m, ALL, ALL);
	put(m, 2, GIB(1) | ALL);
	assert_false(access(MMU_READ, VA));
	assert_int_equal(c->fault.error, PF_P | PF_RSV);
	c->s.cr3 = GIB(2);
	mmu_flush_context(c);
	assert_false(access(MMU_READ, VA));
}

static void test_non_canonical(void **state)
{
	enter(&forms[0], &kernel);
	assert_false(access(MMU_READ, 0x800000000000ull));
	assert_int_equal(c->fault.vector, EXC_GP);
	assert_false(access(MMU_READ, 0x7ffffffffffeull));
}

/* --- the TLB ---------------------------------------------------------------------------- */

static void remap(const struct form *m, uint32_t pa)
{
	put(m, m->leaf, pa | ALL | (m->leaf > 1 ? PTE_PS : 0));
}

static uint32_t word_at(uint64_t gva)
{
	uint32_t v = 0;

	c->fault.pending = false;
	assert_true(mmu_read_u32(c, gva, &v));
	return v;
}

static void start_tlb(const struct form *m)
{
	enter(m, &kernel);
	map(m, ALL, ALL);
	mmu_flush_all(c);
	store_u32(f->ram + PA, 1);
	store_u32(f->ram + OTHER, 2);
	assert_int_equal(word_at(VA), 1);
}

static void test_invlpg(void **state)
{
	start_tlb(&forms[0]);
	remap(&forms[0], OTHER);
	assert_int_equal(word_at(VA), 1); /* stale, as it may be */
	mmu_flush_page(c, VA + 0x1000);
	assert_int_equal(word_at(VA), 1);
	mmu_flush_page(c, VA + 0xfff);
	assert_int_equal(word_at(VA), 2);
}

static void check_large_invlpg(const struct form *m, uint64_t bytes)
{
	uint64_t first = VA & ~(bytes - 1);

	start_tlb(m);
	word_at(VA + 0x3000);
	put(m, m->leaf, get(m, m->leaf) & ~PTE_P);
	mmu_flush_page(c, first + bytes - 1);
	assert_false(access(MMU_READ, VA));
	assert_false(access(MMU_READ, VA + 0x3000));
}

static void test_invlpg_drops_large_pages(void **state)
{
	check_large_invlpg(&forms[1], MIB(2));
	check_large_invlpg(&forms[2], GIB(1));
	check_large_invlpg(&forms[6], MIB(4));
}

static void test_cr3(void **state)
{
	start_tlb(&forms[0]);
	remap(&forms[0], OTHER);
	mmu_flush_context(c);
	assert_int_equal(word_at(VA), 2);
}

static void set_pcid(unsigned pcid, bool keep)
{
	c->s.cr3 = (c->s.cr3 & ~0xfffull) | pcid;
	if (keep)
		mmu_switch(c, false);
	else
		mmu_flush_context(c);
}

static void test_pcid(void **state)
{
	start_tlb(&forms[0]);
	c->s.cr4 |= CR4_PCIDE;
	mmu_switch(c, true);
	set_pcid(5, false);
	assert_int_equal(word_at(VA), 1);
	remap(&forms[0], OTHER);
	set_pcid(6, false); /* another address space: walks */
	assert_int_equal(word_at(VA), 2);
	remap(&forms[0], PA);
	set_pcid(6, true);
	assert_int_equal(word_at(VA), 2); /* kept */
	set_pcid(6, false);
	assert_int_equal(word_at(VA), 1);
}

static void test_invpcid(void **state)
{
	start_tlb(&forms[0]);
	c->s.cr4 |= CR4_PCIDE;
	mmu_switch(c, true);
	for (unsigned type = 0; type < 4; type++) {
		set_pcid(7, false);
		remap(&forms[0], PA);
		mmu_flush_page(c, VA);
		assert_int_equal(word_at(VA), 1);
		remap(&forms[0], OTHER);
		set_pcid(8, true);
		mmu_invpcid(c, type, 7, VA);
		set_pcid(7, true);
		assert_int_equal(word_at(VA), 2);
	}
}

/* A table gives way to another, which no page that the TLB has tells. */
static void test_tables_are_forgotten(void **state)
{
	const struct form *m = &forms[0];
	uint32_t old = entry_at(m, 1) & ~0xfffu, new = TABLES + 0x8000, next = entry_at(m, 1) + 8;

	for (int how = -1; how < 8; how++) {
		start_tlb(m);
		c->s.cr4 |= CR4_PCIDE;
		mmu_switch(c, true);
		set_pcid(5, false);
		assert_int_equal(word_at(VA), 1);
		store_u64(f->ram + next, PA | ALL);
		store_u64(f->ram + new + (next - old), OTHER | ALL);
		put(m, 2, new | ALL);
		if (how >= 0 && how < 4)
			mmu_invpcid(c, (unsigned)how, 5, 0x1000);
		else if (how == 4)
			mmu_flush_page(c, 0x1000);
		else if (how == 5)
			mmu_flush_context(c);
		else if (how == 6)
			mmu_flush_all(c);
		else if (how == 7)
			set_pcid(6, true); /* another address space */
		assert_int_equal(word_at(VA + 0x1000), how < 0 ? 1 : 2);
	}
}

/* More flushes than there are contexts: nothing comes back to life. */
static void test_contexts_wrap(void **state)
{
	start_tlb(&forms[0]);
	for (unsigned i = 0; i < 5000; i++) {
		bool odd = i & 1;

		remap(&forms[0], odd ? OTHER : PA);
		if (i % 7)
			mmu_flush_context(c);
		else
			mmu_flush_all(c);
		assert_int_equal(word_at(VA), odd ? 2 : 1);
	}
}

static void test_privilege_is_tagged(void **state)
{
	struct env e = user;

	enter(&forms[0], &kernel);
	map(&forms[0], ALL, PTE_P | PTE_W);
	mmu_flush_all(c);
	assert_true(access(MMU_READ, VA));
	c->s.seg[SEG_SS].attr |= SEG_DPL;
	cpu_update_mode(c);
	assert_int_equal(c->cpl, 3);
	assert_false(access(MMU_READ, VA));
	assert_int_equal(c->fault.error, PF_P | PF_U);
	/* System structures are the kernel's whatever the CPL. */
	assert_true(mmu_sys_read(c, VA, &(uint32_t){ 0 }, 4));
	e.user = false;
	e.smap = true;
	enter(&forms[0], &e);
}

/* Program and kernel take turns on a page: what one found makes room for the other's. */
static void set_user(bool on)
{
	c->s.seg[SEG_SS].attr = (c->s.seg[SEG_SS].attr & ~(uint32_t)SEG_DPL) | (on ? SEG_DPL : 0);
	cpu_update_mode(c);
}

static void take_turns(uint32_t expected)
{
	for (unsigned i = 0; i < 6; i++) {
		set_user(i & 1);
		assert_int_equal(word_at(VA), expected);
	}
	set_user(false);
}

static uint64_t walks(void)
{
	return atomic_load(&c->vcpu->stats.count[STAT_TLB_MISSES]);
}

static void test_victims(void **state)
{
	const struct form *m = &forms[0];
	uint64_t before;

	start_tlb(m);
	c->s.cr4 |= CR4_PCIDE;
	mmu_switch(c, true);
	take_turns(1);
	before = walks();
	take_turns(1);
	assert_int_equal(walks(), before);

	remap(m, OTHER);
	take_turns(1); /* stale, as it may be */
	mmu_flush_page(c, VA);
	take_turns(2);
	remap(m, PA);
	set_pcid(0, false);
	take_turns(1);
	remap(m, OTHER);
	mmu_flush_all(c);
	take_turns(2);

	/* The kernel's view is not global: another address space has its own. */
	remap(m, PA);
	set_pcid(9, true);
	take_turns(1);
	remap(m, OTHER);
	set_pcid(10, true);
	take_turns(2);
	set_pcid(9, true);
	set_user(true);
	assert_int_equal(word_at(VA), 1); /* kept */
	set_user(false);
	assert_int_equal(word_at(VA), 2); /* not that */
}

/* A page that has become code is not written to directly by those who come back, either. */
static void test_victims_lose_writes(void **state)
{
	start_tlb(&forms[0]);
	assert_true(access(MMU_WRITE, VA));
	assert_int_equal(tlb_slot(c, VA)->write, tlb_key(c, VA, 4));
	set_user(true);
	assert_true(access(MMU_READ, VA));
	mmu_downgrade_page(c, PA);
	set_user(false);
	assert_true(access(MMU_READ, VA));
	assert_int_equal(tlb_slot(c, VA)->write, TLB_INVALID);
	assert_true(access(MMU_WRITE, VA));
	set_user(true);
	assert_true(access(MMU_READ, VA));
	codemap_mark(c, PA, 4);
	mmu_downgrade_code(c);
	set_user(false);
	assert_true(access(MMU_READ, VA));
	assert_int_equal(tlb_slot(c, VA)->write, TLB_INVALID);
}

/* A large page is flushed with all that stands in for it. */
static void test_victims_of_large_pages(void **state)
{
	const struct form *m = &forms[1];

	start_tlb(m);
	take_turns(1);
	put(m, m->leaf, get(m, m->leaf) & ~PTE_P);
	mmu_flush_page(c, (VA & ~(MIB(2) - 1)) + MIB(2) - 1);
	for (unsigned i = 0; i < 2; i++) {
		set_user(i & 1);
		assert_false(access(MMU_READ, VA));
	}
	set_user(false);
}

/* Reads leave no right to write behind: the dirty flag must be set by the first write. */
static void test_dirty_after_read(void **state)
{
	start_tlb(&forms[0]);
	assert_false(get(&forms[0], 1) & PTE_D);
	assert_true(access(MMU_WRITE, VA));
	assert_true(get(&forms[0], 1) & PTE_D);
}

/* --- crossings, devices, alignment ---------------------------------------------------------- */

static void test_crossing(void **state)
{
	const struct form *m = &forms[0];
	uint64_t v = 0x1122334455667788ull, end = VA + 0xffc;

	enter(m, &kernel);
	map(m, ALL, ALL);
	store_u64(f->ram + entry_at(m, 1) + 8, OTHER | ALL);
	mmu_flush_all(c);
	assert_true(mmu_write_u64(c, end, v));
	assert_int_equal(load_u32(f->ram + PA + 0xffc), 0x55667788);
	assert_int_equal(load_u32(f->ram + OTHER), 0x11223344);
	v = 0;
	assert_true(mmu_read_u64(c, end, &v));
	assert_int_equal(v, 0x1122334455667788ull);
	assert_null(mmu_rmw(c, end, 8));
	assert_false(c->fault.pending);
}

/* The second page refuses: the first has not been touched. */
static void test_crossing_fault(void **state)
{
	const struct form *m = &forms[0];

	enter(m, &kernel);
	map(m, ALL, ALL);
	store_u64(f->ram + entry_at(m, 1) + 8, OTHER | PTE_P);
	mmu_flush_all(c);
	store_u32(f->ram + PA + 0xffc, 7);
	assert_false(mmu_write_u64(c, VA + 0xffc, 0));
	assert_int_equal(c->fault.payload, VA + 0x1000);
	assert_int_equal(c->fault.error, PF_P | PF_W);
	assert_int_equal(load_u32(f->ram + PA + 0xffc), 7);
	c->fault.pending = false;
	assert_null(mmu_rmw(c, VA + 0xffc, 8));
	assert_int_equal(c->fault.error, PF_P | PF_W);
}

static void test_devices(void **state)
{
	uint64_t before = stat_get(&f->vcpu->stats, STAT_MMIO);
	uint64_t v = 0, gpa;

	flat_reset(f, MODE_32);
	assert_true(mmu_read_u64(c, 0xd0000000, &v));
	assert_true(v == UINT64_MAX);
	assert_true(mmu_write_u32(c, 0xd0000000, 0));
	assert_true(mmu_read_u32(c, 0xd0000001, (uint32_t *)&v)); /* split: 1, 2, 1 */
	assert_int_equal(stat_get(&f->vcpu->stats, STAT_MMIO) - before, 5);
	assert_int_equal(stat_get(&f->vcpu->stats, STAT_BAD_ACCESSES), 5);
	assert_null(mmu_rmw(c, 0xd0000000, 4));
	assert_false(c->fault.pending);
	assert_null(mmu_fetch(c, 0xd0000000, &gpa));
	assert_int_equal(c->fault.vector, EXC_UD);
}

static void test_local_apic_page(void **state)
{
	uint32_t v = 0;

	flat_reset(f, MODE_32);
	assert_true(mmu_read_u32(c, 0xfee00030, &v));
	assert_int_equal(v & 0xff, 0x14);
	assert_true(mmu_write_u32(c, 0xfee00080, 0x50));
	assert_true(mmu_read_u32(c, 0xfee00080, &v));
	assert_int_equal(v, 0x50);
}

static void test_alignment_check(void **state)
{
	struct env e = user;
	uint64_t v;

	e.ac = true;
	enter(&forms[0], &e);
	map(&forms[0], ALL, ALL);
	assert_true(mmu_read_u64(c, VA + 1, &v)); /* CR0.AM is clear */
	c->s.cr0 |= CR0_AM;
	cpu_update_mode(c);
	assert_true(mmu_read_u64(c, VA, &v));
	assert_false(mmu_read_u64(c, VA + 4, &v));
	assert_int_equal(c->fault.vector, EXC_AC);
	assert_int_equal(c->fault.error, 0);
	c->fault.pending = false;
	assert_false(mmu_write_u32(c, VA + 2, 0));
	c->fault.pending = false;
	assert_true(access(MMU_EXEC, VA + 1));
}

/* --- segments ----------------------------------------------------------------------------------
 */

static bool linear(unsigned seg, uint64_t off, unsigned bytes, enum mmu_access a, uint64_t *gva)
{
	c->fault.pending = false;
	return mmu_linear(c, seg, off, bytes, a, gva);
}

static void test_segment_limits(void **state)
{
	struct segment *ds;
	uint64_t gva;

	flat_reset(f, MODE_32);
	ds = &c->s.seg[SEG_DS];
	ds->base = 0xfffff000;
	ds->limit = 0xfff;
	assert_true(linear(SEG_DS, 0xffc, 4, MMU_READ, &gva));
	assert_int_equal(gva, 0xfffffffc);
	assert_false(linear(SEG_DS, 0xffd, 4, MMU_READ, &gva));
	assert_int_equal(c->fault.vector, EXC_GP);
	ds->limit = UINT32_MAX;
	assert_true(linear(SEG_DS, 0x2000, 4, MMU_READ, &gva));
	assert_int_equal(gva, 0x1000);                              /* addresses wrap at 4 GiB */
	assert_true(linear(SEG_DS, 0xfffffffd, 4, MMU_READ, &gva)); /* and so do accesses */

	ds->attr |= 4; /* expand-down: above the limit */
	ds->limit = 0xfff;
	assert_false(linear(SEG_DS, 0xfff, 1, MMU_READ, &gva));
	assert_true(linear(SEG_DS, 0x1000, 1, MMU_READ, &gva));
	ds->attr &= ~(uint32_t)SEG_DB;
	assert_false(linear(SEG_DS, 0xffff, 2, MMU_READ, &gva));

	c->s.seg[SEG_SS].limit = 0xff;
	assert_false(linear(SEG_SS, 0xfd, 4, MMU_WRITE, &gva));
	assert_int_equal(c->fault.vector, EXC_SS);
}

static void test_segment_types(void **state)
{
	uint64_t gva;

	flat_reset(f, MODE_32);
	assert_true(linear(SEG_CS, 0, 1, MMU_READ, &gva));
	assert_false(linear(SEG_CS, 0, 1, MMU_WRITE, &gva));
	c->s.seg[SEG_CS].attr &= ~2u; /* execute-only */
	assert_false(linear(SEG_CS, 0, 1, MMU_READ, &gva));
	c->s.seg[SEG_DS].attr &= ~2u; /* read-only */
	assert_true(linear(SEG_DS, 0, 1, MMU_READ, &gva));
	assert_false(linear(SEG_DS, 0, 1, MMU_WRITE, &gva));
	c->s.seg[SEG_ES].attr = SEG_UNUSABLE;
	assert_false(linear(SEG_ES, 0, 1, MMU_READ, &gva));
}

static void test_long_mode_segments(void **state)
{
	uint64_t gva;

	flat_reset(f, MODE_64);
	c->s.seg[SEG_DS].base = 0x1000;
	c->s.seg[SEG_FS].base = 0x1000;
	assert_true(linear(SEG_DS, 5, 4, MMU_READ, &gva));
	assert_int_equal(gva, 5);
	assert_true(linear(SEG_FS, 5, 4, MMU_READ, &gva));
	assert_int_equal(gva, 0x1005);
	assert_false(linear(SEG_DS, 0x7ffffffffffd, 4, MMU_READ, &gva));
	assert_int_equal(c->fault.vector, EXC_GP);
	assert_false(linear(SEG_SS, 1ull << 47, 4, MMU_READ, &gva));
	assert_int_equal(c->fault.vector, EXC_SS);
}

#define T(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_rights),
		T(test_not_present),
		T(test_reserved_bits),
		T(test_pse36),
		T(test_pdptes),
		T(test_no_paging),
		T(test_tables_outside_ram),
		T(test_non_canonical),
		T(test_invlpg),
		T(test_invlpg_drops_large_pages),
		T(test_cr3),
		T(test_pcid),
		T(test_invpcid),
		T(test_tables_are_forgotten),
		T(test_contexts_wrap),
		T(test_privilege_is_tagged),
		T(test_victims),
		T(test_victims_lose_writes),
		T(test_victims_of_large_pages),
		T(test_dirty_after_read),
		T(test_crossing),
		T(test_crossing_fault),
		T(test_devices),
		T(test_local_apic_page),
		T(test_alignment_check),
		T(test_segment_limits),
		T(test_segment_types),
		T(test_long_mode_segments),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
