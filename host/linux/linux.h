/*
 * linux.h - host/linux from the inside.
 *
 * Who is who:
 *   host.c      life, the operations table, log, entropy, wall clock
 *   thread.c    threads, binding, kicks, alarms, the GS base
 *   wait.c      futexes
 *   clock.c     monotonic time, the tick counter and its rate
 *   event.c     event threads: timers and watched files
 *   mem.c       guest memory, node-local memory, code mapped twice; mem_bind.c its
 *               policies; mem_where.c where it lies; mem_move.c moves it
 *   fault.c     synchronous faults; sync.c the core-serialising barrier
 *   topology.c  discovery by hwloc;  meminfo.c free memory;  measure.c how far it is
 *   group.c     limits of control groups;  mem_facts.c all that memory may lack
 *
 * What does without a host has headers of its own: ledger.h, claims.h, foreign.h.
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

	pthread_mutex_t
		lock; /* event[] and event_pus[], tsc_khz's first computation, the sync page */
	struct event_thread *event[EVENT_NODES_MAX];
	struct pu_set event_pus[EVENT_NODES_MAX]; /* where they run; empty: on their node */
	void *sync_page;                          /* fallback of sync_cores */
};

/* thread.c */
int linux_thread_create(void *ctx, const struct host_thread_attr *attr, struct host_thread **out);
void linux_thread_join(void *ctx, struct host_thread *t);
int linux_thread_bind(void *ctx, struct host_thread *t, const struct pu_set *pus);
void linux_thread_kick(void *ctx, struct host_thread *t);
void linux_thread_alarm(void *ctx, uint64_t deadline_ns);
void linux_thread_yield(void *ctx);
void linux_thread_set_gs(void *ctx, void *base);
int linux_thread_affinity(struct pu_set *out); /* of the calling thread */
int linux_kick_signal_take(void);              /* the process's disposition, and back */
void linux_kick_signal_release(void);

/* wait.c */
int linux_futex_wait(void *ctx, _Atomic uint32_t *word, uint32_t expected, uint64_t deadline_ns);
void linux_futex_wake(void *ctx, _Atomic uint32_t *word, unsigned count);

/* clock.c */
uint64_t linux_clock_mono_ns(void *ctx);
uint64_t linux_clock_wall_ns(void *ctx);
uint64_t linux_tick_count(void *ctx);
uint64_t linux_tick_khz(void *ctx);
void linux_tick_init(struct linux_host *h);
struct timespec ns_to_timespec(uint64_t ns);

/* event.c */
int linux_event_timer_create(void *ctx, int node, void (*fn)(void *arg), void *arg,
			     struct host_timer **out);
void linux_event_timer_arm(void *ctx, struct host_timer *t, uint64_t deadline_ns);
void linux_event_timer_destroy(void *ctx, struct host_timer *t);
void linux_event_threads_stop(struct linux_host *h);

/* mem.c */
/* Names of guest memory, with the node's number between: ledger_mem.c reads them. */
#define LINUX_GUEST_MEMFD "guest node "
#define LINUX_ANONYMOUS   " anonymous"
int linux_mem_map(void *ctx, const struct host_mem_attr *attr, struct host_mem *out);
void linux_mem_unmap(void *ctx, struct host_mem *m);
int linux_mem_prefault(void *ctx, const struct host_mem *m, uint64_t offset, uint64_t bytes);
void *linux_mem_alloc(void *ctx, size_t bytes, int node);
void linux_mem_free(void *ctx, void *p, size_t bytes);
int linux_code_map(void *ctx, size_t bytes, int node, struct host_code *out);
void linux_code_unmap(void *ctx, struct host_code *code);
void linux_code_prefault(void *ctx, const struct host_code *code, size_t offset, size_t bytes);

/* mem_bind.c: hosts with one node need nothing bound */
int linux_bind(const struct linux_host *h, const struct host_mem *m, const struct host_mem_attr *a);
int linux_bind_node(const struct linux_host *h, void *p, uint64_t bytes, int node,
		    enum mem_policy policy);
int linux_bind_ranges(void *p, uint64_t bytes, uint64_t page_bytes, const struct mem_share *share,
		      unsigned nr);

/* mem_where.c */
int linux_mem_where(void *ctx, const struct host_mem *m, uint64_t offset, uint64_t bytes,
		    struct host_where *out);

/* mem_move.c */
int linux_mem_move(void *ctx, struct host_mem *m, uint64_t offset, uint64_t bytes, int node);

/* fault.c */
int linux_fault_handler(void *ctx, bool (*fn)(struct host_fault *f, void *arg), void *arg);
void linux_fault_thread_exit(void); /* the calling thread is about to end */
int linux_fault_signals_take(void);
void linux_fault_signals_release(void);

/* sync.c */
int linux_sync_init(struct linux_host *h);
void linux_sync_exit(struct linux_host *h);
void linux_sync_cores(void *ctx);

/* group.c */
bool linux_read_number(const char *dir, const char *file, uint64_t *out); /* "max" is none */
void linux_group_memory(struct mem_limit *out);
void linux_group_huge(uint64_t page_bytes, struct mem_limit *out);
void linux_group_mems_file(char *out, size_t bytes);

/* topology.c, meminfo.c */
int linux_topology_discover(void *ctx, struct machine_model *out);
/* What cannot be found out stays as it is. */
void linux_meminfo_system(uint64_t *total, uint64_t *free);
void linux_meminfo_node(unsigned os_index, uint64_t *total, uint64_t *free);
/* Huge pages reserved on a node, by size; what is there replaces what @huge says. */
void linux_meminfo_huge(unsigned os_index, struct machine_pages huge[MACHINE_PAGE_SIZES]);
/* What the kernel may promise and has promised, where it keeps its promises. */
void linux_meminfo_commit(uint64_t *limit, uint64_t *used);
unsigned linux_meminfo_weight(unsigned os_index); /* of weighted interleaving; 0: unknown */
/* Does the kernel make huge pages of such memory, where it is advised to? */
bool linux_thp_of_memfds(void);
bool linux_thp_of_anonymous(void);

#endif
