/*
 * run.c - `alcazar run`: from options to a machine, and from its end to a status.
 *
 * Everything that can be wrong is found before anything starts: options, images,
 * placement, console, trace file, debugger port, machine. The main thread then
 * waits for the machine; signals arrive on an event thread.
 */
#include "run.h"

#include "cmd.h"
#include "console.h"
#include "gdbserver.h"
#include "host/linux/host_linux.h"
#include "host/linux/kvm/engine_kvm.h"
#include "image.h"
#include "placement.h"
#include "report.h"
#include "vmm.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define WHY_BYTES      512
#define LABEL_BYTES    512
#define EXIT_PORT_MASK 0x7f /* an exit status has eight bits, the lowest is one */

struct run {
	struct option_set set;
	struct run_options o;
	struct host host;
	struct machine_model machine;
	struct plan plan;
	struct boot_image kernel, initrd;
	char *cpu_list; /* cut into overrides */
	const char *overrides[VMM_FEATURES_MAX + 1];
	struct placement placement;
	char why_not_kvm[WHY_BYTES];
	bool trace_exits, trace_insns;
	FILE *trace;
	struct console *console;
	struct gdbserver *gdb;
	struct vm *vm;

	sigset_t old_mask;
	int signal_fd;
	struct host_linux_watch *signal_watch;
	_Atomic bool ending; /* a signal or the console's user asked for the end */
};

/* --- before the start ------------------------------------------------------------- */

static const char *label_of(const struct run *r, const char *option, char buf[LABEL_BYTES])
{
	return options_label(&r->set, option, buf, LABEL_BYTES);
}

static int map_images(struct run *r)
{
	char label[LABEL_BYTES];
	int status = 0;

	if (!r->o.kernel && !r->o.dry_run)
		return user_error("no kernel named: say --kernel FILE");
	if (r->o.kernel)
		status = image_map(&r->kernel, r->o.kernel, label_of(r, "kernel", label));
	if (!status && r->o.initrd)
		status = image_map(&r->initrd, r->o.initrd, label_of(r, "initrd", label));
	return status;
}

/* --clock icount is not for KVM; otherwise it is taken where it is worth it. */
static const struct engine_ops *pick_engine(struct run *r)
{
	switch (r->o.engine) {
	case ENGINE_KVM:
		return &engine_kvm;
	case ENGINE_SOFT:
		return &engine_soft;
	case ENGINE_INTERP:
		return &engine_interp;
	default:
		break;
	}
	if ((enum clock_source)r->o.clock == CLOCK_ICOUNT)
		return &engine_soft;
	if (!engine_kvm.probe(&r->host, r->why_not_kvm, sizeof(r->why_not_kvm)))
		return &engine_kvm;
	return &engine_soft;
}

static int split_overrides(struct run *r)
{
	char label[LABEL_BYTES];
	unsigned nr = 0;
	char *save = NULL;

	if (!r->o.cpu)
		return 0;
	r->cpu_list = strdup(r->o.cpu);
	if (!r->cpu_list)
		return internal_error("out of memory");
	for (char *f = strtok_r(r->cpu_list, ",", &save); f; f = strtok_r(NULL, ",", &save)) {
		if ((*f != '+' && *f != '-') || !f[1] || nr == VMM_FEATURES_MAX)
			return user_error("%s: up to %d features are needed, each with its sign: "
					  "+aes,-pcid",
					  label_of(r, "cpu", label), VMM_FEATURES_MAX);
		r->overrides[nr++] = f;
	}
	return 0;
}

static int open_trace(struct run *r)
{
	const char *what = r->o.trace, *path = what ? strchr(what, ':') : NULL;
	size_t n = path ? (size_t)(path - what) : what ? strlen(what) : 0;
	char label[LABEL_BYTES];

	if (!what)
		return 0;
	r->trace_exits = n == 5 && !strncmp(what, "exits", n);
	r->trace_insns = n == 4 && !strncmp(what, "insn", n);
	if (!r->trace_exits && !r->trace_insns)
		return user_error("%s: say exits, insn, exits:FILE or insn:FILE",
				  label_of(r, "trace", label));
	if (r->o.dry_run)
		return 0;
	r->trace = path ? fopen(path + 1, "we") : stderr;
	if (!r->trace)
		return user_error("%s: cannot be written: %s: name a file that can",
				  label_of(r, "trace", label), strerror(errno));
	return 0;
}

