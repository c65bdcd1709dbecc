/*
 * launch.c - `pin_cores run`: a command with as many threads as it has PUs, each bound to
 * one of them as it appears, and a claim in the ledger for as long as the command runs.
 *
 * The command is a child. It starts on all planned PUs. Two pipes order the two: the child
 * tells that affinity and memory policy are set, or why not; only then may its threads be
 * bound (else it would undo that), the claim is made, and it is told to execute.
 */
#include "follow.h"
#include "host/linux/cmd/cmd.h"
#include "host/linux/cmd/report.h"
#include "launch.h"
#include "pin_cores.h"
#include "placing.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <numaif.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define STATUS_NOT_RUNNABLE 126 /* as env(1) has them */
#define STATUS_NOT_FOUND    127
#define STATUS_SIGNALLED    128

#ifndef MPOL_PREFERRED_MANY
#define MPOL_PREFERRED_MANY 5
#endif

enum launch_policy { POLICY_LOCAL, POLICY_BIND, POLICY_PREFERRED, POLICY_INTERLEAVE };

static const char *const memory_policies[] = { "local", "bind", "preferred", "interleave", NULL };

/* clang-format off */
static const struct option table[] = {
	{ "cpus", "N", OPT_NUMBER, PIN_OFFSET(run.cpus), .min = 1, .max = PLAN_VCPUS_MAX,
	  .help = "threads to plan for (as many as PUs are not claimed)" },
	{ "memory", "SIZE", OPT_SIZE, PIN_OFFSET(run.memory), .min = MIB(1), .max = GIB(65536),
	  .help = "how much it will need; claimed (1M a thread)" },
	PIN_OPTIONS_PLACING,
	{ "memory-policy", "POLICY", OPT_CHOICE, PIN_OFFSET(memory_policy),
	  .choices = memory_policies,
	  .help = "local, bind, preferred or interleave, over the plan's nodes (local)" },
	{ "hints", NULL, OPT_SWITCH, PIN_OFFSET(hints),
	  .help = "no: leave OMP_* and GOMAXPROCS alone" },
	{ "explain", NULL, OPT_SWITCH, PIN_OFFSET(run.explain),
	  .help = "tell on standard error where it goes, and why" },
	PIN_OPTION_HELP,
};
/* clang-format on */

/* What the child could not do. */
struct fault {
	enum { FAULT_NONE, FAULT_BIND, FAULT_POLICY, FAULT_RUN } what;
	int err; /* -errno */
};

struct launch {
	struct placing placing;
	char **argv; /* the command */
	sigset_t old_mask, signals;
	pid_t child;
	int go[2], fault[2]; /* pipes: execute now; a struct fault for each step of the child */
	struct follow *follow;
};

/* --- the plan ---------------------------------------------------------------------------- */

static unsigned count_unclaimed(const struct placing *p)
{
	unsigned nr = 0;

	for (unsigned i = 0; i < p->scene.m.nr_pus; i++) {
		const struct machine_pu *pu = &p->scene.m.pu[i];
		bool free = pu->usable;

		for (unsigned c = 0; c < p->claims.nr && free; c++)
			free = !pu_set_has(&p->claims.claim[c].pus, pu->os_index);
		nr += free;
	}
	return MIN(MAX(nr, 1), PLAN_VCPUS_MAX);
}

static int make_plan(struct launch *l, struct option_set *set, struct pin_options *o)
{
	struct placing *p = &l->placing;
	int status = placing_begin(p, o, PLACING_ACT);

	if (status)
		return status;
	if (!o->run.cpus)
		o->run.cpus = count_unclaimed(p);
	if (!o->run.memory)
		o->run.memory = MIB(o->run.cpus);
	status = placing_plan(p, set, o);
	if (!status && o->run.explain) {
		report_plan(stderr, l->argv[0], &p->scene.m, &p->plan);
		report_explanation(stderr, &p->plan);
	}
	return status;
}

static int make_claim(struct launch *l, const struct pin_options *o)
{
	struct ledger_claim *c = calloc(1, sizeof(*c));
	const char *base = strrchr(l->argv[0], '/');
	char name[LEDGER_NAME_MAX + 1], why[LEDGER_WHY_BYTES];
	int err;

	if (!c)
		return internal_error("out of memory");
	base = base ? base + 1 : l->argv[0];
	snprintf(name, sizeof(name), "%.40s-%d", isalnum((unsigned char)*base) ? base : "program",
		 (int)l->child);
	for (char *at = name; *at; at++)
		if (!isalnum((unsigned char)*at) && !strchr("._-", *at))
			*at = '_';
	ledger_claim_of(&l->placing.plan, name, o->run.exclusive, c);
	c->pid = l->child; /* whose memory it is; the lock, which keeps the claim alive, is ours */
	c->state = LEDGER_RUNNING;
	snprintf(c->engine, sizeof(c->engine), "%s", LAUNCH_ENGINE);
	err = ledger_claim(l->placing.ledger, c, why, sizeof(why));
	free(c);
	return err ? user_error("%s", why) : 0;
}

