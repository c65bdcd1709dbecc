/*
 * test_host_linux.c - what else the Linux host does: entropy, topology, the log.
 */
#include "host_machine.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

static void entropy_differs(void **state)
{
	uint8_t a[300] = { 0 }, b[300] = { 0 };

	assert_int_equal(host.ops->entropy(host.ctx, a, sizeof(a)), 0);
	assert_int_equal(host.ops->entropy(host.ctx, b, sizeof(b)), 0);
	assert_memory_not_equal(a, b, sizeof(a));
	assert_memory_not_equal(a + 284, b + 284, 16);
}

static void this_host_has_a_topology(void **state)
{
	const struct linux_host *h = host.ctx;
	struct machine_model m;
	unsigned usable = 0;

	assert_int_equal(host.ops->topology(host.ctx, &m), 0);
	assert_true(m.nr_pus >= 1 && m.nr_nodes >= 1);
	for (unsigned i = 0; i < m.nr_pus; i++) {
		usable += m.pu[i].usable;
		assert_true(m.pu[i].core < m.nr_cores);
		assert_true(m.pu[i].llc < m.nr_llcs);
		assert_true(m.pu[i].package < m.nr_packages);
		if (m.pu[i].usable)
			assert_true(pu_set_has(&h->allowed, m.pu[i].os_index));
	}
	assert_int_equal(usable, pu_set_count(&h->allowed));
	assert_true(m.node[0].free_bytes && m.node[0].free_bytes <= m.node[0].memory_bytes);
	machine_free(&m);
}

static void described_machines_are_read(void **state)
{
	struct machine_model m;
	char why[256];

	assert_int_equal(host_linux_topology_from("pack:2 [numa(memory=8GB)] l3:1 core:3 pu:2", &m,
						  why, sizeof(why)),
			 0);
	assert_int_equal(m.nr_pus, 12);
	assert_int_equal(m.nr_cores, 6);
	assert_int_equal(m.nr_nodes, 2);
	assert_int_equal(m.nr_packages, 2);
	assert_int_equal(m.pu[1].core, 0);
	assert_int_equal(m.pu[1].smt, 1);
	assert_int_equal(m.pu[6].core, 3);
	assert_int_equal(m.pu[6].smt, 0);
	assert_int_equal(m.pu[6].node, 1);
	assert_int_equal(m.pu[6].package, 1);
	assert_int_equal(m.node[1].free_bytes, m.node[1].memory_bytes);
	assert_true(m.node[0].memory_bytes > GIB(7));
	machine_free(&m);

	assert_int_equal(host_linux_topology_from("nonsense", &m, why, sizeof(why)), -EINVAL);
	assert_non_null(strstr(why, "nonsense"));
	assert_int_equal(host_linux_topology_from("/no/such.xml", &m, why, sizeof(why)), -EINVAL);
	assert_non_null(strstr(why, "/no/such.xml"));
}

/* Standard error into a buffer while @fn logs. */
static void log_reaches_standard_error(void **state)
{
	int fd[2], saved = dup(STDERR_FILENO);
	char buf[2048] = "", *long_line;
	ssize_t n;

	assert_int_equal(pipe2(fd, O_CLOEXEC), 0);
	dup2(fd[1], STDERR_FILENO);
	host_log(&host, LOG_INFO, "answer %d", 42);
	host_log(&host, LOG_DEBUG, "not asked for");
	host_linux_log_level(&host, LOG_ERR);
	host_log(&host, LOG_WARN, "not asked for");
	host_log(&host, LOG_ERR, "%0600d", 1);
	dup2(saved, STDERR_FILENO);
	close(saved);
	close(fd[1]);
	n = read(fd[0], buf, sizeof(buf) - 1);
	close(fd[0]);
	assert_true(n > 0);
	assert_int_equal(strncmp(buf, "alcazar: answer 42\n", 19), 0);
	assert_null(strstr(buf, "not asked for"));
	long_line = buf + 19;
	assert_int_equal(long_line[strlen(long_line) - 1], '\n');
	assert_ptr_equal(strchr(long_line, '\n'), long_line + strlen(long_line) - 1);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(entropy_differs),
		TEST(this_host_has_a_topology),
		TEST(described_machines_are_read),
		TEST(log_reaches_standard_error),
	};

	alarm(120); /* a hang is a failure */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
