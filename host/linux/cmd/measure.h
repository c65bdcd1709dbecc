/*
 * measure.h - measured latencies and bandwidths of this host, kept between runs below
 * the state directory ($XDG_STATE_HOME/alcazar, or /var/lib/alcazar for root).
 */
#ifndef HOST_LINUX_CMD_MEASURE_H
#define HOST_LINUX_CMD_MEASURE_H

#include "core/host.h"
#include "placement/machine.h"

/* What was measured on this machine before, if anything; distances too if it told none. */
void measure_load(struct machine_model *m);

/* Measures now and keeps it. An exit status. */
int measure_now(const struct host *host, struct machine_model *m);

#endif
