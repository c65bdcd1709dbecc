/* mem_facts.c - reads what the preflight wants to know of the live host. */
#include "linux.h"
#include "mem_compat.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>

#define HUGE_DIR "/sys/kernel/mm/hugepages"

static void read_page_sizes(struct mem_facts *f)
{
	DIR *d = opendir(HUGE_DIR);
	struct dirent *e;
	unsigned nr = 0;

	while (d && nr < MACHINE_PAGE_SIZES && (e = readdir(d))) {
		unsigned long long kib;

		if (sscanf(e->d_name, "hugepages-%llukB", &kib) == 1)
			f->page_bytes[nr++] = kib << 10;
	}
	if (d)
		closedir(d);
	for (unsigned i = 0; i < nr; i++)
		linux_group_huge(f->page_bytes[i], &f->huge_group[i]);
}

/* Filters of system calls refuse it whatever the node is; so one that may be used will do. */
static int try_bind(const struct linux_host *h, const struct machine_model *m)
{
	void *p = mmap(NULL, PAGE_SIZE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int err = 0;

	if (p == MAP_FAILED)
		return -errno;
	for (unsigned i = 0; i < m->nr_nodes; i++) {
		if (!m->node[i].usable || !m->node[i].memory_bytes)
			continue;
		err = linux_bind_node(h, p, PAGE_SIZE, (int)m->node[i].os_index, MEM_BIND);
		break;
	}
	munmap(p, PAGE_SIZE);
	return err;
}

/* Only in mode 2 is there a limit: Linux' Documentation/mm/overcommit-accounting.rst. */
static uint64_t read_commit_free(void)
{
	uint64_t mode = 0, limit = 0, used = 0;

	if (!linux_read_number("/proc/sys/vm", "overcommit_memory", &mode) || mode != 2)
		return UINT64_MAX;
	linux_meminfo_commit(&limit, &used);
	return limit > used ? limit - used : 0;
}

void host_linux_mem_facts(const struct host *host, const struct machine_model *m,
			  struct mem_facts *out)
{
	*out = (struct mem_facts){
		.machine = m,
		.thp = linux_thp_of_memfds() || linux_thp_of_anonymous(),
		.bind_err = try_bind(host->ctx, m),
		.commit_free = read_commit_free(),
	};
	linux_group_memory(&out->group);
	linux_group_mems_file(out->mems_file, sizeof(out->mems_file));
	read_page_sizes(out);
}
