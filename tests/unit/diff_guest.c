/*
 * diff_guest.c - runs single instructions in a machine of one vCPU.
 *
 * The machine is the barest that can do it: 2 MiB of RAM, page tables that map
 * code and data where the child has them, and an IDT whose every handler is HLT.
 * A case starts at CPL 3 and ends in one of these; what the processor pushed and
 * which HLT it met tell the outcome.
 */
#include "diff.h"

#include "core/vm.h"
#include "cpu/xstate.h"

#include <stdio.h>
#include <stdlib.h>

#define RAM_BYTES MIB(2)

/* Guest-physical layout. */
#define PML4     0x1000u
#define PDPT     0x2000u
#define PD       0x3000u
#define PT_DATA  0x4000u
#define PT_CODE  0x5000u
#define PT_SYS   0x6000u
#define RAM_DATA 0x10000u
#define RAM_CODE 0x20000u
#define RAM_SYS  0x30000u

/* Supervisor pages, from SYS on: IDT, GDT and TSS, handlers, stack. */
#define SYS      0x3ab54000ull
#define IDT      (SYS)
#define GDT      (SYS + 0x1000)
#define TSS      (SYS + 0x1800)
#define HANDLERS (SYS + 0x2000)
#define STACK    (SYS + 0x4000)
#define SYS_SIZE 0x4000u

#define HANDLER_BYTES 16
#define VECTORS       32

#define PTE_P  BIT(0)
#define PTE_W  BIT(1)
#define PTE_U  BIT(2)
#define PTE_A  BIT(5)
#define PTE_D  BIT(6)
#define PTE_NX BIT64(63)

#define KERNEL_CS 0x10

static struct {
	struct vm *vm;
	struct vcpu *vcpu;
	struct vcpu *vcpus[1];
	struct host_mem ram;
	uint8_t data[DIFF_DATA_SIZE];
} guest;

static uint8_t *ram(uint32_t gpa)
{
	return (uint8_t *)guest.ram.base + gpa;
}

/* --- the machine ---------------------------------------------------------------------- */

static void map_page(uint32_t table, uint64_t gva, uint32_t gpa, uint64_t rights)
{
	unsigned in_pt = gva >> 12 & 511, in_pd = gva >> 21 & 511;

	store_u64(ram(PML4), PDPT | PTE_P | PTE_W | PTE_U | PTE_A);
	store_u64(ram(PDPT), PD | PTE_P | PTE_W | PTE_U | PTE_A);
	store_u64(ram(PD) + in_pd * 8, table | PTE_P | PTE_W | PTE_U | PTE_A);
	store_u64(ram(table) + in_pt * 8, gpa | PTE_P | PTE_A | PTE_D | rights);
}

static void map_memory(void)
{
	for (uint32_t at = 0; at < DIFF_DATA_SIZE; at += PAGE_SIZE)
		map_page(PT_DATA, DIFF_DATA + at, RAM_DATA + at,
			 PTE_U | PTE_NX | (at < DIFF_WRITE_SIZE ? PTE_W : 0));
	for (uint32_t at = 0; at < DIFF_CODE_SIZE; at += PAGE_SIZE)
		map_page(PT_CODE, DIFF_CODE + at, RAM_CODE + at, PTE_U);
	for (uint32_t at = 0; at < SYS_SIZE; at += PAGE_SIZE)
		map_page(PT_SYS, SYS + at, RAM_SYS + at, PTE_W);
}

static uint8_t *sys(uint64_t gva)
{
	return ram((uint32_t)(RAM_SYS + (gva - SYS)));
}

static void make_tables(void)
{
	store_u64(sys(GDT) + KERNEL_CS, 0x00af9b000000ffffull);
	store_u64(sys(TSS) + 4, STACK); /* RSP0 */
	for (unsigned v = 0; v < VECTORS; v++) {
		uint64_t at = HANDLERS + v * HANDLER_BYTES;
		uint8_t *gate = sys(IDT) + v * 16;

		store_u16(gate, (uint16_t)at);
		store_u16(gate + 2, KERNEL_CS);
		store_u16(gate + 4, 0xee00); /* present, DPL 3, interrupt gate */
		store_u16(gate + 6, (uint16_t)(at >> 16));
		*sys(at) = 0xf4;
	}
}

static bool make_vm(const struct host *host, const struct engine_ops *engine)
{
	struct vm *vm = host->ops->alloc(host->ctx, sizeof(*vm), HOST_NODE_ANY);
	struct vcpu *c = host->ops->alloc(host->ctx, vcpu_bytes(engine), HOST_NODE_ANY);

	if (!vm || !c)
		return false;
	vm->host = *host;
	vm->engine = engine;
	vm->vcpu = guest.vcpus;
	vm->nr_vcpus = 1;
	cpuid_host_features(&vm->cpuid.has);
	vm->cpuid.phys_bits = 40;
	guest.vm = vm;
	guest.vcpu = guest.vcpus[0] = c;
	c->vm = vm;
	c->host_node = HOST_NODE_ANY;
	if (host->ops->mem_map(host->ctx, HOST_RAM(RAM_BYTES, HOST_NODE_ANY), &guest.ram))
		return false;
	gmem_add(&vm->gmem, 0, RAM_BYTES, guest.ram.base, 0);
	clock_init(&vm->clock, &vm->host, CLOCK_HOST);
	clock_start(&vm->clock);
	return true;
}

