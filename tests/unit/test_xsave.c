/*
 * test_xsave.c - XSAVE, XSAVEOPT and XRSTOR: what the host's processor makes of
 * random states and masks, and what both executors make of them; and what faults.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "cpu/xstate.h"
#include "flat.h"
#include "host/sim/sim.h"

#define AREA_BYTES 2688
#define ROUNDS     3000

static struct host host;
static struct flat *f;
static uint64_t offered;

static int setup(void **state)
{
	host = sim_create(NULL);
	return 0;
}

static int teardown(void **state)
{
	return (int)sim_destroy(&host);
}

/* --- random states ---------------------------------------------------------------------- */

static uint64_t seed = 1;

static uint64_t random_u64(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	return seed ^= seed << 17;
}

static bool one_in(unsigned n)
{
	return (random_u64() >> 20) % n == 0;
}

struct area {
	uint8_t bytes[AREA_BYTES] __attribute__((aligned(64)));
};

static const struct {
	unsigned bit, at, bytes;
} parts[] = { { 1, 160, 256 },
	      { 2, XSAVE_YMM, 256 },
	      { 5, XSAVE_OPMASK, 64 },
	      { 6, XSAVE_ZMM_HI256, 512 },
	      { 7, XSAVE_HI16_ZMM, 1024 } };

static void random_fill(uint8_t *p, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i += 8)
		store_u64(p + i, random_u64());
}

/* A state of every component, some of them initial. */
static void random_state(struct area *a)
{
	struct fx_image *fx = (struct fx_image *)(void *)a;

	memset(a, 0, sizeof(*a));
	fx->cw = X87_CW_RESET;
	fx->mxcsr = MXCSR_RESET;
	if (one_in(2)) {
		fx->cw = (uint16_t)(0x7f | (random_u64() & 0xf00));
		fx->sw = (uint16_t)(random_u64() & 0x7f00 & ~0x80u);
		fx->tags = (uint8_t)random_u64();
		for (unsigned i = 0; i < 8; i++)
			random_fill(fx->st[i], 8);
		fx->mxcsr |= (uint32_t)(random_u64() & 0xe03f);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(parts); i++)
		if ((offered & BIT(parts[i].bit)) && !one_in(3))
			random_fill(a->bytes + parts[i].at, parts[i].bytes);
	store_u64(a->bytes + XSAVE_HEADER, offered);
}

/* What memory can have and no processor stores. */
static void random_x87(struct area *a)
{
	struct fx_image *fx = (struct fx_image *)(void *)a;

	fx->cw = (uint16_t)random_u64();
	fx->sw = (uint16_t)random_u64();
	if (one_in(2))
		return;
	fx->reserved = (uint8_t)random_u64();
	fx->opcode = (uint16_t)random_u64();
	for (unsigned i = 0; i < 8; i++)
		random_fill(fx->st[i], 16);
}

/* --- the host's ---------------------------------------------------------------------------- */

enum kind { SAVE, SAVE_OPT, RESTORE, KINDS };

struct host_run {
	const struct area *state; /* before */
	struct area *mem;         /* the operand */
	struct area *after;       /* all of the state, after */
	uint64_t all, mask;
	struct area *kept; /* the test's own */
};

#define HOST_RUN(name, insn)                                                                       \
	static void name(struct host_run *r)                                                       \
	{                                                                                          \
		__asm__ volatile("mov 24(%0), %%rax; mov %%rax, %%rdx; shr $32, %%rdx\n"           \
				 "mov 40(%0), %%rcx; xsave64 (%%rcx)\n"                            \
				 "mov (%0), %%rcx; xrstor64 (%%rcx)\n"                             \
				 "mov 32(%0), %%rax; mov %%rax, %%rdx; shr $32, %%rdx\n"           \
				 "mov 8(%0), %%rcx; " insn " (%%rcx)\n"                            \
				 "mov 24(%0), %%rax; mov %%rax, %%rdx; shr $32, %%rdx\n"           \
				 "mov 16(%0), %%rcx; xsave64 (%%rcx)\n"                            \
				 "mov 40(%0), %%rcx; xrstor64 (%%rcx)\n"                           \
				 :                                                                 \
				 : "r"(r)                                                          \
				 : "rax", "rcx", "rdx", "memory");                                 \
	}
HOST_RUN(host_save, "xsave64")
HOST_RUN(host_save_opt, "xsaveopt64")
HOST_RUN(host_restore, "xrstor64")

static void run_on_host(enum kind kind, const struct area *state, struct area *mem,
			struct area *after, uint64_t mask)
{
	static struct area kept;
	struct host_run r = { state, mem, after, offered, mask, &kept };
	static void (*const run[KINDS])(struct host_run *) = { host_save, host_save_opt,
							       host_restore };

	memset(&kept, 0, sizeof(kept));
	memset(after, 0, sizeof(*after));
	run[kind](&r);
}

/* --- the guest's ----------------------------------------------------------------------------- */

GUEST(code_save, "xsave64 0x200000; hlt");
GUEST(code_save_opt, "xsaveopt64 0x200000; hlt");
GUEST(code_restore, "xrstor64 0x200000; hlt");

