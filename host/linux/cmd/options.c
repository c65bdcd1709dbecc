/* options.c - see options.h. Nothing here knows any particular option. */
#include "options.h"

#include "cmd.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

int options_find(const struct option_set *s, const char *name)
{
	for (unsigned i = 0; i < s->nr; i++)
		if (!strcmp(s->table[i].name, name))
			return (int)i;
	return -1;
}

int options_add(struct option_set *s, unsigned index, const char *label, const char *text,
		bool is_flag)
{
	struct option_text *t = &s->given[index];
	bool record = s->table[index].kind == OPT_RECORD;
	bool append =
		t->text && (record || s->table[index].kind == OPT_LIST) && t->is_flag == is_flag;
	char *joined = NULL, *new_label;

	if (t->text && t->is_flag && !is_flag)
		return 0; /* the flag has the last word */
	if (append) {
		if (asprintf(&joined, "%s%c%s", t->text, record ? ';' : ',', text) < 0)
			joined = NULL;
	} else {
		joined = strdup(text);
	}
	new_label = strdup(label);
	if (!joined || !new_label) {
		free(joined);
		free(new_label);
		return internal_error("out of memory");
	}
	free(t->text);
	free(t->label);
	*t = (struct option_text){ .label = new_label, .text = joined, .is_flag = is_flag };
	return 0;
}

void options_free(struct option_set *s)
{
	for (unsigned i = 0; i < s->nr; i++) {
		free(s->given[i].label);
		free(s->given[i].text);
		s->given[i] = (struct option_text){ 0 };
	}
}

/* --- flags ------------------------------------------------------------------------ */

/* "--name" without its value; @negated: it was "--no-name". */
static int find_flag(const struct option_set *s, const char *name, bool *negated)
{
	int i = options_find(s, name);

	*negated = false;
	if (i >= 0 || strncmp(name, "no-", 3) != 0)
		return i;
	i = options_find(s, name + 3);
	if (i < 0 || s->table[i].kind != OPT_SWITCH)
		return -1;
	*negated = true;
	return i;
}

static int unknown_flag(const struct option_set *s, const char *arg)
{
	return user_error("%s: no such option: `%s %s --help` lists them", arg, program_name,
			  s->command);
}

/* One flag at argv[*at], which moves past its value. */
static int take_flag(struct option_set *s, int argc, char **argv, int *at)
{
	const char *arg = argv[*at], *equals = strchr(arg, '='), *value;
	size_t len = equals ? (size_t)(equals - arg) : strlen(arg);
	char label[64];
	bool negated;
	int i;

	if (strncmp(arg, "--", 2) != 0 || len < 3 || len >= sizeof(label))
		return unknown_flag(s, arg);
	memcpy(label, arg, len);
	label[len] = '\0';
	i = find_flag(s, label + 2, &negated);
	if (i < 0)
		return unknown_flag(s, label);

	if (s->table[i].kind == OPT_SWITCH) {
		if (equals)
			return user_error("%s takes no value: say %s or leave it out", label,
					  label);
		value = negated ? "false" : "true";
	} else if (equals) {
		value = equals + 1;
	} else if (*at + 1 < argc) {
		value = argv[++*at];
	} else {
		return user_error("%s needs a value: %s %s", label, label, s->table[i].arg);
	}
	return options_add(s, (unsigned)i, label, value, true);
}

int options_from_args(struct option_set *s, int argc, char **argv)
{
	for (int at = 1; at < argc; at++) {
		int status = take_flag(s, argc, argv, &at);

		if (status)
			return status;
	}
	return 0;
}

/* --- values ----------------------------------------------------------------------- */

static bool parse_u64(const char *text, uint64_t *out, const char **rest)
{
	char *end;

	if (*text < '0' || *text > '9')
		return false; /* strtoull would take signs and blanks */
	errno = 0;
	*out = strtoull(text, &end, 10);
	*rest = end;
	return !errno;
}

const char *size_parse(const char *text, uint64_t *out)
{
	static const char units[] = "KMGT";
	static const char help[] = "a size is a whole number and a unit: 512M, 4G";
	const char *rest, *unit;
	unsigned shift;
	uint64_t n;

	if (!parse_u64(text, &n, &rest))
		return help;
	if (!n && !*rest) {
		*out = 0;
		return NULL;
	}
	unit = *rest ? strchr(units, *rest >= 'a' ? *rest - 'a' + 'A' : *rest) : NULL;
	if (!unit || (rest[1] && strcmp(rest + 1, "iB") != 0 && strcmp(rest + 1, "B") != 0))
		return help;
	shift = 10 * (unsigned)(unit - units + 1);
	if (n > UINT64_MAX >> shift)
		return "too big for any machine";
	*out = n << shift;
	return NULL;
}

