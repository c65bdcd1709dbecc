/* snap.c - the byte stream under snap.h. */
#include "core/snap.h"

#include <errno.h>

void snap_bytes(struct snap *s, void *p, size_t bytes)
{
	if (s->err)
		return;
	if (bytes > s->capacity - s->pos) {
		s->err = s->loading ? -EINVAL : -ENOSPC;
		return;
	}
	if (s->loading)
		memcpy(p, s->buf + s->pos, bytes);
	else
		memcpy(s->buf + s->pos, p, bytes);
	s->pos += bytes;
}
