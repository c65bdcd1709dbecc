/*
 * acpi.c - the ACPI tables, made from the topology and the memory map.
 *
 * Reference: ACPI 6.5, chapter 5 (sections are named at each table).
 */
#include "boot/acpi.h"
#include "boot/acpi_buf.h"
#include "boot/layout.h"

#include <errno.h>
#include <stdlib.h>

#define LAPIC_GPA  0xfee00000u
#define IOAPIC_GPA 0xfec00000u

#define PM1A_EVENT_PORT   0x600
#define PM1A_CONTROL_PORT 0x604
#define PM_TIMER_PORT     0x608
#define RESET_PORT        0xcf9
#define RESET_VALUE       6
#define SCI_IRQ           9
#define CMOS_CENTURY      0x32

#define HEADER_BYTES    36
#define XAPIC_IDS       255 /* IDs from here on are described by x2APIC structures */
#define TABLE_ALIGNMENT 64  /* the FACS' need; others have none */
#define TABLES_MAX      8

struct tables {
	struct acpi_buf buf;
	const struct gmem *gmem;
	const struct topology *topo;
	uint64_t entry[TABLES_MAX]; /* what the XSDT lists */
	unsigned nr_entries;
	uint64_t facs, dsdt;
};

/* --- headers and checksums --------------------------------------------------------- */

static uint8_t checksum(const uint8_t *p, size_t bytes)
{
	uint8_t sum = 0;

	while (bytes--)
		sum = (uint8_t)(sum + *p++);
	return (uint8_t)-sum;
}

static void align(struct acpi_buf *b)
{
	while (!IS_ALIGNED(b->used, (size_t)TABLE_ALIGNMENT) && !b->full)
		buf_u8(b, 0);
}

/* 5.2.6. Length and checksum are filled in at the end. */
static size_t table_begin(struct acpi_buf *b, const char *signature, uint8_t revision)
{
	size_t start;

	align(b);
	start = b->used;
	buf_bytes(b, signature, 4);
	buf_u32(b, 0);
	buf_u8(b, revision);
	buf_u8(b, 0);
	buf_bytes(b, "ALCZR ALCAZAR ", 14); /* OEM ID, OEM table ID */
	buf_u32(b, 1);
	buf_bytes(b, "ALCZ", 4);
	buf_u32(b, 1);
	return start;
}

static uint64_t table_end(struct acpi_buf *b, size_t start)
{
	uint8_t *t = b->data + start;

	if (!b->full) {
		store_u32(t + 4, (uint32_t)(b->used - start));
		t[9] = checksum(t, b->used - start);
	}
	return b->gpa + start;
}

static void list(struct tables *t, uint64_t gpa)
{
	t->entry[t->nr_entries++] = gpa;
}

/* --- FADT, FACS ------------------------------------------------------------------------ */

/* 5.2.10 */
static void write_facs(struct tables *t)
{
	uint8_t facs[64] = "FACS";

	store_u32(facs + 4, sizeof(facs));
	facs[32] = 2; /* version */
	align(&t->buf);
	t->facs = t->buf.gpa + t->buf.used;
	buf_bytes(&t->buf, facs, sizeof(facs));
}

/* 5.2.3.2: the generic address of an I/O port; access_size 1 is a byte, 2 a word, ... */
static void gas_io(uint8_t *p, uint16_t port, uint8_t bits, uint8_t access_size)
{
	p[0] = 1;
	p[1] = bits;
	p[2] = 0;
	p[3] = access_size;
	store_u64(p + 4, port);
}

/* Offsets in the FADT; 5.2.9. */
enum fadt {
	FADT_FACS = 36,
	FADT_DSDT = 40,
	FADT_PROFILE = 45,
	FADT_SCI_INT = 46,
	FADT_PM1A_EVT = 56,
	FADT_PM1A_CNT = 64,
	FADT_PM_TMR = 76,
	FADT_PM1_EVT_LEN = 88,
	FADT_PM1_CNT_LEN = 89,
	FADT_PM_TMR_LEN = 91,
	FADT_C2_LATENCY = 96,
	FADT_C3_LATENCY = 98,
	FADT_CENTURY = 108,
	FADT_BOOT_ARCH = 109,
	FADT_FLAGS = 112,
	FADT_RESET_REG = 116,
	FADT_RESET_VALUE = 128,
	FADT_MINOR = 131,
	FADT_X_DSDT = 140,
	FADT_X_PM1A_EVT = 148,
	FADT_X_PM1A_CNT = 172,
	FADT_X_PM_TMR = 208,
	FADT_BYTES = 276,
};

