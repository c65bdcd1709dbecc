/*
 * group.c - what the control groups this process lives in leave it: memory, huge pages,
 * nodes. Both versions of the hierarchy, also side by side.
 */
#include "linux.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define LINE_BYTES 256

bool linux_read_number(const char *dir, const char *file, uint64_t *out)
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

/* A group's directory, and where its hierarchy begins. */
struct group {
	char dir[PATH_MAX];
	size_t root_len;
	bool is_v2;
};

/* One line of /proc/self/cgroup: "ID:controllers:/path"; version 2 has no controllers. */
static bool parse_group(char *line, const char *controller, struct group *g)
{
	char *controllers = strchr(line, ':');
	char *path = controllers ? strchr(controllers + 1, ':') : NULL;
	char root[64] = "/sys/fs/cgroup";

	if (!path)
		return false;
	*path++ = '\0';
	controllers++;
	path[strcspn(path, "\n")] = '\0';
	g->is_v2 = !*controllers;
	if (!g->is_v2 && strcmp(controllers, controller) != 0)
		return false;
	if (!g->is_v2)
		snprintf(root, sizeof(root), "/sys/fs/cgroup/%s", controller);
	g->root_len = strlen(root);
	return *path == '/' && snprintf(g->dir, sizeof(g->dir), "%s%s", root,
					strcmp(path, "/") ? path : "") < (int)sizeof(g->dir);
}

/* The tightest limit on the way from a group up to the hierarchy's root. */
static void tightest(struct group *g, const char *max_file, const char *used_file,
		     struct mem_limit *out)
{
	uint64_t max, used;

	for (;;) {
		if (linux_read_number(g->dir, max_file, &max) &&
		    linux_read_number(g->dir, used_file, &used) &&
		    (max > used ? max - used : 0) < out->free_bytes) {
			out->free_bytes = max > used ? max - used : 0;
			if (snprintf(out->file, sizeof(out->file), "%s/%s", g->dir, max_file) >=
			    (int)sizeof(out->file))
				snprintf(out->file, sizeof(out->file), "%s", max_file);
		}
		if (strlen(g->dir) <= g->root_len)
			return;
		*strrchr(g->dir, '/') = '\0';
	}
}

static void limit_of(const char *controller, const char *const v2[2], const char *const v1[2],
		     struct mem_limit *out)
{
	FILE *f = fopen("/proc/self/cgroup", "re");
	char line[PATH_MAX];
	struct group g;

	*out = (struct mem_limit){ .free_bytes = UINT64_MAX };
	if (!f)
		return;
	while (fgets(line, sizeof(line), f))
		if (parse_group(line, controller, &g))
			tightest(&g, g.is_v2 ? v2[0] : v1[0], g.is_v2 ? v2[1] : v1[1], out);
	fclose(f);
}

void linux_group_memory(struct mem_limit *out)
{
	static const char *const v2[] = { "memory.max", "memory.current" };
	static const char *const v1[] = { "memory.limit_in_bytes", "memory.usage_in_bytes" };

	limit_of("memory", v2, v1, out);
}

/* The files' names have the size as the kernel writes it: hugetlb.2MB.max. */
void linux_group_huge(uint64_t page_bytes, struct mem_limit *out)
{
	bool giga = page_bytes >= GIB(1);
	char name[4][48];
	const char *v2[] = { name[0], name[1] }, *v1[] = { name[2], name[3] };
	static const char *const end[] = { "max", "current", "limit_in_bytes", "usage_in_bytes" };

	for (size_t i = 0; i < ARRAY_SIZE(name); i++)
		snprintf(name[i], sizeof(name[i]), "hugetlb.%llu%s.%s",
			 (unsigned long long)(page_bytes >> (giga ? 30 : 20)), giga ? "GB" : "MB",
			 end[i]);
	limit_of("hugetlb", v2, v1, out);
}

/* Where the administrator says which nodes this process may use; "" if nowhere. */
void linux_group_mems_file(char *out, size_t bytes)
{
	FILE *f = fopen("/proc/self/cgroup", "re");
	char line[PATH_MAX];
	struct group g;

	out[0] = '\0';
	if (!f)
		return;
	while (!out[0] && fgets(line, sizeof(line), f)) {
		if (!parse_group(line, "cpuset", &g))
			continue;
		if (snprintf(out, bytes, "%s/cpuset.mems", g.dir) >= (int)bytes ||
		    access(out, F_OK))
			out[0] = '\0';
	}
	fclose(f);
}
