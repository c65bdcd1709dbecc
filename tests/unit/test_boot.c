/* test_boot.c - images of every kind end up where their protocols say, or are refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "boot/boot.h"
#include "images.h"

#include <errno.h>

static struct machine m;
static struct cpu_state bsp;
static char why[256];

static int setup(void **state)
{
	return machine_make(&m, 4, 2, MIB(64));
}

static int teardown(void **state)
{
	machine_free(&m);
	return 0;
}

static int load_request(struct boot_request *r)
{
	r->gmem = &m.gmem;
	r->topo = &m.topo;
	memset(&bsp, 0xff, sizeof(bsp));
	bsp.apic_base = 0xfee00900;
	memset(why, 0, sizeof(why));
	return boot_load(r, &bsp, why, sizeof(why));
}

static struct boot_image boot_image(struct image i, const char *name)
{
	return (struct boot_image){ .data = i.data, .bytes = i.bytes, .name = name };
}

static const uint8_t *filled;
static uint64_t filled_bytes;

static void note_filled(void *arg, const void *hva, uint64_t bytes)
{
	assert_ptr_equal(arg, &m);
	filled = hva;
	filled_bytes = bytes;
}

static int load(struct image kernel)
{
	struct boot_request r = { .kernel = boot_image(kernel, "test-kernel"),
				  .cmdline = "console=ttyS0",
				  .will_fill = note_filled,
				  .arg = &m };

	return load_request(&r);
}

static void assert_loads(struct image kernel)
{
	if (load(kernel))
		fail_msg("%s", why);
	assert_int_equal(why[0], 0);
}

static void assert_refused(struct image kernel, int err, const char *reason)
{
	assert_int_equal(load(kernel), err);
	if (!strstr(why, reason))
		fail_msg("\"%s\" does not say \"%s\"", why, reason);
	assert_null(strchr(why, '\n'));
}

static uint64_t peek(uint64_t gpa, unsigned bytes)
{
	uint64_t v = 0;

	assert_int_equal(gmem_read(&m.gmem, gpa, &v, bytes), 0);
	return v;
}

static void peek_string(uint64_t gpa, char *s, size_t bytes)
{
	assert_int_equal(gmem_read(&m.gmem, gpa, s, bytes), 0);
	s[bytes - 1] = '\0';
}

/* Each byte of a segment: the file's up to file_bytes, then zeroes. */
static void assert_segments(const struct segment_spec *s, unsigned n)
{
	for (; n--; s++) {
		uint8_t *seen = malloc(s->mem_bytes);

		assert_int_equal(gmem_read(&m.gmem, s->gpa, seen, s->mem_bytes), 0);
		for (uint64_t at = 0; at < s->mem_bytes; at++) {
			uint8_t want = at < s->file_bytes ? pattern(s->offset + at) : 0;

			if (seen[at] != want)
				fail_msg("%#llx: %#x, not %#x", (unsigned long long)(s->gpa + at),
					 seen[at], want);
		}
		free(seen);
	}
}

/* What the 64-bit boot protocol promises a kernel. */
static void assert_linux_state(uint64_t entry)
{
	assert_int_equal(bsp.rip, entry);
	assert_int_equal(bsp.rflags, RFLAGS_ONE);
	assert_int_equal(bsp.cr0 & (CR0_PE | CR0_PG), CR0_PE | CR0_PG);
	assert_int_equal(bsp.cr0 & (CR0_CD | CR0_NW | CR0_EM | CR0_TS), 0);
	assert_int_equal(bsp.cr4, CR4_PAE);
	assert_int_equal(bsp.efer, EFER_LME | EFER_LMA);
	assert_int_equal(bsp.seg[SEG_CS].selector, 0x10);
	assert_true(bsp.seg[SEG_CS].attr & SEG_L);
	assert_int_equal(bsp.seg[SEG_DS].selector, 0x18);
	assert_int_equal(bsp.seg[SEG_SS].selector, 0x18);
	for (unsigned i = 0; i < SEG_COUNT; i++) {
		/* the cached part is what the table says */
		uint64_t d = peek(bsp.gdtr.base + bsp.seg[i].selector, 8);

		assert_int_equal((d >> 40 & 0xf0ff) & ~0x100u, bsp.seg[i].attr & 0xf0ff);
		assert_int_equal(bsp.seg[i].base, 0);
	}
}

