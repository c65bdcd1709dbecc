/* flat.c - a small machine around the interpreter; see flat.h. */
#include "flat.h"

#include "cpu/codemap.h"

#include <stdio.h>
#include <stdlib.h>

#define PML4 0x1000u
#define PDPT 0x2000u
#define PD   0x3000u
#define GDT  0x5000u

static void die(const char *what)
{
	fprintf(stderr, "flat: %s\n", what);
	abort();
}

/* Both hold an XSAVE area, which calloc() would not align. */
static void *zalloc(size_t bytes)
{
	size_t whole = ALIGN_UP(bytes, 64);
	void *p = aligned_alloc(64, whole);

	if (!p)
		die("no memory");
	return memset(p, 0, whole);
}

static void create_vcpu(struct vm *vm, unsigned id)
{
	const struct host *h = &vm->host;
	struct vcpu *v = h->ops->alloc(h->ctx, vcpu_bytes(vm->engine), HOST_NODE_ANY);

	if (!v)
		die("no vCPU");
	v->vm = vm;
	v->id = id;
	v->apic_id = vm->topo.vcpu[id].apic_id;
	v->host_node = HOST_NODE_ANY;
	vm->vcpu[id] = v;
}

static void create_memory(struct flat *f)
{
	struct vm *vm = f->vm;

	if (vm->host.ops->mem_map(vm->host.ctx, HOST_RAM(FLAT_RAM, 0), &vm->region[0]))
		die("no memory");
	vm->nr_regions = 1;
	f->ram = vm->region[0].base;
	gmem_add(&vm->gmem, 0, FLAT_RAM, f->ram, 0);
}

struct flat *flat_create(const struct host *h, unsigned vcpus, enum clock_source clock)
{
	return flat_create_on(&engine_interp, h, vcpus, clock);
}

struct flat *flat_create_on(const struct engine_ops *engine, const struct host *h, unsigned vcpus,
			    enum clock_source clock)
{
	struct vmm_config cfg = { .exact_flags = true }; /* tests compare them */

	return flat_create_as(engine, h, vcpus, clock, &cfg);
}

struct flat *flat_create_as(const struct engine_ops *engine, const struct host *h, unsigned vcpus,
			    enum clock_source clock, const struct vmm_config *cfg)
{
	struct topo_request treq = { .vcpus = vcpus,
				     .nodes = 1,
				     .node_memory_bytes = { FLAT_RAM } };
	struct flat *f = zalloc(sizeof(*f));
	struct vm *vm = zalloc(sizeof(*vm));
	struct cpuid_request creq;
	char why[200] = "";
	unsigned i;

	f->vm = vm;
	vm->host = *h;
	vm->cfg = *cfg;
	vm->cfg.name = "flat";
	vm->engine = engine;
	if (clock_init(&vm->clock, &vm->host, clock) ||
	    topo_build(&vm->topo, &treq, why, sizeof(why)))
		die(why);
	clock_start(&vm->clock);
	create_memory(f);
	creq = (struct cpuid_request){ .topo = &vm->topo,
				       .tsc_khz = vm->clock.khz,
				       .gpa_end = FLAT_RAM };
	if (cpuid_build(&vm->cpuid, &creq, why, sizeof(why)))
		die(why);
	vm->nr_vcpus = vcpus;
	vm->vcpu = calloc(vcpus, sizeof(*vm->vcpu));
	for (i = 0; i < vcpus; i++)
		create_vcpu(vm, i);
	if (clock == CLOCK_ICOUNT)
		vm->clock.attention = &vm->vcpu[0]->attention;
	if (vm->engine->create(vm))
		die("no engine");
	for (i = 0; i < vcpus; i++) {
		if (vm->engine->vcpu_create(vm->vcpu[i]))
			die("no vCPU state");
		vm->engine->reset(vm->vcpu[i]);
	}
	f->vcpu = vm->vcpu[0];
	f->cpu = cpu_of(f->vcpu);
	flat_reset(f, MODE_64);
	return f;
}

void flat_destroy(struct flat *f)
{
	struct vm *vm = f->vm;
	const struct host h = vm->host;
	unsigned i;

	for (i = 0; i < vm->nr_vcpus; i++) {
		vm->engine->vcpu_destroy(vm->vcpu[i]);
		h.ops->free(h.ctx, vm->vcpu[i], vcpu_bytes(vm->engine));
	}
	vm->engine->destroy(vm);
	h.ops->mem_unmap(h.ctx, &vm->region[0]);
	free(vm->vcpu);
	free(vm);
	free(f);
}

