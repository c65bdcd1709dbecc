/* test_cmd_options.c - options, sizes and configuration files: one table, two sources. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/clock.h"
#include "host/linux/cmd/cmd.h"
#include "host/linux/cmd/run.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* --- standard error, caught ----------------------------------------------------- */

static struct {
	int saved, fd[2];
	char text[2048];
} caught;

static void catch_errors(void)
{
	assert_int_equal(pipe2(caught.fd, O_CLOEXEC), 0);
	caught.saved = dup(STDERR_FILENO);
	dup2(caught.fd[1], STDERR_FILENO);
}

static void release_errors(void)
{
	ssize_t n;

	dup2(caught.saved, STDERR_FILENO);
	close(caught.saved);
	close(caught.fd[1]);
	n = read(caught.fd[0], caught.text, sizeof(caught.text) - 1);
	caught.text[n > 0 ? n : 0] = '\0';
	close(caught.fd[0]);
}

/* --- a command line ---------------------------------------------------------------- */

static struct option_set set;
static struct run_options options;

static int run_options_of(const char *const *args)
{
	int argc = 1;
	char *argv[32] = { "run" };
	int status;

	for (; args[argc - 1]; argc++)
		argv[argc] = (char *)(uintptr_t)args[argc - 1];
	run_option_set(&set);
	catch_errors();
	status = run_options_get(&set, argc, argv, &options);
	release_errors();
	return status;
}

#define ARGS(...) run_options_of((const char *const[]){ __VA_ARGS__, NULL })

static int tear_down(void **state)
{
	options_free(&set);
	return 0;
}

/* A file under build/ or wherever the tests run; gone with its name. */
static const char *file_with(const char *text)
{
	static char path[64];
	int fd;

	snprintf(path, sizeof(path), "/tmp/alcazar-test-XXXXXX");
	fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
	return path;
}

/* --- sizes --------------------------------------------------------------------------- */

static void sizes_are_read(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {
		{ "0", 0 },         { "1K", KIB(1) },    { "512M", MIB(512) },
		{ "4G", GIB(4) },   { "2T", GIB(2048) }, { "3g", GIB(3) },
		{ "3GiB", GIB(3) }, { "3GB", GIB(3) },   { "16777215T", 16777215ull << 40 },
	};
	static const char *const bad[] = {
		"",     "G",   "1",  "-1G",  "+1G",       " 1G",   "1 G",
		"1.5G", "1Gx", "1P", "0x1G", "16777216T", "1GiBs", "1e3M"
	};
	uint64_t n;

	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		assert_null(size_parse(good[i].text, &n));
		assert_int_equal(n, good[i].bytes);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_non_null(size_parse(bad[i], &n));
}

static void sizes_are_written(void **state)
{
	static const struct {
		uint64_t bytes;
		const char *text;
	} want[] = {
		{ 0, "0B" },
		{ 1023, "1023B" },
		{ KIB(1), "1K" },
		{ MIB(512), "512M" },
		{ MIB(1536), "1.5G" },
		{ GIB(1) - 1, "1023.9M" },
		{ UINT64_MAX, "15.9E" },
	};
	char buf[SIZE_TEXT];

	for (size_t i = 0; i < ARRAY_SIZE(want); i++)
		assert_string_equal(size_text(want[i].bytes, buf), want[i].text);
}

/* --- flags --------------------------------------------------------------------------- */

static void nothing_gives_defaults(void **state)
{
	assert_int_equal(run_options_of((const char *const[]){ NULL }), 0);
	assert_int_equal(options.cpus, 1);
	assert_int_equal(options.nodes, 0); /* the planner cuts */
	assert_int_equal(options.memory, GIB(1));
	assert_string_equal(options.console, "stdio");
	assert_string_equal(options.append, "");
	assert_true(options.reboot);
	assert_false(options.quiet || options.stats || options.json || options.dry_run);
	assert_null(options.kernel);
}

static void flags_are_read(void **state)
{
	assert_int_equal(ARGS("--kernel", "k", "--append=a=b --c", "--cpus", "17", "--memory=3G",
			      "--nodes", "2", "--engine", "interp", "--clock", "icount", "--cpu",
			      "+a,-b", "--cpu", "+c", "--no-reboot", "--quiet", "--timeout", "60",
			      "--gdb", "1234", "--stats", "--no-stats"),
			 0);
	assert_string_equal(options.kernel, "k");
	assert_string_equal(options.append, "a=b --c");
	assert_int_equal(options.cpus, 17);
	assert_int_equal(options.memory, GIB(3));
	assert_int_equal(options.nodes, 2);
	assert_int_equal(options.engine, ENGINE_INTERP);
	assert_int_equal(options.clock, CLOCK_ICOUNT);
	assert_string_equal(options.cpu, "+a,-b,+c");
	assert_false(options.reboot);
	assert_true(options.quiet);
	assert_int_equal(options.timeout_s, 60);
	assert_int_equal(options.gdb_port, 1234);
	assert_false(options.stats);
}

static void the_last_flag_counts(void **state)
{
	assert_int_equal(ARGS("--cpus", "2", "--cpus", "5"), 0);
	assert_int_equal(options.cpus, 5);
}