static int bad_value(const struct option_text *t, const char *why)
{
	return user_error("%s %s: %s", t->label, t->text, why);
}

static int apply_switch(const struct option_text *t, bool *out)
{
	if (!strcmp(t->text, "true") || !strcmp(t->text, "yes") || !strcmp(t->text, "on"))
		*out = true;
	else if (!strcmp(t->text, "false") || !strcmp(t->text, "no") || !strcmp(t->text, "off"))
		*out = false;
	else
		return bad_value(t, "say true or false");
	return 0;
}

static int apply_number(const struct option *o, const struct option_text *t, unsigned *out)
{
	const char *rest;
	char why[80];
	uint64_t n;

	if (parse_u64(t->text, &n, &rest) && !*rest && n >= o->min && n <= o->max) {
		*out = (unsigned)n;
		return 0;
	}
	snprintf(why, sizeof(why), "a whole number from %llu to %llu is needed",
		 (unsigned long long)o->min, (unsigned long long)o->max);
	return bad_value(t, why);
}

static int apply_size(const struct option *o, const struct option_text *t, uint64_t *out)
{
	const char *complaint = size_parse(t->text, out);
	char why[80], lo[SIZE_TEXT], hi[SIZE_TEXT];

	if (complaint)
		return bad_value(t, complaint);
	if (*out >= o->min && *out <= o->max)
		return 0;
	snprintf(why, sizeof(why), "a size from %s to %s is needed", size_text(o->min, lo),
		 size_text(o->max, hi));
	return bad_value(t, why);
}

static int apply_choice(const struct option *o, const struct option_text *t, unsigned *out)
{
	char why[128] = "choose one of";

	for (unsigned i = 0; o->choices[i]; i++) {
		if (!strcmp(t->text, o->choices[i])) {
			*out = i;
			return 0;
		}
		strncat(why, i ? ", " : " ", sizeof(why) - strlen(why) - 1);
		strncat(why, o->choices[i], sizeof(why) - strlen(why) - 1);
	}
	return bad_value(t, why);
}

int options_apply(struct option_set *s, void *out)
{
	for (unsigned i = 0; i < s->nr; i++) {
		const struct option *o = &s->table[i];
		const struct option_text *t = &s->given[i];
		void *value = (char *)out + o->offset;
		int status = 0;

		if (!t->text)
			continue;
		switch (o->kind) {
		case OPT_SWITCH:
			status = apply_switch(t, value);
			break;
		case OPT_TEXT:
		case OPT_LIST:
		case OPT_RECORD:
			*(const char **)value = t->text;
			break;
		case OPT_NUMBER:
			status = apply_number(o, t, value);
			break;
		case OPT_SIZE:
			status = apply_size(o, t, value);
			break;
		case OPT_CHOICE:
			status = apply_choice(o, t, value);
			break;
		}
		if (status)
			return status;
	}
	return 0;
}

/* --- words ------------------------------------------------------------------------ */

const char *options_label(const struct option_set *s, const char *name, char *buf, size_t bytes)
{
	int i = options_find(s, name);
	const struct option_text *t = i < 0 ? NULL : &s->given[i];

	if (t && t->text)
		snprintf(buf, bytes, "%s %s", t->label, t->text);
	else
		snprintf(buf, bytes, "--%s (not given)", name);
	return buf;
}

void options_help(const struct option_set *s)
{
	printf("usage: %s %s [OPTION]...\n\n%s\n\noptions:\n", program_name, s->command,
	       s->summary);
	for (unsigned i = 0; i < s->nr; i++) {
		const struct option *o = &s->table[i];
		bool negative = !strncmp(o->help, "no: ", 4);
		char flag[80];

		snprintf(flag, sizeof(flag), "--%s%s%s%s", negative ? "no-" : "", o->name,
			 o->arg ? " " : "", o->arg ? o->arg : "");
		printf("  %-28s%s%s\n", flag,
		       strlen(flag) > 27 ? "\n                              " : "",
		       o->help + (negative ? 4 : 0));
	}
}

bool options_take(struct option_set *s, int argc, char **argv, void *out, const bool *help,
		  int *status)
{
	*status = options_from_args(s, argc, argv);
	if (!*status)
		*status = options_apply(s, out);
	if (*status || !*help)
		return !*status;
	options_help(s);
	*status = finish_output(0);
	return false;
}
