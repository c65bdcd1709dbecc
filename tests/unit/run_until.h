/*
 * run_until.h - a flat machine runs on whatever engine it has until its memory says that
 * it is enough, and is then stopped where a kick finds it.
 */
#ifndef TESTS_UNIT_RUN_UNTIL_H
#define TESTS_UNIT_RUN_UNTIL_H

#include "flat.h"

/* The exit that ended it: EXIT_KICK, if it was kicked as it should be. */
enum exit_reason run_until(struct flat *f, bool (*enough)(const struct flat *f, void *arg),
			   void *arg);

#endif
