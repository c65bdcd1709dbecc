/*
 * program.h - an input as a program: bytes are taken from it until it ends, zeros after
 * that; a promise that is broken ends the fuzzer. For targets with a simulated platform.
 */
#ifndef TESTS_FUZZ_PROGRAM_H
#define TESTS_FUZZ_PROGRAM_H

#include "host/sim/platform.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define SNAP_BYTES 8192

struct input {
	const uint8_t *data;
	size_t left;
};

static inline void check(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "%s: %s\n", program_invocation_short_name, what);
	abort();
}

static inline uint8_t take(struct input *in)
{
	if (!in->left)
		return 0;
	in->left--;
	return *in->data++;
}

/* A snapshot loads, and saves again as the same bytes. */
static inline void save_and_load(struct platform *p)
{
	static uint8_t first[SNAP_BYTES], second[SNAP_BYTES];
	struct snap a = { .buf = first, .capacity = sizeof(first) };
	struct snap b = { .buf = second, .capacity = sizeof(second) };
	struct snap load;

	check(!platform_snapshot(p, &a), "a snapshot was refused");
	load = (struct snap){ .buf = first, .capacity = a.pos, .loading = true };
	check(!platform_snapshot(p, &load), "a snapshot just saved did not load");
	check(!platform_snapshot(p, &b), "a loaded snapshot was refused");
	check(a.pos == b.pos && !memcmp(first, second, a.pos), "a snapshot changed by loading");
}

#endif
