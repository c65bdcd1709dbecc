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

static const char *pages_name(uint64_t page_bytes)
{
	switch (page_bytes) {
	case MEM_PAGES_ANY:
		return "any";
	case MEM_PAGES_THP:
		return "thp";
	case MIB(2):
		return "2M";
	case GIB(1):
		return "1G";
	default:
		return "4K";
	}
}

/* "2G on host node 1", "2G in pages of 2M, 1G on host node 0, 1G on host node 1". */
static const char *memory_text(const struct plan *p, unsigned node, char *buf, size_t bytes)
{
	const struct plan_memory *mem = &p->memory[node];
	char size[SIZE_TEXT];
	int n = snprintf(buf, bytes, "%s", mem->bytes ? size_text(mem->bytes, size) : "no memory");

	if (mem->page_bytes)
		n += snprintf(buf + n, bytes - n, " in pages of %s", pages_name(mem->page_bytes));
	if (mem->host_node < 0 || !mem->bytes)
		return buf;
	if (mem->nr_shares < 2) {
		snprintf(buf + n, bytes - n, " on host node %d", mem->host_node);
		return buf;
	}
	for (unsigned i = 0; i < mem->nr_shares && n < (int)bytes; i++) {
		const struct mem_share *s = &p->share[mem->first_share + i];

		n += snprintf(buf + n, bytes - n, ", %s on host node %d", size_text(s->bytes, size),
			      s->node);
	}
	return buf;
}

static void print_node(struct tree *t, const struct machine_model *m, const struct plan *p,
		       unsigned node)
{
	bool last = node + 1 == p->nr_memory && !p->nr_io;
	unsigned last_vcpu = 0;
	char memory[256];

	tree_line(t, 1, last, "guest node %u: %s", node,
		  memory_text(p, node, memory, sizeof(memory)));
	for (unsigned i = 0; i < p->nr_vcpus; i++)
		if (p->vcpu[i].guest_node == node)
			last_vcpu = i;
	for (unsigned i = 0; i < p->nr_vcpus; i++)
		if (p->vcpu[i].guest_node == node)
			print_vcpu(t, m, p, i, i == last_vcpu);
}

static void print_io(struct tree *t, const struct plan_io *io, bool last)
{
	const char *shared = io->shared ? ", shared" : "";

	if (io->host_node < 0)
		tree_line(t, 1, last, "I/O on PU %u%s", io->pu, shared);
	else
		tree_line(t, 1, last, "I/O of host node %d on PU %u%s", io->host_node, io->pu,
			  shared);
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
	for (unsigned i = 0; i < p->nr_io; i++)
		print_io(&t, &p->io[i], i + 1 == p->nr_io);
}

/* --- its cost --------------------------------------------------------------------- */

static const struct cost_term {
	const char *name;
	size_t offset;
	const char *help;
} cost_terms[] = {
	{ "access", offsetof(struct plan_cost, access), "mean distance from a vCPU to its memory" },
	{ "smt", offsetof(struct plan_cost, smt), "pairs of vCPUs on one physical core" },
	{ "stacked", offsetof(struct plan_cost, stacked), "guest nodes that share a home" },
	{ "traffic", offsetof(struct plan_cost, traffic), "distance between homes" },
	{ "bandwidth", offsetof(struct plan_cost, bandwidth), "vCPUs a core of the busiest home" },
	{ "cache", offsetof(struct plan_cost, cache), "last-level caches beyond the fewest" },
	{ "io", offsetof(struct plan_cost, io), "distance to network and disk controllers" },
	{ "fragments", offsetof(struct plan_cost, fragments), "nodes broken for the next machine" },
	{ "total", offsetof(struct plan_cost, total), "" },
};

static double term_of(const struct plan_cost *c, const struct cost_term *t)
{
	double value;

	memcpy(&value, (const char *)c + t->offset, sizeof(value));
	return value;
}

static const char *policy_name(enum plan_policy policy)
{
	static const char *const name[] = {
		[PLAN_BALANCED] = "balanced",
		[PLAN_COMPACT] = "compact",
		[PLAN_SPREAD] = "spread",
		[PLAN_ISOLATE] = "isolate",
	};

	return name[policy];
}

void report_explanation(FILE *out, const struct plan *p)
{
	fprintf(out, "\npolicy %s; cost:\n", policy_name(p->policy));
	for (size_t i = 0; i < ARRAY_SIZE(cost_terms); i++)
		fprintf(out, "  %-10s %12.6f  %s\n", cost_terms[i].name,
			term_of(&p->cost, &cost_terms[i]), cost_terms[i].help);
	fprintf(out, "alternatives:\n");
	for (unsigned i = 0; i < p->nr_alternatives; i++) {
		const struct plan_alternative *a = &p->alternative[i];

		if (!a->feasible)
			fprintf(out, "  rejected  %-30s does not fit\n", a->what);
		else
			fprintf(out,
				"  %-9s %-30s cost %.6f (access %.3f, smt %.0f), %u guest node%s, "
				"%u vCPU%s away\n",
				a->chosen ? "chosen" : "rejected", a->what, a->cost.total,
				a->cost.access, a->cost.smt, a->nodes, a->nodes == 1 ? "" : "s",
				a->away, a->away == 1 ? "" : "s");
	}
}

