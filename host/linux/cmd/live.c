/* live.c - see live.h: state, pause, and who does what. */
#include "live_int.h"

#include "report.h"

#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

struct live *live_create(const struct live_config *cfg)
{
	struct live *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	l->cfg = *cfg;
	l->started_ns = live_now_ns(l);
	return l;
}

void live_destroy(struct live *l)
{
	if (!l)
		return;
	json_decref(l->moving.result);
	free(l);
}

uint64_t live_now_ns(const struct live *l)
{
	return l->cfg.host->ops->now_ns(l->cfg.host->ctx);
}

bool live_ended(const struct live *l)
{
	struct vmm_result r;

	return !vmm_wait(l->cfg.vm, 0, &r);
}

void live_refuse(struct live_answer *a, enum control_fault fault, const char *fmt, ...)
{
	va_list ap;

	a->fault = fault;
	va_start(ap, fmt);
	vsnprintf(a->why, sizeof(a->why), fmt, ap);
	va_end(ap);
}

/* --- any thread --------------------------------------------------------------------- */

static const char *state_of(const struct live *l)
{
	if (live_ended(l))
		return "ended";
	return atomic_load(&l->paused) ? "paused" : "running";
}

json_t *live_status(const struct live *l)
{
	return json_pack("{s:s s:i s:s s:s s:i s:f}", "name", l->cfg.name, "pid", (int)getpid(),
			 "state", state_of(l), "engine", l->cfg.engine, "vcpus",
			 (int)vmm_vcpus(l->cfg.vm), "seconds",
			 (double)(live_now_ns(l) - l->started_ns) / 1e9);
}

void live_end(struct live *l)
{
	live_cancel(l);
	l->cfg.end(l->cfg.arg);
}

void live_cancel(struct live *l)
{
	atomic_store(&l->cancelled, true);
}

/* --- the worker --------------------------------------------------------------------- */

/* Copying memory and counting pages is work, and not for the PUs of anybody's vCPUs. */
void live_keep_house(struct live *l)
{
	struct pu_set pus = { 0 };

	vmm_get_plan(l->cfg.vm, &l->plan);
	for (unsigned i = 0; i < l->plan.nr_io; i++)
		pu_set_add(&pus, l->plan.io[i].pu);
	if (l->plan.nr_io)
		l->cfg.host->ops->thread_bind(l->cfg.host->ctx, NULL, &pus);
}

/* The debugger's pauses nest with ours, two of ours do not with each other. */
static void pause_machine(struct live *l, struct live_answer *a)
{
	uint64_t before = live_now_ns(l);

	if (!atomic_load(&l->paused)) {
		vmm_pause(l->cfg.vm);
		atomic_store(&l->paused, true);
		live_claim_state(l, LEDGER_PAUSED);
	}
	a->result = json_pack("{s:s s:f}", "state", state_of(l), "microseconds",
			      (double)(live_now_ns(l) - before) / 1e3);
}

static void resume_machine(struct live *l, struct live_answer *a)
{
	if (atomic_exchange(&l->paused, false)) {
		live_claim_state(l, LEDGER_RUNNING);
		vmm_resume(l->cfg.vm);
	}
	a->result = json_pack("{s:s}", "state", state_of(l));
}

static void tell_stats(struct live *l, struct live_answer *a)
{
	json_t *kvm = report_kvm_json(l->cfg.vm);

	a->result = json_pack("{s:s s:s s:f s:o}", "name", l->cfg.name, "engine", l->cfg.engine,
			      "seconds", (double)(live_now_ns(l) - l->started_ns) / 1e9, "vcpus",
			      report_stats_json(l->cfg.vm));
	if (kvm)
		json_object_set_new(a->result, "kvm", kvm);
}

void live_do(struct live *l, const struct control_request *r, struct live_answer *a)
{
	if (live_ended(l)) {
		live_refuse(a, FAULT_REFUSED, "the machine has ended");
		return;
	}
	switch (r->command) {
	case CONTROL_PAUSE:
		pause_machine(l, a);
		break;
	case CONTROL_RESUME:
		resume_machine(l, a);
		break;
	case CONTROL_MOVE_VCPU:
		live_move_vcpu(l, r, a);
		break;
	case CONTROL_MOVE_MEMORY:
		live_move_memory(l, r, a);
		break;
	case CONTROL_REBALANCE:
		live_rebalance(l, r, a);
		break;
	case CONTROL_AUDIT:
		live_audit(l, a);
		break;
	case CONTROL_STATS:
		tell_stats(l, a);
		break;
	default:
		a->result = live_status(l);
		break;
	}
	if (!a->result && !a->moving && !a->why[0])
		live_refuse(a, FAULT_INTERNAL, "out of memory");
}
