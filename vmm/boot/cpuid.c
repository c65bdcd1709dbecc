/*
 * cpuid.c - what CPUID tells a guest.
 *
 * The guest sees an Intel processor with the model number of the Snow Ridge family
 * (family 6, model 0x86) on every host and under every executor, with the vector
 * extensions that the host has. Operating systems know no flaw of that model, and
 * IA32_ARCH_CAPABILITIES says that it has none of those for which they would slow
 * themselves down. docs/guest-cpu.md has the reasons.
 *
 * References: SDM vol. 2, CPUID; SDM vol. 4 for IA32_ARCH_CAPABILITIES; the Linux
 * kernel's Documentation/virt/kvm/x86/cpuid.rst for the leaves at 0x40000000.
 */
#include "boot/cpuid.h"
#include "core/cpu_state.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#define CPU_FAMILY   6
#define CPU_MODEL    0x86
#define CPU_STEPPING 1

#define LEAF_HYPERVISOR 0x40000000u
#define LEAF_EXTENDED   0x80000000u
#define MAX_BASIC       0x1fu
#define LEAF7_SUBLEAVES 2 /* the last one; 1 has nothing */
#define MAX_HYPERVISOR  0x40000010u
#define MAX_EXTENDED    0x80000008u

#define PHYS_BITS_MIN 46 /* more than any RAM needs; leaves room for MMIO above it */
#define PHYS_BITS_MAX 52 /* what a page-table entry can hold */
#define VIRT_BITS     48

#define XAPIC_ID_MAX 254

#define APIC_TIMER_KHZ 1000000u /* the local APIC counts guest nanoseconds */
#define BUS_MHZ        100u

#define APIC_BASE_ENABLE BIT64(11)

static const char brand[48] = "Alcazar Virtual CPU";

/* --- features ---------------------------------------------------------------- */

enum reg { EAX, EBX, ECX, EDX };

/* How a feature comes to a guest. */
enum offer {
	ALWAYS = BIT(0),    /* the engines do it, whatever the host has */
	HOST = BIT(1),      /* executed natively: when the host has it */
	ASKED = BIT(2),     /* only when the user adds it (with HOST: and the host has it) */
	ESSENTIAL = BIT(3), /* with ALWAYS: no 64-bit guest starts without it */
};

struct feature {
	const char *name; /* as /proc/cpuinfo has it, where it has it */
	uint32_t leaf, subleaf;
	uint8_t reg, bit;
	uint8_t offer;
};

#define F2(id, linux_name, leaf_, subleaf_, reg_, bit_, offer_)                                    \
	[CPU_##id] = { .name = linux_name,                                                         \
		       .leaf = leaf_,                                                              \
		       .subleaf = subleaf_,                                                        \
		       .reg = reg_,                                                                \
		       .bit = bit_,                                                                \
		       .offer = offer_ }
#define F(id, linux_name, leaf, reg, bit, offer) F2(id, linux_name, leaf, 0, reg, bit, offer)

#define X1 0x80000001u
#define X7 0x80000007u

