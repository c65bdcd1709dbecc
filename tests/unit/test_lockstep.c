/*
 * test_lockstep.c - random programs by the interpreter and by the translator, whose
 * states must be the same whenever both have executed the same number of
 * instructions; then their memories.
 *
 * A program is 512 slots of 16 bytes, each with a random instruction, at CPL 3.
 * Branches end anywhere. Whatever faults is skipped by a handler that goes on at the
 * next slot, with some registers pointing into the data again; it never ends, but the
 * test does. LOCKSTEP_SEED and LOCKSTEP_PROGRAMS in the environment look closer.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "compare.h"
#include "cpu/decode.h"
#include "cpu/xstate.h"
#include "diff_gen.h"
#include "flat.h"
#include "host/sim/sim.h"

#include <stdio.h>
#include <stdlib.h>

#define PROGRAMS   100
#define INSNS      20000u
#define SLICE_MAX  300
#define SLOTS      512u
#define SLOT_BYTES 16u

/* Guest-physical: where the windows that instructions are aimed at are, and the rest. */
#define RAM_DATA  0x400000u
#define RAM_CODE  0x600000u
#define PD        0x3000u
#define GDT       0x5000u
#define TSS       0x6000u
#define HANDLER   0x7000u
#define STACK     0x30000u
#define KERNEL_CS 8
#define USER_SS   0x1b
#define USER_CS   0x23

/* Where the data is seen as well, at pages that want the same slots of the TLB. */
#define ALIASES   2
#define ALIAS_GAP ((uint32_t)TLB_ENTRIES * PAGE_SIZE)

/* On at the next slot, its flags harmless, registers aimed again. */
GUEST(go_on, "push %rax\n"
	     "mov 8(%rsp), %rax\n"
	     "add $16, %rax\n"
	     "and $0x1ff0, %eax\n"
	     "or $0x20000000, %eax\n"
	     "mov %rax, 8(%rsp)\n"
	     "pop %rax\n"
	     "andl $0xcd7, 16(%rsp)\n"
	     "orl $2, 16(%rsp)\n"
	     "mov $0x10000800, %ebx\n"
	     "mov $0x10000a08, %esi\n"
	     "mov $0x14000c13, %edi\n"
	     "mov $0x18001000, %r8d\n"
	     "mov $0x10000ff9, %r11d\n"
	     "mov $0x10000540, %r15d\n"
	     "movl $0x10001800, 24(%rsp)\n"
	     "movl $0, 28(%rsp)\n"
	     "mov $7, %ecx\n"
	     "iretq\n");

enum { INTERP, SOFT, SIDES };

static struct host host;
static struct flat *side[SIDES];
static struct form_list forms;

/* They store where the last x87 instruction was, which the translator does not tell. */
static bool tells_pointers(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_FNSTENV:
	case ZYDIS_MNEMONIC_FNSAVE:
	case ZYDIS_MNEMONIC_FXSAVE:
	case ZYDIS_MNEMONIC_FXSAVE64:
	case ZYDIS_MNEMONIC_XSAVE:
	case ZYDIS_MNEMONIC_XSAVE64:
	case ZYDIS_MNEMONIC_XSAVEOPT:
	case ZYDIS_MNEMONIC_XSAVEOPT64:
		return true;
	default:
		return false;
	}
}

/* With a random count they go on for hours. */
static bool repeats(const struct form *f)
{
	return f->encoding == FORM_LEGACY && f->map == 0 && f->opcode >= 0xa4 &&
	       f->opcode <= 0xaf && f->prefix;
}

/* --- two machines on one thread ------------------------------------------------------------- */

static struct {
	const struct host_ops *real;
	struct host_ops ops;
	struct {
		bool (*fn)(struct host_fault *f, void *arg);
		void *arg;
	} handler[SIDES];
	unsigned nr_handlers;
} shared;

static bool shared_fault(struct host_fault *f, void *arg)
{
	for (unsigned i = 0; i < shared.nr_handlers; i++)
		if (shared.handler[i].fn(f, shared.handler[i].arg))
			return true;
	return false;
}

static int shared_fault_handler(void *ctx, bool (*fn)(struct host_fault *f, void *arg), void *arg)
{
	if (!fn) {
		shared.nr_handlers = 0;
		return shared.real->fault_handler(ctx, NULL, NULL);
	}
	assert_true(shared.nr_handlers < SIDES);
	shared.handler[shared.nr_handlers].fn = fn;
	shared.handler[shared.nr_handlers++].arg = arg;
	return shared.real->fault_handler(ctx, shared_fault, NULL);
}

static void share_faults(void)
{
	shared.real = host.ops;
	shared.ops = *host.ops;
	shared.ops.fault_handler = shared_fault_handler;
	host.ops = &shared.ops;
}

/* --- the machines ------------------------------------------------------------------------ */

static bool has_error_code(unsigned vector)
{
	return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17;
}

static void put_jump(uint8_t *ram, uint32_t at, uint32_t to)
{
	ram[at] = 0xe9;
	store_u32(ram + at + 1, to - (at + 5));
}

