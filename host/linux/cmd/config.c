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
#define WORDS_MAX      8 /* of a record */
#define RECORD_BYTES   256

struct config {
	const char *path;
	struct option_set *set;
	uint8_t *data;
	size_t bytes;
	unsigned line[OPTIONS_MAX];   /* of each key; 0: not there */
	const char *key[OPTIONS_MAX]; /* as it was written there: an option's name or its plural */
};

struct config_record {
	char *word[WORDS_MAX]; /* values, in the order of the option's choices */
};

/* What libcyaml fills: one slot an option, of which a text or a list is used. */
struct config_slot {
	char *text;
	char **list;
	struct config_record *record;
	unsigned count;
};

struct config_values {
	struct config_slot slot[OPTIONS_MAX];
};

/* A schema made from the table of options. */
struct config_schema {
	cyaml_schema_field_t field[OPTIONS_MAX + 1];
	cyaml_schema_field_t word[OPTIONS_MAX][WORDS_MAX + 1];
	cyaml_schema_value_t record[OPTIONS_MAX];
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

static bool is_list_of(const yaml_node_t *value)
{
	return value->type == YAML_SEQUENCE_NODE;
}

/* The option of that name, or the one whose values a list of this name holds. */
static int find_option(const struct config *c, const char *name, const yaml_node_t *value)
{
	for (unsigned i = 0; i < c->set->nr && is_list_of(value); i++)
		if (c->set->table[i].plural && !strcmp(c->set->table[i].plural, name))
			return (int)i;
	return options_find(c->set, name);
}

static int note_key(struct config *c, const yaml_node_t *key, const yaml_node_t *value,
		    unsigned *index)
{
	const yaml_mark_t *at = &key->start_mark;
	const char *name;
	char what[160];
	int i;

	if (key->type != YAML_SCALAR_NODE)
		return complain_at(c, at, "a key must be the name of an option");
	name = (const char *)key->data.scalar.value;
	i = find_option(c, name, value);
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
	c->key[i] = !strcmp(name, c->set->table[i].name) ? c->set->table[i].name
							 : c->set->table[i].plural;
	*index = (unsigned)i;
	return 0;
}

static int word_index(const struct option *o, const char *name)
{
	for (int i = 0; o->choices[i]; i++)
		if (!strcmp(o->choices[i], name))
			return i;
	return -1;
}

/* One word of a record: known, not yet there, and without what separates words on a line. */
static int check_word(struct config *c, const struct option *o, const yaml_node_t *key,
		      const yaml_node_t *value, unsigned *seen)
{
	const char *name =
		key->type == YAML_SCALAR_NODE ? (const char *)key->data.scalar.value : "?";
	int i = word_index(o, name);
	char what[160];

	if (i < 0) {
		snprintf(what, sizeof(what), "%s: %.60s: no such key:", o->name, name);
		for (unsigned n = 0; o->choices[n]; n++)
			snprintf(what + strlen(what), sizeof(what) - strlen(what), " %s",
				 o->choices[n]);
		return complain_at(c, &key->start_mark, what);
	}
	if (*seen & BIT(i)) {
		snprintf(what, sizeof(what), "%s: %s: is there already", o->name, name);
		return complain_at(c, &key->start_mark, what);
	}
	*seen |= BIT(i);
	if (value->type == YAML_SCALAR_NODE && value->data.scalar.length &&
	    value->data.scalar.length < RECORD_BYTES / WORDS_MAX &&
	    !strpbrk((const char *)value->data.scalar.value, ",;="))
		return 0;
	snprintf(what, sizeof(what), "%s: %s: one short value is needed", o->name, name);
	return complain_at(c, &value->start_mark, what);
}

static int check_record(struct config *c, yaml_document_t *doc, const yaml_node_t *item,
			const struct option *o)
{
	unsigned seen = 0;
	char what[160];
	int status = 0;

	if (item->type != YAML_MAPPING_NODE) {
		snprintf(what, sizeof(what), "%s: a list of mappings is needed: - { %s: ... }",
			 o->name, o->choices[0]);
		return complain_at(c, &item->start_mark, what);
	}
	for (yaml_node_pair_t *p = item->data.mapping.pairs.start;
	     p < item->data.mapping.pairs.top && !status; p++)
		status = check_word(c, o, yaml_document_get_node(doc, p->key),
				    yaml_document_get_node(doc, p->value), &seen);
	return status;
}

static int check_item(struct config *c, yaml_document_t *doc, const yaml_node_t *item,
		      const struct option *o)
{
	char what[160];

	if (o->kind == OPT_RECORD)
		return check_record(c, doc, item, o);
	if (item->type == YAML_SCALAR_NODE)
		return 0;
	snprintf(what, sizeof(what), "%s: a list of single values is needed: [a, b]", o->name);
	return complain_at(c, &item->start_mark, what);
}

static int check_value(struct config *c, yaml_document_t *doc, const yaml_node_t *value,
		       const struct option *o)
{
	yaml_node_item_t *first = value->data.sequence.items.start;
	char what[160];
	int status = 0;

	if (o->kind != OPT_LIST && o->kind != OPT_RECORD) {
		if (value->type == YAML_SCALAR_NODE)
			return 0;
		snprintf(what, sizeof(what), "%s: one value is needed", o->name);
		return complain_at(c, &value->start_mark, what);
	}
	snprintf(what, sizeof(what), "%s: a list of up to %u values is needed: %s", o->name,
		 LIST_ITEMS_MAX, o->kind == OPT_LIST ? "[a, b]" : "- a: 1");
	if (!is_list_of(value) || value->data.sequence.items.top - first > LIST_ITEMS_MAX)
		return complain_at(c, &value->start_mark, what);
	for (yaml_node_item_t *i = first; i < value->data.sequence.items.top && !status; i++)
		status = check_item(c, doc, yaml_document_get_node(doc, *i), o);
	return status;
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
		const yaml_node_t *value = yaml_document_get_node(doc, p->value);
		unsigned index = 0;
		int status = note_key(c, yaml_document_get_node(doc, p->key), value, &index);

		if (!status)
			status = check_value(c, doc, value, &c->set->table[index]);
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

/* Of a record: a mapping with a text for each of its words. */
static void record_schema(struct config_schema *schema, const struct option *o, unsigned index)
{
	cyaml_schema_field_t *word = schema->word[index];

	for (unsigned i = 0; o->choices[i] && i < WORDS_MAX; i++)
		word[i] = (cyaml_schema_field_t){
			.key = o->choices[i],
			.data_offset = (uint32_t)(i * sizeof(char *)),
			.value = { CYAML_VALUE_STRING(CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL,
						      char, 0, UINT32_MAX) },
		};
	schema->record[index] =
		(cyaml_schema_value_t){ CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT,
							    struct config_record, word) };
}

static cyaml_schema_field_t field_for(const struct config *c, struct config_schema *schema,
				      unsigned index)
{
	const struct option *o = &c->set->table[index];
	uint32_t base = (uint32_t)(index * sizeof(struct config_slot));
	cyaml_schema_field_t field = {
		.key = c->key[index],
		.data_offset = base + (uint32_t)offsetof(struct config_slot, text),
		.count_offset = base + (uint32_t)offsetof(struct config_slot, count),
		.count_size = sizeof(unsigned),
	};

	if (o->kind == OPT_RECORD) {
		record_schema(schema, o, index);
		field.data_offset = base + (uint32_t)offsetof(struct config_slot, record);
		field.value = (cyaml_schema_value_t){
			CYAML_VALUE_SEQUENCE(CYAML_FLAG_POINTER, struct config_record,
					     &schema->record[index], 0, LIST_ITEMS_MAX)
		};
	} else if (o->kind == OPT_LIST) {
		field.data_offset = base + (uint32_t)offsetof(struct config_slot, list);
		field.value = (cyaml_schema_value_t){ CYAML_VALUE_SEQUENCE(
			CYAML_FLAG_POINTER, char *, &list_entry, 0, LIST_ITEMS_MAX) };
	} else {
		field.value = (cyaml_schema_value_t){ CYAML_VALUE_STRING(CYAML_FLAG_POINTER, char,
									 0, UINT32_MAX) };
	}
	return field;
}

/* As on a command line: "cpus=0-3,memory=2G". */
static void join_words(const struct option *o, const struct config_record *r, char *out)
{
	*out = '\0';
	for (unsigned i = 0; o->choices[i]; i++)
		if (r->word[i])
			snprintf(out + strlen(out), RECORD_BYTES - strlen(out), "%s%s=%s",
				 *out ? "," : "", o->choices[i], r->word[i]);
}

static int hand_over(struct config *c, const struct config_values *v)
{
	for (unsigned i = 0; i < c->set->nr; i++) {
		const struct config_slot *slot = &v->slot[i];
		char label[512], record[RECORD_BYTES];
		int status = 0;

		if (!c->line[i])
			continue;
		snprintf(label, sizeof(label), "%s:%u: %s", c->path, c->line[i], c->key[i]);
		if (slot->text)
			status = options_add(c->set, i, label, slot->text, false);
		for (unsigned n = 0; n < slot->count && !status; n++) {
			if (slot->record)
				join_words(&c->set->table[i], &slot->record[n], record);
			status = options_add(c->set, i, label,
					     slot->record ? record : slot->list[n], false);
		}
		if (status)
			return status;
	}
	return 0;
}

static int load_values(struct config *c)
{
	static const cyaml_config_t config = { .mem_fn = cyaml_mem, .flags = CYAML_CFG_NO_ALIAS };
	struct config_schema *schema = calloc(1, sizeof(*schema));
	struct config_values *values = NULL;
	cyaml_schema_value_t top;
	unsigned nr = 0;
	cyaml_err_t err;
	int status;

	if (!schema)
		return internal_error("out of memory");
	for (unsigned i = 0; i < c->set->nr; i++)
		if (c->line[i])
			schema->field[nr++] = field_for(c, schema, i);
	top = (cyaml_schema_value_t){ CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, struct config_values,
							  schema->field) };
	err = cyaml_load_data(c->data, c->bytes, &config, &top, (cyaml_data_t **)&values, NULL);
	if (err != CYAML_OK)
		status = user_error("--config %s: %s", c->path, cyaml_strerror(err));
	else
		status = hand_over(c, values);
	cyaml_free(&config, &top, values, 0);
	free(schema);
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
