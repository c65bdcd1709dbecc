/*
 * memory.c - how fast guest memory is populated: a machine's making against plain threads
 * that each call madvise(MADV_POPULATE_WRITE) on their part of the same mappings. Same
 * nodes, PUs, pages and bytes; in turn, so that both see the same host.
 *
 *	memory [MIB_A_NODE [ROUNDS]]
 *
 * Prints a table: GiB/s as medians, and the median of the rounds' ratios. Kinds of pages
 * of which too few are to be had are left out, and a line says so.
 */
#include "host/linux/host_linux.h"
#include "vmm.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

#define ROUNDS_MAX 101

struct bench {
	struct host host;
	struct machine_model machine;
	unsigned nodes, per_node; /* nodes with PUs and memory; PUs that each of them has */
	uint64_t bytes;           /* a node */
	unsigned rounds;
	struct plan plan;
};

static const struct {
	const char *name;
	uint64_t bytes;
} kinds[] = { { "4K", KIB(4) }, { "thp", MEM_PAGES_THP }, { "2M", MIB(2) }, { "1G", GIB(1) } };

static uint64_t now_ns(struct bench *b)
{
	return b->host.ops->now_ns(b->host.ctx);
}

/* --- what both do it with ------------------------------------------------------------ */

static unsigned usable_pus(const struct machine_model *m, unsigned node)
{
	unsigned nr = 0;

	for (unsigned i = 0; i < m->nr_pus; i++)
		nr += m->pu[i].usable && (m->pu[i].node == node || !m->nr_nodes);
	return nr;
}

static bool has_both(const struct machine_model *m, unsigned node)
{
	return usable_pus(m, node) && m->node[node].usable && m->node[node].memory_bytes;
}

/* Every node has as many, so that the guest's are alike. */
static void survey(struct bench *b)
{
	const struct machine_model *m = &b->machine;

	for (unsigned n = 0; n < m->nr_nodes; n++) {
		if (!has_both(m, n) || b->nodes == PLAN_NODES_MAX)
			continue;
		b->nodes++;
		b->per_node = b->per_node ? MIN(b->per_node, usable_pus(m, n)) : usable_pus(m, n);
	}
	if (!b->nodes) {
		b->nodes = 1;
		b->per_node = usable_pus(m, 0);
	}
	b->per_node = MIN(b->per_node, PLAN_VCPUS_MAX / b->nodes);
}

static void place_node(struct bench *b, unsigned node, unsigned threads, uint64_t page_bytes)
{
	const struct machine_model *m = &b->machine;
	struct plan *p = &b->plan;
	int os_index = m->nr_nodes ? (int)m->node[node].os_index : -1;
	unsigned taken = 0;

	for (unsigned i = 0; i < m->nr_pus && taken < threads; i++) {
		if (!m->pu[i].usable || (m->nr_nodes && m->pu[i].node != node))
			continue;
		p->vcpu[p->nr_vcpus++] = (struct plan_vcpu){ .pu = m->pu[i].os_index,
							     .guest_node = p->nr_memory,
							     .host_node = os_index };
		taken++;
	}
	p->memory[p->nr_memory] = (struct plan_memory){ .guest_node = p->nr_memory,
							.host_node = os_index,
							.bytes = b->bytes,
							.page_bytes = page_bytes };
	p->nr_memory++;
}

static void place(struct bench *b, unsigned threads, uint64_t page_bytes)
{
	const struct machine_model *m = &b->machine;

	memset(&b->plan, 0, sizeof(b->plan));
	for (unsigned n = 0; n < m->nr_nodes && b->plan.nr_memory < b->nodes; n++)
		if (has_both(m, n))
			place_node(b, n, threads, page_bytes);
	if (!b->plan.nr_memory)
		place_node(b, 0, threads, page_bytes);
}

/* --- ours ------------------------------------------------------------------------------- */

/* A multiboot header, and a loop behind it. */
static const uint32_t image[] = {
	0x1badb002, 0x00010000, -(0x1badb002u + 0x00010000), /* flat: addresses follow */
	0x100000,   0x100000,   0x100040,
	0x100040,   0x100020,   0xfeebf4fa, /* cli; hlt; jmp */
	0,          0,          0,
	0,          0,          0,
	0,
};