enum fadt_flags {
	FADT_WBINVD = BIT(0),
	FADT_PROC_C1 = BIT(2),
	FADT_NO_PWR_BUTTON = BIT(4),
	FADT_NO_SLP_BUTTON = BIT(5),
	FADT_NO_FIX_RTC = BIT(6),
	FADT_TMR_VAL_EXT = BIT(8), /* the timer has 32 bits */
	FADT_RESET_REG_SUP = BIT(10),
};

enum fadt_boot_arch {
	BOOT_LEGACY_DEVICES = BIT(0),
	BOOT_8042 = BIT(1),
	BOOT_NO_VGA = BIT(2),
};

#define PROFILE_ENTERPRISE_SERVER 4
#define NO_C2                     101 /* latencies that mean: none */
#define NO_C3                     1001

/* There is no SMI command port: the machine is in ACPI mode from the start. */
static void write_fadt(struct tables *t)
{
	uint8_t f[FADT_BYTES] = { 0 };
	size_t start = table_begin(&t->buf, "FACP", 6);

	store_u32(f + FADT_FACS, (uint32_t)t->facs);
	store_u32(f + FADT_DSDT, (uint32_t)t->dsdt);
	store_u64(f + FADT_X_DSDT, t->dsdt);
	f[FADT_PROFILE] = PROFILE_ENTERPRISE_SERVER;
	store_u16(f + FADT_SCI_INT, SCI_IRQ);
	store_u32(f + FADT_PM1A_EVT, PM1A_EVENT_PORT);
	store_u32(f + FADT_PM1A_CNT, PM1A_CONTROL_PORT);
	store_u32(f + FADT_PM_TMR, PM_TIMER_PORT);
	f[FADT_PM1_EVT_LEN] = 4;
	f[FADT_PM1_CNT_LEN] = 2;
	f[FADT_PM_TMR_LEN] = 4;
	gas_io(f + FADT_X_PM1A_EVT, PM1A_EVENT_PORT, 32, 2);
	gas_io(f + FADT_X_PM1A_CNT, PM1A_CONTROL_PORT, 16, 2);
	gas_io(f + FADT_X_PM_TMR, PM_TIMER_PORT, 32, 3);
	store_u16(f + FADT_C2_LATENCY, NO_C2);
	store_u16(f + FADT_C3_LATENCY, NO_C3);
	f[FADT_CENTURY] = CMOS_CENTURY;
	store_u16(f + FADT_BOOT_ARCH, BOOT_LEGACY_DEVICES | BOOT_8042 | BOOT_NO_VGA);
	store_u32(f + FADT_FLAGS, FADT_WBINVD | FADT_PROC_C1 | FADT_NO_PWR_BUTTON |
					  FADT_NO_SLP_BUTTON | FADT_NO_FIX_RTC | FADT_TMR_VAL_EXT |
					  FADT_RESET_REG_SUP);
	gas_io(f + FADT_RESET_REG, RESET_PORT, 8, 1);
	f[FADT_RESET_VALUE] = RESET_VALUE;
	f[FADT_MINOR] = 3;

	buf_bytes(&t->buf, f + HEADER_BYTES, sizeof(f) - HEADER_BYTES);
	list(t, table_end(&t->buf, start));
}

static void write_dsdt(struct tables *t)
{
	size_t start = table_begin(&t->buf, "DSDT", 2);

	acpi_write_dsdt(&t->buf, t->gmem->end);
	t->dsdt = table_end(&t->buf, start);
}

/* --- MADT: 5.2.12 ------------------------------------------------------------------------- */

enum madt_type {
	MADT_LAPIC = 0,
	MADT_IOAPIC = 1,
	MADT_OVERRIDE = 2,
	MADT_LAPIC_NMI = 4,
	MADT_X2APIC = 9,
	MADT_X2APIC_NMI = 10,
};

#define MADT_PCAT_COMPAT 1 /* there are 8259s, too */
#define APIC_ENABLED     1

