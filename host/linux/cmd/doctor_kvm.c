/*
 * doctor_kvm.c - KVM as the doctor sees it: capabilities as the kernel tells them,
 * speed as measured, accelerations as the modules' parameters say.
 */
#include "doctor.h"

#include "host/linux/kvm/kvm.h"
#include "host/linux/kvm/probe.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define AREA "KVM"

static void find_capabilities(struct doctor *d, int fd)
{
	for (unsigned i = 0; i < nr_kvm_caps; i++) {
		const struct kvm_cap *cap = &kvm_caps[i];
		int n = kvm_ioctl_n(fd, KVM_CHECK_EXTENSION, cap->id);

		if (n > 0)
			doctor_find(d, AREA, FINDING_GOOD, NULL, "KVM_CAP_%s = %d: %s", cap->name,
				    n, cap->why);
		else
			doctor_find(d, AREA, FINDING_FACT, NULL, "no KVM_CAP_%s: without %s",
				    cap->name, cap->why);
	}
	doctor_find(d, AREA, FINDING_FACT, NULL,
		    "at most %d vCPUs a machine, APIC IDs below %d, %d memory slots",
		    kvm_ioctl_n(fd, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS),
		    kvm_ioctl_n(fd, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPU_ID),
		    kvm_ioctl_n(fd, KVM_CHECK_EXTENSION, KVM_CAP_NR_MEMSLOTS));
}

static void find_speed(struct doctor *d, int fd)
{
	struct kvm_speed s;
	int err = kvm_measure(d->host, fd, &s);

	if (err)
		doctor_find(d, AREA, FINDING_PROBLEM,
			    "look at the kernel's log (dmesg); until then --engine soft",
			    "a test guest does not run: %s", strerror(-err));
	else if (s.slow)
		doctor_find(
			d, AREA, FINDING_PROBLEM,
			"take a host with VT-x or AMD-V, or have nested virtualisation switched "
			"on; --engine auto takes the software engine here",
			"guest code is emulated: %llu ns for one turn of a two-instruction "
			"loop (measured)",
			(unsigned long long)s.ps_per_loop / 1000);
	else
		doctor_find(d, AREA, FINDING_GOOD, NULL,
			    "guest code runs on the processor: %llu ps a turn of a loop, %llu ns "
			    "an exit (measured)",
			    (unsigned long long)s.ps_per_loop, (unsigned long long)s.exit_ns);
}

/* Parameters of the modules, and what they mean for guests. */
static const struct {
	const char *path, *what, *remedy;
} params[] = {
	{ "kvm_intel/parameters/ept", "EPT (second-level page tables)",
	  "modprobe kvm_intel ept=1" },
	{ "kvm_amd/parameters/npt", "NPT (second-level page tables)", "modprobe kvm_amd npt=1" },
	{ "kvm_intel/parameters/enable_apicv", "APICv and posted interrupts",
	  "modprobe kvm_intel enable_apicv=1, where the processor has it" },
	{ "kvm_intel/parameters/enable_ipiv", "IPI virtualisation",
	  "modprobe kvm_intel enable_ipiv=1, where the processor has it" },
	{ "kvm_amd/parameters/avic", "AVIC (x2AVIC where the processor has it)",
	  "modprobe kvm_amd avic=1, where the processor has it" },
	{ "kvm_intel/parameters/vpid", "VPID (TLB entries survive exits)",
	  "modprobe kvm_intel vpid=1" },
	{ "kvm/parameters/tdp_mmu", "parallel handling of second-level faults",
	  "modprobe kvm tdp_mmu=1" },
};

static void find_accelerations(struct doctor *d)
{
	char path[128], value[32];

	for (size_t i = 0; i < ARRAY_SIZE(params); i++) {
		bool on;

		snprintf(path, sizeof(path), "/sys/module/%s", params[i].path);
		if (doctor_read(path, value, sizeof(value)))
			continue;
		on = value[0] == 'Y' || value[0] == '1';
		doctor_find(d, AREA, on ? FINDING_GOOD : FINDING_PROBLEM,
			    on ? NULL : params[i].remedy, "%s: %s (read from %s)", params[i].what,
			    on ? "on" : "off", path);
	}
	if (!doctor_read("/sys/module/kvm/parameters/halt_poll_ns", value, sizeof(value)))
		doctor_find(d, AREA, FINDING_FACT, NULL,
			    "halt polling: up to %s ns before a vCPU sleeps (read)", value);
}

/* Bits of leaf 0x40000001, in what KVM offers to guests. */
static const struct {
	uint8_t bit;
	const char *name;
} pv[] = {
	{ 3, "kvmclock" },      { 5, "steal time" },      { 6, "EOI in memory" },
	{ 7, "unhalt" },        { 9, "TLB flush" },       { 11, "IPI" },
	{ 12, "poll control" }, { 13, "directed yield" }, { 24, "stable clock" },
};

static void find_paravirtual(struct doctor *d, int fd)
{
	struct kvm_cpuid2 *c = NULL;
	char have[200] = "";
	size_t used = 0;

	if (kvm_supported_cpuid(fd, &c))
		return;
	for (unsigned i = 0; i < c->nent; i++) {
		if (c->entries[i].function != 0x40000001)
			continue;
		for (size_t n = 0; n < ARRAY_SIZE(pv); n++)
			if (c->entries[i].eax & BIT(pv[n].bit))
				used += (size_t)snprintf(have + used, sizeof(have) - used, "%s%s",
							 used ? ", " : "", pv[n].name);
	}
	doctor_find(d, AREA, FINDING_FACT, NULL, "paravirtual features: %s", *have ? have : "none");
	free(c);
}

void doctor_kvm(struct doctor *d)
{
	char why[256] = "";
	int fd = kvm_open(why, sizeof(why));

	if (fd < 0) {
		char *remedy = strrchr(why, ':');

		if (remedy)
			*remedy = '\0';
		doctor_find(d, AREA, FINDING_PROBLEM, remedy ? remedy + 2 : "use --engine soft",
			    "%s", why);
		return;
	}
	doctor_find(d, AREA, FINDING_GOOD, NULL, KVM_DEVICE " opens");
	find_speed(d, fd);
	find_capabilities(d, fd);
	find_accelerations(d);
	find_paravirtual(d, fd);
	close(fd);
}
