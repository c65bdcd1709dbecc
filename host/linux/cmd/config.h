/*
 * config.h - configuration files: YAML, one mapping, the keys are the names of the
 * options. Unknown keys and repeated ones are errors that name file and line.
 */
#ifndef HOST_LINUX_CMD_CONFIG_H
#define HOST_LINUX_CMD_CONFIG_H

#include "options.h"

/* Adds every key to @s, below the flags that are there. 0 or an exit status. */
int config_read(const char *path, struct option_set *s);

#endif
