/*
 * ps.c - `alcazar ps`: the machines that run, as the ledger has them.
 *
 * It takes no lock: each claim is read whole, and who starts or ends meanwhile is seen
 * or is not.
 */
#include "cmd.h"
#include "host/linux/ledger.h"
#include "host/linux/pu_list.h"
#include "options.h"
#include "report.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <time.h>

struct ps_options {
	bool json, help;
};

/* clang-format off */
static const struct option table[] = {
	{ "json", NULL, OPT_SWITCH, offsetof(struct ps_options, json),
	  .help = "as a JSON document" },
	{ "help", NULL, OPT_SWITCH, offsetof(struct ps_options, help),
	  .help = "this list" },
};
/* clang-format on */

static uint64_t uptime_s(const struct ledger_claim *c)
{
	struct timespec now;
	uint64_t now_ns;

	clock_gettime(CLOCK_BOOTTIME, &now);
	now_ns = (uint64_t)now.tv_sec * NSEC_PER_SEC + (uint64_t)now.tv_nsec;
	return now_ns > c->started_ns ? (now_ns - c->started_ns) / NSEC_PER_SEC : 0;
}

static bool common_pus(const struct ledger_claim *a, const struct ledger_claim *b,
		       struct pu_set *out)
{
	for (size_t i = 0; i < ARRAY_SIZE(out->word); i++)
		out->word[i] = a->pus.word[i] & b->pus.word[i];
	return pu_set_count(out) > 0;
}

/* --- text ------------------------------------------------------------------------- */

#define COLUMNS    9
#define CELL_BYTES 128

struct row {
	char cell[COLUMNS][CELL_BYTES];
};

/* Appends to a cell, which is cut when it is full. */
static void append(char *cell, const char *fmt, ...) __printf(2, 3);
static void append(char *cell, const char *fmt, ...)
{
	size_t n = strlen(cell);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(cell + n, CELL_BYTES - n, fmt, ap);
	va_end(ap);
}

