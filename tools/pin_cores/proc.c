/*
 * proc.c - threads of a process, as proc.h tells; proc_memory.c has the memory.
 */
#include "proc.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define TEXT_BYTES 4096

/* The beginning of a file, as text. */
static int read_text(int dir, const char *path, char text[TEXT_BYTES])
{
	int fd = openat(dir, path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return errno == ENOENT ? -ESRCH : -errno;
	n = read(fd, text, TEXT_BYTES - 1);
	close(fd);
	if (n < 0)
		return -errno; /* -ESRCH: it ended after open() */
	text[n] = '\0';
	return 0;
}

/* --- stat ------------------------------------------------------------------------------ */

/* Fields of /proc/PID/stat, numbered as proc(5) does. */
enum { STAT_PPID = 4, STAT_UTIME = 14, STAT_STIME = 15, STAT_START = 22, STAT_PU = 39 };

struct stat_line {
	char name[PROC_NAME_BYTES];
	char state;
	uint64_t field[STAT_PU + 1];
};

/* The name stands in parentheses and may hold any byte, parentheses too. */
static int parse_stat(char *text, struct stat_line *out)
{
	char *open = strchr(text, '('), *close = strrchr(text, ')'), *at, *save = NULL;
	unsigned n = 3;

	if (!open || !close || close < open || close[1] != ' ' || !close[2])
		return -ESRCH;
	*close = '\0';
	snprintf(out->name, sizeof(out->name), "%s", open + 1);
	for (char *p = out->name; *p; p++)
		if (!isprint((unsigned char)*p))
			*p = '?';
	out->state = close[2];
	for (at = strtok_r(close + 2, " \n", &save); at && n <= STAT_PU;
	     at = strtok_r(NULL, " \n", &save))
		out->field[n++] = strtoull(at, NULL, 10);
	return n > STAT_PU ? 0 : -ESRCH;
}

static int read_stat(int dir, const char *path, struct stat_line *out)
{
	char text[TEXT_BYTES];
	int err = read_text(dir, path, text);

	return err ? err : parse_stat(text, out);
}

static int read_process_stat(pid_t pid, struct stat_line *out)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	return read_stat(AT_FDCWD, path, out);
}

int proc_start_time(pid_t pid, uint64_t *ticks)
{
	struct stat_line s;
	int err = read_process_stat(pid, &s);

	if (!err)
		*ticks = s.field[STAT_START];
	return err;
}

int proc_parent(pid_t pid, pid_t *parent)
{
	struct stat_line s;
	int err = read_process_stat(pid, &s);

	if (!err)
		*parent = (pid_t)s.field[STAT_PPID];
	return err;
}

void proc_name(pid_t pid, char name[PROC_NAME_BYTES])
{
	struct stat_line s;

	snprintf(name, PROC_NAME_BYTES, "%s", read_process_stat(pid, &s) ? "?" : s.name);
}

/* --- affinity ---------------------------------------------------------------------------- */

int proc_affinity_get(pid_t tid, struct pu_set *out)
{
	cpu_set_t set[PU_SET_MAX / CPU_SETSIZE];

	CPU_ZERO_S(sizeof(set), set);
	if (sched_getaffinity(tid, sizeof(set), set))
		return -errno;
	pu_set_clear(out);
	for (unsigned i = 0; i < PU_SET_MAX; i++)
		if (CPU_ISSET_S(i, sizeof(set), set))
			pu_set_add(out, i);
	return 0;
}

int proc_affinity_set(pid_t tid, const struct pu_set *pus)
{
	cpu_set_t set[PU_SET_MAX / CPU_SETSIZE];

	CPU_ZERO_S(sizeof(set), set);
	pu_set_for_each(pu, pus) CPU_SET_S(pu, sizeof(set), set);
	return sched_setaffinity(tid, sizeof(set), set) ? -errno : 0;
}

/* --- threads ----------------------------------------------------------------------------- */

/* "se.nr_migrations   :   12", where the kernel was built with it. */
static uint64_t read_migrations(int dir, pid_t tid)
{
	static const char key[] = "nr_migrations";
	char path[64], text[TEXT_BYTES], *at, *end;
	uint64_t n;

	snprintf(path, sizeof(path), "%d/sched", (int)tid);
	if (read_text(dir, path, text))
		return PROC_UNKNOWN;
	at = strstr(text, key);
	at = at ? strchr(at, ':') : NULL;
	if (!at)
		return PROC_UNKNOWN;
	n = strtoull(at + 1, &end, 10);
	return end == at + 1 ? PROC_UNKNOWN : n;
}

