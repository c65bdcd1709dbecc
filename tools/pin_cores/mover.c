/*
 * mover.c - see mover.h.
 *
 * A piece is 2 MiB, aligned, so that a transparent huge page goes whole. Pages that
 * several processes map can only be moved by whoever has CAP_SYS_NICE.
 */
#include "mover.h"

#include "resident.h"

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
	struct resident resident;
	struct mover_result *result;

	/* Resident pages of one piece, gathered. */
	void *page[PAGES_MAX];
	unsigned nr_pages;
	uint64_t page_bytes;
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

/* Of the gathered pages those that are elsewhere stay. */
static int keep_those_elsewhere(struct mover *mv, int target)
{
	int status[PAGES_MAX];
	unsigned kept = 0;

	if (move_pages(mv->pid, mv->nr_pages, mv->page, NULL, status, 0))
		return -errno;
	for (unsigned i = 0; i < mv->nr_pages; i++) {
		if (status[i] < 0)
			continue; /* gone meanwhile, or the page of zeroes that all share */
		mv->result->seen_bytes += mv->page_bytes;
		if (status[i] != target)
			mv->page[kept++] = mv->page[i];
	}
	mv->nr_pages = kept;
	return 0;
}

static int move(struct mover *mv, int target)
{
	int status[PAGES_MAX], node[PAGES_MAX];

	for (unsigned i = 0; i < mv->nr_pages; i++) {
		node[i] = target;
		status[i] = -EBUSY; /* what the kernel did not get to */
	}
	if (move_pages(mv->pid, mv->nr_pages, mv->page, node, status, mv->flags) < 0 &&
	    errno != EIO)
		return -errno;
	for (unsigned i = 0; i < mv->nr_pages; i++) {
		if (status[i] == target)
			mv->result->moved_bytes += mv->page_bytes;
		else if (status[i] != -ENOENT) /* gone meanwhile */
			stuck(mv, mv->page_bytes, status[i] < 0 ? status[i] : -EBUSY);
	}
	return 0;
}

/* What was gathered goes to the home whose turn it is. */
static int flush(struct mover *mv)
{
	unsigned home = next_home(mv);
	uint64_t seen = mv->result->seen_bytes;
	int target = (int)mv->home[home].node, err;

	if (!mv->nr_pages)
		return 0;
	err = keep_those_elsewhere(mv, target);
	mv->dealt[home] += mv->result->seen_bytes - seen;
	if (!err && mv->nr_pages)
		err = move(mv, target);
	mv->nr_pages = 0;
	return err;
}

static int gather(struct mover *mv, const struct resident_run *run)
{
	uint64_t piece = MAX(PIECE_BYTES, mv->page_bytes), at = run->start;
	int err = 0;

	for (; at < run->end && !err; at += mv->page_bytes) {
		if (mv->nr_pages &&
		    ALIGN_DOWN((uintptr_t)mv->page[0], piece) != ALIGN_DOWN(at, piece))
			err = flush(mv);
		mv->page[mv->nr_pages++] = (void *)(uintptr_t)at;
	}
	return err;
}

static int move_region(struct mover *mv, const struct proc_region *r)
{
	struct resident_run run = { r->start, r->start };
	int err = 0;

	mv->page_bytes = r->page_bytes;
	resident_seek(&mv->resident, r->start);
	while (!err && run.start < r->end) {
		err = resident_next(&mv->resident, r->end, &run);
		if (!err)
			err = gather(mv, &run);
	}
	return err ? err : flush(mv);
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
	err = resident_open(&mv.resident, pid);
	for (unsigned i = 0; i < m->nr_regions && !err; i++) {
		err = move_region(&mv, &m->region[i]);
		if (progress)
			progress(arg, out->seen_bytes, m->bytes);
	}
	resident_close(&mv.resident);
	out->ns = now_ns() - start;
	return err;
}
