/*
 * test_xcache.c - a code cache and its seats: step by step on one thread, then by many
 * threads at once, on the real host. Blocks here are eight bytes of "code": their key.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cpu/xlat_int.h"
#include "host/linux/host_linux.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#define SEATS   4
#define BYTES   KIB(512 + 16) /* four spaces of eight chunks, and what is fixed */
#define FIXED   KIB(16)
#define CHUNK   KIB(16)
#define VERSION 7

static struct host host;
static struct xcache *cache;
static struct xseat seat[SEATS];
static _Atomic uint32_t version;

static struct xcache_config config(unsigned seats, unsigned spaces, size_t bytes)
{
	return (struct xcache_config){ .bytes = bytes,
				       .fixed_bytes = FIXED,
				       .block_bytes = XBLOCK_CODE(XBLOCK_INSNS),
				       .spaces = spaces,
				       .seats = seats,
				       .host_node = HOST_NODE_ANY };
}

static int setup(void **state)
{
	const struct xcache_config cfg = config(SEATS, 4, BYTES);

	atomic_store(&version, VERSION);
	if (host_linux_create(&host) || xcache_create(&host, &cfg, &cache))
		return -1;
	for (unsigned i = 0; i < SEATS; i++)
		xcache_sit(cache, i, NULL, &seat[i]);
	return 0;
}

static int teardown(void **state)
{
	xcache_destroy(cache);
	host_linux_destroy(&host);
	return 0;
}

static uint64_t rx_of(const struct xcache *k, const uint8_t *rw)
{
	const struct host_code *code = xcache_code(k);

	return (uint64_t)(uintptr_t)(code->rx + (rw - code->rw));
}

/* "Emits" a block of @bytes; NULL: the cache is full. */
static struct xblock *make(struct xseat *s, uint64_t key, size_t bytes, bool crosses)
{
	struct xblock b = { .key = key, .page_version = &version, .crosses = crosses };

	b.version = atomic_load(&version);
	if (!xcache_room(s, bytes))
		return NULL;
	b.enter_jump = rx_of(s->cache, s->next);
	store_u64(s->next, key);
	return xcache_add(s, &b, s->next + bytes);
}

static struct xblock *find(struct xseat *s, uint64_t key)
{
	return xcache_find(s, key, 0);
}

static void join_all(void)
{
	for (unsigned i = 0; i < SEATS; i++)
		xcache_join(&seat[i]);
}

/* Makes blocks of a chunk each until there is no room; how many. */
static unsigned fill(struct xseat *s, uint64_t key)
{
	unsigned n = 0;

	while (make(s, key + n, CHUNK, false))
		n++;
	return n;
}

/* --- one thread ---------------------------------------------------------------------- */

static void test_found_by_all(void **state)
{
	struct xblock *b;

	join_all();
	assert_null(find(&seat[0], 1));
	b = make(&seat[0], 1, 100, false);
	assert_non_null(b);
	for (unsigned i = 0; i < SEATS; i++)
		assert_ptr_equal(find(&seat[i], 1), b);
	assert_null(find(&seat[1], 2));
	assert_int_equal(load_u64((void *)(uintptr_t)b->enter_jump), 1);
}

static void test_second_of_two_makers_gives_up(void **state)
{
	uint8_t *next;
	unsigned number;
	struct xblock *b, *other;

	join_all();
	b = make(&seat[0], 1, 100, false);
	assert_true(xcache_room(&seat[1], 100));
	next = seat[1].next;
	number = seat[1].number;
	assert_ptr_equal(make(&seat[1], 1, 100, false), b);
	assert_ptr_equal(seat[1].next, next);
	assert_int_equal(seat[1].number, number);
	assert_null(xcache_at(cache, rx_of(cache, next)));

	/* What follows it is not in the key: who made it shall run it, whoever was first. */
	other = make(&seat[1], 1, 100, true);
	assert_ptr_not_equal(other, b);
	assert_int_equal(other->enter_jump, rx_of(cache, next));
}

static void test_dead_ones_are_not_found(void **state)
{
	struct xblock *b, *again;

	join_all();
	for (uint64_t key = 0; key < 100; key++)
		make(&seat[0], key, 16, false);
	b = find(&seat[0], 50);
	b->gone = true;
	assert_null(find(&seat[1], 50));
	again = make(&seat[1], 50, 16, false);
	assert_ptr_not_equal(again, b);
	assert_ptr_equal(find(&seat[0], 50), again);
	assert_non_null(find(&seat[0], 49));

	atomic_fetch_add(&version, 2);
	for (uint64_t key = 0; key < 100; key++)
		assert_null(find(&seat[0], key));
}

