/*
 * host.h - the host seam: everything a machine needs from the system under it.
 *
 * An embedder hands one `struct host` to vmm_create(). Every operation is
 * mandatory. host/linux runs machines for real; host/sim runs them under a
 * virtual clock, one thread at a time, for tests.
 *
 * Unless a comment says otherwise an operation may be called from any thread,
 * returns 0 or -errno, and never blocks for long.
 *
 * Leaf header. Installed.
 */
#ifndef VMM_CORE_HOST_H
#define VMM_CORE_HOST_H

#include "core/mem_policy.h"
#include "core/pu_set.h"
#include "core/util.h"

#include <stdatomic.h>

struct host_thread;
struct host_timer;
struct machine_model;

#define HOST_NODE_ANY (-1)       /* no preference for a NUMA node */
#define HOST_FOREVER  UINT64_MAX /* a deadline that never comes */

enum log_level { LOG_ERR, LOG_WARN, LOG_INFO, LOG_DEBUG };

struct host_thread_attr {
	const char *name;         /* at most 15 characters are kept */
	const struct pu_set *pus; /* bound to these before fn runs; NULL: unbound */
	void (*fn)(void *arg);
	void *arg;
	/*
	 * Set to 1 by thread_kick() and by thread_alarm(); the thread itself
	 * clears it. NULL when the thread is never kicked.
	 */
	_Atomic uint32_t *attention;
};

/* Guest RAM as it is wanted. */
struct host_mem_attr {
	uint64_t bytes;
	uint64_t page_bytes; /* or MEM_PAGES_* */
	enum mem_policy policy;
	int node;                      /* MEM_BIND, MEM_PREFERRED: OS index, or HOST_NODE_ANY */
	const struct mem_share *share; /* MEM_INTERLEAVE, MEM_WEIGHTED */
	unsigned nr_shares;
};

/* Any pages, strictly on one node. */
#define HOST_RAM(bytes_, node_) (&(struct host_mem_attr){ .bytes = (bytes_), .node = (node_) })

/* Guest RAM as it is. */
struct host_mem {
	void *base;
	uint64_t bytes;
	int node;            /* OS index of the node it is bound to, or HOST_NODE_ANY */
	int handle;          /* the host's own: a memfd under Linux */
	uint64_t page_bytes; /* that it is made of; the host may join base pages to huge ones */
};

#define HOST_NODES_MAX 1024

/* Where memory is. */
struct host_where {
	uint64_t bytes[HOST_NODES_MAX]; /* by OS index of the node */
	uint64_t absent;                /* not populated, or swapped out */
	uint64_t unknown;               /* the host would not say */
};

/* Code that is written through rw and executed through rx. */
struct host_code {
	uint8_t *rw;
	uint8_t *rx;
	size_t bytes;
};

enum host_fault_kind { HOST_FAULT_FPE, HOST_FAULT_BUS, HOST_FAULT_SEGV };

/*
 * A synchronous fault of the calling thread, as its handler sees it. The
 * handler may change pc and the registers; they are in force when it returns
 * true. gpr[] is in encoding order (rax, rcx, rdx, rbx, rsp, ...).
 */
struct host_fault {
	enum host_fault_kind kind;
	uint64_t addr; /* what was accessed, for BUS and SEGV */
	uint64_t pc;
	uint64_t gpr[16];
	uint64_t rflags;
	void *fpstate; /* FXSAVE image at the fault, changes are in force too */
};

struct host_ops {
	const char *name;

	/* --- threads ------------------------------------------------------ */

	/* @out is valid before fn runs. Ended threads are reaped by thread_join(). */
	int (*thread_create)(void *ctx, const struct host_thread_attr *attr,
			     struct host_thread **out);
	void (*thread_join)(void *ctx, struct host_thread *t);
	/*
	 * Bind a thread that has not ended, NULL being the calling one; on return it runs on
	 * one of @pus, or nowhere. -EINVAL if none of them is usable: then nothing changes.
	 */
	int (*thread_bind)(void *ctx, struct host_thread *t, const struct pu_set *pus);
	/*
	 * Store 1 to the thread's attention word and interrupt whatever system
	 * call it is in. Lock-free; callable with locks held.
	 */
	void (*thread_kick)(void *ctx, struct host_thread *t);
	/*
	 * Kick the calling thread at @deadline_ns (now_ns() time); replaces the
	 * alarm set before, HOST_FOREVER cancels.
	 */
	void (*thread_alarm)(void *ctx, uint64_t deadline_ns);
	/* Give the PU to somebody else if anybody wants it. */
	void (*thread_yield)(void *ctx);
	/* Up to 16 bytes of base address the calling thread reads through %gs. */
	void (*thread_set_gs)(void *ctx, void *base);

