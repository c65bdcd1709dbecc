/*
 * clock.h - the guest clock: one a machine, the source of every guest time.
 *
 * A clock counts ticks at khz. TSC, kvmclock, APIC timer, PIT, PM timer and RTC
 * all derive from it. Its source is the host's tick counter or, for runs that
 * must repeat exactly, the instructions that the one vCPU has retired.
 *
 * Guest time in nanoseconds starts at 0 with the machine. It stands still while
 * the clock is stopped (pause).
 *
 * Reading is lock-free from any thread. Starting and stopping is the machine's
 * business, with every vCPU parked; event threads may be reading.
 */
#ifndef VMM_CORE_CLOCK_H
#define VMM_CORE_CLOCK_H

#include "core/host.h"
#include "core/lock.h"

enum clock_source { CLOCK_HOST, CLOCK_ICOUNT };

#define ICOUNT_KHZ 1000000ull /* one instruction is one nanosecond */

struct clock_timer;

struct guest_clock {
	const struct host *host;
	enum clock_source source;
	uint64_t khz;         /* of ticks */
	uint64_t ns_per_tick; /* 32.32 fixed point, so that reading needs no division */
	_Atomic uint32_t seq; /* odd while base and running change */
	_Atomic int64_t base; /* running: guest ticks = host ticks + base; stopped: ticks */
	_Atomic bool running;
	/* ICOUNT: instructions retired plus ticks slept; the one vCPU writes it */
	_Atomic uint64_t icount;
	uint64_t wall_base_ns; /* UTC at guest time 0 */
	/* ICOUNT: set when a timer is armed, so that the vCPU plans its run anew */
	_Atomic uint32_t *attention;

	struct lock lock;
	struct clock_timer *timers; /* all of them; the list and their deadlines: under lock */
};

/*
 * A one-shot timer in guest nanoseconds. Under CLOCK_HOST fn runs on an event
 * thread, under CLOCK_ICOUNT on the vCPU's thread. No lock of the clock is held.
 */
struct clock_timer {
	struct guest_clock *clock;
	void (*fn)(void *arg);
	void *arg;
	struct host_timer *host_timer; /* CLOCK_HOST */
	uint64_t deadline_ns;          /* guest time; HOST_FOREVER: not armed */
	struct clock_timer *next;
};

int clock_init(struct guest_clock *k, const struct host *h, enum clock_source source);
void clock_start(struct guest_clock *k);
void clock_stop(struct guest_clock *k);

uint64_t clock_ticks(const struct guest_clock *k);
uint64_t clock_now_ns(const struct guest_clock *k);
uint64_t clock_wall_ns(const struct guest_clock *k); /* UTC; from a fixed day under ICOUNT */
uint64_t clock_ticks_to_ns(const struct guest_clock *k, uint64_t ticks);
uint64_t clock_ns_to_ticks(const struct guest_clock *k, uint64_t ns);

/* The host's now_ns() time at which the guest's clock will read @ns. CLOCK_HOST. */
uint64_t clock_host_deadline(const struct guest_clock *k, uint64_t ns);

int clock_timer_init(struct clock_timer *t, struct guest_clock *k, int node, void (*fn)(void *arg),
		     void *arg);
void clock_timer_arm(struct clock_timer *t, uint64_t deadline_ns);
void clock_timer_destroy(struct clock_timer *t);

/* ICOUNT: @ticks more have been retired or slept. The vCPU's thread only. */
static inline void clock_advance(struct guest_clock *k, uint64_t ticks)
{
	uint64_t n = atomic_load_explicit(&k->icount, memory_order_relaxed);

	atomic_store_explicit(&k->icount, n + ticks, memory_order_relaxed);
}

/* ICOUNT, on the vCPU's thread: the earliest deadline, HOST_FOREVER if none; run what is due. */
uint64_t clock_next_deadline(struct guest_clock *k);
void clock_run_timers(struct guest_clock *k);

#endif
