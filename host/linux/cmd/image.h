/* image.h - kernels and initrds: files mapped read-only, whatever may be in them. */
#ifndef HOST_LINUX_CMD_IMAGE_H
#define HOST_LINUX_CMD_IMAGE_H

#include "boot/boot.h"

#define IMAGES_MAX 2 /* mapped at a time: a kernel and an initrd */

/*
 * Before the host is made: it hands on what faults there. One machine a process.
 * @label: "--kernel PATH", for complaints. 0, or an exit status after the user was told.
 */
int image_map(struct boot_image *out, const char *path, const char *label);
/* It will not be read for a while: its pages need not count as ours. */
void image_rest(struct boot_image *image);
void image_unmap(struct boot_image *image);

#endif
