/* test_cpuid.c - what CPUID tells guests: identity, features, topology, rates. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "boot/cpuid.h"
#include "core/cpu_state.h"
#include "cpu/xstate.h"

#include <errno.h>

static struct topology t;
static struct cpuid_model m;
static char why[256];

#define APIC_ON 0xfee00900u

static int build(struct topo_request topo, uint64_t tsc_khz, const char *const *overrides)
{
	struct cpuid_request r = {
		.topo = &t, .tsc_khz = tsc_khz, .gpa_end = GIB(8), .overrides = overrides
	};

	why[0] = '\0';
	assert_int_equal(topo_build(&t, &topo, why, sizeof(why)), 0);
	return cpuid_build(&m, &r, why, sizeof(why));
}

static void build_plain(void)
{
	assert_int_equal(build((struct topo_request){ .vcpus = 4, .nodes = 2 }, 2300000, NULL), 0);
}

static struct cpuid_regs ask(unsigned vcpu, uint32_t leaf, uint32_t subleaf)
{
	return cpuid_query(&m, vcpu, leaf, subleaf, 0, 1, APIC_ON);
}

static void test_identity(void **state)
{
	struct cpuid_regs r;
	char brand[49] = "";

	build_plain();
	r = ask(0, 0, 0);
	assert_memory_equal(&r.ebx, "Genu", 4);
	assert_memory_equal(&r.edx, "ineI", 4);
	assert_memory_equal(&r.ecx, "ntel", 4);
	assert_int_equal(r.eax, 0x1f);
	assert_int_equal(ask(0, 1, 0).eax, 0x80661);
	for (unsigned i = 0; i < 3; i++) {
		r = ask(0, 0x80000002 + i, 0);
		memcpy(brand + 16 * i, &r, 16);
	}
	assert_non_null(strstr(brand, "Alcazar"));
}

static void test_entries_ascend(void **state)
{
	build_plain();
	for (unsigned i = 1; i < m.nr_entries; i++) {
		const struct cpuid_entry *a = &m.entry[i - 1], *b = &m.entry[i];

		assert_true(a->leaf < b->leaf || (a->leaf == b->leaf && a->subleaf < b->subleaf));
	}
}

/* Flags as Linux reads them: the bit says what cpu_has() says. */
static void test_feature_bits(void **state)
{
	static const struct {
		enum cpu_feature f;
		uint32_t leaf;
		size_t reg;
		unsigned bit;
	} known[] = {
		{ CPU_SSE2, 1, offsetof(struct cpuid_regs, edx), 26 },
		{ CPU_X2APIC, 1, offsetof(struct cpuid_regs, ecx), 21 },
		{ CPU_HYPERVISOR, 1, offsetof(struct cpuid_regs, ecx), 31 },
		{ CPU_POPCNT, 1, offsetof(struct cpuid_regs, ecx), 23 },
		{ CPU_FSGSBASE, 7, offsetof(struct cpuid_regs, ebx), 0 },
		{ CPU_SMEP, 7, offsetof(struct cpuid_regs, ebx), 7 },
		{ CPU_SMAP, 7, offsetof(struct cpuid_regs, ebx), 20 },
		{ CPU_UMIP, 7, offsetof(struct cpuid_regs, ecx), 2 },
		{ CPU_SPEC_CTRL, 7, offsetof(struct cpuid_regs, edx), 26 },
		{ CPU_ARCH_CAPABILITIES, 7, offsetof(struct cpuid_regs, edx), 29 },
		{ CPU_LM, 0x80000001, offsetof(struct cpuid_regs, edx), 29 },
		{ CPU_INVTSC, 0x80000007, offsetof(struct cpuid_regs, edx), 8 },
		{ CPU_ARAT, 6, offsetof(struct cpuid_regs, eax), 2 },
		{ CPU_AVX, 1, offsetof(struct cpuid_regs, ecx), 28 },
	};

	build_plain();
	for (unsigned i = 0; i < ARRAY_SIZE(known); i++) {
		struct cpuid_regs r = ask(0, known[i].leaf, 0);
		uint32_t v = load_u32((uint8_t *)&r + known[i].reg);

		assert_int_equal(!!(v & BIT(known[i].bit)), cpu_has(&m, known[i].f));
	}
	assert_true(cpu_has(&m, CPU_LM) && cpu_has(&m, CPU_X2APIC) && cpu_has(&m, CPU_SMEP));
	assert_false(cpu_has(&m, CPU_SMAP));
}

