/*
 * vcpu.h - one virtual CPU, one host thread.
 *
 * Every field belongs to the vCPU's own thread unless it says otherwise. Other
 * threads reach a vCPU through vcpu_post() and its posted-interrupt descriptor.
 */
#ifndef VMM_CORE_VCPU_H
#define VMM_CORE_VCPU_H

#include "core/cpu_state.h"
#include "core/engine.h"
#include "core/halt_poll.h"
#include "core/host.h"
#include "core/stats.h"
#include "sched/sched.h"

struct vm;

/* What vcpu_post() tells a vCPU. */
enum vcpu_event {
	VCPU_STOP = BIT(0),  /* leave the loop for good */
	VCPU_PARK = BIT(1),  /* look at vm->parked */
	VCPU_MOVE = BIT(2),  /* bound to another PU: tell the scheduler */
	VCPU_INTR = BIT(3),  /* the posted-interrupt descriptor has news */
	VCPU_CODE = BIT(4),  /* software engine: see vmm/cpu/codemap.h */
	VCPU_FLUSH = BIT(5), /* software engine: drop the whole TLB */
};

/*
 * The loop takes the first kind out of events, the engine the second: at entry
 * to run() and whenever it finds attention set. It returns EXIT_KICK when it
 * meets one of the first kind.
 */
#define VCPU_LOOP_EVENTS   (VCPU_STOP | VCPU_PARK | VCPU_MOVE)
#define VCPU_ENGINE_EVENTS (VCPU_INTR | VCPU_CODE | VCPU_FLUSH)

/* Where the vCPU's thread is; other threads read it to choose kick or wake. */
enum vcpu_mode {
	VCPU_OUTSIDE, /* in the loop: looks at events before it goes on */
	VCPU_GUEST,   /* inside engine->run() */
	VCPU_POLLING, /* in vcpu_wait(), looking at events all the time */
	VCPU_SLEEPING /* in vcpu_wait(), and has to be woken */
};

/* What an engine is doing in run(), in the order of STAT_CODE_US and on. */
enum vcpu_doing {
	DOING_CODE,
	DOING_INTERP,
	DOING_TRANSLATE,
	DOING_MMU,
	DOING_NOTHING = STAT_IDLE_US - STAT_CODE_US
};

/*
 * Interrupts on their way to a vCPU. Senders set bits, then post VCPU_INTR; the
 * vCPU's thread takes them with an exchange. level[] says which of the pending
 * vectors came level-triggered, and is set before pending[].
 */
struct posted_intr {
	_Atomic uint64_t pending[4];
	_Atomic uint64_t level[4];
	_Atomic uint32_t signals; /* POSTED_* */
	_Atomic uint32_t sipi;    /* vector of the last SIPI */
} __cacheline;

#define POSTED_NMI    BIT(0)
#define POSTED_INIT   BIT(1)
#define POSTED_SIPI   BIT(2)
#define POSTED_EXTINT BIT(3) /* a level, not an edge: the PIC's output */
#define POSTED_UNHALT BIT(4) /* PV: end HLT without an interrupt */
#define POSTED_FLUSH  BIT(5) /* PV: flush the TLB before running on */
#define POSTED_SMI    BIT(6) /* accepted and ignored: there is no SMM */

struct vcpu {
	/* Shared: written by senders, read by the owner. */
	_Atomic uint32_t events __cacheline; /* VCPU_*; owner takes all by exchange */
	_Atomic uint32_t mode;               /* enum vcpu_mode; owner writes */
	_Atomic uint32_t doorbell;           /* futex word of a sleeping vCPU */
	struct posted_intr posted;

	/*
	 * Polled by the engine between blocks; nonzero: leave guest code and look.
	 * Set by any thread, cleared by the owner. Its own line: read constantly.
	 */
	_Atomic uint32_t attention __cacheline;

	/* Constant once created. */
	struct vm *vm __cacheline;
	unsigned id; /* 0 is the BSP */
	uint32_t apic_id;
	unsigned guest_node;
	int host_node;     /* OS index, or HOST_NODE_ANY */
	struct pu_set pus; /* where it starts; its PU now is vm->plan's */
	struct host_thread *thread;
	void *engine_data;

	_Atomic bool stepping; /* a debugger lets it run while the machine is paused */

	/* The owner's. */
	struct sched_entity sched;
	struct halt_poll halt_poll;
	int err;               /* why the loop ended */
	_Atomic uint8_t doing; /* enum vcpu_doing; the sampler reads it */
	struct vcpu_stats stats __cacheline;
};

/* What to allocate for one: the engine's own part lies behind it. */
static inline size_t vcpu_bytes(const struct engine_ops *e)
{
	return sizeof(struct vcpu) + e->vcpu_bytes;
}

/* For the sampler, while the mode is VCPU_GUEST. Returns what it was. */
static inline enum vcpu_doing vcpu_doing(struct vcpu *c, enum vcpu_doing now)
{
	uint8_t before = atomic_load_explicit(&c->doing, memory_order_relaxed);

	atomic_store_explicit(&c->doing, (uint8_t)now, memory_order_relaxed);
	return (enum vcpu_doing)before;
}

/* Any thread, any lock held. */
void vcpu_post(struct vcpu *c, uint32_t events);

/* The body of a vCPU's thread: returns when the machine ends. */
void vcpu_thread(void *vcpu);

/* With --trace exits: a line about @x. The engine calls it for what it handles itself. */
void vcpu_trace_exit(struct vcpu *c, const struct vcpu_exit *x);

void vcpu_log(struct vcpu *c, enum log_level level, const char *fmt, ...) __printf(3, 4);

#endif
