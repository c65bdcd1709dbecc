/*
 * meminfo.c - how much memory could be had: of a node, and under the limits
 * of the control groups this process lives in.
 *
 * Pages that cache files count as free, for the kernel gives them up when asked;
 * without them a host that has run for a day would look full.
 */
#include "linux.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#define LINE_BYTES 256

static bool has_key(const char *line, const char *key, uint64_t *kib)
{
	const char *p = strstr(line, key);
	char *end;

	if (!p)
		return false;
	*kib = strtoull(p + strlen(key), &end, 10);
	return end != p + strlen(key);
}

static uint64_t sum_keys(FILE *f, const char *const *keys)
{
	char line[LINE_BYTES];
	uint64_t kib, sum = 0;

	while (fgets(line, sizeof(line), f))
		for (const char *const *k = keys; *k; k++)
			if (has_key(line, *k, &kib))
				sum += kib * 1024;
	return sum;
}

static bool read_meminfo(const char *path, const char *const *free_keys, uint64_t *total,
			 uint64_t *free)
{
	static const char *const total_keys[] = { "MemTotal:", NULL };
	FILE *f = fopen(path, "re");

	if (!f)
		return false;
	*total = sum_keys(f, total_keys);
	rewind(f);
	*free = sum_keys(f, free_keys);
	fclose(f);
	return true;
}

/* A kernel without NUMA has no node's file, and some hosts' only node does not know all. */
void linux_meminfo_system(uint64_t *total, uint64_t *free)
{
	static const char *const keys[] = { "MemAvailable:", NULL };

	read_meminfo("/proc/meminfo", keys, total, free);
}

void linux_meminfo_node(unsigned os_index, uint64_t *total, uint64_t *free)
{
	static const char *const keys[] = { "MemFree:", "Active(file):", "Inactive(file):",
					    "SReclaimable:", NULL };
	char path[64];

	snprintf(path, sizeof(path), "/sys/devices/system/node/node%u/meminfo", os_index);
	read_meminfo(path, keys, total, free);
}

static bool read_number(const char *dir, const char *file, uint64_t *out)
{
	char path[PATH_MAX], line[LINE_BYTES], *end;
	bool ok = false;
	FILE *f;

	if (snprintf(path, sizeof(path), "%s/%s", dir, file) >= (int)sizeof(path))
		return false;
	f = fopen(path, "re");
	if (!f)
		return false;
	if (fgets(line, sizeof(line), f)) {
		*out = strtoull(line, &end, 10);
		ok = end != line; /* "max" is no number and no limit */
	}
	fclose(f);
	return ok;
}

/* The tightest limit on the way from a group up to the hierarchy's root. */
static uint64_t tightest(char *dir, size_t root_len, const char *max_file, const char *used_file)
{
	uint64_t max, used, left = UINT64_MAX;

	for (;;) {
		if (read_number(dir, max_file, &max) && read_number(dir, used_file, &used))
			left = MIN(left, max > used ? max - used : 0);
		if (strlen(dir) <= root_len)
			return left;
		*strrchr(dir, '/') = '\0';
	}
}

/* One line of /proc/self/cgroup: "ID:controllers:/path"; version 2 has no controllers. */
static uint64_t group_free(char *line)
{
	char *controllers = strchr(line, ':');
	char *path = controllers ? strchr(controllers + 1, ':') : NULL;
	char dir[PATH_MAX];
	const char *root;
	bool is_v2;

	if (!path)
		return UINT64_MAX;
	*path++ = '\0';
	controllers++;
	path[strcspn(path, "\n")] = '\0';
	is_v2 = !*controllers;
	if (!is_v2 && strcmp(controllers, "memory") != 0)
		return UINT64_MAX;
	root = is_v2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory";
	if (*path != '/' || snprintf(dir, sizeof(dir), "%s%s", root,
				     strcmp(path, "/") != 0 ? path : "") >= (int)sizeof(dir))
		return UINT64_MAX;
	if (is_v2)
		return tightest(dir, strlen(root), "memory.max", "memory.current");
	return tightest(dir, strlen(root), "memory.limit_in_bytes", "memory.usage_in_bytes");
}

void linux_meminfo_huge(unsigned os_index, struct machine_pages huge[MACHINE_PAGE_SIZES])
{
	for (unsigned i = 0; i < MACHINE_PAGE_SIZES; i++) {
		char dir[96];

		snprintf(dir, sizeof(dir),
			 "/sys/devices/system/node/node%u/hugepages/hugepages-%llukB", os_index,
			 (unsigned long long)huge[i].bytes / 1024);
		if (!huge[i].bytes)
			continue;
		read_number(dir, "nr_hugepages", &huge[i].total);
		read_number(dir, "free_hugepages", &huge[i].free);
	}
}

uint64_t linux_meminfo_cgroup_free(void)
{
	FILE *f = fopen("/proc/self/cgroup", "re");
	uint64_t left = UINT64_MAX;
	char line[PATH_MAX];

	if (!f)
		return left;
	while (fgets(line, sizeof(line), f))
		left = MIN(left, group_free(line));
	fclose(f);
	return left;
}
