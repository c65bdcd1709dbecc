/* bind.c - see bind.h. */
#include "bind.h"

#include "proc.h"

#include <errno.h>

static int bind_thread(struct bind_one *b)
{
	int err = proc_affinity_get(b->tid, &b->before);

	if (!err)
		err = proc_affinity_set(b->tid, &b->pus);
	b->done = !err;
	return err == -ESRCH && b->optional ? 0 : err;
}

int bind_all(struct bind_one *one, unsigned nr, unsigned *failed)
{
	int err = 0;

	for (unsigned i = 0; i < nr && !err; i++) {
		err = bind_thread(&one[i]);
		*failed = i;
	}
	if (!err)
		return 0;
	for (unsigned i = 0; i < *failed; i++)
		if (one[i].done)
			proc_affinity_set(one[i].tid, &one[i].before);
	return err;
}
