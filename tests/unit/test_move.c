/*
 * test_move.c - moves on the Linux host: threads and memory between all PUs and nodes
 * that this process may use, while they are busy; and what a guest misses of it.
 *
 * On a host of one node the memory stays where it is; the NUMA lab runs this as well.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/vm.h"
#include "host/linux/host_linux.h"

#include <errno.h>
#include <numa.h>
#include <numaif.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static struct host host;
static struct machine_model machine;

static int setup(void **state)
{
	return host_linux_create(&host) || host.ops->topology(host.ctx, &machine);
}

static int teardown(void **state)
{
	machine_free(&machine);
	host_linux_destroy(&host);
	return 0;
}

static void sleep_us(long us)
{
	nanosleep(&(struct timespec){ .tv_nsec = us * 1000 }, NULL);
}

static struct pu_set only(unsigned pu)
{
	struct pu_set s = { 0 };

	pu_set_add(&s, pu);
	return s;
}

/* --- threads ---------------------------------------------------------------------- */

static struct {
	_Atomic bool over;
	_Atomic int cpu;
} busy;

static void be_busy(void *arg)
{
	while (!atomic_load(&busy.over))
		atomic_store(&busy.cpu, sched_getcpu());
}

static void threads_are_bound_from_outside(void **state)
{
	struct host_thread_attr a = { .name = "busy", .fn = be_busy };
	struct pu_set nowhere = { 0 };
	struct host_thread *t;

	atomic_store(&busy.over, false);
	assert_int_equal(host.ops->thread_create(host.ctx, &a, &t), 0);
	for (unsigned i = 0; i < machine.nr_pus; i++) {
		struct pu_set pus = only(machine.pu[i].os_index);

		if (!machine.pu[i].usable)
			continue;
		assert_int_equal(host.ops->thread_bind(host.ctx, t, &pus), 0);
		sleep_us(20000); /* what it stores now was read there */
		atomic_store(&busy.cpu, -1);
		for (unsigned n = 0; n < 5000 && atomic_load(&busy.cpu) < 0; n++)
			sleep_us(1000);
		assert_int_equal(atomic_load(&busy.cpu), machine.pu[i].os_index);
	}
	assert_int_equal(host.ops->thread_bind(host.ctx, t, &nowhere), -EINVAL);
	atomic_store(&busy.over, true);
	host.ops->thread_join(host.ctx, t);
}

/* --- memory ----------------------------------------------------------------------- */

#define MEMORY MIB(12)

static struct {
	struct host_mem m;
	_Atomic bool over;
	_Atomic uint64_t rounds;
	uint64_t wrong;
} load;

/* A word a page, counted up in every round. */
static void count_up(void *arg)
{
	while (!atomic_load(&load.over)) {
		for (uint64_t o = 0; o < MEMORY; o += PAGE_SIZE) {
			volatile uint64_t *word = (uint64_t *)((uint8_t *)load.m.base + o);

			load.wrong += *word != load.rounds;
			*word = load.rounds + 1;
		}
		load.rounds++;
	}
}

static unsigned pages_on(const struct host_mem *m, int node)
{
	unsigned nr = 0;

	for (uint64_t o = 0; o < m->bytes; o += PAGE_SIZE) {
		void *page = (uint8_t *)m->base + o;
		int status = -1;

		assert_int_equal(move_pages(0, 1, &page, NULL, &status, 0), 0);
		nr += status == node;
	}
	return nr;
}

static bool may_use(unsigned node)
{
	return machine.node[node].usable && machine.node[node].memory_bytes;
}

static void memory_moves_under_load(void **state)
{
	struct host_thread_attr a = { .name = "load", .fn = count_up };
	struct host_thread *t;

	if (!machine.nr_nodes)
		skip();
	memset(&load, 0, sizeof(load));
	assert_int_equal(host.ops->mem_map(host.ctx, HOST_RAM(MEMORY, HOST_NODE_ANY), &load.m), 0);
	assert_int_equal(host.ops->mem_prefault(host.ctx, &load.m, 0, MEMORY), 0);
	assert_int_equal(host.ops->thread_create(host.ctx, &a, &t), 0);
	for (unsigned round = 0; round < 3; round++) {
		for (unsigned n = 0; n < machine.nr_nodes; n++) {
			int node = (int)machine.node[n].os_index;

			if (!may_use(n))
				continue;
			for (uint64_t o = 0; o < MEMORY; o += MIB(3))
				assert_int_equal(
					host.ops->mem_move(host.ctx, &load.m, o, MIB(3), node), 0);
			assert_int_equal(pages_on(&load.m, node), MEMORY / PAGE_SIZE);
		}
	}
	while (!atomic_load(&load.rounds)) /* it has seen all of the memory at least once */
		sleep_us(1000);
	atomic_store(&load.over, true);
	host.ops->thread_join(host.ctx, t);
	assert_int_equal(load.wrong, 0);
	host.ops->mem_unmap(host.ctx, &load.m);
}

