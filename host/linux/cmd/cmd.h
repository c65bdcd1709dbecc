/*
 * cmd.h - the `alcazar` command: what its files share.
 *
 * One file a subcommand; main.c has the table. A subcommand returns the exit
 * status; nothing else ends the process.
 */
#ifndef HOST_LINUX_CMD_CMD_H
#define HOST_LINUX_CMD_CMD_H

#include "core/util.h"

enum exit_status {
	STATUS_OK = 0,       /* the guest powered off */
	STATUS_DRIFT = 1,    /* audit: something is not where it was planned */
	STATUS_USER = 2,     /* the user's error */
	STATUS_INTERNAL = 4, /* ours */
	STATUS_RESET = 6,    /* reset or triple fault, and --no-reboot */
	STATUS_SIGNAL = 8,
	STATUS_TIMEOUT = 124
	/* Odd ones are the guest's: (value << 1) | 1. */
};

int cmd_run(int argc, char **argv);
int cmd_ps(int argc, char **argv);
int cmd_topology(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
int cmd_stop(int argc, char **argv);
int cmd_pause(int argc, char **argv);
int cmd_resume(int argc, char **argv);
int cmd_move(int argc, char **argv);
int cmd_rebalance(int argc, char **argv);
int cmd_audit(int argc, char **argv);
int cmd_stats(int argc, char **argv);

/* Begins what is said of errors, and usage; tools that are made of these files have their own. */
extern const char *program_name;

/* One line on standard error. */
void say_error(const char *fmt, ...) __printf(1, 2);

/* What it comes to is known here, not to the linker alone: callers are analysed. */
static inline int status_of_error(enum exit_status status)
{
	return (int)status;
}

#define user_error(...)     (say_error(__VA_ARGS__), status_of_error(STATUS_USER))
/* What is nobody's fault but ours. */
#define internal_error(...) (say_error(__VA_ARGS__), status_of_error(STATUS_INTERNAL))

/* Flush standard output; what could not be written is an error. Returns @status or worse. */
int finish_output(int status);

#define SIZE_TEXT 24

/* "512M", "1.5G": @buf, for use in a printf(). */
const char *size_text(uint64_t bytes, char buf[SIZE_TEXT]);

#endif
