/*
 * state.c - struct cpu_state to and from KVM.
 *
 * The order of writing matters: system registers decide how the rest is read,
 * general registers drop pending exceptions, the local APIC must be in its mode
 * before its page comes, and its timer's deadline needs the time.
 */
#include "kvm.h"

#define XSTATE_BV 512 /* offset of the XSAVE header */
#define XCR0_BASE 3   /* x87 and SSE */

#define APIC_ID          0x20
#define APIC_TPR         8 /* the register's number */
#define APIC_BASE_X2APIC BIT(10)
#define SHADOW_STI       KVM_X86_SHADOW_INT_STI
#define SHADOW_MOV_SS    KVM_X86_SHADOW_INT_MOV_SS

/* --- general registers --------------------------------------------------------------- */

static void regs_to_state(const struct kvm_regs *r, struct cpu_state *s)
{
	const uint64_t gpr[GPR_COUNT] = {
		r->rax, r->rcx, r->rdx, r->rbx, r->rsp, r->rbp, r->rsi, r->rdi,
		r->r8,  r->r9,  r->r10, r->r11, r->r12, r->r13, r->r14, r->r15,
	};

	memcpy(s->gpr, gpr, sizeof(gpr));
	s->rip = r->rip;
	s->rflags = r->rflags;
}

static struct kvm_regs regs_of_state(const struct cpu_state *s)
{
	const uint64_t *g = s->gpr;

	return (struct kvm_regs){
		.rax = g[RAX],
		.rcx = g[RCX],
		.rdx = g[RDX],
		.rbx = g[RBX],
		.rsp = g[RSP],
		.rbp = g[RBP],
		.rsi = g[RSI],
		.rdi = g[RDI],
		.r8 = g[R8],
		.r9 = g[R9],
		.r10 = g[R10],
		.r11 = g[R11],
		.r12 = g[R12],
		.r13 = g[R13],
		.r14 = g[R14],
		.r15 = g[R15],
		.rip = s->rip,
		.rflags = s->rflags,
	};
}

/* --- system registers ------------------------------------------------------------------ */

static struct segment segment_of(const struct kvm_segment *k)
{
	uint32_t attr = k->type | (k->s ? SEG_S : 0) | (uint32_t)k->dpl << SEG_DPL_SHIFT |
			(k->present ? SEG_P : 0) | (k->avl ? SEG_AVL : 0) | (k->l ? SEG_L : 0) |
			(k->db ? SEG_DB : 0) | (k->g ? SEG_G : 0) |
			(k->unusable ? SEG_UNUSABLE : 0);

	return (struct segment){
		.selector = k->selector, .attr = attr, .limit = k->limit, .base = k->base
	};
}

static struct kvm_segment kvm_segment_of(const struct segment *s)
{
	return (struct kvm_segment){
		.base = s->base,
		.limit = s->limit,
		.selector = s->selector,
		.type = s->attr & SEG_TYPE,
		.s = (s->attr & SEG_S) != 0,
		.dpl = (s->attr & SEG_DPL) >> SEG_DPL_SHIFT,
		.present = (s->attr & SEG_P) != 0,
		.avl = (s->attr & SEG_AVL) != 0,
		.l = (s->attr & SEG_L) != 0,
		.db = (s->attr & SEG_DB) != 0,
		.g = (s->attr & SEG_G) != 0,
		.unusable = (s->attr & SEG_UNUSABLE) != 0,
	};
}

static void sregs_to_state(const struct kvm_sregs *k, struct cpu_state *s)
{
	s->seg[SEG_ES] = segment_of(&k->es);
	s->seg[SEG_CS] = segment_of(&k->cs);
	s->seg[SEG_SS] = segment_of(&k->ss);
	s->seg[SEG_DS] = segment_of(&k->ds);
	s->seg[SEG_FS] = segment_of(&k->fs);
	s->seg[SEG_GS] = segment_of(&k->gs);
	s->ldtr = segment_of(&k->ldt);
	s->tr = segment_of(&k->tr);
	s->gdtr = (struct desc_table){ .base = k->gdt.base, .limit = k->gdt.limit };
	s->idtr = (struct desc_table){ .base = k->idt.base, .limit = k->idt.limit };
	s->cr0 = k->cr0;
	s->cr2 = k->cr2;
	s->cr3 = k->cr3;
	s->cr4 = k->cr4;
	s->efer = k->efer;
	s->apic_base = k->apic_base;
}