/* Translated code has the vectors in registers, before and after. */
GUEST(code_save_live, "movaps %xmm0, %xmm0; xsave64 0x200000; movaps %xmm0, %xmm0; hlt");
GUEST(code_save_opt_live, "movaps %xmm0, %xmm0; xsaveopt64 0x200000; movaps %xmm0, %xmm0; hlt");
GUEST(code_restore_live, "movaps %xmm0, %xmm0; xrstor64 0x200000; movaps %xmm0, %xmm0; hlt");

static const uint8_t *const code[2][KINDS][2] = {
	{ { code_save, code_save_end },
	  { code_save_opt, code_save_opt_end },
	  { code_restore, code_restore_end } },
	{ { code_save_live, code_save_live_end },
	  { code_save_opt_live, code_save_opt_live_end },
	  { code_restore_live, code_restore_live_end } },
};

static void start(enum cpu_mode mode)
{
	struct cpu_state s;

	flat_reset(f, mode);
	f->vm->engine->get_state(f->vcpu, &s);
	s.cr4 |= CR4_OSXSAVE | CR4_OSFXSR | CR4_OSXMMEXCPT;
	s.cr0 |= CR0_NE;
	s.xcr0 = offered;
	f->vm->engine->set_state(f->vcpu, &s);
}

static void set_mask(uint64_t mask)
{
	f->cpu->s.gpr[RAX] = (uint32_t)mask;
	f->cpu->s.gpr[RDX] = mask >> 32;
}

/* XSTATE_BV is ours: any bit may be set, as long as those of what is in use are. */
static void run_on_guest(enum kind kind, const struct area *state, struct area *mem,
			 struct area *after, uint64_t mask)
{
	const uint8_t *const *insns = code[one_in(2)][kind];

	start(MODE_64);
	set_mask(mask);
	memcpy(f->cpu->s.xsave, state, AREA_BYTES);
	if (one_in(2))
		*xstate_bv(&f->cpu->s) = (uint8_t)xstate_in_use(f->cpu);
	memcpy(f->ram + FLAT_DATA, mem, AREA_BYTES);
	flat_load(f, insns[0], insns[1]);
	flat_run(f);
	assert_int_equal(f->vector, -1);
	memcpy(mem, f->ram + FLAT_DATA, AREA_BYTES);
	memcpy(after, f->cpu->s.xsave, AREA_BYTES);
}

/* --- comparing them --------------------------------------------------------------------------- */

/*
 * Whether a component is tracked as in its initial state is up to the processor; so
 * what it says is in use counts only where something is.
 */
static void same_header(const struct area *a, const struct area *b, const struct area *before,
			const struct area *state, uint64_t mask)
{
	uint64_t ha = load_u64(a->bytes + XSAVE_HEADER), hb = load_u64(b->bytes + XSAVE_HEADER);

	assert_int_equal((ha ^ hb) & ~mask, 0);
	for (unsigned i = 0; i < ARRAY_SIZE(parts); i++) {
		bool any = false;

		for (unsigned j = 0; j < parts[i].bytes; j++)
			any |= state->bytes[parts[i].at + j];
		if (any && (mask & BIT(parts[i].bit)))
			assert_true(ha & hb & BIT(parts[i].bit));
		if (!any && (mask & BIT(parts[i].bit)))
			assert_false(hb & BIT(parts[i].bit));
	}
	assert_memory_equal(b->bytes + XSAVE_HEADER + 8, before->bytes + XSAVE_HEADER + 8, 56);
}

/* Where only one of them took a component for initial, what is left of memory differs. */
static void same_saved(struct area *native, struct area *guest, const struct area *before,
		       uint64_t mask, enum kind kind)
{
	uint64_t only_native = mask & load_u64(native->bytes + XSAVE_HEADER) &
			       ~load_u64(guest->bytes + XSAVE_HEADER);

	for (unsigned i = 0; i < ARRAY_SIZE(parts) && kind == SAVE_OPT; i++)
		if (only_native & BIT(parts[i].bit))
			memcpy(native->bytes + parts[i].at, before->bytes + parts[i].at,
			       parts[i].bytes);
	if (kind == SAVE_OPT && (only_native & XCR0_X87)) {
		memcpy(native->bytes, before->bytes, 24);
		memcpy(native->bytes + 32, before->bytes + 32, 128);
	}
	memcpy(native->bytes + XSAVE_HEADER, guest->bytes + XSAVE_HEADER, 64);
	assert_memory_equal(native->bytes, guest->bytes, AREA_BYTES);
}

static void same_state(struct area *native, struct area *guest)
{
	memcpy(native->bytes + XSAVE_HEADER, guest->bytes + XSAVE_HEADER, 64);
	memcpy(native->bytes + 416, guest->bytes + 416, 96);
	memcpy(native->bytes + 28, guest->bytes + 28, 4); /* the mask of MXCSR */
	assert_memory_equal(native->bytes, guest->bytes, AREA_BYTES);
}