/* The same bytes are translated again and again: dead blocks must not pile up before them. */
static void test_chains_stay_short(void **state)
{
	struct xblock *b;
	unsigned n = 0;

	join_all();
	for (unsigned i = 0; i < 64; i++) {
		assert_null(find(&seat[0], 1));
		make(&seat[0], 1, 16, false);
		make(&seat[0], 2, 16, false);
		atomic_fetch_add(&version, 2);
	}
	b = make(&seat[0], 1, 16, false);
	for (uint32_t next = b->hash_next; next; n++)
		next = xcache_block(cache, next - 1)->hash_next;
	assert_true(n <= 2);
}

static void test_code_leads_to_its_block(void **state)
{
	struct xblock *b[300];

	join_all();
	/* Runs of two seats, side by side and lengthened. */
	for (unsigned i = 0; i < ARRAY_SIZE(b); i++) {
		b[i] = make(&seat[i / 50 % 2], i, 200 + i, false);
		assert_non_null(b[i]);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(b); i++) {
		assert_ptr_equal(xcache_at(cache, b[i]->enter_jump), b[i]);
		assert_ptr_equal(xcache_at(cache, b[i]->enter_jump + 199 + i), b[i]);
	}
	assert_null(xcache_at(cache, rx_of(cache, xcache_code(cache)->rw)));
	assert_null(xcache_at(cache, rx_of(cache, xcache_code(cache)->rw) + BYTES));
	assert_null(xcache_at(cache, (uint64_t)(uintptr_t)&version));
}

/* Blocks that make little code run out of records first. */
static void test_many_small_blocks(void **state)
{
	unsigned n = 0;

	join_all();
	while (make(&seat[0], n, 16, false))
		n++;
	assert_true(n >= 8 * 64);
	for (unsigned i = 0; i < n; i++)
		assert_non_null(find(&seat[1], i));
}

static void test_turn_waits_for_nobody_who_is_out(void **state)
{
	xcache_join(&seat[0]);
	xcache_join(&seat[1]);
	xcache_leave(&seat[1]);
	fill(&seat[0], 0);
	assert_int_equal(xcache_turn(&seat[0]), XCACHE_TURNED);
	assert_true(xcache_join(&seat[0]));
	assert_false(xcache_join(&seat[0]));
	assert_true(xcache_join(&seat[1]));
	xcache_leave(&seat[1]);
	assert_false(xcache_join(&seat[1]));
}

static void test_turn_is_refused_while_others_are_behind(void **state)
{
	join_all();
	assert_int_equal(xcache_turn(&seat[0]), XCACHE_TURNED);
	assert_int_equal(xcache_turn(&seat[0]), XCACHE_HAS_TURNED);
	assert_int_equal(xcache_turn(&seat[1]), XCACHE_HAS_TURNED);
	xcache_join(&seat[0]);
	xcache_join(&seat[1]);
	xcache_join(&seat[2]);
	assert_int_equal(xcache_turn(&seat[0]), XCACHE_REFUSED); /* seat 3 */
	xcache_check(&seat[0]);
	xcache_check(&seat[3]);
	assert_int_equal(seat[3].epoch, 0);
	assert_int_not_equal(seat[0].epoch, 0);
	assert_int_equal(xcache_turn(&seat[0]), XCACHE_TURNED);
}

static void turn(struct xseat *s)
{
	assert_int_equal(xcache_turn(s), XCACHE_TURNED);
	join_all();
}

static void test_the_oldest_go_first(void **state)
{
	uint64_t epoch[5];

	join_all();
	for (unsigned e = 0; e < 5; e++) {
		if (e)
			turn(&seat[e % SEATS]);
		epoch[e] = seat[0].epoch;
		assert_int_equal(fill(&seat[0], 100 * e), 8);
		assert_non_null(find(&seat[1], 100 * e));
		if (e)
			assert_non_null(find(&seat[1], 100 * (e - 1)));
		if (e >= 2)
			assert_non_null(find(&seat[1], 100 * (e - 2) + 7));
		if (e >= 3)
			assert_null(find(&seat[1], 100 * (e - 3)));
	}
	assert_non_null(xcache_find(&seat[0], 300, epoch[3]));
	assert_null(xcache_find(&seat[0], 300, epoch[4]));
	/* One that is wanted in this epoch is added beside the older. */
	turn(&seat[0]);
	assert_int_equal(make(&seat[0], 400, 16, false)->epoch, seat[0].epoch);
}

