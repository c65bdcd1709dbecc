/*
 * ram_populate.c - fills guest RAM before the guest starts, and looks where it went.
 *
 * A crew of threads, one on each PU that the plan has, goes over the regions twice:
 * to populate, then to look. Each takes the next chunk of a region it is near to,
 * by an atomic counter; so nobody waits while there is work, and no node waits for
 * another. The caller's thread shows progress meanwhile.
 */
#include "mem/ram.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#define CHUNKS      64 /* a region is cut into about so many, */
#define CHUNK_MIN   MIB(2)
#define CHUNK_MAX   MIB(256)
#define PROGRESS_NS (100 * NSEC_PER_MSEC)

/* What is done to a region; several workers at once. */
struct field {
	unsigned node;
	const struct host_mem *mem;
	uint64_t chunk;
	bool anybody; /* no worker is nearer than others */
	_Atomic uint64_t next;
	_Atomic uint64_t done; /* bytes populated */
	_Atomic uint64_t looked, placed;
	_Atomic int stray; /* a host node that pages are on and should not be, or -1 */
};

struct crew;

struct worker {
	struct crew *crew;
	unsigned pu;
	int host_node;
	struct host_thread *thread;
	struct host_where where; /* scratch */
};

struct crew {
	const struct ram *ram;
	int (*work)(struct crew *c, struct worker *w, struct field *f, uint64_t at, uint64_t bytes);
	struct field field[PLAN_NODES_MAX];
	unsigned nr_fields;
	struct worker *worker;
	unsigned nr_workers;
	_Atomic uint32_t busy; /* futex word: workers that have not ended */
	_Atomic int err;       /* the first one's; all stop */
	_Atomic unsigned failed;
};

static void give_up(struct crew *c, unsigned field, int err)
{
	int none = 0;

	if (atomic_compare_exchange_strong(&c->err, &none, err))
		atomic_store(&c->failed, field);
}

/* --- the two kinds of work ------------------------------------------------------------- */

static int populate(struct crew *c, struct worker *w, struct field *f, uint64_t at, uint64_t bytes)
{
	const struct host *h = c->ram->host;
	int err = h->ops->mem_prefault(h->ctx, f->mem, at, bytes);

	if (!err)
		atomic_fetch_add(&f->done, bytes);
	return err;
}

static bool is_asked_for(const struct plan *p, const struct plan_memory *pm, int node)
{
	if (!mem_policy_spreads(p->memory_policy))
		return node == pm->host_node;
	for (unsigned i = 0; i < pm->nr_shares; i++)
		if (p->share[pm->first_share + i].node == node)
			return true;
	return false;
}

static int look(struct crew *c, struct worker *w, struct field *f, uint64_t at, uint64_t bytes)
{
	const struct plan *p = c->ram->plan;
	const struct host *h = c->ram->host;
	int err;

	memset(&w->where, 0, sizeof(w->where));
	err = h->ops->mem_where(h->ctx, f->mem, at, bytes, &w->where);
	if (err == -ENOSYS)
		return 0; /* then nothing was looked at, which is what the report says */
	for (unsigned n = 0; n < HOST_NODES_MAX && !err; n++) {
		if (!w->where.bytes[n])
			continue;
		atomic_fetch_add(&f->looked, w->where.bytes[n]);
		if (is_asked_for(p, &p->memory[f->node], (int)n))
			atomic_fetch_add(&f->placed, w->where.bytes[n]);
		else
			atomic_store(&f->stray, (int)n);
	}
	return err;
}

/* --- the crew ----------------------------------------------------------------------------- */

static void work_on(struct worker *w, struct field *f)
{
	struct crew *c = w->crew;

	while (!atomic_load(&c->err)) {
		uint64_t at = atomic_fetch_add(&f->next, f->chunk);
		int err;

		if (at >= f->mem->bytes)
			return;
		err = c->work(c, w, f, at, MIN(f->chunk, f->mem->bytes - at));
		if (err)
			give_up(c, (unsigned)(f - c->field), err);
	}
}

