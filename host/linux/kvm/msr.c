/*
 * msr.c - the MSRs of struct cpu_state, and the filter: what is not on the list
 * here never reaches the kernel, but comes to us to be counted and refused.
 *
 * SDM vol. 4; AMD's by the APM vol. 2, app. A; KVM's own by Documentation/virt/kvm/x86/msr.rst.
 */
#include "kvm.h"

#include <errno.h>

struct state_msr {
	uint32_t msr;
	size_t offset; /* of an uint64_t in struct cpu_state */
};

#define FIELD(msr, field)                                                                          \
	{                                                                                          \
		msr, offsetof(struct cpu_state, field)                                             \
	}

/* clang-format off */
static const struct state_msr state_msrs[] = {
	FIELD(0xc0000081, star),	FIELD(0xc0000082, lstar),
	FIELD(0xc0000083, cstar),	FIELD(0xc0000084, sfmask),
	FIELD(0xc0000102, kernel_gs_base), FIELD(0xc0000103, tsc_aux),
	FIELD(0x174, sysenter_cs),	FIELD(0x175, sysenter_esp),
	FIELD(0x176, sysenter_eip),	FIELD(0x3b, tsc_adjust),
	FIELD(0x277, pat),		FIELD(0x1a0, misc_enable),
	FIELD(0x48, spec_ctrl),		FIELD(0x2ff, mtrr_def_type),
	FIELD(0x250, mtrr_fixed[0]),	FIELD(0x258, mtrr_fixed[1]),
	FIELD(0x259, mtrr_fixed[2]),	FIELD(0x268, mtrr_fixed[3]),
	FIELD(0x269, mtrr_fixed[4]),	FIELD(0x26a, mtrr_fixed[5]),
	FIELD(0x26b, mtrr_fixed[6]),	FIELD(0x26c, mtrr_fixed[7]),
	FIELD(0x26d, mtrr_fixed[8]),	FIELD(0x26e, mtrr_fixed[9]),
	FIELD(0x26f, mtrr_fixed[10]),
	FIELD(0x200, mtrr_phys[0]),	FIELD(0x201, mtrr_phys[1]),
	FIELD(0x202, mtrr_phys[2]),	FIELD(0x203, mtrr_phys[3]),
	FIELD(0x204, mtrr_phys[4]),	FIELD(0x205, mtrr_phys[5]),
	FIELD(0x206, mtrr_phys[6]),	FIELD(0x207, mtrr_phys[7]),
	FIELD(0x208, mtrr_phys[8]),	FIELD(0x209, mtrr_phys[9]),
	FIELD(0x20a, mtrr_phys[10]),	FIELD(0x20b, mtrr_phys[11]),
	FIELD(0x20c, mtrr_phys[12]),	FIELD(0x20d, mtrr_phys[13]),
	FIELD(0x20e, mtrr_phys[14]),	FIELD(0x20f, mtrr_phys[15]),
	FIELD(0x4b564d00, kvm_wall_clock), FIELD(0x4b564d01, kvm_system_time),
	FIELD(0x4b564d03, kvm_steal_time), FIELD(0x4b564d04, kvm_eoi),
	FIELD(0x4b564d05, kvm_poll),	FIELD(0x1d9, debugctl),
	FIELD(0x140, misc_features),	FIELD(0x17a, mcg_status),
	FIELD(0xc0010015, hwcr),
};
/* clang-format on */

#define NR_STATE_MSRS ARRAY_SIZE(state_msrs)
_Static_assert(NR_STATE_MSRS <= 64, "one bit each in kvm_machine.msr_missing");

struct msr_batch {
	struct kvm_msrs head;
	struct kvm_msr_entry entry[NR_STATE_MSRS + 1];
};

static uint64_t *field_of(struct cpu_state *s, unsigned i)
{
	return (uint64_t *)(void *)((uint8_t *)s + state_msrs[i].offset);
}

/* --- one -------------------------------------------------------------------------- */

