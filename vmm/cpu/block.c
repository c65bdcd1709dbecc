/*
 * block.c - the cache of decoded blocks; see block.h. Called by the run loop.
 */
#include "cpu/block.h"

#include "cpu/stub.h"

#include <errno.h>

#define ARENA_BYTES MIB(8)
#define HASH_BITS   14
#define HASH_SIZE   (1u << HASH_BITS)

/* Unknown instructions are named in the log, this many of them a vCPU. */
#define NAMED_MAX 16

struct block_cache {
	uint8_t *arena;
	size_t used;
	unsigned epoch;
	unsigned nr_named;
	uint32_t named[NAMED_MAX]; /* first bytes of what has been named */
	struct decoder decoder[DECODE_KEYS];
	struct decoding decoding;
	struct op prefix[BLOCK_OPS + 1];
	struct op building[BLOCK_OPS + 1];
	struct block *hash[HASH_SIZE];
	struct block nowhere; /* what a link leads to before it is made */
};

int block_cache_create(struct cpu *c, int host_node)
{
	const struct host *h = &c->vm->host;
	struct block_cache *k = h->ops->alloc(h->ctx, sizeof(*k), host_node);
	unsigned key;

	if (!k)
		return -ENOMEM;
	k->arena = h->ops->alloc(h->ctx, ARENA_BYTES, host_node);
	if (!k->arena) {
		h->ops->free(h->ctx, k, sizeof(*k));
		return -ENOMEM;
	}
	for (key = 0; key < DECODE_KEYS; key++)
		decoder_init(&k->decoder[key], key, &c->vm->cpuid);
	c->blocks = k;
	return 0;
}

void block_cache_destroy(struct cpu *c)
{
	const struct host *h = &c->vm->host;
	struct block_cache *k = c->blocks;

	if (!k)
		return;
	h->ops->free(h->ctx, k->arena, ARENA_BYTES);
	h->ops->free(h->ctx, k, sizeof(*k));
	c->blocks = NULL;
}

void block_cache_flush(struct cpu *c)
{
	struct block_cache *k = c->blocks;

	memset(k->hash, 0, sizeof(k->hash));
	k->used = 0;
	k->epoch++;
	stub_flush(c);
}

unsigned block_cache_epoch(const struct cpu *c)
{
	return c->blocks->epoch;
}

/* --- storing and finding ------------------------------------------------------------- */

static struct block **bucket(struct block_cache *k, uint64_t hva)
{
	uint64_t h = hva ^ hva >> HASH_BITS;

	return &k->hash[h & (HASH_SIZE - 1)];
}

static size_t block_bytes(unsigned nr_ops)
{
	return ALIGN_UP(sizeof(struct block) + nr_ops * sizeof(struct op), 16);
}

/* Before anything is decoded: afterwards stubs of this block exist. */
static void make_room(struct cpu *c)
{
	if (c->blocks->used + block_bytes(BLOCK_OPS + 1) > ARENA_BYTES || stub_low(c))
		block_cache_flush(c);
}

/* @nr_ops: all of building[], its end included. */
static struct block *block_store(struct block_cache *k, const struct block *head, unsigned nr_ops)
{
	struct block *b = (struct block *)(k->arena + k->used), **list = bucket(k, head->hva);
	unsigned edge;

	k->used += block_bytes(nr_ops);
	*b = *head;
	memcpy(b->ops, k->building, nr_ops * sizeof(struct op));
	for (edge = 0; edge < EDGES; edge++)
		b->next[edge] = &k->nowhere;
	b->hash_next = *list;
	*list = b;
	return b;
}

/* Blocks that have died are dropped on the way. */
static struct block *block_find(struct block_cache *k, uint64_t hva, enum decode_key key)
{
	struct block **p = bucket(k, hva);

	while (*p) {
		struct block *b = *p;

		if (b->hva != hva || b->key != key) {
			p = &b->hash_next;
		} else if (block_alive(b)) {
			return b;
		} else {
			*p = b->hash_next;
		}
	}
	return NULL;
}

/* --- decoding ------------------------------------------------------------------------- */

