/*
 * diff_gen.h - instruction forms and random cases of them.
 *
 * A form is what one would look up in a manual: a mnemonic with operands of
 * certain kinds and sizes, and the prefixes that change its meaning. They are
 * found by decoding every opcode of every map, so none is forgotten.
 */
#ifndef TESTS_UNIT_DIFF_GEN_H
#define TESTS_UNIT_DIFF_GEN_H

#include "diff.h"

#include <Zydis/Zydis.h>

enum form_encoding { FORM_LEGACY, FORM_VEX, FORM_EVEX };

struct form {
	bool compat; /* of 32-bit code */
	enum form_encoding encoding;
	uint8_t map;    /* 0: one byte, 1: 0F, 2: 0F38, 3: 0F3A */
	uint8_t prefix; /* 0 to 3 as VEX.pp: none, 66, F3, F2; 4: LOCK; 5, 6: 66 with F3, F2 */
	bool w, memory;
	uint8_t l; /* vector length; EVEX: with embedded rounding or broadcast 4 is added */
	uint8_t opcode;
	uint8_t reg, rm, vvvv, mask; /* as first found */
	bool vsib;
	bool opcode_reg; /* the low bits of the opcode name a register */
	uint64_t key;
	ZydisMnemonic mnemonic;
};

struct form_list {
	struct form *form;
	unsigned nr_forms;
	uint64_t *keys; /* hash table of those we have */
};

/*
 * Every form that computes, that the software engine offers and this host has, of
 * 64-bit or of 32-bit code; of mnemonic @only if that is not NULL.
 */
void forms_find(struct form_list *l, bool compat, const char *only);
void forms_free(struct form_list *l);

/* --- encoding one (diff_form.c) --- */

/* What a case chooses within a form. */
struct choice {
	uint8_t reg, rm, vvvv, base, index, scale; /* 4 bits, EVEX registers 5 */
	uint8_t mode;                              /* enum addressing */
	int32_t disp;
	uint8_t mask;
	bool zeroing;
	uint8_t segment; /* prefix byte, or 0 */
	bool addr32;
	uint64_t imm;
};

enum addressing {
	ADDR_BASE,
	ADDR_BASE8,
	ADDR_BASE32,
	ADDR_INDEX,
	ADDR_RIP,
	ADDR_ABS,
	ADDR_INDEX_ONLY,
	ADDR_MODES
};

/* The displacement alone is the address, as far as we choose it. */
static inline bool is_absolute(const struct choice *k)
{
	return k->mode == ADDR_ABS || k->mode == ADDR_INDEX_ONLY;
}

struct writer {
	uint8_t buf[32];
	unsigned n;
};

struct decoded {
	ZydisDecodedInstruction insn;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
};

/* The bytes of @f as @k chooses, decoded; false: there is no such instruction. */
bool form_encode(struct writer *w, const struct form *f, const struct choice *k, struct decoded *d);
bool form_decode(const struct writer *w, bool compat, struct decoded *d);
/* Mnemonic, operand kinds and sizes, and prefixes that matter, in a number. */
uint64_t form_key(const struct decoded *d);

/* --- cases (diff_gen.c) --- */

/* A random case of @f at @rip. */
void case_make(struct diff_case *t, const struct form *f, uint64_t rip);
/* What memory holds where no case has a word. */
void data_make(uint8_t *data, unsigned bytes);

void random_seed(uint64_t seed);
uint64_t random_u64(void);
/* Below @n. */
unsigned random_below(unsigned n);

#endif
