/* doctor_host.c - nodes, huge pages, limits and tools, as the doctor sees them. */
#include "doctor.h"

#include "cmd.h"
#include "placement/machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#define FILES_WANTED 2048 /* a vCPU of 1,024 is one; so is much else */

/* --- nodes ------------------------------------------------------------------------- */

static void find_huge_pages(struct doctor *d, unsigned node)
{
	static const struct {
		const char *directory, *name;
	} sizes[] = { { "hugepages-2048kB", "2 MiB" }, { "hugepages-1048576kB", "1 GiB" } };
	char path[160], total[32], left[32];

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		snprintf(path, sizeof(path), "/sys/devices/system/node/node%u/hugepages/%s/%s",
			 node, sizes[i].directory, "nr_hugepages");
		if (doctor_read(path, total, sizeof(total)))
			continue;
		snprintf(path, sizeof(path), "/sys/devices/system/node/node%u/hugepages/%s/%s",
			 node, sizes[i].directory, "free_hugepages");
		doctor_read(path, left, sizeof(left));
		doctor_find(d, "nodes", FINDING_FACT, NULL, "node %u: %s pages of %s, %s free",
			    node, total, sizes[i].name, left);
	}
}

static void find_nodes(struct doctor *d)
{
	struct machine_model m = { 0 };
	char total[SIZE_TEXT], left[SIZE_TEXT];
	int err = d->host->ops->topology(d->host->ctx, &m);

	if (err) {
		doctor_find(d, "nodes", FINDING_PROBLEM, "is /sys mounted?",
			    "the topology cannot be discovered: %s", strerror(-err));
		return;
	}
	doctor_find(d, "nodes", FINDING_FACT, NULL, "%u packages, %u nodes, %u cores, %u PUs",
		    m.nr_packages, m.nr_nodes, m.nr_cores, m.nr_pus);
	for (unsigned i = 0; i < m.nr_nodes; i++) {
		const struct machine_node *n = &m.node[i];

		doctor_find(d, "nodes", n->usable ? FINDING_FACT : FINDING_PROBLEM,
			    n->usable ? NULL : "widen the cpuset of this process (cpuset.mems)",
			    "node %u: %s, %s free%s", n->os_index,
			    size_text(n->memory_bytes, total), size_text(n->free_bytes, left),
			    n->usable ? "" : ", not allowed");
		find_huge_pages(d, n->os_index);
	}
	machine_free(&m);
}

static void find_memory_policy(struct doctor *d)
{
	char value[80];

	if (!doctor_read("/proc/sys/kernel/numa_balancing", value, sizeof(value)) &&
	    value[0] != '0')
		doctor_find(d, "nodes", FINDING_PROBLEM, "sysctl kernel.numa_balancing=0",
			    "NUMA balancing is on: it makes guests stall while it looks for pages "
			    "to move, and theirs are bound already");
	if (!doctor_read("/sys/kernel/mm/transparent_hugepage/enabled", value, sizeof(value)))
		doctor_find(d, "nodes", FINDING_FACT, NULL, "transparent huge pages: %s", value);
}

/* --- limits --------------------------------------------------------------------------- */

/* The directory of this process's control group: version 2, or "" for none. */
static void cgroup_path(char *buf, size_t bytes)
{
	char line[300];

	buf[0] = '\0';
	if (doctor_read("/proc/self/cgroup", line, sizeof(line)) || strncmp(line, "0::", 3) != 0)
		return;
	snprintf(buf, bytes, "/sys/fs/cgroup%s", line + 3);
}

static void find_cgroup(struct doctor *d)
{
	static const struct {
		const char *file, *what, *none;
	} limits[] = {
		{ "memory.max", "memory", "max" },
		{ "cpu.max", "CPU time (quota, period in microseconds)", "max 100000" },
		{ "cpuset.cpus.effective", "CPUs", "" },
		{ "cpuset.mems.effective", "nodes", "" },
		{ "pids.max", "threads", "max" },
	};
	char dir[320], path[360], value[128];

	cgroup_path(dir, sizeof(dir));
	for (size_t i = 0; *dir && i < ARRAY_SIZE(limits); i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, limits[i].file);
		if (doctor_read(path, value, sizeof(value)))
			continue;
		if (strcmp(value, limits[i].none) != 0)
			doctor_find(d, "limits", FINDING_FACT, NULL, "control group: %s: %s",
				    limits[i].what, value);
	}
}

static void limit_text(rlim_t n, char buf[24])
{
	if (n == RLIM_INFINITY)
		snprintf(buf, 24, "no limit");
	else
		snprintf(buf, 24, "%llu", (unsigned long long)n);
}

static void find_rlimits(struct doctor *d)
{
	struct rlimit files = { 0 }, locked = { 0 };
	char text[24];

	getrlimit(RLIMIT_NOFILE, &files);
	getrlimit(RLIMIT_MEMLOCK, &locked);
	limit_text(files.rlim_max, text);
	if (files.rlim_max < FILES_WANTED)
		doctor_find(d, "limits", FINDING_PROBLEM,
			    "raise it in limits.conf (nofile) or the service's LimitNOFILE=",
			    "open files: %s at most: too few for machines of 1,024 vCPUs", text);
	else
		doctor_find(d, "limits", FINDING_GOOD, NULL, "open files: %s at most", text);
	limit_text(locked.rlim_cur, text);
	doctor_find(d, "limits", FINDING_FACT, NULL, "locked memory: %s (bytes)", text);
}

/* --- measuring ---------------------------------------------------------------------------- */

static bool in_path(const char *program)
{
	const char *path = getenv("PATH");
	char file[512];

	for (; path && *path; path += strspn(path, ":")) {
		size_t n = strcspn(path, ":");

		snprintf(file, sizeof(file), "%.*s/%s", (int)n, path, program);
		if (!access(file, X_OK))
			return true;
		path += n;
	}
	return false;
}

static void find_perf(struct doctor *d)
{
	char value[32];
	int level;

	if (doctor_read("/proc/sys/kernel/perf_event_paranoid", value, sizeof(value))) {
		doctor_find(d, "measuring", FINDING_PROBLEM,
			    "take a kernel with CONFIG_PERF_EVENTS", "no performance events");
		return;
	}
	level = atoi(value);
	if (level > 0 && geteuid() != 0)
		doctor_find(d, "measuring", FINDING_PROBLEM, "sysctl kernel.perf_event_paranoid=0",
			    "performance events of whole CPUs are refused "
			    "(perf_event_paranoid is %d)",
			    level);
	else
		doctor_find(d, "measuring", FINDING_GOOD, NULL, "performance events are allowed");
	if (access("/sys/bus/event_source/devices/cpu", F_OK))
		doctor_find(d, "measuring", FINDING_PROBLEM,
			    "in a virtual machine: have its host offer a PMU",
			    "the processor's own counters are not to be had");
}

static void find_tools(struct doctor *d)
{
	if (in_path("likwid-perfctr"))
		doctor_find(d, "measuring", FINDING_GOOD, NULL, "likwid is installed");
	else
		doctor_find(d, "measuring", FINDING_PROBLEM, "apt-get install likwid",
			    "likwid is not installed: no memory-bandwidth counters");
	if (access("/dev/cpu/0/msr", R_OK))
		doctor_find(d, "measuring", FINDING_FACT, NULL,
			    "/dev/cpu/0/msr cannot be read: likwid measures through perf only");
}

void doctor_host(struct doctor *d)
{
	find_nodes(d);
	find_memory_policy(d);
	find_cgroup(d);
	find_rlimits(d);
	find_perf(d);
	find_tools(d);
}
