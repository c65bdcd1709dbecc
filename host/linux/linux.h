/*
 * linux.h - host/linux from the inside.
 *
 * Who is who:
 *   host.c      life, the operations table, log, entropy, wall clock
 *   thread.c    threads, binding, kicks, alarms, the GS base
 *   wait.c      futexes
 *   clock.c     monotonic time, the tick counter and its rate
 *   event.c     event threads: timers and watched files
 *   mem.c       guest memory, node-local memory, code mapped twice
 *   fault.c     synchronous faults; sync.c the core-serialising barrier
 *   topology.c  discovery by hwloc;  meminfo.c free memory
 *
 * The file-scope state is what a process has only once: signal dispositions
 * and the calling thread's own records.
 */
#ifndef HOST_LINUX_LINUX_H
#define HOST_LINUX_LINUX_H

#include "host_linux.h"

#include <pthread.h>
#include <sys/types.h>

struct event_thread;

#define EVENT_NODES_MAX 64 /* nodes above share the event thread of node 0 */

struct clock_sample {
	uint64_t tsc;
	uint64_t ns;
};

struct linux_host {
	/* Constant once created. */
	bool tsc_usable;
	struct clock_sample tsc_start;
	bool many_nodes; /* binding memory means something */
	bool membarrier;
	struct pu_set allowed;

	_Atomic int log_max;
	_Atomic uint64_t tsc_khz; /* 0: not yet known; all who compute it agree closely */

	pthread_mutex_t lock; /* event[] slots, tsc_khz's first computation, the sync page */
	struct event_thread *event[EVENT_NODES_MAX];
	void *sync_page; /* fallback of sync_cores */
};

/* thread.c */
int thread_create(void *ctx, const struct host_thread_attr *attr, struct host_thread **out);
void thread_join(void *ctx, struct host_thread *t);
int thread_bind(void *ctx, const struct pu_set *pus);
void thread_kick(void *ctx, struct host_thread *t);
void thread_alarm(void *ctx, uint64_t deadline_ns);
void thread_yield(void *ctx);
void thread_set_gs(void *ctx, void *base);
int thread_affinity(struct pu_set *out); /* of the calling thread */
int kick_signal_take(void);              /* the process's disposition, and back */
void kick_signal_release(void);

/* wait.c */
int futex_wait(void *ctx, _Atomic uint32_t *word, uint32_t expected, uint64_t deadline_ns);
void futex_wake(void *ctx, _Atomic uint32_t *word, unsigned count);

/* clock.c */
uint64_t clock_mono_ns(void *ctx);
uint64_t clock_wall_ns(void *ctx);
uint64_t tick_count(void *ctx);
uint64_t tick_khz(void *ctx);
void tick_init(struct linux_host *h);
struct timespec ns_to_timespec(uint64_t ns);

/* event.c */
int event_timer_create(void *ctx, int node, void (*fn)(void *arg), void *arg,
		       struct host_timer **out);
void event_timer_arm(void *ctx, struct host_timer *t, uint64_t deadline_ns);
void event_timer_destroy(void *ctx, struct host_timer *t);
void event_threads_stop(struct linux_host *h);

/* mem.c */
int mem_map(void *ctx, uint64_t bytes, int node, struct host_mem *out);
void mem_unmap(void *ctx, struct host_mem *m);
int mem_prefault(void *ctx, struct host_mem *m, uint64_t offset, uint64_t bytes);
void *mem_alloc(void *ctx, size_t bytes, int node);
void mem_free(void *ctx, void *p, size_t bytes);
int code_map(void *ctx, size_t bytes, int node, struct host_code *out);
void code_unmap(void *ctx, struct host_code *code);

/* fault.c */
int fault_handler(void *ctx, bool (*fn)(struct host_fault *f, void *arg), void *arg);
void fault_thread_exit(void); /* the calling thread is about to end */
int fault_signals_take(void);
void fault_signals_release(void);

/* sync.c */
int sync_init(struct linux_host *h);
void sync_exit(struct linux_host *h);
void sync_cores(void *ctx);

/* topology.c, meminfo.c */
int topology_discover(void *ctx, struct machine_model *out);
uint64_t meminfo_node_free(unsigned os_index, uint64_t node_bytes);
uint64_t meminfo_cgroup_free(void); /* UINT64_MAX: no limit */

#endif