/* Walks 4-level tables as a processor does. */
static uint64_t walk(uint64_t va)
{
	uint64_t entry = bsp.cr3;

	for (int shift = 39; shift >= 21; shift -= 9) {
		entry = peek((entry & 0xffffffffff000) + (va >> shift & 511) * 8, 8);
		assert_true(entry & 1);
		assert_true(entry & 2);
		if (entry & 0x80)
			break;
	}
	return (entry & 0xfffffffe00000) | (va & 0x1fffff);
}

static void assert_identity_map(void)
{
	for (uint64_t va = 0; va < GIB(4); va += MIB(2) * 3 + 4096)
		assert_int_equal(walk(va), va);
}

/* The kernel's copy of the header, and what a loader adds to it. */
static void assert_zero_page(void)
{
	uint64_t zp = bsp.gpr[RSI], ram = 0;
	unsigned n = (unsigned)peek(zp + 0x1e8, 1);
	char line[32];
	bool reserved = false;

	assert_int_equal(peek(zp + 0x1fe, 2), 0xaa55);
	assert_int_equal(peek(zp + 0x202, 4), 0x53726448);
	assert_int_equal(peek(zp + 0x210, 1), 0xff);
	assert_true(peek(zp + 0x211, 1) & 1);
	assert_int_equal(peek(zp + 0x1ef, 1), 0); /* sentinel */
	peek_string(peek(zp + 0x228, 4), line, sizeof(line));
	assert_string_equal(line, "console=ttyS0");
	assert_int_equal(peek(peek(zp + 0x70, 8), 8), 0x2052545020445352); /* "RSD PTR " */

	assert_true(n > 2 && n < 128);
	for (unsigned i = 0; i < n; i++) {
		uint64_t gpa = peek(zp + 0x2d0 + 20 * i, 8), bytes = peek(zp + 0x2d8 + 20 * i, 8);

		if (i)
			assert_true(gpa >= peek(zp + 0x2d0 + 20 * (i - 1), 8) +
						   peek(zp + 0x2d8 + 20 * (i - 1), 8));
		if (peek(zp + 0x2e0 + 20 * i, 4) == 1) {
			assert_false(gpa < 0x100000 && gpa + bytes > 0x9fc00);
			ram += bytes;
		}
		reserved = reserved || (gpa == 0xe0000000 && bytes == MIB(1) &&
					peek(zp + 0x2e0 + 20 * i, 4) == 2);
	}
	assert_true(reserved); /* PCI's configuration space */
	assert_int_equal(ram, m.gmem.ram_bytes - 0x100000 + 0x9fc00);
}

/* --- Linux ------------------------------------------------------------------------ */

static void test_bzimages(void **state)
{
	for (unsigned i = 0; i < ARRAY_SIZE(packers); i++) {
		struct image elf = image_vmlinux();
		struct image kernel = image_packed_bzimage(&packers[i], elf, MIB(8));

		for (unsigned again = 0; again < 2; again++) {
			gmem_fill(&m.gmem, 0, 0xa5, m.gmem.end); /* as a reboot finds it */
			assert_loads(kernel);
			assert_linux_state(MIB(16));
			assert_segments(vmlinux_segments, ARRAY_SIZE(vmlinux_segments));
			assert_zero_page();
			assert_int_equal(filled_bytes, elf.bytes);
			assert_ptr_equal(filled, gmem_ptr(&m.gmem, MIB(14), elf.bytes));
		}
		image_free(&kernel);
		image_free(&elf);
	}
	assert_identity_map();
}

