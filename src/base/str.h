/* SPDX-License-Identifier: MIT */
/*
 * A borrowed run of bytes. Tensor names may hold any character, NUL among them, so names travel
 * with their length and are never assumed to be terminated.
 */
#ifndef STFS_BASE_STR_H
#define STFS_BASE_STR_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

struct stfs_str {
	const char *ptr; /* not owned; may be NULL when len is 0 */
	size_t len;
};

static inline struct stfs_str stfs_str_from(const char *terminated)
{
	return (struct stfs_str){terminated, strlen(terminated)};
}

static inline struct stfs_str stfs_str_slice(const char *ptr, size_t len)
{
	return (struct stfs_str){ptr, len};
}

static inline bool stfs_str_equal(struct stfs_str a, struct stfs_str b)
{
	return a.len == b.len && (a.len == 0 || memcmp(a.ptr, b.ptr, a.len) == 0);
}

static inline bool stfs_str_is(struct stfs_str a, const char *terminated)
{
	return stfs_str_equal(a, stfs_str_from(terminated));
}

static inline bool stfs_str_starts_with(struct stfs_str a, const char *prefix)
{
	size_t len = strlen(prefix);

	return a.len >= len && memcmp(a.ptr, prefix, len) == 0;
}

static inline bool stfs_str_ends_with(struct stfs_str a, const char *suffix)
{
	size_t len = strlen(suffix);

	return a.len >= len && memcmp(a.ptr + a.len - len, suffix, len) == 0;
}

/* Whether it is zeros and nothing else; not when it is empty. */
static inline bool stfs_str_is_zeros(struct stfs_str bytes)
{
	/* Most blocks of weights say so by their first bytes. */
	return bytes.len > 0 && bytes.ptr[0] == 0 && memcmp(bytes.ptr, bytes.ptr + 1, bytes.len - 1) == 0;
}

/* Byte order, a prefix first: the order of strcmp() for strings that may hold NUL. */
static inline int stfs_str_compare(struct stfs_str a, struct stfs_str b)
{
	size_t common = a.len < b.len ? a.len : b.len;
	int order = common ? memcmp(a.ptr, b.ptr, common) : 0;

	return order ? order : (a.len > b.len) - (a.len < b.len);
}

#endif
