/* pu_list.c - see pu_list.h. */
#include "pu_list.h"

#include <ctype.h>
#include <stdio.h>

/* Advances *p; false: no number here, or one that no set holds. */
static bool take_number(const char **p, unsigned *out)
{
	const char *s = *p;
	unsigned n = 0;

	if (!isdigit((unsigned char)*s))
		return false;
	for (; isdigit((unsigned char)*s); s++) {
		n = n * 10 + (unsigned)(*s - '0');
		if (n >= PU_SET_MAX)
			return false;
	}
	*p = s;
	*out = n;
	return true;
}

bool pu_list_parse(const char *text, struct pu_set *out)
{
	const char *p = text;
	unsigned first, last;

	pu_set_clear(out);
	while (*p) {
		if (p != text && *p++ != ',')
			return false;
		if (!take_number(&p, &first))
			return false;
		last = first;
		if (*p == '-') {
			p++;
			if (!take_number(&p, &last) || last < first)
				return false;
		}
		for (unsigned pu = first; pu <= last; pu++)
			pu_set_add(out, pu);
	}
	return true;
}

/* The end of the run of members that begins at @first. */
static unsigned run_end(const struct pu_set *s, unsigned first)
{
	while (pu_set_has(s, first + 1))
		first++;
	return first;
}

const char *pu_list_text(const struct pu_set *s, char *buf, size_t bytes)
{
	static const char more[] = "...";
	size_t at = 0;

	snprintf(buf, bytes, "%s", "none");
	for (unsigned pu = pu_set_next(s, 0); pu < PU_SET_MAX; pu = pu_set_next(s, pu + 1)) {
		unsigned last = run_end(s, pu);
		char run[24];
		int n = snprintf(run, sizeof(run), last > pu ? "%s%u-%u" : "%s%u", at ? "," : "",
				 pu, last);

		if (at + (size_t)n + sizeof(more) > bytes) {
			snprintf(buf + at, bytes - at, "%s", more);
			break;
		}
		memcpy(buf + at, run, (size_t)n + 1);
		at += (size_t)n;
		pu = last;
	}
	return buf;
}
