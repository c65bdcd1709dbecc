/*
 * sample.h - what vCPUs spend their time with, found by looking now and then.
 *
 * Each vCPU keeps saying what it is doing (vcpu_doing()), which costs a store; a
 * timer of the host looks every few milliseconds and charges the time since its last
 * look to what it sees. Time is the host's, so that a thread that waits for its PU
 * counts, too. With vmm_config.sample_time only.
 */
#ifndef VMM_CORE_SAMPLE_H
#define VMM_CORE_SAMPLE_H

#include "core/vm.h"

struct sampler;

/* Once the vCPUs' threads stand. -ENOMEM, or what the host says of its timer. */
int sampler_start(struct vm *vm);
/* No vCPU is looked at any more. */
void sampler_stop(struct vm *vm);

#endif
