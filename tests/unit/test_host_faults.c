/*
 * test_host_faults.c - synchronous faults that the Linux host hands over, and barriers for other
 * cores.
 */
#include "host_machine.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>

/* --- faults --------------------------------------------------------------------- */

/* mov r9d, 0x99; mov r11d, 0xbb; mov rax, [rdi]; movq rax, xmm1; add rax, r11; ret */
static const uint8_t load_code[] = { 0x41, 0xb9, 0x99, 0,    0,    0,    0x41, 0xbb,
				     0xbb, 0,    0,    0,    0x48, 0x8b, 0x07, 0x66,
				     0x48, 0x0f, 0x7e, 0xc8, 0x4c, 0x01, 0xd8, 0xc3 };
#define LOAD_AT    12
#define LOAD_BYTES 3

/* mov eax, esi; cdq; idiv edi; ret */
static const uint8_t divide_code[] = { 0x89, 0xf0, 0x99, 0xf7, 0xff, 0xc3 };
#define DIVIDE_AT    3
#define DIVIDE_BYTES 2

static struct host_code fault_code;

/* What the calling thread's handler saw. */
static __thread struct {
	struct host_fault last;
	unsigned count;
} seen;

static bool on_fault(struct host_fault *f, void *arg)
{
	uint64_t low = 0x1000;

	seen.last = *f;
	seen.count++;
	if (f->kind == HOST_FAULT_FPE) {
		f->gpr[0] = 7;
		f->pc += DIVIDE_BYTES;
		return true;
	}
	if (arg) /* "not mine" */
		return false;
	memcpy((uint8_t *)f->fpstate + 160 + 16, &low, sizeof(low)); /* xmm1 */
	f->gpr[11]++;
	f->pc += LOAD_BYTES;
	return true;
}

/* cmocka puts its own handlers over those of the set-up's host: take them again. */
static void map_fault_code(void)
{
	host_linux_destroy(&host);
	signal(SIGSEGV, SIG_DFL);
	assert_int_equal(host_linux_create(&host), 0);
	assert_int_equal(host.ops->code_map(host.ctx, PAGE_SIZE, 0, &fault_code), 0);
	memcpy(fault_code.rw, load_code, sizeof(load_code));
	memcpy(fault_code.rw + 256, divide_code, sizeof(divide_code));
	seen.count = 0;
}

static void faults_are_handed_over(void **state)
{
	code_fn load, divide;
	struct host_mem m;

	map_fault_code();
	load = as_function(fault_code.rx);
	divide = as_function(fault_code.rx + 256);
	assert_int_equal(host.ops->fault_handler(host.ctx, on_fault, NULL), 0);

	assert_int_equal(load((void *)0x10, 0), 0x1000 + 0xbc);
	assert_int_equal(seen.last.kind, HOST_FAULT_SEGV);
	assert_int_equal(seen.last.addr, 0x10);
	assert_int_equal(seen.last.pc, (uintptr_t)fault_code.rx + LOAD_AT);
	assert_int_equal(seen.last.gpr[7], 0x10); /* rdi */
	assert_int_equal(seen.last.gpr[9], 0x99);
	assert_int_equal(seen.last.gpr[11], 0xbb);

	assert_int_equal(divide((void *)0, 5), 7);
	assert_int_equal(seen.last.kind, HOST_FAULT_FPE);
	assert_int_equal(seen.last.pc, (uintptr_t)fault_code.rx + 256 + DIVIDE_AT);

	/* A page behind the end of its file. */
	assert_int_equal(map_base_pages(PAGE_SIZE, HOST_NODE_ANY, &m), 0);
	assert_int_equal(ftruncate(m.handle, 0), 0);
	assert_int_equal(load(m.base, 0), 0x1000 + 0xbc);
	assert_int_equal(seen.last.kind, HOST_FAULT_BUS);
	assert_int_equal(seen.last.addr, (uintptr_t)m.base);
	host.ops->mem_unmap(host.ctx, &m);

	assert_int_equal(seen.count, 3);
	assert_int_equal(host.ops->fault_handler(host.ctx, NULL, NULL), 0);
	host.ops->code_unmap(host.ctx, &fault_code);
}

