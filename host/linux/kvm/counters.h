/*
 * counters.h - what ended a vCPU's stays in its guest, under the KVM engine: those that
 * came to us ("user_..."), then the kernel's counters, by its own names.
 *
 * Any thread. The kernel's are as of the last time that the vCPU was kicked out: by a
 * pause, or by the machine's end.
 */
#ifndef HOST_LINUX_KVM_COUNTERS_H
#define HOST_LINUX_KVM_COUNTERS_H

#include "vmm.h"

/* 0 with another engine. Grows once, when the first vCPU is kicked. */
unsigned kvm_nr_counters(struct vm *vm);
const char *kvm_counter_name(struct vm *vm, unsigned id); /* NULL: nothing to tell */
uint64_t kvm_counter(struct vm *vm, unsigned vcpu, unsigned id);

#endif
