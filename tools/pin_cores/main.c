/*
 * main.c - the `pin_cores` command: subcommands, help, and what all of them begin with.
 */
#include "pin_cores.h"

#include "host/linux/cmd/cmd.h"
#include "host/linux/cmd/placement.h"
#include "host/linux/host_linux.h"
#include "picture.h"
#include "vmm.h"

#include <errno.h>

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

const char *const pin_policies[] = { "balanced", "compact", "spread", "isolate", NULL };

int pin_options_get(struct option_set *set, int argc, char **argv, struct pin_options *o)
{
	int status = options_from_args(set, argc, argv);

	o->run.foreign = true;
	o->run.dry_run = true; /* nothing here starts a machine: --topology is always welcome */
	if (!status)
		status = options_apply(set, o);
	if (!status && o->run.help) {
		options_help(set);
		status = finish_output(0);
	}
	return status;
}

const char *pin_take_name(int *argc, char ***argv)
{
	const char *name;

	if (*argc < 2 || (*argv)[1][0] == '-')
		return NULL;
	name = (*argv)[1];
	--*argc;
	++*argv; /* the name is now what a command's own name is to its options: not looked at */
	return name;
}

int pin_scene(const struct pin_options *o, struct scene *s)
{
	struct host host = { 0 };
	int status, err = host_linux_create(&host);

	if (err)
		return internal_error("cannot use this host: %s", strerror(-err));
	status = placement_machine(&o->run, &host, &s->m);
	host_linux_destroy(&host);
	return status;
}

int pin_paint(const struct pin_options *o, struct scene *s)
{
	bool to_stdout = !strcmp(o->svg, "-");
	FILE *out = to_stdout ? stdout : fopen(o->svg, "we");
	bool failed;
	int err;

	if (!out)
		return user_error("--svg %s: cannot be written: %s", o->svg, strerror(errno));
	err = picture_draw(out, s);
	if (err)
		internal_error("--svg %s: %s", o->svg, strerror(-err));
	if (to_stdout)
		return err ? STATUS_INTERNAL : finish_output(0);
	failed = ferror(out);
	failed = fclose(out) || failed;
	if (err)
		return STATUS_INTERNAL;
	return failed ? user_error("--svg %s: cannot be written", o->svg) : 0;
}

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
