/* SPDX-License-Identifier: MIT */
/*
 * The header of a .npy file (NumPy's format description, numpy/lib/format.py, versions 1.0 and
 * 2.0): magic, version, length, a Python dict literal, padded with spaces and ended by a newline
 * so that the data begins at a multiple of 64. Byte for byte what np.save writes (checked with
 * NumPy 2.4), which also keeps room for the first dimension to grow in place to 21 digits.
 */
#ifndef STFS_FORMAT_NPY_H
#define STFS_FORMAT_NPY_H

#include "base/buf.h"
#include "format/dtype.h"

/*
 * Appends the header of a C-order array to `out`. 0, -ENOENT for a type without NumPy form (the
 * sub-byte types), -EOVERFLOW for a shape whose text does not fit 2^32 - 1 bytes, or -ENOMEM.
 */
int stfs_npy_header(enum stfs_dtype dtype, const uint64_t *dims, size_t rank, struct stfs_buf *out);

#endif
