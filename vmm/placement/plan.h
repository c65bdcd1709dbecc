/*
 * plan.h - the planner: from a machine model, the claims of other machines and a
 * request to a placement, its cost, and what was rejected.
 *
 * Pure: no I/O, no globals, the same input gives the same plan. The cost model and
 * the search are told in docs/placement.md. Installed.
 */
#ifndef VMM_PLACEMENT_PLAN_H
#define VMM_PLACEMENT_PLAN_H

#include "core/mem_policy.h"
#include "placement/machine.h"

#define PLAN_VCPUS_MAX        1024
#define PLAN_NODES_MAX        64   /* guest nodes */
#define PLAN_SHARES_MAX       1024 /* of memory, all guest nodes together */
#define PLAN_ALTERNATIVES_MAX 8

enum plan_policy {
	PLAN_BALANCED, /* the cost model decides */
	PLAN_COMPACT,  /* fewest, nearest nodes: SMT siblings before another node */
	PLAN_SPREAD,   /* every node, every cache: the most bandwidth */
	PLAN_ISOLATE   /* one vCPU a physical core; its siblings stay idle */
};

/* One node of the guest, where the user says how it is cut. */
struct plan_node_request {
	unsigned vcpus;        /* 0: memory only */
	uint64_t memory_bytes; /* multiple of 1 MiB; 0: CPUs only */
	int host_node;         /* OS index of its home, or -1: any */
	uint64_t page_bytes;   /* MEM_PAGES_ANY: as the request says */
	/* MEM_INTERLEAVE, MEM_WEIGHTED: over these, by OS index; empty: where its vCPUs run */
	struct pu_set over;
};

/* vCPUs @first to @last run on some of @pus, by OS index. */
struct plan_pin {
	unsigned first, last;
	struct pu_set pus;
};

struct plan_claim_memory {
	unsigned host_node; /* OS index */
	uint64_t bytes;
	uint64_t page_bytes; /* 0: base pages */
};

/* What a machine that is there already has. */
struct plan_claim {
	const char *owner; /* for messages */
	struct pu_set pus; /* by OS index */
	bool exclusive;    /* shares with nobody */
	const struct plan_claim_memory *memory;
	unsigned nr_memory;
};

struct plan_request {
	unsigned vcpus;
	unsigned nodes;        /* guest nodes; 0: the planner cuts where the host has borders */
	uint64_t memory_bytes; /* multiple of 1 MiB */
	enum plan_policy policy;
	const struct plan_node_request *node; /* @nodes of them; NULL: cut evenly, in order */
	uint64_t page_bytes;                  /* of nodes that do not say; or MEM_PAGES_* */
	enum mem_policy memory_policy;
	const struct plan_pin *pin;
	unsigned nr_pins;
	const struct plan_claim *claim;
	unsigned nr_claims;
	bool exclusive;  /* refuse rather than share a PU */
	bool io_threads; /* place a thread for I/O beside each home, too */
};

struct plan_vcpu {
	unsigned pu; /* OS index */
	unsigned guest_node;
	int host_node; /* OS index, or -1: the host has no nodes */
	bool shared;   /* its PU carries another vCPU, of this plan or of a claim */
	/* Where the guest sees it: package machine-wide, the rest within its parent. */
	uint16_t package, die, core, thread;
};

struct plan_memory {
	unsigned guest_node;
	int host_node; /* its home */
	uint64_t bytes;
	uint64_t page_bytes;             /* or MEM_PAGES_* */
	unsigned first_share, nr_shares; /* in plan.share[]; none: it is all at home */
};

/* The I/O thread of a host node that is somebody's home. Its PU is not claimed: they share. */
struct plan_io {
	int host_node; /* whose, or -1: the host has no nodes */
	unsigned pu;   /* OS index */
	bool shared;   /* with a vCPU, of this plan or of a claim */
};

/*
 * The terms of the cost model, each weighted; total is their sum. Distances count
 * in SLIT units (10 is local). The last six only decide between plans that are
 * equal in the first two: together they stay below 1/1024.
 */
struct plan_cost {
	double access;    /* mean distance from a vCPU to its memory */
	double smt;       /* pairs of vCPUs on one physical core */
	double stacked;   /* guest nodes that share a home */
	double traffic;   /* distance between the homes */
	double bandwidth; /* vCPUs for each core of the busiest home */
	double cache;     /* last-level caches beyond the fewest */
	double io;        /* distance to network and disk controllers */
	double fragments; /* nodes broken for the next machine */
	double total;
};

struct plan_alternative {
	char what[40];
	bool feasible, chosen;
	struct plan_cost cost;
	unsigned nodes; /* guest nodes */
	unsigned away;  /* vCPUs away from their memory */
};

struct plan {
	unsigned nr_vcpus, nr_memory, nr_shares;
	enum plan_policy policy;
	enum mem_policy memory_policy;
	struct plan_vcpu vcpu[PLAN_VCPUS_MAX]; /* ascending by guest node */
	struct plan_memory memory[PLAN_NODES_MAX];
	struct mem_share share[PLAN_SHARES_MAX]; /* what each host node carries */
	unsigned nr_io;
	struct plan_io io[PLAN_NODES_MAX];
	struct pu_set claim; /* PUs to claim: those used, and siblings to be left idle */
	struct plan_cost cost;
	unsigned nr_alternatives;
	struct plan_alternative alternative[PLAN_ALTERNATIVES_MAX];
};

/*
 * -EINVAL: the request is not one; -ENOSPC: it does not fit; -EBUSY: only by sharing
 * PUs, and exclusive was asked for; -ENOMEM. why[] then holds a line for the user.
 */
int plan_make(const struct machine_model *m, const struct plan_request *r, struct plan *out,
	      char *why, size_t why_bytes);

#endif
