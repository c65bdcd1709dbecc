/* gdb_packet.c - see gdb_packet.h. */
#include "gdb_packet.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>

#define CTRL_C 3

void gdb_link_init(struct gdb_link *l, int fd)
{
	*l = (struct gdb_link){ .fd = fd };
}

/* --- in --------------------------------------------------------------------------- */

bool gdb_link_receive(struct gdb_link *l)
{
	ssize_t n;

	if (l->in_bytes == sizeof(l->in))
		return false; /* no packet may be that long */
	n = recv(l->fd, l->in + l->in_bytes, sizeof(l->in) - l->in_bytes, MSG_DONTWAIT);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	l->in_bytes += (size_t)n;
	return n > 0;
}

static void drop(struct gdb_link *l, size_t bytes)
{
	l->in_bytes -= bytes;
	memmove(l->in, l->in + bytes, l->in_bytes);
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

static uint8_t checksum(const char *data, size_t bytes)
{
	uint8_t sum = 0;

	while (bytes--)
		sum = (uint8_t)(sum + (uint8_t)*data++);
	return sum;
}

static bool acknowledge(struct gdb_link *l, char mark)
{
	return l->no_ack || send(l->fd, &mark, 1, MSG_NOSIGNAL) == 1;
}

/* l->in begins with '$' and has a '#' at @end with both digits behind it. */
static enum gdb_input take_packet(struct gdb_link *l, size_t end)
{
	size_t bytes = end - 1;
	int high = hex_digit(l->in[end + 1]), low = hex_digit(l->in[end + 2]);
	bool good = bytes <= GDB_PACKET_BYTES && high >= 0 && low >= 0 &&
		    checksum(l->in + 1, bytes) == high * 16 + low;

	if (good) {
		memcpy(l->packet, l->in + 1, bytes);
		l->packet[bytes] = '\0';
	}
	drop(l, end + 3);
	if (!acknowledge(l, good ? '+' : '-'))
		return GDB_CLOSED;
	return good ? GDB_PACKET : GDB_NOTHING;
}

enum gdb_input gdb_link_next(struct gdb_link *l)
{
	while (l->in_bytes) {
		const char *end;
		enum gdb_input input;

		if (l->in[0] == CTRL_C) {
			drop(l, 1);
			return GDB_INTERRUPT;
		}
		if (l->in[0] != '$') { /* acknowledgements, and noise */
			drop(l, 1);
			continue;
		}
		end = memchr(l->in, '#', l->in_bytes);
		if (!end || (size_t)(end - l->in) + 3 > l->in_bytes)
			return GDB_NOTHING;
		input = take_packet(l, (size_t)(end - l->in));
		if (input != GDB_NOTHING)
			return input;
	}
	return GDB_NOTHING;
}

bool gdb_parse_hex(const char **p, uint64_t *out)
{
	unsigned digits = 0;

	*out = 0;
	for (int d; (d = hex_digit(**p)) >= 0; (*p)++) {
		if (*out >> 60)
			return false;
		*out = *out << 4 | (unsigned)d;
		digits++;
	}
	return digits;
}

bool gdb_parse_bytes(const char **p, void *out, size_t bytes)
{
	uint8_t *to = out;

	for (size_t i = 0; i < bytes; i++) {
		int high = hex_digit((*p)[0]);
		int low = high < 0 ? -1 : hex_digit((*p)[1]);

		if (low < 0)
			return false;
		to[i] = (uint8_t)(high << 4 | low);
		*p += 2;
	}
	return true;
}

bool gdb_parse_char(const char **p, char c)
{
	if (**p != c)
		return false;
	(*p)++;
	return true;
}

/* --- out -------------------------------------------------------------------------- */

void gdb_reply_begin(struct gdb_link *l)
{
	l->out[0] = '$';
	l->out_bytes = 1;
	l->out_full = false;
}

static void put(struct gdb_link *l, const char *data, size_t bytes)
{
	if (bytes > GDB_PACKET_BYTES + 1 - l->out_bytes) {
		l->out_full = true;
		return;
	}
	memcpy(l->out + l->out_bytes, data, bytes);
	l->out_bytes += bytes;
}

void gdb_reply_text(struct gdb_link *l, const char *fmt, ...)
{
	char text[512];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (n < 0 || n >= (int)sizeof(text))
		l->out_full = true;
	else
		put(l, text, (size_t)n);
}

void gdb_reply_hex(struct gdb_link *l, const void *data, size_t bytes)
{
	static const char digits[] = "0123456789abcdef";
	const uint8_t *p = data;

	for (size_t i = 0; i < bytes; i++) {
		char pair[2] = { digits[p[i] >> 4], digits[p[i] & 15] };

		put(l, pair, sizeof(pair));
	}
}

void gdb_reply_binary(struct gdb_link *l, const char *data, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++) {
		char escaped[2] = { '}', (char)(data[i] ^ 0x20) };

		if (strchr("#$}*", data[i]))
			put(l, escaped, sizeof(escaped));
		else
			put(l, &data[i], 1);
	}
}

bool gdb_reply_send(struct gdb_link *l)
{
	char end[4];

	if (l->out_full) {
		gdb_reply_begin(l);
		gdb_reply_text(l, "E22");
	}
	snprintf(end, sizeof(end), "#%02x", checksum(l->out + 1, l->out_bytes - 1));
	memcpy(l->out + l->out_bytes, end, 3);
	l->out_bytes += 3;
	for (size_t at = 0; at < l->out_bytes;) {
		ssize_t n = send(l->fd, l->out + at, l->out_bytes - at, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false; /* gone, or too slow */
		at += (size_t)n;
	}
	return true;
}
