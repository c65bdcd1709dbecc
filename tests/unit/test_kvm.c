/*
 * test_kvm.c - the KVM engine with tiny flat guests: exits, interrupts, kicks, state.
 *
 * Runs on any /dev/kvm that opens, emulated ones too; elsewhere every test is skipped,
 * and says so.
 */
#include "kvm_machine.h"

#include "host/linux/kvm/counters.h"
#include "host/linux/kvm/probe.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#define PML4  0x1000u
#define PDPT  0x2000u
#define PD    0x3000u
#define GDT   0x4000u
#define IDT   0x5000u
#define STACK 0x8000u
#define CODE  0x10000u

#define GUEST(name, text)                                                                          \
	extern const uint8_t name[], name##_end[];                                                 \
	asm(".pushsection .rodata\n.balign 16\n" #name ":\n" text "\n" #name "_end:\n"             \
	    ".popsection")

static bool have_kvm;

static struct segment flat(uint16_t selector, uint32_t attr)
{
	return (struct segment){ .selector = selector,
				 .attr = SEG_P | SEG_S | SEG_G | attr,
				 .limit = UINT32_MAX };
}

static void state_64(struct cpu_state *s)
{
	cpu_state_reset(s, true);
	s->cr0 = CR0_PE | CR0_PG | CR0_ET | CR0_NE;
	s->cr3 = PML4;
	s->cr4 = CR4_PAE | CR4_OSFXSR;
	s->efer = EFER_LME | EFER_LMA | EFER_SCE | EFER_NXE;
	s->seg[SEG_CS] = flat(8, 0xb | SEG_L);
	for (unsigned i = 0; i < SEG_COUNT; i++)
		if (i != SEG_CS)
			s->seg[i] = flat(16, 3 | SEG_DB);
	s->gdtr = (struct desc_table){ .base = GDT, .limit = 23 };
	s->idtr = (struct desc_table){ .base = IDT, .limit = 0xfff };
	s->rip = CODE;
	s->gpr[RSP] = STACK;
	s->kvm_poll = 1;
}

static void load(const uint8_t *code, const uint8_t *end)
{
	struct cpu_state s;

	store_u64(m.ram + PML4, PDPT | 3);
	store_u64(m.ram + PDPT, PD | 3);
	store_u64(m.ram + PD, 0x83);
	store_u64(m.ram + PD + 8, 0x200083);
	store_u64(m.ram + GDT + 8, 0x00af9b000000ffffull);
	store_u64(m.ram + GDT + 16, 0x00cf93000000ffffull);
	memcpy(m.ram + CODE, code, (size_t)(end - code));
	engine_kvm.reset(m.vcpu);
	state_64(&s);
	assert_int_equal(engine_kvm.set_state(m.vcpu, &s), 0);
}

static void gate(uint8_t vector, uint64_t to)
{
	store_u64(m.ram + IDT + vector * 16u,
		  (to & 0xffff) | 8u << 16 | 0x8e00ull << 32 | (to >> 16) << 48);
}

/* The one vCPU runs until somebody posts an event, as the loop would take it. */
static enum exit_reason run_it(void)
{
	struct vcpu_exit x = { .reason = EXIT_KICK };

	atomic_store(&m.vcpu->mode, VCPU_GUEST);
	assert_int_equal(engine_kvm.run(m.vcpu, &x), 0);
	atomic_store(&m.vcpu->mode, VCPU_OUTSIDE);
	return x.reason;
}

static void make(unsigned vcpus)
{
	if (!have_kvm)
		skip();
	build(vcpus);
	assert_int_equal(engine_kvm.create(m.vm), 0);
	for (unsigned i = 0; i < vcpus; i++)
		assert_int_equal(engine_kvm.vcpu_create(m.vm->vcpu[i]), 0);
}

/* --- tests ------------------------------------------------------------------------------ */

static void test_probe(void **state)
{
	struct kvm_speed s;
	char why[256] = "";
	int fd;

	if (!have_kvm)
		skip();
	fd = kvm_open(why, sizeof(why));
	assert_true(fd >= 0);
	assert_int_equal(kvm_measure(&host, fd, &s), 0);
	close(fd);
	assert_true(s.exit_ns > 0 && s.exit_ns < 1000 * NSEC_PER_MSEC);
	print_message("# exit %llu ns, loop %llu ps a turn%s\n", (unsigned long long)s.exit_ns,
		      (unsigned long long)s.ps_per_loop, s.slow ? ": emulated" : "");
	if (s.slow) {
		assert_int_equal(engine_kvm.probe(&host, why, sizeof(why)), -ENOTSUP);
		assert_non_null(strstr(why, "emulated"));
		assert_null(strchr(why, '\n'));
	}
}

