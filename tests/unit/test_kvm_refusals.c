/*
 * test_kvm_refusals.c - whatever KVM refuses is one line that names it, and leaves
 * nothing behind. A kernel made for the test stands in for KVM: no /dev/kvm is needed.
 */
#include "kvm_machine.h"

#include "host/linux/kvm/accel.h"

#include <errno.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE_BYTES 4096

/* --- the kernel --------------------------------------------------------------------- */

static struct {
	int open_errno;
	unsigned long refused; /* a request, with... */
	int refused_errno;
	int version;
	int cap, cap_value;      /* a capability that differs; -1: none does */
	unsigned fail_at, calls; /* the n-th call of all fails */
	uint64_t halt_poll_ns, prefaulted;
	unsigned slots;
} kernel;

static void reset_kernel(void)
{
	memset(&kernel, 0, sizeof(kernel));
	kernel.version = 12;
	kernel.cap = -1;
	kernel.fail_at = UINT32_MAX;
}

static int refuse(int err)
{
	errno = err;
	return -1;
}

static int new_file(void)
{
	int fd = memfd_create("kvm", MFD_CLOEXEC);

	return fd < 0 || ftruncate(fd, 4 * PAGE_BYTES) ? -1 : fd;
}

static int fake_open(void)
{
	if (kernel.open_errno)
		return refuse(kernel.open_errno);
	return kernel.calls++ == kernel.fail_at ? refuse(EIO) : new_file();
}

static int capability(unsigned long id)
{
	if ((int)id == kernel.cap)
		return kernel.cap_value;
	switch (id) {
	case KVM_CAP_MAX_VCPUS:
	case KVM_CAP_MAX_VCPU_ID:
	case KVM_CAP_NR_MEMSLOTS:
		return 4096;
	default:
		return 1;
	}
}

/* In two pieces, as the kernel may. */
static void take_prefault(struct kvm_pre_fault_memory *r)
{
	uint64_t n = r->size > PAGE_BYTES ? r->size / 2 / PAGE_BYTES * PAGE_BYTES : r->size;

	r->gpa += n;
	r->size -= n;
	kernel.prefaulted += n;
}

static int answer(unsigned long request, void *arg)
{
	switch (request) {
	case KVM_GET_API_VERSION:
		return kernel.version;
	case KVM_CHECK_EXTENSION:
		return capability((unsigned long)arg);
	case KVM_GET_VCPU_MMAP_SIZE:
		return 3 * PAGE_BYTES;
	case KVM_CREATE_VM:
	case KVM_CREATE_VCPU:
		return new_file();
	case KVM_GET_TSC_KHZ:
		return 1000000;
	case KVM_GET_SUPPORTED_CPUID:
		((struct kvm_cpuid2 *)arg)->nent = 0;
		return 0;
	case KVM_GET_MSRS:
	case KVM_SET_MSRS:
		return (int)((struct kvm_msrs *)arg)->nmsrs;
	case KVM_ENABLE_CAP:
		if (((struct kvm_enable_cap *)arg)->cap == KVM_CAP_HALT_POLL)
			kernel.halt_poll_ns = ((struct kvm_enable_cap *)arg)->args[0];
		return 0;
	case KVM_SET_USER_MEMORY_REGION:
		kernel.slots++;
		return 0;
	case KVM_PRE_FAULT_MEMORY:
		take_prefault(arg);
		return 0;
	default:
		return 0;
	}
}

static int fake_ioctl(int fd, unsigned long request, void *arg)
{
	if (kernel.calls++ == kernel.fail_at)
		return refuse(EIO);
	if (kernel.refused && request == kernel.refused)
		return refuse(kernel.refused_errno);
	return answer(request, arg);
}

static const struct kvm_sys fake = { fake_open, fake_ioctl };

/* --- a machine on it -------------------------------------------------------------------- */

static int create(void)
{
	int err = engine_kvm.create(m.vm);

	for (unsigned i = 0; !err && i < m.vm->nr_vcpus; i++)
		err = engine_kvm.vcpu_create(m.vm->vcpu[i]);
	return err;
}

