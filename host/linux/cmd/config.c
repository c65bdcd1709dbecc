/*
 * config.c - see config.h.
 *
 * Two passes over one copy of the file. libyaml tells the line of every key, so that
 * complaints can name it (libcyaml reports the token before); libcyaml then loads
 * the values by a schema made from the table of options. Values stay texts:
 * options_apply() judges them, as it judges those of flags.
 */
#include "config.h"

#include "cmd.h"

#include <cyaml/cyaml.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <yaml.h>

#define FILE_BYTES_MAX MIB(1)
#define LIST_ITEMS_MAX 256

struct config {
	const char *path;
	struct option_set *set;
	uint8_t *data;
	size_t bytes;
	unsigned line[OPTIONS_MAX]; /* of each key; 0: not there */
};

/* What libcyaml fills: one slot an option, of which a text or a list is used. */
struct config_slot {
	char *text;
	char **list;
	unsigned list_count;
};

struct config_values {
	struct config_slot slot[OPTIONS_MAX];
};

/* --- the file --------------------------------------------------------------------- */

static const char *read_all(int fd, struct config *c)
{
	ssize_t n;

	c->data = malloc(FILE_BYTES_MAX + 1);
	if (!c->data)
		return "out of memory";
	while (c->bytes <= FILE_BYTES_MAX) {
		n = read(fd, c->data + c->bytes, FILE_BYTES_MAX + 1 - c->bytes);
		if (n < 0)
			return errno == EISDIR ? "a directory: name a file" : strerror(errno);
		if (!n)
			return NULL;
		c->bytes += (size_t)n;
	}
	return "more than 1M: not a configuration file";
}