/* clang-format off */
static const struct feature features[CPU_FEATURE_COUNT] = {
	F(FPU,		"fpu",		1, EDX, 0,	ALWAYS | ESSENTIAL),
	F(DE,		"de",		1, EDX, 2,	ALWAYS),
	F(PSE,		"pse",		1, EDX, 3,	ALWAYS | ESSENTIAL),
	F(TSC,		"tsc",		1, EDX, 4,	ALWAYS | ESSENTIAL),
	F(MSR,		"msr",		1, EDX, 5,	ALWAYS | ESSENTIAL),
	F(PAE,		"pae",		1, EDX, 6,	ALWAYS | ESSENTIAL),
	F(MCE,		"mce",		1, EDX, 7,	ALWAYS),
	F(CX8,		"cx8",		1, EDX, 8,	ALWAYS | ESSENTIAL),
	F(APIC,		"apic",		1, EDX, 9,	ALWAYS | ESSENTIAL),
	F(SEP,		"sep",		1, EDX, 11,	ALWAYS),
	F(MTRR,		"mtrr",		1, EDX, 12,	ALWAYS),
	F(PGE,		"pge",		1, EDX, 13,	ALWAYS | ESSENTIAL),
	F(MCA,		"mca",		1, EDX, 14,	ALWAYS),
	F(CMOV,		"cmov",		1, EDX, 15,	ALWAYS | ESSENTIAL),
	F(PAT,		"pat",		1, EDX, 16,	ALWAYS),
	F(PSE36,	"pse36",	1, EDX, 17,	ALWAYS),
	F(CLFLUSH,	"clflush",	1, EDX, 19,	ALWAYS),
	F(MMX,		"mmx",		1, EDX, 23,	ALWAYS),
	F(FXSR,		"fxsr",		1, EDX, 24,	ALWAYS | ESSENTIAL),
	F(SSE,		"sse",		1, EDX, 25,	ALWAYS | ESSENTIAL),
	F(SSE2,		"sse2",		1, EDX, 26,	ALWAYS | ESSENTIAL),
	F(SS,		"ss",		1, EDX, 27,	ALWAYS),
	F(HTT,		"ht",		1, EDX, 28,	ALWAYS),
	F(SSE3,		"pni",		1, ECX, 0,	HOST),
	F(PCLMULQDQ,	"pclmulqdq",	1, ECX, 1,	HOST),
	F(SSSE3,	"ssse3",	1, ECX, 9,	HOST),
	F(FMA,		"fma",		1, ECX, 12,	HOST),
	F(CX16,		"cx16",		1, ECX, 13,	HOST),
	F(PCID,		"pcid",		1, ECX, 17,	ALWAYS),
	F(SSE4_1,	"sse4_1",	1, ECX, 19,	HOST),
	F(SSE4_2,	"sse4_2",	1, ECX, 20,	HOST),
	F(X2APIC,	"x2apic",	1, ECX, 21,	ALWAYS),
	F(MOVBE,	"movbe",	1, ECX, 22,	HOST),
	F(POPCNT,	"popcnt",	1, ECX, 23,	HOST),
	F(TSC_DEADLINE,	"tsc_deadline_timer", 1, ECX, 24, ALWAYS),
	F(AES,		"aes",		1, ECX, 25,	HOST),
	F(XSAVE,	"xsave",	1, ECX, 26,	HOST),
	F(AVX,		"avx",		1, ECX, 28,	HOST),
	F(F16C,		"f16c",		1, ECX, 29,	HOST),
	F(RDRAND,	"rdrand",	1, ECX, 30,	ALWAYS),
	F(HYPERVISOR,	"hypervisor",	1, ECX, 31,	ALWAYS),
	F(FSGSBASE,	"fsgsbase",	7, EBX, 0,	ALWAYS),
	F(TSC_ADJUST,	"tsc_adjust",	7, EBX, 1,	ALWAYS),
	F(BMI1,		"bmi1",		7, EBX, 3,	HOST),
	F(AVX2,		"avx2",		7, EBX, 5,	HOST),
	F(SMEP,		"smep",		7, EBX, 7,	ALWAYS),
	F(BMI2,		"bmi2",		7, EBX, 8,	HOST),
	F(ERMS,		"erms",		7, EBX, 9,	ALWAYS),
	F(INVPCID,	"invpcid",	7, EBX, 10,	ALWAYS),
	F(AVX512F,	"avx512f",	7, EBX, 16,	HOST),
	F(AVX512DQ,	"avx512dq",	7, EBX, 17,	HOST),
	F(RDSEED,	"rdseed",	7, EBX, 18,	ALWAYS),
	F(ADX,		"adx",		7, EBX, 19,	HOST),
	F(SMAP,		"smap",		7, EBX, 20,	ASKED),
	F(CLFLUSHOPT,	"clflushopt",	7, EBX, 23,	ALWAYS),
	F(CLWB,		"clwb",		7, EBX, 24,	ALWAYS),
	F(AVX512CD,	"avx512cd",	7, EBX, 28,	HOST),
	F(SHA_NI,	"sha_ni",	7, EBX, 29,	HOST),
	F(AVX512BW,	"avx512bw",	7, EBX, 30,	HOST),
	F(AVX512VL,	"avx512vl",	7, EBX, 31,	HOST),
	F(UMIP,		"umip",		7, ECX, 2,	ALWAYS),
	F(GFNI,		"gfni",		7, ECX, 8,	HOST),
	F(VAES,		"vaes",		7, ECX, 9,	HOST),
	F(VPCLMULQDQ,	"vpclmulqdq",	7, ECX, 10,	HOST),
	F(RDPID,	"rdpid",	7, ECX, 22,	ALWAYS),
	F(FSRM,		"fsrm",		7, EDX, 4,	ALWAYS),
	F(MD_CLEAR,	"md_clear",	7, EDX, 10,	ASKED),
	F(SPEC_CTRL,	"spec_ctrl",	7, EDX, 26,	ALWAYS),
	F(STIBP,	"stibp",	7, EDX, 27,	ALWAYS),
	F(ARCH_CAPABILITIES, "arch_capabilities", 7, EDX, 29, ALWAYS),
	F(SSBD,		"ssbd",		7, EDX, 31,	ASKED),
	F2(XSAVEOPT,	"xsaveopt",	0xd, 1, EAX, 0,	HOST),
	F2(XGETBV1,	"xgetbv1",	0xd, 1, EAX, 2,	HOST),
	F2(BHI_CTRL,	"bhi_ctrl",	7, 2, EDX, 4,	ALWAYS),
	F(SYSCALL,	"syscall",	X1, EDX, 11,	ALWAYS | ESSENTIAL),
	F(NX,		"nx",		X1, EDX, 20,	ALWAYS),
	F(PDPE1GB,	"pdpe1gb",	X1, EDX, 26,	ALWAYS),
	F(RDTSCP,	"rdtscp",	X1, EDX, 27,	ALWAYS),
	F(LM,		"lm",		X1, EDX, 29,	ALWAYS | ESSENTIAL),
	F(LAHF_LM,	"lahf_lm",	X1, ECX, 0,	ALWAYS),
	F(ABM,		"abm",		X1, ECX, 5,	HOST),
	F(PREFETCHW,	"3dnowprefetch", X1, ECX, 8,	ALWAYS),
	F(INVTSC,	"nonstop_tsc",	X7, EDX, 8,	ALWAYS),
	F(ARAT,		"arat",		6, EAX, 2,	ALWAYS),
};

