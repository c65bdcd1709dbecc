/*
 * control_socket.c - sockets of machines: in the runtime directory, NAME.sock.
 *
 * The directory's lock (flock) is held while a socket is made or removed, so that two who
 * find the same stale one do not remove each other's. Paths go through
 * /proc/self/fd, as a socket's path is short and a directory's need not be.
 */
#include "control.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define SUFFIX  ".sock"
#define BACKLOG 16

#define CONNECT_SECONDS 5

/* --- the runtime directory ---------------------------------------------------------- */

static int directory_path(char *buf, size_t bytes)
{
	const char *told = getenv("ALCAZAR_RUNTIME_DIR"), *xdg = getenv("XDG_RUNTIME_DIR");

	if (told && *told)
		return snprintf(buf, bytes, "%s", told);
	if (!geteuid())
		return snprintf(buf, bytes, "/run/alcazar");
	if (xdg && *xdg == '/')
		return snprintf(buf, bytes, "%s/alcazar", xdg);
	return snprintf(buf, bytes, "/run/user/%u/alcazar", (unsigned)geteuid());
}

/* Only who owns the directory may put sockets into it. */
static int check_directory(int fd, const char *path, char *why, size_t why_bytes)
{
	struct stat st;

	if (fstat(fd, &st))
		return -errno;
	if (st.st_uid == geteuid() && !(st.st_mode & 022))
		return 0;
	snprintf(why, why_bytes,
		 "%s: others may write there: chmod 700 it, or name another "
		 "directory in ALCAZAR_RUNTIME_DIR",
		 path);
	return -EPERM;
}

static int open_directory(bool make, char *why, size_t why_bytes)
{
	char path[4096];
	int fd, err;

	if (directory_path(path, sizeof(path)) >= (int)sizeof(path))
		return -ENAMETOOLONG;
	if (make && mkdir(path, 0700) && errno != EEXIST)
		fd = -1;
	else
		fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0) {
		err = -errno;
		snprintf(why, why_bytes, "%s: %s: name a directory in ALCAZAR_RUNTIME_DIR", path,
			 strerror(-err));
		return err;
	}
	err = check_directory(fd, path, why, why_bytes);
	if (err)
		close(fd);
	return err ? err : fd;
}

/* --- addresses ---------------------------------------------------------------------- */

static int socket_address(int dir_fd, const char *name, struct sockaddr_un *out)
{
	int n;

	*out = (struct sockaddr_un){ .sun_family = AF_UNIX };
	n = snprintf(out->sun_path, sizeof(out->sun_path), "/proc/self/fd/%d/%s" SUFFIX, dir_fd,
		     name);
	return n < (int)sizeof(out->sun_path) && !strchr(name, '/') ? 0 : -ENAMETOOLONG;
}

/* A machine whose backlog is full is waited for, unless @flags say SOCK_NONBLOCK. */
static int connect_in(int dir_fd, const char *name, int flags)
{
	struct timeval limit = { .tv_sec = CONNECT_SECONDS };
	struct sockaddr_un addr;
	int err = socket_address(dir_fd, name, &addr);
	int fd = err ? -1 : socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);

	if (err)
		return err;
	if (fd >= 0)
		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	if (fd < 0 || connect(fd, (struct sockaddr *)&addr, sizeof(addr))) {
		err = -errno;
		if (fd >= 0)
			close(fd);
		return err;
	}
	return fd;
}

int control_connect(const char *name)
{
	char why[CONTROL_WHY_BYTES];
	int dir_fd = open_directory(false, why, sizeof(why)), fd;

	if (dir_fd < 0)
		return dir_fd;
	fd = connect_in(dir_fd, name, 0);
	close(dir_fd);
	return fd;
}

bool control_peer_allowed(int fd)
{
	struct ucred peer;
	socklen_t bytes = sizeof(peer);

	return !getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) &&
	       (!peer.uid || peer.uid == geteuid());
}

/* --- listening ---------------------------------------------------------------------- */

static bool answers(int dir_fd, const char *name)
{
	int fd = connect_in(dir_fd, name, SOCK_NONBLOCK);

	if (fd >= 0)
		close(fd);
	return fd >= 0 || fd == -EAGAIN; /* so busy that its backlog is full */
}

/* The directory is locked. */
static int bind_socket(struct control_socket *s)
{
	char file[sizeof(s->name) + sizeof(SUFFIX)];
	struct sockaddr_un addr;
	struct stat st;
	int err = socket_address(s->dir_fd, s->name, &addr);

	if (err)
		return err;
	if (answers(s->dir_fd, s->name))
		return -EADDRINUSE;
	snprintf(file, sizeof(file), "%s" SUFFIX, s->name);
	if (unlinkat(s->dir_fd, file, 0) && errno != ENOENT)
		return -errno;
	s->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (s->fd < 0)
		return -errno;
	fchmod(s->fd, 0600); /* before it has a name: bind(2) gives this mode to the file */
	if (bind(s->fd, (struct sockaddr *)&addr, sizeof(addr)) ||
	    fchmodat(s->dir_fd, file, 0600, 0) || fstatat(s->dir_fd, file, &st, 0) ||
	    listen(s->fd, BACKLOG)) {
		err = -errno;
		close(s->fd);
		s->fd = -1;
		return err;
	}
	s->inode = st.st_ino;
	return 0;
}

int control_listen(const char *name, struct control_socket *out, char *why, size_t why_bytes)
{
	int err;

	*out = (struct control_socket){ .fd = -1 };
	why[0] = '\0';
	snprintf(out->name, sizeof(out->name), "%s", name);
	out->dir_fd = open_directory(true, why, why_bytes);
	if (out->dir_fd < 0)
		return out->dir_fd;
	err = flock(out->dir_fd, LOCK_EX) ? -errno : 0;
	if (!err)
		err = bind_socket(out);
	flock(out->dir_fd, LOCK_UN);
	if (!err)
		return 0;
	if (err == -EADDRINUSE)
		snprintf(why, why_bytes, "a machine of that name runs: choose another --name");
	else
		snprintf(why, why_bytes, "cannot make its control socket: %s", strerror(-err));
	close(out->dir_fd);
	return err;
}

void control_unlisten(struct control_socket *s)
{
	char file[sizeof(s->name) + sizeof(SUFFIX)];
	struct stat st;

	if (s->fd < 0)
		return;
	snprintf(file, sizeof(file), "%s" SUFFIX, s->name);
	flock(s->dir_fd, LOCK_EX);
	if (!fstatat(s->dir_fd, file, &st, AT_SYMLINK_NOFOLLOW) && st.st_ino == s->inode)
		unlinkat(s->dir_fd, file, 0);
	flock(s->dir_fd, LOCK_UN);
	close(s->fd);
	close(s->dir_fd);
	s->fd = -1;
}

/* --- names -------------------------------------------------------------------------- */

void control_each_name(void (*fn)(void *arg, const char *name), void *arg)
{
	char why[CONTROL_WHY_BYTES];
	int dir_fd = open_directory(false, why, sizeof(why));
	DIR *dir = dir_fd < 0 ? NULL : fdopendir(dup(dir_fd));
	struct dirent *e;

	while (dir && (e = readdir(dir))) {
		size_t n = strlen(e->d_name), suffix = strlen(SUFFIX);

		if (n <= suffix || strcmp(e->d_name + n - suffix, SUFFIX) != 0)
			continue;
		e->d_name[n - suffix] = '\0';
		if (answers(dir_fd, e->d_name))
			fn(arg, e->d_name);
	}
	if (dir)
		closedir(dir);
	if (dir_fd >= 0)
		close(dir_fd);
}