static int read_task(int dir, pid_t tid, struct proc_task *out)
{
	uint64_t tick_ns = 1000000000u / (uint64_t)sysconf(_SC_CLK_TCK);
	struct stat_line s;
	char path[64];
	int err;

	snprintf(path, sizeof(path), "%d/stat", (int)tid);
	err = read_stat(dir, path, &s);
	if (err)
		return err;
	out->tid = tid;
	memcpy(out->name, s.name, sizeof(out->name));
	out->state = s.state;
	out->pu = (unsigned)s.field[STAT_PU];
	out->cpu_ns = (s.field[STAT_UTIME] + s.field[STAT_STIME]) * tick_ns;
	out->migrations = read_migrations(dir, tid);
	return proc_affinity_get(tid, &out->affinity);
}

static int make_room(struct proc_tasks *t)
{
	unsigned room = t->room ? 2 * t->room : 16;
	struct proc_task *all;

	if (t->nr < t->room)
		return 0;
	all = realloc(t->task, sizeof(*all) * room);
	if (!all)
		return -ENOMEM;
	t->task = all;
	t->room = room;
	return 0;
}

static bool is_number(const char *name)
{
	return name[0] && !name[strspn(name, "0123456789")];
}

static int by_tid(const void *a, const void *b)
{
	const struct proc_task *x = a, *y = b;

	return x->tid < y->tid ? -1 : x->tid > y->tid;
}

static int read_tasks(DIR *dir, struct proc_tasks *out)
{
	struct dirent *e;
	int err;

	while ((e = readdir(dir))) {
		if (!is_number(e->d_name))
			continue;
		err = make_room(out);
		if (err)
			return err;
		err = read_task(dirfd(dir), atoi(e->d_name), &out->task[out->nr]);
		if (!err)
			out->nr++;
		else if (err != -ESRCH)
			return err;
	}
	return out->nr ? 0 : -ESRCH;
}

int proc_tasks_read(pid_t pid, struct proc_tasks *out)
{
	char path[64];
	DIR *dir;
	int err;

	out->nr = 0;
	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	dir = opendir(path);
	if (!dir)
		return errno == ENOENT ? -ESRCH : -errno;
	err = read_tasks(dir, out);
	closedir(dir);
	/* A process whose main thread has left is a zombie, or about to be one. */
	if (!err)
		qsort(out->task, out->nr, sizeof(*out->task), by_tid);
	return err;
}

void proc_tasks_free(struct proc_tasks *t)
{
	free(t->task);
	*t = (struct proc_tasks){ 0 };
}

const struct proc_task *proc_tasks_find(const struct proc_tasks *t, pid_t tid)
{
	struct proc_task key = { .tid = tid };

	return t->nr ? bsearch(&key, t->task, t->nr, sizeof(key), by_tid) : NULL;
}

int proc_each(int (*fn)(void *arg, pid_t pid), void *arg)
{
	DIR *dir = opendir("/proc");
	struct dirent *e;
	int err = 0;

	if (!dir)
		return -errno;
	while (!err && (e = readdir(dir)))
		if (is_number(e->d_name))
			err = fn(arg, atoi(e->d_name));
	closedir(dir);
	return err;
}

/* --- load -------------------------------------------------------------------------------- */

/* "cpu3 user nice system idle iowait irq softirq steal ..."; guests are among user. */
static bool parse_load(const char *line, unsigned *pu, uint64_t *busy, uint64_t *all)
{
	unsigned long long t[8];

	if (sscanf(line, "cpu%u %llu %llu %llu %llu %llu %llu %llu %llu", pu, &t[0], &t[1], &t[2],
		   &t[3], &t[4], &t[5], &t[6], &t[7]) != 9 ||
	    *pu >= PU_SET_MAX)
		return false;
	*all = 0;
	for (unsigned i = 0; i < ARRAY_SIZE(t); i++)
		*all += t[i];
	*busy = *all - t[3] - t[4];
	return true;
}

int proc_load_read(struct proc_load *out)
{
	FILE *f = fopen("/proc/stat", "re");
	char line[512];
	uint64_t busy, all;
	unsigned pu;

	*out = (struct proc_load){ 0 };
	if (!f)
		return -errno;
	while (fgets(line, sizeof(line), f)) {
		if (!parse_load(line, &pu, &busy, &all))
			continue;
		out->busy[pu] = busy;
		out->all[pu] = all;
	}
	fclose(f);
	return 0;
}

double proc_load_between(const struct proc_load *before, const struct proc_load *after, unsigned pu)
{
	uint64_t all = after->all[pu] - before->all[pu];
	uint64_t busy = after->busy[pu] - before->busy[pu];

	/* iowait may run backwards. */
	if (after->all[pu] <= before->all[pu] || busy > all)
		return -1;
	return (double)busy / (double)all;
}
