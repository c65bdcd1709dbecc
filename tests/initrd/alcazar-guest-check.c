/*
 * alcazar-guest-check.c - does the guest see what was asked for?
 *
 *	alcazar-guest-check [cpus=N] [nodes=N] [packages=N] [threads=N] [memory=MIB,...]
 *		[distances=D,D,...]
 *
 * CPUID (on each CPU: leaves 4, 0BH, 1FH), sysfs and the ACPI tables (MADT, SRAT, SLIT,
 * HMAT) are read by three paths and compared with each other and with the words. A
 * line for each check that fails; the exit status says whether any did.
 */
#include <cpuid.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CPUS_MAX  1024
#define NODES_MAX 64
#define TABLE_MAX (1u << 20)

static unsigned failures;

static void __attribute__((format(printf, 2, 3))) expect(bool ok, const char *fmt, ...)
{
	va_list ap;

	if (ok)
		return;
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
	failures++;
}

/* --- sysfs ------------------------------------------------------------------------------ */

static bool read_line(char *buf, size_t bytes, const char *fmt, unsigned a, unsigned b)
{
	char path[160];
	FILE *f;
	bool ok;

	snprintf(path, sizeof(path), fmt, a, b);
	f = fopen(path, "r");
	ok = f && fgets(buf, (int)bytes, f);
	if (f)
		fclose(f);
	if (ok)
		buf[strcspn(buf, "\n")] = '\0';
	return ok;
}

static long number(const char *fmt, unsigned a, unsigned b)
{
	char buf[64];

	return read_line(buf, sizeof(buf), fmt, a, b) ? atol(buf) : -1;
}

static bool in_list(const char *list, unsigned n)
{
	while (*list) {
		char *end;
		unsigned long first = strtoul(list, &end, 10), last = first;

		if (*end == '-')
			last = strtoul(end + 1, &end, 10);
		if (n >= first && n <= last)
			return true;
		list = *end == ',' ? end + 1 : "";
	}
	return false;
}

/* --- what each CPU says ------------------------------------------------------------------- */

struct cpu {
	uint32_t apic_id;
	unsigned package, core, thread; /* from CPUID: core with its die within the package */
	unsigned l3;                    /* APIC ID without the bits that its sharers differ in */
	int node;                       /* sysfs */
	int srat_node;
	bool madt;
};

static struct cpu cpu[CPUS_MAX];
static unsigned nr_cpus, nr_nodes;

static unsigned leaf_of_levels(void)
{
	unsigned a, b, c, d;

	return __get_cpuid_count(0x1f, 0, &a, &b, &c, &d) && b ? 0x1f : 0x0b;
}

static void read_levels(struct cpu *me)
{
	unsigned leaf = leaf_of_levels(), a, b, c, d, thread_bits = 0, package_bits = 0;

	for (unsigned level = 0;; level++) {
		__cpuid_count(leaf, level, a, b, c, d);
		if (!(c >> 8 & 0xff))
			break;
		if ((c >> 8 & 0xff) == 1)
			thread_bits = a & 31;
		package_bits = a & 31;
		me->apic_id = d;
	}
	me->package = me->apic_id >> package_bits;
	me->core = (me->apic_id & ((1u << package_bits) - 1)) >> thread_bits;
	me->thread = me->apic_id & ((1u << thread_bits) - 1);
}

static void read_cache(struct cpu *me)
{
	for (unsigned i = 0; i < 8; i++) {
		unsigned a, b, c, d, bits = 0;

		__cpuid_count(4, i, a, b, c, d);
		if (!(a & 31))
			break;
		while (1u << bits < (a >> 14 & 0xfff) + 1)
			bits++;
		if ((a >> 5 & 7) == 3)
			me->l3 = me->apic_id >> bits;
	}
}

static int node_of(unsigned c)
{
	char list[4096];

	for (unsigned n = 0; n < NODES_MAX; n++)
		if (read_line(list, sizeof(list), "/sys/devices/system/node/node%u/cpulist", n,
			      0) &&
		    in_list(list, c))
			return (int)n;
	return -1;
}

