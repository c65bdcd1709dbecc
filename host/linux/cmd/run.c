/*
 * run.c - `alcazar run`: from options to a machine, and from its end to a status.
 *
 * Everything that can be wrong is found before anything starts: options, images,
 * placement, console, trace file, debugger port, machine. The main thread then
 * waits for the machine; signals arrive on an event thread.
 */
#include "run.h"

#include "admit.h"
#include "cmd.h"
#include "console.h"
#include "gdbserver.h"
#include "host/linux/host_linux.h"
#include "host/linux/kvm/engine_kvm.h"
#include "image.h"
#include "placement.h"
#include "progress.h"
#include "report.h"
#include "run_live.h"
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

static const int ending_signals[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT };

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
	struct admission admission;
	char why_not_kvm[WHY_BYTES];
	bool trace_exits, trace_insns;
	FILE *trace, *perf_map;
	struct progress progress;
	struct console *console;
	struct gdbserver *gdb;
	const struct engine_ops *engine;
	struct vm *vm;
	struct run_live live;

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

/* Where perf looks for the names of code that has no file. */
static int open_perf_map(struct run *r)
{
	char path[40];

	if (!r->o.perf_map || r->o.dry_run)
		return 0;
	snprintf(path, sizeof(path), "/tmp/perf-%d.map", (int)getpid());
	unlink(path); /* of a process long gone, or a trap */
	r->perf_map = fopen(path, "wxe");
	if (!r->perf_map)
		return user_error("--perf-map: %s: cannot be written: %s", path, strerror(errno));
	return 0;
}

static int make_plan(struct run *r)
{
	char label[LABEL_BYTES];
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
	if (!status)
		status = admit(&r->admission, &r->o, &r->host, &r->machine, &r->placement.request,
			       &r->plan);
	r->o.name = r->admission.name; /* one was made up if the user gave none */
	return status;
}