/* --- the child --------------------------------------------------------------------------- */

static void add_hint(const char *name, const char *value)
{
	setenv(name, value, false); /* whoever has set it knows better */
}

/* What OpenMP and Go would otherwise guess: one thread a PU, each in its place. */
static void add_hints(const struct plan *p)
{
	char number[16], *places = malloc((size_t)p->nr_vcpus * 8 + 1);
	size_t at = 0;

	snprintf(number, sizeof(number), "%u", p->nr_vcpus);
	add_hint("OMP_NUM_THREADS", number);
	add_hint("GOMAXPROCS", number);
	if (!places)
		return;
	for (unsigned i = 0; i < p->nr_vcpus; i++)
		at += (size_t)sprintf(places + at, "%s{%u}", i ? "," : "", p->vcpu[i].pu);
	add_hint("OMP_PLACES", places);
	add_hint("OMP_PROC_BIND", "true");
	free(places);
}

static int set_memory_policy(const struct plan *p, enum launch_policy policy)
{
	static const int modes[] = { [POLICY_BIND] = MPOL_BIND,
				     [POLICY_PREFERRED] = MPOL_PREFERRED_MANY,
				     [POLICY_INTERLEAVE] = MPOL_INTERLEAVE };
	const unsigned bits = 8 * sizeof(unsigned long);
	unsigned long nodes[PROC_NODES_MAX / (8 * sizeof(unsigned long))] = { 0 };

	for (unsigned i = 0; i < p->nr_memory; i++) {
		int node = p->memory[i].host_node;

		if (node < 0 || node >= PROC_NODES_MAX)
			return 0; /* a host without nodes */
		nodes[(unsigned)node / bits] |= 1ul << ((unsigned)node % bits);
	}
	if (policy == POLICY_LOCAL || !set_mempolicy(modes[policy], nodes, PROC_NODES_MAX + 1))
		return 0;
	return -errno;
}

/* Affinity and memory policy outlive the execution. */
static struct fault prepare(const struct launch *l, const struct pin_options *o)
{
	const struct plan *p = &l->placing.plan;
	struct pu_set pus = { 0 };
	int err;

	for (unsigned i = 0; i < p->nr_vcpus; i++)
		pu_set_add(&pus, p->vcpu[i].pu);
	err = proc_affinity_set(0, &pus);
	if (err)
		return (struct fault){ FAULT_BIND, err };
	err = set_memory_policy(p, (enum launch_policy)o->memory_policy);
	if (err)
		return (struct fault){ FAULT_POLICY, err };
	if (o->hints)
		add_hints(p);
	return (struct fault){ 0 };
}

/* In the child: never returns. */
static void become(struct launch *l, const struct pin_options *o)
{
	struct fault f = prepare(l, o);
	char c;

	close(l->go[1]);
	(void)!write(l->fault[1], &f, sizeof(f));
	sigprocmask(SIG_SETMASK, &l->old_mask, NULL);
	if (read(l->go[0], &c, 1) != 1)
		_exit(STATUS_INTERNAL); /* the parent tells why */
	execvp(l->argv[0], l->argv);
	f = (struct fault){ FAULT_RUN, -errno };
	(void)!write(l->fault[1], &f, sizeof(f));
	_exit(STATUS_NOT_FOUND);
}

static int open_pipes(struct launch *l)
{
	if (pipe2(l->go, O_CLOEXEC))
		return internal_error("no pipe: %s", strerror(errno));
	if (pipe2(l->fault, O_CLOEXEC)) {
		close(l->go[0]);
		close(l->go[1]);
		return internal_error("no pipe: %s", strerror(errno));
	}
	return 0;
}

static void block_signals(struct launch *l)
{
	static const int list[] = { SIGCHLD, SIGPIPE, SIGINT, SIGQUIT, SIGTERM, SIGHUP };

	sigemptyset(&l->signals);
	for (size_t i = 0; i < ARRAY_SIZE(list); i++)
		sigaddset(&l->signals, list[i]);
	sigprocmask(SIG_BLOCK, &l->signals, &l->old_mask);
}

