/* ours.h - our own machines, by name: the ledger has their plan. */
#ifndef TOOLS_PIN_CORES_OURS_H
#define TOOLS_PIN_CORES_OURS_H

#include "pin_cores.h"
#include "record.h"

/* What machine @name has claimed, as a record of its process. 0 or an exit status. */
int ours_record(const char *name, struct record *out);

/* Binds its vCPUs as the ledger has them; with --memory it sees to its memory. An exit status. */
int ours_apply(const char *name, const struct pin_options *o);

#endif
