/* run_live.h - `alcazar run` while it can be asked: the control socket of its machine. */
#ifndef HOST_LINUX_CMD_RUN_LIVE_H
#define HOST_LINUX_CMD_RUN_LIVE_H

#include "control.h"
#include "live.h"

struct run_live {
	struct control_socket socket;
	struct live *live;
	struct control *control;
};

void run_live_init(struct run_live *r);
/* The socket, before anything starts. 0 or an exit status. */
int run_live_open(struct run_live *r, const char *dir, const char *name);
/* I/O threads where @p has them. */
void run_live_place_io(const struct host *h, const struct plan *p);
/* Serves; what @cfg refers to stays until run_live_stop(). 0 or an exit status. */
int run_live_start(struct run_live *r, const struct live_config *cfg);
/* Before the machine is taken apart; legal twice. */
void run_live_stop(struct run_live *r);
/* When all is gone: whoever waits for that is told. */
void run_live_free(struct run_live *r);

#endif
