/*
 * real.c - real mode, on a second CPU that INIT and a startup IPI bring there: its
 * segments, its interrupt table, faults, and how it is left and entered again.
 */
#include "rt.h"

#define PAGE    0x9000
#define RESULTS 0x7000

/* What the other CPU leaves there; the order is real-asm.S's. */
struct results {
	uint16_t cs, ip;
	uint16_t software_count, handler_flags, flags_after;
	uint16_t divide_ip, divide_wanted;
	uint16_t by_segment, wrapped;
	uint16_t far_called;
	uint16_t pusha;
	uint16_t string_down;
	uint16_t limit_fault;
	uint16_t moved_table;
	uint32_t wide;  /* 32-bit arithmetic with prefixes */
	uint32_t above; /* read above 1 MiB through ffff:0010 */
	uint32_t unreal;
	uint16_t protected_cs;
	uint16_t bound, enter;
	uint32_t done;
};

extern const uint8_t real_begin[], real_end[];

static volatile struct results *const r = (struct results *)RESULTS;

/* Starts CPU 1 anew, whatever it does; true when it has come to the end. */
static bool run(void)
{
	memset((void *)(uintptr_t)RESULTS, 0, sizeof(*r));
	memcpy((void *)(uintptr_t)PAGE, real_begin, (size_t)(real_end - real_begin));
	apic_icr(cpus[1].apic_id, ICR_INIT);
	delay_us(10000);
	apic_icr(cpus[1].apic_id, ICR_SIPI | PAGE >> 12);
	for (unsigned ms = 0; ms < 10000 && r->done != 0x600d; ms++)
		delay_us(1000);
	return r->done == 0x600d;
}

static void check(void)
{
	same(r->cs, PAGE >> 4, "startup IPI: CS");
	same(r->ip, 0, "startup IPI: IP");
	same(r->software_count, 1, "INT through the table at 0");
	same(r->handler_flags & 0x300, 0, "its handler runs with IF and TF clear");
	same(r->flags_after & 0x201, 0x201, "IRET restores the flags");
	same(r->divide_ip, r->divide_wanted, "#DE points to the division");
	same(r->by_segment, 0x1234, "address is 16 times segment plus offset");
	same(r->wrapped, 0x5678, "offsets of two segments meet");
	same(r->far_called, 1, "far call and return");
	same(r->pusha, 0x1111, "PUSHA and POPA");
	same(r->string_down, 0x6463, "MOVSB downwards");
	if (!lax_machine())
		same(r->limit_fault, 1, "#GP beyond 64 KiB");
	same(r->moved_table, 1, "LIDT moves the table");
	same(r->wide, 0x80000001, "32-bit operands");
	same(r->above, *(uint32_t *)0x100000, "A20: above 1 MiB");
	same(r->unreal, *(uint32_t *)0x100004, "a flat segment survives the way back");
	same(r->protected_cs, SEL_CODE32, "protected mode, and back");
	same(r->bound, 1, "BOUND");
	same(r->enter, 1, "ENTER and LEAVE");
}

void guest_main(void)
{
	uint32_t low = *(uint32_t *)0;

	if (smp_start() < 2) {
		skip("real mode", "one CPU");
		return;
	}
	if (ok(run(), "a sleeping CPU starts anew in real mode"))
		check();
	ok(run(), "and once more, halted with interrupts off");
	*(uint32_t *)0 = low;
}
