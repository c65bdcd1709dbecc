/*
 * test_plan_regret.c - how far plans are from the best there is.
 *
 * On random small machines an exact solver enumerates homes and where every vCPU's
 * node is, cutting branches by what they cost already. Plans are judged by a checker of
 * its own, which knows nothing but the machine and who was put where: the mean
 * distance from a vCPU to its memory plus the pairs of vCPUs on one core. Regret is
 * (cost - optimum) / (random - optimum), where random is the mean of random placements.
 *
 * ALCAZAR_PLAN_CASES sets how many machines are tried (500).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "placement/plan.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define NODES      5
#define GUESTS     4
#define CORES      4 /* of a node */
#define SMT        2
#define IMPOSSIBLE 1e30

static uint64_t seed;

static unsigned draw(unsigned below)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return (unsigned)((seed >> 33) % below);
}

/* --- cases ------------------------------------------------------------------------------ */

struct trial {
	struct machine_model m;
	struct plan_request r;
	struct plan_node_request node[GUESTS];
	unsigned usable; /* PUs */
	uint64_t seed;
};

static void draw_machine(struct trial *t)
{
	struct machine_model *m = &t->m;
	unsigned nodes = 1 + draw(NODES), cores = 1 + draw(CORES), smt = 1 + draw(SMT);

	assert_int_equal(machine_alloc(m, nodes * cores * smt, nodes), 0);
	m->nr_cores = nodes * cores;
	t->usable = 0;
	for (unsigned i = 0; i < m->nr_pus; i++) {
		m->pu[i] = (struct machine_pu){ .os_index = i * 7 % 1021,
						.core = i / smt,
						.smt = i % smt,
						.llc = i / smt / cores,
						.package = i / smt / cores,
						.node = i / smt / cores,
						.usable = draw(6) != 0 };
		t->usable += m->pu[i].usable;
	}
	for (unsigned i = 0; i < nodes; i++) {
		m->node[i] = (struct machine_node){ .os_index = i * 3 + 2,
						    .package = i,
						    .usable = draw(9) != 0,
						    .memory_bytes = GIB(2),
						    .free_bytes = MIB(draw(5) ? 400 + draw(1600)
									      : draw(300)) };
		for (unsigned j = 0; j < i; j++)
			m->distance[i * nodes + j] = m->distance[j * nodes + i] = 11 + draw(30);
	}
}

static void draw_request(struct trial *t)
{
	unsigned vcpus = 1 + draw(MIN(t->usable, 9u)),
		 guests = 1 + draw(MIN(vcpus, (unsigned)GUESTS));

	t->r = (struct plan_request){ .vcpus = vcpus, .nodes = guests };
	if (draw(2)) {
		t->r.memory_bytes = MIB(guests + draw(1500));
		return;
	}
	t->r.node = t->node;
	for (unsigned g = 0; g < guests; g++) {
		t->node[g] = (struct plan_node_request){ .vcpus = 1, .host_node = -1 };
		t->node[g].memory_bytes = MIB(1 + draw(700));
		t->r.memory_bytes += t->node[g].memory_bytes;
	}
	for (unsigned v = guests; v < vcpus; v++)
		t->node[draw(guests)].vcpus++;
}

/* --- the checker ------------------------------------------------------------------------ */

static const struct machine_pu *pu_called(const struct machine_model *m, unsigned os_index)
{
	for (unsigned i = 0; i < m->nr_pus; i++)
		if (m->pu[i].os_index == os_index)
			return &m->pu[i];
	fail();
	return NULL;
}

static unsigned node_called(const struct machine_model *m, int os_index)
{
	for (unsigned i = 0; i < m->nr_nodes; i++)
		if ((int)m->node[i].os_index == os_index)
			return i;
	fail();
	return 0;
}

