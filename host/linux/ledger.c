/*
 * ledger.c - the directory of claims: its locks, and who may touch which file when.
 *
 *   lock            held, exclusively, by who plans and claims; names the holder
 *   NAME.claim      a claim: complete and locked by its owner before it has this name
 *   NAME.claim.new  one on its way there
 *   NAME.sock       its owner's control socket, if it has one; cleared with the claim
 *
 * A live claim is touched by its owner alone, a dead one by who holds the directory's
 * lock. `NAME.claim.new` is made by NAME's owner, or under the directory's lock while
 * NAME has none. Locks are open-file-description locks: they belong to the struct
 * ledger and not to the process, are not lost when somebody closes another descriptor
 * of the file, and go with the last copy of ours, which no exec() inherits.
 */
#include "ledger.h"

#include "ledger_file.h"
#include "ofd_lock.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define LOCK_FILE     "lock"
#define SUFFIX        ".claim"
#define NEW_SUFFIX    ".claim.new"
#define SOCKET_SUFFIX ".sock" /* made by the owner, beside its claim */
#define FILE_BYTES    (LEDGER_NAME_MAX + sizeof(NEW_SUFFIX))
#define PATH_BYTES    512
#define PATIENCE_NS   (30 * NSEC_PER_SEC)

struct ledger {
	int dir;
	char path[PATH_BYTES];
	uint64_t patience_ns;
	pthread_mutex_t holder; /* the thread that has the directory's lock, if any; guards */
	int lock_fd;            /* the descriptor that has it */
	bool exclusive;
	pthread_mutex_t own; /* guards the rest; nothing is taken inside */
	int claim_fd;        /* holds the claim's lock; -1: no claim */
	struct ledger_claim claim;
};

static int refuse(char *why, size_t why_bytes, int err, const char *fmt, ...) __printf(4, 5);
static int refuse(char *why, size_t why_bytes, int err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, why_bytes, fmt, ap);
	va_end(ap);
	return err;
}

/* --- the directory ---------------------------------------------------------------------- */

const char *ledger_directory(char *buf, size_t bytes)
{
	const char *given = getenv("ALCAZAR_RUNTIME_DIR"), *xdg = getenv("XDG_RUNTIME_DIR");

	if (given && *given)
		snprintf(buf, bytes, "%s", given);
	else if (!geteuid())
		snprintf(buf, bytes, "/run/alcazar");
	else if (xdg && *xdg == '/')
		snprintf(buf, bytes, "%s/alcazar", xdg);
	else
		snprintf(buf, bytes, "/tmp/alcazar-%u", (unsigned)geteuid());
	return buf;
}

static int no_directory(const char *path, int err, char *why, size_t why_bytes)
{
	return refuse(why, why_bytes, err,
		      "%s: machines cannot register here: %s: name a directory of yours in "
		      "ALCAZAR_RUNTIME_DIR",
		      path, strerror(-err));
}

/* In a directory like /tmp anybody might have made it before us. */
static int check_owner(const struct ledger *l, char *why, size_t why_bytes)
{
	struct stat st;

	if (fstat(l->dir, &st))
		return no_directory(l->path, -errno, why, why_bytes);
	if (st.st_uid == geteuid() && !(st.st_mode & (S_IWGRP | S_IWOTH)))
		return 0;
	return refuse(why, why_bytes, -EPERM,
		      "%s: it belongs to somebody else, or others may write to it: name a "
		      "directory of yours in ALCAZAR_RUNTIME_DIR",
		      l->path);
}

