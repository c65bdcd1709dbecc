/* compare.c - the states of two vCPUs, compared; see compare.h. */
#include "compare.h"

#include <stdio.h>
#include <string.h>

#define MULTIPLIER 0x9e3779b97f4a7c15ull

/* The x87, SSE and extended states up to AVX-512 in the standard form. */
#define XSAVE_COMPARED 2688

struct word {
	const char *name;
	unsigned offset, bytes;
};

#define WORD(field)                                                                                \
	{                                                                                          \
#field, offsetof(struct cpu_state, field), sizeof(((struct cpu_state *)0)->field)  \
	}
#define SEGMENT(field) WORD(field.selector), WORD(field.attr), WORD(field.limit), WORD(field.base)

/* Field by field, because what lies between them may be anything. */
static const struct word words[] = {
	WORD(gpr[RAX]),
	WORD(gpr[RCX]),
	WORD(gpr[RDX]),
	WORD(gpr[RBX]),
	WORD(gpr[RSP]),
	WORD(gpr[RBP]),
	WORD(gpr[RSI]),
	WORD(gpr[RDI]),
	WORD(gpr[R8]),
	WORD(gpr[R9]),
	WORD(gpr[R10]),
	WORD(gpr[R11]),
	WORD(gpr[R12]),
	WORD(gpr[R13]),
	WORD(gpr[R14]),
	WORD(gpr[R15]),
	WORD(rip),
	WORD(rflags),
	SEGMENT(seg[SEG_ES]),
	SEGMENT(seg[SEG_CS]),
	SEGMENT(seg[SEG_SS]),
	SEGMENT(seg[SEG_DS]),
	SEGMENT(seg[SEG_FS]),
	SEGMENT(seg[SEG_GS]),
	SEGMENT(ldtr),
	SEGMENT(tr),
	WORD(gdtr.base),
	WORD(gdtr.limit),
	WORD(idtr.base),
	WORD(idtr.limit),
	WORD(cr0),
	WORD(cr2),
	WORD(cr3),
	WORD(cr4),
	WORD(dr[0]),
	WORD(dr[1]),
	WORD(dr[2]),
	WORD(dr[3]),
	WORD(dr6),
	WORD(dr7),
	WORD(xcr0),
	WORD(efer),
	WORD(star),
	WORD(lstar),
	WORD(cstar),
	WORD(sfmask),
	WORD(kernel_gs_base),
	WORD(sysenter_cs),
	WORD(sysenter_esp),
	WORD(sysenter_eip),
	WORD(tsc_offset),
	WORD(tsc_adjust),
	WORD(tsc_aux),
	WORD(tsc_deadline),
	WORD(pat),
	WORD(apic_base),
	WORD(misc_enable),
	WORD(spec_ctrl),
	WORD(mtrr_def_type),
	WORD(kvm_system_time),
	WORD(kvm_wall_clock),
	WORD(kvm_steal_time),
	WORD(kvm_eoi),
	WORD(kvm_poll),
	WORD(mp_state),
	WORD(sti_shadow),
	WORD(movss_shadow),
	WORD(nmi_blocked),
	WORD(nmi_pending),
};

static uint64_t word_of(const struct cpu_state *s, const struct word *w)
{
	uint64_t v = 0;

	memcpy(&v, (const uint8_t *)s + w->offset, w->bytes);
	return v;
}

static uint64_t mix(uint64_t h, uint64_t v)
{
	h = (h ^ v) * MULTIPLIER;
	return h ^ h >> 29;
}

/* Four lanes, so that memory and not the multiplier is the limit. */
uint64_t bytes_hash(const void *p, size_t bytes, uint64_t seed)
{
	uint64_t lane[4] = { seed, seed + 1, seed + 2, seed + 3 };
	const uint8_t *from = p;

	for (; bytes >= 32; bytes -= 32, from += 32)
		for (unsigned i = 0; i < 4; i++)
			lane[i] = mix(lane[i], load_u64(from + i * 8));
	return mix(mix(lane[0], lane[1]), mix(lane[2], lane[3]));
}

uint64_t state_hash(const struct cpu_state *s, enum compare_flags how)
{
	uint64_t h = bytes_hash(s->xsave, XSAVE_COMPARED, 1);

	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		uint64_t v = word_of(s, &words[i]);

		if (how == COMPARE_NO_FLAGS &&
		    words[i].offset == offsetof(struct cpu_state, rflags))
			v &= ~(uint64_t)RFLAGS_ARITH;
		h = mix(h, v);
	}
	return h;
}

unsigned state_show(const struct cpu_state *a, const struct cpu_state *b, const char *name_a,
		    const char *name_b)
{
	unsigned differences = 0;

	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		unsigned long long va = word_of(a, &words[i]), vb = word_of(b, &words[i]);

		if (va == vb)
			continue;
		printf("  %-16s %s %#llx, %s %#llx\n", words[i].name, name_a, va, name_b, vb);
		differences++;
	}
	for (unsigned i = 0; i < XSAVE_COMPARED; i += 8) {
		unsigned long long va = load_u64(a->xsave + i), vb = load_u64(b->xsave + i);

		if (va == vb)
			continue;
		printf("  xsave+%-10u %s %#llx, %s %#llx\n", i, name_a, va, name_b, vb);
		differences++;
	}
	return differences;
}
