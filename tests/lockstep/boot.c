/*
 * boot.c - a stock boot by the interpreter and by the translator in lockstep.
 *
 *	boot KERNEL INITRD [--insns N] [--slice N] [--seed N] [--loose] [--append TEXT]
 *	     [--code-cache BYTES]
 *
 * Two machines of one vCPU, each with its own memory and devices, count their
 * instructions. Both stop after the same numbers of them, at random distances of
 * 1 to --slice, and leave a hash of their processor's state, every few million
 * instructions one of their memory, too. Where hashes part the boot is repeated up
 * to the last equal ones, and the distance from there is cut by halves until one
 * more instruction makes the difference: what both end with, and the way there, is
 * printed. Without --loose the translator is told to keep flags as the interpreter
 * does even where only a fault handler could see them; with it, arithmetic flags
 * and memory, where handlers save them, are not compared.
 */
#include "tests/unit/compare.h"

#include "core/vm.h"
#include "cpu/decode.h"
#include "cpu/soft.h"
#include "host/linux/host_linux.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define RAM_BYTES    MIB(256)
#define MEMORY_EVERY 10000000ull /* instructions between hashes of memory */
#define WAY_MAX      4096        /* instructions kept of the way to a difference */

enum side_id { INTERP, SOFT, SIDES };

struct options {
	const char *append;
	uint64_t insns, slice, seed, code_cache_bytes;
	enum compare_flags compare;
};

/* Where to stop: the same pseudo-random sequence on both sides. */
struct schedule {
	uint64_t random, slice;
};

/* A pass: how far, and what to keep at its end. */
struct pass {
	uint64_t first;  /* stops before this one are those of the schedule */
	uint64_t beyond; /* then one more, after so many instructions; 0: go on for ever */
	bool keep;       /* states at the end, and the way to it */
};

struct way {
	uint64_t rip;
	uint8_t code[INSN_BYTES_MAX];
};

struct side {
	struct engine_ops engine;
	const struct engine_ops *real;
	struct run *run;
	struct vm *vm;
	struct schedule schedule;
	uint64_t stops, next_memory;
	struct cpu_state state; /* at the last stop */
	uint64_t *page_hash;    /* with pass.keep */
};

struct run {
	const struct options *o;
	const struct pass *pass;
	struct host host;
	struct side side[SIDES];
	/* The interpreter's hashes, which the translator's are held against. */
	uint64_t *hash;
	size_t room;
	_Atomic uint64_t nr_hashes;
	pthread_mutex_t lock; /* hash and room */
	_Atomic bool ended[SIDES];
	_Atomic uint64_t parted; /* the first stop at which they differ, + 1 */
	uint64_t insns_before;   /* at the stop before it */
	struct way way[WAY_MAX];
	unsigned nr_way;
};

static void die(const char *what)
{
	fprintf(stderr, "lockstep: %s\n", what);
	exit(2);
}

/* --- what both sides do --------------------------------------------------------------- */

static uint64_t schedule_next(struct schedule *s)
{
	s->random = s->random * 6364136223846793005ull + 1442695040888963407ull;
	return 1 + (s->random >> 33) % s->slice;
}

static uint64_t memory_hash(struct side *s, uint64_t *pages)
{
	const struct host_mem *r = &s->vm->region[0];
	uint64_t h = 0;

	for (uint64_t at = 0; at < r->bytes; at += PAGE_SIZE) {
		uint64_t one = bytes_hash((uint8_t *)r->base + at, PAGE_SIZE, at);

		if (pages)
			pages[at / PAGE_SIZE] = one;
		h = h * 31 + one;
	}
	return h;
}

static void put_hash(struct run *r, uint64_t h)
{
	uint64_t n = atomic_load(&r->nr_hashes);

	pthread_mutex_lock(&r->lock);
	if (n == r->room) {
		r->room = r->room ? r->room * 2 : 1 << 20;
		r->hash = realloc(r->hash, r->room * sizeof(*r->hash));
		if (!r->hash)
			die("out of memory");
	}
	r->hash[n] = h;
	pthread_mutex_unlock(&r->lock);
	atomic_store(&r->nr_hashes, n + 1);
}

