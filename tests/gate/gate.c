/*
 * gate.c - how much work translated code is: host instructions per guest instruction
 * on fixed guests, against the figures that are committed.
 *
 *	gate [--expected FILE]		compares, as TAP
 *	gate --print			the figures, as bench/engine/expected has them
 *	gate --show GUEST [RUNS]	the code that ran at least RUNS times (100)
 *	gate --steps			single-steps all guests, not just one
 *
 * Nothing here depends on time or on the host: code counts itself (xlat_tally.h), on
 * machines whose guests, clocks and memory are the same each time. Guests run twice
 * and the second run is measured: translations are made by then, TLB and jump cache
 * begin empty. One guest's count is held against what the processor itself says,
 * step by step, of code that does not count itself.
 */
#include "guests.h"

#include "core/stats.h"
#include "cpu/xlat_tally.h"
#include "host/sim/sim.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define EXPECTED "bench/engine/expected"

/* The guests that are single-stepped: all that jumps and calls can be. */
static const char *const stepped[] = { "calls", "jumps" };

/* What is measured, for each 1,000 guest instructions. */
enum figure { HOST, PAGES, FILLS, LOOKUPS, LINKS, INTERPRETED, FIGURES };

static const char *const figure_name[FIGURES] = { "host",    "pages", "fills",
						  "lookups", "links", "interp" };

/* Worse than expected by more than this much of it, or by this many, is a failure. */
#define TOLERANCE 0.01
#define SLACK     0.2

struct figures {
	double v[FIGURES];
};

static void die(const char *what)
{
	fprintf(stderr, "gate: %s\n", what);
	exit(2);
}

/* --- measuring ------------------------------------------------------------------------- */

static uint64_t count_guest_insns(const struct host *h, const struct guest *g)
{
	struct flat *f = flat_create_on(&engine_interp, h, 1, CLOCK_HOST);
	uint64_t before;

	guest_load(f, g);
	guest_run(f, g);
	before = f->cpu->insns;
	guest_run(f, g);
	if (f->vector >= 0)
		die(g->name);
	before = f->cpu->insns - before;
	flat_destroy(f);
	return before;
}

static struct flat *create(const struct host *h, bool tally)
{
	struct vmm_config cfg = { .tally_code = tally };

	return flat_create_as(&engine_soft, h, 1, CLOCK_HOST, &cfg);
}

static uint64_t interpreted(const struct flat *f)
{
	return atomic_load(&f->vcpu->stats.count[STAT_INTERPRETED]);
}

static struct figures measure(const struct host *h, const struct guest *g)
{
	double insns = (double)count_guest_insns(h, g) / 1000;
	struct flat *f = create(h, true);
	struct xtally_sum a, b;
	struct figures r;
	uint64_t interp;

	guest_load(f, g);
	guest_run(f, g);
	a = xtally_sum(f->cpu->xlat);
	interp = interpreted(f);
	guest_run(f, g);
	b = xtally_sum(f->cpu->xlat);
	if (f->vector >= 0)
		die(g->name);
	r.v[HOST] = (double)(b.insns[XTALLY_HOT] - a.insns[XTALLY_HOT]) / insns;
	/* There and back are two segments. */
	r.v[PAGES] = (double)(b.runs[XTALLY_PAGE] - a.runs[XTALLY_PAGE]) / 2 / insns;
	r.v[FILLS] = (double)(b.runs[XTALLY_FILL] - a.runs[XTALLY_FILL]) / 2 / insns;
	r.v[LOOKUPS] = (double)(b.runs[XTALLY_LOOKUP] - a.runs[XTALLY_LOOKUP]) / insns;
	r.v[LINKS] = (double)(b.runs[XTALLY_LINK] - a.runs[XTALLY_LINK]) / insns;
	r.v[INTERPRETED] = (double)(interpreted(f) - interp) / insns;
	flat_destroy(f);
	return r;
}

/* --- single steps ------------------------------------------------------------------------ */

/* Where translated code is, told by the child. */
struct range {
	uint64_t begin, end;
};