/* Other names that manuals and other monitors use. */
static const struct {
	const char *name;
	enum cpu_feature feature;
} aliases[] = {
	{ "sse3", CPU_SSE3 },		{ "htt", CPU_HTT },
	{ "sse4.1", CPU_SSE4_1 },	{ "sse4.2", CPU_SSE4_2 },
	{ "tsc_deadline", CPU_TSC_DEADLINE }, { "tsc-deadline", CPU_TSC_DEADLINE },
	{ "lzcnt", CPU_ABM },		{ "prefetchw", CPU_PREFETCHW },
	{ "invtsc", CPU_INVTSC },	{ "sha", CPU_SHA_NI },
};

/* What makes no sense alone: the first needs the second. */
static const struct {
	enum cpu_feature feature, base;
} needs[] = {
	{ CPU_SSSE3, CPU_SSE3 },	{ CPU_SSE4_1, CPU_SSSE3 },
	{ CPU_SSE4_2, CPU_SSE4_1 },	{ CPU_AES, CPU_SSE2 },
	{ CPU_PCLMULQDQ, CPU_SSE2 },	{ CPU_SHA_NI, CPU_SSSE3 },
	{ CPU_INVPCID, CPU_PCID },	{ CPU_FSRM, CPU_ERMS },
	{ CPU_STIBP, CPU_SPEC_CTRL },	{ CPU_SSBD, CPU_SPEC_CTRL },
	{ CPU_BHI_CTRL, CPU_SPEC_CTRL },
	{ CPU_XSAVEOPT, CPU_XSAVE },	{ CPU_XGETBV1, CPU_XSAVE },
	{ CPU_AVX, CPU_XSAVE },		{ CPU_F16C, CPU_AVX },
	{ CPU_FMA, CPU_AVX },		{ CPU_AVX2, CPU_AVX },
	{ CPU_GFNI, CPU_SSE2 },		{ CPU_VAES, CPU_AVX },
	{ CPU_VPCLMULQDQ, CPU_AVX },	{ CPU_VAES, CPU_AES },
	{ CPU_VPCLMULQDQ, CPU_PCLMULQDQ },
	{ CPU_AVX512F, CPU_AVX2 },	{ CPU_AVX512F, CPU_FMA },
	{ CPU_AVX512F, CPU_F16C },	{ CPU_AVX512DQ, CPU_AVX512F },
	{ CPU_AVX512CD, CPU_AVX512F },	{ CPU_AVX512BW, CPU_AVX512F },
	{ CPU_AVX512VL, CPU_AVX512F },
};
/* clang-format on */

const char *cpu_feature_name(enum cpu_feature f)
{
	return features[f].name;
}

static void feature_set(struct cpu_features *s, enum cpu_feature f, bool on)
{
	uint64_t bit = BIT64(f % 64);

	if (on)
		s->word[f / 64] |= bit;
	else
		s->word[f / 64] &= ~bit;
}

static bool feature_in(const struct cpu_features *s, enum cpu_feature f)
{
	return s->word[f / 64] & BIT64(f % 64);
}

static uint32_t *reg_of(struct cpuid_regs *r, enum reg reg)
{
	switch (reg) {
	case EAX:
		return &r->eax;
	case EBX:
		return &r->ebx;
	case ECX:
		return &r->ecx;
	default:
		return &r->edx;
	}
}

static struct cpuid_regs host_cpuid(uint32_t leaf, uint32_t subleaf)
{
	struct cpuid_regs r;

	__asm__ volatile("cpuid"
			 : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx)
			 : "a"(leaf), "c"(subleaf));
	return r;
}

/* --- the XSAVE area ------------------------------------------------------------- */

/* State components; their places and sizes are Intel's, and those of cpu_state.xsave. */
struct component {
	enum cpu_feature feature;
	uint8_t number;
	uint16_t offset, bytes;
};

