/*
 * sim.h - a simulated host for tests: deterministic, any number of PUs and nodes.
 *
 * Threads are real, but run one at a time: whoever runs holds a baton and hands
 * it on when it waits, yields or ends. Time is virtual: it stands still while a
 * thread runs and jumps to the next deadline when all of them wait. The same
 * test therefore takes the same course every time, and takes no time.
 *
 * The thread that calls sim_create() takes part as a thread of the host, and
 * makes every sim_* call. A deadlock (all wait, no deadline) or a call
 * from a thread that is not the host's ends the process with a report.
 *
 * What a simulated host cannot show: races inside one thread's turn, and threads
 * that spin without calling the host.
 */
#ifndef HOST_SIM_SIM_H
#define HOST_SIM_SIM_H

#include "core/host.h"

/* Zero means the default. */
struct sim_config {
	unsigned nodes;             /* 1 */
	unsigned cores_per_node;    /* 4 */
	unsigned threads_per_core;  /* 1; siblings' OS indexes lie one core count apart */
	uint64_t node_memory_bytes; /* 1 GiB */
	uint64_t wall_ns;           /* wall clock at creation; 2020-01-01 */
	uint64_t ticks_khz;         /* 1,000,000: a tick is a nanosecond */
	uint64_t look_ns;           /* what a look at the clock costs; 0 */
	/*
	 * 0: threads take turns in order of creation. Otherwise a seed: the next
	 * thread is drawn, and a call of the host may pass the baton on.
	 */
	uint64_t seed;
	bool echo_log; /* log lines also go to stderr */
};

enum sim_failure {
	SIM_FAIL_ALLOC,    /* alloc() and code_map() */
	SIM_FAIL_MAP,      /* mem_map() */
	SIM_FAIL_THREAD,   /* thread_create() */
	SIM_FAIL_TIMER,    /* timer_create() */
	SIM_FAIL_PREFAULT, /* mem_prefault() */
	SIM_FAIL_PLACE,    /* mem_where() finds the pages on the next node */
	SIM_FAIL_MOVE,     /* mem_move() */
	SIM_FAILURES
};

/* cfg NULL: all defaults. Aborts if the system under it has no memory. */
struct host sim_create(const struct sim_config *cfg);

/*
 * Ends the host. Returns how many things were left behind, each named on stderr:
 * threads not joined, timers, mappings, allocations.
 */
unsigned sim_destroy(struct host *h);

/* Sleep for @ns of virtual time: everybody else runs meanwhile. */
void sim_advance(const struct host *h, uint64_t ns);
/* Let everybody else run until all wait, or do nothing but yield; time stands still. */
void sim_settle(const struct host *h);

/* The @nth call from now fails, 1 being the next; 0 takes it back. */
void sim_fail(const struct host *h, enum sim_failure what, unsigned nth);

/* What is allocated on a node now, mappings included. */
uint64_t sim_node_used(const struct host *h, unsigned node);

/* All lines logged so far, each with its newline. Valid until the next one. */
const char *sim_log(const struct host *h);
void sim_log_clear(const struct host *h);

/* Where the first thread of that name runs; false: there is none, or it is unbound. */
bool sim_thread_pus(const struct host *h, const char *name, struct pu_set *pus);

#endif
