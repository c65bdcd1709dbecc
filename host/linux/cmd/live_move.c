/*
 * live_move.c - a running machine's vCPUs to other PUs, its memory to other nodes.
 *
 * Memory moves in stretches, so that a limit of its rate can be kept, progress told,
 * other requests served in between, and the machine ended at any time. What has
 * moved stays moved, whatever becomes of the rest.
 */
#include "live_int.h"

#include <errno.h>

#define STRETCH_BYTES MIB(4)

/* Pages that the kernel holds for a moment, or the guest all the time, get more chances. */
#define HELD_MAX      50
#define HELD_PAUSE_NS (20 * NSEC_PER_MSEC)

/* --- vCPUs -------------------------------------------------------------------------- */

static const struct machine_pu *find_pu(const struct machine_model *m, unsigned pu,
					struct live_answer *a)
{
	unsigned at = machine_find_pu(m, pu);

	if (at == MACHINE_NONE)
		live_refuse(a, FAULT_REFUSED, "PU %u: there is none: see `alcazar topology`", pu);
	else if (!m->pu[at].usable)
		live_refuse(a, FAULT_REFUSED,
			    "PU %u: it is offline, or not allowed to this machine: see "
			    "`alcazar topology`",
			    pu);
	else
		return &m->pu[at];
	return NULL;
}

int live_bind_vcpu(struct live *l, const struct machine_model *m, unsigned vcpu, unsigned pu,
		   struct live_answer *a)
{
	const struct machine_pu *where = find_pu(m, pu, a);
	int node, err;

	if (!where)
		return -EINVAL;
	node = where->node == MACHINE_NONE ? -1 : (int)m->node[where->node].os_index;
	err = vmm_move_vcpu(l->cfg.vm, vcpu, pu, node);
	if (err)
		live_refuse(a, err == -EINVAL ? FAULT_REFUSED : FAULT_INTERNAL,
			    "vCPU %u cannot run on PU %u: %s", vcpu, pu, strerror(-err));
	return err;
}

int live_discover(const struct live *l, struct machine_model *m, struct live_answer *a)
{
	int err = l->cfg.host->ops->topology(l->cfg.host->ctx, m);

	if (err)
		live_refuse(a, FAULT_INTERNAL, "cannot discover the host's topology: %s",
			    strerror(-err));
	return err;
}

static void move_vcpu(struct live *l, const struct control_request *r,
		      const struct machine_model *m, struct live_answer *a)
{
	unsigned from = l->plan.vcpu[r->vcpu].pu;
	uint64_t before;

	if (!find_pu(m, r->to, a) || live_lock(l, m, a))
		return;
	l->want = l->plan;
	l->want.vcpu[r->vcpu].pu = r->to;
	if (!live_check_pu(l, r->to, a) && !live_claim(l, m, &l->want, a)) {
		before = live_now_ns(l);
		if (live_bind_vcpu(l, m, r->vcpu, r->to, a))
			live_claim(l, m, &l->plan, &(struct live_answer){ 0 });
		else
			a->result = json_pack("{s:i s:i s:i s:f s:o}", "vcpu", r->vcpu, "from",
					      from, "to", r->to, "microseconds",
					      (double)(live_now_ns(l) - before) / 1e3,
					      "shared_with", live_sharers(l, r->to));
	}
	live_unlock(l);
}

void live_move_vcpu(struct live *l, const struct control_request *r, struct live_answer *a)
{
	struct machine_model m = { 0 };

	vmm_get_plan(l->cfg.vm, &l->plan);
	if (r->vcpu >= l->plan.nr_vcpus) {
		live_refuse(a, FAULT_REFUSED, "vCPU %u: there is none: %s has %u, from 0 on",
			    r->vcpu, l->cfg.name, l->plan.nr_vcpus);
		return;
	}
	if (!live_discover(l, &m, a))
		move_vcpu(l, r, &m, a);
	machine_free(&m);
}

/* --- memory ------------------------------------------------------------------------- */

