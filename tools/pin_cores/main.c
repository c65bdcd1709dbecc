/*
 * main.c - the `pin_cores` command: subcommands, version, help.
 */
#include "pin_cores.h"

#include "host/linux/cmd/cmd.h"
#include "vmm.h"

static const struct subcommand {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *help;
} subcommands[] = {
	{ "show", cmd_show, "the host and the machines on it, as a tree, a picture or JSON" },
	{ "plan", cmd_plan, "where something would run" },
	{ "explain", cmd_explain, "the same, with what it costs and what was rejected" },
	{ "apply", cmd_apply, "bind the threads of a machine or program, move its memory" },
	{ "verify", cmd_verify, "are threads and memory where they were planned?" },
	{ "run", cmd_launch, "a command whose threads are bound as they appear" },
	{ "watch", cmd_watch, "threads, live: PUs, migrations, load, locality" },
};

static void print_help(void)
{
	printf("pin_cores " VMM_VERSION ": where machines and programs run, and where they should."
	       "\n\nusage: pin_cores COMMAND [OPTION]...\n\ncommands:\n");
	for (size_t i = 0; i < ARRAY_SIZE(subcommands); i++)
		printf("  %-12s %s\n", subcommands[i].name, subcommands[i].help);
	printf("\n`pin_cores COMMAND --help` lists its options; pin_cores(1) tells the rest.\n");
}

int main(int argc, char **argv)
{
	const char *word = argc > 1 ? argv[1] : NULL;

	program_name = "pin_cores";
	if (!word)
		return user_error("no command given: say `pin_cores show`, or see "
				  "`pin_cores --help`");
	if (!strcmp(word, "--version") || !strcmp(word, "-V")) {
		printf("pin_cores " VMM_VERSION "\n");
		return finish_output(0);
	}
	if (!strcmp(word, "--help") || !strcmp(word, "-h") || !strcmp(word, "help")) {
		print_help();
		return finish_output(0);
	}
	for (size_t i = 0; i < ARRAY_SIZE(subcommands); i++)
		if (!strcmp(word, subcommands[i].name))
			return subcommands[i].run(argc - 1, argv + 1);
	return user_error("%s: no such command: `pin_cores --help` lists them", word);
}
