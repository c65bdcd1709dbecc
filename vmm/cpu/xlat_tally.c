/*
 * xlat_tally.c - translated code that counts itself; see xlat_tally.h. All of it
 * belongs to the vCPU's thread.
 */
#include "cpu/xlat_tally.h"

#include <errno.h>

#define SEGMENTS_MAX   65536u
/* Segments of one block: up to five an access, and one an edge or a piece of cold code. */
#define BLOCK_SEGMENTS (XBLOCK_INSNS * 12u)

struct segment_code {
	uint64_t begin, end; /* where it runs; its counting comes before */
	enum xtally_kind kind;
};

struct xtally {
	unsigned nr;
	bool open; /* the last one has no end yet */
	struct xtally_sum folded;
	struct segment_code code[SEGMENTS_MAX];
	uint64_t runs[SEGMENTS_MAX]; /* emitted code counts here, by c->x.tally */
};

int xtally_create(struct cpu *c, int node)
{
	const struct host *h = &c->vm->host;
	struct xtally *t = h->ops->alloc(h->ctx, sizeof(*t), node);

	if (!t)
		return -ENOMEM;
	c->xlat->tally = t;
	c->x.tally = t->runs;
	return 0;
}

void xtally_destroy(struct cpu *c)
{
	const struct host *h = &c->vm->host;

	if (c->xlat->tally)
		h->ops->free(h->ctx, c->xlat->tally, sizeof(*c->xlat->tally));
	c->xlat->tally = NULL;
}

/* --- while a block is emitted -------------------------------------------------------- */

/* Registers and flags stay: this may stand between any two instructions. */
static void emit_bump(struct emit *e, unsigned segment)
{
	int32_t at = (int32_t)(segment * sizeof(uint64_t));

	emit_push(e, H_R10);
	emit_push(e, H_R11);
	emit_gs_load(e, H_R11, CPU_OFF(x.tally));
	emit_load(e, true, 0x8b, H_R10, H_R11, at);
	emit_lea(e, true, H_R10, H_R10, H_NONE, 0, 1);
	emit_load(e, true, 0x89, H_R10, H_R11, at);
	emit_pop(e, H_R11);
	emit_pop(e, H_R10);
}

void xtally_end(struct xlat *x)
{
	struct xtally *t = x->tally;

	if (!t || !t->open)
		return;
	t->code[t->nr - 1].end = emit_here(&x->e);
	t->open = false;
}

void xtally_begin(struct xlat *x, enum xtally_kind kind)
{
	struct xtally *t = x->tally;

	if (!t)
		return;
	xtally_end(x);
	emit_bump(&x->e, t->nr);
	t->runs[t->nr] = 0;
	t->code[t->nr++] = (struct segment_code){ emit_here(&x->e), 0, kind };
	t->open = true;
}

bool xtally_full(const struct xlat *x)
{
	return x->tally && x->tally->nr + BLOCK_SEGMENTS > SEGMENTS_MAX;
}

unsigned xtally_mark(const struct xlat *x)
{
	return x->tally ? x->tally->nr : 0;
}

/* The one that was open at the mark is so again. */
void xtally_rewind(struct xlat *x, unsigned mark)
{
	if (!x->tally)
		return;
	x->tally->nr = mark;
	x->tally->open = true;
}

/* --- sums ---------------------------------------------------------------------------- */

/* Where running address @at can be read. */
static const uint8_t *code_at(const struct xlat *x, uint64_t at)
{
	return (const uint8_t *)(uintptr_t)((int64_t)at - x->e.rx);
}

static unsigned count_insns(const struct xlat *x, const struct segment_code *s)
{
	ZydisDecodedInstruction z;
	unsigned n = 0;

	for (uint64_t at = s->begin; at < s->end; at += z.length, n++)
		if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&x->decoder.zydis, NULL,
								code_at(x, at), s->end - at, &z)))
			break;
	return n;
}

static void add_up(const struct xlat *x, struct xtally_sum *sum)
{
	const struct xtally *t = x->tally;

	for (unsigned i = 0; i < t->nr; i++) {
		if (!t->runs[i])
			continue;
		sum->runs[t->code[i].kind] += t->runs[i];
		sum->insns[t->code[i].kind] += t->runs[i] * count_insns(x, &t->code[i]);
	}
}

void xtally_fold(struct xlat *x)
{
	if (!x->tally)
		return;
	add_up(x, &x->tally->folded);
	x->tally->nr = 0;
	x->tally->open = false;
}

struct xtally_sum xtally_sum(struct xlat *x)
{
	struct xtally_sum sum = x->tally->folded;

	add_up(x, &sum);
	return sum;
}

void xtally_show(const struct xlat *x, uint64_t runs,
		 void (*print)(uint64_t runs, enum xtally_kind kind, const char *text))
{
	const struct xtally *t = x->tally;
	ZydisDisassembledInstruction d;

	for (unsigned i = 0; i < t->nr; i++) {
		const struct segment_code *s = &t->code[i];

		if (t->runs[i] < runs)
			continue;
		for (uint64_t at = s->begin; at < s->end; at += d.info.length) {
			if (!ZYAN_SUCCESS(ZydisDisassembleIntel(ZYDIS_MACHINE_MODE_LONG_64, at,
								code_at(x, at), s->end - at, &d)))
				break;
			print(t->runs[i], s->kind, d.text);
		}
	}
}
