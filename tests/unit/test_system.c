/*
 * test_system.c - control and debug registers, flags, MSRs, ports, break points: what
 * they refuse, and what a change of them does.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/device_core.h"
#include "cpu/debug.h"
#include "cpu/mmu.h"
#include "cpu/segment.h"
#include "cpu/sys.h"
#include "flat.h"
#include "host/sim/sim.h"

#include <errno.h>

#define TSS 0x301000u

static struct host h;
static struct flat *f;
static struct cpu *c;

static int setup_clock(enum clock_source clock)
{
	h = sim_create(NULL);
	f = flat_create(&h, 1, clock);
	c = f->cpu;
	return 0;
}

static int setup(void **state)
{
	return setup_clock(CLOCK_HOST);
}

static int teardown(void **state)
{
	flat_destroy(f);
	return (int)sim_destroy(&h);
}

/* --- shorthand ----------------------------------------------------------------------- */

static int outcome(enum sys_result r)
{
	int v = r == SYS_FAULT ? c->fault.vector << 16 | (int)c->fault.error : -1;

	assert_int_equal(c->fault.pending, r == SYS_FAULT);
	c->fault.pending = false;
	return v;
}

#define OK  (-1)
#define GP0 (EXC_GP << 16)
#define UD  (EXC_UD << 16)

static void set_cpl(unsigned cpl)
{
	struct segment *ss = &c->s.seg[SEG_SS];

	ss->attr = (ss->attr & ~(uint32_t)SEG_DPL) | cpl << SEG_DPL_SHIFT;
	cpu_update_mode(c);
}

static void offer(enum cpu_feature feature, bool on)
{
	uint64_t bit = 1ull << feature % 64, *w = &f->vm->cpuid.has.word[feature / 64];

	*w = on ? *w | bit : *w & ~bit;
}

static int mov_cr(unsigned n, uint64_t v)
{
	struct op o = { .reg = (uint8_t)n, .rm = RAX };

	c->s.gpr[RAX] = v;
	return outcome(sys_mov_to_cr(c, &o));
}

static int mov_dr(unsigned n, uint64_t v)
{
	struct op o = { .reg = (uint8_t)n, .rm = RAX };

	c->s.gpr[RAX] = v;
	return outcome(sys_mov_to_dr(c, &o));
}

static int wrmsr(uint32_t msr, uint64_t v)
{
	struct op o = { .size = 4 };

	c->s.gpr[RCX] = msr;
	c->s.gpr[RAX] = (uint32_t)v;
	c->s.gpr[RDX] = v >> 32;
	return outcome(sys_wrmsr(c, &o));
}

static int rdmsr(uint32_t msr, uint64_t *v)
{
	struct op o = { .size = 4 };
	int r;

	c->s.gpr[RCX] = msr;
	r = outcome(sys_rdmsr(c, &o));
	*v = c->s.gpr[RDX] << 32 | c->s.gpr[RAX];
	return r;
}

static int plain(sys_fn *fn)
{
	struct op o = { .size = 4, .rm = RAX, .len = 2 };

	return outcome(fn(c, &o));
}

/* --- control registers ----------------------------------------------------------------- */

static void test_cr0(void **state)
{
	uint64_t cr0 = c->s.cr0;

	assert_int_equal(mov_cr(0, cr0 | 1ull << 32), GP0);
	assert_int_equal(mov_cr(0, cr0 & ~(uint64_t)CR0_PE), GP0);
	assert_int_equal(mov_cr(0, cr0 | CR0_NW), GP0);
	assert_int_equal(mov_cr(0, cr0 & ~(uint64_t)CR0_PG), GP0); /* in 64-bit code */
	assert_int_equal(mov_cr(0, (cr0 | CR0_TS) & ~(uint64_t)CR0_ET), OK);
	assert_int_equal(c->s.cr0, cr0 | CR0_TS); /* ET stays */
	assert_int_equal(plain(sys_clts), OK);
	assert_int_equal(c->s.cr0, cr0);
	set_cpl(3);
	assert_int_equal(mov_cr(0, cr0), GP0);
	assert_int_equal(plain(sys_clts), GP0);
}

