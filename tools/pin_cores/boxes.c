/* boxes.c - see boxes.h. */
#include "boxes.h"

#include <math.h>
#include <stdlib.h>

void boxes_free(struct box *b)
{
	while (b) {
		struct box *next = b->next;

		boxes_free(b->child);
		free(b);
		b = next;
	}
}

/* --- nesting ----------------------------------------------------------------------------- */

static struct box *append(struct box *parent, enum box_kind kind, unsigned index)
{
	struct box *b = calloc(1, sizeof(*b)), **at = &parent->child;

	if (!b)
		return NULL;
	b->kind = kind;
	b->index = index;
	while (*at)
		at = &(*at)->next;
	*at = b;
	return b;
}

static struct box *last_child(struct box *parent)
{
	struct box *b = parent->child;

	while (b && b->next)
		b = b->next;
	return b;
}

/* The box of @kind in which a PU lies: the open one if it is that, a new one otherwise. */
static struct box *enter(struct box *parent, enum box_kind kind, unsigned index)
{
	struct box *open = last_child(parent);

	return open && open->index == index ? open : append(parent, kind, index);
}

static bool add_pu(struct box *root, const struct machine_model *m, unsigned i, bool *node_seen)
{
	const struct machine_pu *pu = &m->pu[i];
	const unsigned path[] = { pu->package, pu->node, pu->llc, pu->core, i };
	struct box *b = root;

	for (unsigned depth = 0; b && depth < ARRAY_SIZE(path); depth++) {
		b = enter(b, (enum box_kind)(BOX_PACKAGE + depth), path[depth]);
		if (!b || b->kind != BOX_NODE || b->child || b->index == MACHINE_NONE)
			continue;
		b->again = node_seen[b->index];
		node_seen[b->index] = true;
	}
	return b;
}

/* Nodes without PUs: memory alone. */
static bool add_memory_node(struct box *root, const struct machine_model *m, unsigned node)
{
	for (struct box *b = root->child; b; b = b->next)
		if (b->kind == BOX_PACKAGE && b->index == m->node[node].package)
			return append(b, BOX_NODE, node);
	return append(root, BOX_NODE, node);
}

static bool nest(struct box *root, const struct machine_model *m)
{
	bool *node_seen = calloc(MAX(m->nr_nodes, 1), sizeof(*node_seen));
	bool ok = node_seen;

	for (unsigned i = 0; ok && i < m->nr_pus; i++)
		ok = add_pu(root, m, i, node_seen);
	for (unsigned i = 0; ok && i < m->nr_nodes; i++)
		if (!node_seen[i])
			ok = add_memory_node(root, m, i);
	free(node_seen);
	return ok;
}

/* --- layout ------------------------------------------------------------------------------ */

static unsigned count_children(const struct box *b)
{
	unsigned n = 0;

	for (const struct box *c = b->child; c; c = c->next)
		n++;
	return n;
}

/* Children in rows of @columns; their corners are relative to the box's. */
static void arrange(struct box *b, const struct box_style *style, unsigned columns)
{
	double x = style->pad, y = style->head + style->pad, row_h = 0;
	unsigned column = 0;

	b->w = style->min_w;
	for (struct box *c = b->child; c; c = c->next) {
		if (column == columns) {
			column = 0;
			x = style->pad;
			y += row_h + style->gap;
			row_h = 0;
		}
		c->x = x;
		c->y = y;
		x += c->w + style->gap;
		b->w = MAX(b->w, x - style->gap + style->pad);
		row_h = MAX(row_h, c->h);
		column++;
	}
	b->h = y + row_h + style->pad;
}

/* How far from what is aimed at; holes in the last row look worse than a box too long. */
static double ugliness(const struct box *b, const struct box_style *style, unsigned children,
		       unsigned columns)
{
	unsigned holes = (columns - children % columns) % columns;

	return fabs(log(b->w / b->h / style->aspect)) + (holes ? 0.2 + 4.0 * holes / children : 0);
}

static void layout(struct box *b, const struct box_style style[BOX_KINDS])
{
	const struct box_style *own = &style[b->kind];
	unsigned children = count_children(b), best = 1;
	double least = INFINITY;

	for (struct box *c = b->child; c; c = c->next)
		layout(c, style);
	for (unsigned columns = 1; columns <= children; columns++) {
		double ugly;

		arrange(b, own, columns);
		ugly = ugliness(b, own, children, columns);
		if (ugly < least) {
			least = ugly;
			best = columns;
		}
	}
	arrange(b, own, best);
}

static void make_absolute(struct box *b, double x, double y)
{
	b->x += x;
	b->y += y;
	for (struct box *c = b->child; c; c = c->next)
		make_absolute(c, b->x, b->y);
}

struct box *boxes_make(const struct machine_model *m, const struct box_style style[BOX_KINDS])
{
	struct box *root = calloc(1, sizeof(*root));

	if (root && !nest(root, m)) {
		boxes_free(root);
		return NULL;
	}
	if (root) {
		layout(root, style);
		make_absolute(root, 0, 0);
	}
	return root;
}
