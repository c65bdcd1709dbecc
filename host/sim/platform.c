/* platform.c - see platform.h. */
#include "host/sim/platform.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#define LOW_RAM_END GIB(3)

static void record_msi(struct vm *vm, uint64_t addr, uint32_t data)
{
	struct platform *p = vm->engine_data;

	if (p->nr_msis < PLATFORM_MSIS) {
		p->msi[p->nr_msis].addr = addr;
		p->msi[p->nr_msis].data = data;
	}
	p->nr_msis++;
}

static void record_extint(struct vm *vm, bool level)
{
	struct platform *p = vm->engine_data;

	p->nr_extints += level && !p->extint;
	p->extint = level;
}

static void record_output(void *arg, const uint8_t *buf, size_t bytes)
{
	struct platform *p = arg;

	for (size_t i = 0; i < bytes; i++, p->output_bytes++)
		if (p->output_bytes < sizeof(p->output) - 1)
			p->output[p->output_bytes] = (char)buf[i];
}

static void record_ready(void *arg)
{
	struct platform *p = arg;

	p->nr_ready++;
}

static void no_code(struct vm *vm, uint64_t gpa, uint64_t bytes)
{
	/* There is nobody to execute any. */
}

static const struct engine_ops no_engine = {
	.name = "none",
	.msi = record_msi,
	.extint = record_extint,
	.code_changed = no_code,
};

static void must(int err, const char *what)
{
	if (!err)
		return;
	fprintf(stderr, "platform: %s: error %d\n", what, err);
	abort();
}

/* Of the size that devices tell guests, and as much of it there as DMA touches. */
static void add_ram(struct platform *p, uint64_t bytes)
{
	struct gmem *m = &p->vm->gmem;
	uint64_t low = MIN(bytes, LOW_RAM_END);

	p->ram_bytes = bytes;
	p->ram = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	must(p->ram == MAP_FAILED, "no memory");
	must(gmem_add(m, 0, low, p->ram, 0), "RAM");
	if (bytes > low)
		must(gmem_add(m, GIB(4), bytes - low, p->ram + low, 0), "RAM");
}

static void create_device(struct vm *vm, const struct device_type *t)
{
	must(dev_create(vm, t, HOST_NODE_ANY, &vm->dev[vm->nr_devs]), t->name);
	vm->nr_devs++;
}

/* Two test functions, so that they can be in each other's way. */
static void create_devices(struct vm *vm)
{
	for (const struct device_type *const *t = device_types; *t; t++)
		create_device(vm, *t);
	create_device(vm, &pci_test_type);
	create_device(vm, &pci_test_type);
	for (unsigned i = 0; i < vm->nr_devs; i++)
		dev_reset(vm->dev[i]);
}

struct platform *platform_create(const struct platform_config *cfg)
{
	static const struct platform_config defaults;
	struct platform *p = calloc(1, sizeof(*p));
	struct vm *vm = aligned_alloc(_Alignof(struct vm), sizeof(*vm));

	must(!p || !vm, "no memory");
	memset(vm, 0, sizeof(*vm));
	if (!cfg)
		cfg = &defaults;
	p->host = cfg->host ? *cfg->host : sim_create(&cfg->sim);
	p->simulated = !cfg->host;
	p->vm = vm;
	vm->host = p->host;
	vm->engine = &no_engine;
	vm->engine_data = p;
	vm->cfg.console = record_output;
	vm->cfg.console_ready = record_ready;
	vm->cfg.arg = p;
	vm->topo.nr_vcpus = cfg->vcpus ? cfg->vcpus : 1;
	add_ram(p, cfg->ram_bytes ? cfg->ram_bytes : MIB(256));
	must(clock_init(&vm->clock, &vm->host, CLOCK_HOST), "clock");
	clock_start(&vm->clock);
	create_devices(vm);
	return p;
}

unsigned platform_destroy(struct platform *p)
{
	struct vm *vm = p->vm;
	unsigned left = 0;

	for (unsigned i = vm->nr_devs; i-- > 0;)
		dev_destroy(vm->dev[i]);
	if (p->simulated)
		left = sim_destroy(&p->host);
	munmap(p->ram, p->ram_bytes);
	free(vm);
	free(p);
	return left;
}

struct dev *platform_dev(struct platform *p, const char *name)
{
	for (unsigned i = 0; i < p->vm->nr_devs; i++)
		if (!strcmp(p->vm->dev[i]->type->name, name))
			return p->vm->dev[i];
	must(1, name);
	return NULL;
}

uint64_t platform_in(struct platform *p, uint64_t port, unsigned size)
{
	struct io_access io = { .addr = port, .size = (uint8_t)size };

	bus_access(&p->vm->pio, &io);
	return io.data;
}

void platform_out(struct platform *p, uint64_t port, unsigned size, uint64_t val)
{
	struct io_access io = { port, val, (uint8_t)size, true };

	bus_access(&p->vm->pio, &io);
}

uint32_t platform_load(struct platform *p, uint64_t gpa)
{
	struct io_access io = { .addr = gpa, .size = 4 };

	bus_access(&p->vm->mmio, &io);
	return (uint32_t)io.data;
}

void platform_store(struct platform *p, uint64_t gpa, uint32_t val)
{
	struct io_access io = { gpa, val, 4, true };

	bus_access(&p->vm->mmio, &io);
}

enum vm_request platform_request(struct platform *p, int *code)
{
	uint64_t r = atomic_exchange(&p->vm->request, 0);

	if (code)
		*code = (int)(r >> 32);
	return (enum vm_request)(uint32_t)r;
}

int platform_snapshot(struct platform *p, struct snap *s)
{
	int err = 0;

	for (unsigned i = 0; i < p->vm->nr_devs && !err; i++)
		err = dev_snapshot(p->vm->dev[i], s);
	return err;
}