/* The way into long mode, as SDM vol. 3, 10.8.5 has it. */
static void test_long_mode_switch(void **state)
{
	flat_reset(f, MODE_32);
	assert_int_equal(wrmsr(0xc0000080, EFER_LME), OK);
	assert_int_equal(mov_cr(0, c->s.cr0 | CR0_PG), GP0); /* needs PAE */
	assert_int_equal(mov_cr(4, c->s.cr4 | CR4_PAE), OK);
	assert_int_equal(mov_cr(3, 0x1000), OK);
	c->s.seg[SEG_CS].attr |= SEG_L;
	assert_int_equal(mov_cr(0, c->s.cr0 | CR0_PG), GP0);
	c->s.seg[SEG_CS].attr &= ~(uint32_t)SEG_L;
	assert_int_equal(mov_cr(0, c->s.cr0 | CR0_PG), OK);
	assert_true(c->s.efer & EFER_LMA);
	assert_int_equal(c->mode, MODE_32);          /* compatibility */
	assert_int_equal(wrmsr(0xc0000080, 0), GP0); /* LME under paging */
	assert_int_equal(mov_cr(4, c->s.cr4 & ~(uint64_t)CR4_PAE), GP0);
	assert_int_equal(mov_cr(0, c->s.cr0 & ~(uint64_t)CR0_PG), OK);
	assert_false(c->s.efer & EFER_LMA);
}

static void test_cr4(void **state)
{
	uint64_t cr4 = c->s.cr4;

	offer(CPU_PCID, true);
	offer(CPU_SMAP, false);
	assert_int_equal(mov_cr(4, cr4 | CR4_SMAP), GP0);
	offer(CPU_SMAP, true);
	assert_int_equal(mov_cr(4, cr4 | CR4_SMAP), OK);
	assert_int_equal(mov_cr(4, cr4 | CR4_VME), GP0);
	assert_int_equal(mov_cr(4, cr4 | CR4_LA57), GP0);
	assert_int_equal(mov_cr(4, cr4 | 1ull << 40), GP0);
	c->s.cr3 |= 1;
	assert_int_equal(mov_cr(4, cr4 | CR4_PCIDE), GP0);
	c->s.cr3 &= ~1ull;
	assert_int_equal(mov_cr(4, cr4 | CR4_PCIDE), OK);
	assert_int_equal(mov_cr(3, c->s.cr3 | 5 | 1ull << 63), OK);
	assert_false(c->s.cr3 >> 63);
	assert_int_equal(mov_cr(3, 1ull << 60), GP0);
}

static void test_other_crs(void **state)
{
	struct op o = { .reg = 8, .rm = RBX };

	assert_int_equal(mov_cr(1, 0), UD);
	assert_int_equal(mov_cr(7, 0), UD);
	assert_int_equal(mov_cr(8, 0x10), GP0);
	assert_int_equal(mov_cr(8, 9), OK);
	assert_int_equal(outcome(sys_mov_from_cr(c, &o)), OK);
	assert_int_equal(c->s.gpr[RBX], 9);
	assert_int_equal(mov_cr(2, 0x123456789abcdef0ull), OK);
	assert_true(c->s.cr2 == 0x123456789abcdef0ull);
}

static void test_lmsw(void **state)
{
	struct op o = { .rm = RAX, .size = 2 };

	c->s.gpr[RAX] = CR0_TS;
	assert_int_equal(outcome(sys_lmsw(c, &o)), OK);
	assert_true(c->s.cr0 & CR0_PE); /* cannot be cleared this way */
	assert_true(c->s.cr0 & CR0_TS);
	assert_false(c->s.cr0 & CR0_MP);
	set_cpl(3);
	assert_int_equal(outcome(sys_lmsw(c, &o)), GP0);
	assert_int_equal(outcome(sys_smsw(c, &o)), OK);
	c->s.cr4 |= CR4_UMIP;
	assert_int_equal(outcome(sys_smsw(c, &o)), GP0);
	assert_int_equal(plain(sys_str), GP0);
	assert_int_equal(plain(sys_sldt), GP0);
}

GUEST(tables_code, "lea 1f(%rip), %rax\n sgdt (%rsp)\n lgdt (%rax)\n sidt 16(%rsp)\n hlt\n"
		   "1: .word 0x7f\n .quad 0x5000");

static void test_descriptor_tables(void **state)
{
	FLAT_RUN(f, tables_code);
	assert_int_equal(f->vector, -1);
	assert_int_equal(c->s.gdtr.limit, 0x7f);
	assert_int_equal(c->s.gdtr.base, 0x5000);
	assert_int_equal(load_u16(f->ram + FLAT_STACK), 23);
	assert_int_equal(load_u64(f->ram + FLAT_STACK + 2), 0x5000);
	assert_int_equal(load_u16(f->ram + FLAT_STACK + 16), 0xfff);
	assert_int_equal(load_u64(f->ram + FLAT_STACK + 18), FLAT_IDT);
}

