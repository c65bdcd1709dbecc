/*
 * test_loops.c - random loops by the interpreter and by the translator, which looks their
 * addresses up before the body: states and memories are the same in the end.
 *
 * A loop is entered some times, each time at other addresses, and walks over windows
 * of pages that lie in no order, so that running over a page's end shows. Some of them
 * may not be written, some are not there: then the fault ends it, and has to be precise.
 * All windows show the same memory, and pages of two may want one slot of the TLB.
 * LOOPS_SEED and LOOPS in the environment look closer.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "compare.h"
#include "flat.h"
#include "host/sim/sim.h"

#include <stdio.h>
#include <stdlib.h>

#define LOOPS      3000
#define ENTRIES    6
#define PD         0x3000u
#define PT         0x4000u
#define WINDOW     0x10000000u /* GVA, */
#define WINDOWS    3u          /* with others that share its slots of the TLB */
#define WINDOW_GAP ((uint32_t)TLB_ENTRIES * PAGE_SIZE)
#define WINDOW_GPA 0x400000u
#define PAGES      64u
#define RAM_USED   (WINDOW_GPA + PAGES * PAGE_SIZE)
#define CODE_BYTES 2048

enum { INTERP, SOFT, SIDES };

static struct host host;
static struct flat *side[SIDES];
static uint64_t noise;

static unsigned draw(unsigned n)
{
	noise = noise * 6364136223846793005ull + 1442695040888963407ull;
	return (unsigned)((noise >> 33) % n);
}

#define ONE_OF(array) ((array)[draw(ARRAY_SIZE(array))])

/* --- code -------------------------------------------------------------------------------- */

static struct {
	uint8_t byte[CODE_BYTES];
	unsigned n;
} code;

static void put(unsigned bytes, uint64_t v)
{
	assert_true(code.n + bytes <= CODE_BYTES);
	memcpy(code.byte + code.n, &v, bytes);
	code.n += bytes;
}

#define PUT(bytes) put_bytes(bytes, sizeof(bytes) - 1)

static void put_bytes(const char *bytes, size_t n)
{
	for (size_t i = 0; i < n; i++)
		put(1, (uint8_t)bytes[i]);
}

static void put_rex(unsigned w, unsigned reg, unsigned index, unsigned base)
{
	put(1, 0x40 | w << 3 | (reg >> 3) << 2 | (index >> 3) << 1 | base >> 3);
}

struct memory {
	unsigned base, index, shift; /* RSP as index: none */
	int32_t disp;
};

static void put_memory(unsigned reg, const struct memory *m)
{
	put(1, 0x84 | (reg & 7) << 3);
	put(1, m->shift << 6 | (m->index & 7) << 3 | (m->base & 7));
	put(4, (uint32_t)m->disp);
}

/* [prefix] REX opcode /reg [memory] */
static void put_access(unsigned prefix, unsigned w, unsigned opcode, unsigned reg,
		       const struct memory *m)
{
	if (prefix)
		put(1, prefix);
	put_rex(w, reg, m->index, m->base);
	if (opcode > 0xff)
		put(1, opcode >> 8);
	put(1, opcode & 0xff);
	put_memory(reg, m);
}

static void put_mov_imm(unsigned reg, uint64_t v)
{
	put_rex(1, 0, 0, reg);
	put(1, 0xb8 | (reg & 7));
	put(8, v);
}

static void put_add_imm(unsigned reg, int32_t v)
{
	switch (draw(3)) {
	case 0: /* add */
		put_rex(1, 0, 0, reg);
		put(2, 0x81 | (0xc0ull | (reg & 7)) << 8);
		break;
	case 1: /* sub */
		put_rex(1, 0, 0, reg);
		put(2, 0x81 | (0xe8ull | (reg & 7)) << 8);
		v = -v;
		break;
	default: /* lea; a SIB byte is never wrong */
		put_rex(1, reg, 0, reg);
		put(1, 0x8d);
		put_memory(reg, &(struct memory){ reg, RSP, 0, v });
		return;
	}
	put(4, (uint32_t)v);
}

static void put_rip_relative(void)
{
	uint32_t to = FLAT_DATA + 16 + draw(2 * PAGE_SIZE);

	put_rex(1, 0, 0, 0);
	put(2, draw(2) ? 0x0503 : 0x0501); /* add rax, [rip + ...]; add [rip + ...], rax */
	put(4, to - (FLAT_CODE + code.n + 4));
}

static void put_random_access(const struct memory *m)
{
	switch (draw(10)) {
	case 0:
	case 1:
		return put_access(0, 1, 0x33, RAX, m); /* xor rax, [] */
	case 2:
		return put_access(0, 1, 0x03, RDX, m); /* add rdx, [] */
	case 3:
		return put_access(0, 1, 0x01, RDX, m); /* add [], rdx */
	case 4:
		return put_access(0, 0, 0x89, RAX, m); /* mov [], eax */
	case 5:
		return put_access(0, 0, 0x0fb6, RDX, m); /* movzx edx, byte [] */
	case 6:
		return put_access(0, 0, 0x88, RDX, m); /* mov [], dl */
	case 7:
		return put_access(0xf3, 0, 0x0f6f, 1, m); /* movdqu xmm1, [] */
	case 8:
		return put_access(0xf3, 0, 0x0f7f, 1, m); /* movdqu [], xmm1 */
	default:
		put_access(0x66, 0, 0x83, 0, m); /* add word [], 7 */
		put(1, 7);
	}
}