/* Runs @g with translations made, between two stops. */
static void stepped_child(const struct host *h, const struct guest *g, struct range *r)
{
	struct flat *f = create(h, false);
	const struct host_code *code = xcache_code(f->cpu->xlat->seat.cache);
	uint64_t rx = (uint64_t)(uintptr_t)code->rx;

	guest_load(f, g);
	guest_run(f, g);
	r->begin = rx + XLAT_FIXED_BYTES;
	r->end = rx + code->bytes;
	ptrace(PTRACE_TRACEME, 0, NULL, NULL);
	raise(SIGSTOP);
	guest_run(f, g);
	raise(SIGSTOP);
	_exit(0);
}

/* Steps the child to its next stop; how many instructions in @r it executed, 0 on error. */
static uint64_t count_steps(pid_t child, const struct range *r)
{
	struct user_regs_struct regs;
	uint64_t n = 0;
	int status;

	for (;;) {
		if (ptrace(PTRACE_GETREGS, child, NULL, &regs))
			return 0;
		n += regs.rip >= r->begin && regs.rip < r->end;
		if (ptrace(PTRACE_SINGLESTEP, child, NULL, NULL) ||
		    waitpid(child, &status, 0) != child || !WIFSTOPPED(status))
			return 0;
		if (WSTOPSIG(status) != SIGTRAP)
			return WSTOPSIG(status) == SIGSTOP ? n : 0;
	}
}

