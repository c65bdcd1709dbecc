/*
 * engine_kvm.h - the engine that runs guests on the processor's virtualisation,
 * through /dev/kvm. For struct vmm_config's engine. Installed.
 */
#ifndef HOST_LINUX_KVM_ENGINE_KVM_H
#define HOST_LINUX_KVM_ENGINE_KVM_H

#include "core/engine.h"

/*
 * Its probe() runs a tiny guest and says no where KVM works but is emulated or
 * slow: for those who choose. vmm_create() with this engine does not ask it.
 */
extern const struct engine_ops engine_kvm;

#endif
