/*
 * foreign.h - virtual machines of others: the processes of this host whose threads
 * carry the names that VMMs give to virtual CPUs, and the PUs these threads are
 * bound to.
 *
 * A name is a hint that anybody may forge or leave out, so what is found here only
 * makes placement avoid a PU; nothing depends on its truth. No state; any thread.
 */
#ifndef HOST_LINUX_FOREIGN_H
#define HOST_LINUX_FOREIGN_H

#include "core/pu_set.h"

#include <sys/types.h>

enum foreign_kind {
	FOREIGN_QEMU, /* and those that name threads alike, as StratoVirt does */
	FOREIGN_CLOUD_HYPERVISOR,
	FOREIGN_FIRECRACKER,
	FOREIGN_CROSVM,
	FOREIGN_KVMTOOL,
	FOREIGN_ALCAZAR, /* ours, found like the others */
	FOREIGN_KINDS
};

#define FOREIGN_NAME_BYTES 16 /* the kernel's limit */
#define FOREIGN_VCPUS_MAX  4096

struct foreign_vcpu {
	pid_t tid;
	unsigned index;    /* of the vCPU in its machine, as the thread's name says */
	struct pu_set pus; /* the thread's affinity */
};

struct foreign_process {
	pid_t pid;
	enum foreign_kind kind;
	char name[FOREIGN_NAME_BYTES]; /* the process's own, printable */
	struct foreign_vcpu *vcpu;     /* ascending by index, then tid */
	unsigned nr_vcpus;
};

struct foreign_list {
	struct foreign_process *process; /* as /proc has them: ascending by pid */
	unsigned nr;
};

/*
 * Is @thread, in a process named @process, a vCPU's? Its number goes to *@index. The
 * thread's name decides; the process's only tells apart VMMs that use the same.
 */
bool foreign_parse_name(const char *process, const char *thread, enum foreign_kind *kind,
			unsigned *index);
const char *foreign_kind_name(enum foreign_kind kind);

/*
 * Every process that has vCPU threads, but for the caller's own. Processes that end
 * meanwhile or cannot be looked at are left out. 0, or -errno if /proc is not there
 * or memory is short.
 */
int foreign_scan(struct foreign_list *out);
void foreign_list_free(struct foreign_list *l); /* zeroed again */

/* One process: -ESRCH no such process, -ENOENT none of its threads is a vCPU's. */
int foreign_scan_pid(pid_t pid, struct foreign_process *out);
void foreign_process_free(struct foreign_process *p); /* zeroed again */

/*
 * Is it bound, seen by one who may use @usable? A thread that may run on all of
 * these floats, and claims nothing.
 */
bool foreign_pinned(const struct foreign_vcpu *v, const struct pu_set *usable);

#endif