static unsigned files;

static int setup(void **state)
{
	reset_kernel();
	kvm_sys = &fake;
	files = open_files();
	build(4);
	return 0;
}

static int teardown(void **state)
{
	destroy();
	kvm_sys = &kvm_sys_linux;
	return open_files() == files ? 0 : -1;
}

static void one_line(const char *line, const char *what)
{
	assert_true(*line);
	assert_null(strchr(line, '\n'));
	if (!strstr(line, what))
		fail_msg("'%s' does not name %s", line, what);
}

static void refused(int err, const char *what, const char *remedy)
{
	assert_int_equal(create(), err);
	one_line(m.vm->refusal, what);
	one_line(m.vm->refusal, remedy);
}

static void test_good(void **state)
{
	assert_int_equal(create(), 0);
	assert_string_equal(m.vm->refusal, "");
	assert_int_equal(kernel.slots, 1);
}

static void test_no_device(void **state)
{
	kernel.open_errno = ENOENT;
	refused(-ENOENT, "/dev/kvm", "load kvm_intel or kvm_amd");
}

static void test_no_permission(void **state)
{
	kernel.open_errno = EACCES;
	refused(-EACCES, "/dev/kvm", "join group kvm");
}

static void test_device_busy(void **state)
{
	kernel.open_errno = EBUSY;
	refused(-EBUSY, "/dev/kvm", "another hypervisor");
}

static void test_hardware_busy(void **state)
{
	kernel.refused = KVM_CREATE_VM;
	kernel.refused_errno = EBUSY;
	refused(-EBUSY, "KVM_CREATE_VM", "another hypervisor");
}

static void test_version(void **state)
{
	kernel.version = 11;
	refused(-ENOTSUP, "version 12 (11)", "another kernel");
}

static void test_each_capability(void **state)
{
	char name[64];

	for (unsigned i = 0; i < nr_kvm_caps; i++) {
		kernel.cap = kvm_caps[i].id;
		kernel.cap_value = 0;
		if (!kvm_caps[i].needed)
			continue;
		snprintf(name, sizeof(name), "KVM_CAP_%s ", kvm_caps[i].name);
		m.vm->refusal[0] = '\0';
		refused(-ENOTSUP, name, "--engine soft");
	}
}

/* What is merely good to have is done without. */
static void test_without_luxuries(void **state)
{
	for (unsigned i = 0; i < nr_kvm_caps; i++) {
		if (kvm_caps[i].needed)
			continue;
		kernel.cap = kvm_caps[i].id;
		kernel.cap_value = 0;
		assert_int_equal(create(), 0);
		for (unsigned v = 0; v < m.vm->nr_vcpus; v++)
			engine_kvm.vcpu_destroy(m.vm->vcpu[v]);
		engine_kvm.destroy(m.vm);
	}
}

static void test_vcpu_limit(void **state)
{
	kernel.cap = KVM_CAP_MAX_VCPUS;
	kernel.cap_value = 3;
	refused(-E2BIG, "KVM_CAP_MAX_VCPUS is 3", "ask for fewer");
}

static void test_apic_id_limit(void **state)
{
	kernel.cap = KVM_CAP_MAX_VCPU_ID;
	kernel.cap_value = 3;
	refused(-E2BIG, "KVM_CAP_MAX_VCPU_ID is 3", "APIC ID 3");
}

static void test_memslot_limit(void **state)
{
	kernel.cap = KVM_CAP_NR_MEMSLOTS;
	kernel.cap_value = 1;
	assert_int_equal(gmem_add(&m.vm->gmem, GIB(4), PAGE_BYTES, m.ram, 0), 0);
	refused(-E2BIG, "KVM_CAP_NR_MEMSLOTS is 1", "fewer --nodes");
}

static void test_memory(void **state)
{
	kernel.refused = KVM_SET_USER_MEMORY_REGION;
	kernel.refused_errno = EEXIST;
	refused(-EEXIST, "KVM_CAP_USER_MEMORY", "2 MiB");
}