static int ours(struct bench *b, uint64_t *ns)
{
	struct vmm_config cfg = {
		.name = "bench",
		.engine = &engine_interp,
		.plan = &b->plan,
		.topo = { .vcpus = b->plan.nr_vcpus, .nodes = b->plan.nr_memory },
		.prefault = true,
		.kernel = { .data = (const uint8_t *)image,
			    .bytes = sizeof(image),
			    .name = "bench" },
		.cmdline = "",
	};
	struct vm *vm = NULL;
	char why[256] = "";
	int err;

	for (unsigned n = 0; n < b->plan.nr_memory; n++)
		cfg.topo.node_memory_bytes[n] = b->bytes;
	err = vmm_create(&b->host, &cfg, &vm, why, sizeof(why));
	if (err) {
		fprintf(stderr, "memory: %s\n", why);
		return err;
	}
	*ns = vmm_populated(vm)->ns;
	vmm_destroy(vm);
	return 0;
}

/* --- plain threads ----------------------------------------------------------------------- */

struct part {
	pthread_t thread;
	unsigned pu;
	uint8_t *base;
	uint64_t bytes;
	int err;
};

static void *populate(void *arg)
{
	struct part *p = arg;

	if (p->bytes && madvise(p->base, p->bytes, MADV_POPULATE_WRITE))
		p->err = -errno;
	return NULL;
}

static int start_pinned(struct part *p)
{
	cpu_set_t set[PU_SET_MAX / CPU_SETSIZE];
	pthread_attr_t attr;
	int err;

	CPU_ZERO_S(sizeof(set), set);
	CPU_SET_S(p->pu, sizeof(set), set);
	pthread_attr_init(&attr);
	pthread_attr_setaffinity_np(&attr, sizeof(set), set);
	err = pthread_create(&p->thread, &attr, populate, p);
	pthread_attr_destroy(&attr);
	return -err;
}

/* Each takes an equal part of its node's memory, in whole pages. */
static void cut(struct bench *b, const struct host_mem *mem, struct part *part)
{
	unsigned nr = b->plan.nr_vcpus, threads = nr / b->plan.nr_memory;

	for (unsigned i = 0; i < nr; i++) {
		const struct host_mem *m = &mem[i / threads];
		uint64_t align = MAX(m->page_bytes, MIB(2));
		uint64_t from = ALIGN_DOWN(m->bytes / threads * (i % threads), align);
		uint64_t to = (i + 1) % threads
				      ? ALIGN_DOWN(m->bytes / threads * (i % threads + 1), align)
				      : m->bytes;

		part[i] = (struct part){ .pu = b->plan.vcpu[i].pu,
					 .base = (uint8_t *)m->base + from,
					 .bytes = to - from };
	}
}

static int run_parts(struct bench *b, struct part *part, uint64_t *ns)
{
	unsigned started = 0;
	uint64_t start = now_ns(b);
	int err = 0;

	while (started < b->plan.nr_vcpus && !err) {
		err = start_pinned(&part[started]);
		started += !err;
	}
	for (unsigned i = 0; i < started; i++) {
		pthread_join(part[i].thread, NULL);
		err = err ? err : part[i].err;
	}
	*ns = now_ns(b) - start;
	return err;
}

static int plain(struct bench *b, uint64_t *ns)
{
	struct part *part = calloc(b->plan.nr_vcpus, sizeof(*part));
	struct host_mem mem[PLAN_NODES_MAX] = { 0 };
	int err = part ? 0 : -ENOMEM;

	for (unsigned n = 0; n < b->plan.nr_memory && !err; n++) {
		struct host_mem_attr attr = { .bytes = b->bytes,
					      .page_bytes = b->plan.memory[n].page_bytes,
					      .node = b->plan.memory[n].host_node };

		err = b->host.ops->mem_map(b->host.ctx, &attr, &mem[n]);
	}
	if (!err) {
		cut(b, mem, part);
		err = run_parts(b, part, ns);
	}
	for (unsigned n = 0; n < b->plan.nr_memory; n++)
		if (mem[n].base)
			b->host.ops->mem_unmap(b->host.ctx, &mem[n]);
	free(part);
	if (err)
		fprintf(stderr, "memory: plain threads: %s\n", strerror(-err));
	return err;
}

