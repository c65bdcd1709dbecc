/* stats.c - the names of what a vCPU counts. */
#include "core/stats.h"

static const struct {
	const char *name, *help;
} stat_text[STAT_COUNT] = {
#define X(id, name, help) { name, help },
	VCPU_STATS(X)
#undef X
};

const char *stat_name(enum vcpu_stat id)
{
	return stat_text[id].name;
}

const char *stat_help(enum vcpu_stat id)
{
	return stat_text[id].help;
}