/* Nodes of 8 MiB each: nothing of the kernel lies in one piece on the host. */
static void test_kernel_across_nodes(void **state)
{
	struct image elf = image_vmlinux();
	struct image kernel = image_packed_bzimage(&packers[2], elf, MIB(8));
	struct boot_image initrd = { .data = elf.data, .bytes = elf.bytes };
	struct boot_request r = { .kernel = boot_image(kernel, "k"), .initrd = initrd };
	uint64_t gpa;

	machine_free(&m);
	assert_int_equal(machine_make(&m, 32, 32, MIB(64)), 0);
	assert_int_equal(load_request(&r), 0);
	assert_segments(vmlinux_segments, ARRAY_SIZE(vmlinux_segments));
	assert_int_equal(bsp.rip, MIB(16));
	gpa = peek(bsp.gpr[RSI] + 0x218, 4);
	for (size_t at = 0; at < elf.bytes; at += 997)
		assert_int_equal(peek(gpa + at, 1), elf.data[at]);
	image_free(&kernel);
	image_free(&elf);
}

/* Segments that cannot move one after the other go through a copy. */
static void test_shuffled_segments(void **state)
{
	static const struct segment_spec segments[] = {
		{ 0x200000, 0xffffffff81000000, 0x1000000, 0x1000, 0x2000 },
		{ 0x201000, 0xffffffff81600000, 0x1600000, 0x80000, 0x80000 },
		{ 0x300000, 0xffffffff81400000, 0x1400000, 0x1000, 0x100000 },
	};
	struct image elf = image_elf64(segments, ARRAY_SIZE(segments), 0xffffffff81400010);
	struct image kernel = image_packed_bzimage(&packers[3], elf, MIB(8));

	assert_loads(kernel);
	assert_segments(segments, ARRAY_SIZE(segments));
	assert_int_equal(bsp.rip, 0x1400010);
	image_free(&kernel);
	image_free(&elf);
}

/* A payload that only the kernel's own stub can unpack. */
static void test_stub_entry(void **state)
{
	struct image payload = image_make(10000), kernel, empty;

	memcpy(payload.data, "BZh9", 4);
	kernel = image_bzimage(payload, 5000, false, MIB(8));
	assert_loads(kernel);
	assert_linux_state(MIB(16) + 0x200);
	assert_int_equal(peek(MIB(16), 8), 0xcccccccccccccccc);
	assert_int_equal(peek(MIB(16) + BZIMAGE_STUB, 4), 0x39685a42);
	assert_zero_page();
	image_free(&kernel);
	image_free(&payload);

	empty = image_make(0); /* unpacks to no ELF file */
	payload = packers[0].pack(empty);
	kernel = image_bzimage(payload, 0, true, MIB(8));
	assert_loads(kernel);
	assert_int_equal(bsp.rip, MIB(16) + 0x200);
	image_free(&kernel);
	image_free(&payload);
	image_free(&empty);
}

static void test_vmlinux(void **state)
{
	struct image elf = image_vmlinux();

	assert_loads(elf);
	assert_linux_state(MIB(16));
	assert_segments(vmlinux_segments, ARRAY_SIZE(vmlinux_segments));
	assert_zero_page();
	image_free(&elf);
}

