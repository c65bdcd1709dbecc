/*
 * test_foreign.c - other people's vCPU threads: their names, and how they are found
 * in /proc; lists of PUs.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "host/linux/foreign.h"
#include "host/linux/pu_list.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

/* --- names ------------------------------------------------------------------------------ */

static void assert_vcpu(const char *process, const char *thread, enum foreign_kind want,
			unsigned index)
{
	enum foreign_kind kind = FOREIGN_KINDS;
	unsigned got = ~0u;

	if (!foreign_parse_name(process, thread, &kind, &got))
		fail_msg("\"%s\" is not recognised", thread);
	assert_int_equal(kind, want);
	assert_int_equal(got, index);
}

static void names_of_vcpus(void **state)
{
	assert_vcpu("qemu-system-x86", "CPU 0/KVM", FOREIGN_QEMU, 0);
	assert_vcpu("qemu-system-x86", "CPU 17/TCG", FOREIGN_QEMU, 17);
	assert_vcpu("stratovirt", "CPU 1023/KVM", FOREIGN_QEMU, 1023);
	assert_vcpu("cloud-hyperviso", "vcpu3", FOREIGN_CLOUD_HYPERVISOR, 3);
	assert_vcpu("alcazar", "vcpu255", FOREIGN_ALCAZAR, 255);
	assert_vcpu("firecracker", "fc_vcpu 0", FOREIGN_FIRECRACKER, 0);
	assert_vcpu("crosvm", "crosvm_vcpu12", FOREIGN_CROSVM, 12);
	assert_vcpu("lkvm", "kvm-vcpu-2", FOREIGN_KVMTOOL, 2);
}

static void names_of_others(void **state)
{
	static const char *const names[] = {
		"",           "CPU",          "CPU /KVM", "CPU 0",        "CPU 0/",     "CPU x/KVM",
		"CPU -1/KVM", "ALL CPUs/TCG", "vcpu",     "vcpux",        "vcpu 1",     "vcpu1x",
		"vcpu99999",  "fc_vcpu",      "fc_vcpu ", "fc_vcpu 4096", "fc_vcpu  1", "Xvcpu0",
		"kvm-vcpu",   "crosvm_vcpu",  "vcpu+1",
	};
	enum foreign_kind kind;
	unsigned index;

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (foreign_parse_name("alcazar", names[i], &kind, &index))
			fail_msg("\"%s\" is taken for a vCPU", names[i]);
}

/* --- lists ------------------------------------------------------------------------------ */

static void lists_there_and_back(void **state)
{
	static const char *const lists[] = { "0", "0-3", "0,2,4", "1-2,64-127,4095", "63-64" };
	struct pu_set s;
	char buf[64];

	for (size_t i = 0; i < ARRAY_SIZE(lists); i++) {
		assert_true(pu_list_parse(lists[i], &s));
		assert_string_equal(pu_list_text(&s, buf, sizeof(buf)), lists[i]);
	}
	assert_true(pu_list_parse("", &s));
	assert_int_equal(pu_set_count(&s), 0);
	assert_string_equal(pu_list_text(&s, buf, sizeof(buf)), "none");
}

static void lists_that_are_none(void **state)
{
	static const char *const lists[] = { ",",      "0,",  "-1", "3-1",         "4096",
					     "0-4096", "1 2", "a",  "99999999999", "1-" };
	struct pu_set s;

	for (size_t i = 0; i < ARRAY_SIZE(lists); i++)
		if (pu_list_parse(lists[i], &s))
			fail_msg("\"%s\" is taken for a list", lists[i]);
}

static void lists_are_cut(void **state)
{
	struct pu_set s = { 0 };
	char buf[10];

	for (unsigned i = 0; i < 40; i += 2)
		pu_set_add(&s, i);
	assert_string_equal(pu_list_text(&s, buf, sizeof(buf)), "0,2,4...");
}

/* --- /proc -------------------------------------------------------------------------------- */

static void *vcpu_thread(void *arg)
{
	for (;;)
		pause();
	return NULL;
}

static void be_a_vmm(int ready)
{
	static const char *const names[] = { "CPU 1/KVM", "worker", "CPU 0/KVM" };
	cpu_set_t one;
	pthread_t t;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_NAME, "q\nemu");
	sched_getaffinity(0, sizeof(one), &one);
	for (int cpu = 0, seen = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &one) && seen++)
			CPU_CLR(cpu, &one);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		if (pthread_create(&t, NULL, vcpu_thread, NULL))
			_exit(1);
		pthread_setname_np(t, names[i]);
		pthread_setaffinity_np(t, sizeof(one), &one);
	}
	if (write(ready, "r", 1) != 1)
		_exit(1);
	pause();
	_exit(0);
}

static pid_t start_vmm(void)
{
	int fd[2];
	char c;
	pid_t pid;

	assert_int_equal(pipe(fd), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid)
		be_a_vmm(fd[1]);
	assert_int_equal(read(fd[0], &c, 1), 1);
	close(fd[0]);
	close(fd[1]);
	return pid;
}

static void end_vmm(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static void check_vmm(const struct foreign_process *p)
{
	assert_int_equal(p->kind, FOREIGN_QEMU);
	assert_string_equal(p->name, "q?emu");
	assert_int_equal(p->nr_vcpus, 2);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(p->vcpu[i].index, i);
		assert_int_equal(pu_set_count(&p->vcpu[i].pus), 1);
	}
	assert_int_not_equal(p->vcpu[0].tid, p->vcpu[1].tid);
}

static void a_process_is_found(void **state)
{
	pid_t pid = start_vmm();
	struct foreign_list l;
	struct foreign_process p;
	bool seen = false;

	assert_int_equal(foreign_scan(&l), 0);
	for (unsigned i = 0; i < l.nr; i++) {
		if (l.process[i].pid != pid)
			continue;
		check_vmm(&l.process[i]);
		seen = true;
	}
	foreign_list_free(&l);
	assert_true(seen);
	assert_int_equal(foreign_scan_pid(pid, &p), 0);
	check_vmm(&p);
	foreign_process_free(&p);
	end_vmm(pid);
	assert_int_equal(foreign_scan_pid(pid, &p), -ESRCH);
}

static void a_process_without_any(void **state)
{
	struct foreign_process p;

	assert_int_equal(foreign_scan_pid(getpid(), &p), -ENOENT);
	assert_null(p.vcpu);
}

static void pinned_or_floating(void **state)
{
	struct foreign_vcpu v = { 0 };
	struct pu_set usable = { 0 };

	for (unsigned i = 0; i < 4; i++) {
		pu_set_add(&usable, i);
		pu_set_add(&v.pus, i);
	}
	assert_false(foreign_pinned(&v, &usable));
	pu_set_add(&v.pus, 100);
	assert_false(foreign_pinned(&v, &usable));
	pu_set_del(&v.pus, 2);
	assert_true(foreign_pinned(&v, &usable));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_of_vcpus),        cmocka_unit_test(names_of_others),
		cmocka_unit_test(lists_there_and_back),  cmocka_unit_test(lists_that_are_none),
		cmocka_unit_test(lists_are_cut),         cmocka_unit_test(a_process_is_found),
		cmocka_unit_test(a_process_without_any), cmocka_unit_test(pinned_or_floating),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