static void bad_flags_are_named(void **state)
{
	assert_int_equal(ARGS("--cpus"), STATUS_USER);
	assert_non_null(strstr(caught.text, "--cpus needs a value"));
	assert_int_equal(ARGS("--no-cpus"), STATUS_USER);
	assert_non_null(strstr(caught.text, "--no-cpus: no such option"));
	assert_int_equal(ARGS("--"), STATUS_USER);
	assert_int_equal(ARGS("--name", "two\nlines\033[1m"), STATUS_USER);
	assert_ptr_equal(strchr(caught.text, '\n'), caught.text + strlen(caught.text) - 1);
	assert_null(strchr(caught.text, '\033'));
}

/* --- configuration files --------------------------------------------------------------- */

static void files_are_read_and_flags_override(void **state)
{
	const char *path = file_with("# a guest\n"
				     "kernel: /boot/vmlinuz\n"
				     "append: \"console=ttyS0 quiet\"\n"
				     "cpus: 8\n"
				     "memory: 2G\n"
				     "cpu:\n  - +aes\n  - -pcid\n"
				     "reboot: no\n"
				     "stats: true\n");

	assert_int_equal(ARGS("--cpus", "2", "--config", path, "--no-stats"), 0);
	unlink(path);
	assert_string_equal(options.kernel, "/boot/vmlinuz");
	assert_string_equal(options.append, "console=ttyS0 quiet");
	assert_int_equal(options.cpus, 2);
	assert_int_equal(options.memory, GIB(2));
	assert_string_equal(options.cpu, "+aes,-pcid");
	assert_false(options.reboot);
	assert_false(options.stats);
}

static void a_flag_replaces_a_whole_list(void **state)
{
	const char *path = file_with("cpu: [+aes, -pcid]\n");

	assert_int_equal(ARGS("--config", path, "--cpu", "+avx"), 0);
	unlink(path);
	assert_string_equal(options.cpu, "+avx");
}

static void mistakes_name_file_and_line(void **state)
{
	static const struct {
		const char *text, *complaint;
	} bad[] = {
		{ "cpus: 1\nram: 1G\n", ":2: ram: no such key" },
		{ "cpus: 1\n\ncpus: 2\n", ":3: cpus: is there already, on line 1" },
		{ "\n\nmemory: lots\n", ":3: memory lots: a size" },
		{ "cpus:\n  - 1\n", ":2: cpus: one value" },
		{ "cpu: {a: b}\n", ":1: cpu: a list" },
		{ "cpu:\n  - +a\n  - [b]\n", ":3: cpu: a list" },
		{ "config: other.yaml\n", ":1: config: works as a flag only" },
		{ "? [a, b]\n: c\n", "a key must be the name" },
		{ "- cpus\n", ":1: `key: value` lines" },
		{ "cpus\n", ":1: `key: value` lines" },
		{ "cpus: \"1\n", "found unexpected end of stream" },
		{ "a: b: c\n", ":1: " },
		{ "\t\n", ":" },
		{ "# nothing\n", "is empty" },
		{ "cpus: *x\n", "undefined alias" },
		{ "append: &x a\nkernel: *x\n", "" }, /* aliases are not for configurations */
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		const char *path = file_with(bad[i].text);

		assert_int_equal(ARGS("--config", path), STATUS_USER);
		unlink(path);
		if (!strstr(caught.text, bad[i].complaint) || !strstr(caught.text, path))
			fail_msg("%zu: %s", i, caught.text);
		options_free(&set);
	}
}

/* Any bytes: an answer or a refusal, and nothing else. */
static void random_files_do_no_harm(void **state)
{
	static const char pieces[][12] = { "cpus", ": ", "\n", "- ",  "[",  "]", "{", "}", "memory",
					   "1G",   "4",  "&a", "*a",  "\"", "'", "|", ">", "\xff",
					   "!!",   "? ", "  ", "cpu", "#",  ",", "%" };
	unsigned seed = 1;

	for (unsigned round = 0; round < 2000; round++) {
		char text[256] = "";
		const char *path;
		int status;

		for (unsigned i = 0; i < 16; i++) {
			seed = seed * 1103515245 + 12345;
			strcat(text, pieces[(seed >> 16) % ARRAY_SIZE(pieces)]);
		}
		path = file_with(text);
		status = ARGS("--config", path);
		unlink(path);
		assert_true(status == 0 || status == STATUS_USER);
		options_free(&set);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes_are_read),
		cmocka_unit_test(sizes_are_written),
		cmocka_unit_test_teardown(nothing_gives_defaults, tear_down),
		cmocka_unit_test_teardown(flags_are_read, tear_down),
		cmocka_unit_test_teardown(the_last_flag_counts, tear_down),
		cmocka_unit_test_teardown(bad_flags_are_named, tear_down),
		cmocka_unit_test_teardown(files_are_read_and_flags_override, tear_down),
		cmocka_unit_test_teardown(a_flag_replaces_a_whole_list, tear_down),
		cmocka_unit_test_teardown(mistakes_name_file_and_line, tear_down),
		cmocka_unit_test_teardown(random_files_do_no_harm, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
