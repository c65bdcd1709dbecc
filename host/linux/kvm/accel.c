/*
 * accel.c - see accel.h. The rules are those of arch/x86/kvm in Linux 6.1 and later:
 * svm/avic.c (AVIC's inhibitions, AVIC_MAX_PHYSICAL_ID, X2AVIC_MAX_PHYSICAL_ID),
 * vmx/vmx.c (vmx_can_use_ipiv, EPT), x86.c (kvm_can_post_timer_interrupt, halt polling).
 */
#include "accel.h"

#include "counters.h"
#include "kvm.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define MODULES          "/sys/module/"
#define AVIC_MAX_ID      254 /* what its tables reach */
#define X2AVIC_MAX_ID    511
#define PV_LEAF          0x40000001u
#define CPUINFO_LINE_MAX 8192

/* --- facts ------------------------------------------------------------------------------- */

static bool read_text(const char *path, char *buf, size_t bytes)
{
	FILE *f = fopen(path, "re");
	bool good;

	if (!f)
		return false;
	good = fgets(buf, (int)bytes, f);
	fclose(f);
	return good;
}

/* -1: no such parameter; Y and N are 1 and 0. */
static int64_t parameter(const char *path)
{
	char file[128], text[32];

	snprintf(file, sizeof(file), MODULES "%s", path);
	if (!read_text(file, text, sizeof(text)))
		return -1;
	if (*text == 'Y' || *text == 'N')
		return *text == 'Y';
	return strtoll(text, NULL, 10);
}

/* Of the first processor: all are alike as far as it matters. */
static void read_cpuinfo(struct accel_facts *f)
{
	FILE *in = fopen("/proc/cpuinfo", "re");
	char *line = malloc(CPUINFO_LINE_MAX);
	unsigned lines = 0;

	while (in && line && lines++ < 64 && fgets(line, CPUINFO_LINE_MAX, in)) {
		if (!strncmp(line, "vendor_id", 9))
			f->amd = strstr(line, "AMD") || strstr(line, "Hygon");
		if (!strncmp(line, "flags", 5))
			f->x2avic = strstr(line, " x2avic");
		if (!strncmp(line, "vmx flags", 9))
			f->posted_cpu = strstr(line, " posted_intr");
	}
	free(line);
	if (in)
		fclose(in);
}

static void read_parameters(struct accel_facts *f)
{
	f->ept = (int)parameter("kvm_intel/parameters/ept");
	f->npt = (int)parameter("kvm_amd/parameters/npt");
	f->apicv = (int)parameter("kvm_intel/parameters/enable_apicv");
	f->avic = (int)parameter("kvm_amd/parameters/avic");
	f->ipiv = (int)parameter("kvm_intel/parameters/enable_ipiv");
	f->vpid = (int)parameter("kvm_intel/parameters/vpid");
	f->preemption_timer = (int)parameter("kvm_intel/parameters/preemption_timer");
	f->tdp_mmu = (int)parameter("kvm/parameters/tdp_mmu");
	f->halt_poll_ns = parameter("kvm/parameters/halt_poll_ns");
}

static uint64_t sum_of(struct vm *vm, const char *name)
{
	uint64_t sum = 0;

	for (unsigned id = 0, nr = kvm_nr_counters(vm); id < nr; id++) {
		const char *have = kvm_counter_name(vm, id);

		if (!have || strcmp(have, name) != 0)
			continue;
		for (unsigned i = 0; i < vm->nr_vcpus; i++)
			sum += kvm_counter(vm, i, id);
	}
	return sum;
}

/* As kvm_set_cpuid() makes it: what the model has and KVM can do. */
static uint32_t pv_features(const struct vm *vm)
{
	struct kvm_machine *m = machine_of(vm);
	struct cpuid_regs r = cpuid_query(&vm->cpuid, 0, PV_LEAF, 0, 0, 1, BIT64(11));

	for (unsigned i = 0; i < m->supported->nent; i++)
		if (m->supported->entries[i].function == PV_LEAF)
			return r.eax & (m->supported->entries[i].eax | BIT(15));
	return 0;
}

void accel_gather(struct vm *vm, struct accel_facts *f)
{
	struct kvm_machine *m = machine_of(vm);

	*f = (struct accel_facts){ 0 };
	read_cpuinfo(f);
	read_parameters(f);
	f->max_apic_id = vm->vcpu[vm->nr_vcpus - 1]->apic_id;
	f->pv_features = pv_features(vm);
	f->guest_has_x2apic = cpu_has(&vm->cpuid, CPU_X2APIC);
	f->extint_waits = atomic_load(&m->extint);
	f->debugged = m->nr_points;
	f->machine_halt_poll_ns = m->halt_poll_ns;
	f->exits = sum_of(vm, "exits");
	f->halt_poll_hits = sum_of(vm, "halt_successful_poll");
	f->irq_window_exits = sum_of(vm, "irq_window_exits");
}

/* --- judgement ----------------------------------------------------------------------------- */

struct verdicts {
	struct accel *out;
	unsigned nr;
};

__printf(5, 6) static void say(struct verdicts *v, const char *name, enum accel_state state,
			       bool read, const char *fmt, ...)
{
	struct accel *a = &v->out[v->nr];
	va_list ap;

	if (v->nr == ACCELS_MAX)
		return;
	*a = (struct accel){ .name = name, .state = state, .read = read };
	va_start(ap, fmt);
	vsnprintf(a->why, sizeof(a->why), fmt, ap);
	va_end(ap);
	v->nr++;
}

static enum accel_state state_of(int64_t parameter)
{
	return parameter < 0 ? ACCEL_UNKNOWN : parameter ? ACCEL_ON : ACCEL_OFF;
}

