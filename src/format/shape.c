/* SPDX-License-Identifier: MIT */
#include "format/shape.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/arith.h"

int stfs_shape_add(struct stfs_shape *shape, uint64_t dimension)
{
	uint64_t elements, *dims;
	size_t cap;

	if (stfs_mul_overflows(shape->elements, dimension, &elements))
		return -EOVERFLOW;
	if (shape->rank == shape->cap) {
		cap = shape->cap < 8 ? 8 : shape->cap + shape->cap / 2;
		dims = reallocarray(shape->dims, cap, sizeof(*dims));
		if (!dims)
			return -ENOMEM;
		shape->dims = dims;
		shape->cap = cap;
	}
	shape->dims[shape->rank++] = dimension;
	shape->elements = elements;
	return 0;
}

void stfs_shape_free(struct stfs_shape *shape)
{
	free(shape->dims);
	*shape = (struct stfs_shape)STFS_SHAPE_INIT;
}

/* ---- What a person wrote ---- */

static const char *skip_space(const char *p)
{
	while (*p == ' ' || *p == '\t')
		p++;
	return p;
}

static int fail(const char *text, const char *at, struct stfs_err *err, const char *what)
{
	char quoted[STFS_QUOTED_MAX];

	return stfs_err_set(err, -EINVAL, (uint64_t)(at - text), "shape \"%s\": character %zu: %s",
			    stfs_quote(stfs_str_from(text), quoted), (size_t)(at - text) + 1, what);
}

/* A number at *p, which is moved behind it. */
static int parse_dimension(const char *text, const char **p, struct stfs_shape *shape,
			   struct stfs_err *err)
{
	const char *start = *p;
	uint64_t value = 0;
	int r;

	for (; **p >= '0' && **p <= '9'; (*p)++)
		if (stfs_mul_overflows(value, 10, &value) ||
		    stfs_add_overflows(value, (uint64_t)(**p - '0'), &value))
			return fail(text, start, err, "a dimension is at most 2^64 - 1");
	if (*p == start)
		return fail(text, start, err, "expected a whole number; write it like 2,3");
	r = stfs_shape_add(shape, value);
	if (r == -EOVERFLOW)
		return fail(text, start, err, "more than 2^64 - 1 elements");
	return r;
}

static int parse(const char *text, struct stfs_shape *shape, struct stfs_err *err)
{
	const char *p = skip_space(text);
	char close = *p == '[' ? ']' : *p == '(' ? ')' : '\0';
	int r;

	if (close)
		p = skip_space(p + 1);
	while (*p != close) {
		r = parse_dimension(text, &p, shape, err);
		if (r < 0)
			return r;
		p = skip_space(p);
		if (*p == ',')
			p = skip_space(p + 1);
		else if (*p != close)
			return fail(text, p, err, close == ']' ? "expected ',' or ']'" :
				    close == ')' ? "expected ',' or ')'" : "expected ','");
	}
	if (close)
		p = skip_space(p + 1);
	return *p ? fail(text, p, err, "expected nothing more") : 0;
}

int stfs_shape_parse(const char *text, struct stfs_shape *shape, struct stfs_err *err)
{
	int r;

	*shape = (struct stfs_shape)STFS_SHAPE_INIT;
	r = parse(text, shape, err);
	if (r < 0)
		stfs_shape_free(shape);
	return r;
}
