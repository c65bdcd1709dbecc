/*
 * mover.c - see mover.h.
 *
 * A piece is 2 MiB, aligned, so that a transparent huge page goes whole. Pages that
 * several processes map can only be moved by whoever has CAP_SYS_NICE.
 */
#include "mover.h"

#include <errno.h>
#include <numaif.h>
#include <time.h>

#define PIECE_BYTES MIB(2)
#define PAGES_MAX   (PIECE_BYTES / PAGE_SIZE)
#define HOMES_MAX   64

struct mover {
	pid_t pid;
	const struct mover_home *home;
	unsigned nr_homes;
	uint64_t dealt[HOMES_MAX]; /* bytes of each one's pieces */
	int flags;
	struct mover_result *result;
};

/* The one that is farthest behind its share. */
static unsigned next_home(const struct mover *mv)
{
	unsigned best = 0;

	for (unsigned h = 1; h < mv->nr_homes; h++)
		if ((double)mv->dealt[h] * (double)mv->home[best].bytes <
		    (double)mv->dealt[best] * (double)mv->home[h].bytes)
			best = h;
	return best;
}

static void stuck(struct mover *mv, uint64_t bytes, int err)
{
	mv->result->stuck_bytes += bytes;
	if (!mv->result->stuck_err)
		mv->result->stuck_err = err;
}

/* Of the pages at @page those that are resident and elsewhere stay; returns how many. */
static long keep_those_elsewhere(struct mover *mv, void **page, unsigned nr, uint64_t page_bytes,
				 int target)
{
	int status[PAGES_MAX];
	long kept = 0;

	if (move_pages(mv->pid, nr, page, NULL, status, 0))
		return -errno;
	for (unsigned i = 0; i < nr; i++) {
		if (status[i] < 0)
			continue; /* not resident */
		mv->result->seen_bytes += page_bytes;
		if (status[i] != target)
			page[kept++] = page[i];
	}
	return kept;
}

static int move(struct mover *mv, void **page, unsigned nr, uint64_t page_bytes, int target)
{
	int status[PAGES_MAX], node[PAGES_MAX];

	for (unsigned i = 0; i < nr; i++) {
		node[i] = target;
		status[i] = -EBUSY; /* what the kernel did not get to */
	}
	if (move_pages(mv->pid, nr, page, node, status, mv->flags) < 0 && errno != EIO)
		return -errno;
	for (unsigned i = 0; i < nr; i++) {
		if (status[i] == target)
			mv->result->moved_bytes += page_bytes;
		else if (status[i] != -ENOENT) /* gone meanwhile */
			stuck(mv, page_bytes, status[i] < 0 ? status[i] : -EBUSY);
	}
	return 0;
}

/* What is resident between @start and @end, of one piece. */
static int move_piece(struct mover *mv, uint64_t start, uint64_t end, uint64_t page_bytes)
{
	void *page[PAGES_MAX];
	unsigned nr = 0, home = next_home(mv);
	uint64_t seen = mv->result->seen_bytes;
	int target = (int)mv->home[home].node;
	long left;

	for (uint64_t at = start; at < end; at += page_bytes)
		page[nr++] = (void *)(uintptr_t)at;
	left = keep_those_elsewhere(mv, page, nr, page_bytes, target);
	if (left < 0)
		return (int)left;
	mv->dealt[home] += mv->result->seen_bytes - seen;
	return left ? move(mv, page, (unsigned)left, page_bytes, target) : 0;
}

static int move_region(struct mover *mv, const struct proc_region *r)
{
	uint64_t piece = MAX(PIECE_BYTES, r->page_bytes), at = r->start, next;
	int err = 0;

	for (; at < r->end && !err; at = next) {
		next = MIN(ALIGN_DOWN(at, piece) + piece, r->end);
		err = move_piece(mv, at, next, r->page_bytes);
	}
	return err;
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * NSEC_PER_SEC + (uint64_t)t.tv_nsec;
}

int mover_run(pid_t pid, const struct proc_memory *m, const struct mover_home *home,
	      unsigned nr_homes, void (*progress)(void *arg, uint64_t done, uint64_t all),
	      void *arg, struct mover_result *out)
{
	struct mover mv = { .pid = pid,
			    .home = home,
			    .nr_homes = nr_homes,
			    .flags = MPOL_MF_MOVE_ALL,
			    .result = out };
	uint64_t start = now_ns();
	int err;

	*out = (struct mover_result){ 0 };
	if (!nr_homes || nr_homes > HOMES_MAX)
		return -EINVAL;
	/* Moving nothing tells whether the flag is granted. */
	if (move_pages(pid, 0, NULL, NULL, NULL, MPOL_MF_MOVE_ALL))
		mv.flags = MPOL_MF_MOVE;
	err = 0;
	for (unsigned i = 0; i < m->nr_regions && !err; i++) {
		err = move_region(&mv, &m->region[i]);
		if (progress)
			progress(arg, out->seen_bytes, m->bytes);
	}
	out->ns = now_ns() - start;
	return err;
}
