/* memory.c - the simulated host's memory: real pages, counted against virtual nodes. */
#include "host/sim/internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static bool node_fits(const struct sim *s, unsigned node, uint64_t bytes)
{
	return node < s->cfg.nodes && bytes <= s->cfg.node_memory_bytes - s->node[node].used_bytes;
}

/* @node, if it has room; any other one unless @strict. cfg.nodes: none has. */
static unsigned choose_node(const struct sim *s, int node, uint64_t bytes, bool strict)
{
	unsigned n = 0;

	if (node >= 0 && (strict || node_fits(s, (unsigned)node, bytes)))
		return node_fits(s, (unsigned)node, bytes) ? (unsigned)node : s->cfg.nodes;
	while (n < s->cfg.nodes && !node_fits(s, n, bytes))
		n++;
	return n;
}

static int block_add(struct sim *s, struct sim_block **list, void *base, uint64_t bytes,
		     unsigned node)
{
	struct sim_block *b = malloc(sizeof(*b));

	if (!b)
		return -ENOMEM;
	*b = (struct sim_block){ *list, base, bytes, node, NULL };
	*list = b;
	s->node[node].used_bytes += bytes;
	return 0;
}

static void block_uncount(struct sim *s, struct sim_block *b)
{
	if (!b->page_node)
		s->node[b->node].used_bytes -= b->bytes;
	for (uint64_t i = 0; b->page_node && i < b->bytes / PAGE_SIZE; i++)
		s->node[b->page_node[i]].used_bytes -= PAGE_SIZE;
	free(b->page_node);
}

static void block_del(struct sim *s, struct sim_block **list, const void *base, uint64_t bytes)
{
	struct sim_block *b;

	while ((b = *list) && b->base != base)
		list = &b->next;
	if (!b || b->bytes != bytes)
		sim_die(s, "memory given back that was not handed out, or with another size");
	block_uncount(s, b);
	*list = b->next;
	free(b);
}

/* --- mappings ---------------------------------------------------------------- */

static int memfd_map(uint64_t bytes, int *fd, void **base)
{
	*fd = memfd_create("sim", MFD_CLOEXEC);
	if (*fd < 0)
		return -errno;
	*base = MAP_FAILED;
	if (!ftruncate(*fd, (off_t)bytes))
		*base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, *fd,
			     0);
	if (*base == MAP_FAILED) {
		close(*fd);
		return -ENOMEM;
	}
	return 0;
}

/* Spread memory lies on the first of its nodes: enough to see that it is asked for. */
int sim_mem_map(void *ctx, const struct host_mem_attr *a, struct host_mem *out)
{
	struct sim *s = ctx;
	int node = mem_policy_spreads(a->policy) ? a->share[0].node : a->node;
	uint64_t bytes = a->bytes;
	unsigned n = choose_node(s, node, bytes, a->policy == MEM_BIND);
	int err;

	if (!bytes || !IS_ALIGNED(bytes, PAGE_SIZE) || node >= (int)s->cfg.nodes)
		return -EINVAL;
	if (n == s->cfg.nodes || sim_fails(s, SIM_FAIL_MAP))
		return -ENOMEM;
	err = memfd_map(bytes, &out->handle, &out->base);
	if (err)
		return err;
	out->bytes = bytes;
	out->node = node;
	out->page_bytes = mem_pages_reserved(a->page_bytes) ? a->page_bytes : PAGE_SIZE;
	err = block_add(s, &s->maps, out->base, bytes, n);
	if (err) {
		munmap(out->base, bytes);
		close(out->handle);
	}
	return err;
}

void sim_mem_unmap(void *ctx, struct host_mem *m)
{
	struct sim *s = ctx;

	block_del(s, &s->maps, m->base, m->bytes);
	munmap(m->base, m->bytes);
	close(m->handle);
	*m = (struct host_mem){ .handle = -1 };
}

int sim_mem_prefault(void *ctx, const struct host_mem *m, uint64_t offset, uint64_t bytes)
{
	if (offset > m->bytes || bytes > m->bytes - offset)
		return -EINVAL;
	if (sim_fails(ctx, SIM_FAIL_PREFAULT))
		return -ENOMEM;
	for (uint64_t o = offset; o < offset + bytes; o += PAGE_SIZE)
		*((volatile uint8_t *)m->base + o) = *((volatile uint8_t *)m->base + o);
	return 0;
}

static struct sim_block *map_of(struct sim *s, const struct host_mem *m)
{
	struct sim_block *b = s->maps;

	while (b && b->base != m->base)
		b = b->next;
	if (!b)
		sim_die(s, "memory that was not mapped");
	if (!b->page_node) {
		b->page_node = malloc(b->bytes / PAGE_SIZE);
		if (!b->page_node)
			sim_die(s, "no memory to remember pages");
		memset(b->page_node, (int)b->node, b->bytes / PAGE_SIZE);
	}
	return b;
}

int sim_mem_where(void *ctx, const struct host_mem *m, uint64_t offset, uint64_t bytes,
		  struct host_where *out)
{
	struct sim *s = ctx;
	struct sim_block *b = map_of(s, m);
	unsigned astray = sim_fails(s, SIM_FAIL_PLACE);