static void test_state_round_trip(void **state)
{
	struct cpu_state in, out;

	make(1);
	engine_kvm.reset(m.vcpu);
	state_64(&in);
	for (unsigned i = 0; i < GPR_COUNT; i++)
		in.gpr[i] = 0x1111111111111111ull * i;
	in.rip = 0x123456;
	in.rflags = RFLAGS_ONE | RFLAGS_CF | RFLAGS_IF;
	in.cr2 = 0x7fff00001000;
	in.dr[0] = 0x1000;
	in.dr[3] = 0x4000;
	in.star = 0x23001000000000;
	in.lstar = 0xffffffff81000000;
	in.sfmask = 0x47700;
	in.kernel_gs_base = 0xffff888000000000;
	in.seg[SEG_FS].base = 0x7f0000000000;
	in.seg[SEG_GS].base = 0xffff888000100000;
	in.sysenter_eip = 0x81001000; /* AMD keeps 32 bits */
	in.tsc_aux = 7;
	in.mtrr_phys[0] = 6;
	in.mtrr_phys[1] = 0xffc0000800; /* an address of 40 bits */
	in.tsc_offset = 0x123456789;
	in.nmi_blocked = true;
	for (unsigned i = 0; i < 16; i++) /* XMM0 and ST0 */
		in.xsave[160 + i] = in.xsave[32 + i] = (uint8_t)(i < 10 ? i + 1 : 0);
	memset(in.xsave + 42, 0, 6);
	memset(in.xsave + 170, 0xaa, 6);
	assert_int_equal(engine_kvm.set_state(m.vcpu, &in), 0);
	engine_kvm.get_state(m.vcpu, &out);

	assert_memory_equal(in.gpr, out.gpr, sizeof(in.gpr));
	assert_int_equal(in.rip, out.rip);
	assert_int_equal(in.rflags, out.rflags);
	assert_int_equal(in.cr0, out.cr0);
	assert_int_equal(in.cr2, out.cr2);
	assert_int_equal(in.cr3, out.cr3);
	assert_int_equal(in.cr4, out.cr4);
	assert_int_equal(in.efer, out.efer);
	assert_int_equal(in.apic_base, out.apic_base);
	for (unsigned i = 0; i < SEG_COUNT; i++) {
		assert_int_equal(in.seg[i].selector, out.seg[i].selector);
		assert_int_equal(in.seg[i].base, out.seg[i].base);
		assert_int_equal(in.seg[i].limit, out.seg[i].limit);
	}
	assert_int_equal(in.seg[SEG_CS].attr, out.seg[SEG_CS].attr);
	assert_int_equal(in.gdtr.base, out.gdtr.base);
	assert_int_equal(in.idtr.limit, out.idtr.limit);
	assert_memory_equal(in.dr, out.dr, sizeof(in.dr));
	assert_int_equal(in.star, out.star);
	assert_int_equal(in.lstar, out.lstar);
	assert_int_equal(in.sfmask, out.sfmask);
	assert_int_equal(in.kernel_gs_base, out.kernel_gs_base);
	assert_int_equal(in.sysenter_eip, out.sysenter_eip);
	assert_int_equal(in.tsc_aux, out.tsc_aux);
	assert_int_equal(in.pat, out.pat);
	assert_int_equal(in.mtrr_def_type, out.mtrr_def_type);
	assert_memory_equal(in.mtrr_fixed, out.mtrr_fixed, sizeof(in.mtrr_fixed));
	assert_memory_equal(in.mtrr_phys, out.mtrr_phys, sizeof(in.mtrr_phys));
	assert_int_equal(in.tsc_offset, out.tsc_offset);
	assert_int_equal(in.nmi_blocked, out.nmi_blocked);
	assert_int_equal(in.xcr0, out.xcr0);
	assert_memory_equal(in.xsave + 32, out.xsave + 32, 16);
	assert_memory_equal(in.xsave + 160, out.xsave + 160, 16);
	assert_int_equal(out.mp_state, MP_RUNNING);
	destroy();
}

static void test_reset_waits(void **state)
{
	struct cpu_state s;

	make(2);
	for (unsigned i = 0; i < 2; i++) {
		engine_kvm.reset(m.vm->vcpu[i]);
		engine_kvm.get_state(m.vm->vcpu[i], &s);
		assert_int_equal(s.rip, 0xfff0);
		assert_int_equal(s.seg[SEG_CS].base, 0xffff0000);
		assert_int_equal(s.mp_state, i ? MP_WAIT_SIPI : MP_RUNNING);
	}
	destroy();
}

