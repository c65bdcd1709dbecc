/*
 * fuzz_code.c - hostile guest code on both executors.
 *
 * The input's first bytes choose a mode (16, 32 or 64 bits, paging, CPL) and the
 * registers; the rest is code. It runs for a bounded number of instructions, first
 * interpreted, then translated. The machine may end as it likes, but what lies around
 * its memory must be as it was, and no code may hold off a kick: a guest that retires
 * nothing (faults without end, long repetitions) is stopped by one.
 */
#include "cpu/xstate.h"
#include "host/sim/sim.h"
#include "tests/unit/flat.h"

#include <stdio.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/time.h>

#define INSNS      3000u
#define EXITS_MAX  10000u
#define CODE_MAX   4096u
#define KICK_US    20000
#define GUARD      MIB(1) /* before and behind guest memory */
#define GUARD_BYTE 0xa7

enum choice { MODES = 3, UNPAGED = BIT(2), USER = BIT(3), ALIGNED = BIT(4), VECTORS = BIT(5) };

static struct {
	const struct host_ops *real;
	struct host_ops ops;
	uint8_t *whole; /* guards and guest memory */
} guarded;

static void check(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "fuzz_code: %s\n", what);
	abort();
}

/* --- guest memory between guards -------------------------------------------------------- */

static int guarded_map(void *ctx, const struct host_mem_attr *attr, struct host_mem *out)
{
	struct host_mem_attr wider = *attr;
	uint64_t bytes = attr->bytes;
	int err;

	wider.bytes += 2 * GUARD;
	err = guarded.real->mem_map(ctx, &wider, out);

	if (err)
		return err;
	guarded.whole = out->base;
	memset(guarded.whole, GUARD_BYTE, GUARD);
	memset(guarded.whole + GUARD + bytes, GUARD_BYTE, GUARD);
	out->base = guarded.whole + GUARD;
	out->bytes = bytes;
	return 0;
}

static void guarded_unmap(void *ctx, struct host_mem *m)
{
	m->base = guarded.whole;
	m->bytes += 2 * GUARD;
	guarded.real->mem_unmap(ctx, m);
}

static bool untouched(const uint8_t *p)
{
	for (size_t i = 0; i < GUARD; i += 8)
		if (load_u64(p + i) != GUARD_BYTE * 0x0101010101010101ull)
			return false;
	return true;
}

/* --- a run ----------------------------------------------------------------------------------- */

static struct host host;
static struct vcpu *_Atomic running;
static _Atomic bool kicked;

static void on_alarm(int sig)
{
	struct vcpu *v = atomic_load(&running);

	if (!v)
		return;
	atomic_store(&kicked, true);
	atomic_fetch_or(&v->events, VCPU_PARK);
	atomic_store(&v->attention, 1);
}

static void set_alarm(struct vcpu *v)
{
	struct itimerval t = { .it_value.tv_usec = v ? KICK_US : 0 };

	atomic_store(&running, v);
	atomic_store(&kicked, false);
	setitimer(ITIMER_REAL, &t, NULL);
}

static void set_up(void)
{
	signal(SIGALRM, on_alarm);
	host = sim_create(NULL);
	guarded.real = host.ops;
	guarded.ops = *host.ops;
	guarded.ops.mem_map = guarded_map;
	guarded.ops.mem_unmap = guarded_unmap;
	host.ops = &guarded.ops;
}

static void choose_state(struct flat *f, uint8_t choice, const uint8_t *regs)
{
	struct cpu_state *s = &f->before;
	enum cpu_mode mode = (enum cpu_mode)((choice & 3) % MODES);

	flat_reset(f, mode);
	for (unsigned i = 0; i < GPR_COUNT; i++)
		if (i != RSP)
			s->gpr[i] = (uint64_t)(int64_t)(int8_t)regs[i] * 0x1001 + FLAT_DATA;
	if (mode != MODE_64 && !(choice & UNPAGED)) {
		s->cr3 = 0x1000; /* whatever these tables mean there */
		s->cr0 |= CR0_PG;
	}
	if (choice & USER) {
		s->seg[SEG_CS].attr |= SEG_DPL;
		s->seg[SEG_CS].selector |= 3;
		s->seg[SEG_SS].attr |= SEG_DPL;
		s->seg[SEG_SS].selector |= 3;
		s->tr = (struct segment){ 0x40, 0x8b, 0x67, 0x6000 };
		store_u64(f->ram + 0x6004, FLAT_STACK);
	}
	if (choice & ALIGNED) {
		s->cr0 |= CR0_AM;
		s->rflags |= RFLAGS_AC;
	}
	if (choice & VECTORS) {
		s->cr4 |= CR4_OSXSAVE;
		s->xcr0 = XCR0_X87 | XCR0_SSE | XCR0_AVX;
	}
	f->vm->engine->set_state(f->vcpu, s);
}

static void run(const struct engine_ops *engine, const uint8_t *data, size_t bytes)
{
	struct flat *f = flat_create_on(engine, &host, 1, CLOCK_ICOUNT);
	struct vcpu_exit x = { .reason = EXIT_KICK };
	unsigned exits = 0;

	choose_state(f, data[0], data + 1);
	flat_load(f, data + 17, data + 17 + MIN(bytes - 17, (size_t)CODE_MAX));
	f->cpu->insns_pause = INSNS;
	set_alarm(f->vcpu);
	while (!atomic_load(&kicked) && f->cpu->insns < INSNS && exits++ < EXITS_MAX &&
	       x.reason != EXIT_RESET && x.reason != EXIT_HALT) {
		x = (struct vcpu_exit){ .reason = EXIT_KICK };
		check(!engine->run(f->vcpu, &x), "the engine gave up");
	}
	set_alarm(NULL);
	check(untouched(guarded.whole), "the guard before memory was written");
	check(untouched(guarded.whole + GUARD + FLAT_RAM), "the guard behind memory was written");
	flat_destroy(f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	if (bytes < 18)
		return 0;
	if (!host.ops)
		set_up();
	run(&engine_interp, data, bytes);
	run(&engine_soft, data, bytes);
	return 0;
}
