/* SPDX-License-Identifier: MIT */
#ifndef STFS_OPS_SLURP_H
#define STFS_OPS_SLURP_H

#include "base/buf.h"
#include "base/err.h"

/*
 * Appends all of a small file ("-": standard input) to `out`. 0; -EFBIG when it holds more than
 * `max` bytes; -errno. `err` begins with the path.
 */
int stfs_slurp(const char *path, size_t max, struct stfs_buf *out, struct stfs_err *err);

#endif
