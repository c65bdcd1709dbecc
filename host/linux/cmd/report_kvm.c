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

/* Only what happened. */
static void print_counters(FILE *out, struct vm *vm)
{
	unsigned nr = kvm_nr_counters(vm);

	fprintf(out, "\n%-28s %15s\n", "KVM counter", "total");
	for (unsigned id = 0; id < nr; id++) {
		const char *name = kvm_counter_name(vm, id);
		uint64_t n = name ? total(vm, id) : 0;

		if (n)
			fprintf(out, "%-28s %15llu\n", name, (unsigned long long)n);
	}
}

void report_kvm(FILE *out, struct vm *vm)
{
	struct accel a[ACCELS_MAX];
	unsigned nr = kvm_accelerations(vm, a);

	if (!nr)
		return;
	print_counters(out, vm);
	fprintf(out, "\n%-28s %-10s %s\n", "acceleration", "state", "known from");
	for (unsigned i = 0; i < nr; i++)
		fprintf(out, "%-28s %-10s %s: %s\n", a[i].name, accel_state_name(a[i].state),
			a[i].read ? "read" : "inferred", a[i].why);
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
