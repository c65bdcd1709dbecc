/*
 * test_acpi.c - the ACPI tables, read by us and by two independent readers: iasl
 * must disassemble them without a warning and make the same bytes of the result,
 * and acpiexec must load the DSDT.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "boot/acpi.h"
#include "images.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#define AREA_GPA   0xe0000
#define AREA_BYTES 0x20000

static struct machine m;
static uint8_t area[AREA_BYTES];

static void build(unsigned vcpus, unsigned nodes)
{
	machine_free(&m);
	assert_int_equal(machine_make(&m, vcpus, nodes, MIB(64)), 0);
	assert_int_equal(acpi_write(&m.gmem, &m.topo, AREA_GPA, AREA_BYTES), 0);
	assert_int_equal(gmem_read(&m.gmem, AREA_GPA, area, AREA_BYTES), 0);
}

static int teardown(void **state)
{
	machine_free(&m);
	return 0;
}

static uint8_t sum(const uint8_t *p, size_t bytes)
{
	uint8_t s = 0;

	while (bytes--)
		s = (uint8_t)(s + *p++);
	return s;
}

static const uint8_t *at(uint64_t gpa)
{
	assert_in_range(gpa, AREA_GPA, AREA_GPA + AREA_BYTES - 36);
	return area + (gpa - AREA_GPA);
}

static const uint8_t *xsdt(void)
{
	return at(load_u64(area + 24));
}

static unsigned nr_listed(void)
{
	return (load_u32(xsdt() + 4) - 36) / 8;
}

static const uint8_t *listed(unsigned i)
{
	return at(load_u64(xsdt() + 36 + 8 * i));
}

static const uint8_t *find(const char *signature)
{
	for (unsigned i = 0; i < nr_listed(); i++)
		if (!memcmp(listed(i), signature, 4))
			return listed(i);
	fail_msg("no %s", signature);
	return NULL;
}

static void test_roots(void **state)
{
	build(4, 2);
	assert_memory_equal(area, "RSD PTR ", 8);
	assert_int_equal(sum(area, 20), 0);
	assert_int_equal(sum(area, 36), 0);
	assert_memory_equal(xsdt(), "XSDT", 4);
	assert_int_equal(sum(xsdt(), load_u32(xsdt() + 4)), 0);
	for (unsigned i = 0; i < nr_listed(); i++)
		assert_int_equal(sum(listed(i), load_u32(listed(i) + 4)), 0);
}

static void test_fadt(void **state)
{
	const uint8_t *fadt, *dsdt, *facs;

	build(4, 2);
	fadt = find("FACP");
	dsdt = at(load_u64(fadt + 140));
	facs = at(load_u32(fadt + 36));
	assert_ptr_equal(at(load_u32(fadt + 40)), dsdt);
	assert_memory_equal(dsdt, "DSDT", 4);
	assert_int_equal(sum(dsdt, load_u32(dsdt + 4)), 0);
	assert_memory_equal(facs, "FACS", 4);
	assert_int_equal(load_u32(fadt + 36) % 64, 0);
	assert_int_equal(load_u16(fadt + 46), 9);
	assert_int_equal(load_u32(fadt + 48), 0); /* no SMI command: always in ACPI mode */
	assert_int_equal(load_u32(fadt + 56), 0x600);
	assert_int_equal(load_u32(fadt + 64), 0x604);
	assert_int_equal(load_u32(fadt + 76), 0x608);
	assert_int_equal(load_u64(fadt + 120), 0xcf9);
	assert_int_equal(fadt[128], 6);
	assert_true(load_u32(fadt + 112) & BIT(10));  /* reset register */
	assert_false(load_u32(fadt + 112) & BIT(20)); /* not hardware-reduced */
}