static void test_initrd(void **state)
{
	struct image elf = image_vmlinux(), initrd = image_make(MIB(3) + 123);
	struct image kernel = image_packed_bzimage(&packers[0], elf, MIB(8));
	struct boot_request r = { .kernel = boot_image(kernel, "k"),
				  .initrd = boot_image(initrd, "i") };
	uint64_t gpa;

	for (size_t at = 0; at < initrd.bytes; at++)
		initrd.data[at] = (uint8_t)(at * 7);
	assert_int_equal(load_request(&r), 0);
	gpa = peek(bsp.gpr[RSI] + 0x218, 4);
	assert_int_equal(peek(bsp.gpr[RSI] + 0x21c, 4), initrd.bytes);
	assert_int_equal(gpa % 4096, 0);
	assert_true(gpa >= MIB(24) && gpa + initrd.bytes <= MIB(64));
	for (size_t at = 0; at < initrd.bytes; at += 101)
		assert_int_equal(peek(gpa + at, 1), initrd.data[at]);

	store_u32(kernel.data + 0x22c, MIB(40) - 1); /* as high as this, and no higher */
	assert_int_equal(load_request(&r), 0);
	gpa = peek(bsp.gpr[RSI] + 0x218, 4);
	assert_in_range(gpa + initrd.bytes, MIB(40) - 4096, MIB(40));

	r.initrd.bytes = MIB(40) + 1; /* more than RAM holds above the kernel; never read */
	assert_int_equal(load_request(&r), -ENOSPC);
	assert_non_null(strstr(why, "initrd of 41 MiB does not fit"));
	image_free(&kernel);
	image_free(&initrd);
	image_free(&elf);
}

static void test_cmdline_limit(void **state)
{
	struct image elf = image_vmlinux();
	struct image kernel = image_packed_bzimage(&packers[0], elf, MIB(8));
	char line[BZIMAGE_CMDMAX + 2] = "";
	struct boot_request r = { .kernel = boot_image(kernel, "k"), .cmdline = line };

	memset(line, 'x', BZIMAGE_CMDMAX);
	assert_int_equal(load_request(&r), 0);
	assert_int_equal(peek(peek(bsp.gpr[RSI] + 0x228, 4) + BZIMAGE_CMDMAX - 1, 2), 'x');
	line[BZIMAGE_CMDMAX] = 'x';
	assert_int_equal(load_request(&r), -EINVAL);
	assert_non_null(strstr(why, "takes up to 255"));
	image_free(&kernel);
	image_free(&elf);
}

static void test_bad_kernels(void **state)
{
	struct image elf = image_vmlinux();
	struct image good = image_packed_bzimage(&packers[3], elf, MIB(8));
	struct image bad = image_make(good.bytes), random = image_make(100000);

	assert_refused((struct image){ NULL, 0 }, -ENOEXEC, "empty");
	for (size_t i = 0; i < random.bytes; i++)
		random.data[i] = (uint8_t)(i * i >> 7 ^ i * 0x9e3779b1u >> 11);
	assert_refused(random, -ENOEXEC, "neither a Linux kernel");

	memcpy(bad.data, good.data, good.bytes);
	store_u16(bad.data + 0x236, 0); /* no XLF_KERNEL_64 */
	assert_refused(bad, -ENOEXEC, "32-bit kernel");
	store_u16(bad.data + 0x206, 0x0204);
	assert_refused(bad, -ENOEXEC, "protocol 2.04");

	memcpy(bad.data, good.data, good.bytes);
	bad.bytes = good.bytes / 2;
	assert_refused(bad, -ENOEXEC, "truncated");
	bad.bytes = 0x300;
	assert_refused(bad, -ENOEXEC, "truncated");
	bad.bytes = good.bytes;
	bad.data[good.bytes / 2] ^= 0x10;
	bad.data[good.bytes / 2 + 1] ^= 0xff;
	memset(bad.data + good.bytes / 3, 0x55, 500);
	assert_refused(bad, -ENOEXEC, "zstd payload does not unpack");

	memcpy(bad.data, good.data, good.bytes);
	store_u32(bad.data + 0x260, MIB(100)); /* init_size */
	assert_refused(bad, -ENOSPC, "RAM ends at 64 MiB");
	store_u32(bad.data + 0x260, MIB(8));
	store_u64(bad.data + 0x258, UINT64_MAX - 5);
	assert_refused(bad, -ENOSPC, "does not fit");

	image_free(&bad);
	image_free(&random);
	image_free(&good);
	image_free(&elf);
}

