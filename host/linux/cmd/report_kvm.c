/* report_kvm.c - what the KVM engine tells of a machine: exits by reason, accelerations. */
#include "report.h"

#include "host/linux/kvm/accel.h"
#include "host/linux/kvm/counters.h"

static uint64_t total(struct vm *vm, unsigned id)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < vmm_vcpus(vm); i++)
		sum += kvm_counter(vm, i, id);
	return sum;
}

json_t *report_kvm_json(struct vm *vm)
{
	struct accel a[ACCELS_MAX];
	unsigned nr = kvm_accelerations(vm, a);
	json_t *counters, *accels;

	if (!nr)
		return NULL;
	counters = json_object();
	accels = json_array();
	for (unsigned id = 0; id < kvm_nr_counters(vm); id++)
		if (kvm_counter_name(vm, id))
			json_object_set_new(counters, kvm_counter_name(vm, id),
					    json_integer((json_int_t)total(vm, id)));
	for (unsigned i = 0; i < nr; i++)
		json_array_append_new(accels, json_pack("{s:s s:s s:b s:s}", "name", a[i].name,
							"state", accel_state_name(a[i].state),
							"read", a[i].read, "why", a[i].why));
	return json_pack("{s:o s:o}", "counters", counters, "accelerations", accels);
}

/* Only what happened. */
static void print_counters(FILE *out, const json_t *counters)
{
	const char *name;
	json_t *n;

	fprintf(out, "\n%-28s %15s\n", "KVM counter", "total");
	json_object_foreach((json_t *)counters, name, n) if (json_integer_value(n))
		fprintf(out, "%-28s %15lld\n", name, (long long)json_integer_value(n));
}

static const char *text(const json_t *doc, const char *key)
{
	const char *s = json_string_value(json_object_get(doc, key));

	return s ? s : "";
}

void report_accelerations(FILE *out, const json_t *kvm)
{
	const json_t *accel;
	size_t i;

	if (!kvm)
		return;
	print_counters(out, json_object_get(kvm, "counters"));
	fprintf(out, "\n%-28s %-10s %s\n", "acceleration", "state", "known from");
	json_array_foreach(json_object_get(kvm, "accelerations"), i, accel)
		fprintf(out, "%-28s %-10s %s: %s\n", text(accel, "name"), text(accel, "state"),
			json_is_true(json_object_get(accel, "read")) ? "read" : "inferred",
			text(accel, "why"));
}

void report_kvm(FILE *out, struct vm *vm)
{
	json_t *kvm = report_kvm_json(vm);

	report_accelerations(out, kvm);
	json_decref(kvm);
}
