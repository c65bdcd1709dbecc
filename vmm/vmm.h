/*
 * vmm.h - libalcazar: machines as a library.
 *
 * An embedder fills a struct vmm_config, hands it over with a host (host_linux.h
 * has one for Linux), starts the machine and waits for its end. All functions
 * may be called from any thread that is not a vCPU's, one at a time a machine,
 * except where noted. Errors are -errno; the line for the user stands in the
 * buffer the caller passes.
 */
#ifndef VMM_VMM_H
#define VMM_VMM_H

#include "boot/boot.h"
#include "core/clock.h"
#include "core/engine.h"
#include "core/host.h"
#include "core/stats.h"
#include "mem/preflight.h"
#include "placement/plan.h"

#define VMM_VERSION "0.1.0"

#define VMM_VCPUS_MAX      1024
#define VMM_MEMORY_MIN     MIB(1)
#define VMM_FEATURES_MAX   64
#define VMM_CODE_CACHE_MIN MIB(1)

struct vm;

struct vmm_config {
	const char *name;
	const struct engine_ops *engine;
	enum clock_source clock;
	/* Placement decides vCPUs, nodes and memory. Copied. */
	const struct plan *plan;
	struct topo_request topo; /* vcpus, nodes, memory must agree with the plan */
	const char *cpu_overrides[VMM_FEATURES_MAX + 1]; /* "+name", "-name", NULL */
	bool prefault;    /* memory in reserved huge pages always is */
	bool reboot;      /* a guest's reset starts it anew */
	bool test_device; /* the PCI function that guest programs try: docs/pci.md */

	/* Images and strings stay the caller's, and valid until vmm_destroy(). */
	struct boot_image kernel, initrd;
	struct boot_image module[BOOT_MODULES_MAX];
	unsigned nr_modules;
	const char *cmdline;

	/* Guest console output; from any thread, one call at a time. */
	void (*console)(void *arg, const uint8_t *buf, size_t bytes);
	/* Bytes refused by vmm_console_input() are welcome now. May be NULL. */
	void (*console_ready)(void *arg);
	/*
	 * While memory is populated, now and then, by the thread in vmm_create(). False
	 * ends it: -ECANCELED. May be NULL.
	 */
	bool (*progress)(void *arg, uint64_t done_bytes, uint64_t all_bytes);
	/* A debugger's stop: vCPU @vcpu met a point; every vCPU parks. May be NULL. */
	void (*debug_stop)(void *arg, unsigned vcpu, uint64_t detail);
	/*
	 * For profilers: @bytes of translated code were made at @code, for guest code
	 * that @name names; from any vCPU's thread. May be NULL.
	 */
	void (*code_made)(void *arg, uint64_t code, size_t bytes, const char *name);
	/* --trace insn: one line an instruction. May be NULL. */
	void (*trace)(void *arg, const char *line);
	/*
	 * KVM: how long the kernel polls before it lets an idle vCPU sleep. Not set: not at all
	 * where vCPUs share PUs, else as the administrator chose.
	 */
	bool halt_poll_set;
	uint32_t halt_poll_ns;
	bool sample_time;          /* the counters of time are kept */
	bool count_insns;          /* the translator keeps STAT_INSNS exact, at a small cost */
	uint64_t code_cache_bytes; /* the translator's, a guest node; 0: its own choice */
	/* The translator lets no fault handler see flags that nothing else will; slower. */
	bool exact_flags;
	/* Translated code counts its own instructions; slow. For tests, with one vCPU. */
	bool tally_code;
	bool trace_exits, trace_insns;
	void *arg;
};

/* What a machine ended by. */
enum vmm_end {
	VMM_RUNNING,
	VMM_POWEROFF,
	VMM_RESET,        /* with !reboot */
	VMM_TRIPLE_FAULT, /* with !reboot */
	VMM_EXIT,         /* exit port: code is the value written */
	VMM_STOPPED,      /* vmm_stop() */
	VMM_ERROR         /* internal; code is -errno */
};

struct vmm_result {
	enum vmm_end end;
	int code;
	unsigned resets; /* reboots on the way */
	char detail[160];
};

/*
 * Everything that can be refused is refused here: nothing has started, nothing
 * stays behind on error.
 */
int vmm_create(const struct host *host, const struct vmm_config *cfg, struct vm **out, char *why,
	       size_t why_bytes);