static void read_cpus(void)
{
	char line[1024];

	for (; nr_cpus < CPUS_MAX; nr_cpus++) {
		struct cpu *me = &cpu[nr_cpus];
		cpu_set_t set;

		if (number("/sys/devices/system/cpu/cpu%u/topology/core_id", nr_cpus, 0) < 0)
			break;
		CPU_ZERO(&set);
		CPU_SET(nr_cpus, &set);
		if (sched_setaffinity(0, sizeof(set), &set)) {
			expect(false, "cpu %u: cannot run there", nr_cpus);
			continue;
		}
		read_levels(me);
		read_cache(me);
		me->node = node_of(nr_cpus);
		me->srat_node = -1;
	}
	while (nr_nodes < NODES_MAX &&
	       read_line(line, sizeof(line), "/sys/devices/system/node/node%u/distance", nr_nodes,
			 0))
		nr_nodes++;
}

/* --- ACPI --------------------------------------------------------------------------------- */

static uint8_t table[TABLE_MAX];

static uint16_t u16(const uint8_t *p)
{
	return (uint16_t)(p[0] | p[1] << 8);
}

static uint32_t u32(const uint8_t *p)
{
	return u16(p) | (uint32_t)u16(p + 2) << 16;
}

static uint64_t u64(const uint8_t *p)
{
	return u32(p) | (uint64_t)u32(p + 4) << 32;
}

static size_t read_table(const char *name)
{
	char path[64];
	uint8_t sum = 0;
	size_t n = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/sys/firmware/acpi/tables/%s", name);
	f = fopen(path, "r");
	if (f) {
		n = fread(table, 1, sizeof(table), f);
		fclose(f);
	}
	for (size_t i = 0; i < n; i++)
		sum = (uint8_t)(sum + table[i]);
	expect(n >= 36 && u32(table + 4) == n && !sum, "ACPI table %s: absent or damaged", name);
	return n >= 36 && u32(table + 4) == n ? n : 0;
}

static struct cpu *by_apic_id(uint32_t id)
{
	for (unsigned i = 0; i < nr_cpus; i++)
		if (cpu[i].apic_id == id)
			return &cpu[i];
	return NULL;
}

static void check_madt(void)
{
	size_t n = read_table("APIC");

	for (size_t at = 44; at + 2 <= n && table[at + 1]; at += table[at + 1]) {
		const uint8_t *e = table + at;
		bool x2apic = e[0] == 9;
		struct cpu *c;

		if (e[0] != 0 && !x2apic)
			continue;
		c = by_apic_id(x2apic ? u32(e + 4) : e[3]);
		expect(c, "MADT: APIC ID %u is no CPU's", x2apic ? u32(e + 4) : e[3]);
		if (c)
			c->madt = true;
	}
	for (unsigned i = 0; i < nr_cpus; i++)
		expect(cpu[i].madt, "cpu %u: APIC ID %u is not in the MADT", i, cpu[i].apic_id);
}

/*
 * A proximity domain, which is what the tables call a node. Linux numbers its nodes in
 * the order in which it meets them in the SRAT, those with CPUs before those without.
 */
struct domain {
	bool known, has_cpus;
	unsigned node; /* Linux' number */
	uint64_t bytes;
};

static struct domain domain[NODES_MAX];
static unsigned nr_domains;

static struct domain *meet(uint32_t number)
{
	static struct domain none;
	struct domain *d = number < NODES_MAX ? &domain[number] : &none;

	expect(number < NODES_MAX, "SRAT: domain %u", number);
	if (!d->known)
		*d = (struct domain){ .known = true, .node = nr_domains++ };
	return d;
}

static void read_srat_cpu(const uint8_t *e)
{
	bool x2apic = e[0] == 2;
	struct cpu *c = by_apic_id(x2apic ? u32(e + 8) : e[3]);
	uint32_t number = x2apic ? u32(e + 4) : e[2] | (u32(e + 8) & 0xffffff00);
	struct domain *d = meet(number);

	d->has_cpus = true;
	if (c)
		c->srat_node = (int)d->node;
}

