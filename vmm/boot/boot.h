/*
 * boot.h - loaders: from an image and a machine to memory contents and the
 * state in which the BSP starts.
 *
 * Images are hostile: every length and offset is checked, and an error leaves
 * nothing but garbage in guest RAM. Called before the vCPUs run, again at reboot.
 */
#ifndef VMM_BOOT_BOOT_H
#define VMM_BOOT_BOOT_H

#include "boot/topology.h"
#include "core/cpu_state.h"
#include "mem/gmem.h"

struct boot_image {
	const uint8_t *data; /* NULL: none */
	size_t bytes;
	const char *name; /* for messages and multiboot module strings */
};

#define BOOT_MODULES_MAX 16

struct boot_request {
	const struct gmem *gmem;
	const struct topology *topo;
	struct boot_image kernel;
	struct boot_image initrd;                   /* Linux: initrd; multiboot: first module */
	struct boot_image module[BOOT_MODULES_MAX]; /* multiboot: further modules */
	unsigned nr_modules;
	const char *cmdline;
	/* All of so much guest RAM is about to be written. May be NULL. */
	void (*will_fill)(void *arg, const void *hva, uint64_t bytes);
	void *arg;
};

/*
 * Recognises bzImage, ELF (64-bit, Linux boot protocol) and multiboot 1 images,
 * loads, writes ACPI tables, and fills @bsp (power-up state on entry). -EINVAL, -ENOEXEC, -ENOSPC:
 * why[] holds the line for the user.
 */
int boot_load(const struct boot_request *r, struct cpu_state *bsp, char *why, size_t why_bytes);

#endif
