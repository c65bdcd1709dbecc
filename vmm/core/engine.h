/*
 * engine.h - the CPU seam: what executes guest code.
 *
 * vcpu_* operations are called on the vCPU's own thread, except where noted.
 * A device access may come back as an exit, or the engine may make it itself
 * by bus_access(): an interpreted instruction can touch a device in its middle.
 */
#ifndef VMM_CORE_ENGINE_H
#define VMM_CORE_ENGINE_H

#include "core/cpu_state.h"
#include "core/util.h"

struct host;
struct vcpu;
struct vm;
struct debug_points;
struct dev_doorbell;

enum exit_reason {
	EXIT_KICK,  /* an event was posted, or a kick left over from before */
	EXIT_PIO,   /* io */
	EXIT_MMIO,  /* io */
	EXIT_HALT,  /* idle until an interrupt or an event */
	EXIT_RESET, /* triple fault: detail is RIP */
	EXIT_DEBUG, /* a debugger's breakpoint, watchpoint or step: detail is the address */
	EXIT_ERROR, /* the engine cannot go on: detail is the engine's own */
	EXIT_REASONS
};

struct io_access {
	uint64_t addr;
	uint64_t data; /* zero-extended; ones where nothing answers */
	uint8_t size;  /* 1, 2, 4 or 8 bytes */
	bool is_write;
};

struct vcpu_exit {
	enum exit_reason reason;
	uint64_t detail;
	struct io_access io;
};

enum debug_point_kind { DEBUG_EXEC, DEBUG_WRITE, DEBUG_READ, DEBUG_ACCESS };

struct engine_ops {
	const char *name;
	/* The processor walks second-level page tables for the guest: huge pages pay. */
	bool second_level;

	/*
	 * For who may choose: is it worth taking here? Else -errno, and why[] says what is
	 * missing and what to do. create() finds out by itself what it needs.
	 */
	int (*probe)(const struct host *h, char *why, size_t why_bytes);

	/*
	 * Machine-wide state, after vm->gmem and vm->clock are set up: vm->engine_data.
	 * This and vcpu_create() may leave a line for the user by vm_refuse().
	 */
	int (*create)(struct vm *vm);
	void (*destroy)(struct vm *vm);

	size_t vcpu_bytes; /* wanted behind each struct vcpu, zeroed: see vcpu_bytes() */
	int (*vcpu_create)(struct vcpu *c);   /* c->engine_data, on the vCPU's node */
	void (*vcpu_destroy)(struct vcpu *c); /* any thread, once all vCPUs' have ended */

	/*
	 * Runs until something needs the loop. 0, or -errno when the machine must end.
	 * A vCPU that is halted and has no work returns EXIT_HALT at once. Under
	 * CLOCK_ICOUNT returns EXIT_KICK exactly when clock_next_deadline() is reached;
	 * the loop runs due timers before it enters again.
	 */
	int (*run)(struct vcpu *c, struct vcpu_exit *x);
	/* Any thread. Sticky: ends this run() or the next. */
	void (*kick)(struct vcpu *c);
	/*
	 * True when an interrupt, an NMI or a start-up message waits that ends HLT;
	 * if not, *deadline_ns is when the local timer will (guest time).
	 */
	bool (*has_work)(struct vcpu *c, uint64_t *deadline_ns);

	/* Any thread: a message-signalled interrupt, SDM vol. 3, 11.11. */
	void (*msi)(struct vm *vm, uint64_t addr, uint32_t data);
	/*
	 * Any thread, one at a time for each message: what message @id says, from now on; and
	 * sending it. Both NULL: they go by msi().
	 */
	void (*message)(struct vm *vm, unsigned id, uint64_t addr, uint32_t data);
	void (*message_send)(struct vm *vm, unsigned id);
	/*
	 * Writes at @gpa, which is not 0, are to end in dev_ring(), called by an event thread,
	 * and not in an exit; 0: no longer. With vm->map_lock held. -errno: they exit as
	 * before. Then doorbell_free(), with no lock held. Both NULL: it cannot.
	 */
	int (*doorbell)(struct vm *vm, struct dev_doorbell *b, uint64_t gpa);
	void (*doorbell_free)(struct vm *vm, struct dev_doorbell *b);
	/*
	 * Any thread, one at a time: begin or end to keep account of the pages that vCPUs write;
	 * the account of a slot of vm->gmem since it was last taken, a bit a page, into @bitmap,
	 * whose last word is whole. -errno. Both NULL: it cannot.
	 */
	int (*dirty_log)(struct vm *vm, bool on);
	int (*dirty_take)(struct vm *vm, unsigned slot, uint64_t *bitmap);
	/* Any thread: the PIC's output changed; level true asks the BSP to take ExtINT. */
	void (*extint)(struct vm *vm, bool level);
	/* Any thread. */
	void (*nmi)(struct vcpu *c);

	/* The vCPU is parked or not yet running; any thread. */
	void (*get_state)(struct vcpu *c, struct cpu_state *s);
	int (*set_state)(struct vcpu *c, const struct cpu_state *s);
	/* Power-up state, local APIC included; the BSP runs, the others wait for SIPI. */
	void (*reset)(struct vcpu *c);

	/* For a debugger, with every vCPU parked. */
	int (*translate)(struct vcpu *c, uint64_t gva, uint64_t *gpa);
	int (*debug_point)(struct vm *vm, bool add, enum debug_point_kind kind, uint64_t gva,
			   unsigned bytes);
	void (*single_step)(struct vcpu *c, bool on);
	/* Any thread: memory was changed by others than vCPUs; code decoded from it is stale. */
	void (*code_changed)(struct vm *vm, uint64_t gpa, uint64_t bytes);
};

extern const struct engine_ops engine_interp; /* vmm/cpu: the interpreter */
extern const struct engine_ops engine_soft; /* the translator, and the interpreter where need be */

#endif
