/*
 * test_device_smp.c - all devices under many processors at once, on the real host.
 *
 * What the simulated host cannot show: races (under ThreadSanitizer) and locks
 * taken in orders that do not agree, which end in a timeout.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "host/linux/host_linux.h"
#include "host/sim/platform.h"

#define THREADS  6
#define ACCESSES 100000

struct hammer {
	struct platform *p;
	uint64_t random;
	unsigned id;
};

static uint64_t draw(struct hammer *h)
{
	h->random ^= h->random << 13;
	h->random ^= h->random >> 7;
	h->random ^= h->random << 17;
	return h->random >> 16;
}

static void access_bus(struct hammer *h, struct bus *b)
{
	const struct bus_region *r = &b->region[draw(h) % b->nr_regions];
	struct io_access io = { .size = (uint8_t)BIT(draw(h) % 3), .is_write = draw(h) & 1 };

	io.addr = r->base + draw(h) % r->bytes;
	io.data = draw(h);
	bus_access(b, &io);
}

static void hammer(void *arg)
{
	struct hammer *h = arg;
	struct vm *vm = h->p->vm;
	uint8_t input[20] = { 0 };

	for (unsigned i = 0; i < ACCESSES; i++) {
		switch (draw(h) % 8) {
		case 0:
			irq_set(vm, (unsigned)draw(h) % GSI_COUNT, 20 + h->id, draw(h) & 1);
			break;
		case 1:
			irq_eoi(vm, (uint8_t)draw(h));
			break;
		case 2:
			irq_ack_extint(vm);
			break;
		case 3:
			dev_input(platform_dev(h->p, "serial"), input, draw(h) % sizeof(input));
			break;
		case 4:
			access_bus(h, &vm->mmio);
			break;
		default:
			access_bus(h, &vm->pio);
			break;
		}
	}
}

static void test_hammer(void **state)
{
	struct host host;
	struct platform_config cfg = { .host = &host };
	struct hammer h[THREADS];
	struct host_thread *t[THREADS];
	struct platform *p;

	assert_int_equal(host_linux_create(&host), 0);
	p = platform_create(&cfg);
	for (unsigned i = 0; i < THREADS; i++) {
		struct host_thread_attr a = { .name = "hammer", .fn = hammer, .arg = &h[i] };

		h[i] = (struct hammer){ p, 0x9e3779b97f4a7c15 * (i + 1), i };
		assert_int_equal(host.ops->thread_create(host.ctx, &a, &t[i]), 0);
	}
	for (unsigned i = 0; i < THREADS; i++)
		host.ops->thread_join(host.ctx, t[i]);
	for (unsigned i = 0; i < p->vm->nr_devs; i++)
		dev_reset(p->vm->dev[i]);
	assert_int_equal(platform_in(p, 0x3fd, 1), 0x60); /* still alive, and of sound mind */
	platform_destroy(p);
	host_linux_destroy(&host);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_hammer),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
