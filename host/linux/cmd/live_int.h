/*
 * live_int.h - a running machine's live side from the inside.
 *
 * Who is who:
 *   live.c            state, pause, and who does what
 *   live_move.c       vCPUs to other PUs, memory to other nodes, stretch by stretch
 *   live_rebalance.c  a new plan, and the moves that lead there
 *   live_claim.c      what the ledger is told of it, and knows of others
 *   live_audit.c      where threads and pages really are
 */
#ifndef HOST_LINUX_CMD_LIVE_INT_H
#define HOST_LINUX_CMD_LIVE_INT_H

#include "live.h"

struct live_part {
	unsigned node; /* guest node */
	int from, to;  /* host nodes */
};

struct live {
	struct live_config cfg;
	uint64_t started_ns;
	_Atomic bool paused, cancelled;

	/* The worker's. */
	struct plan plan;          /* scratch: as it stands */
	struct plan want;          /* scratch: as it shall be */
	struct claims claims;      /* of others, between live_lock() and live_unlock() */
	struct ledger_claim claim; /* scratch */
	struct {
		bool on;
		struct live_part part[PLAN_NODES_MAX];
		unsigned nr, at;
		uint64_t offset; /* within the part */
		unsigned held;   /* how often the stretch at offset had pages that stayed */
		uint64_t again_ns;
		uint64_t done_bytes, all_bytes, rate_mibs, started_ns;
		json_t *result; /* what to answer when all is done */
	} moving;
};

/* Fills in the complaint. */
void live_refuse(struct live_answer *a, enum control_fault fault, const char *fmt, ...)
	__printf(3, 4);
uint64_t live_now_ns(const struct live *l);
bool live_ended(const struct live *l);

/* live_move.c */
void live_move_vcpu(struct live *l, const struct control_request *r, struct live_answer *a);
void live_move_memory(struct live *l, const struct control_request *r, struct live_answer *a);
int live_discover(const struct live *l, struct machine_model *m, struct live_answer *a);
/* One vCPU to @pu of @m, which is claimed. 0, or a complaint. */
int live_bind_vcpu(struct live *l, const struct machine_model *m, unsigned vcpu, unsigned pu,
		   struct live_answer *a);
/* Begins with the parts in l->moving; takes @result. */
void live_begin_move(struct live *l, unsigned rate_mibs, json_t *result, struct live_answer *a);

/* live_claim.c: 0, or a complaint. */
int live_lock(struct live *l, const struct machine_model *m, struct live_answer *a);
void live_unlock(struct live *l);
/* Locked: the claim becomes that of @p, memory on its way being where it goes. */
int live_claim(struct live *l, const struct machine_model *m, const struct plan *p,
	       struct live_answer *a);
void live_claim_state(struct live *l, enum ledger_state state);
/* Locked: may we share this PU with those who have it? */
int live_check_pu(struct live *l, unsigned pu, struct live_answer *a);
json_t *live_sharers(const struct live *l, unsigned pu); /* a text, empty if there are none */
/* Locked: free memory of a host node that others will want. */
uint64_t live_promised(const struct live *l, unsigned host_node);

/* live_rebalance.c */
void live_rebalance(struct live *l, const struct control_request *r, struct live_answer *a);

/* live_audit.c */
void live_audit(struct live *l, struct live_answer *a);
/* Where a guest node's memory lies, as far as it was looked at before live is over; -errno. */
int live_where(struct live *l, unsigned node, struct host_where *out);

#endif