static int one_msr(struct kvm_cpu *c, unsigned long request, uint32_t msr, uint64_t *v)
{
	struct msr_batch b = { .head = { .nmsrs = 1 }, .entry = { { .index = msr, .data = *v } } };
	int n = kvm_ioctl(c->fd, request, &b);

	*v = b.entry[0].data;
	return n == 1 ? 0 : n < 0 ? n : -EINVAL;
}

int kvm_set_msr(struct kvm_cpu *c, uint32_t msr, uint64_t v)
{
	return one_msr(c, KVM_SET_MSRS, msr, &v);
}

int kvm_get_msr(struct kvm_cpu *c, uint32_t msr, uint64_t *v)
{
	*v = 0;
	return one_msr(c, KVM_GET_MSRS, msr, v);
}

/* --- those of the state --------------------------------------------------------------- */

/*
 * From the entry @first of the table on, in one call. The kernel stops at the first
 * that this processor lacks, and returns how many it did.
 */
static int batch(struct kvm_cpu *c, unsigned long request, struct cpu_state *s, unsigned first,
		 unsigned *stopped)
{
	uint64_t missing = atomic_load(&c->machine->msr_missing);
	uint8_t which[NR_STATE_MSRS];
	struct msr_batch b = { 0 };
	int done;

	for (unsigned i = first; i < NR_STATE_MSRS; i++) {
		if (missing & BIT64(i))
			continue;
		which[b.head.nmsrs] = (uint8_t)i;
		b.entry[b.head.nmsrs++] = (struct kvm_msr_entry){ .index = state_msrs[i].msr,
								  .data = *field_of(s, i) };
	}
	*stopped = NR_STATE_MSRS;
	if (!b.head.nmsrs)
		return 0;
	done = kvm_ioctl(c->fd, request, &b);
	if (done < 0)
		return done;
	if (request == KVM_GET_MSRS)
		for (int i = 0; i < done; i++)
			*field_of(s, which[i]) = b.entry[i].data;
	if (done < (int)b.head.nmsrs)
		*stopped = which[done];
	return 0;
}

static bool is_missing(struct kvm_cpu *c, unsigned i)
{
	uint64_t v;

	return kvm_get_msr(c, state_msrs[i].msr, &v) != 0;
}

void kvm_get_msrs(struct kvm_cpu *c, struct cpu_state *s)
{
	for (unsigned at = 0, stopped; at < NR_STATE_MSRS; at = stopped + 1) {
		int err = batch(c, KVM_GET_MSRS, s, at, &stopped);

		if (err) {
			vcpu_log(c->vcpu, LOG_ERR, "KVM_GET_MSRS: %s", strerror(-err));
			return;
		}
		if (stopped < NR_STATE_MSRS)
			atomic_fetch_or(&c->machine->msr_missing, BIT64(stopped));
	}
}

/* An MSR that this processor lacks may be set to anything; a value refused is an error. */
int kvm_set_msrs(struct kvm_cpu *c, const struct cpu_state *state)
{
	struct cpu_state *s = (struct cpu_state *)(uintptr_t)state; /* is only read */

	for (unsigned at = 0, stopped; at < NR_STATE_MSRS; at = stopped + 1) {
		int err = batch(c, KVM_SET_MSRS, s, at, &stopped);

		if (err)
			return err;
		if (stopped == NR_STATE_MSRS)
			break;
		if (!is_missing(c, stopped))
			return -EINVAL;
		atomic_fetch_or(&c->machine->msr_missing, BIT64(stopped));
	}
	return 0;
}

/* --- the filter ---------------------------------------------------------------------------- */

struct msr_range {
	uint32_t first, last;
};

