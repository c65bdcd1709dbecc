/*
 * main.c - the `alcazar` command: subcommands, version, help.
 */
#include "cmd.h"

#include "vmm.h"

#include <fcntl.h>
#include <stdio.h>

static const struct subcommand {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *help;
} subcommands[] = {
	{ "run", cmd_run, "boot a guest and stay with it until it ends" },
	{ "ps", cmd_ps, "show the machines that run, and what they have" },
	{ "stop", cmd_stop, "end a running machine" },
	{ "pause", cmd_pause, "stop its vCPUs and its clock" },
	{ "resume", cmd_resume, "let it run on" },
	{ "move", cmd_move, "move a vCPU or memory while the guest runs" },
	{ "rebalance", cmd_rebalance, "plan a running machine anew, and move it" },
	{ "audit", cmd_audit, "show where its threads and pages really are" },
	{ "stats", cmd_stats, "show its counters" },
	{ "topology", cmd_topology, "show the host: packages, nodes, caches, cores, PUs" },
	{ "doctor", cmd_doctor, "say what this host has for machines, and what is amiss" },
};

static void print_help(void)
{
	printf("Alcazar " VMM_VERSION ": a multicore, NUMA-aware virtual machine monitor.\n\n"
	       "usage: alcazar COMMAND [OPTION]...\n\ncommands:\n");
	for (size_t i = 0; i < ARRAY_SIZE(subcommands); i++)
		printf("  %-12s %s\n", subcommands[i].name, subcommands[i].help);
	printf("\n`alcazar COMMAND --help` lists its options; `alcazar --version` tells the "
	       "version.\n");
}

/*
 * Where the caller closed a standard stream, the next file we open would become it, and
 * be written to. What takes its place can be neither read nor written, as if closed.
 */
static void keep_standard_streams_apart(void)
{
	for (int fd = 0; fd < 3; fd++)
		if (fcntl(fd, F_GETFD) < 0)
			open("/", O_PATH | O_CLOEXEC);
}

int main(int argc, char **argv)
{
	const char *word = argc > 1 ? argv[1] : NULL;

	keep_standard_streams_apart();
	if (!word)
		return user_error("no command given: say `alcazar run`, or see `alcazar --help`");
	if (!strcmp(word, "--version") || !strcmp(word, "-V")) {
		printf("alcazar " VMM_VERSION "\n");
		return finish_output(STATUS_OK);
	}
	if (!strcmp(word, "--help") || !strcmp(word, "-h") || !strcmp(word, "help")) {
		print_help();
		return finish_output(STATUS_OK);
	}
	for (size_t i = 0; i < ARRAY_SIZE(subcommands); i++)
		if (!strcmp(word, subcommands[i].name))
			return subcommands[i].run(argc - 1, argv + 1);
	return user_error("%s: no such command: `alcazar --help` lists them", word);
}
