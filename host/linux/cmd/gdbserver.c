/*
 * gdbserver.c - see gdbserver.h. One thread serves the connection and, while it is
 * there, owns the machine's pauses.
 *
 * Pauses are counted: the one made when the debugger stops the machine, and one
 * for each vCPU that met a point. To resume is to give all of them back. A step
 * adds none: the machine stays paused around the one vCPU that moves.
 */
#include "gdbserver.h"

#include "cmd.h"
#include "gdb_packet.h"
#include "gdb_regs.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define POINTS_MAX   256
#define MEMORY_MAX   (GDB_PACKET_BYTES / 2)
#define SEND_SECONDS 2
#define NOBODY       UINT32_MAX
#define SIGNAL_INT   2
#define SIGNAL_TRAP  5
#define POINT_MAX    KIB(64) /* the longest watchpoint */

struct point {
	enum debug_point_kind kind;
	bool hardware; /* how the debugger asked for it: the answer must match */
	uint64_t gva;
	unsigned bytes;
};

struct gdbserver {
	int listen_fd, wake_fd;
	pthread_t thread;
	bool has_thread;
	struct vm *vm;
	_Atomic bool quit;
	char *xml;

	/* What vCPUs reported and nobody has looked at yet: guarded by lock. */
	pthread_mutex_t lock;
	unsigned nr_stops;
	unsigned stop_vcpu; /* the first of them */
	uint64_t stop_detail;

	/* The rest is the thread's own, and meaningful while a debugger is there. */
	struct gdb_link link;
	bool running;      /* the debugger waits for a stop */
	unsigned stepping; /* the vCPU that steps, or NOBODY */
	unsigned pauses;
	unsigned vcpu; /* whom registers and memory are asked of */
	int signal;    /* why it stands */
	unsigned stopped_vcpu;
	uint64_t stopped_at;
	bool at_point;
	bool tell_breaks; /* the debugger wants swbreak and hwbreak */
	struct point point[POINTS_MAX];
	unsigned nr_points;
};

/* --- running and standing --------------------------------------------------------- */

static void wake(struct gdbserver *g)
{
	uint64_t one = 1;

	if (write(g->wake_fd, &one, sizeof(one)) < 0)
		return; /* the counter is full: it will wake */
}

void gdbserver_stopped(struct gdbserver *g, unsigned vcpu, uint64_t detail)
{
	pthread_mutex_lock(&g->lock);
	if (!g->nr_stops++) {
		g->stop_vcpu = vcpu;
		g->stop_detail = detail;
	}
	pthread_mutex_unlock(&g->lock);
	wake(g);
}

/* Takes over the pauses that vCPUs made. True: there was a stop. */
static bool take_stops(struct gdbserver *g)
{
	unsigned nr, vcpu;
	uint64_t detail;

	pthread_mutex_lock(&g->lock);
	nr = g->nr_stops;
	vcpu = g->stop_vcpu;
	detail = g->stop_detail;
	g->nr_stops = 0;
	pthread_mutex_unlock(&g->lock);
	if (!nr)
		return false;
	g->pauses += g->stepping == NOBODY ? nr : nr - 1;
	g->stepping = NOBODY;
	g->stopped_vcpu = g->vcpu = vcpu;
	g->stopped_at = detail;
	g->signal = SIGNAL_TRAP;
	g->at_point = true;
	return true;
}

/* On return every vCPU is parked, and none reports a stop that was not taken. */
static void stand(struct gdbserver *g, int signal)
{
	vmm_pause(g->vm);
	g->pauses++;
	g->running = false;
	if (!take_stops(g)) {
		g->signal = signal;
		g->at_point = false;
	}
}

static void resume(struct gdbserver *g)
{
	g->running = true;
	while (g->pauses) {
		g->pauses--;
		vmm_resume(g->vm);
	}
}

static void step(struct gdbserver *g, unsigned vcpu)
{
	g->running = true;
	g->stepping = vcpu;
	vmm_step(g->vm, vcpu);
}

/* --- replies ---------------------------------------------------------------------- */