/* The interpreter's hash number @n; false: it never got there. */
static bool get_hash(struct run *r, uint64_t n, uint64_t *h)
{
	while (atomic_load(&r->nr_hashes) <= n) {
		if (atomic_load(&r->ended[INTERP]) && atomic_load(&r->nr_hashes) <= n)
			return false;
		usleep(1000);
	}
	pthread_mutex_lock(&r->lock);
	*h = r->hash[n];
	pthread_mutex_unlock(&r->lock);
	return true;
}

static bool is_last(const struct side *s)
{
	const struct pass *p = s->run->pass;

	return p->beyond ? s->stops == p->first + 1
			 : cpu_of(s->vm->vcpu[0])->insns >= s->run->o->insns;
}

/* One stop. False: this was the last. */
static bool stop_at(struct side *s, struct cpu *c)
{
	struct run *r = s->run;
	bool last;
	uint64_t h, other = 0;

	s->stops++;
	last = is_last(s);
	s->real->get_state(c->vcpu, &s->state);
	h = state_hash(&s->state, r->o->compare) + clock_ticks(&s->vm->clock);
	if (r->o->compare == COMPARE_ALL && (last || c->insns >= s->next_memory)) {
		s->next_memory = c->insns + MEMORY_EVERY;
		h += memory_hash(s, last && r->pass->keep ? s->page_hash : NULL);
	}
	if (s == &r->side[INTERP]) {
		put_hash(r, h);
	} else if (!get_hash(r, s->stops - 1, &other) || other != h) {
		atomic_store(&r->parted, s->stops);
		return false;
	}
	if (s == &r->side[SOFT] && !last)
		r->insns_before = c->insns;
	return !last && !atomic_load(&r->parted);
}

static void note_way(struct run *r, struct cpu *c)
{
	struct way *w = &r->way[r->nr_way++ % WAY_MAX];

	w->rip = c->s.rip;
	memset(w->code, 0, sizeof(w->code));
	vmm_read_gva(c->vm, 0, w->rip, w->code, sizeof(w->code));
}

/* To the next stop. The interpreter, to be asked for the way, goes step by step. */
static void plan_pause(struct side *s, struct cpu *c)
{
	const struct pass *p = s->run->pass;

	c->insns_pause +=
		p->beyond && s->stops >= p->first ? p->beyond : schedule_next(&s->schedule);
}

static int side_run(struct vcpu *v, struct vcpu_exit *x)
{
	struct side *s = v->vm->cfg.arg;
	struct run *r = s->run;
	struct cpu *c = cpu_of(v);
	bool step = r->pass->keep && s == &r->side[INTERP] && s->stops == r->pass->first;
	uint64_t goal;
	int err;

	if (c->insns_pause == UINT64_MAX) {
		c->insns_pause = 0;
		plan_pause(s, c);
		step = r->pass->keep && s == &r->side[INTERP] && s->stops == r->pass->first;
	}
	goal = c->insns_pause;
	if (step) {
		note_way(r, c);
		c->insns_pause = MIN(goal, c->insns + 1);
	}
	err = s->real->run(v, x);
	c->insns_pause = goal;
	if (err || x->reason != EXIT_KICK || c->insns < goal)
		return err;
	if (stop_at(s, c))
		plan_pause(s, c);
	else
		vmm_stop(v->vm);
	return 0;
}

/* --- a pass ------------------------------------------------------------------------------ */

static struct boot_image map_file(const char *path)
{
	struct boot_image image = { .name = path };
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || fstat(fd, &st))
		die(path);
	image.bytes = (size_t)st.st_size;
	image.data = mmap(NULL, image.bytes, PROT_READ, MAP_PRIVATE, fd, 0);
	if (image.data == MAP_FAILED)
		die(path);
	close(fd);
	return image;
}

static struct boot_image kernel, initrd;
static struct machine_model machine;

