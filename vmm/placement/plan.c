/*
 * plan.c - the planner: checks the request, has candidates made, solved and priced,
 * and takes the best. plan_int.h says who does what.
 */
#include "placement/plan_int.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

int plan_refuse(struct planner *p, int err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(p->why, p->why_bytes, fmt, ap);
	va_end(ap);
	return err;
}

static unsigned long long mib(uint64_t bytes)
{
	return bytes / MIB(1);
}

/* --- the request ------------------------------------------------------------------------ */

static int check_counts(struct planner *p)
{
	const struct plan_request *r = p->r;
	const char *complaint = NULL;

	if (r->vcpus < 1 || r->vcpus > PLAN_VCPUS_MAX)
		complaint = "1 to 1024 vCPUs can be placed";
	else if (r->nodes > PLAN_NODES_MAX)
		complaint = "up to 64 guest nodes can be placed";
	else if (r->nodes > r->vcpus && !r->node)
		complaint = "each guest node needs a vCPU: ask for fewer nodes";
	else if (r->memory_bytes % MIB(1) ||
		 r->memory_bytes / MIB(1) < (r->node ? 1 : MAX(r->nodes, 1)))
		complaint = "each guest node needs memory, in whole MiB";
	if (!complaint)
		return 0;
	return plan_refuse(p, -EINVAL, "%u vCPUs, %u nodes, %llu MiB: %s", r->vcpus, r->nodes,
			   mib(r->memory_bytes), complaint);
}

static int check_pages(struct planner *p, uint64_t page_bytes, uint64_t bytes)
{
	if (!mem_pages_reserved(page_bytes))
		return 0;
	if (page_bytes & (page_bytes - 1))
		return plan_refuse(p, -EINVAL, "pages of %llu bytes: a power of two is needed",
				   (unsigned long long)page_bytes);
	if (bytes % page_bytes)
		return plan_refuse(p, -EINVAL,
				   "%llu MiB in pages of %llu MiB: whole pages are needed",
				   mib(bytes), mib(page_bytes));
	return 0;
}

static int check_over(struct planner *p, unsigned g, const struct plan_node_request *n)
{
	unsigned nr = pu_set_count(&n->over);

	if (nr > 1 && !mem_policy_spreads(p->r->memory_policy))
		return plan_refuse(p, -EINVAL,
				   "guest node %u: on %u host nodes at once is for --memory-policy "
				   "interleave and weighted",
				   g, nr);
	pu_set_for_each(os_index, &n->over) if (
		machine_find_node(p->m, os_index) ==
		MACHINE_NONE) return plan_refuse(p, -EINVAL,
						 "guest node %u: this machine has no node %u: see `alcazar "
						 "topology`",
						 g, os_index);
	return 0;
}

static int check_given_nodes(struct planner *p)
{
	const struct plan_request *r = p->r;
	uint64_t bytes = 0, vcpus = 0;
	int err = 0;

	for (unsigned g = 0; g < r->nodes && !err; g++) {
		const struct plan_node_request *n = &r->node[g];

		if ((!n->vcpus && !n->memory_bytes) || n->memory_bytes % MIB(1))
			return plan_refuse(
				p, -EINVAL,
				"guest node %u: %u vCPUs and %llu bytes: it needs a vCPU "
				"or memory, the latter in whole MiB",
				g, n->vcpus, (unsigned long long)n->memory_bytes);
		if (n->host_node >= 0 &&
		    machine_find_node(p->m, (unsigned)n->host_node) == MACHINE_NONE)
			return plan_refuse(p, -EINVAL,
					   "guest node %u: this machine has no node %d: see "
					   "`alcazar topology`",
					   g, n->host_node);
		if (!err)
			err = check_over(p, g, n);
		if (!err)
			err = check_pages(p, n->page_bytes ? n->page_bytes : r->page_bytes,
					  n->memory_bytes);
		vcpus += n->vcpus;
		bytes += n->memory_bytes;
	}
	if (!err && (vcpus != r->vcpus || bytes != r->memory_bytes))
		return plan_refuse(
			p, -EINVAL,
			"the guest nodes have %llu vCPUs and %llu MiB together, the guest "
			"has %u and %llu MiB",
			(unsigned long long)vcpus, mib(bytes), r->vcpus, mib(r->memory_bytes));
	return err;
}

