/*
 * vcpu_create.c - how long it takes until N pinned vCPU threads are ready under KVM:
 * the machine's start against a minimal program with the same threads, pins and calls
 * of the kernel, in turn, so that both see the same host.
 *
 *	vcpu_create [VCPUS [ROUNDS]]
 *
 * Prints medians and their ratio. Both make their machine beforehand: what is measured
 * is from the first thread's creation to the last vCPU's being ready.
 */
#include "host/linux/host_linux.h"
#include "host/linux/kvm/engine_kvm.h"
#include "vmm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define ROUNDS_MAX  64
#define MEMORY      MIB(128)
#define STACK_BYTES (2u << 20)

struct bench {
	struct host host;
	struct machine_model machine;
	struct plan plan;
	unsigned vcpus;
};

static uint64_t now_ns(struct bench *b)
{
	return b->host.ops->now_ns(b->host.ctx);
}

/* --- ours -------------------------------------------------------------------------- */

/* A multiboot header, and a loop behind it. */
static const uint32_t image[] = {
	0x1badb002, 0x00010000, -(0x1badb002u + 0x00010000), /* flat: addresses follow */
	0x100000,   0x100000,   0x100040,
	0x100040,   0x100020,   0xfeebf4fa, /* cli; hlt; jmp */
	0,          0,          0,
	0,          0,          0,
	0,
};

static int ours(struct bench *b, uint64_t *ns)
{
	struct vmm_config cfg = {
		.name = "bench",
		.engine = &engine_kvm,
		.plan = &b->plan,
		.topo = { .vcpus = b->vcpus, .nodes = 1, .node_memory_bytes = { MEMORY } },
		.kernel = { .data = (const uint8_t *)image,
			    .bytes = sizeof(image),
			    .name = "bench" },
		.cmdline = "",
	};
	struct vm *vm = NULL;
	char why[256] = "";
	uint64_t start;
	int err = vmm_create(&b->host, &cfg, &vm, why, sizeof(why));

	if (!err)
		err = vmm_pause(vm); /* ready, and no guest that runs meanwhile */
	start = now_ns(b);
	if (!err)
		err = vmm_start(vm, why, sizeof(why));
	*ns = now_ns(b) - start;
	if (err)
		fprintf(stderr, "vcpu_create: %s\n", why);
	else
		vmm_stop(vm);
	vmm_destroy(vm);
	return err;
}

/* --- the minimum ---------------------------------------------------------------------- */

struct minimum {
	int kvm_fd, vm_fd;
	size_t run_bytes;
	struct kvm_cpuid2 *cpuid;
	sem_t ready;
	pthread_barrier_t end;
	_Atomic int err;
};

struct minimum_cpu {
	struct minimum *m;
	unsigned id;
	pthread_t thread;
};

static int call(int fd, unsigned long request, void *arg)
{
	return ioctl(fd, request, arg) < 0 ? -errno : 0;
}

struct msr_values {
	struct kvm_msrs head;
	struct kvm_msr_entry entry[64];
};

