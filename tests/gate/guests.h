/*
 * guests.h - fixed guests whose translation is measured, on the flat machine of the
 * unit tests.
 */
#ifndef TESTS_GATE_GUESTS_H
#define TESTS_GATE_GUESTS_H

#include "tests/unit/flat.h"

struct guest {
	const char *name, *what; /* name NULL: the end of the table */
	const uint8_t *code, *end;
	unsigned ring;
};

extern const struct guest guests[];

/* Code and tables into memory; then as many runs as one likes, each to HLT. */
void guest_load(struct flat *f, const struct guest *g);
void guest_run(struct flat *f, const struct guest *g);

#endif