static int check_request(struct planner *p)
{
	int err = check_counts(p);

	if (!err)
		err = p->r->node ? 0 : check_pages(p, p->r->page_bytes, p->r->memory_bytes);
	if (!err && p->r->node)
		err = check_given_nodes(p);
	for (unsigned i = 0; i < p->r->nr_pins && !err; i++)
		if (p->r->pin[i].first > p->r->pin[i].last || p->r->pin[i].last >= p->r->vcpus)
			err = plan_refuse(p, -EINVAL, "vCPUs %u to %u are pinned, but there are %u",
					  p->r->pin[i].first, p->r->pin[i].last, p->r->vcpus);
	return err;
}

/* After the survey, which knows the page sizes. */
static int check_page_kinds(struct planner *p)
{
	uint64_t missing = 0;

	if (plan_page_kind(p, p->r->page_bytes) == PAGE_KINDS)
		missing = p->r->page_bytes;
	for (unsigned g = 0; p->r->node && g < p->r->nodes; g++)
		if (plan_page_kind(p, p->r->node[g].page_bytes) == PAGE_KINDS)
			missing = p->r->node[g].page_bytes;
	if (!missing)
		return 0;
	return plan_refuse(p, -ENOSPC,
			   "pages of %llu KiB: no node has reserved any: write to "
			   "/sys/devices/system/node/node*/hugepages/hugepages-%llukB/nr_hugepages",
			   (unsigned long long)missing / 1024, (unsigned long long)missing / 1024);
}

/* --- what does not fit ------------------------------------------------------------------- */

struct shortage {
	unsigned most; /* the node with most room */
	unsigned fits; /* guests that found room, biggest first */
	unsigned guest;
};

/* The first guest that would find no room if each took the node with most of it. */
static struct shortage find_shortage(const struct planner *p, const struct plan_candidate *c)
{
	struct shortage s = { .most = MACHINE_NONE };
	uint64_t left[MACHINE_NODES_MAX];

	memcpy(left, p->room[c->guest[0].kind], p->m->nr_nodes * sizeof(*left));
	for (unsigned n = 0; n < p->m->nr_nodes; n++)
		if (p->m->node[n].usable && (s.most == MACHINE_NONE || left[n] > left[s.most]))
			s.most = n;
	for (s.guest = 0; s.guest < c->nr; s.guest++) {
		unsigned best = c->guest[s.guest].must_home;

		for (unsigned n = 0; best == MACHINE_NONE && n < p->m->nr_nodes; n++)
			if (left[n] >= c->guest[s.guest].bytes)
				best = n;
		if (best == MACHINE_NONE || left[best] < c->guest[s.guest].bytes)
			break;
		left[best] -= c->guest[s.guest].bytes;
		s.fits++;
	}
	return s;
}

static int complain_of_home(struct planner *p, const struct plan_candidate *c, unsigned g)
{
	unsigned home = c->guest[g].must_home;
	const struct machine_node *node = &p->m->node[home];

	if (!node->usable)
		return plan_refuse(p, -ENOSPC,
				   "guest node %u: host node %u may not be used: it is "
				   "offline or not allowed",
				   g, node->os_index);
	return plan_refuse(
		p, -ENOSPC,
		"guest node %u: %llu MiB needed on host node %u, have %llu MiB%s: ask for "
		"less, or for another node",
		g, mib(c->guest[g].bytes), node->os_index, mib(p->room[c->guest[g].kind][home]),
		mem_pages_reserved(c->guest[g].page_bytes) ? " in free huge pages" : " free");
}

