/*
 * test_pin_cores.c - what pin_cores is made of: /proc, slots, boxes, pictures, plans in
 * files, moving pages, binding all or none.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "host/linux/cmd/cmd.h"
#include "host/linux/host_linux.h"
#include "tools/pin_cores/bind.h"
#include "tools/pin_cores/boxes.h"
#include "tools/pin_cores/mover.h"
#include "tools/pin_cores/picture.h"
#include "tools/pin_cores/proc.h"
#include "tools/pin_cores/record.h"
#include "tools/pin_cores/resident.h"
#include "tools/pin_cores/slots.h"
#include "sanitizer.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static struct pu_set set_of(unsigned first, unsigned last)
{
	struct pu_set s = { 0 };

	for (unsigned i = first; i <= last; i++)
		pu_set_add(&s, i);
	return s;
}

static struct machine_model machine(const char *description)
{
	struct machine_model m = { 0 };
	char why[256];

	assert_int_equal(host_linux_topology_from(description, &m, why, sizeof(why)), 0);
	return m;
}

/* --- slots ------------------------------------------------------------------------------- */

static struct plan *plan_on(const unsigned *pu, unsigned nr)
{
	struct plan *p = calloc(1, sizeof(*p));

	assert_non_null(p);
	p->nr_vcpus = nr;
	p->nr_memory = 1;
	p->memory[0] = (struct plan_memory){ .host_node = 0, .bytes = MIB(8) };
	for (unsigned i = 0; i < nr; i++) {
		p->vcpu[i].pu = pu[i];
		pu_set_add(&p->claim, pu[i]);
	}
	return p;
}

static void threads_take_slots_in_order(void **state)
{
	static const unsigned pus[] = { 4, 6, 5 };
	struct plan *p = plan_on(pus, 3);
	struct slots *s = calloc(1, sizeof(*s));
	struct pu_set all = set_of(4, 6), one = set_of(4, 4);
	bool bind;

	slots_init(s, p);
	/* The first has the whole plan; those that it makes then have its PU. */
	assert_int_equal(slots_take(s, &all, &bind), 0);
	assert_true(bind);
	for (unsigned i = 1; i < 3; i++) {
		assert_int_equal(slots_take(s, &one, &bind), i);
		assert_true(bind);
	}
	/* One too many: it joins the first. */
	assert_int_equal(slots_take(s, &one, &bind), 0);
	/* A place that is free again is taken next. */
	slots_give_back(s, 1);
	assert_int_equal(slots_take(s, &one, &bind), 1);
	assert_true(bind);
	slots_give_back(s, SLOT_NONE);
	free(s);
	free(p);
}

static void threads_that_bound_themselves_are_left_alone(void **state)
{
	static const unsigned pus[] = { 0, 1, 2, 3 };
	struct plan *p = plan_on(pus, 4);
	struct slots *s = calloc(1, sizeof(*s));
	struct pu_set all = set_of(0, 3), two = set_of(2, 2), pair = set_of(0, 1);
	struct pu_set elsewhere = set_of(9, 9);
	bool bind;

	slots_init(s, p);
	assert_int_equal(slots_take(s, &all, &bind), 0);
	/* Nobody has PU 2: it cannot have been inherited. */
	assert_int_equal(slots_take(s, &two, &bind), 2);
	assert_false(bind);
	assert_int_equal(slots_take(s, &pair, &bind), SLOT_NONE);
	assert_false(bind);
	assert_int_equal(slots_take(s, &elsewhere, &bind), SLOT_NONE);
	assert_false(bind);
	/* And its PU counts as taken. */
	assert_int_equal(slots_take(s, &all, &bind), 1);
	assert_int_equal(slots_take(s, &all, &bind), 3);
	free(s);
	free(p);
}

/* --- /proc ------------------------------------------------------------------------------- */