static void test_xcr0(void **state)
{
	offer(CPU_XSAVE, true);
	offer(CPU_AVX, true);
	offer(CPU_AVX512F, false);
	assert_int_equal(plain(sys_xgetbv), UD); /* CR4.OSXSAVE */
	c->s.cr4 |= CR4_OSXSAVE;
	c->s.gpr[RCX] = c->s.gpr[RDX] = 0;
	for (unsigned v = 0; v < 256; v++) {
		c->s.gpr[RAX] = v;
		assert_int_equal(plain(sys_xsetbv), v == 1 || v == 3 || v == 7 ? OK : GP0);
	}
	assert_int_equal(c->s.xcr0, 7);
	c->s.gpr[RCX] = 1;
	assert_int_equal(plain(sys_xsetbv), GP0);
	offer(CPU_XGETBV1, false);
	assert_int_equal(plain(sys_xgetbv), GP0);
	offer(CPU_XGETBV1, true);
	memset(c->s.xsave + 160, 0, 256);
	c->s.xsave[160] = 1;
	assert_int_equal(plain(sys_xgetbv), OK);
	assert_int_equal(c->s.gpr[RAX] & 6, 2); /* SSE is in use, AVX is not */
	c->s.gpr[RCX] = 2;
	assert_int_equal(plain(sys_xgetbv), GP0);
}

static void test_invpcid_operands(void **state)
{
	struct op o = { .flags = OP_MEM,
			.base = OP_NO_REG,
			.index = OP_NO_REG,
			.disp = 0x6000,
			.seg = SEG_DS,
			.reg = RAX };
	uint64_t *d = (uint64_t *)(f->ram + 0x6000);

	offer(CPU_INVPCID, true);
	d[0] = d[1] = 0;
	for (c->s.gpr[RAX] = 0; c->s.gpr[RAX] < 4; c->s.gpr[RAX]++)
		assert_int_equal(outcome(sys_invpcid(c, &o)), OK);
	assert_int_equal(outcome(sys_invpcid(c, &o)), GP0);
	c->s.gpr[RAX] = 0;
	d[1] = 1ull << 47;
	assert_int_equal(outcome(sys_invpcid(c, &o)), GP0);
	d[1] = 0;
	d[0] = 1; /* without CR4.PCIDE */
	assert_int_equal(outcome(sys_invpcid(c, &o)), GP0);
	d[0] = 4096;
	c->s.gpr[RAX] = 3;
	assert_int_equal(outcome(sys_invpcid(c, &o)), GP0);
	offer(CPU_INVPCID, false);
	assert_int_equal(outcome(sys_invpcid(c, &o)), UD);
}

/* --- flags ----------------------------------------------------------------------------------- */

static uint64_t popf(uint64_t v, unsigned size)
{
	struct op o = { .size = (uint8_t)size };

	store_u64(f->ram + FLAT_STACK, v);
	c->s.gpr[RSP] = FLAT_STACK;
	assert_int_equal(outcome(sys_popf(c, &o)), OK);
	assert_int_equal(c->s.gpr[RSP], FLAT_STACK + size);
	return cpu_rflags(c);
}

static void test_popf(void **state)
{
	uint64_t all = UINT64_MAX & ~(uint64_t)RFLAGS_TF;

	assert_int_equal(popf(all, 8), 0x247ed7 & ~(uint64_t)RFLAGS_TF);
	assert_int_equal(popf(0, 2), RFLAGS_ONE | RFLAGS_AC | RFLAGS_ID);
	cpu_set_rflags(c, RFLAGS_ONE);
	set_cpl(3); /* IOPL 0: neither IF nor IOPL */
	assert_int_equal(popf(all, 8) & (RFLAGS_IF | RFLAGS_IOPL), 0);
	assert_int_equal(plain(sys_cli), GP0);
	assert_int_equal(plain(sys_sti), GP0);
	cpu_set_rflags(c, RFLAGS_ONE | RFLAGS_IOPL);
	assert_int_equal(plain(sys_sti), OK);
	assert_true(c->s.rflags & RFLAGS_IF);
	assert_true(c->s.sti_shadow);
	assert_int_equal(plain(sys_cli), OK);
	assert_int_equal(popf(RFLAGS_IF, 8), RFLAGS_ONE | RFLAGS_IOPL | RFLAGS_IF);
}

