/* words.c - how subcommands and tools complain, finish their output and write sizes. */
#include "cmd.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

const char *program_name = "alcazar";

void say_error(const char *fmt, ...)
{
	char line[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	for (char *p = line; *p; p++)
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			*p = '?'; /* names come from outside: one line, no escape codes */
	fprintf(stderr, "%s: %s\n", program_name, line);
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
