/*
 * picture.c - see picture.h.
 *
 * Machine on the left, legend on the right. A PU is a cell in the colour of who is bound
 * to it, with the number of the vCPU; shared ones are striped and framed in red. Everything
 * that is too small to be written stands in a tooltip.
 */
#include "picture.h"

#include "boxes.h"
#include "host/linux/cmd/cmd.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>

#define MARGIN        24.0
#define TITLE_H       58.0
#define LEGEND_W      300.0
#define LEGEND_GAP    28.0
#define STRIPES_MAX   4
#define MATRIX_MAX    16 /* nodes whose distances are drawn */
#define LEGEND_ACTORS 24
#define DEVICE_CHARS  28

#define INK     "#1f2933"
#define GREY    "#6b7785"
#define PALE    "#9aa5b1"
#define WARNING "#c1121f"

struct picture {
	FILE *out;
	const struct scene *s;
	struct box_style style[BOX_KINDS];
	double cell; /* of a PU */
};

/* --- XML --------------------------------------------------------------------------------- */

/* Names come from outside. */
static void put_escaped(FILE *out, const char *text)
{
	for (; *text; text++) {
		switch (*text) {
		case '<':
			fputs("&lt;", out);
			break;
		case '>':
			fputs("&gt;", out);
			break;
		case '&':
			fputs("&amp;", out);
			break;
		case '"':
			fputs("&quot;", out);
			break;
		default:
			fputc((unsigned char)*text < ' ' || (unsigned char)*text > '~' ? '?'
										       : *text,
			      out);
		}
	}
}

/* @attributes are the picture's own words. */
static void text(struct picture *p, double x, double y, const char *attributes, const char *fmt,
		 ...) __printf(5, 6);