/* Leaf D holds together, and says what the XSAVE image in xstate.h says. */
static void test_xsave_leaf(void **state)
{
	static const struct {
		unsigned bit, offset, bytes;
	} known[] = { { 2, XSAVE_YMM, 256 },
		      { 5, XSAVE_OPMASK, 64 },
		      { 6, XSAVE_ZMM_HI256, 512 },
		      { 7, XSAVE_HI16_ZMM, 1024 } };
	struct cpuid_regs d0;

	build_plain();
	if (!cpu_has(&m, CPU_XSAVE))
		return;
	d0 = ask(0, 0xd, 0);
	assert_int_equal(d0.eax, cpuid_xcr0(&m));
	assert_int_equal(d0.eax & 3, 3);
	assert_int_equal(d0.edx, 0);
	for (unsigned i = 0; i < ARRAY_SIZE(known); i++) {
		struct cpuid_regs r = ask(0, 0xd, known[i].bit);
		bool has = d0.eax & BIT(known[i].bit);
		uint64_t upto = d0.eax & (BIT(known[i].bit + 1) - 1);

		assert_int_equal(has, cpu_has(&m, known[i].bit == 2 ? CPU_AVX : CPU_AVX512F));
		assert_int_equal(r.eax, has ? known[i].bytes : 0);
		assert_int_equal(r.ebx, has ? known[i].offset : 0);
		if (has)
			assert_int_equal(cpuid_query(&m, 0, 0xd, 0, 0, upto, BIT64(11)).ebx,
					 known[i].offset + known[i].bytes);
	}
	assert_int_equal(cpuid_query(&m, 0, 0xd, 0, 0, 3, BIT64(11)).ebx, 576);
	assert_int_equal(cpuid_query(&m, 0, 0xd, 0, 0, d0.eax, BIT64(11)).ebx, d0.ecx);
	assert_int_equal(ask(0, 0xd, 1).eax & ~5u, 0); /* neither XSAVEC nor XSAVES */
	assert_int_equal(ask(0, 0xd, 3).eax, 0);
}

/* What runs natively must exist here. */
static void test_features_are_in_host(void **state)
{
	static const enum cpu_feature native[] = { CPU_SSE3,      CPU_SSSE3, CPU_SSE4_1, CPU_SSE4_2,
						   CPU_PCLMULQDQ, CPU_AES,   CPU_SHA_NI, CPU_BMI1,
						   CPU_BMI2,      CPU_ADX,   CPU_POPCNT };
	struct cpu_features host;

	build_plain();
	cpuid_host_features(&host);
	assert_true(host.word[CPU_LM / 64] & BIT64(CPU_LM % 64));
	for (unsigned i = 0; i < ARRAY_SIZE(native); i++)
		if (cpu_has(&m, native[i]))
			assert_true(host.word[native[i] / 64] & BIT64(native[i] % 64));
}

/*
 * What Linux decides from the identity (arch/x86/kernel/cpu/common.c): every flaw
 * that has a "no" bit has it, and enhanced IBRS makes retpolines superfluous.
 */
