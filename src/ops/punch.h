/* SPDX-License-Identifier: MIT */
/* Blocks of zeros inside tensors, given back to the file system: what is read stays the same. */
#ifndef STFS_OPS_PUNCH_H
#define STFS_OPS_PUNCH_H

#include "store/edit.h"

/*
 * Finds the whole blocks that hold nothing but zeros, in the tensors of a model that has nothing
 * staged, and (unless `look_only`) deallocates them. The edit keeps the files locked meanwhile.
 * *bytes is what was, or would be, deallocated; holes that are there already do not count. 0;
 * -EOPNOTSUPP when the file system has no holes; -errno, with `err` filled.
 */
int stfs_punch_zeros(struct stfs_edit *edit, bool look_only, const struct stfs_progress *progress,
		     uint64_t *bytes, struct stfs_err *err);

#endif
