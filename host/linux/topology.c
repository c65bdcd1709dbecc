/*
 * topology.c - hwloc's view of a machine, turned into the model that placement reads.
 *
 * PUs that are offline or forbidden to this process stay in the model, unusable, so
 * that `alcazar topology` shows the whole host and placement stays off them.
 */
#include "linux.h"

#include <errno.h>
#include <hwloc.h>
#include <stdio.h>

/* The machine-wide index of @pu's ancestor of @type; PUs without one count as index 0. */
static unsigned ancestor_index(hwloc_topology_t t, hwloc_obj_t pu, hwloc_obj_type_t type)
{
	hwloc_obj_t o = hwloc_get_ancestor_obj_by_type(t, type, pu);

	return o ? o->logical_index : 0;
}

static hwloc_obj_t outermost_cache(hwloc_obj_t pu)
{
	hwloc_obj_t cache = NULL;

	for (hwloc_obj_t o = pu->parent; o; o = o->parent)
		if (hwloc_obj_type_is_dcache(o->type))
			cache = o;
	return cache;
}

static hwloc_obj_t cache_of_level(hwloc_obj_t pu, hwloc_obj_type_t type)
{
	for (hwloc_obj_t o = pu->parent; o; o = o->parent)
		if (o->type == type)
			return o;
	return NULL;
}

static uint64_t cache_bytes(hwloc_obj_t cache)
{
	return cache ? cache->attr->cache.size : 0;
}

/* The nearest node: the one that spans the fewest PUs; among equals the first. */
static unsigned local_node(hwloc_topology_t t, hwloc_obj_t pu, unsigned nr_nodes)
{
	unsigned best = MACHINE_NONE;
	int best_weight = 0;

	for (unsigned i = 0; i < nr_nodes; i++) {
		hwloc_obj_t node = hwloc_get_obj_by_type(t, HWLOC_OBJ_NUMANODE, i);
		int weight = hwloc_bitmap_weight(node->cpuset);

		if (!hwloc_bitmap_isset(node->cpuset, pu->os_index))
			continue;
		if (best == MACHINE_NONE || weight < best_weight) {
			best = i;
			best_weight = weight;
		}
	}
	return best;
}

/* hwloc numbers last-level caches per level; a machine-wide number comes from their order. */
static void fill_pus(hwloc_topology_t t, struct machine_model *m, const struct pu_set *allowed)
{
	hwloc_const_cpuset_t online = hwloc_topology_get_allowed_cpuset(t);
	hwloc_obj_t last_llc = NULL, last_core = NULL;
	unsigned llc = 0, core = 0, smt = 0;

	for (unsigned i = 0; i < m->nr_pus; i++) {
		hwloc_obj_t pu = hwloc_get_obj_by_type(t, HWLOC_OBJ_PU, i);
		hwloc_obj_t this_core = hwloc_get_ancestor_obj_by_type(t, HWLOC_OBJ_CORE, pu);
		hwloc_obj_t this_llc = outermost_cache(pu);

		if (i && (!this_core || this_core != last_core)) {
			core++;
			smt = 0;
		} else if (i) {
			smt++;
		}
		if (i && this_llc != last_llc)
			llc++;
		last_core = this_core;
		last_llc = this_llc;
		m->pu[i] = (struct machine_pu){
			.os_index = pu->os_index,
			.core = core,
			.smt = smt,
			.llc = llc,
			.die = ancestor_index(t, pu, HWLOC_OBJ_DIE),
			.package = ancestor_index(t, pu, HWLOC_OBJ_PACKAGE),
			.node = local_node(t, pu, m->nr_nodes),
			.usable = pu->os_index < PU_SET_MAX &&
				  hwloc_bitmap_isset(online, pu->os_index) &&
				  (!allowed || pu_set_has(allowed, pu->os_index)),
		};
		if (!hwloc_get_ancestor_obj_by_type(t, HWLOC_OBJ_DIE, pu))
			m->pu[i].die = m->pu[i].package;
	}
	m->nr_cores = core + 1;
	m->nr_llcs = llc + 1;
}

/* hwloc knows the sizes and how many there are; how many are free, only the live host. */
static void fill_huge_pages(const struct hwloc_numanode_attr_s *attr, struct machine_node *n)
{
	unsigned nr = 0;

	for (unsigned i = 0; i < attr->page_types_len && nr < MACHINE_PAGE_SIZES; i++) {
		if (attr->page_types[i].size <= PAGE_SIZE)
			continue;
		n->huge[nr++] = (struct machine_pages){ .bytes = attr->page_types[i].size,
							.total = attr->page_types[i].count,
							.free = attr->page_types[i].count };
	}
}

