/*
 * meminfo.c - how much memory could be had of a node, and in what pages. Limits are
 * in group.c.
 *
 * Pages that cache files count as free, for the kernel gives them up when asked;
 * without them a host that has run for a day would look full.
 */
#include "linux.h"

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

static const char *const total_keys[] = { "MemTotal:", NULL };

static bool read_meminfo(const char *path, const char *const *all_keys,
			 const char *const *free_keys, uint64_t *total, uint64_t *free)
{
	FILE *f = fopen(path, "re");

	if (!f)
		return false;
	*total = sum_keys(f, all_keys);
	rewind(f);
	*free = sum_keys(f, free_keys);
	fclose(f);
	return true;
}

/* A kernel without NUMA has no node's file, and some hosts' only node does not know all. */
void linux_meminfo_system(uint64_t *total, uint64_t *free)
{
	static const char *const keys[] = { "MemAvailable:", NULL };

	read_meminfo("/proc/meminfo", total_keys, keys, total, free);
}

void linux_meminfo_commit(uint64_t *limit, uint64_t *used)
{
	static const char *const keys[] = { "Committed_AS:", NULL };
	static const char *const limit_keys[] = { "CommitLimit:", NULL };

	read_meminfo("/proc/meminfo", limit_keys, keys, limit, used);
}

void linux_meminfo_node(unsigned os_index, uint64_t *total, uint64_t *free)
{
	static const char *const keys[] = { "MemFree:", "Active(file):", "Inactive(file):",
					    "SReclaimable:", NULL };
	char path[64];

	snprintf(path, sizeof(path), "/sys/devices/system/node/node%u/meminfo", os_index);
	read_meminfo(path, total_keys, keys, total, free);
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
		linux_read_number(dir, "nr_hugepages", &huge[i].total);
		linux_read_number(dir, "free_hugepages", &huge[i].free);
	}
}

unsigned linux_meminfo_weight(unsigned os_index)
{
	uint64_t weight = 0;
	char file[24];

	snprintf(file, sizeof(file), "node%u", os_index);
	linux_read_number("/sys/kernel/mm/mempolicy/weighted_interleave", file, &weight);
	return weight <= 255 ? (unsigned)weight : 0;
}

/* Files like "always [madvise] never": is the word in brackets one of @words? */
static bool thp_says(const char *file, const char *const *words)
{
	char path[96], line[LINE_BYTES], word[32];
	bool found = false;
	FILE *f;

	snprintf(path, sizeof(path), "/sys/kernel/mm/transparent_hugepage/%s", file);
	f = fopen(path, "re");
	if (!f)
		return false;
	if (fgets(line, sizeof(line), f))
		for (; *words && !found; words++) {
			snprintf(word, sizeof(word), "[%s]", *words);
			found = strstr(line, word) != NULL;
		}
	fclose(f);
	return found;
}

bool linux_thp_of_memfds(void)
{
	static const char *const words[] = { "always", "within_size", "advise", "force", NULL };

	return thp_says("shmem_enabled", words);
}

bool linux_thp_of_anonymous(void)
{
	static const char *const words[] = { "always", "madvise", NULL };

	return thp_says("enabled", words);
}
