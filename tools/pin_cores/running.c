/*
 * running.c - who runs on this host: the machines and programs of the ledger, and the
 * machines of other VMMs, which are told by the names of their threads.
 *
 * Where threads are and memory lies is what /proc says; what only the owner may see
 * there is taken from the claim.
 */
#include "host/linux/foreign.h"
#include "host/linux/ledger.h"
#include "launch.h"
#include "proc.h"
#include "scene.h"

#include <errno.h>
#include <stdio.h>

static bool fill_memory(const struct scene *s, struct actor *a)
{
	struct proc_memory memory;

	if (proc_memory_read(a->pid, &memory))
		return false;
	for (unsigned i = 0; i < s->m.nr_nodes; i++)
		if (s->m.node[i].os_index < PROC_NODES_MAX)
			a->node_bytes[i] = memory.node_bytes[s->m.node[i].os_index];
	proc_memory_free(&memory);
	return true;
}

static void fill_threads(struct actor *a, const struct foreign_process *p)
{
	for (unsigned i = 0; i < p->nr_vcpus; i++)
		a->thread[i] = (struct actor_thread){ .tid = p->vcpu[i].tid,
						      .number = (int)p->vcpu[i].index,
						      .pus = p->vcpu[i].pus };
}

static const struct foreign_process *find_process(const struct foreign_list *l, pid_t pid)
{
	for (unsigned i = 0; i < l->nr; i++)
		if (l->process[i].pid == pid)
			return &l->process[i];
	return NULL;
}

/* --- the ledger's ------------------------------------------------------------------------ */

static void fill_from_claim(const struct scene *s, struct actor *a, const struct ledger_claim *c)
{
	unsigned node;

	for (unsigned i = 0; i < c->nr_memory; i++) {
		node = c->memory[i].host_node < 0
			       ? MACHINE_NONE
			       : machine_find_node(&s->m, (unsigned)c->memory[i].host_node);
		if (node != MACHINE_NONE)
			a->node_bytes[node] += c->memory[i].bytes;
	}
}

static int add_claim(struct scene *s, const struct ledger_claim *c, const struct foreign_list *l)
{
	bool program = !strcmp(c->engine, LAUNCH_ENGINE);
	const struct foreign_process *p = find_process(l, c->pid);
	struct actor *a = scene_add(s, c->name, program ? "program" : "Alcazar", c->nr_vcpus);

	if (!a)
		return -ENOMEM;
	a->pid = c->pid;
	a->claim = c->pus;
	if (program)
		a->unit = "thread";
	for (unsigned i = 0; i < c->nr_vcpus; i++) {
		a->thread[i].number = (int)i;
		pu_set_add(&a->thread[i].pus, c->vcpu[i]);
	}
	if (p && !program && p->nr_vcpus == c->nr_vcpus)
		fill_threads(a, p);
	if (!fill_memory(s, a))
		fill_from_claim(s, a, c);
	return 0;
}

static int read_ledger(struct ledger_list *out)
{
	char why[LEDGER_WHY_BYTES];
	struct ledger *l;
	int err = ledger_open(NULL, false, &l, why, sizeof(why));

	*out = (struct ledger_list){ 0 };
	if (err)
		return err == -ENOENT ? 0 : err;
	err = ledger_read(l, out);
	ledger_close(l);
	return err;
}

/* --- those of others --------------------------------------------------------------------- */

static int add_foreign(struct scene *s, const struct foreign_process *p)
{
	struct actor *a = scene_add(s, p->name, foreign_kind_name(p->kind), p->nr_vcpus);

	if (!a)
		return -ENOMEM;
	a->pid = p->pid;
	fill_threads(a, p);
	fill_memory(s, a);
	return 0;
}

static bool claimed(const struct ledger_list *l, pid_t pid)
{
	for (unsigned i = 0; i < l->nr; i++)
		if (l->claim[i].pid == pid)
			return true;
	return false;
}

int scene_add_running(struct scene *s)
{
	struct foreign_list foreign;
	struct ledger_list ours = { 0 };
	int err = foreign_scan(&foreign);

	if (!err)
		err = read_ledger(&ours);
	for (unsigned i = 0; i < ours.nr && !err; i++)
		err = add_claim(s, &ours.claim[i], &foreign);
	for (unsigned i = 0; i < foreign.nr && !err; i++)
		if (!claimed(&ours, foreign.process[i].pid))
			err = add_foreign(s, &foreign.process[i]);
	ledger_list_free(&ours);
	foreign_list_free(&foreign);
	return err;
}
