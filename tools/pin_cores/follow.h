/*
 * follow.h - binds the threads of a command, and of the processes it starts, to the PUs
 * of a plan as they appear. It looks into /proc, so nothing is traced or slowed down.
 */
#ifndef TOOLS_PIN_CORES_FOLLOW_H
#define TOOLS_PIN_CORES_FOLLOW_H

#include "placement/plan.h"

#include <sys/types.h>

struct follow;

/* -ENOMEM */
int follow_start(struct follow **out, const struct plan *plan, pid_t command);
void follow_end(struct follow *f); /* NULL is legal */

/* Binds those that are new. Returns after how many ms to look again. */
unsigned follow_look(struct follow *f);

#endif
