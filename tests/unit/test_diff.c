/*
 * test_diff.c - does the software engine execute instructions as processors do?
 *
 * Every form of every computational instruction that this host has is executed
 * with random registers, operands and states, by the host's processor, by the
 * interpreter and by the translator. Registers, flags, x87 and vector state,
 * memory, the kind of exception, its error code and address must be the same.
 *
 * DIFF_SEED, DIFF_CASES (a form) and DIFF_ONLY (a mnemonic) in the environment
 * look closer.
 */
#include "diff_gen.h"

#include "core/engine.h"
#include "cpu/xstate.h"
#include "host/sim/sim.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#define CASES_A_FORM 16
#define SHOWN_MAX    40 /* mnemonics, one difference each */
#define TIME_LIMIT_S 600

static unsigned setting(const char *name, unsigned otherwise)
{
	const char *v = getenv(name);

	return v ? (unsigned)strtoul(v, NULL, 0) : otherwise;
}

/* --- comparing ----------------------------------------------------------------------- */

/* Where the last x87 instruction and its operand were: the translator does not tell. */
static bool same_pointers(const struct fx_image *a, const struct fx_image *b)
{
	return (a->opcode == b->opcode && a->ip == b->ip && a->dp == b->dp) ||
	       (guest_hides_pointers() && !b->opcode && !b->ip && !b->dp);
}

static bool same_fx(const struct fx_image *a, const struct fx_image *b)
{
	for (unsigned i = 0; i < 8; i++)
		if (memcmp(a->st[i], b->st[i], 10))
			return false;
	return a->cw == b->cw && a->sw == b->sw && a->tags == b->tags && same_pointers(a, b) &&
	       a->mxcsr == b->mxcsr && !memcmp(a->xmm, b->xmm, sizeof(a->xmm));
}

struct decoded_case {
	ZydisDecodedInstruction insn;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
};

static bool decode_case(const struct diff_case *t, struct decoded_case *d)
{
	ZydisDecoder decoder;

	if (t->compat)
		ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_COMPAT_32, ZYDIS_STACK_WIDTH_32);
	else
		ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, t->code, t->len, &d->insn, d->op));
}

/*
 * Not RF in a frame and ID, which are as the child's kernel likes, nor what the
 * manual leaves undefined.
 */
static uint64_t flags_compared(const struct diff_case *t)
{
	uint64_t mask = ~(uint64_t)(RFLAGS_RF | RFLAGS_ID);
	struct decoded_case d;

	if (decode_case(t, &d) && d.insn.cpu_flags)
		mask &= ~(uint64_t)d.insn.cpu_flags->undefined;
	return mask;
}