static int complain_of_huge_pages(struct planner *p, const struct plan_guest *g, unsigned most)
{
	unsigned long long page = g->page_bytes, have = p->room[g->kind][most];
	unsigned node = p->m->node[most].os_index;

	return plan_refuse(
		p, -ENOSPC,
		"memory: %llu pages of %llu KiB needed on one host node, have %llu free on "
		"node %u: ask for less, or write %llu to /sys/devices/system/node/node%u/"
		"hugepages/hugepages-%llukB/nr_hugepages",
		(unsigned long long)g->bytes / page, page / 1024, have / page, node,
		(unsigned long long)g->bytes / page, node, page / 1024);
}

static int complain_of_memory(struct planner *p, const struct plan_candidate *c)
{
	struct shortage s = find_shortage(p, c);
	unsigned g = MIN(s.guest, c->nr - 1);

	if (s.most == MACHINE_NONE)
		return plan_refuse(p, -ENOSPC, "no host node may be used for memory");
	for (unsigned i = 0; i < c->nr; i++)
		if (c->guest[i].must_home != MACHINE_NONE)
			return complain_of_home(p, c,
						c->guest[g].must_home != MACHINE_NONE ? g : i);
	if (mem_pages_reserved(c->guest[g].page_bytes))
		return complain_of_huge_pages(p, &c->guest[g], s.most);
	if (!s.fits)
		return plan_refuse(
			p, -ENOSPC,
			"memory: %llu MiB needed on one host node, have %llu MiB free on node %u: "
			"ask for less%s",
			mib(c->guest[g].bytes), mib(p->room[c->guest[g].kind][s.most]),
			p->m->node[s.most].os_index,
			p->m->nr_nodes > 1 ? ", or for more guest nodes" : "");
	return plan_refuse(p, -ENOSPC,
			   "memory: %llu MiB needed by each of %u guest nodes, have room for %u of "
			   "them: ask for less",
			   mib(c->guest[g].bytes), c->nr, s.fits);
}

/* The last candidate has left its line; without one the machine as a whole is too small. */
static int complain_of_spread(struct planner *p)
{
	if (p->why_bytes && p->why[0])
		return -ENOSPC;
	return plan_refuse(p, -ENOSPC, "memory: %llu MiB needed, and no host node may be used",
			   mib(p->r->memory_bytes));
}

/* --- the result --------------------------------------------------------------------------- */

static int node_os_index(const struct planner *p, unsigned node)
{
	return node == MACHINE_NONE ? -1 : (int)p->m->node[node].os_index;
}

/* Equal guest nodes may change homes: neighbours on the host become neighbours in the guest. */
static void order_homes(const struct planner *p, struct plan_candidate *c)
{
	for (unsigned a = 1; a < c->nr && !p->nr_pinned; a++) {
		for (unsigned b = a; b; b--) {
			const struct plan_guest *x = &c->guest[b - 1], *y = &c->guest[b];
			unsigned home = c->home[b];

			if (home >= c->home[b - 1] || x->vcpus != y->vcpus ||
			    x->bytes != y->bytes || x->kind != y->kind ||
			    x->must_home != MACHINE_NONE || y->must_home != MACHINE_NONE)
				break;
			c->home[b] = c->home[b - 1];
			c->home[b - 1] = home;
		}
	}
}

static int by_index(const void *a, const void *b)
{
	unsigned x = *(const unsigned *)a, y = *(const unsigned *)b;

	return x < y ? -1 : x > y;
}

struct handout {
	unsigned *pus;  /* dealt at all places, place by place, each in logical order */
	unsigned *next; /* [place]: the next one to hand out */
};

/* The loose vCPUs of a guest node: those at home first, then place by place. */
static unsigned collect_pus(const struct planner *p, const struct plan_candidate *c, unsigned g,
			    struct handout *h, unsigned *out)
{
	unsigned nr = 0;

	for (unsigned i = 0; i <= p->nr_places; i++) {
		unsigned n = i ? i - 1 : c->home[g];

		if (n == MACHINE_NONE || (i && n == c->home[g]))
			continue;
		memcpy(out + nr, h->pus + h->next[n], p->flow.at[g][n] * sizeof(*out));
		h->next[n] += p->flow.at[g][n];
		nr += p->flow.at[g][n];
	}
	return nr;
}