#define INTI_CONFORMS   0 /* to the bus: ISA is edge-triggered, active high */
#define INTI_LEVEL_HIGH 0x0d

#define ALL_PROCESSORS UINT32_MAX
#define NMI_LINT       1

static void madt_cpu(struct acpi_buf *b, uint32_t uid, uint32_t apic_id)
{
	if (apic_id < XAPIC_IDS) {
		buf_u8(b, MADT_LAPIC);
		buf_u8(b, 8);
		buf_u8(b, (uint8_t)uid); /* IDs ascend: the number is not greater */
		buf_u8(b, (uint8_t)apic_id);
		buf_u32(b, APIC_ENABLED);
	} else {
		buf_u8(b, MADT_X2APIC);
		buf_u8(b, 16);
		buf_u16(b, 0);
		buf_u32(b, apic_id);
		buf_u32(b, APIC_ENABLED);
		buf_u32(b, uid);
	}
}

static void madt_ioapic(struct acpi_buf *b)
{
	buf_u8(b, MADT_IOAPIC);
	buf_u8(b, 12);
	buf_u8(b, 0); /* ID */
	buf_u8(b, 0);
	buf_u32(b, IOAPIC_GPA);
	buf_u32(b, 0); /* first GSI */
}

static void madt_override(struct acpi_buf *b, uint8_t irq, uint32_t gsi, uint16_t flags)
{
	buf_u8(b, MADT_OVERRIDE);
	buf_u8(b, 10);
	buf_u8(b, 0); /* ISA */
	buf_u8(b, irq);
	buf_u32(b, gsi);
	buf_u16(b, flags);
}

static void madt_nmi(struct acpi_buf *b, bool x2apic)
{
	if (x2apic) {
		buf_u8(b, MADT_X2APIC_NMI);
		buf_u8(b, 12);
		buf_u16(b, INTI_CONFORMS);
		buf_u32(b, ALL_PROCESSORS);
		buf_u8(b, NMI_LINT);
		buf_bytes(b, "\0\0", 3);
	} else {
		buf_u8(b, MADT_LAPIC_NMI);
		buf_u8(b, 6);
		buf_u8(b, (uint8_t)ALL_PROCESSORS);
		buf_u16(b, INTI_CONFORMS);
		buf_u8(b, NMI_LINT);
	}
}

static void write_madt(struct tables *t)
{
	const struct topology *topo = t->topo;
	struct acpi_buf *b = &t->buf;
	size_t start = table_begin(b, "APIC", 4);

	buf_u32(b, LAPIC_GPA);
	buf_u32(b, MADT_PCAT_COMPAT);
	for (unsigned i = 0; i < topo->nr_vcpus; i++)
		madt_cpu(b, i, topo->vcpu[i].apic_id);
	madt_ioapic(b);
	madt_override(b, 0, 2, INTI_CONFORMS);
	madt_override(b, SCI_IRQ, SCI_IRQ, INTI_LEVEL_HIGH);
	madt_nmi(b, false);
	if (topo->vcpu[topo->nr_vcpus - 1].apic_id >= XAPIC_IDS)
		madt_nmi(b, true);
	list(t, table_end(b, start));
}

/* --- MCFG: PCI Firmware Specification 3.3, 4.1.2 ------------------------------------------------
 */

static void write_mcfg(struct tables *t)
{
	struct acpi_buf *b = &t->buf;
	size_t start = table_begin(b, "MCFG", 1);

	buf_u64(b, 0);
	buf_u64(b, LAYOUT_ECAM_GPA);
	buf_u16(b, 0); /* segment */
	buf_u8(b, 0);  /* first bus */
	buf_u8(b, LAYOUT_LAST_BUS);
	buf_u32(b, 0);
	list(t, table_end(b, start));
}

/* --- SRAT: 5.2.16, SLIT: 5.2.17 --------------------------------------------------------------- */

enum srat_type { SRAT_CPU = 0, SRAT_MEMORY = 1, SRAT_X2APIC = 2 };

#define SRAT_ENABLED 1

