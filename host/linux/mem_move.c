/*
 * mem_move.c - guest memory from one node to another, while the guest runs on.
 *
 * First the stretch is bound to its new node, so that what the guest touches for
 * the first time comes from there; then the pages that are there already are
 * moved, some at a time. The kernel unmaps a page, copies it and maps the copy: an
 * access meanwhile waits for that one page, and none is lost. move_pages(2) takes the
 * address space's lock for reading only, so that faults elsewhere go on, which
 * mbind(MPOL_MF_MOVE) would hold up.
 */
#include "linux.h"

#include <errno.h>
#include <linux/magic.h>
#include <numa.h>
#include <numaif.h>
#include <sys/statfs.h>
#include <time.h>

#define BATCH_PAGES     512
#define ROUNDS_MAX      10 /* a page that is being written back or locked moves the next time */
#define ROUND_NS        (200 * NSEC_PER_USEC)
#define NODE_MASK_WORDS (PU_SET_MAX / 64)

struct batch {
	void *page[BATCH_PAGES];
	int node[BATCH_PAGES];   /* where to */
	int status[BATCH_PAGES]; /* where they are, or -errno */
	unsigned nr;
};

/* Only the first base page of a huge one can be named. */
static uint64_t page_bytes_of(const struct host_mem *m)
{
	struct statfs fs;

	if (!fstatfs(m->handle, &fs) && fs.f_type == HUGETLBFS_MAGIC)
		return (uint64_t)fs.f_bsize;
	return PAGE_SIZE;
}

static int bind_stretch(void *p, uint64_t bytes, int node)
{
	unsigned long mask[NODE_MASK_WORDS] = { 0 };

	mask[node / 64] = BIT64(node % 64);
	/* The kernel reads one bit less than it is told. */
	if (!mbind(p, bytes, MPOL_BIND, mask, PU_SET_MAX, 0))
		return 0;
	return errno == ENOSYS && !node ? 0 : -errno; /* a kernel without NUMA has node 0 only */
}

/* Keeps the pages that are populated and not on @node. */
static int keep_strays(struct batch *b, int node)
{
	unsigned kept = 0;

	if (move_pages(0, b->nr, b->page, NULL, b->status, 0))
		return errno == ENOSYS && !node ? (int)(b->nr = 0) : -errno;
	for (unsigned i = 0; i < b->nr; i++)
		if (b->status[i] >= 0 && b->status[i] != node)
			b->page[kept++] = b->page[i];
	b->nr = kept;
	return 0;
}

/*
 * What move_pages() says of single pages is not to be relied on: it gives up at the first
 * failure and leaves the rest unsaid. So they are asked for again, and moved again.
 */
static int move_batch(struct batch *b, int node)
{
	int err = keep_strays(b, node);

	for (unsigned round = 0; !err && b->nr && round < ROUNDS_MAX; round++) {
		if (round)
			nanosleep(&(struct timespec){ .tv_nsec = ROUND_NS }, NULL);
		for (unsigned i = 0; i < b->nr; i++)
			b->node[i] = node;
		if (move_pages(0, b->nr, b->page, b->node, b->status, MPOL_MF_MOVE) < 0 &&
		    errno != ENOMEM && errno != EBUSY && errno != EAGAIN)
			return -errno;
		err = keep_strays(b, node);
	}
	return err;
}

static int why_not_moved(const struct batch *b, int node, uint64_t page_bytes)
{
	long long free_bytes = 0;

	numa_node_size64(node, &free_bytes);
	return (uint64_t)free_bytes < b->nr * page_bytes + MIB(16) ? -ENOMEM : -EBUSY;
}

int linux_mem_move(void *ctx, struct host_mem *m, uint64_t offset, uint64_t bytes, int node)
{
	uint64_t page_bytes = page_bytes_of(m);
	uint8_t *p = (uint8_t *)m->base + offset, *end = p + bytes;
	struct batch b;
	int err;

	if (node < 0 || node >= PU_SET_MAX || offset > m->bytes || bytes > m->bytes - offset ||
	    !IS_ALIGNED(offset | bytes, page_bytes))
		return -EINVAL;
	err = bytes ? bind_stretch(p, bytes, node) : 0;
	while (!err && p < end) {
		for (b.nr = 0; b.nr < BATCH_PAGES && p < end; p += page_bytes)
			b.page[b.nr++] = p;
		err = move_batch(&b, node);
		if (!err && b.nr)
			err = why_not_moved(&b, node, page_bytes);
	}
	return err;
}
