/*
 * engine.c - KVM as an engine: engine_ops and the run loop.
 *
 * A kick sets immediate_exit in the vCPU's shared page and interrupts its thread:
 * KVM_RUN then returns at once, whether it was entered before or after. The loop
 * clears the word before it looks at events, so that nothing is lost. What the guest
 * asked of a device is complete only when KVM_RUN has been entered once more: so
 * after an access the loop goes back in, and looks at events when KVM says EINTR.
 *
 * HLT and start-up are the kernel's: a sleeping vCPU sleeps inside KVM_RUN.
 */
#include "engine_kvm.h"
#include "kvm.h"

#include <errno.h>
#include <sys/ioctl.h>

#define MSI_ADDR       0xfee00000ull
#define MSI_DEST_SHIFT 12
#define MSI_NMI        (4u << 8)

/* --- kicks -------------------------------------------------------------------------- */

/* Who finds it set already need not signal: whoever set it did, or is about to. */
static void kick(struct vcpu *v)
{
	const struct host *h = &v->vm->host;
	struct kvm_cpu *c = kvm_cpu_of(v);

	if (!__atomic_exchange_n(&c->run->immediate_exit, 1, __ATOMIC_SEQ_CST) && v->thread)
		h->ops->thread_kick(h->ctx, v->thread);
}

/* False: leave run(), the loop has something to do. */
static bool attend(struct kvm_cpu *c)
{
	struct vcpu *v = c->vcpu;

	__atomic_store_n(&c->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
	atomic_store(&v->attention, 0);
	if (atomic_fetch_and(&v->events, ~(uint32_t)VCPU_ENGINE_EVENTS) & VCPU_LOOP_EVENTS)
		return false;
	kvm_sync_clock(c);
	kvm_debug_apply(c);
	return true;
}

/* --- the PIC's interrupts ------------------------------------------------------------- */

static void set_extint(struct vm *vm, bool level)
{
	struct kvm_machine *m = machine_of(vm);

	atomic_store(&m->extint, level);
	if (level && vm->vcpu[0]->engine_data)
		vcpu_post(vm->vcpu[0], VCPU_INTR);
}

/* The vector is asked for only when the guest takes it for sure. */
static void offer_extint(struct kvm_cpu *c)
{
	struct kvm_run *run = c->run;
	struct kvm_interrupt irq;
	int vector;

	if (likely(!atomic_load_explicit(&c->machine->extint, memory_order_acquire))) {
		run->request_interrupt_window = 0;
		return;
	}
	if (run->ready_for_interrupt_injection && run->if_flag) {
		vector = irq_ack_extint(c->vcpu->vm);
		irq.irq = (uint32_t)vector;
		if (vector >= 0 && !kvm_ioctl(c->fd, KVM_INTERRUPT, &irq))
			run->ready_for_interrupt_injection = 0;
	}
	run->request_interrupt_window = atomic_load(&c->machine->extint);
}

/* --- devices ----------------------------------------------------------------------------- */

static void access_bus(struct kvm_cpu *c, struct bus *bus, struct io_access *io)
{
	struct vcpu *v = c->vcpu;
	bool pio = bus == &v->vm->pio;

	stat_add(&v->stats, pio ? STAT_PIO : STAT_MMIO, 1);
	if (!bus_access(bus, io))
		stat_add(&v->stats, STAT_BAD_ACCESSES, 1);
	if (unlikely(v->vm->cfg.trace_exits)) {
		struct vcpu_exit x = { .reason = pio ? EXIT_PIO : EXIT_MMIO, .io = *io };

		vcpu_trace_exit(v, &x);
	}
}

static void do_pio(struct kvm_cpu *c)
{
	const struct kvm_run *run = c->run;
	uint8_t *data = (uint8_t *)c->run + run->io.data_offset;

	for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size) {
		struct io_access io = {
			.addr = run->io.port,
			.size = run->io.size,
			.is_write = run->io.direction == KVM_EXIT_IO_OUT,
		};

		if (io.is_write)
			memcpy(&io.data, data, run->io.size);
		access_bus(c, &c->vcpu->vm->pio, &io);
		if (!io.is_write)
			memcpy(data, &io.data, run->io.size);
	}
}