/* What is not populated stays so, and comes from the new node when it is. */
static void the_binding_moves_too(void **state)
{
	struct host_mem m;

	if (!machine.nr_nodes)
		skip();
	for (unsigned n = 0; n < machine.nr_nodes; n++) {
		int node = (int)machine.node[n].os_index;

		if (!may_use(n))
			continue;
		assert_int_equal(host.ops->mem_map(host.ctx,
						   HOST_RAM(PAGE_SIZE * 64, HOST_NODE_ANY), &m),
				 0);
		assert_int_equal(host.ops->mem_prefault(host.ctx, &m, 0, PAGE_SIZE * 8), 0);
		assert_int_equal(host.ops->mem_move(host.ctx, &m, 0, m.bytes, node), 0);
		assert_int_equal(pages_on(&m, node), 8);
		assert_int_equal(host.ops->mem_prefault(host.ctx, &m, 0, m.bytes), 0);
		assert_int_equal(pages_on(&m, node), 64);
		host.ops->mem_unmap(host.ctx, &m);
	}
}

static void impossible_moves_are_refused(void **state)
{
	struct host_mem m;

	assert_int_equal(host.ops->mem_map(host.ctx, HOST_RAM(PAGE_SIZE * 4, HOST_NODE_ANY), &m),
			 0);
	assert_int_equal(host.ops->mem_prefault(host.ctx, &m, 0, m.bytes), 0);
	assert_int_equal(host.ops->mem_move(host.ctx, &m, 0, m.bytes, -1), -EINVAL);
	assert_int_equal(host.ops->mem_move(host.ctx, &m, 0, m.bytes, PU_SET_MAX), -EINVAL);
	assert_int_equal(host.ops->mem_move(host.ctx, &m, 0, m.bytes, 1000), -EINVAL);
	assert_int_equal(host.ops->mem_move(host.ctx, &m, 0, m.bytes + PAGE_SIZE, 0), -EINVAL);
	assert_int_equal(host.ops->mem_move(host.ctx, &m, UINT64_MAX, PAGE_SIZE, 0), -EINVAL);
	assert_int_equal(host.ops->mem_move(host.ctx, &m, 1, PAGE_SIZE, 0), -EINVAL);
	assert_int_equal(host.ops->mem_move(host.ctx, &m, 0, 1, 0), -EINVAL);
	assert_int_equal(host.ops->mem_move(host.ctx, &m, 0, 0, 0), 0);
	host.ops->mem_unmap(host.ctx, &m);
}

/* --- what a guest sees ------------------------------------------------------------ */

/*
 * 32-bit code that reads the TSC for ever and keeps the longest gap between two
 * readings at GAP_GPA, which the test sets to 0:
 *	rdtsc; mov %eax, %ebx
 * 1:	rdtsc; mov %eax, %ecx; sub %ebx, %ecx; mov %eax, %ebx
 *	cmp %ecx, GAP; jae 1b; mov %ecx, GAP; jmp 1b
 */
#define GAP_GPA     0x180000
#define IMAGE_BYTES 64
static const uint8_t gap_image[IMAGE_BYTES] = {
	0x02, 0xb0, 0xad, 0x1b, 0x00, 0x00, 0x01, 0x00, 0xfe, 0x4f, 0x51, 0xe4, 0x00, 0x00, 0x10,
	0x00, 0x00, 0x00, 0x10, 0x00, 0x40, 0x00, 0x10, 0x00, 0x40, 0x00, 0x10, 0x00, 0x20, 0x00,
	0x10, 0x00, 0x0f, 0x31, 0x89, 0xc3, 0x0f, 0x31, 0x89, 0xc1, 0x29, 0xd9, 0x89, 0xc3, 0x39,
	0x0d, 0x00, 0x00, 0x18, 0x00, 0x73, 0xf0, 0x89, 0x0d, 0x00, 0x00, 0x18, 0x00, 0xeb, 0xe8,
};

#define SAMPLES   41
#define WINDOW_US 12000

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* @vcpus of them, on @nr PUs in turn. */
static struct vm *start_guest(struct plan *plan, const uint8_t *image, unsigned vcpus,
			      const unsigned *pu, unsigned nr)
{
	struct vmm_config cfg = {
		.name = "test",
		.engine = &engine_soft,
		.plan = plan,
		.topo = { .vcpus = vcpus, .nodes = 1, .node_memory_bytes = { MIB(16) } },
		.kernel = { image, IMAGE_BYTES, "test" },
		.cmdline = "",
		.code_cache_bytes = VMM_CODE_CACHE_MIN,
	};
	char why[200];
	struct vm *vm;

	plan->nr_vcpus = vcpus;
	plan->nr_memory = 1;
	for (unsigned i = 0; i < vcpus; i++)
		plan->vcpu[i] = (struct plan_vcpu){ .pu = pu[i % nr], .host_node = -1 };
	plan->memory[0] = (struct plan_memory){ .host_node = -1, .bytes = MIB(16) };
	if (vmm_create(&host, &cfg, &vm, why, sizeof(why)) || vmm_start(vm, why, sizeof(why)))
		fail_msg("%s", why);
	return vm;
}

