/*
 * pci.c - PCI by its configuration space: functions are found, BARs sized, moved, put
 * over each other; a doorbell is rung, memory copied, messages masked and sent to every
 * CPU. The function for all this is the one that `alcazar run --test-device` adds.
 */
#include "rt.h"

#define VENDOR_TEST 0x10f01af4u
#define MAGIC       0x54434c41u

enum config {
	CFG_ID = 0x00,
	CFG_COMMAND = 0x04,
	CFG_CLASS = 0x08,
	CFG_BAR0 = 0x10,
	CFG_BAR1 = 0x14,
	CFG_BAR2 = 0x18,
	CFG_BAR3 = 0x1c,
	CFG_CAPS = 0x34
};

#define COMMAND_MEMORY 2
#define COMMAND_MASTER 4
#define CAP_MSIX       0x11
#define MSIX_ON        0x8000
#define MSIX_MASKED    0x4000

enum reg {
	REG_MAGIC = 0x00,
	REG_STATUS = 0x04,
	REG_SOURCE = 0x08,
	REG_TARGET = 0x10,
	REG_LENGTH = 0x18,
	REG_VECTOR = 0x1c,
	REG_DOORBELL = 0x20,
	REG_DONE = 0x24,
	REG_RAISE = 0x28
};

enum status { STATUS_OK, STATUS_BAD_ADDRESS, STATUS_TOO_LONG, STATUS_NOT_MASTER };

/* In the 32-bit window, and in the one above RAM. */
#define REGS_AT  0xc0000000ul
#define MSIX_AT  0xc0100000ul
#define SPARE_AT 0xd0000000ul
#define HIGH_AT  0x101000000ul
#define OUTSIDE  0xf0000000ul
#define PENDING  0x1000
#define VECTOR_0 0x60 /* and the next ones: by CPU */
#define WAIT_MS  5000
#define ROUNDS   20

static uintptr_t ecam, function;
static unsigned msix;
static volatile uint32_t taken[CPUS_MAX];
static uint8_t source[8192], target[8192];

/* --- accesses ------------------------------------------------------------------------ */

static volatile uint32_t *word(uintptr_t at)
{
	return (volatile uint32_t *)at;
}

static uint32_t config(enum config reg)
{
	return *word(function + reg);
}

static void config_set(enum config reg, uint32_t v)
{
	*word(function + reg) = v;
}

static void place(enum config bar, uint64_t at)
{
	config_set(bar, (uint32_t)at);
	config_set(bar + 4, (uint32_t)(at >> 32));
}

static void command(uint16_t v)
{
	*(volatile uint16_t *)(function + CFG_COMMAND) = v;
}

static uint32_t reg(enum reg r)
{
	return *word(REGS_AT + r);
}

static void reg_set(enum reg r, uint32_t v)
{
	*word(REGS_AT + r) = v;
}

static void reg_set64(enum reg r, uint64_t v)
{
	reg_set(r, (uint32_t)v);
	reg_set(r + 4, (uint32_t)(v >> 32));
}

static void vector_set(unsigned n, uint32_t apic, uint8_t vector, bool masked)
{
	volatile uint32_t *entry = word(MSIX_AT + 16 * n);

	entry[3] = 1;
	entry[0] = 0xfee00000 | apic << 12;
	entry[1] = 0;
	entry[2] = vector;
	entry[3] = masked;
}

static void vector_mask(unsigned n, bool masked)
{
	*word(MSIX_AT + 16 * n + 12) = masked;
}

static void msix_control(uint16_t v)
{
	*(volatile uint16_t *)(function + msix + 2) = v;
}

/* --- interrupts -------------------------------------------------------------------------- */

static void on_message(struct frame *f)
{
	if (f->vector == VECTOR_0 + cpu_index())
		__atomic_fetch_add(&taken[cpu_index()], 1, __ATOMIC_SEQ_CST);
	apic_eoi();
}

static bool wait_for(volatile uint32_t *p, uint32_t wanted)
{
	for (unsigned i = 0; i < WAIT_MS * 10 && *p != wanted; i++) {
		let_interrupts_in();
		delay_us(100);
	}
	return *p == wanted;
}

static void settle(void)
{
	for (unsigned i = 0; i < 20; i++) {
		let_interrupts_in();
		delay_us(100);
	}
}

/* --- configuration space --------------------------------------------------------------------- */