static void text(struct picture *p, double x, double y, const char *attributes, const char *fmt,
		 ...)
{
	char line[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	fprintf(p->out, "<text x=\"%.1f\" y=\"%.1f\" %s>", x, y, attributes);
	put_escaped(p->out, line);
	fputs("</text>\n", p->out);
}

static void rect(struct picture *p, double x, double y, double w, double h, double r,
		 const char *attributes)
{
	fprintf(p->out,
		"<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" rx=\"%.1f\" %s/>\n", x,
		y, w, h, r, attributes);
}

/* --- colours ----------------------------------------------------------------------------- */

struct colour {
	unsigned r, g, b;
};

static unsigned channel(double h, double offset)
{
	double k = fmod(offset + h / 30.0, 12.0);
	double v = 0.55 - 0.27 * fmax(-1.0, fmin(fmin(k - 3.0, 9.0 - k), 1.0));

	return (unsigned)(v * 255.0);
}

/* Ten that are told apart well, then ever new hues by the golden angle. */
static struct colour colour_of(unsigned actor)
{
	static const struct colour first[] = {
		{ 0x3b, 0x76, 0xb5 }, { 0xf2, 0x8e, 0x2b }, { 0x4f, 0xa3, 0x52 },
		{ 0x9c, 0x6a, 0xb0 }, { 0x2a, 0x9d, 0x9c }, { 0xe6, 0xb8, 0x2e },
		{ 0xd9, 0x6c, 0x9f }, { 0x8c, 0x6d, 0x5a }, { 0x5b, 0x5f, 0xc7 },
		{ 0x9a, 0xb8, 0x3c },
	};
	double hue = fmod(actor * 137.508, 360.0);

	if (actor < ARRAY_SIZE(first))
		return first[actor];
	return (struct colour){ channel(hue, 0.0), channel(hue, 8.0), channel(hue, 4.0) };
}

/* Attributes of a rectangle in an actor's colour. */
static const char *fill(unsigned actor, const char *more, char buf[128])
{
	struct colour c = colour_of(actor);

	snprintf(buf, 128, "fill=\"#%02x%02x%02x\" %s", c.r, c.g, c.b, more);
	return buf;
}

static const char *ink_on(unsigned actor)
{
	struct colour c = colour_of(actor);

	return c.r * 299 + c.g * 587 + c.b * 114 > 150000 ? INK : "#ffffff";
}

/* --- a PU -------------------------------------------------------------------------------- */

static const struct actor *actor_at(const struct picture *p, const struct seat *seat)
{
	return &p->s->actor[seat->actor];
}

static void pu_tooltip(struct picture *p, const struct machine_pu *pu, unsigned index,
		       const struct seat *seat, unsigned nr)
{
	char name[ACTOR_NAME_BYTES + 64];

	fprintf(p->out, "<title>PU %u: core %u, package %u", pu->os_index, pu->core, pu->package);
	if (pu->node != MACHINE_NONE)
		fprintf(p->out, ", node %u", p->s->m.node[pu->node].os_index);
	if (!pu->usable)
		fputs(", not usable", p->out);
	if (p->s->load && p->s->load[index] >= 0)
		fprintf(p->out, ", %.0f %% busy", p->s->load[index] * 100);
	for (unsigned i = 0; i < nr; i++) {
		const struct actor *a = actor_at(p, &seat[i]);

		snprintf(name, sizeof(name), "\n%s %s %d", a->name, a->unit,
			 a->thread[seat[i].thread].number);
		fputc('\n', p->out);
		put_escaped(p->out, name + 1);
	}
	fputs("</title>\n", p->out);
}

/* Who claims a PU that nobody is bound to; -1: nobody. */
static int claimant(const struct picture *p, unsigned pu)
{
	for (unsigned a = 0; a < p->s->nr_actors; a++)
		if (pu_set_has(&p->s->actor[a].claim, pu))
			return (int)a;
	return -1;
}

static void idle_pu(struct picture *p, const struct box *b, const struct machine_pu *pu)
{
	char tint[128], buf[160];
	int owner = claimant(p, pu->os_index);

	if (!pu->usable) {
		rect(p, b->x, b->y, b->w, b->h, 3, "fill=\"url(#barred)\" stroke=\"#d5dae1\"");
		return;
	}
	rect(p, b->x, b->y, b->w, b->h, 3, "fill=\"#ffffff\" stroke=\"#d5dae1\"");
	if (owner >= 0)
		rect(p, b->x, b->y, b->w, b->h, 3,
		     fill((unsigned)owner, "fill-opacity=\"0.25\"", tint));
	if (p->cell < 15)
		return;
	snprintf(buf, sizeof(buf), "class=\"n\" fill=\"" PALE "\" font-size=\"%.1f\"",
		 p->cell * 0.36);
	text(p, b->x + b->w / 2, b->y + b->h * 0.62, buf, "%u", pu->os_index);
}

static void stripes(struct picture *p, const struct box *b, const struct seat *seat, unsigned nr)
{
	unsigned shown = MIN(nr, STRIPES_MAX);
	double w = b->w / shown;
	char buf[128];

	for (unsigned i = 0; i < shown; i++)
		rect(p, b->x + i * w, b->y, w, b->h, shown == 1 ? 3 : 0,
		     fill(seat[i].actor, "", buf));
	if (nr > 1)
		rect(p, b->x, b->y, b->w, b->h, 2,
		     "fill=\"none\" stroke=\"" WARNING "\" stroke-width=\"2\"");
}

static void taken_pu(struct picture *p, const struct box *b, const struct machine_pu *pu,
		     const struct seat *seat, unsigned nr)
{
	const char *ink = ink_on(seat->actor);
	char buf[160];

	stripes(p, b, seat, nr);
	if (p->cell < 15)
		return;
	snprintf(buf, sizeof(buf), "class=\"n b\" fill=\"%s\" font-size=\"%.1f\"", ink,
		 p->cell * 0.4);
	if (nr > 1)
		text(p, b->x + b->w / 2, b->y + b->h * 0.68, buf, "%ux", nr);
	else
		text(p, b->x + b->w / 2, b->y + b->h * 0.68, buf, "%d",
		     actor_at(p, seat)->thread[seat->thread].number);
	if (p->cell < 24)
		return;
	snprintf(buf, sizeof(buf), "fill=\"%s\" fill-opacity=\"0.75\" font-size=\"%.1f\"", ink,
		 p->cell * 0.24);
	text(p, b->x + 3, b->y + p->cell * 0.27, buf, "%u", pu->os_index);
}

static void load_bar(struct picture *p, const struct box *b, double load)
{
	double h = MAX(2.0, p->cell * 0.09), w = b->w - 4;

	if (load < 0)
		return;
	rect(p, b->x + 2, b->y + b->h - h - 2, w, h, h / 2,
	     "fill=\"" INK "\" fill-opacity=\"0.15\"");
	if (load > 0.005)
		rect(p, b->x + 2, b->y + b->h - h - 2, MAX(w * load, h), h, h / 2,
		     "fill=\"" INK "\" fill-opacity=\"0.8\"");
}

static void draw_pu(struct picture *p, const struct box *b)
{
	const struct machine_pu *pu = &p->s->m.pu[b->index];
	unsigned nr;
	const struct seat *seat = scene_seats_on(p->s, pu->os_index, &nr);

	fputs("<g>", p->out);
	pu_tooltip(p, pu, b->index, seat, nr);
	if (nr)
		taken_pu(p, b, pu, seat, nr);
	else
		idle_pu(p, b, pu);
	if (p->s->load)
		load_bar(p, b, p->s->load[b->index]);
	fputs("</g>\n", p->out);
}

/* --- a node ------------------------------------------------------------------------------ */

/* What each actor has there, what others use, what is free. */
static void memory_bar(struct picture *p, const struct machine_node *n, unsigned node, double x,
		       double y, double w)
{
	uint64_t used = n->memory_bytes - MIN(n->free_bytes, n->memory_bytes), known = 0;
	double at = x, part;
	char buf[128];

	rect(p, x, y, w, 7, 2, "fill=\"#e4e8ee\"");
	if (!n->memory_bytes)
		return;
	for (unsigned a = 0; a < p->s->nr_actors; a++) {
		uint64_t bytes = p->s->actor[a].node_bytes[node];

		part = w * (double)bytes / (double)n->memory_bytes;
		part = MIN(part, x + w - at);
		if (part > 0)
			rect(p, at, y, part, 7, 0, fill(a, "", buf));
		at += MAX(part, 0);
		known += p->s->actor[a].planned ? 0 : bytes;
	}
	part = used > known ? w * (double)(used - known) / (double)n->memory_bytes : 0;
	part = MIN(part, x + w - at);
	if (part > 0.5)
		rect(p, at, y, part, 7, 0, "fill=\"#aab4c0\"");
}

static void list_devices(const struct machine_model *m, unsigned node, char *buf, size_t bytes)
{
	size_t at = 0;

	buf[0] = '\0';
	for (unsigned i = 0; i < m->nr_ios && at < bytes; i++)
		if (m->io[i].node == node)
			at += (size_t)snprintf(buf + at, bytes - at, "%s%s", at ? " " : "",
					       m->io[i].name);
	if (at >= bytes)
		memcpy(buf + bytes - 3, "..", 3);
}

static void draw_node(struct picture *p, const struct box *b)
{
	const struct machine_node *n;
	char total[SIZE_TEXT], left[SIZE_TEXT], devices[DEVICE_CHARS];
	double x = b->x + 10;

	rect(p, b->x, b->y, b->w, b->h, 6, "fill=\"#ffffff\" stroke=\"#ccd3dc\"");
	if (b->index == MACHINE_NONE) {
		text(p, x, b->y + 18, "class=\"h\"", "no node");
		return;
	}
	n = &p->s->m.node[b->index];
	text(p, x, b->y + 18, "class=\"h\"", "node %u%s%s", n->os_index,
	     b->again ? ", continued" : "", n->usable ? "" : ", not allowed");
	if (b->again)
		return;
	text(p, b->x + b->w - 10, b->y + 18, "class=\"s\" text-anchor=\"end\"",
	     n->memory_bytes ? "%s, %s free" : "no memory", size_text(n->memory_bytes, total),
	     size_text(n->free_bytes, left));
	memory_bar(p, n, b->index, x, b->y + 25, b->w - 20);
	list_devices(&p->s->m, b->index, devices, sizeof(devices));
	if (devices[0])
		text(p, x, b->y + 45, "class=\"s\"", "%s", devices);
}

/* --- everything -------------------------------------------------------------------------- */

static void draw_box(struct picture *p, const struct box *b)
{
	char bytes[SIZE_TEXT];

	switch (b->kind) {
	case BOX_PACKAGE:
		rect(p, b->x, b->y, b->w, b->h, 9, "fill=\"#f4f6f9\" stroke=\"#b8c1cc\"");
		text(p, b->x + 12, b->y + 19, "class=\"h\" fill=\"" GREY "\"", "package %u",
		     b->index);
		break;
	case BOX_NODE:
		draw_node(p, b);
		break;
	case BOX_CACHE:
		rect(p, b->x, b->y, b->w, b->h, 5, "fill=\"#eef2f7\"");
		if (p->style[BOX_CACHE].head > 1)
			text(p, b->x + 6, b->y + 12, "class=\"s\"", "cache %u, %s", b->index,
			     size_text(p->s->m.llc_bytes, bytes));
		break;
	case BOX_CORE:
		rect(p, b->x, b->y, b->w, b->h, 4, "fill=\"#d9e0e9\"");
		break;
	case BOX_PU:
		draw_pu(p, b);
		break;
	default:
		break;
	}
	for (const struct box *c = b->child; c; c = c->next)
		draw_box(p, c);
}

/* --- the legend -------------------------------------------------------------------------- */

/* "4G on node 0, 2G on node 1"; of more nodes, how many. */
static void list_memory(const struct scene *s, const struct actor *a, char *buf, size_t bytes)
{
	char size[SIZE_TEXT];
	unsigned nodes = 0;
	size_t at = 0;

	for (unsigned i = 0; i < s->m.nr_nodes; i++)
		nodes += a->node_bytes[i] != 0;
	snprintf(buf, bytes, nodes ? "%s on %u nodes" : "no memory",
		 size_text(actor_bytes(s, a), size), nodes);
	for (unsigned i = 0; i < s->m.nr_nodes && nodes <= 2 && at < bytes; i++)
		if (a->node_bytes[i])
			at += (size_t)snprintf(buf + at, bytes - at, "%s%s on node %u",
					       at ? ", " : "", size_text(a->node_bytes[i], size),
					       s->m.node[i].os_index);
}

static double legend_actor(struct picture *p, unsigned i, double x, double y)
{
	const struct actor *a = &p->s->actor[i];
	unsigned bound = actor_bound(p->s, a);
	char memory[64], buf[128], pid[32] = "", loose[48] = "";

	if (a->pid)
		snprintf(pid, sizeof(pid), ", pid %d", (int)a->pid);
	if (bound < a->nr_threads)
		snprintf(loose, sizeof(loose), ", %u not bound", a->nr_threads - bound);
	rect(p, x, y, 16, 16, 3, fill(i, "", buf));
	text(p, x + 24, y + 13, "class=\"h\"", "%.36s", a->name);
	text(p, x + 24, y + 29, "class=\"s\"", "%s%s: %u %s%s%s", a->kind, pid, a->nr_threads,
	     a->unit, a->nr_threads == 1 ? "" : "s", loose);
	list_memory(p->s, a, memory, sizeof(memory));
	text(p, x + 24, y + 44, "class=\"s\"", "%s", memory);
	return y + 60;
}

static double legend_actors(struct picture *p, double x, double y)
{
	unsigned nr = MIN(p->s->nr_actors, LEGEND_ACTORS);

	text(p, x, y, "class=\"h\" fill=\"" GREY "\"", nr ? "Machines" : "No machine runs here");
	y += 14;
	for (unsigned i = 0; i < nr; i++)
		y = legend_actor(p, i, x, y);
	if (nr < p->s->nr_actors) {
		text(p, x + 24, y + 13, "class=\"s\"", "and %u more", p->s->nr_actors - nr);
		y += 24;
	}
	return y + 14;
}

static double legend_key(struct picture *p, double x, double y, const char *attributes,
			 const char *what)
{
	rect(p, x, y, 16, 16, 3, attributes);
	text(p, x + 24, y + 12, "class=\"s\"", "%s", what);
	return y + 22;
}

static bool any_unusable(const struct machine_model *m)
{
	for (unsigned i = 0; i < m->nr_pus; i++)
		if (!m->pu[i].usable)
			return true;
	return false;
}

static bool any_shared(const struct scene *s)
{
	for (unsigned i = 0; i + 1 < s->nr_seats; i++)
		if (s->seat[i].pu == s->seat[i + 1].pu)
			return true;
	return false;
}

static bool any_idle_claim(const struct scene *s)
{
	unsigned nr;

	for (unsigned a = 0; a < s->nr_actors; a++)
		pu_set_for_each(pu, &s->actor[a].claim)
		{
			scene_seats_on(s, pu, &nr);
			if (!nr)
				return true;
		}
	return false;
}

static double legend_keys(struct picture *p, double x, double y)
{
	y = legend_key(p, x, y, "fill=\"#ffffff\" stroke=\"#d5dae1\"",
		       "PU with nobody bound to it, and its number");
	if (any_unusable(&p->s->m))
		y = legend_key(p, x, y, "fill=\"url(#barred)\" stroke=\"#d5dae1\"",
			       "offline, or not allowed");
	if (any_idle_claim(p->s))
		y = legend_key(p, x, y, "fill=\"#3b76b5\" fill-opacity=\"0.25\"",
			       "claimed, nobody bound to it alone");
	if (any_shared(p->s))
		y = legend_key(p, x, y, "fill=\"none\" stroke=\"" WARNING "\" stroke-width=\"2\"",
			       "shared: who is there takes turns");
	y = legend_key(p, x, y, "fill=\"#aab4c0\"", "memory that others use");
	if (p->s->load) {
		rect(p, x, y + 7, 16, 3, 1.5, "fill=\"" INK "\" fill-opacity=\"0.15\"");
		rect(p, x, y + 7, 9, 3, 1.5, "fill=\"" INK "\" fill-opacity=\"0.8\"");
		text(p, x + 24, y + 12, "class=\"s\"", "how busy a PU is");
		y += 22;
	}
	return y + 30;
}

/* From what is near, pale, to what is far. */
static void matrix_cell(struct picture *p, double x, double y, double cell, unsigned d,
			unsigned nearest, unsigned farthest)
{
	double f = farthest > nearest ? (double)(d - nearest) / (farthest - nearest) : 0;
	char buf[160];

	snprintf(buf, sizeof(buf), "fill=\"#3b76b5\" fill-opacity=\"%.2f\"", 0.06 + 0.7 * f);
	rect(p, x, y, cell - 1, cell - 1, 2, buf);
	snprintf(buf, sizeof(buf), "class=\"n\" fill=\"%s\" font-size=\"%.1f\"",
		 f > 0.6 ? "#ffffff" : INK, MIN(11.0, cell * 0.45));
	text(p, x + cell / 2 - 0.5, y + cell * 0.64, buf, "%u", d);
}

static double legend_matrix(struct picture *p, double x, double y)
{
	const struct machine_model *m = &p->s->m;
	double cell = MIN(30.0, (LEGEND_W - 24) / m->nr_nodes);
	unsigned nearest = UINT32_MAX, farthest = 0;

	if (m->nr_nodes < 2 || m->nr_nodes > MATRIX_MAX)
		return y;
	for (unsigned i = 0; i < m->nr_nodes * m->nr_nodes; i++) {
		nearest = MIN(nearest, m->distance[i]);
		farthest = MAX(farthest, m->distance[i]);
	}
	text(p, x, y, "class=\"h\" fill=\"" GREY "\"",
	     m->has_distances ? "Distances between nodes" : "Distances between nodes, assumed");
	y += 12;
	for (unsigned i = 0; i < m->nr_nodes; i++) {
		text(p, x + 16, y + 12 + cell * (i + 0.64), "class=\"s\" text-anchor=\"end\"", "%u",
		     m->node[i].os_index);
		text(p, x + 24 + cell * (i + 0.5), y + 8, "class=\"s n\"", "%u",
		     m->node[i].os_index);
		for (unsigned j = 0; j < m->nr_nodes; j++)
			matrix_cell(p, x + 24 + cell * j, y + 12 + cell * i, cell,
				    machine_distance(m, i, j), nearest, farthest);
	}
	return y + 12 + cell * m->nr_nodes;
}

/* --- the page ---------------------------------------------------------------------------- */

static void begin(struct picture *p, double w, double h)
{
	fprintf(p->out,
		"<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" "
		"viewBox=\"0 0 %.0f %.0f\" font-family=\"'Inter','Helvetica Neue',Arial,"
		"'Liberation Sans','DejaVu Sans',sans-serif\" font-size=\"13\" fill=\"" INK "\">\n",
		w, h, w, h);
	fputs("<style>.h{font-weight:600}.b{font-weight:600}.n{text-anchor:middle}"
	      ".s{font-size:11px;fill:" GREY "}</style>\n"
	      "<defs><pattern id=\"barred\" width=\"6\" height=\"6\" "
	      "patternUnits=\"userSpaceOnUse\" patternTransform=\"rotate(45)\">"
	      "<rect width=\"6\" height=\"6\" fill=\"#eef0f3\"/>"
	      "<rect width=\"2\" height=\"6\" fill=\"#cdd4dc\"/></pattern></defs>\n",
	      p->out);
	rect(p, 0, 0, w, h, 0, "fill=\"#ffffff\"");
}

/* A long name gets small letters; bold ones are about two thirds as wide as high. */
static void title(struct picture *p, double w)
{
	const struct machine_model *m = &p->s->m;
	double size = MIN(20.0, (w - 2 * MARGIN) / (0.68 * (double)MAX(strlen(m->name), 1)));
	char letters[64];

	snprintf(letters, sizeof(letters), "font-size=\"%.1f\" font-weight=\"600\"", size);
	text(p, MARGIN, MARGIN + 16, letters, "%s", m->name);
	text(p, MARGIN, MARGIN + 36, "fill=\"" GREY "\"",
	     "%u package%s, %u node%s, %u core%s, %u PU%s", m->nr_packages,
	     m->nr_packages == 1 ? "" : "s", m->nr_nodes, m->nr_nodes == 1 ? "" : "s", m->nr_cores,
	     m->nr_cores == 1 ? "" : "s", m->nr_pus, m->nr_pus == 1 ? "" : "s");
}

static void choose_style(struct picture *p)
{
	const struct machine_model *m = &p->s->m;
	bool devices = m->nr_ios > 0;

	p->cell = m->nr_pus <= 64 ? 36 : m->nr_pus <= 256 ? 28 : m->nr_pus <= 1024 ? 20 : 12;
	p->style[BOX_MACHINE] = (struct box_style){ .gap = 18, .aspect = 1.5 };
	p->style[BOX_PACKAGE] =
		(struct box_style){ .pad = 12, .head = 18, .gap = 12, .min_w = 110, .aspect = 1.4 };
	p->style[BOX_NODE] = (struct box_style){
		.pad = 10, .head = devices ? 42 : 30, .gap = 8, .min_w = 200, .aspect = 1.4
	};
	p->style[BOX_CACHE] = (struct box_style){
		.pad = 5, .head = m->llc_bytes ? 13 : 0, .gap = 4, .aspect = 1.8
	};
	p->style[BOX_CORE] = (struct box_style){ .pad = 3, .gap = 2, .aspect = 4 };
	p->style[BOX_PU] = (struct box_style){ .head = p->cell, .min_w = p->cell, .aspect = 1 };
}

/*
 * Who is there stands right of the machine, and what the signs mean below that; or
 * below the machine, where that makes the page less high.
 */
struct page {
	double machine_w, machine_h;
	double actors_h, keys_h, matrix_h;
	bool keys_below;
	double w, h;
};

/* How high something is, found by drawing it to nowhere. */
static double height_of(const struct picture *p, FILE *nowhere,
			double (*draw)(struct picture *p, double x, double y))
{
	struct picture dry = *p;

	dry.out = nowhere;
	return draw(&dry, 0, 0);
}

static void set_page(const struct picture *p, const struct box *root, struct page *page)
{
	FILE *nowhere = fopen("/dev/null", "we");
	double beside, below;

	*page = (struct page){ .machine_w = MAX(root->w, 280), .machine_h = root->h };
	if (nowhere) {
		page->actors_h = height_of(p, nowhere, legend_actors);
		page->keys_h = height_of(p, nowhere, legend_keys);
		page->matrix_h = height_of(p, nowhere, legend_matrix);
		fclose(nowhere);
	}
	beside = MAX(page->machine_h, page->actors_h + page->keys_h + page->matrix_h + 10);
	below = MAX(page->machine_h, page->actors_h) + LEGEND_GAP +
		MAX(page->keys_h, page->matrix_h);
	page->keys_below = below < beside && page->machine_w >= 2 * LEGEND_W;
	page->w = MARGIN + page->machine_w + LEGEND_GAP + LEGEND_W + MARGIN;
	page->h = MARGIN + TITLE_H + (page->keys_below ? below : beside) + MARGIN;
}

static void draw_legend(struct picture *p, const struct page *page)
{
	double right = page->machine_w + LEGEND_GAP;
	double low = MAX(page->machine_h, page->actors_h) + LEGEND_GAP;

	legend_actors(p, right, 10);
	if (page->keys_below) {
		legend_keys(p, 0, low);
		legend_matrix(p, LEGEND_W + LEGEND_GAP, low + 12);
	} else {
		legend_matrix(p, right, legend_keys(p, right, page->actors_h + 10));
	}
}

int picture_draw(FILE *out, const struct scene *s)
{
	struct picture p = { .out = out, .s = s };
	struct box *root;
	struct page page;

	choose_style(&p);
	root = boxes_make(&s->m, p.style);
	if (!root)
		return -ENOMEM;
	set_page(&p, root, &page);
	begin(&p, page.w, page.h);
	title(&p, page.w);
	fprintf(out, "<g transform=\"translate(%.1f %.1f)\">\n", MARGIN, MARGIN + TITLE_H);
	draw_box(&p, root);
	draw_legend(&p, &page);
	fputs("</g>\n</svg>\n", out);
	boxes_free(root);
	return 0;
}
