/*
 * mem.c - memory: guest RAM, the VMM's own near the thread that uses it, and code
 * mapped twice.
 *
 * Guest RAM is mapped exactly once: the kernel moves a page between nodes for an
 * unprivileged process only when nothing else maps it. It is a memfd, so that it can be
 * shared, and others can see how much of it is in use (ledger_mem.c); but where the kernel
 * is to make huge pages, and makes them of anonymous memory only, it is that.
 */
#include "linux.h"
#include "mem_compat.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#define THP_BYTES MIB(2)

static int memfd_of(const char *name, uint64_t bytes, unsigned flags)
{
	int fd, err;

	if (bytes > INT64_MAX)
		return -EINVAL;
	fd = memfd_create(name, MFD_CLOEXEC | flags);
	if (fd < 0)
		return -errno;
	if (ftruncate(fd, (off_t)bytes)) {
		err = -errno;
		close(fd);
		return err;
	}
	return fd;
}

/* --- guest RAM -------------------------------------------------------------------------- */

static bool wants_thp(const struct host_mem_attr *a)
{
	return a->page_bytes == MEM_PAGES_ANY || a->page_bytes == MEM_PAGES_THP;
}

static bool is_anonymous(const struct host_mem_attr *a)
{
	return a->page_bytes == MEM_PAGES_THP && !linux_thp_of_memfds() && linux_thp_of_anonymous();
}

/* Anonymous memory has an empty memfd nevertheless, which tells others that it is there. */
static int open_backing(const struct host_mem_attr *a, struct host_mem *m, bool anonymous)
{
	bool reserved = mem_pages_reserved(m->page_bytes);
	unsigned flags = 0;
	char name[48];
	int fd;

	if (reserved)
		flags = MFD_HUGETLB | (unsigned)__builtin_ctzll(m->page_bytes) << MFD_HUGE_SHIFT;
	snprintf(name, sizeof(name), LINUX_GUEST_MEMFD "%d%s", a->node,
		 anonymous ? LINUX_ANONYMOUS : "");
	fd = memfd_of(name, anonymous ? 0 : m->bytes, flags);
	/* The kernel's word for a size it has no pages of. */
	if (reserved && (fd == -ENODEV || fd == -EINVAL || fd == -ENOENT))
		return -ENOTSUP;
	m->handle = fd;
	return fd < 0 ? fd : 0;
}

/* Huge pages need virtual and file offsets to agree modulo their size: reserve more, cut. */
static int map_aligned(struct host_mem *m, bool anonymous)
{
	uint64_t align = MAX(m->page_bytes, THP_BYTES), bytes = m->bytes;
	uint64_t slack = bytes >= THP_BYTES ? align : 0;
	/* Pages of a pool are reserved for us here, if only somewhere: the first to ask gets them.
	 */
	int flags = MAP_FIXED | (mem_pages_reserved(m->page_bytes) ? 0 : MAP_NORESERVE);
	uint8_t *area, *base;
	int err;

	if (bytes > INT64_MAX - slack)
		return -ENOMEM;
	area = mmap(NULL, bytes + slack, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
		    0);
	if (area == MAP_FAILED)
		return -errno;
	base = slack ? (uint8_t *)ALIGN_UP((uintptr_t)area, align) : area;
	flags |= anonymous ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
	if (mmap(base, bytes, PROT_READ | PROT_WRITE, flags, anonymous ? -1 : m->handle, 0) ==
	    MAP_FAILED) {
		err = -errno;
		munmap(area, bytes + slack);
		return err;
	}
	if (base > area)
		munmap(area, (size_t)(base - area));
	if (slack > (uint64_t)(base - area))
		munmap(base + bytes, slack - (uint64_t)(base - area));
	m->base = base;
	return 0;
}

