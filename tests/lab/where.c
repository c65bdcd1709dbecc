/*
 * where.c - where the pages of a machine's guest memory are, asked of the kernel from
 * outside: move_pages() without nodes to move to.
 *
 *	where PID
 *
 * A line for each mapping of guest memory: its address, its policy as numa_maps has it,
 * then "N<node>=<pages>" for each node, and "absent=<pages>" if some are not there. Pages
 * are base pages. Guest memory is what neither core dumps nor children get. Shares no code
 * with the command that it checks.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE      4096ul
#define BATCH     4096
#define NODES_MAX 1024

static unsigned long on_node[NODES_MAX], absent;

static bool look(int pid, uintptr_t from, uintptr_t to)
{
	static void *pages[BATCH];
	static int status[BATCH];

	while (from < to) {
		unsigned long n = 0;

		for (; n < BATCH && from < to; from += PAGE)
			pages[n++] = (void *)from;
		if (syscall(SYS_move_pages, pid, n, pages, NULL, status, 0)) {
			perror("where: move_pages");
			return false;
		}
		for (unsigned long i = 0; i < n; i++) {
			if (status[i] >= 0 && status[i] < NODES_MAX)
				on_node[status[i]]++;
			else
				absent++;
		}
	}
	return true;
}

/* The second word of the line of /proc/PID/numa_maps that begins with @from. */
static void policy_of(int pid, uintptr_t from, char *policy, size_t bytes)
{
	char path[64], line[4096], word[128];
	uintptr_t addr;
	FILE *f;

	snprintf(policy, bytes, "unknown");
	snprintf(path, sizeof(path), "/proc/%d/numa_maps", pid);
	f = fopen(path, "r");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "%" SCNxPTR " %127s", &addr, word) == 2 && addr == from)
			snprintf(policy, bytes, "%s", word);
	if (f)
		fclose(f);
}

static bool report(int pid, uintptr_t from, uintptr_t to)
{
	char policy[128];

	memset(on_node, 0, sizeof(on_node));
	absent = 0;
	policy_of(pid, from, policy, sizeof(policy));
	if (!look(pid, from, to))
		return false;
	printf("%" PRIxPTR " %s", from, policy);
	for (unsigned i = 0; i < NODES_MAX; i++)
		if (on_node[i])
			printf(" N%u=%lu", i, on_node[i]);
	if (absent)
		printf(" absent=%lu", absent);
	putchar('\n');
	return true;
}

int main(int argc, char **argv)
{
	int pid = argc == 2 ? atoi(argv[1]) : 0;
	uintptr_t from = 0, to = 0;
	char path[64], line[4096];
	unsigned found = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/smaps", pid);
	f = pid > 0 ? fopen(path, "r") : NULL;
	if (!f) {
		fprintf(stderr, "usage: where PID\n");
		return 2;
	}
	while (fgets(line, sizeof(line), f)) {
		uintptr_t a, b;

		if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " ", &a, &b) == 2)
			from = a, to = b;
		if (strncmp(line, "VmFlags:", 8) || !strstr(line, " dd") || !strstr(line, " dc"))
			continue;
		if (!report(pid, from, to))
			return 1;
		found++;
	}
	fclose(f);
	return found ? 0 : 1;
}