static void create_side(struct run *r, enum side_id id)
{
	struct side *s = &r->side[id];
	struct plan_request req = { .vcpus = SIDES, .nodes = 1, .memory_bytes = RAM_BYTES };
	struct vmm_config cfg = {
		.name = id == INTERP ? "interp" : "soft",
		.engine = &s->engine,
		.clock = CLOCK_ICOUNT,
		.topo = { .vcpus = 1, .nodes = 1, .node_memory_bytes = { RAM_BYTES } },
		.kernel = kernel,
		.initrd = initrd,
		.cmdline = r->o->append,
		.code_cache_bytes = r->o->code_cache_bytes,
		.exact_flags = r->o->compare == COMPARE_ALL,
		.arg = s,
	};
	static struct plan plan;
	char why[300] = "";

	s->run = r;
	s->real = id == INTERP ? &engine_interp : &engine_soft;
	s->engine = *s->real;
	s->engine.run = side_run;
	s->schedule = (struct schedule){ r->o->seed, r->o->slice };
	if (plan_make(&machine, &req, &plan, why, sizeof(why)))
		die(why);
	plan.vcpu[0] = plan.vcpu[id];
	plan.nr_vcpus = 1;
	cfg.plan = &plan;
	if (vmm_create(&r->host, &cfg, &s->vm, why, sizeof(why)))
		die(why);
}

static void *wait_side(void *arg)
{
	struct side *s = arg;
	struct run *r = s->run;
	struct vmm_result result = { 0 };

	vmm_wait(s->vm, HOST_FOREVER, &result);
	atomic_store(&r->ended[s - r->side], true);
	if (result.end == VMM_ERROR)
		fprintf(stderr, "lockstep: %s: %s\n", s->real->name, result.detail);
	return NULL;
}

/* Both machines from their start to the end of the pass. */
static void run_pass(struct run *r)
{
	pthread_t waiter[SIDES];
	char why[300] = "";

	atomic_store(&r->nr_hashes, 0);
	atomic_store(&r->parted, 0);
	r->nr_way = 0;
	for (unsigned i = 0; i < SIDES; i++) {
		struct side *s = &r->side[i];

		s->stops = s->next_memory = 0;
		atomic_store(&r->ended[i], false);
		create_side(r, i);
	}
	for (unsigned i = 0; i < SIDES; i++)
		if (vmm_start(r->side[i].vm, why, sizeof(why)) ||
		    pthread_create(&waiter[i], NULL, wait_side, &r->side[i]))
			die(why);
	pthread_join(waiter[SOFT], NULL);
	vmm_stop(r->side[INTERP].vm);
	pthread_join(waiter[INTERP], NULL);
}

static void end_pass(struct run *r)
{
	for (unsigned i = 0; i < SIDES; i++)
		vmm_destroy(r->side[i].vm);
}

/* --- a difference -------------------------------------------------------------------------- */

static void show_way(const struct run *r)
{
	unsigned from = r->nr_way > 80 ? r->nr_way - 80 : 0;
	ZydisDisassembledInstruction d;

	for (unsigned i = from; i < r->nr_way; i++) {
		const struct way *w = &r->way[i % WAY_MAX];

		if (ZYAN_SUCCESS(ZydisDisassembleIntel(ZYDIS_MACHINE_MODE_LONG_64, w->rip, w->code,
						       sizeof(w->code), &d)))
			printf("  %016llx %s\n", (unsigned long long)w->rip, d.text);
	}
}

static void show_memory(const struct run *r)
{
	unsigned shown = 0;

	for (uint64_t i = 0; i < RAM_BYTES / PAGE_SIZE && shown < 16; i++) {
		const uint8_t *a = (uint8_t *)r->side[0].vm->region[0].base + i * PAGE_SIZE;
		const uint8_t *b = (uint8_t *)r->side[1].vm->region[0].base + i * PAGE_SIZE;

		for (unsigned at = 0; at < PAGE_SIZE && shown < 16; at += 8) {
			unsigned long long va = load_u64(a + at), vb = load_u64(b + at);

			if (va == vb)
				continue;
			printf("  [%#llx]  interp %#llx, soft %#llx\n",
			       (unsigned long long)(i * PAGE_SIZE + at), va, vb);
			shown++;
		}
	}
}