static int open_directory(struct ledger *l, bool create, char *why, size_t why_bytes)
{
	if (create && mkdir(l->path, 0700) && errno != EEXIST)
		return no_directory(l->path, -errno, why, why_bytes);
	l->dir = open(l->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (l->dir < 0)
		return no_directory(l->path, -errno, why, why_bytes);
	return check_owner(l, why, why_bytes);
}

int ledger_open(const char *dir, bool create, struct ledger **out, char *why, size_t why_bytes)
{
	struct ledger *l = calloc(1, sizeof(*l));
	char path[PATH_BYTES];
	int err;

	*out = NULL;
	if (!l)
		return refuse(why, why_bytes, -ENOMEM, "no memory for the ledger");
	l->dir = l->lock_fd = l->claim_fd = -1;
	l->patience_ns = PATIENCE_NS;
	pthread_mutex_init(&l->holder, NULL);
	pthread_mutex_init(&l->own, NULL);
	snprintf(l->path, sizeof(l->path), "%s", dir ? dir : ledger_directory(path, sizeof(path)));
	err = open_directory(l, create, why, why_bytes);
	if (err)
		ledger_close(l);
	else
		*out = l;
	return err;
}

void ledger_close(struct ledger *l)
{
	if (!l)
		return;
	ledger_release(l);
	if (l->dir >= 0)
		close(l->dir);
	pthread_mutex_destroy(&l->own);
	pthread_mutex_destroy(&l->holder);
	free(l);
}

const char *ledger_path(const struct ledger *l)
{
	return l->path;
}

/* --- locks ------------------------------------------------------------------------------ */

static int open_lock(const struct ledger *l)
{
	int fd = openat(l->dir, LOCK_FILE, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);

	return fd < 0 ? -errno : fd;
}

/* A descriptor that has the lock, or -errno. */
static int take_lock(const struct ledger *l, short type)
{
	int fd = open_lock(l), err;

	if (fd < 0)
		return fd;
	err = ofd_lock_wait(fd, type, l->patience_ns);
	if (!err)
		return fd;
	if (err != -ETIMEDOUT)
		close(fd);
	return err;
}

/* For the complaint of others only: what stands there need not be true. */
static void sign_lock(int fd)
{
	char text[16];
	int n = snprintf(text, sizeof(text), "%-11d\n", (int)getpid());

	(void)!pwrite(fd, text, (size_t)n, 0);
}

static long lock_signature(const struct ledger *l)
{
	char text[16] = "";
	int fd = open_lock(l);

	(void)!pread(fd, text, sizeof(text) - 1, 0);
	if (fd >= 0)
		close(fd);
	return strtol(text, NULL, 10);
}

int ledger_lock(struct ledger *l, enum ledger_mode mode, char *why, size_t why_bytes)
{
	bool exclusive = mode == LEDGER_EXCLUSIVE;
	int fd;

	pthread_mutex_lock(&l->holder);
	fd = take_lock(l, exclusive ? F_WRLCK : F_RDLCK);
	if (fd < 0) {
		pthread_mutex_unlock(&l->holder);
		if (fd == -ETIMEDOUT)
			return refuse(why, why_bytes, fd,
				      "%s: others have been planning for %u s, process %ld the "
				      "last: if it is stopped, continue or end it",
				      l->path, (unsigned)(l->patience_ns / NSEC_PER_SEC),
				      lock_signature(l));
		return refuse(why, why_bytes, fd, "%s/" LOCK_FILE ": cannot be locked: %s", l->path,
			      strerror(-fd));
	}
	l->lock_fd = fd;
	l->exclusive = exclusive;
	if (exclusive)
		sign_lock(fd);
	return 0;
}

void ledger_set_patience(struct ledger *l, uint64_t ns)
{
	l->patience_ns = ns;
}

void ledger_unlock(struct ledger *l)
{
	l->exclusive = false;
	close(l->lock_fd);
	l->lock_fd = -1;
	pthread_mutex_unlock(&l->holder);
}

/* --- reading ---------------------------------------------------------------------------- */

static bool ends_with(const char *name, const char *suffix)
{
	size_t n = strlen(name), s = strlen(suffix);

	return n > s && !strcmp(name + n - s, suffix);
}

/* 1 alive, 0 nobody's, or -errno. */
static int open_claim(const struct ledger *l, const char *file, int *fd)
{
	struct stat st;
	int err = 0;

	*fd = openat(l->dir, file, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (*fd < 0)
		return errno == ENOENT ? 0 : -errno;
	if (fstat(*fd, &st))
		err = -errno;
	else if (!S_ISREG(st.st_mode) || st.st_uid != geteuid())
		err = -EPERM;
	else
		return ofd_is_locked(*fd);
	close(*fd);
	*fd = -1;
	return err;
}

/* What there is, up to one byte more than is allowed. */
static ssize_t read_text(int fd, char *text)
{
	size_t at = 0;

	while (at <= LEDGER_FILE_MAX) {
		ssize_t n = pread(fd, text + at, LEDGER_FILE_MAX + 1 - at, (off_t)at);

		if (n < 0)
			return -errno;
		if (!n)
			break;
		at += (size_t)n;
	}
	return (ssize_t)at;
}

static int parse_claim(int fd, const char *file, struct ledger_claim *out, char *why,
		       size_t why_bytes)
{
	char *text = malloc(LEDGER_FILE_MAX + 1);
	ssize_t n = text ? read_text(fd, text) : -ENOMEM;
	int err = (int)MIN(n, 0);
	size_t len;

	if (err)
		refuse(why, why_bytes, err, "it cannot be read: %s", strerror(-err));
	else
		err = ledger_file_parse(text, (size_t)n, out, why, why_bytes);
	free(text);
	if (err)
		return err;
	len = strlen(out->name);
	if (strncmp(file, out->name, len) != 0 || strcmp(file + len, SUFFIX) != 0)
		return refuse(why, why_bytes, -EINVAL, "it is that of another machine");
	return 0;
}

static int add_trouble(struct ledger_list *list, const char *file, const char *why)
{
	struct ledger_trouble *all, *t;

	if (list->nr_trouble == LEDGER_CLAIMS_MAX)
		return 0;
	all = realloc(list->trouble, sizeof(*all) * (list->nr_trouble + 1));
	if (!all)
		return -ENOMEM;
	list->trouble = all;
	t = &all[list->nr_trouble++];
	snprintf(t->file, sizeof(t->file), "%.*s", (int)sizeof(t->file) - 1, file);
	for (char *p = t->file; *p; p++)
		if ((unsigned char)*p < ' ' || (unsigned char)*p > '~')
			*p = '?';
	snprintf(t->why, sizeof(t->why), "%s", why);
	return 0;
}

static int add_claim(struct ledger_list *list, const struct ledger_claim *c)
{
	struct ledger_claim *all;

	if (list->nr == LEDGER_CLAIMS_MAX)
		return -ENOSPC;
	all = realloc(list->claim, sizeof(*all) * (list->nr + 1));
	if (!all)
		return -ENOMEM;
	list->claim = all;
	all[list->nr++] = *c;
	return 0;
}

/* Its control socket goes first: a claim that is still there is found again. */
static void clear_dead(const struct ledger *l, const char *file)
{
	char other[FILE_BYTES];

	snprintf(other, sizeof(other), "%.*s" SOCKET_SUFFIX, (int)(strlen(file) - strlen(SUFFIX)),
		 file);
	unlinkat(l->dir, other, 0);
	unlinkat(l->dir, file, 0);
}

static int look_at(struct ledger *l, const char *file, struct ledger_list *list)
{
	struct ledger_claim c;
	char why[sizeof(list->trouble->why)];
	int fd, alive = open_claim(l, file, &fd);
	int err;

	if (alive < 0)
		return add_trouble(list, file, "it is no file of yours");
	if (!alive) {
		if (fd >= 0 && l->exclusive)
			clear_dead(l, file);
		err = 0;
	} else if (!parse_claim(fd, file, &c, why, sizeof(why))) {
		err = add_claim(list, &c);
	} else {
		err = add_trouble(list, file, why);
	}
	if (fd >= 0)
		close(fd);
	return err;
}

/* One that a dead owner did not finish: no live claim has its name. */
static void clear_unfinished(const struct ledger *l, const char *file)
{
	char claim[FILE_BYTES];
	int fd, alive;

	if (strlen(file) >= sizeof(claim))
		return;
	snprintf(claim, sizeof(claim), "%.*s", (int)(strlen(file) - strlen(".new")), file);
	alive = open_claim(l, claim, &fd);
	if (fd >= 0)
		close(fd);
	if (!alive)
		unlinkat(l->dir, file, 0);
}

static int by_name(const void *a, const void *b)
{
	const struct ledger_claim *x = a, *y = b;

	return strcmp(x->name, y->name);
}

static int look_at_all(struct ledger *l, DIR *d, struct ledger_list *list)
{
	struct dirent *e;
	int err = 0;

	while (!err && (e = readdir(d))) {
		if (ends_with(e->d_name, SUFFIX))
			err = look_at(l, e->d_name, list);
		else if (l->exclusive && ends_with(e->d_name, NEW_SUFFIX))
			clear_unfinished(l, e->d_name);
	}
	if (!err && list->nr)
		qsort(list->claim, list->nr, sizeof(*list->claim), by_name);
	return err;
}

int ledger_read(struct ledger *l, struct ledger_list *out)
{
	/* A descriptor of its own: copies of one share the position in the directory. */
	int fd = openat(l->dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), err;
	DIR *d = fd < 0 ? NULL : fdopendir(fd);

	*out = (struct ledger_list){ 0 };
	if (!d) {
		err = -errno;
		if (fd >= 0)
			close(fd);
		return err;
	}
	err = look_at_all(l, d, out);
	closedir(d);
	if (err)
		ledger_list_free(out);
	return err;
}

void ledger_list_free(struct ledger_list *list)
{
	free(list->claim);
	free(list->trouble);
	*list = (struct ledger_list){ 0 };
}

/* --- the own claim ---------------------------------------------------------------------- */

static int write_text(int fd, const char *text)
{
	size_t len = strlen(text), at = 0;

	while (at < len) {
		ssize_t n = write(fd, text + at, len - at);

		if (n < 0 && errno != EINTR)
			return -errno;
		at += n > 0 ? (size_t)n : 0;
	}
	return 0;
}

/* A complete file, locked; @file is its name for the moment. Returns its descriptor. */
static int make_file(const struct ledger *l, const char *file, const struct ledger_claim *c)
{
	char *text = ledger_file_text(c);
	int fd, err;

	if (!text)
		return -ENOMEM;
	unlinkat(l->dir, file, 0);
	fd = openat(l->dir, file, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	err = fd < 0 ? -errno : ofd_lock(fd, F_WRLCK);
	if (!err)
		err = write_text(fd, text);
	free(text);
	if (!err)
		return fd;
	if (fd >= 0) {
		unlinkat(l->dir, file, 0);
		close(fd);
	}
	return err;
}

/* With l->own held. */
static int publish(struct ledger *l, const struct ledger_claim *c)
{
	char file[FILE_BYTES], unfinished[FILE_BYTES];
	int fd;

	snprintf(file, sizeof(file), "%s" SUFFIX, c->name);
	snprintf(unfinished, sizeof(unfinished), "%s" NEW_SUFFIX, c->name);
	fd = make_file(l, unfinished, c);
	if (fd < 0)
		return fd;
	if (renameat(l->dir, unfinished, l->dir, file)) {
		int err = -errno;

		unlinkat(l->dir, unfinished, 0);
		close(fd);
		return err;
	}
	if (l->claim_fd >= 0)
		close(l->claim_fd); /* the file that it locks has no name any more */
	l->claim_fd = fd;
	l->claim = *c;
	return 0;
}

static int cannot_write(const struct ledger *l, const char *name, int err, char *why,
			size_t why_bytes)
{
	return refuse(why, why_bytes, err,
		      "%s/%s" SUFFIX ": cannot be written: %s: make room there, or name another "
		      "directory in ALCAZAR_RUNTIME_DIR",
		      l->path, name, strerror(-err));
}

/* Nobody alive has this name; what a dead one left is written over. */
static int check_name(const struct ledger *l, const char *name, char *why, size_t why_bytes)
{
	struct ledger_claim other;
	char file[FILE_BYTES], ignored[8];
	int fd, alive;

	if (!ledger_name_ok(name))
		return refuse(why, why_bytes, -EINVAL, "not a machine's name");
	snprintf(file, sizeof(file), "%s" SUFFIX, name);
	alive = open_claim(l, file, &fd);
	if (!alive) {
		if (fd >= 0)
			close(fd);
		return 0;
	}
	if (fd < 0)
		return refuse(why, why_bytes, alive, "%s/%s: it is no file of yours: remove it",
			      l->path, file);
	if (parse_claim(fd, file, &other, ignored, sizeof(ignored)))
		refuse(why, why_bytes, -EEXIST,
		       "a machine called %s runs already: choose another --name", name);
	else
		refuse(why, why_bytes, -EEXIST,
		       "a machine called %s runs already, process %d: choose another --name", name,
		       (int)other.pid);
	close(fd);
	return -EEXIST;
}

int ledger_claim(struct ledger *l, const struct ledger_claim *c, char *why, size_t why_bytes)
{
	int err;

	pthread_mutex_lock(&l->own);
	if (l->claim_fd >= 0)
		err = refuse(why, why_bytes, -EALREADY, "there is a claim already");
	else
		err = check_name(l, c->name, why, why_bytes);
	if (!err) {
		err = publish(l, c);
		if (err)
			cannot_write(l, c->name, err, why, why_bytes);
	}
	pthread_mutex_unlock(&l->own);
	return err;
}

int ledger_get(struct ledger *l, struct ledger_claim *out)
{
	int err = -ENOENT;

	pthread_mutex_lock(&l->own);
	if (l->claim_fd >= 0) {
		*out = l->claim;
		err = 0;
	}
	pthread_mutex_unlock(&l->own);
	return err;
}

int ledger_update(struct ledger *l, const struct ledger_claim *c, char *why, size_t why_bytes)
{
	int err;

	pthread_mutex_lock(&l->own);
	if (l->claim_fd < 0 || strcmp(c->name, l->claim.name) != 0) {
		err = refuse(why, why_bytes, -EINVAL, "there is no such claim to change");
	} else {
		err = publish(l, c);
		if (err)
			cannot_write(l, c->name, err, why, why_bytes);
	}
	pthread_mutex_unlock(&l->own);
	return err;
}

/* False if somebody has taken our file away, and perhaps put another in its place. */
static bool is_ours(const struct ledger *l, const char *file)
{
	struct stat here, ours;

	return !fstatat(l->dir, file, &here, AT_SYMLINK_NOFOLLOW) && !fstat(l->claim_fd, &ours) &&
	       here.st_ino == ours.st_ino && here.st_dev == ours.st_dev;
}

/* The file goes before its lock does: while that is held nobody else touches it. */
void ledger_release(struct ledger *l)
{
	char file[FILE_BYTES];

	pthread_mutex_lock(&l->own);
	if (l->claim_fd >= 0) {
		snprintf(file, sizeof(file), "%s" SUFFIX, l->claim.name);
		if (is_ours(l, file))
			unlinkat(l->dir, file, 0);
		close(l->claim_fd);
		l->claim_fd = -1;
	}
	pthread_mutex_unlock(&l->own);
}

static uint64_t boot_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_BOOTTIME, &t);
	return (uint64_t)t.tv_sec * NSEC_PER_SEC + (uint64_t)t.tv_nsec;
}

static void claim_memory(const struct plan *plan, unsigned node, bool shared,
			 struct ledger_claim *out)
{
	const struct plan_memory *mem = &plan->memory[node];
	unsigned nr = shared ? mem->nr_shares : 0;

	for (unsigned i = 0; i < MAX(nr, 1); i++) {
		const struct mem_share *s = &plan->share[mem->first_share + i];

		out->memory[out->nr_memory++] = (struct ledger_memory){
			.guest_node = mem->guest_node,
			.host_node = nr ? s->node : mem->host_node,
			.born_node = mem->host_node,
			.bytes = nr ? s->bytes : mem->bytes,
			.page_bytes = mem_pages_reserved(mem->page_bytes) ? mem->page_bytes : 0,
		};
	}
}

void ledger_claim_of(const struct plan *plan, const char *name, bool exclusive,
		     struct ledger_claim *out)
{
	*out = (struct ledger_claim){
		.pid = getpid(),
		.started_ns = boot_ns(),
		.exclusive = exclusive,
		.pus = plan->claim,
		.nr_vcpus = plan->nr_vcpus,
	};
	snprintf(out->name, sizeof(out->name), "%s", name);
	for (unsigned i = 0; i < plan->nr_vcpus; i++) {
		out->vcpu[i] = (uint16_t)plan->vcpu[i].pu;
		if (plan->vcpu[i].shared)
			pu_set_add(&out->shared, plan->vcpu[i].pu);
	}
	out->nr_io = plan->nr_io;
	for (unsigned i = 0; i < plan->nr_io; i++)
		out->io[i] =
			(struct ledger_io){ .node = plan->io[i].host_node, .pu = plan->io[i].pu };
	/* Memory that is spread over more nodes than a claim has lines counts at home. */
	for (unsigned i = 0; i < plan->nr_memory; i++)
		claim_memory(plan, i, plan->nr_shares + plan->nr_memory <= PLAN_NODES_MAX, out);
}