static json_t *cost_json(const struct plan_cost *c)
{
	json_t *cost = json_object();

	for (size_t i = 0; i < ARRAY_SIZE(cost_terms); i++)
		json_object_set_new(cost, cost_terms[i].name,
				    json_real(term_of(c, &cost_terms[i])));
	return cost;
}

static json_t *alternatives_json(const struct plan *p)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < p->nr_alternatives; i++) {
		const struct plan_alternative *a = &p->alternative[i];
		json_t *cost = a->feasible ? cost_json(&a->cost) : json_null();

		json_array_append_new(list, json_pack("{s:s s:b s:b s:i s:o}", "what", a->what,
						      "feasible", a->feasible, "chosen", a->chosen,
						      "guest_nodes", a->nodes, "cost", cost));
	}
	return list;
}

static const char *memory_policy_name(enum mem_policy policy)
{
	static const char *const name[] = {
		[MEM_BIND] = "bind",
		[MEM_PREFERRED] = "preferred",
		[MEM_INTERLEAVE] = "interleave",
		[MEM_WEIGHTED] = "weighted",
	};

	return name[policy];
}

static json_t *memory_json(const struct plan *p, const struct plan_memory *mem)
{
	uint64_t page_bytes = mem_pages_reserved(mem->page_bytes) ? mem->page_bytes : 0;
	json_t *shares = json_array();

	for (unsigned i = 0; i < mem->nr_shares; i++) {
		const struct mem_share *s = &p->share[mem->first_share + i];

		json_array_append_new(shares,
				      json_pack("{s:i s:I s:i}", "host_node", s->node, "bytes",
						(json_int_t)s->bytes, "weight", s->weight));
	}
	return json_pack("{s:i s:i s:I s:I s:s s:o}", "guest_node", mem->guest_node, "host_node",
			 mem->host_node, "bytes", (json_int_t)mem->bytes, "page_bytes",
			 (json_int_t)page_bytes, "pages", pages_name(mem->page_bytes), "shares",
			 shares);
}

json_t *report_plan_json(const struct machine_model *m, const struct plan *p)
{
	json_t *vcpus = json_array(), *memory = json_array(), *io = json_array();

	for (unsigned i = 0; i < p->nr_vcpus; i++) {
		const struct plan_vcpu *v = &p->vcpu[i];
		const struct machine_pu *pu = pu_of(m, v);

		json_array_append_new(vcpus, json_pack("{s:i s:i s:i s:i s:i s:i s:b s:b}", "id", i,
						       "node", v->guest_node, "pu", v->pu, "core",
						       pu->core, "package", pu->package,
						       "host_node", v->host_node, "smt_sibling",
						       pu->smt != 0, "shared", v->shared));
	}
	for (unsigned i = 0; i < p->nr_memory; i++)
		json_array_append_new(memory, memory_json(p, &p->memory[i]));
	for (unsigned i = 0; i < p->nr_io; i++)
		json_array_append_new(io,
				      json_pack("{s:i s:i s:b}", "host_node", p->io[i].host_node,
						"pu", p->io[i].pu, "shared", p->io[i].shared));
	return json_pack("{s:s s:s s:o s:o s:o s:o s:o}", "policy", policy_name(p->policy),
			 "memory_policy", memory_policy_name(p->memory_policy), "vcpus", vcpus,
			 "memory", memory, "io", io, "cost", cost_json(&p->cost), "alternatives",
			 alternatives_json(p));
}

/* --- counters --------------------------------------------------------------------- */

static uint64_t counter_of(const json_t *vcpus, size_t i, enum vcpu_stat id)
{
	const json_t *vcpu = json_array_get(vcpus, i);

	return (uint64_t)json_integer_value(json_object_get(vcpu, stat_name(id)));
}

static void print_counter(FILE *out, const json_t *vcpus, enum vcpu_stat id)
{
	uint64_t sum = 0, least = UINT64_MAX, most = 0;
	size_t nr = json_array_size(vcpus);

	for (size_t i = 0; i < nr; i++) {
		uint64_t n = counter_of(vcpus, i, id);

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
		for (size_t i = 0; i < nr; i++)
			fprintf(out, " %13llu", (unsigned long long)counter_of(vcpus, i, id));
	fprintf(out, "  %s\n", stat_help(id));
}

void report_counters(FILE *out, const json_t *vcpus)
{
	size_t nr = json_array_size(vcpus);

	fprintf(out, "%-14s %15s", "counter", "total");
	if (nr > COLUMNS_MAX)
		fprintf(out, " %15s %15s", "least", "most");
	else if (nr > 1)
		for (size_t i = 0; i < nr; i++)
			fprintf(out, "       vCPU %2zu", i);
	fputc('\n', out);
	for (unsigned id = 0; id < STAT_COUNT; id++)
		print_counter(out, vcpus, (enum vcpu_stat)id);
}

void report_stats(FILE *out, struct vm *vm)
{
	json_t *vcpus = report_stats_json(vm);

	report_counters(out, vcpus);
	json_decref(vcpus);
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

json_t *report_populated_json(const struct vm *vm)
{
	const struct mem_report *m = vmm_populated(vm);

	return json_pack("{s:I s:f s:i s:I s:I}", "bytes", (json_int_t)m->bytes, "seconds",
			 (double)m->ns / 1e9, "threads", m->threads, "looked",
			 (json_int_t)m->looked, "placed", (json_int_t)m->placed);
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