static void worker_thread(void *arg)
{
	struct worker *w = arg;
	struct crew *c = w->crew;
	const struct host *h = c->ram->host;

	for (unsigned i = 0; i < c->nr_fields; i++)
		if (!c->field[i].anybody && c->field[i].mem->node == w->host_node)
			work_on(w, &c->field[i]);
	for (unsigned i = 0; i < c->nr_fields; i++)
		if (c->field[i].anybody)
			work_on(w, &c->field[i]);
	atomic_fetch_sub(&c->busy, 1);
	h->ops->wake(h->ctx, &c->busy, 1);
}

static int start_worker(struct crew *c, struct worker *w)
{
	const struct host *h = c->ram->host;
	struct pu_set pus;
	struct host_thread_attr attr = {
		.name = "prefault",
		.pus = &pus,
		.fn = worker_thread,
		.arg = w,
	};
	int err;

	pu_set_clear(&pus);
	pu_set_add(&pus, w->pu);
	atomic_fetch_add(&c->busy, 1);
	err = h->ops->thread_create(h->ctx, &attr, &w->thread);
	if (err)
		atomic_fetch_sub(&c->busy, 1);
	return err;
}

static uint64_t sum_done(struct crew *c)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < c->nr_fields; i++)
		sum += atomic_load(&c->field[i].done);
	return sum;
}

static void watch(struct crew *c, const struct ram_populate *how, uint64_t all)
{
	const struct host *h = c->ram->host;
	uint32_t busy;

	while ((busy = atomic_load(&c->busy))) {
		uint64_t until = h->ops->now_ns(h->ctx) + PROGRESS_NS;

		h->ops->wait(h->ctx, &c->busy, busy, how->progress ? until : HOST_FOREVER);
		if (how->progress && !how->progress(how->arg, sum_done(c), all))
			give_up(c, 0, -ECANCELED);
	}
}

/*
 * All of the crew over all fields. A node whose every thread failed to start would be
 * left out, so one that fails ends it all.
 */
static int run_crew(struct crew *c, const struct ram_populate *how, uint64_t all)
{
	const struct host *h = c->ram->host;
	int err = 0;

	for (unsigned i = 0; i < c->nr_fields; i++)
		atomic_store(&c->field[i].next, 0);
	for (unsigned i = 0; i < c->nr_workers && !err; i++) {
		err = start_worker(c, &c->worker[i]);
		if (err)
			give_up(c, 0, err);
	}
	watch(c, how, all);
	for (unsigned i = 0; i < c->nr_workers; i++) {
		if (c->worker[i].thread)
			h->ops->thread_join(h->ctx, c->worker[i].thread);
		c->worker[i].thread = NULL;
	}
	return atomic_load(&c->err);
}

/* --- who and what --------------------------------------------------------------------------- */

static int hire(struct crew *c)
{
	const struct plan *p = c->ram->plan;
	struct pu_set seen = { 0 };

	c->worker = calloc(p->nr_vcpus, sizeof(*c->worker));
	if (!c->worker)
		return -ENOMEM;
	for (unsigned i = 0; i < p->nr_vcpus; i++) {
		const struct plan_vcpu *v = &p->vcpu[i];

		if (pu_set_has(&seen, v->pu))
			continue;
		pu_set_add(&seen, v->pu);
		c->worker[c->nr_workers++] = (struct worker){
			.crew = c,
			.pu = v->pu,
			.host_node = v->host_node,
		};
	}
	return 0;
}

static bool has_neighbour(const struct crew *c, int host_node)
{
	for (unsigned i = 0; i < c->nr_workers; i++)
		if (c->worker[i].host_node == host_node)
			return true;
	return false;
}

