/*
 * ipi.c - the interrupt fabric: from a destination to posted bits.
 *
 * Physical destinations and x2APIC clusters are found through one table from APIC
 * ID to vCPU, constant once made. xAPIC logical IDs are the guest's to choose: for
 * each of their bits a set of vCPUs says who answers to it. A vCPU changes only its
 * own bits, atomically; a message that crosses such a change may go either way, as
 * it may on a bus. xAPIC IDs have 8 bits, so these sets have 256 members at most.
 */
#include "core/ipi.h"

#include "core/vm.h"

#include <errno.h>
#include <stdlib.h>

#define NO_VCPU      UINT16_MAX
#define XAPIC_IDS    255 /* 255 is the broadcast */
#define CLUSTERS     15  /* 15 is the broadcast */
#define CLUSTER_BITS 4
#define FLAT_BITS    8

/* vCPUs by APIC ID, below 256. */
struct id_set {
	_Atomic uint64_t word[4];
};

struct ipi {
	struct vm *vm;
	uint32_t nr_ids;
	uint16_t *by_id; /* APIC ID to index into vm->vcpu, or NO_VCPU */

	/* Who answers to which bit of an 8-bit logical destination. */
	struct id_set flat[FLAT_BITS];
	struct id_set cluster[CLUSTERS][CLUSTER_BITS];
	/* vCPUs in xAPIC mode: 0xff is a broadcast to them. */
	struct id_set xapic;
};

struct id_snapshot {
	uint64_t word[4];
};

int ipi_create(struct vm *vm, struct ipi **out)
{
	struct ipi *f = calloc(1, sizeof(*f));
	uint32_t max = 0;

	if (!f)
		return -ENOMEM;
	for (unsigned i = 0; i < vm->nr_vcpus; i++)
		max = MAX(max, vm->vcpu[i]->apic_id);
	f->vm = vm;
	f->nr_ids = max + 1;
	f->by_id = malloc(f->nr_ids * sizeof(*f->by_id));
	if (!f->by_id) {
		free(f);
		return -ENOMEM;
	}
	for (uint32_t id = 0; id < f->nr_ids; id++)
		f->by_id[id] = NO_VCPU;
	for (unsigned i = 0; i < vm->nr_vcpus; i++)
		f->by_id[vm->vcpu[i]->apic_id] = (uint16_t)i;
	*out = f;
	return 0;
}

void ipi_destroy(struct vm *vm, struct ipi *f)
{
	if (!f)
		return;
	free(f->by_id);
	free(f);
}

struct vcpu *ipi_find(const struct ipi *f, uint32_t apic_id)
{
	if (apic_id >= f->nr_ids || f->by_id[apic_id] == NO_VCPU)
		return NULL;
	return f->vm->vcpu[f->by_id[apic_id]];
}

/* --- one target ---------------------------------------------------------------------- */

/* The level bit is in place before the owner can see the pending one. */
void ipi_post(struct vcpu *t, uint8_t vector, bool level)
{
	_Atomic uint64_t *levels = &t->posted.level[vector / 64];
	uint64_t bit = BIT64(vector % 64);

	if (level)
		atomic_fetch_or(levels, bit);
	else if (atomic_load_explicit(levels, memory_order_relaxed) & bit)
		atomic_fetch_and(levels, ~bit);
	/* Whoever set it has told the owner, or is about to. */
	if (!(atomic_fetch_or(&t->posted.pending[vector / 64], bit) & bit))
		vcpu_post(t, VCPU_INTR);
}

void ipi_signal(struct vcpu *t, uint32_t signals)
{
	atomic_fetch_or(&t->posted.signals, signals);
	vcpu_post(t, VCPU_INTR);
}