static void hand_out(const struct planner *p, const struct plan_candidate *c, struct handout *h,
		     struct plan *out)
{
	unsigned mine[PLAN_VCPUS_MAX] = { 0 }, v = 0;

	for (unsigned g = 0; g < c->nr; g++) {
		unsigned next = 0;

		collect_pus(p, c, g, h, mine);
		for (unsigned i = 0; i < c->guest[g].vcpus; i++, v++) {
			unsigned at = p->pinned[v] != MACHINE_NONE ? p->pinned[v] : mine[next++];
			const struct machine_pu *pu = &p->m->pu[at];

			out->vcpu[v] = (struct plan_vcpu){
				.pu = pu->os_index,
				.guest_node = g,
				.host_node = node_os_index(p, pu->node),
			};
		}
	}
}

static int place_vcpus(struct planner *p, const struct plan_candidate *c, struct plan *out)
{
	struct handout h = {
		.pus = calloc(p->r->vcpus, sizeof(*h.pus)),
		.next = calloc(p->nr_places, sizeof(*h.next)),
	};
	unsigned nr = 0;

	if (h.pus && h.next) {
		for (unsigned n = 0; n < p->nr_places; n++) {
			h.next[n] = nr;
			plan_deal(p, &p->place[n], p->flow.load[n], h.pus + nr);
			qsort(h.pus + nr, p->flow.load[n], sizeof(*h.pus), by_index);
			nr += p->flow.load[n];
		}
		hand_out(p, c, &h, out);
	}
	free(h.next);
	free(h.pus);
	return h.pus && h.next ? 0 : -ENOMEM;
}

static void mark_shared(const struct planner *p, struct plan *out)
{
	struct pu_set once = { 0 }, more = { 0 };

	for (unsigned i = 0; i < out->nr_vcpus; i++) {
		if (pu_set_has(&once, out->vcpu[i].pu))
			pu_set_add(&more, out->vcpu[i].pu);
		pu_set_add(&once, out->vcpu[i].pu);
	}
	for (unsigned i = 0; i < out->nr_vcpus; i++) {
		struct plan_vcpu *v = &out->vcpu[i];

		v->shared = pu_set_has(&more, v->pu);
		for (unsigned c = 0; c < p->r->nr_claims; c++)
			v->shared |= pu_set_has(&p->r->claim[c].pus, v->pu);
	}
	out->claim = once;
}

static void claim_siblings(const struct planner *p, struct plan *out)
{
	for (unsigned i = 0; i < out->nr_vcpus; i++) {
		unsigned core = p->m->pu[machine_find_pu(p->m, out->vcpu[i].pu)].core;

		for (unsigned pu = 0; pu < p->m->nr_pus; pu++)
			if (p->m->pu[pu].core == core)
				pu_set_add(&out->claim, p->m->pu[pu].os_index);
	}
}

/* Homes are known: the flow again, and all that follows from it. */
static int finish(struct planner *p, struct plan_candidate *c, struct plan *out)
{
	int err;

	order_homes(p, c);
	plan_flow(p, c);
	out->nr_vcpus = p->r->vcpus;
	out->nr_memory = c->nr;
	out->policy = p->r->policy;
	out->memory_policy = p->r->memory_policy;
	for (unsigned g = 0; g < c->nr; g++)
		out->memory[g] = (struct plan_memory){
			.guest_node = g,
			.host_node = node_os_index(p, c->home[g]),
			.bytes = c->guest[g].bytes,
			.page_bytes = c->guest[g].page_bytes,
		};
	err = place_vcpus(p, c, out);
	if (!err)
		err = plan_share_memory(p, c, out);
	if (err)
		return err;
	mark_shared(p, out);
	if (p->r->policy == PLAN_ISOLATE)
		claim_siblings(p, out);
	plan_price(p, c, out);
	plan_shape(p->m, out);
	return 0;
}

/* --- candidates ----------------------------------------------------------------------------- */

struct choice {
	struct planner *p;
	struct plan *out, *trial;
	struct plan_score best;
	bool any;
};