/* A kick that comes before run() ends it, and one run only. */
static void test_kick_is_sticky(void **state)
{
	GUEST(spin, "1: pause\n jmp 1b");

	make(1);
	load(spin, spin_end);
	vcpu_post(m.vcpu, VCPU_PARK);
	assert_int_equal(run_it(), EXIT_KICK);
	assert_int_equal(atomic_load(&m.vcpu->events), VCPU_PARK);
	destroy();
}

/* Ports where nothing is read ones, and the instruction completes before the state is read. */
static void test_port_access_completes(void **state)
{
	struct cpu_state s;
	GUEST(ports, "xor %eax, %eax\n in $0x50, %al\n mov %eax, %ebx\n ud2");

	make(1);
	load(ports, ports_end);
	assert_int_equal(run_it(), EXIT_RESET); /* no IDT: #UD becomes a triple fault */
	engine_kvm.get_state(m.vcpu, &s);
	assert_int_equal(stat_get(&m.vcpu->stats, STAT_PIO), 1);
	assert_int_equal(stat_get(&m.vcpu->stats, STAT_BAD_ACCESSES), 1);
	destroy();
}

/* A message finds the vCPU in HLT; its handler leaves a mark and resets. */
static void test_message_wakes(void **state)
{
	GUEST(halt, "sti\n 1: hlt\n jmp 1b\n");
	GUEST(handler, "movl $0x600d, 0x9000\n ud2");

	make(1);
	load(halt, halt_end);
	memcpy(m.ram + CODE + 0x100, handler, (size_t)(handler_end - handler));
	gate(0x55, CODE + 0x100);
	engine_kvm.msi(m.vm, 0xfee00000, 0x4055);
	assert_int_equal(run_it(), EXIT_RESET);
	assert_int_equal(load_u32(m.ram + 0x9000), 0x600d);
	destroy();
}

static bool is_emulated(void)
{
	struct kvm_speed s = { 0 };
	char why[256] = "";
	int fd = kvm_open(why, sizeof(why));

	kvm_measure(&host, fd, &s);
	close(fd);
	return s.slow;
}

/* The TSC is the guest clock's ticks plus the offset. */
static void test_tsc_follows_clock(void **state)
{
	uint64_t before, seen, after;
	GUEST(tsc, "rdtsc\n shl $32, %rdx\n or %rdx, %rax\n mov %rax, 0x9000\n ud2");

	if (!have_kvm || is_emulated())
		skip(); /* such a KVM lets the guest read the host's TSC */
	make(1);
	if (!kvm_cpu_of(m.vcpu)->ticks_are_tsc) {
		destroy();
		skip();
	}
	load(tsc, tsc_end);
	before = clock_ticks(&m.vm->clock);
	assert_int_equal(run_it(), EXIT_RESET);
	after = clock_ticks(&m.vm->clock);
	seen = load_u64(m.ram + 0x9000);
	assert_in_range(seen, before, after);
	destroy();
}

static void test_refusals(void **state)
{
	if (!have_kvm)
		skip();
	build(1);
	m.vm->clock.source = CLOCK_ICOUNT;
	assert_int_equal(engine_kvm.create(m.vm), -EINVAL);
	assert_non_null(strstr(m.vm->refusal, "icount"));
	assert_null(m.vm->engine_data);
	m.vm->clock.source = CLOCK_HOST;
	m.vm->refusal[0] = '\0';
	m.vcpu->apic_id = 1u << 20;
	assert_int_equal(engine_kvm.create(m.vm), -E2BIG);
	assert_non_null(strstr(m.vm->refusal, "KVM_CAP_MAX_VCPU_ID"));
	assert_null(m.vm->engine_data);
	destroy();
}

static void test_nothing_stays_behind(void **state)
{
	unsigned before = open_files();

	make(4);
	assert_true(open_files() > before);
	destroy();
	assert_int_equal(open_files(), before);
}

