/*
 * ipi.c - interrupts between CPUs: to one, to all, in a storm, to sleepers, by
 * logical address, to oneself, in order of priority, and NMIs. rounds=N.
 */
#include "rt.h"

#define VECTOR_PING 0x60
#define VECTOR_LOW  0x41
#define VECTOR_HIGH 0x71

static volatile uint64_t pings[CPUS_MAX], nmis[CPUS_MAX];
static unsigned long rounds;
static unsigned count;

static void on_ping(struct frame *f)
{
	pings[cpu_index()]++;
	apic_eoi();
}

static void clear(void)
{
	for (unsigned i = 0; i < CPUS_MAX; i++)
		pings[i] = nmis[i] = 0;
}

/* Gives up after half a minute or so: a lost interrupt must not hang the test. */
static bool wait_for(volatile uint64_t *word, uint64_t wanted)
{
	uint64_t start = rdtsc();

	do {
		if (__atomic_load_n(word, __ATOMIC_SEQ_CST) >= wanted)
			return true;
		pause();
	} while (rdtsc() - start < 1ull << 36);
	return false;
}

/* CPU 0 pings each one in turn; all others are asleep. */
static void test_one(void)
{
	bool all = true;

	clear();
	for (unsigned long r = 0; r < rounds / 10; r++)
		for (unsigned i = 1; i < count; i++) {
			uint64_t before = pings[i];

			apic_icr(cpus[i].apic_id, ICR_FIXED | VECTOR_PING);
			all = all && wait_for(&pings[i], before + 1);
		}
	ok(all, "each sleeping CPU answers each ping");
	for (unsigned i = 1; i < count; i++)
		all = all && pings[i] == rounds / 10;
	ok(all && !pings[0], "and no other does");
}

static void test_shorthands(void)
{
	bool all = true;

	clear();
	for (unsigned long r = 1; r <= rounds / 10; r++) {
		apic_icr(0, ICR_ALL | ICR_FIXED | VECTOR_PING);
		sti();
		for (unsigned i = 0; i < count; i++)
			all = all && wait_for(&pings[i], r);
		cli();
	}
	ok(all, "all including self");
	clear();
	apic_icr(0, ICR_SELF | ICR_FIXED | VECTOR_PING);
	sti();
	ok(wait_for(&pings[0], 1), "self");
	cli();
	for (unsigned i = 1; i < count; i++)
		all = all && !pings[i];
	ok(all, "self only");
}

/* Everybody at everybody; a vector that is pending already may merge, but not get lost. */
static volatile uint64_t finished;

static void storm(void)
{
	unsigned me = cpu_index();

	sti();
	for (unsigned long r = 0; r < rounds; r++) {
		unsigned to = (unsigned)(me + 1 + r % (count - 1)) % count;

		if (to == me)
			to = (to + 1) % count;
		uint64_t before = __atomic_load_n(&pings[to], __ATOMIC_SEQ_CST);
		apic_icr(cpus[to].apic_id, ICR_FIXED | VECTOR_PING);
		if (!wait_for(&pings[to], before + 1)) {
			ok(false, "CPU %u never got the IPI of CPU %u", to, me);
			break;
		}
	}
	/* Others may have something to send still. */
	__atomic_fetch_add(&finished, 1, __ATOMIC_SEQ_CST);
	while (__atomic_load_n(&finished, __ATOMIC_SEQ_CST) < count)
		pause();
	cli();
}

/* Sleep, be woken by the neighbour, wake the next: a wake-up lost is a hang. */
static volatile uint64_t token;

static void relay(void)
{
	unsigned me = cpu_index();

	for (unsigned long r = 0; r < rounds / 10; r++) {
		uint64_t mine = r * count + me;

		while (__atomic_load_n(&token, __ATOMIC_SEQ_CST) != mine)
			sti_hlt_cli();
		__atomic_store_n(&token, mine + 1, __ATOMIC_SEQ_CST);
		apic_icr(cpus[(me + 1) % count].apic_id, ICR_FIXED | VECTOR_PING);
	}
}

static volatile unsigned order[4], nr_order;

static void on_order(struct frame *f)
{
	if (nr_order < 4)
		order[nr_order++] = (unsigned)f->vector;
	apic_eoi();
}

static void test_priority(void)
{
	nr_order = 0;
	trap_set(VECTOR_LOW, on_order);
	trap_set(VECTOR_HIGH, on_order);
	apic_icr(0, ICR_SELF | ICR_FIXED | VECTOR_LOW);
	apic_icr(0, ICR_SELF | ICR_FIXED | VECTOR_HIGH);
	sti();
	for (unsigned i = 0; i < 100000 && nr_order < 2; i++)
		pause();
	cli();
	ok(nr_order == 2 && order[0] == VECTOR_HIGH && order[1] == VECTOR_LOW,
	   "the higher vector comes first");
	nr_order = 0;
	apic_write(APIC_TPR, 0x50);
	apic_icr(0, ICR_SELF | ICR_FIXED | VECTOR_LOW);
	apic_icr(0, ICR_SELF | ICR_FIXED | VECTOR_HIGH);
	sti();
	delay_us(1000);
	cli();
	ok(nr_order == 1 && order[0] == VECTOR_HIGH, "TPR holds the lower back");
	ok(apic_read(APIC_IRR + 0x10 * (VECTOR_LOW / 32)) & 1u << VECTOR_LOW % 32,
	   "it waits in IRR");
	apic_write(APIC_TPR, 0);
	sti();
	delay_us(1000);
	cli();
	ok(nr_order == 2 && order[1] == VECTOR_LOW, "until TPR lets it pass");
	unsigned long cr8;
	apic_write(APIC_TPR, 0x70);
	asm volatile("mov %%cr8, %0" : "=r"(cr8));
	same(cr8, 7, "CR8 shows TPR");
	asm volatile("mov %0, %%cr8" : : "r"(3ul));
	same(apic_read(APIC_TPR), 0x30, "TPR shows CR8");
	apic_write(APIC_TPR, 0);
}

