/* client.h - asking a running machine, for the commands that do. */
#ifndef HOST_LINUX_CMD_CLIENT_H
#define HOST_LINUX_CMD_CLIENT_H

#include "core/util.h"

#include <jansson.h>

struct client;

/* 0 or an exit status: an unknown machine is the user's error, and told. @name stays. */
int client_open(const char *name, struct client **out);
void client_close(struct client *c); /* NULL is legal */

/* A request to which the command's own keys are added. */
json_t *client_request(const char *command);
/*
 * Asks and waits for the answer; takes @request. @progress may be NULL. 0 and *result, which
 * is the caller's, or an exit status; what the machine complained of is told.
 */
int client_call(struct client *c, json_t *request, void (*progress)(uint64_t done, uint64_t all),
		json_t **result);
/* Until the machine is gone: 0, or -ETIMEDOUT. */
int client_wait_gone(struct client *c, unsigned seconds);

#endif
