/*
 * foreign.c - see foreign.h.
 *
 * Everything is read from /proc, whose processes and threads come and go while it
 * is read: whatever is not there any more is skipped.
 */
#include "foreign.h"

#include "pu_list.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define STATUS_BYTES 16384 /* /proc/PID/status; the affinity mask alone may take 1 KiB */

/* --- names ------------------------------------------------------------------------------ */

/* A vCPU thread's name is @before, the vCPU's number, @after; "*" is any suffix. */
static const struct thread_name {
	const char *process; /* NULL: whatever the process is called */
	const char *before, *after;
	enum foreign_kind kind;
} thread_names[] = {
	{ NULL, "CPU ", "/*", FOREIGN_QEMU }, /* CPU 0/KVM, CPU 3/TCG */
	{ NULL, "fc_vcpu ", "", FOREIGN_FIRECRACKER },  { NULL, "crosvm_vcpu", "", FOREIGN_CROSVM },
	{ NULL, "kvm-vcpu-", "", FOREIGN_KVMTOOL },     { "alcazar", "vcpu", "", FOREIGN_ALCAZAR },
	{ NULL, "vcpu", "", FOREIGN_CLOUD_HYPERVISOR },
};

static bool matches_suffix(const char *text, const char *after)
{
	if (!strcmp(after, "/*"))
		return text[0] == '/' && text[1];
	return !strcmp(text, after);
}

static bool match_name(const struct thread_name *n, const char *process, const char *thread,
		       unsigned *index)
{
	size_t len = strlen(n->before);
	unsigned long value;
	char *end;

	if (n->process && strcmp(process, n->process) != 0)
		return false;
	if (strncmp(thread, n->before, len) != 0 || !isdigit((unsigned char)thread[len]))
		return false;
	value = strtoul(thread + len, &end, 10);
	*index = (unsigned)value;
	return value < FOREIGN_VCPUS_MAX && matches_suffix(end, n->after);
}

bool foreign_parse_name(const char *process, const char *thread, enum foreign_kind *kind,
			unsigned *index)
{
	for (size_t i = 0; i < ARRAY_SIZE(thread_names); i++) {
		if (!match_name(&thread_names[i], process, thread, index))
			continue;
		*kind = thread_names[i].kind;
		return true;
	}
	return false;
}

const char *foreign_kind_name(enum foreign_kind kind)
{
	static const char *const names[FOREIGN_KINDS] = {
		[FOREIGN_QEMU] = "QEMU",
		[FOREIGN_CLOUD_HYPERVISOR] = "Cloud Hypervisor",
		[FOREIGN_FIRECRACKER] = "Firecracker",
		[FOREIGN_CROSVM] = "crosvm",
		[FOREIGN_KVMTOOL] = "kvmtool",
		[FOREIGN_ALCAZAR] = "Alcazar",
	};

	return kind < FOREIGN_KINDS ? names[kind] : "unknown";
}

/* --- /proc -------------------------------------------------------------------------------- */

/* The whole file as text; false if it is not there or does not fit. */
static bool read_at(int dir, const char *path, char *buf, size_t bytes)
{
	int fd = openat(dir, path, O_RDONLY | O_CLOEXEC);
	size_t at = 0;
	ssize_t n = 1;

	if (fd < 0)
		return false;
	while (n > 0 && at < bytes) {
		n = read(fd, buf + at, bytes - at);
		if (n > 0)
			at += (size_t)n;
	}
	close(fd);
	if (n != 0 || !at)
		return false;
	buf[at] = '\0'; /* n == 0 happened below @bytes */
	return true;
}

/* Names may hold any byte but zero; the newline at the end is the kernel's. */
static bool read_name(int dir, const char *path, char name[FOREIGN_NAME_BYTES])
{
	char buf[64];
	size_t n;

	if (!read_at(dir, path, buf, sizeof(buf)))
		return false;
	n = strlen(buf);
	if (n && buf[n - 1] == '\n')
		n--;
	n = MIN(n, (size_t)FOREIGN_NAME_BYTES - 1);
	memcpy(name, buf, n);
	name[n] = '\0';
	return true;
}

static void make_printable(char *name)
{
	for (; *name; name++)
		if ((unsigned char)*name < ' ' || (unsigned char)*name > '~')
			*name = '?';
}

/* The kernel escapes newlines in the name, which comes first: a line here is a line. */
static bool read_affinity(int tasks, pid_t tid, struct pu_set *out)
{
	static const char key[] = "\nCpus_allowed_list:\t";
	char path[64], status[STATUS_BYTES], *list;

	snprintf(path, sizeof(path), "%d/status", (int)tid);
	if (!read_at(tasks, path, status, sizeof(status)))
		return false;
	list = strstr(status, key);
	if (!list)
		return false;
	list += sizeof(key) - 1;
	list[strcspn(list, "\n")] = '\0';
	return pu_list_parse(list, out);
}