/* Processors in order, each ID once, by the structure its size asks for. */
static void check_madt(void)
{
	const uint8_t *madt = find("APIC"), *p = madt + 44, *end = madt + load_u32(madt + 4);
	unsigned cpus = 0, ioapics = 0, overrides = 0, nmis = 0;

	assert_int_equal(load_u32(madt + 36), 0xfee00000);
	for (; p < end; p += p[1]) {
		assert_true(p[1] >= 6 && p + p[1] <= end);
		switch (p[0]) {
		case 0:
			assert_int_equal(p[2], cpus);
			assert_int_equal(p[3], m.topo.vcpu[cpus].apic_id);
			assert_true(m.topo.vcpu[cpus++].apic_id < 255);
			break;
		case 9:
			assert_int_equal(load_u32(p + 12), cpus);
			assert_int_equal(load_u32(p + 4), m.topo.vcpu[cpus].apic_id);
			assert_true(m.topo.vcpu[cpus++].apic_id >= 255);
			break;
		case 1:
			assert_int_equal(load_u32(p + 4), 0xfec00000);
			assert_int_equal(load_u32(p + 8), 0);
			ioapics++;
			break;
		case 2:
			assert_int_equal(load_u32(p + 4), p[3] ? p[3] : 2);
			overrides++;
			break;
		default:
			assert_true(p[0] == 4 || p[0] == 10);
			nmis++;
		}
	}
	assert_ptr_equal(p, end);
	assert_int_equal(cpus, m.topo.nr_vcpus);
	assert_int_equal(ioapics, 1);
	assert_int_equal(overrides, 2);
	assert_int_equal(nmis, m.topo.vcpu[cpus - 1].apic_id < 255 ? 1 : 2);
}

static void check_srat(void)
{
	const uint8_t *srat = find("SRAT"), *p = srat + 48, *end = srat + load_u32(srat + 4);
	unsigned cpus = 0, ranges = 0;

	for (; p < end; p += p[1]) {
		const struct topo_vcpu *v = &m.topo.vcpu[cpus];

		assert_true(p[1] >= 16 && p + p[1] <= end);
		if (p[0] == 1) {
			const struct gmem_slot *s = &m.gmem.slot[ranges++];

			assert_int_equal(load_u32(p + 2), s->node);
			assert_int_equal(load_u64(p + 8), s->gpa);
			assert_int_equal(load_u64(p + 16), s->bytes);
			assert_int_equal(load_u32(p + 28), 1);
			continue;
		}
		assert_int_equal(p[0], v->apic_id < 255 ? 0 : 2);
		assert_int_equal(p[0] ? load_u32(p + 8) : p[3], v->apic_id);
		assert_int_equal(p[0] ? load_u32(p + 4) : p[2], v->node);
		assert_int_equal(load_u32(p + (p[0] ? 12 : 4)), 1);
		cpus++;
	}
	assert_int_equal(cpus, m.topo.nr_vcpus);
	assert_int_equal(ranges, m.gmem.nr_slots);
}

static void check_slit(void)
{
	const uint8_t *slit = find("SLIT");
	unsigned n = m.topo.nr_nodes;

	assert_int_equal(load_u64(slit + 36), n);
	assert_int_equal(load_u32(slit + 4), 44 + n * n);
	for (unsigned i = 0; i < n * n; i++)
		assert_int_equal(slit[44 + i], m.topo.distance[i / n][i % n]);
}

static void test_topology(void **state)
{
	static const unsigned shapes[][2] = { { 1, 1 },   { 4, 2 },   { 13, 3 },   { 255, 1 },
					      { 256, 1 }, { 300, 4 }, { 1024, 64 } };

	for (unsigned i = 0; i < ARRAY_SIZE(shapes); i++) {
		build(shapes[i][0], shapes[i][1]);
		check_madt();
		check_srat();
		check_slit();
	}
}