/* Every field of every header out of bounds in turn. */
static void test_bad_elf(void **state)
{
	static const struct {
		unsigned offset, bytes;
		uint64_t value;
		int err;
		const char *why;
	} bad[] = {
		{ 4, 1, 3, -ENOEXEC, "no x86 executable" },
		{ 5, 1, 2, -ENOEXEC, "no x86 executable" },
		{ 16, 2, 1, -ENOEXEC, "no x86 executable" },
		{ 18, 2, 183, -ENOEXEC, "no x86 executable" },
		{ 4, 1, 1, -ENOEXEC, "no x86 executable" }, /* ELFCLASS32 for x86-64 */
		{ 24, 8, 0x50000, -ENOEXEC, "entry 0x50000 is in none" },
		{ 32, 8, UINT64_MAX - 8, -ENOEXEC, "headers" },
		{ 32, 8, 0x7000000, -ENOEXEC, "headers" },
		{ 54, 2, 55, -ENOEXEC, "headers" },
		{ 56, 2, 0, -ENOEXEC, "in none of its segments" },
		{ 64 + 8, 8, UINT64_MAX, -ENOEXEC, "segment is incomplete" },
		{ 64 + 32, 8, UINT64_MAX, -ENOEXEC, "segment is incomplete" },
		{ 64 + 40, 8, 1, -ENOEXEC, "segment is incomplete" },
		{ 64 + 40, 8, UINT64_MAX, -ENOSPC, "does not fit" },
		{ 64 + 40, 8, MIB(48) + 1, -ENOSPC, "does not fit" },
		{ 64 + 24, 8, 0x90000, -ENOEXEC, "below 1 MiB" },
		{ 64 + 24, 8, UINT64_MAX - 0xfff, -ENOSPC, "does not fit" },
		{ 64 + 24, 8, 0x1200000, -ENOEXEC, "overlap" },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		struct image elf = image_vmlinux();

		memcpy(elf.data + bad[i].offset, &bad[i].value, bad[i].bytes);
		assert_refused(elf, bad[i].err, bad[i].why);
		image_free(&elf);
	}
}

/* Nothing but a fault-free answer: too little memory for anything. */
static void test_tiny_machine(void **state)
{
	struct image elf = image_vmlinux();

	machine_free(&m);
	assert_int_equal(machine_make(&m, 1, 1, KIB(512)), 0);
	assert_refused(elf, -ENOSPC, "1 MiB of memory");
	machine_free(&m);
	assert_int_equal(machine_make(&m, 1, 1, MIB(1)), 0);
	assert_refused(elf, -ENOSPC, "does not fit");
	image_free(&elf);
}

/* IDs from 255 on need x2APIC mode, which firmware has to choose. */
static void test_apic_mode(void **state)
{
	struct image elf = image_vmlinux();

	assert_loads(elf);
	assert_int_equal(bsp.apic_base, 0xfee00900);
	machine_free(&m);
	assert_int_equal(machine_make(&m, 256, 1, MIB(64)), 0);
	assert_loads(elf);
	assert_int_equal(bsp.apic_base, 0xfee00d00);
	image_free(&elf);
}

/* --- multiboot ---------------------------------------------------------------------- */

static const struct segment_spec flat_segments[] = {
	{ 0x1000, 0xc0100000, 0x100000, 0x3000, 0x3000 },
	{ 0x4000, 0xc0104000, 0x104000, 0x800, 0x5000 },
};

