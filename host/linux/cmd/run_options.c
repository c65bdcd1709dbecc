/* run_options.c - the options of `alcazar run`, their limits and defaults. */
#include "run.h"

#include "cmd.h"
#include "config.h"
#include "host/linux/ledger.h"
#include "vmm.h"

#define OFFSET(field) offsetof(struct run_options, field)

#define MEMORY_MAX  ((uint64_t)64 << 40) /* what 46 physical address bits cover */
#define TIMEOUT_MAX (366u * 24 * 3600)

#define HALT_POLL_MAX_NS 1000000000u

static const char *const engine_names[] = { "auto", "kvm", "soft", "interp", NULL };
static const char *const node_words[] = { "cpus", "memory", "host-node", "pages", NULL };
static const char *const policy_names[] = { "balanced", "compact", "spread", "isolate", NULL };
/* In the order of enum mem_policy. */
static const char *const memory_policy_names[] = { "bind", "preferred", "interleave", "weighted",
						   NULL };
static const char *const clock_names[] = { "host", "icount", NULL };

/* clang-format off */
static const struct option table[] = {
	{ "kernel", "FILE", OPT_TEXT, OFFSET(kernel),
	  .help = "Linux bzImage or ELF vmlinux, or a Multiboot image" },
	{ "initrd", "FILE", OPT_TEXT, OFFSET(initrd),
	  .help = "initial RAM disk; for Multiboot the first module" },
	{ "append", "TEXT", OPT_TEXT, OFFSET(append),
	  .help = "the guest's command line" },
	{ "cpus", "N", OPT_NUMBER, OFFSET(cpus), .min = 1, .max = VMM_VCPUS_MAX,
	  .help = "virtual CPUs (1)" },
	{ "memory", "SIZE", OPT_SIZE, OFFSET(memory), .min = VMM_MEMORY_MIN, .max = MEMORY_MAX,
	  .help = "guest memory: 512M, 4G (1G)" },
	{ "nodes", "N", OPT_NUMBER, OFFSET(nodes), .min = 1, .max = PLAN_NODES_MAX,
	  .help = "NUMA nodes of the guest (cut where the host has borders)" },
	{ "node", "cpus=..,memory=..", OPT_RECORD, OFFSET(node), .choices = node_words,
	  .plural = "nodes",
	  .help = "one guest node, repeated: cpus=0-3,memory=2G,host-node=1,pages=2M" },
	{ "policy", "POLICY", OPT_CHOICE, OFFSET(policy), .choices = policy_names,
	  .help = "balanced, compact, spread or isolate (balanced)" },
	{ "pin", "VCPUS:WHERE", OPT_LIST, OFFSET(pin),
	  .help = "0-7:node0, 8:core3, 9:4-7, 10:0xf0; repeated or joined by commas" },
	{ "pages", "4K|thp|2M|1G", OPT_TEXT, OFFSET(pages),
	  .help = "host pages behind guest memory (thp where the host makes them and they pay)" },
	{ "memory-policy", "POLICY", OPT_CHOICE, OFFSET(memory_policy),
	  .choices = memory_policy_names,
	  .help = "bind, preferred, interleave or weighted (bind)" },
	{ "exclusive", NULL, OPT_SWITCH, OFFSET(exclusive),
	  .help = "refuse rather than share a PU, and let no later machine share these" },
	{ "foreign", NULL, OPT_SWITCH, OFFSET(foreign),
	  .help = "no: do not avoid PUs that vCPUs of other VMMs are bound to" },
	{ "guest-topology", "WORDS", OPT_LIST, OFFSET(guest_topology),
	  .help = "sockets=2,dies=1,cores=4,threads=2 instead of what the plan shows" },
	{ "topology", "WHICH", OPT_TEXT, OFFSET(topology), .flag_only = true,
	  .help = "plan for another machine (--dry-run): hwloc XML file or \"numa:2 core:4\"" },
	{ "explain", NULL, OPT_SWITCH, OFFSET(explain), .flag_only = true,
	  .help = "show what the plan costs, and what was rejected" },
	{ "engine", "ENGINE", OPT_CHOICE, OFFSET(engine), .choices = engine_names,
	  .help = "auto, kvm, soft or interp (auto)" },
	{ "cpu", "[+-]FEATURE,...", OPT_LIST, OFFSET(cpu),
	  .help = "CPU features to add or take away: +aes,-pcid" },
	{ "clock", "CLOCK", OPT_CHOICE, OFFSET(clock), .choices = clock_names,
	  .help = "guest time: host, or icount: repeats exactly, one CPU (host)" },
	{ "prefault", NULL, OPT_SWITCH, OFFSET(prefault),
	  .help = "populate all guest memory before the start" },
	{ "halt-poll", "NS", OPT_NUMBER, OFFSET(halt_poll_ns), .max = HALT_POLL_MAX_NS,
	  .help = "how long an idle vCPU may poll before it sleeps (0 where PUs are shared)" },
	{ "code-cache", "SIZE", OPT_SIZE, OFFSET(code_cache), .min = VMM_CODE_CACHE_MIN,
	  .max = GIB(1), .help = "translated code a guest node keeps, software engine (32M or 16M)" },
	{ "config", "FILE.yaml", OPT_TEXT, OFFSET(config), .flag_only = true,
	  .help = "read options from a file; keys are these names, flags override" },
	{ "console", "WHERE", OPT_TEXT, OFFSET(console),
	  .help = "guest console: stdio, file:PATH or none (stdio)" },
	{ "name", "NAME", OPT_TEXT, OFFSET(name),
	  .help = "the machine's name, which no other has (guest1, or the next)" },
	{ "reboot", NULL, OPT_SWITCH, OFFSET(reboot),
	  .help = "no: end when the guest resets, instead of starting it anew" },
	{ "timeout", "SECONDS", OPT_NUMBER, OFFSET(timeout_s), .min = 1, .max = TIMEOUT_MAX,
	  .help = "end the machine after this time" },
	{ "gdb", "PORT", OPT_NUMBER, OFFSET(gdb_port), .min = 1, .max = 65535,
	  .help = "serve the GDB remote protocol on 127.0.0.1:PORT" },
	{ "trace", "WHAT[:FILE]", OPT_TEXT, OFFSET(trace),
	  .help = "exits or insn: a line for each, to FILE or standard error" },
	{ "perf-map", NULL, OPT_SWITCH, OFFSET(perf_map),
	  .help = "name translated code for perf, in /tmp/perf-PID.map" },
	{ "quiet", NULL, OPT_SWITCH, OFFSET(quiet),
	  .help = "print errors only" },
	{ "dry-run", NULL, OPT_SWITCH, OFFSET(dry_run), .flag_only = true,
	  .help = "check everything, print the placement, start nothing" },
	{ "json", NULL, OPT_SWITCH, OFFSET(json),
	  .help = "placement (--dry-run), counters and result as JSON" },
	{ "stats", NULL, OPT_SWITCH, OFFSET(stats),
	  .help = "print counters when the machine has ended" },
	{ "test-device", NULL, OPT_SWITCH, OFFSET(test_device),
	  .help = "add a PCI function that guest programs test with" },
	{ "help", NULL, OPT_SWITCH, OFFSET(help), .flag_only = true,
	  .help = "this list" },
};
/* clang-format on */