static void test_debug_points(void **state)
{
	make(1);
	for (uint64_t i = 0; i < KVM_DEBUG_POINTS; i++)
		assert_int_equal(engine_kvm.debug_point(m.vm, true, DEBUG_EXEC, 0x1000 + i, 1), 0);
	assert_int_equal(engine_kvm.debug_point(m.vm, true, DEBUG_EXEC, 0x2000, 1), -ENOSPC);
	assert_int_equal(engine_kvm.debug_point(m.vm, false, DEBUG_EXEC, 0x2000, 1), -ENOENT);
	assert_int_equal(engine_kvm.debug_point(m.vm, false, DEBUG_EXEC, 0x1000, 1), 0);
	assert_int_equal(engine_kvm.debug_point(m.vm, true, DEBUG_WRITE, 0x2001, 8), -EINVAL);
	assert_int_equal(engine_kvm.debug_point(m.vm, true, DEBUG_WRITE, 0x2000, 8), 0);
	destroy();
}

static void test_translate(void **state)
{
	uint64_t gpa = 0;
	GUEST(nothing, "hlt");

	make(1);
	load(nothing, nothing_end);
	assert_int_equal(engine_kvm.translate(m.vcpu, CODE + 5, &gpa), 0);
	assert_int_equal(gpa, CODE + 5);
	assert_int_not_equal(engine_kvm.translate(m.vcpu, GIB(8), &gpa), 0);
	destroy();
}

/* What the guest writes, and nothing else; once. What a device writes, too. */
static void test_dirty_log(void **state)
{
	uint64_t bits[RAM / PAGE_SIZE / 64];
	GUEST(writer, "movl $1, 0x100000\n movl $1, 0x142ff8\n ud2");

	make(1);
	load(writer, writer_end);
	assert_int_equal(vmm_dirty_words(m.vm), ARRAY_SIZE(bits));
	assert_int_equal(vmm_dirty_take(m.vm, bits), -EINVAL);
	assert_int_equal(vmm_dirty_begin(m.vm), 0);
	assert_int_equal(vmm_dirty_take(m.vm, bits), 0);
	assert_int_equal(run_it(), EXIT_RESET);
	vm_dirtied(m.vm, 0x181ff0, 32);
	assert_int_equal(vmm_dirty_take(m.vm, bits), 0);
	assert_true(bits[4] & BIT64(0));
	assert_true(bits[5] & BIT64(2));
	assert_int_equal(bits[6], BIT64(1) | BIT64(2));
	assert_int_equal(bits[4] | bits[5], BIT64(0) | BIT64(2));
	assert_int_equal(bits[7], 0);
	assert_int_equal(vmm_dirty_take(m.vm, bits), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(bits); i++)
		assert_int_equal(bits[i], 0);
	vmm_dirty_end(m.vm);
	free((void *)atomic_load(&m.vm->dirty));
	destroy();
}

static uint64_t counter(const char *name)
{
	for (unsigned i = 0; i < kvm_nr_counters(m.vm); i++) {
		const char *have = kvm_counter_name(m.vm, i);

		if (have && !strcmp(have, name))
			return kvm_counter(m.vm, 0, i);
	}
	return UINT64_MAX;
}

static void test_counters(void **state)
{
	GUEST(chatter, "out %al, $0x50\n out %al, $0x50\n movl $1, 0x400000\n ud2");

	make(1);
	load(chatter, chatter_end);
	store_u64(m.ram + PD + 16, 0xd0000083);
	assert_int_equal(run_it(), EXIT_RESET);
	assert_int_equal(counter("user_io"), 2);
	assert_int_equal(counter("user_mmio"), 1);
	assert_int_equal(counter("user_shutdown"), 1);
	vcpu_post(m.vcpu, VCPU_PARK);
	assert_int_equal(run_it(), EXIT_KICK);
	if (counter("exits") != UINT64_MAX) /* since Linux 5.14 */
		assert_true(counter("exits") >= 3);
	destroy();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_probe),
		cmocka_unit_test(test_state_round_trip),
		cmocka_unit_test(test_reset_waits),
		cmocka_unit_test(test_kick_is_sticky),
		cmocka_unit_test(test_port_access_completes),
		cmocka_unit_test(test_message_wakes),
		cmocka_unit_test(test_tsc_follows_clock),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_nothing_stays_behind),
		cmocka_unit_test(test_debug_points),
		cmocka_unit_test(test_translate),
		cmocka_unit_test(test_dirty_log),
		cmocka_unit_test(test_counters),
	};
	char why[256] = "";
	int fd, failed;

	if (host_linux_create(&host))
		return 1;
	fd = kvm_open(why, sizeof(why));
	have_kvm = fd >= 0;
	if (have_kvm)
		close(fd);
	else
		fprintf(stderr, "# KVM IS NOT TESTED HERE: %s\n", why);
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	host_linux_destroy(&host);
	return failed;
}
