/*
 * machine.c - what a machine costs its host before its guest does anything: CPU time to
 * the first guest instruction, memory beside the guest's, and how long a pause takes.
 *
 *	machine [ENGINE...]	kvm and soft, which are the default
 *
 * Each figure is taken in a process of its own; those that other work on the host can
 * only make worse are the best of several. Ends with status 1 where one is beyond its
 * limit, so that it serves as a test on a quiet host.
 */
#include "host/linux/host_linux.h"
#include "host/linux/kvm/engine_kvm.h"
#include "vmm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MEMORY      MIB(128)
#define MANY        255
#define ROUNDS      5
#define PAUSES      9
#define START_MAX_S 20
#define START_MS    8.0
#define BASE_KIB    8192.0
#define VCPU_KIB    64.0
#define PAUSE_MS    5.0
#define SETTLE_US   200000
#define NO_LIMIT    1e12

struct figures {
	double start_cpu_ms, start_ms;
	double memory_kib;
	double pause_ms, pause_worst_ms;
	bool good;
};

struct machine {
	struct host host;
	struct machine_model model;
	struct plan plan;
	struct vm *vm;
};

/* --- the guest ---------------------------------------------------------------------- */

/*
 * Multiboot, flat. Starts every other processor by INIT and SIPI if the command line
 * says "all"; then all of them spin.
 */
extern const uint8_t guest[], guest_end[];
asm(".pushsection .rodata\n.balign 16\n.code32\n"
    "guest: .long 0x1badb002, 0x00010000, -(0x1badb002 + 0x00010000)\n"
    "	.long 0x100000, 0x100000, 0x100000 + guest_end - guest, 0x100000 + guest_end - guest\n"
    "	.long 0x100000 + guest_entry - guest\n"
    "guest_entry:\n"
    "	mov 16(%ebx), %esi\n" /* the command line: the image's name, then ours */
    "1:	lodsb\n test %al, %al\n jz guest_spin\n cmp $'@', %al\n jne 1b\n"
    "	movl $0xfeebfa90, 0x8000\n" /* nop; cli; jmp to itself: in real mode */
    "	movl $0x1ff, 0xfee000f0\n"
    "	movl $0xc4500, 0xfee00300\n"
    "	mov $200, %ecx\n"
    "2:	pause\n dec %ecx\n jnz 2b\n"
    "	movl $0xc4608, 0xfee00300\n"
    "guest_spin: cli\n"
    "3:	jmp 3b\n"
    "guest_end:\n.code64\n.popsection");

/* --- a machine ------------------------------------------------------------------------- */

static uint64_t wall_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * NSEC_PER_SEC + (uint64_t)t.tv_nsec;
}

static uint64_t cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * NSEC_PER_SEC + (uint64_t)t.tv_nsec;
}

static int start(struct machine *m, const struct engine_ops *engine, unsigned vcpus, bool all)
{
	struct plan_request req = { .vcpus = vcpus, .nodes = 1, .memory_bytes = MEMORY };
	struct vmm_config cfg = {
		.name = "bench",
		.engine = engine,
		.plan = &m->plan,
		.topo = { .vcpus = vcpus, .nodes = 1, .node_memory_bytes = { MEMORY } },
		.kernel = { guest, (size_t)(guest_end - guest), "bench" },
		.cmdline = all ? "@" : "",
	};
	char why[256] = "";
	int err = host_linux_create(&m->host);

	if (!err)
		err = m->host.ops->topology(m->host.ctx, &m->model);
	if (!err)
		err = plan_make(&m->model, &req, &m->plan, why, sizeof(why));
	if (!err)
		err = vmm_create(&m->host, &cfg, &m->vm, why, sizeof(why));
	if (!err)
		err = vmm_start(m->vm, why, sizeof(why));
	if (err)
		fprintf(stderr, "machine: %s\n", *why ? why : strerror(-err));
	return err;
}

static int wait_for_guest(struct machine *m)
{
	uint64_t end = wall_ns() + START_MAX_S * NSEC_PER_SEC;

	while (!vmm_startup_ns(m->vm)) {
		if (wall_ns() > end)
			return -ETIMEDOUT;
		usleep(100);
	}
	return 0;
}

static void end(struct machine *m)
{
	if (m->vm)
		vmm_stop(m->vm);
	vmm_destroy(m->vm);
	machine_free(&m->model);
	host_linux_destroy(&m->host);
}

/* --- figures ------------------------------------------------------------------------------ */

static int take_start(const struct engine_ops *engine, struct figures *f)
{
	static struct machine m;
	uint64_t cpu = cpu_ns(), wall = wall_ns();
	int err = start(&m, engine, 1, false);

	if (!err)
		err = wait_for_guest(&m);
	f->start_cpu_ms = (double)(cpu_ns() - cpu) / 1e6;
	f->start_ms = (double)(wall_ns() - wall) / 1e6;
	end(&m);
	return err;
}