	/* --- waiting ------------------------------------------------------ */

	/*
	 * Sleep while *word == expected, until woken or until @deadline_ns.
	 * 0 when woken (or *word differed), -ETIMEDOUT. May wake spuriously.
	 */
	int (*wait)(void *ctx, _Atomic uint32_t *word, uint32_t expected, uint64_t deadline_ns);
	void (*wake)(void *ctx, _Atomic uint32_t *word, unsigned count);

	/* --- time --------------------------------------------------------- */

	uint64_t (*now_ns)(void *ctx);  /* monotonic */
	uint64_t (*wall_ns)(void *ctx); /* since 1970, UTC */
	/*
	 * A monotonic counter for guests' TSCs, the cheapest there is; its rate
	 * is ticks_khz. host/linux: the TSC, where it is invariant.
	 */
	uint64_t (*ticks)(void *ctx);
	uint64_t (*ticks_khz)(void *ctx);

	/* fn runs on an event thread of @node, which must not block for long. */
	int (*timer_create)(void *ctx, int node, void (*fn)(void *arg), void *arg,
			    struct host_timer **out);
	/* Replaces the deadline set before; HOST_FOREVER disarms. */
	void (*timer_arm)(void *ctx, struct host_timer *t, uint64_t deadline_ns);
	/* Returns when fn is not running and will not run again. */
	void (*timer_destroy)(void *ctx, struct host_timer *t);

	/* --- memory ------------------------------------------------------- */

	/*
	 * Fresh zeroed memory, at least page aligned, for which no page has been taken
	 * yet; @bytes is rounded up to whole pages. Where pages come from a pool it must be
	 * prefaulted before it is used: a shortage is an error only then.
	 */
	int (*mem_map)(void *ctx, const struct host_mem_attr *attr, struct host_mem *out);
	void (*mem_unmap)(void *ctx, struct host_mem *m);
	/* Populate now. Called by threads near the owning node, several at once. */
	int (*mem_prefault)(void *ctx, const struct host_mem *m, uint64_t offset, uint64_t bytes);
	/* Adds to @out where [@offset, @offset + @bytes) is now. -ENOSYS: nobody knows. */
	int (*mem_where)(void *ctx, const struct host_mem *m, uint64_t offset, uint64_t bytes,
			 struct host_where *out);
	/*
	 * Bind a stretch to @node, and move there what of it is populated, while others read
	 * and write: no store is lost. Whole pages. -EINVAL: no such node, or not allowed;
	 * -ENOMEM: it is full; -EBUSY: some pages stay where they are, for now.
	 */
	int (*mem_move)(void *ctx, struct host_mem *m, uint64_t offset, uint64_t bytes, int node);
	/* Private zeroed page-aligned memory, preferably on @node. NULL: none left. */
	void *(*alloc)(void *ctx, size_t bytes, int node);
	void (*free)(void *ctx, void *p, size_t bytes);
	int (*code_map)(void *ctx, size_t bytes, int node, struct host_code *out);
	void (*code_unmap)(void *ctx, struct host_code *code);
	/*
	 * Have [@offset, @offset + @bytes) of both mappings at hand, which saves a fault a page
	 * and mapping. Whole pages. May do nothing.
	 */
	void (*code_prefault)(void *ctx, const struct host_code *code, size_t offset, size_t bytes);

	/* --- the processor ------------------------------------------------ */

	/*
	 * For the calling thread: @fn sees every synchronous FPE, BUS and SEGV
	 * first; false means "not mine" and is fatal to the process. It runs in
	 * signal context. NULL removes it.
	 */
	int (*fault_handler)(void *ctx, bool (*fn)(struct host_fault *f, void *arg), void *arg);
	/*
	 * On return every other running thread of this process has passed a
	 * full memory barrier and serialised its instruction stream.
	 */
	void (*sync_cores)(void *ctx);
	int (*entropy)(void *ctx, void *buf, size_t bytes);

	/* --- the rest ----------------------------------------------------- */

	int (*topology)(void *ctx, struct machine_model *out);
	void (*log)(void *ctx, enum log_level level, const char *line);
};

struct host {
	const struct host_ops *ops;
	void *ctx;
};

/* One line, without its newline; formatted before it reaches the host. */
void host_log(const struct host *h, enum log_level level, const char *fmt, ...) __printf(3, 4);

#endif
