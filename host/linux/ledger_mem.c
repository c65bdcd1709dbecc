/*
 * ledger_mem.c - what a machine was promised and has not touched yet.
 *
 * The kernel counts a page as free until it is touched, and gives it out then: to
 * somebody else, unless those who plan leave it alone. How much of its memory a
 * machine has touched is what its memfds have allocated, which is seen from outside:
 * they are named after the node that they were made for. Of anonymous memory (mem.c)
 * they are empty, and all of the process's is counted.
 */
#include "ledger.h"
#include "linux.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLOCK_BYTES 512 /* of st_blocks, whatever the file system's are */

/* "/memfd:guest node 3 (deleted)", as a descriptor of guest memory reads in /proc. */
static bool is_guest_memory(const char *link, int *node)
{
	static const char prefix[] = "/memfd:" LINUX_GUEST_MEMFD;
	char *end;

	if (strncmp(link, prefix, sizeof(prefix) - 1) != 0)
		return false;
	*node = (int)strtol(link + sizeof(prefix) - 1, &end, 10);
	return end != link + sizeof(prefix) - 1 && (!*end || *end == ' ');
}

static bool read_link(int dir, const char *name, char link[64])
{
	ssize_t n = readlinkat(dir, name, link, 63);

	if (n > 0)
		link[n] = '\0';
	return n > 0;
}

static uint64_t allocated(int dir, const char *name)
{
	struct stat st;

	if (fstatat(dir, name, &st, 0) || !S_ISREG(st.st_mode))
		return 0;
	return (uint64_t)st.st_blocks * BLOCK_BYTES;
}

struct count {
	const struct ledger_claim *c;
	uint64_t *left;                 /* of each of its memories */
	bool anonymous[PLAN_NODES_MAX]; /* that it is */
};

/* Takes @bytes of those born on @node off what is left, in equal measure. */
static void take_off(struct count *n, int node, uint64_t bytes)
{
	const struct ledger_claim *c = n->c;
	uint64_t born = 0;

	for (unsigned i = 0; i < c->nr_memory; i++)
		born += c->memory[i].born_node == node ? c->memory[i].bytes : 0;
	for (unsigned i = 0; i < c->nr_memory && born; i++) {
		double part = (double)c->memory[i].bytes / (double)born;

		if (c->memory[i].born_node == node)
			n->left[i] -= MIN(n->left[i], (uint64_t)(part * (double)bytes));
	}
}

static void note_anonymous(struct count *n, int node)
{
	for (unsigned i = 0; i < n->c->nr_memory; i++)
		n->anonymous[i] |= n->c->memory[i].born_node == node;
}

/* The VMM's own few pages are among them: so much less is held back for the guest. */
static uint64_t anonymous_bytes(pid_t pid)
{
	char path[32], line[128];
	unsigned long long kib = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "RssAnon: %llu kB", &kib) == 1)
			break;
	if (f)
		fclose(f);
	return kib * 1024;
}

static void take_off_anonymous(struct count *n)
{
	uint64_t all = 0, bytes;

	for (unsigned i = 0; i < n->c->nr_memory; i++)
		all += n->anonymous[i] ? n->c->memory[i].bytes : 0;
	bytes = all ? anonymous_bytes(n->c->pid) : 0;
	for (unsigned i = 0; i < n->c->nr_memory && bytes; i++) {
		double part = (double)n->c->memory[i].bytes / (double)all;

		if (n->anonymous[i])
			n->left[i] -= MIN(n->left[i], (uint64_t)(part * (double)bytes));
	}
}

void ledger_untouched(const struct ledger_claim *c, uint64_t untouched[PLAN_NODES_MAX])
{
	struct count n = { .c = c, .left = untouched };
	char path[32], link[64];
	struct dirent *e;
	DIR *d;
	int node;

	for (unsigned i = 0; i < c->nr_memory; i++)
		untouched[i] = c->memory[i].bytes;
	snprintf(path, sizeof(path), "/proc/%d/fd", (int)c->pid);
	d = opendir(path);
	while (d && (e = readdir(d)))
		if (read_link(dirfd(d), e->d_name, link) && is_guest_memory(link, &node)) {
			take_off(&n, node, allocated(dirfd(d), e->d_name));
			if (strstr(link, LINUX_ANONYMOUS))
				note_anonymous(&n, node);
		}
	if (d)
		closedir(d);
	take_off_anonymous(&n);
}
