/* SPDX-License-Identifier: MIT */
/* What somebody may have meant: the names nearest to one that does not exist. */
#ifndef STFS_OPS_NEAR_H
#define STFS_OPS_NEAR_H

#include "store/model.h"

/* Edits (insert, delete, replace a byte) from one to the other; long strings are cut. */
unsigned stfs_near_distance(struct stfs_str a, struct stfs_str b);

#define STFS_NEAR_MAX 3
/*
 * Ids of up to STFS_NEAR_MAX tensors whose names are like `name` or hold it, the nearest first.
 * Returns how many.
 */
size_t stfs_near_tensors(const struct stfs_model *model, struct stfs_str name,
			 uint32_t ids[STFS_NEAR_MAX]);

#endif
