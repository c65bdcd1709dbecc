/*
 * xcache.c - a guest node's code cache; see xcache.h. Called by the threads of its vCPUs.
 * No locks.
 */
#include "cpu/xcache.h"

#include "cpu/xlat_int.h"

#include <errno.h>

#define CHUNK_BYTES   KIB(16)
/* Few blocks make less than 256 bytes, marks and all; most make several times that. */
#define CHUNK_RECORDS 64u
/* Chunks that are taken at once: few where there are few, lest most of them stand half empty. */
#define RUN_CHUNKS    4u
#define RUNS_MIN      32u
#define BLOCK_ALIGN   16
#define SPACES_MAX    4u

/* A run of chunks is one vCPU's, and its blocks and their records stand there in order. */
struct chunk {
	_Atomic uint32_t first;     /* of the run that it is in */
	_Atomic uint32_t nr_blocks; /* of the run, if it is the first: complete ones */
};

struct space {
	_Atomic uint32_t *bucket; /* number of a block + 1; 0: none */
	_Atomic uint32_t taken;   /* chunks */
};

struct seat {
	_Atomic uint64_t epoch __cacheline; /* 0: in none */
	struct vcpu *vcpu;                  /* set before it is first in one */
};

struct xcache {
	/* Constant. */
	const struct host *host;
	int host_node;
	struct host_code code;
	uint8_t *chunks;               /* the first one, as it is written */
	unsigned nr_spaces, nr_chunks; /* chunks of a space */
	unsigned run_chunks;
	unsigned nr_buckets;  /* a power of two */
	struct xblock *block; /* chunk after chunk */
	struct chunk *chunk;  /* the owner of a run writes */
	unsigned nr_seats;

	_Atomic uint64_t epoch __cacheline; /* only who holds `turning` changes it */
	_Atomic bool turning;
	struct space space[SPACES_MAX]; /* by epoch, in turns */
	struct seat seat[];
};

/* --- life ------------------------------------------------------------------------- */

static unsigned all_chunks(const struct xcache *k)
{
	return k->nr_spaces * k->nr_chunks;
}

static size_t records_bytes(const struct xcache *k)
{
	return (size_t)all_chunks(k) * CHUNK_RECORDS * sizeof(*k->block);
}

static size_t cache_bytes(unsigned seats)
{
	return sizeof(struct xcache) + seats * sizeof(struct seat);
}

static void *node_alloc(const struct xcache *k, size_t bytes)
{
	return k->host->ops->alloc(k->host->ctx, bytes, k->host_node);
}

static void node_free(const struct xcache *k, void *p, size_t bytes)
{
	if (p)
		k->host->ops->free(k->host->ctx, p, bytes);
}

/* How the memory is cut up. */
static int plan_space(struct xcache *k, const struct xcache_config *cfg)
{
	size_t fixed = ALIGN_UP(cfg->fixed_bytes, PAGE_SIZE);

	k->nr_spaces = cfg->spaces;
	if (cfg->bytes > fixed)
		k->nr_chunks = (unsigned)((cfg->bytes - fixed) / k->nr_spaces / CHUNK_BYTES);
	if (k->nr_chunks * CHUNK_BYTES < cfg->block_bytes)
		return -EINVAL;
	k->run_chunks = MAX(1, MIN(RUN_CHUNKS, k->nr_chunks / RUNS_MIN));
	k->nr_buckets = 1;
	while (k->nr_buckets < k->nr_chunks * CHUNK_RECORDS)
		k->nr_buckets *= 2;
	return 0;
}

static int alloc_parts(struct xcache *k, const struct xcache_config *cfg)
{
	const struct host *h = k->host;
	int err = h->ops->code_map(h->ctx, cfg->bytes, cfg->host_node, &k->code);

	if (err)
		return err;
	k->chunks = k->code.rw + ALIGN_UP(cfg->fixed_bytes, PAGE_SIZE);
	k->block = node_alloc(k, records_bytes(k));
	k->chunk = node_alloc(k, all_chunks(k) * sizeof(*k->chunk));
	if (!k->block || !k->chunk)
		return -ENOMEM;
	for (unsigned i = 0; i < k->nr_spaces; i++) {
		k->space[i].bucket = node_alloc(k, k->nr_buckets * sizeof(_Atomic uint32_t));
		if (!k->space[i].bucket)
			return -ENOMEM;
	}
	return 0;
}