/* Stop number @at, @length instructions after the one before it, differs: narrow it down. */
static void explain(struct run *r, uint64_t at, uint64_t length)
{
	struct pass pass = { .first = at - 1 };
	uint64_t lo = 0, hi = length;

	r->pass = &pass;
	while (hi - lo > 1) {
		pass.beyond = (lo + hi) / 2;
		run_pass(r);
		if (atomic_load(&r->parted))
			hi = pass.beyond;
		else
			lo = pass.beyond;
		end_pass(r);
	}
	pass.beyond = hi;
	pass.keep = true;
	run_pass(r);
	printf("%llu instructions after the stop before:\n", (unsigned long long)hi);
	show_way(r);
	state_show(&r->side[INTERP].state, &r->side[SOFT].state, "interp", "soft");
	printf("  stops %llu and %llu, ticks %llu and %llu\n",
	       (unsigned long long)r->side[INTERP].stops, (unsigned long long)r->side[SOFT].stops,
	       (unsigned long long)clock_ticks(&r->side[INTERP].vm->clock),
	       (unsigned long long)clock_ticks(&r->side[SOFT].vm->clock));
	show_memory(r);
	end_pass(r);
}

/* --- the command line ----------------------------------------------------------------------- */

static void parse(struct options *o, int argc, char **argv)
{
	for (int i = 3; i < argc; i++) {
		const char *value = i + 1 < argc ? argv[i + 1] : NULL;

		if (!strcmp(argv[i], "--loose")) {
			o->compare = COMPARE_NO_FLAGS;
			continue;
		}
		if (!value)
			die("an option lacks its value");
		if (!strcmp(argv[i], "--insns"))
			o->insns = strtoull(value, NULL, 0);
		else if (!strcmp(argv[i], "--slice"))
			o->slice = strtoull(value, NULL, 0);
		else if (!strcmp(argv[i], "--seed"))
			o->seed = strtoull(value, NULL, 0);
		else if (!strcmp(argv[i], "--append"))
			o->append = value;
		else if (!strcmp(argv[i], "--code-cache"))
			o->code_cache_bytes = strtoull(value, NULL, 0);
		else
			die("unknown option");
		i++;
	}
	if (!o->slice)
		die("--slice: at least 1");
}

int main(int argc, char **argv)
{
	static const struct pass whole;
	static struct run r = { .lock = PTHREAD_MUTEX_INITIALIZER };
	struct options o = {
		.append = "console=ttyS0 panic=-1 quiet alcazar.test=boot",
		.insns = UINT64_MAX,
		.slice = 500,
		.seed = 1,
	};
	uint64_t parted, length;

	if (argc < 3)
		die("usage: boot KERNEL INITRD [OPTION...]; boot.c tells of them");
	parse(&o, argc, argv);
	kernel = map_file(argv[1]);
	initrd = map_file(argv[2]);
	r.o = &o;
	r.pass = &whole;
	for (unsigned i = 0; i < SIDES; i++)
		r.side[i].page_hash = calloc(RAM_BYTES / PAGE_SIZE, sizeof(uint64_t));
	if (host_linux_create(&r.host) || r.host.ops->topology(r.host.ctx, &machine))
		die("no host");
	host_linux_log_level(&r.host, LOG_ERR);
	run_pass(&r);
	parted = atomic_load(&r.parted);
	length = cpu_of(r.side[SOFT].vm->vcpu[0])->insns - r.insns_before;
	if (!parted && r.side[INTERP].stops != r.side[SOFT].stops)
		printf("interp ended later: %llu stops against %llu\n",
		       (unsigned long long)r.side[INTERP].stops,
		       (unsigned long long)r.side[SOFT].stops);
	printf("%llu stops, %llu instructions, translator interpreted %llu\n",
	       (unsigned long long)r.side[SOFT].stops,
	       (unsigned long long)cpu_of(r.side[SOFT].vm->vcpu[0])->insns,
	       (unsigned long long)vmm_stat(r.side[SOFT].vm, 0, STAT_INTERPRETED));
	printf("%s 1 - interpreter and translator agree\n1..1\n", parted ? "not ok" : "ok");
	end_pass(&r);
	if (parted) {
		printf("they part between %llu and %llu instructions\n",
		       (unsigned long long)r.insns_before,
		       (unsigned long long)(r.insns_before + length));
		explain(&r, parted, length);
	}
	host_linux_destroy(&r.host);
	return parted ? 1 : 0;
}
