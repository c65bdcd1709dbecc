/*
 * proc_memory.c - where the memory of a process lies: /proc/PID/numa_maps tells what
 * is resident on which node, /proc/PID/maps how far a mapping goes.
 */
#include "proc.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#define LINE_BYTES (PATH_MAX + 4096)

void proc_memory_free(struct proc_memory *m)
{
	free(m->region);
	*m = (struct proc_memory){ 0 };
}

static int append_region(struct proc_memory *m, const struct proc_region *r)
{
	struct proc_region *all;

	if (!(m->nr_regions & (m->nr_regions - 1))) { /* full: its room is a power of two */
		all = realloc(m->region, sizeof(*all) * (m->nr_regions ? 2 * m->nr_regions : 1));
		if (!all)
			return -ENOMEM;
		m->region = all;
	}
	m->region[m->nr_regions++] = *r;
	return 0;
}

/* Shared memory has the kernel's own files behind it; the pages of real ones are not to be moved.
 */
static bool is_real_file(const char *word)
{
	static const char *const kernels[] = { "/memfd:", "/dev/shm/", "/dev/zero", "/SYSV" };

	if (strncmp(word, "file=", 5) != 0)
		return false;
	for (size_t i = 0; i < ARRAY_SIZE(kernels); i++)
		if (!strncmp(word + 5, kernels[i], strlen(kernels[i])))
			return false;
	return true;
}

/*
 * "7f12c0000000 default anon=512 dirty=512 N0=384 N1=128 kernelpagesize_kB=4": pages
 * count in the size that the end of the line names.
 */
static int take_numa_line(struct proc_memory *m, char *line)
{
	struct proc_region r = { .page_bytes = KIB(4) };
	struct {
		unsigned node;
		uint64_t pages;
	} on[PROC_NODES_MAX];
	unsigned nr = 0, node;
	bool file = false, huge = false;
	unsigned long long pages;
	char *save = NULL, *word = strtok_r(line, " \n", &save);

	if (!word)
		return 0;
	r.start = strtoull(word, NULL, 16);
	while ((word = strtok_r(NULL, " \n", &save))) {
		file = file || is_real_file(word);
		huge = huge || !strcmp(word, "huge"); /* hugetlbfs: memory, whatever its path */
		if (sscanf(word, "kernelpagesize_kB=%llu", &pages) == 1)
			r.page_bytes = KIB(pages);
		if (sscanf(word, "N%u=%llu", &node, &pages) != 2 || node >= PROC_NODES_MAX ||
		    nr == PROC_NODES_MAX)
			continue;
		on[nr].node = node;
		on[nr++].pages = pages;
	}
	if (file && !huge)
		return 0;
	for (unsigned i = 0; i < nr; i++) {
		m->node_bytes[on[i].node] += on[i].pages * r.page_bytes;
		m->bytes += on[i].pages * r.page_bytes;
	}
	return nr ? append_region(m, &r) : 0;
}

/* One line, of which what is beyond the buffer is dropped. */
static bool read_line(FILE *f, char line[LINE_BYTES])
{
	int c;

	if (!fgets(line, LINE_BYTES, f))
		return false;
	if (!strchr(line, '\n'))
		do
			c = fgetc(f);
		while (c != '\n' && c != EOF);
	return true;
}

static FILE *open_map(pid_t pid, const char *name)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
	return fopen(path, "re");
}

/* Both files are ascending; a mapping that changed between the two readings has no end and goes. */
static int find_ends(pid_t pid, struct proc_memory *m)
{
	FILE *f = open_map(pid, "maps");
	char line[LINE_BYTES];
	unsigned long long start, end;
	unsigned at = 0, kept = 0;

	if (!f)
		return errno == ENOENT ? -ESRCH : -errno;
	while (at < m->nr_regions && read_line(f, line)) {
		if (sscanf(line, "%llx-%llx", &start, &end) != 2)
			continue;
		while (at < m->nr_regions && m->region[at].start < start)
			at++;
		if (at == m->nr_regions || m->region[at].start != start)
			continue;
		m->region[kept] = m->region[at++];
		m->region[kept++].end = end;
	}
	m->nr_regions = kept;
	fclose(f);
	return 0;
}

/* Without NUMA in the kernel: what is resident, "VmRSS:  1234 kB". */
static int read_resident(pid_t pid, struct proc_memory *m)
{
	FILE *f = open_map(pid, "status");
	char line[LINE_BYTES];
	unsigned long long kib;

	if (!f)
		return errno == ENOENT ? -ESRCH : -errno;
	while (read_line(f, line))
		if (sscanf(line, "VmRSS: %llu kB", &kib) == 1)
			m->bytes = m->node_bytes[0] = KIB(kib);
	fclose(f);
	return 0;
}

int proc_memory_read(pid_t pid, struct proc_memory *out)
{
	FILE *f = open_map(pid, "numa_maps");
	char line[LINE_BYTES];
	int err = 0;

	*out = (struct proc_memory){ 0 };
	if (!f && errno == ENOENT)
		return read_resident(pid, out);
	if (!f)
		return -errno;
	errno = 0;
	while (!err && read_line(f, line))
		err = take_numa_line(out, line);
	if (!err && ferror(f))
		err = errno ? -errno : -EIO;
	fclose(f);
	if (!err)
		err = find_ends(pid, out);
	if (err)
		proc_memory_free(out);
	return err;
}
