/*
 * rt.h - what a guest program finds: a console, results, traps, processors.
 *
 * A program defines guest_main(), reports with ok() and returns. Results are TAP
 * lines on the debug console (port 0xE9); the exit port (0xF4) ends the machine, with
 * value 0 when everything was ok.
 */
#ifndef GUEST_RT_H
#define GUEST_RT_H

#include "layout.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ARRAY_SIZE(a)       (sizeof(a) / sizeof((a)[0]))
#define __printf(fmt, args) __attribute__((format(printf, fmt, args)))

void guest_main(void);

/* --- console and results (print.c) ---------------------------------------- */

/* %s %c %d %u %x %p with l and ll; decimals up to the size of long. Any CPU. */
void print(const char *fmt, ...) __printf(1, 2);
/* A TAP line; returns good. */
bool ok(bool good, const char *fmt, ...) __printf(2, 3);
/* ok when equal, else both values are told. */
bool same(uint64_t found, uint64_t wanted, const char *what);
void skip(const char *what, const char *why);
void note(const char *fmt, ...) __printf(1, 2);
_Noreturn void finish(void);
_Noreturn void guest_exit(uint8_t value);
/*
 * Is this QEMU's translator, which leaves out checks that hardware makes? The
 * programs are tried there, too.
 */
bool lax_machine(void);
/* The number that follows NAME= on the command line, or the default. */
unsigned long arg(const char *name, unsigned long otherwise);
const char *command_line(void);

int strncmp(const char *a, const char *b, size_t n);
size_t strlen(const char *s);
void *memset(void *p, int c, size_t n);
void *memcpy(void *to, const void *from, size_t n);
int memcmp(const void *a, const void *b, size_t n);

/* --- instructions --------------------------------------------------------- */

static inline void outb(uint16_t port, uint8_t v)
{
	asm volatile("outb %0, %1" : : "a"(v), "Nd"(port));
}

static inline void outw(uint16_t port, uint16_t v)
{
	asm volatile("outw %0, %1" : : "a"(v), "Nd"(port));
}

static inline void outl(uint16_t port, uint32_t v)
{
	asm volatile("outl %0, %1" : : "a"(v), "Nd"(port));
}