/* Advice: a kernel without it is no error. */
static void advise(const struct host_mem *m, const struct host_mem_attr *a)
{
	if (!mem_pages_reserved(m->page_bytes))
		madvise(m->base, m->bytes, wants_thp(a) ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	madvise(m->base, m->bytes, MADV_DONTDUMP);
	madvise(m->base, m->bytes, MADV_DONTFORK);
}

int linux_mem_map(void *ctx, const struct host_mem_attr *a, struct host_mem *out)
{
	uint64_t page = mem_pages_reserved(a->page_bytes) ? a->page_bytes : PAGE_SIZE;
	struct host_mem m = { .page_bytes = page, .node = a->node };
	bool anonymous = is_anonymous(a);
	int err;

	if (!a->bytes || a->bytes > UINT64_MAX - page || page & (page - 1))
		return -EINVAL;
	m.bytes = ALIGN_UP(a->bytes, page);
	if (mem_policy_spreads(a->policy))
		m.node = HOST_NODE_ANY;
	err = open_backing(a, &m, anonymous);
	if (err)
		return err;
	err = map_aligned(&m, anonymous);
	if (err)
		goto out_close;
	err = linux_bind(ctx, &m, a);
	if (err)
		goto out_unmap;
	advise(&m, a);
	*out = m;
	return 0;

out_unmap:
	munmap(m.base, m.bytes);
out_close:
	close(m.handle);
	return err;
}

void linux_mem_unmap(void *ctx, struct host_mem *m)
{
	if (!m->base)
		return;
	munmap(m->base, m->bytes);
	close(m->handle);
	*m = (struct host_mem){ .handle = -1 };
}

/* Kernels before 5.14. Whoever else may write there meanwhile loses nothing. */
static int populate_slowly(const struct host_mem *m, uint64_t offset, uint64_t bytes)
{
	if (mem_pages_reserved(m->page_bytes))
		return fallocate(m->handle, 0, (off_t)offset, (off_t)bytes) ? -errno : 0;
	for (uint64_t at = 0; at < bytes; at += PAGE_SIZE)
		__atomic_fetch_or((uint8_t *)m->base + offset + at, 0, __ATOMIC_RELAXED);
	return 0;
}

/* Shortage is an error here and not a SIGBUS later. */
int linux_mem_prefault(void *ctx, const struct host_mem *m, uint64_t offset, uint64_t bytes)
{
	if (offset > m->bytes || bytes > m->bytes - offset)
		return -EINVAL;
	if (!bytes)
		return 0;
	while (madvise((uint8_t *)m->base + offset, bytes, MADV_POPULATE_WRITE)) {
		if (errno == EINTR || errno == EAGAIN)
			continue;
		if (errno == EFAULT)
			return -ENOMEM;
		return errno == EINVAL ? populate_slowly(m, offset, bytes) : -errno;
	}
	return 0;
}

/* --- the VMM's own -------------------------------------------------------------------- */

void *linux_mem_alloc(void *ctx, size_t bytes, int node)
{
	struct linux_host *h = ctx;
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	/* A preference: memory elsewhere is better than none. */
	(void)linux_bind_node(h, p, bytes, node, MEM_PREFERRED);
	/* Caches that are large for the worst case and mostly empty would be filled up. */
	madvise(p, bytes, MADV_NOHUGEPAGE);
	return p;
}

void linux_mem_free(void *ctx, void *p, size_t bytes)
{
	if (p)
		munmap(p, bytes);
}

/*
 * One piece of shared memory, mapped twice. It has no file of its own, since profilers
 * look for names (--perf-map) only where code comes from none.
 */
int linux_code_map(void *ctx, size_t bytes, int node, struct host_code *out)
{
	struct linux_host *h = ctx;
	void *rw, *rx = MAP_FAILED;
	int err;

	if (!bytes)
		return -EINVAL;
	rw = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE,
		  -1, 0);
	if (rw != MAP_FAILED)
		rx = mremap(rw, 0, bytes, MREMAP_MAYMOVE); /* from nothing: a second mapping */
	if (rx == MAP_FAILED || mprotect(rx, bytes, PROT_READ | PROT_EXEC)) {
		err = -errno;
		if (rx != MAP_FAILED)
			munmap(rx, bytes);
		if (rw != MAP_FAILED)
			munmap(rw, bytes);
		return err;
	}
	(void)linux_bind_node(h, rw, bytes, node, MEM_PREFERRED);
	*out = (struct host_code){ .rw = rw, .rx = rx, .bytes = bytes };
	return 0;
}

/* Older kernels do not know the advice: faults will do it. */
void linux_code_prefault(void *ctx, const struct host_code *code, size_t offset, size_t bytes)
{
	if (!madvise(code->rw + offset, bytes, MADV_POPULATE_WRITE))
		(void)madvise(code->rx + offset, bytes, MADV_POPULATE_READ);
}

void linux_code_unmap(void *ctx, struct host_code *code)
{
	if (!code->rw)
		return;
	munmap(code->rw, code->bytes);
	munmap(code->rx, code->bytes);
	*code = (struct host_code){ 0 };
}
