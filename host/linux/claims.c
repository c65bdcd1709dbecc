/* claims.c - see claims.h. */
#include "claims.h"

#include "pu_list.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define PARTS_MAX 64 /* vCPUs of one owner that count on one PU */

int claims_look_around(struct claims *out)
{
	*out = (struct claims){ 0 };
	return foreign_scan(&out->foreign);
}

static void forget(struct claims *c)
{
	ledger_list_free(&c->ledger);
	free(c->owner);
	free(c->claim);
	c->owner = NULL;
	c->claim = NULL;
	c->nr_owners = c->nr = 0;
}

void claims_free(struct claims *c)
{
	forget(c);
	foreign_list_free(&c->foreign);
}

/* --- owners ----------------------------------------------------------------------------- */

static int add_part(struct claims *c, struct claim_owner *o, const struct pu_set *pus,
		    bool exclusive)
{
	struct plan_claim *all = realloc(c->claim, sizeof(*all) * (c->nr + 1));

	if (!all)
		return -ENOMEM;
	c->claim = all;
	all[c->nr++] = (struct plan_claim){ .pus = *pus, .exclusive = exclusive };
	o->nr++;
	return 0;
}

/* One part with all PUs, one with those that carry two and more, and so on. */
static int add_parts(struct claims *c, struct claim_owner *o, const struct pu_set *pus,
		     const uint16_t *vcpus_on, bool exclusive)
{
	struct pu_set part = *pus;
	int err = 0;

	for (unsigned k = 1; !err && k <= PARTS_MAX && pu_set_count(&part); k++) {
		err = add_part(c, o, &part, exclusive);
		pu_set_for_each(pu, &part)
		{
			if (vcpus_on[pu] <= k)
				pu_set_del(&part, pu);
		}
	}
	return err;
}

static struct claim_owner *add_owner(struct claims *c, const char *fmt, ...) __printf(2, 3);
static struct claim_owner *add_owner(struct claims *c, const char *fmt, ...)
{
	struct claim_owner *o, *all = realloc(c->owner, sizeof(*all) * (c->nr_owners + 1));
	va_list ap;

	if (!all)
		return NULL;
	c->owner = all;
	o = &all[c->nr_owners++];
	*o = (struct claim_owner){ .first = c->nr };
	va_start(ap, fmt);
	vsnprintf(o->label, sizeof(o->label), fmt, ap);
	va_end(ap);
	return o;
}

/* Only sizes that the machine has pages of; all else comes from the base pages. */
static uint64_t page_kind(const struct machine_model *m, uint64_t page_bytes)
{
	for (unsigned n = 0; n < m->nr_nodes; n++)
		for (unsigned i = 0; i < MACHINE_PAGE_SIZES; i++)
			if (page_bytes && m->node[n].huge[i].bytes == page_bytes)
				return page_bytes;
	return 0;
}

static unsigned add_memory(struct claim_owner *o, const struct machine_model *m,
			   const struct ledger_claim *from)
{
	uint64_t untouched[PLAN_NODES_MAX];
	unsigned nr = 0;

	ledger_untouched(from, untouched);
	for (unsigned i = 0; i < from->nr_memory; i++)
		if (from->memory[i].host_node >= 0)
			o->memory[nr++] = (struct plan_claim_memory){
				.host_node = (unsigned)from->memory[i].host_node,
				.bytes = untouched[i],
				.page_bytes = page_kind(m, from->memory[i].page_bytes),
			};
	return nr;
}

static int add_ours(struct claims *c, const struct machine_model *m,
		    const struct ledger_claim *from)
{
	struct claim_owner *o = add_owner(c, "%s (process %d)", from->name, (int)from->pid);
	uint16_t vcpus_on[PU_SET_MAX] = { 0 };
	int err = o ? 0 : -ENOMEM;

	for (unsigned i = 0; i < from->nr_vcpus; i++)
		vcpus_on[from->vcpu[i]]++;
	if (!err)
		err = add_parts(c, o, &from->pus, vcpus_on, from->exclusive);
	if (!err)
		c->claim[o->first].nr_memory = add_memory(o, m, from);
	return err;
}

/* A thread bound to many PUs runs on one of them at a time: it counts once on each. */
static int add_foreign(struct claims *c, const struct foreign_process *p,
		       const struct pu_set *usable)
{
	uint16_t vcpus_on[PU_SET_MAX] = { 0 };
	struct pu_set pus = { 0 };
	struct claim_owner *o;

	for (unsigned i = 0; i < p->nr_vcpus; i++) {
		const struct foreign_vcpu *v = &p->vcpu[i];

		if (!foreign_pinned(v, usable))
			continue;
		for (size_t w = 0; w < ARRAY_SIZE(pus.word); w++)
			pus.word[w] |= v->pus.word[w];
		if (pu_set_count(&v->pus) == 1)
			vcpus_on[pu_set_next(&v->pus, 0)]++;
	}
	if (!pu_set_count(&pus))
		return 0;
	o = add_owner(c, "%s %s (process %d)", foreign_kind_name(p->kind), p->name, (int)p->pid);
	return o ? add_parts(c, o, &pus, vcpus_on, false) : -ENOMEM;
}

