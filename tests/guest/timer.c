/*
 * timer.c - every clock and timer, held against the ACPI PM timer; with wide
 * margins, since the host may be busy: too early is an error, very late too.
 */
#include "rt.h"

#define VECTOR_TIMER 0x51
#define VECTOR_PIT   0x20 /* PIC's, IRQ 0 */
#define MSR_DEADLINE 0x6e0
#define LATE_US      500000

static volatile unsigned ticks;
static volatile uint64_t tick_tsc;
static uint64_t tsc_per_ms;

static void on_timer(struct frame *f)
{
	ticks++;
	tick_tsc = rdtsc();
	apic_eoi();
}

/* The PM timer wraps after 4.6 s: whoever asks seldom, asks wrongly. */
static uint32_t elapsed_us(uint32_t since)
{
	return (uint32_t)((uint64_t)((pm_timer() - since) & 0xffffff) * 1000000 / PM_TIMER_HZ);
}

static void test_pm_timer(void)
{
	uint32_t last = pm_timer();
	unsigned steps = 0;

	for (unsigned i = 0; i < 10000; i++) {
		uint32_t now = pm_timer();

		if (((now - last) & 0xffffff) > 0x800000)
			ok(false, "PM timer goes back");
		steps += now != last;
		last = now;
	}
	ok(steps > 10, "PM timer advances");
}

static void test_tsc(void)
{
	uint32_t start = pm_timer(), us;
	uint64_t tsc = rdtsc(), again = 0;
	unsigned back = 0;

	delay_us(50000);
	tsc = rdtsc() - tsc;
	us = elapsed_us(start);
	tsc_per_ms = tsc * 1000 / us;
	note("TSC: %lu kHz", (unsigned long)tsc_per_ms);
	ok(tsc_per_ms > 100000, "TSC runs");
	struct cpuid r = cpuid(0x15, 0);
	if (cpuid(0, 0).a >= 0x15 && r.a && r.b && r.c) {
		uint64_t khz = (uint64_t)r.c * r.b / r.a / 1000;

		note("CPUID 0x15: %lu kHz", (unsigned long)khz);
		ok(khz * 95 / 100 < tsc_per_ms && tsc_per_ms < khz * 105 / 100,
		   "its rate is that of CPUID 0x15");
	}
	for (unsigned i = 0; i < 10000; i++) {
		uint64_t now = rdtsc();

		back += now < again;
		again = now;
	}
	same(back, 0, "TSC never goes back");
}

static uint64_t since_last;

static void look_at_tsc(void)
{
	static volatile uint64_t latest;

	/* Handed from CPU to CPU: later here is later there. */
	for (unsigned i = 0; i < 1000; i++) {
		uint64_t seen = __atomic_load_n(&latest, __ATOMIC_SEQ_CST), now = rdtsc();

		if (now < seen)
			__atomic_fetch_add(&since_last, 1, __ATOMIC_SEQ_CST);
		while (now > seen &&
		       !__atomic_compare_exchange_n(&latest, &seen, now, false, __ATOMIC_SEQ_CST,
						    __ATOMIC_SEQ_CST))
			;
	}
}

/* Sleeps until the timer has ticked; true if that took from @us to @us + LATE_US. */
static bool ticks_after(uint32_t us, unsigned wanted)
{
	uint32_t start = pm_timer(), took;

	while (ticks < wanted && elapsed_us(start) < us + 2 * LATE_US)
		sti_hlt_cli();
	took = elapsed_us(start);
	if (ticks >= wanted && took >= us && took < us + LATE_US)
		return true;
	note("%u of %u ticks after %u us of %u", ticks, wanted, took, us);
	return false;
}

/* Local APIC timer ticks a millisecond, at a divider of 1. */
static uint32_t apic_rate(void)
{
	uint32_t start, us, done;

	apic_write(APIC_LVT_TIMER, APIC_MASKED | VECTOR_TIMER);
	apic_write(APIC_TIMER_DIV, 0xb);
	start = pm_timer();
	apic_write(APIC_TIMER_INIT, 0xffffffff);
	delay_us(20000);
	done = 0xffffffff - apic_read(APIC_TIMER_NOW);
	us = elapsed_us(start);
	return (uint32_t)((uint64_t)done * 1000 / us);
}

static void test_apic_timer(void)
{
	uint32_t rate = apic_rate();

	note("local APIC timer: %u kHz", rate);
	ok(rate > 1000, "local APIC timer counts");
	apic_write(APIC_LVT_TIMER, VECTOR_TIMER);
	ticks = 0;
	apic_write(APIC_TIMER_INIT, rate * 10);
	ok(ticks_after(9500, 1), "one-shot after 10 ms");
	delay_us(30000);
	let_interrupts_in();
	same(ticks, 1, "and only once");
	same(apic_read(APIC_TIMER_NOW), 0, "its count is zero then");

	ticks = 0;
	apic_write(APIC_TIMER_DIV, 0x3); /* by 16 */
	apic_write(APIC_TIMER_INIT, rate);
	ok(ticks_after(15000, 1), "one-shot, divided by 16");
	apic_write(APIC_TIMER_DIV, 0xb);

	ticks = 0;
	apic_write(APIC_LVT_TIMER, APIC_PERIODIC | VECTOR_TIMER);
	apic_write(APIC_TIMER_INIT, rate * 5);
	ok(ticks_after(47000, 10), "periodic, ten times 5 ms");
	apic_write(APIC_TIMER_INIT, 0);
	let_interrupts_in();
	ticks = 0;
	delay_us(20000);
	let_interrupts_in();
	same(ticks, 0, "stopped");

	apic_write(APIC_LVT_TIMER, APIC_MASKED | VECTOR_TIMER);
	apic_write(APIC_TIMER_INIT, rate);
	delay_us(5000);
	let_interrupts_in();
	same(ticks, 0, "masked");
}

