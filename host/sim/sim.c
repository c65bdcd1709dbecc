/* sim.c - the simulated host: making and ending it, log, topology, and its table. */
#include "host/sim/internal.h"

#include <asm/prctl.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

_Noreturn void sim_die(struct sim *s, const char *what)
{
	static const char *const state[] = { "ready", "waiting", "done" };

	fprintf(stderr, "sim: %s\n", what);
	for (const struct host_thread *t = s->threads; t; t = t->next)
		fprintf(stderr, "sim: thread \"%s\" %s on %p\n", t->name, state[t->state],
			(const void *)t->word);
	abort();
}

/* xorshift64*; the state is never 0. */
uint64_t sim_random(struct sim *s)
{
	s->random ^= s->random >> 12;
	s->random ^= s->random << 25;
	s->random ^= s->random >> 27;
	return s->random * 0x2545f4914f6cdd1dull;
}

bool sim_fails(struct sim *s, enum sim_failure what)
{
	return s->fail[what] && !--s->fail[what];
}

void sim_fail(const struct host *h, enum sim_failure what, unsigned nth)
{
	struct sim *s = h->ctx;

	s->fail[what] = nth;
}

uint64_t sim_node_used(const struct host *h, unsigned node)
{
	const struct sim *s = h->ctx;

	return node < s->cfg.nodes ? s->node[node].used_bytes : 0;
}

bool sim_thread_pus(const struct host *h, const char *name, struct pu_set *pus)
{
	const struct sim *s = h->ctx;

	for (const struct host_thread *t = s->threads; t; t = t->next) {
		if (!strcmp(t->name, name)) {
			*pus = t->pus;
			return t->bound;
		}
	}
	return false;
}

/* --- small operations -------------------------------------------------------- */

static void sim_thread_set_gs(void *ctx, void *base)
{
	syscall(SYS_arch_prctl, ARCH_SET_GS, base);
}

static uint64_t sim_wall_ns(void *ctx)
{
	struct sim *s = ctx;

	return s->cfg.wall_ns + sim_now_ns(s);
}

static uint64_t sim_ticks(void *ctx)
{
	struct sim *s = ctx;

	return mul_div_u64(sim_now_ns(s), s->cfg.ticks_khz, NSEC_PER_MSEC);
}

static uint64_t sim_ticks_khz(void *ctx)
{
	struct sim *s = ctx;

	return s->cfg.ticks_khz;
}

/* Whoever runs next serialises when it takes the baton, so nothing is left to do. */
static void sim_sync_cores(void *ctx)
{
	sim_self(ctx);
}

static int sim_entropy(void *ctx, void *buf, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		((uint8_t *)buf)[i] = (uint8_t)(sim_random(ctx) >> 32);
	return 0;
}

static void fill_pu(const struct sim *s, struct machine_pu *pu, unsigned i)
{
	unsigned core = i / s->cfg.threads_per_core;

	pu->core = core;
	pu->smt = i % s->cfg.threads_per_core;
	pu->os_index = pu->smt * s->nr_cores + core;
	pu->node = pu->package = pu->die = pu->llc = core / s->cfg.cores_per_node;
	pu->usable = true;
}

static int sim_topology(void *ctx, struct machine_model *out)
{
	const struct sim *s = ctx;
	int err = machine_alloc(out, s->nr_pus, s->cfg.nodes);

	if (err)
		return err;
	snprintf(out->name, sizeof(out->name), "simulated host");
	out->nr_cores = s->nr_cores;
	out->nr_llcs = out->nr_dies = out->nr_packages = s->cfg.nodes;
	for (unsigned i = 0; i < s->nr_pus; i++)
		fill_pu(s, &out->pu[i], i);
	for (unsigned i = 0; i < s->cfg.nodes; i++)
		out->node[i] = (struct machine_node){
			.os_index = i,
			.package = i,
			.memory_bytes = s->cfg.node_memory_bytes,
			.free_bytes = s->cfg.node_memory_bytes - s->node[i].used_bytes,
			.usable = true,
		};
	return 0;
}