/* A parameter that decides by itself. */
static void say_parameter(struct verdicts *v, const char *name, int64_t value, const char *path)
{
	if (value < 0)
		say(v, name, ACCEL_UNKNOWN, true, "there is no %s", path);
	else
		say(v, name, state_of(value), true, "%s", path);
}

static void judge_paging(struct verdicts *v, const struct accel_facts *f)
{
	if (f->amd)
		say_parameter(v, "NPT", f->npt, "kvm_amd.npt");
	else
		say_parameter(v, "EPT", f->ept, "kvm_intel.ept");
	say_parameter(v, "parallel second-level faults", f->tdp_mmu, "kvm.tdp_mmu");
	if (!f->amd)
		say_parameter(v, "VPID", f->vpid, "kvm_intel.vpid");
}

static bool avic_reaches(const struct accel_facts *f)
{
	return f->max_apic_id <= (f->x2avic && f->guest_has_x2apic ? X2AVIC_MAX_ID : AVIC_MAX_ID);
}

static void judge_avic(struct verdicts *v, const struct accel_facts *f)
{
	const char *name = f->x2avic ? "AVIC, x2AVIC" : "AVIC";

	if (f->avic <= 0)
		say_parameter(v, name, f->avic, "kvm_amd.avic");
	else if (!avic_reaches(f))
		say(v, name, ACCEL_INHIBITED, false, "APIC IDs up to %u, and it reaches to %u",
		    f->max_apic_id, f->x2avic ? X2AVIC_MAX_ID : AVIC_MAX_ID);
	else if (f->extint_waits)
		say(v, name, ACCEL_INHIBITED, false, "the PIC waits for an interrupt window");
	else if (f->debugged)
		say(v, name, ACCEL_INHIBITED, false, "a debugger has set points");
	else if (!f->x2avic && f->guest_has_x2apic)
		say(v, name, ACCEL_ON, false,
		    "kvm_amd.avic; not for vCPUs in x2APIC mode: no x2avic in /proc/cpuinfo");
	else
		say(v, name, ACCEL_ON, false, "kvm_amd.avic; nothing known inhibits it");
}

static void judge_apicv(struct verdicts *v, const struct accel_facts *f)
{
	if (f->apicv <= 0)
		say_parameter(v, "APICv", f->apicv, "kvm_intel.enable_apicv");
	else if (f->debugged)
		say(v, "APICv", ACCEL_INHIBITED, false, "a debugger has set points");
	else
		say(v, "APICv", ACCEL_ON, false,
		    "kvm_intel.enable_apicv; nothing known inhibits it");
}

static void judge_interrupts(struct verdicts *v, const struct accel_facts *f)
{
	const struct accel *apic = &v->out[v->nr];

	if (f->amd)
		judge_avic(v, f);
	else
		judge_apicv(v, f);
	say(v, "posted interrupts", apic->state, false, "with %s", apic->name);
	if (f->amd)
		say(v, "IPI virtualisation", apic->state, false, "with %s", apic->name);
	else if (f->ipiv <= 0)
		say_parameter(v, "IPI virtualisation", f->ipiv, "kvm_intel.enable_ipiv");
	else
		say(v, "IPI virtualisation", apic->state, false, "kvm_intel.enable_ipiv, with %s",
		    apic->name);
	if (!f->amd)
		say_parameter(v, "timer in the processor", f->preemption_timer,
			      "kvm_intel.preemption_timer");
}

static void judge_halt_polling(struct verdicts *v, const struct accel_facts *f)
{
	bool own = f->machine_halt_poll_ns >= 0;
	long long ns = own ? f->machine_halt_poll_ns : f->halt_poll_ns;

	if (ns < 0)
		say(v, "halt polling", ACCEL_UNKNOWN, true, "there is no kvm.halt_poll_ns");
	else
		say(v, "halt polling", ns ? ACCEL_ON : ACCEL_OFF, true,
		    "up to %lld ns, %s; %llu times it was worth it", ns,
		    own ? "set for this machine" : "kvm.halt_poll_ns",
		    (unsigned long long)f->halt_poll_hits);
}

static void judge_paravirtual(struct verdicts *v, const struct accel_facts *f)
{
	static const struct {
		uint8_t bit;
		const char *name;
	} pv[] = {
		{ 3, "PV clock" },         { 5, "PV steal time" }, { 6, "PV EOI" },
		{ 7, "PV unhalt" },        { 9, "PV TLB flush" },  { 11, "PV IPI" },
		{ 12, "PV poll control" }, { 13, "PV yield" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(pv); i++) {
		bool on = f->pv_features & BIT(pv[i].bit);

		say(v, pv[i].name, on ? ACCEL_ON : ACCEL_OFF, true, "%s by CPUID 0x40000001",
		    on ? "offered" : "not offered");
	}
}

unsigned accel_judge(const struct accel_facts *f, struct accel out[ACCELS_MAX])
{
	struct verdicts v = { .out = out };

	judge_paging(&v, f);
	judge_interrupts(&v, f);
	judge_halt_polling(&v, f);
	judge_paravirtual(&v, f);
	return v.nr;
}

unsigned kvm_accelerations(struct vm *vm, struct accel out[ACCELS_MAX])
{
	struct accel_facts f;

	if (vm->engine != &engine_kvm)
		return 0;
	accel_gather(vm, &f);
	return accel_judge(&f, out);
}

const char *accel_state_name(enum accel_state s)
{
	static const char *const name[] = {
		[ACCEL_OFF] = "off",
		[ACCEL_ON] = "on",
		[ACCEL_INHIBITED] = "inhibited",
		[ACCEL_UNKNOWN] = "unknown",
	};

	return name[s];
}