static void srat_cpu(struct acpi_buf *b, const struct topo_vcpu *v)
{
	if (v->apic_id < XAPIC_IDS) {
		buf_u8(b, SRAT_CPU);
		buf_u8(b, 16);
		buf_u8(b, (uint8_t)v->node);
		buf_u8(b, (uint8_t)v->apic_id);
		buf_u32(b, SRAT_ENABLED);
		buf_u8(b, 0);
		buf_bytes(b, "\0\0", 3); /* upper bits of the node */
		buf_u32(b, 0);           /* clock domain */
	} else {
		buf_u8(b, SRAT_X2APIC);
		buf_u8(b, 24);
		buf_u16(b, 0);
		buf_u32(b, v->node);
		buf_u32(b, v->apic_id);
		buf_u32(b, SRAT_ENABLED);
		buf_u32(b, 0);
		buf_u32(b, 0);
	}
}

static void srat_memory(struct acpi_buf *b, const struct gmem_slot *s)
{
	buf_u8(b, SRAT_MEMORY);
	buf_u8(b, 40);
	buf_u32(b, s->node);
	buf_u16(b, 0);
	buf_u64(b, s->gpa);
	buf_u64(b, s->bytes);
	buf_u32(b, 0);
	buf_u32(b, SRAT_ENABLED);
	buf_u64(b, 0);
}

static void write_srat(struct tables *t)
{
	struct acpi_buf *b = &t->buf;
	size_t start = table_begin(b, "SRAT", 3);

	buf_u32(b, 1); /* reserved, for compatibility */
	buf_u64(b, 0);
	for (unsigned i = 0; i < t->topo->nr_vcpus; i++)
		srat_cpu(b, &t->topo->vcpu[i]);
	for (unsigned i = 0; i < t->gmem->nr_slots; i++)
		srat_memory(b, &t->gmem->slot[i]);
	list(t, table_end(b, start));
}

static void write_slit(struct tables *t)
{
	struct acpi_buf *b = &t->buf;
	size_t start = table_begin(b, "SLIT", 1);

	buf_u64(b, t->topo->nr_nodes);
	for (unsigned n = 0; n < t->topo->nr_nodes; n++)
		buf_bytes(b, t->topo->distance[n], t->topo->nr_nodes);
	list(t, table_end(b, start));
}

/* --- HMAT: 5.2.28 -------------------------------------------------------------------------------
 */

enum hmat_type { HMAT_DOMAIN = 0, HMAT_LOCALITY = 1 };
enum hmat_data { HMAT_ACCESS_LATENCY = 0, HMAT_ACCESS_BANDWIDTH = 3 };

#define HMAT_INITIATOR_VALID 1
#define HMAT_ENTRY_MAX       0xfffe
#define PS_PER_NS            1000

/* Nodes with CPUs are initiators, nodes with memory are targets; most are both. */
struct hmat_nodes {
	uint32_t initiator[TOPO_NODES_MAX], target[TOPO_NODES_MAX];
	unsigned nr_initiators, nr_targets;
};

static void hmat_find_nodes(struct hmat_nodes *n, const struct topology *t)
{
	*n = (struct hmat_nodes){ 0 };
	for (unsigned i = 0; i < t->nr_nodes; i++) {
		if (t->node[i].nr_vcpus)
			n->initiator[n->nr_initiators++] = i;
		if (t->node[i].memory_bytes)
			n->target[n->nr_targets++] = i;
	}
}

/* The CPUs that memory is attached to are those of its own node, if it has any. */
static void hmat_domain(struct acpi_buf *b, const struct topo_node *node, uint32_t number)
{
	buf_u16(b, HMAT_DOMAIN);
	buf_u16(b, 0);
	buf_u32(b, 40);
	buf_u16(b, node->nr_vcpus ? HMAT_INITIATOR_VALID : 0);
	buf_u16(b, 0);
	buf_u32(b, node->nr_vcpus ? number : 0); /* initiator */
	buf_u32(b, number);                      /* memory */
	buf_u32(b, 0);
	buf_u64(b, 0);
	buf_u64(b, 0);
}

