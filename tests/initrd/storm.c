/*
 * storm.c - a kernel that modifies itself all the time, on every CPU: function
 * tracing on and off, static keys, kprobes, modules, compiled BPF. Each kind is a
 * thread, and each looks whether what it switched on or built does what it should.
 *
 *	storm SECONDS [KIND...]		status 0 when all did; kinds: ftrace keys kprobes
 *					modules filters bpf
 *
 * Modules are those in /lib/modules; the others need tracefs at /sys/kernel/tracing.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/filter.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define TRACING "/sys/kernel/tracing/"

static atomic_bool stop;
static atomic_uint failures;

static bool bad(const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vprintf(format, ap);
	va_end(ap);
	putchar('\n');
	atomic_fetch_add(&failures, 1);
	return false;
}

static bool put_at(int dir, const char *path, const char *text)
{
	int fd = openat(dir, path, O_WRONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : write(fd, text, strlen(text));

	if (n < 0)
		bad("%s: cannot write '%s': %s", path, text, strerror(errno));
	if (fd >= 0)
		close(fd);
	return n >= 0;
}

static bool put(const char *path, const char *text)
{
	return put_at(AT_FDCWD, path, text);
}

/* Each thread's own. */
static __thread uint64_t noise;

static uint32_t draw(void)
{
	noise = noise * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(noise >> 33);
}

/* --- function tracing ---------------------------------------------------------------- */

/*
 * A buffer that is written while it is read might have no end. So it is held, and it
 * is small.
 */
static unsigned long traced(int dir, const char *what)
{
	FILE *f;
	char line[512];
	unsigned long n = 0;

	put_at(dir, "tracing_on", "0");
	f = fdopen(openat(dir, "trace", O_RDONLY | O_CLOEXEC), "r");
	while (f && fgets(line, sizeof(line), f))
		n += line[0] != '#' && strstr(line, what);
	if (f)
		fclose(f);
	put_at(dir, "tracing_on", "1");
	return n;
}

static void forget(int dir)
{
	close(openat(dir, "trace", O_WRONLY | O_TRUNC | O_CLOEXEC));
}

static void some_calls(void)
{
	for (int i = 0; i < 50; i++)
		close(open("/dev/null", O_RDONLY | O_CLOEXEC));
}

static int functions; /* where the functions' tracer has its files */

static void do_ftrace(void)
{
	static const char *const filters[] = { "vfs_*", "do_*open*", "*sched*", "*page*", "*" };
	const char *filter = filters[draw() % 64 ? draw() % 4 : 4];

	if (!put_at(functions, "set_ftrace_filter", filter) ||
	    !put_at(functions, "current_tracer", "function"))
		return;
	some_calls();
	if (!strcmp(filter, "do_*open*") && !traced(functions, "do_sys_open"))
		bad("ftrace: no call of do_sys_open was seen");
	put_at(functions, "current_tracer", "nop");
	forget(functions);
	some_calls();
	if (traced(functions, "do_sys_open"))
		bad("ftrace: calls are traced after the end");
}

/* --- static keys --------------------------------------------------------------------- */

static void flip(const char *path)
{
	put(path, "1");
	some_calls();
	put(path, "0");
}

static int events;

#define OPENS "events/syscalls/sys_enter_openat/enable"

/* Tracepoints are static keys and static calls. */
static void do_keys(void)
{
	flip("/proc/sys/kernel/sched_schedstats");
	flip("/proc/sys/vm/numa_stat");
	flip("/proc/sys/kernel/bpf_stats_enabled");
	put_at(events, "events/sched/enable", "1");
	some_calls();
	put_at(events, "events/sched/enable", "0");
	put_at(events, OPENS, "1");
	forget(events);
	some_calls();
	if (!traced(events, "sys_openat("))
		bad("keys: no event at openat()");
	put_at(events, OPENS, "0");
	forget(events);
	some_calls();
	if (traced(events, "sys_openat("))
		bad("keys: events after they were disabled");
}

/* --- kprobes ------------------------------------------------------------------------- */