static void test_vcpu_refused(void **state)
{
	kernel.refused = KVM_CREATE_VCPU;
	kernel.refused_errno = ENOMEM;
	refused(-ENOMEM, "KVM_CREATE_VCPU", "ask for fewer CPUs");
}

/* In a child, since a hard limit that was lowered stays so. */
static void with_files(rlim_t soft, rlim_t hard)
{
	struct rlimit now, few = { soft, hard };

	if (setrlimit(RLIMIT_NOFILE, &few))
		_exit(1);
	if (hard < 68)
		_exit(create() == -EMFILE && strstr(m.vm->refusal, "RLIMIT_NOFILE") ? 0 : 2);
	_exit(!create() && !getrlimit(RLIMIT_NOFILE, &now) && now.rlim_cur >= 68 ? 0 : 3);
}

static void test_files(void **state)
{
	const rlim_t hard[] = { 80, 40 };

	for (unsigned i = 0; i < ARRAY_SIZE(hard); i++) {
		pid_t child = fork();
		int status = -1;

		if (!child)
			with_files(40, hard[i]);
		assert_int_equal(waitpid(child, &status, 0), child);
		assert_int_equal(status, 0);
	}
}

/* The n-th call fails, whichever that is: refused with a line, or done without. */
static void test_every_call(void **state)
{
	unsigned before = open_files(), n;
	bool reached = true;

	for (n = 0; reached && n < 1000; n++) {
		int err;

		reset_kernel();
		kernel.fail_at = n;
		m.vm->refusal[0] = '\0';
		err = create();
		reached = kernel.calls > n;
		if (err)
			one_line(m.vm->refusal, strstr(m.vm->refusal, "/dev/kvm") ? "kvm" : "KVM");
		for (unsigned v = 0; v < m.vm->nr_vcpus; v++)
			engine_kvm.vcpu_destroy(m.vm->vcpu[v]);
		engine_kvm.destroy(m.vm);
		assert_int_equal(open_files(), before);
	}
	assert_in_range(n, 40, 999);
}

/* --- what else the kernel is asked for --------------------------------------------------- */

static void test_halt_poll(void **state)
{
	m.vm->cfg.halt_poll_set = true;
	m.vm->cfg.halt_poll_ns = 12345;
	assert_int_equal(create(), 0);
	assert_int_equal(kernel.halt_poll_ns, 12345);
}

static void test_halt_poll_refused(void **state)
{
	m.vm->cfg.halt_poll_set = true;
	kernel.cap = KVM_CAP_HALT_POLL;
	refused(-ENOTSUP, "KVM_CAP_HALT_POLL", "--halt-poll");
}

static void test_prefault(void **state)
{
	m.vm->cfg.prefault = true;
	assert_int_equal(create(), 0);
	assert_int_equal(kernel.prefaulted, RAM); /* by four vCPUs, each a part */
}

static void test_no_prefault(void **state)
{
	assert_int_equal(create(), 0);
	assert_int_equal(kernel.prefaulted, 0);
}

/* --- accelerations ------------------------------------------------------------------------ */

static struct accel accels[ACCELS_MAX];

static const struct accel *judged(const struct accel_facts *f, const char *name)
{
	unsigned nr = accel_judge(f, accels);

	for (unsigned i = 0; i < nr; i++) {
		assert_true(*accels[i].why);
		if (!strcmp(accels[i].name, name))
			return &accels[i];
	}
	fail_msg("nothing about %s", name);
	return NULL;
}