static int make_plan(struct run *r)
{
	char why[WHY_BYTES] = "", label[LABEL_BYTES];
	int status, err;

	if (r->o.memory % MIB(1))
		return user_error("%s: whole megabytes are needed", label_of(r, "memory", label));
	err = host_linux_create(&r->host);
	if (err)
		return internal_error("cannot use this host: %s", strerror(-err));
	if (r->o.quiet)
		host_linux_log_level(&r->host, LOG_ERR);
	status = placement_machine(&r->o, &r->host, &r->machine);
	if (!status)
		status = placement_request(&r->set, &r->o, &r->machine, &r->placement);
	if (status)
		return status;
	err = plan_make(&r->machine, &r->placement.request, &r->plan, why, sizeof(why));
	if (err == -ENOMEM)
		return internal_error("%s", why);
	return err ? user_error("%s", why) : 0;
}

static void warn_of_sharing(const struct run *r)
{
	struct pu_set pus = { 0 };

	for (unsigned i = 0; i < r->plan.nr_vcpus; i++)
		pu_set_add(&pus, r->plan.vcpu[i].pu);
	if (pu_set_count(&pus) < r->plan.nr_vcpus)
		host_log(&r->host, LOG_WARN, "%u vCPUs share %u PUs", r->plan.nr_vcpus,
			 pu_set_count(&pus));
}

/* With --json the plan goes to standard output, which only a dry run may use for it. */
static int show_plan(const struct run *r)
{
	if (r->o.dry_run && r->o.json)
		return report_json(report_plan_json(&r->machine, &r->plan), JSON_INDENT(2), 0);
	if (!r->o.dry_run && r->o.quiet)
		return 0;
	report_plan(r->o.dry_run ? stdout : stderr, r->o.name, &r->machine, &r->plan);
	if (r->o.explain)
		report_explanation(r->o.dry_run ? stdout : stderr, &r->plan);
	return r->o.dry_run ? finish_output(0) : 0;
}

/* --- the machine's calls ---------------------------------------------------------- */

static void on_console(void *arg, const uint8_t *buf, size_t bytes)
{
	struct run *r = arg;

	console_output(r->console, buf, bytes);
}

static void on_console_ready(void *arg)
{
	struct run *r = arg;

	console_ready(r->console);
}

static void on_debug_stop(void *arg, unsigned vcpu, uint64_t detail)
{
	struct run *r = arg;

	gdbserver_stopped(r->gdb, vcpu, detail);
}

static void on_trace(void *arg, const char *line)
{
	struct run *r = arg;

	fprintf(r->trace, "%s\n", line);
}

/* Planned, but the host layer maps base pages only. */
static int check_pages(const struct run *r)
{
	for (unsigned i = 0; i < r->plan.nr_memory; i++)
		if (r->plan.memory[i].page_bytes > PAGE_SIZE)
			return user_error(
				"guest node %u: huge pages can be planned (--dry-run) but "
				"not mapped yet: leave pages out",
				i);
	return 0;
}

static int create_machine(struct run *r)
{
	struct vmm_config cfg = {
		.name = r->o.name,
		.engine = pick_engine(r),
		.clock = (enum clock_source)r->o.clock,
		.plan = &r->plan,
		.prefault = r->o.prefault,
		.reboot = r->o.reboot,
		.test_device = r->o.test_device,
		.halt_poll_set = r->o.halt_poll_ns != HALT_POLL_UNSET,
		.halt_poll_ns = r->o.halt_poll_ns,
		.count_insns = r->o.stats,
		.code_cache_bytes = r->o.code_cache,
		.kernel = r->kernel,
		.initrd = r->initrd,
		.cmdline = r->o.append,
		.console = on_console,
		.console_ready = on_console_ready,
		.debug_stop = r->gdb ? on_debug_stop : NULL,
		.trace = r->trace ? on_trace : NULL,
		.trace_exits = r->trace_exits,
		.trace_insns = r->trace_insns,
		.arg = r,
	};
	char why[WHY_BYTES] = "";
	int status = check_pages(r);

	if (!status)
		status = placement_topology(&r->placement, &r->machine, &r->plan, &cfg.topo);
	if (status)
		return status;
	memcpy(cfg.cpu_overrides, r->overrides, sizeof(r->overrides));
	if (vmm_create(&r->host, &cfg, &r->vm, why, sizeof(why)))
		return user_error("%s", why);
	if (*r->why_not_kvm)
		host_log(&r->host, LOG_INFO, "taking the software engine: %s", r->why_not_kvm);
	return 0;
}