static void test_no_mitigations(void **state)
{
	static const unsigned no[] = { 0, 4, 5, 6, 8, 13, 14, 15, 20, 24, 26, 27, 62 };
	static const unsigned yes_flaw[] = { 2 /* RSBA */, 7 /* TSX_CTRL */, 17 /* FB_CLEAR */,
					     25 /* GDS_CTRL */, 28 /* RFDS_CLEAR */ };

	build_plain();
	for (unsigned i = 0; i < ARRAY_SIZE(no); i++)
		assert_true(m.arch_capabilities & BIT64(no[i]));
	for (unsigned i = 0; i < ARRAY_SIZE(yes_flaw); i++)
		assert_false(m.arch_capabilities & BIT64(yes_flaw[i]));
	assert_true(m.arch_capabilities & BIT64(1)); /* IBRS_ALL */
	assert_true(cpu_has(&m, CPU_SPEC_CTRL) && cpu_has(&m, CPU_ARCH_CAPABILITIES));
	assert_true(ask(0, 7, 0).eax >= 2);
	assert_true(ask(0, 7, 2).edx & BIT(4)); /* BHI_CTRL: Linux believes no BHI_NO */

	assert_int_equal(build((struct topo_request){ .vcpus = 1, .nodes = 1 }, 1000000,
			       (const char *[]){ "-spec_ctrl", NULL }),
			 0);
	assert_false(m.arch_capabilities & BIT64(1));
	assert_false(cpu_has(&m, CPU_STIBP));
}

/* A guest's view: shifts from leaf B or 1F cut APIC IDs into the topology. */
static void check_topology(void)
{
	unsigned smt = ask(0, 0xb, 0).eax, package = ask(0, 0xb, 1).eax;
	unsigned v2_core = ask(0, 0x1f, 1).eax;
	struct cpuid_regs die = ask(0, 0x1f, 2);

	assert_int_equal(ask(0, 0xb, 0).ecx, 0x100);
	assert_int_equal(ask(0, 0xb, 1).ecx, 0x201);
	assert_int_equal(ask(0, 0xb, 2).ecx, 2); /* no level */
	assert_int_equal(ask(0, 0xb, 2).ebx, 0);
	assert_int_equal(die.ecx >> 8, t.dies > 1 ? 5 : 0);
	if (t.dies > 1)
		assert_int_equal(die.eax, package);
	else
		assert_int_equal(v2_core, package);
	for (unsigned i = 0; i < t.nr_vcpus; i++) {
		const struct topo_vcpu *v = &t.vcpu[i];
		uint32_t id = ask(i, 0xb, 0).edx;

		assert_int_equal(id, v->apic_id);
		assert_int_equal(ask(i, 0x1f, 1).edx, id);
		assert_int_equal(ask(i, 1, 0).ebx >> 24, id & 0xff);
		assert_int_equal(id >> package, v->package);
		assert_int_equal((id & ((1u << package) - 1)) >> v2_core, v->die);
		assert_int_equal((id & ((1u << v2_core) - 1)) >> smt, v->core);
		assert_int_equal(id & ((1u << smt) - 1), v->thread);
	}
}

static void test_topology_leaves(void **state)
{
	static const struct topo_request shapes[] = {
		{ .vcpus = 1, .nodes = 1 },
		{ .vcpus = 13, .nodes = 3 },
		{ .vcpus = 24, .nodes = 2, .threads = 2 },
		{ .vcpus = 32, .nodes = 4, .packages = 2, .threads = 2 },
		{ .vcpus = 1024, .nodes = 64 },
		{ .vcpus = 1023, .nodes = 7, .threads = 3 },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(shapes); i++) {
		assert_int_equal(build(shapes[i], 2000000, NULL), 0);
		check_topology();
	}
}

static void test_caches(void **state)
{
	assert_int_equal(build((struct topo_request){ .vcpus = 12, .nodes = 2, .threads = 2 },
			       2000000, NULL),
			 0);
	for (unsigned i = 0; i < t.nr_caches; i++) {
		struct cpuid_regs r = ask(3, 4, i);
		uint64_t bytes = ((r.ebx >> 22) + 1ull) * ((r.ebx >> 12 & 0x3ff) + 1) *
				 ((r.ebx & 0xfff) + 1) * (r.ecx + 1ull);

		assert_int_equal(r.eax & 0x1f, t.cache[i].type);
		assert_int_equal(r.eax >> 5 & 7, t.cache[i].level);
		assert_int_equal(bytes, t.cache[i].bytes);
		assert_int_equal((r.eax >> 14 & 0xfff) + 1, t.cache[i].level < 3 ? 2 : 8);
	}
	assert_int_equal(ask(0, 4, t.nr_caches).eax, 0);
}