/* A node that the hole below 4 GiB cuts in two has two ranges. */
static void test_cut_node(void **state)
{
	struct gmem cut = { 0 };
	uint8_t *ram = calloc(1, MIB(1));
	const uint8_t *srat;

	build(2, 2);
	assert_int_equal(gmem_add(&cut, 0, MIB(1), ram, 0), 0);
	assert_int_equal(gmem_add(&cut, GIB(2), GIB(1), ram, 1), 0); /* never touched */
	assert_int_equal(gmem_add(&cut, GIB(4), GIB(5), ram, 1), 0);
	assert_int_equal(acpi_write(&cut, &m.topo, AREA_GPA, AREA_BYTES), 0);
	memcpy(area, ram + AREA_GPA, AREA_BYTES);
	srat = find("SRAT");
	assert_int_equal(load_u32(srat + 4), 48 + 2 * 16 + 3 * 40);
	assert_int_equal(load_u64(srat + 48 + 32 + 80 + 8), GIB(4));
	assert_int_equal(load_u32(srat + 48 + 32 + 80 + 2), 1);
	free(ram);
}

static void test_no_room(void **state)
{
	build(1024, 64);
	for (size_t bytes = 0; bytes < 60000; bytes += 1013)
		if (acpi_write(&m.gmem, &m.topo, AREA_GPA, bytes) != -ENOSPC)
			assert_true(bytes > 40000);
	assert_int_equal(acpi_write(&m.gmem, &m.topo, m.gmem.end, AREA_BYTES), -EFAULT);
}

/* --- other people's readers ------------------------------------------------------ */

static char dir[] = "/tmp/alcazar-acpi-XXXXXX";

static bool have(const char *tool)
{
	char command[64];

	snprintf(command, sizeof(command), "command -v %s >/dev/null", tool);
	return system(command) == 0;
}

/* The shell's status; what it printed is in out[]. */
static int run(char *out, size_t bytes, const char *fmt, ...)
{
	char command[256];
	va_list ap;
	size_t got;
	FILE *f;

	va_start(ap, fmt);
	vsnprintf(command, sizeof(command), fmt, ap);
	va_end(ap);
	f = popen(command, "r");
	assert_non_null(f);
	got = fread(out, 1, bytes - 1, f);
	out[got] = '\0';
	return pclose(f);
}

static void write_file(const char *name, const void *p, size_t bytes)
{
	char path[64];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "w");
	assert_non_null(f);
	assert_int_equal(fwrite(p, 1, bytes, f), bytes);
	fclose(f);
}

static size_t read_file(const char *name, uint8_t *p, size_t bytes)
{
	char path[64];
	size_t got;
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "r");
	assert_non_null(f);
	got = fread(p, 1, bytes, f);
	fclose(f);
	return got;
}

static void assert_quiet(const char *what, const char *out)
{
	if (strstr(out, "Warning") && !strstr(out, "0 Warnings"))
		fail_msg("%s: %s", what, out);
	if (strstr(out, "Error") && !strstr(out, "0 Errors"))
		fail_msg("%s: %s", what, out);
}

/* Equal but for checksum and the compiler's name and revision, which are iasl's. */
static void check_by_iasl(const uint8_t *table)
{
	static char out[65536];
	static uint8_t again[AREA_BYTES];
	size_t bytes = load_u32(table + 4);
	char signature[5] = "";

	memcpy(signature, table, 4);
	write_file("t.dat", table, bytes);
	assert_int_equal(run(out, sizeof(out), "cd %s && iasl -d t.dat 2>&1", dir), 0);
	assert_quiet(signature, out);
	assert_int_equal(run(out, sizeof(out), "cd %s && iasl t.dsl 2>&1", dir), 0);
	assert_quiet(signature, out);
	if (read_file("t.aml", again, sizeof(again)) != bytes)
		fail_msg("%s: other length when compiled again", signature);
	if (memcmp(signature, "FACS", 4)) {
		again[9] = table[9];
		memcpy(again + 28, table + 28, 8);
	}
	assert_memory_equal(again, table, bytes);
}

