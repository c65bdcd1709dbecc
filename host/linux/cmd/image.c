/*
 * image.c - see image.h.
 *
 * A reset reads the files again, and meanwhile somebody may have cut them short. The
 * pages that are gone then read as zeros, which the loaders refuse like other damage.
 */
#include "image.h"

#include "cmd.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* What is mapped, for the signal's handler; written while nothing reads images. */
static struct {
	_Atomic uintptr_t begin, end;
} mapped[IMAGES_MAX];

/* The host found it here, and leaves to it what guests have not caused. */
static void on_sigbus(int sig, siginfo_t *info, void *context)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
	uintptr_t at = (uintptr_t)info->si_addr & ~(page - 1);
	int saved_errno = errno;
	void *zeros = MAP_FAILED;

	for (unsigned i = 0; i < IMAGES_MAX && info->si_code > 0; i++)
		if (at >= mapped[i].begin && at < mapped[i].end)
			zeros = mmap((void *)at, page, PROT_READ,
				     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	if (zeros == MAP_FAILED) {
		signal(sig, SIG_DFL);
		if (info->si_code <= 0) /* sent by a process: nothing will fault again */
			raise(sig);
	}
	errno = saved_errno;
}

static void watch_over(const void *p, size_t bytes)
{
	struct sigaction sa = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_ONSTACK };
	unsigned i = 0;

	while (i < IMAGES_MAX - 1 && mapped[i].end)
		i++;
	mapped[i].begin = (uintptr_t)p;
	mapped[i].end = (uintptr_t)p + bytes;
	sigemptyset(&sa.sa_mask);
	sigaction(SIGBUS, &sa, NULL);
}

static void forget(const void *p)
{
	for (unsigned i = 0; i < IMAGES_MAX; i++)
		if (mapped[i].begin == (uintptr_t)p)
			mapped[i].begin = mapped[i].end = 0;
}

static const char *why_not_image(const struct stat *st)
{
	if (S_ISDIR(st->st_mode))
		return "a directory: name a file";
	if (!S_ISREG(st->st_mode))
		return "not a regular file: copy it into one";
	if (!st->st_size)
		return "an empty file: fetch it again";
	return NULL;
}

int image_map(struct boot_image *out, const char *path, const char *label)
{
	/* NONBLOCK: opening a FIFO must not hang before fstat() can refuse it. */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	const char *complaint;
	struct stat st;
	void *p;

	if (fd < 0)
		return user_error("%s: %s: name a file that can be read", label, strerror(errno));
	complaint = fstat(fd, &st) ? strerror(errno) : why_not_image(&st);
	if (complaint) {
		close(fd);
		return user_error("%s: %s", label, complaint);
	}
	p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	close(fd);
	if (p == MAP_FAILED)
		return user_error("%s: cannot be mapped: %s", label, strerror(errno));
	watch_over(p, (size_t)st.st_size);
	*out = (struct boot_image){ .data = p, .bytes = (size_t)st.st_size, .name = path };
	return 0;
}

void image_rest(struct boot_image *image)
{
	if (image->data)
		madvise((void *)(uintptr_t)image->data, image->bytes, MADV_DONTNEED);
}

void image_unmap(struct boot_image *image)
{
	if (image->data) {
		forget(image->data);
		munmap((void *)(uintptr_t)image->data, image->bytes);
	}
	*image = (struct boot_image){ 0 };
}
