/*
 * boxes.h - the machine as nested boxes, laid out on a plane: packages hold nodes,
 * nodes last-level caches, caches cores, cores PUs. picture.c draws them.
 */
#ifndef TOOLS_PIN_CORES_BOXES_H
#define TOOLS_PIN_CORES_BOXES_H

#include "placement/machine.h"

enum box_kind { BOX_MACHINE, BOX_PACKAGE, BOX_NODE, BOX_CACHE, BOX_CORE, BOX_PU, BOX_KINDS };

struct box {
	enum box_kind kind;
	unsigned index; /* logical; MACHINE_NONE: PUs that lie in no node */
	bool again;     /* a node that spans packages has a box in each: this is not its first */
	struct box *child, *next;
	double x, y, w, h;
};

/* How much room the borders of each kind take; BOX_PU's is the size of a PU. */
struct box_style {
	double pad, head, gap;
	double min_w;
	double aspect; /* width to height that is aimed at */
};

/* The root, laid out with its corner at 0, 0; NULL: no memory. */
struct box *boxes_make(const struct machine_model *m, const struct box_style style[BOX_KINDS]);
void boxes_free(struct box *root); /* NULL is legal */

#endif