static void check_all_by_iasl(void)
{
	const uint8_t *fadt = find("FACP");

	check_by_iasl(xsdt());
	check_by_iasl(at(load_u64(fadt + 140)));
	check_by_iasl(at(load_u32(fadt + 36)));
	for (unsigned i = 0; i < nr_listed(); i++)
		check_by_iasl(listed(i));
}

/* ACPI 6.5, 5.2.28: domains first, then latencies, then bandwidths. */
static void test_hmat(void **state)
{
	const uint8_t *t, *end;
	unsigned n = 3;

	build(6, n);
	t = find("HMAT");
	end = t + load_u32(t + 4);
	t += 40;
	for (unsigned i = 0; i < n; i++, t += 40) {
		assert_int_equal(load_u16(t), 0);
		assert_int_equal(load_u32(t + 4), 40);
		assert_int_equal(load_u32(t + 12), i);
		assert_int_equal(load_u32(t + 16), i);
	}
	for (unsigned i = 0; i < 2; i++) {
		const uint8_t *entry = t + 32 + 8 * n;

		assert_int_equal(load_u16(t), 1);
		assert_int_equal(load_u32(t + 4), 32 + 8 * n + 2 * n * n);
		assert_int_equal(t[9], i ? 3 : 0);
		assert_int_equal(load_u64(t + 24), i ? 1 : 1000); /* MB/s, ps */
		assert_int_equal(load_u16(entry), i ? 20000 : 100);
		assert_int_equal(load_u16(entry + 2), i ? 10000 : 200);
		t += load_u32(t + 4);
	}
	assert_ptr_equal(t, end);
}

/* Node 0 has CPUs only, node 1 both, node 2 memory only. */
static void build_mixed(void)
{
	static const struct topo_position position[] = { { .package = 0, .node = 0 },
							 { .package = 1, .node = 1 } };
	struct topo_request r = { .vcpus = 2, .nodes = 3, .position = position };
	char text[160];

	build(2, 2);
	r.node_memory_bytes[1] = r.node_memory_bytes[2] = MIB(32);
	assert_int_equal(topo_build(&m.topo, &r, text, sizeof(text)), 0);
	for (unsigned i = 0; i < m.gmem.nr_slots; i++)
		m.gmem.slot[i].node++;
	assert_int_equal(acpi_write(&m.gmem, &m.topo, AREA_GPA, AREA_BYTES), 0);
	assert_int_equal(gmem_read(&m.gmem, AREA_GPA, area, AREA_BYTES), 0);
}

/* 5.2.28.3: memory without CPUs has no initiator; initiators and targets are lists. */
static void test_nodes_of_cpus_or_memory_only(void **state)
{
	static const uint16_t latency[2][2] = { { 200, 200 }, { 100, 200 } };
	const uint8_t *t;

	build_mixed();
	check_srat();
	check_slit();
	t = find("HMAT") + 40;
	for (uint32_t node = 1; node <= 2; node++, t += 40) {
		assert_int_equal(load_u32(t + 4), 40);
		assert_int_equal(load_u16(t + 8), node == 1); /* is the initiator valid? */
		assert_int_equal(load_u32(t + 12), node == 1 ? 1 : 0);
		assert_int_equal(load_u32(t + 16), node);
	}
	assert_int_equal(load_u16(t), 1);
	assert_int_equal(load_u32(t + 4), 32 + 4 * 4 + 2 * 4);
	assert_int_equal(load_u32(t + 12), 2);
	assert_int_equal(load_u32(t + 16), 2);
	for (uint32_t i = 0; i < 2; i++) {
		assert_int_equal(load_u32(t + 32 + 4 * i), i);     /* initiators 0 and 1, */
		assert_int_equal(load_u32(t + 40 + 4 * i), 1 + i); /* targets 1 and 2 */
		for (unsigned j = 0; j < 2; j++)
			assert_int_equal(load_u16(t + 48 + 4 * i + 2 * j), latency[i][j]);
	}
}

