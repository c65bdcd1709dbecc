/*
 * ours.c - see ours.h.
 *
 * A machine binds its threads itself and keeps the ledger right when they move; what
 * is done here puts right what somebody else has done to them since.
 */
#include "ours.h"

#include "apply.h"
#include "bind.h"
#include "host/linux/cmd/client.h"
#include "host/linux/cmd/cmd.h"
#include "host/linux/cmd/live_cmd.h"
#include "host/linux/foreign.h"
#include "host/linux/ledger.h"

#include <errno.h>
#include <stdlib.h>

/* --- the ledger -------------------------------------------------------------------------- */

static int nothing_runs(const char *name, const struct ledger_list *list)
{
	char names[256] = "";
	size_t at = 0;

	for (unsigned i = 0; i < list->nr && at < sizeof(names); i++)
		at += (size_t)snprintf(names + at, sizeof(names) - at, "%s%s", i ? ", " : "",
				       list->claim[i].name);
	if (at >= sizeof(names))
		memcpy(names + sizeof(names) - 4, "...", 4);
	return user_error("%s: no machine of this name runs; %s%s", name,
			  list->nr ? "these do: " : "none runs at all", names);
}

static int find_claim(const char *name, struct ledger_claim *out)
{
	struct ledger_list list = { 0 };
	struct ledger *l = NULL;
	char why[LEDGER_WHY_BYTES];
	int status = 0, err = ledger_open(NULL, false, &l, why, sizeof(why));
	bool found = false;

	if (err && err != -ENOENT)
		return user_error("%s", why);
	if (!err && ledger_read(l, &list))
		status = internal_error("cannot read the ledger");
	for (unsigned i = 0; i < list.nr && !found; i++) {
		found = !strcmp(list.claim[i].name, name);
		if (found)
			*out = list.claim[i];
	}
	if (!status && !found)
		status = nothing_runs(name, &list);
	ledger_list_free(&list);
	ledger_close(l);
	return status;
}

static void plan_of(const struct ledger_claim *c, struct plan *out)
{
	out->nr_vcpus = c->nr_vcpus;
	out->nr_memory = c->nr_memory;
	out->claim = c->pus;
	for (unsigned i = 0; i < c->nr_vcpus; i++)
		out->vcpu[i].pu = c->vcpu[i];
	for (unsigned i = 0; i < c->nr_memory; i++)
		out->memory[i] = (struct plan_memory){ .guest_node = c->memory[i].guest_node,
						       .host_node = c->memory[i].host_node,
						       .bytes = c->memory[i].bytes,
						       .page_bytes = c->memory[i].page_bytes };
}

/* Its vCPU threads carry their numbers. */
static int find_threads(const struct ledger_claim *c, struct record *out)
{
	struct foreign_process p;
	int err = foreign_scan_pid(c->pid, &p), status = 0;

	if (err)
		return user_error("%s: the vCPU threads of process %d cannot be found: it is just "
				  "starting or ending, or a program of `pin_cores run`",
				  c->name, (int)c->pid);
	if (p.nr_vcpus != c->nr_vcpus)
		status = user_error("%s: process %d has %u vCPU threads, the ledger says %u",
				    c->name, (int)c->pid, p.nr_vcpus, c->nr_vcpus);
	for (unsigned i = 0; i < c->nr_vcpus && !status; i++)
		out->tid[i] = p.vcpu[i].tid;
	out->nr = c->nr_vcpus;
	foreign_process_free(&p);
	return status;
}

int ours_record(const char *name, struct record *out)
{
	struct ledger_claim *c = calloc(1, sizeof(*c));
	int status = c ? find_claim(name, c) : internal_error("out of memory");

	*out = (struct record){ 0 };
	if (!status && proc_start_time(c->pid, &out->start))
		status = user_error("%s: process %d has just ended", name, (int)c->pid);
	if (!status) {
		out->pid = c->pid;
		plan_of(c, &out->plan);
		status = find_threads(c, out);
	}
	free(c);
	return status;
}

/* --- apply ------------------------------------------------------------------------------- */

static int bind_vcpus(const struct record *r)
{
	struct bind_one *one = calloc(r->nr, sizeof(*one));
	unsigned failed = 0;
	int err, status = 0;

	if (!one)
		return internal_error("out of memory");
	for (unsigned i = 0; i < r->nr; i++) {
		one[i].tid = r->tid[i];
		pu_set_add(&one[i].pus, r->plan.vcpu[i].pu);
	}
	err = bind_all(one, r->nr, &failed);
	if (err)
		status = apply_binding_failed(r->pid, one[failed].tid, err);
	free(one);
	return status;
}

/* Only the machine knows which of its memory is which guest node's: it is asked. */
static int move_node(const char *name, const struct plan_memory *m, uint64_t *bytes,
		     double *seconds)
{
	json_t *request = client_request("move-memory"), *result = NULL;
	int status;

	json_object_set_new(request, "node", json_integer(m->guest_node));
	json_object_set_new(request, "to", json_integer(m->host_node));
	status = live_ask(name, request, NULL, &result);
	*bytes += live_bytes(result, "bytes");
	*seconds += live_real(result, "seconds");
	json_decref(result);
	return status;
}

static int move_nodes(const char *name, const struct plan *p)
{
	char text[SIZE_TEXT];
	uint64_t bytes = 0;
	double seconds = 0;
	int status = 0;

	for (unsigned i = 0; i < p->nr_memory && !status; i++)
		if (p->memory[i].host_node >= 0)
			status = move_node(name, &p->memory[i], &bytes, &seconds);
	if (!status)
		printf("saw to %s of guest memory in %.2f s\n", size_text(bytes, text), seconds);
	return status;
}

static int act(const char *name, const struct pin_options *o, struct record *r)
{
	int status = ours_record(name, r);

	if (!status)
		status = bind_vcpus(r);
	if (status)
		return status;
	printf("bound %u vCPU%s of %s\n", r->nr, r->nr == 1 ? "" : "s", name);
	if (o->move_memory)
		status = move_nodes(name, &r->plan);
	return finish_output(status);
}

int ours_apply(const char *name, const struct pin_options *o)
{
	struct record *r = calloc(1, sizeof(*r));
	int status = r ? act(name, o, r) : internal_error("out of memory");

	free(r);
	return status;
}