static const struct component components[] = {
	{ CPU_AVX, 2, 576, 256 },
	{ CPU_AVX512F, 5, 1088, 64 },
	{ CPU_AVX512F, 6, 1152, 512 },
	{ CPU_AVX512F, 7, 1664, 1024 },
};

#define XSAVE_LEGACY     3u  /* x87 and SSE: in every area */
#define XSAVE_AREA_BYTES 576 /* an area without more: the FXSAVE image and a header */

uint64_t cpuid_xcr0(const struct cpuid_model *m)
{
	uint64_t mask = cpu_has(m, CPU_XSAVE) ? XSAVE_LEGACY : 0;

	for (unsigned i = 0; i < ARRAY_SIZE(components); i++)
		if (cpu_has(m, components[i].feature))
			mask |= BIT(components[i].number);
	return mask;
}

/* Of an area that holds the components in @xcr0. */
static uint32_t xsave_bytes(uint64_t xcr0)
{
	uint32_t bytes = XSAVE_AREA_BYTES;

	for (unsigned i = 0; i < ARRAY_SIZE(components); i++)
		if (xcr0 & BIT(components[i].number))
			bytes = components[i].offset + components[i].bytes;
	return bytes;
}

static uint64_t host_xcr0(void)
{
	uint32_t eax, edx;

	if (!(host_cpuid(1, 0).ecx & BIT(27)))
		return 0;
	__asm__ volatile("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
	return eax;
}

/*
 * A register file can be used where the host's system saves it. The translator has
 * the host's processor save a guest's as well, so that it must do so at our places:
 * some processors without Intel's extinct MPX close the gap that it left.
 */
static void keep_usable_components(struct cpu_features *f)
{
	uint64_t xcr0 = host_xcr0();

	if (!xcr0)
		feature_set(f, CPU_XSAVE, false);
	for (unsigned i = 0; i < ARRAY_SIZE(components); i++) {
		const struct component *k = &components[i];

		if (!(xcr0 & BIT(k->number)) || host_cpuid(0xd, k->number).ebx != k->offset)
			feature_set(f, k->feature, false);
	}
}

void cpuid_host_features(struct cpu_features *f)
{
	uint32_t max_basic = host_cpuid(0, 0).eax;
	uint32_t max_extended = host_cpuid(LEAF_EXTENDED, 0).eax;
	const struct feature *last = NULL;
	struct cpuid_regs r;

	*f = (struct cpu_features){ 0 };
	for (unsigned i = 0; i < CPU_FEATURE_COUNT; i++) {
		const struct feature *d = &features[i];

		if (d->leaf > (d->leaf & LEAF_EXTENDED ? max_extended : max_basic))
			continue;
		/* Under a hypervisor each CPUID is an exit: 15 us have been seen. */
		if (!last || d->leaf != last->leaf || d->subleaf != last->subleaf)
			r = host_cpuid(d->leaf, d->subleaf);
		last = d;
		feature_set(f, i, *reg_of(&r, d->reg) & BIT(d->bit));
	}
	keep_usable_components(f);
}

/* --- what the user wishes ------------------------------------------------------ */

struct builder {
	struct cpuid_model *m;
	const struct cpuid_request *r;
	struct cpu_features host, added, dropped;
	char *why;
	size_t why_bytes;
};

static int __printf(2, 3) refuse(struct builder *b, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(b->why, b->why_bytes, fmt, ap);
	va_end(ap);
	return -EINVAL;
}

static int find_feature(const char *name)
{
	for (unsigned i = 0; i < CPU_FEATURE_COUNT; i++)
		if (!strcmp(name, features[i].name))
			return (int)i;
	for (unsigned i = 0; i < ARRAY_SIZE(aliases); i++)
		if (!strcmp(name, aliases[i].name))
			return (int)aliases[i].feature;
	return -1;
}

static int check_override(struct builder *b, bool add, unsigned f)
{
	const struct feature *d = &features[f];

	if (feature_in(add ? &b->dropped : &b->added, f))
		return refuse(b, "CPU feature %s is both added and dropped", d->name);
	if (!add && (d->offer & ESSENTIAL))
		return refuse(b, "CPU feature %s cannot be dropped: 64-bit guests need it",
			      d->name);
	if (add && (d->offer & HOST) && !feature_in(&b->host, f))
		return refuse(b, "CPU feature %s cannot be added: this host lacks it", d->name);
	return 0;
}

static int read_overrides(struct builder *b)
{
	const char *const *o = b->r->overrides;

	for (; o && *o; o++) {
		bool add = **o == '+';
		int f, err;

		if (**o != '+' && **o != '-')
			return refuse(b, "CPU feature '%s': write +NAME or -NAME", *o);
		f = find_feature(*o + 1);
		if (f < 0)
			return refuse(b, "unknown CPU feature '%s': use a name of /proc/cpuinfo",
				      *o + 1);
		err = check_override(b, add, (unsigned)f);
		if (err)
			return err;
		feature_set(add ? &b->added : &b->dropped, (unsigned)f, true);
	}
	return 0;
}

static bool is_default(const struct builder *b, enum cpu_feature f)
{
	const struct feature *d = &features[f];

	if (d->offer & ASKED)
		return false;
	return !(d->offer & HOST) || feature_in(&b->host, f);
}

/*
 * A default goes silently with what it needs; a feature the user added does not.
 * Bases stand before their dependents in needs[], so one pass settles chains.
 */
static int settle_needs(struct builder *b)
{
	struct cpu_features *has = &b->m->has;

	for (unsigned i = 0; i < ARRAY_SIZE(needs); i++) {
		enum cpu_feature f = needs[i].feature, base = needs[i].base;

		if (!feature_in(has, f) || feature_in(has, base))
			continue;
		if (feature_in(&b->added, f))
			return refuse(b, "CPU feature %s needs %s", features[f].name,
				      features[base].name);
		feature_set(has, f, false);
	}
	return 0;
}

static uint32_t max_apic_id(const struct topology *t)
{
	return t->vcpu[t->nr_vcpus - 1].apic_id; /* they ascend */
}

static int choose_features(struct builder *b)
{
	int err = read_overrides(b);

	if (err)
		return err;
	for (unsigned f = 0; f < CPU_FEATURE_COUNT; f++)
		feature_set(&b->m->has, f,
			    (is_default(b, f) || feature_in(&b->added, f)) &&
				    !feature_in(&b->dropped, f));
	if (b->r->topo->nr_vcpus == 1)
		feature_set(&b->m->has, CPU_HTT, false);
	if (!cpu_has(b->m, CPU_X2APIC) && max_apic_id(b->r->topo) > XAPIC_ID_MAX)
		return refuse(b, "%u vCPUs need CPU feature x2apic", b->r->topo->nr_vcpus);
	return settle_needs(b);
}

/* The bits that features set in one register. */
static uint32_t feature_bits(const struct cpuid_model *m, uint32_t leaf, uint32_t subleaf,
			     enum reg reg)
{
	uint32_t bits = 0;

	for (unsigned f = 0; f < CPU_FEATURE_COUNT; f++)
		if (cpu_has(m, f) && features[f].leaf == leaf && features[f].subleaf == subleaf &&
		    features[f].reg == reg)
			bits |= BIT(features[f].bit);
	return bits;
}

static struct cpuid_regs feature_regs(const struct cpuid_model *m, uint32_t leaf, uint32_t subleaf)
{
	return (struct cpuid_regs){ .eax = feature_bits(m, leaf, subleaf, EAX),
				    .ebx = feature_bits(m, leaf, subleaf, EBX),
				    .ecx = feature_bits(m, leaf, subleaf, ECX),
				    .edx = feature_bits(m, leaf, subleaf, EDX) };
}

/* --- leaves, in ascending order ------------------------------------------------- */

static void add(struct cpuid_model *m, uint32_t leaf, uint32_t subleaf, struct cpuid_regs regs)
{
	m->entry[m->nr_entries++] =
		(struct cpuid_entry){ .leaf = leaf, .subleaf = subleaf, .regs = regs };
}

static void add_plain(struct cpuid_model *m, uint32_t leaf, struct cpuid_regs regs)
{
	add(m, leaf, CPUID_ANY_SUBLEAF, regs);
}

static unsigned package_bits(const struct topology *t)
{
	return t->thread_bits + t->core_bits + t->die_bits;
}

static void add_identity(struct cpuid_model *m)
{
	add_plain(m, 0,
		  (struct cpuid_regs){ .eax = MAX_BASIC,
				       .ebx = load_u32(m->vendor),
				       .edx = load_u32(m->vendor + 4),
				       .ecx = load_u32(m->vendor + 8) });
}

static uint32_t signature(const struct cpuid_model *m)
{
	return (m->model >> 4) << 16 | m->family << 8 | (m->model & 0xf) << 4 | m->stepping;
}

/* The APIC ID goes into EBX at query time. */
static void add_version(struct cpuid_model *m)
{
	struct cpuid_regs r = feature_regs(m, 1, 0);
	uint32_t ids = MIN(1u << package_bits(m->topo), 255u);

	r.eax = signature(m);
	r.ebx = ids << 16 | (64 / 8) << 8; /* CLFLUSH line in quadwords */
	add_plain(m, 1, r);
}

static void add_caches(struct cpuid_model *m)
{
	const struct topology *t = m->topo;
	uint32_t cores = 1u << (t->core_bits + t->die_bits);

	for (unsigned i = 0; i < t->nr_caches; i++) {
		const struct topo_cache *c = &t->cache[i];
		uint32_t sets = c->bytes / ((uint32_t)c->line_bytes * c->ways);

		add(m, 4, i,
		    (struct cpuid_regs){ .eax = c->type | (uint32_t)c->level << 5 | BIT(8) |
						((1u << c->apic_bits) - 1) << 14 |
						(MIN(cores, 64u) - 1) << 26,
					 .ebx = (c->line_bytes - 1u) | (c->ways - 1u) << 22,
					 .ecx = sets - 1 });
	}
}

enum level_type { LEVEL_SMT = 1, LEVEL_CORE = 2, LEVEL_DIE = 5 };

static void add_level(struct cpuid_model *m, uint32_t leaf, uint32_t n, enum level_type type,
		      unsigned shift, unsigned vcpus)
{
	add(m, leaf, n,
	    (struct cpuid_regs){ .eax = shift, .ebx = vcpus, .ecx = n | (uint32_t)type << 8 });
}

/* The x2APIC ID goes into EDX at query time, of the end marker too. */
static void add_topology(struct cpuid_model *m)
{
	const struct topology *t = m->topo;

	add_level(m, 0xb, 0, LEVEL_SMT, t->thread_bits, t->threads);
	add_level(m, 0xb, 1, LEVEL_CORE, package_bits(t), t->threads * t->cores * t->dies);
}

static void add_topology_v2(struct cpuid_model *m)
{
	const struct topology *t = m->topo;

	add_level(m, 0x1f, 0, LEVEL_SMT, t->thread_bits, t->threads);
	add_level(m, 0x1f, 1, LEVEL_CORE, t->thread_bits + t->core_bits, t->threads * t->cores);
	if (t->dies > 1)
		add_level(m, 0x1f, 2, LEVEL_DIE, package_bits(t), t->threads * t->cores * t->dies);
}

/*
 * TSC over crystal clock as a fraction, and the clock's rate, which is what the
 * APIC timer counts. Guests multiply the clock's kHz by the numerator in 32 bits
 * (Linux' native_calibrate_tsc does), which bounds the numerator. What the best
 * fraction is then off, at most some 1/10000, the clock's rate makes up for: the
 * TSC keeps time, the APIC timer does not.
 */
static void add_tsc(struct cpuid_model *m, uint64_t tsc_khz)
{
	const uint64_t max_numerator = UINT32_MAX / (APIC_TIMER_KHZ + APIC_TIMER_KHZ / 1000);
	uint64_t num = 0, den = 1, best = UINT64_MAX;

	for (uint64_t d = 1; d <= max_numerator; d++) {
		uint64_t n = (tsc_khz * d + APIC_TIMER_KHZ / 2) / APIC_TIMER_KHZ;
		uint64_t have = n * APIC_TIMER_KHZ, want = tsc_khz * d;
		uint64_t error = ((have > want ? have - want : want - have) << 16) / d;

		if (n > max_numerator)
			break;
		if (n && error < best) {
			num = n;
			den = d;
			best = error;
		}
	}
	if (num)
		add_plain(m, 0x15,
			  (struct cpuid_regs){ .eax = (uint32_t)den,
					       .ebx = (uint32_t)num,
					       .ecx = (uint32_t)((tsc_khz * den + num / 2) / num) *
						      1000 });
}

static void add_frequency(struct cpuid_model *m, uint64_t tsc_khz)
{
	uint32_t mhz = (uint32_t)((tsc_khz + 500) / 1000) & 0xffff;

	add_plain(m, 0x16, (struct cpuid_regs){ .eax = mhz, .ebx = mhz, .ecx = BUS_MHZ });
}

static void add_features(struct cpuid_model *m)
{
	struct cpuid_regs r = feature_regs(m, 7, 0);

	r.eax = LEAF7_SUBLEAVES;
	add(m, 7, 0, r);
	add(m, 7, LEAF7_SUBLEAVES, feature_regs(m, 7, LEAF7_SUBLEAVES));
}

/* The size for the current XCR0 goes into EBX at query time. */
static void add_xsave(struct cpuid_model *m)
{
	uint64_t xcr0 = cpuid_xcr0(m);

	if (!xcr0)
		return;
	add(m, 0xd, 0, (struct cpuid_regs){ .eax = (uint32_t)xcr0, .ecx = xsave_bytes(xcr0) });
	add(m, 0xd, 1, feature_regs(m, 0xd, 1));
	for (unsigned i = 0; i < ARRAY_SIZE(components); i++) {
		const struct component *k = &components[i];

		if (cpu_has(m, k->feature))
			add(m, 0xd, k->number,
			    (struct cpuid_regs){ .eax = k->bytes, .ebx = k->offset });
	}
}

static void add_basic(struct cpuid_model *m, uint64_t tsc_khz)
{
	add_identity(m);
	add_version(m);
	add_plain(m, 2, (struct cpuid_regs){ .eax = 0xff01 }); /* caches: see leaf 4 */
	add_caches(m);
	add_plain(m, 6, feature_regs(m, 6, 0));
	add_features(m);
	if (cpu_has(m, CPU_X2APIC))
		add_topology(m);
	add_xsave(m);
	add_tsc(m, tsc_khz);
	add_frequency(m, tsc_khz);
	if (cpu_has(m, CPU_X2APIC))
		add_topology_v2(m);
}

enum kvm_feature {
	KVM_CLOCKSOURCE = BIT(0),
	KVM_NOP_IO_DELAY = BIT(1),
	KVM_CLOCKSOURCE2 = BIT(3),
	KVM_STEAL_TIME = BIT(5),
	KVM_PV_EOI = BIT(6),
	KVM_PV_UNHALT = BIT(7),
	KVM_PV_TLB_FLUSH = BIT(9),
	KVM_PV_SEND_IPI = BIT(11),
	KVM_POLL_CONTROL = BIT(12),
	KVM_PV_SCHED_YIELD = BIT(13),
	KVM_MSI_EXT_DEST_ID = BIT(15),
	KVM_CLOCKSOURCE_STABLE = BIT(24),
};

static void add_hypervisor(struct cpuid_model *m, uint64_t tsc_khz)
{
	static const char kvm[12] = "KVMKVMKVM";

	add_plain(m, LEAF_HYPERVISOR,
		  (struct cpuid_regs){ .eax = MAX_HYPERVISOR,
				       .ebx = load_u32(kvm),
				       .ecx = load_u32(kvm + 4),
				       .edx = load_u32(kvm + 8) });
	add_plain(m, LEAF_HYPERVISOR + 1,
		  (struct cpuid_regs){ .eax = KVM_CLOCKSOURCE | KVM_NOP_IO_DELAY |
					      KVM_CLOCKSOURCE2 | KVM_STEAL_TIME | KVM_PV_EOI |
					      KVM_PV_UNHALT | KVM_PV_TLB_FLUSH | KVM_PV_SEND_IPI |
					      KVM_POLL_CONTROL | KVM_PV_SCHED_YIELD |
					      KVM_MSI_EXT_DEST_ID | KVM_CLOCKSOURCE_STABLE });
	add_plain(m, LEAF_HYPERVISOR + 0x10,
		  (struct cpuid_regs){ .eax = (uint32_t)tsc_khz, .ebx = APIC_TIMER_KHZ });
}

static void add_brand(struct cpuid_model *m)
{
	for (unsigned i = 0; i < 3; i++) {
		const char *p = brand + 16 * i;

		add_plain(m, LEAF_EXTENDED + 2 + i,
			  (struct cpuid_regs){ .eax = load_u32(p),
					       .ebx = load_u32(p + 4),
					       .ecx = load_u32(p + 8),
					       .edx = load_u32(p + 12) });
	}
}

/* SDM vol. 2, CPUID leaf 80000006H: the code of an associativity. */
static uint32_t associativity_code(unsigned ways)
{
	static const struct {
		uint8_t ways, code;
	} codes[] = { { 128, 0xe }, { 96, 0xd }, { 64, 0xc }, { 48, 0xb }, { 32, 0xa },
		      { 16, 8 },    { 8, 6 },    { 4, 4 },    { 2, 2 },    { 1, 1 } };

	for (unsigned i = 0; i < ARRAY_SIZE(codes); i++)
		if (ways >= codes[i].ways)
			return codes[i].code;
	return 0;
}

static struct cpuid_regs l2_regs(const struct topology *t)
{
	const struct topo_cache *l2 = &t->cache[2];

	return (struct cpuid_regs){ .ecx = MIN(l2->bytes >> 10, 0xffffu) << 16 |
					   associativity_code(l2->ways) << 12 | l2->line_bytes };
}

static void add_extended(struct cpuid_model *m)
{
	add_plain(m, LEAF_EXTENDED, (struct cpuid_regs){ .eax = MAX_EXTENDED });
	add_plain(m, LEAF_EXTENDED + 1, feature_regs(m, X1, 0));
	add_brand(m);
	add_plain(m, LEAF_EXTENDED + 6, l2_regs(m->topo));
	add_plain(m, LEAF_EXTENDED + 7, feature_regs(m, X7, 0));
	add_plain(m, LEAF_EXTENDED + 8,
		  (struct cpuid_regs){ .eax = m->phys_bits | VIRT_BITS << 8 });
}

/* --- the model -------------------------------------------------------------------- */

/* SDM vol. 4, table 2-2, register 10AH. */
enum {
	RDCL_NO = 0,
	IBRS_ALL = 1,
	SKIP_VMENTRY_L1DFL = 3,
	SSB_NO = 4,
	MDS_NO = 5,
	PSCHANGE_MC_NO = 6,
	TAA_NO = 8,
	SBDR_SSDP_NO = 13,
	FBSDP_NO = 14,
	PSDP_NO = 15,
	BHI_NO = 20,
	PBRSB_NO = 24,
	GDS_NO = 26,
	RFDS_NO = 27,
	ITS_NO = 62,
};

static uint64_t arch_capabilities(const struct cpuid_model *m)
{
	if (!cpu_has(m, CPU_ARCH_CAPABILITIES))
		return 0;
	return BIT64(RDCL_NO) | (cpu_has(m, CPU_SPEC_CTRL) ? BIT64(IBRS_ALL) : 0) |
	       BIT64(SKIP_VMENTRY_L1DFL) | BIT64(SSB_NO) | BIT64(MDS_NO) | BIT64(PSCHANGE_MC_NO) |
	       BIT64(TAA_NO) | BIT64(SBDR_SSDP_NO) | BIT64(FBSDP_NO) | BIT64(PSDP_NO) |
	       BIT64(BHI_NO) | BIT64(PBRSB_NO) | BIT64(GDS_NO) | BIT64(RFDS_NO) | BIT64(ITS_NO);
}

static int choose_phys_bits(struct builder *b)
{
	unsigned bits = PHYS_BITS_MIN;

	while (bits < 64 && b->r->gpa_end > BIT64(bits))
		bits++;
	if (bits > PHYS_BITS_MAX)
		return refuse(b, "memory ends at %#llx: an address has %d bits at most",
			      (unsigned long long)b->r->gpa_end, PHYS_BITS_MAX);
	b->m->phys_bits = bits;
	return 0;
}

int cpuid_build(struct cpuid_model *m, const struct cpuid_request *r, char *why, size_t why_bytes)
{
	struct builder b = { .m = m, .r = r, .why = why, .why_bytes = why_bytes };
	int err;

	*m = (struct cpuid_model){
		.topo = r->topo,
		.vendor = "GenuineIntel",
		.family = CPU_FAMILY,
		.model = CPU_MODEL,
		.stepping = CPU_STEPPING,
		.max_basic = MAX_BASIC,
		.max_extended = MAX_EXTENDED,
	};
	cpuid_host_features(&b.host);
	err = choose_features(&b);
	if (!err)
		err = choose_phys_bits(&b);
	if (err)
		return err;

	m->arch_capabilities = arch_capabilities(m);
	add_basic(m, r->tsc_khz);
	if (cpu_has(m, CPU_HYPERVISOR)) {
		m->max_hypervisor = MAX_HYPERVISOR;
		add_hypervisor(m, r->tsc_khz);
	}
	add_extended(m);
	return 0;
}

/* --- queries ------------------------------------------------------------------------ */

static const struct cpuid_entry *find_entry(const struct cpuid_model *m, uint32_t leaf,
					    uint32_t subleaf)
{
	unsigned low = 0, high = m->nr_entries;

	while (low < high) {
		unsigned mid = (low + high) / 2;
		const struct cpuid_entry *e = &m->entry[mid];
		uint32_t sub = e->subleaf == CPUID_ANY_SUBLEAF ? subleaf : e->subleaf;

		if (e->leaf == leaf && sub == subleaf)
			return e;
		if (e->leaf < leaf || (e->leaf == leaf && sub < subleaf))
			low = mid + 1;
		else
			high = mid;
	}
	return NULL;
}

/* Beyond the last basic or extended leaf a processor answers as for the last basic one. */
static uint32_t clamp_leaf(const struct cpuid_model *m, uint32_t leaf)
{
	uint32_t class = leaf & 0xc0000000;

	if (class == LEAF_HYPERVISOR)
		return leaf; /* no entry, no answer */
	if (leaf <= m->max_basic || (class == LEAF_EXTENDED && leaf <= m->max_extended))
		return leaf;
	return m->max_basic;
}

struct cpuid_regs cpuid_query(const struct cpuid_model *m, unsigned vcpu, uint32_t leaf,
			      uint32_t subleaf, uint64_t cr4, uint64_t xcr0, uint64_t apic_base)
{
	const struct cpuid_entry *e;
	struct cpuid_regs r = { 0 };
	uint32_t apic_id = m->topo->vcpu[vcpu].apic_id;

	leaf = clamp_leaf(m, leaf);
	e = find_entry(m, leaf, subleaf);
	if (e)
		r = e->regs;

	switch (leaf) {
	case 1:
		r.ebx |= apic_id << 24;
		if (cr4 & CR4_OSXSAVE)
			r.ecx |= BIT(27);
		if (!(apic_base & APIC_BASE_ENABLE))
			r.edx &= ~BIT(9);
		break;
	case 0xd:
		if (e && !subleaf)
			r.ebx = xsave_bytes(xcr0);
		break;
	case 0xb:
	case 0x1f:
		if (!cpu_has(m, CPU_X2APIC))
			break;
		r.edx = apic_id;
		if (!e)
			r.ecx = subleaf & 0xff;
		break;
	default:
		break;
	}
	return r;
}