/* hwloc's figures stay where the kernel tells none. */
static void refresh_node(const struct machine_model *m, struct machine_node *n, uint64_t limit)
{
	uint64_t left = n->memory_bytes;

	if (m->nr_nodes == 1)
		linux_meminfo_system(&n->memory_bytes, &left);
	else
		linux_meminfo_node(n->os_index, &n->memory_bytes, &left);
	n->free_bytes = MIN(MIN(left, n->memory_bytes), limit);
	linux_meminfo_huge(n->os_index, n->huge);
}

void host_linux_refresh_memory(struct machine_model *m)
{
	struct mem_limit limit;

	linux_group_memory(&limit);
	for (unsigned i = 0; i < m->nr_nodes; i++)
		refresh_node(m, &m->node[i], limit.free_bytes);
}

static void fill_nodes(hwloc_topology_t t, struct machine_model *m, bool live)
{
	hwloc_const_nodeset_t allowed = hwloc_topology_get_allowed_nodeset(t);

	for (unsigned i = 0; i < m->nr_nodes; i++) {
		hwloc_obj_t o = hwloc_get_obj_by_type(t, HWLOC_OBJ_NUMANODE, i);
		uint64_t bytes = o->attr->numanode.local_memory;
		hwloc_obj_t package =
			hwloc_get_ancestor_obj_by_type(t, HWLOC_OBJ_PACKAGE, o->parent);

		if (o->parent->type == HWLOC_OBJ_PACKAGE)
			package = o->parent;
		m->node[i] = (struct machine_node){
			.os_index = o->os_index,
			.package = package ? package->logical_index : MACHINE_NONE,
			.memory_bytes = bytes,
			.free_bytes = bytes,
			.usable = hwloc_bitmap_isset(allowed, o->os_index),
			.weight = live ? linux_meminfo_weight(o->os_index) : 0,
		};
		fill_huge_pages(&o->attr->numanode, &m->node[i]);
	}
	if (live)
		host_linux_refresh_memory(m);
}

/* Network and disk controllers that are near one node. */
static void fill_ios(hwloc_topology_t t, struct machine_model *m)
{
	for (hwloc_obj_t o = hwloc_get_next_osdev(t, NULL); o && m->nr_ios < MACHINE_IOS_MAX;
	     o = hwloc_get_next_osdev(t, o)) {
		hwloc_obj_osdev_type_t type = o->attr->osdev.type;
		hwloc_obj_t near = hwloc_get_non_io_ancestor_obj(t, o), node;

		if ((type != HWLOC_OBJ_OSDEV_NETWORK && type != HWLOC_OBJ_OSDEV_BLOCK) || !near ||
		    hwloc_bitmap_weight(near->nodeset) != 1)
			continue;
		node = hwloc_get_numanode_obj_by_os_index(t, (unsigned)hwloc_bitmap_first(
								     near->nodeset));
		if (!node)
			continue;
		m->io[m->nr_ios] = (struct machine_io){
			.kind = type == HWLOC_OBJ_OSDEV_NETWORK ? MACHINE_IO_NETWORK
								: MACHINE_IO_DISK,
			.node = node->logical_index,
		};
		snprintf(m->io[m->nr_ios].name, sizeof(m->io[0].name), "%s",
			 o->name ? o->name : "?");
		m->nr_ios++;
	}
}

static bool is_latency_matrix(const struct hwloc_distances_s *d, const struct machine_model *m)
{
	if (d->nbobjs != m->nr_nodes || !(d->kind & HWLOC_DISTANCES_KIND_MEANS_LATENCY))
		return false;
	for (unsigned i = 0; i < d->nbobjs; i++)
		if (!d->objs[i] || d->objs[i]->logical_index >= m->nr_nodes)
			return false;
	return true;
}

static void fill_distances(hwloc_topology_t t, struct machine_model *m)
{
	struct hwloc_distances_s *d;
	unsigned nr = 1;

	if (hwloc_distances_get_by_type(t, HWLOC_OBJ_NUMANODE, &nr, &d,
					HWLOC_DISTANCES_KIND_MEANS_LATENCY, 0) ||
	    !nr)
		return;
	if (is_latency_matrix(d, m)) {
		for (unsigned i = 0; i < d->nbobjs; i++) {
			for (unsigned j = 0; j < d->nbobjs; j++) {
				size_t at = (size_t)d->objs[i]->logical_index * m->nr_nodes +
					    d->objs[j]->logical_index;

				m->distance[at] = (unsigned)d->values[i * d->nbobjs + j];
			}
		}
		m->has_distances = true;
	}
	hwloc_distances_release(t, d);
}

