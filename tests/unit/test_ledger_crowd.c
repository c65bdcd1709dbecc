/*
 * test_ledger_crowd.c - two hundred machines that start at once, end as they like and
 * are killed: no PU is ever claimed twice behind somebody's back, no claim outlives its
 * owner.
 *
 * Members of the crowd are processes that plan and claim as `alcazar run` does, on a
 * made-up machine. The inspector shares no code with the ledger but its file format:
 * he takes the directory's lock, so that he sees one moment, and counts by himself.
 * $ALCAZAR_CROWD (200) is how many they are, $ALCAZAR_CROWD_SECONDS (4) how long they are
 * watched.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "host/linux/claims.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CROWD_MAX 200
#define PUS_MAX   256
#define LAUNCHES  6 /* of a member, in succession */
#define VICTIMS   5 /* at a time */

static char dir[64];

struct shared {
	_Atomic unsigned ready, launches, refused, shared;
	_Atomic bool go;
};

static struct shared *shared;
static struct machine_model machine;
static pid_t member[CROWD_MAX];
static unsigned crowd = CROWD_MAX;

/* --- the made-up machine ------------------------------------------------------------------ */

static void make_machine(unsigned pus)
{
	if (machine_alloc(&machine, pus, 4))
		abort();
	machine.nr_cores = pus;
	machine.nr_llcs = machine.nr_dies = machine.nr_packages = 4;
	for (unsigned i = 0; i < pus; i++) {
		unsigned node = i / (pus / 4);

		machine.pu[i] = (struct machine_pu){ .os_index = i,
						     .core = i,
						     .llc = node,
						     .die = node,
						     .package = node,
						     .node = node,
						     .usable = true };
	}
	for (unsigned n = 0; n < 4; n++)
		machine.node[n] = (struct machine_node){ .os_index = n,
							 .package = n,
							 .memory_bytes = GIB(64),
							 .free_bytes = GIB(64),
							 .usable = true };
}

/* --- a member ------------------------------------------------------------------------------- */

static uint32_t draw(uint64_t *seed, uint32_t below)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return (uint32_t)((*seed >> 32) % below);
}

static void sleep_ms(unsigned ms)
{
	struct timespec t = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000l };

	nanosleep(&t, NULL);
}

static int plan_and_claim(struct ledger *l, unsigned vcpus, bool exclusive)
{
	struct plan_request r = {
		.vcpus = vcpus, .nodes = 1, .memory_bytes = MIB(1), .exclusive = exclusive
	};
	struct plan *plan = malloc(sizeof(*plan));
	struct claims cl = { 0 };
	char why[LEDGER_WHY_BYTES], name[32];
	struct ledger_claim c;
	int err;

	if (!plan || ledger_lock(l, LEDGER_EXCLUSIVE, why, sizeof(why)))
		abort();
	err = claims_read(&cl, l, &machine, NULL);
	r.claim = cl.claim;
	r.nr_claims = cl.nr;
	if (!err)
		err = plan_make(&machine, &r, plan, why, sizeof(why));
	if (!err) {
		snprintf(name, sizeof(name), "m%d", (int)getpid());
		ledger_claim_of(plan, name, exclusive, &c);
		err = ledger_claim(l, &c, why, sizeof(why));
		if (err)
			fprintf(stderr, "# %s\n", why);
		atomic_fetch_add(&shared->shared, pu_set_count(&c.shared) != 0);
	}
	ledger_unlock(l);
	claims_free(&cl);
	free(plan);
	return err;
}

static struct ledger *open_ledger(void)
{
	char why[LEDGER_WHY_BYTES];
	struct ledger *l;

	if (ledger_open(dir, true, &l, why, sizeof(why))) {
		fprintf(stderr, "# %s\n", why);
		abort();
	}
	return l;
}

static void wait_for_go(void)
{
	atomic_fetch_add(&shared->ready, 1);
	while (!atomic_load(&shared->go))
		sleep_ms(1);
}

/* Launches, stays a little, ends in order or by just going away, and launches again. */
static void be_a_member(unsigned number)
{
	uint64_t seed = 0x9e3779b97f4a7c15u * (number + 1);
	struct ledger *l;

	wait_for_go();
	for (unsigned i = 0; i < LAUNCHES; i++) {
		int err;

		l = open_ledger();
		err = plan_and_claim(l, 1 + draw(&seed, 4), !draw(&seed, 4));
		atomic_fetch_add(&shared->launches, !err);
		atomic_fetch_add(&shared->refused, err == -EBUSY || err == -ENOSPC);
		if (err && err != -EBUSY && err != -ENOSPC)
			abort();
		sleep_ms(draw(&seed, 300));
		if (!draw(&seed, 8))
			_exit(0);
		if (!draw(&seed, 4) && !err) {
			struct ledger_claim c;
			char why[LEDGER_WHY_BYTES];

			ledger_get(l, &c);
			c.state = LEDGER_RUNNING;
			if (ledger_update(l, &c, why, sizeof(why)))
				abort();
		}
		ledger_close(l);
	}
	_exit(0);
}

