/* hello.c - every step from the loader to a program on all processors. */
#include "rt.h"

static volatile uint32_t greeted;

static void greet(void)
{
	__atomic_fetch_add(&greeted, 1, __ATOMIC_SEQ_CST);
}

static void check_modes(void)
{
	ok(read_cr0() & 1, "protected mode");
	ok(read_cr0() >> 31 & 1, "paging");
	ok(rdmsr(0xc0000080) >> 10 & 1, "long mode is active");
}

static void check_ids(unsigned count)
{
	bool unique = true;

	for (unsigned i = 0; i < count; i++)
		for (unsigned j = 0; j < i; j++)
			if (cpus[i].apic_id == cpus[j].apic_id)
				unique = false;
	ok(unique, "each CPU has its own APIC ID");
	same(cpus[0].apic_id, cpuid(1, 0).b >> 24, "APIC ID as CPUID says");
}

void guest_main(void)
{
	unsigned count;

	note("hello from a guest: %s", command_line());
	check_modes();
	count = smp_start();
	ok(count >= 1, "fw_cfg says %u CPUs", count);
	check_ids(count);
	for (unsigned i = 1; i <= 10; i++)
		smp_run(greet);
	same(greeted, 10 * count, "all of them ran all rounds");
}