/* Guests may be writing: each byte is read once. */
static void copy_code(uint8_t *to, uint64_t hva, unsigned bytes)
{
	unsigned i;

	for (i = 0; i < bytes; i++)
		to[i] = gmem_load_u8((const void *)(hva + i));
}

static void name_unknown(struct cpu *c, const uint8_t *bytes)
{
	struct block_cache *k = c->blocks;
	uint32_t first = load_u32(bytes);
	unsigned i;

	for (i = 0; i < k->nr_named; i++)
		if (k->named[i] == first)
			return;
	if (k->nr_named == NAMED_MAX)
		return;
	k->named[k->nr_named++] = first;
	vcpu_log(c->vcpu, LOG_INFO, "no such instruction: %02x %02x %02x %02x at %#llx", bytes[0],
		 bytes[1], bytes[2], bytes[3], (unsigned long long)c->s.rip);
}

static enum decode_result decode_at(struct cpu *c, struct op *o, const uint8_t *bytes, unsigned n,
				    unsigned off)
{
	struct block_cache *k = c->blocks;
	struct decoding *d = &k->decoding;

	d->cpu = c;
	d->op = o;
	return decode_insn(d, &k->decoder[decode_key_of(c)], bytes, n, off);
}

static struct op end_at(unsigned off)
{
	return (struct op){ .fn = op_end, .off = (uint16_t)off };
}

static uint64_t second_page(const struct cpu *c, uint64_t gva)
{
	uint64_t next = (gva & PAGE_MASK) + PAGE_SIZE;

	return c->mode == MODE_64 ? next : (uint32_t)next;
}

/* One instruction at the end of its page that needs bytes of the next. NULL: fault there. */
static struct block *build_crossing(struct cpu *c, const struct block *head, uint64_t gva,
				    uint64_t gpa)
{
	unsigned first = (unsigned)(PAGE_SIZE - (gva & ~PAGE_MASK)), rest = INSN_BYTES_MAX - first;
	uint8_t bytes[INSN_BYTES_MAX];
	struct block b = *head;
	uint64_t gpa2;
	const uint8_t *hva2 = mmu_fetch(c, second_page(c, gva), &gpa2);
	unsigned nr_ops = 1;

	if (!hva2)
		return NULL;
	b.second_hva = (uint64_t)(uintptr_t)hva2;
	b.second_version_now = codemap_version(c->codemap, gpa2);
	b.second_version = codemap_mark(c, gpa2 & PAGE_MASK, rest);
	b.version = codemap_mark(c, gpa, first);
	copy_code(bytes, b.hva, first);
	copy_code(bytes + first, b.second_hva, rest);

	if (decode_at(c, c->blocks->building, bytes, INSN_BYTES_MAX,
		      (unsigned)(gva & ~PAGE_MASK)) == DECODE_BAD)
		name_unknown(c, bytes);
	b.nr_ops = 1;
	b.bytes = c->blocks->building[0].len;
	if (!c->blocks->decoding.ends_block)
		c->blocks->building[nr_ops++] = end_at((unsigned)(gva & ~PAGE_MASK) + b.bytes);
	return block_store(c->blocks, &b, nr_ops);
}

/*
 * The next instruction of a block; true: another one may follow. The version of the
 * first one's bytes holds for all: were it to change, the block would be dead.
 * What is no instruction begins a block, so that no other's fault comes late.
 */
static bool build_one(struct cpu *c, struct block *b, uint64_t page_gpa, bool *ended)
{
	struct op *o = &c->blocks->building[b->nr_ops];
	unsigned off = (unsigned)(b->hva & ~PAGE_MASK) + b->bytes;
	unsigned n = (unsigned)MIN(PAGE_SIZE - off, (uint64_t)INSN_BYTES_MAX);
	uint32_t version = codemap_mark(c, page_gpa + off, n);
	uint8_t bytes[INSN_BYTES_MAX] = { 0 };
	enum decode_result r;

	if (!b->nr_ops)
		b->version = version;
	copy_code(bytes, b->hva + b->bytes, n);
	r = decode_at(c, o, bytes, n, off);
	if (r == DECODE_SHORT || (r != DECODE_OK && b->nr_ops))
		return false;
	if (r == DECODE_BAD)
		name_unknown(c, bytes);
	b->nr_ops++;
	b->bytes = (uint16_t)(b->bytes + o->len);
	*ended = c->blocks->decoding.ends_block;
	return !*ended && b->nr_ops < BLOCK_OPS && off + o->len < PAGE_SIZE;
}