static int load_file(struct config *c)
{
	int fd = open(c->path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	const char *complaint;

	if (fd < 0)
		return user_error("--config %s: %s: name a file that can be read", c->path,
				  strerror(errno));
	complaint = read_all(fd, c);
	close(fd);
	return complaint ? user_error("--config %s: %s", c->path, complaint) : 0;
}

/* --- lines ------------------------------------------------------------------------ */

static int complain_at(const struct config *c, const yaml_mark_t *at, const char *what)
{
	return user_error("%s:%zu: %s", c->path, at->line + 1, what);
}

static int note_key(struct config *c, const yaml_node_t *key, unsigned *index)
{
	const yaml_mark_t *at = &key->start_mark;
	const char *name;
	char what[160];
	int i;

	if (key->type != YAML_SCALAR_NODE)
		return complain_at(c, at, "a key must be the name of an option");
	name = (const char *)key->data.scalar.value;
	i = options_find(c->set, name);
	if (i < 0 || c->set->table[i].flag_only) {
		snprintf(what, sizeof(what), "%.60s: %s", name,
			 i < 0 ? "no such key: `alcazar run --help` lists them"
			       : "works as a flag only");
		return complain_at(c, at, what);
	}
	if (c->line[i]) {
		snprintf(what, sizeof(what), "%s: is there already, on line %u: keep one", name,
			 c->line[i]);
		return complain_at(c, at, what);
	}
	c->line[i] = (unsigned)at->line + 1;
	*index = (unsigned)i;
	return 0;
}

static int check_value(struct config *c, yaml_document_t *doc, const yaml_node_t *value,
		       const struct option *o)
{
	char what[160];

	if (o->kind != OPT_LIST) {
		if (value->type == YAML_SCALAR_NODE)
			return 0;
		snprintf(what, sizeof(what), "%s: one value is needed", o->name);
		return complain_at(c, &value->start_mark, what);
	}
	snprintf(what, sizeof(what), "%s: a list of up to %u values is needed: [a, b]", o->name,
		 LIST_ITEMS_MAX);
	if (value->type != YAML_SEQUENCE_NODE)
		return complain_at(c, &value->start_mark, what);
	for (yaml_node_item_t *i = value->data.sequence.items.start;
	     i < value->data.sequence.items.top; i++) {
		const yaml_node_t *item = yaml_document_get_node(doc, *i);

		if (item->type != YAML_SCALAR_NODE ||
		    i - value->data.sequence.items.start >= LIST_ITEMS_MAX)
			return complain_at(c, &item->start_mark, what);
	}
	return 0;
}

static int check_root(struct config *c, yaml_document_t *doc)
{
	yaml_node_t *root = yaml_document_get_root_node(doc);

	if (!root)
		return user_error("%s: is empty: write `key: value` lines", c->path);
	if (root->type != YAML_MAPPING_NODE)
		return complain_at(c, &root->start_mark, "`key: value` lines are needed");
	for (yaml_node_pair_t *p = root->data.mapping.pairs.start; p < root->data.mapping.pairs.top;
	     p++) {
		unsigned index = 0;
		int status = note_key(c, yaml_document_get_node(doc, p->key), &index);

		if (!status)
			status = check_value(c, doc, yaml_document_get_node(doc, p->value),
					     &c->set->table[index]);
		if (status)
			return status;
	}
	return 0;
}

static int find_lines(struct config *c)
{
	yaml_document_t doc;
	yaml_parser_t parser;
	int status;

	if (!yaml_parser_initialize(&parser))
		return internal_error("out of memory");
	yaml_parser_set_input_string(&parser, c->data, c->bytes);
	if (yaml_parser_load(&parser, &doc)) {
		status = check_root(c, &doc);
		yaml_document_delete(&doc);
	} else {
		status = complain_at(c, &parser.problem_mark,
				     parser.problem ? parser.problem : "not YAML");
	}
	yaml_parser_delete(&parser);
	return status;
}

/* --- values ----------------------------------------------------------------------- */

static const cyaml_schema_value_t list_entry = {
	CYAML_VALUE_STRING(CYAML_FLAG_POINTER, char, 0, UINT32_MAX),
};

static cyaml_schema_field_t field_for(const struct option *o, unsigned index)
{
	uint32_t base = (uint32_t)(index * sizeof(struct config_slot));
	cyaml_schema_field_t field = { .key = o->name };

	if (o->kind == OPT_LIST) {
		field.data_offset = base + (uint32_t)offsetof(struct config_slot, list);
		field.count_offset = base + (uint32_t)offsetof(struct config_slot, list_count);
		field.count_size = sizeof(unsigned);
		field.value = (cyaml_schema_value_t){
			CYAML_VALUE_SEQUENCE(CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, char *,
					     &list_entry, 0, LIST_ITEMS_MAX)
		};
	} else {
		field.data_offset = base + (uint32_t)offsetof(struct config_slot, text);
		field.value = (cyaml_schema_value_t){ CYAML_VALUE_STRING(
			CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, char, 0, UINT32_MAX) };
	}
	return field;
}

static int hand_over(struct config *c, const struct config_values *v)
{
	for (unsigned i = 0; i < c->set->nr; i++) {
		char label[512];
		int status = 0;

		snprintf(label, sizeof(label), "%s:%u: %s", c->path, c->line[i],
			 c->set->table[i].name);
		if (v->slot[i].text)
			status = options_add(c->set, i, label, v->slot[i].text, false);
		for (unsigned n = 0; n < v->slot[i].list_count && !status; n++)
			status = options_add(c->set, i, label, v->slot[i].list[n], false);
		if (status)
			return status;
	}
	return 0;
}

static int load_values(struct config *c)
{
	static const cyaml_config_t config = { .mem_fn = cyaml_mem, .flags = CYAML_CFG_NO_ALIAS };
	cyaml_schema_field_t fields[OPTIONS_MAX + 1] = { 0 };
	cyaml_schema_value_t top = { CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, struct config_values,
							 fields) };
	struct config_values *values = NULL;
	unsigned nr = 0;
	cyaml_err_t err;
	int status;

	for (unsigned i = 0; i < c->set->nr; i++)
		if (!c->set->table[i].flag_only)
			fields[nr++] = field_for(&c->set->table[i], i);
	err = cyaml_load_data(c->data, c->bytes, &config, &top, (cyaml_data_t **)&values, NULL);
	if (err != CYAML_OK)
		return user_error("--config %s: %s", c->path, cyaml_strerror(err));
	status = hand_over(c, values);
	cyaml_free(&config, &top, values, 0);
	return status;
}

int config_read(const char *path, struct option_set *s)
{
	struct config c = { .path = path, .set = s };
	int status = load_file(&c);

	if (!status)
		status = find_lines(&c);
	if (!status)
		status = load_values(&c);
	free(c.data);
	return status;
}
