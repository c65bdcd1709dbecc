/* watched.c - see watched.h. */
#include "watched.h"

#include "host/linux/foreign.h"
#include "host/linux/ledger.h"
#include "launch.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define MEMORY_SHARE 50 /* a look at the memory may take one part of so many */

static void one_free(struct watched *w)
{
	free(w->thread);
}

void watched_free(struct watched_list *l)
{
	for (unsigned i = 0; i < l->nr; i++)
		one_free(&l->one[i]);
	free(l->one);
	*l = (struct watched_list){ 0 };
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * NSEC_PER_SEC + (uint64_t)t.tv_nsec;
}

/* --- one process ------------------------------------------------------------------------- */

static const struct watched *find(const struct watched_list *l, pid_t pid)
{
	for (unsigned i = 0; i < l->nr; i++)
		if (l->one[i].pid == pid)
			return &l->one[i];
	return NULL;
}

static const struct watched_thread *find_thread(const struct watched *w, pid_t tid)
{
	for (unsigned i = 0; w && i < w->nr; i++)
		if (w->thread[i].task.tid == tid)
			return &w->thread[i];
	return NULL;
}

static void compare(struct watched_thread *t, const struct watched_thread *before, uint64_t ns)
{
	t->migrations_first = before ? before->migrations_first : t->task.migrations;
	t->moves = t->task.migrations == PROC_UNKNOWN ? PROC_UNKNOWN
						      : t->task.migrations - t->migrations_first;
	if (before && ns)
		t->busy = (double)(t->task.cpu_ns - before->task.cpu_ns) / (double)ns;
}

static int by_vcpu(const void *a, const void *b)
{
	const struct watched_thread *x = a, *y = b;

	if (x->vcpu != y->vcpu)
		return (unsigned)x->vcpu < (unsigned)y->vcpu ? -1 : 1; /* -1, none, is the last */
	return x->task.tid < y->task.tid ? -1 : x->task.tid > y->task.tid;
}

static int read_threads(struct watched *w, const struct watched *before,
			const struct foreign_process *vmm)
{
	struct proc_tasks tasks = { 0 };
	int err = proc_tasks_read(w->pid, &tasks);

	w->ns = now_ns();
	if (!err) {
		w->thread = calloc(tasks.nr, sizeof(*w->thread));
		err = w->thread ? 0 : -ENOMEM;
	}
	for (unsigned i = 0; !err && i < tasks.nr; i++) {
		struct watched_thread *t = &w->thread[w->nr++];

		*t = (struct watched_thread){ .task = tasks.task[i], .vcpu = -1 };
		for (unsigned k = 0; k < vmm->nr_vcpus; k++)
			if (vmm->vcpu[k].tid == t->task.tid)
				t->vcpu = (int)vmm->vcpu[k].index;
		compare(t, find_thread(before, t->task.tid), before ? w->ns - before->ns : 0);
	}
	if (w->thread)
		qsort(w->thread, w->nr, sizeof(*w->thread), by_vcpu);
	proc_tasks_free(&tasks);
	return err;
}

/*
 * The kernel goes through all page tables for it, and the process waits meanwhile if it
 * maps something: of a big one it is not read at every look.
 */
static void read_memory(struct watched *w, const struct watched *before)
{
	uint64_t now = now_ns();

	if (before && now - before->memory_ns < before->memory_took_ns * MEMORY_SHARE) {
		w->memory = before->memory;
		w->memory_ns = before->memory_ns;
		w->memory_took_ns = before->memory_took_ns;
		return;
	}
	if (proc_memory_read(w->pid, &w->memory))
		w->memory = (struct proc_memory){ 0 };
	free(w->memory.region);
	w->memory.region = NULL;
	w->memory.nr_regions = 0;
	w->memory_ns = now;
	w->memory_took_ns = now_ns() - now;
}

/* @name, @kind: NULL if it is not known better than /proc tells. */
static int add(struct watched_list *l, const struct watched_list *before, pid_t pid,
	       const char *name, const char *kind)
{
	struct watched *all = realloc(l->one, sizeof(*all) * (l->nr + 1)), *w;
	struct foreign_process vmm;
	int err;

	if (!all)
		return -ENOMEM;
	l->one = all;
	w = &all[l->nr];
	*w = (struct watched){ .pid = pid };
	err = foreign_scan_pid(pid, &vmm);
	if (err && err != -ENOENT)
		return err;
	w->kind = kind ? kind : err ? "program" : foreign_kind_name(vmm.kind);
	proc_name(pid, w->name);
	if (name)
		snprintf(w->name, sizeof(w->name), "%s", name);
	err = read_threads(w, find(before, pid), &vmm);
	foreign_process_free(&vmm);
	if (!err)
		read_memory(w, find(before, pid));
	if (err)
		one_free(w);
	else
		l->nr++;
	return err;
}

/* --- all of them ------------------------------------------------------------------------- */

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

static const char *kind_of(const struct ledger_claim *c)
{
	return strcmp(c->engine, LAUNCH_ENGINE) != 0 ? "Alcazar" : LAUNCH_ENGINE;
}

static int add_ours(struct watched_list *l, const struct watched_list *before, const char *name)
{
	struct ledger_list list;
	int err = read_ledger(&list);

	for (unsigned i = 0; i < list.nr && !err; i++) {
		const struct ledger_claim *c = &list.claim[i];

		if (name && strcmp(c->name, name) != 0)
			continue;
		err = add(l, before, c->pid, c->name, kind_of(c));
		if (err == -ESRCH && !name)
			err = 0; /* it has ended meanwhile */
	}
	ledger_list_free(&list);
	return err;
}

static int add_foreign(struct watched_list *l, const struct watched_list *before)
{
	struct foreign_list list;
	int err = foreign_scan(&list);

	for (unsigned i = 0; i < list.nr && !err; i++) {
		if (find(l, list.process[i].pid))
			continue;
		err = add(l, before, list.process[i].pid, NULL, NULL);
		if (err == -ESRCH || err == -EACCES)
			err = 0;
	}
	foreign_list_free(&list);
	return err;
}

int watched_look(struct watched_list *l, pid_t pid, const char *name)
{
	struct watched_list now = { 0 };
	int err;

	if (pid) {
		err = add(&now, l, pid, NULL, NULL);
	} else {
		err = add_ours(&now, l, name);
		if (!err && !name)
			err = add_foreign(&now, l);
		if (!err && name && !now.nr)
			err = -ESRCH;
	}
	watched_free(l);
	*l = now;
	return err;
}

/* --- questions --------------------------------------------------------------------------- */

unsigned watched_node_of(const struct machine_model *m, unsigned pu)
{
	unsigned index = machine_find_pu(m, pu);

	return index == MACHINE_NONE ? MACHINE_NONE : m->pu[index].node;
}

double watched_local(const struct machine_model *m, const struct watched *w, unsigned pu)
{
	unsigned node = watched_node_of(m, pu);

	if (node == MACHINE_NONE || !w->memory.bytes || m->node[node].os_index >= PROC_NODES_MAX)
		return 0;
	return (double)w->memory.node_bytes[m->node[node].os_index] / (double)w->memory.bytes;
}
