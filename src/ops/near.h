/* SPDX-License-Identifier: MIT */
/* What somebody may have meant: the names nearest to one that does not exist. */
#ifndef STFS_OPS_NEAR_H
#define STFS_OPS_NEAR_H

#include "store/model.h"

/* Edits (insert, delete, replace a byte) from one to the other; long strings are cut. */
unsigned stfs_near_distance(struct stfs_str a, struct stfs_str b);

#define STFS_NEAR_MAX 3

/* The names most like `wanted`, among those that are offered one by one. */
struct stfs_near {
	struct stfs_str wanted;
	size_t count;
	uint32_t numbers[STFS_NEAR_MAX]; /* what the offers said, the nearest first */
	unsigned ranks[STFS_NEAR_MAX];
};
void stfs_near_offer(struct stfs_near *near, struct stfs_str name, uint32_t number);

/*
 * Ids of up to STFS_NEAR_MAX tensors whose names are like `name` or hold it, the nearest first.
 * Returns how many.
 */
size_t stfs_near_tensors(const struct stfs_model *model, struct stfs_str name,
			 uint32_t ids[STFS_NEAR_MAX]);

#endif