static void check_srat(const unsigned long *mib)
{
	size_t n = read_table("SRAT");

	for (unsigned memory = 0; memory < 2; memory++) {
		for (size_t at = 48; at + 2 <= n && table[at + 1]; at += table[at + 1]) {
			const uint8_t *e = table + at;

			if (!memory && (e[0] == 0 || e[0] == 2))
				read_srat_cpu(e);
			else if (memory && e[0] == 1)
				meet(u32(e + 2))->bytes += u64(e + 16);
		}
	}
	expect(nr_domains == nr_nodes, "SRAT: %u domains, %u nodes", nr_domains, nr_nodes);
	for (unsigned i = 0; i < nr_cpus; i++)
		expect(cpu[i].srat_node == cpu[i].node, "cpu %u: node %d, but %d in the SRAT", i,
		       cpu[i].node, cpu[i].srat_node);
	for (unsigned i = 0; i < nr_nodes; i++)
		expect(!mib[i] || domain[i].bytes >> 20 == mib[i],
		       "node %u: %llu MiB in the SRAT, asked %lu", i,
		       (unsigned long long)domain[i].bytes >> 20, mib[i]);
}

/* --- distances: SLIT, sysfs, HMAT ------------------------------------------------------------ */

static unsigned distance[NODES_MAX][NODES_MAX];

static void check_slit(void)
{
	size_t n = read_table("SLIT");
	bool fits = n && u64(table + 36) == nr_nodes && n == 44 + nr_nodes * nr_nodes;

	expect(fits, "SLIT: not of %u nodes", nr_nodes);
	for (unsigned i = 0; fits && i < nr_nodes; i++) {
		unsigned long seen[NODES_MAX] = { 0 };
		char line[1024], *p = line;

		if (!read_line(line, sizeof(line), "/sys/devices/system/node/node%u/distance",
			       domain[i].node, 0))
			continue;
		for (unsigned j = 0; j < nr_nodes; j++)
			seen[j] = strtoul(p, &p, 10);
		for (unsigned j = 0; j < nr_nodes; j++) {
			distance[i][j] = table[44 + i * nr_nodes + j];
			expect(seen[domain[j].node] == distance[i][j],
			       "node %u to %u: SLIT and sysfs differ", i, j);
		}
		expect(distance[i][i] == 10, "node %u: %u away from itself", i, distance[i][i]);
	}
}

/* Initiators are the domains with CPUs, targets those with memory, each once and in order. */
static void check_list(const uint8_t *list, unsigned nr, bool targets)
{
	unsigned wanted = 0;

	for (unsigned i = 0; i < nr_nodes; i++) {
		if (targets ? !domain[i].bytes : !domain[i].has_cpus)
			continue;
		expect(wanted < nr && u32(list + 4 * wanted) == i, "HMAT: node %u is not in order",
		       i);
		wanted++;
	}
	expect(wanted == nr, "HMAT: %u %s, the SRAT has %u", nr, targets ? "targets" : "initiators",
	       wanted);
}

static void check_locality(const uint8_t *e)
{
	unsigned initiators = u32(e + 12), targets = u32(e + 16);
	const uint8_t *entry = e + 32 + 4 * (initiators + targets);

	if (initiators > NODES_MAX || targets > NODES_MAX ||
	    u32(e + 4) != 32 + 4 * (initiators + targets) + 2 * initiators * targets) {
		expect(false, "HMAT: a matrix of %u by %u has another length", initiators, targets);
		return;
	}
	check_list(e + 32, initiators, false);
	check_list(e + 32 + 4 * initiators, targets, true);
	for (unsigned i = 0; i < initiators * targets; i++)
		expect(u16(entry + 2 * i) != 0 && u16(entry + 2 * i) != 0xffff,
		       "HMAT: figure %u is none", i);
}

/* Memory whose node has CPUs is attached to them. */
static void check_domain(const uint8_t *e)
{
	uint32_t memory = u32(e + 16);
	bool attached = u16(e + 8) & 1;

	expect(memory < nr_nodes && domain[memory].bytes, "HMAT: node %u has no memory", memory);
	if (memory < nr_nodes)
		expect(attached == domain[memory].has_cpus && (!attached || u32(e + 12) == memory),
		       "HMAT: node %u's memory is attached elsewhere", memory);
}

static void check_hmat(void)
{
	unsigned domains = 0, localities = 0, with_memory = 0;
	size_t n = read_table("HMAT");

	for (size_t at = 40; at + 40 <= n && u32(table + at + 4) >= 32; at += u32(table + at + 4)) {
		if (at + u32(table + at + 4) > n)
			break;
		if (u16(table + at) == 0) {
			domains++;
			check_domain(table + at);
		} else if (u16(table + at) == 1) {
			localities++;
			check_locality(table + at);
		}
	}
	for (unsigned i = 0; i < nr_nodes; i++)
		with_memory += domain[i].bytes != 0;
	expect(domains == with_memory && localities == 2, "HMAT: %u domains, %u matrices", domains,
	       localities);
}

