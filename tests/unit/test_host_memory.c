/*
 * test_host_memory.c - memory of the Linux host: guests', its own, code. What it promises is read
 * back from the kernel where it can be.
 */
#include "host_machine.h"
#include "sanitizer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>

/* How many mappings of /proc/self/maps have @name and @perms in their lines. */
static unsigned count_maps(const char *name, const char *perms)
{
	FILE *f = fopen("/proc/self/maps", "re");
	unsigned n = 0;
	char line[512];

	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		n += strstr(line, name) && strstr(line, perms);
	fclose(f);
	return n;
}

static unsigned resident_pages(void *base, size_t bytes)
{
	unsigned char vec[64];
	unsigned n = 0;

	assert_true(bytes / PAGE_SIZE <= sizeof(vec));
	assert_int_equal(mincore(base, bytes, vec), 0);
	for (size_t i = 0; i < bytes / PAGE_SIZE; i++)
		n += vec[i] & 1;
	return n;
}

static void guest_memory_is_mapped_once(void **state)
{
	struct host_mem m = { 0 };
	uint64_t *p;

	assert_int_equal(map_base_pages(MIB(6) + 5, HOST_NODE_ANY, &m), 0);
	assert_int_equal(m.bytes, MIB(6) + PAGE_SIZE);
	assert_int_equal(m.page_bytes, PAGE_SIZE);
	assert_true(IS_ALIGNED((uintptr_t)m.base, MIB(2)));
	assert_int_equal(count_maps("memfd:guest node", "rw-s"), 1);
	p = m.base;
	for (size_t i = 0; i < m.bytes / sizeof(*p); i += 512)
		assert_int_equal(p[i], 0);
	host.ops->mem_unmap(host.ctx, &m);
	assert_null(m.base);
	assert_int_equal(count_maps("memfd:guest node", ""), 0);
	host.ops->mem_unmap(host.ctx, &m);
}

/* Whatever is behind it, file or not. */
static void any_pages_will_do(void **state)
{
	struct host_mem m = { 0 };

	assert_int_equal(host.ops->mem_map(host.ctx, HOST_RAM(MIB(4), HOST_NODE_ANY), &m), 0);
	assert_true(IS_ALIGNED((uintptr_t)m.base, MIB(2)));
	assert_int_equal(*(uint64_t *)m.base, 0);
	*(uint64_t *)m.base = 1;
	assert_int_equal(host.ops->mem_prefault(host.ctx, &m, 0, m.bytes), 0);
	assert_int_equal(*(uint64_t *)m.base, 1);
	host.ops->mem_unmap(host.ctx, &m);
	host.ops->mem_unmap(host.ctx, &m);
}

static void prefaulting_populates(void **state)
{
	struct host_mem m;

	assert_int_equal(map_base_pages(PAGE_SIZE * 32, 0, &m), 0);
	assert_int_equal(resident_pages(m.base, m.bytes), 0);
	assert_int_equal(host.ops->mem_prefault(host.ctx, &m, PAGE_SIZE * 8, PAGE_SIZE * 8), 0);
	assert_int_equal(resident_pages((uint8_t *)m.base + PAGE_SIZE * 8, PAGE_SIZE * 8), 8);
	assert_int_equal(host.ops->mem_prefault(host.ctx, &m, 0, m.bytes), 0);
	assert_int_equal(resident_pages(m.base, m.bytes), 32);
	assert_int_equal(host.ops->mem_prefault(host.ctx, &m, PAGE_SIZE, m.bytes), -EINVAL);
	assert_int_equal(host.ops->mem_prefault(host.ctx, &m, m.bytes, 0), 0);
	host.ops->mem_unmap(host.ctx, &m);
}

static uint64_t sum_where(const struct host_where *w)
{
	uint64_t sum = 0;

	for (unsigned n = 0; n < HOST_NODES_MAX; n++)
		sum += w->bytes[n];
	return sum;
}

static void the_kernel_tells_where_pages_are(void **state)
{
	struct host_where w = { 0 };
	struct host_mem m;
	int err;

	assert_int_equal(map_base_pages(MIB(8), HOST_NODE_ANY, &m), 0);
	assert_int_equal(host.ops->mem_prefault(host.ctx, &m, MIB(2), MIB(3)), 0);
	err = host.ops->mem_where(host.ctx, &m, 0, m.bytes, &w);
	if (err != -ENOSYS) {
		assert_int_equal(err, 0);
		assert_int_equal(sum_where(&w), MIB(3));
		assert_int_equal(w.absent + w.unknown, MIB(5));
		/* It adds. */
		assert_int_equal(host.ops->mem_where(host.ctx, &m, MIB(2), PAGE_SIZE, &w), 0);
		assert_int_equal(sum_where(&w), MIB(3) + PAGE_SIZE);
		assert_int_equal(host.ops->mem_where(host.ctx, &m, MIB(8), 1, &w), -EINVAL);
	}
	host.ops->mem_unmap(host.ctx, &m);
}