static void assert_multiboot_state(uint64_t entry)
{
	assert_int_equal(bsp.rip, entry);
	assert_int_equal(bsp.gpr[RAX], 0x2badb002);
	assert_int_equal(bsp.cr0 & (CR0_PE | CR0_PG | CR0_CD | CR0_NW), CR0_PE);
	assert_int_equal(bsp.cr4 | bsp.efer, 0);
	assert_int_equal(bsp.rflags, RFLAGS_ONE);
	for (unsigned i = 0; i < SEG_COUNT; i++) {
		assert_int_equal(bsp.seg[i].base, 0);
		assert_int_equal(bsp.seg[i].limit, UINT32_MAX);
		assert_true(bsp.seg[i].attr & SEG_DB);
		assert_false(bsp.seg[i].attr & SEG_L);
	}
}

static void assert_multiboot_info(void)
{
	uint64_t info = bsp.gpr[RBX], map = peek(info + 48, 4), ram = 0;
	uint64_t map_bytes = peek(info + 44, 4), at = 0;
	char s[32];

	assert_int_equal(peek(info, 4) & 0x245, 0x245);
	assert_int_equal(peek(info + 4, 4), 639);
	assert_int_equal(peek(info + 8, 4), (MIB(64) - MIB(1)) >> 10);
	peek_string(peek(info + 16, 4), s, sizeof(s));
	assert_string_equal(s, "console=ttyS0");
	peek_string(peek(info + 64, 4), s, sizeof(s));
	assert_string_equal(s, "Alcazar");
	while (at < map_bytes) {
		if (peek(map + at + 20, 4) == 1)
			ram += peek(map + at + 12, 8);
		at += peek(map + at, 4) + 4;
	}
	assert_int_equal(at, map_bytes);
	assert_int_equal(ram, MIB(63) + 0x9fc00);
}

static void test_multiboot_elf32(void **state)
{
	struct image elf = image_elf32(flat_segments, 2, 0xc0100020);

	put_multiboot_header(&elf, 0x1000, 3, NULL);
	assert_loads(elf);
	assert_multiboot_state(0x100020);
	assert_multiboot_info();
	memcpy(elf.data + 0x1000, "0123456789ab", 12); /* the header: compare the rest */
	assert_int_equal(peek(0x100010, 1), pattern(0x1010));
	assert_segments(flat_segments + 1, 1);
	image_free(&elf);
}

static void test_multiboot_elf64(void **state)
{
	struct image elf = image_elf64(flat_segments, 2, 0x100040);

	put_multiboot_header(&elf, 0x1ff4, 0, NULL); /* the last place it may be */
	assert_loads(elf);
	assert_multiboot_state(0x100040);
	assert_segments(flat_segments + 1, 1);
	image_free(&elf);

	elf = image_elf64(flat_segments, 2, 0x100040);
	put_multiboot_header(&elf, 0x2000, 0, NULL); /* one too far: plain ELF */
	assert_loads(elf);
	assert_true(bsp.cr0 & CR0_PG);
	image_free(&elf);
}

static void test_multiboot_addresses(void **state)
{
	/* header, load, load end, bss end, entry */
	uint32_t a[] = { 0x200100, 0x200000, 0x203000, 0x206000, 0x200200 };
	struct image flat = image_make(0x8000);
	struct segment_spec loaded = { 0x300, 0, 0x200000 + 0x200, 0x2e00, 0x5e00 };

	for (size_t i = 0; i < flat.bytes; i++)
		flat.data[i] = pattern(i);
	put_multiboot_header(&flat, 0x200, 0x10000, a); /* the file's byte 0x100 comes first */
	assert_loads(flat);
	assert_multiboot_state(0x200200);
	assert_segments(&loaded, 1);

	a[2] = a[3] = 0; /* the whole file, no bss */
	put_multiboot_header(&flat, 0x200, 0x10000, a);
	assert_loads(flat);
	assert_int_equal(peek(0x200000 + 0x7eff, 1), pattern(0x7fff));
	image_free(&flat);
}