/* --- loops -------------------------------------------------------------------------------- */

#define BASES_MAX 3

struct loop {
	unsigned bases, reg[BASES_MAX + 1]; /* the last one is the index */
	int32_t step[BASES_MAX + 1];
	bool indexed;
};

static void draw_loop(struct loop *l)
{
	static const uint8_t pool[] = { RBX, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };
	static const int16_t steps[] = { 0,   1,   2,   4,    8,    16, 24, 32, 56,  100,
					 128, 384, 600, 1536, 4096, -1, -4, -8, -24, -384 };
	uint32_t taken = 0;

	l->bases = 1 + draw(BASES_MAX);
	l->indexed = draw(2);
	for (unsigned i = 0; i <= BASES_MAX; i++) {
		do
			l->reg[i] = ONE_OF(pool);
		while (taken & BIT(l->reg[i]));
		taken |= (uint32_t)BIT(l->reg[i]);
		l->step[i] = i && draw(2) ? l->step[0] : ONE_OF(steps);
	}
}

static void put_body(const struct loop *l)
{
	unsigned steps = 0, all = BIT(l->bases + 1) - 1;
	unsigned accesses = 1 + draw(7);

	if (!l->indexed)
		steps |= (unsigned)BIT(l->bases);
	while (accesses || steps != all) {
		unsigned i = draw(l->bases + 1), b = draw(l->bases);
		struct memory m = { l->reg[b], RSP, 0, (int32_t)draw(160) - 80 };

		if (steps != all && !(steps & BIT(i)) && !draw(3)) {
			put_add_imm(i == l->bases ? l->reg[BASES_MAX] : l->reg[i],
				    i == l->bases ? l->step[BASES_MAX] : l->step[i]);
			steps |= (unsigned)BIT(i);
		} else if (accesses) {
			accesses--;
			if (!draw(6)) {
				put_rip_relative();
				continue;
			}
			if (l->indexed && !draw(3)) {
				m.index = l->reg[BASES_MAX];
				m.shift = draw(4);
			}
			put_random_access(&m);
		}
	}
}

static void put_jnz(unsigned to)
{
	PUT("\x0f\x85");
	put(4, to - (code.n + 4));
}

/* Entered ENTRIES times, counted in memory. */
static void make_code(const struct loop *l)
{
	uint64_t middle = WINDOW + PAGES / 4 * PAGE_SIZE;
	unsigned outer, inner, together = draw(PAGES / 2 * PAGE_SIZE);
	bool apart = draw(2);

	code.n = 0;
	PUT("\xc7\x04\x25"); /* mov dword [FLAT_DATA], ENTRIES */
	put(4, FLAT_DATA);
	put(4, ENTRIES);
	outer = code.n;
	PUT("\x81\xe2\xff\x0f\x00\x00"); /* and edx, 4095: elsewhere each time */
	for (unsigned i = 0; i < l->bases; i++) {
		put_mov_imm(l->reg[i], middle + (uint64_t)draw(WINDOWS) * WINDOW_GAP +
					       (apart ? draw(PAGES / 2 * PAGE_SIZE) : together));
		put_rex(1, RDX, 0, l->reg[i]); /* add reg, rdx */
		put(1, 0x01);
		put(1, 0xc0 | RDX << 3 | (l->reg[i] & 7));
	}
	put_mov_imm(l->reg[BASES_MAX], draw(3) ? draw(256) : -(uint64_t)draw(4096));
	PUT("\xb9"); /* mov ecx, ... */
	put(4, 1 + draw(draw(3) ? 8 : 300));
	inner = code.n;
	put_body(l);
	if (draw(2))
		PUT("\x48\x83\xe9\x01"); /* sub rcx, 1 */
	else
		PUT("\x48\xff\xc9"); /* dec rcx */
	put_jnz(inner);
	PUT("\xff\x0c\x25"); /* dec dword [FLAT_DATA] */
	put(4, FLAT_DATA);
	put_jnz(outer);
	PUT("\xf4");
}

/* --- machines ------------------------------------------------------------------------------ */

/* Pages in no order; accessed and dirty beforehand, since a look-up may be early. */
static void draw_window(uint64_t entry[PAGES])
{
	for (unsigned i = 0; i < PAGES; i++) {
		unsigned j = draw(i + 1);

		entry[i] = entry[j];
		entry[j] = WINDOW_GPA + i * PAGE_SIZE;
	}
	for (unsigned i = 0; i < PAGES; i++)
		entry[i] |= draw(40) ? 0x67 : draw(2) ? 0x65 : 0;
}

