/*
 * smp.c - other processors: started by INIT and startup IPIs, asleep in between,
 * woken by an IPI when there is work.
 */
#include "rt.h"

#ifdef __x86_64__
#define FW_CFG_SELECT 0x510
#define FW_CFG_DATA   0x511
#define FW_CFG_CPUS   5

extern const uint8_t trampoline[], trampoline_end[];

static volatile uint32_t online = 1, idle;
static unsigned running = 1; /* CPUs that smp_run() uses */

/* The device has one offset for all CPUs: the first one asks, before the others run. */
unsigned cpu_count(void)
{
	static unsigned count;

	if (!count) {
		outw(FW_CFG_SELECT, FW_CFG_CPUS);
		count = inb(FW_CFG_DATA);
		count |= (unsigned)inb(FW_CFG_DATA) << 8;
	}
	return count;
}

static void on_wake(struct frame *f)
{
	apic_eoi();
}

/* Interrupts are off but while asleep, so that no wake-up is lost. */
void rt_ap_main(unsigned index);
void rt_ap_main(unsigned index)
{
	cpu_setup(index);
	apic_enable();
	this_cpu()->apic_id = apic_id();
	__atomic_fetch_add(&online, 1, __ATOMIC_SEQ_CST);
	for (;;) {
		void (*work)(void) = this_cpu()->work;

		if (!work) {
			sti_hlt_cli();
			continue;
		}
		this_cpu()->work = NULL;
		work();
		__atomic_fetch_add(&idle, 1, __ATOMIC_SEQ_CST);
	}
}

unsigned smp_start(void)
{
	unsigned count = cpu_count();

	apic_enable();
	cpus[0].apic_id = apic_id();
	trap_set(VECTOR_WAKE, on_wake);
	if (count == 1)
		return 1;
	memcpy((void *)(uintptr_t)TRAMPOLINE, trampoline, (size_t)(trampoline_end - trampoline));
	apic_icr(0, ICR_OTHERS | ICR_INIT);
	delay_us(10000);
	apic_icr(0, ICR_OTHERS | ICR_SIPI | TRAMPOLINE >> 12);
	for (unsigned ms = 0; online < count && ms < 20000; ms++)
		delay_us(1000);
	running = online;
	if (online != count)
		ok(false, "%u of %u CPUs started", online, count);
	return count;
}

void smp_run(void (*fn)(void))
{
	idle = 0;
	for (unsigned i = 1; i < running; i++)
		cpus[i].work = fn;
	if (running > 1)
		apic_icr(0, ICR_OTHERS | ICR_FIXED | VECTOR_WAKE);
	fn();
	while (__atomic_load_n(&idle, __ATOMIC_SEQ_CST) != running - 1)
		pause();
}

void barrier(unsigned count)
{
	static volatile uint32_t arrived, phase;
	uint32_t now = phase;

	if (__atomic_add_fetch(&arrived, 1, __ATOMIC_SEQ_CST) == count) {
		arrived = 0;
		__atomic_store_n(&phase, now + 1, __ATOMIC_SEQ_CST);
		return;
	}
	while (__atomic_load_n(&phase, __ATOMIC_SEQ_CST) == now)
		pause();
}
#endif
