/*
 * internal.h - the simulated host from the inside.
 *
 * Everything in struct sim belongs to whoever holds the baton; the mutex guards
 * only `running`, by which the baton is passed.
 */
#ifndef HOST_SIM_INTERNAL_H
#define HOST_SIM_INTERNAL_H

#include "host/sim/sim.h"
#include "placement/machine.h"

#include <pthread.h>

#define SIM_NODES_MAX 64
#define NAME_BYTES    16

enum thread_state { THREAD_READY, THREAD_WAITING, THREAD_DONE };

struct host_thread {
	struct sim *sim;
	struct host_thread *next; /* in order of creation */
	char name[NAME_BYTES];
	pthread_t pthread;
	pthread_cond_t turn;
	void (*fn)(void *arg);
	void *arg;
	_Atomic uint32_t *attention;
	struct pu_set pus;
	bool bound;

	enum thread_state state;
	_Atomic uint32_t *word; /* WAITING: for this */
	uint64_t deadline_ns;   /* WAITING: at most until then */
	bool timed_out;
	uint64_t alarm_ns;
	_Atomic uint32_t ended;

	bool (*fault)(struct host_fault *f, void *arg);
	void *fault_arg;
	void *fault_stack;
};

struct host_timer {
	struct sim_node *node;
	struct host_timer *next;
	void (*fn)(void *arg);
	void *arg;
	uint64_t deadline_ns;
};

struct sim_node {
	struct sim *sim;
	uint64_t used_bytes;
	struct host_thread *events; /* NULL: no timer yet */
	struct host_timer *timers;
	struct host_timer *firing; /* its fn runs */
	_Atomic uint32_t change;   /* counts changes of the timers */
	_Atomic uint32_t fired;    /* counts ends of fn */
};

/* A mapping or an allocation. */
struct sim_block {
	struct sim_block *next;
	void *base;
	uint64_t bytes;
	unsigned node;
	uint8_t *page_node; /* of each page, once some have moved */
};

struct sim {
	struct sim_config cfg;
	unsigned nr_cores, nr_pus;
	uint64_t now_ns;
	uint64_t random;

	pthread_mutex_t mutex;
	struct host_thread *running;
	struct host_thread *threads; /* main is the first */
	struct host_thread main;
	bool stopping;
	unsigned yields; /* turns in a row that ended in one */
	bool settling;   /* time stands still for yields, too */

	struct sim_node node[SIM_NODES_MAX];
	struct sim_block *allocs, *maps, *codes;
	unsigned fail[SIM_FAILURES]; /* countdown; 0: never */

	char *log;
	size_t log_bytes, log_room;
};

/* The calling thread; aborts if it is not this host's. */
struct host_thread *sim_self(struct sim *s);
/* One line to stderr, and the end. */
_Noreturn void sim_die(struct sim *s, const char *what);
uint64_t sim_random(struct sim *s);
/* Counts a call that may be told to fail; true: this one does. */
bool sim_fails(struct sim *s, enum sim_failure what);

void sched_start(struct sim *s);     /* adopts the calling thread as main */
unsigned sched_stop(struct sim *s);  /* returns threads and timers left behind */
unsigned memory_stop(struct sim *s); /* returns blocks left behind */
void fault_forget(struct host_thread *t);

/* host_ops by file. */
int sim_thread_create(void *ctx, const struct host_thread_attr *a, struct host_thread **out);
void sim_thread_join(void *ctx, struct host_thread *t);
int sim_thread_bind(void *ctx, struct host_thread *t, const struct pu_set *pus);
void sim_thread_kick(void *ctx, struct host_thread *t);
void sim_thread_alarm(void *ctx, uint64_t deadline_ns);
void sim_thread_yield(void *ctx);
int sim_wait(void *ctx, _Atomic uint32_t *word, uint32_t expected, uint64_t deadline_ns);
void sim_wake(void *ctx, _Atomic uint32_t *word, unsigned count);
uint64_t sim_now_ns(void *ctx);
int sim_timer_create(void *ctx, int node, void (*fn)(void *arg), void *arg,
		     struct host_timer **out);
void sim_timer_arm(void *ctx, struct host_timer *t, uint64_t deadline_ns);
void sim_timer_destroy(void *ctx, struct host_timer *t);

int sim_mem_map(void *ctx, const struct host_mem_attr *a, struct host_mem *out);
void sim_mem_unmap(void *ctx, struct host_mem *m);
int sim_mem_prefault(void *ctx, const struct host_mem *m, uint64_t offset, uint64_t bytes);
int sim_mem_where(void *ctx, const struct host_mem *m, uint64_t offset, uint64_t bytes,
		  struct host_where *out);
int sim_mem_move(void *ctx, struct host_mem *m, uint64_t offset, uint64_t bytes, int node);
void *sim_alloc(void *ctx, size_t bytes, int node);
void sim_free(void *ctx, void *p, size_t bytes);
int sim_code_map(void *ctx, size_t bytes, int node, struct host_code *out);
void sim_code_unmap(void *ctx, struct host_code *code);
void sim_code_prefault(void *ctx, const struct host_code *code, size_t offset, size_t bytes);

int sim_fault_handler(void *ctx, bool (*fn)(struct host_fault *f, void *arg), void *arg);

#endif