int xcache_create(const struct host *h, const struct xcache_config *cfg, struct xcache **out)
{
	struct xcache *k = h->ops->alloc(h->ctx, cache_bytes(cfg->seats), cfg->host_node);
	int err;

	if (!k)
		return -ENOMEM;
	k->host = h;
	k->host_node = cfg->host_node;
	k->nr_seats = cfg->seats;
	atomic_init(&k->epoch, SPACES_MAX);
	err = plan_space(k, cfg);
	if (!err)
		err = alloc_parts(k, cfg);
	if (err) {
		xcache_destroy(k);
		return err;
	}
	*out = k;
	return 0;
}

void xcache_destroy(struct xcache *k)
{
	if (!k)
		return;
	for (unsigned i = 0; i < k->nr_spaces; i++)
		node_free(k, (void *)k->space[i].bucket, k->nr_buckets * sizeof(_Atomic uint32_t));
	node_free(k, k->chunk, all_chunks(k) * sizeof(*k->chunk));
	node_free(k, k->block, records_bytes(k));
	if (k->code.rw)
		k->host->ops->code_unmap(k->host->ctx, &k->code);
	node_free(k, k, cache_bytes(k->nr_seats));
}

const struct host_code *xcache_code(const struct xcache *k)
{
	return &k->code;
}

/* --- epochs ------------------------------------------------------------------------ */

void xcache_sit(struct xcache *k, unsigned i, struct vcpu *v, struct xseat *s)
{
	k->seat[i].vcpu = v;
	*s = (struct xseat){ .cache = k, .announced = &k->seat[i].epoch };
}

static void drop_run(struct xseat *s)
{
	s->next = s->end = NULL;
	s->number = s->numbers_end = s->run = 0;
}

bool xcache_join(struct xseat *s)
{
	uint64_t now = atomic_load_explicit(&s->cache->epoch, memory_order_acquire);

	if (likely(s->epoch == now))
		return false;
	do {
		s->epoch = now;
		atomic_store(s->announced, now); /* pairs with all_came_by() */
		now = atomic_load(&s->cache->epoch);
	} while (s->epoch != now);
	if (s->last == now)
		return false;
	s->last = now;
	drop_run(s);
	return true;
}

void xcache_leave(struct xseat *s)
{
	s->epoch = 0;
	atomic_store_explicit(s->announced, 0, memory_order_release);
}

bool xcache_is_current(const struct xseat *s)
{
	return s->epoch == atomic_load_explicit(&s->cache->epoch, memory_order_relaxed);
}

void xcache_check(struct xseat *s)
{
	if (s->epoch && !xcache_is_current(s))
		xcache_leave(s);
}

static struct space *space_of(struct xcache *k, uint64_t epoch)
{
	return &k->space[epoch % k->nr_spaces];
}

/* Is everybody in the epoch of @s, or in none? */
static bool all_came_by(struct xcache *k, const struct xseat *s)
{
	for (unsigned i = 0; i < k->nr_seats; i++) {
		uint64_t e = atomic_load(&k->seat[i].epoch); /* pairs with xcache_join() */

		if (e && e != s->epoch)
			return false;
	}
	return true;
}

static void empty(struct xcache *k, uint64_t epoch)
{
	struct space *p = space_of(k, epoch);
	unsigned first = (unsigned)(epoch % k->nr_spaces) * k->nr_chunks;

	memset((void *)p->bucket, 0, k->nr_buckets * sizeof(*p->bucket));
	for (unsigned i = first; i < first + k->nr_chunks; i++) {
		atomic_store_explicit(&k->chunk[i].first, i, memory_order_relaxed);
		atomic_store_explicit(&k->chunk[i].nr_blocks, 0, memory_order_relaxed);
	}
	atomic_store_explicit(&p->taken, 0, memory_order_relaxed);
	/* New code will come where old code ran: SDM vol. 3, 8.1.3. */
	k->host->ops->sync_cores(k->host->ctx);
}

