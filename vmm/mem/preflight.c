/* preflight.c - see preflight.h. */
#include "mem/preflight.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

struct check {
	const struct mem_facts *f;
	char *why;
	size_t why_bytes;
};

/* Memory that somebody wants on a host node. */
struct need {
	unsigned guest_node;
	int host_node; /* OS index; -1: any */
	uint64_t bytes, page_bytes;
};

static int __printf(3, 4) refuse(struct check *c, int err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(c->why, c->why_bytes, fmt, ap);
	va_end(ap);
	return err;
}

static unsigned long long mib(uint64_t bytes)
{
	return bytes >> 20;
}

/* "2M", "1G"; in kilobytes what nobody asks for. */
static const char *page_name(uint64_t bytes, char buf[24])
{
	static const char unit[] = "KMG";
	unsigned u = 0;

	bytes >>= 10;
	while (u < 2 && bytes >= 1024 && bytes % 1024 == 0) {
		bytes >>= 10;
		u++;
	}
	snprintf(buf, 24, "%llu%c", (unsigned long long)bytes, unit[u]);
	return buf;
}

/* --- what the whole machine needs ------------------------------------------------------ */

static int check_bind(struct check *c)
{
	if (c->f->machine->nr_nodes < 2 || !c->f->bind_err)
		return 0;
	return refuse(c, c->f->bind_err,
		      "memory cannot be bound to host nodes here (mbind: %s): give the container "
		      "CAP_SYS_NICE, or a seccomp profile that allows mbind",
		      strerror(-c->f->bind_err));
}

static int check_limit(struct check *c, const struct mem_limit *limit, uint64_t bytes,
		       const char *what)
{
	if (bytes <= limit->free_bytes)
		return 0;
	return refuse(c, -ENOSPC,
		      "%s: %llu MiB needed, the control group has %llu MiB left: ask for less "
		      "--memory, or raise %s by %llu MiB",
		      what, mib(bytes), mib(limit->free_bytes), limit->file,
		      mib(bytes - limit->free_bytes + MIB(1) - 1));
}

static int check_commit(struct check *c, uint64_t bytes)
{
	if (bytes <= c->f->commit_free)
		return 0;
	return refuse(c, -ENOSPC,
		      "memory: %llu MiB needed, the kernel promises %llu MiB more "
		      "(vm.overcommit_memory is 2): ask for less --memory, or sysctl "
		      "vm.overcommit_memory=0",
		      mib(bytes), mib(c->f->commit_free));
}

static int check_thp(struct check *c, uint64_t page_bytes)
{
	if (page_bytes != MEM_PAGES_THP || c->f->thp)
		return 0;
	return refuse(c, -ENOTSUP,
		      "pages thp: this kernel makes no huge pages: say --pages 4K, or echo madvise "
		      ">/sys/kernel/mm/transparent_hugepage/enabled");
}

static int size_index(const struct mem_facts *f, uint64_t page_bytes)
{
	for (int i = 0; i < MACHINE_PAGE_SIZES; i++)
		if (f->page_bytes[i] == page_bytes)
			return i;
	return -1;
}

static int check_size(struct check *c, uint64_t page_bytes)
{
	char name[24];

	if (!mem_pages_reserved(page_bytes) || size_index(c->f, page_bytes) >= 0)
		return 0;
	return refuse(c, -ENOTSUP, "pages %s: this kernel has none of that size: say --pages thp",
		      page_name(page_bytes, name));
}

/* What comes from the kernel's free memory, and what from each pool. */
static int check_totals(struct check *c, const struct need *need, unsigned nr)
{
	uint64_t plain = 0, huge[MACHINE_PAGE_SIZES] = { 0 };
	char what[40], name[24];
	int err = 0;

	for (unsigned i = 0; i < nr && !err; i++) {
		err = check_thp(c, need[i].page_bytes);
		if (!err)
			err = check_size(c, need[i].page_bytes);
		if (err)
			return err;
		if (mem_pages_reserved(need[i].page_bytes))
			huge[size_index(c->f, need[i].page_bytes)] += need[i].bytes;
		else
			plain += need[i].bytes;
	}
	err = check_limit(c, &c->f->group, plain, "memory");
	if (!err)
		err = check_commit(c, plain);
	for (unsigned i = 0; i < MACHINE_PAGE_SIZES && !err; i++) {
		if (!huge[i])
			continue;
		snprintf(what, sizeof(what), "pages of %s", page_name(c->f->page_bytes[i], name));
		err = check_limit(c, &c->f->huge_group[i], huge[i], what);
	}
	return err;
}

/* --- what a host node has ---------------------------------------------------------------- */

static const struct machine_pages *pool_of(const struct machine_node *n, uint64_t page_bytes)
{
	static const struct machine_pages none;

	for (unsigned i = 0; i < MACHINE_PAGE_SIZES; i++)
		if (n->huge[i].bytes == page_bytes)
			return &n->huge[i];
	return &none;
}

static uint64_t free_of(const struct machine_node *n, uint64_t page_bytes)
{
	if (!mem_pages_reserved(page_bytes))
		return n->free_bytes;
	return pool_of(n, page_bytes)->free * page_bytes;
}

static int complain_of_pages(struct check *c, const struct need *need, const struct machine_node *n,
			     uint64_t bytes)
{
	const struct machine_pages *pool = pool_of(n, need->page_bytes);
	unsigned long long pages = bytes / need->page_bytes;
	char name[24], where[24] = "";

	if (need->host_node < 0 && c->f->machine->nr_nodes > 1)
		snprintf(where, sizeof(where), ", which has most");
	return refuse(c, -ENOSPC,
		      "guest node %u: %llu pages of %s needed on host node %u%s, %llu free: echo "
		      "%llu >/sys/devices/system/node/node%u/hugepages/hugepages-%llukB/"
		      "nr_hugepages",
		      need->guest_node, pages, page_name(need->page_bytes, name), n->os_index,
		      where, (unsigned long long)pool->free, pool->total + pages - pool->free,
		      n->os_index, (unsigned long long)need->page_bytes >> 10);
}

