/* subject.c - see subject.h. */
#include "subject.h"

#include "host/linux/cmd/cmd.h"
#include "host/linux/foreign.h"

#include <errno.h>

void subject_free(struct subject *s)
{
	proc_tasks_free(&s->tasks);
	proc_memory_free(&s->memory);
	*s = (struct subject){ 0 };
}

static int complain(pid_t pid, int err)
{
	switch (err) {
	case 0:
		return 0;
	case -ESRCH:
		return user_error("process %d: there is none, or it has just ended", (int)pid);
	case -EACCES:
	case -EPERM:
		return user_error("process %d: may not be looked at: be its user, or root",
				  (int)pid);
	default:
		return internal_error("process %d: %s", (int)pid, strerror(-err));
	}
}

static int too_many(const struct subject *s, unsigned nr)
{
	return user_error("process %d (%s) has %u %ss; up to %d can be placed", (int)s->pid,
			  s->name, nr, s->unit, PLAN_VCPUS_MAX);
}

static int take_vcpus(struct subject *s, const struct foreign_process *p)
{
	s->kind = foreign_kind_name(p->kind);
	s->unit = "vCPU";
	s->is_vmm = true;
	if (p->nr_vcpus > PLAN_VCPUS_MAX)
		return too_many(s, p->nr_vcpus);
	s->nr = p->nr_vcpus;
	for (unsigned i = 0; i < s->nr; i++)
		s->tid[i] = p->vcpu[i].tid;
	return 0;
}

static int take_threads(struct subject *s)
{
	s->kind = "program";
	s->unit = "thread";
	if (s->tasks.nr > PLAN_VCPUS_MAX)
		return too_many(s, s->tasks.nr);
	s->nr = s->tasks.nr;
	for (unsigned i = 0; i < s->nr; i++)
		s->tid[i] = s->tasks.task[i].tid;
	return 0;
}

static int read_threads(struct subject *s)
{
	struct foreign_process p;
	int err = foreign_scan_pid(s->pid, &p), status;

	if (err == -ENOENT)
		return take_threads(s);
	if (err)
		return complain(s->pid, err);
	status = take_vcpus(s, &p);
	foreign_process_free(&p);
	return status;
}

int subject_read(pid_t pid, struct subject *out)
{
	int err;

	*out = (struct subject){ .pid = pid };
	err = proc_start_time(pid, &out->start);
	if (!err) {
		proc_name(pid, out->name);
		err = proc_tasks_read(pid, &out->tasks);
	}
	if (!err)
		err = proc_memory_read(pid, &out->memory);
	return err ? complain(pid, err) : read_threads(out);
}

bool subject_lives(const struct subject *s)
{
	uint64_t start;

	return !proc_start_time(s->pid, &start) && start == s->start;
}

int subject_find(const struct subject *s, pid_t tid)
{
	for (unsigned i = 0; i < s->nr; i++)
		if (s->tid[i] == tid)
			return (int)i;
	return -1;
}

void subject_give_back(const struct subject *s, struct machine_model *m)
{
	for (unsigned i = 0; i < m->nr_nodes; i++) {
		struct machine_node *n = &m->node[i];

		if (n->os_index < PROC_NODES_MAX)
			n->free_bytes = MIN(n->free_bytes + s->memory.node_bytes[n->os_index],
					    n->memory_bytes);
	}
}