static unsigned count_away(const struct plan *plan)
{
	unsigned away = 0;

	for (unsigned i = 0; i < plan->nr_vcpus; i++)
		away += plan->vcpu[i].host_node != plan->memory[plan->vcpu[i].guest_node].host_node;
	return away;
}

static void note(struct plan *out, const char *what, const struct plan *found)
{
	struct plan_alternative *a = &out->alternative[out->nr_alternatives];

	if (out->nr_alternatives == PLAN_ALTERNATIVES_MAX)
		return;
	out->nr_alternatives++;
	*a = (struct plan_alternative){ .feasible = found != NULL };
	snprintf(a->what, sizeof(a->what), "%s", what);
	if (!found)
		return;
	a->cost = found->cost;
	a->nodes = found->nr_memory;
	a->away = count_away(found);
}

static unsigned count_host_nodes(const struct plan *plan)
{
	struct pu_set nodes = { 0 };

	for (unsigned i = 0; i < plan->nr_vcpus; i++)
		pu_set_add(&nodes, (unsigned)plan->vcpu[i].host_node);
	for (unsigned i = 0; i < plan->nr_memory; i++)
		pu_set_add(&nodes, (unsigned)plan->memory[i].host_node);
	return pu_set_count(&nodes);
}

/* Fewest host nodes come first for `compact`, most for `spread`; then the score. */
static bool wins(const struct choice *ch, const struct plan_score *s)
{
	unsigned now = count_host_nodes(ch->trial), then = count_host_nodes(ch->out);

	if (!ch->any)
		return true;
	/* A shared PU outweighs every policy. */
	if (s->primary / COST_SHARE != ch->best.primary / COST_SHARE)
		return s->primary < ch->best.primary;
	if (ch->p->r->policy == PLAN_COMPACT && now != then)
		return now < then;
	if (ch->p->r->policy == PLAN_SPREAD && now != then)
		return now > then;
	return plan_better(s, &ch->best);
}

static void adopt(struct choice *ch, const struct plan_score *s)
{
	struct plan *out = ch->out;
	unsigned nr = out->nr_alternatives;

	memcpy(ch->trial->alternative, out->alternative, sizeof(out->alternative));
	*out = *ch->trial;
	out->nr_alternatives = nr;
	for (unsigned i = 0; i < nr; i++)
		out->alternative[i].chosen = i + 1 == nr;
	ch->best = *s;
	ch->any = true;
}

static int consider(struct choice *ch, const char *what, int cut, struct plan_candidate *c)
{
	struct plan_score score;
	int err = cut;

	if (!err)
		err = plan_solve(ch->p, c, &score);
	if (!err)
		err = finish(ch->p, c, ch->trial);
	if (err == -ENOSPC) {
		note(ch->out, what, NULL);
		return 0;
	}
	if (err)
		return err;
	note(ch->out, what, ch->trial);
	if (wins(ch, &score))
		adopt(ch, &score);
	return 0;
}

static int choose_cut(struct choice *ch, struct plan_candidate *c)
{
	struct planner *p = ch->p;
	int err = 0;

	if (p->nr_pinned == p->r->vcpus)
		return consider(ch, "cut where the pins change node", plan_cut_pinned(p, c), c);
	if (p->m->nr_nodes > 1 && !p->nr_pinned)
		err = consider(ch, "nearest nodes, a core each",
			       plan_cut_nearest(p, FILL_CORES, false, c), c);
	if (!err && p->m->nr_nodes > 1 && !p->nr_pinned && p->r->policy != PLAN_ISOLATE)
		err = consider(ch, "nearest nodes, SMT siblings",
			       plan_cut_nearest(p, FILL_PUS, false, c), c);
	if (!err && p->m->nr_nodes > 1 && p->free_pus < p->r->vcpus && !p->nr_pinned)
		err = consider(ch, "nearest nodes, shared PUs",
			       plan_cut_nearest(p, FILL_LEVEL, false, c), c);
	if (!err && p->m->nr_nodes > 1 && !p->nr_pinned) {
		int cut = plan_cut_nearest(p, FILL_CORES, true, c);

		if (cut && p->r->policy == PLAN_SPREAD)
			cut = plan_cut_nearest(p, FILL_PUS, true, c);
		if (cut && p->r->policy == PLAN_SPREAD)
			cut = plan_cut_nearest(p, FILL_LEVEL, true, c);
		err = consider(ch, "every node", cut, c);
		if (!err && cut)
			err = consider(ch, "the idlest cores of all nodes",
				       plan_cut_nearest(p, FILL_CHEAPEST, true, c), c);
	}
	return err;
}