/* An access that crosses pages comes in pieces, which need not be powers of two. */
static void do_mmio(struct kvm_cpu *c)
{
	struct kvm_run *run = c->run;
	uint32_t len = MIN(run->mmio.len, 8u);
	uint32_t piece = len & (len - 1) ? 1 : len;

	for (uint32_t at = 0; at < len; at += piece) {
		struct io_access io = {
			.addr = run->mmio.phys_addr + at,
			.size = (uint8_t)piece,
			.is_write = run->mmio.is_write,
		};

		if (io.is_write)
			memcpy(&io.data, run->mmio.data + at, piece);
		access_bus(c, &c->vcpu->vm->mmio, &io);
		if (!io.is_write)
			memcpy(run->mmio.data + at, &io.data, piece);
	}
}

/* True once a machine for each MSR, as long as there is room. */
static bool msr_is_news(struct kvm_machine *m, uint32_t msr)
{
	for (unsigned i = 0; i < KVM_UNKNOWN_MSRS; i++) {
		uint64_t seen = 0, key = msr | BIT64(63);

		if (atomic_compare_exchange_strong(&m->unknown_msr[i], &seen, key))
			return true;
		if (seen == key)
			return false;
	}
	return false;
}

/* An MSR that the filter or the kernel does not know: #GP, as on the other engine. */
static void refuse_msr(struct kvm_cpu *c)
{
	struct kvm_run *run = c->run;

	stat_add(&c->vcpu->stats, STAT_UNKNOWN_MSRS, 1);
	if (msr_is_news(c->machine, run->msr.index))
		vcpu_log(c->vcpu, LOG_INFO, "no MSR %#x (%s)", run->msr.index,
			 run->exit_reason == KVM_EXIT_X86_RDMSR ? "read" : "written");
	run->msr.error = 1;
}

/* --- exits --------------------------------------------------------------------------------- */

static bool leave(struct vcpu_exit *x, enum exit_reason reason, uint64_t detail)
{
	*x = (struct vcpu_exit){ .reason = reason, .detail = detail };
	return false;
}

static uint64_t rip_of(struct kvm_cpu *c)
{
	struct kvm_regs regs = { 0 };

	kvm_ioctl(c->fd, KVM_GET_REGS, &regs);
	return regs.rip;
}

static bool fail(struct kvm_cpu *c, struct vcpu_exit *x)
{
	const struct kvm_run *run = c->run;
	unsigned long long rip = rip_of(c);

	switch (run->exit_reason) {
	case KVM_EXIT_FAIL_ENTRY:
		vcpu_log(c->vcpu, LOG_ERR, "KVM: the processor refuses to enter at %#llx: %#llx",
			 rip, (unsigned long long)run->fail_entry.hardware_entry_failure_reason);
		break;
	case KVM_EXIT_INTERNAL_ERROR:
		vcpu_log(c->vcpu, LOG_ERR, "KVM: internal error %u at %#llx%s",
			 run->internal.suberror, rip,
			 run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION
				 ? ": it cannot emulate the instruction there"
				 : "");
		break;
	default:
		vcpu_log(c->vcpu, LOG_ERR, "KVM: exit %u at %#llx", run->exit_reason, rip);
		break;
	}
	return leave(x, EXIT_ERROR, run->exit_reason);
}

static void count_exit(struct kvm_cpu *c)
{
	_Atomic uint64_t *n = &c->exits[MIN(c->run->exit_reason, KVM_EXIT_KINDS - 1u)];

	atomic_store_explicit(n, atomic_load_explicit(n, memory_order_relaxed) + 1,
			      memory_order_relaxed);
}