static bool find_bus(void)
{
	const struct acpi_table *t = acpi_find("MCFG");

	if (!t) {
		skip("PCI", "there is no MCFG: no memory-mapped configuration space");
		return false;
	}
	memcpy(&ecam, (const uint8_t *)t + 44, sizeof(ecam));
	ok(acpi_adds_up(t), "MCFG adds up");
	same(*word(ecam + CFG_CLASS) >> 16, 0x0600, "the first function is a host bridge");
	return true;
}

static bool find_function(void)
{
	unsigned found = 0, empty = 0;

	for (unsigned slot = 0; slot < 32; slot++) {
		uintptr_t at = ecam + (slot << 15);

		if (*word(at) == 0xffffffff)
			empty++;
		else
			found++;
		if (*word(at) == VENDOR_TEST)
			function = at;
	}
	ok(found && empty, "%u functions, %u empty slots", found, empty);
	same(*word(ecam + (31 << 15) + 0x40), 0xffffffff, "an empty slot reads as ones");
	if (!function)
		skip("the rest", "there is no test function: alcazar run --test-device");
	return function;
}

static void test_config(void)
{
	uint32_t id = config(CFG_ID);
	unsigned caps = 0;

	same(*(volatile uint16_t *)(function + 2), id >> 16, "a word of it");
	same(*(volatile uint8_t *)(function + 3), id >> 24, "a byte of it");
	same(*(volatile uint64_t *)function, (uint64_t)config(CFG_COMMAND) << 32 | id,
	     "two words at once");
	config_set(CFG_ID, 0);
	same(config(CFG_ID), id, "the vendor cannot be written");
	same(*word(function + 0x100), 0, "no extended capabilities");
	config_set(CFG_COMMAND, 0xffff);
	same(config(CFG_COMMAND) & 0xffff, 0x406, "command bits that there are");
	command(0);
	for (unsigned at = config(CFG_CAPS) & 0xff; at; at = config(at) >> 8 & 0xff) {
		if ((config(at) & 0xff) == CAP_MSIX)
			msix = at;
		if (++caps > 48)
			break;
	}
	ok(caps && caps <= 48 && msix, "a list of capabilities that ends, with MSI-X");
	same(config(msix) >> 16 & 0x7ff, 7, "eight vectors");
	same(config(msix + 4), 2, "their table begins BAR 2");
	same(config(msix + 8), PENDING | 2, "pending bits in its second half");
}

static void test_sizes(void)
{
	place(CFG_BAR0, ~0ull);
	place(CFG_BAR2, ~0ull);
	same(config(CFG_BAR0), 0xfffff004, "BAR 0: 4 KiB, 64 bits");
	same(config(CFG_BAR1), 0xffffffff, "its upper half");
	same(config(CFG_BAR2), 0xffffe004, "BAR 2: 8 KiB, 64 bits");
	config_set(CFG_BAR2 + 8, 0xffffffff);
	same(config(CFG_BAR2 + 8), 0, "there is no BAR 4");
	config_set(0x30, 0xffffffff);
	same(config(0x30), 0, "nor a ROM");
}

/* --- BARs
 * ----------------------------------------------------------------------------------------- */

static void test_moves(void)
{
	place(CFG_BAR0, REGS_AT);
	place(CFG_BAR2, MSIX_AT);
	same(*word(REGS_AT), 0xffffffff, "nothing answers while decoding is off");
	command(COMMAND_MEMORY | COMMAND_MASTER);
	same(*word(REGS_AT), MAGIC, "with decoding on, BAR 0 does");
	same(*word(MSIX_AT + 12), 1, "and BAR 2: vectors start masked");
	same(*word(REGS_AT + 0x1000), 0xffffffff, "nothing behind BAR 0");
	place(CFG_BAR0, SPARE_AT);
	same(*word(REGS_AT), 0xffffffff, "moved: the old place is empty");
	same(*word(SPARE_AT), MAGIC, "moved: the new one answers");

	page_map(HIGH_AT, HIGH_AT | PTE_P | PTE_W);
	place(CFG_BAR0, HIGH_AT);
	same(*word(HIGH_AT), MAGIC, "above 4 GiB");
	same(*word(SPARE_AT), 0xffffffff, "and no longer below");
	place(CFG_BAR0, 0);
	same(*word(HIGH_AT), 0xffffffff, "nowhere");
}

