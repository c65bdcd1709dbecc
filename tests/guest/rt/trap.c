/* trap.c - descriptor tables, and where exceptions and interrupts go. */
#include "rt.h"

struct cpu cpus[CPUS_MAX];
struct gate idt[256];

extern const uint8_t trap_stubs[];
extern uint8_t cpu_stacks[];
extern uint32_t boot_magic;

_Noreturn void user_leave(void);

static trap_handler *volatile handlers[256];

void trap_set(unsigned vector, trap_handler *fn)
{
	handlers[vector] = fn;
}

static void catch (struct frame *f, struct cpu *c)
{
	c->fault.vector = (unsigned)f->vector;
	c->fault.error = f->error;
	c->fault.ip = f->ip;
	c->fault.flags = f->flags;
	c->fault.cs = f->cs;
	c->fault.sp = f->sp;
	c->fault.cr2 = read_cr2();
	c->fault.start = c->start;
	if (f->cs & 3)
		user_leave();
	f->ip = c->resume;
	f->flags &= ~0x100ul; /* whoever single-stepped is done */
	c->resume = 0;
}

static _Noreturn void unexpected(const struct frame *f)
{
	ok(false, "unexpected trap %lu, error 0x%lx, at 0x%lx:0x%lx, cr2 0x%lx, flags 0x%lx",
	   f->vector, f->error, f->cs, f->ip, read_cr2(), f->flags);
	finish();
}

/* Called by the entry code. */
void trap(struct frame *f);
void trap(struct frame *f)
{
	struct cpu *c = this_cpu();

	if (handlers[f->vector])
		handlers[f->vector](f);
	else if ((c->resume && f->vector < 32) || (f->cs & 3))
		catch (f, c);
	else
		unexpected(f);
}

static bool caught(unsigned vector, unsigned long error, long after, const char *what)
{
	const volatile struct fault *f = fault();
	long found = (long)(f->ip - f->start);

	if (f->vector == vector && (vector == TRAP_NONE || (f->error == error && found == after)))
		return ok(true, "%s", what);
	return ok(false, "%s: found trap %u, error 0x%lx at +%ld, wanted %u, error 0x%lx at +%ld",
		  what, f->vector, f->error, found, vector, error, after);
}

bool faulted(unsigned vector, unsigned long error, const char *what)
{
	return caught(vector, error, 0, what);
}

bool trapped(unsigned vector, unsigned bytes, const char *what)
{
	return caught(vector, 0, (long)bytes, what);
}

void gate_set(unsigned vector, const void *entry, uint16_t selector, uint8_t type, uint8_t ist)
{
	unsigned long a = (unsigned long)entry;

	idt[vector] = (struct gate){
		.offset0 = (uint16_t)a,
		.selector = selector,
		.ist = ist,
		.type = type,
		.offset1 = (uint16_t)(a >> 16),
#ifdef __x86_64__
		.offset2 = (uint32_t)(a >> 32),
#endif
	};
}

void idt_load(void)
{
	struct {
		uint16_t limit;
		unsigned long base;
	} __attribute__((packed)) desc = { sizeof(idt) - 1, (unsigned long)idt };

	asm volatile("lidt %0" : : "m"(desc));
}

uint64_t descriptor(uint32_t base, uint32_t limit, uint8_t access, uint8_t flags)
{
	return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)access << 40 |
	       (uint64_t)(limit >> 16 & 15) << 48 | (uint64_t)(flags & 15) << 52 |
	       (uint64_t)(base >> 24) << 56;
}

static void tss_setup(struct cpu *c)
{
	unsigned long stack = (unsigned long)cpu_stacks + STACK_BYTES * c->index + STACK_BYTES / 2;

#ifdef __x86_64__
	memcpy(&c->tss[1], &stack, sizeof(stack)); /* RSP0 */
	c->tss[25] = 104u << 16;                   /* no I/O bitmap */
#else
	c->tss[1] = stack;
	c->tss[2] = SEL_DATA;
	c->tss[25] = 104u << 16;
#endif
	c->gdt[SEL_TSS / 8] = descriptor((uint32_t)(uintptr_t)c->tss, 103, 0x89, 0);
	asm volatile("ltr %0" : : "r"((uint16_t)SEL_TSS));
}

/* The calling CPU's own descriptor tables. */
void cpu_setup(unsigned index)
{
	struct cpu *c = &cpus[index];
	struct {
		uint16_t limit;
		unsigned long base;
	} __attribute__((packed)) desc = { sizeof(c->gdt) - 1, (unsigned long)c->gdt };

	c->self = c;
	c->index = index;
	c->gdt[SEL_CODE32 / 8] = descriptor(0, 0xfffff, 0x9b, 0xc);
	c->gdt[SEL_CODE64 / 8] = descriptor(0, 0xfffff, 0x9b, 0xa);
	c->gdt[SEL_DATA / 8] = descriptor(0, 0xfffff, 0x93, 0xc);
	c->gdt[SEL_USER_CODE32 / 8] = descriptor(0, 0xfffff, 0xfb, 0xc);
	c->gdt[SEL_USER_DATA / 8] = descriptor(0, 0xfffff, 0xf3, 0xc);
	c->gdt[SEL_USER_CODE64 / 8] = descriptor(0, 0xfffff, 0xfb, 0xa);
	c->gdt[SEL_USER_DATA2 / 8] = descriptor(0, 0xfffff, 0xf3, 0xc);
	asm volatile("lgdt %0" : : "m"(desc));
	asm volatile("lldt %w0" : : "r"(0));
	idt_load();
	tss_setup(c);
#ifdef __x86_64__
	asm volatile("mov %0, %%fs; mov %0, %%gs" : : "r"(0));
	wrmsr(0xc0000101, (uint64_t)c); /* GS base */
#endif
}

void user_try(const void *code, unsigned long a, unsigned long b)
{
#ifdef __x86_64__
	struct user_visit v = { .cs = SEL_USER_CODE64 | 3 };
#else
	struct user_visit v = { .cs = SEL_USER_CODE32 | 3 };
#endif

	v.ip = (unsigned long)code;
	v.flags = 2;
	v.ss = SEL_USER_DATA | 3;
	v.a = a;
	v.b = b;
	this_cpu()->start = v.ip;
	this_cpu()->fault.vector = TRAP_NONE;
	user_enter(&v);
}

/* Called by the boot code on the first CPU. */
void rt_main(void);
void rt_main(void)
{
	for (unsigned v = 0; v < 256; v++)
		gate_set(v, trap_stubs + v * TRAP_STUB_BYTES, SEL_CODE, 0x8e, 0);
	idt[VECTOR_USER].type |= 0x60;
	cpu_setup(0);
	/* No interrupt from the PICs before somebody asks for one. */
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	if (boot_magic != 0x2badb002)
		ok(false, "entered by a multiboot loader: eax 0x%x", boot_magic);
	guest_main();
	finish();
}