void run_option_set(struct option_set *s)
{
	*s = (struct option_set){
		.command = "run",
		.summary = "Boot a guest, each virtual CPU a pinned host thread, and stay with it.",
		.table = table,
		.nr = ARRAY_SIZE(table),
	};
}

static int check_name(const struct option_set *s, const char *name)
{
	char label[160];

	if (ledger_name_ok(name))
		return 0;
	return user_error("%s: a name is 1 to %d letters, digits, '.', '_' and '-', and begins "
			  "with a letter or digit",
			  options_label(s, "name", label, sizeof(label)), LEDGER_NAME_MAX);
}

int run_options_get(struct option_set *s, int argc, char **argv, struct run_options *o)
{
	int status;

	*o = (struct run_options){
		.append = "",
		.console = "stdio",
		.cpus = 1,
		.memory = GIB(1),
		.engine = ENGINE_AUTO,
		.reboot = true,
		.halt_poll_ns = HALT_POLL_UNSET,
		.foreign = true,
	};
	status = options_from_args(s, argc, argv);
	if (!status)
		status = options_apply(s, o);
	if (!status && o->help)
		return 0;
	if (!status && o->config) {
		status = config_read(o->config, s);
		if (!status)
			status = options_apply(s, o);
	}
	if (!status && o->name)
		status = check_name(s, o->name);
	return status;
}
