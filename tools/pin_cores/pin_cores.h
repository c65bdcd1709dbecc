/*
 * pin_cores.h - the `pin_cores` command: what its files share.
 *
 * One file a subcommand; main.c has the table. How errors are told, options and the
 * reports of plans are those of the `alcazar` command (host/linux/cmd).
 */
#ifndef TOOLS_PIN_CORES_PIN_CORES_H
#define TOOLS_PIN_CORES_PIN_CORES_H

#include "host/linux/cmd/run.h"
#include "scene.h"

#include <stdio.h>

/* What the options of all subcommands are read into; each has a table of those it takes. */
struct pin_options {
	struct run_options run; /* the planner's words; first, for the tables' offsets */
	unsigned pid, interval_ms, memory_policy, local;
	const char *svg, *plan_file;
	bool load, move_memory, once, hints;
	bool program; /* not a machine: nothing does I/O for it */
};

#define PIN_OFFSET(field) offsetof(struct pin_options, field)

extern const char *const pin_policies[]; /* names of enum plan_policy, NULL-terminated */

/* clang-format off */
#define PIN_OPTION_TOPOLOGY                                                                    \
	{ "topology", "WHICH", OPT_TEXT, PIN_OFFSET(run.topology),                             \
	  .help = "another machine: an hwloc XML file or \"node:2 core:4 pu:2\"" }
#define PIN_OPTION_SVG                                                                         \
	{ "svg", "FILE", OPT_TEXT, PIN_OFFSET(svg),                                            \
	  .help = "paint a picture instead" }
#define PIN_OPTION_JSON                                                                        \
	{ "json", NULL, OPT_SWITCH, PIN_OFFSET(run.json), .help = "as a JSON document" }
#define PIN_OPTION_HELP                                                                        \
	{ "help", NULL, OPT_SWITCH, PIN_OFFSET(run.help), .help = "this list" }
#define PIN_OPTION_PID                                                                         \
	{ "pid", "PID", OPT_NUMBER, PIN_OFFSET(pid), .min = 1, .max = INT32_MAX,               \
	  .help = "a process: another VMM's machine, or any program" }
/* How to place, whatever is placed. */
#define PIN_OPTIONS_PLACING                                                                    \
	{ "policy", "POLICY", OPT_CHOICE, PIN_OFFSET(run.policy), .choices = pin_policies,     \
	  .help = "balanced, compact, spread or isolate (balanced)" },                         \
	{ "nodes", "N", OPT_NUMBER, PIN_OFFSET(run.nodes), .min = 1, .max = PLAN_NODES_MAX,    \
	  .help = "spread memory over N homes, and what runs beside it" },                     \
	{ "pin", "WHO:WHERE", OPT_LIST, PIN_OFFSET(run.pin),                                   \
	  .help = "0-7:node0, 8:core3, 9:4-7, 10:0xf0; repeated or joined by commas" },        \
	{ "exclusive", NULL, OPT_SWITCH, PIN_OFFSET(run.exclusive),                            \
	  .help = "refuse rather than share a PU" },                                           \
	{ "foreign", NULL, OPT_SWITCH, PIN_OFFSET(run.foreign),                                \
	  .help = "no: do not look for machines of other VMMs" }
/* clang-format on */

/*
 * Reads the flags of a subcommand; with --help they are listed, and *help is set.
 * 0 or an exit status.
 */
int pin_options_get(struct option_set *set, int argc, char **argv, struct pin_options *o);

/* A machine's name before the flags, taken off the arguments; NULL: there is none. */
const char *pin_take_name(int *argc, char ***argv);

int cmd_show(int argc, char **argv);
int cmd_plan(int argc, char **argv);
int cmd_explain(int argc, char **argv);
int cmd_apply(int argc, char **argv);
int cmd_verify(int argc, char **argv);
int cmd_launch(int argc, char **argv);
int cmd_watch(int argc, char **argv);

/*
 * The host at hand, or that of --topology, into @s; @live: with those who run there,
 * unless another machine was named. 0 or an exit status.
 */
int pin_scene(const struct pin_options *o, struct scene *s);
/* Writes the picture to --svg; "-" is standard output. An exit status. */
int pin_paint(const struct pin_options *o, struct scene *s);

#endif
