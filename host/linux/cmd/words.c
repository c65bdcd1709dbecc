/* words.c - how subcommands and tools complain, finish their output and write sizes. */
#include "cmd.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

const char *program_name = "alcazar";

static void complain(const char *fmt, va_list ap)
{
	char line[1024];

	vsnprintf(line, sizeof(line), fmt, ap);
	for (char *p = line; *p; p++)
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			*p = '?'; /* names come from outside: one line, no escape codes */
	fprintf(stderr, "%s: %s\n", program_name, line);
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