static void fault_in_thread(void *arg)
{
	uint64_t *out = arg;

	assert_int_equal(host.ops->fault_handler(host.ctx, on_fault, NULL), 0);
	for (unsigned i = 0; i < 1000; i++)
		*out += as_function(fault_code.rx)((void *)0x10, 0);
}

static void each_thread_has_its_handler(void **state)
{
	struct host_thread *t[4];
	uint64_t sum[4] = { 0 };

	map_fault_code();
	for (unsigned i = 0; i < ARRAY_SIZE(t); i++)
		t[i] = start(fault_in_thread, &sum[i], NULL);
	for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
		join(t[i]);
		assert_int_equal(sum[i], 1000 * (0x1000 + 0xbc));
	}
	host.ops->code_unmap(host.ctx, &fault_code);
}

/* The signal that ends a child which does @fn. */
static int death_of(void (*fn)(void))
{
	static const struct rlimit no_core;
	pid_t pid = fork();
	int status;

	if (!pid) {
		setrlimit(RLIMIT_CORE, &no_core);
		fn();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static void die_refused(void)
{
	host.ops->fault_handler(host.ctx, on_fault, &fault_code);
	as_function(fault_code.rx)((void *)0x10, 0);
}

static void die_unhandled(void)
{
	host.ops->fault_handler(host.ctx, on_fault, NULL);
	host.ops->fault_handler(host.ctx, NULL, NULL);
	as_function(fault_code.rx)((void *)0x10, 0);
}

static void die_sent(void)
{
	host.ops->fault_handler(host.ctx, on_fault, NULL);
	raise(SIGSEGV); /* no fault, only a signal: not for the handler */
	for (;;)
		pause();
}

static void other_faults_are_fatal(void **state)
{
	map_fault_code();
	assert_int_equal(death_of(die_refused), SIGSEGV);
	assert_int_equal(death_of(die_unhandled), SIGSEGV);
	assert_int_equal(death_of(die_sent), SIGSEGV);
	host.ops->code_unmap(host.ctx, &fault_code);
}

/* --- synchronising cores ---------------------------------------------------------- */

/*
 * Asymmetric Dekker: the fast side has no barrier at all, the slow side calls
 * sync_cores(). Were that not a barrier on the other core, both would miss.
 */
struct dekker {
	_Atomic uint32_t fast, slow, round, fast_saw, go_on;
};

static void fast_side(void *arg)
{
	struct dekker *d = arg;
	uint32_t round = 0;

	while (atomic_load(&d->go_on)) {
		if (atomic_load(&d->round) == round)
			continue;
		round++;
		atomic_store_explicit(&d->fast, round, memory_order_relaxed);
		__asm__ volatile("" ::: "memory");
		atomic_store(&d->fast_saw,
			     atomic_load_explicit(&d->slow, memory_order_relaxed) == round ? 1 : 2);
		while (atomic_load(&d->fast_saw) && atomic_load(&d->go_on))
			;
	}
}

static void barrier_reaches_other_cores(struct host *h, unsigned rounds)
{
	struct dekker d = { .go_on = 1 };
	struct host_thread *t = start(fast_side, &d, NULL);

	for (uint32_t round = 1; round <= rounds; round++) {
		bool slow_saw;

		atomic_store(&d.round, round);
		atomic_store_explicit(&d.slow, round, memory_order_relaxed);
		h->ops->sync_cores(h->ctx);
		slow_saw = atomic_load_explicit(&d.fast, memory_order_relaxed) == round;
		while (!atomic_load(&d.fast_saw))
			;
		assert_true(slow_saw || atomic_load(&d.fast_saw) == 1);
		atomic_store(&d.fast_saw, 0);
	}
	atomic_store(&d.go_on, 0);
	join(t);
}

static void cores_are_synchronised(void **state)
{
	barrier_reaches_other_cores(&host, 2000);
}

static void cores_are_synchronised_without_membarrier(void **state)
{
	struct linux_host *h = host.ctx;

	h->membarrier = false;
	h->sync_page =
		mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(h->sync_page != MAP_FAILED);
	barrier_reaches_other_cores(&host, 2000);
	h->membarrier = true; /* the page goes with the host */
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(faults_are_handed_over),
		TEST(each_thread_has_its_handler),
		TEST(other_faults_are_fatal),
		TEST(cores_are_synchronised),
		TEST(cores_are_synchronised_without_membarrier),
	};

	alarm(120); /* a hang is a failure */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
