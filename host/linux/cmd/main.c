/*
 * main.c - the `alcazar` command: subcommands, version, help, and the words in which
 * all of them complain.
 */
#include "cmd.h"

#include "vmm.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

static const struct subcommand {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *help;
} subcommands[] = {
	{ "run", cmd_run, "boot a guest and stay with it until it ends" },
	{ "topology", cmd_topology, "show the host: packages, nodes, caches, cores, PUs" },
};

static void complain(const char *fmt, va_list ap)
{
	char line[1024];

	vsnprintf(line, sizeof(line), fmt, ap);
	for (char *p = line; *p; p++)
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			*p = '?'; /* names come from outside: one line, no escape codes */
	fprintf(stderr, "alcazar: %s\n", line);
}

int user_error(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	complain(fmt, ap);
	va_end(ap);
	return STATUS_USER;
}

int internal_error(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	complain(fmt, ap);
	va_end(ap);
	return STATUS_INTERNAL;
}

int finish_output(int status)
{
	if (!fflush(stdout) && !ferror(stdout))
		return status;
	user_error("standard output: %s", strerror(errno));
	return status ? status : STATUS_USER;
}

const char *size_text(uint64_t bytes, char buf[SIZE_TEXT])
{
	static const char unit[] = "BKMGTPE";
	unsigned u = 0, tenths;

	while (u < sizeof(unit) - 2 && bytes >> (10 * (u + 1)))
		u++;
	tenths = u ? (unsigned)(((bytes >> (10 * (u - 1))) & 1023) * 10 / 1024) : 0;
	if (tenths)
		snprintf(buf, SIZE_TEXT, "%llu.%u%c", (unsigned long long)(bytes >> (10 * u)),
			 tenths, unit[u]);
	else
		snprintf(buf, SIZE_TEXT, "%llu%c", (unsigned long long)(bytes >> (10 * u)),
			 unit[u]);
	return buf;
}

static void print_help(void)
{
	printf("Alcazar " VMM_VERSION ": a multicore, NUMA-aware virtual machine monitor.\n\n"
	       "usage: alcazar COMMAND [OPTION]...\n\ncommands:\n");
	for (size_t i = 0; i < ARRAY_SIZE(subcommands); i++)
		printf("  %-12s %s\n", subcommands[i].name, subcommands[i].help);
	printf("\n`alcazar COMMAND --help` lists its options; `alcazar --version` tells the "
	       "version.\n");
}

int main(int argc, char **argv)
{
	const char *word = argc > 1 ? argv[1] : NULL;

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
