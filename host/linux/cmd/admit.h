/*
 * admit.h - how a machine comes among the others: the plan is made with all claims
 * known, and claimed before anybody else can plan.
 */
#ifndef HOST_LINUX_CMD_ADMIT_H
#define HOST_LINUX_CMD_ADMIT_H

#include "host/linux/claims.h"
#include "run.h"
#include "vmm.h"

struct admission {
	struct ledger *ledger; /* NULL: planned for another machine, or nobody ever claimed */
	struct claims claims;  /* of others, as the plan knew them */
	char name[LEDGER_NAME_MAX + 1];
};

/*
 * Plans @request on @m, whose free memory is read anew, and claims it; a dry run only
 * reads claims. @request refers to @a afterwards. Zeroed @a; 0 or an exit status, and
 * admit_release() is due either way.
 */
int admit(struct admission *a, const struct run_options *o, const struct host *host,
	  struct machine_model *m, struct plan_request *request, struct plan *out);

/* One warning, if any vCPU shares its PU. */
void admit_warn_of_sharing(const struct admission *a, const struct host *host,
			   const struct plan *plan);

/* For those who ask what runs here. A ledger that cannot be written is worth a warning. */
void admit_set_running(struct admission *a, const struct host *host, const char *engine);

void admit_release(struct admission *a);

#endif
