/*
 * console.h - the guest's console: where its output goes, where its input comes from.
 *
 * Output may come from any thread; it is buffered and written by a thread of its
 * own, so that no vCPU waits for a write as long as the buffer has room. When it has
 * none the vCPU does wait: nothing is dropped while somebody may still read.
 */
#ifndef HOST_LINUX_CMD_CONSOLE_H
#define HOST_LINUX_CMD_CONSOLE_H

#include "core/util.h"

struct console;

/* What the console's user may want of the machine; called on the input thread. */
struct console_peer {
	size_t (*input)(void *arg, const uint8_t *buf, size_t bytes); /* returns bytes taken */
	void (*end)(void *arg);                                       /* Ctrl-A x */
	void (*counters)(void *arg);                                  /* Ctrl-A c */
	void *arg;
};

/*
 * @spec: "stdio", "file:PATH" or "none". 0, or an exit status after the user was told.
 * An existing file keeps its content until console_start().
 */
int console_open(struct console **out, const char *spec, const char *label);
/* The machine is about to run. 0 or -errno. */
int console_start(struct console *c, const struct console_peer *peer);

/* Any thread. */
void console_output(struct console *c, const uint8_t *buf, size_t bytes);
/* The guest takes input again. Any thread, any lock held. */
void console_ready(struct console *c);
/* The machine has to end now: nobody may wait for a slow reader any more. Any thread. */
void console_hurry(struct console *c);

/* No more input; the terminal is as it was. Output still flows. */
void console_stop_input(struct console *c);
/* Writes what is left; what comes later is dropped. */
void console_flush(struct console *c);
/* Flushes, closes, frees. A file that was created and never started goes. */
void console_close(struct console *c);

/* In an emergency, from any thread: only the terminal's settings. */
void console_restore_terminal(struct console *c);

#endif
