/*
 * test_cmd_control.c - the control socket of a machine that runs: requests, answers, and
 * clients that are slow, many, rude or gone.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/vm.h"
#include "host/linux/cmd/control.h"
#include "host/linux/cmd/live.h"
#include "host/linux/host_linux.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define ANSWER_BYTES 65536
#define PATIENCE_MS  20000

/* --- a machine with a control socket ------------------------------------------------ */

/* 32-bit code that counts at COUNTER for ever: 1: incl COUNTER; jmp 1b. */
#define COUNTER 0x180000
static const uint8_t image[64] = {
	0x02, 0xb0, 0xad, 0x1b, 0x00, 0x00, 0x01, 0x00, 0xfe, 0x4f, 0x51, 0xe4, 0x00, 0x00,
	0x10, 0x00, 0x00, 0x00, 0x10, 0x00, 0x40, 0x00, 0x10, 0x00, 0x40, 0x00, 0x10, 0x00,
	0x20, 0x00, 0x10, 0x00, 0xff, 0x05, 0x00, 0x00, 0x18, 0x00, 0xeb, 0xf8,
};

static struct {
	struct host host;
	char dir[64];
	struct plan plan;
	struct plan_request request;
	struct vm *vm;
	struct live *live;
	struct control_socket socket;
	struct control *control;
} f;

static void end(void *arg)
{
	vmm_stop(f.vm);
}

static struct vm *start_machine(void)
{
	struct vmm_config cfg = {
		.name = "test",
		.engine = &engine_interp,
		.plan = &f.plan,
		.topo = { .vcpus = 2, .nodes = 1, .node_memory_bytes = { MIB(16) } },
		.kernel = { image, sizeof(image), "counter" },
		.cmdline = "",
	};
	struct machine_model m;
	char why[200];
	struct vm *vm;

	assert_int_equal(f.host.ops->topology(f.host.ctx, &m), 0);
	f.request = (struct plan_request){
		.vcpus = 2, .nodes = 1, .memory_bytes = MIB(16), .io_threads = true
	};
	assert_int_equal(plan_make(&m, &f.request, &f.plan, why, sizeof(why)), 0);
	machine_free(&m);
	if (vmm_create(&f.host, &cfg, &vm, why, sizeof(why)) || vmm_start(vm, why, sizeof(why)))
		fail_msg("%s", why);
	return vm;
}

static int setup(void **state)
{
	struct live_config cfg = { .host = &f.host,
				   .name = "test",
				   .engine = "interp",
				   .request = &f.request,
				   .end = end };

	strcpy(f.dir, "/tmp/control-XXXXXX");
	if (!mkdtemp(f.dir) || host_linux_create(&f.host))
		return -1;
	f.vm = cfg.vm = start_machine();
	f.live = live_create(&cfg);
	assert_int_equal(control_listen(f.dir, "test", &f.socket), 0);
	assert_int_equal(control_start(&f.host, &f.socket, f.live, &f.control), 0);
	return 0;
}

static int teardown(void **state)
{
	control_stop(f.control);
	control_stop(f.control); /* legal */
	vmm_destroy(f.vm);
	control_free(f.control);
	live_destroy(f.live);
	host_linux_destroy(&f.host);
	assert_int_equal(rmdir(f.dir), 0); /* the socket is gone */
	return 0;
}

static uint32_t counter(void)
{
	return gmem_load_u32(gmem_ptr(&f.vm->gmem, COUNTER, 4));
}

static void sleep_ms(long ms)
{
	nanosleep(&(struct timespec){ .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 }, NULL);
}

static bool counts(void)
{
	uint32_t before = counter();

	for (unsigned i = 0; i < PATIENCE_MS / 10 && counter() == before; i++)
		sleep_ms(10);
	return counter() != before;
}

/* --- a client ------------------------------------------------------------------------ */

static int client(void)
{
	int fd = control_connect(f.dir, "test");

	assert_true(fd >= 0);
	return fd;
}

static void say(int fd, const char *text)
{
	size_t bytes = strlen(text);

	assert_int_equal(send(fd, text, bytes, MSG_NOSIGNAL), bytes);
}

/* A byte, or -1 at the end. Fails when nothing comes for long. */
static int next_byte(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	unsigned char byte;

	if (poll(&p, 1, PATIENCE_MS) != 1)
		fail_msg("no answer");
	return recv(fd, &byte, 1, 0) == 1 ? byte : -1;
}

/* The next line as a document, or NULL at the end. */
static json_t *hear(int fd)
{
	static char line[ANSWER_BYTES];
	json_t *doc;
	size_t n = 0;
	int c;

	while ((c = next_byte(fd)) >= 0 && c != '\n' && n < sizeof(line) - 1)
		line[n++] = (char)c;
	if (c < 0 && !n)
		return NULL;
	doc = json_loadb(line, n, 0, NULL);
	assert_non_null(doc);
	assert_int_equal(json_integer_value(json_object_get(doc, "version")), 1);
	return doc;
}