static inline uint8_t inb(uint16_t port)
{
	uint8_t v;

	asm volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

static inline uint16_t inw(uint16_t port)
{
	uint16_t v;

	asm volatile("inw %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

static inline uint32_t inl(uint16_t port)
{
	uint32_t v;

	asm volatile("inl %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

static inline uint64_t rdmsr(uint32_t msr)
{
	uint32_t lo, hi;

	asm volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr));
	return (uint64_t)hi << 32 | lo;
}

static inline void wrmsr(uint32_t msr, uint64_t v)
{
	asm volatile("wrmsr" : : "c"(msr), "a"((uint32_t)v), "d"((uint32_t)(v >> 32)) : "memory");
}

static inline uint64_t rdtsc(void)
{
	uint32_t lo, hi;

	asm volatile("lfence; rdtsc" : "=a"(lo), "=d"(hi) : : "memory");
	return (uint64_t)hi << 32 | lo;
}

struct cpuid {
	uint32_t a, b, c, d;
};

static inline struct cpuid cpuid(uint32_t leaf, uint32_t subleaf)
{
	struct cpuid r;

	asm volatile("cpuid"
		     : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d)
		     : "a"(leaf), "c"(subleaf));
	return r;
}

#define READ_REG(name)                                                                             \
	static inline unsigned long read_##name(void)                                              \
	{                                                                                          \
		unsigned long v;                                                                   \
                                                                                                   \
		asm volatile("mov %%" #name ", %0" : "=r"(v) : : "memory");                        \
		return v;                                                                          \
	}                                                                                          \
	static inline void write_##name(unsigned long v)                                           \
	{                                                                                          \
		asm volatile("mov %0, %%" #name : : "r"(v) : "memory");                            \
	}
READ_REG(cr0)
READ_REG(cr2)
READ_REG(cr3)
READ_REG(cr4)
READ_REG(dr0)
READ_REG(dr1)
READ_REG(dr6)
READ_REG(dr7)

static inline void invlpg(const volatile void *p)
{
	asm volatile("invlpg (%0)" : : "r"(p) : "memory");
}

static inline void cli(void)
{
	asm volatile("cli" : : : "memory");
}

static inline void sti(void)
{
	asm volatile("sti" : : : "memory");
}

/* Interrupts on and asleep in one step; off again after the interrupt. */
static inline void sti_hlt_cli(void)
{
	asm volatile("sti; hlt; cli" : : : "memory");
}

/* A moment in which interrupts may come in. */
static inline void let_interrupts_in(void)
{
	asm volatile("sti; nop; pause; cli" : : : "memory");
}

/* Does nothing, in the guest alone. */
static inline void linger(unsigned turns)
{
	asm volatile("1:\tdec %0\n\tjnz 1b" : "+r"(turns) : : "memory", "cc");
}

/*
 * QEMU's translator takes a lock of its whole machine at each PAUSE and each exception, and
 * whoever takes it again at once starves the others: hence the turns of nothing.
 */
static inline void pause(void)
{
	linger(100);
	asm volatile("pause" : : : "memory");
}

/* --- traps (trap.c) ------------------------------------------------------- */

enum trap {
	TRAP_DE = 0,
	TRAP_DB = 1,
	TRAP_NMI = 2,
	TRAP_BP = 3,
	TRAP_OF = 4,
	TRAP_BR = 5,
	TRAP_UD = 6,
	TRAP_NM = 7,
	TRAP_DF = 8,
	TRAP_TS = 10,
	TRAP_NP = 11,
	TRAP_SS = 12,
	TRAP_GP = 13,
	TRAP_PF = 14,
	TRAP_MF = 16,
	TRAP_AC = 17,
	TRAP_XM = 19,
	TRAP_NONE = 256
};

/* What the entry code pushes, lowest address first. */
struct frame {
#ifdef __x86_64__
	unsigned long r15, r14, r13, r12, r11, r10, r9, r8;
#endif
	unsigned long di, si, bp, bx, dx, cx, ax;
	unsigned long vector, error;
	unsigned long ip, cs, flags;
	unsigned long sp, ss; /* 32-bit: only from another ring */
};

/* The last trap that TRY() caught. */
struct fault {
	unsigned vector; /* TRAP_NONE: none */
	unsigned long error, ip, cr2, flags, cs, sp;
	unsigned long start; /* of the instructions tried */
};

/* One a CPU; %gs leads to it in long mode. */
struct cpu {
	struct cpu *self;
	volatile unsigned long resume; /* TRY(): where to go on after a fault */
	volatile unsigned long start;
	unsigned index;
	uint32_t apic_id;
	volatile struct fault fault;
	void (*volatile work)(void);
	uint64_t gdt[GDT_ENTRIES];
	uint32_t tss[26 + 2];
};

extern struct cpu cpus[CPUS_MAX];

static inline struct cpu *this_cpu(void)
{
#ifdef __x86_64__
	struct cpu *c;

	asm volatile("mov %%gs:0, %0" : "=r"(c));
	return c;
#else
	return &cpus[0];
#endif
}

#ifdef __x86_64__
#define TRY_WORD(n) "%%gs:" #n "*8"
#define TRY_MOV     "movq"
#else
#define TRY_WORD(n) "cpus+" #n "*4"
#define TRY_MOV     "movl"
#endif

/*
 * Executes instructions one of which may fault; afterwards fault() tells. As for
 * asm: TRY("div %0" : : "r"(0)).
 */
#define TRY(insns, ...)                                                                            \
	do {                                                                                       \
		this_cpu()->fault.vector = TRAP_NONE;                                              \
		asm volatile(TRY_MOV " $776f, " TRY_WORD(2) "\n\t" TRY_MOV " $777f, " TRY_WORD(    \
			1) "\n776:\t" insns "\n777:\t" TRY_MOV " $0, " TRY_WORD(1) __VA_ARGS__);   \
	} while (0)

static inline volatile struct fault *fault(void)
{
	return &this_cpu()->fault;
}

/* ok when TRY() met this fault, with this error code, at its first instruction. */
bool faulted(unsigned vector, unsigned long error, const char *what);

/* The same, for traps: it points behind an instruction of this many bytes. */
bool trapped(unsigned vector, unsigned bytes, const char *what);

typedef void trap_handler(struct frame *f);
/* NULL: unexpected again. Asked before TRY(). */
void trap_set(unsigned vector, trap_handler *fn);

struct gate {
	uint16_t offset0, selector;
	uint8_t ist, type; /* type: P, DPL and gate type */
	uint16_t offset1;
#ifdef __x86_64__
	uint32_t offset2, reserved;
#endif
};

extern struct gate idt[256];
void idt_load(void);
void gate_set(unsigned vector, const void *entry, uint16_t selector, uint8_t type, uint8_t ist);
/* A descriptor for cpu->gdt; access: byte 5, flags: G, D/B, L in bits 3, 2, 1. */
uint64_t descriptor(uint32_t base, uint32_t limit, uint8_t access, uint8_t flags);
void cpu_setup(unsigned index);

/* --- ring 3 (user.S) ------------------------------------------------------ */

#define VECTOR_USER 0x81 /* INT 0x81 in ring 3 says: done */

struct user_visit {
	unsigned long ip, cs, flags, sp, ss;
	unsigned long a, b; /* RAX, RCX */
};

/*
 * Runs code in ring 3 until its first trap, which fault() then tells; on one CPU
 * at a time. The pages must be the user's.
 */
void user_enter(const struct user_visit *v);
/* user_enter() at @code with usual segments; faulted() may follow. */
void user_try(const void *code, unsigned long a, unsigned long b);

/* --- time (time.c) -------------------------------------------------------- */

#define PM_TIMER_PORT 0x608
#define PM_TIMER_HZ   3579545

uint32_t pm_timer(void);
void delay_us(uint32_t us);

/* --- ACPI (acpi.c) ---------------------------------------------------------- */

struct acpi_table {
	char signature[4];
	uint32_t bytes;
	uint8_t revision, checksum;
	char oem[6], oem_table[8];
	uint32_t oem_revision, creator, creator_revision;
} __attribute__((packed));

struct acpi_rsdp {
	char signature[8];
	uint8_t checksum;
	char oem[6];
	uint8_t revision;
	uint32_t rsdt;
	uint32_t bytes;
	uint64_t xsdt;
	uint8_t checksum2, reserved[3];
} __attribute__((packed));

/* NULL: there is none. */
const struct acpi_rsdp *acpi_rsdp(void);
const struct acpi_table *acpi_find(const char *signature);
bool acpi_adds_up(const struct acpi_table *t);

#ifdef __x86_64__
/* --- paging (page.c) ------------------------------------------------------ */

#define PAGE_BYTES 4096ul

#define PTE_P     0x1ull
#define PTE_W     0x2ull
#define PTE_U     0x4ull
#define PTE_A     0x20ull
#define PTE_D     0x40ull
#define PTE_LARGE 0x80ull
#define PTE_G     0x100ull
#define PTE_NX    (1ull << 63)
#define PTE_ADDR  0x000ffffffffff000ull

/* A zeroed page, identity mapped; for ever. */
void *page_alloc(void);
/*
 * The entry for an address: of the last level (1), or of a large page's (2, 3), in
 * the tables that CR3 points to. Tables on the way are made, large pages split, all of
 * them accessible to users. Nothing is flushed.
 */
volatile uint64_t *page_entry(uint64_t va, unsigned level);
/* One 4 KiB page, flushed on this CPU. */
void page_map(uint64_t va, uint64_t pte);

/* --- local APIC (apic.c) -------------------------------------------------- */

enum apic_reg {
	APIC_ID = 0x20,
	APIC_VERSION = 0x30,
	APIC_TPR = 0x80,
	APIC_PPR = 0xa0,
	APIC_EOI = 0xb0,
	APIC_LDR = 0xd0,
	APIC_DFR = 0xe0,
	APIC_SVR = 0xf0,
	APIC_ISR = 0x100,
	APIC_TMR = 0x180,
	APIC_IRR = 0x200,
	APIC_ESR = 0x280,
	APIC_ICR = 0x300,
	APIC_ICR2 = 0x310,
	APIC_LVT_TIMER = 0x320,
	APIC_LVT_LINT0 = 0x350,
	APIC_LVT_LINT1 = 0x360,
	APIC_LVT_ERROR = 0x370,
	APIC_TIMER_INIT = 0x380,
	APIC_TIMER_NOW = 0x390,
	APIC_TIMER_DIV = 0x3e0,
	APIC_SELF_IPI = 0x3f0
};

#define MSR_APIC_BASE 0x1b
#define APIC_MASKED   0x10000
#define APIC_PERIODIC 0x20000
#define APIC_DEADLINE 0x40000

#define ICR_FIXED  0x000
#define ICR_NMI    0x400
#define ICR_INIT   0x4500
#define ICR_SIPI   0x4600
#define ICR_SELF   0x40000
#define ICR_ALL    0x80000
#define ICR_OTHERS 0xc0000

/* In xAPIC or x2APIC mode, whichever is on. */
uint32_t apic_read(enum apic_reg r);
void apic_write(enum apic_reg r, uint32_t v);
void apic_icr(uint32_t apic_id, uint32_t command);
uint32_t apic_id(void);
void apic_enable(void);
bool apic_x2(void);
bool apic_enable_x2(void); /* false: there is none */
static inline void apic_eoi(void)
{
	apic_write(APIC_EOI, 0);
}

/* --- processors (smp.c) --------------------------------------------------- */

#define VECTOR_WAKE     0xf0
#define VECTOR_SPURIOUS 0xff

unsigned cpu_count(void);
/* All of them; returns how many there are. */
unsigned smp_start(void);
/* fn on every CPU at once, this one included; returns when all are through. */
void smp_run(void (*fn)(void));
/* Until as many CPUs as told have come; the same ones each time. */
void barrier(unsigned count);

static inline unsigned cpu_index(void)
{
	return this_cpu()->index;
}
#endif

#endif
