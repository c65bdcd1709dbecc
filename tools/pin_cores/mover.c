/*
 * mover.c - see mover.h.
 *
 * A piece is 2 MiB, aligned, so that a transparent huge page goes whole; its address says
 * to which home it goes, so that doing it again moves nothing. Pages that somebody holds
 * at the moment do not move: they get more chances. Pages that several processes map can
 * only be moved by whoever has CAP_SYS_NICE.
 *
 * Automatic NUMA balancing takes pages away from a process for a while, to see who comes
 * for them. move_pages() of Linux 6.1 to 6.5 is blind to those; reading them through the
 * process's eyes gives them back.
 */
#include "mover.h"

#include "resident.h"

#include <errno.h>
#include <numaif.h>
#include <sys/uio.h>
#include <time.h>

#define PIECE_BYTES MIB(2)
#define PAGES_MAX   (PIECE_BYTES / PAGE_SIZE)
#define HOMES_MAX   64
#define DEAL        256 /* pieces in a round over the homes */
#define PASSES      5
#define TOUCHES     3
#define PAUSE_NS    (50 * NSEC_PER_MSEC)

struct mover {
	pid_t pid;
	unsigned node[DEAL]; /* where the pieces of a round go */
	int flags;
	struct resident resident;
	/* Of this pass. */
	uint64_t seen_bytes, astray_bytes, stuck_bytes;
	int stuck_err;

	/* Resident pages of one piece, gathered. */
	void *page[PAGES_MAX];
	unsigned nr_pages;
	uint64_t page_bytes;
};

/* Each piece of a round goes to the home that is farthest behind its share. */
static void deal(struct mover *mv, const struct mover_home *home, unsigned nr)
{
	unsigned dealt[HOMES_MAX] = { 0 }, best;

	for (unsigned i = 0; i < DEAL; i++) {
		best = 0;
		for (unsigned h = 1; h < nr; h++)
			if ((double)dealt[h] * (double)home[best].bytes <
			    (double)dealt[best] * (double)home[h].bytes)
				best = h;
		dealt[best]++;
		mv->node[i] = home[best].node;
	}
}

static void stuck(struct mover *mv, uint64_t bytes, int err)
{
	mv->stuck_bytes += bytes;
	if (!mv->stuck_err)
		mv->stuck_err = err;
}

/* Base pages are hidden in one way, huge ones as the shared page of zeroes always is. */
static bool is_hidden(int status)
{
	return status == -ENOENT || status == -EFAULT;
}

/* What cannot be read stays as it is, and is seen not to move. */
static void touch(struct mover *mv, const int *status)
{
	struct iovec own = { 0 }, theirs[PAGES_MAX];
	char bytes[PAGES_MAX];
	unsigned nr = 0;

	for (unsigned i = 0; i < mv->nr_pages; i++)
		if (is_hidden(status[i]))
			theirs[nr++] = (struct iovec){ mv->page[i], 1 };
	own = (struct iovec){ bytes, nr };
	(void)!process_vm_readv(mv->pid, &own, 1, theirs, nr, 0);
}

static int ask(struct mover *mv, int *status, bool *hidden)
{
	if (move_pages(mv->pid, mv->nr_pages, mv->page, NULL, status, 0))
		return -errno;
	*hidden = false;
	for (unsigned i = 0; i < mv->nr_pages; i++)
		*hidden = *hidden || is_hidden(status[i]);
	return 0;
}

/* Of the gathered pages, which are resident, those that are elsewhere stay. */
static int keep_those_elsewhere(struct mover *mv, int target)
{
	int status[PAGES_MAX];
	unsigned kept = 0;
	bool hidden;
	int err = ask(mv, status, &hidden);

	for (unsigned i = 0; i < TOUCHES && !err && hidden; i++) {
		touch(mv, status);
		err = ask(mv, status, &hidden);
	}
	for (unsigned i = 0; i < mv->nr_pages && !err; i++) {
		if (status[i] == -ENOENT)
			stuck(mv, mv->page_bytes, -EAGAIN);
		if (status[i] < 0)
			continue; /* gone meanwhile, or the zeroes that all share */
		mv->seen_bytes += mv->page_bytes;
		if (status[i] != target)
			mv->page[kept++] = mv->page[i];
	}
	mv->nr_pages = kept;
	mv->astray_bytes += kept * mv->page_bytes;
	return err;
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
	for (unsigned i = 0; i < mv->nr_pages; i++)
		if (status[i] != target)
			stuck(mv, mv->page_bytes, status[i] < 0 ? status[i] : -EBUSY);
	return 0;
}

/* What was gathered goes to its home. */
static int flush(struct mover *mv)
{
	uint64_t piece = MAX(PIECE_BYTES, mv->page_bytes);
	int target, err;

	if (!mv->nr_pages)
		return 0;
	target = (int)mv->node[(uintptr_t)mv->page[0] / piece % DEAL];
	err = keep_those_elsewhere(mv, target);
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

static int pass(struct mover *mv, const struct proc_memory *m,
		void (*progress)(void *arg, uint64_t done, uint64_t all), void *arg)
{
	int err = 0;

	mv->seen_bytes = mv->astray_bytes = mv->stuck_bytes = 0;
	mv->stuck_err = 0;
	for (unsigned i = 0; i < m->nr_regions && !err; i++) {
		err = move_region(mv, &m->region[i]);
		if (progress)
			progress(arg, mv->seen_bytes, m->bytes);
	}
	return err;
}

int mover_run(pid_t pid, const struct proc_memory *m, const struct mover_home *home,
	      unsigned nr_homes, void (*progress)(void *arg, uint64_t done, uint64_t all),
	      void *arg, struct mover_result *out)
{
	struct mover mv = { .pid = pid, .flags = MPOL_MF_MOVE_ALL };
	struct timespec pause = { .tv_nsec = PAUSE_NS };
	uint64_t start = now_ns(), astray = 0;
	int err;

	*out = (struct mover_result){ 0 };
	if (!nr_homes || nr_homes > HOMES_MAX)
		return -EINVAL;
	deal(&mv, home, nr_homes);
	/* Moving nothing tells whether the flag is granted. */
	if (move_pages(pid, 0, NULL, NULL, NULL, MPOL_MF_MOVE_ALL))
		mv.flags = MPOL_MF_MOVE;
	err = resident_open(&mv.resident, pid);
	for (unsigned i = 0; i < PASSES && !err; i++) {
		err = pass(&mv, m, progress, arg);
		astray = MAX(astray, mv.astray_bytes);
		if (!mv.stuck_bytes)
			break;
		nanosleep(&pause, NULL);
	}
	resident_close(&mv.resident);
	out->seen_bytes = mv.seen_bytes;
	out->moved_bytes = astray - MIN(mv.stuck_bytes, astray);
	out->stuck_bytes = mv.stuck_bytes;
	out->stuck_err = mv.stuck_err;
	out->ns = now_ns() - start;
	return err;
}
