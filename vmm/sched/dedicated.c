/*
 * dedicated.c - the policy for a core with one vCPU: nothing stands between it
 * and the hardware. It only keeps the account.
 */
#include "sched/sched.h"

static int dedicated_admit(struct sched_entity *e)
{
	e->run_ns = 0;
	e->started_ns = 0;
	return 0;
}

static bool dedicated_enqueue(struct sched_entity *e, uint64_t now_ns)
{
	e->started_ns = now_ns;
	return true;
}

static void dedicated_dequeue(struct sched_entity *e, uint64_t now_ns)
{
	if (now_ns > e->started_ns)
		e->run_ns += now_ns - e->started_ns;
	e->started_ns = 0;
}

const struct sched_policy sched_dedicated = {
	.name = "dedicated",
	.admit = dedicated_admit,
	.enqueue = dedicated_enqueue,
	.dequeue = dedicated_dequeue,
};