static bool reply(struct gdbserver *g, const char *text)
{
	gdb_reply_begin(&g->link);
	gdb_reply_text(&g->link, "%s", text);
	return gdb_reply_send(&g->link);
}

static bool reply_errno(struct gdbserver *g, int err)
{
	return reply(g, !err ? "OK" : err == -ENOSPC ? "E1c" : err == -EFAULT ? "E0e" : "E16");
}

static const struct point *point_hit(const struct gdbserver *g)
{
	for (unsigned i = 0; g->at_point && i < g->nr_points; i++)
		if (g->stopped_at - g->point[i].gva < g->point[i].bytes)
			return &g->point[i];
	return NULL;
}

static bool reply_stop(struct gdbserver *g)
{
	static const char *const watch[] = {
		[DEBUG_WRITE] = "watch", [DEBUG_READ] = "rwatch", [DEBUG_ACCESS] = "awatch"
	};
	const struct point *p = point_hit(g);

	gdb_reply_begin(&g->link);
	gdb_reply_text(&g->link, "T%02x", (unsigned)g->signal);
	if (p && p->kind != DEBUG_EXEC)
		gdb_reply_text(&g->link, "%s:%llx;", watch[p->kind],
			       (unsigned long long)g->stopped_at);
	else if (p && g->tell_breaks)
		gdb_reply_text(&g->link, p->hardware ? "hwbreak:;" : "swbreak:;");
	gdb_reply_text(&g->link, "thread:%x;", g->stopped_vcpu + 1);
	return gdb_reply_send(&g->link);
}

/* --- threads ---------------------------------------------------------------------- */

/* A thread id: -1 all, 0 any, else a vCPU's number plus one. */
static bool parse_thread(const struct gdbserver *g, const char **p, unsigned *vcpu)
{
	uint64_t id;

	if (gdb_parse_char(p, '-')) {
		*vcpu = g->vcpu;
		return gdb_parse_hex(p, &id) && id == 1;
	}
	if (!gdb_parse_hex(p, &id) || id > vmm_vcpus(g->vm))
		return false;
	*vcpu = id ? (unsigned)id - 1 : g->vcpu;
	return true;
}

/* Hg picks whom to look at; Hc is of the time before vCont. */
static bool select_thread(struct gdbserver *g, const char *p)
{
	bool looks = *p == 'g';
	unsigned vcpu;

	if (!*p)
		return reply(g, "E16");
	p++;
	if (!parse_thread(g, &p, &vcpu))
		return reply(g, "E16");
	if (looks)
		g->vcpu = vcpu;
	return reply(g, "OK");
}

static bool list_threads(struct gdbserver *g)
{
	gdb_reply_begin(&g->link);
	for (unsigned i = 0; i < vmm_vcpus(g->vm); i++)
		gdb_reply_text(&g->link, "%c%x", i ? ',' : 'm', i + 1);
	return gdb_reply_send(&g->link);
}

static bool describe_thread(struct gdbserver *g, const char *p)
{
	static const char *const states[] = {
		[MP_RUNNING] = "running", [MP_HALTED] = "halted", [MP_WAIT_SIPI] = "not started"
	};
	struct cpu_state s;
	char text[64];
	unsigned vcpu;

	if (!parse_thread(g, &p, &vcpu))
		return reply(g, "E16");
	vmm_get_state(g->vm, vcpu, &s);
	snprintf(text, sizeof(text), "vCPU %u (%s)", vcpu, states[s.mp_state]);
	gdb_reply_begin(&g->link);
	gdb_reply_hex(&g->link, text, strlen(text));
	return gdb_reply_send(&g->link);
}

/* --- registers and memory --------------------------------------------------------- */

static bool read_registers(struct gdbserver *g)
{
	uint8_t value[GDB_REG_BYTES_MAX];
	struct cpu_state s;

	vmm_get_state(g->vm, g->vcpu, &s);
	gdb_reply_begin(&g->link);
	for (unsigned n = 0; n < gdb_regs_count(); n++)
		gdb_reply_hex(&g->link, value, gdb_reg_get(&s, n, value));
	return gdb_reply_send(&g->link);
}