static void start(struct flat *f, const uint64_t entry[PAGES])
{
	flat_reset(f, MODE_64);
	for (unsigned i = 0; i < 512; i++)
		f->ram[PD + i * 8] |= 0x60;
	f->ram[0x1000] |= 0x20;
	f->ram[0x2000] |= 0x20;
	memset(f->ram + PT, 0, PAGE_SIZE);
	memcpy(f->ram + PT, entry, PAGES * sizeof(entry[0]));
	for (unsigned i = 0; i < WINDOWS; i++)
		store_u64(f->ram + PD + ((WINDOW + i * WINDOW_GAP) >> 21) * 8, PT | 0x67);
	for (uint32_t at = 0; at < PAGES * PAGE_SIZE; at += 8)
		store_u64(f->ram + WINDOW_GPA + at, at * 0x9e3779b97f4a7c15ull);
	memset(f->ram + FLAT_DATA, 0, 4 * PAGE_SIZE);
	memset(f->ram + FLAT_STACK - 256, 0, 256);
	flat_load(f, code.byte, code.byte + code.n);
	f->vm->engine->set_state(f->vcpu, &f->before);
}

/* Flags that nobody reads any more may be stale where a fault ends it. */
static uint64_t result(struct flat *f, struct cpu_state *s)
{
	const uint64_t arithmetic = 0x8d5;
	uint8_t *pushed = f->ram + FLAT_STACK - 24;

	f->vm->engine->get_state(f->vcpu, s);
	if (f->vector >= 0) {
		s->rflags &= ~arithmetic;
		store_u64(pushed, load_u64(pushed) & ~arithmetic);
	}
	memset(s->xsave + 28, 0, 4); /* the mask of MXCSR, which is no state */
	return bytes_hash(f->ram, RAM_USED, state_hash(s, COMPARE_NO_FLAGS));
}

static bool same_loop(unsigned number)
{
	static struct cpu_state s[SIDES];
	uint64_t hash[SIDES], entry[PAGES];
	struct loop l;

	noise = number;
	draw_loop(&l);
	make_code(&l);
	draw_window(entry);
	for (unsigned i = 0; i < SIDES; i++) {
		start(side[i], entry);
		flat_run(side[i]);
		hash[i] = result(side[i], &s[i]);
	}
	if (hash[INTERP] == hash[SOFT])
		return true;
	printf("loop %u: vectors %d and %d\n", number, side[INTERP]->vector, side[SOFT]->vector);
	state_show(&s[INTERP], &s[SOFT], "interp", "soft");
	for (uint32_t at = 0, n = 0; at < RAM_USED && n < 8; at += 8)
		if (load_u64(side[INTERP]->ram + at) != load_u64(side[SOFT]->ram + at) && ++n)
			printf("  [%#x]\n", at);
	return false;
}

static unsigned setting(const char *name, unsigned otherwise)
{
	const char *v = getenv(name);

	return v ? (unsigned)strtoul(v, NULL, 0) : otherwise;
}

static void test_random_loops(void **state)
{
	const struct vmm_config cfg = { .name = "loops" };
	unsigned first = setting("LOOPS_SEED", 1), wrong = 0, ended[2] = { 0 };

	host = sim_create(NULL);
	side[INTERP] = flat_create_as(&engine_interp, &host, 1, CLOCK_HOST, &cfg);
	side[SOFT] = flat_create_as(&engine_soft, &host, 1, CLOCK_HOST, &cfg);
	for (unsigned i = 0; i < setting("LOOPS", LOOPS) && wrong < 5; i++) {
		wrong += !same_loop(first + i);
		ended[side[SOFT]->vector >= 0]++;
	}
	flat_destroy(side[SOFT]);
	flat_destroy(side[INTERP]);
	printf("# %u loops ended, %u faulted\n", ended[0], ended[1]);
	assert_int_equal(sim_destroy(&host), 0);
	assert_int_equal(wrong, 0);
	assert_true(ended[0] && ended[1]);
}

/* A frame that lies across a page's end, again and again. */
GUEST(frames,
      "	mov $0x1f010, %esp\n mov $5000, %ecx\n"
      "0:	call 1f\n dec %ecx\n jnz 0b\n hlt\n"
      "1:	push %rax\n push %rbx\n push %rdx\n pop %rdx\n pop %rbx\n pop %rax\n ret\n");

static void test_frames_across_pages(void **state)
{
	const struct vmm_config cfg = { .name = "frames" };
	struct flat *f;

	host = sim_create(NULL);
	f = flat_create_as(&engine_soft, &host, 1, CLOCK_HOST, &cfg);
	atomic_store(&f->vcpu->mode, VCPU_GUEST); /* it is told of code that has gone */
	FLAT_RUN(f, frames);
	assert_int_equal(f->exit.reason, EXIT_HALT);
	assert_int_equal(f->vector, -1);
	assert_in_range(stat_get(&f->vcpu->stats, STAT_BLOCKS), 1, 2500);
	flat_destroy(f);
	assert_int_equal(sim_destroy(&host), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_random_loops),
					    cmocka_unit_test(test_frames_across_pages) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
