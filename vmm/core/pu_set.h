/*
 * pu_set.h - a set of small integers: host PUs or host nodes, by OS index.
 *
 * Leaf header. A value type: copied and compared by value, no allocation.
 */
#ifndef VMM_CORE_PU_SET_H
#define VMM_CORE_PU_SET_H

#include "core/util.h"

#define PU_SET_MAX 4096 /* members lie in 0 .. PU_SET_MAX - 1 */

struct pu_set {
	uint64_t word[PU_SET_MAX / 64];
};

static inline void pu_set_clear(struct pu_set *s)
{
	memset(s, 0, sizeof(*s));
}

static inline void pu_set_add(struct pu_set *s, unsigned n)
{
	if (n < PU_SET_MAX)
		s->word[n / 64] |= BIT64(n % 64);
}

static inline void pu_set_del(struct pu_set *s, unsigned n)
{
	if (n < PU_SET_MAX)
		s->word[n / 64] &= ~BIT64(n % 64);
}

static inline bool pu_set_has(const struct pu_set *s, unsigned n)
{
	return n < PU_SET_MAX && (s->word[n / 64] & BIT64(n % 64));
}

static inline unsigned pu_set_count(const struct pu_set *s)
{
	unsigned n = 0;

	for (size_t i = 0; i < ARRAY_SIZE(s->word); i++)
		n += (unsigned)__builtin_popcountll(s->word[i]);
	return n;
}

/* The first member at or above @from, or PU_SET_MAX. */
static inline unsigned pu_set_next(const struct pu_set *s, unsigned from)
{
	while (from < PU_SET_MAX) {
		uint64_t w = s->word[from / 64] >> (from % 64);

		if (w)
			return from + (unsigned)__builtin_ctzll(w);
		from = (from / 64 + 1) * 64;
	}
	return PU_SET_MAX;
}

#define pu_set_for_each(n, s)                                                                      \
	for (unsigned n = pu_set_next(s, 0); n < PU_SET_MAX; n = pu_set_next(s, n + 1))

#endif
