/*
 * mem_policy.h - how guest RAM lies on host nodes: policies, page sizes, shares.
 *
 * Leaf header. Installed.
 */
#ifndef VMM_CORE_MEM_POLICY_H
#define VMM_CORE_MEM_POLICY_H

#include "core/util.h"

enum mem_policy {
	MEM_BIND,       /* strictly on one node */
	MEM_PREFERRED,  /* on one node, elsewhere when that is full */
	MEM_INTERLEAVE, /* page by page over several nodes */
	MEM_WEIGHTED    /* the same, so many pages to each as its weight says */
};

/*
 * Sizes of pages, in bytes, and two words: whatever the host does best, and huge
 * pages that the host makes by itself of base pages, which must then be to be had.
 */
#define MEM_PAGES_ANY 0
#define MEM_PAGES_THP 1

static inline bool mem_pages_reserved(uint64_t page_bytes)
{
	return page_bytes > PAGE_SIZE; /* from a pool that somebody has filled before */
}

static inline bool mem_policy_spreads(enum mem_policy p)
{
	return p == MEM_INTERLEAVE || p == MEM_WEIGHTED;
}

/* What a node carries of a guest node's memory. */
struct mem_share {
	int node;        /* OS index, or -1: the host has no nodes */
	unsigned weight; /* 1..255 */
	uint64_t bytes;
};

/* What populating a machine's memory before its start came to. */
struct mem_report {
	uint64_t bytes;   /* populated */
	uint64_t ns;      /* that took, the look afterwards not included */
	unsigned threads; /* that did it */
	uint64_t looked;  /* bytes of which the host told where they are */
	uint64_t placed;  /* of them, on a node that they were asked for on */
};

#endif