static void sregs_of_state(const struct cpu_state *s, struct kvm_sregs *k)
{
	k->es = kvm_segment_of(&s->seg[SEG_ES]);
	k->cs = kvm_segment_of(&s->seg[SEG_CS]);
	k->ss = kvm_segment_of(&s->seg[SEG_SS]);
	k->ds = kvm_segment_of(&s->seg[SEG_DS]);
	k->fs = kvm_segment_of(&s->seg[SEG_FS]);
	k->gs = kvm_segment_of(&s->seg[SEG_GS]);
	k->ldt = kvm_segment_of(&s->ldtr);
	k->tr = kvm_segment_of(&s->tr);
	k->gdt = (struct kvm_dtable){ .base = s->gdtr.base, .limit = s->gdtr.limit };
	k->idt = (struct kvm_dtable){ .base = s->idtr.base, .limit = s->idtr.limit };
	k->cr0 = s->cr0;
	k->cr2 = s->cr2;
	k->cr3 = s->cr3;
	k->cr4 = s->cr4;
	k->efer = s->efer;
	k->apic_base = s->apic_base;
}

/* CR8 is the APIC's to say; an interrupt on its way comes with the events. */
static int set_sregs(struct kvm_cpu *c, const struct cpu_state *s)
{
	struct kvm_sregs k;
	int err = kvm_ioctl(c->fd, KVM_GET_SREGS, &k);

	if (err)
		return err;
	if (s->apic_valid)
		k.cr8 = s->apic[APIC_TPR] >> 4 & 15;
	memset(k.interrupt_bitmap, 0, sizeof(k.interrupt_bitmap));
	sregs_of_state(s, &k);
	return kvm_ioctl(c->fd, KVM_SET_SREGS, &k);
}

/* --- x87, SSE, AVX ----------------------------------------------------------------------- */

_Static_assert(sizeof(((struct kvm_xsave *)0)->region) == XSAVE_BYTES, "one XSAVE area");

static int get_xsave(struct kvm_cpu *c, struct cpu_state *s)
{
	struct kvm_xcrs xcrs;
	struct kvm_xsave x;
	int err = kvm_ioctl(c->fd, KVM_GET_XSAVE, &x);

	if (err)
		return err;
	memcpy(s->xsave, x.region, XSAVE_BYTES);
	s->xcr0 = 1;
	if (!c->machine->has_xcrs)
		return 0;
	err = kvm_ioctl(c->fd, KVM_GET_XCRS, &xcrs);
	if (!err)
		s->xcr0 = xcrs.xcrs[0].value;
	return err;
}

/* Every component of the area is valid, which its header need not say. */
static int set_xsave(struct kvm_cpu *c, const struct cpu_state *s)
{
	struct kvm_xcrs xcrs = { .nr_xcrs = 1, .xcrs = { { .xcr = 0, .value = s->xcr0 } } };
	struct kvm_xsave x;
	int err;

	memcpy(x.region, s->xsave, XSAVE_BYTES);
	memset((uint8_t *)x.region + XSTATE_BV, 0, 64);
	store_u64((uint8_t *)x.region + XSTATE_BV, s->xcr0 | XCR0_BASE);
	err = kvm_ioctl(c->fd, KVM_SET_XSAVE, &x);
	if (err || !c->machine->has_xcrs)
		return err;
	return kvm_ioctl(c->fd, KVM_SET_XCRS, &xcrs);
}

/* --- debug registers, events, what it waits for ---------------------------------------------- */

