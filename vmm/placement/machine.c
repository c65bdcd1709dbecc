/* machine.c - the machine model's memory and look-ups. */
#include "placement/machine.h"

#include <errno.h>
#include <stdlib.h>

#define DISTANCE_LOCAL  10
#define DISTANCE_REMOTE 20

int machine_alloc(struct machine_model *m, unsigned nr_pus, unsigned nr_nodes)
{
	*m = (struct machine_model){ 0 };
	if (!nr_pus || nr_pus > INT32_MAX || nr_nodes > MACHINE_NODES_MAX)
		return -EINVAL;
	m->nr_pus = nr_pus;
	m->nr_nodes = nr_nodes;
	m->pu = calloc(nr_pus, sizeof(*m->pu));
	/* Never empty, so that NULL means shortage alone. */
	m->node = calloc(nr_nodes + 1, sizeof(*m->node));
	m->distance = calloc((size_t)nr_nodes * nr_nodes + 1, sizeof(*m->distance));
	if (!m->pu || !m->node || !m->distance) {
		machine_free(m);
		return -ENOMEM;
	}
	for (unsigned i = 0; i < nr_nodes; i++)
		for (unsigned j = 0; j < nr_nodes; j++)
			m->distance[(size_t)i * nr_nodes + j] =
				i == j ? DISTANCE_LOCAL : DISTANCE_REMOTE;
	return 0;
}

void machine_free(struct machine_model *m)
{
	free(m->pu);
	free(m->node);
	free(m->distance);
	free(m->latency_ns);
	free(m->bandwidth_mibs);
	*m = (struct machine_model){ 0 };
}

unsigned machine_find_pu(const struct machine_model *m, unsigned os_index)
{
	for (unsigned i = 0; i < m->nr_pus; i++)
		if (m->pu[i].os_index == os_index)
			return i;
	return MACHINE_NONE;
}

unsigned machine_find_node(const struct machine_model *m, unsigned os_index)
{
	for (unsigned i = 0; i < m->nr_nodes; i++)
		if (m->node[i].os_index == os_index)
			return i;
	return MACHINE_NONE;
}
