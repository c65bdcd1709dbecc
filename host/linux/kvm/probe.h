/* probe.h - what the probe measures; for those who report it. */
#ifndef HOST_LINUX_KVM_PROBE_H
#define HOST_LINUX_KVM_PROBE_H

#include "core/host.h"

struct kvm_speed {
	uint64_t exit_ns;     /* there and back */
	uint64_t loop_ns;     /* with the loop */
	uint64_t ps_per_loop; /* picoseconds for one turn of two instructions */
	bool slow;            /* no processor takes that long: guest code is interpreted */
};

/* -errno when the guest does not run. A few milliseconds at most. */
int kvm_measure(const struct host *h, int kvm_fd, struct kvm_speed *s);

#endif
