/* run_live.c - see run_live.h. */
#include "run_live.h"

#include "cmd.h"
#include "host/linux/host_linux.h"

#include <errno.h>

void run_live_init(struct run_live *r)
{
	*r = (struct run_live){ .socket = { .fd = -1, .dir_fd = -1 } };
}

int run_live_open(struct run_live *r, const char *dir, const char *name)
{
	int err = control_listen(dir, name, &r->socket);

	return err ? user_error("%s/%s.sock: the control socket cannot be made: %s", dir, name,
				strerror(-err))
		   : 0;
}

/* A PU that cannot be had is the system's to replace. */
void run_live_place_io(const struct host *h, const struct plan *p)
{
	for (unsigned i = 0; i < p->nr_io; i++) {
		struct pu_set pus = { 0 };
		int err;

		pu_set_add(&pus, p->io[i].pu);
		err = host_linux_place_events(h, p->io[i].host_node, &pus);
		if (err)
			host_log(h, LOG_WARN, "an I/O thread cannot run on PU %u: %s", p->io[i].pu,
				 strerror(-err));
	}
}

int run_live_start(struct run_live *r, const struct live_config *cfg)
{
	int err;

	r->live = live_create(cfg);
	err = r->live ? control_start(cfg->host, &r->socket, r->live, &r->control) : -ENOMEM;
	return err ? internal_error("the control socket cannot be served: %s", strerror(-err)) : 0;
}

void run_live_stop(struct run_live *r)
{
	control_unlink(&r->socket);
	control_stop(r->control);
}

void run_live_free(struct run_live *r)
{
	control_free(r->control);
	control_close(&r->socket);
	live_destroy(r->live);
	run_live_init(r);
}
