/*
 * topo.c - what this Linux system believes to run on, as a short report.
 *
 *	topo		prints CPUs, caches and nodes
 *	topo --check	is what sysfs says consistent?
 */
#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CPUS_MAX  1024
#define NODES_MAX 64
#define CPU_DIR   "/sys/devices/system/cpu/cpu%u/"
#define NODE_DIR  "/sys/devices/system/node/node%u/"

/* The first line of a file named by a format and up to two numbers; "" if there is none. */
static const char *line(char *buf, size_t bytes, const char *fmt, unsigned a, unsigned b)
{
	char path[128];
	FILE *f;

	buf[0] = '\0';
	snprintf(path, sizeof(path), fmt, a, b);
	f = fopen(path, "r");
	if (!f)
		return buf;
	if (!fgets(buf, (int)bytes, f))
		buf[0] = '\0';
	fclose(f);
	buf[strcspn(buf, "\n")] = '\0';
	return buf;
}

static int number(const char *fmt, unsigned a, unsigned b)
{
	char buf[64];

	return atoi(line(buf, sizeof(buf), fmt, a, b));
}

static bool exists(const char *fmt, unsigned a, unsigned b)
{
	char path[128];
	FILE *f;

	snprintf(path, sizeof(path), fmt, a, b);
	f = fopen(path, "r");
	if (f)
		fclose(f);
	return f;
}

static bool cpu_exists(unsigned cpu)
{
	return exists(CPU_DIR "topology/core_id", cpu, 0);
}

static bool node_exists(unsigned node)
{
	return exists(NODE_DIR "cpulist", node, 0);
}

static bool in_list(const char *list, unsigned n)
{
	while (*list) {
		char *end;
		unsigned long first = strtoul(list, &end, 10), last = first;

		if (end == list)
			return false;
		if (*end == '-')
			last = strtoul(end + 1, &end, 10);
		if (n >= first && n <= last)
			return true;
		list = *end == ',' ? end + 1 : end;
	}
	return false;
}

static int node_of(unsigned cpu)
{
	char list[4096];

	for (unsigned n = 0; n < NODES_MAX; n++)
		if (in_list(line(list, sizeof(list), NODE_DIR "cpulist", n, 0), cpu))
			return (int)n;
	return -1;
}

static unsigned long node_kib(unsigned node)
{
	char path[128], text[256];
	unsigned long kib = 0;
	FILE *f;

	snprintf(path, sizeof(path), NODE_DIR "meminfo", node);
	f = fopen(path, "r");
	if (!f)
		return 0;
	while (fgets(text, sizeof(text), f))
		if (sscanf(text, "Node %*u MemTotal: %lu", &kib) == 1)
			break;
	fclose(f);
	return kib;
}

static void print_cpus(void)
{
	printf("cpu package core node\n");
	for (unsigned c = 0; c < CPUS_MAX && cpu_exists(c); c++)
		printf("%3u %7d %4d %4d\n", c, number(CPU_DIR "topology/physical_package_id", c, 0),
		       number(CPU_DIR "topology/core_id", c, 0), node_of(c));
}

static void print_caches(void)
{
	char type[64], size[64], shared[4096];

	for (unsigned i = 0; exists(CPU_DIR "cache/index%u/level", 0, i); i++)
		printf("cache L%d %s %s, shared by CPUs %s\n",
		       number(CPU_DIR "cache/index%u/level", 0, i),
		       line(type, sizeof(type), CPU_DIR "cache/index%u/type", 0, i),
		       line(size, sizeof(size), CPU_DIR "cache/index%u/size", 0, i),
		       line(shared, sizeof(shared), CPU_DIR "cache/index%u/shared_cpu_list", 0, i));
}

static void print_nodes(void)
{
	char cpus[4096], distance[1024];

	for (unsigned n = 0; n < NODES_MAX && node_exists(n); n++)
		printf("node %u: CPUs %s, %lu MiB, distances %s\n", n,
		       line(cpus, sizeof(cpus), NODE_DIR "cpulist", n, 0), node_kib(n) >> 10,
		       line(distance, sizeof(distance), NODE_DIR "distance", n, 0));
}

static int fail(const char *what, unsigned cpu)
{
	printf("cpu %u: %s\n", cpu, what);
	return 1;
}

/* Every CPU lies in one node, and shares no cache beyond its package. */
static int check_cpu(unsigned c)
{
	char shared[4096];
	int package = number(CPU_DIR "topology/physical_package_id", c, 0);

	if (node_of(c) < 0)
		return fail("in no node", c);
	if (!exists(CPU_DIR "cache/index%u/level", c, 0))
		return fail("no caches", c);
	for (unsigned i = 0; exists(CPU_DIR "cache/index%u/level", c, i); i++) {
		line(shared, sizeof(shared), CPU_DIR "cache/index%u/shared_cpu_list", c, i);
		if (!in_list(shared, c))
			return fail("not among the users of its own cache", c);
		for (unsigned o = 0; o < CPUS_MAX && cpu_exists(o); o++)
			if (in_list(shared, o) &&
			    number(CPU_DIR "topology/physical_package_id", o, 0) != package)
				return fail("a cache crosses packages", c);
	}
	return 0;
}

static int check(void)
{
	int bad = 0;

	for (unsigned c = 0; c < CPUS_MAX && cpu_exists(c); c++)
		bad |= check_cpu(c);
	for (unsigned n = 0; n < NODES_MAX && node_exists(n); n++) {
		char cpus[256];

		line(cpus, sizeof(cpus), NODE_DIR "cpulist", n, 0);
		if (!node_kib(n) && !*cpus) {
			printf("node %u: neither CPUs nor memory\n", n);
			bad = 1;
		}
	}
	return bad;
}

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "--check"))
		return check();
	print_cpus();
	print_caches();
	print_nodes();
	return 0;
}