static void *sleep_with_a_name(void *arg)
{
	pthread_barrier_t *b = arg;

	prctl(PR_SET_NAME, "a) R (b 1 2 3");
	pthread_barrier_wait(b);
	pthread_barrier_wait(b);
	return NULL;
}

static void names_may_hold_anything(void **state)
{
	struct proc_tasks t = { 0 };
	pthread_barrier_t b;
	pthread_t thread;
	const struct proc_task *main_task;
	unsigned found = 0;

	pthread_barrier_init(&b, NULL, 2);
	assert_int_equal(pthread_create(&thread, NULL, sleep_with_a_name, &b), 0);
	pthread_barrier_wait(&b);
	assert_int_equal(proc_tasks_read(getpid(), &t), 0);
	for (unsigned i = 0; i < t.nr; i++)
		found += !strcmp(t.task[i].name, "a) R (b 1 2 3");
	assert_int_equal(found, 1);
	main_task = proc_tasks_find(&t, getpid());
	assert_non_null(main_task);
	assert_ptr_equal(main_task, &t.task[0]);
	assert_int_equal(main_task->state, 'R');
	assert_true(pu_set_has(&main_task->affinity, main_task->pu));
	assert_null(proc_tasks_find(&t, 1));
	pthread_barrier_wait(&b);
	pthread_join(thread, NULL);
	proc_tasks_free(&t);
}

