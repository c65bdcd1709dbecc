/*
 * gdb_regs.c - see gdb_regs.h. One table gives the numbers, the description and the place
 * of each register in struct cpu_state.
 *
 * x87 and SSE registers lie in the FXSAVE image with which an XSAVE area begins (SDM vol. 1,
 * 10.5.1); GDB wants its own form of the tag word alone.
 */
#include "gdb_regs.h"

#include <stdio.h>
#include <stdlib.h>

#define FX(offset)     (offsetof(struct cpu_state, xsave) + (offset))
#define FX_FSW         2
#define FX_FTW         4
#define FX_ST          32
#define XSTATE_BV      512
#define XSTATE_X87_SSE 3

struct reg {
	const char *name;
	const char *type;
	uint8_t bytes;  /* as GDB sees it */
	uint8_t stored; /* in struct cpu_state; the rest reads as zero */
	uint16_t offset;
};

#define STATE(field) (uint16_t) offsetof(struct cpu_state, field)
#define GPR(n, r, t)                                                                               \
	{                                                                                          \
		n, t, 8, 8, STATE(gpr[r])                                                          \
	}
#define SEG(n, r)                                                                                  \
	{                                                                                          \
		n, "int32", 4, 2, STATE(seg[r].selector)                                           \
	}
#define X87(n, off)                                                                                \
	{                                                                                          \
		n, "int", 4, 2, (uint16_t)FX(off)                                                  \
	}
#define ST(n)                                                                                      \
	{                                                                                          \
		"st" #n, "i387_ext", 10, 10, (uint16_t)FX(FX_ST + 16 * (n))                        \
	}
#define XMM(n)                                                                                     \
	{                                                                                          \
		"xmm" #n, "vec128", 16, 16, (uint16_t)FX(160 + 16 * (n))                           \
	}
#define WIDE(n, field, t)                                                                          \
	{                                                                                          \
		n, t, 8, 8, STATE(field)                                                           \
	}

/* clang-format off */
static const struct reg core[] = {
	GPR("rax", RAX, "int64"), GPR("rbx", RBX, "int64"), GPR("rcx", RCX, "int64"),
	GPR("rdx", RDX, "int64"), GPR("rsi", RSI, "int64"), GPR("rdi", RDI, "int64"),
	GPR("rbp", RBP, "data_ptr"), GPR("rsp", RSP, "data_ptr"),
	GPR("r8", R8, "int64"), GPR("r9", R9, "int64"), GPR("r10", R10, "int64"),
	GPR("r11", R11, "int64"), GPR("r12", R12, "int64"), GPR("r13", R13, "int64"),
	GPR("r14", R14, "int64"), GPR("r15", R15, "int64"),
	WIDE("rip", rip, "code_ptr"), { "eflags", "i386_eflags", 4, 4, STATE(rflags) },
	SEG("cs", SEG_CS), SEG("ss", SEG_SS), SEG("ds", SEG_DS), SEG("es", SEG_ES),
	SEG("fs", SEG_FS), SEG("gs", SEG_GS),
	ST(0), ST(1), ST(2), ST(3), ST(4), ST(5), ST(6), ST(7),
	X87("fctrl", 0), X87("fstat", FX_FSW), X87("ftag", FX_FTW),
	X87("fiseg", 12), { "fioff", "int", 4, 4, (uint16_t)FX(8) },
	X87("foseg", 20), { "fooff", "int", 4, 4, (uint16_t)FX(16) },
	X87("fop", 6),
};

static const struct reg sse[] = {
	XMM(0), XMM(1), XMM(2), XMM(3), XMM(4), XMM(5), XMM(6), XMM(7),
	XMM(8), XMM(9), XMM(10), XMM(11), XMM(12), XMM(13), XMM(14), XMM(15),
	{ "mxcsr", "i386_mxcsr", 4, 4, (uint16_t)FX(24) },
};

static const struct reg segments[] = {
	WIDE("fs_base", seg[SEG_FS].base, "int64"), WIDE("gs_base", seg[SEG_GS].base, "int64"),
};