static bool is_mmx(const struct diff_case *t)
{
	struct decoded_case d;

	if (!decode_case(t, &d))
		return false;
	for (unsigned i = 0; i < d.insn.operand_count; i++)
		if (d.op[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    ZydisRegisterGetClass(d.op[i].reg.value) == ZYDIS_REGCLASS_MMX)
			return true;
	return false;
}

static bool is_mnemonic(const struct diff_case *t, ZydisMnemonic m)
{
	struct decoded_case d;

	return decode_case(t, &d) && d.insn.mnemonic == m;
}

/*
 * Processors access these operands piece by piece, in an order of their own:
 * which piece faults, and what was stored before it, is not architectural.
 */
static bool is_piecewise(const struct diff_case *t)
{
	struct decoded_case d;

	if (!decode_case(t, &d))
		return false;
	if (d.insn.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY)
		return true; /* often masked */
	if (d.insn.meta.category == ZYDIS_CATEGORY_XSAVE ||
	    d.insn.meta.category == ZYDIS_CATEGORY_XSAVEOPT)
		return true;
	switch (d.insn.mnemonic) {
	case ZYDIS_MNEMONIC_FBSTP:
	case ZYDIS_MNEMONIC_FLDENV:
	case ZYDIS_MNEMONIC_FNSAVE:
	case ZYDIS_MNEMONIC_FNSTENV:
	case ZYDIS_MNEMONIC_FRSTOR:
	case ZYDIS_MNEMONIC_FSTP:
	case ZYDIS_MNEMONIC_FXRSTOR:
	case ZYDIS_MNEMONIC_FXRSTOR64:
	case ZYDIS_MNEMONIC_FXSAVE:
	case ZYDIS_MNEMONIC_FXSAVE64:
	case ZYDIS_MNEMONIC_MASKMOVDQU:
	case ZYDIS_MNEMONIC_MASKMOVQ:
	case ZYDIS_MNEMONIC_VMASKMOVDQU:
		return true;
	default:
		return false;
	}
}

static bool same_fault(const struct diff_case *t, const struct diff_outcome *a,
		       const struct diff_outcome *b)
{
	if (a->vector != b->vector)
		return false;
	if (a->vector == 14 && is_piecewise(t))
		return (a->error & 2) == (b->error & 2);
	/* P of the upper half tells of the child's kernel. */
	if (a->vector == 14)
		return a->cr2 == b->cr2 &&
		       !((a->error ^ b->error) & (a->cr2 >> 63 ? ~(uint32_t)1 : ~0u));
	return a->vector != 13 || a->error == b->error;
}

static bool same_data(const struct diff_case *t, const struct diff_outcome *a,
		      const struct diff_outcome *b)
{
	return !memcmp(a->data, b->data, sizeof(a->data)) || (a->vector == 14 && is_piecewise(t));
}

/* What is restored before a fault is up to the processor. */
static bool restores_partly(const struct diff_case *t, const struct diff_outcome *a)
{
	return a->vector != DIFF_BREAK &&
	       (is_mnemonic(t, ZYDIS_MNEMONIC_XRSTOR) || is_mnemonic(t, ZYDIS_MNEMONIC_XRSTOR64));
}

static bool same_vectors(const struct diff_state *a, const struct diff_state *b)
{
	if ((diff_xcr0() & XCR0_AVX) && memcmp(a->xsave + XSAVE_YMM, b->xsave + XSAVE_YMM, 256))
		return false;
	return !(diff_xcr0() & XCR0_OPMASK) ||
	       !memcmp(a->xsave + XSAVE_OPMASK, b->xsave + XSAVE_OPMASK, 64 + 512 + 1024);
}

/*
 * A faulting MMX instruction may have turned the x87 to MMX already: then both
 * sides are compared as if it had.
 */
static bool same_x87(const struct diff_case *t, const struct diff_outcome *a,
		     const struct diff_outcome *b)
{
	struct fx_image fa, fb;

	memcpy(&fa, a->out.xsave, sizeof(fa));
	memcpy(&fb, b->out.xsave, sizeof(fb));
	if (a->vector != DIFF_BREAK && is_mmx(t)) {
		xstate_enter_mmx(&fa);
		xstate_enter_mmx(&fb);
	}
	/* Its flags are set before its store faults. */
	if (a->vector != DIFF_BREAK && is_mnemonic(t, ZYDIS_MNEMONIC_VCVTPS2PH))
		fa.mxcsr = fb.mxcsr;
	return same_fx(&fa, &fb);
}

static bool is_popa(const struct diff_case *t)
{
	return is_mnemonic(t, ZYDIS_MNEMONIC_POPA) || is_mnemonic(t, ZYDIS_MNEMONIC_POPAD);
}

/*
 * Upper halves are undefined outside 64-bit mode, and R8 to R15 do not exist. When
 * one element of POPA faults some registers may have been popped.
 */
static bool same_gprs(const struct diff_case *t, const struct diff_outcome *a,
		      const struct diff_outcome *b)
{
	if (!t->compat)
		return !memcmp(a->out.gpr, b->out.gpr, sizeof(a->out.gpr));
	if (a->vector != DIFF_BREAK && is_popa(t))
		return (uint32_t)a->out.gpr[RSP] == (uint32_t)b->out.gpr[RSP];
	for (unsigned i = 0; i < 8; i++)
		if ((uint32_t)a->out.gpr[i] != (uint32_t)b->out.gpr[i])
			return false;
	return true;
}

/* Is there something of this process that is not the test's: a sanitizer's shadow? */
static bool is_occupied(uint64_t page)
{
	unsigned char resident;

	return page >= DIFF_CODE + DIFF_CODE_SIZE &&
	       !mincore((void *)(uintptr_t)page, 1, &resident);
}

static bool same(const struct diff_case *t, const struct diff_outcome *a,
		 const struct diff_outcome *b)
{
	if (a->vector != 14 && b->vector == 14 && is_occupied(b->cr2 & PAGE_MASK))
		return true; /* the child did not fault by accident */
	return same_fault(t, a, b) && same_gprs(t, a, b) && a->out.rip == b->out.rip &&
	       !((a->out.rflags ^ b->out.rflags) & flags_compared(t)) &&
	       (restores_partly(t, a) || (same_x87(t, a, b) && same_vectors(&a->out, &b->out))) &&
	       same_data(t, a, b);
}

/* --- showing a difference -------------------------------------------------------------- */

static void show_u64(const char *name, uint64_t in, uint64_t native, uint64_t guest)
{
	if (native != guest)
		printf("  %-8s in %016llx native %016llx guest %016llx\n", name,
		       (unsigned long long)in, (unsigned long long)native,
		       (unsigned long long)guest);
}

static void show_bytes(const char *name, const uint8_t *in, const uint8_t *native,
		       const uint8_t *guest, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i += 8) {
		char label[32];

		snprintf(label, sizeof(label), "%s+%x", name, i);
		show_u64(label, in ? load_u64(in + i) : 0, load_u64(native + i),
			 load_u64(guest + i));
	}
}