static void test_deadline(void)
{
	if (!(cpuid(1, 0).c & 1u << 24)) {
		skip("TSC deadline", "not offered");
		return;
	}
	apic_write(APIC_LVT_TIMER, APIC_DEADLINE | VECTOR_TIMER);
	ticks = 0;
	uint64_t deadline = rdtsc() + 10 * tsc_per_ms;
	wrmsr(MSR_DEADLINE, deadline);
	same(rdmsr(MSR_DEADLINE), deadline, "deadline reads back");
	ok(ticks_after(9000, 1), "deadline after 10 ms");
	ok(tick_tsc >= deadline, "not before it");
	same(rdmsr(MSR_DEADLINE), 0, "deadline is disarmed by its interrupt");
	ticks = 0;
	wrmsr(MSR_DEADLINE, rdtsc() - 1000);
	ok(ticks_after(0, 1), "deadline in the past comes at once");
	ticks = 0;
	wrmsr(MSR_DEADLINE, rdtsc() + 5 * tsc_per_ms);
	wrmsr(MSR_DEADLINE, 0);
	delay_us(20000);
	let_interrupts_in();
	same(ticks, 0, "deadline disarmed");
	apic_write(APIC_TIMER_INIT, 1000);
	same(apic_read(APIC_TIMER_NOW), 0, "no counting in deadline mode");
}

static volatile unsigned pit_ticks;

static void on_pit(struct frame *f)
{
	pit_ticks++;
	outb(0x20, 0x20);
}

static void pic_setup(void)
{
	outb(0x20, 0x11);
	outb(0x21, VECTOR_PIT);
	outb(0x21, 4);
	outb(0x21, 1);
	outb(0xa0, 0x11);
	outb(0xa1, VECTOR_PIT + 8);
	outb(0xa1, 2);
	outb(0xa1, 1);
	outb(0x21, 0xfe);
	outb(0xa1, 0xff);
}

static void pit_set(uint8_t mode, uint16_t count)
{
	outb(0x43, mode);
	outb(0x40, (uint8_t)count);
	outb(0x40, (uint8_t)(count >> 8));
}

static uint16_t pit_read(void)
{
	outb(0x43, 0);
	uint8_t lo = inb(0x40);

	return (uint16_t)(lo | inb(0x40) << 8);
}

static bool pit_after(uint32_t us, unsigned wanted)
{
	uint32_t start = pm_timer(), took;

	while (pit_ticks < wanted && elapsed_us(start) < us + 2 * LATE_US)
		sti_hlt_cli();
	took = elapsed_us(start);
	if (pit_ticks >= wanted && took >= us && took < us + LATE_US)
		return true;
	note("%u of %u ticks after %u us of %u", pit_ticks, wanted, took, us);
	return false;
}

static void test_pit(void)
{
	trap_set(VECTOR_PIT, on_pit);
	/* The virtual wire: the PIC's interrupts reach the CPU by LINT0. */
	apic_write(APIC_LVT_LINT0, 0x700);
	pic_setup();
	pit_set(0x30, 11932); /* 10 ms */
	ok(pit_after(9500, 1), "PIT one-shot after 10 ms");
	delay_us(20000);
	let_interrupts_in();
	same(pit_ticks, 1, "and only once");
	pit_ticks = 0;
	pit_set(0x34, 5966); /* 5 ms */
	ok(pit_after(47000, 10), "PIT rate generator, ten times 5 ms");
	uint16_t a = pit_read();
	delay_us(500);
	uint16_t b = pit_read();
	ok(a <= 5966 && b <= 5966 && a != b, "PIT counts down inside its period");
	outb(0x21, 0xff);
	pit_set(0x30, 1);

	/* Channel 2, as kernels calibrate with it: gate on, output at port 0x61. */
	uint32_t start = pm_timer();
	outb(0x61, (uint8_t)((inb(0x61) & ~2) | 1));
	outb(0x43, 0xb0);
	outb(0x42, (uint8_t)(11932 & 0xff));
	outb(0x42, 11932 >> 8);
	ok(!(inb(0x61) & 0x20), "PIT channel 2 output is low");
	while (!(inb(0x61) & 0x20) && elapsed_us(start) < LATE_US)
		pause();
	uint32_t us = elapsed_us(start);
	ok(us >= 9500 && us < LATE_US, "PIT channel 2 output after 10 ms: %u us", us);
}

void guest_main(void)
{
	unsigned count = smp_start();

	trap_set(VECTOR_TIMER, on_timer);
	test_pm_timer();
	test_tsc();
	if (count > 1) {
		smp_run(look_at_tsc);
		same(since_last, 0, "TSCs agree between CPUs");
	}
	test_apic_timer();
	test_deadline();
	test_pit();
}