/* --- rounds --------------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b)
{
	double x, y;

	memcpy(&x, a, sizeof(x));
	memcpy(&y, b, sizeof(y));
	return (x > y) - (x < y);
}

static double median(double *v, unsigned nr)
{
	qsort(v, nr, sizeof(*v), by_value);
	return nr % 2 ? v[nr / 2] : (v[nr / 2 - 1] + v[nr / 2]) / 2;
}

static double gib_s(const struct bench *b, uint64_t ns)
{
	return (double)b->bytes * b->plan.nr_memory / (double)GIB(1) * 1e9 / (double)ns;
}

/* Whoever goes second finds memory that the host has touched just now: they take turns. */
static int both(struct bench *b, bool ours_first, uint64_t *ours_ns, uint64_t *plain_ns)
{
	int err = ours_first ? ours(b, ours_ns) : plain(b, plain_ns);

	if (!err)
		err = ours_first ? plain(b, plain_ns) : ours(b, ours_ns);
	return err;
}

static int measure(struct bench *b, const char *pages, unsigned threads)
{
	double rate_ours[ROUNDS_MAX], rate_plain[ROUNDS_MAX], ratio[ROUNDS_MAX];
	uint64_t ours_ns = 1, plain_ns = 1;
	int err = both(b, true, &ours_ns, &plain_ns); /* warms up */

	for (unsigned i = 0; i < b->rounds && !err; i++) {
		err = both(b, i % 2, &ours_ns, &plain_ns);
		rate_ours[i] = gib_s(b, ours_ns);
		rate_plain[i] = gib_s(b, plain_ns);
		ratio[i] = rate_ours[i] / rate_plain[i];
	}
	if (!err)
		printf("%-6s %5u %8u %12.2f %12.2f %9.1f %%\n", pages, b->nodes, threads * b->nodes,
		       median(rate_plain, b->rounds), median(rate_ours, b->rounds),
		       100 * median(ratio, b->rounds));
	return err;
}

static int measure_kind(struct bench *b, unsigned kind)
{
	struct mem_facts facts;
	char why[512];
	int err = 0;

	place(b, b->per_node, kinds[kind].bytes);
	host_linux_refresh_memory(&b->machine);
	host_linux_mem_facts(&b->host, &b->machine, &facts);
	if (b->bytes % MAX(kinds[kind].bytes, KIB(4)) && mem_pages_reserved(kinds[kind].bytes))
		return 0;
	if (mem_preflight(&facts, &b->plan, why, sizeof(why))) {
		printf("%-6s left out: %s\n", kinds[kind].name, why);
		return 0;
	}
	for (unsigned threads = 1; threads <= b->per_node && !err; threads *= 2) {
		place(b, threads, kinds[kind].bytes);
		err = measure(b, kinds[kind].name, threads);
	}
	return err;
}

int main(int argc, char **argv)
{
	struct bench *b = calloc(1, sizeof(*b));
	int err = b ? host_linux_create(&b->host) : -ENOMEM;

	if (err) {
		fprintf(stderr, "memory: cannot use this host: %s\n", strerror(-err));
		return 1;
	}
	b->bytes = MIB(argc > 1 ? strtoul(argv[1], NULL, 10) : 256);
	b->rounds = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 31;
	if (!b->bytes || !b->rounds || b->rounds > ROUNDS_MAX) {
		fprintf(stderr, "usage: memory [MIB_A_NODE [ROUNDS]]\n");
		return 2;
	}
	err = b->host.ops->topology(b->host.ctx, &b->machine);
	if (!err) {
		survey(b);
		printf("%-6s %5s %8s %12s %12s %11s\n", "pages", "nodes", "threads", "plain GiB/s",
		       "ours GiB/s", "ours/plain");
	}
	for (unsigned i = 0; i < ARRAY_SIZE(kinds) && !err; i++)
		err = measure_kind(b, i);
	machine_free(&b->machine);
	host_linux_destroy(&b->host);
	free(b);
	return err != 0;
}
