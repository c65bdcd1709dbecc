/*
 * screen.h - a terminal whose contents are drawn anew now and then, or, where standard
 * output is none, lines one after the other.
 *
 * While one is open, keys arrive at once and are not shown; Ctrl-C, q and SIGTERM end the
 * waiting, so that the terminal is always put back. Only one at a time.
 */
#ifndef TOOLS_PIN_CORES_SCREEN_H
#define TOOLS_PIN_CORES_SCREEN_H

#include "core/util.h"

#include <signal.h>
#include <termios.h>

enum screen_style { SCREEN_PLAIN, SCREEN_HEAD, SCREEN_DIM, SCREEN_WARM };

struct screen {
	bool live; /* a terminal, drawn again and again */
	bool keys; /* standard input is one, too: termios holds how it was */
	int signal_fd;
	sigset_t old_mask;
	struct termios termios;
	unsigned rows, columns, row;
};

/* @live: wanted; a screen is opened only on a terminal. */
void screen_open(struct screen *s, bool live);
void screen_close(struct screen *s); /* a zeroed one is legal */

void screen_begin(struct screen *s);
void screen_line(struct screen *s, enum screen_style style, const char *fmt, ...) __printf(3, 4);
void screen_end(struct screen *s);

/* False: the user has had enough. */
bool screen_wait(struct screen *s, unsigned ms);

#endif