static void test_multiboot_modules(void **state)
{
	struct image elf = image_elf32(flat_segments, 2, 0x100020);
	struct boot_request r = { .kernel = boot_image(elf, "k"),
				  .initrd = { (const uint8_t *)"first", 5, "one" },
				  .module = { { (const uint8_t *)"second!", 7, "two" },
					      { (const uint8_t *)"", 0, "empty" } },
				  .nr_modules = 2 };
	static const char *const names[] = { "one", "two", "empty" };
	uint64_t mods, end = 0x109000;

	put_multiboot_header(&elf, 0x1000, 3, NULL);
	r.kernel = boot_image(elf, "k");
	assert_int_equal(load_request(&r), 0);
	assert_int_equal(peek(bsp.gpr[RBX] + 20, 4), 3);
	mods = peek(bsp.gpr[RBX] + 24, 4);
	for (unsigned i = 0; i < 3; i++) {
		uint64_t start = peek(mods + 16 * i, 4);
		char s[8];

		assert_int_equal(start % 4096, 0);
		assert_true(start >= end);
		end = peek(mods + 16 * i + 4, 4);
		peek_string(peek(mods + 16 * i + 8, 4), s, sizeof(s));
		assert_string_equal(s, names[i]);
	}
	assert_int_equal(peek(peek(mods, 4), 4), 0x73726966);
	assert_int_equal(peek(mods + 16 + 4, 4) - peek(mods + 16, 4), 7);

	r.module[0].bytes = MIB(65);
	assert_int_equal(load_request(&r), -ENOSPC);
	assert_non_null(strstr(why, "module two of 66 MiB does not fit"));
	image_free(&elf);
}

static void test_bad_multiboot(void **state)
{
	static const struct {
		uint32_t flags, a[5];
		int err;
		const char *why;
	} bad[] = {
		{ 4, { 0 }, -ENOEXEC, "more than multiboot has" },
		{ 0, { 0 }, -ENOEXEC, "no ELF file" },
		{ 0x10000, { 0x100000, 0x100004, 0, 0, 0x100010 }, -ENOEXEC, "contradicts" },
		{ 0x10000, { 0x200000, 0x100000, 0, 0, 0x100010 }, -ENOEXEC, "contradicts" },
		{ 0x10000, { 0x100000, 0x100000, 0x90000, 0, 0x100010 }, -ENOEXEC, "contradicts" },
		{ 0x10000, { 0x100000, 0x100000, 0x200000, 0, 0x100010 }, -ENOEXEC, "truncated" },
		{ 0x10000, { 0x90000, 0x90000, 0, 0, 0x90010 }, -ENOEXEC, "below 1 MiB" },
		{ 0x10000, { 0x100000, 0x100000, 0, 0xfffffff0, 0x100010 }, -ENOSPC, "not fit" },
		{ 0x10000, { 0xfffff000, 0xfffff000, 0, 0, 0xfffff000 }, -ENOSPC, "not fit" },
		{ 0x10000, { 0x100000, 0x100000, 0, 0, 0x99999 }, -ENOEXEC, "entry" },
	};
	struct image flat = image_make(0x2000);

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		put_multiboot_header(&flat, 0, bad[i].flags, bad[i].a);
		assert_refused(flat, bad[i].err, bad[i].why);
	}
	put_multiboot_header(&flat, 0, 0x10000, bad[2].a);
	flat.bytes = 20;
	assert_refused(flat, -ENOEXEC, "truncated");
	image_free(&flat);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_bzimages),          TEST(test_kernel_across_nodes),
		TEST(test_shuffled_segments), TEST(test_stub_entry),
		TEST(test_vmlinux),           TEST(test_initrd),
		TEST(test_cmdline_limit),     TEST(test_bad_kernels),
		TEST(test_bad_elf),           TEST(test_tiny_machine),
		TEST(test_apic_mode),         TEST(test_multiboot_elf32),
		TEST(test_multiboot_elf64),   TEST(test_multiboot_addresses),
		TEST(test_multiboot_modules), TEST(test_bad_multiboot),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
