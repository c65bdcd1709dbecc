/*
 * live_rebalance.c - a new plan for a running machine, and the moves that lead there.
 *
 * The machine keeps the shape its guest knows: so many nodes, with these vCPUs and this
 * memory each. Where it is now is priced as well, by a plan whose every choice is made
 * already. It moves only where that saves distance, siblings or shared PUs: for what
 * merely breaks ties no memory is copied.
 */
#include "live_int.h"

#include "measure.h"

#include <errno.h>
#include <stdlib.h>

#define LEAST_GAIN (1.0 / 1024) /* all tie-breakers together are less: docs/placement.md */

struct rebalance {
	struct machine_model m;
	struct plan_request request;
	struct plan_node_request node[PLAN_NODES_MAX];
	struct plan_node_request home[PLAN_NODES_MAX]; /* the same where memory stays */
	struct plan_pin pin[PLAN_VCPUS_MAX];
	struct plan before, after, trial;
	char why[CONTROL_WHY_BYTES];
};

/* What is ours counts as free: it goes where the new plan wants it. */
static void give_back(struct live *l, struct machine_model *m, unsigned node)
{
	struct host_where *w = malloc(sizeof(*w));
	uint64_t page_bytes = l->plan.memory[node].page_bytes;
	bool known = w && !live_where(l, node, w);

	for (unsigned n = 0; known && n < m->nr_nodes; n++) {
		uint64_t bytes = w->bytes[m->node[n].os_index];

		if (page_bytes <= PAGE_SIZE)
			m->node[n].free_bytes += bytes;
		for (unsigned k = 0; k < MACHINE_PAGE_SIZES && page_bytes > PAGE_SIZE; k++)
			if (m->node[n].huge[k].bytes == page_bytes)
				m->node[n].huge[k].free += bytes / page_bytes;
	}
	free(w);
}

static struct pu_set nodes_of_memory(const struct plan *p, unsigned g)
{
	const struct plan_memory *m = &p->memory[g];
	struct pu_set set = { 0 };

	for (unsigned i = 0; i < m->nr_shares; i++)
		pu_set_add(&set, (unsigned)p->share[m->first_share + i].node);
	if (!m->nr_shares && m->host_node >= 0)
		pu_set_add(&set, (unsigned)m->host_node);
	return set;
}

/* The machine's own request, for the shape it has. */
static void keep_shape(const struct live *l, struct rebalance *b)
{
	const struct plan_request *asked = l->cfg.request;
	const struct plan *p = &l->plan;

	b->request = *asked;
	b->request.nodes = p->nr_memory;
	b->request.vcpus = p->nr_vcpus;
	b->request.memory_bytes = 0;
	b->request.io_threads = true;
	b->request.claim = l->claims.claim;
	b->request.nr_claims = l->claims.nr;
	for (unsigned g = 0; g < p->nr_memory; g++) {
		b->node[g] = (struct plan_node_request){
			.memory_bytes = p->memory[g].bytes,
			.page_bytes = p->memory[g].page_bytes,
			.host_node =
				asked->node && g < asked->nodes ? asked->node[g].host_node : -1,
		};
		if (mem_policy_spreads(asked->memory_policy))
			b->node[g].over = nodes_of_memory(p, g);
		b->request.memory_bytes += p->memory[g].bytes;
	}
	for (unsigned v = 0; v < p->nr_vcpus; v++)
		b->node[p->vcpu[v].guest_node].vcpus++;
	b->request.node = b->node;
}

static int plan_with(struct rebalance *b, const struct plan_request *r, struct plan *out)
{
	return plan_make(&b->m, r, out, b->why, sizeof(b->why));
}

/* The same, but memory is to stay where it is. */
static struct plan_request stay_at_home(const struct live *l, struct rebalance *b)
{
	struct plan_request r = b->request;

	memcpy(b->home, b->node, sizeof(b->home));
	for (unsigned g = 0; g < l->plan.nr_memory; g++)
		b->home[g].host_node = l->plan.memory[g].host_node;
	r.node = b->home;
	return r;
}

/*
 * The plan as it stands, priced: nothing is left to choose. Where it would not be made again,
 * since others were promised too much beside it, the price that it had must do.
 */
static int price_present(struct live *l, struct rebalance *b)
{
	struct plan_request r = stay_at_home(l, b);
	int err;

	for (unsigned v = 0; v < l->plan.nr_vcpus; v++) {
		b->pin[v] = (struct plan_pin){ .first = v, .last = v };
		pu_set_add(&b->pin[v].pus, l->plan.vcpu[v].pu);
	}
	r.pin = b->pin;
	r.nr_pins = l->plan.nr_vcpus;
	r.exclusive = false;
	err = plan_with(b, &r, &b->before);
	if (err == -ENOSPC)
		b->before = l->plan;
	return err == -ENOSPC ? 0 : err;
}

static unsigned count_shared(const struct plan *p)
{
	unsigned nr = 0;

	for (unsigned i = 0; i < p->nr_vcpus; i++)
		nr += p->vcpu[i].shared;
	return nr;
}

static bool is_better(const struct plan *p, const struct plan *than)
{
	unsigned now = count_shared(than), then = count_shared(p);

	return now != then ? then < now : p->cost.total < than->cost.total - LEAST_GAIN;
}

