/*
 * scene.h - a machine and who is on it: what the subcommands print and paint.
 *
 * An actor is a virtual machine (ours, another VMM's, or one that is only planned) or
 * a program that `pin_cores run` started. One thread builds a scene, then it is read.
 */
#ifndef TOOLS_PIN_CORES_SCENE_H
#define TOOLS_PIN_CORES_SCENE_H

#include "core/host.h"
#include "placement/plan.h"

#include <sys/types.h>

#define ACTOR_NAME_BYTES 72

struct actor_thread {
	pid_t tid;  /* 0: not known, or only planned */
	int number; /* of the vCPU, or of the thread of a program */
	struct pu_set pus;
};

struct actor {
	char name[ACTOR_NAME_BYTES];
	const char *kind; /* "Alcazar", "QEMU", "planned" */
	const char *unit; /* what its threads are: "vCPU", "thread" */
	pid_t pid;        /* 0: none */
	bool planned;
	struct actor_thread *thread; /* ascending by number */
	unsigned nr_threads;
	struct pu_set claim;  /* PUs it wants to have, used or left idle */
	uint64_t *node_bytes; /* by logical node of the model */
};

/* A thread that is bound to one PU. */
struct seat {
	unsigned pu; /* OS index */
	unsigned actor, thread;
};

struct scene {
	struct machine_model m;
	struct actor *actor;
	unsigned nr_actors;
	double *load;      /* by logical PU, 0 to 1, -1 unknown; NULL: not measured */
	struct seat *seat; /* ascending by PU; scene_seat() */
	unsigned nr_seats;
};

void scene_free(struct scene *s); /* zeroed again */

/* A new actor, or NULL: no memory. Room for @threads; the caller fills it in. */
struct actor *scene_add(struct scene *s, const char *name, const char *kind, unsigned threads);
/* What is running: the ledger's machines, and those of other VMMs. -errno. */
int scene_add_running(struct scene *s);
int scene_add_plan(struct scene *s, const char *name, const struct plan *p);
/* Looks at the PUs for @ms. -errno. */
int scene_measure_load(struct scene *s, unsigned ms);

/* The PU to which a thread is bound alone, or MACHINE_NONE: several. By OS index. */
unsigned actor_thread_pu(const struct actor_thread *t);
/* May it run wherever this process may? Then it is not bound to anything. */
bool actor_thread_floats(const struct scene *s, const struct actor_thread *t);
unsigned actor_bound(const struct scene *s, const struct actor *a); /* threads that do not float */
uint64_t actor_bytes(const struct scene *s, const struct actor *a);

/* After the last actor: who sits where. -ENOMEM. */
int scene_seat(struct scene *s);
/* The seats on a PU, by OS index. */
const struct seat *scene_seats_on(const struct scene *s, unsigned pu, unsigned *nr);

#endif