static double judge(const struct machine_model *m, const struct plan *p)
{
	double distance = 0, pairs = 0;

	for (unsigned i = 0; i < p->nr_vcpus; i++) {
		const struct machine_pu *a = pu_called(m, p->vcpu[i].pu);
		unsigned home = node_called(m, p->memory[p->vcpu[i].guest_node].host_node);

		assert_true(a->usable);
		distance += m->distance[a->node * m->nr_nodes + home];
		for (unsigned j = 0; j < i; j++) {
			const struct machine_pu *b = pu_called(m, p->vcpu[j].pu);

			assert_ptr_not_equal(a, b); /* PUs suffice in these cases */
			pairs += a->core == b->core;
		}
	}
	return distance / p->nr_vcpus + pairs;
}

static void check_room(const struct machine_model *m, const struct plan_request *r,
		       const struct plan *p)
{
	uint64_t left[NODES], sum = 0;

	for (unsigned n = 0; n < m->nr_nodes; n++)
		left[n] = m->node[n].usable ? m->node[n].free_bytes : 0;
	for (unsigned g = 0; g < p->nr_memory; g++) {
		unsigned home = node_called(m, p->memory[g].host_node);

		assert_true(left[home] >= p->memory[g].bytes);
		left[home] -= p->memory[g].bytes;
		sum += p->memory[g].bytes;
		if (r->node)
			assert_true(p->memory[g].bytes == r->node[g].memory_bytes);
	}
	assert_true(sum == r->memory_bytes);
}

/* --- the exact solver ------------------------------------------------------------------- */

struct exact {
	const struct machine_model *m;
	unsigned guests, vcpus[GUESTS];
	uint64_t bytes[GUESTS];
	unsigned home[GUESTS], load[NODES];
	unsigned pairs[NODES][CORES * SMT + 1]; /* the fewest, by load */
	unsigned capacity[NODES];
	double best;
	double random_sum;
	unsigned randoms;
};

static void exact_begin(struct exact *e, const struct trial *t)
{
	uint64_t mib = t->r.memory_bytes >> 20;
	unsigned n = t->r.nodes;

	*e = (struct exact){ .m = &t->m, .guests = n, .best = IMPOSSIBLE };
	for (unsigned g = 0; g < n; g++) {
		e->vcpus[g] = t->r.vcpus / n + (g < t->r.vcpus % n);
		e->bytes[g] = (mib / n + (g < mib % n)) << 20;
		if (t->r.node) {
			e->vcpus[g] = t->r.node[g].vcpus;
			e->bytes[g] = t->r.node[g].memory_bytes;
		}
	}
	for (unsigned node = 0; node < t->m.nr_nodes; node++) {
		unsigned cores = 0, last = UINT32_MAX;

		for (unsigned i = 0; i < t->m.nr_pus; i++) {
			if (t->m.pu[i].node != node || !t->m.pu[i].usable)
				continue;
			e->capacity[node]++;
			cores += t->m.pu[i].core != last;
			last = t->m.pu[i].core;
		}
		for (unsigned l = cores + 1; l <= e->capacity[node]; l++)
			e->pairs[node][l] = l - cores; /* two PUs a core at most */
	}
}

static void exact_vcpus(struct exact *e, unsigned g, unsigned node, unsigned left, double sum,
			double pairs, unsigned total)
{
	if (sum / total + pairs >= e->best)
		return;
	if (g == e->guests) {
		e->best = sum / total + pairs;
		return;
	}
	if (node == e->m->nr_nodes) {
		if (!left)
			exact_vcpus(e, g + 1, 0, g + 1 < e->guests ? e->vcpus[g + 1] : 0, sum,
				    pairs, total);
		return;
	}
	for (unsigned k = 0; k <= left && e->load[node] + k <= e->capacity[node]; k++) {
		unsigned before = e->pairs[node][e->load[node]];
		unsigned d = e->m->distance[node * e->m->nr_nodes + e->home[g]];

		e->load[node] += k;
		exact_vcpus(e, g, node + 1, left - k, sum + (double)d * k,
			    pairs + e->pairs[node][e->load[node]] - before, total);
		e->load[node] -= k;
	}
}

