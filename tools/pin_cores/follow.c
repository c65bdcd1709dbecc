/*
 * follow.c - see follow.h.
 *
 * A look at the threads of known processes is cheap and done often: every millisecond while
 * threads appear, rarer when none has for a while. A look for new processes goes through
 * all of /proc, so it is done as rarely as it takes to stay below 2 % of a PU.
 */
#include "follow.h"

#include "proc.h"
#include "slots.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define PROCESSES_MAX    4096
#define LOOK_SHARE       50 /* a look for processes may take one part of so many */
#define PROCESSES_LEAST  (50 * NSEC_PER_MSEC)
#define BUSY_FOR         (500 * NSEC_PER_MSEC)
#define CALM_AFTER       (5 * NSEC_PER_SEC)
#define INTERVAL_BUSY_MS 1
#define INTERVAL_MS      5
#define INTERVAL_CALM_MS 20

struct thread {
	pid_t tid;
	unsigned slot;
	bool seen; /* in this look */
};

struct family {
	pid_t pid, parent;
	bool ours;
};

struct follow {
	struct slots slots;
	struct thread *thread; /* ascending by tid */
	unsigned nr_threads, room;
	pid_t process[PROCESSES_MAX];
	unsigned nr_processes;
	struct family *family; /* all processes of the system, while they are looked at */
	unsigned nr_family, family_room;
	uint64_t last_new_ns, next_processes_ns;
};

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * NSEC_PER_SEC + (uint64_t)t.tv_nsec;
}

int follow_start(struct follow **out, const struct plan *plan, pid_t command)
{
	struct follow *f = calloc(1, sizeof(*f));

	*out = f;
	if (!f)
		return -ENOMEM;
	slots_init(&f->slots, plan);
	f->process[0] = command;
	f->nr_processes = 1;
	f->last_new_ns = now_ns();
	return 0;
}

void follow_end(struct follow *f)
{
	if (!f)
		return;
	free(f->thread);
	free(f->family);
	free(f);
}

/* --- processes --------------------------------------------------------------------------- */

static int note_process(void *arg, pid_t pid)
{
	struct follow *f = arg;
	struct family *all;

	if (f->nr_family == f->family_room) {
		all = realloc(f->family, sizeof(*all) * (2 * f->family_room + 256));
		if (!all)
			return -ENOMEM;
		f->family = all;
		f->family_room = 2 * f->family_room + 256;
	}
	f->family[f->nr_family] = (struct family){ .pid = pid, .ours = pid == f->process[0] };
	if (!proc_parent(pid, &f->family[f->nr_family].parent))
		f->nr_family++;
	return 0;
}

static int by_pid(const void *a, const void *b)
{
	const struct family *x = a, *y = b;

	return x->pid < y->pid ? -1 : x->pid > y->pid;
}

static struct family *find_process(struct follow *f, pid_t pid)
{
	struct family key = { .pid = pid };

	return bsearch(&key, f->family, f->nr_family, sizeof(key), by_pid);
}

/* Children mostly come after their parents, so this ends after a round or two. */
static void mark_descendants(struct follow *f)
{
	bool more = true;

	while (more) {
		more = false;
		for (unsigned i = 0; i < f->nr_family; i++) {
			struct family *one = &f->family[i], *parent;

			parent = one->ours ? NULL : find_process(f, one->parent);
			if (!parent || !parent->ours)
				continue;
			one->ours = true;
			more = true;
		}
	}
}

static void look_for_processes(struct follow *f)
{
	uint64_t start = now_ns(), took;

	f->nr_family = 0;
	if (!proc_each(note_process, f) && f->nr_family) {
		qsort(f->family, f->nr_family, sizeof(*f->family), by_pid);
		mark_descendants(f);
		f->nr_processes = 1; /* the command itself */
		for (unsigned i = 0; i < f->nr_family && f->nr_processes < PROCESSES_MAX; i++)
			if (f->family[i].ours && f->family[i].pid != f->process[0])
				f->process[f->nr_processes++] = f->family[i].pid;
	}
	took = now_ns() - start;
	f->next_processes_ns = start + MAX(took * LOOK_SHARE, PROCESSES_LEAST);
}

/* --- threads ----------------------------------------------------------------------------- */

static unsigned place_of(const struct follow *f, pid_t tid)
{
	unsigned first = 0, end = f->nr_threads, mid;

	while (first < end) {
		mid = first + (end - first) / 2;
		if (f->thread[mid].tid < tid)
			first = mid + 1;
		else
			end = mid;
	}
	return first;
}

static bool make_room(struct follow *f)
{
	unsigned room = 2 * f->room + 64;
	struct thread *all;

	if (f->nr_threads < f->room)
		return true;
	all = realloc(f->thread, sizeof(*all) * room);
	if (!all)
		return false;
	f->thread = all;
	f->room = room;
	return true;
}

/* What cannot be bound has ended, or bound itself where we may not: it stays as it is. */
static unsigned bind_new(struct follow *f, pid_t tid)
{
	struct pu_set set;
	unsigned slot;
	bool bind;

	if (proc_affinity_get(tid, &set))
		return SLOT_NONE;
	slot = slots_take(&f->slots, &set, &bind);
	if (!bind)
		return slot;
	pu_set_clear(&set);
	pu_set_add(&set, f->slots.pu[slot]);
	proc_affinity_set(tid, &set);
	return slot;
}

static void look_at_thread(struct follow *f, pid_t tid)
{
	unsigned at = place_of(f, tid);

	if (at < f->nr_threads && f->thread[at].tid == tid) {
		f->thread[at].seen = true;
		return;
	}
	if (!make_room(f))
		return;
	memmove(&f->thread[at + 1], &f->thread[at], (f->nr_threads - at) * sizeof(*f->thread));
	f->thread[at] = (struct thread){ .tid = tid, .slot = bind_new(f, tid), .seen = true };
	f->nr_threads++;
	f->last_new_ns = now_ns();
}

/* In the order of their ids, which is that of their making, unless ids have wrapped. */
static void look_at_process(struct follow *f, pid_t pid)
{
	char path[64];
	struct dirent *e;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	dir = opendir(path);
	while (dir && (e = readdir(dir)))
		if (e->d_name[0] != '.')
			look_at_thread(f, atoi(e->d_name));
	if (dir)
		closedir(dir);
}

static void drop_ended(struct follow *f)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < f->nr_threads; i++) {
		if (f->thread[i].seen)
			f->thread[kept++] = f->thread[i];
		else
			slots_give_back(&f->slots, f->thread[i].slot);
	}
	f->nr_threads = kept;
}

unsigned follow_look(struct follow *f)
{
	uint64_t now = now_ns();

	if (now >= f->next_processes_ns)
		look_for_processes(f);
	for (unsigned i = 0; i < f->nr_threads; i++)
		f->thread[i].seen = false;
	for (unsigned i = 0; i < f->nr_processes; i++)
		look_at_process(f, f->process[i]);
	drop_ended(f);
	if (now < f->last_new_ns + BUSY_FOR)
		return INTERVAL_BUSY_MS;
	return now < f->last_new_ns + CALM_AFTER ? INTERVAL_MS : INTERVAL_CALM_MS;
}
