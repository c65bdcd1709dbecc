/* apply.h - the part of `pin_cores apply` that is the same for all processes: memory. */
#ifndef TOOLS_PIN_CORES_APPLY_H
#define TOOLS_PIN_CORES_APPLY_H

#include "mover.h"
#include "placement/plan.h"

/* To the homes of the plan, with progress on a terminal. 0 or an exit status. */
int apply_memory(pid_t pid, const struct plan *plan, struct mover_result *out);
void apply_print_memory(const struct mover_result *r);
/* Complains of what bind_all() could not do to thread @tid. An exit status. */
int apply_binding_failed(pid_t pid, pid_t tid, int err);

#endif