static unsigned usable_pus(unsigned *pu, unsigned most)
{
	unsigned nr = 0;

	for (unsigned i = 0; i < machine.nr_pus && nr < most; i++)
		if (machine.pu[i].usable)
			pu[nr++] = machine.pu[i].os_index;
	return nr;
}

/* The guest's longest gap within some time in which its vCPU is bound to @pu. */
static uint64_t gap_ns(struct vm *vm, unsigned pu, bool move)
{
	uint8_t *gap = gmem_ptr(&vm->gmem, GAP_GPA, 4);

	gmem_store_u32(gap, 0);
	if (move)
		assert_int_equal(vmm_move_vcpu(vm, 0, pu, -1), 0);
	sleep_us(WINDOW_US);
	return clock_ticks_to_ns(&vm->clock, gmem_load_u32(gap));
}

/*
 * Others use this machine, too: windows with and without a move alternate. Where the guest
 * has a PU for itself the limit is a millisecond; where it has to wait for it anyway, that
 * and twice the wait.
 */
static void a_guest_hardly_notices_a_move(void **state)
{
	struct plan *plan = calloc(1, sizeof(*plan));
	uint64_t moved[SAMPLES], still[SAMPLES];
	unsigned pu[2];
	struct vm *vm;

	if (usable_pus(pu, 2) < 2) {
		free(plan);
		skip();
	}
	vm = start_guest(plan, gap_image, 1, pu, 1);
	sleep_us(100000);
	for (unsigned i = 0; i < SAMPLES; i++) {
		moved[i] = gap_ns(vm, pu[(i + 1) % 2], true);
		still[i] = gap_ns(vm, pu[(i + 1) % 2], false);
	}
	qsort(moved, SAMPLES, sizeof(*moved), by_value);
	qsort(still, SAMPLES, sizeof(*still), by_value);
	print_message("# longest gap, median of %u: %llu us with a move, %llu us without\n",
		      SAMPLES, (unsigned long long)moved[SAMPLES / 2] / 1000,
		      (unsigned long long)still[SAMPLES / 2] / 1000);
	assert_true(moved[SAMPLES - 1] > 0);
	/* The quarter that others disturbed least: what a move costs, not what the host does. */
	assert_true(moved[SAMPLES / 4] < 2 * still[SAMPLES / 2] + NSEC_PER_MSEC);
	vmm_destroy(vm);
	free(plan);
}

/* --- a big machine stops ------------------------------------------------------------ */

/* cli; 1: hlt; jmp 1b: and the others wait to be started. */
static const uint8_t idle_image[IMAGE_BYTES] = {
	0x02, 0xb0, 0xad, 0x1b, 0x00, 0x00, 0x01, 0x00, 0xfe, 0x4f, 0x51, 0xe4,
	0x00, 0x00, 0x10, 0x00, 0x00, 0x00, 0x10, 0x00, 0x40, 0x00, 0x10, 0x00,
	0x40, 0x00, 0x10, 0x00, 0x20, 0x00, 0x10, 0x00, 0xfa, 0xf4, 0xeb, 0xfd,
};

#define BIG          255
#define PAUSES       21
/* Sanitizers make everything slower. */
#define SLOWED       (strcmp(ALCAZAR_MODE, "rel") ? 20 : 1)
#define PAUSE_MAX_NS (5 * NSEC_PER_MSEC)

/*
 * Each thread has to run once to park, and here they share a few PUs with everybody
 * else: the best of some pauses tells what the mechanism costs.
 */
static void a_big_machine_pauses_soon(void **state)
{
	struct plan *plan = calloc(1, sizeof(*plan));
	uint64_t took[PAUSES];
	unsigned pu[16];
	struct vm *vm = start_guest(plan, idle_image, BIG, pu, usable_pus(pu, ARRAY_SIZE(pu)));

	for (unsigned i = 0; i < PAUSES; i++) {
		uint64_t before = host.ops->now_ns(host.ctx);

		assert_int_equal(vmm_pause(vm), 0);
		took[i] = host.ops->now_ns(host.ctx) - before;
		vmm_resume(vm);
		sleep_us(20000);
	}
	qsort(took, PAUSES, sizeof(*took), by_value);
	print_message("# %u vCPUs parked: at best %llu us, median %llu us\n", BIG,
		      (unsigned long long)took[0] / 1000,
		      (unsigned long long)took[PAUSES / 2] / 1000);
	assert_true(took[0] <= PAUSE_MAX_NS * SLOWED);
	vmm_destroy(vm);
	free(plan);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(threads_are_bound_from_outside),
		cmocka_unit_test(memory_moves_under_load),
		cmocka_unit_test(the_binding_moves_too),
		cmocka_unit_test(impossible_moves_are_refused),
		cmocka_unit_test(a_guest_hardly_notices_a_move),
		cmocka_unit_test(a_big_machine_pauses_soon),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
