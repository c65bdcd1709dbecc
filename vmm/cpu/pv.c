/*
 * pv.c - the KVM paravirtual interface, so that stock guests find what they know.
 *
 * Pages the guest names are guest-physical RAM (#GP otherwise); their host address
 * is kept, since the memory map does not change. Fields the guest also writes are
 * changed by atomics. Everything runs on the vCPU's own thread.
 *
 * The clock: guest nanoseconds are a fixed function of ticks (clock.h), the same for
 * every vCPU, and a vCPU's TSC differs from ticks by a constant. So the page says
 * "at TSC tsc_offset it was 0" once and stays true: that is what TSC_STABLE promises.
 */
#include "cpu/pv.h"

#include "core/ipi.h"
#include "cpu/lapic.h"
#include "cpu/mmu.h"
#include "cpu/sys.h"
#include "cpu/xlat.h"

#include <errno.h>

#define PV_ENABLE BIT(0)

/* struct pvclock_vcpu_time_info */
enum {
	CLOCK_VERSION = 0,
	CLOCK_TSC = 8,
	CLOCK_NS = 16,
	CLOCK_MUL = 24,
	CLOCK_SHIFT = 28,
	CLOCK_FLAGS = 29,
	CLOCK_BYTES = 32
};
#define CLOCK_TSC_STABLE BIT(0)

/* struct pvclock_wall_clock */
enum { WALL_VERSION = 0, WALL_SEC = 4, WALL_NSEC = 8, WALL_BYTES = 12 };

/* struct kvm_steal_time */
enum { STEAL_NS = 0, STEAL_VERSION = 8, STEAL_PREEMPTED = 16, STEAL_BYTES = 64 };
#define PREEMPTED       BIT(0)
#define PREEMPTED_FLUSH BIT(1)
#define STEAL_RESERVED  0x3eull

#define YIELD_NS 5000 /* a yield that nobody took is shorter */

#define EOI_BYTES   4
#define EOI_PENDING BIT(0)

/* Hypercalls and their errors. */
enum { HC_VAPIC_POLL_IRQ = 1, HC_KICK_CPU = 5, HC_SEND_IPI = 10, HC_SCHED_YIELD = 11 };
#define HC_EPERM  (-1ll)
#define HC_ENOSYS (-1000ll)

struct pv {
	uint8_t *clock; /* host addresses; NULL: not enabled */
	uint8_t *steal;
	uint8_t *eoi;
	bool eoi_offered; /* the guest may end the interrupt in service in memory */
};

int pv_create(struct cpu *c, int host_node)
{
	const struct host *h = &c->vm->host;

	c->pv = h->ops->alloc(h->ctx, sizeof(*c->pv), host_node);
	return c->pv ? 0 : -ENOMEM;
}

void pv_destroy(struct cpu *c)
{
	const struct host *h = &c->vm->host;

	if (c->pv)
		h->ops->free(h->ctx, c->pv, sizeof(*c->pv));
	c->pv = NULL;
}

/* --- the clock ---------------------------------------------------------------------------- */

/*
 * ns = (ticks << shift) * mul >> 32, a right shift where it is negative; with mul in
 * [2^31, 2^32), the most exact there is.
 */
static void clock_scale(const struct guest_clock *k, uint32_t *mul, int8_t *shift)
{
	unsigned __int128 m = ((unsigned __int128)1000000 << 64) / k->khz; /* ns a tick */
	int fraction = 64;

	while (m >> 32) {
		m >>= 1;
		fraction--;
	}
	*mul = (uint32_t)m;
	*shift = (int8_t)(32 - fraction);
}

/* The version is odd while the rest changes; a reader on another vCPU tries again. */
static void version_begin(uint8_t *p)
{
	gmem_store_u32(p, (gmem_load_u32(p) | 1));
	atomic_thread_fence(memory_order_release);
}

static void version_end(uint8_t *p)
{
	atomic_thread_fence(memory_order_release);
	gmem_store_u32(p, gmem_load_u32(p) + 1);
}