static json_t *ask(int fd, const char *request)
{
	say(fd, request);
	say(fd, "\n");
	return hear(fd);
}

static bool is_ok(json_t *doc)
{
	bool ok = json_is_true(json_object_get(doc, "ok"));

	assert_int_equal(ok, json_object_get(doc, "result") != NULL);
	assert_int_equal(!ok, json_object_get(doc, "error") != NULL);
	return ok;
}

static void expect_ok(int fd, const char *request)
{
	json_t *doc = ask(fd, request);

	if (!is_ok(doc))
		fail_msg("%s", request);
	json_decref(doc);
}

/* An error with this code, whose message has @word in it. */
static void expect_error(int fd, const char *request, const char *code, const char *word)
{
	json_t *doc = ask(fd, request), *error = json_object_get(doc, "error");
	const char *message = json_string_value(json_object_get(error, "message"));

	assert_false(is_ok(doc));
	assert_string_equal(json_string_value(json_object_get(error, "code")), code);
	assert_non_null(message);
	if (!strstr(message, word))
		fail_msg("%s: %s", request, message);
	json_decref(doc);
}

/* --- requests ------------------------------------------------------------------------ */

#define V "{\"version\": 1, "

static void each_command_is_answered(void **state)
{
	static const char *const request[] = {
		V "\"command\": \"status\"}",
		V "\"command\": \"pause\"}",
		V "\"command\": \"pause\"}",
		V "\"command\": \"audit\"}",
		V "\"command\": \"resume\"}",
		V "\"command\": \"resume\"}",
		V "\"command\": \"stats\"}",
		V "\"command\": \"rebalance\", \"dry-run\": true}",
		V "\"command\": \"move-memory\", \"node\": 0, \"to\": 0}",
	};
	int fd = client();

	for (size_t i = 0; i < ARRAY_SIZE(request); i++)
		expect_ok(fd, request[i]);
	assert_true(counts());
	close(fd);
}

static void ids_come_back(void **state)
{
	int fd = client();
	json_t *doc = ask(fd, V "\"id\": 42, \"command\": \"status\"}");

	assert_int_equal(json_integer_value(json_object_get(doc, "id")), 42);
	json_decref(doc);
	doc = ask(fd, V "\"id\": \"x\", \"command\": \"nonsense\"}");
	assert_string_equal(json_string_value(json_object_get(doc, "id")), "x");
	assert_false(is_ok(doc));
	json_decref(doc);
	close(fd);
}

static void nonsense_is_refused(void **state)
{
	static const struct {
		const char *request, *code, *word;
	} wrong[] = {
		{ "", "request", "JSON" },
		{ "what?", "request", "JSON" },
		{ "[]", "request", "object" },
		{ "{\"command\": \"status\"}", "request", "version" },
		{ "{\"version\": 2, \"command\": \"status\"}", "request", "version 2" },
		{ V "\"command\": 3}", "request", "string" },
		{ V "\"command\": \"status\", \"command\": \"stop\"}", "request", "JSON" },
		{ V "\"command\": \"explode\"}", "request", "no such command" },
		{ V "\"command\": \"status\", \"to\": 1}", "request", "keys" },
		{ V "\"command\": \"status\"} {}", "request", "JSON" },
		{ V "\"command\": \"move-vcpu\", \"vcpu\": 0}", "request", "to: move-vcpu needs" },
		{ V "\"command\": \"move-vcpu\", \"vcpu\": -1, \"to\": 0}", "request", "0 to" },
		{ V "\"command\": \"move-vcpu\", \"vcpu\": 0, \"to\": 1.5}", "request", "integer" },
		{ V "\"id\": [], \"command\": \"status\"}", "request", "id" },
		{ V "\"command\": \"move-vcpu\", \"vcpu\": 2, \"to\": 0}", "refused", "has 2" },
		{ V "\"command\": \"move-vcpu\", \"vcpu\": 0, \"to\": 4095}", "refused", "none" },
		{ V "\"command\": \"move-memory\", \"node\": 1, \"to\": 0}", "refused", "has 1" },
		{ V "\"command\": \"move-memory\", \"node\": 0, \"to\": 999}", "refused", "none" },
	};
	int fd = client();

	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
		expect_error(fd, wrong[i].request, wrong[i].code, wrong[i].word);
	expect_ok(fd, V "\"command\": \"status\"}");
	close(fd);
}