static void test_rates(void **state)
{
	for (uint64_t khz = 800000; khz < 6000000; khz += 99991) {
		struct cpuid_regs r;
		uint32_t linux_khz;

		assert_int_equal(build((struct topo_request){ .vcpus = 1, .nodes = 1 }, khz, NULL),
				 0);
		r = ask(0, 0x15, 0);
		linux_khz = r.ecx / 1000 * r.ebx / r.eax; /* 32 bits, as the kernel does it */
		if (khz < 4294000)
			assert_in_range(linux_khz, khz - khz / 500000, khz + khz / 500000);
		if (khz > 1000000)
			assert_in_range(r.ecx, 999800000, 1000200000);
		assert_int_equal(ask(0, 0x40000010, 0).eax, khz);
		assert_int_equal(ask(0, 0x40000010, 0).ebx, 1000000);
		assert_in_range(ask(0, 0x16, 0).eax, khz / 1000, khz / 1000 + 1);
	}
}

static void test_hypervisor(void **state)
{
	struct cpuid_regs r;

	build_plain();
	r = ask(0, 0x40000000, 0);
	assert_memory_equal(&r.ebx, "KVMKVMKVM\0\0\0", 12);
	assert_int_equal(r.eax, 0x40000010);
	assert_int_equal(ask(0, 0x40000001, 0).eax, 0x0100baeb);
	assert_int_equal(ask(0, 0x40000100, 0).eax, 0);

	assert_int_equal(build((struct topo_request){ .vcpus = 1, .nodes = 1 }, 1000000,
			       (const char *[]){ "-hypervisor", NULL }),
			 0);
	assert_int_equal(ask(0, 0x40000000, 0).eax, 0);
	assert_false(ask(0, 1, 0).ecx & BIT(31));
}

static void test_state_bits(void **state)
{
	build_plain();
	assert_false(cpuid_query(&m, 0, 1, 0, 0, 1, APIC_ON).ecx & BIT(27));
	assert_true(cpuid_query(&m, 0, 1, 0, CR4_OSXSAVE, 1, APIC_ON).ecx & BIT(27));
	assert_true(cpuid_query(&m, 0, 1, 0, 0, 1, APIC_ON).edx & BIT(9));
	assert_false(cpuid_query(&m, 0, 1, 0, 0, 1, 0xfee00000).edx & BIT(9));
}

static void test_out_of_range(void **state)
{
	struct cpuid_regs last, r;

	build_plain();
	last = ask(1, 0x1f, 1);
	r = ask(1, 0x20, 1);
	assert_memory_equal(&r, &last, sizeof(r));
	r = ask(1, 0x80000009, 1);
	assert_memory_equal(&r, &last, sizeof(r));
	r = ask(1, 0xc0000000, 1);
	assert_memory_equal(&r, &last, sizeof(r));
	r = ask(0, 3, 0); /* in range, says nothing */
	assert_int_equal(r.eax | r.ebx | r.ecx | r.edx, 0);
	r = ask(0, 7, 1);
	assert_int_equal(r.eax | r.ebx | r.ecx | r.edx, 0);
}

static void test_address_bits(void **state)
{
	struct cpuid_request r = { .topo = &t, .tsc_khz = 1000000, .gpa_end = BIT64(47) };

	build_plain();
	assert_int_equal(ask(0, 0x80000008, 0).eax, 48 << 8 | 46);
	assert_int_equal(cpuid_build(&m, &r, why, sizeof(why)), 0);
	assert_int_equal(m.phys_bits, 47);
	r.gpa_end = BIT64(52) + 1;
	assert_int_equal(cpuid_build(&m, &r, why, sizeof(why)), -EINVAL);
}