static void test_iasl(void **state)
{
	if (!have("iasl")) {
		print_message("SKIPPED: no iasl here (package acpica-tools)\n");
		skip();
	}
	build(13, 3);
	check_all_by_iasl();
	build_mixed();
	check_all_by_iasl();
	build(1024, 64);
	check_all_by_iasl();
}

static void test_acpiexec(void **state)
{
	static char out[65536];
	const uint8_t *dsdt;

	if (!have("acpiexec")) {
		print_message("SKIPPED: no acpiexec here (package acpica-tools)\n");
		skip();
	}
	build(4, 2);
	dsdt = at(load_u64(find("FACP") + 140));
	write_file("dsdt.dat", dsdt, load_u32(dsdt + 4));
	assert_int_equal(run(out, sizeof(out), "acpiexec -b namespace %s/dsdt.dat 2>&1", dir), 0);
	assert_null(strstr(out, "Error"));
	assert_null(strstr(out, "Exception"));
	assert_non_null(strstr(out, "successfully acquired and loaded"));
	assert_non_null(strstr(out, "_S5_"));
	assert_non_null(strstr(out, "COM1"));
	run(out, sizeof(out), "acpiexec -b 'evaluate \\_S5' %s/dsdt.dat 2>&1", dir);
	assert_non_null(strstr(out, "[Package] Contains 4 Elements"));
	assert_non_null(strstr(out, "0000000000000005"));
}

/* What MCFG names is the bridge's bus, and none of its windows. */
static void test_mcfg(void **state)
{
	const uint8_t *mcfg;

	build(4, 2);
	mcfg = find("MCFG");
	assert_int_equal(load_u32(mcfg + 4), 60);
	assert_int_equal(load_u64(mcfg + 44), 0xe0000000);
	assert_int_equal(load_u16(mcfg + 52), 0);
	assert_int_equal(mcfg[54], 0);
	assert_int_equal(mcfg[55], 0);
}

static void test_pci_by_acpiexec(void **state)
{
	static char out[65536];
	const uint8_t *dsdt;

	if (!have("acpiexec")) {
		print_message("SKIPPED: no acpiexec here (package acpica-tools)\n");
		skip();
	}
	build(4, 2);
	dsdt = at(load_u64(find("FACP") + 140));
	write_file("pci.dat", dsdt, load_u32(dsdt + 4));
	assert_int_equal(run(out, sizeof(out), "acpiexec -b 'resources \\_SB.PCI0' %s/pci.dat 2>&1",
			     dir),
			 0);
	assert_null(strstr(out, "Error"));
	assert_non_null(strstr(out, "Bus Number Range"));
	assert_non_null(strstr(out, "Address Minimum : C0000000"));
	assert_non_null(strstr(out, "Address Maximum : DFFFFFFF"));
	assert_non_null(strstr(out, "Address Minimum : 0000000100000000"));
	assert_non_null(strstr(out, "Address Maximum : 00000008FFFFFFFF"));
	assert_int_equal(run(out, sizeof(out), "acpiexec -b 'resources \\_SB.ECAM' %s/pci.dat 2>&1",
			     dir),
			 0);
	assert_non_null(strstr(out, "Address : E0000000"));
}

static int make_dir(void **state)
{
	return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
	char out[16];

	return run(out, sizeof(out), "rm -r %s", dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_roots, teardown),
		cmocka_unit_test_teardown(test_fadt, teardown),
		cmocka_unit_test_teardown(test_topology, teardown),
		cmocka_unit_test_teardown(test_cut_node, teardown),
		cmocka_unit_test_teardown(test_no_room, teardown),
		cmocka_unit_test_teardown(test_hmat, teardown),
		cmocka_unit_test_teardown(test_mcfg, teardown),
		cmocka_unit_test_teardown(test_nodes_of_cpus_or_memory_only, teardown),
		cmocka_unit_test_teardown(test_iasl, teardown),
		cmocka_unit_test_teardown(test_acpiexec, teardown),
		cmocka_unit_test_teardown(test_pci_by_acpiexec, teardown),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
