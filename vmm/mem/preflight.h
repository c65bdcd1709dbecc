/*
 * preflight.h - is the memory of a plan to be had? Found out, and told with the remedy,
 * before anything starts: later a shortage would be a failure in the middle, or the end of
 * the process by the kernel's hand.
 *
 * Pure: facts and plan in, a line for the user out. host_linux.h has a reader of the
 * facts. Installed.
 */
#ifndef VMM_MEM_PREFLIGHT_H
#define VMM_MEM_PREFLIGHT_H

#include "placement/plan.h"

#define MEM_FILE_BYTES 256

/* What a limit leaves, and the file that sets it. */
struct mem_limit {
	uint64_t free_bytes; /* UINT64_MAX: there is no limit */
	char file[MEM_FILE_BYTES];
};

struct mem_facts {
	const struct machine_model *machine;     /* as it is now */
	uint64_t page_bytes[MACHINE_PAGE_SIZES]; /* huge pages that the kernel knows; unused ones 0
						  */
	bool thp;             /* the kernel makes huge pages by itself, where it is advised to */
	int bind_err;         /* what binding a page to a node came to: 0 or -errno */
	uint64_t commit_free; /* what the kernel will still promise; UINT64_MAX: anything */
	struct mem_limit group;
	struct mem_limit huge_group[MACHINE_PAGE_SIZES]; /* by index in page_bytes[] */
	char mems_file[MEM_FILE_BYTES]; /* that says which nodes this process may use; "" unknown */
};

/* -ENOSPC, -EPERM, -ENOTSUP: why[] says what is short where, and what to do. */
int mem_preflight(const struct mem_facts *f, const struct plan *p, char *why, size_t why_bytes);

/*
 * For a request that has no plan: 0 if memory is not what it lacks, as far as can be
 * told without one.
 */
int mem_preflight_request(const struct mem_facts *f, const struct plan_request *r, char *why,
			  size_t why_bytes);

#endif