static int choose(struct choice *ch)
{
	struct plan_candidate *c = calloc(1, sizeof(*c));
	struct planner *p = ch->p;
	int err = c ? 0 : -ENOMEM;

	if (!err && p->r->node) {
		err = consider(ch, "as asked", plan_cut_given(p, c), c);
	} else if (!err && p->r->nodes) {
		err = consider(ch, "cut evenly", plan_cut_even(p, p->r->nodes, c), c);
	} else if (!err) {
		err = choose_cut(ch, c);
		if (!err)
			err = consider(ch, "one guest node", plan_cut_even(p, 1, c), c);
		if (!err && !ch->any)
			err = consider(ch, "where memory is", plan_cut_by_memory(p, c), c);
		if (!err && !ch->any)
			plan_cut_even(p, 1, c);
	}
	if (!err && !ch->any)
		err = p->roomy ? complain_of_spread(p) : complain_of_memory(p, c);
	free(c);
	return err;
}

/* --- sharing ---------------------------------------------------------------------------------- */

static int check_sharing(struct planner *p, const struct plan *out)
{
	for (unsigned i = 0; i < out->nr_vcpus && p->r->exclusive; i++) {
		const char *owner = "this machine itself";

		if (!out->vcpu[i].shared)
			continue;
		for (unsigned c = 0; c < p->r->nr_claims; c++)
			if (pu_set_has(&p->r->claim[c].pus, out->vcpu[i].pu))
				owner = p->r->claim[c].owner;
		return plan_refuse(
			p, -EBUSY,
			"exclusive: %u vCPU%s need%s as many PUs, have %u free; vCPU %u would "
			"share PU %u with %s",
			out->nr_vcpus, out->nr_vcpus == 1 ? "" : "s", out->nr_vcpus == 1 ? "s" : "",
			p->free_pus, i, out->vcpu[i].pu, owner);
	}
	return 0;
}

static int make(struct planner *p, struct plan *out)
{
	struct choice ch = { .p = p, .out = out, .trial = calloc(1, sizeof(*out)) };
	int err = ch.trial ? check_request(p) : -ENOMEM;

	if (!err)
		err = plan_survey(p);
	if (!err)
		err = check_page_kinds(p);
	if (!err) {
		memset(out, 0, sizeof(*out));
		err = choose(&ch);
	}
	if (!err)
		err = check_sharing(p, out);
	if (!err && p->r->io_threads)
		plan_io(p, out);
	plan_survey_free(p);
	free(ch.trial);
	return err;
}

/* Memory that prefers its home goes elsewhere only if there is no plan that holds it. */
int plan_make(const struct machine_model *m, const struct plan_request *r, struct plan *out,
	      char *why, size_t why_bytes)
{
	bool roomy = mem_policy_spreads(r->memory_policy);
	struct planner *p = calloc(1, sizeof(*p));
	int err = -ENOMEM;

	for (bool again = true; p && again; roomy = true) {
		if (why_bytes)
			why[0] = '\0';
		*p = (struct planner){
			.m = m,
			.r = r,
			.why = why,
			.why_bytes = why_bytes,
			.sibling_cost = r->policy == PLAN_COMPACT ? 1 : r->vcpus * COST_UNIT,
			.roomy = roomy,
		};
		err = make(p, out);
		again = err == -ENOSPC && !roomy && r->memory_policy == MEM_PREFERRED;
	}
	if (err == -ENOMEM)
		snprintf(why, why_bytes, "no memory to make a plan");
	free(p);
	return err;
}