/* --- CPUID against sysfs -----------------------------------------------------------------------
 */

/* Sharing of cores, caches and packages must be the same by both. */
static void check_cpu(unsigned i)
{
	char siblings[4096] = "", shared[4096] = "";

	read_line(siblings, sizeof(siblings),
		  "/sys/devices/system/cpu/cpu%u/topology/thread_siblings_list", i, 0);
	read_line(shared, sizeof(shared),
		  "/sys/devices/system/cpu/cpu%u/cache/index3/shared_cpu_list", i, 0);
	for (unsigned o = 0; o < nr_cpus; o++) {
		bool package = cpu[o].package == cpu[i].package;

		expect(in_list(siblings, o) == (package && cpu[o].core == cpu[i].core),
		       "cpu %u and %u: sysfs and CPUID differ about siblings", i, o);
		expect(in_list(shared, o) == (cpu[o].l3 == cpu[i].l3),
		       "cpu %u and %u: sysfs and CPUID differ about their L3", i, o);
		expect(cpu[o].l3 != cpu[i].l3 || package, "cpu %u and %u: an L3 crosses packages",
		       i, o);
		expect(cpu[o].l3 != cpu[i].l3 || cpu[o].node == cpu[i].node,
		       "cpu %u and %u: an L3 crosses nodes", i, o);
	}
	expect(cpu[i].node >= 0, "cpu %u: in no node", i);
}

static unsigned count_packages(void)
{
	unsigned n = 0;

	for (unsigned i = 0; i < nr_cpus; i++) {
		bool first = true;

		for (unsigned o = 0; o < i; o++)
			first &= cpu[o].package != cpu[i].package;
		n += first;
	}
	return n;
}

static unsigned most_threads(void)
{
	unsigned most = 0;

	for (unsigned i = 0; i < nr_cpus; i++)
		most = cpu[i].thread + 1 > most ? cpu[i].thread + 1 : most;
	return most;
}

/* --- what was asked ------------------------------------------------------------------------------
 */

static void check_count(const char *what, unsigned found, const char *asked)
{
	expect(!asked || strtoul(asked, NULL, 10) == found, "%s: found %u, asked %s", what, found,
	       asked);
}

static const char *word(int argc, char **argv, const char *name)
{
	size_t n = strlen(name);

	for (int i = 1; i < argc; i++)
		if (!strncmp(argv[i], name, n) && argv[i][n] == '=')
			return argv[i] + n + 1;
	return NULL;
}

static unsigned numbers(const char *list, unsigned long *out, unsigned most)
{
	unsigned nr = 0;

	while (list && *list && nr < most) {
		char *end;

		out[nr++] = strtoul(list, &end, 10);
		list = *end == ',' ? end + 1 : NULL;
	}
	return nr;
}

int main(int argc, char **argv)
{
	unsigned long mib[NODES_MAX] = { 0 }, asked[NODES_MAX * NODES_MAX];
	unsigned nr;

	read_cpus();
	for (unsigned i = 0; i < nr_cpus; i++)
		check_cpu(i);
	numbers(word(argc, argv, "memory"), mib, NODES_MAX);
	check_madt();
	check_srat(mib);
	check_slit();
	check_hmat();
	check_count("CPUs", nr_cpus, word(argc, argv, "cpus"));
	check_count("nodes", nr_nodes, word(argc, argv, "nodes"));
	check_count("packages", count_packages(), word(argc, argv, "packages"));
	check_count("threads of a core", most_threads(), word(argc, argv, "threads"));
	nr = numbers(word(argc, argv, "distances"), asked, nr_nodes * nr_nodes);
	for (unsigned i = 0; i < nr; i++)
		expect(distance[i / nr_nodes][i % nr_nodes] == asked[i],
		       "node %u to %u: %u, asked %lu", i / nr_nodes, i % nr_nodes,
		       distance[i / nr_nodes][i % nr_nodes], asked[i]);
	printf("%u CPUs, %u packages, %u nodes: %u contradictions\n", nr_cpus, count_packages(),
	       nr_nodes, failures);
	return failures != 0;
}