void pv_clock_update(struct cpu *c)
{
	uint8_t *p = c->pv->clock;
	uint32_t mul;
	int8_t shift;

	if (!p)
		return;
	xlat_outside(c);
	clock_scale(&c->vm->clock, &mul, &shift);
	version_begin(p + CLOCK_VERSION);
	guest_store_u64(p + CLOCK_TSC, c->s.tsc_offset); /* the page is aligned to 4 alone */
	guest_store_u64(p + CLOCK_NS, 0);
	gmem_store_u32(p + CLOCK_MUL, mul);
	gmem_store_u8(p + CLOCK_SHIFT, (uint8_t)shift);
	gmem_store_u8(p + CLOCK_FLAGS, CLOCK_TSC_STABLE);
	version_end(p + CLOCK_VERSION);
}

static void wall_clock_write(struct cpu *c, uint8_t *p)
{
	uint64_t boot_ns = c->vm->clock.wall_base_ns;

	version_begin(p + WALL_VERSION);
	gmem_store_u32(p + WALL_SEC, (uint32_t)(boot_ns / NSEC_PER_SEC));
	gmem_store_u32(p + WALL_NSEC, (uint32_t)(boot_ns % NSEC_PER_SEC));
	version_end(p + WALL_VERSION);
}

/* --- ending interrupts in memory ----------------------------------------------------------------
 */

void pv_interrupt(struct cpu *c)
{
	struct pv *pv = c->pv;

	if (!pv->eoi || !lapic_only_edge_in_service(c))
		return;
	gmem_store_u32(pv->eoi, gmem_load_u32(pv->eoi) | EOI_PENDING);
	pv->eoi_offered = true;
}

/* The guest clears the bit instead of writing EOI. */
bool pv_eoi_taken(const struct cpu *c)
{
	return c->pv->eoi_offered && !(gmem_load_u32(c->pv->eoi) & EOI_PENDING);
}

void pv_take_eoi(struct cpu *c)
{
	if (!pv_eoi_taken(c))
		return;
	c->pv->eoi_offered = false;
	lapic_eoi(c);
}

static void withdraw(struct pv *pv)
{
	if (!pv->eoi_offered)
		return;
	pv->eoi_offered = false;
	gmem_store_u32(pv->eoi, gmem_load_u32(pv->eoi) & ~EOI_PENDING);
}

void pv_review_eoi(struct cpu *c)
{
	if (c->pv->eoi_offered && !lapic_only_edge_in_service(c))
		withdraw(c->pv);
}

void pv_sync_eoi(struct cpu *c)
{
	pv_take_eoi(c);
	withdraw(c->pv);
}

/* --- steal time
 * ------------------------------------------------------------------------------------ */

void pv_sleep(struct cpu *c)
{
	if (c->pv->steal)
		gmem_store_u8(c->pv->steal + STEAL_PREEMPTED, PREEMPTED);
}

void pv_resume(struct cpu *c)
{
	uint8_t *p = c->pv->steal, was;

	if (!p)
		return;
	was = __atomic_exchange_n(p + STEAL_PREEMPTED, 0, __ATOMIC_SEQ_CST);
	if (was & PREEMPTED_FLUSH)
		mmu_flush_all(c);
}

static void steal_add(struct cpu *c, uint64_t ns)
{
	uint8_t *p = c->pv->steal;

	if (!p)
		return;
	version_begin(p + STEAL_VERSION);
	gmem_store_u64(p + STEAL_NS, gmem_load_u64(p + STEAL_NS) + ns);
	version_end(p + STEAL_VERSION);
}

/* What comes back later than a yield takes has been given to somebody else. */
void pv_yield(struct cpu *c)
{
	const struct host *h = &c->vm->host;
	uint64_t start, ns;

	xlat_outside(c);
	start = h->ops->now_ns(h->ctx);
	h->ops->thread_yield(h->ctx);
	ns = h->ops->now_ns(h->ctx) - start;
	if (ns >= YIELD_NS && c->vm->clock.source == CLOCK_HOST)
		steal_add(c, ns);
}