static uint64_t measure_stepped(const struct host *h, const struct guest *g)
{
	struct range *r =
		mmap(NULL, sizeof(*r), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	uint64_t steps = 0;
	pid_t child;
	int status;

	if (r == MAP_FAILED)
		die("no memory");
	child = fork();
	if (child < 0)
		die("fork");
	if (!child)
		stepped_child(h, g, r);
	if (waitpid(child, &status, 0) == child && WIFSTOPPED(status))
		steps = count_steps(child, r);
	kill(child, SIGKILL);
	waitpid(child, &status, 0);
	munmap(r, sizeof(*r));
	return steps;
}

/* All that code in the block area executes in a measured run, slow paths included. */
static uint64_t measure_tallied(const struct host *h, const struct guest *g)
{
	struct flat *f = create(h, true);
	struct xtally_sum a, b;
	uint64_t n = 0;

	guest_load(f, g);
	guest_run(f, g);
	a = xtally_sum(f->cpu->xlat);
	guest_run(f, g);
	b = xtally_sum(f->cpu->xlat);
	for (unsigned i = 0; i < XTALLY_KINDS; i++)
		n += b.insns[i] - a.insns[i];
	flat_destroy(f);
	return n;
}

/* --- comparing --------------------------------------------------------------------------- */

static const struct guest *find(const char *name)
{
	const struct guest *g = guests;

	while (g->name && strcmp(g->name, name))
		g++;
	return g->name ? g : NULL;
}

static bool read_expected(FILE *in, const char *name, struct figures *want)
{
	char line[200], word[64];

	rewind(in);
	while (fgets(line, sizeof(line), in)) {
		double *v = want->v;

		if (sscanf(line, "%63s %lf %lf %lf %lf %lf %lf", word, &v[0], &v[1], &v[2], &v[3],
			   &v[4], &v[5]) == 1 + FIGURES &&
		    !strcmp(word, name))
			return true;
	}
	return false;
}

static void print_figures(const char *name, const struct figures *r)
{
	printf("%-10s", name);
	for (unsigned i = 0; i < FIGURES; i++)
		printf(" %9.1f", r->v[i]);
	putchar('\n');
}

static double room_at(double want)
{
	return MAX(want * TOLERANCE, SLACK);
}

/* What is off, one figure a line. */
static void show_difference(const struct figures *now, const struct figures *want)
{
	printf("#            for each 1,000 guest instructions\n");
	for (unsigned i = 0; i < FIGURES; i++) {
		double by = now->v[i] - want->v[i];

		if (by > room_at(want->v[i]) || -by > room_at(want->v[i]))
			printf("#   %-8s %9.1f, expected %9.1f, %+9.1f\n", figure_name[i],
			       now->v[i], want->v[i], by);
	}
}

static bool compare(unsigned number, const struct guest *g, const struct figures *now,
		    const struct figures *want)
{
	bool good = true, better = false;

	for (unsigned i = 0; i < FIGURES; i++) {
		good &= now->v[i] <= want->v[i] + room_at(want->v[i]);
		better |= now->v[i] < want->v[i] - room_at(want->v[i]);
	}
	printf("%sok %u - %s: %s\n", good ? "" : "not ", number, g->name, g->what);
	if (good && !better)
		return true;
	show_difference(now, want);
	printf("# %s: make gate-renew\n",
	       good ? "better than what is committed" : "if that is meant");
	return good;
}

static bool steps_agree(const struct host *h, unsigned number, const struct guest *g)
{
	unsigned long long tallied = measure_tallied(h, g), steps;
	bool good;

	fflush(stdout); /* the child has a copy otherwise */
	steps = measure_stepped(h, g);
	good = !steps || steps == tallied;
	printf("%sok %u - single steps of %s agree%s\n# %llu steps, %llu counted\n",
	       good ? "" : "not ", number, g->name,
	       steps ? "" : " # SKIP processes cannot be traced here", steps, tallied);
	return good;
}

static int gate(const struct host *h, const char *path)
{
	FILE *in = fopen(path, "r");
	unsigned number = 0, failed = 0;

	if (!in)
		die(path);
	for (const struct guest *g = guests; g->name; g++) {
		struct figures now = measure(h, g), want;

		if (read_expected(in, g->name, &want)) {
			failed += !compare(++number, g, &now, &want);
			continue;
		}
		failed++;
		printf("not ok %u - %s\n# no figures in %s: make gate-renew\n", ++number, g->name,
		       path);
	}
	fclose(in);

	for (unsigned i = 0; i < ARRAY_SIZE(stepped); i++)
		failed += !steps_agree(h, ++number, find(stepped[i]));
	printf("1..%u\n", number);
	return failed != 0;
}

/* A jump that the tally does not know of is found here. */
static int step_all(const struct host *h)
{
	unsigned number = 0, failed = 0;

	for (const struct guest *g = guests; g->name; g++)
		failed += !steps_agree(h, ++number, g);
	printf("1..%u\n", number);
	return failed != 0;
}

static int print_all(const struct host *h)
{
	printf("# Host instructions, and slow paths, for each 1,000 guest instructions: make gate\n"
	       "# guest  ");
	for (unsigned i = 0; i < FIGURES; i++)
		printf(" %9s", figure_name[i]);
	putchar('\n');
	for (const struct guest *g = guests; g->name; g++) {
		struct figures now = measure(h, g);

		print_figures(g->name, &now);
	}
	return 0;
}

/* --- the code itself ------------------------------------------------------------------------ */

static void print_insn(uint64_t runs, enum xtally_kind kind, const char *text)
{
	static const char *const name[] = { "", "page", "fill", "link", "lookup", "leave" };

	printf("%10llu %-7s %s\n", (unsigned long long)runs, name[kind], text);
}

static int show(const struct host *h, const char *name, uint64_t runs)
{
	const struct guest *g = name ? find(name) : NULL;
	struct flat *f;

	if (!g)
		die("--show: no such guest");
	f = create(h, true);
	guest_load(f, g);
	guest_run(f, g);
	xtally_show(f->cpu->xlat, runs, print_insn);
	flat_destroy(f);
	return 0;
}

int main(int argc, char **argv)
{
	struct host h = sim_create(NULL);
	const char *what = argc > 1 ? argv[1] : "", *value = argc > 2 ? argv[2] : NULL;
	int status;

	if (!strcmp(what, "--print"))
		status = print_all(&h);
	else if (!strcmp(what, "--show"))
		status = show(&h, value, argc > 3 ? strtoull(argv[3], NULL, 0) : 100);
	else if (!strcmp(what, "--steps"))
		status = step_all(&h);
	else
		status = gate(&h, !strcmp(what, "--expected") && value ? value : EXPECTED);
	sim_destroy(&h);
	return status;
}
