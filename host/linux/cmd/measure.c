/* measure.c - see measure.h. A file that does not fit this machine is not looked at. */
#include "measure.h"

#include "cmd.h"
#include "host/linux/host_linux.h"

#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static bool state_dir(char dir[PATH_MAX])
{
	const char *xdg = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
	int n;

	if (xdg && *xdg == '/')
		n = snprintf(dir, PATH_MAX, "%s/alcazar", xdg);
	else if (!geteuid())
		n = snprintf(dir, PATH_MAX, "/var/lib/alcazar");
	else if (home && *home == '/')
		n = snprintf(dir, PATH_MAX, "%s/.local/state/alcazar", home);
	else
		return false;
	return n < PATH_MAX - 32;
}

static bool state_file(char path[PATH_MAX])
{
	if (!state_dir(path))
		return false;
	strcat(path, "/memory.json");
	return true;
}

/* The directory and those above it. */
static int make_dirs(char *path)
{
	for (char *p = strchr(path + 1, '/'); p; p = strchr(p + 1, '/')) {
		*p = '\0';
		if (mkdir(path, 0755) && errno != EEXIST) {
			*p = '/';
			return -errno;
		}
		*p = '/';
	}
	return 0;
}

/* --- the file ------------------------------------------------------------------------- */

static json_t *matrix_json(const struct machine_model *m, const unsigned *value)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < m->nr_nodes * m->nr_nodes; i++)
		json_array_append_new(list, json_integer(value[i]));
	return list;
}

static bool is_of(const struct machine_model *m, const json_t *doc)
{
	const char *name = json_string_value(json_object_get(doc, "machine"));
	const json_t *nodes = json_object_get(doc, "nodes");

	if (!name || strcmp(name, m->name) != 0 || json_array_size(nodes) != m->nr_nodes ||
	    json_integer_value(json_object_get(doc, "pus")) != m->nr_pus)
		return false;
	for (unsigned i = 0; i < m->nr_nodes; i++)
		if (json_integer_value(json_array_get(nodes, i)) != m->node[i].os_index)
			return false;
	return true;
}

static unsigned *matrix_from(const struct machine_model *m, const json_t *list)
{
	size_t nr = (size_t)m->nr_nodes * m->nr_nodes;
	unsigned *value = json_array_size(list) == nr ? calloc(nr, sizeof(*value)) : NULL;

	for (size_t i = 0; value && i < nr; i++) {
		json_int_t n = json_integer_value(json_array_get(list, i));

		if (n < 1 || n > INT32_MAX) {
			free(value);
			return NULL;
		}
		value[i] = (unsigned)n;
	}
	return value;
}

/* What takes longest to reach is farthest: 10 is the nearest. */
static void distances_from_latencies(struct machine_model *m)
{
	unsigned nr = m->nr_nodes * m->nr_nodes, least = UINT32_MAX;

	for (unsigned i = 0; i < nr; i++)
		least = MIN(least, m->latency_ns[i]);
	for (unsigned i = 0; i < nr && least; i++)
		m->distance[i] =
			i % (m->nr_nodes + 1)
				? MIN(MAX((10 * m->latency_ns[i] + least / 2) / least, 11u), 254u)
				: 10;
}

void measure_load(struct machine_model *m)
{
	char path[PATH_MAX];
	json_t *doc = m->nr_nodes && state_file(path) ? json_load_file(path, 0, NULL) : NULL;

	if (doc && is_of(m, doc)) {
		m->latency_ns = matrix_from(m, json_object_get(doc, "latency_ns"));
		m->bandwidth_mibs = matrix_from(m, json_object_get(doc, "bandwidth_mibs"));
		if (m->latency_ns && !m->has_distances)
			distances_from_latencies(m);
	}
	json_decref(doc);
}

static int save(const struct machine_model *m)
{
	char path[PATH_MAX], temporary[PATH_MAX + 8];
	json_t *nodes = json_array(), *doc;
	int err = state_file(path) ? make_dirs(path) : -ENOENT;

	for (unsigned i = 0; i < m->nr_nodes; i++)
		json_array_append_new(nodes, json_integer(m->node[i].os_index));
	doc = json_pack("{s:s s:i s:o s:o s:o}", "machine", m->name, "pus", m->nr_pus, "nodes",
			nodes, "latency_ns", matrix_json(m, m->latency_ns), "bandwidth_mibs",
			matrix_json(m, m->bandwidth_mibs));
	snprintf(temporary, sizeof(temporary), "%s.new", path);
	if (!err &&
	    (!doc || json_dump_file(doc, temporary, JSON_COMPACT) || rename(temporary, path)))
		err = errno ? -errno : -EIO;
	json_decref(doc);
	return err;
}

/* --- measuring ------------------------------------------------------------------------ */

static void show_progress(void *arg, unsigned done, unsigned all)
{
	fprintf(stderr, "\rmeasuring node pairs: %u of %u%s", done, all, done == all ? "\n" : "");
}

int measure_now(const struct host *host, struct machine_model *m)
{
	int err = host_linux_measure(host, m, isatty(STDERR_FILENO) ? show_progress : NULL, NULL);

	if (err)
		return internal_error("cannot measure memory: %s", strerror(-err));
	err = save(m);
	if (err)
		fprintf(stderr, "alcazar: what was measured is not kept: %s\n", strerror(-err));
	return 0;
}