/* --- MSRs
 * --------------------------------------------------------------------------------------------- */

static bool find_page(struct cpu *c, uint64_t gpa, unsigned bytes, uint8_t **hva)
{
	*hva = gmem_ptr(&c->vm->gmem, gpa, bytes);
	return *hva;
}

/* @mask: the bits that are not the address. */
static bool set_page(struct cpu *c, uint64_t v, uint64_t mask, unsigned bytes, uint8_t **hva)
{
	if (!(v & PV_ENABLE)) {
		*hva = NULL;
		return true;
	}
	return find_page(c, v & ~mask, bytes, hva);
}

static bool set_system_time(struct cpu *c, uint64_t v)
{
	uint8_t *hva;

	if (!set_page(c, v, PV_ENABLE, CLOCK_BYTES, &hva))
		return false;
	if ((v & 3) == 3 || (hva && (uintptr_t)hva % 4))
		return false;
	c->s.kvm_system_time = v;
	c->pv->clock = hva;
	pv_clock_update(c);
	return true;
}

static bool set_wall_clock(struct cpu *c, uint64_t v)
{
	uint8_t *hva;

	if ((v & 3) || !find_page(c, v, WALL_BYTES, &hva))
		return false;
	c->s.kvm_wall_clock = v;
	wall_clock_write(c, hva);
	return true;
}

static bool set_steal_time(struct cpu *c, uint64_t v)
{
	uint8_t *hva;

	if ((v & STEAL_RESERVED) || !set_page(c, v, PV_ENABLE, STEAL_BYTES, &hva))
		return false;
	c->s.kvm_steal_time = v;
	c->pv->steal = hva;
	steal_add(c, 0);
	pv_resume(c);
	return true;
}

static bool set_eoi(struct cpu *c, uint64_t v)
{
	uint8_t *hva;

	if ((v & 2) || !set_page(c, v, PV_ENABLE, EOI_BYTES, &hva))
		return false;
	pv_sync_eoi(c);
	c->s.kvm_eoi = v;
	c->pv->eoi = hva;
	return true;
}

/* A guest that polls by itself wants HLT to sleep. */
static void set_poll(struct cpu *c, uint64_t v)
{
	c->s.kvm_poll = v;
	c->vcpu->halt_poll.refused = !v;
}

bool pv_rdmsr(struct cpu *c, uint32_t msr, uint64_t *v, bool *ok)
{
	*ok = true;
	switch (msr) {
	case MSR_KVM_WALL_CLOCK:
	case MSR_KVM_WALL_CLOCK_OLD:
		*v = c->s.kvm_wall_clock;
		return true;
	case MSR_KVM_SYSTEM_TIME:
	case MSR_KVM_SYSTEM_TIME_OLD:
		*v = c->s.kvm_system_time;
		return true;
	case MSR_KVM_STEAL_TIME:
		*v = c->s.kvm_steal_time;
		return true;
	case MSR_KVM_EOI_EN:
		*v = c->s.kvm_eoi;
		return true;
	case MSR_KVM_POLL_CONTROL:
		*v = c->s.kvm_poll;
		return true;
	default:
		return false;
	}
}

bool pv_wrmsr(struct cpu *c, uint32_t msr, uint64_t v, bool *ok)
{
	switch (msr) {
	case MSR_KVM_WALL_CLOCK:
	case MSR_KVM_WALL_CLOCK_OLD:
		*ok = set_wall_clock(c, v);
		return true;
	case MSR_KVM_SYSTEM_TIME:
	case MSR_KVM_SYSTEM_TIME_OLD:
		*ok = set_system_time(c, v);
		return true;
	case MSR_KVM_STEAL_TIME:
		*ok = set_steal_time(c, v);
		return true;
	case MSR_KVM_EOI_EN:
		*ok = set_eoi(c, v);
		return true;
	case MSR_KVM_POLL_CONTROL:
		*ok = !(v & ~1ull);
		if (*ok)
			set_poll(c, v);
		return true;
	default:
		return false;
	}
}