static void post_message(struct vcpu *t, const struct ipi_message *m)
{
	switch (m->mode) {
	case IPI_FIXED:
	case IPI_LOWEST:
		ipi_post(t, m->vector, m->level);
		break;
	case IPI_NMI:
		ipi_signal(t, POSTED_NMI);
		break;
	case IPI_INIT:
		ipi_signal(t, POSTED_INIT);
		break;
	case IPI_SIPI:
		atomic_store(&t->posted.sipi, m->vector);
		ipi_signal(t, POSTED_SIPI);
		break;
	default: /* no SMM; ExtINT messages have nobody to ask for a vector */
		break;
	}
}

/* --- sets of targets ------------------------------------------------------------------- */

static void set_add(struct id_set *s, uint32_t id)
{
	atomic_fetch_or(&s->word[id / 64], BIT64(id % 64));
}

static void set_del(struct id_set *s, uint32_t id)
{
	atomic_fetch_and(&s->word[id / 64], ~BIT64(id % 64));
}

static void set_join(struct id_snapshot *to, struct id_set *from)
{
	for (unsigned i = 0; i < 4; i++)
		to->word[i] |= atomic_load_explicit(&from->word[i], memory_order_acquire);
}

/* Once per vCPU and change, so that looking at every bit does not matter. */
void ipi_set_logical(struct ipi *f, struct vcpu *c, uint8_t ldr, bool cluster, bool x2apic)
{
	uint32_t id = c->apic_id;

	if (id >= XAPIC_IDS)
		return;
	for (unsigned b = 0; b < FLAT_BITS; b++)
		set_del(&f->flat[b], id);
	for (unsigned n = 0; n < CLUSTERS * CLUSTER_BITS; n++)
		set_del(&f->cluster[n / CLUSTER_BITS][n % CLUSTER_BITS], id);
	set_del(&f->xapic, id);
	if (x2apic)
		return;
	set_add(&f->xapic, id);
	for (unsigned b = 0; !cluster && b < FLAT_BITS; b++) {
		if (ldr & BIT(b))
			set_add(&f->flat[b], id);
	}
	for (unsigned b = 0; cluster && ldr >> 4 < CLUSTERS && b < CLUSTER_BITS; b++) {
		if (ldr & BIT(b))
			set_add(&f->cluster[ldr >> 4][b], id);
	}
}

static void logical_set(struct ipi *f, uint8_t dest, struct id_snapshot *s)
{
	if (dest == 0xff) {
		set_join(s, &f->xapic);
		return;
	}
	for (unsigned b = 0; b < FLAT_BITS; b++) {
		if (dest & BIT(b))
			set_join(s, &f->flat[b]);
	}
	for (unsigned b = 0; dest >> 4 < CLUSTERS && b < CLUSTER_BITS; b++) {
		if (dest & BIT(b))
			set_join(s, &f->cluster[dest >> 4][b]);
	}
}

static unsigned set_count(const struct id_snapshot *s)
{
	unsigned n = 0;

	for (unsigned i = 0; i < 4; i++)
		n += (unsigned)__builtin_popcountll(s->word[i]);
	return n;
}

/*
 * Lowest priority: which of the processors gets it is the chipset's choice. Spread
 * by vector, so that the same interrupt stays where its data is.
 */
static unsigned send_set(struct ipi *f, struct id_snapshot *s, const struct ipi_message *m)
{
	unsigned members = set_count(s), sent = 0, n = 0;
	bool one = m->mode == IPI_LOWEST && members;
	unsigned chosen = one ? m->vector % members : 0;

	for (unsigned i = 0; i < 4; i++) {
		for (; s->word[i]; s->word[i] &= s->word[i] - 1, n++) {
			unsigned bit = (unsigned)__builtin_ctzll(s->word[i]);
			struct vcpu *t = ipi_find(f, i * 64 + bit);

			if (!t || (one && n != chosen))
				continue;
			post_message(t, m);
			sent++;
		}
	}
	return sent;
}

