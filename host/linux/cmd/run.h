/* run.h - what the user asked of `alcazar run`. */
#ifndef HOST_LINUX_CMD_RUN_H
#define HOST_LINUX_CMD_RUN_H

#include "options.h"

#define HALT_POLL_UNSET UINT32_MAX

enum run_engine { ENGINE_AUTO, ENGINE_KVM, ENGINE_SOFT, ENGINE_INTERP };

struct run_options {
	const char *name; /* NULL: one is made up */
	const char *kernel, *initrd, *append, *console, *trace, *config, *cpu;
	const char *topology, *pin, *node, *guest_topology; /* see placement.h */
	unsigned policy;                                    /* enum plan_policy */
	unsigned memory_policy;                             /* enum mem_policy */
	const char *pages;
	bool exclusive, foreign, explain;
	unsigned cpus, nodes, timeout_s, gdb_port, halt_poll_ns;
	unsigned engine; /* enum run_engine */
	unsigned clock;  /* enum clock_source */
	uint64_t memory, code_cache;
	bool reboot, prefault, quiet, dry_run, json, stats, perf_map, test_device, help;
};

/* The table of options, nothing given yet. */
void run_option_set(struct option_set *s);

/* Flags, then the configuration file they name; @o is complete. 0 or an exit status. */
int run_options_get(struct option_set *s, int argc, char **argv, struct run_options *o);

#endif