void live_begin_move(struct live *l, unsigned rate_mibs, json_t *result, struct live_answer *a)
{
	l->moving.on = true;
	l->moving.at = 0;
	l->moving.offset = l->moving.done_bytes = l->moving.all_bytes = 0;
	l->moving.held = 0;
	l->moving.again_ns = 0;
	for (unsigned i = 0; i < l->moving.nr; i++)
		l->moving.all_bytes += vmm_memory(l->cfg.vm, l->moving.part[i].node)->bytes;
	l->moving.rate_mibs = rate_mibs;
	l->moving.started_ns = live_now_ns(l);
	l->moving.result = result;
	a->moving = true;
}

/* A stretch is due when all before it should have taken their time. */
uint64_t live_next_move_ns(const struct live *l)
{
	uint64_t rate = l->moving.rate_mibs;

	if (!rate)
		return l->moving.again_ns;
	return MAX(l->moving.again_ns,
		   l->moving.started_ns +
			   mul_div_u64(l->moving.done_bytes, NSEC_PER_SEC, rate * MIB(1)));
}

/* The claim is what the plan has become, all of it or a part. */
static void settle_claim(struct live *l)
{
	struct machine_model m = { 0 };
	struct live_answer ignored = { 0 };

	vmm_get_plan(l->cfg.vm, &l->plan);
	if (!live_discover(l, &m, &ignored) && !live_lock(l, &m, &ignored)) {
		live_claim(l, &m, &l->plan, &ignored);
		live_unlock(l);
	}
	machine_free(&m);
}

static void end_move(struct live *l, struct live_answer *a)
{
	double seconds = (double)(live_now_ns(l) - l->moving.started_ns) / 1e9;
	json_t *result = l->moving.result;

	l->moving.on = false;
	if (a->why[0])
		settle_claim(l);
	l->moving.result = NULL;
	a->moving = false;
	if (a->why[0]) {
		json_decref(result);
		return;
	}
	json_object_set_new(result, "bytes", json_integer((json_int_t)l->moving.done_bytes));
	json_object_set_new(result, "seconds", json_real(seconds));
	a->result = result;
}

static void complain_of_move(struct live *l, const struct live_part *p, int err,
			     struct live_answer *a)
{
	unsigned long long done = l->moving.done_bytes >> 20, all = l->moving.all_bytes >> 20;

	if (err == -ENOMEM)
		live_refuse(a, FAULT_REFUSED,
			    "host node %d is full: %llu of %llu MiB have moved and stay there; "
			    "free some of it and move again, or move back to node %d",
			    p->to, done, all, p->from);
	else if (err == -EBUSY)
		live_refuse(a, FAULT_REFUSED,
			    "some pages are held by the kernel: %llu of %llu MiB have moved; move "
			    "again later",
			    done, all);
	else
		live_refuse(a, err == -EINVAL || err == -EPERM ? FAULT_REFUSED : FAULT_INTERNAL,
			    "cannot move memory to host node %d: %s; %llu of %llu MiB have moved",
			    p->to, strerror(-err), done, all);
}

static int move_stretch(struct live *l, const struct live_part *p, uint64_t bytes,
			struct live_answer *a)
{
	int err;

	if (atomic_load(&l->cancelled) || live_ended(l)) {
		live_refuse(a, FAULT_REFUSED, "the machine has ended");
		return -ECANCELED;
	}
	err = vmm_move_memory(l->cfg.vm, p->node, l->moving.offset, bytes, p->to);
	if (err == -EBUSY && l->moving.held++ < HELD_MAX)
		l->moving.again_ns = live_now_ns(l) + HELD_PAUSE_NS;
	else if (err)
		complain_of_move(l, p, err, a);
	return err;
}

static void advance(struct live *l, uint64_t part_bytes, uint64_t bytes)
{
	l->moving.held = 0;
	l->moving.done_bytes += bytes;
	l->moving.offset += bytes;
	if (l->moving.offset < part_bytes)
		return;
	l->moving.at++;
	l->moving.offset = 0;
}

