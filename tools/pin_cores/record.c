/* record.c - see record.h. */
#include "record.h"

#include "host/linux/cmd/cmd.h"
#include "host/linux/cmd/report.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#define SUFFIX ".plan"

/* --- writing ----------------------------------------------------------------------------- */

json_t *record_json(const struct placing *p, bool memory)
{
	json_t *doc = report_plan_json(&p->scene.m, &p->plan), *tids;

	if (!doc || !p->has_subject)
		return doc;
	tids = json_array();
	for (unsigned i = 0; i < p->subject.nr; i++)
		json_array_append_new(tids, json_integer(p->subject.tid[i]));
	json_object_set_new(doc, "pid", json_integer(p->subject.pid));
	json_object_set_new(doc, "start", json_integer((json_int_t)p->subject.start));
	json_object_set_new(doc, "memory_moved", json_boolean(memory));
	json_object_set_new(doc, "tids", tids);
	return doc;
}

const char *record_path(pid_t pid, char buf[RECORD_PATH_BYTES])
{
	char dir[RECORD_PATH_BYTES - 64];

	snprintf(buf, RECORD_PATH_BYTES, "%s/%d" SUFFIX, ledger_directory(dir, sizeof(dir)),
		 (int)pid);
	return buf;
}

/* Records of processes that are gone. */
static void sweep(const char *dir)
{
	DIR *d = opendir(dir);
	struct dirent *e;
	char path[RECORD_PATH_BYTES], *end;
	uint64_t start;
	long pid;

	while (d && (e = readdir(d))) {
		pid = strtol(e->d_name, &end, 10);
		if (pid <= 0 || strcmp(end, SUFFIX) != 0 || !proc_start_time((pid_t)pid, &start))
			continue;
		snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
		unlink(path);
	}
	if (d)
		closedir(d);
}

int record_write(const struct placing *p, bool memory)
{
	char path[RECORD_PATH_BYTES], unfinished[RECORD_PATH_BYTES + 8];
	json_t *doc = record_json(p, memory);
	bool failed;

	sweep(ledger_path(p->ledger));
	record_path(p->subject.pid, path);
	snprintf(unfinished, sizeof(unfinished), "%s.new", path);
	failed = !doc || json_dump_file(doc, unfinished, JSON_INDENT(2)) ||
		 rename(unfinished, path) != 0;
	json_decref(doc);
	if (!failed)
		return 0;
	unlink(unfinished);
	return user_error("%s: cannot be written, so `pin_cores verify` will not know the plan: %s",
			  path, strerror(errno));
}

/* --- reading ----------------------------------------------------------------------------- */

/* A member that is a whole number from @min to @max. */
static bool take(json_t *object, const char *key, json_int_t min, json_int_t max, json_int_t *out)
{
	json_t *v = json_object_get(object, key);

	if (!json_is_integer(v) || json_integer_value(v) < min || json_integer_value(v) > max)
		return false;
	*out = json_integer_value(v);
	return true;
}

static bool read_vcpu(json_t *v, unsigned i, struct plan *p)
{
	json_int_t id, pu, guest_node, host_node;

	if (!take(v, "id", i, i, &id) || !take(v, "pu", 0, PU_SET_MAX - 1, &pu) ||
	    !take(v, "node", 0, PLAN_NODES_MAX - 1, &guest_node) ||
	    !take(v, "host_node", -1, PROC_NODES_MAX - 1, &host_node))
		return false;
	p->vcpu[i] = (struct plan_vcpu){ .pu = (unsigned)pu,
					 .guest_node = (unsigned)guest_node,
					 .host_node = (int)host_node };
	pu_set_add(&p->claim, (unsigned)pu);
	return true;
}

static bool read_memory(json_t *v, unsigned i, struct plan *p)
{
	json_int_t guest_node, host_node, bytes;

	if (!take(v, "guest_node", i, i, &guest_node) ||
	    !take(v, "host_node", -1, PROC_NODES_MAX - 1, &host_node) ||
	    !take(v, "bytes", 1, INT64_MAX, &bytes))
		return false;
	p->memory[i] = (struct plan_memory){ .guest_node = i,
					     .host_node = (int)host_node,
					     .bytes = (uint64_t)bytes };
	return true;
}

static bool read_plan(json_t *doc, struct plan *p)
{
	json_t *vcpus = json_object_get(doc, "vcpus"), *memory = json_object_get(doc, "memory");
	bool ok;

	if (!json_is_array(vcpus) || !json_array_size(vcpus) ||
	    json_array_size(vcpus) > PLAN_VCPUS_MAX || !json_is_array(memory) ||
	    !json_array_size(memory) || json_array_size(memory) > PLAN_NODES_MAX)
		return false;
	p->nr_vcpus = (unsigned)json_array_size(vcpus);
	p->nr_memory = (unsigned)json_array_size(memory);
	ok = true;
	for (unsigned i = 0; i < p->nr_memory && ok; i++)
		ok = read_memory(json_array_get(memory, i), i, p);
	for (unsigned i = 0; i < p->nr_vcpus && ok; i++)
		ok = read_vcpu(json_array_get(vcpus, i), i, p) &&
		     p->vcpu[i].guest_node < p->nr_memory;
	return ok;
}

/* The process, if there is one: all of its words or none. */
static bool read_process(json_t *doc, struct record *out)
{
	json_t *tids = json_object_get(doc, "tids");
	json_int_t pid, start, tid;

	if (!tids && !json_object_get(doc, "pid"))
		return true;
	if (!take(doc, "pid", 1, INT32_MAX, &pid) || !take(doc, "start", 0, INT64_MAX, &start) ||
	    json_array_size(tids) != out->plan.nr_vcpus)
		return false;
	out->pid = (pid_t)pid;
	out->start = (uint64_t)start;
	out->memory = json_is_true(json_object_get(doc, "memory_moved"));
	for (out->nr = 0; out->nr < out->plan.nr_vcpus; out->nr++) {
		json_t *v = json_array_get(tids, out->nr);

		tid = json_integer_value(v);
		if (!json_is_integer(v) || tid < 1 || tid > INT32_MAX)
			return false;
		out->tid[out->nr] = (pid_t)tid;
	}
	return true;
}

int record_read(const char *path, struct record *out)
{
	json_error_t e;
	json_t *doc = json_load_file(path, 0, &e);
	int status = 0;

	*out = (struct record){ 0 };
	if (!doc && access(path, R_OK))
		return user_error("%s: cannot be read: %s", path, strerror(errno));
	if (!doc)
		return user_error("%s:%d: not JSON: %s", path, e.line, e.text);
	if (!read_plan(doc, &out->plan) || !read_process(doc, out))
		status = user_error("%s: not a plan as `pin_cores plan --json` prints it", path);
	json_decref(doc);
	return status;
}