static unsigned long long probe_hits(const char *name)
{
	FILE *f = fopen(TRACING "kprobe_profile", "re");
	char line[256], word[64];
	unsigned long long hits = 0, n;

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "%63s %llu", word, &n) == 2 && !strcmp(word, name))
			hits = n;
	if (f)
		fclose(f);
	return hits;
}

/* A breakpoint at first, which the kernel makes a jump after a while. */
static void do_kprobes(void)
{
	if (!put(TRACING "kprobe_events", "p:storm/opened do_sys_openat2"))
		return;
	put(TRACING "events/storm/opened/enable", "1");
	some_calls();
	usleep(draw() % 200000);
	some_calls();
	if (probe_hits("opened") < 100)
		bad("kprobes: %llu hits of 100 calls", probe_hits("opened"));
	put(TRACING "events/storm/opened/enable", "0");
	put(TRACING "kprobe_events", "-:storm/opened");
}

/* --- modules ------------------------------------------------------------------------- */

#define MODULES    "/lib/modules"
#define COMPRESSED 4 /* MODULE_INIT_COMPRESSED_FILE */

static void load_and_unload(const char *file)
{
	char path[300], name[64];
	int fd;

	snprintf(path, sizeof(path), MODULES "/%s", file);
	snprintf(name, sizeof(name), "%.*s", (int)strcspn(file, "."), file);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || syscall(SYS_finit_module, fd, "", strstr(file, ".ko.") ? COMPRESSED : 0))
		bad("modules: %s: %s", file, strerror(errno));
	else if (syscall(SYS_delete_module, name, O_NONBLOCK) && errno != EAGAIN)
		bad("modules: %s does not go: %s", name, strerror(errno));
	close(fd);
}

static void do_modules(void)
{
	DIR *d = opendir(MODULES);
	struct dirent *e;

	while (d && (e = readdir(d)) && !atomic_load(&stop))
		if (e->d_name[0] != '.')
			load_and_unload(e->d_name);
	if (d)
		closedir(d);
}

/* --- BPF ------------------------------------------------------------------------------ */

/* A classic filter that cuts packets: compiled when it is attached. */
static void do_filters(void)
{
	uint32_t keep = 1 + draw() % 60, pad = draw() % 40, i;
	struct sock_filter code[64];
	struct sock_fprog prog = { .filter = code };
	char buf[64] = "";
	int s[2];
	ssize_t n;

	if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, s)) {
		bad("filters: no sockets");
		return;
	}
	code[0] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_IMM, 0);
	for (i = 1; i <= pad; i++)
		code[i] = (struct sock_filter)BPF_STMT(BPF_ALU | BPF_ADD | BPF_K, i);
	code[i++] = (struct sock_filter)BPF_STMT(BPF_ALU | BPF_SUB | BPF_K, pad * (pad + 1) / 2);
	code[i++] = (struct sock_filter)BPF_STMT(BPF_ALU | BPF_ADD | BPF_K, keep);
	code[i++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_A, 0);
	prog.len = (unsigned short)i;
	if (setsockopt(s[1], SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog)))
		bad("filters: not attached: %s", strerror(errno));
	for (i = 0; i < 20; i++) {
		n = write(s[0], buf, sizeof(buf)) == sizeof(buf) ? read(s[1], buf, sizeof(buf))
								 : -1;
		if (n != (ssize_t)keep)
			bad("filters: %zd bytes passed, not %u", n, keep);
	}
	close(s[0]);
	close(s[1]);
}

#define STEPS 40

/* Arithmetic whose result is known. */
static uint64_t make_program(struct bpf_insn *p)
{
	uint64_t v = draw();
	unsigned i;

	p[0] = (struct bpf_insn){ .code = BPF_ALU64 | BPF_MOV | BPF_K, .imm = (int32_t)v };
	v = (uint64_t)(int64_t)(int32_t)v;
	for (i = 1; i < STEPS; i++) {
		int32_t k = (int32_t)draw();

		switch (draw() % 5) {
		case 0:
			p[i] = (struct bpf_insn){ .code = BPF_ALU64 | BPF_ADD | BPF_K, .imm = k };
			v += (uint64_t)(int64_t)k;
			break;
		case 1:
			p[i] = (struct bpf_insn){ .code = BPF_ALU64 | BPF_XOR | BPF_K, .imm = k };
			v ^= (uint64_t)(int64_t)k;
			break;
		case 2:
			p[i] = (struct bpf_insn){ .code = BPF_ALU64 | BPF_MUL | BPF_K, .imm = k };
			v *= (uint64_t)(int64_t)k;
			break;
		case 3:
			p[i] = (struct bpf_insn){ .code = BPF_ALU64 | BPF_RSH | BPF_K,
						  .imm = k & 31 };
			v >>= k & 31;
			break;
		default:
			p[i] = (struct bpf_insn){ .code = BPF_ALU | BPF_SUB | BPF_K, .imm = k };
			v = (uint32_t)v - (uint32_t)k;
		}
	}
	p[i] = (struct bpf_insn){ .code = BPF_JMP | BPF_EXIT };
	return (uint32_t)v;
}

