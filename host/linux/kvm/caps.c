/* caps.c - what the engine wants of KVM, by name, and opening /dev/kvm. */
#include "kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define API_VERSION 12 /* since Linux 2.6.22, and for ever */

#define CAP(id, needed, why)                                                                       \
	{                                                                                          \
		KVM_CAP_##id, #id, needed, why                                                     \
	}

/* clang-format off */
const struct kvm_cap kvm_caps[] = {
	CAP(USER_MEMORY,	true,  "guest memory"),
	CAP(EXT_CPUID,		true,  "CPUID"),
	CAP(SPLIT_IRQCHIP,	true,  "local APICs in the kernel, the other controllers ours"),
	CAP(SIGNAL_MSI,		true,  "messages to local APICs"),
	CAP(X2APIC_API,		true,  "32-bit APIC IDs"),
	CAP(IMMEDIATE_EXIT,	true,  "kicks that are never lost"),
	CAP(MP_STATE,		true,  "start-up of application processors"),
	CAP(VCPU_EVENTS,	true,  "state: pending events"),
	CAP(DEBUGREGS,		true,  "state: debug registers"),
	CAP(XSAVE,		true,  "state: x87, SSE, AVX"),
	CAP(XCRS,		false, "state: XCR0, where the processor has XSAVE"),
	CAP(ADJUST_CLOCK,	true,  "kvmclock follows the machine's clock"),
	CAP(GET_TSC_KHZ,	true,  "rate of the guest's TSC"),
	CAP(X86_USER_SPACE_MSR,	false, "unknown MSRs are counted and named"),
	CAP(X86_MSR_FILTER,	false, "only MSRs on our list reach the kernel"),
	CAP(IRQ_ROUTING,	true,  "ends of level-triggered interrupts"),
	CAP(IRQFD,		false, "interrupts from event descriptors"),
	CAP(IOEVENTFD,		false, "doorbells without an exit"),
	CAP(TSC_DEADLINE_TIMER,	false, "the guest's TSC-deadline timer"),
	CAP(TSC_CONTROL,	false, "TSC rates other than the host's"),
	CAP(SET_GUEST_DEBUG,	false, "debuggers"),
	CAP(STEAL_TIME,		false, "steal time"),
	CAP(HALT_POLL,		false, "halt polling for each machine"),
	CAP(BINARY_STATS_FD,	false, "the kernel's statistics"),
	CAP(DIRTY_LOG_RING,	false, "dirty ring"),
	CAP(X86_DISABLE_EXITS,	false, "PAUSE without exits on dedicated CPUs"),
	CAP(PRE_FAULT_MEMORY,	false, "second-level page tables filled ahead"),
};
/* clang-format on */

const unsigned nr_kvm_caps = ARRAY_SIZE(kvm_caps);

static int open_device(void)
{
	return open(KVM_DEVICE, O_RDWR | O_CLOEXEC);
}

static int call_ioctl(int fd, unsigned long request, void *arg)
{
	return ioctl(fd, request, arg);
}

const struct kvm_sys kvm_sys_linux = { open_device, call_ioctl };
const struct kvm_sys *kvm_sys = &kvm_sys_linux;

int kvm_ioctl(int fd, unsigned long request, void *arg)
{
	int n;

	do
		n = kvm_sys->ioctl(fd, request, arg);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

static const char *open_remedy(int err)
{
	switch (err) {
	case ENOENT:
		return "load kvm_intel or kvm_amd, or enable virtualisation in the firmware";
	case EACCES:
	case EPERM:
		return "join group kvm (usermod -aG kvm USER) and log in again";
	case EBUSY:
		return "another hypervisor uses the processor's virtualisation: end it";
	default:
		return "see `alcazar doctor`";
	}
}

static int check_caps(int fd, char *why, size_t why_bytes)
{
	int version = kvm_ioctl_n(fd, KVM_GET_API_VERSION, 0);

	if (version != API_VERSION) {
		snprintf(why, why_bytes,
			 KVM_DEVICE ": no KVM of version %d (%d): take another kernel", API_VERSION,
			 version);
		return -ENOTSUP;
	}
	for (unsigned i = 0; i < nr_kvm_caps; i++) {
		const struct kvm_cap *cap = &kvm_caps[i];

		if (!cap->needed || kvm_ioctl_n(fd, KVM_CHECK_EXTENSION, cap->id) > 0)
			continue;
		snprintf(why, why_bytes,
			 "KVM lacks KVM_CAP_%s (%s): take Linux 5.14 or later, or --engine soft",
			 cap->name, cap->why);
		return -ENOTSUP;
	}
	return 0;
}

int kvm_open(char *why, size_t why_bytes)
{
	int fd = kvm_sys->open(), err;

	if (fd < 0) {
		err = errno;
		snprintf(why, why_bytes, KVM_DEVICE " cannot be opened: %s: %s", strerror(err),
			 open_remedy(err));
		return -err;
	}
	err = check_caps(fd, why, why_bytes);
	if (!err)
		return fd;
	close(fd);
	return err;
}