void pv_restore(struct cpu *c)
{
	struct cpu_state *s = &c->s;

	if (!set_page(c, s->kvm_system_time, PV_ENABLE, CLOCK_BYTES, &c->pv->clock) ||
	    (uintptr_t)c->pv->clock % 4)
		c->pv->clock = NULL;
	if (!set_page(c, s->kvm_steal_time, PV_ENABLE, STEAL_BYTES, &c->pv->steal))
		c->pv->steal = NULL;
	if (!set_page(c, s->kvm_eoi, PV_ENABLE, EOI_BYTES, &c->pv->eoi))
		c->pv->eoi = NULL;
	c->pv->eoi_offered = c->pv->eoi && (gmem_load_u32(c->pv->eoi) & EOI_PENDING);
	set_poll(c, s->kvm_poll & 1);
	pv_clock_update(c);
}

/* --- hypercalls
 * ------------------------------------------------------------------------------------------- */

static int64_t kick_cpu(struct cpu *c, uint32_t apic_id)
{
	struct vcpu *t = ipi_find(vm_ipi(c->vm), apic_id);

	if (t)
		ipi_signal(t, POSTED_UNHALT);
	return 0;
}

/* Up to 128 vCPUs from APIC ID @min on, in one call. */
static int64_t send_ipis(struct cpu *c, const uint64_t bits[2], uint32_t min, uint64_t icr)
{
	struct ipi_message m = {
		.mode = (enum ipi_mode)(icr >> 8 & 7),
		.vector = (uint8_t)icr,
		.wide = true,
		.by = c->vcpu,
	};
	int64_t sent = 0;

	if (m.mode != IPI_FIXED && m.mode != IPI_NMI)
		return HC_ENOSYS;
	if (m.mode == IPI_FIXED && m.vector < 16)
		return 0;
	for (unsigned i = 0; i < 2; i++) {
		for (uint64_t w = bits[i]; w; w &= w - 1) {
			m.dest = min + i * 64 + (uint32_t)__builtin_ctzll(w);
			if (m.dest != IPI_BROADCAST)
				sent += ipi_send(vm_ipi(c->vm), &m);
		}
	}
	stat_add(&c->vcpu->stats, STAT_IPIS, (uint64_t)sent);
	return sent;
}

static int64_t hypercall(struct cpu *c, uint64_t nr, const uint64_t *arg)
{
	uint64_t bits[2] = { arg[0], arg[1] };

	if (c->cpl)
		return HC_EPERM;
	switch (nr) {
	case HC_VAPIC_POLL_IRQ:
		return 0;
	case HC_KICK_CPU:
		return kick_cpu(c, (uint32_t)arg[1]);
	case HC_SEND_IPI:
		if (c->mode != MODE_64) { /* 32 bits of each word */
			bits[0] |= bits[1] << 32;
			bits[1] = 0;
		}
		return send_ipis(c, bits, (uint32_t)arg[2], arg[3]);
	case HC_SCHED_YIELD:
		pv_yield(c);
		return 0;
	default:
		return HC_ENOSYS;
	}
}

enum sys_result sys_vmcall(struct cpu *c, const struct op *o)
{
	unsigned size = c->mode == MODE_64 ? 8 : 4;
	uint64_t arg[4] = {
		sys_get_reg(c, RBX, size),
		sys_get_reg(c, RCX, size),
		sys_get_reg(c, RDX, size),
		sys_get_reg(c, RSI, size),
	};

	xlat_outside(c);
	stat_add(&c->vcpu->stats, STAT_HYPERCALLS, 1);
	sys_set_reg(c, RAX, size, (uint64_t)hypercall(c, sys_get_reg(c, RAX, size), arg));
	return SYS_NEXT;
}