/* One vCPU, and stays until it is killed. */
static void be_a_guest(unsigned number)
{
	wait_for_go();
	if (plan_and_claim(open_ledger(), 1, number % 2))
		abort();
	atomic_fetch_add(&shared->launches, 1);
	for (;;)
		pause();
}

static void start(unsigned i, void (*be)(unsigned number))
{
	member[i] = fork();
	assert_true(member[i] >= 0);
	if (member[i])
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	be(i);
	_exit(1);
}

/* --- the inspector ---------------------------------------------------------------------------- */

struct finding {
	unsigned claims;
	unsigned owners[PUS_MAX], exclusive[PUS_MAX], aware[PUS_MAX];
	pid_t pid[2 * CROWD_MAX];
};

static int set_lock(int fd, int op, short type)
{
	struct flock f = { .l_type = type, .l_whence = SEEK_SET };

	if (fcntl(fd, op, &f))
		return -1;
	return f.l_type;
}

/* "0-3,8": adds one to count[] of each. */
static void count_list(const char *list, unsigned count[PUS_MAX])
{
	unsigned first, last;
	int used;

	for (const char *p = list; *p; p += used + (p[used] == ',')) {
		if (sscanf(p, "%u-%u%n", &first, &last, &used) != 2) {
			assert_int_equal(sscanf(p, "%u%n", &first, &used), 1);
			last = first;
		}
		for (unsigned pu = first; pu <= last && pu < PUS_MAX; pu++)
			count[pu]++;
	}
}

static void inspect_file(int fd, struct finding *f)
{
	json_t *doc = json_loadfd(fd, 0, NULL);
	const char *pus, *known;
	int exclusive, pid;

	if (json_unpack(doc, "{s:s s:s s:b s:i}", "pus", &pus, "shared", &known, "exclusive",
			&exclusive, "pid", &pid))
		fail_msg("a live claim that cannot be read");
	assert_true(f->claims < ARRAY_SIZE(f->pid));
	f->pid[f->claims++] = pid;
	count_list(pus, f->owners);
	count_list(known, f->aware);
	if (exclusive)
		count_list(pus, f->exclusive);
	json_decref(doc);
}

static void inspect_files(struct finding *f)
{
	DIR *d = opendir(dir);
	struct dirent *e;

	assert_non_null(d);
	while ((e = readdir(d))) {
		size_t n = strlen(e->d_name);
		int fd;

		if (n < 6 || strcmp(e->d_name + n - 6, ".claim") != 0)
			continue;
		fd = openat(dirfd(d), e->d_name, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			continue; /* released this moment */
		if (set_lock(fd, F_OFD_GETLK, F_RDLCK) != F_UNLCK)
			inspect_file(fd, f);
		close(fd);
	}
	closedir(d);
}

/* Of several owners of a PU none is exclusive, and all but the first knew. */
static void inspect(struct finding *f)
{
	char path[96];
	int fd;

	memset(f, 0, sizeof(*f));
	snprintf(path, sizeof(path), "%s/lock", dir);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	while (set_lock(fd, F_OFD_SETLK, F_RDLCK) < 0)
		sched_yield(); /* in front of all who wait in order */
	inspect_files(f);
	close(fd);
	for (unsigned pu = 0; pu < PUS_MAX; pu++) {
		if (f->owners[pu] < 2)
			continue;
		if (f->exclusive[pu])
			fail_msg("PU %u: %u owners, %u exclusive", pu, f->owners[pu],
				 f->exclusive[pu]);
		if (f->aware[pu] + 1 < f->owners[pu])
			fail_msg("PU %u: %u owners, %u know", pu, f->owners[pu], f->aware[pu]);
	}
}

static void assert_no_claim_of(const struct finding *f, pid_t pid)
{
	for (unsigned i = 0; i < f->claims; i++)
		if (f->pid[i] == pid)
			fail_msg("process %d is dead and has a claim", (int)pid);
}

/* --- tests --------------------------------------------------------------------------------------
 */

static int setup(void **state)
{
	snprintf(dir, sizeof(dir), "/tmp/test_crowd.XXXXXX");
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		      0);
	return shared != MAP_FAILED && mkdtemp(dir) ? 0 : -1;
}

static void end_member(unsigned i)
{
	int status;

	kill(member[i], SIGKILL);
	assert_int_equal(waitpid(member[i], &status, 0), member[i]);
	assert_true(!WIFEXITED(status) || !WEXITSTATUS(status));
	assert_true(!WIFSIGNALED(status) || WTERMSIG(status) == SIGKILL);
	member[i] = 0;
}

