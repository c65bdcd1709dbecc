/*
 * running.c - who runs on this host: the machines of the ledger, and those of other
 * VMMs, which are told by the names of their threads.
 */
#include "host/linux/foreign.h"
#include "proc.h"
#include "scene.h"

#include <errno.h>
#include <stdio.h>

/* What may not be looked at has no memory that we know of. */
static void fill_memory(const struct scene *s, struct actor *a)
{
	struct proc_memory memory;

	if (proc_memory_read(a->pid, &memory))
		return;
	for (unsigned i = 0; i < s->m.nr_nodes; i++)
		if (s->m.node[i].os_index < PROC_NODES_MAX)
			a->node_bytes[i] = memory.node_bytes[s->m.node[i].os_index];
	proc_memory_free(&memory);
}

static int add_foreign(struct scene *s, const struct foreign_process *p)
{
	struct actor *a = scene_add(s, p->name, foreign_kind_name(p->kind), p->nr_vcpus);

	if (!a)
		return -ENOMEM;
	a->pid = p->pid;
	for (unsigned i = 0; i < p->nr_vcpus; i++)
		a->thread[i] = (struct actor_thread){ .tid = p->vcpu[i].tid,
						      .number = (int)p->vcpu[i].index,
						      .pus = p->vcpu[i].pus };
	fill_memory(s, a);
	return 0;
}

int scene_add_running(struct scene *s)
{
	struct foreign_list list;
	int err = foreign_scan(&list);

	for (unsigned i = 0; i < list.nr && !err; i++)
		err = add_foreign(s, &list.process[i]);
	foreign_list_free(&list);
	return err;
}
