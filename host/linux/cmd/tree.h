/*
 * tree.h - printing trees: lines with branches where the locale has them.
 *
 * The caller walks its tree, says of each line how deep it is and whether it is
 * the last child of its parent.
 */
#ifndef HOST_LINUX_CMD_TREE_H
#define HOST_LINUX_CMD_TREE_H

#include "core/util.h"

#include <stdio.h>

#define TREE_DEPTH_MAX 8

struct tree {
	FILE *out;
	bool utf8;
	bool closed[TREE_DEPTH_MAX]; /* no further sibling at this depth */
};

struct tree tree_on(FILE *out);
/* depth 0 is the root. */
void tree_line(struct tree *t, unsigned depth, bool last, const char *fmt, ...) __printf(4, 5);

#endif