static void write_uptime(char *cell, uint64_t s)
{
	static const struct {
		const char *fmt;
		uint64_t big, small;
	} unit[] = {
		{ "%llud%02lluh", 86400, 3600 },
		{ "%lluh%02llum", 3600, 60 },
		{ "%llum%02llus", 60, 1 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(unit); i++) {
		if (s < unit[i].big)
			continue;
		snprintf(cell, CELL_BYTES, unit[i].fmt, (unsigned long long)(s / unit[i].big),
			 (unsigned long long)(s % unit[i].big / unit[i].small));
		return;
	}
	snprintf(cell, CELL_BYTES, "%llus", (unsigned long long)s);
}

static void write_memory(char *cell, const struct ledger_claim *c)
{
	char size[SIZE_TEXT];

	for (unsigned i = 0; i < c->nr_memory; i++) {
		append(cell, "%s%s", i ? "," : "", size_text(c->memory[i].bytes, size));
		if (c->memory[i].host_node >= 0)
			append(cell, "@%d", c->memory[i].host_node);
	}
}

static void write_sharers(char *cell, const struct ledger_list *list, unsigned self)
{
	struct pu_set both;
	char pus[32];

	for (unsigned i = 0; i < list->nr; i++)
		if (i != self && common_pus(&list->claim[i], &list->claim[self], &both))
			append(cell, "%s%s:%s", *cell ? " " : "", list->claim[i].name,
			       pu_list_text(&both, pus, sizeof(pus)));
	if (!*cell)
		append(cell, "%s", list->claim[self].exclusive ? "never" : "-");
}

static void write_row(struct row *r, const struct ledger_list *list, unsigned i)
{
	const struct ledger_claim *c = &list->claim[i];

	append(r->cell[0], "%s", c->name);
	append(r->cell[1], "%d", (int)c->pid);
	append(r->cell[2], "%s", ledger_state_name(c->state));
	append(r->cell[3], "%s", *c->engine ? c->engine : "-");
	write_uptime(r->cell[4], uptime_s(c));
	append(r->cell[5], "%u", c->nr_vcpus);
	pu_list_text(&c->pus, r->cell[6], CELL_BYTES);
	write_memory(r->cell[7], c);
	write_sharers(r->cell[8], list, i);
}

static void print_rows(const struct row *row, unsigned nr)
{
	int width[COLUMNS] = { 0 };

	for (unsigned i = 0; i < nr; i++)
		for (unsigned k = 0; k < COLUMNS; k++)
			width[k] = MAX(width[k], (int)strlen(row[i].cell[k]));
	for (unsigned i = 0; i < nr; i++) {
		for (unsigned k = 0; k + 1 < COLUMNS; k++)
			printf("%-*s  ", width[k], row[i].cell[k]);
		printf("%s\n", row[i].cell[COLUMNS - 1]);
	}
}

static int print_text(const struct ledger_list *list)
{
	static const struct row head = { .cell = { "NAME", "PID", "STATE", "ENGINE", "UPTIME",
						   "VCPUS", "PUS", "MEMORY@NODE", "SHARES" } };
	struct row *row = calloc(list->nr + 1, sizeof(*row));

	if (!row)
		return internal_error("out of memory");
	row[0] = head;
	for (unsigned i = 0; i < list->nr; i++)
		write_row(&row[i + 1], list, i);
	print_rows(row, list->nr + 1);
	free(row);
	return finish_output(0);
}

/* --- JSON ------------------------------------------------------------------------- */

static json_t *set_json(const struct pu_set *s)
{
	json_t *pus = json_array();

	pu_set_for_each(pu, s) json_array_append_new(pus, json_integer(pu));
	return pus;
}

static json_t *vcpus_json(const struct ledger_claim *c)
{
	json_t *vcpus = json_array();

	for (unsigned i = 0; i < c->nr_vcpus; i++)
		json_array_append_new(vcpus, json_pack("{s:i s:i}", "id", i, "pu", c->vcpu[i]));
	return vcpus;
}

static json_t *io_json(const struct ledger_claim *c)
{
	json_t *io = json_array();

	for (unsigned i = 0; i < c->nr_io; i++)
		json_array_append_new(io, json_pack("{s:i s:i}", "node", c->io[i].node, "pu",
						    c->io[i].pu));
	return io;
}

static json_t *memory_json(const struct ledger_claim *c)
{
	json_t *memory = json_array();

	for (unsigned i = 0; i < c->nr_memory; i++)
		json_array_append_new(memory,
				      json_pack("{s:i s:i s:I s:I}", "guest_node",
						c->memory[i].guest_node, "host_node",
						c->memory[i].host_node, "bytes",
						(json_int_t)c->memory[i].bytes, "page_bytes",
						(json_int_t)c->memory[i].page_bytes));
	return memory;
}

static json_t *shares_json(const struct ledger_list *list, unsigned self)
{
	json_t *shares = json_array();
	struct pu_set both;

	for (unsigned i = 0; i < list->nr; i++)
		if (i != self && common_pus(&list->claim[i], &list->claim[self], &both))
			json_array_append_new(shares,
					      json_pack("{s:s s:o}", "with", list->claim[i].name,
							"pus", set_json(&both)));
	return shares;
}

static json_t *machine_json(const struct ledger_list *list, unsigned i)
{
	const struct ledger_claim *c = &list->claim[i];

	return json_pack("{s:s s:i s:s s:s s:I s:b s:o s:o s:o s:o s:o}", "name", c->name, "pid",
			 (int)c->pid, "state", ledger_state_name(c->state), "engine", c->engine,
			 "uptime_seconds", (json_int_t)uptime_s(c), "exclusive", (int)c->exclusive,
			 "pus", set_json(&c->pus), "vcpus", vcpus_json(c), "io", io_json(c),
			 "memory", memory_json(c), "shares", shares_json(list, i));
}

static int print_json(const struct ledger_list *list)
{
	json_t *machines = json_array(), *unreadable = json_array();

	for (unsigned i = 0; i < list->nr; i++)
		json_array_append_new(machines, machine_json(list, i));
	for (unsigned i = 0; i < list->nr_trouble; i++)
		json_array_append_new(unreadable,
				      json_pack("{s:s s:s}", "file", list->trouble[i].file, "why",
						list->trouble[i].why));
	return report_json(json_pack("{s:o s:o}", "machines", machines, "unreadable", unreadable),
			   JSON_INDENT(2), 0);
}

/* ---------------------------------------------------------------------------------- */

static int read_ledger(struct ledger_list *list)
{
	char why[LEDGER_WHY_BYTES];
	struct ledger *l;
	int err = ledger_open(NULL, false, &l, why, sizeof(why)), status = 0;

	if (err == -ENOENT)
		return 0;
	if (err)
		return user_error("%s", why);
	err = ledger_read(l, list);
	if (err)
		status = internal_error("%s: cannot be read: %s", ledger_path(l), strerror(-err));
	for (unsigned i = 0; i < list->nr_trouble; i++)
		user_error("%s/%s: %s: this machine is not shown", ledger_path(l),
			   list->trouble[i].file, list->trouble[i].why);
	ledger_close(l);
	return status;
}

static int ps(const struct ps_options *o)
{
	struct ledger_list list = { 0 };
	int status = read_ledger(&list);

	if (!status)
		status = o->json ? print_json(&list) : print_text(&list);
	ledger_list_free(&list);
	return status;
}

int cmd_ps(int argc, char **argv)
{
	struct option_set set = {
		.command = "ps",
		.summary = "Show the machines that run: yours, or root's.",
		.table = table,
		.nr = ARRAY_SIZE(table),
	};
	struct ps_options o = { 0 };
	int status;

	if (options_take(&set, argc, argv, &o, &o.help, &status))
		status = ps(&o);
	options_free(&set);
	return status;
}