/* A packet that ends early leaves the remaining registers alone. */
static bool write_registers(struct gdbserver *g, const char *p)
{
	uint8_t value[GDB_REG_BYTES_MAX];
	struct cpu_state s;

	vmm_get_state(g->vm, g->vcpu, &s);
	for (unsigned n = 0; n < gdb_regs_count() && *p; n++) {
		if (!gdb_parse_bytes(&p, value, gdb_reg_bytes(n)))
			return reply(g, "E16");
		gdb_reg_set(&s, n, value);
	}
	return reply_errno(g, vmm_set_state(g->vm, g->vcpu, &s));
}

static bool read_register(struct gdbserver *g, const char *p)
{
	uint8_t value[GDB_REG_BYTES_MAX];
	struct cpu_state s;
	uint64_t n;

	if (!gdb_parse_hex(&p, &n) || n >= gdb_regs_count())
		return reply(g, "E16");
	vmm_get_state(g->vm, g->vcpu, &s);
	gdb_reply_begin(&g->link);
	gdb_reply_hex(&g->link, value, gdb_reg_get(&s, (unsigned)n, value));
	return gdb_reply_send(&g->link);
}

static bool write_register(struct gdbserver *g, const char *p)
{
	uint8_t value[GDB_REG_BYTES_MAX] = { 0 };
	struct cpu_state s;
	uint64_t n;

	if (!gdb_parse_hex(&p, &n) || n >= gdb_regs_count() || !gdb_parse_char(&p, '=') ||
	    !gdb_parse_bytes(&p, value, gdb_reg_bytes((unsigned)n)))
		return reply(g, "E16");
	vmm_get_state(g->vm, g->vcpu, &s);
	gdb_reg_set(&s, (unsigned)n, value);
	return reply_errno(g, vmm_set_state(g->vm, g->vcpu, &s));
}

static bool parse_range(const char **p, uint64_t *gva, uint64_t *bytes)
{
	return gdb_parse_hex(p, gva) && gdb_parse_char(p, ',') && gdb_parse_hex(p, bytes);
}

/* What can be read from the beginning; a page that is not there ends it. */
static size_t read_memory_bytes(struct gdbserver *g, uint64_t gva, uint8_t *buf, size_t bytes)
{
	size_t at = 0;

	while (at < bytes) {
		size_t n = MIN(bytes - at, PAGE_SIZE - ((gva + at) & ~PAGE_MASK));

		if (vmm_read_gva(g->vm, g->vcpu, gva + at, buf + at, n))
			break;
		at += n;
	}
	return at;
}

static bool read_memory(struct gdbserver *g, const char *p)
{
	uint8_t buf[MEMORY_MAX];
	uint64_t gva, bytes;
	size_t n;

	if (!parse_range(&p, &gva, &bytes))
		return reply(g, "E16");
	n = read_memory_bytes(g, gva, buf, MIN(bytes, sizeof(buf)));
	if (!n && bytes)
		return reply(g, "E0e");
	gdb_reply_begin(&g->link);
	gdb_reply_hex(&g->link, buf, n);
	return gdb_reply_send(&g->link);
}

static bool write_memory(struct gdbserver *g, const char *p)
{
	uint8_t buf[MEMORY_MAX];
	uint64_t gva, bytes;

	if (!parse_range(&p, &gva, &bytes) || bytes > sizeof(buf) || !gdb_parse_char(&p, ':') ||
	    !gdb_parse_bytes(&p, buf, bytes))
		return reply(g, "E16");
	return reply_errno(g, vmm_write_gva(g->vm, g->vcpu, gva, buf, bytes));
}

/* --- points ----------------------------------------------------------------------- */

static int point_find(const struct gdbserver *g, const struct point *want)
{
	for (unsigned i = 0; i < g->nr_points; i++)
		if (g->point[i].kind == want->kind && g->point[i].gva == want->gva &&
		    g->point[i].bytes == want->bytes && g->point[i].hardware == want->hardware)
			return (int)i;
	return -1;
}