static void test_stac(void **state)
{
	offer(CPU_SMAP, false);
	assert_int_equal(plain(sys_stac), UD);
	offer(CPU_SMAP, true);
	assert_int_equal(plain(sys_stac), OK);
	assert_true(cpu_rflags(c) & RFLAGS_AC);
	assert_int_equal(plain(sys_clac), OK);
	assert_false(cpu_rflags(c) & RFLAGS_AC);
	set_cpl(3);
	assert_int_equal(plain(sys_stac), UD);
}

/* --- MSRs ----------------------------------------------------------------------------------------
 */

static void test_msr_values(void **state)
{
	static const struct {
		uint32_t msr;
		uint64_t v;
		int expected;
	} write[] = {
		{ 0xc0000080, EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE, OK },
		{ 0xc0000080, 1 << 14 | EFER_LME, GP0 },
		{ 0xc0000081, UINT64_MAX, OK },
		{ 0xc0000082, 1ull << 47, GP0 },
		{ 0xc0000082, 0xffff800000000000ull, OK },
		{ 0xc0000083, 1ull << 47, GP0 },
		{ 0xc0000084, 1ull << 32, GP0 },
		{ 0xc0000100, 1ull << 60, GP0 },
		{ 0xc0000101, 0xffff800000000000ull, OK },
		{ 0xc0000102, 1ull << 60, GP0 },
		{ 0xc0000103, 1ull << 32, GP0 },
		{ 0xc0000103, 5, OK },
		{ 0x175, 1ull << 60, GP0 },
		{ 0x176, 0x1000, OK },
		{ 0x277, 0x0007040600070406ull, OK },
		{ 0x277, 0x0207040600070406ull, GP0 },
		{ 0x250, 0x0606060606060606ull, OK },
		{ 0x250, 0x0706060606060606ull, GP0 }, /* UC- is for PAT alone */
		{ 0x26f, 3, GP0 },
		{ 0x200, 0x80000006, OK },
		{ 0x200, 0x80000106, GP0 },
		{ 0x201, 0x80000800, OK },
		{ 0x201, 0x80000001, GP0 },
		{ 0x20f, 1ull << 60, GP0 },
		{ 0x2ff, 0xc06, OK },
		{ 0x2ff, 0xc02, GP0 },
		{ 0x2ff, 0x1006, GP0 },
		{ 0xfe, 0, GP0 },
		{ 0x10a, 0, GP0 },
		{ 0x1a0, 1, OK },
		{ 0x1a0, 1ull << 34, GP0 },
		{ 0x8b, 0, OK },
		{ 0x17a, 0, OK },
		{ 0x17a, 1, GP0 },
		{ 0x48, 0x8, GP0 },
		{ 0x49, 2, GP0 },
		{ 0x49, 1, OK },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(write); i++) {
		int r = wrmsr(write[i].msr, write[i].v);

		if (r != write[i].expected)
			fail_msg("WRMSR %#x of %#llx: %#x", write[i].msr,
				 (unsigned long long)write[i].v, r);
	}
}

static void test_msr_readback(void **state)
{
	static const uint32_t msr[] = { 0xc0000081, 0xc0000082, 0xc0000083, 0xc0000100,
					0xc0000101, 0xc0000102, 0x175,      0x176 };
	uint64_t v;

	for (unsigned i = 0; i < ARRAY_SIZE(msr); i++) {
		assert_int_equal(wrmsr(msr[i], 0x1000 + i), OK);
		assert_int_equal(rdmsr(msr[i], &v), OK);
		assert_int_equal(v, 0x1000 + i);
	}
	assert_int_equal(c->s.seg[SEG_GS].base, 0x1004);
	assert_int_equal(rdmsr(0xc0000080, &v), OK);
	assert_int_equal(v, c->s.efer);
	assert_int_equal(rdmsr(0x49, &v), GP0); /* write-only */
	set_cpl(3);
	assert_int_equal(rdmsr(0x10, &v), GP0);
	assert_int_equal(wrmsr(0x10, v), GP0);
}

