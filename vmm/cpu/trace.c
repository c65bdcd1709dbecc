/* trace.c - one line an instruction; see trace.h. Called by the run loop. */
#include "cpu/trace.h"

#include "cpu/decode.h"
#include "cpu/mmu.h"

#include <stdio.h>

/* The bytes at s.rip, as many as are mapped, without a side effect. */
static unsigned read_code(struct cpu *c, uint8_t *buf)
{
	uint64_t gva = c->s.rip, gpa;
	unsigned n;

	if (c->mode != MODE_64)
		gva = (uint32_t)(gva + c->s.seg[SEG_CS].base);
	for (n = 0; n < INSN_BYTES_MAX; n++)
		if (mmu_translate(c, gva + n, &gpa) || gmem_read(&c->vm->gmem, gpa, &buf[n], 1))
			break;
	return n;
}

static void disassemble(struct cpu *c, const uint8_t *code, unsigned bytes, char *text, size_t size)
{
	ZydisDecodedOperand operand[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction insn;
	ZydisFormatter formatter;
	struct decoder dec;

	decoder_init(&dec, decode_key_of(c), &c->vm->cpuid);
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&dec.zydis, code, bytes, &insn, operand)) ||
	    !ZYAN_SUCCESS(ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL)) ||
	    !ZYAN_SUCCESS(ZydisFormatterFormatInstruction(&formatter, &insn, operand,
							  insn.operand_count_visible, text, size,
							  c->s.rip, NULL)))
		snprintf(text, size, "?");
}

void trace_insn(struct cpu *c)
{
	uint8_t code[INSN_BYTES_MAX];
	unsigned bytes = read_code(c, code);
	char text[128], line[192];

	if (!c->vm->cfg.trace)
		return;
	disassemble(c, code, bytes, text, sizeof(text));
	snprintf(line, sizeof(line), "%u %016llx %s", c->vcpu->id, (unsigned long long)c->s.rip,
		 text);
	c->vm->cfg.trace(c->vm->cfg.arg, line);
}