static void test_intel(void **state)
{
	struct accel_facts f = { .ept = 1,
				 .npt = -1,
				 .apicv = 1,
				 .avic = -1,
				 .ipiv = 0,
				 .vpid = 1,
				 .tdp_mmu = 1,
				 .halt_poll_ns = 200000,
				 .machine_halt_poll_ns = -1,
				 .pv_features = BIT(3) | BIT(11) };

	assert_int_equal(judged(&f, "EPT")->state, ACCEL_ON);
	assert_true(judged(&f, "EPT")->read);
	assert_int_equal(judged(&f, "APICv")->state, ACCEL_ON);
	assert_false(judged(&f, "APICv")->read);
	assert_int_equal(judged(&f, "posted interrupts")->state, ACCEL_ON);
	assert_int_equal(judged(&f, "IPI virtualisation")->state, ACCEL_OFF);
	assert_int_equal(judged(&f, "halt polling")->state, ACCEL_ON);
	assert_int_equal(judged(&f, "PV IPI")->state, ACCEL_ON);
	assert_int_equal(judged(&f, "PV EOI")->state, ACCEL_OFF);
	f.ipiv = 1;
	assert_int_equal(judged(&f, "IPI virtualisation")->state, ACCEL_ON);
	f.debugged = true;
	assert_int_equal(judged(&f, "APICv")->state, ACCEL_INHIBITED);
	assert_int_equal(judged(&f, "IPI virtualisation")->state, ACCEL_INHIBITED);
	f.debugged = false;
	f.apicv = 0;
	assert_int_equal(judged(&f, "posted interrupts")->state, ACCEL_OFF);
	f.machine_halt_poll_ns = 0;
	assert_int_equal(judged(&f, "halt polling")->state, ACCEL_OFF);
}

static void test_amd(void **state)
{
	struct accel_facts f = { .amd = true,
				 .ept = -1,
				 .npt = 1,
				 .apicv = -1,
				 .avic = 1,
				 .ipiv = -1,
				 .vpid = -1,
				 .tdp_mmu = -1,
				 .max_apic_id = 254,
				 .halt_poll_ns = -1,
				 .machine_halt_poll_ns = -1 };

	assert_int_equal(judged(&f, "NPT")->state, ACCEL_ON);
	assert_int_equal(judged(&f, "AVIC")->state, ACCEL_ON);
	assert_int_equal(judged(&f, "parallel second-level faults")->state, ACCEL_UNKNOWN);
	f.max_apic_id = 255;
	assert_int_equal(judged(&f, "AVIC")->state, ACCEL_INHIBITED);
	assert_non_null(strstr(judged(&f, "AVIC")->why, "255"));
	assert_int_equal(judged(&f, "posted interrupts")->state, ACCEL_INHIBITED);
	f.x2avic = f.guest_has_x2apic = true;
	assert_int_equal(judged(&f, "AVIC, x2AVIC")->state, ACCEL_ON);
	f.max_apic_id = 512;
	assert_int_equal(judged(&f, "AVIC, x2AVIC")->state, ACCEL_INHIBITED);
	f.max_apic_id = 3;
	f.extint_waits = true;
	assert_int_equal(judged(&f, "AVIC, x2AVIC")->state, ACCEL_INHIBITED);
	f.avic = 0;
	assert_int_equal(judged(&f, "AVIC, x2AVIC")->state, ACCEL_OFF);
	assert_true(judged(&f, "AVIC, x2AVIC")->read);
}

#define ON_KERNEL(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_KERNEL(test_good),
		ON_KERNEL(test_no_device),
		ON_KERNEL(test_no_permission),
		ON_KERNEL(test_device_busy),
		ON_KERNEL(test_hardware_busy),
		ON_KERNEL(test_version),
		ON_KERNEL(test_each_capability),
		ON_KERNEL(test_without_luxuries),
		ON_KERNEL(test_vcpu_limit),
		ON_KERNEL(test_apic_id_limit),
		ON_KERNEL(test_memslot_limit),
		ON_KERNEL(test_memory),
		ON_KERNEL(test_vcpu_refused),
		ON_KERNEL(test_files),
		ON_KERNEL(test_every_call),
		ON_KERNEL(test_halt_poll),
		ON_KERNEL(test_halt_poll_refused),
		ON_KERNEL(test_prefault),
		ON_KERNEL(test_no_prefault),
		cmocka_unit_test(test_intel),
		cmocka_unit_test(test_amd),
	};
	int failed;

	if (host_linux_create(&host))
		return 1;
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	host_linux_destroy(&host);
	return failed;
}