/* --- all of them ------------------------------------------------------------------------ */

static bool in_ledger(const struct claims *c, pid_t pid)
{
	for (unsigned i = 0; i < c->ledger.nr; i++)
		if (c->ledger.claim[i].pid == pid)
			return true;
	return false;
}

/* It was there when we looked around; by now its claim and itself may be gone. */
static bool is_gone(pid_t pid)
{
	return kill(pid, 0) && errno == ESRCH;
}

static void find_usable(const struct machine_model *m, struct pu_set *out)
{
	pu_set_clear(out);
	for (unsigned i = 0; i < m->nr_pus; i++)
		if (m->pu[i].usable)
			pu_set_add(out, m->pu[i].os_index);
}

/* Owners do not move any more. */
static void link_up(struct claims *c)
{
	for (unsigned i = 0; i < c->nr_owners; i++) {
		const struct claim_owner *o = &c->owner[i];

		for (unsigned k = 0; k < o->nr; k++)
			c->claim[o->first + k].owner = o->label;
		if (o->nr)
			c->claim[o->first].memory = o->memory;
	}
}

int claims_read(struct claims *c, struct ledger *l, const struct machine_model *m,
		const char *except)
{
	struct pu_set usable;
	int err = 0;

	forget(c);
	find_usable(m, &usable);
	if (l)
		err = ledger_read(l, &c->ledger);
	for (unsigned i = 0; i < c->ledger.nr && !err; i++)
		if (!except || strcmp(c->ledger.claim[i].name, except) != 0)
			err = add_ours(c, m, &c->ledger.claim[i]);
	for (unsigned i = 0; i < c->foreign.nr && !err; i++)
		if (!in_ledger(c, c->foreign.process[i].pid) && !is_gone(c->foreign.process[i].pid))
			err = add_foreign(c, &c->foreign.process[i], &usable);
	if (err)
		forget(c);
	link_up(c);
	return err;
}

/* --- words ------------------------------------------------------------------------------ */

static void common(const struct pu_set *a, const struct pu_set *b, struct pu_set *out)
{
	for (size_t i = 0; i < ARRAY_SIZE(out->word); i++)
		out->word[i] = a->word[i] & b->word[i];
}

/* Another item of a list, or, where there is no room, that there are more. */
static bool add_item(char *buf, size_t bytes, const char *item)
{
	static const char more[] = ", and others";
	size_t at = strlen(buf);

	if (at + strlen(item) + 2 + sizeof(more) > bytes) {
		snprintf(buf + at, bytes - at, "%s", at ? more : "others");
		return false;
	}
	snprintf(buf + at, bytes - at, "%s%s", at ? ", " : "", item);
	return true;
}

const char *claims_sharers(const struct claims *c, const struct pu_set *pus, const char *word,
			   char *buf, size_t bytes)
{
	bool room = true;

	*buf = '\0';
	for (unsigned i = 0; i < c->nr_owners && room; i++) {
		const struct claim_owner *o = &c->owner[i];
		char list[64], item[CLAIMS_OWNER_BYTES + sizeof(list) + 16];
		struct pu_set both = { 0 };

		if (o->nr)
			common(&c->claim[o->first].pus, pus, &both);
		if (!pu_set_count(&both))
			continue;
		snprintf(item, sizeof(item), "%s %s %s %s", pu_set_count(&both) > 1 ? "PUs" : "PU",
			 pu_list_text(&both, list, sizeof(list)), word, o->label);
		room = add_item(buf, bytes, item);
	}
	return buf;
}

const char *claims_promises(const struct claims *c, char *buf, size_t bytes)
{
	bool room = true;

	*buf = '\0';
	for (unsigned i = 0; i < c->nr; i++) {
		for (unsigned k = 0; k < c->claim[i].nr_memory && room; k++) {
			const struct plan_claim_memory *m = &c->claim[i].memory[k];
			char item[CLAIMS_OWNER_BYTES + 48];

			if (m->bytes < MIB(1))
				continue;
			snprintf(item, sizeof(item), "%llu MiB on node %u to %s",
				 (unsigned long long)(m->bytes / MIB(1)), m->host_node,
				 c->claim[i].owner);
			room = add_item(buf, bytes, item);
		}
	}
	return buf;
}