/* Starts every vCPU thread; returns when all are bound and ready. */
int vmm_start(struct vm *vm, char *why, size_t why_bytes);
/* Until the machine ends or @deadline_ns passes: -ETIMEDOUT. Any thread. */
int vmm_wait(struct vm *vm, uint64_t deadline_ns, struct vmm_result *r);
/* Ends the machine; any thread, also concurrently with vmm_wait(). */
void vmm_stop(struct vm *vm);
/* Joins everything and frees it. NULL is legal. */
void vmm_destroy(struct vm *vm);

/*
 * Every vCPU leaves guest code and parks; the guest clock stands. Nests. Any thread, also
 * several at once: a debugger's server and a control socket know nothing of each other. A machine
 * paused before its start begins when it is resumed.
 */
int vmm_pause(struct vm *vm);
void vmm_resume(struct vm *vm);
void vmm_nmi(struct vm *vm, unsigned vcpu);

/*
 * Which pages are written while the guest runs. vmm_dirty_take() fills @bitmap, a bit a
 * page of guest memory in the order of addresses (vmm_dirty_words() words), with those
 * written since the last call, or since the beginning; by vCPUs and by devices. -ENOTSUP:
 * the engine cannot; -ENOMEM; -EINVAL: not begun.
 */
int vmm_dirty_begin(struct vm *vm);
void vmm_dirty_end(struct vm *vm);
size_t vmm_dirty_words(const struct vm *vm);
int vmm_dirty_take(struct vm *vm, uint64_t *bitmap);

/* Returns how many bytes the guest's serial port took. */
size_t vmm_console_input(struct vm *vm, const uint8_t *buf, size_t bytes);

/*
 * Placement of a machine that runs, or is paused. The plan as it stands: moves change it.
 */
void vmm_get_plan(struct vm *vm, struct plan *out);
/*
 * From now on the vCPU's thread runs on PU @pu, which lies in host node @host_node (-1:
 * none); both are OS indexes. The guest misses the time that the host needs to take the
 * thread over. Caches of the engine stay on the node where they were made. -EINVAL: no
 * such vCPU, or the PU cannot be used; nothing has changed.
 */
int vmm_move_vcpu(struct vm *vm, unsigned vcpu, unsigned pu, int host_node);
/*
 * Moves a stretch of a guest node's memory, in whole pages, to host node @to; the guest
 * runs on and loses no store. An embedder moves all of it stretch by stretch, as fast as
 * suits it, and may stop after any; with the last one the plan changes. Beside the other
 * calls, but one at a time. Errors are those of host.h's mem_move().
 */
int vmm_move_memory(struct vm *vm, unsigned node, uint64_t offset, uint64_t bytes, int to);
/* I/O threads are the embedder's: it tells where it has put them, for the plan. */
void vmm_note_io(struct vm *vm, const struct plan_io *io, unsigned nr);
/* A guest node's memory. Constant but for its node. NULL: no such node. */
const struct host_mem *vmm_memory(const struct vm *vm, unsigned node);

unsigned vmm_vcpus(const struct vm *vm);
uint64_t vmm_stat(struct vm *vm, unsigned vcpu, enum vcpu_stat id);
/* What populating memory came to; bytes 0: nothing was. */
const struct mem_report *vmm_populated(const struct vm *vm);
/* Where a guest node's memory is now, page by page. -ENOSYS: nobody knows. */
int vmm_memory_where(struct vm *vm, unsigned guest_node, struct host_where *out);
/* CPU time from creation to the first guest instruction, in host now_ns() terms. */
uint64_t vmm_startup_ns(const struct vm *vm);

/* For a debugger; the machine is paused. */
void vmm_get_state(struct vm *vm, unsigned vcpu, struct cpu_state *s);
int vmm_set_state(struct vm *vm, unsigned vcpu, const struct cpu_state *s);
int vmm_read_gva(struct vm *vm, unsigned vcpu, uint64_t gva, void *buf, size_t bytes);
int vmm_write_gva(struct vm *vm, unsigned vcpu, uint64_t gva, const void *buf, size_t bytes);
int vmm_debug_point(struct vm *vm, bool add, enum debug_point_kind kind, uint64_t gva,
		    unsigned bytes);
/* One instruction of one vCPU; debug_stop() tells when it is done. */
int vmm_step(struct vm *vm, unsigned vcpu);

#endif
