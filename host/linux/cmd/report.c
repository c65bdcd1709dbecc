/* report.c - see report.h. */
#include "report.h"

#include "cmd.h"
#include "tree.h"

#define COLUMNS_MAX 8 /* more vCPUs than this are summed up */

/* --- the plan --------------------------------------------------------------------- */

static const struct machine_pu *pu_of(const struct machine_model *m, const struct plan_vcpu *v)
{
	return &m->pu[machine_find_pu(m, v->pu)];
}

static unsigned count_pus(const struct plan *p)
{
	struct pu_set pus = { 0 };

	for (unsigned i = 0; i < p->nr_vcpus; i++)
		pu_set_add(&pus, p->vcpu[i].pu);
	return pu_set_count(&pus);
}

static void print_vcpu(struct tree *t, const struct machine_model *m, const struct plan *p,
		       unsigned i, bool last)
{
	const struct plan_vcpu *v = &p->vcpu[i];
	const struct machine_pu *pu = pu_of(m, v);
	const struct plan_memory *home = &p->memory[v->guest_node];

	tree_line(t, 2, last, "vCPU %u on PU %u: core %u, package %u%s%s%s", i, v->pu, pu->core,
		  pu->package, pu->smt ? ", SMT sibling" : "", v->shared ? ", shared" : "",
		  v->host_node != home->host_node ? ", away from its memory" : "");
}

static void print_node(struct tree *t, const struct machine_model *m, const struct plan *p,
		       unsigned node)
{
	const struct plan_memory *mem = &p->memory[node];
	unsigned last_vcpu = 0;
	char bytes[SIZE_TEXT];

	if (mem->host_node < 0)
		tree_line(t, 1, node + 1 == p->nr_memory, "guest node %u: %s", node,
			  size_text(mem->bytes, bytes));
	else
		tree_line(t, 1, node + 1 == p->nr_memory, "guest node %u: %s on host node %d", node,
			  size_text(mem->bytes, bytes), mem->host_node);
	for (unsigned i = 0; i < p->nr_vcpus; i++)
		if (p->vcpu[i].guest_node == node)
			last_vcpu = i;
	for (unsigned i = 0; i < p->nr_vcpus; i++)
		if (p->vcpu[i].guest_node == node)
			print_vcpu(t, m, p, i, i == last_vcpu);
}

void report_plan(FILE *out, const char *name, const struct machine_model *m, const struct plan *p)
{
	struct tree t = tree_on(out);
	uint64_t bytes = 0;
	char text[SIZE_TEXT];

	for (unsigned i = 0; i < p->nr_memory; i++)
		bytes += p->memory[i].bytes;
	tree_line(&t, 0, true, "%s: %u vCPU%s on %u PU%s, %s", name, p->nr_vcpus,
		  p->nr_vcpus == 1 ? "" : "s", count_pus(p), count_pus(p) == 1 ? "" : "s",
		  size_text(bytes, text));
	for (unsigned i = 0; i < p->nr_memory; i++)
		print_node(&t, m, p, i);
}

json_t *report_plan_json(const struct machine_model *m, const struct plan *p)
{
	json_t *vcpus = json_array(), *memory = json_array();

	for (unsigned i = 0; i < p->nr_vcpus; i++) {
		const struct plan_vcpu *v = &p->vcpu[i];
		const struct machine_pu *pu = pu_of(m, v);

		json_array_append_new(vcpus, json_pack("{s:i s:i s:i s:i s:i s:i s:b s:b}", "vcpu",
						       i, "node", v->guest_node, "pu", v->pu,
						       "core", pu->core, "package", pu->package,
						       "host_node", v->host_node, "smt_sibling",
						       pu->smt != 0, "shared", v->shared));
	}
	for (unsigned i = 0; i < p->nr_memory; i++)
		json_array_append_new(memory,
				      json_pack("{s:i s:i s:I}", "node", p->memory[i].guest_node,
						"host_node", p->memory[i].host_node, "bytes",
						(json_int_t)p->memory[i].bytes));
	return json_pack("{s:o s:o}", "vcpus", vcpus, "memory", memory);
}

/* --- counters --------------------------------------------------------------------- */

static void print_counter(FILE *out, struct vm *vm, enum vcpu_stat id)
{
	uint64_t sum = 0, least = UINT64_MAX, most = 0;
	unsigned nr = vmm_vcpus(vm);

	for (unsigned i = 0; i < nr; i++) {
		uint64_t n = vmm_stat(vm, i, id);

		sum += n;
		least = MIN(least, n);
		most = MAX(most, n);
	}
	if (!sum)
		return;
	fprintf(out, "%-14s %15llu", stat_name(id), (unsigned long long)sum);
	if (nr > COLUMNS_MAX)
		fprintf(out, " %15llu %15llu", (unsigned long long)least, (unsigned long long)most);
	else if (nr > 1)
		for (unsigned i = 0; i < nr; i++)
			fprintf(out, " %13llu", (unsigned long long)vmm_stat(vm, i, id));
	fprintf(out, "  %s\n", stat_help(id));
}

void report_stats(FILE *out, struct vm *vm)
{
	unsigned nr = vmm_vcpus(vm);

	fprintf(out, "%-14s %15s", "counter", "total");
	if (nr > COLUMNS_MAX)
		fprintf(out, " %15s %15s", "least", "most");
	else if (nr > 1)
		for (unsigned i = 0; i < nr; i++)
			fprintf(out, "       vCPU %2u", i);
	fputc('\n', out);
	for (unsigned id = 0; id < STAT_COUNT; id++)
		print_counter(out, vm, (enum vcpu_stat)id);
}

json_t *report_stats_json(struct vm *vm)
{
	json_t *vcpus = json_array();

	for (unsigned i = 0; i < vmm_vcpus(vm); i++) {
		json_t *counters = json_object();

		for (unsigned id = 0; id < STAT_COUNT; id++)
			json_object_set_new(counters, stat_name((enum vcpu_stat)id),
					    json_integer((json_int_t)vmm_stat(vm, i,
									      (enum vcpu_stat)id)));
		json_array_append_new(vcpus, counters);
	}
	return vcpus;
}

/* --- the rest --------------------------------------------------------------------- */

const char *report_end_name(enum vmm_end end)
{
	static const char *const name[] = {
		[VMM_RUNNING] = "running", [VMM_POWEROFF] = "poweroff",
		[VMM_RESET] = "reset",     [VMM_TRIPLE_FAULT] = "triple fault",
		[VMM_EXIT] = "exit port",  [VMM_STOPPED] = "stopped",
		[VMM_ERROR] = "error",
	};

	return name[end];
}

int report_json(json_t *doc, size_t flags, int status)
{
	bool failed = !doc || json_dumpf(doc, stdout, flags);

	json_decref(doc);
	if (failed)
		return internal_error("cannot make the JSON document: out of memory");
	putchar('\n');
	return finish_output(status);
}
