/*
 * test_ledger.c - claims as text, the directory they are in, and what the planner is
 * told of them. Many processes at a time are test_ledger_crowd.c's.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "host/linux/claims.h"
#include "host/linux/host_linux.h"
#include "host/linux/ledger_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char dir[64], why[LEDGER_WHY_BYTES];

/* --- a directory for each test ------------------------------------------------------------ */

static int make_dir(void **state)
{
	snprintf(dir, sizeof(dir), "/tmp/test_ledger.XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static const char *in_dir(const char *file)
{
	static char path[512];

	snprintf(path, sizeof(path), "%s/%s", dir, file);
	return path;
}

static bool exists(const char *file)
{
	struct stat st;

	return !lstat(in_dir(file), &st);
}

static int remove_dir(void **state)
{
	DIR *d = opendir(dir);
	struct dirent *e;

	while (d && (e = readdir(d)))
		if (e->d_name[0] != '.' && unlink(in_dir(e->d_name)))
			rmdir(in_dir(e->d_name));
	if (d)
		closedir(d);
	return rmdir(dir);
}

static struct ledger *open_here(void)
{
	struct ledger *l;

	if (ledger_open(dir, true, &l, why, sizeof(why)))
		fail_msg("%s", why);
	return l;
}

static void write_file(const char *file, const char *text)
{
	FILE *f = fopen(in_dir(file), "w");

	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

/* --- claims -------------------------------------------------------------------------------- */

static struct ledger_claim small_claim(const char *name)
{
	struct ledger_claim c = {
		.pid = getpid(),
		.started_ns = 5,
		.engine = "soft",
		.state = LEDGER_RUNNING,
		.nr_vcpus = 3,
		.vcpu = { 4, 5, 5 },
		.nr_io = 1,
		.io = { { .node = 1, .pu = 7 } },
		.nr_memory = 2,
		.memory = { { .host_node = 1, .born_node = 1, .bytes = GIB(3) },
			    { .guest_node = 1,
			      .host_node = 0,
			      .born_node = 1,
			      .bytes = GIB(1),
			      .page_bytes = MIB(2) } },
	};

	snprintf(c.name, sizeof(c.name), "%s", name);
	for (unsigned pu = 4; pu < 8; pu++)
		pu_set_add(&c.pus, pu);
	pu_set_add(&c.shared, 5);
	return c;
}

static struct ledger_claim biggest_claim(void)
{
	struct ledger_claim c = small_claim("a");

	memset(c.name, 'a', LEDGER_NAME_MAX);
	memset(c.engine, 'e', LEDGER_ENGINE_MAX);
	c.pid = INT32_MAX;
	c.started_ns = INT64_MAX;
	for (unsigned pu = 1; pu < PU_SET_MAX; pu += 2) {
		pu_set_add(&c.pus, pu);
		pu_set_add(&c.shared, pu);
	}
	c.nr_vcpus = PLAN_VCPUS_MAX;
	for (unsigned i = 0; i < c.nr_vcpus; i++)
		c.vcpu[i] = (uint16_t)(PU_SET_MAX - 1 - 2 * i);
	c.nr_io = c.nr_memory = PLAN_NODES_MAX;
	for (unsigned i = 0; i < PLAN_NODES_MAX; i++) {
		c.io[i] = (struct ledger_io){ .node = 4095, .pu = 4095 };
		c.memory[i] = (struct ledger_memory){
			.guest_node = i,
			.host_node = 4095,
			.born_node = -1,
			.bytes = UINT64_C(1) << 60,
			.page_bytes = UINT64_C(1) << 60,
		};
	}
	return c;
}

static void assert_same(const struct ledger_claim *a, const struct ledger_claim *b)
{
	assert_string_equal(a->name, b->name);
	assert_string_equal(a->engine, b->engine);
	assert_int_equal(a->pid, b->pid);
	assert_int_equal(a->started_ns, b->started_ns);
	assert_int_equal(a->state, b->state);
	assert_int_equal(a->exclusive, b->exclusive);
	assert_memory_equal(&a->pus, &b->pus, sizeof(a->pus));
	assert_memory_equal(&a->shared, &b->shared, sizeof(a->shared));
	assert_int_equal(a->nr_vcpus, b->nr_vcpus);
	assert_memory_equal(a->vcpu, b->vcpu, sizeof(a->vcpu[0]) * a->nr_vcpus);
	assert_int_equal(a->nr_io, b->nr_io);
	assert_memory_equal(a->io, b->io, sizeof(a->io[0]) * a->nr_io);
	assert_int_equal(a->nr_memory, b->nr_memory);
	for (unsigned i = 0; i < a->nr_memory; i++) {
		assert_int_equal(a->memory[i].guest_node, b->memory[i].guest_node);
		assert_int_equal(a->memory[i].host_node, b->memory[i].host_node);
		assert_int_equal(a->memory[i].born_node, b->memory[i].born_node);
		assert_int_equal(a->memory[i].bytes, b->memory[i].bytes);
		assert_int_equal(a->memory[i].page_bytes, b->memory[i].page_bytes);
	}
}

static void there_and_back(const struct ledger_claim *c)
{
	struct ledger_claim read;
	char *text = ledger_file_text(c);

	assert_non_null(text);
	assert_true(strlen(text) < LEDGER_FILE_MAX);
	if (ledger_file_parse(text, strlen(text), &read, why, sizeof(why)))
		fail_msg("%s", why);
	assert_same(c, &read);
	free(text);
}

static void texts_there_and_back(void **state)
{
	struct ledger_claim c = small_claim("web");

	there_and_back(&c);
	c.exclusive = true;
	c.state = LEDGER_PAUSED;
	c.engine[0] = '\0';
	pu_set_clear(&c.shared);
	there_and_back(&c);
	c = biggest_claim();
	there_and_back(&c);
}

/* A claim's text in which the first @from is @to. */
static char *text_with(const char *from, const char *to)
{
	struct ledger_claim c = small_claim("web");
	char *text = ledger_file_text(&c), *at = strstr(text, from), *made;

	if (!at)
		fail_msg("%s: no %s", text, from);
	if (asprintf(&made, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from)) < 0)
		made = NULL;
	free(text);
	return made;
}

static void texts_that_are_refused(void **state)
{
	static const struct {
		const char *from, *to, *why;
	} table[] = {
		{ "{", "[", "not a JSON object" },
		{ "{\"claim\":1", "{\"claim\":2", "of version 2, 1 is known" },
		{ "\"claim\":1", "\"claim\":0", "\"claim\"" },
		{ "\"claim\":1,", "", "\"claim\"" },
		{ "\"pid\"", "\"name\"", "not a JSON object" },
		{ "web", "../web", "\"name\"" },
		{ "web", "", "\"name\"" },
		{ "web", "w\\u0000b", "not a JSON object" },
		{ "\"web\"", "7", "\"name\"" },
		{ "\"started_ns\":5", "\"started_ns\":-1", "\"started_ns\"" },
		{ "\"started_ns\":5", "\"started_ns\":1e3", "\"started_ns\"" },
		{ "\"started_ns\":5", "\"started_ns\":99999999999999999999", "not a JSON object" },
		{ "soft", "so\\u001bft", "\"engine\"" },
		{ "soft", "sixteencharacter", "\"engine\"" },
		{ "running", "dancing", "\"state\"" },
		{ "\"exclusive\":false", "\"exclusive\":0", "\"exclusive\"" },
		{ "4-7", "4-4096", "\"pus\"" },
		{ "\"4-7\"", "[4]", "\"pus\"" },
		{ "4-7", "4", "vCPU 1" },
		{ "\"shared\":\"5\"", "\"shared\":\"3\"", "\"shared\"" },
		{ "[4,5,5]", "[]", "no vCPUs" },
		{ "[4,5,5]", "[4,\"5\"]", "vCPU 1" },
		{ "[4,5,5]", "[4,4100]", "vCPU 1" },
		{ "[4,5,5]", "{}", "\"vcpus\"" },
		{ "\"pu\":7", "\"pu\":4096", "\"pu\"" },
		{ "[{\"node\"", "[7,{\"node\"", "\"node\"" },
		{ "\"guest_node\":0", "\"guest_node\":64", "\"guest_node\"" },
		{ "\"host_node\":1", "\"host_node\":-2", "\"host_node\"" },
		{ "\"bytes\":3221225472", "\"bytes\":1152921504606846977", "\"bytes\"" },
		{ "\"born_node\":1,", "", "\"born_node\"" },
	};
	struct ledger_claim c;

	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		char *text = text_with(table[i].from, table[i].to);

		assert_non_null(text);
		if (!ledger_file_parse(text, strlen(text), &c, why, sizeof(why)))
			fail_msg("taken: %s", text);
		if (!strstr(why, table[i].why))
			fail_msg("%s: \"%s\" does not say \"%s\"", text, why, table[i].why);
		free(text);
	}
}

static void texts_that_are_torn(void **state)
{
	struct ledger_claim c = small_claim("web");
	char *text = ledger_file_text(&c);

	for (size_t n = 0; n < strlen(text); n++)
		assert_int_equal(ledger_file_parse(text, n, &c, why, sizeof(why)), -EINVAL);
	free(text);
	text = calloc(1, LEDGER_FILE_MAX + 2);
	memset(text, ' ', LEDGER_FILE_MAX + 1);
	assert_int_equal(ledger_file_parse(text, LEDGER_FILE_MAX + 1, &c, why, sizeof(why)),
			 -EINVAL);
	assert_non_null(strstr(why, "longer"));
	memset(text, '[', LEDGER_FILE_MAX);
	assert_int_equal(ledger_file_parse(text, LEDGER_FILE_MAX, &c, why, sizeof(why)), -EINVAL);
	free(text);
}

/* What is not known yet may be added. */
static void texts_with_more(void **state)
{
	char *text = text_with("{", "{\"mood\":[1,{}],");
	struct ledger_claim c, want = small_claim("web");

	assert_int_equal(ledger_file_parse(text, strlen(text), &c, why, sizeof(why)), 0);
	assert_same(&c, &want);
	free(text);
}

/* --- the directory -------------------------------------------------------------------------- */

static void claim_now(struct ledger *l, const struct ledger_claim *c)
{
	int err;

	assert_int_equal(ledger_lock(l, LEDGER_EXCLUSIVE, why, sizeof(why)), 0);
	err = ledger_claim(l, c, why, sizeof(why));
	ledger_unlock(l);
	if (err)
		fail_msg("%s", why);
}

/* Reads under a lock, so that what is dead goes. */
static struct ledger_list read_now(struct ledger *l)
{
	struct ledger_list list;

	assert_int_equal(ledger_lock(l, LEDGER_EXCLUSIVE, why, sizeof(why)), 0);
	assert_int_equal(ledger_read(l, &list), 0);
	ledger_unlock(l);
	return list;
}

static void assert_empty(struct ledger *l)
{
	struct ledger_list list = read_now(l);

	assert_int_equal(list.nr, 0);
	assert_int_equal(list.nr_trouble, 0);
	ledger_list_free(&list);
}

static void a_life(void **state)
{
	struct ledger *l = open_here(), *other = open_here();
	struct ledger_claim c = small_claim("web"), got;
	struct ledger_list list;
	struct stat st;

	assert_int_equal(ledger_get(l, &got), -ENOENT);
	claim_now(l, &c);
	assert_int_equal(stat(in_dir("web.claim"), &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_false(exists("web.claim.new"));
	list = read_now(other);
	assert_int_equal(list.nr, 1);
	assert_same(&list.claim[0], &c);
	ledger_list_free(&list);

	c.vcpu[2] = 6;
	c.state = LEDGER_PAUSED;
	assert_int_equal(ledger_update(l, &c, why, sizeof(why)), 0);
	assert_int_equal(ledger_get(l, &got), 0);
	assert_same(&got, &c);
	list = read_now(other); /* still alive: the lock came with the new file */
	assert_int_equal(list.nr, 1);
	assert_same(&list.claim[0], &c);
	ledger_list_free(&list);

	ledger_release(l);
	assert_false(exists("web.claim"));
	assert_empty(other);
	assert_int_equal(ledger_update(l, &c, why, sizeof(why)), -EINVAL);
	claim_now(l, &c);
	ledger_close(l);
	assert_empty(other);
	ledger_close(other);
}

static void names_are_unique(void **state)
{
	struct ledger *l = open_here(), *other = open_here();
	struct ledger_claim c = small_claim("web");

	claim_now(l, &c);
	assert_int_equal(ledger_claim(other, &c, why, sizeof(why)), -EEXIST);
	assert_non_null(strstr(why, "web runs already, process"));
	assert_int_equal(ledger_claim(l, &c, why, sizeof(why)), -EALREADY);
	strcpy(c.name, "we");
	claim_now(other, &c);
	assert_int_equal(ledger_update(l, &c, why, sizeof(why)), -EINVAL);
	strcpy(c.name, "a/b");
	ledger_release(other);
	assert_int_equal(ledger_claim(other, &c, why, sizeof(why)), -EINVAL);
	ledger_close(other);
	ledger_close(l);
}

static void lists_are_sorted(void **state)
{
	static const char *const names[] = { "m", "b", "z", "a", "k" };
	struct ledger *l[ARRAY_SIZE(names)];
	struct ledger_list list;

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		struct ledger_claim c = small_claim(names[i]);

		l[i] = open_here();
		claim_now(l[i], &c);
	}
	list = read_now(l[0]);
	assert_int_equal(list.nr, ARRAY_SIZE(names));
	for (unsigned i = 1; i < list.nr; i++)
		assert_true(strcmp(list.claim[i - 1].name, list.claim[i].name) < 0);
	ledger_list_free(&list);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		ledger_close(l[i]);
}

/* A child that does not outlive a test that fails. */
static pid_t fork_child(void)
{
	pid_t parent = getpid(), pid = fork();

	assert_true(pid >= 0);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(1);
	}
	return pid;
}

/* A child that claims, says so, and stays until it is killed. */
static pid_t start_owner(const char *name)
{
	struct ledger_claim c = small_claim(name);
	int fd[2];
	char ready;
	pid_t pid;

	assert_int_equal(pipe(fd), 0);
	pid = fork_child();
	if (!pid) {
		c.pid = getpid();
		claim_now(open_here(), &c);
		if (write(fd[1], "r", 1) == 1)
			pause();
		_exit(1);
	}
	assert_int_equal(read(fd[0], &ready, 1), 1);
	close(fd[0]);
	close(fd[1]);
	return pid;
}

static void end_owner(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static void dead_owners_leave_nothing(void **state)
{
	struct ledger *l = open_here();
	pid_t pid = start_owner("web");
	struct ledger_claim c = small_claim("web");
	struct ledger_list list = read_now(l);

	assert_int_equal(list.nr, 1);
	assert_int_equal(list.claim[0].pid, pid);
	ledger_list_free(&list);
	assert_int_equal(ledger_claim(l, &c, why, sizeof(why)), -EEXIST);
	end_owner(pid);
	assert_true(exists("web.claim"));
	assert_int_equal(ledger_read(l, &list), 0); /* nobody's lock is held: it stays, unseen */
	assert_int_equal(list.nr, 0);
	ledger_list_free(&list);
	assert_true(exists("web.claim"));
	assert_empty(l);
	assert_false(exists("web.claim"));

	pid = start_owner("web");
	end_owner(pid);
	claim_now(l, &c); /* over what is left */
	list = read_now(l);
	assert_int_equal(list.nr, 1);
	assert_int_equal(list.claim[0].pid, getpid());
	ledger_list_free(&list);
	ledger_close(l);
}

static void unfinished_files_go(void **state)
{
	struct ledger *l = open_here(), *other = open_here();
	struct ledger_claim c = small_claim("web");

	claim_now(l, &c);
	write_file("web.claim.new", "of a live owner");
	write_file("dead.claim.new", "of a dead one");
	write_file("note", "of nobody");
	for (unsigned i = 0; i < 2; i++) {
		struct ledger_list list = read_now(other);

		assert_int_equal(list.nr, 1);
		assert_int_equal(list.nr_trouble, 0);
		ledger_list_free(&list);
	}
	assert_true(exists("web.claim.new"));
	assert_false(exists("dead.claim.new"));
	assert_true(exists("note"));
	assert_int_equal(ledger_update(l, &c, why, sizeof(why)), 0);
	assert_false(exists("web.claim.new"));
	ledger_close(other);
	ledger_close(l);
}

/* A descriptor that locks @file as its owner would. */
static int lock_file(const char *file)
{
	struct flock f = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	int fd = open(in_dir(file), O_RDWR | O_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(fcntl(fd, F_OFD_SETLK, &f), 0);
	return fd;
}

static void spoilt_claims(void **state)
{
	struct ledger *l = open_here();
	struct ledger_claim c = small_claim("good"), spoilt = small_claim("spoilt");
	struct ledger_list list;
	char *text = ledger_file_text(&c);
	int fd[2];

	claim_now(l, &c);
	write_file("dead.claim", "{]");
	write_file("spoilt.claim", "{]");
	write_file("other.claim", text); /* says that it is good's */
	fd[0] = lock_file("spoilt.claim");
	fd[1] = lock_file("other.claim");
	assert_int_equal(symlink("good.claim", in_dir("link.claim")), 0);
	assert_int_equal(mkdir(in_dir("dir\n.claim"), 0700), 0);
	assert_int_equal(mkfifo(in_dir("fifo.claim"), 0600), 0);
	list = read_now(l);
	assert_int_equal(list.nr, 1);
	assert_string_equal(list.claim[0].name, "good");
	assert_int_equal(list.nr_trouble, 5);
	for (unsigned i = 0; i < list.nr_trouble; i++) {
		const struct ledger_trouble *t = &list.trouble[i];
		const char *want = !strcmp(t->file, "spoilt.claim")  ? "not a JSON object"
				   : !strcmp(t->file, "other.claim") ? "another machine"
								     : "no file of yours";

		assert_null(strchr(t->file, '\n'));
		if (!strstr(t->why, want))
			fail_msg("%s: \"%s\" does not say \"%s\"", t->file, t->why, want);
	}
	ledger_list_free(&list);
	assert_false(exists("dead.claim"));
	assert_true(exists("link.claim"));
	assert_int_equal(ledger_claim(l, &spoilt, why, sizeof(why)), -EALREADY);
	ledger_release(l);
	assert_int_equal(ledger_claim(l, &spoilt, why, sizeof(why)), -EEXIST);
	strcpy(spoilt.name, "link");
	assert_true(ledger_claim(l, &spoilt, why, sizeof(why)) < 0);
	close(fd[0]);
	close(fd[1]);
	free(text);
	ledger_close(l);
}

/* Whoever takes our file away does not make us take away his. */
static void a_stolen_name(void **state)
{
	struct ledger *l = open_here();
	struct ledger_claim c = small_claim("web");

	claim_now(l, &c);
	assert_int_equal(unlink(in_dir("web.claim")), 0);
	write_file("web.claim", "another");
	ledger_close(l);
	assert_true(exists("web.claim"));
}

static void directories_that_will_not_do(void **state)
{
	struct ledger *l;
	char path[128];

	snprintf(path, sizeof(path), "%s/none", dir);
	assert_int_equal(ledger_open(path, false, &l, why, sizeof(why)), -ENOENT);
	assert_null(l);
	snprintf(path, sizeof(path), "%s/none/none", dir);
	assert_int_equal(ledger_open(path, true, &l, why, sizeof(why)), -ENOENT);
	assert_non_null(strstr(why, "ALCAZAR_RUNTIME_DIR"));
	write_file("file", "");
	assert_int_equal(ledger_open(in_dir("file"), true, &l, why, sizeof(why)), -ENOTDIR);
	assert_int_equal(symlink(".", in_dir("link")), 0);
	assert_true(ledger_open(in_dir("link"), true, &l, why, sizeof(why)) < 0);
	assert_int_equal(chmod(dir, 0777), 0);
	assert_int_equal(ledger_open(dir, true, &l, why, sizeof(why)), -EPERM);
	assert_non_null(strstr(why, "others may write"));
	assert_int_equal(chmod(dir, 0700), 0);
	assert_int_equal(ledger_open("/proc/none", true, &l, why, sizeof(why)), -ENOENT);
	snprintf(path, sizeof(path), "%s/made", dir);
	assert_int_equal(ledger_open(path, true, &l, why, sizeof(why)), 0);
	assert_string_equal(ledger_path(l), path);
	ledger_close(l);
}

static void where_the_directory_is(void **state)
{
	char path[128];

	setenv("ALCAZAR_RUNTIME_DIR", "/here", 1);
	assert_string_equal(ledger_directory(path, sizeof(path)), "/here");
	unsetenv("ALCAZAR_RUNTIME_DIR");
	setenv("XDG_RUNTIME_DIR", "/there", 1);
	assert_string_equal(ledger_directory(path, sizeof(path)),
			    geteuid() ? "/there/alcazar" : "/run/alcazar");
	unsetenv("XDG_RUNTIME_DIR");
	ledger_directory(path, sizeof(path));
	assert_true(!strncmp(path, geteuid() ? "/tmp/alcazar-" : "/run/alcazar", 12));
}

/* No room on the device, as a limit on the size of files. */
static void an_update_without_room(void **state)
{
	struct ledger *l = open_here();
	struct ledger_claim c = small_claim("web"), changed = c, got;
	struct rlimit old, none;
	struct ledger_list list;
	int err;

	claim_now(l, &c);
	changed.vcpu[0] = 6;
	getrlimit(RLIMIT_FSIZE, &old);
	none = (struct rlimit){ .rlim_cur = 16, .rlim_max = old.rlim_max };
	signal(SIGXFSZ, SIG_IGN);
	setrlimit(RLIMIT_FSIZE, &none);
	err = ledger_update(l, &changed, why, sizeof(why));
	setrlimit(RLIMIT_FSIZE, &old);
	signal(SIGXFSZ, SIG_DFL);
	assert_int_equal(err, -EFBIG);
	assert_non_null(strstr(why, "web.claim: cannot be written"));
	assert_int_equal(ledger_get(l, &got), 0);
	assert_same(&got, &c);
	list = read_now(l);
	assert_int_equal(list.nr, 1);
	assert_same(&list.claim[0], &c);
	ledger_list_free(&list);
	assert_false(exists("web.claim.new"));
	ledger_close(l);
}

/* --- locks ------------------------------------------------------------------------------------ */

#define ROUNDS 200

/* Lost updates show that two were inside at a time. */
static void count_under_lock(struct ledger *l, volatile unsigned *count)
{
	char mine[LEDGER_WHY_BYTES];

	for (unsigned i = 0; i < ROUNDS; i++) {
		unsigned seen;

		if (ledger_lock(l, LEDGER_EXCLUSIVE, mine, sizeof(mine)))
			_exit(1);
		seen = *count;
		if (!(i % 8))
			sched_yield();
		*count = seen + 1;
		ledger_unlock(l);
	}
}

struct counting {
	struct ledger *l;
	unsigned *count;
};

static void *counting_thread(void *arg)
{
	struct counting *c = arg;

	count_under_lock(c->l, c->count);
	return NULL;
}

static void one_at_a_time(void **state)
{
	unsigned *count =
		mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct counting c = { .count = count };
	pid_t pid[3];
	pthread_t t;
	int status;

	assert_ptr_not_equal(count, MAP_FAILED);
	for (size_t i = 0; i < ARRAY_SIZE(pid); i++) {
		pid[i] = fork_child();
		if (!pid[i]) {
			count_under_lock(open_here(), count);
			_exit(0);
		}
	}
	c.l = open_here();
	assert_int_equal(pthread_create(&t, NULL, counting_thread, &c), 0);
	count_under_lock(c.l, count);
	pthread_join(t, NULL);
	for (size_t i = 0; i < ARRAY_SIZE(pid); i++) {
		assert_int_equal(waitpid(pid[i], &status, 0), pid[i]);
		assert_int_equal(status, 0);
	}
	assert_int_equal(*count, ROUNDS * (ARRAY_SIZE(pid) + 2));
	ledger_close(c.l);
	munmap(count, PAGE_SIZE);
}

/* A stopped planner stops nobody for ever, and a dead one nobody at all. */
static void patience_ends(void **state)
{
	struct ledger *l = open_here();
	char want[32], ready;
	pid_t pid;
	int fd[2];

	assert_int_equal(pipe(fd), 0);
	pid = fork_child();
	if (!pid) {
		if (!ledger_lock(open_here(), LEDGER_EXCLUSIVE, why, sizeof(why)) &&
		    write(fd[1], "r", 1) == 1)
			pause();
		_exit(1);
	}
	assert_int_equal(read(fd[0], &ready, 1), 1);
	ledger_set_patience(l, 20 * NSEC_PER_MSEC);
	assert_int_equal(ledger_lock(l, LEDGER_EXCLUSIVE, why, sizeof(why)), -ETIMEDOUT);
	snprintf(want, sizeof(want), "process %d", (int)pid);
	assert_non_null(strstr(why, want));
	assert_int_equal(ledger_lock(l, LEDGER_SHARED, why, sizeof(why)), -ETIMEDOUT);
	end_owner(pid);
	ledger_set_patience(l, 20 * NSEC_PER_SEC);
	assert_int_equal(ledger_lock(l, LEDGER_EXCLUSIVE, why, sizeof(why)), 0);
	ledger_unlock(l);
	close(fd[0]);
	close(fd[1]);
	ledger_close(l);
}

/* --- what the planner is told ----------------------------------------------------------------- */

static struct machine_model make_machine(unsigned pus)
{
	struct machine_model m;

	assert_int_equal(machine_alloc(&m, pus, 2), 0);
	m.nr_cores = pus;
	m.nr_llcs = m.nr_dies = m.nr_packages = 2;
	for (unsigned i = 0; i < pus; i++)
		m.pu[i] = (struct machine_pu){ .os_index = i,
					       .core = i,
					       .llc = i / (pus / 2),
					       .die = i / (pus / 2),
					       .package = i / (pus / 2),
					       .node = i / (pus / 2),
					       .usable = true };
	for (unsigned n = 0; n < 2; n++) {
		m.node[n] = (struct machine_node){ .os_index = n,
						   .package = n,
						   .memory_bytes = GIB(8),
						   .free_bytes = GIB(8),
						   .usable = true };
		m.node[n].huge[0] =
			(struct machine_pages){ .bytes = MIB(2), .total = 1024, .free = 1024 };
	}
	return m;
}

static int plan_one(const struct machine_model *m, const struct claims *c, unsigned vcpus,
		    bool exclusive, struct plan *out)
{
	struct plan_request r = {
		.vcpus = vcpus,
		.nodes = 1,
		.memory_bytes = MIB(64),
		.claim = c->claim,
		.nr_claims = c->nr,
		.exclusive = exclusive,
	};

	return plan_make(m, &r, out, why, sizeof(why));
}

static void claims_for_the_planner(void **state)
{
	struct machine_model m = make_machine(8);
	struct ledger *l = open_here();
	struct ledger_claim c = small_claim("web");
	struct pu_set all = { .word = { ~0ull } };
	struct plan *plan = malloc(sizeof(*plan));
	struct claims cl = { 0 };
	char text[128], tiny[32];

	c.nr_vcpus = 4;
	for (unsigned i = 0; i < 4; i++)
		c.vcpu[i] = (uint16_t)(i ? 4 + i : 5); /* PU 5 has two, PU 4 none */
	claim_now(l, &c);
	assert_int_equal(claims_read(&cl, l, &m, NULL), 0);
	assert_int_equal(cl.nr_owners, 1);
	assert_int_equal(cl.nr, 2);
	assert_int_equal(pu_set_count(&cl.claim[0].pus), 4);
	assert_int_equal(pu_set_count(&cl.claim[1].pus), 1);
	assert_true(pu_set_has(&cl.claim[1].pus, 5));
	assert_string_equal(cl.claim[1].owner, cl.owner[0].label);
	claims_sharers(&cl, &all, "with", text, sizeof(text));
	assert_int_equal(strncmp(text, "PUs 4-7 with web (process ", 26), 0);
	claims_sharers(&cl, &all, "with", tiny, sizeof(tiny));
	assert_string_equal(tiny, "others");

	/* What is idle comes first, then what has least. */
	assert_int_equal(plan_one(&m, &cl, 4, true, plan), 0);
	for (unsigned i = 0; i < 4; i++)
		assert_true(plan->vcpu[i].pu < 4 && !plan->vcpu[i].shared);
	assert_int_equal(plan_one(&m, &cl, 5, true, plan), -EBUSY);
	assert_non_null(strstr(why, "exclusive: 5 vCPUs need as many PUs, have 4 free"));
	assert_int_equal(plan_one(&m, &cl, 7, false, plan), 0);
	for (unsigned i = 0; i < 7; i++) {
		assert_int_not_equal(plan->vcpu[i].pu, 5);
		assert_true(plan->vcpu[i].shared || plan->vcpu[i].pu < 4);
	}

	/* Nobody joins who came to be alone. */
	c.exclusive = true;
	assert_int_equal(ledger_update(l, &c, why, sizeof(why)), 0);
	assert_int_equal(claims_read(&cl, l, &m, NULL), 0);
	assert_int_equal(plan_one(&m, &cl, 7, false, plan), 0);
	for (unsigned i = 0; i < 7; i++)
		assert_true(plan->vcpu[i].pu < 4);

	assert_int_equal(claims_read(&cl, l, &m, "web"), 0);
	assert_int_equal(cl.nr, 0);
	claims_sharers(&cl, &all, "with", text, sizeof(text));
	assert_string_equal(text, "");
	claims_free(&cl);
	ledger_close(l);
	free(plan);
	machine_free(&m);
}

static void memory_is_promised(void **state)
{
	struct machine_model m = make_machine(8);
	struct ledger *l = open_here();
	struct ledger_claim c = small_claim("web");
	struct claims cl = { 0 };
	struct plan *plan = malloc(sizeof(*plan));
	struct plan_node_request node = { .vcpus = 1, .host_node = 1, .memory_bytes = GIB(6) };
	struct plan_request r = { .vcpus = 1, .nodes = 1, .memory_bytes = GIB(6), .node = &node };
	char text[128];

	claim_now(l, &c); /* 3 GiB of node 1's base pages, 1 GiB of node 0's huge ones */
	assert_int_equal(claims_read(&cl, l, &m, NULL), 0);
	r.claim = cl.claim;
	r.nr_claims = cl.nr;
	claims_promises(&cl, text, sizeof(text));
	assert_int_equal(strncmp(text, "3072 MiB on node 1 to web (process ", 35), 0);
	assert_non_null(strstr(text, "), 1024 MiB on node 0 to web ("));
	assert_int_equal(plan_make(&m, &r, plan, why, sizeof(why)), -ENOSPC);
	assert_non_null(strstr(why, "have 5120 MiB"));
	node.memory_bytes = r.memory_bytes = GIB(5);
	assert_int_equal(plan_make(&m, &r, plan, why, sizeof(why)), 0);
	node = (struct plan_node_request){
		.vcpus = 1, .host_node = 0, .memory_bytes = GIB(1) + MIB(2), .page_bytes = MIB(2)
	};
	r.memory_bytes = node.memory_bytes;
	assert_int_equal(plan_make(&m, &r, plan, why, sizeof(why)), -ENOSPC);
	node.memory_bytes = r.memory_bytes = GIB(1);
	assert_int_equal(plan_make(&m, &r, plan, why, sizeof(why)), 0);
	claims_free(&cl);
	ledger_close(l);
	free(plan);
	machine_free(&m);
}

/* What is touched is the kernel's to count. */
static void touched_memory_counts_once(void **state)
{
	struct ledger_claim c = small_claim("web");
	uint64_t left[PLAN_NODES_MAX];
	struct host_mem mem;
	struct host h;

	c.nr_memory = 2;
	c.memory[0] = (struct ledger_memory){ .bytes = MIB(8) };
	c.memory[1] = (struct ledger_memory){
		.guest_node = 1, .host_node = 1, .born_node = 1, .bytes = MIB(2)
	};
	assert_int_equal(host_linux_create(&h), 0);
	ledger_untouched(&c, left);
	assert_int_equal(left[0], MIB(8));
	assert_int_equal(h.ops->mem_map(h.ctx, HOST_RAM(MIB(8), 0), &mem), 0);
	ledger_untouched(&c, left);
	assert_int_equal(left[0], MIB(8));
	assert_int_equal(h.ops->mem_prefault(h.ctx, &mem, 0, MIB(2)), 0);
	ledger_untouched(&c, left);
	assert_int_equal(left[0], MIB(6));
	assert_int_equal(left[1], MIB(2));
	c.memory[0].host_node = 1; /* moved: the memory is what it was */
	ledger_untouched(&c, left);
	assert_int_equal(left[0], MIB(6));
	assert_int_equal(h.ops->mem_prefault(h.ctx, &mem, 0, MIB(8)), 0);
	ledger_untouched(&c, left);
	assert_int_equal(left[0], 0);
	h.ops->mem_unmap(h.ctx, &mem);
	host_linux_destroy(&h);
	c.pid = INT32_MAX; /* nobody */
	ledger_untouched(&c, left);
	assert_int_equal(left[0], MIB(8));
}

/* Without a file to look at the whole process is: a little too much at the most. */
static void touched_anonymous_memory_counts(void **state)
{
	struct host_mem_attr attr = { .bytes = MIB(256), .page_bytes = MEM_PAGES_THP };
	struct ledger_claim c = small_claim("web");
	uint64_t left[PLAN_NODES_MAX];
	struct host_mem mem;
	struct host h;

	c.nr_memory = 1;
	c.memory[0] = (struct ledger_memory){ .bytes = MIB(256) };
	assert_int_equal(host_linux_create(&h), 0);
	assert_int_equal(h.ops->mem_map(h.ctx, &attr, &mem), 0);
	ledger_untouched(&c, left);
	assert_in_range(left[0], MIB(128), MIB(256));
	assert_int_equal(h.ops->mem_prefault(h.ctx, &mem, 0, MIB(128)), 0);
	ledger_untouched(&c, left);
	assert_in_range(left[0], 0, MIB(128));
	h.ops->mem_unmap(h.ctx, &mem);
	host_linux_destroy(&h);
}

#define in_its_dir(f) cmocka_unit_test_setup_teardown(f, make_dir, remove_dir)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(texts_there_and_back),
		cmocka_unit_test(texts_that_are_refused),
		cmocka_unit_test(texts_that_are_torn),
		cmocka_unit_test(texts_with_more),
		in_its_dir(a_life),
		in_its_dir(names_are_unique),
		in_its_dir(lists_are_sorted),
		in_its_dir(dead_owners_leave_nothing),
		in_its_dir(unfinished_files_go),
		in_its_dir(spoilt_claims),
		in_its_dir(a_stolen_name),
		in_its_dir(directories_that_will_not_do),
		cmocka_unit_test(where_the_directory_is),
		in_its_dir(an_update_without_room),
		in_its_dir(one_at_a_time),
		in_its_dir(patience_ends),
		in_its_dir(claims_for_the_planner),
		in_its_dir(memory_is_promised),
		cmocka_unit_test(touched_memory_counts_once),
		cmocka_unit_test(touched_anonymous_memory_counts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
