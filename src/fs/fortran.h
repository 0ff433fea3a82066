/* SPDX-License-Identifier: MIT */
#ifndef STFS_FS_FORTRAN_H
#define STFS_FS_FORTRAN_H

#include "format/npy.h"
#include "fs/fs.h"

/*
 * The array behind the .npy header of *node, a hidden file, in Fortran order: *node is then another hidden
 * file, of the same bytes in C order and without a header, and the old one is closed. Memory: a
 * few MiB. 0; -EINVAL for one larger than can be mapped; another -errno and *node as it was.
 */
int stfs_fortran_to_c(struct stfs_fs *fs, const struct stfs_npy *npy, uint32_t *node, struct stfs_err *err);

#endif
