/* SPDX-License-Identifier: MIT */
#ifndef STFS_OPS_TRANSPOSE_H
#define STFS_OPS_TRANSPOSE_H

#include "format/npy.h"
#include "store/edit.h"

/*
 * Spools an array that stands at *source in Fortran order, in C order; *source is then the spooled
 * one. 0; -EINVAL for one larger than can be mapped; another -errno; `err` without a name before
 * it.
 */
int stfs_transpose(struct stfs_edit *edit, const struct stfs_npy *npy, struct stfs_source *source,
		   struct stfs_err *err);

#endif
