/*
 * control_socket.c - sockets of machines: NAME.sock in the ledger's directory.
 *
 * A name belongs to who has claimed it in the ledger, until the claim is released. So a
 * socket of that name that is there already was left by somebody who died, and whoever
 * makes or removes one disturbs nobody. Paths go through /proc/self/fd: a socket's is
 * short, a directory's need not be.
 */
#include "control.h"

#include "host/linux/ledger.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG         16
#define CONNECT_SECONDS 5

#define FILE_BYTES (LEDGER_NAME_MAX + sizeof(".sock"))

/* Within 108 bytes. */
static void socket_address(int dir_fd, const char *file, struct sockaddr_un *out)
{
	*out = (struct sockaddr_un){ .sun_family = AF_UNIX };
	snprintf(out->sun_path, sizeof(out->sun_path), "/proc/self/fd/%d/%s", dir_fd, file);
}

static void file_name(const char *name, char file[FILE_BYTES])
{
	snprintf(file, FILE_BYTES, "%s.sock", name);
}

/* --- the machine's end ---------------------------------------------------------------- */

/* The mode is set before the socket has a name: bind(2) hands it on to the file. */
static int bind_socket(struct control_socket *s, const char *file)
{
	struct sockaddr_un addr;

	socket_address(s->dir_fd, file, &addr);
	if (unlinkat(s->dir_fd, file, 0) && errno != ENOENT)
		return -errno;
	if (fchmod(s->fd, 0600) || bind(s->fd, (struct sockaddr *)&addr, sizeof(addr)) ||
	    fchmodat(s->dir_fd, file, 0600, 0) || listen(s->fd, BACKLOG))
		return -errno;
	return 0;
}

int control_listen(const char *dir, const char *name, struct control_socket *out)
{
	int err = 0;

	*out = (struct control_socket){ .fd = -1, .dir_fd = -1 };
	if (!ledger_name_ok(name))
		return -EINVAL;
	file_name(name, out->file);
	out->dir_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	out->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (out->dir_fd < 0 || out->fd < 0)
		err = -errno;
	if (!err)
		err = bind_socket(out, out->file);
	if (err)
		control_close(out);
	return err;
}

void control_unlink(struct control_socket *s)
{
	if (s->fd >= 0 && s->file[0])
		unlinkat(s->dir_fd, s->file, 0);
	s->file[0] = '\0';
}

void control_close(struct control_socket *s)
{
	if (s->fd >= 0)
		close(s->fd);
	if (s->dir_fd >= 0)
		close(s->dir_fd);
	s->fd = s->dir_fd = -1;
}

bool control_peer_allowed(int fd)
{
	struct ucred peer;
	socklen_t bytes = sizeof(peer);

	return !getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) &&
	       (!peer.uid || peer.uid == geteuid());
}

/* --- the other end -------------------------------------------------------------------- */

/* A machine that does not take connections is waited for, but not for ever. */
static int connect_to(int dir_fd, const char *name)
{
	struct timeval limit = { .tv_sec = CONNECT_SECONDS };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), err;
	struct sockaddr_un addr;
	char file[FILE_BYTES];

	if (fd < 0)
		return -errno;
	file_name(name, file);
	socket_address(dir_fd, file, &addr);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	if (!connect(fd, (struct sockaddr *)&addr, sizeof(addr)))
		return fd;
	err = -errno;
	close(fd);
	return err;
}

int control_connect(const char *dir, const char *name)
{
	int dir_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC), fd;

	if (dir_fd < 0)
		return -errno;
	fd = ledger_name_ok(name) ? connect_to(dir_fd, name) : -ENOENT;
	close(dir_fd);
	return fd;
}