/* Copying memory must be worth it: it goes only where moving vCPUs alone is not as good. */
static int choose(struct live *l, struct rebalance *b)
{
	struct plan_request stay = stay_at_home(l, b);
	int err = price_present(l, b);

	b->after = b->before;
	if (!err && !plan_with(b, &stay, &b->trial) && is_better(&b->trial, &b->after))
		b->after = b->trial;
	if (!err)
		err = plan_with(b, &b->request, &b->trial);
	if (!err && is_better(&b->trial, &b->after))
		b->after = b->trial;
	return err;
}

/* The ledger is locked. */
static int make_plans(struct live *l, struct rebalance *b, struct live_answer *a)
{
	int err;

	measure_load(&b->m);
	for (unsigned g = 0; g < l->plan.nr_memory; g++)
		give_back(l, &b->m, g);
	keep_shape(l, b);
	err = choose(l, b);
	if (err)
		live_refuse(a, err == -ENOMEM ? FAULT_INTERNAL : FAULT_REFUSED, "%s", b->why);
	return err;
}

/* --- moves -------------------------------------------------------------------------- */

static json_t *vcpu_moves(const struct plan *from, const struct plan *to)
{
	json_t *list = json_array();

	for (unsigned v = 0; v < from->nr_vcpus; v++)
		if (from->vcpu[v].pu != to->vcpu[v].pu)
			json_array_append_new(list,
					      json_pack("{s:i s:i s:i}", "id", v, "from",
							from->vcpu[v].pu, "to", to->vcpu[v].pu));
	return list;
}

/* What is spread over several nodes is where it should be, wherever its vCPUs go. */
static bool memory_moves_house(const struct plan *from, const struct plan *to, unsigned g)
{
	return from->memory[g].bytes && from->memory[g].nr_shares < 2 &&
	       from->memory[g].host_node != to->memory[g].host_node;
}

static json_t *memory_moves(const struct plan *from, const struct plan *to)
{
	json_t *list = json_array();

	for (unsigned g = 0; g < from->nr_memory; g++)
		if (memory_moves_house(from, to, g))
			json_array_append_new(list,
					      json_pack("{s:i s:i s:i s:I}", "guest_node", g,
							"from", from->memory[g].host_node, "to",
							to->memory[g].host_node, "bytes",
							(json_int_t)from->memory[g].bytes));
	return list;
}

static json_t *describe(const struct live *l, const struct rebalance *b)
{
	return json_pack("{s:f s:f s:o s:o}", "cost_before", b->before.cost.total, "cost_after",
			 b->after.cost.total, "vcpus", vcpu_moves(&l->plan, &b->after), "memory",
			 memory_moves(&l->plan, &b->after));
}

static int bind_threads(struct live *l, struct rebalance *b, struct live_answer *a)
{
	int err = 0;

	for (unsigned v = 0; v < l->plan.nr_vcpus && !err; v++)
		if (l->plan.vcpu[v].pu != b->after.vcpu[v].pu)
			err = live_bind_vcpu(l, &b->m, v, b->after.vcpu[v].pu, a);
	return err;
}

static void place_io(struct live *l, const struct plan *p)
{
	if (l->cfg.place_io)
		l->cfg.place_io(l->cfg.arg, p);
	vmm_note_io(l->cfg.vm, p->io, p->nr_io);
	live_keep_house(l);
}

static void plan_memory_moves(struct live *l, const struct rebalance *b)
{
	l->moving.nr = 0;
	for (unsigned g = 0; g < l->plan.nr_memory; g++) {
		int from = l->plan.memory[g].host_node, to = b->after.memory[g].host_node;

		if (memory_moves_house(&l->plan, &b->after, g))
			l->moving.part[l->moving.nr++] = (struct live_part){ g, from, to };
	}
}

/* vCPUs at once; memory stretch by stretch from now on. The ledger is locked. */
static void carry_out(struct live *l, struct rebalance *b, unsigned rate_mibs, json_t *result,
		      struct live_answer *a)
{
	if (live_claim(l, &b->m, &b->after, a))
		return;
	if (bind_threads(l, b, a)) {
		vmm_get_plan(l->cfg.vm, &l->plan);
		live_claim(l, &b->m, &l->plan, &(struct live_answer){ 0 });
		return;
	}
	place_io(l, &b->after);
	plan_memory_moves(l, b);
	if (l->moving.nr)
		live_begin_move(l, rate_mibs, json_incref(result), a);
	else
		a->result = json_incref(result);
}

static void rebalance(struct live *l, struct rebalance *b, const struct control_request *r,
		      struct live_answer *a)
{
	json_t *result;

	if (live_discover(l, &b->m, a) || live_lock(l, &b->m, a))
		return;
	if (!make_plans(l, b, a)) {
		result = describe(l, b);
		if (r->dry_run)
			a->result = json_incref(result);
		else
			carry_out(l, b, r->rate_mibs, result, a);
		json_decref(result);
	}
	live_unlock(l);
}

void live_rebalance(struct live *l, const struct control_request *r, struct live_answer *a)
{
	struct rebalance *b;

	if (l->moving.on) {
		live_refuse(a, FAULT_BUSY, "memory is being moved already");
		return;
	}
	b = calloc(1, sizeof(*b));
	if (!b)
		return; /* the caller says so */
	vmm_get_plan(l->cfg.vm, &l->plan);
	rebalance(l, b, r, a);
	machine_free(&b->m);
	free(b);
}