/* With --json the plan goes to standard output, which only a dry run may use for it. */
static int show_plan(const struct run *r)
{
	admit_warn_of_sharing(&r->admission, &r->host, &r->plan);
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

/* Threads come at the same time: each line is one call, which locks. */
static void on_code_made(void *arg, uint64_t code, size_t bytes, const char *name)
{
	struct run *r = arg;

	fprintf(r->perf_map, "%llx %zx %s\n", (unsigned long long)code, bytes, name);
}

static void on_trace(void *arg, const char *line)
{
	struct run *r = arg;

	fprintf(r->trace, "%s\n", line);
}

/* Signals are blocked by now; one that waits ends what may take long. */
static bool on_progress(void *arg, uint64_t done_bytes, uint64_t all_bytes)
{
	struct run *r = arg;
	sigset_t pending;

	progress_draw(&r->progress, done_bytes, all_bytes);
	sigpending(&pending);
	for (size_t i = 0; i < ARRAY_SIZE(ending_signals); i++)
		if (sigismember(&pending, ending_signals[i]))
			return false;
	return true;
}

static void report_populated(const struct run *r)
{
	const struct mem_report *m = vmm_populated(r->vm);
	char bytes[SIZE_TEXT], placed[64] = "";

	if (!m->bytes)
		return;
	if (m->looked)
		snprintf(placed, sizeof(placed), ", %.2f %% on the nodes asked for",
			 100.0 * (double)m->placed / (double)m->looked);
	host_log(&r->host, LOG_INFO,
		 "%s of memory populated by %u thread%s in %.3f s: %.1f GiB/s%s",
		 size_text(m->bytes, bytes), m->threads, m->threads == 1 ? "" : "s",
		 (double)m->ns / 1e9,
		 (double)m->bytes / (double)GIB(1) * 1e9 / (double)MAX(m->ns, 1), placed);
}

static int create_machine(struct run *r)
{
	struct vmm_config cfg = {
		.name = r->o.name,
		.engine = r->engine,
		.clock = (enum clock_source)r->o.clock,
		.plan = &r->plan,
		.prefault = r->o.prefault,
		.reboot = r->o.reboot,
		.test_device = r->o.test_device,
		.halt_poll_set = r->o.halt_poll_ns != HALT_POLL_UNSET,
		.halt_poll_ns = r->o.halt_poll_ns,
		.count_insns = r->o.stats,
		.sample_time = r->o.stats,
		.code_cache_bytes = r->o.code_cache,
		.kernel = r->kernel,
		.initrd = r->initrd,
		.cmdline = r->o.append,
		.console = on_console,
		.console_ready = on_console_ready,
		.progress = on_progress,
		.debug_stop = r->gdb ? on_debug_stop : NULL,
		.code_made = r->perf_map ? on_code_made : NULL,
		.trace = r->trace ? on_trace : NULL,
		.trace_exits = r->trace_exits,
		.trace_insns = r->trace_insns,
		.arg = r,
	};
	char why[WHY_BYTES] = "";
	int status = placement_topology(&r->placement, &r->machine, &r->plan, &cfg.topo), err;

	if (status)
		return status;
	memcpy(cfg.cpu_overrides, r->overrides, sizeof(r->overrides));
	r->progress = progress_begin("populating memory", !r->o.quiet);
	err = vmm_create(&r->host, &cfg, &r->vm, why, sizeof(why));
	progress_end(&r->progress);
	if (err == -ECANCELED)
		return STATUS_SIGNAL;
	if (err)
		return user_error("%s", why);
	/* Only a reset reads them again. */
	image_rest(&r->kernel);
	image_rest(&r->initrd);
	if (*r->why_not_kvm)
		host_log(&r->host, LOG_INFO, "taking the software engine: %s", r->why_not_kvm);
	return 0;
}

/* --- while it runs ---------------------------------------------------------------- */

/* False: that was done before. */
static bool end_once(struct run *r)
{
	if (atomic_exchange(&r->ending, true))
		return false;
	console_hurry(r->console);
	vmm_stop(r->vm);
	return true;
}

/* Any thread. The second time nobody waits for anything any more. */
static void end_machine(struct run *r)
{
	if (end_once(r))
		return;
	console_restore_terminal(r->console);
	_exit(STATUS_SIGNAL);
}

static void on_signal(void *arg)
{
	struct signalfd_siginfo si;
	struct run *r = arg;

	if (read(r->signal_fd, &si, sizeof(si)) == sizeof(si))
		end_machine(r);
}

/* What a control socket's `stop` does: as a signal, but never more than that. */
static void end_gently(void *arg)
{
	end_once(arg);
}

static void block_signals(struct run *r, sigset_t *ours)
{
	sigemptyset(ours);
	for (size_t i = 0; i < ARRAY_SIZE(ending_signals); i++)
		sigaddset(ours, ending_signals[i]);
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

static void place_io(void *arg, const struct plan *p)
{
	const struct run *r = arg;

	run_live_place_io(&r->host, p);
}

static int start_live(struct run *r)
{
	struct live_config cfg = {
		.host = &r->host,
		.vm = r->vm,
		.name = r->o.name,
		.engine = r->engine->name,
		.ledger = r->admission.ledger,
		.foreign = r->o.foreign,
		.request = &r->placement.request,
		.end = end_gently,
		.place_io = place_io,
		.arg = r,
	};

	return run_live_start(&r->live, &cfg);
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
	int err = console_start(r->console, &peer), status;

	if (err)
		return internal_error("cannot start the console: %s", strerror(-err));
	if (vmm_start(r->vm, why, sizeof(why)))
		return user_error("%s", why);
	admit_set_running(&r->admission, &r->host, r->engine->name);
	status = start_live(r);
	if (status)
		return status;
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
	if (doc && vmm_populated(r->vm)->bytes)
		json_object_set_new(doc, "populated", report_populated_json(r->vm));
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
	run_live_stop(&r->live);
	vmm_get_plan(r->vm, &r->plan);
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
	run_live_stop(&r->live);
	if (r->console)
		console_stop_input(r->console);
	host_linux_unwatch(r->signal_watch);
	vmm_destroy(r->vm);
	admit_release(&r->admission);
	console_close(r->console);
	if (r->trace && r->trace != stderr && fclose(r->trace))
		user_error("trace file: %s: lines may be missing", strerror(errno));
	if (r->perf_map && fclose(r->perf_map))
		user_error("--perf-map: %s: names may be missing", strerror(errno));
	if (r->signal_fd >= 0)
		close(r->signal_fd);
	image_unmap(&r->initrd);
	image_unmap(&r->kernel);
	placement_free(&r->placement);
	machine_free(&r->machine);
	run_live_free(&r->live);
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
	if (!status)
		status = open_perf_map(r);
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
	if (r->o.dry_run)
		return dry_run(r);
	block_signals(r, &ours);
	r->engine = pick_engine(r);
	status = run_live_open(&r->live, ledger_path(r->admission.ledger), r->o.name);
	if (!status) {
		run_live_place_io(&r->host, &r->plan);
		status = create_machine(r);
	}
	if (!status)
		status = watch_signals(r, &ours);
	if (!status)
		status = show_plan(r);
	if (!status)
		report_populated(r);
	return status ? status : run_machine(r);
}

int cmd_run(int argc, char **argv)
{
	struct run *r = calloc(1, sizeof(*r)); /* a plan is too big for some stacks */
	int status;

	if (!r)
		return internal_error("out of memory");
	r->signal_fd = -1;
	run_live_init(&r->live);
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
