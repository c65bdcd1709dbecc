/*
 * mem.c - memory: guest RAM in memfds bound to nodes, the VMM's own near the
 * thread that uses it, and code mapped twice.
 *
 * Guest RAM is mapped exactly once: the kernel moves a page between nodes for an
 * unprivileged process only when nothing else maps it.
 */
#include "linux.h"

#include <errno.h>
#include <fcntl.h>
#include <numaif.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define HUGE_BYTES MIB(2)

#define NODE_MASK_WORDS (PU_SET_MAX / 64)

static int bind_to_node(const struct linux_host *h, void *p, size_t bytes, int node, int policy)
{
	unsigned long mask[NODE_MASK_WORDS] = { 0 };

	if (node == HOST_NODE_ANY || !h->many_nodes)
		return 0;
	if (node < 0 || node >= PU_SET_MAX)
		return -EINVAL;
	mask[node / 64] = BIT64(node % 64);
	/* The kernel reads one bit less than it is told. */
	return mbind(p, bytes, policy, mask, PU_SET_MAX, 0) ? -errno : 0;
}

static int memfd_of(const char *name, uint64_t bytes)
{
	int fd, err;

	if (!bytes || bytes > INT64_MAX)
		return -EINVAL;
	fd = memfd_create(name, MFD_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (ftruncate(fd, (off_t)bytes)) {
		err = -errno;
		close(fd);
		return err;
	}
	return fd;
}

/* Huge pages need virtual and file offsets to agree modulo their size: reserve more, cut. */
static void *map_aligned(int fd, uint64_t bytes)
{
	uint64_t slack = bytes >= HUGE_BYTES ? HUGE_BYTES : 0;
	uint8_t *area, *base;

	if (bytes > INT64_MAX - slack)
		return MAP_FAILED;
	area = mmap(NULL, bytes + slack, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
		    0);
	if (area == MAP_FAILED)
		return MAP_FAILED;
	base = slack ? (uint8_t *)ALIGN_UP((uintptr_t)area, HUGE_BYTES) : area;
	if (mmap(base, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, fd,
		 0) == MAP_FAILED) {
		munmap(area, bytes + slack);
		return MAP_FAILED;
	}
	if (base > area)
		munmap(area, (size_t)(base - area));
	if (slack > (uint64_t)(base - area))
		munmap(base + bytes, slack - (uint64_t)(base - area));
	return base;
}

int linux_mem_map(void *ctx, uint64_t bytes, int node, struct host_mem *out)
{
	struct linux_host *h = ctx;
	char name[32];
	void *base;
	int fd, err;

	if (bytes > UINT64_MAX - PAGE_SIZE)
		return -EINVAL;
	bytes = ALIGN_UP(bytes, PAGE_SIZE);
	snprintf(name, sizeof(name), LINUX_GUEST_MEMFD "%d", node);
	fd = memfd_of(name, bytes);
	if (fd < 0)
		return fd;
	base = map_aligned(fd, bytes);
	if (base == MAP_FAILED) {
		err = -ENOMEM;
		goto out_close;
	}
	err = bind_to_node(h, base, bytes, node, MPOL_BIND);
	if (err)
		goto out_unmap;
	madvise(base, bytes, MADV_HUGEPAGE); /* advice: a kernel without it is no error */
	madvise(base, bytes, MADV_DONTDUMP);
	*out = (struct host_mem){ .base = base, .bytes = bytes, .node = node, .handle = fd };
	return 0;

out_unmap:
	munmap(base, bytes);
out_close:
	close(fd);
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

/* Either way shortage is an error here and not a SIGBUS later. */
int linux_mem_prefault(void *ctx, struct host_mem *m, uint64_t offset, uint64_t bytes)
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
		if (errno != EINVAL)
			return -errno;
		/* A kernel before 5.14. */
		return fallocate(m->handle, 0, (off_t)offset, (off_t)bytes) ? -errno : 0;
	}
	return 0;
}

void *linux_mem_alloc(void *ctx, size_t bytes, int node)
{
	struct linux_host *h = ctx;
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	/* A preference: memory elsewhere is better than none. */
	(void)bind_to_node(h, p, bytes, node, MPOL_PREFERRED);
	return p;
}

void linux_mem_free(void *ctx, void *p, size_t bytes)
{
	if (p)
		munmap(p, bytes);
}

int linux_code_map(void *ctx, size_t bytes, int node, struct host_code *out)
{
	struct linux_host *h = ctx;
	int fd = memfd_of("code", bytes);
	void *rw, *rx;
	int err = 0;

	if (fd < 0)
		return fd;
	rw = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
	rx = mmap(NULL, bytes, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_NORESERVE, fd, 0);
	if (rw == MAP_FAILED || rx == MAP_FAILED) {
		err = -errno;
		if (rw != MAP_FAILED)
			munmap(rw, bytes);
		if (rx != MAP_FAILED)
			munmap(rx, bytes);
	}
	close(fd); /* the mappings keep it */
	if (err)
		return err;
	(void)bind_to_node(h, rw, bytes, node, MPOL_PREFERRED);
	*out = (struct host_code){ .rw = rw, .rx = rx, .bytes = bytes };
	return 0;
}

void linux_code_unmap(void *ctx, struct host_code *code)
{
	if (!code->rw)
		return;
	munmap(code->rw, code->bytes);
	munmap(code->rx, code->bytes);
	*code = (struct host_code){ 0 };
}