/* Where nobody has reserved any it is an error by the time of populating, never a SIGBUS. */
static void reserved_pages_are_had_or_refused(void **state)
{
	static const uint64_t sizes[] = { MIB(2), GIB(1), MIB(512) };

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct host_mem_attr attr = { .bytes = sizes[i] + 1,
					      .page_bytes = sizes[i],
					      .node = HOST_NODE_ANY };
		struct host_mem m = { 0 };
		int err = host.ops->mem_map(host.ctx, &attr, &m);

		assert_true(!err || err == -ENOMEM || err == -ENOTSUP);
		assert_int_equal(err == -ENOTSUP, err && sizes[i] == MIB(512));
		if (err)
			continue;
		assert_int_equal(m.bytes, 2 * sizes[i]);
		assert_true(IS_ALIGNED((uintptr_t)m.base, sizes[i]));
		err = host.ops->mem_prefault(host.ctx, &m, 0, m.bytes);
		assert_true(!err || err == -ENOMEM);
		host.ops->mem_unmap(host.ctx, &m);
	}
}

static bool thp_word(const char *file, const char *word)
{
	char path[96], line[128] = "";
	FILE *f;

	snprintf(path, sizeof(path), "/sys/kernel/mm/transparent_hugepage/%s", file);
	f = fopen(path, "re");
	if (f) {
		if (!fgets(line, sizeof(line), f))
			line[0] = '\0';
		fclose(f);
	}
	return strstr(line, word) != NULL;
}

/* A file, but where the kernel makes huge pages of anonymous memory only, and they pay. */
static void huge_pages_that_pay(void **state)
{
	struct host_mem_attr attr = { .bytes = MIB(4), .node = HOST_NODE_ANY };
	bool of_files =
		!thp_word("shmem_enabled", "[never]") && !thp_word("shmem_enabled", "[deny]");
	bool of_anonymous = thp_word("enabled", "[always]") || thp_word("enabled", "[madvise]");
	struct host_mem m;

	for (unsigned pays = 0; pays < 2; pays++) {
		attr.huge_pays = pays;
		assert_int_equal(host.ops->mem_map(host.ctx, &attr, &m), 0);
		assert_int_equal(count_maps("memfd:guest node", "rw-s"),
				 !(pays && of_anonymous && !of_files));
		host.ops->mem_unmap(host.ctx, &m);
	}
	attr.page_bytes = PAGE_SIZE; /* who asks for base pages gets them */
	assert_int_equal(host.ops->mem_map(host.ctx, &attr, &m), 0);
	assert_int_equal(count_maps("memfd:guest node", "rw-s"), 1);
	host.ops->mem_unmap(host.ctx, &m);
}

static void impossible_memory_is_refused(void **state)
{
	struct host_mem m;

	assert_true(host.ops->mem_map(host.ctx, HOST_RAM(0, HOST_NODE_ANY), &m) < 0);
	assert_true(host.ops->mem_map(host.ctx, HOST_RAM(UINT64_MAX, HOST_NODE_ANY), &m) < 0);
	assert_true(host.ops->mem_map(host.ctx, HOST_RAM(BIT64(62), HOST_NODE_ANY), &m) < 0);
	assert_true(map_base_pages(BIT64(62), HOST_NODE_ANY, &m) < 0);
	assert_int_equal(count_maps("memfd:guest node", ""), 0);
	assert_null(host.ops->alloc(host.ctx, BIT64(62), HOST_NODE_ANY));
}

/* Kernels that cannot weigh: ranges in turn, each bound. All to the one node there surely is. */
static void weights_without_the_kernels_help(void **state)
{
	static const struct mem_share shares[] = { { 0, 3, 0 }, { 0, 1, 0 } },
				      none[] = { { 0, 0, 0 } }, bad[] = { { -1, 1, 0 } };
	struct host_where w = { 0 };
	struct host_mem m;
	int err;

	assert_int_equal(map_base_pages(MIB(9), HOST_NODE_ANY, &m), 0);
	err = linux_bind_ranges(m.base, m.bytes, PAGE_SIZE, shares, 2);
	assert_true(!err || err == -ENOSYS || err == -EPERM);
	assert_int_equal(linux_bind_ranges(m.base, m.bytes, PAGE_SIZE, none, 1), -EINVAL);
	assert_int_equal(linux_bind_ranges(m.base, m.bytes, PAGE_SIZE, bad, 1), -EINVAL);
	assert_int_equal(host.ops->mem_prefault(host.ctx, &m, 0, m.bytes), 0);
	if (!host.ops->mem_where(host.ctx, &m, 0, m.bytes, &w))
		assert_int_equal(sum_where(&w), m.bytes);
	host.ops->mem_unmap(host.ctx, &m);
}