static void a_pause_stops_the_guest(void **state)
{
	int fd = client();
	uint32_t then;

	assert_true(counts());
	expect_ok(fd, V "\"command\": \"pause\"}");
	then = counter();
	sleep_ms(50);
	assert_int_equal(counter(), then);
	expect_ok(fd, V "\"command\": \"resume\"}");
	assert_true(counts());
	close(fd);
}

static void vcpus_move_where_they_may(void **state)
{
	char request[100];
	int fd = client();

	for (unsigned v = 0; v < 2; v++) {
		snprintf(request, sizeof(request),
			 V "\"command\": \"move-vcpu\", \"vcpu\": %u, \"to\": %u}", v,
			 f.plan.vcpu[!v].pu);
		expect_ok(fd, request);
	}
	vmm_get_plan(f.vm, &f.vm->plan);
	assert_int_equal(f.vm->plan.vcpu[0].pu, f.plan.vcpu[1].pu);
	assert_true(counts());
	close(fd);
}

/* --- lines --------------------------------------------------------------------------- */

static void lines_come_in_pieces(void **state)
{
	static const char request[] = V "\"command\": \"status\"}\n";
	int fd = client();
	json_t *doc;

	for (size_t i = 0; i < sizeof(request) - 1; i++) {
		assert_int_equal(send(fd, request + i, 1, MSG_NOSIGNAL), 1);
		if (i % 8 == 0)
			sleep_ms(1);
	}
	doc = hear(fd);
	assert_true(is_ok(doc));
	json_decref(doc);
	close(fd);
}

static void lines_come_all_at_once(void **state)
{
	int fd = client();

	for (unsigned i = 0; i < 60; i++)
		say(fd, i % 3 ? V "\"command\": \"status\"}\n" : V "\"command\": \"stats\"}\n");
	for (unsigned i = 0; i < 60; i++) {
		json_t *doc = hear(fd);

		assert_true(is_ok(doc));
		assert_int_equal(json_object_get(json_object_get(doc, "result"), "state") == NULL,
				 i % 3 == 0); /* in their order */
		json_decref(doc);
	}
	close(fd);
}

static void a_line_that_never_ends(void **state)
{
	static char spaces[CONTROL_LINE_MAX + 1];
	int fd = client();
	json_t *doc;

	memset(spaces, ' ', CONTROL_LINE_MAX);
	say(fd, spaces);
	doc = hear(fd);
	assert_false(is_ok(doc));
	json_decref(doc);
	assert_null(hear(fd)); /* hung up */
	close(fd);
}

/* As `nc -N` does: no more to say, but listening. */
static void who_sends_no_more_is_answered(void **state)
{
	int fd = client();
	json_t *doc;

	say(fd, V "\"command\": \"status\"}\n" V "\"command\": \"audit\"}\n");
	shutdown(fd, SHUT_WR);
	for (unsigned i = 0; i < 2; i++) {
		doc = hear(fd);
		assert_true(is_ok(doc));
		json_decref(doc);
	}
	assert_null(hear(fd));
	close(fd);
}

/* --- rude ones ----------------------------------------------------------------------- */

/* Asks again and again and never listens: all others are served, and the guest runs. */
static void a_client_that_does_not_read(void **state)
{
	static const char request[] = V "\"command\": \"stats\"}\n";
	int rude = client(), fd = client(), n = 0;

	while (send(rude, request, sizeof(request) - 1, MSG_NOSIGNAL | MSG_DONTWAIT) > 0 ||
	       n++ < 20)
		if (n)
			sleep_ms(5);
	for (unsigned i = 0; i < 20; i++) {
		expect_ok(fd, V "\"command\": \"status\"}");
		expect_ok(fd, V "\"command\": \"stats\"}");
	}
	assert_true(counts());
	close(rude);
	close(fd);
}

/* The one that was silent for the longest time makes room. */
static void more_clients_than_there_is_room_for(void **state)
{
	int fd[100];

	for (unsigned i = 0; i < ARRAY_SIZE(fd); i++) {
		fd[i] = client();
		expect_ok(fd[i], V "\"command\": \"status\"}");
	}
	assert_null(hear(fd[0]));
	expect_ok(fd[ARRAY_SIZE(fd) - 1], V "\"command\": \"status\"}");
	for (unsigned i = 0; i < ARRAY_SIZE(fd); i++)
		close(fd[i]);
}

static void clients_that_vanish(void **state)
{
	static const char *const last_words[] = {
		V "\"command\": \"audit\"}\n",
		V "\"command\": \"stats\"}\n",
		V "\"command\": \"rebalance\", \"dry-run\": true}\n",
		V "\"command\": \"pause\"}\n" V "\"command\": \"resume\"}\n",
		"half a li",
		"",
	};
	int fd;

	for (unsigned i = 0; i < 120; i++) {
		fd = client();
		say(fd, last_words[i % ARRAY_SIZE(last_words)]);
		if (i % 5 == 0)
			sleep_ms(2);
		close(fd);
	}
	fd = client();
	expect_ok(fd, V "\"command\": \"resume\"}");
	assert_true(counts());
	close(fd);
}