/* --- log --------------------------------------------------------------------- */

static void sim_log_line(void *ctx, enum log_level level, const char *line)
{
	struct sim *s = ctx;
	size_t need = s->log_bytes + strlen(line) + 2;

	if (s->cfg.echo_log)
		fprintf(stderr, "sim: %s\n", line);
	if (need > s->log_room) {
		s->log_room = MAX(need, s->log_room * 2);
		s->log = realloc(s->log, s->log_room);
		if (!s->log)
			sim_die(s, "no memory for the log");
	}
	s->log_bytes += (size_t)sprintf(s->log + s->log_bytes, "%s\n", line);
}

const char *sim_log(const struct host *h)
{
	const struct sim *s = h->ctx;

	return s->log_bytes ? s->log : "";
}

void sim_log_clear(const struct host *h)
{
	((struct sim *)h->ctx)->log_bytes = 0;
}

/* --- beginning and end ------------------------------------------------------- */

static const struct host_ops sim_ops = {
	.name = "sim",
	.thread_create = sim_thread_create,
	.thread_join = sim_thread_join,
	.thread_bind = sim_thread_bind,
	.thread_kick = sim_thread_kick,
	.thread_alarm = sim_thread_alarm,
	.thread_yield = sim_thread_yield,
	.thread_set_gs = sim_thread_set_gs,
	.wait = sim_wait,
	.wake = sim_wake,
	.now_ns = sim_now_ns,
	.wall_ns = sim_wall_ns,
	.ticks = sim_ticks,
	.ticks_khz = sim_ticks_khz,
	.timer_create = sim_timer_create,
	.timer_arm = sim_timer_arm,
	.timer_destroy = sim_timer_destroy,
	.mem_map = sim_mem_map,
	.mem_unmap = sim_mem_unmap,
	.mem_prefault = sim_mem_prefault,
	.mem_where = sim_mem_where,
	.mem_move = sim_mem_move,
	.alloc = sim_alloc,
	.free = sim_free,
	.code_map = sim_code_map,
	.code_unmap = sim_code_unmap,
	.code_prefault = sim_code_prefault,
	.fault_handler = sim_fault_handler,
	.sync_cores = sim_sync_cores,
	.entropy = sim_entropy,
	.topology = sim_topology,
	.log = sim_log_line,
};

static void fill_config(struct sim_config *c)
{
	c->nodes = MIN(c->nodes ? c->nodes : 1, SIM_NODES_MAX);
	c->cores_per_node = c->cores_per_node ? c->cores_per_node : 4;
	c->threads_per_core = c->threads_per_core ? c->threads_per_core : 1;
	c->node_memory_bytes = c->node_memory_bytes ? c->node_memory_bytes : GIB(1);
	c->wall_ns = c->wall_ns ? c->wall_ns : 1577836800ull * NSEC_PER_SEC;
	c->ticks_khz = c->ticks_khz ? c->ticks_khz : 1000000;
}

struct host sim_create(const struct sim_config *cfg)
{
	struct sim *s = calloc(1, sizeof(*s));

	if (!s) {
		fprintf(stderr, "sim: no memory\n");
		abort();
	}
	if (cfg)
		s->cfg = *cfg;
	fill_config(&s->cfg);
	s->nr_cores = s->cfg.nodes * s->cfg.cores_per_node;
	s->nr_pus = s->nr_cores * s->cfg.threads_per_core;
	s->random = s->cfg.seed ? s->cfg.seed : 1;
	for (unsigned i = 0; i < SIM_NODES_MAX; i++)
		s->node[i].sim = s;
	sched_start(s);
	return (struct host){ &sim_ops, s };
}

unsigned sim_destroy(struct host *h)
{
	struct sim *s = h->ctx;
	unsigned left = sched_stop(s) + memory_stop(s);

	pthread_mutex_destroy(&s->mutex);
	free(s->log);
	free(s);
	*h = (struct host){ 0 };
	return left;
}
