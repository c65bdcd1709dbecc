/* admit.c - see admit.h. */
#include "admit.h"

#include "cmd.h"
#include "host/linux/host_linux.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define SHARERS_BYTES 384

/* --- the plan among claims ---------------------------------------------------------------- */

static void all_pus(const struct machine_model *m, struct pu_set *out)
{
	pu_set_clear(out);
	for (unsigned i = 0; i < m->nr_pus; i++)
		pu_set_add(out, m->pu[i].os_index);
}

static bool anybody_exclusive(const struct claims *c)
{
	for (unsigned i = 0; i < c->nr; i++)
		if (c->claim[i].exclusive)
			return true;
	return false;
}

/* Is it memory that others were promised and have not touched, that is missing? */
static bool fits_without_promises(const struct machine_model *m, const struct plan_request *request,
				  struct plan *scratch)
{
	struct plan_claim *claim = calloc(MAX(request->nr_claims, 1), sizeof(*claim));
	struct plan_request r = *request;
	char ignored[LEDGER_WHY_BYTES];
	bool fits = false;

	if (claim) {
		for (unsigned i = 0; i < r.nr_claims; i++) {
			claim[i] = r.claim[i];
			claim[i].nr_memory = 0;
		}
		r.claim = claim;
		fits = !plan_make(m, &r, scratch, ignored, sizeof(ignored));
	}
	free(claim);
	return fits;
}

/* @scratch is the plan that was not made. */
static int plan_failed(const struct admission *a, const struct machine_model *m,
		       const struct plan_request *request, int err, const char *why,
		       struct plan *scratch)
{
	char holders[SHARERS_BYTES];
	struct pu_set pus;

	if (err == -ENOMEM)
		return internal_error("%s", why);
	claims_promises(&a->claims, holders, sizeof(holders));
	if (*holders && err == -ENOSPC && fits_without_promises(m, request, scratch))
		return user_error("%s; promised to others: %s", why, holders);
	all_pus(m, &pus);
	claims_sharers(&a->claims, &pus, "by", holders, sizeof(holders));
	if (*holders && (err == -EBUSY || anybody_exclusive(&a->claims)))
		return user_error("%s; claimed: %s", why, holders);
	return user_error("%s", why);
}

/*
 * Is the memory of a plan to be had? Without a plan: is it memory that is short? Otherwise
 * @why stays as the planner left it.
 */
static int check_memory(const struct host *host, const struct machine_model *m,
			const struct plan_request *request, const struct plan *made, int err,
			char why[LEDGER_WHY_BYTES])
{
	char better[LEDGER_WHY_BYTES];
	struct mem_facts facts;

	host_linux_mem_facts(host, m, &facts);
	if (!err)
		return mem_preflight(&facts, made, why, LEDGER_WHY_BYTES);
	if (mem_preflight_request(&facts, request, better, sizeof(better)))
		snprintf(why, LEDGER_WHY_BYTES, "%s", better);
	return err;
}

/* @host: where it will run; NULL: nowhere, @m is another machine. */
static int plan(const struct admission *a, const struct host *host, const struct machine_model *m,
		struct plan_request *request, struct plan *out)
{
	char why[LEDGER_WHY_BYTES] = "";
	int err;

	request->claim = a->claims.claim;
	request->nr_claims = a->claims.nr;
	err = plan_make(m, request, out, why, sizeof(why));
	if (host && (!err || err == -ENOSPC))
		err = check_memory(host, m, request, out, err, why);
	return err ? plan_failed(a, m, request, err, why, out) : 0;
}

/* --- names ---------------------------------------------------------------------------------- */

static const struct ledger_claim *find_name(const struct ledger_list *list, const char *name)
{
	for (unsigned i = 0; i < list->nr; i++)
		if (!strcmp(list->claim[i].name, name))
			return &list->claim[i];
	return NULL;
}

/* A claim that nobody understands has a name nevertheless: that of its file. */
static bool name_taken(const struct ledger_list *list, const char *name)
{
	size_t n = strlen(name);

	for (unsigned i = 0; i < list->nr_trouble; i++)
		if (!strncmp(list->trouble[i].file, name, n) && list->trouble[i].file[n] == '.')
			return true;
	return find_name(list, name) != NULL;
}

static int pick_name(struct admission *a, const struct run_options *o)
{
	const struct ledger_list *list = &a->claims.ledger;
	const struct ledger_claim *other;

	if (!o->name) {
		unsigned n = 0;

		do
			snprintf(a->name, sizeof(a->name), "guest%u", ++n);
		while (name_taken(list, a->name));
		return 0;
	}
	snprintf(a->name, sizeof(a->name), "%s", o->name);
	other = find_name(list, o->name);
	if (other)
		return user_error("--name %s: a machine of this name runs already, process %d: "
				  "choose another, or leave it out",
				  o->name, (int)other->pid);
	return 0;
}

/* --- the ledger ----------------------------------------------------------------------------- */