/* An x2APIC cluster has 16 consecutive APIC IDs; SDM vol. 3, 11.12.10.2. */
static unsigned send_cluster(struct ipi *f, const struct ipi_message *m)
{
	uint32_t base = m->dest >> 16 << 4, members = m->dest & 0xffff;
	unsigned sent = 0;

	for (; members; members &= members - 1) {
		struct vcpu *t = ipi_find(f, base + (unsigned)__builtin_ctz(members));

		if (!t)
			continue;
		post_message(t, m);
		sent++;
		if (m->mode == IPI_LOWEST)
			break;
	}
	return sent;
}

/* The one case that is about every vCPU. */
static unsigned send_all(struct ipi *f, const struct ipi_message *m, const struct vcpu *but)
{
	unsigned sent = 0;

	for (unsigned i = 0; i < f->vm->nr_vcpus; i++) {
		if (f->vm->vcpu[i] == but)
			continue;
		post_message(f->vm->vcpu[i], m);
		sent++;
		if (m->mode == IPI_LOWEST)
			break;
	}
	return sent;
}

static unsigned send_one(struct ipi *f, const struct ipi_message *m)
{
	struct vcpu *t = ipi_find(f, m->dest);

	if (!t)
		return 0;
	post_message(t, m);
	return 1;
}

static bool somebody_in_xapic_mode(struct ipi *f)
{
	struct id_snapshot s = { { 0 } };

	set_join(&s, &f->xapic);
	return set_count(&s);
}

/* An 8-bit destination: of an xAPIC, of an MSI without the extension. */
static unsigned send_narrow(struct ipi *f, const struct ipi_message *m)
{
	bool xapic = somebody_in_xapic_mode(f);
	struct id_snapshot s = { { 0 } };

	if (!m->logical && (m->dest != 0xff || !xapic))
		return send_one(f, m);
	if (m->logical && !xapic)
		return send_cluster(f, m);
	logical_set(f, (uint8_t)m->dest, &s);
	return send_set(f, &s, m);
}

unsigned ipi_send(struct ipi *f, const struct ipi_message *m)
{
	switch (m->shorthand) {
	case IPI_SELF:
		post_message(m->by, m);
		return 1;
	case IPI_ALL:
		return send_all(f, m, NULL);
	case IPI_OTHERS:
		return send_all(f, m, m->by);
	default:
		break;
	}
	if (!m->wide)
		return send_narrow(f, m);
	if (m->dest == IPI_BROADCAST)
		return send_all(f, m, NULL);
	return m->logical ? send_cluster(f, m) : send_one(f, m);
}

/* --- from devices ---------------------------------------------------------------------------- */

/*
 * SDM vol. 3, 11.11. Address bits 11:5 carry bits 14:8 of the destination: the
 * extension that KVM_FEATURE_MSI_EXT_DEST_ID announces.
 */
void ipi_msi(struct vm *vm, uint64_t addr, uint32_t data)
{
	uint32_t high = addr >> 5 & 0x7f;
	struct ipi_message m = {
		.mode = (enum ipi_mode)(data >> 8 & 7),
		.vector = (uint8_t)data,
		.level = data >> 15 & 1,
		.logical = addr >> 2 & 1,
		.dest = (addr >> 12 & 0xff) | high << 8,
		.wide = high != 0,
	};

	if ((addr & ~0xfffffull) != 0xfee00000)
		return; /* a write to memory; devices have DMA for that */
	if ((m.mode == IPI_FIXED || m.mode == IPI_LOWEST) && m.vector < 16)
		return;
	if (m.mode == IPI_SIPI || m.mode == IPI_RESERVED)
		return;
	ipi_send(vm_ipi(vm), &m);
}

/* The PIC is wired to the BSP alone. */
void ipi_extint(struct vm *vm, bool level)
{
	struct vcpu *bsp = vm->vcpu[0];

	if (level)
		ipi_signal(bsp, POSTED_EXTINT);
	else
		atomic_fetch_and(&bsp->posted.signals, ~POSTED_EXTINT);
}

void ipi_nmi(struct vcpu *c)
{
	ipi_signal(c, POSTED_NMI);
}
