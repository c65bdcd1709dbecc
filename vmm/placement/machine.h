/*
 * machine.h - the machine model: what a host is made of, as placement sees it.
 *
 * Plain data: an embedder (host/linux by hwloc, host/sim by hand) fills it, the
 * planner reads it. Indexes into pu[] and node[] are logical; os_index is what
 * the system calls the thing. Leaf header. Installed.
 */
#ifndef VMM_PLACEMENT_MACHINE_H
#define VMM_PLACEMENT_MACHINE_H

#include "core/pu_set.h"
#include "core/util.h"

#define MACHINE_NODES_MAX  1024
#define MACHINE_NONE       UINT32_MAX
#define MACHINE_PAGE_SIZES 4
#define MACHINE_IOS_MAX    64

/* Logical order: PUs of a core are neighbours, cores of a node are neighbours. */
struct machine_pu {
	unsigned os_index;
	unsigned core; /* machine-wide index of the physical core */
	unsigned smt;  /* 0 for the first PU of its core */
	unsigned llc;  /* machine-wide index of the last-level cache */
	unsigned die;  /* machine-wide */
	unsigned package;
	unsigned node; /* index into node[], or MACHINE_NONE */
	bool usable;   /* online and allowed to this process */
};

/* Huge pages of one size that are reserved on a node. */
struct machine_pages {
	uint64_t bytes;
	uint64_t total, free;
};

struct machine_node {
	unsigned os_index;
	unsigned package;      /* MACHINE_NONE if it belongs to none */
	uint64_t memory_bytes; /* 0: has CPUs only */
	uint64_t free_bytes;
	struct machine_pages huge[MACHINE_PAGE_SIZES]; /* unused ones have bytes 0 */
	bool usable;                                   /* this process may allocate there */
	unsigned weight; /* of weighted interleaving, 1..255; 0: nobody has said */
};

enum machine_io_kind { MACHINE_IO_NETWORK, MACHINE_IO_DISK };

struct machine_io {
	char name[32];
	enum machine_io_kind kind;
	unsigned node; /* index into node[], or MACHINE_NONE */
};

struct machine_model {
	char name[64];
	unsigned nr_pus, nr_cores, nr_llcs, nr_dies, nr_packages, nr_nodes;
	struct machine_pu *pu;
	struct machine_node *node;
	bool has_distances; /* the machine told them; otherwise they are 10 and 20 */
	unsigned *distance; /* nr_nodes x nr_nodes, ACPI SLIT units: 10 is local */
	/* As measured, nr_nodes x nr_nodes, from a CPU of the first to memory of the second. */
	unsigned *latency_ns;     /* NULL: not measured */
	unsigned *bandwidth_mibs; /* MiB/s; NULL: not measured */
	struct machine_io io[MACHINE_IOS_MAX];
	unsigned nr_ios;
	uint64_t l1d_bytes, l1i_bytes, l2_bytes, llc_bytes; /* of the first of each; 0 unknown */
};

/* Allocate the arrays, zeroed; distances 10 and 20. -ENOMEM, -EINVAL. */
int machine_alloc(struct machine_model *m, unsigned nr_pus, unsigned nr_nodes);
void machine_free(struct machine_model *m); /* zeroed again */

static inline unsigned machine_distance(const struct machine_model *m, unsigned from, unsigned to)
{
	return m->distance[(size_t)from * m->nr_nodes + to];
}

/* The logical index of a PU or node by OS index, or MACHINE_NONE. */
unsigned machine_find_pu(const struct machine_model *m, unsigned os_index);
unsigned machine_find_node(const struct machine_model *m, unsigned os_index);

#endif
