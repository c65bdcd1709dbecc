/* layout.c - cuts the nodes' memory at the hole below 4 GiB. */
#include "boot/layout.h"

static void add_range(struct layout *l, uint64_t gpa, uint64_t bytes, unsigned node)
{
	if (bytes)
		l->range[l->nr_ranges++] =
			(struct layout_range){ .gpa = gpa, .bytes = bytes, .node = node };
}

void layout_ram(struct layout *l, const struct topology *t)
{
	uint64_t gpa = 0;

	l->nr_ranges = 0;
	for (unsigned n = 0; n < t->nr_nodes; n++) {
		uint64_t bytes = t->node[n].memory_bytes;

		if (gpa < LAYOUT_LOW_END) {
			uint64_t low = MIN(bytes, LAYOUT_LOW_END - gpa);

			add_range(l, gpa, low, n);
			bytes -= low;
			gpa += low;
			if (gpa == LAYOUT_LOW_END)
				gpa = LAYOUT_HIGH_START;
		}
		add_range(l, gpa, bytes, n);
		gpa += bytes;
	}
}