static void one_round(enum kind kind)
{
	static struct area state, before, native, guest, native_after, guest_after;
	uint64_t mask = random_u64() & (one_in(2) ? UINT64_MAX : 0xff), rfbm = mask & offered;

	random_state(&state);
	if (kind == RESTORE) {
		random_state(&before);
		if (one_in(3))
			random_x87(&before);
		store_u64(before.bytes + XSAVE_HEADER, random_u64() & offered);
	} else {
		random_fill(before.bytes, AREA_BYTES);
	}
	native = guest = before;
	run_on_host(kind, &state, &native, &native_after, mask);
	run_on_guest(kind, &state, &guest, &guest_after, mask);
	if (kind == RESTORE) {
		assert_memory_equal(&guest, &before, AREA_BYTES);
	} else {
		same_header(&native, &guest, &before, &state, rfbm);
		same_saved(&native, &guest, &before, rfbm, kind);
	}
	same_state(&native_after, &guest_after);
}

static bool prepare_on(const struct engine_ops *engine)
{
	f = flat_create_on(engine, &host, 1, CLOCK_HOST);
	offered = cpuid_xcr0(&f->vm->cpuid);
	return offered & XCR0_SSE;
}

static bool prepare(void)
{
	return prepare_on(&engine_interp);
}

static void like_the_host(const struct engine_ops *engine)
{
	if (prepare_on(engine))
		for (unsigned i = 0; i < ROUNDS; i++)
			if (i % KINDS != SAVE_OPT || cpu_has(&f->vm->cpuid, CPU_XSAVEOPT))
				one_round(i % KINDS);
	flat_destroy(f);
}

static void test_interpreted(void **state)
{
	like_the_host(&engine_interp);
}

static void test_translated(void **state)
{
	like_the_host(&engine_soft);
}

/* --- what faults -------------------------------------------------------------------------------
 */

GUEST(code_odd, "xsave64 0x200020; hlt");
GUEST(code_xsavec, "xsavec64 0x200000; hlt");
GUEST(code_unmapped, "mov $0x3fffffc0, %ebx; xsave64 (%rbx); hlt");

static int vector_of(const uint8_t *from, const uint8_t *end)
{
	set_mask(offered);
	flat_load(f, from, end);
	flat_run(f);
	return f->vector;
}
#define VECTOR(name) vector_of(name, name##_end)

static void poke(unsigned at, uint8_t byte)
{
	start(MODE_64);
	memset(f->ram + FLAT_DATA, 0, AREA_BYTES);
	f->ram[FLAT_DATA + at] = byte;
}

static void test_faults(void **state)
{
	if (!prepare()) {
		flat_destroy(f);
		return;
	}
	flat_reset(f, MODE_64);
	assert_int_equal(VECTOR(code_save), EXC_UD); /* CR4.OSXSAVE */
	start(MODE_64);
	f->cpu->s.cr0 |= CR0_TS;
	assert_int_equal(VECTOR(code_save), EXC_NM);
	start(MODE_64);
	assert_int_equal(VECTOR(code_odd), EXC_GP);
	start(MODE_64);
	assert_int_equal(VECTOR(code_xsavec), EXC_UD);

	poke(0, 0);
	assert_int_equal(VECTOR(code_restore), -1);
	assert_int_equal(xstate_fx(&f->cpu->s)->cw, X87_CW_RESET);
	assert_int_equal(xstate_fx(&f->cpu->s)->mxcsr, 0); /* always from memory */
	poke(XSAVE_HEADER + 1, 1);                         /* XSTATE_BV: beyond XCR0 */
	assert_int_equal(VECTOR(code_restore), EXC_GP);
	poke(XSAVE_HEADER + 15, 0x80); /* XCOMP_BV: compacted */
	assert_int_equal(VECTOR(code_restore), EXC_GP);
	poke(XSAVE_HEADER + 16, 1);
	assert_int_equal(VECTOR(code_restore), EXC_GP);
	poke(26, 1); /* MXCSR */
	assert_int_equal(VECTOR(code_restore), EXC_GP);
	flat_destroy(f);
}

/* What does not fit in the page that is there is not stored in part. */
static void test_all_or_nothing(void **state)
{
	uint8_t *pd_entry;

	if (!prepare()) {
		flat_destroy(f);
		return;
	}
	start(MODE_64);
	pd_entry = f->ram + 0x3000 + 512 * 8 - 8; /* of the 2 MiB below 1 GiB */
	store_u64(pd_entry, 0x800000 | 0x87);
	memset(f->ram + 0x800000 + 0x1ff000, 0, 4096);
	/* The last 64 bytes below 1 GiB; beyond is nothing. */
	assert_int_equal(VECTOR(code_unmapped), EXC_PF);
	assert_true(f->cpu->s.cr2 >= 0x40000000);
	for (unsigned i = 0; i < 64; i++)
		assert_int_equal(f->ram[0x800000 + 0x1fffc0 + i], 0);
	flat_destroy(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_interpreted),
		cmocka_unit_test(test_translated),
		cmocka_unit_test(test_faults),
		cmocka_unit_test(test_all_or_nothing),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
