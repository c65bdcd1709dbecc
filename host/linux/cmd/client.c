/*
 * client.c - the other end of a control socket: what `alcazar move` and its like use.
 *
 * The machine at the other end is ours, but may be of another version: whatever comes
 * is checked before it is used.
 */
#include "client.h"

#include "cmd.h"
#include "control.h"
#include "host/linux/ledger.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define ANSWER_MAX  MIB(64)
#define NAMES_BYTES 400

struct client {
	int fd;
	const char *name;
	char *in;
	size_t in_bytes, room;
};

/* --- life --------------------------------------------------------------------------- */

static int unknown_machine(struct ledger *l, const char *name)
{
	struct ledger_list list = { 0 };
	char names[NAMES_BYTES] = "";
	size_t used = 0;

	if (l)
		ledger_read(l, &list);
	for (unsigned i = 0; i < list.nr && used < sizeof(names); i++)
		used += (size_t)snprintf(names + used, sizeof(names) - used, "%s%s", i ? ", " : "",
					 list.claim[i].name);
	if (!list.nr)
		user_error("%s: no such machine: none runs", name);
	else
		user_error("%s: no such machine: %s%s run%s", name, names,
			   used >= sizeof(names) ? "..." : "", list.nr == 1 ? "s" : "");
	ledger_list_free(&list);
	return STATUS_USER;
}

static int cannot_connect(struct ledger *l, const char *name, int err)
{
	switch (err) {
	case -ENOENT:
	case -ECONNREFUSED:
		return unknown_machine(l, name);
	case -EAGAIN:
		return user_error("%s: it does not answer: is its process stopped?", name);
	default:
		return user_error("%s: its control socket cannot be reached: %s", name,
				  strerror(-err));
	}
}

int client_open(const char *name, struct client **out)
{
	char why[LEDGER_WHY_BYTES];
	struct ledger *l = NULL;
	int err = ledger_open(NULL, false, &l, why, sizeof(why)), fd = err, status = 0;

	if (err && err != -ENOENT)
		return user_error("%s", why);
	if (!err)
		fd = control_connect(ledger_path(l), name);
	*out = fd < 0 ? NULL : calloc(1, sizeof(**out));
	if (fd < 0)
		status = cannot_connect(l, name, fd);
	else if (!*out)
		status = internal_error("out of memory");
	else
		**out = (struct client){ .fd = fd, .name = name };
	if (status && fd >= 0)
		close(fd);
	ledger_close(l);
	return status;
}

void client_close(struct client *c)
{
	if (!c)
		return;
	close(c->fd);
	free(c->in);
	free(c);
}

/* --- lines -------------------------------------------------------------------------- */

static int send_line(struct client *c, json_t *request)
{
	char *text = request ? json_dumps(request, JSON_COMPACT) : NULL;
	size_t bytes = text ? strlen(text) : 0, sent = 0;

	json_decref(request);
	if (!text)
		return internal_error("out of memory");
	text[bytes++] = '\n'; /* in place of the terminator */
	while (sent < bytes) {
		ssize_t n = send(c->fd, text + sent, bytes - sent, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		sent += (size_t)n;
	}
	free(text);
	return sent == bytes ? 0 : user_error("%s: it has just ended", c->name);
}

static bool make_room(struct client *c)
{
	size_t room = c->room ? c->room * 2 : 65536;
	char *in;

	if (c->in_bytes < c->room)
		return true;
	in = room <= ANSWER_MAX ? realloc(c->in, room) : NULL;
	if (!in)
		return false;
	c->in = in;
	c->room = room;
	return true;
}

/* One line as a document: NULL at the end of all, or where it is none. */
static json_t *receive_line(struct client *c)
{
	char *end;
	json_t *doc;

	while (!(end = c->in_bytes ? memchr(c->in, '\n', c->in_bytes) : NULL)) {
		ssize_t n = make_room(c)
				    ? recv(c->fd, c->in + c->in_bytes, c->room - c->in_bytes, 0)
				    : 0;

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return NULL;
		c->in_bytes += (size_t)n;
	}
	doc = json_loadb(c->in, (size_t)(end - c->in), 0, NULL);
	c->in_bytes -= (size_t)(end + 1 - c->in);
	memmove(c->in, end + 1, c->in_bytes);
	return doc;
}

/* --- calls -------------------------------------------------------------------------- */

json_t *client_request(const char *command)
{
	return json_pack("{s:i s:s}", "version", CONTROL_VERSION, "command", command);
}

static int complaint_of(const struct client *c, const json_t *error)
{
	const char *code = json_string_value(json_object_get(error, "code"));
	const char *why = json_string_value(json_object_get(error, "message"));

	if (!code || !why)
		return internal_error("%s: it answers what nobody understands", c->name);
	return !strcmp(code, "internal") ? internal_error("%s: %s", c->name, why)
					 : user_error("%s: %s", c->name, why);
}

int client_call(struct client *c, json_t *request, void (*progress)(uint64_t done, uint64_t all),
		json_t **result)
{
	int status = send_line(c, request);

	while (!status) {
		json_t *doc = receive_line(c), *found;

		if (!doc)
			return user_error("%s: it has ended", c->name);
		found = json_object_get(doc, "progress");
		if (found) {
			if (progress)
				progress((uint64_t)json_integer_value(
						 json_object_get(found, "done_bytes")),
					 (uint64_t)json_integer_value(
						 json_object_get(found, "all_bytes")));
			json_decref(doc);
			continue;
		}
		found = json_object_get(doc, "result");
		if (found)
			*result = json_incref(found);
		else
			status = complaint_of(c, json_object_get(doc, "error"));
		json_decref(doc);
		break;
	}
	return status;
}

int client_wait_gone(struct client *c, unsigned seconds)
{
	struct pollfd p = { .fd = c->fd, .events = POLLIN };
	char byte;

	if (poll(&p, 1, (int)seconds * 1000) <= 0)
		return -ETIMEDOUT;
	return recv(c->fd, &byte, 1, 0) > 0 ? -EPROTO : 0;
}