static int complain_of_node(struct check *c, const struct need *need, const struct machine_node *n)
{
	if (c->f->mems_file[0])
		return refuse(c, -EPERM,
			      "guest node %u: host node %u may not be used by this process: add "
			      "it to %s",
			      need->guest_node, n->os_index, c->f->mems_file);
	return refuse(c, -EPERM,
		      "guest node %u: host node %u may not be used by this process: ask for "
		      "another host-node",
		      need->guest_node, n->os_index);
}

/* @bytes: all that is needed there in pages of this size, @need's share being the last. */
static int check_node(struct check *c, const struct need *need, const struct machine_node *n,
		      uint64_t bytes)
{
	if (!n->usable)
		return complain_of_node(c, need, n);
	if (bytes <= free_of(n, need->page_bytes))
		return 0;
	if (mem_pages_reserved(need->page_bytes))
		return complain_of_pages(c, need, n, bytes);
	return refuse(c, -ENOSPC,
		      "guest node %u: %llu MiB needed on host node %u, %llu MiB free: ask for less "
		      "--memory, another host-node, or --memory-policy preferred",
		      need->guest_node, mib(bytes), n->os_index, mib(n->free_bytes));
}

static bool same_kind(uint64_t a, uint64_t b)
{
	return a == b || (!mem_pages_reserved(a) && !mem_pages_reserved(b));
}

static int check_nodes(struct check *c, const struct need *need, unsigned nr)
{
	for (unsigned i = 0; i < nr; i++) {
		unsigned node =
			need[i].host_node < 0
				? MACHINE_NONE
				: machine_find_node(c->f->machine, (unsigned)need[i].host_node);
		uint64_t bytes = 0;
		int err;

		if (node == MACHINE_NONE)
			continue;
		for (unsigned j = 0; j <= i; j++)
			if (need[j].host_node == need[i].host_node &&
			    same_kind(need[j].page_bytes, need[i].page_bytes))
				bytes += need[j].bytes;
		err = check_node(c, &need[i], &c->f->machine->node[node], bytes);
		if (err)
			return err;
	}
	return 0;
}

/* --- plans and requests ----------------------------------------------------------------- */

static unsigned needs_of_plan(const struct plan *p, struct need *need)
{
	unsigned nr = 0;

	for (unsigned g = 0; g < p->nr_memory; g++) {
		const struct plan_memory *mem = &p->memory[g];

		for (unsigned i = 0; i < mem->nr_shares; i++) {
			const struct mem_share *s = &p->share[mem->first_share + i];

			need[nr++] = (struct need){ g, s->node, s->bytes, mem->page_bytes };
		}
		if (!mem->nr_shares && mem->bytes)
			need[nr++] =
				(struct need){ g, mem->host_node, mem->bytes, mem->page_bytes };
	}
	return nr;
}

int mem_preflight(const struct mem_facts *f, const struct plan *p, char *why, size_t why_bytes)
{
	struct need need[PLAN_SHARES_MAX + PLAN_NODES_MAX];
	struct check c = { .f = f, .why = why, .why_bytes = why_bytes };
	unsigned nr = needs_of_plan(p, need);
	int err = check_bind(&c);

	if (!err)
		err = check_totals(&c, need, nr);
	return err ? err : check_nodes(&c, need, nr);
}

static unsigned needs_of_request(const struct plan_request *r, struct need *need)
{
	unsigned nr = 0;

	if (!r->node) {
		need[0] = (struct need){ 0, -1, r->memory_bytes, r->page_bytes };
		return 1;
	}
	for (unsigned g = 0; g < r->nodes; g++) {
		const struct plan_node_request *n = &r->node[g];
		bool bound = n->host_node >= 0 && !mem_policy_spreads(r->memory_policy);

		if (n->memory_bytes)
			need[nr++] = (struct need){ g, bound ? n->host_node : -1, n->memory_bytes,
						    n->page_bytes ? n->page_bytes : r->page_bytes };
	}
	return nr;
}

/* A guest node that nobody has bound needs its pages on some one node. */
static int check_anywhere(struct check *c, const struct need *need)
{
	const struct machine_model *m = c->f->machine;
	const struct machine_node *most = NULL;

	for (unsigned n = 0; n < m->nr_nodes; n++)
		if (m->node[n].usable && (!most || free_of(&m->node[n], need->page_bytes) >
							   free_of(most, need->page_bytes)))
			most = &m->node[n];
	if (!most || need->bytes <= free_of(most, need->page_bytes))
		return 0;
	return complain_of_pages(c, need, most, need->bytes);
}

/*
 * Whether plain memory is short only the planner knows, who may cut the guest as it
 * likes; of pools it knows no more than that they are too small.
 */
int mem_preflight_request(const struct mem_facts *f, const struct plan_request *r, char *why,
			  size_t why_bytes)
{
	struct need need[PLAN_NODES_MAX] = { 0 };
	struct check c = { .f = f, .why = why, .why_bytes = why_bytes };
	unsigned nr = needs_of_request(r, need);
	int err = check_totals(&c, need, nr);

	if (!err)
		err = check_nodes(&c, need, nr);
	for (unsigned i = 0; i < nr && !err; i++)
		if (need[i].host_node < 0 && mem_pages_reserved(need[i].page_bytes) &&
		    (r->node || r->nodes <= 1))
			err = check_anywhere(&c, &need[i]);
	return err;
}