/* A placement by chance, for these homes. */
static double random_cost(const struct exact *e, unsigned total)
{
	unsigned picked[9], nr = 0;
	double sum = 0, pairs = 0;

	for (unsigned g = 0; g < e->guests; g++) {
		for (unsigned i = 0; i < e->vcpus[g]; i++) {
			unsigned pu;
			bool again;

			do {
				pu = draw(e->m->nr_pus);
				again = !e->m->pu[pu].usable;
				for (unsigned j = 0; j < nr; j++)
					again |= picked[j] == pu;
			} while (again);
			sum += e->m->distance[e->m->pu[pu].node * e->m->nr_nodes + e->home[g]];
			for (unsigned j = 0; j < nr; j++)
				pairs += e->m->pu[picked[j]].core == e->m->pu[pu].core;
			picked[nr++] = pu;
		}
	}
	return sum / total + pairs;
}

static void exact_homes(struct exact *e, unsigned g, uint64_t *left, unsigned total)
{
	if (g == e->guests) {
		for (unsigned i = 0; i < 4; i++, e->randoms++)
			e->random_sum += random_cost(e, total);
		exact_vcpus(e, 0, 0, e->vcpus[0], 0, 0, total);
		return;
	}
	for (unsigned n = 0; n < e->m->nr_nodes; n++) {
		if (left[n] < e->bytes[g])
			continue;
		left[n] -= e->bytes[g];
		e->home[g] = n;
		exact_homes(e, g + 1, left, total);
		left[n] += e->bytes[g];
	}
}

static void solve_exactly(struct exact *e, const struct trial *t)
{
	uint64_t left[NODES];

	exact_begin(e, t);
	for (unsigned n = 0; n < t->m.nr_nodes; n++)
		left[n] = t->m.node[n].usable ? t->m.node[n].free_bytes : 0;
	exact_homes(e, 0, left, t->r.vcpus);
}

/* --- the figures ------------------------------------------------------------------------ */

struct figures {
	unsigned cases, refused, exact;
	double sum, worst;
};

static void try_one(struct trial *t, struct figures *f)
{
	static struct plan p;
	static struct exact e;
	char why[256];
	double cost, random, regret;
	int err = plan_make(&t->m, &t->r, &p, why, sizeof(why));

	solve_exactly(&e, t);
	f->cases++;
	if (err) {
		assert_int_equal(err, -ENOSPC);
		assert_true(e.best == IMPOSSIBLE); /* no false "does not fit" */
		f->refused++;
		return;
	}
	assert_true(e.best < IMPOSSIBLE);
	check_room(&t->m, &t->r, &p);
	cost = judge(&t->m, &p);
	assert_true(cost > e.best - 1e-9);
	assert_true(__builtin_fabs(cost - p.cost.access - p.cost.smt) <
		    1e-9); /* it says so itself */
	random = e.random_sum / e.randoms;
	regret = random > e.best + 1e-9 ? (cost - e.best) / (random - e.best) : cost - e.best;
	f->exact += regret < 1e-9;
	f->sum += regret;
	if (regret > 0.02)
		printf("# seed %llu: %u nodes, %u guests, %u vCPUs: cost %g, optimum %g, random %g\n",
		       (unsigned long long)t->seed, t->m.nr_nodes, t->r.nodes, t->r.vcpus, cost,
		       e.best, random);
	f->worst = MAX(f->worst, regret);
}

static void regret_is_small(void **state)
{
	const char *asked = getenv("ALCAZAR_PLAN_CASES");
	unsigned cases = asked ? (unsigned)atoi(asked) : 500, planned;
	struct figures f = { 0 };

	for (unsigned i = 0; i < cases; i++) {
		struct trial t = { .seed = i * 1000003ull + 17 };

		seed = t.seed;
		draw(2);
		do {
			machine_free(&t.m);
			draw_machine(&t);
		} while (!t.usable);
		draw_request(&t);
		try_one(&t, &f);
		machine_free(&t.m);
	}
	planned = f.cases - f.refused;
	printf("# %u cases, %u refused, %u exact, mean regret %.4f %%, worst %.4f %%\n", f.cases,
	       f.refused, f.exact, 100 * f.sum / planned, 100 * f.worst);
	assert_true(planned > cases / 2 && f.refused > cases / 100);
	assert_true(f.sum / planned <= 0.01);
	assert_true(f.worst <= 0.05);
}

int main(void)
{
	static const struct CMUnitTest tests[] = { cmocka_unit_test(regret_is_small) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