static const struct reg control[] = {
	WIDE("k_gs_base", kernel_gs_base, "int64"), WIDE("cr0", cr0, "int64"),
	WIDE("cr2", cr2, "int64"), WIDE("cr3", cr3, "int64"), WIDE("cr4", cr4, "int64"),
	WIDE("efer", efer, "int64"),
};
/* clang-format on */

static const char flag_types[] =
	"<flags id=\"i386_eflags\" size=\"4\">"
	"<field name=\"CF\" start=\"0\" end=\"0\"/><field name=\"PF\" start=\"2\" end=\"2\"/>"
	"<field name=\"AF\" start=\"4\" end=\"4\"/><field name=\"ZF\" start=\"6\" end=\"6\"/>"
	"<field name=\"SF\" start=\"7\" end=\"7\"/><field name=\"TF\" start=\"8\" end=\"8\"/>"
	"<field name=\"IF\" start=\"9\" end=\"9\"/><field name=\"DF\" start=\"10\" end=\"10\"/>"
	"<field name=\"OF\" start=\"11\" end=\"11\"/><field name=\"NT\" start=\"14\" end=\"14\"/>"
	"<field name=\"RF\" start=\"16\" end=\"16\"/><field name=\"VM\" start=\"17\" end=\"17\"/>"
	"<field name=\"AC\" start=\"18\" end=\"18\"/><field name=\"ID\" start=\"21\" end=\"21\"/>"
	"</flags>";

static const char sse_types[] =
	"<vector id=\"v4f\" type=\"ieee_single\" count=\"4\"/>"
	"<vector id=\"v2d\" type=\"ieee_double\" count=\"2\"/>"
	"<vector id=\"v16i8\" type=\"int8\" count=\"16\"/>"
	"<vector id=\"v8i16\" type=\"int16\" count=\"8\"/>"
	"<vector id=\"v4i32\" type=\"int32\" count=\"4\"/>"
	"<vector id=\"v2i64\" type=\"int64\" count=\"2\"/>"
	"<union id=\"vec128\"><field name=\"v4_float\" type=\"v4f\"/>"
	"<field name=\"v2_double\" type=\"v2d\"/><field name=\"v16_int8\" type=\"v16i8\"/>"
	"<field name=\"v8_int16\" type=\"v8i16\"/><field name=\"v4_int32\" type=\"v4i32\"/>"
	"<field name=\"v2_int64\" type=\"v2i64\"/><field name=\"uint128\" type=\"uint128\"/>"
	"</union>"
	"<flags id=\"i386_mxcsr\" size=\"4\">"
	"<field name=\"IE\" start=\"0\" end=\"0\"/><field name=\"DE\" start=\"1\" end=\"1\"/>"
	"<field name=\"ZE\" start=\"2\" end=\"2\"/><field name=\"OE\" start=\"3\" end=\"3\"/>"
	"<field name=\"UE\" start=\"4\" end=\"4\"/><field name=\"PE\" start=\"5\" end=\"5\"/>"
	"<field name=\"DAZ\" start=\"6\" end=\"6\"/><field name=\"IM\" start=\"7\" end=\"7\"/>"
	"<field name=\"DM\" start=\"8\" end=\"8\"/><field name=\"ZM\" start=\"9\" end=\"9\"/>"
	"<field name=\"OM\" start=\"10\" end=\"10\"/><field name=\"UM\" start=\"11\" end=\"11\"/>"
	"<field name=\"PM\" start=\"12\" end=\"12\"/><field name=\"FZ\" start=\"15\" end=\"15\"/>"
	"</flags>";

static const struct feature {
	const char *name;
	const char *types;
	const struct reg *reg;
	unsigned nr;
} features[] = {
	{ "org.gnu.gdb.i386.core", flag_types, core, ARRAY_SIZE(core) },
	{ "org.gnu.gdb.i386.sse", sse_types, sse, ARRAY_SIZE(sse) },
	{ "org.gnu.gdb.i386.segments", "", segments, ARRAY_SIZE(segments) },
	{ "alcazar.control", "", control, ARRAY_SIZE(control) },
};