/* False: leave run(), @x is filled. */
static bool handle(struct kvm_cpu *c, struct vcpu_exit *x)
{
	struct kvm_run *run = c->run;

	count_exit(c);
	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		do_pio(c);
		return true;
	case KVM_EXIT_MMIO:
		do_mmio(c);
		return true;
	case KVM_EXIT_IOAPIC_EOI:
		irq_eoi(c->vcpu->vm, run->eoi.vector);
		return true;
	case KVM_EXIT_IRQ_WINDOW_OPEN:
	case KVM_EXIT_INTR:
		return true;
	case KVM_EXIT_X86_RDMSR:
	case KVM_EXIT_X86_WRMSR:
		refuse_msr(c);
		return true;
	case KVM_EXIT_SHUTDOWN:
		return leave(x, EXIT_RESET, rip_of(c));
	case KVM_EXIT_DEBUG:
		return leave(x, EXIT_DEBUG, kvm_debug_detail(c));
	default:
		return fail(c, x);
	}
}

static void note_first_insn(struct vm *vm)
{
	uint64_t none = 0;

	if (likely(atomic_load_explicit(&vm->first_insn_ns, memory_order_relaxed)))
		return;
	atomic_compare_exchange_strong(&vm->first_insn_ns, &none,
				       vm->host.ops->now_ns(vm->host.ctx));
}

/* For a while, or for good: whoever asks for the counters now finds them. */
static int kicked(struct kvm_cpu *c, struct vcpu_exit *x)
{
	kvm_take_stats(c);
	leave(x, EXIT_KICK, 0);
	return 0;
}

static int run(struct vcpu *v, struct vcpu_exit *x)
{
	struct kvm_cpu *c = kvm_cpu_of(v);

	if (!attend(c))
		return kicked(c, x);
	note_first_insn(v->vm);
	for (;;) {
		if (v->id == 0)
			offer_extint(c);
		if (ioctl(c->fd, KVM_RUN, 0) == 0) {
			if (!handle(c, x))
				return 0;
			continue;
		}
		/* EAGAIN: an INIT or SIPI came for one that waited for it. */
		if (errno != EINTR && errno != EAGAIN) {
			int err = errno;

			vcpu_log(v, LOG_ERR, "KVM_RUN at %#llx: %s", (unsigned long long)rip_of(c),
				 strerror(err));
			return -err;
		}
		if (!attend(c))
			return kicked(c, x);
	}
}

/* --- the rest of the seam -------------------------------------------------------------------- */

/* A vCPU that has nothing to do waits inside run(). */
static bool has_work(struct vcpu *v, uint64_t *deadline_ns)
{
	*deadline_ns = HOST_FOREVER;
	return true;
}

/* By message: KVM_NMI would wait for the vCPU to leave guest code. */
static void send_nmi(struct vcpu *v)
{
	uint64_t dest = v->apic_id;

	kvm_msi(v->vm, MSI_ADDR | (dest & 0xff) << MSI_DEST_SHIFT | (dest >> 8 & 0x7f) << 5,
		MSI_NMI);
}

static int translate(struct vcpu *v, uint64_t gva, uint64_t *gpa)
{
	struct kvm_translation t = { .linear_address = gva };
	int err = kvm_ioctl(kvm_cpu_of(v)->fd, KVM_TRANSLATE, &t);

	if (err)
		return err;
	*gpa = t.physical_address;
	return t.valid ? 0 : -EFAULT;
}

static void code_changed(struct vm *vm, uint64_t gpa, uint64_t bytes)
{
	/* The processor sees what lies in memory. */
}

const struct engine_ops engine_kvm = {
	.name = "kvm",
	.second_level = true,
	.probe = kvm_probe,
	.create = kvm_machine_create,
	.destroy = kvm_machine_destroy,
	.vcpu_bytes = sizeof(struct kvm_cpu),
	.vcpu_create = kvm_vcpu_create,
	.vcpu_destroy = kvm_vcpu_destroy,
	.run = run,
	.kick = kick,
	.has_work = has_work,
	.msi = kvm_msi,
	.message = kvm_message,
	.message_send = kvm_message_send,
	.doorbell = kvm_doorbell,
	.doorbell_free = kvm_doorbell_free,
	.dirty_log = kvm_dirty_log,
	.dirty_take = kvm_dirty_take,
	.extint = set_extint,
	.nmi = send_nmi,
	.get_state = kvm_get_state,
	.set_state = kvm_set_state,
	.reset = kvm_vcpu_reset,
	.translate = translate,
	.debug_point = kvm_debug_point,
	.single_step = kvm_single_step,
	.code_changed = code_changed,
};
