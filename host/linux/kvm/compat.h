/*
 * compat.h - what <linux/kvm.h> of Debian 12 (Linux 6.1) does not know yet.
 * Kernels without it answer 0 to the capability. Linux' Documentation/virt/kvm/api.rst.
 */
#ifndef HOST_LINUX_KVM_COMPAT_H
#define HOST_LINUX_KVM_COMPAT_H

#include <linux/kvm.h>

/* Linux 6.11 */
#ifndef KVM_CAP_PRE_FAULT_MEMORY
#define KVM_CAP_PRE_FAULT_MEMORY 236
struct kvm_pre_fault_memory {
	__u64 gpa;
	__u64 size;
	__u64 flags;
	__u64 padding[5];
};
#define KVM_PRE_FAULT_MEMORY _IOWR(KVMIO, 0xd5, struct kvm_pre_fault_memory)
#endif

#endif