/* --- while it runs ---------------------------------------------------------------- */

/* Any thread. The second time nobody waits for anything any more. */
static void end_machine(struct run *r)
{
	if (atomic_exchange(&r->ending, true)) {
		console_restore_terminal(r->console);
		_exit(STATUS_SIGNAL);
	}
	console_hurry(r->console);
	vmm_stop(r->vm);
}

static void on_signal(void *arg)
{
	struct signalfd_siginfo si;
	struct run *r = arg;

	if (read(r->signal_fd, &si, sizeof(si)) == sizeof(si))
		end_machine(r);
}

static void block_signals(struct run *r, sigset_t *ours)
{
	static const int ending[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT };

	sigemptyset(ours);
	for (size_t i = 0; i < ARRAY_SIZE(ending); i++)
		sigaddset(ours, ending[i]);
	pthread_sigmask(SIG_BLOCK, ours, &r->old_mask);
	signal(SIGPIPE, SIG_IGN); /* a reader that went away is an error of write() */
}

static int watch_signals(struct run *r, const sigset_t *ours)
{
	int err;

	r->signal_fd = signalfd(-1, ours, SFD_CLOEXEC | SFD_NONBLOCK);
	if (r->signal_fd < 0)
		return internal_error("signalfd: %s", strerror(errno));
	err = host_linux_watch_fd(&r->host, r->signal_fd, on_signal, r, &r->signal_watch);
	return err ? internal_error("cannot watch signals: %s", strerror(-err)) : 0;
}

static size_t console_input(void *arg, const uint8_t *buf, size_t bytes)
{
	struct run *r = arg;

	return vmm_console_input(r->vm, buf, bytes);
}

static void console_end(void *arg)
{
	end_machine(arg);
}

static void console_counters(void *arg)
{
	struct run *r = arg;

	report_stats(stderr, r->vm);
}

static int start_all(struct run *r)
{
	struct console_peer peer = {
		.input = console_input,
		.end = console_end,
		.counters = console_counters,
		.arg = r,
	};
	char why[WHY_BYTES] = "";
	int err = console_start(r->console, &peer);

	if (err)
		return internal_error("cannot start the console: %s", strerror(-err));
	if (vmm_start(r->vm, why, sizeof(why)))
		return user_error("%s", why);
	if (r->gdb) {
		err = gdbserver_start(r->gdb, r->vm);
		if (err)
			return internal_error("cannot start the debugger's server: %s",
					      strerror(-err));
	}
	return 0;
}

static int wait_for_end(struct run *r, struct vmm_result *result)
{
	uint64_t deadline_ns = HOST_FOREVER;
	int err;

	if (r->o.timeout_s)
		deadline_ns = r->host.ops->now_ns(r->host.ctx) + r->o.timeout_s * NSEC_PER_SEC;
	err = vmm_wait(r->vm, deadline_ns, result);
	if (err != -ETIMEDOUT)
		return 0;
	console_hurry(r->console);
	vmm_stop(r->vm);
	vmm_wait(r->vm, HOST_FOREVER, result);
	/* It may have ended by itself in the last moment. */
	return result->end == VMM_STOPPED && !atomic_load(&r->ending) ? STATUS_TIMEOUT : 0;
}

/* --- the end ---------------------------------------------------------------------- */

static int status_of(const struct run *r, const struct vmm_result *result)
{
	switch (result->end) {
	case VMM_POWEROFF:
		return STATUS_OK;
	case VMM_RESET:
	case VMM_TRIPLE_FAULT:
		host_log(&r->host, LOG_INFO, "%s: %s%s%s", r->o.name, report_end_name(result->end),
			 *result->detail ? ": " : "", result->detail);
		return STATUS_RESET;
	case VMM_EXIT:
		return (result->code & EXIT_PORT_MASK) << 1 | 1;
	case VMM_STOPPED:
		return STATUS_SIGNAL;
	default:
		return internal_error("%s: %s", r->o.name,
				      *result->detail ? result->detail : strerror(-result->code));
	}
}