static int get_debugregs(struct kvm_cpu *c, struct cpu_state *s)
{
	struct kvm_debugregs d;
	int err = kvm_ioctl(c->fd, KVM_GET_DEBUGREGS, &d);

	if (err)
		return err;
	for (unsigned i = 0; i < 4; i++)
		s->dr[i] = d.db[i];
	s->dr6 = d.dr6;
	s->dr7 = d.dr7;
	return 0;
}

static int set_debugregs(struct kvm_cpu *c, const struct cpu_state *s)
{
	struct kvm_debugregs d = { .dr6 = s->dr6, .dr7 = s->dr7 };

	for (unsigned i = 0; i < 4; i++)
		d.db[i] = s->dr[i];
	return kvm_ioctl(c->fd, KVM_SET_DEBUGREGS, &d);
}

static void event_to_state(const struct kvm_vcpu_events *e, struct cpu_state *s)
{
	if (e->interrupt.injected) {
		s->event.kind = e->interrupt.soft ? EVENT_SOFT_INTERRUPT : EVENT_INTERRUPT;
		s->event.vector = e->interrupt.nr;
	} else if (e->exception.injected || e->exception.pending) {
		s->event.kind = EVENT_EXCEPTION;
		s->event.vector = e->exception.nr;
		s->event.has_error = e->exception.has_error_code;
		s->event.error = e->exception.error_code;
	}
}

static int get_events(struct kvm_cpu *c, struct cpu_state *s)
{
	struct kvm_vcpu_events e;
	int err = kvm_ioctl(c->fd, KVM_GET_VCPU_EVENTS, &e);

	if (err)
		return err;
	event_to_state(&e, s);
	s->sti_shadow = e.interrupt.shadow & SHADOW_STI;
	s->movss_shadow = e.interrupt.shadow & SHADOW_MOV_SS;
	s->nmi_blocked = e.nmi.masked;
	s->nmi_pending = e.nmi.pending || e.nmi.injected;
	return 0;
}

static int set_events(struct kvm_cpu *c, const struct cpu_state *s)
{
	enum event_kind kind = s->event.kind;
	struct kvm_vcpu_events e = {
		.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW,
		.nmi = { .masked = s->nmi_blocked, .pending = s->nmi_pending },
	};

	e.interrupt.shadow =
		(uint8_t)((s->sti_shadow ? SHADOW_STI : 0) | (s->movss_shadow ? SHADOW_MOV_SS : 0));
	if (kind == EVENT_INTERRUPT || kind == EVENT_SOFT_INTERRUPT) {
		e.interrupt.injected = 1;
		e.interrupt.soft = kind == EVENT_SOFT_INTERRUPT;
		e.interrupt.nr = s->event.vector;
	} else if (kind == EVENT_EXCEPTION) {
		e.exception.injected = 1;
		e.exception.nr = s->event.vector;
		e.exception.has_error_code = s->event.has_error;
		e.exception.error_code = s->event.error;
	}
	return kvm_ioctl(c->fd, KVM_SET_VCPU_EVENTS, &e);
}

static int get_mp_state(struct kvm_cpu *c, struct cpu_state *s)
{
	struct kvm_mp_state mp;
	int err = kvm_ioctl(c->fd, KVM_GET_MP_STATE, &mp);

	if (err)
		return err;
	switch (mp.mp_state) {
	case KVM_MP_STATE_UNINITIALIZED:
	case KVM_MP_STATE_INIT_RECEIVED:
	case KVM_MP_STATE_SIPI_RECEIVED:
		s->mp_state = MP_WAIT_SIPI;
		break;
	case KVM_MP_STATE_HALTED:
		s->mp_state = MP_HALTED;
		break;
	default:
		s->mp_state = MP_RUNNING;
		break;
	}
	return 0;
}

/* A reset vCPU waits for INIT, so that a SIPI left over from before does not start it. */
static int set_mp_state(struct kvm_cpu *c, const struct cpu_state *s, bool reset)
{
	struct kvm_mp_state mp = { .mp_state = KVM_MP_STATE_RUNNABLE };

	if (s->mp_state == MP_HALTED)
		mp.mp_state = KVM_MP_STATE_HALTED;
	else if (s->mp_state == MP_WAIT_SIPI)
		mp.mp_state = reset ? KVM_MP_STATE_UNINITIALIZED : KVM_MP_STATE_INIT_RECEIVED;
	return kvm_ioctl(c->fd, KVM_SET_MP_STATE, &mp);
}

