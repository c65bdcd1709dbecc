/* resident.c - see resident.h. */
#include "resident.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* include/uapi/linux/fs.h of Linux 6.7, younger than the headers that we build with. */
struct pagemap_scan {
	uint64_t size, flags, start, end, walk_end;
	uint64_t vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
struct pagemap_region {
	uint64_t start, end, categories;
};
#define PAGEMAP_SCAN_IOCTL   _IOWR('f', 16, struct pagemap_scan)
#define PAGEMAP_SCAN_PRESENT BIT64(3)

#define ENTRY_PRESENT BIT64(63) /* Documentation/admin-guide/mm/pagemap.rst */
#define ENTRIES       65536     /* read at a time */

int resident_open(struct resident *r, pid_t pid)
{
	char path[64];

	*r = (struct resident){ .scans = true };
	snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)pid);
	r->fd = open(path, O_RDONLY | O_CLOEXEC);
	return r->fd < 0 ? (errno == ENOENT ? -ESRCH : -errno) : 0;
}

void resident_close(struct resident *r)
{
	if (r->fd >= 0)
		close(r->fd);
	free(r->entries);
	r->entries = NULL;
	r->fd = -1;
}

void resident_seek(struct resident *r, uint64_t start)
{
	r->nr = r->at = 0;
	r->looked = start;
}

static int scan(struct resident *r, uint64_t end)
{
	struct pagemap_region region[RESIDENT_RUNS];
	struct pagemap_scan arg = {
		.size = sizeof(arg),
		.start = r->looked,
		.end = end,
		.vec = (uintptr_t)region,
		.vec_len = RESIDENT_RUNS,
		.category_mask = PAGEMAP_SCAN_PRESENT,
		.return_mask = PAGEMAP_SCAN_PRESENT,
	};
	int nr = ioctl(r->fd, PAGEMAP_SCAN_IOCTL, &arg);

	if (nr < 0)
		return -errno;
	for (int i = 0; i < nr; i++)
		r->run[i] = (struct resident_run){ region[i].start, region[i].end };
	r->nr = (unsigned)nr;
	r->looked = arg.walk_end;
	return 0;
}

/* A run that goes on where the last one ended makes that longer. False: no room. */
static bool note_page(struct resident *r, uint64_t at)
{
	if (r->nr && r->run[r->nr - 1].end == at) {
		r->run[r->nr - 1].end += PAGE_SIZE;
		return true;
	}
	if (r->nr == RESIDENT_RUNS)
		return false;
	r->run[r->nr++] = (struct resident_run){ at, at + PAGE_SIZE };
	return true;
}

static int read_entries(struct resident *r, uint64_t end)
{
	uint64_t pages = MIN((end - r->looked) / PAGE_SIZE, ENTRIES);
	ssize_t n;

	if (!r->entries)
		r->entries = malloc(ENTRIES * sizeof(*r->entries));
	if (!r->entries)
		return -ENOMEM;
	n = pread(r->fd, r->entries, pages * 8, (off_t)(r->looked / PAGE_SIZE * 8));
	if (n < 0)
		return -errno;
	if (n < 8) {
		r->looked = end; /* the process has ended, or it has no such addresses */
		return 0;
	}
	for (ssize_t i = 0; i < n / 8; i++, r->looked += PAGE_SIZE)
		if (r->entries[i] & ENTRY_PRESENT && !note_page(r, r->looked))
			return 0;
	return 0;
}

static int look(struct resident *r, uint64_t end)
{
	int err;

	r->nr = r->at = 0;
	if (!r->scans)
		return read_entries(r, end);
	err = scan(r, end);
	if (err != -ENOTTY && err != -EINVAL)
		return err;
	r->scans = false;
	return read_entries(r, end);
}

int resident_next(struct resident *r, uint64_t end, struct resident_run *out)
{
	int err = 0;

	while (!err && r->at == r->nr && r->looked < end)
		err = look(r, end);
	*out = r->at < r->nr ? r->run[r->at++] : (struct resident_run){ end, end };
	return err;
}