static void test_one_space(void **state)
{
	const struct xcache_config cfg = config(1, 1, KIB(80)), none = config(1, 1, KIB(32));
	struct xcache *k;
	struct xseat s;

	assert_int_equal(xcache_create(&host, &none, &k), -EINVAL);
	assert_int_equal(xcache_create(&host, &cfg, &k), 0);
	xcache_sit(k, 0, NULL, &s);
	xcache_join(&s);
	assert_int_equal(fill(&s, 0), 4);
	assert_non_null(find(&s, 3));
	assert_int_equal(xcache_turn(&s), XCACHE_TURNED);
	assert_true(xcache_join(&s));
	assert_null(find(&s, 3));
	assert_int_equal(fill(&s, 0), 4);
	xcache_destroy(k);
}

/* --- many threads ---------------------------------------------------------------------- */

#define ROUNDS 60000
#define KEYS   4096
#define HELD   32

static _Atomic uint32_t page[16];
static _Atomic unsigned wrong, turns, made, refused;

/* What translated code would run into. */
static void execute(const struct xblock *b, uint64_t key)
{
	if (load_u64((void *)(uintptr_t)b->enter_jump) != key || b->key != key ||
	    xcache_at(cache, b->enter_jump + 15) != b)
		atomic_fetch_add(&wrong, 1);
}

static struct xblock *get(struct xseat *s, uint64_t key, size_t bytes)
{
	struct xblock b = { .key = key, .page_version = &page[key % 16] }, *found = find(s, key);

	if (found)
		return found;
	b.version = atomic_load(b.page_version);
	if (!xcache_room(s, bytes)) {
		if (xcache_turn(s) != XCACHE_REFUSED) {
			atomic_fetch_add(&turns, 1);
			return NULL;
		}
		atomic_fetch_add(&refused, 1);
		sched_yield();
		return NULL;
	}
	b.enter_jump = rx_of(cache, s->next);
	store_u64(s->next, key);
	found = xcache_add(s, &b, s->next + bytes);
	if (found->enter_jump == b.enter_jump)
		atomic_fetch_add(&made, 1);
	return found;
}

/*
 * Looks up, makes and "executes" blocks, and some that it found a while ago: as links and
 * jump caches do, until it joins anew. Now and then a page's blocks die.
 */
static void *player(void *arg)
{
	struct xseat *s = arg;
	struct held {
		struct xblock *b;
		uint64_t key;
	} held[HELD] = { 0 };
	uint32_t random = (uint32_t)(s - seat) + 1;

	for (unsigned i = 0; i < ROUNDS; i++) {
		uint64_t key;
		struct xblock *b;

		random = random * 1664525 + 1013904223;
		key = (random >> 16) % KEYS;
		if (xcache_join(s))
			memset(held, 0, sizeof(held));
		b = get(s, key, 64 + key % 512);
		if (!b)
			continue;
		execute(b, key);
		held[i % HELD] = (struct held){ b, key };
		b = held[random % HELD].b;
		if (b)
			execute(b, held[random % HELD].key);
		if (random % 1024 == 0)
			atomic_fetch_add(&page[key % 16], 2);
		if (random % 2048 == 1)
			xcache_leave(s);
		if (random % 256 == 2)
			xcache_check(s);
	}
	xcache_leave(s);
	return NULL;
}

static void test_crowd(void **state)
{
	pthread_t thread[SEATS];

	for (unsigned i = 0; i < SEATS; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, player, &seat[i]), 0);
	for (unsigned i = 0; i < SEATS; i++)
		pthread_join(thread[i], NULL);
	print_message("%u blocks made, %u turns, %u refused\n", made, turns, refused);
	assert_int_equal(wrong, 0);
	assert_true(turns > 10);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
		TEST(test_found_by_all),
		TEST(test_second_of_two_makers_gives_up),
		TEST(test_dead_ones_are_not_found),
		TEST(test_chains_stay_short),
		TEST(test_code_leads_to_its_block),
		TEST(test_many_small_blocks),
		TEST(test_turn_waits_for_nobody_who_is_out),
		TEST(test_turn_is_refused_while_others_are_behind),
		TEST(test_the_oldest_go_first),
		TEST(test_one_space),
		TEST(test_crowd),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