static int point_add(struct gdbserver *g, const struct point *p)
{
	int err;

	if (point_find(g, p) >= 0)
		return 0; /* packets may be repeated */
	if (g->nr_points == POINTS_MAX)
		return -ENOSPC;
	err = vmm_debug_point(g->vm, true, p->kind, p->gva, p->bytes);
	if (!err)
		g->point[g->nr_points++] = *p;
	return err;
}

static int point_remove(struct gdbserver *g, const struct point *p)
{
	int i = point_find(g, p);

	if (i < 0)
		return 0;
	g->point[i] = g->point[--g->nr_points];
	return vmm_debug_point(g->vm, false, p->kind, p->gva, p->bytes);
}

static void points_clear(struct gdbserver *g)
{
	while (g->nr_points) {
		struct point p = g->point[g->nr_points - 1];

		point_remove(g, &p);
	}
}

/* "Z0,addr,kind": for breakpoints kind is the length of an instruction that we need not write. */
static bool change_point(struct gdbserver *g, bool add, const char *p)
{
	static const enum debug_point_kind kinds[] = { DEBUG_EXEC, DEBUG_EXEC, DEBUG_WRITE,
						       DEBUG_READ, DEBUG_ACCESS };
	uint64_t type, gva, bytes;
	struct point point;

	if (!gdb_parse_hex(&p, &type) || !gdb_parse_char(&p, ',') || !parse_range(&p, &gva, &bytes))
		return reply(g, "E16");
	if (type >= ARRAY_SIZE(kinds))
		return reply(g, "");
	if (!bytes || bytes > POINT_MAX)
		return reply(g, "E16");
	point = (struct point){
		.kind = kinds[type],
		.hardware = type == 1,
		.gva = gva,
		.bytes = kinds[type] == DEBUG_EXEC ? 1 : (unsigned)bytes,
	};
	return reply_errno(g, add ? point_add(g, &point) : point_remove(g, &point));
}

/* --- packets ---------------------------------------------------------------------- */

static bool starts_with(const char **p, const char *prefix)
{
	size_t n = strlen(prefix);

	if (strncmp(*p, prefix, n) != 0)
		return false;
	*p += n;
	return true;
}

static bool send_description(struct gdbserver *g, const char *p)
{
	uint64_t from, bytes, total = strlen(g->xml);

	if (!parse_range(&p, &from, &bytes))
		return reply(g, "E16");
	from = MIN(from, total);
	bytes = MIN(bytes, MIN(total - from, GDB_PACKET_BYTES / 2 - 1)); /* all may be escaped */
	gdb_reply_begin(&g->link);
	gdb_reply_text(&g->link, from + bytes < total ? "m" : "l");
	gdb_reply_binary(&g->link, g->xml + from, bytes);
	return gdb_reply_send(&g->link);
}

static bool tell_features(struct gdbserver *g, const char *theirs)
{
	g->tell_breaks = strstr(theirs, "swbreak+") && strstr(theirs, "hwbreak+");
	gdb_reply_begin(&g->link);
	gdb_reply_text(&g->link,
		       "PacketSize=%x;QStartNoAckMode+;qXfer:features:read+;vContSupported+;"
		       "swbreak+;hwbreak+",
		       GDB_PACKET_BYTES);
	return gdb_reply_send(&g->link);
}

static bool query(struct gdbserver *g, const char *p)
{
	if (starts_with(&p, "qSupported"))
		return tell_features(g, p);
	if (starts_with(&p, "qXfer:features:read:target.xml:"))
		return send_description(g, p);
	if (starts_with(&p, "qfThreadInfo"))
		return list_threads(g);
	if (starts_with(&p, "qsThreadInfo"))
		return reply(g, "l");
	if (starts_with(&p, "qThreadExtraInfo,"))
		return describe_thread(g, p);
	if (starts_with(&p, "qAttached"))
		return reply(g, "1");
	if (!strcmp(p, "qC")) {
		gdb_reply_begin(&g->link);
		gdb_reply_text(&g->link, "QC%x", g->vcpu + 1);
		return gdb_reply_send(&g->link);
	}
	return reply(g, "");
}

