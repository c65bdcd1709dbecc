/*
 * pu_list.h - sets of PUs as the kernel writes them: "0-3,8,12-15".
 *
 * Leaf header, pure.
 */
#ifndef HOST_LINUX_PU_LIST_H
#define HOST_LINUX_PU_LIST_H

#include "core/pu_set.h"

/* An empty text is the empty set. False: not a list, or beyond PU_SET_MAX. */
bool pu_list_parse(const char *text, struct pu_set *out);

/* "none" if empty; cut with "..." if it does not fit. Returns @buf, for use in a printf(). */
const char *pu_list_text(const struct pu_set *s, char *buf, size_t bytes);

#endif