static void do_bpf(void)
{
	struct bpf_insn code[STEPS + 1];
	uint64_t want = make_program(code);
	char packet[64] = "";
	union bpf_attr load = {
		.prog_type = BPF_PROG_TYPE_SOCKET_FILTER,
		.insns = (uint64_t)(uintptr_t)code,
		.insn_cnt = STEPS + 1,
		.license = (uint64_t)(uintptr_t) "GPL",
	};
	int fd = (int)syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof(load));
	union bpf_attr test = { .test = { .prog_fd = (uint32_t)fd,
					  .data_size_in = sizeof(packet),
					  .data_in = (uint64_t)(uintptr_t)packet,
					  .repeat = 100 } };

	if (fd < 0) {
		bad("bpf: not loaded: %s", strerror(errno));
		return;
	}
	if (syscall(SYS_bpf, BPF_PROG_TEST_RUN, &test, sizeof(test)))
		bad("bpf: not run: %s", strerror(errno));
	else if (test.test.retval != want)
		bad("bpf: %#x instead of %#x", test.test.retval, (unsigned)want);
	close(fd);
}

/* --- instances of tracing ----------------------------------------------------------------- */

/* Tracers and events do not disturb each other there. */
static int instance(const char *name)
{
	char path[100];
	int dir;

	snprintf(path, sizeof(path), TRACING "instances/%s", name);
	mkdir(path, 0700);
	dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		bad("%s: %s", path, strerror(errno));
	else
		put_at(dir, "buffer_size_kb", "64");
	return dir;
}

/* --- all at once ------------------------------------------------------------------------ */

static struct kind {
	const char *name;
	void (*once)(void);
	pthread_t thread;
	unsigned long rounds;
} kinds[] = {
	{ .name = "ftrace", .once = do_ftrace },   { .name = "keys", .once = do_keys },
	{ .name = "kprobes", .once = do_kprobes }, { .name = "modules", .once = do_modules },
	{ .name = "filters", .once = do_filters }, { .name = "bpf", .once = do_bpf },
};

#define KINDS (sizeof(kinds) / sizeof(kinds[0]))

static void *run(void *arg)
{
	struct kind *k = arg;

	noise = (uintptr_t)k;
	while (!atomic_load(&stop)) {
		k->once();
		k->rounds++;
	}
	return NULL;
}

static bool chosen(const struct kind *k, char **names)
{
	if (!*names)
		return true;
	for (; *names; names++)
		if (!strcmp(*names, k->name))
			return true;
	return false;
}

int main(int argc, char **argv)
{
	unsigned seconds = argc > 1 ? (unsigned)atoi(argv[1]) : 1;

	functions = instance("functions");
	events = instance("events");
	if (functions < 0 || events < 0)
		return 1;
	for (struct kind *k = kinds; k < kinds + KINDS; k++) {
		if (!chosen(k, argv + 2))
			continue;
		if (pthread_create(&k->thread, NULL, run, k))
			bad("%s: no thread", k->name);
	}
	sleep(seconds);
	atomic_store(&stop, true);
	for (struct kind *k = kinds; k < kinds + KINDS; k++) {
		if (!k->thread)
			continue;
		pthread_join(k->thread, NULL);
		printf("%s: %lu rounds\n", k->name, k->rounds);
		if (!k->rounds)
			bad("%s: not a single round", k->name);
	}
	return atomic_load(&failures) != 0;
}