static void test_overlaps(void)
{
	uint32_t bridge = *word(ecam), version;
	volatile uint32_t *ram = word((uintptr_t)target);

	place(CFG_BAR2, REGS_AT);
	place(CFG_BAR0, REGS_AT);
	same(*word(REGS_AT), MAGIC, "two BARs at a place: the first answers");
	place(CFG_BAR0, SPARE_AT);
	same(*word(REGS_AT + 12), 1, "when it leaves, the other one");
	place(CFG_BAR2, MSIX_AT);

	place(CFG_BAR0, ecam);
	same(*word(ecam), bridge, "a BAR over configuration space does not answer");
	*word(0xfec00000) = 1;
	version = *word(0xfec00010);
	place(CFG_BAR0, 0xfec00000);
	*word(0xfec00000) = 1;
	same(*word(0xfec00010), version, "nor over the IOAPIC");
	place(CFG_BAR0, OUTSIDE);
	same(*word(OUTSIDE), 0xffffffff, "nor outside the windows");
	*ram = 0x12345678;
	place(CFG_BAR0, (uintptr_t)target & ~0xffful);
	same(*ram, 0x12345678, "nor over RAM");
	place(CFG_BAR0, REGS_AT);
	same(reg(REG_MAGIC), MAGIC, "back again");
}

/* --- doorbell and DMA
 * ------------------------------------------------------------------------------ */

static bool ring(uint64_t from, uint64_t to, uint32_t bytes)
{
	uint32_t done = reg(REG_DONE);

	reg_set64(REG_SOURCE, from);
	reg_set64(REG_TARGET, to);
	reg_set(REG_LENGTH, bytes);
	reg_set(REG_DOORBELL, 1);
	return wait_for(word(REGS_AT + REG_DONE), done + 1);
}

static void fill(uint8_t seed)
{
	for (unsigned i = 0; i < sizeof(source); i++)
		source[i] = (uint8_t)(i * 7 + seed);
	memset(target, 0xee, sizeof(target));
}

static void test_dma(void)
{
	reg_set(REG_VECTOR, 0);
	fill(1);
	ok(ring((uintptr_t)source + 3, (uintptr_t)target + 5, 5000), "the doorbell is heard");
	same(reg(REG_STATUS), STATUS_OK, "the copy went well");
	ok(!memcmp(source + 3, target + 5, 5000), "the bytes are there");
	ok(target[4] == 0xee && target[5005] == 0xee, "and none beside them");

	ring(1ull << 40, (uintptr_t)target, 64);
	same(reg(REG_STATUS), STATUS_BAD_ADDRESS, "from where nothing is");
	ring((uintptr_t)source, REGS_AT, 64);
	same(reg(REG_STATUS), STATUS_BAD_ADDRESS, "to a device");
	ring((uintptr_t)source, ~0ull - 31, 64);
	same(reg(REG_STATUS), STATUS_BAD_ADDRESS, "over the end of the address space");
	ring((uintptr_t)source, (uintptr_t)target, 0x10001);
	same(reg(REG_STATUS), STATUS_TOO_LONG, "too much");
	ring((uintptr_t)source, (uintptr_t)target, 0);
	same(reg(REG_STATUS), STATUS_OK, "nothing at all");
	command(COMMAND_MEMORY);
	ring((uintptr_t)source, (uintptr_t)target, 64);
	same(reg(REG_STATUS), STATUS_NOT_MASTER, "only bus masters may");
	command(COMMAND_MEMORY | COMMAND_MASTER);
}

/* A doorbell belongs to its BAR, wherever that is. */
static void test_doorbell_moves(void)
{
	uint32_t done = reg(REG_DONE);

	reg_set(REG_LENGTH, 0);
	*word(SPARE_AT + REG_DOORBELL) = 1;
	settle();
	same(reg(REG_DONE), done, "a doorbell that is elsewhere is not heard");
	place(CFG_BAR0, SPARE_AT);
	*word(SPARE_AT + REG_DOORBELL) = 1;
	ok(wait_for(word(SPARE_AT + REG_DONE), done + 1), "moved there it is");
	*word(REGS_AT + REG_DOORBELL) = 1;
	settle();
	same(*word(SPARE_AT + REG_DONE), done + 1, "and no longer where it was");
	place(CFG_BAR0, REGS_AT);
}

/* mov $n, %eax; ret */
static void code(uint8_t *at, uint8_t n)
{
	const uint8_t bytes[] = { 0xb8, n, 0, 0, 0, 0xc3 };

	memcpy(at, bytes, sizeof(bytes));
}

static void test_code(void)
{
	int (*volatile call)(void) = (int (*)(void))(uintptr_t)target;
	bool good = true;

	for (uint8_t n = 1; n <= ROUNDS; n++) {
		code(source, n);
		if (!ring((uintptr_t)source, (uintptr_t)target, 16))
			good = false;
		cpuid(0, 0);
		good = good && call() == n;
	}
	ok(good, "code that comes by DMA is what is executed");
}

