/*
 * bind.h - binds threads of other processes to PUs, all of them or none.
 */
#ifndef TOOLS_PIN_CORES_BIND_H
#define TOOLS_PIN_CORES_BIND_H

#include "core/pu_set.h"

#include <sys/types.h>

struct bind_one {
	pid_t tid;
	bool optional; /* a thread that ends meanwhile is no error */
	struct pu_set pus;
	struct pu_set before; /* of bind_all() */
	bool done;
};

/*
 * After an error all is as before. 0, or -errno, and *failed is the one that could not
 * be: -ESRCH it has ended, -EPERM it is somebody else's, -EINVAL its cpuset forbids.
 */
int bind_all(struct bind_one *one, unsigned nr, unsigned *failed);

#endif