/* Identity by 2 MiB pages, everybody may do everything. */
static void build_page_tables(uint8_t *ram)
{
	unsigned i;

	store_u64(ram + PML4, PDPT | 7);
	store_u64(ram + PDPT, PD | 7);
	for (i = 0; i < 512; i++)
		store_u64(ram + PD + i * 8, (uint64_t)i << 21 | 0x87);
}

/* Each vector has a stub of its own: HLT, which tells who it was by where it is. */
static void build_idt(uint8_t *ram, bool is64)
{
	unsigned bytes = is64 ? 16 : 8, i;

	for (i = 0; i < 256; i++) {
		uint32_t to = FLAT_TRAP + 16 * i;
		uint8_t *gate = ram + FLAT_IDT + i * bytes;

		store_u64(gate,
			  (uint64_t)(to >> 16) << 48 | 0x8e00ull << 32 | 8u << 16 | (to & 0xffff));
		if (is64)
			store_u64(gate + 8, 0);
		ram[to] = 0xf4;
	}
}

static struct segment flat_segment(uint16_t selector, uint32_t type, enum cpu_mode mode)
{
	uint32_t width = mode == MODE_64 ? SEG_L : mode == MODE_32 ? SEG_DB : 0;

	if (!(type & 8) && mode == MODE_64)
		width = SEG_DB;
	return (struct segment){
		.selector = selector,
		.attr = SEG_P | SEG_S | type | width | SEG_G,
		.limit = UINT32_MAX,
	};
}

void flat_reset(struct flat *f, enum cpu_mode mode)
{
	struct cpu_state *s = &f->before;
	unsigned i;

	build_page_tables(f->ram);
	build_idt(f->ram, mode == MODE_64);
	store_u64(f->ram + GDT, 0);
	store_u64(f->ram + GDT + 8, mode == MODE_64   ? 0x00af9b000000ffffull
				    : mode == MODE_32 ? 0x00cf9b000000ffffull
						      : 0x008f9b000000ffffull);
	store_u64(f->ram + GDT + 16, 0x00cf93000000ffffull);

	cpu_state_reset(s, true);
	s->cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_WP | CR0_MP;
	s->cr4 = CR4_OSFXSR | CR4_OSXMMEXCPT;
	if (mode == MODE_64) {
		s->cr0 |= CR0_PG;
		s->cr4 |= CR4_PAE;
		s->cr3 = PML4;
		s->efer = EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE;
	}
	s->seg[SEG_CS] = flat_segment(8, 0xb, mode);
	for (i = 0; i < SEG_COUNT; i++)
		if (i != SEG_CS)
			s->seg[i] = flat_segment(16, 3, mode);
	s->gdtr = (struct desc_table){ .base = GDT, .limit = 23 };
	s->idtr = (struct desc_table){ .base = FLAT_IDT, .limit = 0xfff };
	s->rip = FLAT_CODE;
	s->gpr[RDX] = 0;
	s->gpr[RSP] = FLAT_STACK;
	s->rflags = RFLAGS_ONE;
	f->vm->engine->set_state(f->vcpu, s);
}

void flat_load(struct flat *f, const uint8_t *code, const uint8_t *end)
{
	size_t bytes = (size_t)(end - code);

	gmem_write(&f->vm->gmem, FLAT_CODE, code, bytes);
	f->vm->engine->code_changed(f->vm, FLAT_CODE, bytes);
}

void flat_run(struct flat *f)
{
	uint64_t rip;

	do {
		f->exit = (struct vcpu_exit){ .reason = EXIT_KICK };
		if (f->vm->engine->run(f->vcpu, &f->exit))
			die("run failed");
	} while (f->exit.reason == EXIT_KICK);
	rip = f->cpu->s.rip;
	f->vector = rip >= FLAT_TRAP && rip <= FLAT_TRAP + 4096 ? (int)(rip - FLAT_TRAP) / 16 : -1;
}

void flat_run_code(struct flat *f, const uint8_t *code, const uint8_t *end)
{
	flat_reset(f, MODE_64);
	flat_load(f, code, end);
	flat_run(f);
}