/* --- the parent -------------------------------------------------------------------------- */

static int not_executed(const struct launch *l, const struct fault *f)
{
	static const char *const what[] = {
		[FAULT_BIND] = "cannot be bound to the plan's PUs",
		[FAULT_POLICY] = "the memory policy is refused",
		[FAULT_RUN] = "cannot be run",
	};

	user_error("%s: %s: %s", l->argv[0], what[f->what], strerror(-f->err));
	if (f->what != FAULT_RUN)
		return STATUS_USER;
	return f->err == -ENOENT ? STATUS_NOT_FOUND : STATUS_NOT_RUNNABLE;
}

/* A key's signal went to the whole group: the child has had its own. */
static void pass_on(const struct launch *l, int sig, const siginfo_t *info)
{
	if (info->si_code != SI_KERNEL)
		kill(l->child, sig);
}

/* Until the command has ended; returns what waitpid() says. */
static int supervise(struct launch *l)
{
	struct timespec pause = { 0 };
	siginfo_t info;
	unsigned ms;
	int sig, wstatus;

	for (;;) {
		ms = follow_look(l->follow);
		pause.tv_nsec = (long)ms * 1000000;
		sig = sigtimedwait(&l->signals, &info, &pause);
		if (sig > 0 && sig != SIGCHLD && sig != SIGPIPE)
			pass_on(l, sig, &info);
		if (sig == SIGCHLD && waitpid(l->child, &wstatus, WNOHANG) == l->child)
			return wstatus;
	}
}

/* Until the child is prepared. One that died before has told nothing; waitpid() will. */
static int await_prepared(struct launch *l)
{
	struct fault f;

	if (read(l->fault[0], &f, sizeof(f)) == sizeof(f) && f.what)
		return not_executed(l, &f);
	return 0;
}

static int status_of(const struct launch *l, int wstatus)
{
	struct fault f;

	if (read(l->fault[0], &f, sizeof(f)) == sizeof(f))
		return not_executed(l, &f);
	return WIFSIGNALED(wstatus) ? STATUS_SIGNALLED + WTERMSIG(wstatus) : WEXITSTATUS(wstatus);
}

static int stay(struct launch *l, const struct pin_options *o)
{
	int status = await_prepared(l), wstatus;

	if (!status)
		status = make_claim(l, o);
	placing_unlock(&l->placing);
	if (!status && follow_start(&l->follow, &l->placing.plan, l->child))
		status = internal_error("out of memory");
	if (!status)
		(void)!write(l->go[1], "", 1); /* it fails if the child is gone: see below */
	close(l->go[1]);
	if (status) {
		waitpid(l->child, &wstatus, 0);
		return status;
	}
	wstatus = supervise(l);
	follow_end(l->follow);
	return status_of(l, wstatus);
}

static int start(struct launch *l, const struct pin_options *o)
{
	int status = open_pipes(l);

	if (status)
		return status;
	block_signals(l);
	l->child = fork();
	if (!l->child)
		become(l, o);
	close(l->go[0]);
	close(l->fault[1]);
	if (l->child > 0) {
		status = stay(l, o);
	} else {
		status = internal_error("no new process: %s", strerror(errno));
		close(l->go[1]);
	}
	close(l->fault[0]);
	return status;
}

/* --- the command ------------------------------------------------------------------------- */

static int launch(struct option_set *set, struct pin_options *o, char **argv)
{
	struct launch *l = calloc(1, sizeof(*l));
	int status;

	if (!l)
		return internal_error("out of memory");
	l->argv = argv;
	status = make_plan(l, set, o);
	if (!status)
		status = start(l, o);
	placing_end(&l->placing);
	free(l);
	return status;
}

int cmd_launch(int argc, char **argv)
{
	struct option_set set = {
		.command = "run",
		.summary =
			"pin_cores run [OPTION]... -- COMMAND [ARGUMENT]...\n\nRun a command whose "
			"threads are planned for, and bound as they appear.",
		.table = table,
		.nr = ARRAY_SIZE(table),
	};
	struct pin_options o = { .hints = true, .program = true };
	int own = 1, status;

	while (own < argc && strcmp(argv[own], "--") != 0)
		own++;
	status = pin_options_get(&set, own, argv, &o);
	if (!status && !o.run.help && own + 1 >= argc)
		status = user_error("no command: say pin_cores run [OPTION]... -- COMMAND "
				    "[ARGUMENT]...");
	else if (!status && !o.run.help)
		status = launch(&set, &o, argv + own + 1);
	options_free(&set);
	return status;
}
