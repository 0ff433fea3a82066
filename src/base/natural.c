/* SPDX-License-Identifier: MIT */
#include "base/natural.h"

static inline bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* The run of digits at s[*i], without leading zeros; *i moves behind it. */
static struct stfs_str number_at(struct stfs_str s, size_t *i)
{
	size_t start;

	while (*i < s.len && s.ptr[*i] == '0')
		(*i)++;
	start = *i;
	while (*i < s.len && is_digit(s.ptr[*i]))
		(*i)++;
	return stfs_str_slice(s.ptr + start, *i - start);
}

int stfs_natural_compare(struct stfs_str a, struct stfs_str b)
{
	size_t i = 0, j = 0;

	while (i < a.len && j < b.len) {
		if (is_digit(a.ptr[i]) && is_digit(b.ptr[j])) {
			struct stfs_str x = number_at(a, &i), y = number_at(b, &j);
			int order = x.len != y.len ? (x.len < y.len ? -1 : 1) : stfs_str_compare(x, y);

			if (order)
				return order;
		} else if (a.ptr[i] != b.ptr[j]) {
			return (unsigned char)a.ptr[i] < (unsigned char)b.ptr[j] ? -1 : 1;
		} else {
			i++;
			j++;
		}
	}
	if (i < a.len || j < b.len)
		return i < a.len ? 1 : -1;
	return stfs_str_compare(a, b);
}
