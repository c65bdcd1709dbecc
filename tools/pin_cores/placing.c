/* placing.c - see placing.h. */
#include "placing.h"

#include "host/linux/cmd/cmd.h"

#include <errno.h>

#define WHY_BYTES 512

/* --- who is there ------------------------------------------------------------------------ */

static int open_ledger(struct placing *p, enum placing_use use)
{
	char why[WHY_BYTES];
	int err = ledger_open(NULL, use == PLACING_ACT, &p->ledger, why, sizeof(why));

	if (err == -ENOENT && use == PLACING_LOOK)
		return 0;
	if (!err) {
		err = ledger_lock(p->ledger, use == PLACING_ACT ? LEDGER_EXCLUSIVE : LEDGER_SHARED,
				  why, sizeof(why));
		p->locked = !err;
	}
	return err ? user_error("%s", why) : 0;
}

void placing_unlock(struct placing *p)
{
	if (p->locked)
		ledger_unlock(p->ledger);
	p->locked = false;
}

/* A machine does not stand in its own way when it is placed anew. */
static void drop_subject(struct placing *p)
{
	struct foreign_list *l = &p->claims.foreign;

	for (unsigned i = 0; p->has_subject && i < l->nr; i++) {
		if (l->process[i].pid != p->subject.pid)
			continue;
		foreign_process_free(&l->process[i]);
		memmove(&l->process[i], &l->process[i + 1], (--l->nr - i) * sizeof(l->process[i]));
		return;
	}
}

/* Ours moves its threads itself, keeps the ledger right and knows its guest's nodes. */
static int refuse_ours(const struct placing *p)
{
	const struct ledger_list *l = &p->claims.ledger;

	for (unsigned i = 0; p->has_subject && i < l->nr; i++)
		if (l->claim[i].pid == p->subject.pid)
			return user_error(
				"process %d is in the ledger as %s: say `alcazar rebalance "
				"%s`, or `pin_cores apply %s` to bind it as planned",
				(int)p->subject.pid, l->claim[i].name, l->claim[i].name,
				l->claim[i].name);
	return 0;
}

static int read_claims(struct placing *p, enum placing_use use, bool foreign)
{
	int status, err = foreign ? claims_look_around(&p->claims) : 0;

	if (err)
		return internal_error("cannot tell what runs here: %s", strerror(-err));
	drop_subject(p);
	status = open_ledger(p, use);
	if (status)
		return status;
	err = claims_read(&p->claims, p->ledger, &p->scene.m, NULL);
	if (err)
		return internal_error("cannot read the ledger: %s", strerror(-err));
	return refuse_ours(p);
}

int placing_begin(struct placing *p, const struct pin_options *o, enum placing_use use)
{
	int status = 0;

	if (o->pid && o->run.topology)
		return user_error("--pid %u: a process runs on this machine: leave --topology out",
				  o->pid);
	if (o->pid) {
		p->has_subject = true;
		status = subject_read((pid_t)o->pid, &p->subject);
	}
	if (!status)
		status = pin_scene(o, &p->scene);
	if (!status && !o->run.topology)
		status = read_claims(p, use, o->run.foreign);
	if (!status && use == PLACING_LOOK)
		placing_unlock(p);
	if (!status && p->has_subject)
		subject_give_back(&p->subject, &p->scene.m);
	return status;
}

void placing_end(struct placing *p)
{
	placing_unlock(p);
	ledger_close(p->ledger);
	claims_free(&p->claims);
	placement_free(&p->placement);
	subject_free(&p->subject);
	scene_free(&p->scene);
	*p = (struct placing){ 0 };
}

/* --- the plan ---------------------------------------------------------------------------- */

/*
 * From outside a guest's nodes cannot be seen. It is taken as one, whose vCPUs want to be
 * near all of its memory; only what does not fit so is cut.
 */
static void ask_for_subject(const struct subject *s, struct pin_options *o)
{
	unsigned homes = MAX(o->run.nodes, 1);

	o->run.cpus = s->nr;
	o->run.memory = MAX(ALIGN_UP(s->memory.bytes, MIB(1)), MIB(homes));
	o->run.nodes = homes;
}

static int make_plan(struct placing *p, char *why)
{
	return plan_make(&p->scene.m, &p->placement.request, &p->plan, why, WHY_BYTES);
}

static const char *unit_of(const struct placing *p, const struct pin_options *o)
{
	return p->has_subject ? p->subject.unit : o->program ? "thread" : "vCPU";
}

static void warn_of_sharing(const struct placing *p, const struct pin_options *o)
{
	const struct plan *plan = &p->plan;
	struct pu_set shared = { 0 };
	char sharers[512];
	unsigned nr = 0;

	for (unsigned i = 0; i < plan->nr_vcpus; i++) {
		if (!plan->vcpu[i].shared)
			continue;
		pu_set_add(&shared, plan->vcpu[i].pu);
		nr++;
	}
	if (!nr)
		return;
	claims_sharers(&p->claims, &shared, "with", sharers, sizeof(sharers));
	user_error("warning: %u of %u %ss share %u PU%s%s%s", nr, plan->nr_vcpus, unit_of(p, o),
		   pu_set_count(&shared), pu_set_count(&shared) == 1 ? "" : "s",
		   sharers[0] ? ": " : "", sharers);
}

int placing_plan(struct placing *p, struct option_set *set, struct pin_options *o)
{
	bool cut = p->has_subject && !o->run.nodes;
	char why[WHY_BYTES] = "";
	int status, err;

	if (p->has_subject)
		ask_for_subject(&p->subject, o);
	if (o->run.memory % MIB(1))
		return user_error("--memory: whole megabytes are needed");
	status = placement_request(set, &o->run, &p->scene.m, &p->placement);
	if (status)
		return status;
	p->placement.request.io_threads = p->has_subject ? p->subject.is_vmm : !o->program;
	p->placement.request.claim = p->claims.claim;
	p->placement.request.nr_claims = p->claims.nr;
	err = make_plan(p, why);
	if (err == -ENOSPC && cut) {
		p->placement.request.nodes = 0;
		err = make_plan(p, why);
	}
	if (err == -ENOMEM)
		return internal_error("%s", why);
	if (err)
		return user_error("%s", why);
	warn_of_sharing(p, o);
	return 0;
}

const char *placing_title(const struct placing *p, char *buf, size_t bytes)
{
	if (p->has_subject)
		snprintf(buf, bytes, "%s (%s, pid %d)", p->subject.name, p->subject.kind,
			 (int)p->subject.pid);
	else
		snprintf(buf, bytes, "guest");
	return buf;
}
