/*
 * cpuid.c - the model's CPUID cut down to what KVM can do here.
 *
 * What the guest executes natively must be called by its name: vendor, family and
 * model are the host's, and so is everything that says which flaws the processor
 * has and what helps against them. Topology, caches and the choice of features are
 * the model's.
 */
#include "kvm.h"

#include <errno.h>
#include <stdlib.h>

#define SUPPORTED_MAX 512
#define ENTRIES_MAX   (CPUID_ENTRIES_MAX + 16)

#define EXTENDED      0x80000000u
#define AMD_CACHES    0x8000001du
#define AMD_TOPOLOGY  0x8000001eu
#define AMD_FLAWS     0x80000021u
#define ADDRESS_SIZES 0x80000008u
#define HYPERVISOR    0x40000001u

#define XSAVE_AREA    0xd
#define TSC_RATE      0x15
#define TSC_FREQUENCY 0x16
#define TIMING        0x40000010u /* EAX: the TSC's kHz */

enum reg { EAX, EBX, ECX, EDX };

/*
 * A register with features: the guest gets (model & (KVM | keep)) | (KVM & pass).
 * keep: done without KVM's help, or not listed by older kernels; pass: of the host
 * as it is.
 */
struct rule {
	uint32_t leaf, subleaf;
	enum reg reg;
	uint32_t keep, pass;
};

static const struct rule rules[] = {
	{ 1, 0, ECX, BIT(21) | BIT(24) | BIT(31), 0 }, /* x2APIC, TSC deadline, hypervisor */
	{ 1, 0, EDX, BIT(28), 0 },                     /* HTT: a matter of topology */
	{ 7, 0, EBX, 0, 0 },
	{ 7, 0, ECX, 0, 0 },
	/* MD_CLEAR, SPEC_CTRL, STIBP, FLUSH_L1D, ARCH_CAPABILITIES, SSBD */
	{ 7, 0, EDX, 0, BIT(10) | BIT(26) | BIT(27) | BIT(28) | BIT(29) | BIT(31) },
	{ 7, 2, EDX, 0, 0x3f },
	{ XSAVE_AREA, 0, EAX, 0, 0 }, /* components */
	{ XSAVE_AREA, 1, EAX, 0, 0 },
	{ EXTENDED + 1, 0, ECX, 0, 0 },
	{ EXTENDED + 1, 0, EDX, 0, 0 },
	{ HYPERVISOR, 0, EAX, BIT(15), 0 }, /* extended destinations: kvm_msi() */
};

/* IBPB, IBRS, STIBP and their always-on forms, SSBD, its virtual form, SSB_NO, PSFD */
#define AMD_FLAW_BITS                                                                              \
	(BIT(12) | BIT(14) | BIT(15) | BIT(16) | BIT(17) | BIT(24) | BIT(25) | BIT(26) | BIT(28))
#define AMD_FLAW_BITS2 (BIT(2) | BIT(8) | BIT(27) | BIT(28) | BIT(29)) /* LFENCE to SRSO */
#define AMD_TOPOEXT    BIT(22)
#define AMD_CMP_LEGACY BIT(1)

struct table {
	struct kvm_cpuid2 head;
	struct kvm_cpuid_entry2 entry[ENTRIES_MAX];
};

/* --- what KVM has ------------------------------------------------------------------ */

int kvm_supported_cpuid(int kvm_fd, struct kvm_cpuid2 **out)
{
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + SUPPORTED_MAX * sizeof(c->entries[0]));
	int err;

	if (!c)
		return -ENOMEM;
	c->nent = SUPPORTED_MAX;
	err = kvm_ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, c);
	if (err) {
		free(c);
		return err;
	}
	*out = c;
	return 0;
}