static unsigned count_at_least_one(hwloc_topology_t t, hwloc_obj_type_t type)
{
	int n = hwloc_get_nbobjs_by_type(t, type);

	return n > 0 ? (unsigned)n : 1;
}

static void fill_name(hwloc_topology_t t, struct machine_model *m)
{
	hwloc_obj_t package = hwloc_get_obj_by_type(t, HWLOC_OBJ_PACKAGE, 0);
	const char *name = package ? hwloc_obj_get_info_by_name(package, "CPUModel") : NULL;

	snprintf(m->name, sizeof(m->name), "%s", name ? name : "unnamed machine");
}

static int model_from(hwloc_topology_t t, struct machine_model *m, const struct pu_set *allowed,
		      bool live)
{
	hwloc_obj_t first;
	int err = machine_alloc(m, (unsigned)hwloc_get_nbobjs_by_type(t, HWLOC_OBJ_PU),
				(unsigned)hwloc_get_nbobjs_by_type(t, HWLOC_OBJ_NUMANODE));

	if (err)
		return err;
	m->nr_packages = count_at_least_one(t, HWLOC_OBJ_PACKAGE);
	m->nr_dies = hwloc_get_nbobjs_by_type(t, HWLOC_OBJ_DIE) > 0
			     ? count_at_least_one(t, HWLOC_OBJ_DIE)
			     : m->nr_packages;
	fill_name(t, m);
	fill_pus(t, m, allowed);
	fill_nodes(t, m, live);
	fill_distances(t, m);
	if (m->nr_nodes > 1)
		fill_ios(t, m);

	first = hwloc_get_obj_by_type(t, HWLOC_OBJ_PU, 0);
	m->l1d_bytes = cache_bytes(cache_of_level(first, HWLOC_OBJ_L1CACHE));
	m->l1i_bytes = cache_bytes(cache_of_level(first, HWLOC_OBJ_L1ICACHE));
	m->l2_bytes = cache_bytes(cache_of_level(first, HWLOC_OBJ_L2CACHE));
	m->llc_bytes = cache_bytes(outermost_cache(first));
	return 0;
}

/* Keep what the model needs (devices take time to look for); disallowed PUs are shown, not hidden.
 */
static int topology_prepare(hwloc_topology_t *t, bool with_io)
{
	if (hwloc_topology_init(t))
		return -ENOMEM;
	hwloc_topology_set_flags(*t, HWLOC_TOPOLOGY_FLAG_INCLUDE_DISALLOWED);
	hwloc_topology_set_io_types_filter(*t, with_io ? HWLOC_TYPE_FILTER_KEEP_IMPORTANT
						       : HWLOC_TYPE_FILTER_KEEP_NONE);
	hwloc_topology_set_type_filter(*t, HWLOC_OBJ_MISC, HWLOC_TYPE_FILTER_KEEP_NONE);
	hwloc_topology_set_type_filter(*t, HWLOC_OBJ_L1ICACHE, HWLOC_TYPE_FILTER_KEEP_ALL);
	return 0;
}

int linux_topology_discover(void *ctx, struct machine_model *out)
{
	struct linux_host *h = ctx;
	hwloc_topology_t t;
	int err = topology_prepare(&t, h->many_nodes);

	if (err)
		return err;
	err = hwloc_topology_load(t) ? -EIO : model_from(t, out, &h->allowed, true);
	hwloc_topology_destroy(t);
	return err;
}

static bool is_xml(const char *source)
{
	size_t n = strlen(source);

	return n > 4 && !strcmp(source + n - 4, ".xml");
}

int host_linux_topology_from(const char *source, struct machine_model *out, char *why,
			     size_t why_bytes)
{
	bool xml = is_xml(source);
	hwloc_topology_t t;
	int err = topology_prepare(&t, true);

	if (err)
		return err;
	if (xml ? hwloc_topology_set_xml(t, source) : hwloc_topology_set_synthetic(t, source))
		err = -EINVAL;
	else if (hwloc_topology_load(t))
		err = -EINVAL;
	else
		err = model_from(t, out, NULL, false);
	if (err)
		snprintf(why, why_bytes,
			 xml ? "topology %s: not an hwloc XML file that can be read"
			     : "topology \"%s\": not an hwloc synthetic description",
			 source);
	hwloc_topology_destroy(t);
	return err;
}