static void facts_for_the_preflight(void **state)
{
	struct machine_model machine = { 0 };
	struct mem_facts facts;

	assert_int_equal(host.ops->topology(host.ctx, &machine), 0);
	host_linux_mem_facts(&host, &machine, &facts);
	assert_ptr_equal(facts.machine, &machine);
	assert_true(facts.group.free_bytes == UINT64_MAX || facts.group.file[0] == '/');
	for (unsigned i = 0; i < MACHINE_PAGE_SIZES; i++)
		assert_true(!facts.page_bytes[i] ||
			    (facts.page_bytes[i] > PAGE_SIZE &&
			     !(facts.page_bytes[i] & (facts.page_bytes[i] - 1))));
	assert_true(facts.bind_err <= 0);
	machine_free(&machine);
}

static void own_memory_is_zeroed(void **state)
{
	uint8_t *p = host.ops->alloc(host.ctx, 3 * PAGE_SIZE, 0);

	assert_non_null(p);
	assert_true(IS_ALIGNED((uintptr_t)p, PAGE_SIZE));
	for (size_t i = 0; i < 3 * PAGE_SIZE; i++)
		assert_int_equal(p[i], 0);
	memset(p, 1, 3 * PAGE_SIZE);
	host.ops->free(host.ctx, p, 3 * PAGE_SIZE);
	host.ops->free(host.ctx, NULL, 1);
}

static void code_is_written_and_executed(void **state)
{
	static const uint8_t answer[] = { 0xb8, 42, 0, 0, 0, 0xc3 }; /* mov eax, 42; ret */
	struct host_code code;

	assert_int_equal(host.ops->code_map(host.ctx, KIB(64), 0, &code), 0);
	memcpy(code.rw + 100, answer, sizeof(answer));
	assert_int_equal(as_function(code.rx + 100)(NULL, 0), 42);
	code.rw[101] = 43;
	host.ops->sync_cores(host.ctx);
	assert_int_equal(as_function(code.rx + 100)(NULL, 0), 43);
	assert_int_equal(count_maps("/dev/zero", "rw-s"), 1);
	assert_int_equal(count_maps("/dev/zero", "r-xs"), 1);
	assert_int_equal(count_maps("/dev/zero", "wx"), 0);
	host.ops->code_unmap(host.ctx, &code);
	assert_int_equal(count_maps("/dev/zero", ""), 0);
	assert_true(host.ops->code_map(host.ctx, 0, 0, &code) < 0);
}

static long faults_so_far(void)
{
	struct rusage u;

	assert_int_equal(getrusage(RUSAGE_THREAD, &u), 0);
	return u.ru_minflt;
}

/* How many faults it takes to write to each page, and to read it where it is executed. */
static long touch_code(struct host_code *code, size_t offset, size_t bytes)
{
	long before = faults_so_far();

	for (size_t at = offset; at < offset + bytes; at += PAGE_SIZE) {
		*(volatile uint8_t *)(code->rw + at) = 0xc3;
		assert_int_equal(*(volatile uint8_t *)(code->rx + at), 0xc3);
	}
	return faults_so_far() - before;
}

static void code_is_prefaulted(void **state)
{
	struct host_code code;

	assert_int_equal(host.ops->code_map(host.ctx, KIB(256), 0, &code), 0);
	host.ops->code_prefault(host.ctx, &code, KIB(64), KIB(64));
	/* A sanitizer has some of its own, for the 16 pages, twice. */
	assert_in_range(touch_code(&code, KIB(64), KIB(64)), 0, 8 + 32 * SHADOW_PAGES);
	assert_true(touch_code(&code, KIB(128), KIB(128)) >= 32); /* without */
	host.ops->code_unmap(host.ctx, &code);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(guest_memory_is_mapped_once),
		TEST(prefaulting_populates),
		TEST(any_pages_will_do),
		TEST(huge_pages_that_pay),
		TEST(the_kernel_tells_where_pages_are),
		TEST(reserved_pages_are_had_or_refused),
		TEST(weights_without_the_kernels_help),
		TEST(facts_for_the_preflight),
		TEST(impossible_memory_is_refused),
		TEST(own_memory_is_zeroed),
		TEST(code_is_written_and_executed),
		TEST(code_is_prefaulted),
	};

	alarm(120); /* a hang is a failure */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