/* --- the local APIC: a register in the first four of 16 bytes
 * -------------------------------------- */

static int get_apic(struct kvm_cpu *c, struct cpu_state *s)
{
	struct kvm_lapic_state page;
	int err = kvm_ioctl(c->fd, KVM_GET_LAPIC, &page);

	for (unsigned i = 0; i < APIC_REGS; i++)
		s->apic[i] = err ? 0 : load_u32(page.regs + 16 * i);
	s->apic_valid = !err;
	return err;
}

/* The ID is the vCPU's own: the page of another engine may have it in the other mode's form. */
static int set_apic(struct kvm_cpu *c, const struct cpu_state *s)
{
	struct kvm_lapic_state page = { { 0 } };
	uint32_t id = c->vcpu->apic_id;

	for (unsigned i = 0; i < APIC_REGS; i++)
		store_u32(page.regs + 16 * i, s->apic[i]);
	store_u32(page.regs + APIC_ID, s->apic_base & APIC_BASE_X2APIC ? id : id << 24);
	return kvm_ioctl(c->fd, KVM_SET_LAPIC, &page);
}

/* --- the whole -------------------------------------------------------------------------------- */

static int read_state(struct kvm_cpu *c, struct cpu_state *s)
{
	struct kvm_sregs sregs;
	struct kvm_regs regs;
	int err = get_mp_state(c, s); /* first: it takes INIT and SIPI that wait */

	if (!err)
		err = kvm_ioctl(c->fd, KVM_GET_REGS, &regs);
	if (!err)
		err = kvm_ioctl(c->fd, KVM_GET_SREGS, &sregs);
	if (err)
		return err;
	regs_to_state(&regs, s);
	sregs_to_state(&sregs, s);
	err = get_xsave(c, s);
	if (!err)
		err = get_debugregs(c, s);
	if (!err)
		err = get_events(c, s);
	if (!err)
		err = get_apic(c, s);
	return err;
}

void kvm_get_state(struct vcpu *v, struct cpu_state *s)
{
	struct kvm_cpu *c = kvm_cpu_of(v);
	int err;

	memset(s, 0, sizeof(*s));
	err = read_state(c, s);
	if (err)
		vcpu_log(v, LOG_ERR, "KVM: reading the state: %s", strerror(-err));
	kvm_get_msrs(c, s);
	kvm_read_tsc(c);
	s->tsc_offset = c->tsc_offset;
	s->tsc_deadline = c->tsc_deadline;
}

static int write_apic(struct kvm_cpu *c, const struct cpu_state *s, bool reset)
{
	if (reset)
		return kvm_ioctl(c->fd, KVM_SET_LAPIC, &c->lapic_reset);
	return s->apic_valid ? set_apic(c, s) : 0;
}

static int write_state(struct kvm_cpu *c, const struct cpu_state *s, bool reset)
{
	struct kvm_regs regs = regs_of_state(s);
	int err = set_sregs(c, s);

	if (!err)
		err = kvm_ioctl(c->fd, KVM_SET_REGS, &regs);
	if (!err)
		err = set_xsave(c, s);
	if (!err)
		err = set_debugregs(c, s);
	if (!err)
		err = write_apic(c, s, reset);
	if (err)
		return err;

	c->tsc_offset = s->tsc_offset;
	c->tsc_deadline = s->tsc_deadline;
	c->clock_set = false; /* the next entry sets them */
	err = kvm_set_msrs(c, s);
	if (!err)
		err = set_mp_state(c, s, reset);
	return err ? err : set_events(c, s);
}

int kvm_set_state(struct vcpu *v, const struct cpu_state *s)
{
	return write_state(kvm_cpu_of(v), s, false);
}

int kvm_reset_state(struct vcpu *v, const struct cpu_state *s)
{
	return write_state(kvm_cpu_of(v), s, true);
}
