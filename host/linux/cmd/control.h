/*
 * control.h - the control socket of a running machine. docs/control.md tells the
 * protocol: JSON, a request a line, an answer a line.
 *
 * Who is who:
 *   control_socket.c  where sockets lie, how they are made, replaced and reached
 *   control_parse.c   a request, from bytes that anybody may have written
 *   control.c         the server: clients on an event thread, slow work on one of its own
 *   live.c            what requests do to the machine
 *   client.c          the other end: client.h
 */
#ifndef HOST_LINUX_CMD_CONTROL_H
#define HOST_LINUX_CMD_CONTROL_H

#include "core/util.h"

#include <jansson.h>
#include <stdio.h>

#define CONTROL_VERSION   1
#define CONTROL_LINE_MAX  4096 /* of a request, its newline included */
#define CONTROL_WHY_BYTES 320

/* --- sockets ---------------------------------------------------------------------- */

struct control_socket {
	int fd;        /* listening, or -1 */
	int dir_fd;    /* the directory it is in */
	char file[80]; /* its name there; empty once it is removed */
};

/*
 * NAME.sock in @dir, mode 0600; one that is there already is replaced. The caller has
 * claimed the name in the ledger. 0 or -errno.
 */
int control_listen(const char *dir, const char *name, struct control_socket *out);
void control_unlink(struct control_socket *s); /* before the name is released */
void control_close(struct control_socket *s);  /* one that is closed is legal */

/* A descriptor, or -errno; -ENOENT and -ECONNREFUSED: no such machine runs. */
int control_connect(const char *dir, const char *name);

/* May the process at the other end ask? Its user is ours, or root. */
bool control_peer_allowed(int fd);

/* --- requests --------------------------------------------------------------------- */

enum control_command {
	CONTROL_STATUS,
	CONTROL_STOP,
	CONTROL_PAUSE,
	CONTROL_RESUME,
	CONTROL_MOVE_VCPU,
	CONTROL_MOVE_MEMORY,
	CONTROL_REBALANCE,
	CONTROL_AUDIT,
	CONTROL_STATS,
	CONTROL_COMMANDS
};

struct control_request {
	enum control_command command;
	json_t *id; /* to be given back with the answer, or NULL; ours */
	unsigned vcpu, node, to;
	unsigned rate_mibs; /* 0: as fast as it goes */
	bool progress, dry_run;
};

/*
 * One line without its newline. -EINVAL, and why[] tells what is wrong; id is there
 * wherever it could be read. control_request_free() in either case.
 */
int control_parse(const char *line, size_t bytes, struct control_request *out, char *why,
		  size_t why_bytes);
void control_request_free(struct control_request *r);

/* --- answers ---------------------------------------------------------------------- */

enum control_fault {
	FAULT_REQUEST, /* not a request */
	FAULT_REFUSED, /* it cannot be done: the user's error */
	FAULT_BUSY,    /* not now */
	FAULT_INTERNAL
};

/* They take the result, and refer to @id; NULL when memory is short. */
json_t *control_answer(json_t *id, json_t *result);
json_t *control_complaint(json_t *id, enum control_fault fault, const char *why);
json_t *control_progress(json_t *id, uint64_t done_bytes, uint64_t all_bytes);

/* --- the server ------------------------------------------------------------------- */

struct host;
struct live;
struct control;

/* Serves at @s, which it takes, what @l can do. 0 or -errno. */
int control_start(const struct host *h, struct control_socket *s, struct live *l,
		  struct control **out);
/*
 * Nothing is asked of the machine any more, and nobody finds its socket; connections stay
 * open, as a sign of life. NULL is legal, and so is twice.
 */
void control_stop(struct control *c);
void control_free(struct control *c); /* the connections close; NULL is legal */

#endif