/* In ascending order. x2APIC's are not filtered. */
static const struct msr_range allowed[] = {
	{ 0x0, 0x1 },     /* P5 machine checks */
	{ 0x10, 0x10 },   /* TSC */
	{ 0x17, 0x17 },   /* platform ID */
	{ 0x1b, 0x1b },   /* APIC base */
	{ 0x3a, 0x3b },   /* feature control, TSC adjust */
	{ 0x48, 0x49 },   /* speculation control, prediction barrier */
	{ 0x79, 0x79 },   /* microcode update */
	{ 0x8b, 0x8b },   /* microcode revision */
	{ 0xce, 0xce },   /* platform info */
	{ 0xfe, 0xfe },   /* MTRR capabilities */
	{ 0x10a, 0x10b }, /* architecture capabilities, L1D flush */
	{ 0x140, 0x140 }, /* feature enables */
	{ 0x174, 0x176 }, /* SYSENTER */
	{ 0x179, 0x17b }, /* machine checks */
	{ 0x1a0, 0x1a0 }, /* misc enable */
	{ 0x1d9, 0x1d9 }, /* debug control */
	{ 0x200, 0x20f }, /* MTRRs */
	{ 0x250, 0x250 }, /* fixed ones */
	{ 0x258, 0x259 },
	{ 0x268, 0x26f },
	{ 0x277, 0x277 },           /* PAT */
	{ 0x2ff, 0x2ff },           /* MTRR default type */
	{ 0x400, 0x47f },           /* machine check banks */
	{ 0x6e0, 0x6e0 },           /* TSC deadline */
	{ 0x4b564d00, 0x4b564d01 }, /* KVM's clocks */
	{ 0x4b564d03, 0x4b564d05 }, /* steal time, EOI, polling */
	{ 0xc0000080, 0xc0000084 }, /* EFER, SYSCALL */
	{ 0xc0000100, 0xc0000103 }, /* segment bases, TSC_AUX */
	{ 0xc0010010, 0xc0010010 }, /* AMD: SYSCFG */
	{ 0xc0010015, 0xc0010015 }, /* HWCR */
	{ 0xc001001f, 0xc0010020 }, /* northbridge, microcode loader */
	{ 0xc0010055, 0xc0010055 }, /* interrupt pending message */
	{ 0xc0010058, 0xc0010058 }, /* MMIO configuration base */
	{ 0xc001011f, 0xc001011f }, /* virtual speculation control */
	{ 0xc0011020, 0xc0011023 }, /* load-store, caches, bus unit */
	{ 0xc0011029, 0xc001102a }, /* decode configuration */
};

/* A window of the MSR space that one filter range covers. */
static const struct msr_range window[] = {
	{ 0x0, 0x6ff },
	{ 0x4b564d00, 0x4b564d3f },
	{ 0xc0000080, 0xc000013f },
	{ 0xc0010000, 0xc001013f },
	{ 0xc0011000, 0xc001103f },
};

#define WINDOW_MSRS 0x700

static void allow_in(uint8_t *bitmap, const struct msr_range *w)
{
	for (unsigned i = 0; i < ARRAY_SIZE(allowed); i++) {
		if (allowed[i].first < w->first || allowed[i].last > w->last)
			continue;
		for (uint32_t n = allowed[i].first; n <= allowed[i].last; n++)
			bitmap[(n - w->first) / 8] |= (uint8_t)BIT((n - w->first) % 8);
	}
}

/* A kernel without filters still refuses what it does not know. */
int kvm_msr_filter(struct kvm_machine *m)
{
	uint8_t bitmap[ARRAY_SIZE(window)][WINDOW_MSRS / 8] = { 0 };
	struct kvm_msr_filter f = { .flags = KVM_MSR_FILTER_DEFAULT_DENY };
	struct kvm_enable_cap to_user = {
		.cap = KVM_CAP_X86_USER_SPACE_MSR,
		.args = { KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_FILTER },
	};

	if (kvm_ioctl_n(m->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_X86_MSR_FILTER) <= 0 ||
	    kvm_ioctl_n(m->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_X86_USER_SPACE_MSR) <= 0)
		return 0;
	for (unsigned i = 0; i < ARRAY_SIZE(window); i++) {
		allow_in(bitmap[i], &window[i]);
		f.ranges[i] = (struct kvm_msr_filter_range){
			.flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE,
			.base = window[i].first,
			.nmsrs = window[i].last - window[i].first + 1,
			.bitmap = bitmap[i],
		};
	}
	if (kvm_ioctl(m->vm_fd, KVM_ENABLE_CAP, &to_user) < 0)
		return -ENOTSUP;
	return kvm_ioctl(m->vm_fd, KVM_X86_SET_MSR_FILTER, &f);
}