/* What is resident, but for guest memory: that is what dumps and children do not get. */
static double resident_kib(void)
{
	FILE *smaps = fopen("/proc/self/smaps", "re");
	unsigned long long kib = 0;
	char line[512];
	double sum = 0;

	while (smaps && fgets(line, sizeof(line), smaps)) {
		(void)sscanf(line, "Rss: %llu", &kib);
		if (!strncmp(line, "VmFlags:", 8) && !(strstr(line, " dd") && strstr(line, " dc")))
			sum += (double)kib;
	}
	if (smaps)
		fclose(smaps);
	return sum;
}

static int take_memory(const struct engine_ops *engine, unsigned vcpus, struct figures *f)
{
	static struct machine m;
	int err = start(&m, engine, vcpus, false);

	if (!err)
		err = wait_for_guest(&m);
	usleep(SETTLE_US);
	f->memory_kib = resident_kib();
	end(&m);
	return err;
}

/* Of @all running vCPUs, or of one that runs and many that wait to be started. */
static int take_pause(const struct engine_ops *engine, bool all, struct figures *f)
{
	static struct machine m;
	int err = start(&m, engine, MANY, all);

	if (!err)
		err = wait_for_guest(&m);
	f->pause_ms = 1e9;
	for (unsigned i = 0; !err && i < PAUSES; i++) {
		uint64_t from;
		double ms;

		usleep(SETTLE_US);
		from = wall_ns();
		err = vmm_pause(m.vm);
		ms = (double)(wall_ns() - from) / 1e6;
		f->pause_ms = MIN(f->pause_ms, ms);
		f->pause_worst_ms = MAX(f->pause_worst_ms, ms);
		vmm_resume(m.vm);
	}
	end(&m);
	return err;
}

/* --- in a process of its own ---------------------------------------------------------------- */

enum what { START, MEMORY_OF_ONE, MEMORY_OF_MANY, PAUSE_IDLE, PAUSE_ALL };

static int take(enum what what, const struct engine_ops *engine, struct figures *f)
{
	switch (what) {
	case START:
		return take_start(engine, f);
	case MEMORY_OF_ONE:
		return take_memory(engine, 1, f);
	case MEMORY_OF_MANY:
		return take_memory(engine, MANY, f);
	default:
		return take_pause(engine, what == PAUSE_ALL, f);
	}
}

static struct figures measure(enum what what, const struct engine_ops *engine)
{
	struct figures *shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
				      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct figures f = { .good = false };
	pid_t child;

	if (shared == MAP_FAILED)
		return f;
	child = fork();
	if (!child) {
		shared->good = !take(what, engine, shared);
		_exit(0);
	}
	waitpid(child, NULL, 0);
	f = *shared;
	munmap(shared, sizeof(*shared));
	return f;
}

static bool row(const char *engine, const char *what, double found, double limit, const char *unit)
{
	bool good = found <= limit;

	printf("%-6s %-48s %10.2f %-4s", engine, what, found, unit);
	if (limit < NO_LIMIT)
		printf(" (%s %.0f)", good ? "within" : "BEYOND", limit);
	putchar('\n');
	fflush(stdout);
	return good;
}

static bool show(const struct engine_ops *engine)
{
	struct figures best = { .start_cpu_ms = 1e9 }, one, many, idle, all;
	bool good = true;

	for (unsigned i = 0; i < ROUNDS; i++) {
		struct figures f = measure(START, engine);

		if (!f.good)
			return false;
		if (f.start_cpu_ms < best.start_cpu_ms)
			best = f;
	}
	good &= row(engine->name, "CPU time to the first guest instruction", best.start_cpu_ms,
		    START_MS, "ms");
	one = measure(MEMORY_OF_ONE, engine);
	many = measure(MEMORY_OF_MANY, engine);
	good &= row(engine->name, "memory beside the guest's, one vCPU", one.memory_kib,
		    BASE_KIB + VCPU_KIB, "KiB");
	/* The software engine keeps translated code and TLBs, which do not count as the VMM's. */
	good &= row(engine->name, "for each further vCPU",
		    (many.memory_kib - one.memory_kib) / (MANY - 1),
		    engine == &engine_kvm ? VCPU_KIB : NO_LIMIT, "KiB");
	idle = measure(PAUSE_IDLE, engine);
	all = measure(PAUSE_ALL, engine);
	good &= row(engine->name, "pause of 255 vCPUs, one of them running (best)", idle.pause_ms,
		    PAUSE_MS, "ms");
	good &= row(engine->name, "pause of 255 running vCPUs (best)", all.pause_ms, PAUSE_MS,
		    "ms");
	printf("%-6s %-48s %10.2f ms\n", engine->name, "  the worst of them", all.pause_worst_ms);
	return good && one.good && many.good && idle.good && all.good;
}

int main(int argc, char **argv)
{
	static const struct engine_ops *const engines[] = { &engine_kvm, &engine_soft };
	bool good = true;

	for (size_t i = 0; i < ARRAY_SIZE(engines); i++) {
		bool wanted = argc == 1;

		for (int n = 1; n < argc; n++)
			wanted = wanted || !strcmp(argv[n], engines[i]->name);
		if (wanted)
			good &= show(engines[i]);
	}
	return good ? 0 : 1;
}