static void test_unknown_msr(void **state)
{
	uint64_t v;

	sim_log_clear(&h);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(rdmsr(0xdead, &v), GP0);
		assert_int_equal(wrmsr(0xdead, 0), GP0);
	}
	assert_int_equal(stat_get(&f->vcpu->stats, STAT_UNKNOWN_MSRS), 6);
	/* Once for each direction. */
	assert_non_null(strstr(sim_log(&h), "read of unknown MSR 0xdead"));
	assert_null(strstr(strstr(sim_log(&h), "read of") + 1, "read of"));
	assert_non_null(strstr(sim_log(&h), "write of unknown MSR 0xdead"));
}

static void test_tsc(void **state)
{
	uint64_t v;

	sim_advance(&h, 1000);
	assert_int_equal(wrmsr(0x10, 50), OK);
	sim_advance(&h, 100);
	assert_int_equal(plain(sys_rdtsc), OK);
	assert_int_equal(c->s.gpr[RAX], 150);
	assert_int_equal(c->s.gpr[RDX], 0);
	assert_int_equal(rdmsr(0x3b, &v), OK);
	assert_true(v == (uint64_t)-950);
	assert_int_equal(wrmsr(0x3b, 0), OK); /* as it was */
	assert_int_equal(cpu_tsc(c), 1100);
	set_cpl(3);
	assert_int_equal(plain(sys_rdtsc), OK);
	c->s.cr4 |= CR4_TSD;
	assert_int_equal(plain(sys_rdtsc), GP0);
}

static void test_random_repeats_under_icount(void **state)
{
	struct op o = { .rm = RBX, .size = 8, .mnemonic = ZYDIS_MNEMONIC_RDRAND };
	uint64_t first[4];

	offer(CPU_RDRAND, true);
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(outcome(sys_rdrand(c, &o)), OK);
		assert_int_equal(c->fl, FL_CF);
		first[i] = c->s.gpr[RBX];
		assert_int_not_equal(first[i], i ? first[i - 1] : 0);
	}
	assert_int_equal(teardown(state), 0);
	setup_clock(CLOCK_ICOUNT);
	offer(CPU_RDRAND, true);
	for (unsigned i = 0; i < 4; i++) {
		outcome(sys_rdrand(c, &o));
		assert_int_equal(c->s.gpr[RBX], first[i]);
	}
}

static int setup_icount(void **state)
{
	return setup_clock(CLOCK_ICOUNT);
}

/* --- ports
 * --------------------------------------------------------------------------------------------- */

struct port {
	unsigned reads, writes;
	uint64_t last;
};

static uint64_t port_read(struct dev *d, uint64_t off, unsigned size)
{
	struct port *p = dev_state(d);

	return ++p->reads;
}

static void port_write(struct dev *d, uint64_t off, unsigned size, uint64_t val)
{
	struct port *p = dev_state(d);

	p->writes++;
	p->last = val;
}

static const struct device_type port_type = {
	.name = "port",
	.state_size = sizeof(struct port),
	.region = { { .bus = BUS_PIO, .base = 0x500, .bytes = 8 } },
	.min_access = 1,
	.max_access = 4,
	.gsi = { -1, -1, -1, -1 },
	.read = port_read,
	.write = port_write,
};

static struct port *with_port(struct dev **d)
{
	assert_int_equal(dev_create(f->vm, &port_type, HOST_NODE_ANY, d), 0);
	return dev_state(*d);
}

GUEST(io_code, "mov $0x500, %edx\n mov $-1, %rax\n in %dx, %al\n mov %rax, %rbx\n"
	       "in %dx, %eax\n mov %rax, %rcx\n mov $0x1234, %eax\n out %ax, %dx\n hlt");
GUEST(ins_code, "mov $0x500, %edx\n mov $0x1ffffe, %edi\n mov $1000, %ecx\n rep insb\n"
		"mov $0x1ffffe, %esi\n mov $1000, %ecx\n std\n mov $0x2003e5, %esi\n"
		"rep outsb\n hlt");

static void test_in_out(void **state)
{
	struct dev *d;
	struct port *p = with_port(&d);

	FLAT_RUN(f, io_code);
	assert_int_equal(f->vector, -1);
	assert_true(flat_reg(f, RBX) == 0xffffffffffffff01ull);
	assert_int_equal(flat_reg(f, RCX), 2);
	assert_int_equal(p->last, 0x1234);
	dev_destroy(d);
}

