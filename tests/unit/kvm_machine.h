/*
 * kvm_machine.h - a machine without devices for tests of the KVM engine: made and taken
 * apart by the test, run by its own thread.
 */
#ifndef TESTS_UNIT_KVM_MACHINE_H
#define TESTS_UNIT_KVM_MACHINE_H

#include "host/linux/host_linux.h"
#include "host/linux/kvm/engine_kvm.h"
#include "host/linux/kvm/kvm.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#define RAM MIB(2)

struct machine {
	struct vm *vm;
	struct vcpu *vcpu;
	uint8_t *ram;
};

static struct host host;
static struct machine m;

static inline void *zalloc(size_t bytes)
{
	void *p = aligned_alloc(64, ALIGN_UP(bytes, 64));

	assert_non_null(p);
	return memset(p, 0, ALIGN_UP(bytes, 64));
}

static inline void build(unsigned vcpus)
{
	struct topo_request treq = { .vcpus = vcpus, .nodes = 1, .node_memory_bytes = { RAM } };
	struct cpuid_request creq;
	struct vm *vm = zalloc(sizeof(*vm));
	char why[200] = "";

	m.vm = vm;
	vm->host = host;
	vm->cfg.name = "test";
	vm->engine = &engine_kvm;
	assert_int_equal(clock_init(&vm->clock, &vm->host, CLOCK_HOST), 0);
	assert_int_equal(topo_build(&vm->topo, &treq, why, sizeof(why)), 0);
	assert_int_equal(host.ops->mem_map(host.ctx, HOST_RAM(RAM, HOST_NODE_ANY), &vm->region[0]),
			 0);
	m.ram = vm->region[0].base;
	assert_int_equal(gmem_add(&vm->gmem, 0, RAM, m.ram, 0), 0);
	creq = (struct cpuid_request){ .topo = &vm->topo,
				       .tsc_khz = vm->clock.khz,
				       .gpa_end = RAM };
	assert_int_equal(cpuid_build(&vm->cpuid, &creq, why, sizeof(why)), 0);
	vm->nr_vcpus = vcpus;
	vm->vcpu = calloc(vcpus, sizeof(*vm->vcpu));
	for (unsigned i = 0; i < vcpus; i++) {
		vm->vcpu[i] = zalloc(vcpu_bytes(vm->engine));
		vm->vcpu[i]->vm = vm;
		vm->vcpu[i]->id = i;
		vm->vcpu[i]->apic_id = vm->topo.vcpu[i].apic_id;
		vm->vcpu[i]->host_node = HOST_NODE_ANY;
	}
	m.vcpu = vm->vcpu[0];
	clock_start(&vm->clock);
}

static inline void destroy(void)
{
	struct vm *vm = m.vm;

	for (unsigned i = 0; i < vm->nr_vcpus; i++) {
		engine_kvm.vcpu_destroy(vm->vcpu[i]);
		free(vm->vcpu[i]);
	}
	engine_kvm.destroy(vm);
	host.ops->mem_unmap(host.ctx, &vm->region[0]);
	free(vm->vcpu);
	free(vm);
}

static inline unsigned open_files(void)
{
	unsigned n = 0;

	for (int fd = 0; fd < 1024; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

#endif
