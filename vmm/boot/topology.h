/*
 * topology.h - the guest's topology: the one model from which CPUID, MADT, SRAT,
 * SLIT and HMAT are made, so that they cannot contradict each other.
 *
 * Constant once built. Leaf header but for util.h.
 */
#ifndef VMM_BOOT_TOPOLOGY_H
#define VMM_BOOT_TOPOLOGY_H

#include "core/util.h"

#define TOPO_VCPUS_MAX 1024
#define TOPO_NODES_MAX 64

struct topo_cache {
	uint8_t level; /* 1..3 */
	uint8_t type;  /* CPUID leaf 4: 1 data, 2 instruction, 3 unified */
	uint32_t bytes;
	uint16_t line_bytes;
	uint16_t ways;
	uint16_t shared_by; /* vCPUs that share one, in APIC ID order */
	uint8_t apic_bits;  /* their APIC IDs differ in this many low bits only */
};

struct topo_vcpu {
	uint32_t apic_id;
	uint16_t package, die, core, thread; /* package machine-wide, the rest within parent */
	uint16_t node;
};

struct topo_node {
	uint64_t memory_bytes;         /* 0: CPUs only */
	unsigned first_vcpu, nr_vcpus; /* none: memory only */
};

struct topology {
	unsigned nr_vcpus, nr_nodes, nr_packages;
	unsigned dies, cores, threads;             /* per package, per die, per core */
	unsigned thread_bits, core_bits, die_bits; /* APIC ID fields, from bit 0 up */
	struct topo_cache cache[4];
	unsigned nr_caches;
	struct topo_vcpu vcpu[TOPO_VCPUS_MAX];
	struct topo_node node[TOPO_NODES_MAX];
	uint8_t distance[TOPO_NODES_MAX][TOPO_NODES_MAX]; /* 10 local .. 254 */
	/* From a CPU of the first node to memory of the second. */
	uint16_t latency_ns[TOPO_NODES_MAX][TOPO_NODES_MAX];
	uint32_t bandwidth_mbs[TOPO_NODES_MAX][TOPO_NODES_MAX]; /* MB/s */
};

/* Where a vCPU is seen: package machine-wide, the rest within its parent. */
struct topo_position {
	uint16_t package, die, core, thread;
	uint16_t node;
};

struct topo_request {
	unsigned vcpus, nodes;
	unsigned packages, dies, cores, threads; /* 0: chosen; packages default to nodes */
	uint64_t node_memory_bytes[TOPO_NODES_MAX];
	const uint8_t *distance;       /* nodes x nodes, or NULL: 10 and 20 */
	const uint32_t *latency_ns;    /* nodes x nodes, or NULL: scaled from the distances */
	const uint32_t *bandwidth_mbs; /* the same */
	/*
	 * Of each vCPU, ascending, or NULL: dealt evenly. With positions, the counts
	 * above are what comes out of them and are not looked at.
	 */
	const struct topo_position *position;
	uint32_t l1d_bytes, l1i_bytes, l2_bytes, l3_bytes; /* 0: a sensible default */
};

/* -EINVAL, and why[] says what contradicts what. */
int topo_build(struct topology *t, const struct topo_request *r, char *why, size_t why_bytes);

#endif