static int report(struct run *r, const struct vmm_result *result, uint64_t ran_ns, int status)
{
	json_t *doc, *kvm;

	if (status == STATUS_TIMEOUT)
		host_log(&r->host, LOG_WARN, "%s: ended by --timeout after %u s", r->o.name,
			 r->o.timeout_s);
	if (r->o.stats && !r->o.json) {
		report_stats(stderr, r->vm);
		report_kvm(stderr, r->vm);
	}
	if (!r->o.json)
		return status;
	doc = json_pack("{s:s s:s s:i s:i s:i s:f s:f s:o}", "name", r->o.name, "end",
			report_end_name(result->end), "status", status, "code", result->code,
			"resets", result->resets, "seconds", (double)ran_ns / 1e9,
			"startup_seconds", (double)vmm_startup_ns(r->vm) / 1e9, "placement",
			report_plan_json(&r->machine, &r->plan));
	if (r->o.stats && doc)
		json_object_set_new(doc, "vcpus", report_stats_json(r->vm));
	if (r->o.stats && doc && (kvm = report_kvm_json(r->vm)))
		json_object_set_new(doc, "kvm", kvm);
	return report_json(doc, JSON_COMPACT, status);
}

/* The console ends before the report, which follows the guest's last line. */
static int run_machine(struct run *r)
{
	uint64_t started_ns = r->host.ops->now_ns(r->host.ctx);
	struct vmm_result result = { 0 };
	int status = start_all(r);

	if (status)
		return status;
	status = wait_for_end(r, &result);
	started_ns = r->host.ops->now_ns(r->host.ctx) - started_ns;
	gdbserver_destroy(r->gdb);
	r->gdb = NULL;
	console_stop_input(r->console);
	if (!status)
		status = status_of(r, &result);
	console_flush(r->console);
	return report(r, &result, started_ns, status);
}

static void release(struct run *r)
{
	if (r->gdb)
		gdbserver_destroy(r->gdb);
	if (r->console)
		console_stop_input(r->console);
	host_linux_unwatch(r->signal_watch);
	vmm_destroy(r->vm);
	console_close(r->console);
	if (r->trace && r->trace != stderr && fclose(r->trace))
		user_error("trace file: %s: lines may be missing", strerror(errno));
	if (r->signal_fd >= 0)
		close(r->signal_fd);
	image_unmap(&r->initrd);
	image_unmap(&r->kernel);
	placement_free(&r->placement);
	machine_free(&r->machine);
	host_linux_destroy(&r->host);
	free(r->cpu_list);
	options_free(&r->set);
}

/* In the order of cost, so that the plain mistakes are found at once. */
static int prepare(struct run *r)
{
	char label[LABEL_BYTES];
	int status = split_overrides(r);

	if (!status)
		status = map_images(r);
	if (!status)
		status = make_plan(r);
	if (!status)
		status = open_trace(r);
	if (!status && !r->o.dry_run)
		status = console_open(&r->console, r->o.console, label_of(r, "console", label));
	if (!status && r->o.gdb_port && !r->o.dry_run)
		status = gdbserver_create(&r->gdb, r->o.gdb_port, label_of(r, "gdb", label));
	return status;
}

/* The guest's topology is checked, too: contradictions belong to the plan. */
static int dry_run(struct run *r)
{
	struct topology *topo = calloc(1, sizeof(*topo));
	struct topo_request req;
	char why[WHY_BYTES] = "";
	int status = topo ? 0 : internal_error("out of memory");

	if (!status)
		status = placement_topology(&r->placement, &r->machine, &r->plan, &req);
	if (!status && topo_build(topo, &req, why, sizeof(why)))
		status = user_error("%s", why);
	free(topo);
	return status ? status : show_plan(r);
}

static int run(struct run *r)
{
	sigset_t ours;
	int status = prepare(r);

	if (status)
		return status;
	warn_of_sharing(r);
	if (r->o.dry_run)
		return dry_run(r);
	block_signals(r, &ours);
	status = create_machine(r);
	if (!status)
		status = watch_signals(r, &ours);
	if (!status)
		status = show_plan(r);
	return status ? status : run_machine(r);
}

int cmd_run(int argc, char **argv)
{
	struct run *r = calloc(1, sizeof(*r)); /* a plan is too big for some stacks */
	int status;

	if (!r)
		return internal_error("out of memory");
	r->signal_fd = -1;
	run_option_set(&r->set);
	status = run_options_get(&r->set, argc, argv, &r->o);
	if (!status && r->o.help) {
		options_help(&r->set);
		status = finish_output(0);
	} else if (!status) {
		status = run(r);
	}
	release(r);
	free(r);
	return status;
}
