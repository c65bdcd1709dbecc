/* begin.c - what all subcommands begin and end with: options, the machine, the picture's file. */
#include "host/linux/cmd/cmd.h"
#include "host/linux/cmd/placement.h"
#include "host/linux/host_linux.h"
#include "picture.h"
#include "pin_cores.h"

#include <errno.h>

const char *const pin_policies[] = { "balanced", "compact", "spread", "isolate", NULL };

int pin_options_get(struct option_set *set, int argc, char **argv, struct pin_options *o)
{
	int status;

	o->run.foreign = true;
	o->run.dry_run = true; /* nothing here starts a machine: --topology is always welcome */
	options_take(set, argc, argv, o, &o->run.help, &status);
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
	if (!status && o->run.topology && !strstr(o->run.topology, ".xml"))
		snprintf(s->m.name, sizeof(s->m.name), "%s", o->run.topology);
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
