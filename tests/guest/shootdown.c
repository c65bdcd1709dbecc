/*
 * shootdown.c - one CPU changes a mapping and tells the others by IPI; once they
 * have invalidated, none of them may still use the old one. rounds=N.
 */
#include "rt.h"

#define WINDOW       0x40000000ul
#define VECTOR_FLUSH 0x91

static volatile uint64_t *const window = (uint64_t *)WINDOW;
static uint64_t pages[2];
static volatile unsigned flushed, wrong, stop, faults;
static volatile uint64_t current; /* what the window shows for sure */
static unsigned long rounds;

static void on_flush(struct frame *f)
{
	invlpg(window);
	__atomic_fetch_add(&flushed, 1, __ATOMIC_SEQ_CST);
	apic_eoi();
}

static void flush_everywhere(unsigned others)
{
	flushed = 0;
	invlpg(window);
	apic_icr(0, ICR_OTHERS | ICR_FIXED | VECTOR_FLUSH);
	while (__atomic_load_n(&flushed, __ATOMIC_SEQ_CST) != others)
		pause();
}

/* Readers: with interrupts off, nothing can change between the looks. */
static void read_window(void)
{
	while (!__atomic_load_n(&stop, __ATOMIC_ACQUIRE)) {
		uint64_t before = __atomic_load_n(&current, __ATOMIC_ACQUIRE);
		uint64_t got = *window;

		/* Generations only grow. */
		if (got < before)
			__atomic_fetch_add(&wrong, 1, __ATOMIC_SEQ_CST);
		let_interrupts_in();
	}
}

static void change_window(unsigned others)
{
	for (uint64_t generation = 1; generation <= rounds; generation++) {
		uint64_t page = pages[generation & 1];

		*(volatile uint64_t *)page = generation;
		*page_entry(WINDOW, 1) = page | PTE_P;
		flush_everywhere(others);
		__atomic_store_n(&current, generation, __ATOMIC_RELEASE);
	}
	__atomic_store_n(&stop, 1, __ATOMIC_RELEASE);
}

static void run_reads(void)
{
	if (cpu_index() == 0)
		change_window(cpu_count() - 1);
	else
		read_window();
}

/* Write-protecting: after the flush no store may arrive any more. */
static void on_write_fault(struct frame *f)
{
	__atomic_fetch_add(&faults, 1, __ATOMIC_SEQ_CST);
	f->ip = this_cpu()->resume;
}

static void write_window(void)
{
	struct cpu *c = this_cpu();

	while (!__atomic_load_n(&stop, __ATOMIC_ACQUIRE)) {
		TRY("lock incq (%0)", : : "c"(window) : "memory");
		c->resume = 0;
		let_interrupts_in();
	}
}

static void protect_window(unsigned others)
{
	volatile uint64_t *entry = page_entry(WINDOW, 1);
	volatile uint64_t *word = (volatile uint64_t *)pages[0];

	for (unsigned long i = 0; i < rounds; i++) {
		*entry = pages[0] | PTE_P | PTE_W;
		delay_us(20);
		*entry = pages[0] | PTE_P;
		flush_everywhere(others);
		uint64_t frozen = *word;
		delay_us(20);
		if (*word != frozen)
			wrong++;
	}
	__atomic_store_n(&stop, 1, __ATOMIC_RELEASE);
}

static void run_writes(void)
{
	if (cpu_index() == 0)
		protect_window(cpu_count() - 1);
	else
		write_window();
}

void guest_main(void)
{
	pages[0] = (uint64_t)page_alloc();
	pages[1] = (uint64_t)page_alloc();
	page_map(WINDOW, pages[0] | PTE_P);
	smp_start();
	rounds = arg("rounds", 300);
	trap_set(VECTOR_FLUSH, on_flush);
	smp_run(run_reads);
	same(wrong, 0, "nobody reads through a mapping that is gone");

	stop = wrong = 0;
	trap_set(TRAP_PF, on_write_fault);
	page_map(WINDOW, pages[0] | PTE_P | PTE_W);
	smp_run(run_writes);
	note("%u writes refused, %lu done", faults, *(unsigned long *)pages[0]);
	same(wrong, 0, "nobody writes to a page that was protected");
}
