/*
 * plan_int.h - the planner from the inside.
 *
 * Who is who:
 *   plan.c         the request: checks, candidates, the choice among them, the result
 *   plan_survey.c  what the machine offers once claims and pins are taken off
 *   plan_cut.c     candidates: which host nodes, and how the guest is cut along them
 *   plan_solve.c   homes for given guest nodes, and the exact spread of vCPUs for given homes
 *   plan_deal.c    which PUs of one place, in which order
 *   plan_memory.c  what each host node carries of a guest node's memory
 *   plan_cost.c    the cost model
 *   plan_io.c      where I/O threads run
 *   plan_shape.c   what the guest sees of it
 *
 * A place is where vCPUs run: a host node's PUs, or (the last place) the PUs that
 * lie in no node. A home is the host node that holds a guest node's memory.
 */
#ifndef VMM_PLACEMENT_PLAN_INT_H
#define VMM_PLACEMENT_PLAN_INT_H

#include "placement/plan.h"

#define PLACES_MAX (MACHINE_NODES_MAX + 1)

/* Costs are whole numbers, so that comparisons are exact: this many make a SLIT unit. */
#define COST_UNIT  ((int64_t)64)
/* A PU that carries one vCPU more: dearer than all distances and siblings together. */
#define COST_SHARE ((int64_t)1 << 36)
#define COST_NONE  INT64_MAX

#define DISTANCE_FAR 255 /* SLIT's "unreachable": what we know nothing about */
#define PAGE_KINDS   (MACHINE_PAGE_SIZES + 1)

/* The next @cap vCPUs at a place cost @cost each; costs ascend. */
struct plan_seg {
	unsigned cap;
	int64_t cost;
};

struct plan_place {
	unsigned first_pu, nr_pus; /* in planner's pu[] */
	unsigned first_seg, nr_segs;
	unsigned cap;   /* of all segments */
	unsigned cores; /* with an open PU */
	unsigned idle;  /* vCPUs it takes without sharing a core, */
	unsigned free;  /* and without sharing a PU */
	unsigned low;   /* below and up to the dearest that the machine's cheapest spread takes */
	unsigned within;
	unsigned taken; /* vCPUs of claims */
};

/* A PU that the plan may use, as it was found. */
struct plan_pu {
	unsigned index; /* logical, in the machine model */
	unsigned core, llc;
	unsigned load; /* vCPUs of claims and pins */
};

struct plan_guest {
	unsigned vcpus; /* all of them, and those that no pin holds */
	unsigned loose;
	uint64_t bytes, page_bytes;
	unsigned kind;      /* of its pages */
	unsigned must_home; /* or MACHINE_NONE */
};

/* A guest cut into nodes, and where they go. */
struct plan_candidate {
	const char *what;
	unsigned nr;
	struct plan_guest guest[PLAN_NODES_MAX];
	unsigned home[PLAN_NODES_MAX]; /* logical host node, or MACHINE_NONE */
	bool hinted;                   /* home[] is a proposal */
};

struct plan_score {
	int64_t primary; /* access, siblings, shared PUs; summed over vCPUs */
	double minor;    /* below 1: decides among equals */
};

/* How many vCPUs of each guest node run at each place. */
struct plan_flow {
	uint16_t (*at)[PLACES_MAX]; /* [guest][place] */
	uint64_t *guests;           /* [place]: which guests are there, a bit each */
	unsigned *load;             /* [place] */
};

struct planner {
	const struct machine_model *m;
	const struct plan_request *r;
	char *why;
	size_t why_bytes;

	unsigned nr_places;
	struct plan_place *place;
	struct plan_pu *pu; /* by place, in logical order */
	unsigned nr_pus;
	struct plan_seg *seg;
	unsigned *core_load; /* by core: vCPUs of claims and pins */
	unsigned *pu_load;   /* by logical PU, the same */
	int64_t *distance;   /* [place][node], COST_UNIT to a SLIT unit, 10 of these local */
	int64_t sibling_cost;
	uint64_t *room[PAGE_KINDS]; /* [kind][node] bytes to be had */
	uint64_t *have[PAGE_KINDS]; /* the same, where room was widened, for homes need not hold */
	bool roomy;                 /* widen it: memory may lie elsewhere than at home */
	uint64_t page_bytes[PAGE_KINDS];
	unsigned free_pus, level; /* PUs without load; the load that all PUs may reach */

	unsigned pinned[PLAN_VCPUS_MAX]; /* logical PU, or MACHINE_NONE */
	int64_t pin_cost[PLAN_NODES_MAX];
	unsigned nr_pinned;

	struct plan_flow flow;
	int64_t *path; /* scratch of the flow: [place] */
	unsigned *from_place;
	unsigned *from_guest;
	unsigned *deal_load, *deal_core; /* scratch of dealing: [pu] */
	int64_t budget;                  /* steps the search may still take */
};

int plan_refuse(struct planner *p, int err, const char *fmt, ...) __printf(3, 4);

static inline uint64_t plan_share(uint64_t total, unsigned parts, unsigned i)
{
	return total / parts + (i < total % parts);
}

static inline int64_t plan_distance(const struct planner *p, unsigned place, unsigned home)
{
	if (home == MACHINE_NONE)
		return 10 * COST_UNIT;
	return p->distance[(size_t)place * p->m->nr_nodes + home];
}

/* plan_survey.c */
int plan_survey(struct planner *p);
void plan_survey_free(struct planner *p);
unsigned plan_page_kind(const struct planner *p, uint64_t page_bytes); /* PAGE_KINDS: none */

/* plan_deal.c: PUs for @count vCPUs at a place; logical PUs to out[], or segments. */
void plan_deal(struct planner *p, const struct plan_place *place, unsigned count, unsigned *out);
unsigned plan_deal_segs(struct planner *p, const struct plan_place *place, unsigned count,
			struct plan_seg *seg);

/* plan_cut.c: -ENOSPC without a message if the machine has no room for such a cut. */
int plan_cut_even(struct planner *p, unsigned nodes, struct plan_candidate *c);
int plan_cut_given(struct planner *p, struct plan_candidate *c);
int plan_cut_pinned(struct planner *p, struct plan_candidate *c);
enum plan_fill { FILL_CORES, FILL_PUS, FILL_LEVEL, FILL_CHEAPEST };
int plan_cut_nearest(struct planner *p, enum plan_fill fill, bool widest, struct plan_candidate *c);
int plan_cut_by_memory(struct planner *p, struct plan_candidate *c);

/* plan_solve.c: fills c->home; plan_flow() then tells where the vCPUs are. */
int plan_solve(struct planner *p, struct plan_candidate *c, struct plan_score *score);
int64_t plan_flow(struct planner *p, const struct plan_candidate *c);
bool plan_homes_fit(const struct planner *p, const struct plan_candidate *c);

/* plan_memory.c: fills out->share[]; -ENOSPC: there is no such candidate */
int plan_share_memory(struct planner *p, const struct plan_candidate *c, struct plan *out);

/* plan_cost.c */
double plan_minor(const struct planner *p, const struct plan_candidate *c);
void plan_price(const struct planner *p, const struct plan_candidate *c, struct plan *out);

/* plan_io.c: of a plan whose vCPUs and homes are settled. */
void plan_io(const struct planner *p, struct plan *out);

/* plan_shape.c */
void plan_shape(const struct machine_model *m, struct plan *out);

static inline bool plan_better(const struct plan_score *a, const struct plan_score *b)
{
	return a->primary != b->primary ? a->primary < b->primary : a->minor < b->minor;
}

#endif