/* So that they come by soon, at the latest when this space is full. */
static void call_others(struct xcache *k, const struct xseat *s)
{
	for (unsigned i = 0; i < k->nr_seats; i++)
		if (&k->seat[i].epoch != s->announced && atomic_load(&k->seat[i].epoch) &&
		    k->seat[i].vcpu)
			vcpu_post(k->seat[i].vcpu, VCPU_CODE);
}

/* Holding `turning`, in the current epoch. */
static bool turn(struct xseat *s)
{
	struct xcache *k = s->cache;

	if (!all_came_by(k, s))
		return false;
	empty(k, s->epoch + 1);
	atomic_store(&k->epoch, s->epoch + 1);
	return true;
}

enum xcache_turned xcache_turn(struct xseat *s)
{
	struct xcache *k = s->cache;
	enum xcache_turned how = XCACHE_REFUSED;

	if (atomic_load(&k->epoch) != s->epoch)
		return XCACHE_HAS_TURNED;
	if (atomic_exchange(&k->turning, true))
		return XCACHE_REFUSED;
	if (atomic_load(&k->epoch) != s->epoch)
		how = XCACHE_HAS_TURNED;
	else if (turn(s))
		how = XCACHE_TURNED;
	atomic_store(&k->turning, false);
	if (how == XCACHE_TURNED)
		call_others(k, s);
	return how;
}

/* --- blocks ------------------------------------------------------------------------- */

static _Atomic uint32_t *bucket(struct xcache *k, uint64_t epoch, uint64_t key)
{
	uint64_t hash = key * 0x9e3779b97f4a7c15ull >> 32;

	return &space_of(k, epoch)->bucket[hash & (k->nr_buckets - 1)];
}

static struct xblock *find_in_chain(struct xcache *k, _Atomic uint32_t *from, uint64_t key)
{
	uint32_t n = atomic_load_explicit(from, memory_order_acquire);

	while (n) {
		struct xblock *b = &k->block[n - 1];
		uint32_t next = atomic_load_explicit(&b->hash_next, memory_order_acquire);
		uint32_t it = n;

		n = next;
		if (b->key != key) {
			from = &b->hash_next;
			continue;
		}
		if (xblock_alive(b))
			return b;
		if (!atomic_compare_exchange_strong_explicit(from, &it, next, memory_order_acq_rel,
							     memory_order_relaxed))
			from = &b->hash_next;
	}
	return NULL;
}

struct xblock *xcache_find(struct xseat *s, uint64_t key, uint64_t since)
{
	struct xcache *k = s->cache;
	uint64_t oldest = s->epoch - MAX(k->nr_spaces - 1, 1u) + 1;

	for (uint64_t e = s->epoch; e >= MAX(oldest, since); e--) {
		struct xblock *b = find_in_chain(k, bucket(k, e, key), key);

		if (b)
			return b;
	}
	return NULL;
}

/* How many blocks the run that @chunk is in has, and the first one's number. */
static unsigned run_blocks(const struct xcache *k, unsigned chunk, unsigned *first)
{
	unsigned i = atomic_load_explicit(&k->chunk[chunk].first, memory_order_acquire);

	*first = i * CHUNK_RECORDS;
	return atomic_load_explicit(&k->chunk[i].nr_blocks, memory_order_acquire);
}

/*
 * Who comes by the number of a block may have got there by jumps alone. That it can see what
 * the block's maker wrote before it made the block known is what the count is read for.
 */
struct xblock *xcache_block(const struct xcache *k, unsigned number)
{
	(void)run_blocks(k, number / CHUNK_RECORDS, &(unsigned){ 0 });
	return &k->block[number];
}

const struct xblock *xcache_at(const struct xcache *k, uint64_t pc)
{
	uint64_t at = pc - (uint64_t)(uintptr_t)(k->code.rx + (k->chunks - k->code.rw));
	unsigned first, lo = 0, hi;

	if (at / CHUNK_BYTES >= all_chunks(k))
		return NULL;
	hi = run_blocks(k, (unsigned)(at / CHUNK_BYTES), &first);
	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;

		if (k->block[first + mid].enter_jump <= pc)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo ? &k->block[first + lo - 1] : NULL;
}