static void test_repeated(void **state)
{
	struct dev *d;
	struct port *p = with_port(&d);

	FLAT_RUN(f, ins_code);
	assert_int_equal(f->vector, -1);
	assert_int_equal(p->reads, 1000);
	for (unsigned i = 0; i < 1000; i++)
		assert_int_equal(f->ram[0x1ffffe + i], (i + 1) & 0xff);
	assert_int_equal(p->writes, 1000);
	assert_int_equal(p->last, 1); /* backwards: the first byte comes last */
	assert_int_equal(flat_reg(f, RSI), 0x1ffffd);
	assert_int_equal(flat_reg(f, RCX), 0);
	dev_destroy(d);
}

/* A page fault in the middle: what was done stays done, the device is not asked in vain. */
static void test_repeated_fault(void **state)
{
	struct op o = { .size = 1, .flags = OP_REP, .len = 2 };
	struct dev *d;
	struct port *p = with_port(&d);

	store_u64(f->ram + 0x3000 + 8, 0); /* the page directory: nothing at 2 MiB */
	mmu_flush_all(c);
	c->s.gpr[RDX] = 0x500;
	c->s.gpr[RDI] = MIB(2) - 3;
	c->s.gpr[RCX] = 10;
	assert_int_equal(outcome(sys_ins(c, &o)), EXC_PF << 16 | PF_W);
	assert_int_equal(c->s.gpr[RCX], 7);
	assert_int_equal(c->s.gpr[RDI], MIB(2));
	assert_int_equal(p->reads, 3);
	dev_destroy(d);
}

static void test_port_permission(void **state)
{
	struct op o = { .size = 1, .rm = RDX };

	memset(f->ram + TSS, 0, 0x3000);
	store_u16(f->ram + TSS + 0x66, 0x68);
	f->ram[TSS + 0x68 + 0x500 / 8] = 0x04; /* port 0x502 is refused */
	c->s.tr = (struct segment){ .attr = SEG_P | 0xb, .base = TSS, .limit = 0x68 + 0x100 };
	set_cpl(3);
	c->s.gpr[RDX] = 0x501;
	assert_int_equal(outcome(sys_in(c, &o)), OK);
	o.size = 2;
	assert_int_equal(outcome(sys_in(c, &o)), GP0);
	o.size = 1;
	c->s.gpr[RDX] = 0x502;
	assert_int_equal(outcome(sys_out(c, &o)), GP0);
	c->s.gpr[RDX] = 0x800; /* beyond the limit */
	assert_int_equal(outcome(sys_out(c, &o)), GP0);
	c->s.gpr[RDX] = 0x502;
	cpu_set_rflags(c, RFLAGS_ONE | RFLAGS_IOPL);
	assert_int_equal(outcome(sys_out(c, &o)), OK);
	cpu_set_rflags(c, RFLAGS_ONE);
	c->s.tr.attr = SEG_P | DESC_TSS16_BUSY; /* has no bit map */
	assert_int_equal(outcome(sys_out(c, &o)), GP0);
}

/* --- break points
 * ------------------------------------------------------------------------------------------- */

GUEST(points_code, "mov $0x200000, %edi\n movl $1, (%rdi)\n movl $2, 4(%rdi)\n mov (%rdi), %eax\n"
		   "nop\n nop\n hlt");

#define AT_WRITE1 5
#define AT_WRITE2 11
#define AT_READ   18
#define AT_NOP    20

static void run_points(uint64_t dr0, uint64_t dr7)
{
	flat_reset(f, MODE_64);
	assert_int_equal(mov_dr(0, dr0), OK);
	assert_int_equal(mov_dr(7, dr7), OK);
	flat_load(f, points_code, points_code_end);
	flat_run(f);
}

static uint64_t pushed_rip(void)
{
	return load_u64(f->ram + c->s.gpr[RSP]);
}

static void test_debug_registers(void **state)
{
	run_points(FLAT_CODE + AT_NOP, 1); /* before it executes */
	assert_int_equal(f->vector, EXC_DB);
	assert_int_equal(pushed_rip(), FLAT_CODE + AT_NOP);
	assert_int_equal(c->s.dr6, DR6_INIT | 1);

	run_points(FLAT_DATA + 4, 1 | 0xd << 16); /* writes of 4 bytes: after the store */
	assert_int_equal(f->vector, EXC_DB);
	assert_int_equal(pushed_rip(), FLAT_CODE + AT_READ);
	assert_int_equal(load_u32(f->ram + FLAT_DATA + 4), 2);

	run_points(FLAT_DATA + 3, 1 | 3 << 16); /* one byte, reads and writes */
	assert_int_equal(pushed_rip(), FLAT_CODE + AT_WRITE2);

	run_points(FLAT_DATA + 8, 1 | 3 << 16);
	assert_int_equal(f->vector, -1);
	run_points(FLAT_CODE + AT_NOP, 0); /* not enabled */
	assert_int_equal(f->vector, -1);
}