static const struct kvm_cpuid_entry2 *find(const struct kvm_cpuid2 *c, uint32_t leaf,
					   uint32_t subleaf)
{
	for (unsigned i = 0; i < c->nent; i++) {
		const struct kvm_cpuid_entry2 *e = &c->entries[i];

		if (e->function == leaf &&
		    (!(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || e->index == subleaf))
			return e;
	}
	return NULL;
}

static uint32_t reg_of(const struct kvm_cpuid_entry2 *e, enum reg reg)
{
	if (!e)
		return 0;
	return reg == EAX ? e->eax : reg == EBX ? e->ebx : reg == ECX ? e->ecx : e->edx;
}

static void set_reg(struct kvm_cpuid_entry2 *e, enum reg reg, uint32_t v)
{
	*(reg == EAX ? &e->eax : reg == EBX ? &e->ebx : reg == ECX ? &e->ecx : &e->edx) = v;
}

static bool host_is_amd(const struct kvm_cpuid2 *host)
{
	const struct kvm_cpuid_entry2 *e = find(host, 0, 0);

	return e && (e->ebx == 0x68747541 /* "Auth" */ || e->ebx == 0x6f677948 /* "Hygo" */);
}

/* --- an entry of the model ------------------------------------------------------------- */

static void filter(struct kvm_cpuid_entry2 *e, const struct kvm_cpuid2 *host)
{
	for (unsigned i = 0; i < ARRAY_SIZE(rules); i++) {
		const struct rule *r = &rules[i];
		uint32_t have;

		if (r->leaf != e->function || r->subleaf != e->index)
			continue;
		have = reg_of(find(host, r->leaf, r->subleaf), r->reg);
		set_reg(e, r->reg, (reg_of(e, r->reg) & (have | r->keep)) | (have & r->pass));
	}
}

static void identify(struct kvm_cpuid_entry2 *e, const struct kvm_cpuid2 *host)
{
	const struct kvm_cpuid_entry2 *h = find(host, e->function, 0);

	if (!h)
		return;
	switch (e->function) {
	case 0:
		e->ebx = h->ebx;
		e->ecx = h->ecx;
		e->edx = h->edx;
		break;
	case 1:
		e->eax = h->eax;
		break;
	case ADDRESS_SIZES:
		e->eax = (e->eax & ~0xffu) | MIN(e->eax & 0xff, h->eax & 0xff);
		e->ebx |= h->ebx & AMD_FLAW_BITS;
		break;
	default:
		break;
	}
}

/* The model's rate is that of the guest clock's ticks. */
static void correct_rate(struct kvm_cpuid_entry2 *e, const struct kvm_cpu *c)
{
	if (c->ticks_are_tsc)
		return;
	if (e->function == TSC_RATE || e->function == TSC_FREQUENCY)
		e->eax = e->ebx = e->ecx = 0; /* not told */
	else if (e->function == TIMING)
		e->eax = (uint32_t)c->tsc_khz;
}

static struct kvm_cpuid_entry2 *append(struct table *t, uint32_t leaf, uint32_t subleaf)
{
	struct kvm_cpuid_entry2 *e = &t->entry[t->head.nent++];

	e->function = leaf;
	e->index = subleaf;
	return e;
}

static void add_model(struct table *t, const struct kvm_cpu *c, const struct kvm_cpuid2 *host)
{
	const struct vcpu *v = c->vcpu;
	const struct cpuid_model *model = &v->vm->cpuid;

	for (unsigned i = 0; i < model->nr_entries; i++) {
		const struct cpuid_entry *m = &model->entry[i];
		bool any = m->subleaf == CPUID_ANY_SUBLEAF;
		uint32_t subleaf = any ? 0 : m->subleaf;
		struct kvm_cpuid_entry2 *e = append(t, m->leaf, subleaf);
		struct cpuid_regs r = cpuid_query(model, v->id, m->leaf, subleaf, 0, 1,
						  BIT64(11) /* APIC enabled: KVM follows it */);

		e->flags = any ? 0 : KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
		e->eax = r.eax;
		e->ebx = r.ebx;
		e->ecx = r.ecx;
		e->edx = r.edx;
		identify(e, host);
		filter(e, host);
		correct_rate(e, c);
	}
}

/* --- AMD's own leaves; APM vol. 3, app. E ------------------------------------------------- */

static struct kvm_cpuid_entry2 *own(struct table *t, uint32_t leaf)
{
	for (unsigned i = 0; i < t->head.nent; i++)
		if (t->entry[i].function == leaf)
			return &t->entry[i];
	return append(t, leaf, 0);
}

/* The caches as in leaf 4, whose layout AMD took over, but for the number of cores. */
static void add_amd_caches(struct table *t)
{
	unsigned nr = t->head.nent;

	for (unsigned i = 0; i < nr && t->head.nent < ENTRIES_MAX; i++) {
		struct kvm_cpuid_entry2 *e;

		if (t->entry[i].function != 4)
			continue;
		e = append(t, AMD_CACHES, t->entry[i].index);
		e->flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
		e->eax = t->entry[i].eax & 0x03ffffff;
		e->ebx = t->entry[i].ebx;
		e->ecx = t->entry[i].ecx;
	}
}

static void add_amd(struct table *t, const struct vcpu *v, const struct kvm_cpuid2 *host)
{
	const struct topology *topo = &v->vm->topo;
	unsigned package = topo->thread_bits + topo->core_bits + topo->die_bits;
	unsigned cores = topo->threads * topo->cores * topo->dies;
	uint32_t flaws = reg_of(find(host, AMD_FLAWS, 0), EAX) & AMD_FLAW_BITS2;
	struct kvm_cpuid_entry2 *e;

	own(t, EXTENDED)->eax = flaws ? AMD_FLAWS : AMD_TOPOLOGY;
	own(t, EXTENDED + 1)->ecx |= AMD_TOPOEXT | (cores > 1 ? AMD_CMP_LEGACY : 0);
	own(t, ADDRESS_SIZES)->ecx = package << 12 | (cores - 1);
	add_amd_caches(t);
	e = append(t, AMD_TOPOLOGY, 0);
	e->eax = v->apic_id;
	e->ebx = ((v->apic_id >> topo->thread_bits) & 0xff) | (topo->threads - 1u) << 8;
	e->ecx = (v->apic_id >> package) & 0xff; /* a node a package */
	if (flaws)
		append(t, AMD_FLAWS, 0)->eax = flaws;
}

int kvm_set_cpuid(struct kvm_cpu *c)
{
	const struct kvm_cpuid2 *host = c->machine->supported;
	struct table *t = calloc(1, sizeof(*t));
	int err;

	if (!t)
		return -ENOMEM;
	add_model(t, c, host);
	if (host_is_amd(host))
		add_amd(t, c->vcpu, host);
	err = kvm_ioctl(c->fd, KVM_SET_CPUID2, t);
	free(t);
	return err;
}