bool guest_start(const struct host *host, const struct engine_ops *engine)
{
	if (!make_vm(host, engine) || guest.vm->engine->create(guest.vm) ||
	    guest.vm->engine->vcpu_create(guest.vcpu))
		return false;
	guest.vm->engine->reset(guest.vcpu);
	map_memory();
	make_tables();
	return true;
}

void guest_stop(void)
{
	const struct host h = guest.vm->host;

	guest.vm->engine->vcpu_destroy(guest.vcpu);
	guest.vm->engine->destroy(guest.vm);
	h.ops->mem_unmap(h.ctx, &guest.ram);
	h.ops->free(h.ctx, guest.vcpu, vcpu_bytes(guest.vm->engine));
	h.ops->free(h.ctx, guest.vm, sizeof(*guest.vm));
}

bool guest_hides_pointers(void)
{
	return guest.vm->engine == &engine_soft;
}

/* --- a case ------------------------------------------------------------------------------ */

void guest_load(const struct diff_batch *b)
{
	memcpy(ram(RAM_CODE), b->code, DIFF_CODE_SIZE);
	guest.vm->engine->code_changed(guest.vm, RAM_CODE, DIFF_CODE_SIZE);
	memcpy(guest.data, b->data, DIFF_DATA_SIZE);
	memcpy(ram(RAM_DATA), b->data, DIFF_DATA_SIZE);
}

static void start_state(struct cpu_state *s, const struct diff_case *t)
{
	const struct segment flat = { DIFF_SS, 0xc0f3, UINT32_MAX, 0 };
	const struct diff_state *in = &t->in;

	guest.vm->engine->get_state(guest.vcpu, s);
	memcpy(s->gpr, in->gpr, sizeof(s->gpr));
	s->rip = in->rip;
	s->rflags = in->rflags;
	for (unsigned i = 0; i < SEG_COUNT; i++)
		s->seg[i] = flat;
	s->seg[SEG_CS] = (struct segment){ DIFF_CS64, 0xa0fb, UINT32_MAX, 0 };
	if (t->compat)
		s->seg[SEG_CS] = (struct segment){ DIFF_CS32, 0xc0fb, UINT32_MAX, 0 };
	s->tr = (struct segment){ 0x40, 0x8b, 0x67, TSS };
	s->gdtr = (struct desc_table){ GDT, 0x3f };
	s->idtr = (struct desc_table){ IDT, VECTORS * 16 - 1 };
	s->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
	s->cr3 = PML4;
	s->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
	s->efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
	s->mp_state = MP_RUNNING;
	s->xcr0 = diff_xcr0();
	if (s->xcr0 & XCR0_AVX)
		s->cr4 |= CR4_OSXSAVE;
	memcpy(s->xsave, in->xsave, sizeof(s->xsave));
}

static bool has_error_code(unsigned vector)
{
	return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17;
}

/* At the handler's HLT: the frame that delivery pushed. */
static void read_frame(struct diff_outcome *o, const struct cpu_state *s)
{
	const uint8_t *frame = sys(s->gpr[RSP]);

	o->vector = (unsigned)((s->rip - 1 - HANDLERS) / HANDLER_BYTES);
	o->error = 0;
	if (has_error_code(o->vector)) {
		o->error = load_u32(frame);
		frame += 8;
	}
	memcpy(o->out.gpr, s->gpr, sizeof(o->out.gpr));
	o->out.rip = load_u64(frame);
	o->out.rflags = load_u64(frame + 16);
	o->out.gpr[RSP] = load_u64(frame + 24);
	o->cr2 = s->cr2;
	memcpy(o->out.xsave, s->xsave, sizeof(s->xsave));
}

void guest_run(const struct diff_case *t, struct diff_outcome *out)
{
	const struct engine_ops *e = guest.vm->engine;
	static struct cpu_state s;
	struct vcpu_exit x;

	memcpy(ram(RAM_DATA), guest.data, DIFF_WRITE_SIZE);
	memcpy(ram(RAM_DATA) + t->patch_at, t->patch, t->patch_bytes);
	start_state(&s, t);
	e->set_state(guest.vcpu, &s);
	do {
		if (e->run(guest.vcpu, &x))
			abort();
	} while (x.reason == EXIT_KICK);
	e->get_state(guest.vcpu, &s);
	if (x.reason == EXIT_HALT && s.gpr[RSP] < STACK && s.gpr[RSP] >= STACK - 64)
		read_frame(out, &s);
	else
		*out = (struct diff_outcome){ .vector = 0x100u + x.reason };
	memcpy(out->data, ram(RAM_DATA), DIFF_WRITE_SIZE);
}