static struct block *block_build(struct cpu *c, uint64_t gva, uint64_t hva, uint64_t page_gpa)
{
	unsigned off = (unsigned)(gva & ~PAGE_MASK), nr_ops;
	struct block b = {
		.hva = hva,
		.key = (uint8_t)decode_key_of(c),
		.page_version = codemap_version(c->codemap, page_gpa),
	};
	bool ended = false;

	make_room(c);
	stat_add(&c->vcpu->stats, STAT_DECODES, 1);
	while (build_one(c, &b, page_gpa, &ended))
		;
	if (!b.nr_ops)
		return build_crossing(c, &b, gva, page_gpa + off);
	nr_ops = b.nr_ops;
	if (!ended)
		c->blocks->building[nr_ops++] = end_at(off + b.bytes);
	return block_store(c->blocks, &b, nr_ops);
}

/* --- the block at RIP --------------------------------------------------------------------- */

static uint64_t linear_rip(const struct cpu *c)
{
	if (c->mode == MODE_64)
		return c->s.rip;
	return (uint32_t)(c->s.seg[SEG_CS].base + c->s.rip);
}

/* The second page may be mapped elsewhere now, or nowhere. 0: fault; -1: not this block. */
static int second_matches(struct cpu *c, const struct block *b, uint64_t gva)
{
	uint64_t gpa;
	const uint8_t *hva = mmu_fetch(c, second_page(c, gva), &gpa);

	if (!hva)
		return 0;
	return (uint64_t)(uintptr_t)hva == b->second_hva &&
			       atomic_load(b->second_version_now) == b->second_version
		       ? 1
		       : -1;
}

static void block_drop(struct block_cache *k, struct block *b)
{
	struct block **p = bucket(k, b->hva);

	while (*p != b)
		p = &(*p)->hash_next;
	*p = b->hash_next;
}

static struct block *block_checked(struct cpu *c, struct block *b, uint64_t gva)
{
	int match = b->second_hva ? second_matches(c, b, gva) : 1;

	if (match < 0)
		block_drop(c->blocks, b);
	return match > 0 ? b : NULL;
}

struct block *block_get(struct cpu *c)
{
	uint64_t gva = linear_rip(c), gpa, hva;
	const struct tlb_entry *e = tlb_slot(c, gva);
	const uint8_t *page;
	struct block *b;

	if (c->mode != MODE_64 && c->s.rip > c->s.seg[SEG_CS].limit) {
		cpu_raise_error(c, EXC_GP, 0);
		return NULL;
	}
	if (likely(e->exec == tlb_key(c, gva, 1))) {
		b = block_find(c->blocks, gva + e->addend, decode_key_of(c));
		if (likely(b && !b->second_hva))
			return b;
	}
	page = mmu_fetch(c, gva, &gpa);
	if (!page)
		return NULL;
	hva = (uint64_t)(uintptr_t)page + (gva & ~PAGE_MASK);
	b = block_find(c->blocks, hva, decode_key_of(c));
	if (b)
		b = block_checked(c, b, gva);
	if (b || c->fault.pending)
		return b;
	return block_build(c, gva, hva, gpa & PAGE_MASK);
}

unsigned block_runnable(const struct cpu *c, const struct block *b)
{
	uint64_t room = (uint64_t)c->s.seg[SEG_CS].limit + 1 - c->s.rip;
	unsigned n = 0, bytes = 0;

	if (c->mode == MODE_64 || b->bytes <= room)
		return b->nr_ops;
	while (n < b->nr_ops && bytes + b->ops[n].len <= room)
		bytes += b->ops[n++].len;
	return n;
}

const struct op *block_prefix(struct cpu *c, const struct block *b, unsigned n)
{
	struct op *p = c->blocks->prefix;

	if (n == b->nr_ops)
		return b->ops;
	memcpy(p, b->ops, n * sizeof(*p));
	p[n] = end_at(b->ops[n].off);
	return p;
}
