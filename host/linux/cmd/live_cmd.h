/* live_cmd.h - what the commands for running machines share. */
#ifndef HOST_LINUX_CMD_LIVE_CMD_H
#define HOST_LINUX_CMD_LIVE_CMD_H

#include "options.h"

#include <jansson.h>

/*
 * `alcazar COMMAND NAME [OPTION]...`: the name to *name, options into @o, which begins
 * with `bool help`. An exit status, or -1: there is work to do.
 */
int live_options(struct option_set *s, int argc, char **argv, void *o, const char **name);
/* One request, one answer; takes @request. 0 and *result, or an exit status. */
int live_ask(const char *name, json_t *request, void (*progress)(uint64_t done, uint64_t all),
	     json_t **result);

/* Of documents that come from a machine: 0 or "" where there is no such thing. */
int live_int(const json_t *doc, const char *key);
double live_real(const json_t *doc, const char *key);
uint64_t live_bytes(const json_t *doc, const char *key);
const char *live_text(const json_t *doc, const char *key);
int live_print_json(const json_t *doc);

#endif
