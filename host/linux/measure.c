/*
 * measure.c - latency and bandwidth from the CPUs of each node to the memory of each.
 *
 * Latency: one thread follows a chain of pointers that visits every cache line of a
 * buffer bigger than the caches, in random order, so that neither prefetching nor
 * overlap helps. TLB misses are part of it, as they are of a guest's life. Bandwidth:
 * a thread on every core of the node copies; the rates are added.
 */
#include "linux.h"

#include <errno.h>
#include <stdlib.h>

#define LINE        64
#define CHASE_MIN   MIB(32)
#define CHASE_MAX   MIB(512)
#define HOPS        (1u << 14)
#define CHASES      64
#define COPY_BYTES  MIB(16) /* read and written by each thread */
#define COPY_ROUNDS 12
#define COPIERS_MAX 64

struct probe {
	struct host host;
	size_t bytes; /* of the chased buffer */
	int node;
	struct host_thread *thread;
	uint64_t result; /* ns a hop, or MiB/s; 0: no memory */
};

static uint64_t now(const struct probe *p)
{
	return p->host.ops->now_ns(p->host.ctx);
}

static size_t draw(uint64_t *seed, size_t below)
{
	*seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
	return (size_t)((*seed >> 20) % below);
}

/* Sattolo's shuffle: one cycle through all lines. */
static void make_chain(char *buf, size_t lines)
{
	uint64_t seed = 1;

	for (size_t i = 0; i < lines; i++)
		*(size_t *)(void *)(buf + i * LINE) = i;
	for (size_t i = lines - 1; i > 0; i--) {
		size_t *a = (void *)(buf + i * LINE), *b = (void *)(buf + draw(&seed, i) * LINE);
		size_t t = *a;

		*a = *b;
		*b = t;
	}
}

static size_t follow(const char *buf, size_t at)
{
	for (unsigned i = 0; i < HOPS; i++)
		at = *(const size_t *)(const void *)(buf + at * LINE);
	return at;
}

/* The quickest of several goes: others use this host, too. */
static void chase(void *arg)
{
	struct probe *p = arg;
	char *buf = p->host.ops->alloc(p->host.ctx, p->bytes, p->node);
	uint64_t least = UINT64_MAX;
	volatile size_t at = 0;

	if (!buf)
		return;
	make_chain(buf, p->bytes / LINE);
	for (unsigned i = 0; i < CHASES; i++) {
		uint64_t start = now(p);

		at = follow(buf, at);
		least = MIN(least, now(p) - start);
	}
	p->result = MAX(least / HOPS, 1);
	p->host.ops->free(p->host.ctx, buf, p->bytes);
}

static void copy(void *arg)
{
	struct probe *p = arg;
	char *buf = p->host.ops->alloc(p->host.ctx, 2 * COPY_BYTES, p->node);
	uint64_t start;

	if (!buf)
		return;
	memset(buf, 1, 2 * COPY_BYTES);
	start = now(p);
	for (unsigned i = 0; i < COPY_ROUNDS; i++) {
		memcpy(buf + (i % 2) * COPY_BYTES, buf + (1 - i % 2) * COPY_BYTES, COPY_BYTES);
		__asm__ volatile("" ::: "memory");
	}
	p->result = (COPY_BYTES >> 20) * COPY_ROUNDS * NSEC_PER_SEC / MAX(now(p) - start, 1);
	p->host.ops->free(p->host.ctx, buf, 2 * COPY_BYTES);
}

static int start(struct probe *p, void (*fn)(void *arg), unsigned pu)
{
	struct pu_set pus = { 0 };
	struct host_thread_attr attr = { .name = "measure", .fn = fn, .arg = p, .pus = &pus };

	pu_set_add(&pus, pu);
	return p->host.ops->thread_create(p->host.ctx, &attr, &p->thread);
}

/* The first usable PU of each core of a node. */
static unsigned cores_of(const struct machine_model *m, unsigned node, unsigned *pus)
{
	unsigned nr = 0, last = MACHINE_NONE;

	for (unsigned i = 0; i < m->nr_pus && nr < COPIERS_MAX; i++) {
		const struct machine_pu *pu = &m->pu[i];

		if (pu->node != node || !pu->usable || pu->core == last)
			continue;
		last = pu->core;
		pus[nr++] = pu->os_index;
	}
	return nr;
}

static int measure_pair(const struct host *h, struct machine_model *m, unsigned from, unsigned to)
{
	struct probe probe[COPIERS_MAX];
	unsigned pus[COPIERS_MAX], nr = cores_of(m, from, pus), at = from * m->nr_nodes + to;
	struct probe one = {
		.host = *h,
		.bytes = MIN(MAX(CHASE_MIN, 4 * m->llc_bytes), CHASE_MAX),
		.node = (int)m->node[to].os_index,
	};
	int err = nr && m->node[to].usable ? start(&one, chase, pus[0]) : 0;

	if (err || !nr || !m->node[to].usable)
		return err;
	h->ops->thread_join(h->ctx, one.thread);
	m->latency_ns[at] = (unsigned)one.result;
	for (unsigned i = 0; i < nr; i++) {
		probe[i] = one;
		probe[i].result = 0;
		err = start(&probe[i], copy, pus[i]);
		if (err)
			nr = i;
	}
	for (unsigned i = 0; i < nr; i++) {
		h->ops->thread_join(h->ctx, probe[i].thread);
		m->bandwidth_mibs[at] += (unsigned)probe[i].result;
	}
	return err;
}

/* A node without CPUs: what its memory is to others, others' is to it. */
static void mirror(struct machine_model *m)
{
	for (unsigned i = 0; i < m->nr_nodes; i++) {
		for (unsigned j = 0; j < m->nr_nodes; j++) {
			unsigned at = i * m->nr_nodes + j, back = j * m->nr_nodes + i;

			if (m->latency_ns[at])
				continue;
			m->latency_ns[at] = m->latency_ns[back];
			m->bandwidth_mibs[at] = m->bandwidth_mibs[back];
		}
	}
}

int host_linux_measure(const struct host *h, struct machine_model *m,
		       void (*progress)(void *arg, unsigned done, unsigned all), void *arg)
{
	size_t pairs = (size_t)m->nr_nodes * m->nr_nodes;
	int err = 0;

	free(m->latency_ns);
	free(m->bandwidth_mibs);
	m->latency_ns = calloc(pairs + 1, sizeof(*m->latency_ns));
	m->bandwidth_mibs = calloc(pairs + 1, sizeof(*m->bandwidth_mibs));
	if (!m->latency_ns || !m->bandwidth_mibs)
		err = -ENOMEM;
	for (unsigned i = 0; i < pairs && !err; i++) {
		err = measure_pair(h, m, i / m->nr_nodes, i % m->nr_nodes);
		if (progress)
			progress(arg, i + 1, (unsigned)pairs);
	}
	if (!err) {
		mirror(m);
		return 0;
	}
	free(m->latency_ns);
	free(m->bandwidth_mibs);
	m->latency_ns = m->bandwidth_mibs = NULL;
	return err;
}
