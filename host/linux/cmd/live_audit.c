/*
 * live_audit.c - where a running machine's threads and pages really are, beside the
 * plan: affinities from /proc, pages as the kernel tells them one by one.
 *
 * Somebody may have changed either behind our back: taskset, cpusets, the kernel's own
 * balancing, a node that ran full.
 */
#include "live_int.h"

#include "host/linux/mem_where.h"
#include "host/linux/pu_list.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>

#define STRETCH_PAGES 16384 /* between looks whether it is over */

/* --- threads ------------------------------------------------------------------------ */

struct thread_truth {
	int tid; /* 0: there is none */
	struct pu_set allowed;
	int runs_on;
};

struct threads {
	struct thread_truth *vcpu; /* nr_vcpus of them */
	unsigned nr_vcpus;
	struct thread_truth event[MACHINE_NODES_MAX]; /* by number of the event thread */
};

static bool read_line(const char *tid, const char *file, const char *key, char *buf, size_t bytes)
{
	char path[80];
	bool found = false;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%.20s/%s", tid, file);
	f = fopen(path, "re");
	if (!f)
		return false;
	while (!found && fgets(buf, (int)bytes, f))
		found = !key || !strncmp(buf, key, strlen(key));
	fclose(f);
	buf[strcspn(buf, "\n")] = '\0';
	return found;
}

/* proc(5): the name may hold anything, but not the last ")"; field 39 is the processor. */
static int processor_of(const char *stat)
{
	const char *p = strrchr(stat, ')');

	for (unsigned field = 2; p && field < 39; field++) {
		p = strchr(p + 1, ' ');
	}
	return p ? atoi(p + 1) : -1;
}

static void look_at(const char *tid, struct thread_truth *t)
{
	static const char key[] = "Cpus_allowed_list:";
	char line[4096];

	if (!read_line(tid, "status", key, line, sizeof(line)) ||
	    !pu_list_parse(line + sizeof(key) - 1 + strspn(line + sizeof(key) - 1, " \t"),
			   &t->allowed))
		return;
	t->runs_on = read_line(tid, "stat", NULL, line, sizeof(line)) ? processor_of(line) : -1;
	t->tid = atoi(tid);
}

static void look_at_threads(struct threads *out)
{
	DIR *dir = opendir("/proc/self/task");
	struct dirent *e;
	char name[64];
	unsigned n;

	while (dir && (e = readdir(dir))) {
		if (e->d_name[0] == '.' || !read_line(e->d_name, "comm", NULL, name, sizeof(name)))
			continue;
		if (sscanf(name, "vcpu%u", &n) == 1 && n < out->nr_vcpus)
			look_at(e->d_name, &out->vcpu[n]);
		else if (sscanf(name, "event %u", &n) == 1 && n < MACHINE_NODES_MAX)
			look_at(e->d_name, &out->event[n]);
	}
	if (dir)
		closedir(dir);
}

static bool is_on(const struct thread_truth *t, unsigned pu)
{
	return t->tid && pu_set_count(&t->allowed) == 1 && pu_set_has(&t->allowed, pu);
}

static json_t *thread_json(const struct thread_truth *t, unsigned pu, bool *drift)
{
	char allowed[256];
	bool good = is_on(t, pu);

	*drift |= !good;
	return json_pack("{s:i s:i s:s s:i s:b}", "pu", pu, "tid", t->tid, "allowed",
			 pu_list_text(&t->allowed, allowed, sizeof(allowed)), "runs_on",
			 t->tid ? t->runs_on : -1, "ok", good);
}

static json_t *vcpus_json(const struct plan *p, const struct threads *t, bool *drift)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < p->nr_vcpus; i++) {
		json_t *v = thread_json(&t->vcpu[i], p->vcpu[i].pu, drift);

		json_object_set_new(v, "id", json_integer(i));
		json_object_set_new(v, "node", json_integer(p->vcpu[i].guest_node));
		json_object_set_new(v, "host_node", json_integer(p->vcpu[i].host_node));
		json_array_append_new(list, v);
	}
	return list;
}

/* Nodes that have none of their own share the first event thread. */
static json_t *io_json(const struct plan *p, const struct threads *t, bool *drift)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < p->nr_io; i++) {
		unsigned number = p->io[i].host_node < 0 ? 0 : (unsigned)p->io[i].host_node;
		const struct thread_truth *thread = &t->event[number];
		json_t *v = thread_json(thread->tid ? thread : &t->event[0], p->io[i].pu, drift);

		json_object_set_new(v, "host_node", json_integer(p->io[i].host_node));
		json_array_append_new(list, v);
	}
	return list;
}

