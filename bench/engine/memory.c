/*
 * memory.c - workloads that load, store and copy: chains of loads, trees, block
 * copies as libc does them, and streams.
 */
#include "work.h"

#include <stdlib.h>
#include <string.h>

#define LINE 64

static void **chain;
static uint8_t *chain_start;

/* A random cycle through all lines of @bytes: Sattolo's shuffle. */
static void make_chain(size_t bytes)
{
	size_t lines = bytes / LINE;
	uint32_t *order = work_alloc(lines * sizeof(*order));
	uint8_t *base = work_alloc(bytes);
	uint64_t r = 1;

	for (size_t i = 0; i < lines; i++)
		order[i] = (uint32_t)i;
	for (size_t i = lines - 1; i > 0; i--) {
		size_t j = work_random(&r) % i;
		uint32_t t = order[i];

		order[i] = order[j];
		order[j] = t;
	}
	for (size_t i = 0; i < lines; i++)
		*(void **)(base + order[i] * (size_t)LINE) =
			base + order[(i + 1) % lines] * (size_t)LINE;
	chain = (void **)base;
	chain_start = base;
}

static void setup_chase_16k(void)
{
	make_chain(16u << 10);
}

static void setup_chase_1m(void)
{
	make_chain(1u << 20);
}

static void setup_chase_32m(void)
{
	make_chain(32u << 20);
}

static uint64_t run_chase(uint64_t ops)
{
	void **p = chain;

	while (ops--)
		p = *p;
	chain = p;
	return (uint64_t)((uint8_t *)p - chain_start);
}

struct node {
	uint64_t key;
	struct node *child[2];
};

#define NODES 16384

static struct node *root;

static void setup_tree(void)
{
	struct node *nodes = work_alloc(NODES * sizeof(*nodes));
	uint64_t r = 5;

	for (unsigned i = 0; i < NODES; i++) {
		struct node **at = &root;

		nodes[i].key = work_random(&r);
		while (*at)
			at = &(*at)->child[nodes[i].key > (*at)->key];
		*at = &nodes[i];
	}
}

static uint64_t run_tree(uint64_t ops)
{
	static uint64_t r = 5;
	uint64_t sum = 0;

	while (ops--) {
		uint64_t key = work_random(&r);

		for (struct node *n = root; n && n->key != key; n = n->child[key > n->key])
			sum++;
	}
	return sum;
}

#define SMALL_BYTES (64u << 10)
#define LARGE_BYTES (8u << 20)

static uint8_t *source, *target;

static void setup_small(void)
{
	source = work_alloc(SMALL_BYTES);
	target = work_alloc(SMALL_BYTES);
	work_text(source, SMALL_BYTES);
}

static void setup_large(void)
{
	source = work_alloc(LARGE_BYTES);
	target = work_alloc(LARGE_BYTES);
	work_text(source, LARGE_BYTES);
}

/* Sizes from 1 to 256 at any alignment, as programs copy. */
static uint64_t run_copy_small(uint64_t ops)
{
	uint64_t r = 3;

	while (ops--) {
		uint64_t x = work_random(&r);

		memcpy(target + x % (SMALL_BYTES - 256), source + (x >> 16) % (SMALL_BYTES - 256),
		       (x >> 40) % 256 + 1);
		__asm__ volatile("" ::: "memory");
	}
	return target[r % SMALL_BYTES];
}

static uint64_t run_copy_large(uint64_t ops)
{
	while (ops--) {
		memcpy(target, source, LARGE_BYTES);
		source[ops % LARGE_BYTES] += target[1];
	}
	return target[0] + source[1];
}

static uint64_t run_set_small(uint64_t ops)
{
	uint64_t r = 3;

	while (ops--) {
		uint64_t x = work_random(&r);

		memset(target + x % (SMALL_BYTES - 256), (int)(x >> 20), (x >> 40) % 256 + 1);
		__asm__ volatile("" ::: "memory");
	}
	return target[r % SMALL_BYTES];
}

static uint64_t run_set_large(uint64_t ops)
{
	while (ops--) {
		memset(target, (int)ops, LARGE_BYTES);
		__asm__ volatile("" ::: "memory");
	}
	return target[LARGE_BYTES / 2] + 1u;
}

typedef double v2df __attribute__((vector_size(16)));

#define TRIAD_LEN (1u << 19)

static v2df *triad[3];

static void setup_triad(void)
{
	for (unsigned i = 0; i < 3; i++) {
		triad[i] = work_alloc(TRIAD_LEN * sizeof(v2df));
		for (unsigned k = 0; k < TRIAD_LEN; k++)
			triad[i][k] = (v2df){ i + 1, k % 64 };
	}
}

/* STREAM's triad over three arrays of 8 MiB, SSE2. */
static uint64_t run_triad(uint64_t ops)
{
	const v2df factor = { 3, 3 };

	while (ops--) {
		for (unsigned k = 0; k < TRIAD_LEN; k++)
			triad[0][k] = triad[1][k] + factor * triad[2][k];
		__asm__ volatile("" ::: "memory");
	}
	return (uint64_t)triad[0][TRIAD_LEN / 2 + 5][1];
}

const struct work works_memory[] = {
	{ "chase-16k", "dependent load", 50000000, setup_chase_16k, run_chase, NULL },
	{ "chase-1m", "dependent load", 12000000, setup_chase_1m, run_chase, NULL },
	{ "chase-32m", "dependent load", 600000, setup_chase_32m, run_chase, NULL },
	{ "tree", "search among 16,384 keys", 900000, setup_tree, run_tree, NULL },
	{ "copy-small", "memcpy() of 1 to 256 bytes", 2000000, setup_small, run_copy_small, NULL },
	{ "copy-large", "memcpy() of 8 MiB", 100, setup_large, run_copy_large, NULL },
	{ "set-small", "memset() of 1 to 256 bytes", 4500000, setup_small, run_set_small, NULL },
	{ "set-large", "memset() of 8 MiB", 300, setup_large, run_set_large, NULL },
	{ "triad", "STREAM triad over 3 x 8 MiB", 110, setup_triad, run_triad, NULL },
	{ 0 },
};