static bool set(struct gdbserver *g, const char *p)
{
	bool ok;

	if (strcmp(p, "QStartNoAckMode") != 0)
		return reply(g, "");
	ok = reply(g, "OK");
	g->link.no_ack = true;
	return ok;
}

/*
 * "vCont;action[:thread]...": of the actions that fit a vCPU the first counts. A step moves its
 * vCPU alone; "continue" lets all of them go.
 */
static bool resume_as_told(struct gdbserver *g, const char *p)
{
	while (gdb_parse_char(&p, ';')) {
		char action = *p;
		unsigned vcpu = g->vcpu;
		uint64_t signal;

		if (!action || !strchr("cCsS", action))
			return reply(g, "E16");
		p++;
		if ((action == 'C' || action == 'S') && !gdb_parse_hex(&p, &signal))
			return reply(g, "E16");
		if (gdb_parse_char(&p, ':') && !parse_thread(g, &p, &vcpu))
			return reply(g, "E16");
		if (action == 's' || action == 'S') {
			step(g, vcpu);
			return true;
		}
		if (action == 'c' || action == 'C') {
			resume(g);
			return true;
		}
	}
	return reply(g, "E16");
}

static bool verbose(struct gdbserver *g, const char *p)
{
	if (!strcmp(p, "vCont?"))
		return reply(g, "vCont;c;C;s;S");
	if (starts_with(&p, "vCont"))
		return resume_as_told(g, p);
	if (starts_with(&p, "vKill")) {
		vmm_stop(g->vm);
		return reply(g, "OK");
	}
	return reply(g, "");
}

static bool check_thread(struct gdbserver *g, const char *p)
{
	unsigned vcpu;

	return reply(g, parse_thread(g, &p, &vcpu) ? "OK" : "E16");
}

/* False: the connection is over. */
static bool handle_packet(struct gdbserver *g)
{
	const char *p = g->link.packet;

	switch (*p) {
	case '?':
		return reply_stop(g);
	case 'g':
		return read_registers(g);
	case 'G':
		return write_registers(g, p + 1);
	case 'p':
		return read_register(g, p + 1);
	case 'P':
		return write_register(g, p + 1);
	case 'm':
		return read_memory(g, p + 1);
	case 'M':
		return write_memory(g, p + 1);
	case 'H':
		return select_thread(g, p + 1);
	case 'T':
		return check_thread(g, p + 1);
	case 'Z':
	case 'z':
		return change_point(g, *p == 'Z', p + 1);
	case 'q':
		return query(g, p);
	case 'Q':
		return set(g, p);
	case 'v':
		return verbose(g, p);
	case 'c':
		resume(g);
		return true;
	case 's':
		step(g, g->vcpu);
		return true;
	case 'D':
		reply(g, "OK");
		return false;
	case 'k':
		vmm_stop(g->vm);
		return false;
	default:
		return reply(g, "");
	}
}

/* --- a connection ----------------------------------------------------------------- */

/* While the machine runs only Ctrl-C means something; a step is too short to interrupt. */
static bool handle_input(struct gdbserver *g)
{
	for (;;) {
		switch (gdb_link_next(&g->link)) {
		case GDB_NOTHING:
			return true;
		case GDB_CLOSED:
			return false;
		case GDB_INTERRUPT:
			if (g->running && g->stepping == NOBODY) {
				stand(g, SIGNAL_INT);
				if (!reply_stop(g))
					return false;
			}
			break;
		case GDB_PACKET:
			if (!g->running && !handle_packet(g))
				return false;
			break;
		}
	}
}

static bool handle_stop(struct gdbserver *g)
{
	if (!g->running || !take_stops(g))
		return true;
	stand(g, SIGNAL_TRAP);
	g->signal = SIGNAL_TRAP;
	g->at_point = true;
	return reply_stop(g);
}

static void drain_wake(struct gdbserver *g)
{
	uint64_t count;

	if (read(g->wake_fd, &count, sizeof(count)) < 0)
		return; /* somebody was faster */
}