static uint64_t collect_fields(struct crew *c, bool everything)
{
	uint64_t all = 0;

	for (unsigned i = 0; i < c->ram->plan->nr_memory; i++) {
		const struct host_mem *m = &c->ram->region[i];
		struct field *f = &c->field[c->nr_fields];
		uint64_t chunk;

		if (!m->base || (!everything && !mem_pages_reserved(m->page_bytes)))
			continue;
		chunk = MIN(MAX(m->bytes / CHUNKS, CHUNK_MIN), CHUNK_MAX);
		*f = (struct field){
			.node = i,
			.mem = m,
			.chunk = ALIGN_UP(chunk, MAX(m->page_bytes, CHUNK_MIN)),
			.anybody = mem_policy_spreads(c->ram->plan->memory_policy) ||
				   !has_neighbour(c, m->node),
			.stray = -1,
		};
		c->nr_fields++;
		all += m->bytes;
	}
	return all;
}

/* --- what went wrong ---------------------------------------------------------------------- */

static int complain(const struct crew *c, int err, char *why, size_t why_bytes)
{
	const struct field *f = &c->field[c->failed];
	char pages[32] = "memory";

	if (err == -ECANCELED) {
		snprintf(why, why_bytes, "ended while its memory was populated");
		return err;
	}
	if (mem_pages_reserved(f->mem->page_bytes))
		snprintf(pages, sizeof(pages), "pages of %lluM",
			 (unsigned long long)(f->mem->page_bytes >> 20));
	snprintf(why, why_bytes,
		 "cannot populate guest node %u: %s after %llu of %llu MiB of %s on host node %d: "
		 "ask for less, or for another node",
		 f->node, strerror(-err), (unsigned long long)(f->done >> 20),
		 (unsigned long long)(f->mem->bytes >> 20), pages, f->mem->node);
	return err;
}

static int judge(const struct crew *c, struct mem_report *out, char *why, size_t why_bytes)
{
	const struct plan *p = c->ram->plan;
	int err = 0;

	for (unsigned i = 0; i < c->nr_fields; i++) {
		const struct field *f = &c->field[i];

		out->looked += f->looked;
		out->placed += f->placed;
		if (f->stray < 0 || p->memory_policy == MEM_PREFERRED || err)
			continue;
		err = -EXDEV;
		snprintf(why, why_bytes,
			 "guest node %u: only %.2f %% of its memory is on the host nodes it was "
			 "asked on, some is on node %d: start it again, or say --memory-policy "
			 "preferred",
			 f->node, 100.0 * (double)f->placed / (double)f->looked, f->stray);
	}
	return err;
}

/* Hosts without nodes have nothing to look at. */
static bool can_look(const struct crew *c)
{
	for (unsigned i = 0; i < c->nr_fields; i++)
		if (c->ram->plan->memory[c->field[i].node].host_node < 0)
			return false;
	return true;
}

static int populate_all(struct crew *c, const struct ram_populate *how, struct mem_report *out,
			char *why, size_t why_bytes)
{
	const struct host *h = c->ram->host;
	uint64_t start_ns;
	int err = hire(c);

	if (err)
		return err;
	out->bytes = collect_fields(c, how->all);
	if (!out->bytes)
		return 0;
	start_ns = h->ops->now_ns(h->ctx);
	c->work = populate;
	err = run_crew(c, how, out->bytes);
	out->ns = h->ops->now_ns(h->ctx) - start_ns;
	out->threads = c->nr_workers;
	if (!err && can_look(c)) {
		c->work = look;
		err = run_crew(c, how, out->bytes);
	}
	if (err)
		return complain(c, err, why, why_bytes);
	return judge(c, out, why, why_bytes);
}

int ram_populate(const struct ram *r, const struct ram_populate *how, struct mem_report *out,
		 char *why, size_t why_bytes)
{
	struct crew *c = calloc(1, sizeof(*c));
	int err;

	*out = (struct mem_report){ 0 };
	if (!c)
		return -ENOMEM;
	c->ram = r;
	err = populate_all(c, how, out, why, why_bytes);
	free(c->worker);
	free(c);
	return err;
}
