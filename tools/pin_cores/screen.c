/* screen.c - see screen.h. Escape codes are those of ECMA-48, which every terminal knows. */
#include "screen.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#define LINE_BYTES 512

static void read_keys(struct screen *s)
{
	struct termios raw;

	s->keys = isatty(STDIN_FILENO) && !tcgetattr(STDIN_FILENO, &s->termios);
	if (!s->keys)
		return;
	raw = s->termios;
	raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
	tcsetattr(STDIN_FILENO, TCSANOW, &raw);
}

void screen_open(struct screen *s, bool live)
{
	sigset_t mask;

	*s = (struct screen){ .live = live && isatty(STDOUT_FILENO), .signal_fd = -1 };
	sigemptyset(&mask);
	sigaddset(&mask, SIGINT);
	sigaddset(&mask, SIGTERM);
	sigaddset(&mask, SIGHUP);
	sigprocmask(SIG_BLOCK, &mask, &s->old_mask);
	s->signal_fd = signalfd(-1, &mask, SFD_CLOEXEC);
	if (!s->live)
		return;
	read_keys(s);
	fputs("\033[?1049h\033[?25l", stdout); /* another page, no cursor */
}

void screen_close(struct screen *s)
{
	if (s->live) {
		fputs("\033[?25h\033[?1049l", stdout);
		fflush(stdout);
	}
	if (s->keys)
		tcsetattr(STDIN_FILENO, TCSANOW, &s->termios);
	if (s->signal_fd > 0) {
		close(s->signal_fd);
		sigprocmask(SIG_SETMASK, &s->old_mask, NULL);
	}
	*s = (struct screen){ 0 };
}

void screen_begin(struct screen *s)
{
	struct winsize size;

	s->row = 0;
	s->rows = 24;
	s->columns = 80;
	if (!s->live)
		return;
	if (!ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) && size.ws_row && size.ws_col) {
		s->rows = size.ws_row;
		s->columns = size.ws_col;
	}
	fputs("\033[H", stdout);
}

/* What is longer or lower than the screen is cut. */
void screen_line(struct screen *s, enum screen_style style, const char *fmt, ...)
{
	static const char *const begin[] = { "", "\033[1m", "\033[2m", "\033[33m" };
	char line[LINE_BYTES];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	if (!s->live) {
		printf("%s\n", line);
		return;
	}
	if (++s->row >= s->rows)
		return;
	printf("%s%.*s\033[0m\033[K\n", begin[style], (int)s->columns, line);
}

void screen_end(struct screen *s)
{
	if (s->live)
		fputs("\033[J\033[2mq ends\033[0m", stdout);
	fflush(stdout);
}

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* Other keys are taken and forgotten. */
static bool key_ends(struct screen *s)
{
	char keys[64];
	ssize_t n = read(STDIN_FILENO, keys, sizeof(keys));

	if (n <= 0)
		s->keys = false;
	return n > 0 && (memchr(keys, 'q', (size_t)n) || memchr(keys, 4, (size_t)n));
}

bool screen_wait(struct screen *s, unsigned ms)
{
	uint64_t end = now_ms() + ms, now = now_ms();

	for (; now < end; now = now_ms()) {
		struct pollfd fd[] = { { .fd = s->signal_fd, .events = POLLIN },
				       { .fd = s->keys ? STDIN_FILENO : -1, .events = POLLIN } };

		if (poll(fd, 2, (int)(end - now)) < 0 && errno != EINTR)
			return false;
		if (fd[0].revents || (fd[1].revents && key_ends(s)))
			return false;
	}
	return true;
}