	if (offset > m->bytes || bytes > m->bytes - offset)
		return -EINVAL;
	for (uint64_t at = offset; at < offset + bytes; at += PAGE_SIZE)
		out->bytes[(b->page_node[at / PAGE_SIZE] + astray) % s->cfg.nodes] +=
			MIN(PAGE_SIZE, offset + bytes - at);
	return 0;
}

int sim_mem_move(void *ctx, struct host_mem *m, uint64_t offset, uint64_t bytes, int node)
{
	struct sim *s = ctx;
	struct sim_block *b = map_of(s, m);
	unsigned to = (unsigned)node;

	if (node < 0 || to >= s->cfg.nodes || offset > m->bytes || bytes > m->bytes - offset ||
	    !IS_ALIGNED(offset | bytes, PAGE_SIZE))
		return -EINVAL;
	if (sim_fails(s, SIM_FAIL_MOVE))
		return -EBUSY;
	for (uint64_t i = offset / PAGE_SIZE; i < (offset + bytes) / PAGE_SIZE; i++) {
		if (b->page_node[i] == to)
			continue;
		if (!node_fits(s, to, PAGE_SIZE))
			return -ENOMEM;
		s->node[b->page_node[i]].used_bytes -= PAGE_SIZE;
		s->node[to].used_bytes += PAGE_SIZE;
		b->page_node[i] = (uint8_t)to;
	}
	return 0;
}

/* --- allocations: from the C library, so that the address sanitizer sees overruns --- */

void *sim_alloc(void *ctx, size_t bytes, int node)
{
	struct sim *s = ctx;
	unsigned n = choose_node(s, node, bytes, false);
	size_t room = ALIGN_UP(bytes, PAGE_SIZE);
	void *p;

	if (n == s->cfg.nodes || sim_fails(s, SIM_FAIL_ALLOC))
		return NULL;
	if (posix_memalign(&p, PAGE_SIZE, bytes < PAGE_SIZE ? bytes : room))
		return NULL;
	memset(p, 0, bytes);
	if (block_add(s, &s->allocs, p, bytes, n)) {
		free(p);
		return NULL;
	}
	return p;
}

void sim_free(void *ctx, void *p, size_t bytes)
{
	struct sim *s = ctx;

	if (!p)
		return;
	block_del(s, &s->allocs, p, bytes);
	free(p);
}

/* --- code -------------------------------------------------------------------- */

static int code_map(size_t bytes, struct host_code *out)
{
	void *rw, *rx;
	int fd;
	int err = memfd_map(bytes, &fd, &rw);

	if (err)
		return err;
	rx = mmap(NULL, bytes, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	close(fd);
	if (rx == MAP_FAILED) {
		munmap(rw, bytes);
		return -ENOMEM;
	}
	*out = (struct host_code){ rw, rx, bytes };
	return 0;
}

int sim_code_map(void *ctx, size_t bytes, int node, struct host_code *out)
{
	struct sim *s = ctx;
	unsigned n = choose_node(s, node, bytes, false);
	int err;

	if (!bytes || !IS_ALIGNED(bytes, PAGE_SIZE))
		return -EINVAL;
	if (n == s->cfg.nodes || sim_fails(s, SIM_FAIL_ALLOC))
		return -ENOMEM;
	err = code_map(bytes, out);
	if (err)
		return err;
	err = block_add(s, &s->codes, out->rw, bytes, n);
	if (err) {
		munmap(out->rw, bytes);
		munmap(out->rx, bytes);
	}
	return err;
}

void sim_code_unmap(void *ctx, struct host_code *code)
{
	struct sim *s = ctx;

	block_del(s, &s->codes, code->rw, code->bytes);
	munmap(code->rw, code->bytes);
	munmap(code->rx, code->bytes);
	*code = (struct host_code){ 0 };
}

/* Nothing to save here, but who asks must know what is his. */
void sim_code_prefault(void *ctx, const struct host_code *code, size_t offset, size_t bytes)
{
	if (!bytes || !IS_ALIGNED(offset | bytes, PAGE_SIZE) || offset > code->bytes ||
	    bytes > code->bytes - offset)
		sim_die(ctx, "code is prefaulted that is not there");
}

/* --- the end ----------------------------------------------------------------- */

/* Named, and given back: leak checkers should speak of other leaks. */
static unsigned count_left(struct sim_block **list, const char *what, bool mapped)
{
	unsigned left = 0;
	struct sim_block *b;

	while ((b = *list)) {
		fprintf(stderr, "sim: %s of %llu bytes was left behind\n", what,
			(unsigned long long)b->bytes);
		*list = b->next;
		free(b->page_node);
		if (mapped)
			munmap(b->base, b->bytes);
		else
			free(b->base);
		free(b);
		left++;
	}
	return left;
}

unsigned memory_stop(struct sim *s)
{
	return count_left(&s->allocs, "an allocation", false) +
	       count_left(&s->maps, "a mapping", true) +
	       count_left(&s->codes, "a code mapping", true);
}
