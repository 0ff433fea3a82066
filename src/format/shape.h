/* SPDX-License-Identifier: MIT */
/* A tensor's dimensions, collected one by one by those who read them from text. */
#ifndef STFS_FORMAT_SHAPE_H
#define STFS_FORMAT_SHAPE_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct stfs_shape {
	uint64_t *dims; /* owned; NULL while rank is 0 */
	size_t rank;
	size_t cap;
	uint64_t elements; /* their product */
};

#define STFS_SHAPE_INIT {.elements = 1}
#define STFS_AUTO_SHAPE __attribute__((cleanup(stfs_shape_free)))

/*
 * Adds a dimension behind the others. 0; -EOVERFLOW when the product, from the left as the official
 * loader multiplies (a 0 further on does not help), passes 2^64 - 1; -ENOMEM. On failure the shape
 * is as it was.
 */
int stfs_shape_add(struct stfs_shape *shape, uint64_t dimension);

/* Releases the memory; the shape is then that of a scalar. */
void stfs_shape_free(struct stfs_shape *shape);

/*
 * The shape that a person wrote: "2,3", "[2, 3]" or "(2, 3,)"; "", "[]" or "()" is a scalar's. Sets
 * *shape, which the caller frees. 0, -EINVAL with `err` saying what is wrong and where, or -ENOMEM.
 */
int stfs_shape_parse(const char *text, struct stfs_shape *shape, struct stfs_err *err);

#endif