static pid_t dead_pid(void)
{
	pid_t pid = fork();

	if (!pid)
		_exit(0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	return pid;
}

static void ended_processes_are_told(void **state)
{
	struct proc_memory m;
	struct proc_tasks t = { 0 };
	uint64_t start;
	pid_t pid = dead_pid();
	char name[PROC_NAME_BYTES];

	assert_int_equal(proc_tasks_read(pid, &t), -ESRCH);
	assert_int_equal(proc_start_time(pid, &start), -ESRCH);
	assert_int_equal(proc_memory_read(pid, &m), -ESRCH);
	proc_name(pid, name);
	assert_string_equal(name, "?");
	assert_int_equal(proc_start_time(getpid(), &start), 0);
	assert_true(start > 0);
	proc_tasks_free(&t);
}

/* Two mappings: one that counts and a file's, which does not. */
static void memory_is_found(void **state)
{
	const size_t bytes = MIB(16);
	char *own = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct proc_memory before, after;
	bool found = false;

	assert_ptr_not_equal(own, MAP_FAILED);
	assert_int_equal(proc_memory_read(getpid(), &before), 0);
	memset(own, 1, bytes);
	assert_int_equal(proc_memory_read(getpid(), &after), 0);
	assert_in_range(after.bytes, before.bytes + bytes * 9 / 10,
			before.bytes + bytes * (2 + SHADOW_PAGES));
	for (unsigned i = 0; i < after.nr_regions; i++)
		found = found || (after.region[i].start <= (uintptr_t)own &&
				  after.region[i].end >= (uintptr_t)own + bytes);
	assert_true(found || !after.nr_regions);
	for (unsigned i = 1; i < after.nr_regions; i++)
		assert_true(after.region[i - 1].end <= after.region[i].start);
	proc_memory_free(&before);
	proc_memory_free(&after);
	munmap(own, bytes);
}

static void load_is_a_share(void **state)
{
	struct proc_load *at = calloc(3, sizeof(*at));

	assert_non_null(at);
	at[1].all[3] = 100;
	at[1].busy[3] = 25;
	assert_true(proc_load_between(&at[0], &at[1], 3) == 0.25);
	assert_true(proc_load_between(&at[0], &at[1], 4) < 0); /* nothing has passed */
	at[2].all[3] = 200;
	at[2].busy[3] = 20; /* idle time that ran backwards before */
	assert_true(proc_load_between(&at[1], &at[2], 3) < 0);
	assert_int_equal(proc_load_read(&at[0]), 0);
	free(at);
}

/* --- bind -------------------------------------------------------------------------------- */

static void binding_is_all_or_nothing(void **state)
{
	struct bind_one one[3] = { { .tid = getpid() }, { .tid = dead_pid(), .optional = true } };
	struct pu_set before, now;
	unsigned failed = 99, pu;

	assert_int_equal(proc_affinity_get(getpid(), &before), 0);
	pu = pu_set_next(&before, 0);
	for (unsigned i = 0; i < 3; i++)
		pu_set_add(&one[i].pus, pu);
	assert_int_equal(bind_all(one, 2, &failed), 0);
	assert_int_equal(proc_affinity_get(getpid(), &now), 0);
	assert_int_equal(pu_set_count(&now), 1);
	assert_int_equal(proc_affinity_set(getpid(), &before), 0);

	one[2].tid = one[1].tid;
	assert_int_equal(bind_all(one, 3, &failed), -ESRCH);
	assert_int_equal(failed, 2);
	assert_int_equal(proc_affinity_get(getpid(), &now), 0);
	assert_memory_equal(&now, &before, sizeof(now));
}

/* --- mover ------------------------------------------------------------------------------- */

static void memory_that_is_at_home_stays(void **state)
{
	const size_t bytes = MIB(8) + 4096;
	char *own = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct proc_region region = { .start = (uintptr_t)own,
				      .end = (uintptr_t)own + bytes,
				      .page_bytes = 4096 };
	struct proc_memory m = { .region = &region, .nr_regions = 1, .bytes = bytes };
	struct mover_home home = { .node = 0, .bytes = 1 };
	struct mover_result r;

	assert_ptr_not_equal(own, MAP_FAILED);
	memset(own, 0x5a, bytes / 2);
	madvise(own, bytes, MADV_NOHUGEPAGE);
	assert_int_equal(mover_run(getpid(), &m, &home, 1, NULL, NULL, &r), 0);
	assert_in_range(r.seen_bytes, bytes / 2, bytes);
	assert_int_equal(r.stuck_bytes, 0);
	for (size_t i = 0; i < bytes / 2; i++)
		assert_int_equal(own[i], 0x5a);
	assert_int_equal(mover_run(getpid(), &m, &home, 0, NULL, NULL, &r), -EINVAL);
	assert_int_equal(mover_run(dead_pid(), &m, &home, 1, NULL, NULL, &r), -ESRCH);
	munmap(own, bytes);
}

/* Pages 0, 1 and 7 of a mapping, by a scan and by reading. */
static void resident_pages_are_found(void **state)
{
	const size_t bytes = MIB(600);
	char *own = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint64_t base = (uintptr_t)own, end = base + bytes;
	struct resident *r = calloc(1, sizeof(*r));
	struct resident_run run;

	assert_ptr_not_equal(own, MAP_FAILED);
	assert_non_null(r);
	madvise(own, bytes, MADV_NOHUGEPAGE);
	own[0] = own[PAGE_SIZE] = own[7 * PAGE_SIZE] = 1;
	own[bytes - PAGE_SIZE] = 1; /* beyond what is read at a time */
	assert_int_equal(resident_open(r, getpid()), 0);
	for (unsigned way = 0; way < 2; way++) {
		resident_seek(r, base);
		assert_int_equal(resident_next(r, end, &run), 0);
		assert_int_equal(run.start, base);
		assert_int_equal(run.end, base + 2 * PAGE_SIZE);
		assert_int_equal(resident_next(r, end, &run), 0);
		assert_int_equal(run.start, base + 7 * PAGE_SIZE);
		assert_int_equal(run.end, base + 8 * PAGE_SIZE);
		assert_int_equal(resident_next(r, end, &run), 0);
		assert_int_equal(run.start, end - PAGE_SIZE);
		assert_int_equal(resident_next(r, end, &run), 0);
		assert_int_equal(run.start, run.end);
		r->scans = false;
	}
	resident_close(r);
	assert_int_equal(resident_open(r, dead_pid()), -ESRCH);
	resident_close(r);
	free(r);
	munmap(own, bytes);
}

/* --- boxes ------------------------------------------------------------------------------- */

static const struct box_style plain[BOX_KINDS] = {
	[BOX_MACHINE] = { .gap = 4, .aspect = 1.5 },
	[BOX_PACKAGE] = { .pad = 3, .head = 5, .gap = 2, .aspect = 1 },
	[BOX_NODE] = { .pad = 3, .head = 5, .gap = 2, .min_w = 40, .aspect = 1 },
	[BOX_CACHE] = { .pad = 1, .gap = 1, .aspect = 2 },
	[BOX_CORE] = { .pad = 1, .gap = 1, .aspect = 4 },
	[BOX_PU] = { .head = 8, .min_w = 8, .aspect = 1 },
};

static bool apart(const struct box *a, const struct box *b)
{
	return a->x + a->w <= b->x || b->x + b->w <= a->x || a->y + a->h <= b->y ||
	       b->y + b->h <= a->y;
}

/* Children lie within their parent, beside each other; returns how many PUs there are. */
static unsigned check_box(const struct box *b, unsigned *nodes)
{
	unsigned pus = b->kind == BOX_PU;

	*nodes += b->kind == BOX_NODE && !b->again;
	for (const struct box *c = b->child; c; c = c->next) {
		assert_true(c->x >= b->x && c->y >= b->y);
		assert_true(c->x + c->w <= b->x + b->w + 1e-9);
		assert_true(c->y + c->h <= b->y + b->h + 1e-9);
		for (const struct box *d = c->next; d; d = d->next)
			assert_true(apart(c, d));
		pus += check_box(c, nodes);
	}
	return pus;
}

static void boxes_nest(void **state)
{
	static const char *const machines[] = {
		"numa:1 core:1 pu:1",
		"pack:2 numa:2(memory=8GB) l3:2 core:4 pu:2",
		"numa:8(memory=16GB) core:16 pu:2",
		"numa:3 core:7 pu:1",
		"pack:64 numa:1 core:16 pu:1",
	};

	for (size_t i = 0; i < ARRAY_SIZE(machines); i++) {
		struct machine_model m = machine(machines[i]);
		struct box *root = boxes_make(&m, plain);
		unsigned nodes = 0;

		assert_non_null(root);
		assert_int_equal(check_box(root, &nodes), m.nr_pus);
		assert_int_equal(nodes, m.nr_nodes);
		assert_true(root->w / root->h > 0.2 && root->w / root->h < 8);
		boxes_free(root);
		machine_free(&m);
	}
}

/* A node of memory alone, one that spans two packages, PUs in no node. */
static void odd_machines_have_boxes(void **state)
{
	struct machine_model m = { 0 };
	struct box *root;
	unsigned nodes = 0;

	assert_int_equal(machine_alloc(&m, 6, 2), 0);
	m.nr_packages = 3;
	for (unsigned i = 0; i < 6; i++)
		m.pu[i] = (struct machine_pu){ .os_index = i,
					       .core = i,
					       .package = i / 2,
					       .node = i < 4 ? 0 : MACHINE_NONE,
					       .usable = true };
	m.node[1] = (struct machine_node){ .os_index = 7, .package = MACHINE_NONE };
	root = boxes_make(&m, plain);
	assert_non_null(root);
	assert_int_equal(check_box(root, &nodes), 6);
	assert_int_equal(nodes, 2 + 1); /* and the box of those in none */
	assert_true(root->child->next->child->again);
	boxes_free(root);
	boxes_free(NULL);
	machine_free(&m);
}

/* --- pictures ---------------------------------------------------------------------------- */

static char *paint(struct scene *s)
{
	char *text = NULL;
	size_t bytes;
	FILE *out = open_memstream(&text, &bytes);

	assert_non_null(out);
	assert_int_equal(scene_seat(s), 0);
	assert_int_equal(picture_draw(out, s), 0);
	fclose(out);
	return text;
}

/* Tags that open are closed in order, and nothing is in between that XML does not allow. */
static void assert_well_formed(const char *text)
{
	const char *stack[64];
	unsigned depth = 0;

	for (const char *at = text; *at; at++) {
		assert_true((unsigned char)*at >= ' ' || *at == '\n');
		if (*at == '&')
			assert_true(!strncmp(at, "&lt;", 4) || !strncmp(at, "&gt;", 4) ||
				    !strncmp(at, "&amp;", 5) || !strncmp(at, "&quot;", 6));
		if (*at != '<')
			continue;
		if (at[1] == '/') {
			size_t n = strcspn(at + 2, ">");

			assert_true(depth > 0);
			assert_int_equal(strncmp(stack[--depth], at + 2, n), 0);
		} else if (strchr(at, '>')[-1] != '/') {
			assert_true(depth < ARRAY_SIZE(stack));
			stack[depth++] = at + 1;
		}
		at = strchr(at, '>');
	}
	assert_int_equal(depth, 0);
}

static void hostile_names_stay_text(void **state)
{
	static const unsigned pus[] = { 0, 3 };
	struct scene s = { .m = machine("pack:2 numa:1(memory=1GB) core:2 pu:1") };
	struct plan *p = plan_on(pus, 2);
	char *text;

	snprintf(s.m.name, sizeof(s.m.name), "<script>\"&\033[31m");
	assert_int_equal(scene_add_plan(&s, "</svg><a href='x'>&\n", p), 0);
	text = paint(&s);
	assert_well_formed(text);
	assert_null(strstr(text, "<script"));
	assert_null(strstr(text, "<a "));
	assert_non_null(strstr(text, "&lt;/svg&gt;"));
	free(text);
	scene_free(&s);
	free(p);
}

static unsigned count(const char *text, const char *what)
{
	unsigned n = 0;

	for (; (text = strstr(text, what)); text += strlen(what))
		n++;
	return n;
}

/* Two machines on PU 1, more machines than have a line in the legend. */
static void shared_pus_are_told(void **state)
{
	static const unsigned one[] = { 1 }, none[] = { 0 };
	struct scene s = { .m = machine("numa:2(memory=1GB) core:2 pu:1") };
	struct plan *a = plan_on(one, 1), *b = plan_on(none, 1);
	unsigned nr;
	char *text;

	assert_int_equal(scene_add_plan(&s, "web", a), 0);
	assert_int_equal(scene_add_plan(&s, "db", a), 0);
	for (unsigned i = 0; i < 40; i++)
		assert_int_equal(scene_add_plan(&s, "many", b), 0);
	text = paint(&s);
	assert_well_formed(text);
	assert_non_null(scene_seats_on(&s, 1, &nr));
	assert_int_equal(nr, 2);
	scene_seats_on(&s, 2, &nr);
	assert_int_equal(nr, 0);
	assert_int_equal(count(text, "web vCPU 0"), 1);
	assert_int_equal(count(text, "and 18 more"), 1);
	assert_int_equal(count(text, "takes turns"), 1);
	free(text);
	scene_free(&s);
	free(a);
	free(b);
}

/* --- plans in files ---------------------------------------------------------------------- */

static int read_text(const char *text, struct record *r)
{
	char path[] = "/tmp/alcazar-plan-XXXXXX";
	int fd = mkstemp(path), null = open("/dev/null", O_WRONLY | O_CLOEXEC);
	int saved = dup(STDERR_FILENO), status;

	assert_true(fd >= 0 && null >= 0 && saved >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
	dup2(null, STDERR_FILENO);
	status = record_read(path, r);
	dup2(saved, STDERR_FILENO);
	close(saved);
	close(null);
	unlink(path);
	return status;
}

#define VCPUS  "\"vcpus\":[{\"id\":0,\"pu\":5,\"node\":0,\"host_node\":1}]"
#define MEMORY "\"memory\":[{\"guest_node\":0,\"host_node\":1,\"bytes\":4096}]"

static void plans_are_read(void **state)
{
	struct record *r = calloc(1, sizeof(*r));

	assert_non_null(r);
	assert_int_equal(read_text("{" VCPUS "," MEMORY "}", r), 0);
	assert_int_equal(r->plan.nr_vcpus, 1);
	assert_int_equal(r->plan.vcpu[0].pu, 5);
	assert_int_equal(r->plan.memory[0].host_node, 1);
	assert_int_equal(r->pid, 0);
	assert_int_equal(read_text("{" VCPUS "," MEMORY
				   ",\"pid\":7,\"start\":9,\"tids\":[8],\"memory_moved\":true}",
				   r),
			 0);
	assert_int_equal(r->pid, 7);
	assert_int_equal(r->start, 9);
	assert_int_equal(r->tid[0], 8);
	assert_true(r->memory);
	free(r);
}

static void spoilt_plans_are_refused(void **state)
{
	static const char *const spoilt[] = {
		"",
		"{",
		"[]",
		"null",
		"{" VCPUS "}",
		"{" MEMORY "}",
		"{\"vcpus\":{}," MEMORY "}",
		"{\"vcpus\":[]," MEMORY "}",
		"{" VCPUS ",\"memory\":[]}",
		"{" VCPUS ",\"memory\":[7]}",
		"{\"vcpus\":[{\"id\":1,\"pu\":5,\"node\":0,\"host_node\":1}]," MEMORY "}",
		"{\"vcpus\":[{\"id\":0,\"pu\":4096,\"node\":0,\"host_node\":1}]," MEMORY "}",
		"{\"vcpus\":[{\"id\":0,\"pu\":-1,\"node\":0,\"host_node\":1}]," MEMORY "}",
		"{\"vcpus\":[{\"id\":0,\"pu\":0,\"node\":1,\"host_node\":1}]," MEMORY "}",
		"{\"vcpus\":[{\"id\":0,\"pu\":0,\"node\":64,\"host_node\":1}]," MEMORY "}",
		"{\"vcpus\":[{\"id\":0,\"pu\":0.5,\"node\":0,\"host_node\":1}]," MEMORY "}",
		"{" VCPUS ",\"memory\":[{\"guest_node\":0,\"host_node\":99999,\"bytes\":1}]}",
		"{" VCPUS ",\"memory\":[{\"guest_node\":0,\"host_node\":0,\"bytes\":-1}]}",
		"{" VCPUS "," MEMORY ",\"pid\":7}",
		"{" VCPUS "," MEMORY ",\"pid\":7,\"start\":9,\"tids\":[8,9]}",
		"{" VCPUS "," MEMORY ",\"pid\":7,\"start\":9,\"tids\":[-8]}",
		"{" VCPUS "," MEMORY ",\"pid\":7,\"start\":9,\"tids\":{\"a\":1}}",
		"{" VCPUS "," MEMORY ",\"tids\":[8]}",
	};
	struct record *r = calloc(1, sizeof(*r));

	assert_non_null(r);
	for (size_t i = 0; i < ARRAY_SIZE(spoilt); i++)
		assert_int_equal(read_text(spoilt[i], r), STATUS_USER);
	free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(threads_take_slots_in_order),
		cmocka_unit_test(threads_that_bound_themselves_are_left_alone),
		cmocka_unit_test(names_may_hold_anything),
		cmocka_unit_test(ended_processes_are_told),
		cmocka_unit_test(memory_is_found),
		cmocka_unit_test(load_is_a_share),
		cmocka_unit_test(binding_is_all_or_nothing),
		cmocka_unit_test(memory_that_is_at_home_stays),
		cmocka_unit_test(resident_pages_are_found),
		cmocka_unit_test(boxes_nest),
		cmocka_unit_test(odd_machines_have_boxes),
		cmocka_unit_test(hostile_names_stay_text),
		cmocka_unit_test(shared_pus_are_told),
		cmocka_unit_test(plans_are_read),
		cmocka_unit_test(spoilt_plans_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
