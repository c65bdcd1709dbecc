/*
 * claims.h - what the planner has to know of others: the ledger's machines and foreign
 * ones, as claims, and their names for messages.
 *
 * Foreign machines are looked for before the ledger is locked, since that takes a
 * while; then, under the lock, the ledger is read. Not for several threads at a time.
 */
#ifndef HOST_LINUX_CLAIMS_H
#define HOST_LINUX_CLAIMS_H

#include "foreign.h"
#include "ledger.h"
#include "placement/plan.h"

#define CLAIMS_OWNER_BYTES 96

struct claim_owner {
	char label[CLAIMS_OWNER_BYTES]; /* "web (process 4711)" */
	unsigned first, nr;             /* its parts in claims.claim[] */
	struct plan_claim_memory memory[PLAN_NODES_MAX];
};

struct claims {
	struct foreign_list foreign;
	struct ledger_list ledger;
	struct claim_owner *owner;
	unsigned nr_owners;
	/* For plan_request: a PU with several vCPUs of an owner is in as many of its parts. */
	struct plan_claim *claim;
	unsigned nr;
};

/* 0 or -errno; afterwards claims_free() is due. */
int claims_look_around(struct claims *out);
/*
 * Everybody who has PUs or memory of @m, but the machine called @except (may be NULL),
 * which is about to be planned anew. @l may be NULL: nobody has claimed anything.
 * Replaces what an earlier call read. 0 or -errno.
 */
int claims_read(struct claims *c, struct ledger *l, const struct machine_model *m,
		const char *except);
void claims_free(struct claims *c); /* zeroed again */

/*
 * Who is where @pus are, @word being "with" or "by": "PUs 0-1 with web (process 4711),
 * PU 3 with ...". Empty if nobody is. Returns @buf.
 */
const char *claims_sharers(const struct claims *c, const struct pu_set *pus, const char *word,
			   char *buf, size_t bytes);
/* "2048 MiB on node 0 to web (process 4711), ...": who has not touched all it may. */
const char *claims_promises(const struct claims *c, char *buf, size_t bytes);

#endif