/* Those of a reset. */
static void fill_msrs(struct msr_values *m)
{
	static const struct {
		uint32_t first, last;
		uint64_t value;
	} ranges[] = {
		{ 0xc0000081, 0xc0000084, 0 },
		{ 0xc0000102, 0xc0000103, 0 },
		{ 0x174, 0x176, 0 },
		{ 0x3b, 0x3b, 0 },
		{ 0x277, 0x277, 0x0007040600070406 },
		{ 0x1a0, 0x1a0, 0x1801 },
		{ 0x48, 0x48, 0 },
		{ 0x2ff, 0x2ff, 0xc06 },
		{ 0x250, 0x250, 0x0606060606060606 },
		{ 0x258, 0x259, 0x0606060606060606 },
		{ 0x268, 0x26f, 0x0606060606060606 },
		{ 0x200, 0x20f, 0 },
		{ 0x4b564d00, 0x4b564d01, 0 },
		{ 0x4b564d03, 0x4b564d04, 0 },
		{ 0x4b564d05, 0x4b564d05, 1 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(ranges); i++)
		for (uint32_t n = ranges[i].first; n <= ranges[i].last; n++)
			m->entry[m->head.nmsrs++] =
				(struct kvm_msr_entry){ .index = n, .data = ranges[i].value };
}

/* The engine's calls for a vCPU and its reset, in its order. */
static int minimum_setup(struct minimum *m, int fd, unsigned id)
{
	struct msr_values msrs = { .head = { .nmsrs = 0 } }, arch = { .head = { .nmsrs = 1 } };
	struct kvm_xcrs xcrs = { .nr_xcrs = 1, .xcrs = { { .value = 1 } } };
	struct kvm_mp_state mp = { .mp_state = id ? KVM_MP_STATE_UNINITIALIZED : 0 };
	struct kvm_vcpu_events events = { 0 };
	struct kvm_debugregs debug = { .dr6 = 0xffff0ff0, .dr7 = 0x400 };
	struct kvm_lapic_state lapic;
	struct kvm_sregs sregs;
	struct kvm_regs regs = { .rflags = 2 };
	struct kvm_xsave xsave;
	int err = 0;

	arch.entry[0].index = 0x10a;
	fill_msrs(&msrs);
	ioctl(fd, KVM_GET_TSC_KHZ, 0);
	err |= call(fd, KVM_SET_CPUID2, m->cpuid);
	call(fd, KVM_SET_MSRS, &arch);
	err |= call(fd, KVM_GET_LAPIC, &lapic);
	err |= call(fd, KVM_GET_SREGS, &sregs);
	err |= call(fd, KVM_SET_SREGS, &sregs);
	err |= call(fd, KVM_SET_REGS, &regs);
	err |= call(fd, KVM_GET_XSAVE, &xsave);
	err |= call(fd, KVM_SET_XSAVE, &xsave);
	err |= call(fd, KVM_SET_XCRS, &xcrs);
	err |= call(fd, KVM_SET_DEBUGREGS, &debug);
	err |= call(fd, KVM_SET_LAPIC, &lapic);
	err |= call(fd, KVM_SET_MSRS, &msrs);
	err |= call(fd, KVM_SET_MP_STATE, &mp);
	err |= call(fd, KVM_SET_VCPU_EVENTS, &events);
	return err;
}

static void *minimum_thread(void *arg)
{
	struct minimum_cpu *c = arg;
	struct minimum *m = c->m;
	int fd = ioctl(m->vm_fd, KVM_CREATE_VCPU, c->id);
	void *run = fd < 0 ? MAP_FAILED
			   : mmap(NULL, m->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (run == MAP_FAILED || minimum_setup(m, fd, c->id))
		atomic_store(&m->err, -EIO);
	sem_post(&m->ready);
	pthread_barrier_wait(&m->end);
	if (run != MAP_FAILED)
		munmap(run, m->run_bytes);
	if (fd >= 0)
		close(fd);
	return NULL;
}

static int minimum_threads(struct bench *b, struct minimum *m, uint64_t *ns)
{
	struct minimum_cpu *cpu = calloc(b->vcpus, sizeof(*cpu));
	uint64_t start = now_ns(b);

	if (!cpu)
		return -ENOMEM;
	for (unsigned i = 0; i < b->vcpus; i++) {
		pthread_attr_t attr;
		cpu_set_t set;

		CPU_ZERO(&set);
		CPU_SET(b->plan.vcpu[i].pu, &set);
		pthread_attr_init(&attr);
		pthread_attr_setstacksize(&attr, STACK_BYTES);
		pthread_attr_setaffinity_np(&attr, sizeof(set), &set);
		cpu[i] = (struct minimum_cpu){ .m = m, .id = i };
		if (pthread_create(&cpu[i].thread, &attr, minimum_thread, &cpu[i]))
			abort(); /* the others wait at the barrier for ever */
		pthread_attr_destroy(&attr);
	}
	for (unsigned i = 0; i < b->vcpus; i++)
		sem_wait(&m->ready);
	*ns = now_ns(b) - start;
	pthread_barrier_wait(&m->end);
	for (unsigned i = 0; i < b->vcpus; i++)
		pthread_join(cpu[i].thread, NULL);
	free(cpu);
	return atomic_load(&m->err);
}

static int minimum(struct bench *b, uint64_t *ns)
{
	struct kvm_enable_cap split = { .cap = KVM_CAP_SPLIT_IRQCHIP, .args = { 48 } };
	struct kvm_enable_cap x2apic = { .cap = KVM_CAP_X2APIC_API, .args = { 3 } };
	struct minimum m = { .kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC) };
	int err = 0;

	if (m.kvm_fd < 0)
		return -errno;
	m.vm_fd = ioctl(m.kvm_fd, KVM_CREATE_VM, 0);
	m.run_bytes = (size_t)ioctl(m.kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	m.cpuid = calloc(1, sizeof(*m.cpuid) + 256 * sizeof(m.cpuid->entries[0]));
	m.cpuid->nent = 256;
	sem_init(&m.ready, 0, 0);
	pthread_barrier_init(&m.end, NULL, b->vcpus + 1);
	err |= call(m.kvm_fd, KVM_GET_SUPPORTED_CPUID, m.cpuid);
	err |= call(m.vm_fd, KVM_ENABLE_CAP, &split);
	err |= call(m.vm_fd, KVM_ENABLE_CAP, &x2apic);
	if (!err)
		err = minimum_threads(b, &m, ns);
	free(m.cpuid);
	close(m.vm_fd);
	close(m.kvm_fd);
	return err;
}

/* --- both --------------------------------------------------------------------------------- */

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static double median_ms(uint64_t *ns, unsigned n)
{
	qsort(ns, n, sizeof(*ns), compare);
	return (double)ns[n / 2] / 1e6;
}

static int prepare(struct bench *b, unsigned vcpus)
{
	struct plan_request req = { .vcpus = vcpus, .nodes = 1, .memory_bytes = MEMORY };
	struct rlimit files;
	char why[256] = "";
	int err = host_linux_create(&b->host);

	b->vcpus = vcpus;
	if (!getrlimit(RLIMIT_NOFILE, &files)) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	if (!err)
		err = b->host.ops->topology(b->host.ctx, &b->machine);
	if (!err)
		err = plan_make(&b->machine, &req, &b->plan, why, sizeof(why));
	if (err)
		fprintf(stderr, "vcpu_create: %s\n", *why ? why : strerror(-err));
	return err;
}

int main(int argc, char **argv)
{
	unsigned vcpus = argc > 1 ? (unsigned)atoi(argv[1]) : 128;
	unsigned rounds = argc > 2 ? (unsigned)atoi(argv[2]) : 9;
	uint64_t a[ROUNDS_MAX], z[ROUNDS_MAX];
	static struct bench b;
	int err;

	if (!vcpus || vcpus > VMM_VCPUS_MAX || !rounds || rounds > ROUNDS_MAX) {
		fprintf(stderr, "usage: vcpu_create [VCPUS [ROUNDS]]\n");
		return 2;
	}
	err = prepare(&b, vcpus);
	for (unsigned i = 0; !err && i < rounds; i++) {
		err = ours(&b, &a[i]);
		if (!err)
			err = minimum(&b, &z[i]);
	}
	if (!err) {
		double mine = median_ms(a, rounds), least = median_ms(z, rounds);

		printf("%u vCPUs ready: %.1f ms, minimal program %.1f ms, ratio %.2f (medians of "
		       "%u)\n",
		       vcpus, mine, least, mine / least, rounds);
	}
	machine_free(&b.machine);
	host_linux_destroy(&b.host);
	return err ? 1 : 0;
}