static void converse(struct gdbserver *g)
{
	struct pollfd p[2] = {
		{ .fd = g->wake_fd, .events = POLLIN },
		{ .fd = g->link.fd, .events = POLLIN },
	};

	while (!atomic_load(&g->quit)) {
		if (poll(p, 2, -1) < 0)
			continue;
		if (p[0].revents)
			drain_wake(g);
		if (!handle_stop(g))
			return;
		if (p[1].revents && (!gdb_link_receive(&g->link) || !handle_input(g)))
			return;
	}
	reply(g, "W00");
}

/* A step that nobody waits for any more would be taken for a stop of the next debugger. */
static void finish_step(struct gdbserver *g)
{
	struct pollfd p = { .fd = g->wake_fd, .events = POLLIN };

	while (g->stepping != NOBODY && !atomic_load(&g->quit)) {
		if (poll(&p, 1, -1) > 0)
			drain_wake(g);
		take_stops(g);
	}
}

/* The machine runs on without its debugger, as if there had been none. */
static void leave_machine(struct gdbserver *g)
{
	finish_step(g);
	if (atomic_load(&g->quit))
		return;
	if (g->running)
		stand(g, SIGNAL_INT);
	points_clear(g);
	resume(g);
}

static void serve(struct gdbserver *g, int fd)
{
	struct timeval limit = { .tv_sec = SEND_SECONDS };
	int one = 1;

	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	gdb_link_init(&g->link, fd);
	g->stepping = NOBODY;
	g->pauses = 0;
	g->vcpu = g->stopped_vcpu = 0;
	g->tell_breaks = false;
	stand(g, SIGNAL_TRAP);
	converse(g);
	leave_machine(g);
}

static void *server_main(void *arg)
{
	struct gdbserver *g = arg;
	struct pollfd p[2] = {
		{ .fd = g->wake_fd, .events = POLLIN },
		{ .fd = g->listen_fd, .events = POLLIN },
	};

	while (!atomic_load(&g->quit)) {
		int fd;

		if (poll(p, 2, -1) < 0)
			continue;
		if (p[0].revents)
			drain_wake(g);
		fd = p[1].revents ? accept4(g->listen_fd, NULL, NULL, SOCK_CLOEXEC) : -1;
		if (fd < 0)
			continue;
		serve(g, fd);
		close(fd);
	}
	return NULL;
}

/* --- life ------------------------------------------------------------------------- */

static int listen_on(struct gdbserver *g, unsigned port)
{
	struct sockaddr_in addr = {
		.sin_family = AF_INET,
		.sin_port = htons((uint16_t)port),
		.sin_addr = { htonl(INADDR_LOOPBACK) },
	};
	int one = 1;

	g->listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (g->listen_fd < 0)
		return -errno;
	setsockopt(g->listen_fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(g->listen_fd, (struct sockaddr *)&addr, sizeof(addr)) || listen(g->listen_fd, 1))
		return -errno;
	return 0;
}

int gdbserver_create(struct gdbserver **out, unsigned port, const char *label)
{
	struct gdbserver *g = calloc(1, sizeof(*g));
	int err;

	if (!g)
		return internal_error("out of memory");
	pthread_mutex_init(&g->lock, NULL);
	g->listen_fd = -1;
	g->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	g->xml = gdb_regs_xml();
	err = g->wake_fd < 0 || !g->xml ? -ENOMEM : listen_on(g, port);
	if (err) {
		gdbserver_destroy(g);
		return user_error("%s: cannot listen on 127.0.0.1: %s: choose another port", label,
				  strerror(-err));
	}
	*out = g;
	return 0;
}

int gdbserver_start(struct gdbserver *g, struct vm *vm)
{
	int err;

	g->vm = vm;
	err = -pthread_create(&g->thread, NULL, server_main, g);
	g->has_thread = !err;
	return err;
}

void gdbserver_destroy(struct gdbserver *g)
{
	if (!g)
		return;
	if (g->has_thread) {
		atomic_store(&g->quit, true);
		wake(g);
		pthread_join(g->thread, NULL);
	}
	if (g->listen_fd >= 0)
		close(g->listen_fd);
	if (g->wake_fd >= 0)
		close(g->wake_fd);
	pthread_mutex_destroy(&g->lock);
	free(g->xml);
	free(g);
}