static void test_debug_register_access(void **state)
{
	assert_int_equal(mov_dr(6, 1ull << 32), GP0);
	assert_int_equal(mov_dr(7, 1ull << 32), GP0);
	assert_int_equal(mov_dr(6, UINT32_MAX), OK);
	assert_int_equal(c->s.dr6, 0xffffefff);
	assert_int_equal(mov_dr(4, 0), OK); /* DR6 by another name */
	assert_int_equal(c->s.dr6, DR6_INIT);
	c->s.cr4 |= CR4_DE;
	assert_int_equal(mov_dr(4, 0), UD);
	assert_int_equal(mov_dr(7, DR7_GD), OK);
	assert_int_equal(mov_dr(0, 0), EXC_DB << 16);
	assert_int_equal(c->fault.payload, DR6_BD);
	c->s.dr7 = DR7_INIT;
	set_cpl(3);
	assert_int_equal(mov_dr(0, 0), GP0);
}

static void run_debugger(enum debug_point_kind kind, uint64_t gva, unsigned bytes)
{
	flat_reset(f, MODE_64);
	flat_load(f, points_code, points_code_end);
	assert_int_equal(debug_point(f->vm, true, kind, gva, bytes), 0);
	flat_run(f);
	assert_int_equal(debug_point(f->vm, false, kind, gva, bytes), 0);
}

static void test_debugger(void **state)
{
	run_debugger(DEBUG_EXEC, FLAT_CODE + AT_NOP, 1);
	assert_int_equal(f->exit.reason, EXIT_DEBUG);
	assert_int_equal(f->exit.detail, FLAT_CODE + AT_NOP);
	assert_int_equal(c->s.rip, FLAT_CODE + AT_NOP);

	run_debugger(DEBUG_WRITE, FLAT_DATA + 4, 4);
	assert_int_equal(f->exit.reason, EXIT_DEBUG);
	assert_int_equal(f->exit.detail, FLAT_DATA + 4);
	assert_int_equal(c->s.rip, FLAT_CODE + AT_READ);

	run_debugger(DEBUG_READ, FLAT_DATA, 4);
	assert_int_equal(c->s.rip, FLAT_CODE + AT_NOP);

	flat_reset(f, MODE_64);
	debug_single_step(f->vcpu, true);
	flat_run(f);
	assert_int_equal(f->exit.reason, EXIT_DEBUG);
	assert_int_equal(c->s.rip, FLAT_CODE + AT_WRITE1);
	debug_single_step(f->vcpu, false);
	flat_run(f);
	assert_int_equal(f->exit.reason, EXIT_HALT);
	assert_false(c->slow_step);

	assert_int_equal(debug_point(f->vm, false, DEBUG_EXEC, 5, 1), -ENOENT);
	assert_int_equal(debug_point(f->vm, true, DEBUG_EXEC, 5, 0), -EINVAL);
	for (unsigned i = 0; i < DEBUG_POINTS_MAX; i++)
		assert_int_equal(debug_point(f->vm, true, DEBUG_WRITE, 5, 1), 0);
	assert_int_equal(debug_point(f->vm, true, DEBUG_WRITE, 5, 1), -ENOSPC);
}

#define T(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_cr0),
		T(test_long_mode_switch),
		T(test_cr4),
		T(test_other_crs),
		T(test_lmsw),
		T(test_descriptor_tables),
		T(test_xcr0),
		T(test_invpcid_operands),
		T(test_popf),
		T(test_stac),
		T(test_msr_values),
		T(test_msr_readback),
		T(test_unknown_msr),
		T(test_tsc),
		cmocka_unit_test_setup_teardown(test_random_repeats_under_icount, setup_icount,
						teardown),
		T(test_in_out),
		T(test_repeated),
		T(test_repeated_fault),
		T(test_port_permission),
		T(test_debug_registers),
		T(test_debug_register_access),
		T(test_debugger),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
