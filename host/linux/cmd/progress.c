/* progress.c - see progress.h. */
#include "progress.h"

#include "cmd.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

#define BAR_CELLS 30
#define GRACE_NS  (300 * NSEC_PER_MSEC) /* what is done sooner needs no bar */

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * NSEC_PER_SEC + (uint64_t)t.tv_nsec;
}

struct progress progress_begin(const char *what, bool wanted)
{
	return (struct progress){
		.what = what,
		.started_ns = now_ns(),
		.visible = wanted && isatty(STDERR_FILENO),
	};
}

void progress_draw(struct progress *p, uint64_t done_bytes, uint64_t all_bytes)
{
	uint64_t ns = now_ns() - p->started_ns;
	char bar[BAR_CELLS + 1], done[SIZE_TEXT], all[SIZE_TEXT];
	unsigned cells;

	if (!p->visible || ns < GRACE_NS || !all_bytes)
		return;
	cells = (unsigned)mul_div_u64(MIN(done_bytes, all_bytes), BAR_CELLS, all_bytes);
	memset(bar, '.', BAR_CELLS);
	memset(bar, '#', cells);
	bar[BAR_CELLS] = '\0';
	fprintf(stderr, "\r%s [%s] %s of %s, %.1f GiB/s\033[K", p->what, bar,
		size_text(done_bytes, done), size_text(all_bytes, all),
		(double)done_bytes / (double)GIB(1) * 1e9 / (double)ns);
	p->drawn = true;
}

void progress_end(struct progress *p)
{
	if (p->drawn)
		fprintf(stderr, "\r\033[K");
	p->drawn = false;
}
