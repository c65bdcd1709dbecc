/*
 * plan_shape.c - what the guest sees of its placement: packages, dies, cores, threads.
 *
 * A die is the PUs of one last-level cache at one place, a core is a physical core,
 * siblings are siblings. Guest nodes whose homes are nodes of one package share a
 * guest package. vCPUs come in order, so a border lies wherever the host changes;
 * vCPUs that share a PU are cores of their own, for the guest's scheduler should not
 * take them for siblings.
 */
#include "placement/plan_int.h"

static unsigned package_of_home(const struct machine_model *m, const struct plan_memory *mem)
{
	unsigned node =
		mem->host_node < 0 ? MACHINE_NONE : machine_find_node(m, (unsigned)mem->host_node);

	return node == MACHINE_NONE ? MACHINE_NONE : m->node[node].package;
}

/* @last: the guest node before @g that has vCPUs. */
static bool shares_package(const struct machine_model *m, const struct plan *out, unsigned g,
			   unsigned last)
{
	unsigned package = package_of_home(m, &out->memory[g]);

	return package != MACHINE_NONE && package == package_of_home(m, &out->memory[last]) &&
	       out->memory[g].host_node != out->memory[last].host_node;
}

static bool same_die(const struct machine_pu *a, const struct machine_pu *b)
{
	return a->llc == b->llc && a->node == b->node && a->package == b->package;
}

static void follow(struct plan_vcpu *v, const struct plan_vcpu *last, const struct machine_pu *pu,
		   const struct machine_pu *last_pu)
{
	v->package = last->package;
	v->die = last->die;
	v->core = last->core;
	if (!same_die(pu, last_pu)) {
		v->die++;
		v->core = 0;
	} else if (pu->core != last_pu->core || pu->os_index == last_pu->os_index || v->shared ||
		   last->shared) {
		v->core++;
	} else {
		v->thread = (uint16_t)(last->thread + 1);
	}
}

void plan_shape(const struct machine_model *m, struct plan *out)
{
	const struct machine_pu *last_pu = NULL;

	for (unsigned i = 0; i < out->nr_vcpus; i++) {
		struct plan_vcpu *v = &out->vcpu[i], *last = i ? v - 1 : NULL;
		const struct machine_pu *pu = &m->pu[machine_find_pu(m, v->pu)];

		v->package = v->die = v->core = v->thread = 0;
		if (last && last->guest_node == v->guest_node) {
			follow(v, last, pu, last_pu);
		} else if (last && shares_package(m, out, v->guest_node, last->guest_node)) {
			v->package = last->package;
			v->die = (uint16_t)(last->die + 1);
		} else if (last) {
			v->package = (uint16_t)(last->package + 1);
		}
		last_pu = pu;
	}
}
