/*
 * live_claim.c - the ledger's side of moves: others are asked first, and know at once.
 *
 * A move is claimed with the ledger locked before anything moves, and taken back if it
 * fails: between two machines that move to the same place one is first, and the other one
 * sees it. Memory on its way is claimed where it goes.
 */
#include "live_int.h"

#include <errno.h>

int live_lock(struct live *l, const struct machine_model *m, struct live_answer *a)
{
	char why[LEDGER_WHY_BYTES];
	int err;

	if (l->cfg.foreign && claims_look_around(&l->claims))
		l->claims = (struct claims){ 0 }; /* then without them, as at the start */
	err = l->cfg.ledger ? ledger_lock(l->cfg.ledger, LEDGER_EXCLUSIVE, why, sizeof(why)) : 0;
	if (err) {
		live_refuse(a, FAULT_BUSY, "%s", why);
		claims_free(&l->claims);
		return err;
	}
	err = claims_read(&l->claims, l->cfg.ledger, m, l->cfg.name);
	if (err) {
		live_refuse(a, FAULT_INTERNAL, "cannot see what other machines have: %s",
			    strerror(-err));
		live_unlock(l);
	}
	return err;
}

void live_unlock(struct live *l)
{
	if (l->cfg.ledger)
		ledger_unlock(l->cfg.ledger);
	claims_free(&l->claims);
}

/* --- our claim ---------------------------------------------------------------------- */

static bool others_have(const struct live *l, unsigned pu)
{
	for (unsigned i = 0; i < l->claims.nr; i++)
		if (pu_set_has(&l->claims.claim[i].pus, pu))
			return true;
	return false;
}

static void claim_core(const struct machine_model *m, unsigned pu, struct pu_set *out)
{
	unsigned at = machine_find_pu(m, pu);

	for (unsigned i = 0; i < m->nr_pus && at != MACHINE_NONE; i++)
		if (m->pu[i].core == m->pu[at].core)
			pu_set_add(out, m->pu[i].os_index);
}

static void claim_vcpus(const struct live *l, const struct machine_model *m, const struct plan *p,
			struct ledger_claim *c)
{
	pu_set_clear(&c->pus);
	pu_set_clear(&c->shared);
	for (unsigned v = 0; v < p->nr_vcpus; v++) {
		c->vcpu[v] = (uint16_t)p->vcpu[v].pu;
		pu_set_add(&c->pus, p->vcpu[v].pu);
		if (p->policy == PLAN_ISOLATE)
			claim_core(m, p->vcpu[v].pu, &c->pus);
	}
	pu_set_for_each(pu, &c->pus)
	{
		if (others_have(l, pu))
			pu_set_add(&c->shared, pu);
	}
}

static void claim_memory(const struct live *l, const struct plan *p, struct ledger_claim *c)
{
	for (unsigned i = 0; i < c->nr_memory; i++) {
		struct ledger_memory *m = &c->memory[i];
		const struct plan_memory *planned = &p->memory[m->guest_node];

		if (planned->nr_shares < 2) /* else each share has its line, and stays there */
			m->host_node = planned->host_node;
		for (unsigned k = 0; l->moving.on && k < l->moving.nr; k++)
			if (l->moving.part[k].node == m->guest_node)
				m->host_node = l->moving.part[k].to;
	}
	c->nr_io = p->nr_io;
	for (unsigned i = 0; i < p->nr_io; i++)
		c->io[i] = (struct ledger_io){ .node = p->io[i].host_node, .pu = p->io[i].pu };
}

int live_claim(struct live *l, const struct machine_model *m, const struct plan *p,
	       struct live_answer *a)
{
	char why[LEDGER_WHY_BYTES];
	struct ledger_claim *c = &l->claim;
	int err = l->cfg.ledger ? ledger_get(l->cfg.ledger, c) : -ENOENT;

	if (err)
		return 0; /* a machine that never claimed anything */
	claim_vcpus(l, m, p, c);
	claim_memory(l, p, c);
	err = ledger_update(l->cfg.ledger, c, why, sizeof(why));
	if (err)
		live_refuse(a, FAULT_INTERNAL, "%s", why);
	return err;
}

void live_claim_state(struct live *l, enum ledger_state state)
{
	char why[LEDGER_WHY_BYTES];

	if (!l->cfg.ledger || ledger_get(l->cfg.ledger, &l->claim))
		return;
	l->claim.state = state;
	if (ledger_update(l->cfg.ledger, &l->claim, why, sizeof(why)))
		host_log(l->cfg.host, LOG_WARN, "%s", why);
}

/* --- others ------------------------------------------------------------------------- */

int live_check_pu(struct live *l, unsigned pu, struct live_answer *a)
{
	struct pu_set one = { 0 };
	char who[256];

	pu_set_add(&one, pu);
	claims_sharers(&l->claims, &one, "by", who, sizeof(who));
	for (unsigned i = 0; i < l->claims.nr; i++) {
		const struct plan_claim *c = &l->claims.claim[i];

		if (!pu_set_has(&c->pus, pu) || !(c->exclusive || l->cfg.request->exclusive))
			continue;
		live_refuse(a, FAULT_REFUSED,
			    "%s shares no PU, and claimed is %s: take another one",
			    c->exclusive ? c->owner : l->cfg.name, who);
		return -EBUSY;
	}
	return 0;
}

json_t *live_sharers(const struct live *l, unsigned pu)
{
	struct pu_set one = { 0 };
	char who[256];

	pu_set_add(&one, pu);
	return json_string(claims_sharers(&l->claims, &one, "with", who, sizeof(who)));
}

uint64_t live_promised(const struct live *l, unsigned host_node)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < l->claims.nr; i++)
		for (unsigned k = 0; k < l->claims.claim[i].nr_memory; k++)
			if (l->claims.claim[i].memory[k].host_node == host_node &&
			    !l->claims.claim[i].memory[k].page_bytes)
				bytes += l->claims.claim[i].memory[k].bytes;
	return bytes;
}