/* Also when a test has failed in the middle. */
static int teardown(void **state)
{
	char path[320];
	struct dirent *e;
	DIR *d;

	for (unsigned i = 0; i < crowd; i++) {
		if (member[i] > 0) {
			kill(member[i], SIGKILL);
			waitpid(member[i], NULL, 0);
		}
		member[i] = 0;
	}
	d = opendir(dir);
	while (d && (e = readdir(d))) {
		snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
		unlink(path);
	}
	if (d)
		closedir(d);
	munmap(shared, sizeof(*shared));
	machine_free(&machine);
	return rmdir(dir);
}

/* Who plans takes away what the dead left. */
static void assert_nothing_left(void)
{
	struct ledger *l = open_ledger();
	char why[LEDGER_WHY_BYTES];
	struct ledger_list list;
	struct dirent *e;
	DIR *d;

	assert_int_equal(ledger_lock(l, LEDGER_EXCLUSIVE, why, sizeof(why)), 0);
	assert_int_equal(ledger_read(l, &list), 0);
	ledger_unlock(l);
	assert_int_equal(list.nr + list.nr_trouble, 0);
	ledger_list_free(&list);
	ledger_close(l);
	d = opendir(dir);
	assert_non_null(d);
	while ((e = readdir(d)))
		if (e->d_name[0] != '.' && strcmp(e->d_name, "lock") != 0)
			fail_msg("%s is left", e->d_name);
	closedir(d);
}

static void start_crowd(void (*be)(unsigned number))
{
	for (unsigned i = 0; i < crowd; i++)
		start(i, be);
	while (atomic_load(&shared->ready) < crowd)
		sleep_ms(1);
	atomic_store(&shared->go, true);
}

/* Where there is a PU for everybody, everybody has one, at every moment on the way. */
static void all_at_once(void **state)
{
	struct finding f;

	make_machine(PUS_MAX);
	start_crowd(be_a_guest);
	while (atomic_load(&shared->launches) < crowd) {
		inspect(&f);
		sleep_ms(5);
	}
	inspect(&f);
	assert_int_equal(f.claims, crowd);
	for (unsigned pu = 0; pu < PUS_MAX; pu++)
		assert_true(f.owners[pu] <= 1);
	assert_int_equal(atomic_load(&shared->shared), 0);
	for (unsigned i = 0; i < crowd; i++)
		end_member(i);
	inspect(&f);
	assert_int_equal(f.claims, 0);
	assert_nothing_left();
}

static void kill_and_inspect(unsigned first, struct finding *f)
{
	pid_t dead[VICTIMS];

	for (unsigned i = 0; i < VICTIMS; i++) {
		dead[i] = member[first + i];
		end_member(first + i);
	}
	inspect(f);
	for (unsigned i = 0; i < VICTIMS; i++)
		assert_no_claim_of(f, dead[i]);
}

static double now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Too few PUs, and kill -9: at every moment the claims fit together. */
static void coming_going_and_dying(void **state)
{
	const char *seconds = getenv("ALCAZAR_CROWD_SECONDS");
	double end = now_s() + (seconds ? atof(seconds) : 4);
	unsigned inspections = 0, kills = 0;
	uint64_t seed = 42;
	struct finding f;

	make_machine(MAX(crowd / 12, 1) * 4);
	start_crowd(be_a_member);
	do {
		unsigned first = draw(&seed, crowd - VICTIMS);

		kill_and_inspect(first, &f);
		kills += VICTIMS;
		inspections++;
		for (unsigned i = 0; i < VICTIMS; i++)
			start(first + i, be_a_member);
		sleep_ms(draw(&seed, 8));
	} while (now_s() < end);
	for (unsigned i = 0; i < crowd; i++) {
		pid_t pid = member[i];

		end_member(i);
		if (i % 20)
			continue;
		inspect(&f);
		assert_no_claim_of(&f, pid);
	}
	inspect(&f);
	assert_int_equal(f.claims, 0);
	assert_nothing_left();
	print_message("# %u launches, %u refused, %u sharing; %u killed, %u inspections\n",
		      atomic_load(&shared->launches), atomic_load(&shared->refused),
		      atomic_load(&shared->shared), kills, inspections);
	assert_true(atomic_load(&shared->launches) && atomic_load(&shared->shared));
}

int main(void)
{
	const char *size = getenv("ALCAZAR_CROWD");
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(all_at_once, setup, teardown),
		cmocka_unit_test_setup_teardown(coming_going_and_dying, setup, teardown),
	};

	if (size)
		crowd = (unsigned)MIN(MAX(atoi(size), 2 * VICTIMS), CROWD_MAX);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
