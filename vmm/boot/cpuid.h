/*
 * cpuid.h - what CPUID tells a guest, and which features it therefore has.
 *
 * Made once a machine, from the host's processor, the guest's topology and the
 * user's wishes; per-vCPU fields (APIC IDs) are filled in by cpuid_query().
 */
#ifndef VMM_BOOT_CPUID_H
#define VMM_BOOT_CPUID_H

#include "boot/topology.h"
#include "core/util.h"

struct cpuid_regs {
	uint32_t eax, ebx, ecx, edx;
};

#define CPUID_ENTRIES_MAX 96
#define CPUID_ANY_SUBLEAF UINT32_MAX

struct cpuid_entry {
	uint32_t leaf, subleaf; /* CPUID_ANY_SUBLEAF: the same for all */
	struct cpuid_regs regs;
};

/*
 * Features the engines and the MSR code ask about, by name. The order is ours;
 * cpuid.c has the table of names, leaves, registers and bits.
 */
/* clang-format off */
#define CPU_FEATURES(X) \
	X(FPU) X(DE) X(PSE) X(TSC) X(MSR) X(PAE) X(MCE) X(CX8) X(APIC) X(SEP) X(MTRR) X(PGE) X(MCA) \
	X(CMOV) X(PAT) X(PSE36) X(CLFLUSH) X(MMX) X(FXSR) X(SSE) X(SSE2) X(SS) X(HTT) \
	X(SSE3) X(PCLMULQDQ) X(SSSE3) X(FMA) X(CX16) X(PCID) X(SSE4_1) X(SSE4_2) X(X2APIC) X(MOVBE) \
	X(POPCNT) X(TSC_DEADLINE) X(AES) X(XSAVE) X(AVX) X(F16C) X(RDRAND) X(HYPERVISOR) \
	X(FSGSBASE) X(TSC_ADJUST) X(BMI1) X(AVX2) X(SMEP) X(BMI2) X(ERMS) X(INVPCID) X(AVX512F) \
	X(AVX512DQ) X(RDSEED) X(ADX) X(SMAP) X(CLFLUSHOPT) X(CLWB) X(AVX512CD) X(SHA_NI) X(AVX512BW) \
	X(AVX512VL) X(UMIP) X(GFNI) X(VAES) X(VPCLMULQDQ) X(RDPID) X(FSRM) X(MD_CLEAR) X(SPEC_CTRL) \
	X(STIBP) X(ARCH_CAPABILITIES) X(SSBD) X(BHI_CTRL) X(SYSCALL) X(NX) X(PDPE1GB) X(RDTSCP) X(LM) \
	X(LAHF_LM) X(ABM) X(PREFETCHW) X(INVTSC) X(ARAT) X(XSAVEOPT) X(XGETBV1)
/* clang-format on */

enum cpu_feature {
#define X(name) CPU_##name,
	CPU_FEATURES(X)
#undef X
		CPU_FEATURE_COUNT
};

struct cpu_features {
	uint64_t word[(CPU_FEATURE_COUNT + 63) / 64];
};

struct cpuid_model {
	struct cpuid_entry entry[CPUID_ENTRIES_MAX]; /* ascending */
	unsigned nr_entries;
	uint32_t max_basic, max_hypervisor, max_extended;
	struct cpu_features has;
	const struct topology *topo;
	uint64_t arch_capabilities; /* IA32_ARCH_CAPABILITIES */
	unsigned phys_bits;
	char vendor[13];
	unsigned family, model, stepping;
};

struct cpuid_request {
	const struct topology *topo;
	uint64_t tsc_khz;
	uint64_t gpa_end; /* phys_bits must cover it */
	/* Features to add (+name) or drop (-name); NULL-terminated, or NULL. */
	const char *const *overrides;
};

/* What the host's processor has, by executing CPUID. */
void cpuid_host_features(struct cpu_features *f);

/* -EINVAL: an override that is unknown, not to be had, or contradicts another; see why[]. */
int cpuid_build(struct cpuid_model *m, const struct cpuid_request *r, char *why, size_t why_bytes);

/* The state components that XCR0 may name; 0 without XSAVE. */
uint64_t cpuid_xcr0(const struct cpuid_model *m);

/*
 * What this vCPU reads. @cr4 decides OSXSAVE, @xcr0 the size of an XSAVE area,
 * @apic_base the APIC bit. Never fails.
 */
struct cpuid_regs cpuid_query(const struct cpuid_model *m, unsigned vcpu, uint32_t leaf,
			      uint32_t subleaf, uint64_t cr4, uint64_t xcr0, uint64_t apic_base);

static inline bool cpu_has(const struct cpuid_model *m, enum cpu_feature f)
{
	return m->has.word[f / 64] & BIT64(f % 64);
}

const char *cpu_feature_name(enum cpu_feature f); /* lower case, as Linux names it */

#endif
