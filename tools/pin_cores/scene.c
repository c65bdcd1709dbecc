/* scene.c - see scene.h; running.c adds what runs. */
#include "scene.h"

#include "proc.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static void actor_free(struct actor *a)
{
	free(a->thread);
	free(a->node_bytes);
}

void scene_free(struct scene *s)
{
	for (unsigned i = 0; i < s->nr_actors; i++)
		actor_free(&s->actor[i]);
	free(s->actor);
	free(s->load);
	free(s->seat);
	machine_free(&s->m);
	*s = (struct scene){ 0 };
}

struct actor *scene_add(struct scene *s, const char *name, const char *kind, unsigned threads)
{
	struct actor *all = realloc(s->actor, sizeof(*all) * (s->nr_actors + 1)), *a;

	if (!all)
		return NULL;
	s->actor = all;
	a = &all[s->nr_actors];
	*a = (struct actor){
		.kind = kind,
		.unit = "vCPU",
		.thread = calloc(MAX(threads, 1), sizeof(*a->thread)),
		.nr_threads = threads,
		.node_bytes = calloc(MAX(s->m.nr_nodes, 1), sizeof(*a->node_bytes)),
	};
	if (!a->thread || !a->node_bytes) {
		actor_free(a);
		return NULL;
	}
	snprintf(a->name, sizeof(a->name), "%s", name);
	s->nr_actors++;
	return a;
}

int scene_add_plan(struct scene *s, const char *name, const struct plan *p)
{
	struct actor *a = scene_add(s, name, "planned", p->nr_vcpus);
	unsigned node;

	if (!a)
		return -ENOMEM;
	a->planned = true;
	a->claim = p->claim;
	for (unsigned i = 0; i < p->nr_vcpus; i++) {
		a->thread[i].number = (int)i;
		pu_set_add(&a->thread[i].pus, p->vcpu[i].pu);
	}
	for (unsigned i = 0; i < p->nr_memory; i++) {
		node = p->memory[i].host_node < 0
			       ? MACHINE_NONE
			       : machine_find_node(&s->m, (unsigned)p->memory[i].host_node);
		if (node != MACHINE_NONE)
			a->node_bytes[node] += p->memory[i].bytes;
	}
	return 0;
}

/* --- load -------------------------------------------------------------------------------- */

static void fill_load(struct scene *s, const struct proc_load *before,
		      const struct proc_load *after)
{
	for (unsigned i = 0; i < s->m.nr_pus; i++) {
		unsigned pu = s->m.pu[i].os_index;

		s->load[i] = pu < PU_SET_MAX ? proc_load_between(before, after, pu) : -1;
	}
}

int scene_measure_load(struct scene *s, unsigned ms)
{
	struct proc_load *at = calloc(2, sizeof(*at));
	struct timespec pause = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000l };
	int err = at ? 0 : -ENOMEM;

	s->load = calloc(MAX(s->m.nr_pus, 1), sizeof(*s->load));
	if (!s->load)
		err = -ENOMEM;
	if (!err)
		err = proc_load_read(&at[0]);
	if (!err) {
		nanosleep(&pause, NULL);
		err = proc_load_read(&at[1]);
	}
	if (!err)
		fill_load(s, &at[0], &at[1]);
	free(at);
	return err;
}

/* --- questions --------------------------------------------------------------------------- */

unsigned actor_thread_pu(const struct actor_thread *t)
{
	unsigned pu = pu_set_next(&t->pus, 0);

	if (pu == PU_SET_MAX || pu_set_next(&t->pus, pu + 1) != PU_SET_MAX)
		return MACHINE_NONE;
	return pu;
}

bool actor_thread_floats(const struct scene *s, const struct actor_thread *t)
{
	for (unsigned i = 0; i < s->m.nr_pus; i++)
		if (s->m.pu[i].usable && !pu_set_has(&t->pus, s->m.pu[i].os_index))
			return false;
	return true;
}

unsigned actor_bound(const struct scene *s, const struct actor *a)
{
	unsigned bound = 0;

	for (unsigned i = 0; i < a->nr_threads; i++)
		bound += actor_thread_pu(&a->thread[i]) != MACHINE_NONE ||
			 !actor_thread_floats(s, &a->thread[i]);
	return bound;
}

uint64_t actor_bytes(const struct scene *s, const struct actor *a)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < s->m.nr_nodes; i++)
		bytes += a->node_bytes[i];
	return bytes;
}

/* --- seats ------------------------------------------------------------------------------- */

static int by_pu(const void *a, const void *b)
{
	const struct seat *x = a, *y = b;

	if (x->pu != y->pu)
		return x->pu < y->pu ? -1 : 1;
	if (x->actor != y->actor)
		return x->actor < y->actor ? -1 : 1;
	return x->thread < y->thread ? -1 : x->thread > y->thread;
}

int scene_seat(struct scene *s)
{
	unsigned room = 0, pu;

	for (unsigned a = 0; a < s->nr_actors; a++)
		room += s->actor[a].nr_threads;
	s->seat = calloc(MAX(room, 1), sizeof(*s->seat));
	if (!s->seat)
		return -ENOMEM;
	for (unsigned a = 0; a < s->nr_actors; a++) {
		for (unsigned i = 0; i < s->actor[a].nr_threads; i++) {
			pu = actor_thread_pu(&s->actor[a].thread[i]);
			if (pu != MACHINE_NONE)
				s->seat[s->nr_seats++] =
					(struct seat){ .pu = pu, .actor = a, .thread = i };
		}
	}
	qsort(s->seat, s->nr_seats, sizeof(*s->seat), by_pu);
	return 0;
}

const struct seat *scene_seats_on(const struct scene *s, unsigned pu, unsigned *nr)
{
	unsigned first = 0, end = s->nr_seats, mid;

	while (first < end) {
		mid = first + (end - first) / 2;
		if (s->seat[mid].pu < pu)
			first = mid + 1;
		else
			end = mid;
	}
	for (*nr = 0; first + *nr < s->nr_seats && s->seat[first + *nr].pu == pu; ++*nr)
		;
	return &s->seat[first];
}
