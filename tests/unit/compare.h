/*
 * compare.h - the states of two vCPUs, compared: what lockstep tests share.
 */
#ifndef TESTS_UNIT_COMPARE_H
#define TESTS_UNIT_COMPARE_H

#include "core/cpu_state.h"

enum compare_flags {
	COMPARE_ALL,
	COMPARE_NO_FLAGS /* but for arithmetic flags, where the translator may leave stale ones */
};

/* A number that differs where states do. */
uint64_t state_hash(const struct cpu_state *s, enum compare_flags how);
/* Prints what differs; how many. */
unsigned state_show(const struct cpu_state *a, const struct cpu_state *b, const char *name_a,
		    const char *name_b);

uint64_t bytes_hash(const void *p, size_t bytes, uint64_t seed);

#endif