/* --- pages -------------------------------------------------------------------------- */

int live_where(struct live *l, unsigned node, struct host_where *out)
{
	const struct host_mem *m = vmm_memory(l->cfg.vm, node);
	uint64_t step = MAX(PAGE_SIZE, l->plan.memory[node].page_bytes),
		 stretch = step * STRETCH_PAGES;
	int err = 0;

	memset(out, 0, sizeof(*out));
	for (uint64_t o = 0; !err && o < m->bytes && !atomic_load(&l->cancelled); o += stretch)
		err = linux_where(0, (uintptr_t)m->base + o, MIN(stretch, m->bytes - o), step, out);
	return err;
}

static uint64_t resident(const struct host_where *w)
{
	uint64_t bytes = 0;

	for (unsigned n = 0; n < MACHINE_NODES_MAX; n++)
		bytes += w->bytes[n];
	return bytes;
}

static json_t *where_json(const struct host_where *w)
{
	json_t *list = json_array();

	for (unsigned n = 0; n < MACHINE_NODES_MAX; n++)
		if (w->bytes[n])
			json_array_append_new(list, json_pack("{s:i s:I}", "host_node", n, "bytes",
							      (json_int_t)w->bytes[n]));
	return list;
}

/* On the nodes that were asked for. */
static uint64_t local_bytes(const struct live *l, unsigned node, const struct host_where *w)
{
	const struct plan_memory *m = &l->plan.memory[node];
	uint64_t bytes = 0;

	if (m->host_node < 0)
		return resident(w);
	if (m->nr_shares < 2)
		return w->bytes[m->host_node];
	for (unsigned i = 0; i < m->nr_shares; i++)
		bytes += w->bytes[l->plan.share[m->first_share + i].node];
	return bytes;
}

static double percent(uint64_t part, uint64_t all)
{
	return all ? 100.0 * (double)part / (double)all : 100.0;
}

static int memory_json(struct live *l, json_t *list, uint64_t *local, uint64_t *all)
{
	struct host_where *w = malloc(sizeof(*w));
	int err = w ? 0 : -ENOMEM;

	for (unsigned i = 0; i < l->plan.nr_memory && !err; i++) {
		const struct plan_memory *m = &l->plan.memory[i];

		err = live_where(l, i, w);
		if (err)
			break;
		*local += local_bytes(l, i, w);
		*all += resident(w);
		json_array_append_new(
			list,
			json_pack("{s:i s:i s:I s:I s:I s:o s:f s:b}", "guest_node", i, "host_node",
				  m->host_node, "bytes", (json_int_t)m->bytes, "page_bytes",
				  (json_int_t)(mem_pages_reserved(m->page_bytes) ? m->page_bytes
										 : 0),
				  "resident_bytes", (json_int_t)resident(w), "on", where_json(w),
				  "local_percent", percent(local_bytes(l, i, w), resident(w)), "ok",
				  local_bytes(l, i, w) == resident(w)));
	}
	free(w);
	return err;
}

/* --- all of it ---------------------------------------------------------------------- */

void live_audit(struct live *l, struct live_answer *a)
{
	struct threads *t = calloc(1, sizeof(*t));
	json_t *memory = json_array();
	uint64_t local = 0, all = 0;
	bool drift = false;
	int err = 0;

	vmm_get_plan(l->cfg.vm, &l->plan);
	if (t)
		t->vcpu = calloc(l->plan.nr_vcpus, sizeof(*t->vcpu));
	if (t && t->vcpu) {
		t->nr_vcpus = l->plan.nr_vcpus;
		look_at_threads(t);
		err = memory_json(l, memory, &local, &all);
	}
	if (err) {
		live_refuse(a, FAULT_INTERNAL, "where pages are cannot be asked: %s",
			    strerror(-err));
	} else if (t && t->vcpu) {
		json_t *vcpus = vcpus_json(&l->plan, t, &drift);
		json_t *io = io_json(&l->plan, t, &drift);

		drift |= local != all;
		a->result = json_pack("{s:s s:b s:f s:o s:o s:O}", "name", l->cfg.name, "drift",
				      drift, "local_percent", percent(local, all), "vcpus", vcpus,
				      "io", io, "memory", memory);
	}
	json_decref(memory);
	if (t)
		free(t->vcpu);
	free(t);
}