/* --- messages
 * ------------------------------------------------------------------------------------------ */

static void test_masks(void)
{
	uint32_t me = cpus[0].apic_id, before;
	volatile uint32_t *pending = word(MSIX_AT + PENDING);

	before = taken[0];
	vector_set(0, me, VECTOR_0, false);
	reg_set(REG_RAISE, 0);
	settle();
	ok(taken[0] == before && !*pending, "MSI-X off: lost");
	msix_control(MSIX_ON);
	reg_set(REG_RAISE, 0);
	ok(wait_for(&taken[0], before + 1), "MSI-X on: a message");

	vector_mask(0, true);
	reg_set(REG_RAISE, 0);
	reg_set(REG_RAISE, 0);
	settle();
	same(taken[0], before + 1, "masked: none");
	same(*pending, 1, "but pending");
	*pending = 0;
	same(*pending, 1, "which cannot be written");
	vector_mask(0, false);
	ok(wait_for(&taken[0], before + 2), "unmasked: it comes, once");
	same(*pending, 0, "no longer pending");

	msix_control(MSIX_ON | MSIX_MASKED);
	reg_set(REG_RAISE, 0);
	settle();
	ok(taken[0] == before + 2 && *pending == 1, "the function masked: pending");
	msix_control(MSIX_ON);
	ok(wait_for(&taken[0], before + 3), "unmasked: it comes");
	command(COMMAND_MEMORY);
	reg_set(REG_RAISE, 0);
	settle();
	same(taken[0], before + 3, "no bus master: none");
	command(COMMAND_MEMORY | COMMAND_MASTER);
	ok(wait_for(&taken[0], before + 4), "bus master again: it comes");

	reg_set(REG_RAISE, 8);
	reg_set(REG_RAISE, 0xffffffff);
	settle();
	ok(taken[0] == before + 4 && !*pending, "vectors that there are not");
	reg_set(REG_VECTOR, 0);
	ring((uintptr_t)source, (uintptr_t)target, 64);
	ok(wait_for(&taken[0], before + 5), "the DMA engine says that it is done");
}

static volatile bool all_taken;

static void take_messages(void)
{
	while (!all_taken) {
		let_interrupts_in();
		if (cpu_index() == 0)
			break;
	}
}

/* CPU 0 sends from inside smp_run(), where the others take. */
static void send_to_all(void)
{
	unsigned count = cpu_count();
	bool good = true;

	if (cpu_index()) {
		take_messages();
		return;
	}
	for (unsigned round = 0; round < ROUNDS; round++) {
		for (unsigned i = 0; i < count; i++) {
			unsigned n = (i + round) % 8;
			uint32_t before = taken[i];

			vector_set(n, cpus[i].apic_id, (uint8_t)(VECTOR_0 + i), false);
			reg_set(REG_RAISE, n);
			good = good && wait_for(&taken[i], before + 1);
		}
	}
	all_taken = true;
	ok(good, "each vector reaches the CPU that it names");
}

/* Everybody rings and looks while CPU 0 moves the BAR about. */
static volatile uint32_t strange;

static void ring_and_move(void)
{
	for (unsigned i = 0; i < ROUNDS * 10; i++) {
		uint32_t seen = *word(REGS_AT), there = *word(SPARE_AT);

		if ((seen != MAGIC && seen != 0xffffffff) ||
		    (there != MAGIC && there != 0xffffffff))
			__atomic_fetch_add(&strange, 1, __ATOMIC_SEQ_CST);
		*word(REGS_AT + REG_DOORBELL) = i;
		if (cpu_index() == 0)
			place(CFG_BAR0, i % 2 ? REGS_AT : SPARE_AT);
	}
}

static void test_storm(void)
{
	uint32_t done;

	reg_set(REG_LENGTH, 0);
	reg_set(REG_VECTOR, 99);
	smp_run(ring_and_move);
	same(strange, 0, "moved under everybody's eyes: there or not there");
	settle();
	done = reg(REG_DONE);
	ok(ring((uintptr_t)source, (uintptr_t)target, 32) && reg(REG_DONE) == done + 1,
	   "the function still works");
}

void guest_main(void)
{
	unsigned count = smp_start();

	for (unsigned i = 0; i < count && i < 16; i++)
		trap_set(VECTOR_0 + i, on_message);
	if (!find_bus() || !find_function())
		return;
	test_config();
	test_sizes();
	test_moves();
	test_overlaps();
	test_dma();
	test_doorbell_moves();
	test_code();
	test_masks();
	smp_run(send_to_all);
	test_storm();
}