static void show_insn(const struct diff_case *t)
{
	ZydisFormatter formatter;
	struct decoded_case d;
	char text[128] = "?";

	ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
	if (decode_case(t, &d))
		ZydisFormatterFormatInstruction(&formatter, &d.insn, d.op,
						d.insn.operand_count_visible, text, sizeof(text),
						t->in.rip, NULL);
	for (unsigned i = 0; i < t->len; i++)
		printf("%02x ", t->code[i]);
	printf(" %s\n", text);
}

static void show(const struct diff_case *t, const struct diff_outcome *n,
		 const struct diff_outcome *g)
{
	static const char *const gpr[] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
					   "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15" };

	show_insn(t);
	show_u64("vector", 0, n->vector, g->vector);
	if (n->vector == 13 || n->vector == 14)
		show_u64("error", 0, n->error, g->error);
	if (n->vector == 14 && g->vector == 14 && (n->cr2 != g->cr2 || n->error != g->error))
		printf("  cr2 native %#llx guest %#llx\n", (unsigned long long)n->cr2,
		       (unsigned long long)g->cr2);
	for (unsigned i = 0; i < GPR_COUNT; i++)
		show_u64(gpr[i], t->in.gpr[i], n->out.gpr[i], g->out.gpr[i]);
	show_u64("rip", t->in.rip, n->out.rip, g->out.rip);
	show_u64("rflags", t->in.rflags, n->out.rflags & flags_compared(t),
		 g->out.rflags & flags_compared(t));
	show_bytes("fx", t->in.xsave, n->out.xsave, g->out.xsave, 24);
	show_bytes("st", t->in.xsave + 32, n->out.xsave + 32, g->out.xsave + 32, 128);
	show_bytes("xmm", t->in.xsave + 160, n->out.xsave + 160, g->out.xsave + 160, 256);
	show_u64("mxcsr", load_u32(t->in.xsave + 24), load_u32(n->out.xsave + 24),
		 load_u32(g->out.xsave + 24));
	if (diff_xcr0() & XCR0_AVX)
		show_bytes("ymm", t->in.xsave + XSAVE_YMM, n->out.xsave + XSAVE_YMM,
			   g->out.xsave + XSAVE_YMM, 256);
	if (diff_xcr0() & XCR0_OPMASK)
		show_bytes("zmm", t->in.xsave + XSAVE_OPMASK, n->out.xsave + XSAVE_OPMASK,
			   g->out.xsave + XSAVE_OPMASK, 1600);
	show_bytes("data", NULL, n->data, g->data, DIFF_WRITE_SIZE);
}

