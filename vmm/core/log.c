/* log.c - lines for people, formatted before they reach the host. */
#include "core/host.h"

#include <stdarg.h>
#include <stdio.h>

#define LINE_BYTES 512

void host_log(const struct host *h, enum log_level level, const char *fmt, ...)
{
	char line[LINE_BYTES];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	h->ops->log(h->ctx, level, line);
}