unsigned gdb_regs_count(void)
{
	unsigned n = 0;

	for (size_t i = 0; i < ARRAY_SIZE(features); i++)
		n += features[i].nr;
	return n;
}

static const struct reg *reg_of(unsigned n)
{
	size_t i = 0;

	while (n >= features[i].nr)
		n -= features[i++].nr;
	return &features[i].reg[n];
}

/* --- the tag word ----------------------------------------------------------------- */

#define TAG_VALID   0
#define TAG_ZERO    1
#define TAG_SPECIAL 2
#define TAG_EMPTY   3

static unsigned tag_of(const uint8_t *st)
{
	uint64_t mantissa = load_u64(st);
	unsigned exponent = load_u16(st + 8) & 0x7fffu;

	if (exponent == 0x7fff)
		return TAG_SPECIAL;
	if (!exponent)
		return mantissa ? TAG_SPECIAL : TAG_ZERO;
	return mantissa >> 63 ? TAG_VALID : TAG_SPECIAL;
}

/* FXSAVE has a bit a physical register, GDB two; SDM vol. 1, table 10-3. */
static uint16_t full_tags(const uint8_t *fx)
{
	unsigned top = (load_u16(fx + FX_FSW) >> 11) & 7, tags = 0;

	for (unsigned r = 0; r < 8; r++) {
		unsigned st = (r - top) & 7;
		unsigned tag = fx[FX_FTW] & BIT(r) ? tag_of(fx + FX_ST + 16 * st) : TAG_EMPTY;

		tags |= tag << (2 * r);
	}
	return (uint16_t)tags;
}

static uint8_t short_tags(uint16_t full)
{
	unsigned tags = 0;

	for (unsigned r = 0; r < 8; r++)
		if (((full >> (2 * r)) & 3) != TAG_EMPTY)
			tags |= BIT(r);
	return (uint8_t)tags;
}

/* --- access ----------------------------------------------------------------------- */

size_t gdb_reg_bytes(unsigned n)
{
	return reg_of(n)->bytes;
}

size_t gdb_reg_get(const struct cpu_state *s, unsigned n, uint8_t out[GDB_REG_BYTES_MAX])
{
	const struct reg *r = reg_of(n);

	memset(out, 0, GDB_REG_BYTES_MAX);
	if (r->offset == FX(FX_FTW))
		store_u16(out, full_tags(s->xsave));
	else
		memcpy(out, (const uint8_t *)s + r->offset, r->stored);
	return r->bytes;
}

void gdb_reg_set(struct cpu_state *s, unsigned n, const uint8_t in[GDB_REG_BYTES_MAX])
{
	const struct reg *r = reg_of(n);

	if (r->offset == FX(FX_FTW))
		s->xsave[FX_FTW] = short_tags(load_u16(in));
	else
		memcpy((uint8_t *)s + r->offset, in, r->stored);
	if (r->offset >= FX(0))
		s->xsave[XSTATE_BV] |= XSTATE_X87_SSE; /* no longer in their initial state */
}

char *gdb_regs_xml(void)
{
	char *xml = NULL;
	size_t bytes;
	FILE *f = open_memstream(&xml, &bytes);

	if (!f)
		return NULL;
	fputs("<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\"><target>"
	      "<architecture>i386:x86-64</architecture>",
	      f);
	for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
		fprintf(f, "<feature name=\"%s\">%s", features[i].name, features[i].types);
		for (unsigned n = 0; n < features[i].nr; n++)
			fprintf(f, "<reg name=\"%s\" bitsize=\"%u\" type=\"%s\"/>",
				features[i].reg[n].name, features[i].reg[n].bytes * 8u,
				features[i].reg[n].type);
		fputs("</feature>", f);
	}
	fputs("</target>", f);
	if (fclose(f)) {
		free(xml);
		return NULL;
	}
	return xml;
}
