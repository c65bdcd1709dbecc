/* image.c - see image.h. */
#include "image.h"

#include "cmd.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

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
	if (image->data)
		munmap((void *)(uintptr_t)image->data, image->bytes);
	*image = (struct boot_image){ 0 };
}