static void put_handlers(uint8_t *ram)
{
	static const uint8_t drop_error[] = { 0x48, 0x83, 0xc4, 0x08 };

	memcpy(ram + HANDLER, go_on, (size_t)(go_on_end - go_on));
	for (unsigned v = 0; v < 32; v++) {
		uint32_t at = FLAT_TRAP + 16 * v;

		if (has_error_code(v)) {
			memcpy(ram + at, drop_error, sizeof(drop_error));
			at += sizeof(drop_error);
		}
		put_jump(ram, at, HANDLER);
	}
}

static void put_tables(uint8_t *ram)
{
	store_u64(ram + GDT + 0x18, 0x00cff3000000ffffull);
	store_u64(ram + GDT + 0x20, 0x00affb000000ffffull);
	memset(ram + TSS, 0, 0x68);
	store_u64(ram + TSS + 4, STACK);
	for (unsigned i = 0; i < 512; i++) /* programs are not to store into page tables */
		ram[PD + i * 8] &= (uint8_t)~4;
	for (unsigned i = 0; i <= ALIASES; i++)
		store_u64(ram + PD + ((DIFF_DATA + i * ALIAS_GAP) >> 21) * 8, RAM_DATA | 0x87);
	store_u64(ram + PD + (DIFF_CODE >> 21) * 8, RAM_CODE | 0x87);
}

static void start(struct flat *f, const uint8_t *code, const uint8_t *data,
		  const struct diff_state *in)
{
	struct cpu_state *s = &f->before;

	memset(f->ram, 0, FLAT_RAM);
	flat_reset(f, MODE_64);
	put_handlers(f->ram);
	put_tables(f->ram);
	for (unsigned i = 0; i < 512; i++) /* accessed and dirty: see the tests of paging */
		f->ram[PD + i * 8] |= 0x60;
	f->ram[0x1000] |= 0x20;
	f->ram[0x2000] |= 0x20;
	memcpy(f->ram + RAM_CODE, code, SLOTS * SLOT_BYTES);
	memcpy(f->ram + RAM_DATA, data, DIFF_DATA_SIZE);
	f->vm->engine->code_changed(f->vm, 0, FLAT_RAM);

	memcpy(s->gpr, in->gpr, sizeof(s->gpr));
	memcpy(s->xsave, in->xsave, sizeof(s->xsave));
	s->rflags = in->rflags;
	s->rip = DIFF_CODE;
	s->seg[SEG_CS] = (struct segment){ USER_CS, 0xa0fb, UINT32_MAX, 0 };
	s->seg[SEG_SS] = (struct segment){ USER_SS, 0xc0f3, UINT32_MAX, 0 };
	s->tr = (struct segment){ 0x40, 0x8b, 0x67, TSS };
	s->gdtr.limit = 0x27;
	s->xcr0 = diff_xcr0();
	if (s->xcr0 & XCR0_AVX)
		s->cr4 |= CR4_OSXSAVE;
	f->cpu->insns_pause = f->cpu->insns;
	f->vm->engine->set_state(f->vcpu, s);
}

static uint64_t noise = 1;

static unsigned draw(unsigned n)
{
	noise = noise * 6364136223846793005ull + 1442695040888963407ull;
	return (unsigned)((noise >> 33) % n);
}

/* @n more instructions; false: it ended by HLT or a triple fault. */
static bool run(struct flat *f, unsigned n, struct cpu_state *s)
{
	struct vcpu_exit x;

	f->cpu->insns_pause += n;
	do {
		x = (struct vcpu_exit){ .reason = EXIT_KICK };
		assert_int_equal(f->vm->engine->run(f->vcpu, &x), 0);
		x.io.data = UINT64_MAX;
	} while (x.reason != EXIT_RESET && x.reason != EXIT_HALT &&
		 f->cpu->insns < f->cpu->insns_pause);
	f->vm->engine->get_state(f->vcpu, s);
	memset(s->xsave + 6, 0, 18); /* FOP, FIP, FDP */
	memset(s->xsave + 28, 0, 4); /* the mask of MXCSR, which is no state */
	return x.reason != EXIT_RESET && x.reason != EXIT_HALT;
}

/* --- programs ------------------------------------------------------------------------------ */

static void make_program(uint8_t *code, struct diff_state *in)
{
	static struct diff_case t;

	memset(code, 0x90, SLOTS * SLOT_BYTES);
	for (unsigned i = 0; i + 1 < SLOTS; i++) {
		const struct form *f;

		do
			f = &forms.form[draw(forms.nr_forms)];
		while (tells_pointers(f->mnemonic) || repeats(f) ||
		       (f->encoding != FORM_LEGACY && draw(4))); /* those are interpreted anyway */
		case_make(&t, f, DIFF_CODE + i * SLOT_BYTES);
		memcpy(code + i * SLOT_BYTES, t.code, t.len);
		if (!i)
			*in = t.in;
	}
	put_jump(code, (SLOTS - 1) * SLOT_BYTES, 0);
}

