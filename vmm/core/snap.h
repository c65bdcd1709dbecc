/*
 * snap.h - one function serves saving and loading a device's state.
 *
 * When loading, every value is untrusted: a device checks what it read. After an
 * error every further call is a no-op and values stay as they were.
 */
#ifndef VMM_CORE_SNAP_H
#define VMM_CORE_SNAP_H

#include "core/util.h"

struct snap {
	uint8_t *buf;
	size_t capacity;
	size_t pos;
	bool loading;
	int err; /* -ENOSPC when saving, -EINVAL when loading past the end */
};

void snap_bytes(struct snap *s, void *p, size_t bytes);

static inline bool snap_loading(const struct snap *s)
{
	return s->loading;
}

static inline int snap_error(const struct snap *s)
{
	return s->err;
}

static inline void snap_u8(struct snap *s, uint8_t *v)
{
	snap_bytes(s, v, sizeof(*v));
}

static inline void snap_u16(struct snap *s, uint16_t *v)
{
	snap_bytes(s, v, sizeof(*v));
}

static inline void snap_u32(struct snap *s, uint32_t *v)
{
	snap_bytes(s, v, sizeof(*v));
}

static inline void snap_u64(struct snap *s, uint64_t *v)
{
	snap_bytes(s, v, sizeof(*v));
}

static inline void snap_bool(struct snap *s, bool *v)
{
	uint8_t b = *v;

	snap_bytes(s, &b, 1);
	*v = b != 0;
}

#endif
