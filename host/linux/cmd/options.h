/*
 * options.h - options of a subcommand: one table serves flags, --help and the keys
 * of the configuration file.
 *
 * Both sources leave texts behind, with a label that says where each came from;
 * then options_apply() converts and checks them all in one place. Flags override
 * keys. A switch `--x` also has `--no-x`.
 */
#ifndef HOST_LINUX_CMD_OPTIONS_H
#define HOST_LINUX_CMD_OPTIONS_H

#include "core/util.h"

enum option_kind {
	OPT_SWITCH, /* bool */
	OPT_TEXT,   /* const char * */
	OPT_LIST,   /* const char *: items joined by commas; repeats append */
	OPT_RECORD, /* const char *: "word=value,..."; repeats are joined by semicolons */
	OPT_NUMBER, /* unsigned, min..max */
	OPT_SIZE,   /* uint64_t bytes, min..max */
	OPT_CHOICE  /* unsigned: index into choices */
};

struct option {
	const char *name; /* the long flag, and the key */
	const char *arg;  /* what help calls the argument; NULL for a switch */
	enum option_kind kind;
	size_t offset; /* of the value in the command's struct */
	uint64_t min, max;
	const char *const *choices; /* NULL-terminated; of a record: its words */
	const char *plural;         /* of a record: another name for the key of a list of them */
	bool flag_only;             /* no key in the configuration file */
	const char *help;           /* names the flag as --no-x if it starts with "no: " */
};

struct option_text {
	char *label; /* "--cpus" or "guest.yaml:3: cpus"; NULL: not given */
	char *text;
	bool is_flag;
};

#define OPTIONS_MAX 40

struct option_set {
	const char *command;
	const char *summary;
	const struct option *table;
	unsigned nr;
	struct option_text given[OPTIONS_MAX];
};

/* All return 0, or an exit status after they have told the user why. */
int options_from_args(struct option_set *s, int argc, char **argv);
/* One key of a configuration file. */
int options_add(struct option_set *s, unsigned index, const char *label, const char *text,
		bool is_flag);
/* Converts what was given into *@out; what was not given stays as it is. */
int options_apply(struct option_set *s, void *out);

/*
 * Both, as a command begins: what its arguments say, into *@out; or its help, if *@help, which
 * is in there, says so. True: it goes on; false: it is over, with *@status.
 */
bool options_take(struct option_set *s, int argc, char **argv, void *out, const bool *help,
		  int *status);

/* The index of @name, or -1. */
int options_find(const struct option_set *s, const char *name);
/* "--cpus 5000", for complaints about values that were fine so far. */
const char *options_label(const struct option_set *s, const char *name, char *buf, size_t bytes);
void options_help(const struct option_set *s);
void options_free(struct option_set *s);

/* "512M" to bytes; NULL or what is wrong. */
const char *size_parse(const char *text, uint64_t *out);

#endif