void live_move(struct live *l, struct live_answer *a)
{
	const struct live_part *p = &l->moving.part[l->moving.at];
	const struct host_mem *m = vmm_memory(l->cfg.vm, p->node);
	uint64_t bytes = MIN(MAX(STRETCH_BYTES, m->page_bytes), m->bytes - l->moving.offset);

	if (!move_stretch(l, p, bytes, a))
		advance(l, m->bytes, bytes);
	a->moving = true;
	a->done_bytes = l->moving.done_bytes;
	a->all_bytes = l->moving.all_bytes;
	if (a->why[0] || l->moving.at == l->moving.nr)
		end_move(l, a);
}

/* Found before anything moves: whether there is such a node, and room for what is to come. */
static int check_target(struct live *l, const struct machine_model *m, unsigned node, unsigned to,
			struct live_answer *a)
{
	unsigned at = machine_find_node(m, to);

	if (at == MACHINE_NONE || !m->node[at].memory_bytes)
		live_refuse(a, FAULT_REFUSED,
			    "host node %u: there is none with memory: see `alcazar topology`", to);
	else if (!m->node[at].usable)
		live_refuse(a, FAULT_REFUSED,
			    "host node %u: its memory is not allowed to this machine", to);
	else
		return 0;
	return -EINVAL;
}

/* Locked. Huge pages are counted by the kernel alone, when they are moved. */
static int check_room(struct live *l, const struct machine_model *m, unsigned node, unsigned to,
		      struct live_answer *a)
{
	uint64_t left = m->node[machine_find_node(m, to)].free_bytes, need;
	uint64_t promised = live_promised(l, to);
	struct host_where where;

	if (l->plan.memory[node].page_bytes > PAGE_SIZE || live_where(l, node, &where))
		return 0;
	need = l->plan.memory[node].bytes - where.bytes[to];
	left -= MIN(left, promised);
	if (need <= left)
		return 0;
	live_refuse(a, FAULT_REFUSED,
		    "host node %u: %llu MiB needed, have %llu MiB free%s: free some of it, or take "
		    "another node",
		    to, (unsigned long long)need >> 20, (unsigned long long)left >> 20,
		    promised ? " that is not promised to others" : "");
	return -ENOSPC;
}

static void begin_memory(struct live *l, const struct control_request *r,
			 const struct machine_model *m, struct live_answer *a)
{
	int from = l->plan.memory[r->node].host_node;

	if (check_target(l, m, r->node, r->to, a) || live_lock(l, m, a))
		return;
	l->want = l->plan;
	l->want.memory[r->node].host_node = (int)r->to;
	if (!check_room(l, m, r->node, r->to, a) && !live_claim(l, m, &l->want, a)) {
		l->moving.part[0] = (struct live_part){ r->node, from, (int)r->to };
		l->moving.nr = 1;
		live_begin_move(
			l, r->rate_mibs,
			json_pack("{s:i s:i s:i}", "node", r->node, "from", from, "to", r->to), a);
	}
	live_unlock(l);
}

void live_move_memory(struct live *l, const struct control_request *r, struct live_answer *a)
{
	struct machine_model m = { 0 };

	vmm_get_plan(l->cfg.vm, &l->plan);
	if (l->moving.on) {
		live_refuse(a, FAULT_BUSY, "memory is being moved already");
		return;
	}
	if (r->node >= l->plan.nr_memory) {
		live_refuse(a, FAULT_REFUSED, "guest node %u: there is none: %s has %u, from 0 on",
			    r->node, l->cfg.name, l->plan.nr_memory);
		return;
	}
	if (!l->plan.memory[r->node].bytes) {
		live_refuse(a, FAULT_REFUSED, "guest node %u: it has no memory", r->node);
		return;
	}
	if (!live_discover(l, &m, a))
		begin_memory(l, r, &m, a);
	machine_free(&m);
}