static int append_vcpu(struct foreign_process *p, const struct foreign_vcpu *v)
{
	struct foreign_vcpu *all;

	if (p->nr_vcpus == FOREIGN_VCPUS_MAX)
		return 0;
	if (!(p->nr_vcpus & (p->nr_vcpus - 1))) { /* full: its room is a power of two */
		all = realloc(p->vcpu, sizeof(*all) * (p->nr_vcpus ? 2 * p->nr_vcpus : 1));
		if (!all)
			return -ENOMEM;
		p->vcpu = all;
	}
	p->vcpu[p->nr_vcpus++] = *v;
	return 0;
}

static int look_at_thread(struct foreign_process *p, int tasks, pid_t tid)
{
	char path[64], name[FOREIGN_NAME_BYTES];
	struct foreign_vcpu v = { .tid = tid };
	enum foreign_kind kind;

	snprintf(path, sizeof(path), "%d/comm", (int)tid);
	if (!read_name(tasks, path, name) || !foreign_parse_name(p->name, name, &kind, &v.index))
		return 0;
	if (!read_affinity(tasks, tid, &v.pus))
		return 0;
	p->kind = kind;
	return append_vcpu(p, &v);
}

static int by_index(const void *a, const void *b)
{
	const struct foreign_vcpu *x = a, *y = b;

	if (x->index != y->index)
		return x->index < y->index ? -1 : 1;
	return x->tid < y->tid ? -1 : x->tid > y->tid;
}

static bool is_number(const char *name)
{
	return name[0] && !name[strspn(name, "0123456789")];
}

static int look_at_threads(struct foreign_process *p, DIR *tasks)
{
	struct dirent *e;
	int err = 0;

	while (!err && (e = readdir(tasks)))
		if (is_number(e->d_name))
			err = look_at_thread(p, dirfd(tasks), atoi(e->d_name));
	if (!err && p->nr_vcpus)
		qsort(p->vcpu, p->nr_vcpus, sizeof(*p->vcpu), by_index);
	return err;
}

int foreign_scan_pid(pid_t pid, struct foreign_process *out)
{
	char path[64];
	DIR *tasks;
	int err;

	*out = (struct foreign_process){ .pid = pid };
	snprintf(path, sizeof(path), "/proc/%d/comm", (int)pid);
	if (!read_name(AT_FDCWD, path, out->name))
		return -ESRCH;
	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	tasks = opendir(path);
	if (!tasks)
		return errno == ENOENT ? -ESRCH : -errno;
	err = look_at_threads(out, tasks);
	closedir(tasks);
	make_printable(out->name);
	if (!err && !out->nr_vcpus)
		err = -ENOENT;
	if (err)
		foreign_process_free(out);
	return err;
}

void foreign_process_free(struct foreign_process *p)
{
	free(p->vcpu);
	*p = (struct foreign_process){ 0 };
}

static int append_process(struct foreign_list *l, const struct foreign_process *p)
{
	struct foreign_process *all = realloc(l->process, sizeof(*all) * (l->nr + 1));

	if (!all)
		return -ENOMEM;
	l->process = all;
	l->process[l->nr++] = *p;
	return 0;
}

static int look_at_process(struct foreign_list *l, pid_t pid)
{
	struct foreign_process p;
	int err = foreign_scan_pid(pid, &p);

	if (err)
		return err == -ENOMEM ? err : 0;
	err = append_process(l, &p);
	if (err)
		foreign_process_free(&p);
	return err;
}

int foreign_scan(struct foreign_list *out)
{
	DIR *proc = opendir("/proc");
	struct dirent *e;
	int err = 0;

	*out = (struct foreign_list){ 0 };
	if (!proc)
		return -errno;
	while (!err && (e = readdir(proc)))
		if (is_number(e->d_name) && atoi(e->d_name) != getpid())
			err = look_at_process(out, atoi(e->d_name));
	closedir(proc);
	if (err)
		foreign_list_free(out);
	return err;
}

void foreign_list_free(struct foreign_list *l)
{
	for (unsigned i = 0; i < l->nr; i++)
		foreign_process_free(&l->process[i]);
	free(l->process);
	*l = (struct foreign_list){ 0 };
}

bool foreign_pinned(const struct foreign_vcpu *v, const struct pu_set *usable)
{
	for (size_t i = 0; i < ARRAY_SIZE(usable->word); i++)
		if (usable->word[i] & ~v->pus.word[i])
			return true;
	return false;
}
