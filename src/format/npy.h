/* SPDX-License-Identifier: MIT */
/*
 * The header of a .npy file (NumPy's format description, numpy/lib/format.py): magic, version,
 * length, a Python dict literal, padded with spaces and ended by a newline so that the data begins
 * at a multiple of 64. What is written, in version 1.0 or 2.0, is byte for byte what np.save writes
 * (checked with NumPy 2.4), which also keeps room for the first dimension to grow in place to 21
 * digits.
 */
#ifndef STFS_FORMAT_NPY_H
#define STFS_FORMAT_NPY_H

#include <stdbool.h>

#include "base/buf.h"
#include "format/dtype.h"
#include "format/shape.h"

/*
 * Appends the header of a C-order array to `out`. 0, -ENOENT for a type without NumPy form (the
 * sub-byte types), -EOVERFLOW for a shape whose text does not fit 2^32 - 1 bytes, or -ENOMEM.
 */
int stfs_npy_header(enum stfs_dtype dtype, const uint64_t *dims, size_t rank, struct stfs_buf *out);

/* ---- Reading (npy_read.c) ---- */

/* A longer dict is refused. NumPy itself opens up to 10,000 bytes of it. */
#define STFS_NPY_HEADER_MAX (1u << 20)

struct stfs_npy {
	size_t header_len; /* bytes before the data */
	enum stfs_dtype dtype;
	struct stfs_shape shape; /* owned */
	uint64_t data_len;       /* bytes that dtype and shape want */
	bool fortran_order;      /* the first index moves fastest: see stfs_npy_to_c() */
};

/*
 * Reads the header, version 1.0, 2.0 or 3.0, at the start of the `len` bytes of a .npy file. The
 * type is the one that the descr names. A descr that names none, "V2" or "V1" (np.save writes so
 * what NumPy lacks), keeps the tensor's `declared` type (may be NULL) if that has elements of the
 * same size; else V2 is BF16 (as ml_dtypes' bfloat16 is saved) and V1, which may be one of five, is
 * refused. "f1" is F8_E5M2, for ml_dtypes saves nothing else so. Byte orders '<', '=' and '|' are
 * the same; '>' is refused where elements have more than one byte.
 *
 * 0, with `npy` to be freed; -EAGAIN when the header does not end within `len` bytes:
 * npy->header_len then says how many are needed to go on, for the whole header or to know its
 * length; -EBADMSG when it is no .npy header; -EINVAL when no tensor can hold such an array; both
 * with `err` filled; -ENOMEM.
 */
int stfs_npy_read_header(const void *bytes, size_t len, const enum stfs_dtype *declared,
			 struct stfs_npy *npy, struct stfs_err *err);

static inline void stfs_npy_free(struct stfs_npy *npy)
{
	stfs_shape_free(&npy->shape);
}

/*
 * Puts a part of an array in Fortran order into C order: the `count` elements of `item` bytes that
 * come from number `first` on in C order, from `in`, where the whole array stands, to `out`. The
 * parts of an array can be made one after another with little memory, from a mapped file.
 */
void stfs_npy_to_c(const struct stfs_shape *shape, size_t item, const void *in, uint64_t first,
		   uint64_t count, void *out);

#endif