/* The entries follow, initiator by initiator. */
static void hmat_locality(struct acpi_buf *b, const struct hmat_nodes *n, enum hmat_data data,
			  uint64_t unit)
{
	buf_u16(b, HMAT_LOCALITY);
	buf_u16(b, 0);
	buf_u32(b,
		32 + 4 * (n->nr_initiators + n->nr_targets) + 2 * n->nr_initiators * n->nr_targets);
	buf_u8(b, 0); /* memory itself, not a cache in front of it */
	buf_u8(b, (uint8_t)data);
	buf_u16(b, 0);
	buf_u32(b, n->nr_initiators);
	buf_u32(b, n->nr_targets);
	buf_u32(b, 0);
	buf_u64(b, unit);
	for (unsigned i = 0; i < n->nr_initiators; i++)
		buf_u32(b, n->initiator[i]);
	for (unsigned i = 0; i < n->nr_targets; i++)
		buf_u32(b, n->target[i]);
}

static uint64_t bandwidth_unit(const struct topology *t)
{
	uint32_t most = 1;

	for (unsigned i = 0; i < t->nr_nodes; i++)
		for (unsigned j = 0; j < t->nr_nodes; j++)
			most = MAX(most, t->bandwidth_mbs[i][j]);
	return most / HMAT_ENTRY_MAX + 1;
}

static void write_hmat(struct tables *t)
{
	const struct topology *topo = t->topo;
	uint64_t unit = bandwidth_unit(topo);
	struct acpi_buf *b = &t->buf;
	size_t start = table_begin(b, "HMAT", 2);
	struct hmat_nodes n;

	hmat_find_nodes(&n, topo);
	buf_u32(b, 0);
	for (unsigned i = 0; i < n.nr_targets; i++)
		hmat_domain(b, &topo->node[n.target[i]], n.target[i]);
	hmat_locality(b, &n, HMAT_ACCESS_LATENCY, PS_PER_NS);
	for (unsigned i = 0; i < n.nr_initiators; i++)
		for (unsigned j = 0; j < n.nr_targets; j++)
			buf_u16(b, topo->latency_ns[n.initiator[i]][n.target[j]]);
	hmat_locality(b, &n, HMAT_ACCESS_BANDWIDTH, unit);
	for (unsigned i = 0; i < n.nr_initiators; i++)
		for (unsigned j = 0; j < n.nr_targets; j++) {
			uint32_t mbs = topo->bandwidth_mbs[n.initiator[i]][n.target[j]];

			buf_u16(b, (uint16_t)MAX(mbs / unit, 1));
		}
	list(t, table_end(b, start));
}

/* --- the roots -----------------------------------------------------------------------------------
 */

static uint64_t write_xsdt(struct tables *t)
{
	size_t start = table_begin(&t->buf, "XSDT", 1);

	buf_bytes(&t->buf, t->entry, t->nr_entries * sizeof(t->entry[0]));
	return table_end(&t->buf, start);
}

#define RSDP_BYTES 36

/* 5.2.5.3. There is no RSDT: every guest of ours knows the XSDT. */
static void fill_rsdp(uint8_t *p, uint64_t xsdt)
{
	struct acpi_buf b = { .data = p, .size = RSDP_BYTES };

	buf_bytes(&b, "RSD PTR ", 8);
	buf_u8(&b, 0); /* checksum of the first 20 bytes */
	buf_bytes(&b, "ALCZR ", 6);
	buf_u8(&b, 2);
	buf_u32(&b, 0);
	buf_u32(&b, RSDP_BYTES);
	buf_u64(&b, xsdt);
	buf_u32(&b, 0); /* checksum of all, reserved */
	p[8] = checksum(p, 20);
	p[32] = checksum(p, RSDP_BYTES);
}

int acpi_write(const struct gmem *m, const struct topology *t, uint64_t gpa, uint64_t bytes)
{
	struct tables tables = { .gmem = m, .topo = t };
	struct acpi_buf *b = &tables.buf;
	int err = -ENOSPC;

	*b = (struct acpi_buf){ .data = malloc(bytes), .size = bytes, .gpa = gpa };
	if (!b->data)
		return -ENOMEM;
	if (bytes >= RSDP_BYTES) {
		b->used = RSDP_BYTES; /* filled in last */
		write_facs(&tables);
		write_dsdt(&tables);
		write_fadt(&tables);
		write_madt(&tables);
		write_mcfg(&tables);
		write_srat(&tables);
		write_slit(&tables);
		write_hmat(&tables);
		fill_rsdp(b->data, write_xsdt(&tables));
		if (!b->full)
			err = gmem_write(m, gpa, b->data, b->used);
	}
	free(b->data);
	return err;
}