/* --- memory on its way ---------------------------------------------------------------- */

#define SLOW_MOVE                                                                                  \
	V "\"command\": \"move-memory\", \"node\": 0, \"to\": 0, \"rate\": 16, \"progress\": "     \
	  "true}\n"

static void a_move_lets_others_in(void **state)
{
	uint64_t start = f.host.ops->now_ns(f.host.ctx);
	int mover = client(), fd = client();
	unsigned told = 0;
	json_t *doc;

	say(mover, SLOW_MOVE);
	doc = hear(mover);
	assert_non_null(json_object_get(doc, "progress")); /* it is under way */
	json_decref(doc);
	expect_ok(fd, V "\"command\": \"stats\"}");
	expect_ok(fd, V "\"command\": \"audit\"}");
	expect_error(fd, V "\"command\": \"move-memory\", \"node\": 0, \"to\": 0}", "busy",
		     "moved");
	expect_error(fd, V "\"command\": \"rebalance\"}", "busy", "moved");
	for (;;) {
		doc = hear(mover);
		if (!json_object_get(doc, "progress"))
			break;
		told++;
		json_decref(doc);
	}
	assert_true(is_ok(doc));
	assert_int_equal(json_integer_value(
				 json_object_get(json_object_get(doc, "result"), "bytes")),
			 MIB(16));
	json_decref(doc);
	assert_true(told > 0);
	/* The last of four stretches begins when three quarters of a second are over. */
	assert_true(f.host.ops->now_ns(f.host.ctx) - start >= 700 * NSEC_PER_MSEC);
	close(mover);
	close(fd);
}

/* The move goes on when its client does not; an end does not wait for it. */
static void a_move_outlives_its_client_but_not_the_machine(void **state)
{
	int mover = client(), fd = client();

	say(mover, SLOW_MOVE);
	json_decref(hear(mover));
	close(mover);
	expect_error(fd, V "\"command\": \"rebalance\"}", "busy", "moved");
	expect_ok(fd, V "\"command\": \"stop\"}");
	close(fd);
}

/* --- the end --------------------------------------------------------------------------- */

static void a_stop_ends_the_machine(void **state)
{
	struct vmm_result r;
	int fd = client();

	expect_ok(fd, V "\"command\": \"stop\"}");
	assert_int_equal(vmm_wait(f.vm, f.host.ops->now_ns(f.host.ctx) + 20 * NSEC_PER_SEC, &r), 0);
	assert_int_equal(r.end, VMM_STOPPED);
	expect_error(fd, V "\"command\": \"pause\"}", "refused", "ended");
	expect_ok(fd, V "\"command\": \"status\"}");
	control_stop(f.control);
	assert_int_equal(control_connect(f.dir, "test"), -ENOENT);
	control_free(f.control);
	f.control = NULL;
	assert_null(hear(fd));
	close(fd);
}

static void sockets_of_the_dead_are_replaced(void **state)
{
	struct control_socket s;
	char path[100];
	struct stat st;

	snprintf(path, sizeof(path), "%s/dead.sock", f.dir);
	assert_int_equal(control_listen(f.dir, "dead", &s), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	control_close(&s); /* as the kernel does */
	assert_int_equal(control_connect(f.dir, "dead"), -ECONNREFUSED);
	assert_int_equal(control_listen(f.dir, "dead", &s), 0);
	close(control_connect(f.dir, "dead"));
	control_unlink(&s);
	assert_int_equal(control_connect(f.dir, "dead"), -ENOENT);
	control_close(&s);
	control_unlink(&s);
	control_close(&s); /* both are legal */
	assert_int_equal(control_listen(f.dir, "../evil", &s), -EINVAL);
	assert_int_equal(control_connect(f.dir, "../evil"), -ENOENT);
	assert_true(control_listen("/nowhere", "x", &s) < 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(each_command_is_answered),
		TEST(ids_come_back),
		TEST(nonsense_is_refused),
		TEST(a_pause_stops_the_guest),
		TEST(vcpus_move_where_they_may),
		TEST(lines_come_in_pieces),
		TEST(lines_come_all_at_once),
		TEST(a_line_that_never_ends),
		TEST(who_sends_no_more_is_answered),
		TEST(a_client_that_does_not_read),
		TEST(more_clients_than_there_is_room_for),
		TEST(clients_that_vanish),
		TEST(a_move_lets_others_in),
		TEST(a_move_outlives_its_client_but_not_the_machine),
		TEST(a_stop_ends_the_machine),
		TEST(sockets_of_the_dead_are_replaced),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
