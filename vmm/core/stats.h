/*
 * stats.h - what a vCPU counts. Leaf header.
 *
 * A counter is written by its vCPU's thread alone, with plain relaxed stores,
 * and may be read by anybody at any time. Those of time are the sampler's (sample.h).
 */
#ifndef VMM_CORE_STATS_H
#define VMM_CORE_STATS_H

#include "core/util.h"

#include <stdatomic.h>

/* clang-format off */
#define VCPU_STATS(X) \
	X(INSNS,	"insns",	"guest instructions retired") \
	X(BLOCKS,	"blocks",	"predecoded blocks entered") \
	X(DECODES,	"decodes",	"blocks decoded") \
	X(TRANSLATIONS,	"translations",	"blocks translated") \
	X(CACHE_FLUSHES,	"cache_flushes",	"times the cache of translated code was emptied") \
	X(LOOKUPS,	"lookups",	"jumps whose target was not at hand") \
	X(LINKS,	"links",	"jumps linked to their targets") \
	X(INTERPRETED,	"interpreted",	"instructions left to the interpreter") \
	X(CODE_WRITES,	"code_writes",	"stores that hit decoded code") \
	X(TLB_MISSES,	"tlb_misses",	"software TLB misses") \
	X(TLB_FLUSHES,	"tlb_flushes",	"software TLB flushes") \
	X(PAGE_FAULTS,	"page_faults",	"page faults delivered to the guest") \
	X(EXCEPTIONS,	"exceptions",	"other exceptions delivered") \
	X(INTERRUPTS,	"interrupts",	"interrupts delivered") \
	X(IPIS,		"ipis",		"interprocessor interrupts sent") \
	X(PIO,		"pio",		"port accesses") \
	X(MMIO,		"mmio",		"device memory accesses") \
	X(EXITS,	"exits",	"returns from guest code, those the kernel handles too") \
	X(APIC,		"apic",		"local APIC accesses") \
	X(HALTS,	"halts",	"times the vCPU went idle") \
	X(POLLS,	"polls",	"of these, ended by work found before the thread slept") \
	X(POLLS_MISSED,	"polls_missed",	"of these, polled for work in vain") \
	X(POLL_NS,	"poll_ns",	"nanoseconds of polling for work") \
	X(CPUID,	"cpuid",	"CPUID executed") \
	X(MSR,		"msr",		"RDMSR and WRMSR executed") \
	X(HYPERCALLS,	"hypercalls",	"VMCALL executed") \
	X(KICKS,	"kicks",	"times another thread interrupted execution") \
	X(UNKNOWN_MSRS,	"unknown_msrs",	"accesses to MSRs that do not exist") \
	X(UNKNOWN_OPS,	"unknown_ops",	"undefined instructions") \
	X(BAD_ACCESSES,	"bad_accesses",	"accesses where no device is") \
	X(CODE_US,	"code_us",	"microseconds in guest code, translated if need be") \
	X(INTERP_US,	"interp_us",	"microseconds of interpreting, and of interrupts") \
	X(TRANSLATE_US,	"translate_us",	"microseconds of translating") \
	X(MMU_US,	"mmu_us",	"microseconds of walking guest page tables") \
	X(OUTSIDE_US,	"outside_us",	"microseconds in devices, and of waiting while parked") \
	X(IDLE_US,	"idle_us",	"microseconds idle")
/* clang-format on */

enum vcpu_stat {
#define X(id, name, help) STAT_##id,
	VCPU_STATS(X)
#undef X
		STAT_COUNT
};

struct vcpu_stats {
	_Atomic uint64_t count[STAT_COUNT];
};

static inline void stat_add(struct vcpu_stats *s, enum vcpu_stat id, uint64_t n)
{
	uint64_t v = atomic_load_explicit(&s->count[id], memory_order_relaxed);

	atomic_store_explicit(&s->count[id], v + n, memory_order_relaxed);
}

static inline uint64_t stat_get(struct vcpu_stats *s, enum vcpu_stat id)
{
	return atomic_load_explicit(&s->count[id], memory_order_relaxed);
}

const char *stat_name(enum vcpu_stat id);
const char *stat_help(enum vcpu_stat id);

#endif
