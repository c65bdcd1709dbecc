/*
 * ledger_mem.c - what a machine was promised and has not touched yet.
 *
 * The kernel counts a page as free until it is touched, and gives it out then: to
 * somebody else, unless those who plan leave it alone. How much of its memory a
 * machine has touched is what its memfds have allocated, which is seen from outside:
 * they are named after the node that they were made for.
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

/* Bytes that the memfd @name of @dir has allocated for @node; 0 if it is none. */
static uint64_t allocated(int dir, const char *name, int *node)
{
	char link[64];
	ssize_t n = readlinkat(dir, name, link, sizeof(link) - 1);
	struct stat st;

	if (n <= 0)
		return 0;
	link[n] = '\0';
	if (!is_guest_memory(link, node) || fstatat(dir, name, &st, 0) || !S_ISREG(st.st_mode))
		return 0;
	return (uint64_t)st.st_blocks * BLOCK_BYTES;
}

/* Takes @bytes of those born on @node off what is left, in equal measure. */
static void take_off(const struct ledger_claim *c, int node, uint64_t bytes, uint64_t *left)
{
	uint64_t born = 0;

	for (unsigned i = 0; i < c->nr_memory; i++)
		born += c->memory[i].born_node == node ? c->memory[i].bytes : 0;
	for (unsigned i = 0; i < c->nr_memory && born; i++) {
		double part = (double)c->memory[i].bytes / (double)born;

		if (c->memory[i].born_node == node)
			left[i] -= MIN(left[i], (uint64_t)(part * (double)bytes));
	}
}

void ledger_untouched(const struct ledger_claim *c, uint64_t untouched[PLAN_NODES_MAX])
{
	char path[32];
	struct dirent *e;
	DIR *d;
	int node;

	for (unsigned i = 0; i < c->nr_memory; i++)
		untouched[i] = c->memory[i].bytes;
	snprintf(path, sizeof(path), "/proc/%d/fd", (int)c->pid);
	d = opendir(path);
	while (d && (e = readdir(d))) {
		uint64_t bytes = allocated(dirfd(d), e->d_name, &node);

		if (bytes)
			take_off(c, node, bytes, untouched);
	}
	if (d)
		closedir(d);
}
