/* SPDX-License-Identifier: MIT */
#ifndef STFS_FS_FORTRAN_H
#define STFS_FS_FORTRAN_H

#include "format/npy.h"
#include "fs/fs.h"

/*
 * The array in Fortran order that stands behind a .npy header in the file `from`: *to is a new hidden file, open and
 * being written, of the same bytes in C order and without a header. As long as a copy takes, so no lock may be held.
 * Memory: 8 MiB. 0 or -errno.
 */
int stfs_fortran_to_c(struct stfs_fs *fs, const struct stfs_npy *npy, uint32_t from, uint32_t *to, struct stfs_err *err);

#endif
