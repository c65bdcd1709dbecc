/* tree.c - see tree.h. */
#include "tree.h"

#include <langinfo.h>
#include <locale.h>
#include <stdarg.h>

struct tree tree_on(FILE *out)
{
	setlocale(LC_CTYPE, "");
	return (struct tree){ .out = out, .utf8 = !strcmp(nl_langinfo(CODESET), "UTF-8") };
}

void tree_line(struct tree *t, unsigned depth, bool last, const char *fmt, ...)
{
	va_list ap;

	if (depth < TREE_DEPTH_MAX)
		t->closed[depth] = last;
	for (unsigned d = 1; d < depth && d < TREE_DEPTH_MAX; d++)
		fputs(t->closed[d] ? "   " : t->utf8 ? "│  " : "|  ", t->out);
	if (depth && last)
		fputs(t->utf8 ? "└─ " : "`- ", t->out);
	else if (depth)
		fputs(t->utf8 ? "├─ " : "|- ", t->out);
	va_start(ap, fmt);
	vfprintf(t->out, fmt, ap);
	va_end(ap);
	fputc('\n', t->out);
}
