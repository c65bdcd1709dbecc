/*
 * host_linux.h - machines on Linux: the host that an embedder hands to
 * vmm_create(), and what only a Linux embedder can ask of it.
 *
 * Any number of hosts may exist in a process. They share the process's signal
 * dispositions of SIGRTMIN, SIGFPE, SIGBUS and SIGSEGV, taken over while at least
 * one host exists; faults that are not ours go to the handler found there.
 * Installed.
 */
#ifndef HOST_LINUX_HOST_LINUX_H
#define HOST_LINUX_HOST_LINUX_H

#include "core/host.h"
#include "mem/preflight.h"
#include "placement/machine.h"

/* The PUs that the calling thread may use now are those that placement may use. */
int host_linux_create(struct host *out);
/* All machines on it are destroyed. Zeroes @h; a zeroed one is legal. */
void host_linux_destroy(struct host *h);

/* Lines above @max are dropped (default LOG_INFO). Before any machine starts. */
void host_linux_log_level(const struct host *h, enum log_level max);

/*
 * A machine model from a description instead of the live host: the path of an
 * hwloc XML file (ends in ".xml") or an hwloc synthetic string ("node:2 core:4
 * pu:2"). All memory counts as free. -EINVAL, and why[] holds a line for the user.
 */
int host_linux_topology_from(const char *source, struct machine_model *out, char *why,
			     size_t why_bytes);

/* What mem_preflight() wants to know, now; @m is the live host's and stays referred to. */
void host_linux_mem_facts(const struct host *h, const struct machine_model *m,
			  struct mem_facts *out);

/* What is free now, in a model of the live host: memory and huge pages of each node. */
void host_linux_refresh_memory(struct machine_model *m);

/*
 * Measures latency and bandwidth between all nodes of the live host into
 * m->latency_ns and m->bandwidth_mibs: about half a second a pair, during which every
 * core of a node is busy. progress() may be NULL. -errno, and the arrays are NULL.
 */
int host_linux_measure(const struct host *h, struct machine_model *m,
		       void (*progress)(void *arg, unsigned done, unsigned all), void *arg);

/*
 * The event thread of @node runs on @pus from now on; it is started if it was not yet.
 * HOST_NODE_ANY, node 0 and nodes above 63 have one together. -EINVAL: no PU of them is
 * usable.
 */
int host_linux_place_events(const struct host *h, int node, const struct pu_set *pus);

/*
 * Call fn on an event thread whenever @fd is readable or hung up. fn may be called
 * once too often and must not block for long. -EPERM: a regular file.
 */
struct host_linux_watch;
int host_linux_watch_fd(const struct host *h, int fd, void (*fn)(void *arg), void *arg,
			struct host_linux_watch **out);
/* Readable is what it begins with; writable makes fn run when there is room for output. */
void host_linux_watch_for(struct host_linux_watch *w, bool readable, bool writable);
/* Returns when fn is not running (unless fn itself calls) and will not run again. */
void host_linux_unwatch(struct host_linux_watch *w);

#endif