static int open_ledger(struct admission *a, const struct run_options *o)
{
	char why[LEDGER_WHY_BYTES];
	int err = ledger_open(NULL, !o->dry_run, &a->ledger, why, sizeof(why));

	if (o->dry_run && err == -ENOENT)
		return 0;
	return err ? user_error("%s", why) : 0;
}

/*
 * A live claim that cannot be understood: its vCPUs are seen in /proc like those of
 * other VMMs, which will do, unless somebody must be sure.
 */
static int tell_trouble(const struct admission *a, const struct run_options *o,
			const struct host *host)
{
	const struct ledger_list *list = &a->claims.ledger;

	for (unsigned i = 0; i < list->nr_trouble; i++) {
		const struct ledger_trouble *t = &list->trouble[i];

		if (o->exclusive)
			return user_error("exclusive: %s/%s: %s: end the machine that it belongs "
					  "to, or remove it",
					  ledger_path(a->ledger), t->file, t->why);
		host_log(host, LOG_WARN, "%s/%s: %s: this claim is left out of account",
			 ledger_path(a->ledger), t->file, t->why);
	}
	return 0;
}

static int claim(struct admission *a, const struct run_options *o, const struct plan *made)
{
	struct ledger_claim c;
	char why[LEDGER_WHY_BYTES];
	int err;

	ledger_claim_of(made, a->name, o->exclusive, &c);
	err = ledger_claim(a->ledger, &c, why, sizeof(why));
	return err ? user_error("%s", why) : 0;
}

/* With the ledger locked, if there is one. */
static int plan_and_claim(struct admission *a, const struct run_options *o, const struct host *host,
			  struct machine_model *m, struct plan_request *request, struct plan *out)
{
	int status = 0, err;

	host_linux_refresh_memory(m);
	err = claims_read(&a->claims, a->ledger, m, NULL);
	if (err)
		return user_error("cannot see what other machines have: %s", strerror(-err));
	if (a->ledger)
		status = tell_trouble(a, o, host);
	if (!status)
		status = pick_name(a, o);
	if (!status)
		status = plan(a, host, m, request, out);
	if (!status && !o->dry_run)
		status = claim(a, o, out);
	return status;
}

static int admit_here(struct admission *a, const struct run_options *o, const struct host *host,
		      struct machine_model *m, struct plan_request *request, struct plan *out)
{
	char why[LEDGER_WHY_BYTES];
	int status = open_ledger(a, o);
	int err = status || !o->foreign ? 0 : claims_look_around(&a->claims);

	if (status)
		return status;
	if (err)
		return internal_error("cannot look for other VMMs: %s", strerror(-err));
	if (a->ledger &&
	    ledger_lock(a->ledger, o->dry_run ? LEDGER_SHARED : LEDGER_EXCLUSIVE, why, sizeof(why)))
		return user_error("%s", why);
	status = plan_and_claim(a, o, host, m, request, out);
	if (a->ledger)
		ledger_unlock(a->ledger);
	return status;
}

int admit(struct admission *a, const struct run_options *o, const struct host *host,
	  struct machine_model *m, struct plan_request *request, struct plan *out)
{
	if (!o->topology)
		return admit_here(a, o, host, m, request, out);
	snprintf(a->name, sizeof(a->name), "%s", o->name ? o->name : "guest");
	return plan(a, NULL, m, request, out);
}

/* --- afterwards ------------------------------------------------------------------------------ */

void admit_warn_of_sharing(const struct admission *a, const struct host *host, const struct plan *p)
{
	char sharers[SHARERS_BYTES];
	struct pu_set pus = { 0 };
	unsigned vcpus = 0, nr;

	for (unsigned i = 0; i < p->nr_vcpus; i++) {
		if (!p->vcpu[i].shared)
			continue;
		pu_set_add(&pus, p->vcpu[i].pu);
		vcpus++;
	}
	nr = pu_set_count(&pus);
	if (!vcpus)
		return;
	claims_sharers(&a->claims, &pus, "with", sharers, sizeof(sharers));
	host_log(host, LOG_WARN, "%u vCPU%s share%s %u PU%s%s%s", vcpus, vcpus == 1 ? "" : "s",
		 vcpus == 1 ? "s" : "", nr, nr == 1 ? "" : "s", *sharers ? ": " : "", sharers);
}

void admit_set_running(struct admission *a, const struct host *host, const char *engine)
{
	char why[LEDGER_WHY_BYTES];
	struct ledger_claim c;

	if (!a->ledger || ledger_get(a->ledger, &c))
		return;
	c.state = LEDGER_RUNNING;
	snprintf(c.engine, sizeof(c.engine), "%s", engine);
	if (ledger_update(a->ledger, &c, why, sizeof(why)))
		host_log(host, LOG_WARN, "%s", why);
}

void admit_release(struct admission *a)
{
	ledger_close(a->ledger);
	claims_free(&a->claims);
	a->ledger = NULL;
}