static void have_chunks(struct xseat *s, unsigned chunk, unsigned n)
{
	struct xcache *k = s->cache;

	for (unsigned i = chunk; i < chunk + n; i++)
		atomic_store_explicit(&k->chunk[i].first, s->run, memory_order_relaxed);
	s->end = k->chunks + (chunk + n) * CHUNK_BYTES;
	s->numbers_end = (chunk + n) * CHUNK_RECORDS;
	/* All of it will be written soon, and executed: a fault a page would be had twice. */
	k->host->ops->code_prefault(k->host->ctx, &k->code,
				    (size_t)(k->chunks - k->code.rw) + chunk * CHUNK_BYTES,
				    n * CHUNK_BYTES);
}

/* Nobody has taken chunks since: those that follow are as good as a new run. */
static bool lengthen_run(struct xseat *s, struct space *p, unsigned first, unsigned n)
{
	struct xcache *k = s->cache;
	uint32_t end = s->numbers_end / CHUNK_RECORDS - first;

	if (!s->end || end + n > k->nr_chunks ||
	    !atomic_compare_exchange_strong_explicit(&p->taken, &end, end + n, memory_order_relaxed,
						     memory_order_relaxed))
		return false;
	have_chunks(s, first + end, n);
	return true;
}

static bool new_run(struct xseat *s, struct space *p, unsigned first, unsigned n)
{
	struct xcache *k = s->cache;
	uint32_t at = atomic_load_explicit(&p->taken, memory_order_relaxed);

	drop_run(s);
	do {
		if (at + n > k->nr_chunks)
			return false;
	} while (!atomic_compare_exchange_weak_explicit(
		&p->taken, &at, at + n, memory_order_relaxed, memory_order_relaxed));
	s->run = first + at;
	s->next = k->chunks + s->run * CHUNK_BYTES;
	s->number = s->run * CHUNK_RECORDS;
	have_chunks(s, s->run, n);
	return true;
}

bool xcache_room(struct xseat *s, size_t bytes)
{
	struct xcache *k = s->cache;
	struct space *p = space_of(k, s->epoch);
	unsigned first = (unsigned)(s->epoch % k->nr_spaces) * k->nr_chunks;
	unsigned n = MAX(k->run_chunks, (unsigned)((bytes + CHUNK_BYTES - 1) / CHUNK_BYTES));

	if (s->number < s->numbers_end && (size_t)(s->end - s->next) >= bytes)
		return true;
	return lengthen_run(s, p, first, n) || new_run(s, p, first, n);
}

/* The run's blocks before @number are complete. */
static void complete(const struct xseat *s, unsigned number)
{
	atomic_store_explicit(&s->cache->chunk[s->run].nr_blocks, number - s->run * CHUNK_RECORDS,
			      memory_order_release);
}

struct xblock *xcache_add(struct xseat *s, const struct xblock *draft, const uint8_t *end)
{
	struct xcache *k = s->cache;
	struct xblock *b = &k->block[s->number], *same;
	_Atomic uint32_t *head = bucket(k, s->epoch, draft->key);
	uint32_t first;

	*b = *draft;
	b->epoch = s->epoch;
	complete(s, s->number + 1);
	do {
		first = atomic_load_explicit(head, memory_order_acquire);
		/* Which page comes next is not in the key: mine is the one that will do for me. */
		same = draft->crosses ? NULL : find_in_chain(k, head, draft->key);
		if (same) {
			complete(s, s->number);
			return same;
		}
		atomic_store_explicit(&b->hash_next, first, memory_order_relaxed);
	} while (!atomic_compare_exchange_strong_explicit(
		head, &first, s->number + 1, memory_order_acq_rel, memory_order_relaxed));
	s->number++;
	s->next = k->chunks + ALIGN_UP((size_t)(end - k->chunks), BLOCK_ALIGN);
	return b;
}