static void assert_refused(const char *const *overrides, const char *reason)
{
	assert_int_equal(build((struct topo_request){ .vcpus = 2, .nodes = 1 }, 1000000, overrides),
			 -EINVAL);
	if (!strstr(why, reason))
		fail_msg("\"%s\" does not say \"%s\"", why, reason);
}

static void test_overrides(void **state)
{
	struct topo_request two = { .vcpus = 2, .nodes = 1 };

	assert_int_equal(build(two, 1000000, (const char *[]){ "+smap", "-pcid", NULL }), 0);
	assert_true(cpu_has(&m, CPU_SMAP));
	assert_false(cpu_has(&m, CPU_PCID));
	assert_false(cpu_has(&m, CPU_INVPCID)); /* goes with it */

	assert_int_equal(build(two, 1000000, (const char *[]){ "-sse3", NULL }), 0);
	assert_false(cpu_has(&m, CPU_SSE3) || cpu_has(&m, CPU_SSSE3) || cpu_has(&m, CPU_SSE4_2) ||
		     cpu_has(&m, CPU_SHA_NI));

	assert_int_equal(build(two, 1000000, (const char *[]){ "-xsave", NULL }), 0);
	assert_false(cpu_has(&m, CPU_AVX) || cpu_has(&m, CPU_AVX2) || cpu_has(&m, CPU_AVX512F) ||
		     cpu_has(&m, CPU_AVX512BW) || cpu_has(&m, CPU_VAES) ||
		     cpu_has(&m, CPU_XGETBV1));
	assert_int_equal(cpuid_xcr0(&m), 0);
	assert_refused((const char *[]){ "-avx", "+avx512vl", NULL }, "needs");
	assert_refused((const char *[]){ "+frobnicate", NULL }, "unknown CPU feature");
	assert_refused((const char *[]){ "smap", NULL }, "+NAME");
	assert_refused((const char *[]){ "", NULL }, "+NAME");
	assert_refused((const char *[]){ "+", NULL }, "unknown");
	assert_refused((const char *[]){ "+smap", "-smap", NULL }, "both added and dropped");
	assert_refused((const char *[]){ "-smap", "+smap", NULL }, "both added and dropped");
	assert_refused((const char *[]){ "-lm", NULL }, "cannot be dropped");
	assert_refused((const char *[]){ "-pcid", "+invpcid", NULL }, "invpcid needs pcid");

	assert_int_equal(build((struct topo_request){ .vcpus = 255, .nodes = 1 }, 1000000,
			       (const char *[]){ "-x2apic", NULL }),
			 0);
	assert_int_equal(ask(0, 0xb, 1).eax, 0);
	assert_int_equal(build((struct topo_request){ .vcpus = 256, .nodes = 1 }, 1000000,
			       (const char *[]){ "-x2apic", NULL }),
			 -EINVAL);
}

/* Every name finds its feature, and no two features share one. */
static void test_names(void **state)
{
	for (unsigned f = 0; f < CPU_FEATURE_COUNT; f++) {
		assert_non_null(cpu_feature_name(f));
		for (unsigned g = 0; g < f; g++)
			assert_string_not_equal(cpu_feature_name(f), cpu_feature_name(g));
	}
	assert_string_equal(cpu_feature_name(CPU_SSE3), "pni");
	assert_string_equal(cpu_feature_name(CPU_ARAT), "arat");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_identity),
		cmocka_unit_test(test_entries_ascend),
		cmocka_unit_test(test_feature_bits),
		cmocka_unit_test(test_xsave_leaf),
		cmocka_unit_test(test_features_are_in_host),
		cmocka_unit_test(test_no_mitigations),
		cmocka_unit_test(test_topology_leaves),
		cmocka_unit_test(test_caches),
		cmocka_unit_test(test_rates),
		cmocka_unit_test(test_hypervisor),
		cmocka_unit_test(test_state_bits),
		cmocka_unit_test(test_out_of_range),
		cmocka_unit_test(test_address_bits),
		cmocka_unit_test(test_overrides),
		cmocka_unit_test(test_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