static void show_insn(struct flat *f)
{
	uint64_t rip = f->cpu->s.rip;
	ZydisDisassembledInstruction d;
	uint8_t code[INSN_BYTES_MAX] = { 0 };

	vmm_read_gva(f->vm, 0, rip, code, sizeof(code));
	if (!ZYAN_SUCCESS(
		    ZydisDisassembleIntel(ZYDIS_MACHINE_MODE_LONG_64, rip, code, sizeof(code), &d)))
		printf("  %llx ?\n", (unsigned long long)rip);
	else if (d.info.mnemonic != ZYDIS_MNEMONIC_NOP)
		printf("  %llx %s\n", (unsigned long long)rip, d.text);
}

static bool same_memory(bool show)
{
	if (!memcmp(side[INTERP]->ram, side[SOFT]->ram, FLAT_RAM))
		return true;
	for (uint32_t at = 0; show && at < FLAT_RAM; at += 8) {
		unsigned long long a = load_u64(side[INTERP]->ram + at),
				   b = load_u64(side[SOFT]->ram + at);

		if (a != b)
			printf("  [%#x]  interp %#llx, soft %#llx\n", at, a, b);
	}
	return false;
}

struct program {
	uint8_t code[SLOTS * SLOT_BYTES], data[DIFF_DATA_SIZE];
	struct diff_state in;
	uint64_t noise; /* from which slices are drawn */
};

static struct cpu_state at_stop[SIDES];

/*
 * Plays @p for @slices slices, the last of them @last instructions long if that is not
 * 0, or to its end. True: no difference; *slices and *last say where it was.
 */
static bool play(const struct program *p, unsigned *slices, unsigned *last)
{
	unsigned limit = *slices, done = 0, i;
	bool go = true;

	noise = p->noise;
	for (i = 0; i < SIDES; i++)
		start(side[i], p->code, p->data, &p->in);
	for (*slices = 0; go && done < INSNS && *slices < limit;) {
		unsigned n = 1 + draw(SLICE_MAX);

		if (++*slices == limit && *last)
			n = *last;
		done += n;
		for (i = 0; i < SIDES; i++)
			go &= run(side[i], n, &at_stop[i]);
		if (state_hash(&at_stop[INTERP], COMPARE_ALL) !=
		    state_hash(&at_stop[SOFT], COMPARE_ALL)) {
			*last = n;
			return false;
		}
	}
	return same_memory(false);
}

/* The smallest number of instructions after the slice before that makes a difference. */
static void explain(const struct program *p, unsigned slices, unsigned last)
{
	unsigned lo = 0, hi = last, at, n;

	while (hi - lo > 1) {
		n = (lo + hi) / 2;
		at = slices;
		if (play(p, &at, &n))
			lo = (lo + hi) / 2;
		else
			hi = (lo + hi) / 2;
	}
	printf("%u instructions after stop %u:\n", hi, slices - 1);
	at = slices - 1;
	n = 0;
	if (at)
		play(p, &at, &n);
	else
		start(side[INTERP], p->code, p->data, &p->in);
	for (n = 0; n < hi; n++) {
		if (n + 40 >= hi)
			show_insn(side[INTERP]);
		run(side[INTERP], 1, &at_stop[INTERP]);
	}
	n = hi;
	at = slices;
	play(p, &at, &n);
	state_show(&at_stop[INTERP], &at_stop[SOFT], "interp", "soft");
	same_memory(true);
}

static bool run_program(unsigned number)
{
	static struct program p;
	unsigned slices = UINT32_MAX, last = 0;

	make_program(p.code, &p.in);
	data_make(p.data, sizeof(p.data));
	p.noise = noise;
	if (play(&p, &slices, &last))
		return true;
	printf("program %u: ", number);
	explain(&p, slices, last ? last : SLICE_MAX);
	return false;
}

static unsigned setting(const char *name, unsigned otherwise)
{
	const char *v = getenv(name);

	return v ? (unsigned)strtoul(v, NULL, 0) : otherwise;
}

/* Inside the test: cmocka takes over the signals that the host needs. */
static void set_up(void)
{
	host = sim_create(NULL);
	share_faults();
	side[INTERP] = flat_create_on(&engine_interp, &host, 1, CLOCK_ICOUNT);
	side[SOFT] = flat_create_on(&engine_soft, &host, 1, CLOCK_ICOUNT);
	forms_find(&forms, false, NULL);
}

static void tear_down(void)
{
	forms_free(&forms);
	flat_destroy(side[SOFT]);
	flat_destroy(side[INTERP]);
	host.ops = shared.real;
	assert_int_equal(sim_destroy(&host), 0);
}

static void test_random_programs(void **state)
{
	unsigned programs = setting("LOCKSTEP_PROGRAMS", PROGRAMS), parted = 0;

	set_up();
	for (unsigned i = 0; i < programs && parted < 5; i++) {
		noise = setting("LOCKSTEP_SEED", 1) + i;
		random_seed(noise);
		parted += !run_program((unsigned)noise);
	}
	tear_down();
	assert_int_equal(parted, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_random_programs) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