static void on_nmi(struct frame *f)
{
	nmis[cpu_index()]++;
}

static void test_nmi(void)
{
	bool all = true;

	clear();
	trap_set(TRAP_NMI, on_nmi);
	for (unsigned i = 1; i < count; i++) {
		apic_icr(cpus[i].apic_id, ICR_NMI);
		all = all && wait_for(&nmis[i], 1);
	}
	ok(all, "NMI wakes each CPU");
}

/*
 * CPU 1 halts with interrupts off, again and again, for short and for long: what comes in
 * the meantime waits, and only an NMI ends it.
 */
static volatile uint64_t round_of, let_go, woken;

static void halt_deaf(void)
{
	uint64_t last = rounds / 10;

	for (uint64_t r = 1; cpu_index() == 1 && r <= last; r++) {
		__atomic_store_n(&round_of, r, __ATOMIC_SEQ_CST);
		while (__atomic_load_n(&let_go, __ATOMIC_SEQ_CST) < r) {
			asm volatile("hlt" : : : "memory");
			woken++;
		}
		sti();
		wait_for(&pings[1], r);
		cli();
	}
	for (uint64_t r = 1; cpu_index() == 0 && r <= last; r++) {
		if (!wait_for(&round_of, r))
			return;
		linger((unsigned)(1 + r * 97 % 2000));
		apic_icr(cpus[1].apic_id, ICR_FIXED | VECTOR_PING);
		linger((unsigned)(1 + r * 31 % 2000));
		if (pings[1] >= r)
			return;
		__atomic_store_n(&let_go, r, __ATOMIC_SEQ_CST);
		/* One that comes before HLT does not end it. */
		for (unsigned n = 0; pings[1] < r && n < 1000; n++) {
			apic_icr(cpus[1].apic_id, ICR_NMI);
			linger(20000);
		}
	}
}

static void test_deaf(void)
{
	clear();
	round_of = let_go = woken = 0;
	smp_run(halt_deaf);
	same(pings[1], rounds / 10, "halted with interrupts off: interrupts wait");
	ok(woken && woken <= nmis[1], "and NMIs alone wake it");
}

static void set_logical(void)
{
	apic_write(APIC_DFR, 0xffffffff);
	apic_write(APIC_LDR, 1u << (24 + cpu_index()));
}

/* xAPIC flat model: a mask of CPUs. */
static void test_logical(void)
{
	bool all = true;

	if (apic_x2() || count > 8) {
		skip("logical destinations", "not in flat mode");
		return;
	}
	smp_run(set_logical);
	clear();
	apic_icr((1u << count) - 2, 0x800 | ICR_FIXED | VECTOR_PING);
	for (unsigned i = 1; i < count; i++)
		all = all && wait_for(&pings[i], 1);
	ok(all && !pings[0], "logical destination, flat");
	clear();
	apic_icr(2, 0x800 | ICR_FIXED | VECTOR_PING);
	ok(wait_for(&pings[1], 1), "logical destination of one");
}

static void go_x2(void)
{
	apic_enable_x2();
}

/* x2APIC cluster model: LDR is made from the ID. */
static void test_cluster(void)
{
	bool all = true;

	clear();
	for (unsigned i = 1; i < count; i++) {
		uint32_t id = cpus[i].apic_id;

		apic_icr((id >> 4) << 16 | 1u << (id & 15), 0x800 | ICR_FIXED | VECTOR_PING);
		all = all && wait_for(&pings[i], 1);
	}
	ok(all, "logical destination, x2APIC cluster");
	same(apic_read(APIC_LDR), (cpus[0].apic_id >> 4) << 16 | 1u << (cpus[0].apic_id & 15),
	     "x2APIC LDR");
	wrmsr(0x83f, VECTOR_PING);
	sti();
	ok(wait_for(&pings[0], 1), "x2APIC self IPI");
	cli();
	TRY("wrmsr", : : "c"(0x80e), "a"(0), "d"(0));
	faulted(TRAP_GP, 0, "x2APIC has no DFR");
}

static void test_all(const char *mode)
{
	note("%s mode", mode);
	test_one();
	test_shorthands();
	clear();
	finished = 0;
	smp_run(storm);
	same(finished, count, "storm is over");
	token = 0;
	smp_run(relay);
	same(token, rounds / 10 * count, "relay of sleepers");
	test_nmi();
	test_deaf();
}

void guest_main(void)
{
	count = smp_start();
	rounds = arg("rounds", 1000);
	trap_set(VECTOR_PING, on_ping);
	test_priority();
	if (count == 1)
		return;
	test_all("xAPIC");
	test_logical();
	if (!apic_enable_x2()) {
		skip("x2APIC", "not offered");
		return;
	}
	/* Wakes the others by their xAPICs still. */
	smp_run(go_x2);
	test_all("x2APIC");
	test_cluster();
	test_priority();
}