/* --- running ------------------------------------------------------------------------------ */

struct tally {
	unsigned cases, differences, shown;
	bool seen[ZYDIS_MNEMONIC_MAX_VALUE + 1];
};

static void note_difference(struct tally *sum, const struct diff_case *t,
			    const struct diff_outcome *n, const struct diff_outcome *g)
{
	struct decoded_case d;

	sum->differences++;
	if (!decode_case(t, &d) || sum->seen[d.insn.mnemonic] || sum->shown == SHOWN_MAX)
		return;
	sum->seen[d.insn.mnemonic] = true;
	sum->shown++;
	show(t, n, g);
}

static void make_batch(struct diff_batch *b, const struct form_list *l, unsigned first,
		       unsigned nr_cases, unsigned cases_a_form)
{
	memset(b->code, 0xcc, sizeof(b->code));
	data_make(b->data, sizeof(b->data));
	b->nr_cases = nr_cases;
	for (unsigned i = 0; i < nr_cases; i++) {
		const struct form *f = &l->form[(first + i) / cases_a_form];

		case_make(&b->cases[i], f, DIFF_CODE + i * DIFF_SLOT);
		memcpy(b->code + i * DIFF_SLOT, b->cases[i].code, b->cases[i].len);
	}
}

static void compare_batch(const struct diff_batch *b, struct tally *sum)
{
	static struct diff_outcome guest;

	guest_load(b);
	for (unsigned i = 0; i < b->nr_cases; i++) {
		guest_run(&b->cases[i], &guest);
		sum->cases++;
		if (!same(&b->cases[i], &b->outcome[i], &guest))
			note_difference(sum, &b->cases[i], &b->outcome[i], &guest);
	}
}

static void compare_forms(const struct engine_ops *engine, bool compat)
{
	struct diff_batch *b = native_start(); /* before there are threads */
	struct host host = sim_create(NULL);
	unsigned cases_a_form = setting("DIFF_CASES", CASES_A_FORM), nr_cases;
	static struct tally sum;
	struct form_list l;

	assert_non_null(b);
	assert_true(guest_start(&host, engine));
	random_seed(setting("DIFF_SEED", 1));
	memset(&sum, 0, sizeof(sum));
	forms_find(&l, compat, getenv("DIFF_ONLY"));
	nr_cases = l.nr_forms * cases_a_form;
	for (unsigned i = 0; i < nr_cases; i += DIFF_BATCH) {
		make_batch(b, &l, i, MIN(DIFF_BATCH, nr_cases - i), cases_a_form);
		assert_true(native_run());
		compare_batch(b, &sum);
	}
	print_message("%s, %s: %u instruction forms, %u cases, %u differences\n", engine->name,
		      compat ? "compatibility mode" : "64-bit mode", l.nr_forms, sum.cases,
		      sum.differences);
	forms_free(&l);
	guest_stop();
	native_stop();
	assert_int_equal(sim_destroy(&host), 0);
	assert_int_equal(sum.differences, 0);
	if (!getenv("DIFF_ONLY"))
		assert_true(l.nr_forms >= 1000);
}

static void test_long_mode(void **state)
{
	compare_forms(*state, false);
}

static void test_compatibility_mode(void **state)
{
	compare_forms(*state, true);
}

/* @test on @engine. */
#define TEST(test, engine)                                                                         \
	{                                                                                          \
#test "_" #engine, test, NULL, NULL, (void *)&engine                               \
	}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_long_mode, engine_interp),
		TEST(test_compatibility_mode, engine_interp),
		TEST(test_long_mode, engine_soft),
		TEST(test_compatibility_mode, engine_soft),
	};

	alarm(TIME_LIMIT_S);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
